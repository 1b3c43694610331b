"""One neighbour inside ExaBGP, executing: its real pending routes, and around them what the reactor does with them."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from exabgp.bgp.message import Action
from exabgp.logger import option
from exabgp.protocol.family import AFI, SAFI, Family
from exabgp.rib.outgoing import OutgoingRIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgp.model import Attributes, IPNetwork

option.logger = logging.getLogger("exabgp")  # its routes log, and expect that somebody has set that up
FAMILY = (AFI.ipv4, SAFI.unicast)


@dataclass
class _Change:
    """What `OutgoingRIB` asks of a route."""

    prefix: IPNetwork
    value: Attributes
    action: int

    def __post_init__(self) -> None:
        self.nlri = SimpleNamespace(
            prefix=self.prefix,
            action=self.action,
            family=lambda: Family(*FAMILY),
            nexthop=SimpleNamespace(index=lambda: str(self.value.next_hop)),
        )
        self.attributes = SimpleNamespace(value=self.value, index=lambda: repr(self.value))

    def index(self) -> str:
        return str(self.prefix)


@dataclass
class Done:
    """An acknowledgement."""


@dataclass
class Sent:
    """An UPDATE left."""

    announced: dict[IPNetwork, Attributes]
    withdrawn: frozenset[IPNetwork]


@dataclass
class Up:
    """The session is established."""


@dataclass
class Down:
    """The session ended."""


class ExabgpPeer:
    """Commands in, lines out, and the neighbour at the other end. Nothing happens but by a step."""

    def __init__(self) -> None:
        self.rib = OutgoingRIB(cache=True, families={FAMILY})
        self.commands: deque[tuple[bool, IPNetwork, Attributes]] = deque()
        self.lines: deque[Done | Sent | Up | Down] = deque()
        self.neighbor: dict[IPNetwork, Attributes] = {}
        """The routes that the neighbour has learned in this session."""
        self.is_up = False
        self._batch: Iterator[Sent] | None = None
        self._include_withdraw = False

    def held(self) -> dict[IPNetwork, Attributes]:
        """Return adj-rib-out."""
        return {change.prefix: change.value for change in self.rib.cached_changes()}

    def execute(self) -> None:
        """Take one command, as the reactor's queue does."""
        if self.commands:
            announces, prefix, attributes = self.commands.popleft()
            self.rib.add_to_rib(_Change(prefix, attributes, Action.ANNOUNCE if announces else Action.WITHDRAW))
            self.lines.append(Done())

    def send(self) -> None:
        """Send one UPDATE, if there is any to send."""
        if not self.is_up:
            return
        if self._batch is None and self.rib.pending():
            self._batch = self._updates(include_withdraw=self._include_withdraw)
        if self._batch is not None:
            try:
                self.lines.append(next(self._batch))
            except StopIteration:
                self._batch = None
                self._include_withdraw = True

    def _updates(self, *, include_withdraw: bool) -> Iterator[Sent]:
        for update in self.rib.updates(grouped=True):
            withdrawn = {nlri.prefix for nlri in update.nlris if nlri.action == Action.WITHDRAW}
            announced = {nlri.prefix: update.attributes.value for nlri in update.nlris if nlri.prefix not in withdrawn}
            if withdrawn and include_withdraw:
                for prefix in withdrawn:
                    self.neighbor.pop(prefix, None)
                yield Sent({}, frozenset(withdrawn))
            if announced:
                self.neighbor.update(announced)
                yield Sent(announced, frozenset())

    def toggle(self) -> None:
        """Establish the session, or end it."""
        self.is_up = not self.is_up
        self.neighbor.clear()
        if self.is_up:
            self.lines.append(Up())
            self._include_withdraw = False
            self.rib.replace_restart([], [])
            self.send()
        else:
            self.lines.append(Down())
            self._batch = None
            self.rib.reset()
