"""What people and machines read of an audit: as reviewed, safe to print, and never more than was seen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from junitparser import Error, Failure, JUnitXml, Skipped, TestSuite
from rich.console import Console, RenderableType

from routed.audit.compare.rack import unobserved
from routed.audit.model import Audit, Finding, Holding, Kind, PoolSummary, RackSummary, Severity, Unobserved
from routed.audit.report import machine, tables
from routed.audit.report.changes import changes
from routed.audit.report.maps import MOST_BLOCKS, Cell, pool_map, trouble
from routed.audit.report.summary import EXIT_STATUS, Verdict, key, sentence, summarize
from tests.golden.audits import CLEAN, DUPLICATE, MISSING, SAMPLE, SCHEMA, TEXTS, UNOBSERVED, golden, hostile

HOSTILE = "=cmd|'\x1b[31m<b>[red]\u202e\n"


def with_findings(*findings: Finding) -> Audit:
    return replace(CLEAN, findings=findings)


# ---- as reviewed


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_as_reviewed(name: str) -> None:
    """After a wanted change: ``python -m tests.golden.audits``, then read the difference."""
    assert TEXTS[name]() == golden(name)


@pytest.mark.parametrize("name", ["findings.txt", "racks.txt", "clean.txt"])
def test_tables_fit_80_columns(name: str) -> None:
    assert all(len(line) <= 80 for line in golden(name).splitlines())


def test_in_a_pipe_a_finding_is_a_line() -> None:
    lines = tables.text(tables.findings(SAMPLE), 10_000).splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(SAMPLE.findings)]] == [
        "critical",
        "critical",
        "warning",
        "warning",
        "unknown",
    ]
    assert not any(line != line.rstrip() for line in lines)


def test_commands_are_not_folded() -> None:
    assert any(line.endswith(MISSING.next) for line in tables.text(tables.details(SAMPLE), 40).splitlines())


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed() -> str:
        out = io.StringIO()
        tables.show(Console(file=out, force_terminal=True, color_system="standard", width=80), tables.racks(SAMPLE))
        return out.getvalue()

    assert "\x1b[31m" in printed() or "\x1b[1;31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in printed()


# ---- what it means


@pytest.mark.parametrize(
    ("findings", "verdict", "status"),
    [
        ((), Verdict.CLEAN, 0),
        ((MISSING,), Verdict.FINDINGS, 1),
        ((replace(MISSING, severity=Severity.NOTE),), Verdict.FINDINGS, 1),
        ((UNOBSERVED,), Verdict.BLIND, 3),
        ((MISSING, UNOBSERVED), Verdict.FINDINGS, 1),
    ],
)
def test_verdict(findings: tuple[Finding, ...], verdict: Verdict, status: int) -> None:
    found = summarize(with_findings(*findings)).verdict
    assert (found, EXIT_STATUS[found]) == (verdict, status)


def test_accepted_findings_count_for_nothing() -> None:
    accepted = replace(CLEAN, accepted=(MISSING, UNOBSERVED))
    assert summarize(accepted).verdict is Verdict.CLEAN
    assert sentence(summarize(accepted)) == "236 addresses in 1 rack, 2 ToRs, no findings, 2 accepted by the baseline"


def test_large_numbers_have_commas() -> None:
    many = replace(CLEAN, racks=CLEAN.racks * 1000)
    assert sentence(summarize(many)).startswith("236,000 addresses in 1,000 racks, 2,000 ToRs")


# ---- maps


def test_a_cell_per_address_and_the_worst_finding_wins() -> None:
    rack, worst = SAMPLE.racks[1], trouble((replace(DUPLICATE, severity=Severity.WARNING), DUPLICATE))
    (block,) = pool_map(rack.pools[1], rack, worst).blocks
    assert len(block.cells) == 256
    assert [block.cells[at] for at in (0, 1, 2, 9, 255)] == [
        Cell.UNUSABLE,
        Cell.UNUSABLE,
        Cell.USED,
        Cell.CRITICAL,
        Cell.UNUSABLE,
    ]
    assert block.cells.count(Cell.FREE) == 253 - 120
    assert block.cells.count(Cell.QUIET) == 1


def test_a_finding_about_a_host_prefix_is_about_its_address() -> None:
    finding = replace(MISSING, subject="10.101.0.7/32")
    assert trouble([finding]) == {ip_address("10.101.0.7"): finding}
    assert trouble([replace(MISSING, subject="10.101.0.0/24"), UNOBSERVED]) == {}


def test_small_pools_end_where_they_end() -> None:
    pool = PoolSummary(ip_network("10.9.0.64/26"), 61, 0)
    (block,) = pool_map(pool, RackSummary("r", (pool,), (), {}), {}).blocks
    assert block.cells == (*[Cell.FREE] * 64, *[Cell.OUTSIDE] * 192)


def test_large_pools_show_where_they_are_used_and_say_what_is_left_out() -> None:
    pool = PoolSummary(ip_network("fd00:9::/64"), 2**64 - 1, 10)
    held = tuple(Holding(ip_address("fd00:9::") + at * 0x10000, "s", "") for at in range(MOST_BLOCKS + 2))
    drawn = pool_map(pool, RackSummary("r", (pool,), held, {}), {})
    assert [str(block.first) for block in drawn.blocks[:3]] == ["fd00:9::", "fd00:9::1:0", "fd00:9::2:0"]
    assert (len(drawn.blocks), drawn.left_out) == (MOST_BLOCKS, 2)


def silent(name: str, reason: str, plane: str = "learned") -> Finding:
    return unobserved("r1", name, plane, Unobserved(reason.format(name)), "try by hand")


@pytest.mark.parametrize("show", [tables.findings, tables.details])
def test_one_reason_is_one_line(show: Callable[[Audit], RenderableType]) -> None:
    lookup, slow = "ssh {0} vtysh: ssh failed: Could not resolve hostname {0}", "ssh {0} vtysh: no answer within 10 s"
    switches = [silent(f"t{number:02}", lookup) for number in range(12)]
    others = [silent("u1", slow), silent("u2", slow), silent("v1", lookup, "announced")]
    text = tables.text(show(with_findings(*switches, *others)), 300)
    first, *rest, summary = (line for line in text.splitlines() if "could not be observed" in line)
    reason = "ssh t00 vtysh: ssh failed: Could not resolve hostname t00"
    assert first.endswith(f"12 switches (t00, t01, t02, ...) could not be observed; first: {reason}")
    assert [line.partition(" could not be observed")[0].split()[-1] for line in rest] == ["u1", "u2", "v1"]
    assert "15 could not be observed" in summary, "each of them counts"
    few = tables.text(show(with_findings(*switches[:3])), 300)
    assert all(f"{name} could not be observed: " in few for name in ("t00", "t01", "t02"))


# ---- machines


@pytest.mark.parametrize("audit", [SAMPLE, CLEAN, hostile(HOSTILE)], ids=["sample", "clean", "hostile"])
@pytest.mark.parametrize("holdings", [False, True])
def test_json_keeps_its_schema(audit: Audit, holdings: bool) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    document = json.loads(machine.to_json(audit, holdings=holdings))
    Draft202012Validator(schema).validate(document)
    assert all((rack["holdings"] is not None) == holdings for rack in document["racks"])
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate(document | {"findings": [{"kind": "unheard-of"}]})


def test_published_schema_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == machine.schema_text()


def test_csv_has_no_formulas_and_a_record_per_finding() -> None:
    rows = list(csv.DictReader(io.StringIO(machine.to_csv(hostile(HOSTILE)), newline="")))
    assert [row["kind"] for row in rows] == ["missing", "unobserved"]
    assert not any(str(cell).startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def suites(audit: Audit) -> dict[str, TestSuite]:
    return {str(suite.name): suite for suite in JUnitXml.fromstring(machine.to_junit(audit).encode())}


def test_junit_fails_per_finding_and_never_passes_what_was_not_seen() -> None:
    found = suites(SAMPLE)
    assert {name: (suite.failures, suite.errors) for name, suite in found.items()} == {"r1": (2, 0), "r2": (2, 1)}
    results = {name: {test.name: [type(result) for result in test.result] for test in found[name]} for name in found}
    assert results["r1"]["missing 10.101.0.23 at r1a"] == [Failure]
    assert results["r1"]["duplicate"] == []
    assert "missing" not in results["r1"]
    assert results["r2"]["unobserved r2b at r2b"] == [Error]
    assert results["r2"]["missing"] == [Skipped]
    assert [] not in results["r2"].values()


def test_junit_of_a_clean_audit_has_passed_tests() -> None:
    (suite,) = suites(CLEAN).values()
    assert (suite.tests, suite.failures, suite.skipped) == (len(Kind), 0, 0)


def test_hostile_names_reach_no_terminal() -> None:
    audit = hostile(HOSTILE)
    shown = (tables.findings(audit), tables.details(audit), tables.racks(audit))
    texts = [tables.text(what, 200) for what in shown] + [machine.to_junit(audit), machine.to_csv(audit)]
    for text in texts:
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[red]" in texts[0], "brackets are text, no markup"


# ---- from look to look


def test_what_comes_and_what_goes() -> None:
    first = changes({}, with_findings(MISSING))
    assert (first.came, first.gone) == ((MISSING,), ())
    same = changes(first.standing, with_findings(replace(MISSING, text="told otherwise")))
    assert (same.came, same.gone) == ((), ())
    gone = changes(same.standing, CLEAN)
    assert (gone.came, [finding.key for finding in gone.gone], gone.standing) == ((), [MISSING.key], {})


def test_what_cannot_be_seen_is_not_gone() -> None:
    dark = replace(UNOBSERVED, rack="r1", subject="r1a", where=("r1a",))
    hidden = changes({key(MISSING): MISSING}, with_findings(dark))
    assert (hidden.came, hidden.gone) == ((dark,), ())
    back = changes(hidden.standing, with_findings(MISSING))
    assert (back.came, back.gone) == ((), (dark,)), "it was never away"
    assert changes({key(MISSING): MISSING}, with_findings(UNOBSERVED)).gone == (MISSING,), "another rack hides nothing"
