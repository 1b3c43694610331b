"""An audit in numbers and in one line, its exit status, and text that is safe to print. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from routed.audit.ages import ago
from routed.audit.model import Audit, Finding, Kind, Severity


class Verdict(StrEnum):
    """What an audit means as a whole."""

    CLEAN = "clean"
    FINDINGS = "findings"
    """Also when something could not be observed: what was found is certain."""
    BLIND = "blind"
    """Nothing was found, but something could not be observed."""


class SeverityName(StrEnum):
    """How bad a finding is, as people and machines read it."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


_NAMED = 3
EXIT_STATUS = {Verdict.CLEAN: 0, Verdict.FINDINGS: 1, Verdict.BLIND: 3}


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the summary line."""

    verdict: Verdict
    addresses: int
    racks: int
    tors: int
    tors_observed: int
    findings: int
    """Without `unobserved`."""
    critical: int
    warning: int
    note: int
    unobserved: int
    accepted: int


def summarize(audit: Audit) -> Summary:
    """Return an audit's numbers."""
    found = [finding for finding in audit.findings if finding.kind is not Kind.UNOBSERVED]
    severities = Counter(finding.severity for finding in found)
    tors = [count for rack in audit.racks for count in rack.host_routes.values()]
    return Summary(
        verdict=judge(audit.findings),
        addresses=sum(len(rack.holdings) for rack in audit.racks),
        racks=len(audit.racks),
        tors=len(tors),
        tors_observed=sum(count is not None for count in tors),
        findings=len(found),
        critical=severities[Severity.CRITICAL],
        warning=severities[Severity.WARNING],
        note=severities[Severity.NOTE],
        unobserved=len(audit.findings) - len(found),
        accepted=len(audit.accepted),
    )


def judge(findings: Iterable[Finding]) -> Verdict:
    """Return what findings mean together: what was found counts, whatever else could not be observed."""
    kinds = {finding.kind for finding in findings}
    if kinds - {Kind.UNOBSERVED}:
        return Verdict.FINDINGS
    return Verdict.BLIND if kinds else Verdict.CLEAN


def sentence(summary: Summary) -> str:
    """Return ``1,012 addresses in 2 racks, 4 ToRs, 2 findings: 1 critical, 1 warning``."""
    seen = "" if summary.tors_observed == summary.tors else f"{summary.tors_observed:,} of "
    parts = [
        f"{counted(summary.addresses, 'address', 'addresses')} in {counted(summary.racks, 'rack')}",
        f"{seen}{counted(summary.tors, 'ToR')}",
        _found(summary),
    ]
    if summary.unobserved:
        parts.append(f"{summary.unobserved:,} could not be observed")
    if summary.accepted:
        parts.append(f"{summary.accepted:,} accepted by the baseline")
    return ", ".join(parts)


def recordings(audit: Audit) -> str:
    """Return ``not live: r1a (3 days ago), s11 (2 hours ago)``; empty when everything is."""
    oldest = sorted(audit.recorded.items(), key=lambda item: item[1])
    named = ", ".join(f"{printable(name)} ({ago(audit.at - at)})" for name, at in oldest[:_NAMED])
    more = f" and {len(oldest) - _NAMED:,} more" if len(oldest) > _NAMED else ""
    return f"not live: {named}{more}; what has changed since shows as findings" if oldest else ""


def _found(summary: Summary) -> str:
    if not summary.findings:
        return "no findings"
    counts = ((summary.critical, "critical"), (summary.warning, "warning"), (summary.note, "note"))
    return f"{counted(summary.findings, 'finding')}: " + ", ".join(f"{n:,} {word}" for n, word in counts if n)


def counted(number: int, word: str, words: str = "") -> str:
    """Return ``1 rack``, ``1,012 racks``."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def printable(text: str) -> str:
    """Return text without what a terminal, a line or a reader's eye would obey: names come from others."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def key(finding: Finding) -> str:
    """Return a finding's key as baselines and machines have it."""
    return printable(finding.key).strip()


def severity_name(severity: Severity) -> SeverityName:
    """Return a severity's name."""
    return SeverityName[severity.name]


def headline(finding: Finding) -> str:
    """Return a finding's sentence, which always names its subject."""
    text = finding.text if finding.subject in finding.text else f"{finding.subject}: {finding.text}"
    return printable(text)


def places(where: Iterable[str]) -> str:
    """Return ``r1a, r1b``."""
    return printable(", ".join(where))
