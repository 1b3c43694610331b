"""The single writer: the ledger first, then a new snapshot, then a wake-up.

Owns the ledger's one worker thread and the current snapshot. Calls that arrive together share one transaction, so
thirty pods cost about as many disk flushes as one. Nothing else in the agent changes state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter

from ipam.errors import AddressRefused, PoolError, PoolExhausted, SlotRefused
from ipam.ledger import Ledger
from ipam.model import Holder, Holdings, Pod, Record, Request, Usage
from ovs_flows.model import Mirror
from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.domain.intent import MirrorOf, Owner, Standing, VfPort
from routed.domain.rack import Rack, Server, Uplink
from routed.domain.sides import Side
from routed.domain.snapshot import Place, Snapshot
from routed.domain.wiring import VF_SLOTS, Vf
from routed.domain.workload import Attachment, AttachmentId, IPAddress, PodRef, Wishes

A = TypeVar("A")
_QUIET_S = 0.5
"""Without a new pod for so long counts as a quiet moment."""
_NO_WISHES = Wishes()
_WISHES = TypeAdapter(Wishes)
"""How wishes stand in the ledger, as JSON: what an agent that restarts builds must not depend on who answers then."""


@dataclass(slots=True)
class _Write(Generic[A]):
    """One call that waits for the ledger."""

    argument: A
    answer: asyncio.Future[Any]


class _Writes(Generic[A]):
    """Calls of one kind; what arrives while the ledger is busy becomes one transaction."""

    def __init__(self, thread: Executor, write: Callable[[Sequence[A]], Sequence[Any]]) -> None:
        self._thread, self._write = thread, write
        self._waiting: list[_Write[A]] = []
        self._busy = False

    async def __call__(self, argument: A) -> Any:
        """Return the ledger's answer, or raise it."""
        loop = asyncio.get_running_loop()
        write = _Write(argument, loop.create_future())
        self._waiting.append(write)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._hand_over, loop)  # not at once: with whoever else comes in this turn of the loop
        return await write.answer

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        try:
            self._thread.submit(self._carry_out, loop, batch)
        except RuntimeError as error:  # closed meanwhile
            self._settle(loop, batch, [error] * len(batch))

    def _carry_out(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Write[A]]) -> None:
        answers: Sequence[Any]
        try:
            answers = self._write([write.argument for write in batch])
        except Exception as error:  # noqa: BLE001 - the boundary: whoever waits gets an answer, even if it is a bug
            answers = [error] * len(batch)
        loop.call_soon_threadsafe(self._settle, loop, batch, answers)

    def _settle(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Write[A]], answers: Sequence[Any]) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            self._hand_over(loop)
        for write, answer in zip(batch, answers, strict=True):
            if write.answer.cancelled():
                continue
            if isinstance(answer, Exception):
                write.answer.set_exception(answer)
            else:
                write.answer.set_result(answer)


class Store:
    """Keeps the ledger and the snapshot in step; call it from the event loop only."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        ledger: Ledger,
        *,
        rack: Rack,
        server: Server,
        uplink: Uplink,
        ready_slots: int,
        on_change: Callable[[Sequence[Owner]], None],
    ) -> None:
        """`ready_slots` is the stock kept beyond the slots in use; `on_change` is told whose intent may differ now.

        Raises PoolError when a pod's address is in none of the rack's pools.
        """
        self._ledger = ledger
        self._ready_slots = ready_slots
        self._restocking: asyncio.TimerHandle | None = None
        self._epoch = time.time() - time.monotonic()
        self._on_change = on_change
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._put = _Writes[Request](self._thread, lambda requests: ledger.put(requests, self._now()))
        self._discard = _Writes[tuple[Holder, int | None]](self._thread, ledger.discard_many)
        self._forget = _Writes[Attachment](self._thread, self._free)
        self._attachments = {item.id: item for item in map(_attachment, ledger.records())}  # replaced, never changed
        self._mirrored = set[Owner]()
        """Mirrors of pods that are there which somebody has asked for, ended ones too."""
        _check_pools(rack, self._attachments.values())
        veths = (item.slot for item in self._attachments.values() if item.slot < VF_SLOTS)
        used = max(veths, default=-1) + 1
        self.snapshot = Snapshot(
            revision=1,
            place=Place(rack, server, uplink),
            slots=min(used + ready_slots, VF_SLOTS),
            attachments=MappingProxyType(self._attachments),
        )

    async def put(self, attachment: AttachmentId, pod: PodRef, netns: str, wishes: Wishes = _NO_WISHES) -> Attachment:
        """Make an attachment durable and visible; the same one again is the same answer. Raises `ipam` errors.

        InvalidConfig for a device that is no VF of this server, TryAgainLater while another pod has it.

        When no address is free, or those that the pod wishes for are not this server's to give, the lease source is
        asked for them, once. A sticky pod wishes for what its predecessor had: TryAgainLater while that is waited for.
        """
        holder = Holder(attachment.container_id, attachment.ifname)
        is_new = attachment not in self.snapshot.attachments
        before = self._ledger.leases.recall(_pod(pod)) if wishes.sticky and is_new else ()
        request = Request(
            holder=holder,
            pod=_pod(pod),
            netns=netns,
            addresses=wishes.addresses or before,
            returning=bool(before),
            details=_WISHES.dump_python(wishes, mode="json", exclude_defaults=True),
            slots=self._slots(wishes.device),
        )
        try:
            record = await self._put_or_ask(request)
        except SlotRefused as error:
            raise TryAgainLater(f"{wishes.device or 'a slot'} cannot be had: {error}") from error
        except AddressRefused as error:
            if before:
                raise TryAgainLater(f"{pod} waits for the address that it had before: {error}") from error
            raise
        self._ledger.leases.served(request.pod, record.addresses if wishes.sticky else ())
        return self._adopt(record)

    def _slots(self, device: str | None) -> Sequence[int]:
        if device is None:
            return range(VF_SLOTS)
        slot = self.snapshot.place.slot_of(device)
        if slot is None:
            raise InvalidConfig(
                f"deviceID: {device} is no VF with a representor, of the NIC that the bridge goes out by; "
                "`routed doctor nic` on this server says what is missing"
            )
        return (slot,)

    async def _put_or_ask(self, request: Request) -> Record:
        """Write a request, if need be once more after the lease source was asked for what it lacks."""
        try:
            return cast("Record", await self._put(request))
        except (PoolExhausted, AddressRefused):
            if not await self._ledger.leases.more(request.pod, request.addresses):
                raise
            return cast("Record", await self._put(request))

    async def discard(self, attachment: AttachmentId, sequence: int | None = None) -> bool:
        """Let an attachment leave; it stays in the snapshot, as leaving, until forgotten.

        False when there is none, or when `sequence` names an earlier one with the same id.
        """
        record = await self._discard((Holder(attachment.container_id, attachment.ifname), sequence))
        if record is None:
            return False
        self._adopt(record)
        return True

    async def forget(self, attachment: AttachmentId) -> None:
        """Free the addresses and the slot of an attachment that every plane has lost."""
        known = self.snapshot.attachments.get(attachment)
        if known is None:
            return
        await self._forget(known)
        self._attachments = self._attachments.copy()
        self._attachments.pop(attachment, None)
        mirrors = {key: one for key, one in self.snapshot.mirrors.items() if key != attachment}
        owners = {MirrorOf(attachment)} & self._mirrored  # without its pod it wants nothing, and the loop forgets it
        self._mirrored -= owners
        self._publish(replace(self._with_attachments(), mirrors=MappingProxyType(mirrors)), *owners)

    def usage(self) -> Sequence[Usage]:
        """Return how full each pool is."""
        return self._ledger.usage(self._now())

    async def holdings(self) -> Holdings:
        """Return which addresses are held or cool down, after every write that was under way."""
        held = await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._ledger.holdings(self._now())
        )
        sticky = (one.addresses for one in self._attachments.values() if one.wishes.sticky)
        return replace(held, sticky=frozenset(chain.from_iterable(sticky)))

    def _now(self) -> float:
        """Return seconds since the epoch, as of the start: setting the clock forward must end no cool-down early."""
        return self._epoch + time.monotonic()

    def set_uplink(self, uplink: Uplink) -> None:
        """Take note of a new observation of the uplink."""
        if uplink != self.snapshot.uplink:
            place = replace(self.snapshot.place, uplink=uplink)
            ports = map(VfPort, place.vfs)
            self._publish(
                replace(self.snapshot, place=place), Standing.HOST, Standing.STOCK, *ports, *self._everybody()
            )

    def set_sides(self, sides: tuple[Side, ...]) -> None:
        """Take note of how the ToRs can be reached now."""
        if sides != self.snapshot.place.sides:
            place = replace(self.snapshot.place, sides=sides)
            self._publish(replace(self.snapshot, place=place), Standing.HOST, *self._everybody())

    def set_vfs(self, vfs: Mapping[int, Vf]) -> None:
        """Take note of the VFs that there are now."""
        if vfs != self.snapshot.place.vfs:
            place = replace(self.snapshot.place, vfs=MappingProxyType(dict(vfs)))
            owners = [key for key, one in self._attachments.items() if one.slot >= VF_SLOTS]
            ports = map(VfPort, sorted(vfs.keys() | self.snapshot.place.vfs.keys()))
            self._publish(replace(self.snapshot, place=place), *ports, *owners)

    def devices(self) -> Mapping[str, int]:
        """Return the slots of the VFs that pods have, by PCI address."""
        return {one.wishes.device: one.slot for one in self._attachments.values() if one.wishes.device is not None}

    def set_taken(self, taken: Mapping[IPAddress, str]) -> None:
        """Take note of the addresses that another server has by now, and which one: who uses them here is cordoned."""
        if taken != self.snapshot.taken:
            concerned = taken.keys() ^ self.snapshot.taken.keys()
            owners = [key for key, one in self._attachments.items() if not concerned.isdisjoint(one.addresses)]
            self._publish(replace(self.snapshot, taken=MappingProxyType(dict(taken))), *owners)

    def mirror(self, attachment: AttachmentId, mirror: Mirror | None) -> None:
        """Have a pod's packets copied, or not any more; nothing for one that is not there (any more)."""
        if attachment not in self._attachments:
            return
        mirrors = {key: one for key, one in self.snapshot.mirrors.items() if key != attachment}
        if mirror is not None:
            mirrors[attachment] = mirror
        self._mirrored.add(MirrorOf(attachment))
        self._publish(replace(self.snapshot, mirrors=MappingProxyType(mirrors)), MirrorOf(attachment), attachment)

    def keep_slots(self, count: int) -> None:
        """Keep at least this many veth pairs plugged: unplugging is slow, and they will be needed again."""
        count = min(count, VF_SLOTS)
        if count > self.snapshot.slots:
            self._publish(replace(self.snapshot, slots=count), Standing.STOCK)

    def drain(self) -> None:
        """Announce nothing any more."""
        if not self.snapshot.draining:
            self._publish(replace(self.snapshot, draining=True), *self._everybody())

    def undrain(self) -> None:
        """Announce again."""
        if self.snapshot.draining:
            self._publish(replace(self.snapshot, draining=False), *self._everybody())

    def close(self) -> None:
        """Finish what is being written; the ledger stays open."""
        if self._restocking is not None:
            self._restocking.cancel()
        self._thread.shutdown()

    def _adopt(self, record: Record) -> Attachment:
        """Bring a record of the ledger into the snapshot."""
        attachment = _attachment(record)
        if self.snapshot.attachments.get(attachment.id) != attachment:
            self._attachments = {**self._attachments, attachment.id: attachment}
            self._publish(self._with_attachments(), attachment.id)
            self._restock(attachment.slot)
        return attachment

    def _restock(self, slot: int) -> None:
        """Plug another batch of slots when half of the stock is used up: in a quiet moment, or when it runs out.

        Plugging keeps OVS busy for tens of ms, during which a pod would wait; one by one would take longer still.
        """
        ready = self.snapshot.slots - (slot + 1)
        if slot < VF_SLOTS and ready < self._ready_slots / 2:
            if self._restocking is not None:
                self._restocking.cancel()
            pause_s = _QUIET_S if ready > self._ready_slots / 8 else 0.0
            wanted = slot + 1 + self._ready_slots
            self._restocking = asyncio.get_running_loop().call_later(pause_s, self.keep_slots, wanted)

    def _free(self, gone: Sequence[Attachment]) -> Sequence[None]:
        holders = ((Holder(one.id.container_id, one.id.ifname), one.sequence) for one in gone)
        self._ledger.forget_many(holders, self._now())
        return [None] * len(gone)

    def _with_attachments(self) -> Snapshot:
        return replace(self.snapshot, attachments=MappingProxyType(self._attachments))

    def _everybody(self) -> Sequence[AttachmentId]:
        return tuple(self.snapshot.attachments)

    def _publish(self, snapshot: Snapshot, *changed: Owner) -> None:
        self.snapshot = replace(snapshot, revision=self.snapshot.revision + 1)
        if changed:
            self._on_change(changed)


def _check_pools(rack: Rack, attachments: Iterable[Attachment]) -> None:
    """Raise PoolError for a pod whose gateway nobody knows: its pool left the rack file before the pod left."""
    for attachment in attachments:
        for address in () if attachment.leaving else attachment.addresses:
            try:
                rack.gateway(address)
            except LookupError as error:
                raise PoolError(
                    f"{error}, but {attachment.pod} still has it: keep the pool until that is gone"
                ) from None


def _pod(pod: PodRef) -> Pod:
    return Pod(pod.namespace, pod.name, pod.uid)


def _attachment(record: Record) -> Attachment:
    return Attachment(
        id=AttachmentId(record.holder.container_id, record.holder.ifname),
        pod=PodRef(record.pod.namespace, record.pod.name, record.pod.uid),
        netns=record.netns,
        slot=record.slot,
        addresses=record.addresses,
        sequence=record.sequence,
        leaving=record.leaving,
        wishes=_WISHES.validate_python(record.details) if record.details else _NO_WISHES,
    )
