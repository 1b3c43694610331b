"""What a machine does on a real kernel and a real Open vSwitch, as far as that needs no NIC."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ovs_flows import hardware
from ovs_flows.errors import PortError
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.rows import version
from routed.attach import devlink
from routed.attach.errors import KernelError, NotFound
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import add_veth, tc_offload, tc_offload_on
from routed.doctor.database import database
from routed.doctor.facts import Unseen
from routed.nic.look import look
from routed.nic.machine import Host
from routed.settings import BridgeSettings
from tests.fixtures.pods import run, server, unmount
from tests.system.ovs_instance import Ovs

pytestmark = pytest.mark.system

BRIDGE = BridgeSettings(name="br0", uplink="bond0", members=("up0", "up1"))


@contextmanager
def namespace_s_sysfs(folder: Path) -> Iterator[Path]:
    """Mount what /sys is in the caller's network namespace."""
    run("mount", "-t", "sysfs", "sysfs", str(folder))
    try:
        yield folder
    finally:
        unmount(folder)


@asynccontextmanager
async def host(ovs: Ovs, tree: Path) -> AsyncIterator[tuple[Host, Ovsdb]]:
    async with database(ovs.database, "br0", "bond0") as ovsdb:
        assert isinstance(ovsdb, Ovsdb)
        yield Host(tree, ovsdb), ovsdb


async def test_a_bridge_is_set_up_once_and_says_so(ovs: Ovs, tmp_path: Path) -> None:
    async with host(ovs, tmp_path) as (machine, ovsdb):
        before = await hardware.look(ovsdb)
        assert (before.offload, before.ports, before.datapath_type, before.hwaddr) == (False, {}, "", "")
        for _ in range(2):
            await machine.hw_offload()
            await machine.add_bridge()
            await machine.keep_mac("02:aa:00:00:00:10")
        async with asyncio.timeout(10):
            while not (after := await hardware.look(ovsdb)).offload or not after.hwaddr:
                await asyncio.sleep(0.05)
    assert after.ports == {"br0": {"br0"}}
    assert (after.datapath_type, after.hwaddr) == ("system", "02:aa:00:00:00:10")
    assert ovs.vsctl("get", "open", ".", "other_config:hw-offload").strip() == '"true"'


async def test_a_device_is_plugged_once(ovs: Ovs, tmp_path: Path) -> None:
    ovs.add_bridge("br0")
    ovs.make_veth("bond0")
    async with host(ovs, tmp_path) as (machine, ovsdb):
        for _ in range(2):
            await machine.add_port("bond0")
        assert (await hardware.look(ovsdb)).ports == {"br0": {"br0", "bond0"}}
    assert ovs.vsctl("list-ports", "br0").split() == ["bond0"]


async def test_what_cannot_be_plugged_is_no_port(ovs: Ovs, tmp_path: Path) -> None:
    """A row that stays in the database would count as plugged, and be plugged whenever that is possible."""
    ovs.add_bridge("br0")
    async with host(ovs, tmp_path) as (machine, ovsdb):
        with pytest.raises(PortError, match=r"could not plug port bond0: .*No such device"):
            await machine.add_port("bond0")
        async with asyncio.timeout(10):
            while "bond0" in (await hardware.look(ovsdb)).ports["br0"]:
                await asyncio.sleep(0.05)
    assert ovs.vsctl("list-ports", "br0") == ""


async def test_what_keeps_flows_from_hardware_is_seen(ovs: Ovs) -> None:
    ovs.add_bridge("br0")
    ovs.vsctl("set", "open", ".", "other_config:tc-policy=skip_hw")
    sflow = ("--id=@s", "create", "sFlow", 'targets="127.0.0.1:6343"', "--", "set", "bridge", "br0", "sflow=@s")
    ovs.vsctl("--no-wait", "--", *sflow)
    async with database(ovs.database, "br0", "bond0") as ovsdb:
        assert isinstance(ovsdb, Ovsdb)
        seen = await hardware.look(ovsdb)
        assert (seen.policy, seen.samplers, seen.datapath_type) == ("skip_hw", ("sflow",), "netdev")
        assert seen.mac
        ovs.vsctl("--no-wait", "clear", "bridge", "br0", "sflow")
        async with asyncio.timeout(10):
            while (seen := await hardware.look(ovsdb)).samplers:
                await asyncio.sleep(0.05)
    told = version(ovs.vsctl("get", "open", ".", "ovs_version").strip().strip('"')) >= (3, 5)
    assert bool(seen.tables_without_prefixes) is not told


async def test_without_a_database_there_is_a_reason(tmp_path: Path) -> None:
    async with database(tmp_path / "db.sock", "br0", "bond0") as ovsdb:
        assert ovsdb == Unseen(f"{tmp_path}/db.sock: No such file or directory")


async def test_devices_are_raised_without_an_address_of_their_own(tmp_path: Path) -> None:
    with server(), Rtnl() as home:
        home.apply(add_veth("up0", "peer", 1500))
        machine = Host(tmp_path, Unseen("not needed"))
        await machine.raise_device("up0", 9000)
        await machine.raise_device("peer", 9000)
        ports = {port.name: port for port in home.nic_ports()}
        assert (ports["up0"].up, ports["up0"].mtu, ports["up0"].kind) == (True, 9000, "veth")
        assert (ports["up0"].switch_id, ports["up0"].port_name, ports["up0"].parent, ports["up0"].master) == (
            *("", "", ""),
            None,
        )
        found = await look(tmp_path, BRIDGE, Unseen("not looked at"))
        assert found.addresses == {"up0": ()}
        assert found.tc_offload == {"up0": None}, "a veth has no NIC behind it"
        assert found.pfs == ()
        with pytest.raises(NotFound, match="look up none"):
            await machine.raise_device("none", None)


async def test_what_rides_on_a_device_is_seen_but_not_what_it_rides_on(tmp_path: Path) -> None:
    with server(), Rtnl() as home, namespace_s_sysfs(tmp_path) as tree:
        home.apply(add_veth("up0", "up1", 1500))
        run("ip", "link", "add", "mac0", "link", "up0", "type", "macvlan", "mode", "bridge")
        run("ip", "link", "add", "bond0", "type", "bridge")
        run("ip", "link", "set", "dev", "up1", "master", "bond0")
        found = await look(tree, BRIDGE, Unseen("not looked at"))
        assert {name: found.uppers[name] for name in ("up0", "up1", "bond0")} == {
            "up0": ("mac0",),
            "up1": (),
            "bond0": (),
        }
        assert found.members("bond0") == ("up1",)


async def test_what_the_kernel_refuses_says_what_was_being_done(tmp_path: Path) -> None:
    with server(), Rtnl() as home:
        home.apply(add_veth("up0", "peer", 1500))
        machine = Host(tmp_path, Unseen("not needed"))
        with pytest.raises(KernelError, match="turn on hw-tc-offload of up0"):
            await machine.tc_offload("up0")
        with pytest.raises(KernelError, match="into switchdev mode"):
            await machine.switchdev("0000:03:00.0")
        with pytest.raises(KernelError, match=r"write 4 to .*sriov_numvfs"):
            await machine.write("bus/pci/devices/0000:03:00.0/sriov_numvfs", "4")
        with pytest.raises(KernelError, match="ask for the switch mode"):
            await asyncio.to_thread(devlink.mode, "0000:03:00.0")
        assert tc_offload("none") is None
        with pytest.raises(KernelError) as caught:
            tc_offload_on("none")
        assert caught.value.code in (errno.ENODEV, errno.EOPNOTSUPP)
