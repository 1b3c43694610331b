"""The representors plane: what stands for the VFs on the server, made ready before a pod needs them.

A representor is up, has the uplink's MTU and no IPv6: the server's own stack takes no part in what passes. It exists as
long as its VF does: nothing is made or deleted here, and a device that our mark is taken off stays as it is. Never
touches a device with somebody else's alias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from routed.attach import mark, sysctl
from routed.attach.answers import Device, DeviceEvent, Event
from routed.attach.errors import ForeignDevice, NotFound, SlotMissing, SlotTaken, failures
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.attach.rtnl import set_device
from routed.attach.veth import is_wire
from routed.attach.wires import BROKEN
from routed.domain.wiring import Wire
from routed.threads import apart


class Representors:
    """Representors: name -> Wire."""

    name = "representors"
    streams = False

    def __init__(self, wake: Callable[[], None], monitor: Monitor) -> None:
        """Wake when one vanishes or goes down."""
        self._wake = wake
        monitor.subscribe(self._notice)

    async def observe(self) -> Mapping[str, Wire]:
        """Return every representor that carries our mark."""
        return await apart(self._observe)

    async def upsert(self, items: Mapping[str, Wire]) -> Mapping[str, Exception]:
        """Make these representors ready; they must exist."""
        return await apart(self._each, items, lambda home, name: _prepare(home, name, items[name]))

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Take our mark off these; SlotTaken for one that serves a pod."""
        return await apart(self._each, keys, _leave)

    def _observe(self) -> Mapping[str, Wire]:
        with Rtnl() as home:
            devices = home.devices(alias=mark.OURS)
        return {one.name: Wire(one.mtu) if one.up else BROKEN for one in devices if _is_ours(one)}

    def _each(self, names: Iterable[str], call: Callable[[Rtnl, str], None]) -> Mapping[str, Exception]:
        with Rtnl() as home:
            return failures(names, lambda name: call(home, name))

    def _notice(self, event: Event | None) -> None:
        if event is None or (
            isinstance(event, DeviceEvent) and _is_ours(event.device) and (event.gone or not event.device.up)
        ):
            self._wake()


def _is_ours(device: Device) -> bool:
    """Whether this is a representor with our mark; the bridge's ends of veth pairs carry it, too."""
    return mark.is_ours(device.alias) and not is_wire(device.name)


def _prepare(home: Rtnl, name: str, wire: Wire) -> None:
    device = home.device(name)
    if device is None:
        raise SlotMissing(f"{name} does not exist: `routed doctor nic` tells which VFs have a representor")
    if device.alias and not mark.is_ours(device.alias):
        raise ForeignDevice(f"{name} is somebody else's: its alias is {device.alias!r} (ip link set {name} alias '')")
    home.apply(set_device(device.index, up=True, mtu=wire.mtu, alias=None if device.alias else mark.OURS))
    sysctl.write(f"ipv6/conf/{name}/disable_ipv6", 1)


def _leave(home: Rtnl, name: str) -> None:
    device = home.device(name)
    if device is not None and mark.parse(device.alias) is not None:
        raise SlotTaken(f"{name} serves a pod: {device.alias}")
    if device is not None and _is_ours(device):
        with suppress(NotFound):  # it went meanwhile
            home.apply(set_device(device.index, alias=""))
