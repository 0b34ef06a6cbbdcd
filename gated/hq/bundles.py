"""The files that lanes fetch, written so that each is whole and on the disk under its name, or not there.

Segments, days, snapshots in chunks, pages of the index, tables of digests, wrapped keys: all below `data/` of the
repository's folder, proven by what is signed there (`gated.wire.bundle`) and served by any static server.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from gated.hq.metadata import make_folder, sync
from gated.hq.partition import Partition, Segment, Written
from gated.hq.published import PublisherState
from gated.wire.bundle import (
    PAGE_SEGMENTS,
    SCHEMA,
    AuditTable,
    BundleError,
    Chunk,
    Day,
    Manifest,
    Snapshot,
    audit_path,
    chunk_path,
    day_path,
    index_page,
    manifest_path,
    page_path,
    segment_path,
)
from gated.wire.codec import encode
from gated.wire.segment import CHUNK_BYTES, SEGMENT_BYTES_MAX, Change, SegmentNote, Unpacked, pack

Progress = Callable[[int, int], None]
"""(done, in all)."""
_PAGE_ENTRY_BYTES: Final = 40


class TooLong(Exception):
    """What was to be written is longer than any lane takes."""


class Source(Protocol):
    """What a file's content is written by: it is given the function that takes the bytes."""

    def __call__(self, write: Callable[[bytes], Any], /) -> Any: ...


def durable(path: Path, content: Source, mode: int = 0o644) -> Written:
    """A file, whole and on the disk under its name, or not there. Raises `OSError`, `TooLong`."""
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    digest, size = hashlib.sha256(), 0

    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as out:

        def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += len(data)
            if size > SEGMENT_BYTES_MAX:
                raise TooLong(f"{path.name} has more than {SEGMENT_BYTES_MAX} bytes: consolidate more often")
            out.write(data)

        os.fchmod(out.fileno(), mode)
        content(write)
        out.flush()
        os.fsync(out.fileno())
    part.rename(path)
    sync(path.parent)
    return Written(digest.digest(), size)


def put_file(path: Path, data: bytes, mode: int = 0o644) -> Written:
    """`durable` of bytes that are at hand."""
    return durable(path, lambda write: write(data), mode)


def written(path: Path) -> Written:
    """What lies there. Raises `OSError`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Written(digest.digest(), file.tell())


# -- segments and days ---------------------------------------------------------------------------------------------


def write_segment(path: Path, partition: Partition, serial: int, changes: Iterable[Change], rows: int) -> Written:
    """Segment `serial`; `changes` in order of place."""
    note = SegmentNote(SCHEMA, "segment", partition.name, partition.epoch, serial, serial, rows)
    return durable(path, _packing(note, changes))


def take_day(database: Path, folder: Path, name: str, epoch: int) -> Day:
    """The segments since the last day in one: of each place that changed its last word alone."""
    with PublisherState.reading(database) as state:
        part = Partition(state, name, epoch)
        first, note = part.day_end[0] + 1, part.note
        head = SegmentNote(SCHEMA, "day", name, epoch, first, note.serial, part.touched)
        path = folder / day_path(name, epoch, first, note.serial)
        file = durable(path, _packing(head, part.last_words()))
        return Day(first, note.serial, note.chain, file.sha256, file.size)


def take_audit(database: Path, folder: Path, name: str, epoch: int) -> AuditTable:
    """The digests of every bucket as the partition is now."""
    with PublisherState.reading(database) as state:
        part = Partition(state, name, epoch)
        serial = part.note.serial
        file = put_file(folder / audit_path(name, epoch, serial), part.digests())
        return AuditTable(serial, file.sha256)


def read_segment(path: Path, partition: Partition, serial: int) -> dict[bytes, bytes | None]:
    """The changes of a segment that was written here. Raises `OSError`, `BundleError`."""
    with path.open("rb") as file:
        unpacked = Unpacked(file)
        unpacked.expect("segment", partition.name, partition.epoch, serial, serial)
        return dict(unpacked)


def write_pages(folder: Path, partition: Partition, after: int, last: int) -> None:
    """The pages of the index that hold the segments after `after` up to `last`."""
    for page in range(after // PAGE_SEGMENTS, (last - 1) // PAGE_SEGMENTS + 1):
        path = folder / page_path(partition.name, partition.epoch, page)
        first = page * PAGE_SEGMENTS + 1
        full = last >= first + PAGE_SEGMENTS - 1
        if full and path.exists() and path.stat().st_size == PAGE_SEGMENTS * _PAGE_ENTRY_BYTES:
            continue
        segments = partition.segments(first, min(last, first + PAGE_SEGMENTS - 1))
        put_file(path, index_page((segment.sha256, segment.size) for segment in segments))


def segment_bytes(folder: Path, partition: Partition, segment: Segment) -> bytes:
    """A segment's own bytes. Raises `OSError`."""
    return (folder / segment_path(partition.name, partition.epoch, segment.serial)).read_bytes()


# -- snapshots -----------------------------------------------------------------------------------------------------


def take_snapshot(database: Path, folder: Path, name: str, epoch: int, progress: Progress | None = None) -> Snapshot:
    """The whole partition in chunks. One that was cut short goes on where it ended, if no segment came since."""
    chunks: list[Chunk] = []
    done = 0
    with PublisherState.reading(database) as state:
        part = Partition(state, name, epoch)
        note = part.note
        for piece in _pieces(part.rows()):
            path = folder / chunk_path(name, epoch, note.serial, len(chunks))
            head = SegmentNote(SCHEMA, "chunk", name, epoch, note.serial, note.serial, len(piece))
            file = _as_written(path, head, piece) or durable(path, _packing(head, piece))
            chunks.append(Chunk(piece[0][0], file.sha256, file.size))
            done += len(piece)
            if progress is not None:
                progress(done, note.rows)
    manifest = encode(Manifest(SCHEMA, name, epoch, note.serial, done, tuple(chunks)))
    file = put_file(folder / manifest_path(name, epoch, note.serial), manifest)
    return Snapshot(note.serial, note.chain, done, file.sha256, file.size)


def _packing(note: SegmentNote, changes: Iterable[Change]) -> Source:
    return lambda write: pack(note, changes, write)


def _pieces(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[Change]]:
    piece: list[Change] = []
    size = 0
    for place, blob in rows:
        piece.append((place, blob))
        size += len(place) + 4 + len(blob)
        if size >= CHUNK_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _as_written(path: Path, note: SegmentNote, piece: list[Change]) -> Written | None:
    """The chunk that lies there already, if it is this one."""
    try:
        with path.open("rb") as file:
            unpacked = Unpacked(file)
            same = unpacked.note == note and list(unpacked) == piece
        return written(path) if same else None
    except (OSError, BundleError):  # it is written anew
        return None


def drop(path: Path) -> None:
    """A file or folder goes away. Idempotent. Raises `OSError`."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
