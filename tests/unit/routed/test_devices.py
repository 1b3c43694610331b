"""Which VF a pod gets: the one that it was given, a free one where all pods have one, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from routed import views
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


@for_none
async def test_where_vfs_are_for_nobody_one_that_is_given_is_refused(node: Node) -> None:
    with pytest.raises(InvalidConfig, match=r"bridge\.vfs is `never`"):
        await node.verbs.add(asking(1, FIRST))
    await node.verbs.add(call(Command.ADD, 1))
