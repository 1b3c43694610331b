"""Makes both ToRs know this server.

The two ToRs of a stackless pair share nothing: each has to learn the server's MAC by itself, but a bond hashes the
server's own ARP and ND onto one member, so that one ToR would never learn it and lose its half of what is sent to us.
The same question is therefore put out of EVERY member, well within the ToRs' ARP timeout, and at once when a member's
carrier comes up. It goes onto the members themselves, below bond and bridge. (Linux 6.17 or so can do this in the
bonding driver: `broadcast_neighbor`.)

A question alone lasts for seconds: a ToR that forwards by such an entry soon asks whether it still holds, and where the
bond is the kernel's the answer goes to the other ToR. So each is told as well, before it has to ask.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from routed.attach.answers import DeviceEvent, Event
from routed.attach.errors import KernelError
from routed.attach.frames import question, statement
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.domain.workload import IPAddress

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asker:
    """One of the server's own addresses and the gateway of its subnet."""

    address: IPAddress
    gateway: IPAddress


class Announcer:
    """Asks for the gateways, and tells them where the server's own addresses are, out of every bond member."""

    def __init__(  # noqa: PLR0913  # what the rack file says of the uplink, and where to listen
        self,
        bridge: str,
        members: Sequence[str],
        askers: Sequence[Asker],
        monitor: Monitor,
        *,
        vlan: int | None = None,
        gateway_mac: Callable[[], str | None] = lambda: None,
        period_s: float = 5.0,
    ) -> None:
        """The bridge's own device has the MAC address that the ToRs shall learn; `gateway_mac` is what they have."""
        self._bridge = bridge
        self._members = tuple(members)
        self._askers = tuple(askers)
        self._vlan, self._gateway_mac = vlan, gateway_mac
        self._period_s = period_s
        self._carrier: dict[str, bool] = {}
        self._now = asyncio.Event()
        monitor.subscribe(self._notice)

    async def run(self) -> None:
        """Announce for ever."""
        while True:
            self._now.clear()
            try:
                await self.announce()
            except KernelError as error:
                _log.warning("host.announcement_failed", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), self._period_s)

    async def announce(self) -> None:
        """Send one round out of every member that has carrier."""
        await asyncio.to_thread(self._announce)

    def _announce(self) -> None:
        with Rtnl() as home:
            bridge = home.device(self._bridge)
            members = [device for name in self._members if (device := home.device(name)) is not None]
        if bridge is None:
            raise KernelError(errno.ENODEV, f"announce the server from {self._bridge}")
        frames = [question(bridge.mac, asker.address, asker.gateway, self._vlan) for asker in self._askers]
        if (gateway_mac := self._gateway_mac()) is not None:
            frames += [statement(bridge.mac, one.address, one.gateway, gateway_mac, self._vlan) for one in self._askers]
        try:
            packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "open a packet socket") from error
        with packet:
            for member in members:
                if member.up and member.carrier:
                    _send(packet, member.name, frames)

    def _notice(self, event: Event | None) -> None:
        if event is None:
            self._now.set()
        elif isinstance(event, DeviceEvent) and event.device.name in self._members:
            name, carrier = event.device.name, event.device.carrier and not event.gone
            if carrier and not self._carrier.get(name, False):
                self._now.set()
            self._carrier[name] = carrier


def _send(packet: socket.socket, member: str, frames: Sequence[bytes]) -> None:
    for frame in frames:
        try:
            packet.sendto(frame, (member, 0))
        except OSError as error:
            if error.errno not in (errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENOBUFS):
                raise KernelError(error.errno or errno.EIO, f"send out of {member}") from error
            return  # it went down just now; its carrier will tell when it is back
