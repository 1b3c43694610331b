"""The pods of this server as the Kubernetes API knows them: what they ask for, and which have vanished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.domain.workload import Attachment, PodRef, Wishes
from routed.kube.annotations import check
from routed.kube.cluster import Cluster
from routed.kube.errors import Malformed
from routed.kube.events import News, Subject
from routed.kube.memory import Memory
from routed.kube.podresources import Kubelet, KubeletError
from routed.kube.pods import Pods, PodUnknown
from routed.settings import SriovSettings
from routed.store import Store

_PATIENCE_S = 2.0
"""How long a pod is waited for that the kubelet has heard of before us."""


class Residents:
    """Pods that ask for nothing and never vanish, where there is no cluster."""

    def __init__(self, cluster: Cluster | None, store: Store, reachable: Callable[[], bool], memory: Path) -> None:
        """`reachable` tells whether the API server answers: nobody waits for what it cannot say.

        `memory` is the file of what pods ask for, for the next start.
        """
        self._cluster, self._store, self._reachable = cluster, store, reachable
        self._pods = None
        if cluster is not None:
            self._pods = Pods(
                cluster.api,
                cluster.node,
                attachments=lambda: tuple(store.snapshot.attachments.values()),
                discard=self._let_go,
                memory=Memory(memory),
                rng=cluster.rng,
            )

    async def run(self) -> None:
        """Follow them, until cancelled; return at once without a cluster."""
        if self._pods is not None:
            await self._pods.run()

    async def wishes(self, pod: PodRef) -> Wishes:
        """Return what a pod asks for; TryAgainLater when that cannot be told, InvalidConfig when it cannot be done."""
        if self._pods is None or not pod.uid:
            return Wishes()
        try:
            asked = await self._pods.wishes(pod, _PATIENCE_S if self._reachable() else 0.0)
            check(asked, self._store.snapshot.rack, self._store.snapshot.uplink.mtu)
        except PodUnknown as error:
            raise TryAgainLater(str(error)) from error
        except Malformed as error:
            self._tell(pod, "InvalidAnnotation", str(error), "Attach")
            raise InvalidConfig(str(error)) from error
        return asked

    def _tell(self, pod: PodRef, reason: str, note: str, action: str) -> None:
        if self._cluster is not None:
            self._cluster.events.tell(News(Subject.pod(pod), reason, note, action))

    async def _let_go(self, attachment: Attachment) -> None:
        await self._store.discard(attachment.id, attachment.sequence)
        where = "this server" if self._cluster is None else self._cluster.node
        note = f"its pod does not exist any more; what was left of it on {where} is removed"
        self._tell(attachment.pod, "PodVanished", note, "Release")


def kubelet_of(settings: SriovSettings) -> Kubelet | None:
    """Return the kubelet that knows of VFs, None where no resource is one; NoAccess without the library."""
    return Kubelet(settings.pod_resources, settings.resources) if settings.resources else None


async def devices_of(kubelet: Kubelet | None, pod: PodRef) -> tuple[str, ...]:
    """Return the PCI addresses of the VFs that the kubelet gave a pod; none without a kubelet to ask, or a pod.

    TryAgainLater when that cannot be told: a pod that has a VF must not run without it. InvalidConfig when what it has
    is no VF.
    """
    if kubelet is None or not pod.name:
        return ()
    try:
        return await kubelet.devices(pod)
    except KubeletError as error:
        raise TryAgainLater(str(error)) from error
    except Malformed as error:
        raise InvalidConfig(str(error)) from error
