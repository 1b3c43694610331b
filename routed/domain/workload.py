"""A pod's interface as this server knows it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IPAddress = IPv4Address | IPv6Address


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
