"""Whoever looks at the switch through somebody else's eyes: how often it is bothered, and how long anybody waits."""

from __future__ import annotations

import asyncio

import pytest

from ovs_flows.errors import Unreachable
from ovs_flows.glance import Glance


class Switch:
    """Answers when it may: how often it was asked, by then."""

    def __init__(self) -> None:
        self.asked = 0
        self.well = True
        self.awake = asyncio.Event()
        self.awake.set()

    async def look(self) -> int:
        self.asked += 1
        await self.awake.wait()
        if not self.well:
            raise Unreachable("no switch")
        return self.asked


async def test_all_who_ask_at_once_or_soon_after_share_a_look() -> None:
    switch = Switch()
    glance = Glance(switch.look, fresh_s=60, patience_s=60)
    assert await asyncio.gather(*(glance.take() for _ in range(5))) == [1] * 5
    assert await glance.take() == 1
    assert switch.asked == 1


async def test_what_is_stale_is_looked_at_anew() -> None:
    switch = Switch()
    glance = Glance(switch.look, fresh_s=0, patience_s=60)
    assert [await glance.take(), await glance.take()] == [1, 2]


async def test_nobody_waits_for_a_switch_that_hangs_and_nobody_asks_it_twice() -> None:
    switch = Switch()
    switch.awake.clear()
    glance = Glance(switch.look, fresh_s=60, patience_s=0.01)
    async with asyncio.timeout(5):
        assert [await glance.take(), await glance.take()] == [None, None]
    assert switch.asked == 1
    switch.awake.set()
    async with asyncio.timeout(5):
        while (found := await glance.take()) is None:
            pass
    assert found == 1, "the look that went on meanwhile"


@pytest.mark.parametrize(("fresh_s", "asked"), [(60, 1), (0, 2)])
async def test_a_switch_that_is_gone_is_not_known_and_asked_no_more_often(fresh_s: float, asked: int) -> None:
    switch = Switch()
    switch.well = False
    glance = Glance(switch.look, fresh_s=fresh_s, patience_s=60)
    assert [await glance.take(), await glance.take()] == [None, None]
    assert switch.asked == asked


async def test_a_bug_is_not_hidden() -> None:
    async def look() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await Glance(look, fresh_s=60, patience_s=60).take()
