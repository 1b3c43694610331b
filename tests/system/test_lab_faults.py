"""A node without power, and cables that lose one direction, on a topology of two nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from containerlab import faults
from containerlab.lab import STATE, Lab
from containerlab.ping import ping
from containerlab.probe import Flow, Place, Probe
from tests.fabric import eventually

pytestmark = pytest.mark.system

TOPOLOGY = """
name: faults
topology:
  defaults:
    kind: linux
    image: lab/plain
    healthcheck: {test: [CMD, test, -e, /run/booted], interval: 0.1, retries: 50}
  nodes:
    left: {exec: ["ip address add 10.9.9.1/24 dev eth1"]}
    right: {exec: ["ip address add 10.9.9.2/24 dev eth1"]}
  links:
    - {endpoints: ["left:eth1", "right:eth1"], mtu: 1400}
"""
START = """#!/bin/bash
until [ -e /sys/class/net/eth1 ]; do sleep 0.05; done
touch /run/booted
while true; do
    sleep infinity &
    wait $! || true
done
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    script = tmp_path / "images" / "plain" / "start.sh"
    script.parent.mkdir(parents=True)
    script.write_text(START)
    script.chmod(0o755)
    topology = tmp_path / "faults.clab.yml"
    topology.write_text(TOPOLOGY)
    with Lab.up(topology, name=f"faults-{os.getpid()}") as up:
        up.wait_ready()
        yield up


def place(lab: Lab, name: str, address: str) -> Place:
    return Place(name, lab.node(name).netns_path, (ip_address(address),))


def flows(lab: Lab) -> tuple[Flow, Flow]:
    """There and back."""
    left, right = place(lab, "left", "10.9.9.1"), place(lab, "right", "10.9.9.2")
    return Flow(left, right, 4), Flow(right, left, 4)


def carrier(lab: Lab, name: str) -> bool:
    return lab.node(name).path("/sys/class/net/eth1/operstate").read_text().strip() == "up"


def test_a_dead_node_takes_the_carrier_along_and_comes_back_on_the_same_cables(lab: Lab) -> None:
    left = lab.node("left")
    left.run(["sh", "-c", "touch /run/witness; setsid sleep infinity >/dev/null 2>&1 & echo $! >/run/sleeper"])
    sleeper = left.path("/proc") / left.path("/run/sleeper").read_text().strip()
    device = lab.node("right").run(["cat", "/sys/class/net/eth1/ifindex"]).stdout
    assert sleeper.exists()
    faults.kill(lab, "left")
    eventually(lambda: not carrier(lab, "right"), "the neighbour losing carrier")
    eventually(lambda: not sleeper.exists(), "the end of what ran there")

    faults.revive(lab, "left")
    lab.wait_ready()
    assert not lab.node("left").path("/run/witness").exists(), "it booted from nothing"
    assert lab.node("right").run(["cat", "/sys/class/net/eth1/ifindex"]).stdout == device, "the cable is the old one"
    eventually(lambda: carrier(lab, "right") and not ping(flows(lab)), "traffic both ways")
    assert [path.name for path in STATE.glob(f"{lab.name}*")] == [lab.name], "nothing of the old node is left"


def test_a_node_that_dies_can_be_taken_down_and_so_can_the_one_after_it(lab: Lab) -> None:
    first = lab.node("left").pid
    faults.kill(lab, "left")
    faults.revive(lab, "left")
    second = lab.node("left").pid
    assert first != second
    faults.kill(lab, "left")
    lab.down()
    assert not Path(f"/proc/{first}").exists()
    assert not Path(f"/proc/{second}").exists()


@pytest.mark.parametrize(("end", "muted"), [("left:eth1", 0), ("right:eth1", 1)])
def test_a_mute_cable_loses_one_direction_and_keeps_its_carrier(lab: Lab, end: str, muted: int) -> None:
    there_and_back = flows(lab)
    eventually(lambda: not ping(there_and_back), "traffic both ways")
    with Probe(there_and_back) as probe:
        faults.mute(lab, end)
        probe.mark()
        eventually(lambda: probe.sent >= 200, "packets leave")
        shares = probe.arrivals(0.5)
        assert shares[muted] < shares[1 - muted]
        assert carrier(lab, "left")
        assert carrier(lab, "right")
        reports = probe.stop()
    assert reports[muted].lost == reports[muted].sent > 0
    assert reports[muted].open
    assert reports[1 - muted].lost == 0
    assert not reports[1 - muted].open
    faults.unmute(lab, end)
    faults.unmute(lab, end)
    assert not ping(there_and_back)
