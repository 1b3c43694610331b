"""What a ToR needs, taken from the rack file alone: nothing invented, and contradictions named with their key."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from containerlab.topology import TWO_RACKS
from routed.settings import Settings, SettingsError, load
from routed.torconfig.model import Placeholder
from routed.torconfig.plan import PlanError, plan

LAB = TWO_RACKS.parent / "racks" / "r1.yaml"
EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
Edit = Callable[[dict[str, Any]], object]
Edited = Callable[[Edit], Settings]


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    def load_edited(edit: Edit) -> Settings:
        document = yaml.safe_load(LAB.read_text())
        edit(document)
        file = tmp_path / "rack.yaml"
        file.write_text(yaml.safe_dump(document))
        return load(file)

    return load_edited


def r1a(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["fabric"]["tors"]["r1a"]
    return found


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda d: d["fabric"].update(spines=[]), "fabric.spines"),
        (lambda d: d["fabric"]["gateway"].update(mac="02:00:00:00:01"), "fabric.gateway.mac"),
        (lambda d: d["fabric"]["gateway"].update(mac="03:00:00:00:01:01"), "fabric.gateway.mac.*group address"),
        (lambda d: d["fabric"]["lacp"].update(system_id="00:00:00:00:00:00"), "fabric.lacp.system_id.*nobody's"),
        (lambda d: d["fabric"]["lacp"].update(keys={"s11": 11, "s12": 11}), "fabric.lacp.*two servers have 11"),
        (lambda d: r1a(d)["uplinks"][0].update(peers=["10.254.9.2"]), r"uplinks\[0\].*10.254.9.2 is in no subnet"),
        (lambda d: r1a(d)["uplinks"][0].update(peers=["10.254.1.3"]), r"uplinks\[0\].*own end"),
        (lambda d: r1a(d)["uplinks"][0].update(peers=["10.254.1.2", "10.254.1.2"]), r"uplinks\[0\].*one of IPv4"),
        (lambda d: r1a(d)["uplinks"][1].update(interface="up1"), "fabric.tors.r1a.*up1 is named twice"),
        (lambda d: r1a(d)["ports"].update(s12="up1"), "fabric.tors.r1a.*up1 is named twice"),
        (lambda d: r1a(d)["uplinks"].append({**r1a(d)["uplinks"][0], "interface": "up3"}), "two have the peer"),
    ],
)
def test_a_mistake_in_the_fabric_section_is_refused_with_its_key(edited: Edited, edit: Edit, key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        edited(edit)


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda d: d["fabric"]["tors"].update(r9a={}), "fabric.tors.r9a: no such ToR"),
        (lambda d: r1a(d)["ports"].update(s99="up9"), "fabric.tors.r1a.ports.s99: no such server"),
        (lambda d: d["fabric"]["lacp"]["keys"].update(s99=99), "fabric.lacp.keys.s99: no such server"),
        (lambda d: d["tors"][1].update(asn=65011), "tors: r1a and r1b share AS 65011"),
        (lambda d: d["fabric"].update(maximum_routes=505), "fabric.maximum_routes.*505"),
        (lambda d: d["tors"][0].update(address="fd00:255::1"), "fabric.tors.r1a.router_id"),
        (lambda d: d["steering"].update(community="65536:911"), "steering.community.*does not fit"),
        (
            lambda d: (r1a(d).update(router_id="10.255.1.1"), d["tors"][0].update(address="fd00:255::1")),
            None,
        ),
        (
            lambda d: (
                d["servers"]["s11"].update(addresses=["10.1.0.11"]),
                r1a(d).update(router_id="10.255.1.1"),
                d["tors"][0].update(address="fd00:255::1"),
            ),
            "servers.s11.addresses: none is IPv6",
        ),
    ],
)
def test_a_contradiction_is_refused_with_its_key(edited: Edited, edit: Edit, key: str | None) -> None:
    settings = edited(edit)
    if key is None:
        assert str(plan(settings, "r1a").router_id) == "10.255.1.1"
        return
    with pytest.raises(PlanError, match=key):
        plan(settings, "r1a")


def test_the_limit_of_routes_follows_the_pools_unless_it_is_set(edited: Edited) -> None:
    assert plan(load(LAB), "r1a").maximum_routes == 600
    assert plan(edited(lambda d: d["fabric"].update(maximum_routes=506)), "r1a").maximum_routes == 506
    assert plan(edited(lambda d: d["pools"].pop(0)), "r1a").maximum_routes == 300
    assert plan(edited(lambda d: d.update(pools=d["pools"][2:])), "r1a").maximum_routes == 600


def test_a_tor_that_is_not_listed_is_refused() -> None:
    with pytest.raises(PlanError, match="there is no ToR 'r2a' in this rack; there are r1a, r1b"):
        plan(load(LAB), "r2a")


def test_no_pod_has_what_ipam_never_hands_out() -> None:
    found = plan(load(LAB), "r1a")
    assert found.pools[0].barred == tuple(map(ip_network, ("10.101.0.0/32", "10.101.0.1/32", "10.101.0.255/32")))
    assert found.pools[2].barred == tuple(map(ip_network, ("fd00:101::/128", "fd00:101::1/128", "fd00:101::2/127")))


def test_a_reserved_prefix_that_holds_the_gateway_is_listed_once(edited: Edited) -> None:
    found = plan(edited(lambda d: d["pools"][0].update(reserved=["10.101.0.0/28"])), "r1a")
    assert found.pools[0].barred == (ip_network("10.101.0.0/28"), ip_network("10.101.0.255/32"))


def test_the_two_tors_share_what_servers_see_and_nothing_else() -> None:
    one, two = (plan(load(LAB), tor) for tor in ("r1a", "r1b"))
    for common in ("gateway_mac", "system_id", "hosts", "pools", "community", "hold_s", "maximum_routes"):
        assert getattr(one, common) == getattr(two, common)
    assert [server.key for server in one.servers] == [server.key for server in two.servers] == [11, 12]
    for own in ("asn", "loopback", "router_id", "uplinks", "letter"):
        assert getattr(one, own) != getattr(two, own)
    assert (one.twin, two.twin) == ("r1b", "r1a")
    assert one.port_ids[1] < two.port_ids[0]


def test_what_the_rack_file_does_not_say_is_a_placeholder() -> None:
    found = plan(load(EXAMPLE), "r1a")
    unknown = [
        found.gateway_interface,
        found.gateway_mac,
        found.system_id,
        *(server.port for server in found.servers),
        *(server.key for server in found.servers),
        *(uplink.interface for uplink in found.uplinks),
        *(address for uplink in found.uplinks for address in uplink.addresses.values()),
        *(session.peer for uplink in found.uplinks for session in uplink.sessions),
        *(session.asn for uplink in found.uplinks for session in uplink.sessions),
    ]
    assert all(isinstance(value, Placeholder) for value in unknown)
    assert found.gateway_mac == "<gateway-mac>"


@pytest.mark.parametrize(("port", "passive"), [(179, False), (None, True), (1790, True)])
def test_a_tor_waits_for_speakers_that_do_not_listen_on_bgps_port(
    edited: Edited, port: int | None, passive: bool
) -> None:
    assert plan(edited(lambda d: d["bgp"].update(listen_port=port)), "r1a").passive is passive


def test_a_secret_is_a_placeholder_unless_it_is_given(edited: Edited) -> None:
    settings = edited(lambda d: d["bgp"].update({"password_file": "/etc/routed/secret"}))
    assert plan(settings, "r1a").md5 == "<md5-key>"
    assert plan(settings, "r1a", md5="of both").md5 == "of both"
    assert plan(load(LAB), "r1a").md5 is None
    with pytest.raises(PlanError, match=r"the rack has none \(bgp\.password_file"):
        plan(load(LAB), "r1a", md5="of one side only")


def test_ipv6_routes_take_the_ipv4_session_only_where_there_is_no_other(edited: Edited) -> None:
    def both(document: dict[str, Any]) -> None:
        r1a(document)["uplinks"][0]["peers"] = ["10.254.1.2", "fd00:254:1::2"]

    found = plan(edited(both), "r1a").spine_groups
    families = {str(session.peer): session.families for sessions in found.values() for session in sessions}
    assert families == {"10.254.1.2": (4,), "fd00:254:1::2": (6,), "10.254.2.2": (4, 6)}
    assert list(found) == ["SPINE", "SPINE4", "SPINE6"]
