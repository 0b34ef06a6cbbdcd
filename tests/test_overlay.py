"""The lane's own crossings over HQ's row: against a model that replays everything, and as lane.db keeps them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gated.lane.events import Crossed, Permit
from gated.lane.history import Crossing, entries_left, last, uncounted
from gated.lane.rules import ENTRY, EXIT, Category
from gated.store import crossings as kept
from gated.store.crossings import Crossings
from gated.store.db import LaneDb
from gated.store.sql import StoreCorrupt
from gated.wire.rows import CROSSINGS_MAX, of_document, of_subject
from tests.canaries import Canary, found
from tests.play import rules

TAIPEI = ZoneInfo("Asia/Taipei")
RULES = rules(
    {"visitor": Category(entry_permits=frozenset({"entry_permit"})),
     "returner": Category(entry_permits=frozenset({"residence", "entry_permit"}), exit_permits=frozenset({"stay"})),
     "national": Category()},
    zone=TAIPEI,
)  # fmt: skip
START = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
DAYS = 6


def crossing(direction: str, hours: float, this_document: bool = True) -> Crossing:
    return Crossing(direction, Crossed(START + timedelta(hours=hours), this_document))


def permit(entries: int | None, kind: str = "entry_permit", days: tuple[int, int] = (0, DAYS)) -> Permit:
    first = START.date()
    return Permit(kind, first + timedelta(days=days[0]), first + timedelta(days=days[1]), entries)


def row_of(counted: Sequence[Crossing]) -> Sequence[Crossing]:
    """What HQ's row has room for."""
    return sorted(counted, key=lambda each: each.crossed.utc)[-CROSSINGS_MAX:]


def overlaid(
    permits: Sequence[Permit], counted: Sequence[Crossing], own: Iterable[Crossing], category: str = "visitor"
) -> tuple[Permit, ...]:
    """As the look-up puts it together. `permits`: as they are after `counted`."""
    row = row_of(counted)
    new = uncounted(row, own, full=len(row) == CROSSINGS_MAX)
    return entries_left(permits, new, category, RULES)


# -- the model -----------------------------------------------------------------------------------------------------


def replayed(permits: Sequence[Permit], crossings: Iterable[Crossing], kinds: Iterable[str]) -> list[Permit]:
    """Every entry in the order in which it happened, off the first permit of each kind that holds and has one left."""
    left = {at: each.entries_left for at, each in enumerate(permits)}
    for each in sorted(crossings, key=lambda c: c.crossed.utc):
        day = each.crossed.utc.astimezone(TAIPEI).date()
        for kind in kinds if each.direction == ENTRY else ():
            holding = [at for at, p in enumerate(permits) if p.kind == kind and p.start <= day <= p.end]
            usable = [at for at in holding if left[at] is None or (left[at] or 0) > 0]
            if usable and (entries := left[usable[0]]) is not None:
                left[usable[0]] = entries - 1
    return [replace(each, entries_left=left[at]) for at, each in enumerate(permits)]


events = st.lists(
    st.tuples(st.sampled_from((ENTRY, EXIT)), st.integers(0, DAYS * 24 * 60), st.booleans(), st.booleans()),
    unique_by=lambda each: each[1],
    max_size=16,
)
"""Direction, minute, at this lane or elsewhere, with this document or another."""
permits = st.lists(
    st.tuples(st.sampled_from(("entry_permit", "residence", "stay")), st.integers(0, 4), st.integers(0, 4),
              st.none() | st.integers(0, 4)),
    max_size=5,
)  # fmt: skip


@given(events, permits, st.integers(0, DAYS * 24 * 60), st.sampled_from(("visitor", "returner", "national")))
def test_what_hq_counted_up_to_some_time_and_the_lanes_own_are_what_really_happened(
    happened: list[tuple[str, int, bool, bool]],
    drawn: list[tuple[str, int, int, int | None]],
    until: int,
    category: str,
) -> None:
    """However much of it HQ's row knows, and with whatever left the row."""
    made = [(crossing(way, minute / 60, this), minute, here) for way, minute, here, this in happened]
    everything = [each for each, minute, here in made if here or minute <= until]
    counted = [each for each, minute, _ in made if minute <= until]
    own = [each for each, _, here in made if here]
    granted = [permit(entries, kind, (first, first + length)) for kind, first, length, entries in drawn]
    kinds = RULES.categories[category].entry_permits
    row_permits = replayed(granted, counted, kinds)
    assert list(overlaid(row_permits, counted, own, category)) == replayed(granted, everything, kinds)
    for way in (ENTRY, EXIT):
        newest = max((c.crossed.utc for c in everything if c.direction == way), default=None)
        seen = last((*row_of(counted), *own), way)
        if len(counted) <= CROSSINGS_MAX or (newest is not None and newest >= row_of(counted)[0].crossed.utc):
            assert (seen.utc if seen else None) == newest


@given(events, st.sets(st.integers(0, 15)), st.integers(0, 6))
def test_records_that_reach_hq_in_any_order_are_counted_once(
    happened: list[tuple[str, int, bool, bool]], late: set[int], entries: int
) -> None:
    """Of one permit. A lane's records may come days after those of the others."""
    made = [(crossing(way, minute / 60), here) for way, minute, here, _ in happened]
    counted = [each for at, (each, here) in enumerate(made) if not (here and at in late)]
    own = [each for each, here in made if here]
    row = row_of(counted)
    assume(len(row) < CROSSINGS_MAX or all(c in counted or c.crossed.utc > row[0].crossed.utc for c in own))
    kinds = ["entry_permit"]
    after = replayed([permit(entries)], counted, kinds)
    assert overlaid(after, counted, own)[0].entries_left == max(0, entries - sum(c.direction == ENTRY for c, _ in made))


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_what_hq_has_counted_is_not_counted_twice() -> None:
    mine = [crossing(ENTRY, 1), crossing(EXIT, 2), crossing(ENTRY, 3)]
    assert overlaid([permit(2)], [], mine) == (permit(0),)
    assert overlaid([permit(1)], mine[:2], mine) == (permit(0),)
    assert overlaid([permit(0)], mine, mine) == (permit(0),)


def test_what_happened_at_the_same_moment_the_other_way_is_another_crossing() -> None:
    assert uncounted([crossing(EXIT, 1)], [crossing(ENTRY, 1)], full=True) == (crossing(ENTRY, 1),)
    later = Crossing(ENTRY, Crossed(START + timedelta(hours=1, microseconds=1)))
    assert uncounted([later], [crossing(ENTRY, 1)], full=False) == (crossing(ENTRY, 1),)


def test_a_full_row_has_forgotten_what_is_older_and_another_has_not() -> None:
    older, row = crossing(ENTRY, 0), [crossing(EXIT, 1 + k) for k in range(CROSSINGS_MAX)]
    assert overlaid([permit(1)], row, [older]) == (permit(1),)
    assert overlaid([permit(1)], row[1:], [older]) == (permit(0),)


def test_an_entry_is_taken_off_what_held_on_its_day_in_the_country() -> None:
    """16:30 UTC is the next day in Taipei."""
    evening = Crossing(ENTRY, Crossed(datetime(2026, 3, 1, 16, 30, tzinfo=UTC)))
    first, second = permit(2, days=(0, 0)), permit(2, days=(1, 1))
    assert overlaid([first, second], [], [evening]) == (first, replace(second, entries_left=1))
    assert overlaid([first], [], [evening]) == (first,), "where none held, none is touched"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0, 2, 1], [0, 1, 1]),
        ([None, 2], [None, 2]),
        ([0, 0], [0, 0]),
        ([1, None], [0, None]),
    ],
)
def test_the_first_with_entries_left_gives_it(before: list[int | None], after: list[int | None]) -> None:
    assert overlaid([permit(n) for n in before], [], [crossing(ENTRY, 1)]) == tuple(permit(n) for n in after)


def test_each_kind_that_is_demanded_gives_one_and_no_other() -> None:
    mine = [crossing(ENTRY, 1), crossing(EXIT, 2)]
    given = [permit(3, kind) for kind in ("residence", "stay", "entry_permit")]
    assert [each.entries_left for each in overlaid(given, [], mine, "returner")] == [2, 3, 2]
    assert [each.entries_left for each in overlaid(given, [], mine, "visitor")] == [3, 3, 2]
    assert overlaid(given, [], mine, "national") == tuple(given)
    assert overlaid(given, [], mine, "of another policy") == tuple(given)


def test_the_last_crossing_says_with_which_document() -> None:
    all_of_it = [crossing(ENTRY, 1), crossing(ENTRY, 5, this_document=False), crossing(EXIT, 3)]
    for order in itertools.permutations(all_of_it):
        assert last(order, ENTRY) == Crossed(START + timedelta(hours=5), False)
        assert last(order, EXIT) == Crossed(START + timedelta(hours=3), True)
    assert last([], ENTRY) is None


# -- on the disk -----------------------------------------------------------------------------------------------------

KEY = bytes(range(32))
SUBJECT, PASSPORT, CARD = of_subject(424242), of_document("TWN", "X13572468"), of_document("TWN", "Y24681357")


def happened(direction: str, minutes: int, *whose: tuple[str, ...]) -> kept.Crossing:
    return kept.Crossing(direction, START + timedelta(minutes=minutes), whose)


def test_own_crossings_are_found_by_person_and_by_document(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    one, other = happened(EXIT, 60, SUBJECT, PASSPORT), happened(ENTRY, 0, SUBJECT, CARD)
    unknown = happened(EXIT, 5, CARD)
    with db.transaction():
        for each in (one, other, unknown):
            crossings.add(each)
    assert list(map(set, crossings.of(SUBJECT, PASSPORT, CARD))) == [{one, other}, {one}, {other, unknown}]
    assert crossings.of(of_subject(424243)) == (frozenset(),)
    assert Crossings(db, bytes(32)).of(SUBJECT) == (frozenset(),)
    assert found([Canary("subject", "424242"), Canary("number", "X13572468")], tmp_path) == []
    assert "X13572468" not in repr(one)
    db.close()


def test_the_time_is_kept_to_the_microsecond_whatever_the_zone(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    moment = datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=TAIPEI)
    with db.transaction():
        crossings.add(kept.Crossing(ENTRY, moment, (SUBJECT,)))
    [[found_again]] = crossings.of(SUBJECT)
    assert found_again.utc == moment and found_again.utc.utcoffset() == timedelta(0)
    db.close()


def test_what_waits_for_the_disk_is_known_until_it_is_there(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    first, second = happened(ENTRY, 0, SUBJECT, PASSPORT), happened(EXIT, 1, SUBJECT, PASSPORT)
    for each in (first, second):
        crossings.await_disk(each)
    assert crossings.awaiting(SUBJECT) == crossings.awaiting(PASSPORT) == {first, second}
    assert crossings.awaiting(CARD) == frozenset()
    crossings.written(first)
    assert crossings.awaiting(SUBJECT) == {second}
    assert crossings.of(SUBJECT) == (frozenset(),), "nothing was written"
    db.close()


def test_the_oldest_are_forgotten_by_age_and_by_number(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    with db.transaction():
        assert crossings.forget(START, 10) == 0
        for k in range(10):
            crossings.add(happened(ENTRY, k, SUBJECT, PASSPORT))
    assert len(crossings.of(SUBJECT)[0]) == 10

    def left() -> list[int]:
        [theirs, documents] = crossings.of(SUBJECT, PASSPORT)
        assert theirs == documents
        return sorted((each.utc - START) // timedelta(minutes=1) for each in theirs)

    with db.transaction():
        assert crossings.forget(START + timedelta(minutes=3), 1000) == 6
    assert left() == [3, 4, 5, 6, 7, 8, 9]
    with db.transaction():
        assert crossings.forget(START, 4) == 10
    assert left() == [8, 9]
    with db.transaction():
        crossings.add(happened(ENTRY, -500, SUBJECT, PASSPORT))
        assert crossings.forget(START, 1000) == 0, "the clock stepped back: it stays as long as what happened before it"
    assert left() == [-500, 8, 9]
    with db.transaction():
        assert crossings.forget(START + timedelta(days=1), 1000) == 6
    assert left() == []
    db.close()


def test_after_a_month_offline_they_go_little_by_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of whoever stands at the exit waits for the same disk."""
    monkeypatch.setattr(kept, "TRIM_ROWS", 3)
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    with db.transaction():
        for k in range(4):
            crossings.add(happened(ENTRY, k, SUBJECT, PASSPORT))
    gone = []
    for _ in range(4):
        with db.transaction():
            gone.append(crossings.forget(START + timedelta(days=1), 1000))
    assert gone == [3, 3, 2, 0]
    db.close()


def test_a_damaged_row_is_no_crossing_that_did_not_happen(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    crossings = Crossings(db, KEY)
    with db.transaction():
        crossings.add(happened(ENTRY, 0, SUBJECT, PASSPORT))
        db.sql.execute("UPDATE crossings SET utc = '2026-03-01T04:0'")
    with pytest.raises(StoreCorrupt, match=r"lane\.db: corrupt: the time of a crossing"):
        crossings.of(SUBJECT)
    db.close()
