"""Slots under a real Open vSwitch: what a pod sends arrives whole, because the pods' side finishes its checksums."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from routed.attach.limits import Limits
from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay
from routed.attach.wires import Wires
from routed.domain.wiring import Limit, Link, Wire, ofport, wire_name
from routed.domain.workload import AttachmentId
from tests.fixtures.pods import Pod, Pods, inside, run, slot_space
from tests.system.ovs_instance import Ovs, network_namespace, open_vswitch, until

pytestmark = pytest.mark.system

SIZE = 4 << 20
RECEIVE = """
import socket
server = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
connection, _ = server.accept()
print(sum(len(part) for part in iter(lambda: connection.recv(1 << 16), b"")))
"""
SEND = (
    "import socket, sys; c = socket.create_connection((sys.argv[1], 7), timeout=3); c.sendall(bytes(int(sys.argv[2])))"
)


def mac(number: int) -> str:
    return f"0a:58:0a:65:00:{number:02x}"


def link_of(number: int, pod: Pod) -> Link:
    return Link(
        wire=wire_name(number),
        netns=pod.path,
        ifname="eth0",
        mac=mac(number),
        mtu=1500,
        addresses=(ip_interface(f"10.101.0.{number}/32"), ip_interface(f"fd00:101::{number}/128")),
        gateways=(ip_address("10.101.0.254"), ip_address("fd00:101::fffe")),
        gateway_mac="02:00:00:00:01:01",
    )


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[Ovs]:
    with (
        network_namespace(f"attach-{os.getpid()}") as name,
        open_vswitch(name, tmp_path / "ovs") as switch,
        inside(f"/run/netns/{name}"),
    ):
        switch.add_bridge("br0", "fail_mode=secure")
        for number in (1, 2):
            for match in (f"ip,nw_dst=10.101.0.{number}", f"ipv6,ipv6_dst=fd00:101::{number}"):
                actions = f"set_field:{mac(number)}->eth_dst,output:{ofport(number)}"
                switch.ofctl("add-flow", "br0", f"{match} actions={actions}")
        yield switch


@pytest.fixture
def space(tmp_path: Path) -> Iterator[SlotSpace]:
    with slot_space(tmp_path) as made:
        yield made


async def plug(ovs: Ovs, pods: Pods, space: SlotSpace, *, userspace_datapath: bool) -> tuple[Pod, Pod]:
    """Attach two pods to slots 1 and 2 of the bridge."""
    pair = (pods.make(), pods.make())
    async with Monitor() as monitor:
        wires = Wires(lambda: None, monitor, space, userspace_datapath=userspace_datapath)
        assert await wires.upsert({wire_name(number): Wire(1500) for number in (1, 2)}) == {}
    for number in (1, 2):
        port = wire_name(number)
        ovs.vsctl("add-port", "br0", port, "--", "set", "interface", port, f"ofport_request={ofport(number)}")
    items = {AttachmentId(f"c{number}", "eth0"): link_of(number, pod) for number, pod in enumerate(pair, start=1)}
    assert await Links(MacvlanWay(space)).upsert(items) == {}
    return pair


def transfer(sender: Pod, receiver: Pod, address: str, size: int = SIZE) -> int:
    """Send so many bytes by TCP; return how many arrived, or raise when no connection comes about."""
    receiving = subprocess.Popen(
        ["nsenter", f"--net={receiver.path}", "python3", "-c", RECEIVE], stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: ":7 " in receiver.run("ss", "-Hltn"), "the receiver listens")
        sender.run("python3", "-c", SEND, address, str(size))
        return int(receiving.communicate(timeout=20)[0])
    finally:
        receiving.kill()
        receiving.communicate()


async def test_what_pods_send_each_other_arrives(ovs: Ovs, pods: Pods, space: SlotSpace) -> None:
    first, second = await plug(ovs, pods, space, userspace_datapath=True)

    assert transfer(first, second, "10.101.0.2") == SIZE
    assert transfer(second, first, "fd00:101::1") == SIZE


async def test_without_finished_checksums_nothing_arrives(ovs: Ovs, pods: Pods, space: SlotSpace) -> None:
    first, second = await plug(ovs, pods, space, userspace_datapath=False)
    first.run("ping", "-c1", "-W5", "10.101.0.2")  # the way itself is good: ping has its checksum made in software

    with pytest.raises(RuntimeError, match="timed out"):
        transfer(first, second, "10.101.0.2")


async def test_a_slot_serves_the_next_pod_without_the_bridge_noticing(ovs: Ovs, pods: Pods, space: SlotSpace) -> None:
    first, second = await plug(ovs, pods, space, userspace_datapath=True)
    before = ovs.vsctl("get", "interface", "rt1", "ofport", "ifindex", "link_resets")
    first.delete()
    successor = pods.make()

    assert await Links(MacvlanWay(space)).upsert({AttachmentId("c3", "eth0"): link_of(1, successor)}) == {}

    second.run("ping", "-c1", "-W5", "10.101.0.1")
    assert ovs.vsctl("get", "interface", "rt1", "ofport", "ifindex", "link_resets") == before


LITTLE = 600_000
"""Bytes; ten times what a token bucket lets through at once."""
SLOW = 200_000
"""Bytes a second."""


def took(sender: Pod, receiver: Pod, address: str) -> float:
    """Return how long it takes to get LITTLE bytes through, in seconds."""
    began = time.monotonic()
    assert transfer(sender, receiver, address, LITTLE) == LITTLE
    return time.monotonic() - began


async def test_a_limited_pod_gets_and_sends_no_more(ovs: Ovs, pods: Pods, space: SlotSpace) -> None:
    first, second = await plug(ovs, pods, space, userspace_datapath=True)
    limits = Limits(space)
    least_s = (LITTLE - (1 << 16)) / SLOW
    for wanted, sender, receiver, address in (
        (Limit(SLOW, None), second, first, "10.101.0.1"),
        (Limit(None, SLOW), first, second, "10.101.0.2"),
    ):
        assert await limits.upsert({"rt1": wanted}) == {}
        assert await limits.observe() == {"rt1": wanted}
        assert took(sender, receiver, address) > least_s
    unlimited = took(second, first, "10.101.0.1")
    assert await limits.remove(["rt1"]) == {}
    assert min(unlimited, took(first, second, "10.101.0.2")) < least_s, "control: the other way, and then both"


async def test_limits_are_found_and_changed_and_those_of_others_let_be(ovs: Ovs, pods: Pods, space: SlotSpace) -> None:
    await plug(ovs, pods, space, userspace_datapath=True)
    limits, wanted = Limits(space), {"rt1": Limit(125, 2**32 - 1), "rt2": Limit(10**9, None)}
    assert await limits.observe() == {}
    assert await limits.upsert(wanted) == {}
    assert await limits.observe() == wanted
    assert await limits.upsert({"rt2": Limit(None, 5000)}) == {}
    assert (await limits.observe())["rt2"] == Limit(None, 5000)
    run("tc", "qdisc", "delete", "dev", "rt1", "root")
    assert (await limits.observe())["rt1"] == Limit(None, 2**32 - 1)
    run("tc", "qdisc", "add", "dev", "rt1", "root", "tbf", "rate", "1mbit", "burst", "10kb", "latency", "1ms")
    assert await limits.remove(["rt1", "rt2", "rt9"]) == {}
    assert await limits.observe() == {}
    assert "tbf" in run("tc", "qdisc", "show", "dev", "rt1"), "that one is not ours"
    assert (await limits.upsert({"rt1": wanted["rt1"], "rt9": wanted["rt2"]})).keys() == {"rt9"}
    assert await limits.observe() == {"rt1": wanted["rt1"]}
