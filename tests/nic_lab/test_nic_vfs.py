"""Real VFs in pods: moved there, working, back again; dummies play their representors, which this NIC has not got."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
import pytest_asyncio

from routed.attach.errors import InterfaceExists
from routed.attach.kernel import Rtnl
from routed.attach.links import Links
from routed.attach.mark import OURS
from routed.attach.sysfs import SYSFS
from routed.attach.vf import VfWay, by_hardware, identify, own_mac, own_name
from routed.domain.wiring import Link
from routed.domain.workload import AttachmentId
from tests.fabric import eventually
from tests.fixtures.pods import Pod, Pods, run
from tests.nic_lab.card import PFS, VFS, device_of, make_vfs, names

pytestmark = pytest.mark.nic

MTU = 1450
GATEWAY = ip_interface("10.101.0.254/24")
REPRESENTORS = ("rep0", "rep1")


def show(device: str) -> dict[str, Any]:
    [found] = json.loads(run("ip", "-json", "link", "show", device))
    return dict(found)


def key(number: int) -> AttachmentId:
    return AttachmentId(f"{number:064x}", "eth0")


def link(number: int, pod: Pod, vf: int = 0) -> Link:
    """What pod `number` wants of a VF; its gateway is the port itself, inside the NIC."""
    return Link(
        wire=REPRESENTORS[vf],
        netns=pod.path,
        ifname="eth0",
        mac=f"0a:58:0a:65:00:{number:02x}",
        mtu=MTU,
        addresses=(ip_interface(f"10.101.0.{number}/32"),),
        gateways=(ip_address(GATEWAY.ip),),
        gateway_mac=show(device_of(PFS[0]))["address"],
    )


@pytest.fixture(scope="module", autouse=True)
def port() -> Iterator[str]:
    """The first port, up, with the pods' gateway on it and two VFs, which have a representor each."""
    name = device_of(PFS[0])
    run("ip", "link", "set", name, "up")
    run("ip", "address", "add", str(GATEWAY), "dev", name)
    make_vfs(PFS[0], 2)
    for representor in REPRESENTORS:
        run("ip", "link", "add", representor, "type", "dummy")
        run("ip", "link", "set", representor, "alias", OURS)
    eventually(lambda: show(name)["operstate"] == "UP", "carrier")
    yield name
    for representor in REPRESENTORS:
        run("ip", "link", "delete", representor)
    make_vfs(PFS[0], 0)
    run("ip", "address", "flush", "dev", name)


@pytest.fixture
def links() -> Iterator[Links]:
    with Rtnl() as home:
        told = identify(SYSFS, home.devices())
    assert told is by_hardware
    way = VfWay(SYSFS, dict(zip(REPRESENTORS, VFS, strict=False)), told)
    with contextlib.closing(way):
        yield Links(way)


@pytest_asyncio.fixture(autouse=True)
async def clean(links: Links) -> AsyncIterator[None]:
    """Every test begins and ends with VFs that are nobody's."""
    yield
    await take_back(links, 1, 2, 3)


async def take_back(links: Links, *numbers: int) -> None:
    """DEL, as often as it takes: a VF comes back a moment after its namespace has died."""
    async with asyncio.timeout(60):
        while await links.remove([key(number) for number in numbers]):
            await asyncio.sleep(0.01)


def assert_home(vf: int = 0, mac: str = "") -> None:
    """Assert that a VF is back and nobody's."""
    found = show(own_name(VFS[vf]))
    assert (found["address"], found.get("ifalias")) == (mac or own_mac(VFS[vf]), None)
    assert "UP" not in found["flags"]
    assert names(VFS[vf]) == [own_name(VFS[vf])]
    assert show(REPRESENTORS[vf])["ifalias"] == OURS


async def test_a_pod_has_the_vf_and_reaches_its_gateway_through_the_nic(links: Links, pods: Pods) -> None:
    pod = pods.make()
    assert await links.upsert({key(1): link(1, pod)}) == {}
    assert await links.observe() == {key(1): link(1, pod)}
    assert names(VFS[0]) == [], "it is not in the server's namespace"
    _, device = pod.ip("link")
    assert (device["ifname"], device["address"], device["mtu"]) == ("eth0", "0a:58:0a:65:00:01", MTU)
    assert device["parentdev"] == VFS[0]
    eventually(lambda: pod.ip("link", "show", "eth0")[0]["operstate"] == "UP", "carrier")
    pod.run("ping", "-c", "1", "-W", "5", str(GATEWAY.ip))
    assert await links.remove([key(1)]) == {}
    assert_home()
    assert len(pod.ip("link")) == 1


async def test_a_vf_whose_namespace_died_comes_back_under_some_name_and_is_reset(links: Links, pods: Pods) -> None:
    pod = pods.make()
    assert await links.upsert({key(1): link(1, pod)}) == {}
    pod.delete()
    eventually(lambda: len(names(VFS[0])) == 1, "the kernel has put it back")
    found = show(device_of(VFS[0]))
    assert found["ifname"].startswith("dev"), "eth0 is the port's name"
    assert (found["address"], found["mtu"]) == ("0a:58:0a:65:00:01", MTU), "the kernel resets nothing"
    assert "UP" not in found["flags"]
    assert await links.remove([key(1)]) == {}
    assert_home()


async def test_a_del_just_after_the_namespace_died_succeeds_in_the_end(links: Links, pods: Pods) -> None:
    pod = pods.make()
    assert await links.upsert({key(1): link(1, pod)}) == {}
    pod.delete()
    await take_back(links, 1)
    assert_home()


async def test_a_late_del_leaves_the_vf_to_the_pod_that_has_it_now(links: Links, pods: Pods) -> None:
    old, new = pods.make(), pods.make()
    assert await links.upsert({key(1): link(1, old)}) == {}
    old.delete()
    eventually(lambda: len(names(VFS[0])) == 1, "the VF is back")
    assert await links.upsert({key(2): link(2, new)}) == {}
    before = new.ip("address", "show", "eth0")
    assert await links.remove([key(1)]) == {}
    assert new.ip("address", "show", "eth0") == before
    assert await links.observe() == {key(2): link(2, new)}
    assert await links.remove([key(2)]) == {}, "the negative control: its own DEL does take it"
    assert_home()


async def test_an_interface_of_that_name_in_the_pod_keeps_the_vf_at_home(links: Links, pods: Pods) -> None:
    pod = pods.make()
    pod.run("ip", "link", "add", "eth0", "type", "dummy")
    before = show(device_of(VFS[0]))
    failures = await links.upsert({key(1): link(1, pod)})
    assert isinstance(failures[key(1)], InterfaceExists)
    assert show(device_of(VFS[0])) == before
    assert await links.observe() == {}


async def test_a_vf_that_its_pod_renamed_and_hid_behind_another_device_is_found(links: Links, pods: Pods) -> None:
    pod = pods.make()
    assert await links.upsert({key(1): link(1, pod)}) == {}
    pod.run("ip", "link", "set", "eth0", "down")
    pod.run("ip", "link", "set", "eth0", "name", "mine")
    pod.run("ip", "link", "add", "eth0", "type", "dummy")
    pod.run("ip", "link", "set", "eth0", "alias", f"routed-vf {VFS[0]}")
    assert await links.remove([key(1)]) == {}
    assert_home()
    assert [device["ifname"] for device in pod.ip("link")] == ["lo", "eth0"], "which is the pod's own"


async def test_two_pods_have_a_vf_each(links: Links, pods: Pods) -> None:
    one, two = pods.make(), pods.make()
    wanted = {key(1): link(1, one, 0), key(2): link(2, two, 1)}
    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted
    assert [pod.ip("link", "show", "eth0")[0]["parentdev"] for pod in (one, two)] == list(VFS[:2])


@pytest.fixture
def fixed(port: str) -> Iterator[str]:
    """Have somebody say at the port which MAC address the second VF must have; return the one that it has still."""
    vf = device_of(VFS[1])
    for change in (("up",), ("down",), ("address", "02:00:00:00:bb:01")):  # its driver obeys the port once it was up
        run("ip", "link", "set", vf, *change)
    run("ip", "link", "set", port, "vf", "1", "mac", "0a:58:0a:65:00:09")
    yield "02:00:00:00:bb:01"
    run("ip", "link", "set", port, "vf", "1", "mac", "00:00:00:00:00:00")


async def test_a_vf_whose_mac_address_the_port_fixes_is_refused_and_goes_home_with_it(
    links: Links, pods: Pods, fixed: str
) -> None:
    pod = pods.make()
    failures = await links.upsert({key(3): link(3, pod, 1)})
    assert str(failures[key(3)]).endswith("Cannot assign requested address")
    assert len(pod.ip("link")) == 2, "the kernel has moved it before it refuses"
    assert await links.remove([key(3)]) == {}
    assert_home(1, fixed)
    assert len(pod.ip("link")) == 1
