"""Judges the route that one ToR has to an address, when it leads to the right server. Pure.

Age, attributes and forwarding. Where a failure excuses the ToR, only what is wrong all the same is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from routed.audit.compare import commands
from routed.audit.compare.faults import Fault
from routed.audit.compare.planes import Subject
from routed.audit.compare.standing import Standing
from routed.audit.model import Kind, Route, Severity


@dataclass(frozen=True, slots=True)
class Arrival:
    """One address on one ToR."""

    subject: Subject
    server: str
    tor: str
    standing: Standing

    def faults(self) -> Iterator[Fault]:
        """Find what is wrong; there is a path from below."""
        if not (self.standing.excused and self.standing.session_up is False):  # else it is of before the failure
            yield from self._age()
            yield from self._attributes()
        if not self.standing.excused:
            yield from self._forwarding()

    def _forwarding(self) -> Iterator[Fault]:
        address = self.subject.address
        paths = self.subject.planes.learned[self.tor].pods[address]
        if not any(path.best for path in paths):
            hop = self.subject.plan.servers[self.server].address(address.version)
            cause = f"{self.tor} cannot resolve the next hop: {self.server} is not in its neighbour table"
            then = self.subject.planes.switches.next_hop(self.tor, hop)
            yield self._fault(
                Kind.NOT_INSTALLED,
                Severity.CRITICAL,
                f"{self.tor} has a route to it and does not use it",
                (cause, then),
            )
        elif any(path.best and path.installed is False for path in paths):
            cause = "the forwarding table is full, or the switch could not write it"
            then = self.subject.planes.switches.forwarding(self.tor, address)
            yield self._fault(
                Kind.NOT_INSTALLED,
                Severity.CRITICAL,
                f"best path of {self.tor}, but not in its forwarding table",
                (cause, then),
            )

    def _age(self) -> Iterator[Fault]:
        server, tor = self.server, self.tor
        if any(path.stale for path in self.subject.paths[tor]):
            cause = f"{server}'s agent or its BGP speaker died, or restarts"
            yield self._fault(
                Kind.STALE,
                Severity.WARNING,
                f"{tor} keeps it for a speaker that is away, and drops it soon",
                (cause, commands.on(server, "routed doctor")),
            )
        elif self.standing.excused and self.standing.session_up and self._is_withdrawn():
            then = self.subject.planes.switches.received([tor], self.subject.plan.servers[server], self.subject.address)
            yield self._fault(
                Kind.STALE,
                Severity.WARNING,
                f"{tor} still has it, although its server withdrew it there",
                (f"{tor} did not take in the withdrawal", then),
            )

    def _is_withdrawn(self) -> bool:
        told = self.subject.planes.announced.to.get(self.server)
        return told is not None and self.subject.address not in told.get(self.tor, {})

    def _attributes(self) -> Iterator[Fault]:
        asn = self.subject.plan.servers[self.server].asn
        for path in self.subject.paths[self.tor]:
            if path.as_path != (asn,):
                says = f"AS path {_as_path(path)} on {self.tor} instead of {asn}"
                cause = "another speaker announces it in the server's name, or the ToR changes AS paths"
                yield self._attribute(Severity.WARNING, says, cause)
            if path.communities is not None and path.communities != self.standing.communities:
                yield self._communities(path.communities)

    def _communities(self, seen: frozenset[str]) -> Fault:
        lost = self.standing.communities - seen
        if self._steers_it_alone(seen):
            return self.subject.fault(
                Kind.ASYMMETRIC,
                Severity.WARNING,
                (self.server, tuple(sorted(self.subject.paths))),
                f"{self.tor} alone is asked to steer it, and the rest of the server's routes are not steered",
                (
                    "an update was lost, or another speaker announces it",
                    commands.on(self.server, "routed show neighbors"),
                ),
            )
        says = f"{spell(seen)} on {self.tor} instead of {spell(self.standing.communities)}"
        cause = f"{self.tor} drops the community on its way in" if lost else "something beside routed adds communities"
        return self._attribute(Severity.CRITICAL if lost else Severity.WARNING, says, cause)

    def _steers_it_alone(self, seen: frozenset[str]) -> bool:
        """Whether this ToR steers the address and the other does not, and no agent could say whether it should."""
        everywhere = all(path.communities == seen for paths in self.subject.paths.values() for path in paths)
        asked = self.server in self.subject.planes.claims.agents
        return seen == {self.subject.plan.rack.steering} and not asked and not everywhere

    def _attribute(self, severity: Severity, says: str, cause: str) -> Fault:
        then = self.subject.planes.switches.paths(self.tor, self.subject.address)
        return self._fault(Kind.ATTRIBUTES, severity, says, (cause, then))

    def _fault(self, kind: Kind, severity: Severity, says: str, advice: tuple[str, str]) -> Fault:
        return self.subject.fault(kind, severity, (self.server, (self.tor,)), says, advice)


def spell(communities: frozenset[str]) -> str:
    """Return communities for people."""
    if not communities:
        return "no community"
    return f"communit{'y' if len(communities) == 1 else 'ies'} {' '.join(sorted(communities))}"


def _as_path(path: Route) -> str:
    return " ".join(map(str, path.as_path)) or "(none: the switch's own route)"
