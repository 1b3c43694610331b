"""The doors plane: where pods leave their wires, on a server whose uplink they share.

What a pod sends comes in by the outer end of its slot's wire, on the server, out of the pod's reach; whatever the pod
makes of its interface, there is no other way out (`routed.attach.ipvlan`). Filters there let on only what comes from
the pod's own addresses: to the server's own stack what is for it, out by the uplink the rest. And they let out to the
pod only what is for it, with its MAC address as the receiver's: what another pod of this server sends is addressed to
the gateway. The end has a host route to each address of the pod, in the server's own table, and the gateway's MAC
address, since that is whom the pod addresses all to. It asks nobody: the pod's MAC address is a permanent neighbour.

Never touches a device without our mark, nor a route or a neighbour of others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from routed.attach import mark, sysctl
from routed.attach.answers import Device, Route
from routed.attach.errors import NotFound, SlotMissing, UplinkUnusable, failures
from routed.attach.filters import (
    CHAIN,
    CLOSED,
    Filter,
    Hook,
    Verdict,
    changes,
    hand_over,
    of_destination,
    own_alone,
)
from routed.attach.kernel import Rtnl
from routed.attach.pod import METRIC
from routed.attach.rtnl import (
    add_route,
    delete_neighbour,
    delete_route,
    no_link_local,
    set_device,
    set_neighbour,
)
from routed.attach.veth import is_wire
from routed.domain.wiring import Door
from routed.domain.workload import IPAddress, host_network
from routed.threads import apart

BROKEN = ""
"""The MAC address of a door that lets others through, leads elsewhere, or has a route too much."""
_NO_DEVICE = -1
"""No filter's: one whose device has gone has the index 0."""


def filters(door: Door, uplink: int) -> frozenset[Filter]:
    """Return what is at the server's end of the wire; `uplink` is an interface index."""
    own = frozenset(map(host_network, door.addresses))
    return CLOSED.union(
        own_alone(Hook.INGRESS, own, door.pod_mac),
        (of_destination(Hook.INGRESS, Verdict.PASS, served, CHAIN) for served in door.served),
        (Filter(Hook.INGRESS, Verdict.OUT, chain=CHAIN, device=uplink),),
        (hand_over(Hook.EGRESS, address, door.pod_mac) for address in own),
    )


class Doors:
    """Doors of wires: server's end -> Door."""

    name = "doors"
    streams = False

    def __init__(self, uplink: str) -> None:
        self._uplink = uplink

    async def observe(self) -> Mapping[str, Door]:
        """Return every door that leads anywhere."""
        return await apart(self._observe)

    async def upsert(self, items: Mapping[str, Door]) -> Mapping[str, Exception]:
        """Make these doors be so."""
        return await apart(_each, items, lambda home, wire: self._open(home, wire, items[wire]))

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Have these wires lead nowhere."""
        return await apart(_each, keys, _close)

    def _observe(self) -> Mapping[str, Door]:
        with Rtnl() as home:
            uplink = home.device(self._uplink)
            index = _NO_DEVICE if uplink is None else uplink.index
            wires = [one for one in home.devices(alias=mark.OURS) if is_wire(one.name) and mark.is_ours(one.alias)]
            return {wire.name: door for wire in wires if (door := _look(home, wire, index)) is not None}

    def _open(self, home: Rtnl, name: str, door: Door) -> None:
        uplink = home.device(self._uplink)
        if uplink is None:
            raise UplinkUnusable(f"there is no device {self._uplink}")
        end = _end(home, name)
        outer, has_ipv6 = end.index, sysctl.write(f"ipv6/conf/{name}/accept_ra", 0)
        home.make_room(outer)
        home.apply(
            *changes(outer, home.filters(outer), filters(door, uplink.index)),
            *([no_link_local(outer)] if has_ipv6 else ()),
            set_device(outer, up=True, silent=True, mac=None if end.mac == door.mac else door.mac),
        )
        sysctl.write(f"ipv6/conf/{name}/disable_ipv6", 0)
        routes, wanted = _routes(home, outer), _wanted(door)
        home.apply(
            *(delete_neighbour(outer, one) for one in _neighbours(home, outer).keys() - door.addresses),
            *(set_neighbour(outer, one, door.pod_mac) for one in door.addresses),
            *(delete_route(outer, route) for route in routes - wanted),
            *(add_route(outer, route) for route in wanted - routes),
        )


def _look(home: Rtnl, outer: Device, uplink: int) -> Door | None:
    routes = _routes(home, outer.index)
    if not routes:
        return None
    found, neighbours = home.filters(outer.index).keys(), _neighbours(home, outer.index)
    door = Door(
        mac=outer.mac,
        pod_mac=next(iter(neighbours.values()), None) or BROKEN,
        addresses=frozenset(route.destination.network_address for route in routes),
        sources=frozenset(route.source for route in routes if route.source is not None),
        served=frozenset(one.destination for one in found if one.chain == CHAIN and one.destination is not None),
    )
    known = dict.fromkeys(door.addresses, door.pod_mac)
    whole = routes == _wanted(door) and found == filters(door, uplink) and neighbours == known
    return door if whole else replace(door, mac=BROKEN)


def _routes(home: Rtnl, index: int) -> set[Route]:
    return {route for route in home.routes(index) if route.protocol == mark.ORIGIN}


def _neighbours(home: Rtnl, index: int) -> dict[IPAddress, str | None]:
    return {one.address: one.mac for one in home.neighbours(index) if one.permanent}


def _wanted(door: Door) -> set[Route]:
    source = {address.version: address for address in door.sources}
    return {
        Route(host_network(address), None, METRIC[address.version], mark.ORIGIN, source=source.get(address.version))
        for address in door.addresses
    }


def _close(home: Rtnl, name: str) -> None:
    with suppress(SlotMissing, NotFound):
        outer = _end(home, name).index
        home.apply(
            *(delete_route(outer, route) for route in _routes(home, outer)),
            *(delete_neighbour(outer, address) for address in _neighbours(home, outer)),
            *changes(outer, home.filters(outer), CLOSED),
        )


def _end(home: Rtnl, name: str) -> Device:
    outer = home.device(name)
    if outer is None or not mark.is_ours(outer.alias):
        raise SlotMissing(f"{name} does not exist")
    return outer


def _each(wires: Iterable[str], call: Callable[[Rtnl, str], None]) -> Mapping[str, Exception]:
    with Rtnl() as home:
        return failures(wires, lambda wire: call(home, wire))
