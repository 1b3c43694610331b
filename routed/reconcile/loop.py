"""The loop: what every owner wants, against what every plane holds, until both are equal.

One task per owner walks the stages in growth order, then in reverse for what must go; the planes of one stage do not
depend on each other and work at the same time; lanes batch what several owners want at the same moment. An owner that
fails is tried again with a growing delay and holds up nobody else. A wake-up carries no data: *this owner may want
something else now* (`touch`), *this plane may hold something else now* (`look`).

Invariants, and how to review a change against them:

- nothing is removed because it was not seen: a plane whose `observe` fails is unknown, not empty;
- what nobody wants and nobody disowns (a stray) goes only after two looks in a row found it so;
- an owner's later stages are not touched while an earlier one fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from routed.reconcile.lane import Lane
from routed.reconcile.plane import Plane

log = structlog.get_logger(__name__)
Owner = TypeVar("Owner", bound=Hashable)
Want = Iterable[Mapping[Any, Any]]


async def _nothing(_: object) -> None:
    """Finish a pass that leaves nothing to do."""


async def _together(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all of these, then raise the first failure; the last one runs right here, which saves two hand-overs."""
    *others, last = calls
    tasks = [asyncio.create_task(call) for call in others]
    failures = []
    try:
        for call in (last, *tasks):
            try:
                await call
            except Exception as error:  # noqa: BLE001 - raised below, when all have ended
                failures.append(error)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    if failures:
        raise failures[0]


FIRST_RETRY_S = 0.1
LAST_RETRY_S = 15.0
PATIENCE_S = 3.0
"""What calls of planes get to end by themselves when the loop ends, then they are cancelled; few take a tenth of it."""


@dataclass(slots=True)
class Work:
    """How far one owner is."""

    asked: int = 0
    """Counts the times that somebody asked for another pass."""
    tried: int = 0
    """The last asked-for pass that ended, successful or not."""
    reached: int = 0
    """The last asked-for pass that succeeded."""
    failures: int = 0
    """In a row."""
    error: Exception | None = None
    """Of the last pass, None when it succeeded."""
    task: asyncio.Task[None] | None = None
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    """Replaced after every pass."""
    retry_now: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as wanted."""

    plane: str
    key: Hashable
    wanted: Any
    """None: it must not exist."""
    found: Any
    """None: it does not exist."""


class Loop(Generic[Owner]):
    """Reconciles owners against planes; see the module's docstring."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        stages: Sequence[Sequence[Plane[Any, Any]]],
        *,
        owners: Callable[[], Collection[Owner]],
        plan: Callable[[Owner], Want],
        is_permanent: Callable[[Exception], bool] = lambda _: False,
        finish: Callable[[Owner], Awaitable[None]] = _nothing,
        resync_s: float = 10.0,
        timeout_s: float = 20.0,
    ) -> None:
        """`plan` returns what an owner wants, one mapping per plane, in the order of the planes in `stages`.

        `is_permanent` tells failures that another try cannot mend: `wait_for` raises them at once. `finish` is
        called as the last step of every successful pass, unless the owner wants something else by then.
        `resync_s` is the time between two full looks, `timeout_s` the longest that one call of a plane may take.
        """
        self._stages = [[Lane(plane, timeout_s=timeout_s) for plane in stage] for stage in stages]
        self.lanes = {lane.plane.name: lane for stage in self._stages for lane in stage}
        self.drifts = dict.fromkeys(self.lanes, 0)
        """Owners found in another state than the loop had left them, per plane, ever."""
        self._owners, self._plan, self._is_permanent, self._finish = owners, plan, is_permanent, finish
        self._resync_s = resync_s
        self._works: dict[Owner, Work] = {}
        self._strays: dict[str, set[Hashable]] = {name: set() for name in self.lanes}
        self._look_at: set[str] = set(self.lanes)
        self._woken = asyncio.Event()
        self._seeing = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    # ---- what wakes the loop

    def touch(self, *owners: Owner) -> None:
        """Ask for another pass over these owners."""
        for owner in owners:
            work = self._works.setdefault(owner, Work())
            work.asked += 1
            work.retry_now.set()
            if self._group is not None and (work.task is None or work.task.done()):
                work.task = self._group.create_task(self._work(owner, work))

    def look(self, plane: str) -> None:
        """Ask for another look at a plane."""
        self._look_at.add(plane)
        self._woken.set()

    # ---- what others ask of it

    async def wait_for(self, owner: Owner, *, deadline_s: float) -> None:
        """Wait until a pass that starts after this call has converged `owner`.

        Raises the owner's failure at once when it is permanent, else when `deadline_s` has passed; TimeoutError when
        there is none.
        """
        work = self._works.setdefault(owner, Work())
        self.touch(owner)
        goal = work.asked
        try:
            async with asyncio.timeout(deadline_s):
                while work.reached < goal:
                    await work.progress.wait()
                    if work.tried >= goal and work.error is not None and self._is_permanent(work.error):
                        raise work.error
        except TimeoutError:
            raise work.error or TimeoutError(f"not done within {deadline_s} s") from None

    async def inspect(self, owner: Owner) -> list[Difference]:
        """Look at every plane that has to do with it and return what of `owner` is not as wanted.

        Asks for repair if anything is.
        """
        differences = []
        for name, want in ((name, want) for name, want in self._wants(owner).items() if want):
            found = await self.lanes[name].look()
            differences += [
                Difference(name, key, value, found.get(key)) for key, value in want.items() if found.get(key) != value
            ]
        if differences:
            self.touch(owner)
        return differences

    def works(self) -> Mapping[Owner, Work]:
        """Return how far every owner is."""
        return self._works

    # ---- the loop itself

    async def run(self) -> None:
        """Reconcile until cancelled. Nothing is changed before every plane could be looked at once, nor afterwards."""
        try:
            await self._run()
        finally:
            await asyncio.gather(*(lane.end(PATIENCE_S) for lane in self.lanes.values()))

    async def _run(self) -> None:
        for lane in self.lanes.values():
            while not await self._sees(lane):
                await self._sleep(FIRST_RETRY_S)
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._seeing.set()
            try:
                self.touch(*self._owners())
                resync_at = time.monotonic() + self._resync_s
                while True:
                    await self._sleep(resync_at - time.monotonic())
                    if time.monotonic() >= resync_at:  # by the clock: wake-ups of one plane must not starve the others
                        self._look_at.update(self.lanes)
                        resync_at = time.monotonic() + self._resync_s
                    for lane in [lane for name, lane in self.lanes.items() if name in self._look_at]:
                        self._look_at.discard(lane.plane.name)
                        if await self._sees(lane):
                            await self._compare(lane)
            finally:
                self._group = None

    async def settled(self, *, patience_s: float = 0.0) -> None:
        """Wait until every plane was looked at and every owner of that moment has had a pass, successful or not.

        With `patience_s`, owners whose failure another try may mend get that long to succeed.
        """
        await self._seeing.wait()
        works = [self._works.setdefault(owner, Work()) for owner in self._owners()]
        for work in works:
            while work.reached == 0 and work.failures == 0:
                await work.progress.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                for work in works:
                    while work.error is not None and not self._is_permanent(work.error):
                        await work.progress.wait()

    async def _sleep(self, longest_s: float) -> None:
        """Wait for a wake-up, but no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._woken.wait()
        self._woken.clear()

    async def _sees(self, lane: Lane) -> bool:
        try:
            await lane.look()
        except Exception as error:  # noqa: BLE001 - the boundary: a blind plane is tried again, the others go on
            log.warning("plane.blind", plane=lane.plane.name, error=str(error), kind=type(error).__name__)
            return False
        return True

    async def _compare(self, lane: Lane) -> None:
        """Compare what was seen with what is wanted: owners that differ get a pass, strays seen twice go."""
        name, found = lane.plane.name, lane.actual
        if found is None:  # by now; the next look tells
            return
        claimed: set[Hashable] = set()
        for owner in self._owners():
            want = self._wants(owner)[name]
            claimed.update(want)
            work = self._works.get(owner)
            at_rest = work is not None and work.reached == work.asked
            if at_rest and any(found.get(key) != value for key, value in want.items()):
                self.drifts[name] += 1
                log.warning("plane.drift", plane=name, owner=str(owner))
                self.touch(owner)
        strays = found.keys() - claimed
        gone, self._strays[name] = strays & self._strays[name], set(strays)
        if gone:
            log.warning("plane.strays", plane=name, keys=[str(key) for key in gone])
            with suppress(Exception):  # the next look finds them again
                await lane.converge(dict.fromkeys(gone))

    async def _work(self, owner: Owner, work: Work) -> None:
        """Pass after pass until the last asked-for one succeeded."""
        while work.reached < work.asked:
            goal = work.asked
            work.retry_now.clear()
            try:
                await self._pass(owner)
            except Exception as error:  # noqa: BLE001 - the boundary: one owner's failure is no other's
                work.error = error
                work.failures += 1
                log.warning("owner.failed", owner=str(owner), error=str(error), kind=type(error).__name__)
            else:
                work.error, work.failures, work.reached = None, 0, goal
            work.tried = goal
            done, work.progress = work.progress, asyncio.Event()
            done.set()
            if work.error is not None:
                await self._backoff(work)
        if not any(self._plan(owner)):
            del self._works[owner]  # it wants nothing and disowns nothing any more

    async def _pass(self, owner: Owner) -> None:
        wants = self._wants(owner)
        for stage in self._stages:
            await self._step(stage, wants, grow=True)
        if any(None in want.values() for want in wants.values()):
            for stage in reversed(self._stages):
                await self._step(stage, wants, grow=False)
        if self._wants(owner) == wants:  # else it wants something else by now, which the next pass brings about
            await self._finish(owner)

    def _wants(self, owner: Owner) -> dict[str, Mapping[Any, Any]]:
        return dict(zip(self.lanes, self._plan(owner), strict=True))

    @staticmethod
    async def _step(stage: Sequence[Lane], wants: Mapping[str, Mapping[Any, Any]], *, grow: bool) -> None:
        """Make what must exist in one stage exist (or what must not be absent), all of its planes at the same time."""
        calls = []
        for lane in stage:
            want = wants[lane.plane.name].items()
            items = {key: value for key, value in want if (value is not None) == grow and lane.differs(key, value)}
            if items:
                calls.append(lane.converge(items))
        if len(calls) == 1:
            await calls[0]
        elif calls:
            await _together(calls)

    @staticmethod
    async def _backoff(work: Work) -> None:
        delay_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(work.failures - 1, 10)) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await work.retry_now.wait()
