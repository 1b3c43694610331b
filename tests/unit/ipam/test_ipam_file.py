from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ipam import database
from ipam.errors import LedgerBusyError, LedgerCorruptError, LedgerUnavailableError
from ipam.model import Holder, Record
from tests.fixtures.pools import V4, V6, open_ledger, request

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state #1%20.db"  # characters that mean something in a file: URI


def filled(path: Path, count: int = 5) -> tuple[Record, ...]:
    with open_ledger(path, [V4, V6]) as ledger:
        ledger.put([request(f"pod{n}") for n in range(count)], NOW)
        return ledger.records()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_everything_is_there_after_reopening(path: Path) -> None:
    records = filled(path)
    with open_ledger(path, [V4, V6]) as ledger:
        assert ledger.records() == records


def test_only_the_owner_may_read_it(path: Path) -> None:
    with open_ledger(path, [V4]) as ledger:
        ledger.put([request("a")], NOW)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600}
    path.chmod(0o644)
    open_ledger(path, [V4]).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_durable_by_its_settings(path: Path) -> None:
    with open_ledger(path, [V4]) as ledger:
        settings = {
            name: ledger._database._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "user_version", "application_id")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "user_version": 1,
        "application_id": int.from_bytes(b"rout", "big"),
    }


def test_a_second_process_is_kept_out_until_the_first_is_dead(path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from tests.fixtures.pools import V4, open_ledger;"
        "ledger = open_ledger(Path(sys.argv[1]), [V4]); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            with pytest.raises(LedgerBusyError, match="open in another process"):
                open_ledger(path, [V4])
        finally:
            other.send_signal(signal.SIGKILL)
    open_ledger(path, [V4]).close()


def test_it_cannot_be_opened_twice_in_one_process_either(path: Path) -> None:
    with open_ledger(path, [V4]) as ledger:
        for _ in range(2):  # the first refusal must not let go of the lock
            with pytest.raises(LedgerBusyError):
                open_ledger(path, [V4])
        assert len(ledger.put([request("a")], NOW)) == 1


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailableError, match=r"absent/ledger\.db: No such file or directory"):
        open_ledger(tmp_path / "absent" / "ledger.db", [V4])


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database, but precious\n" * 100)
    with pytest.raises(LedgerCorruptError, match=r"is damaged: file is not a database\. A new ledger"):
        open_ledger(path, [V4])
    assert path.read_bytes().startswith(b"not a database, but precious")


def test_another_programs_database_is_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE theirs (x)")
    with pytest.raises(LedgerCorruptError, match="not a ledger"):
        open_ledger(path, [V4])
    execute(path, "INSERT INTO theirs VALUES (1)")


def test_a_damaged_page_is_found_at_once(path: Path) -> None:
    filled(path, 200)
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))
    with pytest.raises(LedgerCorruptError, match=r"is damaged.*drain this server of its pods"):
        open_ledger(path, [V4, V6])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("DELETE FROM attachments WHERE sequence = 2", "an attachment that does not exist"),
        ("DELETE FROM addresses WHERE attachment = 2", "attachment 2 has no address"),
        ("UPDATE addresses SET address = '10.101.0.one' WHERE address = '10.101.0.2'", "does not appear to be"),
    ],
)
def test_rows_that_contradict_each_other_are_found(path: Path, damage: str, reason: str) -> None:
    filled(path)
    execute(path, "PRAGMA foreign_keys = OFF", damage)
    with pytest.raises(LedgerCorruptError, match=reason):
        open_ledger(path, [V4, V6])


@pytest.mark.parametrize(
    "breach",
    [
        "INSERT INTO addresses (address, family, attachment) VALUES ('10.101.0.2', 4, 2)",  # a second holder
        "INSERT INTO addresses (address, family, attachment) VALUES ('10.101.0.99', 4, 2)",  # a second of the family
        "INSERT INTO addresses (address, family) VALUES ('10.101.0.99', 4)",  # neither held nor freed
        "UPDATE addresses SET freed_at = 1 WHERE attachment = 1",  # both
        "INSERT INTO addresses (address, family, attachment) VALUES ('10.101.0.99', 4, 77)",  # held by nobody
        "DELETE FROM attachments WHERE sequence = 1",  # its addresses would leak
        "UPDATE attachments SET slot = 1 WHERE sequence = 1",  # a slot twice
        "UPDATE attachments SET container_id = 'pod1' WHERE sequence = 1",  # a holder twice
    ],
)
def test_the_schema_itself_forbids_what_must_never_be(path: Path, breach: str) -> None:
    filled(path)
    with pytest.raises(sqlite3.IntegrityError):
        execute(path, "PRAGMA foreign_keys = ON", breach)


def test_a_newer_schema_is_not_touched(path: Path) -> None:
    filled(path)
    execute(path, "PRAGMA user_version = 9")
    with pytest.raises(LedgerUnavailableError, match=r"newer release \(schema 9, this one knows up to 1\)"):
        open_ledger(path, [V4, V6])


def test_an_older_schema_is_migrated_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = filled(path)
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, ("CREATE TABLE extra (x)",)))
    with open_ledger(path, [V4, V6]) as ledger:
        assert ledger.records() == records
        assert ledger._database._connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = filled(path)
    with monkeypatch.context() as patched:
        patched.setattr(
            database, "MIGRATIONS", (*database.MIGRATIONS, ("DELETE FROM addresses", "ALTER TABLE absent ADD x"))
        )
        with pytest.raises(LedgerUnavailableError, match="no such table"):
            open_ledger(path, [V4, V6])
    with open_ledger(path, [V4, V6]) as ledger:
        assert ledger.records() == records


def test_a_full_disk_changes_nothing(path: Path) -> None:
    with open_ledger(path, [V4, V6]) as ledger:
        ledger.put([request("a")], NOW)
        before = ledger.records(), ledger.usage(NOW)
        (pages,) = ledger._database._connection.execute("PRAGMA page_count").fetchone()
        ledger._database._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerUnavailableError, match="full"):
            ledger.put([request(f"pod{n}") for n in range(200)], NOW)
        assert (ledger.records(), ledger.usage(NOW)) == before
        ledger._database._connection.execute("PRAGMA max_page_count = 100000")
        assert len(ledger.put([request(f"pod{n}") for n in range(200)], NOW)) == 200
    with open_ledger(path, [V4, V6]) as ledger:
        assert ledger.get(Holder("pod199", "eth0")) is not None
