"""All racks and the spines together."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ipam.model import Pool
from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.model import Finding, Kind, RackPlan, RackView, Route, SwitchView, Unobserved
from routed.domain.rack import Rack, Subnet
from routed.domain.workload import host_network
from tests.fixtures import audits

PLANS = [audits.plan(number) for number in (1, 2, 3)]
FIRST, SECOND, _ = PLANS
A, B = (tor.name for tor in FIRST.rack.tors)
S1 = next(iter(FIRST.servers))
ONE, TWO, THREE, FOUR, FIVE, SIX = audits.addresses(FIRST, 6)
ALL_BUT_LAST = FIRST.pools[0].prefix


@pytest.fixture
def views() -> list[RackView]:
    return [audits.healthy(plan, others=PLANS) for plan in PLANS]


@pytest.fixture
def spines() -> dict[str, SwitchView | Unobserved]:
    return {name: audits.spine(name, PLANS) for name in ("sp1", "sp2")}


def found(views: list[RackView], spines: dict[str, SwitchView | Unobserved]) -> list[Finding]:
    pools = PoolMap(PLANS)
    results = [compare_rack(view, pools) for view in views]
    assert [finding for result in results for finding in result.findings] == []
    return list(compare_fabric(PLANS, results, spines))


def kinds(views: list[RackView], spines: dict[str, SwitchView | Unobserved]) -> list[tuple[Kind, str, tuple[str, ...]]]:
    return [(finding.kind, finding.subject, finding.where) for finding in found(views, spines)]


def hear(spines: dict[str, SwitchView | Unobserved], *routes: Route, spine: str = "sp1") -> None:
    seen = spines[spine]
    assert isinstance(seen, SwitchView)
    spines[spine] = replace(seen, routes=(*seen.routes, *routes))


def test_a_healthy_fabric_has_no_findings(views: list[RackView], spines: dict[str, SwitchView | Unobserved]) -> None:
    assert found(views, spines) == []


# ---- beyond the rack


def test_steering_is_explained_on_spines_and_on_the_other_tor(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.cut(views[0], S1, A)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE, FIVE)), spine=spine)
    assert found(views, spines) == []


def test_a_host_route_that_no_failure_explains_is_found_once(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    for spine in spines:
        hear(spines, audits.escaped(FIRST, ONE, A), spine=spine)
    views[0] = audits.with_route(views[0], B, audits.detour(views[0], ONE, A))
    assert kinds(views, spines) == [(Kind.BEYOND_RACK, str(ONE), (B, "sp1", "sp2"))]
    (finding,) = found(views, spines)
    assert A in finding.cause
    assert finding.rack == "r1"


def test_steering_to_one_tor_does_not_explain_what_the_other_lets_out(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.cut(views[0], S1, A)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE, FIVE)), spine=spine)
    hear(spines, audits.escaped(FIRST, ONE, A))
    assert kinds(views, spines) == [(Kind.BEYOND_RACK, str(ONE), ("sp1",))]


def test_a_host_route_in_another_rack_is_found_even_while_steering(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.cut(views[0], S1, A)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE, FIVE)), spine=spine)
    views[1] = audits.with_route(views[1], "r2a", audits.detour(views[0], ONE, B))
    assert kinds(views, spines) == [(Kind.BEYOND_RACK, str(ONE), ("r2a",))]


@pytest.mark.parametrize("silent", [(S1, B), (S1,), (B,)])
def test_steering_that_nobody_could_see_is_not_taken_for_none(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved], silent: tuple[str, ...]
) -> None:
    """The agent says it, or the ToR's own routes; a leak by a ToR that no failure concerns is found all the same."""
    views[0] = audits.with_silent(audits.cut(views[0], S1, A), *silent)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE, FIVE)), spine=spine)
    pools = PoolMap(PLANS)
    results = [compare_rack(view, pools) for view in views]
    assert [one.kind for one in compare_fabric(PLANS, results, spines)] == []
    hear(spines, audits.escaped(FIRST, ONE, A))
    assert [one.kind for one in compare_fabric(PLANS, results, spines)] == [Kind.BEYOND_RACK]


@pytest.mark.parametrize(("drawn", "found_kinds"), [(True, []), (False, [Kind.BEYOND_RACK] * 3)])
def test_two_tors_may_share_an_as_number(*, drawn: bool, found_kinds: list[Kind]) -> None:
    """Both ToRs of a pair do in many fabrics; the second one must not hide the first."""
    plans = [replace(plan, rack=_of_one_asn(plan.rack)) for plan in PLANS]
    views = [audits.healthy(plan, others=plans) for plan in plans]
    if drawn:
        views[0] = audits.cut(views[0], S1, B)
    spines: dict[str, SwitchView | Unobserved] = {name: audits.spine(name, plans) for name in ("sp1", "sp2")}
    for spine in spines:
        hear(spines, *(audits.escaped(plans[0], address, A) for address in (ONE, THREE, FIVE)), spine=spine)
    pools = PoolMap(plans)
    results = [compare_rack(view, pools) for view in views]
    assert [one.kind for one in compare_fabric(plans, results, spines)] == found_kinds


def _of_one_asn(rack: Rack) -> Rack:
    return replace(rack, tors=tuple(replace(tor, asn=rack.tors[0].asn) for tor in rack.tors))


def test_a_policy_that_lets_all_out_is_one_finding(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    hear(spines, *(audits.escaped(FIRST, address, A) for address in (ONE, TWO, THREE, FOUR, FIVE, SIX)))
    assert kinds(views, spines) == [(Kind.BEYOND_RACK, A, ("sp1",))]


def test_steering_that_a_spine_does_not_hear_of_is_missing_there(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.cut(views[0], S1, A)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE)), spine=spine)
    hear(spines, audits.escaped(FIRST, FIVE, B), spine="sp2")
    assert kinds(views, spines) == [(Kind.MISSING, str(FIVE), ("sp1",))]


def test_a_spine_without_a_link_to_the_steering_tor_need_not_hear(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.cut(views[0], S1, A)
    hear(spines, *(audits.escaped(FIRST, address, B) for address in (ONE, THREE, FIVE)), spine="sp2")
    seen = spines["sp1"]
    assert isinstance(seen, SwitchView)
    asn = FIRST.rack.tors[1].asn
    spines["sp1"] = replace(seen, routes=tuple(route for route in seen.routes if route.as_path != (asn,)))
    assert found(views, spines) == []


def test_a_community_that_the_tor_dropped_is_not_reported_at_the_spine_too(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    view = audits.with_tor(audits.cut(views[0], S1, A), B, audits.at(ONE, communities=frozenset()))
    view = audits.with_tor(view, A, audits.without(ONE))  # nobody lets it out any more
    pools = PoolMap(PLANS)
    results = [compare_rack(one, pools) for one in (view, *views[1:])]
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, address, B) for address in (THREE, FIVE)), spine=spine)
    assert [finding.subject for result in results for finding in result.findings] == [str(ONE)]
    assert list(compare_fabric(PLANS, results, spines)) == []


def test_a_server_that_drains_while_it_steers_is_heard_of_nowhere(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    view = audits.with_agent(audits.cut(views[0], S1, A), S1, draining=True, announced=())
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.without(ONE, THREE, FIVE))
    views[0] = view
    assert found(views, spines) == []


# ---- aggregates


def drop(view: SwitchView | Unobserved, *pools: object) -> SwitchView:
    assert isinstance(view, SwitchView)
    return replace(view, routes=tuple(route for route in view.routes if route.prefix not in pools))


def test_a_pool_that_a_spine_does_not_know_is_missing(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    inhabited, empty = (pool.prefix for pool in FIRST.pools)
    spines["sp1"] = drop(spines["sp1"], inhabited, empty)
    assert kinds(views, spines) == [(Kind.AGGREGATE_MISSING, str(inhabited), ("sp1",))]


def test_a_pool_that_its_own_tor_does_not_originate_is_missing_there(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    views[0] = audits.with_tor(views[0], A, lambda route: None if route.prefix == ALL_BUT_LAST else route)
    assert kinds(views, spines) == [(Kind.AGGREGATE_MISSING, str(ALL_BUT_LAST), (A,))]


def test_a_pool_that_other_racks_do_not_know_is_one_finding(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    for place in (1, 2):
        for tor in views[place].tors:
            views[place] = audits.with_tor(
                views[place], tor, lambda route: None if route.prefix == ALL_BUT_LAST else route
            )
    assert kinds(views, spines) == [(Kind.AGGREGATE_MISSING, str(ALL_BUT_LAST), ("r2a", "r2b", "r3a", "r3b"))]


def test_a_shorter_prefix_serves_and_the_default_does_not(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    spines["sp1"] = drop(spines["sp1"], ALL_BUT_LAST)
    for prefix, expected in (("0.0.0.0/0", 1), ("10.0.0.0/16", 0)):
        more = dict(spines)
        hear(more, Route(ip_network(prefix), (), (65000,)))
        assert len(found(views, more)) == expected


def test_a_switch_that_lost_the_fabric_is_one_finding() -> None:
    plans = [audits.plan(number, pools=1) for number in range(1, 7)]
    pools = PoolMap(plans)
    views = [audits.healthy(plan, others=plans) for plan in plans]
    views[0] = audits.with_tor(views[0], A, lambda route: None if route.as_path[:1] == (audits.SPINE_ASN,) else route)
    results = [compare_rack(view, pools) for view in views]
    (finding,) = compare_fabric(plans, results, {"sp1": audits.spine("sp1", plans)})
    assert (finding.kind, finding.subject, finding.where) == (Kind.AGGREGATE_MISSING, A, (A,))
    assert "5 pools" in finding.text


def test_a_tor_that_no_server_relies_on_may_lack_everything(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    for server in FIRST.servers:
        views[0] = audits.cut(views[0], server, A)
    for spine in spines:
        hear(spines, *(audits.escaped(FIRST, one, B) for one in (ONE, TWO, THREE, FOUR, FIVE, SIX)), spine=spine)
    views[0] = audits.with_tor(views[0], A, lambda _: None)
    assert found(views, spines) == []


# ---- not observed


def test_a_silent_spine_is_reported_and_nothing_concluded(views: list[RackView]) -> None:
    assert kinds(views, {"sp1": audits.SILENT}) == [(Kind.UNOBSERVED, "sp1", ("sp1",))]


def test_a_rack_that_was_not_compared_lacks_nothing(
    views: list[RackView], spines: dict[str, SwitchView | Unobserved]
) -> None:
    assert found(views[1:], spines) == []


# ---- the plan


def conflicts(*plans: RackPlan) -> list[Finding]:
    return list(compare_fabric(plans, [], {}))


def test_overlapping_pools_of_racks_conflict() -> None:
    wide = ip_network("10.0.8.0/22")  # all of the second rack's prefixes
    first = replace(FIRST, pools=(*FIRST.pools, replace(FIRST.pools[0], prefix=wide, gateway=wide[1])))
    subjects = [(one.kind, one.subject, one.where) for one in conflicts(first, SECOND)]
    assert subjects == [
        (Kind.PLAN_CONFLICT, prefix, ("r1", "r2")) for prefix in ("10.0.8.0/24", "10.0.9.0/24", "10.0.10.0/24")
    ]


def test_equal_loopbacks_conflict() -> None:
    tors = (SECOND.rack.tors[0], replace(SECOND.rack.tors[1], address=FIRST.rack.tors[0].address))
    second = replace(SECOND, rack=replace(SECOND.rack, tors=tors))
    assert [one.subject for one in conflicts(FIRST, second)] == [str(host_network(FIRST.rack.tors[0].address))]


def test_a_pool_in_a_service_range_conflicts_and_a_common_service_range_does_not() -> None:
    services = (ip_network("10.96.0.0/12"),)
    plans = [replace(plan, rack=replace(plan.rack, services=services)) for plan in PLANS]
    assert conflicts(*plans) == []
    inside = ip_network("10.97.1.0/24")
    hosts = replace(plans[0], rack=replace(plans[0].rack, hosts=(Subnet(inside, inside[1]),)))
    assert {(one.kind, one.subject) for one in conflicts(hosts, *plans[1:])} == {(Kind.PLAN_CONFLICT, str(inside))}


def test_a_thousand_racks_are_compared_at_once() -> None:
    assert conflicts(*(audits.plan(number) for number in range(1, 1001))) == []


def test_of_pools_inside_each_other_the_longest_is_found() -> None:
    def plan(name: str, *prefixes: str) -> RackPlan:
        pools = tuple(Pool(ip_network(prefix), ip_network(prefix)[1]) for prefix in prefixes)
        return replace(FIRST, rack=replace(FIRST.rack, name=name), pools=pools)

    wide, narrow = plan("wide", "10.8.0.0/22", "fd00:8::/48"), plan("narrow", "10.8.1.0/24", "10.8.1.128/25")
    pools = PoolMap([wide, narrow, plan("beside", "10.8.4.0/24", "fd00:8:0:1::/64")])
    for address, prefix in {
        "10.8.0.255": "10.8.0.0/22",
        "10.8.1.127": "10.8.1.0/24",
        "10.8.1.128": "10.8.1.128/25",
        "10.8.2.0": "10.8.0.0/22",
        "10.8.3.255": "10.8.0.0/22",
        "10.8.4.1": "10.8.4.0/24",
        "fd00:8::1": "fd00:8::/48",
        "fd00:8:0:1::9": "fd00:8:0:1::/64",
        "fd00:8:0:2::9": "fd00:8::/48",
    }.items():
        assert pools.find(ip_address(address)) == ip_network(prefix), address
    for address in ("10.7.255.255", "10.8.5.0", "fd00:9::1", "0.0.0.1", "::1"):
        assert pools.find(ip_address(address)) is None, address
