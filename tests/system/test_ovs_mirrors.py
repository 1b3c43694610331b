"""Mirrors on real Open vSwitch: a pod's packets, nobody else's, and none when it is gone; what is others' stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import pytest

from ovs_flows.cookies import cookie
from ovs_flows.errors import ForeignPort, PortError
from ovs_flows.mirrors import Mirrors
from ovs_flows.model import Mirror
from ovs_flows.openflow import Flows
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.pipeline import base, endpoint
from ovs_flows.rows import NOWHERE
from ovs_flows.sight import look
from tests.golden.pipelines import DUAL
from tests.system.frames import destination, udp
from tests.system.ovs_instance import Ovs, Wire, packet_socket, until
from tests.system.test_ovs_packets import A4, B4, BASE, OUTSIDE4, POD_GATEWAY_MAC, A, B, pod

pytestmark = pytest.mark.system
C = replace(pod(13), ofport=A.ofport)
"""The next pod in A's slot."""
C4 = "10.101.0.13"
OF_A = Mirror("tap0", 900, "a/eth0")
NUMBERS = range(900, 910)
MARKER = "10.102.0.99"
"""Where a packet goes that comes after all others."""


@dataclass
class Scene:
    """Two pods and a listener that is not on the bridge yet."""

    ovs: Ovs
    tor: Wire
    a: Wire
    b: Wire
    listener: Wire
    ovsdb: Ovsdb
    mirrors: Mirrors
    flows: Flows

    def heard(self) -> list[str]:
        """Return the destinations of all copies that have come, in order; a last packet of A's shows when to stop."""
        self.a.send(udp(A.mac, POD_GATEWAY_MAC, A4, MARKER))
        assert self.tor.hear(lambda frame: destination(frame) == MARKER)
        copies = iter(lambda: self.listener.hear(lambda _: True, seconds=0.1), None)
        return [where for where in map(destination, copies) if where != MARKER]

    def talk(self) -> None:
        """Have A and B send one packet each, to each other."""
        self.a.send(udp(A.mac, POD_GATEWAY_MAC, A4, B4))
        assert self.b.hear(lambda frame: destination(frame) == B4)
        self.b.send(udp(B.mac, POD_GATEWAY_MAC, B4, A4))
        assert self.a.hear(lambda frame: destination(frame) == A4)

    def stranger_talks(self) -> None:
        """Have B send a packet to somebody else than A."""
        self.b.send(udp(B.mac, POD_GATEWAY_MAC, B4, OUTSIDE4))
        assert self.tor.hear(lambda frame: destination(frame) == OUTSIDE4)


@pytest.fixture
def wires(ovs: Ovs) -> Iterator[list[Wire]]:
    ovs.add_bridge("br0", "fail_mode=secure")
    for port, number in (("up0", 1), ("rta", A.ofport), ("rtb", B.ofport)):
        ovs.add_veth("br0", port, number)
    ovs.make_veth("tap0")
    found = [Wire(packet_socket(ovs.netns, f"{port}p")) for port in ("up0", "rta", "rtb", "tap0")]
    yield found
    for wire in found:
        wire.socket.close()


@contextlib.asynccontextmanager
async def scene(ovs: Ovs, wires: list[Wire]) -> AsyncIterator[Scene]:
    connected, programmed = asyncio.Event(), asyncio.Event()
    ovsdb, flows = Ovsdb(ovs.database, "br0", "up0", connected.set), Flows(ovs.management("br0"), programmed.set)
    tasks = [asyncio.create_task(work()) for work in (ovsdb.run, flows.run)]
    try:
        async with asyncio.timeout(10):
            await connected.wait()
            await programmed.wait()
        assert await flows.upsert({BASE: base(DUAL), cookie(1): endpoint(A), cookie(2): endpoint(B)}) == {}
        tor, a, b, listener = wires
        yield Scene(ovs, tor, a, b, listener, ovsdb, Mirrors(ovsdb), flows)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize(
    ("sent", "received", "copies"),
    [(True, True, [B4, A4]), (True, False, [B4]), (False, True, [A4])],
    ids=["both", "out", "in"],
)
async def test_a_pods_packets_are_copied_and_nobody_elses(
    ovs: Ovs, wires: list[Wire], sent: bool, received: bool, copies: list[str]
) -> None:
    wanted = replace(OF_A, sent=sent, received=received)
    async with scene(ovs, wires) as there:
        assert await there.mirrors.observe() == {}
        assert await there.mirrors.upsert({"rta": wanted}) == {}
        assert await there.mirrors.observe() == {"rta": wanted}
        there.stranger_talks()
        there.talk()
        assert there.heard() == copies
        assert await there.mirrors.remove(["rta", "rtb"]) == {}
        there.talk()
        assert there.heard() == []
        assert await there.mirrors.observe() == {}
        assert "tap0" not in ovs.vsctl("list-ports", "br0").split()


async def test_what_comes_in_by_the_listeners_port_goes_nowhere(ovs: Ovs, wires: list[Wire]) -> None:
    async with scene(ovs, wires) as there:
        await there.mirrors.upsert({"rta": OF_A})
        for frame in (udp(A.mac, POD_GATEWAY_MAC, A4, B4), udp("02:00:00:00:09:09", B.mac, "192.0.2.1", B4)):
            there.listener.send(frame)
        there.stranger_talks()
        assert there.b.hear(lambda frame: destination(frame) == B4, seconds=0.2) is None
        there.talk()  # the negative control: from its own port the same arrives


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "negative-control"])
async def test_the_next_pod_of_a_slot_is_not_copied(ovs: Ovs, wires: list[Wire], removed: bool) -> None:
    """A mirror selects a port, whoever is behind it: it has to go with its pod."""
    async with scene(ovs, wires) as there:
        await there.mirrors.upsert({"rta": OF_A})
        await there.flows.remove([cookie(1)])
        if removed:
            await there.mirrors.remove(["rta"])
        await there.flows.upsert({cookie(1): endpoint(C)})
        there.a.send(udp(C.mac, POD_GATEWAY_MAC, C4, B4))
        assert there.b.hear(lambda frame: destination(frame) == B4)
        copy = there.listener.hear(lambda frame: destination(frame) == B4, seconds=0.2 if removed else 5.0)
        assert (copy is None) == removed


@pytest.mark.parametrize("nowhere", [True, False], ids=["its-port-is-nowhere-too", "negative-control"])
async def test_beside_a_flat_network_copies_have_no_tag(ovs: Ovs, wires: list[Wire], nowhere: bool) -> None:
    """Our ports are in VLAN 4095 then, and Open vSwitch takes what they get and send for that VLAN's."""
    for port in ("rta", "rtb"):
        ovs.vsctl("set", "port", port, "external_ids:owner=routed")
    async with scene(ovs, wires) as there:
        there.ovsdb.vlan = [NOWHERE]
        await there.ovsdb.configure()
        until(lambda: ovs.vsctl("get", "port", "rta", "tag").strip() == "4095", "our ports nowhere")
        assert await there.mirrors.upsert({"rta": OF_A}) == {}
        assert await there.mirrors.observe() == {"rta": OF_A}
        if not nowhere:
            ovs.vsctl("clear", "port", "tap0", "tag")
            async with asyncio.timeout(5):
                while await there.mirrors.observe() == {"rta": OF_A}:
                    await asyncio.sleep(0.01)
            ovs.appctl("revalidator/wait")
        there.talk()
        copy = there.listener.hear(lambda _: True)
        assert copy is not None
        assert (copy[12:16] == b"\x08\x00\x45\x00") is nowhere
        assert (copy[12:16] == b"\x81\x00\x0f\xff") is not nowhere
        assert (await there.ovsdb.uplink()).strangers == (), "nor is the port a trunk of the flat network"


async def test_a_mirrors_port_is_ours(ovs: Ovs, wires: list[Wire]) -> None:
    ovs.add_veth("br0", "theirs", 7)
    async with scene(ovs, wires) as there:
        before = await there.ovsdb.uplink()
        await there.mirrors.upsert({"rta": OF_A})
        assert await there.ovsdb.uplink() == before
        bridge = (await look(there.ovsdb)).bridge
    assert bridge is not None
    assert bridge.ports["tap0"].ours
    assert not bridge.ports["theirs"].ours, "the negative control"


async def test_others_mirrors_and_ports_are_left_alone(ovs: Ovs, wires: list[Wire]) -> None:
    ovs.make_veth("theirs")
    ovs.vsctl("add-port", "br0", "theirs")
    ovs.vsctl(
        *("--", "--id=@p", "get", "port", "rtb", "--", "--id=@o", "get", "port", "theirs"),
        *("--", "--id=@m", "create", "mirror", "name=theirs", "select_src_port=@p", "output_port=@o"),
        *("--", "add", "bridge", "br0", "mirrors", "@m"),
    )
    async with scene(ovs, wires) as there:
        assert await there.mirrors.observe() == {}
        assert await there.mirrors.number_for("theirs", NUMBERS) == 0
        assert await there.mirrors.upsert({"rta": OF_A, "rtb": replace(OF_A, target="theirs", ofport=0)}) == {}
        assert (await there.mirrors.observe()).keys() == {"rta", "rtb"}
        failed = await there.mirrors.upsert({"rta": replace(OF_A, target="theirs")})
        assert isinstance(failed["rta"], ForeignPort)
        await there.mirrors.remove(["rta", "rtb", "theirs"])
        assert "theirs" in ovs.vsctl("list-ports", "br0").split()
        assert ovs.vsctl("--bare", "--columns=name", "list", "mirror").split() == ["theirs"]


async def test_a_device_that_others_need_is_refused(ovs: Ovs, wires: list[Wire]) -> None:
    ovs.add_bridge("br1")
    ovs.add_veth("br1", "their0", 1)
    for member in ("member0", "member1"):
        ovs.make_veth(member)
    ovs.vsctl("add-bond", "br1", "bond0", "member0", "member1")
    ovs.vsctl("set", "port", "rta", "external_ids:owner=routed")
    async with scene(ovs, wires) as there:
        for device in ("their0", "br1", "bond0", "member0", "br0", "rta", "up0"):
            with pytest.raises(ForeignPort, match=device):
                await there.mirrors.number_for(device, NUMBERS)
        assert await there.mirrors.number_for("tap0", NUMBERS) == 900


async def test_a_mirrors_number_is_one_that_no_port_has_or_waits_for(ovs: Ovs, wires: list[Wire]) -> None:
    ovs.add_veth("br0", "theirs", 900)
    ovs.vsctl("add-port", "br0", "absent", "--", "set", "interface", "absent", "ofport_request=901")
    async with scene(ovs, wires) as there:
        number = await there.mirrors.number_for("tap0", NUMBERS)
        assert number == 902
        assert await there.mirrors.upsert({"rta": replace(OF_A, ofport=number)}) == {}
        assert await there.mirrors.number_for("tap0", [905]) == 902, "it keeps what it has"
        with pytest.raises(PortError, match="no port number left"):
            await there.mirrors.number_for("tap1", range(900, 903))


async def test_a_listener_without_device_fails_alone_and_heals(ovs: Ovs, wires: list[Wire]) -> None:
    async with scene(ovs, wires) as there:
        failed = await there.mirrors.upsert({"rta": OF_A, "rtb": Mirror("tap1", 901, "b/eth0")})
        assert failed.keys() == {"rtb"}
        assert isinstance(failed["rtb"], PortError)
        found = await there.mirrors.observe()
        assert found["rta"] == OF_A
        assert found["rtb"].whose == "", "not as it was asked for"
        ovs.make_veth("tap1")
        assert await there.mirrors.upsert({"rtb": Mirror("tap1", 901, "b/eth0")}) == {}


async def test_what_somebody_does_to_a_mirror_is_seen_and_undone(ovs: Ovs, wires: list[Wire]) -> None:
    async with scene(ovs, wires) as there:
        await there.mirrors.upsert({"rta": OF_A})
        for change in (
            ("clear", "bridge", "br0", "mirrors"),
            ("del-port", "br0", "tap0"),
            ("--", "--id=@p", "get", "port", "rtb", "--", "set", "mirror", "routed-rta", "select_src_port=@p"),
        ):
            ovs.vsctl(*change)
            async with asyncio.timeout(5):
                while (await there.mirrors.observe()).get("rta") == OF_A:
                    await asyncio.sleep(0.01)
            assert await there.mirrors.upsert({"rta": OF_A}) == {}
            assert await there.mirrors.observe() == {"rta": OF_A}


async def test_a_port_that_was_left_of_a_mirror_goes(ovs: Ovs, wires: list[Wire]) -> None:
    async with scene(ovs, wires) as there:
        await there.mirrors.upsert({"rta": OF_A})
        ovs.vsctl("clear", "bridge", "br0", "mirrors")
        async with asyncio.timeout(5):
            while (await there.mirrors.observe()).keys() != {"tap0"}:
                await asyncio.sleep(0.01)
        await there.mirrors.remove(["tap0"])
        assert await there.mirrors.observe() == {}
        assert "tap0" not in ovs.vsctl("list-ports", "br0").split()
