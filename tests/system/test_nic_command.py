"""`routed doctor nic` and `routed nic setup` as an operator runs them: a made-up /sys, real devices and switch."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from routed.attach import devlink
from routed.attach.errors import KernelError
from tests.fakes.nics import FAMILIES, Server
from tests.system.ovs_instance import Ovs, run

pytestmark = pytest.mark.system

DEVICES = "bus/pci/devices/0000:03:00"


@pytest.fixture(scope="module", autouse=True)
def no_devlink() -> None:
    with pytest.raises(KernelError) as caught:
        devlink.mode("0000:03:00.0")
    if caught.value.code != errno.ENOENT:
        pytest.skip("this kernel has devlink, and knows that no driver is behind a made-up tree; see tests/nic_lab")


@pytest.fixture
def tree(ovs: Ovs, tmp_path: Path) -> Path:
    """Return a tree with a card whose ports exist in the switch's namespace, as veths."""
    Server(tmp_path / "sys").add_card(FAMILIES["mlx5"], "c2cfc60003a1420c", bus=3)
    for port in ("ens3f0", "ens3f1"):
        ovs.make_veth(port)
    bridge = "{name: br0, uplink: bond0, members: [ens3f0, ens3f1]}"
    (tmp_path / "agent.yaml").write_text(f"kubernetes: {{}}\nbridge: {bridge}\npaths: {{ovs: {ovs.directory}}}\n")
    return tmp_path / "sys"


def routed(ovs: Ovs, tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = str(Path(sys.executable).with_name("routed"))
    own = ("--sysfs", str(tree), "--config", str(tree.with_name("agent.yaml")))
    command = ["ip", "netns", "exec", ovs.netns, binary, *arguments, *own]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_doctor_tells_what_a_new_card_needs(ovs: Ovs, tree: Path) -> None:
    done = routed(ovs, tree, "doctor", "nic", "-o", "json")
    document = json.loads(done.stdout)
    assert [(row["pf"], row["driver"], row["uplinks"], row["vfs"]) for row in document["nics"]] == [
        ("0000:03:00.0", "mlx5_core", ["ens3f0"], []),
        ("0000:03:00.1", "mlx5_core", ["ens3f1"], []),
    ]
    levels = {one["check"]: one["level"] for one in document["findings"]}
    assert levels["member ens3f0"] == "ok"
    assert (
        levels["mode 0000:03:00.0"] == levels["vfs 0000:03:00.1"] == levels["hw-offload"] == levels["bridge"] == "error"
    )
    assert done.returncode == 1
    text = routed(ovs, tree, "doctor", "nic").stdout
    assert "0/64 VFs" in text
    assert "`devlink dev eswitch set pci/0000:03:00.0 mode switchdev`" in text


def test_setup_goes_as_far_as_the_hardware_does_and_says_where_it_ended(ovs: Ovs, tree: Path) -> None:
    dry = routed(ovs, tree, "nic", "setup", "--vfs", "4", "--dry-run")
    assert dry.returncode == 0
    commands = dry.stdout.splitlines()
    assert commands[1] == f"echo 4 > /sys/{DEVICES}.0/sriov_numvfs"
    assert commands[-1] == "then, once: systemctl restart openvswitch-switch"
    assert (tree / f"{DEVICES}.0/sriov_numvfs").read_text() == "0\n", "a dry run changed something"
    done = routed(ovs, tree, "nic", "setup", "--vfs", "4")
    assert done.returncode == 1
    assert done.stdout.splitlines() == commands[:3], "what it does is what it said"
    assert done.stderr.startswith("routed: put 0000:03:00.0 into switchdev mode: "), "no driver is behind this tree"
    assert (tree / f"{DEVICES}.0/sriov_numvfs").read_text() == "4"
    assert ovs.vsctl("list-br") == ""
    again = routed(ovs, tree, "nic", "setup", "--vfs", "4", "--best-effort")
    assert again.returncode == 0
    assert again.stderr, "it does say what failed"


def test_setup_leaves_a_port_alone_that_shares_the_nic_and_has_an_address(ovs: Ovs, tree: Path) -> None:
    (tree / f"{DEVICES}.0/net/mgmt0").mkdir()
    ovs.make_veth("mgmt0")
    before = routed(ovs, tree, "nic", "setup", "--vfs", "4", "--dry-run")
    assert (before.returncode, before.stderr) == (0, ""), "the negative control"
    run("ip", "-n", ovs.netns, "address", "add", "10.1.0.11/24", "dev", "mgmt0")
    done = routed(ovs, tree, "nic", "setup", "--vfs", "4")
    assert done.returncode == 1
    assert "mgmt0 has addresses and would lose them in switchdev mode" in done.stdout
    assert (tree / f"{DEVICES}.0/sriov_numvfs").read_text() == "0\n"


def test_setup_leaves_a_port_with_an_address_alone(ovs: Ovs, tree: Path) -> None:
    run("ip", "-n", ovs.netns, "address", "add", "10.1.0.11/24", "dev", "ens3f1")
    done = routed(ovs, tree, "nic", "setup", "--vfs", "4")
    assert done.returncode == 1
    assert "`ip address del 10.1.0.11/24 dev ens3f1`" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing was done"
    assert (tree / f"{DEVICES}.0/sriov_numvfs").read_text() == "0\n"
