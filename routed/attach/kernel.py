"""Conversations with the kernel: requests go in, values or errors come out.

Source: netlink(7), and the kernel's Documentation/userspace-api/netlink.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from routed.attach import answers
from routed.attach.answers import Device, Event, IPInterface, Neighbour, NicPort, Route
from routed.attach.errors import KernelError, NotFound
from routed.attach.filters import Filter, Hook, add_hooks, list_filters, read
from routed.attach.rtnl import (
    Request,
    list_addresses,
    list_devices,
    list_neighbours,
    list_qdiscs,
    list_routes,
    look_up,
)

NLM_F_DUMP_INTR = 0x010
NLMSG_ERROR, NLMSG_DONE, RTM_NEWLINK = 2, 3, 16
RTMGRP_LINK, RTMGRP_NEIGH = 0x1, 0x4
SO_RCVBUFFORCE = 33
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
RT_SCOPE_UNIVERSE = 0

_EVENT_BUFFER = 8 << 20
"""Bytes; room for what some hundred pods that come or go at once make the kernel tell."""
_ATTEMPTS = 10
"""Dumps that the kernel says were disturbed by a change are repeated this often."""


class Rtnl:
    """A netlink socket into the namespace that its opener was in; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = _open_socket()
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, *requests: Request) -> None:
        """Carry out up to a hundred requests in order, in one system call; KernelError for the first that failed.

        The others are carried out nevertheless: netlink has no transactions. But the death of this process cannot fall
        between two of them, so a device and its ownership mark always appear together. They are answered in order:
        only the last one says that it went well, of the others only failures are heard.
        """
        if not requests:
            return
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        self._send(
            b"".join(
                request.encode(sequence, silent=sequence != last) for sequence, request in enumerate(requests, first)
            )
        )
        failed: KernelError | None = None
        answered = first - 1
        while answered < last:
            for kind, flags, sequence, body in self._receive():
                if kind == NLMSG_ERROR and first <= sequence <= last:
                    answered = sequence
                    failed = failed or answers.failure(body, flags, requests[sequence - first].doing)
        if failed is not None:
            raise failed

    def devices(self, *, alias: str = "") -> list[Device]:
        """Return the devices whose alias begins so."""
        bodies = self.dump(list_devices())
        text = alias.encode()
        found = [answers.device(body) for body in bodies if text in body]
        return [device for device in found if device.alias.startswith(alias)]

    def nic_ports(self) -> list[NicPort]:
        """Return all devices, as ports of NICs and bonds."""
        return [answers.nic_port(body) for body in self.dump(list_devices())]

    def device(self, name: str) -> Device | None:
        """Return the device of this name."""
        request = look_up(name)
        self._sequence += 1
        self._send(request.encode(self._sequence))
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == RTM_NEWLINK:
                    return answers.device(body)
                failure = answers.failure(body, flags, request.doing)
                if failure is None or isinstance(failure, NotFound):
                    return None
                raise failure

    def addresses(self, index: int) -> list[IPInterface]:
        """Return the addresses of a device, link-local ones left out."""
        found = [answers.interface(body) for body in self.dump(list_addresses(index))]
        return [address for address, scope in found if scope == RT_SCOPE_UNIVERSE]

    def routes(self, index: int) -> list[Route]:
        """Return the unicast routes of the main table that leave through this device."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                bodies = self.dump(list_routes(index, family))
            except NotFound:  # a family without a table has no routes
                continue
            found += [answers.route(body) for body in bodies]
        return found

    def neighbours(self, index: int) -> list[Neighbour]:
        """Return the neighbour entries of a device."""
        return [answers.neighbour(body) for body in self.dump(list_neighbours(index))]

    def filters(self, index: int) -> dict[Filter, int]:
        """Return our filters on a device, and the handle of each."""
        bodies = [body for hook in Hook for body in self.dump(list_filters(index, hook))]
        return dict(found for body in bodies if (found := read(body)) is not None)

    def make_room(self, index: int) -> None:
        """Have a device with hooks, where filters can be; what comes next says why it has none."""
        with suppress(KernelError):  # it has them
            self.apply(add_hooks(index))

    def shapers(self, handle: int) -> dict[int, int]:
        """Return the token buckets of this handle: index of the device -> bytes a second."""
        found = map(answers.shaper, self.dump(list_qdiscs()))
        return {one.index: one.bytes_s for one in found if one is not None and one.handle == handle}

    def dump(self, request: Request) -> list[bytes]:
        """Ask for all of something; return the messages of the answer."""
        for _ in range(_ATTEMPTS):
            found = self._dump_once(request)
            if found is not None:
                return found
        raise KernelError(errno.EAGAIN, request.doing, "the kernel's tables keep changing")

    def _dump_once(self, request: Request) -> list[bytes] | None:
        self._sequence += 1
        self._send(request.encode(self._sequence))
        found: list[bytes] = []
        disturbed = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    failure = answers.failure(body, flags, request.doing)
                    if failure is not None:
                        raise failure
                    return None if disturbed else found
                found.append(body)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "send to the kernel") from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 17)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "receive from the kernel") from error
        return answers.split(data)


class RtnlEvents:
    """What changes among the devices and neighbours of the opener's namespace; never blocks."""

    def __init__(self) -> None:
        self._socket = _open_socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _EVENT_BUFFER)
        self._socket.bind((0, RTMGRP_LINK | RTMGRP_NEIGH))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> list[Event]:
        """Return what has arrived; KernelError when events were lost, after which only a full look helps."""
        events: list[Event] = []
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return events
            except OSError as error:
                raise KernelError(error.errno or errno.EIO, "receive events") from error
            events += [
                event for kind, _, _, body in answers.split(data) if (event := answers.event(kind, body)) is not None
            ]


def _open_socket() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "open a netlink socket") from error
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
        opened.setsockopt(SOL_NETLINK, option, 1)
    return opened
