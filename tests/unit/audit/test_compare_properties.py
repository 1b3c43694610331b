"""Any consistent rack is sound; any single change to it is found, by the name of its address or server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.model import IPAddress
from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.model import Finding, Holding, RackPlan, RackView, SwitchView
from tests.fixtures import audits

RUNS = settings(max_examples=40)


@st.composite
def racks(draw: st.DrawFn, fewest: int = 0) -> RackView:
    """Draw a rack without faults: of any size, with any of its links cut on one side, with or without its agents."""
    plan = audits.plan(draw(st.integers(1, 50)), draw(st.integers(1, 6)))
    view = audits.healthy(plan, draw(st.integers(fewest, 60)))
    tors = list(view.tors)
    for server in plan.servers:
        side = draw(st.sampled_from([None, None, *tors]))
        if side is not None:
            view = audits.cut(view, server, side, session_up=draw(st.booleans()))
    asked = draw(st.sampled_from(["all", "agents", "holdings"]))
    if asked == "holdings":
        return replace(view, servers={})
    return replace(view, holdings=()) if asked == "agents" else view


def findings(view: RackView) -> list[Finding]:
    """Compare a rack and a fabric of nothing else, whose spine has what the rack's failures let out."""
    pools = PoolMap([view.plan])
    result = compare_rack(view, pools)
    spine = audits.spine("sp1", [view.plan])
    out = [audits.escaped(view.plan, one, tor) for one, tors in result.steered.items() for tor in tors]
    spines = {"sp1": replace(spine, routes=(*spine.routes, *out))}
    return [*result.findings, *compare_fabric([view.plan], [result], spines)]


@RUNS
@given(racks())
def test_a_consistent_rack_has_no_findings(view: RackView) -> None:
    assert findings(view) == []


def stranger(plan: RackPlan) -> IPAddress:
    return plan.rack.hosts[0].prefix[200]


def drop(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.without(address))


def to_a_stranger(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, next_hops=(stranger(view.plan),), peer=None))


def strange_community(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, communities=frozenset({"65000:1"})))


def longer_path(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, as_path=(audits.SERVER_ASN,) * 2))


def stale(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, stale=True))


def not_installed(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, installed=False))


def unselected(view: RackView, tor: str, address: IPAddress) -> RackView:
    return audits.with_tor(view, tor, audits.at(address, best=False))


def second_hop(view: RackView, tor: str, address: IPAddress) -> RackView:
    seen = view.tors[tor]
    assert isinstance(seen, SwitchView)
    route = next(route for route in seen.routes if route.prefix.network_address == address)
    return audits.with_route(view, tor, replace(route, next_hops=(stranger(view.plan),), peer=None))


CHANGES = [
    drop,
    to_a_stranger,
    strange_community,
    longer_path,
    stale,
    not_installed,
    unselected,
    second_hop,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@RUNS
@given(data=st.data())
def test_any_single_change_to_a_route_is_found(
    change: Callable[[RackView, str, IPAddress], RackView], data: st.DataObject
) -> None:
    view = data.draw(racks(fewest=1))
    holdings = compare_rack(view).summary.holdings
    holding = data.draw(st.sampled_from(holdings))
    ways = [tor for tor in view.tors if is_below(view, tor, holding.address)]
    changed = change(view, data.draw(st.sampled_from(ways)), holding.address)
    assert names(findings(changed), holding)


@RUNS
@given(racks(fewest=1), st.integers(100, 250), st.sampled_from([0, 1]))
def test_any_route_too_many_is_found(view: RackView, number: int, place: int) -> None:
    server = next(iter(view.plan.servers))
    tor = list(view.tors)[place]
    for address in (view.plan.pools[1].prefix[number], ip_address(f"192.0.2.{number}")):
        extra = Holding(address, server, "")
        changed = audits.with_route(view, tor, audits.pod_route(view.plan, extra))
        assert names(findings(changed), extra)


def is_below(view: RackView, tor: str, address: IPAddress) -> bool:
    """Whether this ToR has the route from the server itself."""
    seen = view.tors[tor]
    assert isinstance(seen, SwitchView)
    return any(
        route.prefix.network_address == address and route.as_path == (audits.SERVER_ASN,) for route in seen.routes
    )


def names(found: list[Finding], holding: Holding) -> bool:
    subjects = {str(holding.address), f"{holding.address}/32", holding.server}
    return any(finding.subject in subjects for finding in found)
