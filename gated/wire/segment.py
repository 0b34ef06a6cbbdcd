"""A segment, a day or a snapshot's chunk: rows in order of place, compressed by zstd, written and read as a stream.

    "GSEG" 1 | length of the note (4) | note, canonical JSON | for each row: place (16), length (4), sealed row

A length of 2^32 - 1 takes the row away. Numbers are big-endian. All of it is one zstd frame. There is a limit on
everything, and nothing may follow the last row or the frame. No I/O of its own, no clock; what a row holds is not
looked at.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol, cast

import zstandard

from gated.wire.bundle import PLACE_BYTES, BundleError, load
from gated.wire.codec import encode

ROW_BYTES_MAX: Final = 1 << 16
SEGMENT_BYTES_MAX: Final = 1 << 30
"""Of a segment or day as it is fetched."""
SEGMENT_ROWS_MAX: Final = 4_000_000
CHUNK_BYTES: Final = 8 << 20
"""A snapshot's chunk holds rows until it has so many bytes of them."""
CHUNK_BYTES_MAX: Final = 32 << 20
WINDOW_BYTES_MAX: Final = 8 << 20
NOTE_BYTES_MAX: Final = 4096
_MAGIC: Final = b"GSEG\x01"
_TOMBSTONE: Final = 0xFFFFFFFF
_READ_BYTES: Final = 512
"""Of what is compressed, at a time: a bomb makes at most 16 MiB of it before its growth is seen."""
_GROWTH: Final = 4
_GROWTH_BYTES: Final = 16 << 20
"""Sealed rows do not compress: what grows to more than `_GROWTH` times its bytes and so many more is a bomb."""


@dataclass(frozen=True, slots=True)
class SegmentNote:
    """The head of a segment, day or chunk. A chunk has `first` = `last` = the snapshot's serial."""

    schema: int
    kind: str
    """segment, day or chunk."""
    partition: str
    epoch: int
    first: int
    last: int
    rows: int


class Source(Protocol):
    """What a segment is read from: an open binary file."""

    def read(self, size: int, /) -> bytes: ...


Change = tuple[bytes, bytes | None]
"""(place, sealed row); None: the row is taken away."""


def pack(note: SegmentNote, changes: Iterable[Change], write: Callable[[bytes], Any]) -> None:
    """Write a segment, day or chunk. `changes` come in order of place, each place once, `note.rows` of them.

    Raises `BundleError` for any that do not; what was written until then is to be thrown away."""
    if not 0 <= note.rows <= SEGMENT_ROWS_MAX:
        raise BundleError("endless", "more rows than any segment has")
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
    with compressor.stream_writer(cast(IO[bytes], _Sink(write)), closefd=False) as out:
        text = encode(note)
        out.write(_MAGIC + struct.pack(">I", len(text)) + text)
        before, rows = b"", 0
        for place, blob in changes:
            if len(place) != PLACE_BYTES or place <= before:
                raise BundleError("malformed", "places come in order, each once")
            if blob is None:
                out.write(place + struct.pack(">I", _TOMBSTONE))
            elif 0 < len(blob) <= ROW_BYTES_MAX:
                out.write(place + struct.pack(">I", len(blob)) + blob)
            else:
                raise BundleError("malformed", "a row is empty or too long")
            before, rows = place, rows + 1
        if rows != note.rows:
            raise BundleError("malformed", "there are not as many rows as announced")


class _Sink:
    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(bytes(data))
        return len(data)


class Unpacked:
    """A segment, day or chunk that is read row by row: however long it is, little of it is in memory.

    Its bytes were proven (hash and length) before it is opened here; what a row holds is not looked at. Raises
    `BundleError`: `malformed`, `wrong_schema`, `endless`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
        self._held, self._at = b"", 0
        self._came = self._grown = 0
        if self._read(len(_MAGIC)) != _MAGIC:
            raise BundleError("malformed", "not a segment")
        (length,) = struct.unpack(">I", self._read(4))
        if length > NOTE_BYTES_MAX:
            raise BundleError("malformed", "its head is too long")
        self.note: SegmentNote = load(SegmentNote, self._read(length))
        if not 0 <= self.note.rows <= SEGMENT_ROWS_MAX:
            raise BundleError("endless", "more rows than any segment has")

    def _read(self, size: int) -> bytes:
        while (end := self._at + size) > len(self._held):
            more = self._more()
            if more is None:
                raise BundleError("malformed", "it ends too soon")
            if more:
                self._held, self._at = self._held[self._at :] + more, 0
        start, self._at = self._at, end
        return self._held[start:end]

    def _more(self) -> bytes | None:
        """What the next few bytes decompress to; None: the frame or the source is at its end."""
        if self._frame.eof or not (piece := self._source.read(_READ_BYTES)):
            return None
        try:
            more = self._frame.decompress(piece)
        except zstandard.ZstdError:
            raise BundleError("malformed", "it cannot be decompressed") from None
        self._came += len(piece)
        self._grown += len(more)
        if self._grown > _GROWTH * self._came + _GROWTH_BYTES:
            raise BundleError("endless", "it grows as no sealed rows do")
        return more

    def __iter__(self) -> Iterator[Change]:
        """Every row, in order of place. To be read once."""
        before = b""
        for _ in range(self.note.rows):
            place = self._read(PLACE_BYTES)
            (length,) = struct.unpack(">I", self._read(4))
            if place <= before:
                raise BundleError("malformed", "places come in order, each once")
            if length == _TOMBSTONE:
                yield place, None
            elif 0 < length <= ROW_BYTES_MAX:
                yield place, self._read(length)
            else:
                raise BundleError("endless", "a row is longer than any")
            before = place
        self._nothing_more()

    def _nothing_more(self) -> None:
        more: bytes | None = self._held[self._at :]
        while more is not None:
            if more:
                raise BundleError("endless", "it goes on after its last row")
            more = self._more()
        if not self._frame.eof:
            raise BundleError("malformed", "it ends too soon")
        if self._frame.unused_data or self._source.read(1):
            raise BundleError("endless", "something follows it")

    def expect(self, kind: str, partition: str, epoch: int, first: int, last: int) -> None:
        """Raises `BundleError`: `swapped_partition`, `wrong_epoch`, `wrong_serial`, `malformed` (another kind)."""
        note = self.note
        if note.kind != kind:
            raise BundleError("malformed", f"a {note.kind[:16]} where a {kind} should be")
        if note.partition != partition:
            raise BundleError("swapped_partition", f"it is of another partition than {partition}")
        if note.epoch != epoch:
            raise BundleError("wrong_epoch", f"it is of epoch {note.epoch}, not {epoch}")
        if (note.first, note.last) != (first, last):
            raise BundleError("wrong_serial", f"it is {note.first} to {note.last}, not {first} to {last}")
