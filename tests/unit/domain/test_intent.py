"""What a pod, a drained server and a lost pod mean for every plane."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.model import Attributes, RouteKey
from ovs_flows.cookies import cookie, object_of
from ovs_flows.model import LOCAL, Flow, Group, Meter, Mirror, Output, Port, UseMeter, flows_of, meters_of
from ovs_flows.rows import Stranger
from routed.domain.intent import PLANES, Intent, MirrorOf, Standing, VfPort, owners, plan
from routed.domain.rack import FlatNetwork, Rack, Server, Subnet, Tor, Uplink
from routed.domain.sides import Health, Side
from routed.domain.snapshot import Place, Snapshot
from routed.domain.wiring import (
    FENCED,
    MOST_PFS,
    VF_SLOTS,
    VFS_OF_A_PF,
    Door,
    Limit,
    Link,
    Passage,
    Vf,
    Wire,
    ofport,
    vf_slot,
)
from routed.domain.workload import Attachment, AttachmentId, PodRef, StaticRoute, Wishes

TOR_A, TOR_B = ip_address("10.255.1.1"), ip_address("10.255.1.2")
RACK = Rack(
    name="r1",
    tors=(Tor("r1a", 65011, TOR_A), Tor("r1b", 65012, TOR_B)),
    hosts=(Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),),
    pools=(
        Subnet(ip_network("10.101.0.0/24"), ip_address("10.101.0.1")),
        Subnet(ip_network("fd00:101::/64"), ip_address("fd00:101::1")),
    ),
)
POD = Attachment(
    id=AttachmentId("c1", "eth0"),
    pod=PodRef("default", "web", "u1"),
    netns="/run/netns/web",
    slot=3,
    addresses=(ip_address("10.101.0.7"), ip_address("fd00:101::7")),
    sequence=1,
)
SNAPSHOT = Snapshot(
    revision=1,
    place=Place(
        RACK,
        Server("s11", 65500, (ip_address("10.1.0.11"), ip_address("fd00:1::11"))),
        Uplink((1, 2), ("etha", "ethb"), "02:10:00:00:01:0b", "02:00:00:00:01:01", 9000),
    ),
    slots=8,
    attachments=MappingProxyType({POD.id: POD}),
)


def with_pod(**changes: object) -> Snapshot:
    pod = replace(POD, **changes)  # type: ignore[arg-type]  # the tests name fields of Attachment only
    return replace(SNAPSHOT, attachments=MappingProxyType({pod.id: pod}))


def test_a_pod_is_wired_addressed_secured_and_announced_to_both_tors() -> None:
    intent = plan(SNAPSHOT, POD.id)
    assert intent.wires == {"rt3": Wire(9000)}
    assert intent.ports == {"rt3": Port("rt3", 1003)}
    assert intent.links[POD.id] == Link(
        wire="rt3",
        netns="/run/netns/web",
        ifname="eth0",
        mac="0a:58:0a:65:00:07",
        mtu=9000,
        addresses=(ip_interface("10.101.0.7/32"), ip_interface("fd00:101::7/128")),
        gateways=(ip_address("10.101.0.1"), ip_address("fd00:101::1")),
        gateway_mac="02:10:00:00:01:0b",
    )
    assert intent.advertisements == {
        RouteKey(tor, ip_network(address)): Attributes(ip_address(next_hop))
        for tor in (TOR_A, TOR_B)
        for address, next_hop in (("10.101.0.7", "10.1.0.11"), ("fd00:101::7", "fd00:1::11"))
    }
    flows = intent.flows[cookie(4)]
    assert flows is not None
    assert len(flows) == 5
    assert any(isinstance(flow, Flow) and Output(1003) in flow.actions for flow in flows)


def test_strangers_take_part_in_a_flat_network_by_their_vlan() -> None:
    strangers = tuple(Stranger(f"v{number}", number, tag) for number, tag in ((7, 200), (8, 300), (9, None)))
    with_strangers = replace(SNAPSHOT.place, uplink=replace(SNAPSHOT.uplink, strangers=strangers))

    def ports(flat: FlatNetwork | None) -> set[int]:
        place = replace(with_strangers, rack=replace(RACK, flat=flat))
        base = plan(replace(SNAPSHOT, place=place), Standing.HOST).flows[cookie(0)] or frozenset()
        flows = [flow for flow in base if isinstance(flow, Flow) and flow.table == 0]
        return {value for flow in flows for name, value, _ in flow.match.terms if name == "in_port"} - {1, 2, LOCAL}

    assert ports(FlatNetwork((200,), (ip_network("10.189.26.0/24"),))) == {7, 9}
    assert ports(None) == set()


def test_a_pod_gets_the_mtu_and_the_routes_that_it_asks_for() -> None:
    inner, outer = ip_network("10.50.0.0/16"), ip_network("fd00:50::/48")
    asked = Wishes(mtu=1400, routes=(StaticRoute(inner), StaticRoute(outer, ip_address("fd00:101::1"))))
    intent = plan(with_pod(wishes=asked), POD.id)
    link = intent.links[POD.id]
    assert link is not None
    assert (link.mtu, link.routes) == (1400, frozenset({inner, outer}))
    assert intent.wires == {"rt3": Wire(9000)}, "the slot is the next pod's, too"
    without_ipv6 = plan(with_pod(wishes=asked, addresses=POD.addresses[:1]), POD.id).links[POD.id]
    assert without_ipv6 is not None
    assert without_ipv6.routes == {inner}


def test_a_slot_is_limited_while_its_pod_is_there() -> None:
    asked = Wishes(ingress_bps=10_000_000, egress_bps=10**15)
    assert plan(with_pod(wishes=asked), POD.id).limits == {"rt3": Limit(1_250_000, 2**32 - 1)}
    assert plan(with_pod(wishes=Wishes(egress_bps=1001)), POD.id).limits == {"rt3": Limit(None, 125)}
    for snapshot in (SNAPSHOT, with_pod(wishes=asked, leaving=True)):
        assert plan(snapshot, POD.id).limits == {"rt3": None}


def policing(snapshot: Snapshot) -> Snapshot:
    """Return the same where Open vSwitch offers flows to a NIC."""
    return replace(snapshot, place=replace(snapshot.place, uplink=replace(snapshot.uplink, polices=True)))


def test_where_flows_are_offloaded_they_police_and_the_wire_has_no_limit() -> None:
    asked = Wishes(ingress_bps=200_000_000, egress_bps=10_000_000)
    intent = plan(policing(with_pod(wishes=asked)), POD.id)
    entries = intent.flows[cookie(4)]
    assert entries is not None
    assert intent.limits == {"rt3": None}
    assert set(meters_of(entries)) == {Meter(7, 200_000, 10_000), Meter(8, 10_000, 1024)}
    used = {(flow.table, flow.actions[:1]) for flow in flows_of(entries) if flow.goto != 35}
    assert used == {(30, (UseMeter(8),)), (40, (UseMeter(7),))}
    assert len(flows_of(entries)) == 5


def test_what_a_pod_does_not_limit_is_not_policed() -> None:
    assert plan(policing(SNAPSHOT), POD.id) == plan(SNAPSHOT, POD.id)
    entries = plan(policing(with_pod(wishes=Wishes(egress_bps=10**9))), POD.id).flows[cookie(4)]
    assert entries is not None
    assert [meter.number for meter in meters_of(entries)] == [8]


def test_without_offload_nothing_is_policed() -> None:
    entries = plan(with_pod(wishes=Wishes(ingress_bps=10**7, egress_bps=10**7)), POD.id).flows[cookie(4)]
    assert entries == plan(SNAPSHOT, POD.id).flows[cookie(4)]


def test_a_policed_pod_that_leaves_takes_its_meters_along() -> None:
    leaving = plan(policing(with_pod(wishes=Wishes(egress_bps=10**9), leaving=True)), POD.id)
    assert (leaving.flows, leaving.limits) == ({cookie(4): None}, {"rt3": None})


def test_a_mirror_is_there_while_its_pod_is() -> None:
    mirror = Mirror("tap0", 900, str(POD.id))
    mirrored = replace(SNAPSHOT, mirrors=MappingProxyType({POD.id: mirror}))
    assert owners(mirrored) == (Standing.HOST, Standing.STOCK, POD.id, MirrorOf(POD.id))
    assert plan(mirrored, MirrorOf(POD.id)) == Intent(mirrors={"rt3": mirror})
    assert plan(mirrored, POD.id).mirrors == {}
    assert plan(SNAPSHOT, MirrorOf(POD.id)) == Intent(mirrors={"rt3": None})
    leaving = replace(mirrored, attachments=with_pod(leaving=True).attachments)
    assert plan(leaving, MirrorOf(POD.id)) == Intent()
    assert plan(leaving, POD.id).mirrors == {"rt3": None}


def test_the_next_pod_of_a_slot_is_not_mirrored() -> None:
    gone = AttachmentId("c0", "eth0")
    left = replace(SNAPSHOT, mirrors=MappingProxyType({gone: Mirror("tap0", 900, str(gone))}))
    assert plan(left, MirrorOf(gone)) == Intent()
    assert plan(left, POD.id).mirrors == {"rt3": None}


def test_an_mtu_that_the_uplink_does_not_take_any_more_is_the_uplinks() -> None:
    uplink = replace(SNAPSHOT.uplink, mtu=1300)
    snapshot = replace(with_pod(wishes=Wishes(mtu=1400)), place=replace(SNAPSHOT.place, uplink=uplink))
    link = plan(snapshot, POD.id).links[POD.id]
    assert link is not None
    assert link.mtu == 1300


def test_a_leaving_pod_keeps_its_plugged_slot_and_nothing_else() -> None:
    intent = plan(with_pod(leaving=True), POD.id)
    assert intent.wires == {}
    assert intent.ports == {}
    for plane in (intent.links, intent.flows, intent.advertisements):
        assert set(plane.values()) == {None}
    assert intent.advertisements.keys() == plan(SNAPSHOT, POD.id).advertisements.keys()


def test_a_drained_server_withdraws_and_keeps_its_pods_connected() -> None:
    intent = plan(replace(SNAPSHOT, draining=True), POD.id)
    assert set(intent.advertisements.values()) == {None}
    assert intent.links == plan(SNAPSHOT, POD.id).links
    assert intent.flows == plan(SNAPSHOT, POD.id).flows


def test_no_route_without_a_next_hop_of_its_family() -> None:
    server = Server("s11", 65500, (ip_address("10.1.0.11"),))
    place = replace(SNAPSHOT.place, server=server)
    keys = plan(replace(SNAPSHOT, place=place), POD.id).advertisements.keys()
    assert {key.prefix.version for key in keys} == {4}


def test_the_stock_keeps_every_slot_plugged() -> None:
    intent = plan(SNAPSHOT, Standing.STOCK)
    assert list(intent.wires) == list(intent.ports) == [f"rt{slot}" for slot in range(8)]


def test_the_host_needs_only_flows_and_follows_the_gateway() -> None:
    before = plan(SNAPSHOT, Standing.HOST)
    place = replace(SNAPSHOT.place, uplink=replace(SNAPSHOT.uplink, gateway_mac="02:00:00:00:01:99"))
    after = plan(replace(SNAPSHOT, place=place), Standing.HOST)
    assert list(before.flows) == [cookie(0)]
    assert before.flows != after.flows
    assert [name for name, objects in zip(PLANES, before, strict=True) if objects] == ["flows"]


VFS = {4097: Vf("pf0vf1", "0000:03:00.3"), 4352: Vf("pf1vf0", "0000:03:08.2")}


def with_vf(**changes: object) -> Snapshot:
    """A pod that has VF 1 of the first PF."""
    asked = Wishes(device="0000:03:00.3", ingress_bps=10**6)
    snapshot = with_pod(**{"slot": 4097, "wishes": asked, **changes})
    return replace(snapshot, place=replace(SNAPSHOT.place, vfs=VFS))


def test_a_pod_with_a_vf_differs_in_what_it_hangs_on_alone() -> None:
    plain, intent = plan(SNAPSHOT, POD.id), plan(with_vf(), POD.id)
    assert intent.representors == {"pf0vf1": Wire(9000)}
    assert intent.ports == {"pf0vf1": Port("pf0vf1", 5097)}
    link = plain.links[POD.id]
    assert link is not None
    assert intent.vf_links == {POD.id: replace(link, wire="pf0vf1")}
    assert [dict(intent.wires), dict(intent.links), dict(intent.limits)] == [{}, {}, {}]
    assert intent.advertisements == plain.advertisements
    flows = intent.flows[cookie(4098)]
    assert flows is not None
    assert any(isinstance(flow, Flow) and Output(5097) in flow.actions for flow in flows)
    assert len(list(meters_of(flows))) == 1, "its limit; a NIC that forwards by itself passes no token bucket"


def test_a_pod_with_a_vf_that_leaves_leaves_its_representor_plugged() -> None:
    intent = plan(with_vf(leaving=True), POD.id)
    assert intent.vf_links == {POD.id: None}
    assert intent.flows == {cookie(4098): None}
    assert [name for name, objects in zip(PLANES, intent, strict=True) if objects] == [
        "vf_links",
        "flows",
        "mirrors",
        "advertisements",
    ]


def test_all_representors_are_ready_before_any_pod_comes() -> None:
    snapshot = with_vf()
    assert owners(snapshot) == (Standing.HOST, Standing.STOCK, VfPort(4097), VfPort(4352), POD.id)
    for slot, name in ((4097, "pf0vf1"), (4352, "pf1vf0")):
        intent = plan(snapshot, VfPort(slot))
        assert intent.representors == {name: Wire(9000)}
        assert intent.ports == {name: Port(name, 1000 + slot)}
        assert [name for name, objects in zip(PLANES, intent, strict=True) if objects] == ["representors", "ports"]
    assert plan(snapshot, VfPort(4098)) == Intent(), "one that went"


@pytest.mark.parametrize("device", ["0000:03:00.2", None])
def test_a_slot_that_is_another_vfs_by_now_is_never_taken_for_the_pods(device: str | None) -> None:
    intent = plan(with_vf(wishes=Wishes(device=device)), POD.id)
    assert set(intent.representors) == set(intent.ports) == {"rt4097"}, "which does not exist"


@given(st.integers(0, MOST_PFS - 1), st.integers(0, VFS_OF_A_PF - 1), st.integers(0, VF_SLOTS - 1))
def test_slots_of_vfs_are_nobody_elses_and_ports_that_open_vswitch_can_have(pf: int, index: int, other: int) -> None:
    slot = vf_slot(pf, index)
    assert slot != other
    assert divmod(slot - VF_SLOTS, VFS_OF_A_PF) == (pf, index)
    assert 0 < ofport(slot) < 65280
    assert object_of(cookie(slot + 1)) == slot + 1


@pytest.mark.parametrize(("pf", "index"), [(MOST_PFS, 0), (0, VFS_OF_A_PF), (-1, 0)])
def test_there_is_no_slot_for_what_cannot_be(pf: int, index: int) -> None:
    with pytest.raises(ValueError, match="no slot"):
        vf_slot(pf, index)


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=9), st.ip_addresses(v=6))
def test_no_two_ipv4_addresses_make_one_mac(four: set[IPv4Address], six: IPv6Address) -> None:
    """So no two pods have one: an address has one holder in the ledger, and IPv4 comes first (tests/unit/ipam)."""
    macs = {replace(POD, addresses=(address, six)).mac for address in four}
    assert len(macs) == len(four)


def test_an_unknown_owner_wants_nothing() -> None:
    assert plan(SNAPSHOT, AttachmentId("gone", "eth0")) == Intent()


def test_the_host_comes_first_and_planes_grow_in_order() -> None:
    assert owners(SNAPSHOT) == (Standing.HOST, Standing.STOCK, POD.id)
    intent = plan(SNAPSHOT, POD.id)
    assert list(intent) == [getattr(intent, name) for name in PLANES]


@pytest.mark.parametrize(("address", "mac"), [("10.101.0.7", "0a:58:0a:65:00:07"), ("fd00::1:2", "0a:58:00:01:00:02")])
def test_the_mac_follows_from_the_address(address: str, mac: str) -> None:
    assert replace(POD, addresses=(ip_address(address),)).mac == mac


# ---- steering

STEER = "65000:911"


def with_sides(first: Health, second: Health, *, steering: str | None = STEER) -> Snapshot:
    rack = replace(RACK, steering=steering)
    sides = (Side("r1a", "etha", first), Side("r1b", "ethb", second))
    return replace(SNAPSHOT, place=replace(SNAPSHOT.place, rack=rack, sides=sides))


def told(snapshot: Snapshot) -> dict[str, tuple[str, ...] | None]:
    """The communities of the pod's IPv4 route towards each ToR, None for no route; IPv6 is told the same."""
    announced = plan(snapshot, POD.id).advertisements
    found: dict[str, tuple[str, ...] | None] = {}
    for tor in (TOR_A, TOR_B):
        routes = [announced[RouteKey(tor, ip_network(address))] for address in ("10.101.0.7", "fd00:101::7")]
        four, six = (None if route is None else route.communities for route in routes)
        assert four == six
        found["a" if tor == TOR_A else "b"] = four
    return found


def senders(snapshot: Snapshot) -> set[int]:
    base = plan(snapshot, Standing.HOST).flows[cookie(0)]
    assert base is not None
    (group,) = (entry for entry in base if isinstance(entry, Group))
    return {bucket.watch_port for bucket in group.buckets}


@pytest.mark.parametrize(
    ("first", "second", "a", "b", "out"),
    [
        (Health.GOOD, Health.GOOD, (), (), {1, 2}),
        (Health.CUT, Health.GOOD, None, (STEER,), {2}),
        (Health.GOOD, Health.CUT, (STEER,), None, {1}),
        (Health.SILENT, Health.GOOD, (), (STEER,), {2}),
        (Health.HOLDING, Health.GOOD, (), (STEER,), {1, 2}),
        (Health.CUT, Health.HOLDING, None, (STEER,), {2}),
        (Health.CUT, Health.SILENT, None, (STEER,), {1, 2}),
        (Health.HOLDING, Health.HOLDING, (), (), {1, 2}),
        (Health.CUT, Health.CUT, (), (), {1, 2}),
    ],
)
def test_the_better_side_gets_the_pods(
    first: Health, second: Health, a: tuple[str, ...] | None, b: tuple[str, ...] | None, out: set[int]
) -> None:
    snapshot = with_sides(first, second)
    assert told(snapshot) == {"a": a, "b": b}
    assert senders(snapshot) == out


def test_a_rack_without_steering_announces_to_both_whatever_happens() -> None:
    assert told(with_sides(Health.CUT, Health.GOOD, steering=None)) == {"a": (), "b": ()}


@given(st.sampled_from(Health), st.sampled_from(Health))
def test_somebody_is_always_told_and_never_both_are_asked_to_steer(first: Health, second: Health) -> None:
    asked = told(with_sides(first, second))
    assert any(communities is not None for communities in asked.values())
    assert [*asked.values()].count((STEER,)) <= 1


def test_a_drained_server_steers_nothing() -> None:
    assert told(replace(with_sides(Health.CUT, Health.GOOD), draining=True)) == {"a": None, "b": None}


# ---- pods that share the uplink

SHARED = replace(
    SNAPSHOT,
    place=replace(
        SNAPSHOT.place,
        rack=replace(RACK, services=(ip_network("10.96.0.0/16"), ip_network("fd00:96::/112"))),
        uplink=Uplink((), ("bond0",), "02:10:00:00:01:0b", "02:00:00:00:01:01", 9000, shared=True),
    ),
)
SHARED_PLANES = ("wires", "doors", "links", "passages", "advertisements")


def test_a_pod_that_shares_the_uplink_has_its_mac_a_door_and_a_passage() -> None:
    intent = plan(SHARED, POD.id)
    link = intent.links[POD.id]
    assert link is not None
    assert (link.mac, link.gateway_mac) == ("02:10:00:00:01:0b", "02:00:00:00:01:01")
    server = {ip_network("10.1.0.11/32"), ip_network("fd00:1::11/128")}
    assert intent.doors == {
        "rt3": Door(
            mac=link.gateway_mac,
            pod_mac=link.mac,
            addresses=frozenset(POD.addresses),
            sources=frozenset(SHARED.server.addresses),
            served=frozenset(server.union(SHARED.rack.services)),
        )
    }
    assert intent.passages == {
        ip_network("10.101.0.7/32"): Passage("rt3"),
        ip_network("fd00:101::7/128"): Passage("rt3"),
    }
    assert intent.wires == {"rt3": Wire(9000)}
    assert not intent.ports
    assert not intent.flows
    assert intent.advertisements == plan(SNAPSHOT, POD.id).advertisements


def test_a_door_leads_nowhere_that_the_pod_has_no_address_for() -> None:
    pod = replace(POD, addresses=(ip_address("10.101.0.7"),))
    door = plan(replace(SHARED, attachments=MappingProxyType({pod.id: pod})), pod.id).doors["rt3"]
    assert door is not None
    assert {to.version for to in (*door.served, *door.sources)} == {4}


def test_without_a_gateway_the_uplink_stands_for_it() -> None:
    place = replace(SHARED.place, uplink=replace(SHARED.uplink, gateway_mac=None))
    intent = plan(replace(SHARED, place=place), POD.id)
    link, door = intent.links[POD.id], intent.doors["rt3"]
    assert link is not None
    assert door is not None
    assert link.gateway_mac == door.mac == SHARED.uplink.mac


def test_a_shared_uplink_is_fenced_and_its_stock_is_on_no_bridge() -> None:
    assert plan(SHARED, Standing.HOST).passages == {pool.prefix: FENCED for pool in RACK.pools}
    stock = plan(SHARED, Standing.STOCK)
    assert len(stock.wires) == 8
    assert not stock.ports


def test_what_leaves_a_shared_uplink_leaves_every_plane_of_it() -> None:
    leaving = replace(POD, leaving=True)
    grown = plan(SHARED, POD.id)
    gone = plan(replace(SHARED, attachments=MappingProxyType({POD.id: leaving})), POD.id)
    for before, after in zip(grown.of(SHARED_PLANES)[1:], gone.of(SHARED_PLANES)[1:], strict=True):
        assert after == dict.fromkeys(before)


def test_a_pod_whose_address_is_another_servers_cannot_pass() -> None:
    cordoned = replace(SHARED, taken=MappingProxyType({POD.addresses[0]: "s12"}))
    intent = plan(cordoned, POD.id)
    assert set(intent.passages.values()) == {None}
    assert set(intent.advertisements.values()) == {None}
    assert intent.links == plan(SHARED, POD.id).links
