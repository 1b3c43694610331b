"""Looks at a whole lab: what every plane of every server and every router knows of pods. Judges nothing."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from containerlab.agents import LOG
from containerlab.driver import CniError
from containerlab.ping import ping
from containerlab.probe import Flow
from ovs_flows.cookies import BASE_OBJECT, cookie
from routed.attach import mark
from routed.domain.workload import IPAddress
from routed.settings import Settings
from tests.lab.chaos.events import Site
from tests.lab.chaos.faults import SLOTS
from tests.lab.chaos.invariants import Entry, Finding, Invariant, Live, Plane, Stock, Survey, Table, Thing
from tests.servers import QUEUE, Server, each

LEDGER = Path("/var/lib/routed")
COOKIE = re.compile(r"cookie=(0x[0-9a-f]+)")
DELIVERY = re.compile(
    r"table=40,.*(?:nw_dst|ipv6_dst)=(?P<address>[^ ,/]+) actions=(?!goto|drop).*output:(?P<port>\d+)"
)
"""The flow that brings a pod its packets."""
WIRE = re.compile(r"rt(\d+)")
INNER = re.compile(r"rp(\d+)")


@dataclass(frozen=True, slots=True)
class Row:
    """An attachment in the ledger's file."""

    container: str
    slot: int
    addresses: tuple[str, ...]


class Surveyor:
    """Looks at one lab, all of whose servers have agents."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers
        self._lab = next(iter(servers.values())).lab
        self._racks: list[Settings] = list({server.rack.rack: server.rack for server in servers.values()}.values())
        self._rack_of = {tor.name: rack for rack in self._racks for tor in rack.tors}
        self._tors = {server: tuple(tor.name for tor in rack.tors) for rack in self._racks for server in rack.servers}
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
        return Site({name: self._tors[name] for name in self._servers}, self._spines)

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
            servers = list(pool.map(lambda server: _Look(server, agents), self._servers.values()))
            tables, aggregates = zip(*routers, strict=True)
        return Survey(
            live,
            tables=tuple(table for look in servers for table in look.tables)
            + tuple(t for found in tables for t in found),
            things=tuple(thing for look in servers for thing in look.things),
            stocks=tuple(look.stock for look in servers),
            pools=self._inhabitants(live),
            aggregates=dict(aggregates),
            host_flows={look.server.name: look.host_flows for look in servers},
            errors={look.server.name: tuple(_errors(look.server)) for look in servers},
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


class _Look:
    """What one look at a server found."""

    def __init__(self, server: Server, agents: bool) -> None:
        self.server = server
        self.things: list[Thing] = []
        self.tables: list[Table] = []
        self._rows = list(_ledger(server))
        self._container = {row.slot: row.container for row in self._rows}
        self._table(Plane.LEDGER, ((address, row.container) for row in self._rows for address in row.addresses))
        if agents:
            self._agent()
            self._routes()
        self._flows()
        self._pods()
        self._slots()
        for path in server.node.path(QUEUE).glob("[!.]*"):
            self._thing("queued DELs", path.name, "")

    def _table(self, plane: Plane, entries: Iterable[tuple[str, str]], where: str | None = None) -> None:
        name = self.server.name
        self.tables.append(
            Table(plane, where or name, frozenset({name}), tuple(Entry(address, holder) for address, holder in entries))
        )

    def _thing(self, plane: str, name: str, owner: str) -> None:
        self.things.append(Thing(plane, self.server.name, name, owner))

    def _json(self, *command: str) -> Any:
        return json.loads(self.server.node.run(command).stdout or "[]")

    def _agent(self) -> None:
        """The agent's own view of the attachments."""
        rows = self.server.look("attachments")
        self._table(Plane.AGENT, ((address, row["container"]) for row in rows for address in row["addresses"]))
        for row in rows:
            if row["state"] != "ready":
                self._thing("agent's attachments", f"{row['container']} is {row['state']}: {row['error']}", "")
        for row in self.server.look("neighbors"):
            if row["state"] != "established" or row["side"] != "good" or row["steers"]:
                self._thing("sides", f"{row['tor']} is {row['state']}, {row['side']}: {row['side_reason']}", "")

    def _routes(self) -> None:
        """The agent's adj-RIB-out, per ToR."""
        name, rows = self.server.name, self.server.look("routes")
        for tor in self.server.tors:
            sent = [str(ip_network(row["prefix"]).network_address) for row in rows if row["tor"] == tor]
            self._table(Plane.SENT, ((address, name) for address in sent), f"{name} to {tor}")
        for row in rows:
            if row["state"] != "announced":
                self._thing(Plane.SENT, f"{row['prefix']} to {row['tor']} is {row['state']}", "")

    def _flows(self) -> None:
        """Flows by whom they serve: their cookie says it, and their destination must agree."""
        base: list[str] = []
        holders: set[tuple[str, str]] = set()
        for line in self.server.all_flows():
            found = COOKIE.search(line)
            if found is None or int(found[1], 16) == cookie(BASE_OBJECT):  # a group has no cookie
                base.append(line)
                continue
            owner = self._container.get(int(found[1], 16) - cookie(BASE_OBJECT) - 1, "")
            self._thing(Plane.FLOWS, line, owner)
            if delivery := DELIVERY.search(line):
                holders.add((delivery["address"], owner))
        self._table(Plane.FLOWS, sorted(holders))
        self.host_flows = frozenset(base)

    def _pods(self) -> None:
        """The interfaces inside all namespaces of pods, also of those that nobody knows."""
        script = (
            'for f in /run/netns/*; do [ -e "$f" ] || exit 0; echo "${f##*/}"; nsenter --net="$f" ip -j address; done'
        )
        lines = iter(self.server.node.run(["/bin/sh", "-c", script]).stdout.splitlines())
        entries: list[tuple[str, str]] = []
        for name in lines:
            container = f"{self.server.name}-{name}"
            for device in json.loads(next(lines)):
                if device["ifname"] != "lo":
                    self._thing("pods' interfaces", f"{name}: {device['ifname']}", container)
                    held = (one["local"] for one in device["addr_info"] if one["scope"] == "global")
                    entries += [(address, container) for address in held]
        self._table(Plane.PODS, entries)

    def _slots(self) -> None:
        """The stock, and who uses it: marks, and devices whose macvlan keeps them promiscuous."""
        inner = self._json("nsenter", f"--net={SLOTS}", "ip", "-j", "-d", "link")
        for device in inner:
            whose = mark.parse(device.get("ifalias", ""))
            if whose is not None:
                self._thing("slots' marks", device["ifname"], whose.id.container_id)
            elif device["promiscuity"]:
                self._thing("macvlans", f"on {device['ifname']}", "")
        outer = self._json("ip", "-j", "link")
        ours = [device["ifname"] for device in outer if mark.is_ours(device.get("ifalias", ""))]
        self.stock = Stock(
            self.server.name,
            {
                "OVS ports": _numbers(WIRE, self.server.ports()),
                "wires": _numbers(WIRE, ours),
                "slots": _numbers(INNER, (device["ifname"] for device in inner)),
            },
        )


def _ledger(server: Server) -> Iterator[Row]:
    """Read a copy of the ledger's file: the agent has locked the file itself."""
    with tempfile.TemporaryDirectory() as folder:
        for path in server.node.path(LEDGER).glob("ledger.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder, "ledger.db"))) as database:
            rows = database.execute("SELECT sequence, container_id, slot FROM attachments").fetchall()
            held = database.execute("SELECT attachment, address FROM addresses WHERE attachment IS NOT NULL").fetchall()
    for sequence, container, slot in rows:
        yield Row(container, slot, tuple(address for owner, address in held if owner == sequence))


def _errors(server: Server) -> Iterator[str]:
    """Return the lines of the agents' log that are errors, or no log lines at all: the traceback of one that ended."""
    for line in server.node.path(LOG).read_text().splitlines():
        try:
            level = json.loads(line)["level"]
        except ValueError:
            level = "none"
        if level not in {"debug", "info", "warning"}:
            yield line


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> frozenset[int]:
    return frozenset(int(found[1]) for name in names if (found := pattern.fullmatch(name)))


def _documents(text: str) -> Iterator[Any]:
    """Return the JSON documents that stand one after the other."""
    decode = json.JSONDecoder().raw_decode
    at = 0
    while at < len(text.rstrip()):
        document, at = decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        yield document
