"""The links plane on the real kernel: what the pod sees, what observe tells, what repair does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from routed.attach.answers import DeviceEvent
from routed.attach.errors import (
    InterfaceExists,
    InvalidName,
    InvalidNetns,
    MarkTooLong,
    SlotMissing,
)
from routed.attach.kernel import RtnlEvents
from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay
from routed.attach.wires import Wires
from routed.domain.wiring import Wire
from routed.domain.workload import AttachmentId
from tests.fixtures.checksums import udp_checksum_holds
from tests.fixtures.links import GATEWAY_MAC, MTU, Slots, key, link_at, link_of
from tests.fixtures.pods import Pods, run, server
from tests.fixtures.tors import until

pytestmark = pytest.mark.system


async def test_a_pod_sees_all_of_its_link(links: Links, pods: Pods) -> None:
    pod = pods.make()

    assert await links.upsert({key(1): link_of(1, pod)}) == {}

    loopback, device = pod.ip("link")
    assert "UP" in loopback["flags"]
    assert (device["ifname"], device["address"], device["mtu"]) == ("eth0", "0a:58:0a:65:00:01", MTU)
    assert {"UP", "LOWER_UP"} <= set(device["flags"])
    (shown,) = pod.ip("address", "show", "dev", "eth0")
    assert [(a["local"], a["prefixlen"]) for a in shown["addr_info"]] == [("10.101.0.1", 32), ("fd00:101::1", 128)]
    assert not any(a.get("tentative") for a in shown["addr_info"])
    assert {(r["dst"], r.get("gateway")) for r in pod.ip("route")} == {
        ("default", "10.101.0.254"),
        ("10.101.0.254", None),
    }
    assert {(r["dst"], r.get("gateway")) for r in pod.ip("-6", "route")} == {
        ("default", "fd00:101::fffe"),
        ("fd00:101::fffe", None),
    }
    assert {(n["dst"], n["lladdr"], n["state"][0]) for n in pod.ip("neigh")} == {
        ("10.101.0.254", GATEWAY_MAC, "PERMANENT"),
        ("fd00:101::fffe", GATEWAY_MAC, "PERMANENT"),
    }
    for setting in ("accept_ra", "autoconf", "disable_ipv6"):
        assert pod.run("sysctl", "-n", f"net.ipv6.conf.eth0.{setting}").strip() == "0"


async def test_works_where_the_runtime_turned_ipv6_off(links: Links, pods: Pods) -> None:
    pod = pods.make()
    pod.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")

    assert await links.upsert({key(1): link_of(1, pod)}) == {}
    assert await links.observe() == {key(1): link_of(1, pod)}


async def test_a_pod_with_one_family_has_nothing_of_the_other(links: Links, pods: Pods) -> None:
    pods_links = {}
    for number, family in ((1, 0), (2, 1)):
        both = link_of(number, pods.make())
        pods_links[key(number)] = replace(both, addresses=(both.addresses[family],), gateways=(both.gateways[family],))

    assert await links.upsert(pods_links) == {}
    assert await links.observe() == pods_links


async def test_a_fresh_plane_rebuilds_every_link_from_the_kernel(links: Links, pods: Pods, space: SlotSpace) -> None:
    wanted = {key(number): link_of(number, pods.make()) for number in (1, 2, 3)}
    await links.upsert(wanted)

    assert await Links(MacvlanWay(space)).observe() == wanted


async def test_upsert_twice_changes_nothing(links: Links, pods: Pods) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    until(lambda: pod.ip("link")[-1]["operstate"] == "UP", "the kernel says that the interface is up")  # it may be late
    before = pod.ip("link"), pod.ip("route"), pod.ip("-6", "route")

    assert await links.upsert({key(1): link_of(1, pod)}) == {}

    assert (pod.ip("link"), pod.ip("route"), pod.ip("-6", "route")) == before


@pytest.mark.parametrize(
    "damage",
    [
        "address delete 10.101.0.1/32 dev eth0",
        "address delete fd00:101::1/128 dev eth0",
        "address add 10.9.9.9/24 dev eth0",
        "address add fd00:bad::1/64 dev eth0",
        "link set eth0 address 02:11:22:33:44:55",
        "link set eth0 mtu 1300",
        "link set eth0 down",
        "route delete default",
        "route delete 10.101.0.254 dev eth0",
        "-6 route delete default",
        "-6 route delete fd00:101::fffe dev eth0",
        "route append default via 10.101.0.254 metric 50 dev eth0",
        "neigh delete 10.101.0.254 dev eth0",
        "neigh replace fd00:101::fffe dev eth0 lladdr 02:66:66:66:66:66 nud permanent",
        "neigh replace 10.101.0.254 dev eth0 lladdr 02:00:00:00:01:01 nud reachable",
    ],
)
async def test_sees_and_repairs_drift(links: Links, pods: Pods, damage: str) -> None:
    pod = pods.make()
    wanted = {key(1): link_of(1, pod)}
    await links.upsert(wanted)
    pod.run("ip", *damage.split())

    assert await links.observe() != wanted
    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted


async def test_an_interface_deleted_by_hand_is_absent_and_comes_back(links: Links, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(1): link_of(1, pod)}
    await links.upsert(wanted)
    pod.run("ip", "link", "delete", "eth0")

    assert await links.observe() == {}
    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted


ROUTES = frozenset({ip_network("10.50.0.0/16"), ip_network("10.60.0.0/16"), ip_network("fd00:50::/48")})


async def test_routes_that_the_pod_asked_for_lead_through_its_gateways(links: Links, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(1): replace(link_of(1, pod), routes=ROUTES)}
    assert await links.upsert(wanted) == {}
    shown = [*pod.ip("route"), *pod.ip("-6", "route")]
    found = {(route["dst"], route["gateway"]) for route in shown if route["protocol"] == "82"}
    hops = {4: "10.101.0.254", 6: "fd00:101::fffe"}
    assert found == {(str(to), hops[to.version]) for to in ROUTES}
    assert await links.observe() == wanted
    assert await links.upsert(wanted) == {}, "twice is as good as once"
    fewer = {key(1): link_of(1, pod)}
    assert await links.upsert(fewer) == {}
    assert await links.observe() == fewer
    assert not [route for route in pod.ip("route") if route["dst"] == "10.50.0.0/16"]


@pytest.mark.parametrize(
    "damage",
    [
        "route delete 10.50.0.0/16",
        "-6 route delete fd00:50::/48",
        "route replace 10.50.0.0/16 via 10.101.0.254 dev eth0",
        "-6 route replace fd00:50::/48 dev eth0",
        "route add 10.70.0.0/16 via 10.101.0.254 dev eth0 proto 82",
        "route flush dev eth0",
    ],
)
async def test_sees_and_repairs_routes_that_the_pod_asked_for(links: Links, pods: Pods, damage: str) -> None:
    pod = pods.make()
    wanted = {key(1): replace(link_of(1, pod), routes=ROUTES)}
    await links.upsert(wanted)
    pod.run("ip", *damage.split())

    assert await links.observe() != wanted
    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted


async def test_routes_that_others_add_to_a_pod_stay(links: Links, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(1): replace(link_of(1, pod), routes=ROUTES)}
    await links.upsert(wanted)
    foreign = [("10.80.0.0/16", None), ("10.50.0.0/16", 7)]
    for to, metric in foreign:
        pod.run("ip", *f"route add {to} via 10.101.0.254 dev eth0 metric {metric or 0}".split())
    assert await links.observe() == wanted, "no business of ours"
    pod.run("ip", "link", "set", "eth0", "mtu", "1300")
    assert await links.upsert(wanted) == {}
    found = {(route["dst"], route.get("metric")) for route in pod.ip("route") if route["protocol"] == "boot"}
    assert found == set(foreign)


async def test_changes_a_link_in_place(links: Links, pods: Pods) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    index = pod.ip("link", "show", "eth0")[0]["ifindex"]
    changed = replace(
        link_of(1, pod),
        mac="0a:58:0a:66:00:09",
        mtu=1400,
        addresses=(ip_interface("10.102.0.9/32"),),
        gateways=(ip_address("10.102.0.254"),),
        gateway_mac="02:00:00:00:02:02",
    )

    assert await links.upsert({key(1): changed}) == {}
    assert await links.observe() == {key(1): changed}
    assert pod.ip("link", "show", "eth0")[0]["ifindex"] == index


async def test_moves_to_another_slot_when_told_so(links: Links, pods: Pods, slots: Slots) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    moved = {key(1): link_of(1, pod, slot=2)}

    assert await links.upsert(moved) == {}
    assert await links.observe() == moved
    assert slots.alias(1) == "routed"


async def test_a_cancelled_upsert_has_ended_when_its_caller_goes_on(links: Links, pods: Pods) -> None:
    wanted = {key(number): link_of(number, pods.make()) for number in (1, 2, 3)}
    upsert = asyncio.create_task(links.upsert(wanted))
    await asyncio.sleep(0)  # the visits' tasks exist,
    await asyncio.sleep(0)  # and have sent out their threads
    upsert.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upsert

    seen = await links.observe()
    assert all(seen[one] == wanted[one] for one in seen)
    assert await links.observe() == seen


@pytest.mark.parametrize(
    "path", ["deeper/ns", "file", "folder", "/proc/self/ns/uts", "/proc/thread-self/ns/net", "/dev/null", "", "a\0b"]
)
async def test_refuses_what_is_no_pods_netns_and_creates_nothing(
    links: Links, tmp_path: Path, path: str, slots: Slots
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))

    failures = await links.upsert({key(1): link_at(1, path and str(tmp_path / path))})

    assert isinstance(failures[key(1)], InvalidNetns)
    assert sorted(tmp_path.rglob("*")) == before
    assert slots.alias(1) == "routed"
    assert await links.observe() == {}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "sixteen-letters-"])
async def test_refuses_a_name_that_no_interface_can_have(
    links: Links, wires: Wires, pods: Pods, name: str, slots: Slots
) -> None:
    before = await wires.observe()

    failures = await links.upsert({AttachmentId("c", name): replace(link_of(1, pods.make()), ifname=name)})

    assert [type(failure) for failure in failures.values()] == [InvalidName]
    assert await wires.observe() == before
    assert slots.alias(1) == "routed"


async def test_one_bad_netns_does_not_hold_up_the_others(links: Links, pods: Pods) -> None:
    good = link_of(2, pods.make())

    failures = await links.upsert({key(1): link_at(1, "/run/netns/none"), key(2): good})

    assert list(failures) == [key(1)]
    assert await links.observe() == {key(2): good}


@pytest.mark.parametrize("kind", ["veth", "macvlan"])
async def test_leaves_a_foreign_interface_alone(links: Links, pods: Pods, kind: str, slots: Slots) -> None:
    pod = pods.make()
    pod.run("ip", "link", "add", "other", "type", "veth", "peer", "name", "eth0" if kind == "veth" else "peer")
    if kind == "macvlan":
        pod.run("ip", "link", "add", "eth0", "link", "other", "type", "macvlan", "mode", "passthru")
    before = pod.ip("address")

    failures = await links.upsert({key(1): link_of(1, pod)})

    assert isinstance(failures[key(1)], InterfaceExists)
    assert await links.remove([key(1)]) == {}
    assert pod.ip("address") == before
    assert slots.alias(1) == "routed"


async def test_leaves_a_foreign_interface_alone_that_took_our_place(links: Links, pods: Pods) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    pod.run("ip", "link", "delete", "eth0")
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")

    assert await links.observe() == {}
    assert await links.remove([key(1)]) == {}
    assert len(pod.ip("link")) == 3


async def test_says_when_the_wire_is_missing(links: Links, pods: Pods) -> None:
    run("ip", "link", "add", "rt9", "type", "veth", "peer", "name", "rp9")  # in the server's namespace it is no slot

    failures = await links.upsert({key(1): link_of(1, pods.make(), slot=8), key(2): link_of(2, pods.make(), slot=9)})

    assert [type(failure) for failure in failures.values()] == [SlotMissing, SlotMissing]


async def test_leaves_a_macvlan_of_the_server_alone(links: Links, pods: Pods) -> None:
    pod = pods.make()
    run("ip", "link", "add", "nic", "type", "veth", "peer", "name", "cable")
    run("ip", "link", "add", "eth0", "link", "nic", "netns", pod.path, "type", "macvlan", "mode", "passthru")

    failures = await links.upsert({key(1): link_of(1, pod)})

    assert isinstance(failures[key(1)], InterfaceExists)
    assert await links.remove([key(1)]) == {}
    assert [device["ifname"] for device in pod.ip("link")] == ["lo", "eth0"]


async def test_the_slots_own_namespace_is_no_pods(links: Links, space: SlotSpace) -> None:
    failures = await links.upsert({key(1): link_at(1, str(space.path))})

    assert isinstance(failures[key(1)], InvalidNetns)


async def test_a_path_never_means_the_pod_that_was_visited_before(links: Links, pods: Pods) -> None:
    """`/proc/thread-self` is whoever looks: to a visitor who goes from pod to pod it would be the pod before."""
    others = {key(number): link_of(number, pods.make()) for number in (1, 2, 3)}
    odd = {key(number): link_at(number, "/proc/thread-self/ns/net") for number in (4, 5)}

    failures = await links.upsert({**others, **odd})

    assert failures.keys() == odd.keys()
    assert all(isinstance(failure, InvalidNetns) for failure in failures.values())
    assert await links.observe() == others


@pytest.mark.parametrize("names", [("eth0", "net1", "net2"), ("net2", "net1", "eth0")])
async def test_of_several_interfaces_of_a_pod_the_first_is_its_way_out(
    links: Links, pods: Pods, names: tuple[str, ...]
) -> None:
    pod = pods.make()
    wanted = {
        AttachmentId("c" * 64, name): replace(link_of(number, pod), ifname=name)
        for number, name in enumerate(names, start=1)
    }
    for one, link in wanted.items():
        assert await links.upsert({one: link}) == {}

    assert await links.observe() == wanted
    for family, outside in (("-4", "192.0.2.1"), ("-6", "2001:db8::1")):
        assert pod.ip(family, "route", "get", outside)[0]["dev"] == "eth0"
        assert pod.ip(family, "route", "get", outside, "oif", "net2")[0]["dev"] == "net2"
    assert await links.remove([AttachmentId("c" * 64, "net1")]) == {}
    assert {name.ifname for name in await links.observe()} == {"eth0", "net2"}


async def test_the_bridges_namespace_hears_nothing_of_pods(links: Links, pods: Pods) -> None:
    wanted = {key(number): link_of(number, pods.make()) for number in (1, 2, 3)}
    with contextlib.closing(RtnlEvents()) as bridge:
        assert await links.upsert(wanted) == {}
        assert await links.observe() == wanted
        assert await links.remove(list(wanted)) == {}

        assert bridge.read() == []


async def test_where_the_slots_wait_pods_are_heard(links: Links, pods: Pods, space: SlotSpace) -> None:
    pod = pods.make()
    with contextlib.closing(space.run(RtnlEvents)) as slots:  # the control: the same, seen from over there
        await links.upsert({key(1): link_of(1, pod)})
        attached = device_events(slots)
        await links.remove([key(1)])
        detached = device_events(slots)

    assert attached == detached == {"rp1"}


def device_events(events: RtnlEvents) -> set[str]:
    return {event.device.name for event in events.read() if isinstance(event, DeviceEvent)}


async def test_a_netns_path_that_does_not_fit_is_refused_before_anything_is_made(links: Links, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with contextlib.closing(Pods(folder)) as pods:
        pod = pods.make()

        failures = await links.upsert({key(1): link_of(1, pod)})

        assert isinstance(failures[key(1)], MarkTooLong)
        assert len(pod.ip("link")) == 1


async def test_thirty_pods_at_once(links: Links, wires: Wires, pods: Pods) -> None:
    await wires.upsert({f"rt{slot}": Wire(MTU) for slot in range(1, 31)})
    wanted = {key(number): link_of(number, pods.make()) for number in range(1, 31)}

    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted
    assert await links.remove(list(wanted)) == {}
    assert await links.observe() == {}


async def test_visits_leave_the_process_where_it_was(links: Links, pods: Pods) -> None:
    home = threads_in()

    await links.upsert({key(number): link_of(number, pods.make()) for number in (1, 2, 3)})
    await links.observe()

    async with asyncio.timeout(5):
        while threads_in() != home:  # a visitor reports first and ends then
            await asyncio.sleep(0.01)


def threads_in() -> set[int]:
    """Return the namespaces that this process's threads are in."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add((task / "ns/net").stat().st_ino)
    return found


async def test_pods_reach_each_other_over_their_wires(links: Links, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    await links.upsert({key(1): link_of(1, first), key(2): link_of(2, second)})
    with pytest.raises(RuntimeError):  # the control: nothing joins the wires yet
        first.run("ping", "-c1", "-W1", "10.101.0.2")

    run("ip", "link", "add", "br0", "address", GATEWAY_MAC, "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        run("sysctl", "-qw", f"net.{setting}=1")
    for number in (1, 2):
        run("ip", "link", "set", f"rt{number}", "master", "br0")
        for address in (f"10.101.0.{number}", f"fd00:101::{number}"):
            run("ip", "route", "add", address, "dev", "br0")
            run("ip", "neigh", "add", address, "lladdr", f"0a:58:0a:65:00:{number:02x}", "dev", "br0")

    first.run("ping", "-c1", "-W3", "10.101.0.2")
    first.run("ping", "-c1", "-W3", "fd00:101::2")
    second.run("ping", "-c1", "-W3", "-s", str(MTU - 28), "-M", "do", "10.101.0.1")


@pytest.mark.parametrize("userspace_datapath", [True, False])
async def test_checksums_are_complete_on_the_wire_of_a_userspace_datapath(
    pods: Pods, space: SlotSpace, userspace_datapath: bool
) -> None:
    pod = pods.make()
    with server():
        async with Monitor() as monitor:
            plane = Wires(lambda: None, monitor, space, userspace_datapath=userspace_datapath)
            await plane.upsert({"rt1": Wire(MTU)})
        await Links(MacvlanWay(space)).upsert({key(1): link_of(1, pod)})
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
            wire.bind(("rt1", 0x0800))
            wire.settimeout(5)
            pod.run("bash", "-c", "echo hello > /dev/udp/10.101.0.9/7")
            frame = await asyncio.to_thread(wire.recv, 2048)

    assert frame[23] == socket.IPPROTO_UDP
    assert udp_checksum_holds(frame) is userspace_datapath
