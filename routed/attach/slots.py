"""The network namespace in which the inner ends of the slots wait.

A macvlan that comes or goes changes its parent's flags and MAC address. Where the bridge's own namespace sees
that, ovs-vswitchd looks at all of its ports again, each time (docs/adr/0001-slots.md): the parents therefore live where
nobody listens. The namespace is mounted on a file, on which the next agent and the operator find it::

    nsenter --net=/run/routed/slots ip link

This program keeps it open as well: a file that somebody unmounts meanwhile is mounted again, and no pod notices. Who
finds no namespace on the file (after a reboot) makes a new one. It is ours alone: whatever is in it is ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from routed.attach import sysctl
from routed.attach.errors import InvalidNetns, KernelError
from routed.attach.kernel import Rtnl
from routed.attach.netns import CLONE_NEWNET, OWN, enter, libc, open_netns
from routed.threads import in_thread

T = TypeVar("T")

MS_BIND, MNT_DETACH = 0x1000, 2
"""mount(2), umount(2)."""


class SlotSpace:
    """The namespace mounted at a path; found or made when it is first asked for. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where it is mounted."""
        self._lock = threading.Lock()
        self._netns: int | None = None

    def netns(self) -> int:
        """Return the namespace's descriptor, which stays open, once it is mounted at its path; KernelError."""
        with self._lock:
            if self._netns is None:
                try:
                    self._netns = open_netns(str(self.path))
                except InvalidNetns:
                    self._netns = in_thread(_make).result()
            if not self._is_mounted(self._netns):
                self._mount(self._netns)
            return self._netns

    def enter(self) -> Rtnl:
        """Go there for good, in a thread that ends soon; returns a socket there."""
        enter(self.netns())
        return Rtnl()

    def run(self, call: Callable[[], T]) -> T:
        """Run ``call`` in there, and wait for it."""
        netns = self.netns()

        def inside() -> T:
            enter(netns)
            return call()

        return in_thread(inside).result()

    def close(self) -> None:
        """Keep it open no longer; the file does."""
        with self._lock:
            if self._netns is not None:
                os.close(self._netns)
                self._netns = None

    def _is_mounted(self, netns: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(netns))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _mount(self, netns: int) -> None:
        target = str(self.path).encode()
        libc.umount2(target, MNT_DETACH)  # what else was mounted there; fails where nothing was
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"make {self.path}") from error
        if libc.mount(f"/proc/self/fd/{netns}".encode(), target, b"none", MS_BIND, None) != 0:
            raise KernelError(ctypes.get_errno(), f"mount the slots' namespace on {self.path}")


def _make() -> int:
    """Move the calling thread into a new namespace that routes nothing, without IPv6; return its descriptor."""
    if libc.unshare(CLONE_NEWNET) != 0:
        raise KernelError(ctypes.get_errno(), "make a network namespace")
    for scope in ("all", "default"):
        sysctl.write(f"ipv6/conf/{scope}/disable_ipv6", 1)
        sysctl.write(f"ipv4/conf/{scope}/forwarding", 0)  # a new namespace has the server's settings
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
