"""What happens to packets: they run through the flows that the pipeline returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from ovs_flows import meters
from ovs_flows.errors import PipelineError
from ovs_flows.model import LOCAL, Flow, Match, Output, PopVlan, SetField, flows_of, groups_of, meters_of
from ovs_flows.pipeline import BridgeView, Endpoint, base, endpoint
from ovs_flows.tables import CLASSIFY, DESTINATION, POD, TABLES, TOR, check
from tests.fakes.switch import BROADCAST, Packet, Switch, arp, icmpv6, ip

HOST_MAC, GATEWAY_MAC = "02:aa:00:00:00:10", "02:00:00:00:01:01"
HOST4, HOST6 = "10.1.0.11", "fd00:1::11"
POOL4, POOL6 = "10.101.0.0/24", "fd00:101::/64"
OUTSIDE4, OUTSIDE6 = "10.102.0.7", "fd00:102::7"
UNKNOWN4, UNKNOWN6 = "10.101.0.200", "fd00:101::200"
CLUSTER_IP = "10.96.0.10"
ALL_ROUTERS = "33:33:00:00:00:02"
POD_GATEWAY_MAC = "0e:00:00:00:00:01"
"""What pods believe: any constant does, the bridge writes the real one."""

VIEW = BridgeView(
    uplinks=(1,),
    host_mac=HOST_MAC,
    gateway_mac=GATEWAY_MAC,
    host_addresses=(ip_address(HOST4), ip_address(HOST6)),
    pools=(ip_network(POOL4), ip_network(POOL6)),
    services=(ip_network("10.96.0.0/16"),),
)


def pod(number: int) -> Endpoint:
    return Endpoint(
        ofport=1000 + number,
        mac=f"0a:58:0a:65:00:{number:02x}",
        addresses=(ip_address(f"10.101.0.{number}"), ip_address(f"fd00:101::{number:x}")),
        gateways=(ip_address("10.101.0.1"), ip_address("fd00:101::1")),
    )


A, B = pod(11), pod(12)
PORT_A, PORT_B = 1011, 1012
A4, A6, B4, B6 = "10.101.0.11", "fd00:101::b", "10.101.0.12", "fd00:101::c"


class Net(NamedTuple):
    """The addresses of one family."""

    a: str
    b: str
    outside: str
    unknown: str
    host: str


@pytest.fixture(params=["v4", "v6"])
def net(request: pytest.FixtureRequest) -> Net:
    if request.param == "v4":
        return Net(A4, B4, OUTSIDE4, UNKNOWN4, HOST4)
    return Net(A6, B6, OUTSIDE6, UNKNOWN6, HOST6)


@pytest.fixture(params=[None, 108], ids=["untagged", "vlan"])
def vlan(request: pytest.FixtureRequest) -> int | None:
    tag: int | None = request.param
    return tag


@pytest.fixture(params=[(1,), (1, 2)], ids=["one-uplink", "two-uplinks"])
def view(request: pytest.FixtureRequest, vlan: int | None) -> BridgeView:
    return replace(VIEW, vlan=vlan, uplinks=request.param)


@pytest.fixture
def switch(view: BridgeView) -> Switch:
    return Switch.of(base(view), endpoint(A), endpoint(B))


def tagged(packet: Packet, vlan: int | None) -> Packet:
    return packet if vlan is None else packet.set("vlan_vid", 0x1000 | vlan)


def from_pod(source: str, destination: str, mac: str = A.mac) -> Packet:
    return ip(mac, POD_GATEWAY_MAC, source, destination)


# --- what must arrive ------------------------------------------------------------------------------------------------


def test_pod_reaches_pod_of_the_same_server(switch: Switch, net: Net) -> None:
    [(port, packet)] = switch.receive(PORT_A, from_pod(net.a, net.b))
    assert port == PORT_B
    assert packet.has(eth_dst=B.mac)
    assert packet.vlan is None


def test_pod_reaches_the_world_through_the_gateway_with_the_host_as_sender(
    switch: Switch, view: BridgeView, vlan: int | None, net: Net
) -> None:
    for destination in (net.outside, net.unknown):  # an address of the pool that is not here is another server's
        [(port, packet)] = switch.receive(PORT_A, from_pod(net.a, destination))
        assert port in view.uplinks
        assert packet.has(eth_src=HOST_MAC, eth_dst=GATEWAY_MAC)
        assert packet.vlan == vlan


def test_fabric_reaches_pod_from_every_uplink(switch: Switch, view: BridgeView, vlan: int | None, net: Net) -> None:
    for uplink in view.uplinks:
        [(port, packet)] = switch.receive(uplink, tagged(ip(GATEWAY_MAC, HOST_MAC, net.outside, net.a), vlan))
        assert port == PORT_A
        assert packet.has(eth_dst=A.mac)
        assert packet.vlan is None


def test_host_and_pod_reach_each_other(switch: Switch, net: Net) -> None:
    [(port, packet)] = switch.receive(LOCAL, ip(HOST_MAC, GATEWAY_MAC, net.host, net.a))
    assert (port, packet.has(eth_dst=A.mac)) == (PORT_A, True)
    [(port, packet)] = switch.receive(PORT_A, from_pod(net.a, net.host))
    assert (port, packet.has(eth_dst=HOST_MAC)) == (LOCAL, True)


def test_host_reaches_the_fabric_and_is_reached(switch: Switch, view: BridgeView, vlan: int | None, net: Net) -> None:
    for destination in (net.outside, net.unknown):
        [(port, packet)] = switch.receive(LOCAL, ip(HOST_MAC, GATEWAY_MAC, net.host, destination))
        assert (port in view.uplinks, packet.vlan) == (True, vlan)
    for uplink in view.uplinks:
        [(port, packet)] = switch.receive(uplink, tagged(ip(GATEWAY_MAC, HOST_MAC, net.outside, net.host), vlan))
        assert (port, packet.vlan) == (LOCAL, None)


def test_cluster_ip_goes_to_the_host_from_pods_only(switch: Switch, view: BridgeView) -> None:
    [(port, packet)] = switch.receive(PORT_A, from_pod(A4, CLUSTER_IP))
    assert (port, packet.has(eth_dst=HOST_MAC)) == (LOCAL, True)
    [(port, _)] = switch.receive(LOCAL, ip(HOST_MAC, GATEWAY_MAC, HOST4, CLUSTER_IP))
    assert port in view.uplinks


# --- neighbours ------------------------------------------------------------------------------------------------------


def test_pods_arp_for_its_gateway_is_answered_with_the_gateways_mac(switch: Switch) -> None:
    [(port, answer)] = switch.receive(PORT_A, arp(1, A.mac, A4, "10.101.0.1"))
    assert port == PORT_A
    assert answer.has(eth_src=GATEWAY_MAC, eth_dst=A.mac, arp_op=2, arp_sha=GATEWAY_MAC, arp_tha=A.mac)
    assert answer.has(arp_spa="10.101.0.1", arp_tpa=A4)


def test_hosts_arp_for_a_pod_is_answered_here(switch: Switch) -> None:
    [(port, answer)] = switch.receive(LOCAL, arp(1, HOST_MAC, HOST4, A4))
    assert (port, answer.has(arp_op=2, arp_spa=A4, arp_sha=GATEWAY_MAC)) == (LOCAL, True)


def test_hosts_own_neighbour_messages_leave_by_every_uplink(switch: Switch, view: BridgeView, vlan: int | None) -> None:
    own = [
        arp(1, HOST_MAC, HOST4, "10.1.0.1"),
        arp(2, HOST_MAC, HOST4, "10.1.0.1", eth_dst=GATEWAY_MAC),
        icmpv6(135, HOST_MAC, "33:33:ff:00:00:01", HOST6, "ff02::1:ff00:1"),
        icmpv6(136, HOST_MAC, GATEWAY_MAC, HOST6, "fe80::1"),
    ]
    for packet in own:
        sent = switch.receive(LOCAL, packet)
        assert sorted(port for port, _ in sent) == list(view.uplinks)
        assert {copy.vlan for _, copy in sent} == {vlan}


def test_neighbour_messages_of_the_fabric_reach_the_host_and_no_pod(
    switch: Switch, view: BridgeView, vlan: int | None
) -> None:
    theirs = [
        arp(1, GATEWAY_MAC, "10.1.0.1", HOST4),
        arp(2, GATEWAY_MAC, "10.1.0.1", HOST4, eth_dst=HOST_MAC),
        arp(1, GATEWAY_MAC, "10.101.0.1", A4),
        icmpv6(135, GATEWAY_MAC, "33:33:ff:00:00:11", "fe80::1", "ff02::1:ff00:11"),
        icmpv6(136, GATEWAY_MAC, HOST_MAC, "fe80::1", HOST6),
        icmpv6(134, GATEWAY_MAC, "33:33:00:00:00:01", "fe80::1", "ff02::1"),
    ]
    for uplink in view.uplinks:
        for packet in theirs:
            assert [port for port, _ in switch.receive(uplink, tagged(packet, vlan))] == [LOCAL]


# --- what must not ---------------------------------------------------------------------------------------------------


def lies() -> Iterator[tuple[str, Packet]]:
    yield "another pod's address", from_pod(B4, OUTSIDE4)
    yield "another pod's IPv6 address", from_pod(B6, OUTSIDE6)
    yield "the host's address", from_pod(HOST4, OUTSIDE4)
    yield "link-local", from_pod("fe80::1", OUTSIDE6)
    yield "another MAC", from_pod(A4, OUTSIDE4, mac=B.mac)
    yield "another MAC with IPv6", from_pod(A6, OUTSIDE6, mac=B.mac)
    yield "a tag", from_pod(A4, OUTSIDE4).set("vlan_vid", 0x1000 | 108)
    yield "ARP for its neighbour", arp(1, A.mac, A4, B4)
    yield "ARP in another's name", arp(1, A.mac, B4, "10.101.0.1")
    yield "ARP with another's hardware address", arp(1, B.mac, A4, "10.101.0.1", eth_src=A.mac)
    yield "an ARP answer", arp(2, A.mac, A4, "10.101.0.1")
    yield "gratuitous ARP as the gateway", arp(1, A.mac, "10.101.0.1", "10.101.0.1")
    for kind, name in ((133, "solicits routers"), (134, "poses as router"), (135, "solicits"), (136, "advertises")):
        yield f"{name}", icmpv6(kind, A.mac, ALL_ROUTERS, A6, "ff02::2")
    yield "redirect", icmpv6(137, A.mac, POD_GATEWAY_MAC, A6, B6)
    yield "IPv4 multicast", ip(A.mac, "01:00:5e:00:00:fb", A4, "224.0.0.251")
    yield "IPv4 broadcast", ip(A.mac, BROADCAST, A4, "255.255.255.255")
    yield "IPv6 multicast", ip(A.mac, "33:33:00:00:00:01", A6, "ff02::1")
    yield "IPv4 link-local", from_pod(A4, "169.254.169.254")
    yield "IPv6 link-local", from_pod(A6, "fe80::1")
    yield "another protocol", Packet(from_pod(A4, B4).fields).set("eth_type", 0x88CC)


@pytest.mark.parametrize("lie", [pytest.param(packet, id=name) for name, packet in lies()])
def test_pod_that_lies_is_not_heard(switch: Switch, lie: Packet) -> None:
    assert switch.receive(PORT_A, lie) == []


def test_the_same_words_from_the_right_pod_are_heard(switch: Switch) -> None:
    """Negative control of the lies above."""
    assert switch.receive(PORT_B, from_pod(B4, OUTSIDE4, mac=B.mac))
    assert switch.receive(PORT_B, from_pod(B6, OUTSIDE6, mac=B.mac))
    assert switch.receive(PORT_B, arp(1, B.mac, B4, "10.101.0.1"))


def test_port_without_a_pod_is_not_heard(switch: Switch) -> None:
    assert switch.receive(1099, from_pod(A4, OUTSIDE4)) == []


def test_unknown_pool_address_from_the_fabric_is_dropped(
    switch: Switch, view: BridgeView, vlan: int | None, net: Net
) -> None:
    for uplink in view.uplinks:
        assert switch.receive(uplink, tagged(ip(GATEWAY_MAC, HOST_MAC, net.outside, net.unknown), vlan)) == []


def test_fabrics_broadcast_and_multicast_never_reach_pods(switch: Switch, view: BridgeView, vlan: int | None) -> None:
    storm = [
        ip(GATEWAY_MAC, BROADCAST, OUTSIDE4, "255.255.255.255"),
        ip(GATEWAY_MAC, BROADCAST, OUTSIDE4, A4),
        ip(GATEWAY_MAC, "01:00:5e:00:00:05", OUTSIDE4, "224.0.0.5"),
        ip(GATEWAY_MAC, "33:33:00:00:00:01", OUTSIDE6, "ff02::1"),
    ]
    for uplink in view.uplinks:
        for packet in storm:
            assert {port for port, _ in switch.receive(uplink, tagged(packet, vlan))} <= {LOCAL}


def test_hosts_broadcast_and_multicast_never_reach_pods(switch: Switch, view: BridgeView) -> None:
    for packet in (
        ip(HOST_MAC, BROADCAST, HOST4, "255.255.255.255"),
        ip(HOST_MAC, "33:33:00:00:00:01", HOST6, "ff02::1"),
        arp(1, HOST_MAC, HOST4, HOST4),
    ):
        assert {port for port, _ in switch.receive(LOCAL, packet)} <= set(view.uplinks)


def test_fabrics_frames_for_others_and_with_the_wrong_tag_are_dropped(switch: Switch, vlan: int | None) -> None:
    assert switch.receive(1, tagged(ip(GATEWAY_MAC, "02:00:00:00:99:99", OUTSIDE4, A4), vlan)) == []
    wrong = ip(GATEWAY_MAC, HOST_MAC, OUTSIDE4, A4)
    assert switch.receive(1, wrong if vlan else tagged(wrong, 7)) == []


def test_nothing_ever_leaves_by_the_uplink_that_it_came_from_or_another(
    switch: Switch, view: BridgeView, vlan: int | None
) -> None:
    for target in (
        A4,
        UNKNOWN4,
        HOST4,
        OUTSIDE4,
        CLUSTER_IP,
        "10.101.0.1",
        "255.255.255.255",
        UNKNOWN6,
        HOST6,
        OUTSIDE6,
    ):
        source = OUTSIDE6 if ":" in target else OUTSIDE4
        sent = switch.receive(1, tagged(ip(GATEWAY_MAC, HOST_MAC, source, target), vlan))
        assert not {port for port, _ in sent} & set(view.uplinks)


# --- the view changes ------------------------------------------------------------------------------------------------


def test_without_gateway_mac_nothing_leaves_but_local_traffic_flows() -> None:
    switch = Switch.of(base(replace(VIEW, gateway_mac=None)), endpoint(A), endpoint(B))
    assert switch.receive(PORT_A, from_pod(A4, OUTSIDE4)) == []
    assert switch.receive(PORT_A, arp(1, A.mac, A4, "10.101.0.1")) == []
    assert [port for port, _ in switch.receive(PORT_A, from_pod(A4, B4))] == [PORT_B]
    assert [port for port, _ in switch.receive(PORT_A, from_pod(A4, HOST4))] == [LOCAL]
    assert [port for port, _ in switch.receive(LOCAL, arp(1, HOST_MAC, HOST4, "10.1.0.1"))] == [1]


def test_without_uplink_nothing_leaves_but_local_traffic_flows() -> None:
    switch = Switch.of(base(replace(VIEW, uplinks=())), endpoint(A), endpoint(B))
    assert switch.receive(PORT_A, from_pod(A4, OUTSIDE4)) == []
    assert switch.receive(LOCAL, ip(HOST_MAC, GATEWAY_MAC, HOST4, OUTSIDE4)) == []
    assert [port for port, _ in switch.receive(PORT_A, from_pod(A4, B4))] == [PORT_B]


def test_uplinks_share_the_traffic_and_a_dead_one_gets_none() -> None:
    switch = Switch.of(base(replace(VIEW, uplinks=(1, 2))), endpoint(A))

    def used() -> set[int]:
        return {port for n in range(8) for port, _ in switch.receive(PORT_A, from_pod(A4, OUTSIDE4), flow_hash=n)}

    assert used() == {1, 2}
    switch.dead_ports = {1}
    assert used() == {2}


def test_pod_that_left_is_neither_heard_nor_reached(switch: Switch, vlan: int | None) -> None:
    switch.remove(endpoint(A))
    assert switch.receive(PORT_A, from_pod(A4, B4)) == []
    assert switch.receive(1, tagged(ip(GATEWAY_MAC, HOST_MAC, OUTSIDE4, A4), vlan)) == []
    assert PORT_A not in {port for port, _ in switch.receive(PORT_B, from_pod(B4, A4, mac=B.mac))}


def test_install_twice_is_install_once(view: BridgeView, switch: Switch) -> None:
    before = switch.entries
    for part in (base(view), endpoint(B), endpoint(A), base(view)):
        switch.install(part)
    assert switch.entries == before


def test_add_and_remove_of_a_pod_leaves_no_trace(switch: Switch) -> None:
    before, guest = switch.entries, endpoint(pod(77))
    switch.install(guest)
    assert switch.entries != before
    switch.remove(guest)
    assert switch.entries == before


def test_no_two_parts_claim_the_same_flow(view: BridgeView) -> None:
    entries = [*base(view), *endpoint(A), *endpoint(B)]
    identities = [flow.identity for flow in flows_of(entries)]
    assert len(identities) == len(set(identities))


# --- declarations ----------------------------------------------------------------------------------------------------


def test_pod_costs_three_flows_with_ipv4_and_five_with_both() -> None:
    assert len(endpoint(replace(A, addresses=A.addresses[:1]))) == 3
    assert len(endpoint(replace(A, addresses=A.addresses[1:]))) == 2
    assert len(endpoint(A)) == 5


def test_a_policed_pods_packets_go_through_its_meters_and_nobody_elses(view: BridgeView, vlan: int | None) -> None:
    policed = replace(A, to_pod=meters.to_pod(12, 10**6), from_pod=meters.from_pod(12, 10**6))
    switch = Switch.of(base(view), endpoint(policed), endpoint(B))
    assert set(meters_of(switch.entries)) == {policed.to_pod, policed.from_pod}
    for packet, port, metered in (
        (from_pod(A4, B4), PORT_A, [24]),
        (from_pod(A4, OUTSIDE4), PORT_A, [24]),
        (from_pod(B4, A4, mac=B.mac), PORT_B, [23]),
        (from_pod(B4, OUTSIDE4, mac=B.mac), PORT_B, []),
        (tagged(ip(GATEWAY_MAC, HOST_MAC, OUTSIDE4, A4), vlan), 1, [23]),
        (tagged(ip(GATEWAY_MAC, HOST_MAC, OUTSIDE4, B4), vlan), 1, []),
    ):
        switch.metered.clear()
        assert len(switch.receive(port, packet)) == 1
        assert switch.metered == metered


def test_two_policed_pods_are_both_counted() -> None:
    one = replace(A, from_pod=meters.from_pod(12, 10**6))
    two = replace(B, to_pod=meters.to_pod(13, 10**6))
    switch = Switch.of(base(VIEW), endpoint(one), endpoint(two))
    assert len(switch.receive(PORT_A, from_pod(A4, B4))) == 1
    assert switch.metered == [24, 25]


def test_group_exists_only_for_several_uplinks() -> None:
    assert groups_of(base(VIEW)) == []
    assert len(groups_of(base(replace(VIEW, uplinks=(1, 2))))) == 1


def test_every_flow_obeys_its_table(view: BridgeView) -> None:
    check(flows_of([*base(view), *endpoint(A)]))


def test_tables_only_lead_onwards_to_tables_that_exist() -> None:
    for table in TABLES.values():
        assert all(target in TABLES and target > table.number for target in table.next)
        assert table.purpose


@pytest.mark.parametrize(
    "flow",
    [
        Flow(POD.number, 1, Match.of(eth_dst=HOST_MAC)),
        Flow(DESTINATION.number, 1, Match(), (PopVlan(),)),
        Flow(CLASSIFY.number, 1, Match(), (SetField("eth_src", 1),)),
        Flow(POD.number, 1, Match(), (), TOR.number),
        Flow(POD.number, 1, Match(), (Output(1),)),
        Flow(99, 1),
    ],
    ids=["match", "action", "field", "goto", "output", "table"],
)
def test_what_a_table_does_not_permit_is_refused(flow: Flow) -> None:
    with pytest.raises(PipelineError):
        check([flow])
