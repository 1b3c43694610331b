"""What it takes to make a server ready: once, again after an interruption, and never at somebody's cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_flows.hardware import HardwareSight
from routed.attach.sysfs import NoAnswer
from routed.doctor.facts import Unseen
from routed.nic.found import NO_SWITCH, Found, Wanted
from routed.nic.machine import NoEffectError, carry_out
from routed.nic.plan import Plan, plan
from routed.nic.steps import AddBond, AddBridge, Step, Switchdev, needs_restart
from tests.fakes.nics import FAMILIES, Family, Machine, Server

WANTED = Wanted(bridge="br0", uplink="bond0", members=("ens3f0", "ens3f1"), vfs=4, mtu=9000)
ONE_SWITCH = {name: family for name, family in FAMILIES.items() if not family.own_switch}
DRIVERS = pytest.mark.parametrize("family", ONE_SWITCH.values(), ids=ONE_SWITCH)


class PulledTheMainsError(Exception):
    """The server went down between two steps."""


def machine(tmp_path: Path, family: Family = FAMILIES["mlx5"]) -> Machine:
    server = Server(tmp_path / "sys")
    server.add_card(family, "c2cfc60003a1420c", bus=3)
    return Machine(server)


def ovs(target: Machine) -> HardwareSight:
    assert isinstance(target.switch, HardwareSight)
    return target.switch


async def carried_out(target: Machine, wanted: Wanted = WANTED, stop_after: int | None = None) -> list[str]:
    """Carry out what is missing; return the commands."""
    done: list[str] = []

    def announce(step: Step) -> None:
        if len(done) == stop_after:
            raise PulledTheMainsError
        done.append(step.command)

    result = await carry_out(target, target.look, wanted, announce)
    assert result.obstacles == ()
    return done


async def planned(target: Machine, wanted: Wanted = WANTED) -> Plan:
    return plan(await target.look(), wanted)


@DRIVERS
async def test_a_new_server_becomes_ready_and_then_there_is_nothing_left_to_do(tmp_path: Path, family: Family) -> None:
    target = machine(tmp_path, family)
    before = await planned(target)
    done = await carried_out(target)
    assert [step.command for step in before.steps] == done, "a dry run tells what a run does"
    assert await carried_out(target) == []
    found = await target.look()
    assert found.members("bond0") == ("ens3f0", "ens3f1")
    assert ovs(target).offload
    assert ovs(target).ports["br0"] == {"br0", "bond0"}
    for pf in found.pfs:
        assert len(pf.vfs) == 4
        assert pf.autoprobe
        for vf in pf.vfs:
            assert vf.driver == family.driver
            assert not isinstance(vf.representor, NoAnswer)
            assert (vf.representor.up, vf.representor.mtu) == (True, 9000)


@settings(max_examples=12, deadline=None)
@given(family=st.sampled_from(list(ONE_SWITCH.values())), data=st.data())
async def test_after_an_interruption_anywhere_the_next_run_finishes(family: Family, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = machine(Path(folder), family)
        steps = len((await planned(target)).steps)
        for _ in range(3):
            with suppress(PulledTheMainsError):
                await carried_out(target, stop_after=data.draw(st.integers(0, steps)))
        assert len(await carried_out(target)) <= steps
        assert await carried_out(target) == []
        assert ovs(target).hwaddr == target.server.ports["bond0"].mac == target.server.ports["ens3f0"].mac


async def test_the_commands_are_those_that_an_operator_would_type_in_that_order(tmp_path: Path) -> None:
    assert [step.command for step in (await planned(machine(tmp_path))).steps] == [
        "echo 0 > /sys/bus/pci/devices/0000:03:00.0/sriov_drivers_autoprobe",
        "echo 4 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs",
        "devlink dev eswitch set pci/0000:03:00.0 mode switchdev",
        "echo 0 > /sys/bus/pci/devices/0000:03:00.1/sriov_drivers_autoprobe",
        "echo 4 > /sys/bus/pci/devices/0000:03:00.1/sriov_numvfs",
        "devlink dev eswitch set pci/0000:03:00.1 mode switchdev",
        "udevadm settle",
        "ethtool -K ens3f0 hw-tc-offload on",
        "ethtool -K ens3f1 hw-tc-offload on",
        "ip link add bond0 type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4",
        "ip link set dev ens3f0 down; ip link set dev ens3f0 master bond0",
        "ip link set dev ens3f1 down; ip link set dev ens3f1 master bond0",
        "ip link set dev bond0 mtu 9000 up",
        "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true",
        "ovs-vsctl --may-exist add-br br0",
        "ovs-vsctl set bridge br0 other_config:hwaddr=02:00:00:00:00:02",
        "ovs-vsctl --may-exist add-port br0 bond0",
        "for rep in $REPRESENTORS_OF_0000:03:00.0; do ip link set dev $rep mtu 9000 up; done",
        "for rep in $REPRESENTORS_OF_0000:03:00.1; do ip link set dev $rep mtu 9000 up; done",
        "echo 1 > /sys/bus/pci/devices/0000:03:00.0/sriov_drivers_autoprobe",
        "for vf in $UNBOUND_VFS_OF_0000:03:00.0; do echo $vf > /sys/bus/pci/drivers_probe; done",
        "echo 1 > /sys/bus/pci/devices/0000:03:00.1/sriov_drivers_autoprobe",
        "for vf in $UNBOUND_VFS_OF_0000:03:00.1; do echo $vf > /sys/bus/pci/drivers_probe; done",
    ]


async def test_free_vfs_lose_their_driver_for_the_change_of_mode(tmp_path: Path) -> None:
    target = machine(tmp_path)
    target.server.make_vfs("0000:03:00.0", 4)
    commands = [step.command for step in (await planned(target)).steps]
    assert commands[0] == "echo 0000:03:01.0 > /sys/bus/pci/drivers/mlx5_core/unbind"
    await carried_out(target)
    assert {vf.driver for pf in (await target.look()).pfs for vf in pf.vfs} == {"mlx5_core"}


async def test_free_vfs_lose_their_driver_for_the_bond(tmp_path: Path) -> None:
    target = machine(tmp_path)
    for pf in target.server.families:
        target.server.make_vfs(pf, 4)
        target.server.switchdev(pf)
    assert any("unbind" in command for command in await carried_out(target))
    assert {vf.driver for pf in (await target.look()).pfs for vf in pf.vfs} == {"mlx5_core"}


async def test_at_boot_the_hardware_comes_first_and_the_vfs_wait_for_the_bond(tmp_path: Path) -> None:
    target = machine(tmp_path)
    target.switch = Unseen("not started yet")
    first = replace(WANTED, hardware_only=True)
    await carried_out(target, first)
    assert await carried_out(target, first) == []
    found = await target.look()
    assert {vf.driver for pf in found.pfs for vf in pf.vfs} == {""}
    assert "bond0" not in found.ports
    target.switch = machine(tmp_path / "other").switch
    later = await carried_out(target)
    assert [command for command in later if "numvfs" in command or "eswitch" in command] == []
    assert {vf.driver for pf in (await target.look()).pfs for vf in pf.vfs} == {"mlx5_core"}


async def test_a_card_that_takes_two_slots_is_one_once_its_switch_says_so(tmp_path: Path) -> None:
    target = Machine(Server(tmp_path / "sys"))
    for bus in (3, 4):
        target.server.add_card(FAMILIES["mlx5"], "c2cfc60003a1420c", bus=bus, ports=1)
    wanted = replace(WANTED, members=("ens3f0", "ens4f0"))
    assert "different NICs" in " ".join((await planned(target, wanted)).obstacles)
    for pf in target.server.families:
        target.server.switchdev(pf)
    assert (await planned(target, wanted)).obstacles == ()


@pytest.mark.parametrize("last", [AddBond, AddBridge])
async def test_no_random_mac_address_stays_after_an_interruption(tmp_path: Path, last: type[Step]) -> None:
    target = machine(tmp_path)
    kinds = [type(step) for step in (await planned(target)).steps]
    with pytest.raises(PulledTheMainsError):
        await carried_out(target, stop_after=kinds.index(last) + 1)
    await carried_out(target)
    assert ovs(target).hwaddr == target.server.ports["bond0"].mac == target.server.ports["ens3f0"].mac


async def test_a_bridge_with_ports_keeps_the_mac_address_that_it_has(tmp_path: Path) -> None:
    target = machine(tmp_path)
    target.server.add_device("ens9")
    on_bridge("br0", "ens9")(target)
    target.switch = replace(ovs(target), mac="02:00:00:00:00:99")
    await carried_out(target)
    assert ovs(target).hwaddr == "02:00:00:00:00:99"


async def test_one_port_needs_no_bond(tmp_path: Path) -> None:
    target = machine(tmp_path)
    single = replace(WANTED, uplink="ens3f0", members=("ens3f0",))
    assert not any("bond" in command for command in await carried_out(target, single))
    assert ovs(target).ports["br0"] == {"br0", "ens3f0"}
    assert len((await target.look()).pfs[1].vfs) == 0, "the other port is somebody else's"


async def test_open_vswitch_has_to_be_restarted_only_after_offload_was_turned_on(tmp_path: Path) -> None:
    target = machine(tmp_path)
    assert needs_restart((await planned(target)).steps)
    target.switch = replace(ovs(target), offload=True)
    assert not needs_restart((await planned(target)).steps)


async def test_what_has_no_effect_is_no_success(tmp_path: Path) -> None:
    class Stubborn(Machine):
        async def tc_offload(self, device: str) -> None:
            """The driver says yes and does nothing."""

    target = Stubborn(machine(tmp_path).server)
    with pytest.raises(NoEffectError, match="`ethtool -K ens3f0 hw-tc-offload on` had no effect"):
        await carried_out(target)


async def test_what_a_driver_shows_only_in_switchdev_mode_is_done_in_the_same_run(tmp_path: Path) -> None:
    class Reticent(Machine):
        async def look(self) -> Found:
            found = await super().look()
            told = {name: on if found.ports[name].switch_id else None for name, on in found.tc_offload.items()}
            return replace(found, tc_offload=told)

    target = Reticent(machine(tmp_path).server)
    assert "ethtool -K ens3f0 hw-tc-offload on" not in [step.command for step in (await planned(target)).steps]
    assert "ethtool -K ens3f0 hw-tc-offload on" in await carried_out(target)
    assert await carried_out(target) == []


async def test_a_port_that_gets_another_name_on_the_way_is_told_by_it(tmp_path: Path) -> None:
    class Renaming(Machine):
        async def settle(self) -> None:
            server = self.server
            server.rename("ens3f0", "ens3f0np0")

    with pytest.raises(NoEffectError, match=r"no device ens3f0; .*0000:03:00.0 \(ens3f0np0\)"):
        await carried_out(Renaming(machine(tmp_path).server), replace(WANTED, hardware_only=True))


# ---- never at somebody's cost


def vf_in_a_pod(target: Machine) -> None:
    target.server.make_vfs("0000:03:00.1", 4)
    target.server.move_away("ens3f1v2")


def vf_in_a_machine(target: Machine) -> None:
    target.server.make_vfs("0000:03:00.1", 4)
    target.server.bind(target.server.vf_address("0000:03:00.1", 0), "vfio-pci")


def vf_with_an_address(target: Machine) -> None:
    target.server.make_vfs("0000:03:00.1", 4)
    target.addresses["ens3f1v3"] = (ip_interface("192.0.2.1/24"),)


def bonded_in_legacy_mode(target: Machine) -> None:
    target.server.add_device("bond0", kind="bond")
    target.bonds.add("bond0")
    index = target.server.ports["bond0"].index
    target.server.ports["ens3f0"] = replace(target.server.ports["ens3f0"], master=index)


def in_linux_bridge(name: str) -> Callable[[Machine], None]:
    def edit(target: Machine) -> None:
        target.server.add_device("bridge0", kind="bridge")
        if name not in target.server.ports:
            target.server.add_device(name, kind="bond")
            target.bonds.add(name)
        index = target.server.ports["bridge0"].index
        target.server.ports[name] = replace(target.server.ports[name], master=index)

    return edit


def in_switchdev_and_in_linux_bridge(target: Machine) -> None:
    target.server.switchdev("0000:03:00.0")
    in_linux_bridge("ens3f0")(target)


def addressed(name: str) -> Callable[[Machine], None]:
    def edit(target: Machine) -> None:
        if name not in target.server.ports:
            target.server.add_device(name, kind="bond")
            target.bonds.add(name)
        target.addresses[name] = (ip_interface("10.1.0.11/24"),)

    return edit


def carrying(name: str, upper: str) -> Callable[[Machine], None]:
    return lambda target: target.uppers.update({name: (upper,)})


def carrying_before_the_bond(target: Machine) -> None:
    for pf in target.server.families:
        target.server.switchdev(pf)
    carrying("ens3f0", "ens3f0.108")(target)


def vf_with_a_vlan(target: Machine) -> None:
    target.server.make_vfs("0000:03:00.1", 4)
    carrying("ens3f1v1", "ens3f1v1.108")(target)


def on_bridge(bridge: str, device: str, datapath_type: str = "system") -> Callable[[Machine], None]:
    def edit(target: Machine) -> None:
        ports = {"br0": frozenset({"br0"})}
        ports[bridge] = frozenset({bridge, device})
        target.switch = replace(ovs(target), ports=ports, datapath_type=datapath_type)

    return edit


def two_cards(target: Machine) -> None:
    target.server.add_card(FAMILIES["mlx5"], "77", bus=4)


def two_cards_in_switchdev_mode(target: Machine) -> None:
    two_cards(target)
    for pf in target.server.families:
        target.server.switchdev(pf)


def one_card_of_two_in_switchdev_mode(target: Machine) -> None:
    two_cards(target)
    target.server.switchdev("0000:03:00.0")


def few_vfs(target: Machine) -> None:
    target.server.make_vfs("0000:03:00.0", 2)


def no_bond(target: Machine) -> None:
    target.server.add_device("bond0", kind="vlan")


def without_ovs(target: Machine) -> None:
    target.switch = Unseen("/run/openvswitch/db.sock: No such file or directory")


def pod_before_the_bond(target: Machine) -> None:
    vf_in_a_pod(target)
    target.server.switchdev("0000:03:00.1")


@pytest.mark.parametrize(
    ("edit", "changes", "words"),
    [
        (pod_before_the_bond, {}, "0000:03:00.1 has no bond yet, and 0000:03:09.2 may be in use"),
        (vf_in_a_pod, {}, "0000:03:09.2 may be in use: drain"),
        (vf_with_an_address, {}, "0000:03:09.3 may be in use: drain"),
        (vf_with_a_vlan, {}, "0000:03:09.1 may be in use: drain"),
        (carrying("ens3f0", "ens3f0.108"), {}, "in switchdev mode: from a console, `ip link del dev ens3f0.108`"),
        (carrying_before_the_bond, {}, "ens3f0 carries ens3f0.108 and would lose it in bond0"),
        (vf_in_a_machine, {}, "0000:03:09.0 may be in use: drain"),
        (bonded_in_legacy_mode, {}, "`ip link set dev ens3f0 nomaster`"),
        (addressed("ens3f1"), {}, "`ip address del 10.1.0.11/24 dev ens3f1`"),
        (addressed("bond0"), {}, "which belong on br0"),
        (in_linux_bridge("bond0"), {}, "`ip link set dev bond0 nomaster`"),
        (
            in_switchdev_and_in_linux_bridge,
            {"uplink": "ens3f0", "members": ("ens3f0",)},
            "ens3f0 is in another bond or bridge",
        ),
        (on_bridge("br1", "bond0"), {}, "`ovs-vsctl del-port br1 bond0`"),
        (on_bridge("br0", "ens3f0"), {}, "bond of Open vSwitch's own"),
        (on_bridge("br0", "bond0", "netdev"), {}, "datapath netdev"),
        (two_cards, {"members": ("ens3f0", "ens4f0")}, "different NICs"),
        (two_cards_in_switchdev_mode, {"members": ("ens3f0", "ens4f0")}, "different NICs"),
        (one_card_of_two_in_switchdev_mode, {"members": ("ens3f0", "ens4f0")}, "different NICs"),
        (few_vfs, {}, "`echo 0 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs`"),
        (no_bond, {}, "bond0 is a device, and no bond"),
        (without_ovs, {}, "db.sock: No such file"),
        (lambda _: None, {"vfs": 65}, "can have 64 VFs, not 65"),
        (lambda _: None, {"members": ("etha", "ethb")}, "no device etha; NICs with SR-IOV: 0000:03:00.0 (ens3f0)"),
    ],
)
async def test_what_somebody_may_be_using_is_an_obstacle_and_nothing_is_done(
    tmp_path: Path, edit: Callable[[Machine], None], changes: dict[str, Any], words: str
) -> None:
    target = machine(tmp_path)
    assert (await planned(target)).obstacles == (), "the negative control"
    edit(target)
    before = await target.look()
    result = await carry_out(target, target.look, replace(WANTED, **changes), lambda step: pytest.fail(step.command))
    assert words in " ".join(result.obstacles)
    assert result.steps == ()
    assert await target.look() == before


async def test_two_switches_on_one_card_are_no_card_for_a_bond(tmp_path: Path) -> None:
    target = machine(tmp_path, FAMILIES["mlx5 before 4.19"])
    with pytest.raises(NoEffectError, match="different NICs"):
        await carried_out(target)


async def test_a_nic_without_the_mode_gets_no_vfs_either(tmp_path: Path) -> None:
    found = await machine(tmp_path).look()
    result = plan(replace(found, modes=dict.fromkeys(found.modes, NO_SWITCH)), WANTED)
    assert "mlx5_core of 0000:03:00.0 knows no switchdev mode" in result.obstacles[0]
    assert result.steps == ()


async def test_a_mode_that_no_device_knows_of_is_not_set_again(tmp_path: Path) -> None:
    found = await machine(tmp_path).look()
    told = replace(found, modes=dict.fromkeys(found.modes, "switchdev"))
    result = plan(told, WANTED)
    assert "none of its devices says so" in result.obstacles[0]
    assert not any(isinstance(step, Switchdev) for step in result.steps)
