"""Asking web servers as somebody in a network namespace: a pod, a server."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from containerlab.netns import socket_in

_TIMEOUT_S = 5.0


def fetch(netns: str | Path, address: str, port: int = 80) -> str:
    """Return what a web server answers; OSError when it does not."""
    connection = http.client.HTTPConnection(address, port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(netns, family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.connect((address, port))
        connection.sock = sock
        connection.request("GET", "/index.html")
        return connection.getresponse().read().decode().strip()


def answer(netns: str | Path, address: str, port: int = 80) -> str:
    """Return what `fetch` does, nothing when nobody answers."""
    try:
        return fetch(netns, address, port)
    except OSError:
        return ""
