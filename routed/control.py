"""The agent's two doors for people and machines: HTTP for metrics and health, HTTP on a root-only socket.

The first one, on loopback unless the rack file says otherwise, tells and never changes anything. What names
pods or changes something goes through the control socket, which only root can open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from inspect import isawaitable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web

from ovs_flows.errors import OvsError
from routed.telemetry import CONTENT_TYPE

Page = Callable[[], Awaitable[Any] | Any]
Change = Callable[[Mapping[str, str]], Awaitable[Any]]
"""Does something that the body of the request names."""
Ailment = Callable[[], str | None]
"""A sentence that says what is wrong, None for health."""


class Refusal(Exception):  # noqa: N818 - what the agent does
    """What was asked for cannot be done; the message says why."""


@asynccontextmanager
async def serve_health(
    address: IPv4Address | IPv6Address,
    port: int,
    *,
    metrics: Callable[[], Awaitable[bytes]],
    ready: Ailment,
    started: Ailment,
) -> AsyncIterator[None]:
    """Serve /metrics, /healthz (the loop answers), /readyz (it can do its work) and /startupz (a ToR listens, too).

    The last one is for a rollout, which must stop at the first server whose new agent no ToR understands. Afterwards a
    lost session is no reason to end anything.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    def tell(ailment: Ailment) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            found = ailment()
            return web.Response(text=f"{found or 'ok'}\n", status=503 if found else 200)

        return handle

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/healthz", show_health)])
    app.add_routes([web.get("/readyz", tell(ready)), web.get("/startupz", tell(started))])
    async with _running(app) as runner:
        await web.TCPSite(runner, str(address), port).start()
        yield


@asynccontextmanager
async def serve_control(
    path: Path, *, pages: Mapping[str, Page], changes: Mapping[str, Change] = MappingProxyType({})
) -> AsyncIterator[None]:
    """Serve the pages of `routed show`, and POST of changes, on a socket that only root can open."""

    def show(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            try:
                found = page()
                return web.json_response(await found if isawaitable(found) else found)
            except OvsError as error:
                return web.json_response({"error": str(error)}, status=503)

        return handle

    def do(change: Change) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                return web.json_response(await change(await request.json()))
            except (Refusal, OvsError, TimeoutError) as error:
                return web.json_response({"error": str(error)}, status=409)

        return handle

    app = web.Application()
    app.add_routes([web.get(f"/{name}", show(page)) for name, page in pages.items()])
    app.add_routes([web.post(f"/{name}", do(change)) for name, change in changes.items()])
    path.unlink(missing_ok=True)
    async with _running(app) as runner:
        await web.UnixSite(runner, str(path)).start()
        path.chmod(0o600)
        yield


@asynccontextmanager
async def _running(app: web.Application) -> AsyncIterator[web.AppRunner]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()
