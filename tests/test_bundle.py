"""What HQ signs and what that proves: canonical forms, the chain and its index, buckets of the audit, paths."""

import itertools
import random
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire import bundle
from gated.wire.bundle import (
    BUCKETS,
    DIGEST_BYTES,
    PAGE_SEGMENTS,
    PLACE_BYTES,
    SERIAL_MAX,
    TIP_SEGMENT_BYTES_MAX,
    Announcement,
    AuditTable,
    Base,
    BundleError,
    Chunk,
    Day,
    Head,
    IndexEntry,
    Manifest,
    Pinned,
    SignedTip,
    Snapshot,
    Tip,
    bucket_digest,
    bucket_of,
    bucket_range,
    chain_next,
    chain_start,
    differing,
    index_page,
    load,
    page_of,
    proven_index,
    tip_message,
)
from gated.wire.codec import WireError, encode
from gated.wire.rows import PARTITIONS

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "bundle.toml").read_text())
AT = datetime(2026, 3, 1, 8, tzinfo=UTC)
ENTRY = 40


def of(byte: int) -> bytes:
    return bytes([byte]) * 32


def head(serial: int, chain: bytes, **other: Any) -> Head:
    fields = {"schema": 1, "partition": "people", "epoch": 2, "serial": serial, "chain": chain, "built": AT}
    return Head(**{**fields, **other})


HEAD = head(1500, of(1), days=(Day(1, 1440, of(2), of(3), 90_000),))
BASE = Base(1, "control", 2, b"proof", None, (Pinned(9, of(4)),))
TIP = Tip(1, "control", 2, 10, of(1), of(3), 300, AT)
VALUES = [
    HEAD,
    head(0, chain_start("people", 2), audit=AuditTable(0, of(5))),
    BASE,
    Base(1, "people", 2, b"proof", Snapshot(77, of(6), 5_000_000, of(7), 4096)),
    TIP,
    SignedTip(encode(TIP), "ab" * 32, bytes(64), b"segment"),
    Announcement(12, (SignedTip(encode(TIP), "ab" * 32, bytes(64)),)),
    Manifest(1, "people", 2, 77, 3, (Chunk(bytes(16), of(8), 100), Chunk(bytes(15) + b"\1", of(9), 90))),
]


# -- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_signed_has_one_form(value: Any) -> None:
    data = encode(value)
    assert load(type(value), data) == value
    for other in (data + b" ", b" " + data, data.replace(b":", b": ", 1), data.decode().encode("utf-16")):
        with pytest.raises(BundleError, match="malformed"):
            load(type(value), other)


@pytest.mark.parametrize(("name", "value"), [("head", HEAD), ("base", BASE), ("tip", TIP)])
def test_the_form_is_as_it_was_written_down(name: str, value: Any) -> None:
    text = GOLDEN["signed"][name].encode()
    assert encode(value) == text
    assert load(type(value), text) == value


def test_what_is_signed_of_a_tip_is_nothing_else() -> None:
    assert tip_message(encode(TIP)) == bytes.fromhex(GOLDEN["signed"]["tip_message_prefix"]) + encode(TIP)
    with pytest.raises(BundleError):
        load(Tip, tip_message(encode(TIP)))


def test_one_kind_is_not_taken_for_another() -> None:
    for value, cls in itertools.product(VALUES, {type(value) for value in VALUES}):
        if type(value) is not cls:
            with pytest.raises(BundleError, match="malformed"):
                load(cls, encode(value))


@pytest.mark.parametrize("value", [HEAD, BASE, TIP, VALUES[-1]], ids=lambda value: type(value).__name__)
def test_another_edition_is_named_whatever_else_it_holds(value: Any) -> None:
    data = encode(value)
    later = data.replace(b'"schema":1', b'"schema":2')
    for text in (later, later.replace(b':{"', b':{"a":0,"', 1), later.replace(b'"epoch"', b'"epocha"')):
        with pytest.raises(BundleError) as refused:
            load(type(value), text)
        assert refused.value.why == "wrong_schema"
        assert "edition 2" in str(refused.value)
    for odd in (b"true", b'"1"', b"1.0", b"null", b"[1]"):
        with pytest.raises(BundleError) as refused:
            load(type(value), data.replace(b'"schema":1', b'"schema":' + odd))
        assert refused.value.why == "malformed"


HEADS_REFUSED = {
    "no partition of ours": (b'"people"', b'"peoples"'),
    "a path for a partition": (b'"people"', b'"../people"'),
    "epoch 0": (b'"epoch":2', b'"epoch":0'),
    "epoch true": (b'"epoch":2', b'"epoch":true'),
    "a negative serial": (b'"serial":1500', b'"serial":-1'),
    "a serial as a float": (b'"serial":1500', b'"serial":1500.0'),
    "a serial in words": (b'"serial":1500', b'"serial":"1500"'),
    "a huge serial": (b'"serial":1500', b'"serial":%d' % (SERIAL_MAX + 1)),
    "a serial beyond 64 bits": (b'"serial":1500', b'"serial":%d' % (1 << 64)),
    "infinity": (b'"serial":1500', b'"serial":Infinity'),
    "an exponent": (b'"serial":1500', b'"serial":15e2'),
    "a zone of its own": (b"08:00:00.000000Z", b"08:00:00.000000+00:00"),
    "day 0": (b'"first":1', b'"first":0'),
    "a day backwards": (b'"last":1440', b'"last":0'),
    "a chain too long": (b'"chain":"AQE', b'"chain":"AQEBAQEB'),
    "a field twice": (b'"epoch":2', b'"epoch":2,"epoch":2'),
    "a field more": (b'"epoch":2', b'"epoch":2,"zero":0'),
    "a field less": (b'"epoch":2,', b""),
    "nobody's built": (b'"built":"2026-03-01T08:00:00.000000Z"', b'"built":null'),
}


@pytest.mark.parametrize("name", HEADS_REFUSED)
def test_a_head_is_refused_with(name: str) -> None:
    old, new = HEADS_REFUSED[name]
    text = encode(HEAD)
    assert old in text
    with pytest.raises(BundleError) as refused:
        load(Head, text.replace(old, new, 1))
    assert refused.value.why == "malformed"


def test_lists_have_their_limits() -> None:
    one = Day(1, 1, of(1), of(1), 1)
    for cls, field, item, limit in (
        (Head, "days", one, bundle.DAYS_MAX),
        (Base, "lifts", Pinned(1, of(1)), bundle.LIFTS_MAX),
        (Announcement, "tips", SignedTip(b"", "", b""), 16),
    ):
        fields = {Head: {**_fields(HEAD)}, Base: {**_fields(BASE)}, Announcement: {"metadata_version": 1}}[cls]
        full = cls(**{**fields, field: (item,) * limit})
        assert load(cls, encode(full)) == full
        with pytest.raises(WireError, match="more than"):
            encode(cls(**{**fields, field: (item,) * (limit + 1)}))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_a_small_segment_rides_along_and_a_large_one_does_not() -> None:
    for size, fits in ((TIP_SEGMENT_BYTES_MAX, True), (TIP_SEGMENT_BYTES_MAX + 1, False)):
        tip = SignedTip(b"tip", "key", b"signature", bytes(size))
        if fits:
            assert load(SignedTip, encode(tip)) == tip
        else:
            with pytest.raises(WireError, match="longer"):
                encode(tip)


@given(st.binary(max_size=400))
def test_noise_is_malformed_and_nothing_else(noise: bytes) -> None:
    for value in VALUES:
        for data in (noise, encode(value)[:-1] + noise):
            try:
                assert encode(load(type(value), data)) == data
            except BundleError as refused:
                assert refused.why in ("malformed", "wrong_schema")


@settings(max_examples=300)
@given(st.sampled_from(VALUES), st.data())
def test_a_changed_byte_gives_another_value_or_a_refusal(value: Any, data: st.DataObject) -> None:
    text = bytearray(encode(value))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= data.draw(st.integers(1, 255))
    try:
        found = load(type(value), bytes(text))
    except BundleError:
        return
    assert found != value
    assert encode(found) == bytes(text)


def test_deep_nesting_and_long_numbers_are_malformed() -> None:
    for data in (b"[" * 200_000, b'{"Head":' * 50_000, b'{"Head":{"schema":' + b"9" * 10_000 + b"}}", b"\xff" * 100):
        with pytest.raises(BundleError, match="malformed"):
            load(Head, data)


def test_a_base_begins_empty_or_with_its_snapshot() -> None:
    assert (BASE.serial, BASE.chain) == (0, chain_start("control", 2))
    begun = Base(1, "people", 2, b"", Snapshot(77, of(6), 1, of(7), 1))
    assert (begun.serial, begun.chain) == (77, of(6))


# -- the chain and its index ---------------------------------------------------------------------------------------

Segments = list[tuple[bytes, int]]


def segments(count: int, seed: int = 0) -> Segments:
    made = random.Random(seed)
    return [(made.randbytes(32), made.randrange(1, 1 << 20)) for _ in range(count)]


def pages_of(entries: Segments) -> dict[int, bytes]:
    return {
        n // PAGE_SEGMENTS: index_page(entries[n : n + PAGE_SEGMENTS]) for n in range(0, len(entries), PAGE_SEGMENTS)
    }


def chains(entries: Segments, partition: str = "people", epoch: int = 2) -> list[bytes]:
    """The chain at every serial from 0 on."""
    found = [chain_start(partition, epoch)]
    for serial, (digest, size) in enumerate(entries, 1):
        found.append(chain_next(found[-1], serial, size, digest))
    return found


def refused_index(pages: Mapping[int, bytes], serial: int, chain: bytes, to: Head) -> str:
    with pytest.raises(BundleError) as refused:
        proven_index(pages, serial, chain, to)
    return refused.value.why


LONG = segments(PAGE_SEGMENTS * 2 + 90)
LAST = len(LONG)
LONG_CHAIN = chains(LONG)
LONG_PAGES = pages_of(LONG)
LONG_HEAD = head(len(LONG), LONG_CHAIN[-1])


def test_chain_and_page_are_as_they_were_written_down() -> None:
    golden = GOLDEN["chain"]
    first, second = bytes.fromhex(GOLDEN["segment"]["plain"]), b"second"
    entries = [(sha256(first).digest(), len(first)), (sha256(second).digest(), len(second))]
    assert index_page(entries) == bytes.fromhex(golden["page"])
    assert [one.hex() for one in chains(entries, "control")] == [golden["start"], golden["after_1"], golden["after_2"]]


@pytest.mark.parametrize(
    "serial", [0, 1, PAGE_SEGMENTS - 1, PAGE_SEGMENTS, PAGE_SEGMENTS + 1, len(LONG) - 1, len(LONG)]
)
def test_the_index_is_proven_from_anywhere(serial: int) -> None:
    needed = {n: page for n, page in LONG_PAGES.items() if n >= page_of(serial + 1)}
    found = proven_index(needed, serial, LONG_CHAIN[serial], LONG_HEAD)
    assert found == [
        IndexEntry(n, *LONG[n - 1], chain=LONG_CHAIN[n]) for n in range(serial + 1, len(LONG) + 1)
    ]  # fmt: skip


def test_a_page_is_begun_every_so_many_segments() -> None:
    assert [page_of(n) for n in (1, PAGE_SEGMENTS, PAGE_SEGMENTS + 1, 2 * PAGE_SEGMENTS)] == [0, 0, 1, 1]


def test_every_flipped_bit_of_an_index_is_found() -> None:
    entries = segments(5)
    walk = chains(entries)
    page = index_page(entries)
    for bit in range(8 * len(page)):
        bad = bytearray(page)
        bad[bit // 8] ^= 1 << bit % 8
        assert refused_index({0: bytes(bad)}, 0, walk[0], head(5, walk[-1])) == "wrong_chain"


@given(st.integers(0, len(LONG) - 1), st.data())
def test_a_flipped_bit_in_any_page_that_counts_is_found(serial: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(serial * ENTRY, len(LONG) * ENTRY - 1))
    number, offset = divmod(at, PAGE_SEGMENTS * ENTRY)
    bad = bytearray(LONG_PAGES[number])
    bad[offset] ^= 1 << data.draw(st.integers(0, 7))
    pages = {**LONG_PAGES, number: bytes(bad)}
    assert refused_index(pages, serial, LONG_CHAIN[serial], LONG_HEAD) == "wrong_chain"


@given(st.integers(0, len(LONG) * ENTRY - 1))
def test_a_truncated_index_is_named(length: int) -> None:
    number, rest = divmod(length, PAGE_SEGMENTS * ENTRY)
    pages = {n: page for n, page in LONG_PAGES.items() if n < number} | {number: LONG_PAGES[number][:rest]}
    assert refused_index(pages, 0, LONG_CHAIN[0], LONG_HEAD) == "truncated"


def test_pages_and_entries_in_another_order_are_found() -> None:
    swapped = {**LONG_PAGES, 0: LONG_PAGES[1], 1: LONG_PAGES[0]}
    assert refused_index(swapped, 0, LONG_CHAIN[0], LONG_HEAD) == "wrong_chain"
    entries = segments(3)
    for order in itertools.permutations(entries):
        if list(order) != entries:
            assert refused_index({0: index_page(order)}, 0, chains(entries)[0], head(3, chains(entries)[-1])) == (
                "wrong_chain"
            )


def test_an_index_from_elsewhere_leads_nowhere() -> None:
    entries = segments(4)
    walk, page = chains(entries), {0: index_page(entries)}
    to = head(4, walk[-1])
    assert len(proven_index(page, 0, walk[0], to)) == 4
    assert refused_index(page, 0, chain_start("control", 2), to) == "wrong_chain"
    assert refused_index(page, 0, chain_start("people", 3), to) == "wrong_chain"
    assert refused_index(page, 1, walk[0], to) == "wrong_chain", "a segment skipped"
    assert refused_index(page, 0, walk[1], to) == "wrong_chain", "a segment applied twice"
    assert refused_index(page, 0, walk[0], head(3, walk[-1])) == "wrong_chain"
    assert refused_index(page, 4, walk[3], to) == "wrong_chain", "here is another state of the same number"
    assert refused_index({}, 5, walk[-1], head(4, walk[-2])) == "wrong_chain", "a head behind"


def test_a_head_far_ahead_costs_nothing() -> None:
    assert refused_index({}, 0, of(1), head(SERIAL_MAX, of(2))) == "truncated"
    assert refused_index(LONG_PAGES, 0, LONG_CHAIN[0], head(SERIAL_MAX, of(2))) == "truncated"


def test_chains_of_partitions_and_epochs_never_meet() -> None:
    starts = {chain_start(partition, epoch) for partition in PARTITIONS for epoch in range(1, 200)}
    assert len(starts) == 199 * len(PARTITIONS)


# -- the audit -----------------------------------------------------------------------------------------------------

places = st.binary(min_size=PLACE_BYTES, max_size=PLACE_BYTES)


@settings(max_examples=500)
@given(places | st.sampled_from([bytes(16), b"\xff" * 16, b"\x00\x10" + bytes(14), b"\x00\x0f" + b"\xff" * 14]))
def test_a_place_belongs_to_the_bucket_whose_range_has_it(place: bytes) -> None:
    bucket = bucket_of(place)
    start, end = bucket_range(bucket)
    assert start <= place < end
    for other in {max(bucket - 1, 0), min(bucket + 1, BUCKETS - 1), 0, BUCKETS - 1} - {bucket}:
        first, after = bucket_range(other)
        assert not first <= place < after


def test_buckets_tile_the_space() -> None:
    ranges = [bucket_range(bucket) for bucket in range(BUCKETS)]
    assert ranges[0][0] == bytes(PLACE_BYTES)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert all(start < end for start, end in ranges)
    assert ranges[-1][1] > b"\xff" * PLACE_BYTES
    assert [bucket_of(start) for start, _ in ranges] == list(range(BUCKETS))


def test_a_digest_is_as_it_was_written_down() -> None:
    rows = [(bytes(16), b"a"), (b"\0\1" + bytes(14), b"bc")]
    assert bucket_digest(rows).hex() == GOLDEN["bucket"]["digest"]
    assert bucket_digest([]).hex() == GOLDEN["bucket"]["empty"]


tables = st.lists(st.tuples(places, st.binary(max_size=5)), max_size=4)


@given(tables, tables)
def test_tables_have_one_digest_only_if_they_are_one(ours: list[tuple[bytes, bytes]], theirs: Any) -> None:
    assert (bucket_digest(ours) == bucket_digest(theirs)) == (ours == theirs)


def test_bytes_cannot_move_from_row_to_row_unseen() -> None:
    place, other = bytes(16), bytes(15) + b"\1"
    whole = [(place, b"ab"), (other, b"c")]
    moved = [(place, b"a"), (other, b"bc")]
    swallowed = [(place, b"ab" + other + b"\0\0\0\1c")]
    assert len({bucket_digest(rows) for rows in (whole, moved, swallowed, whole[::-1])}) == 4


@given(st.sets(st.integers(0, BUCKETS - 1), max_size=20))
def test_exactly_the_buckets_that_differ_are_named(altered: set[int]) -> None:
    ours = bytes(BUCKETS * DIGEST_BYTES)
    theirs = bytearray(ours)
    for bucket in altered:
        theirs[bucket * DIGEST_BYTES + bucket % DIGEST_BYTES] ^= 1
    assert differing(ours, bytes(theirs)) == sorted(altered)


@pytest.mark.parametrize("size", [0, 1, BUCKETS * DIGEST_BYTES - 1, BUCKETS * DIGEST_BYTES + 1])
def test_what_is_no_table_is_malformed(size: int) -> None:
    whole = bytes(BUCKETS * DIGEST_BYTES)
    for ours, theirs in ((whole, bytes(size)), (bytes(size), whole), (bytes(size), bytes(size))):
        with pytest.raises(BundleError, match="malformed"):
            differing(ours, theirs)


# -- paths ---------------------------------------------------------------------------------------------------------


def test_everything_lies_at_a_path_of_its_own() -> None:
    found = [
        path
        for partition in PARTITIONS
        for epoch in (1, 11)
        for path in (
            *(bundle.segment_path(partition, epoch, n) for n in (1, 11, 999, 1000, 1001, 11_000)),
            *(bundle.day_path(partition, epoch, *ends) for ends in ((1, 11), (11, 11), (1, 1))),
            *(bundle.page_path(partition, epoch, n) for n in (0, 1, 11)),
            *(bundle.manifest_path(partition, epoch, n) for n in (1, 11)),
            *(bundle.chunk_path(partition, epoch, *ends) for ends in ((1, 11), (11, 1), (1, 1))),
            *(bundle.audit_path(partition, epoch, n) for n in (1, 11)),
            *(bundle.key_path(partition, epoch, lane) for lane in ("a/b", "a-b/c", "a/b-c")),
        )
    ]
    assert len(set(found)) == len(found)
    assert all(path.startswith("data/") and ".." not in path and "//" not in path for path in found)
    assert bundle.target_path("people", "head") == "people/head.json"
