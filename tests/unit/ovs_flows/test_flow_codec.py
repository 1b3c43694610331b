"""Flows and groups survive the way to bytes and to text and back; equal values are equal bytes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_flows.cookies import BASE_OBJECT, cookie, object_of
from ovs_flows.errors import CodecError
from ovs_flows.fields import FIELDS, NXM_BASIC, OXM_BASIC, Field
from ovs_flows.messages import (
    HEADER_SIZE,
    Message,
    add_flow,
    add_meter,
    delete_meter,
    dump_groups,
    dump_meter,
    is_foreign_change,
    modify_meter,
    pack,
    parse_part,
    unpack_header,
)
from ovs_flows.model import (
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
)
from ovs_flows.text import format_entries, format_flow, format_group, parse_flow, parse_group
from ovs_flows.wire import (
    decode_flow,
    decode_flow_statistics,
    decode_groups,
    decode_meters,
    encode_buckets,
    encode_instructions,
    encode_match,
    encode_meter,
)

NXM = [name for name, field in FIELDS.items() if field.nxm is not None]


@st.composite
def terms(draw: st.DrawFn, field: Field) -> Term:
    mask = draw(st.just(field.exact) | st.integers(1, field.exact))
    return field.name, draw(st.integers(0, field.exact)) & mask, mask


@st.composite
def matches(draw: st.DrawFn) -> Match:
    chosen = draw(st.sets(st.sampled_from(list(FIELDS))))
    return Match(tuple(draw(terms(field)) for name, field in FIELDS.items() if name in chosen))


@st.composite
def set_fields(draw: st.DrawFn) -> SetField:
    field = draw(st.sampled_from(list(FIELDS.values())))
    return SetField(field.name, draw(st.integers(0, field.exact)))


NUMBERS = st.integers(0, 0xFFFF_FFFF)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Output, NUMBERS),
    st.builds(ToGroup, NUMBERS),
    set_fields(),
    st.just(PushVlan()),
    st.just(PopVlan()),
    st.sampled_from([Move("eth_src", "eth_dst"), Move("arp_sha", "arp_tha"), Move("arp_spa", "arp_tpa")]),
    st.builds(Push, st.sampled_from(NXM)),
    st.builds(Pop, st.sampled_from(NXM)),
)


def _steps(meter: UseMeter | None, actions: list[Action]) -> tuple[Action, ...]:
    return (*actions,) if meter is None else (meter, *actions)


FLOWS = st.builds(
    Flow,
    st.integers(0, 254),
    st.integers(0, 0xFFFF),
    matches(),
    st.builds(_steps, st.none() | st.builds(UseMeter, NUMBERS), st.lists(ACTIONS, max_size=6)),
    st.none() | st.integers(1, 254),
)
BUCKETS = st.builds(Bucket, st.lists(ACTIONS, max_size=3).map(tuple), st.integers(1, 0xFF00))
GROUPS = st.builds(Group, NUMBERS, st.lists(BUCKETS, max_size=4).map(tuple), st.integers(0, 3))


def statistics(entries: list[tuple[int, Flow]]) -> bytes:
    """Write flow statistics as a switch does (OpenFlow 1.4 7.3.5.2), with counters that must not matter."""
    body = b""
    for owner, flow in entries:
        tail = encode_match(flow.match) + encode_instructions(flow)
        head = struct.pack(
            "!HBxIIHHHHH2xQQQ", 48 + len(tail), flow.table, 7, 8, flow.priority, 0, 0, 0, 0, owner, 9, 10
        )
        body += head + tail
    return body


@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), FLOWS), max_size=4))
def test_flows_survive_the_wire(entries: list[tuple[int, Flow]]) -> None:
    assert list(decode_flow_statistics(statistics(entries))) == entries


@given(FLOWS, FLOWS)
def test_flows_are_equal_exactly_when_their_bytes_are(one: Flow, other: Flow) -> None:
    assert (add_flow(1, one).body == add_flow(1, other).body) == (one == other)


@given(FLOWS, st.none() | st.integers(0, (1 << 64) - 1))
def test_flows_survive_text(flow: Flow, owner: int | None) -> None:
    assert parse_flow(format_flow(flow, owner)) == (owner, flow)


@given(st.lists(GROUPS, max_size=3))
def test_groups_survive_the_wire(groups: list[Group]) -> None:
    body = b""
    for group in groups:
        buckets = encode_buckets(group)
        body += struct.pack("!HBxI", 8 + len(buckets), group.kind, group.number) + buckets
    assert list(decode_groups(body)) == groups


@given(GROUPS)
def test_groups_survive_text(group: Group) -> None:
    assert parse_group(format_group(group)) == group


@pytest.mark.parametrize(
    "instructions",
    [
        struct.pack("!HH4x", 5, 8),  # clear-actions
        struct.pack("!HHI", 6, 8, 3) + struct.pack("!HH4xHHB3x", 4, 16, 24, 8, 1),  # an unknown action behind a meter
        struct.pack("!HHI", 1, 8, 2 << 24) + struct.pack("!HHI", 6, 8, 3),  # in an order that we do not write
        struct.pack("!HH4xHHB3x", 4, 16, 24, 8, 1),  # apply: an action of a kind that we do not know
        struct.pack("!HH4xHHIH6x", 4, 24, 0, 16, 7, 128),  # output with a length for the controller
        struct.pack("!HH4xHHIHHHHHBBHBB", 4, 32, 0xFFFF, 24, 0x2320, 6, 16, 0, 0, 0, 4, 6, 0, 2, 6),  # 16 bits of 48
    ],
    ids=["clear", "behind a meter", "order", "action", "max_len", "partial move"],
)
def test_what_we_have_no_word_for_survives_as_bytes(instructions: bytes) -> None:
    flow = decode_flow(3, 7, encode_match(Match.of(eth_type=0x0800))[:10], instructions)
    assert flow.actions
    assert any(isinstance(action, Opaque) for action in flow.actions)
    assert encode_instructions(flow) == instructions
    assert parse_flow(format_flow(flow)) == (None, flow)


def test_unknown_match_field_survives_and_is_told_apart() -> None:
    tcp_destination = struct.pack("!HBBH", OXM_BASIC, 14 << 1, 2, 80)
    registers = struct.pack("!HBBII", 1, 1 << 1 | 1, 8, 5, 0xFF)
    raw = struct.pack("!HH", 1, 4 + len(tcp_destination + registers)) + tcp_destination + registers
    flow = decode_flow(0, 1, raw, b"")
    assert encode_match(flow.match) == raw + bytes(-len(raw) % 8)
    assert parse_flow(format_flow(flow)) == (None, flow)
    assert flow != decode_flow(0, 1, raw.replace(b"\x00\x50", b"\x00\x51"), b"")


@pytest.mark.parametrize("damaged", [b"\x00\x04\x00\x00", b"\x00\x04\x00\x07\x00\x00\x00\x00"])
def test_damaged_instructions_are_an_error(damaged: bytes) -> None:
    with pytest.raises(CodecError):
        decode_flow(0, 1, encode_match(Match()), damaged)


@pytest.mark.parametrize(
    "line",
    ["priority=1,ip", "priority=1,what=3 actions=drop", "priority=1 actions=explode", "priority=1 actions=push:X[]"],
)
def test_text_of_another_form_is_an_error(line: str) -> None:
    with pytest.raises(CodecError):
        parse_flow(line)


def test_match_from_keywords() -> None:
    wanted: dict[str, Any] = {"eth_dst": ("01:00:00:00:00:00", "01:00:00:00:00:00"), "in_port": 3}
    assert Match.of(**wanted).terms == (("in_port", 3, 0xFFFF_FFFF), ("eth_dst", 1 << 40, 1 << 40))
    assert Match.of(ipv4_dst=IPv4Network("10.0.0.0/8")).terms == (("ipv4_dst", 10 << 24, 0xFF << 24),)
    assert Match.of(ipv6_dst=IPv6Network("::/0")) == Match()


def test_entries_are_listed_meters_and_groups_first_then_by_table_and_falling_priority() -> None:
    entries: list[Entry] = [
        Flow(2, 1),
        Flow(0, 1),
        Flow(0, 9),
        Group(4, (Bucket((Output(1),), 1),)),
        Meter(2, 64, 1024),
    ]
    assert format_entries(entries) == [
        "meter=2 kbps burst bands=type=drop rate=64 burst_size=1024",
        "group_id=4,type=select,bucket=watch_port:1,actions=output:1",
        "priority=9 actions=drop",
        "priority=1 actions=drop",
        "table=2, priority=1 actions=drop",
    ]


@given(st.lists(st.builds(Meter, NUMBERS, st.integers(1, 0xFFFF_FFFF), NUMBERS), max_size=4))
def test_meters_survive_the_wire(meters: list[Meter]) -> None:
    raw = map(encode_meter, meters)
    assert list(decode_meters(b"".join(struct.pack("!H", 2 + len(one)) + one for one in raw))) == meters


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("!HI", 2, 7) + struct.pack("!HHII4x", 1, 16, 64, 1024),
        struct.pack("!HI", 5, 7) + struct.pack("!HHIIB3x", 2, 16, 64, 1024, 1),
        struct.pack("!HI", 5, 7) + 2 * struct.pack("!HHII4x", 1, 16, 64, 1024),
        struct.pack("!HI", 5, 7),
    ],
    ids=["packets", "remarks", "two bands", "no band"],
)
def test_a_meter_of_another_kind_is_none_of_ours(raw: bytes) -> None:
    assert list(decode_meters(struct.pack("!H", 2 + len(raw)) + raw)) == [Meter(7, 0, 0)]


def test_meter_messages() -> None:
    """OpenFlow 1.4 7.3.4.5: command, flags KBPS and BURST, number, one band of type drop; 7.3.5.14."""
    flags, band = bytes.fromhex("0005"), bytes.fromhex("0001 0010 00000040 00000400 00000000")
    meter = Meter(7, 64, 1024)
    assert add_meter(meter) == Message(29, bytes(2) + flags + bytes.fromhex("00000007") + band)
    assert modify_meter(meter) == Message(29, b"\x00\x01" + flags + bytes.fromhex("00000007") + band)
    assert delete_meter(7) == Message(29, bytes.fromhex("0002 0000 00000007"))
    assert parse_part(dump_meter().body) == (10, bytes.fromhex("ffffffff 00000000"))


def test_a_meter_that_does_not_come_first_is_an_error() -> None:
    with pytest.raises(CodecError):
        encode_instructions(Flow(0, 1, Match(), (Output(1), UseMeter(1))))


def test_message_header() -> None:
    packed = pack(Message(20, b"xyz"), 77)
    assert unpack_header(packed) == (5, 20, HEADER_SIZE + 3, 77)
    assert parse_part(dump_groups().body) == (7, b"")


@pytest.mark.parametrize(("events", "foreign"), [([4], False), ([], False), ([4, 1], True), ([2], True), ([5], True)])
def test_only_changes_of_others_are_foreign(events: list[int], foreign: bool) -> None:
    content = b"".join(struct.pack("!HHI", 8, event, 1) for event in events)
    assert is_foreign_change(content) == foreign


@pytest.mark.parametrize(("table", "foreign"), [(253, True), (254, False)])
def test_what_ovs_does_for_its_bonds_in_its_hidden_table_is_nobodys_change(table: int, foreign: bool) -> None:
    added = struct.pack("!HHBB10x", 16, 1, table, 0)
    assert is_foreign_change(added) == foreign


@given(st.integers(0, 0xFFFF_FFFF))
def test_cookie_names_its_object(number: int) -> None:
    assert object_of(cookie(number)) == number
    assert object_of(cookie(number) ^ 1 << 40) is None
    assert object_of(number) is None


def test_base_cookie() -> None:
    assert cookie(BASE_OBJECT) == 0x5652_0001_0000_0000


def test_nxm_headers_are_of_the_classes_that_ovs_defines() -> None:
    assert {field.nxm[0] for field in FIELDS.values() if field.nxm is not None} == {NXM_BASIC, 1}
