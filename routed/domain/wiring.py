"""What a pod is plugged into, as values: the wire of a slot and the link inside the pod."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from routed.domain.workload import IPAddress, IPNetwork

FIRST_OFPORT = 1000
"""OpenFlow port number of slot 0; what is below belongs to the host (uplinks)."""


def wire_name(slot: int) -> str:
    """Name of the bridge's end of a slot's wire: ``rt17``."""
    return f"rt{slot}"


def ofport(slot: int) -> int:
    """OpenFlow port number of a slot, requested from OVS so that flows can be computed before the port exists."""
    return FIRST_OFPORT + slot


@dataclass(frozen=True, slots=True)
class Wire:
    """A slot's wire, ready before a pod needs it: one end belongs to the bridge, the other waits for a pod."""

    mtu: int


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may pass a slot's wire, bytes a second; None: as much as there is."""

    to_pod: int | None
    from_pod: int | None


@dataclass(frozen=True, slots=True)
class Link:
    """The interface inside a pod."""

    wire: str
    """Name of the bridge's end of the wire that it hangs on."""
    netns: str
    ifname: str
    mac: str
    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    """/32 and /128: a pod has no neighbours, only its gateway."""
    gateways: tuple[IPAddress, ...]
    """One per family: on-link default route plus a permanent neighbour entry."""
    gateway_mac: str
    """Any constant will do: the bridge rewrites the destination of all that leaves a pod."""
    routes: frozenset[IPNetwork] = frozenset()
    """Where else than everywhere a route leads, through the gateway of its family."""
