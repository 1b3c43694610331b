"""How full a rack is, in the status of its Rack: computed here, written by whichever server sees the change first.

Nobody is in charge. Each server looks after a random while and writes only what differs from what stands there; a write
that everybody sees makes all of them wait anew. So a rack's status is written once a period at most, by somebody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from random import Random
from typing import Any

import structlog

from ipam.model import IPAddress, IPNetwork, Pool
from routed.kube.addresses import RACK_LABEL
from routed.kube.api import ADDRESSES, RACKS, Api, Document
from routed.kube.errors import Conflict, KubeError, Malformed, NotFound
from routed.kube.nodes import Surroundings
from routed.kube.racks import check

log = structlog.get_logger(__name__)
MANY = 2**31 - 1
"""Stands for that many or more: an IPv6 pool has more addresses than the API has numbers."""
_NEWS_S = 3.0
"""Within how long somebody answers an edit."""


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How full one pool is, counted over the whole rack."""

    prefix: IPNetwork
    capacity: int
    leased: int

    @property
    def free(self) -> int:
        """Addresses that no server has leased."""
        return self.capacity - self.leased


def occupancy(pools: Sequence[Pool], leased: Iterable[IPAddress]) -> tuple[PoolUse, ...]:
    """Return how full each pool is; leases of what is no longer handed out do not count."""
    usable = {pool.prefix: pool.usable() for pool in pools}
    counts = dict.fromkeys(usable, 0)
    for address in leased:
        for prefix, addresses in usable.items():
            if address.version == prefix.version and address in prefix:
                counts[prefix] += str(address) in addresses
                break
    return tuple(PoolUse(prefix, addresses.size, counts[prefix]) for prefix, addresses in usable.items())


def status(rack: Document, uses: Sequence[PoolUse] | None, trouble: str | None, now: datetime) -> dict[str, Any]:
    """Return a Rack's status; ``uses`` is None when the pools cannot be read, and the counts stay as they were.

    A pod takes an address of each family, so the family with fewer addresses says how many pods there can be.
    """
    generation, before = rack["metadata"].get("generation", 0), rack.get("status") or {}
    kept = {key: before[key] for key in ("capacity", "leased", "free", "pools") if key in before}
    counted = kept if uses is None else _counts(uses)
    conditions = [_condition("Accepted", trouble is None, *_verdict(trouble))]
    if "free" in counted:
        full = counted["free"] == 0
        message = "every address of a family is leased; add a pool" if full else ""
        conditions.append(_condition("Exhausted", full, "NoAddressFree" if full else "AddressesFree", message))
    said = {one["type"]: one for one in before.get("conditions") or ()}
    return {
        "observedGeneration": generation,
        **counted,
        "conditions": [_since(one, said.get(one["type"]), generation, now) for one in conditions],
    }


class RackStatus:
    """This server's share in keeping its Rack's status true."""

    def __init__(
        self,
        api: Api,
        surroundings: Surroundings,
        rng: Random,
        *,
        period_s: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._surroundings, self._rng = api, surroundings, rng
        self._period_s, self._now = period_s, now

    async def run(self) -> None:
        """Look now and then, until cancelled; needs `Surroundings.run` to run."""
        changed = self._surroundings.rack_changed
        while True:
            with suppress(TimeoutError):  # nobody wrote for so long: it is our turn
                async with asyncio.timeout(self._patience_s()):
                    await changed.wait()
                    changed.clear()
                    continue
            try:
                await self.write()
            except KubeError as error:
                log.warning("rack.status_unwritten", error=str(error))
                await asyncio.sleep(self._period_s)

    def _patience_s(self) -> float:
        rack = self._surroundings.rack
        if rack is not None and (rack.get("status") or {}).get("observedGeneration") != rack["metadata"]["generation"]:
            return self._rng.uniform(0, min(_NEWS_S, self._period_s))
        return self._period_s * self._rng.uniform(1, 2)

    async def write(self) -> bool:
        """Bring our Rack's status up to date; False when there was nothing to write, or somebody was faster."""
        rack, racks = self._surroundings.rack, self._surroundings.racks
        if rack is None or racks is None:
            return False
        name = rack["metadata"]["name"]
        uses, trouble = None, None
        try:
            pools = check(rack, racks)
        except Malformed as error:
            trouble = str(error)
        else:
            listing = await self._api.list(ADDRESSES, labels=f"{RACK_LABEL}={name}")
            uses = occupancy(pools, _leased(listing.items))
        wanted = status(rack, uses, trouble, self._now())
        if wanted == rack.get("status"):
            return False
        change = {"metadata": {"resourceVersion": rack["metadata"]["resourceVersion"]}, "status": wanted}
        with suppress(Conflict, NotFound):
            await self._api.patch(RACKS, name, change, subresource="status")
            return True
        return False


def _counts(uses: Sequence[PoolUse]) -> dict[str, Any]:
    families = [[use for use in uses if use.prefix.version == version] for version in (4, 6)]
    scarce = min(filter(None, families), key=lambda family: sum(use.capacity for use in family))
    numbers = [{key: getattr(use, key) for key in ("capacity", "leased", "free")} for use in uses]
    return {
        **{key: min(sum(getattr(use, key) for use in scarce), MANY) for key in ("capacity", "leased", "free")},
        "pools": [
            {"prefix": str(use.prefix), **{key: min(value, MANY) for key, value in found.items()}}
            for use, found in zip(uses, numbers, strict=True)
        ],
    }


def _verdict(trouble: str | None) -> tuple[str, str]:
    return ("Valid", "") if trouble is None else ("Invalid", trouble[:1024])


def _condition(kind: str, true: bool, reason: str, message: str) -> dict[str, Any]:
    return {"type": kind, "status": "True" if true else "False", "reason": reason, "message": message}


def _since(new: Mapping[str, Any], old: Mapping[str, Any] | None, generation: int, now: datetime) -> dict[str, Any]:
    same = old is not None and old["status"] == new["status"]
    since = old["lastTransitionTime"] if old is not None and same else now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**new, "observedGeneration": generation, "lastTransitionTime": since}


def _leased(items: Iterable[Document]) -> Iterable[IPAddress]:
    return (ip_address(item["spec"]["address"]) for item in items)
