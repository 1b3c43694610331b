"""The links plane: the interfaces inside the pods.

Keeps nothing in memory: a slot's mark (`routed.attach.mark`) says whose interface hangs on it and in which namespace,
and observing means going there to look. Visits run concurrently, each in a thread of its own (`routed.attach.netns`).

Never creates a namespace, and never touches an interface in a pod that does not hang on one of our slots.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from routed.attach import mark
from routed.attach.answers import Device
from routed.attach.errors import AttachError, InterfaceExists, InvalidName, InvalidNetns, NotFound, SlotTaken
from routed.attach.kernel import Rtnl
from routed.attach.mark import Mark
from routed.attach.netns import Visit, Visitors
from routed.attach.rtnl import set_alias
from routed.domain.wiring import Link
from routed.domain.workload import AttachmentId
from routed.threads import apart

K = TypeVar("K", bound=Hashable)

_NAME = re.compile(r"[^\s/:\0]{1,15}")
"""dev_valid_name() of the kernel."""
_BUSY = 2
"""Threads at once where Python does most of the work: more of them only fight over the interpreter."""
_WAITING = 32
"""Threads at once where the kernel mostly waits: deleting a device takes 25 ms."""


class Way(Protocol):
    """How an interface gets into a pod. A slot is a device that stays on the server and carries the mark."""

    def enter(self) -> Rtnl:
        """Go where the slots are, in a thread that ends soon; returns a socket there."""

    def slot(self, slots: Rtnl, wire: str) -> Device:
        """Return the slot of a wire; SlotMissing."""

    def wire(self, device: Device) -> str | None:
        """Return the wire of a slot, None when this device is no slot."""

    def holds(self, slot: Device, found: Device) -> bool:
        """Whether ``found``, seen inside a pod, hangs on the slot."""

    def create(self, visit: Visit, slot: Device, link: Link, alias: str) -> None:
        """Mark the slot, then make the interface exist inside the pod, down, under its name."""

    def configure(self, visit: Visit, slot: Device, link: Link, before: Device | None) -> None:
        """Make the interface as the link says; ``before`` is as it was, None when it is new."""

    def look(self, visit: Visit, slot: Device, found: Device, netns: str) -> Link:
        """Return the interface as it is."""

    def destroy(self, visit: Visit, slot: Device, found: Device) -> None:
        """Take the interface away from the pod."""

    def release(self, slots: Rtnl, slot: Device) -> None:
        """Let the slot serve nobody any more, now that no pod has an interface on it; AttachError while one may."""

    def abandon(self, slots: Rtnl, slot: Device) -> None:
        """The same when nobody has seen that interface go: the next pod must not share the slot with it."""


class Companion(Protocol):
    """What goes into the pod beside an interface, and out again before it."""

    def join(self, visit: Visit, slot: Device, link: Link) -> None:
        """Make it be in the pod, where the interface is already; whatever is there stays."""

    def joined(self, found: Device) -> bool:
        """Whether it is beside this interface of the pod that the calling thread is in."""

    def leave(self, found: Device) -> None:
        """Take it home from there, if it is there."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot in use, as its mark says."""

    device: Device
    wire: str
    whose: Mark


class Links:
    """Pods' interfaces: attachment -> Link. Addresses and gateways are in the order IPv4, IPv6."""

    streams = True

    def __init__(self, way: Way, name: str = "links", companion: Companion | None = None) -> None:
        """`name` is the plane's: a server may have pods of several ways. `companion` is what `Link.rdma` is about."""
        self.name = name
        self._way, self._companion = way, companion
        self._visitors = Visitors(_BUSY, way.enter)
        self._removers = Visitors(_WAITING, way.enter)

    async def observe(self) -> Mapping[AttachmentId, Link]:
        """Return every interface that hangs on a slot, as it is inside its pod.

        What left a mark but no interface (a pod that died, a creation cut short) is absent, and its slot is released.
        Where that does not succeed yet, what is left of it stands for it: a link without addresses.
        """
        slots = await apart(self._marked)
        found: dict[AttachmentId, Link] = {}
        stale: dict[str, Slot] = {}

        async def look(slot: Slot) -> None:
            link = await self._look(slot)
            if link is None:
                stale[slot.wire] = slot
            else:
                found[slot.whose.id] = link

        failures = await _each({slot.wire: partial(look, slot) for slot in slots})
        if failures:
            raise next(iter(failures.values()))
        found.update(
            {stale[wire].whose.id: _remains(stale[wire]) for wire in await self._release(stale, self._way.abandon)}
        )
        return found

    async def upsert(self, items: Mapping[AttachmentId, Link]) -> Mapping[AttachmentId, Exception]:
        """Make these interfaces exist as given; every one is tried, concurrently."""
        return await _each({key: partial(self._plug, key, link) for key, link in items.items()})

    async def remove(self, keys: Collection[AttachmentId]) -> Mapping[AttachmentId, Exception]:
        """Make these interfaces not exist; a namespace that is gone took them along."""
        wanted = set(keys)
        slots = {slot.wire: slot for slot in await apart(self._marked) if slot.whose.id in wanted}
        unplugged: set[str] = set()

        async def unplug(slot: Slot) -> None:
            if await self._unplug(slot):
                unplugged.add(slot.wire)

        failures = await _each({wire: partial(unplug, slot) for wire, slot in slots.items()})
        unseen = slots.keys() - failures.keys() - unplugged
        failures |= await self._release({wire: slots[wire] for wire in unplugged}, self._way.release)
        failures |= await self._release({wire: slots[wire] for wire in unseen}, self._way.abandon)
        return {slots[wire].whose.id: failure for wire, failure in failures.items()}

    async def _plug(self, key: AttachmentId, link: Link) -> None:
        try:
            await self._visitors.visit(link.netns, lambda inside: self._attach(inside, key, link))
        except SlotTaken:
            if not await self._evict_stale(link.wire):
                raise
            await self._visitors.visit(link.netns, lambda inside: self._attach(inside, key, link))

    def _attach(self, inside: Visit, key: AttachmentId, link: Link) -> None:
        if _NAME.fullmatch(link.ifname) is None or link.ifname in (".", ".."):
            raise InvalidName(f"{link.ifname!r} cannot be the name of an interface")
        alias = Mark(key, link.netns).text()
        slot = self._way.slot(inside.slots, link.wire)
        found = inside.pod.device(link.ifname) if inside.index(link.ifname) else None
        if found is not None and not self._way.holds(slot, found):
            self._leave_other_slot(inside, key, found)
            found = None
        whose = mark.parse(slot.alias)
        if whose is not None and whose.id != key:
            raise SlotTaken(f"{slot.name} serves {whose.id}")
        if found is None:
            self._way.create(inside, slot, link, alias)
        elif slot.alias != alias:
            inside.slots.apply(set_alias(slot.index, alias))
        self._way.configure(inside, slot, link, found)
        if self._companion is not None and link.rdma:
            self._companion.join(inside, slot, link)

    def _leave_other_slot(self, inside: Visit, key: AttachmentId, found: Device) -> None:
        """Delete what hangs on another slot that is marked as this attachment's; InterfaceExists for anything else."""
        for other in inside.slots.devices(alias=mark.beginning(key)):
            if self._way.holds(other, found):
                self._take_away(inside, other, found)
                self._way.release(inside.slots, other)
                return
        raise InterfaceExists(f"{found.name} exists already in the pod of {key}, and is not ours")

    async def _unplug(self, slot: Slot) -> bool:
        try:
            return await self._removers.visit(slot.whose.netns, partial(self._detach, slot=slot))
        except (InvalidNetns, NotFound):  # gone with its pod
            return False

    def _detach(self, inside: Visit, slot: Slot) -> bool:
        """Take the interface away; False when there is none."""
        named = inside.pod.device(slot.whose.id.ifname)
        if named is None or not self._way.holds(slot.device, named):  # a pod may have renamed it
            named = next((found for found in inside.pod.devices() if self._way.holds(slot.device, found)), None)
        if named is not None:
            self._take_away(inside, slot.device, named)
        return named is not None

    def _take_away(self, inside: Visit, slot: Device, found: Device) -> None:
        if self._companion is not None:
            self._companion.leave(found)
        self._way.destroy(inside, slot, found)

    async def _evict_stale(self, wire: str) -> bool:
        """Free a slot whose mark names an interface that no longer exists; False when it does exist."""
        for slot in await apart(self._marked):
            if slot.wire == wire and await self._look(slot) is None:
                for failure in (await self._release({wire: slot}, self._way.abandon)).values():
                    raise failure
                return True
        return False

    async def _look(self, slot: Slot) -> Link | None:
        def call(inside: Visit) -> Link | None:
            found = inside.pod.device(slot.whose.id.ifname)
            if found is None or not self._way.holds(slot.device, found):
                return None
            link = self._way.look(inside, slot.device, found, slot.whose.netns)
            return link if self._companion is None else replace(link, rdma=self._companion.joined(found))

        try:
            return await self._visitors.visit(slot.whose.netns, call)
        except (InvalidNetns, NotFound):
            return None

    def _marked(self) -> list[Slot]:
        with self._way.enter() as slots:
            devices = slots.devices(alias=mark.IN_USE)
        return [
            Slot(device, wire, whose)
            for device in devices
            if (wire := self._way.wire(device)) is not None and (whose := mark.parse(device.alias)) is not None
        ]

    async def _release(
        self, stale: Mapping[str, Slot], release: Callable[[Rtnl, Device], None]
    ) -> dict[str, Exception]:
        """Let slots be free again; returns by wire what failed."""
        failures: dict[str, Exception] = {}

        def call() -> None:
            with self._way.enter() as slots:
                for wire, slot in stale.items():
                    try:
                        with suppress(NotFound):  # the wire went, and its mark with it
                            release(slots, slot.device)
                    except AttachError as error:
                        failures[wire] = error

        if stale:
            await apart(call)
        return failures


def _remains(slot: Slot) -> Link:
    whose = slot.whose
    return Link(slot.wire, whose.netns, whose.id.ifname, mac="", mtu=0, addresses=(), gateways=(), gateway_mac="")


async def _each(calls: Mapping[K, Callable[[], Awaitable[None]]]) -> dict[K, Exception]:
    """Run all calls at once; return what failed."""
    failures: dict[K, Exception] = {}

    async def one(key: K, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except AttachError as error:
            failures[key] = error

    if len(calls) == 1:
        await one(*next(iter(calls.items())))
        return failures
    async with asyncio.TaskGroup() as group:
        for key, call in calls.items():
            group.create_task(one(key, call))
    return failures
