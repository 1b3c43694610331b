"""Leases of servers that are gone, given back to the rack by whichever agent comes across them.

A server is gone when the API has no Node of the UID that its leases name. One that is switched off or cut off still has
its Node, and keeps its leases. What has to hold before an object is deleted:

- The lease was read before the Node was asked for: a server registers first and claims then.
- Twice, a grace period apart, its Node was not there and the object was the very same, unwritten in between.
- Our own Node can be seen, so it is the right API server and it lets us look.
- The delete names the object's uid and resource version: an owner that came back and confirmed it keeps it.
- A lease that does not say whose it is stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from routed.kube.addresses import Lease
from routed.kube.errors import KubeError
from routed.kube.registry import Registry

log = structlog.get_logger(__name__)
Owner = tuple[str, str]
"""A Node's name and UID."""
GRACE = timedelta(minutes=10)
"""Longer than a server needs to register again after somebody has deleted its Node by mistake."""
_PAUSE_S = 300.0
"""Between two looks, on average; no more than half of the grace period."""


@dataclass(frozen=True, slots=True)
class _Miss:
    """A server that was not there."""

    since: float
    objects: frozenset[tuple[str, str]]
    """Its leases as they were then: uid and resource version."""


class Reclaim:
    """What this agent has seen of servers that are gone."""

    def __init__(self, registry: Registry, rng: Random, grace: timedelta = GRACE) -> None:
        self._registry, self._rng, self._grace_s = registry, rng, grace.total_seconds()
        self._pause_s = min(_PAUSE_S, self._grace_s / 2)
        self._missed: dict[Owner, _Miss] = {}

    async def run(self) -> None:
        """Look now and then, for ever."""
        while True:
            await asyncio.sleep(self._pause_s * self._rng.uniform(0.5, 1.5))
            try:
                await self.step(time.monotonic())
            except KubeError as error:
                log.warning("reclaim.failed", error=str(error))

    async def step(self, now: float) -> int:
        """Look after one server at random and those that were missed before; returns how many leases were given back.

        ``now`` is in seconds, of a clock that nobody sets. One question a step keeps the API server's load from growing
        with the square of the rack. Raises KubeError.
        """
        owners: dict[Owner, list[Lease]] = {}
        leases, _ = await self._registry.everything()
        for lease in leases.values():
            if lease.node and lease.node_uid and lease.node != self._registry.node:
                owners.setdefault((lease.node, lease.node_uid), []).append(lease)
        self._missed = {owner: miss for owner, miss in self._missed.items() if owner in owners}
        others = sorted(owners.keys() - self._missed.keys())
        freed = 0
        for owner in (*self._missed, *self._rng.sample(others, min(len(others), 1))):
            if await self._registry.uid_of(owner[0]) == owner[1]:
                self._missed.pop(owner, None)
            else:
                freed += await self._miss(owner, owners[owner], now)
        return freed

    async def _miss(self, owner: Owner, leases: Collection[Lease], now: float) -> int:
        miss, objects = self._missed.get(owner), frozenset((lease.uid, lease.version) for lease in leases)
        if miss is None or not objects <= miss.objects:  # seen for the first time, or somebody still writes them
            self._missed[owner] = _Miss(now, objects)
            log.warning("server.missing", node=owner[0], uid=owner[1], leases=len(leases), grace_s=self._grace_s)
            return 0
        if now - miss.since < self._grace_s or await self._registry.uid_of(self._registry.node) is None:
            return 0
        freed = [lease for lease in leases if await self._registry.release(lease)]
        log.warning("leases.reclaimed", node=owner[0], uid=owner[1], addresses=[str(lease.address) for lease in freed])
        return len(freed)
