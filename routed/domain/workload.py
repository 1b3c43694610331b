"""A pod's interface as this server knows it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address


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

    @property
    def mac(self) -> str:
        """MAC address, derived from the first address so that a reused address keeps its MAC.

        ``0a:58`` is locally administered, unicast; the low 32 bits of either family follow.
        """
        low = int(self.addresses[0]) & 0xFFFF_FFFF
        return "0a:58:" + ":".join(f"{byte:02x}" for byte in low.to_bytes(4, "big"))
