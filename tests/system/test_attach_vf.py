"""VFs in pods: moved there and back, reset, found again; veth pairs play VF and representor (tests/fakes/veths.py).

The kernel deletes a veth pair with its namespace, where it would put a VF back: so a test moves that back before the
namespace ends (`as_the_kernel_does`). A return by the kernel itself is seen in the NIC lab only (tests/nic_lab).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from routed.attach.errors import ForeignDevice, SlotMissing, SlotTaken, VfAway, VfInUse
from routed.attach.kernel import Rtnl
from routed.attach.links import Links
from routed.attach.mark import OURS, Mark
from routed.attach.monitor import Monitor
from routed.attach.representors import Representors
from routed.attach.vf import VfWay, by_alias, by_hardware, by_label, identify, is_idle, own_mac, own_name
from routed.attach.vfs import Vfs
from routed.domain.wiring import Link, Vf, Wire
from routed.domain.workload import AttachmentId
from tests.fakes.veths import VethNic
from tests.fixtures.pods import Pod, Pods, run, server

pytestmark = pytest.mark.system

MTU = 1450


@dataclass
class Rig:
    """A server with a NIC, and the planes of VFs."""

    nic: VethNic
    links: Links
    representors: Representors
    addresses: dict[str, str]

    def link(self, number: int, pod: Pod, vf: int = 0) -> Link:
        """Return what pod `number` wants of a VF."""
        return Link(
            wire=self.nic.representor(vf),
            netns=pod.path,
            ifname="eth0",
            mac=f"0a:58:0a:65:00:{number:02x}",
            mtu=MTU,
            addresses=(ip_interface(f"10.101.0.{number}/32"), ip_interface(f"fd00:101::{number:x}/128")),
            gateways=(ip_address("10.101.0.254"), ip_address("fd00:101::fffe")),
            gateway_mac="02:00:00:00:01:01",
        )

    def mark(self, vf: int = 0) -> str:
        """Return what stands on a representor."""
        return str(show(self.nic.representor(vf)).get("ifalias", ""))

    def vf(self, index: int = 0) -> dict[str, Any]:
        """Return the device of a VF that is nobody's."""
        return show(own_name(self.nic.address(index)))

    def assert_home(self, index: int = 0) -> None:
        """Assert that a VF is back, as nobody's."""
        found = self.vf(index)
        assert found["address"] == own_mac(self.nic.address(index))
        assert "UP" not in found["flags"]
        assert "ifalias" not in found
        assert self.mark(index) == OURS


def show(device: str) -> dict[str, Any]:
    (found,) = json.loads(run("ip", "-json", "link", "show", device))
    return dict(found)


def devices() -> set[str]:
    return {found["ifname"] for found in json.loads(run("ip", "-json", "link"))}


def key(number: int) -> AttachmentId:
    return AttachmentId(f"{number:064x}", "eth0")


def as_the_kernel_does(pod: Pod, name: str = "eth0") -> None:
    """Let a pod end as if it had a VF, which goes back to the server's namespace, down, under the name that it has."""
    pod.run("ip", "link", "set", name, "netns", str(os.getpid()))
    pod.delete()


@pytest_asyncio.fixture
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A rig whose VFs are told by their alias, or by what no pod can change, as kernels since 5.14 do."""
    with server():
        nic = VethNic(tmp_path / "sys", ["etha"], 2)
        nic.plug(run)
        hardware = {socket.if_nametoindex(nic.vf(index)): nic.address(index) for index in range(2)}
        told = (
            by_label if getattr(request, "param", by_label) is by_label else lambda found: hardware.get(found.index, "")
        )
        addresses = {nic.representor(index): nic.address(index) for index in range(2)}
        way = VfWay(nic.tree, addresses, told)
        async with Monitor() as monitor:
            representors = Representors(lambda: None, monitor)
            assert await representors.upsert({nic.representor(index): Wire(MTU) for index in range(2)}) == {}
            with contextlib.closing(way):
                yield Rig(nic, Links(way, "vf_links"), representors, addresses)


async def test_a_pod_has_the_vf_with_all_of_its_link(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(1): rig.link(1, pod)}
    assert await rig.links.upsert(wanted) == {}
    _, device = pod.ip("link")
    assert (device["ifname"], device["address"], device["mtu"]) == ("eth0", "0a:58:0a:65:00:01", MTU)
    assert {"UP", "LOWER_UP"} <= set(device["flags"]), "its representor is up"
    assert not {rig.nic.vf(0), own_name(rig.nic.address(0))} & devices()
    assert rig.mark() == Mark(key(1), pod.path).text()
    assert await rig.links.observe() == wanted
    assert await rig.links.upsert(wanted) == {}, "once more changes nothing"
    assert await rig.links.observe() == wanted
    assert rig.nic.vf(1) in devices(), "nobody touched the other one"


async def test_it_comes_back_as_nobodys_and_serves_the_next_pod(rig: Rig, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    await rig.links.upsert({key(1): rig.link(1, first)})
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()
    assert run("ip", "address", "show", own_name(rig.nic.address(0))).count("inet") == 0
    assert [device["ifname"] for device in first.ip("link")] == ["lo"]
    assert await rig.links.remove([key(1)]) == {}, "twice is as good as once"
    wanted = {key(2): rig.link(2, second)}
    assert await rig.links.upsert(wanted) == {}
    assert await rig.links.observe() == wanted


async def test_pods_at_the_same_time(rig: Rig, pods: Pods) -> None:
    wanted = {key(number): rig.link(number, pods.make(), vf=number) for number in range(2)}
    assert await rig.links.upsert(wanted) == {}
    assert await rig.links.observe() == wanted
    assert await rig.links.remove(list(wanted)) == {}
    for index in range(2):
        rig.assert_home(index)


async def test_a_pod_that_is_gone_gave_its_vf_back_to_the_kernel(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await rig.links.upsert({key(1): rig.link(1, pod)})
    as_the_kernel_does(pod)
    assert show("eth0")["address"] == "0a:58:0a:65:00:01", "with the pod's MAC, and its name"
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()
    assert "eth0" not in devices()


async def test_a_pod_that_is_gone_is_noticed_without_a_del(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await rig.links.upsert({key(1): rig.link(1, pod)})
    as_the_kernel_does(pod)
    assert await rig.links.observe() == {}
    rig.assert_home()


async def test_a_del_waits_for_a_vf_that_the_kernel_has_not_given_back_yet(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await rig.links.upsert({key(1): rig.link(1, pod)})
    namespace = os.open(pod.path, os.O_RDONLY | os.O_CLOEXEC)
    pod.delete()
    try:
        failures = await rig.links.remove([key(1)])
        assert isinstance(failures[key(1)], VfAway)
        seen = await rig.links.observe()
        assert seen.keys() == {key(1)}, "there is something left to remove"
        assert seen[key(1)].addresses == ()
        assert rig.mark().startswith(f"{OURS} {key(1).container_id}"), "it is not free for the next pod"
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        run("nsenter", f"--net={path}", "ip", "link", "set", "eth0", "netns", str(os.getpid()))
    finally:
        os.close(namespace)
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()


async def test_a_late_del_does_not_touch_the_vf_of_another_pod(rig: Rig, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    await rig.links.upsert({key(1): rig.link(1, first)})
    as_the_kernel_does(first)
    wanted = {key(2): rig.link(2, second)}
    assert await rig.links.upsert(wanted) == {}, "what the first one left is cleared up for the second"
    assert await rig.links.remove([key(1), AttachmentId(key(2).container_id, "net1")]) == {}
    assert await rig.links.observe() == wanted


async def test_it_is_the_mark_that_keeps_a_late_del_out(rig: Rig, pods: Pods) -> None:
    """The negative control of the test above."""
    second = pods.make()
    await rig.links.upsert({key(2): rig.link(2, second)})
    run("ip", "link", "set", rig.nic.representor(0), "alias", Mark(key(1), second.path).text())
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()


async def test_a_vf_that_a_pod_has_is_no_other_pods(rig: Rig, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    wanted = {key(1): rig.link(1, first)}
    await rig.links.upsert(wanted)
    failures = await rig.links.upsert({key(2): rig.link(2, second)})
    assert isinstance(failures[key(2)], SlotTaken)
    assert await rig.links.observe() == wanted


async def test_a_move_that_was_cut_short_is_completed(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await rig.links.upsert({key(1): rig.link(1, pod)})
    pod.run("ip", "link", "set", "eth0", "down")
    pod.run("ip", "link", "set", "eth0", "name", "halfway")
    assert (await rig.links.observe())[key(1)].addresses == ()
    wanted = {key(1): rig.link(1, pod)}
    assert await rig.links.upsert(wanted) == {}
    assert await rig.links.observe() == wanted


async def test_a_pod_that_renamed_its_interface_gives_it_back_all_the_same(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await rig.links.upsert({key(1): rig.link(1, pod)})
    pod.run("ip", "link", "set", "eth0", "down")
    pod.run("ip", "link", "set", "eth0", "name", "mine")
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()
    assert {"eth0", "eth1"} <= {device["ifname"] for device in pod.ip("link")}, "those are the pod's own"


async def test_a_vf_that_somebody_else_has_is_refused_with_the_reason(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    rig.nic.bind(0, "vfio-pci")
    failures = await rig.links.upsert({key(1): rig.link(1, pod)})
    assert isinstance(failures[key(1)], VfAway)
    assert "vfio-pci" in str(failures[key(1)])
    assert rig.mark() == OURS, "nothing was begun"


async def test_a_wire_that_is_no_representor_is_refused(rig: Rig, pods: Pods) -> None:
    link = replace(rig.link(1, pods.make()), wire=rig.nic.vf(1))
    failures = await rig.links.upsert({key(1): link})
    assert isinstance(failures[key(1)], SlotMissing)


async def test_representors_are_ready_marked_and_left_as_they_are(rig: Rig) -> None:
    name, other = rig.nic.representor(0), rig.nic.representor(1)
    wanted = {name: Wire(MTU), other: Wire(MTU)}
    assert await rig.representors.observe() == wanted
    assert run("sysctl", "-n", f"net.ipv6.conf.{name}.disable_ipv6") == "1\n"
    run("ip", "link", "set", name, "down")
    assert await rig.representors.observe() != wanted
    assert await rig.representors.upsert({name: Wire(MTU)}) == {}
    assert await rig.representors.observe() == wanted
    assert await rig.representors.remove([name]) == {}
    assert await rig.representors.observe() == {other: Wire(MTU)}
    assert "UP" in show(name)["flags"]


async def test_somebody_elses_representor_is_left_alone(rig: Rig) -> None:
    name = rig.nic.representor(0)
    run("ip", "link", "set", name, "alias", "tenant 7")
    failures = await rig.representors.upsert({name: Wire(9000), "nowhere": Wire(9000)})
    assert isinstance(failures[name], ForeignDevice)
    assert isinstance(failures["nowhere"], SlotMissing)
    assert (show(name)["ifalias"], show(name)["mtu"]) == ("tenant 7", MTU)


async def test_the_uplinks_vfs_are_found_and_found_again(rig: Rig) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"etha"}, dict, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        expected = {4096 + index: Vf(rig.nic.representor(index), rig.nic.address(index)) for index in range(2)}
        assert looks == [expected]
        held = vfs.addresses
        run("ip", "link", "delete", rig.nic.representor(1))
        await vfs.look()
        assert looks[1] == {4096: expected[4096]}
        assert held == {rig.nic.representor(0): rig.nic.address(0)}, "who holds on to it sees the same"


async def test_pods_that_come_and_go_are_no_reason_to_look(rig: Rig, pods: Pods) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"etha"}, dict, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        for number in range(2):
            pod = pods.make()
            await rig.links.upsert({key(number): rig.link(number, pod)})
            if number:
                as_the_kernel_does(pod)
            assert await rig.links.remove([key(number)]) == {}
        heard = asyncio.Event()
        monitor.subscribe(lambda _: heard.set())
        run("ip", "link", "set", "etha", "up")
        async with asyncio.timeout(15):
            await heard.wait()  # so everything before has been heard, too
        assert not vfs.stirred
        run("ip", "link", "delete", rig.nic.representor(1))
        async with asyncio.timeout(15):
            while not vfs.stirred:
                await asyncio.sleep(0.02)


async def test_vfs_of_another_nic_than_the_uplink_are_not_for_pods(rig: Rig) -> None:
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        await Vfs(rig.nic.tree, {"eth9"}, dict, monitor, lambda found: looks.append(dict(found))).look()
    assert looks == [{}]


async def test_devices_that_come_or_are_renamed_are_looked_at(rig: Rig) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    run("ip", "link", "delete", rig.nic.representor(1))
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"etha"}, dict, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        assert looks[-1].keys() == {4096}
        following = asyncio.create_task(vfs.run())
        try:
            for change in (
                ("add", rig.nic.representor(1), "type", "veth", "peer", "name", rig.nic.vf(1)),
                ("set", rig.nic.representor(0), "name", "unknown"),
            ):
                before = looks[-1]
                run("ip", "link", *change)
                async with asyncio.timeout(15):
                    while looks[-1] == before:
                        await asyncio.sleep(0.02)
        finally:
            following.cancel()
            await asyncio.wait([following])
        assert [look.keys() for look in looks[-2:]] == [{4096, 4097}, {4097}]


async def impostor(rig: Rig, pod: Pod) -> None:
    """A privileged pod hides its VF behind a veth that looks like it."""
    assert await rig.links.upsert({key(1): rig.link(1, pod)}) == {}
    for change in (
        ("set", "eth0", "down"),
        ("set", "eth0", "name", "mine"),
        ("add", "eth0", "type", "veth", "peer", "name", "eth1"),
        ("set", "eth0", "alias", f"routed-vf {rig.nic.address(0)}"),
    ):
        pod.run("ip", "link", *change)


@pytest.mark.parametrize("rig", [by_hardware], indirect=True)
async def test_no_alias_makes_a_pods_own_device_a_vf(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    await impostor(rig, pod)
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()
    assert [device["ifname"] for device in pod.ip("link") if device["ifname"] != "lo"] == ["eth1", "eth0"]


async def test_it_is_the_hardware_that_keeps_such_a_device_out(rig: Rig, pods: Pods) -> None:
    """The negative control of the test above; what came home in place of a VF is in the way of nobody for long."""
    pod = pods.make()
    await impostor(rig, pod)
    await rig.links.remove([key(1)])
    assert "mine" in {device["ifname"] for device in pod.ip("link")}, "the VF is still there"
    assert own_name(rig.nic.address(0)) in devices(), "but something came"
    pod.run("ip", "link", "set", "mine", "netns", str(os.getpid()))
    run("ip", "link", "set", "mine", "name", "eth0")


@pytest.mark.parametrize("way_home", ["by DEL", "by the kernel"])
async def test_nothing_else_keeps_the_name_that_a_vf_comes_home_under(rig: Rig, pods: Pods, way_home: str) -> None:
    pod = pods.make()
    assert await rig.links.upsert({key(1): rig.link(1, pod)}) == {}
    run("ip", "link", "add", "squatter", "type", "veth", "peer", "name", "other")
    run("ip", "link", "set", "squatter", "name", own_name(rig.nic.address(0)))
    if way_home == "by the kernel":
        as_the_kernel_does(pod)
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()
    assert "stray0" in devices(), "nothing of anybody's is deleted"


async def test_devices_are_told_by_what_the_kernel_says_of_them(rig: Rig) -> None:
    with Rtnl() as home:
        veth = home.device(rig.nic.vf(0))
    assert veth is not None
    address = "0000:03:01.0"
    vf = replace(veth, kind="", alias=f"routed-vf {address}")
    named = replace(vf, hardware="0000:03:01.1")
    bare, disguised = replace(vf, alias=address), replace(veth, alias=vf.alias)
    told = [[tell(found) for found in (vf, named, bare, disguised)] for tell in (by_hardware, by_alias)]
    assert told == [["", "0000:03:01.1", "", ""], [address, "0000:03:01.1", "", ""]]
    (sysfs := rig.nic.tree / "mounted" / "kernel").mkdir(parents=True)
    assert identify(sysfs.parent, [veth, named]) is by_hardware, "once and for all"
    assert identify(sysfs.parent, [veth]) is by_alias
    assert identify(rig.nic.tree, [veth, named]) is by_label


@pytest.mark.parametrize(
    "use",
    [
        ("address", "add", "192.0.2.1/24", "dev", "{vf}"),
        ("link", "set", "{vf}", "master", "br7"),
        ("link", "add", "link", "{vf}", "name", "top", "type", "macvlan"),
    ],
)
async def test_a_vf_that_the_server_uses_is_not_taken_from_it(rig: Rig, pods: Pods, use: tuple[str, ...]) -> None:
    run("ip", "link", "add", "br7", "type", "bridge")
    link, vf, address = rig.link(1, pods.make()), rig.nic.vf(0), rig.nic.address(0)
    assert await asyncio.to_thread(is_idle, rig.nic.tree, address)
    run("ip", *(word.format(vf=vf) for word in use))
    if "top" in use:
        (rig.nic.tree / "class/net" / vf / "upper_top").mkdir()
    assert not await asyncio.to_thread(is_idle, rig.nic.tree, address)
    failures = await rig.links.upsert({key(1): link})
    assert isinstance(failures[key(1)], VfInUse)
    assert f"VF {address} is the server's own: it uses {vf} (" in str(failures[key(1)])
    assert vf in devices()
    assert rig.mark() == OURS, "nothing was begun"


async def test_a_pod_keeps_its_vf_while_nobody_knows_which_that_is(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(1): rig.link(1, pod)}
    assert await rig.links.upsert(wanted) == {}
    known = rig.addresses.pop(rig.nic.representor(0))
    seen = await rig.links.observe()
    assert seen.keys() == {key(1)}, "there is something left to remove"
    assert seen[key(1)].addresses == ()
    failures = await rig.links.remove([key(1)])
    assert isinstance(failures[key(1)], VfAway)
    left = await rig.representors.remove([rig.nic.representor(0)])
    assert isinstance(left[rig.nic.representor(0)], SlotTaken)
    assert rig.mark() == Mark(key(1), pod.path).text()
    rig.addresses[rig.nic.representor(0)] = known
    assert await rig.links.observe() == wanted
    assert await rig.links.remove([key(1)]) == {}
    rig.assert_home()


async def test_a_vf_that_a_pod_has_stays_known_while_it_is_not_seen(rig: Rig) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    taken = {rig.nic.address(1): 4097}
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"etha"}, lambda: taken, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        for index in range(2):
            run("ip", "link", "delete", rig.nic.representor(index))
        await vfs.look()
        assert [look.keys() for look in looks] == [{4096, 4097}, {4097}]
        assert vfs.addresses == {rig.nic.representor(1): rig.nic.address(1)}
        taken.clear()
        await vfs.look()
        assert looks[-1] == {}
        assert vfs.addresses == {}


async def test_what_cannot_be_read_leaves_everything_as_it_was(rig: Rig) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"etha"}, dict, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        unreadable = rig.nic.tree / "bus/pci/devices" / rig.nic.pfs[0] / "sriov_totalvfs"
        unreadable.unlink()
        unreadable.symlink_to(unreadable)
        await vfs.look()
        assert [look.keys() for look in looks] == [{4096, 4097}]
        assert len(vfs.addresses) == 2
        assert vfs.stirred, "it looks again"


async def test_where_vfs_are_for_nobody_those_that_pods_have_are_all_that_is_known(rig: Rig) -> None:
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    taken = {rig.nic.address(1): 4097}
    async with Monitor() as monitor:
        tell = looks.append
        vfs = Vfs(rig.nic.tree, {"etha"}, lambda: taken, monitor, lambda one: tell(dict(one)), for_pods=False)
        await vfs.look()
        taken.clear()
        await vfs.look()
    assert [look.keys() for look in looks] == [{4097}, set()]


async def test_a_port_that_joins_the_bond_is_looked_at(rig: Rig) -> None:
    """A bridge plays the bond."""
    run("ip", "link", "add", "bond", "type", "bridge")
    run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
    looks: list[dict[int, Vf]] = []
    async with Monitor() as monitor:
        vfs = Vfs(rig.nic.tree, {"bond"}, dict, monitor, lambda found: looks.append(dict(found)))
        await vfs.look()
        assert looks == [{}]
        run("ip", "link", "set", "etha", "master", "bond")
        async with asyncio.timeout(15):
            while not vfs.stirred:
                await asyncio.sleep(0.02)
        await vfs.look()
        assert looks[-1].keys() == {4096, 4097}


async def test_without_a_nic_other_peoples_devices_are_no_reason_to_look(rig: Rig, tmp_path: Path) -> None:
    async with Monitor() as monitor:
        bare = Vfs(tmp_path / "nothing", {"etha"}, dict, monitor, lambda _: None)
        other = Vfs(rig.nic.tree, {"etha"}, dict, monitor, lambda _: None)
        for vfs in (bare, other):
            await vfs.look()
        run("ip", "link", "add", "docker0", "type", "bridge")
        async with asyncio.timeout(15):
            while not other.stirred:  # the negative control: with a NIC it may be anything
                await asyncio.sleep(0.02)
        assert not bare.stirred
        run("ip", "link", "add", "etha", "type", "veth", "peer", "name", "tor")
        async with asyncio.timeout(15):
            while not bare.stirred:
                await asyncio.sleep(0.02)
