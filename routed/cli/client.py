"""Talks to the running agent over its control socket."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from routed.settings import load


class AgentUnreachableError(Exception):
    """The agent does not answer; the message says what to look at."""


def request(
    method: str, what: str, config: Path, *, body: Mapping[str, str] | None = None, timeout_s: float = 30.0
) -> Any:
    """Send one request and return the decoded answer; AgentUnreachableError or SettingsError when there is none."""
    return asyncio.run(_request(method, what, load(config).control_socket, body, timeout_s))


async def _request(method: str, what: str, path: Path, body: Mapping[str, str] | None, timeout_s: float) -> Any:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    connector = aiohttp.UnixConnector(path=str(path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://agent/{what}", json=body) as response,
        ):
            answer = await response.json()
            if response.status >= 400:
                raise AgentUnreachableError(f"the agent refused: {answer.get('error', response.reason)}")
            return answer
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise AgentUnreachableError(
            f"no agent answers on {path} ({reason}); is `routed agent` running on this server, with this rack file?"
        ) from error
