"""What the kernel says about devices, addresses, routes and neighbours, as values. Pure.

Only the attributes that matter are read. Source: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network

from routed.attach.errors import KernelError, NotFound
from routed.domain.workload import IPAddress

IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG = 0x200, 1
RTM_NEWLINK, RTM_DELLINK, RTM_NEWNEIGH = 16, 17, 28
NLA_TYPE_MASK = 0x3FFF
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_CARRIER, IFLA_LINK_NETNSID, IFLA_INFO_KIND = 18, 20, 33, 37, 1
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BOND_SLAVE_STATE, BOND_STATE_BACKUP = 4, 5, 1, b"\1"
IFLA_MASTER, IFLA_PHYS_SWITCH_ID, IFLA_PHYS_PORT_NAME, IFLA_PARENT_DEV_NAME = 10, 36, 38, 56
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 5, 6, 7
NDA_DST, NDA_LLADDR = 1, 2
TCA_KIND, TCA_OPTIONS, TCA_TBF_PARMS = 1, 2, 1
RTPROT_STATIC = 4
IFF_UP = 0x1
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
NUD_USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT

_HEADER = struct.Struct("=IHHII")
HEADER_SIZE = _HEADER.size
"""Bytes before what a message is about."""
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=B3xiHBB")
_TCMSG = struct.Struct("=B3xiIII")
_RATE = slice(8, 12)
"""Where struct tc_tbf_qopt (linux/pkt_sched.h) has the rate, bytes a second."""
_RTMSG_SIZE = 12
_RTM_PROTOCOL = 5
"""Where struct rtmsg says who made a route."""
_NO_SUCH = {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as one namespace sees it."""

    index: int
    name: str
    kind: str
    """``veth``, ``macvlan``, ...; empty for hardware."""
    mtu: int
    mac: str
    alias: str
    up: bool
    carrier: bool
    parent: int | None
    """Index of the device below (macvlan) or at the other end (veth)."""
    parent_elsewhere: bool
    """``parent`` counts in another namespace."""
    hardware: str = ""
    """The bus's name of what it belongs to, ``0000:03:00.2``; empty where driver or kernel (before 5.14) do not say."""
    master: int | None = None
    """Index of the bond or bridge that it belongs to."""
    left_out: bool = False
    """Its bond neither sends by it nor takes what comes in: LACP puts it in no aggregate, or not in the one in use."""


@dataclass(frozen=True, slots=True)
class NicPort:
    """A network device as a port of something: of a NIC's switch, of a bond."""

    index: int
    name: str
    kind: str
    """``bond``, ``openvswitch``, ...; empty for hardware, representors included."""
    up: bool
    mtu: int
    mac: str
    master: int | None
    """Index of the bond or bridge that it belongs to."""
    switch_id: str
    """Of the NIC, as ``phys_switch_id`` has it; empty for what is no port of a switching NIC."""
    port_name: str
    """``phys_port_name``; empty where the driver gives none."""
    parent: str
    """The bus's name of the device that it belongs to, ``0000:03:00.0``; empty where driver or kernel do not say."""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table through one device."""

    destination: IPNetwork
    gateway: IPAddress | None
    metric: int
    """The kernel makes 1024 of an IPv6 route's 0."""
    protocol: int = RTPROT_STATIC
    """Who made it (rtnetlink(7))."""
    source: IPAddress | None = None
    """What this end speaks from, where the kernel is not to choose."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour entry of one device."""

    index: int
    """Of the device."""
    address: IPAddress
    mac: str | None
    permanent: bool
    fresh: bool
    """Confirmed lately, or permanent."""
    usable: bool
    """The kernel would send to ``mac``."""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """A device appeared, changed or went."""

    device: Device
    gone: bool


Event = DeviceEvent | Neighbour


@dataclass(frozen=True, slots=True)
class Shaper:
    """A token bucket at the root of a device."""

    index: int
    """Of the device."""
    handle: int
    bytes_s: int


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Take a datagram apart: type, flags, sequence and whole message of each."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset : offset + length]
        offset += max(_HEADER.size, (length + 3) & ~3)


def failure(body: bytes, flags: int, doing: str) -> KernelError | None:
    """Return the error that an NLMSG_ERROR or NLMSG_DONE message reports, None for success."""
    (code,) = struct.unpack_from("=i", body, _HEADER.size)
    if code == 0:
        return None
    detail = ""
    offset = _HEADER.size + 4 + _HEADER.size  # CAP_ACK: only the header of our request comes back
    while flags & NLM_F_ACK_TLVS and offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == NLMSGERR_ATTR_MSG:
            detail = body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    return (NotFound if -code in _NO_SUCH else KernelError)(-code, doing, detail)


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Return the attributes behind a message's fixed part (or inside a nested attribute): type -> payload."""
    found: dict[int, bytes] = {}
    unpack, end = _ATTRIBUTE.unpack_from, len(body) - _ATTRIBUTE.size
    while offset <= end:
        length, kind = unpack(body, offset)
        found[kind & NLA_TYPE_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3 or 4
    return found


def event(kind: int, body: bytes) -> Event | None:
    """Return what a message of a multicast group tells, None when it is of no interest."""
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        bridge_port = body[_HEADER.size] != socket.AF_UNSPEC  # bridges tell of their ports in the same words
        return None if bridge_port else DeviceEvent(device(body), gone=kind == RTM_DELLINK)
    if kind == RTM_NEWNEIGH and body[_HEADER.size] in (socket.AF_INET, socket.AF_INET6):
        return neighbour(body)
    return None


def device(body: bytes) -> Device:
    """Read an RTM_NEWLINK or RTM_DELLINK."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body, _HEADER.size)
    found = attributes(body, _HEADER.size + _IFINFOMSG.size)
    info = attributes(found.get(IFLA_LINKINFO, b""), 0)
    parent, master = found.get(IFLA_LINK), found.get(IFLA_MASTER)
    return Device(
        index=index,
        name=_text(found[IFLA_IFNAME]),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        mtu=_number(found[IFLA_MTU]),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        alias=_text(found.get(IFLA_IFALIAS, b"")),
        up=bool(flags & IFF_UP),
        carrier=found.get(IFLA_CARRIER) == b"\1",
        parent=None if parent is None else _number(parent),
        parent_elsewhere=IFLA_LINK_NETNSID in found,
        hardware=_text(found.get(IFLA_PARENT_DEV_NAME, b"")),
        master=None if master is None else _number(master),
        left_out=_is_left_out(info),
    )


def nic_port(body: bytes) -> NicPort:
    """Read an RTM_NEWLINK for what the device is a port of."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body, _HEADER.size)
    found = attributes(body, _HEADER.size + _IFINFOMSG.size)
    info = attributes(found.get(IFLA_LINKINFO, b""), 0)
    master = found.get(IFLA_MASTER)
    return NicPort(
        index=index,
        name=_text(found[IFLA_IFNAME]),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        up=bool(flags & IFF_UP),
        mtu=_number(found[IFLA_MTU]),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        master=None if master is None else _number(master),
        switch_id=found.get(IFLA_PHYS_SWITCH_ID, b"").hex(),
        port_name=_text(found.get(IFLA_PHYS_PORT_NAME, b"")),
        parent=_text(found.get(IFLA_PARENT_DEV_NAME, b"")),
    )


def interface(body: bytes) -> tuple[IPInterface, int]:
    """Read an RTM_NEWADDR: the address and its scope."""
    _, length, _, scope, _ = _IFADDRMSG.unpack_from(body, _HEADER.size)
    found = attributes(body, _HEADER.size + _IFADDRMSG.size)
    return ip_interface((found.get(IFA_LOCAL, found[IFA_ADDRESS]), length)), scope


def route(body: bytes) -> Route:
    """Read an RTM_NEWROUTE."""
    family, length = body[_HEADER.size : _HEADER.size + 2]
    found = attributes(body, _HEADER.size + _RTMSG_SIZE)
    gateway, source = found.get(RTA_GATEWAY), found.get(RTA_PREFSRC)
    return Route(
        destination=ip_network((found.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16)), length)),
        gateway=None if gateway is None else ip_address(gateway),
        metric=_number(found.get(RTA_PRIORITY, b"")),
        protocol=body[_HEADER.size + _RTM_PROTOCOL],
        source=None if source is None else ip_address(source),
    )


def neighbour(body: bytes) -> Neighbour:
    """Read an RTM_NEWNEIGH."""
    _, index, state, _, _ = _NDMSG.unpack_from(body, _HEADER.size)
    found = attributes(body, _HEADER.size + _NDMSG.size)
    mac = found.get(NDA_LLADDR)
    return Neighbour(
        index=index,
        address=ip_address(found[NDA_DST]),
        mac=None if mac is None else mac.hex(":"),
        permanent=bool(state & NUD_PERMANENT),
        fresh=bool(state & (NUD_PERMANENT | NUD_REACHABLE)),
        usable=bool(state & NUD_USABLE),
    )


def shaper(body: bytes) -> Shaper | None:
    """Read an RTM_NEWQDISC; None for a queueing discipline that is no token bucket."""
    _, index, handle, _, _ = _TCMSG.unpack_from(body, _HEADER.size)
    found = attributes(body, _HEADER.size + _TCMSG.size)
    if _text(found.get(TCA_KIND, b"")) != "tbf":
        return None
    parameters = attributes(found[TCA_OPTIONS], 0)[TCA_TBF_PARMS]
    return Shaper(index, handle, _number(parameters[_RATE]))


def _is_left_out(info: dict[int, bytes]) -> bool:
    if _text(info.get(IFLA_INFO_SLAVE_KIND, b"")) != "bond":
        return False
    return attributes(info.get(IFLA_INFO_SLAVE_DATA, b""), 0).get(IFLA_BOND_SLAVE_STATE) == BOND_STATE_BACKUP


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)
