"""How each finding of an audit is caused on the lab, and put right again. A cause yields what is to be found of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from ipaddress import ip_network
from typing import Any

from netaddr import IPSet

from containerlab.agents import Agent
from routed.audit.model import Kind
from tests.auditing import SPINES, SWITCHES, Auditor, Sign, entering
from tests.fabric import ADDRESSES, ASNS, announcing, eventually
from tests.servers import NO_STEERING, Server


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
    auditor.lab.vtysh(tor, "configure", f"{listed} seq 1 permit {prefix}", entry, match, *sets, "end", clear)
    try:
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
    place = (*("r1a", "configure", f"router bgp {ASNS['r1a']}", "address-family ipv4 unicast"),)
    auditor.lab.vtysh(*place, f"network {address}/32")
    try:
        yield caused(address, (Kind.LEAKED, address, ("r1a",)))
    finally:
        auditor.lab.vtysh(*place, f"no network {address}/32")


@contextlib.contextmanager
def not_aggregated(auditor: Auditor) -> Iterator[Caused]:
    """Neither ToR of a rack tells the fabric of a pool."""
    pool, tors = "10.102.0.0/24", ("r2a", "r2b")
    places = [(*(tor, "configure", f"router bgp {ASNS[tor]}", "address-family ipv4 unicast"),) for tor in tors]
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


# ---- speakers


@contextlib.contextmanager
def second_speaker(auditor: Auditor) -> Iterator[Caused]:
    """A server without an agent speaks for itself, and one ToR takes whatever it says."""
    stolen, lone, foreign = auditor.pods.far.address(4), "10.102.1.77", "192.0.2.7"
    auditor.racks["r2"]["servers"]["s22"] = {"addresses": [ADDRESSES["s22"]]}
    routes = {"ipv4": [f"{address}/32 next-hop self" for address in (stolen, lone, foreign)]}
    with (
        policy(auditor, "r2b", "FROM-s22", 1, f"{lone}/32", "deny"),
        policy(auditor, "r2a", "FROM-s22", 2, f"{foreign}/32", "permit"),
        announcing(auditor.lab, "s22", routes),
    ):
        yield {
            **caused(stolen, (Kind.DUPLICATE, stolen, ("s21", "s22"))),
            **caused(lone, (Kind.ASYMMETRIC, lone, ("r2a", "r2b")), (Kind.UNOBSERVED, "s22", ("s22",))),
            **caused("", (Kind.FOREIGN, f"{foreign}/32", ("r2a",))),
        }


@contextlib.contextmanager
def died(auditor: Auditor) -> Iterator[Caused]:
    """An agent and its speaker die, and the ToRs wait for them to come back."""
    server, pod = auditor.servers["s12"], auditor.pods.rack
    server.agent.kill()
    server.agent.kill_speaker()
    try:
        yield caused(
            pod.address(4),
            (Kind.UNOBSERVED, "s12", ("s12",)),
            *((Kind.STALE, pod.address(version), (tor,)) for version in (4, 6) for tor in server.tors),
        )
    finally:
        start(server)


@contextlib.contextmanager
def another_plan(auditor: Auditor) -> Iterator[Caused]:
    """An agent runs with a rack file that knows one ToR only."""
    server, pod = auditor.servers["s12"], auditor.pods.rack
    changes = {
        "  - {name: r1b, asn: 65012, address: 10.255.1.2}\n": "",
        "members: [etha, ethb]": "members: [etha]",
        **NO_STEERING,
    }
    server.agent.stop()
    try:
        server.agent = Agent.start(server.node, env={"ROUTED_CONFIG": str(server.copy_of_rack_file(changes))})
        server.agent.wait_ready()
        yield caused(pod.address(4), *((Kind.UNANNOUNCED, pod.address(version), ("r1b", "s12")) for version in (4, 6)))
    finally:
        if server.agent.alive():
            server.agent.stop()
        start(server)


def start(server: Server) -> None:
    """Start an agent again, and wait until it is at rest."""
    server.start()
    eventually(server.at_rest, f"{server.name} at rest", 60)


# ---- the plan


@contextlib.contextmanager
def full(auditor: Auditor) -> Iterator[Caused]:
    """One rack has no address left, another one has one."""
    pods = auditor.pods
    four = [pod.address(4) for pod in pods.all]
    first, second = (auditor.racks[name]["pools"] for name in ("r1", "r2"))
    _reserve_all_but(first, four)
    _reserve_all_but(second, [*four, *(f"10.102.1.{number}" for number in range(10, 11))])
    auditor.options["pools"] = {"low": 0.5}
    yield caused(
        "",
        (Kind.POOL_EXHAUSTED, "10.101.0.0/24,10.101.1.0/24", ()),
        (Kind.POOL_LOW, "10.102.0.0/24,10.102.1.0/24", ()),
    )


def _reserve_all_but(pools: Iterable[dict[str, Any]], kept: Iterable[str]) -> None:
    """Reserve all IPv4 addresses of pools that pods could still get."""
    for pool in pools:
        if "." in pool["prefix"]:
            rest = IPSet([pool["prefix"]]) - IPSet([*kept, pool["gateway"]])
            pool["reserved"] = [str(prefix) for prefix in rest.iter_cidrs()]


@contextlib.contextmanager
def planned_twice(auditor: Auditor) -> Iterator[Caused]:
    """A new rack's servers get a subnet out of another rack's pool; one of its ToRs fails, the other one hangs."""
    auditor.racks["r3"] = {
        "rack": "r3",
        "tors": [
            {"name": f"r3{side}", "asn": 65031 + at, "address": f"10.255.3.{1 + at}"} for at, side in enumerate("ab")
        ],
        "hosts": [{"prefix": "10.101.1.128/25", "gateway": "10.101.1.129"}],
        "pools": [{"prefix": "10.103.0.0/24", "gateway": "10.103.0.1"}],
        "servers": {"s31": {"addresses": ["10.101.1.131"]}},
        "bgp": {"asn": 65500},
    }
    auditor.switches = {
        "r3a": {"source": "frr", "command": entering(auditor.lab.node("s11"), "vtysh")},
        "r3b": {"source": "frr", "command": ["sh", "-c", "sleep 60 #"]},
    }
    auditor.options["timeout_s"] = 5
    silent = ((Kind.UNOBSERVED, name, (name,)) for name in ("r3a", "r3b", "s31"))
    yield {
        **caused("10.101.1.130", (Kind.PLAN_CONFLICT, "10.101.1.128/25", ("r1", "r3"))),
        **caused("10.103.0.5", *silent),
    }
