"""What is done to a server, one step after the other. A step is a value: it names its command, and a machine takes it.

The command is what an operator would type for the same effect; none is run (`routed.nic.machine` asks the kernel).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

DEVICES = "bus/pci/devices"
"""PCI devices, below /sys."""


class Machine(Protocol):
    """What a step needs; everything is done when the call returns."""

    async def write(self, attribute: str, value: str) -> None:
        """Write an attribute below /sys."""

    async def switchdev(self, pf: str) -> None:
        """Put a PF into switchdev mode."""

    async def settle(self) -> None:
        """Wait until new devices have their names."""

    async def tc_offload(self, device: str) -> None:
        """Turn on hw-tc-offload."""

    async def add_bond(self, name: str) -> None:
        """Create a bond that speaks LACP."""

    async def enslave(self, device: str, bond: str) -> None:
        """Put a device into a bond."""

    async def raise_device(self, device: str, mtu: int | None) -> None:
        """Take a device up, with this MTU."""

    async def representors(self, pf: str) -> Sequence[str]:
        """Return the devices that stand for a PF's VFs now."""

    async def unbound(self, pf: str) -> Sequence[str]:
        """Return the addresses of a PF's VFs that have no driver now."""

    async def hw_offload(self) -> None:
        """Have Open vSwitch offer flows to NICs."""

    async def add_bridge(self) -> None:
        """Make the bridge."""

    async def keep_mac(self, mac: str) -> None:
        """Have the bridge keep its MAC address."""

    async def add_port(self, device: str) -> None:
        """Plug a device into the bridge."""


class Step(Protocol):
    """One change."""

    @property
    def command(self) -> str:
        """What an operator would type."""

    async def run(self, machine: Machine) -> None:
        """Do it."""


@dataclass(frozen=True, slots=True)
class Write:
    """An attribute below /sys."""

    attribute: str
    value: str

    @property
    def command(self) -> str:
        """Return the shell's words."""
        return f"echo {self.value} > /sys/{self.attribute}"

    async def run(self, machine: Machine) -> None:
        """Write it."""
        await machine.write(self.attribute, self.value)


@dataclass(frozen=True, slots=True)
class Switchdev:
    """A PF's switch stops forwarding by itself and gets representors."""

    pf: str

    @property
    def command(self) -> str:
        """Return devlink(8)'s words."""
        return f"devlink dev eswitch set pci/{self.pf} mode switchdev"

    async def run(self, machine: Machine) -> None:
        """Set the mode."""
        await machine.switchdev(self.pf)


@dataclass(frozen=True, slots=True)
class Settle:
    """New devices get their names, which udev cannot give to what is up already."""

    @property
    def command(self) -> str:
        """Return udevadm(8)'s words."""
        return "udevadm settle"

    async def run(self, machine: Machine) -> None:
        """Wait."""
        await machine.settle()


@dataclass(frozen=True, slots=True)
class TcOffload:
    """Flows that TC has may go to the NIC."""

    device: str

    @property
    def command(self) -> str:
        """Return ethtool(8)'s words."""
        return f"ethtool -K {self.device} hw-tc-offload on"

    async def run(self, machine: Machine) -> None:
        """Turn it on."""
        await machine.tc_offload(self.device)


@dataclass(frozen=True, slots=True)
class AddBond:
    """A bond, still without members."""

    name: str

    @property
    def command(self) -> str:
        """Return ip(8)'s words."""
        options = "mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4"
        return f"ip link add {self.name} type bond {options}"

    async def run(self, machine: Machine) -> None:
        """Create it."""
        await machine.add_bond(self.name)


@dataclass(frozen=True, slots=True)
class Enslave:
    """A member of a bond."""

    device: str
    bond: str

    @property
    def command(self) -> str:
        """Return ip(8)'s words."""
        return f"ip link set dev {self.device} down; ip link set dev {self.device} master {self.bond}"

    async def run(self, machine: Machine) -> None:
        """Put it in."""
        await machine.enslave(self.device, self.bond)


@dataclass(frozen=True, slots=True)
class Raise:
    """A device that carries traffic."""

    device: str
    mtu: int | None

    @property
    def command(self) -> str:
        """Return ip(8)'s words."""
        return f"ip link set dev {self.device}{_mtu(self.mtu)} up"

    async def run(self, machine: Machine) -> None:
        """Take it up."""
        await machine.raise_device(self.device, self.mtu)


@dataclass(frozen=True, slots=True)
class RaiseRepresentors:
    """The representors of a PF; which there are is known once it is in switchdev mode and has its VFs."""

    pf: str
    mtu: int | None

    @property
    def command(self) -> str:
        """Return a loop of ip(8); ``routed doctor nic`` lists the names."""
        return f"for rep in $REPRESENTORS_OF_{self.pf}; do ip link set dev $rep{_mtu(self.mtu)} up; done"

    async def run(self, machine: Machine) -> None:
        """Take them up."""
        for device in await machine.representors(self.pf):
            await machine.raise_device(device, self.mtu)


@dataclass(frozen=True, slots=True)
class BindVfs:
    """The driver gets the VFs that none has; a bonded NIC wants that to come after its bond."""

    pf: str

    @property
    def command(self) -> str:
        """Return the shell's words."""
        return f"for vf in $UNBOUND_VFS_OF_{self.pf}; do echo $vf > /sys/bus/pci/drivers_probe; done"

    async def run(self, machine: Machine) -> None:
        """Have each probed."""
        for vf in await machine.unbound(self.pf):
            await machine.write("bus/pci/drivers_probe", vf)


@dataclass(frozen=True, slots=True)
class HwOffload:
    """Open vSwitch offers its flows to NICs."""

    @property
    def command(self) -> str:
        """Return ovs-vsctl(8)'s words."""
        return "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true"

    async def run(self, machine: Machine) -> None:
        """Set it."""
        await machine.hw_offload()


@dataclass(frozen=True, slots=True)
class AddBridge:
    """The bridge."""

    name: str

    @property
    def command(self) -> str:
        """Return ovs-vsctl(8)'s words."""
        return f"ovs-vsctl --may-exist add-br {self.name}"

    async def run(self, machine: Machine) -> None:
        """Make it."""
        await machine.add_bridge()


@dataclass(frozen=True, slots=True)
class KeepMac:
    """The bridge's MAC address, which is the server's, does not change when a representor is plugged."""

    bridge: str
    mac: str

    @property
    def command(self) -> str:
        """Return ovs-vsctl(8)'s words."""
        return f"ovs-vsctl set bridge {self.bridge} other_config:hwaddr={self.mac}"

    async def run(self, machine: Machine) -> None:
        """Set it."""
        await machine.keep_mac(self.mac)


@dataclass(frozen=True, slots=True)
class AddPort:
    """A port of the bridge."""

    bridge: str
    device: str

    @property
    def command(self) -> str:
        """Return ovs-vsctl(8)'s words."""
        return f"ovs-vsctl --may-exist add-port {self.bridge} {self.device}"

    async def run(self, machine: Machine) -> None:
        """Plug it."""
        await machine.add_port(self.device)


def needs_restart(steps: Iterable[Step]) -> bool:
    """Whether Open vSwitch has to be restarted after these: ports that it has were plugged without offload."""
    return any(isinstance(step, HwOffload) for step in steps)


def _mtu(mtu: int | None) -> str:
    return "" if mtu is None else f" mtu {mtu}"
