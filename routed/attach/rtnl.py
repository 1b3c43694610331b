"""Requests to the kernel about devices, addresses, routes and neighbours: the only file that imports pyroute2.

pyroute2 builds the messages; sending (`routed.attach.kernel`) and reading the few attributes that matter
(`routed.attach.answers`) are ours. Its IPRoute opens an event loop per socket (0.5 ms), waits for each answer (0.3 ms,
where a pod takes a dozen requests) and decodes all sixty attributes of a device (0.2 ms; a server has a thousand).

Nothing here knows what the devices are for. Source: rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_interface
from typing import Any, ParamSpec, TypeVar

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import sched_tbf, tcmsg

from routed.attach import packing
from routed.attach.answers import (
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    Device,
    IPInterface,
    Route,
)
from routed.attach.errors import KernelError
from routed.attach.packing import attribute, number
from routed.domain.workload import IPAddress

P = ParamSpec("P")
T = TypeVar("T")

NLM_F_REQUEST, NLM_F_ACK = 0x001, 0x004
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
IFF_UP, IFF_NOARP = 0x1, 0x80
RTEXT_FILTER_SKIP_STATS = 8
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
NTF_USE, NUD_PERMANENT = 0x01, 0x80
IN6_ADDR_GEN_MODE_NONE = 1
_BURST, _LONGEST_BURST_S = 1 << 16, 200
"""Bytes that pass at once: a large segment of TCP, unless that took longer than the kernel can count (tc-tbf(8))."""

_TC_OFFLOAD = "hw-tc-offload"
_MONITOR_MS, _LACP, _FAST, _BY_PORTS = 100, 4, 1, 1
"""Of a bond: 802.3ad; a partner silent for 3 s is gone; spread by addresses and ports (networking/bonding.rst)."""

IFLA_NET_NS_FD, IFLA_INFO_DATA = 28, 2
_IFINFOMSG_SIZE = 16
_IPVLAN = {1: 0, 2: 2}
"""IFLA_IPVLAN_MODE is L2, IFLA_IPVLAN_FLAGS is IPVLAN_F_VEPA (linux/if_link.h)."""
LOOPBACK = 1
"""Interface index of ``lo`` in every namespace."""


@dataclass(frozen=True, slots=True)
class Request:
    """One change or question, not yet asked; built by the functions below."""

    frame: bytes
    """The netlink message, but for its sequence number."""
    doing: str
    """For the error message: ``create macvlan eth0``."""

    def encode(self, sequence: int, *, silent: bool = False) -> bytes:
        """Return the netlink message; a silent one is answered only when it fails."""
        flags = self.frame[6:8]
        if silent:
            flags = (int.from_bytes(flags, sys.byteorder) & ~NLM_F_ACK).to_bytes(2, sys.byteorder)
        return self.frame[:6] + flags + sequence.to_bytes(4, sys.byteorder) + self.frame[12:]


class _Template:
    """A message that pyroute2 encoded once, with blanks of fixed size: filling them in takes 1 us instead of 70."""

    def __init__(self, example: Request, *blanks: bytes) -> None:
        """`blanks` are the parts of the example that differ from message to message, in their order in it."""
        self._pieces: list[bytes] = []
        rest = example.frame
        for blank in blanks:
            piece, _, rest = rest.partition(blank)
            self._pieces.append(piece)
        self._end = rest

    def fill(self, doing: str, *values: bytes) -> Request:
        """Return the message with these values in its blanks."""
        parts = [part for pair in zip(self._pieces, values, strict=True) for part in pair]
        return Request(b"".join(parts) + self._end, doing)


_SOME_INDEX, _SOME_MAC = 0x7E57AB1E, "02:7e:57:ab:1e:ff"
_SOME_ADDRESS: dict[int, IPAddress] = {4: ip_address("126.87.171.30"), 6: ip_address("fd7e:57ab:1eff::7e57")}
"""What stands in templates' blanks; like nothing else in a message."""


def _index(index: int) -> bytes:
    return index.to_bytes(4, sys.byteorder)


def _kept(build: Callable[P, T]) -> Callable[P, T]:
    """Keep what was built: pyroute2 takes 70 us for a message, and most of a pod's are those of the pod before."""
    return lru_cache(maxsize=1024)(build)  # type: ignore[return-value]  # its type forgets the arguments


@_kept
def list_devices() -> Request:
    """Ask for all devices, without their counters."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return _request(RTM_GETLINK, NLM_F_DUMP, message, "list devices")


@_kept
def look_up(name: str) -> Request:
    """Ask for one device."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return _request(RTM_GETLINK, 0, message, f"look up {name}")


@_kept
def list_addresses(index: int) -> Request:
    """Ask for the addresses of a device."""
    message = ifaddrmsg()
    message["index"] = index
    return _request(RTM_GETADDR, NLM_F_DUMP, message, "list addresses")


@_kept
def list_routes(index: int, family: int) -> Request:
    """Ask for the routes of the main table that leave through a device."""
    message = rtmsg()
    message["family"], message["table"] = int(family), RT_TABLE_MAIN
    message["attrs"] = [("RTA_OIF", index), ("RTA_TABLE", RT_TABLE_MAIN)]
    return _request(RTM_GETROUTE, NLM_F_DUMP, message, "list routes")


@_kept
def list_neighbours(index: int) -> Request:
    """Ask for the neighbour entries of a device."""
    message = ndmsg()
    message["attrs"] = [("NDA_IFINDEX", index)]
    return _request(RTM_GETNEIGH, NLM_F_DUMP, message, "list neighbours")


def _request(kind: int, flags: int, message: Any, doing: str) -> Request:
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": 0, "pid": 0}
    message.encode()
    return Request(bytes(message.data), doing)


def add_veth(
    name: str, peer: str, mtu: int, *, indices: tuple[int, int] = (0, 0), peer_netns: int | None = None
) -> Request:
    """Create a pair, with these indices (0: any) and with its peer in another namespace; both ends are born down."""
    other: dict[str, object] = {"index": indices[1]}
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu)]
    if peer_netns is not None:
        attributes.append(("IFLA_NET_NS_FD", peer_netns))
    other["attrs"] = attributes
    message = ifinfmsg()
    message["index"] = indices[0]
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", _linkinfo("veth", [("VETH_INFO_PEER", other)])),
    ]
    return _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, f"create veth {name} and {peer}")


def add_bond(name: str) -> Request:
    """Create a bond that speaks LACP, without members; it is born down."""
    message = ifinfmsg()
    options: list[tuple[str, object]] = [
        ("IFLA_BOND_MODE", _LACP),
        ("IFLA_BOND_MIIMON", _MONITOR_MS),
        ("IFLA_BOND_AD_LACP_RATE", _FAST),
        ("IFLA_BOND_XMIT_HASH_POLICY", _BY_PORTS),
    ]
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", _linkinfo("bond", options))]
    return _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, f"create bond {name}")


def enslave(index: int, master: int) -> list[Request]:
    """Take a device down and put it into a bond; the bond takes it up again."""
    down = ifinfmsg()
    down["index"], down["flags"], down["change"] = index, 0, IFF_UP
    member = ifinfmsg()
    member["index"] = index
    member["attrs"] = [("IFLA_MASTER", master)]
    return [
        _request(RTM_NEWLINK, NLM_F_ACK, down, f"take device {index} down"),
        _request(RTM_NEWLINK, NLM_F_ACK, member, f"put device {index} into bond {master}"),
    ]


def add_macvlan(name: str, parent: int, netns: int) -> Request:
    """Create a macvlan in passthru mode on ``parent``, directly in another namespace; it is born down."""
    return _macvlan_template(name).fill(f"create macvlan {name}", _index(parent), _index(netns))


@_kept
def _macvlan_template(name: str) -> _Template:
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", _SOME_INDEX),
        ("IFLA_NET_NS_FD", _SOME_INDEX),
        ("IFLA_LINKINFO", _linkinfo("macvlan", [("IFLA_MACVLAN_MODE", "passthru")])),
    ]
    example = _request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, "")
    return _Template(example, _index(_SOME_INDEX), _index(_SOME_INDEX))


def add_ipvlan(name: str, parent: int, netns: int) -> Request:
    """Create an ipvlan on ``parent``, directly in another namespace; it is born down.

    In mode L2, with the flag VEPA: whatever it sends leaves through the parent, also what is for itself.
    """
    frame = packing.message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        bytes(_IFINFOMSG_SIZE),
        attribute(IFLA_IFNAME, name.encode() + b"\0"),
        attribute(IFLA_LINK, number(parent)),
        attribute(IFLA_NET_NS_FD, number(netns)),
        attribute(
            IFLA_LINKINFO,
            attribute(IFLA_INFO_KIND, b"ipvlan\0"),
            attribute(IFLA_INFO_DATA, *(attribute(kind, number(value, 2)) for kind, value in _IPVLAN.items())),
        ),
    )
    return Request(frame, f"create ipvlan {name}")


@_kept
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


@_kept
def no_link_local(index: int) -> Request:
    """Have no IPv6 address made for a device when it comes up; one that is there stays."""
    message = ifinfmsg()
    message["index"] = index
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]})]
    return _request(RTM_NEWLINK, NLM_F_ACK, message, f"have no address made for device {index}")


def set_alias(index: int, alias: str) -> Request:
    """Change a device's alias."""
    text = alias.encode()
    return _alias_template(len(text)).fill(f"change alias of device {index}", _index(index), text)


@_kept
def _alias_template(length: int) -> _Template:
    alias = "~" * length
    return _Template(set_device(_SOME_INDEX, alias=alias), _index(_SOME_INDEX), alias.encode())


def set_mac_and_alias(index: int, mac: str, alias: str) -> Request:
    """Change a device's MAC address and its alias, as one change: whoever listens hears of it once."""
    text = alias.encode()
    template = _mac_template(len(text))
    return template.fill(f"change MAC address and alias of device {index}", _index(index), _octets(mac), text)


@_kept
def _mac_template(length: int) -> _Template:
    alias = "~" * length
    example = set_device(_SOME_INDEX, mac=_SOME_MAC, alias=alias)
    return _Template(example, _index(_SOME_INDEX), _octets(_SOME_MAC), alias.encode())


def move_device(index: int, netns: int, name: str, *, mac: str | None = None) -> Request:
    """Take a device down and put it into another namespace under this name, with this MAC address; one request does it.

    The kernel moves first: what it refuses afterwards (a name that is taken) it refuses there. ``name`` counts already
    in the move when something there has the device's own.
    """
    message = ifinfmsg()
    message["index"], message["flags"], message["change"] = index, 0, IFF_UP
    attributes: list[tuple[str, object]] = [("IFLA_NET_NS_FD", netns), ("IFLA_IFNAME", name)]
    attributes += [("IFLA_ADDRESS", mac)] if mac is not None else []
    message["attrs"] = attributes
    return _request(RTM_NEWLINK, NLM_F_ACK, message, f"move device {index} into another namespace as {name}")


def reset_device(index: int, name: str) -> list[Request]:
    """Take a device down, then give it this name and no alias."""
    down, changed = ifinfmsg(), ifinfmsg()
    down["index"], down["flags"], down["change"] = index, 0, IFF_UP
    changed["index"] = index
    changed["attrs"] = [("IFLA_IFNAME", name), ("IFLA_IFALIAS", "")]
    return [
        _request(RTM_NEWLINK, NLM_F_ACK, down, f"take device {index} down"),
        _request(RTM_NEWLINK, NLM_F_ACK, changed, f"reset device {index} to {name}"),
    ]


def delete_device(device: Device) -> Request:
    """Delete a device; of a veth, both ends."""
    return _deletion_template().fill(f"delete device {device.name}", _index(device.index))


@_kept
def _deletion_template() -> _Template:
    message = ifinfmsg()
    message["index"] = _SOME_INDEX
    return _Template(_request(RTM_DELLINK, NLM_F_ACK, message, ""), _index(_SOME_INDEX))


def add_address(index: int, address: IPInterface) -> Request:
    """Add an address, usable at once: nobody else can have it, so duplicate address detection is left out."""
    template = _address_template(address.version, address.network.prefixlen)
    return template.fill(f"add address {address}", _index(index), address.packed, address.packed)


@_kept
def _address_template(version: int, length: int) -> _Template:
    some = _SOME_ADDRESS[version]
    message = _address(_SOME_INDEX, ip_interface((some, length)))
    message["attrs"].append(("IFA_FLAGS", IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
    example = _request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message, "")
    return _Template(example, _index(_SOME_INDEX), some.packed, some.packed)


def delete_address(index: int, address: IPInterface) -> Request:
    """Delete an address."""
    return _request(RTM_DELADDR, NLM_F_ACK, _address(index, address), f"delete address {address}")


@_kept
def add_route(index: int, route: Route) -> Request:
    """Add a route; one to the same destination must not exist."""
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return _request(RTM_NEWROUTE, flags, _route_message(index, route), f"add route to {route.destination}")


def delete_route(index: int, route: Route) -> Request:
    """Delete a route, whoever made it."""
    message = _route_message(index, route)
    message["proto"], message["type"], message["scope"] = 0, 0, RT_SCOPE_NOWHERE
    return _request(RTM_DELROUTE, NLM_F_ACK, message, f"delete route to {route.destination}")


@_kept
def set_neighbour(index: int, address: IPAddress, mac: str) -> Request:
    """Make a permanent neighbour entry."""
    message = _neighbour_message(index, address)
    message["state"] = NUD_PERMANENT
    message["attrs"].append(("NDA_LLADDR", mac))
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return _request(RTM_NEWNEIGH, flags, message, f"set neighbour {address}")


def delete_neighbour(index: int, address: IPAddress) -> Request:
    """Delete a neighbour entry."""
    return _request(RTM_DELNEIGH, NLM_F_ACK, _neighbour_message(index, address), f"delete neighbour {address}")


@_kept
def list_qdiscs() -> Request:
    """Ask for the queueing disciplines of all devices."""
    return _request(RTM_GETQDISC, NLM_F_DUMP, tcmsg(), "list queueing disciplines")


@_kept
def set_shaper(index: int, handle: int, bytes_s: int) -> Request:
    """Let no more than so much leave a device; what comes faster waits up to 50 ms, and is dropped then."""
    burst = max(min(_BURST, bytes_s * _LONGEST_BURST_S), bytes_s // 100)
    message = tcmsg()
    message["index"], message["parent"], message["handle"] = index, sched_tbf.parent, handle
    options = sched_tbf.get_parameters({"rate": bytes_s, "burst": burst, "limit": burst + bytes_s // 20})
    message["attrs"] = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", options)]
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return _request(RTM_NEWQDISC, flags, message, f"limit device {index} to {bytes_s} bytes a second")


def delete_shaper(index: int, handle: int) -> Request:
    """Let as much leave a device as there is."""
    message = tcmsg()
    message["index"], message["parent"], message["handle"] = index, sched_tbf.parent, handle
    return _request(RTM_DELQDISC, NLM_F_ACK, message, f"take the limit off device {index}")


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
    except (OSError, EthtoolError) as error:
        code = getattr(error, "errno", None) or errno.EOPNOTSUPP
        raise KernelError(code, f"turn off transmit checksums of {name}", str(error)) from error
    finally:
        ethtool.close()


def tc_offload(name: str) -> bool | None:
    """Whether the NIC behind a device takes flows over (``hw-tc-offload``); None for a device that cannot."""
    ethtool = IoctlEthtool(name)
    try:
        features = ethtool.get_features()
    except (OSError, EthtoolError):
        return None
    finally:
        ethtool.close()
    if _TC_OFFLOAD not in features:
        return None
    on: bool = features[_TC_OFFLOAD]
    return True if on else False if features.is_available(_TC_OFFLOAD) else None


def tc_offload_on(name: str) -> None:
    """Let the NIC behind a device take flows over."""
    ethtool = IoctlEthtool(name)
    try:
        features = ethtool.get_features()
        features[_TC_OFFLOAD] = True
        ethtool.set_features(features)
    except (OSError, EthtoolError, KeyError) as error:
        code = getattr(error, "errno", None) or errno.EOPNOTSUPP
        raise KernelError(code, f"turn on {_TC_OFFLOAD} of {name}") from error
    finally:
        ethtool.close()


def _linkinfo(kind: str, data: list[tuple[str, object]]) -> dict[str, object]:
    return {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]}


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


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
    message["table"], message["proto"], message["type"] = RT_TABLE_MAIN, route.protocol, RTN_UNICAST
    message["scope"] = RT_SCOPE_LINK if route.gateway is None else RT_SCOPE_UNIVERSE
    attributes: list[tuple[str, object]] = [("RTA_OIF", index), ("RTA_PRIORITY", route.metric)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.source is not None:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    message["attrs"] = attributes
    return message


def _neighbour_message(index: int, address: IPAddress) -> Any:
    message = ndmsg()
    message["family"], message["ifindex"] = _family(address.version), index
    message["attrs"] = [("NDA_DST", str(address))]
    return message
