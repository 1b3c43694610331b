"""The bytes of the questions for a neighbour, of answers, and of answers that nobody asked for. Pure.

ARP (RFC 826), ND (RFC 4861 4.3 and 4.4).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

_BROADCAST = bytes([0xFF] * 6)
_ETH_ARP, _ETH_IPV6, _ETH_VLAN = 0x0806, 0x86DD, 0x8100
_ARP_ETHERNET, _ARP_IPV4, _ARP_REQUEST, _ARP_REPLY = 1, 0x0800, 1, 2
_ICMPV6, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 58, 135, 136
_SOURCE_LINK_ADDRESS, _TARGET_LINK_ADDRESS = 1, 2
_SOLICITED_OVERRIDE = 0x6000_0000
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")


def question(
    mac: str, address: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address, vlan: int | None
) -> bytes:
    """Return the frame in which ``address`` at ``mac`` asks everybody for ``target``; both of one family.

    Whoever answers has to remember the asker, which is the point. ``vlan`` None is untagged.
    """
    if isinstance(address, IPv4Address) and isinstance(target, IPv4Address):
        return _arp(_octets(mac), address, target, vlan)
    if isinstance(address, IPv6Address) and isinstance(target, IPv6Address):
        return _solicitation(_octets(mac), address, target, vlan)
    raise ValueError(f"{address} cannot ask for {target}: another family")


def statement(
    mac: str,
    address: IPv4Address | IPv6Address,
    target: IPv4Address | IPv6Address,
    target_mac: str,
    vlan: int | None,
) -> bytes:
    """Return the frame in which ``address`` tells ``target`` that it is at ``mac``, as if it had been asked.

    Whoever gets that need not ask for a while (RFC 4861 7.2.5: solicited; Linux takes an ARP answer to itself so, too).
    """
    ends = _octets(target_mac), _octets(mac)
    if isinstance(address, IPv4Address) and isinstance(target, IPv4Address):
        fixed = struct.pack("!HHBBH", _ARP_ETHERNET, _ARP_IPV4, 6, 4, _ARP_REPLY)
        return _ethernet(*ends, _ETH_ARP, vlan) + fixed + ends[1] + address.packed + ends[0] + target.packed
    if isinstance(address, IPv6Address) and isinstance(target, IPv6Address):
        option = struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + ends[1]
        rest = _SOLICITED_OVERRIDE.to_bytes(4) + address.packed + option
        return _ethernet(*ends, _ETH_IPV6, vlan) + _icmp(_NEIGHBOUR_ADVERTISEMENT, address.packed, target.packed, rest)
    raise ValueError(f"{address} cannot tell {target}: another family")


def answered(frame: bytes) -> IPv4Address | IPv6Address | None:
    """Return the address that an answer is about; None for any other frame.

    It comes as a packet socket hands it out: with its Ethernet header, without its tag.
    """
    kind = frame[12:14]
    if kind == _ETH_ARP.to_bytes(2) and frame[20:22] == _ARP_REPLY.to_bytes(2) and len(frame) >= 32:
        return IPv4Address(frame[28:32])
    is_icmp = kind == _ETH_IPV6.to_bytes(2) and frame[20:21] == bytes([_ICMPV6])
    if is_icmp and frame[54:55] == bytes([_NEIGHBOUR_ADVERTISEMENT]) and len(frame) >= 78:
        return IPv6Address(frame[62:78])
    return None


def _arp(mac: bytes, address: IPv4Address, target: IPv4Address, vlan: int | None) -> bytes:
    fixed = struct.pack("!HHBBH", _ARP_ETHERNET, _ARP_IPV4, 6, 4, _ARP_REQUEST)
    return _ethernet(_BROADCAST, mac, _ETH_ARP, vlan) + fixed + mac + address.packed + bytes(6) + target.packed


def _solicitation(mac: bytes, address: IPv6Address, target: IPv6Address, vlan: int | None) -> bytes:
    group = _SOLICITED_NODE + target.packed[-3:]
    option = struct.pack("!BB", _SOURCE_LINK_ADDRESS, 1) + mac
    packet = _icmp(_NEIGHBOUR_SOLICITATION, address.packed, group, bytes(4) + target.packed + option)
    return _ethernet(b"\x33\x33" + group[-4:], mac, _ETH_IPV6, vlan) + packet


def _icmp(kind: int, source: bytes, target: bytes, rest: bytes) -> bytes:
    """Return an IPv6 packet of neighbour discovery; ``rest`` is what follows type, code and checksum."""
    length = 4 + len(rest)
    pseudo_header = source + target + struct.pack("!II", length, _ICMPV6)
    start = struct.pack("!BB", kind, 0)
    message = start + _checksum(pseudo_header + start + bytes(2) + rest) + rest
    return struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + source + target + message


def _ethernet(destination: bytes, source: bytes, kind: int, vlan: int | None) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", _ETH_VLAN, vlan)
    return destination + source + tag + struct.pack("!H", kind)


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
