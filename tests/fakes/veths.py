"""A NIC whose VFs and representors are veth pairs, for who moves devices for real: a tree like /sys tells of them.

A tree of files does not follow when a device is renamed or moved: it lists every name that a VF ever has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from routed.attach.vf import own_name
from tests.fakes.nics import FAMILIES, Server

SWITCH_ID = "0a0b0c0d"


class VethNic:
    """One PF for each uplink; ``ens3f0r2`` stands for ``ens3f0v2``, VF 2 of the first one."""

    def __init__(self, tree: Path, uplinks: Sequence[str], count: int, names: Sequence[str] = ("eth0",)) -> None:
        """Write the tree, of so many VFs per PF; `names` are those that VFs come back with from a dead pod."""
        self.tree = tree
        self._server = Server(tree)
        self.pfs = self._server.add_card(FAMILIES["mlx5"], SWITCH_ID, bus=3, ports=len(uplinks))
        for pf, uplink in zip(self.pfs, uplinks, strict=True):
            [old] = self._server.uplink_names(pf)
            self._server.make_vfs(pf, count)
            self._server.switchdev(pf)
            self._server.rename(old, uplink)
            for index in range(count):
                address = self.address(index, pf)
                for name in (own_name(address), *names):
                    (tree / "bus/pci/devices" / address / "net" / name).mkdir()
        for port in self._server.ports.values():
            folder = tree / "class/net" / port.name
            for file, text in (("phys_switch_id", port.switch_id), ("phys_port_name", port.port_name)):
                (folder / file).write_text(f"{text}\n")
        self._count = count

    def plug(self, run: Callable[..., object]) -> None:
        """Make the devices, by `ip` commands."""
        for pf in self.pfs:
            for index in range(self._count):
                pair = self.representor(index, pf), "type", "veth", "peer", "name", self.vf(index, pf)
                run("ip", "link", "add", *pair)

    def address(self, index: int, pf: str = "") -> str:
        return self._server.vf_address(pf or self.pfs[0], index)

    def representor(self, index: int, pf: str = "") -> str:
        return self._server.representor(pf or self.pfs[0], index)

    def vf(self, index: int, pf: str = "") -> str:
        return self._server.vf_device(pf or self.pfs[0], index)

    def bind(self, index: int, driver: str) -> None:
        """Bind a VF to a driver that makes no network device."""
        folder = self.tree / "bus/pci/devices" / self.address(index)
        shutil.rmtree(folder / "net")
        (folder / "driver").unlink()
        (folder / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")
