"""Whole Ethernet frames as bytes, for what stands at the far end of a port."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from ovs_flows.fields import number

ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
UDP = 17


def mac(text: str) -> bytes:
    return number(text).to_bytes(6, "big")


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    frame = mac(destination) + mac(source) + struct.pack("!H", kind) + payload
    return frame.ljust(60, b"\0")


def udp(eth_source: str, eth_destination: str, source: str, destination: str, port: int = 9) -> bytes:
    """Return a UDP datagram over IPv4 or IPv6, whichever the addresses are; its ports make it recognisable."""
    one, other = ip_address(source), ip_address(destination)
    body = struct.pack("!HHHH", port, port, 8, 0)
    if one.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(body), UDP, 64)
        return ethernet(eth_source, eth_destination, ETH_IPV6, head + one.packed + other.packed + body)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, UDP, 0) + one.packed + other.packed
    total = sum(struct.unpack("!10H", head))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return ethernet(eth_source, eth_destination, ETH_IPV4, head[:10] + struct.pack("!H", checksum) + head[12:] + body)


def arp(op: int, sha: str, spa: str, tpa: str, destination: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    head = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, op)
    body = head + mac(sha) + ip_address(spa).packed + bytes(6) + ip_address(tpa).packed
    return ethernet(sha, destination, ETH_ARP, body)


def destination(frame: bytes) -> str:
    """Return the IP destination of a frame, an empty string when it has none."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_IPV4:
        return str(ip_address(frame[30:34]))
    return str(ip_address(frame[38:54])) if kind == ETH_IPV6 else ""


def is_from(frame: bytes, source: str) -> bool:
    return frame[6:12] == mac(source)


def is_to(frame: bytes, target: str) -> bool:
    return frame[:6] == mac(target)
