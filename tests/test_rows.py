"""Rows of the cache: sealed for their own place alone, of one length whatever they tell; keys wrapped for one lane."""

import os
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire.codec import WireError, encode
from gated.wire.rows import (
    CROSSINGS_MAX,
    LINK_PAD_BYTES,
    PLAIN_BYTES_MAX,
    CrossingRow,
    DocumentRow,
    EpochKey,
    FingerRow,
    FlagsRow,
    PermitRow,
    PersonRow,
    of_document,
    of_flags,
    of_personal_number,
    of_status,
    of_subject,
    unwrapped,
    wrapped,
)
from gated.wire.seal import PAD_BYTES, SealError, public_of
from gated.wire.segment import ROW_BYTES_MAX

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "bundle.toml").read_text())
SECRET = bytes(range(32))
KEY = EpochKey.of(SECRET)
OTHER = EpochKey.of(bytes(32))
NONCE = bytes(12)
HERE, THERE = KEY.place("here"), KEY.place("there")
FACE = np.random.default_rng(1).standard_normal(128).astype("<f4").tobytes()
PERSON = PersonRow(
    subject=70001,
    category="citizen",
    birth=date(1987, 6, 5),
    sex="F",
    face=FACE,
    face_model="sface",
    fingers=(FingerRow("right_index", "iso19794-2", b"FMR\0 20\0" + bytes(100)),),
    permits=(PermitRow("residence", date(2025, 1, 1), date(2030, 1, 1)),),
    enrolled_on=date(2025, 2, 2),
)
SMALL = PersonRow(1, "c", date(1987, 6, 5), "M")
FLAGS = FlagsRow(frozenset({"ban"}))
LINK = DocumentRow(70001)
PLACES: dict[str, Callable[..., tuple[str, ...]]] = {
    "subject": of_subject,
    "document": of_document,
    "personal": of_personal_number,
    "flags": of_flags,
    "status": of_status,
}
OVERHEAD = 1 + 12 + 16


def rows() -> st.SearchStrategy[Any]:
    codes = st.text(max_size=20)
    papers = st.text(max_size=8)
    days = st.dates()
    return st.one_of(
        st.builds(DocumentRow, st.integers(0, (1 << 63) - 1), st.none() | days),
        st.builds(FlagsRow, st.frozensets(codes, max_size=10)),
        st.builds(
            PersonRow,
            st.integers(0, (1 << 63) - 1),
            codes,
            days,
            st.sampled_from("MFX"),
            st.none() | st.binary(max_size=2048),
            codes,
            st.lists(st.builds(FingerRow, codes, codes, st.binary(max_size=300)), max_size=3).map(tuple),
            st.lists(st.builds(PermitRow, codes, days, days, st.none() | st.integers(0, 99)), max_size=3).map(tuple),
            st.none() | days,
            st.none() | days,
            st.sampled_from(("counter", "office", "gate", "entry")),
            st.none() | days,
            st.none() | st.integers(0, 250),
            st.lists(
                st.builds(CrossingRow, codes, st.datetimes(timezones=st.just(UTC)), papers, papers), max_size=6
            ).map(tuple),
        ),
    )


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", GOLDEN["places"])
def test_a_place_is_as_it_was_written_down(sort: str) -> None:
    golden = GOLDEN["places"][sort]
    given = [int(part) if part.isdigit() and sort != "personal" else part for part in golden["parts"]]
    assert KEY.place(*PLACES[sort](*given)).hex() == golden["place"]


def test_no_two_sorts_share_a_place() -> None:
    found = [
        of_subject(1),
        of_subject(11),
        of_personal_number("1"),
        of_personal_number("subject"),
        of_document("1", "1"),
        of_document("", "11"),
        of_document("11", ""),
        of_flags(1, 1),
        of_flags(1, 11),
        of_flags(11, 1),
        of_status("1", "1", 1),
        of_status("1", "11", 1),
        of_status("11", "1", 1),
    ]
    assert len({KEY.place(*parts) for parts in found}) == len(found)
    assert not {KEY.place(*parts) for parts in found} & {OTHER.place(*parts) for parts in found}


# -- seals ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rows(), st.binary(min_size=12, max_size=12))
def test_a_row_opens_in_its_place_alone(row: Any, nonce: bytes) -> None:
    blob = KEY.sealed(HERE, row, nonce)
    assert KEY.opened(HERE, blob) == row
    for key, place in ((KEY, THERE), (OTHER, HERE)):
        with pytest.raises(SealError):
            key.opened(place, blob)


@settings(deadline=None)
@given(st.sampled_from([PERSON, SMALL, FLAGS, LINK]), st.data())
def test_an_altered_row_does_not_open(row: Any, data: st.DataObject) -> None:
    blob = bytearray(KEY.sealed(HERE, row, NONCE))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        KEY.opened(HERE, bytes(blob))


def test_the_length_tells_no_number_and_no_flag() -> None:
    def length(row: Any) -> int:
        return len(KEY.sealed(HERE, row, NONCE))

    assert {length(DocumentRow(subject)) for subject in (0, 7, 1 << 30, 10**14)} == {LINK_PAD_BYTES + OVERHEAD}
    several = [frozenset[str](), frozenset({"ban"}), frozenset({"wanted", "arrest", "child"})]
    assert {length(FlagsRow(flags)) for flags in several} == {PAD_BYTES + OVERHEAD}
    assert (length(PERSON) - OVERHEAD) % PAD_BYTES == 0
    assert len({length(replace(PERSON, subject=s, category=c)) for s in (1, 10**9) for c in ("c", "citizen")}) == 1


def test_a_person_with_all_that_is_allowed_fits() -> None:
    """In a row of the greatest length, though noise does not compress."""
    noise = np.random.default_rng(2)
    fingers = tuple(FingerRow(f"f{n}", "iso19794-2", noise.bytes(2000)) for n in range(10))
    full = replace(PERSON, face=noise.bytes(2048), fingers=fingers)
    blob = KEY.sealed(HERE, full, NONCE)
    assert len(blob) <= ROW_BYTES_MAX
    assert KEY.opened(HERE, blob) == full


def test_a_row_of_before_its_newest_fields_is_as_it_was() -> None:
    """So nothing has to be sealed anew for them: digests, lengths and the rows of older epochs stay."""
    old = encode(PERSON)
    assert not any(name in old for name in (b"origin", b"received_on", b"height_cm", b"crossings"))
    assert encode(LINK) == b'{"DocumentRow":{"subject":70001}}'


def test_that_a_document_is_expected_does_not_show() -> None:
    """W9: who holds the file without the key sees no traveller of today, in a register of up to ten million people."""
    links = [DocumentRow(subject, day) for subject in (1, 9_999_999) for day in (None, date(2026, 11, 20))]
    assert {len(KEY.sealed(HERE, link, NONCE)) for link in links} == {LINK_PAD_BYTES + OVERHEAD}


def test_the_last_crossings_and_no_more() -> None:
    utc = datetime(2026, 11, 20, 3, 4, 5, 678901, tzinfo=UTC)
    crossings = tuple(CrossingRow("entry", utc + timedelta(days=n), "TWN", "3") for n in range(CROSSINGS_MAX))
    blob = KEY.sealed(HERE, replace(PERSON, crossings=crossings), NONCE)
    assert KEY.opened(HERE, blob).crossings == crossings
    with pytest.raises(WireError):
        KEY.sealed(HERE, replace(PERSON, crossings=(*crossings, crossings[0])), NONCE)


def test_a_large_row_is_compressed_first() -> None:
    assert len(encode(PERSON)) > PAD_BYTES
    assert len(KEY.sealed(HERE, PERSON, NONCE)) < len(encode(PERSON)) + OVERHEAD


def sealed_plain(plain: bytes) -> bytes:
    return KEY.rows.seal(plain, HERE, NONCE)


MAGIC = b"\x28\xb5\x2f\xfd"
BAD_PLAINS = {
    "nothing": b"",
    "blanks": b" " * 256,
    "no JSON": b"\xff" * 256,
    "another kind": b'{"Head":{}}',
    "a fraction": b'{"DocumentRow":{"subject":1.0}}',
    "true for 1": b'{"DocumentRow":{"subject":true}}',
    "NaN": b'{"DocumentRow":{"subject":NaN}}',
    "a field more": b'{"DocumentRow":{"flags":[],"subject":1}}',
    "two kinds": b'{"DocumentRow":{"subject":1},"FlagsRow":{"flags":[]}}',
    "a flag twice": b'{"FlagsRow":{"flags":["a","a"]}}',
    "flags out of order": b'{"FlagsRow":{"flags":["b","a"]}}',
    "a frame cut": zstandard.ZstdCompressor().compress(encode(PERSON))[:-3],
    "a frame's magic alone": MAGIC,
    "noise in a frame": MAGIC + bytes(range(100)),
    "an empty frame": zstandard.ZstdCompressor().compress(b""),
    "a frame that does not say its length": zstandard.ZstdCompressor(write_content_size=False).compress(encode(PERSON)),
    "a bomb": zstandard.ZstdCompressor().compress(bytes(PLAIN_BYTES_MAX + 1)),
    "a bomb of a gigabyte": MAGIC + b"\xa0" + (1 << 30).to_bytes(4, "little") + b"\x02\x00\x10\x00" * 100,
    "a bomb that says it is small": MAGIC + b"\x20\x10" + b"\x02\x00\x10\x00" * 100,
}


@pytest.mark.parametrize("name", BAD_PLAINS)
def test_what_somebody_with_the_key_sealed_wrongly_is_refused(name: str) -> None:
    with pytest.raises(WireError) as refused:
        KEY.opened(HERE, sealed_plain(BAD_PLAINS[name]))
    assert "70001" not in str(refused.value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400), st.booleans())
def test_noise_under_the_right_key_raises_nothing_else(noise: bytes, frame: bool) -> None:
    plain = MAGIC + noise if frame else noise
    with pytest.raises(WireError):
        KEY.opened(HERE, sealed_plain(plain))


@given(st.binary(max_size=100))
def test_noise_is_no_sealed_row(noise: bytes) -> None:
    for blob in (noise, b"\x01" + noise):
        with pytest.raises(SealError):
            KEY.opened(HERE, blob)


def test_no_row_and_no_key_tells_what_it_holds() -> None:
    assert SECRET.hex() not in repr(KEY)
    assert str(KEY.lookup) not in repr(KEY)
    shown = repr(PERSON) + repr(FLAGS)
    for hidden in ("1987", "ban", "residence", "right_index", str(FACE[:4])):
        assert hidden not in shown


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_proof_opens_under_its_own_key_alone() -> None:
    proof = KEY.proof(NONCE)
    assert KEY.proves(proof)
    assert not OTHER.proves(proof)
    assert not KEY.proves(b"")
    assert not KEY.proves(proof[:-1])
    assert not KEY.proves(KEY.sealed(HERE, LINK, NONCE))


LANE_KEY = bytes(range(1, 33))


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 1 << 40))
def test_a_wrapped_key_opens_for_its_lane_partition_and_epoch_alone(key: bytes, epoch: int) -> None:
    blob = wrapped(key, public_of(LANE_KEY), "people", epoch, "north/a1")
    assert unwrapped(blob, LANE_KEY, "people", epoch, "north/a1") == key
    assert key not in blob
    for private, partition, number, lane in (
        (bytes(range(2, 34)), "people", epoch, "north/a1"),
        (LANE_KEY, "control", epoch, "north/a1"),
        (LANE_KEY, "people", epoch + 1, "north/a1"),
        (LANE_KEY, "people", epoch, "north/a2"),
        (LANE_KEY, "people", epoch, "north/a1/"),
    ):
        with pytest.raises(SealError):
            unwrapped(blob, private, partition, number, lane)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_noise_is_no_wrapped_key(noise: bytes) -> None:
    for blob in (noise, b"\x01" + noise):
        with pytest.raises(SealError):
            unwrapped(blob, LANE_KEY, "people", 1, "north/a1")


def test_it_is_wrapped_anew_each_time() -> None:
    public = public_of(LANE_KEY)
    assert wrapped(SECRET, public, "people", 1, "n/a") != wrapped(SECRET, public, "people", 1, "n/a")


def test_keys_of_epochs_share_nothing() -> None:
    keys = [EpochKey.of(os.urandom(32)) for _ in range(20)]
    assert len({key.lookup for key in keys} | {key.rows.key for key in keys}) == 40
