"""How fast two pods of one server reach each other, by our pipeline and by other ways, in one kernel and taking turns.

No test by name, since its figures judge nothing: `make kernel-bench` has the machine run it and reads what it records.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.fabric import eventually
from tests.kernel.server import KernelServer
from tests.servers import Pod

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

ROUNDS, SECONDS = 7, 1
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
PORT = 19765
TESTS = ("tcp_bw", "tcp_lat")
"""qperf(1): a stream; one byte there and back, over and over, of which it tells the time of one way."""


@dataclass(frozen=True, slots=True)
class Way:
    """Two places of the server, and how the second is called by the first."""

    name: str
    inside: tuple[tuple[str, ...], tuple[str, ...]]
    """What a command begins with to run in either place."""
    address: str
    ports: tuple[str, ...] = ()
    """Of Open vSwitch, whose packets TC has to forward; none where it is not Open vSwitch's to say."""


def test_ratios(s11: KernelServer, pods: tuple[Pod, Pod], record_property: Callable[[str, object], None]) -> None:
    with ExitStack() as stack:
        ways = [routed(pods), *(stack.enter_context(make(s11)) for make in (ovs_normal, bridge, ipvlan))]
        for way in ways:
            stack.enter_context(listening(s11, way))
        samples = {way.name: {test: [] for test in TESTS} for way in ways}  # type: dict[str, dict[str, list[int]]]
        for number in range(ROUNDS + 1):
            for way in ways:
                for test, figure in measure(s11, way).items():
                    if number:  # the first round warms up
                        samples[way.name][test].append(figure)
                assert_in_tc(s11, way)
    record_property("ratios", json.dumps(samples))


def measure(server: KernelServer, way: Way) -> dict[str, int]:
    """Return bytes a second and nanoseconds."""
    command = [*way.inside[0], "qperf", "-t", str(SECONDS), "-uu", way.address, *TESTS]
    figures = map(int, re.findall(r"= +(\d+) (?:bytes/sec|ns)$", server.node.run(command).stdout, re.MULTILINE))
    return dict(zip(TESTS, figures, strict=True))


def assert_in_tc(server: KernelServer, way: Way) -> None:
    """Assert that what was measured passed TC, of a way that says so."""
    flows = [flow for flow in server.megaflows() if "eth_type(0x0800)" in flow] if way.ports else []
    for port in way.ports:
        sent = [flow for flow in flows if f"in_port({port})" in flow]
        assert sent, way.name
        assert [flow for flow in sent if "dp:tc" not in flow] == [], way.name


@contextmanager
def listening(server: KernelServer, way: Way) -> Iterator[None]:
    """Let the second place answer."""
    process = server.node.popen([*way.inside[1], "qperf"], stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: f":{PORT}" in server.node.run([*way.inside[1], "ss", "-Hltn"]).stdout, way.name)
        yield
    finally:
        process.kill()
        process.wait()


# --- ways ------------------------------------------------------------------------------------------------------------


def routed(pods: tuple[Pod, Pod]) -> Way:
    one, two = (("nsenter", f"--net={pod.netns}") for pod in pods)
    return Way("routed: its pipeline, in TC", (one, two), pods[1].address(4), tuple(pod.port for pod in pods))


@contextmanager
def ovs_normal(server: KernelServer) -> Iterator[Way]:
    """A bridge of Open vSwitch that learns, in TC as well."""
    vsctl = ["ovs-vsctl", "--timeout=30"]
    with places(server, "normal") as (way, names):
        server.node.run([*vsctl, "add-br", "cmp-normal"])
        try:
            ports = veths(server, names)
            for port in ports:
                server.node.run([*vsctl, "add-port", "cmp-normal", port])
            yield replace(way("Open vSwitch: NORMAL, in TC"), ports=tuple(ports))
        finally:
            server.node.run([*vsctl, "del-br", "cmp-normal"])


@contextmanager
def bridge(server: KernelServer) -> Iterator[Way]:
    """A bridge of the kernel's, as Debian's CNI plugin makes it."""
    with places(server, "bridge") as (way, names), device(server, "cmp-bridge", "bridge"):
        for port in veths(server, names):
            server.node.run(["ip", "link", "set", port, "master", "cmp-bridge"])
        yield way("kernel bridge + veth")


@contextmanager
def ipvlan(server: KernelServer) -> Iterator[Way]:
    """Two children of one device."""
    with places(server, "ipvlan") as (way, names), device(server, "cmp-parent", "dummy"):
        for name in names:
            link = ["ip", "link", "add", "link", "cmp-parent", "name", "eth0", "netns", name, "type", "ipvlan"]
            server.node.run([*link, "mode", "l2"])
        settle(server, names)
        yield way("ipvlan L2")


@contextmanager
def places(server: KernelServer, tag: str) -> Iterator[tuple[Callable[[str], Way], Sequence[str]]]:
    """Make two namespaces; yields what makes a way of them, and their names."""
    names = [f"cmp-{tag}-{number}" for number in (1, 2)]
    one, two = (("ip", "netns", "exec", name) for name in names)
    for name in names:
        server.node.run(["ip", "netns", "add", name])
    try:
        yield lambda title: Way(title, (one, two), SECOND), names
    finally:
        for name in names:
            server.node.run(["ip", "netns", "delete", name])


@contextmanager
def device(server: KernelServer, name: str, kind: str) -> Iterator[None]:
    server.node.run(["ip", "link", "add", name, "up", "type", kind])
    try:
        yield
    finally:
        server.node.run(["ip", "link", "delete", name])


def veths(server: KernelServer, names: Sequence[str]) -> list[str]:
    """Wire two namespaces to the server; returns the outer ends."""
    for name in names:
        server.node.run(["ip", "link", "add", name, "up", "type", "veth", "peer", "name", "eth0", "netns", name])
    settle(server, names)
    return list(names)


def settle(server: KernelServer, names: Sequence[str]) -> None:
    for name, address in zip(names, (FIRST, SECOND), strict=True):
        server.node.run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0"])
        server.node.run(["ip", "-n", name, "link", "set", "eth0", "up"])
