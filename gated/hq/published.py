"""The publisher's database: what has been sealed of each partition, and how far its chain has come. No plaintext.

Places are keyed hashes and rows are sealed, so who holds the file without the epoch's key learns how many rows there
are, which belong to one person, and when they changed. One writer a partition: `gated-hq publish`.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from gated.wire.bundle import chain_start

VERSION: Final = 1
SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS epochs (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, state TEXT NOT NULL, began TEXT NOT NULL, proof BLOB NOT NULL,
    serial INTEGER NOT NULL, chain BLOB NOT NULL, rows INTEGER NOT NULL, taken INTEGER NOT NULL,
    taken_urgent INTEGER NOT NULL, PRIMARY KEY (partition, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, serial INTEGER NOT NULL, sha256 BLOB NOT NULL,
    size INTEGER NOT NULL, chain BLOB NOT NULL, rows INTEGER NOT NULL, lifts INTEGER NOT NULL, built TEXT NOT NULL,
    PRIMARY KEY (partition, epoch, serial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prepared (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, serial INTEGER NOT NULL, sha256 BLOB NOT NULL,
    size INTEGER NOT NULL, rows INTEGER NOT NULL, built TEXT NOT NULL, PRIMARY KEY (partition, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    chain BLOB NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL, lifts INTEGER NOT NULL, built TEXT NOT NULL,
    PRIMARY KEY (partition, epoch, last)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, serial INTEGER NOT NULL, chain BLOB NOT NULL,
    rows INTEGER NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL, built TEXT NOT NULL,
    PRIMARY KEY (partition, epoch, serial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audits (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, serial INTEGER NOT NULL, sha256 BLOB NOT NULL,
    PRIMARY KEY (partition, epoch, serial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (
    partition TEXT NOT NULL, epoch INTEGER NOT NULL, what NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (partition, epoch, what)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lanes (lane TEXT PRIMARY KEY, public BLOB NOT NULL) WITHOUT ROWID;
"""
_EPOCH_TABLES = ("epochs", "segments", "prepared", "days", "snapshots", "audits", "waiting")
_ROWS_SQL = """
CREATE TABLE rows_{0} (place BLOB PRIMARY KEY, blob BLOB NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE owned_{0} (subject INTEGER NOT NULL, place BLOB NOT NULL, PRIMARY KEY (subject, place)) WITHOUT ROWID;
CREATE INDEX owners_{0} ON owned_{0} (place, subject);
CREATE TABLE touched_{0} (place BLOB PRIMARY KEY, serial INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE buckets_{0} (bucket INTEGER PRIMARY KEY, digest BLOB);
"""
"""Of one epoch: sealed rows; which links are whose; what changed since the last day; digests (NULL: stale)."""


class StateFault(Exception):
    """The publisher's database cannot be used. The text says why and what to do."""


class State(StrEnum):
    """What becomes of an epoch."""

    FILLING = "filling"
    """The register is being sealed; no lane knows of it yet."""
    FILLED = "filled"
    """Everything is sealed, and waits for its snapshot and signature. Nothing changes it."""
    OPEN = "open"
    CLOSED = "closed"
    """A newer one has taken its place."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """How far an epoch of a partition has come."""

    partition: str
    epoch: int
    state: State
    began: datetime
    proof: bytes
    serial: int
    chain: bytes
    rows: int
    taken: int
    """The register's change that it has come to."""
    taken_urgent: int


class PublisherState:
    """The database at `path`, made new with mode 0600. Raises `StateFault`, `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.db = connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 20000")
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -131072")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            self.close()
            raise StateFault(f"{path}: edition {found}, this program knows {VERSION}: install the newer gated-hq")
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA_SQL}PRAGMA user_version = {VERSION};COMMIT;")

    def close(self) -> None:
        """Idempotent."""
        self.db.close()

    @classmethod
    @contextmanager
    def reading(cls, path: Path) -> "Iterator[PublisherState]":
        """The same database as it is at this moment, on a connection of its own, whatever is written meanwhile."""
        made = cls.__new__(cls)
        made.path, made.db = path, sqlite3.connect(path, isolation_level=None)
        try:
            made.db.execute("PRAGMA query_only = 1")
            made.db.execute("BEGIN")
            yield made
        finally:
            made.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            self.db.rollback()
            raise

    @contextmanager
    def only_publisher(self, wait_s: float = 30.0) -> Iterator[None]:
        """One publisher at a time, over processes; the lock goes with its process. Raises `StateFault` where another
        one does not let go of it within that time."""
        lock = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise StateFault(f"{self.path}: another gated-hq publish is at work: try again") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    # -- epochs

    def epochs(self, partition: str) -> list[Epoch]:
        """The epochs of a partition, oldest first."""
        rows = self.db.execute("SELECT * FROM epochs WHERE partition = ? ORDER BY epoch", (partition,)).fetchall()
        return [Epoch(row[0], row[1], State(row[2]), datetime.fromisoformat(row[3]), *row[4:]) for row in rows]

    def begin(self, partition: str, epoch: int, proof: bytes, now: datetime) -> None:
        """A new epoch, to be filled."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO epochs VALUES (?, ?, 'filling', ?, ?, 0, ?, 0, 0, 0)",
                (partition, epoch, now.isoformat(), proof, chain_start(partition, epoch)),
            )
            for statement in _ROWS_SQL.format(f"{partition}_{epoch}").split(";")[:-1]:
                self.db.execute(statement)

    def erase(self, partition: str, epoch: int) -> None:
        """All that there is of an epoch."""
        with self.transaction():
            for table in _EPOCH_TABLES:
                self.db.execute(f"DELETE FROM {table} WHERE partition = ? AND epoch = ?", (partition, epoch))
            for table in ("rows", "owned", "touched", "buckets"):
                self.db.execute(f"DROP TABLE IF EXISTS {table}_{partition}_{epoch}")

    # -- lanes

    def lanes(self) -> dict[str, bytes]:
        """Lane (`site/lane`) -> its public key."""
        return dict(self.db.execute("SELECT lane, public FROM lanes ORDER BY lane").fetchall())

    def put_lane(self, lane: str, public: bytes) -> None:
        """A lane, or another key for it."""
        self.db.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?)", (lane, public))

    def drop_lane(self, lane: str) -> bool:
        """Whether there was one."""
        return self.db.execute("DELETE FROM lanes WHERE lane = ?", (lane,)).rowcount > 0
