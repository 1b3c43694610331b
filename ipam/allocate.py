"""Which address comes next. Pure: no clock, no file, no randomness.

Addresses are plain numbers here and one family at a time, which makes a walk over a full pool cheap. The order: those
that were never used, lowest first; then those that have cooled down, oldest freed first.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import filterfalse, islice
from math import ceil
from typing import TYPE_CHECKING

from ipam.errors import PoolExhausted
from ipam.model import Usage, prefix_set

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ipam.model import Holder, IPNetwork, Pool


@dataclass(frozen=True, slots=True)
class Share:
    """What this server may hand out of one pool, as inclusive ranges that ascend and do not touch."""

    prefix: IPNetwork
    ranges: tuple[tuple[int, int], ...]

    @property
    def capacity(self) -> int:
        """Number of addresses."""
        return sum(last - first + 1 for first, last in self.ranges)

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self.ranges, address, key=lambda bounds: bounds[0])
        return at > 0 and address <= self.ranges[at - 1][1]


def shares(pools: Iterable[Pool], owned: Iterable[IPNetwork]) -> dict[int, tuple[Share, ...]]:
    """Return, by IP version, the owned part of each pool in the order of its addresses; a share may be empty."""
    mine = prefix_set(owned)
    found: dict[int, tuple[Share, ...]] = {}
    for pool in sorted(pools, key=lambda pool: (pool.prefix.version, int(pool.prefix.network_address))):
        ranges = tuple((part.first, part.last) for part in (pool.usable() & mine).iter_ipranges())
        found[pool.prefix.version] = (*found.get(pool.prefix.version, ()), Share(pool.prefix, ranges))
    return found


@dataclass(slots=True)
class Book:
    """The addresses of one family that were ever used, and that the ledger has not lost sight of since."""

    held: dict[int, Holder] = field(default_factory=dict)
    freed: dict[int, float] = field(default_factory=dict)
    """When each was freed, in seconds since the epoch; oldest first."""

    def copy(self) -> Book:
        """Return a book that can be written without changing this one."""
        return Book(dict(self.held), dict(self.freed))


def remaining(freed_at: float, now: float, cooldown_s: float) -> float:
    """Return the seconds for which an address still cools down, 0 when it can be handed out.

    Never more than a whole cool-down, though the clock may have been set back since.
    """
    return min(max(freed_at + cooldown_s - now, 0.0), cooldown_s)


def choose(family: Sequence[Share], book: Book, now: float, cooldown_s: float, reserved: Collection[int] = ()) -> int:
    """Return the next address of one family that is not reserved; PoolExhausted when there is none now."""
    for share in family:
        for first, last in share.ranges:
            unknown = filterfalse(book.freed.__contains__, range(first, last + 1))
            unused = filterfalse(book.held.__contains__, unknown)
            address = next(filterfalse(reserved.__contains__, unused), None)
            if address is not None:
                return address
    freed = (address for address in book.freed if address not in reserved)
    oldest = next((address for address in freed if _within(family, address)), None)
    if oldest is None or (wait_s := remaining(book.freed[oldest], now, cooldown_s)) > 0:
        raise _exhausted(family, book, now, cooldown_s, retry_s=None if oldest is None else wait_s)
    return oldest


def usage(share: Share, book: Book, now: float, cooldown_s: float) -> Usage:
    """Return how full a share is; addresses in use that it does not contain do not count."""
    cooling = sum(address in share and remaining(at, now, cooldown_s) > 0 for address, at in book.freed.items())
    return Usage(share.prefix, share.capacity, sum(address in share for address in book.held), cooling)


def surplus(book: Book, keep: int, now: float, cooldown_s: float) -> tuple[int, ...]:
    """Return the oldest freed addresses beyond ``keep``, so that a /64 does not grow the ledger for ever.

    An address that has cooled down and was freed that many releases ago counts as never used again.
    """
    oldest = islice(book.freed, max(len(book.freed) - keep, 0))
    return tuple(address for address in oldest if remaining(book.freed[address], now, cooldown_s) == 0)


def _within(family: Iterable[Share], address: int) -> bool:
    return any(address in share for share in family)


def _exhausted(
    family: Sequence[Share], book: Book, now: float, cooldown_s: float, *, retry_s: float | None
) -> PoolExhausted:
    counts = [usage(share, book, now, cooldown_s) for share in family]
    advice = "an address is free when a pod ends" if retry_s is None else f"retry in {ceil(retry_s)} s"
    return PoolExhausted(
        f"no IPv{family[0].prefix.version} address is free in {', '.join(str(share.prefix) for share in family)}: "
        f"this server may use {sum(count.capacity for count in counts)}, {sum(count.used for count in counts)} are in "
        f"use, {sum(count.cooling for count in counts)} cool down; {advice}",
        retry_s=retry_s,
    )
