"""The doors plane: the server's end of each pod's wire, where pods share the uplink and reach their server beside it.

A door has a host route to each address of its pod, in the server's own table, and filters that let nothing in but what
comes from these addresses. It has the pod's own MAC address and asks nobody: either end takes the other one's for
granted.

Never touches a device without our mark, nor a route of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from routed.attach import mark, sysctl
from routed.attach.answers import Device, Route
from routed.attach.errors import KernelError, NotFound, SlotMissing, failures
from routed.attach.filters import Filter, Hook, add_hooks, changes, own_alone
from routed.attach.kernel import Rtnl
from routed.attach.pod import METRIC
from routed.attach.rtnl import add_route, delete_route, no_link_local, set_device
from routed.attach.veth import is_wire
from routed.domain.wiring import Door
from routed.domain.workload import host_network

BROKEN = ""
"""The MAC address of a door that lets others in, or has a route too much."""


class Doors:
    """Doors of wires: server's end -> Door."""

    name = "doors"
    streams = False

    async def observe(self) -> Mapping[str, Door]:
        """Return every door that leads anywhere."""
        return await asyncio.to_thread(_observe)

    async def upsert(self, items: Mapping[str, Door]) -> Mapping[str, Exception]:
        """Make these doors be so."""
        return await asyncio.to_thread(_each, items, lambda home, wire: _open(home, wire, items[wire]))

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Have these wires lead nowhere."""
        return await asyncio.to_thread(_each, keys, _close)


def _observe() -> Mapping[str, Door]:
    with Rtnl() as home:
        wires = [one for one in home.devices(alias=mark.OURS) if is_wire(one.name) and mark.is_ours(one.alias)]
        return {wire.name: door for wire in wires if (door := _look(home, wire)) is not None}


def _look(home: Rtnl, wire: Device) -> Door | None:
    routes = _routes(home, wire.index)
    if not routes:
        return None
    addresses = frozenset(route.destination.network_address for route in routes)
    sources = frozenset(route.source for route in routes if route.source is not None)
    door = Door(wire.mac, addresses, sources)
    whole = routes == _wanted(door) and home.filters(wire.index).keys() == _filters(door)
    return door if whole else replace(door, mac=BROKEN)


def _filters(door: Door) -> frozenset[Filter]:
    return own_alone(Hook.INGRESS, frozenset(map(host_network, door.addresses)), door.mac)


def _routes(home: Rtnl, index: int) -> set[Route]:
    return {route for route in home.routes(index) if route.protocol == mark.ORIGIN}


def _wanted(door: Door) -> set[Route]:
    source = {address.version: address for address in door.sources}
    return {
        Route(host_network(address), None, METRIC[address.version], mark.ORIGIN, source=source.get(address.version))
        for address in door.addresses
    }


def _open(home: Rtnl, name: str, door: Door) -> None:
    wire = _wire(home, name)
    has_ipv6 = all(sysctl.write(f"ipv6/conf/{name}/{setting}", 0) for setting in ("accept_ra", "disable_ipv6"))
    routes, wanted = _routes(home, wire.index), _wanted(door)
    with suppress(KernelError):  # it has hooks, or what comes next says why not
        home.apply(add_hooks(wire.index))
    home.apply(
        *changes(wire.index, home.filters(wire.index), _filters(door)),
        *([no_link_local(wire.index)] if has_ipv6 else ()),
        set_device(wire.index, up=True, silent=True, mac=door.mac),
        *(delete_route(wire.index, route) for route in routes - wanted),
        *(add_route(wire.index, route) for route in wanted - routes),
    )


def _close(home: Rtnl, name: str) -> None:
    with suppress(SlotMissing, NotFound):
        wire = _wire(home, name)
        home.apply(*(delete_route(wire.index, route) for route in _routes(home, wire.index)))
        home.apply(*changes(wire.index, home.filters(wire.index), ()))


def _wire(home: Rtnl, name: str) -> Device:
    wire = home.device(name)
    if wire is None or not mark.is_ours(wire.alias):
        raise SlotMissing(f"{name} does not exist")
    return wire


def _each(wires: Iterable[str], call: Callable[[Rtnl, str], None]) -> Mapping[str, Exception]:
    with Rtnl() as home:
        return failures(wires, lambda wire: call(home, wire))
