"""Looks for planted personal data in every usual encoding in all files of a folder, and in what is packed in them.

A scan that finds nothing proves something only beside one that does: tests/test_seal.py plants each encoding and finds
it, and who scans a folder should plant an unsealed control of their own there afterwards.
"""

import base64
import io
import json
import re
import shutil
import sqlite3
import struct
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

CHUNK: Final = 4 << 20
NEEDLE_MIN: Final = 6
"""Shorter ones are in any large file by chance."""


@dataclass(frozen=True, slots=True)
class Canary:
    """Something that must not be on the disk: a text, the bytes of a template, or its floats."""

    name: str
    plain: str | bytes | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A canary was found. Says where and how, not what."""

    canary: str
    encoding: str
    path: Path
    offset: int
    layer: str = ""
    """Where it is packed: the offset is one of what was unpacked."""


def _base64s(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """What of `data` is the same wherever it stands in a longer text in base64: at each of three offsets."""
    for offset in range(3):
        for kind, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            text = encode(bytes(offset) + data)
            skip = (0, 2, 3)[offset]
            # whole groups of 6 bits only: the last ones are mixed with what follows
            whole = (offset + len(data)) * 8 // 6
            yield f"{name} {kind} at {offset}", text[skip:whole]


def _of_text(text: str) -> Iterator[tuple[str, bytes]]:
    forms = {"": text, "upper ": text.upper(), "lower ": text.lower(), "title ": text.title(), "reversed ": text[::-1]}
    for form, value in forms.items():
        utf8 = value.encode()
        yield f"{form}utf-8", utf8
        for coding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            yield f"{form}{coding}", value.encode(coding)
        yield f"{form}json", json.dumps(value)[1:-1].encode()
        yield f"{form}url", urllib.parse.quote(value).encode()
        yield f"{form}url+", urllib.parse.quote_plus(value).encode()
        yield from _of_bytes(utf8, form)
    yield "filler <", text.replace(" ", "<").upper().encode()


def _of_bytes(data: bytes, form: str = "") -> Iterator[tuple[str, bytes]]:
    yield f"{form}raw", data
    yield f"{form}backwards", data[::-1]
    yield f"{form}hex", data.hex().encode()
    yield f"{form}HEX", data.hex().upper().encode()
    yield f"{form}hex with blanks", data.hex(" ").encode()
    yield f"{form}hex with colons", data.hex(":").encode()
    yield from _base64s(data, f"{form}".strip())


def _of_floats(values: tuple[float, ...]) -> Iterator[tuple[str, bytes]]:
    """A run of a template suffices: pieces of four numbers, the first, one from the middle, the last."""
    for start in sorted({0, len(values) // 2, max(0, len(values) - 4)}):
        piece = values[start : start + 4]
        for order, order_name in (("<", "le"), (">", "be")):
            for width, width_name in (("f", "float32"), ("d", "float64"), ("e", "float16")):
                packed = struct.pack(f"{order}{len(piece)}{width}", *piece)
                yield from ((f"{width_name} {order_name} {n}", d) for n, d in _of_bytes(packed))
        single = [struct.unpack("<f", struct.pack("<f", v))[0] for v in piece]
        for name, numbers in (("decimal", list(piece)), ("decimal of float32", single)):
            for separator in (",", ", ", " ", "\n"):
                yield name, separator.join(repr(n) for n in numbers).encode()


def needles(canary: Canary) -> Mapping[bytes, str]:
    """Every byte string that would give the canary away -> its encoding's name."""
    plain = canary.plain
    if not isinstance(plain, tuple) and len(plain) < NEEDLE_MIN:
        raise ValueError(f"the canary {canary.name} is too short to be told from chance")
    if isinstance(plain, str):
        coded = _of_text(plain)
    elif isinstance(plain, bytes):
        coded = _template(plain)
    else:
        coded = _of_floats(plain)
    wanted: dict[bytes, str] = {}
    for name, data in coded:
        if len(data) >= NEEDLE_MIN:
            wanted.setdefault(data, name.strip())
    return wanted


def _template(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Pieces of 24 bytes, so that a part of it is found too; and its numbers, where it may be float32."""
    for start in sorted({0, len(data) // 2 // 4 * 4, max(0, len(data) - 24)}):
        yield from _of_bytes(data[start : start + 24])
    if len(data) % 4 == 0 and len(data) >= 16:
        values = struct.unpack(f"<{len(data) // 4}f", data)
        if all(v == v and abs(v) < 1e6 for v in values):
            yield from _of_floats(values)


def found(canaries: Iterable[Canary], *places: Path) -> list[Hit]:
    """The first hit of each canary in each encoding in each file under `places` (files or folders), and in whatever is
    packed in it (`layers`)."""
    wanted = [(canary.name, data, name) for canary in canaries for data, name in needles(canary).items()]
    if not wanted:
        raise ValueError("a scan for nothing finds nothing: give it canaries")
    index = _Index(wanted)
    hits: list[Hit] = []
    for path in sorted({p for place in places for p in (place.rglob("*") if place.is_dir() else (place,))}):
        if not path.is_file():
            continue
        seen: set[tuple[str, str]] = set()
        for layer, at, canary, name in _in_file(index, path):
            if (canary, name) not in seen:
                seen.add((canary, name))
                hits.append(Hit(canary, name, path, at, layer))
    return hits


def _in_file(index: "_Index", path: Path) -> Iterator[tuple[str, int, str, str]]:
    with path.open("rb") as file:
        offset, tail = 0, b""
        while chunk := file.read(CHUNK):
            window = tail + chunk
            for at, canary, name in index.search(window):
                yield "", offset - len(tail) + at, canary, name
            offset += len(chunk)
            tail = window[-index.keep :] if index.keep else b""
    if offset <= UNPACKED_MAX:
        for layer, data in (*layers(path.read_bytes()), *_cells(path)):
            for at, canary, name in index.search(data):
                yield layer, at, canary, name


class _Index:
    """All needles by their first six bytes, so that a file is read once however many there are."""

    _BITS = 22

    def __init__(self, wanted: Iterable[tuple[str, bytes, str]]) -> None:
        self._by_start: dict[bytes, list[tuple[str, bytes, str]]] = {}
        for each in wanted:
            self._by_start.setdefault(each[1][:NEEDLE_MIN], []).append(each)
        self.keep = max(len(data) for found in self._by_start.values() for _, data, _ in found) - 1
        self._table = np.zeros(1 << self._BITS, bool)
        for start in self._by_start:
            self._table[self._slots(start)] = True

    def _slots(self, data: bytes) -> npt.NDArray[np.uint64]:
        """A number for the six bytes at each place."""
        given, count = np.frombuffer(data, np.uint8), len(data) - NEEDLE_MIN + 1
        starts = given[:count].astype(np.uint64)
        for k in range(1, NEEDLE_MIN):
            starts |= given[k : k + count].astype(np.uint64) << np.uint64(8 * k)
        slots: npt.NDArray[np.uint64] = (starts * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self._BITS)
        return slots

    def search(self, data: bytes) -> Iterator[tuple[int, str, str]]:
        """(offset, canary, encoding) of every needle."""
        if len(data) < NEEDLE_MIN:
            return
        for at in np.flatnonzero(self._table[self._slots(data)]):
            for canary, needle, name in self._by_start.get(data[at : at + NEEDLE_MIN], ()):
                if data.startswith(needle, int(at)):
                    yield int(at), canary, name


# -- what is packed ------------------------------------------------------------------------------------------------

UNPACKED_MAX: Final = 64 << 20
"""Larger files are searched as they lie; of what is packed no more is unpacked."""
DEPTH_MAX: Final = 5
_ZSTD: Final = re.compile(rb"\x28\xb5\x2f\xfd")
_DEFLATED: Final = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{40,}")
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2}){24,}")
_STARTS: Final = (_ZSTD, _DEFLATED)


def layers(data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """What is packed in `data`, wherever it begins, and what is packed in that: (zstd, deflate, base64 or hex in the
    order of unpacking, bytes). What breaks off is unpacked as far as it goes."""
    if depth == DEPTH_MAX:
        return
    for name, inside in _packed(data):
        yield name, inside
        yield from ((f"{name}, {then}", deeper) for then, deeper in layers(inside, depth + 1))


def _packed(data: bytes) -> Iterator[tuple[str, bytes]]:
    view = memoryview(data)
    for match in _ZSTD.finditer(data):
        if inside := _unzstd(view[match.start() :]):
            yield "zstd", inside
    for match in _DEFLATED.finditer(data):
        if len(inside := _inflated(view[match.start() :])) >= 16:
            yield "deflate", inside
    for match in _HEX.finditer(data):
        yield "hex", bytes.fromhex(match[0].decode())
    for match in _BASE64.finditer(data):
        text = match[0].replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            inside = base64.b64decode(text[start : start + (len(text) - start) // 4 * 4])
            # where the run does not begin with the text, only what begins like something packed is worth a look
            if start == 0 or any(each.match(inside) for each in _STARTS):
                yield "base64", inside


def _unzstd(data: memoryview) -> bytes:
    found = b""
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_size=1 << 16)
    try:
        while len(found) < UNPACKED_MAX and (piece := reader.read(1 << 16)):
            found += piece
    except zstandard.ZstdError:
        return found  # by chance these bytes begin like it, or it breaks off
    return found


def _inflated(data: memoryview) -> bytes:
    decompressor, found = zlib.decompressobj(47), b""
    try:
        for start in range(0, len(data), 1 << 12):
            found += decompressor.decompress(data[start : start + (1 << 12)], UNPACKED_MAX)
            if decompressor.eof or len(found) > UNPACKED_MAX:
                break
    except zlib.error:
        return found
    return found


def _cells(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every text and blob of a SQLite database, each whole (in the file a long one lies in pieces), its WAL included;
    and what is packed in them."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, path.name)
        for name in (path.name, f"{path.name}-wal"):
            if path.with_name(name).exists():
                shutil.copyfile(path.with_name(name), copy.with_name(name))
        with closing(sqlite3.connect(copy)) as sql:
            sql.text_factory = bytes
            try:
                for value, table in _values(sql):
                    yield f"a value of {table}", value
                    yield from ((f"a value of {table}, {how}", deeper) for how, deeper in layers(value))
            except sqlite3.DatabaseError:
                return  # it begins like one; it was searched as it lies


def _values(sql: sqlite3.Connection) -> Iterator[tuple[bytes, str]]:
    for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        table = name.decode()
        for row in sql.execute(f'SELECT * FROM "{table}"'):
            yield from ((value, table) for value in row if isinstance(value, bytes) and len(value) >= NEEDLE_MIN)
