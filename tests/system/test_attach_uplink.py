"""Both ToRs learn the server, and the server follows its gateway: two bond members, a ToR behind each."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from routed.attach import hostfacts
from routed.attach.announce import Announcer
from routed.attach.errors import KernelError
from routed.attach.gateway import Gateway
from routed.attach.monitor import Monitor
from tests.fixtures.pods import run
from tests.fixtures.uplinks import (
    ASKERS,
    GATEWAY_MAC,
    HOST_MAC,
    Rack,
    arp_start,
    first,
    listen,
    monitor,
    rack,
    source,
)

__all__ = ["monitor", "rack"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

GATEWAYS = tuple(asker.gateway for asker in ASKERS)
FOREVER_S = 3600.0


def ns_start(tag: str = "") -> bytes:
    return bytes.fromhex("3333ff000001") + source() + bytes.fromhex(tag) + b"\x86\xdd"


@pytest.mark.parametrize(("vlan", "tag"), [(None, ""), (108, "8100006c")])
async def test_asks_out_of_every_member(monitor: Monitor, vlan: int | None, tag: str) -> None:
    announcer = Announcer("br0", ["etha", "ethb"], ASKERS, monitor, vlan=vlan)
    with listen("etha") as a, listen("ethb") as b:
        await announcer.announce()

        for member in (a, b):
            assert len(first(member, arp_start(tag))) == 42 + len(tag) // 2
            assert len(first(member, ns_start(tag))) == 86 + len(tag) // 2


async def test_both_tors_learn_the_server(rack: Rack, monitor: Monitor) -> None:
    for tor in rack.tors:
        tor.run("ip", "address", "add", "10.1.0.1/24", "dev", "eth0")
        tor.run("ip", "address", "add", "fd00:1::1/64", "dev", "eth0", "nodad")
        assert tor.ip("neigh", "show", "10.1.0.11") == []

    await Announcer("br0", ["etha", "ethb"], ASKERS, monitor).announce()

    for tor in rack.tors:
        for address in ("10.1.0.11", "fd00:1::11"):
            async with asyncio.timeout(10):
                while not any(entry.get("lladdr") == HOST_MAC for entry in tor.ip("neigh", "show", address)):
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("gateway_mac", "states"), [("02:00:00:00:01:01", {"REACHABLE"}), (None, {"STALE", "DELAY", "PROBE"})]
)
async def test_a_tor_that_was_told_need_not_ask(
    rack: Rack, monitor: Monitor, gateway_mac: str | None, states: set[str]
) -> None:
    for tor in rack.tors:
        tor.run("ip", "link", "set", "eth0", "address", "02:00:00:00:01:01")
        tor.run("ip", "address", "add", "10.1.0.1/24", "dev", "eth0")
        tor.run("ip", "address", "add", "fd00:1::1/64", "dev", "eth0", "nodad")

    announcer = Announcer("br0", ["etha", "ethb"], ASKERS, monitor, gateway_mac=lambda: gateway_mac)
    with listen("etha") as a, listen("ethb") as b:
        await announcer.announce()
        for member in (a, b):  # it is through with all of it
            first(member, ns_start())

    for tor in rack.tors:
        for address in ("10.1.0.11", "fd00:1::11"):
            async with asyncio.timeout(10):
                while not any(states & set(entry["state"]) for entry in tor.ip("neigh", "show", address)):
                    await asyncio.sleep(0.02)


async def test_a_missing_or_dead_member_does_not_silence_the_other(monitor: Monitor) -> None:
    run("ip", "link", "set", "etha", "down")
    with listen("ethb") as b:
        await Announcer("br0", ["gone", "etha", "ethb"], ASKERS, monitor).announce()

        first(b, arp_start())


async def test_says_when_there_is_no_bridge(monitor: Monitor) -> None:
    with pytest.raises(KernelError, match="br9"):
        await Announcer("br9", ["etha"], ASKERS, monitor).announce()


async def test_asks_at_once_when_a_members_carrier_comes_up(rack: Rack, monitor: Monitor) -> None:
    rack.tors[0].run("ip", "link", "set", "eth0", "down")
    announcer = Announcer("br0", ["etha", "ethb"], ASKERS, monitor, period_s=FOREVER_S)
    with listen("etha") as a, listen("ethb") as b:
        running = asyncio.create_task(announcer.run())
        await asyncio.to_thread(first, b, ns_start())
        a.setblocking(False)
        with pytest.raises(BlockingIOError):
            first(a, arp_start())

        a.settimeout(10)
        rack.tors[0].run("ip", "link", "set", "eth0", "up")
        await asyncio.to_thread(first, a, arp_start())
        await asyncio.to_thread(first, a, ns_start())

        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_asks_again_after_a_while(monitor: Monitor) -> None:
    announcer = Announcer("br0", ["etha"], ASKERS[:1], monitor, period_s=0.05)
    with listen("etha") as a:
        running = asyncio.create_task(announcer.run())
        for _ in range(3):
            await asyncio.to_thread(first, a, arp_start())
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_learns_the_gateway_and_follows_its_mac(rack: Rack, monitor: Monitor) -> None:
    tor = rack.tors[0]
    run("ip", "link", "set", "etha", "master", "br0")
    run("ip", "address", "add", "10.1.0.11/24", "dev", "br0")
    woken = asyncio.Event()
    gateway = Gateway("br0", GATEWAYS[:1], woken.set, monitor, period_s=0.2)
    running = asyncio.create_task(gateway.run())
    try:
        assert gateway.mac is None
        tor.run("ip", "address", "add", "10.1.0.1/24", "dev", "eth0")
        await woken.wait()
        assert gateway.mac == GATEWAY_MAC

        woken.clear()
        tor.run("ip", "link", "set", "eth0", "address", "02:00:00:00:02:02")
        tor.run("ip", "neigh", "flush", "dev", "eth0")
        tor.run("ping", "-c1", "-W5", "10.1.0.11")  # asks for the server, and tells its own new MAC with it
        await woken.wait()
        assert gateway.mac == "02:00:00:00:02:02"

        tor.run("ip", "link", "set", "eth0", "down")
        run("ip", "neigh", "flush", "dev", "br0")
        assert gateway.mac == "02:00:00:00:02:02"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_learns_the_gateway_over_ipv6_alone(rack: Rack, monitor: Monitor) -> None:
    run("ip", "link", "set", "etha", "master", "br0")
    run("ip", "address", "add", "fd00:1::11/64", "dev", "br0", "nodad")
    rack.tors[0].run("ip", "address", "add", "fd00:1::1/64", "dev", "eth0", "nodad")
    woken = asyncio.Event()
    gateway = Gateway("br0", GATEWAYS[1:], woken.set, monitor, period_s=0.2)
    running = asyncio.create_task(gateway.run())
    try:
        await woken.wait()
        assert gateway.mac == GATEWAY_MAC
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def test_facts_about_the_server(rack: Rack) -> None:
    rack.tors[1].run("ip", "link", "set", "eth0", "down")
    run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.br0.rp_filter=1", "net.ipv4.conf.br0.send_redirects=0")

    members = hostfacts.devices(["etha", "ethb", "ethc"])
    settings = {setting.name: setting for setting in hostfacts.settings("br0")}

    a, b = members["etha"], members["ethb"]
    assert a is not None
    assert b is not None
    assert (a.carrier, b.carrier, members["ethc"]) == (True, False, None)
    assert hostfacts.device("br0") is not None
    assert hostfacts.broadcast_neighbor("bond0") is None
    assert not settings["ipv4/ip_forward"].good
    assert not settings["ipv4/conf/br0/rp_filter"].good
    assert settings["ipv4/conf/br0/send_redirects"].good
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert hostfacts.settings("br0")[0].good
