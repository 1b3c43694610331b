"""This server's pods: what they ask for, and which attachments have outlived theirs.

Follows the Pods of its Node, so that an ADD finds a pod's annotations in memory. Now and then it lists them anew and
looks for attachments whose pod is gone without a DEL (a server that was reinstalled, a runtime that lost its state).
What has to hold before one is discarded: the attachment was there before the list was asked for; nothing in the list
has its pod's UID, twice, a grace period apart; and its network namespace does not exist any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from random import Random

import structlog

from ipam.errors import LedgerError
from routed.domain.workload import Attachment, AttachmentId, PodRef, Wishes
from routed.kube.annotations import wishes
from routed.kube.api import PODS, Api, Document
from routed.kube.errors import KubeError
from routed.kube.following import followed
from routed.kube.memory import Memory
from routed.threads import apart

log = structlog.get_logger(__name__)
GRACE_S = 120.0
_STATIC = ("kubernetes.io/config.hash", "kubernetes.io/config.mirror")
"""Annotations of the Pod that mirrors a static pod: the UID by which the kubelet knows that one."""
_MIRRORED: Document = {"metadata": {}}
"""What a static pod asks for, whatever the Pod says that mirrors it: it may start long before that is known."""
Missed = Mapping[tuple[AttachmentId, int], float]
"""When each attachment was first found without its pod."""


class PodUnknown(KubeError):  # noqa: N818 - as its siblings
    """The API server has not told us of this pod yet; the runtime is to try again."""


def vanished(
    missed: Missed, attachments: Iterable[Attachment], present: AbstractSet[str], now: float, grace_s: float
) -> tuple[Missed, tuple[Attachment, ...]]:
    """Return what is missed from now on, and the attachments that have been missed for long enough.

    ``present`` are the UIDs of the pods that there are, learned after the attachments. One without a UID, and one that
    is leaving anyway, is never missed.
    """
    absent = {
        (one.id, one.sequence): one
        for one in attachments
        if one.pod.uid and one.pod.uid not in present and not one.leaving
    }
    gone = tuple(one for key, one in absent.items() if key in missed and now - missed[key] >= grace_s)
    return {key: missed.get(key, now) for key in absent}, gone


def uids(pods: Iterable[Document]) -> frozenset[str]:
    """Return every UID that a runtime may know these pods by."""
    found = set()
    for pod in pods:
        metadata = pod["metadata"]
        annotations = metadata.get("annotations") or {}
        found.update({metadata["uid"], *(annotations[key] for key in _STATIC if key in annotations)})
    return frozenset(found)


def namespace_exists(attachment: Attachment) -> bool:
    """Whether an attachment's network namespace is still there: its sandbox lives, and the runtime knows of it."""
    return Path(attachment.netns).exists() if attachment.netns else False


class Pods:
    """The pods of one Node; `run` follows them."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        api: Api,
        node: str,
        *,
        attachments: Callable[[], Collection[Attachment]],
        discard: Callable[[Attachment], Awaitable[object]],
        is_alive: Callable[[Attachment], bool] = namespace_exists,
        memory: Memory,
        grace_s: float = GRACE_S,
        rng: Random,
    ) -> None:
        """``discard`` lets an attachment leave, by its id and sequence.

        A LedgerError of it puts that off until the next sweep, whatever else it raises ends `run`.
        """
        self._api, self._selector = api, f"spec.nodeName={node}"
        self._attachments, self._discard, self._is_alive = attachments, discard, is_alive
        self._memory, self._grace_s, self._rng = memory, grace_s, rng
        self._pods: Mapping[str, Document] | None = None
        self._changed = asyncio.Condition()
        self._missed: Missed = {}

    async def run(self) -> None:
        """Follow and sweep until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep_sweeping())

    async def wishes(self, pod: PodRef, patience_s: float) -> Wishes:
        """Return what a pod asks for; never a request to the API server.

        Waits a little for a pod that the kubelet has heard of before us, then raises PodUnknown. While the API server
        has not answered since our start, a pod asks for what it asked for when we last heard of it; for nothing, when
        we never have. A static pod always asks for nothing.
        Raises Malformed for an annotation that makes no sense.
        """
        if "-" not in pod.uid:  # a hash, which only static pods have, and those may never have an object
            return Wishes()
        try:
            async with asyncio.timeout(patience_s):
                return wishes(await self._appears(pod.uid))
        except TimeoutError:
            if self._pods is None and pod.uid in self._memory.pods:
                return wishes(self._memory.pods[pod.uid])
            if self._pods is not None:
                raise PodUnknown(f"the API server has not told of pod {pod} ({pod.uid}) yet") from None
            log.info("pod.unknown", pod=str(pod), uid=pod.uid)
            return Wishes()

    async def _appears(self, uid: str) -> Document:
        async with self._changed:
            while self._pods is None or uid not in self._pods:
                await self._changed.wait()
            return self._pods[uid]

    async def sweep(self) -> None:
        """Look once for attachments without a pod; raises KubeError, and then nothing has changed."""
        attachments = tuple(self._attachments())
        listing = await self._api.list(PODS, fields=self._selector)
        homeless = [one for one in attachments if not self._is_alive(one)]
        now = time.monotonic()
        self._missed, gone = vanished(self._missed, homeless, uids(listing.items), now, self._grace_s)
        for attachment in gone:
            log.warning("pod.vanished", pod=str(attachment.pod), uid=attachment.pod.uid, attachment=str(attachment.id))
            try:
                await self._discard(attachment)
            except LedgerError as error:  # a full disk, say: it stays missed
                log.warning("pod.kept", attachment=str(attachment.id), error=str(error))

    async def _follow(self) -> None:
        async for pods in followed(self._api, PODS, fields=self._selector):
            async with self._changed:
                mirrored = dict.fromkeys(uids(pods), _MIRRORED)
                self._pods = {**mirrored, **{pod["metadata"]["uid"]: pod for pod in pods}}
                self._changed.notify_all()
            await apart(self._memory.keep, self._pods)

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
            except KubeError as error:
                log.info("pods.unseen", error=str(error))
            await asyncio.sleep(self._grace_s * self._rng.uniform(1, 1.2))
