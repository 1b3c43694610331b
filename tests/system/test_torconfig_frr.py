"""The rendered text on real FRR, for the three vendors that speak it: every line accepted, and the policy at work."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containerlab.topology import TWO_RACKS
from routed.settings import load
from routed.torconfig.model import Plan
from routed.torconfig.plan import plan
from routed.torconfig.render import render
from routed.torconfig.vendor_name import VendorName
from tests.fixtures.rendered import Rig, Server
from tests.fixtures.tors import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SAMPLES = Path(__file__).parents[2] / "deploy" / "tor"
DIALECTS = {
    VendorName.FRR: TWO_RACKS.parent / "racks" / "r1.yaml",
    VendorName.SONIC: SAMPLES / "sonic" / "rack.yaml",
    VendorName.CUMULUS: SAMPLES / "cumulus" / "rack.yaml",
}
NEIGHBOURS = {4: "proto 200", 6: "proto 200"}
"""Where the host routes go that a daemon makes of the neighbour table."""
HOPS = {4: "10.1.0.11", 6: "fd00:1::11"}
OTHER = {4: "10.1.0.12", 6: "fd00:1::12"}
POD = {4: "10.101.0.20/32", 6: "fd00:101::20/128"}
STEERED = {4: "10.101.1.21/32", 6: "fd00:101::21/128"}
AGGREGATES = {4: {"10.101.0.0/24", "10.101.1.0/24"}, 6: {"fd00:101::/64"}}
REFUSED = {
    4: [
        "10.102.0.20/32",  # another rack's pool
        "10.101.0.0/24",  # a whole pool
        "10.101.0.22/31",
        "0.0.0.0/0",
        "10.1.0.12/32",  # another host
        "10.255.1.2/32",  # the other ToR
        "10.101.0.0/32",  # network, gateway, broadcast
        "10.101.0.1/32",
        "10.101.1.255/32",
    ],
    6: [
        "fd00:102::20/128",
        "fd00:101::/64",
        "fd00:101::22/127",
        "::/0",
        "fd00:1::12/128",
        "fd00:101::/128",  # subnet router, gateway, reserved
        "fd00:101::1/128",
        "fd00:101::2/128",
        "fd00:101::3/128",
    ],
}


def soon(condition: Callable[[], Any], what: str, within_s: float = 60) -> None:
    """Wait for it; patient, since others may use the machine, too."""
    until(condition, what, within_s)


def configuration(found: Plan, vendor: VendorName) -> str:
    return next(file.text for file in render(found, vendor) if file.name.endswith("frr.conf"))


def check(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "frr.conf"
    file.write_text(text)
    return subprocess.run(["vtysh", "-C", "-f", str(file)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("vendor", DIALECTS)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"passive": True, "md5": "s3cret", "restart_s": 0},
        {"community": "65000:9:11"},
        {"community": None},
    ],
    ids=["as it is", "passive with MD5", "large community", "no steering"],
)
def test_frr_knows_every_line(tmp_path: Path, vendor: VendorName, change: dict[str, Any]) -> None:
    found = check(tmp_path, configuration(replace(plan(load(DIALECTS[vendor]), "r1a"), **change), vendor))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_line_that_frr_does_not_know_is_noticed(tmp_path: Path) -> None:
    text = configuration(plan(load(DIALECTS[VendorName.FRR]), "r1a"), VendorName.FRR)
    assert check(tmp_path, text.replace("advertisement-interval", "advertising-interval")).returncode != 0


def test_sonics_policy_is_frrs_word_for_word() -> None:
    found = plan(load(DIALECTS[VendorName.SONIC]), "r1a")
    frr, sonic = (configuration(found, vendor) for vendor in (VendorName.FRR, VendorName.SONIC))
    start = "ip prefix-list DEFAULT"
    assert sonic[sonic.index(start) :] == frr[frr.index(start) :]
    assert len(sonic[sonic.index(start) :]) > 0.8 * len(sonic)


@pytest.fixture(scope="module", params=["frr", "cumulus"])  # SONiC's is FRR's: see above
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A ToR of one dialect, with both servers in its neighbour table; s12 has said too much once."""
    vendor = VendorName(request.param)
    found = plan(load(DIALECTS[vendor]), "r1a")
    with Rig(found, configuration(found, vendor)) as up:
        up.table = NEIGHBOURS | ({4: "table 10"} if vendor is VendorName.CUMULUS else {})
        up.neighbour("add", "s11")
        up.neighbour("add", "s12")
        up.servers["s12"].tell(*(f"announce route fd00:101::{n:x}/128 next-hop fd00:1::12" for n in range(256, 866)))
        up.servers["s12"].start()
        soon(lambda: closed(up, "10.1.0.12"), "the ToR closing s12's session")
        up.servers["s12"].kill()
        up.servers["s12"].forget()
        up.servers["s12"].start()
        soon(lambda: "0.0.0.0/0" in up.tor.routes(4) and "::/0" in up.tor.routes(6), "the spine's default routes")
        yield up


@pytest.fixture
def s11(rig: Rig) -> Iterator[Server]:
    """A speaker that has announced a plain and a steered pod of each family; forgotten by the ToR afterwards."""
    server = rig.servers["s11"]
    server.start()
    for version in (4, 6):
        server.tell(f"announce route {POD[version]} next-hop {HOPS[version]}")
        server.tell(f"announce route {STEERED[version]} next-hop {HOPS[version]} community [65000:911]")
    soon(lambda: all({POD[v], STEERED[v]} <= accepted(rig, v) for v in (4, 6)), "the pods' routes on the ToR")
    yield server
    server.kill()
    server.forget()
    rig.tor.vtysh(f"clear bgp {server.me.peer}")
    soon(lambda: not accepted(rig, 4), "the ToR forgetting")


def accepted(rig: Rig, version: int) -> set[str]:
    """What passed the ToR's policy, from s11."""
    return set(rig.tor.show(f"show bgp ipv{version} unicast neighbors 10.1.0.11 routes").get("routes", {}))


def heard(rig: Rig, version: int) -> set[str]:
    command = f"show bgp ipv{version} unicast neighbors 10.1.0.11 received-routes"
    return set(rig.tor.show(command).get("receivedRoutes", {}))


def valid(rig: Rig, version: int, prefix: str) -> bool:
    return any(path.get("valid") for path in rig.tor.routes(version).get(prefix, []))


def test_only_own_host_routes_with_the_announcing_server_as_next_hop(rig: Rig, s11: Server) -> None:
    foreign = {4: "10.101.0.23/32", 6: "fd00:101::23/128"}
    for version in (4, 6):
        s11.tell(*(f"announce route {prefix} next-hop {HOPS[version]}" for prefix in REFUSED[version]))
        s11.tell(f"announce route {foreign[version]} next-hop {OTHER[version]}")
    for version in (4, 6):
        told = {*REFUSED[version], foreign[version]}
        soon(lambda version=version, told=told: heard(rig, version) >= told, "the ToR hearing all of it")
        assert accepted(rig, version) == {POD[version], STEERED[version]}


def test_pods_leave_the_rack_as_aggregates_and_steered_ones_without_their_community(rig: Rig, s11: Server) -> None:
    own = {
        4: {"10.255.1.1/32", "10.1.0.0/24", "10.1.0.11/32", "10.1.0.12/32"},
        6: {"fd00:1::/64", "fd00:1::11/128", "fd00:1::12/128"},
    }
    for version in (4, 6):
        expected = own[version] | AGGREGATES[version] | {STEERED[version]}
        soon(lambda version=version, expected=expected: set(rig.spine.routes(version)) == expected, "what is expected")
        assert "community" not in at_the_spine(rig, version, STEERED[version])
        s11.tell(f"announce route {STEERED[version]} next-hop {HOPS[version]}")
        s11.tell(f"announce route {POD[version]} next-hop {HOPS[version]} community [65000:911 65000:1]")
    for version in (4, 6):
        expected = own[version] | AGGREGATES[version] | {POD[version]}
        soon(lambda version=version, expected=expected: set(rig.spine.routes(version)) == expected, "the change")
        assert at_the_spine(rig, version, POD[version])["community"]["string"] == "65000:1", "no other one is touched"
        assert accepted(rig, version) == {POD[version], STEERED[version]}


def at_the_spine(rig: Rig, version: int, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = rig.spine.show(f"show bgp ipv{version} unicast {prefix}")["paths"][0]
    return found


def test_a_pod_counts_only_while_its_server_is_a_neighbour(rig: Rig, s11: Server) -> None:
    assert s11.me.name == "s11"
    soon(lambda: all(valid(rig, version, POD[version]) for version in (4, 6)), "the pods' routes")
    rig.neighbour("del", "s11")
    try:
        soon(lambda: not any(valid(rig, version, POD[version]) for version in (4, 6)), "their end")
        assert all(POD[version] in accepted(rig, version) for version in (4, 6)), "told all the same"
        soon(lambda: not AGGREGATES[4] & set(rig.spine.routes(4)), "the aggregates without a pod leaving the spine")
    finally:
        rig.neighbour("add", "s11")
    soon(lambda: all(valid(rig, version, POD[version]) for version in (4, 6)), "the pods' routes coming back")


def test_servers_get_the_default_routes_and_nothing_else(rig: Rig, s11: Server) -> None:
    assert s11.me.name == "s11"
    for version, default in ((4, "0.0.0.0/0"), (6, "::/0")):
        command = f"show bgp ipv{version} unicast neighbors 10.1.0.11 advertised-routes"
        soon(lambda command=command: rig.tor.show(command).get("advertisedRoutes"), "a route to s11")
        assert set(rig.tor.show(command)["advertisedRoutes"]) == {default}
    text = rig.tor.vtysh("show bgp ipv6 unicast neighbors 10.1.0.11 advertised-routes")
    assert "fd00:1::1" in text, "the gateway is the next hop"


def test_a_crashed_speakers_routes_are_kept_and_leave_with_the_end_of_rib(rig: Rig, s11: Server) -> None:
    s11.kill()
    soon(lambda: any(path.get("stale") for path in rig.tor.routes(4)[POD[4]]), "the ToR noticing")
    assert valid(rig, 4, POD[4])
    s11.tell(f"withdraw route {POD[4]} next-hop {HOPS[4]}")
    s11.start()
    soon(lambda: accepted(rig, 4) == {STEERED[4]}, "the End-of-RIB, and what was told again")


def session(rig: Rig, peer: str) -> dict[str, Any]:
    found: dict[str, Any] = rig.tor.show(f"show bgp neighbors {peer}").get(peer, {})
    return found


def closed(rig: Rig, peer: str) -> bool:
    """Whether the ToR closed the session for its routes, and will open it again within the time of the rack file."""
    found = session(rig, peer)
    within_ms = rig.plan.maximum_routes_restart_min * 60_000
    return found.get("bgpState") == "Idle" and 0 < found.get("restartInTimerMsec", 0) <= within_ms
