"""A server without Open vSwitch, whose pods share its bond as ipvlans: who reaches whom, and what they cannot send."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from containerlab.agents import ROUTED
from containerlab.lab import Lab
from containerlab.netns import socket_in
from containerlab.ping import ping
from containerlab.probe import Flow, Place, Probe, both_ways
from tests.fabric import eventually
from tests.forging import GATEWAY_MAC, forgeries
from tests.kernel.server import KernelServer
from tests.servers import Pod, Sniffer
from tests.system.frames import udp

pytestmark = [pytest.mark.kernel(machine="other-uplinks"), pytest.mark.timeout(240)]

SHARED = {
    "bridge:\n  name: br0\n  uplink: bond0 # an OVS port: a NIC, a kernel bond or an OVS bond\n  members:": (
        "resync_s: 3\nipvlan:\n  uplink: bond0\n  members:"
    ),
    "services: []": 'services: [10.96.0.0/16, "fd00:96::/112"]',
}
SERVICES = {4: "10.96.0.10", 6: "fd00:96::a"}
KUBE_PROXY = """
{ipt} -t nat -A PREROUTING -d {service} -p udp --dport 53 -j DNAT --to-destination {target}
{ipt} -t nat -A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE
"""
"""What kube-proxy makes of a Service with one pod, and of `masqueradeAll`."""
MAC = "02:10:00:00:01:0c"


@pytest.fixture(scope="module")
def s12(lab: Lab) -> KernelServer:
    """The server with its agent."""
    server = KernelServer(lab, "s12")
    eventually(server.bonded, "both members in one aggregator")
    server.start(server.copy_of_rack_file(SHARED))
    eventually(server.at_rest, "s12 at rest")
    return server


@pytest.fixture(scope="module")
def shared(s12: KernelServer) -> tuple[Pod, Pod]:
    """Two pods of the server."""
    one, two = s12.add(2)
    s12.await_routes([one, two])
    return one, two


@dataclass
class Watch:
    """What leaves the server, and what its pods get."""

    pod: Pod
    tors: list[Sniffer]
    neighbour: Sniffer
    host: Sniffer

    @property
    def receivers(self) -> list[Sniffer]:
        return [*self.tors, self.neighbour, self.host]

    def where(self, mark: bytes) -> list[str]:
        return [place.name for place in self.receivers if place.seen(mark)]

    def send(self, frame: bytes, claim: int | None = None) -> None:
        """Send a frame out of the pod; `claim` is what the sender says that it is, instead of what it says itself."""
        kind = int.from_bytes(frame[12:14], "big") if claim is None else claim
        packet = socket_in(self.pod.place.netns, socket.AF_PACKET, socket.SOCK_RAW, 0)
        with packet, contextlib.suppress(OSError):  # it is told that its packet was dropped
            packet.sendto(frame, ("eth0", kind))

    def on_wire(self, mark: bytes) -> int:
        return sum(tor.seen(mark) for tor in self.tors)


@pytest.fixture
def watch(lab: Lab, s12: KernelServer, shared: tuple[Pod, Pod]) -> Iterator[Watch]:
    with contextlib.ExitStack() as stack:

        def sniffer(name: str, netns: object, device: str) -> Sniffer:
            return stack.enter_context(Sniffer(name, str(netns), device))

        one, two = shared
        yield Watch(
            pod=one,
            tors=[sniffer(tor, lab.node(tor).netns_path, "s12") for tor in s12.tors],
            neighbour=sniffer("the other pod", two.place.netns, "eth0"),
            host=sniffer("the server", s12.node.netns_path, one.port),
        )


# ---- who reaches whom


def test_there_is_no_open_vswitch(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    assert not s12.node.path("/run/openvswitch").exists()
    assert shared[0].mac == shared[1].mac == MAC
    assert {"eth0", shared[0].port.replace("rt", "rs")} < s12.devices(shared[0].netns)


def test_everybody_reaches_everybody(
    s11: KernelServer, s12: KernelServer, shared: tuple[Pod, Pod], pods: tuple[Pod, Pod], outside: Place
) -> None:
    """Pods of one server, of the other one, which has a bridge, both servers and the fabric; both families."""
    one, two = (pod.place for pod in shared)
    others = [two, pods[0].place, s12.place, s11.place, outside]
    flows = both_ways([*((one, other) for other in others), (pods[0].place, s12.place)])
    eventually(lambda: not ping(flows), "no silence between any two")


def test_pods_of_one_server_need_no_tor(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    one, two = shared
    for version, beyond in ((4, "10.102.0.9"), (6, "fd00:102::9")):
        watch.send(udp(MAC, GATEWAY_MAC, one.address(version), two.address(version)) + b"<within>")
        watch.send(udp(MAC, GATEWAY_MAC, one.address(version), beyond) + b"<beyond>")
    eventually(lambda: watch.neighbour.seen(b"<within>") == 2, "both at the other pod")
    eventually(lambda: watch.on_wire(b"<beyond>") == 2, "both at the ToRs")
    assert watch.on_wire(b"<within>") == 0

    def goes_out() -> bool:
        """Without what turns them around, packets between the two go to a ToR, which sends them back."""
        s12.node.run(["tc", "filter", "delete", "dev", "bond0", "egress", "chain", "82"])
        watch.send(udp(MAC, GATEWAY_MAC, one.address(4), two.address(4)) + b"<around>")
        return watch.on_wire(b"<around>") > 0

    eventually(goes_out, "the control")
    assert ping(both_ways([(one.place, two.place)])) == []
    eventually(lambda: s12.healthy(one) and s12.healthy(two), "what was deleted is back", 60)


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_reaches_a_service_of_its_server(
    s12: KernelServer, shared: tuple[Pod, Pod], pods: tuple[Pod, Pod], version: int
) -> None:
    """Whether the pod behind it is on the same server or on another one; the server's stack translates both ways."""
    client = shared[0]
    for backend in (shared[1], pods[0]):
        ipt = "iptables-legacy" if version == 4 else "ip6tables-legacy"
        rules = KUBE_PROXY.format(ipt=ipt, service=SERVICES[version], target=backend.address(version))
        s12.node.run(["/bin/sh", "-e", "-c", rules])
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with (
            socket_in(client.place.netns, family, socket.SOCK_DGRAM) as asks,
            socket_in(backend.place.netns, family, socket.SOCK_DGRAM) as serves,
        ):
            serves.bind((backend.address(version), 53))
            for each in (asks, serves):
                each.settimeout(5)
            asks.connect((SERVICES[version], 53))
            asks.send(b"who?")
            question, peer = serves.recvfrom(100)
            serves.sendto(question + b" me", peer)
            assert asks.recv(100) == b"who? me"
        s12.node.run([ipt, "-t", "nat", "-F"])


# ---- what pods and ToRs cannot send


def test_nothing_forged_leaves_a_pod_and_what_is_right_does(watch: Watch, shared: tuple[Pod, Pod]) -> None:
    pod, neighbour = shared
    forged = forgeries(pod, neighbour)
    del forged["a neighbour's MAC address"]  # they have one
    marks = {what: f"<forged {index:03}>".encode() for index, what in enumerate(forged)}
    for what, frame in forged.items():
        for claim in (None, 0x0003, 0x0800, 0x86DD):
            watch.send(frame + marks[what], claim)
    right = b"<right>"

    def arrived() -> bool:
        for number in range(70, 86):  # enough for the bond to use both members: its hash leaves UDP's ports out
            watch.send(udp(MAC, GATEWAY_MAC, pod.address(4), f"10.102.0.{number}") + right)
        watch.send(udp(MAC, GATEWAY_MAC, pod.address(4), neighbour.address(4)) + right)
        return all(place.seen(right) for place in (*watch.tors, watch.neighbour))

    eventually(arrived, lambda: f"right packets everywhere, seen by {watch.where(right)} alone")
    assert not {what: places for what, mark in marks.items() if (places := watch.where(mark))}


def test_the_uplink_holds_what_a_pod_has_undone(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    """With NET_ADMIN a pod can remove its own filters; those of the uplink are out of its reach."""
    pod, neighbour = shared
    own, other = pod.address(4), neighbour.address(4)
    frames = {
        b"<nobody's>": udp(MAC, GATEWAY_MAC, "10.101.1.250", "10.102.0.77"),
        b"<of s11>": udp(MAC, GATEWAY_MAC, "10.101.0.5", "10.102.0.77"),
        b"<over IPv6>": udp(MAC, GATEWAY_MAC, "fd00:101::2:beef", "fd00:102::77"),
        b"<other MAC>": udp("02:11:22:33:44:55", GATEWAY_MAC, own, "10.102.0.77"),
        b"<neighbour>": udp(MAC, GATEWAY_MAC, other, "10.102.0.77"),
    }

    def passes() -> bool:  # unless the agent has put the filters back meanwhile
        s12.inside(pod, "sh", "-c", "tc qdisc delete dev eth0 clsact || true")
        for mark, frame in frames.items():
            watch.send(frame + mark)
        return watch.on_wire(b"<neighbour>") > 0

    eventually(passes, "what the uplink cannot tell: it passes, docs/ipvlan.md")
    assert [mark for mark in frames if watch.where(mark)] == [b"<neighbour>"]
    eventually(lambda: s12.healthy(pod), "its filters are back", 60)
    watch.send(frames[b"<neighbour>"] + b"<again>")
    watch.send(udp(MAC, GATEWAY_MAC, own, "10.102.0.77") + b"<right>")
    eventually(lambda: watch.on_wire(b"<right>") == 1, "what is right")
    assert not watch.where(b"<again>")


def test_a_pod_speaks_to_its_server_as_itself_alone(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    """Whatever the pod does: the filters are at the server's end."""
    pod, neighbour = shared
    own, other, me = pod.address(4), neighbour.address(4), str(s12.place.address(4))
    side = pod.port.replace("rt", "rs")
    hardware = json.loads(s12.inside(pod, "ip", "-j", "link", "show", side))[0]["address"]
    with (
        Sniffer("the side", str(pod.place.netns), side) as sender,
        socket_in(s12.node.netns_path, socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind((me, 9))
        server.settimeout(10)
        sender.send(udp(hardware, hardware, other, me))
        sender.send(udp(hardware, hardware, own, me))
        assert server.recvfrom(10)[1] == (own, 9)


@pytest.mark.parametrize("unknown", ["10.101.1.250", "fd00:101::2:beef"])
def test_a_pool_address_that_nobody_has_is_dropped_not_bounced(
    watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod], unknown: str
) -> None:
    version = ip_address(unknown).version
    source = "10.102.0.77" if version == 4 else "fd00:102::77"
    mark = ip_address(source).packed + ip_address(unknown).packed
    tor, known = watch.tors[0], shared[1].address(version)
    for _ in range(10):
        tor.send(udp(GATEWAY_MAC, MAC, source, unknown))
    tor.send(udp(GATEWAY_MAC, MAC, source, known))
    eventually(lambda: watch.neighbour.seen(ip_address(source).packed + ip_address(known).packed), "the known one")
    assert watch.on_wire(mark) == 0

    def bounced() -> bool:
        """Without the fence the server's own stack sends it back."""
        s12.node.run(["tc", "filter", "delete", "dev", "bond0", "ingress"])
        tor.send(udp(GATEWAY_MAC, MAC, source, unknown))
        return watch.on_wire(mark) > 0

    eventually(bounced, "the control")
    eventually(lambda: "10.101.1.0/24" in fences(s12), "the fence is back", 60)
    eventually(lambda: s12.healthy(shared[0]) and s12.healthy(shared[1]), "all is back", 60)


def fences(s12: KernelServer) -> str:
    return s12.node.run(["tc", "filter", "show", "dev", "bond0", "ingress"]).stdout


# ---- the agent


def test_the_agent_looks_at_it_and_audits_it(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    for pod in shared:
        s12.check(pod)
    rows = {row["container"]: row for row in s12.look("attachments")}
    assert [rows[pod.id]["state"] for pod in shared] == ["ready", "ready"]
    routes = s12.look("routes")
    assert {(row["tor"], row["state"]) for row in routes} == {("r1a", "announced"), ("r1b", "announced")}
    assert s12.look("flows") == s12.look("offload") == []
    _, text = s12.agent._get("/metrics")
    found = {kind: float(count) for kind, count in re.findall(r'routed_findings\{kind="(.+)"\} (\S+)', text)}
    assert found
    assert not any(found.values())


def test_an_agent_that_is_killed_loses_nothing(s12: KernelServer, shared: tuple[Pod, Pod], outside: Place) -> None:
    """On the server and outwards: what a ToR knows of a server is the ToR's, and the agent's to remind it of."""
    one, two = (pod.place for pod in shared)
    flows = [*both_ways([(one, two), (one, s12.place)]), Flow(one, outside, 4), Flow(one, outside, 6)]
    assert ping(flows) == []
    with Probe(flows, rate_hz=20) as probe:
        s12.agent.kill()
        s12.start(s12.config)
        eventually(s12.at_rest, "s12 at rest", 60)
        assert [str(report) for report in probe.stop() if report.lost] == []


def test_a_pod_that_ends_leaves_nothing(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    [pod] = s12.add(1)
    s12.await_routes([*shared, pod])
    address = pod.address(4)
    assert address in s12.node.run(["ip", "route", "show", "proto", "82"]).stdout
    assert address in fences(s12)
    s12.detach(pod)
    assert s12.devices(pod.netns) == {"lo"}
    s12.remove_netns([pod.netns])
    for family in ("-4", "-6"):
        shown = s12.node.run(["ip", family, "route", "show", "proto", "82"]).stdout
        assert pod.port not in shown
        assert shared[0].port in shown
    for hook in ("ingress", "egress"):
        assert address not in s12.node.run(["tc", "filter", "show", "dev", "bond0", hook]).stdout
    assert s12.node.run(["tc", "filter", "show", "dev", pod.port, "ingress"]).stdout == ""
    s12.await_routes(shared)


def test_the_doctor_finds_nothing_wrong_and_asks_for_no_open_vswitch(s12: KernelServer) -> None:
    done = s12.node.run([ROUTED, "doctor", "--config", str(s12.config), "--server", "s12", "-o", "json"], check=False)
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert not {"ovs", "bridge", "controller"} & findings.keys()
    assert findings["driver ipvlan"]["level"] == "ok"
    assert [row for row in findings.values() if row["level"] == "error"] == []
