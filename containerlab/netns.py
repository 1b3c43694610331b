"""Sockets of other network namespaces: a socket belongs to the namespace it was opened in, whoever uses it later.

So one process can send and receive as every pod of a lab, with no process inside any of them.
"""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLONE_NEWNET = 0x4000_0000  # setns(2)

_libc = ctypes.CDLL(None, use_errno=True)


def socket_in(netns: str | Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Open a socket inside a network namespace, named by a path; OSError when there is none."""
    # The thread that entered must never run anything else: it ends with the pool.
    with ThreadPoolExecutor(1) as visitor:
        return visitor.submit(_open, netns, family, kind, protocol).result()


def _open(netns: str | Path, family: int, kind: int, protocol: int) -> socket.socket:
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(there, CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"enter {netns}: {os.strerror(code)}")
    finally:
        os.close(there)
    return socket.socket(family, kind, protocol)
