"""RDMA devices that go with VFs, through the plane: real namespaces, veth pairs as VFs, and a kernel that has RDMA."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
import pytest_asyncio

from routed.attach.errors import AttachError, RdmaMissing, RdmaShared
from routed.attach.kernel import Rtnl
from routed.attach.links import Links
from routed.attach.mark import OURS
from routed.attach.netns import Visit
from routed.attach.rdma import Rdma, VfRdma
from routed.attach.vf import VfWay, by_label, own_name
from routed.domain.wiring import Link
from routed.domain.workload import AttachmentId
from routed.threads import apart
from tests.fakes.rdma import OWN, RdmaKernel, namespace
from tests.fakes.veths import VethNic
from tests.fixtures.pods import Pod, Pods, run, server

pytestmark = pytest.mark.system


@dataclass
class Rig:
    """A server with two VFs, and the RDMA device of each."""

    nic: VethNic
    kernel: RdmaKernel
    links: Links

    def link(self, pod: Pod, vf: int = 0, *, rdma: bool = True) -> Link:
        return Link(
            wire=self.nic.representor(vf),
            netns=pod.path,
            ifname="eth0",
            mac=f"0a:58:0a:65:00:{vf:02x}",
            mtu=1450,
            addresses=(ip_interface(f"10.101.0.{vf + 1}/32"),),
            gateways=(ip_address("10.101.0.254"),),
            gateway_mac="02:00:00:00:01:01",
            rdma=rdma,
        )

    def whose(self) -> list[tuple[int, int]]:
        return [device.namespace for device in self.kernel.devices]


def key(number: int) -> AttachmentId:
    return AttachmentId(f"{number:064x}", "eth0")


def of(pod: Pod) -> tuple[int, int]:
    return namespace(Path(pod.path))


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with server():
        nic = VethNic(tmp_path / "sys", ["etha"], 2)
        nic.plug(run)
        (nic.tree / "class/infiniband").mkdir()
        kernel = RdmaKernel(namespace(OWN), nic.tree)
        for vf in range(2):
            run("ip", "link", "set", nic.representor(vf), "alias", OURS)
            kernel.add(f"mlx5_{vf + 2}", nic.address(vf), socket.if_nametoindex(nic.vf(vf)))
        addresses = {nic.representor(vf): nic.address(vf) for vf in range(2)}
        rdma = VfRdma(nic.tree, addresses, kernel.connect)
        with (
            contextlib.closing(kernel),
            contextlib.closing(rdma),
            contextlib.closing(VfWay(nic.tree, addresses, by_label)) as way,
        ):
            yield Rig(nic, kernel, Links(way, "vf_links", rdma))


async def test_the_rdma_device_joins_its_vf_and_leaves_with_it(rig: Rig, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    home = rig.kernel.home
    wanted = {key(0): rig.link(first), key(1): rig.link(second, 1, rdma=False)}
    for _ in range(2):
        assert await rig.links.upsert(wanted) == {}
        assert await rig.links.observe() == wanted
        assert rig.whose() == [of(first), home], "who did not ask gets none"
    assert await rig.links.remove(list(wanted)) == {}
    assert rig.whose() == [home, home]
    assert await rig.links.remove(list(wanted)) == {}
    assert await rig.links.observe() == {}


async def test_no_connection_stays_open_when_the_way_back_into_the_pod_is_gone(rig: Rig, pods: Pods) -> None:
    opened: list[Rdma] = []
    link = replace(rig.link(pods.make()), ifname="lo")

    def connect() -> Rdma:
        opened.append(rig.kernel.connect())
        return opened[-1]

    def join() -> None:
        with (
            Rtnl() as home,
            contextlib.closing(VfRdma(rig.nic.tree, {rig.nic.representor(0): "none"}, connect)) as rdma,
        ):
            slot = home.device(rig.nic.representor(0))
            assert slot is not None
            rdma.join(Visit(netns=-1, slots=home, pod=home), slot, link)

    with pytest.raises(AttachError):
        await apart(join)
    left = [one for one in opened if one._socket.fileno() != -1]
    for one in left:
        one.close()  # else nothing here could end
    assert (len(opened), left) == (1, [])


async def test_one_that_went_home_without_its_vf_is_missed_and_put_back(rig: Rig, pods: Pods) -> None:
    pod = pods.make()
    wanted = {key(0): rig.link(pod)}
    await rig.links.upsert(wanted)
    rig.kernel.end(of(pod))
    assert [link.rdma for link in (await rig.links.observe()).values()] == [False]
    assert await rig.links.upsert(wanted) == {}
    assert rig.whose()[0] == of(pod)
    assert await rig.links.observe() == wanted


async def test_a_pod_that_is_gone_needs_nothing_taken_back(rig: Rig, pods: Pods) -> None:
    first, second = pods.make(), pods.make()
    await rig.links.upsert({key(0): rig.link(first)})
    dying = of(first)
    first.run("ip", "link", "set", "eth0", "netns", str(os.getpid()))  # as the kernel does
    first.delete()
    assert await rig.links.remove([key(0)]) == {}
    failures = await rig.links.upsert({key(1): rig.link(second)})
    assert isinstance(failures[key(1)], RdmaMissing), "the kernel has not brought it home yet"
    rig.kernel.end(dying)
    assert await rig.links.upsert({key(1): rig.link(second)}) == {}
    assert rig.whose()[0] == of(second)


async def test_shared_devices_fail_the_pod_that_wants_one_and_no_other(rig: Rig, pods: Pods) -> None:
    rig.kernel.shared = True
    first, second = pods.make(), pods.make()
    failures = await rig.links.upsert({key(0): rig.link(first), key(1): rig.link(second, 1, rdma=False)})
    assert failures.keys() == {key(0)}
    assert isinstance(failures[key(0)], RdmaShared)
    assert [link.rdma for link in (await rig.links.observe()).values()] == [False, False], "what is shared is nobody's"
    assert await rig.links.remove([key(0), key(1)]) == {}
    assert rig.whose() == [rig.kernel.home] * 2
    assert "mtu" in run("ip", "link", "show", own_name(rig.nic.address(0))), "the VF is home"


async def test_a_kernel_without_rdma_is_never_asked(rig: Rig, pods: Pods) -> None:
    (rig.nic.tree / "class/infiniband").rmdir()
    wanted = {key(0): rig.link(pods.make(), rdma=False)}
    assert await rig.links.upsert(wanted) == {}
    assert await rig.links.observe() == wanted
    assert await rig.links.remove([key(0)]) == {}
    assert rig.kernel.asked == 0
