"""What is done in a thread is over when its task is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from routed.threads import finished


async def cancelled_in(work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], error: type[Exception]) -> bool:
    """Cancel a task while its thread works; tell whether the thread had finished by the time that the task was over."""
    began, may_go_on, done = threading.Event(), threading.Event(), threading.Event()

    def change_something() -> None:
        began.set()
        may_go_on.wait()
        done.set()
        raise error

    task = asyncio.create_task(work(change_something))
    await asyncio.to_thread(began.wait)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    may_go_on.set()
    return done.is_set()


async def test_a_task_that_is_cancelled_ends_after_its_thread() -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    assert await cancelled_in(finished, OSError)
    assert not await cancelled_in(asyncio.to_thread, OSError), "the negative control"
    assert heard == []


async def test_answers_and_errors_come_through() -> None:
    assert await finished(max, 3, 5) == 5
    with pytest.raises(ZeroDivisionError):
        await finished(divmod, 1, 0)
