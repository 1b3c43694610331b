"""Cookies: the ownership mark that every flow carries, and whose flow it is.

``0x5652 | schema (16 bits) | object (32 bits)``; object 0 is the base pipeline, object n the attachment in slot n - 1.
The schema grows when the meaning of flows changes, so that a newer agent sees what an older one left as strays.
"""

from __future__ import annotations

MAGIC = 0x5652
SCHEMA = 1
_PREFIX = MAGIC << 48 | SCHEMA << 32

BASE = _PREFIX
"""Cookie of everything that exists once per bridge."""


def of_slot(slot: int) -> int:
    """Return the cookie of the attachment in a slot."""
    return _PREFIX | slot + 1


def slot_of(cookie: int) -> int | None:
    """Return the slot that a cookie stands for; None for the base pipeline's and for what is not ours."""
    if cookie & ~0xFFFF_FFFF != _PREFIX or cookie == BASE:
        return None
    return (cookie & 0xFFFF_FFFF) - 1
