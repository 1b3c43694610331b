"""Which part of the rack's pools this server may hand out.

A lease is a server's right to an address. Two servers that lease the same address are how duplicate addresses begin, so
whoever grants leases must see all of them: here, the rack file.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Protocol

from ipam.errors import PoolError
from ipam.model import check_pools, prefix_set

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ipam.model import IPAddress, IPNetwork, Pod, Pool


class LeaseSource(Protocol):
    """Where a server's leases come from."""

    def owned(self) -> tuple[IPNetwork, ...]:
        """Return the prefixes that this server may hand out from now on, from memory, at once.

        Asked on every allocation, so a lease that arrives counts at once. An address whose lease is taken away stays
        with its holder; a source gives a lease back no sooner than the ledger neither uses nor cools its address.
        """

    def reserved(self) -> frozenset[IPAddress]:
        """Return the addresses that only who asks for them by name gets, whether they are owned (yet) or not.

        Asked on every allocation, after `owned`.
        """

    async def more(self, pod: Pod, fixed: Sequence[IPAddress] = ()) -> bool:
        """Say that a pod found no free address, or none of those that it asks for, and try to get what it needs.

        Returns whether another attempt is worthwhile.
        """

    def served(self, pod: Pod, sticky: Sequence[IPAddress] = ()) -> None:
        """Say that a pod has an address; nothing is kept for it any more, if `more` was asked for it at some time.

        ``sticky`` are those of its addresses that the next pod of its name wants to have again.
        """

    def recall(self, pod: Pod) -> tuple[IPAddress, ...]:
        """Return the addresses that the last pod of this name had, at most one of each family.

        Nothing when they are not to be waited for any more.
        """


class EmbeddedLeases:
    """This server owns what the rack file says, for as long as the agent runs.

    ``owns`` None means all of the pools. Raises PoolError when it names something outside them, or leaves a family of
    the rack without any address: no pod could start here, as a pod gets one of each family.
    """

    def __init__(self, pools: Sequence[Pool], owns: Sequence[IPNetwork] | None = None) -> None:
        check_pools(pools)
        prefixes = tuple(pool.prefix for pool in pools)
        self._owned = prefixes if owns is None else tuple(owns)
        for prefix in self._owned:
            if not prefix_set([prefix]).issubset(prefix_set(prefixes)):
                raise PoolError(f"the server's share {prefix} lies outside the pools {', '.join(map(str, prefixes))}")
        for missing in {prefix.version for prefix in prefixes} - {prefix.version for prefix in self._owned}:
            raise PoolError(f"the server's share has no IPv{missing} prefix, but the rack has IPv{missing} pools")

    def owned(self) -> tuple[IPNetwork, ...]:
        """Return the share that the rack file names."""
        return self._owned

    def reserved(self) -> frozenset[IPAddress]:
        """Return nothing: who comes first is served first."""
        return frozenset()

    async def more(self, _pod: Pod, _fixed: Sequence[IPAddress] = ()) -> bool:
        """Return False: the share is all that there is."""
        return False

    def served(self, pod: Pod, sticky: Sequence[IPAddress] = ()) -> None:
        """Do nothing: nothing was kept."""

    def recall(self, _pod: Pod) -> tuple[IPAddress, ...]:
        """Return nothing: nobody remembers names."""
        return ()


def check_shares(pools: Sequence[Pool], shares: Mapping[str, Sequence[IPNetwork] | None]) -> None:
    """Raise PoolError when two servers of a rack would hand out the same addresses; ``shares`` is by server name."""
    owned = {server: prefix_set(EmbeddedLeases(pools, owns).owned()) for server, owns in shares.items()}
    for one, other in combinations(owned, 2):
        common = owned[one] & owned[other]
        if common:
            raise PoolError(f"servers {one} and {other} both own {common.iter_cidrs()[0]}")
