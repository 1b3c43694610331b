"""One plane, what it is known to hold, and the queue in front of it.

A lane hands over everything that waits as one batch, one batch at a time; a plane that `streams` gets what it should
make at once, beside other such calls. What a lane believes to exist comes from `observe` and from its own successful
calls; after a failure it believes nothing of the keys concerned.

A call that takes too long is cancelled, but one that uses a thread goes on all the same. It keeps its turn, since two
that change the same things would be worse. Until it ends, the plane is unknown, and who asks for anything is told so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from routed.reconcile.plane import Plane

T = TypeVar("T")
_UNKNOWN = object()
_GRACE = 1.05
"""Times its limit, by when a call that is cancelled has ended unless it cannot."""
Found = Mapping[Hashable, Any]
Failures = Mapping[Hashable, Exception]


class _Request(Generic[T]):
    """What several callers ask of the plane, and who waits: who is cancelled takes nothing away from the others."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[T]] = []

    async def answer(self) -> T:
        """Wait for it."""
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(caller)
        return await caller

    def tell(self, answer: T) -> None:
        """Answer whoever waits still."""
        for caller in self._waiting:
            if not caller.done():
                caller.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Raise this for whoever waits still."""
        for caller in self._waiting:
            if not caller.done():
                caller.set_exception(error)


class _Batch(_Request[Failures]):
    """Changes that will go to the plane together."""

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[Hashable, Any] = {}


class _Turns:
    """Whose turn it is: one alone, or any number together."""

    def __init__(self) -> None:
        self.door = asyncio.Lock()
        self.inside = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self.alone = _Alone(self)
        self.together = _Together(self)


class _Alone:
    """Wait until nobody is inside, and keep everybody out."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        await self._turns.door.acquire()
        try:
            await self._turns.empty.wait()
        except BaseException:
            self._turns.door.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turns.door.release()


class _Together:
    """Go in with others; wait for who wants to be alone, or is."""

    def __init__(self, turns: _Turns) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        async with self._turns.door:
            self._turns.inside += 1
            self._turns.empty.clear()

    async def __aexit__(self, *_: object) -> None:
        self._turns.inside -= 1
        if not self._turns.inside:
            self._turns.empty.set()


class Lane:
    """Serialises and batches the calls to one plane."""

    def __init__(self, plane: Plane[Any, Any], *, timeout_s: float) -> None:
        self.plane = plane
        self.actual: dict[Hashable, Any] | None = None
        """What exists, as far as known; None while nothing is known."""
        self.upserted = 0
        """Objects made or mended, ever."""
        self.removed = 0
        """Objects removed, ever."""
        self.batches = 0
        """Batches of changes handed over, ever."""
        self.busy_s = 0.0
        """Seconds that they took, all together."""
        self._timeout_s = timeout_s
        self._turns = _Turns()
        self._collecting: _Batch | None = None
        self._looking: _Request[Found] | None = None
        """The look that waits for its turn: who asks before it has it shares what it sees."""
        self._under_way: dict[asyncio.Task[None], _Request[Any]] = {}
        self._overdue: set[object] = set()
        """Limits of calls that were cancelled and go on; until they end, `actual` stays None and no look begins."""

    async def look(self) -> Found:
        """Observe the plane and return all that it holds; on failure nothing is known and the failure is raised."""
        if self._overdue:
            raise self._late()
        if self._looking is None:
            self._looking = _Request()
            self._begin(self._look(self._looking), self._looking)
        return await self._looking.answer()

    async def converge(self, want: Mapping[Hashable, Any]) -> None:
        """Make these keys be so (None: be absent); raises one failure after everything was tried."""
        if self.actual is None:
            await self.look()
        differing = {key: value for key, value in want.items() if self.differs(key, value)}
        if not differing:
            return
        if self.plane.streams and None not in differing.values():
            async with self._turns.together:  # nobody in there is told before its end: the next try could be beside it
                failures = await self._change(differing)
        else:
            failures = await self._in_batch(differing)
        if failures:
            for key in differing:
                if key in failures:
                    raise failures[key]

    async def end(self, patience_s: float) -> None:
        """Return when nothing changes the plane any more; nobody waits for it.

        What has begun may end by itself. What has not by then is cancelled, and ends as soon as it can: the next look
        finds how far it came.
        """
        for task, request in self._under_way.items():
            if not isinstance(request, _Batch):
                task.cancel()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _in_batch(self, differing: Mapping[Hashable, Any]) -> Failures:
        batch = self._collecting
        if batch is None:
            batch = self._collecting = _Batch()
            self._begin(self._apply(batch), batch)
        batch.items.update(differing)
        return await batch.answer()

    def differs(self, key: Hashable, value: Any) -> bool:
        """Tell whether the plane may hold something else than `value` (None: absent) under `key`."""
        if self.actual is None:
            return True
        found = self.actual.get(key)
        return found is _UNKNOWN or found != value

    def _begin(self, work: Coroutine[Any, Any, None], request: _Request[Any]) -> None:
        """Have work done that keeps its turn when nobody waits for it any more."""
        task = asyncio.create_task(work)
        self._under_way[task] = request
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        request = self._under_way.pop(task)
        request.fail(RuntimeError(f"{self.plane.name}: the agent ends"))
        if self._looking is request:
            self._looking = None
        if self._collecting is request:
            self._collecting = None

    async def _look(self, request: _Request[Found]) -> None:
        try:
            async with self._turns.alone:
                self._looking = None
                found = await self._observe()
        except Exception as error:  # noqa: BLE001 - the boundary: whatever a plane raises belongs to its callers
            request.fail(error)
        else:
            request.tell(found)

    async def _observe(self) -> Found:
        try:
            async with self._limit():
                found = await self.plane.observe()
        except BaseException:
            self.actual = None
            raise
        self.actual = dict(found)
        return found

    async def _apply(self, batch: _Batch) -> None:
        async with self._turns.alone:
            self._collecting = None  # who comes now waits for the next batch
            failures = await self._change(batch.items)
        batch.tell(failures)

    async def _change(self, items: Mapping[Hashable, Any]) -> Failures:
        """Hand changes to the plane and remember how they went."""
        shrunk = [key for key, value in items.items() if value is None]
        grown = {key: value for key, value in items.items() if value is not None} if shrunk else items
        failures: dict[Hashable, Exception] = {}
        started = time.monotonic()
        self._doubt(items)
        try:
            async with self._limit():
                if grown:
                    failures.update(await self.plane.upsert(grown))
                if shrunk:
                    failures.update(await self.plane.remove(shrunk))
        except Exception as error:  # noqa: BLE001 - the boundary: whatever a plane raises belongs to its callers
            failures = dict.fromkeys(items, error)
        self._remember({key: value for key, value in items.items() if key not in failures} if failures else items)
        self.batches += 1
        self.busy_s += time.monotonic() - started
        return failures

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """Cancel what takes too long; TimeoutError, at once for whoever waits when it does not end."""
        limit = asyncio.timeout(self._timeout_s)
        clock = asyncio.get_running_loop().call_later(self._timeout_s * _GRACE, self._fall_behind, limit)
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise self._late() from None
            raise
        finally:
            clock.cancel()
            self._overdue.discard(limit)

    def _fall_behind(self, limit: object) -> None:
        self._overdue.add(limit)
        self.actual = None
        for request in self._under_way.values():
            request.fail(self._late())

    def _late(self) -> TimeoutError:
        """Return the failure of a call that took too long, which says whose it was."""
        return TimeoutError(f"{self.plane.name}: no answer within {self._timeout_s:g} s")

    def _doubt(self, keys: Iterable[Hashable]) -> None:
        """Believe nothing of these keys until a change of theirs has succeeded."""
        if self.actual is not None:
            self.actual.update(dict.fromkeys(keys, _UNKNOWN))

    def _remember(self, items: Mapping[Hashable, Any]) -> None:
        for key, value in items.items():
            if self.actual is None:
                return
            if value is None:
                self.actual.pop(key, None)
                self.removed += 1
            else:
                self.actual[key] = value
                self.upserted += 1
