"""The announcements, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.attach.frames import answered, question, statement

MAC = "02:aa:00:00:00:10"


def test_arp_request_is_a_broadcast_from_the_host() -> None:
    frame = question(MAC, ip_address("10.1.0.11"), ip_address("10.1.0.1"), None)

    assert frame.hex(" ", 2) == (
        "ffff ffff ffff 02aa 0000 0010 0806 0001 0800 0604 0001 02aa 0000 0010 0a01 000b 0000 0000 0000 0a01 0001"
    )


def test_neighbour_solicitation_goes_to_the_solicited_node_group_with_the_hosts_mac() -> None:
    frame = question(MAC, ip_address("fd00:1::11"), ip_address("fd00:1::1"), None)

    assert frame[:14].hex() == "3333ff00000102aa0000001086dd"
    assert frame[14:22].hex() == "6000000000203aff"
    assert frame[22:38] == ip_address("fd00:1::11").packed
    assert frame[38:54] == ip_address("ff02::1:ff00:1").packed
    assert frame[54:56].hex() == "8700"
    assert frame[58:62] == bytes(4)
    assert frame[62:78] == ip_address("fd00:1::1").packed
    assert frame[78:].hex() == "010102aa00000010"


def test_neighbour_solicitation_carries_a_checksum_that_adds_up() -> None:
    frame = question(MAC, ip_address("fd00:1::11"), ip_address("fd00:1::1"), None)
    covered = frame[22:54] + struct.pack("!II", len(frame) - 54, 58) + frame[54:]

    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))

    assert total % 0xFFFF == 0


@pytest.mark.parametrize(("address", "target"), [("10.1.0.11", "10.1.0.1"), ("fd00:1::11", "fd00:1::1")])
def test_a_tag_goes_between_the_addresses_and_the_rest(address: str, target: str) -> None:
    plain = question(MAC, ip_address(address), ip_address(target), None)
    tagged = question(MAC, ip_address(address), ip_address(target), 108)

    assert tagged == plain[:12] + bytes.fromhex("8100006c") + plain[12:]


GATEWAY_MAC = "02:00:00:00:01:01"


@pytest.mark.parametrize(("address", "target"), [("10.1.0.11", "10.1.0.1"), ("fd00:1::11", "fd00:1::1")])
def test_a_statement_is_an_answer_about_the_host_to_the_gateway_alone(address: str, target: str) -> None:
    frame = statement(MAC, ip_address(address), ip_address(target), GATEWAY_MAC, None)

    assert answered(frame) == ip_address(address)
    assert frame[:12].hex() == "02000000010102aa00000010"
    assert ip_address(target).packed in frame


def test_an_advertisement_is_solicited_names_the_mac_and_has_a_checksum_that_adds_up() -> None:
    frame = statement(MAC, ip_address("fd00:1::11"), ip_address("fd00:1::1"), GATEWAY_MAC, None)
    covered = frame[22:54] + struct.pack("!II", len(frame) - 54, 58) + frame[54:]

    assert frame[58:62].hex() == "60000000"
    assert frame[78:].hex() == "020102aa00000010"
    assert sum(struct.unpack(f"!{len(covered) // 2}H", covered)) % 0xFFFF == 0


def test_one_family_cannot_tell_the_other() -> None:
    with pytest.raises(ValueError, match="another family"):
        statement(MAC, ip_address("10.1.0.11"), ip_address("fd00:1::1"), GATEWAY_MAC, None)


def test_one_family_cannot_ask_for_the_other() -> None:
    with pytest.raises(ValueError, match="another family"):
        question(MAC, ip_address("10.1.0.11"), ip_address("fd00:1::1"), None)


ARP_REPLY = bytes.fromhex(
    "02aa00000010 020000000101 0806 0001 0800 06 04 0002 020000000101 0a010001 02aa00000010 0a01000b"
)
ADVERTISEMENT = bytes.fromhex("02aa00000010 020000000101 86dd 60000000 0018 3aff") + b"".join(
    (
        ip_address("fd00:1::1").packed,
        ip_address("fd00:1::11").packed,
        bytes.fromhex("8800 0000 e0000000"),
        ip_address("fd00:1::1").packed,
    )
)


def test_answers_tell_whom_they_are_about_and_questions_do_not() -> None:
    assert answered(ARP_REPLY) == ip_address("10.1.0.1")
    assert answered(ADVERTISEMENT) == ip_address("fd00:1::1")
    for asker, gateway in (("10.1.0.11", "10.1.0.1"), ("fd00:1::11", "fd00:1::1")):
        assert answered(question(MAC, ip_address(asker), ip_address(gateway), None)) is None


@given(st.binary(max_size=100), st.sampled_from((ARP_REPLY, ADVERTISEMENT)), st.integers(0, 80))
def test_no_frame_is_too_odd_to_be_looked_at(noise: bytes, frame: bytes, cut: int) -> None:
    answered(noise)
    answered(frame[:cut])
