"""The ledger's copy of its file, in the shape that questions come in. No file, no clock, no policy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

from ipam.allocate import Book
from ipam.errors import SlotRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ipam.model import Holder, IPAddress, Record


@dataclass(slots=True)
class Memory:
    """What the file says."""

    records: dict[Holder, Record]
    """In the order of their sequence."""
    books: dict[int, Book]
    """By IP version; both are there, whatever the pools are."""

    @classmethod
    def of(cls, records: Iterable[Record], freed: Mapping[IPAddress, float]) -> Memory:
        """Return what was loaded; ``freed`` tells when each free address was freed, oldest first."""
        memory = cls({}, {4: Book(), 6: Book()})
        for record in records:
            memory.add(record)
        for address, freed_at in freed.items():
            memory.books[address.version].freed[int(address)] = freed_at
        return memory

    def copy(self) -> Memory:
        """Return a draft that can be written without changing this one."""
        return Memory(dict(self.records), {version: book.copy() for version, book in self.books.items()})

    def free_slot(self, wanted: Collection[int] | None) -> int:
        """Return the first slot of those wanted (None: any, the lowest first) that no record has; SlotRefused."""
        taken = {record.slot: record.holder for record in self.records.values()}
        found = next((slot for slot in (count() if wanted is None else wanted) if slot not in taken), None)
        if found is None:
            holders = ", ".join(f"{taken[slot]} holds slot {slot}" for slot in islice(wanted or (), 3))
            raise SlotRefused(f"none of {len(wanted or ())} slots is free: {holders or 'none will do'}")
        return found

    def latest_release(self) -> float:
        """Return the latest time at which anything was freed; 0 when nothing ever was."""
        return max((next(reversed(book.freed.values()), 0.0) for book in self.books.values()), default=0.0)

    def add(self, record: Record) -> None:
        """Take in a new record."""
        self.records[record.holder] = record
        for address in record.addresses:
            book = self.books[address.version]
            book.held[int(address)] = record.holder
            book.freed.pop(int(address), None)

    def remove(self, record: Record, now: float) -> None:
        """Drop a record; its addresses were freed now."""
        del self.records[record.holder]
        for address in record.addresses:
            book = self.books[address.version]
            del book.held[int(address)]
            book.freed[int(address)] = now

    def bring_forward(self, now: float) -> None:
        """Let what was freed after ``now`` have been freed now."""
        for book in self.books.values():
            book.freed = {number: min(freed_at, now) for number, freed_at in book.freed.items()}
