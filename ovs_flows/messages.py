"""OpenFlow 1.4 messages: what goes around flows, groups and meters. Pure.

A message is its type and body here; the connection gives it a transaction number (xid) and a header. Sources: OpenFlow
1.4 7.1 (header), 7.3.4 (modify state), 7.3.5 (multipart), 7.3.9 (bundles), 7.5 (hello, error, echo).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ovs_flows.model import Flow, Group, Match, Meter
from ovs_flows.wire import ANY, encode_buckets, encode_instructions, encode_match, encode_meter

VERSION = 5
"""OpenFlow 1.4."""
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
FLOW_MOD, GROUP_MOD, MULTIPART_REQUEST, MULTIPART_REPLY = 14, 15, 18, 19
BARRIER_REQUEST, BARRIER_REPLY, METER_MOD, BUNDLE_CONTROL, BUNDLE_ADD = 20, 21, 29, 33, 34

PART_FLOWS, PART_GROUPS, PART_METERS, PART_MONITOR = 1, 7, 10, 16
OPEN, COMMIT, DISCARD = 0, 4, 6
ALL_TABLES = 0xFF
_ALL_GROUPS = 0xFFFF_FFFC
_ATOMIC_ORDERED = 3
_ADD, _DELETE, _DELETE_STRICT = 0, 3, 4
_ALL_BITS = (1 << 64) - 1
_HEADER = struct.Struct("!BBHI")
HEADER_SIZE = _HEADER.size


@dataclass(frozen=True, slots=True)
class Message:
    """One message without its header."""

    kind: int
    body: bytes = b""


def pack(message: Message, xid: int) -> bytes:
    """Return the message with its header."""
    return _HEADER.pack(VERSION, message.kind, _HEADER.size + len(message.body), xid) + message.body


def unpack_header(data: bytes | bytearray, offset: int = 0) -> tuple[int, int, int, int]:
    """Return version, type, length (header included) and transaction number."""
    version, kind, length, xid = _HEADER.unpack_from(data, offset)
    return version, kind, length, xid


def hello() -> Message:
    """Say that we speak OpenFlow 1.4 and nothing else."""
    return Message(HELLO, struct.pack("!HHI", 1, 8, 1 << VERSION))


# --- flows and groups ------------------------------------------------------------------------------------------------


def _flow_mod(command: int, cookie: int, flow: Flow, instructions: bytes = b"") -> Message:
    # An add writes the cookie, a delete selects by it. No timeouts, buffer, output filters, flags or importance.
    mask = 0 if command == _ADD else _ALL_BITS
    head = struct.pack("!QQBBHHH", cookie, mask, flow.table, command, 0, 0, flow.priority)
    return Message(
        FLOW_MOD, head + struct.pack("!IIIHH", ANY, ANY, ANY, 0, 0) + encode_match(flow.match) + instructions
    )


def add_flow(cookie: int, flow: Flow) -> Message:
    """Add a flow; one of the same identity is replaced, whoever it belongs to."""
    return _flow_mod(_ADD, cookie, flow, encode_instructions(flow))


def delete_flow(cookie: int, flow: Flow) -> Message:
    """Delete exactly this flow if it carries this cookie."""
    return _flow_mod(_DELETE_STRICT, cookie, flow)


def delete_cookie(cookie: int) -> Message:
    """Delete all flows that carry this cookie."""
    return _flow_mod(_DELETE, cookie, Flow(ALL_TABLES, 0))


def add_group(group: Group) -> Message:
    """Add a group; refused when its number is in use."""
    return Message(GROUP_MOD, struct.pack("!HBxI", 0, group.kind, group.number) + encode_buckets(group))


def modify_group(group: Group) -> Message:
    """Replace a group; flows that use it stay."""
    return Message(GROUP_MOD, struct.pack("!HBxI", 1, group.kind, group.number) + encode_buckets(group))


def delete_group(number: int = _ALL_GROUPS) -> Message:
    """Delete one group, or all; OVS deletes the flows that use it too."""
    return Message(GROUP_MOD, struct.pack("!HBxI", 2, 0, number))


def add_meter(meter: Meter) -> Message:
    """Add a meter; refused when its number is in use. Bundles take no meters."""
    return Message(METER_MOD, struct.pack("!H", 0) + encode_meter(meter))


def modify_meter(meter: Meter) -> Message:
    """Change a meter; flows that use it stay."""
    return Message(METER_MOD, struct.pack("!H", 1) + encode_meter(meter))


def delete_meter(number: int) -> Message:
    """Delete a meter, and the flows that use it."""
    return Message(METER_MOD, struct.pack("!HHI", 2, 0, number))


# --- questions -------------------------------------------------------------------------------------------------------


def dump_flows(cookie: int = 0, cookie_mask: int = 0, table: int = ALL_TABLES) -> Message:
    """Ask for the flows of one table, or all, whose cookie agrees with ``cookie`` under the mask."""
    fixed = struct.pack("!HH4xB3xII4xQQ", PART_FLOWS, 0, table, ANY, ANY, cookie, cookie_mask)
    return Message(MULTIPART_REQUEST, fixed + encode_match(Match()))


def dump_cookie(cookie: int) -> Message:
    """Ask for the flows that carry this cookie; cheap, OVS keeps an index."""
    return dump_flows(cookie, _ALL_BITS)


def dump_groups() -> Message:
    """Ask for all groups."""
    return Message(MULTIPART_REQUEST, struct.pack("!HH4x", PART_GROUPS, 0))


def dump_meter(number: int = ANY) -> Message:
    """Ask how a meter is configured, or all of them."""
    return Message(MULTIPART_REQUEST, struct.pack("!HH4xI4x", PART_METERS, 0, number))


def monitor_flows() -> Message:
    """Ask to be told of every flow that somebody else adds, changes or removes (OpenFlow 1.4 7.3.5.17)."""
    added, removed, modified = 1 << 1, 1 << 2, 1 << 3
    fixed = struct.pack("!HH4xIIIHBB", PART_MONITOR, 0, 1, ANY, ANY, added | removed | modified, ALL_TABLES, 0)
    return Message(MULTIPART_REQUEST, fixed + encode_match(Match()))


def parse_part(body: bytes) -> tuple[int, bytes]:
    """Split the body of a multipart reply into its type and content."""
    return int.from_bytes(body[:2], "big"), body[8:]


def is_foreign_change(content: bytes) -> bool:
    """Tell whether a flow monitor's report holds more than our own changes, which OVS abbreviates.

    Neither do the changes in OVS's hidden last table count: it rewrites the rules of its bonds there all the time.
    """
    abbreviated, hidden_table, offset = 4, 254, 0
    while offset < len(content):
        length, event, table = struct.unpack_from("!HHB", content, offset)
        if event != abbreviated and table != hidden_table:
            return True
        offset += length
    return False


# --- bundles ---------------------------------------------------------------------------------------------------------


def bundle_control(bundle: int, step: int) -> Message:
    """Open, commit or discard an atomic, ordered bundle."""
    return Message(BUNDLE_CONTROL, struct.pack("!IHH", bundle, step, _ATOMIC_ORDERED))


def bundle_add(bundle: int, message: Message, xid: int) -> Message:
    """Put a message into a bundle; both carry the same xid, by which OVS reports an error later."""
    return Message(BUNDLE_ADD, struct.pack("!I2xH", bundle, _ATOMIC_ORDERED) + pack(message, xid))
