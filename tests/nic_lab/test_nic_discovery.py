"""What is found of a real NIC with SR-IOV, what is said of it, and VFs being made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from routed.attach import devlink
from routed.attach.errors import KernelError
from routed.attach.rtnl import tc_offload
from routed.attach.sysfs import SYSFS, NoAnswer
from routed.cli.main import app
from routed.doctor.facts import Unseen
from routed.nic.look import look as look_at_all
from routed.nic.machine import Host
from routed.nic.steps import AddBond, BindVfs, Enslave, Raise, Write
from routed.settings import BridgeSettings
from tests.nic_lab.card import DEVICES, PFS, VFS, device_of, look, make_vfs

pytestmark = pytest.mark.nic


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("server") / "agent.yaml"
    members = ", ".join(device_of(pf) for pf in PFS)
    file.write_text(f"kubernetes: {{}}\nbridge: {{name: br0, uplink: bond0, members: [{members}]}}\n")
    return file


@pytest.fixture
def no_vfs_after() -> Iterator[None]:
    yield
    make_vfs(PFS[0], 0)


def routed(config: Path, *arguments: str) -> Result:
    """Run a command in this process: to start another takes half a minute here."""
    return CliRunner().invoke(app, [*arguments, "--config", str(config)])


def test_both_ports_are_found() -> None:
    assert [(pf.address, pf.vendor, pf.device, pf.driver, pf.most_vfs, pf.vfs) for pf in look()] == [
        (PFS[0], "8086", "10c9", "igb", 7, ()),
        (PFS[1], "8086", "10c9", "igb", 7, ()),
    ]
    assert all(isinstance(pf.uplinks, NoAnswer) for pf in look())


def test_a_driver_without_a_switch_is_told_from_one_in_legacy_mode() -> None:
    with pytest.raises(KernelError, match="No such device"):
        devlink.mode(PFS[0])


@pytest.mark.usefixtures("no_vfs_after")
async def test_vfs_are_made_without_a_driver_and_bound_by_the_steps_of_setup() -> None:
    host = Host(SYSFS, Unseen("not asked"))
    folder = f"bus/pci/devices/{PFS[0]}"
    for step in (Write(f"{folder}/sriov_drivers_autoprobe", "0"), Write(f"{folder}/sriov_numvfs", "3")):
        await step.run(host)
    first, second = look()
    assert [(vf.index, vf.address, vf.driver, vf.devices) for vf in first.vfs] == [
        (index, address, "", ()) for index, address in enumerate(VFS)
    ]
    assert (first.autoprobe, second.vfs) == (False, ())
    for bind in (Write(f"{folder}/sriov_drivers_autoprobe", "1"), BindVfs(PFS[0])):
        await bind.run(host)
    vfs = look()[0].vfs
    assert {vf.driver for vf in vfs} == {"igbvf"}
    assert [vf.devices for vf in vfs] == [(device_of(address),) for address in VFS]
    assert all(vf.free and isinstance(vf.representor, NoAnswer) for vf in vfs)


@pytest.fixture
def bond() -> Iterator[str]:
    yield "bond0"
    subprocess.run(["ip", "link", "delete", "bond0"], check=False)  # it may not have come to that


async def test_a_bond_of_real_ports_is_set_up(bond: str) -> None:
    host, ports = Host(SYSFS, Unseen("not asked")), [device_of(pf) for pf in PFS]
    members = (step for port in ports for step in (Enslave(port, bond), Raise(port, 2000)))
    for step in (AddBond(bond), *members, Raise(bond, 2000)):
        await step.run(host)
    assert [tc_offload(port) for port in ports] == [None, None], "this NIC takes no rules"
    found = await look_at_all(SYSFS, BridgeSettings(uplink=bond, members=tuple(ports)), Unseen("not asked"))
    assert found.bond_modes == {bond: "802.3ad"}
    assert found.members(bond) == tuple(sorted(ports))
    assert [(found.ports[name].up, found.ports[name].mtu) for name in (bond, *ports)] == [(True, 2000)] * 3


def test_doctor_and_setup_say_that_this_nic_will_not_do(config: Path) -> None:
    told = json.loads(routed(config, "doctor", "nic", "-o", "json").stdout)
    assert [(row["pf"], row["id"], row["mode"], row["most_vfs"]) for row in told["nics"]] == [
        (pf, "8086:10c9", "none", 7) for pf in PFS
    ]
    found = {finding["check"]: (finding["level"], finding["found"]) for finding in told["findings"]}
    for pf in PFS:
        assert found[f"member {device_of(pf)}"][0] == "ok"
        assert found[f"mode {pf}"] == ("error", "igb knows no switchdev mode")
    done = routed(config, "nic", "setup", "--vfs", "3", "--hardware-only")
    assert f"obstacle: igb of {PFS[0]} knows no switchdev mode" in done.stdout
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "nothing was done")
    assert (DEVICES / PFS[0] / "sriov_numvfs").read_text() == "0\n"
