"""lane.db: what a lane must not forget. Written by the lane's process alone, read by its uplink.

SQLite in WAL mode with `synchronous=FULL`: what a transaction has committed survives a power cut. A database is one
*generation*; its streams carry that name, so a new database starts new streams and nothing that HQ then receives can
be mistaken for an earlier record (DESIGN 4, "Identity of a record").
"""

import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from gated.store.aside import CORRUPT, ROLLED_BACK, put_aside, salvaged_mark
from gated.store.chain import BASE_NOTE, UNLINKED_NOTE, Base
from gated.store.sql import BUSY_S, StoreCorrupt, StoreError, WriterLock, in_words, sync_folder
from gated.wire.codec import WireError
from gated.wire.facts import STREAMS, RecordsDropped
from gated.wire.record import Record, parted, stream_id

APPLICATION_ID: Final = 0x67617465
"""The word "gate": what `file` and SQLite call a database of ours."""
TICKETS_RESERVED: Final = 100
"""Ticket numbers that are set aside at a time, so that opening a ticket waits for no disk."""
CHECK_AT_OPEN_BYTES_MAX: Final = 128 << 20
"""Larger databases are checked in full by `check()` alone: a lane with somebody inside must start within seconds."""

steps: Final = Migrations("lane")


@steps(name="0001_generation")
def _generation(db: Database) -> None:
    for statement in (
        "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE tickets (ticket INTEGER PRIMARY KEY) STRICT",
        """CREATE TABLE streams (
            stream TEXT PRIMARY KEY, stream_id TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL, head BLOB NOT NULL,
            rows INTEGER NOT NULL, bytes INTEGER NOT NULL, dropped INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        """CREATE TABLE outbox (
            stream TEXT NOT NULL REFERENCES streams, seq INTEGER NOT NULL, payload BLOB NOT NULL,
            PRIMARY KEY (stream, seq)) STRICT""",
        """CREATE TABLE journal (
            id INTEGER PRIMARY KEY, boot TEXT NOT NULL, n INTEGER NOT NULL, mono REAL NOT NULL, utc TEXT NOT NULL,
            clear BLOB NOT NULL, sealed BLOB, chain BLOB NOT NULL) STRICT""",
        "CREATE UNIQUE INDEX journal_boot ON journal (boot, n)",
        "CREATE TABLE crossings (person BLOB NOT NULL, direction TEXT NOT NULL, utc TEXT NOT NULL) STRICT",
        "CREATE INDEX crossings_person ON crossings (person, utc)",
    ):
        db.execute(statement)


@steps(name="0002_chapters")
def _chapters(db: Database) -> None:
    """Streams in chapters (`stream` is `crossing`, `crossing.2` ...), attachments, the journal's open chain."""
    for statement in (
        "ALTER TABLE streams ADD COLUMN class TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE streams ADD COLUMN chapter INTEGER NOT NULL DEFAULT 1",
        "UPDATE streams SET class = stream",
        "CREATE INDEX streams_class ON streams (class, chapter)",
        "ALTER TABLE journal ADD COLUMN link BLOB",
    ):
        db.execute(statement)
    row = db.execute("SELECT value FROM notes WHERE name = 'generation'").fetchone()
    if row is None:
        return  # a new database, whose streams are made when it has a name
    first, last = db.execute("SELECT min(id), max(id) FROM journal").fetchone()
    for name, value in ((BASE_NOTE, Base((first or 1) - 1).text()), (UNLINKED_NOTE, str(last or 0))):
        db.execute("INSERT INTO notes VALUES (?, ?)", (name, value))
    for each in STREAMS:
        add_stream(db, row[0], each, 1)


VERSION: Final = 2
"""How many steps there are: SQLite's `user_version`."""


class LaneDb:
    """The writer's connection. `path.parent` must exist. Raises `StoreError`; `StoreCorrupt` for a damaged file.

    One thread at a time. `mode`: 0o600, or 0o640 where the uplink is another user of the lane's group.
    `generation`: makes the name of a new generation; random unless a simulation wants the same one again."""

    def __init__(
        self,
        path: Path,
        *,
        mode: int = 0o600,
        generation: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.path = path
        self.set_aside: Path | None = None
        """Where `opened` put a predecessor that could not go on."""
        self.new = False
        """This generation begins with this connection."""
        self._committed: list[Callable[[], None]] = []
        self._lock = WriterLock(path, mode)
        try:
            with in_words(path):
                self.sql = _connect(path, mode)
                status = os.stat(path)
                self._file = (status.st_dev, status.st_ino)
                try:
                    self._prepare(generation)
                except BaseException:
                    self.sql.close()
                    raise
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def opened(cls, path: Path, utc: datetime, acked: Mapping[str, int] | None = None, **how: Any) -> "LaneDb":
        """As `LaneDb(path)`, but a file that cannot go on is put aside and a new generation begun: a damaged one as
        `<path>.corrupt-<utc>`, one that went back to an older copy of itself as `<path>.rolled-back-<utc>`.

        `acked`: what HQ has acknowledged (`AckedHeadsReader.heads`). Ticket numbers go on from the old file's where
        that can still be read. Raises `StoreError`."""
        why = CORRUPT
        try:
            db = cls(path, **how)
            if not db.is_behind(acked or {}):
                return db
            db.close()
            why = ROLLED_BACK
        except StoreCorrupt:
            pass  # put aside below
        lock = WriterLock(path, 0o600)
        try:
            mark = salvaged_mark(path)
            aside = put_aside(path, utc, why)
        finally:
            lock.release()
        db = cls(path, **how)
        db.set_aside = aside
        if mark > db.next_ticket:
            db.next_ticket = mark
            with db.transaction():
                db._reserve(mark)
        return db

    def _prepare(self, generation: Callable[[], str]) -> None:
        found = self._pragma("application_id"), self._pragma("user_version")
        blank = found == (0, 0) and not self.sql.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        if not blank and found[0] != APPLICATION_ID:
            raise StoreError(
                "not_ours", self.path, "this is a database of another program: set [store] dir to another folder"
            )
        if found[1] > VERSION:
            raise StoreError(
                "too_new", self.path, f"edition {found[1]}, this program knows {VERSION}: install the newer one"
            )
        self._pragma("journal_mode=WAL")
        for setting in (
            "synchronous=FULL",
            "foreign_keys=1",
            "trusted_schema=0",
            "cell_size_check=1",
            f"busy_timeout={int(BUSY_S * 1000)}",
            f"journal_size_limit={64 << 20}",
        ):
            self._pragma(setting)
        if not blank and self.path.stat().st_size <= CHECK_AT_OPEN_BYTES_MAX:
            self.check(thorough=False)
        if found[1] < VERSION:
            with self.sql.atomic():
                steps.apply(self.sql)
                self._pragma(f"application_id={APPLICATION_ID}")
                self._pragma(f"user_version={VERSION}")
                if blank:
                    self._begin(generation())
            sync_folder(self.path)
        self._check_heads()
        self.new = blank
        self.generation = self.note("generation") or ""
        if not self.generation:
            raise StoreCorrupt("corrupt", self.path, "it does not name its generation")
        self.next_ticket = self._mark()
        """The first ticket number that was never used."""
        with self.sql.atomic():
            self._reserve(self.next_ticket)

    def _begin(self, generation: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]{4,32}", generation):
            raise ValueError("a generation is 4 to 32 letters and digits")
        self.set_note("generation", generation)
        for each in STREAMS:
            add_stream(self.sql, generation, each, 1)

    def _pragma(self, text: str) -> Any:
        row = self.sql.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    def _check_heads(self) -> None:
        """Whether each stream's last record is the one that the next will refer to."""
        heads = self.sql.execute(
            """SELECT class, streams.seq, head, rows, outbox.seq, payload FROM streams LEFT JOIN outbox ON
               outbox.rowid =
               (SELECT rowid FROM outbox AS o WHERE o.stream = streams.stream ORDER BY seq DESC LIMIT 1)"""
        ).fetchall()
        if {each[0] for each in heads} != set(STREAMS):
            raise StoreCorrupt("corrupt", self.path, "a stream is missing")
        for _, seq, head, rows, last, payload in heads:
            try:
                fits = rows == 0 and last is None if payload is None else (last, head_of(payload)) == (seq, head)
            except (WireError, TypeError) as error:
                raise StoreCorrupt("corrupt", self.path, "a stream's last record cannot be read") from error
            if not fits:
                raise StoreCorrupt("corrupt", self.path, "a stream's last record is not the one that it should be")

    def is_behind(self, acked: Mapping[str, int]) -> bool:
        """Whether HQ has acknowledged what is not here yet, of this generation: somebody put an older copy back.

        Going on would give the same numbers to other records, which HQ would refuse one by one."""
        with in_words(self.path):
            here = dict(self.sql.execute("SELECT stream_id, seq FROM streams").fetchall())
            newest = dict(self.sql.execute("SELECT class, max(chapter) FROM streams GROUP BY class").fetchall())
        for each, seq in acked.items():
            generation, of, chapter = parted(each)
            if generation == self.generation and (seq > here.get(each, seq) or chapter > newest.get(of, chapter)):
                return True
        return False

    def check(self, *, thorough: bool = True) -> None:
        """Read every page. `thorough` compares indexes with tables too. Raises `StoreCorrupt`."""
        with in_words(self.path):
            if self._pragma("integrity_check(1)" if thorough else "quick_check(1)") != "ok":
                raise StoreCorrupt("corrupt", self.path, "its integrity check fails")

    # -- transactions ------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and durable when the block is left. Raises `StoreError`: then nothing was kept."""
        done = False
        try:
            with in_words(self.path), self.sql.atomic():
                self._check_place()
                yield
            done = not self.in_transaction
        finally:
            callbacks = self._committed
            if not self.in_transaction:
                self._committed = []
        if done:
            for callback in callbacks:
                callback()

    def _check_place(self) -> None:
        """A file that somebody moved or replaced takes every record into nowhere."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            file = None
        else:
            file = (status.st_dev, status.st_ino)
        if file != self._file:
            raise StoreError(
                "replaced", self.path, "another file has taken its name: look who did it, then start the lane again"
            )

    @property
    def in_transaction(self) -> bool:
        return self.sql.conn.in_transaction

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the running transaction is durable; never, if it is rolled back."""
        assert self.in_transaction, "on_commit belongs inside a transaction"
        self._committed.append(callback)

    # -- notes and tickets ---------------------------------------------------------------------------------------

    def note(self, name: str) -> str | None:
        """A small thing to remember over restarts (`reset_needed`); None if it never was. No personal data."""
        with in_words(self.path):
            row = self.sql.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Inside a transaction."""
        assert self.in_transaction, "notes are written inside a transaction"
        self.sql.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def unsettled(self) -> tuple[int, ...]:
        """Tickets with a durable verdict and no durable end, in order."""
        with in_words(self.path):
            return tuple(row[0] for row in self.sql.execute("SELECT ticket FROM tickets ORDER BY ticket"))

    def ticket_recorded(self, ticket: int) -> None:
        """A fact of this ticket is being written: it is open from now on, and no later start uses its number again."""
        self.sql.execute("INSERT OR IGNORE INTO tickets VALUES (?)", (ticket,))
        self._pass_mark(ticket)

    def ticket_settled(self, ticket: int) -> None:
        """The last fact of this ticket is being written."""
        self.sql.execute("DELETE FROM tickets WHERE ticket = ?", (ticket,))
        self._pass_mark(ticket)

    def _pass_mark(self, ticket: int) -> None:
        # One ticket is open at a time and each is settled by a fact: half a block is ample between two facts.
        if ticket + TICKETS_RESERVED // 2 >= self._mark():
            self._reserve(ticket + 1)

    def _mark(self) -> int:
        mark = self.note("ticket_mark") or "1"
        if not mark.isascii() or not mark.isdigit() or len(mark) > 18:
            raise StoreCorrupt("corrupt", self.path, "its ticket mark is no number")
        return int(mark)

    def _reserve(self, first: int) -> None:
        self.set_note("ticket_mark", str(first + TICKETS_RESERVED))

    def close(self) -> None:
        """Idempotent. The WAL is folded into the file; the next writer may come."""
        if self._lock is not None:
            try:
                self.sql.close()
            finally:
                self._lock.release()
                self._lock = None  # type: ignore[assignment]


def _connect(path: Path, mode: int) -> Database:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        pass  # the usual case: it is opened below
    else:
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        for tail in ("-wal", "-shm"):  # left by a database that somebody deleted: not ours to replay
            path.with_name(path.name + tail).unlink(missing_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        return Database(connection, execute_plugins=False)
    except BaseException:
        connection.close()
        raise


def check_edition(path: Path, connection: sqlite3.Connection) -> None:
    """For who reads beside the lane. Raises `StoreError`."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError("not_ours", path, "this is no database of a lane (yet)")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise StoreError("wrong_edition", path, f"edition {version}, the uplink knows {VERSION}: install both alike")


def add_stream(db: Database, generation: str, each: str, chapter: int) -> str:
    """A chapter of a class, with nothing in it; where it is there already it stays. Its key."""
    key = each if chapter == 1 else f"{each}.{chapter}"
    db.execute(
        "INSERT OR IGNORE INTO streams VALUES (?, ?, 0, x'', 0, 0, 0, ?, ?)",
        (key, stream_id(generation, each, chapter), each, chapter),
    )
    return key


def head_of(payload: bytes) -> bytes:
    """The hash that the record after this one refers to. Raises `WireError`."""
    record = Record.decode(payload)
    if record.kind == RecordsDropped.__name__:
        dropped: RecordsDropped = record.fact(None)
        return dropped.head
    return record.hash()
