"""Servers of one rack on a real API server: each with its own connection, ledger, file and leases, without an agent.

`Servant` does with leases and ledger what the agent does. It can be killed at any moment and started again from its
files; pods are holders in its ledger. `owners` and `twice` are how a judge looks at all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from random import Random
from typing import Self

from ipam.errors import PoolExhausted
from ipam.ledger import Ledger
from ipam.model import Holder, Holdings, IPAddress, Pod, Pool, Record, Request
from routed.kube.api import Api
from routed.kube.cache import Cache
from routed.kube.client import connect
from routed.kube.leases import KubeLeases
from routed.kube.registry import Registry
from routed.kube.stock import Marks
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, agent_of

_POLL_S = 0.05


class Servant:
    """One server. Its ledger is the tenant of its leases."""

    registry_kind = Registry

    def __init__(
        self,
        control: ControlPlane,
        folder: Path,
        name: str,
        pools: Sequence[Pool],
        *,
        rack: str = "r1",
        marks: Marks = Marks(),  # noqa: B008 - frozen
        look_s: float = 60.0,
        cooldown_s: float = 0.0,
    ) -> None:
        self.name, self.rack, self.pools = name, rack, tuple(pools)
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.kubeconfig = control.kubeconfig(agent_of(control, name), self.folder / "kubeconfig")
        self.rng = Random(f"{folder.name}/{name}")  # noqa: S311 - spreads requests
        self.boot = "first"
        self._marks, self._look_s, self._cooldown_s = marks, look_s, cooldown_s
        self._numbers = count()
        self.taken: Mapping[IPAddress, str] = {}

    @asynccontextmanager
    async def alive(self, *, api: Api | None = None, keep: bool = True) -> AsyncIterator[Self]:
        """Be a running agent; leaving ends it at whatever it awaits.

        ``api`` is a connection to use instead of an own one; ``keep``: the stock is kept in the background.
        """
        cache = Cache(self.folder / "leases.json", rack=self.rack, node=self.name, boot=self.boot)
        async with AsyncExitStack() as stack:
            if api is None:
                api = await stack.enter_async_context(connect(self.kubeconfig))
            self.registry = self.registry_kind(api, self.rack, self.name, self.rng)
            self.leases = KubeLeases(
                self.registry, cache, self.pools, marks=self._marks, look_s=self._look_s, rng=self.rng
            )
            await self.leases.start()
            self.ledger = Ledger(self.folder / "ledger.db", self.pools, self.leases, cooldown_s=self._cooldown_s)
            stack.callback(self.ledger.close)
            background = [asyncio.create_task(self.leases.run(self))] if keep else []
            try:
                yield self
            finally:
                for task in background:
                    task.cancel()
                ends = await asyncio.gather(*background, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    # ---- what the store does

    async def holdings(self) -> Holdings:
        return self.ledger.holdings(time.time())

    def set_taken(self, taken: Mapping[IPAddress, str]) -> None:
        self.taken = taken

    # ---- what the runtime does

    def new_pod(self) -> Pod:
        return Pod("tests", f"{self.name}-{next(self._numbers)}", "u")

    def try_add(self, pod: Pod | None = None) -> Record:
        """Give a pod an address from memory."""
        pod = pod or self.new_pod()
        (answer,) = self.ledger.put([Request(Holder(pod.name, "eth0"), pod)], time.time())
        if not isinstance(answer, Record):
            raise answer
        self.leases.nudge()
        return answer

    async def add(self, pod: Pod | None = None) -> Record:
        """Give a pod an address as the agent does: ask the source once when there is none."""
        pod = pod or self.new_pod()
        try:
            record = self.try_add(pod)
        except PoolExhausted:
            await self.leases.more(pod)
            record = self.try_add(pod)
        self.leases.served(pod)
        return record

    async def insist(self, within_s: float = 120.0) -> Record:
        """Give a new pod an address as kubelet does: again and again."""
        deadline, pod = time.monotonic() + within_s, self.new_pod()
        while True:
            try:
                return await self.add(pod)
            except PoolExhausted:
                assert time.monotonic() < deadline, f"{self.name} gets no address"
                await asyncio.sleep(_POLL_S)

    def delete(self, record: Record) -> None:
        """End a pod."""
        self.ledger.discard(record.holder)
        self.ledger.forget(record.holder, record.sequence, time.time())
        self.leases.nudge()

    # ---- what can be seen of it

    def pods(self) -> frozenset[IPAddress]:
        """Return the addresses that its pods have."""
        return frozenset(address for record in self.ledger.records() for address in record.addresses)

    def claims(self) -> frozenset[IPAddress]:
        """Return every address that it uses or could hand out at this moment."""
        return self.pods() | {network.network_address for network in self.leases.owned()}


def owners(control: ControlPlane, rack: str = "r1") -> dict[IPAddress, str]:
    """Return who has which address according to the API server, past all of our own code."""
    found = control.admin.get(f"{ADDRESSES}?labelSelector=routed.dev/rack={rack}").granted()["items"]
    said = {ip_address(item["spec"]["address"]): item["spec"]["node"] for item in found}
    assert len(said) == len(found), "two objects for one address"
    return said


def twice(servants: Sequence[Servant]) -> dict[IPAddress, list[str]]:
    """Return the addresses that more than one server uses or could hand out, and these servers; it has to be empty."""
    claimed: dict[IPAddress, list[str]] = {}
    for servant in servants:
        for address in servant.claims():
            claimed.setdefault(address, []).append(servant.name)
    return {address: names for address, names in claimed.items() if len(names) > 1}


async def until(condition: Callable[[], object], what: str, within_s: float = 60.0) -> None:
    """Wait until a condition holds; AssertionError when that takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(_POLL_S)  # between two looks
