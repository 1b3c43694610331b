"""The order of commands, against ExaBGP's own pending routes, with everything interleaved as badly as can be."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

import pytest

from bgp.adjacency import Adjacency, Command
from bgp.model import Attributes
from tests.fakes.exabgp_peer import Done, Down, ExabgpPeer, Sent, Up

PREFIXES = [IPv4Network((0x0A800000 + n, 32)) for n in range(6)]
HOP = IPv4Address("10.0.0.1")
VALUES = [Attributes(HOP, med) for med in (10, 20, 30)]


class Careful:
    """Our way: an adjacency decides what may be given when."""

    def __init__(self, peer: ExabgpPeer) -> None:
        self._peer = peer
        self.adjacency = Adjacency()
        self._unanswered: list[Command] = []

    def want(self, prefix: IPv4Network, attributes: Attributes | None) -> None:
        self.adjacency.want(prefix, attributes)

    def give(self) -> None:
        while (command := self.adjacency.next()) is not None:
            self._unanswered.append(command)
            self._peer.commands.append((command.announces, command.prefix, command.attributes))

    def hear(self) -> None:
        if self._peer.lines:
            match self._peer.lines.popleft():
                case Done():
                    self.adjacency.taken(self._unanswered.pop(0))
                case Sent(announced, withdrawn):
                    self.adjacency.sent(announced, withdrawn)
                case Up():
                    self.adjacency.up(frozenset({4}))
                case Down():
                    self.adjacency.down()


class Naive:
    """The obvious way: every wish becomes a line at once, a withdraw with the attributes of its announce."""

    def __init__(self, peer: ExabgpPeer) -> None:
        self._peer = peer
        self._last: dict[IPv4Network, Attributes] = {}

    def want(self, prefix: IPv4Network, attributes: Attributes | None) -> None:
        if attributes is not None:
            self._last[prefix] = attributes
            self._peer.commands.append((True, prefix, attributes))
        elif prefix in self._last:
            self._peer.commands.append((False, prefix, self._last[prefix]))

    def give(self) -> None:
        pass

    def hear(self) -> None:
        self._peer.lines.clear()


_Way = TypeVar("_Way", Careful, Naive)


def _run(
    seed: int, way: Callable[[ExabgpPeer], _Way], steps: int = 400
) -> tuple[ExabgpPeer, _Way, dict[IPv4Network, Attributes]]:
    rng = random.Random(seed)  # noqa: S311  a reproducible schedule, no secret
    peer = ExabgpPeer()
    driver = way(peer)
    wanted: dict[IPv4Network, Attributes] = {}
    # How often the world turns against how often we speak: some schedules starve one side for long.
    weights = [rng.choice((1, 4, 12)) for _ in range(5)] + [rng.choice((0.0, 0.2, 1.0))]

    def wish() -> None:
        prefix, attributes = rng.choice(PREFIXES), rng.choice([*VALUES, None])
        driver.want(prefix, attributes)
        wanted.pop(prefix, None)
        if attributes is not None:
            wanted[prefix] = attributes

    for _ in range(steps):
        rng.choices((wish, driver.give, driver.hear, peer.execute, peer.send, peer.toggle), weights)[0]()
    if not peer.is_up:
        peer.toggle()
    for _ in range(500):
        driver.give()
        peer.execute()
        peer.send()
        driver.hear()
    return peer, driver, wanted


def test_neighbour_and_exabgp_end_with_exactly_what_is_wanted_whatever_the_schedule() -> None:
    for seed in range(1500):
        peer, driver, wanted = _run(seed, Careful)
        assert peer.neighbor == wanted, seed
        assert peer.held() == wanted, seed
        assert driver.adjacency.complete(), seed
        assert driver.adjacency.wire == wanted, seed


def test_the_obvious_way_fails_the_same_schedules() -> None:
    failures = sum(peer.neighbor != wanted for peer, _, wanted in (_run(seed, Naive) for seed in range(100)))
    assert failures > 10


def test_nothing_is_given_twice_and_one_command_per_prefix_is_on_its_way() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.want(PREFIXES[0], VALUES[0])
    first = adjacency.next()
    assert first == Command(PREFIXES[0], VALUES[0], announces=True)
    adjacency.want(PREFIXES[0], VALUES[1])
    assert adjacency.next() is None
    adjacency.taken(first)
    assert adjacency.next() is None, "taken is not sent"
    assert not adjacency.complete()
    adjacency.sent({PREFIXES[0]: VALUES[0]}, frozenset())
    assert adjacency.next() == Command(PREFIXES[0], VALUES[1], announces=True)


def test_withdraw_repeats_the_attributes_of_the_announce() -> None:
    adjacency = Adjacency()
    adjacency.reread({PREFIXES[0]: VALUES[2]}, foreign=True)
    adjacency.want(PREFIXES[0], None)
    assert adjacency.next() == Command(PREFIXES[0], VALUES[2], announces=False)


def test_what_nobody_asked_about_is_left_alone() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.reread({PREFIXES[0]: VALUES[0]}, foreign=True)
    adjacency.sent({PREFIXES[0]: VALUES[0]}, frozenset())
    assert adjacency.next() is None


def test_a_route_on_the_wire_that_exabgp_does_not_hold_is_withdrawn() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.sent({PREFIXES[0]: VALUES[0]}, frozenset())
    assert adjacency.next() == Command(PREFIXES[0], VALUES[0], announces=False)


def test_a_family_that_the_session_does_not_carry_never_waits_for_the_wire() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({6}))
    adjacency.want(PREFIXES[0], VALUES[0])
    command = adjacency.next()
    assert command is not None
    adjacency.taken(command)
    assert adjacency.next() is None
    assert adjacency.complete()


def test_an_announce_that_exabgp_suppressed_is_started_over_after_a_hold_time() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.want(PREFIXES[0], VALUES[0])
    command = adjacency.next()
    assert command is not None
    adjacency.taken(command)
    for _ in range(9):
        adjacency.tick()
        assert adjacency.next() is None
    adjacency.tick()
    assert adjacency.next() == Command(PREFIXES[0], VALUES[0], announces=False)


def test_a_refused_route_is_not_tried_again_until_it_is_wanted_again() -> None:
    adjacency = Adjacency()
    adjacency.want(PREFIXES[0], VALUES[0])
    assert adjacency.next() is not None
    adjacency.refused(PREFIXES[0])
    assert adjacency.next() is None
    assert adjacency.is_refused(PREFIXES[0])
    adjacency.want(PREFIXES[0], VALUES[1])
    assert not adjacency.is_refused(PREFIXES[0])
    assert adjacency.next() == Command(PREFIXES[0], VALUES[1], announces=True)


@pytest.mark.parametrize("what", ["held", "wire", "wanted"])
def test_want_nothing_covers_every_route_that_is_known(what: str) -> None:
    adjacency = Adjacency()
    getattr(adjacency, what)[PREFIXES[0]] = VALUES[0]
    adjacency.want_nothing()
    assert adjacency.wanted == {PREFIXES[0]: None}


def _carrying(value: Attributes) -> Adjacency:
    """An established session over which one route was told."""
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.reread({PREFIXES[0]: value}, foreign=True)
    adjacency.want(PREFIXES[0], value)
    assert adjacency.next() is None
    return adjacency


def _obey(adjacency: Adjacency, command: Command) -> None:
    """Take a command and write its UPDATE."""
    assert adjacency.next() == command
    given = adjacency._commands[command.prefix]
    adjacency.taken(given)
    if given.announces:
        adjacency.sent({given.prefix: given.attributes}, frozenset())
    else:
        adjacency.sent({}, frozenset({given.prefix}))


def test_other_attributes_on_the_wire_are_announced_once_more_and_then_the_wanted_ones() -> None:
    adjacency = _carrying(VALUES[0])
    adjacency.sent({PREFIXES[0]: VALUES[1]}, frozenset())
    _obey(adjacency, Command(PREFIXES[0], VALUES[1], announces=True))
    _obey(adjacency, Command(PREFIXES[0], VALUES[0], announces=True))
    assert adjacency.next() is None
    assert adjacency.complete()


def test_a_wanted_route_that_was_withdrawn_is_withdrawn_in_exabgp_too_and_announced_afresh() -> None:
    adjacency = _carrying(VALUES[0])
    adjacency.sent({}, frozenset({PREFIXES[0]}))
    _obey(adjacency, Command(PREFIXES[0], VALUES[0], announces=False))
    _obey(adjacency, Command(PREFIXES[0], VALUES[0], announces=True))
    assert adjacency.next() is None
    assert adjacency.complete()


def test_while_the_session_is_down_attributes_change_by_a_withdraw_and_an_announce() -> None:
    adjacency = _carrying(VALUES[0])
    adjacency.down()
    adjacency.want(PREFIXES[0], VALUES[1])
    withdraw = adjacency.next()
    assert withdraw == Command(PREFIXES[0], VALUES[0], announces=False)
    adjacency.taken(withdraw)
    assert adjacency.next() == Command(PREFIXES[0], VALUES[1], announces=True)


def test_a_route_that_exabgp_holds_and_never_wrote_is_started_over_after_a_hold_time() -> None:
    adjacency = Adjacency()
    adjacency.reread({PREFIXES[0]: VALUES[0]}, foreign=True)
    adjacency.up(frozenset({4}))
    adjacency.want(PREFIXES[0], VALUES[0])
    for _ in range(9):
        adjacency.tick()
        assert adjacency.next() is None
    assert not adjacency.complete()
    adjacency.tick()
    _obey(adjacency, Command(PREFIXES[0], VALUES[0], announces=False))
    _obey(adjacency, Command(PREFIXES[0], VALUES[0], announces=True))
    assert adjacency.next() is None
    assert adjacency.complete()
