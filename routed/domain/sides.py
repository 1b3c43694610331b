"""Judges the two sides of a stackless pair: each ToR, the link to it and the session with it. Pure: time is given.

The link and the session are two things: the session ends on the ToR's loopback, and its packets may take the other
link and a spine. A link that cannot carry traffic both ways is cut, whatever the session says. docs/stackless.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

LACKING_S = 0.2
"""A session or a default route has to be missing for so long: those that end together end one after the other."""


class Health(IntEnum):
    """How much a side may be trusted with, in rising order."""

    CUT = 0
    """Its link does not carry traffic both ways."""
    SILENT = 1
    """Its link is good, but its ToR has no session with us, or no way out, while the other has."""
    HOLDING = 2
    """All is well again, for less than the hold time."""
    GOOD = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One ToR and the way to it."""

    tor: str
    member: str
    """The uplink's device that leads to it."""
    health: Health = Health.GOOD
    reasons: tuple[str, ...] = ()
    """What is wrong, for people; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is seen of a side at one moment."""

    faults: tuple[str, ...] = ()
    """Why its link cannot be used; empty when it can."""
    session_s: float | None = None
    """How long its session has been up; None while it is down."""
    defaults: frozenset[int] = frozenset()
    """IP versions of which its ToR gives us a default route: others are unreachable by it."""


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a side that failed has to be well before it is trusted again."""

    first_s: float
    longest_s: float
    """One that fails again soon after it was good, within two holds, holds twice as long as before, up to this."""


@dataclass(slots=True)
class _History:
    side: Side
    well_since: float = -math.inf
    """Since when nothing is wrong; when it last began, while something is."""
    good_since: float = -math.inf
    """When it was last found good."""
    lacking_since: float = -math.inf
    """Since when it lacks what the other side has; always, until it was seen to have it."""
    hold_s: float = 0.0


class Judge:
    """Remembers how the sides were, and from that and what is seen now says how they are."""

    def __init__(self, sides: Sequence[Side], hold: Hold) -> None:
        """Begin with the sides as they are named."""
        self._histories = [_History(side) for side in sides]
        self._hold = hold
        self.review_at = math.inf
        """When the verdict may change although nothing is seen to change."""

    def judge(self, sightings: Sequence[Sighting], now: float) -> tuple[Side, ...]:
        """Return the sides as they are at `now`, seconds of any monotonic clock; one sighting per side."""
        self.review_at = math.inf
        for number, (history, seen) in enumerate(zip(self._histories, sightings, strict=True)):
            others = [other for place, other in enumerate(sightings) if place != number]
            health, reasons = self._ills(history, seen, others, now)
            if health is Health.GOOD:
                health = self._recovered(history, now)
            else:
                self._fell_ill(history, now)
            history.side = Side(history.side.tor, history.side.member, health, reasons)
        return tuple(history.side for history in self._histories)

    def _ills(
        self, history: _History, seen: Sighting, others: Sequence[Sighting], now: float
    ) -> tuple[Health, tuple[str, ...]]:
        """Return what is wrong now, compared with the other side; what both lack says nothing.

        In its first moments a session brings nothing yet, and of two that start together one is ahead: a side that was
        good until then is not blamed for what it lacks before its session, or the other's if it has none, is a hold
        time old.
        """
        if seen.faults:
            return Health.CUT, seen.faults
        lacks = self._lacks(seen, others)
        if not lacks:
            if seen.session_s is not None:
                history.lacking_since = math.inf
            return Health.GOOD, ()
        history.lacking_since = min(history.lacking_since, now)
        age_s = max(other.session_s or 0.0 for other in others) if seen.session_s is None else seen.session_s
        blamed_at = max(history.lacking_since + LACKING_S, now + self._hold.first_s - age_s)
        if history.side.health is Health.GOOD and now < blamed_at:
            self._review(blamed_at)
            return Health.GOOD, ()
        return Health.SILENT, lacks

    @staticmethod
    def _lacks(seen: Sighting, others: Sequence[Sighting]) -> tuple[str, ...]:
        if seen.session_s is None:
            return ("no BGP session",) if any(other.session_s is not None for other in others) else ()
        missing = frozenset[int]().union(*(other.defaults for other in others)) - seen.defaults
        return tuple(f"no IPv{version} default route" for version in sorted(missing))

    def _fell_ill(self, history: _History, now: float) -> None:
        if history.side.health is Health.GOOD:
            soon = now - history.good_since < 2 * history.hold_s
            history.hold_s = min(2 * history.hold_s, self._hold.longest_s) if soon else self._hold.first_s

    def _recovered(self, history: _History, now: float) -> Health:
        if history.side.health < Health.HOLDING:
            history.well_since = now
        good_at = history.well_since + history.hold_s
        if now >= good_at:
            if history.side.health is not Health.GOOD:
                history.good_since = now
            return Health.GOOD
        self._review(good_at)
        return Health.HOLDING

    def _review(self, at: float) -> None:
        self.review_at = min(self.review_at, at)
