"""The wires plane: veth pairs, made ready before a pod needs them.

Slot n is the pair rt<n>, which the bridge plugs in, and rp<n>, which waits for a pod in the slots' own namespace. Both
ends are up and silent: no ARP, no IPv6, so that the server's own stack takes no part in what passes. Without a bridge
the server's stack is at rt<n>, with IPv6: it lets nothing through from its birth on (`routed.attach.doors` opens it).

Never touches a device of the server's namespace without our mark, and never plugs anything into a bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from routed.attach import mark, sysctl
from routed.attach.answers import Device, DeviceEvent, Event
from routed.attach.errors import ForeignDevice, NotFound, failures
from routed.attach.filters import CLOSED, add_filter
from routed.attach.kernel import Rtnl
from routed.attach.monitor import Monitor
from routed.attach.netns import OWN
from routed.attach.rtnl import add_veth, delete_device, set_device, tx_checksums_off
from routed.attach.slots import SlotSpace
from routed.attach.veth import inner_index, inner_name, is_wire, outer_index
from routed.domain.wiring import Wire
from routed.threads import apart

BROKEN = Wire(mtu=0)
"""What is observed of a pair that needs attention: an end missing or elsewhere, down, or of another MTU."""


class Wires:
    """Veth pairs: bridge's end -> Wire."""

    name = "wires"
    streams = False

    def __init__(
        self,
        wake: Callable[[], None],
        monitor: Monitor,
        space: SlotSpace,
        *,
        userspace_datapath: bool = False,
        to_server: bool = False,
    ) -> None:
        """Wake when a wire vanishes. A userspace bridge cannot complete checksums: the pods' side does it.

        `to_server`: the outer end belongs to the server's own stack, not to a bridge.
        """
        self._wake = wake
        self._space = space
        self._userspace_datapath = userspace_datapath
        self._to_server = to_server
        monitor.subscribe(self._notice)

    async def observe(self) -> Mapping[str, Wire]:
        """Return every wire that carries our mark."""
        return await apart(self._observe)

    async def upsert(self, items: Mapping[str, Wire]) -> Mapping[str, Exception]:
        """Make these wires exist; one that lost an end is made anew."""
        return await apart(self._each, items, lambda ends, name: self._make(ends, name, items[name]))

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Delete these wires, and with them what hangs on them."""
        return await apart(self._each, keys, _remove)

    def _observe(self) -> Mapping[str, Wire]:
        with Rtnl() as home, self._space.run(Rtnl) as slots:
            inner = {device.index: device for device in slots.devices()}
            outer = [device for device in home.devices(alias=mark.OURS) if mark.is_ours(device.alias)]
        wires = [end for end in outer if is_wire(end.name)]
        return {
            end.name: BROKEN if self._misnumbered(end) else _wire(end, inner.get(inner_index(end.name)))
            for end in wires
        }

    def _misnumbered(self, outer: Device) -> bool:
        return self._to_server and outer.index != outer_index(outer.name)

    def _each(self, names: Iterable[str], call: Callable[[_Ends, str], None]) -> Mapping[str, Exception]:
        with Rtnl() as home, self._space.run(Rtnl) as slots, OWN.open("rb") as server:
            ends = _Ends(home, slots, server.fileno())
            return failures(names, lambda name: call(ends, name))

    def _make(self, ends: _Ends, name: str, wire: Wire) -> None:
        outer, inner = ends.look(name)
        fresh = outer is None or inner is None or not _joined(outer, inner) or self._misnumbered(outer)
        if fresh:
            ends.delete(outer, inner)
            numbers = inner_index(name), outer_index(name) if self._to_server else 0
            born = add_veth(inner_name(name), name, wire.mtu, indices=numbers, peer_netns=ends.server)
            ends.slots.apply(born, set_device(inner_index(name), alias=mark.OURS))
        if self._to_server:
            _close(ends.home, outer_index(name))
        ends.home.apply(set_device(name, up=True, silent=True, mtu=wire.mtu, alias=mark.OURS))
        ends.slots.apply(set_device(inner_index(name), up=True, silent=True, mtu=wire.mtu))
        if fresh or not self._to_server:  # else it may lead to a pod (routed.attach.doors)
            sysctl.write(f"ipv6/conf/{name}/disable_ipv6", 1)
        if self._userspace_datapath:
            self._space.run(partial(tx_checksums_off, inner_name(name)))

    def _notice(self, event: Event | None) -> None:
        if event is None or (isinstance(event, DeviceEvent) and event.gone and is_wire(event.device.name)):
            self._wake()


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the two ends of a wire are."""

    home: Rtnl
    slots: Rtnl
    server: int
    """File descriptor of the server's namespace."""

    def look(self, name: str) -> tuple[Device | None, Device | None]:
        """Return a wire's ends; ForeignDevice when the name of the bridge's end is taken.

        The bridge's end gets its mark a moment after its birth: what is joined to an inner end is ours without it.
        """
        outer, inner = self.home.device(name), self.slots.device(inner_name(name))
        born = outer is not None and inner is not None and _joined(outer, inner)
        if outer is not None and not born and not mark.is_ours(outer.alias):
            raise ForeignDevice(
                f"{name} exists and is not ours: its alias is {outer.alias!r}, it should be {mark.OURS!r}"
            )
        return outer, inner

    def delete(self, outer: Device | None, inner: Device | None) -> None:
        """Delete what there is of both ends."""
        for where, device in ((self.home, outer), (self.slots, inner)):
            if device is not None:
                with suppress(NotFound):  # its other end took it along
                    where.apply(delete_device(device))


def _remove(ends: _Ends, name: str) -> None:
    ends.delete(*ends.look(name))


def _close(home: Rtnl, index: int) -> None:
    """Have a device drop what no other filter of ours lets through."""
    home.make_room(index)
    found = home.filters(index)
    home.apply(*(add_filter(index, one) for one in CLOSED if one not in found))


def _joined(outer: Device, inner: Device) -> bool:
    joined = (outer.parent, inner.parent) == (inner.index, outer.index)
    return joined and outer.parent_elsewhere == inner.parent_elsewhere


def _wire(outer: Device, inner: Device | None) -> Wire:
    whole = (
        inner is not None
        and inner.name == inner_name(outer.name)
        and _joined(outer, inner)
        and outer.up
        and inner.up
        and outer.mtu == inner.mtu
    )
    return Wire(outer.mtu) if whole else BROKEN
