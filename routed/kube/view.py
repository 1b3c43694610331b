"""What a server knows of the addresses of its rack. Pure, and never what an address is claimed or used by.

Everything about the other servers is a hint here: it saves vain claims and tells how scarce addresses are. The API
server alone says whose an address is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from random import Random

from ipam.allocate import Share, shares
from ipam.model import IPAddress, IPNetwork, Pool
from routed.kube.addresses import Lease
from routed.kube.stock import Marks, draw


class View:
    """One rack, seen from one server."""

    def __init__(self, pools: Sequence[Pool], node: str) -> None:
        self.families: Mapping[int, tuple[Share, ...]] = shares(pools, [pool.prefix for pool in pools])
        self.others: dict[IPAddress, Lease | None] = {}
        """Who else has which address; None for whose we do not know."""
        self._node = node
        self._servers = 1
        self._busy: Counter[IPNetwork | None] = Counter()
        """By pool: how many addresses of the others serve a pod."""
        self._used: Counter[IPNetwork | None] = Counter()
        """By pool: how many of ours do."""

    def reset(self, found: Mapping[IPAddress, Lease]) -> dict[IPAddress, Lease]:
        """Replace what is known of the others by what a look found; returns what is ours of that."""
        self.others = {address: lease for address, lease in found.items() if lease.node != self._node}
        self._busy = Counter(self.pool(address) for address, lease in self.others.items() if lease and lease.pod)
        self._servers = len({lease.node for lease in found.values()} | {self._node})
        return {address: lease for address, lease in found.items() if lease.node == self._node}

    def hear(self, lease: Lease, *, exists: bool) -> None:
        """Take note of another server's lease that has changed."""
        known = self.others.pop(lease.address, None)
        self._busy[self.pool(lease.address)] += int(exists and lease.pod is not None) - int(_serves(known))
        if exists:
            self.others[lease.address] = lease

    def learn(self, address: IPAddress, lease: Lease | None) -> None:
        """Take note that an address is not to be had; None when it is not known whose it is."""
        if lease is not None:
            self.hear(lease, exists=True)
        else:
            self.others.setdefault(address)

    def won(self, addresses: Iterable[IPAddress]) -> None:
        """Take note that these are ours."""
        for address in addresses:
            if _serves(self.others.pop(address, None)):
                self._busy[self.pool(address)] -= 1

    def count_used(self, used: Collection[IPAddress]) -> None:
        """Take note of the addresses that serve pods here."""
        self._used = Counter(map(self.pool, used))

    @property
    def servers(self) -> int:
        """How many servers have leases in this rack, this one included."""
        return self._servers

    def idle(self) -> dict[IPNetwork, int]:
        """Return by pool how many addresses of the rack serve no pod, leased or not."""
        return {
            share.prefix: max(share.capacity - self._busy[share.prefix] - self._used[share.prefix], 0)
            for family in self.families.values()
            for share in family
        }

    def capacity(self) -> dict[IPNetwork, int]:
        """Return by pool how many addresses of the rack pods can have."""
        return {share.prefix: share.capacity for family in self.families.values() for share in family}

    def marks(self, version: int, marks: Marks) -> Marks:
        """Return the marks that hold now for one family."""
        idle = sum(count for prefix, count in self.idle().items() if prefix.version == version)
        return marks.shared(idle, self._servers)

    def draw(self, version: int, mine: Iterable[IPAddress], count: int, rng: Random) -> list[IPAddress]:
        """Return up to ``count`` random addresses of a family that nobody is known to have."""
        known = self._known(version, mine)
        kind = IPv4Address if version == 4 else IPv6Address
        free = self._unleased(version, known)
        return [kind(number) for number in draw(self.families[version], known, free, count, rng)]

    def is_scarce(self, version: int, mine: Iterable[IPAddress]) -> bool:
        """Whether hardly any address of a family is left that nobody has: then none is kept for a pod that may come."""
        return self._unleased(version, self._known(version, mine)) < 2 * self._servers

    def wanted(self) -> frozenset[IPAddress]:
        """Return the addresses that pods of the others wait for."""
        return frozenset(address for lease in self.others.values() if lease for address in lease.wanted)

    def _known(self, version: int, mine: Iterable[IPAddress]) -> set[int]:
        return {int(address) for address in (*mine, *self.others) if address.version == version}

    def _unleased(self, version: int, known: Iterable[int]) -> int:
        family = self.families.get(version, ())
        taken = sum(any(number in share for share in family) for number in known)
        return sum(share.capacity for share in family) - taken

    def is_free(self, address: IPAddress) -> bool:
        """Whether a pod may get this address and nobody is known to have it."""
        return self.pool(address) is not None and address not in self.others

    def pool(self, address: IPAddress) -> IPNetwork | None:
        """Return the pool that an address is of, None when a pod cannot get it from any."""
        family = self.families.get(address.version, ())
        return next((share.prefix for share in family if int(address) in share), None)


def _serves(lease: Lease | None) -> bool:
    return lease is not None and lease.pod is not None
