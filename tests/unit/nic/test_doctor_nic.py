"""Every check of `routed doctor nic`: what is good, what is bad, what cannot be seen, and the command that mends it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ovs_flows.hardware import HardwareSight
from routed.attach.sysfs import NoAnswer
from routed.cli.nic import inventory, nic_table, read_bridge, told
from routed.doctor.facts import Unseen
from routed.doctor.findings import Finding, Level, exit_status
from routed.doctor.nic import judge
from routed.nic.found import NO_SWITCH, Found
from routed.nic.machine import carry_out
from routed.nic.plan import plan
from routed.settings import BridgeSettings
from tests.fakes.nics import Machine
from tests.unit.nic.test_nic_setup import WANTED, machine

BRIDGE = BridgeSettings(name="br0", uplink="bond0", members=("ens3f0", "ens3f1"))
ROOT = Path(__file__).parents[3]
Edit = Callable[[Found], Found]


async def ready(tmp_path: Path) -> Machine:
    """Return a server that `routed nic setup` has made ready."""
    target = machine(tmp_path)
    await carry_out(target, target.look, WANTED, lambda _: None)
    return target


def findings(found: Found) -> list[Finding]:
    return [finding for finding in judge(found, BRIDGE) if finding.level is not Level.OK]


async def test_a_server_that_setup_made_ready_has_nothing_wrong(tmp_path: Path) -> None:
    found = await (await ready(tmp_path)).look()
    assert findings(found) == []
    checks = {finding.check for finding in judge(found, BRIDGE)}
    assert checks >= {"member ens3f0", "vfs 0000:03:00.0", "mode 0000:03:00.1", "bond", "representors 0000:03:00.0"}
    assert checks >= {"hw-tc-offload ens3f1", "hw-offload", "prefixes", "conntrack", "tc"}


async def test_every_command_for_a_new_server_is_one_that_setup_would_take(tmp_path: Path) -> None:
    """The doctor and setup agree on what is missing."""
    target = machine(tmp_path)
    found = await target.look()
    advice = " ".join(finding.advice for finding in findings(found))
    for command in (
        "devlink dev eswitch set pci/0000:03:00.0 mode switchdev",
        "ethtool -K ens3f1 hw-tc-offload on",
        "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true",
        "/sys/bus/pci/devices/0000:03:00.1/sriov_numvfs",
    ):
        assert command in advice
        assert any(command in step.command for step in plan(found, WANTED).steps)


def switch(**changes: Any) -> Edit:
    def edit(found: Found) -> Found:
        assert isinstance(found.switch, HardwareSight)
        return replace(found, switch=replace(found.switch, **changes))

    return edit


def port(name: str, **changes: Any) -> Edit:
    return lambda found: replace(found, ports={**found.ports, name: replace(found.ports[name], **changes)})


def legacy(mode: str | Unseen) -> Edit:
    def edit(found: Found) -> Found:
        pfs = tuple(replace(pf, uplinks=NoAnswer("no uplink")) for pf in found.pfs)
        return replace(found, pfs=pfs, modes=dict.fromkeys(found.modes, mode))

    return edit


def vf(**changes: Any) -> Edit:
    def edit(found: Found) -> Found:
        first, *rest = found.pfs
        vfs = (replace(first.vfs[0], **changes), *first.vfs[1:])
        return replace(found, pfs=(replace(first, vfs=vfs), *rest))

    return edit


def drivers(**changes: bool | None) -> Edit:
    return lambda found: replace(found, drivers={**found.drivers, **changes})


def without(member: str) -> Edit:
    return lambda found: replace(found, ports={name: each for name, each in found.ports.items() if name != member})


CASES: list[tuple[Edit, str, Level, str, str]] = [
    (without("ens3f1"), "member ens3f1", Level.ERROR, "no such device", "`ip link`"),
    (lambda f: replace(f, pfs=()), "member ens3f0", Level.ERROR, "no port of a NIC", "BIOS"),
    (
        lambda f: replace(f, pfs=tuple(replace(pf, vfs=()) for pf in f.pfs)),
        "vfs 0000:03:00.0",
        Level.ERROR,
        "none of 64",
        "`echo 32 > /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs`",
    ),
    (vf(driver=""), "vfs 0000:03:00.0", Level.WARNING, "1 of 4", "for vf in 0000:03:01.0; do echo $vf"),
    (
        legacy("legacy"),
        "mode 0000:03:00.0",
        Level.ERROR,
        "legacy: VFs",
        "`devlink dev eswitch set pci/0000:03:00.0",
    ),
    (legacy("switchdev"), "mode 0000:03:00.0", Level.ERROR, "switchdev, but no uplink", "`devlink port show`"),
    (legacy(NO_SWITCH), "mode 0000:03:00.1", Level.ERROR, "mlx5_core knows no switchdev mode", "veth"),
    (legacy(Unseen("refused")), "mode 0000:03:00.1", Level.ERROR, "no uplink (refused)", "mode switchdev`"),
    (port("ens3f1", switch_id="77"), "bond", Level.ERROR, "different NICs", "phys_switch_id"),
    (port("ens3f1", switch_id=""), "bond", Level.UNKNOWN, "ens3f1 does not say", "see `mode`"),
    (port("ens3f1", master=None), "bond", Level.ERROR, "bond0 has ens3f0", "`ip link set dev ens3f1 master bond0`"),
    (
        vf(representor=NoAnswer("two could be it")),
        "representors 0000:03:00.0",
        Level.ERROR,
        "1 of 4 VFs have none that is certain: two could be it",
        "`ip -d link`",
    ),
    (
        lambda f: replace(f, tc_offload={**f.tc_offload, "ens3f0": False}),
        "hw-tc-offload ens3f0",
        Level.ERROR,
        "off",
        "`ethtool -K ens3f0 hw-tc-offload on`",
    ),
    (
        lambda f: replace(f, tc_offload={}),
        "hw-tc-offload ens3f0",
        Level.ERROR,
        "cannot be turned on",
        "`ethtool -k ens3f0`",
    ),
    (drivers(cls_flower=False), "tc", Level.ERROR, "cls_flower", "`modprobe -a cls_flower`"),
    (drivers(cls_flower=None), "tc", Level.UNKNOWN, "cls_flower", "`modinfo cls_flower`"),
    (drivers(act_police=False), "meters", Level.WARNING, "act_police", "`modprobe act_police`"),
    (drivers(act_ct=False), "conntrack", Level.WARNING, "act_ct", "`modprobe -a act_ct`"),
    (lambda f: replace(f, switch=Unseen("no database")), "hw-offload", Level.UNKNOWN, "no database", "systemctl"),
    (
        switch(offload=False),
        "hw-offload",
        Level.ERROR,
        "off",
        "other_config:hw-offload=true`, then `systemctl restart",
    ),
    (switch(policy="skip_hw"), "tc-policy", Level.ERROR, "skip_hw", "`ovs-vsctl remove Open_vSwitch"),
    (switch(datapath_type=""), "bridge", Level.ERROR, "no bridge br0", "`ovs-vsctl add-br br0`"),
    (switch(datapath_type="netdev"), "datapath", Level.ERROR, "no TC", "datapath_type=system"),
    (switch(samplers=("sflow",)), "sflow", Level.ERROR, "stays in software", "`ovs-vsctl clear bridge br0 sflow`"),
    (switch(samplers=("ipfix",)), "ipfix", Level.ERROR, "stays in software", "`ovs-vsctl clear bridge br0 ipfix`"),
    (switch(tables_without_prefixes=(10, 40)), "prefixes", Level.ERROR, "tables 10 40", "flow_tables:10=@t`"),
    (switch(hwaddr="", mac="02:00:00:00:00:09"), "hwaddr", Level.WARNING, "changes", "hwaddr=02:00:00:00:00:09`"),
]


@pytest.mark.parametrize(("edit", "check", "level", "found", "command"), CASES)
async def test_what_is_missing_is_found_with_the_command_that_mends_it(  # noqa: PLR0917 - a table's columns
    tmp_path: Path, edit: Edit, check: str, level: Level, found: str, command: str
) -> None:
    healthy = await (await ready(tmp_path)).look()
    assert [one for one in findings(healthy) if one.check == check] == [], "the negative control"
    got = next(one for one in findings(edit(healthy)) if one.check == check)
    assert got.level is level
    assert found in got.found
    assert command in got.advice


async def test_representors_that_are_down_are_named(tmp_path: Path) -> None:
    target = await ready(tmp_path)
    for name in ("ens3f0r1", "ens3f0r3"):
        target.server.ports[name] = replace(target.server.ports[name], up=False)
    (got,) = findings(await target.look())
    assert (got.check, got.found) == ("representors 0000:03:00.0", "2 of 4 are down")
    assert "`for rep in ens3f0r1 ens3f0r3; do ip link set dev $rep up; done`" in got.advice


async def test_a_bond_s_members_belong_into_the_file(tmp_path: Path) -> None:
    found = await (await ready(tmp_path)).look()
    got = next(one for one in judge(found, BridgeSettings()) if one.check == "member bond0")
    assert got.level is Level.ERROR
    assert "set bridge.members: [ens3f0, ens3f1]" in got.advice
    assert "name its members" in plan(found, replace(WANTED, members=("bond0",))).obstacles[0]


async def test_the_page_names_every_check(tmp_path: Path) -> None:
    look = (ROOT / "docs/sriov.md").read_text().partition("\n## Look\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", look, flags=re.MULTILINE)
    named = {name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    found = await (await ready(tmp_path)).look()
    shown = {finding.check.split()[0] for finding in judge(found, BRIDGE)}
    assert named == shown | {check.split()[0] for _, check, *_ in CASES}


# ---- what is printed


async def test_the_inventory_tells_of_every_vf_and_why_one_has_no_representor(tmp_path: Path) -> None:
    target = await ready(tmp_path)
    target.server.move_away("ens3f1v1")
    target.server.move_away("ens3f1r2")
    target.addresses["bond0"] = (ip_interface("10.1.0.11/24"),)
    rows = json.loads(json.dumps(inventory(await target.look())))
    assert [(row["pf"], row["mode"], row["uplinks"], row["bond"]) for row in rows] == [
        ("0000:03:00.0", "switchdev", ["ens3f0"], "bond0"),
        ("0000:03:00.1", "switchdev", ["ens3f1"], "bond0"),
    ]
    second = rows[1]["vfs"]
    assert [(one["representor"], one["in_use"]) for one in second] == [
        ("ens3f1r0", False),
        ("ens3f1r1", True),
        (None, False),
        ("ens3f1r3", False),
    ]
    assert second[2]["reason"] == "no device of this namespace represents VF 2 of 0000:03:00.1"
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(nic_table(rows))
    text = console.export_text()
    assert "in use" in text
    assert "none: no device of this namespace represents VF 2" in text
    assert "switchdev, 4/64 VFs" in text


async def test_a_dry_run_prints_commands_and_a_run_what_is_left_for_people(tmp_path: Path) -> None:
    target = machine(tmp_path)
    fresh = plan(await target.look(), WANTED)
    assert [*told(fresh, dry_run=True)][:-1] == [step.command for step in fresh.steps]
    assert [*told(fresh, dry_run=False)] == ["then, once: systemctl restart openvswitch-switch"]
    await carry_out(target, target.look, WANTED, lambda _: None)
    assert [*told(plan(await target.look(), WANTED), dry_run=True)] == ["ready: nothing to do"]


@pytest.mark.parametrize("name", ["rack.example.yaml", "agent.example.yaml"])
def test_both_kinds_of_files_name_the_bridge(name: str) -> None:
    bridge, paths = read_bridge(ROOT / name)
    assert (bridge.name, bridge.uplink, bridge.members) == ("br0", "bond0", ("etha", "ethb"))
    assert paths.ovs == Path("/run/openvswitch")


def routed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("routed")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def here(tmp_path: Path) -> Path:
    """Return a server's own file that names no device that any machine has."""
    file = tmp_path / "agent.yaml"
    bridge = "{name: nobridge, uplink: nobond, members: [nodeva, nodevb]}"
    file.write_text(f"kubernetes: {{}}\nbridge: {bridge}\npaths: {{ovs: {tmp_path}}}\n")
    return file


def test_a_server_without_such_a_nic_is_told_so(tmp_path: Path) -> None:
    done = routed("doctor", "nic", "--config", here(tmp_path), "--sysfs", tmp_path, "-o", "json")
    document = json.loads(done.stdout)
    assert document["nics"] == []
    levels = {one["check"]: Level(one["level"]) for one in document["findings"]}
    assert levels["member nodeva"] is Level.ERROR
    assert levels["hw-offload"] is Level.UNKNOWN
    assert done.returncode == exit_status([Finding(level, "", "") for level in levels.values()]) == 1
    assert done.stderr == ""


def test_setup_of_a_server_without_such_a_nic_does_nothing(tmp_path: Path) -> None:
    file = here(tmp_path)
    done = routed("nic", "setup", "--vfs", "4", "--config", file, "--sysfs", tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "obstacle: there is no device nodeva; NICs with SR-IOV: none"
    assert lines[-1] == "nothing was done"
    assert list(tmp_path.iterdir()) == [file], "something was made"
    meant_well = routed("nic", "setup", "--vfs", "4", "--best-effort", "--config", file, "--sysfs", tmp_path)
    assert (meant_well.returncode, meant_well.stdout) == (0, done.stdout), "it says the same"


def test_a_file_that_cannot_be_used_is_told_from_a_server_that_is_not_ready(tmp_path: Path) -> None:
    for command in (("doctor", "nic"), ("nic", "setup", "--vfs", "1")):
        done = routed(*command, "--config", tmp_path / "none.yaml")
        assert done.returncode == 2
        assert "none.yaml" in done.stderr
