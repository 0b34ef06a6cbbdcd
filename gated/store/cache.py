"""The cache as the lane reads it: whom HQ says it may know, opened with the key of this lane alone. Read-only.

Two files, one a partition (`gated.store.cachefile` has their form, `gated.wire.rows` what stands in them). A row that
was altered or moved does not open. A row that was taken out by somebody who can write the file is not missed here:
that the file is what HQ published is for the audit against HQ's table to show (`gated.sync`).
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from gated.store.cachefile import CacheNote, read_checked, read_note
from gated.store.cachetable import AGAIN, Progress, check_header, read_about
from gated.store.sql import ReadOnly, StoreCorrupt, StoreError, in_words
from gated.wire import rows
from gated.wire.codec import WireError
from gated.wire.rows import CONTROL, PEOPLE, SLOTS_MAX, DocumentRow, EpochKey, FlagsRow, PersonRow
from gated.wire.seal import SealError

_ROW: Final = "SELECT value FROM rows WHERE key = ?"


class Cache:
    """One generation of one partition. One thread at a time. Raises `StoreError`; `StoreCorrupt` for damage.

    `lane_private`: the lane's own key (X25519, 32 bytes raw), to which HQ wrapped the epoch's; `lane`: `site/lane`.
    Every call reads the file as it stands: a change that its writer has committed meanwhile is seen."""

    def __init__(self, path: Path, lane_private: bytes, lane: str) -> None:
        self.path = path
        self._private = lane_private
        self._lane = lane
        self._key: EpochKey
        self._inside: sqlite3.Connection | None = None
        self._file = ReadOnly(path, self._known)
        with self._file.connection():
            pass

    def _known(self, connection: sqlite3.Connection) -> None:
        check_header(self.path, connection)
        note = read_note(self.path, connection)
        read_checked(self.path, connection)
        proof = read_about(self.path, connection, "proof")
        try:
            key = rows.unwrapped(
                read_about(self.path, connection, "key"), self._private, note.partition, note.epoch, self._lane
            )
            self._key = EpochKey.of(key)
        except (SealError, ValueError):
            raise self._wrong_key("HQ wrapped it for another key than this lane's") from None
        if not self._key.proves(proof):
            raise self._wrong_key("the key in it is not the one that HQ sealed its rows with")

    def _wrong_key(self, what: str) -> StoreError:
        return StoreError("wrong_key", self.path, f"{what}: compare gated cache key with what HQ has for this lane")

    @property
    def note(self) -> CacheNote:
        """What it says of itself, as it stands now."""
        with self._connection() as connection:
            return read_note(self.path, connection)

    @property
    def as_of(self) -> datetime:
        """When HQ last said that this is all there is."""
        with self._connection() as connection:
            return read_checked(self.path, connection)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if self._inside is not None:
            yield self._inside
            return
        with self._file.connection() as connection:
            yield connection

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Whatever is read inside is read from one state of the file."""
        with self._file.connection() as connection:
            connection.execute("BEGIN")
            self._inside = connection
            try:
                yield
            finally:
                self._inside = None
                connection.execute("ROLLBACK")

    def row(self, cls: type[Any], *parts: str) -> Any:
        """The row of sort `cls` at the place of `parts` (`rows.of_subject` and its sisters); None: there is none."""
        place = self._key.place(*parts)
        if self._inside is not None:
            found = self._inside.execute(_ROW, (place,)).fetchone()
        else:
            with self._file.connection() as connection:
                found = connection.execute(_ROW, (place,)).fetchone()
        if found is None:
            return None
        row = self._opened(place, found[0])
        if type(row) is not cls:
            raise StoreCorrupt("corrupt", self.path, f"a row is of another sort than its place: {AGAIN}")
        return row

    def _opened(self, place: bytes, blob: bytes) -> Any:
        try:
            return self._key.opened(place, blob)
        except (SealError, WireError, TypeError) as error:  # TypeError: a damaged page may hold any type of value
            raise StoreCorrupt("corrupt", self.path, f"a row does not open in its place: {AGAIN}") from error

    def check(self, progress: Progress | None = None) -> None:
        """Read the whole file and open every row: minutes for millions. Raises `StoreCorrupt`."""
        count = 0
        with self.one_state(), self._connection() as connection:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                raise StoreCorrupt("corrupt", self.path, f"its integrity check fails: {AGAIN}")
            for count, (place, blob) in enumerate(connection.execute("SELECT key, value FROM rows"), 1):
                self._opened(place, blob)
                if progress is not None and count % 10_000 == 0:
                    progress(count)
            if count != self.note.rows:
                raise StoreCorrupt("corrupt", self.path, f"it has not as many rows as it says: {AGAIN}")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


class Enrolments:
    """What the lane asks of its two partitions. Raises `StoreError`. Closes them when it is closed."""

    def __init__(self, people: Cache, control: Cache) -> None:
        self.people, self.control = people, control
        for cache, partition in ((people, PEOPLE), (control, CONTROL)):
            if cache.note.partition != partition:
                raise StoreError("swapped_partition", cache.path, f"this is not the partition {partition}: {AGAIN}")

    def by_document(self, issuer: str, number: str) -> PersonRow | None:
        """The person whose document this is; `issuer` and `number` as the machine readable zone has them."""
        return self._person(rows.of_document(issuer, number))

    def by_person(self, personal_number: str) -> PersonRow | None:
        """The person with this personal number (E9)."""
        return self._person(rows.of_personal_number(personal_number))

    def expected_on(self, issuer: str, number: str) -> date | None:
        """The day for which advance passenger information names this document (W9)."""
        link = self.people.row(DocumentRow, *rows.of_document(issuer, number))
        return None if link is None else link.expected_on

    def flags(self, subject: int) -> frozenset[str]:
        """Control flags of this person, as they stand now."""
        return self._slots(lambda slot: rows.of_flags(subject, slot))

    def document_flags(self, issuer: str, number: str) -> frozenset[str]:
        """What is known of this document, enrolled or not (W8)."""
        return self._slots(lambda slot: rows.of_status(issuer, number, slot))

    def _person(self, place: tuple[str, ...]) -> PersonRow | None:
        with self.people.one_state():
            link = self.people.row(DocumentRow, *place)
            if link is None:
                return None
            row = self.people.row(PersonRow, *rows.of_subject(link.subject))
        if row is None:
            raise StoreCorrupt("corrupt", self.people.path, f"a document leads to a person who is not there: {AGAIN}")
        assert isinstance(row, PersonRow)
        return row

    def _slots(self, place: Callable[[int], tuple[str, ...]]) -> frozenset[str]:
        """Of one state: while a flag is lifted HQ moves the others up, and between two reads one could be missed."""
        found: frozenset[str] = frozenset()
        with self.control.one_state():
            for slot in range(SLOTS_MAX):
                row = self.control.row(FlagsRow, *place(slot))
                if row is None:
                    break
                found |= row.flags
        return found

    def close(self) -> None:
        """Idempotent."""
        with in_words(self.people.path):
            self.people.close()
            self.control.close()
