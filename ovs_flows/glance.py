"""A costly look at Open vSwitch for many who ask: one at a time, and none while the last one's outcome is fresh.

Whoever asks never waits long for a switch that hangs. Knows nothing of what is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

from ovs_flows.errors import OvsError

T = TypeVar("T")


class Glance(Generic[T]):
    """One look, shared."""

    def __init__(self, look: Callable[[], Coroutine[None, None, T]], *, fresh_s: float, patience_s: float) -> None:
        """An outcome is passed on for `fresh_s`; nobody waits for one longer than `patience_s`."""
        self._look = look
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._task: asyncio.Task[T | None] | None = None
        self._stale_at = 0.0

    async def take(self) -> T | None:
        """Return what was found lately; None when it could not be known, or is not yet."""
        task = self._task
        if task is None or (task.done() and asyncio.get_running_loop().time() >= self._stale_at):
            task = self._task = asyncio.create_task(self._take())
        await asyncio.wait([task], timeout=self._patience_s)  # leaves it alone: it is others', too
        return task.result() if task.done() else None

    async def _take(self) -> T | None:
        try:
            return await self._look()
        except OvsError:
            return None
        finally:
            self._stale_at = asyncio.get_running_loop().time() + self._fresh_s
