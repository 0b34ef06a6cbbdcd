"""The files of the cache as sync writes them: built whole, changed by segments, audited and repaired."""

import hashlib
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gated.store import cachefile
from gated.store.cachefile import CacheFile, CacheNote, LiftNotSigned, audited, build, generations, path_of, remove
from gated.store.sql import StoreCorrupt, StoreError
from gated.wire.bundle import BUCKETS, BundleError, bucket_digest, bucket_of, differing
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.segment import Change

NOW = datetime(2025, 3, 1, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
NOTE = CacheNote(PEOPLE, 1, 3, 100, b"\x01" * 32, NOW, 0)
ROWS = 400

Rows = dict[bytes, bytes]


def place(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def row(number: int, state: int) -> bytes:
    """What stands at place `number` in a state; it shows both."""
    return f"{number} {state} ".encode().ljust(800, b".")


def table(state: int = 0, count: int = ROWS) -> Rows:
    return {place(number): row(number, state) for number in range(count)}


def made(path: Path, rows: Rows) -> Path:
    build(path, NOTE, b"proof", b"wrapped", sorted(rows.items()), checked=NOW)
    return path


def held(path: Path) -> Rows:
    """What another reader finds in it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT key, value FROM rows"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(path_of(tmp_path, PEOPLE, 1), table())


@pytest.fixture
def file(path: Path) -> Iterator[CacheFile]:
    with CacheFile(path) as file:
        yield file


def apply(file: CacheFile, changes: dict[bytes, bytes | None], *, may_lift: bool = True) -> int:
    serial = file.note.serial + 1
    return file.apply(sorted(changes.items()), serial, bytes([serial % 256]) * 32, LATER, may_lift=may_lift)


# -- building ------------------------------------------------------------------------------------------------


def test_what_was_built_is_there_and_says_what_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    path = path_of(tmp_path, PEOPLE, 1)
    note = build(path, NOTE, b"proof", b"wrapped", sorted(table().items()), checked=NOW, progress=told.append)
    assert note == CacheNote(PEOPLE, 1, 3, 100, b"\x01" * 32, NOW, ROWS)
    assert told == [ROWS]
    assert held(path) == table()
    with CacheFile(path) as file:
        assert (file.note, file.checked, file.floor) == (note, NOW, b"")
        assert (file.proof, file.wrapped) == (b"proof", b"wrapped")


def test_an_empty_partition_can_be_built(tmp_path: Path) -> None:
    with CacheFile(made(path_of(tmp_path, CONTROL, 1), {})) as file:
        assert file.note.rows == 0
        assert apply(file, dict(table())) == ROWS


@pytest.mark.parametrize("row_bytes", [93, 797, 1565, 3101, 6000])
def test_no_row_needs_a_page_of_its_own_whatever_the_partition_holds(tmp_path: Path, row_bytes: int) -> None:
    path = made(path_of(tmp_path, PEOPLE, 1), {place(number): bytes(row_bytes) for number in range(3000)})
    assert path.stat().st_size < 3000 * (row_bytes + 24) * 1.6 + (1 << 16)


@pytest.mark.parametrize("wrong", [[1, 0], [0, 0]])
def test_rows_out_of_order_or_twice_are_refused(tmp_path: Path, wrong: list[int]) -> None:
    path = path_of(tmp_path, PEOPLE, 1)
    places = sorted(place(number) for number in (0, 1))
    with pytest.raises(StoreError) as refused:
        build(path, NOTE, b"p", b"w", [(places[n], b"x") for n in wrong], checked=NOW)
    assert refused.value.why == "out_of_order"
    assert generations(tmp_path, PEOPLE) == {}
    assert [p.name for p in tmp_path.iterdir()] == [f"{path.name}.lock"]


def test_what_the_rows_raise_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield place(0), b"x"
        raise OSError(5, "the spool's disk, not the cache's")

    with pytest.raises(OSError, match="spool"):
        build(path_of(tmp_path, PEOPLE, 1), NOTE, b"p", b"w", broken(), checked=NOW)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".lock"]


def test_a_generation_is_built_once(path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        made(path, {})
    assert refused.value.why == "exists"
    assert held(path) == table()


def test_a_wal_that_outlived_an_older_file_is_not_replayed_into_the_new_one(path: Path) -> None:
    with CacheFile(path) as file:
        apply(file, dict(table(1)))
        wal = path.with_name(path.name + "-wal").read_bytes()
    remove(path)
    assert list(path.parent.iterdir()) == []
    path.with_name(path.name + "-wal").write_bytes(wal)
    made(path, {place(0): b"x"})
    assert held(path) == {place(0): b"x"}


def test_generations_are_found_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    for generation in (10, 9, 2):
        made(path_of(tmp_path, PEOPLE, generation), {})
    for other in (
        "cache-people-0.db",
        "cache-people-3.db.part",
        "cache-people-x.db",
        "cache-control-4.db",
        "cache-5.db",
    ):
        (tmp_path / other).touch()
    assert list(generations(tmp_path, PEOPLE)) == [2, 9, 10]
    assert generations(tmp_path, CONTROL) == {4: tmp_path / "cache-control-4.db"}
    with pytest.raises(StoreError, match="cannot_open"):
        generations(tmp_path / "nowhere", PEOPLE)


# -- changing ------------------------------------------------------------------------------------------------


def test_a_segment_and_its_serial_come_in_one(file: CacheFile) -> None:
    new, changed, gone = place(ROWS), place(1), place(2)
    assert apply(file, {new: b"new", changed: b"changed", gone: None, place(3): row(3, 0), place(9999): None}) == 3
    expected = {**table(), new: b"new", changed: b"changed"}
    del expected[gone]
    assert held(file.path) == expected
    assert file.note == CacheNote(PEOPLE, 1, 3, 101, b"\x65" * 32, LATER, ROWS)
    assert file.checked == NOW


def test_a_reader_sees_the_old_state_until_all_of_the_new_one_is_there(
    file: CacheFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def watched() -> Iterator[Change]:
        for number, change in enumerate(sorted(table(1).items())):
            if number % 100 == 99:
                seen.append(held(file.path) == table(0))
            yield change

    file._sql.execute("PRAGMA cache_size=4")  # a transaction that does not fit is in the WAL before its end
    file.apply(watched(), 101, b"\x02" * 32, LATER, may_lift=True)
    assert seen == [True] * 4
    assert held(file.path) == table(1)


@pytest.mark.parametrize("error", [BundleError("malformed"), OSError(5, "the spool"), KeyboardInterrupt()])
def test_whatever_the_changes_raise_leaves_everything_as_it_was(file: CacheFile, error: BaseException) -> None:
    note = file.note

    def broken() -> Iterator[Change]:
        yield place(1), b"changed"
        yield place(2), None
        raise error

    with pytest.raises(type(error)) as raised:
        file.apply(broken(), 101, b"\x02" * 32, LATER, may_lift=True)
    assert raised.value is error
    assert (file.note, held(file.path)) == (note, table())
    assert apply(file, {place(1): b"changed"}) == 1


@pytest.mark.parametrize("lift", [{place(1): None}, {place(1): b"another"}])
def test_what_may_only_add_can_neither_take_away_nor_replace(file: CacheFile, lift: dict[bytes, bytes | None]) -> None:
    note = file.note
    with pytest.raises(LiftNotSigned) as refused:
        apply(file, {place(5000): b"added beside", **lift}, may_lift=False)
    assert refused.value.why == "lift_not_signed"
    assert (file.note, held(file.path)) == (note, table())


def test_what_may_only_add_can_add_and_say_the_same_again(file: CacheFile) -> None:
    assert apply(file, {place(1): row(1, 0), place(5000): b"new", place(6000): None}, may_lift=False) == 1
    assert apply(file, {place(5000): b"new"}, may_lift=False) == 0
    assert held(file.path) == {**table(), place(5000): b"new"}
    assert (file.note.serial, file.note.rows) == (102, ROWS + 1)


def test_a_segment_is_not_applied_twice(file: CacheFile) -> None:
    apply(file, {place(1): b"x"})
    with pytest.raises(ValueError, match="101"):
        file.apply([(place(1), b"y")], 101, b"\x02" * 32, LATER, may_lift=True)
    assert held(file.path)[place(1)] == b"x"


def test_what_is_confirmed_is_remembered(path: Path) -> None:
    with CacheFile(path) as file:
        file.confirm(LATER, b"floor of the metadata")
        note = file.note
    with CacheFile(path) as file:
        assert (file.checked, file.floor, file.note) == (LATER, b"floor of the metadata", note)
        with pytest.raises(ValueError, match="zone"):
            file.confirm(LATER.replace(tzinfo=None), b"")
        assert file.floor == b"floor of the metadata"


def test_a_second_writer_is_refused(file: CacheFile) -> None:
    with pytest.raises(StoreError, match="second_writer"):
        CacheFile(file.path)
    file.close()
    file.close()
    CacheFile(file.path).close()


def test_a_long_wal_is_cut_and_a_reader_who_holds_it_is_not_waited_for(
    file: CacheFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachefile, "WAL_BYTES_KEPT", 1 << 18)
    wal = file.path.with_name(file.path.name + "-wal")
    apply(file, dict(table(1)))
    assert wal.stat().st_size == 0
    with closing(sqlite3.connect(f"file:{file.path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        before = dict(reader.execute("SELECT key, value FROM rows"))
        apply(file, dict(table(2)))
        assert wal.stat().st_size > 1 << 18
        assert dict(reader.execute("SELECT key, value FROM rows")) == before == table(1)
    apply(file, {place(1): b"x"})
    assert wal.stat().st_size == 0
    assert held(file.path) == {**table(2), place(1): b"x"}


# -- the audit -----------------------------------------------------------------------------------------------


def test_digests_are_those_of_the_rows_of_every_bucket(file: CacheFile) -> None:
    told: list[int] = []
    wanted = b"".join(
        bucket_digest((p, blob) for p, blob in sorted(table().items()) if bucket_of(p) == bucket)
        for bucket in range(BUCKETS)
    )
    assert file.digests(told.append) == wanted
    assert told == [ROWS]


def test_an_audit_beside_a_writer_is_of_one_state(file: CacheFile) -> None:
    before = file.digests()
    applied: list[int] = []

    def meanwhile(_: int) -> None:
        applied.append(apply(file, dict(table(1))))

    thread_saw = audited(file.path, meanwhile)  # told at the end, while its transaction is still open
    assert applied == [ROWS]
    assert (thread_saw[0].serial, thread_saw[1]) == (100, before)
    assert file.digests() != before


def test_a_bucket_that_differs_is_found_and_repaired_alone(file: CacheFile) -> None:
    right = file.digests()
    altered, lost = place(1), place(2)
    foreign = altered[:2] + bytes(14)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as somebody:
        somebody.execute("UPDATE rows SET value = x'00' WHERE key = ?", (altered,))
        somebody.execute("DELETE FROM rows WHERE key = ?", (lost,))
        somebody.execute("INSERT INTO rows VALUES (?, x'01')", (foreign,))
    buckets = differing(file.digests(), right)
    assert buckets == sorted({bucket_of(altered), bucket_of(lost)})
    differed = 0
    for bucket in buckets:
        differed += file.repair(bucket, [(p, b) for p, b in sorted(table().items()) if bucket_of(p) == bucket])
    assert differed == 3
    assert held(file.path) == table()
    assert file.digests() == right
    assert file.note.serial == 100


def test_a_repair_with_rows_of_another_bucket_changes_nothing(file: CacheFile) -> None:
    with pytest.raises(ValueError, match="another bucket"):
        file.repair((bucket_of(place(1)) + 1) % BUCKETS, [(place(1), b"x")])
    assert held(file.path) == table()


def test_a_repair_keeps_count_of_the_rows(file: CacheFile) -> None:
    bucket = bucket_of(place(1))
    there = [p for p in table() if bucket_of(p) == bucket]
    assert file.repair(bucket, []) == len(there)
    assert file.note.rows == ROWS - len(there) == len(held(file.path))


# -- bad files -----------------------------------------------------------------------------------------------


def test_another_edition_and_another_program_are_told_apart(path: Path, tmp_path: Path) -> None:
    for name, value, why in (("user_version", 1, "wrong_edition"), ("application_id", 7, "not_ours")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA {name}={value}")
        with pytest.raises(StoreError) as refused:
            CacheFile(path)
        assert refused.value.why == why
    with pytest.raises(StoreError, match="cannot_open"):
        CacheFile(path_of(tmp_path, PEOPLE, 2))
    assert not path_of(tmp_path, PEOPLE, 2).exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_though_it_has_a_wal(path: Path, part: float) -> None:
    with CacheFile(path) as file, closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        reader.execute("SELECT 1 FROM rows").fetchone()
        file.confirm(LATER, b"")  # the reader keeps the WAL from going when the writer closes
        file.close()
        os.truncate(path, int(path.stat().st_size * part))
        with pytest.raises(StoreCorrupt), CacheFile(path) as again:  # what the WAL is long enough for is found by use
            again.digests()


def test_rubbish_where_the_note_or_a_row_should_be_is_damage(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("INSERT INTO rows VALUES ('text', 5)")
    with CacheFile(path) as file, pytest.raises(StoreCorrupt):
        file.digests()
    for name, value in (("note", b"{}"), ("note", 5), ("checked", b"yesterday")):
        with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
            somebody.execute("UPDATE about SET value = ? WHERE name = ?", (value, name))
        with pytest.raises(StoreCorrupt):
            CacheFile(path)


def test_a_damaged_page_is_said_in_our_words(path: Path) -> None:
    whole = path.read_bytes()
    dice = random.Random(4)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[dice.randrange(0, len(data), 8192) + dice.randrange(100)] ^= dice.randrange(1, 256)
        path.write_bytes(data)
        try:
            with CacheFile(path) as file:
                apply(file, {place(number): row(number, 1) for number in range(ROWS)})
                file.digests()
        except StoreError:
            refused += 1
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    assert refused > 10
