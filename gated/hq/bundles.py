"""The files that lanes fetch, written so that each is whole and on the disk under its name, or not there.

Segments, days, snapshots in chunks, pages of the index, tables of digests, wrapped keys: all below `data/` of the
repository's folder, proven by what is signed there (`gated.wire.bundle`) and served by any static server.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from gated.hq.metadata import make_folder, sync
from gated.hq.partition import Partition, Segment, Written
from gated.wire.bundle import (
    PAGE_SEGMENTS,
    SCHEMA,
    BundleError,
    Chunk,
    Manifest,
    Snapshot,
    chunk_path,
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


# -- segments and days ---------------------------------------------------------------------------------------------


def write_segment(path: Path, partition: Partition, serial: int, changes: Iterable[Change], rows: int) -> Written:
    """Segment `serial`; `changes` in order of place."""
    note = SegmentNote(SCHEMA, "segment", partition.name, partition.epoch, serial, serial, rows)
    return durable(path, lambda write: pack(note, changes, write))


def write_day(path: Path, partition: Partition, first: int, last: int) -> Written:
    """Of each place that changed since the last day its last word alone."""
    note = SegmentNote(SCHEMA, "day", partition.name, partition.epoch, first, last, partition.touched)
    return durable(path, lambda write: pack(note, partition.last_words(), write))


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


def take_snapshot(
    database: Path, folder: Path, partition: str, epoch: int, progress: Progress | None = None
) -> Snapshot:
    """The whole partition as it is now, in chunks, on a connection of its own: segments go on meanwhile.

    One that was cut short goes on where it ended, if no segment came since. Raises `OSError`, `sqlite3.Error`."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute("BEGIN")
        serial, chain, rows = connection.execute(
            "SELECT serial, chain, rows FROM epochs WHERE partition = ? AND epoch = ?", (partition, epoch)
        ).fetchone()
        chunks: list[Chunk] = []
        done = 0
        source = connection.execute(f"SELECT place, blob FROM rows_{partition}_{epoch} ORDER BY place")
        for piece in _pieces(source):
            path = folder / chunk_path(partition, epoch, serial, len(chunks))
            note = SegmentNote(SCHEMA, "chunk", partition, epoch, serial, serial, len(piece))
            written = _as_written(path, note, piece) or durable(path, lambda w, n=note, p=piece: pack(n, p, w))
            chunks.append(Chunk(piece[0][0], written.sha256, written.size))
            done += len(piece)
            if progress is not None:
                progress(done, rows)
    finally:
        connection.close()
    manifest = encode(Manifest(SCHEMA, partition, epoch, serial, done, tuple(chunks)))
    written = put_file(folder / manifest_path(partition, epoch, serial), manifest)
    return Snapshot(serial, chain, done, written.sha256, written.size)


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
        data = path.read_bytes()
        with path.open("rb") as file:
            unpacked = Unpacked(file)
            if unpacked.note != note or list(unpacked) != piece:
                return None
    except (OSError, BundleError):
        return None
    return Written(hashlib.sha256(data).digest(), len(data))


def drop(path: Path) -> None:
    """A file or folder goes away. Idempotent. Raises `OSError`."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
