"""A switch with NORMAL flows and pods of a flat network is taken over: real packets before, while and after."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.model import Port
from ovs_flows.openflow import Flows
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.pipeline import BridgeView, base, endpoint
from tests.golden.pipelines import DUAL, FLAT, POD
from tests.system.frames import arp, destination, is_from, is_to, udp
from tests.system.ovs_instance import Ovs, Wire, packet_socket, until

pytestmark = pytest.mark.system

HOST_MAC, GATEWAY_MAC, FLAT_GATEWAY_MAC = DUAL.host_mac, "02:00:00:00:01:01", "02:02:0a:bd:1a:01"
MAC, OTHER_MAC, ADDRESS, OTHER = "02:02:0a:bd:1a:ec", "02:02:0a:bd:1a:ed", "10.189.26.236", "10.189.26.237"
POD4, OUTSIDE = "10.101.0.11", "10.102.0.7"
VLAN, FLAT_VLAN = 108, 200
FIRST, SECOND = 7, 8
VIEW = replace(DUAL, vlan=VLAN, flat=replace(FLAT, access=(FIRST, SECOND), trunks=()))
WITHOUT = replace(VIEW, flat=None)
BASE = cookie(BASE_OBJECT)
SECURE = ("set-fail-mode", "br0", "secure")


@dataclass
class Scene:
    """A ToR, two pods of the flat network and one of ours, on a bridge as Contiv leaves it."""

    ovs: Ovs
    tor: Wire
    first: Wire
    second: Wire
    pod: Wire

    def prepare(self) -> None:
        """Do what docs/migration.md says before an agent starts."""
        self.ovs.vsctl(*SECURE)
        self.ovs.ofctl("add-flow", "br0", "priority=0,actions=NORMAL")


@pytest.fixture
def scene(ovs: Ovs) -> Iterator[Scene]:
    ovs.add_bridge("br0", f'other_config:hwaddr="{HOST_MAC}"')
    wires = [Wire(packet_socket(ovs.netns, ovs.add_veth("br0", "up0", 1)))]
    for port, number in (("vport1", FIRST), ("vport2", SECOND)):
        wires.append(Wire(packet_socket(ovs.netns, ovs.add_veth("br0", port, number))))
        ovs.vsctl("set", "port", port, f"tag={FLAT_VLAN}")
    ovs.make_veth("rt0")
    wires.append(Wire(packet_socket(ovs.netns, "rt0p")))
    yield Scene(ovs, *wires)
    for wire in wires:
        wire.socket.close()


@contextlib.asynccontextmanager
async def planes(ovs: Ovs) -> AsyncIterator[tuple[Ovsdb, Flows]]:
    """Connect to database and switch, and change nothing."""
    woken = asyncio.Event(), asyncio.Event()
    ovsdb = Ovsdb(ovs.database, "br0", "up0", woken[0].set)
    flows = Flows(ovs.management("br0"), woken[1].set)
    tasks = [asyncio.create_task(plane.run()) for plane in (ovsdb, flows)]
    try:
        async with asyncio.timeout(10):
            for one in woken:
                await one.wait()
        yield ovsdb, flows
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def take_over(ovsdb: Ovsdb, flows: Flows, view: BridgeView = VIEW) -> None:
    """Do what an agent does, in its order."""
    await ovsdb.configure()
    assert await ovsdb.ports.upsert({"rt0": Port("rt0", POD.ofport)}) == {}
    assert await flows.upsert({BASE: base(view), cookie(1): endpoint(POD)}) == {}


LAST = udp(GATEWAY_MAC, POD.mac, OUTSIDE, POD4)
"""What a routed pod hears at the end of all else."""
TAG = b"\x81\x00" + FLAT_VLAN.to_bytes(2, "big")


def tagged(frame: bytes, vlan: int = FLAT_VLAN) -> bytes:
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


def has_tag(frame: bytes, vlan: int) -> bool:
    return frame[12:16] == b"\x81\x00" + vlan.to_bytes(2, "big")


async def stream_while(scene: Scene, work: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """Let one flat pod send to the other a thousand times a second meanwhile; returns packets sent and arrived."""
    done = asyncio.Event()
    learn(scene)
    ports: list[int] = []

    async def keep_sending() -> None:
        while not done.is_set() or len(ports) < 100:
            ports.append(10_000 + len(ports))
            scene.first.send(udp(MAC, OTHER_MAC, ADDRESS, OTHER, ports[-1]))
            await asyncio.sleep(0.001)  # a steady stream, not a wait

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_sending())
        await work()
        done.set()
    arrived = 0
    while (frame := scene.second.hear(lambda one: destination(one) == OTHER, 0.5)) is not None:
        arrived += 1
        if int.from_bytes(frame[34:36], "big") == ports[-1]:
            break
    return len(ports), arrived


def learn(scene: Scene) -> None:
    """Let the switch see both flat pods."""
    for wire, target, frame in (
        (scene.first, scene.second, udp(MAC, OTHER_MAC, ADDRESS, OTHER, 1)),
        (scene.second, scene.first, udp(OTHER_MAC, MAC, OTHER, ADDRESS, 1)),
    ):
        wire.send(frame)
        assert target.hear(lambda one, frame=frame: one[:12] == frame[:12])


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "negative-control"])
async def test_taking_a_prepared_bridge_over_loses_no_packet_of_flat_pods(scene: Scene, prepared: bool) -> None:
    """Open vSwitch empties a bridge whose fail mode becomes secure, and the agent's flows come after its ports."""
    if prepared:
        scene.prepare()
    async with planes(scene.ovs) as (ovsdb, flows):
        sent, arrived = await stream_while(scene, lambda: take_over(ovsdb, flows))
        assert (arrived == sent) is prepared
        assert "NORMAL" not in "".join(scene.ovs.ofctl("dump-flows", "br0", "cookie=0/-1"))


async def test_a_prepared_bridge_switches_as_it_did(scene: Scene) -> None:
    """Preparing it is what costs packets: it is empty from one command to the next."""

    async def prepare() -> None:
        await asyncio.to_thread(scene.prepare)

    sent, arrived = await stream_while(scene, prepare)
    assert 0 < arrived <= sent
    learn(scene)


async def test_a_bridge_that_is_given_back_and_stays_secure_loses_no_packet_of_flat_pods(scene: Scene) -> None:
    """As docs/migration.md has it; a flow that is added at priority 0 would be met by nothing, behind ours."""
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
    back = scene.ovs.directory / "back"
    back.write_text("priority=0,actions=NORMAL\n", encoding="ascii")

    async def give_back() -> None:
        await asyncio.to_thread(scene.ovs.ofctl, "replace-flows", "br0", str(back), "--bundle")

    sent, arrived = await stream_while(scene, give_back)
    assert arrived == sent
    assert scene.ovs.ofctl("dump-flows", "br0").split("\n")[-2].strip() == "priority=0 actions=NORMAL"


async def test_flat_pods_are_switched_as_before_with_their_tag_on_the_uplink(scene: Scene) -> None:
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
    learn(scene)
    scene.first.send(arp(1, MAC, ADDRESS, OTHER))
    assert scene.second.hear(lambda frame: is_from(frame, MAC) and frame[12:14] == b"\x08\x06")
    scene.first.send(udp(MAC, FLAT_GATEWAY_MAC, ADDRESS, OUTSIDE))
    assert scene.tor.hear(lambda frame: is_to(frame, FLAT_GATEWAY_MAC) and has_tag(frame, FLAT_VLAN))
    scene.tor.send(tagged(udp(FLAT_GATEWAY_MAC, MAC, OUTSIDE, ADDRESS)))
    assert scene.first.hear(lambda frame: is_from(frame, FLAT_GATEWAY_MAC) and destination(frame) == ADDRESS)


async def test_flat_and_routed_pods_reach_each_other_by_the_gateway(scene: Scene) -> None:
    """The test plays the ToR: it takes a packet out of one VLAN and puts it into the other."""
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
    learn(scene)
    scene.first.send(udp(MAC, FLAT_GATEWAY_MAC, ADDRESS, POD4))
    assert scene.tor.hear(lambda frame: has_tag(frame, FLAT_VLAN) and is_to(frame, FLAT_GATEWAY_MAC))
    scene.tor.send(tagged(udp(GATEWAY_MAC, HOST_MAC, ADDRESS, POD4), VLAN))
    assert scene.pod.hear(lambda frame: is_to(frame, POD.mac) and destination(frame) == POD4)
    scene.pod.send(udp(POD.mac, GATEWAY_MAC, POD4, ADDRESS))
    assert scene.tor.hear(lambda frame: has_tag(frame, VLAN) and is_from(frame, HOST_MAC))
    scene.tor.send(tagged(udp(FLAT_GATEWAY_MAC, MAC, POD4, ADDRESS)))
    assert scene.first.hear(lambda frame: destination(frame) == ADDRESS and is_from(frame, FLAT_GATEWAY_MAC))


@pytest.mark.parametrize("nowhere", [True, False], ids=["our-ports-are-nowhere", "negative-control"])
async def test_no_broadcast_of_the_flat_network_reaches_a_routed_pod(scene: Scene, nowhere: bool) -> None:
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
        if not nowhere:
            scene.ovs.vsctl("clear", "port", "rt0", "tag")
        for target in (POD.mac, HOST_MAC, "ff:ff:ff:ff:ff:ff"):
            scene.first.send(udp(MAC, target, ADDRESS, POD4))
        scene.first.send(arp(1, MAC, ADDRESS, POD4))
        scene.tor.send(tagged(arp(1, FLAT_GATEWAY_MAC, "10.189.26.1", POD4)))
        scene.tor.send(tagged(udp(GATEWAY_MAC, HOST_MAC, OUTSIDE, POD4), VLAN))  # what it may hear, after all that
        heard = scene.pod.hear(lambda frame: not is_from(frame, POD.mac))
        assert heard is not None
        assert is_from(heard, GATEWAY_MAC) is nowhere


async def broadcast_while(scene: Scene, work: Awaitable[object]) -> bool:
    """Have the flat network broadcast from both sides meanwhile; tell whether the routed pod heard any of it."""
    done, sent = asyncio.Event(), 0

    async def keep_sending() -> None:
        nonlocal sent
        while not done.is_set() or sent < 100:
            sent += 1
            scene.tor.send(tagged(arp(1, FLAT_GATEWAY_MAC, "10.189.26.1", ADDRESS)))
            scene.first.send(arp(1, MAC, ADDRESS, OTHER))
            await asyncio.sleep(0.001)  # a steady stream, not a wait

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_sending())
        await work
        done.set()
    scene.ovs.ofctl("packet-out", "br0", f"in_port=CONTROLLER packet={LAST.hex()} actions=output:{POD.ofport}")
    heard = scene.pod.hear(lambda frame: frame == LAST or is_from(frame, MAC) or is_from(frame, FLAT_GATEWAY_MAC))
    assert heard is not None
    return heard != LAST


async def untag(scene: Scene) -> None:
    """Take our port out of its VLAN and wait for the switch, as an agent did that ended a migration."""
    await asyncio.to_thread(scene.ovs.vsctl, "clear", "port", "rt0", "tag")


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "negative-control"])
async def test_ending_a_migration_lets_no_broadcast_into_a_routed_pod(scene: Scene, kept: bool) -> None:
    """An agent without the setting has the bridge before it has its flows: those of the last one switch until then."""
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)

    async def restart() -> None:
        async with planes(scene.ovs) as (ovsdb, flows):
            await ovsdb.configure()
            if not kept:
                await untag(scene)
            learn(scene)  # by the last agent's flows still
            assert await flows.upsert({BASE: base(WITHOUT), cookie(1): endpoint(POD)}) == {}

    assert await broadcast_while(scene, restart()) is not kept


async def test_beginning_a_migration_lets_no_broadcast_into_a_routed_pod(scene: Scene) -> None:
    """Ports of an agent that gave them no VLAN have theirs, in the switch too, before anything is switched."""
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows, WITHOUT)
        await untag(scene)

    async with planes(scene.ovs) as (ovsdb, flows):
        switch = scene.ovs.processes["ovs-vswitchd"]
        switch.send_signal(signal.SIGSTOP)
        configuring = asyncio.create_task(ovsdb.configure())
        try:
            assert not (await asyncio.wait([configuring], timeout=0.5))[0]
        finally:
            switch.send_signal(signal.SIGCONT)
        await configuring
        assert not await broadcast_while(scene, take_over(ovsdb, flows))


@pytest.mark.parametrize("flow", ["actions=NORMAL", f"priority=200,in_port={POD.ofport},actions=NORMAL"])
async def test_the_first_bundle_takes_along_what_stands_before_ours(scene: Scene, flow: str) -> None:
    """``ovs-ofctl add-flow br0 actions=NORMAL`` has priority 32768: a pod's frames would be switched by it."""
    scene.ovs.vsctl(*SECURE)
    async with planes(scene.ovs) as (ovsdb, flows):
        await ovsdb.configure()
        assert await ovsdb.ports.upsert({"rt0": Port("rt0", POD.ofport)}) == {}
        scene.ovs.ofctl("add-flow", "br0", flow)
        scene.ovs.ofctl("add-flow", "br0", "table=77,actions=drop")
        assert await flows.upsert({cookie(1): endpoint(POD)}) == {}
        assert "NORMAL" in "".join(scene.ovs.ofctl("dump-flows", "br0", "table=0")), "a pod's bundle takes nothing"
        assert await flows.upsert({BASE: base(VIEW)}) == {}
        assert "NORMAL" not in "".join(scene.ovs.ofctl("dump-flows", "br0", "table=0"))
        assert "drop" in "".join(scene.ovs.ofctl("dump-flows", "br0", "table=77")), "nothing leads there: no haste"
    scene.pod.send(udp(POD.mac, FLAT_GATEWAY_MAC, "192.0.2.1", OUTSIDE))
    scene.pod.send(udp(POD.mac, GATEWAY_MAC, POD4, OUTSIDE))
    first = scene.tor.hear(lambda frame: is_from(frame, POD.mac) or is_from(frame, HOST_MAC))
    assert first is not None
    assert is_from(first, HOST_MAC)


async def test_flat_pods_cannot_send_as_somebody_of_the_routed_network(scene: Scene) -> None:
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
    for source in (POD4, "10.1.0.11", "10.101.0.1", OUTSIDE, "fd00:101::b"):
        scene.first.send(udp(MAC, FLAT_GATEWAY_MAC, source, "fd00:102::8" if ":" in source else "10.102.0.8"))
        if ":" not in source:
            scene.first.send(arp(1, MAC, source, "10.189.26.1"))
    scene.first.send(udp(HOST_MAC, FLAT_GATEWAY_MAC, ADDRESS, "10.102.0.8"))
    scene.first.send(tagged(udp(MAC, GATEWAY_MAC, POD4, "10.102.0.8"), VLAN))
    scene.first.send(udp(MAC, FLAT_GATEWAY_MAC, ADDRESS, "10.102.0.9"))
    first = scene.tor.hear(lambda frame: is_from(frame, MAC) or is_from(frame, HOST_MAC))
    assert first is not None
    assert destination(first[:12] + first[16:]) == "10.102.0.9"


async def test_without_the_setting_nothing_of_it_remains(scene: Scene) -> None:
    async def look() -> object:
        """Return what is there after an agent without the setting has started."""
        async with planes(scene.ovs) as (ovsdb, flows):
            await take_over(ovsdb, flows, WITHOUT)
            return await flows.observe()

    never = await look()
    async with planes(scene.ovs) as (ovsdb, flows):
        await take_over(ovsdb, flows)
        learn(scene)
    assert await look() == never
    scene.ovs.appctl("revalidator/wait")
    scene.first.send(udp(MAC, OTHER_MAC, ADDRESS, "10.189.26.77"))
    scene.tor.send(tagged(udp(OTHER_MAC, MAC, OTHER, "10.189.26.77")))
    scene.pod.send(udp(POD.mac, GATEWAY_MAC, POD4, OUTSIDE))
    assert scene.tor.hear(lambda frame: is_from(frame, HOST_MAC))
    for wire in (scene.first, scene.second, scene.tor):
        assert wire.hear(lambda frame: destination(frame.replace(TAG, b"")) == "10.189.26.77", 0.05) is None


async def test_a_port_of_the_flat_network_that_comes_later_is_a_stranger_too(scene: Scene) -> None:
    async with planes(scene.ovs) as (ovsdb, _):
        assert [(one.name, one.ofport, one.tag) for one in (await ovsdb.uplink()).strangers] == [
            ("vport1", FIRST, FLAT_VLAN),
            ("vport2", SECOND, FLAT_VLAN),
        ]
        scene.ovs.add_veth("br0", "vport3", 12)
        known: list[int] = []
        async with asyncio.timeout(10):
            while 12 not in known:
                known = [one.ofport for one in (await ovsdb.uplink()).strangers]
        await ovsdb.configure()
        until(lambda: scene.ovs.vsctl("get", "port", "vport1", "tag").strip() == str(FLAT_VLAN), "its tag as it was")
