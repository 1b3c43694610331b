"""Sorts one ToR's routes by what they are to its rack. Pure; judges nothing but where a path came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ipam.model import IPAddress, IPNetwork
from routed.audit.compare.poolmap import Key, PoolMap
from routed.audit.model import Asked, RackPlan, Route, SwitchView
from routed.domain.workload import host_network


@dataclass(slots=True)
class Learned:
    """One ToR."""

    tor: str
    pods: dict[IPAddress, list[Route]] = field(default_factory=dict)
    """Paths to single addresses of the rack's own pools."""
    foreign: list[Route] = field(default_factory=list)
    """What servers of this rack told beside that."""
    distant: list[Route] = field(default_factory=list)
    """Paths to single addresses of other racks' pools, told by the fabric."""
    networks: set[Key] = field(default_factory=set)
    """All other prefixes."""
    selected: int = 0
    """How many addresses of the rack's own pools have a best path."""
    refused: Mapping[Asked, frozenset[IPNetwork]] = field(default_factory=dict)
    """As in `SwitchView`."""


class Sorter:
    """Sorts the routes of a rack's ToRs."""

    def __init__(self, plan: RackPlan, pools: PoolMap) -> None:
        """Prepare for one rack."""
        self.servers: Mapping[IPAddress, str] = {
            address: name for name, server in plan.servers.items() for address in server.addresses
        }
        """Next hop -> server."""
        self._asns = frozenset(server.asn for server in plan.servers.values())
        self._spans = [_span(pool.prefix) for pool in plan.pools]
        hosts = [_span(subnet.prefix) for subnet in plan.rack.hosts]
        apart = [_span(host_network(address)) for address in self.servers if not _inside(address, hosts)]
        self._below = [*hosts, *apart]
        self._everywhere = pools

    def is_pod(self, address: IPAddress) -> bool:
        """Whether an address is in one of the rack's own pools."""
        return _inside(address, self._spans)

    def is_local(self, route: Route) -> bool:
        """Whether a path came from below this ToR or is its own, rather than from another switch."""
        path, peer = route.as_path, route.peer
        if not path or path[0] in self._asns:
            return True
        if peer is not None and _inside(peer, self._below):
            return True
        for hop in route.next_hops:  # noqa: SIM110 - called millions of times, and `any` takes twice as long
            if hop is not peer and _inside(hop, self._below):
                return True
        return False

    def sort(self, view: SwitchView) -> Learned:
        """Sort all routes of one ToR."""
        found = Learned(view.switch, refused=view.refused)
        pods, networks = found.pods, found.networks
        for route in view.routes:
            prefix = route.prefix
            length, address = prefix.prefixlen, prefix.network_address
            if length != (32 if prefix.version == 4 else 128):
                networks.add((prefix.version, int(address), length))
                if route.as_path and self.is_local(route):
                    found.foreign.append(route)
                continue
            if _inside(address, self._spans):
                pods.setdefault(address, []).append(route)
            else:
                self._elsewhere(address, route, found)
        found.selected = sum(1 for paths in pods.values() if any(path.best for path in paths))
        return found

    def _elsewhere(self, address: IPAddress, route: Route, found: Learned) -> None:
        if route.as_path and self.is_local(route):  # a ToR's own routes have no AS path
            if not (address in self.servers and set(route.next_hops) <= {address}):  # a server's own address is its own
                found.foreign.append(route)
        elif self._everywhere.find(address) is not None:
            found.distant.append(route)


def _span(prefix: IPNetwork) -> tuple[int, int, int]:
    first = int(prefix.network_address)
    return prefix.version, first, first + prefix.num_addresses - 1


def _inside(address: IPAddress, spans: Sequence[tuple[int, int, int]]) -> bool:
    number = int(address)
    for version, first, last in spans:  # noqa: SIM110 - called millions of times, and `any` takes twice as long
        if first <= number <= last and version == address.version:
            return True
    return False
