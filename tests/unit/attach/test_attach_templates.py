"""Messages that are filled into a template are byte for byte those that pyroute2 would have encoded."""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from routed.attach.answers import Device
from routed.attach.rtnl import (
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    Request,
    add_address,
    add_macvlan,
    delete_device,
    set_alias,
    set_device,
    set_mac_and_alias,
)

indices = st.integers(1, 2**31 - 1)
aliases = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1, max_size=80)


def encoded(message: Any, kind: int, flags: int) -> bytes:
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST | NLM_F_ACK, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


@given(indices, aliases)
def test_an_alias_of_any_length(index: int, alias: str) -> None:
    assert set_alias(index, alias).frame == set_device(index, alias=alias).frame


@given(indices, st.binary(min_size=6, max_size=6), aliases)
def test_a_mac_and_an_alias(index: int, mac: bytes, alias: str) -> None:
    assert set_mac_and_alias(index, mac.hex(":"), alias).frame == set_device(index, mac=mac.hex(":"), alias=alias).frame


@given(
    indices,
    st.one_of(st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.builds(IPv6Address, st.integers(0, 2**128 - 1))),
    st.integers(1, 32),
)
def test_an_address(index: int, address: IPv4Address | IPv6Address, length: int) -> None:
    message = ifaddrmsg()
    message["family"] = int(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    message["prefixlen"], message["index"] = length, index
    message["attrs"] = [
        ("IFA_LOCAL", str(address)),
        ("IFA_ADDRESS", str(address)),
        ("IFA_FLAGS", IFA_F_NODAD | IFA_F_NOPREFIXROUTE),
    ]

    filled = add_address(index, ip_interface((address, length)))

    assert filled.frame == encoded(message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)


@given(indices, indices, st.sampled_from(["eth0", "net1", "a", "fifteen-letters"]))
def test_a_macvlan(parent: int, netns: int, name: str) -> None:
    message = ifinfmsg()
    kind = [("IFLA_INFO_KIND", "macvlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_MACVLAN_MODE", "passthru")]})]
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", parent),
        ("IFLA_NET_NS_FD", netns),
        ("IFLA_LINKINFO", {"attrs": kind}),
    ]

    assert add_macvlan(name, parent, netns).frame == encoded(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


@given(indices)
def test_a_deletion(index: int) -> None:
    message = ifinfmsg()
    message["index"] = index
    device = Device(index, "eth0", "macvlan", 1500, "", "", up=True, carrier=True, parent=None, parent_elsewhere=False)

    assert delete_device(device).frame == encoded(message, RTM_DELLINK, 0)


def test_a_silent_message_asks_for_no_answer_and_is_otherwise_the_same() -> None:
    request = Request(set_mac_and_alias(7, "02:00:00:00:00:01", "x").frame, "")
    loud, silent = request.encode(5), request.encode(5, silent=True)

    flags = [int.from_bytes(message[6:8], sys.byteorder) for message in (loud, silent)]
    assert flags == [NLM_F_REQUEST | NLM_F_ACK, NLM_F_REQUEST]
    assert (loud[:6], loud[8:]) == (silent[:6], silent[8:])
