"""Finger minutiae records in and out: ISO/IEC 19794-2:2005 and ANSI INCITS 378-2004, byte for byte.

What is accepted is kept whole: `encode(decode(data)) == data`. What could be understood in two ways is refused.
Layouts, sources and limits: docs/templates.md. Nothing shows what a record holds, neither `repr` nor an error.
"""

import math
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gated.biometrics.minutiae import PPI, Minutiae
from gated.icao.fingers import Finger, finger_of

BYTES_MAX = 8192
VIEWS_MAX = 16
MINUTIAE_MAX = 255
BYTES_CAP = 0xFFFF
"""Whatever a caller allows: beyond it the length fields of both formats no longer tell them apart."""

PX_CM = 197
"""How both formats write 500 pixels an inch, in whole pixels a centimetre."""
PX_CM_MIN, PX_CM_MAX = 39, 788
"""100 to 2000 pixels an inch; nothing that reads fingers lies outside of it."""

POINT = np.dtype([("x", ">u2"), ("y", ">u2"), ("angle", "u1"), ("quality", "u1")])
"""One minutia as it is written; the kind is in the upper two bits of `x`, those of `y` are reserved."""
_COORDINATE = 0x3FFF
_VENDOR_UNKNOWN = 0x0103
"""The owner of an ANSI record must not be 0; this one stands for "vendor unknown" with the IBIA."""

_ISO = struct.Struct(">4s4sI5HBB")
_ANSI = struct.Struct(">4s4s8HBB")
_VIEW = struct.Struct(">4B")
_BLOCK = struct.Struct(">HH")
_LENGTH_AT = 8


class TemplateError(ValueError):
    """What was given is no record that is read. Names field and byte; never says what stands there."""

    def __init__(self, field: str, offset: int | None, why: str) -> None:
        super().__init__(f"{field}{'' if offset is None else f' at byte {offset}'}: {why}")
        self.field = field
        self.offset = offset


class Format(StrEnum):
    """Which standard a record follows; the name that stands beside the template in the cache."""

    ISO = "iso19794-2"
    ANSI = "ansi378"

    @property
    def header_bytes(self) -> int:
        return _ISO.size if self is Format.ISO else _ANSI.size

    @property
    def steps(self) -> int:
        """Into how many steps a full turn is divided: of 360/256 degrees (ISO, 7.5.2.3) or of 2 (ANSI, 6.5.2.3)."""
        return 256 if self is Format.ISO else 180


@dataclass(frozen=True, slots=True)
class Header:
    """What a record says about all of its views. `equipment`: 4 bits of certificates, 12 of the device. `width`,
    `height`: pixels. `x_px_cm`, `y_px_cm`: pixels a centimetre. `owner`, `product`: of the writer, ANSI alone."""

    format: Format
    width: int
    height: int
    x_px_cm: int = PX_CM
    y_px_cm: int = PX_CM
    equipment: int = 0
    owner: int = 0
    product: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class View:
    """One impression of one finger. `position`: 0 (unknown) to 10. `number`: 0 to 15 among those of the same finger.
    `impression`: 0 live-scan plain, 1 live-scan rolled, 8 swipe ... `quality`: 0 to 100; above it, not told.

    `points`: POINT (n), as written. `extended`: ridge counts, cores, deltas and vendors' blocks, as written."""

    header: Header
    position: int
    number: int
    impression: int
    quality: int
    points: npt.NDArray[np.void] = field(repr=False)
    extended: bytes = field(repr=False, default=b"")

    @property
    def finger(self) -> Finger | None:
        return finger_of(self.position)

    @property
    def minutiae(self) -> Minutiae:
        """In pixels of a picture at 500 pixels an inch; a quality outside of 0 to 100 becomes 0, not told."""
        x_scale, y_scale = PPI / ppi_of(self.header.x_px_cm), PPI / ppi_of(self.header.y_px_cm)
        turn = self.points["angle"] * (2 * math.pi / self.header.format.steps)
        if x_scale != y_scale:
            turn = np.arctan2(np.sin(turn) * y_scale, np.cos(turn) * x_scale) % (2 * math.pi)
        angle = turn.astype(np.float32)
        angle[angle >= np.float32(2 * math.pi)] = 0.0
        quality = self.points["quality"]
        return Minutiae(
            x=((self.points["x"] & _COORDINATE) * x_scale).astype(np.float32),
            y=((self.points["y"] & _COORDINATE) * y_scale).astype(np.float32),
            angle=angle,
            kind=(self.points["x"] >> 14).astype(np.uint8),
            quality=np.where(quality <= 100, quality, 0).astype(np.uint8),
            width=max(math.ceil(round(self.header.width * x_scale, 3)), 1),
            height=max(math.ceil(round(self.header.height * y_scale, 3)), 1),
        )

    def __repr__(self) -> str:
        return f"View({len(self.points)} minutiae)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FingerTemplate:
    """A record: at least one view, of one finger or several."""

    header: Header
    views: tuple[View, ...] = field(repr=False)

    @classmethod
    def of(cls, minutiae: Minutiae, finger: Finger | None, quality: int, format: Format = Format.ISO) -> Self:
        """A record of one live-scan plain impression at 500 pixels an inch, coordinates rounded to whole pixels.

        `quality`: 0 to 100. Of more than 255 minutiae those of the best quality are kept, in their order. Raises
        `TemplateError` for what the format cannot hold: minutiae outside of the picture, sides above 16384 pixels."""
        if not 0 <= quality <= 100:
            raise TemplateError("finger quality", None, "0 to 100 is meant")
        owner = _VENDOR_UNKNOWN if format is Format.ANSI else 0
        header = Header(format, minutiae.width, minutiae.height, owner=owner)
        position = 0 if finger is None else finger.code
        return cls(header, (View(header, position, 0, 0, quality, _points(minutiae, format.steps)),))

    def __repr__(self) -> str:
        return f"FingerTemplate({self.header.format}, {len(self.views)} views)"


def ppi_of(px_cm: float) -> float:
    """Pixels an inch of a number of pixels a centimetre that was rounded to a whole one: 197 is 500, not 500.38.

    Multiples of 250 are recognised within that rounding; anything else is taken as it stands."""
    ppi = px_cm * 2.54
    nominal = 250.0 * round(ppi / 250)
    return nominal if nominal and abs(ppi - nominal) <= 0.5 * 2.54 else ppi


def decode(data: bytes, *, bytes_max: int = BYTES_MAX) -> FingerTemplate:
    """The record in `data`, which must fill it to the last byte. Raises `TemplateError`, naming field and byte.

    Time and memory are linear in the bytes there are, never in the counts that they claim."""
    limit = min(bytes_max, BYTES_CAP)
    if len(data) > limit:
        raise TemplateError("record", limit, "longer than is read")
    header, count = _header(bytes(data))
    offset = header.format.header_bytes
    views = []
    for _ in range(count):
        view, offset = _view(data, offset, header)
        views.append(view)
    if offset != len(data):
        raise TemplateError("record", offset, "bytes are left behind the last view")
    return FingerTemplate(header, tuple(views))


def encode(template: FingerTemplate) -> bytes:
    """The record's bytes. Raises `TemplateError` for a template that `decode` would not read back."""
    header = template.header
    if any(view.header != header for view in template.views):
        raise TemplateError("view", None, "all views of a record share its header")
    body = b"".join(map(_view_bytes, template.views))
    length = header.format.header_bytes + len(body)
    sizes = (header.width, header.height, header.x_px_cm, header.y_px_cm, len(template.views), header.reserved)
    try:
        if header.format is Format.ISO:
            head = _ISO.pack(b"FMR\0", b" 20\0", length, header.equipment, *sizes)
        else:
            ids = (header.owner, header.product, header.equipment)
            head = _ANSI.pack(b"FMR\0", b" 20\0", length, *ids, *sizes)
    except struct.error:
        raise TemplateError("header", None, "a field does not fit into its bytes") from None
    data = head + body
    decode(data, bytes_max=BYTES_CAP)
    return data


def _format(data: bytes) -> Format:
    """Both standards begin with the same eight bytes; the length behind them has four bytes (ISO) or two (ANSI)."""
    if len(data) < _ISO.size:
        raise TemplateError("record", len(data), "ends within the header")
    if data[:4] != b"FMR\0":
        raise TemplateError("format identifier", 0, "no finger minutiae record")
    version = data[4:8]
    if version in (b"030\0", b"035\0", b" 30\0"):
        raise TemplateError(
            "version",
            4,
            "ISO/IEC 19794-2:2011 and ANSI INCITS 378-2009 are not read: have it written as ISO/IEC 19794-2:2005",
        )
    if version != b" 20\0":
        raise TemplateError("version", 4, "neither ISO/IEC 19794-2:2005 nor ANSI INCITS 378-2004")
    if data[_LENGTH_AT : _LENGTH_AT + 2] != b"\0\0":
        return Format.ANSI
    return Format.ISO


def _header(data: bytes) -> tuple[Header, int]:
    """The header and how many views it claims."""
    format = _format(data)
    if len(data) < format.header_bytes:
        raise TemplateError("record", len(data), "ends within the header")
    owner = product = 0
    if format is Format.ISO:
        _, _, length, equipment, *sizes, count, reserved = _ISO.unpack_from(data)
    else:
        _, _, length, owner, product, equipment, *sizes, count, reserved = _ANSI.unpack_from(data)
    if length != len(data):
        raise TemplateError("record length", _LENGTH_AT, "differs from the bytes that there are")
    sizesat = format.header_bytes - 10
    for at, name, least, most in (
        (0, "picture width", 1, 0xFFFF),
        (1, "picture height", 1, 0xFFFF),
        (2, "horizontal resolution", PX_CM_MIN, PX_CM_MAX),
        (3, "vertical resolution", PX_CM_MIN, PX_CM_MAX),
    ):
        if not least <= sizes[at] <= most:
            raise TemplateError(name, sizesat + 2 * at, f"{least} to {most} is meant")
    if not 1 <= count <= VIEWS_MAX:
        raise TemplateError("number of views", sizesat + 8, f"1 to {VIEWS_MAX} is meant")
    width, height, x_px_cm, y_px_cm = sizes
    return Header(format, width, height, x_px_cm, y_px_cm, equipment, owner, product, reserved), count


def _view(data: bytes, offset: int, header: Header) -> tuple[View, int]:
    """The view at `offset`, and where it ends."""
    points_at = offset + _VIEW.size
    if len(data) < points_at:
        raise TemplateError("view", offset, "the record ends within it")
    position, number_impression, quality, count = _VIEW.unpack_from(data, offset)
    if position > len(Finger):
        raise TemplateError("finger position", offset, f"0 to {len(Finger)} is meant")
    extended_at = points_at + count * POINT.itemsize
    start = extended_at + 2
    if len(data) < start:
        raise TemplateError("number of minutiae", offset + 3, "the record ends before the last one")
    points = np.frombuffer(data, POINT, count, points_at)
    _check_points(points, points_at, header)
    end = start + int.from_bytes(data[extended_at:start])
    if len(data) < end:
        raise TemplateError("length of extended data", extended_at, "the record ends before them")
    _check_blocks(data, start, end)
    view = View(header, position, number_impression >> 4, number_impression & 15, quality, points, data[start:end])
    return view, end


def _check_points(points: npt.NDArray[np.void], offset: int, header: Header) -> None:
    """`offset`: of the first of them. Raises `TemplateError` at the first that cannot be meant."""
    x, y = points["x"], points["y"]
    for name, at, bad, why in (
        ("minutia kind", 0, x >> 14 == 3, "a reserved value"),
        ("minutia x", 0, x & _COORDINATE >= header.width, "outside of the picture"),
        ("minutia y", 2, y > _COORDINATE, "reserved bits are set"),
        ("minutia y", 2, y >= header.height, "outside of the picture"),
        ("minutia angle", 4, points["angle"] >= header.format.steps, "beyond a full turn"),
    ):
        if bad.any():
            raise TemplateError(name, offset + int(bad.argmax()) * POINT.itemsize + at, why)


def _check_blocks(data: bytes, offset: int, end: int) -> None:
    """Extended data are blocks of type, length (its own four bytes included) and content, and nothing else."""
    while offset < end:
        if end - offset < _BLOCK.size:
            raise TemplateError("extended data", offset, "a block's head is cut off")
        _, length = _BLOCK.unpack_from(data, offset)
        if not _BLOCK.size <= length <= end - offset:
            raise TemplateError("length of an extended block", offset + 2, "differs from the bytes that there are")
        offset += length


def _view_bytes(view: View) -> bytes:
    if not (0 <= view.number <= 15 and 0 <= view.impression <= 15):
        raise TemplateError("view number", None, "view number and impression have four bits each")
    if view.points.dtype != POINT or view.points.ndim != 1:
        raise TemplateError("minutiae", None, "points are a one-dimensional array of POINT")
    counts = (view.position, view.number << 4 | view.impression, view.quality, len(view.points))
    try:
        head, length = _VIEW.pack(*counts), struct.pack(">H", len(view.extended))
    except struct.error:
        raise TemplateError("view", None, "a field does not fit into its bytes") from None
    return head + view.points.tobytes() + length + view.extended


def _points(minutiae: Minutiae, steps: int) -> npt.NDArray[np.void]:
    """`minutiae` as they are written, a full turn in `steps`."""
    kept: Any = slice(None)
    if len(minutiae) > MINUTIAE_MAX:
        kept = np.sort(np.argsort(-minutiae.quality.astype(np.int16), kind="stable")[:MINUTIAE_MAX])
    x, y, angle = (column[kept].astype(np.float64) for column in (minutiae.x, minutiae.y, minutiae.angle))
    kind, quality = minutiae.kind[kept], minutiae.quality[kept]
    side = _COORDINATE + 1
    if minutiae.width > side or minutiae.height > side:
        raise TemplateError("picture", None, f"wider or higher than {side} pixels")
    inside = (x >= 0) & (x <= minutiae.width) & (y >= 0) & (y <= minutiae.height)
    if not inside.all():
        raise TemplateError("minutiae", None, "outside of the picture")
    if not np.isfinite(angle).all() or (kind > 2).any():
        raise TemplateError("minutiae", None, "an angle or a kind that does not exist")
    points = np.zeros(len(x), POINT)
    points["x"] = np.minimum(np.rint(x), minutiae.width - 1).astype(np.uint16) | kind.astype(np.uint16) << 14
    points["y"] = np.minimum(np.rint(y), minutiae.height - 1).astype(np.uint16)
    points["angle"] = (np.rint(angle / (2 * math.pi) * steps) % steps).astype(np.uint8)
    points["quality"] = np.minimum(quality, 100)
    return points
