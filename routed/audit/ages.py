"""How people say how old something is. Pure."""

from __future__ import annotations

from datetime import timedelta

_UNITS = ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"))


def ago(age: timedelta) -> str:
    """Return ``3 days ago``, rounded down; what is younger than a minute is ``just now``."""
    for unit, word in _UNITS:
        if count := age // unit:
            return f"{count} {word}{'' if count == 1 else 's'} ago"
    return "just now"
