"""Segments, days and chunks: what is packed comes back row by row; what else there is is refused by name."""

import io
import itertools
import random
import resource
import struct
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire import segment
from gated.wire.bundle import BundleError
from gated.wire.codec import encode
from gated.wire.segment import (
    NOTE_BYTES_MAX,
    ROW_BYTES_MAX,
    SEGMENT_ROWS_MAX,
    WINDOW_BYTES_MAX,
    Change,
    SegmentNote,
    Unpacked,
    pack,
)

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "bundle.toml").read_text())
MAGIC = b"GSEG\x01"
GONE = 0xFFFFFFFF


def note(rows: int, **other: Any) -> SegmentNote:
    fields = {"schema": 1, "kind": "segment", "partition": "people", "epoch": 3, "first": 7, "last": 7, "rows": rows}
    return SegmentNote(**{**fields, **other})


def place(number: int) -> bytes:
    return number.to_bytes(16, "big")


def packed(changes: list[Change], **other: Any) -> bytes:
    out = bytearray()
    pack(note(len(changes), **other), changes, out.extend)
    return bytes(out)


def head(text: bytes | None = None, rows: int = 0) -> bytes:
    text = encode(note(rows)) if text is None else text
    return MAGIC + struct.pack(">I", len(text)) + text


def row(at: int, blob: bytes | None = b"x") -> bytes:
    return place(at) + (struct.pack(">I", GONE) if blob is None else struct.pack(">I", len(blob)) + blob)


def squeezed(plain: bytes, **how: Any) -> bytes:
    return zstandard.ZstdCompressor(**(how or {"level": 1})).compress(plain)


def read(data: bytes) -> list[Change]:
    return list(Unpacked(io.BytesIO(data)))


def why(data: bytes) -> str:
    """How it is refused. Nothing but a `BundleError` may come of it."""
    with pytest.raises(BundleError) as refused:
        read(data)
    return refused.value.why


NOISE = random.Random(1).randbytes(500)
SOME: list[Change] = [(place(1), b"one"), (place(2), None), (place(9), NOISE), (place(1 << 127), b"last")]

blobs = st.none() | st.binary(min_size=1, max_size=40)
tables = st.dictionaries(st.binary(min_size=16, max_size=16), blobs, max_size=20).map(lambda rows: sorted(rows.items()))


# -- what is packed ------------------------------------------------------------------------------------------------


@given(tables)
def test_what_is_packed_comes_back(changes: list[Change]) -> None:
    unpacked = Unpacked(io.BytesIO(packed(changes, kind="day", first=2, last=9)))
    assert unpacked.note == note(len(changes), kind="day", first=2, last=9)
    assert list(unpacked) == changes
    unpacked.expect("day", "people", 3, 2, 9)


def test_the_layout_is_as_it_was_written_down() -> None:
    golden = GOLDEN["segment"]
    rows: list[Change] = [
        (bytes.fromhex(one["place"]), bytes.fromhex(one["row"]) if "row" in one else None) for one in golden["rows"]
    ]
    plain = bytes.fromhex(golden["plain"])
    data = packed(rows, kind="segment", partition="control", epoch=2, first=41, last=41)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(data) == plain
    assert read(squeezed(plain)) == rows


def test_a_source_may_give_a_byte_at_a_time() -> None:
    class Drop:
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def read(self, _size: int, /) -> bytes:
            return self._data.read(1)

    assert list(Unpacked(Drop(packed(SOME)))) == SOME


def test_the_longest_row_passes_and_a_longer_one_does_not() -> None:
    longest = random.Random(2).randbytes(ROW_BYTES_MAX)
    assert read(packed([(place(1), longest)])) == [(place(1), longest)]
    with pytest.raises(BundleError, match="too long"):
        packed([(place(1), longest + b"x")])
    with pytest.raises(BundleError, match="empty"):
        packed([(place(1), b"")])


@pytest.mark.parametrize(
    "changes",
    [
        [(place(2), b"x"), (place(1), b"x")],
        [(place(1), b"x"), (place(1), None)],
        [(b"short", b"x")],
        [(place(1) + b"\0", b"x")],
    ],
    ids=["backwards", "twice", "short", "long"],
)
def test_places_out_of_order_or_of_another_length_are_not_packed(changes: list[Change]) -> None:
    with pytest.raises(BundleError, match="in order"):
        packed(changes)


@pytest.mark.parametrize("announced", [0, 3, 5])
def test_another_number_of_rows_than_announced_is_not_packed(announced: int) -> None:
    with pytest.raises(BundleError, match="as many rows"):
        pack(note(announced), SOME, bytearray().extend)


@pytest.mark.parametrize("announced", [-1, SEGMENT_ROWS_MAX + 1])
def test_what_could_not_be_read_is_not_packed(announced: int) -> None:
    with pytest.raises(BundleError, match="endless"):
        pack(note(announced), (), bytearray().extend)


@pytest.mark.parametrize(
    ("expected", "refused"),
    [
        (("day", "people", 3, 7, 7), "malformed"),
        (("segment", "control", 3, 7, 7), "swapped_partition"),
        (("segment", "people", 4, 7, 7), "wrong_epoch"),
        (("segment", "people", 3, 8, 8), "wrong_serial"),
        (("segment", "people", 3, 6, 7), "wrong_serial"),
        (("segment", "people", 3, 7, 8), "wrong_serial"),
    ],
)
def test_another_one_than_expected_is_refused_by_name(expected: tuple[Any, ...], refused: str) -> None:
    unpacked = Unpacked(io.BytesIO(packed(SOME)))
    unpacked.expect("segment", "people", 3, 7, 7)
    with pytest.raises(BundleError) as error:
        unpacked.expect(*expected)
    assert error.value.why == refused


# -- what is refused -----------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "malformed"),
    "no zstd": (b"GSEG\x01 in clear and long enough to be one", "malformed"),
    "an empty frame": (squeezed(b""), "malformed"),
    "another magic": (squeezed(b"GSEG\x02" + head()[5:]), "malformed"),
    "a head that is not there": (squeezed(MAGIC + struct.pack(">I", 200) + b"{"), "malformed"),
    "a head too long": (squeezed(head(b" " * (NOTE_BYTES_MAX + 1))), "malformed"),
    "an empty head": (squeezed(head(b"")), "malformed"),
    "a head with a blank": (squeezed(head(encode(note(0)) + b" ")), "malformed"),
    "a head out of order": (
        squeezed(head(encode(note(0)).replace(b'"epoch":3,', b"").replace(b'"rows":0', b'"rows":0,"epoch":3'))),
        "malformed",
    ),
    "rows as a fraction": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":0.0'))), "malformed"),
    "rows as false": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":false'))), "malformed"),
    "rows as NaN": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":NaN'))), "malformed"),
    "rows as text": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":"0"'))), "malformed"),
    "rows beyond 64 bits": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":' + b"9" * 25))), "malformed"),
    "rows of 4,000 digits": (
        squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":' + b"9" * 3900))),
        "malformed",
    ),
    "another field": (squeezed(head(encode(note(0)).replace(b'"rows":0', b'"rows":0,"x":1'))), "malformed"),
    "deep nesting": (squeezed(head(b"[" * NOTE_BYTES_MAX)), "malformed"),
    "minus one row": (squeezed(head(encode(note(-1)))), "endless"),
    "more rows than any": (squeezed(head(encode(note(SEGMENT_ROWS_MAX + 1)))), "endless"),
    "another edition": (squeezed(head(encode(note(0, schema=2)))), "wrong_schema"),
    "another edition with a new field": (
        squeezed(head(encode(note(0, schema=2)).replace(b'"rows":0', b'"rows":0,"salt":0'))),
        "wrong_schema",
    ),
    "edition minus one": (squeezed(head(encode(note(0, schema=-1)))), "wrong_schema"),
    "edition true": (squeezed(head(encode(note(0)).replace(b'"schema":1', b'"schema":true'))), "malformed"),
    "places backwards": (squeezed(head(rows=2) + row(2) + row(1)), "malformed"),
    "a place twice": (squeezed(head(rows=2) + row(1) + row(1, None)), "malformed"),
    "an empty row": (squeezed(head(rows=1) + row(1, b"")), "endless"),
    "a row too long": (squeezed(head(rows=1) + place(1) + struct.pack(">I", ROW_BYTES_MAX + 1) + bytes(9)), "endless"),
    "nearly a tombstone": (squeezed(head(rows=1) + place(1) + struct.pack(">I", GONE - 1)), "endless"),
    "fewer rows than announced": (squeezed(head(rows=3) + row(1) + row(2)), "malformed"),
    "a row that ends too soon": (squeezed(head(rows=1) + row(1, b"abcdef")[:-1]), "malformed"),
    "one row more": (squeezed(head(rows=1) + row(1) + row(2)), "endless"),
    "one byte more": (squeezed(head(rows=1) + row(1) + b"\0"), "endless"),
    "a second frame": (packed(SOME) + packed(SOME), "endless"),
    "rows in a second frame": (squeezed(head(rows=2) + row(1)) + squeezed(row(2)), "malformed"),
    "an empty frame after it": (packed(SOME) + squeezed(b""), "endless"),
    "a skippable frame after it": (packed(SOME) + b"\x50\x2a\x4d\x18\x04\0\0\0junk", "endless"),
    "a skippable frame before it": (b"\x50\x2a\x4d\x18\x04\0\0\0junk" + packed(SOME), "malformed"),
    "a byte after it": (packed(SOME) + b"\0", "endless"),
    "much after it": (packed(SOME) + bytes(1 << 20), "endless"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    data, refused = REFUSED[name]
    assert why(data) == refused


def test_the_frame_needs_its_checksum_and_its_end() -> None:
    data = packed(SOME)
    for length in range(len(data)):
        assert why(data[:length]) == "malformed"
    for at in range(len(data) - 4, len(data)):
        assert why(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) == "malformed"


def test_a_window_that_needs_much_memory_is_refused() -> None:
    plain = head(rows=1) + row(1)

    def with_window(log: int) -> bytes:
        settings = zstandard.ZstdCompressionParameters(window_log=log, write_content_size=False)
        frame = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        return frame.compress(plain) + frame.flush()

    assert WINDOW_BYTES_MAX == 1 << 23
    assert read(with_window(23)) == [(place(1), b"x")]
    for log in (24, 27, 30):
        assert why(with_window(log)) == "malformed"


def bomb(plain: Iterator[bytes]) -> bytes:
    frame = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(frame.compress(part) for part in plain) + frame.flush()


def _grown_bytes(run: Callable[[], None]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


@pytest.mark.parametrize("kind", ["rows of nothing", "one endless row", "an endless end"])
def test_a_bomb_is_found_before_it_fills_memory_or_disk(kind: str) -> None:
    half_a_gigabyte = 8192
    long = bytes(ROW_BYTES_MAX)
    if kind == "rows of nothing":
        rows = half_a_gigabyte
        data = bomb(itertools.chain([head(rows=rows)], (row(1 + n, long) for n in range(rows))))
    elif kind == "one endless row":
        begun = head(rows=1) + place(1) + struct.pack(">I", ROW_BYTES_MAX)
        data = bomb(itertools.chain([begun], itertools.repeat(long, half_a_gigabyte)))
    else:
        data = bomb(itertools.chain([head(rows=1) + row(1)], itertools.repeat(long, half_a_gigabyte)))
    assert len(data) < 1 << 20
    taken = 0

    def swallow() -> None:
        nonlocal taken
        with pytest.raises(BundleError) as refused:
            for _, blob in Unpacked(io.BytesIO(data)):
                taken += len(blob or b"")
        assert refused.value.why == "endless"

    assert _grown_bytes(swallow) < 100 << 20
    assert taken < 64 << 20, "so much would have been written to the disk"


def test_rows_that_do_not_compress_are_no_bomb_however_many() -> None:
    noise = random.Random(3).randbytes(1000)
    rows = 40_000  # 40 MB: beyond what is allowed to grow without having come
    made = io.BytesIO()
    generator = random.Random(4)
    pack(note(rows), ((place(n), generator.randbytes(1000)) for n in range(rows)), made.write)
    made.seek(0)
    assert sum(len(blob or b"") for _, blob in Unpacked(made)) == rows * len(noise)


def test_rows_are_read_as_they_are_asked_for() -> None:
    """A file of any length needs little of it in memory: what is read ahead is bounded."""
    generator = random.Random(5)
    data = packed([(place(n), generator.randbytes(1000)) for n in range(5000)])
    source = io.BytesIO(data)
    rows = iter(Unpacked(source))
    next(rows)
    assert source.tell() < 300_000 < len(data)


# -- fuzz ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_noise_is_refused_by_a_bundle_error_alone(noise: bytes) -> None:
    for data in (noise, squeezed(noise), squeezed(MAGIC + noise), squeezed(head(rows=3) + noise)):
        assert why(data) in ("malformed", "endless")


@settings(max_examples=300)
@given(tables, st.data())
def test_a_segment_with_a_changed_byte_is_refused(changes: list[Change], data: st.DataObject) -> None:
    """The frame's checksum alone finds it; HQ's hash was compared before."""
    whole = packed(changes)
    at = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(bad))
    except BundleError:
        return
    assert found == changes, "what it is read as"  # a bit of the frame's header that changes nothing


@settings(max_examples=300)
@given(tables, st.data())
def test_a_changed_layout_is_refused_or_read_in_order(changes: list[Change], data: st.DataObject) -> None:
    """Below the checksum: whoever can sign segments writes what he likes."""
    plain = bytearray(head(rows=len(changes)) + b"".join(row(int.from_bytes(p, "big"), blob) for p, blob in changes))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(plain) - 1))
        do = data.draw(st.sampled_from(["flip", "drop", "put", "cut"]))
        if do == "flip":
            plain[at] ^= data.draw(st.integers(1, 255))
        elif do == "drop":
            del plain[at : at + data.draw(st.integers(1, 20))]
        elif do == "put":
            plain[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            del plain[at:]
        if not plain:
            break
    try:
        unpacked = Unpacked(io.BytesIO(squeezed(bytes(plain))))
        found = list(unpacked)
    except BundleError as refused:
        assert refused.why in ("malformed", "endless", "wrong_schema")
        return
    assert len(found) == unpacked.note.rows
    assert all(len(one) == 16 for one, _ in found)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(found))
    assert all(blob is None or 0 < len(blob) <= ROW_BYTES_MAX for _, blob in found)


def test_no_message_tells_what_is_in_it() -> None:
    secret = b"SPECIMEN-ANNA"
    for data in (squeezed(head(secret)), squeezed(head(rows=1) + secret * 3), squeezed(secret * 5)):
        with pytest.raises(BundleError) as refused:
            read(data)
        assert "SPECIMEN" not in str(refused.value)


def test_the_limits_leave_room_for_what_hq_makes() -> None:
    """A chunk holds rows until it has CHUNK_BYTES of them, and then one more of the longest."""
    assert segment.CHUNK_BYTES + ROW_BYTES_MAX + 4096 < segment.CHUNK_BYTES_MAX < segment.SEGMENT_BYTES_MAX
