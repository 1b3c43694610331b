"""Switchdev mode for real, of the kernel's simulated NIC: devlink as it answers, ports as they are named.

The simulated NIC (netdevsim) has a bus of its own and no VFs on PCI; the other NIC has, and no switchdev mode. What is
found of both together is what a NIC with both would show.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from routed.attach import devlink
from routed.attach.answers import NicPort
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import tc_offload, tc_offload_on
from routed.attach.sysfs import SYSFS, NoAnswer, discover
from tests.nic_lab.card import PFS, VFS, make_vfs

pytestmark = pytest.mark.nic

BUS, NAME = "netdevsim", "netdevsim1"
CONTROL = Path("/sys/bus/netdevsim")


@pytest.fixture
def simulated() -> Iterator[str]:
    """A NIC with a port and three VFs."""
    subprocess.run(["modprobe", "netdevsim"], check=True)
    (CONTROL / "new_device").write_text("1 1")
    (CONTROL / "devices" / NAME / "sriov_numvfs").write_text("3")
    yield NAME
    (CONTROL / "del_device").write_text("1")


@pytest.fixture
def vfs() -> Iterator[None]:
    make_vfs(PFS[0], 3)
    yield
    make_vfs(PFS[0], 0)


def ports() -> list[NicPort]:
    with Rtnl() as home:
        return [port for port in home.nic_ports() if port.parent == NAME]


def test_the_mode_is_read_and_set(simulated: str) -> None:
    assert devlink.mode(simulated, BUS) == devlink.LEGACY
    assert [port.port_name for port in ports()] == ["p1"]
    devlink.set_switchdev(simulated, BUS)
    assert devlink.mode(simulated, BUS) == devlink.SWITCHDEV
    devlink.set_switchdev(simulated, BUS)  # again: nothing to do


def test_offload_to_the_port_is_turned_on(simulated: str) -> None:
    [port] = ports()
    assert port.parent == simulated
    assert tc_offload(port.name) is False
    tc_offload_on(port.name)
    assert tc_offload(port.name) is True


@pytest.mark.usefixtures("vfs")
def test_uplink_and_representors_of_switchdev_mode_are_what_discovery_expects(simulated: str) -> None:
    devlink.set_switchdev(simulated, BUS)
    found = ports()
    assert sorted(port.port_name for port in found) == ["p1", "pf0vf0", "pf0vf1", "pf0vf2"]
    assert len({port.switch_id for port in found}) == 1
    assert found[0].switch_id
    adopted = [replace(port, parent=PFS[0]) for port in found]
    first, second = discover(SYSFS, adopted)
    assert not isinstance(first.uplinks, NoAnswer)
    assert [uplink.port_name for uplink in first.uplinks] == ["p1"]
    assert [(vf.address, vf.representor.port_name) for vf in first.vfs if isinstance(vf.representor, NicPort)] == [
        (address, f"pf0vf{index}") for index, address in enumerate(VFS)
    ]
    assert isinstance(second.uplinks, NoAnswer)


@pytest.mark.usefixtures("vfs")
def test_representors_without_a_parent_are_nobodys_where_no_uplink_says_whose(simulated: str) -> None:
    devlink.set_switchdev(simulated, BUS)
    orphans = [replace(port, parent="") for port in ports()]
    assert all(isinstance(vf.representor, NoAnswer) for pf in discover(SYSFS, orphans) for vf in pf.vfs)
