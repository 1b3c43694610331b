from __future__ import annotations

from ipaddress import ip_address

import pytest

from containerlab.hostroutes import counts, deviations
from containerlab.pods import Pod
from containerlab.probe import Place
from containerlab.topology import TWO_RACKS
from routed.settings import load

RACKS = [load(path) for path in sorted(TWO_RACKS.with_name("racks").glob("*.yaml"))]
POD = Pod("id", "s11", Place("pod", "/nowhere", (ip_address("10.101.0.2"), ip_address("fd00:101::1:0"))))
AGGREGATES = {"10.101.0.0/24": {"type": "blackhole"}, "fd00:101::/64": {"type": "blackhole"}}
HOST_ROUTES = {
    "10.101.0.2/32": {"gateway": "10.1.0.11", "dev": "gw"},
    "fd00:101::1:0/128": {"gateway": "fd00:1::11", "dev": "gw"},
}
GATEWAYS = {"10.101.0.1/32": {"dev": "gw"}, "fd00:101::1/128": {"dev": "gw"}}
OTHERS = {"10.1.0.11/32": {"dev": "gw"}, "10.255.1.1/32": {"dev": "up1"}, "0.0.0.0/0": {"gateway": "10.254.1.2"}}


def tables() -> dict[str, dict[str, dict[str, str]]]:
    own = {**AGGREGATES, **HOST_ROUTES, **GATEWAYS, **OTHERS}
    return {"r1a": dict(own), "r1b": dict(own), "r2a": dict(AGGREGATES), "sp1": dict(AGGREGATES)}


def test_host_routes_on_both_tors_and_prefixes_elsewhere_are_right() -> None:
    assert deviations(tables(), RACKS, [POD]) == []


@pytest.mark.parametrize(
    ("router", "prefix", "route", "says"),
    [
        ("r1a", "10.101.0.2/32", None, "r1a: 10.101.0.2/32 absent, should be via 10.1.0.11"),
        ("r1b", "fd00:101::1:0/128", None, "r1b: fd00:101::1:0/128 absent, should be via fd00:1::11"),
        (
            "r1b",
            "10.101.0.2/32",
            {"gateway": "10.1.0.12", "dev": "gw"},
            "r1b: 10.101.0.2/32 via 10.1.0.12, should be via 10.1.0.11",
        ),
        (
            "r1a",
            "10.101.0.9/32",
            {"gateway": "10.1.0.11", "dev": "gw"},
            "r1a: 10.101.0.9/32 via 10.1.0.11, should be absent",
        ),
        (
            "sp1",
            "10.101.0.2/32",
            {"gateway": "10.254.1.3", "dev": "to-r1a"},
            "sp1: 10.101.0.2/32 via {'gateway': '10.254.1.3', 'dev': 'to-r1a'}, should be absent",
        ),
        ("r2a", "10.101.0.0/24", None, "r2a: 10.101.0.0/24 is absent"),
        ("r2a", "10.102.0.0/24", {"dev": "up1"}, "r2a: 10.102.0.0/24 is there without a pod in it"),
    ],
)
def test_what_is_wrong_is_told(router: str, prefix: str, route: dict[str, str] | None, says: str) -> None:
    found = tables()
    if route is None:
        del found[router][prefix]
    else:
        found[router][prefix] = route
    assert deviations(found, RACKS, [POD]) == [says]


def test_routes_of_pods_that_are_gone_are_too_much() -> None:
    assert len(deviations(tables(), RACKS, [])) == 2 * len(HOST_ROUTES) + 4 * len(AGGREGATES)


def test_counts_leave_gateways_and_other_routes_out() -> None:
    assert [(count.router, count.hosts_ipv4, count.hosts_ipv6, count.pools) for count in counts(tables(), RACKS)] == [
        ("r1a", 1, 1, 2),
        ("r1b", 1, 1, 2),
        ("r2a", 0, 0, 2),
        ("sp1", 0, 0, 2),
    ]
