"""The way in for servers with a smart NIC: a VF of the NIC becomes the pod's interface, its representor is the slot.

A VF is moved, never made: from the server's namespace into the pod's, under the pod's name for it, and back. That takes
16-20 ms (docs/adr/0001-slots.md), and the VF's addresses and routes; nothing on the bridge changes. When a pod's
namespace dies, the kernel itself puts the VF back into the server's, under whatever name is free there. So VFs are
found by their PCI address, and what comes back gets a name and a MAC address of its own.

What a VF is used for stands on the representor, out of the pod's reach. So a DEL that comes late, when the VF is
another pod's by then, finds a mark that is not its own, and does nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from routed.attach import mark, pod
from routed.attach.answers import Device
from routed.attach.errors import KernelError, SlotMissing, VfAway, VfInUse
from routed.attach.kernel import Rtnl
from routed.attach.netns import OWN, Visit
from routed.attach.rtnl import move_device, reset_device, set_alias, set_device
from routed.attach.sysfs import driver_of, is_sysfs, network_devices
from routed.attach.uses import use_of
from routed.attach.veth import is_wire
from routed.domain.wiring import Link

Identify = Callable[[Device], str]
"""Returns the PCI address of the VF that a device inside a pod is; empty, or anything, for a device that is none."""

_ELSEWHERE = ("vfio", "uio")
"""How the drivers' names begin that make no network device."""
_STRAY = "stray%d"
"""The kernel puts the lowest free number there."""
_FIXED = frozenset({errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})
"""What drivers of VFs say when the port fixes their MAC address: igbvf, seen; iavf and ixgbevf, from their sources."""


def own_name(address: str) -> str:
    """Name of a VF's device while it is nobody's: ``vf0-03-00.2`` for ``0000:03:00.2``."""
    domain, rest = address.split(":", 1)
    return f"vf{int(domain, 16):x}-{rest.replace(':', '-')}"


def own_mac(address: str) -> str:
    """MAC address of a VF while it is nobody's: locally administered, unlike any pod's, unique on a server."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    number = (int(domain, 16) & 0xFFFF) << 16 | int(bus, 16) << 8 | int(device, 16) << 3 | int(function, 16)
    return "0a:56:" + number.to_bytes(4, "big").hex(":")


def _take_mac(slots: Rtnl, device: Device, mac: str) -> None:
    """Give a VF that is nobody's a MAC address, unless its port fixes one: then no pod of ours has that."""
    try:
        if device.mac != mac:
            slots.apply(set_device(device.index, mac=mac))
    except KernelError as error:
        if error.code not in _FIXED:
            raise


def by_hardware(found: Device) -> str:
    """Say which VF a device is by what the kernel says of it, which no pod can change: Linux 5.14 and later."""
    return found.hardware


def by_alias(found: Device) -> str:
    """Say it by the alias that the VF was given, where the kernel says nothing; no device that a pod can make is one.

    Such devices have a kind: veth, dummy, tun.
    """
    return found.hardware or ("" if found.kind else by_label(found))


def by_label(found: Device) -> str:
    """Say it by the alias alone: for devices of any kind that play VFs, and nothing else."""
    return found.alias.removeprefix(mark.VF) if found.alias.startswith(mark.VF) else ""


def identify(tree: Path, home: Iterable[Device]) -> Identify:
    """Return how VFs are told on this server: by hardware where the kernel names that of any device at home.

    A tree that is not the kernel's own has devices that only play VFs.
    """
    if not is_sysfs(tree):
        return by_label
    return by_hardware if any(device.hardware for device in home) else by_alias


def is_idle(tree: Path, address: str) -> bool:
    """Whether a VF's device is in the calling thread's namespace, the server's, and the server does not use it."""
    with Rtnl() as home:
        device = _find(tree, home, address)
        return device is not None and not use_of(tree, home, device)


def _find(tree: Path, home: Rtnl, address: str) -> Device | None:
    """Return a VF's device when it is in the server's namespace."""
    names = network_devices(tree, address)
    return next((device for name in names if (device := home.device(name)) is not None), None)


def _make_way(home: Rtnl, name: str, vf: Device | None = None) -> None:
    """Rename what has the name of a VF that comes home, and is not that VF: nobody else has a right to it."""
    other = home.device(name)
    if other is not None and (vf is None or other.index != vf.index):
        home.apply(*reset_device(other.index, _STRAY))


class VfWay:
    """Puts VFs into pods; make it in the server's namespace, to which they return."""

    def __init__(self, tree: Path, addresses: Mapping[str, str], identify: Identify) -> None:
        """`tree` is like /sys; `addresses` has the PCI address of each representor's VF, and may change any time."""
        self._tree, self._addresses, self._identify = tree, addresses, identify
        self._home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        self.enter = Rtnl

    def close(self) -> None:
        """Hold on to the server's namespace no longer."""
        os.close(self._home)

    def slot(self, slots: Rtnl, wire: str) -> Device:
        """Return the representor."""
        device = slots.device(wire) if wire in self._addresses else None
        if device is None:
            raise SlotMissing(f"{wire} is no representor of a VF of this server")
        return device

    def wire(self, device: Device) -> str | None:
        """Return a representor's name, None for any other device.

        One that serves a pod is a slot even while nobody knows of which VF it is: that pod may have the VF still.
        """
        known = device.name in self._addresses or (mark.parse(device.alias) is not None and not is_wire(device.name))
        return device.name if known else None

    def holds(self, slot: Device, found: Device) -> bool:
        """Whether a device is the VF of this representor."""
        address = self._addresses.get(slot.name)
        return address is not None and address == self._identify(found)

    def create(self, visit: Visit, slot: Device, link: Link, alias: str) -> None:
        """Mark the representor, then move the VF into the pod, down, with its name and MAC; VfAway when it is not here.

        A VF that is in the pod under another name (a move was cut short, the pod renamed it) goes home first. VfInUse
        for one that the server uses.
        """
        address = self._addresses[slot.name]
        strayed = next((found for found in visit.pod.devices() if self.holds(slot, found)), None)
        if strayed is not None:
            self.destroy(visit, slot, strayed)
        device = _find(self._tree, visit.slots, address)
        if device is None:
            raise VfAway(f"VF {address} has no network device in the server's namespace: {self._reason(address)}")
        if used := use_of(self._tree, visit.slots, device):
            raise VfInUse(f"VF {address} is the server's own: it uses {used}")
        visit.slots.apply(
            set_alias(slot.index, alias),
            set_alias(device.index, f"{mark.VF}{address}"),
            move_device(device.index, visit.netns, link.ifname, mac=link.mac),
        )

    def configure(self, visit: Visit, slot: Device, link: Link, before: Device | None) -> None:
        """Make the pod's interface as the link says; InvalidNetns when it vanished."""
        del slot
        pod.configure(visit.pod, visit.need(link.ifname), link, before)

    def look(self, visit: Visit, slot: Device, found: Device, netns: str) -> Link:
        """Return the pod's interface as it is."""
        return pod.look(visit.pod, found, slot.name, netns)

    def destroy(self, visit: Visit, slot: Device, found: Device) -> None:
        """Move the VF back to the server, down; its addresses and routes are gone with that."""
        del slot
        name = own_name(self._identify(found))
        _make_way(visit.slots, name)
        visit.pod.apply(move_device(found.index, self._home, name))

    def release(self, slots: Rtnl, slot: Device) -> None:
        """Reset the VF, wherever from it came back, and take the mark off.

        VfAway while a dying namespace has it, and while it is not known of which VF this is the representor.
        """
        address = self._addresses.get(slot.name)
        if address is None:
            raise VfAway(f"{slot.name} serves a pod, and it is not known (any more) which VF that has")
        device, name = _find(self._tree, slots, address), own_name(address)
        if device is not None:
            _make_way(slots, name, device)
            slots.apply(*reset_device(device.index, name))
            _take_mac(slots, device, own_mac(address))  # not the permanent one: to igbvf that is whatever it had last
        elif self._may_come_back(address):
            raise VfAway(f"VF {address} is not back from the pod's namespace yet")
        slots.apply(set_alias(slot.index, mark.OURS))

    abandon = release
    """Whatever was seen of it, it is looked for."""

    def _may_come_back(self, address: str) -> bool:
        driver = driver_of(self._tree, address)
        return driver != "" and not driver.startswith(_ELSEWHERE)

    def _reason(self, address: str) -> str:
        driver = driver_of(self._tree, address)
        if not driver:
            return f"it has no driver (echo {address} > /sys/bus/pci/drivers_probe)"
        if driver.startswith(_ELSEWHERE):
            return f"its driver is {driver}; give it back to the NIC's own"
        return "another namespace has it, or had it until now"
