"""Filters of the kernel's traffic control, as this program makes them: a flower each, in our own priorities. Pure.

Every filter matches one prefix, as source or as destination, or nothing in particular, and has one verdict. Priorities
and chain are numbers of ours, so whatever else has filters on a device keeps them. They are never given to hardware.

Source: tc-flower(8), tc-actions(8), linux/pkt_cls.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Network, IPv6Network
from socket import htons

from routed.attach.answers import HEADER_SIZE, attributes
from routed.attach.packing import attribute, message, number
from routed.attach.rtnl import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request
from routed.domain.workload import IPNetwork

RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER, RTM_NEWQDISC = 44, 45, 46, 36
ETH_ALL, ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
PRIORITIES = range(8200, 8230)
"""Ours; those that the kernel chooses for others begin far behind (49152)."""
CHAIN = 82
"""Where what a pod may send is looked at once more."""
_CLSACT, _CLSACT_PARENT = 0xFFFF_0000, 0xFFFF_FFF1
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_RECEIVER, _SENDER, _TYPE, _FLAGS, _ACTIONS = 4, 6, 8, 22, 3
_GROUP = b"\1\0\0\0\0\0"
"""The bit of a MAC address that says so."""
_PROTOCOL, _ICMP6_TYPE, _ICMP6_TYPE_MASK, _ICMP6 = 9, 55, 56, 58
_ADDRESS_KEYS = {(4, True): 10, (4, False): 12, (6, True): 14, (6, False): 16}
"""TCA_FLOWER_KEY_IPV4_SRC and so on, by version and whether it is the source; the mask's number is the next one."""
_ARP_SENDER = 57
_SKIP_HW = 1
_ACT_KIND, _ACT_OPTIONS, _PARMS = 1, 2, 2
_OK, _SHOT, _STOLEN, _GOTO = 0, 2, 4, 0x2000_0000
_EGRESS_REDIRECT = 1
_SET_RECEIVER = 1
"""SKBMOD_F_DMAC."""
_NEW_RECEIVER = 3
"""TCA_SKBMOD_DMAC."""
_TCMSG = struct.Struct("=B3xiIII")
_GACT = struct.Struct("=IIiii")
"""struct tc_gact: index, capabilities, action, references, bindings; tc_mirred goes on with action and device."""
_MIRRED = struct.Struct("=IIiiiiI")
_SKBMOD = struct.Struct("=IIiii4xQ")
"""struct tc_skbmod: as tc_gact, and flags."""


class Hook(IntEnum):
    """Where on a device."""

    INGRESS = 0xFFFF_FFF2
    EGRESS = 0xFFFF_FFF3


class Verdict(Enum):
    """What becomes of a packet that matches."""

    PASS = "pass"  # noqa: S105 - no password
    DROP = "drop"
    LOOK_ON = "look on"
    """Goes to `CHAIN`, and passes when nothing there matches."""
    OUT = "out"
    """Leaves by another device."""
    HAND_OVER = "hand over"
    """Passes, with another receiver's MAC address."""
    OTHER = "other"
    """Something that no filter of ours does."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One of our filters; equal ones do the same."""

    hook: Hook
    verdict: Verdict
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    protocol: int = ETH_ALL
    """Ethertype; follows from the prefix but for ARP, of which ``source`` is the sender."""
    mac: str | None = None
    """Of the sender."""
    group: bool = False
    """Whether it matches what is for more than one receiver."""
    neighbours: tuple[int, int] | None = None
    """Types of ICMPv6 messages and the mask to compare them by."""
    chain: int = 0
    device: int = 0
    """Index of the other device, for `Verdict.OUT`."""
    receiver: str | None = None
    """The MAC address that is put in, for `Verdict.HAND_OVER`."""

    @property
    def priority(self) -> int:
        """Where it stands: what lets pass comes first, and each priority has one protocol."""
        rank = 0 if self.neighbours or self.group else 1 if self.verdict is not Verdict.DROP else 2
        return PRIORITIES[0] + 10 * rank + (ETH_IPV4, ETH_IPV6, ETH_ARP, ETH_ALL).index(self.protocol)


def of_source(hook: Hook, verdict: Verdict, prefix: IPNetwork, mac: str | None = None) -> Filter:
    """Return a filter of packets from a prefix, and from this MAC address alone if there is one."""
    return Filter(hook, verdict, source=prefix, protocol=_ethertype(prefix), mac=mac)


def of_destination(hook: Hook, verdict: Verdict, prefix: IPNetwork, chain: int = 0, device: int = 0) -> Filter:
    """Return a filter of packets to a prefix."""
    return Filter(hook, verdict, destination=prefix, protocol=_ethertype(prefix), chain=chain, device=device)


def hand_over(hook: Hook, prefix: IPNetwork, receiver: str) -> Filter:
    """Return a filter of packets to a prefix that gives them this receiver's MAC address, and lets them pass."""
    protocol = _ethertype(prefix)
    return Filter(hook, Verdict.HAND_OVER, destination=prefix, protocol=protocol, receiver=receiver)


CLOSED = frozenset(Filter(hook, Verdict.DROP) for hook in Hook)
"""Filters of a wire that serves nobody."""


def _ethertype(prefix: IPNetwork) -> int:
    return ETH_IPV4 if prefix.version == 4 else ETH_IPV6


NEIGHBOUR_MESSAGES = ((0x84, 0xFC), (0x88, 0xFE))
"""Types 132 to 135 and 136 to 137 of ICMPv6: all of neighbour discovery (RFC 4861 4), and leaving a group."""


def own_alone(hook: Hook, addresses: frozenset[IPNetwork], mac: str) -> frozenset[Filter]:
    """Return the filters that look on at packets from these addresses to somebody in particular, and drop all else.

    Neighbour discovery least of all gets on.
    """
    return frozenset(
        {
            *(of_source(hook, Verdict.LOOK_ON, address, mac) for address in addresses),
            Filter(hook, Verdict.DROP, group=True),
            *(Filter(hook, Verdict.DROP, protocol=ETH_IPV6, neighbours=types) for types in NEIGHBOUR_MESSAGES),
            Filter(hook, Verdict.DROP),
        }
    )


# --- requests --------------------------------------------------------------------------------------------------------


def add_hooks(index: int) -> Request:
    """Make room for filters on a device."""
    frame = message(
        RTM_NEWQDISC,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        _TCMSG.pack(0, index, _CLSACT, _CLSACT_PARENT, 0),
        attribute(_TCA_KIND, b"clsact\0"),
    )
    return Request(frame, f"make room for filters on device {index}")


def list_filters(index: int, hook: Hook) -> Request:
    """Ask for the filters at one hook of a device."""
    frame = message(RTM_GETTFILTER, NLM_F_DUMP, _TCMSG.pack(0, index, 0, hook, 0))
    return Request(frame, f"list filters of device {index}")


def add_filter(index: int, one: Filter) -> Request:
    """Add a filter; one with the same match must not exist."""
    return Request(
        message(
            RTM_NEWTFILTER,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            _header(index, one, 0),
            attribute(_TCA_KIND, b"flower\0"),
            attribute(_TCA_CHAIN, number(one.chain)),
            attribute(_TCA_OPTIONS, *_match(one), attribute(_ACTIONS, attribute(1, *_action(one)))),
        ),
        f"add a filter to device {index}",
    )


def delete_filter(index: int, one: Filter, handle: int) -> Request:
    """Delete a filter."""
    frame = message(
        RTM_DELTFILTER,
        NLM_F_ACK,
        _header(index, one, handle),
        attribute(_TCA_KIND, b"flower\0"),
        attribute(_TCA_CHAIN, number(one.chain)),
    )
    return Request(frame, f"delete a filter of device {index}")


def changes(index: int, found: Mapping[Filter, int], wanted: Collection[Filter]) -> tuple[Request, ...]:
    """Return what makes a device have these filters of ours, where it has some, each with its handle."""
    return (
        *(delete_filter(index, one, handle) for one, handle in found.items() if one not in wanted),
        *(add_filter(index, one) for one in wanted if one not in found),
    )


def _header(index: int, one: Filter, handle: int) -> bytes:
    return _TCMSG.pack(0, index, handle, one.hook, one.priority << 16 | htons(one.protocol))


def _match(one: Filter) -> list[bytes]:
    parts = [attribute(_FLAGS, number(_SKIP_HW))]
    if one.protocol != ETH_ALL:
        parts.append(attribute(_TYPE, one.protocol.to_bytes(2, "big")))
    if one.mac is not None:
        parts += [attribute(_SENDER, bytes.fromhex(one.mac.replace(":", ""))), attribute(_SENDER + 1, b"\xff" * 6)]
    if one.group:
        parts += [attribute(_RECEIVER, _GROUP), attribute(_RECEIVER + 1, _GROUP)]
    if one.protocol == ETH_ARP and one.source is not None:
        parts += _prefix(_ARP_SENDER, one.source)
    else:
        for prefix, is_source in ((one.source, True), (one.destination, False)):
            if prefix is not None:
                parts += _prefix(_ADDRESS_KEYS[prefix.version, is_source], prefix)
    if one.neighbours is not None:
        kind, mask = one.neighbours
        parts += [attribute(_PROTOCOL, bytes([_ICMP6])), attribute(_ICMP6_TYPE, bytes([kind]))]
        parts.append(attribute(_ICMP6_TYPE_MASK, bytes([mask])))
    return parts


def _prefix(key: int, prefix: IPNetwork) -> list[bytes]:
    return [attribute(key, prefix.network_address.packed), attribute(key + 1, prefix.netmask.packed)]


def _action(one: Filter) -> tuple[bytes, bytes]:
    if one.receiver is not None:
        parameters = attribute(_PARMS, _SKBMOD.pack(0, 0, _OK, 0, 0, _SET_RECEIVER))
        receiver = attribute(_NEW_RECEIVER, bytes.fromhex(one.receiver.replace(":", "")))
        return attribute(_ACT_KIND, b"skbmod\0"), attribute(_ACT_OPTIONS, parameters, receiver)
    if one.verdict is Verdict.OUT:
        kind, parameters = b"mirred\0", _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, one.device)
    else:
        does = {Verdict.PASS: _OK, Verdict.DROP: _SHOT, Verdict.LOOK_ON: _GOTO | CHAIN}[one.verdict]
        kind, parameters = b"gact\0", _GACT.pack(0, 0, does, 0, 0)
    return attribute(_ACT_KIND, kind), attribute(_ACT_OPTIONS, attribute(_PARMS, parameters))


# --- answers ---------------------------------------------------------------------------------------------------------


def read(body: bytes) -> tuple[Filter, int] | None:
    """Return one of our filters and its handle, as an RTM_NEWTFILTER has it; None for what is not ours."""
    _, _, handle, hook, info = _TCMSG.unpack_from(body, HEADER_SIZE)
    found = attributes(body, HEADER_SIZE + _TCMSG.size)
    if info >> 16 not in PRIORITIES or not handle or found.get(_TCA_KIND) != b"flower\0" or _TCA_OPTIONS not in found:
        return None
    keys = attributes(found[_TCA_OPTIONS], 0)
    verdict, device, receiver = _verdict(keys.get(_ACTIONS, b""))
    one = Filter(
        hook=Hook(hook),
        verdict=verdict,
        device=device,
        receiver=receiver,
        source=_network(keys, _ARP_SENDER, 10, 14),
        destination=_network(keys, 12, 16),
        protocol=int.from_bytes(keys.get(_TYPE, ETH_ALL.to_bytes(2, "big")), "big"),
        mac=keys[_SENDER].hex(":") if _SENDER in keys else None,
        group=_RECEIVER in keys,
        neighbours=(keys[_ICMP6_TYPE][0], keys[_ICMP6_TYPE_MASK][0]) if _ICMP6_TYPE in keys else None,
        chain=struct.unpack("=I", found.get(_TCA_CHAIN, bytes(4)))[0],
    )
    return (one, handle) if one.protocol in (ETH_ALL, ETH_IPV4, ETH_ARP, ETH_IPV6) else None


def _network(keys: dict[int, bytes], *numbers: int) -> IPNetwork | None:
    for key in numbers:
        if key in keys:
            length = int.from_bytes(keys[key + 1], "big").bit_count()
            kind: type[IPv4Network | IPv6Network] = IPv4Network if len(keys[key]) == 4 else IPv6Network
            return kind((int.from_bytes(keys[key], "big"), length))
    return None


def _verdict(actions: bytes) -> tuple[Verdict, int, str | None]:
    """Return what a filter does, the other device's index (0 for one that has gone meanwhile), the new receiver."""
    each = list(attributes(actions, 0).values())
    if len(each) != 1:
        return Verdict.OTHER, 0, None
    action = attributes(each[0], 0)
    options = attributes(action.get(_ACT_OPTIONS, b""), 0)
    kind, parameters = action.get(_ACT_KIND), options.get(_PARMS, b"")
    if kind == b"mirred\0" and len(parameters) >= _MIRRED.size:
        *_, does, device = _MIRRED.unpack_from(parameters)
        return Verdict.OUT if does == _EGRESS_REDIRECT else Verdict.OTHER, device, None
    if kind == b"skbmod\0" and len(parameters) >= _SKBMOD.size:
        _, _, does, *_, flags = _SKBMOD.unpack_from(parameters)
        known = (does, flags) == (_OK, _SET_RECEIVER) and _NEW_RECEIVER in options
        return (Verdict.HAND_OVER, 0, options[_NEW_RECEIVER].hex(":")) if known else (Verdict.OTHER, 0, None)
    if kind != b"gact\0" or len(parameters) < _GACT.size:
        return Verdict.OTHER, 0, None
    does = _GACT.unpack_from(parameters)[2]
    verdicts = {_OK: Verdict.PASS, _SHOT: Verdict.DROP, _GOTO | CHAIN: Verdict.LOOK_ON}
    return verdicts.get(does, Verdict.OTHER), 0, None
