"""All planes of a rack, laid side by side, and one address as they show it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ipam.model import IPAddress
from routed.audit.compare.announced import Announcements
from routed.audit.compare.claims import Claims
from routed.audit.compare.commands import Switches
from routed.audit.compare.evidence import evidence
from routed.audit.compare.faults import Fault
from routed.audit.compare.learned import Learned, Sorter
from routed.audit.compare.standing import Standings
from routed.audit.model import Kind, RackPlan, Route, Severity
from routed.domain.rack import Server


@dataclass(frozen=True, slots=True)
class Planes:
    """Everything that is known of a rack's addresses."""

    plan: RackPlan
    claims: Claims
    announced: Announcements
    learned: Mapping[str, Learned]
    """By ToR, those that answered."""
    sorter: Sorter
    standings: Standings
    switches: Switches

    def is_sound(self, address: IPAddress) -> bool:
        """Whether an address is plainly as it should be; False says only that it takes a closer look."""
        holdings = self.claims.holdings.get(address)
        if holdings is None or len(holdings) > 1 or not holdings[0].announce:
            return False
        name = holdings[0].server
        server, agent = self.plan.servers.get(name), self.claims.agents.get(name)
        if server is None or agent is None or agent.draining or self.announced.by.get(address) != [name]:
            return False
        hop, standing, told = server.address(address.version), self.standings[name], self.announced.to[name]
        for tor in self.plan.rack.tors:
            wanted = standing[tor.name].communities
            route = told.get(tor.name, {}).get(address)
            if route is None or route.next_hop != hop or route.communities != wanted:
                return False
            table = self.learned.get(tor.name)
            if table is not None and not _is_plain(table.pods.get(address, ()), server, hop, wanted):
                return False
        return True


def _is_plain(paths: Sequence[Route], server: Server, hop: IPAddress | None, wanted: frozenset[str]) -> bool:
    if len(paths) != 1:
        return False
    path = paths[0]
    return (
        path.best
        and path.installed is not False
        and not path.stale
        and path.next_hops == (hop,)
        and path.as_path == (server.asn,)
        and (path.communities is None or path.communities == wanted)
    )


class Subject:
    """One address, as the planes show it."""

    def __init__(self, planes: Planes, address: IPAddress) -> None:
        """Gather what is known of an address."""
        self.planes, self.address, self.plan = planes, address, planes.plan
        self.holdings = planes.claims.holdings.get(address, ())
        self.paths = {
            tor: [path for path in table.pods.get(address, ()) if planes.sorter.is_local(path)]
            for tor, table in planes.learned.items()
        }
        """Paths from below, by ToR; those by way of the fabric are judged with the fabric."""

    def leading(self) -> set[str]:
        """Return where the paths lead: servers by name, others by address. A ToR's own route may lead nowhere."""
        return {end for paths in self.paths.values() for end in self._ends(paths)}

    def tors_to(self, ends: AbstractSet[str]) -> list[str]:
        """Return the ToRs that have a path to one of these ends."""
        return sorted(tor for tor, paths in self.paths.items() if not ends.isdisjoint(self._ends(paths)))

    def _ends(self, paths: Iterable[Route]) -> Iterator[str]:
        servers = self.planes.sorter.servers
        return (
            servers.get(hop, str(hop)) for path in paths for hop in path.next_hops if path.as_path or hop in servers
        )

    def tors(self) -> list[str]:
        """Return the ToRs that have a path from below."""
        return sorted(tor for tor, paths in self.paths.items() if paths)

    def fault(
        self, kind: Kind, severity: Severity, at: tuple[str, tuple[str, ...]], says: str, advice: tuple[str, str]
    ) -> Fault:
        """Return a fault with what every plane says; `at` is culprit and places, `advice` cause and next command."""
        whose = ", ".join(f"{holding.pod or 'a pod'} on {holding.server}" for holding in self.holdings)
        planes = self.planes
        told = evidence(self.address, self.holdings, planes.claims, planes.announced, planes.learned)
        return Fault(kind, severity, self.address, *at, says, *advice, whose, told)
