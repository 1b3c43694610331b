"""Which VF a pod gets: the one place where that is decided.

A device that the runtime names (Multus passes on what the device plugin gave to the pod) is the one. Where VFs are for
every pod, whoever comes without one takes a free one. Everybody else gets a macvlan on a veth pair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.cni.protocol import AttachmentRequest
from routed.settings import VfPolicy
from routed.store import Store


class Devices:
    """Decides for one ADD at a time, though many may be under way."""

    def __init__(self, store: Store, policy: VfPolicy, *, is_here: Callable[[str], bool]) -> None:
        """`is_here` tells of a VF whether the server has its network device, so that a pod can have it."""
        self._store, self._policy, self._is_here = store, policy, is_here
        self._promised: set[str] = set()

    @asynccontextmanager
    async def of(self, request: AttachmentRequest) -> AsyncIterator[str | None]:
        """Yield the PCI address of the VF for this attachment, None for none; nobody else gets it meanwhile.

        InvalidConfig for a device where there may be none, TryAgainLater when all are in use.
        """
        device = self._named(request)
        if device is not None or self._policy is not VfPolicy.ALL:
            yield device
            return
        device = self._free()
        self._promised.add(device)
        try:
            yield device
        finally:
            self._promised.discard(device)

    def _named(self, request: AttachmentRequest) -> str | None:
        """Return the device that the runtime names or the attachment has."""
        if request.config.device is None:
            present = self._store.snapshot.attachments.get(request.attachment)
            return None if present is None else present.wishes.device
        if self._policy is VfPolicy.NEVER:
            raise InvalidConfig(
                f"deviceID: {request.config.device} cannot be had: the rack file's bridge.vfs is `never` on this server"
            )
        return request.config.device

    def _free(self) -> str:
        """Return a VF that no pod has and none was promised."""
        attachments = self._store.snapshot.attachments.values()
        gone = self._promised.union(one.wishes.device for one in attachments if one.wishes.device is not None)
        vfs = [vf.address for vf in self._store.snapshot.place.vfs.values()]
        found = next((address for address in vfs if address not in gone and self._is_here(address)), None)
        if found is None:
            raise TryAgainLater(
                f"no VF is free: of {len(vfs)} on this server {len(gone.intersection(vfs))} are in use; "
                "one is free when a pod ends (`routed doctor nic` tells of those that cannot be used)"
            )
        return found
