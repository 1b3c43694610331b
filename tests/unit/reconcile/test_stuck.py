"""A plane whose thread hangs: whoever waits is told, the other planes go on, and nothing is changed beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from routed.reconcile.lane import Lane
from routed.reconcile.loop import Loop
from routed.threads import apart
from tests.fakes.cni_handler import until
from tests.fakes.plane import DictPlane


class Hanging(DictPlane):
    """Changes things in threads, which nobody can cancel and which hang unless they are free."""

    def __init__(self, *, streams: bool) -> None:
        super().__init__("links")
        self.streams = streams
        self.free = threading.Event()
        self.inside = self.most = 0

    async def upsert(self, items: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await apart(self.free.wait)
            return await super().upsert(items)
        finally:
            self.inside -= 1


@pytest.mark.parametrize("streams", [False, True], ids=["batches", "streams"])
async def test_a_thread_that_hangs_holds_up_its_own_plane_alone(*, streams: bool) -> None:
    links, routes = Hanging(streams=streams), DictPlane("routes")
    loop: Loop[str] = Loop(
        ((links,), (routes,)),
        owners=lambda: ("a",),
        plan=lambda _: ({"link": 1}, {"route": 1}),
        resync_s=0.05,
        timeout_s=0.05,
    )
    running = asyncio.create_task(loop.run())
    try:
        await until(lambda: links.inside > 0, deadline_s=5)
        routes.held["stray"] = 1
        await until(lambda: "stray" not in routes.held, deadline_s=5)
        assert loop.lanes["links"].actual is None, "and the agent says that it is blind"
        links.free.set()
        await loop.wait_for("a", deadline_s=5)
        assert (links.held, routes.held) == ({"link": 1}, {"route": 1})
        assert links.most == 1
    finally:
        links.free.set()
        running.cancel()
        await asyncio.wait([running])


async def test_who_waits_for_a_thread_that_hangs_is_told() -> None:
    plane = Hanging(streams=False)
    lane = Lane(plane, timeout_s=0.05)
    await lane.look()
    try:
        for key in "ab":
            with pytest.raises(TimeoutError, match="links: no answer within"):
                await lane.converge({key: 1})
        assert plane.inside == 1, "nothing is changed beside it"
    finally:
        plane.free.set()
    await until(lambda: not plane.inside, deadline_s=5)
    await lane.converge({"a": 1, "b": 1})
    assert plane.held == {"a": 1, "b": 1}
    assert plane.most == 1


async def test_a_plane_that_is_slow_is_waited_for() -> None:
    """What waits for its turn has all the time that the calls before it may take, and looks that wait are one."""
    plane = DictPlane("links")
    lane = Lane(plane, timeout_s=0.2)
    observed = 0

    async def slowly() -> None:
        nonlocal observed
        while True:
            plane.gate.clear()
            await asyncio.sleep(0.15)
            observed += plane.busy
            plane.gate.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    pace = asyncio.create_task(slowly())
    try:
        changes = (lane.converge({key: 1}) for key in range(5))
        looks = [asyncio.create_task(lane.look()) for _ in range(40)]
        late = asyncio.create_task(lane.converge({"late": 1}))
        looks[0].cancel()
        await asyncio.gather(*changes, late, *looks[1:])
        assert looks[0].cancelled(), "and takes nothing away from the others"
    finally:
        pace.cancel()
    assert plane.held == dict.fromkeys([*range(5), "late"], 1)
    assert observed < 6, "most looks saw what another one saw"


async def test_the_end_of_a_lane_is_the_end_of_its_threads() -> None:
    plane = Hanging(streams=False)
    lane = Lane(plane, timeout_s=0.05)
    await lane.look()
    change = asyncio.create_task(lane.converge({"a": 1}))
    await until(lambda: plane.inside > 0, deadline_s=5)
    asyncio.get_running_loop().call_later(0.2, plane.free.set)
    await lane.end(patience_s=0.1)  # its limit has cancelled the call before: this is the second time
    assert not plane.inside
    with pytest.raises(TimeoutError):
        await change
