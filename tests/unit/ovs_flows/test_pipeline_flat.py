"""A flat network that shares the bridge with pods: switched as before, and nobody gets across but by the gateway."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from ovs_flows.model import LOCAL
from ovs_flows.pipeline import BridgeView, Flat, base, endpoint
from ovs_flows.rows import NOWHERE
from tests.fakes.switch import BROADCAST, Packet, Switch, arp, icmpv6, ip, packet
from tests.golden.pipelines import DUAL, POD

VLAN, FLAT_VLAN = 108, 200
UPLINK, FIRST, SECOND, TRUNK, ELSEWHERE, POD_PORT = 1, 7, 8, 9, 10, POD.ofport
HOST_MAC, GATEWAY_MAC = DUAL.host_mac, "02:00:00:00:01:01"
MAC, OTHER_MAC, FAR_MAC, FLAT_GATEWAY_MAC = (f"02:02:0a:bd:1a:{last:02x}" for last in (0xEC, 0xED, 0xEE, 1))
ADDRESS, OTHER, FAR, FLAT_GATEWAY = "10.189.26.236", "10.189.26.237", "10.189.26.9", "10.189.26.1"
POD4, POD6, HOST4 = "10.101.0.11", "fd00:101::b", "10.1.0.11"

WITHOUT = replace(DUAL, vlan=VLAN)
VIEW = replace(
    WITHOUT,
    flat=Flat((FLAT_VLAN,), (ip_network("10.189.26.0/24"), ip_network("fd00:26::/64")), (FIRST, SECOND), (TRUNK,)),
)


def switch_of(view: BridgeView, *, pods_nowhere: bool = True) -> Switch:
    switch = Switch.of(base(view), endpoint(POD))
    access = {FIRST: FLAT_VLAN, SECOND: FLAT_VLAN, ELSEWHERE: 300}
    switch.vlans = {UPLINK: None, LOCAL: None, TRUNK: None, **access, POD_PORT: NOWHERE if pods_nowhere else None}
    return switch


@pytest.fixture
def switch() -> Switch:
    return switch_of(VIEW)


def tagged(untagged: Packet, vlan: int = FLAT_VLAN) -> Packet:
    return untagged.set("vlan_vid", 0x1000 | vlan)


def where(sent: list[tuple[int, Packet]]) -> dict[int, int | None]:
    """Return the ports that a packet left by, and its tag there."""
    return {port: copy.vlan for port, copy in sent}


# --- as before -------------------------------------------------------------------------------------------------------


def test_flat_pods_find_each_other_by_arp_and_are_switched(switch: Switch) -> None:
    asked = switch.receive(FIRST, arp(1, MAC, ADDRESS, OTHER))
    assert where(asked) == {SECOND: None, TRUNK: FLAT_VLAN, UPLINK: FLAT_VLAN, LOCAL: FLAT_VLAN}
    answered = switch.receive(SECOND, arp(2, OTHER_MAC, OTHER, ADDRESS, eth_dst=MAC))
    assert where(answered) == {FIRST: None}
    assert where(switch.receive(FIRST, ip(MAC, OTHER_MAC, ADDRESS, OTHER))) == {SECOND: None}


def test_flat_pods_of_two_servers_are_switched_with_the_tag_on_the_uplink(switch: Switch) -> None:
    assert where(switch.receive(UPLINK, tagged(arp(1, FAR_MAC, FAR, ADDRESS)))).keys() == {FIRST, SECOND, TRUNK, LOCAL}
    assert where(switch.receive(FIRST, ip(MAC, FAR_MAC, ADDRESS, FAR))) == {UPLINK: FLAT_VLAN}
    assert where(switch.receive(UPLINK, tagged(ip(FAR_MAC, MAC, FAR, ADDRESS)))) == {FIRST: None}


def test_a_port_that_tags_for_itself_takes_part_with_that_tag_alone(switch: Switch) -> None:
    assert FIRST in where(switch.receive(TRUNK, tagged(arp(1, OTHER_MAC, OTHER, ADDRESS))))
    for vlan in (VLAN, 300):
        assert switch.receive(TRUNK, tagged(arp(1, OTHER_MAC, OTHER, ADDRESS), vlan)) == []
    assert switch.receive(TRUNK, arp(1, OTHER_MAC, OTHER, ADDRESS)) == []


def test_who_has_no_address_yet_may_ask_for_one_and_ipv6_finds_its_neighbours(switch: Switch) -> None:
    for early in (
        ip(MAC, BROADCAST, "0.0.0.0", "255.255.255.255"),  # noqa: S104 - as DHCP has it
        arp(1, MAC, "0.0.0.0", ADDRESS),  # noqa: S104 - RFC 5227
        icmpv6(135, MAC, "33:33:ff:00:00:01", "::", "ff02::1:ff00:1"),
        icmpv6(135, MAC, "33:33:ff:00:00:01", "fe80::1", "ff02::1:ff00:1"),
        packet(eth_src=MAC, eth_dst=BROADCAST, eth_type=0x88B5),
    ):
        assert UPLINK in where(switch.receive(FIRST, early))


# --- and no further --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nowhere", [True, False], ids=["our-ports-are-nowhere", "negative-control"])
def test_no_flood_reaches_a_routed_pod(nowhere: bool) -> None:
    switch = switch_of(VIEW, pods_nowhere=nowhere)
    floods = [
        switch.receive(FIRST, arp(1, MAC, ADDRESS, OTHER)),
        switch.receive(UPLINK, tagged(arp(1, FAR_MAC, FAR, OTHER))),
    ]
    assert [POD_PORT in where(sent) for sent in floods] == [not nowhere, not nowhere]
    assert all(SECOND in where(sent) for sent in floods)


@pytest.mark.parametrize(
    "forged",
    [
        ip(MAC, FLAT_GATEWAY_MAC, POD4, "10.102.0.7"),
        ip(MAC, FLAT_GATEWAY_MAC, "10.102.0.9", POD4),
        ip(MAC, FLAT_GATEWAY_MAC, HOST4, "10.102.0.7"),
        ip(MAC, FLAT_GATEWAY_MAC, POD6, "fd00:102::7"),
        ip(HOST_MAC, FLAT_GATEWAY_MAC, ADDRESS, "10.102.0.7"),
        arp(1, MAC, POD4, FLAT_GATEWAY),
        arp(2, MAC, HOST4, FLAT_GATEWAY),
        arp(1, HOST_MAC, ADDRESS, FLAT_GATEWAY),
    ],
    ids=["pod", "other-rack", "host", "pod-v6", "host-mac", "arp-pod", "arp-host", "arp-host-mac"],
)
def test_a_flat_pod_cannot_be_somebody_of_the_routed_network(switch: Switch, forged: Packet) -> None:
    for port, frame in ((FIRST, forged), (TRUNK, tagged(forged))):
        assert switch.receive(port, frame) == []


def test_a_flat_pod_cannot_reach_the_routed_network_but_by_its_gateway(switch: Switch) -> None:
    """Not by a tag, not by the host's MAC address, not by a pod's."""
    assert switch.receive(FIRST, tagged(ip(MAC, GATEWAY_MAC, ADDRESS, POD4), VLAN)) == []
    for target in (HOST_MAC, POD.mac):
        assert POD_PORT not in where(switch.receive(FIRST, ip(MAC, target, ADDRESS, POD4)))
    switch.receive(UPLINK, tagged(arp(2, FLAT_GATEWAY_MAC, FLAT_GATEWAY, ADDRESS, eth_dst=MAC)))
    assert where(switch.receive(FIRST, ip(MAC, FLAT_GATEWAY_MAC, ADDRESS, POD4))) == {UPLINK: FLAT_VLAN}
    back = tagged(ip(GATEWAY_MAC, HOST_MAC, ADDRESS, POD4), VLAN)
    assert where(switch.receive(UPLINK, back)) == {POD_PORT: None}
    assert where(switch.receive(POD_PORT, ip(POD.mac, BROADCAST, POD4, ADDRESS))) == {UPLINK: VLAN}


def test_a_mac_address_that_was_learned_does_not_draw_a_routed_pods_packets(switch: Switch) -> None:
    switch.receive(FIRST, ip(POD.mac, BROADCAST, ADDRESS, OTHER))
    arriving = tagged(ip(GATEWAY_MAC, HOST_MAC, "10.102.0.7", POD4), VLAN)
    assert where(switch.receive(UPLINK, arriving)) == {POD_PORT: None}


def test_a_port_of_another_vlan_stays_denied(switch: Switch) -> None:
    for frame in (arp(1, MAC, ADDRESS, OTHER), tagged(arp(1, MAC, ADDRESS, OTHER)), ip(MAC, BROADCAST, ADDRESS, POD4)):
        assert switch.receive(ELSEWHERE, frame) == []


def test_without_the_setting_its_ports_and_its_tag_are_denied() -> None:
    switch = switch_of(WITHOUT)
    assert switch.receive(FIRST, arp(1, MAC, ADDRESS, OTHER)) == []
    assert switch.receive(UPLINK, tagged(arp(1, FAR_MAC, FAR, ADDRESS))) == []


def test_nothing_of_it_remains_without_the_setting() -> None:
    assert base(replace(VIEW, flat=None)) == base(WITHOUT)


def test_routed_packets_go_as_they_go_without_a_flat_network(switch: Switch) -> None:
    alone, sender = switch_of(WITHOUT), (POD.mac, BROADCAST)
    packets = [
        *(
            (POD_PORT, ip(*sender, POD4, target))
            for target in ("10.102.0.7", "10.101.0.12", HOST4, ADDRESS, "10.96.0.1")
        ),
        (POD_PORT, ip(*sender, "10.101.0.12", HOST4)),
        (POD_PORT, ip(*sender, ADDRESS, OTHER)),
        (POD_PORT, tagged(ip(*sender, POD4, OTHER))),
        (POD_PORT, arp(1, POD.mac, POD4, "10.101.0.1")),
        (POD_PORT, arp(1, POD.mac, POD4, OTHER)),
        (LOCAL, ip(HOST_MAC, GATEWAY_MAC, HOST4, POD4)),
        (LOCAL, ip(HOST_MAC, GATEWAY_MAC, HOST4, ADDRESS)),
        (LOCAL, arp(1, HOST_MAC, HOST4, "10.1.0.1")),
        (UPLINK, tagged(arp(1, GATEWAY_MAC, "10.1.0.1", HOST4), VLAN)),
        (UPLINK, tagged(ip(GATEWAY_MAC, HOST_MAC, "10.102.0.7", POD4), VLAN)),
        (UPLINK, tagged(ip(GATEWAY_MAC, HOST_MAC, "10.102.0.7", HOST4), VLAN)),
        (UPLINK, ip(GATEWAY_MAC, HOST_MAC, "10.102.0.7", POD4)),
    ]
    for port, sent in packets:
        assert switch.receive(port, sent) == alone.receive(port, sent)
    assert sum(bool(alone.receive(port, sent)) for port, sent in packets) == 12
