"""The Address objects of one rack, as one server reads and writes them. Decides nothing.

Every method may raise KubeError; where an answer is None, the object is not ours (any more) and nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from random import Random

import structlog

from ipam.model import IPAddress, Pod
from routed.kube import addresses
from routed.kube.addresses import CONFIRMED, RACK_LABEL, Lease
from routed.kube.api import ADDRESSES, NODES, Api
from routed.kube.errors import AlreadyExists, Conflict, Malformed, NotFound

log = structlog.get_logger(__name__)


class Registry:
    """One server's view of its rack."""

    def __init__(self, api: Api, rack: str, node: str, rng: Random) -> None:
        self._api, self._rack, self.node, self._rng = api, rack, node, rng

    async def uid_of(self, node: str) -> str | None:
        """Return the UID of a Node, None when there is no such Node."""
        try:
            return str((await self._api.get(NODES, node))["metadata"]["uid"])
        except NotFound:
            return None

    async def everything(self) -> Mapping[IPAddress, Lease]:
        """Return all leases of the rack; an object that makes no sense is left out and told of."""
        listing = await self._api.list(ADDRESSES, labels=f"{RACK_LABEL}={self._rack}")
        found: dict[IPAddress, Lease] = {}
        for item in listing.items:
            try:
                lease = addresses.read(item)
            except Malformed as error:
                log.warning("lease.malformed", error=str(error))
                continue
            found[lease.address] = lease
        return found

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

    async def say(self, lease: Lease, pod: Pod | None) -> Lease | None:
        """Write who uses an address, for people."""
        with suppress(NotFound):
            written = await self._api.patch(ADDRESSES, lease.name, addresses.usage(pod), subresource="status")
            said = addresses.read(written)
            return said if said.uid == lease.uid else None
        return None
