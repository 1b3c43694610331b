"""Servers with SR-IOV NICs: a tree like /sys and a dump of devices, which change as a driver would change them.

How each driver names and places things is from its source (docs/sriov.md); no such NIC was at hand.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovs_flows.hardware import HardwareSight
from routed.attach.answers import IPInterface, NicPort
from routed.attach.sysfs import NoAnswer, discover
from routed.doctor.facts import Unseen
from routed.nic.found import Found
from routed.nic.look import EXTRA_DRIVERS, TC_DRIVERS


@dataclass(frozen=True)
class Family:
    """What is peculiar to a driver."""

    driver: str
    vendor: str = "15b3"
    uplink: str = "p{function}"
    representor: str = "pf{function}vf{vf}"
    parent: bool = True
    """Representors are children of the PCI function."""
    one_function: bool = False
    """All ports of the card are on one PCI function, which is always in switchdev mode."""
    own_switch: bool = False
    """Each port has a switch id of its own."""
    vfs_first: bool = False
    """Switchdev mode is refused while there are no VFs."""


FAMILIES = {
    "mlx5": Family("mlx5_core"),
    "mlx5 without parents": Family("mlx5_core", parent=False),
    "mlx5 before 4.19": Family("mlx5_core", uplink="", representor="{vf}", parent=False, own_switch=True),
    "xsc": Family("xsc_eth", vendor="1f67", uplink=""),
    "xsc multi-host": Family("xsc_eth", vendor="1f67"),
    "ice": Family("ice", vendor="8086"),
    "ice before devlink ports": Family("ice", vendor="8086", representor="pf{function}vfr{vf}"),
    "nfp": Family("nfp", vendor="19ee", parent=False, one_function=True),
    "bnxt": Family("bnxt_en", vendor="14e4", parent=False, vfs_first=True),
}


class Server:
    """NICs of a server. Names are the answers: ``ens3f0`` is an uplink, ``ens3f0r2`` stands for its VF 2."""

    def __init__(self, tree: Path, *, dump_has_parents: bool = True) -> None:
        self.tree = tree
        self.ports: dict[str, NicPort] = {}
        self.families: dict[str, Family] = {}
        self.switch_ids: dict[str, str] = {}
        self._dump_has_parents = dump_has_parents
        (tree / "class/net").mkdir(parents=True)

    # ---- hardware

    def add_card(self, family: Family, switch_id: str, bus: int, ports: int = 2, most_vfs: int = 64) -> list[str]:
        """Put in a card in legacy mode; return its PFs' addresses."""
        addresses = [f"0000:{bus:02x}:00.{port}" for port in range(1 if family.one_function else ports)]
        for number, address in enumerate(addresses):
            folder = self._function(address, family)
            for name, value in (("sriov_totalvfs", most_vfs), ("sriov_numvfs", 0), ("sriov_drivers_autoprobe", 1)):
                (folder / name).write_text(f"{value}\n")
            self.families[address] = family
            self.switch_ids[address] = f"{switch_id}{number:02x}" if family.own_switch else switch_id
            for port in range(ports) if family.one_function else [number]:
                self.add_device(f"ens{bus}f{port}", parent=address)
            if family.one_function:
                self.switchdev(address)
        return addresses

    def _function(self, address: str, family: Family) -> Path:
        folder = self.tree / "bus/pci/devices" / address
        (folder / "net").mkdir(parents=True)
        for name, value in (("class", "0x020000"), ("vendor", f"0x{family.vendor}"), ("device", "0x1018")):
            (folder / name).write_text(f"{value}\n")
        (self.tree / "bus/pci/drivers" / family.driver).mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{family.driver}")
        return folder

    def make_vfs(self, pf: str, count: int) -> None:
        """Write sriov_numvfs."""
        family, folder = self.families[pf], self.tree / "bus/pci/devices" / pf
        (folder / "sriov_numvfs").write_text(f"{count}\n")
        probed = (folder / "sriov_drivers_autoprobe").read_text().strip() == "1"
        for index in range(count):
            address = self.vf_address(pf, index)
            vf = self._function(address, family)
            (vf / "physfn").symlink_to(f"../{pf}")
            (folder / f"virtfn{index}").symlink_to(f"../{address}")
            if probed:
                self.add_device(self.vf_device(pf, index), parent=address)
            else:
                (vf / "driver").unlink()
        if self.in_switchdev(pf):
            self._represent(pf)

    def vf_address(self, pf: str, index: int) -> str:
        number = 8 + 64 * int(pf[-1]) + index
        return f"{pf[:-4]}{number >> 3:02x}.{number & 7}"

    def vf_device(self, pf: str, index: int) -> str:
        return f"ens{int(pf[5:7], 16)}f{pf[-1]}v{index}"

    def uplink_names(self, pf: str) -> list[str]:
        return sorted(port.name for port in self.ports.values() if self._home(port.name) == pf and "r" not in port.name)

    def in_switchdev(self, pf: str) -> bool:
        return any(self.ports[name].switch_id for name in self.uplink_names(pf))

    def switchdev(self, pf: str) -> None:
        """Set the eswitch's mode."""
        family = self.families[pf]
        if self.in_switchdev(pf):
            return
        if family.vfs_first and (self.tree / f"bus/pci/devices/{pf}/sriov_numvfs").read_text() == "0\n":
            raise PermissionError("Enable VFs before setting switchdev mode")
        for name in self.uplink_names(pf):
            said = family.uplink.format(function=name[-1])
            self.ports[name] = replace(self.ports[name], switch_id=self.switch_ids[pf], port_name=said)
        self._represent(pf)

    def _represent(self, pf: str) -> None:
        family = self.families[pf]
        for index in range(int((self.tree / f"bus/pci/devices/{pf}/sriov_numvfs").read_text())):
            said = family.representor.format(function=pf[-1], vf=index)
            self.add_device(self.representor(pf, index), self.switch_ids[pf], said, pf if family.parent else "")

    def representor(self, pf: str, index: int) -> str:
        return f"ens{int(pf[5:7], 16)}f{pf[-1]}r{index}"

    # ---- devices

    def add_device(self, name: str, switch_id: str = "", port_name: str = "", parent: str = "", kind: str = "") -> None:
        shown = parent if self._dump_has_parents else ""
        number = len(self.ports) + 2
        self.ports[name] = NicPort(
            number, name, kind, False, 1500, f"02:00:00:00:00:{number:02x}", None, switch_id, port_name, shown
        )
        folder = self.tree / "class/net" / name
        folder.mkdir()
        if parent:
            (folder / "device").symlink_to(f"../../../bus/pci/devices/{parent}")
            (self.tree / "bus/pci/devices" / parent / "net" / name).mkdir()

    def move_away(self, name: str) -> None:
        """Put a device into another namespace."""
        home = self._home(name)
        del self.ports[name]
        shutil.rmtree(self.tree / "class/net" / name)
        if home:
            (self.tree / "bus/pci/devices" / home / "net" / name).rmdir()

    def rename(self, name: str, to: str) -> None:
        """Do what udev does to a device that has got a port name."""
        port, home = self.ports[name], self._home(name)
        self.move_away(name)
        self.add_device(to, parent=home)
        self.ports[to] = replace(port, name=to)

    def bind(self, function: str, driver: str = "") -> None:
        """Bind a function to a driver, or with `-` to none; a VF to its own when none is given."""
        folder = self.tree / "bus/pci/devices" / function
        for device in [entry.name for entry in (folder / "net").iterdir()]:
            self.move_away(device)
        (folder / "driver").unlink(missing_ok=True)
        if driver == "-":
            return
        if not driver:
            pf = (folder / "physfn").readlink().name
            driver = self.families[pf].driver
            index = next(i for i in range(64) if self.vf_address(pf, i) == function)
            self.add_device(self.vf_device(pf, index), parent=function)
        (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")

    def _home(self, name: str) -> str:
        link = self.tree / "class/net" / name / "device"
        return link.readlink().name if link.is_symlink() else ""


@dataclass
class Machine:
    """Takes steps on such a server, as drivers, kernel and Open vSwitch would, refusals included."""

    server: Server
    switch: HardwareSight | Unseen = field(
        default_factory=lambda: HardwareSight(
            offload=False,
            policy="none",
            ports={},
            datapath_type="",
            hwaddr="",
            mac="",
            samplers=(),
            tables_without_prefixes=(),
        )
    )
    addresses: dict[str, tuple[IPInterface, ...]] = field(default_factory=dict)
    uppers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    offloading: set[str] = field(default_factory=set)
    bonds: set[str] = field(default_factory=set)

    async def look(self) -> Found:
        ports, pfs = self.server.ports, discover(self.server.tree, self.server.ports.values())
        return Found(
            pfs=pfs,
            ports=dict(ports),
            addresses=dict(self.addresses),
            uppers=dict(self.uppers),
            modes={pf.address: "switchdev" if self.server.in_switchdev(pf.address) else "legacy" for pf in pfs},
            tc_offload={name: name in self.offloading for pf in pfs for name in pf.devices},
            bond_modes=dict.fromkeys(self.bonds, "802.3ad"),
            drivers=dict.fromkeys((*TC_DRIVERS, *EXTRA_DRIVERS), True),
            switch=self.switch,
        )

    async def write(self, attribute: str, value: str) -> None:
        file = self.server.tree / attribute
        if file.name == "unbind":
            self.server.bind(value, "-")
        elif file.name == "drivers_probe":
            self.server.bind(value)
        elif file.name == "sriov_numvfs":
            assert file.read_text() == "0\n", "EBUSY: VFs are there already"
            self.server.make_vfs(file.parent.name, int(value))
        else:
            file.write_text(f"{value}\n")

    async def switchdev(self, pf: str) -> None:
        bound = [vf for found in (await self.look()).pfs if found.address == pf for vf in found.vfs if vf.driver]
        assert not bound, "EBUSY: a VF has a driver"
        assert all(self.server.ports[name].master is None for name in self.server.uplink_names(pf)), "EBUSY: bonded"
        self.server.switchdev(pf)

    async def settle(self) -> None:
        """Names are there at once."""

    async def tc_offload(self, device: str) -> None:
        assert device in self.server.ports
        self.offloading.add(device)

    async def add_bond(self, name: str) -> None:
        assert name not in self.server.ports
        self.server.add_device(name, kind="bond")
        self.bonds.add(name)

    async def enslave(self, device: str, bond: str) -> None:
        ports = self.server.ports
        assert all(vf.free and not vf.driver for pf in (await self.look()).pfs for vf in pf.vfs), (
            "no switch of two ports"
        )
        if all(port.master != ports[bond].index for port in ports.values()):
            ports[bond] = replace(ports[bond], mac=ports[device].mac)
        mac, mtu = ports[bond].mac, ports[bond].mtu
        ports[device] = replace(ports[device], master=ports[bond].index, up=True, mtu=mtu, mac=mac)

    async def raise_device(self, device: str, mtu: int | None) -> None:
        ports = self.server.ports
        ports[device] = replace(ports[device], up=True, mtu=mtu or ports[device].mtu)
        for name, port in ports.items():
            if port.master == ports[device].index:
                ports[name] = replace(port, mtu=mtu or port.mtu)

    async def representors(self, pf: str) -> tuple[str, ...]:
        answers = [vf.representor for found in (await self.look()).pfs if found.address == pf for vf in found.vfs]
        return tuple(answer.name for answer in answers if not isinstance(answer, NoAnswer))

    async def unbound(self, pf: str) -> tuple[str, ...]:
        vfs = [vf for found in (await self.look()).pfs if found.address == pf for vf in found.vfs]
        return tuple(vf.address for vf in vfs if not vf.driver)

    async def hw_offload(self) -> None:
        self.switch = replace(self._ovs(), offload=True)

    async def add_bridge(self) -> None:
        ports = {**self._ovs().ports, "br0": frozenset({"br0"})}
        self.switch = replace(self._ovs(), ports=ports, datapath_type="system", mac="02:ff:ff:ff:ff:ff")

    async def keep_mac(self, mac: str) -> None:
        assert "br0" in self._ovs().ports
        self.switch = replace(self._ovs(), hwaddr=mac)

    async def add_port(self, device: str) -> None:
        ports = self._ovs().ports
        self.switch = replace(self._ovs(), ports={**ports, "br0": ports["br0"] | {device}})

    def _ovs(self) -> HardwareSight:
        assert isinstance(self.switch, HardwareSight), "Open vSwitch is not there"
        return self.switch
