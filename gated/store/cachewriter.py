"""Builds and changes cache files: HQ's publisher and the demo build them, sync will change them.

A new file is built beside its place and takes its name when it is whole and on the disk, so a lane never sees half of
one. Rows wait in a file of their own and are put in order by SQLite's sorter, so memory does not grow with them.
"""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from gated.store.cache import (
    APPLICATION_ID,
    VERSION,
    CacheKey,
    CacheNote,
    DocumentRow,
    FlagsRow,
    PersonRow,
    check_header,
    read_note,
)
from gated.store.sql import BUSY_S, StoreError, WriterLock, in_words, sync_folder
from gated.wire.codec import encode
from gated.wire.seal import NONCE_BYTES

SORT_CACHE_KIB: Final = 32 * 1024


class CacheWriter:
    """Puts rows; nothing is to be seen before `finish`. `key`: the epoch's, 32 bytes. Raises `StoreError`.

    As a context manager it finishes when the block ends well and leaves everything as it was otherwise."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        generation: int,
        epoch: str,
        built: datetime,
        entropy: Callable[[int], bytes] = os.urandom,
        mode: int = 0o600,
    ) -> None:
        """Builds a new file. See `changing` for one that exists."""
        self._start(path, key, entropy, mode)
        self._note = CacheNote(generation, epoch, built, 0)
        self._target = path.with_name(path.name + ".part")
        self._spool: Path | None = path.with_name(path.name + ".spool")
        try:
            with in_words(path):
                for stale in (self._target, self._spool):
                    stale.unlink(missing_ok=True)
                    os.close(os.open(stale, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
                self._sql = _connected(self._target)
                for setting in (
                    "journal_mode=OFF",
                    "synchronous=OFF",
                    "page_size=16384",
                    f"cache_size=-{SORT_CACHE_KIB}",
                ):
                    self._sql.execute(f"PRAGMA {setting}")
                self._sql.execute("ATTACH ? AS spool", (str(self._spool),))
                self._sql.execute("PRAGMA spool.journal_mode=OFF")
                self._sql.execute("PRAGMA spool.synchronous=OFF")
                self._sql.execute("BEGIN")
                self._sql.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
                self._sql.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
                self._sql.execute("CREATE TABLE spool.rows (n INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)")
        except BaseException:
            self._lock.release()
            raise

    def _start(self, path: Path, key: bytes, entropy: Callable[[int], bytes], mode: int) -> None:
        self.path = path
        self._key = CacheKey.of(key)
        self._entropy = entropy
        self._open = True
        self._rows = 0
        self._lock = WriterLock(path, mode)

    @classmethod
    def changing(cls, path: Path, key: bytes, entropy: Callable[[int], bytes] = os.urandom) -> "CacheWriter":
        """Changes a file that lanes may be reading: they see all of it at `finish`, or nothing."""
        writer = cls.__new__(cls)
        writer._start(path, key, entropy, 0o600)
        writer._target, writer._spool = path, None
        try:
            with in_words(path):
                path.stat()
                writer._sql = _connected(path)
                check_header(path, writer._sql)
                proof = writer._sql.execute("SELECT value FROM about WHERE name = 'proof'").fetchone()
                writer._note = read_note(path, writer._sql)
                writer._rows = writer._note.rows
                if proof is None or not writer._key.proves(proof[0]):
                    raise StoreError("wrong_key", path, "it was sealed with another epoch's key")
                writer._sql.execute("PRAGMA synchronous=FULL")
                writer._sql.execute("BEGIN IMMEDIATE")
        except BaseException:
            writer._lock.release()
            raise
        return writer

    # -- rows ----------------------------------------------------------------------------------------------------

    def put_person(self, person: PersonRow) -> None:
        """An enrolment, new or changed."""
        self._put(person, "subject", str(person.subject))

    def put_document(self, issuer: str, number: str, subject: int) -> None:
        """This document is this person's."""
        self._put(DocumentRow(subject), "document", issuer, number)

    def put_personal_number(self, personal_number: str, subject: int) -> None:
        """This personal number is this person's (E9). Where two issuers may give the same one, put it for neither."""
        self._put(DocumentRow(subject), "personal", personal_number)

    def put_flags(self, subject: int, flags: frozenset[str]) -> None:
        """The control flags of a person (W7); the empty set takes the row away."""
        self._put(FlagsRow(flags) if flags else None, "flags", str(subject))

    def put_document_flags(self, issuer: str, number: str, flags: frozenset[str]) -> None:
        """What is known of a document (W8); the empty set takes the row away."""
        self._put(FlagsRow(flags) if flags else None, "status", issuer, number)

    def remove_person(self, subject: int) -> None:
        """Take an enrolment away. Its documents and numbers are to be taken away with it."""
        self._put(None, "subject", str(subject))

    def remove_document(self, issuer: str, number: str) -> None:
        """This document leads to nobody any more."""
        self._put(None, "document", issuer, number)

    def remove_personal_number(self, personal_number: str) -> None:
        """This personal number leads to nobody any more."""
        self._put(None, "personal", personal_number)

    def _put(self, row: Any, *parts: str) -> None:
        place = self._key.place(*parts)
        blob = None if row is None else self._key.sealed(place, row, self._entropy(NONCE_BYTES))
        with in_words(self.path):
            if self._spool is not None:
                self._sql.execute("INSERT INTO spool.rows (key, value) VALUES (?, ?)", (place, blob))
                return
            self._rows -= self._sql.execute("DELETE FROM rows WHERE key = ?", (place,)).rowcount
            if blob is not None:
                self._rows += self._sql.execute("INSERT INTO rows VALUES (?, ?)", (place, blob)).rowcount

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> CacheNote:
        """Make it whole, durable and seen."""
        with in_words(self.path):
            if self._spool is not None:
                # of two rows in one place the later one counts; in key order every page is written once
                self._sql.execute(
                    """INSERT INTO rows SELECT key, value FROM spool.rows
                       JOIN (SELECT max(n) AS n FROM spool.rows GROUP BY key) USING (n)
                       WHERE value IS NOT NULL ORDER BY key"""
                )
                self._rows = self._sql.execute("SELECT count(*) FROM rows").fetchone()[0]
            self._note = replace(self._note, rows=self._rows)
            self._about("note", encode(self._note))
            if self._spool is not None:
                self._about("proof", self._key.proof(self._entropy(NONCE_BYTES)))
                self._sql.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._sql.execute(f"PRAGMA user_version={VERSION}")
            self._sql.execute("COMMIT")
            self._sql.close()
            if self._spool is not None:
                _sync_file(self._target)
                self._target.rename(self.path)
                sync_folder(self.path)
        self._end()
        return self._note

    def _about(self, name: str, value: bytes) -> None:
        self._sql.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def abandon(self) -> None:
        """Leave everything as it was before. Idempotent; nothing to do after `finish`."""
        if self._open:
            self._sql.close()  # an open transaction is rolled back with its connection
            if self._spool is not None:
                self._target.unlink(missing_ok=True)
            self._end()

    def _end(self) -> None:
        if self._spool is not None:
            self._spool.unlink(missing_ok=True)
        self._open = False
        self._lock.release()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            self.abandon()
        elif self._open:
            try:
                self.finish()
            except BaseException:
                self.abandon()
                raise


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
