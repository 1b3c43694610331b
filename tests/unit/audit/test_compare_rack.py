"""One rack: every fault is found and named, every legitimate state is none."""

from __future__ import annotations

import pytest

from routed.audit.compare import compare_rack
from routed.audit.model import Finding, Kind, RackView, Severity
from tests.fixtures import audits

PLAN = audits.plan()
S1, S2 = PLAN.servers
A, B = (tor.name for tor in PLAN.rack.tors)
ONE, TWO, THREE, FOUR, FIVE, SIX = audits.addresses(PLAN, 6)
FREE = PLAN.pools[0].prefix[200]


@pytest.fixture
def rack() -> RackView:
    return audits.healthy(PLAN)


def found(view: RackView) -> list[Finding]:
    return list(compare_rack(view).findings)


def only(view: RackView) -> Finding:
    (finding,) = found(view)
    return finding


def kinds(view: RackView) -> list[tuple[Kind, str, tuple[str, ...]]]:
    return [(finding.kind, finding.subject, finding.where) for finding in found(view)]


# ---- nothing to report


def test_a_healthy_rack_has_no_findings(rack: RackView) -> None:
    result = compare_rack(rack)
    assert result.findings == ()
    assert result.summary.host_routes == {A: 6, B: 6}
    assert [(pool.capacity, pool.used) for pool in result.summary.pools] == [(253, 6), (253, 0)]
    assert len(result.summary.holdings) == 6


def test_an_empty_rack_has_no_findings() -> None:
    assert found(audits.healthy(PLAN, 0)) == []


@pytest.mark.parametrize("session_up", [True, False])
def test_a_cut_link_is_explained(rack: RackView, session_up: bool) -> None:
    result = compare_rack(audits.cut(rack, S1, A, session_up=session_up))
    assert result.findings == ()
    assert result.steered == {address: {B} for address in (ONE, THREE, FIVE)}
    assert {one.address for one in result.beyond} == {ONE, THREE, FIVE}


def test_a_cut_link_is_explained_by_the_community_when_the_agent_is_silent(rack: RackView) -> None:
    view = audits.with_silent(audits.cut(rack, S1, A), S1)
    assert [finding.kind for finding in found(view)] == [Kind.UNOBSERVED]
    assert compare_rack(view).steered == {address: {B} for address in (ONE, THREE, FIVE)}


# ---- missing


def test_a_route_that_one_tor_lacks_is_missing(rack: RackView) -> None:
    finding = only(audits.with_tor(rack, A, audits.without(ONE)))
    assert (finding.kind, finding.severity, finding.where) == (Kind.MISSING, Severity.CRITICAL, (A,))
    assert finding.subject == str(ONE)
    assert f"shop/web-0 on {S1}" in finding.text
    assert "received-routes" in finding.next
    assert {(one.plane, one.where) for one in finding.evidence} == {
        ("intended", S1),
        ("announced", S1),
        ("learned", A),
        ("learned", B),
    }


def test_a_route_that_both_tors_lack_is_one_finding(rack: RackView) -> None:
    view = audits.with_tor(audits.with_tor(rack, A, audits.without(ONE)), B, audits.without(ONE))
    assert kinds(view) == [(Kind.MISSING, str(ONE), (A, B))]
