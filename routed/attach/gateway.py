"""Knows the gateway's MAC address, which the bridge writes onto all that leaves for the ToRs.

The kernel resolves it: this only reads the bridge device's neighbour table, follows its changes, and asks the kernel to
ask (ARP, ND) when the answer is missing or getting old. What was learned once stays until something else is learned: a
gateway that does not answer for a while has not changed its MAC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from routed.attach.answers import Event, Neighbour
from routed.attach.errors import KernelError
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.attach.rtnl import solicit
from routed.domain.workload import IPAddress

_log = structlog.get_logger()


class Gateway:
    """Follows the MAC address that the ToRs' common gateway addresses have."""

    def __init__(
        self,
        bridge: str,
        addresses: Sequence[IPAddress],
        wake: Callable[[], None],
        monitor: Monitor,
        *,
        period_s: float = 3.0,
    ) -> None:
        """Watch these gateway addresses behind the bridge's own device; where they disagree the first one counts."""
        self._bridge = bridge
        self._addresses = tuple(addresses)
        self._wake = wake
        self._period_s = period_s
        self._index: int | None = None
        self._macs: dict[IPAddress, str] = {}
        self._mac: str | None = None
        self._now = asyncio.Event()
        monitor.subscribe(self._notice)

    @property
    def mac(self) -> str | None:
        """The gateway's MAC address, None until it has answered for the first time."""
        return self._mac

    async def run(self) -> None:
        """Look and ask for ever."""
        while True:
            self._now.clear()
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), self._period_s)

    async def look(self) -> None:
        """Look once, and ask for what is not known or may not be true any more."""
        try:
            entries = await asyncio.to_thread(self._look_and_ask)
        except KernelError as error:
            _log.warning("gateway.look_failed", bridge=self._bridge, error=str(error))
        else:
            for entry in entries:
                self._learn(entry)

    def _look_and_ask(self) -> list[Neighbour]:
        with Rtnl() as home:
            device = home.device(self._bridge)
            self._index = None if device is None else device.index
            if device is None or not device.up:
                return []
            entries = [entry for entry in home.neighbours(device.index) if entry.address in self._addresses]
            fresh = {entry.address for entry in entries if entry.fresh}
            questions = [solicit(device.index, address) for address in self._addresses if address not in fresh]
            if questions:
                home.apply(*questions)
            return entries

    def _notice(self, event: Event | None) -> None:
        if event is None:
            self._now.set()
        elif isinstance(event, Neighbour) and event.index == self._index:
            self._learn(event)

    def _learn(self, entry: Neighbour) -> None:
        if entry.address not in self._addresses or not entry.usable or entry.mac is None:
            return
        self._macs[entry.address] = entry.mac
        mac = next(self._macs[address] for address in self._addresses if address in self._macs)
        if mac != self._mac:
            _log.info("gateway.learned", mac=mac, before=self._mac)
            self._mac = mac
            self._wake()
