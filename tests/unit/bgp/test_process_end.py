"""When ExaBGP has ended: at once for one that was gone before anybody asked, and not a moment before it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bgp.process import Process


async def test_one_that_is_gone_already_has_ended(tmp_path: Path) -> None:
    other = await asyncio.create_subprocess_exec("true")
    await other.wait()
    process = Process(tmp_path)
    process.pid = other.pid  # as adopted from a file
    async with asyncio.timeout(10):
        await process.ended()


async def test_one_that_lives_has_not_ended(tmp_path: Path) -> None:
    other = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    process = Process(tmp_path)
    process.pid = other.pid
    ended = asyncio.create_task(process.ended())
    await asyncio.wait([ended], timeout=0.1)
    assert not ended.done()
    assert other.stdin is not None
    other.stdin.close()
    async with asyncio.timeout(10):
        await ended
    await other.wait()
