"""An audit as JSON, CSV and JUnit. The JSON is `Document`, whose schema docs/audit.schema.json has; VERSION counts it.

Keys are added without a new version; readers ignore those that they do not know. A key that goes or changes its meaning
is a new version.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from pydantic import BaseModel, ConfigDict, Field

from routed.audit.model import Audit, Finding, Kind, PoolSummary, RackSummary
from routed.audit.report.singles import joined, singles
from routed.audit.report.summary import (
    EXIT_STATUS,
    SeverityName,
    Verdict,
    headline,
    key,
    places,
    printable,
    severity_name,
    summarize,
)

VERSION: Literal[1] = 1
_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for a formula at the beginning of a cell."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class EvidenceRecord(_Record):
    """What one plane says at one place about a finding's subject."""

    plane: str
    """intended, announced, learned, installed, beyond or plan."""
    where: str
    """A server or switch."""
    says: str


class FindingRecord(_Record):
    """One thing that is wrong."""

    key: str
    """Equal for equal findings, from run to run."""
    keys: tuple[str, ...]
    """Of the single faults that it stands for, address by address and place by place: equal from run to run, however
    they are grouped; what a baseline lists."""
    kind: Kind
    """docs/audit.md has a section for each."""
    severity: SeverityName
    rack: str
    """Empty when no rack is concerned."""
    subject: str
    """The address, prefix, switch or server that it is about."""
    where: tuple[str, ...]
    """Servers and switches where it shows."""
    text: str
    """One sentence."""
    cause: str
    """The likely one, or empty."""
    next: str
    """The command to run next, or what to do."""
    evidence: tuple[EvidenceRecord, ...]


class HoldingRecord(_Record):
    """Who has an address."""

    address: IPv4Address | IPv6Address
    server: str
    pod: str
    """namespace/name, or empty when unknown."""
    announce: bool
    """False while no route should exist."""


class PoolRecord(_Record):
    """How full a pool is."""

    prefix: IPv4Network | IPv6Network
    capacity: int
    """How many addresses pods can get."""
    used: int | None
    """null where nobody could say."""


class RackRecord(_Record):
    """One rack."""

    rack: str
    pools: tuple[PoolRecord, ...]
    host_routes: dict[str, int | None]
    """By ToR: host routes of the rack's pools that it selected; null where it could not be observed."""
    holdings: tuple[HoldingRecord, ...] | None
    """Who has what; null but in the output of `routed audit racks`."""


class SummaryRecord(_Record):
    """The numbers of the summary line."""

    addresses: int
    racks: int
    tors: int
    tors_observed: int
    findings: int
    """Without those of the kind `unobserved`, and without accepted ones."""
    critical: int
    warning: int
    note: int
    unobserved: int
    accepted: int


class Document(_Record):
    """The output of `routed audit --output json`."""

    version: Literal[1] = VERSION
    """Of this schema."""
    at: datetime
    """When the audit began, UTC."""
    took_s: float
    observed: int
    """How many sources answered: switches, agents, the plan's."""
    verdict: Verdict
    exit_status: Annotated[int, Field(ge=0, le=3)]
    summary: SummaryRecord
    racks: tuple[RackRecord, ...]
    findings: tuple[FindingRecord, ...]
    """Worst first, then by rack and subject."""
    accepted: tuple[FindingRecord, ...]
    """Findings that a baseline accepts; they count for nothing."""
    recorded: dict[str, datetime]
    """Servers and switches that were not asked but read from older recordings, and of when those are."""


def document(audit: Audit, *, holdings: bool = False) -> Document:
    """Return an audit as its JSON shows it, with or without who has what."""
    summary = summarize(audit)
    return Document(
        at=audit.at,
        took_s=round(audit.took_s, 3),
        observed=audit.observed,
        verdict=summary.verdict,
        exit_status=EXIT_STATUS[summary.verdict],
        summary=SummaryRecord.model_validate(summary),
        racks=tuple(_rack(rack, holdings=holdings) for rack in audit.racks),
        findings=tuple(_finding(finding) for finding in audit.findings),
        accepted=tuple(_finding(finding) for finding in audit.accepted),
        recorded=dict(audit.recorded),
    )


def to_json(audit: Audit, *, holdings: bool = False) -> str:
    """Return the document as JSON text."""
    return document(audit, holdings=holdings).model_dump_json(indent=2)


def schema_text() -> str:
    """Return the JSON Schema of the document (2020-12), as docs/audit.schema.json has it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "routed audit"}
    return json.dumps(Document.model_json_schema(mode="serialization") | dialect, indent=2) + "\n"


def _rack(rack: RackSummary, *, holdings: bool) -> RackRecord:
    return RackRecord(
        rack=rack.rack,
        pools=tuple(PoolRecord.model_validate(pool) for pool in rack.pools),
        host_routes=dict(rack.host_routes),
        holdings=tuple(HoldingRecord.model_validate(holding) for holding in rack.holdings) if holdings else None,
    )


def _finding(finding: Finding) -> FindingRecord:
    return FindingRecord(
        key=key(finding),
        keys=tuple(sorted(joined(singles(finding)))),
        kind=finding.kind,
        severity=severity_name(finding.severity),
        rack=finding.rack,
        subject=finding.subject,
        where=finding.where,
        text=finding.text,
        cause=finding.cause,
        next=finding.next,
        evidence=tuple(EvidenceRecord.model_validate(evidence) for evidence in finding.evidence),
    )


# ---- CSV (RFC 4180)


def to_csv(audit: Audit) -> str:
    """Return a line per finding, accepted ones last."""
    columns = ("severity", "kind", "rack", "subject", "where", "text", "cause", "next", "evidence", "key", "accepted")
    found = ((finding, "no") for finding in audit.findings)
    accepted = ((finding, "yes") for finding in audit.accepted)
    return _csv(columns, (_cells(finding, word) for finding, word in (*found, *accepted)))


def racks_to_csv(racks: Iterable[RackSummary]) -> str:
    """Return a line per pool; what nobody could say is empty."""
    columns = ("rack", "prefix", "capacity", "used", "free")
    return _csv(columns, ((rack.rack, *_usage(pool)) for rack in racks for pool in rack.pools))


def _usage(pool: PoolSummary) -> tuple[str, ...]:
    used = () if pool.used is None else (str(pool.used), str(max(pool.capacity - pool.used, 0)))
    return str(pool.prefix), str(pool.capacity), *(used or ("", ""))


def _cells(finding: Finding, accepted: str) -> tuple[str, ...]:
    evidence = "; ".join(f"{each.plane} {each.where}: {each.says}" for each in finding.evidence)
    where, severity = " ".join(finding.where), severity_name(finding.severity)
    facts = (severity, finding.kind, finding.rack, finding.subject, where)
    return *facts, finding.text, finding.cause, finding.next, evidence, key(finding), accepted


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_inert(cell) for cell in row] for row in rows)
    return text.getvalue()


def _inert(cell: str) -> str:
    """Return text that no spreadsheet takes for a formula: names come from others."""
    cell = printable(cell)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


# ---- JUnit


def to_junit(audit: Audit) -> str:
    """Return a suite per rack, in it a failed test per finding, and a test for each kind of finding without one.

    What could not be observed is an error; beside it, a kind without findings was not tested: it is skipped.
    """
    report = JUnitXml("routed audit")
    for rack in dict.fromkeys((*(rack.rack for rack in audit.racks), *(finding.rack for finding in audit.findings))):
        suite = TestSuite(printable(rack) or "fabric")
        suite.timestamp = audit.at.isoformat()
        suite.add_testcases(list(_tests(audit, rack)))
        report.add_testsuite(suite)
    report.time = round(audit.took_s, 3)
    text = io.BytesIO()
    report.write(text)
    return text.getvalue().decode()


def _tests(audit: Audit, rack: str) -> Iterator[TestCase]:
    name = f"routed.audit.{printable(rack) or 'fabric'}"
    found = [finding for finding in audit.findings if finding.rack == rack]
    for finding in found:
        outcome = Error if finding.kind is Kind.UNOBSERVED else Failure
        yield _test(name, finding, outcome(headline(finding), severity_name(finding.severity)), _details(finding))
    for finding in audit.accepted:
        if finding.rack == rack:
            yield _test(name, finding, Skipped(f"accepted: {headline(finding)}"))
    kinds = {finding.kind for finding in found}
    for kind in Kind if rack else ():
        if kind not in kinds:
            test = TestCase(kind.value, name)
            if Kind.UNOBSERVED in kinds:
                test.result = [Skipped("not everything could be observed")]
            yield test


def _test(name: str, finding: Finding, outcome: Error | Failure | Skipped, details: str = "") -> TestCase:
    subject = printable(f"{finding.kind} {finding.subject}")
    test = TestCase(f"{subject} at {places(finding.where)}" if finding.where else subject, name)
    outcome.text = details
    test.result = [outcome]
    return test


def _details(finding: Finding) -> str:
    evidence = (f"{each.plane} {each.where}: {each.says}" for each in finding.evidence)
    cause = (f"likely cause: {finding.cause}",) if finding.cause else ()
    return "\n".join(printable(line) for line in (*evidence, *cause, f"next: {finding.next}"))
