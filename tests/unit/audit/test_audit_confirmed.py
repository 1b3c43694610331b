"""What two looks have in common, however many other faults each of them saw beside it."""

from __future__ import annotations

from dataclasses import replace

from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.model import Finding, Kind, RackView, SwitchView
from routed.audit.run import confirmed
from tests.fixtures import audits

PLAN = audits.plan(servers=1)
A, B = (tor.name for tor in PLAN.rack.tors)
RACK = audits.healthy(PLAN, 10)
PODS = audits.addresses(PLAN, 10)


def look(view: RackView, *, low: float = 0.9) -> tuple[Finding, ...]:
    return compare_rack(view, low=low).findings


def lacking(count: int, *tors: str, first: int = 0) -> tuple[Finding, ...]:
    """Return what a look finds when ToRs lack the routes of so many pods."""
    view = RACK
    for tor in tors:
        view = audits.with_tor(view, tor, audits.without(*PODS[first : first + count]))
    return look(view)


def test_faults_that_are_grouped_in_one_look_alone_are_kept() -> None:
    for earlier, later in ((4, 3), (3, 4)):
        before, now = lacking(earlier, A), lacking(later, A)
        assert {finding.key for finding in before}.isdisjoint(finding.key for finding in now)
        assert confirmed(before, now) == list(now)


def test_groups_of_other_addresses_are_in_motion() -> None:
    before, now = lacking(5, A), lacking(5, A, first=5)
    assert [finding.key for finding in before] == [finding.key for finding in now]
    assert confirmed(before, now) == []


def test_a_fault_that_spreads_is_kept_and_one_that_moves_is_not() -> None:
    assert confirmed(lacking(1, A), now := lacking(1, A, B)) == list(now)
    assert confirmed(lacking(1, A), lacking(1, B)) == []


def test_two_faults_of_one_kind_at_one_place_are_both_kept() -> None:
    view = audits.with_tor(RACK, A, audits.at(PODS[0], as_path=(1,), communities=frozenset({"1:2"})))
    both = look(view)
    assert len(both) == 2
    assert confirmed(both, both) == list(both)


def test_a_pool_that_fills_up_between_two_looks_is_reported_full() -> None:
    low = [finding for finding in look(RACK, low=0.01) if finding.kind is Kind.POOL_LOW]
    (full,) = look(audits.healthy(PLAN, 506))
    assert (len(low), full.kind) == (1, Kind.POOL_EXHAUSTED)
    assert confirmed(low, [full]) == [full]


def test_pools_that_a_spine_lacks_are_kept_however_they_are_grouped() -> None:
    plan = audits.plan(servers=1, pools=3)
    other = audits.plan(2, servers=1, pools=3)
    plans = [plan, other]
    pools = PoolMap(plans)
    results = [compare_rack(audits.healthy(each, 3 * 253, others=plans), pools, low=1.0) for each in plans]

    def without(count: int) -> list[Finding]:
        every = sorted(pool.prefix for each in plans for pool in each.pools)
        gone = set(every[:count])
        seen = audits.spine("sp1", plans)
        routes = tuple(route for route in seen.routes if route.prefix not in gone)
        return list(compare_fabric(plans, results, {"sp1": SwitchView("sp1", routes)}))

    many, few = without(4), without(3)
    assert (len(many), len(few)) == (1, 3)
    assert confirmed(many, few) == few
    assert confirmed(few, many) == many
    assert confirmed([replace(one, parts=frozenset()) for one in few], many) == [], "only the parts tell"
