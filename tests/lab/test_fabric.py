"""The fabric itself, before any agent: what the topology file and the configs beside it promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from containerlab.lab import Lab
from tests.fabric import ADDRESSES, TORS, announcing, eventually, session

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RACKS = {"r1": ("r1a", "r1b", "s11", "s12"), "r2": ("r2a", "r2b", "s21", "s22")}


def sessions(lab: Lab, router: str, family: str = "ipv4") -> dict[str, dict[str, Any]]:
    """Sessions with other switches, by the neighbour's name."""
    peers = lab.vtysh_json(router, f"show bgp {family} unicast summary")["peers"].values()
    return {peer["desc"]: peer for peer in peers if peer["desc"] not in ADDRESSES}


def pings(lab: Lab, source: str, destination: str) -> bool:
    return (
        lab.node(source).run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", destination], check=False).returncode
        == 0
    )


def answers(lab: Lab, source: str, destination: str, times: int = 20) -> int:
    """How many of so many pings, each with an identifier of its own so that hashes differ, are answered."""
    script = f"for n in $(seq {times}); do ping -n -c 1 -W 1 -e $n {destination}; done"
    return lab.node(source).run(["bash", "-c", script], check=False).stdout.count("1 received")


def host_routes(lab: Lab, router: str) -> set[str]:
    return {prefix for prefix in lab.kernel_routes(router) if prefix.endswith(("/32", "/128"))}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_switch_speaks_to_every_switch_of_the_other_tier(lab: Lab, family: str) -> None:
    tors = {"r1a", "r1b", "r2a", "r2b"}
    for router in ("sp1", "sp2", *tors):
        found = sessions(lab, router, family)
        assert set(found) == (tors if router.startswith("sp") else {"sp1", "sp2"})
        assert {peer["state"] for peer in found.values()} == {"Established"}


@pytest.mark.parametrize("rack", RACKS)
def test_the_pair_shares_the_gateway_and_nothing_else(lab: Lab, rack: str) -> None:
    pair = RACKS[rack][:2]
    gateways = [json.loads(lab.node(tor).run(["ip", "-j", "address", "show", "gw"]).stdout)[0] for tor in pair]
    assert gateways[0]["address"] == gateways[1]["address"]
    addresses = [{entry["local"] for entry in gateway["addr_info"]} for gateway in gateways]
    assert addresses[0] == addresses[1]
    identities = [lab.vtysh_json(tor, "show bgp ipv4 unicast summary") for tor in pair]
    assert identities[0]["routerId"] != identities[1]["routerId"]
    assert identities[0]["as"] != identities[1]["as"]


def test_a_tors_sessions_do_not_notice_that_its_twin_loses_its_own(lab: Lab) -> None:
    before = {name: peer["connectionsEstablished"] for name, peer in sessions(lab, "r1a").items()}
    lab.node("r1b").kill_daemon("bgpd")
    eventually(lambda: sessions(lab, "sp1")["r1b"]["state"] != "Established", "sp1 noticing r1b")
    assert {peer["state"] for peer in sessions(lab, "r1a").values()} == {"Established"}
    lab.node("r1b").start_daemon("bgpd")
    lab.wait_ready()
    assert {name: peer["connectionsEstablished"] for name, peer in sessions(lab, "r1a").items()} == before


@pytest.mark.parametrize("server", TORS)
def test_a_server_bonds_across_two_independent_tors(lab: Lab, server: str) -> None:
    text = lab.node(server).run(["ovs-appctl", "lacp/show", "bond0"]).stdout
    assert re.findall(r"^member: (\S+): (.+)$", text, re.MULTILINE) == [
        ("etha", "current attached"),
        ("ethb", "current attached"),
    ]
    assert len(set(re.findall(r"partner sys_id: (\S+)", text))) == 1
    assert len(set(re.findall(r"partner key: (\S+)", text))) == 1
    assert len(set(re.findall(r"partner port_id: (\S+)", text))) == 2


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param("10.1.0.12", id="same rack, IPv4"),
        pytest.param("fd00:1::12", id="same rack, IPv6"),
        pytest.param("10.2.0.21", id="other rack, IPv4"),
        pytest.param("fd00:2::21", id="other rack, IPv6"),
        pytest.param("10.101.0.1", id="gateway of the first pool"),
        pytest.param("10.101.1.1", id="gateway of the second pool"),
        pytest.param("fd00:101::1", id="gateway of the IPv6 pool"),
    ],
)
def test_a_server_reaches(lab: Lab, destination: str) -> None:
    assert pings(lab, "s11", destination)


def test_traffic_in_a_rack_is_routed_by_the_tor_not_bridged(lab: Lab) -> None:
    gateway = json.loads(lab.node("r1a").run(["ip", "-j", "link", "show", "gw"]).stdout)[0]["address"]
    assert pings(lab, "s11", "10.1.0.12")
    table = json.loads(lab.node("s11").run(["ip", "-j", "neigh", "show", "to", "10.1.0.12"]).stdout)
    assert table[0]["lladdr"] == gateway


ACCEPTED = {
    "ipv4": ["10.101.0.20/32 next-hop 10.1.0.11", "10.101.1.20/32 next-hop 10.1.0.11 community [65000:911]"],
    "ipv6": ["fd00:101::20/128 next-hop fd00:1::11", "fd00:101::21/128 next-hop fd00:1::11 community [65000:911]"],
}
REFUSED = {
    "ipv4": {
        "another rack's pool": "10.102.0.20/32 next-hop 10.1.0.11",
        "a whole pool": "10.101.0.0/24 next-hop 10.1.0.11",
        "two addresses": "10.101.0.22/31 next-hop 10.1.0.11",
        "the default route": "0.0.0.0/0 next-hop 10.1.0.11",
        "another server as next hop": "10.101.0.23/32 next-hop 10.1.0.12",
        "another host's address": "10.1.0.12/32 next-hop 10.1.0.11",
        "a ToR's address": "10.255.1.2/32 next-hop 10.1.0.11",
        "the pool's gateway": "10.101.0.1/32 next-hop 10.1.0.11",
    },
    "ipv6": {
        "another rack's pool": "fd00:102::20/128 next-hop fd00:1::11",
        "a whole pool": "fd00:101::/64 next-hop fd00:1::11",
        "two addresses": "fd00:101::22/127 next-hop fd00:1::11",
        "the default route": "::/0 next-hop fd00:1::11",
        "another server as next hop": "fd00:101::23/128 next-hop fd00:1::12",
        "another host's address": "fd00:1::12/128 next-hop fd00:1::11",
        "the pool's gateway": "fd00:101::1/128 next-hop fd00:1::11",
    },
}
CRASHED = "10.101.0.20/32"


def prefixes(routes: list[str]) -> set[str]:
    return {route.split()[0] for route in routes}


@pytest.mark.parametrize("tor", ["r1a", "r1b"])
def test_a_tor_takes_only_host_routes_of_its_pools_from_the_server_that_has_them(lab: Lab, tor: str) -> None:
    routes = {family: ACCEPTED[family] + list(REFUSED[family].values()) for family in ACCEPTED}
    with announcing(lab, "s11", routes):
        for family, announced in routes.items():
            neighbour = f"show bgp {family} unicast neighbors {ADDRESSES['s11']}"
            received = f"{neighbour} received-routes"
            eventually(
                lambda received=received, announced=announced: (
                    set(lab.vtysh_json(tor, received)["receivedRoutes"]) >= prefixes(announced)
                ),
                f"{tor} hearing every {family} route",
            )
            assert set(lab.vtysh_json(tor, f"{neighbour} routes")["routes"]) == prefixes(ACCEPTED[family])


def test_a_racks_506_addresses_fit_and_refused_routes_do_not_count(lab: Lab) -> None:
    pods = [f"10.101.{third}.{fourth}" for third in (0, 1) for fourth in range(2, 255)]
    refused = [f"10.102.{third}.{fourth}" for third in range(3) for fourth in range(1, 251)]
    with announcing(lab, "s11", {"ipv4": [f"{address}/32 next-hop 10.1.0.11" for address in refused + pods]}):
        wanted = {f"{address}/32" for address in pods}
        eventually(lambda: wanted <= host_routes(lab, "r1a"), "r1a taking every pod's route")
        assert session(lab, "r1a", "s11") == "Established"


def test_too_many_routes_end_the_session(lab: Lab) -> None:
    flood = [f"fd00:101::{number:x}/128 next-hop fd00:1::11" for number in range(0x100, 0x100 + 610)]
    with announcing(lab, "s11", {"ipv6": flood}):
        for tor in ("r1a", "r1b"):
            eventually(lambda tor=tor: session(lab, tor, "s11") == "Idle (PfxCt)", f"{tor} closing the session")


def test_a_tor_keeps_the_routes_of_a_crashed_speaker_for_its_restart_time(lab: Lab) -> None:
    with announcing(lab, "s11", ACCEPTED, graceful_restart_s=8) as speaker:
        eventually(lambda: CRASHED in host_routes(lab, "r1a"), "the route on r1a")
        speaker.kill()
        eventually(lambda: is_stale(lab, "r1a", CRASHED), "r1a noticing")
        assert CRASHED in host_routes(lab, "r1a")
        eventually(lambda: CRASHED not in host_routes(lab, "r1a"), "the end of the restart time")


def test_without_graceful_restart_a_crashed_speakers_routes_go_at_once(lab: Lab) -> None:
    with announcing(lab, "s11", ACCEPTED) as speaker:
        eventually(lambda: CRASHED in host_routes(lab, "r1a"), "the route on r1a")
        speaker.kill()
        eventually(lambda: CRASHED not in host_routes(lab, "r1a"), "the route's end", 8)


def is_stale(lab: Lab, tor: str, prefix: str) -> bool:
    return any(path.get("stale") for path in lab.vtysh_json(tor, f"show bgp ipv4 unicast {prefix}").get("paths", []))


def test_host_routes_stay_in_the_rack_and_steered_ones_reach_the_spines(lab: Lab) -> None:
    plain, steered = {"10.101.0.20/32", "fd00:101::20/128"}, {"10.101.1.20/32", "fd00:101::21/128"}
    subnets = {"10.101.0.0/24", "10.101.1.0/24", "fd00:101::/64"}
    assert not subnets & set(lab.kernel_routes("sp1")), "pools are announced only while they have pods"
    with announcing(lab, "s11", ACCEPTED):
        for tor in ("r1a", "r1b"):
            eventually(lambda tor=tor: plain | steered <= host_routes(lab, tor), f"host routes on {tor}")
        for router in ("sp1", "sp2", "r2a", "r2b"):
            eventually(lambda router=router: subnets <= set(lab.kernel_routes(router)), f"subnets on {router}")
        for spine in ("sp1", "sp2"):
            eventually(lambda spine=spine: steered <= host_routes(lab, spine), f"steered routes on {spine}")
            assert not plain & host_routes(lab, spine)
            path = lab.vtysh_json(spine, "show bgp ipv4 unicast 10.101.1.20/32")["paths"][0]
            assert "community" not in path, "the community is for the ToR alone"
        for tor in ("r2a", "r2b"):
            assert not (plain | steered) & host_routes(lab, tor)
    eventually(lambda: not subnets & set(lab.kernel_routes("sp1")), "pools without pods leaving the spines", 60)


def test_a_cut_server_link_moves_its_host_routes_to_the_other_tor(lab: Lab) -> None:
    mine = {"10.1.0.11/32", "fd00:1::11/128"}
    lab.cut("r1a:s11")
    try:
        eventually(lambda: not any(is_local(lab, "r1a", prefix) for prefix in mine), "r1a dropping its host routes")
        assert all(is_local(lab, "r1b", prefix) for prefix in mine)
        eventually(lambda: answers(lab, "s21", "10.1.0.11", 10) == 10, "all paths going round by r1b")
        eventually(lambda: answers(lab, "s21", "fd00:1::11", 10) == 10, "and IPv6's")
    finally:
        lab.restore("r1a:s11")
        lab.wait_ready()
    assert all(is_local(lab, "r1a", prefix) for prefix in mine)


def is_local(lab: Lab, tor: str, prefix: str) -> bool:
    return lab.kernel_routes(tor).get(prefix, {}).get("dev") == "gw"


def test_a_tor_without_a_way_out_sends_its_servers_away(lab: Lab) -> None:
    uplinks, ports = ("r1a:up1", "r1a:up2"), ("s11", "s12")
    for uplink in uplinks:
        lab.cut(uplink)
    try:
        eventually(lambda: not any(is_up(lab, "r1a", port) for port in ports), "r1a closing its server ports")
        assert all(is_up(lab, "r1b", port) for port in ports)
        eventually(lambda: answers(lab, "s11", "10.2.0.21", 10) == 10, "all paths leaving by r1b")
    finally:
        for uplink in uplinks:
            lab.restore(uplink)
        lab.wait_ready()
    assert all(is_up(lab, "r1a", port) for port in ports)
    eventually(lambda: answers(lab, "s11", "fd00:2::21") == 20, "IPv6 comes back with the links")


def is_up(lab: Lab, node: str, interface: str) -> bool:
    return lab.node(node).path(f"/sys/class/net/{interface}/operstate").read_text().strip() == "up"


@pytest.mark.parametrize(
    ("node", "daemon"), [("r1a", "bgpd"), ("r1a", "zebra"), ("r1a", "ovs-vswitchd"), ("r1a", "tord")]
)
def test_a_tors_daemon_comes_back_after_a_crash(lab: Lab, node: str, daemon: str) -> None:
    before = lab.node(node).daemon_pid(daemon)
    lab.node(node).kill_daemon(daemon)
    lab.node(node).start_daemon(daemon)
    lab.wait_ready()
    assert lab.node(node).daemon_pid(daemon) != before
    table = json.loads(lab.node(node).run(["ip", "-j", "-6", "route", "show"]).stdout)
    found = [route["dst"] for route in table if route["dst"] != "fe80::/64"]
    assert sorted(found) == sorted(set(found)), "a leftover beside the route that replaced it"
    assert pings(lab, "s11", "10.2.0.21")


def test_a_servers_switch_comes_back_with_the_hosts_addresses(lab: Lab) -> None:
    lab.node("s11").kill_daemon("ovs-vswitchd")
    lab.node("s11").start_daemon("ovs-vswitchd")
    lab.wait_ready()
    assert pings(lab, "s11", "10.2.0.21")
    assert pings(lab, "s11", "fd00:2::21")


def test_the_status_page_shows_bonds_sessions_and_routes(lab: Lab) -> None:
    command = [sys.executable, "-m", "containerlab", "status", "--name", lab.name]

    def page() -> Any:
        return json.loads(subprocess.run([*command, "--output", "json"], capture_output=True, check=True).stdout)

    def attached() -> bool:
        return {member["state"] for member in page()["members"]} == {"current attached"}

    eventually(attached, "every member current and attached")
    document = page()
    assert len(document["members"]) == 8
    assert {entry["router"] for entry in document["sessions"]} == {"sp1", "sp2", "r1a", "r1b", "r2a", "r2b"}
    assert document["routes"]["10.1.0.0/24"]["r1a"] == ["gw"]
    assert document["routes"]["10.1.0.0/24"]["r2a"] == ["up1", "up2"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "02:00:00:00:01:fe port 111" in text
    assert "fd00:102::1/128" in text
