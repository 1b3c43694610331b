"""One neighbour as the speaker sees it: its routes, the state of its session, what is to be told about it. Pure."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

from bgp.adjacency import Adjacency
from bgp.model import NeighborStatus, SessionState

if TYPE_CHECKING:
    from bgp.model import Neighbor


class Session:
    """The session with one neighbour, followed by what ExaBGP tells of it."""

    def __init__(self, neighbor: Neighbor) -> None:
        self.neighbor = neighbor
        self.adjacency = Adjacency()
        self.configured = False
        """Whether ExaBGP knows this neighbour; nothing is given to it otherwise."""
        self.updates_sent = 0
        self._offered: frozenset[int] = frozenset()
        self._state = SessionState.DOWN
        self._since_s = monotonic()
        self.ups = 0
        self._reason = ""
        self._asked_for_end = False
        self._ended: set[int] = set()
        self._defaults: frozenset[int] = frozenset()

    @property
    def established(self) -> bool:
        """Whether routes given now are sent now."""
        return self._state is SessionState.UP

    def negotiated(self, versions: frozenset[int]) -> None:
        """Note the families of the session that comes up next."""
        self._offered = versions

    def up(self, age_s: float = 0.0) -> None:
        """Note that the session is established, for some time already when it was adopted."""
        self._change(SessionState.UP)
        self._since_s -= age_s
        self.ups += 1
        self._asked_for_end = False
        self._ended.clear()
        self._defaults = frozenset()
        self.adjacency.up(self._offered)

    def down(self, reason: str) -> bool:
        """Note that the session, or an attempt at it, ended; tell whether it was established."""
        was = self.established
        if was:
            self._change(SessionState.DOWN)
            self._reason = reason
            self._ended.clear()
            self._defaults = frozenset()
            self.adjacency.down()
        return was

    def forget(self, reason: str) -> None:
        """Note that ExaBGP knows nothing of this neighbour any more: its routes are given anew."""
        self.down(reason)
        self.adjacency.reread({}, foreign=False)

    def received(self, given: frozenset[int], taken: frozenset[int]) -> bool:
        """Note the default routes that the neighbour gives and takes; tell whether that is news."""
        before, self._defaults = self._defaults, (self._defaults - taken) | given
        return self._defaults != before

    def ended(self, version: int) -> None:
        """Note that an End-of-RIB was sent."""
        self._ended.add(version)

    def end_of_rib(self) -> frozenset[int]:
        """Return the families whose End-of-RIB is due, now that what is desired is known; asks once per session."""
        if not self.established or self._asked_for_end or not self.adjacency.complete():
            return frozenset()
        self._asked_for_end = True
        return self.adjacency.versions

    @property
    def told_everything(self) -> bool:
        """Whether the session is up and its End-of-RIB left."""
        return self.established and self._ended >= self.adjacency.versions

    def status(self) -> NeighborStatus:
        """Return what people and metrics want to know."""
        routes = Counter(prefix.version for prefix in self.adjacency.wire)
        return NeighborStatus(
            name=self.neighbor.name,
            asn=self.neighbor.asn,
            state=self._state,
            age_s=monotonic() - self._since_s,
            ups=self.ups,
            reason=self._reason,
            updates_sent=self.updates_sent,
            routes={version: routes[version] for version in (4, 6)},
            defaults=self._defaults,
            end_of_rib=self.told_everything,
        )

    def _change(self, state: SessionState) -> None:
        self._state = state
        self._since_s = monotonic()
