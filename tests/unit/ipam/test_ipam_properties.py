"""The ledger against a naive model: thousands of random operations, crashes, restarts and edits of the pools."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ipam.errors import AddressRefused, Leaving, LedgerFileError, LedgerUnavailableError, PoolExhausted, SlotRefused
from ipam.model import Holder, Record
from tests.fixtures.pools import open_ledger, pool, request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipam.errors import LedgerError
    from ipam.ledger import Ledger
    from ipam.model import IPAddress, Pool, Request

COOLDOWN_S = 60
A, B, C = pool("10.0.0.0/29", "10.0.0.1"), pool("10.0.1.0/30", "10.0.1.2"), pool("fd00::/125", "fd00::1")
CONFIGURATIONS: list[tuple[list[Pool], list[str] | None]] = [
    ([A, B, C], None),
    ([C, A], None),
    ([A, B], None),
    ([pool("10.0.0.0/29", "10.0.0.1", "10.0.0.3"), B, C], None),
    ([A, B, pool("fd00::/125", "fd00::2", "fd00::4/127")], None),
    ([A, B, C], ["10.0.0.4/30", "fd00::/126"]),
]
NAMES = [f"pod{n}" for n in range(12)]
SLOTS: list[Sequence[int] | None] = [None, None, range(3), (4097,), (4098, 4096)]
"""Of anybody; of a small stock; one in particular; one of a few, in an order of their own."""
ADDRESSES = [str(address) for item in (A, B, C) for address in item.prefix]


def usable(pools: list[Pool], owns: list[str] | None) -> dict[int, list[IPAddress]]:
    """Every address that may be handed out, one by one and without any set arithmetic; by family, lowest first."""
    found: dict[int, list[IPAddress]] = {}
    for item in sorted(pools, key=lambda item: str(item.prefix)):
        banned = {item.gateway, item.prefix.network_address}
        if item.prefix.version == 4:
            banned.add(item.prefix.broadcast_address)
        for value in item.reserved:
            banned.update(ip_network(str(value)))
        allowed = [address for address in item.prefix if address not in banned]
        if owns is not None:
            allowed = [address for address in allowed if any(address in ip_network(own) for own in owns)]
        found.setdefault(item.prefix.version, []).extend(allowed)
    return found


class LedgerMachine(RuleBasedStateMachine):
    """Keeps beside the ledger what it must say."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-properties-"))
        self.path = self.folder / "0.db"
        self.generation = count(1)
        self.pools, self.owns = CONFIGURATIONS[0]
        self.now = 1_000_000.0
        self.live: dict[Holder, Record] = {}
        self.freed: dict[IPAddress, float] = {}
        self.gone: list[Record] = []
        self.last_sequence = 0
        self.ledger = self.open()

    def open(self) -> Ledger:
        return open_ledger(self.path, self.pools, owns=self.owns, cooldown_s=COOLDOWN_S)

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    # what the outside world does

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
        fixed=st.lists(st.sampled_from(ADDRESSES), max_size=1),
        slots=st.sampled_from(SLOTS),
    )
    def put(self, names: list[str], fixed: list[str], slots: Sequence[int] | None) -> None:
        requests = [request(name, *(fixed if n == 0 else []), slots=slots) for n, name in enumerate(names)]
        self.see_clock()
        for asked, answer in zip(requests, self.ledger.put(requests, self.now), strict=True):
            self.check_answer(asked, answer)

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), told=st.sampled_from([None, 0, 1]))
    def discard(self, names: list[str], told: int | None) -> None:
        """Discard without a sequence, with the present one, or with one that is too late."""
        for holder in {Holder(name, "eth0") for name in names}:
            present = self.live.get(holder)
            late = told == 0
            answer = self.ledger.discard(holder, 0 if late or present is None else told and present.sequence)
            if present is None or late:
                assert answer is None
            else:
                assert answer is not None
                assert answer.leaving
                self.live[holder] = answer

    @rule(keep=st.integers(min_value=0, max_value=2))
    def forget(self, keep: int) -> None:
        """Forget what leaves, and some of what is long gone once more."""
        leaving = [record for record in self.live.values() if record.leaving][keep:]
        asked = [(record.holder, record.sequence) for record in (*self.gone[-3:], *leaving)]
        self.see_clock()
        assert self.ledger.forget_many(asked, self.now) == tuple(leaving)
        for record in leaving:
            del self.live[record.holder]
            self.gone.append(record)
            self.freed.update(dict.fromkeys(record.addresses, self.now))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=8))
    def pods_come_and_go(self, names: list[str]) -> None:
        self.put(names, [], None)
        self.discard(names, None)
        self.forget(0)

    @rule(seconds=st.sampled_from([0.5, 10, 30, 60, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([1, 45, 100_000]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule(configuration=st.sampled_from(CONFIGURATIONS))
    def restart(self, configuration: tuple[list[Pool], list[str] | None]) -> None:
        self.ledger.close()
        self.pools, self.owns = configuration
        self.ledger = self.open()

    @rule()
    def crash(self) -> None:
        """Go on with the files as they are at this moment, never closed."""
        path = self.folder / f"{next(self.generation)}.db"
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{path}{suffix}")
        self.ledger.close()
        self.path = path
        self.ledger = self.open()

    @rule(steps=st.integers(min_value=1, max_value=250), names=st.lists(st.sampled_from(NAMES), max_size=3))
    def a_write_fails_in_the_middle(self, steps: int, names: list[str]) -> None:
        """Have SQLite give up after so many steps of its virtual machine, at times just after it has committed."""
        self.forget_nothing()
        before = self.live
        countdown = iter([*[0] * steps, 1])  # gives up once, and not again while it rolls back
        connection = self.ledger._database._connection
        connection.set_progress_handler(lambda: next(countdown, 0), 1)
        try:
            if names:
                self.ledger.put([request(name) for name in names], self.now)
            else:
                self.ledger.discard_many([(holder, None) for holder in before])
        except LedgerUnavailableError:
            pass
        finally:
            connection.set_progress_handler(None, 1)
        self.live = {record.holder: record for record in self.ledger.records()}
        if not names and self.live != before:
            assert all(record.leaving for record in self.live.values()), "a discard of many was done by half"
        for record in self.live.values():
            self.last_sequence = max(self.last_sequence, record.sequence)
            for address in record.addresses:
                self.freed.pop(address, None)

    # what must be true

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        records = self.ledger.records()
        assert {record.holder: record for record in records} == self.live
        assert [record.sequence for record in records] == sorted(record.sequence for record in records)
        held = [address for record in records for address in record.addresses]
        assert len(held) == len(set(held)), "an address has two holders"
        slots = [record.slot for record in records]
        assert len(slots) == len(set(slots)), "a slot has two holders"
        assert not set(held) & set(self.freed)

    @invariant()
    def no_address_leaks(self) -> None:
        families = usable(self.pools, self.owns)
        held = {address for record in self.live.values() for address in record.addresses}
        for usage in self.ledger.usage(self.now):
            mine = [address for address in families[usage.prefix.version] if address in usage.prefix]
            assert usage.capacity == len(mine)
            assert usage.used == sum(address in held for address in mine)
            assert usage.cooling == sum(self.is_cooling(address) for address in mine)
            assert usage.used + usage.cooling + usage.free == usage.capacity
            assert usage.free >= 0
        everything = {address for family in families.values() for address in family}
        assert set(self.ledger.outside()) == held - everything

    def is_cooling(self, address: IPAddress) -> bool:
        return address in self.freed and self.freed[address] + COOLDOWN_S > self.now

    def see_clock(self) -> None:
        self.freed = {address: min(freed_at, self.now) for address, freed_at in self.freed.items()}

    def forget_nothing(self) -> None:
        """Have the ledger take note of the time."""
        self.see_clock()
        assert self.ledger.forget_many([], self.now) == ()

    def check_answer(self, asked: Request, answer: Record | LedgerError) -> None:
        present = self.live.get(asked.holder)
        if present is not None:
            if present.leaving:
                assert isinstance(answer, Leaving)
            elif not set(asked.addresses) <= set(present.addresses):
                assert isinstance(answer, AddressRefused)
            elif asked.slots is not None and present.slot not in asked.slots:
                assert isinstance(answer, SlotRefused)
            else:
                assert answer == present
            return
        slot = self.free_slot(asked)
        assert (slot is None) is isinstance(answer, SlotRefused)
        if slot is None:
            return
        choices = {version: self.choices(family) for version, family in usable(self.pools, self.owns).items()}
        fixed: dict[int, IPAddress] = {address.version: address for address in asked.addresses}
        if isinstance(answer, AddressRefused):
            (address,) = fixed.values()
            assert not self.is_free(address)
        elif isinstance(answer, PoolExhausted):
            assert any(not choices[version] for version in choices.keys() - fixed.keys())
            assert answer.retry_s is None or 0 < answer.retry_s <= COOLDOWN_S
        else:
            assert isinstance(answer, Record)
            assert answer.slot == slot
            self.check_new_record(answer, fixed, choices)

    def check_new_record(self, record: Record, fixed: dict[int, IPAddress], choices: dict[int, set[IPAddress]]) -> None:
        assert [address.version for address in record.addresses] == sorted(choices), "one of each family, or nothing"
        for address in record.addresses:
            if address.version in fixed:
                assert address == fixed[address.version]
                assert self.is_free(address)
            else:
                assert address in choices[address.version], "lowest never used first, then oldest freed"
            self.freed.pop(address, None)
        assert record.sequence > self.last_sequence
        assert not record.leaving
        self.last_sequence = record.sequence
        self.live[record.holder] = record

    def free_slot(self, asked: Request) -> int | None:
        taken = [record.slot for record in self.live.values()]
        return next((slot for slot in (range(99) if asked.slots is None else asked.slots) if slot not in taken), None)

    def choices(self, family: list[IPAddress]) -> set[IPAddress]:
        """What may come next: one address, or those that were freed first at the same moment."""
        held = {address for record in self.live.values() for address in record.addresses}
        for address in family:
            if address not in held and address not in self.freed:
                return {address}
        cooled = {address: self.freed[address] for address in family if address in self.freed and self.is_free(address)}
        return {address for address, freed_at in cooled.items() if freed_at == min(cooled.values())}

    def is_free(self, address: IPAddress) -> bool:
        held = {address for record in self.live.values() for address in record.addresses}
        family = usable(self.pools, self.owns).get(address.version, [])
        return address in family and address not in held and not self.is_cooling(address)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, tuple[Record, ...]]]]:
    """A ledger's files while it is open, and after each operation: the length of its log and its records."""
    folder = tmp_path_factory.mktemp("history")
    path, steps = folder / "ledger.db", list[tuple[int, tuple[Record, ...]]]()
    with open_ledger(path, [A, B, C], cooldown_s=0) as ledger:
        for round_ in range(12):
            ledger.put([request(f"pod{round_}-{n}") for n in range(3)], float(round_))
            steps.append((Path(f"{path}-wal").stat().st_size, ledger.records()))
            ledger.discard_many([(record.holder, None) for record in ledger.records()[::2]])
            steps.append((Path(f"{path}-wal").stat().st_size, ledger.records()))
            leaving = [record for record in ledger.records() if record.leaving]
            ledger.forget_many([(record.holder, record.sequence) for record in leaving], float(round_))
            steps.append((Path(f"{path}-wal").stat().st_size, ledger.records()))
        kept = folder / "kept.db"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{kept}{suffix}")
    return kept, steps


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_log_cut_anywhere_is_a_ledger_as_it_was(
    history: tuple[Path, list[tuple[int, tuple[Record, ...]]]], data: st.DataObject
) -> None:
    """A power failure leaves any part of the last writes: whole operations are there, parts of one never are."""
    kept, steps = history
    cut = data.draw(st.integers(min_value=steps[0][0], max_value=steps[-1][0]))
    expected = [records for length, records in steps if length <= cut][-1]
    with tempfile.TemporaryDirectory(prefix="ledger-cut-") as folder:
        path = Path(folder) / "ledger.db"
        shutil.copy(kept, path)
        Path(f"{path}-wal").write_bytes(Path(f"{kept}-wal").read_bytes()[:cut])
        with open_ledger(path, [A, B, C], cooldown_s=0) as ledger:
            assert ledger.records() == expected
            assert all(usage.used + usage.cooling + usage.free == usage.capacity for usage in ledger.usage(100.0))


class WithoutTransactions(LedgerMachine):
    """Every statement is written on its own."""

    def open(self) -> Ledger:
        ledger = super().open()
        ledger._database.transaction = ledger._database._own_errors  # type: ignore[method-assign] # sabotage
        return ledger


class ForgetfulOfSlots(LedgerMachine):
    """Whoever asks for a slot gets the next one."""

    def open(self) -> Ledger:
        ledger = super().open()
        put = ledger.put

        def unslotted(requests: Sequence[Request], now: float) -> list[Record | LedgerError]:
            return put([replace(one, slots=None) for one in requests], now)

        ledger.put = unslotted  # type: ignore[method-assign] # sabotage
        return ledger


class WithoutCoolDown(LedgerMachine):
    def open(self) -> Ledger:
        ledger = super().open()
        ledger._cooldown_s = 0
        return ledger


class ForgetfulOfTheClock(LedgerMachine):
    def open(self) -> Ledger:
        ledger = super().open()
        ledger._follow_clock = lambda *_: None  # type: ignore[method-assign] # sabotage
        return ledger


class FreeingWhatLeavesAtStart(LedgerMachine):
    def open(self) -> Ledger:
        ledger = super().open()
        for record in ledger.records():
            if record.leaving:
                ledger.forget(record.holder, record.sequence, self.now)
        return ledger


@pytest.mark.parametrize(
    "broken",
    [WithoutTransactions, ForgetfulOfSlots, WithoutCoolDown, ForgetfulOfTheClock, FreeingWhatLeavesAtStart],
)
def test_the_model_finds_what_is_broken(broken: type[LedgerMachine]) -> None:
    """Negative controls: operations like those above fail soon on ledgers that lack one of the guarantees."""
    quick = settings(
        TestLedger.settings,
        max_examples=1000,
        phases=[Phase.generate],
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises((AssertionError, LedgerFileError)):
        run_state_machine_as_test(broken, settings=quick)
