"""What came and what went from look to look. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from routed.audit.compare.faults import worst_first
from routed.audit.model import Audit, Finding
from routed.audit.report.baseline import missed
from routed.audit.report.singles import narrowed, singles


@dataclass(frozen=True, slots=True)
class Changes:
    """One look after others."""

    came: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    standing: Mapping[str, Finding]
    """By single fault: what is wrong as far as known; also what this look could not see and an earlier one saw."""


def changes(standing: Mapping[str, Finding], audit: Audit) -> Changes:
    """Return how a look differs from what stood before it."""
    now = {one: finding for finding in audit.findings for one in singles(finding)}
    accepted = frozenset(one for finding in audit.accepted for one in singles(finding))
    before = {old: finding for old, finding in standing.items() if old not in accepted}
    gone = frozenset(missed(before, audit).gone)
    return Changes(
        came=tuple(_narrowed({one: now[one] for one in now.keys() - before.keys()}, "new")),
        gone=tuple(_narrowed({one: before[one] for one in gone}, "gone")),
        standing={old: finding for old, finding in before.items() if old not in gone} | now,
    )


def _narrowed(faults: Mapping[str, Finding], word: str) -> Iterator[Finding]:
    """Yield the findings of these faults, worst first, each of these faults alone."""
    findings = {id(finding): finding for finding in faults.values()}
    for finding in sorted(findings.values(), key=worst_first):
        yield narrowed(finding, faults.keys(), word)
