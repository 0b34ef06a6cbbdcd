"""Finger pictures from files: what a laboratory or an office hands over, as grey pixels with their resolution.

Sizes are checked in a file's own header before anything is decoded, and decoders see only the parts they need, so time
and memory stay bounded whatever the file holds. Errors say what to do and never what a picture shows.
"""

import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from gated.biometrics.finger import FingerError
from gated.biometrics.minutiae import PPI
from gated.biometrics.template import ppi_of

Picture = npt.NDArray[np.uint8]

BYTES_MAX = 16 << 20
SIDE_PX_MIN, SIDE_PX_MAX = 32, 4096
PIXELS_MAX = 4_000_000
"""2000 x 2000: two inches at 1000 pixels an inch, more than any one finger."""
PPI_MIN, PPI_MAX = 250.0, 1200.0
"""What a scanner of fingers has; a file that claims anything else (72, 96) was never told."""

_PARTS_MAX = 16384
"""Chunks of a PNG, segments of a JPEG."""
_SCANS_MAX = 32
"""A progressive JPEG has about ten; each one costs a pass over the whole picture, however small it is."""
_BMP_HEADERS = {40, 52, 56, 64, 108, 124}
_JPEG_LEFT_OUT = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Applications' segments (Exif, profiles, previews) and comments; only JFIF's and Adobe's say how pixels are meant."""
_TIFF_TAGS_MAX = 128
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}
_TIFF_NEVER = {322, 323, 330, 32997, 32998}
"""Tiles, pictures inside, depth: sizes beside the picture's own."""
_TIFF_MEANT = {258: {8}, 259: {1, 5, 8, 32773, 32946}, 262: {0, 1, 2, 3}, 277: {1, 2, 3, 4}}
"""Bits; not compressed, LZW, deflate, PackBits, deflate's old number; grey, RGB or palette; samples a pixel."""
_PGM = re.compile(rb"P5" + rb"(?:\s|#[^\n]*\n)+(\d{1,5})" * 3 + rb"\s")
_WSQ = "a WSQ file is not read: convert it to PNG (with `dwsq` of NIST's NBIS, for instance) and keep its resolution"
_UNKNOWN = (
    "no picture that is read: PNG, BMP, JPEG, TIFF or binary PGM is meant; to raw pixels put a PGM header in front, "
    "`P5 WIDTH HEIGHT 255` and one line feed"
)


class PrintError(FingerError):
    """What was given is no finger's picture that is read. The text never says what it shows."""


class _Found(NamedTuple):
    """What a header says, and what the decoder shall see. `x_px_cm`, `y_px_cm`: 0 where it does not tell."""

    width: int
    height: int
    x_px_cm: float
    y_px_cm: float
    data: bytes


def read_print(source: Path | bytes, ppi: float | None = None) -> tuple[Picture, float]:
    """The picture in a file, or in a file's bytes: uint8 (h, w), and its resolution in pixels an inch.

    `ppi`: what it is known to be, 250 to 1200; without it, what the file says where that is believable, else 500.
    Colours become grey; ridges must be dark, nothing is inverted or turned. Raises `PrintError`."""
    if ppi is not None and not PPI_MIN <= ppi <= PPI_MAX:
        raise PrintError(f"a resolution of {PPI_MIN:.0f} to {PPI_MAX:.0f} pixels an inch is meant")
    data = _bytes(source)
    try:
        found, picture = _read(data)
    except (struct.error, IndexError):
        raise PrintError("the file ends within its header") from None
    return picture, _ppi(found) if ppi is None else float(ppi)


def _bytes(source: Path | bytes) -> bytes:
    if not isinstance(source, Path):
        data = source
    else:
        try:
            with source.open("rb") as file:
                data = file.read(BYTES_MAX + 1)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "this cannot be a file's name"
            raise PrintError(f"the file cannot be read: {why}") from None
    if len(data) > BYTES_MAX:
        raise PrintError(f"a file of more than {BYTES_MAX >> 20} MiB is not read")
    return bytes(data)


def _read(data: bytes) -> tuple[_Found, Picture]:
    if data.startswith(b"\xff\xa0"):
        raise PrintError(_WSQ)
    if data.startswith(b"P5"):
        return _pgm(data)
    for magic, header in _HEADERS.items():
        if data.startswith(magic):
            found = header(data)
            _check_size(found.width, found.height)
            return found, _decoded(found)
    raise PrintError(_UNKNOWN)


def _check_size(width: int, height: int) -> None:
    if min(width, height) < SIDE_PX_MIN:
        raise PrintError(f"a picture with a side below {SIDE_PX_MIN} pixels is no finger's")
    if max(width, height) > SIDE_PX_MAX or width * height > PIXELS_MAX:
        raise PrintError(
            f"a picture above {PIXELS_MAX} pixels, or with a side above {SIDE_PX_MAX}, is not read: cut the finger out"
        )


def _decoded(found: _Found) -> Picture:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(found.data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise PrintError("the picture is damaged, or of a kind that is not read: save it anew as a grey PNG")
    if picture.shape != (found.height, found.width) or picture.dtype != np.uint8:
        raise PrintError("the picture's size is not the one that its header says")
    return np.ascontiguousarray(picture, np.uint8)


def _ppi(found: _Found) -> float:
    """What the file says, where both directions agree and a scanner of fingers can have it; else 500."""
    x, y = ppi_of(found.x_px_cm), ppi_of(found.y_px_cm)
    believable = PPI_MIN <= x <= PPI_MAX and math.isclose(x, y, rel_tol=0.01)
    return round(x, 1) if believable else float(PPI)


def _png(data: bytes) -> _Found:
    """PNG, third edition: IHDR first, then chunks. Only what makes the pixels is decoded."""
    kept, rows = [data[:8]], []
    at, size = 8, (0, 0)
    density = (0.0, 0.0)
    for _ in range(_PARTS_MAX):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or (at == 8) != (kind == b"IHDR"):
            raise PrintError("the PNG is cut off or its chunks are out of order")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                raise PrintError("the PNG is damaged: a checksum does not fit")
            kept.append(data[at:end])
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, at + 8)
            _check_size(*size)
        elif kind == b"pHYs" and length == 9:
            x, y, unit = struct.unpack_from(">IIB", data, at + 8)
            density = (x / 100, y / 100) if unit == 1 else density
        elif kind == b"IDAT":
            rows.append(data[at + 8 : end - 4])
        elif kind == b"IEND":
            _check_inflated(rows, size[0] * size[1])
            return _Found(*size, *density, b"".join(kept))
        at = end
    raise PrintError(f"a PNG of more than {_PARTS_MAX} chunks is not read: save it anew")


def _check_inflated(rows: list[bytes], pixels: int) -> None:
    """The decoder would inflate whatever stands behind the last row, and 16 MiB can hold sixteen thousand."""
    most = 8 * pixels + 16 * SIDE_PX_MAX
    inflater = zlib.decompressobj()
    left = b"".join(rows)
    while left and not inflater.eof:
        try:
            most -= len(inflater.decompress(left, 1 << 20))
        except zlib.error:
            raise PrintError("the PNG is damaged: its rows cannot be inflated") from None
        if most < 0:
            raise PrintError("a PNG with more rows than its picture has is not read: save it anew")
        left = inflater.unconsumed_tail


def _bmp(data: bytes) -> _Found:
    """Windows bitmaps since version 3 (BITMAPINFOHEADER and what grew out of it)."""
    (head,) = struct.unpack_from("<I", data, 14)
    if head not in _BMP_HEADERS:
        raise PrintError("a BMP of this version is not read: save it anew as a grey PNG")
    width, height, _, _, _, _, x, y = struct.unpack_from("<iiHHIIii", data, 18)
    return _Found(width, abs(height), x / 100, y / 100, data)


def _jpeg(data: bytes) -> _Found:
    """JPEG (ITU-T T.81, annex B): segments up to the first scan. Of the applications' only JFIF and Adobe are kept."""
    if data.count(b"\xff\xda") > _SCANS_MAX:
        raise PrintError(f"a JPEG of more than {_SCANS_MAX} scans is not read: save it anew as a grey PNG")
    if b"\xff\xd9" not in data[-16:]:
        raise PrintError("the JPEG is cut off")
    kept = [data[:2]]
    at, size = 2, (0, 0)
    density = (0.0, 0.0)
    for _ in range(_PARTS_MAX):
        mark, kind, length = struct.unpack_from(">BBH", data, at)
        end = at + 2 + length
        if mark != 0xFF or not 0xC0 <= kind <= 0xFE or 0xD0 <= kind <= 0xD9 or length < 2 or end > len(data):
            raise PrintError("the JPEG is damaged: its segments do not follow each other")
        if kind == 0xDA:
            return _Found(*size, *density, b"".join([*kept, data[at:]]))
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">xHH", data, at + 4)[::-1]
            _check_size(*size)
        if kind == 0xE0 and data[at + 4 : at + 9] == b"JFIF\0" and length >= 16:
            unit, x, y = struct.unpack_from(">BHH", data, at + 11)
            density = (x / 2.54, y / 2.54) if unit == 1 else (float(x), float(y)) if unit == 2 else density
        if kind not in _JPEG_LEFT_OUT:
            kept.append(data[at:end])
        at = end
    raise PrintError(f"a JPEG of more than {_PARTS_MAX} segments is not read: save it anew as a grey PNG")


def _tiff(data: bytes) -> _Found:
    """TIFF 6.0, the first picture of the file; strips of 8-bit pixels, in what a strip cannot outgrow."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    if count > _TIFF_TAGS_MAX:
        raise PrintError("a TIFF with more fields than any picture needs is not read")
    tags = dict(_tiff_tag(data, at + 2 + 12 * number, order) for number in range(count))
    if len(tags) != count:
        raise PrintError("the TIFF is damaged: a field is there twice")
    if tags.keys() & _TIFF_NEVER:
        raise PrintError("a TIFF in tiles, in layers or with pictures inside is not read: save it anew as a grey PNG")
    if any(tags.get(tag, 1) not in meant for tag, meant in _TIFF_MEANT.items()):
        raise PrintError("a TIFF of this compression, depth or colour is not read: save it anew as a grey PNG")
    per_cm = {2: 1 / 2.54, 3: 1.0}.get(int(tags.get(296, 2)), 0.0)
    width, height = int(tags.get(256, 0)), int(tags.get(257, 0))
    return _Found(width, height, tags.get(282, 0.0) * per_cm, tags.get(283, 0.0) * per_cm, data)


def _tiff_tag(data: bytes, at: int, order: str) -> tuple[int, float]:
    """Number and first value of the field at `at`; 0 for a kind of value that no field read here has."""
    tag, kind, count = struct.unpack_from(order + "HHI", data, at)
    size = _TIFF_SIZES.get(kind, 0) * count
    if size > len(data):
        raise PrintError("the TIFF is damaged: a field is longer than the file")
    value_at = at + 8 if size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
    if kind == 5:
        above, below = struct.unpack_from(order + "II", data, value_at)
        return tag, above / below if below else 0.0
    letter = {1: "B", 3: "H", 4: "I"}.get(kind)
    return tag, struct.unpack_from(order + letter, data, value_at)[0] if letter and count else 0


def _pgm(data: bytes) -> tuple[_Found, Picture]:
    """Binary PGM (Netpbm): P5, width, height, greatest value, one blank, rows. Only here nothing is compressed."""
    match = _PGM.match(data[:1024])
    if match is None:
        raise PrintError("the PGM's header is not `P5 WIDTH HEIGHT 255`")
    width, height, top = map(int, match.groups())
    _check_size(width, height)
    if not 0 < top <= 255:
        raise PrintError("a PGM of more than 8 bits a pixel is not read: save it with 255 as its greatest value")
    if len(data) - match.end() < width * height:
        raise PrintError("the PGM is cut off")
    picture = np.frombuffer(data, np.uint8, width * height, match.end()).reshape(height, width)
    if top != 255:
        picture = np.minimum(picture.astype(np.uint16) * 255 // top, 255).astype(np.uint8)
    return _Found(width, height, 0.0, 0.0, b""), picture.copy()


_HEADERS = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"\xff\xd8\xff": _jpeg,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
}
