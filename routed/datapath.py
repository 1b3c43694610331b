"""What carries pods' packets on this server, as the agent sees it, and the one that is Open vSwitch.

The agent asks a datapath for its planes, its tasks and what it sees of the way out, and knows nothing else of it.
Never decides what should exist (`routed.domain.intent`) and never announces anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog

from ovs_flows.errors import OvsError, Unreachable
from ovs_flows.mirrors import Mirrors
from ovs_flows.offload import PortReport, megaflows, report
from ovs_flows.openflow import Flows
from ovs_flows.ovsdb import Ovsdb
from routed.attach.kernel import Rtnl
from routed.attach.leftovers import Leftovers
from routed.attach.limits import Limits
from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.rdma import VfRdma
from routed.attach.representors import Representors
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay, is_wire
from routed.attach.vf import VfWay, identify
from routed.attach.vfs import Vfs
from routed.attach.wires import Wires
from routed.domain.rack import Uplink
from routed.domain.wiring import Vf
from routed.reconcile.plane import Plane
from routed.settings import Settings, VfPolicy

log = structlog.get_logger(__name__)
Tiers = Sequence[Sequence[Plane[Any, Any]]]
"""Planes in growth order; those of one tier do not need each other (`routed.reconcile.loop`)."""
Work = Callable[[], Coroutine[Any, Any, None]]
"""What runs for as long as the agent does."""
VfSlots = Mapping[int, Vf]
Taken = Callable[[], Mapping[str, int]]
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a datapath sees of the way out of this server."""

    uplink: Uplink
    """Its gateway's MAC address is another's to find out."""
    lapsed: frozenset[str] = frozenset()
    """Devices whose LACP partner does not answer, where the kernel does not say it (`routed.attach.members`)."""


class Datapath(Protocol):
    """One way to carry packets between pods, this server and the fabric."""

    device: str
    """Carries the server's own addresses."""
    members: tuple[str, ...]
    """Devices of the uplink, one to each ToR; none where the rack file names none."""
    ready_slots: int
    """How many slots are kept plugged beyond those in use."""
    limits: bool
    """Whether a pod's bandwidth can be limited."""

    @property
    def mirrors(self) -> Mirrors | None:
        """What can copy pods' packets; None where nothing can."""

    async def run(self) -> None:
        """Keep the connection to what carries the packets until cancelled; nothing else works without."""

    async def prepare(self) -> Sight:
        """Wait until the datapath is there, then make it ours; raises what would have to be mended by hand."""

    async def stocked(self) -> int:
        """Return how many slots are plugged already."""

    def tiers(self, monitor: Monitor) -> Tiers:
        """Return the planes before the advertisements; once, after `prepare`."""

    def works(self) -> Sequence[Work]:
        """Return what has to run beside the loop; after `tiers`."""

    async def follow(self, tell: Callable[[Sight], None]) -> None:
        """Tell what is seen of the way out whenever it may have changed."""

    def reconsider(self) -> None:
        """Have `follow` tell once more."""

    async def find_vfs(self, monitor: Monitor, taken: Taken, tell: Callable[[VfSlots], None]) -> None:
        """Tell which VFs pods can have, once here and then whenever that changes; before `tiers`.

        ``taken`` returns by PCI address the slots of VFs that pods have.
        """

    async def offload(self, ports: Collection[str]) -> Mapping[str, PortReport] | None:
        """Return where each port's packets are forwarded by now, None where there are no two ways; OvsError."""


class OvsDatapath:
    """A bridge of Open vSwitch, and slots plugged into it."""

    limits = True

    def __init__(self, settings: Settings, look: Callable[..., None]) -> None:
        """Nothing is opened yet; `look` is called with the planes that may hold something else now."""
        bridge = settings.bridge
        self.device, self.members, self.ready_slots = bridge.name, bridge.members, bridge.ready_slots
        self._paths, self._look = settings.paths, look
        self._uplinks, self._with_vfs = {bridge.uplink, *bridge.members}, bridge.vfs is not VfPolicy.NEVER
        self._has_guests = bridge.legacy is not None
        """Whether ports of others take part in anything: a flat network."""
        self._vfs: Vfs | None = None
        self._changed = asyncio.Event()
        self._ovsdb = Ovsdb(self._paths.ovs / "db.sock", bridge.name, bridge.uplink, self._on_change)
        self.mirrors = Mirrors(self._ovsdb)
        self._flows = Flows(self._paths.ovs / f"{bridge.name}.mgmt", partial(look, "flows"))
        self._userspace = False

    async def run(self) -> None:
        """Keep the connection to the database."""
        await self._ovsdb.run()

    async def prepare(self) -> Sight:
        """Wait for Open vSwitch, then make the bridge ours; BridgeError when it is not there or is somebody else's."""
        while True:
            self._changed.clear()
            try:
                return await self._sight()
            except Unreachable as error:
                log.info("bridge.awaited", error=str(error))
                await self._changed.wait()

    async def stocked(self) -> int:
        """Return how many slots are on the bridge."""
        return sum(map(is_wire, await self._ovsdb.ports.observe()))

    def tiers(self, monitor: Monitor) -> Tiers:
        """Return the planes of slots, pods' interfaces and flows."""
        space = SlotSpace(self._paths.run / "slots")
        look = partial(self._look, "wires", "ports", "limits", "links")
        wires = Wires(look, monitor, space, userspace_datapath=self._userspace)
        # Links and flows do not need each other: the port's number is known before the pod is.
        representors = Representors(partial(self._look, "representors", "ports", "vf_links"), monitor)
        addresses = {} if self._vfs is None else self._vfs.addresses
        with Rtnl() as home:
            # What these hold open stays so: threads that go into pods outlive a cancelled agent by a moment.
            vf_way = VfWay(self._paths.sysfs, addresses, identify(self._paths.sysfs, home.devices()))
        links = Links(MacvlanWay(space)), Links(vf_way, "vf_links", VfRdma(self._paths.sysfs, addresses))
        plugged = Limits(space), *links, self._flows, self.mirrors
        return (wires, representors), (self._ovsdb.ports,), plugged

    def works(self) -> Sequence[Work]:
        """Return the OpenFlow connection, the look-outs for VFs and for what another ovs-vswitchd has left."""
        leftovers = Leftovers(self._paths.ovs)
        return (self._flows.run, leftovers.run, *(() if self._vfs is None else (self._vfs.run,)))

    async def find_vfs(self, monitor: Monitor, taken: Taken, tell: Callable[[VfSlots], None]) -> None:
        """Look for the VFs of the uplink's NIC; where they are to be left alone, for those that pods have already."""
        if self._with_vfs or taken():
            self._vfs = Vfs(self._paths.sysfs, self._uplinks, taken, monitor, tell, for_pods=self._with_vfs)
            await self._vfs.look()

    async def follow(self, tell: Callable[[Sight], None]) -> None:
        """Make the bridge ours again, and tell of its uplink, after every change of it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                tell(await self._sight())
            except OvsError as error:
                log.warning("uplink.unknown", error=str(error))
                asyncio.get_running_loop().call_later(_RETRY_S, self._changed.set)

    def reconsider(self) -> None:
        """Have `follow` look once more."""
        self._changed.set()

    async def offload(self, ports: Collection[str]) -> Mapping[str, PortReport]:
        """Return where each port's packets are forwarded by now; OvsError."""
        flows = await megaflows(self._paths.ovs, self.device)
        return await asyncio.to_thread(report, flows, ports)

    async def _sight(self) -> Sight:
        await self._ovsdb.configure()
        ports = await self._ovsdb.uplink()
        self._userspace = ports.datapath_type == "netdev"
        if not self._uplinks.issuperset(ports.devices):
            self._uplinks |= set(ports.devices)
            if self._vfs is not None:
                self._vfs.stir()
        uplink = Uplink(
            ofports=ports.ofports,
            devices=ports.devices,
            mac=ports.mac,
            gateway_mac=None,
            mtu=ports.mtu,
            strangers=ports.strangers if self._has_guests else (),
            polices=ports.offloads,
        )
        return Sight(uplink, ports.lapsed)

    def _on_change(self) -> None:
        self._changed.set()
        self._look("ports", "limits", "mirrors")
