"""The way in for servers without a bridge: an ipvlan in mode L2 on the inner end of a slot's wire.

It has that end's MAC address, which is the uplink's. What it sends comes out at the wire's other end, on the server,
out of the pod's reach, where `routed.attach.doors` looks at it. Each pod's ipvlan has a parent of its own, since what
the children of one parent send cannot be told apart, and each of them can change mode and flags of all. In modes L3 and
L3S the driver has the packets routed in the parent's namespace, not the pod's: there (`routed.attach.slots`) are
neither addresses nor routes, so they leave by the same parent or not at all.

Any number of ipvlans can hang on one parent, and the kernel does not say how many: a slot whose last pod's interface
nobody has seen go is deleted, never handed on.

Source: Documentation/networking/ipvlan.rst; drivers/net/ipvlan/ipvlan_core.c.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from routed.attach import mark, pod
from routed.attach.answers import Device
from routed.attach.errors import KernelError, SlotTaken
from routed.attach.kernel import Rtnl
from routed.attach.netns import Visit
from routed.attach.rtnl import add_ipvlan, delete_device, set_device, set_mac_and_alias
from routed.attach.veth import MacvlanWay
from routed.domain.wiring import Link

_KIND = "ipvlan"


class IpvlanWay(MacvlanWay):
    """Puts ipvlans into pods."""

    def holds(self, slot: Device, found: Device) -> bool:
        """Whether this device inside a pod hangs on the slot."""
        return found.kind == _KIND and found.parent_elsewhere and found.parent == slot.index

    def create(self, visit: Visit, slot: Device, link: Link, alias: str) -> None:
        """Mark the slot and give it the MAC address, then create the pod's interface, down.

        SlotTaken when it has a mark already: what was made then is not where it should be.
        """
        if mark.parse(slot.alias) is not None:
            self.abandon(visit.slots, slot)
            raise SlotTaken(f"something that cannot be found may hang on {slot.name}; it is being replaced")
        create = add_ipvlan(link.ifname, slot.index, visit.netns)
        visit.slots.apply(set_mac_and_alias(slot.index, link.mac, alias), create)

    def configure(self, visit: Visit, slot: Device, link: Link, before: Device | None) -> None:
        """Make the pod's interface as the link says; its MAC address is the slot's.

        SlotTaken when something else on the slot has the address: what the pod itself has hung there. The wires plane
        brings a new slot.
        """
        if before is not None and before.mac != link.mac:
            visit.slots.apply(set_device(slot.index, mac=link.mac))  # the pod's neighbour entries go by that
            before = replace(before, mac=link.mac)
        try:
            pod.configure(visit.pod, visit.need(link.ifname), link, before)
        except KernelError as error:
            if error.code != errno.EADDRINUSE:
                raise
            self.abandon(visit.slots, slot)
            raise SlotTaken(f"something else on {slot.name} has the pod's address; it is being replaced") from error

    def destroy(self, visit: Visit, slot: Device, found: Device) -> None:
        """Delete the pod's interface, and what else the pod has hung on its slot."""
        del found
        visit.pod.apply(*(delete_device(one) for one in visit.pod.devices() if self.holds(slot, one)))

    def abandon(self, slots: Rtnl, slot: Device) -> None:
        """Delete the wire, and with it all that hangs there, wherever it is."""
        slots.apply(delete_device(slot))
