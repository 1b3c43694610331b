"""A switch that executes: packets in, packets out, by the very flows and groups that the pipeline returns.

It knows what OpenFlow and OVS define and nothing of our policy. A packet is a set of named numbers, as in
`ovs_flows.fields`. Two flows of equal priority that both match are an error here: real OVS would pick either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from ovs_flows.fields import ETH_ARP, ETH_IPV4, ETH_IPV6, PROTO_ICMPV6, VLAN_PRESENT, number
from ovs_flows.model import (
    IN_PORT,
    Action,
    Entry,
    Flow,
    Group,
    Move,
    Output,
    Pop,
    PopVlan,
    Push,
    PushVlan,
    SetField,
    ToGroup,
    UseMeter,
    flows_of,
    groups_of,
    meters_of,
)

BROADCAST = "ff:ff:ff:ff:ff:ff"


@dataclass(frozen=True)
class Packet:
    """Header fields by name; a field that is not there does not match anything, but registers and the tag are 0."""

    fields: frozenset[tuple[str, int]]

    def get(self, name: str) -> int | None:
        return dict(self.fields).get(name, 0 if name in {"vlan_vid", "reg0"} else None)

    def set(self, name: str, value: int) -> Packet:
        return replace(self, fields=frozenset((dict(self.fields) | {name: value}).items()))

    @property
    def vlan(self) -> int | None:
        """The tag, None when untagged."""
        tag = self.get("vlan_vid") or 0
        return tag & ~VLAN_PRESENT if tag else None

    def has(self, **expected: Any) -> bool:
        """Whether all of these fields have these values; addresses as text."""
        return all(self.get(name) == _number(value) for name, value in expected.items())


def _number(value: Any) -> int:
    if isinstance(value, str) and len(value) == 17 and value.count(":") == 5:
        return number(value)
    return int(ip_address(value)) if isinstance(value, str) else int(value)


def packet(**fields: Any) -> Packet:
    """Make a packet from fields; addresses as text."""
    return Packet(frozenset((name, _number(value)) for name, value in fields.items()))


def ip(eth_src: str, eth_dst: str, src: str, dst: str, **more: Any) -> Packet:
    """Make an IPv4 or IPv6 packet, whichever the addresses are."""
    version = ip_address(src).version
    kind, family = (ETH_IPV4, "ipv4") if version == 4 else (ETH_IPV6, "ipv6")
    fields = {"eth_src": eth_src, "eth_dst": eth_dst, "eth_type": kind, "ip_proto": 17}
    return packet(**fields | {f"{family}_src": src, f"{family}_dst": dst} | more)


def icmpv6(kind: int, eth_src: str, eth_dst: str, src: str, dst: str) -> Packet:
    """Make an ICMPv6 message, neighbour discovery for instance."""
    return ip(eth_src, eth_dst, src, dst, ip_proto=PROTO_ICMPV6, icmpv6_type=kind)


def arp(op: int, sha: str, spa: str, tpa: str, **more: Any) -> Packet:
    """Make an ARP message, broadcast unless told otherwise."""
    fields = {"eth_src": sha, "eth_dst": BROADCAST, "eth_type": ETH_ARP, "arp_op": op}
    return packet(**fields | {"arp_sha": sha, "arp_spa": spa, "arp_tha": "00:00:00:00:00:00", "arp_tpa": tpa} | more)


@dataclass
class Switch:
    """Tables, groups, meters and ports."""

    entries: frozenset[Entry] = frozenset()
    dead_ports: set[int] = field(default_factory=set)
    metered: list[int] = field(default_factory=list)
    """The meters that packets went through, each time."""

    @classmethod
    def of(cls, *parts: Iterable[Entry]) -> Switch:
        switch = cls()
        for part in parts:
            switch.install(part)
        return switch

    def install(self, entries: Iterable[Entry]) -> None:
        """Add entries; a flow of the same identity is replaced, as in OVS."""
        entries = frozenset(entries)
        new = {flow.identity for flow in flows_of(entries)}
        numbers = {group.number for group in groups_of(entries)}
        kept = [flow for flow in flows_of(self.entries) if flow.identity not in new]
        groups = (group for group in groups_of(self.entries) if group.number not in numbers)
        self.entries = entries | {*kept, *groups, *meters_of(self.entries)}

    def remove(self, entries: Iterable[Entry]) -> None:
        self.entries -= frozenset(entries)

    def receive(self, port: int, incoming: Packet, flow_hash: int = 0) -> list[tuple[int, Packet]]:
        """Run a packet that came in by a port; returns port and packet for each copy that leaves."""
        return _Run(self, port, incoming.set("in_port", port), flow_hash).through(0)


@dataclass
class _Run:
    switch: Switch
    port: int
    packet: Packet
    flow_hash: int
    stack: list[int] = field(default_factory=list)
    sent: list[tuple[int, Packet]] = field(default_factory=list)

    def through(self, table: int | None) -> list[tuple[int, Packet]]:
        while table is not None:
            flow = self.lookup(table)
            if flow is None:
                break
            for action in flow.actions:
                self.act(action)
            assert flow.goto is None or flow.goto > table, f"goto backwards: {flow}"
            table = flow.goto
        return self.sent

    def lookup(self, table: int) -> Flow | None:
        hits = [flow for flow in flows_of(self.switch.entries) if flow.table == table and self.matches(flow)]
        best = [flow for flow in hits if flow.priority == max(hit.priority for hit in hits)]
        assert len(best) < 2, f"ambiguous: {best}"
        return best[0] if best else None

    def matches(self, flow: Flow) -> bool:
        found = ((self.packet.get(name), value, mask) for name, value, mask in flow.match.terms)
        return all(have is not None and have & mask == value for have, value, mask in found)

    def act(self, action: Action) -> None:
        match action:
            case Output(port):
                self.output(port)
            case ToGroup(number):
                self.select(next(group for group in groups_of(self.switch.entries) if group.number == number))
            case UseMeter(number):
                assert number in {meter.number for meter in meters_of(self.switch.entries)}, "a meter that is not there"
                self.switch.metered.append(number)
            case SetField(name, value):
                self.packet = self.packet.set(name, value)
            case PushVlan():
                assert self.packet.vlan is None, "pushed a second tag"
                self.packet = self.packet.set("vlan_vid", VLAN_PRESENT)
            case PopVlan():
                assert self.packet.vlan is not None, "popped no tag"
                self.packet = self.packet.set("vlan_vid", 0)
            case Move(source, target):
                self.packet = self.packet.set(target, self.need(source))
            case Push(name):
                self.stack.append(self.need(name))
            case Pop(name):
                self.packet = self.packet.set(name, self.stack.pop())
            case _:
                raise AssertionError(f"the pipeline never does {action}")

    def need(self, name: str) -> int:
        value = self.packet.get(name)
        assert value is not None, f"no {name} in {self.packet}"
        return value

    def output(self, port: int) -> None:
        """OVS sends nothing back where it came from unless told to in so many words."""
        if port == IN_PORT:
            self.sent.append((self.port, self.packet))
        elif port != self.port:
            self.sent.append((port, self.packet))

    def select(self, group: Group) -> None:
        live = [bucket for bucket in group.buckets if bucket.watch_port not in self.switch.dead_ports]
        if live:
            before = self.packet
            for action in live[self.flow_hash % len(live)].actions:
                self.act(action)
            self.packet = before  # changes made in a bucket end with it (OpenFlow 1.4 5.6.1)
