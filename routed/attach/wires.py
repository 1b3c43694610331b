"""The wires plane: veth pairs, made ready before a pod needs them.

Slot n is the pair rt<n>, which the bridge plugs in, and rp<n>, which waits for a pod. Both ends are up and silent: no
ARP, no IPv6, so that the server's own stack takes no part in what passes.

Never touches a device without our mark, and never plugs anything into a bridge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from routed.attach import mark, sysctl
from routed.attach.answers import Device, DeviceEvent, Event
from routed.attach.errors import AttachError, ForeignDevice, NotFound
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.attach.rtnl import add_veth, delete_device, set_device, tx_checksums_off
from routed.attach.veth import inner_name, is_slot_device
from routed.domain.wiring import Wire

BROKEN = Wire(mtu=0)
"""What is observed of a pair that needs attention: an end missing, down, or of another MTU."""


class Wires:
    """Veth pairs: bridge's end -> Wire."""

    name = "wires"

    def __init__(self, wake: Callable[[], None], monitor: Monitor, *, userspace_datapath: bool) -> None:
        """Wake when a wire vanishes. A userspace bridge cannot complete checksums: the pods' side does it."""
        self._wake = wake
        self._userspace_datapath = userspace_datapath
        monitor.subscribe(self._notice)

    async def observe(self) -> Mapping[str, Wire]:
        """Return every wire that carries our mark."""
        return await asyncio.to_thread(_observe)

    async def upsert(self, items: Mapping[str, Wire]) -> Mapping[str, Exception]:
        """Make these wires exist; one that lost an end is made anew."""
        return await asyncio.to_thread(self._upsert, items)

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Delete these wires, and with them what hangs on them."""
        return await asyncio.to_thread(_remove, keys)

    def _upsert(self, items: Mapping[str, Wire]) -> Mapping[str, Exception]:
        failures: dict[str, Exception] = {}
        with Rtnl() as home:
            for name, wire in items.items():
                try:
                    self._make(home, name, wire)
                except AttachError as error:
                    failures[name] = error
        return failures

    def _make(self, home: Rtnl, name: str, wire: Wire) -> None:
        outer, inner = (_ours(home, end) for end in (name, inner_name(name)))
        if outer is not None and inner is not None and outer.parent == inner.index:
            home.apply(*(set_device(end.index, up=True, silent=True, mtu=wire.mtu) for end in (outer, inner)))
        else:
            for orphan in (outer, inner):
                if orphan is not None:
                    _delete(home, orphan)
            ends = (set_device(end, up=True, silent=True, alias=mark.OURS) for end in (name, inner_name(name)))
            home.apply(add_veth(name, inner_name(name), wire.mtu), *ends)
        for end in (name, inner_name(name)):
            sysctl.write(f"ipv6/conf/{end}/disable_ipv6", 1)
        if self._userspace_datapath:
            tx_checksums_off(inner_name(name))

    def _notice(self, event: Event | None) -> None:
        if event is None or (isinstance(event, DeviceEvent) and event.gone and is_slot_device(event.device.name)):
            self._wake()


def _observe() -> Mapping[str, Wire]:
    with Rtnl() as home:
        devices = {device.name: device for device in home.devices(alias=mark.OURS) if mark.is_ours(device.alias)}
    return {
        name: _wire(device, devices.get(inner_name(name)))
        for name, device in devices.items()
        if is_slot_device(name) and name != inner_name(name)
    }


def _wire(outer: Device, inner: Device | None) -> Wire:
    whole = inner is not None and outer.parent == inner.index and outer.up and inner.up and outer.mtu == inner.mtu
    return Wire(outer.mtu) if whole else BROKEN


def _remove(keys: Collection[str]) -> Mapping[str, Exception]:
    failures: dict[str, Exception] = {}
    with Rtnl() as home:
        for name in keys:
            try:
                for end in (name, inner_name(name)):
                    device = _ours(home, end)
                    if device is not None:
                        _delete(home, device)
            except AttachError as error:
                failures[name] = error
    return failures


def _ours(home: Rtnl, name: str) -> Device | None:
    device = home.device(name)
    if device is not None and not mark.is_ours(device.alias):
        raise ForeignDevice(f"{name} exists and is not ours: its alias is {device.alias!r}, it should be {mark.OURS!r}")
    return device


def _delete(home: Rtnl, device: Device) -> None:
    try:
        home.apply(delete_device(device))
    except NotFound:
        return  # its other end took it along
