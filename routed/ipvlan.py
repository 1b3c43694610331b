"""A server without a bridge: pods' interfaces are ipvlans that lead to its uplink (docs/ipvlan.md).

The other `routed.datapath.Datapath`. Nothing of it needs Open vSwitch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import structlog

from ovs_flows.offload import PortReport
from routed.attach.answers import Device, DeviceEvent, Event
from routed.attach.doors import Doors
from routed.attach.errors import KernelError, UplinkUnusable
from routed.attach.ipvlan import IpvlanWay
from routed.attach.kernel import Rtnl
from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.passages import Passages
from routed.attach.slots import SlotSpace
from routed.attach.wires import Wires
from routed.datapath import Sight, Taken, Tiers, VfSlots, Work
from routed.domain.rack import Uplink
from routed.settings import Settings

log = structlog.get_logger(__name__)
_RETRY_S = 1.0
_PLANES = ("wires", "doors", "links", "passages")
_VLAN = "vlan"


class IpvlanDatapath:
    """The kernel's ipvlan, with filters of its traffic control."""

    limits = False
    mirrors = None

    def __init__(self, settings: Settings, look: Callable[..., None]) -> None:
        """Nothing is opened yet; `look` is called with the planes that may hold something else now."""
        self.device, self.members = settings.device, settings.members
        self.ready_slots = 1 if settings.ipvlan is None else settings.ipvlan.ready_slots
        self._space = SlotSpace(settings.paths.run / "slots")
        self._vlan, self._look = settings.vlan, partial(look, *_PLANES)
        self._changed = asyncio.Event()
        self._seen: tuple[int, str] | None = None
        """The uplink's index and MAC address, which filters go by; None while that is not known."""

    async def run(self) -> None:
        """Do nothing: the kernel is always there."""

    async def prepare(self) -> Sight:
        """Look at the uplink; UplinkUnusable."""
        return await asyncio.to_thread(self._sight)

    async def stocked(self) -> int:
        """Return 0: pairs are made again in no time."""
        return 0

    def tiers(self, monitor: Monitor) -> Tiers:
        """Return the planes of slots, pods' interfaces, and what the uplink lets pass."""
        monitor.subscribe(self.notice)
        wires = Wires(self._look, monitor, self._space, to_server=True)
        return (wires,), (Doors(self.device),), (Links(IpvlanWay(self._space)), Passages(self.device))

    def works(self) -> Sequence[Work]:
        """Return nothing."""
        return ()

    async def follow(self, tell: Callable[[Sight], None]) -> None:
        """Tell of the uplink after every change of it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                tell(await asyncio.to_thread(self._sight))
            except (UplinkUnusable, KernelError) as error:
                log.warning("uplink.unknown", error=str(error))
                asyncio.get_running_loop().call_later(_RETRY_S, self._changed.set)

    def reconsider(self) -> None:
        """Have `follow` look once more."""
        self._changed.set()

    async def find_vfs(self, monitor: Monitor, taken: Taken, tell: Callable[[VfSlots], None]) -> None:
        """Do nothing: a VF has its place behind a bridge."""

    async def offload(self, ports: Collection[str]) -> Mapping[str, PortReport] | None:
        """Return None: there is one way only."""
        del ports
        return None

    def _sight(self) -> Sight:
        with Rtnl() as home:
            device = home.device(self.device)
        if device is None:
            raise UplinkUnusable(f"there is no {self.device}: make it, or correct ipvlan.uplink in the rack file")
        self._check_tag(device)
        return Sight(Uplink((), (device.name,), device.mac, gateway_mac=None, mtu=device.mtu, shared=True))

    def _check_tag(self, device: Device) -> None:
        if (device.kind == _VLAN) is not (self._vlan is not None):
            tag = "no VLAN" if self._vlan is None else f"VLAN {self._vlan}"
            raise UplinkUnusable(
                f"the rack has {tag}, and {device.name} {'is' if device.kind == _VLAN else 'is not'} a VLAN device: "
                "correct vlan or ipvlan.uplink in the rack file"
            )

    def notice(self, event: Event | None) -> None:
        """Look again when this tells of another uplink, or when events were lost (None)."""
        if event is None or (isinstance(event, DeviceEvent) and event.device.name == self.device):
            self._changed.set()
            before, self._seen = self._seen, None
            if event is not None and not event.gone:
                self._seen = event.device.index, event.device.mac
            if self._seen is None or self._seen != before:
                self._look()
