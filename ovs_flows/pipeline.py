"""The pipeline: which tables exist, what each may do, and the flows in them.

Owns all forwarding policy of the bridge. Pure: values in, values out; sends nothing. Every flow is made by its `Table`,
which refuses what its declaration does not permit. Described table by table in docs/pipeline.md.

A packet's way: `CLASSIFY` -> `FABRIC`, `HOST` or `POD` -> `DESTINATION` -> `TOR`; `RESPONDER` answers ARP. Nothing learns
and nothing floods: what no flow names is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ovs_flows.errors import PipelineError
from ovs_flows.fields import ETH_ARP, ETH_IPV4, ETH_IPV6, PROTO_ICMPV6, VLAN_PRESENT, Value
from ovs_flows.model import (
    IN_PORT,
    LOCAL,
    Action,
    Bucket,
    Flow,
    Group,
    Match,
    Move,
    Output,
    Pop,
    PopVlan,
    Push,
    PushVlan,
    SetField,
    ToGroup,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FROM_FABRIC, FROM_HOST, FROM_POD = 1, 2, 3
"""Values of reg0: where the packet came from."""
UPLINKS = 1
"""Number of the select group over the uplink's members; it exists when there are several."""
_MULTICAST_BIT = "01:00:00:00:00:00"
_POD_MAY_NOT_SEND = (133, 134, 135, 136, 137)
"""ICMPv6: router solicitation and advertisement, neighbour solicitation and advertisement, redirect (RFC 4861 4)."""
_NEVER_FORWARDED = tuple(
    [IPv4Network("224.0.0.0/3"), IPv4Network("169.254.0.0/16"), IPv6Network("ff00::/8"), IPv6Network("fe80::/10")]
)
"""Multicast, class E and broadcast, link-local."""


@dataclass(frozen=True, slots=True)
class Table:
    """Declaration of one OpenFlow table: its flows may use this and nothing else."""

    number: int
    name: str
    purpose: str
    matches: frozenset[str] = frozenset()
    actions: frozenset[type[Action]] = frozenset()
    sets: frozenset[str] = frozenset()
    """Fields that `SetField` may write."""
    next: frozenset[int] = frozenset()
    """Tables that may look next; always later ones, so no packet loops."""

    def flow(self, priority: int, match: Match, *actions: Action, goto: Table | None = None) -> Flow:
        """Make a flow of this table; PipelineError when it breaks the declaration."""
        flow = Flow(self.number, priority, match, actions, None if goto is None else goto.number)
        self.check(flow)
        return flow

    def check(self, flow: Flow) -> None:
        """Raise PipelineError, naming what is not permitted."""
        sets = {action.field for action in flow.actions if isinstance(action, SetField)}
        broken = [
            *(f"match {name}" for name in sorted(flow.match.names - self.matches)),
            *(f"action {kind.__name__}" for kind in {type(action) for action in flow.actions} - self.actions),
            *(f"set {name}" for name in sorted(sets - self.sets)),
            *([] if flow.goto is None or flow.goto in self.next else [f"goto {flow.goto}"]),
            *([] if flow.table == self.number else [f"table {flow.table}"]),
        ]
        if broken:
            raise PipelineError(f"table {self.number} ({self.name}) does not permit {', '.join(broken)}")


_OUT = frozenset({Output, ToGroup, PushVlan, SetField})
_IP_SOURCE = frozenset({"ipv4_src", "ipv6_src"})
_IP_DESTINATION = frozenset({"ipv4_dst", "ipv6_dst"})

CLASSIFY = Table(
    0,
    "classify",
    "Where does the packet come from? Written to reg0. A port that is neither an uplink nor LOCAL is a pod's.",
    matches=frozenset({"in_port"}),
    actions=frozenset({SetField}),
    sets=frozenset({"reg0"}),
    next=frozenset({10, 20, 30}),
)
FABRIC = Table(
    10,
    "fabric",
    "From the ToRs. Pods' traffic goes on to destination; the host's own, ARP and multicast go to the host; the rest drops.",
    matches=frozenset({"vlan_vid", "eth_type", "eth_dst"}) | _IP_DESTINATION,
    actions=frozenset({PopVlan, Output}),
    next=frozenset({40}),
)
HOST = Table(
    20,
    "host",
    "From the host. Pods' addresses go on to destination; ARP and neighbour discovery leave by every uplink so that "
    "both ToRs know the host; all else leaves by one.",
    matches=frozenset({"eth_type", "ip_proto", "icmpv6_type", "arp_op", "arp_tpa"}) | _IP_DESTINATION,
    actions=_OUT,
    sets=frozenset({"vlan_vid"}),
    next=frozenset({35, 40}),
)
POD = Table(
    30,
    "pod",
    "From pods: default deny. A pod speaks with its own MAC and addresses only, asks ARP for its gateway only, and never "
    "takes part in neighbour discovery.",
    matches=frozenset(
        {
            "in_port",
            "eth_src",
            "vlan_vid",
            "eth_type",
            "ip_proto",
            "icmpv6_type",
            "arp_op",
            "arp_sha",
            "arp_spa",
            "arp_tpa",
        }
    )
    | _IP_SOURCE,
    next=frozenset({35, 40}),
)
RESPONDER = Table(
    35,
    "responder",
    "Answers an ARP request with the gateway's MAC, out of the port that it came from.",
    matches=frozenset({"eth_type", "arp_op"}),
    actions=frozenset({Move, SetField, Push, Pop, Output}),
    sets=frozenset({"eth_src", "arp_op", "arp_sha"}),
)
DESTINATION = Table(
    40,
    "destination",
    "By destination address: a local pod, the host (for pods only), or on to the ToR. From the fabric an address that is "
    "not here drops: sent back it would loop.",
    matches=frozenset({"reg0", "eth_type"}) | _IP_DESTINATION,
    actions=frozenset({SetField, Output}),
    sets=frozenset({"eth_dst"}),
    next=frozenset({50}),
)
TOR = Table(
    50,
    "tor",
    "Leaves the server: source MAC is the host's (ToRs never learn pods' MACs), destination MAC the gateway's.",
    actions=_OUT,
    sets=frozenset({"eth_src", "eth_dst", "vlan_vid"}),
)

TABLES: dict[int, Table] = {t.number: t for t in (CLASSIFY, FABRIC, HOST, POD, RESPONDER, DESTINATION, TOR)}
PREFIX_TABLES = tuple(t.number for t in TABLES.values() if t.matches & (_IP_SOURCE | _IP_DESTINATION))
"""Tables that match IP prefixes: OVS before 3.5 must be told, or every remote address costs a megaflow."""


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod's interface on the bridge."""

    ofport: int
    mac: str
    addresses: tuple[Address, ...]
    gateways: tuple[Address, ...]
    """One per family; the IPv4 one is all that the pod may ask ARP for."""


def check(flows: Iterable[Flow]) -> None:
    """Raise PipelineError for the first flow that breaks its table's declaration."""
    for flow in flows:
        if flow.table not in TABLES:
            raise PipelineError(f"table {flow.table} is not declared: {flow}")
        TABLES[flow.table].check(flow)


def base(view: BridgeView) -> frozenset[Flow | Group]:
    """Return what exists once per bridge: every table's fixed flows, and the uplinks' group when there are several."""
    return frozenset(
        [*_classify(view), *_fabric(view), *_host(view), *_pod(), *_responder(view), *_destination(view), *_tor(view)]
        + _group(view)
    )


@lru_cache(maxsize=8192)
def endpoint(pod: Endpoint) -> frozenset[Flow]:
    """Return a pod's own flows: three with IPv4, two with IPv6, five with both."""
    flows = []
    port = {"in_port": pod.ofport, "eth_src": pod.mac}
    for address in pod.addresses:
        flows += [
            POD.flow(200, Match.of(**port, vlan_vid=0, **_ip("src", address)), goto=DESTINATION),
            DESTINATION.flow(200, Match.of(**_ip("dst", address)), SetField.of("eth_dst", pod.mac), Output(pod.ofport)),
        ]
        if isinstance(address, IPv4Address):
            gateway = next(gateway for gateway in pod.gateways if gateway.version == 4)
            asks = {"arp_op": 1, "arp_sha": pod.mac, "arp_spa": address, "arp_tpa": gateway}
            flows.append(POD.flow(200, Match.of(**port, vlan_vid=0, eth_type=ETH_ARP, **asks), goto=RESPONDER))
    return frozenset(flows)


def _ip(side: str, address: Address | Network) -> dict[str, Value]:
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
    return [Group(UPLINKS, tuple(Bucket((Output(member),), watch_port=member) for member in view.uplinks))]


def _classify(view: BridgeView) -> list[Flow]:
    def comes_from(priority: int, match: Match, origin: int, table: Table) -> Flow:
        return CLASSIFY.flow(priority, match, SetField("reg0", origin), goto=table)

    return [
        *(comes_from(200, Match.of(in_port=uplink), FROM_FABRIC, FABRIC) for uplink in view.uplinks),
        comes_from(200, Match.of(in_port=LOCAL), FROM_HOST, HOST),
        comes_from(100, Match(), FROM_POD, POD),
    ]


def _fabric(view: BridgeView) -> list[Flow]:
    tag = {"vlan_vid": 0 if view.vlan is None else VLAN_PRESENT | view.vlan}
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
