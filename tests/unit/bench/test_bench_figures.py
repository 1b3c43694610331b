from __future__ import annotations

import pytest

from tests.bench.figures import Attach, Audit, Goal, Route, Summary, goals


def flat(ms: float) -> Summary:
    return Summary(ms, ms, 2)


def attach(add: Summary, adds_per_s: float) -> Attach:
    return Attach(add, flat(1), flat(1), flat(1), adds_per_s, 1)


def route(wire_ms: float) -> Route:
    return Route(flat(1), flat(1), flat(wire_ms), flat(1))


def test_a_summary_has_the_middle_and_the_tail() -> None:
    summary = Summary.of([float(each) for each in range(101)])
    assert (summary.p50, summary.p99, summary.count) == (50, 99, 101)


def test_goals_compare_ours_with_the_bridge() -> None:
    figures = {"bridge": attach(Summary(20, 60, 9), 80), "routed": attach(Summary(10, 90, 9), 160)}
    found = goals(figures, {"routed": route(4)})
    assert [(goal.figure, goal.met) for goal in found] == [(0.5, True), (1.5, False), (2.0, True), (4, True)]


def test_what_was_not_measured_has_no_goal() -> None:
    assert goals({"bridge": attach(flat(20), 80)}, {"gobgpd": route(1)}) == ()


@pytest.mark.parametrize(("figure", "at_least", "met"), [(2, False, False), (2, True, True), (1, False, True)])
def test_a_goal_knows_its_direction(figure: float, at_least: bool, met: bool) -> None:
    assert Goal("x", figure, 1, at_least=at_least).met is met


def test_only_the_largest_fabric_has_goals() -> None:
    figures = Audit(2, 2, 1.0, 12.0, 31.0, 150.0)
    assert [(goal.figure, goal.met) for goal in goals({}, {}, {1000: figures})] == [(31.0, False), (150.0, True)]
    assert goals({}, {}, {100: figures}) == ()
