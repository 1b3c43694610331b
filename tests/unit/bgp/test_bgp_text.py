"""Lines to ExaBGP and lines from it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import events, text
from bgp.errors import ConfigError, InvalidRouteError, ProtocolError
from bgp.model import Attributes, Neighbor, SpeakerConfig

TOR = IPv4Address("10.99.0.11")
OTHER_TOR = IPv4Address("10.99.0.12")
HOP = IPv4Address("10.99.0.1")
NAME = "neighbor 10.99.0.11 local-ip 10.99.0.1 local-as 65001 peer-as 65011 router-id 10.99.0.1 family-allowed in-open"

short = st.integers(0, 0xFFFF)
long = st.integers(0, 0xFFFF_FFFF)
communities = st.lists(
    st.one_of(st.tuples(short, short), st.tuples(long, long, long)).map(lambda parts: ":".join(map(str, parts)))
).map(tuple)


def test_announce_and_withdraw_differ_in_one_word() -> None:
    attributes = Attributes(HOP, 100, ("65001:1:2", "65001:9", "65001:10"))
    prefixes = [IPv4Network("10.101.0.1/32"), IPv4Network("10.101.0.2/32")]
    announce = text.announce([TOR], prefixes, attributes)
    assert announce == (
        "neighbor 10.99.0.11 announce attributes next-hop 10.99.0.1 med 100 "
        "community [65001:9 65001:10] large-community [65001:1:2] nlri 10.101.0.1/32 10.101.0.2/32"
    )
    assert text.withdraw([TOR], prefixes, attributes) == announce.replace("announce", "withdraw")


def test_one_line_tells_several_neighbours() -> None:
    prefix = IPv4Network("10.101.0.1/32")
    line = text.announce([TOR, OTHER_TOR], [prefix], Attributes(HOP))
    assert line == (
        "neighbor 10.99.0.11 , neighbor 10.99.0.12 announce attributes next-hop 10.99.0.1 nlri 10.101.0.1/32"
    )


def test_end_of_rib_names_its_family() -> None:
    assert text.end_of_rib(TOR, 6) == "neighbor 10.99.0.11 announce eor ipv6 unicast"


@given(st.ip_addresses(), st.none() | long, communities)
def test_a_row_of_adj_rib_out_is_read_as_it_was_announced(
    hop: IPv4Address | IPv6Address, med: int, some: tuple[str]
) -> None:
    attributes = Attributes(hop, med, some)
    prefix = ip_network(f"{hop}/{hop.max_prefixlen}")
    said, _, of = text.announce([TOR], [prefix], attributes).partition("announce attributes ")[2].partition(" nlri ")
    line = f"{of} {said}"
    # ExaBGP leaves the brackets out around a single community.
    shown = line.replace("[", "[ ").replace("]", " ]")
    for count in (1, 2):
        only = [word for word in attributes.communities if word.count(":") == count]
        if len(only) == 1:
            shown = shown.replace(f"[ {only[0]} ]", only[0])
    assert text.parse_route(f"{NAME} ipv{hop.version} unicast {shown}") == (TOR, prefix, attributes)


@pytest.mark.parametrize(
    "line", ["", "done", f"{NAME} ipv4 unicast 10.0.0.1/33 next-hop 10.0.0.1", "neighbor 10.99.0.11 {"]
)
def test_another_row_is_an_error_never_nothing(line: str) -> None:
    with pytest.raises(ProtocolError):
        text.parse_route(line)


def test_generations_are_found_in_the_configuration_that_exabgp_shows() -> None:
    lines = [
        "neighbor 10.99.0.11 {",
        '  description "tor1 abc";',
        "  hold-time 9;",
        "}",
        "neighbor fd99::2 {",
        '  description "";',
    ]
    assert text.parse_generations(lines) == {TOR: "tor1 abc", IPv6Address("fd99::2"): ""}


def test_equal_sets_of_communities_are_equal_values() -> None:
    assert Attributes(HOP, None, ("1:02", "1:1", "1:1")) == Attributes(HOP, None, ("1:1", "1:2"))


@pytest.mark.parametrize(
    "word", ["graceful-shutdown", "1:1 shutdown", "65536:1", "1:2:3:4", "", "1", "no-export", "1:1]"]
)
def test_communities_are_numbers(word: str) -> None:
    with pytest.raises(InvalidRouteError):
        Attributes(HOP, None, (word,))


@pytest.mark.parametrize("med", [-1, 1 << 32])
def test_med_fits_its_field(med: int) -> None:
    with pytest.raises(InvalidRouteError):
        Attributes(HOP, med)


@pytest.mark.parametrize("password", ["", "two words", 'quo"te', "semi;colon", "back\\slash", "x" * 81, "schlüssel"])
def test_a_password_that_the_file_cannot_carry_is_refused(password: str) -> None:
    with pytest.raises(ConfigError, match="password"):
        Neighbor(TOR, 65011, "tor1", password)


def test_a_password_is_never_printed() -> None:
    assert "hush" not in repr(Neighbor(TOR, 65011, "tor1", "hush"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hold_time_s", 2),
        ("graceful_restart_s", 0),
        ("graceful_restart_s", 4096),
        ("listen_port", 0),
        ("local_as", 0),
        ("local_address", IPv6Address("fd99::1")),
        ("neighbors", (Neighbor(TOR, 1, "a"), Neighbor(TOR, 2, "b"))),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_the_name_of_its_key(key: str, value: object) -> None:
    fields: dict[str, Any] = {
        "local_as": 1,
        "router_id": HOP,
        "local_address": HOP,
        "neighbors": (Neighbor(TOR, 65011, "tor1"),),
    }
    with pytest.raises(ConfigError, match=key):
        SpeakerConfig(**(fields | {key: value}))


HEAD = '{ "exabgp": "5.0.0", "time": 1.5, "host" : "h", "pid" : 1, "ppid" : 1, "counter": 4, '
PEER = '"neighbor": { "address": { "local": "10.99.0.1", "peer": "10.99.0.11" }, "asn": { "local": 1, "peer": 2 } , '


def event(kind: str, rest: str) -> events.Event | None:
    return events.parse(f'{HEAD}"type": "{kind}", {PEER}{rest}'.encode())


def test_an_update_tells_its_routes_with_all_their_attributes() -> None:
    seen = event(
        "update",
        '"direction": "send", "message": { "update": { "attribute": { "origin": "igp", "med": 7, '
        '"community": [ [ 1, 2 ] ], "large-community": [ [ 1, 2 , 3 ] ] }, '
        '"announce": { "ipv6 unicast": { "fd99::1": [ { "nlri": "fd01::1/128" } ] } }, '
        '"withdraw": { "ipv4 unicast": [ { "nlri": "10.0.0.1/32" } ] } } } } }',
    )
    attributes = Attributes(IPv6Address("fd99::1"), 7, ("1:2", "1:2:3"))
    assert seen == events.UpdateSent(
        TOR, {IPv6Network("fd01::1/128"): attributes}, frozenset({IPv4Network("10.0.0.1/32")})
    )


def test_end_of_rib_state_and_families() -> None:
    eor = '"direction": "send", "message": { "eor": { "afi" : "ipv6", "safi" : "unicast" } } } }'
    assert event("update", eor) == events.EndOfRibSent(TOR, 6)
    assert event("state", '"state": "up" } }') == events.SessionUp(TOR)
    assert event("state", '"state": "connected" } }') is None
    assert event("state", '"state": "down", "reason": "why" } }') == events.SessionDown(TOR, "why")
    negotiated = event("negotiated", '"negotiated": { "families": ["ipv4 unicast", "l2vpn vpls"] } } }')
    assert negotiated == events.Negotiated(TOR, frozenset({4}))


def test_what_others_sent_is_no_news_of_ours() -> None:
    assert event("update", '"direction": "receive", "message": { } } }') is None
    other = '"update": { "announce": { "ipv4 unicast": { "10.255.1.1": [ { "nlri": "10.0.0.0/8" } ] } } }'
    assert event("update", f'"direction": "receive", "message": {{ {other} }} }} }}') is None
    assert events.parse(b'{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }') is None


def test_default_routes_that_a_neighbour_gives_or_takes_are_news() -> None:
    given = '"update": { "announce": { "ipv4 unicast": { "10.255.1.1": [ { "nlri": "0.0.0.0/0" } ] } } }'
    taken = '"update": { "withdraw": { "ipv6 unicast": [ { "nlri": "::/0" } ] } }'
    four, six, none = frozenset({4}), frozenset({6}), frozenset[int]()
    for message, expected in ((given, (four, none)), (taken, (none, six))):
        found = event("update", f'"direction": "receive", "message": {{ {message} }} }} }}')
        assert found == events.DefaultsReceived(TOR, *expected)


def test_received_routes_are_read_and_junk_is_not() -> None:
    assert text.parse_received("10.99.0.11 ipv6 unicast ::/0") == (TOR, ip_network("::/0"))
    with pytest.raises(ProtocolError):
        text.parse_received("10.99.0.11 ipv6")


@pytest.mark.parametrize("line", [b"{", b"{}", b'{"type": "update"}', b'{"type": "relay"}'])
def test_junk_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        events.parse(line)


def test_a_session_of_less_than_a_second_is_established() -> None:
    shown = '[{"state": "down", "fsm": "ESTABLISHED", "peer": {"address": "10.99.0.11"}, "families": '
    shown += '["ipv4 unicast"], "duration": 7}]'
    assert events.parse_sessions([shown]) == [
        events.Session(ip_address("10.99.0.11"), established=True, versions=frozenset({4}), age_s=7.0)
    ]
