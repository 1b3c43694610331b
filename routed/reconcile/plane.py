"""The contract between the loop and whatever holds real objects."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Plane(Protocol[K, V]):
    """One kind of object on this server: links, ports, flows, advertisements.

    All three methods are called by one task at a time, but for `streams`; a batch holds all that was pending. Values
    compare with ``==``: what `observe` returns right after a successful `upsert` of an item equals that item.

    A plane that notices that the world changed under it (a lost connection, a deleted device) calls the ``wake``
    callback that it was constructed with: it takes no argument, and means *look again*.
    """

    name: str
    streams: bool
    """Batches bring it nothing: `upsert` of different keys may be called many times at once. It bounds that itself."""

    async def observe(self) -> Mapping[K, V]:
        """Return every object that carries our mark. Raises when it cannot tell: not knowing is never an empty set."""

    async def upsert(self, items: Mapping[K, V]) -> Mapping[K, Exception]:
        """Make these objects exist as given, whatever was there.

        Returns the failure of each key that has one; raises only when the plane cannot work at all.
        """

    async def remove(self, keys: Collection[K]) -> Mapping[K, Exception]:
        """Make these objects not exist; one that is gone already is no failure. Returns and raises as `upsert` does."""
