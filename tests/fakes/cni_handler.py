"""An agent behind the CNI socket that keeps its attachments in a dictionary, and can be told to fail or to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from pathlib import Path

from routed.cni.errors import InvalidConfig, Unavailable
from routed.cni.protocol import AttachmentRequest, GcRequest, Request
from routed.cni.queue import DeletionQueue
from routed.cni.result import Interface, Result, chain, differences
from routed.cni.server import Limits, Server
from routed.domain.workload import AttachmentId

FIRST_ADDRESS = IPv4Address("10.101.0.2")


class FakeHandler:
    def __init__(self) -> None:
        self.attached: dict[AttachmentId, Result] = {}
        self.deleted: list[AttachmentId] = []
        self.requests: list[Request] = []
        self.failure: Exception | None = None
        self.healthy = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most_running = 0
        self._handed_out = 0

    async def add(self, request: AttachmentRequest) -> Result:
        await self._enter(request)
        if request.attachment not in self.attached:
            self.attached[request.attachment] = self._attach(request)
        return chain(request.config.previous, self.attached[request.attachment])

    async def delete(self, request: AttachmentRequest) -> None:
        await self._enter(request)
        self.attached.pop(request.attachment, None)
        self.deleted.append(request.attachment)

    async def check(self, request: AttachmentRequest) -> None:
        await self._enter(request)
        expected = request.config.previous
        observed = self.attached.get(
            request.attachment, Result(interfaces=(Interface(name=request.attachment.ifname),))
        )
        if expected is not None and (found := differences(expected, observed)):
            raise InvalidConfig("; ".join(found))

    async def gc(self, request: GcRequest) -> None:
        await self._enter(request)
        for stale in self.attached.keys() - request.valid:
            del self.attached[stale]

    async def status(self, request: Request) -> None:
        await self._enter(request)
        if not self.healthy:
            raise Unavailable("the bridge is gone")

    async def _enter(self, request: Request) -> None:
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure

    def _attach(self, request: AttachmentRequest) -> Result:
        address = FIRST_ADDRESS + self._handed_out
        self._handed_out += 1
        return Result.model_validate(
            {
                "interfaces": [
                    {"name": f"rt{self._handed_out}", "mtu": 1500},
                    {
                        "name": request.attachment.ifname,
                        "mac": "0a:58:0a:65:00:02",
                        "sandbox": request.netns,
                        "mtu": 1500,
                    },
                ],
                "ips": [{"address": f"{address}/32", "gateway": "10.101.0.1", "interface": 1}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.101.0.1"}],
            }
        )


@contextlib.asynccontextmanager
async def serving(path: Path, handler: FakeHandler, queue: Path, limits: Limits | None = None) -> AsyncIterator[Server]:
    """The real server in front of a handler, answering calls until the block ends."""
    server = Server(path, handler, DeletionQueue(queue), limits)
    task = asyncio.create_task(server.serve())
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield server
    finally:
        for running in (ready, task):
            running.cancel()
        await asyncio.gather(ready, task, return_exceptions=True)


async def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for a condition that nobody signals."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)
