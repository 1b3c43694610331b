"""BGP UPDATE messages as they pass on the wire: which IPv4 prefixes do they announce?

Parses as little as the benchmark needs, and only what lies whole in one TCP segment: routes are sent one at a time.
Source: RFC 4271 4.1 and 4.3.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKER = b"\xff" * 16
_HEADER = len(_MARKER) + 3
_UPDATE = 2
_TCP = 6
_PORT = 179


class Segment(NamedTuple):
    """A TCP segment of a BGP session."""

    source: IPv4Address
    destination: IPv4Address
    payload: bytes


def segment(packet: bytes) -> Segment | None:
    """Return the BGP segment in an IPv4 packet (from its IP header on), None when it is something else."""
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    tcp = (packet[0] & 0xF) * 4
    ports = {int.from_bytes(packet[tcp : tcp + 2]), int.from_bytes(packet[tcp + 2 : tcp + 4])}
    if _PORT not in ports:
        return None
    payload = packet[tcp + (packet[tcp + 12] >> 4) * 4 : int.from_bytes(packet[2:4])]
    return Segment(IPv4Address(packet[12:16]), IPv4Address(packet[16:20]), payload)


def announced(payload: bytes) -> Iterator[IPv4Network]:
    """Yield the prefixes that the UPDATE messages in a segment's payload announce."""
    while payload.startswith(_MARKER) and len(payload) >= _HEADER:
        length = int.from_bytes(payload[16:18])
        if payload[18] == _UPDATE and _HEADER <= length <= len(payload):
            yield from _nlri(payload[_HEADER:length])
        payload = payload[max(length, _HEADER) :]


def _nlri(body: bytes) -> Iterator[IPv4Network]:
    withdrawn = 2 + int.from_bytes(body[:2])
    attributes = int.from_bytes(body[withdrawn : withdrawn + 2])
    nlri = body[withdrawn + 2 + attributes :]
    while nlri:
        size = (nlri[0] + 7) // 8
        yield IPv4Network((nlri[1 : 1 + size].ljust(4, b"\0"), nlri[0]))
        nlri = nlri[1 + size :]
