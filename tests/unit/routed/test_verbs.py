"""What the CNI commands do, over a real store on a real ledger and a real loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from ipam.errors import PoolExhausted
from routed import views
from routed.attach.errors import InvalidNetns
from routed.cni.errors import InvalidEnvironment, TryAgainLater, Unavailable, UnknownContainer
from routed.cni.protocol import Command, Config, GcRequest, Request
from routed.domain.snapshot import DRAINED
from routed.verbs import AttachmentDrifted
from tests.fakes.node import Node, call, key

ADD, DEL, CHECK = call(Command.ADD), call(Command.DEL), call(Command.CHECK)


def garbage(*valid: int) -> GcRequest:
    return GcRequest(Command.GC, ADD.config, frozenset(map(key, valid)))


async def test_add_answers_with_what_the_pod_got_and_every_plane_has_it(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        result = await node.verbs.add(ADD)
        assert [str(ip.address) for ip in result.ips] == ["10.101.0.2/32"]
        assert [str(ip.gateway) for ip in result.ips] == ["10.101.0.1"]
        assert [one.name for one in result.interfaces] == ["rt0", "eth0"]
        assert result.interfaces[1].sandbox == ADD.netns
        assert set(node.planes["links"].held) == {key(1)}
        assert len(node.planes["advertisements"].held) == 2, "one route to each ToR"
        assert await node.verbs.add(ADD) == result


async def test_a_second_interface_by_a_shared_uplink_is_refused_until_the_first_one_goes(tmp_path: Path) -> None:
    second = replace(ADD, attachment=replace(ADD.attachment, ifname="net1"))
    async with Node(tmp_path).running() as node:
        node.store.set_uplink(replace(node.store.snapshot.uplink, shared=True))
        await node.verbs.add(ADD)
        with pytest.raises(InvalidEnvironment, match="the pod has eth0 of this network"):
            await node.verbs.add(second)
        assert set(node.planes["links"].held) == {key(1)}
        await node.verbs.delete(DEL)
        assert (await node.verbs.add(second)).interfaces[1].name == "net1"


@pytest.mark.parametrize(("ifname", "taken"), [("rdma0", True), ("data", True), ("net1", False), ("eth10", False)])
async def test_interfaces_of_a_pod_have_different_numbers(tmp_path: Path, ifname: str, *, taken: bool) -> None:
    second = replace(ADD, attachment=replace(ADD.attachment, ifname=ifname))
    async with Node(tmp_path).running() as node:
        await node.verbs.add(ADD)
        if taken:
            with pytest.raises(InvalidEnvironment, match="take a name with another number"):
                await node.verbs.add(second)
        else:
            await node.verbs.add(second)
        assert len(node.planes["links"].held) == (1 if taken else 2)


async def test_of_two_interfaces_by_a_shared_uplink_at_once_there_is_at_most_one(tmp_path: Path) -> None:
    second = replace(ADD, attachment=replace(ADD.attachment, ifname="net1"))
    async with Node(tmp_path).running() as node:
        node.store.set_uplink(replace(node.store.snapshot.uplink, shared=True))
        both = await asyncio.gather(node.verbs.add(ADD), node.verbs.add(second), return_exceptions=True)
        assert [one for one in both if isinstance(one, InvalidEnvironment)]
        assert sum(not one.leaving for one in node.store.snapshot.attachments.values()) <= 1


async def test_del_leaves_nothing_but_the_slot_and_may_be_repeated(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(ADD)
        slots = dict(node.planes["ports"].held)
        for _ in range(2):
            await node.verbs.delete(DEL)
            assert node.store.snapshot.attachments == {}
            assert node.planes["links"].held == node.planes["advertisements"].held == {}
        assert node.planes["ports"].held == slots
        (pool,) = node.store.usage()
        assert (pool.used, pool.cooling) == (0, 1)


async def test_an_add_that_misses_its_deadline_is_undone(tmp_path: Path) -> None:
    async with Node(tmp_path, deadline_s=0.05).running() as node:
        node.planes["advertisements"].gate.clear()
        with pytest.raises(TimeoutError):
            await node.verbs.add(ADD)
        node.planes["advertisements"].gate.set()
        await node.until(lambda: node.store.snapshot.attachments == {})
        assert node.planes["links"].held == node.planes["advertisements"].held == {}


async def test_an_add_that_failed_does_not_undo_an_earlier_one(tmp_path: Path) -> None:
    async with Node(tmp_path, deadline_s=0.05).running() as node:
        await node.verbs.add(ADD)
        node.planes["links"].held.clear()
        node.planes["links"].refused[key(1)] = OSError("busy")
        node.loop.look("links")
        await node.until(lambda: node.loop.works()[key(1)].error is not None)
        with pytest.raises(OSError, match="busy"):
            await node.verbs.add(ADD)
        assert not node.store.snapshot.attachments[key(1)].leaving


async def test_an_add_is_not_confirmed_when_a_del_overtook_it(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        node.planes["advertisements"].gate.clear()
        adding = asyncio.create_task(node.verbs.add(ADD))
        await node.until(lambda: bool(node.planes["advertisements"].batches))
        deleting = asyncio.create_task(node.verbs.delete(DEL))
        await node.until(lambda: node.store.snapshot.attachments[key(1)].leaving)
        node.planes["advertisements"].gate.set()
        await deleting
        with pytest.raises(TryAgainLater, match="removed while it was being attached"):
            await adding
        assert node.store.snapshot.attachments == {}
        assert node.planes["links"].held == node.planes["advertisements"].held == {}


async def test_an_add_that_failed_late_spares_the_next_one_of_the_same_id(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        old = await node.store.put(key(1), ADD.pod, ADD.netns)
        await node.verbs.delete(DEL)
        new = await node.store.put(key(1), ADD.pod, ADD.netns)
        assert new.sequence > old.sequence
        assert not await node.store.discard(key(1), old.sequence)
        assert node.store.snapshot.attachments == {key(1): new}
        assert await node.store.discard(key(1), new.sequence)


async def test_a_pod_that_was_being_added_when_the_server_was_drained_is_refused(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        node.planes["links"].gate.clear()
        adding = asyncio.create_task(node.verbs.add(ADD))
        await node.until(lambda: bool(node.planes["links"].batches))
        node.store.drain()
        node.planes["links"].gate.set()
        for attempt in (adding, node.verbs.add(call(Command.ADD, 2))):
            with pytest.raises(TryAgainLater, match="drained"):
                await attempt
        await node.until(lambda: node.store.snapshot.attachments == {})


async def test_a_permanent_failure_of_an_add_is_not_the_del_s(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        node.planes["links"].refused[key(1)] = InvalidNetns("gone")
        node.planes["links"].gate.clear()
        await node.store.put(key(1), ADD.pod, ADD.netns)
        await node.until(lambda: bool(node.planes["links"].batches))
        deleting = asyncio.create_task(node.verbs.delete(DEL))
        await node.until(lambda: node.store.snapshot.attachments[key(1)].leaving)
        node.planes["links"].gate.set()
        await deleting
        assert node.store.snapshot.attachments == {}


async def test_a_permanent_failure_ends_an_add_at_once_and_it_is_undone(tmp_path: Path) -> None:
    async with Node(tmp_path, deadline_s=3600).running() as node:
        node.planes["links"].refused[key(1)] = InvalidNetns("no such namespace")
        with pytest.raises(InvalidNetns):
            await node.verbs.add(ADD)
        await node.until(lambda: node.store.snapshot.attachments == {})
        assert node.metrics()['routed_cni_errors_total{command="ADD",error="invalid_netns"}'] == 1


async def test_a_full_pool_refuses_and_leaves_no_trace(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        for number in range(13):
            await node.verbs.add(call(Command.ADD, number))
        with pytest.raises(PoolExhausted):
            await node.verbs.add(call(Command.ADD, 13))
        assert key(13) not in node.store.snapshot.attachments
        await node.verbs.status(Request(Command.STATUS, ADD.config))


async def test_check_finds_what_is_missing_and_has_it_mended(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        with pytest.raises(UnknownContainer):
            await node.verbs.check(CHECK)
        result = await node.verbs.add(ADD)
        check = replace(CHECK, config=CHECK.config.model_copy(update={"previous": result}))
        await node.verbs.check(check)
        node.planes["advertisements"].held.clear()
        with pytest.raises(AttachmentDrifted, match=r"advertisements: 10\.101\.0\.2/32 to 10\.255\.1\.1 is missing"):
            await node.verbs.check(check)
        await node.until(lambda: len(node.planes["advertisements"].held) == 2)
        await node.verbs.check(check)


async def test_check_compares_with_what_the_runtime_was_told(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        result = await node.verbs.add(ADD)
        (ip,) = result.ips
        other = result.model_copy(update={"ips": (ip.model_copy(update={"address": ip_interface("10.101.0.9/32")}),)})
        with pytest.raises(AttachmentDrifted):
            await node.verbs.check(replace(CHECK, config=CHECK.config.model_copy(update={"previous": other})))


async def test_check_finds_packets_that_are_forwarded_too_slowly(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(ADD)
        await node.verbs.check(CHECK)
        node.shortfalls[key(1)] = "slower than hardware: an OVS bond"
        with pytest.raises(AttachmentDrifted, match="an OVS bond"):
            await node.verbs.check(CHECK)


async def test_gc_releases_what_the_runtime_does_not_know_and_nothing_else(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2, 3):
            await node.verbs.add(call(Command.ADD, number))
        await node.verbs.gc(garbage(2))
        assert set(node.store.snapshot.attachments) == set(node.planes["links"].held) == {key(2)}


async def test_gc_is_of_one_network(tmp_path: Path) -> None:
    """As Multus hands on the runtime's: with the cluster network's attachments, beside which there are others'."""
    other = replace(ADD, attachment=replace(ADD.attachment, ifname="net1"), config=Config(name="vf", version="1.1.0"))
    async with Node(tmp_path).running() as node:
        await node.verbs.add(ADD)
        await node.verbs.add(other)
        await node.verbs.gc(garbage(1))
        assert set(node.planes["links"].held) == {key(1), other.attachment}
        await node.verbs.gc(replace(garbage(1), config=other.config))
        assert set(node.planes["links"].held) == {key(1)}


async def test_gc_goes_on_past_a_failure_and_names_it(tmp_path: Path) -> None:
    async with Node(tmp_path, deadline_s=0.2).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        node.finishing.clear()
        with pytest.raises(TryAgainLater, match="c1/eth0: not done within"):
            await node.verbs.gc(garbage())
        assert all(one.leaving for one in node.store.snapshot.attachments.values())
        node.finishing.set()
        await node.until(lambda: node.store.snapshot.attachments == {})


async def test_status_tells_why_nothing_can_be_attached(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        status = Request(Command.STATUS, ADD.config)
        await node.verbs.status(status)
        node.planes["flows"].blind = ConnectionError("no switch")
        node.loop.look("flows")
        await node.until(lambda: node.loop.lanes["flows"].actual is None)
        with pytest.raises(Unavailable, match="cannot observe flows"):
            await node.verbs.status(status)
        node.store.drain()
        with pytest.raises(Unavailable, match=DRAINED):
            await node.verbs.status(status)


async def test_a_pod_whose_address_another_server_has_is_cordoned(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(ADD)
        await node.verbs.add(call(Command.ADD, 2))
        (address,) = node.store.snapshot.attachments[key(1)].addresses
        node.store.set_taken({address: "s99"})
        await node.until(lambda: len(node.planes["advertisements"].held) == 2)
        assert {row["state"] for row in views.attachments(node.store.snapshot, node.loop)} == {"cordoned", "ready"}
        assert "s99" in views.attachments(node.store.snapshot, node.loop)[0]["error"]
        assert node.metrics()['routed_attachments{state="cordoned"}'] == 1
        with pytest.raises(AttachmentDrifted, match="s99"):
            await node.verbs.check(CHECK)
        await node.verbs.check(call(Command.CHECK, 2))
        assert set(node.planes["links"].held) == {key(1), key(2)}, "it is cut off, not taken apart"
        node.store.set_taken({})
        await node.until(lambda: len(node.planes["advertisements"].held) == 4)
        await node.verbs.check(CHECK)
        node.store.set_taken({address: "s99"})
        await node.verbs.delete(DEL)
        assert set(node.planes["links"].held) == {key(2)}
