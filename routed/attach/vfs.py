"""Which VFs pods can have: those of the NIC that the bridge goes out by, whose representors are certain.

A VF of another NIC would have its pod's packets go through the server's processors, so it is none of these. Slots are
numbered by PF and index; a number that was given stays, whatever is plugged in or taken out later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from routed.attach import mark
from routed.attach.answers import DeviceEvent, Event, NicPort
from routed.attach.errors import KernelError
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.attach.sysfs import SYSFS, NoAnswer, Pf, as_told, discover
from routed.attach.veth import is_wire
from routed.attach.vf import own_name
from routed.domain.wiring import MOST_PFS, VF_SLOTS, VFS_OF_A_PF, Vf, vf_slot

log = structlog.get_logger(__name__)
_PAUSE_S = 1.0
"""Devices come and go in swarms; one look for all of them."""
_LINGERS_S = 10.0
"""Between two looks at whether pods still have what nobody else would keep."""


class Vfs:
    """The VFs of this server, looked for again whenever devices come or go."""

    def __init__(  # noqa: PLR0913 - a datapath's one call
        self,
        tree: Path,
        uplinks: Collection[str],
        taken: Callable[[], Mapping[str, int]],
        monitor: Monitor,
        changed: Callable[[Mapping[int, Vf]], None],
        *,
        for_pods: bool = True,
    ) -> None:
        """`uplinks` are the devices that the bridge goes out by, now; `taken` returns the slots of VFs that pods have.

        `changed` is told of all VFs, by slot, after every look. Unless they are `for_pods`, only of those that pods
        have already: they keep them, and all others are left alone.
        """
        self._tree, self._uplinks, self._taken, self._changed = tree, uplinks, taken, changed
        self._for_pods = for_pods
        self._numbers: dict[str, int] = {}
        self._slots: Mapping[int, Vf] = {}
        self._lingering = False
        self._bonds: frozenset[int] = frozenset()
        self._known: Mapping[int, tuple[str, bool]] = {}
        self._any_pf = False
        self._own_names: frozenset[str] = frozenset()
        self._stirred = asyncio.Event()
        self._told: frozenset[str] = frozenset()
        self.addresses: dict[str, str] = {}
        """PCI address of each representor's VF; changed in place, for those who hold on to it."""
        monitor.subscribe(self._notice)

    @property
    def stirred(self) -> bool:
        """Whether something came or went since the last look that may be a representor."""
        return self._stirred.is_set()

    def stir(self) -> None:
        """Have `run` look again."""
        self._stirred.set()

    async def look(self) -> None:
        """Look for them; when the kernel does not tell, what was known stands, and `run` looks again.

        A VF that was not seen stays what it was while a pod has it: it may be in there still.
        """
        try:
            pfs, ports = await asyncio.to_thread(self._discover)
        except KernelError as error:
            log.warning("vfs.unknown", error=str(error))
            self._stirred.set()
            return
        self._any_pf = bool(pfs)
        self._bonds = frozenset(port.index for port in ports if port.name in self._uplinks)
        self._known = {port.index: (port.name, port.master in self._bonds) for port in ports}
        self._own_names = frozenset(own_name(vf.address) for pf in pfs for vf in pf.vfs)
        members = {port.name for port in ports if port.master in self._bonds}.union(self._uplinks)
        own = [pf for pf in pfs if not isinstance(pf.uplinks, NoAnswer) and members & {one.name for one in pf.uplinks}]
        taken = self._taken()
        self._numbers = numbered(pfs, self._numbers, taken)
        seen = tabulate(own, self._numbers)
        if not self._for_pods:
            seen = held(seen, taken)
        missed = unseen(held(self._slots, taken), seen)
        slots = self._slots = {**seen, **missed}
        self._lingering = bool(missed) or (bool(seen) and not self._for_pods)
        addresses = {vf.representor: vf.address for vf in slots.values()}
        self.addresses.update(addresses)
        for name in self.addresses.keys() - addresses.keys():
            del self.addresses[name]
        self._tell(own)
        self._changed(slots)

    async def run(self) -> None:
        """Look again after devices came or went, until cancelled; now and then while pods alone keep something."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGERS_S if self._lingering else None):
                    await self._stirred.wait()
                    await asyncio.sleep(_PAUSE_S)
            self._stirred.clear()
            await self.look()

    def _discover(self) -> tuple[Sequence[Pf], Sequence[NicPort]]:
        with Rtnl() as home:
            ports = home.nic_ports()
        if self._tree != SYSFS:
            ports = [as_told(self._tree, port) for port in ports]
        return discover(self._tree, ports), ports

    def _notice(self, event: Event | None) -> None:
        if event is None or (isinstance(event, DeviceEvent) and self._matters(event)):
            self._stirred.set()

    def _matters(self, event: DeviceEvent) -> bool:
        """Whether a representor may have gone or come, or a port joined the bond; pods come and go with less."""
        device, name = event.device, event.device.name
        if event.gone:
            return name in self.addresses or name in self._uplinks
        if device.kind and not self._any_pf and name not in self._uplinks:
            return False  # what has a kind is no NIC, and no NIC has anything to be looked at
        ours = is_wire(name) or device.alias.startswith(mark.VF) or name in self._own_names
        return not ours and self._known.get(device.index) != (name, device.master in self._bonds)

    def _tell(self, pfs: Iterable[Pf]) -> None:
        """Log what keeps VFs from being used, when that has changed."""
        why = frozenset(vf.representor.why for pf in pfs for vf in pf.vfs if isinstance(vf.representor, NoAnswer))
        for reason in sorted(why - self._told):
            log.warning("vf.unusable", reason=reason)
        self._told = why


def numbered(pfs: Iterable[Pf], given: Mapping[str, int], taken: Mapping[str, int]) -> dict[str, int]:
    """Return a number for each PF: the one that it was given, the one by which a pod's VF has its slot, or a free one.

    ``taken`` has slots by PCI address of the VF. A number that stands in there is no other PF's, even while its own PF
    is not to be seen.
    """
    numbers = dict(given)
    stood_for = {_number(slot) for slot in taken.values()}
    new = [pf for pf in pfs if pf.address not in numbers]
    for pf in new:
        slot = next((taken[vf.address] for vf in pf.vfs if vf.address in taken), None)
        if slot is not None and (number := _number(slot)) not in numbers.values():
            numbers[pf.address] = number
    for pf in new:
        if pf.address not in numbers:
            used = stood_for.union(numbers.values())
            numbers[pf.address] = next(number for number in range(len(used) + 1) if number not in used)
    return numbers


def tabulate(pfs: Iterable[Pf], numbers: Mapping[str, int]) -> dict[int, Vf]:
    """Return by slot every VF whose representor is certain."""
    return {
        vf_slot(numbers[pf.address], vf.index): Vf(vf.representor.name, vf.address)
        for pf in pfs
        for vf in pf.vfs
        if not isinstance(vf.representor, NoAnswer) and vf.index < VFS_OF_A_PF and numbers[pf.address] < MOST_PFS
    }


def held(vfs: Mapping[int, Vf], taken: Mapping[str, int]) -> dict[int, Vf]:
    """Return of these VFs those that pods have, by slot."""
    return {slot: vf for slot, vf in vfs.items() if taken.get(vf.address) == slot}


def unseen(before: Mapping[int, Vf], seen: Mapping[int, Vf]) -> dict[int, Vf]:
    """Return which VFs were there before and are not seen now; none whose place another one has taken."""
    places = {place for vf in seen.values() for place in (vf.representor, vf.address)}
    return {
        slot: vf for slot, vf in before.items() if slot not in seen and places.isdisjoint((vf.representor, vf.address))
    }


def _number(slot: int) -> int:
    """Return the number of the PF whose VF has this slot."""
    return (slot - VF_SLOTS) // VFS_OF_A_PF
