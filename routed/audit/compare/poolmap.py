"""Which rack's pool an address is in, for the whole fabric. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import RackPlan

Key = tuple[int, int, int]
"""A prefix as version, first address and length: what `ipaddress` takes ten times as long to hash and compare."""


def key(prefix: IPNetwork) -> Key:
    """Return the key of a prefix."""
    return prefix.version, int(prefix.network_address), prefix.prefixlen


class PoolMap:
    """All pools of all racks, built once and looked up often."""

    def __init__(self, plans: Iterable[RackPlan]) -> None:
        """Take the pools of these racks; where pools overlap, which is a finding of its own, any of them is found."""
        self.racks: Mapping[IPNetwork, str] = {pool.prefix: plan.rack.name for plan in plans for pool in plan.pools}
        """Pool -> the rack that it belongs to."""
        self._by_key = {key(prefix): prefix for prefix in self.racks}
        self._keys = sorted(self._by_key)

    def find(self, address: IPAddress) -> IPNetwork | None:
        """Return the pool that holds this address, None when none does."""
        place = bisect_right(self._keys, (address.version, int(address), 129)) - 1
        if place >= 0:
            prefix = self._by_key[self._keys[place]]
            if address.version == prefix.version and address in prefix:
                return prefix
        return None

    def unreached(self, networks: AbstractSet[Key]) -> frozenset[IPNetwork]:
        """Return the pools to which there is neither a route of their own nor a shorter one but the default."""
        missing = self._by_key.keys() - networks
        if missing:
            for network in networks - self._by_key.keys():
                missing.difference_update(self._inside(network))
        return frozenset(self._by_key[pool] for pool in missing)

    def _inside(self, network: Key) -> Iterator[Key]:
        version, first, length = network
        if length == 0:
            return
        last = first + (1 << ((32 if version == 4 else 128) - length)) - 1
        yield from self._keys[bisect_left(self._keys, network) : bisect_right(self._keys, (version, last, 129))]
