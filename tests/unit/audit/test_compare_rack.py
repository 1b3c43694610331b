"""One rack: every fault is found and named, every legitimate state is none."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ipam.model import IPAddress
from routed.audit.compare import compare_rack, doubts
from routed.audit.model import Finding, Holding, Kind, RackView, Route, Severity
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
    assert finding.text.endswith(f"no route on {A}; half of the traffic from outside its server is lost")
    assert finding.cause == f"{A} refused it: inbound policy, or a limit of prefixes"
    assert "filtered-routes" in finding.next
    assert {(one.plane, one.where) for one in finding.evidence} == {
        ("intended", S1),
        ("announced", S1),
        ("learned", A),
        ("learned", B),
    }


def test_a_route_that_both_tors_lack_is_one_finding(rack: RackView) -> None:
    view = audits.with_tor(audits.with_tor(rack, A, audits.without(ONE)), B, audits.without(ONE))
    assert kinds(view) == [(Kind.MISSING, str(ONE), (A, B))]
    assert only(view).text.endswith(f"no route on {A} and {B}; all traffic from outside its server is lost")
    assert only(view).cause.startswith(f"{A} and {B} refused it")


def test_what_an_unseen_tor_loses_is_not_counted(rack: RackView) -> None:
    view = audits.with_silent(audits.with_tor(rack, A, audits.without(ONE)), B)
    missing = next(finding for finding in found(view) if finding.kind is Kind.MISSING)
    assert missing.text.endswith("; at least half of the traffic from outside its server is lost")


HOP = PLAN.servers[S1].addresses[0]


@pytest.mark.parametrize(
    ("said", "cause", "then"),
    [
        ({A: {ONE}, B: {ONE}}, f"{A} and {B} received it and refused it: inbound policy", f"on {A} and {B}: vtysh"),
        ({A: {THREE}, B: {ONE}}, f"{B} received it and refused it: inbound policy", f"on {B}: vtysh"),
        ({A: set(), B: {ONE}}, f"{B} received it and refused it: inbound policy", f"on {B}: vtysh"),
        ({B: {ONE}}, f"{B} received it and refused it: inbound policy", f"on {B}: vtysh"),
        (
            {A: set(), B: {THREE}},
            f"no policy of {A} and {B} refused it: never received, or denied for another reason",
            f"on {A} and {B}: vtysh -c 'show bgp ipv4 unicast neighbors {HOP} received-routes'",
        ),
        ({A: set()}, f"{A} and {B} refused it: inbound policy, or a limit of prefixes", f"on {A} and {B}: vtysh"),
    ],
)
def test_what_tors_say_of_a_missing_route_is_its_cause(
    rack: RackView, said: dict[str, set[IPAddress]], cause: str, then: str
) -> None:
    view = rack
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.without(ONE))
    assert doubts(view) == {tor: {(HOP, 4)} for tor in (A, B)}
    view = audits.refusing(view, {tor: {(HOP, 4): prefixes} for tor, prefixes in said.items()})
    finding = only(view)
    assert (finding.cause, finding.next[: len(then)]) == (cause, then)
    assert [one.where for one in finding.evidence if one.says == "no route: received and refused"] == [
        tor for tor in said if ONE in said[tor]
    ]
    if "received it and refused" in cause:
        assert finding.next.endswith(f"vtysh -c 'show route-map FROM-{S1}'")


def test_nobody_is_asked_about_what_is_there_or_cannot_be(rack: RackView) -> None:
    assert doubts(rack) == {}
    assert doubts(audits.cut(rack, S1, A)) == {}
    down = {tor: replace(side, session_up=False) for tor, side in audits.told(rack, S1).sides.items()}
    assert doubts(audits.with_agent(audits.with_tor(rack, A, audits.without(ONE)), S1, sides=down)) == {}


def test_without_a_session_the_cause_of_a_missing_route_is_known(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    sides = {A: replace(seen.sides[A], session_up=False), B: seen.sides[B]}
    view = audits.with_agent(audits.with_tor(rack, A, audits.without(ONE)), S1, sides=sides)
    finding = only(view)
    assert finding.kind is Kind.MISSING
    assert finding.cause == f"the BGP session of {S1} with {A} is down"
    assert finding.next == f"on {S1}: routed show neighbors"


def test_a_missing_route_of_a_silent_agent_is_less_certain(rack: RackView) -> None:
    view = audits.with_silent(audits.with_tor(rack, A, audits.without(ONE)), S1)
    missing = next(finding for finding in found(view) if finding.kind is Kind.MISSING)
    assert (missing.subject, missing.where) == (str(ONE), (A,))
    assert "could not be asked" in missing.cause


def test_both_sides_bad_excuses_nothing(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    sides = {tor: replace(side, session_up=False, healthy=False) for tor, side in seen.sides.items()}
    view = audits.with_agent(rack, S1, sides=sides)
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.without(ONE))
    assert kinds(view) == [(Kind.MISSING, str(ONE), (A, B))]


def test_what_the_better_tor_lacks_is_missing_while_it_steers(rack: RackView) -> None:
    view = audits.with_tor(audits.cut(rack, S1, A), B, audits.without(ONE))
    assert kinds(view) == [(Kind.MISSING, str(ONE), (B,))]
    assert "all traffic" in only(view).text


def test_a_detour_makes_a_missing_route_a_warning(rack: RackView) -> None:
    view = audits.with_route(audits.with_tor(rack, A, audits.without(ONE)), A, audits.detour(rack, ONE, B))
    assert only(view).severity is Severity.WARNING
    assert "lost" not in only(view).text


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_what_should_not_be_announced_is_not_missing(rack: RackView, state: str) -> None:
    seen = audits.told(rack, S1)
    mine = [holding.address for holding in seen.holdings]
    holdings = tuple(replace(holding, announce=state == "draining") for holding in seen.holdings)
    view = audits.with_agent(rack, S1, announced=(), holdings=holdings, draining=state == "draining")
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.without(*mine))
    assert found(view) == []
    leaked = audits.with_route(view, A, audits.pod_route(PLAN, seen.holdings[0]))
    assert kinds(leaked) == [(Kind.LEAKED, str(ONE), (A,))]


def test_a_family_that_the_server_has_no_address_of_is_not_missing() -> None:
    prefix = ip_network("fd00:1::/64")
    pools = (*PLAN.pools, replace(PLAN.pools[0], prefix=prefix, gateway=prefix[1]))
    view = audits.healthy(replace(PLAN, pools=pools), 2)
    seen = audits.told(view, S1)
    dual = (*seen.holdings, Holding(prefix[5], S1, "shop/web-0"))
    assert found(audits.with_agent(view, S1, holdings=dual)) == []


# ---- announced


def test_what_an_agent_does_not_announce_is_unannounced_and_not_missing_too(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    told = tuple(route for route in seen.announced if route.prefix.network_address != ONE or route.tor != A)
    view = audits.with_agent(audits.with_tor(rack, A, audits.without(ONE)), S1, announced=told)
    assert kinds(view) == [(Kind.UNANNOUNCED, str(ONE), (A, S1))]


@pytest.mark.parametrize(
    "change", [{"communities": frozenset({"65000:911"})}, {"next_hop": ip_address("10.0.0.1")}], ids=str
)
def test_what_an_agent_announces_otherwise_is_found(rack: RackView, change: dict[str, Any]) -> None:
    seen = audits.told(rack, S1)
    told = tuple(
        replace(route, **change) if route.prefix.network_address == ONE and route.tor == A else route
        for route in seen.announced
    )
    assert kinds(audits.with_agent(rack, S1, announced=told)) == [(Kind.UNANNOUNCED, str(ONE), (A, S1))]


# ---- leaked


def test_a_route_that_no_pod_has_is_leaked(rack: RackView) -> None:
    view = audits.with_route(rack, A, audits.pod_route(PLAN, Holding(FREE, S1, "")))
    assert kinds(view) == [(Kind.LEAKED, str(FREE), (A,))]


def test_a_route_that_no_pod_has_and_an_agent_announces_is_that_agents(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    view = audits.with_agent(rack, S1, holdings=seen.holdings[1:])
    view = replace(view, holdings=())
    finding = only(view)
    assert (finding.kind, finding.subject, finding.where) == (Kind.LEAKED, str(ONE), (A, B))
    assert finding.cause == f"{S1}'s agent still announces it"


def test_the_gateways_address_is_critical(rack: RackView) -> None:
    view = audits.with_route(rack, A, audits.pod_route(PLAN, Holding(PLAN.pools[0].gateway, S1, "")))
    assert (only(view).kind, only(view).severity) == (Kind.LEAKED, Severity.CRITICAL)


def test_a_route_to_a_silent_server_is_not_concluded_leaked(rack: RackView) -> None:
    ours = tuple(holding for holding in audits.held(rack) if holding.server == S2)
    view = replace(audits.with_silent(rack, S1), holdings=ours)
    assert [finding.kind for finding in found(view)] == [Kind.UNOBSERVED]


def test_a_route_to_a_silent_server_is_leaked_when_the_api_knows_its_pods(rack: RackView) -> None:
    view = audits.with_route(audits.with_silent(rack, S1), A, audits.pod_route(PLAN, Holding(FREE, S1, "")))
    assert (Kind.LEAKED, str(FREE), (A,)) in kinds(view)


def test_an_agent_knows_its_pods_better_than_the_api_does(rack: RackView) -> None:
    late = (
        *audits.held(rack)[1:],
        Holding(FREE, S1, "shop/gone"),
    )  # not told of the first pod, nor of the end of another
    assert found(replace(rack, holdings=late)) == []


def test_a_lease_in_stock_is_neither_missing_nor_leaked(rack: RackView) -> None:
    stock = (
        *rack.holdings,
        Holding(FREE, S1, "", announce=False),
        Holding(PLAN.pools[0].prefix[201], S1, "", announce=False),
    )
    view = replace(audits.with_silent(rack, S1), holdings=stock)
    view = audits.with_route(view, A, audits.pod_route(PLAN, stock[-2]))
    view = audits.with_route(view, B, audits.pod_route(PLAN, stock[-2]))
    assert [finding.kind for finding in found(view)] == [Kind.UNOBSERVED]


# ---- to the wrong place


def test_two_holders_are_a_duplicate(rack: RackView) -> None:
    seen = audits.told(rack, S2)
    view = audits.with_agent(rack, S2, holdings=(*seen.holdings, Holding(ONE, S2, "shop/twin")))
    assert kinds(view) == [(Kind.DUPLICATE, str(ONE), (S1, S2))]


def test_two_next_hops_are_a_duplicate(rack: RackView) -> None:
    view = audits.with_route(rack, A, audits.pod_route(PLAN, Holding(ONE, S2, "")))
    assert kinds(view) == [(Kind.DUPLICATE, str(ONE), (S1, S2))]


def test_two_announcers_are_a_duplicate(rack: RackView) -> None:
    one, two = audits.told(rack, S1), audits.told(rack, S2)
    hop = PLAN.servers[S2].addresses[0]
    view = audits.with_agent(rack, S2, announced=(*two.announced, replace(one.announced[0], next_hop=hop)))
    assert kinds(view) == [(Kind.DUPLICATE, str(ONE), (S1, S2))]


def test_a_route_to_another_server_has_the_wrong_next_hop(rack: RackView) -> None:
    view = rack
    for tor in (A, B):
        view = audits.with_tor(view, tor, audits.at(ONE, next_hops=PLAN.servers[S2].addresses))
    assert kinds(view) == [(Kind.WRONG_NEXT_HOP, str(ONE), (A, B))]


def test_a_route_to_no_server_has_the_wrong_next_hop(rack: RackView) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, next_hops=(PLAN.rack.hosts[0].prefix[99],)))
    assert kinds(view) == [(Kind.WRONG_NEXT_HOP, str(ONE), (A,))]
    assert str(PLAN.rack.hosts[0].prefix[99]) in only(view).text


def test_a_host_route_of_a_server_outside_the_pools_is_foreign(rack: RackView) -> None:
    stray = Holding(ip_address("192.0.2.7"), S1, "")
    view = audits.with_route(rack, A, audits.pod_route(PLAN, stray))
    assert kinds(view) == [(Kind.FOREIGN, "192.0.2.7/32", (A,))]
    assert S1 in only(view).text


def test_a_subnet_of_a_server_is_foreign(rack: RackView) -> None:
    hop = PLAN.servers[S1].addresses[0]
    half = Route(ip_network("10.0.5.0/25"), (hop,), (audits.SERVER_ASN,), peer=hop)
    assert kinds(audits.with_route(rack, A, half)) == [(Kind.FOREIGN, "10.0.5.0/25", (A,))]


def test_another_servers_own_address_is_foreign(rack: RackView) -> None:
    mine, other = (PLAN.servers[name].addresses[0] for name in (S1, S2))
    view = audits.with_route(rack, A, audits.pod_route(PLAN, Holding(other, S1, "")))
    assert kinds(view) == [(Kind.FOREIGN, f"{other}/32", (A,))]
    own = audits.with_route(rack, A, audits.pod_route(PLAN, Holding(mine, S1, "")))
    assert found(own) == []


def test_an_announcement_outside_the_pools_that_no_tor_took_is_foreign(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    for prefix in ("192.0.2.7/32", "192.0.2.0/24"):
        told = (*seen.announced, replace(seen.announced[0], prefix=ip_network(prefix)))
        ((kind, subject, where),) = kinds(audits.with_agent(rack, S1, announced=told))
        assert (kind, where) == (Kind.FOREIGN, (S1,))
        assert subject in prefix


# ---- attributes, age, forwarding


def test_a_strange_as_path_is_found(rack: RackView) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, as_path=(audits.SERVER_ASN, 64999)))
    assert kinds(view) == [(Kind.ATTRIBUTES, str(ONE), (A,))]


def test_a_strange_community_is_found(rack: RackView) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, communities=frozenset({"65000:1"})))
    assert kinds(view) == [(Kind.ATTRIBUTES, str(ONE), (A,))]
    assert "65000:1" in only(view).text


def test_communities_that_a_source_cannot_tell_are_no_fault(rack: RackView) -> None:
    view = rack
    for address in (ONE, TWO):
        view = audits.with_tor(view, A, audits.at(address, communities=None, installed=None, stale=None))
    assert found(view) == []


def test_a_steering_community_that_a_tor_drops_is_critical(rack: RackView) -> None:
    view = audits.with_tor(audits.cut(rack, S1, A), B, audits.at(ONE, communities=frozenset()))
    assert [(one.kind, one.severity, one.where) for one in found(view)] == [(Kind.ATTRIBUTES, Severity.CRITICAL, (B,))]


def test_one_steered_route_among_others_of_a_silent_agent_is_asymmetric(rack: RackView) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, communities=frozenset({audits.STEERING})))
    assert (Kind.ASYMMETRIC, str(ONE), (A, B)) in kinds(audits.with_silent(view, S1))


def test_both_tors_asked_to_steer_is_no_state_of_a_silent_agent(rack: RackView) -> None:
    view = rack
    for tor in (A, B):
        for address in (ONE, THREE, FIVE):
            view = audits.with_tor(view, tor, audits.at(address, communities=frozenset({audits.STEERING})))
    wrong = {(one.kind, one.subject) for one in found(audits.with_silent(view, S1)) if one.kind is not Kind.UNOBSERVED}
    assert wrong == {(Kind.ATTRIBUTES, str(address)) for address in (ONE, THREE, FIVE)}


def test_a_route_kept_for_a_dead_speaker_is_stale(rack: RackView) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, stale=True))
    assert kinds(view) == [(Kind.STALE, str(ONE), (A,))]


def test_a_stale_route_of_a_cut_side_without_a_session_is_explained(rack: RackView) -> None:
    held = audits.pod_route(PLAN, Holding(ONE, S1, ""))
    view = audits.with_route(audits.cut(rack, S1, A, session_up=False), A, replace(held, stale=True, best=False))
    assert found(view) == []


def test_a_withdrawal_that_a_tor_did_not_take_in_is_stale(rack: RackView) -> None:
    view = audits.with_route(audits.cut(rack, S1, A), A, audits.pod_route(PLAN, Holding(ONE, S1, "")))
    assert kinds(view) == [(Kind.STALE, str(ONE), (A,))]


@pytest.mark.parametrize("changes", [{"installed": False}, {"best": False, "installed": False}], ids=str)
def test_a_route_that_is_not_forwarded_by_is_found(rack: RackView, changes: dict[str, bool]) -> None:
    view = audits.with_tor(rack, A, audits.at(ONE, **changes))
    assert kinds(view) == [(Kind.NOT_INSTALLED, str(ONE), (A,))]


# ---- in the dark


def test_nobody_asked_means_nothing_missing_and_nothing_leaked(rack: RackView) -> None:
    view = replace(rack, holdings=audits.SILENT, servers={})
    assert kinds(view) == [(Kind.UNOBSERVED, "holdings", ())]
    assert compare_rack(view).summary.pools[0].used is None


def test_a_pair_shows_among_itself_what_is_wrong(rack: RackView) -> None:
    dark = replace(rack, holdings=audits.SILENT, servers={})
    lone = audits.with_tor(dark, A, audits.without(ONE))
    assert (Kind.ASYMMETRIC, str(ONE), (A, B)) in kinds(lone)
    twice = audits.with_tor(dark, A, audits.at(ONE, next_hops=PLAN.servers[S2].addresses))
    assert (Kind.DUPLICATE, str(ONE), (S1, S2)) in kinds(twice)
    nowhere = audits.with_tor(dark, A, audits.at(ONE, next_hops=(PLAN.rack.hosts[0].prefix[99],)))
    assert Kind.WRONG_NEXT_HOP in {finding.kind for finding in found(nowhere)}


def test_every_source_that_failed_is_reported_with_its_reason(rack: RackView) -> None:
    view = audits.with_silent(rack, S1, A)
    silent = found(view)
    assert [(one.kind, one.severity, one.subject) for one in silent] == [
        (Kind.UNOBSERVED, Severity.NOTE, A),
        (Kind.UNOBSERVED, Severity.NOTE, S1),
    ]
    assert all("no answer within 10 s" in one.text for one in silent)
    assert compare_rack(view).summary.host_routes == {A: None, B: 6}


# ---- pools and plan


@pytest.mark.parametrize(
    ("used", "expected"), [(455, []), (456, [Kind.POOL_LOW]), (505, [Kind.POOL_LOW]), (506, [Kind.POOL_EXHAUSTED])]
)
def test_a_family_of_pools_runs_low_and_out(used: int, expected: list[Kind]) -> None:
    assert [finding.kind for finding in found(audits.healthy(PLAN, used))] == expected


def test_one_full_pool_beside_an_empty_one_is_fine() -> None:
    assert found(audits.healthy(PLAN, 253)) == []


def test_the_share_that_is_low_is_a_setting() -> None:
    view = audits.healthy(PLAN, 300)
    assert [finding.kind for finding in compare_rack(view, low=0.5).findings] == [Kind.POOL_LOW]


def test_a_server_that_the_plan_misses_is_a_conflict(rack: RackView) -> None:
    view = replace(rack, holdings=(*rack.holdings, Holding(FREE, "s1-9", "shop/lost")))
    assert (Kind.PLAN_CONFLICT, str(FREE), ("s1-9",)) in kinds(view)


def test_a_pod_outside_the_pools_is_a_conflict(rack: RackView) -> None:
    seen = audits.told(rack, S1)
    view = audits.with_agent(rack, S1, holdings=(*seen.holdings, Holding(ip_address("10.9.9.9"), S1, "shop/old")))
    assert kinds(view) == [(Kind.PLAN_CONFLICT, "10.9.9.9", (S1,))]


# ---- one root cause, one finding


def test_a_server_that_one_tor_lacks_altogether_is_one_finding() -> None:
    view = audits.healthy(PLAN, 400)
    mine = [holding.address for holding in compare_rack(view).summary.holdings if holding.server == S1]
    finding = only(audits.with_tor(view, A, audits.without(*mine)))
    assert (finding.kind, finding.subject, finding.where) == (Kind.MISSING, S1, (A,))
    assert "200 addresses of s1-1" in finding.text
    assert any(str(ONE) in one.says for one in finding.evidence)


def test_three_of_a_server_are_three_findings(rack: RackView) -> None:
    assert len(found(audits.with_tor(rack, A, audits.without(ONE, THREE, FIVE)))) == 3


def test_a_tor_that_lost_every_server_is_one_finding() -> None:
    plan = audits.plan(servers=5)
    view = audits.healthy(plan, 400)
    everything = audits.addresses(plan, 400)
    finding = only(audits.with_tor(view, A, audits.without(*everything)))
    assert (finding.kind, finding.subject, finding.where) == (Kind.MISSING, A, (A,))
    assert "400 addresses of 5 servers" in finding.text


def test_unlike_faults_are_not_put_together() -> None:
    view = audits.with_tor(audits.healthy(PLAN, 400), A, audits.without(*audits.addresses(PLAN, 100)))
    view = audits.with_tor(view, B, audits.at(audits.addresses(PLAN, 400)[-1], stale=True))
    assert {finding.kind for finding in found(view)} == {Kind.MISSING, Kind.STALE}
    assert len(found(view)) == 3


def test_two_servers_that_own_the_same_part_of_a_pool_are_one_finding() -> None:
    view = audits.healthy(PLAN, 40)
    mine = compare_rack(view).summary.holdings
    twins = tuple(replace(holding, server=S2) for holding in mine)
    finding = only(audits.with_agent(view, S2, holdings=twins))
    assert (finding.kind, finding.subject, finding.where) == (Kind.DUPLICATE, f"{S1} and {S2}", (S1, S2))


def test_stale_routes_of_every_server_are_one_finding() -> None:
    view = audits.healthy(audits.plan(servers=5), 20)
    pods = set(audits.addresses(PLAN, 20))
    view = audits.with_tor(
        view, A, lambda route: replace(route, stale=True) if route.prefix.network_address in pods else route
    )
    assert kinds(view) == [(Kind.STALE, A, (A,))]


def test_a_grouped_finding_has_the_same_key_whatever_it_counts() -> None:
    view = audits.healthy(PLAN, 400)
    keys = {
        only(audits.with_tor(view, A, audits.without(*audits.addresses(PLAN, 400)[0:count:2]))).key
        for count in (20, 200)
    }
    assert len(keys) == 1
