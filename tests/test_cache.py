"""The cache as the lane reads it: found by document and by person, bound to its key and place."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated.store import cachefile
from gated.store.cache import Cache, Enrolments
from gated.store.cachefile import path_of
from gated.store.sql import StoreCorrupt, StoreError
from gated.wire import rows
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE, SLOTS_MAX, FingerRow, PermitRow, PersonRow
from gated.wire.seal import public_of
from tests.canaries import Canary, found
from tests.hw_sim.cachefiles import CacheFiles, epoch_key

LANE_KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
LANE = "tpe/e-07"
BUILT = datetime(2025, 3, 1, tzinfo=UTC)


def files(folder: Path) -> CacheFiles:
    return CacheFiles(folder, LANE_KEY, LANE, built=BUILT, generation=7, epoch=3)


def changing(folder: Path, built: datetime | None = None) -> CacheFiles:
    return CacheFiles.changing(folder, LANE_KEY, LANE, built=built)


def opened(folder: Path, generation: int = 7) -> Enrolments:
    return Enrolments(*(Cache(path_of(folder, name, generation), LANE_KEY, LANE) for name in (PEOPLE, CONTROL)))


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
    """The folder of a cache of 50 people."""
    with files(tmp_path) as cache:
        for subject in range(1, 51):
            cache.put_person(person(subject))
            cache.put_document("TWN", f"X{subject:08}", subject)
            cache.put_personal_number(f"A{subject:09}", subject)
        cache.put_flags(3, frozenset({"exit_ban"}))
        cache.put_flags(3, frozenset({"wanted"}), slot=1)
        cache.put_document_flags("USA", "555", frozenset({"stolen"}))
    return tmp_path


@pytest.fixture
def people(built: Path) -> Path:
    return path_of(built, PEOPLE, 7)


@pytest.fixture
def cache(built: Path) -> Iterator[Enrolments]:
    cache = opened(built)
    yield cache
    cache.close()


def test_a_person_is_found_by_document_and_by_number(cache: Enrolments) -> None:
    assert cache.by_document("TWN", "X00000007") == person(7)
    assert cache.by_person("A000000007") == person(7)
    assert cache.by_document("TWN", "X00000099") is None
    assert cache.by_document("JPN", "X00000007") is None
    assert cache.by_document("TWNX", "00000007") is None
    assert cache.by_person("X00000007") is None
    cache.people.check()


def test_a_cache_says_what_it_is(cache: Enrolments) -> None:
    note = cache.people.note
    assert (note.partition, note.generation, note.epoch, note.serial, note.rows) == (PEOPLE, 7, 3, 0, 150)
    assert (note.built, cache.people.as_of) == (BUILT, BUILT)
    assert (cache.control.note.partition, cache.control.note.rows) == (CONTROL, 3)


def test_flags_of_all_slots_of_persons_and_documents(cache: Enrolments) -> None:
    assert cache.flags(3) == {"exit_ban", "wanted"}
    assert cache.flags(4) == frozenset()
    assert cache.document_flags("USA", "555") == {"stolen"}
    assert cache.document_flags("USA", "556") == frozenset()


def test_slots_are_read_up_to_the_first_that_is_missing_and_no_further_than_the_last(tmp_path: Path) -> None:
    with files(tmp_path) as cache:
        for slot in range(SLOTS_MAX + 3):
            cache.put_flags(1, frozenset({f"flag_{slot}"}), slot)
        cache.put_flags(2, frozenset({"first"}), 0)
        cache.put_flags(2, frozenset({"behind_a_gap"}), 2)
    both = opened(tmp_path)
    assert both.flags(1) == {f"flag_{slot}" for slot in range(SLOTS_MAX)}
    assert both.flags(2) == {"first"}
    both.close()


def test_a_renewed_passport_finds_the_same_person(built: Path, cache: Enrolments) -> None:
    with changing(built) as change:
        change.put_document("TWN", "X99999999", 7)
        change.remove_document("TWN", "X00000007")
    assert cache.by_document("TWN", "X99999999") == cache.by_person("A000000007") == person(7)
    assert cache.by_document("TWN", "X00000007") is None
    cache.people.check()


def test_a_ban_is_seen_by_a_cache_that_is_open(built: Path, cache: Enrolments) -> None:
    assert cache.flags(9) == frozenset()
    change = changing(built, BUILT + timedelta(minutes=1))
    change.put_flags(9, frozenset({"exit_ban"}))
    change.put_flags(3, frozenset(), slot=1)
    assert cache.flags(9) == frozenset()
    change.finish()
    assert cache.flags(9) == {"exit_ban"}
    assert cache.flags(3) == {"exit_ban"}
    assert cache.control.note.serial == 1
    assert cache.control.note.rows == 3
    assert cache.control.as_of == cache.control.note.built == BUILT + timedelta(minutes=1)
    assert cache.people.as_of == BUILT + timedelta(minutes=1)
    assert cache.people.note.serial == 0
    cache.control.check()


def test_what_is_read_in_one_state_does_not_change_meanwhile(built: Path, cache: Enrolments) -> None:
    """A flag moves up a slot while another is lifted: between two reads it must not be missed."""
    place = [rows.of_flags(3, slot) for slot in (0, 1)]
    with cache.control.one_state():
        first = cache.control.row(rows.FlagsRow, *place[0])
        with changing(built) as change:
            change.put_flags(3, frozenset({"wanted"}), 0)
            change.put_flags(3, frozenset(), 1)
        second = cache.control.row(rows.FlagsRow, *place[1])
    assert (first.flags, second.flags) == ({"exit_ban"}, {"wanted"})
    assert cache.flags(3) == {"wanted"}


def test_a_change_that_is_abandoned_changes_nothing(built: Path, cache: Enrolments) -> None:
    with pytest.raises(RuntimeError), changing(built) as change:
        change.put_flags(9, frozenset({"exit_ban"}))
        raise RuntimeError("on purpose")
    assert cache.flags(9) == frozenset()
    assert cache.control.note.serial == 0


def test_a_file_that_takes_the_name_of_another_is_followed(built: Path, tmp_path: Path, cache: Enrolments) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    with files(aside) as other:
        other.put_flags(1, frozenset({"x"}))
    assert cache.flags(1) == frozenset()
    for name in PARTITIONS:
        cachefile.remove(path_of(built, name, 7))
        path_of(aside, name, 7).rename(path_of(built, name, 7))
    assert cache.flags(1) == {"x"}
    assert cache.by_person("A000000007") is None


def test_a_document_that_leads_to_nobody_is_damage_and_not_a_stranger(built: Path, cache: Enrolments) -> None:
    with changing(built) as change:
        change.remove_person(7)
    with pytest.raises(StoreCorrupt, match="leads to a person who is not there"):
        cache.by_document("TWN", "X00000007")
    assert cache.by_document("TWN", "X00000008") == person(8)


# -- bad files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "lane"), [(OTHER_KEY, LANE), (LANE_KEY, "tpe/e-08")])
def test_another_lanes_key_is_found_at_once_and_told_what_to_do(people: Path, key: bytes, lane: str) -> None:
    with pytest.raises(StoreError) as wrong:
        Cache(people, key, lane)
    assert wrong.value.why == "wrong_key"
    assert "gated cache key" in str(wrong.value)


def test_a_key_that_is_wrapped_for_this_lane_but_not_the_one_of_the_rows_is_refused(people: Path) -> None:
    """Anybody can wrap a key of their own for a lane; HQ's proof does not open under it."""
    forged = rows.wrapped(bytes(32), public_of(LANE_KEY), PEOPLE, 3, LANE)
    with sqlite3.connect(people) as connection:
        connection.execute("UPDATE about SET value = ? WHERE name = 'key'", (forged,))
    connection.close()
    with pytest.raises(StoreError) as wrong:
        Cache(people, LANE_KEY, LANE)
    assert wrong.value.why == "wrong_key"


def test_a_partition_in_the_others_place_is_refused(built: Path) -> None:
    people, control = (Cache(path_of(built, name, 7), LANE_KEY, LANE) for name in (PEOPLE, CONTROL))
    with pytest.raises(StoreError) as swapped:
        Enrolments(control, people)
    assert swapped.value.why == "swapped_partition"
    people.close()
    control.close()


def test_another_edition_is_refused(people: Path) -> None:
    with sqlite3.connect(people) as connection:
        connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(StoreError, match="wrong_edition"):
        Cache(people, LANE_KEY, LANE)


def test_no_file_no_cache_and_no_database_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot_open"):
        Cache(tmp_path / "none.db", LANE_KEY, LANE)
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE t (a)").connection.close()
    with pytest.raises(StoreError, match="not_ours"):
        Cache(other, LANE_KEY, LANE)
    text = tmp_path / "text.db"
    text.write_bytes(b"this is no database at all, but quite some text " * 100)
    with pytest.raises(StoreCorrupt, match="corrupt"):
        Cache(text, LANE_KEY, LANE)
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(StoreError, match="not_ours"):
        Cache(empty, LANE_KEY, LANE)


@pytest.mark.parametrize("name", ["note", "proof", "key", "checked"])
def test_a_file_that_lacks_what_it_must_say_is_unfinished(people: Path, name: str) -> None:
    with sqlite3.connect(people) as connection:
        connection.execute("DELETE FROM about WHERE name = ?", (name,))
    connection.close()
    with pytest.raises(StoreError, match="unfinished"):
        Cache(people, LANE_KEY, LANE)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(people: Path, part: float) -> None:
    os.truncate(people, int(people.stat().st_size * part))
    with pytest.raises(StoreCorrupt):
        Cache(people, LANE_KEY, LANE)


def test_a_row_moved_to_another_place_does_not_open(people: Path, cache: Enrolments) -> None:
    """Who can write the file but has no key cannot give one person another one's row."""
    with sqlite3.connect(people) as connection:
        found = connection.execute("SELECT key, value FROM rows ORDER BY length(value) DESC LIMIT 2").fetchall()
        for (key, _), (_, value) in zip(found, reversed(found), strict=True):
            connection.execute("UPDATE rows SET value = ? WHERE key = ?", (value, key))
    connection.close()
    answers: list[bool | None] = []
    for subject in range(1, 51):
        try:
            answers.append(cache.by_document("TWN", f"X{subject:08}") == person(subject))
        except StoreCorrupt:
            answers.append(None)
    assert (answers.count(True), answers.count(None)) == (48, 2)
    with pytest.raises(StoreCorrupt):
        cache.people.check()


def test_a_row_that_was_taken_out_is_missed_by_the_full_check(people: Path, cache: Enrolments) -> None:
    with sqlite3.connect(people) as connection:
        connection.execute("DELETE FROM rows WHERE key IN (SELECT key FROM rows LIMIT 1)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="not as many rows"):
        cache.people.check()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_never_gives_a_wrong_answer(built: Path, place: float, mask: int) -> None:
    bad = built / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    bad.mkdir()
    for name in PARTITIONS:
        shutil.copy(path_of(built, name, 7), bad)
    data = bytearray(path_of(bad, PEOPLE, 7).read_bytes())
    data[int(place * len(data))] ^= mask
    path_of(bad, PEOPLE, 7).write_bytes(data)
    try:
        cache = opened(bad)
    except StoreError:
        return
    for subject in (1, 7, 50):
        try:
            # a row that got lost is "not known", which refers the passenger; another person's row would let one pass
            assert cache.by_document("TWN", f"X{subject:08}") in (person(subject), None)
        except StoreError as error:
            assert error.why  # said in our words
    cache.close()


def test_nobody_is_named_on_the_disk_nor_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    template = bytes(range(256)) * 2
    with files(folder) as cache:
        cache.put_person(person(424242, template))
    with changing(folder) as cache:
        cache.put_document("TWN", "X13572468", 424242)
        cache.put_personal_number("A123450001", 424242)
        cache.put_flags(424242, frozenset({"exit_ban_xyzzy"}))
    reader = opened(folder)  # with WAL
    assert reader.by_person("A123450001") == person(424242, template)
    canaries = [
        Canary("number", "X13572468"),
        Canary("personal number", "A123450001"),
        Canary("flag", "exit_ban_xyzzy"),
        Canary("template", template),
    ]
    assert found(canaries, folder) == []
    keys = (LANE_KEY, epoch_key(path_of(folder, PEOPLE, 7), LANE_KEY, LANE))
    content = b"".join(file.read_bytes() for file in folder.iterdir())
    assert not any(key in content for key in keys)
    reader.close()
    (folder / "unsealed").write_text("... x13572468 ...")
    assert [hit.canary for hit in found(canaries, folder)] == ["number"]


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.tuples(st.text(max_size=3), st.text(max_size=9)), st.integers(0, 2**62), max_size=20))
def test_whatever_is_put_is_found(
    tmp_path_factory: pytest.TempPathFactory, documents: dict[tuple[str, str], int]
) -> None:
    folder = tmp_path_factory.mktemp("c")
    with files(folder) as cache:
        for (issuer, number), subject in documents.items():
            cache.put_document(issuer, number, subject)
            cache.put_person(person(subject, None))
    both = opened(folder)
    assert {d: both.by_document(*d) for d in documents} == {d: person(s, None) for d, s in documents.items()}
    both.people.check()
    both.close()
    shutil.rmtree(folder)
