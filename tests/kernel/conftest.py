"""The fabric in a kernel that has all of it, and an agent on its server: what runs inside (tests/kernel/relay.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from containerlab.lab import Lab
from containerlab.probe import Place
from tests.fabric import eventually
from tests.fakes.veths import VethNic
from tests.kernel.machine import Machine, missing
from tests.kernel.relay import FOLDER, Inside, Outside
from tests.kernel.server import NIC, SHARED, KernelServer
from tests.servers import Pod

TOPOLOGY = Path("containerlab/kernel.clab.yml")
POOLS = {"10.101.0.0/24", "10.101.1.0/24"}


def pytest_configure(config: pytest.Config) -> None:
    """Take the tests' reports to those outside, or the tests to those inside."""
    inside = FOLDER in os.environ
    config.pluginmanager.register(Inside(config) if inside else Outside(config, "kernel", Machine, missing))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two ToRs below a spine, and a server."""
    with Lab.up(TOPOLOGY, name="kernel") as up:
        yield up


@pytest.fixture(scope="session")
def nic(lab: Lab) -> VethNic:
    """What the server takes for its NIC: the bond's members are ports of two PFs, with one VF on each."""
    node = lab.node("s11")
    made = VethNic(node.path(NIC), ["etha", "ethb"], 1)
    made.plug(lambda *command: node.run(list(command)))
    return made


@pytest.fixture(scope="session")
def s11(lab: Lab, nic: VethNic) -> KernelServer:  # noqa: ARG001  # an agent that starts finds it
    """The server with its agent, as untagged as the rack's cables."""
    server = KernelServer(lab, "s11")
    eventually(server.bonded, "both members in one aggregator")
    server.start()
    eventually(server.at_rest, "s11 at rest")
    return server


@pytest.fixture(scope="session")
def pods(s11: KernelServer) -> tuple[Pod, Pod]:
    """Two pods of the server."""
    one, two = s11.add(2)
    s11.await_routes([one, two])
    return one, two


@pytest.fixture(scope="session")
def s12(lab: Lab) -> KernelServer:
    """The server without Open vSwitch, with its agent."""
    server = KernelServer(lab, "s12")
    eventually(server.bonded, "both members in one aggregator")
    server.start(server.copy_of_rack_file(SHARED))
    eventually(server.at_rest, "s12 at rest")
    return server


@pytest.fixture(scope="session")
def shared(s12: KernelServer) -> tuple[Pod, Pod]:
    """Two pods of that server, which share its bond."""
    one, two = s12.add(2)
    for pod in (one, two):  # no plane undoes what another one has made
        s12.check(pod)
    s12.await_routes([one, two])
    return one, two


@pytest.fixture(scope="session")
def outside(lab: Lab) -> Place:
    """The spine: both ways to a pod lead through either ToR."""
    spine = Place("sp1", lab.node("sp1").netns_path, (ip_address("10.254.1.2"), ip_address("fd00:254:1::2")))
    eventually(lambda: POOLS & lab.kernel_routes("sp1").keys(), "a pool on the spine", 60)
    return spine
