"""The flows plane against real Open vSwitch: what is asked for is what is there, whatever somebody does to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ovs_flows import messages, meters
from ovs_flows.connection import Connection
from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.errors import Refused, Unreachable
from ovs_flows.model import Entry, Flow, Match, Meter, Output, SetField, ToGroup, UseMeter
from ovs_flows.openflow import Flows
from ovs_flows.pipeline import base, endpoint
from tests.golden.pipelines import DUAL, PIPELINES, entries, golden
from tests.golden.pipelines import POD as ENDPOINT
from tests.system.ovs_instance import Ovs

pytestmark = pytest.mark.system
BASE, POD = cookie(BASE_OBJECT), cookie(1)
BAD = Flow(40, 77, Match.of(eth_type=0x0800), (Output(0xFFFF_FFF0),))
"""No port has this number: OVS refuses the flow."""


@dataclass
class Plane:
    """A running flows plane and its wake-up calls."""

    flows: Flows
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_wake(self) -> None:
        async with asyncio.timeout(10):
            await self.woken.wait()
        self.woken.clear()


@contextlib.asynccontextmanager
async def running(socket: Path) -> AsyncIterator[Plane]:
    woken = asyncio.Event()
    plane = Plane(Flows(socket, woken.set), woken)
    task = asyncio.create_task(plane.flows.run())
    try:
        await plane.wait_for_wake()
        yield plane
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def bridge(ovs: Ovs) -> Iterator[Ovs]:
    ovs.add_bridge("br0", "fail_mode=secure")
    yield ovs
    assert set(ovs.processes) == {"ovsdb-server", "ovs-vswitchd"}, "the test left Open vSwitch broken"


def dump(ovs: Ovs) -> list[str]:
    return sorted(line.strip() for line in ovs.ofctl("dump-flows", "br0").splitlines())


def counter(ovs: Ovs, match: str) -> str:
    lines = ovs.ofctl("dump-aggregate", "br0", match)
    return lines[lines.index("packet_count") :]


@pytest.mark.parametrize("name", PIPELINES)
async def test_real_dump_is_the_golden_text_and_observe_returns_what_was_upserted(bridge: Ovs, name: str) -> None:
    async with running(bridge.management("br0")) as plane:
        assert await plane.flows.observe() == {}
        assert await plane.flows.upsert(entries(name)) == {}
        assert await plane.flows.observe() == entries(name)
    shown = [line.strip() for line in bridge.ofctl("dump-groups", "br0").splitlines() if "group_id" in line]
    shown += re.findall(r"meter=.*", bridge.ofctl("dump-meters", "br0").replace("bands=\n", "bands="))
    assert sorted(shown + dump(bridge)) == sorted(golden(name))


async def test_upsert_twice_changes_nothing_and_keeps_counters(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(entries("dual"))
        bridge.ofctl("packet-out", "br0", f"in_port=LOCAL,packet={'02' * 12}9000{'00' * 46},actions=TABLE")
        before = counter(bridge, "table=20")
        assert before.startswith("packet_count=1")
        await plane.flows.upsert(entries("dual"))
        assert counter(bridge, "table=20") == before


async def test_pipelines_follow_one_another_with_groups_coming_and_going(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        for name in ("v4", "two-uplinks-vlan", "dual", "two-uplinks", "no-gateway", "v4"):
            assert await plane.flows.upsert(entries(name)) == {}
            assert await plane.flows.observe() == entries(name)


async def test_own_changes_do_not_wake(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(entries("dual"))
        await plane.flows.remove([POD])
        await plane.flows.observe()
        assert not plane.woken.is_set()
        bridge.ofctl("add-flow", "br0", "table=3,priority=1,actions=drop")  # negative control
        await plane.wait_for_wake()


@pytest.mark.parametrize(
    "damage",
    [
        ("del-flows", "cookie=0x5652000100000001/-1,table=30"),
        ("del-flows", ""),
        ("mod-flows", "table=50,actions=drop"),
        ("add-flow", "table=40,priority=250,ip,nw_dst=10.101.0.11,actions=drop"),
        ("add-flow", "cookie=0x5652000100000001,table=40,priority=250,ip,nw_dst=10.101.0.11,actions=drop"),
        ("add-flow", "cookie=0x5652000100000001,table=40,priority=200,ip,nw_dst=10.101.0.11,actions=LOCAL"),
        ("add-flow", "table=40,priority=200,ip,nw_dst=10.101.0.11,actions=LOCAL"),
        ("add-flow", "table=9,priority=3,tcp,tp_dst=80,actions=dec_ttl,learn(table=9)"),
        ("add-group", "group_id=9,type=all,bucket=output:1"),
        ("mod-group", "group_id=1,type=select,bucket=output:1"),
        ("del-groups", ""),
    ],
    ids=lambda damage: " ".join(damage)[:40],
)
async def test_damage_wakes_is_seen_and_is_repaired(bridge: Ovs, damage: tuple[str, str]) -> None:
    wanted = entries("two-uplinks")
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(wanted)
        bridge.ofctl(damage[0], "br0", *([damage[1]] if damage[1] else []))
        if "group" not in damage[0] or damage[0] == "del-groups":  # OVS reports changes of flows only
            await plane.wait_for_wake()
        seen = await plane.flows.observe()
        assert seen != wanted
        await plane.flows.remove([key for key in seen if key not in wanted])
        assert await plane.flows.upsert(wanted) == {}
        assert await plane.flows.observe() == wanted


async def test_refused_flow_leaves_the_others_through_and_its_own_key_untouched(bridge: Ovs) -> None:
    wanted = entries("dual")
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert({BASE: wanted[BASE]})
        broken = wanted[BASE] | {BAD}
        failures = await plane.flows.upsert({BASE: broken - {next(iter(wanted[BASE]))}, POD: wanted[POD]})
        assert set(failures) == {BASE}
        assert isinstance(failures[BASE], Refused)
        assert await plane.flows.observe() == wanted


@pytest.mark.parametrize("steps", ["checked", "pipelined"])
async def test_commit_behind_a_refused_add_would_empty_the_table(bridge: Ovs, steps: str) -> None:
    """The negative control shows why a bundle is checked before it is committed."""
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(entries("dual"))
        if steps == "checked":
            await plane.flows.upsert({BASE: frozenset({BAD})})
            assert await plane.flows.observe() == entries("dual")
            return
        connection = await Connection.open(bridge.management("br0"), lambda: None)
        wanted = [messages.delete_cookie(BASE), messages.add_flow(BASE, BAD)]
        first = connection.next_xid() + 1
        adds = [messages.bundle_add(1, message, first + i) for i, message in enumerate(wanted)]
        opened, commit = messages.bundle_control(1, messages.OPEN), messages.bundle_control(1, messages.COMMIT)
        answer = await connection.exchange([opened, *adds, commit])
        connection.close()
        assert list(answer.errors) == [first + 1]
        assert set(await plane.flows.observe()) == {POD}


async def test_error_that_only_the_commit_finds_names_its_key(bridge: Ovs) -> None:
    """A flow to a group that is not there passes when it is added to the bundle."""
    stray = Flow(20, 5, Match(), (ToGroup(44),))
    async with running(bridge.management("br0")) as plane:
        failures = await plane.flows.upsert({POD: frozenset({stray}), BASE: base(DUAL)})
        assert set(failures) == {POD}
        assert await plane.flows.observe() == {BASE: base(DUAL)}


async def test_remove_of_the_base_takes_groups_and_leaves_pods(bridge: Ovs) -> None:
    wanted = entries("two-uplinks")
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(wanted)
        assert await plane.flows.remove([BASE, cookie(99)]) == {}
        assert await plane.flows.observe() == {POD: wanted[POD]}


async def test_many_keys_in_one_batch(bridge: Ovs) -> None:
    wanted: dict[int, frozenset[Entry]] = {
        cookie(n): frozenset(
            {Flow(40, 200, Match.of(eth_type=0x0800, ipv4_dst=(n, 0xFFFF_FFFF)), (SetField("eth_dst", n),))}
        )
        for n in range(1, 600)
    }
    async with running(bridge.management("br0")) as plane:
        assert await plane.flows.upsert(wanted) == {}
        assert await plane.flows.observe() == wanted
        assert await plane.flows.remove(list(wanted)) == {}
        assert await plane.flows.observe() == {}


def policed(*, to_pod: int | None = 10**7, from_pod: int | None = 10**6) -> frozenset[Flow | Meter]:
    """Return the pod of slot 0 with these limits, bits a second."""
    return endpoint(
        replace(
            ENDPOINT,
            to_pod=None if to_pod is None else meters.to_pod(1, to_pod),
            from_pod=None if from_pod is None else meters.from_pod(1, from_pod),
        )
    )


async def test_a_policed_pod_is_as_it_was_asked_for(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        for wanted in (policed(), policed(to_pod=10**8), policed(from_pod=None), endpoint(ENDPOINT), policed()):
            assert await plane.flows.upsert({POD: wanted, BASE: base(DUAL)}) == {}
            assert await plane.flows.observe() == {POD: wanted, BASE: base(DUAL)}
        assert await plane.flows.remove([POD]) == {}
        assert await plane.flows.observe() == {BASE: base(DUAL)}
        assert "meter=" not in bridge.ofctl("dump-meters", "br0")


async def test_what_somebody_does_to_meters_is_seen_and_undone(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        wanted = {POD: policed(), cookie(2): frozenset({Flow(40, 3)})}
        await plane.flows.upsert(wanted)
        for change in (
            ("del-meter", "br0", "meter=1"),  # takes the flows along that use it
            ("mod-meter", "br0", "meter=2,kbps,burst,band=type=drop,rate=1,burst_size=1"),
            ("add-meter", "br0", "meter=4,pktps,band=type=drop,rate=1"),
        ):
            bridge.ofctl(*change)
            found = await plane.flows.observe()
            assert found != wanted
            changed = {key: wanted[key] for key in wanted if found.get(key) != wanted[key]}
            assert await plane.flows.upsert(changed) == {}
            assert await plane.flows.observe() == wanted
        bridge.ofctl("add-meter", "br0", "meter=99,pktps,band=type=drop,rate=1")
        assert await plane.flows.observe() == {**wanted, cookie(50): frozenset({Meter(99, 0, 0)})}
        assert await plane.flows.remove([cookie(50)]) == {}
        assert await plane.flows.observe() == wanted


async def test_a_refused_flow_leaves_the_meters_of_others(bridge: Ovs) -> None:
    missing = frozenset({Flow(30, 5, Match(), (UseMeter(77),))})
    async with running(bridge.management("br0")) as plane:
        failures = await plane.flows.upsert({POD: policed(), cookie(2): frozenset({BAD}), cookie(3): missing})
        assert failures.keys() == {cookie(2), cookie(3)}
        assert await plane.flows.observe() == {POD: policed()}
        assert await plane.flows.upsert({POD: policed()}) == {}


async def test_killed_switch_comes_back_and_is_programmed_again(bridge: Ovs) -> None:
    async with running(bridge.management("br0")) as plane:
        await plane.flows.upsert(entries("limited"))
        bridge.kill("ovs-vswitchd")
        await plane.wait_for_wake()
        with pytest.raises(Unreachable):
            await plane.flows.observe()
        with pytest.raises(Unreachable):
            await plane.flows.upsert(entries("limited"))
        await asyncio.to_thread(bridge.start_switch)
        await plane.wait_for_wake()
        assert await plane.flows.observe() == {}
        assert await plane.flows.upsert(entries("limited")) == {}
        assert await plane.flows.observe() == entries("limited")


async def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    flows = Flows(tmp_path / "br0.mgmt", lambda: None)
    with pytest.raises(Unreachable):
        await flows.observe()
    with pytest.raises(Unreachable):
        await Connection.open(tmp_path / "br0.mgmt", lambda: None)


async def test_switch_without_openflow_14_is_refused(ovs: Ovs) -> None:
    ovs.add_bridge("br1", "protocols=OpenFlow10,OpenFlow13")
    with pytest.raises(Unreachable, match=r"1\.4|lost|hello"):
        await Connection.open(ovs.management("br1"), lambda: None)
