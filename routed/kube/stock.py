"""How many leased addresses a server keeps unused, and which ones it tries to get. Pure.

A stock makes an ADD independent of the API server. Where addresses are plenty, everybody keeps what its marks say;
where they get scarce, what is idle in the rack is shared: at most half of it lies in stocks, in equal parts, so that
the last address of a rack can be used by whichever server needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from random import Random

from ipam.allocate import Share
from ipam.model import IPAddress, Pod

ASK_S = 60.0
"""How long an address is kept for a pod that found none: kubelet's next attempt comes sooner."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Below the low mark the stock grows to the target, above the high mark it shrinks to it."""

    low: int = 8
    high: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"stock: the low mark ({self.low}) must not exceed the high mark ({self.high})")

    @property
    def target(self) -> int:
        """Half way, so that neither an ADD nor a DEL leads to a request each time."""
        return (self.low + self.high + 1) // 2

    def shared(self, idle: int, servers: int) -> Marks:
        """Return the marks that hold while ``idle`` addresses of the rack serve no pod, leased or not."""
        high = min(self.high, max(idle, 0) // (2 * max(servers, 1)))
        return Marks(min(self.low, high // 2), high)


class Asks:
    """Pods that found no address, or not the one they ask for, until they have it or do not come back."""

    def __init__(self) -> None:
        self._until: dict[Pod, float] = {}
        self._fixed: dict[Pod, Sequence[IPAddress]] = {}

    def __len__(self) -> int:
        return len(self._until)

    @property
    def fixed(self) -> frozenset[IPAddress]:
        """The addresses that pods ask for by name."""
        return frozenset(address for addresses in self._fixed.values() for address in addresses)

    def add(self, pod: Pod, now: float, fixed: Sequence[IPAddress] = ()) -> None:
        """Note that a pod found no address; the same one may ask again."""
        self._until[pod] = now + ASK_S
        self._fixed[pod] = fixed

    def drop(self, pod: Pod) -> None:
        """Note that a pod has an address."""
        self._until.pop(pod, None)
        self._fixed.pop(pod, None)

    def review(self, served: Collection[Pod], now: float) -> None:
        """Drop those who have an address by now, and those who waited too long."""
        for pod in [pod for pod, until in self._until.items() if pod in served or until <= now]:
            self.drop(pod)


def change(stock: int, marks: Marks, asked: int) -> int:
    """Return how many addresses to get (positive) or to give back (negative); ``asked`` is what pods wait for."""
    if stock < max(marks.low, asked):
        return max(marks.target if stock < marks.low else 0, asked) - stock
    if stock > max(marks.high, asked):
        return max(marks.target, asked) - stock
    return 0


def draw(family: Sequence[Share], known: Container[int], free: int, count: int, rng: Random) -> list[int]:
    """Return random addresses that are not ``known``, ``count`` of them if there are so many.

    Never the first free ones: servers that look for the same address get in each other's way (81 instead of 1,300
    claims a second, with 40 servers). ``free`` is how many of the family are not known.
    """
    drawn: dict[int, None] = {}
    capacity = sum(share.capacity for share in family)
    while len(drawn) < min(count, free):
        number = _nth(family, rng.randrange(capacity))
        if number not in known:
            drawn[number] = None
    return list(drawn)


def _nth(family: Sequence[Share], index: int) -> int:
    for share in family:
        for first, last in share.ranges:
            if index <= last - first:
                return first + index
            index -= last - first + 1
    raise IndexError(index)
