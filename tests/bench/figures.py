"""What was measured, as values: samples, their summaries, ratios, and the goals they are held against. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

BASELINE = "bridge"
OURS = "routed"
UNPLUGGED = "routed, no port plugged ahead"
"""The same agent without a stock of ports: what it is for."""
OWN_OBJECTS, ONE_OBJECT = "an object per address, a random one", "one object for the whole rack"
FABRIC = 1000
"""Racks of the largest fabric that is promised to be audited."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution of durations, in milliseconds."""

    p50: float
    p99: float
    count: int

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Summary:
        """Summarise at least two durations."""
        return cls(median(durations_ms), quantiles(durations_ms, n=100, method="inclusive")[98], len(durations_ms))


@dataclass(frozen=True, slots=True)
class Attach:
    """CNI figures of one contender."""

    add: Summary
    delete: Summary
    parallel_add: Summary
    parallel_delete: Summary
    adds_per_s: float
    deletes_per_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """Figures of one way to announce a route. The clock of ``wire`` and ``fib`` stops at the later of the two ToRs."""

    call: Summary
    """The request itself, until it returned."""
    wire_from_call: Summary
    wire: Summary
    """From the request's return; negative when the route was sent before it returned."""
    fib: Summary
    """From the request's return to the route in the kernel."""


@dataclass(frozen=True, slots=True)
class Claims:
    """How many servers get on that claim addresses of one rack at the same time."""

    per_s: float
    """Addresses per second, all servers together."""
    vain: int
    """Attempts that came too late."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a pod's address takes, without everything else that an ADD does."""

    with_api: Summary
    """From stock."""
    without_api: Summary
    """From stock, while no API server answers."""
    asking: Summary
    """Without a stock: the API server is asked."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The comparison of one fabric, by one process on one core."""

    host_routes: int
    """Of pods, on both ToRs of every rack."""
    routes: int
    """All routes of all ToRs, those to other racks' pools included."""
    made_cpu_s: float
    """Making up the racks, which is no part of the comparison."""
    compared_cpu_s: float
    """What `compared_s` is on a core that nobody else uses."""
    compared_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise and what became of it."""

    text: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Return whether the figure keeps the promise."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def ratio(ours: float, theirs: float) -> float:
    """Return how many times theirs ours is."""
    return ours / theirs


def goals(
    attach: Mapping[str, Attach], routes: Mapping[str, Route], audits: Mapping[int, Audit] | None = None
) -> tuple[Goal, ...]:
    """Return the goals that these figures can tell about: none of a part that was not measured."""
    found: list[Goal] = []
    if OURS in attach and BASELINE in attach:
        ours, theirs = attach[OURS], attach[BASELINE]
        found += [
            Goal("ADD p50, times bridge", ratio(ours.add.p50, theirs.add.p50), 0.6),
            Goal("ADD p99, times bridge", ratio(ours.add.p99, theirs.add.p99), 1.0),
            Goal(
                "parallel ADDs per second, times bridge", ratio(ours.adds_per_s, theirs.adds_per_s), 1.5, at_least=True
            ),
        ]
    if OURS in routes:
        found.append(Goal("route on the wire after ADD's return, p50, ms", routes[OURS].wire.p50, 10.0))
    if audits and FABRIC in audits:
        found.append(Goal(f"audit of {FABRIC} racks, s", audits[FABRIC].compared_s, 30))
        found.append(Goal(f"audit of {FABRIC} racks, MiB", audits[FABRIC].peak_mib, 1536))
    return tuple(found)
