"""Cookies: the ownership mark that every flow carries, and whose flow it is.

``0x5652 | schema (16 bits) | object (32 bits)``; object 0 is the base pipeline, slot n's attachment is object n + 1.
The schema grows when the meaning of flows changes, so that a newer agent sees what an older one left as strays.
"""

from __future__ import annotations

MAGIC = 0x5652
SCHEMA = 1
BASE_OBJECT = 0
"""Everything that exists once per bridge."""


def cookie(number: int) -> int:
    """Return the cookie of an object."""
    return MAGIC << 48 | SCHEMA << 32 | number


def object_of(value: int) -> int | None:
    """Return the object that a cookie stands for, None when the cookie is not of this magic and schema."""
    number = value & 0xFFFF_FFFF
    return number if value == cookie(number) else None
