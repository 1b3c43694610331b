"""The fabric on containerlab itself: deployed, lived on by an agent out of its image, destroyed without a trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containerlab.containers import Container, ContainerLab
from containerlab.errors import LabError, NodeError
from containerlab.lab import STATE
from containerlab.probe import Probe, both_ways
from tests.fabric import eventually
from tests.servers import Server, losses

# The first time, everything is built: the program, a Debian, the images.
pytestmark = [pytest.mark.system, pytest.mark.lab, pytest.mark.timeout(1200)]

NAME = f"real-{os.getpid()}"


@pytest.fixture(scope="module")
def fabric() -> Iterator[ContainerLab]:
    if (obstacle := ContainerLab.obstacle()) is not None:
        pytest.skip(f"containerlab cannot run here: {obstacle}")
    lab = ContainerLab.up(name=NAME)
    assert isinstance(lab, ContainerLab)
    with lab:
        lab.wait_ready()
        yield lab


@pytest.fixture(scope="module")
def pair(fabric: ContainerLab) -> list[Server]:
    """A server of each rack, with the agent of the image."""
    servers = [Server(fabric, name) for name in ("s11", "s21")]
    for server in servers:
        server.start()
    return servers


def inspected(lab: ContainerLab, name: str) -> dict[str, Any]:
    node = lab.node(name)
    assert isinstance(node, Container)
    return node.inspect()


def test_nodes_have_the_capabilities_of_the_file_and_no_more(fabric: ContainerLab) -> None:
    for name in ("sp1", "r1a", "s11"):
        host = inspected(fabric, name)["HostConfig"]
        assert host["Privileged"] is False
        assert host["CapAdd"] == ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_NICE"]
        assert host["NetworkMode"] == "none"


def test_images_know_nothing_of_the_machine_that_built_them(fabric: ContainerLab) -> None:
    node = fabric.node("s11")
    assert node.run(["sh", "-c", "cat /etc/apt/apt.conf.d/* | grep -i proxy"], check=False).stdout == ""
    certificates = node.run(["sh", "-c", "ls /usr/local/share/ca-certificates"], check=False).stdout
    assert certificates == ""
    environment: list[str] = inspected(fabric, "s11")["Config"]["Env"]
    own = [text for text in environment if not text.lower().startswith("no_proxy=")]  # containerlab adds that one
    assert not [text for text in own if re.search(r"proxy|cert|ssl|index", text, re.IGNORECASE)]


def test_pods_of_two_racks_reach_each_other(pair: list[Server]) -> None:
    one, other = (server.add(1)[0] for server in pair)
    for server, pod in zip(pair, (one, other), strict=True):
        server.await_routes([pod])
    with Probe(both_ways([(one.place, other.place)])) as probe:
        eventually(lambda: probe.sent > 400, "traffic")
    assert losses(probe.stop()) == []
    for server in pair:
        server.clean_up()
        server.await_routes([])


def test_another_process_finds_it(fabric: ContainerLab) -> None:
    command = [sys.executable, "-m", "containerlab", "exec", "--name", fabric.name, "r2b", "hostname"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "r2b\n"


def test_a_cut_cable_is_down_at_both_ends(fabric: ContainerLab) -> None:
    fabric.cut("r2a:s22")
    state = fabric.node("s22").path("/sys/class/net/etha/operstate")
    eventually(lambda: state.read_text().strip() != "up", "the other end's carrier")
    fabric.restore("r2a:s22")
    fabric.wait_ready()


def test_a_killed_container_says_that_it_stopped_and_what_it_said_last(fabric: ContainerLab) -> None:
    node = fabric.node("s12")
    os.kill(node.pid, 9)

    def stopped() -> str:
        try:
            node.run(["true"], check=False)
        except NodeError as error:
            return str(error)
        return ""

    assert "s12 stopped; its last words" in eventually(stopped, "the node's end")


def test_it_leaves_nothing(fabric: ContainerLab) -> None:
    processes = [node.pid for name, node in fabric.nodes.items() if name != "s12"]
    fabric.down()
    assert not (STATE / NAME).exists()
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    assert not [*Path("/run/netns").glob(f"clab-{NAME}-*")]
    assert not [*Path("/etc/ssh").glob(f"*/clab-{NAME}.conf")]
    with pytest.raises(LabError, match="there is no lab"):
        ContainerLab.find(NAME)
    fabric.down()  # again, when nothing is there
