"""Pools, holders and records as frozen values: what the ledger is asked and what it answers.

Nothing here allocates, reads a clock or touches a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations
from typing import TYPE_CHECKING, Any

from netaddr import IPSet

from ipam.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Pool:
    """One prefix of a rack. Raises PoolError when gateway or reservations do not fit it."""

    prefix: IPNetwork
    gateway: IPAddress
    reserved: tuple[IPNetwork | IPAddress, ...] = ()
    """Never handed out; an address that is in use when it becomes reserved stays with its holder."""

    def __post_init__(self) -> None:
        for what, value in (("gateway", self.gateway), *(("reservation", value) for value in self.reserved)):
            if value.version != self.prefix.version:
                raise PoolError(f"pool {self.prefix}: {what} {value} is not IPv{self.prefix.version}")
            if not prefix_set([value]).issubset(prefix_set([self.prefix])):
                raise PoolError(f"pool {self.prefix}: {what} {value} is outside the prefix")
        if self.prefix.num_addresses == 1:
            raise PoolError(f"pool {self.prefix}: a single address is its own gateway and leaves none for a pod")
        if self.prefix.version == 4 and self.gateway in self.edges:
            raise PoolError(f"pool {self.prefix}: gateway {self.gateway} is the network or broadcast address")

    @property
    def edges(self) -> tuple[IPAddress, ...]:
        """Addresses that the prefix itself takes.

        IPv4: network and broadcast. IPv6: the subnet-router anycast address (RFC 4291 2.6.1). None at all in a /31
        (RFC 3021) or a /127 (RFC 6164): there, one address is the gateway's and the other one a pod's.
        """
        if self.prefix.num_addresses == 2:
            return ()
        if self.prefix.version == 4:
            return self.prefix.network_address, self.prefix.broadcast_address
        return (self.prefix.network_address,)

    def usable(self) -> IPSet:
        """Return what may be handed out: the prefix without its edges, its gateway and its reservations."""
        return prefix_set([self.prefix]) - prefix_set([self.gateway, *self.edges, *self.reserved])


def prefix_set(values: Iterable[IPNetwork | IPAddress]) -> IPSet:
    """Return prefixes and addresses as one set; it is kept as prefixes, so a /64 costs no more than a /24."""
    return IPSet([str(value) for value in values])


def check_pools(pools: Sequence[Pool]) -> None:
    """Raise PoolError when there is no pool, or when two of them overlap."""
    if not pools:
        raise PoolError("the rack has no pool")
    for one, other in combinations(pools, 2):
        if not prefix_set([one.prefix]).isdisjoint(prefix_set([other.prefix])):
            raise PoolError(f"pool {one.prefix} overlaps pool {other.prefix}")


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who holds addresses: one interface of one sandbox. Never a pod's name, which is used again at once."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod behind a sandbox, for people and for audits; empty where the runtime did not say."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One ADD: an address of every family that the rack has pools for, or none at all."""

    holder: Holder
    pod: Pod = Pod()
    netns: str = ""
    addresses: tuple[IPAddress, ...] = ()
    """Fixed addresses, at most one of each family; families that are not named get the next address."""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The caller's own JSON object, handed back as it is."""
    returning: bool = False
    """Whoever had these addresses last is back: they need not have cooled down."""
    slots: Collection[int] | None = None
    """Those that will do, the best first; None for any, the lowest first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One attachment as the ledger's file holds it."""

    holder: Holder
    pod: Pod
    sequence: int
    """Grows with every new attachment over the life of the file and never comes back: a late DEL names an old one."""
    netns: str
    slot: int
    """The first of those asked for that no other record had, leaving ones included."""
    addresses: tuple[IPAddress, ...]
    """One of each family, IPv4 first."""
    leaving: bool
    """Discarded: it keeps its addresses and its slot until it is forgotten."""
    created_at: float
    """Seconds since the epoch."""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """How full this server's share of one pool is; ``used + cooling + free == capacity``, always."""

    prefix: IPNetwork
    capacity: int
    used: int
    cooling: int

    @property
    def free(self) -> int:
        """Addresses that can be handed out now."""
        return self.capacity - self.used - self.cooling


@dataclass(frozen=True, slots=True)
class Holdings:
    """The addresses that a ledger cannot do without now."""

    used: Mapping[IPAddress, Pod]
    """Held by an attachment, leaving ones included."""
    cooling: frozenset[IPAddress] = frozenset()
    sticky: frozenset[IPAddress] = frozenset()
    """Those in use that the next pod of the same name wants to have again."""

    def __contains__(self, address: IPAddress) -> bool:
        return address in self.used or address in self.cooling
