"""What came and what went from look to look. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from routed.audit.model import Audit, Finding
from routed.audit.report.baseline import missed
from routed.audit.report.summary import key


@dataclass(frozen=True, slots=True)
class Changes:
    """One look after others."""

    came: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    standing: Mapping[str, Finding]
    """By key: what is wrong as far as known; also what this look could not see and an earlier one saw."""


def changes(standing: Mapping[str, Finding], audit: Audit) -> Changes:
    """Return how a look differs from what stood before it."""
    now = {key(finding): finding for finding in audit.findings}
    accepted = {key(finding) for finding in audit.accepted}
    before = {old: finding for old, finding in standing.items() if old not in accepted}
    gone = missed(before, audit).gone
    return Changes(
        came=tuple(finding for new, finding in now.items() if new not in before),
        gone=tuple(before[old] for old in gone),
        standing={old: finding for old, finding in before.items() if old not in gone} | now,
    )
