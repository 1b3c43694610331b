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
        """Take the pools of these racks; of one that two have, which is a finding of its own, either rack is found."""
        self.racks: Mapping[IPNetwork, str] = {pool.prefix: plan.rack.name for plan in plans for pool in plan.pools}
        """Pool -> the rack that it belongs to."""
        self._by_key = {key(prefix): prefix for prefix in self.racks}
        self._keys = sorted(self._by_key)
        self._around = dict(_around(self._keys))

    def find(self, address: IPAddress) -> IPNetwork | None:
        """Return the longest pool that holds this address, None when none does."""
        place = bisect_right(self._keys, (address.version, int(address), 129)) - 1
        at = self._keys[place] if place >= 0 else None
        while at is not None:
            prefix = self._by_key[at]
            if address.version == prefix.version and address in prefix:
                return prefix
            at = self._around.get(at)
        return None

    def unreached(self, networks: AbstractSet[Key]) -> frozenset[IPNetwork]:
        """Return the pools to which there is neither a route of their own nor a shorter one but the default."""
        missing = self._by_key.keys() - networks
        if missing:
            for network in networks - self._by_key.keys():
                missing.difference_update(self._inside(network))
        return frozenset(self._by_key[pool] for pool in missing)

    def _inside(self, network: Key) -> Iterator[Key]:
        if network[2] > 0:
            end = bisect_right(self._keys, (network[0], _last(network), 129))
            yield from self._keys[bisect_left(self._keys, network) : end]


def _last(network: Key) -> int:
    version, first, length = network
    return first + (1 << ((32 if version == 4 else 128) - length)) - 1


def _around(ordered: Iterable[Key]) -> Iterator[tuple[Key, Key]]:
    """Yield each prefix that lies inside another one, with the next larger one; they come in order."""
    open_ones: list[Key] = []
    for one in ordered:
        while open_ones and (open_ones[-1][0] != one[0] or _last(open_ones[-1]) < one[1]):
            open_ones.pop()
        if open_ones:
            yield one, open_ones[-1]
        open_ones.append(one)
