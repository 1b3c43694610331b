"""The pipeline: the flows of the bridge, computed from what the bridge and its pods look like.

Owns all forwarding policy of the bridge. Pure: values in, values out; sends nothing. The tables are declared in
`ovs_flows.tables` and described, each with a real dump, in docs/pipeline.md.

A packet's way: `CLASSIFY` -> `FABRIC`, `HOST` or `POD` -> `DESTINATION` -> `TOR`; `RESPONDER` answers ARP. Nothing
learns and nothing floods: what no flow names is dropped. A pod's own flows depend on nothing but the pod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ovs_flows.fields import ETH_ARP, ETH_IPV4, ETH_IPV6, PROTO_ICMPV6, VLAN_PRESENT, Value
from ovs_flows.model import (
    IN_PORT,
    LOCAL,
    Action,
    Bucket,
    Flow,
    Group,
    Match,
    Meter,
    Move,
    Output,
    Pop,
    PopVlan,
    Push,
    PushVlan,
    SetField,
    ToGroup,
    UseMeter,
)
from ovs_flows.tables import CLASSIFY, DESTINATION, FABRIC, HOST, POD, RESPONDER, TOR, Table

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Fields = dict[str, Value | tuple[Value, Value]]

FROM_FABRIC, FROM_HOST, FROM_POD = 1, 2, 3
"""Values of reg0: where the packet came from."""
UPLINKS = 1
"""Number of the select group over the uplink's members; it exists when there are several."""
_MULTICAST_BIT = "01:00:00:00:00:00"
_POD_MAY_NOT_SEND = (133, 134, 135, 136, 137)
"""ICMPv6: router solicitation and advertisement, neighbour solicitation and advertisement, redirect (RFC 4861 4)."""
_NEVER_FORWARDED: tuple[Network, ...] = (
    IPv4Network("224.0.0.0/3"),
    IPv4Network("169.254.0.0/16"),
    IPv6Network("ff00::/8"),
    IPv6Network("fe80::/10"),
)
"""Multicast, class E and broadcast, link-local."""


@dataclass(frozen=True, slots=True)
class BridgeView:
    """All that the base pipeline depends on."""

    uplinks: tuple[int, ...]
    """OpenFlow ports: one for a NIC or a kernel bond, several for the members of an OVS bond."""
    host_mac: str
    gateway_mac: str | None
    """None while unknown: what would go to the ToR is dropped."""
    host_addresses: tuple[Address, ...] = ()
    pools: tuple[Network, ...] = ()
    services: tuple[Network, ...] = ()
    """Destinations of pods that the host serves."""
    vlan: int | None = None
    """Tag of everything on the uplink, the host's traffic included; None for untagged."""
    idle: frozenset[int] = frozenset()
    """Those of several uplinks that carry nothing out but ARP and ND; what comes in is taken from all."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod's interface on the bridge."""

    ofport: int
    mac: str
    addresses: tuple[Address, ...]
    gateways: tuple[Address, ...]
    """One per family; the IPv4 one is all that the pod may ask ARP for."""
    to_pod: Meter | None = None
    """What polices the IP packets to the pod, of both families together; None: nothing does."""
    from_pod: Meter | None = None
    """What polices those from it."""


@lru_cache(maxsize=8)
def base(view: BridgeView) -> frozenset[Flow | Group]:
    """Return what exists once per bridge: every table's fixed flows, and the uplinks' group when there are several."""
    parts: tuple[Callable[[BridgeView], Sequence[Flow | Group]], ...]
    parts = (_classify, _fabric, _host, _responder, _destination, _tor, _group)
    return frozenset([*_pod(), *(entry for part in parts for entry in part(view))])


def endpoint(pod: Endpoint) -> frozenset[Flow | Meter]:
    """Return a pod's own flows: three with IPv4, two with IPv6, five with both; and its meters."""
    flows = []
    to_pod, from_pod = _police(pod.to_pod), _police(pod.from_pod)
    deliver = SetField.of("eth_dst", pod.mac), Output(pod.ofport)
    port: Fields = {"in_port": pod.ofport, "eth_src": pod.mac}
    for address in pod.addresses:
        flows += [
            POD.flow(200, Match.of(**port, vlan_vid=0, **_ip("src", address)), *from_pod, goto=DESTINATION),
            DESTINATION.flow(200, Match.of(**_ip("dst", address)), *to_pod, *deliver),
        ]
        if isinstance(address, IPv4Address):
            gateway = next(gateway for gateway in pod.gateways if gateway.version == 4)
            asks: Fields = {"arp_op": 1, "arp_sha": pod.mac, "arp_spa": address, "arp_tpa": gateway}
            flows.append(POD.flow(200, Match.of(**port, vlan_vid=0, eth_type=ETH_ARP, **asks), goto=RESPONDER))
    return frozenset([*flows, *(meter for meter in (pod.to_pod, pod.from_pod) if meter is not None)])


def _police(meter: Meter | None) -> tuple[Action, ...]:
    return () if meter is None else (UseMeter(meter.number),)


def _ip(side: str, address: Address | Network) -> Fields:
    if address.version == 4:
        return {"eth_type": ETH_IPV4, f"ipv4_{side}": address}
    return {"eth_type": ETH_IPV6, f"ipv6_{side}": address}


def _neighbour_discovery(kind: int) -> Match:
    return Match.of(eth_type=ETH_IPV6, ip_proto=PROTO_ICMPV6, icmpv6_type=kind)


def _push(view: BridgeView) -> tuple[Action, ...]:
    return () if view.vlan is None else (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | view.vlan))


def _to_one_uplink(view: BridgeView) -> tuple[Action, ...]:
    """No action at all, which drops, while there is no uplink."""
    if len(view.uplinks) > 1:
        return (*_push(view), ToGroup(UPLINKS))
    return (*_push(view), *map(Output, view.uplinks)) if view.uplinks else ()


def _to_every_uplink(view: BridgeView) -> tuple[Action, ...]:
    return (*_push(view), *map(Output, view.uplinks)) if view.uplinks else ()


def _group(view: BridgeView) -> list[Group]:
    if len(view.uplinks) < 2:
        return []
    members = [member for member in view.uplinks if member not in view.idle] or view.uplinks
    return [Group(UPLINKS, tuple(Bucket((Output(member),), watch_port=member) for member in members))]


def _classify(view: BridgeView) -> list[Flow]:
    def comes_from(priority: int, match: Match, origin: int, table: Table) -> Flow:
        return CLASSIFY.flow(priority, match, SetField("reg0", origin), goto=table)

    return [
        *(comes_from(200, Match.of(in_port=uplink), FROM_FABRIC, FABRIC) for uplink in view.uplinks),
        comes_from(200, Match.of(in_port=LOCAL), FROM_HOST, HOST),
        comes_from(100, Match(), FROM_POD, POD),
    ]


def _fabric(view: BridgeView) -> list[Flow]:
    tag: Fields = {"vlan_vid": 0 if view.vlan is None else VLAN_PRESENT | view.vlan}
    pop: tuple[Action, ...] = () if view.vlan is None else (PopVlan(),)
    return [
        FABRIC.flow(300, Match.of(**tag, eth_type=ETH_ARP), *pop, Output(LOCAL)),
        *(
            FABRIC.flow(200, Match.of(**tag, eth_dst=view.host_mac, **_ip("dst", pool)), *pop, goto=DESTINATION)
            for pool in view.pools
        ),
        FABRIC.flow(100, Match.of(**tag, eth_dst=view.host_mac), *pop, Output(LOCAL)),
        FABRIC.flow(90, Match.of(**tag, eth_dst=(_MULTICAST_BIT, _MULTICAST_BIT)), *pop, Output(LOCAL)),
        FABRIC.flow(0, Match()),
    ]


def _host(view: BridgeView) -> list[Flow]:
    everywhere = _to_every_uplink(view)
    own_pods_arp = [
        HOST.flow(310, Match.of(eth_type=ETH_ARP, arp_op=1, arp_tpa=pool), goto=RESPONDER)
        for pool in view.pools
        if pool.version == 4
    ]
    return [
        *own_pods_arp,
        HOST.flow(300, Match.of(eth_type=ETH_ARP), *everywhere),
        *(HOST.flow(300, _neighbour_discovery(kind), *everywhere) for kind in (135, 136)),
        *(HOST.flow(200, Match.of(**_ip("dst", pool)), goto=DESTINATION) for pool in view.pools),
        HOST.flow(0, Match(), *_to_one_uplink(view)),
    ]


def _pod() -> list[Flow]:
    return [*(POD.flow(210, _neighbour_discovery(kind)) for kind in _POD_MAY_NOT_SEND), POD.flow(0, Match())]


def _responder(view: BridgeView) -> list[Flow]:
    unanswered = RESPONDER.flow(0, Match())
    if view.gateway_mac is None:
        return [unanswered]
    return [
        RESPONDER.flow(
            100,
            Match.of(eth_type=ETH_ARP, arp_op=1),
            Move("eth_src", "eth_dst"),
            SetField.of("eth_src", view.gateway_mac),
            SetField("arp_op", 2),
            Move("arp_sha", "arp_tha"),
            SetField.of("arp_sha", view.gateway_mac),
            Push("arp_tpa"),
            Move("arp_spa", "arp_tpa"),
            Pop("arp_spa"),
            Output(IN_PORT),
        ),
        unanswered,
    ]


def _destination(view: BridgeView) -> list[Flow]:
    to_host = (SetField.of("eth_dst", view.host_mac), Output(LOCAL))

    def from_pod(priority: int, target: Address | Network, *actions: Action) -> Flow:
        return DESTINATION.flow(priority, Match.of(reg0=FROM_POD, **_ip("dst", target)), *actions)

    return [
        *(from_pod(210, address, *to_host) for address in view.host_addresses),
        *(from_pod(150, service, *to_host) for service in view.services),
        *(from_pod(140, network) for network in _NEVER_FORWARDED),
        DESTINATION.flow(100, Match.of(reg0=FROM_FABRIC)),
        *(DESTINATION.flow(0, Match.of(eth_type=kind), goto=TOR) for kind in (ETH_IPV4, ETH_IPV6)),
    ]


def _tor(view: BridgeView) -> list[Flow]:
    way = _to_one_uplink(view)
    if view.gateway_mac is None or not way:
        return [TOR.flow(0, Match())]
    macs = (SetField.of("eth_src", view.host_mac), SetField.of("eth_dst", view.gateway_mac))
    return [TOR.flow(0, Match(), *macs, *way)]
