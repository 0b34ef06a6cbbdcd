"""The file of HQ's register: its key, its editions, its transactions, and the log of what changed.

Every change goes into the log in the same transaction, so nobody has to compare millions of people to see what is new.
The log holds of each person and document the newest change alone: whoever reads it from 0 sees everybody once. Who was
deleted stays in it as a number: lanes learn of it by that, and nobody ever gets the number again.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from gated.hq.people import KINDS, Expectation, PaperStatus, Person, RegisterFault
from gated.wire.codec import Json, WireError, encode, load, loads
from gated.wire.seal import NONCE_BYTES, SealError, SealKey, derived, padded, unpadded

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS persons (subject INTEGER PRIMARY KEY, sealed BLOB NOT NULL, changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS finding (place BLOB PRIMARY KEY, subject INTEGER NOT NULL REFERENCES persons) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    place BLOB PRIMARY KEY, sealed BLOB NOT NULL, changed TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS awaited (subject INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS expected (place BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    lane TEXT NOT NULL, stream_id TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (lane, stream_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (n INTEGER PRIMARY KEY, what NOT NULL UNIQUE, urgent INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS urgent_changes ON changes (urgent) WHERE urgent > 0;
"""
"""`changes.what`: a subject, or the place of a document; `urgent`: the number of its last urgent change, 0 for none.
`awaited`: whose passport is waited for. `expected`: at the places of `finding`. `history`: up to which record of each
lane crossings were counted."""
VERSION = 3
"""Of the rows (`PRAGMA user_version`). 0: people without fingers; 1: no log of changes; 2: no origin and no crossings,
of which rows are left out where they have none, so that they need not be written anew."""
_PROOF = b"gated register"
_BUSY_MS = 10_000
_CUT_MS = 500
"""So long cutting the log may wait for whoever reads: it is tried again with the next transaction."""


@dataclass(frozen=True, slots=True)
class Change:
    """The newest change of one person (`what` is the subject) or document (`what` is its place in the register)."""

    n: int
    what: int | bytes
    urgent: int
    """The number of its last urgent change; 0: none."""


class RegisterFile:
    """`data_key`: 32 bytes. One writer at a time. Raises `RegisterFault`, `sqlite3.Error`."""

    def __init__(self, path: Path, data_key: bytes) -> None:
        self._rows = SealKey(derived(data_key, "register rows"))
        self._places = derived(data_key, "register look-up")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # whoever is deleted is not in a free page either
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA_SQL}COMMIT;")
        self.db = Database(connection)
        self._deleted = False
        """Somebody was, and the database's log may still hold their row."""
        try:
            self._prove(path)
            self._upgrade(path)
        except BaseException:
            self.close()
            raise

    def _prove(self, path: Path) -> None:
        """A wrong key is found at once, not at the first person."""
        row = self.db.conn.execute("SELECT value FROM notes WHERE name = 'proof'").fetchone()
        if row is None:
            proof = self._rows.seal(_PROOF, _PROOF, os.urandom(NONCE_BYTES))
            self.db.conn.execute("INSERT INTO notes VALUES ('proof', ?)", (proof,))
            return
        try:
            self._rows.open(row[0], _PROOF)
        except SealError:
            raise RegisterFault(f"{path} was sealed with another data key") from None

    def _upgrade(self, path: Path) -> None:
        """Rows of an older edition become rows of this one: all of them or none."""
        found = self._edition()
        if found > VERSION:
            raise RegisterFault(f"{path}: edition {found}, this program knows {VERSION}: install the newer gated-hq")
        if found == VERSION:
            return
        with self.db.conn as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = self._edition()  # somebody else may have been quicker
            if found < 1:
                self._give_fingers()
            if found < 2:
                connection.execute("DELETE FROM changes")
                connection.execute("INSERT INTO changes SELECT subject, subject, 0 FROM persons")
                last = connection.execute("SELECT coalesce(max(n), 0) FROM changes").fetchone()[0]
                places = connection.execute("SELECT place FROM documents ORDER BY place").fetchall()
                rows = ((last + at, place, 0) for at, (place,) in enumerate(places, 1))
                connection.executemany("INSERT INTO changes VALUES (?, ?, ?)", rows)
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def _give_fingers(self) -> None:
        connection = self.db.conn
        for (subject,) in connection.execute("SELECT subject FROM persons").fetchall():
            blob = connection.execute("SELECT sealed FROM persons WHERE subject = ?", (subject,)).fetchone()[0]
            place = str(subject).encode()
            tree = self._tree(blob, place)
            tree["Person"]["fingers"] = []
            renewed = self._sealed(_of_tree(tree), place)
            connection.execute("UPDATE persons SET sealed = ? WHERE subject = ?", (renewed, subject))

    def _edition(self) -> int:
        return int(self.db.conn.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Idempotent."""
        self.db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing. The lock comes first: two writers wait for each other, and neither is refused half-way."""
        connection = self.db.conn
        if connection.in_transaction:
            yield
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        if self._deleted:
            self._cut_log()

    def _cut_log(self) -> None:
        """SQLite's log keeps a page as it was until the file has room for it again, while somebody has it open."""
        run = self.db.conn.execute
        run(f"PRAGMA busy_timeout = {_CUT_MS}")
        busy, *_ = run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        run(f"PRAGMA busy_timeout = {_BUSY_MS}")
        self._deleted = bool(busy)

    # -- the log

    def _log(self, what: int | bytes, urgent: bool) -> None:
        connection = self.db.conn
        n = self.newest() + 1
        before = connection.execute("SELECT urgent FROM changes WHERE what = ?", (what,)).fetchone()
        last_urgent = n if urgent else before[0] if before else 0
        connection.execute("INSERT OR REPLACE INTO changes VALUES (?, ?, ?)", (n, what, last_urgent))

    def newest(self, *, urgent: bool = False) -> int:
        """The number of the newest change, or of the newest urgent one; 0: there was none."""
        which = "max(urgent) FROM changes WHERE urgent > 0" if urgent else "max(n) FROM changes"
        return int(self.db.conn.execute(f"SELECT {which}").fetchone()[0] or 0)

    def changes(self, after: int, limit: int, *, urgent: bool = False) -> list[Change]:
        """The changes after number `after`, oldest first. `urgent`: those alone whose last urgent change is after it,
        in the order of these."""
        which = "urgent > ? AND urgent > 0 ORDER BY urgent" if urgent else "n > ? ORDER BY n"
        rows = self.db.conn.execute(f"SELECT n, what, urgent FROM changes WHERE {which} LIMIT ?", (after, limit))
        return [Change(*row) for row in rows]

    def _last_subject(self) -> int:
        """The highest number that anybody ever had; numbers stand before places, which are bytes."""
        return int(self.db.conn.execute("SELECT max(what) FROM changes WHERE what < x''").fetchone()[0] or 0)

    # -- rows

    def _sealed(self, row: Person | PaperStatus | Expectation, place: bytes) -> bytes:
        return self._rows.seal(padded(encode(row)), place, os.urandom(NONCE_BYTES))

    def _opened(self, blob: bytes, place: bytes) -> Any:
        return _of_tree(self._tree(blob, place))

    def _tree(self, blob: bytes, place: bytes) -> Json:
        try:
            return loads(unpadded(self._rows.open(blob, place)))
        except (SealError, WireError) as bad:
            raise RegisterFault(f"a row of the register cannot be read: {bad}") from None


def _of_tree(tree: Json) -> Any:
    try:
        return load(KINDS, tree)
    except WireError as bad:
        raise RegisterFault(f"a row of the register cannot be read: {bad}") from None
