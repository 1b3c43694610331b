"""A server without Open vSwitch, whose pods share its bond as ipvlans: who reaches whom, and what they cannot send."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from containerlab.agents import ROUTED, Agent
from containerlab.init import IMAGES
from containerlab.lab import Lab
from containerlab.netns import socket_in
from containerlab.ping import ping
from containerlab.probe import Flow, Place, Probe, both_ways
from tests.fabric import eventually
from tests.forging import GATEWAY_MAC, forgeries
from tests.kernel.server import SHARED, SLOTS, KernelServer
from tests.servers import NO_STEERING, Pod, Sniffer, failure
from tests.system.frames import udp

pytestmark = [pytest.mark.kernel(machine="other-uplinks"), pytest.mark.timeout(240)]

SERVICES = {4: "10.96.0.10", 6: "fd00:96::a"}
KUBE_PROXY = """
{ipt} -t nat -A PREROUTING -d {service} -p udp --dport 53 -j DNAT --to-destination {target}
{ipt} -t nat -A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE
"""
"""What kube-proxy makes of a Service with one pod, and of `masqueradeAll`."""
MAC = "02:10:00:00:01:0c"


@dataclass
class Watch:
    """What leaves the server, and what its pods get."""

    pod: Pod
    tors: list[Sniffer]
    neighbour: Sniffer
    host: list[Sniffer]

    @property
    def receivers(self) -> list[Sniffer]:
        return [*self.tors, self.neighbour, *self.host]

    def where(self, mark: bytes) -> list[str]:
        return [place.name for place in self.receivers if place.seen(mark)]

    def send(self, frame: bytes, claim: int | None = None) -> None:
        """Send a frame out of the pod; `claim` is what the sender says that it is, instead of what it says itself."""
        with socket_in(self.pod.place.netns, socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:
            send(packet, frame, claim=claim)

    def on_wire(self, mark: bytes) -> int:
        return sum(tor.seen(mark) for tor in self.tors)


def send(packet: socket.socket, frame: bytes, interface: str = "eth0", claim: int | None = None) -> None:
    with contextlib.suppress(OSError):  # it is told that its packet was dropped
        packet.sendto(frame, (interface, int.from_bytes(frame[12:14], "big") if claim is None else claim))


def taken_in(s12: KernelServer, device: str) -> list[Sniffer]:
    """Return what sees all that the server's own stack is given from a device."""
    return [Sniffer(f"the server by {device}", s12.node.netns_path, device, kind) for kind in (0x0800, 0x0806, 0x86DD)]


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
            host=[stack.enter_context(each) for each in taken_in(s12, one.port)],
        )


# ---- who reaches whom


def test_there_is_no_open_vswitch(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    assert not s12.node.path("/run/openvswitch").exists()
    assert shared[0].mac == shared[1].mac == MAC
    assert s12.devices(shared[0].netns) == {"lo", "eth0"}


def test_a_wire_has_ipv6_and_no_address_of_its_own(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    for pod in shared:
        assert s12.node.run(["cat", f"/proc/sys/net/ipv6/conf/{pod.port}/disable_ipv6"]).stdout == "0\n"
        assert s12.node.run(["ip", "-6", "address", "show", "dev", pod.port]).stdout == ""


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


UNDOING = """
tc qdisc delete dev eth0 clsact
ip link set eth0 address 02:11:22:33:44:55
ip link set eth0 type ipvlan mode l3s
ip link set eth0 type ipvlan mode l2 private
ip link set eth0 type ipvlan mode l2 bridge
ip link add name second link eth0 type ipvlan mode l2 bridge
ip link set second up
ip address add {other}/32 dev second
"""
"""What a pod could try that has NET_ADMIN; some of it is refused."""
RENAMING = "until ip link set eth0 down && ip link set eth0 name mine; do :; done"  # the agent may be faster in between


def test_a_pod_with_net_admin_can_undo_nothing(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    """What holds it is on the server: of what it does to its own interface, nobody else notices anything."""
    pod, neighbour = shared
    [third] = s12.add(1)
    s12.inside(third, "sh", "-c", UNDOING.format(other=neighbour.address(4)))
    assert "mode l2 bridge" in s12.inside(third, "ip", "-d", "link", "show", "second")
    assert ping(both_ways([(pod.place, neighbour.place), (pod.place, s12.place)])) == []
    forged = forgeries(third, neighbour)
    del forged["a neighbour's MAC address"]
    marks = {what: f"<undone {index:03}>".encode() for index, what in enumerate(forged)}
    right = b"<still right>"
    with (
        contextlib.ExitStack() as stack,
        socket_in(third.place.netns, socket.AF_PACKET, socket.SOCK_RAW, 0) as packet,
    ):
        watch.host += [stack.enter_context(one) for one in taken_in(s12, third.port)]
        for what, frame in forged.items():
            for each in (frame, frame[6:12] + frame[6:]):  # what is for its own MAC address goes no way of its own
                for interface in ("eth0", "second"):
                    for claim in (None, 0x0003, 0x0800, 0x86DD):
                        send(packet, each + marks[what], interface, claim)

        def arrived() -> bool:
            send(packet, udp(MAC, GATEWAY_MAC, third.address(4), neighbour.address(4)) + right)
            return bool(watch.neighbour.seen(right))

        eventually(arrived, "right packets")
        assert not {what: places for what, mark in marks.items() if (places := watch.where(mark))}
    s12.inside(third, "sh", "-c", RENAMING)
    s12.detach(third)
    assert s12.devices(third.netns) == {"lo"}
    s12.remove_netns([third.netns])


OUTPUT = "{ipt} -t nat {do} OUTPUT -d {service} -p udp -j DNAT --to-destination {target}"
"""What kube-proxy makes of a Service, too: for what the server itself sends to it."""


def misrouted(neighbour: Pod, s12: KernelServer) -> dict[int, tuple[str, str]]:
    """Return senders that the pod is not, and whom it could send to, by the ports that tell each."""
    beyond = {4: "10.102.0.77", 6: "fd00:102::77"}
    foreign = {4: ("10.101.1.250", "10.1.0.11"), 6: ("fd00:101::2:beef", "fd00:1::11")}
    ways = [
        (source, target)
        for version in (4, 6)
        for source in (neighbour.address(version), *foreign[version])
        for target in (beyond[version], neighbour.address(version), str(s12.place.address(version)), SERVICES[version])
        if source != target
    ]
    return dict(enumerate(ways, _FORGED))


_RIGHT, _HOME, _FORGED = 0x2300, 0x2301, 0x2400


def ports(number: int) -> bytes:
    """Return the head of such a datagram, as no other frame has it."""
    return struct.pack("!HHHH", number, number, 8, 0)


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_a_pod_that_has_its_packets_routed_below_it_sends_as_itself_alone(
    watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod], mode: str
) -> None:
    """In these modes the driver hands what a pod sends to the stack of the namespace that its parent is in."""
    neighbour = shared[1]
    [third] = s12.add(1)
    rules = [
        {"ipt": ipt, "service": SERVICES[version], "target": neighbour.address(version)}
        for version, ipt in ((4, "iptables-legacy"), (6, "ip6tables-legacy"))
    ]
    with contextlib.ExitStack() as stack:
        for rule in rules:
            s12.node.run(["/bin/sh", "-c", OUTPUT.format(do="-A", **rule)])
            stack.callback(s12.node.run, ["/bin/sh", "-c", OUTPUT.format(do="-D", **rule)])
        packet, *heard = (
            stack.enter_context(socket_in(netns, family, socket.SOCK_RAW, protocol))
            for netns, family, protocol in (
                (third.place.netns, socket.AF_PACKET, 0),
                (s12.node.netns_path, socket.AF_INET, socket.IPPROTO_UDP),
                (s12.node.netns_path, socket.AF_INET6, socket.IPPROTO_UDP),
            )
        )
        frames = misrouted(neighbour, s12)
        told: list[bytes] = []
        forged = forgeries(third, neighbour)
        marks = {what: f"<routed {mode} {index:03}>".encode() for index, what in enumerate(forged)}
        s12.inside(third, "ip", "link", "set", "eth0", "type", "ipvlan", "mode", mode)
        for port, way in frames.items():
            send(packet, udp(MAC, GATEWAY_MAC, *way, port))
        for what, frame in forged.items():
            send(packet, frame + marks[what])
        s12.inside(third, "ip", "link", "set", "eth0", "type", "ipvlan", "mode", "l2", "vepa")
        right = [
            udp(MAC, GATEWAY_MAC, third.address(version), neighbour.address(version), _RIGHT) for version in (4, 6)
        ]
        home = udp(MAC, GATEWAY_MAC, third.address(4), str(s12.place.address(4)), _HOME)

        def arrived() -> bool:
            for frame in (*right, home):
                send(packet, frame)
            told.extend(part for one in heard for part in received(one))
            return watch.neighbour.seen(ports(_RIGHT)) > 2 and any(ports(_HOME) in one for one in told)

        eventually(arrived, "right packets")
        assert not {
            (str(source), str(target)): [*watch.where(ports(port)), sum(ports(port) in one for one in told)]
            for port, (source, target) in frames.items()
            if watch.where(ports(port)) or any(ports(port) in one for one in told)
        }
        del forged["a neighbour's MAC address"]
        assert not {what: places for what in forged if (places := watch.where(marks[what]))}
    s12.delete([third])


def received(one: socket.socket) -> Iterator[bytes]:
    """Yield what a socket has got by now."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield one.recv(2048, socket.MSG_DONTWAIT)


def test_a_slot_whose_last_pod_went_unseen_serves_the_next_one_alone(
    watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]
) -> None:
    """The namespace has lost its path, and somebody in it sends on."""
    [gone] = s12.add(1)
    other, to = gone.address(4), shared[1].address(4)
    with socket_in(gone.place.netns, socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:  # keeps the namespace
        s12.remove_netns([gone.netns])
        s12.detach(gone)
        [heir] = s12.add(1)
        assert heir.port == gone.port
        with contextlib.suppress(OSError):  # its interface has gone
            packet.sendto(udp(MAC, GATEWAY_MAC, heir.address(4), to, _FORGED), ("eth0", 0x0800))

        def arrived() -> bool:
            with socket_in(heir.place.netns, socket.AF_PACKET, socket.SOCK_RAW, 0) as right:
                send(right, udp(MAC, GATEWAY_MAC, heir.address(4), to, _RIGHT))
            return watch.neighbour.seen(ports(_RIGHT)) > 0

        eventually(arrived, f"what {other}'s heir sends")
        assert not watch.where(ports(_FORGED))
    s12.delete([heir])


def test_a_pod_that_renames_its_interface_gets_one_again(s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    pod = shared[0]
    s12.inside(pod, "sh", "-c", RENAMING)
    eventually(lambda: s12.healthy(pod), "its interface", 60)
    assert s12.devices(pod.netns) == {"lo", "eth0"}


def test_what_is_for_a_pod_that_has_died_does_not_go_in_circles(lab: Lab, s12: KernelServer) -> None:
    """Until its DEL, the server's stack has a way to it, and so has what comes in from a ToR."""
    [pod] = s12.add(1)
    inner, address = pod.port.replace("rt", "rp"), pod.address(4)
    with (
        Sniffer("r1a", str(lab.node("r1a").netns_path), "s12") as tor,
        Sniffer("the wire", f"/proc/{s12.node.pid}/root{SLOTS}", inner) as wire,
    ):
        s12.inside(pod, "ip", "link", "delete", "eth0")
        for port in (_RIGHT, _HOME):
            tor.send(udp(GATEWAY_MAC, MAC, "10.102.0.77", address, port))
        eventually(lambda: wire.seen(ports(_HOME)), "both packets")
        assert wire.seen(ports(_RIGHT)) == 1
    s12.delete([pod])


def test_a_second_interface_of_a_pod_is_refused_and_the_first_one_stays(
    s12: KernelServer, shared: tuple[Pod, Pod]
) -> None:
    pod = shared[0]
    error = failure(s12.plugin.add, pod.id, pod.netns, "net1")
    assert error.code == 4
    assert "the pod has eth0 of this network" in error.msg
    s12.plugin.delete(pod.id, pod.netns, "net1")
    assert s12.devices(pod.netns) == {"lo", "eth0"}
    s12.check(pod)


def test_what_a_door_misses_the_uplink_holds(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    """The control of all above: without its door a pod sends as its neighbour, by way of the server's stack."""
    pod, neighbour = shared
    own, other = pod.address(4), neighbour.address(4)
    sources = {4: ("10.101.1.250", "10.101.0.5", other), 6: ("fd00:101::2:beef",)}
    beyond = {4: "10.102.0.77", 6: "fd00:102::77"}
    frames = {
        source: (udp(MAC, GATEWAY_MAC, source, to), ip_address(source).packed + ip_address(to).packed)
        for version, to in beyond.items()
        for source in sources[version]
    }

    def passes() -> bool:  # unless the agent has put the filters back meanwhile
        s12.node.run(["tc", "qdisc", "delete", "dev", pod.port, "clsact"], check=False)
        for frame, _ in frames.values():
            watch.send(frame)
        return watch.on_wire(frames[other][1]) > 0

    eventually(passes, "a neighbour's packet")
    assert [source for source, (_, mark) in frames.items() if watch.on_wire(mark)] == [other]
    eventually(lambda: s12.healthy(pod), "its filters are back", 60)
    watch.send(frames[other][0] + b"<again>")
    watch.send(udp(MAC, GATEWAY_MAC, own, beyond[4]) + b"<right>")
    eventually(lambda: watch.on_wire(b"<right>") == 1, "what is right")
    assert not watch.where(b"<again>")


def test_a_pod_speaks_to_its_server_as_itself_alone(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    pod, neighbour = shared
    own, other, me = pod.address(4), neighbour.address(4), str(s12.place.address(4))
    with socket_in(s12.node.netns_path, socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((me, 9))
        server.settimeout(10)
        watch.send(udp(MAC, GATEWAY_MAC, other, me))
        watch.send(udp(MAC, GATEWAY_MAC, own, me))
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
    eventually(lambda: ping(flows) == [], "its traffic")
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
    assert s12.node.run(["ip", "neighbour", "show", "dev", pod.port]).stdout == ""
    for hook in ("ingress", "egress"):
        left = s12.node.run(["tc", "filter", "show", "dev", pod.port, hook]).stdout
        assert re.findall("action order.*: (.*)", left) == ["gact action drop"]
    s12.await_routes(shared)


def test_the_doctor_finds_nothing_wrong_and_asks_for_no_open_vswitch(s12: KernelServer) -> None:
    done = s12.node.run([ROUTED, "doctor", "--config", str(s12.config), "--server", "s12", "-o", "json"], check=False)
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert not {"ovs", "bridge", "controller"} & findings.keys()
    assert findings["driver ipvlan"]["level"] == "ok"
    assert [row for row in findings.values() if row["level"] == "error"] == []


# ---- other uplinks; last, for they change the server


MOVE = """
. {images}/node.sh
{commands}
host_on {device}
"""
TAG = """
ip address flush dev bond0
ip link add link bond0 name bond0.108 type vlan id 108
"""
SINGLE = """
ip link delete bond0
ip link set etha down
ip link set etha address $MAC
echo 0 >/proc/sys/net/ipv6/conf/etha/disable_ipv6
"""
PORT = """
ip link set s12 nomaster
ip link set s12 master gw
bridge vlan add dev s12 vid 108 pvid untagged
ip link set s12 up
"""
"""What makes a ToR's end of a bond a port of its own."""
ADDRESSES = {"MAC": MAC, "ADDRESSES": "10.1.0.12/24 fd00:1::12/128", "GATEWAYS": "10.1.0.1 fd00:1::1"}


def move(s12: KernelServer, device: str, commands: str, changes: dict[str, str]) -> None:
    """Make another device the server's uplink while its pods run, and its agent know of that."""
    s12.agent.stop()
    s12.node.run(["bash", "-ec", MOVE.format(images=IMAGES, commands=commands, device=device)], env=ADDRESSES)
    config = s12.copy_of_rack_file(
        {old: new.replace("uplink: bond0", f"uplink: {device}") for old, new in changes.items()}
    )
    s12.agent = Agent.start(s12.node, env={"ROUTED_CONFIG": str(config)})
    s12.agent.wait_ready()


def assert_held(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    """Assert that pods of this server reach each other here, and that none sends as another."""
    one, two = shared
    watch.send(udp(MAC, GATEWAY_MAC, one.address(4), two.address(4)) + b"<within>")
    watch.send(udp(MAC, GATEWAY_MAC, two.address(4), "10.102.0.77") + b"<forged>")
    watch.send(udp(MAC, GATEWAY_MAC, one.address(4), "10.102.0.77") + b"<right>")
    eventually(lambda: watch.on_wire(b"<right>") == 1, "what is right")
    eventually(lambda: watch.neighbour.seen(b"<within>") == 1, "what is for the other pod")
    assert not watch.on_wire(b"<within>")
    assert not watch.where(b"<forged>")
    for pod in shared:
        s12.check(pod)


@pytest.fixture
def vlan_device(s12: KernelServer) -> None:
    for tor in s12.tors:
        s12.lab.node(tor).run(["bridge", "vlan", "add", "dev", "lag-s12", "vid", "108"])
    move(s12, "bond0.108", TAG, SHARED | {"vlan: null": "vlan: 108"})
    eventually(s12.at_rest, "s12 at rest", 60)


@pytest.fixture
def single_nic(s12: KernelServer) -> None:
    """To one ToR, of which there is but one for this server."""
    s12.lab.node("r1a").run(["sh", "-ec", PORT])
    changes = SHARED | NO_STEERING | {"  - {name: r1b, asn: 65012, address: 10.255.1.2}\n": "", "[etha, ethb]": "[]"}
    move(s12, "etha", SINGLE, changes)
    eventually(lambda: [row["state"] for row in s12.look("neighbors")] == ["established"], "its session", 60)


@pytest.mark.usefixtures("vlan_device")
def test_a_vlan_device_as_uplink(
    watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod], pods: tuple[Pod, Pod], outside: Place
) -> None:
    one, two = (pod.place for pod in shared)
    flows = both_ways([(one, other) for other in (two, pods[0].place, s12.place, outside)])
    eventually(lambda: not ping(flows), "no silence between any two")
    assert_held(watch, s12, shared)


@pytest.mark.usefixtures("single_nic")
def test_a_single_nic_as_uplink(watch: Watch, s12: KernelServer, shared: tuple[Pod, Pod]) -> None:
    eventually(lambda: all(s12.healthy(pod) for pod in shared), "its pods", 60)
    tor = Place("r1a", s12.lab.node("r1a").netns_path, (ip_address("10.255.1.1"),))
    one, two = (pod.place for pod in shared)
    flows = [*both_ways([(one, two), (one, s12.place)]), Flow(one, tor, 4), Flow(tor, one, 4)]
    eventually(lambda: not ping(flows), "no silence between any two")
    assert_held(watch, s12, shared)
