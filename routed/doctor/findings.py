"""What the doctor says: one finding per thing looked at, and what all of them mean together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is, from best to worst."""

    OK = "ok"
    WARNING = "warning"
    """Works, but not as well as it could."""
    UNKNOWN = "unknown"
    """Could not be observed."""
    ERROR = "error"
    """Pods on this server suffer, or will."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one thing, and one line about what to do."""

    level: Level
    check: str
    """A row of docs/doctor.md, and what it was looked at: ``member etha``."""
    found: str
    advice: str = ""
    """Empty when there is nothing to do."""


def ok(check: str, found: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Level.OK, check, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return that something could be better."""
    return Finding(Level.WARNING, check, found, advice)


def unknown(check: str, found: str, advice: str) -> Finding:
    """Return that something could not be observed."""
    return Finding(Level.UNKNOWN, check, found, advice)


def error(check: str, found: str, advice: str) -> Finding:
    """Return that something is wrong."""
    return Finding(Level.ERROR, check, found, advice)


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 1 when something is wrong, else 3 when something could not be observed, else 0; warnings are fine."""
    levels = {finding.level for finding in findings}
    if Level.ERROR in levels:
        return 1
    return 3 if Level.UNKNOWN in levels else 0
