"""The launcher lets ExaBGP accept nobody while a call of its own is waited for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from exabgp.logger import option
from exabgp.reactor.asynchronous import ASYNC

from bgp.launch import PATIENCE_S, TURN_S, in_turn, is_calling

if TYPE_CHECKING:
    from collections.abc import Iterator

option.logger = logging.getLogger("exabgp")  # its queue logs, and expects that somebody has set that up
TURNS = int(PATIENCE_S / TURN_S)
READING_TURNS = 4
"""What ExaBGP needs for an answer that is there: OPEN, its own KEEPALIVE, the switch's, and one to say so."""


@dataclass(eq=False)
class Connection:
    """As ExaBGP's: each is equal to itself alone."""

    direction: str


def peer(direction: str = "outgoing", *, established: bool = False) -> SimpleNamespace:
    """Return what the launcher looks at of a ``Peer`` with a connection."""
    return SimpleNamespace(proto=SimpleNamespace(connection=Connection(direction)), established=lambda: established)


class Reactor:
    """ExaBGP's peers and its listener, where in every turn somebody calls."""

    def __init__(self, *peers: SimpleNamespace) -> None:
        self.peers = list(peers)
        self.broken = False
        self._answered = 0
        self._now = 100.0
        self._incoming = in_turn(lambda _: True, ASYNC, clock=lambda: self._now)
        self.answers()

    @property
    def _reactor(self) -> SimpleNamespace:
        return SimpleNamespace(_peers=dict(enumerate(self.peers)))

    def new_connections(self) -> Iterator[None]:
        yield None
        if self.broken:
            raise KeyError("relay")
        self._answered += 1

    def answers(self, after_s: float = 0.01) -> bool:
        """Tell whether a call is answered in a turn so long after the one before."""
        before = self._answered
        self._now += after_s
        assert not self._incoming(self), "nothing may be left to the reactor's own queue"
        return self._answered > before


def test_a_call_is_answered_when_there_is_none_of_ours() -> None:
    assert Reactor(peer(established=True), peer("incoming"), SimpleNamespace(proto=None)).answers()


def test_no_call_is_answered_during_one_of_ours_and_the_next_one_is_right_after_it() -> None:
    reactor = Reactor(peer())
    assert not reactor.answers()
    reactor.peers = [peer(established=True)]
    assert reactor.answers()


def test_a_call_that_is_never_ended_is_waited_for_so_long_and_no_longer() -> None:
    reactor = Reactor(peer())
    assert [reactor.answers(TURN_S) for _ in range(TURNS + 1)] == [False] * (TURNS - 1) + [True] * 2


def test_a_switch_that_is_silent_takes_nothing_from_the_patience_with_the_other() -> None:
    reactor = Reactor(peer())
    while not reactor.answers(TURN_S):
        pass
    reactor.peers.append(peer())
    assert not any(reactor.answers(TURN_S) for _ in range(TURNS)), "the other's call has only begun"
    assert reactor.answers(TURN_S)


def test_the_next_call_to_the_same_switch_is_waited_for_anew() -> None:
    reactor = Reactor(peer())
    while not reactor.answers(TURN_S):
        pass
    reactor.peers = [peer()]
    assert not reactor.answers(TURN_S)


def test_a_turn_that_takes_long_does_not_end_the_patience_before_exabgp_has_read_the_answer() -> None:
    reactor = Reactor(peer())
    assert not any(reactor.answers(10 * PATIENCE_S) for _ in range(READING_TURNS))


def test_what_goes_wrong_while_answering_ends_neither_exabgp_nor_the_listening() -> None:
    reactor = Reactor()
    reactor.broken = True
    assert not reactor.answers()
    reactor.broken = False
    assert reactor.answers()


@pytest.mark.parametrize(
    ("found", "calling"),
    [
        (peer(), True),
        (peer(established=True), False),
        (peer("incoming"), False),
        (SimpleNamespace(proto=None), False),
        (SimpleNamespace(proto=SimpleNamespace(connection=None)), False),
    ],
)
def test_only_a_call_of_ours_that_is_not_settled_counts(found: SimpleNamespace, *, calling: bool) -> None:
    assert is_calling(found) is calling
