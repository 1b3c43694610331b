"""Our few messages against Kubernetes' own: the kubelet's server and rate limit, built of its Go packages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from routed.domain.workload import PodRef
from routed.kube.podresources import Kubelet, KubeletError
from tests.fakes.kubelet import Allocated
from tests.kube.podresources import kubelet

PODS: list[tuple[str, str, Allocated]] = [
    ("shop", "web-0", [{}, {"mellanox.com/cx5_sriov_switchdev": ["0000:03:00.2"], "nvidia.com/gpu": ["GPU-7"]}]),
    ("shop", "plain", [{}]),
    *(("shop", f"many-{number}", [{"mellanox.com/cx5": [f"0000:03:{number:02x}.0"]}]) for number in range(30)),
]


async def test_the_kubelets_own_server_is_understood(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"
    asked = Kubelet(socket, ["mellanox.com/*"], patience_s=30.0)
    with kubelet(socket, PODS):
        assert await asked.devices(PodRef("shop", "web-0")) == ("0000:03:00.2",)
        assert await asked.devices(PodRef("shop", "plain")) == ()
        with pytest.raises(KubeletError, match="no pods that are called shop/gone"):
            await asked.devices(PodRef("shop", "gone"))
        # More at once than its rate limit takes: nobody is turned away.
        burst = [asked.devices(PodRef("shop", f"many-{number}")) for number in range(30)]
        assert await asyncio.gather(*burst) == [(f"0000:03:{number:02x}.0",) for number in range(30)]
