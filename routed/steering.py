"""Watches both sides of the rack and tells the store when one of them is not as it was.

Puts together what others see: carrier, LACP of the kernel's bond and the gateway's answers (`attach.members`), LACP of
Open vSwitch's (its database), the BGP sessions (the speaker). `domain.sides` judges it; what follows from the verdict
is `domain.intent`'s to say.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from bgp.model import NeighborStatus, SessionState
from routed.domain.rack import Tor
from routed.domain.sides import Health, Hold, Judge, Side, Sighting
from routed.domain.workload import IPAddress

_log = structlog.get_logger()


class Steering:
    """Knows how each side is, and since when it may be trusted."""

    def __init__(
        self,
        pairs: Sequence[tuple[Tor, str]],
        *,
        hold: Hold,
        faults: Callable[[str], tuple[str, ...]],
        sessions: Callable[[], Mapping[IPAddress, NeighborStatus]],
        publish: Callable[[tuple[Side, ...]], None],
    ) -> None:
        """`pairs`: each ToR with the uplink's device that leads to it, in the rack's order."""
        self._pairs = tuple(pairs)
        self._faults, self._sessions, self._publish = faults, sessions, publish
        self._sides = tuple(Side(tor.name, member) for tor, member in pairs)
        self._judge = Judge(self._sides, hold)
        self._lapsed: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self.failures = {side.tor: 0 for side in self._sides}
        """How often each side was found bad, since the start."""

    def note_lacp(self, lapsed: Collection[str]) -> None:
        """Take note of the devices whose LACP partner does not answer."""
        self._lapsed = frozenset(lapsed)
        self.review()

    def review(self) -> None:
        """Look at everything that is known of both sides, and publish the verdict when it is another one."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        sides = self._judge.judge([self._sighting(tor, member) for tor, member in self._pairs], loop.time())
        if self._judge.review_at < math.inf:
            self._timer = loop.call_at(self._judge.review_at, self.review)
        for before, side in zip(self._sides, sides, strict=True):
            if side.health is not before.health:
                self._tell(before, side)
        self._sides = sides
        self._publish(sides)

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _sighting(self, tor: Tor, member: str) -> Sighting:
        faults = self._faults(member)
        if member in self._lapsed:
            faults += ("no LACP partner",)
        status = self._sessions().get(tor.address)
        if status is None or status.state is not SessionState.UP:
            return Sighting(faults)
        return Sighting(faults, status.age_s, status.defaults)

    def _tell(self, before: Side, side: Side) -> None:
        if side.health < Health.HOLDING <= before.health:
            self.failures[side.tor] += 1
        tell = _log.info if side.health >= Health.HOLDING else _log.warning
        tell("side.changed", tor=side.tor, member=side.member, health=side.health.name.lower(), reasons=side.reasons)
