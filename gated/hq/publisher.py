"""Register -> the cache of one lane, as a new generation: no names, every row sealed with the partition's epoch key.

Thin: a whole file into a folder. Signed deltas, fetched by the lane's sync, come later (docs/uplink.md).
"""

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

from gated.hq.registers import Person, Register
from gated.store.cache import CacheNote, FingerRow, PermitRow, PersonRow
from gated.store.cachewriter import CacheWriter
from gated.store.sql import StoreError

_GENERATION = re.compile(r"cache-(\d+)\.db")


class NotPublished(Exception):
    """The cache could not be built; the lanes go on with the one they have."""


def next_generation(folder: Path) -> int:
    """One more than the newest that lies there."""
    found = [int(m[1]) for path in folder.iterdir() if (m := _GENERATION.fullmatch(path.name))]
    return max(found, default=0) + 1


def publish(
    register: Register, folder: Path, key: bytes, epoch: str, now: datetime, mode: int = 0o600
) -> tuple[Path, CacheNote]:
    """Build `cache-<n>.db` in `folder`: lanes see all of it or nothing. Raises `NotPublished`, `RegisterFault`."""
    generation = next_generation(folder)
    path = folder / f"cache-{generation}.db"
    numbers = Counter(person.personal_number for person in register.people() if person.personal_number)
    try:
        with CacheWriter(path, key, generation=generation, epoch=epoch, built=now, mode=mode) as writer:
            for person in register.people():
                _put(writer, person, numbers)
            for status in register.statuses():
                writer.put_document_flags(status.paper.issuer, status.paper.number, status.flags)
            note = writer.finish()
    except StoreError as bad:
        raise NotPublished(str(bad)) from None
    return path, note


def _put(writer: CacheWriter, person: Person, numbers: "Counter[str]") -> None:
    permits = tuple(PermitRow(p.kind, p.start, p.end, p.entries_left) for p in person.permits)
    writer.put_person(
        PersonRow(
            subject=person.subject,
            category=person.category,
            birth=person.birth,
            sex=person.sex,
            face=person.face,
            face_model=person.face_model,
            fingers=tuple(FingerRow(f.position, f.format, f.template) for f in person.fingers),
            permits=permits,
            usable_from=person.usable_from,
            enrolled_on=person.enrolled_on,
        )
    )
    for paper in person.papers:
        writer.put_document(paper.issuer, paper.number, person.subject)
    if person.personal_number is not None and numbers[person.personal_number] == 1:
        writer.put_personal_number(person.personal_number, person.subject)
    if person.flags:
        writer.put_flags(person.subject, person.flags)
