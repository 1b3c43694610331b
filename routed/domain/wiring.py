"""What a pod is plugged into, as values: the wire of a slot, the link inside the pod, what its uplink lets pass.

A slot is a port of the bridge with a number of its own. Behind most of them is a veth pair that any pod may have;
behind those from `VF_SLOTS` on is one VF each, of which the port is the representor (docs/adr/0007-vfs-are-slots.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Interface, IPv6Interface

from routed.domain.workload import IPAddress, IPNetwork

FIRST_OFPORT = 1000
"""OpenFlow port number of slot 0; what is below belongs to the host (uplinks)."""


VF_SLOTS = 4096
"""The first slot that is a VF's; what is below are veth pairs."""
VFS_OF_A_PF = 256
"""Slots that each PF has, used or not: what is added or removed elsewhere changes no number."""
MOST_PFS = 235
"""More would need port numbers that Open vSwitch keeps for itself: from 65280 on (ovs-fields(7), "Ports")."""
_NUMBER = re.compile(r"[0-9]{1,4}$")


@dataclass(frozen=True, slots=True)
class Vf:
    """A virtual function of the NIC that the bridge goes out by."""

    representor: str
    """Name of the bridge's end."""
    address: str
    """On the PCI bus: ``0000:03:00.2``."""


def vf_slot(pf: int, index: int) -> int:
    """Slot of a VF, by the number of its PF on this server and its index there; ValueError beyond the range."""
    if not (0 <= pf < MOST_PFS and 0 <= index < VFS_OF_A_PF):
        raise ValueError(f"there is no slot for VF {index} of PF {pf}")
    return VF_SLOTS + pf * VFS_OF_A_PF + index


@cache
def turn(ifname: str) -> int:
    """Return the number at the end of a name: of a pod's interfaces the one with the lowest is its way out."""
    number = _NUMBER.search(ifname)
    return 0 if number is None else int(number[0])


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
class Door:
    """Where a pod leaves its wire: to its server what is for it, by the uplink that it shares what is for others.

    Only packets from the pod's own addresses get that far.
    """

    mac: str
    """Of the server's end: the gateway's, whom all that the pod sends is addressed to."""
    pod_mac: str
    """Of the pod's interface (`Link.mac`), and so of the end that it hangs on: the uplink's."""
    addresses: frozenset[IPAddress]
    """The pod's."""
    sources: frozenset[IPAddress]
    """The server's own, which it speaks to the pod from."""
    served: frozenset[IPNetwork]
    """What the server's own stack serves: its addresses, Services."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What a shared uplink does about a prefix.

    A pod's address: it may send, and what is for it is handed over, whether from a ToR or from another pod. A pool:
    what is from or to an address of it that no pod of this server has is dropped.
    """

    wire: str | None
    """The pod's; None for a pool."""


FENCED = Passage(None)


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
    rdma: bool = False
    """Whether the RDMA device that goes with it is in the pod, too."""
