"""Finger pictures from files: formats, resolutions, what is refused before it is decoded. No finger in here."""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gated.biometrics import prints
from gated.biometrics.finger import FingerError
from gated.biometrics.prints import PIXELS_MAX, SIDE_PX_MAX, Picture, PrintError, read_print
from tests.data import shared_data

Y, X = np.mgrid[0:90, 0:64]
RIDGES = (127 + 100 * np.sin(X * 0.7 + Y * 0.2)).astype(np.uint8)
"""Higher than wide, not symmetric, never inverted into itself."""
COLOURED = np.stack([RIDGES, RIDGES, RIDGES], axis=2)


def written(extension: str, picture: Any = RIDGES) -> bytes:
    done, data = cv2.imencode(extension, picture)
    assert done
    return data.tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *before: bytes, rows: bytes | None = None) -> bytes:
    """A grey PNG of `rows`, with chunks `before` them."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in RIDGES) if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(picture: Picture, fields: dict[int, tuple[int, int, int]] | None = None, order: str = "<") -> bytes:
    """A TIFF in one strip of bytes as they are. `fields`: kind, count and value by number."""
    height, width = picture.shape
    entries = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 1000), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, width * height),
    }  # fmt: skip
    entries |= fields or {}
    packed = b"".join(
        struct.pack(order + "HHI", tag, kind, count)
        + (struct.pack(order + "HH", value, 0) if kind == 3 and count == 1 else struct.pack(order + "I", value))
        for tag, (kind, count, value) in sorted(entries.items())
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(entries)) + packed + bytes(4)
    resolution = struct.pack(order + "4I", 19685, 100, 500, 1)
    return b"".join([head.ljust(900, b"\0"), resolution.ljust(100, b"\0"), picture.tobytes()])


IN_CM = {282: (5, 1, 900), 283: (5, 1, 900), 296: (3, 1, 3)}
IN_INCH = {282: (5, 1, 908), 283: (5, 1, 908)}


@pytest.mark.parametrize(
    ("data", "ppi"),
    [
        pytest.param(written(".png"), 500, id="png"),
        pytest.param(written(".png", COLOURED), 500, id="png, coloured"),
        pytest.param(written(".png", RIDGES.astype(np.uint16) * 257), 500, id="png of 16 bits"),
        pytest.param(png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 39370, 39370, 1))), 1000, id="png, 1000 ppi"),
        pytest.param(png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 20000, 20000, 1))), 508, id="png, 508 ppi"),
        pytest.param(png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))), 500, id="png, 72 ppi"),
        pytest.param(png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 39370, 19685, 1))), 500, id="png, x is not y"),
        pytest.param(png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 39370, 39370, 0))), 500, id="png, no unit"),
        pytest.param(png(64, 90, chunk(b"tEXt", b"k\0v"), chunk(b"acTL", bytes(8))), 500, id="png, other chunks"),
        pytest.param(written(".bmp"), 500, id="bmp"),
        pytest.param(written(".bmp", COLOURED), 500, id="bmp, coloured"),
        pytest.param(written(".tif"), 500, id="tiff, LZW"),
        pytest.param(tiff(RIDGES), 500, id="tiff"),
        pytest.param(tiff(RIDGES, None, ">"), 500, id="tiff, big-endian"),
        pytest.param(tiff(255 - RIDGES, {262: (3, 1, 0)}), 500, id="tiff, white is zero"),
        pytest.param(tiff(RIDGES, IN_CM), 500, id="tiff, pixels a centimetre"),
        pytest.param(tiff(RIDGES, IN_INCH), 500, id="tiff, pixels an inch"),
        pytest.param(b"P5\n64 90\n255\n" + RIDGES.tobytes(), 500, id="pgm"),
        pytest.param(b"P5 # a 1 2 3\n64 # b\n\n90\t255 " + RIDGES.tobytes(), 500, id="pgm, comments"),
    ],
)
def test_formats_and_their_resolutions(data: bytes, ppi: float) -> None:
    picture, found = read_print(data)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable
    assert (picture == RIDGES).all()
    assert found == ppi


def jfif(unit: int, density: int) -> bytes:
    data = bytearray(written(".jpg"))
    at = data.index(b"JFIF\0")
    data[at + 7 : at + 12] = struct.pack(">BHH", unit, density, density)
    return bytes(data)


@pytest.mark.parametrize(
    ("unit", "density", "ppi"), [(0, 1, 500), (1, 500, 500), (1, 1000, 1000), (2, 197, 500), (1, 96, 500)]
)
def test_jpeg_and_its_density(unit: int, density: int, ppi: float) -> None:
    picture, found = read_print(jfif(unit, density))
    assert np.abs(picture.astype(int) - RIDGES).mean() < 3
    assert found == ppi


def test_bmp_says_pixels_a_metre() -> None:
    data = bytearray(written(".bmp"))
    struct.pack_into("<ii", data, 38, 39370, 39370)
    assert read_print(bytes(data))[1] == 1000


def test_a_bmp_from_the_top_down() -> None:
    """A negative height turns the rows' order, not the finger."""
    data = bytearray(written(".bmp"))
    struct.pack_into("<i", data, 22, -90)
    assert (read_print(bytes(data))[0] == RIDGES[::-1]).all()


def test_an_orientation_in_the_exif_is_not_followed() -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = written(".jpg")
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:]
    assert read_print(turned)[0].shape == RIDGES.shape


def test_a_pgm_of_fewer_greys_is_stretched() -> None:
    few = RIDGES // 16
    picture, _ = read_print(b"P5 64 90 15\n" + few.tobytes())
    assert (picture == few * 17).all()


def test_what_the_caller_knows_counts() -> None:
    data = png(64, 90, chunk(b"pHYs", struct.pack(">IIB", 39370, 39370, 1)))
    assert read_print(data, 500)[1] == 500
    for ppi in (0, 72, 1201, float("nan"), float("inf"), -500):
        with pytest.raises(PrintError, match="250 to 1200"):
            read_print(data, ppi)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(written(".png"))
    assert (read_print(file)[0] == RIDGES).all()
    for bad in (tmp_path / "none.png", tmp_path, Path("a\0b")):
        with pytest.raises(PrintError, match="the file cannot be read"):
            read_print(bad)


def test_a_file_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "long.pgm"
    with file.open("wb") as out:
        out.truncate(prints.BYTES_MAX + 1)
    with pytest.raises(PrintError, match="more than 16 MiB"):
        read_print(file)


def test_real_fingers_are_read() -> None:
    for file in sorted((shared_data() / "fingers").glob("*_1.png")):
        picture, ppi = read_print(file)
        assert ppi == 500 and picture.ndim == 2 and picture.std() > 10


PROGRESSIVE = bytes(cv2.imencode(".jpg", RIDGES, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    return PROGRESSIVE[:-2] + last * count + PROGRESSIVE[-2:]


BMP_HUGE = bytearray(written(".bmp"))
struct.pack_into("<ii", BMP_HUGE, 18, 60000, -(2**31))
JPEG_HUGE = bytearray(written(".jpg"))
struct.pack_into(">HH", JPEG_HUGE, JPEG_HUGE.index(b"\xff\xc0") + 5, 65500, 65500)
BOMBS = [
    pytest.param(png(60000, 60000, rows=b""), "cut the finger out", id="png"),
    pytest.param(png(0, 90), "side below 32", id="png without width"),
    pytest.param(png(64, 90, rows=bytes(1 << 20)), "more rows than its picture", id="png of rows"),
    pytest.param(png(64, 90, *[chunk(b"tEXt", b"")] * 20000), "more than 16384 chunks", id="png of chunks"),
    pytest.param(bytes(BMP_HUGE), "cut the finger out", id="bmp"),
    pytest.param(bytes(JPEG_HUGE), "cut the finger out", id="jpeg"),
    pytest.param(with_scans(40), "more than 32 scans", id="jpeg of scans"),
    pytest.param(PROGRESSIVE[:2] + b"\xff\xfe\0\2" * 20000 + PROGRESSIVE[2:], "16384 segments", id="jpeg of segments"),
    pytest.param(tiff(RIDGES, {256: (4, 1, 2**31)}), "cut the finger out", id="tiff"),
    pytest.param(tiff(RIDGES, {257: (3, 1, 0)}), "side below 32", id="tiff without height"),
    pytest.param(tiff(RIDGES, {322: (4, 1, 2**30), 323: (4, 1, 2**30)}), "in tiles", id="tiff in tiles"),
    pytest.param(tiff(RIDGES, {277: (3, 1, 60000)}), "depth or colour", id="tiff of samples"),
    pytest.param(tiff(RIDGES, {32997: (4, 1, 2**30)}), "in layers", id="tiff in layers"),
    pytest.param(tiff(RIDGES, {259: (3, 1, 7)}), "compression", id="tiff around a jpeg"),
    pytest.param(tiff(RIDGES, {700: (1, 2**31, 0)}), "longer than the file", id="tiff of claims"),
    pytest.param(b"P5 60000 60000 255\n", "cut the finger out", id="pgm"),
    pytest.param(f"P5 {SIDE_PX_MAX + 1} 32 255\n".encode(), "cut the finger out", id="one side"),
    pytest.param(f"P5 2000 {PIXELS_MAX // 2000 + 1} 255\n".encode(), "cut the finger out", id="one row"),
]


@pytest.mark.parametrize(("data", "says"), BOMBS)
def test_bombs_are_never_decoded(data: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(PrintError, match=says):
        read_print(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"\xff\xa0\xff\xa8\0\0", "WSQ file is not read: convert it to PNG", id="wsq"),
        pytest.param(RIDGES.tobytes(), "to raw pixels put a PGM header in front", id="raw"),
        pytest.param(b"", "no picture that is read", id="nothing"),
        pytest.param(b"GIF89a" + bytes(100), "no picture that is read", id="gif"),
        pytest.param(b"P2 64 90 255\n1 2 3", "no picture that is read", id="plain pgm"),
        pytest.param(b"P5 64 ninety 255\n", "PGM's header", id="pgm of words"),
        pytest.param(b"P5 64 90 65535\n" + bytes(20000), "more than 8 bits", id="pgm of 16 bits"),
        pytest.param(b"P5 64 90 255\n" + bytes(100), "PGM is cut off", id="pgm, cut"),
        pytest.param(written(".png")[:-30], "PNG is cut off", id="png, cut"),
        pytest.param(png(64, 90, png(9000, 9000)[8:33]), "out of order", id="png, two headers"),
        pytest.param(png(64, 90).replace(b"IDAT", b"IDAT\1", 1), "checksum|cut off", id="png, shifted"),
        pytest.param(png(64, 90, rows=bytes(100)), "damaged", id="png of too few rows"),
        pytest.param(written(".jpg")[:-40], "JPEG is cut off", id="jpeg, cut"),
        pytest.param(b"\xff\xd8\xff\xe0\0\2" + bytes(50) + b"\xff\xd9", "do not follow", id="jpeg of nothing"),
        pytest.param(b"\xff\xd8\xff\xda\0\2\xff\xd9", "no finger's", id="jpeg without a size"),
        pytest.param(written(".bmp")[:20], "ends within its header", id="bmp, head"),
        pytest.param(written(".bmp")[:-40], "damaged", id="bmp, cut"),
        pytest.param(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 64, 90, 1, 8) + bytes(9999), "version", id="os/2"),
        pytest.param(tiff(RIDGES)[:-40], "damaged", id="tiff, cut"),
        pytest.param(tiff(RIDGES)[:60], "ends within its header", id="tiff, head"),
        pytest.param(tiff(RIDGES).replace(b"\1\1\4\0", b"\0\1\4\0", 1), "there twice", id="tiff, twice"),
        pytest.param(tiff(RIDGES, {258: (3, 1, 16)}), "depth", id="tiff of 16 bits"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(data: bytes, says: str) -> None:
    with pytest.raises(PrintError, match=says) as error:
        read_print(data)
    assert isinstance(error.value, FingerError) and error.value.__suppress_context__ | (error.value.__context__ is None)
