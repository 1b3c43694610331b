"""Work that is never left alone, in threads above all: an agent that gives way changes nothing beside its successor."""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def apart(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call it in a thread of its own, and return or raise what it does; end no sooner than it, also when cancelled."""
    return await ended(in_thread(partial(function, *args, **kwargs)))


def in_thread(call: Callable[[], _T]) -> Future[_T]:
    """Run ``call`` in a thread that ends with it, and may therefore go into other namespaces.

    `threading.Thread.start` would wait until the thread runs, and keep the event loop from everything else meanwhile.
    """
    done: Future[_T] = Future()
    done.set_running_or_notify_cancel()
    _thread.start_new_thread(run, (call, done))
    return done


def run(call: Callable[[], _T], done: Future[_T]) -> None:
    """Let a future have what ``call`` returns or raises."""
    try:
        result = call()
    except StopIteration as error:
        done.set_exception(RuntimeError(f"unexpected {error!r}"))  # asyncio's futures do not take it
    except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits, not to this thread
        done.set_exception(error)
    else:
        done.set_result(result)


async def ended(call: Future[_T]) -> _T:
    """Return or raise what a call in another thread does; a caller that is cancelled can prevent its begin alone."""
    return await whole(asyncio.wrap_future(call), call.cancel)


async def whole(work: Awaitable[_T], when_cancelled: Callable[[], object] = lambda: None) -> _T:
    """Return or raise what ``work`` does.

    A caller that is cancelled, however often, waits for the end nevertheless: until then nobody else may start on the
    same things.
    """
    end = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not end.done():
        try:
            await asyncio.wait([end])
        except asyncio.CancelledError as error:
            when_cancelled()
            cancelled = cancelled or error
    if cancelled is None:
        return end.result()
    if not end.cancelled():
        end.exception()  # nobody asks for it any more
    raise cancelled
