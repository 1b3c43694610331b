"""The kernel's links, addresses, routes and neighbours: the only file that imports pyroute2.

pyroute2 builds the requests; the socket, and reading the few attributes that matter, are ours. Its IPRoute opens an
event loop per socket (0.5 ms), waits for each answer (0.3 ms, where a pod takes a dozen requests) and decodes all sixty
attributes of a device (0.2 ms, where a server has a thousand). Here `Rtnl.apply` hands a whole list to the kernel in
one system call, which carries it out in order: it is faster, and the death of this process cannot fall between two of
them, so a device and its ownership mark always appear together.

Nothing here knows what the devices are for. Source: rtnetlink(7), and the kernel's Documentation/userspace-api/netlink.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, Any, Self

from pyroute2.ethtool.ioctl import IoctlEthtool
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from routed.attach.errors import KernelError, NotFound

if TYPE_CHECKING:
    from types import TracebackType

    from routed.domain.workload import IPAddress

IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x001, 0x004, 0x010
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTMGRP_LINK, RTMGRP_NEIGH = 0x1, 0x4
SO_RCVBUFFORCE = 33
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_CARRIER, IFLA_LINK_NETNSID, IFLA_INFO_KIND = 18, 20, 33, 37, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_GATEWAY, RTA_PRIORITY = 1, 5, 6
NDA_DST, NDA_LLADDR = 1, 2
NLA_TYPE_MASK = 0x3FFF
IFF_UP, IFF_NOARP = 0x1, 0x80
RTEXT_FILTER_SKIP_STATS = 8
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 254, 4, 1, 0, 253, 255
NTF_USE = 0x01
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
NUD_USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT

LOOPBACK = 1
"""Interface index of ``lo`` in every namespace."""

_EVENT_BUFFER = 8 << 20
"""Bytes; room for what some hundred pods that come or go at once make the kernel tell."""
_ATTEMPTS = 10
"""Dumps that the kernel says were disturbed by a change are repeated this often."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=B3xiHBB")
_RTMSG_SIZE = 12
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


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table through one device."""

    destination: IPNetwork
    gateway: IPAddress | None
    metric: int
    """The kernel makes 1024 of an IPv6 route's 0."""


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
class Request:
    """One change or question, not yet asked; built by the functions below."""

    frame: bytes
    """The netlink message, but for its sequence number."""
    doing: str
    """For the error message: ``create macvlan eth0``."""

    def encode(self, sequence: int) -> bytes:
        """Return the netlink message."""
        return self.frame[:8] + sequence.to_bytes(4, sys.byteorder) + self.frame[12:]


class Rtnl:
    """A netlink socket into the namespace that its opener was in; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = _open_socket()
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, *requests: Request) -> None:
        """Carry out all requests in order, in one system call; KernelError for the first that failed.

        The others are carried out nevertheless: netlink has no transactions.
        """
        first = self._sequence + 1
        self._sequence += len(requests)
        frames = [request.encode(first + number) for number, request in enumerate(requests)]
        self._send(b"".join(frames))
        failed: KernelError | None = None
        answered = 0
        while answered < len(requests):
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                answered += 1
                failed = failed or _failure(body, flags, requests[sequence - first].doing)
        if failed is not None:
            raise failed

    def devices(self, *, alias: str) -> list[Device]:
        """Return the devices whose alias begins so."""
        bodies = self._dump(_list_devices())
        text = alias.encode()
        found = [_device(body) for body in bodies if text in body]
        return [device for device in found if device.alias.startswith(alias)]

    def device(self, name: str) -> Device | None:
        """Return the device of this name."""
        request = _look_up(name)
        self._sequence += 1
        self._send(request.encode(self._sequence))
        for kind, flags, sequence, body in self._receive():
            if sequence != self._sequence:
                continue
            if kind == RTM_NEWLINK:
                return _device(body)
            failure = _failure(body, flags, request.doing)
            if failure is not None and not isinstance(failure, NotFound):
                raise failure
        return None

    def addresses(self, index: int) -> list[IPInterface]:
        """Return the addresses of a device, link-local ones left out."""
        found = [_interface(body) for body in self._dump(_list_addresses(index))]
        return [address for address, scope in found if scope == RT_SCOPE_UNIVERSE]

    def routes(self, index: int) -> list[Route]:
        """Return the unicast routes of the main table that leave through this device."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                bodies = self._dump(_list_routes(index, family))
            except NotFound:  # a family without a table has no routes
                continue
            found += [_route(body) for body in bodies]
        return found

    def neighbours(self, index: int) -> list[Neighbour]:
        """Return the neighbour entries of a device."""
        return [_neighbour(body) for body in self._dump(_list_neighbours(index))]

    def _dump(self, request: Request) -> list[bytes]:
        for _ in range(_ATTEMPTS):
            found = self._dump_once(request)
            if found is not None:
                return found
        raise KernelError(errno.EAGAIN, request.doing, "the kernel's tables keep changing")

    def _dump_once(self, request: Request) -> list[bytes] | None:
        self._sequence += 1
        self._send(request.encode(self._sequence))
        found: list[bytes] = []
        disturbed = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    failure = _failure(body, flags, request.doing)
                    if failure is not None:
                        raise failure
                    return None if disturbed else found
                found.append(body)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "send to the kernel") from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 17)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "receive from the kernel") from error
        return _split(data)


class RtnlEvents:
    """What changes among the devices and neighbours of the opener's namespace; never blocks."""

    def __init__(self) -> None:
        self._socket = _open_socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _EVENT_BUFFER)
        self._socket.bind((0, RTMGRP_LINK | RTMGRP_NEIGH))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> list[Event]:
        """Return what has arrived; KernelError when events were lost, after which only a full look helps."""
        events: list[Event] = []
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return events
            except OSError as error:
                raise KernelError(error.errno or errno.EIO, "receive events") from error
            events += [event for kind, _, _, body in _split(data) if (event := _event(kind, body)) is not None]


@lru_cache
def _list_devices() -> Request:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return _request(RTM_GETLINK, NLM_F_DUMP, message, "list devices")


@lru_cache
def _look_up(name: str) -> Request:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return _request(RTM_GETLINK, 0, message, f"look up {name}")


@lru_cache
def _list_addresses(index: int) -> Request:
    message = ifaddrmsg()
    message["index"] = index
    return _request(RTM_GETADDR, NLM_F_DUMP, message, "list addresses")


@lru_cache
def _list_routes(index: int, family: int) -> Request:
    message = rtmsg()
    message["family"], message["table"] = int(family), RT_TABLE_MAIN
    message["attrs"] = [("RTA_OIF", index), ("RTA_TABLE", RT_TABLE_MAIN)]
    return _request(RTM_GETROUTE, NLM_F_DUMP, message, "list routes")


@lru_cache
def _list_neighbours(index: int) -> Request:
    message = ndmsg()
    message["attrs"] = [("NDA_IFINDEX", index)]
    return _request(RTM_GETNEIGH, NLM_F_DUMP, message, "list neighbours")


def _request(kind: int, flags: int, message: Any, doing: str) -> Request:
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": 0, "pid": 0}
    message.encode()
    return Request(bytes(message.data), doing)


def add_veth(name: str, peer: str, mtu: int) -> Request:
    """Create a pair; both ends are born down."""
    other = {"attrs": [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu)]}
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", _linkinfo("veth", [("VETH_INFO_PEER", other)])),
    ]
    return _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, f"create veth {name} and {peer}")


def add_macvlan(name: str, parent: int, netns: int) -> Request:
    """Create a macvlan in passthru mode on ``parent``, directly in another namespace; it is born down."""
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", parent),
        ("IFLA_NET_NS_FD", netns),
        ("IFLA_LINKINFO", _linkinfo("macvlan", [("IFLA_MACVLAN_MODE", "passthru")])),
    ]
    return _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, f"create macvlan {name}")


def set_device(  # noqa: PLR0913  # one keyword per thing that can be set
    device: int | str,
    *,
    up: bool = False,
    silent: bool = False,
    mtu: int | None = None,
    mac: str | None = None,
    alias: str | None = None,
) -> Request:
    """Change a device, by index or by name; what is not given stays. A silent one neither asks nor answers ARP."""
    message = ifinfmsg()
    flags = (IFF_UP if up else 0) | (IFF_NOARP if silent else 0)
    message["flags"] = message["change"] = flags
    attributes: list[tuple[str, object]] = []
    if isinstance(device, int):
        message["index"] = device
    else:
        attributes.append(("IFLA_IFNAME", device))
    attributes += [("IFLA_MTU", mtu)] if mtu is not None else []
    attributes += [("IFLA_ADDRESS", mac)] if mac is not None else []
    attributes += [("IFLA_IFALIAS", alias)] if alias is not None else []
    message["attrs"] = attributes
    return _request(RTM_NEWLINK, NLM_F_ACK, message, f"change device {device}")


def delete_device(device: Device) -> Request:
    """Delete a device; of a veth, both ends."""
    message = ifinfmsg()
    message["index"] = device.index
    return _request(RTM_DELLINK, NLM_F_ACK, message, f"delete device {device.name}")


def add_address(index: int, address: IPInterface) -> Request:
    """Add an address, usable at once: nobody else can have it, so duplicate address detection is left out."""
    message = _address(index, address)
    message["attrs"].append(("IFA_FLAGS", IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
    return _request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, f"add address {address}")


def delete_address(index: int, address: IPInterface) -> Request:
    """Delete an address."""
    return _request(RTM_DELADDR, NLM_F_ACK, _address(index, address), f"delete address {address}")


def add_route(index: int, route: Route) -> Request:
    """Add a route; one to the same destination must not exist."""
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return _request(RTM_NEWROUTE, flags, _route_message(index, route), f"add route to {route.destination}")


def delete_route(index: int, route: Route) -> Request:
    """Delete a route, whoever made it."""
    message = _route_message(index, route)
    message["proto"], message["type"], message["scope"] = 0, 0, RT_SCOPE_NOWHERE
    return _request(RTM_DELROUTE, NLM_F_ACK, message, f"delete route to {route.destination}")


def set_neighbour(index: int, address: IPAddress, mac: str) -> Request:
    """Make a permanent neighbour entry."""
    message = _neighbour_message(index, address)
    message["state"] = NUD_PERMANENT
    message["attrs"].append(("NDA_LLADDR", mac))
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return _request(RTM_NEWNEIGH, flags, message, f"set neighbour {address}")


def solicit(index: int, address: IPAddress) -> Request:
    """Make the kernel resolve or confirm a neighbour, with ARP or neighbour discovery, as if it had a packet for it."""
    message = _neighbour_message(index, address)
    message["flags"] = NTF_USE
    return _request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, message, f"solicit {address}")


def tx_checksums_off(name: str) -> None:
    """Have checksums completed before frames enter this device; works in the caller's namespace."""
    ethtool = IoctlEthtool(name)
    try:
        ethtool.set_offload_flag("tx-checksumming", 0)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"turn off transmit checksums of {name}") from error
    finally:
        ethtool.close()


def _open_socket() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "open a netlink socket") from error
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
        opened.setsockopt(SOL_NETLINK, option, 1)
    return opened


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset : offset + length]
        offset += (length + 3) & ~3


def _failure(body: bytes, flags: int, doing: str) -> KernelError | None:
    (code,) = struct.unpack_from("=i", body, _HEADER.size)
    if code == 0:
        return None
    detail = ""
    offset = _HEADER.size + 4 + _HEADER.size  # CAP_ACK: only the header of our request comes back
    while flags & NLM_F_ACK_TLVS and offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == 1:  # NLMSGERR_ATTR_MSG
            detail = body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    return (NotFound if -code in _NO_SUCH else KernelError)(-code, doing, detail)


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Return the attributes behind a message's fixed part (or inside a nested attribute): type -> payload."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        found[kind & NLA_TYPE_MASK] = body[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)
    return found


def _event(kind: int, body: bytes) -> Event | None:
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        bridge_port = body[_HEADER.size] != socket.AF_UNSPEC  # bridges tell of their ports in the same words
        return None if bridge_port else DeviceEvent(_device(body), gone=kind == RTM_DELLINK)
    if kind == RTM_NEWNEIGH and body[_HEADER.size] in (socket.AF_INET, socket.AF_INET6):
        return _neighbour(body)
    return None


def _device(body: bytes) -> Device:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body, _HEADER.size)
    found = _attributes(body, _HEADER.size + _IFINFOMSG.size)
    info = _attributes(found.get(IFLA_LINKINFO, b""), 0)
    parent = found.get(IFLA_LINK)
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
    )


def _interface(body: bytes) -> tuple[IPInterface, int]:
    _, length, _, scope, _ = _IFADDRMSG.unpack_from(body, _HEADER.size)
    found = _attributes(body, _HEADER.size + _IFADDRMSG.size)
    return ip_interface((found.get(IFA_LOCAL, found[IFA_ADDRESS]), length)), scope


def _route(body: bytes) -> Route:
    family, length = body[_HEADER.size : _HEADER.size + 2]
    found = _attributes(body, _HEADER.size + _RTMSG_SIZE)
    gateway = found.get(RTA_GATEWAY)
    return Route(
        destination=ip_network((found.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16)), length)),
        gateway=None if gateway is None else ip_address(gateway),
        metric=_number(found.get(RTA_PRIORITY, b"")),
    )


def _neighbour(body: bytes) -> Neighbour:
    _, index, state, _, _ = _NDMSG.unpack_from(body, _HEADER.size)
    found = _attributes(body, _HEADER.size + _NDMSG.size)
    mac = found.get(NDA_LLADDR)
    return Neighbour(
        index=index,
        address=ip_address(found[NDA_DST]),
        mac=None if mac is None else mac.hex(":"),
        permanent=bool(state & NUD_PERMANENT),
        fresh=bool(state & (NUD_PERMANENT | NUD_REACHABLE)),
        usable=bool(state & NUD_USABLE),
    )


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes) -> int:
    return int.from_bytes(payload, sys.byteorder)


def _linkinfo(kind: str, data: list[tuple[str, object]]) -> dict[str, object]:
    return {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]}


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _address(index: int, address: IPInterface) -> Any:
    message = ifaddrmsg()
    message["family"], message["prefixlen"], message["index"] = (
        _family(address.version),
        address.network.prefixlen,
        index,
    )
    message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return message


def _route_message(index: int, route: Route) -> Any:
    message = rtmsg()
    message["family"] = _family(route.destination.version)
    message["dst_len"] = route.destination.prefixlen
    message["table"], message["proto"], message["type"] = RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST
    message["scope"] = RT_SCOPE_LINK if route.gateway is None else RT_SCOPE_UNIVERSE
    attributes: list[tuple[str, object]] = [("RTA_OIF", index), ("RTA_PRIORITY", route.metric)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    message["attrs"] = attributes
    return message


def _neighbour_message(index: int, address: IPAddress) -> Any:
    message = ndmsg()
    message["family"], message["ifindex"] = _family(address.version), index
    message["attrs"] = [("NDA_DST", str(address))]
    return message
