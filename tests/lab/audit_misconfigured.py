"""Switches that are not configured as they should be, until the end of a block. Yields what an audit is to find."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ipaddress import ip_network

from routed.audit.model import Kind
from tests.auditing import SPINES, SWITCHES, Auditor, Sign
from tests.fabric import ASNS, eventually

Caused = dict[str, set[Sign]]
"""By address: what is found, and what its story has to tell; by nothing: what no single address is concerned by."""
Cause = Callable[[Auditor], AbstractContextManager[Caused]]


def caused(address: str, *found: tuple[Kind, str, tuple[str, ...]]) -> Caused:
    return {address: {Sign(kind, subject, tuple(sorted(where))) for kind, subject, where in found}}


# ---- what a switch is configured to do


@contextlib.contextmanager
def policy(auditor: Auditor, tor: str, route_map: str, number: int, prefix: str, *action: str) -> Iterator[None]:
    """Let a ToR treat one prefix otherwise: a line of a route map that stands before the others."""
    version = ip_network(prefix).version
    family = "ip" if version == 4 else "ipv6"
    listed, (verb, *sets) = f"{family} prefix-list AUDIT-{number}", action
    entry = f"route-map {route_map} {verb} {number}"
    clear = f"clear bgp ipv{version} unicast * soft {'in' if route_map.startswith('FROM') else 'out'}"
    match = f"match {family} address prefix-list AUDIT-{number}"
    try:
        auditor.lab.vtysh(tor, "configure", f"{listed} seq 1 permit {prefix}", entry, match, *sets, "end", clear)
        yield
    finally:
        auditor.lab.vtysh(tor, "configure", f"no {entry}", f"no {listed}", "end", clear)


@contextlib.contextmanager
def refused(auditor: Auditor) -> Iterator[Caused]:
    """One ToR's policy refuses a pod's route."""
    address = auditor.pods.one.address(4)
    with policy(auditor, "r1a", "FROM-s11", 1, f"{address}/32", "deny"):
        yield caused(address, (Kind.MISSING, address, ("r1a",)))


@contextlib.contextmanager
def rewritten(auditor: Auditor) -> Iterator[Caused]:
    """One ToR changes a route's next hop to an address of nobody."""
    address = auditor.pods.two.address(4)
    with policy(auditor, "r1a", "FROM-s11", 2, f"{address}/32", "permit", "set ip next-hop 10.1.0.99"):
        yield caused(address, (Kind.WRONG_NEXT_HOP, address, ("r1a",)))


@contextlib.contextmanager
def prepended(auditor: Auditor) -> Iterator[Caused]:
    """One ToR lengthens a route's AS path."""
    address = auditor.pods.one.address(6)
    with policy(auditor, "r1b", "FROM-s11", 3, f"{address}/128", "permit", "set as-path prepend 65500"):
        yield caused(address, (Kind.ATTRIBUTES, address, ("r1b",)))


@contextlib.contextmanager
def marked(auditor: Auditor) -> Iterator[Caused]:
    """One ToR adds a community."""
    address = auditor.pods.two.address(6)
    with policy(auditor, "r1b", "FROM-s11", 4, f"{address}/128", "permit", "set community 65000:666 additive"):
        yield caused(address, (Kind.ATTRIBUTES, address, ("r1b",)))


@contextlib.contextmanager
def let_out(auditor: Auditor) -> Iterator[Caused]:
    """One ToR tells the spines a host route that nobody asked it to."""
    address = auditor.pods.rack.address(4)
    with policy(auditor, "r1b", "TO-SPINE", 5, f"{address}/32", "permit"):
        yield caused(address, (Kind.BEYOND_RACK, address, ("r1a", *SPINES)))


@contextlib.contextmanager
def overridden(auditor: Auditor) -> Iterator[Caused]:
    """One ToR's kernel has a route of somebody else's, so that BGP's is not installed."""
    address = auditor.pods.rack.address(6)
    route = ("blackhole", f"{address}/128", "metric", "5")
    auditor.lab.node("r1b").run(["ip", "-6", "route", "add", *route])
    try:
        yield caused(address, (Kind.NOT_INSTALLED, address, ("r1b",)))
    finally:
        auditor.lab.node("r1b").run(["ip", "-6", "route", "delete", *route])


@contextlib.contextmanager
def left_behind(auditor: Auditor) -> Iterator[Caused]:
    """Somebody has configured a route for an address that no pod has."""
    address = "10.101.0.200"
    place = ("r1a", "configure", f"router bgp {ASNS['r1a']}", "address-family ipv4 unicast")
    try:
        auditor.lab.vtysh(*place, f"network {address}/32")
        yield caused(address, (Kind.LEAKED, address, ("r1a",)))
    finally:
        auditor.lab.vtysh(*place, f"no network {address}/32")


@contextlib.contextmanager
def not_aggregated(auditor: Auditor) -> Iterator[Caused]:
    """Neither ToR of a rack tells the fabric of a pool."""
    pool, tors = "10.102.0.0/24", ("r2a", "r2b")
    places = [(tor, "configure", f"router bgp {ASNS[tor]}", "address-family ipv4 unicast") for tor in tors]
    try:
        for place in places:
            auditor.lab.vtysh(*place, f"no aggregate-address {pool}")
        yield caused(auditor.pods.far.address(4), (Kind.AGGREGATE_MISSING, pool, SWITCHES))
    finally:
        for place in places:
            auditor.lab.vtysh(*place, f"aggregate-address {pool}")


# ---- while the fabric steers


@contextlib.contextmanager
def link_cut(auditor: Auditor) -> Iterator[Caused]:
    """A server reaches one ToR only, and the other steers: nothing is wrong with its routes."""
    server = auditor.servers["s11"]
    auditor.lab.cut("r1b:s11")
    try:
        own = {prefix for pod in server.pods.values() for prefix in pod.prefixes}
        for spine in SPINES:
            eventually(lambda spine=spine: own <= auditor.lab.kernel_routes(spine).keys(), f"host routes on {spine}")
        yield caused(auditor.pods.one.address(4))
    finally:
        auditor.lab.restore("r1b:s11")
        eventually(server.at_rest, "s11 at rest", 60)


@contextlib.contextmanager
def community_lost(auditor: Auditor) -> Iterator[Caused]:
    """The ToR that is asked to steer drops the community of one route."""
    address = auditor.pods.one.address(4)
    with policy(auditor, "r1a", "FROM-s11", 6, f"{address}/32", "permit", "set community none"):
        yield caused(address, (Kind.ATTRIBUTES, address, ("r1a",)))


@contextlib.contextmanager
def kept_in(auditor: Auditor) -> Iterator[Caused]:
    """The ToR that is asked to steer does not let one route out."""
    address = auditor.pods.two.address(4)
    with policy(auditor, "r1a", "TO-SPINE", 7, f"{address}/32", "deny"):
        yield caused(address, *((Kind.MISSING, address, (spine,)) for spine in SPINES))
