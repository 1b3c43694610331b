"""kill -9 at any moment: what was confirmed is there, what was under way is there as a whole or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ipam.errors import LedgerFileError
from tests.fixtures.ledger_victim import POOLS, Row, perform, rows, tear
from tests.fixtures.pools import open_ledger

SCRIPT = [("put", ["a", "b"]), ("discard", ["a", "b"]), ("put", ["c"]), ("forget", ["a", "b"]), ("put", ["d", "a"])]


@dataclass
class Witness:
    """What a victim has said, and what its ledger may say after its death."""

    confirmed: list[Row] = field(default_factory=list)
    pending: tuple[str, list[str]] | None = None
    last_sequence: int = 0

    def hear(self, line: bytes) -> None:
        message = json.loads(line)
        if "intend" in message:
            self.pending = message["intend"]
        else:
            self.confirmed = [(*row[:4], tuple(row[4])) for row in message["done"]]
            self.pending = None
            self.last_sequence = max([self.last_sequence, *(row[1] for row in self.confirmed)])

    def complaints(self, path: Path) -> list[str]:
        """Open a copy of the ledger as the victim left it, and return what is wrong with it."""
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            if Path(f"{path}{suffix}").exists():
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        try:
            with open_ledger(copy, POOLS) as ledger:
                found = rows(ledger)
                used = [usage.used for usage in ledger.usage(time.time())]
        except LedgerFileError as error:
            return [f"cannot be opened: {error}"]
        wrong = []
        if used != [len(found)] * len(POOLS):
            wrong.append(f"{len(found)} attachments hold {used} addresses")
        if len({row[2] for row in found}) != len(found):
            wrong.append(f"a slot is shared: {found}")
        if any(len(row[4]) != len(POOLS) for row in found):
            wrong.append(f"not one address of each family: {found}")
        if found != self.confirmed and not self.is_done(found):
            wrong.append(f"{self.pending} was done by half: {self.confirmed} became {found}")
        self.confirmed, self.pending = found, None
        return wrong

    def is_done(self, found: list[Row]) -> bool:
        """Tell whether the operation under way, and nothing else, has happened as a whole."""
        if self.pending is None:
            return False
        verb, names = self.pending
        if verb == "discard":
            return found == [(*row[:3], row[3] or row[0] in names, row[4]) for row in self.confirmed]
        if verb == "forget":
            return found == [row for row in self.confirmed if not (row[3] and row[0] in names)]
        old, new = found[: len(self.confirmed)], found[len(self.confirmed) :]
        absent = [name for name in names if name not in {row[0] for row in self.confirmed}]
        return old == self.confirmed and [row[0] for row in new] == absent and new[0][1] > self.last_sequence


def kill_again_and_again(path: Path, rounds: int, *mode: str) -> list[str]:
    """Kill one victim after another on the same ledger; stop at the first one that leaves something wrong behind."""
    chance = random.Random(1)  # noqa: S311 - a test that can be repeated
    witness = Witness()
    for round_ in range(rounds):
        arguments = [str(path), str(round_), str(round_ * 10**6), *mode]
        command = [sys.executable, "-m", "tests.fixtures.ledger_victim", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
            try:
                assert victim.stdout is not None
                for _ in range(chance.randint(1, 60)):
                    witness.hear(victim.stdout.readline())
                time.sleep(chance.uniform(0, 0.002))  # waits for nothing: it spreads the blow over an operation
            finally:
                victim.send_signal(signal.SIGKILL)
            for line in victim.stdout:
                witness.hear(line)
        if wrong := witness.complaints(path):
            return wrong
    return []


def die_at_step(path: Path, step: int, *, torn: bool) -> Witness | None:
    """Run the script in a child that kills itself at one step of SQLite's virtual machine; None when it got through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writer, 1)
            ledger = open_ledger(path, POOLS, cooldown_s=0)
            if torn:
                tear(ledger)
            countdown = iter(range(step, 0, -1))
            ledger._database._connection.set_progress_handler(
                lambda: 0 if next(countdown, 0) else signal.raise_signal(signal.SIGKILL), 1
            )
            for verb, names in SCRIPT:
                perform(ledger, verb, names, 0.0)
        finally:
            os._exit(0)
    os.close(writer)
    witness = Witness()
    with os.fdopen(reader, "rb") as said:
        for line in said:
            witness.hear(line)
    _, status = os.waitpid(child, 0)
    return witness if os.WIFSIGNALED(status) else None


def die_at_every_step(folder: Path, stride: int, *, torn: bool = False) -> tuple[int, list[str]]:
    """Return the number of deaths, and what was wrong after the first one that left anything wrong."""
    fresh = folder / "fresh.db"
    open_ledger(fresh, POOLS).close()
    for deaths in range(10_000):
        path = folder / f"{deaths}.db"
        shutil.copy(fresh, path)
        witness = die_at_step(path, deaths * stride, torn=torn)
        if witness is None:
            return deaths, []
        if wrong := witness.complaints(path):
            return deaths, wrong
    pytest.fail("the script has no end")


def test_death_at_random_moments_loses_and_leaks_nothing(tmp_path: Path) -> None:
    assert kill_again_and_again(tmp_path / "ledger.db", 30) == []


def test_death_at_random_moments_is_noticed_without_transactions(tmp_path: Path) -> None:
    """Negative control: when an attachment and its addresses are written one after the other, the same test fails."""
    assert kill_again_and_again(tmp_path / "ledger.db", 60, "torn") != []


def test_death_at_every_step_loses_and_leaks_nothing(tmp_path: Path) -> None:
    deaths, wrong = die_at_every_step(tmp_path, 5)
    assert deaths > 50
    assert wrong == []


def test_death_at_some_step_is_noticed_without_transactions(tmp_path: Path) -> None:
    """Negative control of the test above."""
    _, wrong = die_at_every_step(tmp_path, 5, torn=True)
    assert wrong != []
