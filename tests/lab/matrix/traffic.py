"""The traffic of the matrix: many flows in every direction that matters, and what an event made of them.

Every direction has flows enough for ECMP and for the servers' choice of an uplink to spread them over all paths; the
shares of the bond's members, which the report tells, show that they do. A direction is judged by its worst flow.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from containerlab.probe import Flow, Place, Probe, Report

RATE_HZ = 100
FLOWS = {4: 8, 6: 4}
"""Flows of a direction, by IP version."""
STEADY_S = 1.5
"""Traffic before an event; all of it must have arrived when the event comes."""
HEALED_S = 2.0
"""All flows arrive for this long without a gap: the event is over."""
MOST = 0.95
"""A flow arrives when this share of its packets does: a busy machine loses one now and then, which is counted."""
_LOOK_S = 0.05
FABRIC = "host"
"""Traffic to the server itself: its address moves without any agent, so that it shows what the fabric alone takes."""
DIRECTIONS = {
    "in": "other rack → pod",
    "out": "pod → other rack",
    "rack_in": "same rack → pod",
    "rack_out": "pod → same rack",
    "bystander": "other rack → bystander",
    FABRIC: "→ the server itself",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """What a direction lost in a step of an event."""

    flows: int
    hit: int
    """Flows that lost anything."""
    packets: int
    worst_ms: float
    """The longest gap of any flow."""
    open: bool
    """It was still lossy when the measurement ended."""

    @classmethod
    def of(cls, reports: list[Report]) -> Loss:
        """Sum up the flows of a direction."""
        return cls(
            flows=len(reports),
            hit=sum(report.lost > 0 for report in reports),
            packets=sum(report.lost for report in reports),
            worst_ms=round(max(report.worst_gap_s for report in reports) * 1000, 1),
            open=any(report.open for report in reports),
        )

    def __str__(self) -> str:
        if not self.packets:
            return "0"
        return f"{'>' if self.open else ''}{self.worst_ms:.0f} ms ({self.hit}/{self.flows}, {self.packets} pkt)"


def between(sources: Sequence[Place], targets: Sequence[Place], share: int = 1) -> list[Flow]:
    """Return the flows of one direction, or one of `share` equal parts of them, each between another pair if possible.

    Ports alone would not spread them: Open vSwitch's symmetric hash, which picks the uplink, leaves UDP ports out.
    """
    versions = [version for version, number in FLOWS.items() for _ in range(number // share)]
    return [
        Flow(sources[number % len(sources)], targets[(number + number // len(sources)) % len(targets)], version)
        for number, version in enumerate(versions)
    ]


class Traffic:
    """Packets on all flows, from construction to `stop`."""

    def __init__(self, directions: Mapping[str, list[Flow]], rate_hz: float = RATE_HZ) -> None:
        self._names = [name for name, flows in directions.items() for _ in flows]
        self.probe = Probe([flow for flows in directions.values() for flow in flows], rate_hz)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.probe.stop()

    def await_arrival(self, for_s: float, until: float, *, share: float = MOST, not_before: float = 0) -> bool:
        """Wait until every flow has arrived for a while, `not_before` included; False when that is not so in time."""
        since = time.monotonic()
        while (now := time.monotonic()) < until:
            if now - since >= for_s and now >= not_before and min(self.probe.arrivals(for_s)) >= share:
                return True
            time.sleep(_LOOK_S)  # between two looks
        return False

    def lossy(self, for_s: float) -> list[str]:
        """Return the directions that have lost anything lately."""
        arrivals = zip(self._names, self.probe.arrivals(for_s), strict=True)
        return sorted({name for name, share in arrivals if share < 1})

    def stop(self) -> dict[str, Loss]:
        """End the traffic and return what each direction lost since the mark."""
        found: dict[str, list[Report]] = {}
        for name, report in zip(self._names, self.probe.stop(), strict=True):
            found.setdefault(name, []).append(report)
        return {name: Loss.of(reports) for name, reports in found.items()}
