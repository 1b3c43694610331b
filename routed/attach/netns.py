"""Going into a pod's network namespace and looking around there.

A thread that has entered a pod must never run anything else: each visit gets a thread of its own that ends with it, so
there is no way back to get wrong. No pod's namespace is ever created here and no process is ever forked. A netlink
socket belongs to the namespace it was opened in, whoever uses it later: a visit therefore holds one socket from where
the slots are and one from inside the pod.
"""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from routed.attach.errors import InvalidNetns, KernelError
from routed.attach.kernel import Rtnl

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000
NS_GET_NSTYPE = 0xB703
"""ioctl(2) on a namespace file: its CLONE_ flag; refused by any other kind of file (ioctl_ns(2))."""
OWN = Path("/proc/thread-self/ns/net")

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visitor holds: both sides of the door."""

    netns: int
    """File descriptor of the pod's namespace."""
    slots: Rtnl
    pod: Rtnl

    def has(self, ifname: str) -> bool:
        """Whether the pod has an interface of this name; does not wait for the kernel's lock, as netlink does."""
        try:
            return socket.if_nametoindex(ifname) != 0
        except OSError:
            return False


def open_netns(path: str) -> int:
    """Open the network namespace at this path; InvalidNetns when there is none, or when it is the caller's own."""
    try:
        netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InvalidNetns(f"{path!r} does not exist") from error
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"open {path}") from error
    try:
        _check_kind(netns, path)
        _check_not_own(netns, path)
    except InvalidNetns:
        os.close(netns)
        raise
    return netns


def enter(netns: int) -> None:
    """Move the calling thread into a network namespace."""
    if libc.setns(netns, CLONE_NEWNET) != 0:
        raise KernelError(ctypes.get_errno(), "enter a network namespace")


def _check_kind(netns: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(netns, NS_GET_NSTYPE)
    except OSError as error:
        raise InvalidNetns(f"{path} is not a namespace") from error
    if kind != CLONE_NEWNET:
        raise InvalidNetns(f"{path} is not a network namespace")


def _check_not_own(netns: int, path: str) -> None:
    if os.path.samestat(os.fstat(netns), OWN.stat()):
        raise InvalidNetns(f"{path} is the server's own network namespace")


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Run ``call`` in a thread that ends with it, and may therefore go into other namespaces.

    `threading.Thread.start` would wait until the thread runs, and keep the event loop from everything else meanwhile.
    """
    done: Future[T] = Future()

    def thread() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits, not to this thread
            done.set_exception(error)
        else:
            done.set_result(result)

    _thread.start_new_thread(thread, ())
    return done


async def apart(call: Callable[[], T]) -> T:
    """Run ``call`` in a thread of its own, and return or raise what it does.

    A caller that is cancelled waits for the end nevertheless: until then nobody else may start on the same pod.
    """
    done = asyncio.wrap_future(in_thread(call))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        done.exception()  # nobody is left to hear of it
        raise


async def visit(path: str, enter_slots: Callable[[], Rtnl], call: Callable[[Visit], T]) -> T:
    """Run ``call`` inside the network namespace at ``path``, coming from where the slots are.

    Raises InvalidNetns when there is nothing to visit, and whatever ``call`` raises.
    """

    def inside() -> T:
        netns = open_netns(path)
        try:
            with enter_slots() as slots:
                _check_not_own(netns, path)
                enter(netns)
                with Rtnl() as pod:
                    return call(Visit(netns, slots, pod))
        finally:
            os.close(netns)

    return await apart(inside)
