"""Netlink messages packed by hand, for what pyroute2 has no words for: flower, ipvlan's flags, RDMA devices. Pure.

Source: netlink(7).
"""

from __future__ import annotations

import struct
import sys

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
NLM_F_REQUEST = 0x001


def attribute(kind: int, *payload: bytes) -> bytes:
    """Return an attribute, padded; what it holds may be attributes."""
    body = b"".join(payload)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(body), kind) + body + bytes(-len(body) % 4)


def number(value: int, size: int = 4) -> bytes:
    """Return a number as this machine writes it."""
    return value.to_bytes(size, sys.byteorder)


def message(kind: int, flags: int, *parts: bytes, sequence: int = 0) -> bytes:
    """Return a whole request; whoever sends it may still have to give it its sequence number."""
    body = b"".join(parts)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body
