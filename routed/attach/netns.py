"""Going into a pod's network namespace and looking around there.

A thread that has entered a pod must never run anything else: it goes on into the next pod, or ends, so there is no way
back to get wrong. No pod's namespace is ever created here and no process is ever forked. A netlink socket belongs to
the namespace it was opened in, whoever uses it later: a visit therefore holds one socket from where the slots are and
one from inside the pod.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import fcntl
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from routed.attach.errors import InvalidNetns, KernelError
from routed.attach.kernel import Rtnl
from routed.threads import ended, run

T = TypeVar("T")
Identity = tuple[int, int]
"""Device and inode of a namespace's file."""

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

    def index(self, ifname: str) -> int | None:
        """Return the index of an interface; unlike netlink, this does not wait for the kernel's lock."""
        try:
            return socket.if_nametoindex(ifname)
        except OSError:
            return None

    def need(self, ifname: str) -> int:
        """Return the index of an interface that was there a moment ago; InvalidNetns."""
        index = self.index(ifname)
        if index is None:
            raise InvalidNetns(f"{ifname} vanished from the pod at once")
        return index


@contextmanager
def _own_errors(path: str) -> Iterator[None]:
    """Nothing there is InvalidNetns; not being able to tell is KernelError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InvalidNetns(f"{path!r} does not exist") from error
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"open {path}") from error


def open_netns(path: str, off_limits: Collection[Identity] | None = None) -> int:
    """Open the network namespace at this path; InvalidNetns when there is none, or when it is the caller's own.

    ``off_limits`` are others than the caller's own.
    """
    with _own_errors(path):
        netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_kind(netns, path)
        _check_allowed(netns, path, {_identity(OWN.stat())} if off_limits is None else off_limits)
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


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _check_allowed(netns: int, path: str, off_limits: Collection[Identity]) -> None:
    if _identity(os.fstat(netns)) in off_limits:
        raise InvalidNetns(f"{path} is the server's own network namespace")


class Visitors:
    """Go into pods, at most so many at once; one goes from pod to pod as long as somebody waits, and then ends."""

    def __init__(self, limit: int, enter_slots: Callable[[], Rtnl]) -> None:
        self._limit = limit
        self._enter_slots = enter_slots
        self._lock = threading.Lock()
        self._under_way = 0
        self._errands: deque[_Errand] = deque()

    async def visit(self, path: str, call: Callable[[Visit], T]) -> T:
        """Run ``call`` inside the network namespace at ``path``, coming from where the slots are.

        Raises InvalidNetns when there is nothing to visit, and whatever ``call`` raises.
        """
        done: Future[T] = Future()
        target = _look_up(path)
        with self._lock:
            self._errands.append((path, target, call, done))
            starts = self._under_way < self._limit
            self._under_way += starts
        if starts:
            self._start(done)
        return await ended(done)

    def _start(self, first: Future[Any]) -> None:
        try:
            _thread.start_new_thread(self._go_round, ())
        except RuntimeError:  # no more threads: whoever asked is told, the next one tries again
            with self._lock:
                self._under_way -= 1
            first.cancel()
            raise

    def _go_round(self) -> None:
        tour = _Tour(self._enter_slots)
        try:
            while errand := self._next():
                path, target, call, done = errand
                if done.set_running_or_notify_cancel():
                    run(partial(tour.visit, path, target, call), done)
        finally:
            tour.end()

    def _next(self) -> _Errand | None:
        with self._lock:
            if self._errands:
                return self._errands.popleft()
            self._under_way -= 1
            return None


def _look_up(path: str) -> Identity:
    """Return what the path means to the caller: ``/proc/thread-self/ns/net`` means something else to a visitor."""
    with _own_errors(path):
        return _identity(os.stat(path))  # noqa: PTH116  # whatever text it is, and without the cost of a Path


_Errand = tuple[str, Identity, Callable[[Visit], Any], Future[Any]]
"""Path and what it meant when the visit was asked for, what to do there, and who waits for it."""


class _Tour:
    """One visitor's way: from home to the slots, and from there into one pod after the other."""

    def __init__(self, enter_slots: Callable[[], Rtnl]) -> None:
        self._enter_slots = enter_slots
        self._slots: Rtnl | None = None
        self._off_limits = {_identity(OWN.stat())}

    def visit(self, path: str, target: Identity, call: Callable[[Visit], T]) -> T:
        netns = open_netns(path, self._off_limits)
        try:
            if _identity(os.fstat(netns)) != target:
                raise InvalidNetns(f"{path} is another namespace than a moment ago")
            if self._slots is None:
                self._slots = self._enter_slots()
                self._off_limits.add(_identity(OWN.stat()))
                _check_allowed(netns, path, self._off_limits)
            enter(netns)
            with Rtnl() as pod:
                return call(Visit(netns, self._slots, pod))
        finally:
            os.close(netns)

    def end(self) -> None:
        if self._slots is not None:
            self._slots.close()
