"""Where packets are forwarded: in the NIC, in the kernel's TC, or in Open vSwitch's own datapath; and why there.

Reads one dump of the datapath's megaflows and adds them up per port. `dp:tc` is a flow that OVS could express in TC's
flower, `offloaded:yes` one that the NIC has taken too; `dp:ovs` is what OVS had to keep, which no NIC can have. Idle
megaflows vanish after ten seconds, so a port without traffic says nothing. Source: ovs-dpctl(8), lib/dpctl.c,
lib/netdev-offload-tc.c; docs/offload.md has a real dump.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

from ovs_flows.errors import CodecError, Unreachable
from ovs_flows.unixctl import ask


class Layer(IntEnum):
    """Where a packet is forwarded, the slowest first."""

    SLOW_PATH = 0
    """In Open vSwitch: its kernel module, or ovs-vswitchd itself."""
    TC_SOFTWARE = 1
    """In the kernel's TC, since no NIC has taken the rule."""
    HARDWARE = 2
    """In the NIC: no CPU of this server sees the packet."""

    def __str__(self) -> str:
        """Return it as people and machines read it."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def named(cls, text: str) -> Layer:
        """Return the layer that reads like this; KeyError."""
        return cls[text.upper().replace("-", "_")]


IDLE = "idle"
"""What is said of a port without megaflows."""

_FIELD = re.compile(r"in_port\(([^)]+)\)")
_PACKETS = re.compile(r"packets:(\d+)")
_BARE = re.compile(r"(?:^|[,(])([\w.-]+)(?=[,)]|$)")
"""An action without arguments: among others, a port's name."""
_OWN_REASONS = (
    (re.compile(r"ipv6\([^)]*frag=(?:first|later)"), "IPv6 fragments: TC's flower has no match for them here"),
    (re.compile(r"userspace\(.*slow_path\("), "answered or rewritten by ovs-vswitchd (ARP responder, LACP, BFD)"),
    (re.compile(r"userspace\(.*controller"), "sent to a controller"),
    (re.compile(r"userspace\(.*(?:sFlow|ipfix|IPFIX|flow_sample)|sample\("), "sFlow or IPFIX samples on this bridge"),
    (re.compile(r"skb_priority\((?!0/0)"), "a queue of OVS (set_queue): limit the pod's rate by other means"),
    (re.compile(r"skb_mark\((?!0/0)"), "a flow matches or sets pkt_mark"),
    (
        re.compile(r"actions:.*(?:hash|recirc)\(|dp_hash\((?!0/0)"),
        "a select group or a bond of OVS: make the uplink a bond of the kernel",
    ),
    (re.compile(r"ct\(|ct_state\((?!0/0)"), "connection tracking that TC has not got"),
    (re.compile(r"nd\([^)]*target=(?!::/::)"), "a flow matches the target of neighbour discovery"),
    (re.compile(r"userspace"), "handled by ovs-vswitchd"),
)
_NOT_IN_TC = "OVS kept it: look at other_config:hw-offload, then at its log with vlog/set netdev_offload_tc:file:dbg"
_NOT_IN_NIC = "no NIC has taken the rule: tc -s filter show dev PORT ingress says not_in_hw, dmesg may say why"
_PARTLY = "the NIC does part of it only"
_NO_TC = "the bridge is in userspace (datapath_type netdev): nothing of it is offloaded"
_ARP = "eth_type(0x0806)"
_SOME = 0.1
"""Share of packets that may be slow without anything being wrong: fragments, say."""


@dataclass(frozen=True, slots=True)
class Megaflow:
    """One line of the dump."""

    text: str
    in_port: str
    ports: frozenset[str]
    """Where it goes; other words that stand alone among the actions, too."""
    layer: Layer
    packets: int
    reason: str
    """Why it is not in hardware; empty when it is."""
    counts: bool
    """Whether it forwards what a pod cares about; no drops, and no ARP, which no NIC matches."""
    again: bool
    """Whether its packets went through another megaflow before (recirculation)."""

    @property
    def key(self) -> str:
        """What makes it another flow: identity and match, without counters."""
        return self.text.partition(", packets:")[0]


@dataclass(frozen=True, slots=True)
class Tally:
    """Megaflows that were added up."""

    flows: int = 0
    packets: int = 0

    def __add__(self, flow: Megaflow) -> Tally:
        """Return this and one megaflow more."""
        return Tally(self.flows + 1, self.packets + flow.packets)


@dataclass(slots=True)
class PortReport:
    """What the megaflows from and to a port come to."""

    sent: dict[Layer, Tally] = field(default_factory=dict)
    received: dict[Layer, Tally] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Why not all is in hardware -> packets."""

    @property
    def layer(self) -> Layer | None:
        """The slowest layer that any of it is on; None when there is nothing."""
        return min((*self.sent, *self.received), default=None)

    @property
    def state(self) -> str:
        """The same as a word."""
        return IDLE if self.layer is None else str(self.layer)

    def packets(self, layer: Layer) -> int:
        """Return how many packets, both ways, were forwarded on a layer."""
        return sum(way[layer].packets for way in (self.sent, self.received) if layer in way)

    def shortfall(self, wanted: Layer) -> str | None:
        """Return why more than some packets are forwarded on a slower layer than wanted; None when they are not."""
        total = sum(map(self.packets, Layer))
        slower = sum(self.packets(layer) for layer in Layer if layer < wanted)
        if slower <= total * _SOME:
            return None
        told = (reason for reason in self.reasons if wanted is Layer.HARDWARE or reason != _NOT_IN_NIC)
        reason = max(told, key=self.reasons.__getitem__)
        return f"{slower} of its last {total} packets were forwarded slower than {wanted}: {reason}"

    def add(self, flow: Megaflow, way: dict[Layer, Tally]) -> None:
        """Count a megaflow in one direction."""
        way[flow.layer] = way.get(flow.layer, Tally()) + flow
        if flow.reason:
            self.reasons[flow.reason] = self.reasons.get(flow.reason, 0) + flow.packets


def parse(dump: str, *, userspace: bool = False) -> tuple[Megaflow, ...]:
    """Return the megaflows of ``dpctl/dump-flows -m --names type=all``; CodecError when it is something else."""
    return tuple(_parse(line, userspace=userspace) for line in dump.splitlines() if _is_flow(line))


def _is_flow(line: str) -> bool:
    """Tell flows from the headings that a dump of a userspace datapath has between them."""
    return bool(line.strip()) and not line.startswith("flow-dump from")


def _parse(line: str, *, userspace: bool) -> Megaflow:
    match, found, actions = line.partition(", actions:")
    port, packets = _FIELD.search(match), _PACKETS.search(match)
    if not found or port is None or packets is None:
        raise CodecError(f"not a megaflow: {line!r}")
    layer = _layer(match)
    return Megaflow(
        text=line,
        in_port=port[1],
        ports=frozenset(_BARE.findall(actions)),
        layer=layer,
        packets=int(packets[1]),
        reason=_NO_TC if userspace and layer is not Layer.HARDWARE else _reason(line, match, layer),
        counts=actions != "drop" and _ARP not in match,
        again="recirc_id(0x" in match,
    )


def _layer(match: str) -> Layer:
    if "offloaded:yes" in match:
        return Layer.HARDWARE
    return Layer.TC_SOFTWARE if "dp:tc" in match else Layer.SLOW_PATH


def _reason(line: str, match: str, layer: Layer) -> str:
    if layer is Layer.HARDWARE:
        return ""
    if layer is Layer.TC_SOFTWARE:
        return _NOT_IN_NIC
    if "offloaded:partial" in match:
        return _PARTLY
    return next((words for pattern, words in _OWN_REASONS if pattern.search(line)), _NOT_IN_TC)


def report(flows: Iterable[Megaflow], ports: Collection[str]) -> Mapping[str, PortReport]:
    """Return what the megaflows come to for each of these ports; one that has none is there, idle."""
    found = {port: PortReport() for port in ports}
    for flow in flows:
        if not flow.counts:
            continue
        if flow.in_port in found:
            own = replace(flow, packets=0) if flow.again else flow
            found[flow.in_port].add(own, found[flow.in_port].sent)
        for port in flow.ports & found.keys():
            found[port].add(flow, found[port].received)
    return found


def since(before: Iterable[Megaflow], after: Iterable[Megaflow]) -> tuple[Megaflow, ...]:
    """Return the megaflows of a dump that forwarded packets since an earlier one, with those packets alone."""
    known = {flow.key: flow.packets for flow in before}
    moved = (replace(flow, packets=flow.packets - known.get(flow.key, 0)) for flow in after)
    return tuple(flow for flow in moved if flow.packets > 0)


async def megaflows(rundir: Path, bridge: str) -> tuple[Megaflow, ...]:
    """Return the megaflows of the datapath that has this bridge; Unreachable, Refused or CodecError."""
    datapath = _datapath(await ask(rundir, "dpif/show"), bridge)
    dump = await ask(rundir, "dpctl/dump-flows", "-m", "--names", datapath, "type=all")
    return await asyncio.to_thread(parse, dump, userspace=datapath.startswith("netdev@"))


def _datapath(shown: str, bridge: str) -> str:
    """Return the datapath below which ``dpif/show`` lists a bridge: ``system@ovs-system``."""
    datapath = ""
    for line in shown.splitlines():
        name = line.strip().rstrip(":")
        if not line.startswith(" "):
            datapath = line.partition(":")[0]
        elif line.startswith("  ") and not line.startswith("    ") and name == bridge:
            return datapath
    raise Unreachable(f"no datapath has bridge {bridge}")
