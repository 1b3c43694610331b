"""Watches the uplink's devices, one to each ToR: carrier, bond, whether the gateway answers through that very device.

Carrier is not enough. A bond of the kernel leaves out a member whose ToR does not speak LACP, or speaks for another
system: it drops what comes in by it, while the gateway answers all the same. The kernel tells of that as of carrier.

And a link may carry light and lose packets, in one direction or both. So the common gateway is asked out of every
member by itself, several times a second, and the answer has to come in by the same one. A member changes its standing
after three outcomes in a row that say otherwise; a round in which nobody answers says nothing of any of them (this
server may have been too busy to hear). What follows from it is not decided here.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from routed.attach.announce import Asker
from routed.attach.answers import Device, DeviceEvent, Event
from routed.attach.ear import open_ear
from routed.attach.errors import KernelError
from routed.attach.frames import answered, question
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor

_log = structlog.get_logger()
_IN_A_ROW = 3
_FIRST_LOOK_S = 2.0
"""How long the first answers may take: a start on a busy server must not look like a broken link."""
_LARGEST_ANSWER = 128
"""Bytes; all that matters of a frame is at its start."""


@dataclass(slots=True)
class _Member:
    """One device as it was seen last."""

    index: int | None = None
    carrier: bool = False
    left_out: bool = False
    """By its bond."""
    ear: socket.socket | None = None
    silent: bool | None = None
    """Whether the gateway does not answer through it; None while that is not known."""
    asked: bool = False
    heard: bool = False
    """Whether an answer came since the last question."""
    against: int = 0
    """Outcomes in a row that say the contrary of `silent`."""

    def conclude(self, *, silent: bool) -> None:
        """Take one outcome into account."""
        self.against = self.against + 1 if silent is not self.silent else 0
        if self.against >= _IN_A_ROW or (self.silent is None and not silent):
            self.silent, self.against = silent, 0

    def forget(self) -> None:
        """Start over: what was true before the carrier went need not be true after it."""
        self.silent, self.asked, self.heard, self.against = None, False, False, 0

    def close(self) -> None:
        """Stop listening."""
        if self.ear is not None:
            self.ear.close()
            self.ear = None


class Members:
    """The devices below the uplink, each for itself."""

    def __init__(  # noqa: PLR0913  # what the rack file says of the uplink, and where to listen
        self,
        bridge: str,
        names: Sequence[str],
        asker: Asker,
        monitor: Monitor,
        wake: Callable[[], None],
        *,
        vlan: int | None = None,
        probe_s: float | None = 0.2,
    ) -> None:
        """`wake` is called when `faults` may answer otherwise. Without `probe_s` the gateway is not asked."""
        self._bridge = bridge
        self._names = (bridge, *names)
        self._members = {name: _Member() for name in names}
        self._asker = asker
        self._vlan = vlan
        self._probe_s = probe_s
        self._wake = wake
        self._mac: str | None = None
        self._stale = True
        self._told: set[str] = set()
        """Devices, of these, of which events have told since the last look began."""
        monitor.subscribe(self._notice)

    def faults(self, name: str) -> tuple[str, ...]:
        """Return what keeps a member from carrying traffic both ways; nothing when nothing is known to."""
        member = self._members[name]
        if not member.carrier:
            return ("no carrier",)
        faults = ("its bond leaves it out",) if member.left_out else ()
        if self._probe_s is None or member.silent is False:
            return faults
        return (*faults, f"{self._asker.gateway} does not answer")

    async def first_look(self) -> None:
        """Look at every member, and let the gateway answer through those that have carrier."""
        await self._look()
        if self._probe_s is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                while any(member.carrier and member.silent is not False for member in self._members.values()):
                    self._probe()
                    await asyncio.sleep(self._probe_s)
                    self._conclude()

    async def run(self) -> None:
        """Watch for ever."""
        try:
            while True:
                if self._stale:
                    await self._look()
                self._conclude()
                self._probe()
                await asyncio.sleep(self._probe_s or 1.0)
        finally:
            for name in self._members:
                self._close(name)

    # ---- carrier and bond

    async def _look(self) -> None:
        """Look at every device; events that came meanwhile know better."""
        self._stale = False
        self._told.clear()
        try:
            devices = await asyncio.to_thread(self._devices)
        except KernelError as error:
            _log.warning("members.look_failed", error=str(error))
            self._stale = True
            return
        for name in devices.keys() - self._told:
            self._see(name, devices[name])

    def _devices(self) -> dict[str, Device | None]:
        with Rtnl() as home:
            return {name: home.device(name) for name in self._names}

    def _notice(self, event: Event | None) -> None:
        if event is None:
            self._stale = True
        elif isinstance(event, DeviceEvent) and event.device.name in self._names:
            self._told.add(event.device.name)
            self._see(event.device.name, None if event.gone else event.device)

    def _see(self, name: str, device: Device | None) -> None:
        if name == self._bridge and device is not None:
            self._mac = device.mac
        member = self._members.get(name)
        if member is None:
            return
        index, carrier = (None, False) if device is None else (device.index, device.up and device.carrier)
        if member.index != index:
            self._close(name)
            member.index = index
        left_out = device is not None and device.left_out
        if member.carrier != carrier:
            member.forget()
        if (member.carrier, member.left_out) != (carrier, left_out):
            member.carrier, member.left_out = carrier, left_out
            self._wake()

    # ---- the gateway

    def _probe(self) -> None:
        """Ask out of every member that has carrier."""
        if self._probe_s is None or self._mac is None:
            return
        frame = question(self._mac, self._asker.address, self._asker.gateway, self._vlan)
        for name, member in self._members.items():
            if member.carrier:
                member.asked, member.heard = self._send(name, member, frame), False

    def _send(self, name: str, member: _Member, frame: bytes) -> bool:
        try:
            if member.ear is None:
                member.ear = open_ear(name)
                asyncio.get_running_loop().add_reader(member.ear.fileno(), self._hear, name)
            member.ear.send(frame)
        except (KernelError, OSError) as error:
            _log.debug("member.not_asked", member=name, error=str(error))
            if getattr(error, "errno", None) not in (errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN):
                self._close(name)
            return False
        return True

    def _conclude(self) -> None:
        """Judge the questions that were asked last; a question that could not be asked says nothing."""
        for name in self._members:
            self._hear(name)
        anybody = any(member.heard for member in self._members.values())
        for member in self._members.values():
            if anybody and member.asked and member.carrier and not member.heard:
                self._outcome(member, silent=True)
            member.asked = False

    def _hear(self, name: str) -> None:
        member = self._members[name]
        if member.ear is None:
            return
        with suppress(OSError):  # nothing there, or the device is down, which its carrier tells
            while True:
                frame, (_, _, direction, *_) = member.ear.recvfrom(_LARGEST_ANSWER)
                ours = direction == socket.PACKET_OUTGOING
                if not ours and not member.heard and answered(frame) == self._asker.gateway:
                    member.heard = True
                    self._outcome(member, silent=False)

    def _outcome(self, member: _Member, *, silent: bool) -> None:
        before = member.silent
        member.conclude(silent=silent)
        if member.silent is not before:
            self._wake()

    def _close(self, name: str) -> None:
        ear = self._members[name].ear
        if ear is not None:
            asyncio.get_running_loop().remove_reader(ear.fileno())
            self._members[name].close()
