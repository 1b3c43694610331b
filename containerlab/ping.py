"""Pings between many places at once, over IPv4 and IPv6: who does not answer whom.

One process sends ICMP and ICMPv6 echo requests through raw sockets that were opened in the places' network namespaces;
the places' own kernels answer. Sources: RFC 792, RFC 4443 section 4.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Sequence

from containerlab.netns import socket_in
from containerlab.probe import FAMILIES, Flow, Place

ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
REQUEST = {4: 8, 6: 128}
REPLY = {4: 0, 6: 129}
PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
RATE_HZ = 2000
"""Over all flows: a pace that userspace switches on a busy machine keep up with."""
PATIENCE_S = 2.0


def ping(flows: Sequence[Flow], rate_hz: float = RATE_HZ) -> list[Flow]:
    """Send one echo request per flow (at most 65536) and return the flows that got no reply."""
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets: dict[tuple[Place, int], socket.socket] = {}
        versions: dict[int, tuple[socket.socket, int]] = {}
        for flow in flows:
            key = (flow.source, flow.version)
            if key not in sockets:
                sockets[key] = stack.enter_context(_open(flow.source, flow.version))
                versions[sockets[key].fileno()] = (sockets[key], flow.version)
                poll.register(sockets[key], select.EPOLLIN)
        silent = dict(enumerate(flows))
        identifier = os.getpid() & 0xFFFF
        begin = time.monotonic()

        def read_until(deadline: float) -> None:
            while silent and (wait := deadline - time.monotonic()) > 0:
                for descriptor, _ in poll.poll(wait):
                    for sequence in _replies(*versions[descriptor], identifier):
                        silent.pop(sequence, None)

        for number, flow in enumerate(flows):
            read_until(begin + number / rate_hz)
            with contextlib.suppress(OSError):  # no route: no reply either
                sockets[flow.source, flow.version].sendto(
                    _request(flow.version, identifier, number), (str(flow.target.address(flow.version)), 0)
                )
        read_until(time.monotonic() + PATIENCE_S)
    return list(silent.values())


def _open(place: Place, version: int) -> socket.socket:
    opened = socket_in(place.netns, FAMILIES[version], socket.SOCK_RAW, PROTOCOL[version])
    opened.setblocking(False)
    opened.bind((str(place.address(version)), 0))
    return opened


def _request(version: int, identifier: int, sequence: int) -> bytes:
    """Return an echo request; the kernel fills in ICMPv6's checksum, which covers addresses."""
    blank = ECHO.pack(REQUEST[version], 0, 0, identifier, sequence)
    if version == 6:
        return blank
    total = sum(struct.unpack("!4H", blank))
    total = (total & 0xFFFF) + (total >> 16)
    return ECHO.pack(REQUEST[version], 0, ~total & 0xFFFF, identifier, sequence)


def _replies(opened: socket.socket, version: int, identifier: int) -> list[int]:
    """Return the sequence numbers of the replies to us that wait in a socket."""
    numbers = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = opened.recv(2048)
            start = (packet[0] & 0x0F) * 4 if version == 4 else 0  # IPv4 raw sockets show the IP header
            if len(packet) >= start + ECHO.size:
                kind, _, _, to, sequence = ECHO.unpack_from(packet, start)
                if kind == REPLY[version] and to == identifier:
                    numbers.append(sequence)
    return numbers
