"""Which rack's pool an address is in, for the whole fabric. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import RackPlan


class PoolMap:
    """All pools of all racks, built once and looked up often."""

    def __init__(self, plans: Iterable[RackPlan]) -> None:
        """Take the pools of these racks; where pools overlap, which is a finding of its own, any of them is found."""
        self.racks: Mapping[IPNetwork, str] = {pool.prefix: plan.rack.name for plan in plans for pool in plan.pools}
        """Pool -> the rack that it belongs to."""
        self._pools = sorted(self.racks, key=lambda prefix: (prefix.version, int(prefix.network_address)))
        self._firsts = [(prefix.version, int(prefix.network_address)) for prefix in self._pools]

    def find(self, address: IPAddress) -> IPNetwork | None:
        """Return the pool that holds this address, None when none does."""
        place = bisect_right(self._firsts, (address.version, int(address))) - 1
        if place >= 0:
            prefix = self._pools[place]
            if address.version == prefix.version and address in prefix:
                return prefix
        return None
