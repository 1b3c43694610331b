"""The Address objects of one rack, as one server reads and writes them. Decides nothing.

Every method may raise KubeError; where an answer is None, the object is not ours (any more) and nothing was changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from random import Random

import structlog

from ipam.model import IPAddress, Pod
from routed.kube import addresses
from routed.kube.addresses import CONFIRMED, RACK_LABEL, Lease
from routed.kube.api import ADDRESSES, NODES, Api, Document
from routed.kube.errors import AlreadyExists, Conflict, Malformed, NotFound

log = structlog.get_logger(__name__)
_PACE_S = 0.1
"""Between two watches, for what lies between us and the API server may end them at once."""


class Registry:
    """One server's view of its rack."""

    def __init__(self, api: Api, rack: str, node: str, rng: Random) -> None:
        self._api, self._rack, self.node, self._rng = api, rack, node, rng
        self._ours = f"{RACK_LABEL}={rack}"

    async def uid_of(self, node: str) -> str | None:
        """Return the UID of a Node, None when there is no such Node."""
        try:
            return str((await self._api.get(NODES, node))["metadata"]["uid"])
        except NotFound:
            return None

    async def everything(self) -> tuple[Mapping[IPAddress, Lease], str]:
        """Return all leases of the rack, and the version after which `changes` goes on."""
        listing = await self._api.list(ADDRESSES, labels=self._ours)
        leases = filter(None, map(_sensible, listing.items))
        return {lease.address: lease for lease in leases}, listing.version

    async def changes(self, version: str) -> AsyncGenerator[tuple[Lease, bool], None]:
        """Yield leases of the rack as they change, each with whether it still exists, until a KubeError ends that."""
        while True:  # a watch ends after a while, and goes on where it was
            async with aclosing(self._api.watch(ADDRESSES, version, labels=self._ours)) as events:
                async for kind, item in events:
                    version = item["metadata"]["resourceVersion"]
                    lease = _sensible(item) if kind != "BOOKMARK" else None
                    if lease is not None:
                        yield lease, kind != "DELETED"
            await asyncio.sleep(_PACE_S)

    async def find(self, address: IPAddress) -> Lease | None:
        """Return the lease of one address, whoever has it."""
        with suppress(NotFound):
            return addresses.read(await self._api.get(ADDRESSES, addresses.object_name(address)))
        return None

    async def claim(self, address: IPAddress, node_uid: str) -> Lease | None:
        """Create the object of an address; None when there is one already, whoever's."""
        document = addresses.new_object(address, rack=self._rack, node=self.node, node_uid=node_uid)
        with suppress(AlreadyExists):
            return addresses.read(await self._api.create(ADDRESSES, document))
        return None

    async def confirm(self, lease: Lease, node_uid: str) -> Lease | None:
        """Write an object that names our server, so that no delete of what it was before can take it away any more.

        It belongs to our Node as that is now: a Node that was deleted and registered anew has another UID.
        """
        metadata = {
            "resourceVersion": lease.version,
            "labels": {RACK_LABEL: self._rack},
            "annotations": {CONFIRMED: f"{self._rng.getrandbits(64):016x}"},
        }
        change = {"metadata": metadata, "spec": {"nodeUID": node_uid}}
        with suppress(Conflict, NotFound):
            return addresses.read(await self._api.patch(ADDRESSES, lease.name, change))
        return None

    async def release(self, lease: Lease) -> bool:
        """Delete an object that is still as it was read; False when it is not, or is gone."""
        with suppress(Conflict, NotFound):
            await self._api.delete(ADDRESSES, lease.name, uid=lease.uid, version=lease.version)
            return True
        return False

    async def note(self, lease: Lease, sticky: str, wanted: Sequence[IPAddress]) -> Lease | None:
        """Write whom an address of ours is kept for, and which addresses of others our pods wait for."""
        change = addresses.notes(sticky, wanted)
        change["metadata"]["resourceVersion"] = lease.version
        with suppress(Conflict, NotFound):
            return addresses.read(await self._api.patch(ADDRESSES, lease.name, change))
        return None

    async def say(self, lease: Lease, pod: Pod | None) -> Lease | None:
        """Write who uses an address, for people."""
        with suppress(NotFound):
            written = await self._api.patch(ADDRESSES, lease.name, addresses.usage(pod), subresource="status")
            said = addresses.read(written)
            return said if said.uid == lease.uid else None
        return None


def _sensible(item: Document) -> Lease | None:
    """Return what an object says; None, and a warning, for one that makes no sense."""
    try:
        return addresses.read(item)
    except Malformed as error:
        log.warning("lease.malformed", error=str(error))
        return None
