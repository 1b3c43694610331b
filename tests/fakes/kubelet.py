"""A kubelet that serves PodResources over gRPC on a Unix socket, and can be told to be old, slow or busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc

from routed.kube.podresources import messages

Allocated = Sequence[Mapping[str, Sequence[str]]]
"""Of each container: resource -> identities of devices."""


class FakeKubelet:
    """What it knows are attributes; pods by namespace and name."""

    def __init__(self) -> None:
        self.pods: list[tuple[str, str, Allocated]] = []
        self.no_get: tuple[grpc.StatusCode, str] | None = None
        """How it refuses `Get`: kubelets before 1.27, and those with the feature switched off."""
        self.busy = 0
        """So many calls are turned down by the rate limit."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[str] = []

    @asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[FakeKubelet]:
        server = grpc.aio.server()
        methods = {"Get": (self._get, "Get"), "List": (self._list, "List")}
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=messages()[f"{kind}Request"].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (method, kind) in methods.items()
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)])
        assert server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    @contextmanager
    def running(self, socket: Path) -> Iterator[FakeKubelet]:
        """Serve in a thread of its own, for a test that has no event loop."""
        ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            async with self.serving(socket):
                ready.set()
                await ended.wait()

        server = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        server.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(ended.set)
            server.join()
            loop.close()

    async def _get(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await self._enter("Get", context)
        if self.no_get is not None:
            await context.abort(*self.no_get)
        asked = (request.pod_namespace, request.pod_name)
        for namespace, name, containers in reversed(self.pods):
            if asked == (namespace, name):
                return messages()["GetResponse"](pod_resources=_pod(namespace, name, containers))
        await context.abort(grpc.StatusCode.UNKNOWN, f"pod {asked[1]} in namespace {asked[0]} not found")
        return None

    async def _list(self, _request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await self._enter("List", context)
        return messages()["ListResponse"](pod_resources=[_pod(*pod) for pod in self.pods])

    async def _enter(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.calls.append(method)
        await self.gate.wait()
        if self.busy:
            self.busy -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")


def _pod(namespace: str, name: str, containers: Allocated) -> Any:
    kinds = messages()
    return kinds["Pod"](
        namespace=namespace,
        name=name,
        containers=[
            kinds["Container"](
                name=f"c{number}",
                devices=[
                    kinds["Devices"](resource_name=resource, device_ids=identities)
                    for resource, identities in allocated.items()
                ],
            )
            for number, allocated in enumerate(containers)
        ],
    )
