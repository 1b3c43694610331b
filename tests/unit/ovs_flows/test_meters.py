"""Whose a meter is, and what it lets pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.meters import BURST_S, from_pod, numbers, owner, to_pod
from ovs_flows.model import Meter

OBJECTS = st.integers(1, 2**16)
RATES = st.integers(1_000, 10**15)


@given(OBJECTS, RATES)
def test_a_meter_names_its_object(number: int, bits_s: int) -> None:
    one, other = to_pod(number, bits_s), from_pod(number, bits_s)
    assert one.number != other.number
    assert owner(one.number) == owner(other.number) == cookie(number)
    assert owner(other.number + 1) == cookie(number + 1)
    assert numbers(cookie(number)) == (one.number, other.number)


def test_neither_the_base_nor_a_stranger_has_meters() -> None:
    assert numbers(cookie(BASE_OBJECT)) == numbers(77) == ()


def test_a_rate_is_what_was_asked_for_and_its_burst_is_what_would_have_waited() -> None:
    assert to_pod(1, 10**9) == Meter(1, 10**6, round(10**6 * BURST_S))


def test_a_burst_holds_two_pieces_of_tcp() -> None:
    assert from_pod(1, 10**6) == Meter(2, 1000, 1024)


@given(OBJECTS, RATES)
def test_open_vswitch_and_the_kernel_can_count_it(number: int, bits_s: int) -> None:
    meter = to_pod(number, bits_s)
    assert 1 <= meter.rate_kbps < 2**32
    assert 1 <= meter.burst_kbit < 2**32
    assert meter.burst_kbit / meter.rate_kbps * 1e9 / 64 < 2**32, "ticks of 64 ns"
