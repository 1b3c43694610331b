"""Threads that live in another network namespace; what they start (sockets, processes) lives there too."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def named(name: str) -> Path:
    """Return the path of a namespace that ``ip netns`` made."""
    return Path("/run/netns", name)


def enter(netns: Path) -> None:
    """Move the calling thread, for good; raises OSError."""
    with netns.open("rb") as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(netns))


def threads_in(netns: Path, count: int = 1) -> ThreadPoolExecutor:
    """Return a pool whose threads live in a namespace."""
    return ThreadPoolExecutor(count, initializer=enter, initargs=(netns,))
