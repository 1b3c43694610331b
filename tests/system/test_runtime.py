"""The runtime driver against real containerd, with Debian's bridge plugin as the network."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from containerlab.driver import DEBIAN_PLUGINS, network_namespace
from containerlab.node import Node
from containerlab.runtime import Runtime, RuntimeFailedError, clean
from containerlab.topology import NodeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

SUBNET = ip_network("10.88.0.0/24")


@pytest.fixture
def scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rt-test-", dir="/tmp") as path:  # a short path: sockets live in it
        yield Path(path)


@pytest.fixture(params=["netns", "node"])
def host(request: pytest.FixtureRequest, scratch: Path) -> Iterator[tuple[str, ...]]:
    """Command prefix of a plain network namespace, or of a whole node as the fabric has it."""
    if request.param == "netns":
        with network_namespace(scratch / "host") as netns:
            enter = ("nsenter", f"--net={netns}")
            subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
            yield enter
    else:
        image = scratch / "images" / "idle"
        image.mkdir(parents=True)
        (image / "start.sh").write_text("#!/bin/sh\nexec sleep infinity\n")
        (image / "start.sh").chmod(0o755)
        spec = NodeSpec("n1", None, image, binds=(), env={}, exec=(), sysctls={}, healthcheck=None)
        node = Node.start(scratch / "n1", spec)
        yield ("nsenter", "-t", str(node.pid), "--mount", "--uts", "--ipc", "--net", "--pid")
        node.stop()


@pytest.fixture
def network(scratch: Path) -> Path:
    """Configuration folder of the bridge plugin, its addresses recorded below it."""
    folder = scratch / "net.d"
    folder.mkdir()
    ipam = {"type": "host-local", "dataDir": str(scratch / "leases"), "subnet": str(SUBNET)}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    conflist = {"cniVersion": "1.0.0", "name": "test", "plugins": [bridge]}
    (folder / "10-test.conflist").write_text(json.dumps(conflist))
    return folder


@pytest.fixture
def runtime(scratch: Path, host: tuple[str, ...], network: Path) -> Iterator[Runtime]:
    runtime = Runtime.start(scratch / "rt", cni_bin=DEBIAN_PLUGINS, cni_conf=network, prefix=host)
    yield runtime
    runtime.close()


def leases(scratch: Path) -> set[str]:
    return {path.name for path in (scratch / "leases" / "test").glob("[0-9]*")}


def traces(directory: Path) -> list[str]:
    """What a runtime could leave behind: mounts, processes, cgroups."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{directory}/" in line]
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    processes = [line.decode() for line in commands if f"{directory}/".encode() in line]
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").rglob(str(directory).strip("/").replace("/", "-"))]
    return [*mounts, *processes, *cgroups]


def test_a_pod_gets_an_address_and_answers(runtime: Runtime, host: tuple[str, ...]) -> None:
    assert runtime.network_ready()
    pod = runtime.run_pod("default", "web", "uid-1")
    assert [address in SUBNET for address in pod.addresses] == [True]
    subprocess.run([*host, "ping", "-c1", "-W2", str(pod.addresses[0])], check=True, stdout=subprocess.DEVNULL)
    inside = subprocess.run(
        runtime.command(pod, "ip", "-json", "address", "show", "eth0"), check=True, capture_output=True
    )
    assert str(pod.addresses[0]) in inside.stdout.decode()
    assert [(each.namespace, each.name, each.uid, each.ready) for each in runtime.pods()] == [
        ("default", "web", "uid-1", True)
    ]


def test_ten_pods_at_once_come_and_go(runtime: Runtime, scratch: Path) -> None:
    with ThreadPoolExecutor(10) as pool:
        pods = list(pool.map(lambda n: runtime.run_pod("default", f"pod-{n}", f"uid-{n}"), range(10)))
        addresses = {str(address) for pod in pods for address in pod.addresses}
        assert len(addresses) == 10
        assert leases(scratch) == addresses
        list(pool.map(lambda pod: runtime.stop_pod(pod.id), pods))
        assert leases(scratch) == set(), "stopping calls DEL, which frees the address"
        assert {pod.ready for pod in runtime.pods()} == {False}
        list(pool.map(lambda pod: runtime.remove_pod(pod.id), pods))
    assert runtime.pods() == ()


def test_a_plugin_failure_reaches_the_caller(runtime: Runtime, network: Path) -> None:
    broken = {"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "bridge", "ipam": {"type": "absent"}}]}

    def run_until_it_fails() -> None:
        while True:  # the configuration folder is watched: pods succeed until the change was seen
            runtime.remove_pod(runtime.run_pod("default", "web", "uid-1").id)

    (network / "10-test.conflist").write_text(json.dumps(broken))
    with pytest.raises(RuntimeFailedError, match="absent"):
        run_until_it_fails()


def test_closing_leaves_nothing_even_of_running_pods(runtime: Runtime, scratch: Path) -> None:
    runtime.run_pod("default", "web", "uid-1")
    assert traces(scratch / "rt"), "negative control: there is something to leave"
    runtime.close()
    assert traces(scratch / "rt") == []
    assert not (scratch / "rt").exists()


def test_what_a_crashed_run_left_is_cleaned_by_the_next(
    runtime: Runtime, scratch: Path, host: tuple[str, ...], network: Path
) -> None:
    runtime.run_pod("default", "old", "uid-1")
    again = Runtime.start(scratch / "rt", cni_bin=DEBIAN_PLUGINS, cni_conf=network, prefix=host)
    assert again.pods() == ()
    assert ip_address(again.run_pod("default", "new", "uid-2").addresses[0]) in SUBNET
    again.close()
    clean(scratch / "rt", host)
    assert traces(scratch / "rt") == []
