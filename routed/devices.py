"""Which VF a pod gets: the one place where that is decided.

A device that the runtime names (Multus passes on what the device plugin gave to the pod) is the one; where it names
none, the kubelet may know. Where VFs are for every pod, whoever comes without one takes a free one. Everybody else gets
a macvlan on a veth pair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.cni.protocol import AttachmentRequest
from routed.domain.workload import AttachmentId, PodRef, Wishes
from routed.settings import VfPolicy
from routed.store import Store


class Devices:
    """Decides for one ADD at a time, though many may be under way."""

    def __init__(
        self,
        store: Store,
        policy: VfPolicy,
        *,
        is_idle: Callable[[str], Awaitable[bool]],
        allocated: Callable[[PodRef], Awaitable[Sequence[str]]],
    ) -> None:
        """`is_idle` tells of a VF whether the server has its network device and no use for it: a pod can have it then.

        `allocated` tells which VFs the kubelet gave a pod; it may raise CniError.
        """
        self._store, self._policy, self._is_idle, self._allocated = store, policy, is_idle, allocated
        self._promised: set[str] = set()
        self._failed: dict[str, None] = {}  # those with which an ADD failed, the last one last

    @asynccontextmanager
    async def of(self, request: AttachmentRequest) -> AsyncIterator[str | None]:
        """Yield the PCI address of the VF for this attachment, None for none; nobody else gets it meanwhile.

        InvalidConfig for a device where there may be none, TryAgainLater when all are in use.
        """
        present = self._store.snapshot.attachments.get(request.attachment)
        if request.config.device is not None:
            device: str | None = self._named(request.config.device)
        elif present is not None:
            device = present.wishes.device
        else:
            device = await self._chosen(request)
        if device is None:
            yield device
            return
        self._promised.add(device)
        try:
            yield device
        finally:
            self._promised.discard(device)

    def note(self, device: str | None, *, works: bool) -> None:
        """Take note of whether a pod could be attached with this VF: where one is free, others are tried before it."""
        self._failed.pop(device or "", None)
        if device is not None and not works:
            self._failed[device] = None

    def _named(self, device: str) -> str:
        """Return the device that the runtime names."""
        if self._policy is VfPolicy.NEVER:
            raise InvalidConfig(
                f"deviceID: {device} cannot be had: there is no bridge on this server, or its bridge.vfs is `never`"
            )
        return device

    async def _chosen(self, request: AttachmentRequest) -> str | None:
        """Return the device of an attachment that is new and comes without one."""
        if self._policy is VfPolicy.NEVER:
            return None
        device = self._first(request.attachment, await self._allocated(request.pod))
        return await self._free() if device is None and self._policy is VfPolicy.ALL else device

    def _first(self, attachment: AttachmentId, allocated: Sequence[str]) -> str | None:
        """Return a VF that a pod has been given and that no other interface of it has, rather one that nobody has.

        One that a sandbox has which is leaving, of the same pod as a rule, is worth waiting for.
        """
        if not allocated:
            return None
        present = self._store.snapshot.attachments.values()
        taken = {one.wishes.device for one in present if one.id.container_id == attachment.container_id}
        own, gone = [address for address in allocated if address not in taken], self._gone()
        return next((address for address in own if address not in gone), next(iter(own), None))

    def _gone(self) -> set[str]:
        """Return the VFs that pods have or were promised."""
        attachments = self._store.snapshot.attachments.values()
        return self._promised.union(one.wishes.device for one in attachments if one.wishes.device is not None)

    async def _free(self) -> str:
        """Return a VF that no pod has and none was promised; it is promised by now."""
        looked_at: set[str] = set()
        try:
            while (address := self._next()) is not None:
                self._promised.add(address)  # before the look, which others do not wait for
                looked_at.add(address)
                if await self._is_idle(address):
                    looked_at.remove(address)
                    return address
        finally:
            self._promised -= looked_at
        vfs = {vf.address for vf in self._store.snapshot.place.vfs.values()}
        raise TryAgainLater(
            f"no VF is free: of {len(vfs)} on this server {len(vfs & self._gone())} are in use; "
            "one is free when a pod ends (`routed doctor nic` tells of those that cannot be used)"
        )

    def _next(self) -> str | None:
        """Return the first VF that nobody has or looks at; of those that failed, the one for which that is longest ago.

        A VF that cannot be used (its representor is somebody else's, say) would keep every pod waiting else.
        """
        gone = self._gone()
        vfs = [vf.address for vf in self._store.snapshot.place.vfs.values() if vf.address not in gone]
        whole = next((address for address in vfs if address not in self._failed), None)
        return whole or next((address for address in self._failed if address in vfs), None)


def equipped(wishes: Wishes, request: AttachmentRequest, device: str | None) -> Wishes:
    """Return what a pod asks for, with its VF and its network; InvalidConfig when it wants RDMA and has no VF.

    A network's `rdma` is for those of its pods that have a VF.
    """
    if wishes.rdma and device is None:
        raise InvalidConfig(
            "annotation routed.dev/rdma: the pod has no VF, whose RDMA device that would be: its containers have to "
            "ask for one (resources.limits), and the rack file's sriov.resources to name that, where Multus does not"
        )
    rdma = device is not None and (wishes.rdma or request.config.rdma)
    return replace(wishes, device=device, rdma=rdma, network=request.config.name)
