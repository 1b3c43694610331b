"""The NIC of the machine, as the kernel shows it: two ports of an 82576, driver `igb`, and its VFs, driver `igbvf`."""

from __future__ import annotations

from pathlib import Path

from routed.attach.kernel import Rtnl
from routed.attach.sysfs import SYSFS, Pf, discover
from tests.fabric import eventually

PFS = ("0000:01:00.0", "0000:01:00.1")
"""Its ports."""
DEVICES = SYSFS / "bus/pci/devices"
VFS = ("0000:01:10.0", "0000:01:10.2", "0000:01:10.4")
"""VFs of the first port: every second number is one of the other's (82576EB datasheet, 7.10)."""


def look() -> tuple[Pf, ...]:
    """Return what this server has."""
    with Rtnl() as home:
        return discover(SYSFS, home.nic_ports())


def device_of(address: str) -> str:
    """Return the network device of a function in this namespace."""
    found = names(address)
    assert len(found) == 1, (address, found)
    return found[0]


def names(address: str) -> list[str]:
    """Return the network devices of a function in this namespace: none, or one."""
    return [path.name for path in (DEVICES / address / "net").glob("*")]


def make_vfs(pf: str, count: int) -> None:
    """Have a port make VFs with their drivers, or none."""
    (DEVICES / pf / "sriov_numvfs").write_text(str(count))
    eventually(lambda: sum(len(names(vf.resolve().name)) for vf in Path(DEVICES, pf).glob("virtfn*")) == count, "VFs")
