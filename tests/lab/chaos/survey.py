"""Looks at a whole lab: what every plane of every server and every router knows of pods, and who reaches whom."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import Any

from containerlab.driver import CniError
from containerlab.ping import ping
from containerlab.probe import Flow
from routed.domain.workload import IPAddress
from routed.settings import Settings
from tests.lab.chaos.events import Site
from tests.lab.chaos.invariants import Entry, Finding, Invariant, Live, Plane, Survey, Table
from tests.lab.chaos.server_look import ServerLook
from tests.servers import Server, each


class Surveyor:
    """Looks at one lab, all of whose servers have agents."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers
        self._lab = next(iter(servers.values())).lab
        self._racks: list[Settings] = list({server.rack.rack: server.rack for server in servers.values()}.values())
        self._rack_of = {tor.name: rack for rack in self._racks for tor in rack.tors}
        self._server_of = {
            str(address): name
            for rack in self._racks
            for name, server in rack.servers.items()
            for address in server.addresses
        }
        self._spines = tuple(name for name, node in self._lab.nodes.items() if node.spec["group"] == "spine")

    @property
    def site(self) -> Site:
        """The names that events can be about."""
        return Site({name: server.tors for name, server in self._servers.items()}, self._spines)

    def look(self, *, agents: bool = True) -> Survey:
        """Look at everything once, but for what agents say when they are not running.

        Raises what a node or an agent that does not answer makes of it.
        """
        live = tuple(
            Live(pod.id, server.name, tuple(map(str, pod.place.addresses)), int(pod.port.removeprefix("rt")))
            for server in self._servers.values()
            for pod in server.pods.values()
        )
        with ThreadPoolExecutor(6) as pool:
            routers = pool.map(self._router, [*self._rack_of, *self._spines])
            servers = list(pool.map(lambda server: ServerLook(server, agents=agents), self._servers.values()))
            tables, aggregates = zip(*routers, strict=True)
        return Survey(
            live,
            tables=tuple(itertools.chain(*(look.tables for look in servers), *tables)),
            things=tuple(thing for look in servers for thing in look.things),
            stocks=tuple(look.stock for look in servers),
            pools=self._inhabitants(live),
            aggregates=dict(aggregates),
            host_flows={look.server.name: look.host_flows for look in servers},
            errors={look.server.name: look.errors for look in servers},
        )

    def unreachable(self) -> list[Finding]:
        """Ping every pod from every other pod and every server, over both families; who is silent is asked again.

        Thousands of packets pass software switches of a busy machine at once: one that is lost says nothing.
        """
        pods = [pod.place for server in self._servers.values() for pod in server.pods.values()]
        places = [*pods, *(server.place for server in self._servers.values())]
        flows = [Flow(one, pod, version) for pod in pods for one in places if one is not pod for version in (4, 6)]
        silent = ping(flows)
        return [
            Finding(
                Invariant.REACHABLE,
                str(flow.target.address(flow.version)),
                "ping",
                flow.target.name,
                f"silent to {flow.source.name}",
            )
            for flow in (ping(silent) if silent else ())
        ]

    def unconfirmed(self) -> list[Finding]:
        """Call CHECK for every pod."""

        def check(server: Server, container: str) -> list[Finding]:
            pod = server.pods[container]
            try:
                server.check(pod)
            except CniError as error:
                return [Finding(Invariant.CONFIRMED, container, "CHECK", server.name, str(error))]
            return []

        calls = [(server, container) for server in self._servers.values() for container in server.pods]
        return [finding for found in each(lambda call: check(*call), calls) for finding in found]

    def _inhabitants(self, live: Sequence[Live]) -> dict[str, frozenset[str]]:
        return {
            str(pool.prefix): frozenset(
                pod.server for pod in live for address in pod.addresses if ip_address(address) in pool.prefix
            )
            for rack in self._racks
            for pool in rack.pools
        }

    # ---- routers

    def _router(self, name: str) -> tuple[list[Table], tuple[str, frozenset[str]]]:
        """Look at a router; returns also which pools it has routes to."""
        rack = self._rack_of.get(name)
        inside = frozenset(rack.servers if rack else ()) & self._servers.keys()
        commands = [f"show bgp {family} unicast json" for family in ("ipv4", "ipv6")]
        asked = [(server, str(rack.servers[server].addresses[0])) for server in inside] if rack else []
        for _, address in asked:
            commands += [
                f"show bgp {family} unicast neighbors {address} received-routes json" for family in ("ipv4", "ipv6")
            ]
        answers = list(_documents(self._lab.vtysh(name, *commands)))
        kernel = self._lab.kernel_routes(name)
        routes = [item for answer in answers[:2] for item in answer["routes"].items()]
        tables = [
            Table(Plane.RIB, name, inside, tuple(self._paths(routes))),
            Table(Plane.FIB, name, inside, tuple(self._hops(kernel))),
        ]
        for number, (server, _) in enumerate(asked):
            received = [
                prefix
                for answer in answers[2 + 2 * number : 4 + 2 * number]
                for prefix in answer.get("receivedRoutes", {})
            ]
            entries = tuple(Entry(address, server) for address in self._hosts(received))
            tables.append(Table(Plane.RECEIVED, name, frozenset({server}), entries))
        pools = {str(pool.prefix) for one in self._racks for pool in one.pools}
        return tables, (name, frozenset(pools & kernel.keys()))

    def _paths(self, routes: Iterable[tuple[str, list[dict[str, Any]]]]) -> Iterator[Entry]:
        for prefix, paths in routes:
            for address in self._hosts([prefix]):
                for path in paths:
                    peer = str(path["peerId"])
                    stale = " (stale)" if path.get("stale") else ""
                    useless = "" if path.get("valid") else " (invalid)"
                    yield Entry(address, f"{self._server_of.get(peer, peer)}{stale}{useless}")

    def _hops(self, kernel: Mapping[str, dict[str, Any]]) -> Iterator[Entry]:
        for prefix, route in kernel.items():
            for address in self._hosts([prefix]):
                for hop in route.get("nexthops", [route]):
                    gateway = str(hop.get("gateway") or route.get("type"))
                    yield Entry(address, self._server_of.get(gateway, gateway))

    def _hosts(self, prefixes: Iterable[str]) -> Iterator[str]:
        """Return the addresses of the pools' host routes; a pool's gateway is the ToR's own."""
        for prefix in prefixes:
            network = ip_network(prefix)
            if network.prefixlen == network.max_prefixlen and self._is_pods(network.network_address):
                yield str(network.network_address)

    def _is_pods(self, address: IPAddress) -> bool:
        return any(address in pool.prefix and address != pool.gateway for rack in self._racks for pool in rack.pools)


def _documents(text: str) -> Iterator[Any]:
    """Return the JSON documents that stand one after the other."""
    decode = json.JSONDecoder().raw_decode
    at = 0
    while at < len(text.rstrip()):
        document, at = decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        yield document
