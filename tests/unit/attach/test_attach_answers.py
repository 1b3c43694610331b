"""What the kernel says, taken apart byte by byte."""

from __future__ import annotations

import errno
import struct
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.attach import answers
from routed.attach.answers import DeviceEvent, Neighbour, Route
from routed.attach.errors import KernelError, NotFound

UNSPEC, INET, INET6, BRIDGE = 0, 2, 10, 7
MAC = bytes.fromhex("0a580a650001")


def message(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def link(kind: int = 16, family: int = UNSPEC, *more: bytes) -> bytes:
    fixed = struct.pack("=BxHiII", family, 1, 9, 0x1 | 0x1000, 0)
    known = attribute(3, b"rp7\0") + attribute(4, struct.pack("=I", 1450)) + attribute(1, MAC)
    return message(kind, fixed + known + b"".join(more))


def refusal(code: int, *more: bytes) -> bytes:
    return message(2, struct.pack("=i", -code) + bytes(16) + b"".join(more), 0x200)


def test_a_device_with_all_that_matters() -> None:
    info = attribute(1, b"macvlan\0") + attribute(2, b"data")
    nested = 0x8000
    body = link(
        16,
        UNSPEC,
        attribute(20, b"routed\0"),
        attribute(33, b"\1"),
        attribute(5, struct.pack("=I", 4)),
        attribute(37, struct.pack("=i", 0)),
        attribute(18 | nested, info),
        attribute(999, b"from a newer kernel"),
    )

    device = answers.device(body)

    assert (device.index, device.name, device.kind, device.mtu) == (9, "rp7", "macvlan", 1450)
    assert (device.mac, device.alias) == ("0a:58:0a:65:00:01", "routed")
    assert (device.up, device.carrier, device.parent, device.parent_elsewhere) == (True, True, 4, True)


@pytest.mark.parametrize(
    ("kind", "data", "left_out"),
    [
        (b"bond\0", attribute(1, b"\1"), True),
        (b"bond\0", attribute(1, b"\0"), False),
        (b"bond\0", b"", False),
        (b"bridge\0", attribute(1, b"\1"), False),  # its state of a port, listening
    ],
)
def test_a_bond_leaves_a_member_out_or_not(kind: bytes, data: bytes, left_out: bool) -> None:
    member = attribute(4, kind) + attribute(5, data + attribute(2, b"\0"))
    assert answers.device(link(16, UNSPEC, attribute(18, member))).left_out is left_out
    assert answers.device(link()).left_out is False


def test_a_representor_is_a_port_of_its_nic() -> None:
    more = (
        attribute(10, struct.pack("=I", 6)),
        attribute(36, bytes.fromhex("c2cfc60003a1420c")),
        attribute(38, b"pf0vf3\0"),
        attribute(56, b"0000:03:00.0\0"),
        attribute(57, b"pci\0"),
    )

    port = answers.nic_port(link(16, UNSPEC, *more))

    assert (port.index, port.name, port.kind, port.up, port.mtu, port.master) == (9, "rp7", "", True, 1450, 6)
    assert (port.switch_id, port.port_name, port.parent) == ("c2cfc60003a1420c", "pf0vf3", "0000:03:00.0")
    bare = answers.nic_port(link())
    assert (bare.master, bare.switch_id, bare.port_name, bare.parent) == (None, "", "", "")


def test_a_device_with_next_to_nothing() -> None:
    device = answers.device(link())

    assert (device.kind, device.alias, device.carrier, device.parent, device.parent_elsewhere) == (
        "",
        "",
        False,
        None,
        False,
    )


def test_an_event_says_whether_the_device_is_gone() -> None:
    assert answers.event(16, link(16)) == DeviceEvent(answers.device(link()), gone=False)
    assert answers.event(17, link(17)) == DeviceEvent(answers.device(link()), gone=True)


def test_a_port_leaving_a_bridge_is_no_device_going() -> None:
    assert answers.event(17, link(17, BRIDGE)) is None


def test_addresses_of_both_families() -> None:
    v4 = struct.pack("=BBBBI", INET, 32, 0, 0, 9) + attribute(1, bytes(4)) + attribute(2, ip_address("10.0.0.1").packed)
    v6 = struct.pack("=BBBBI", INET6, 64, 0, 253, 9) + attribute(1, ip_address("fe80::1").packed)

    assert answers.interface(message(20, v4)) == (ip_interface("10.0.0.1/32"), 0)
    assert answers.interface(message(20, v6)) == (ip_interface("fe80::1/64"), 253)


def test_a_default_route_has_no_destination_attribute() -> None:
    fixed = struct.pack("=BBBBBBBBI", INET6, 0, 0, 0, 254, 4, 0, 1, 0)
    body = message(24, fixed + attribute(5, ip_address("fd00::fe").packed) + attribute(6, struct.pack("=I", 1024)))

    assert answers.route(body) == Route(ip_network("::/0"), ip_address("fd00::fe"), 1024)


def test_a_neighbour_that_did_not_answer_has_no_mac_and_is_not_usable() -> None:
    fixed = struct.pack("=B3xiHBB", INET, 9, 0x20, 0, 0)
    body = message(28, fixed + attribute(1, ip_address("10.0.0.254").packed))

    assert answers.event(28, body) == Neighbour(
        9, ip_address("10.0.0.254"), None, permanent=False, fresh=False, usable=False
    )


def test_a_refusal_carries_the_kernels_words_if_there_are_any() -> None:
    worded = answers.failure(refusal(errno.EINVAL, attribute(1, b"mtu less than device minimum\0")), 0x200, "do")
    plain = answers.failure(refusal(errno.EBUSY), 0, "do")

    assert type(worded) is KernelError
    assert str(worded) == "do: mtu less than device minimum"
    assert str(plain) == "do: Device or resource busy"
    assert isinstance(answers.failure(refusal(errno.ENODEV), 0, "do"), NotFound)
    assert answers.failure(refusal(0), 0, "do") is None


@given(st.lists(st.binary(max_size=40).map(lambda payload: message(16, payload + bytes(-len(payload) % 4)))))
def test_a_datagram_comes_apart_into_what_went_in(messages: list[bytes]) -> None:
    assert [body for *_, body in answers.split(b"".join(messages))] == messages


@given(st.binary(max_size=200))
def test_taking_rubbish_apart_comes_to_an_end(data: bytes) -> None:
    assert len(list(answers.split(data))) <= len(data) // 16
