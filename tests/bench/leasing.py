"""What leases cost: claims by many servers at once, and a pod's address with and without the API server.

On a real API server and etcd, each server with an agent's own identity and under all access rules. A pod's address is
ledger and lease alone here; links, flows and routes are `tests.bench.attaching`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from random import Random

from ipam.model import Record
from routed.kube.api import Api, Resource
from routed.kube.client import connect
from routed.kube.errors import Conflict
from routed.kube.registry import Registry
from routed.kube.stock import Marks
from tests.bench.figures import ONE_OBJECT, OWN_OBJECTS, Allocation, Claims, Summary
from tests.fixtures.pools import pool
from tests.kube.client import Client
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import NAMESPACE, agent_of, install
from tests.kube.servants import Servant, until

Claim = Callable[[], Awaitable[bool]]
"""One attempt of one server to get one more address; False when another server was faster."""
_TABLE = Resource("", "v1", f"namespaces/{NAMESPACE}/configmaps", "ConfigMap")
_RACKS = count()


async def measure(
    folder: Path, servers: int, addresses: int, pods: int, progress: Callable[[str], None]
) -> tuple[dict[str, Claims], Allocation]:
    """Let servers claim so many addresses between them, in each way; then let one server start so many pods."""
    progress("leases: starting etcd and kube-apiserver")
    with ControlPlane(folder / "control-plane") as control:
        install(control)
        async with AsyncExitStack() as stack:

            async def connections(user: Callable[[str], Client]) -> list[Api]:
                names = [f"server-{number}" for number in range(servers)]
                files = [control.kubeconfig(user(name), folder / name) for name in names]
                return [await stack.enter_async_context(connect(file)) for file in files]

            progress(f"leases: {OWN_OBJECTS}")
            agents = await connections(partial(agent_of, control))
            claims = {OWN_OBJECTS: await _claim_all(_random(agents, addresses), addresses)}
            progress(f"leases: {ONE_OBJECT}")
            admins = await connections(lambda _: control.admin)
            await admins[0].create(_TABLE, {"metadata": {"name": "table"}, "data": {}})
            few = addresses // 10  # it takes that long
            claims[ONE_OBJECT] = await _claim_all([_shared(one, n, few) for n, one in enumerate(admins)], few)
        progress("leases: ADDs from stock")
        return claims, await _allocate(control, folder, pods)


async def _claim_all(attempts: Sequence[Claim], addresses: int) -> Claims:
    """Let every server claim until all of them together have enough."""
    tickets, vain, began = iter(range(addresses)), 0, time.perf_counter()

    async def server(attempt: Claim) -> None:
        nonlocal vain
        for _ in tickets:
            while not await attempt():
                vain += 1

    async with asyncio.TaskGroup() as group:
        for attempt in attempts:
            group.create_task(server(attempt))
    return Claims(addresses / (time.perf_counter() - began), vain)


def _random(agents: Sequence[Api], addresses: int) -> list[Claim]:
    rack, span = _rack(), 2 * addresses  # half of the rack stays free, as most of the time

    def claiming(agent: Api, number: int) -> Claim:
        rng = Random(number)  # noqa: S311 - spreads requests
        registry = Registry(agent, f"rack-{rack}", f"server-{number}", rng)
        order = iter(rng.sample(range(span), span))

        async def attempt() -> bool:
            return await registry.claim(IPv4Address(f"10.{rack}.0.0") + next(order), "uid") is not None

        return attempt

    return [claiming(agent, number) for number, agent in enumerate(agents)]


def _shared(admin: Api, number: int, addresses: int) -> Claim:
    """Read the table of all addresses, put one's name on a free one, and write it if nobody has in between."""

    async def attempt() -> bool:
        table = await admin.get(_TABLE, "table")
        taken = table.get("data") or {}
        free = next(str(index) for index in range(addresses) if str(index) not in taken)
        version = table["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version}, "data": {free: f"server-{number}"}}
        try:
            await admin.patch(_TABLE, "table", change)
        except Conflict:
            return False
        return True

    return attempt


async def _allocate(control: ControlPlane, folder: Path, pods: int) -> Allocation:
    async with _stocked(control, folder, "reachable", pods) as servant:
        with_api = await _timed(pods, servant.add)
    async with _stocked(control, folder, "away", pods) as servant:
        control.stop()
        try:
            without = await _timed(pods, servant.add)
        finally:
            control.start()
            control.wait_ready()
    async with _stocked(control, folder, "empty", 0) as servant:
        asking = await _timed(pods, servant.add)
    return Allocation(with_api, without, asking)


@asynccontextmanager
async def _stocked(control: ControlPlane, folder: Path, name: str, stock: int) -> AsyncIterator[Servant]:
    """Run one server that has so many leases in stock, alone in a rack."""
    rack = _rack()
    pools = [pool(f"10.{rack}.0.0/16", f"10.{rack}.0.1")]
    servant = Servant(control, folder, name, pools, rack=f"rack-{rack}", marks=Marks(stock, 2 * stock))
    async with servant.alive():
        await until(lambda: len(servant.claims()) >= stock, "the stock")
        yield servant


async def _timed(times: int, add: Callable[[], Awaitable[Record]]) -> Summary:
    durations_ms = []
    for _ in range(times):
        began = time.perf_counter()
        await add()
        durations_ms.append((time.perf_counter() - began) * 1000)
    return Summary.of(durations_ms)


def _rack() -> int:
    """Return the number of a rack that nothing else uses."""
    return 100 + next(_RACKS)
