"""The inside of a pod: what its interface looks like, and how it should.

A pod's address is a /32 (/128): it has no neighbours. Its gateway is reached by a link-scope host route, everything
else by a default route through it, and the gateway's MAC is a permanent neighbour entry, so no ARP or ND is ever asked.
Routes that the pod asked for besides lead through the gateway, too, and carry our mark; anybody else's are left alone.
Of several interfaces the one with the lowest number in its name is the way out: routes of net2 have a metric 2 higher.

No gratuitous ARP and no unsolicited NA are sent for a new pod, because nobody outside has anything to forget: a pod's
MAC never leaves the server (the bridge rewrites the source of all that leaves), the ToR routes the pod's /32 to the
server instead of resolving it, the server's own flow names the MAC, and the MAC is derived from the address, so that
whoever gets the address next has the same one.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from ipaddress import ip_network

from routed.attach import mark, sysctl
from routed.attach.answers import Device, Route
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import (
    LOOPBACK,
    add_address,
    add_route,
    delete_address,
    delete_route,
    no_link_local,
    set_device,
    set_neighbour,
)
from routed.domain.wiring import Link, turn
from routed.domain.workload import IPAddress

_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
METRIC = {4: 0, 6: 1024}
"""What the kernel uses when nobody says."""


def look(pod: Rtnl, device: Device, wire: str, netns: str) -> Link:
    """Return the interface as it is; addresses and gateways in the order IPv4, IPv6.

    A gateway counts when it has both of its routes; ``gateway_mac`` is empty unless every gateway has the same
    permanent neighbour entry.
    """
    routes = pod.routes(device.index)
    later = turn(device.name)
    gateways = tuple(
        route.gateway
        for route in routes
        if route.gateway is not None
        and route.destination.prefixlen == 0
        and _to_gateway(route.gateway, later) in routes
    )
    entries = {entry.address: entry.mac for entry in pod.neighbours(device.index) if entry.permanent}
    macs = {entries.get(gateway) or "" for gateway in gateways}
    return Link(
        wire=wire,
        netns=netns,
        ifname=device.name,
        mac=device.mac,
        mtu=device.mtu,
        addresses=tuple(sorted(pod.addresses(device.index), key=lambda address: address.version)),
        gateways=gateways,
        gateway_mac=macs.pop() if len(macs) == 1 else "",
        routes=frozenset(
            route.destination for route in routes if route.protocol == mark.ORIGIN and route.gateway in gateways
        ),
    )


def configure(pod: Rtnl, index: int, link: Link, before: Device | None) -> None:
    """Make the interface as the link says; runs inside the pod.

    ``before`` is the interface as it was; None when it is new, with the right MAC address and nothing on it yet.
    """
    present = set() if before is None else set(pod.addresses(index))
    routes = set() if before is None else set(pod.routes(index))
    wanted = _routes(link)
    wrong = {route for route in routes.difference(wanted) if _in_the_way(route, wanted)}
    has_ipv6 = prepare_ipv6(link.ifname, wanted=any(address.version == 6 for address in link.addresses))
    pod.apply(
        set_device(LOOPBACK, up=True),
        *([no_link_local(index)] if has_ipv6 else ()),  # an address would be made when the interface comes up
        set_device(index, up=True, mtu=link.mtu, mac=None if before is None or before.mac == link.mac else link.mac),
        # adding before deleting: an interface that loses its last IPv4 address loses its routes with it
        *(add_address(index, address) for address in link.addresses if address not in present),
        *(delete_address(index, address) for address in present.difference(link.addresses)),
        *(delete_route(index, route) for route in wrong),
        *(add_route(index, route) for route in wanted if route not in routes),
        *(set_neighbour(index, gateway, link.gateway_mac) for gateway in link.gateways),
    )


def prepare_ipv6(ifname: str, *, wanted: bool) -> bool:
    """Leave the pod's IPv6 to us: no router advertisements, no made-up addresses. False when the kernel has none."""
    settings = [("accept_ra", 0), ("autoconf", 0)]
    if wanted:  # some runtimes turn IPv6 off in every new namespace
        settings.append(("disable_ipv6", 0))
    return all(sysctl.write(f"ipv6/conf/{ifname}/{setting}", value) for setting, value in settings)


@cache  # a server has a handful of gateways, and hashing a new network takes longer than to look it up
def _to_gateway(gateway: IPAddress, later: int) -> Route:
    return Route(ip_network(gateway), None, METRIC[gateway.version] + later)


@cache
def _through(gateway: IPAddress, later: int) -> Route:
    return Route(_ANYWHERE[gateway.version], gateway, METRIC[gateway.version] + later)


def _routes(link: Link) -> list[Route]:
    """Return the wanted routes, each after those that it depends on."""
    later = turn(link.ifname)
    basic = [route for gateway in link.gateways for route in (_to_gateway(gateway, later), _through(gateway, later))]
    return basic + [
        Route(destination, gateway, METRIC[gateway.version] + later, mark.ORIGIN)
        for gateway in link.gateways
        for destination in link.routes
        if destination.version == gateway.version
    ]


def _in_the_way(route: Route, wanted: Collection[Route]) -> bool:
    """Whether a route that is not wanted is a default route, once was ours, or stands where a wanted one belongs."""
    where = (route.destination, route.metric)
    return (
        route.destination.prefixlen == 0
        or route.protocol == mark.ORIGIN
        or any((other.destination, other.metric) == where for other in wanted)
    )
