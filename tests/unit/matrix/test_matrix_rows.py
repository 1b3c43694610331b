from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.matrix.catalog import EVENTS, LINK_CUT
from tests.lab.matrix.model import HEALS, NONE_LOST, Budget, Detection, Detector, Row, worst
from tests.lab.matrix.report import BEGIN, END, Report, write
from tests.lab.matrix.traffic import DIRECTIONS, FABRIC, Loss

NOTHING = Loss(flows=12, hit=0, packets=0, worst_ms=0, open=False)
TIMES = {"carrier": 100.0, "probe": 700.0}


def lost(worst_ms: float, *, flows_hit: int = 6, still: bool = False) -> Loss:
    return Loss(flows=12, hit=flows_hit, packets=int(worst_ms / 10) * flows_hit, worst_ms=worst_ms, open=still)


def row(budget: Budget = HEALS, lost_some: Mapping[str, Loss] | None = None) -> Row:
    losses = lost_some or {}
    return Row(
        event="link-cut",
        title="cable to ToR A cut",
        losses={name: losses.get(name, NOTHING) for name in DIRECTIONS},
        healed=not any(loss.open for loss in losses.values()),
        took_s=0.1,
        budget=budget,
    )


def test_a_single_packet_breaks_a_promise_of_none_but_not_one_of_the_fabrics_own() -> None:
    assert row(NONE_LOST).met(TIMES)
    assert not row(NONE_LOST, {"rack_out": lost(10, flows_hit=1)}).met(TIMES)
    assert row(NONE_LOST, {"host": lost(100)}).met(TIMES), "nobody promised anything for the server's own address"


def test_a_detectors_budget_is_half_as_much_again_and_a_packet() -> None:
    budget = Budget(detector=Detector.CARRIER)
    assert budget.limit_ms(TIMES) == 160
    assert row(budget, {"in": lost(160)}).met(TIMES)
    assert not row(budget, {"in": lost(161)}).met(TIMES)
    assert budget.text(TIMES) == "≤ 160 ms (carrier times 1.5)"


def test_what_never_ends_is_missed_whatever_the_budget() -> None:
    for budget in (HEALS, Budget(within_s=60), Budget(detector=Detector.PROBE)):
        assert not row(budget, {"out": lost(20, still=True)}).met(TIMES)


def test_only_the_named_directions_count() -> None:
    budget = Budget(packets=0, directions=("bystander",))
    dark = Row(
        "server-off", "both cables cut", {"in": lost(9000, still=True), "bystander": NOTHING}, True, 1, budget=budget
    )
    assert dark.met(TIMES)


def test_a_control_is_as_it_should_be_when_it_bites() -> None:
    control = Row("link-cut", "no steering", {}, healed=False, took_s=1, control=True, bites=True)
    assert control.met(TIMES)
    assert not Row("link-cut", "no steering", {}, healed=True, took_s=1, control=True, bites=False).met(TIMES)


def test_of_several_runs_the_worst_counts() -> None:
    seen: list[dict[str, Loss]] = [
        {"in": lost(100)},
        {"in": lost(30), "out": lost(20)},
        {"in": lost(50, still=True)},
    ]
    runs = [row(lost_some=losses) for losses in seen]
    together = worst(runs)
    assert together.runs == 3
    assert not together.healed
    assert together.losses["in"].worst_ms == 50, "what never ended is worse than what took long"
    assert together.losses["out"].worst_ms == 20


@pytest.fixture
def report() -> Report:
    control = Row(
        "link-cut",
        "cable cut, no steering",
        {"in": lost(9000, still=True)},
        healed=False,
        took_s=1,
        control=True,
        bites=True,
    )
    rows = [row(Budget(detector=Detector.CARRIER), {"in": lost(120), FABRIC: lost(170)}), control]
    share = {"etha": {"rx": 0.4, "tx": 0.5}}
    return Report({"kernel": "6.1"}, Detection(TIMES, {"carrier lost": 0.7}), rows, share)


def test_the_document_has_every_row_with_its_verdict(report: Report) -> None:
    document = json.loads(json.dumps(report.document()))
    assert document["schema"] == 1
    assert [(found["verdict"], found["met"], found["limit_ms"]) for found in document["rows"]] == [
        ("met", True, 160),
        ("bites", True, None),
    ]
    assert document["rows"][0]["losses"]["in"] == {
        "flows": 12, "hit": 6, "packets": 72, "worst_ms": 120, "open": False
    }  # fmt: skip
    assert report.missed == []


def test_the_page_gets_the_figures_between_its_markers_and_nothing_else_changes(tmp_path: Path, report: Report) -> None:
    page = tmp_path / "matrix.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, report, EVENTS)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| cable to ToR A cut | 120 ms (6/12, 72 pkt) |" in text
    assert "*control:* cable cut, no steering | >9000 ms" in text
    assert json.loads(page.with_suffix(".json").read_text())["schema"] == 1


def test_every_event_has_a_name_of_its_own_and_steps_too() -> None:
    assert len({event.name for event in EVENTS}) == len(EVENTS)
    titles = [(event.name, step.title) for event in EVENTS for step in event.steps]
    assert len(set(titles)) == len(titles)
    assert LINK_CUT.controls, "what saves it is shown to be what saves it"
