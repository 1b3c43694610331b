"""The speaker without an ExaBGP: what is refused, what is remembered, and that not knowing is an error."""

from __future__ import annotations

import asyncio
import errno
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

import pytest

from bgp import speaker as module
from bgp.errors import InvalidRouteError, UnavailableError
from bgp.model import Attributes, Neighbor, RouteKey, SessionState, SpeakerConfig
from bgp.speaker import Speaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOR = Neighbor(IPv4Address("10.0.0.2"), 65011, "tor")
HOP = IPv4Address("10.0.0.1")
GOOD = RouteKey(TOR.address, IPv4Network("10.1.0.1/32"))


SLOW = """#!/bin/sh
echo $$ >>"${2%/*}/starts"
sleep 0.5
echo $$ >>"${2%/*}/ready"
exec sleep 60
"""
"""An ExaBGP that takes its time, and then has no relay."""


@pytest.fixture
async def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Speaker]:
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    speaker = Speaker(SpeakerConfig(65001, HOP, HOP, (TOR,)), tmp_path / "run", lambda: None, exabgp="/bin/false")
    await speaker.start()
    yield speaker
    await speaker.stop()


async def test_not_knowing_is_an_error_and_never_an_empty_set(speaker: Speaker) -> None:
    with pytest.raises(UnavailableError):
        await speaker.observe()


async def test_what_nobody_took_is_a_failure_of_its_own_and_stays_desired(speaker: Speaker) -> None:
    with pytest.raises(UnavailableError):
        await speaker.upsert({GOOD: Attributes(HOP)})
    assert speaker._sessions[TOR.address].adjacency.wanted == {GOOD.prefix: Attributes(HOP)}


@pytest.mark.parametrize(
    ("key", "hop"),
    [
        (RouteKey(IPv4Address("10.0.0.9"), GOOD.prefix), HOP),
        (GOOD, IPv6Address("fd00::1")),
        (RouteKey(TOR.address, IPv6Network("fd00::2/128")), HOP),
    ],
)
async def test_an_impossible_route_is_refused(speaker: Speaker, key: RouteKey, hop: IPv4Address | IPv6Address) -> None:
    with pytest.raises(InvalidRouteError):
        await speaker.upsert({key: Attributes(hop)})
    assert not speaker._sessions[TOR.address].adjacency.wanted


async def test_removing_what_no_neighbour_can_have_is_no_failure(speaker: Speaker) -> None:
    assert not await speaker.remove([RouteKey(IPv4Address("10.0.0.9"), GOOD.prefix)])


async def test_a_session_that_never_was_is_shown_as_down(speaker: Speaker) -> None:
    status = speaker.neighbors()[TOR.address]
    assert (status.state, status.ups, status.end_of_rib, status.routes) == (SessionState.DOWN, 0, False, {4: 0, 6: 0})


async def test_drain_says_when_it_could_not_tell_anybody(speaker: Speaker) -> None:
    with pytest.raises(UnavailableError):
        await speaker.drain(timeout_s=0.2)


@pytest.mark.parametrize(("start_s", "is_waited_for"), [(60.0, True), (0.1, False)])
async def test_an_exabgp_that_starts_slowly_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_s: float, *, is_waited_for: bool
) -> None:
    """It may have sessions by then: to end it would cost the routes that neighbours keep. With a negative control."""
    monkeypatch.setattr(module, "CONNECT_S", 0.1)
    monkeypatch.setattr(module, "START_S", start_s)
    slow, run = tmp_path / "exabgp", tmp_path / "run"
    slow.write_text(SLOW)
    slow.chmod(0o755)
    speaker = Speaker(SpeakerConfig(65001, HOP, HOP, (TOR,)), run, lambda: None, exabgp=str(slow))
    await speaker.start()
    try:
        async with asyncio.timeout(30):
            while not (run / "ready").exists() and len(_lines(run / "starts")) < 3:
                await asyncio.sleep(0.05)  # between two looks
    finally:
        await speaker.stop()
        await speaker._process.kill()
    assert (_lines(run / "starts") == _lines(run / "ready")) is is_waited_for


async def test_an_exabgp_that_ends_at_once_is_replaced_at_once(tmp_path: Path) -> None:
    quitter, run = tmp_path / "exabgp", tmp_path / "run"
    quitter.write_text(SLOW.partition("sleep")[0])
    quitter.chmod(0o755)
    speaker = Speaker(SpeakerConfig(65001, HOP, HOP, (TOR,)), run, lambda: None, exabgp=str(quitter))
    await speaker.start()
    try:
        async with asyncio.timeout(30):  # half of what one that lives may take
            while len(_lines(run / "starts")) < 3:
                await asyncio.sleep(0.05)  # between two looks
    finally:
        await speaker.stop()
        await speaker._process.kill()


async def test_an_exabgp_that_cannot_be_ended_gets_no_other_beside_it_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_S", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.01)
    slow, run = tmp_path / "exabgp", tmp_path / "run"
    slow.write_text(SLOW)
    slow.chmod(0o755)
    refused = 0

    def refuse(_pid: int, _flags: int = 0) -> int:
        nonlocal refused
        refused += 1
        raise OSError(errno.EMFILE, "Too many open files")

    speaker = Speaker(SpeakerConfig(65001, HOP, HOP, (TOR,)), run, lambda: None, exabgp=str(slow))
    try:
        async with asyncio.timeout(30):
            with monkeypatch.context() as full:
                full.setattr(os, "pidfd_open", refuse)
                await speaker.start()
                while refused < 4 or not (run / "ready").exists():
                    await asyncio.sleep(0.05)  # between two looks
            first = _lines(run / "starts")
            while len(_lines(run / "starts")) < 2:
                await asyncio.sleep(0.05)  # between two looks
    finally:
        await speaker.stop()
        await speaker._process.kill()
    assert len(first) == 1


async def test_a_mistake_of_ours_ends_the_speaker_and_whoever_waits_for_it(tmp_path: Path) -> None:
    def wake() -> None:
        raise ZeroDivisionError

    speaker = Speaker(SpeakerConfig(65001, HOP, HOP, (TOR,)), tmp_path / "run", wake, exabgp="/bin/false")
    await speaker.start()
    async with asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError):
            await speaker.ended()
    await speaker.stop()  # has nothing to add


async def test_a_speaker_that_is_stopped_has_ended_well(speaker: Speaker) -> None:
    ended = asyncio.create_task(speaker.ended())
    await asyncio.sleep(0)
    assert not ended.done()
    await speaker.stop()
    async with asyncio.timeout(30):
        await ended


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
