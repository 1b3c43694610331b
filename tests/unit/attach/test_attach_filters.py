"""Filters as messages of netlink: what is asked for is what is read back."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.attach.doors import filters as of_door
from routed.attach.filters import (
    CHAIN,
    CLOSED,
    ETH_ALL,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    NEIGHBOUR_MESSAGES,
    PRIORITIES,
    Filter,
    Hook,
    Verdict,
    add_filter,
    hand_over,
    of_destination,
    of_source,
    own_alone,
    read,
)
from routed.attach.passages import filters
from routed.domain.wiring import FENCED, Door, Passage

MAC = "02:10:00:00:01:0c"
HANDLE = slice(24, 28)
"""Of a tcmsg behind a netlink header."""
VERDICTS = st.sampled_from([Verdict.PASS, Verdict.DROP, Verdict.LOOK_ON])
V4 = st.ip_addresses(v=4).map(ip_network)
V6 = st.ip_addresses(v=6).map(ip_network)
PREFIXES = V4 | V6 | st.sampled_from([ip_network("10.101.0.0/24"), ip_network("fd00:101::/64")])
FILTERS = st.one_of(
    st.builds(of_source, st.sampled_from(Hook), VERDICTS, PREFIXES, st.none() | st.just(MAC)),
    st.builds(of_destination, st.sampled_from(Hook), VERDICTS, PREFIXES, st.sampled_from([0, CHAIN])),
    st.builds(
        of_destination,
        st.sampled_from(Hook),
        st.just(Verdict.OUT),
        PREFIXES,
        st.sampled_from([0, CHAIN]),
        st.integers(1, 2**31 - 1),
    ),
    st.builds(hand_over, st.sampled_from(Hook), PREFIXES, st.just(MAC)),
    st.builds(Filter, st.sampled_from(Hook), VERDICTS, source=V4, protocol=st.just(ETH_ARP)),
    st.builds(Filter, st.sampled_from(Hook), VERDICTS, group=st.booleans()),
    st.builds(
        Filter,
        st.sampled_from(Hook),
        VERDICTS,
        protocol=st.just(ETH_IPV6),
        neighbours=st.sampled_from(NEIGHBOUR_MESSAGES),
    ),
)


def answer(one: Filter, handle: int = 1) -> bytearray:
    """Return the kernel's words for a filter: those of the request, with a handle."""
    body = bytearray(add_filter(7, one).frame)
    body[HANDLE] = handle.to_bytes(4, "little")
    return body


@given(one=FILTERS, handle=st.integers(1, 2**32 - 1))
def test_a_filter_is_read_back_as_it_was_asked_for(one: Filter, handle: int) -> None:
    assert read(bytes(answer(one, handle))) == (one, handle)


def test_the_head_of_a_priority_is_no_filter() -> None:
    assert read(bytes(answer(of_source(Hook.EGRESS, Verdict.DROP, ip_network("10.0.0.1/32")), handle=0))) is None


@pytest.mark.parametrize("priority", [1, PRIORITIES[0] - 1, PRIORITIES[-1] + 1, 49152])
def test_what_has_a_priority_of_others_is_not_ours(priority: int) -> None:
    body = answer(of_source(Hook.EGRESS, Verdict.DROP, ip_network("10.0.0.1/32")))
    body[34:36] = priority.to_bytes(2, "little")
    assert read(bytes(body)) is None


def test_a_redirection_to_a_device_that_has_gone_is_another_filter() -> None:
    one = of_destination(Hook.EGRESS, Verdict.OUT, ip_network("10.0.0.1/32"), CHAIN, 8)
    gone = answer(replace(one, device=0))
    assert read(bytes(gone)) != (one, 1)


@given(one=FILTERS, other=FILTERS)
def test_no_priority_has_two_protocols(one: Filter, other: Filter) -> None:
    """The kernel refuses the second one."""
    assert one.priority in PRIORITIES
    if (one.hook, one.chain, one.priority) == (other.hook, other.chain, other.priority):
        assert one.protocol == other.protocol


def test_the_page_takes_away_filters_of_every_priority() -> None:
    page = (Path(__file__).parents[3] / "docs/ipvlan.md").read_text()
    [(first, end)] = re.findall(r"\$5 >= (\d+) && \$5 < (\d+)", page)
    assert range(int(first), int(end)) == PRIORITIES


def test_what_passes_stands_before_what_drops_and_what_nobody_may_send_before_both() -> None:
    found = own_alone(Hook.EGRESS, frozenset({ip_network("10.101.0.7/32"), ip_network("fd00:101::7/128")}), MAC)
    order = [(one.verdict, one.protocol) for one in sorted(found, key=lambda one: one.priority)]
    assert order == [
        (Verdict.DROP, ETH_IPV6),
        (Verdict.DROP, ETH_IPV6),
        (Verdict.DROP, ETH_ALL),
        (Verdict.LOOK_ON, ETH_IPV4),
        (Verdict.LOOK_ON, ETH_IPV6),
        (Verdict.DROP, ETH_ALL),
    ]
    assert all(one.mac == MAC for one in found if one.verdict is Verdict.LOOK_ON)


def test_what_is_for_the_server_stands_before_what_goes_out_and_a_closed_door_has_nothing_of_its_own() -> None:
    served = frozenset({ip_network("10.1.0.12/32"), ip_network("fd00:96::/112")})
    door = Door("02:00:00:00:01:01", MAC, frozenset({ip_address("10.101.0.7")}), frozenset(), served)
    found = of_door(door, 5)
    beyond = sorted((one for one in found if one.chain), key=lambda one: one.priority)
    assert [one.verdict for one in beyond] == [Verdict.PASS, Verdict.PASS, Verdict.OUT]
    assert beyond[-1].device == 5
    assert found >= CLOSED


@pytest.mark.parametrize("prefix", [ip_network("10.101.0.0/24"), ip_network("fd00:101::/64")])
def test_a_fence_stands_behind_the_passages_through_it(prefix: object) -> None:
    pool = ip_network(str(prefix))
    pod = ip_network(pool.network_address + 7)
    fence, passage = filters(pool, FENCED, MAC), filters(pod, Passage("rt3"), MAC)
    for hook in Hook:
        first = [one.priority for one in passage if one.hook is hook and not one.chain]
        assert max(first) < min(one.priority for one in fence if one.hook is hook)
