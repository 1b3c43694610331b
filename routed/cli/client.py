"""Talks to the running agent over its control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from routed.errors import MendableError
from routed.settings import load


class AgentUnreachableError(MendableError):
    """The agent does not answer; the message says what to look at."""


class _Connection(HTTPConnection):
    """To whoever listens on a socket of this server."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    method: str, what: str, config: Path, *, body: Mapping[str, str] | None = None, timeout_s: float = 30.0
) -> Any:
    """Send one request and return the decoded answer; AgentUnreachableError or SettingsError when there is none.

    ``timeout_s`` is how long the agent may be silent.
    """
    path = load(config).control_socket
    try:
        with closing(_Connection(path, timeout_s)) as connection:
            response, answer = _ask(connection, method, what, body)
    except (HTTPException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AgentUnreachableError(
            f"no agent answers on {path} ({reason}); is `routed agent` running on this server, with this rack file?"
        ) from error
    if response.status >= 400:
        raise AgentUnreachableError(f"the agent refused: {answer.get('error', response.reason)}")
    return answer


def _ask(
    connection: HTTPConnection, method: str, what: str, body: Mapping[str, str] | None
) -> tuple[HTTPResponse, Any]:
    """Return the answer, as it came and decoded; HTTPException when no page of the agent's looks like that."""
    sent = None if body is None else json.dumps(body)
    connection.request(method, f"/{what}", sent, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.headers.get_content_type() != "application/json":
        raise HTTPException(f"{response.status} {response.reason}")
    return response, json.load(response)
