"""Finger templates and pictures under hostile input: only the module's own error; what is accepted comes back whole.

The long run (`-m slow`) is a million inputs and prints its figures; the short one is the same on fewer.
"""

import resource
import struct
import time
import tomllib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

from gated.biometrics.finger import FingerError, OnnxFingerEngine
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.prints import PIXELS_MAX, SIDE_PX_MAX, PrintError, read_print
from gated.biometrics.template import FingerTemplate, Format, TemplateError, decode, encode
from gated.icao.fingers import Finger
from tests.networks import networks
from tests.test_prints import IN_CM, RIDGES, tiff

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass
class Tally:
    """What became of how many inputs, and what the slowest of them cost."""

    read: int = 0
    refused: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    grown_mib: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.read + self.refused + self.foreign.total()} inputs: {self.read} read, {self.refused} refused, "
            f"{self.foreign.total()} foreign exceptions; slowest {self.slowest_s * 1e3:.1f} ms, "
            f"memory grew by {self.grown_mib:.0f} MiB"
        )


def tried(inputs: Iterator[bytes], own: type[Exception], reader: Callable[[bytes], None]) -> Tally:
    tally = Tally()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in inputs:
        started = time.perf_counter()
        try:
            reader(data)
            tally.read += 1
        except own:
            tally.refused += 1
        except Exception as error:  # noqa: BLE001 - what this is looking for
            tally.foreign[f"{type(error).__name__}: {error}"] += 1
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - started)
    tally.grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return tally


def mutated(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` with one thing wrong with it, wherever it may be."""
    bad = bytearray(data)
    at = rng.randrange(len(bad) + 1)
    kind = rng.randrange(8)
    if kind == 0 and bad:
        for _ in range(rng.choice((1, 1, 2, 8))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del bad[at:]
    elif kind == 2:
        bad[at:at] = rng.randbytes(rng.choice((1, 2, 6, 40)))
    elif kind == 3:
        del bad[at : at + rng.choice((1, 2, 6, 40))]
    elif kind == 4:
        width = rng.choice((1, 2, 4))
        value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
        bad[at : at + width] = value.to_bytes(width, rng.choice(("big", "little")))
    elif kind == 5:
        other = rng.choice(others)
        bad[at:] = other[rng.randrange(len(other) + 1) :]
    elif kind == 6:
        again = bad[at : at + rng.randrange(1, 64)]
        bad[at:at] = again * rng.choice((1, 2, 20))
    else:
        bad[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))
    return bytes(bad)


def several(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = mutated(rng, data, others)
    return data


# Templates


def records() -> list[bytes]:
    """Golden records of both formats, and written ones from no minutiae to as many as there can be."""
    found = []
    for name in ("iso19794_2.toml", "ansi378.toml"):
        golden = tomllib.loads((Path(__file__).parent / "golden" / name).read_text())
        found += [bytes.fromhex(vector["hex"]) for kind in ("record", "refused") for vector in golden[kind]]
    random = np.random.default_rng(7)
    for count in (0, 1, 12, 60, 255):
        minutiae = Minutiae(
            x=random.uniform(0, 299, count).astype(np.float32),
            y=random.uniform(0, 399, count).astype(np.float32),
            angle=random.uniform(0, 6.28, count).astype(np.float32),
            kind=random.integers(0, 3, count, np.uint8),
            quality=random.integers(0, 101, count, np.uint8),
            width=300,
            height=400,
        )
        found += [encode(FingerTemplate.of(minutiae, Finger.LEFT_INDEX, 60, format)) for format in Format]
    return found


def hostile_records(count: int, seed: int) -> Iterator[bytes]:
    """Most say their own length rightly and many begin well, or the rest of the reader would hardly be reached."""
    rng, seeds = Random(seed), records()
    for _ in range(count):
        if rng.random() < 0.02:
            data = b"FMR\0 20\0" + rng.randbytes(rng.randrange(200))
        else:
            data = rng.choice(seeds)
            well = rng.choice((0, 0, 20, 24, 28))
            data = data[:well] + several(rng, data[well:], seeds)
        if rng.random() < 0.8 and len(data) >= 12:
            length = len(data).to_bytes(4)
            data = data[:8] + (length if data[8:10] == b"\0\0" else length[2:] + data[10:12]) + data[12:]
        yield data


def read_template(data: bytes) -> None:
    template = decode(data)
    assert encode(template) == data
    for view in template.views:
        minutiae = view.minutiae
        assert len(minutiae) == len(view.points) <= 255
        assert not len(minutiae) or (minutiae.x.max() <= minutiae.width and minutiae.y.max() <= minutiae.height)
        assert not len(minutiae) or (minutiae.angle.max() < 6.2832 and minutiae.quality.max() <= 100)


# Pictures


def pictures() -> list[bytes]:
    """One of each kind that is read, some of them twice as large as there is any use for."""
    coloured = np.stack([RIDGES, RIDGES // 2, 255 - RIDGES], axis=2)
    found = [b"P5\n64 90\n255\n" + RIDGES.tobytes(), b"P5 # said\n64 90 15\n" + (RIDGES // 16).tobytes()]
    for picture in (RIDGES, coloured, np.tile(RIDGES, (6, 8))):
        for extension, flags in (
            (".png", []),
            (".bmp", []),
            (".jpg", []),
            (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
            (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
            (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
            (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 32946]),
            (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 32773]),
        ):
            found.append(cv2.imencode(extension, picture, flags)[1].tobytes())
    found.append(cv2.imencode(".png", RIDGES.astype(np.uint16) * 257)[1].tobytes())
    return [*found, tiff(RIDGES), tiff(RIDGES, IN_CM, ">"), tiff(255 - RIDGES, {262: (3, 1, 0)})]


def mended_png(data: bytes) -> bytes:
    """`data` with checksums that fit, as far as its chunks can be followed."""
    good, at = bytearray(data), 8
    while at + 12 <= len(good):
        end = at + 8 + int.from_bytes(good[at : at + 4])
        if end + 4 > len(good):
            break
        good[end : end + 4] = zlib.crc32(good[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(good)


def reinflated_png(rng: Random, data: bytes) -> bytes:
    """Another width and height, and rows that are damaged before they are deflated."""
    rows = mutated(rng, b"".join(b"\0" + row.tobytes() for row in RIDGES), [bytes(5000)])
    head = struct.pack(">2I5B", rng.choice((32, 64, 4000)), rng.choice((32, 90, 1000)), rng.choice((1, 2, 4, 8, 16)), *(
        rng.choice((0, 2, 3, 4, 6)), 0, 0, rng.randrange(2))
    )  # fmt: skip
    parts = ((b"IHDR", head), (b"PLTE", rng.randbytes(48)), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return mended_png(
        data[:8] + b"".join(struct.pack(">I", len(each)) + kind + each + bytes(4) for kind, each in parts)
    )


def hostile_pictures(count: int, seed: int) -> Iterator[bytes]:
    rng, seeds = Random(seed), pictures()
    for _ in range(count):
        data = rng.choice(seeds)
        if rng.random() < 0.5:  # the header is where the sizes are
            front = rng.choice((32, 64, 200))
            data = several(rng, data[:front], [each[:front] for each in seeds]) + data[front:]
        else:
            data = several(rng, data, seeds)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = reinflated_png(rng, data) if rng.random() < 0.3 else mended_png(data)
        yield data


def read_picture(data: bytes) -> None:
    picture, ppi = read_print(data)
    assert picture.dtype == np.uint8 and picture.ndim == 2 and picture.size <= PIXELS_MAX
    assert max(picture.shape) <= SIDE_PX_MAX and 250 <= ppi <= 1200


MEMORY_MIB_MAX = 256
"""A picture of four million pixels, decoded from colour, and what a decoder needs beside it."""


def check(tally: Tally) -> None:
    assert not tally.foreign, tally.foreign.most_common(5)
    assert tally.read and tally.refused, tally
    assert tally.grown_mib < MEMORY_MIB_MAX, tally


def test_templates() -> None:
    check(tried(hostile_records(20_000, 1), TemplateError, read_template))


def test_pictures() -> None:
    check(tried(hostile_pictures(1_000, 2), PrintError, read_picture))


# The engine


def hostile_arrays() -> Iterator[tuple[object, float]]:
    """Pictures that are none, and pictures of nothing, with resolutions that are none."""
    rng = np.random.default_rng(9)
    noise = rng.integers(0, 256, (200, 160), np.uint8)
    strange: list[object] = [None, "picture", b"bytes", 7, [[1, 2], [3, 4]], np.array(7, np.uint8), noise.tolist()]
    strange += [np.zeros(shape, np.uint8) for shape in ((0,), (0, 0), (0, 9), (9, 0), (64,), (64, 64, 3), (64, 64, 1))]
    strange += [noise.astype(kind) for kind in (np.int8, np.uint16, np.int64, np.float32, np.bool_, np.complex64, "O")]
    strange += [np.full((64, 64), value, np.float64) for value in (np.nan, np.inf, -1)]
    sizes = ((1, 1), (1, 500), (500, 1), (7, 9), (33, 31), (1, 40_000), (30_000, 30_000))
    odd = [np.zeros(size, np.uint8) for size in sizes]
    odd += [np.full((120, 90), value, np.uint8) for value in (0, 1, 127, 255)]
    odd += [noise, noise[::-1, ::-1], noise.T, noise[::3, ::2], np.asfortranarray(noise), 255 - np.tile(RIDGES, (3, 3))]
    checks = (np.indices((150, 150)).sum(0) % 2 * 255).astype(np.uint8)
    checks.flags.writeable = False
    yield from ((each, 500.0) for each in (*strange, *odd, checks))
    for ppi in (0.0, -500.0, 1e-9, 1.0, 72.0, 1e6, 1e300, float("nan"), float("inf"), -float("inf")):
        yield noise, ppi


def test_the_engine_on_hostile_arrays_and_templates() -> None:
    """A `FingerError`, or an answer in its range; whatever it is given."""
    engine = OnnxFingerEngine(networks(), "fmr_1e-3", 1)
    refused = 0
    for image, ppi in hostile_arrays():
        try:
            look = engine.look(image, ppi)
            assert 0 <= look.quality <= 100
            FingerTemplate.of(engine.extract(image, ppi), None, look.quality)
        except FingerError:
            refused += 1
    assert refused
    minutiae = decode(records()[0]).views[0].minutiae
    tally = tried(hostile_records(300, 5), FingerError, lambda data: _in_range(engine.score(minutiae, data)))
    assert not tally.foreign and tally.refused, tally


def _in_range(score: float) -> None:
    assert 0 <= score <= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million(capsys: pytest.CaptureFixture[str]) -> None:
    templates = tried(hostile_records(900_000, 3), TemplateError, read_template)
    shown = tried(hostile_pictures(100_000, 4), PrintError, read_picture)
    with capsys.disabled():
        print(f"\ntemplates: {templates}\npictures: {shown}")
    check(templates)
    check(shown)
