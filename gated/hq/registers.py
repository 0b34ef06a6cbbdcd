"""HQ's register of enrolled people: bound to the person, not to a document (E9). Sealed at rest under HQ's data key.

Thin: enrolments, permits and control flags of the people in it, their last crossings, which of their documents are
expected, and the status of documents. Who holds the file without the data key learns how many people it has, when each
row changed, whose passport is waited for, and how many documents are expected.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from gated.hq.people import (
    DAYS_MAX,
    OFFICE,
    ORIGINS,
    EnrolledFinger,
    Expectation,
    Paper,
    PaperStatus,
    Person,
    RegisterFault,
    counted,
    ends_stay,
    has_counted,
    merged,
)
from gated.hq.registerfile import VERSION, Change, RegisterFile
from gated.lane.events import Permit
from gated.lane.rules import DIRECTIONS, Rules
from gated.wire.rows import CrossingRow
from gated.wire.seal import lookup_key

__all__ = [
    "VERSION",
    "Change",
    "Counted",
    "EnrolledFinger",
    "Lapsed",
    "Paper",
    "PaperStatus",
    "Permit",
    "Person",
    "Register",
    "RegisterFault",
]


class Counted(StrEnum):
    """What became of a crossing that the register was told of."""

    ADDED = "added"
    TWICE = "twice"
    """It was counted before."""
    ENDED = "ended"
    """It ended the stay (W6): the person is deleted."""
    NOBODY = "nobody"
    """The person was deleted before, or never was."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """How many enrolments of offices ended (E6)."""

    deleted: int
    flagged: int
    """Deleted but for their control flags."""
    unreadable: int
    """Not deleted: their rows are damaged."""


class Register(RegisterFile):
    """The register. One writer at a time. Raises `RegisterFault`, `sqlite3.Error`."""

    # -- people

    def enrol(self, person: Person, *, urgent: bool = False) -> Person:
        """Put a person in, and return them with their subject. Somebody whom the personal number or one of the
        documents finds is the same person: what is new is added, a new face replaces the old, and new fingers replace
        all old ones (E9). `urgent`: lanes are to know at once, not at the next interval."""
        if person.origin not in ORIGINS:
            raise RegisterFault(f"people are enrolled at {', '.join(ORIGINS)}, not at {person.origin}")
        with self.writing():
            known = self._known(person)
            if known is not None:
                person = merged(known, person)
                self._lose(known)
            else:
                person = replace(person, subject=self._last_subject() + 1)
            self._keep(person, urgent)
        return person

    def set_papers(self, subject: int, papers: tuple[Paper, ...], *, urgent: bool = False) -> Person:
        """Exactly these documents lead to the person from now on. Raises `RegisterFault`, also where one of them leads
        to somebody else."""
        with self.writing():
            known = self.person(subject)
            person = replace(known, papers=papers)
            for place in self._finders(person):
                if self._found(place) not in (None, subject):
                    raise RegisterFault("one of the documents leads to somebody else: a person must look")
            self._lose(known)
            self._keep(person, urgent)
        return person

    def received(self, subject: int, paper: Paper, on: date, within_days: int | None) -> Person:
        """The first passport after an office's enrolment was issued and received on that day: it is bound to it (E6).
        `within_days`: of the enrolment. Told twice it is the same. Raises `RegisterFault`."""
        with self.writing():
            known = self.person(subject)
            if known.origin != OFFICE or not known.has_biometrics:
                raise RegisterFault("was not enrolled at an office: no passport is waited for")
            if known.received_on is not None:
                if known.received_on == on and paper in known.papers:
                    return known
                raise RegisterFault("the first passport was received already; a later one is added by gated-hq enrol")
            if known.enrolled_on is None or on < known.enrolled_on:
                raise RegisterFault("was enrolled after that day: an enrolment is bound to a passport that follows it")
            if within_days is not None and on > known.enrolled_on + timedelta(days=within_days):
                raise RegisterFault(f"received more than {within_days} days after the enrolment, which has lapsed (E6)")
            bound = self.set_papers(subject, tuple(dict.fromkeys((*known.papers, paper))))
            bound = replace(bound, received_on=on)
            self._keep(bound, False)
        return bound

    def lapse(self, today: date, within_days: int) -> Lapsed:
        """Delete every office's enrolment for which no passport was received within so many days (E6)."""
        deleted = flagged = unreadable = 0
        for (subject,) in self.db.conn.execute("SELECT subject FROM awaited ORDER BY subject").fetchall():
            try:
                with self.writing():
                    person = self.find(subject)
                    if person is None or not person.awaits_passport or person.enrolled_on is None:
                        continue
                    if today > person.enrolled_on + timedelta(days=within_days):
                        whole = self.forget(subject)
                        deleted, flagged = deleted + whole, flagged + (not whole)
            except RegisterFault:
                unreadable += 1
        return Lapsed(deleted, flagged, unreadable)

    def forget(self, subject: int, *, urgent: bool = False) -> bool:
        """Delete somebody, whatever leads to them, and what was expected of them; lanes lose them too. Whether nothing
        is left: whom a control flag is on stays, without all that is enrolled, until the last flag is lifted, because
        no ban ends by somebody's crossing or by an enrolment that lapsed (W7). Raises `RegisterFault`."""
        connection = self.db.conn
        with self.writing():
            known = self.person(subject)
            self._deleted = True
            if known.flags:
                empty = replace(known, face=None, face_model="", fingers=(), permits=(), crossings=(), height_cm=None)
                self._keep(empty, urgent)
                return False
            self._lose(known)
            connection.executemany("DELETE FROM expected WHERE place = ?", ((p,) for p in self._finders(known)))
            connection.execute("DELETE FROM awaited WHERE subject = ?", (subject,))
            connection.execute("DELETE FROM persons WHERE subject = ?", (subject,))
            self._log(subject, urgent)
        return True

    # -- crossings

    def crossed(self, subject: int, direction: str, utc: datetime, paper: Paper, rules: Rules) -> Counted:
        """Count a crossing: the time is that of the lane's own record, by which the lane knows that it was counted. An
        entry is taken off permits (O1); an exit ends a stay (W6). The same crossing counts once, while it is among
        the last `CROSSINGS_MAX`; for older ones see `read_to`. Raises `RegisterFault`."""
        if direction not in DIRECTIONS:
            raise RegisterFault(f"people cross by {' or '.join(DIRECTIONS)}, not by {direction}")
        crossing = CrossingRow(direction, utc, paper.issuer, paper.number)
        with self.writing():
            known = self.find(subject)
            if known is None:
                return Counted.NOBODY
            if has_counted(known, crossing):
                return Counted.TWICE
            person = counted(known, crossing, rules)
            self._keep(person, False)
            if not ends_stay(person, crossing, rules):
                return Counted.ADDED
            self.forget(subject)
        return Counted.ENDED

    def read_to(self, lane: str, stream_id: str) -> int:
        """Up to which record of a lane's stream crossings were counted; 0: none was."""
        where = (lane, stream_id)
        row = self.db.conn.execute("SELECT seq FROM history WHERE lane = ? AND stream_id = ?", where).fetchone()
        return row[0] if row else 0

    def has_read(self, lane: str, stream_id: str, seq: int) -> None:
        """Up to here they were: to be said in the transaction (`writing`) in which they were counted."""
        self.db.conn.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?)", (lane, stream_id, seq))

    # -- flags

    def add_flags(self, subject: int, flags: Set[str], *, urgent: bool = False) -> frozenset[str]:
        """Control flags in addition to those there are (W7); all of them. Raises `RegisterFault`."""
        return self._flag(subject, frozenset(flags), frozenset(), urgent)

    def lift_flags(self, subject: int, flags: Set[str] | None = None, *, urgent: bool = False) -> frozenset[str]:
        """Take these control flags away (None: all); those that are left. Raises `RegisterFault`."""
        return self._flag(subject, frozenset(), flags, urgent)

    def _flag(self, subject: int, more: frozenset[str], less: Set[str] | None, urgent: bool) -> frozenset[str]:
        with self.writing():
            known = self.person(subject)
            person = replace(known, flags=_changed(known.flags, more, less))
            if person.flags != known.flags or urgent:
                self._keep(person, urgent)
            if not person.flags and person.is_remainder:
                self.forget(subject, urgent=urgent)
        return person.flags

    # -- rows of people

    def _keep(self, person: Person, urgent: bool) -> None:
        connection, subject = self.db.conn, person.subject
        blob = self._sealed(person, str(subject).encode())
        connection.execute("INSERT OR REPLACE INTO persons VALUES (?, ?, ?)", (subject, blob, _now()))
        for place in self._finders(person):
            connection.execute("INSERT OR REPLACE INTO finding VALUES (?, ?)", (place, subject))
        if person.awaits_passport:
            connection.execute("INSERT OR IGNORE INTO awaited VALUES (?)", (subject,))
        else:
            connection.execute("DELETE FROM awaited WHERE subject = ?", (subject,))
        self._log(subject, urgent)

    def _lose(self, person: Person) -> None:
        """Nothing that this row names leads to them any more."""
        places = ((place, person.subject) for place in self._finders(person))
        self.db.conn.executemany("DELETE FROM finding WHERE place = ? AND subject = ?", places)

    def by_personal_number(self, number: str) -> Person | None:
        """Whose personal number this is (E9)."""
        subject = self._found(lookup_key(self._places, "personal", number))
        return None if subject is None else self.person(subject)

    def _known(self, person: Person) -> Person | None:
        subjects = {subject for place in self._finders(person) if (subject := self._found(place)) is not None}
        if len(subjects) > 1:
            raise RegisterFault(f"document and personal number lead to {len(subjects)} people: a person must look")
        return self.person(subjects.pop()) if subjects else None

    def _found(self, place: bytes) -> int | None:
        row = self.db.conn.execute("SELECT subject FROM finding WHERE place = ?", (place,)).fetchone()
        return row[0] if row else None

    def _finders(self, person: Person) -> Iterator[bytes]:
        if person.personal_number is not None:
            yield lookup_key(self._places, "personal", person.personal_number)
        for paper in person.papers:
            yield self._document_place(paper)

    def _document_place(self, paper: Paper) -> bytes:
        return lookup_key(self._places, "document", paper.issuer, paper.number)

    def find(self, subject: int) -> Person | None:
        """None: there is none, or none any more. Raises `RegisterFault` for a damaged row."""
        row = self.db.conn.execute("SELECT sealed FROM persons WHERE subject = ?", (subject,)).fetchone()
        if row is None:
            return None
        opened = self._opened(row[0], str(subject).encode())
        assert isinstance(opened, Person)
        return opened

    def person(self, subject: int) -> Person:
        """Raises `RegisterFault` for a subject that there is not."""
        found = self.find(subject)
        if found is None:
            raise RegisterFault(f"the register has no subject {subject}")
        return found

    def people(self) -> Iterator[Person]:
        """Everybody, in the order of enrolment."""
        for (subject,) in self.db.conn.execute("SELECT subject FROM persons ORDER BY subject").fetchall():
            if (found := self.find(subject)) is not None:  # not deleted meanwhile
                yield found

    # -- documents that are expected

    def expect(self, named: Iterable[tuple[Paper, date]], today: date) -> tuple[int, int]:
        """Documents that advance passenger information names for a day (W9); days gone by are forgotten. (How many of
        these documents are somebody's, how many documents nothing is expected of any more)."""
        known = forgotten = 0
        with self.writing():
            for (place,) in self.db.conn.execute("SELECT place FROM expected ORDER BY place").fetchall():
                was = self._expectation(place)
                if was is not None and (days := tuple(day for day in was.days if day >= today)) != was.days:
                    self._keep_expectation(place, replace(was, days=days))
                    forgotten += not days
            for paper, day in named:
                place = self._document_place(paper)
                was = self._expectation(place) or Expectation(paper)
                known += self._found(place) is not None
                if day >= today and day not in was.days:
                    self._keep_expectation(place, replace(was, days=tuple(sorted((*was.days, day)))[:DAYS_MAX]))
        return known, forgotten

    def expected_on(self, paper: Paper) -> date | None:
        """The first day for which this document is expected."""
        found = self._expectation(self._document_place(paper))
        return found.days[0] if found is not None else None

    def _expectation(self, place: bytes) -> Expectation | None:
        row = self.db.conn.execute("SELECT sealed FROM expected WHERE place = ?", (place,)).fetchone()
        if row is None:
            return None
        opened = self._opened(row[0], place)
        assert isinstance(opened, Expectation)
        return opened

    def _keep_expectation(self, place: bytes, expectation: Expectation) -> None:
        if expectation.days:
            blob = self._sealed(expectation, place)
            self.db.conn.execute("INSERT OR REPLACE INTO expected VALUES (?, ?)", (place, blob))
        else:
            self.db.conn.execute("DELETE FROM expected WHERE place = ?", (place,))
        subject = self._found(place)
        if subject is not None:
            self._log(subject, False)

    # -- documents

    def set_status(self, status: PaperStatus, *, urgent: bool = False) -> None:
        """What is known of a document from now on; no flags: nothing."""
        with self.writing():
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
        with self.writing():
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


def _changed(known: frozenset[str], more: frozenset[str], less: Set[str] | None) -> frozenset[str]:
    return (known | more) - (known if less is None else less)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
