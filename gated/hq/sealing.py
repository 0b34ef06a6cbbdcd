"""What lanes get of the register: a person or document -> sealed rows at their places. No names.

Places and seals come from the epoch's key (`gated.wire.rows`). A row that is as it was is not sealed again: its digest,
keyed as well, tells so without opening it.
"""

import hmac
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gated.hq.partition import Partition
from gated.hq.registers import PaperStatus, Person, Register, RegisterFault
from gated.wire.codec import WireError, encode
from gated.wire.rows import (
    SLOTS_MAX,
    DocumentRow,
    EpochKey,
    FingerRow,
    FlagsRow,
    PermitRow,
    PersonRow,
    Row,
    of_document,
    of_flags,
    of_personal_number,
    of_status,
    of_subject,
)
from gated.wire.seal import NONCE_BYTES, derived
from gated.wire.segment import ROW_BYTES_MAX

LIFT = "lift"
"""Waits for the second key: something is to be lifted."""
SLOTS_FULL = "slots_full"
"""Waits for the second key too: so much was added that the rows have to be written anew."""
TOO_LONG = "too_long"
UNREADABLE = "unreadable"
FOR_LIFT_KEY = (LIFT, SLOTS_FULL)


class NotSealed(Exception):
    """A row is longer than any lane takes."""


@dataclass(frozen=True, slots=True)
class Sealer:
    """What one epoch's key gives to the publisher."""

    rows: EpochKey
    digests: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> "Sealer":
        """`key`: 32 bytes."""
        return cls(EpochKey.of(key), derived(key, "publisher digest"))

    def digest(self, place: bytes, row: Row) -> bytes:
        """The same for the same row at the same place; it says nothing to who has not the key."""
        return hmac.digest(self.digests, place + encode(row), "sha256")[:16]


class Draft:
    """Rows of one partition that are to be put or taken away together: in one segment."""

    def __init__(self, partition: Partition, sealer: Sealer) -> None:
        self.partition, self.sealer = partition, sealer
        self.changes: dict[bytes, bytes | None] = {}
        self.digests: dict[bytes, bytes] = {}

    def put(self, place: bytes, row: Row) -> None:
        """This row is to stand there. Raises `NotSealed`."""
        try:
            digest = self.sealer.digest(place, row)
            if self.partition.digest(place) == digest:
                self.changes.pop(place, None)
                return
            blob = self.sealer.rows.sealed(place, row, os.urandom(NONCE_BYTES))
        except WireError as bad:
            raise NotSealed(str(bad)) from None
        if len(blob) > ROW_BYTES_MAX:
            raise NotSealed(f"a row of {len(blob)} bytes; lanes take {ROW_BYTES_MAX}")
        self.changes[place], self.digests[place] = blob, digest

    def take(self, place: bytes) -> None:
        """No row is to stand there."""
        if self.partition.digest(place) is None:
            self.changes.pop(place, None)
        else:
            self.changes[place] = None

    @property
    def ordered(self) -> list[tuple[bytes, bytes | None]]:
        """The changes in order of place."""
        return sorted(self.changes.items())

    def put_in(self) -> None:
        """Into the partition's rows."""
        self.partition.put(self.changes, self.digests)


# -- people --------------------------------------------------------------------------------------------------------


def person_row(person: Person) -> PersonRow:
    """What a lane gets of a person."""
    return PersonRow(
        subject=person.subject,
        category=person.category,
        birth=person.birth,
        sex=person.sex,
        face=person.face,
        face_model=person.face_model,
        fingers=tuple(FingerRow(f.position, f.format, f.template) for f in person.fingers),
        permits=tuple(PermitRow(p.kind, p.start, p.end, p.entries_left) for p in person.permits),
        usable_from=person.usable_from,
        enrolled_on=person.enrolled_on,
        origin=person.origin,
        received_on=person.received_on,
        height_cm=person.height_cm,
        crossings=person.crossings,
    )


def links(person: Person) -> list[tuple[str, ...]]:
    """What leads to a person."""
    found = [of_document(paper.issuer, paper.number) for paper in person.papers]
    if person.personal_number is not None:
        found.append(of_personal_number(person.personal_number))
    return found


def _link_rows(draft: Draft, register: Register, subject: int) -> dict[bytes, DocumentRow]:
    """What is to lead to a person, at its places. Somebody who was deleted: nothing. Raises `RegisterFault`."""
    person, place_of = register.find(subject), draft.sealer.rows.place
    if person is None:
        return {}
    found = {place_of(*parts): DocumentRow(subject) for parts in links(person)}
    for paper in person.papers:
        if (day := register.expected_on(paper)) is not None:
            found[place_of(*of_document(paper.issuer, paper.number))] = DocumentRow(subject, day)
    return found


def seal_people(draft: Draft, register: Register, whats: Iterable[int | bytes]) -> None:
    """The rows of these people as the register has them (documents, being nobody, are passed over); nothing is left of
    who was deleted. What leads to two people leads to nobody. Who cannot be sealed keeps the rows they have, and
    waits."""
    partition = draft.partition
    rows: dict[int, dict[bytes, DocumentRow]] = {}
    touched: set[bytes] = set()
    for subject in whats:
        if not isinstance(subject, int):
            continue
        at = draft.sealer.rows.place(*of_subject(subject))
        try:
            person = register.find(subject)
            wanted = _link_rows(draft, register, subject)
            if person is None:
                draft.take(at)
            else:
                draft.put(at, person_row(person))
        except (RegisterFault, NotSealed) as bad:
            partition.wait(subject, UNREADABLE if isinstance(bad, RegisterFault) else TOO_LONG)
            continue
        known = partition.links_of(subject)
        if wanted.keys() != known:
            partition.own(subject, wanted.keys() - known, known - wanted.keys())
        rows[subject] = wanted
        touched |= wanted.keys() | known
    for place in touched:
        _put_link(draft, register, place, rows)


def _put_link(draft: Draft, register: Register, place: bytes, rows: dict[int, dict[bytes, DocumentRow]]) -> None:
    """`rows`: of the people that were looked at already."""
    owners = draft.partition.owners_of(place)
    if len(owners) != 1:
        draft.take(place)
        return
    [owner] = owners
    try:
        found = rows.get(owner) or _link_rows(draft, register, owner)
    except RegisterFault:  # of somebody else's row, which waits for itself
        found = {}
    draft.put(place, found.get(place, DocumentRow(owner)))


# -- control -------------------------------------------------------------------------------------------------------

Slots = Callable[[int], tuple[str, ...]]
"""Where slot n of somebody or something stands, in parts."""


def _wanted(register: Register, what: int | bytes) -> tuple[Slots, frozenset[str]]:
    if isinstance(what, int):
        person = register.find(what)
        flags = person.flags if person is not None else frozenset[str]()
        return lambda slot: of_flags(what, slot), flags
    status: PaperStatus = register.status(what)
    paper = status.paper
    return lambda slot: of_status(paper.issuer, paper.number, slot), status.flags


def _standing(draft: Draft, slots: Slots) -> list[frozenset[str]]:
    """The flags in each slot, as they were sealed."""
    found: list[frozenset[str]] = []
    for slot in range(SLOTS_MAX):
        place = draft.sealer.rows.place(*slots(slot))
        blob = draft.changes.get(place) or draft.partition.blob(place)
        if blob is None:
            break
        found.append(draft.sealer.rows.opened(place, blob).flags)
    return found


def add_control(draft: Draft, register: Register, whats: Iterable[int | bytes]) -> None:
    """New flags of these people and documents go into the next free slot. What is to be lifted waits."""
    partition = draft.partition
    for what in whats:
        try:
            slots, flags = _wanted(register, what)
        except RegisterFault:
            partition.wait(what, UNREADABLE)
            continue
        standing = _standing(draft, slots)
        published = frozenset[str]().union(*standing)
        if flags - published and len(standing) == SLOTS_MAX:
            partition.wait(what, SLOTS_FULL)
            continue
        if flags - published:
            try:
                draft.put(draft.sealer.rows.place(*slots(len(standing))), FlagsRow(flags - published))
            except NotSealed:
                partition.wait(what, TOO_LONG)
                continue
        if published - flags:
            partition.wait(what, LIFT)


def rewrite_control(draft: Draft, register: Register, whats: Iterable[int | bytes]) -> None:
    """The flags of these people and documents exactly as the register has them, all in the first slot."""
    for what in whats:
        try:
            slots, flags = _wanted(register, what)
        except RegisterFault:
            draft.partition.wait(what, UNREADABLE)
            continue
        standing = _standing(draft, slots)
        try:
            if flags and standing[:1] != [flags]:
                draft.put(draft.sealer.rows.place(*slots(0)), FlagsRow(flags))
        except NotSealed:
            draft.partition.wait(what, TOO_LONG)
            continue
        for slot in range(1 if flags else 0, len(standing)):
            draft.take(draft.sealer.rows.place(*slots(slot)))
