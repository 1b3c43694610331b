"""Pods whose VF nobody names on standard input: the kubelet does, over a real gRPC connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from routed.cni.errors import Code, InvalidConfig, TryAgainLater, code_for
from routed.cni.protocol import AttachmentRequest, Command
from routed.domain.wiring import VF_SLOTS, Vf
from routed.domain.workload import Wishes
from routed.kube.podresources import Kubelet
from routed.settings import VfPolicy
from tests.fakes.kubelet import FakeKubelet
from tests.fakes.node import Node, call, key

VFS = [f"0000:03:00.{function}" for function in range(2, 6)]
ADD = call(Command.ADD)


def given(*addresses: str, number: int = 1) -> tuple[str, str, list[dict[str, list[str]]]]:
    return "shop", f"cart-{number}", [{"mellanox.com/cx5": list(addresses)}]


@asynccontextmanager
async def server(
    tmp_path: Path, kubelet: FakeKubelet, policy: VfPolicy = VfPolicy.REQUESTED, patience_s: float = 20.0
) -> AsyncIterator[Node]:
    """A server with four VFs and a kubelet."""
    async with kubelet.serving(tmp_path / "kubelet.sock"), Node(tmp_path, vfs=policy).running() as node:
        node.store.set_vfs({VF_SLOTS + number: Vf(f"rep{number}", address) for number, address in enumerate(VFS)})
        node.kubelet = Kubelet(tmp_path / "kubelet.sock", ["mellanox.com/*"], patience_s)
        yield node


def device(node: Node, number: int = 1) -> str | None:
    return node.store.snapshot.attachments[key(number)].wishes.device


async def test_a_pod_gets_the_vf_that_the_kubelet_gave_it(tmp_path: Path) -> None:
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[2]), ("shop", "cart-2", [{}])]
    async with server(tmp_path, kubelet) as node:
        result = await node.verbs.add(ADD)
        await node.verbs.add(call(Command.ADD, 2))
        assert (device(node), device(node, 2)) == (VFS[2], None)
        assert result.interfaces[0].name == "rep2"
        assert node.planes["vf_links"].held.keys() == {key(1)}
        assert node.planes["links"].held.keys() == {key(2)}
        kubelet.gate.clear()
        assert await node.verbs.add(ADD) == result
        await node.verbs.add(call(Command.ADD, 2))
        assert kubelet.calls == ["Get", "Get"], "what an attachment has, or has not, is known without asking"
        kubelet.gate.set()


@pytest.mark.parametrize("policy", [VfPolicy.REQUESTED, VfPolicy.ALL])
async def test_a_pod_never_gets_anything_else_because_the_kubelet_is_silent(tmp_path: Path, policy: VfPolicy) -> None:
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[2])]
    kubelet.gate.clear()
    async with server(tmp_path, kubelet, policy, patience_s=0.2) as node:
        with pytest.raises(TryAgainLater, match="no answer in time") as caught:
            await node.verbs.add(ADD)
        assert code_for(caught.value).code is Code.TRY_AGAIN_LATER
        assert node.store.snapshot.attachments == {}
        kubelet.gate.set()
        await node.verbs.add(ADD)
        assert device(node) == VFS[2]


async def test_without_a_kubelet_to_ask_it_would_be_a_veth(tmp_path: Path) -> None:
    """The negative control."""
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[2])]
    async with server(tmp_path, kubelet) as node:
        node.kubelet = None
        await node.verbs.add(ADD)
        assert device(node) is None
        assert node.planes["links"].held.keys() == {key(1)}


def naming(device_id: str) -> AttachmentRequest:
    return replace(ADD, config=ADD.config.model_copy(update={"device_id": device_id}))


async def test_who_names_a_vf_is_believed_and_nobody_else_is_asked(tmp_path: Path) -> None:
    kubelet = FakeKubelet()
    async with server(tmp_path, kubelet) as node:
        await node.verbs.add(naming(VFS[1]))
        assert device(node) == VFS[1]
    assert kubelet.calls == []


async def test_each_interface_of_a_pod_gets_a_vf_of_its_own(tmp_path: Path) -> None:
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[3], VFS[2])]
    async with server(tmp_path, kubelet) as node:
        await node.verbs.add(ADD)
        for ifname in ("net1", "net2"):
            await node.verbs.add(replace(ADD, attachment=replace(key(1), ifname=ifname)))
        found = {one.id.ifname: one.wishes.device for one in node.store.snapshot.attachments.values()}
        assert found == {"eth0": VFS[2], "net1": VFS[3], "net2": None}


async def test_a_vf_that_the_pod_before_has_not_given_back_is_waited_for(tmp_path: Path) -> None:
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[2]), given(VFS[2], number=2)]
    async with server(tmp_path, kubelet) as node:
        await node.verbs.add(ADD)
        with pytest.raises(TryAgainLater, match=VFS[2]):
            await node.verbs.add(call(Command.ADD, 2))
        assert node.store.snapshot.attachments.keys() == {key(1)}
        await node.verbs.delete(call(Command.DEL))
        await node.verbs.add(call(Command.ADD, 2))
        assert device(node, 2) == VFS[2]


async def test_rdma_is_for_pods_that_have_a_vf(tmp_path: Path) -> None:
    kubelet = FakeKubelet()
    kubelet.pods = [given(VFS[2]), ("shop", "cart-2", [{}]), given(VFS[3], number=3)]
    async with server(tmp_path, kubelet) as node:
        node.wishes = {call(Command.ADD, number).pod: Wishes(rdma=True) for number in (1, 2)}
        await node.verbs.add(ADD)
        with pytest.raises(InvalidConfig, match=r"annotation routed\.dev/rdma: the pod has no VF"):
            await node.verbs.add(call(Command.ADD, 2))
        network = ADD.config.model_copy(update={"rdma": True})
        await node.verbs.add(replace(call(Command.ADD, 3), config=network))
        node.wishes = {}
        await node.verbs.add(replace(call(Command.ADD, 2), config=network))
        found = {one.id: one.wishes.rdma for one in node.store.snapshot.attachments.values()}
        assert found == {key(1): True, key(2): False, key(3): True}
        links = {name: node.planes[name].held for name in ("links", "vf_links")}
        assert [links["vf_links"][key(1)].rdma, links["links"][key(2)].rdma] == [True, False]
