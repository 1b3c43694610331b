"""The ledger: who holds which addresses on this server, and nothing but that.

It is the durable truth from which everything else on the server is computed. What it answered is on the disk; memory is
a copy of the file that is replaced only after a transaction has been committed, so the two never disagree.

What always holds: an address has one holder; a holder has one address of each family, or does not exist; a slot belongs
to one record; an address is in use, cooling down or free; and only `forget` frees anything. What the pools no longer
cover is not freed for that: they may be edited between two runs, and what is in use stays in use (see `outside`).

Time is the caller's: ``now`` is in seconds since the epoch, so that cooling down goes on while the agent or the server
restarts. When the clock is set back, what was freed "in the future" counts as freed now: it cools down for a whole
period more, never for less and never for ever. A clock that is set forward ends a cool-down early; a caller that adds
the monotonic clock to the time at which it started is safe from that too.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from ipam.allocate import choose, remaining, shares, surplus, usage
from ipam.database import Database
from ipam.errors import AddressRefused, Leaving, LedgerFileError, NotLeaving, Refused, SlotRefused
from ipam.memory import Memory
from ipam.model import Holdings, check_pools

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from ipam.allocate import Share
    from ipam.errors import LedgerError
    from ipam.leases import LeaseSource
    from ipam.model import Holder, IPAddress, IPNetwork, Pool, Record, Request, Usage


class Ledger:
    """One server's ledger in one SQLite file, which must be in a directory that exists.

    Opening it checks the whole file and raises LedgerFileError, or PoolError when the pools make no sense. Writing
    raises LedgerUnavailableError when the file cannot be written (disk full): what was asked has not happened then, or
    `records` shows that it has. Writers run one at a time, in whatever thread; readers never touch the file and may be
    called from any thread at any time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        pools: Sequence[Pool],
        leases: LeaseSource,
        *,
        cooldown_s: float = 60.0,
        remembered: int = 1024,
    ) -> None:
        """Open the ledger, or create it.

        ``cooldown_s`` should exceed the BGP graceful restart time: until then, a ToR may still have the old route.
        ``remembered`` is how many free addresses of each family are reused in the order in which they were freed.
        """
        check_pools(pools)
        self._pools = tuple(pools)
        self.leases = leases
        self._cooldown_s = cooldown_s
        self._remembered = remembered
        self._owned: tuple[IPNetwork, ...] | None = None
        self._shares: dict[int, tuple[Share, ...]] = {}
        self._database = Database(Path(path))
        try:
            self._memory = Memory.of(*self._database.load())
        except LedgerFileError:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; nothing is lost by not calling this."""
        self._database.close()

    def put(self, requests: Sequence[Request], now: float) -> list[Record | LedgerError]:
        """Give every request its addresses and a slot, in one transaction; answers stand in the order of the requests.

        A holder that is here already gets its record back as it is. A request that cannot be met is answered with the
        reason and leaves no trace; the others go ahead.
        """
        answers: list[Record | LedgerError] = []
        with self._writing() as draft:
            self._follow_clock(draft, now)
            answers.extend(self._admit(draft, request, now) for request in requests)
        return answers

    def discard(self, holder: Holder, sequence: int | None = None) -> Record | None:
        """Mark a holder as leaving and return its record; None when there is nothing to wait for.

        That is: the holder is unknown, or ``sequence`` names an earlier attachment of it (a late DEL, which must not
        hurt the present one). Twice is as good as once.
        """
        return self.discard_many([(holder, sequence)])[0]

    def discard_many(self, wanted: Iterable[tuple[Holder, int | None]]) -> list[Record | None]:
        """Do as `discard` for each, in one transaction."""
        answers: list[Record | None] = []
        with self._writing() as draft:
            answers.extend(self._mark_leaving(draft, holder, sequence) for holder, sequence in wanted)
        return answers

    def forget(self, holder: Holder, sequence: int, now: float) -> bool:
        """Free the addresses and the slot of a leaving holder, now that no plane has anything of it any more.

        Returns False when that attachment is not here (any more). Raises NotLeaving for one that was not discarded.
        """
        return bool(self.forget_many([(holder, sequence)], now))

    def forget_many(self, gone: Iterable[tuple[Holder, int]], now: float) -> tuple[Record, ...]:
        """Do as `forget` for each, in one transaction; returns the records that were here."""
        with self._writing() as draft:
            self._follow_clock(draft, now)
            forgotten = []
            for holder, sequence in gone:
                record = draft.records.get(holder)
                if record is None or record.sequence != sequence:
                    continue
                if not record.leaving:
                    raise NotLeaving(f"attachment {holder} is in use; discard it first")
                self._database.delete(sequence, now)
                draft.remove(record, now)
                forgotten.append(record)
            self._lose_sight(draft, now)
        return tuple(forgotten)

    def records(self) -> tuple[Record, ...]:
        """Return all attachments, leaving ones included, oldest first."""
        return tuple(self._memory.records.values())

    def get(self, holder: Holder) -> Record | None:
        """Return the attachment of a holder."""
        return self._memory.records.get(holder)

    def usage(self, now: float) -> tuple[Usage, ...]:
        """Return how full this server's share of each pool is, IPv4 first, in the order of the prefixes."""
        books = self._memory.books
        return tuple(
            usage(share, books[version], now, self._cooldown_s)
            for version, family in self._families().items()
            for share in family
        )

    def cooling(self, now: float) -> dict[IPAddress, float]:
        """Return the seconds until each address that cools down can be handed out, soonest first."""
        waits = {
            _address(version, number): remaining(freed_at, now, self._cooldown_s)
            for version, book in self._memory.books.items()
            for number, freed_at in book.freed.items()
        }
        return {address: wait for address, wait in sorted(waits.items(), key=lambda item: item[1]) if wait > 0}

    def holdings(self, now: float) -> Holdings:
        """Return what no lease source may give back; asked by a writer's thread, it tells of every write before."""
        used = {address: record.pod for record in self._memory.records.values() for address in record.addresses}
        return Holdings(used, frozenset(self.cooling(now)))

    def outside(self) -> dict[IPAddress, Holder]:
        """Return the addresses in use that would not be handed out today.

        Their pool was removed, they were reserved, became a gateway, or are no longer this server's. They stay with
        their holders, count in no pool's usage, and are not handed out again.
        """
        families = self._families()
        return {
            _address(version, number): holder
            for version, book in self._memory.books.items()
            for number, holder in book.held.items()
            if not any(number in share for share in families.get(version, ()))
        }

    @contextmanager
    def _writing(self) -> Iterator[Memory]:
        """Yield a draft of the memory, which becomes the memory once the file has it.

        When the file fails, what it holds is looked up and not assumed: a commit may fail after it has taken effect.
        """
        draft = self._memory.copy()
        try:
            with self._database.transaction():
                yield draft
        except LedgerFileError:
            self._memory = Memory.of(*self._database.load())
            raise
        self._memory = draft

    def _families(self) -> dict[int, tuple[Share, ...]]:
        """Return by IP version what may be handed out, computed anew only when the leases have changed."""
        owned = self.leases.owned()
        if owned != self._owned:
            self._shares, self._owned = shares(self._pools, owned), owned
        return self._shares

    def _admit(self, draft: Memory, request: Request, now: float) -> Record | Refused:
        try:
            present = draft.records.get(request.holder)
            if present is not None:
                return _same(present, request)
            slot = draft.free_slot(request.slots)
            addresses = self._pick(draft, request, now)
        except Refused as refusal:
            return refusal
        record = self._database.insert(request, slot, addresses, now)
        draft.add(record)
        return record

    def _pick(self, draft: Memory, request: Request, now: float) -> tuple[IPAddress, ...]:
        """Return an address of every family; raises Refused when one of them is not to be had, and takes none."""
        families = self._families()
        reserved = self.leases.reserved()  # asked afterwards: nothing is owned before it is reserved
        fixed = {address.version: address for address in request.addresses}
        if len(fixed) < len(request.addresses):
            raise AddressRefused(f"{request.holder} asks for several addresses of one family; it gets one of each")
        for version in fixed.keys() - families.keys():
            raise AddressRefused(f"{fixed[version]} cannot be had: the rack has no IPv{version} pool")
        return tuple(
            self._fixed(draft, family, fixed[version], now, returning=request.returning)
            if version in fixed
            else _address(version, choose(family, draft.books[version], now, self._cooldown_s, _of(reserved, version)))
            for version, family in families.items()
        )

    def _fixed(
        self, draft: Memory, family: Sequence[Share], address: IPAddress, now: float, *, returning: bool
    ) -> IPAddress:
        """Return a fixed address if it is free; it cools down like any other, unless whoever had it is back."""
        book, number = draft.books[address.version], int(address)
        if not any(number in share for share in family):
            prefixes = ", ".join(str(share.prefix) for share in family)
            raise AddressRefused(f"{address} cannot be had: this server may not hand it out (pools: {prefixes})")
        if number in book.held:
            raise AddressRefused(f"{address} cannot be had: {book.held[number]} holds it")
        if not returning and number in book.freed and (wait := remaining(book.freed[number], now, self._cooldown_s)):
            raise AddressRefused(f"{address} cannot be had yet: it cools down; retry in {ceil(wait)} s")
        return _address(address.version, number)  # without a zone, if it has one: books go by number

    def _mark_leaving(self, draft: Memory, holder: Holder, sequence: int | None) -> Record | None:
        record = draft.records.get(holder)
        if record is None or sequence not in {None, record.sequence}:
            return None
        if not record.leaving:
            self._database.mark_leaving(record.sequence)
            record = draft.records[holder] = replace(record, leaving=True)
        return record

    def _follow_clock(self, draft: Memory, now: float) -> None:
        """Bring forward what was freed in the future: the clock has been set back since."""
        if draft.latest_release() > now:
            self._database.bring_forward(now)
            draft.bring_forward(now)

    def _lose_sight(self, draft: Memory, now: float) -> None:
        for version, book in draft.books.items():
            for number in surplus(book, self._remembered, now, self._cooldown_s):
                self._database.lose_sight([_address(version, number)])
                del book.freed[number]


def _same(present: Record, request: Request) -> Record:
    """Return the record of a holder that asks again, unless it has to be told something else."""
    if present.leaving:
        raise Leaving(f"attachment {request.holder} is being removed; its addresses are free when that is done")
    if not set(request.addresses) <= set(present.addresses):
        held, wanted = (", ".join(map(str, addresses)) for addresses in (present.addresses, request.addresses))
        raise AddressRefused(f"attachment {request.holder} holds {held} and cannot change to {wanted}")
    if request.slots is not None and present.slot not in request.slots:
        raise SlotRefused(f"attachment {request.holder} holds slot {present.slot} and cannot change to another")
    return present


def _of(addresses: Iterable[IPAddress], version: int) -> frozenset[int]:
    return frozenset(int(address) for address in addresses if address.version == version)


def _address(version: int, number: int) -> IPAddress:
    return IPv4Address(number) if version == 4 else IPv6Address(number)
