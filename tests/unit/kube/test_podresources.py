"""What the kubelet is asked, over a real gRPC connection to one that answers as kubelets of several releases do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.domain.workload import PodRef
from routed.kube.errors import Malformed
from routed.kube.podresources import Kubelet, KubeletError, network_devices
from routed.residents import devices_of
from tests.fakes.kubelet import FakeKubelet

WEB = PodRef("shop", "web-0", "5d3ff6a4-0000-4000-8000-000000000001")
VFS = ("mellanox.com/*",)
ONE = [{"mellanox.com/cx5_sriov_switchdev": ["0000:03:00.2"]}]
DISABLED = (grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
BEFORE_1_27 = (grpc.StatusCode.UNIMPLEMENTED, "unknown method Get")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeKubelet]:
    async with FakeKubelet().serving(tmp_path / "kubelet.sock") as kubelet:
        yield kubelet


def kubelet(tmp_path: Path, resources: Sequence[str] = VFS, patience_s: float = 20.0) -> Kubelet:
    return Kubelet(tmp_path / "kubelet.sock", resources, patience_s)


@pytest.mark.parametrize("no_get", [None, DISABLED, BEFORE_1_27])
async def test_every_kubelet_says_which_vf_a_pod_has(
    node: FakeKubelet, tmp_path: Path, no_get: tuple[grpc.StatusCode, str] | None
) -> None:
    node.no_get = no_get
    node.pods = [("shop", "web-1", [{"mellanox.com/cx5": ["0000:03:00.3"]}]), ("shop", "web-0", ONE)]
    node.pods.append(("bank", "web-0", [{"mellanox.com/cx5": ["0000:03:00.4"]}]))
    assert await kubelet(tmp_path).devices(WEB) == ("0000:03:00.2",)
    assert node.calls == ["Get"] if no_get is None else ["Get", "List"]


async def test_a_pod_without_a_vf_has_none(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods = [("shop", "web-0", [{}, {"nvidia.com/gpu": ["GPU-7"], "cpu.example/x": []}])]
    assert await kubelet(tmp_path).devices(WEB) == ()


async def test_only_resources_that_are_named_count_and_each_device_once(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods = [
        (
            "shop",
            "web-0",
            [
                {"mellanox.com/b": ["0000:03:01.0"], "mellanox.com/a": ["0000:03:00.7"]},
                {"mellanox.com/b": ["0000:03:01.0"], "intel.com/sriov": ["0000:05:00.2"]},
            ],
        )
    ]
    assert await kubelet(tmp_path).devices(WEB) == ("0000:03:00.7", "0000:03:01.0")
    assert await kubelet(tmp_path, ["mellanox.com/a", "intel.com/sriov"]).devices(WEB) == (
        "0000:03:00.7",
        "0000:05:00.2",
    )


async def test_a_busy_kubelet_is_asked_again(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods, node.busy = [("shop", "web-0", ONE)], 3
    assert await kubelet(tmp_path).devices(WEB) == ("0000:03:00.2",)
    assert node.calls == ["Get"] * 4


async def test_an_answer_that_is_too_long_is_no_reason_to_ask_again(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods = [("shop", "web-0", [{"mellanox.com/cx5": ["0" * (1 << 20)] * 17}])]
    with pytest.raises(KubeletError, match=r"resource_exhausted: .*larger than max"):
        await kubelet(tmp_path).devices(WEB)
    assert node.calls == ["Get"]


async def test_a_device_that_is_no_vf_is_named(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods = [("shop", "web-0", [{"mellanox.com/sf": ["mlx5_core.sf.4"]}])]
    with pytest.raises(Malformed, match=r"mellanox\.com/sf gave the pod 'mlx5_core\.sf\.4', which is no PCI address"):
        await kubelet(tmp_path).devices(WEB)
    with pytest.raises(InvalidConfig, match=r"leave it out of sriov\.resources"):
        await devices_of(kubelet(tmp_path), WEB)


async def silent(node: FakeKubelet) -> None:
    node.gate.clear()


async def always_busy(node: FakeKubelet) -> None:
    node.busy = 1_000_000


async def ignorant(node: FakeKubelet) -> None:
    node.pods = [("bank", "web-0", ONE)]


async def of_two_minds(node: FakeKubelet) -> None:
    node.no_get, node.pods = DISABLED, [("shop", "web-0", ONE), ("shop", "web-0", [{}])]


@pytest.mark.parametrize(
    ("ail", "complaint"),
    [
        (silent, "no answer in time"),
        (always_busy, "no answer in time"),
        (ignorant, "the kubelet knows no pods that are called shop/web-0"),
        (of_two_minds, "the kubelet knows 2 pods that are called shop/web-0"),
    ],
)
async def test_not_knowing_is_no_answer(node: FakeKubelet, tmp_path: Path, ail: object, complaint: str) -> None:
    """A pod that has paid for a VF never gets a veth because nobody could tell: the runtime tries again."""
    assert callable(ail)
    await ail(node)
    with pytest.raises(KubeletError, match=complaint):
        await kubelet(tmp_path, patience_s=0.2).devices(WEB)
    with pytest.raises(TryAgainLater, match=complaint):
        await devices_of(kubelet(tmp_path, patience_s=0.2), WEB)
    node.gate.set()


async def test_a_kubelet_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(TryAgainLater, match=r"which devices shop/web-0 has: unavailable: .*kubelet\.sock"):
        await devices_of(kubelet(tmp_path), WEB)


async def test_nobody_is_asked_where_no_resource_is_named_or_there_is_no_pod(node: FakeKubelet, tmp_path: Path) -> None:
    assert await devices_of(None, WEB) == ()
    assert await devices_of(kubelet(tmp_path), PodRef()) == ()
    assert node.calls == []


async def test_a_burst_of_pods_is_answered(node: FakeKubelet, tmp_path: Path) -> None:
    node.pods = [("shop", f"web-{number}", [{"mellanox.com/a": [f"0000:03:{number:02x}.0"]}]) for number in range(30)]
    asked = (kubelet(tmp_path).devices(PodRef("shop", f"web-{number}")) for number in range(30))
    assert await asyncio.gather(*asked) == [(f"0000:03:{number:02x}.0",) for number in range(30)]


def test_no_containers_have_no_devices() -> None:
    assert network_devices((), VFS) == ()
