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
        is_here: Callable[[str], bool],
        allocated: Callable[[PodRef], Awaitable[Sequence[str]]],
    ) -> None:
        """`is_here` tells of a VF whether the server has its network device, so that a pod can have it.

        `allocated` tells which VFs the kubelet gave a pod; it may raise CniError.
        """
        self._store, self._policy, self._is_here, self._allocated = store, policy, is_here, allocated
        self._promised: set[str] = set()

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
        return self._free() if device is None and self._policy is VfPolicy.ALL else device

    def _first(self, attachment: AttachmentId, allocated: Sequence[str]) -> str | None:
        """Return a VF that a pod has been given and that no other interface of it has, rather one that nobody has.

        One that a sandbox has which is leaving, of the same pod as a rule, is worth waiting for.
        """
        present = self._store.snapshot.attachments.values()
        taken = {one.wishes.device for one in present if one.id.container_id == attachment.container_id}
        own, gone = [address for address in allocated if address not in taken], self._gone()
        return next((address for address in own if address not in gone), next(iter(own), None))

    def _gone(self) -> set[str]:
        """Return the VFs that pods have or were promised."""
        attachments = self._store.snapshot.attachments.values()
        return self._promised.union(one.wishes.device for one in attachments if one.wishes.device is not None)

    def _free(self) -> str:
        """Return a VF that no pod has and none was promised."""
        gone = self._gone()
        vfs = [vf.address for vf in self._store.snapshot.place.vfs.values()]
        found = next((address for address in vfs if address not in gone and self._is_here(address)), None)
        if found is None:
            raise TryAgainLater(
                f"no VF is free: of {len(vfs)} on this server {len(gone.intersection(vfs))} are in use; "
                "one is free when a pod ends (`routed doctor nic` tells of those that cannot be used)"
            )
        return found


def equipped(wishes: Wishes, request: AttachmentRequest, device: str | None) -> Wishes:
    """Return what a pod asks for, with its VF; InvalidConfig when it wants RDMA and has none.

    A network's `rdma` is for those of its pods that have a VF.
    """
    if wishes.rdma and device is None:
        raise InvalidConfig(
            "annotation routed.dev/rdma: the pod has no VF, whose RDMA device that would be: its containers have to "
            "ask for one (resources.limits), and the rack file's sriov.resources to name that, where Multus does not"
        )
    return replace(wishes, device=device, rdma=device is not None and (wishes.rdma or request.config.rdma))
