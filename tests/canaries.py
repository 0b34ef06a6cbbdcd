"""Looks for planted personal data in every usual encoding in all files of a folder.

A scan that finds nothing proves something only beside one that does: tests/test_seal.py plants each encoding and finds
it, and who scans a folder should plant an unsealed control of their own there afterwards.
"""

import base64
import json
import struct
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    """The first hit of each canary in each encoding in each file under `places` (files or folders)."""
    wanted = [(canary.name, data, name) for canary in canaries for data, name in needles(canary).items()]
    if not wanted:
        raise ValueError("a scan for nothing finds nothing: give it canaries")
    keep = max(len(data) for _, data, _ in wanted) - 1
    hits: list[Hit] = []
    for path in sorted(
        p for place in places for p in (place.rglob("*") if place.is_dir() else (place,)) if p.is_file()
    ):
        seen: set[tuple[str, str]] = set()
        with path.open("rb") as file:
            offset, tail = 0, b""
            while chunk := file.read(CHUNK):
                window = tail + chunk
                for canary, data, name in wanted:
                    if (canary, name) not in seen and (at := window.find(data)) >= 0:
                        seen.add((canary, name))
                        hits.append(Hit(canary, name, path, offset - len(tail) + at))
                offset += len(chunk)
                tail = window[-keep:] if keep else b""
    return hits
