"""The ledger's file: how it is opened, its schema, and every SQL statement. Decides nothing.

One process at a time has it open (exclusive lock, let go by the kernel when that process dies). A transaction that has
returned is on the disk (WAL, ``synchronous=FULL``: https://sqlite.org/pragma.html#pragma_synchronous); one that was cut
short, by ``kill -9`` or by a power failure, never happened.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ipam.errors import LedgerBusyError, LedgerCorruptError, LedgerFileError, LedgerUnavailableError
from ipam.model import Holder, Pod, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ipam.model import IPAddress, Request

APPLICATION_ID = 0x726F7574
"""Marks the file as ours ("rout"): no other SQLite database is ever written to."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE attachments (
            sequence      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, also after the row has gone
            container_id  TEXT    NOT NULL,
            ifname        TEXT    NOT NULL,
            pod_namespace TEXT    NOT NULL,
            pod_name      TEXT    NOT NULL,
            pod_uid       TEXT    NOT NULL,
            netns         TEXT    NOT NULL,
            slot          INTEGER NOT NULL UNIQUE CHECK (slot >= 0),
            leaving       INTEGER NOT NULL DEFAULT 0 CHECK (leaving IN (0, 1)),
            created_at    REAL    NOT NULL,
            details       TEXT    NOT NULL CHECK (json_valid(details)),
            UNIQUE (container_id, ifname)
        ) STRICT
        """,
        """
        CREATE TABLE addresses (  -- one row per address that was ever used: held, or freed at some time
            address    TEXT    NOT NULL PRIMARY KEY,
            family     INTEGER NOT NULL CHECK (family IN (4, 6)),
            attachment INTEGER REFERENCES attachments (sequence),
            freed_at   REAL,
            UNIQUE (attachment, family),
            CHECK ((attachment IS NULL) <> (freed_at IS NULL))
        ) STRICT, WITHOUT ROWID
        """,
    ),
)
"""Statements that lead from schema version ``n`` (the index) to ``n + 1``; once released, only ever added to."""


class Database:
    """The open file. Any method may raise LedgerFileError, whose subclasses say why; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._own_errors():
            _create(path)
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,  # opened by one thread, used by another one, never by two at a time
            )
        try:
            with self._own_errors():
                self._configure()
                self._migrate()
                self._check()
        except LedgerFileError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside durable as a whole, or not at all when anything is raised."""
        with self._own_errors():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def load(self) -> tuple[list[Record], dict[IPAddress, float]]:
        """Return all records in the order of their sequence, and when each free address was freed, oldest first."""
        with self._own_errors():
            addresses = self._connection.execute(
                "SELECT address, attachment, freed_at FROM addresses ORDER BY freed_at, family, address"
            ).fetchall()
            attachments = self._connection.execute("SELECT * FROM attachments ORDER BY sequence").fetchall()
        held: dict[int, tuple[IPAddress, ...]] = {}
        freed: dict[IPAddress, float] = {}
        try:
            for text, attachment, freed_at in addresses:
                if attachment is None:
                    freed[ip_address(text)] = freed_at
                else:
                    held[attachment] = (*held.get(attachment, ()), ip_address(text))
            records = [_record(row, held[row[0]]) for row in attachments]
        except KeyError as error:
            raise self._damaged(f"attachment {error} has no address") from error
        except ValueError as error:
            raise self._damaged(error) from error
        return records, freed

    def insert(self, request: Request, slot: int, addresses: tuple[IPAddress, ...], now: float) -> Record:
        """Write a new attachment and its addresses; returns it with its sequence."""
        row = (
            *(request.holder.container_id, request.holder.ifname),
            *(request.pod.namespace, request.pod.name, request.pod.uid),
            *(request.netns, slot, False, now, json.dumps(dict(request.details))),
        )
        sequence = self._connection.execute(
            "INSERT INTO attachments (container_id, ifname, pod_namespace, pod_name, pod_uid, netns, slot, leaving,"
            " created_at, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        ).lastrowid
        self.lose_sight(addresses)
        self._connection.executemany(
            "INSERT INTO addresses (address, family, attachment) VALUES (?, ?, ?)",
            [(str(address), address.version, sequence) for address in addresses],
        )
        return _record((sequence, *row), addresses)

    def mark_leaving(self, sequence: int) -> None:
        """Write that an attachment is on its way out."""
        self._connection.execute("UPDATE attachments SET leaving = 1 WHERE sequence = ?", (sequence,))

    def delete(self, sequence: int, now: float) -> None:
        """Free an attachment's addresses and its slot."""
        self._connection.execute(
            "UPDATE addresses SET attachment = NULL, freed_at = ? WHERE attachment = ?", (now, sequence)
        )
        self._connection.execute("DELETE FROM attachments WHERE sequence = ?", (sequence,))

    def lose_sight(self, addresses: Iterable[IPAddress]) -> None:
        """Delete what is known of these addresses if they are free; never of one that is held."""
        self._connection.executemany(
            "DELETE FROM addresses WHERE address = ? AND attachment IS NULL", [(str(address),) for address in addresses]
        )

    def bring_forward(self, now: float) -> None:
        """Write that what was freed after ``now`` was freed now."""
        self._connection.execute("UPDATE addresses SET freed_at = ? WHERE freed_at > ?", (now, now))

    def _configure(self) -> None:
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise LedgerUnavailableError(f"{self._path}: this file system allows no write-ahead log (mode {mode})")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _migrate(self) -> None:
        ours, version, tables = self._connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if ours != APPLICATION_ID and (version or tables):
            raise LedgerCorruptError(f"{self._path} is a database, but not a ledger of addresses; name another file")
        if version > len(MIGRATIONS):
            raise LedgerUnavailableError(
                f"{self._path} was written by a newer release (schema {version}, this one knows up to"
                f" {len(MIGRATIONS)}): run that release again; there is no way back for the file"
            )
        if version < len(MIGRATIONS):
            with self.transaction():
                for statement in (statement for step in MIGRATIONS[version:] for statement in step):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _check(self) -> None:
        (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        orphan = self._connection.execute("PRAGMA foreign_key_check").fetchone()
        if verdict != "ok" or orphan is not None:
            orphaned = "an address is held by an attachment that does not exist"
            raise self._damaged(orphaned if verdict == "ok" else verdict.splitlines()[-1])

    def _damaged(self, reason: object) -> LedgerCorruptError:
        return LedgerCorruptError(
            f"{self._path} is damaged: {reason}. A new ledger beside running pods would hand out their addresses "
            "twice: drain this server of its pods, keep a copy of the file, remove it together with its -wal file, and "
            "start again"
        )

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turn what SQLite and the operating system raise into this package's errors."""
        try:
            yield
        except OSError as error:
            raise LedgerUnavailableError(f"{self._path}: {error.strerror}") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise LedgerBusyError(
                    f"{self._path} is open in another process; only one agent runs on a server"
                ) from error
            if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                raise self._damaged(error) from error
            raise LedgerUnavailableError(f"{self._path}: {error}") from error


def _create(path: Path) -> None:
    """Make sure that the file exists and that nobody but its owner may read it.

    An existing file is not even opened: closing it would let go of the locks that this process may have on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        path.chmod(0o600)


def _record(row: Sequence[Any], addresses: tuple[IPAddress, ...]) -> Record:
    """Return the record of one row of ``attachments``."""
    sequence, container_id, ifname, namespace, name, uid, netns, slot, leaving, created_at, details = row
    return Record(
        holder=Holder(container_id, ifname),
        pod=Pod(namespace, name, uid),
        sequence=sequence,
        netns=netns,
        slot=slot,
        addresses=addresses,
        leaving=bool(leaving),
        created_at=created_at,
        details=json.loads(details),
    )
