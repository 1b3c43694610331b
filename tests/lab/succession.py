"""Two agents after each other in one process, as when a rack is edited; runs on a server of the lab.

Fails when anything of the first one is left while the second one serves. Takes the rack file and the server's name.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from routed.agent import Agent
from routed.settings import Settings, load


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody signals."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


async def ip(*words: str) -> None:
    """Run ip(8)."""
    process = await asyncio.create_subprocess_exec("ip", *words)
    assert await process.wait() == 0


async def first(settings: Settings, name: str) -> weakref.ref[Agent]:
    """Run an agent up to a moment at which it has something to do in a while, and no longer."""
    agent = Agent(settings, settings.domain_server(name))
    running = asyncio.create_task(agent.run())
    await until(agent.serving.is_set)
    steering, member = agent._steering, settings.bridge.members[0]
    assert steering is not None
    await ip("link", "set", member, "down")
    await until(lambda: any(steering.failures.values()))
    await ip("link", "set", member, "up")
    await until(lambda: steering._judge.review_at < math.inf)
    agent.stop()
    await running
    return weakref.ref(agent)


async def second(settings: Settings, name: str, gone: weakref.ref[Agent]) -> str | None:
    """Run the next one until it serves; return what holds the first one by then."""
    agent = Agent(settings, settings.domain_server(name))
    running = asyncio.create_task(agent.run())
    await until(agent.serving.is_set)
    left = gone()
    holders = None if left is None else ", ".join(repr(holder)[:200] for holder in gc.get_referrers(left))
    del left
    agent.stop()
    await running
    return holders


async def main(file: str, name: str) -> str | None:
    """Return what is wrong."""
    settings = load(Path(file))
    return await second(settings, name, await first(settings, name))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
