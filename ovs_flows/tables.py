"""The tables of the pipeline, declared: what each is for and what its flows may match, do and go to.

Owns the declaration and its enforcement: every flow is made by its `Table`, which refuses what it does not permit.
The flows themselves are in `ovs_flows.pipeline`; docs/pipeline.md shows each table with a real dump.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ovs_flows.errors import PipelineError
from ovs_flows.model import Action, Flow, Match, Move, Output, Pop, PopVlan, Push, PushVlan, SetField, ToGroup, UseMeter


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
        shape = (self, flow.goto, tuple(term[0] for term in match.terms), tuple(map(_kind, actions)))
        if shape not in _PERMITTED:
            self.check(flow)
            _PERMITTED.add(shape)
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


_PERMITTED: set[tuple[object, ...]] = set()
"""Shapes of flows that passed the check: table, goto, fields, actions. Pods' flows differ in values alone."""


def _kind(action: Action) -> object:
    return (SetField, action.field) if isinstance(action, SetField) else type(action)


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
    "From the ToRs. Pods' traffic goes on to destination; the host's own, ARP and multicast go to the host; "
    "the rest drops.",
    matches=frozenset({"vlan_vid", "eth_type", "eth_dst"}) | _IP_DESTINATION,
    actions=frozenset({PopVlan, Output}),
    next=frozenset({40}),
)
HOST = Table(
    20,
    "host",
    "From the host. Pods' addresses go on to destination; ARP and neighbour discovery leave by every uplink so that "
    "both ToRs know the host; the rest leaves by one.",
    matches=frozenset({"eth_type", "ip_proto", "icmpv6_type", "arp_op", "arp_tpa"}) | _IP_DESTINATION,
    actions=_OUT,
    sets=frozenset({"vlan_vid"}),
    next=frozenset({35, 40}),
)
POD = Table(
    30,
    "pod",
    "From pods: default deny. A pod speaks with its own MAC and addresses only, asks ARP for its gateway only, and "
    "never takes part in neighbour discovery.",
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
    actions=frozenset({UseMeter}),
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
    "By destination address: a local pod, the host (for pods only), or on to the ToR. From the fabric an address "
    "that is not here drops: sent back it would loop.",
    matches=frozenset({"reg0", "eth_type"}) | _IP_DESTINATION,
    actions=frozenset({UseMeter, SetField, Output}),
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


def check(flows: Iterable[Flow]) -> None:
    """Raise PipelineError for the first flow that breaks its table's declaration."""
    for flow in flows:
        if flow.table not in TABLES:
            raise PipelineError(f"table {flow.table} is not declared: {flow}")
        TABLES[flow.table].check(flow)
