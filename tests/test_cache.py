"""The cache: found by document and by person, bound to its key and place, whole or not at all."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated.store.cache import Cache, FingerRow, PermitRow, PersonRow
from gated.store.cachewriter import CacheWriter
from gated.store.sql import StoreCorrupt, StoreError
from tests.canaries import Canary, found

KEY = bytes(range(32))
BUILT = datetime(2025, 3, 1, tzinfo=UTC)


def writer(path: Path, key: bytes = KEY) -> CacheWriter:
    return CacheWriter(path, key, generation=7, epoch="2025-03", built=BUILT)


def person(subject: int, face: bytes | None = b"\x00\x01" * 256) -> PersonRow:
    return PersonRow(
        subject,
        "national",
        date(1990, 1, 1),
        "F",
        face,
        "sface-2021dec",
        (FingerRow("right_index", "iso19794-2", b"FMR\x00" * 20), FingerRow("left_index", "iso19794-2", b"x")),
        (PermitRow("exit_permission", date(2025, 1, 1), date(2025, 3, 1), 2),),
        date(2025, 2, 3),
        date(2025, 2, 1),
    )


@pytest.fixture
def built(tmp_path: Path) -> Path:
    path = tmp_path / "cache-7.db"
    with writer(path) as cache:
        for subject in range(1, 51):
            cache.put_person(person(subject))
            cache.put_document("TWN", f"X{subject:08}", subject)
            cache.put_personal_number(f"A{subject:09}", subject)
        cache.put_flags(3, frozenset({"exit_ban", "wanted"}))
        cache.put_document_flags("USA", "555", frozenset({"stolen"}))
    return path


@pytest.fixture
def cache(built: Path) -> Iterator[Cache]:
    opened = Cache(built, KEY)
    yield opened
    opened.close()


def test_a_person_is_found_by_document_and_by_number(cache: Cache) -> None:
    assert cache.by_document("TWN", "X00000007") == person(7)
    assert cache.by_person("A000000007") == person(7)
    assert cache.by_document("TWN", "X00000099") is None
    assert cache.by_document("JPN", "X00000007") is None
    assert cache.by_document("TWNX", "00000007") is None
    assert cache.by_person("X00000007") is None
    assert (cache.note.generation, cache.note.epoch, cache.note.built, cache.note.rows) == (7, "2025-03", BUILT, 152)
    cache.check()


def test_flags_of_persons_and_documents(cache: Cache) -> None:
    assert cache.flags(3) == {"exit_ban", "wanted"}
    assert cache.flags(4) == frozenset()
    assert cache.document_flags("USA", "555") == {"stolen"}
    assert cache.document_flags("USA", "556") == frozenset()


def test_a_renewed_passport_finds_the_same_person(built: Path) -> None:
    before = Cache(built, KEY)
    with CacheWriter.changing(built, KEY) as change:
        change.put_document("TWN", "X99999999", 7)
        change.remove_document("TWN", "X00000007")
    assert before.by_document("TWN", "X99999999") == before.by_person("A000000007") == person(7)
    assert before.by_document("TWN", "X00000007") is None
    before.check()
    before.close()


def test_a_ban_is_seen_by_a_cache_that_is_open(built: Path, cache: Cache) -> None:
    assert cache.flags(9) == frozenset()
    size = built.stat().st_size
    change = CacheWriter.changing(built, KEY)
    change.put_flags(9, frozenset({"exit_ban"}))
    change.put_flags(3, frozenset())
    assert cache.flags(9) == frozenset()
    change.finish()
    assert cache.flags(9) == {"exit_ban"}
    assert cache.flags(3) == frozenset()
    assert built.stat().st_size <= size + 4096
    cache.check()


def test_a_change_that_is_abandoned_changes_nothing(built: Path) -> None:
    content = built.read_bytes()
    with pytest.raises(RuntimeError), CacheWriter.changing(built, KEY) as change:
        change.put_flags(9, frozenset({"exit_ban"}))
        raise RuntimeError("on purpose")
    assert built.read_bytes() == content


def test_a_build_that_is_abandoned_leaves_the_old_file(built: Path) -> None:
    content = built.read_bytes()
    with pytest.raises(RuntimeError), writer(built) as cache:
        cache.put_person(person(1))
        raise RuntimeError("on purpose")
    assert built.read_bytes() == content
    assert sorted(p.name for p in built.parent.iterdir()) == ["cache-7.db", "cache-7.db.lock"]


def test_the_later_of_two_rows_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with writer(path) as cache:
        cache.put_flags(1, frozenset({"a"}))
        cache.put_flags(2, frozenset({"a"}))
        cache.put_flags(1, frozenset({"b"}))
        cache.put_flags(2, frozenset())
    opened = Cache(path, KEY)
    assert (sorted(opened.flags(1)), sorted(opened.flags(2)), opened.note.rows) == (["b"], [], 1)
    opened.close()


def test_a_new_generation_under_the_same_name_is_followed(built: Path, cache: Cache) -> None:
    with writer(built) as new:
        new.put_flags(1, frozenset({"x"}))
    assert cache.flags(1) == {"x"}
    assert cache.by_person("A000000007") is None


def test_a_second_writer_is_refused(built: Path) -> None:
    with writer(built), pytest.raises(StoreError, match="second_writer"):
        CacheWriter.changing(built, KEY)


# -- bad files ---------------------------------------------------------------------------------------------


def test_the_wrong_key_is_found_at_once(built: Path) -> None:
    with pytest.raises(StoreError) as wrong:
        Cache(built, bytes(32))
    assert wrong.value.why == "wrong_key"
    with pytest.raises(StoreError, match="wrong_key"):
        CacheWriter.changing(built, bytes(32))


def test_another_edition_is_refused(built: Path) -> None:
    with sqlite3.connect(built) as connection:
        connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(StoreError, match="wrong_edition"):
        Cache(built, KEY)


def test_no_file_no_cache_and_no_database_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot_open"):
        Cache(tmp_path / "none.db", KEY)
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE t (a)").connection.close()
    with pytest.raises(StoreError, match="not_ours"):
        Cache(other, KEY)
    text = tmp_path / "text.db"
    text.write_bytes(b"this is no database at all, but quite some text " * 100)
    with pytest.raises(StoreCorrupt, match="corrupt"):
        Cache(text, KEY)
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(StoreError, match="not_ours"):
        Cache(empty, KEY)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(built: Path, part: float) -> None:
    os.truncate(built, int(built.stat().st_size * part))
    with pytest.raises(StoreCorrupt):
        Cache(built, KEY)


def test_a_row_moved_to_another_place_does_not_open(built: Path) -> None:
    """Who can write the file but has no key cannot give one person another one's row."""
    with sqlite3.connect(built) as connection:
        rows = connection.execute("SELECT key, value FROM rows ORDER BY length(value) DESC LIMIT 2").fetchall()
        for (key, _), (_, value) in zip(rows, reversed(rows), strict=True):
            connection.execute("UPDATE rows SET value = ? WHERE key = ?", (value, key))
    connection.close()
    cache = Cache(built, KEY)
    answers: list[bool | None] = []
    for subject in range(1, 51):
        try:
            answers.append(cache.by_document("TWN", f"X{subject:08}") == person(subject))
        except StoreCorrupt:
            answers.append(None)
    assert (answers.count(True), answers.count(None)) == (48, 2)
    with pytest.raises(StoreCorrupt):
        cache.check()
    cache.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_never_gives_a_wrong_answer(built: Path, tmp_path: Path, place: float, mask: int) -> None:
    data = bytearray(built.read_bytes())
    data[int(place * len(data))] ^= mask
    bad = tmp_path / "bad.db"
    bad.write_bytes(data)
    try:
        cache = Cache(bad, KEY)
    except StoreError:
        return
    for subject in (1, 7, 50):
        try:
            # a row that got lost is "not known", which refers the passenger; another person's row would let one pass
            assert cache.by_document("TWN", f"X{subject:08}") in (person(subject), None)
        except StoreError as error:
            assert error.why  # said in our words
    cache.close()


def test_nobody_is_named_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "files" / "cache-1.db"
    path.parent.mkdir()
    template = bytes(range(256)) * 2
    with writer(path) as cache:
        cache.put_person(person(424242, template))
        cache.put_document("TWN", "X13572468", 424242)
        cache.put_personal_number("A123450001", 424242)
        cache.put_flags(424242, frozenset({"exit_ban_xyzzy"}))
    canaries = [
        Canary("number", "X13572468"),
        Canary("personal number", "A123450001"),
        Canary("flag", "exit_ban_xyzzy"),
        Canary("template", template),
    ]
    assert found(canaries, path.parent) == []
    (path.parent / "unsealed").write_text("... x13572468 ...")
    assert [hit.canary for hit in found(canaries, path.parent)] == ["number"]


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.tuples(st.text(max_size=3), st.text(max_size=9)), st.integers(0, 2**62), max_size=20))
def test_whatever_is_put_is_found(
    tmp_path_factory: pytest.TempPathFactory, documents: dict[tuple[str, str], int]
) -> None:
    folder = tmp_path_factory.mktemp("c")
    with writer(folder / "c.db") as cache:
        for (issuer, number), subject in documents.items():
            cache.put_document(issuer, number, subject)
            cache.put_person(person(subject, None))
    opened = Cache(folder / "c.db", KEY)
    assert {d: opened.by_document(*d) for d in documents} == {d: person(s, None) for d, s in documents.items()}
    opened.check()
    opened.close()
    shutil.rmtree(folder)
