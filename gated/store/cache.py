"""cache-<generation>.db: whom HQ says the lane may know. Read-only here; built by `gated.store.cachewriter`.

One table without names: 16 bytes of keyed hash -> a sealed row. Who holds the file without the key learns how many rows
it has and how long they are. Four sorts of row share it:

* a person (`subject`): category, birth, templates, permits; the only large one;
* a document (issuer, number) -> its subject, and a personal number -> its subject: so a renewed passport finds the
  same enrolment (E9);
* control flags of a subject (W7), in a row of their own: a ban changes one small row;
* the status of a document (W8), which needs no enrolment.

A row that was altered or moved does not open. A row that was taken out by somebody who can write the file is not
missed here: that the file is the one HQ built is for HQ's signed manifest to show (`gated.sync`).
"""

import sqlite3
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from gated.store.sql import ReadOnly, StoreCorrupt, StoreError, in_words
from gated.wire.codec import WireError, decode, encode, kinds, personal
from gated.wire.seal import PAD_BYTES, SealError, SealKey, derived, lookup_key, padded, unpadded

APPLICATION_ID: Final = 0x67636163
"""The word "gcac"."""
VERSION: Final = 1
CODE: Final = {"limit": 64}


@dataclass(frozen=True, slots=True)
class PermitRow:
    """A permit (O1, O2, O3, O5, O9): valid while start <= day <= end and entries are left (None: any number)."""

    kind: str = field(metadata=CODE)
    start: date
    end: date
    entries_left: int | None = None


@dataclass(frozen=True, slots=True)
class FingerRow:
    """An enrolled finger: its position (`right_index`) and its template in `format` (`iso19794-2`)."""

    position: str = field(metadata=CODE)
    format: str = field(metadata=CODE)
    template: bytes = field(repr=False, metadata={"limit": 8192})


@dataclass(frozen=True, slots=True)
class PersonRow:
    """One enrolment, bound to the person and not to a document. No name: the lane needs none to decide."""

    subject: int
    category: str = field(metadata=CODE)
    """Category of traveller (W1, W3)."""
    birth: date = field(repr=False)
    sex: str = field(repr=False, metadata={"limit": 1})
    """M, F or X."""
    face: bytes | None = personal(None, limit=8192)
    """Template, little-endian float32; None: the face could not be enrolled (L3)."""
    face_model: str = field(default="", metadata=CODE)
    """The network that made it: templates of two networks cannot be compared."""
    fingers: tuple[FingerRow, ...] = personal((), limit=10)
    permits: tuple[PermitRow, ...] = personal((), limit=64)
    usable_from: date | None = None
    """First day of use (E7); None: at once."""
    enrolled_on: date | None = None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """Whose document, or whose personal number, this is."""

    subject: int


@dataclass(frozen=True, slots=True)
class FlagsRow:
    """Control flags of a person, or the status of a document (`lost`, `stolen`, `invalid`)."""

    flags: frozenset[str] = personal(limit=64)


@dataclass(frozen=True, slots=True)
class CacheNote:
    """What a cache says of itself in clear."""

    generation: int
    epoch: str = field(metadata=CODE)
    """Which key its rows are sealed with."""
    built: datetime
    rows: int


KINDS: Final = kinds(PersonRow, DocumentRow, FlagsRow, PermitRow, FingerRow)
LINK_PAD_BYTES: Final = 64
"""Of a link only the subject's digits could be counted: it is padded less, for there are tens of millions."""
_PROOF: Final = b"gated cache key"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What an epoch's key (32 bytes) gives: the hash that rows are found by, and the key that they open with."""

    lookup: bytes = field(repr=False)
    rows: SealKey = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> "CacheKey":
        return cls(derived(key, "cache lookup"), SealKey(derived(key, "cache rows")))

    def place(self, *parts: str) -> bytes:
        """Where the row of `parts` stands."""
        return lookup_key(self.lookup, *parts)

    def sealed(self, place: bytes, row: Any, nonce: bytes) -> bytes:
        """A row as it is stored: it opens in its own place alone. Raises `WireError`."""
        block = LINK_PAD_BYTES if type(row) is DocumentRow else PAD_BYTES
        return self.rows.seal(padded(encode(row), block), place, nonce)

    def opened(self, place: bytes, blob: bytes) -> Any:
        """Raises `SealError` or `WireError`."""
        return decode(KINDS, unpadded(self.rows.open(blob, place)))

    def proof(self, nonce: bytes) -> bytes:
        """Opens under this key alone: a wrong key is found when the file is opened, not at the first passenger."""
        return self.rows.seal(_PROOF, _PROOF, nonce)

    def proves(self, blob: bytes) -> bool:
        try:
            return self.rows.open(blob, _PROOF) == _PROOF
        except SealError:
            return False


class Cache:
    """The lane's side of one generation. `key`: the epoch's, 32 bytes. One thread at a time. Raises `StoreError`.

    Every call reads the file as it stands: a change that its writer has committed meanwhile is seen."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = CacheKey.of(key)
        self._file = ReadOnly(path, self._known)
        self.note = self._note()

    def _known(self, connection: sqlite3.Connection) -> None:
        check_header(self.path, connection)
        proof = connection.execute("SELECT value FROM about WHERE name = 'proof'").fetchone()
        if proof is None:
            raise StoreError("unfinished", self.path, "its writer did not finish it: fetch or build it again")
        if not self._key.proves(proof[0]):
            raise StoreError("wrong_key", self.path, "it was sealed with another epoch's key: fetch the key it names")

    def _note(self) -> CacheNote:
        with self._file.connection() as connection:
            return read_note(self.path, connection)

    def by_document(self, issuer: str, number: str) -> PersonRow | None:
        """The person whose document this is; `issuer` and `number` as the machine readable zone has them."""
        return self._person(self._row(DocumentRow, "document", issuer, number))

    def by_person(self, personal_number: str) -> PersonRow | None:
        """The person with this personal number (E9)."""
        return self._person(self._row(DocumentRow, "personal", personal_number))

    def flags(self, subject: int) -> frozenset[str]:
        """Control flags of this person, as they stand now."""
        row = self._row(FlagsRow, "flags", str(subject))
        return frozenset() if row is None else row.flags

    def document_flags(self, issuer: str, number: str) -> frozenset[str]:
        """What is known of this document, enrolled or not (W8)."""
        row = self._row(FlagsRow, "status", issuer, number)
        return frozenset() if row is None else row.flags

    def _person(self, link: DocumentRow | None) -> PersonRow | None:
        if link is None:
            return None
        row = self._row(PersonRow, "subject", str(link.subject))
        if row is None:
            raise StoreCorrupt("corrupt", self.path, "a document leads to a person who is not there: build it again")
        assert isinstance(row, PersonRow)
        return row

    def _row(self, cls: type[Any], *parts: str) -> Any:
        place = self._key.place(*parts)
        with self._file.connection() as connection:
            found = connection.execute("SELECT value FROM rows WHERE key = ?", (place,)).fetchone()
        if found is None:
            return None
        try:
            row = self._key.opened(place, found[0])
        except (SealError, WireError) as error:
            raise StoreCorrupt(
                "corrupt", self.path, "a row does not open in its place: fetch or build it again"
            ) from error
        if type(row) is not cls:
            raise StoreCorrupt("corrupt", self.path, "a row is of another sort than its place: build it again")
        return row

    def check(self) -> None:
        """Read the whole file and open every row: minutes for millions. Raises `StoreCorrupt`."""
        with self._file.connection() as connection:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                raise StoreCorrupt("corrupt", self.path, "its integrity check fails: fetch or build it again")
            rows = 0
            for place, blob in connection.execute("SELECT key, value FROM rows"):
                rows += 1
                try:
                    self._key.opened(place, blob)
                except (SealError, WireError) as error:
                    raise StoreCorrupt("corrupt", self.path, "a row does not open in its place") from error
        if rows != self._note().rows:
            raise StoreCorrupt("corrupt", self.path, "it has not as many rows as it says")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def check_header(path: Path, connection: sqlite3.Connection) -> None:
    """Raises `StoreError` unless this is a whole cache of this edition."""
    with in_words(path):
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreError("not_ours", path, "this is no cache of a lane")
    if version != VERSION:
        raise StoreError("wrong_edition", path, f"edition {version}, this program knows {VERSION}: install both alike")
    if journal != "wal" and path.stat().st_size < pages * size:
        raise StoreCorrupt("truncated", path, "the file is shorter than it says: fetch or build it again")


def read_note(path: Path, connection: sqlite3.Connection) -> CacheNote:
    """The note of an open cache. Raises `StoreError`."""
    with in_words(path):
        row = connection.execute("SELECT value FROM about WHERE name = 'note'").fetchone()
    try:
        note = decode(kinds(CacheNote), row[0]) if row else None
    except WireError as error:
        raise StoreCorrupt("corrupt", path, "its note cannot be read: fetch or build it again") from error
    if note is None:
        raise StoreError("unfinished", path, "its writer did not finish it: fetch or build it again")
    assert isinstance(note, CacheNote)
    return note
