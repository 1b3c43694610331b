from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from tests.bench.update import announced, segment

MARKER = b"\xff" * 16
KEEPALIVE = MARKER + (19).to_bytes(2) + b"\x04"
ORIGIN = bytes([0x40, 1, 1, 0])


def nlri(*prefixes: str) -> bytes:
    networks = [IPv4Network(prefix) for prefix in prefixes]
    return b"".join(
        bytes([each.prefixlen]) + each.network_address.packed[: (each.prefixlen + 7) // 8] for each in networks
    )


def update(announce: bytes, withdraw: bytes = b"") -> bytes:
    body = len(withdraw).to_bytes(2) + withdraw + len(ORIGIN).to_bytes(2) + ORIGIN + announce
    return MARKER + (19 + len(body)).to_bytes(2) + b"\x02" + body


def packet(payload: bytes, *, source_port: int = 40000, protocol: int = 6) -> bytes:
    tcp = source_port.to_bytes(2) + (179).to_bytes(2) + bytes(8) + bytes([8 << 4]) + bytes(19)
    head = bytes([0x46, 0]) + (24 + len(tcp) + len(payload)).to_bytes(2) + bytes(5) + bytes([protocol]) + bytes(2)
    return head + bytes([10, 1, 0, 11, 10, 255, 1, 1]) + bytes(4) + tcp + payload


def test_every_announced_prefix_is_seen_and_no_withdrawn_one() -> None:
    payload = update(nlri("10.101.0.5/32", "10.0.0.0/8", "0.0.0.0/0"), withdraw=nlri("10.101.0.9/32"))
    assert [str(prefix) for prefix in announced(payload)] == ["10.101.0.5/32", "10.0.0.0/8", "0.0.0.0/0"]


def test_messages_that_share_a_segment_are_told_apart() -> None:
    payload = KEEPALIVE + update(nlri("10.101.0.5/32")) + KEEPALIVE + update(nlri("10.101.0.6/32"))
    assert [str(prefix) for prefix in announced(payload)] == ["10.101.0.5/32", "10.101.0.6/32"]


def test_end_of_rib_announces_nothing() -> None:
    assert list(announced(MARKER + (23).to_bytes(2) + b"\x02" + bytes(4))) == []


def test_a_cut_message_announces_nothing() -> None:
    assert list(announced(update(nlri("10.101.0.5/32"))[:-1])) == []


def test_the_rest_of_a_message_that_began_before_announces_nothing() -> None:
    assert list(announced(update(nlri("10.101.0.5/32"))[20:])) == []


def test_a_segment_is_cut_out_by_its_own_lengths() -> None:
    found = segment(packet(KEEPALIVE) + b"padding of a short frame")
    assert found == (IPv4Address("10.1.0.11"), IPv4Address("10.255.1.1"), KEEPALIVE)


def test_what_is_no_bgp_is_no_segment() -> None:
    assert segment(packet(b"", protocol=17)) is None
    assert segment(b"\x60" + bytes(60)) is None
    assert segment(b"") is None
    ssh = bytearray(packet(b""))
    ssh[26:28] = (22).to_bytes(2)
    assert segment(bytes(ssh)) is None
