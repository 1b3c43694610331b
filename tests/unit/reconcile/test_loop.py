from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from routed.reconcile import loop as module
from routed.reconcile.loop import Loop
from tests.fakes.plane import DictPlane


class Rig:
    """Two planes, `links` before `routes`, and a desired state to edit."""

    def __init__(self, **options: Any) -> None:
        self.log: list[tuple[str, str, Any]] = []
        self.links, self.routes = DictPlane("links", self.log), DictPlane("routes", self.log)
        self.wanted: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = {}
        self.loop: Loop[str] = Loop(
            ((self.links,), (self.routes,)),
            owners=lambda: tuple(self.wanted),
            plan=lambda owner: self.wanted.get(owner, ({}, {})),
            **{"resync_s": 3600, **options},
        )

    def want(self, owner: str, value: Any = 1) -> None:
        self.wanted[owner] = ({f"link-{owner}": value}, {f"route-{owner}": value})

    def disown(self, owner: str) -> None:
        self.wanted[owner] = ({f"link-{owner}": None}, {f"route-{owner}": None})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        task = asyncio.create_task(self.loop.run())
        try:
            await self.loop.settled()
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)


async def test_an_owner_grows_in_plane_order_and_shrinks_in_reverse() -> None:
    rig = Rig()
    async with rig.running():
        rig.want("a")
        await rig.loop.wait_for("a", deadline_s=5)
        rig.disown("a")
        await rig.loop.wait_for("a", deadline_s=5)
    assert rig.log == [
        ("upsert", "links", "link-a"),
        ("upsert", "routes", "route-a"),
        ("remove", "routes", "route-a"),
        ("remove", "links", "link-a"),
    ]


async def test_an_owner_that_wants_nothing_any_more_is_forgotten() -> None:
    rig = Rig()
    async with rig.running():
        rig.want("a")
        await rig.loop.wait_for("a", deadline_s=5)
        assert set(rig.loop.works()) == {"a"}
        rig.disown("a")
        await rig.loop.wait_for("a", deadline_s=5)
        del rig.wanted["a"]
        await rig.loop.wait_for("a", deadline_s=5)
        assert rig.loop.works() == {}


async def test_what_is_there_already_is_not_touched() -> None:
    rig = Rig()
    rig.want("a")
    rig.links.held, rig.routes.held = {"link-a": 1}, {"route-a": 1}
    async with rig.running():
        await rig.loop.wait_for("a", deadline_s=5)
    assert rig.log == []


async def test_owners_that_come_together_share_a_batch() -> None:
    rig = Rig()
    async with rig.running():
        rig.links.gate.clear()
        for name in "abcd":
            rig.want(name)
        waits = [asyncio.create_task(rig.loop.wait_for(name, deadline_s=5)) for name in "abcd"]
        await rig.until(lambda: bool(rig.links.batches))
        rig.links.gate.set()
        await asyncio.gather(*waits)
    assert rig.links.batches == [frozenset({"link-a", "link-b", "link-c", "link-d"})]


async def test_a_failing_owner_holds_up_nobody_and_is_not_announced() -> None:
    rig = Rig()
    rig.links.refused["link-bad"] = OSError("no such device")
    async with rig.running():
        rig.want("bad")
        rig.want("good")
        await rig.loop.wait_for("good", deadline_s=5)
        with pytest.raises(OSError, match="no such device"):
            await rig.loop.wait_for("bad", deadline_s=0.05)
        assert rig.routes.held == {"route-good": 1}
        rig.links.refused.clear()
        await rig.loop.wait_for("bad", deadline_s=5)
        assert rig.routes.held == {"route-good": 1, "route-bad": 1}


async def test_a_permanent_failure_is_raised_at_once() -> None:
    rig = Rig(is_permanent=lambda error: isinstance(error, ValueError))
    rig.links.refused["link-a"] = ValueError("never")
    async with rig.running():
        rig.want("a")
        async with asyncio.timeout(5):
            with pytest.raises(ValueError, match="never"):
                await rig.loop.wait_for("a", deadline_s=3600)


async def test_drift_is_repaired_after_a_look() -> None:
    rig = Rig()
    rig.want("a")
    async with rig.running():
        rig.routes.held.clear()
        rig.links.held["link-a"] = "changed by hand"
        rig.loop.look("links")
        rig.loop.look("routes")
        await rig.until(lambda: rig.routes.held == {"route-a": 1} and rig.links.held == {"link-a": 1})
        assert rig.loop.drifts["links"] == 1


async def test_a_stray_goes_only_after_two_looks() -> None:
    rig = Rig()
    async with rig.running():
        rig.routes.held["stray"] = 1
        lane = rig.loop.lanes["routes"]
        rig.loop.look("routes")
        await rig.until(lambda: lane.actual == {"stray": 1})
        await rig.loop.wait_for("nobody", deadline_s=5)
        assert rig.routes.held == {"stray": 1}
        rig.loop.look("routes")
        await rig.until(lambda: rig.routes.held == {})


async def test_a_blind_plane_is_never_an_empty_one() -> None:
    rig = Rig()
    rig.want("a")
    async with rig.running():
        rig.routes.held["stray"] = 1
        rig.loop.look("routes")
        await rig.until(lambda: "stray" in (rig.loop.lanes["routes"].actual or {}))
        rig.routes.blind = ConnectionError("down")
        rig.loop.look("routes")
        await rig.until(lambda: rig.loop.lanes["routes"].actual is None)
        with pytest.raises(ConnectionError):
            await rig.loop.wait_for("a", deadline_s=0.05)
        assert rig.routes.held == {"route-a": 1, "stray": 1}
        rig.routes.blind = None
        await rig.loop.wait_for("a", deadline_s=5)


async def test_nothing_happens_before_every_plane_was_seen() -> None:
    rig = Rig()
    rig.want("a")
    rig.routes.blind = ConnectionError("no speaker")
    task = asyncio.create_task(rig.loop.run())
    await rig.until(lambda: rig.loop.lanes["links"].actual == {})
    assert rig.log == []
    rig.routes.blind = None
    await rig.loop.wait_for("a", deadline_s=5)
    task.cancel()
    await asyncio.wait([task])


async def test_what_fails_for_a_while_does_not_count_as_settled() -> None:
    rig = Rig()
    rig.want("a")
    rig.links.refused["link-a"] = OSError("busy")
    async with rig.running():
        settled = asyncio.create_task(rig.loop.settled(patience_s=60))
        rig.links.refused.clear()
        await settled
        assert rig.routes.held == {"route-a": 1}


async def test_inspect_names_every_difference() -> None:
    rig = Rig()
    rig.want("a")
    async with rig.running():
        assert await rig.loop.inspect("a") == []
        rig.routes.held.clear()
        (difference,) = await rig.loop.inspect("a")
        assert (difference.plane, difference.key, difference.wanted, difference.found) == ("routes", "route-a", 1, None)


async def test_a_plane_that_raises_fails_all_of_its_batch_and_is_asked_again() -> None:
    rig = Rig(timeout_s=0.05)
    async with rig.running():
        rig.routes.gate.clear()
        rig.want("a")
        with pytest.raises(TimeoutError):
            await rig.loop.wait_for("a", deadline_s=0.2)
        rig.routes.gate.set()
        await rig.loop.wait_for("a", deadline_s=5)
        assert rig.routes.held == {"route-a": 1}


async def test_wake_ups_of_one_plane_do_not_starve_the_look_at_the_others() -> None:
    rig = Rig(resync_s=0.05)
    rig.want("a")

    async def pester() -> None:
        while True:
            rig.loop.look("links")
            await asyncio.sleep(0.001)

    async with rig.running():
        await rig.loop.wait_for("a", deadline_s=5)
        rig.loop.look("routes")  # what the start left to be looked at
        await rig.until(lambda: not rig.loop._look_at)
        pestering = asyncio.create_task(pester())
        rig.routes.held.clear()
        try:
            await rig.until(lambda: rig.routes.held == {"route-a": 1})
        finally:
            pestering.cancel()


async def test_a_permanent_failure_of_an_earlier_wish_is_not_reported_for_a_later_one() -> None:
    rig = Rig(is_permanent=lambda error: isinstance(error, ValueError))
    rig.links.refused["link-a"] = ValueError("never")
    async with rig.running():
        rig.links.gate.clear()
        rig.want("a")
        rig.loop.touch("a")
        await rig.until(lambda: bool(rig.links.batches))
        rig.disown("a")
        waiting = asyncio.create_task(rig.loop.wait_for("a", deadline_s=5))
        await rig.until(lambda: rig.loop.works()["a"].asked == 2)
        rig.links.gate.set()
        await waiting


async def test_a_plane_that_does_not_answer_is_named() -> None:
    rig = Rig(timeout_s=0.05)
    async with rig.running():
        rig.routes.gate.clear()
        rig.want("a")
        with pytest.raises(TimeoutError, match=r"routes: no answer within 0\.05 s"):
            await rig.loop.wait_for("a", deadline_s=0.2)


async def test_what_an_owner_wanted_before_does_not_finish_it() -> None:
    finished: list[str] = []

    async def finish(owner: str) -> None:
        finished.append(f"{owner} {rig.log[-1][0]}")

    rig = Rig(finish=finish)
    async with rig.running():
        rig.routes.gate.clear()
        rig.want("a")
        rig.loop.touch("a")
        await rig.until(lambda: bool(rig.routes.batches))
        rig.disown("a")
        rig.loop.touch("a")
        rig.routes.gate.set()
        await rig.loop.wait_for("a", deadline_s=5)
    assert set(finished) == {"a remove"}


# ---- the end of the loop


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_end_waits_for_a_change_that_has_begun() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.loop.run())
    await rig.loop.settled()
    rig.links.gate.clear()
    rig.want("a")
    rig.loop.touch("a")
    await rig.until(lambda: rig.links.busy)
    task.cancel()
    await turns()
    assert not task.done()
    rig.links.gate.set()
    await asyncio.wait([task])
    assert rig.links.held == {"link-a": 1}
    assert rig.routes.held == {}, "nothing begins any more"


async def test_the_end_cancels_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    rig = Rig()
    async with rig.running():
        rig.links.gate.clear()
        rig.want("a")
        rig.loop.touch("a")
        await rig.until(lambda: rig.links.busy)
    assert not rig.links.busy
    rig.links.gate.set()
    await turns()
    assert rig.links.held == {}


class Threaded(DictPlane):
    """Waits for the end of a change also when cancelled, as one does that a thread makes."""

    async def upsert(self, items: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        change = asyncio.create_task(super().upsert(items))
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            await change
            raise


async def test_the_end_waits_for_every_plane_of_a_stage() -> None:
    slow, quick = Threaded("links"), DictPlane("ports")
    slow.streams = quick.streams = True
    loop: Loop[str] = Loop([[slow, quick]], owners=list, plan=lambda _: ({"link": 1}, {"port": 1}))
    task = asyncio.create_task(loop.run())
    await loop.settled()
    slow.gate.clear()
    quick.gate.clear()
    loop.touch("a")
    async with asyncio.timeout(5):
        while not (slow.busy and quick.busy):
            await asyncio.sleep(0)
    task.cancel()
    await turns()
    assert not task.done()
    slow.gate.set()
    await asyncio.wait([task])
    assert (slow.busy, slow.held, quick.held) == (False, {"link": 1}, {})
