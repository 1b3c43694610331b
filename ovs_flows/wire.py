"""Flows, groups and meters as OpenFlow 1.4 bytes, both ways. Pure.

Equal values give equal bytes and the other way round. What this vocabulary cannot say (somebody else's flow) decodes to
`Opaque`, or to a match term named by its header, and encodes back to the same bytes, so that strays can be named and
removed. Sources: OpenFlow 1.4 7.2.3 (match), 7.2.4 (instructions), 7.2.5 (actions), 7.3.4.5 (meters), 7.3.5
(statistics); OVS include/openflow/nicira-ext.h and lib/ofp-actions.c (move, push, pop).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from ovs_flows.errors import CodecError
from ovs_flows.fields import BY_NXM, BY_OXM, FIELDS, Field
from ovs_flows.model import (
    Action,
    Bucket,
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
)

ANY = 0xFFFF_FFFF
"""OFPP_ANY, OFPG_ANY."""
_TPID = 0x8100
_NICIRA = 0x2320
_OUTPUT, _PUSH_VLAN, _POP_VLAN, _GROUP, _SET_FIELD, _EXPERIMENTER = 0, 17, 18, 22, 25, 0xFFFF
_NX_MOVE, _NX_PUSH, _NX_POP = 6, 27, 28
_GOTO, _APPLY, _METER = 1, 4, 6
_KBPS, _WITH_BURST, _DROP = 1, 4, 1
_METER_SIZE = 22
"""Bytes of a meter with one band, without the length."""
_UNKNOWN = "oxm_"


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


# --- match -----------------------------------------------------------------------------------------------------------


def encode_match(match: Match) -> bytes:
    """Return an OXM match, padded to 8 bytes."""
    body = b"".join(_encode_term(*term) for term in match.terms)
    return _padded(struct.pack("!HH", 1, 4 + len(body)) + body)


def _encode_term(name: str, value: int, mask: int) -> bytes:
    if name.startswith(_UNKNOWN):
        header = bytes.fromhex(name.removeprefix(_UNKNOWN))
        return header + value.to_bytes(header[3], "big")
    field = FIELDS[name]
    size = field.size
    if mask == field.exact:
        return field.header + value.to_bytes(size, "big")
    header = struct.pack("!HBB", field.oxm[0], field.oxm[1] << 1 | 1, 2 * size)
    return header + value.to_bytes(size, "big") + mask.to_bytes(size, "big")


def _decode_match(body: bytes) -> Match:
    terms: list[Term] = []
    offset = 0
    while offset < len(body):
        oxm_class, number, length = struct.unpack_from("!HBB", body, offset)
        payload = body[offset + 4 : offset + 4 + length]
        field = BY_OXM.get((oxm_class, number >> 1))
        size = length // 2 if number & 1 else length
        if field is None or size != field.size:
            terms.append(
                (_UNKNOWN + body[offset : offset + 4].hex(), int.from_bytes(payload, "big"), (1 << 8 * length) - 1)
            )
        else:
            mask = int.from_bytes(payload[size:], "big") if number & 1 else field.exact
            terms.append((field.name, int.from_bytes(payload[:size], "big"), mask))
        offset += 4 + length
    return Match(tuple(terms))


# --- actions and instructions ----------------------------------------------------------------------------------------


def _encode_action(action: Action) -> bytes:  # noqa: PLR0911 - one line per kind of action
    match action:
        case Output(port):
            return struct.pack("!HHIH6x", _OUTPUT, 16, port, 0)
        case ToGroup(group):
            return struct.pack("!HHI", _GROUP, 8, group)
        case SetField(name, value):
            term = _encode_term(name, value, FIELDS[name].exact)
            size = 4 + len(term)
            return _padded(struct.pack("!HH", _SET_FIELD, size + -size % 8) + term)
        case PushVlan():
            return struct.pack("!HHH2x", _PUSH_VLAN, 8, _TPID)
        case PopVlan():
            return struct.pack("!HH4x", _POP_VLAN, 8)
        case Move(source, target):
            bits = FIELDS[source].bits
            header = struct.pack("!HHIHHHH", _EXPERIMENTER, 24, _NICIRA, _NX_MOVE, bits, 0, 0)
            return header + _nxm_header(source) + _nxm_header(target)
        case Push(name) | Pop(name):
            subtype = _NX_PUSH if isinstance(action, Push) else _NX_POP
            header = struct.pack("!HHIHH", _EXPERIMENTER, 24, _NICIRA, subtype, 0)
            return header + _nxm_header(name) + struct.pack("!H6x", FIELDS[name].bits)
        case Opaque(raw):
            return raw
        case UseMeter():
            raise CodecError("a meter stands before all other actions of a flow")


def _nxm_header(name: str) -> bytes:
    field = FIELDS[name]
    if field.nxm is None:
        raise CodecError(f"{name} can be neither moved nor pushed")
    return struct.pack("!HBB", field.nxm[0], field.nxm[1] << 1, field.size)


def _encode_actions(actions: tuple[Action, ...]) -> bytes:
    return b"".join(map(_encode_action, actions))


def encode_instructions(flow: Flow) -> bytes:
    """Return the instructions of a flow: meter, apply-actions, goto-table, each only if there is something to do."""
    if len(flow.actions) == 1 and isinstance(flow.actions[0], Opaque):
        return flow.actions[0].raw
    if flow.actions and isinstance(flow.actions[0], UseMeter):
        meter = struct.pack("!HHI", _METER, 8, flow.actions[0].meter)
        return meter + encode_instructions(replace(flow, actions=flow.actions[1:]))
    actions = _encode_actions(flow.actions)
    apply = struct.pack("!HH4x", _APPLY, 8 + len(actions)) + actions if actions else b""
    return apply if flow.goto is None else apply + struct.pack("!HHB3x", _GOTO, 8, flow.goto)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split type-length-value records: actions and instructions look alike."""
    offset = 0
    while offset < len(data):
        kind, length = struct.unpack_from("!HH", data, offset)
        if length < 8:
            raise CodecError(f"record of {length} bytes")
        yield kind, data[offset : offset + length]
        offset += length


def _decode_action(kind: int, raw: bytes) -> Action:
    """Decode one action; CodecError when it has no word here. The caller checks that nothing was lost."""
    match kind:
        case 0:
            return Output(*struct.unpack_from("!I", raw, 4))
        case 17:
            return PushVlan()
        case 18:
            return PopVlan()
        case 22:
            return ToGroup(*struct.unpack_from("!I", raw, 4))
        case 25:
            oxm_class, number, size = struct.unpack_from("!HBB", raw, 4)
            field = BY_OXM.get((oxm_class, number >> 1))
            if field is not None:
                return SetField(field.name, int.from_bytes(raw[8 : 8 + size], "big"))
        case 0xFFFF:
            return _decode_nicira(raw)
        case _:
            pass
    raise CodecError(f"action {kind}")


def _decode_nicira(raw: bytes) -> Action:
    match struct.unpack_from("!IH", raw, 4):
        case (0x2320, 6):
            return Move(_nxm_field(raw, 16).name, _nxm_field(raw, 20).name)
        case (0x2320, 27):
            return Push(_nxm_field(raw, 12).name)
        case (0x2320, 28):
            return Pop(_nxm_field(raw, 12).name)
        case other:
            raise CodecError(f"experimenter action {other}")


def _nxm_field(raw: bytes, offset: int) -> Field:
    nxm_class, number = struct.unpack_from("!HB", raw, offset)
    field = BY_NXM.get((nxm_class, number >> 1))
    if field is None:
        raise CodecError(f"field {nxm_class:#x}:{number >> 1}")
    return field


def _decode_actions(raw: bytes) -> tuple[Action, ...]:
    try:
        actions = tuple(_decode_action(kind, record) for kind, record in _records(raw))
    except (CodecError, struct.error):
        return (Opaque(raw),)
    return actions if _encode_actions(actions) == raw else (Opaque(raw),)


# --- flows -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def decode_flow(table: int, priority: int, match: bytes, instructions: bytes) -> Flow:
    """Return the flow that these bytes say, ``match`` without its padding. Cached: dumps repeat themselves for days."""
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    for kind, record in _records(instructions):
        if kind == _METER:
            actions = (UseMeter(int.from_bytes(record[4:8], "big")),)
        elif kind == _APPLY:
            actions += _decode_actions(record[8:])
        elif kind == _GOTO:
            goto = record[4]
    flow = Flow(table, priority, _decode_match(match[4:]), actions, goto)
    if encode_instructions(flow) == instructions:
        return flow
    return Flow(table, priority, flow.match, (Opaque(instructions),))


_FLOW_STATISTICS = struct.Struct("!HBx8xH10xQ16x2xH")
"""Length, table, priority, cookie, length of the match that starts 4 bytes before the end."""


def decode_flow_statistics(body: bytes) -> Iterator[tuple[int, Flow]]:
    """Yield cookie and flow for each entry of a flow statistics reply (without the multipart header)."""
    offset, unpack = 0, _FLOW_STATISTICS.unpack_from
    while offset < len(body):
        length, table, priority, cookie, match_length = unpack(body, offset)
        start = offset + _FLOW_STATISTICS.size - 4
        stop = start + match_length
        yield cookie, decode_flow(table, priority, body[start:stop], body[stop + -match_length % 8 : offset + length])
        offset += length


# --- groups ----------------------------------------------------------------------------------------------------------


def encode_buckets(group: Group) -> bytes:
    """Return the buckets of a group, weight 1 each (OpenFlow 1.4 7.3.4.3)."""
    return b"".join(map(_encode_bucket, group.buckets))


def _encode_bucket(bucket: Bucket) -> bytes:
    actions = _encode_actions(bucket.actions)
    return struct.pack("!HHII4x", 16 + len(actions), 1, bucket.watch_port, ANY) + actions


def decode_groups(body: bytes) -> Iterator[Group]:
    """Yield each entry of a group description reply (without the multipart header)."""
    offset = 0
    while offset < len(body):
        length, kind, number = struct.unpack_from("!HBxI", body, offset)
        yield Group(number, tuple(_decode_buckets(body[offset + 8 : offset + length])), kind)
        offset += length


def _decode_buckets(body: bytes) -> Iterator[Bucket]:
    offset = 0
    while offset < len(body):
        length, watch_port = struct.unpack_from("!H2xI", body, offset)
        yield Bucket(_decode_actions(body[offset + 16 : offset + length]), watch_port)
        offset += length


# --- meters ----------------------------------------------------------------------------------------------------------


def encode_meter(meter: Meter) -> bytes:
    """Return flags, number and the one band of a meter: it drops what is faster."""
    return struct.pack("!HI", _KBPS | _WITH_BURST, meter.number) + struct.pack(
        "!HHII4x", _DROP, 16, meter.rate_kbps, meter.burst_kbit
    )


def decode_meters(body: bytes) -> Iterator[Meter]:
    """Yield each entry of a meter configuration reply (without the multipart header)."""
    offset = 0
    while offset < len(body):
        length, _, number = struct.unpack_from("!HHI", body, offset)
        raw = body[offset + 2 : offset + length]
        meter = Meter(number, *struct.unpack_from("!II", raw, 10)) if len(raw) == _METER_SIZE else Meter(number, 0, 0)
        yield meter if encode_meter(meter) == raw else Meter(number, 0, 0)
        offset += length
