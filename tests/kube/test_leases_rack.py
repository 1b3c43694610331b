"""Forty servers of one rack and its 506 addresses, all at once, on a real API server."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.fixtures.pools import pool
from tests.kube.control_plane import ControlPlane
from tests.kube.servants import Servant, owners, twice, until

POOLS = pool("10.7.0.0/24", "10.7.0.1"), pool("10.7.1.0/24", "10.7.1.1")
SERVERS, ADDRESSES = 40, 506
TURNS = 8


@asynccontextmanager
async def judged(control: ControlPlane, servants: list[Servant]) -> AsyncIterator[list[int]]:
    """Look at everybody all the time; yields how often that was, by all servers and by the API server."""
    looks = [0, 0]

    async def look() -> None:
        while True:
            assert not twice(servants)
            before = {servant.name: servant.claims() for servant in servants}
            objects = await asyncio.to_thread(owners, control, "full")
            for servant in servants:
                for address in before[servant.name] & servant.claims():  # all the while, unless it came back at once
                    looks[1] += objects.get(address) == servant.name
            looks[0] += 1
            await asyncio.sleep(0.3)  # the machine has to serve forty servers, too

    async with asyncio.TaskGroup() as group:
        judge = group.create_task(look())
        yield looks
        judge.cancel()


async def fill(servants: list[Servant], count: int) -> None:
    """Start so many pods on these servers, all of them at once, each server as many as it can get."""
    began, tickets = time.perf_counter(), iter(range(count))

    async def crowd(servant: Servant) -> None:
        for _ in tickets:
            await servant.insist()

    async with asyncio.TaskGroup() as group:
        for servant in servants * (SERVERS // len(servants)):
            group.create_task(crowd(servant))
    print(f"{count} pods on {len(servants)} servers: {time.perf_counter() - began:.1f} s", file=sys.__stderr__)


async def churn(servants: list[Servant]) -> None:
    """Let pods end and others start, on all servers at once, while the rack is full."""
    began = time.perf_counter()

    async def turn_over(servant: Servant) -> None:
        for _ in range(TURNS):
            if servant.pods():
                servant.delete(servant.rng.choice(servant.ledger.records()))
                await servant.insist()

    async with asyncio.TaskGroup() as group:
        for servant in servants:
            group.create_task(turn_over(servant))
    print(f"{TURNS} pods each replaced: {time.perf_counter() - began:.1f} s", file=sys.__stderr__)


def everything(servants: list[Servant]) -> list[str]:
    return [str(address) for servant in servants for address in servant.pods()]


@pytest.mark.timeout(500)
async def test_every_address_of_a_rack_is_usable_by_any_mix_of_servers(cluster: ControlPlane, tmp_path: Path) -> None:
    servants = [Servant(cluster, tmp_path, f"full-{n}", POOLS, rack="full") for n in range(SERVERS)]
    async with AsyncExitStack() as stack:
        for servant in servants:
            await stack.enter_async_context(servant.alive())
        async with judged(cluster, servants) as looks:
            await fill(servants, ADDRESSES)
            assert len(set(everything(servants))) == len(everything(servants)) == ADDRESSES, "evenly spread"
            await churn(servants)
            assert len(set(everything(servants))) == len(everything(servants)) == ADDRESSES, "still"
            for servant in servants:
                for record in servant.ledger.records():
                    servant.delete(record)
            await fill(servants[:1], ADDRESSES)
            assert len(servants[0].pods()) == ADDRESSES, "all on one"
        await until(lambda: set(owners(cluster, "full").values()) == {servants[0].name}, "nobody else has any")
        assert owners(cluster, "full").keys() == servants[0].pods()
        print(f"looks at all servers: {looks[0]}; leases confirmed by the API server: {looks[1]}", file=sys.__stderr__)
        assert all(looks)
