"""What the switches forward while ExaBGP dies, hangs, or is left by its agent; counted in their kernels."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bgp import config, text
from tests.fixtures.speakers import (
    BareExabgp,
    arrived,
    both_up,
    prefixes,
    silence,
    speaker_config,
    speaking,
    to_all,
    wired_rack,
)
from tests.fixtures.tors import FibWatch, Rack, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bgp.speaker import Speaker

pytestmark = pytest.mark.system

ROUTES = prefixes(120)


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with wired_rack() as rack:
        rack.start()
        yield rack


@contextmanager
def watching(rack: Rack) -> Iterator[list[FibWatch]]:
    watches = [FibWatch(tor) for tor in rack.tors]
    try:
        yield watches
    finally:
        for watch in watches:
            watch.close()


async def _forwarded(rack: Rack) -> None:
    await eventually(lambda: all(tor.fib() == set(ROUTES) for tor in rack.tors), "both switches forward all routes")


async def _replaced(speaker: Speaker, pid: int | None) -> None:
    await eventually(lambda: speaker.pid not in {pid, None} and both_up(speaker), "another ExaBGP has told everything")


async def test_exabgp_killed_is_replaced_and_nothing_is_deleted(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await _forwarded(rack)
        with watching(rack) as watches:
            for _ in range(2):
                pid = speaker.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await _replaced(speaker, pid)
            await arrived(rack, to_all(rack, ROUTES))
            assert [watch.deleted() for watch in watches] == [0, 0]


async def test_without_graceful_restart_a_killed_exabgp_deletes_all(rack: Rack) -> None:
    async with speaking(rack, graceful_restart_s=None) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await _forwarded(rack)
        with watching(rack) as watches:
            pid = speaker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await _replaced(speaker, pid)
            await _forwarded(rack)
            assert [watch.deleted() for watch in watches] == [len(ROUTES), len(ROUTES)]


async def test_exabgp_that_hangs_is_replaced_before_the_hold_time_ends(rack: Rack) -> None:
    async with speaking(rack, hold_time_s=3) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await _forwarded(rack)
        with watching(rack) as watches:
            pid = speaker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await _replaced(speaker, pid)
            await arrived(rack, to_all(rack, ROUTES))
            assert [watch.deleted() for watch in watches] == [0, 0]
            assert not any("Hold Timer" in str(tor.session().get("lastResetDueTo")) for tor in rack.tors)


async def test_an_end_of_rib_before_the_routes_deletes_them(rack: Rack) -> None:
    hasty = [section.replace("manual-eor true", "manual-eor false") for section in _sections(rack)]
    routes = [text.announce([key.neighbor], [key.prefix], value) for key, value in to_all(rack, ROUTES).items()]
    async with BareExabgp(rack, hasty) as exabgp:
        await eventually(lambda: exabgp.ups() == 2, "both sessions are up")
        exabgp.write(routes)
        await _forwarded(rack)
    with watching(rack) as watches:
        async with BareExabgp(rack, hasty) as exabgp:
            await eventually(lambda: sum('"eor"' in line for line in exabgp.lines) == 4, "End-of-RIB left by itself")
            await eventually(lambda: not any(tor.fib() for tor in rack.tors), "the switches dropped what they had kept")
            exabgp.write(routes)
            await _forwarded(rack)
        assert [watch.deleted() for watch in watches] == [len(ROUTES), len(ROUTES)]


def _sections(rack: Rack) -> list[str]:
    return list(config.sections(speaker_config(rack)).values())


async def test_no_end_of_rib_leaves_before_the_desired_set_is_known(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await _forwarded(rack)
    await silence(rack)
    with watching(rack) as watches:
        async with speaking(rack, authoritative=False) as speaker:
            await speaker.upsert(to_all(rack, ROUTES[:30]))
            await eventually(
                lambda: all(status.routes == {4: 24, 6: 6} for status in speaker.neighbors().values()), "a part is told"
            )
            await speaker.observe()
            assert not any(status.end_of_rib for status in speaker.neighbors().values())
            await speaker.upsert(to_all(rack, ROUTES[30:-1]))
            speaker.authoritative()
            await eventually(lambda: both_up(speaker), "End-of-RIB left")
            await arrived(rack, to_all(rack, ROUTES[:-1]))
            await eventually(
                lambda: [watch.deleted() for watch in watches] == [1, 1], "the one that went meanwhile went"
            )


async def test_a_new_speaker_adopts_the_running_exabgp(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
        await _forwarded(rack)
        pid = speaker.pid
    with watching(rack) as watches:
        async with speaking(rack, authoritative=False) as speaker:
            assert await speaker.observe() == to_all(rack, ROUTES), "attributes included"
            assert speaker.pid == pid
            assert [status.ups for status in speaker.neighbors().values()] == [1, 1]
            updates = [tor.session()["messageStats"]["updatesRecv"] for tor in rack.tors]
            await speaker.upsert(to_all(rack, ROUTES[:-2]))
            await speaker.remove(to_all(rack, ROUTES[-1:]).keys())
            await speaker.upsert(to_all(rack, ROUTES[-2:-1], med=7))
            speaker.authoritative()
            await eventually(lambda: both_up(speaker), "End-of-RIB left")
            await arrived(rack, to_all(rack, ROUTES[:-2]) | to_all(rack, ROUTES[-2:-1], med=7))
            assert [watch.deleted() for watch in watches] == [1, 1]
            told = [tor.session()["messageStats"]["updatesRecv"] for tor in rack.tors]
            assert [now - then for now, then in zip(told, updates, strict=True)] == [4, 4], (
                "two changes, two End-of-RIB"
            )
    assert [tor.session()["connectionsEstablished"] for tor in rack.tors] == [1, 1]


async def test_a_speaker_that_dies_in_the_middle_leaves_no_half_command(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await eventually(lambda: both_up(speaker), "both sessions are up")
        conversation = await speaker._attached()
        writer = conversation._channel._writer
        writer.write(b"version\n" * 20 + b"neighbor 10.99.0.11 announce route 10.101.9.9/32 next-")
        await writer.drain()
        pid = speaker.pid
    async with speaking(rack) as speaker:
        wanted = to_all(rack, ROUTES)
        assert not await speaker.upsert(wanted)
        await arrived(rack, wanted)
        assert await speaker.observe() == wanted
        assert speaker.pid == pid


async def test_routes_asked_for_while_exabgp_is_dead_are_told_by_the_next_one(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await eventually(lambda: both_up(speaker), "both sessions are up")
        pid = speaker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert not await speaker.upsert(to_all(rack, ROUTES))
        await arrived(rack, to_all(rack, ROUTES))
        assert speaker.pid != pid


async def test_relay_killed_is_survived(rack: Rack) -> None:
    async with speaking(rack) as speaker:
        await speaker.upsert(to_all(rack, ROUTES))
        await _forwarded(rack)
        with watching(rack) as watches:
            children = f"/proc/{speaker.pid}/task/{speaker.pid}/children"
            with open(children) as file:  # noqa: ASYNC230, PTH123  one line of the kernel
                (relay,) = file.read().split()
            os.kill(int(relay), signal.SIGKILL)
            await _replaced(speaker, speaker.pid)
            await arrived(rack, to_all(rack, ROUTES))
            assert [watch.deleted() for watch in watches] == [0, 0]
