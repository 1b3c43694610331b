"""Traffic to lose: UDP flows between places of a lab, numbered packet by packet: a loss has a flow and a length.

All flows of a probe run in one thread of this process, through sockets that were opened in the places' network
namespaces. Every flow is one way with a source port of its own, so that ECMP and the bonds' hashes spread them and a
loss has a direction. Never judges: whether a loss matters is the caller's to say.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Self

from containerlab.netns import socket_in

IPAddress = IPv4Address | IPv6Address
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 9999
HEADER = struct.Struct("!IIQ")
"""Flow, sequence number, the probe's own number: another probe's packets do not count."""
BURST_S = 0.01
"""How far the sender may fall behind and catch up; what it could not send in time beyond that is never sent."""
ON_THE_WAY_S = 0.25
"""A packet that was sent longer ago than this has arrived, or late enough to matter."""
STRAGGLERS_S = 1.0
"""A packet that comes later than this after the last one was sent is lost."""
RECEIVE_BUFFER = 4 << 20
SO_RCVBUFFORCE = 33  # socket(7); beyond the limit of ordinary users

_numbers = itertools.count(time.monotonic_ns())


@dataclass(frozen=True, slots=True)
class Place:
    """Where packets come from and go to: a pod, a server."""

    name: str
    netns: str | Path
    """A path to its network namespace, as this process sees it."""
    addresses: tuple[IPAddress, ...]

    def address(self, version: int) -> IPAddress:
        """Return its address of an IP version; LookupError when it has none."""
        for address in self.addresses:
            if address.version == version:
                return address
        raise LookupError(f"{self.name} has no IPv{version} address")


@dataclass(frozen=True, slots=True)
class Flow:
    """One way, one IP version."""

    source: Place
    target: Place
    version: int

    def __str__(self) -> str:
        return f"{self.source.name} -> {self.target.name} IPv{self.version}"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a flow's packets."""

    flow: Flow
    sent: int
    lost: int
    worst_gap_s: float
    """From the sending of the first packet of the longest run of lost ones to that of the next that arrived."""
    open: bool = False
    """The last packet was lost: nobody knows how long the gap would have become."""

    def __str__(self) -> str:
        return f"{self.flow}: {self.lost} of {self.sent} lost, worst gap {self.worst_gap_s * 1000:.0f} ms"


def both_ways(pairs: Iterable[tuple[Place, Place]], versions: Sequence[int] = (4, 6)) -> list[Flow]:
    """Return the flows of each pair, in both directions and all versions."""
    return [
        Flow(source, target, version)
        for one, other in pairs
        for source, target in ((one, other), (other, one))
        for version in versions
    ]


class Probe:
    """Sends from its construction until `stop`, which reports. As a context manager it stops with its block."""

    def __init__(self, flows: Sequence[Flow], rate_hz: float = 100) -> None:
        """Open all sockets, then start to send `rate_hz` packets a second on every flow. OSError when one cannot."""
        self._flows = [_Counted(flow) for flow in flows]
        self._step_s = 1 / (rate_hz * len(flows))
        self._number = next(_numbers)
        self._stopping = threading.Event()
        self._poll = select.epoll()
        self._opened = contextlib.ExitStack()
        self._opened.callback(self._poll.close)
        try:
            self._open()
        except BaseException:
            self._opened.close()
            raise
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    @property
    def sent(self) -> int:
        """How many packets it has sent so far, over all flows."""
        return sum(flow.sent for flow in self._flows)

    def arrivals(self, for_s: float) -> list[float]:
        """Return each flow's share of packets that arrived, of those sent in the last `for_s` seconds.

        What was sent just now may still be on its way and does not count. In the order of the flows.
        """
        now = time.monotonic()
        return [flow.share(now - for_s, now - ON_THE_WAY_S) for flow in self._flows]

    def listen(self, place: Place, version: int) -> None:
        """Take packets at another place too, that has the address of a target by now. OSError when it cannot."""
        self._add_receiver(place, version)

    def mark(self) -> None:
        """Let the reports tell of what is sent from now on only."""
        for flow in self._flows:
            flow.first = flow.sent

    def stop(self) -> list[Report]:
        """Stop to send, wait for stragglers, and return a report per flow, in the order of the flows."""
        self._stopping.set()
        self._thread.join()
        self._opened.close()
        return [flow.report() for flow in self._flows]

    def __enter__(self) -> Self:
        """Return the probe."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to send."""
        self.stop()

    def _open(self) -> None:
        self._receivers: dict[int, socket.socket] = {}
        targets = {(counted.flow.target, counted.flow.version) for counted in self._flows}
        for target, version in targets:
            self._add_receiver(target, version)
        self._senders = [self._socket(counted.flow.source, counted.flow.version, 0) for counted in self._flows]

    def _add_receiver(self, place: Place, version: int) -> None:
        receiver = self._socket(place, version, PORT)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._receivers[receiver.fileno()] = receiver
        self._poll.register(receiver, select.EPOLLIN)

    def _socket(self, place: Place, version: int, port: int) -> socket.socket:
        opened = self._opened.enter_context(socket_in(place.netns, FAMILIES[version], socket.SOCK_DGRAM))
        opened.setblocking(False)
        opened.bind((str(place.address(version)), port))
        return opened

    def _run(self) -> None:
        """Send packet k of the probe at k steps after its start, as packet k // n of flow k % n; read in between."""
        with contextlib.suppress(PermissionError):  # of this thread alone; a busy machine must not look like a loss
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(2))
        due = time.monotonic()
        for number in itertools.count():
            while (wait := due - time.monotonic()) > 0:
                self._receive(wait)
            if number % len(self._flows) == 0:  # however late it is: what arrived must not wait for quiet times
                self._receive(0)
            if self._stopping.is_set():
                break
            self._send(number % len(self._flows))
            due = max(due + self._step_s, time.monotonic() - BURST_S)
        deadline = time.monotonic() + STRAGGLERS_S
        while not all(flow.complete for flow in self._flows) and (wait := deadline - time.monotonic()) > 0:
            self._receive(wait)

    def _send(self, index: int) -> None:
        counted = self._flows[index]
        packet = HEADER.pack(index, counted.next(time.monotonic()), self._number)
        with contextlib.suppress(OSError):  # no route, no buffer: a loss as any other
            self._senders[index].sendto(packet, counted.to)

    def _receive(self, wait_s: float) -> None:
        for descriptor, _ in self._poll.poll(wait_s):
            receiver = self._receivers[descriptor]
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = receiver.recv(HEADER.size)
                    if len(packet) == HEADER.size:
                        index, sequence, number = HEADER.unpack(packet)
                        if number == self._number:
                            self._flows[index].arrived(sequence)


class _Counted:
    """A flow and its books."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.to = (str(flow.target.address(flow.version)), PORT)
        self.first = 0
        """Packets before this one are nobody's business any more."""
        self._sent_at = array("d")
        self._arrived = bytearray()

    @property
    def sent(self) -> int:
        return len(self._arrived)

    @property
    def complete(self) -> bool:
        return 0 not in self._arrived

    def next(self, now: float) -> int:
        """Enter a packet that is about to be sent and return its number."""
        self._sent_at.append(now)
        self._arrived.append(0)
        return len(self._arrived) - 1

    def arrived(self, sequence: int) -> None:
        self._arrived[sequence] = 1

    def share(self, begin: float, end: float) -> float:
        """Return the share that arrived of what was sent in a span of time; 0 when nothing was."""
        lately = self._arrived[bisect_left(self._sent_at, begin) : bisect_left(self._sent_at, end)]
        return lately.count(1) / len(lately) if lately else 0.0

    def report(self) -> Report:
        worst, lost_since = 0.0, None
        arrivals, begins = self._arrived[self.first :], self._sent_at[self.first :]
        ends = (*begins, time.monotonic())[1:]  # a packet's time slot ends with the next packet
        for arrived, begin, end in zip(arrivals, begins, ends, strict=True):
            if arrived:
                lost_since = None
            else:
                lost_since = begin if lost_since is None else lost_since
                worst = max(worst, end - lost_since)
        return Report(self.flow, len(arrivals), arrivals.count(0), worst, open=lost_since is not None)
