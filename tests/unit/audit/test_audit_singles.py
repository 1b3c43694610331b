"""Baselines and `watch` go by addresses, however many others have the same fault at the moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.model import Audit, Finding, SwitchView
from routed.audit.report import baseline
from routed.audit.report.changes import changes
from routed.audit.report.singles import joined, split
from tests.fixtures import audits
from tests.golden.audits import CLEAN

PLAN = audits.plan(servers=1)
A, B = (tor.name for tor in PLAN.rack.tors)
RACK = audits.healthy(PLAN, 10)
PODS = audits.addresses(PLAN, 10)


def lacking(*pods: int, tors: tuple[str, ...] = (A,)) -> Audit:
    """Return an audit in which ToRs lack the routes of these pods: more than three are one finding."""
    view = RACK
    for tor in tors:
        view = audits.with_tor(view, tor, audits.without(*(PODS[at] for at in pods)))
    return replace(CLEAN, findings=compare_rack(view).findings)


def known(audit: Audit, path: Path) -> tuple[str, ...]:
    baseline.write(path / "known.txt", audit)
    return baseline.read(path / "known.txt")


def subjects(found: tuple[Finding, ...]) -> list[str]:
    return [finding.subject for finding in found]


def test_a_baseline_has_a_line_per_address_with_all_its_places(tmp_path: Path) -> None:
    many = lacking(0, 1, 2, 3, tors=(A, B))
    assert len(many.findings) == 1
    assert known(many, tmp_path) == tuple(sorted(f"missing r1 {PODS[at]} {A},{B}" for at in range(4)))


def test_what_is_accepted_stays_accepted_however_it_is_grouped(tmp_path: Path) -> None:
    group, few = lacking(0, 1, 2, 3), lacking(0, 1, 2)
    assert (len(group.findings), len(few.findings)) == (1, 3)
    by_group, by_few = known(group, tmp_path), known(few, tmp_path)
    assert baseline.accept(few, by_group).findings == ()
    left = baseline.accept(group, by_few)
    (new,), (old,) = left.findings, left.accepted
    assert new.text.endswith(f"; not accepted: {PODS[3]} on {A}")
    assert old.text.endswith(f"; accepted: {PODS[0]} on {A}, {PODS[1]} on {A}, {PODS[2]} on {A}")
    assert baseline.missed(by_few, left) == baseline.Missed((), ())
    assert baseline.missed(by_group, few).gone == (f"missing r1 {PODS[3]} {A}",)


def test_what_was_accepted_twice_is_written_as_it_was(tmp_path: Path) -> None:
    group, few = lacking(0, 1, 2, 3), lacking(0, 1, 2)
    partly = baseline.accept(group, known(few, tmp_path))
    assert known(partly, tmp_path) == known(group, tmp_path)


def test_an_accepted_fault_that_spreads_is_new_where_it_is_new(tmp_path: Path) -> None:
    both = baseline.accept(lacking(0, tors=(A, B)), known(lacking(0), tmp_path))
    assert [finding.text.rpartition("; ")[2] for finding in both.findings] == [f"not accepted: {PODS[0]} on {B}"]
    assert baseline.accept(lacking(0), known(lacking(0, tors=(A, B)), tmp_path)).findings == ()


def test_a_file_that_lists_a_group_still_accepts_it() -> None:
    group = lacking(0, 1, 2, 3)
    assert baseline.accept(group, [group.findings[0].key]).findings == ()
    assert baseline.missed([group.findings[0].key], group).gone == ()


def test_watch_tells_of_addresses_and_not_of_groups() -> None:
    few = changes({}, lacking(0, 1, 2))
    grown = changes(few.standing, lacking(0, 1, 2, 3))
    assert [finding.text.rpartition("; ")[2] for finding in grown.came] == [f"new: {PODS[3]} on {A}"]
    assert grown.gone == ()
    same = changes(grown.standing, lacking(0, 1, 2, 3))
    assert (same.came, same.gone) == ((), ())
    shrunk = changes(same.standing, lacking(0, 1, 2))
    assert shrunk.came == ()
    assert [finding.text.rpartition("; ")[2] for finding in shrunk.gone] == [f"gone: {PODS[3]} on {A}"]
    over = changes(shrunk.standing, CLEAN)
    assert subjects(over.gone) == [str(PODS[at]) for at in range(3)]
    assert over.standing == {}


def test_a_group_that_comes_or_goes_as_a_whole_is_told_as_one() -> None:
    group = lacking(0, 1, 2, 3, 4)
    came = changes({}, group)
    assert came.came == group.findings
    assert changes(came.standing, CLEAN).gone == group.findings


def test_pools_that_a_spine_lacks_are_accepted_one_by_one(tmp_path: Path) -> None:
    plans = [audits.plan(number, servers=1, pools=3) for number in (1, 2)]
    results = [compare_rack(audits.healthy(each, 3 * 253, others=plans), PoolMap(plans), low=1.0) for each in plans]

    def without(count: int) -> Audit:
        gone = sorted(pool.prefix for each in plans for pool in each.pools)[:count]
        seen = audits.spine("sp1", plans)
        spine = SwitchView("sp1", tuple(route for route in seen.routes if route.prefix not in gone))
        return replace(CLEAN, findings=tuple(compare_fabric(plans, results, {"sp1": spine})))

    many, few = without(4), without(3)
    assert (len(many.findings), len(few.findings)) == (1, 3)
    assert baseline.accept(few, known(many, tmp_path)).findings == ()
    assert baseline.missed(known(few, tmp_path), many).gone == ()


def test_keys_without_a_place_stay_whole() -> None:
    pool = "pool-low r1 10.101.0.0/24"
    assert split(pool) == {pool}
    assert joined([pool, "missing r1 10.101.0.2 b", "missing r1 10.101.0.2 a"]).keys() == {
        pool,
        "missing r1 10.101.0.2 a,b",
    }
