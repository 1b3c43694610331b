"""The way in for servers without a bridge: an ipvlan in mode L2 on the uplink itself, and a bypass to the server.

All ipvlans of an uplink have its MAC address; what comes in goes to the one that has the destination's IP address. What
they send leaves through the uplink, where `routed.attach.passages` looks at it. They cannot reach the server that they
are on: for that each pod has a second interface, its bypass, on the slot's wire (`routed.attach.doors` is at the other
end); it is called rs<n>. Filters on the first one, inside the pod, let nothing out but what comes from the
pod's own addresses; that much a pod with NET_ADMIN could undo.

Source: Documentation/networking/ipvlan.rst; drivers/net/ipvlan/ipvlan_core.c for the flag VEPA.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from routed.attach import mark, pod
from routed.attach.answers import Device, Route
from routed.attach.errors import KernelError, UplinkUnusable
from routed.attach.filters import Filter, Hook, add_hooks, changes, own_alone
from routed.attach.kernel import Rtnl
from routed.attach.netns import Visit
from routed.attach.rtnl import (
    add_ipvlan,
    add_route,
    delete_device,
    delete_route,
    no_link_local,
    rename,
    set_alias,
    set_device,
)
from routed.attach.slots import Home
from routed.attach.veth import MacvlanWay
from routed.domain.wiring import Bypass, Link
from routed.domain.workload import IPNetwork, host_network

_BORN, _BYPASS = "ri", "rs"
"""How names begin that nothing on the server has: the kernel looks there, too, whether a new device's name is taken."""


class IpvlanWay(MacvlanWay):
    """Puts ipvlans into pods, and macvlans beside them."""

    def __init__(self, uplink: str) -> None:
        super().__init__(Home())
        self._uplink = uplink
        self._parent: int | None = None
        self.enter = self._enter

    def _enter(self) -> Rtnl:
        """Open a socket on the server; its uplink is another device after it was made anew."""
        home = Rtnl()
        device = home.device(self._uplink)
        self._parent = None if device is None else device.index
        return home

    def holds(self, slot: Device, found: Device) -> bool:
        """Whether this device inside a pod is a child of the uplink."""
        del slot
        return found.kind == "ipvlan" and found.parent_elsewhere and found.parent == self._parent

    def create(self, visit: Visit, slot: Device, link: Link, alias: str) -> None:
        """Mark the slot, then create the pod's interface, down; UplinkUnusable."""
        if self._parent is None:
            raise UplinkUnusable(f"there is no device {self._uplink}")
        born = _name(slot, _BORN)
        left = visit.pod.device(born)  # by an agent that was killed before the next line but one
        create = [add_ipvlan(born, self._parent, visit.netns)] if left is None else []
        visit.slots.apply(set_alias(slot.index, alias), *create)
        visit.pod.apply(rename(visit.need(born), link.ifname))

    def configure(self, visit: Visit, slot: Device, link: Link, before: Device | None) -> None:
        """Make both interfaces as the link says."""
        index = visit.need(link.ifname)
        if link.guarded:
            _guard(visit.pod, index, link)
        pod.configure(visit.pod, index, link, before)
        if link.bypass is not None:
            self._make_bypass(visit, slot, link.bypass)

    def look(self, visit: Visit, slot: Device, found: Device, netns: str) -> Link:
        """Return both interfaces as they are."""
        seen = super().look(visit, slot, found, netns)
        beside = self._bypass(visit, slot)
        return replace(
            seen,
            bypass=None if beside is None or not beside.up else Bypass(beside.mac, _destinations(visit.pod, beside)),
            guarded=visit.pod.filters(found.index).keys() == _guards(seen),
        )

    def destroy(self, visit: Visit, slot: Device, found: Device) -> None:
        """Delete both interfaces."""
        beside = self._bypass(visit, slot)
        visit.pod.apply(*([] if beside is None else [delete_device(beside)]), delete_device(found))

    def _bypass(self, visit: Visit, slot: Device) -> Device | None:
        found = visit.pod.device(_name(slot, _BYPASS))
        return found if found is not None and super().holds(slot, found) else None

    def _make_bypass(self, visit: Visit, slot: Device, bypass: Bypass) -> None:
        name, found = _name(slot, _BYPASS), self._bypass(visit, slot)
        if found is not None and found.mac != bypass.mac:
            visit.pod.apply(delete_device(found))
            found = None
        if found is None:
            self._hang(visit, slot, name, set_device(slot.index, mac=bypass.mac))
        index = visit.need(name)
        present = {route for route in visit.pod.routes(index) if route.protocol == mark.ORIGIN}
        wanted = {Route(to, None, pod.METRIC[to.version], mark.ORIGIN) for to in bypass.destinations}
        has_ipv6 = pod.prepare_ipv6(name, wanted=any(to.version == 6 for to in bypass.destinations))
        visit.pod.apply(
            *([no_link_local(index)] if has_ipv6 else ()),
            set_device(index, up=True, silent=True),
            *(delete_route(index, route) for route in present - wanted),
            *(add_route(index, route) for route in wanted - present),
        )


def _name(slot: Device, beginning: str) -> str:
    """Return ``rs17`` for ``rp17``."""
    return beginning + slot.name[len(beginning) :]


def _destinations(inside: Rtnl, bypass: Device) -> frozenset[IPNetwork]:
    return frozenset(route.destination for route in inside.routes(bypass.index) if route.protocol == mark.ORIGIN)


def _guards(link: Link) -> frozenset[Filter]:
    return own_alone(Hook.EGRESS, frozenset(host_network(address.ip) for address in link.addresses), link.mac)


def _guard(inside: Rtnl, index: int, link: Link) -> None:
    found = inside.filters(index)
    with suppress(KernelError):  # it has hooks, or what comes next says why not
        inside.apply(add_hooks(index))
    inside.apply(*changes(index, found, _guards(link)))
