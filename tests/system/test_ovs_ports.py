"""The ports plane and the bridge's settings against a real database and switch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from ovs_flows.errors import BridgeError, ForeignPort, PortError, Unreachable
from ovs_flows.model import Port
from ovs_flows.ovsdb import Ovsdb
from ovs_flows.rows import UplinkPorts
from ovs_flows.tables import PREFIX_TABLES
from tests.system.ovs_instance import Ovs, packet_socket, run, until

pytestmark = pytest.mark.system


@pytest.fixture
def bridge(ovs: Ovs) -> Ovs:
    """Bridge br0 with uplink up0, number 1, and a neighbour's bridge beside it."""
    ovs.add_bridge("br0")
    ovs.add_veth("br0", "up0", 1)
    ovs.add_bridge("theirs")
    ovs.add_veth("theirs", "their0", 1)
    return ovs


@contextlib.asynccontextmanager
async def connected(ovs: Ovs, bridge: str = "br0", uplink: str = "up0") -> AsyncIterator[tuple[Ovsdb, asyncio.Event]]:
    woken = asyncio.Event()
    ovsdb = Ovsdb(ovs.database, bridge, uplink, woken.set)
    task = asyncio.create_task(ovsdb.run())
    try:
        async with asyncio.timeout(10):
            await woken.wait()
        woken.clear()
        yield ovsdb, woken
    finally:
        task.cancel()
        await asyncio.wait([task])


async def woken_until(woken: asyncio.Event, condition: Callable[[], object]) -> None:
    """Look again after each wake-up until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            woken.clear()
            if not condition():
                await woken.wait()


async def look_until_it_fails(ovsdb: Ovsdb) -> None:
    async with asyncio.timeout(10):
        while True:
            await ovsdb.ports.observe()


def slots(*numbers: int) -> dict[str, Port]:
    return {f"rt{number}": Port(f"rt{number}", 1000 + number) for number in numbers}


# --- ports -----------------------------------------------------------------------------------------------------------


async def test_ports_get_the_numbers_that_were_asked_for(bridge: Ovs) -> None:
    wanted = slots(*range(16))
    for name in wanted:
        bridge.make_veth(name)
    async with connected(bridge) as (ovsdb, _):
        assert await ovsdb.ports.observe() == {}
        assert await ovsdb.ports.upsert(wanted) == {}
        assert await ovsdb.ports.observe() == wanted
        assert bridge.vsctl("get", "interface", "rt7", "ofport").strip() == "1007"
        assert bridge.vsctl("get", "port", "rt7", "tag").strip() == "4095"
        assert await ovsdb.ports.upsert(wanted) == {}
        assert await ovsdb.ports.remove(["rt3", "rt4", "never"]) == {}
        assert await ovsdb.ports.observe() == {name: wanted[name] for name in wanted if name not in {"rt3", "rt4"}}


async def test_port_without_device_fails_alone_and_heals_when_it_comes(bridge: Ovs) -> None:
    bridge.make_veth("rt0")
    async with connected(bridge) as (ovsdb, woken):
        failures = await ovsdb.ports.upsert(slots(0, 1))
        assert set(failures) == {"rt1"}
        assert isinstance(failures["rt1"], PortError)
        assert "create its network device" in str(failures["rt1"])
        assert await ovsdb.ports.observe() == {"rt0": Port("rt0", 1000), "rt1": Port("rt1", 0)}
        woken.clear()
        bridge.make_veth("rt1")
        await woken_until(woken, lambda: bridge.vsctl("get", "interface", "rt1", "ofport").strip() == "1001")
        assert await ovsdb.ports.upsert(slots(0, 1)) == {}
        assert await ovsdb.ports.observe() == slots(0, 1)


async def test_device_that_is_deleted_and_made_again_is_plugged_again(bridge: Ovs) -> None:
    """The userspace datapath would hold on to the dead one for ever, with a number that looks right."""
    bridge.make_veth("rt0")
    async with connected(bridge) as (ovsdb, woken):
        await ovsdb.configure()
        await ovsdb.ports.upsert(slots(0))
        for _ in range(2):
            woken.clear()
            run("ip", "-n", bridge.netns, "link", "delete", "rt0")
            bridge.make_veth("rt0")
            async with asyncio.timeout(10):
                while await ovsdb.ports.observe() == slots(0):
                    await woken.wait()
                    woken.clear()
            assert await ovsdb.ports.upsert(slots(0)) == {}
            assert await ovsdb.ports.observe() == slots(0)
            bridge.ofctl("add-flow", "br0", "in_port=1000,actions=drop")
            with contextlib.closing(packet_socket(bridge.netns, "rt0p")) as far_end:
                far_end.send(bytes(60))
            until(lambda: "packet_count=0" not in bridge.ofctl("dump-aggregate", "br0", "in_port=1000"), "it is alive")
            bridge.ofctl("del-flows", "br0")


async def test_number_in_use_is_reported_with_what_to_do(bridge: Ovs) -> None:
    bridge.add_veth("br0", "squatter", 1005)
    bridge.make_veth("rt5")
    async with connected(bridge) as (ovsdb, _):
        failures = await ovsdb.ports.upsert(slots(5))
        assert "ofport=1005" in str(failures["rt5"])
        assert (await ovsdb.ports.observe())["rt5"] != Port("rt5", 1005)
        bridge.vsctl("del-port", "squatter")
        assert await ovsdb.ports.upsert(slots(5)) == {}
        assert await ovsdb.ports.observe() == slots(5)


async def test_foreign_ports_are_neither_seen_nor_touched(bridge: Ovs) -> None:
    bridge.add_veth("br0", "rt0", 9)
    bridge.add_veth("theirs", "rt1", 9)
    async with connected(bridge) as (ovsdb, _):
        assert await ovsdb.ports.observe() == {}
        failures = await ovsdb.ports.upsert(slots(0, 1))
        assert {name: type(error) for name, error in failures.items()} == {"rt0": ForeignPort, "rt1": ForeignPort}
        failures = await ovsdb.ports.remove(["rt0", "rt1", "up0"])
        assert set(failures) == {"rt0", "rt1", "up0"}
    assert bridge.vsctl("list-ports", "br0").split() == ["rt0", "up0"]
    assert bridge.vsctl("list-ports", "theirs").split() == ["rt1", "their0"]
    assert bridge.vsctl("get", "interface", "rt0", "ofport_request").strip() == "9"


async def test_a_change_of_what_open_vswitch_offloads_wakes(bridge: Ovs) -> None:
    async with connected(bridge) as (ovsdb, woken):
        await ovsdb.configure()
        woken.clear()
        bridge.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true")
        async with asyncio.timeout(10):
            await woken.wait()


async def test_port_that_somebody_removes_wakes_and_comes_back(bridge: Ovs) -> None:
    bridge.make_veth("rt0")
    async with connected(bridge) as (ovsdb, woken):
        await ovsdb.ports.upsert(slots(0))
        woken.clear()
        bridge.vsctl("del-port", "rt0")
        async with asyncio.timeout(10):
            await woken.wait()
        assert await ovsdb.ports.observe() == {}
        assert await ovsdb.ports.upsert(slots(0)) == {}


async def test_ports_keep_their_numbers_over_a_restart_of_the_switch(bridge: Ovs) -> None:
    wanted = slots(0, 1, 2)
    for name in wanted:
        bridge.make_veth(name)
    async with connected(bridge) as (ovsdb, _):
        await ovsdb.ports.upsert(wanted)
        bridge.kill("ovs-vswitchd")
        await asyncio.to_thread(bridge.start_switch)
        assert await ovsdb.ports.observe() == wanted


async def test_lost_database_is_an_error_and_comes_back_with_a_wake(bridge: Ovs) -> None:
    bridge.make_veth("rt0")
    async with connected(bridge) as (ovsdb, woken):
        await ovsdb.ports.upsert(slots(0))
        bridge.kill("ovsdb-server")
        with pytest.raises(Unreachable):
            await look_until_it_fails(ovsdb)
        with pytest.raises(Unreachable):
            await ovsdb.ports.upsert(slots(0))
        woken.clear()
        bridge.start_database()
        async with asyncio.timeout(30):
            await woken.wait()
        assert await ovsdb.ports.observe() == slots(0)


# --- the bridge ------------------------------------------------------------------------------------------------------


async def test_settings_are_made_right_and_the_rest_left_alone(bridge: Ovs) -> None:
    bridge.vsctl("set", "bridge", "br0", "other_config:hwaddr=02:aa:00:00:00:10", "external_ids:site=x")
    run("ip", "-n", bridge.netns, "link", "set", "up0", "mtu", "4000")
    theirs = bridge.vsctl("list", "bridge", "theirs")
    bridge.add_veth("br0", "rt0", 1000)
    bridge.vsctl("set", "port", "rt0", "external_ids:owner=routed")  # in no VLAN, as earlier agents left it
    async with connected(bridge) as (ovsdb, woken):
        await woken_until(woken, lambda: bridge.vsctl("get", "interface", "up0", "mtu").strip() == "4000")
        await ovsdb.configure()
        count = bridge.vsctl("get", "Open_vSwitch", ".", "next_cfg")
        await ovsdb.configure()
        assert bridge.vsctl("get", "Open_vSwitch", ".", "next_cfg") == count, "a second look commits nothing"
        assert bridge.vsctl("get", "bridge", "br0", "fail_mode").strip() == "secure"
        assert 'disable-in-band="true"' in bridge.vsctl("get", "bridge", "br0", "other_config")
        assert "02:aa" in bridge.vsctl("get", "bridge", "br0", "other_config")
        assert "owner=routed" in bridge.vsctl("get", "bridge", "br0", "external_ids")
        assert "site=x" in bridge.vsctl("get", "bridge", "br0", "external_ids")
        assert bridge.vsctl("get", "interface", "br0", "mtu_request").strip() == "4000"
        assert bridge.vsctl("get", "port", "rt0", "tag").strip() == "4095"
        assert bridge.vsctl("get", "port", "up0", "tag").strip() == "[]"
        prefixes = bridge.vsctl("--bare", "--columns=prefixes", "list", "Flow_Table").split("\n\n")
        assert [sorted(line.split()) for line in prefixes] == [["ip_dst", "ip_src", "ipv6_dst"]] * len(PREFIX_TABLES)
        assert await ovsdb.uplink() == UplinkPorts((1,), ("up0",), 4000, "02:aa:00:00:00:10", "netdev")
    assert bridge.vsctl("list", "bridge", "theirs") == theirs


async def test_uplink_that_is_a_bond_is_all_of_its_members(bridge: Ovs) -> None:
    for name in ("m0", "m1"):
        bridge.make_veth(name)
    numbers = ("--", "set", "interface", "m0", "ofport_request=3", "--", "set", "interface", "m1", "ofport_request=2")
    bridge.vsctl("--no-wait", "add-bond", "br0", "bond0", "m0", "m1", "late", *numbers)
    async with connected(bridge, uplink="bond0") as (ovsdb, woken):
        await woken_until(woken, lambda: bridge.vsctl("get", "interface", "m1", "ofport").strip() == "2")
        uplink = await ovsdb.uplink()
        assert (uplink.ofports, uplink.devices) == ((2, 3), ("m1", "m0"))
        woken.clear()
        bridge.make_veth("late")
        await woken_until(woken, lambda: bridge.vsctl("get", "interface", "late", "error").strip() == "[]")
        assert set((await ovsdb.uplink()).devices) == {"m0", "m1", "late"}


async def test_unfit_bridges_are_refused_with_what_to_do(bridge: Ovs) -> None:
    bridge.add_bridge("steered")
    bridge.add_veth("steered", "up9", 1)
    bridge.vsctl("set-controller", "steered", "ptcp:0:127.0.0.1")
    bridge.add_bridge("owned", "external_ids:owner=somebody")
    bridge.add_veth("owned", "up8", 1)
    before = bridge.vsctl("list", "bridge")
    for name, uplink, advice in (
        ("nowhere", "up0", "add-br nowhere"),
        ("br0", "eth9", "add-port br0 eth9"),
        ("br0", "their0", "it has up0"),
        ("steered", "up9", "del-controller steered"),
        ("owned", "up8", "belongs to somebody"),
    ):
        async with connected(bridge, name, uplink) as (ovsdb, _):
            with pytest.raises(BridgeError, match=advice):
                await ovsdb.configure()
    assert bridge.vsctl("list", "bridge") == before


async def test_two_connections_in_one_process_do_not_mix(bridge: Ovs) -> None:
    async with connected(bridge) as (one, _), connected(bridge, "theirs", "their0") as (other, _):
        assert (await one.uplink()).devices == ("up0",)
        assert (await other.uplink()).devices == ("their0",)
