"""Nodes and labs as such, on a topology of two nodes with nothing in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from containerlab.errors import CommandError, LabError, NodeError, NotReadyError
from containerlab.lab import STATE, Lab
from containerlab.topology import TWO_RACKS
from tests.fabric import eventually

pytestmark = pytest.mark.system

TOPOLOGY = """
name: plain
topology:
  defaults:
    kind: linux
    image: lab/plain
    sysctls: {net.ipv4.ip_forward: 1}
    healthcheck: {test: [CMD, test, -e, /run/booted], interval: 0.1, retries: 50}
  nodes:
    left:
      binds: ["note.txt:/etc/note/text:ro", "note.txt:/etc/writable"]
      env: {COLOUR: "blue sky"}
      exec: ["sh -c 'ip address add 10.9.9.1/24 dev eth1 && echo done >/run/executed'"]
    right:
      exec: ["ip address add 10.9.9.2/24 dev eth1"]
  links:
    - {endpoints: ["left:eth1", "right:eth1"], mtu: 1400}
"""
START = """#!/bin/bash
until [ -e /sys/class/net/eth1 ]; do sleep 0.05; done
echo "$COLOUR" >/run/colour
touch /run/booted
sleep infinity & wait
"""


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    return write(tmp_path, TOPOLOGY, START)


def write(folder: Path, text: str, start: str) -> Path:
    (folder / "images" / "plain").mkdir(parents=True)
    script = folder / "images" / "plain" / "start.sh"
    script.write_text(start)
    script.chmod(0o755)
    (folder / "note.txt").write_text("note\n")
    path = folder / "plain.clab.yml"
    path.write_text(text)
    return path


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"nodes-{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
    yield name
    Lab.named(name).down()


@pytest.fixture
def lab(topology: Path, name: str) -> Iterator[Lab]:
    with Lab.up(topology, name=name) as up:
        up.wait_ready()
        yield up


def traces(name: str) -> dict[int, str]:
    """Processes whose command line speaks of the lab's state: holders, inits, and who enters a node."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(f"{STATE / name}/") for word in words):
            found[int(path.parent.name)] = " ".join(words)
    return found


def namespace(path: str | Path) -> str:
    """The identity of a namespace, such as net:[4026531840]."""
    return str(Path(path).readlink())


def namespaces_of(pids: Iterable[int]) -> set[str]:
    """PID namespaces of these processes, as far as they still live."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            found.add(namespace(f"/proc/{pid}/ns/pid"))
    return found


def in_namespace(kind: str, identities: set[str]) -> set[int]:
    """Processes that live in one of these namespaces."""
    found = set()
    for path in Path("/proc").glob(f"[0-9]*/ns/{kind}"):
        try:
            if namespace(path) in identities:
                found.add(int(path.parts[2]))
        except OSError:
            continue
    return found


def test_links_have_the_files_names_and_mtu_and_carry_packets(lab: Lab) -> None:
    assert lab.node("left").path("/sys/class/net/eth1/mtu").read_text() == "1400\n"
    assert lab.node("left").run(["ping", "-n", "-c", "1", "-W", "2", "10.9.9.2"]).returncode == 0


def test_both_ends_of_a_link_have_different_indexes(lab: Lab) -> None:
    ends = [lab.node(node).path("/sys/class/net/eth1/ifindex").read_text() for node in ("left", "right")]
    assert ends[0] != ends[1]


def test_env_exec_sysctls_and_host_name_are_the_files(lab: Lab) -> None:
    left = lab.node("left")
    assert left.path("/run/colour").read_text() == "blue sky\n"
    assert left.path("/run/executed").read_text() == "done\n"
    assert left.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "1\n"
    assert left.run(["hostname"]).stdout == "left\n"
    assert left.run(["sh", "-c", "echo $COLOUR $EXTRA"], env={"EXTRA": "1"}).stdout == "blue sky 1\n"


def test_a_bind_is_read_only_when_it_says_so(lab: Lab, topology: Path) -> None:
    left = lab.node("left")
    assert left.path("/etc/note/text").read_text() == "note\n"
    with pytest.raises(CommandError, match="Read-only file system"):
        left.run(["sh", "-c", "echo more >>/etc/note/text"])
    left.run(["sh", "-c", "echo more >>/etc/writable"])
    assert (topology.parent / "note.txt").read_text() == "note\nmore\n"


def test_what_a_node_writes_is_its_own(lab: Lab) -> None:
    left, right = lab.node("left"), lab.node("right")
    for folder in ("/etc", "/var/lib", "/var/log", "/run", "/etc/frr"):
        path = f"{folder}/{lab.name}"
        left.run(["touch", path])
        assert left.path(path).exists()
        assert not right.path(path).exists()
        assert not Path(path).exists()


def test_sys_shows_the_nodes_interfaces_and_the_hosts_control_groups(lab: Lab) -> None:
    left = lab.node("left")
    assert set(left.run(["ls", "/sys/class/net"]).stdout.split()) == {"lo", "eth1"}
    assert left.run(["ls", "/sys/fs/cgroup"]).stdout.split() == sorted(os.listdir("/sys/fs/cgroup"))  # noqa: PTH208 - as ls


def test_a_nodes_processes_are_its_own_and_init_is_the_entrypoint(lab: Lab) -> None:
    left = lab.node("left")
    assert left.run(["cat", "/proc/1/cmdline"]).stdout.split("\0")[1] == "/srv/plain/start.sh"
    assert namespace(left.netns_path) != namespace("/proc/self/ns/net")


def test_a_failing_command_says_what_it_printed(lab: Lab) -> None:
    with pytest.raises(CommandError, match=r"left: sh -c .*exit 3: oops"):
        lab.node("left").run(["sh", "-c", "echo oops >&2; exit 3"])
    assert lab.node("left").run(["sh", "-c", "exit 3"], check=False).returncode == 3
    assert lab.node("left").run(["no-such-program"], check=False).returncode == 127


def test_signals_reach_a_started_command_and_its_status_comes_back(lab: Lab) -> None:
    script = "trap 'exit 7' TERM; touch /run/trapped; sleep infinity & wait"
    process = lab.node("left").popen(["bash", "-c", script])
    eventually(lab.node("left").path("/run/trapped").exists, "the trap")
    process.terminate()
    assert process.wait(timeout=10) == 7


def test_a_killed_command_dies_inside_the_node_too(lab: Lab) -> None:
    left = lab.node("left")
    process = left.popen(["sleep", "4711"])
    sleeping = ["pgrep", "-f", "^sleep 4711"]
    eventually(lambda: left.run(sleeping, check=False).stdout, "sleep")
    process.kill()
    assert process.wait(timeout=10) == -signal.SIGKILL
    eventually(lambda: not left.run(sleeping, check=False).stdout, "sleep ending")


def test_a_cut_link_has_no_carrier_until_it_is_restored(lab: Lab) -> None:
    state = lab.node("left").path("/sys/class/net/eth1/operstate")
    lab.cut("right:eth1")
    eventually(lambda: state.read_text() != "up\n", "loss of carrier")
    lab.restore("right:eth1")
    eventually(lambda: state.read_text() == "up\n", "carrier")


def test_a_name_can_be_taken_only_once(lab: Lab, topology: Path) -> None:
    with pytest.raises(LabError, match="exists: take it down first"):
        Lab.up(topology, name=lab.name)
    assert lab.node("left").run(["true"]).returncode == 0


def test_labs_run_side_by_side(lab: Lab, topology: Path, name: str) -> None:
    other = f"{name}-2"
    with Lab.up(topology, name=other) as second:
        second.wait_ready()
        assert second.node("left").pid != lab.node("left").pid
    assert lab.node("left").run(["true"]).returncode == 0


def test_a_node_that_is_not_healthy_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    check = "[CMD-SHELL, 'echo no water; exit 1'], interval: 0.01, retries: 3"
    text = TOPOLOGY.replace("[CMD, test, -e, /run/booted], interval: 0.1, retries: 50", check)
    with (
        Lab.up(write(tmp_path, text, START), name=name) as sick,
        pytest.raises(NotReadyError, match="left is not ready: no water"),
    ):
        sick.wait_ready()


def test_a_node_that_stops_is_named_with_its_last_words(tmp_path: Path, name: str) -> None:
    start = "#!/bin/bash\nuntil [ -e /sys/class/net/eth1 ]; do sleep 0.05; done\nsleep 0.5; echo farewell; exit 1\n"
    with Lab.up(write(tmp_path, TOPOLOGY, start), name=name) as dying, pytest.raises(NodeError, match="farewell"):
        dying.wait_ready()


def test_an_entrypoint_that_cannot_start_leaves_nothing(tmp_path: Path, name: str) -> None:
    text = TOPOLOGY.replace("net.ipv4.ip_forward: 1", "net.ipv4.no_such_setting: 1")
    with pytest.raises(NodeError, match="no_such_setting"):
        Lab.up(write(tmp_path, text, START), name=name)
    assert not traces(name)
    assert not (STATE / name).exists()


def test_down_leaves_nothing_and_can_be_repeated(topology: Path, name: str) -> None:
    lab = Lab.up(topology, name=name)
    lab.node("left").run(["sh", "-c", "sleep 4712 </dev/null >/dev/null 2>&1 &"])
    spaces = {
        kind: {namespace(f"/proc/{node.pid}/ns/{kind}") for node in lab.nodes.values()} for kind in ("net", "pid")
    }
    assert traces(name), "there is something to find"
    assert all(in_namespace(kind, identities) for kind, identities in spaces.items())
    lab.down()
    assert not traces(name)
    assert not any(in_namespace(kind, identities) for kind, identities in spaces.items())
    assert not list(STATE.glob(f"{name}*"))
    lab.down()
    Lab.named(f"{name}-never-was").down()


def test_a_lab_is_found_and_taken_down_by_another_process(lab: Lab) -> None:
    command = [sys.executable, "-m", "containerlab"]
    shown = subprocess.run(
        [*command, "exec", "--name", lab.name, "left", "hostname"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "left\n"
    for _ in range(2):
        subprocess.run([*command, "down", "--name", lab.name], capture_output=True, check=True)
        assert not traces(lab.name)
    with pytest.raises(LabError, match="there is no lab"):
        Lab.find(lab.name)


@pytest.mark.parametrize("nodes", [1, 4, 10])
def test_down_cleans_up_after_a_runner_that_was_killed_half_way(name: str, nodes: int) -> None:
    """The runner dies when so many nodes exist."""
    runner = subprocess.Popen(
        [sys.executable, "-m", "containerlab", "up", "--topology", str(TWO_RACKS), "--name", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while len(list((STATE / name).glob("*/holder.pid"))) < nodes:
        assert time.monotonic() < deadline
    runner.kill()
    runner.wait()
    left = traces(name)
    assert left, "a killed runner leaves nodes behind"
    spaces = namespaces_of(left) - {namespace("/proc/self/ns/pid")}
    Lab.named(name).down()
    eventually(lambda: not traces(name), "the end of holders that had not begun", 5)
    assert not in_namespace("pid", spaces)
    assert not list(STATE.glob(f"{name}*"))
