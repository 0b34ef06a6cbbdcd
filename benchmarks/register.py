"""A register of people who do not exist, sealed as HQ seals it: rows, chunks of a snapshot, the changes of a day.

Person `n` has a face template of 128 float32 of its own, one permit, a document and a personal number: three rows. To
have millions of rows in order of place, processes seal them into files by the first byte of the place; each such file
is then sorted alone.
"""

import math
import multiprocessing
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Final

import numpy as np

from gated.wire.bundle import PLACE_BYTES, SCHEMA
from gated.wire.rows import (
    PEOPLE,
    DocumentRow,
    EpochKey,
    PermitRow,
    PersonRow,
    of_document,
    of_personal_number,
    of_subject,
)
from gated.wire.seal import NONCE_BYTES
from gated.wire.segment import CHUNK_BYTES, Change, SegmentNote, Unpacked, pack

SECRET: Final = bytes(range(32))
ISSUER: Final = "UTO"
BLOCK: Final = 1000
"""People whose templates are drawn together."""
ROWS_EACH: Final = 3
UPDATED, ADDED, GONE = 0.60, 0.25, 0.15
"""Of the people who change in a day: 120,000, 50,000 and 30,000 of 200,000."""
BORN: Final = date(1930, 1, 1)

Say = Callable[[str], None]
_SPOOLED: Final = struct.Struct(f">{PLACE_BYTES}sIH")


def subject(n: int) -> int:
    """Numbers of people who enrolled after one another lie far apart, as after years of additions."""
    return 100_000_000 + n * 7919 % 100_000_000


def document(n: int) -> str:
    return f"{'CFGHJK'[n % 6]}{n * 6007 % 100_000_000:08}"


def personal_number(n: int) -> str:
    return f"{n * 104_729 % 10_000_000_000:010}"


def faces(block: int, edition: int) -> np.ndarray:
    """The templates of a block of people: little-endian float32, of length 1. An update is another edition."""
    drawn = np.random.default_rng((edition, block)).standard_normal((BLOCK, 128), dtype=np.float32)
    found: np.ndarray = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("<f4")
    return found


def people(first: int, end: int, edition: int = 0) -> Iterator[tuple[int, PersonRow]]:
    """(n, enrolment) of the people from `first` to before `end`."""
    for block in range(first // BLOCK, math.ceil(end / BLOCK)):
        templates = faces(block, edition)
        for n in range(max(first, block * BLOCK), min(end, (block + 1) * BLOCK)):
            enrolled = date(2024, 1, 1) + timedelta(n % 700)
            yield (
                n,
                PersonRow(
                    subject=subject(n),
                    category=("citizen", "resident", "crew")[n % 3],
                    birth=BORN + timedelta(n * 31 % 30_000),
                    sex="FM"[n % 2],
                    face=templates[n % BLOCK].tobytes(),
                    face_model="sface_2021dec",
                    permits=(PermitRow("residence", enrolled, enrolled + timedelta(3650)),),
                    enrolled_on=enrolled,
                ),
            )


def sealed(key: EpochKey, n: int, person: PersonRow) -> tuple[bytes, bytes]:
    """(place, row) of a person."""
    place = key.place(*of_subject(subject(n)))
    return place, key.sealed(place, person, os.urandom(NONCE_BYTES))


def places_of_links(key: EpochKey, n: int) -> tuple[bytes, bytes]:
    return key.place(*of_document(ISSUER, document(n))), key.place(*of_personal_number(personal_number(n)))


def links(key: EpochKey, n: int) -> list[tuple[bytes, bytes]]:
    """(place, row) of a person's document and personal number."""
    row = DocumentRow(subject(n))
    return [(place, key.sealed(place, row, os.urandom(NONCE_BYTES))) for place in places_of_links(key, n)]


# -- all of them, in order of place --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spool:
    """Sealed rows of `count` people, parted by the first byte of their place."""

    folder: Path
    count: int

    def rows(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Of the first `count` people, in order of place."""
        for part in range(256):
            yield from sorted(self._part(part, count))

    def _part(self, part: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        for path in self.folder.glob(f"{part:02x}-*"):
            data, at = path.read_bytes(), 0
            while at < len(data):
                place, n, length = _SPOOLED.unpack_from(data, at)
                at += _SPOOLED.size
                if n < count:
                    yield place, data[at : at + length]
                at += length

    def remove(self) -> None:
        shutil.rmtree(self.folder)


_mine: dict[int, IO[bytes]] = {}


def _seal_block(task: tuple[Path, int, int]) -> int:
    folder, first, end = task
    key = EpochKey.of(SECRET)
    if not _mine:
        _mine.update({part: (folder / f"{part:02x}-{os.getpid()}").open("wb") for part in range(256)})
    for n, person in people(first, end):
        for place, row in (sealed(key, n, person), *links(key, n)):
            _mine[place[0]].write(_SPOOLED.pack(place, n, len(row)) + row)
    for file in _mine.values():
        file.flush()
    return end - first


def spooled(folder: Path, count: int, say: Say) -> Spool:
    """Seal everybody, on every core."""
    folder.mkdir()
    step = 20 * BLOCK
    tasks = [(folder, first, min(first + step, count)) for first in range(0, count, step)]
    done = 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for people_done in pool.imap_unordered(_seal_block, tasks):
            done += people_done
            say(f"sealing {done:,} of {count:,} people")
    return Spool(folder, count)


def seal_rows_per_s(count: int = 10_000) -> float:
    """Rows a second that one core seals."""
    key = EpochKey.of(SECRET)
    drawn = list(people(0, count))
    started = time.perf_counter()
    for n, person in drawn:
        sealed(key, n, person)
        links(key, n)
    return ROWS_EACH * count / (time.perf_counter() - started)


# -- what HQ publishes ---------------------------------------------------------------------------------------------


def publish_chunks(folder: Path, rows: Iterator[tuple[bytes, bytes]], say: Say) -> int:
    """A snapshot's chunks as files; their bytes."""
    folder.mkdir()
    number = size = held = 0
    chunk: list[Change] = []

    def flush() -> None:
        nonlocal number, size, held
        path = folder / f"{number}.chunk"
        with path.open("wb") as file:
            pack(SegmentNote(SCHEMA, "chunk", PEOPLE, 1, 0, 0, len(chunk)), chunk, file.write)
        number, size, held = number + 1, size + path.stat().st_size, 0
        chunk.clear()
        say(f"publishing chunk {number}")

    for row in rows:
        chunk.append(row)
        held += len(row[1])
        if held >= CHUNK_BYTES:
            flush()
    if chunk:
        flush()
    return size


def unpacked_chunks(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a snapshot, as a lane reads them."""
    for number in range(len(list(folder.iterdir()))):
        with (folder / f"{number}.chunk").open("rb") as file:
            for place, row in Unpacked(file):
                assert row is not None
                yield place, row


@dataclass(frozen=True, slots=True)
class Changes:
    """Who changes on one day: `updated` and `gone` were there before, `added` were not."""

    updated: range
    added: range
    gone: range
    edition: int

    @property
    def people(self) -> int:
        return len(self.updated) + len(self.added) + len(self.gone)


def changes_of(day: int, count: int, people_changed: int) -> Changes:
    """Day 0, 1, 2 ... of a register of `count` people: no one changes on two of them."""
    updated, added, gone = (int(share * people_changed) for share in (UPDATED, ADDED, GONE))
    end = count - day * gone
    return Changes(
        range(day * updated, (day + 1) * updated),
        range(count + day * added, count + (day + 1) * added),
        range(end - gone, end),
        day + 1,
    )


def sealed_changes(changes: Changes) -> list[list[Change]]:
    """The rows of each person who changes, in no order of time."""
    key = EpochKey.of(SECRET)
    updated, added = changes.updated, changes.added
    found: list[list[Change]] = []
    for n, person in people(updated.start, updated.stop, changes.edition):
        found.append([sealed(key, n, person)])
    for n, person in people(added.start, added.stop, changes.edition):
        found.append([sealed(key, n, person), *links(key, n)])
    for n in changes.gone:
        found.append([(place, None) for place in (key.place(*of_subject(subject(n))), *places_of_links(key, n))])
    np.random.default_rng(changes.edition).shuffle(found)
    return found


def publish_segments(folder: Path, changes: list[list[Change]], count: int) -> list[Path]:
    """The changes in `count` segments one after another; 1: as a day."""
    folder.mkdir()
    paths = []
    for number in range(count):
        rows = sorted(row for one in changes[number::count] for row in one)
        path = folder / f"{number}.seg"
        with path.open("wb") as file:
            pack(SegmentNote(SCHEMA, "day" if count == 1 else "segment", PEOPLE, 1, 1, 1, len(rows)), rows, file.write)
        paths.append(path)
    return paths
