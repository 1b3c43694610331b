"""Flows and groups as text in the form of ovs-ofctl, both ways; meters one way. Pure.

`format_flow` writes what ``ovs-ofctl -O OpenFlow14 --no-stats --no-names dump-flows`` prints for the flows that this
library makes, character for character: golden files, logs and people read the same lines. What only somebody else's
flows contain is written in a form of our own that reads back (``oxm_<header>=``, ``opaque:``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ovs_flows.errors import CodecError
from ovs_flows.fields import (
    BY_NXM_NAME,
    BY_TEXT,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FIELDS,
    PROTO_ICMPV6,
    VLAN_PRESENT,
    Field,
    mac_text,
    number,
)
from ovs_flows.model import (
    IN_PORT,
    LOCAL,
    Action,
    Bucket,
    Entry,
    Flow,
    Group,
    Match,
    Meter,
    Move,
    Opaque,
    Output,
    Pop,
    PopVlan,
    Push,
    PushVlan,
    SetField,
    Term,
    ToGroup,
    UseMeter,
    flows_of,
    groups_of,
    meters_of,
)

_ORDER = (
    *("reg0", "in_port", "vlan_vid", "eth_src", "eth_dst", "eth_type", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"),
    *("arp_spa", "arp_tpa", "ip_proto", "arp_op", "arp_sha", "arp_tha", "icmpv6_type"),
)
_PROTOCOLS = {
    "icmp6": (ETH_IPV6, PROTO_ICMPV6),
    "ip": (ETH_IPV4, None),
    "ipv6": (ETH_IPV6, None),
    "arp": (ETH_ARP, None),
}
_PORTS = {LOCAL: "LOCAL", IN_PORT: "IN_PORT"}
_KINDS = ("all", "select", "indirect", "ff")
_UNTAGGED = "vlan_tci=0x0000/0x1fff"


# --- writing ---------------------------------------------------------------------------------------------------------


def format_flow(flow: Flow, cookie: int | None = None) -> str:
    """Return one line without leading blank; with the cookie when it is given."""
    head = [] if cookie is None else [f"cookie={cookie:#x}"]
    head += [f"table={flow.table}"] if flow.table else []
    match = ",".join([f"priority={flow.priority}", *_format_match(flow.match)])
    return f"{', '.join([*head, match])} actions={_format_steps(flow.actions, flow.goto)}"


def format_group(group: Group) -> str:
    """Return one line, as ``ovs-ofctl -O OpenFlow14 dump-groups`` prints it."""
    buckets = [
        f"bucket=watch_port:{_port(bucket.watch_port)},actions={_format_steps(bucket.actions)}"
        for bucket in group.buckets
    ]
    return ",".join([f"group_id={group.number}", f"type={_KINDS[group.kind]}", *buckets])


def format_meter(meter: Meter) -> str:
    """Return one line: the two that ``ovs-ofctl -O OpenFlow14 dump-meters`` prints."""
    return f"meter={meter.number} kbps burst bands=type=drop rate={meter.rate_kbps} burst_size={meter.burst_kbit}"


def format_entries(entries: Iterable[Entry], cookie: int | None = None) -> list[str]:
    """Return meters, groups, then flows by table and falling priority: the order that people read entries in."""
    entries = list(entries)
    meters = [format_meter(meter) for meter in sorted(meters_of(entries), key=lambda meter: meter.number)]
    groups = [format_group(group) for group in sorted(groups_of(entries), key=lambda group: group.number)]
    flows = sorted(flows_of(entries), key=lambda flow: (flow.table, -flow.priority, format_flow(flow)))
    return [*meters, *groups, *(format_flow(flow, cookie) for flow in flows)]


def _format_match(match: Match) -> Iterator[str]:
    terms = {term[0]: term for term in match.terms}
    for protocol, (eth_type, ip_proto) in _PROTOCOLS.items():
        is_type = terms.get("eth_type") == ("eth_type", eth_type, 0xFFFF)
        if is_type and (ip_proto is None or terms.get("ip_proto") == ("ip_proto", ip_proto, 0xFF)):
            yield protocol
            del terms["eth_type"]
            if ip_proto is not None:
                del terms["ip_proto"]
            break
    yield from (_format_term(*terms.pop(name)) for name in _ORDER if name in terms)
    yield from (f"{name}={value:#x}" for name, value, _ in terms.values())


def _format_term(name: str, value: int, mask: int) -> str:
    field = FIELDS[name]
    label = field.text or name
    if mask == field.exact:
        if name == "vlan_vid" and value == 0:
            return _UNTAGGED
        if name == "vlan_vid" and value & VLAN_PRESENT:
            return f"dl_vlan={value & ~VLAN_PRESENT}"
        return f"{label}={_format_value(field, value)}"
    if field.kind in {"ipv4", "ipv6"}:
        prefix = mask.bit_count()
        if mask == field.exact ^ (field.exact >> prefix):
            return f"{label}={_format_value(field, value)}/{prefix}"
    if field.kind in {"decimal", "port"}:
        return f"{label}={value:#x}/{mask:#x}"
    return f"{label}={_format_value(field, value)}/{_format_value(field, mask)}"


def _format_value(field: Field, value: int) -> str:
    match field.kind:
        case "mac":
            return mac_text(value)
        case "ipv4":
            return str(IPv4Address(value))
        case "ipv6":
            return str(IPv6Address(value))
        case "hex":
            return f"{value:#x}"
        case "port":
            return _port(value)
        case "decimal":
            return str(value)


def _port(value: int) -> str:
    return _PORTS.get(value, str(value))


def _format_steps(actions: Iterable[Action], goto: int | None = None) -> str:
    steps = [_format_action(action) for action in actions]
    steps += [] if goto is None else [f"goto_table:{goto}"]
    return ",".join(steps) or "drop"


def _format_action(action: Action) -> str:  # noqa: C901, PLR0911 - one line per kind of action
    match action:
        case Output(port):
            return _PORTS.get(port, f"output:{port}")
        case ToGroup(group):
            return f"group:{group}"
        case UseMeter(meter):
            return f"meter:{meter}"
        case SetField(name, value):
            return f"set_field:{_format_value(FIELDS[name], value)}->{name}"
        case PushVlan():
            return "push_vlan:0x8100"
        case PopVlan():
            return "pop_vlan"
        case Move(source, target):
            return f"move:{FIELDS[source].nxm_name}[]->{FIELDS[target].nxm_name}[]"
        case Push(name):
            return f"push:{FIELDS[name].nxm_name}[]"
        case Pop(name):
            return f"pop:{FIELDS[name].nxm_name}[]"
        case Opaque(raw):
            return f"opaque:{raw.hex()}"


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_flow(line: str) -> tuple[int | None, Flow]:
    """Return cookie (None when the line has none) and flow; CodecError when the line is of another form."""
    head, separator, steps = line.strip().partition(" actions=")
    if not separator:
        raise CodecError(f"no actions in {line!r}")
    cookie, table, priority = None, 0, 0x8000
    wanted: list[Term] = []
    for token in re.split(r",\s*", head):
        key, _, value = token.partition("=")
        match key:
            case "cookie":
                cookie = int(value, 0)
            case "table":
                table = int(value)
            case "priority":
                priority = int(value)
            case _:
                wanted += _parse_term(key, value)
    actions, goto = _parse_steps(steps)
    position = {name: i for i, name in enumerate(FIELDS)}
    wanted.sort(key=lambda term: position.get(term[0], len(position)))
    return cookie, Flow(table, priority, Match(tuple(wanted)), actions, goto)


def parse_group(line: str) -> Group:
    """Return the group that a line says."""
    head, *buckets = line.strip().split(",bucket=")
    fields = dict(part.split("=", 1) for part in head.split(","))
    return Group(int(fields["group_id"]), tuple(map(_parse_bucket, buckets)), _KINDS.index(fields["type"]))


def _parse_bucket(text: str) -> Bucket:
    watch, _, steps = text.partition(",actions=")
    return Bucket(_parse_steps(steps)[0], _parse_port(watch.removeprefix("watch_port:")))


def _parse_port(text: str) -> int:
    return next((port for port, name in _PORTS.items() if name == text), None) or int(text)


def _parse_term(key: str, value: str) -> list[Term]:
    if key in _PROTOCOLS and not value:
        eth_type, ip_proto = _PROTOCOLS[key]
        terms = [("eth_type", eth_type, 0xFFFF)]
        return terms if ip_proto is None else [*terms, ("ip_proto", ip_proto, 0xFF)]
    if f"{key}={value}" == _UNTAGGED:
        return [("vlan_vid", 0, FIELDS["vlan_vid"].exact)]
    if key == "dl_vlan":
        return [("vlan_vid", VLAN_PRESENT | int(value), FIELDS["vlan_vid"].exact)]
    if key.startswith("oxm_"):
        return [(key, int(value, 0), (1 << 8 * int(key[-2:], 16)) - 1)]
    field = BY_TEXT.get(key)
    if field is None:
        raise CodecError(f"unknown match {key!r}")
    return [(field.name, *_parse_masked(field, value))]


def _parse_masked(field: Field, text: str) -> tuple[int, int]:
    if field.kind in {"ipv4", "ipv6"} and re.search(r"/\d+$", text):
        network = ip_network(text)
        return int(network.network_address), int(network.netmask)
    value, _, mask = text.partition("/")
    return _parse_value(field, value), _parse_value(field, mask) if mask else field.exact


def _parse_value(field: Field, text: str) -> int:
    match field.kind:
        case "mac":
            return number(text)
        case "ipv4" | "ipv6":
            return int(ip_address(text))
        case "port" if not text.startswith("0x"):
            return _parse_port(text)
        case _:
            return int(text, 0)


def _parse_steps(text: str) -> tuple[tuple[Action, ...], int | None]:
    """Return actions and the table that looks next."""
    if text == "drop":
        return (), None
    *steps, last = text.split(",")
    goto = int(last.removeprefix("goto_table:")) if last.startswith("goto_table:") else None
    steps += [last] if goto is None else []
    return tuple(map(_parse_action, steps)), goto


def _parse_action(step: str) -> Action:  # noqa: C901, PLR0911 - one line per kind of action
    name, _, rest = step.partition(":")
    source, _, target = rest.partition("->")
    match name:
        case "LOCAL" | "IN_PORT":
            return Output(_parse_port(name))
        case "output":
            return Output(int(rest))
        case "group":
            return ToGroup(int(rest))
        case "meter":
            return UseMeter(int(rest))
        case "set_field":
            return SetField(target, _parse_value(FIELDS[target], source))
        case "push_vlan":
            return PushVlan()
        case "pop_vlan":
            return PopVlan()
        case "move":
            return Move(_nxm(source), _nxm(target))
        case "push":
            return Push(_nxm(rest))
        case "pop":
            return Pop(_nxm(rest))
        case "opaque":
            return Opaque(bytes.fromhex(rest))
        case _:
            raise CodecError(f"unknown action {step!r}")


def _nxm(text: str) -> str:
    field = BY_NXM_NAME.get(text.removesuffix("[]"))
    if field is None:
        raise CodecError(f"unknown field {text!r}")
    return field.name
