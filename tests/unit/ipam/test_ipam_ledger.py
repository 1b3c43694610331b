from __future__ import annotations

import threading
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from ipam.errors import AddressRefused, Leaving, LedgerError, NotLeaving, PoolExhausted
from ipam.leases import EmbeddedLeases
from ipam.ledger import Ledger
from ipam.model import Holder, Record, Request
from tests.fixtures.pools import V4, V4_SECOND, V6, open_ledger, pool, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ipam.model import IPAddress, IPNetwork

SMALL = pool("10.0.0.0/29", "10.0.0.1")
"""Five addresses: .2 to .6."""
NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path, [SMALL]) as opened:
        yield opened


def put(ledger: Ledger, name: str, *addresses: str, now: float = NOW) -> Record:
    (answer,) = ledger.put([request(name, *addresses)], now)
    if isinstance(answer, LedgerError):
        raise answer
    return answer


def drop(ledger: Ledger, name: str, now: float = NOW) -> None:
    record = ledger.discard(Holder(name, "eth0"))
    assert record is not None
    assert ledger.forget(record.holder, record.sequence, now)


def addresses(record: Record) -> list[str]:
    return [str(address) for address in record.addresses]


def test_a_record_says_all_that_was_asked_and_given(ledger: Ledger) -> None:
    asked = request("a")
    record = put(ledger, "a")
    assert (record.holder, record.pod, record.netns, record.details) == (
        asked.holder,
        asked.pod,
        asked.netns,
        asked.details,
    )
    assert (record.sequence, record.slot, record.leaving, record.created_at) == (1, 0, False, NOW)
    assert addresses(record) == ["10.0.0.2"]
    assert ledger.get(asked.holder) == record
    assert ledger.records() == (record,)


def test_never_used_addresses_come_lowest_first_then_the_oldest_freed(ledger: Ledger) -> None:
    assert [addresses(put(ledger, name))[0][-1] for name in "abc"] == ["2", "3", "4"]
    drop(ledger, "c", NOW + 1)
    drop(ledger, "a", NOW + 2)
    later = NOW + 1000
    assert [addresses(put(ledger, name, now=later))[0][-1] for name in "defg"] == ["5", "6", "4", "2"]


def test_a_freed_address_cools_down_across_a_restart(path: Path) -> None:
    only = pool("10.0.0.0/30", "10.0.0.1")
    with open_ledger(path, [only]) as ledger:
        put(ledger, "a")
        drop(ledger, "a", NOW)
    with open_ledger(path, [only]) as ledger:
        with pytest.raises(PoolExhausted):
            put(ledger, "b", now=NOW + 59.9)
        assert addresses(put(ledger, "b", now=NOW + 60)) == ["10.0.0.2"]


def test_no_cool_down_is_possible(path: Path) -> None:
    with open_ledger(path, [pool("10.0.0.0/30", "10.0.0.1")], cooldown_s=0) as ledger:
        put(ledger, "a")
        drop(ledger, "a")
        assert addresses(put(ledger, "b")) == ["10.0.0.2"]


def test_506_of_506_and_then_a_clear_refusal(path: Path) -> None:
    with open_ledger(path, [V4_SECOND, V4]) as ledger:
        answers = ledger.put([request(f"pod{n}") for n in range(507)], NOW)
        given = [record.addresses[0] for record in answers if isinstance(record, Record)]
        assert len(set(given)) == 506
        assert given == sorted(given)
        assert not {ip_address(f"10.101.{net}.{host}") for net in (0, 1) for host in (0, 1, 255)} & set(given)
        refusal = answers[506]
        assert isinstance(refusal, PoolExhausted)
        assert str(refusal) == (
            "no IPv4 address is free in 10.101.0.0/24, 10.101.1.0/24: this server may use 506, 506 are in use, "
            "0 cool down; an address is free when a pod ends"
        )
        assert refusal.retry_s is None
        drop(ledger, "pod7", NOW + 100)
        with pytest.raises(PoolExhausted, match=r"505 are in use, 1 cool down; retry in 13 s") as raised:
            put(ledger, "late", now=NOW + 147.5)
        assert raised.value.retry_s == 12.5
        assert addresses(put(ledger, "late", now=NOW + 160)) == ["10.101.0.9"]


def test_whoever_comes_back_need_not_wait_until_the_address_has_cooled_down(ledger: Ledger) -> None:
    put(ledger, "web-0")
    put(ledger, "cart")
    drop(ledger, "web-0")
    again = replace(request("web-0", "10.0.0.2"), returning=True)
    (record,) = ledger.put([again], NOW)
    assert isinstance(record, Record)
    assert addresses(record) == ["10.0.0.2"]
    (answer,) = ledger.put([replace(request("late", "10.0.0.3"), returning=True)], NOW)
    assert isinstance(answer, AddressRefused), "a pod has it"


def test_dual_stack_is_all_or_nothing(path: Path) -> None:
    tiny = pool("fd00::/126", "fd00::1")  # two addresses beside three of IPv4
    with open_ledger(path, [pool("10.0.0.0/29", "10.0.0.1", "10.0.0.5", "10.0.0.6"), tiny]) as ledger:
        assert addresses(put(ledger, "a")) == ["10.0.0.2", "fd00::2"]
        assert addresses(put(ledger, "b")) == ["10.0.0.3", "fd00::3"]
        before = ledger.usage(NOW)
        with pytest.raises(PoolExhausted, match="no IPv6 address is free in fd00::/126: this server may use 2"):
            put(ledger, "c")
        assert ledger.usage(NOW) == before
        assert ledger.get(Holder("c", "eth0")) is None


def test_the_same_holder_again_is_the_same_record(ledger: Ledger) -> None:
    first = put(ledger, "a")
    assert put(ledger, "a", now=NOW + 5) == first
    assert put(ledger, "a", "10.0.0.2") == first
    assert ledger.put([request("b"), request("b")], NOW)[0] == ledger.get(Holder("b", "eth0"))
    assert len(ledger.records()) == 2
    with pytest.raises(AddressRefused, match=r"a/eth0 holds 10\.0\.0\.2 and cannot change to 10\.0\.0\.5"):
        put(ledger, "a", "10.0.0.5")


def test_two_interfaces_of_one_sandbox_are_two_holders(ledger: Ledger) -> None:
    one, two = ledger.put([Request(Holder("a", "eth0")), Request(Holder("a", "net1"))], NOW)
    assert isinstance(one, Record)
    assert isinstance(two, Record)
    assert one.addresses != two.addresses


def test_one_refusal_does_not_undo_its_neighbours(path: Path, ledger: Ledger) -> None:
    answers = ledger.put([request("a"), request("b", "10.0.0.1"), request("c")], NOW)
    assert [type(answer) for answer in answers] == [Record, AddressRefused, Record]
    ledger.close()
    with open_ledger(path, [SMALL]) as again:
        assert [record.holder.container_id for record in again.records()] == ["a", "c"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["10.0.0.0"], "may not hand it out"),
        (["10.0.0.1"], "may not hand it out"),
        (["10.9.9.9"], r"may not hand it out \(pools: 10\.0\.0\.0/29\)"),
        (["10.0.0.2"], "first/eth0 holds it"),
        (["10.0.0.3"], "it cools down; retry in 50 s"),
        (["10.0.0.5", "10.0.0.6"], "several addresses of one family"),
        (["fd00::5"], "the rack has no IPv6 pool"),
    ],
)
def test_a_fixed_address_that_cannot_be_had_is_refused(ledger: Ledger, wanted: list[str], message: str) -> None:
    put(ledger, "first")
    put(ledger, "second")
    drop(ledger, "second", NOW)
    with pytest.raises(AddressRefused, match=message):
        put(ledger, "third", *wanted, now=NOW + 10)
    assert len(ledger.records()) == 1


def test_a_fixed_address_is_honoured_and_the_other_family_completed(path: Path) -> None:
    with open_ledger(path, [V4, V6]) as ledger:
        assert addresses(put(ledger, "a", "10.101.0.77")) == ["10.101.0.77", "fd00:101::4"]
        assert addresses(put(ledger, "b", "fd00:101::4:5", "10.101.0.2")) == ["10.101.0.2", "fd00:101::4:5"]
        assert addresses(put(ledger, "c")) == ["10.101.0.3", "fd00:101::5"]
        drop(ledger, "a", NOW)
        assert addresses(put(ledger, "d", "10.101.0.77", now=NOW + 60))[0] == "10.101.0.77"


def test_an_address_with_a_zone_is_the_address(path: Path) -> None:
    with open_ledger(path, [V4, V6]) as ledger:
        assert addresses(put(ledger, "a", "fd00:101::4:5%1"))[1] == "fd00:101::4:5"
        with pytest.raises(AddressRefused, match="a/eth0 holds it"):
            put(ledger, "b", "fd00:101::4:5")


def test_leaving_keeps_addresses_and_slot_until_forgotten(ledger: Ledger) -> None:
    record = put(ledger, "a")
    leaving = ledger.discard(record.holder)
    assert leaving is not None
    assert (leaving.leaving, leaving.addresses, leaving.slot) == (True, record.addresses, record.slot)
    assert ledger.discard(record.holder) == leaving
    with pytest.raises(Leaving, match="a/eth0 is being removed"):
        put(ledger, "a")
    assert put(ledger, "b").slot == 1
    assert ledger.usage(NOW)[0].used == 2
    assert ledger.forget(record.holder, record.sequence, NOW)
    assert not ledger.forget(record.holder, record.sequence, NOW + 30)
    assert ledger.cooling(NOW + 45) == {ip_address("10.0.0.2"): 15.0}
    assert put(ledger, "c").slot == 0


def test_discarding_the_unknown_is_fine(ledger: Ledger) -> None:
    assert ledger.discard(Holder("nobody", "eth0")) is None
    assert ledger.discard(Holder("nobody", "eth0"), 7) is None
    assert not ledger.forget(Holder("nobody", "eth0"), 7, NOW)


def test_a_late_del_does_not_hurt_the_present_attachment(ledger: Ledger) -> None:
    old = put(ledger, "a")
    drop(ledger, "a")
    new = put(ledger, "a")
    assert new.sequence > old.sequence
    assert ledger.discard(new.holder, old.sequence) is None
    assert not ledger.forget(new.holder, old.sequence, NOW)
    assert ledger.get(new.holder) == new
    assert ledger.discard(new.holder, new.sequence) is not None


def test_what_is_in_use_is_not_freed_by_mistake(ledger: Ledger) -> None:
    gone, live = put(ledger, "gone"), put(ledger, "live")
    ledger.discard(gone.holder)
    with pytest.raises(NotLeaving, match="live/eth0 is in use"):
        ledger.forget_many([(gone.holder, gone.sequence), (live.holder, live.sequence)], NOW)
    assert len(ledger.records()) == 2  # nothing of that batch happened


def test_sequences_never_come_back(path: Path) -> None:
    with open_ledger(path, [SMALL], cooldown_s=0) as ledger:
        assert put(ledger, "a").sequence == 1
        drop(ledger, "a")
    with open_ledger(path, [SMALL], cooldown_s=0) as ledger:
        assert put(ledger, "a").sequence == 2


def test_batches_of_discards_and_forgets(ledger: Ledger) -> None:
    records = [put(ledger, name) for name in "abc"]
    wanted = [(record.holder, None) for record in records]
    left = ledger.discard_many([*wanted, (Holder("x", "eth0"), None)])
    assert [record and record.leaving for record in left] == [True, True, True, None]
    gone = ledger.forget_many([(record.holder, record.sequence) for record in [*records, records[0]]], NOW)
    assert [record.holder for record in gone] == [record.holder for record in records]
    assert ledger.records() == ()


def test_a_clock_that_is_set_back_delays_once_and_not_for_ever(path: Path) -> None:
    only = pool("10.0.0.0/30", "10.0.0.1")
    past = NOW - 10_000_000
    with open_ledger(path, [only]) as ledger:
        put(ledger, "a")
        drop(ledger, "a", NOW)
        assert ledger.usage(past)[0].cooling == 1
        assert ledger.cooling(past) == {ip_address("10.0.0.2"): 60.0}
        with pytest.raises(PoolExhausted, match="retry in 60 s"):
            put(ledger, "b", now=past)
    with open_ledger(path, [only]) as ledger:  # that it was seen is durable, though nothing could be given
        assert ledger.cooling(past + 59) == {ip_address("10.0.0.2"): 1.0}
        assert addresses(put(ledger, "b", now=past + 60)) == ["10.0.0.2"]


def test_a_removed_pool_keeps_its_pods_and_hands_out_nothing(path: Path) -> None:
    with open_ledger(path, [SMALL, V4]) as ledger:
        record = put(ledger, "a", "10.101.0.9")
        put(ledger, "b")
        assert ledger.outside() == {}
    with open_ledger(path, [SMALL]) as ledger:
        assert ledger.get(record.holder) == record
        assert ledger.outside() == {ip_address("10.101.0.9"): record.holder}
        assert [(usage.capacity, usage.used, usage.free) for usage in ledger.usage(NOW)] == [(5, 1, 4)]
        drop(ledger, "a", NOW)
    with open_ledger(path, [SMALL, V4]) as ledger:  # the pool is back before the address has cooled down
        with pytest.raises(AddressRefused, match="cools down"):
            put(ledger, "c", "10.101.0.9", now=NOW + 30)
        assert ledger.usage(NOW + 30)[1].cooling == 1


def test_an_address_in_use_that_becomes_reserved_stays_and_is_not_given_again(path: Path) -> None:
    with open_ledger(path, [SMALL], cooldown_s=0) as ledger:
        record = put(ledger, "a")
    with open_ledger(path, [pool("10.0.0.0/29", "10.0.0.1", "10.0.0.2")], cooldown_s=0) as ledger:
        assert ledger.outside() == {ip_address("10.0.0.2"): record.holder}
        assert put(ledger, "a") == record
        drop(ledger, "a")
        assert [addresses(put(ledger, name))[0][-1] for name in "bcde"] == ["3", "4", "5", "6"]
        with pytest.raises(PoolExhausted, match="may use 4, 4 are in use, 0 cool"):
            put(ledger, "f")


def test_a_family_that_the_rack_gives_up_stays_with_its_pods(path: Path) -> None:
    with open_ledger(path, [SMALL, V6]) as ledger:
        both = put(ledger, "a")
    with open_ledger(path, [SMALL]) as ledger:
        assert ledger.get(both.holder) == both
        assert addresses(put(ledger, "b")) == ["10.0.0.3"]
        drop(ledger, "a")
        assert ledger.outside() == {}


def test_a_server_hands_out_only_its_share(path: Path) -> None:
    with open_ledger(path, [V4, V6], owns=["10.101.0.200/31", "fd00:101::1:0/112"]) as ledger:
        assert addresses(put(ledger, "a")) == ["10.101.0.200", "fd00:101::1:0"]
        assert addresses(put(ledger, "b")) == ["10.101.0.201", "fd00:101::1:1"]
        with pytest.raises(PoolExhausted, match="this server may use 2, 2 are in use"):
            put(ledger, "c")
        with pytest.raises(AddressRefused, match="this server may not hand it out"):
            put(ledger, "c", "10.101.0.5")


def test_a_lease_that_comes_or_goes_counts_at_once(path: Path) -> None:
    class Renting(EmbeddedLeases):
        rented: tuple[IPNetwork, ...] = ()

        def owned(self) -> tuple[IPNetwork, ...]:
            return self.rented

    leases = Renting([SMALL])
    with Ledger(path, [SMALL], leases) as ledger:
        with pytest.raises(PoolExhausted, match="may use 0"):
            put(ledger, "a")
        leases.rented = (ip_network("10.0.0.4/32"),)
        record = put(ledger, "a")
        assert addresses(record) == ["10.0.0.4"]
        leases.rented = (ip_network("10.0.0.6/32"),)
        assert ledger.outside() == {ip_address("10.0.0.4"): record.holder}
        assert addresses(put(ledger, "b")) == ["10.0.0.6"]


def test_what_is_reserved_is_given_only_to_who_asks_for_it(path: Path) -> None:
    class Reserving(EmbeddedLeases):
        kept: frozenset[IPAddress] = frozenset()

        def reserved(self) -> frozenset[IPAddress]:
            return self.kept

    leases = Reserving([SMALL], [ip_network("10.0.0.4/31")])
    leases.kept = frozenset({ip_address("10.0.0.4"), ip_address("fd00::4")})
    with Ledger(path, [SMALL], leases) as ledger:
        assert addresses(put(ledger, "a")) == ["10.0.0.5"], "never used, and not the next one"
        with pytest.raises(PoolExhausted, match="an address is free when a pod ends"):
            put(ledger, "b")
        assert addresses(put(ledger, "b", "10.0.0.4")) == ["10.0.0.4"]
        drop(ledger, "b", NOW)
        with pytest.raises(PoolExhausted, match="an address is free when a pod ends"):
            put(ledger, "c", now=NOW + 1000)
        leases.kept = frozenset()
        assert addresses(put(ledger, "c", now=NOW + 1000)) == ["10.0.0.4"], "control: it has cooled down"


def test_a_large_pool_does_not_grow_the_ledger_for_ever(path: Path) -> None:
    with open_ledger(path, [V6], remembered=3) as ledger:
        for n in range(10):
            put(ledger, "a", now=NOW + n)
            drop(ledger, "a", NOW + n)
        assert len(ledger.cooling(NOW + 10)) == 10  # what cools down is never lost sight of
        later = NOW + 1000
        put(ledger, "a", now=later)
        drop(ledger, "a", later)
        assert addresses(put(ledger, "b", now=later)) == ["fd00:101::4"]  # freed longest ago: as good as never used
    with open_ledger(path, [V6], remembered=3) as ledger:
        assert addresses(put(ledger, "c", now=later)) == ["fd00:101::5"]


def test_readers_may_be_other_threads(ledger: Ledger) -> None:
    seen: list[int] = []
    writing = threading.Thread(target=lambda: put(ledger, "a"))
    writing.start()
    writing.join()
    reading = threading.Thread(target=lambda: seen.append(len(ledger.records())))
    reading.start()
    reading.join()
    assert seen == [1]


def test_what_is_no_json_object_spoils_nothing(ledger: Ledger) -> None:
    with pytest.raises(TypeError):
        ledger.put([request("a"), Request(Holder("b", "eth0"), details={"when": object()})], NOW)
    assert ledger.records() == ()
    assert put(ledger, "a").sequence == 1
