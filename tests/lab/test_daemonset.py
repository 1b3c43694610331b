"""The DaemonSet's containers on a server: made ready, serving, replaced under traffic, with no right too many."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerlab.errors import CommandError
from containerlab.lab import Lab
from containerlab.pods import CONFLIST, SHIM
from containerlab.probe import Probe, both_ways
from tests.container import USER, DaemonPod
from tests.fabric import eventually
from tests.manifests import container
from tests.servers import RACK, Residents, RouteWatch, Server, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PLUGIN, CONFIGURATION = Path("/opt/cni/bin/routed"), Path("/etc/cni/net.d/10-routed.conflist")
SLOTS = "/run/routed/slots"


@pytest.fixture(scope="module")
def s22(lab: Lab) -> Iterator[Server]:
    """A server on which nothing of ours is installed."""
    server = Server(lab, "s22")
    yield server
    server.node.path(CONFIGURATION).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def racks(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ConfigMap: the files of both racks."""
    folder = tmp_path_factory.mktemp("racks")
    for server in ("s11", "s22"):
        shutil.copy(lab.node(server).path(RACK), folder / f"rack-of-{server}.yaml")
    return folder


@pytest.fixture(scope="module")
def daemon_pod(s22: Server, racks: Path, tmp_path_factory: pytest.TempPathFactory) -> DaemonPod:
    return DaemonPod(s22.node, tmp_path_factory.mktemp("daemonset"), racks)


def serve(server: Server) -> None:
    """Wait until the agent serves and speaks to both ToRs."""
    server.agent.wait_ready()
    eventually(server.speaks, f"the sessions of {server.name}")


# ---- a new server


def test_the_init_container_makes_a_server_ready(s22: Server, daemon_pod: DaemonPod) -> None:
    assert "prepared s22 of rack r2" in daemon_pod.prepare()
    assert s22.node.path(PLUGIN).read_bytes() == SHIM.read_bytes()
    assert s22.node.path(PLUGIN).stat().st_mode & 0o777 == 0o755
    slots = s22.node.run(["stat", "-f", "-c", "%T", SLOTS]).stdout.strip()
    assert slots == "nsfs", "the slots' namespace is mounted on the server, where it outlives the container"
    assert not s22.node.path(CONFIGURATION).exists(), "no pod may start before the agent serves"


def test_it_says_so_when_no_rack_file_lists_the_server(s22: Server, tmp_path: Path, racks: Path) -> None:
    other = tmp_path / "racks"
    other.mkdir()
    shutil.copy(racks / "rack-of-s11.yaml", other)
    with pytest.raises(CommandError, match="server 's22' is in none of the 1 rack files"):
        DaemonPod(s22.node, tmp_path, other).prepare()


def test_a_pod_reaches_the_other_rack_through_the_installed_plugin(
    s22: Server, daemon_pod: DaemonPod, residents: Residents
) -> None:
    daemon_pod.prepare()
    with daemon_pod.agent() as s22.agent:
        serve(s22)
        assert s22.node.path(CONFIGURATION).read_bytes() == CONFLIST.read_bytes()
        s22.plugin.program = s22.node.path(PLUGIN)
        (pod,) = s22.add(1)
        s22.await_routes([pod])
        with Probe(both_ways([(pod.place, residents.one.place)])) as probe:
            eventually(lambda: probe.sent > 200, "packets")
            assert losses(probe.stop()) == []
        users = {line.split()[0] for line in daemon_pod.inside("ps", "-eo", "user,args").splitlines() if "launch.py" in line}
        assert users == {USER}, "ExaBGP is no root"
        s22.delete([pod])
        s22.await_routes([])
