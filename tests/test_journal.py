"""The journal: the same day again, exactly, for who holds the key; doors and times for who holds the disk."""

import itertools
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.icao.check import Check
from gated.lane import commands as c
from gated.lane import events as e
from gated.lane.evidence import Decision, Verdict
from gated.store.db import LaneDb
from gated.store.journal import Journal, JournalReader
from gated.store.sql import StoreError
from gated.wire.codec import family
from tests.canaries import Canary, found

KEY = bytes(range(32))
DAY = datetime(2025, 3, 1, 8, 0, tzinfo=UTC)
EVENTS = family(vars(e), e.Event)
COMMANDS = family(vars(c), c.Command)
TRAVELLER = e.Traveller(
    17,
    "national",
    date(1990, 1, 1),
    frozenset({"exit_ban_flag"}),
    (e.Permit("exit_permission_kind", date(2025, 1, 1), date(2025, 2, 1), None),),
    fingers=("right_index",),
)

steps = st.tuples(
    st.one_of(
        st.builds(e.DoorOpened, st.sampled_from(e.Door)),
        st.builds(e.PersonPassed, st.sampled_from(e.Door), st.booleans()),
        st.builds(e.RecordFound, st.integers(1, 99), st.integers(1, 9), st.just(TRAVELLER)),
        st.builds(e.FlagsRead, st.integers(1, 99), st.integers(1, 9), st.frozensets(st.text("abc_", min_size=1))),
        st.builds(e.FaceCompared, st.integers(1, 9), st.integers(1, 9), st.sampled_from(Check), st.floats(-1, 1)),
        st.just(e.Deadline()),
    ),
    st.lists(
        st.one_of(
            st.builds(c.RequestOpen, st.sampled_from(e.Door)),
            st.builds(c.Settle, st.integers(1, 9), st.sampled_from(c.Outcome), st.just(None), st.integers(0, 3)),
            st.builds(
                c.Settle, st.just(4), st.just(c.Outcome.CROSSED), st.just(Verdict(Decision.GRANT, "ok")), st.just(1)
            ),
            st.builds(c.Alarm, st.sampled_from(c.AlarmCode)),
        ),
        max_size=3,
    ).map(tuple),
)


def moments(start: float = 0.0) -> Iterator[e.Now]:
    for n in itertools.count():
        yield e.Now(start + n * 0.1, DAY + timedelta(seconds=n * 0.1))


def write(path: Path, history: list[Any], boot: str = "boot-1", key: bytes = KEY) -> str:
    db = LaneDb(path)
    journal = Journal(db, key, boot)
    for now, (event, asked) in zip(moments(), history, strict=False):
        journal.append(now, event, asked)
    with db.transaction():
        assert journal.flush() == len(history)
    with db.transaction():
        assert journal.flush() == 0
    db.close()
    return journal.hash


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=20))
def test_a_day_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, history: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("j")
    first = write(folder / "lane.db", history)
    reader = JournalReader(folder / "lane.db", EVENTS, COMMANDS, KEY)
    entries = list(reader.read("boot-1"))
    assert [entry.replayed() for entry in entries] == history
    assert [(entry.n, entry.mono, entry.utc) for entry in entries] == [
        (n + 1, now.mono, now.utc) for n, now in zip(range(len(history)), moments(), strict=False)
    ]
    reader.close()
    again = write(folder / "again.db", history)
    assert again == first
    if history:
        assert write(folder / "shorter.db", history[:-1]) != first
        assert write(folder / "changed.db", [*history[:-1], (e.HelpPressed(), ())]) != first
        assert write(folder / "otherkey.db", history, key=bytes(32)) != first


HISTORY: list[Any] = [
    (e.DoorOpened(e.Door.A), (c.Prompt(c.PromptCode.WALK_IN),)),
    (e.RecordFound(1, 1, TRAVELLER), (c.RequestOpen(e.Door.A),)),
    (e.FlagsRead(1, 2, frozenset({"exit_ban_flag"})), (c.CallOfficer(1, "control"),)),
    (e.DoorClosed(e.Door.A), ()),
]


def test_without_the_key_doors_and_times_but_no_person(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    write(path, HISTORY)
    reader = JournalReader(path, EVENTS, COMMANDS)
    entries = list(reader.read("boot-1"))
    assert entries[0].replayed() == HISTORY[0]
    assert entries[3].replayed() == HISTORY[3]
    assert entries[1].clear == [
        {"RecordFound": {"ask": 1, "cache": None, "ticket": 1}},
        [{"RequestOpen": {"door": "A"}}],
    ]
    with pytest.raises(StoreError) as sealed:
        entries[1].replayed()
    assert sealed.value.why == "sealed"
    assert "key" in str(sealed.value)
    reader.close()
    canaries = [
        Canary("flag", "exit_ban_flag"),
        Canary("permit", "exit_permission_kind"),
        Canary("birth", "1990-01-01"),
    ]
    assert found(canaries, tmp_path) == []


def test_nothing_personal_waits_in_memory(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    journal = Journal(db, KEY, "boot-1")
    journal.append(next(moments()), *HISTORY[1])
    assert "exit_ban_flag" not in "".join(str(row.clear) + str(row.sealed) for row in journal._buffer)
    assert "exit_ban_flag" not in repr(journal._buffer)
    db.close()


def test_the_wrong_key_is_told(tmp_path: Path) -> None:
    write(tmp_path / "lane.db", HISTORY)
    reader = JournalReader(tmp_path / "lane.db", EVENTS, COMMANDS, bytes(32))
    with pytest.raises(StoreError) as wrong:
        list(reader.read("boot-1"))
    assert wrong.value.why in ("wrong_key", "journal_altered")
    reader.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DELETE FROM journal WHERE n = 2", "journal_gap"),
        ("UPDATE journal SET mono = mono + 1 WHERE n = 3", "wrong_key"),
        ("UPDATE journal SET mono = mono + 1 WHERE n = 4", "journal_altered"),
        (
            "UPDATE journal SET clear = cast(replace(cast(clear AS TEXT), '\"A\"', '\"B\"') AS BLOB) WHERE n = 4",
            "journal_altered",
        ),
        ("UPDATE journal SET sealed = NULL WHERE n = 3", "journal_altered"),
        ("UPDATE journal SET sealed = (SELECT sealed FROM journal WHERE n = 2) WHERE n = 3", "wrong_key"),
    ],
)
def test_what_was_changed_on_the_disk_is_found(tmp_path: Path, change: str, why: str) -> None:
    path = tmp_path / "lane.db"
    write(path, HISTORY)
    with sqlite3.connect(path) as connection:
        assert connection.execute(change).rowcount == 1
    connection.close()
    reader = JournalReader(path, EVENTS, COMMANDS, KEY)
    with pytest.raises(StoreError) as altered:
        list(reader.read("boot-1"))
    assert altered.value.why == why
    reader.close()


def test_what_is_not_durable_stays_in_memory(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    journal = Journal(db, KEY, "boot-1")
    now = moments()
    journal.append(next(now), *HISTORY[0])
    with pytest.raises(RuntimeError), db.transaction():
        journal.flush()
        raise RuntimeError("on purpose")
    journal.append(next(now), *HISTORY[1])
    with db.transaction():
        assert journal.flush() == 2
        journal.append(next(now), *HISTORY[2])  # the loop goes on while the writer works
    with db.transaction():
        assert journal.flush() == 1
    reader = JournalReader(db.path, EVENTS, COMMANDS, KEY)
    assert [entry.replayed() for entry in reader.read("boot-1")] == HISTORY[:3]
    reader.close()
    db.close()


def test_a_disk_that_takes_nothing_costs_the_oldest_and_says_so(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    journal = Journal(db, KEY, "boot-1", buffer_max=3)
    for now, step in zip(moments(), HISTORY * 2, strict=False):
        journal.append(now, *step)
    assert journal.lost == 5
    with db.transaction():
        assert journal.flush() == 3
    reader = JournalReader(db.path, EVENTS, COMMANDS, KEY)
    assert [entry.n for entry in reader.read("boot-1")] == [6, 7, 8]
    reader.close()
    db.close()


def test_every_boot_has_a_journal_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    write(path, HISTORY, "boot-1")
    write(path, HISTORY[:2], "boot-2")
    reader = JournalReader(path, EVENTS, COMMANDS, KEY)
    assert [(b.boot, b.first, b.last) for b in reader.boots()] == [("boot-1", 1, 4), ("boot-2", 1, 2)]
    assert len(list(reader.read("boot-2"))) == 2
    assert [entry.n for entry in reader.read("boot-1", first=3)] == [3, 4]
    reader.close()
    with pytest.raises(StoreError, match="boot_used"):
        write(path, HISTORY, "boot-1")


def test_days_and_rows_bound_it(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    journal = Journal(db, KEY, "boot-1")
    for n in range(60):
        journal.append(e.Now(n, DAY + timedelta(days=n)), e.Deadline(), ())
    with db.transaction():
        assert journal.trim(DAY, 30, 100) == 0
        journal.flush()
    with db.transaction():
        assert journal.trim(DAY + timedelta(days=59), 30, 1000) == 29
        assert journal.trim(DAY + timedelta(days=59), 30, 1000) == 0
        assert journal.trim(DAY + timedelta(days=59), 30, 10) == 21
    reader = JournalReader(db.path, EVENTS, COMMANDS, KEY)
    assert [entry.n for entry in reader.read("boot-1")] == list(range(51, 61))
    reader.close()
    with db.transaction():
        assert journal.trim(DAY + timedelta(days=999), 30, 10) == 10
    db.close()


def test_another_edition_of_the_lane_is_told(tmp_path: Path) -> None:
    write(tmp_path / "lane.db", HISTORY)
    fewer = {name: cls for name, cls in EVENTS.items() if name != "DoorOpened"}
    reader = JournalReader(tmp_path / "lane.db", fewer, COMMANDS, KEY)
    with pytest.raises(StoreError, match="other_edition"):
        next(iter(reader.read("boot-1"))).replayed()
    reader.close()
