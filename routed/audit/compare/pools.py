"""How full a rack's pools are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ipam.model import IPAddress, IPNetwork, Pool
from routed.audit.compare.claims import Claims
from routed.audit.model import Evidence, Finding, Kind, PoolSummary, RackPlan, Severity
from routed.audit.places import is_inside

MAPPED = 256
"""Addresses that a map of a pool shows."""


def summaries(plan: RackPlan, claims: Claims) -> tuple[PoolSummary, ...]:
    """Return how full each pool is; what is used is unknown while any server's holdings are."""
    complete = claims.known >= plan.servers.keys()
    return tuple(_summary(pool, claims if complete else None) for pool in plan.pools)


def fullness(whose: str, rack: str, pools: Sequence[PoolSummary], low: float) -> Iterator[Finding]:
    """Report families whose pools are full, or fuller than `low`: a pod gets an address of any pool of a family.

    `whose` pools they are is the rack's name, or a server's for its share of them.
    """
    for version in (4, 6):
        family = [pool for pool in pools if pool.prefix.version == version]
        used = sum(pool.used or 0 for pool in family)
        capacity = sum(pool.capacity for pool in family)
        if not capacity or any(pool.used is None for pool in family) or used < low * capacity:
            continue
        full = used >= capacity
        prefixes = ",".join(str(pool.prefix) for pool in family)
        yield Finding(
            Kind.POOL_EXHAUSTED if full else Kind.POOL_LOW,
            Severity.CRITICAL if full else Severity.WARNING,
            rack,
            prefixes,
            () if whose == rack else (whose,),
            f"{whose}: {used} of {capacity} IPv{version} addresses are used"
            + (", no pod can start" if full else f", {capacity - used} are left"),
            "more pods than the rack was planned for",
            "give the rack another pool (routed tor-config renders it for the ToRs), or move pods to other racks",
            tuple(
                Evidence("plan", str(pool.prefix), f"{pool.used} of {pool.capacity} addresses are used")
                for pool in family
            ),
            frozenset({f"full {prefixes}"}),  # a pool that fills up between two looks was low in the first
        )


def _summary(pool: Pool, claims: Claims | None) -> PoolSummary:
    used = None if claims is None else sum(1 for address in claims.holdings if is_inside(address, pool.prefix))
    return PoolSummary(pool.prefix, pool.usable().size, used, _unusable(pool))


def _unusable(pool: Pool) -> tuple[IPAddress, ...]:
    """Return what pods cannot have among the addresses that a map shows."""
    found = {pool.gateway, *pool.edges}
    for reserved in pool.reserved:
        found.update(islice(reserved, MAPPED) if isinstance(reserved, IPNetwork) else (reserved,))
    last = int(pool.prefix.network_address) + MAPPED
    return tuple(sorted(address for address in found if int(address) < last))
