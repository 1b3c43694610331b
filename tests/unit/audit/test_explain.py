"""The story of one address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from routed.audit.explain import Story, explain
from routed.audit.model import Holding, Kind, PortView, RackView
from routed.audit.places import Role, locate
from tests.fixtures import audits

PLANS = [audits.plan(number) for number in (1, 2)]
PLAN = PLANS[0]
S1, S2 = PLAN.servers
A, B = (tor.name for tor in PLAN.rack.tors)
ONE = audits.addresses(PLAN, 1)[0]
FREE = PLAN.pools[0].prefix[200]


@pytest.fixture
def rack() -> RackView:
    view = audits.healthy(PLAN, others=PLANS)
    return audits.with_agent(view, S1, ports={ONE: PortView("rt3", 4, "0a:58:00:00:00:01", 7, "ready")})


def story(view: RackView, address: object = ONE) -> Story:
    return explain(ip_address(str(address)), PLANS, view, {"sp1": audits.spine("sp1", PLANS), "sp2": audits.SILENT})


def test_a_pod_is_told_from_top_to_bottom(rack: RackView) -> None:
    told = story(rack)
    assert told.verdict == f"{ONE} is shop/web-0 on {S1}, and reachable by {A} and {B}."
    assert (told.place.role, told.place.rack, told.place.prefix) == (Role.POD, "r1", PLAN.pools[0].prefix)
    assert [holding.pod for holding in told.holdings] == ["shop/web-0"]
    assert told.ports[S1].flows == 7
    assert [(server, route.tor) for server, route in told.announced] == [(S1, A), (S1, B)]
    assert [(seen.switch, len(seen.paths)) for seen in told.tors] == [(A, 1), (B, 1)]
    assert [route.prefix for route in told.beyond[0].shorter] == [PLAN.pools[0].prefix] * 2
    assert told.beyond[1].silent == "no answer within 10 s"
    assert [finding.kind for finding in told.findings] == [Kind.UNOBSERVED]


def test_a_missing_route_is_the_verdict(rack: RackView) -> None:
    told = story(audits.with_tor(rack, A, audits.without(ONE)))
    assert told.verdict.startswith(f"{ONE} (shop/web-0 on {S1}): no route on {A}; half of the traffic")
    assert told.findings[0].kind is Kind.MISSING


def test_one_of_many_is_still_named() -> None:
    view = audits.with_tor(audits.healthy(PLAN, 400), A, audits.without(*audits.addresses(PLAN, 400)))
    assert [finding.subject for finding in story(view).findings if finding.kind is Kind.MISSING] == [str(ONE)]


def test_an_explained_failure_is_noted_and_not_found(rack: RackView) -> None:
    view = audits.cut(rack, S1, A)
    told = explain(ONE, PLANS, view, {})
    assert told.findings == ()
    assert told.notes == (
        f"{S1} does not rely on {A} (no carrier)",
        f"{B} is asked to steer: host routes beyond the rack are meant to be there",
    )
    assert told.verdict == f"{ONE} is shop/web-0 on {S1}, and reachable by {A} and {B}."


def test_a_host_route_beyond_the_rack_is_in_the_story(rack: RackView) -> None:
    spine = audits.spine("sp1", PLANS)
    escaped = replace(spine, routes=(*spine.routes, audits.escaped(PLAN, ONE, A)))
    told = explain(ONE, PLANS, rack, {"sp1": escaped})
    assert [finding.kind for finding in told.findings] == [Kind.BEYOND_RACK]
    other = explain(audits.addresses(PLAN, 2)[1], PLANS, rack, {"sp1": escaped})
    assert other.findings == ()


def test_a_missing_aggregate_is_in_the_story(rack: RackView) -> None:
    spine = audits.spine("sp1", PLANS)
    told = explain(ONE, PLANS, rack, {"sp1": replace(spine, routes=())})
    assert [finding.kind for finding in told.findings] == [Kind.AGGREGATE_MISSING]


def test_a_conflict_of_the_plan_is_in_the_story_of_the_addresses_that_it_is_about(rack: RackView) -> None:
    pool = PLAN.pools[0]
    half = ip_network(f"{pool.prefix.network_address}/25")
    other = replace(PLANS[1], pools=(replace(pool, prefix=half),))
    for address, known in ((ONE, True), (FREE, False)):
        found = explain(address, [PLAN, other], rack, {}).findings
        assert ((Kind.PLAN_CONFLICT, str(half)) in {(one.kind, one.subject) for one in found}) == known


def test_a_free_address_is_free_only_when_everybody_was_asked(rack: RackView) -> None:
    assert story(rack, FREE).verdict.startswith(f"{FREE} is free")
    dark = replace(rack, holdings=audits.SILENT, servers={S1: audits.SILENT})
    assert story(dark, FREE).verdict.startswith("No pod is known to have")
    assert story(dark).verdict == f"{ONE} has a route on {A} and {B}, and nobody could say which pod has it."
    assert story(dark).silent == {S1: "no answer within 10 s", "holdings": "no answer within 10 s"}


def test_a_leak_is_the_verdict_of_an_address_that_nobody_has(rack: RackView) -> None:
    told = story(audits.with_route(rack, A, audits.pod_route(PLAN, Holding(FREE, S1, ""))), FREE)
    assert told.findings[0].kind is Kind.LEAKED
    assert told.holdings == ()


def test_a_foreign_address_is_found(rack: RackView) -> None:
    stray = ip_address("192.0.2.7")
    told = story(audits.with_route(rack, A, audits.pod_route(PLAN, Holding(stray, S1, ""))), stray)
    assert told.findings[0].kind is Kind.FOREIGN


def test_a_draining_server_is_no_fault(rack: RackView) -> None:
    view = audits.with_agent(rack, S1, announced=(), draining=True)
    gone = [holding.address for holding in audits.told(view, S1).holdings]
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.without(*gone))
    assert "is not announced now" in story(view).verdict
    assert f"{S1} drains: its pods are not announced" in story(view).notes


@pytest.mark.parametrize(
    ("address", "role", "name"),
    [
        (PLAN.pools[0].gateway, Role.GATEWAY, ""),
        (PLAN.rack.hosts[0].gateway, Role.GATEWAY, ""),
        (PLAN.pools[1].prefix[255], Role.EDGE, ""),
        (PLAN.servers[S2].addresses[0], Role.SERVER, S2),
        (PLAN.rack.tors[1].address, Role.TOR, B),
        (PLAN.rack.hosts[0].prefix[99], Role.HOSTS, ""),
        (ip_address("192.0.2.1"), Role.OUTSIDE, ""),
        (ip_address("fd00::1"), Role.OUTSIDE, ""),
    ],
    ids=str,
)
def test_every_address_has_a_place_and_a_sentence(address: object, role: Role, name: str) -> None:
    place = locate(ip_address(str(address)), PLANS)
    assert (place.role, place.name) == (role, name)
    told = explain(ip_address(str(address)), PLANS, None, {})
    assert told.verdict.startswith(f"{address} is ")


def test_reservations_and_services_have_their_own_places() -> None:
    pool = replace(PLAN.pools[0], reserved=(PLAN.pools[0].prefix[2], ip_network("10.0.5.8/29")))
    services = replace(PLAN.rack, services=(ip_network("10.96.0.0/16"),))
    plan = replace(PLAN, pools=(pool,), rack=services)
    assert [locate(ip_address(one), [plan]).role for one in ("10.0.5.2", "10.0.5.15", "10.0.5.16", "10.96.0.9")] == [
        Role.RESERVED,
        Role.RESERVED,
        Role.POD,
        Role.SERVICE,
    ]
