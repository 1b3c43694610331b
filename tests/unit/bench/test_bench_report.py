from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.figures import Attach, Audit, Route, Summary
from tests.bench.report import BEGIN, END, Report, write


def attach(scale: float) -> Attach:
    summary = Summary(10 * scale, 20 * scale, 200)
    return Attach(summary, summary, summary, summary, 100 / scale, 50 / scale)


@pytest.fixture
def report() -> Report:
    summary = Summary(2, 3, 100)
    return Report(
        machine={"kernel": "6.1"},
        attach={"bridge": attach(1), "routed": attach(0.5)},
        routes={"routed": Route(summary, summary, Summary(12, 15, 100), summary)},
    )


def test_ratios_are_against_the_bridge(report: Report) -> None:
    series, parallel = report.grids()[:2]
    assert series.rows == (
        ("bridge", "10.0 / 20.0", "1.00", "1.00", "10.0 / 20.0", "1.00"),
        ("routed", "5.0 / 10.0", "0.50", "0.50", "5.0 / 10.0", "0.50"),
    )
    assert parallel.rows[1] == ("routed", "5.0 / 10.0", "200", "2.00", "5.0 / 10.0", "100", "2.00")


def test_an_audit_has_a_row_per_fabric(report: Report) -> None:
    audited = replace(report, audits={10: Audit(10120, 11480, 0.2, 0.15, 0.3, 22.4)})
    grid = next(grid for grid in audited.grids() if "Audit" in grid.title)
    assert grid.rows == (("10", "10120", "11480", "0.30", "0.15", "15.0", "0.20", "22"),)
    assert "### Audit" in audited.markdown()


def test_goals_stand_beside_the_figures(report: Report) -> None:
    assert [row[1:] for row in report.grids()[-1].rows] == [
        ("≤ 0.6", "0.50", "met"),
        ("≤ 1", "0.50", "met"),
        ("≥ 1.5", "2.00", "met"),
        ("≤ 10", "12.00", "missed"),
    ]


def test_json_holds_everything(report: Report) -> None:
    document = json.loads(report.json())
    assert document["machine"] == {"kernel": "6.1"}
    assert document["attach"]["routed"]["add"] == {"p50": 5.0, "p99": 10.0, "count": 200}
    assert document["routes"]["routed"]["wire"]["p50"] == 12
    assert [goal["met"] for goal in document["goals"]] == [True, True, True, False]


def test_only_what_is_between_the_markers_is_replaced(report: Report, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"# Before\n{BEGIN}\nold figures\n{END}\nafter\n")
    write(document, report)
    text = document.read_text()
    assert text.startswith(f"# Before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old figures" not in text
    assert "- kernel: 6.1" in text
    assert "| routed | 5.0 / 10.0 | 0.50 | 0.50 | 5.0 / 10.0 | 0.50 |" in text


def test_writing_again_changes_nothing(report: Report, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"{BEGIN}\n{END}")
    write(document, report)
    once = document.read_text()
    write(document, report)
    assert document.read_text() == once


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_document_without_markers_is_left_alone(report: Report, tmp_path: Path, text: str) -> None:
    document = tmp_path / "performance.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="does not hold"):
        write(document, report)
    assert document.read_text() == text
