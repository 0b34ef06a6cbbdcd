"""The two cache files of a lane, made without HQ: for the simulator and for tests. In form they are HQ's.

Rows are sealed with keys of their own epoch and put into files by the very code that `gated.sync` uses."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path

from gated.hq.registers import Register
from gated.hq.sealing import person_row
from gated.store import cachefile
from gated.store.cache import Cache
from gated.store.cachefile import CacheFile, CacheNote
from gated.wire import rows
from gated.wire.bundle import SCHEMA, chain_next, chain_start
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE, DocumentRow, EpochKey, FlagsRow, PersonRow, Row
from gated.wire.seal import KEY_BYTES, NONCE_BYTES, public_of
from gated.wire.segment import SegmentNote, pack

Entropy = Callable[[int], bytes]


@dataclass
class _Partition:
    """What is to become of one partition: place -> sealed row, None for one that goes."""

    key: EpochKey
    secret: bytes = field(repr=False)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    file: Path | None = None
    """None: it is yet to be built."""


class CacheFiles:
    """Puts rows; nothing is to be seen before `finish`. As a context manager it finishes when the block ends well and
    leaves everything as it was otherwise. Raises `StoreError`.

    `lane_private`: the lane's own key (X25519, 32 bytes raw); `lane`: `site/lane`; `epoch_keys`: of each partition, 32
    bytes, drawn from `entropy` where they are not given."""

    def __init__(
        self,
        folder: Path,
        lane_private: bytes,
        lane: str,
        *,
        built: datetime,
        generation: int = 1,
        epoch: int = 1,
        epoch_keys: Mapping[str, bytes] | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Builds a new generation of both partitions. See `changing` for those that are there."""
        secrets = epoch_keys or {partition: entropy(KEY_BYTES) for partition in PARTITIONS}
        self.folder = folder
        self.built: datetime | None = built
        self._public, self._lane, self._entropy = public_of(lane_private), lane, entropy
        self._generation, self._epoch = generation, epoch
        self._partitions = {name: _Partition(EpochKey.of(secrets[name]), secrets[name]) for name in PARTITIONS}

    @classmethod
    def changing(
        cls,
        folder: Path,
        lane_private: bytes,
        lane: str,
        *,
        built: datetime | None = None,
        entropy: Entropy = os.urandom,
    ) -> "CacheFiles":
        """Changes the newest generations, as the next segment of each partition that anything is put into.

        `built`: HQ's time of it, which is then also the time they are good for; None: as it was."""
        change = cls.__new__(cls)
        change.folder, change.built = folder, built
        change._public, change._lane, change._entropy = public_of(lane_private), lane, entropy
        change._generation = change._epoch = 0
        change._partitions = {}
        for name in PARTITIONS:
            file = max(cachefile.generations(folder, name).items())[1]
            secret = epoch_key(file, lane_private, lane)
            change._partitions[name] = _Partition(EpochKey.of(secret), secret, file=file)
        return change

    # -- rows --------------------------------------------------------------------------------------------------

    def put_person(self, person: PersonRow) -> None:
        """An enrolment, new or changed."""
        self._put(PEOPLE, person, rows.of_subject(person.subject))

    def put_document(self, issuer: str, number: str, subject: int, expected_on: date | None = None) -> None:
        """This document is this person's. `expected_on`: the day for which it is announced (W9)."""
        self._put(PEOPLE, DocumentRow(subject, expected_on), rows.of_document(issuer, number))

    def put_personal_number(self, personal_number: str, subject: int) -> None:
        """This personal number is this person's (E9)."""
        self._put(PEOPLE, DocumentRow(subject), rows.of_personal_number(personal_number))

    def put_flags(self, subject: int, flags: frozenset[str], slot: int = 0) -> None:
        """Control flags of a person (W7), those of one slot; the empty set takes the row away."""
        self._put(CONTROL, FlagsRow(flags) if flags else None, rows.of_flags(subject, slot))

    def put_document_flags(self, issuer: str, number: str, flags: frozenset[str], slot: int = 0) -> None:
        """What is known of a document (W8), that of one slot; the empty set takes the row away."""
        self._put(CONTROL, FlagsRow(flags) if flags else None, rows.of_status(issuer, number, slot))

    def remove_person(self, subject: int) -> None:
        """Take an enrolment away. Its documents and numbers are to be taken away with it."""
        self._put(PEOPLE, None, rows.of_subject(subject))

    def remove_document(self, issuer: str, number: str) -> None:
        """This document leads to nobody any more."""
        self._put(PEOPLE, None, rows.of_document(issuer, number))

    def remove_personal_number(self, personal_number: str) -> None:
        """This personal number leads to nobody any more."""
        self._put(PEOPLE, None, rows.of_personal_number(personal_number))

    def _put(self, partition: str, row: Row | None, parts: tuple[str, ...]) -> None:
        into = self._partitions[partition]
        place = into.key.place(*parts)
        into.changes[place] = None if row is None else into.key.sealed(place, row, self._entropy(NONCE_BYTES))

    # -- the end -----------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, CacheNote]:
        """Make them whole, durable and seen; the note of each partition."""
        return {
            name: self._built(name, into) if into.file is None else self._changed(into.file, into)
            for name, into in self._partitions.items()
        }

    def _built(self, name: str, into: _Partition) -> CacheNote:
        assert self.built is not None
        return cachefile.build(
            cachefile.path_of(self.folder, name, self._generation),
            CacheNote(name, self._generation, self._epoch, 0, chain_start(name, self._epoch), self.built, 0),
            into.key.proof(self._entropy(NONCE_BYTES)),
            rows.wrapped(into.secret, self._public, name, self._epoch, self._lane),
            ((place, blob) for place, blob in sorted(into.changes.items()) if blob is not None),
            checked=self.built,
        )

    def _changed(self, path: Path, into: _Partition) -> CacheNote:
        changes = sorted(into.changes.items())
        with CacheFile(path) as file:
            note = file.note
            if changes:
                serial, segment = note.serial + 1, bytearray()
                head = SegmentNote(SCHEMA, "segment", note.partition, note.epoch, serial, serial, len(changes))
                pack(head, changes, segment.extend)
                chain = chain_next(note.chain, serial, len(segment), sha256(segment).digest())
                file.apply(changes, serial, chain, self.built or note.built, may_lift=True)
            if self.built is not None:
                file.confirm(self.built, file.floor)
            return file.note

    def __enter__(self) -> "CacheFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.finish()


def epoch_key(file: Path, lane_private: bytes, lane: str) -> bytes:
    """The secret key of a file's rows, 32 bytes, as the lane unwraps it."""
    with CacheFile(file) as opened:
        note = opened.note
        return rows.unwrapped(opened.wrapped, lane_private, note.partition, note.epoch, lane)


def newest(folder: Path, partition: str, lane_private: bytes, lane: str) -> Cache:
    """The newest generation of a partition, opened as the lane does it."""
    return Cache(max(cachefile.generations(folder, partition).items())[1], lane_private, lane)


def of_register(
    register: Register, folder: Path, lane_private: bytes, lane: str, *, built: datetime, generation: int = 1
) -> None:
    """What sync would have made of what HQ publishes of its register."""
    with CacheFiles(folder, lane_private, lane, built=built, generation=generation) as cache:
        for person in register.people():
            cache.put_person(person_row(person))
            for paper in person.papers:
                cache.put_document(paper.issuer, paper.number, person.subject)
            if person.personal_number is not None:
                cache.put_personal_number(person.personal_number, person.subject)
            cache.put_flags(person.subject, person.flags)
        for status in register.statuses():
            cache.put_document_flags(status.paper.issuer, status.paper.number, status.flags)
