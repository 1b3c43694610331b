"""The doctor on a server of the real fabric: healthy, then broken in one way at a time, then healthy again."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from containerlab.agents import ROUTED, Agent
from containerlab.lab import Lab
from containerlab.node import Node
from tests.fabric import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RACK = "/etc/routed/rack.yaml"
Finding = dict[str, str]


class Expected(NamedTuple):
    """An error that the doctor has to name."""

    check: str
    found: str
    advice: str


class Patient:
    """Server s11 and the doctor's view of it."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def examine(self, rack: str = RACK) -> tuple[int, dict[str, Finding]]:
        """Run the doctor; return its exit status and every finding that is not good, by check."""
        command: list[str | Path] = [ROUTED, "doctor", "--server", self.node.name, "--config", rack, "-o", "json"]
        done = self.node.run(command, check=False)
        findings: list[Finding] = json.loads(done.stdout)
        return done.returncode, {one["check"]: one for one in findings if one["level"] != "ok"}

    def is_healthy(self) -> bool:
        """Tell whether nothing is wrong but that the lab's links are no ports of a real NIC."""
        status, bad = self.examine()
        return status == 0 and bad.keys() == {"nic"}

    @contextlib.contextmanager
    def file(self, pattern: str, text: str) -> Iterator[str]:
        """A copy of the rack file that says something else."""
        copy = "/run/another-rack.yaml"
        original = self.node.path(RACK).read_text()
        changed = re.sub(pattern, text, original)
        assert changed != original
        self.node.path(copy).write_text(changed)
        try:
            yield copy
        finally:
            self.node.path(copy).unlink()


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[Patient]:
    """A server with a running agent."""
    agent = Agent.start(lab.node("s11"))
    try:
        agent.wait_ready()
        agent.wait_established()
        yield Patient(agent.node)
    finally:
        agent.stop()
        agent.kill_speaker()


@pytest.fixture
def patient(server: Patient) -> Iterator[Patient]:
    """The server, healthy before and after."""
    eventually(server.is_healthy, "a healthy server")
    yield server
    eventually(server.is_healthy, "the server recovering")


@contextlib.contextmanager
def broken(node: Node, how: str, mend: str) -> Iterator[None]:
    """Run one command inside the node, and the one that undoes it afterwards."""
    node.run(["sh", "-c", how])
    try:
        yield
    finally:
        node.run(["sh", "-c", mend])


def names(patient: Patient, expected: Expected, rack: str = RACK) -> Callable[[], bool]:
    """Return a look whether the doctor names this error, says what to do and exits as it should."""

    def look() -> bool:
        status, bad = patient.examine(rack)
        one = bad.get(expected.check)
        if one is None or one["level"] != "error" or expected.found not in one["found"]:
            return False
        assert expected.advice in one["advice"]
        assert status == 1
        return True

    return look


def test_a_healthy_server(patient: Patient) -> None:
    done = patient.node.run([ROUTED, "doctor", "--server", "s11"])
    assert "established" in done.stdout
    assert "error" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("how", "mend", "expected"),
    [
        pytest.param(
            "ip link set etha down",
            "ip link set etha up",
            Expected("member etha", "is down", "ip link set dev etha up"),
            id="member down",
        ),
        pytest.param(
            "ip link set ethb mtu 1400",
            "ip link set ethb mtu 1500",
            Expected("mtu", "ethb 1400", "ip link set dev ethb mtu 1500"),
            id="MTU",
        ),
        pytest.param(
            "sysctl -qw net.ipv4.conf.br0.rp_filter=1",
            "sysctl -qw net.ipv4.conf.br0.rp_filter=0",
            Expected(
                "sysctl net.ipv4.conf.br0.rp_filter", "1 instead of 0 or 2", "sysctl -w net.ipv4.conf.br0.rp_filter=2"
            ),
            id="reverse path",
        ),
        pytest.param(
            "chmod 0666 /run/routed/cni.sock",
            "chmod 0600 /run/routed/cni.sock",
            Expected("cni socket", "0666", "chmod 0600 /run/routed/cni.sock"),
            id="open socket",
        ),
        pytest.param(
            "ip address del fd00:1::11/128 dev br0",
            "ip address add fd00:1::11/128 dev br0",
            Expected("address fd00:1::11", "is not on br0", "ip address add fd00:1::11/128 dev br0"),
            id="address",
        ),
    ],
)
def test_a_broken_server(patient: Patient, how: str, mend: str, expected: Expected) -> None:
    with broken(patient.node, how, mend):
        eventually(names(patient, expected), f"{expected.check} named")


def test_a_link_without_carrier(lab: Lab, patient: Patient) -> None:
    lab.cut("r1b:s11")
    try:
        eventually(names(patient, Expected("member ethb", "no carrier", "ethtool ethb")), "the dead link named")
        partner = Expected("lacp", "behind ethb", "ovs-appctl lacp/show bond0")
        eventually(names(patient, partner), "the missing partner named")
    finally:
        lab.restore("r1b:s11")
        lab.wait_ready()


def test_a_dead_switch(lab: Lab, patient: Patient) -> None:
    patient.node.kill_daemon("ovs-vswitchd")
    try:
        dead = Expected("ovs", "br0.mgmt", "systemctl restart openvswitch-switch")
        eventually(names(patient, dead), "the dead switch named")
    finally:
        patient.node.start_daemon("ovs-vswitchd")
        lab.wait_ready()


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        pytest.param("name: br0", "name: br9", Expected("bridge", "has: br0", "ovs-vsctl add-br br9"), id="bridge"),
        pytest.param(
            "uplink: bond0", "uplink: bond9", Expected("uplink", "has: bond0", "ovs-vsctl add-port"), id="uplink"
        ),
        pytest.param(
            "etha, ethb", "etha, ethc", Expected("member ethc", "no such device", "bridge.members"), id="member"
        ),
        pytest.param("10.255.1.2", "10.255.9.9", Expected("tor r1b", "does not answer", "ping -I 10.1.0.11"), id="ToR"),
        pytest.param(
            "password_file: null",
            "password_file: /none",
            Expected("password", "cannot be read", "chmod"),
            id="password",
        ),
    ],
)
def test_a_wrong_rack_file(patient: Patient, pattern: str, text: str, expected: Expected) -> None:
    with patient.file(pattern, text) as rack:
        assert names(patient, expected, rack)()


def test_a_server_without_an_agent(lab: Lab) -> None:
    status, bad = Patient(lab.node("s22")).examine()
    assert status == 1
    assert {check for check, one in bad.items() if one["level"] == "error"} == {"agent"}
    unknown = {check for check, one in bad.items() if one["level"] == "unknown"}
    assert unknown == {"cni socket", "bgp r2a", "bgp r2b", "steering"}
    assert bad["bridge"]["level"] == "warning"
