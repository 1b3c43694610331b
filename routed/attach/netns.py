"""Going into a pod's network namespace and looking around there.

A thread that has entered a pod must never run anything else: each visit gets a thread of its own that ends with it, so
there is no way back to get wrong. No namespace is ever created here and no process is ever forked. A netlink socket
belongs to the namespace it was opened in, whoever uses it later: a visit therefore holds one socket from before the
step and one from after it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visitor holds: both sides of the door."""

    netns: int
    """File descriptor of the pod's namespace."""
    home: Rtnl
    pod: Rtnl


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open the network namespace at this path; InvalidNetns when there is none, or when it is our own."""
    try:
        netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InvalidNetns(f"{path!r} does not exist") from error
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"open {path}") from error
    try:
        _check(netns, path)
        yield netns
    finally:
        os.close(netns)


def _check(netns: int, path: str) -> None:
    try:
        kind = fcntl.ioctl(netns, NS_GET_NSTYPE)
    except OSError as error:
        raise InvalidNetns(f"{path} is not a namespace") from error
    if kind != CLONE_NEWNET:
        raise InvalidNetns(f"{path} is not a network namespace")
    there, here = os.fstat(netns), OWN.stat()
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
        raise InvalidNetns(f"{path} is the server's own network namespace")


async def visit(path: str, call: Callable[[Visit], T]) -> T:
    """Run ``call`` inside the network namespace at ``path``, in a thread that ends with it.

    Raises InvalidNetns when there is nothing to visit, and whatever ``call`` raises. A caller that is cancelled waits
    for the end of the visit nevertheless: until then nobody else may start on the same pod.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def report(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

    def thread() -> None:
        try:
            result = _enter(path, call)
        except BaseException as error:  # noqa: BLE001  # it belongs to the task that waits, not to this thread
            loop.call_soon_threadsafe(report, None, error)
        else:
            loop.call_soon_threadsafe(report, result, None)

    threading.Thread(target=thread, name="netns-visit", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        done.exception()  # nobody is left to hear of it
        raise


def _enter(path: str, call: Callable[[Visit], T]) -> T:
    with opened(path) as netns, Rtnl() as home:
        if _libc.setns(netns, CLONE_NEWNET) != 0:
            raise KernelError(ctypes.get_errno(), f"enter {path}")
        with Rtnl() as pod:
            return call(Visit(netns, home, pod))
