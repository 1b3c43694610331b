"""See a route arrive at two ToRs: on the wire (the UPDATE) and in the kernel's forwarding table.

All times are nanoseconds of the wall clock, stamped where the event happens: by the kernel for packets, by
``ip monitor`` for routes. This process may be late to read them without falsifying them.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import struct
import subprocess
import threading
from datetime import datetime
from functools import partial
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Literal, Self

from tests.bench.namespace import named, threads_in
from tests.bench.update import announced, segment
from tests.fixtures.tors import run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fixtures.tors import Tor

Event = Literal["wire", "fib", "gone"]

_ETH_P_IP = 0x0800
_SO_TIMESTAMPNS = 35  # the socket module has no name for it
_TIMEOUT_S = 30.0
_ROUTE = re.compile(r"\[(?P<at>\S+)\] (?P<gone>Deleted )?(blackhole )?(?P<prefix>\d[\d./]*) ")
_PROBE = IPv4Network("192.0.2.255")


class Watch:
    """Both ToRs under observation, from construction to `close`."""

    def __init__(self, tors: Sequence[Tor]) -> None:
        self._tors = len(tors)
        self._seen: dict[tuple[Event, IPv4Network], dict[str, int]] = {}
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._monitors = []
        for tor in tors:
            sniffer = threads_in(named(tor.netns)).submit(_sniffer).result()
            self._selector.register(sniffer, selectors.EVENT_READ, self._packets(tor, sniffer))
            monitor = subprocess.Popen(
                ["ip", "-n", tor.netns, "-o", "-ts", "-4", "monitor", "route"], stdout=subprocess.PIPE, bufsize=0
            )
            assert monitor.stdout
            self._monitors.append(monitor)
            self._selector.register(monitor.stdout, selectors.EVENT_READ, self._routes(tor, monitor.stdout.fileno()))
        self._wake, self._stop = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()
        for tor in tors:
            until(partial(self._told_of_probe, tor), f"route monitor of {tor.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, event: Event, prefix: IPv4Network) -> int:
        """Return when the later of the two ToRs saw it, and forget it; TimeoutError."""
        key = (event, prefix)
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._seen.get(key, ())) == self._tors, _TIMEOUT_S):
                raise TimeoutError(f"{event} of {prefix}: only {list(self._seen.get(key, ()))} within {_TIMEOUT_S:g} s")
            return max(self._seen.pop(key).values())

    def forget(self) -> None:
        """Drop what was seen but not waited for: events of an earlier round."""
        with self._changed:
            self._seen.clear()

    def close(self) -> None:
        """Stop watching."""
        self._stop.send(b"x")
        self._thread.join()
        for monitor in self._monitors:
            monitor.kill()
            monitor.wait()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr] # registered as objects, not as numbers
        self._stop.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _saw(self, event: Event, prefix: IPv4Network, tor: Tor, at_ns: int) -> None:
        with self._changed:
            self._seen.setdefault((event, prefix), {}).setdefault(tor.name, at_ns)
            self._changed.notify_all()

    def _told_of_probe(self, tor: Tor) -> bool:
        """Make and remove a route: once its monitor has told of one, it misses nothing that comes later."""
        for verb in ("add", "delete"):
            run("ip", "-n", tor.netns, "route", verb, "blackhole", str(_PROBE))
        return tor.name in self._seen.get(("gone", _PROBE), ())

    def _packets(self, tor: Tor, sniffer: socket.socket) -> Callable[[], None]:
        def read() -> None:
            packet, ancillary, _, _ = sniffer.recvmsg(65536, 64)
            found = segment(packet)
            if found and found.destination == tor.address:
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                for prefix in announced(found.payload):
                    self._saw("wire", prefix, tor, seconds * 10**9 + nanoseconds)

        return read

    def _routes(self, tor: Tor, descriptor: int) -> Callable[[], None]:
        lines = _Lines(descriptor)

        def read() -> None:
            for line in lines.read():
                if found := _ROUTE.match(line):
                    at_ns = int(datetime.fromisoformat(found["at"]).timestamp() * 10**9)
                    self._saw("gone" if found["gone"] else "fib", IPv4Network(found["prefix"]), tor, at_ns)

        return read


class _Lines:
    """Whole lines from a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> list[str]:
        *lines, self._rest = (self._rest + os.read(self._descriptor, 65536)).split(b"\n")
        return [line.decode() for line in lines]


def _sniffer() -> socket.socket:
    """Return a socket that gets every IPv4 packet of the calling thread's namespace, from its IP header on."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    sniffer.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return sniffer
