"""HQ's register of enrolled people: bound to the person, not to a document (E9). Sealed at rest under HQ's data key.

Thin: enrolments, permits and control flags of the people in it, and the status of documents. Who holds the file
without the data key learns how many people it has and when each row changed.

Every change goes into a log in the same transaction, so nobody has to compare millions of people to see what is new.
The log holds of each person and document the newest change alone: whoever reads it from 0 sees everybody once.
"""

import os
import sqlite3
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from gated.wire.codec import Json, WireError, encode, kinds, load, loads, personal
from gated.wire.seal import NONCE_BYTES, SealError, SealKey, derived, lookup_key, padded, unpadded

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS persons (subject INTEGER PRIMARY KEY, sealed BLOB NOT NULL, changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS finding (place BLOB PRIMARY KEY, subject INTEGER NOT NULL REFERENCES persons) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    place BLOB PRIMARY KEY, sealed BLOB NOT NULL, changed TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (n INTEGER PRIMARY KEY, what NOT NULL UNIQUE, urgent INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS urgent_changes ON changes (urgent) WHERE urgent > 0;
"""
"""`changes.what`: a subject, or the place of a document; `urgent`: the number of its last urgent change, 0 for none."""
VERSION = 2
"""Of the rows (`PRAGMA user_version`). 0: people without fingers; 1: no log of changes."""
_PROOF = b"gated register"


class RegisterFault(Exception):
    """The register cannot do this. The text says why, without anybody's data."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A permit (O1, O2, O3, O5, O9). `entries_left` None: any number."""

    kind: str
    start: date
    end: date
    entries_left: int | None = None


@dataclass(frozen=True, slots=True)
class Paper:
    """A travel document of a person."""

    issuer: str = personal(limit=8)
    number: str = personal(limit=64)


@dataclass(frozen=True, slots=True)
class EnrolledFinger:
    """A finger as it was taken; its picture is not kept. `position`: `right_index`. `format`: `iso19794-2`, or the name
    of a sensor's own (`zfm`). `quality`: 0 to 100; None: not told, as of a sensor's own template."""

    position: str
    format: str
    template: bytes = personal(limit=8192)
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolment. `face`: template, little-endian float32, made by the network `face_model`."""

    subject: int
    category: str
    birth: date = personal()
    sex: str = personal(limit=1)
    surname: str = personal("", limit=64)
    given_names: str = personal("", limit=64)
    personal_number: str | None = personal(None, limit=64)
    papers: tuple[Paper, ...] = personal((), limit=64)
    permits: tuple[Permit, ...] = personal((), limit=64)
    flags: frozenset[str] = personal(frozenset(), limit=64)
    face: bytes | None = personal(None, limit=8192)
    face_model: str = ""
    fingers: tuple[EnrolledFinger, ...] = personal((), limit=10)
    """In the order of E4."""
    usable_from: date | None = None
    enrolled_on: date | None = None


@dataclass(frozen=True, slots=True)
class PaperStatus:
    """What is known of a document (W8): `lost`, `stolen`, `invalid`."""

    paper: Paper = personal()
    flags: frozenset[str] = field(default=frozenset(), repr=False, metadata={"personal": True})


KINDS = kinds(Person, PaperStatus)


@dataclass(frozen=True, slots=True)
class Change:
    """The newest change of one person (`what` is the subject) or document (`what` is its place in the register)."""

    n: int
    what: int | bytes
    urgent: int
    """The number of its last urgent change; 0: none."""


class Register:
    """The register. `data_key`: 32 bytes. One writer at a time. Raises `RegisterFault`, `sqlite3.Error`."""

    def __init__(self, path: Path, data_key: bytes) -> None:
        self._rows = SealKey(derived(data_key, "register rows"))
        self._places = derived(data_key, "register look-up")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA_SQL}COMMIT;")
        self.db = Database(connection)
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
    def _writing(self) -> Iterator[None]:
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

    # -- people

    def enrol(self, person: Person, *, urgent: bool = False) -> Person:
        """Put a person in, and return them with their subject. Somebody whom the personal number or one of the
        documents finds is the same person: what is new is added, a new face replaces the old, and new fingers replace
        all old ones (E9). `urgent`: lanes are to know at once, not at the next interval."""
        with self._writing():
            known = self._known(person)
            if known is not None:
                person = _merged(known, person)
            else:
                last = self.db.conn.execute("SELECT max(subject) FROM persons").fetchone()[0]
                person = replace(person, subject=(last or 0) + 1)
            self._keep(person, urgent)
        return person

    def set_papers(self, subject: int, papers: tuple[Paper, ...], *, urgent: bool = False) -> Person:
        """Exactly these documents lead to the person from now on. Raises `RegisterFault`, also where one of them leads
        to somebody else."""
        with self._writing():
            known = self.person(subject)
            person = replace(known, papers=papers)
            for place in self._finders(person):
                row = self.db.conn.execute("SELECT subject FROM finding WHERE place = ?", (place,)).fetchone()
                if row is not None and row[0] != subject:
                    raise RegisterFault("one of the documents leads to somebody else: a person must look")
            self.db.conn.executemany("DELETE FROM finding WHERE place = ?", ((p,) for p in self._finders(known)))
            self._keep(person, urgent)
        return person

    def add_flags(self, subject: int, flags: Set[str], *, urgent: bool = False) -> frozenset[str]:
        """Control flags in addition to those there are (W7); all of them. Raises `RegisterFault`."""
        return self._flag(subject, frozenset(flags), frozenset(), urgent)

    def lift_flags(self, subject: int, flags: Set[str] | None = None, *, urgent: bool = False) -> frozenset[str]:
        """Take these control flags away (None: all); those that are left. Raises `RegisterFault`."""
        return self._flag(subject, frozenset(), flags, urgent)

    def _flag(self, subject: int, more: frozenset[str], less: Set[str] | None, urgent: bool) -> frozenset[str]:
        with self._writing():
            known = self.person(subject)
            person = replace(known, flags=_changed(known.flags, more, less))
            if person.flags != known.flags or urgent:
                self._keep(person, urgent)
        return person.flags

    def _keep(self, person: Person, urgent: bool) -> None:
        blob = self._sealed(person, str(person.subject).encode())
        self.db.conn.execute("INSERT OR REPLACE INTO persons VALUES (?, ?, ?)", (person.subject, blob, _now()))
        for place in self._finders(person):
            self.db.conn.execute("INSERT OR REPLACE INTO finding VALUES (?, ?)", (place, person.subject))
        self._log(person.subject, urgent)

    def _known(self, person: Person) -> Person | None:
        subjects = set()
        for place in self._finders(person):
            row = self.db.conn.execute("SELECT subject FROM finding WHERE place = ?", (place,)).fetchone()
            if row is not None:
                subjects.add(row[0])
        if len(subjects) > 1:
            raise RegisterFault(f"document and personal number lead to {len(subjects)} people: a person must look")
        return self.person(subjects.pop()) if subjects else None

    def _finders(self, person: Person) -> Iterator[bytes]:
        if person.personal_number is not None:
            yield lookup_key(self._places, "personal", person.personal_number)
        for paper in person.papers:
            yield lookup_key(self._places, "document", paper.issuer, paper.number)

    def person(self, subject: int) -> Person:
        """Raises `RegisterFault` for a subject that there is not."""
        row = self.db.conn.execute("SELECT sealed FROM persons WHERE subject = ?", (subject,)).fetchone()
        if row is None:
            raise RegisterFault(f"the register has no subject {subject}")
        opened = self._opened(row[0], str(subject).encode())
        assert isinstance(opened, Person)
        return opened

    def people(self) -> Iterator[Person]:
        """Everybody, in the order of enrolment."""
        for (subject,) in self.db.conn.execute("SELECT subject FROM persons ORDER BY subject").fetchall():
            yield self.person(subject)

    # -- documents

    def set_status(self, status: PaperStatus, *, urgent: bool = False) -> None:
        """What is known of a document from now on; no flags: nothing."""
        with self._writing():
            # A row without flags stays: whoever reads the log must still learn of which document nothing is known.
            place = self._status_place(status.paper)
            row = (place, self._sealed(status, place), _now())
            self.db.conn.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", row)
            self._log(place, urgent)

    def add_status(self, paper: Paper, flags: Set[str], *, urgent: bool = False) -> frozenset[str]:
        """More is known of a document than before (`lost`); all that is."""
        return self._restate(paper, frozenset(flags), frozenset(), urgent)

    def lift_status(self, paper: Paper, flags: Set[str] | None = None, *, urgent: bool = False) -> frozenset[str]:
        """This is not so any more (None: nothing is); what is left."""
        return self._restate(paper, frozenset(), flags, urgent)

    def _restate(self, paper: Paper, more: frozenset[str], less: Set[str] | None, urgent: bool) -> frozenset[str]:
        with self._writing():
            place = self._status_place(paper)
            row = self.db.conn.execute("SELECT 1 FROM documents WHERE place = ?", (place,)).fetchone()
            known = self.status(place).flags if row else frozenset[str]()
            flags = _changed(known, more, less)
            if flags != known or urgent:
                self.set_status(PaperStatus(paper, flags), urgent=urgent)
        return flags

    def _status_place(self, paper: Paper) -> bytes:
        return lookup_key(self._places, "status", paper.issuer, paper.number)

    def status(self, place: bytes) -> PaperStatus:
        """What is known of the document at a place of the log. Raises `RegisterFault`."""
        row = self.db.conn.execute("SELECT sealed FROM documents WHERE place = ?", (place,)).fetchone()
        if row is None:
            raise RegisterFault("the register has no such document")
        opened = self._opened(row[0], place)
        assert isinstance(opened, PaperStatus)
        return opened

    def statuses(self) -> Iterator[PaperStatus]:
        """Every document of which something is known."""
        for (place,) in self.db.conn.execute("SELECT place FROM documents ORDER BY place").fetchall():
            found = self.status(place)
            if found.flags:
                yield found

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

    # -- rows

    def _sealed(self, row: Person | PaperStatus, place: bytes) -> bytes:
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


def _merged(known: Person, new: Person) -> Person:
    papers = tuple(dict.fromkeys((*known.papers, *new.papers)))
    return replace(
        new,
        subject=known.subject,
        papers=papers,
        personal_number=new.personal_number or known.personal_number,
        face=new.face or known.face,
        face_model=new.face_model if new.face else known.face_model,
        fingers=new.fingers or known.fingers,
        permits=new.permits or known.permits,
        flags=new.flags | known.flags,
        enrolled_on=known.enrolled_on,
    )


def _changed(known: frozenset[str], more: frozenset[str], less: Set[str] | None) -> frozenset[str]:
    return (known | more) - (known if less is None else less)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
