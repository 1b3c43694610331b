"""What a speaker takes over from an ExaBGP that it did not start: routes that nobody may ever ask it for again."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from bgp.adjacency import Adjacency
from bgp.model import Attributes

PREFIX = IPv4Network("10.101.0.2/32")
OLD = Attributes(next_hop=IPv4Address("10.1.0.11"))
NEW = Attributes(next_hop=IPv4Address("10.1.0.11"), med=100)


def adopted() -> Adjacency:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.reread({PREFIX: OLD}, foreign=True)
    return adjacency


def test_an_adopted_route_is_given_to_the_next_exabgp_before_all_is_told() -> None:
    adjacency = adopted()
    assert adjacency.next() is None, "the running one has it"
    adjacency.down()
    adjacency.reread({}, foreign=False)
    adjacency.up(frozenset({4}))
    assert not adjacency.complete(), "an End-of-RIB now would make the neighbour drop the route"
    command = adjacency.next()
    assert command is not None
    assert (command.prefix, command.attributes, command.announces) == (PREFIX, OLD, True)


def test_what_is_asked_for_wins_over_what_was_adopted() -> None:
    adjacency = Adjacency()
    adjacency.up(frozenset({4}))
    adjacency.want(PREFIX, NEW)
    adjacency.reread({PREFIX: OLD}, foreign=True)
    assert adjacency.wanted == {PREFIX: NEW}


def test_an_adopted_route_that_is_disowned_is_withdrawn() -> None:
    adjacency = adopted()
    adjacency.want(PREFIX, None)
    command = adjacency.next()
    assert command is not None
    assert not command.announces
