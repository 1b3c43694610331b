"""Whose turn it is on a plane: batches alone, streams beside each other, looks alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from routed.reconcile.lane import Lane
from tests.fakes.plane import DictPlane


class Streaming(DictPlane):
    """Lets upserts in beside each other, and counts them."""

    def __init__(self) -> None:
        super().__init__("links")
        self.streams = True
        self.inside = self.most = 0

    async def upsert(self, items: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            self.held.update(items)
        finally:
            self.inside -= 1
        return {}


async def test_a_streaming_plane_gets_every_key_at_once() -> None:
    plane = Streaming()
    lane = Lane(plane, timeout_s=5)
    await lane.look()
    plane.gate.clear()
    async with asyncio.TaskGroup() as group:
        for key in range(3):
            group.create_task(lane.converge({key: 1}))
        while plane.inside < 3:
            await asyncio.sleep(0)
        plane.gate.set()
    assert plane.most == 3
    assert lane.actual == {0: 1, 1: 1, 2: 1}


async def test_a_look_waits_for_what_streams_and_keeps_others_out() -> None:
    plane = Streaming()
    lane = Lane(plane, timeout_s=5)
    await lane.look()
    plane.gate.clear()
    first = asyncio.create_task(lane.converge({"a": 1}))
    while not plane.inside:
        await asyncio.sleep(0)
    look = asyncio.create_task(lane.look())
    await asyncio.sleep(0)
    second = asyncio.create_task(lane.converge({"b": 1}))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not look.done()
    assert plane.inside == 1
    plane.gate.set()
    await asyncio.gather(first, look, second)
    assert lane.actual == {"a": 1, "b": 1}


async def test_a_cancelled_change_is_doubted() -> None:
    plane = Streaming()
    lane = Lane(plane, timeout_s=5)
    await lane.look()
    plane.gate.clear()
    change = asyncio.create_task(lane.converge({"a": 1}))
    while not plane.inside:
        await asyncio.sleep(0)
    change.cancel()
    await asyncio.wait([change])
    plane.gate.set()
    assert lane.differs("a", 1)
    await lane.converge({"a": 1})
    assert not lane.differs("a", 1)


async def test_who_gives_up_takes_nothing_away_from_the_others_of_its_batch() -> None:
    plane = DictPlane("flows")
    plane.refused = {"b": ValueError("no")}
    lane = Lane(plane, timeout_s=5)
    await lane.look()
    plane.gate.clear()
    impatient, refused, served = (asyncio.create_task(lane.converge({key: 1})) for key in "abc")
    while not plane.busy:
        await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    plane.gate.set()
    await asyncio.wait([refused, served])
    assert plane.batches == [frozenset("abc")]
    assert impatient.cancelled()
    assert refused.exception() is plane.refused["b"]
    assert served.exception() is None
    assert lane.actual is not None
    assert not lane.differs("a", 1), "it has happened all the same"
