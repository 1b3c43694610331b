"""What a pod is plugged into, as values: the wire of a slot, the link inside the pod, what its uplink lets pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
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
class Bypass:
    """A second interface inside a pod, past the uplink to its own server, where the first one shares the uplink."""

    mac: str
    """Of both ends: neither of them asks for the other."""
    destinations: frozenset[IPNetwork]
    """What the server's own stack serves: its addresses, Services."""


@dataclass(frozen=True, slots=True)
class Door:
    """The server's end of a bypass; only packets from the pod's own addresses come in."""

    mac: str
    addresses: frozenset[IPAddress]
    """The pod's."""
    sources: frozenset[IPAddress]
    """The server's own, which it speaks to the pod from."""


class Passage(Enum):
    """What a shared uplink does about a prefix."""

    BROKEN = "broken"
    """Some other filters of ours; nobody wants that."""
    LOCAL = "local"
    """A pod's address: it may send, and what is for it is handed over, whether from a ToR or from another pod."""
    FENCED = "fenced"
    """A pool: what is from or to an address of it that no pod of this server has is dropped."""


@dataclass(frozen=True, slots=True)
class Link:
    """The interface inside a pod."""

    wire: str
    """Name of the server's end of the slot's wire that it hangs on."""
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
    bypass: Bypass | None = None
    """Where the interface shares the uplink, by which a pod cannot reach its own server."""
    guarded: bool = False
    """Whether nothing leaves it but packets from its own addresses; where the server's end cannot see to that."""
