"""Finger templates: golden records field by field, round trips of both formats, what is refused, nothing is shown."""

import math
import struct
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.biometrics.minutiae import Minutiae
from gated.biometrics.template import (
    MINUTIAE_MAX,
    POINT,
    VIEWS_MAX,
    FingerTemplate,
    Format,
    Header,
    TemplateError,
    View,
    decode,
    encode,
    ppi_of,
)
from gated.icao.fingers import Finger
from tests.data import shared_data

GOLDEN = {
    format: tomllib.loads((Path(__file__).parent / "golden" / name).read_text())
    for format, name in ((Format.ISO, "iso19794_2.toml"), (Format.ANSI, "ansi378.toml"))
}


def vectors(kind: str) -> list[Any]:
    return [
        pytest.param(format, vector, id=f"{format} {vector.get('name', vector['cite'])}")
        for format, golden in GOLDEN.items()
        for vector in golden[kind]
    ]


@pytest.mark.parametrize(("format", "vector"), vectors("record"))
def test_golden_records_are_read_field_by_field_and_written_back(format: Format, vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    template = decode(data)
    assert template.header == Header(format, **vector["header"])
    assert len(template.views) == len(vector["view"])
    for view, expected in zip(template.views, vector["view"], strict=True):
        for name in ("position", "number", "impression", "quality"):
            assert getattr(view, name) == expected[name], name
        assert view.finger == (Finger(expected["finger"]) if "finger" in expected else None)
        assert view.extended == bytes.fromhex(expected["extended"])
        points = [[x >> 14, x & 0x3FFF, y, angle, quality] for x, y, angle, quality in view.points.tolist()]
        assert points == expected["minutiae"]
        if "at_500_ppi" in expected:
            minutiae = view.minutiae
            got = np.stack([minutiae.x, minutiae.y, np.degrees(minutiae.angle)], axis=1)
            assert np.abs(got - expected["at_500_ppi"]).max() < 1e-3
    assert encode(template) == data


@pytest.mark.parametrize(("format", "vector"), vectors("refused"))
def test_golden_refusals_name_field_and_byte(format: Format, vector: dict[str, Any]) -> None:
    with pytest.raises(TemplateError) as error:
        decode(bytes.fromhex(vector["hex"]))
    assert (error.value.field, error.value.offset) == (vector["field"], vector["offset"])
    assert str(error.value).startswith(f"{vector['field']} at byte {vector['offset']}: ")


def test_the_annex_at_500_ppi() -> None:
    """197 pixels a centimetre are 500 an inch: nothing moves. The annex prints 112 and 172 degrees for these two."""
    view = decode(bytes.fromhex(GOLDEN[Format.ISO]["record"][0]["hex"])).views[0]
    minutiae = view.minutiae
    assert (minutiae.width, minutiae.height, len(minutiae)) == (512, 512, 27)
    assert (minutiae.x[0], minutiae.y[0], minutiae.kind[0], minutiae.quality[0]) == (100, 14, 1, 90)
    assert abs(math.degrees(minutiae.angle[0]) - 112) < 1
    assert abs(math.degrees(minutiae.angle[26]) - 172) < 1


@pytest.mark.parametrize(
    ("px_cm", "ppi"), [(197, 500), (196, 497.84), (200, 508), (394, 1000), (98, 250), (99, 251.46), (196.85, 500)]
)
def test_whole_pixels_a_centimetre_mean_nominal_pixels_an_inch(px_cm: float, ppi: float) -> None:
    assert ppi_of(px_cm) == pytest.approx(ppi)


def minutiae_of(count: int, rng: np.random.Generator, width: int = 388, height: int = 374) -> Minutiae:
    return Minutiae(
        x=rng.uniform(0, width - 1, count).astype(np.float32),
        y=rng.uniform(0, height - 1, count).astype(np.float32),
        angle=rng.uniform(0, 2 * math.pi, count).astype(np.float32),
        kind=rng.integers(0, 3, count, np.uint8),
        quality=rng.integers(0, 101, count, np.uint8),
        width=width,
        height=height,
    )


@pytest.mark.parametrize("format", list(Format))
def test_minutiae_come_back_within_half_a_step(format: Format) -> None:
    rng = np.random.default_rng(3)
    for count in (0, 1, 40, MINUTIAE_MAX):
        given_ = minutiae_of(count, rng)
        template = decode(encode(FingerTemplate.of(given_, Finger.LEFT_THUMB, 73, format)))
        (view,) = template.views
        assert (view.finger, view.quality, view.number, view.impression) == (Finger.LEFT_THUMB, 73, 0, 0)
        assert (template.header.x_px_cm, template.header.y_px_cm) == (197, 197)
        back = view.minutiae
        assert (back.width, back.height) == (388, 374)
        assert (back.kind == given_.kind).all() and (back.quality == given_.quality).all()
        assert not count or (np.abs(back.x - given_.x).max() <= 0.5 and np.abs(back.y - given_.y).max() <= 0.5)
        turn = (back.angle - given_.angle + math.pi) % (2 * math.pi) - math.pi
        assert not count or np.abs(turn).max() <= math.pi / format.steps + 1e-5


@pytest.mark.parametrize("format", list(Format))
def test_at_the_edge_of_the_picture_and_of_the_turn(format: Format) -> None:
    """The last pixel and the last half step round to what still exists."""
    edge = Minutiae(
        x=np.array([0, 99.6], np.float32),
        y=np.array([49.7, 0], np.float32),
        angle=np.array([2 * math.pi - 1e-4, math.pi], np.float32),
        kind=np.array([1, 2], np.uint8),
        quality=np.array([100, 0], np.uint8),
        width=100,
        height=50,
    )
    back = decode(encode(FingerTemplate.of(edge, None, 0, format))).views[0].minutiae
    assert back.x.tolist() == [0, 99] and back.y.tolist() == [49, 0]
    assert back.angle == pytest.approx([0, math.pi])


def test_of_too_many_minutiae_the_best_are_kept_in_their_order() -> None:
    many = minutiae_of(400, np.random.default_rng(5))
    kept = FingerTemplate.of(many, Finger.RIGHT_INDEX, 50).views[0]
    least = np.sort(many.quality)[::-1][MINUTIAE_MAX - 1]
    assert len(kept.points) == MINUTIAE_MAX and kept.points["quality"].min() == least
    sure = many.quality > least
    among = iter(zip(np.rint(many.x[sure]).tolist(), many.quality[sure].tolist(), strict=True))
    rest = [(x & 0x3FFF, quality) for x, quality in kept.points[["x", "quality"]].tolist() if quality > least]
    assert rest == list(among)


def changed(minutiae: Minutiae, **columns: Any) -> Minutiae:
    names = ("x", "y", "angle", "kind", "quality", "width", "height")
    return Minutiae(**{name: getattr(minutiae, name) for name in names} | columns)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"x": np.array([-1], np.float32)}, "minutiae"),
        ({"y": np.array([400], np.float32)}, "minutiae"),
        ({"x": np.array([math.nan], np.float32)}, "minutiae"),
        ({"angle": np.array([math.inf], np.float32)}, "minutiae"),
        ({"kind": np.array([3], np.uint8)}, "minutiae"),
        ({"width": 16385}, "picture"),
    ],
)
def test_minutiae_that_no_record_can_hold(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(TemplateError) as error:
        FingerTemplate.of(changed(minutiae_of(1, np.random.default_rng(1)), **columns), None, 50)
    assert error.value.field == field


def test_a_quality_beyond_100_is_no_quality() -> None:
    with pytest.raises(TemplateError, match="finger quality"):
        FingerTemplate.of(minutiae_of(1, np.random.default_rng(1)), None, 101)


def test_what_cannot_be_read_back_is_not_written() -> None:
    header = Header(Format.ISO, 100, 100)
    view = View(header, 2, 0, 0, 50, np.zeros(1, POINT))
    assert encode(FingerTemplate(header, (view,)))
    point = np.array([(100, 0, 0, 0)], POINT)
    other = Header(Format.ISO, 101, 100)
    for template in (
        FingerTemplate(header, ()),
        FingerTemplate(header, (view,) * (VIEWS_MAX + 1)),
        FingerTemplate(other, (view,)),
        FingerTemplate(header, (View(header, 2, 16, 0, 50, view.points),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 256, view.points),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 50, point),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 50, np.zeros(256, POINT)),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 50, np.zeros(1, np.uint8)),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 50, view.points, b"\1"),)),
        FingerTemplate(header, (View(header, 2, 0, 0, 50, view.points, bytes(70000)),)),
        FingerTemplate(Header(Format.ISO, 70000, 100), ()),
    ):
        with pytest.raises(TemplateError):
            encode(template)


def test_the_limit_of_bytes_is_the_callers_up_to_where_the_formats_part() -> None:
    header = Header(Format.ISO, 100, 100)
    block = struct.pack(">HH", 0x100, 60000) + bytes(59996)
    data = encode(FingerTemplate(header, (View(header, 2, 0, 0, 50, np.zeros(0, POINT), block),)))
    assert encode(decode(data, bytes_max=10**9)) == data
    with pytest.raises(TemplateError, match="record at byte 8192: longer than is read"):
        decode(data)
    with pytest.raises(TemplateError, match="record at byte 65535: longer than is read"):
        decode(data + bytes(10000), bytes_max=10**9)


def test_nothing_is_shown() -> None:
    """Neither `repr` nor an error may carry what a record holds."""
    template = decode(bytes.fromhex(GOLDEN[Format.ISO]["record"][0]["hex"]))
    assert repr(template) == "FingerTemplate(iso19794-2, 2 views)"
    assert repr(template.views[0]) == "View(27 minutiae)"


@st.composite
def templates(draw: st.DrawFn) -> FingerTemplate:
    """Every field anywhere in its range, unused and reserved ones included."""
    format = draw(st.sampled_from(Format))
    u16, u8 = st.integers(0, 0xFFFF), st.integers(0, 0xFF)
    ansi = format is Format.ANSI
    header = Header(
        format,
        draw(st.integers(1, 0xFFFF)),
        draw(st.integers(1, 0xFFFF)),
        draw(st.integers(39, 788)),
        draw(st.integers(39, 788)),
        draw(u16),
        draw(u16) if ansi else 0,
        draw(u16) if ansi else 0,
        draw(u8),
    )
    point = st.tuples(
        st.integers(0, 2),
        st.integers(0, min(header.width, 0x4000) - 1),
        st.integers(0, min(header.height, 0x4000) - 1),
        st.integers(0, format.steps - 1),
        u8,
    )
    block = st.tuples(u16, st.binary(max_size=40))
    views = []
    for _ in range(draw(st.integers(1, 4))):
        drawn = draw(st.lists(point, max_size=20))
        points = np.array([(kind << 14 | x, *rest) for kind, x, *rest in drawn], POINT)
        blocks = b"".join(struct.pack(">HH", type_, 4 + len(rest)) + rest for type_, rest in draw(st.lists(block)))
        fields = (draw(st.integers(0, 10)), draw(st.integers(0, 15)), draw(st.integers(0, 15)), draw(u8))
        views.append(View(header, *fields, points, blocks))
    return FingerTemplate(header, tuple(views))


@given(templates())
def test_whatever_can_be_written_is_read_back_whole(template: FingerTemplate) -> None:
    data = encode(template)
    back = decode(data)
    assert back.header == template.header and encode(back) == data
    for view, expected in zip(back.views, template.views, strict=True):
        for name in ("position", "number", "impression", "quality", "extended"):
            assert getattr(view, name) == getattr(expected, name)
        assert (view.points == expected.points).all()
        minutiae = view.minutiae
        assert ((minutiae.x >= 0) & (minutiae.x <= minutiae.width)).all()
        assert ((minutiae.y >= 0) & (minutiae.y <= minutiae.height)).all()
        assert ((minutiae.angle >= 0) & (minutiae.angle < 2 * math.pi)).all()
        assert (minutiae.quality <= 100).all() and (minutiae.kind <= 2).all()


@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from(Format), st.sampled_from([None, *Finger]))
def test_what_is_in_whole_steps_survives_both_formats(
    count: int, seed: int, format: Format, finger: Finger | None
) -> None:
    """Values come back exactly, and a second writing gives the very same bytes."""
    whole = minutiae_of(count, np.random.default_rng(seed))
    steps = np.random.default_rng(seed).integers(0, format.steps, count)
    angle = (steps * (2 * math.pi / format.steps)).astype(np.float32)
    given_ = changed(whole, x=np.rint(whole.x), y=np.rint(whole.y), angle=angle)
    data = encode(FingerTemplate.of(given_, finger, 100, format))
    view = decode(data).views[0]
    back = view.minutiae
    for name in ("x", "y", "kind", "quality"):
        assert (getattr(back, name) == getattr(given_, name)).all(), name
    assert np.abs(back.angle - given_.angle).max(initial=0) < 1e-6
    assert view.finger is finger
    assert encode(FingerTemplate.of(back, finger, 100, format)) == data


def test_another_writers_minutiae_are_where_it_says() -> None:
    """nbis-py writes no view header, so its record as a whole is refused; its minutiae are the standard's."""
    nbis = pytest.importorskip("nbis", reason="nbis-py is not installed")
    pictures = sorted((shared_data() / "fingers").glob("*_1.png"))[:4]
    settings = nbis.NbisExtractorSettings(
        min_quality=0.0, get_center=False, check_fingerprint=False, compute_nfiq2=False, ppi=None
    )
    extractor = nbis.new_nbis_extractor(settings)
    for picture in pictures:
        found = extractor.extract_minutiae(picture.read_bytes())
        data, own = found.to_iso_19794_2_2005(), found.get()
        with pytest.raises(TemplateError):
            decode(data)
        size, points = data[14:18], data[26:]
        assert len(points) == 6 * len(own)
        head = b"FMR\0 20\0" + struct.pack(">IH", 30 + len(points), 0) + size + struct.pack(">HHBB", 197, 197, 1, 0)
        minutiae = decode(head + bytes([0, 0, 50, len(own)]) + points + b"\0\0").views[0].minutiae
        assert minutiae.x.tolist() == [each.x() for each in own]
        assert minutiae.y.tolist() == [each.y() for each in own]
        assert np.degrees(minutiae.angle) == pytest.approx([each.angle() for each in own], abs=1e-3)
