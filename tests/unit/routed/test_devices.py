"""Which VF a pod gets: the one that it was given, a free one where all pods have one, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from routed import views
from routed.attach.errors import ForeignDevice
from routed.cni.errors import Code, InvalidConfig, TryAgainLater, code_for
from routed.cni.protocol import AttachmentRequest, Command
from routed.domain.wiring import Vf
from routed.settings import VfPolicy
from routed.verbs import AttachmentDrifted
from tests.fakes.node import Node, call, key

VFS = {4096: Vf("pf0vf0", "0000:03:00.2"), 4097: Vf("pf0vf1", "0000:03:00.3")}
FIRST, SECOND = (vf.address for vf in VFS.values())


def asking(number: int, device: str, command: Command = Command.ADD) -> AttachmentRequest:
    request = call(command, number)
    return replace(request, config=request.config.model_copy(update={"device_id": device}))


@pytest_asyncio.fixture
async def node(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    async with Node(tmp_path, vfs=getattr(request, "param", VfPolicy.REQUESTED)).running() as made:
        made.store.set_vfs(VFS)
        yield made


for_all = pytest.mark.parametrize("node", [VfPolicy.ALL], indirect=True)
for_none = pytest.mark.parametrize("node", [VfPolicy.NEVER], indirect=True)


async def test_a_pod_gets_the_vf_that_it_was_given(node: Node) -> None:
    result = await node.verbs.add(asking(1, SECOND))
    assert [(one.name, one.pci_id) for one in result.interfaces] == [("pf0vf1", ""), ("eth0", SECOND)]
    assert node.planes["vf_links"].held.keys() == {key(1)}
    assert node.planes["links"].held == {}
    assert await node.verbs.add(asking(1, SECOND)) == result
    assert await node.verbs.add(call(Command.ADD, 1)) == result, "what it has counts when nobody says"
    (row,) = views.attachments(node.store.snapshot, node.loop)
    assert (row["vf"], row["port"], row["ofport"]) == (SECOND, "pf0vf1", 5097)


async def test_a_pod_that_asks_for_none_gets_none(node: Node) -> None:
    result = await node.verbs.add(call(Command.ADD, 1))
    assert [(one.name, one.pci_id) for one in result.interfaces] == [("rt0", ""), ("eth0", "")]
    (row,) = views.attachments(node.store.snapshot, node.loop)
    assert row["vf"] is None


async def test_a_vf_in_use_has_to_be_waited_for(node: Node) -> None:
    await node.verbs.add(asking(1, FIRST))
    with pytest.raises(TryAgainLater, match=f"{FIRST} cannot be had"):
        await node.verbs.add(asking(2, FIRST))
    await node.verbs.delete(call(Command.DEL, 1))
    await node.verbs.add(asking(2, FIRST))


async def test_a_del_of_the_last_pod_is_not_the_next_ones(node: Node) -> None:
    await node.verbs.add(asking(1, FIRST))
    await node.verbs.delete(call(Command.DEL, 1))
    await node.verbs.add(asking(2, FIRST))
    await node.verbs.delete(call(Command.DEL, 1))
    assert node.planes["vf_links"].held.keys() == {key(2)}


async def test_check_looks_at_the_vf_and_its_representor(node: Node) -> None:
    result = await node.verbs.add(asking(1, FIRST))
    check = asking(1, FIRST, Command.CHECK)
    check = replace(check, config=check.config.model_copy(update={"previous": result}))
    await node.verbs.check(check)
    for plane, what in (("vf_links", key(1)), ("representors", "pf0vf0")):
        lost = node.planes[plane].held.pop(what)
        with pytest.raises(AttachmentDrifted, match=f"{plane}: .* is missing"):
            await node.verbs.check(check)
        await node.until(lambda plane=plane, what=what, lost=lost: node.planes[plane].held.get(what) == lost)


@for_all
async def test_where_vfs_are_for_all_each_pod_takes_a_free_one(node: Node) -> None:
    results = await asyncio.gather(*(node.verbs.add(call(Command.ADD, number)) for number in (1, 2)))
    assert {result.interfaces[1].pci_id for result in results} == {FIRST, SECOND}
    with pytest.raises(TryAgainLater, match="no VF is free: of 2 on this server 2 are in use") as refusal:
        await node.verbs.add(call(Command.ADD, 3))
    assert code_for(refusal.value).code is Code.TRY_AGAIN_LATER
    assert await node.verbs.add(call(Command.ADD, 1)) == results[0], "who has one needs no other"
    await node.verbs.delete(call(Command.DEL, 1))
    third = await node.verbs.add(call(Command.ADD, 3))
    assert third.interfaces[1].pci_id == results[0].interfaces[1].pci_id


@for_all
async def test_a_vf_whose_device_somebody_else_has_is_not_free(node: Node) -> None:
    node.away.add(FIRST)
    result = await node.verbs.add(call(Command.ADD, 1))
    assert result.interfaces[1].pci_id == SECOND
    with pytest.raises(TryAgainLater, match="of 2 on this server 1 are in use"):
        await node.verbs.add(call(Command.ADD, 2))


async def test_a_vf_that_cannot_be_used_keeps_no_pod_waiting(tmp_path: Path) -> None:
    """Its representor is somebody else's, say; with one that works beside it, only the first pod has to try again."""
    async with Node(tmp_path, vfs=VfPolicy.ALL, deadline_s=0.3).running() as node:
        node.store.set_vfs(VFS)
        node.planes["representors"].refused["pf0vf0"] = ForeignDevice("pf0vf0 is somebody else's")
        with pytest.raises(ForeignDevice):
            await node.verbs.add(call(Command.ADD, 1))
        await node.until(lambda: not node.store.snapshot.attachments)
        result = await node.verbs.add(call(Command.ADD, 2))
        assert result.interfaces[1].pci_id == SECOND
        with pytest.raises(ForeignDevice):
            await node.verbs.add(call(Command.ADD, 3))
        await node.until(lambda: len(node.store.snapshot.attachments) == 1)
        node.planes["representors"].refused.clear()
        assert (await node.verbs.add(call(Command.ADD, 3))).interfaces[1].pci_id == FIRST, "none is given up for good"
        for number in (2, 3):
            await node.verbs.delete(call(Command.DEL, number))
        assert (await node.verbs.add(call(Command.ADD, 4))).interfaces[1].pci_id == FIRST, "it counts as whole again"


async def test_one_representor_that_is_somebody_elses_is_no_fault_of_the_others(node: Node) -> None:
    node.planes["representors"].refused["pf0vf2"] = ForeignDevice("pf0vf2 is somebody else's")
    node.store.set_vfs({4098: Vf("pf0vf2", "0000:03:00.4"), **VFS, 4099: Vf("pf0vf3", "0000:03:00.5")})
    await node.until(lambda: {"pf0vf0", "pf0vf1", "pf0vf3"} <= node.planes["ports"].held.keys())
    assert "pf0vf2" not in node.planes["ports"].held


@for_all
async def test_many_pods_at_once_get_a_vf_each_whoever_looks_longest(node: Node) -> None:
    node.store.set_vfs({slot: Vf(f"pf0vf{slot}", f"0000:03:{slot - 4096:02x}.0") for slot in range(4096, 4104)})
    results = await asyncio.gather(*(node.verbs.add(call(Command.ADD, number)) for number in range(8)))
    assert len({result.interfaces[1].pci_id for result in results}) == 8


@for_none
async def test_where_vfs_are_for_nobody_one_that_is_given_is_refused(node: Node) -> None:
    with pytest.raises(InvalidConfig, match=r"bridge\.vfs is `never`"):
        await node.verbs.add(asking(1, FIRST))
    await node.verbs.add(call(Command.ADD, 1))
