"""The packet fields that flows match on or set, as one table: names, wire headers, width.

Owns the field registry and the conversion of people's values (addresses, networks, MAC text) to numbers. Every field's
value is an unsigned number here: codec, text and the test switch then need no case per field. Headers: OpenFlow 1.4
7.2.3.7 (OXM), and the older NXM headers that OVS uses in its own move, push and pop actions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Value = int | str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
Kind = Literal["port", "mac", "ipv4", "ipv6", "decimal", "hex"]

OXM_BASIC = 0x8000
NXM_BASIC = 0x0000
NXM_NICIRA = 0x0001

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
PROTO_ICMPV6 = 58
VLAN_PRESENT = 0x1000
"""Bit of ``vlan_vid`` that says that there is a tag; 0 in the whole field means untagged (OpenFlow 1.4 7.2.3.7)."""


@dataclass(frozen=True, slots=True)
class Field:
    """One packet or metadata field."""

    name: str
    """As in the OpenFlow specification; ``reg0`` as in OVS."""
    oxm: tuple[int, int]
    """Class and number of its header in matches and set_field."""
    bits: int
    kind: Kind
    text: str = ""
    """What ovs-ofctl calls it in a match; the name when empty."""
    nxm: tuple[int, int] | None = None
    """Class and number of its header in move, push and pop; None: not used there."""
    nxm_name: str = ""
    size: int = field(init=False)
    """Bytes on the wire."""
    exact: int = field(init=False)
    """The mask of an exact match."""
    header: bytes = field(init=False)
    """Of an exact match."""

    def __post_init__(self) -> None:
        size = (self.bits + 7) // 8
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "exact", (1 << self.bits) - 1)
        object.__setattr__(self, "header", struct.pack("!HBB", self.oxm[0], self.oxm[1] << 1, size))


# In the order in which OVS writes them (lib/nx-match.c, nx_put_raw), so that equal matches are equal bytes.
FIELDS: dict[str, Field] = {
    one.name: one
    for one in (
        Field("in_port", (OXM_BASIC, 0), 32, "port"),
        Field("eth_src", (OXM_BASIC, 4), 48, "mac", "dl_src", (NXM_BASIC, 2), "NXM_OF_ETH_SRC"),
        Field("eth_dst", (OXM_BASIC, 3), 48, "mac", "dl_dst", (NXM_BASIC, 1), "NXM_OF_ETH_DST"),
        Field("eth_type", (OXM_BASIC, 5), 16, "hex", "dl_type"),
        Field("vlan_vid", (OXM_BASIC, 6), 13, "decimal"),
        Field("ipv4_src", (OXM_BASIC, 11), 32, "ipv4", "nw_src"),
        Field("ipv4_dst", (OXM_BASIC, 12), 32, "ipv4", "nw_dst"),
        Field("ipv6_src", (OXM_BASIC, 26), 128, "ipv6"),
        Field("ipv6_dst", (OXM_BASIC, 27), 128, "ipv6"),
        Field("ip_proto", (OXM_BASIC, 10), 8, "decimal", "nw_proto"),
        Field("icmpv6_type", (OXM_BASIC, 29), 8, "decimal", "icmp_type"),
        Field("arp_op", (OXM_BASIC, 21), 16, "decimal"),
        Field("arp_spa", (OXM_BASIC, 22), 32, "ipv4", "", (NXM_BASIC, 16), "NXM_OF_ARP_SPA"),
        Field("arp_tpa", (OXM_BASIC, 23), 32, "ipv4", "", (NXM_BASIC, 17), "NXM_OF_ARP_TPA"),
        Field("arp_sha", (OXM_BASIC, 24), 48, "mac", "", (NXM_NICIRA, 17), "NXM_NX_ARP_SHA"),
        Field("arp_tha", (OXM_BASIC, 25), 48, "mac", "", (NXM_NICIRA, 18), "NXM_NX_ARP_THA"),
        Field("reg0", (NXM_NICIRA, 0), 32, "hex"),
    )
}

POSITION = {name: position for position, name in enumerate(FIELDS)}
BY_OXM = {one.oxm: one for one in FIELDS.values()}
BY_NXM = {one.nxm: one for one in FIELDS.values() if one.nxm is not None}
BY_NXM_NAME = {one.nxm_name: one for one in FIELDS.values() if one.nxm_name}
BY_TEXT = {one.text or one.name: one for one in FIELDS.values()}


def number(value: Value) -> int:
    """Return a field's value as the number that stands on the wire."""
    if isinstance(value, str):
        return int(value.replace(":", ""), 16)
    if isinstance(value, IPv4Network | IPv6Network):
        return int(value.network_address)
    return int(value)


def mac_text(value: int) -> str:
    """Return a MAC address as OVS prints it."""
    return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))
