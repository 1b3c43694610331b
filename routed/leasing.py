"""Where this server's leases come from: the rack file alone, or the Kubernetes API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from ipam.leases import EmbeddedLeases, LeaseSource, check_shares
from ipam.model import Pool
from routed.kube.cache import Cache
from routed.kube.cluster import Cluster
from routed.kube.leases import KubeLeases, LeaseState, Tenant
from routed.kube.reclaim import Reclaim
from routed.kube.registry import Registry
from routed.kube.stock import Marks
from routed.settings import KubernetesSettings, Settings


@dataclass(frozen=True, slots=True)
class Leasing:
    """A source of leases, and what keeps it going."""

    source: LeaseSource
    kube: KubeLeases | None = None
    reclaim: Reclaim | None = None

    async def run(self, tenant: Tenant) -> None:
        """Keep the stock of leases and look after those of removed servers, for ever; return at once without an API."""
        async with asyncio.TaskGroup() as group:
            if self.kube is not None:
                group.create_task(self.kube.run(tenant))
            if self.reclaim is not None:
                group.create_task(self.reclaim.run())

    def nudge(self) -> None:
        """Say that the ledger has changed."""
        if self.kube is not None:
            self.kube.nudge()

    def state(self) -> LeaseState | None:
        """Return how the leases are; None without an API."""
        return None if self.kube is None else self.kube.state()


def check(settings: Settings, server: str, pools: Sequence[Pool]) -> None:
    """Raise PoolError when the servers' shares make no sense; where the API server grants leases, there are none."""
    if settings.kubernetes is None:
        check_shares(pools, {name: one.owns for name, one in settings.servers.items()})
        EmbeddedLeases(pools, settings.servers[server].owns)


async def leasing(settings: Settings, server: str, cluster: Cluster | None, pools: Sequence[Pool]) -> Leasing:
    """Return the source for a ledger that is opened next, with the leases of earlier runs.

    Raises OSError, and PoolError as `check`.
    """
    if cluster is None:
        return Leasing(EmbeddedLeases(pools, settings.servers[server].owns))
    wanted = settings.kubernetes or KubernetesSettings()
    registry = Registry(cluster.api, settings.rack, cluster.node, cluster.rng)
    leases = KubeLeases(
        registry,
        Cache(settings.paths.state / "leases.json", rack=settings.rack, node=cluster.node),
        pools,
        marks=Marks(wanted.stock_low, wanted.stock_high),
        patience_s=wanted.sticky_wait_s,
        rng=cluster.rng,
    )
    await leases.start()
    return Leasing(leases, leases, Reclaim(registry, cluster.rng, timedelta(seconds=wanted.reclaim_after_s)))
