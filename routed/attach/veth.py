"""The way in for servers without a smart NIC: a macvlan in passthru mode on the inner end of a slot's veth pair.

Creating it directly in the pod's namespace takes 0.6 ms, where moving an existing device there takes 16-20 ms; the
wire below it stays plugged into the bridge (docs/adr/0001-slots.md). The parents live in a namespace of their own
(`routed.attach.slots`), so that whoever listens in the server's hears nothing of pods. A passthru macvlan takes all
that its parent receives and shares its MAC, and is the only device that the parent can carry.
"""

from __future__ import annotations

import errno
import re
import time

from routed.attach import mark, pod
from routed.attach.answers import Device
from routed.attach.errors import KernelError, SlotMissing, SlotTaken
from routed.attach.kernel import Rtnl
from routed.attach.netns import Visit
from routed.attach.rtnl import add_macvlan, delete_device, set_alias, set_mac_and_alias
from routed.attach.slots import SlotSpace
from routed.domain.wiring import Link, wire_name

_DYING_S = 1.0
"""A namespace without users lives on until the kernel gets to it; for so long its macvlan keeps the slot."""
_PAUSE_S = 0.01
_WIRE = re.compile(r"rt(0|[1-9]\d*)")
_FIRST_INDEX = 0x5250_0000
"""Interface index of rp0. A macvlan names its parent by index alone, so these are numbers that nothing else has."""
_FIRST_OUTER_INDEX = 0x5254_0000
"""And of rt0, where it belongs to the server's own stack: filters name other devices by index alone."""


def inner_name(wire: str) -> str:
    """Name of the end that waits for a pod: ``rp17`` for ``rt17``."""
    return f"rp{_slot_number(wire)}"


def inner_index(wire: str) -> int:
    """Interface index of the end that waits for a pod."""
    return _FIRST_INDEX + _slot_number(wire)


def outer_name(index: int) -> str | None:
    """Name of the other end, by the interface index of the one that waits for a pod; None when it is no slot's."""
    wire = wire_name(index - _FIRST_INDEX)
    return wire if is_wire(wire) else None


def outer_index(wire: str) -> int:
    """Interface index of the server's end, where there is no bridge that it is plugged into."""
    return _FIRST_OUTER_INDEX + _slot_number(wire)


def wire_of(outer: int) -> str | None:
    """Name of the server's end by its interface index; None when it is no slot's."""
    wire = wire_name(outer - _FIRST_OUTER_INDEX)
    return wire if is_wire(wire) else None


def is_wire(name: str) -> bool:
    """Whether this is the name of the bridge's end of a slot's pair."""
    return _WIRE.fullmatch(name) is not None


def _slot_number(wire: str) -> int:
    match = _WIRE.fullmatch(wire)
    if match is None:
        raise ValueError(f"{wire} is no slot's wire")
    return int(match[1])


class MacvlanWay:
    """Puts macvlans into pods."""

    def __init__(self, space: SlotSpace) -> None:
        self.enter = space.enter

    def slot(self, slots: Rtnl, wire: str) -> Device:
        """Return the device that carries the slot's mark."""
        device = slots.device(inner_name(wire))
        if device is None:
            raise SlotMissing(f"{inner_name(wire)} does not exist")
        return device

    def wire(self, device: Device) -> str | None:
        """Return the name of the bridge's end, None when this is no slot's inner end."""
        wire = outer_name(device.index)
        return wire if wire is not None and inner_name(wire) == device.name else None

    def holds(self, slot: Device, found: Device) -> bool:
        """Whether this device inside a pod hangs on the slot."""
        return found.kind == "macvlan" and found.parent_elsewhere and found.parent == slot.index

    def create(self, visit: Visit, slot: Device, link: Link, alias: str) -> None:
        """Create the pod's interface, down, with its MAC, after marking the slot.

        SlotTaken when something keeps the parent. The mark and the MAC go onto the parent first: the macvlan inherits
        the MAC, and nothing can exist that the kernel cannot attribute to us.
        """
        deadline = time.monotonic() + _DYING_S
        while True:
            try:
                visit.slots.apply(
                    set_mac_and_alias(slot.index, link.mac, alias),
                    add_macvlan(link.ifname, slot.index, visit.netns),
                )
            except KernelError as error:
                if error.code not in (errno.EINVAL, errno.EBUSY):
                    raise
                if time.monotonic() > deadline:
                    self._replace(visit.slots, slot, error)
            else:
                return
            time.sleep(_PAUSE_S)

    def configure(self, visit: Visit, slot: Device, link: Link, before: Device | None) -> None:
        """Make the pod's interface as the link says; InvalidNetns when it vanished."""
        del slot
        pod.configure(visit.pod, visit.need(link.ifname), link, before)

    def look(self, visit: Visit, slot: Device, found: Device, netns: str) -> Link:
        """Return the pod's interface as it is."""
        return pod.look(visit.pod, found, wire_name(slot.index - _FIRST_INDEX), netns)

    def destroy(self, visit: Visit, slot: Device, found: Device) -> None:
        """Delete the pod's interface; the kernel needs some 25 ms."""
        del slot
        visit.pod.apply(delete_device(found))

    def release(self, slots: Rtnl, slot: Device) -> None:
        """Take the mark off."""
        slots.apply(set_alias(slot.index, mark.OURS))

    def abandon(self, slots: Rtnl, slot: Device) -> None:
        """Take the mark off: the next pod's macvlan meets what may hang there still."""
        self.release(slots, slot)

    def _replace(self, slots: Rtnl, slot: Device, error: KernelError) -> None:
        """Delete a wire that a namespace without a path keeps busy: the wires and ports planes bring a new one."""
        slots.apply(delete_device(slot))
        raise SlotTaken(
            f"{slot.name} was kept busy by a namespace that has no path any more; it is being replaced"
        ) from error
