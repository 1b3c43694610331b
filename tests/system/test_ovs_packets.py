"""Real packets through real ports of a real switch that carries our pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from ovs_flows import meters
from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.model import Flow, flows_of
from ovs_flows.openflow import Flows
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.pipeline import BridgeView, Endpoint, base, endpoint
from tests.golden.pipelines import DUAL
from tests.system.frames import arp, destination, is_from, is_to, udp
from tests.system.ovs_instance import Ovs, Wire, network_namespace, packet_socket, run, until

pytestmark = pytest.mark.system
HOST_MAC, GATEWAY_MAC, POD_GATEWAY_MAC = DUAL.host_mac, "02:00:00:00:01:01", "0e:00:00:00:00:01"
HOST4, HOST6, OUTSIDE4, OUTSIDE6 = "10.1.0.11", "fd00:1::11", "10.102.0.7", "fd00:102::7"
A4, B4, A6, B6, UNKNOWN4, UNKNOWN6 = (
    "10.101.0.11",
    "10.101.0.12",
    "fd00:101::b",
    "fd00:101::c",
    "10.101.0.99",
    "fd00:101::99",
)
TWO = replace(DUAL, uplinks=(1, 2))
BASE = cookie(BASE_OBJECT)
FRAMES = 200


def pod(number: int) -> Endpoint:
    return Endpoint(
        ofport=1000 + number,
        mac=f"0a:58:0a:65:00:{number:02x}",
        addresses=(ip_address(f"10.101.0.{number}"), ip_address(f"fd00:101::{number:x}")),
        gateways=(ip_address("10.101.0.1"), ip_address("fd00:101::1")),
    )


A, B = pod(11), pod(12)


@contextlib.asynccontextmanager
async def plane(ovs: Ovs) -> AsyncIterator[Flows]:
    connected = asyncio.Event()
    flows = Flows(ovs.management("br0"), connected.set)
    task = asyncio.create_task(flows.run())
    try:
        async with asyncio.timeout(10):
            await connected.wait()
        yield flows
    finally:
        task.cancel()
        await asyncio.wait([task])


async def program(ovs: Ovs, view: BridgeView, without: frozenset[Flow] = frozenset()) -> None:
    wanted = {BASE: base(view) - without, cookie(1): endpoint(A), cookie(2): endpoint(B)}
    async with plane(ovs) as flows:
        assert await flows.upsert(wanted) == {}


@dataclass
class Scene:
    """Two ToRs and two pods on br0, the host on its LOCAL port."""

    ovs: Ovs
    tor1: Wire
    tor2: Wire
    a: Wire
    b: Wire


@pytest.fixture
def scene(ovs: Ovs) -> Iterator[Scene]:
    ovs.add_bridge("br0", "fail_mode=secure", f'other_config:hwaddr="{HOST_MAC}"')
    wires = []
    for port, number in (("up0", 1), ("up1", 2), ("rta", A.ofport), ("rtb", B.ofport)):
        wires.append(Wire(packet_socket(ovs.netns, ovs.add_veth("br0", port, number))))
    for command in (
        ("addr", "add", f"{HOST4}/24", "dev", "br0"),
        ("addr", "add", f"{HOST6}/64", "dev", "br0", "nodad"),
        ("link", "set", "br0", "up"),
        ("route", "add", "default", "via", "10.1.0.1"),
        ("route", "add", "default", "via", "fd00:1::1"),
    ):
        run("ip", "-n", ovs.netns, *command)
    yield Scene(ovs, *wires)
    for wire in wires:
        wire.socket.close()


def none_of(wires: list[Wire], unwanted: str) -> bool:
    """Whether no frame to this address has come; called when a later frame is known to have passed."""
    return all(wire.hear(lambda frame: destination(frame) == unwanted, seconds=0.05) is None for wire in wires)


@pytest.mark.parametrize(("source", "target", "outside"), [(A4, B4, OUTSIDE4), (A6, B6, OUTSIDE6)], ids=["v4", "v6"])
async def test_pods_reach_each_other_and_the_world(scene: Scene, source: str, target: str, outside: str) -> None:
    await program(scene.ovs, DUAL)
    scene.a.send(udp(A.mac, POD_GATEWAY_MAC, source, target))
    assert scene.b.hear(lambda frame: is_to(frame, B.mac) and destination(frame) == target)
    scene.a.send(udp(A.mac, POD_GATEWAY_MAC, source, outside))
    assert scene.tor1.hear(lambda frame: is_from(frame, HOST_MAC) and is_to(frame, GATEWAY_MAC))
    scene.tor1.send(udp(GATEWAY_MAC, HOST_MAC, outside, source))
    assert scene.a.hear(lambda frame: is_to(frame, A.mac) and destination(frame) == source)


async def test_spoofed_packets_do_not_leave(scene: Scene) -> None:
    await program(scene.ovs, DUAL)
    for source, sender in ((B4, A.mac), (HOST4, A.mac), (A4, B.mac), (B6, A.mac), ("192.0.2.1", A.mac)):
        scene.a.send(udp(sender, POD_GATEWAY_MAC, source, OUTSIDE6 if ":" in source else OUTSIDE4))
    scene.a.send(arp(1, A.mac, "10.101.0.1", "10.101.0.1"))
    scene.a.send(udp(A.mac, POD_GATEWAY_MAC, A4, "10.102.0.8"))
    first = scene.tor1.hear(
        lambda frame: is_from(frame, HOST_MAC) and destination(frame).startswith(("10.102", "fd00:102"))
    )
    assert first is not None
    assert destination(first) == "10.102.0.8"


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "negative-control"])
@pytest.mark.parametrize("way", ["to_pod", "from_pod"])
async def test_a_policed_pods_burst_does_not_pass(scene: Scene, way: str, limited: bool) -> None:
    """B sends A twice what may pass at once, at a rate that lets little follow; either is limited."""
    policer = meters.to_pod(1, 64_000) if way == "to_pod" else meters.from_pod(2, 64_000)
    a, b = (replace(A, to_pod=policer), B) if way == "to_pod" else (A, replace(B, from_pod=policer))
    wanted = {BASE: base(DUAL), cookie(1): endpoint(a if limited else A), cookie(2): endpoint(b if limited else B)}
    async with plane(scene.ovs) as flows:
        assert await flows.upsert(wanted) == {}
    frame = udp(B.mac, POD_GATEWAY_MAC, B4, A4) + bytes(2 * policer.burst_kbit * 125 // FRAMES)
    heard = 0
    for _ in range(FRAMES):
        scene.b.send(frame)
        heard += scene.a.hear(lambda frame: destination(frame) == A4, seconds=0.01 if limited else 5.0) is not None
    stats = scene.ovs.ofctl("meter-stats", "br0")
    dropped = sum(int(count) for count in re.findall(r"bands:\s*\d+: packet_count:(\d+)", stats))
    assert FRAMES // 4 < dropped < FRAMES * 3 // 5 if limited else dropped == 0
    assert 0 < heard <= FRAMES - dropped
    assert limited or heard == FRAMES


@pytest.mark.parametrize("guarded", [True, False], ids=["dropped", "negative-control"])
@pytest.mark.parametrize(("unknown", "known"), [(UNKNOWN4, A4), (UNKNOWN6, A6)], ids=["v4", "v6"])
async def test_unknown_pool_address_is_never_bounced(scene: Scene, unknown: str, known: str, guarded: bool) -> None:
    """Without the one flow that drops it, what one ToR sends comes out to the other."""
    guard = frozenset(flow for flow in flows_of(base(TWO)) if (flow.table, flow.priority) == (40, 100))
    await program(scene.ovs, TWO, frozenset() if guarded else guard)
    family = OUTSIDE6 if ":" in unknown else OUTSIDE4
    sources = [str(ip_address(family) + n) for n in range(32)]
    for source in sources:
        scene.tor1.send(udp(GATEWAY_MAC, HOST_MAC, source, unknown))
    scene.tor1.send(udp(GATEWAY_MAC, HOST_MAC, sources[0], known))
    assert scene.a.hear(lambda frame: destination(frame) == known)
    assert none_of([scene.tor1, scene.tor2, scene.b], unknown) == guarded


async def test_hosts_neighbour_messages_leave_by_both_members(scene: Scene) -> None:
    await program(scene.ovs, TWO)
    for address, kind in (("10.1.0.1", b"\x08\x06"), ("fd00:1::1", b"\x86\xdd")):
        with pytest.raises(RuntimeError, match="100% packet loss"):  # nobody answers; the question is what counts
            run("ip", "netns", "exec", scene.ovs.netns, "ping", "-c1", "-W1", address)
        for tor in (scene.tor1, scene.tor2):
            assert tor.hear(lambda frame, kind=kind: is_from(frame, HOST_MAC) and frame[12:14] == kind)


async def test_host_pings_a_pod_and_the_gateway_and_is_pinged(scene: Scene) -> None:
    """Real stacks at both ends: the pods' ends of the wires move into namespaces of their own."""
    await program(scene.ovs, DUAL)
    names = [f"{scene.ovs.netns}-{suffix}" for suffix in ("a", "b", "gw")]
    with contextlib.ExitStack() as spaces:
        for name in names:
            spaces.enter_context(network_namespace(name))
        for name, device, one in ((names[0], "rtap", A), (names[1], "rtbp", B)):
            settle(scene.ovs, name, device, one)
        gateway(scene.ovs, names[2], "up0p")
        pairs = [(names[0], B4), (names[0], B6), (names[0], HOST4), (names[0], HOST6), (scene.ovs.netns, A4)]
        pairs += [(scene.ovs.netns, A6), (scene.ovs.netns, "10.1.0.1"), (scene.ovs.netns, "fd00:1::1")]
        pairs += [(names[2], HOST4), (names[2], HOST6), (names[2], A4), (names[2], A6), (names[0], "10.101.0.1")]
        for source, target in pairs:
            run("ip", "netns", "exec", source, "ping", "-c2", "-i0.2", "-W2", target)


def settle(ovs: Ovs, netns: str, device: str, one: Endpoint) -> None:
    """Make a namespace a pod: /32 and /128, on-link gateway with a permanent neighbour."""
    run("ip", "-n", ovs.netns, "link", "set", device, "netns", netns, "name", "eth0")
    run("ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
    inside = ("ip", "-n", netns)
    run(*inside, "link", "set", "eth0", "address", one.mac, "arp", "on", "up")
    for address, via in zip(one.addresses, one.gateways, strict=True):
        length = address.max_prefixlen
        run(*inside, "addr", "add", f"{address}/{length}", "dev", "eth0", *(["nodad"] if length == 128 else []))
        run(*inside, "route", "add", f"{via}/{length}", "dev", "eth0")
        run(*inside, "neigh", "add", str(via), "lladdr", POD_GATEWAY_MAC, "dev", "eth0", "nud", "permanent")
        run(*inside, "route", "add", "default", "via", str(via), "dev", "eth0")


def gateway(ovs: Ovs, netns: str, device: str) -> None:
    """Make a namespace a ToR: both gateways, pods' routes with the host as next hop."""
    run("ip", "-n", ovs.netns, "link", "set", device, "netns", netns, "name", "eth0")
    run("ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
    inside = ("ip", "-n", netns)
    run(*inside, "link", "set", "eth0", "address", GATEWAY_MAC, "arp", "on", "up")
    for address in ("10.1.0.1/24", "10.101.0.1/32"):
        run(*inside, "addr", "add", address, "dev", "eth0")
    for address in ("fd00:1::1/64", "fd00:101::1/128"):
        run(*inside, "addr", "add", address, "dev", "eth0", "nodad")
    run(*inside, "route", "add", "10.101.0.0/24", "via", HOST4)
    run(*inside, "route", "add", "fd00:101::/64", "via", HOST6)


@pytest.mark.parametrize("careful", [True, False], ids=["one-bundle", "negative-control"])
async def test_change_of_the_pipeline_loses_no_packet(scene: Scene, careful: bool) -> None:
    """The careless way takes the old pipeline away before it brings the new one."""
    await program(scene.ovs, DUAL)
    sent, done = 0, asyncio.Event()

    async def keep_sending() -> None:
        nonlocal sent
        while not done.is_set():
            scene.a.send(udp(A.mac, POD_GATEWAY_MAC, A4, B4))
            sent += 1
            await asyncio.sleep(0.001)  # a steady stream, not a wait

    async with plane(scene.ovs) as flows, asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_sending())
        for view in (TWO, replace(TWO, vlan=108), replace(DUAL, gateway_mac=None), DUAL) * 10:
            if not careful:
                await flows.remove([BASE])
                scene.a.send(udp(A.mac, POD_GATEWAY_MAC, A4, B4))
                sent += 1
                await flows.observe()
            assert await flows.upsert({BASE: base(view)}) == {}
        done.set()

    def arrived() -> int:
        text = scene.ovs.ofctl("dump-aggregate", "br0", f"table=40,ip,nw_dst={B4}")
        return int(text.partition("packet_count=")[2].split()[0])

    if careful:
        until(lambda: arrived() == sent, "all packets arrive")
    else:
        scene.ovs.appctl("revalidator/wait")
        assert arrived() < sent


# --- a bond across two switches that do not know each other ----------------------------------------------------------


@contextlib.asynccontextmanager
async def uplink_of(ovs: Ovs, port: str) -> AsyncIterator[Ovsdb]:
    connected = asyncio.Event()
    ovsdb = Ovsdb(ovs.database, "br0", port, connected.set)
    task = asyncio.create_task(ovsdb.run())
    try:
        async with asyncio.timeout(10):
            await connected.wait()
        yield ovsdb
    finally:
        task.cancel()
        await asyncio.wait([task])


def heard(ovs: Ovs, tor: str) -> int:
    """Return the number of IP packets that a ToR has seen."""
    text = ovs.ofctl("dump-aggregate", tor, "ip")
    return int(text.partition("packet_count=")[2].split()[0])


async def test_traffic_leaves_by_the_members_that_are_in_the_aggregate(ovs: Ovs) -> None:
    """Each ToR is a switch of its own that speaks LACP with the common system identifier: a stackless pair."""
    ovs.add_bridge("br0", "fail_mode=secure", f'other_config:hwaddr="{HOST_MAC}"')
    ovs.make_veth("m0")
    ovs.make_veth("m1")
    ovs.vsctl("add-bond", "br0", "bond0", "m0", "m1", "lacp=active", "other_config:lacp-time=fast")
    lacp = ("lacp=active", "other_config:lacp-time=fast", 'other_config:lacp-system-id="02:00:00:00:0f:0f"')
    for number, (tor, device) in enumerate((("tor1", "m0p"), ("tor2", "m1p"))):
        ovs.add_bridge(tor, "fail_mode=secure")
        ovs.vsctl("add-port", tor, device, "--", "set", "port", device, *lacp)
        ports = (f"other_config:lacp-port-id={number + 1}", "other_config:lacp-aggregation-key=7")
        ovs.vsctl("set", "interface", device, *ports)
        ovs.ofctl("add-flow", tor, "ip,actions=drop")
    rta = Wire(packet_socket(ovs.netns, ovs.add_veth("br0", "rta", A.ofport)))
    async with uplink_of(ovs, "bond0") as ovsdb:
        uplink = await ovsdb.uplink()
    assert sorted(uplink.devices) == ["m0", "m1"]
    await program(ovs, replace(DUAL, uplinks=uplink.ofports))

    def members() -> int:
        return ovs.appctl("bond/show", "bond0").count(": enabled")

    def send_many() -> tuple[int, int]:
        """Return how many of 64 packets to as many addresses came to each ToR."""
        before = heard(ovs, "tor1"), heard(ovs, "tor2")
        for n in range(64):
            rta.send(udp(A.mac, POD_GATEWAY_MAC, A4, str(ip_address(OUTSIDE4) + n)))
        until(lambda: heard(ovs, "tor1") + heard(ovs, "tor2") == sum(before) + 64, "all packets leave")
        return heard(ovs, "tor1") - before[0], heard(ovs, "tor2") - before[1]

    until(lambda: members() == 2, "both members in the aggregate", 30)
    one, other = send_many()
    assert one > 0
    assert other > 0
    ovs.vsctl("set", "port", "m0p", "lacp=off")  # the link stays up, only LACP says no
    until(lambda: members() == 1, "the silent ToR leaves the aggregate", 30)
    assert send_many() == (0, 64)
    rta.socket.close()
