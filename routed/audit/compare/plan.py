"""Conflicts of the address plan: prefixes of different use, or of different racks, that overlap. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ipam.model import IPNetwork
from routed.audit.model import Evidence, Finding, Kind, RackPlan, Severity
from routed.domain.workload import host_network

_SERVICE = "service range"


@dataclass(frozen=True, slots=True)
class _Use:
    """What one prefix is planned for."""

    prefix: IPNetwork
    what: str
    rack: str

    def __str__(self) -> str:
        return f"{self.prefix} ({self.what} of {self.rack})"


def plan_conflicts(plans: Iterable[RackPlan]) -> Iterator[Finding]:
    """Find prefixes that overlap and must not; service ranges alone may be every rack's."""
    uses = sorted((use for plan in plans for use in _uses(plan)), key=_from_wide_to_narrow)
    around: list[_Use] = []
    for use in uses:  # prefixes nest or are apart: whatever is not around this one is around none that follows
        while around and not _contains(around[-1].prefix, use.prefix):
            around.pop()
        for other in around:
            if not use.what == other.what == _SERVICE:
                yield _conflict(other, use)
        around.append(use)


def _uses(plan: RackPlan) -> Iterator[_Use]:
    rack = plan.rack
    yield from (_Use(pool.prefix, "pool", rack.name) for pool in plan.pools)
    yield from (_Use(subnet.prefix, "servers' subnet", rack.name) for subnet in rack.hosts)
    yield from (_Use(prefix, _SERVICE, rack.name) for prefix in rack.services)
    yield from (_Use(host_network(tor.address), f"loopback of {tor.name}", rack.name) for tor in rack.tors)


def _from_wide_to_narrow(use: _Use) -> tuple[int, int, int, str, str]:
    return use.prefix.version, int(use.prefix.network_address), use.prefix.prefixlen, use.rack, use.what


def _contains(wide: IPNetwork, narrow: IPNetwork) -> bool:
    return wide.version == narrow.version and narrow.network_address in wide


def _conflict(wide: _Use, narrow: _Use) -> Finding:
    return Finding(
        Kind.PLAN_CONFLICT,
        Severity.CRITICAL,
        narrow.rack,
        str(narrow.prefix),
        tuple(sorted({wide.rack, narrow.rack})),
        f"{narrow} overlaps {wide}",
        "a prefix was planned twice",
        "give one of them another prefix, in the rack files or Rack objects, before anything is deployed there",
        (Evidence("plan", wide.rack, str(wide)), Evidence("plan", narrow.rack, str(narrow))),
    )
