"""Asks ovs-vswitchd what its database does not say: what ovs-appctl does, without a process.

Owns one question at a time; remembers nothing. Source: ovs-appctl(8), lib/unixctl.c: JSON-RPC on a socket of the
daemon; a request is an object, and so is the answer, with nothing between or behind them.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ovs_flows.errors import Refused, Unreachable

_TIMEOUT_S = 10.0
_CHUNK = 1 << 18


async def ask(rundir: Path, command: str, *arguments: str) -> str:
    """Return what a command prints; Unreachable when no daemon answers, Refused when it knows no such command."""
    request = json.dumps({"id": 0, "method": command, "params": arguments}).encode()
    try:
        pid = (rundir / "ovs-vswitchd.pid").read_text().strip()
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(rundir / f"ovs-vswitchd.{pid}.ctl")
            try:
                writer.write(request)
                answer = await _answer(reader)
            finally:
                writer.close()
    except TimeoutError as error:
        raise Unreachable(f"ovs-vswitchd in {rundir} has not answered within {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise Unreachable(f"no ovs-vswitchd answers in {rundir}: {error}") from error
    if answer.get("error") is not None:
        raise Refused(f"{command}: {str(answer['error']).strip()}")
    return str(answer["result"])


async def _answer(reader: asyncio.StreamReader) -> dict[str, object]:
    text = bytearray()
    while chunk := await reader.read(_CHUNK):
        text += chunk
        if text.endswith(b"}"):  # maybe the end, maybe a brace of what it prints
            try:
                answer: dict[str, object] = json.loads(text)
            except ValueError:
                continue
            return answer
    raise ConnectionResetError("the connection ended in mid-sentence")
