"""What the plan says that an address is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipam.model import IPAddress, IPNetwork, Pool
from routed.audit.model import RackPlan
from routed.domain.workload import host_network


class Role(StrEnum):
    """What the plan says that an address is."""

    POD = "pod"
    """In a pool, for pods; whether one has it is another question."""
    GATEWAY = "gateway"
    EDGE = "edge"
    """Network or broadcast address of a pool."""
    RESERVED = "reserved"
    SERVER = "server"
    """A server's own."""
    TOR = "ToR"
    """A ToR's loopback."""
    HOSTS = "servers' subnet"
    """Of no server that the plan names."""
    SERVICE = "service"
    OUTSIDE = "outside"
    """In no prefix of the plan."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is in the plan."""

    role: Role
    rack: str = ""
    """Empty when it is no rack's."""
    prefix: IPNetwork | None = None
    """The pool, subnet or range."""
    name: str = ""
    """The server or ToR whose own it is."""


def locate(address: IPAddress, plans: Sequence[RackPlan]) -> Place:
    """Return what the plan says about an address."""
    return next((place for plan in plans for place in _places(address, plan)), Place(Role.OUTSIDE))


def is_inside(address: IPAddress, prefix: IPNetwork) -> bool:
    """Whether an address is in a prefix, of whichever families the two are."""
    return address.version == prefix.version and address in prefix


def _places(address: IPAddress, plan: RackPlan) -> Iterator[Place]:
    """Find what an address is in one rack, the most particular first."""
    rack = plan.rack
    for tor in rack.tors:
        if tor.address == address:
            yield Place(Role.TOR, rack.name, host_network(address), tor.name)
    for server in plan.servers.values():
        if address in server.addresses:
            yield Place(Role.SERVER, rack.name, host_network(address), server.name)
    for pool in plan.pools:
        if is_inside(address, pool.prefix):
            yield Place(_role(address, pool), rack.name, pool.prefix)
    for subnet in rack.hosts:
        if is_inside(address, subnet.prefix):
            yield Place(Role.GATEWAY if address == subnet.gateway else Role.HOSTS, rack.name, subnet.prefix)
    yield from (Place(Role.SERVICE, rack.name, prefix) for prefix in rack.services if is_inside(address, prefix))


def _role(address: IPAddress, pool: Pool) -> Role:
    if address == pool.gateway:
        return Role.GATEWAY
    if address in pool.edges:
        return Role.EDGE
    for one in pool.reserved:
        if address == one or (isinstance(one, IPNetwork) and is_inside(address, one)):
            return Role.RESERVED
    return Role.POD
