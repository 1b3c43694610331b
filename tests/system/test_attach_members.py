"""A member is watched by itself: its carrier, and the gateway's answers that come in by it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from routed.attach.announce import Asker
from routed.attach.answers import DeviceEvent, Event
from routed.attach.members import Members
from routed.attach.monitor import Monitor
from tests.fixtures.pods import Pod, run
from tests.fixtures.uplinks import ASKERS, Rack, arp_start, first, listen, monitor, rack

__all__ = ["monitor", "rack"]
pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

PROBE_S = 0.02
DARK, MUTE4, MUTE6 = ("no carrier",), ("10.1.0.1 does not answer",), ("fd00:1::1 does not answer",)


def answer(tor: Pod) -> None:
    tor.run("ip", "address", "add", "10.1.0.1/24", "dev", "eth0")
    tor.run("ip", "address", "add", "fd00:1::1/64", "dev", "eth0", "nodad")


def be_silent(tor: Pod) -> None:
    tor.run("ip", "address", "flush", "dev", "eth0")


@pytest.fixture
def answering(rack: Rack) -> Rack:
    for tor in rack.tors:
        answer(tor)
    return rack


class Watch:
    """Members at work; `until` waits for the moment in which they say something, by what they tell unasked."""

    def __init__(self, monitor: Monitor, asker: Asker, probe_s: float | None) -> None:
        self.woken = asyncio.Event()
        self.members = Members("br0", ("etha", "ethb"), asker, monitor, self.woken.set, probe_s=probe_s)

    def faults(self) -> list[tuple[str, ...]]:
        return [self.members.faults(name) for name in ("etha", "ethb")]

    async def until(self, *faults: tuple[str, ...]) -> None:
        async with asyncio.timeout(10):
            while self.faults() != [*faults]:
                self.woken.clear()
                await self.woken.wait()


@contextlib.asynccontextmanager
async def watching(monitor: Monitor, asker: Asker = ASKERS[0], probe_s: float | None = PROBE_S) -> AsyncIterator[Watch]:
    watch = Watch(monitor, asker, probe_s)
    await watch.members.first_look()
    running = asyncio.create_task(watch.members.run())
    try:
        yield watch
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def plain(_: Rack) -> None:
    """Members that belong to nobody."""


def bridged(_: Rack) -> None:
    """Members that belong to a bridge: it takes their frames before any protocol sees them."""
    for member in ("etha", "ethb"):
        run("ip", "link", "set", member, "master", "br0")


@pytest.mark.parametrize("arrange", [plain, bridged])
@pytest.mark.parametrize(("asker", "mute"), [(ASKERS[0], MUTE4), (ASKERS[1], MUTE6)])
async def test_a_gateway_that_falls_silent_behind_one_member_is_found_there(
    answering: Rack, monitor: Monitor, asker: Asker, mute: tuple[str, ...], arrange: Callable[[Rack], None]
) -> None:
    arrange(answering)
    async with watching(monitor, asker) as watch:
        assert watch.faults() == [(), ()], "the first look waits for the first answer"
        be_silent(answering.tors[0])
        await watch.until(mute, ())
        answer(answering.tors[0])
        await watch.until((), ())


async def test_a_gateway_that_nobody_hears_is_no_fault_of_a_member(answering: Rack, monitor: Monitor) -> None:
    async with watching(monitor) as watch:
        for tor in answering.tors:
            be_silent(tor)
        with listen("etha") as wire:
            for _ in range(10):
                await asyncio.to_thread(first, wire, arp_start())
        assert watch.faults() == [(), ()]


async def test_without_probes_only_carrier_counts(answering: Rack, monitor: Monitor) -> None:
    """The control of the test above."""
    be_silent(answering.tors[0])
    async with watching(monitor, probe_s=None) as watch:
        assert watch.faults() == [(), ()]


async def test_a_member_that_never_answered_is_silent_from_the_start(rack: Rack, monitor: Monitor) -> None:
    answer(rack.tors[1])
    async with watching(monitor) as watch:
        assert watch.faults() == [MUTE4, ()]


async def test_carrier_is_told_at_once_and_an_old_answer_does_not_count_after_it(
    answering: Rack, monitor: Monitor
) -> None:
    tor = answering.tors[1]
    async with watching(monitor) as watch:
        tor.run("ip", "link", "set", "eth0", "down")
        await watch.until((), DARK)
        be_silent(tor)
        tor.run("ip", "link", "set", "eth0", "up")
        await watch.until((), MUTE4)
        answer(tor)
        await watch.until((), ())


async def test_a_member_may_go_and_come_back(answering: Rack, monitor: Monitor) -> None:
    tor = answering.tors[0]
    async with watching(monitor) as watch:
        run("ip", "link", "delete", "etha")
        await watch.until(DARK, ())
        run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "eth0", "netns", tor.path)
        run("ip", "link", "set", "etha", "up")
        tor.run("ip", "link", "set", "eth0", "up")
        answer(tor)
        await watch.until((), ())


class Late(ThreadPoolExecutor):
    """Hands over no result before it may."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.done = asyncio.Event()
        self.may = threading.Event()

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        loop = asyncio.get_running_loop()

        def late() -> Any:
            result = call(*args, **named)
            loop.call_soon_threadsafe(self.done.set)
            assert self.may.wait(20)
            return result

        return super().submit(late)


@pytest.mark.parametrize("told", [True, False])
async def test_a_look_overtaken_by_an_event_counts_only_for_what_it_did_not_tell_of(
    rack: Rack, monitor: Monitor, *, told: bool
) -> None:
    asyncio.get_running_loop().set_default_executor(late := Late())
    watch = Watch(monitor, ASKERS[0], probe_s=None)
    dark = asyncio.Event()

    def notice(event: Event | None) -> None:
        if isinstance(event, DeviceEvent) and event.device.name == "etha" and not event.device.carrier:
            dark.set()

    monitor.subscribe(notice)
    looking = asyncio.create_task(watch.members.first_look())
    try:
        async with asyncio.timeout(10):
            await late.done.wait()
            if told:
                rack.tors[0].run("ip", "link", "set", "eth0", "down")
                await dark.wait()
    finally:
        late.may.set()
        await looking
    assert watch.faults() == [DARK if told else (), ()]
