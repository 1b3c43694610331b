"""Headless Chromium, driven over the DevTools protocol; ``python -m tests.browser`` takes docs/audit.png anew.

Asks for no network: pages are files, the protocol is spoken over loopback.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_DEADLINE_S = 60.0
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
PICTURE = Path(__file__).parents[1] / "docs" / "audit.png"


class Page:
    """One tab."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._sent = 0
        self.events: list[dict[str, Any]] = []
        """What happened so far: requests, exceptions, entries of the console."""

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": parameters})
        while (message := await self._next()).get("id") != self._sent:
            pass
        assert "error" not in message, message
        return message["result"]

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=_DEADLINE_S)
        if "method" in message:
            self.events.append(message)
        return message

    async def open(self, url: str, *, width: int = 1280, height: int = 900, script: bool = True) -> None:
        """Load a page into a window of this size."""
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Emulation.setScriptExecutionDisabled", value=not script)
        loaded = len(self.events)
        await self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events[loaded:]):
            await self._next()

    async def run(self, expression: str) -> Any:
        """Return what an expression is, in the page; a promise's result."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(_DEADLINE_S):
            while not await self.run(expression):
                await asyncio.sleep(0.02)

    async def screenshot(self) -> bytes:
        """Return the window as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    async def media(self, kind: str = "", scheme: str = "light") -> None:
        """Show the page on ``screen`` or ``print``, in a colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def requests(self) -> list[str]:
        """Return what was asked for."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[dict[str, Any]]:
        """Return exceptions, refused scripts and styles."""
        return [event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Yield a tab of a browser of our own; it is gone afterwards, with all that it wrote."""
    assert CHROMIUM is not None, "no Chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = (*_FLAGS, f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank")
        silent = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(CHROMIUM, *arguments, stdout=silent, stderr=silent)
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (tab,) = [tab for tab in await answer.json() if tab["type"] == "page"]
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
                    with suppress(ConnectionError, TypeError):  # it may be gone before it answers
                        await Page(socket).call("Browser.close")
            async with asyncio.timeout(_DEADLINE_S):
                await process.wait()  # by itself, so that it reaps its own children
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(_DEADLINE_S):
        while not (file.exists() and (lines := file.read_text().splitlines())):
            await asyncio.sleep(0.02)
    return int(lines[0])


async def _picture() -> None:
    from routed.audit.report.page import render
    from tests.golden.audits import SAMPLE

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "audit.html"
        page.write_text(render(SAMPLE), encoding="utf-8")
        async with browser() as tab:
            await tab.open(page.as_uri(), width=1240, height=1130)
            PICTURE.write_bytes(await tab.screenshot())


if __name__ == "__main__":
    sys.exit(asyncio.run(_picture()))
