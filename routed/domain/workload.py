"""A pod's interface as this server knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def host_network(address: IPAddress) -> IPv4Network | IPv6Network:
    """Return the /32 or /128 of an address. `ipaddress.ip_network` tries both families and costs ten times as much."""
    return IPv4Network((int(address), 32)) if isinstance(address, IPv4Address) else IPv6Network((int(address), 128))


def host_interface(address: IPAddress) -> IPv4Interface | IPv6Interface:
    """Return an address as the only one of its prefix."""
    return IPv4Interface((int(address), 32)) if isinstance(address, IPv4Address) else IPv6Interface((int(address), 128))


@dataclass(frozen=True, slots=True, order=True)
class AttachmentId:
    """One interface of one sandbox: the key of everything (CNI 1.1 names attachments so; pod names get reused)."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class PodRef:
    """The pod behind a sandbox; every field is empty where the runtime did not say."""

    namespace: str = ""
    name: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A route inside the pod."""

    destination: IPNetwork
    gateway: IPAddress | None = None
    """None for the gateway of the pod's own address; any other is one of the same rack's, on the same ToRs."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod asks for; as it stands here, nothing at all."""

    addresses: tuple[IPAddress, ...] = ()
    """Fixed addresses, at most one of each family."""
    sticky: bool = False
    """The next pod of this name wants the same addresses again."""
    mtu: int | None = None
    """Bytes."""
    rdma: bool = False
    """The RDMA device of its VF belongs to it, too."""
    ingress_bps: int | None = None
    """Bits a second towards the pod."""
    egress_bps: int | None = None
    """Bits a second from the pod."""
    routes: tuple[StaticRoute, ...] = ()
    device: str | None = None
    """PCI address of the VF that is to be its interface; None for the slot of a veth pair."""
    network: str = ""
    """Name of the CNI configuration that asked; empty in rows of before that was noted."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One row of the ledger."""

    id: AttachmentId
    pod: PodRef
    netns: str
    """Path of the pod's network namespace; it may be gone by the time somebody looks."""
    slot: int
    """Number of the bridge port that serves this attachment; unique among the attachments of this server."""
    addresses: tuple[IPAddress, ...]
    """At most one of each family."""
    sequence: int
    """Grows with every put: a late DEL names the sequence that it means."""
    leaving: bool = False
    """DEL was asked for: every plane must lose it before the addresses are free again."""
    wishes: Wishes = field(default_factory=Wishes)
    """What the pod asked for when it was attached; later changes of mind count for the next pod."""

    def __hash__(self) -> int:
        """Hash what no two attachments share; intents are looked up by attachment all the time."""
        return hash(self.sequence)

    @property
    def mac(self) -> str:
        """MAC address, derived from the first address so that a reused address keeps its MAC.

        ``0a:58`` is locally administered, unicast; the low 32 bits of either family follow.
        """
        low = int(self.addresses[0]) & 0xFFFF_FFFF
        return "0a:58:" + ":".join(f"{byte:02x}" for byte in low.to_bytes(4, "big"))

    def mtu(self, most: int) -> int:
        """Return the MTU inside the pod, where the way out of the server takes ``most`` bytes."""
        return most if self.wishes.mtu is None else min(self.wishes.mtu, most)

    def destinations(self, version: int) -> tuple[IPNetwork, ...]:
        """Return where the routes lead that the pod has besides its default route of this IP version."""
        found = (route.destination for route in self.wishes.routes)
        return tuple(one for one in found if one.version == version)
