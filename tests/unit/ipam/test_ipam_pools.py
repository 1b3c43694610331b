from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ipam.allocate import shares
from ipam.errors import PoolError
from ipam.leases import EmbeddedLeases, check_shares
from ipam.model import Pool, check_pools
from tests.fixtures.pools import V4, V4_SECOND, V6, pool


def capacity(*pools: Pool, owns: list[str] | None = None) -> int:
    owned = [item.prefix for item in pools] if owns is None else [ip_network(prefix) for prefix in owns]
    return sum(share.capacity for family in shares(pools, owned).values() for share in family)


def test_two_24s_give_exactly_506_addresses() -> None:
    assert capacity(V4, V4_SECOND) == 506


@pytest.mark.parametrize(
    ("prefix", "gateway", "reserved", "expected"),
    [
        ("10.0.0.0/24", "10.0.0.1", (), 253),
        ("10.0.0.0/24", "10.0.0.254", ("10.0.0.10", "10.0.0.32/27"), 220),
        ("10.0.0.0/24", "10.0.0.1", ("10.0.0.0/30", "10.0.0.1"), 251),  # reservations over what is taken anyway
        ("10.0.0.0/24", "10.0.0.1", ("10.0.0.0/24",), 0),  # all reserved: the pool is being emptied
        ("10.0.0.0/30", "10.0.0.1", (), 1),
        ("10.0.0.0/31", "10.0.0.0", (), 1),
        ("10.0.0.0/31", "10.0.0.1", (), 1),
        ("10.0.0.0/8", "10.0.0.1", (), 2**24 - 3),
        ("fd00::/64", "fd00::1", (), 2**64 - 2),
        ("fd00::/64", "fd00::", (), 2**64 - 1),  # the gateway is the subnet-router anycast address itself
        ("fd00::/127", "fd00::", (), 1),
        ("fd00::/127", "fd00::1", (), 1),
    ],
)
def test_capacity_is_what_remains_for_pods(prefix: str, gateway: str, reserved: tuple[str, ...], expected: int) -> None:
    assert capacity(pool(prefix, gateway, *reserved)) == expected


def test_what_the_network_needs_is_never_usable() -> None:
    usable = pool("10.0.0.0/24", "10.0.0.1", "10.0.0.9").usable()
    assert {"10.0.0.0", "10.0.0.1", "10.0.0.9", "10.0.0.255"} & {str(address) for address in usable} == set()
    assert "fd00:101::" not in V6.usable()
    assert "fd00:101::3" not in V6.usable()
    assert "fd00:101::4" in V6.usable()
    assert "fd00:101::ffff:ffff:ffff:ffff" in V6.usable()  # IPv6 knows no broadcast


@pytest.mark.parametrize(
    ("prefix", "gateway", "reserved", "message"),
    [
        ("10.0.0.0/24", "10.0.1.1", (), r"pool 10\.0\.0\.0/24: gateway 10\.0\.1\.1 is outside"),
        ("10.0.0.0/24", "fd00::1", (), r"pool 10\.0\.0\.0/24: gateway fd00::1 is not IPv4"),
        ("fd00::/64", "10.0.0.1", (), r"pool fd00::/64: gateway 10\.0\.0\.1 is not IPv6"),
        ("10.0.0.0/24", "10.0.0.1", ("10.0.1.0/28",), r"pool 10\.0\.0\.0/24: reservation 10\.0\.1\.0/28 is outside"),
        ("10.0.0.0/24", "10.0.0.1", ("10.0.0.0/23",), r"pool 10\.0\.0\.0/24: reservation 10\.0\.0\.0/23 is outside"),
        ("10.0.0.0/24", "10.0.0.1", ("fd00::5",), r"pool 10\.0\.0\.0/24: reservation fd00::5 is not IPv4"),
        ("10.0.0.0/24", "10.0.0.0", (), r"pool 10\.0\.0\.0/24: gateway 10\.0\.0\.0 is the network"),
        ("10.0.0.0/24", "10.0.0.255", (), r"pool 10\.0\.0\.0/24: gateway 10\.0\.0\.255 is the network"),
        ("10.0.0.7/32", "10.0.0.7", (), r"pool 10\.0\.0\.7/32: a single address"),
        ("fd00::7/128", "fd00::7", (), r"pool fd00::7/128: a single address"),
    ],
)
def test_pools_that_make_no_sense_are_named(prefix: str, gateway: str, reserved: tuple[str, ...], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        pool(prefix, gateway, *reserved)


def test_pool_errors_are_value_errors() -> None:
    assert issubclass(PoolError, ValueError)  # so that a settings model can let them through as its own


def test_overlapping_pools_are_both_named() -> None:
    with pytest.raises(PoolError, match=r"pool 10\.101\.0\.0/24 overlaps pool 10\.101\.0\.128/25"):
        check_pools([V4, V6, pool("10.101.0.128/25", "10.101.0.129")])
    check_pools([V4, V4_SECOND, V6])


def test_a_rack_without_pools_is_refused() -> None:
    with pytest.raises(PoolError, match="no pool"):
        check_pools([])


def test_a_share_may_be_part_of_a_pool_or_span_pools() -> None:
    assert capacity(V4, V4_SECOND, owns=["10.101.0.0/25"]) == 126  # without network address and gateway
    assert capacity(V4, V4_SECOND, owns=["10.101.0.128/25"]) == 127  # without the broadcast address
    assert capacity(V4, V4_SECOND, owns=["10.101.0.0/23"]) == 506
    assert capacity(V4, V6, owns=["10.101.1.0/24", "fd00:101::1:0/112"]) == 65536
    assert EmbeddedLeases([V4, V4_SECOND], [ip_network("10.101.0.0/23")]).owned() == (ip_network("10.101.0.0/23"),)


def test_without_a_share_a_server_owns_all_pools() -> None:
    assert EmbeddedLeases([V4, V6]).owned() == (V4.prefix, V6.prefix)


def test_a_share_outside_the_pools_is_named() -> None:
    with pytest.raises(PoolError, match=r"share 10\.102\.0\.0/25 lies outside the pools 10\.101\.0\.0/24"):
        EmbeddedLeases([V4], [ip_network("10.102.0.0/25")])


def test_a_share_must_have_something_of_every_family() -> None:
    with pytest.raises(PoolError, match="no IPv6 prefix"):
        EmbeddedLeases([V4, V6], [V4.prefix])


def test_two_servers_must_not_own_the_same_addresses() -> None:
    halves = {"s11": [ip_network("10.101.0.0/25")], "s12": [ip_network("10.101.0.128/25")]}
    check_shares([V4], halves)
    with pytest.raises(PoolError, match=r"servers s12 and s13 both own 10\.101\.0\.200/32"):
        check_shares([V4], {**halves, "s13": [ip_network("10.101.0.200/32")]})
    with pytest.raises(PoolError, match="servers s11 and s12 both own"):
        check_shares([V4], {"s11": None, "s12": None})
    check_shares([V4], {"s11": None})


def test_large_pools_are_never_enumerated() -> None:
    huge = pool("fd00::/16", "fd00::1", "fd00:dead::/32")
    assert capacity(huge, V4) == 2**112 - 2**96 - 2 + 253
    (family,) = shares([huge], [huge.prefix]).values()
    assert len(family[0].ranges) == 2
    assert int(ip_address("fd00:dead::1")) not in family[0]
    assert int(ip_address("fd00:deae::")) in family[0]
    assert int(ip_address("fcff::")) not in family[0]
