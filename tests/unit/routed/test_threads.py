"""What is done in a thread is over when its task is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from routed.threads import apart, whole


async def cancelled_in(work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], times: int = 1) -> bool:
    """Cancel a task while its thread works; tell whether the thread had finished by the time that the task was over."""
    began, may_go_on, done = threading.Event(), threading.Event(), threading.Event()

    def change_something() -> None:
        began.set()
        may_go_on.wait()
        done.set()
        raise OSError

    task = asyncio.create_task(work(change_something))
    await asyncio.to_thread(began.wait)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    finished = done.is_set()
    may_go_on.set()
    return finished


async def test_a_task_that_is_cancelled_ends_after_its_thread() -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    assert await cancelled_in(apart)
    assert await cancelled_in(apart, times=2), "by a limit, and by the end of all"
    assert not await cancelled_in(asyncio.to_thread), "the negative control"
    assert heard == []


async def test_answers_and_errors_come_through() -> None:
    assert await apart(max, 3, 5) == 5
    with pytest.raises(ZeroDivisionError):
        await apart(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await apart(next, iter(()))


async def test_what_must_be_done_together_is() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("removed")
        await asyncio.sleep(0)
        steps.append("told")

    task = asyncio.create_task(whole(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert steps == ["removed"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["removed", "told"]
