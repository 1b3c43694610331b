"""What a server has for SR-IOV and hardware offload, as values, and what is wanted of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovs_flows.hardware import HardwareSight
from routed.attach.answers import IPInterface, NicPort
from routed.attach.sysfs import NoAnswer, Pf, Vf
from routed.attach.uses import is_used
from routed.doctor.facts import Unseen

NO_SWITCH = "none"
"""The mode of a PF whose driver forwards between VFs by MAC address alone, and cannot be told to do anything else."""


@dataclass(frozen=True, slots=True)
class Found:
    """A server."""

    pfs: tuple[Pf, ...]
    ports: Mapping[str, NicPort]
    """Every network device of the server's own namespace, by name."""
    addresses: Mapping[str, tuple[IPInterface, ...]]
    """Of the uplink, of every device of a PF, members included, and of VFs."""
    uppers: Mapping[str, tuple[str, ...]]
    """Of the same: what rides on a device (VLANs, macvlans), its bond or bridge left out."""
    modes: Mapping[str, str | Unseen]
    """By PF: what devlink says of its switch, or `NO_SWITCH`."""
    tc_offload: Mapping[str, bool | None]
    """By uplink: ``hw-tc-offload``; None where that cannot be switched."""
    bond_modes: Mapping[str, str]
    """By bond: ``802.3ad``."""
    drivers: Mapping[str, bool | None]
    """Whether the kernel has what flows in hardware are made of; None when nothing says so."""
    switch: HardwareSight | Unseen

    def pf_of(self, device: str) -> Pf | None:
        """Return the PF that a device is the uplink of, in whichever mode."""
        return next((pf for pf in self.pfs if device in self.uplinks(pf) or device in pf.devices), None)

    def uplinks(self, pf: Pf) -> tuple[str, ...]:
        """Return a PF's devices towards the network; in legacy mode all that it has are such."""
        if isinstance(pf.uplinks, NoAnswer):
            return tuple(name for name in pf.devices if name in self.ports)
        return tuple(port.name for port in pf.uplinks)

    def members(self, bond: str) -> tuple[str, ...]:
        """Return the devices of a bond."""
        index = self.ports[bond].index if bond in self.ports else None
        return tuple(sorted(name for name, port in self.ports.items() if index and port.master == index))

    def in_use(self, vf: Vf) -> bool:
        """Whether a VF may be a pod's or a virtual machine's, or the server itself uses it."""
        own = [self.ports[name] for name in vf.devices if name in self.ports]
        return not vf.free or any(
            is_used(self.addresses.get(port.name, ()), self.uppers.get(port.name, ()), enslaved=port.master is not None)
            for port in own
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server is to have."""

    bridge: str
    uplink: str
    """On the bridge: a bond, or the only member itself."""
    members: tuple[str, ...]
    vfs: int
    """On each PF; more are left alone."""
    mtu: int | None = None
    """Of uplink, members and representors, bytes; None leaves what there is."""
    hardware_only: bool = False
    """Leave out bond, bridge and Open vSwitch, which need not be there yet when a server boots."""

    @property
    def bonded(self) -> bool:
        """Whether the uplink is a bond of the kernel's."""
        return self.members != (self.uplink,)
