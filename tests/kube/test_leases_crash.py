"""Servers that die at any moment, and an API server whose answers get lost or whose deletes come late.

Four servers share a pool of thirteen addresses. Each lives again and again, for some milliseconds, until it is
cancelled at whatever it awaits; then it starts from its files. Requests are carried out, and the answer is lost; or
they are carried out later, when the server that sent them has died and lives again. After each life: whatever any
server could hand out or uses is its own according to the API server. In the end nothing is left that nobody knows of.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from ipam.errors import PoolExhausted
from ipam.model import Holder, Holdings, Pod, Record, Request
from routed.kube.addresses import Lease
from routed.kube.api import Api, Document, Transport
from routed.kube.client import connect
from routed.kube.errors import KubeError, Unreachable
from routed.kube.registry import Registry
from routed.kube.sticky import KEPT_S
from routed.kube.stock import Marks
from tests.fixtures.pools import pool
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES
from tests.kube.servants import Servant, owners, twice

POOL = pool("10.5.0.0/28", "10.5.0.1")
LARGER = pool("10.5.0.0/25", "10.5.0.1")
"""Where addresses are not so scarce that none waits for a pod that may come back."""
SERVERS, LIVES = 4, 40
WEB = tuple(f"web-{number}" for number in range(16))
_RACKS = count()


class Unreliable:
    """A way to the API server that loses answers, and carries some deletes out later than it says."""

    def __init__(self, inner: Transport, rng: Random, under_way: set[asyncio.Task[None]]) -> None:
        self._inner, self._rng, self._under_way = inner, rng, under_way
        self.lost = self.late = 0

    async def request(
        self, method: str, path: str, *, body: Document | None = None, content_type: str = "application/json"
    ) -> Document:
        dice = self._rng.random()
        if dice < {"GET": 0, "DELETE": 0.4}.get(method, 0.1):
            self.late += 1
            task = asyncio.create_task(self._later(method, path, body, content_type))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            raise Unreachable("no answer yet")
        answer = await self._inner.request(method, path, body=body, content_type=content_type)
        if method != "GET" and dice > 0.9:
            self.lost += 1
            raise Unreachable("the answer got lost")
        return answer

    async def _later(self, method: str, path: str, body: Document | None, content_type: str) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        with suppress(KubeError):  # nobody is there to hear of it
            await self._inner.request(method, path, body=body, content_type=content_type)

    def stream(self, path: str, *, timeout_s: float) -> AsyncIterator[Document]:
        return self._inner.stream(path, timeout_s=timeout_s)


class Mortal(Servant):
    """A server that makes pass after pass while pods come and go, until it is cancelled."""

    async def live(self, api: Api) -> None:
        async with self.alive(api=api, keep=False):
            while True:
                try:
                    self.leases._marks = Marks(*self.rng.choice([(0, 0), (1, 3), (2, 6)]))
                    await self.leases.tidy(self)
                except KubeError:
                    self.leases._look_at = 0.0  # as `run` does
                    await asyncio.sleep(0.005)
                for _ in range(self.rng.randrange(3)):
                    self._something()
                await asyncio.sleep(0)

    def _something(self) -> None:
        records = self.ledger.records()
        if records and self.rng.random() < 0.55:
            self.delete(self.rng.choice(records))
        else:
            try:
                self.try_add()
            except PoolExhausted:
                return

    async def settle(self, api: Api) -> None:
        """Live once more without being disturbed; end all pods, and keep nothing."""
        async with self.alive(api=api, keep=False):
            self.leases._marks = Marks(0, 0)
            for record in self.ledger.records():
                self.delete(record)
            for day in range(4):
                self.leases._clock = lambda day=day: time.monotonic() + day * (KEPT_S + 1)
                self.leases._look_at = 0.0
                await self.leases.tidy(self)
            assert not self.claims()


class Welcoming(Mortal):
    """Some of its pods come back by name, on whichever server, and want to have what they had."""

    waited = 0
    """Pods that had to wait and got what they waited for: mostly from another server."""

    async def live(self, api: Api) -> None:
        self.missing: set[str] = set()
        await super().live(api)

    async def holdings(self) -> Holdings:
        held = await super().holdings()
        return replace(held, sticky=frozenset(one for one, pod in held.used.items() if pod.name.startswith("web")))

    def _something(self) -> None:
        names = sorted(self.missing) if self.rng.random() < 0.7 else ()  # kubelet tries again
        pod = Pod("tests", self.rng.choice(names or WEB), "u")
        if self.rng.random() < 0.5 or self.ledger.get(Holder(pod.name, "eth0")):
            super()._something()
            return
        before = self.leases.recall(pod)
        request = Request(Holder(pod.name, "eth0"), pod, addresses=before, returning=bool(before))
        (answer,) = self.ledger.put([request], time.time())
        if isinstance(answer, Record):
            self.leases.served(pod, answer.addresses)
            self.waited += pod.name in self.missing and answer.addresses == before
            self.missing.discard(pod.name)
        elif before:
            self.missing.add(pod.name)
            self.leases._asks.add(pod, time.monotonic(), before)  # as `more` does, which waits for the next pass


def judge(control: ControlPlane, servants: Sequence[Mortal], rack: str) -> list[str]:
    """Return what is wrong now: a server counts on an address that the API server says is not its own."""
    objects = owners(control, rack)
    wrong = [
        f"{servant.name} counts on {address}, which is {objects.get(address)}'s"
        for servant in servants
        for address in servant.claims()
        if objects.get(address) != servant.name
    ]
    return [*wrong, *(f"{address} is in use by {names}" for address, names in twice(servants).items())]


class Trusting(Registry):
    """Takes up what it finds as it is: a delete from before may still come."""

    async def confirm(self, lease: Lease, node_uid: str) -> Lease | None:
        assert lease.node_uid == node_uid
        return lease


@pytest.fixture
def rack(cluster: ControlPlane) -> Iterator[str]:
    yield f"crash-{next(_RACKS)}"
    for item in cluster.admin.get(ADDRESSES).granted()["items"]:
        cluster.admin.delete(f"{ADDRESSES}/{item['metadata']['name']}")


async def run(
    control: ControlPlane, rack: str, folder: Path, *, kind: type[Registry] = Registry, lives: int = LIVES
) -> list[str]:
    """Let the servers live and die until something is wrong; returns what."""
    servants = [Mortal(control, folder, f"{rack}-s{n}", [POOL], rack=rack) for n in range(SERVERS)]
    return await disturb(control, rack, servants, kind=kind, lives=lives)


async def disturb(
    control: ControlPlane,
    rack: str,
    servants: Sequence[Mortal],
    *,
    kind: type[Registry] = Registry,
    lives: int,
    longest_s: float = 0.4,
) -> list[str]:
    """Let these servers live and die until something is wrong; returns what."""
    rng, under_way = Random(f"{rack}"), set[asyncio.Task[None]]()  # noqa: S311 - draws the same again
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        apis, ways = [], []
        for servant in servants:
            servant.registry_kind = kind
            api = await stack.enter_async_context(connect(servant.kubeconfig))
            ways.append(Unreliable(api._transport, rng, under_way))
            apis.append(api)
            async with servant.alive(api=api, keep=False):  # on a busy machine, one may die before it has any file
                pass
        for _ in range(lives):
            if wrong:
                break
            tasks = [asyncio.create_task(one.live(Api(way))) for one, way in zip(servants, ways, strict=True)]
            await asyncio.sleep(rng.uniform(0.05, longest_s))
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
            wrong += await asyncio.to_thread(judge, control, servants, rack)
        while under_way:
            await asyncio.wait(under_way)
        for servant, api in zip(servants, apis, strict=True):
            if not wrong:  # else there is no telling where they stand
                await servant.settle(api)
    print(
        f"up to {lives} lives of {SERVERS} servers: {sum(way.lost for way in ways)} answers lost, "
        f"{sum(way.late for way in ways)} requests late, {len(wrong)} faults",
        file=sys.__stderr__,
    )
    return wrong


async def test_nothing_is_lost_or_given_twice_by_servers_that_die_at_any_moment(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    assert not await run(cluster, rack, tmp_path)
    assert owners(cluster, rack) == {}, "nothing is left that nobody knows of"


async def test_nothing_is_lost_or_given_twice_when_pods_take_their_addresses_along(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servants = [Welcoming(cluster, tmp_path, f"{rack}-s{n}", [LARGER], rack=rack) for n in range(SERVERS)]
    assert not await disturb(cluster, rack, servants, lives=LIVES // 3, longest_s=2)
    assert owners(cluster, rack) == {}, "nothing is left that nobody knows of"
    waited = sum(one.waited for one in servants)
    print(f"{waited} pods waited for their addresses and got them", file=sys.__stderr__)
    assert waited, "control: else nothing was handed over"


async def test_control_leases_taken_up_without_confirmation_are_lost(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    assert await run(cluster, rack, tmp_path, kind=Trusting, lives=10 * LIVES)
