"""What an agent finds about its own server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipam.model import Usage
from routed.audit.compare import compare_server
from routed.audit.model import Finding, Holding, Kind, ServerView, SideView
from tests.fixtures import audits

PLAN = audits.plan()
S1 = next(iter(PLAN.servers))
A, B = (tor.name for tor in PLAN.rack.tors)
ONE, TWO = audits.addresses(PLAN, 2)


@pytest.fixture
def server() -> ServerView:
    return audits.agent(PLAN, S1, [Holding(ONE, S1, "shop/web-0"), Holding(TWO, S1, "shop/web-1")])


def kinds(server: ServerView, *usage: Usage) -> list[tuple[Kind, str]]:
    found: list[Finding] = list(compare_server(PLAN, server, usage))
    return [(finding.kind, finding.subject) for finding in found]


def test_a_healthy_server_has_no_findings(server: ServerView) -> None:
    assert kinds(server, Usage(PLAN.pools[0].prefix, 253, 2, 0)) == []


def test_a_steering_server_has_no_findings(server: ServerView) -> None:
    sides = {A: SideView(session_up=True, healthy=False, steers=False), B: SideView(True, True, True)}
    told = tuple(
        replace(route, communities=frozenset({audits.STEERING})) for route in server.announced if route.tor == B
    )
    assert kinds(replace(server, sides=sides, announced=told)) == []


def test_what_is_not_announced_is_found(server: ServerView) -> None:
    assert kinds(replace(server, announced=server.announced[1:])) == [(Kind.UNANNOUNCED, str(ONE))]


def test_what_is_announced_without_a_pod_is_leaked(server: ServerView) -> None:
    assert kinds(replace(server, holdings=server.holdings[1:])) == [(Kind.LEAKED, str(ONE))]


def test_a_pod_outside_the_pools_is_a_conflict(server: ServerView) -> None:
    stray = Holding(PLAN.rack.hosts[0].prefix[77], S1, "shop/old")
    assert kinds(replace(server, holdings=(*server.holdings, stray))) == [(Kind.PLAN_CONFLICT, str(stray.address))]


@pytest.mark.parametrize(
    ("used", "cooling", "expected"), [(228, 0, Kind.POOL_LOW), (200, 53, Kind.POOL_EXHAUSTED), (200, 0, None)]
)
def test_a_share_runs_low_and_out(server: ServerView, used: int, cooling: int, expected: Kind | None) -> None:
    pool = PLAN.pools[0].prefix
    assert kinds(server, Usage(pool, 253, used, cooling)) == ([(expected, str(pool))] if expected else [])
