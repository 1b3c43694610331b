"""The DaemonSet's containers on a server: made ready, serving, replaced under traffic, with no right too many."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from containerlab.driver import CniError
from containerlab.errors import CommandError
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.pods import SHIM
from containerlab.probe import Probe, both_ways
from tests.container import IMAGE, DaemonPod
from tests.fabric import eventually
from tests.kube.plugins import PLUGINS
from tests.manifests import container
from tests.servers import RACK, Residents, RouteWatch, Server, losses

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("servers"),
    pytest.mark.netns_only("the DaemonSet's container is made in a mount namespace of the test's own"),
]
"""After the tests that need the other server of the rack as nobody has touched it."""

CONFIGURATION = Path("/etc/cni/net.d/10-routed.conflist")
PAGE = Path(__file__).parents[2] / "docs/install.md"
SLOTS = "/run/routed/slots"
SPEAKER_LOG = Path("/run/routed/bgp/exabgp.log")


@pytest.fixture(scope="module")
def s22(lab: Lab) -> Iterator[Server]:
    """A server on which nothing of ours is installed."""
    server = Server(lab, "s22")
    yield server
    server.node.path(CONFIGURATION).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def racks(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ConfigMap: the files of both racks, with the times that docs/install.md wants of a DaemonSet's."""
    folder = tmp_path_factory.mktemp("racks")
    for server in ("s11", "s22"):
        text = lab.node(server).path(RACK).read_text()
        for lab_s, longer in (
            ("graceful_restart_s: 30", "graceful_restart_s: 120"),
            ("cooldown_s: 60", "cooldown_s: 180"),
        ):
            assert lab_s in text
            text = text.replace(lab_s, longer)
        (folder / f"rack-of-{server}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def daemon_pod(s22: Server, racks: Path, tmp_path_factory: pytest.TempPathFactory) -> DaemonPod:
    return DaemonPod(s22.node, tmp_path_factory.mktemp("daemonset"), racks)


@pytest.fixture(autouse=True)
def tidy(s22: Server, daemon_pod: DaemonPod) -> Iterator[None]:
    """What a failed test left of pods goes with an agent's help."""
    yield
    if s22.pods:
        daemon_pod.prepare()
        with daemon_pod.agent() as s22.agent:
            s22.agent.wait_ready()
            s22.clean_up()


def serve(server: Server) -> None:
    """Wait until the agent serves and speaks to both ToRs."""
    server.agent.wait_ready()
    eventually(server.speaks, f"the sessions of {server.name}")


# ---- a new server


def test_the_init_container_makes_a_server_ready(s22: Server, daemon_pod: DaemonPod) -> None:
    assert "prepared s22 with rack-of-s22.yaml" in daemon_pod.prepare()
    plugin = daemon_pod.plugins / "routed"
    assert plugin.read_bytes() == SHIM.read_bytes()
    assert plugin.stat().st_mode & 0o777 == 0o755
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
        s22.plugin = replace(s22.plugin, binary=daemon_pod.plugins / "routed")
        (pod,) = s22.add(1)
        s22.await_routes([pod])
        eventually(lambda: not ping(both_ways([(pod.place, residents.one.place)])), "traffic with the other rack")
        assert user_of_speaker(daemon_pod) == IMAGE.speaker
        assert "Seccomp:\t2" in daemon_pod.inside("cat", "/proc/1/status"), "a filter, as the manifest asks for"
        assert "good" in daemon_pod.inside("routed", "show", "neighbors")
        assert " error" not in daemon_pod.inside("routed", "doctor").splitlines()[-1]
        s22.delete([pod])
        s22.await_routes([])


def test_without_portmap_a_pod_that_wants_host_ports_is_refused(s22: Server, daemon_pod: DaemonPod) -> None:
    daemon_pod.prepare()
    mapping = {"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}
    with daemon_pod.agent() as s22.agent:
        serve(s22)
        (ours,) = json.loads(s22.node.path(CONFIGURATION).read_text())["plugins"]
        told = {"runtimeConfig": {"portMappings": [mapping]}} if ours["capabilities"]["portMappings"] else {}
        asked = replace(s22.plugin, conf={**s22.plugin.conf, **told})
        (netns,) = s22.netns()
        with pytest.raises(CniError, match=r'"hostPort": 18080.*no CNI plugin `portmap`'):
            asked.add("porter", netns)
        assert s22.attachments() == {}
        assert "refused" in host_ports(daemon_pod)
    (daemon_pod.plugins / "portmap").write_bytes(PLUGINS.program("portmap").read_bytes())
    with daemon_pod.agent() as s22.agent:
        serve(s22)
        chain = json.loads(s22.node.path(CONFIGURATION).read_text())["plugins"]
        assert [one["type"] for one in chain] == ["routed", "portmap"]
        assert "a container does not show" in host_ports(daemon_pod), "the rest is as it should be"
        (daemon_pod.plugins / "portmap").unlink()
        assert "no pod starts or ends" in host_ports(daemon_pod)


def host_ports(daemon_pod: DaemonPod) -> str:
    """Return what the doctor says of them in the agent's container."""
    return doctor(daemon_pod, "host ports")


def doctor(daemon_pod: DaemonPod, check: str) -> str:
    """Return what a check of the doctor says in the agent's container."""
    return next(line for line in daemon_pod.inside("sh", "-c", "routed doctor || true").splitlines() if check in line)


def user_of_speaker(daemon_pod: DaemonPod) -> str:
    """Return whom ExaBGP runs as."""
    pid = daemon_pod.node.path("/run/routed/bgp/exabgp.pid").read_text().strip()
    return daemon_pod.inside("stat", "-c", "%U", f"/proc/{pid}").strip()


# ---- an upgrade


def upgrade(server: Server, daemon_pod: DaemonPod, others: Residents) -> tuple[list[str], set[str]]:
    """Replace the pod under traffic; returns the flows that lost packets, and the pods' routes that a ToR deleted."""
    with contextlib.ExitStack() as traffic:
        watches = {tor: traffic.enter_context(RouteWatch(server.lab, tor)) for tor in server.tors}
        with daemon_pod.agent() as server.agent:
            serve(server)
            pods = server.add(2)
            server.await_routes(pods)
            sessions = server.sessions()
            pairs = [
                (pods[0].place, pods[1].place),
                (pods[0].place, others.one.place),
                (pods[1].place, others.far.place),
            ]
            eventually(lambda: not ping(both_ways(pairs)), "the spines know the pods' pool")
            probe = traffic.enter_context(Probe(both_ways(pairs)))
            daemon_pod.stop(server.agent)
        daemon_pod.prepare()
        with daemon_pod.agent() as server.agent:
            serve(server)
            after = server.sessions()
            assert all(after[tor] > sessions[tor] for tor in server.tors), "ExaBGP ends with its container"
            server.await_routes(pods)
            eventually(lambda: with_stale_routes(server) == [], "no route that a ToR only remembers")
            lost = losses(probe.stop())
            deleted = {route for watch in watches.values() for route in watch.deleted()}
            for pod in pods:
                server.check(pod)
            server.delete(pods)
            server.await_routes([])
    sys.stdout.write(f"the ToRs' kernels deleted {sorted(deleted)}\n")  # others than pods' explain a loss, too
    return lost, deleted & {prefix for pod in pods for prefix in pod.prefixes}


def with_stale_routes(server: Server) -> list[str]:
    """Return the ToRs that hold routes of a session that ended, not announced again since (RFC 4724)."""
    shown = {tor: server.lab.vtysh(tor, "show bgp ipv4 unicast json") for tor in server.tors}
    return [tor for tor, text in shown.items() if "stale" in text]


def test_an_upgrade_loses_nothing(s22: Server, daemon_pod: DaemonPod, residents: Residents) -> None:
    daemon_pod.prepare()
    lost, deleted = upgrade(s22, daemon_pod, residents)
    assert (lost, deleted) == ([], set())


def test_without_graceful_restart_an_upgrade_loses_packets(
    s22: Server, racks: Path, tmp_path: Path, residents: Residents
) -> None:
    """Negative control of the one before."""
    file = shutil.copytree(racks, tmp_path / "racks") / "rack-of-s22.yaml"
    file.write_text(file.read_text().replace("graceful_restart_s: 120", "graceful_restart_s: 0"))
    daemon_pod = DaemonPod(s22.node, tmp_path, file.parent)
    daemon_pod.prepare()
    lost, deleted = upgrade(s22, daemon_pod, residents)
    assert lost
    assert len(deleted) == 4, "two pods, two families"


def test_a_drain_outlives_its_containers(s22: Server, daemon_pod: DaemonPod) -> None:
    """The next container comes at once, as the kubelet has it, and one more with an upgrade."""
    daemon_pod.prepare()
    try:
        with daemon_pod.agent() as s22.agent:
            serve(s22)
            pods = s22.add(2)
            s22.await_routes(pods)
            # A machine that is too slow kills the command, too, when its container ends.
            assert "drained" in daemon_pod.inside("routed", "drain", check=False)
            eventually(lambda: not s22.agent.alive(), "the container's end")
            s22.await_routes([])
        with daemon_pod.agent() as s22.agent:
            await_silence(s22)
            daemon_pod.stop(s22.agent)
        daemon_pod.prepare()
        with daemon_pod.agent() as s22.agent:
            await_silence(s22)
            assert "this server is drained" in doctor(daemon_pod, "drain")
            daemon_pod.inside("routed", "undrain")
            s22.await_routes(pods)
            s22.delete(pods)
    finally:
        s22.node.path(s22.rack.drain_mark).unlink(missing_ok=True)


def await_silence(server: Server) -> None:
    """Wait until the agent of a drained server has said all that it has to say: nothing. No rollout stops there."""
    serve(server)
    server.await_last_word()
    assert [server.announced(tor) for tor in server.tors] == [set(), set()]
    assert server.agent.ailment("/startupz") is None


def test_a_rollout_stops_at_a_server_that_no_tor_listens_to(s22: Server, racks: Path, tmp_path: Path) -> None:
    file = shutil.copytree(racks, tmp_path / "racks") / "rack-of-s22.yaml"
    file.write_text(file.read_text().replace("asn: 65500", "asn: 65501"))
    daemon_pod = DaemonPod(s22.node, tmp_path, file.parent)
    daemon_pod.prepare()
    probe = container("agent")["startupProbe"]["httpGet"]["path"]
    with daemon_pod.agent() as s22.agent:
        s22.agent.wait_ready()
        assert s22.agent.ailment(probe) == "no ToR has a BGP session with this server"
        assert s22.agent.ready(), "pods could be attached all the same"
    file.write_text(file.read_text().replace("asn: 65501", "asn: 65500"))
    daemon_pod.prepare()
    with daemon_pod.agent() as s22.agent:
        serve(s22)
        assert s22.agent.ailment(probe) is None


# ---- no right too many

SYMPTOMS = {
    "NET_ADMIN": r"routed: \[Errno 1\] Operation not permitted",
    "NET_RAW": "open a packet socket: Operation not permitted",
    "SYS_ADMIN": "enter a network namespace: Operation not permitted",
    "NET_BIND_SERVICE": r"could not listen on 10\.2\.0\.22:179",
    "SETUID": f"could not drop privileges to '{IMAGE.speaker}'",
    "SETGID": f"could not drop privileges to '{IMAGE.speaker}'",
    "CHOWN": r"Operation not permitted: '/run/routed/bgp/relay\.sock'",
    "KILL": r"Operation not permitted.*exabgp\.stays",
}
"""Of an agent, or of its ExaBGP, that lacks a capability."""


def test_every_capability_of_the_manifest_has_a_symptom() -> None:
    assert set(SYMPTOMS) == set(container("agent")["securityContext"]["capabilities"]["add"])


@pytest.mark.parametrize("capability", SYMPTOMS)
def test_it_cannot_do_without(s22: Server, daemon_pod: DaemonPod, capability: str) -> None:
    """The other tests of this file are the control: with all of them there is no such symptom."""
    daemon_pod.prepare()
    s22.node.path(SPEAKER_LOG).unlink(missing_ok=True)
    with daemon_pod.agent(without=capability) as s22.agent:
        if capability == "KILL":
            serve(s22)
            s22.node.run(["pkill", "-STOP", "--full", "launch.py server"])  # in the server's own PID namespace
        eventually(lambda: re.search(SYMPTOMS[capability], said(s22, daemon_pod)), capability)


def said(server: Server, daemon_pod: DaemonPod) -> str:
    """Return what the agent and its ExaBGP wrote."""
    with contextlib.suppress(FileNotFoundError):
        return daemon_pod.log() + server.node.path(SPEAKER_LOG).read_text()
    return daemon_pod.log()


def test_sockets_of_another_user_need_the_optional_capability(s22: Server, daemon_pod: DaemonPod) -> None:
    """As Red Hat's packages run Open vSwitch."""
    daemon_pod.prepare()
    try:
        s22.node.run(["sh", "-c", "chown -R nobody /run/openvswitch; chmod 0750 /run/openvswitch/*"])
        with daemon_pod.agent() as agent:
            eventually(lambda: "ovsdb.unreachable" in daemon_pod.log(), "the refusal")
            assert not agent.ready()
        with daemon_pod.agent(also="DAC_OVERRIDE") as s22.agent:
            serve(s22)
    finally:
        s22.node.run(["chown", "-R", "root", "/run/openvswitch"])


# ---- uninstalling


def test_a_server_is_itself_again_when_what_the_page_says_was_done(s22: Server, daemon_pod: DaemonPod) -> None:
    daemon_pod.prepare()
    with daemon_pod.agent() as s22.agent:
        serve(s22)
        daemon_pod.stop(s22.agent)
    uninstall = re.findall(r"```sh\n(.*?)```", PAGE.read_text().partition("## Uninstall")[2], re.DOTALL)[0]
    s22.node.run(["sh", "-ec", uninstall])
    s22.kill_daemon("ovs-vswitchd")
    s22.node.start_daemon("ovs-vswitchd")
    for host in s22.rack.hosts:
        ping = ["ping", "-n", "-c", "1", "-W", "1", str(host.gateway)]
        eventually(lambda ping=ping: s22.node.run(ping, check=False).returncode == 0, f"an answer of {host.gateway}")
    assert s22.ports() == set()
    assert not any(name.startswith(("rt", "rp")) for name in s22.devices())
    daemon_pod.prepare()
    with daemon_pod.agent() as s22.agent:
        serve(s22)
