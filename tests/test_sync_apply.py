"""What the sync applies and what it refuses, by name: over a real server, real TUF metadata and real databases."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gated.store.cachefile import CacheFile, audited, generations, path_of
from gated.store.sql import StoreError
from gated.sync import follow
from gated.sync.refused import SyncRefused, Why
from gated.sync.rounds import Stopping
from gated.wire import bundle
from gated.wire.bundle import SCHEMA
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.segment import SegmentNote
from tests.hw_sim.website import Status, Website
from tests.sync_rig import (
    NAME,
    WRAPPED,
    Clock,
    Hq,
    LaneRig,
    altered,
    announcement,
    packed,
    place,
    row,
    shortened,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hq(tmp_path: Path, clock: Clock) -> Hq:
    made = Hq(tmp_path / "hq", clock)
    made.add(PEOPLE, *range(300))
    made.add(CONTROL, *range(1000, 1020))
    made.sign()
    return made


@pytest.fixture
def site(hq: Hq) -> Iterator[Website]:
    with Website(hq.folder) as running:
        yield running


@pytest.fixture
def lane(tmp_path: Path, hq: Hq, site: Website, clock: Clock) -> Iterator[LaneRig]:
    rig = LaneRig(tmp_path / "lane", site.url, hq.repository.root, clock)
    yield rig
    rig.sync.close()


def catches_up(lane: LaneRig, hq: Hq) -> bool:
    """A good round after whatever happened: everything is HQ's, and nothing is wrong any more."""
    hq.clock.on(seconds=30)
    hq.add(PEOPLE, 900_000 + hq.parts[PEOPLE].serial)
    hq.add(CONTROL, 910_000 + hq.parts[CONTROL].serial)
    hq.sign(base=True)
    lane.sync.once()
    assert lane.sync.trouble == {}
    return lane.same_as(hq)


# -- the usual way ---------------------------------------------------------------------------------------------------


def test_a_new_lane_gets_everything_and_is_told(lane: LaneRig, hq: Hq) -> None:
    assert lane.sync.once()
    assert lane.same_as(hq)
    assert lane.told == [(PEOPLE, ""), (CONTROL, "")]
    with sqlite3.connect(lane.newest(CONTROL)) as sql:
        about = dict(sql.execute("SELECT name, value FROM about"))
    assert about["key"] == WRAPPED[CONTROL] and about["proof"] == b"proof"
    assert lane.sync.copies[PEOPLE].standing.checked == hq.clock()


def test_segments_are_applied_and_the_age_is_moved_on_where_there_are_none(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.clock.on(minutes=1)
    hq.add(PEOPLE, 7, edition=1)
    hq.segment(PEOPLE, {place(8): None})
    hq.sign()
    assert lane.sync.once() and lane.same_as(hq)
    assert lane.told[2:] == [(PEOPLE, "")]
    hq.clock.on(minutes=1)
    hq.sign()
    assert lane.sync.once()
    assert lane.told[3:] == [] and lane.sync.copies[CONTROL].standing.checked == hq.clock()


def test_a_snapshot_is_a_new_generation_at_the_head_and_the_one_before_is_kept(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    for epoch in (2, 3):
        was = dict(hq.parts[PEOPLE].rows)
        hq.next_epoch(PEOPLE)
        hq.segment(PEOPLE, {key: blob + bytes([epoch]) for key, blob in was.items()})
        hq.snap(PEOPLE)
        hq.add(PEOPLE, 5000 + epoch)
        hq.sign(base=True)
        assert lane.sync.once() and lane.same_as(hq)
    assert list(generations(lane.folder, PEOPLE)) == [2, 3] and list(generations(lane.folder, CONTROL)) == [1]
    assert sorted(os.listdir(lane.folder / "sync" / "spool")) == []
    assert sorted(os.listdir(lane.folder / "sync" / "building")) == []


def test_a_generation_has_no_place_before_it_is_at_the_head(lane: LaneRig, hq: Hq, site: Website) -> None:
    """A lane that opens whatever is newest never finds one that is older than the one before it."""
    lane.sync.once()
    rows = dict(hq.parts[PEOPLE].rows)
    hq.next_epoch(PEOPLE)
    hq.segment(PEOPLE, rows)
    hq.snap(PEOPLE)
    hq.add(PEOPLE, 5001)
    hq.sign(base=True)
    mend = altered(hq.folder / bundle.segment_path(PEOPLE, 2, 2))
    assert not lane.sync.once()
    assert lane.why(PEOPLE) is Why.ALTERED and list(generations(lane.folder, PEOPLE)) == [1]
    built = lane.folder / "sync" / "building" / "cache-people-2.db"
    begun = built.stat().st_ino
    mend()
    asked = len(site.asked)
    lane.restart()
    assert lane.sync.once() and lane.same_as(hq)
    assert lane.newest(PEOPLE).stat().st_ino == begun, "what was begun was gone on with"
    assert not [each for each in site.asked[asked:] if "chunk" in each.path]


def test_a_snapshot_is_gone_on_with_after_a_stop(lane: LaneRig, hq: Hq, site: Website) -> None:
    hq.snap(PEOPLE, chunk_rows=50)
    hq.sign(base=True)
    state = lane.sync.refresh()
    assert state is not None
    seen: list[str] = []

    def say(what: str, done: int, of: int) -> None:
        seen.append(what)
        if "piece 4" in what:
            raise Stopping

    lane.sync.copies[PEOPLE]._say = say
    with pytest.raises(Stopping):
        lane.sync.take(PEOPLE, state)
    assert seen and generations(lane.folder, PEOPLE) == {}
    asked = len(site.asked)
    lane.restart()
    assert lane.sync.once() and lane.same_as(hq)
    again = {each.path.rpartition("/")[2] for each in site.asked[asked:] if each.path.endswith(".chunk")}
    assert again <= {"3.chunk", "4.chunk", "5.chunk"}


def test_a_day_takes_the_place_of_its_segments(lane: LaneRig, hq: Hq, site: Website) -> None:
    lane.sync.once()
    for number in range(20):
        hq.add(PEOPLE, number, 6000 + number, edition=2)
    hq.day(PEOPLE, 2, 15)
    hq.sign()
    asked = len(site.asked)
    assert lane.sync.once() and lane.same_as(hq)
    fetched = [each for each in site.asked[asked:] if each.path.endswith((".seg", ".day"))]
    assert len(fetched) == 1 + 6


def test_thirty_days_away_are_caught_up_by_days_where_hq_has_no_segments_left(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    for day in range(30):
        hq.clock.on(days=1)
        for change in range(3):
            hq.add(PEOPLE, day * 10 + change, edition=day + 1)
        last = hq.parts[PEOPLE].serial
        hq.day(PEOPLE, last - 2, last)
    shutil.rmtree(hq.folder / "data" / PEOPLE / "1" / "segments")
    hq.snap(PEOPLE)
    hq.sign(base=True)
    assert lane.sync.once() and lane.same_as(hq)
    assert list(generations(lane.folder, PEOPLE)) == [1], "no snapshot was needed"


def test_behind_a_gap_only_a_snapshot_leads_on(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    for number in range(5):
        hq.add(PEOPLE, 7000 + number)
    shutil.rmtree(hq.folder / "data" / PEOPLE / "1" / "segments")
    hq.snap(PEOPLE)
    hq.add(PEOPLE, 8000)
    hq.sign(base=True)
    assert lane.sync.once() and lane.same_as(hq)
    assert list(generations(lane.folder, PEOPLE)) == [1, 2]


def test_a_lane_without_a_key_keeps_no_data(lane: LaneRig, hq: Hq) -> None:
    key = hq.folder / bundle.key_path(PEOPLE, 1, NAME)
    key.unlink()
    assert not lane.sync.once()
    assert lane.why(PEOPLE) is Why.NO_KEY and generations(lane.folder, PEOPLE) == {}
    assert (PEOPLE, "no_key") in lane.told
    assert os.listdir(lane.folder / "sync" / "building") == []
    hq.wrap(hq.parts[PEOPLE])
    assert catches_up(lane, hq)


# -- attacks, each followed by a good round --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "why"), [(altered, Why.ALTERED), (shortened, Why.TRUNCATED)], ids=["bit_flip", "truncated"]
)
@pytest.mark.parametrize("what", ["segment", "day", "chunk", "manifest", "audit"])
def test_what_is_not_what_was_signed_is_refused(
    lane: LaneRig, hq: Hq, what: str, spoil: Callable[[Path], Callable[[], None]], why: Why
) -> None:
    paths = {
        "segment": bundle.segment_path(PEOPLE, 1, 2),
        "day": bundle.day_path(PEOPLE, 1, 2, 3),
        "chunk": bundle.chunk_path(PEOPLE, 1, 1, 1),
        "manifest": bundle.manifest_path(PEOPLE, 1, 1),
        "audit": bundle.audit_path(PEOPLE, 1, 3),
    }
    if what in ("chunk", "manifest"):
        hq.snap(PEOPLE)
    else:
        lane.sync.once()
    hq.add(PEOPLE, 1, edition=3)
    hq.add(PEOPLE, 2, edition=3)
    if what == "day":
        hq.day(PEOPLE, 2, 3)
    if what == "audit":
        hq.table(PEOPLE)
    hq.sign(base=True)
    before = lane.rows(PEOPLE) if generations(lane.folder, PEOPLE) else {}
    spoil(hq.folder / paths[what])
    if what == "audit":
        assert lane.sync.once()
        with pytest.raises(SyncRefused) as refused:
            lane.sync.audit(PEOPLE, repair=True)
        assert refused.value.why is why
    else:
        assert not lane.sync.once()
        assert lane.rows(PEOPLE) == before if before else generations(lane.folder, PEOPLE) == {}
    assert lane.why(PEOPLE) is why and (PEOPLE, why.value) in lane.told
    # what was spoilt is put right by publishing on
    hq.parts[PEOPLE].days.clear()
    if what == "segment":
        hq.day(PEOPLE, 2, 3)
    elif what != "day":
        hq.snap(PEOPLE)
    assert catches_up(lane, hq)


@pytest.mark.parametrize("spoil", [altered, shortened], ids=["bit_flip", "truncated"])
def test_an_index_that_somebody_altered_costs_nothing_that_is_here(
    lane: LaneRig, hq: Hq, spoil: Callable[[Path], Callable[[], None]]
) -> None:
    lane.sync.once()
    hq.add(PEOPLE, 1, edition=3)
    hq.sign()
    mend = spoil(hq.folder / bundle.page_path(PEOPLE, 1, 0))
    assert not lane.sync.once()
    assert lane.why(PEOPLE) in (Why.WRONG_CHAIN, Why.TRUNCATED)
    assert list(generations(lane.folder, PEOPLE)) == [1], "the lane's own file is not blamed for it"
    mend()
    assert catches_up(lane, hq) and list(generations(lane.folder, PEOPLE)) == [1]


def test_a_day_that_leads_elsewhere_than_its_segments_is_mixed(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.add(PEOPLE, 1, edition=3)
    hq.add(PEOPLE, 2, edition=3)
    good = hq.day(PEOPLE, 2, 3)
    hq.parts[PEOPLE].days[:] = [replace(good, chain=sha256(b"elsewhere").digest())]
    hq.sign()
    assert not lane.sync.once() and lane.why(PEOPLE) is Why.MIXED
    hq.parts[PEOPLE].days[:] = [good]
    assert catches_up(lane, hq)


def test_base_and_head_of_two_states_are_mixed(lane: LaneRig, hq: Hq) -> None:
    hq.snap(PEOPLE)
    hq.sign(base=True)
    hq.parts[PEOPLE].snapshot = None
    state = lane.sync.refresh()
    assert state is not None
    head = replace(state.heads[PEOPLE], serial=0)
    assert not lane.sync.take(PEOPLE, replace(state, heads={**state.heads, PEOPLE: head}))
    assert lane.why(PEOPLE) is Why.MIXED
    assert catches_up(lane, hq)


def test_a_snapshot_of_the_other_partition_is_swapped(lane: LaneRig, hq: Hq) -> None:
    manifest = hq.snap(CONTROL)
    data = (hq.folder / bundle.manifest_path(CONTROL, 1, 1)).read_bytes()
    hq.file(bundle.manifest_path(PEOPLE, 1, 1), data)
    part = hq.parts[PEOPLE]
    part.snapshot = bundle.Snapshot(1, part.chain, manifest.rows, sha256(data).digest(), len(data))
    hq.sign(base=True)
    assert not lane.sync.once() and lane.why(PEOPLE) is Why.SWAPPED_PARTITION
    assert lane.why(CONTROL) is None and generations(lane.folder, PEOPLE) == {}
    hq.snap(PEOPLE)
    assert catches_up(lane, hq)


def test_a_segment_of_the_other_partition_is_swapped(lane: LaneRig, hq: Hq) -> None:
    """Signed as the next of people by a thief of the online key, and made for control."""
    lane.sync.once()
    data = packed(SegmentNote(SCHEMA, "segment", CONTROL, 1, 2, 2, 0), {place(3): row(3, 9)})
    part = hq.parts[PEOPLE]
    saved = (part.serial, part.chain, dict(part.rows))
    hq.add(PEOPLE, 4, edition=9)
    before = lane.rows(PEOPLE)
    lane.sync.announced(announcement(hq.tip(PEOPLE, data)))
    assert lane.why(PEOPLE) is Why.SWAPPED_PARTITION and lane.rows(PEOPLE) == before
    assert saved[0] == 1
    assert catches_up(lane, hq)


@pytest.mark.parametrize("wiped", [False, True])
def test_a_head_with_fewer_segments_than_here_is_rolled_back(lane: LaneRig, hq: Hq, wiped: bool) -> None:
    hq.add(PEOPLE, 3, edition=1)
    hq.sign()
    lane.sync.once()
    part = hq.parts[PEOPLE]
    serial, chain = part.serial, part.chain
    part.serial, part.chain = 1, part.chains[1]
    hq.clock.on(minutes=1)
    hq.sign()
    if wiped:
        lane.wipe_metadata()
    assert not lane.sync.once()
    assert lane.why(PEOPLE) is Why.ROLLED_BACK and lane.serial(PEOPLE) == 2
    part.serial, part.chain = serial, chain
    assert catches_up(lane, hq)


@pytest.mark.parametrize("wiped", [False, True])
def test_an_epoch_before_the_one_here_is_rolled_back(lane: LaneRig, hq: Hq, wiped: bool) -> None:
    old = hq.parts[PEOPLE]
    hq.next_epoch(PEOPLE)
    hq.add(PEOPLE, 1)
    hq.sign(base=True)
    lane.sync.once()
    new, hq.parts[PEOPLE] = hq.parts[PEOPLE], old
    hq.sign(base=True)
    if wiped:
        lane.wipe_metadata()
    assert not lane.sync.once() and lane.why(PEOPLE) is Why.ROLLED_BACK
    hq.parts[PEOPLE] = new
    assert catches_up(lane, hq)


@pytest.mark.parametrize("wiped", [False, True])
def test_a_head_too_far_ahead_is_fast_forward(lane: LaneRig, hq: Hq, wiped: bool) -> None:
    lane.sync.once()
    part = hq.parts[PEOPLE]
    part.serial += bundle.JUMP_MAX + 1
    hq.sign()
    if wiped:
        lane.wipe_metadata()
    assert not lane.sync.once() and lane.why(PEOPLE) is Why.FAST_FORWARD
    part.serial = 1
    if wiped:  # the new metadata know that head, whoever signed it: only another online key cures it
        hq.sign()
        assert not lane.sync.once() and lane.sync.trouble[""].why is Why.ROLLED_BACK
        hq.rotate()
    assert catches_up(lane, hq)


def test_what_is_here_and_not_hqs_is_set_aside(lane: LaneRig, hq: Hq) -> None:
    """Somebody with the online key announced a segment that HQ never made."""
    lane.sync.once()
    part = hq.parts[PEOPLE]
    data = packed(SegmentNote(SCHEMA, "segment", PEOPLE, 1, 2, 2, 0), {place(66): row(66, 6)})
    hq.add(PEOPLE, 1, edition=4)
    lane.sync.announced(announcement(hq.tip(PEOPLE, data)))
    assert lane.serial(PEOPLE) == 2 and lane.rows(PEOPLE)[place(66)] == row(66, 6)
    hq.sign()
    assert not lane.sync.once()
    assert lane.why(PEOPLE) is Why.WRONG_CHAIN and generations(lane.folder, PEOPLE) == {}
    assert (lane.folder / "cache-people-1.db.bad").exists()
    assert part.serial == 2 and catches_up(lane, hq)
    assert list(generations(lane.folder, PEOPLE)) == [2]


def test_a_fork_is_found_although_hq_went_on(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    data = packed(SegmentNote(SCHEMA, "segment", PEOPLE, 1, 2, 2, 0), {place(66): row(66, 6)})
    hq.add(PEOPLE, 1, edition=4)
    lane.sync.announced(announcement(hq.tip(PEOPLE, data)))
    for number in range(3):
        hq.add(PEOPLE, number, edition=5)
    hq.day(PEOPLE, 2, 4)
    hq.sign()
    assert not lane.sync.once() and lane.why(PEOPLE) is Why.WRONG_CHAIN
    assert generations(lane.folder, PEOPLE) == {}
    assert catches_up(lane, hq)


# -- announcements ---------------------------------------------------------------------------------------------------


def test_an_announced_segment_is_applied_at_once(lane: LaneRig, hq: Hq, site: Website) -> None:
    lane.sync.once()
    hq.clock.on(seconds=10)
    data = hq.add(CONTROL, 2000)
    told, asked = len(lane.told), len(site.asked)
    assert lane.sync.announced(announcement(hq.tip(CONTROL, data))) is False
    assert lane.rows(CONTROL) == hq.parts[CONTROL].rows and lane.told[told:] == [(CONTROL, "")]
    assert len(site.asked) == asked, "nobody was asked for it"
    # the head does not know it yet: no rollback; then it does
    assert lane.sync.once() and lane.serial(CONTROL) == 2
    assert catches_up(lane, hq)


def test_a_replayed_announcement_is_refused_quietly(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    first = announcement(hq.tip(CONTROL, hq.add(CONTROL, 2000)))
    second = announcement(hq.tip(CONTROL, hq.add(CONTROL, 2001)))
    assert not lane.sync.announced(first) and not lane.sync.announced(second)
    told = len(lane.told)
    assert not lane.sync.announced(first) and not lane.sync.announced(second), "brokers keep the last one"
    assert lane.sync.refused[Why.REPLAYED] == 1 and lane.told[told:] == [] and lane.sync.trouble == {}
    assert lane.serial(CONTROL) == 3
    assert catches_up(lane, hq)


def test_a_skipped_announcement_asks_hq_and_is_refused_if_hq_knows_nothing_of_it(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.add(CONTROL, 2000)
    ahead = announcement(hq.tip(CONTROL, hq.add(CONTROL, 2001)))
    before = lane.rows(CONTROL)
    assert lane.sync.announced(ahead) is True
    assert lane.rows(CONTROL) == before and lane.why(CONTROL) is None
    lane.sync.once()  # HQ has signed nothing of it
    lane.sync.again(ahead)
    assert lane.why(CONTROL) is Why.SKIPPED and (CONTROL, "skipped") in lane.told
    hq.sign()
    assert lane.sync.once() and lane.serial(CONTROL) == 3 and lane.same_as(hq)
    assert catches_up(lane, hq)


def test_an_announcement_of_several_segments_is_applied_in_order(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    tips = [hq.tip(CONTROL, hq.add(CONTROL, number)) for number in (3000, 3001, 3002)]
    assert lane.sync.announced(announcement(*tips)) is False
    assert lane.serial(CONTROL) == 4 and lane.rows(CONTROL) == hq.parts[CONTROL].rows
    assert catches_up(lane, hq)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"previous": bytes(32)}, Why.WRONG_CHAIN),
        ({"sha256": bytes(32)}, Why.ALTERED),
        ({"size": 9}, Why.ENDLESS),
        ({"size": 9999}, Why.TRUNCATED),
        ({"serial": 1}, Why.WRONG_CHAIN),
        ({"serial": 3}, Why.SKIPPED),
        ({"serial": 2 + bundle.JUMP_MAX}, Why.FAST_FORWARD),
        ({"epoch": 2}, Why.SKIPPED),
    ],
    ids=lambda value: value.value if isinstance(value, Why) else "",
)
def test_a_tip_that_does_not_fit_is_refused_by_name(lane: LaneRig, hq: Hq, change: dict[str, Any], why: Why) -> None:
    lane.sync.once()
    before = lane.rows(CONTROL)
    bad = announcement(hq.tip(CONTROL, hq.add(CONTROL, 2000), **change))
    if lane.sync.announced(bad):
        lane.sync.again(bad)
    assert lane.why(CONTROL) is why and lane.rows(CONTROL) == before
    assert catches_up(lane, hq)


@pytest.mark.parametrize("where", ["signature", "tip", "key", "garbage"])
def test_a_forged_announcement_is_refused_by_name(lane: LaneRig, hq: Hq, where: str) -> None:
    lane.sync.once()
    before = lane.rows(CONTROL)
    tip = hq.tip(CONTROL, hq.add(CONTROL, 2000))
    if where == "signature":
        tip = replace(tip, signature=bytes(64))
    elif where == "tip":
        tip = replace(tip, tip=tip.tip.replace(b'"serial":2', b'"serial":3'))
    elif where == "key":
        tip = replace(tip, key="ab" * 32)
    payload = b"\x00\xff{" * 30 if where == "garbage" else announcement(tip)
    assert not lane.sync.announced(payload)
    assert lane.rows(CONTROL) == before
    assert sum(lane.sync.refused.values()) == 1
    assert set(lane.sync.refused) == {Why.MALFORMED if where == "garbage" else Why.WRONG_SIGNATURE}
    assert catches_up(lane, hq)


# -- the guarded partition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["tombstone", "replaced"])
def test_a_lift_needs_the_second_key(lane: LaneRig, hq: Hq, how: str) -> None:
    lane.sync.once()
    before = lane.rows(CONTROL)
    change = {place(1001): None if how == "tombstone" else row(1001, 5)}
    data = hq.segment(CONTROL, change, lifts=True)  # pinned, but the base is not signed again
    hq.sign()
    assert not lane.sync.once()
    assert lane.why(CONTROL) is Why.LIFT_NOT_SIGNED and lane.rows(CONTROL) == before
    again = announcement(hq.tip(CONTROL, data))
    assert lane.sync.announced(again)
    lane.sync.again(again)
    assert lane.why(CONTROL) is Why.LIFT_NOT_SIGNED and lane.rows(CONTROL) == before
    hq.sign(base=True)
    assert lane.sync.once() and lane.same_as(hq)
    assert catches_up(lane, hq)


def test_a_signed_lift_rides_in_an_announcement_once_its_base_is_trusted(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    data = hq.segment(CONTROL, {place(1001): None}, lifts=True)
    hq.parts[CONTROL].serial -= 1
    good, hq.parts[CONTROL].chain = hq.parts[CONTROL].chain, hq.parts[CONTROL].chains[-2]
    hq.sign(base=True)
    assert lane.sync.once() and lane.serial(CONTROL) == 1
    hq.parts[CONTROL].serial, hq.parts[CONTROL].chain = 2, good
    assert lane.sync.announced(announcement(hq.tip(CONTROL, data))) is False
    assert lane.rows(CONTROL) == hq.parts[CONTROL].rows
    assert catches_up(lane, hq)


def test_a_day_that_lifts_needs_the_second_key_too(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.segment(CONTROL, {place(1001): None}, lifts=True)
    hq.add(CONTROL, 4000)
    hq.day(CONTROL, 2, 3)
    hq.sign(base=True)
    assert not lane.sync.once() and lane.why(CONTROL) is Why.LIFT_NOT_SIGNED
    day = hq.parts[CONTROL].days[0]
    hq.parts[CONTROL].lifts.append(bundle.Pinned(3, day.sha256))
    assert catches_up(lane, hq)


def test_lifts_from_before_the_base_need_its_snapshot(lane: LaneRig, hq: Hq) -> None:
    """The base's list begins with the base: whoever was away longer cannot know what was lifted before."""
    lane.sync.once()
    hq.segment(CONTROL, {place(1001): None}, lifts=True)
    hq.snap(CONTROL)
    assert hq.parts[CONTROL].lifts == []
    assert catches_up(lane, hq) and list(generations(lane.folder, CONTROL)) == [1, 2]


# -- keys ------------------------------------------------------------------------------------------------------------


def test_another_lanes_key_in_place_of_ours_is_put_right(lane: LaneRig, hq: Hq) -> None:
    """The sync cannot open it, and so cannot tell; the lane says so. HQ's is taken when it is there again."""
    hq.wrap(hq.parts[PEOPLE], b"people key for tpe-t1/lane-08")
    assert lane.sync.once()
    hq.wrap(hq.parts[PEOPLE])
    lane.restart()
    assert lane.sync.once()
    with CacheFileClosed(lane), CacheFile(lane.newest(PEOPLE)) as file:
        assert file.wrapped == WRAPPED[PEOPLE]
    lane.begin()
    assert catches_up(lane, hq)


class CacheFileClosed:
    """While the sync is away, somebody else may be the one writer."""

    def __init__(self, lane: LaneRig) -> None:
        self._lane = lane

    def __enter__(self) -> None:
        self._lane.sync.close()

    def __exit__(self, *_: object) -> None:
        return None


# -- the lane's own disk ---------------------------------------------------------------------------------------------


def test_a_damaged_generation_is_set_aside_and_the_one_before_serves(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.snap(PEOPLE)
    hq.next_epoch(PEOPLE)
    hq.add(PEOPLE, *range(50))
    hq.sign(base=True)
    lane.sync.once()
    lane.sync.close()
    path_of(lane.folder, PEOPLE, 2).write_bytes(b"no database" * 900)
    lane.begin()
    assert list(generations(lane.folder, PEOPLE)) == [1] and lane.serial(PEOPLE) == 0
    assert catches_up(lane, hq) and list(generations(lane.folder, PEOPLE)) == [1, 3]


def test_a_full_disk_is_told_and_what_is_here_keeps_serving(
    lane: LaneRig, hq: Hq, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane.sync.once()
    before = lane.rows(PEOPLE)
    hq.add(PEOPLE, 12, edition=8)
    hq.sign()
    usage = shutil.disk_usage(lane.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert not lane.sync.once()
    assert lane.why(PEOPLE) is Why.DISK_FULL and lane.rows(PEOPLE) == before
    assert "MiB more are needed" in lane.sync.trouble[PEOPLE].advice
    monkeypatch.undo()
    assert catches_up(lane, hq)


def test_room_for_a_snapshot_is_made_of_what_only_stands_by(
    lane: LaneRig, hq: Hq, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in range(3):
        if epoch:
            hq.next_epoch(PEOPLE)
        hq.add(PEOPLE, *range(200), edition=epoch)
        hq.snap(PEOPLE)
        hq.sign(base=True)
        if epoch < 2:
            assert lane.sync.once()
    usage = shutil.disk_usage(lane.folder)

    def free(_: Path) -> object:
        tight = path_of(lane.folder, PEOPLE, 1).exists()
        return usage._replace(free=(1 << 20) if tight else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", free)
    assert lane.sync.once() and lane.same_as(hq)
    assert list(generations(lane.folder, PEOPLE)) == [2, 3]


def test_two_syncs_of_one_lane_are_one_too_many(lane: LaneRig) -> None:
    lane.sync.once()
    with pytest.raises(StoreError, match="second_writer"):
        LaneRig(lane.folder, lane.url, lane.root, lane.clock)


# -- what is told ----------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_once_and_its_end_too(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    hq.add(PEOPLE, 1, edition=3)
    hq.sign()
    mend = altered(hq.folder / bundle.segment_path(PEOPLE, 1, 2))
    lane.told.clear()
    for _ in range(3):
        assert not lane.sync.once()
    assert lane.told == [(PEOPLE, "altered")]
    assert lane.sync.refused[Why.ALTERED] == 3
    mend()
    assert lane.sync.once() and lane.told == [(PEOPLE, "altered"), (PEOPLE, "")]


def test_a_lane_that_did_not_listen_is_told_later(lane: LaneRig, hq: Hq) -> None:
    lane.hears = False
    assert lane.sync.once()
    lane.hears = True
    assert lane.told == [] and lane.sync.once()
    assert lane.told == [(PEOPLE, ""), (CONTROL, "")]


def test_nobody_is_told_that_hq_cannot_be_reached(lane: LaneRig, hq: Hq, site: Website) -> None:
    lane.sync.once()
    told = list(lane.told)
    site.fault("*", Status(503))
    assert not lane.sync.once()
    assert lane.sync.trouble[""].why is Why.UNREACHABLE and lane.told == told


# -- signed files ----------------------------------------------------------------------------------------------------


def test_other_signed_files_come_and_go(lane: LaneRig, hq: Hq) -> None:
    hq.sign(also={"policy/tw.toml": b"rules = 1\n", "crl/tw.crl": b"\x30\x03abc"})
    assert lane.sync.once()
    signed = lane.folder / "signed"
    assert (signed / "policy/tw.toml").read_bytes() == b"rules = 1\n"
    assert (signed / "crl/tw.crl").read_bytes() == b"\x30\x03abc"
    (signed / "policy/tw.toml").write_bytes(b"rules = 0\n")
    hq.sign(also={"crl/tw.crl": None, "policy/tw.toml": b"rules = 1\n"})
    assert lane.sync.once()
    assert (signed / "policy/tw.toml").read_bytes() == b"rules = 1\n", "what somebody changed here is put right"
    assert not (signed / "crl/tw.crl").exists()


# -- the audit -------------------------------------------------------------------------------------------------------


def spoil_row(path: Path, number: int, blob: bytes | None) -> None:
    """What a thief of the disk does who brings it back: an old row in the place of a new one, or none at all."""
    sql = sqlite3.connect(path)
    with sql:
        if blob is None:
            sql.execute("DELETE FROM rows WHERE key = ?", (place(number),))
        else:
            sql.execute("UPDATE rows SET value = ? WHERE key = ?", (blob, place(number)))
    sql.close()


@pytest.mark.parametrize("snapshot", [True, False])
@pytest.mark.parametrize("blob", [row(1005, 77), None], ids=["old_row", "taken_out"])
def test_the_audit_finds_and_mends_a_row_that_is_not_hqs(
    lane: LaneRig, hq: Hq, snapshot: bool, blob: bytes | None
) -> None:
    if snapshot:
        hq.snap(CONTROL, chunk_rows=5)
    lane.sync.once()
    hq.add(CONTROL, 5000)
    hq.add(CONTROL, 5001)
    hq.table(CONTROL)
    hq.add(CONTROL, 5002)
    hq.sign(base=True)
    assert lane.sync.once()
    clean = lane.sync.audit(CONTROL, repair=False)
    assert clean.differing == () and clean.compared >= bundle.BUCKETS - 1
    spoil_row(lane.newest(CONTROL), 1005, blob)
    spoil_row(lane.newest(CONTROL), 5000, row(5000, 9))
    found = lane.sync.audit(CONTROL, repair=False)
    wanted = {bundle.bucket_of(place(1005)), bundle.bucket_of(place(5000))}
    assert set(found.differing) == wanted and found.repaired == 0
    assert lane.why(CONTROL) is Why.DIFFERS and (CONTROL, "differs") in lane.told
    mended = lane.sync.audit(CONTROL, repair=True)
    assert mended.repaired == 2 and lane.rows(CONTROL) == hq.parts[CONTROL].rows
    assert lane.why(CONTROL) is None
    assert catches_up(lane, hq)


def test_an_old_file_put_back_is_found_by_the_audit_and_fetched_anew_where_much_differs(lane: LaneRig, hq: Hq) -> None:
    hq.snap(PEOPLE)
    hq.sign(base=True)
    lane.sync.once()
    with sqlite3.connect(lane.newest(PEOPLE)) as sql:
        sql.execute("UPDATE rows SET value = zeroblob(40) WHERE key < x'c0'")
    sql.close()
    hq.table(PEOPLE)
    hq.sign()
    lane.sync.once()
    found = lane.sync.audit(PEOPLE, repair=True)
    assert len(found.differing) > 64 and "new generation" in found.note
    assert lane.rows(PEOPLE) == hq.parts[PEOPLE].rows and list(generations(lane.folder, PEOPLE)) == [1, 2]
    assert catches_up(lane, hq)


def test_the_audit_says_why_it_cannot_compare(lane: LaneRig, hq: Hq) -> None:
    assert lane.sync.audit(PEOPLE, repair=True).note == "HQ could not be asked"
    lane.sync.once()
    assert lane.sync.audit(PEOPLE, repair=True).note == "HQ has made no table yet"
    hq.add(PEOPLE, 1, edition=2)
    hq.table(PEOPLE)
    hq.sign()
    lane.sync.refresh()
    behind = lane.sync.audit(PEOPLE, repair=True)
    assert behind.compared == 0 and "sync first" in behind.note
    lane.sync.once()
    assert lane.sync.audit(PEOPLE, repair=True).compared == bundle.BUCKETS


def test_the_next_step_is_the_day_that_leads_furthest(hq: Hq) -> None:
    for number in range(9):
        hq.add(PEOPLE, number, edition=1)
    hq.day(PEOPLE, 2, 4)
    hq.day(PEOPLE, 3, 8)
    head = hq.head_of(PEOPLE)
    entries = bundle.proven_index(
        {0: (hq.folder / bundle.page_path(PEOPLE, 1, 0)).read_bytes()}, 0, hq.parts[PEOPLE].chains[0], head
    )
    chain = {each.serial: each for each in entries}
    taken = [follow.next_step(serial, head, chain) for serial in (1, 2, 4, 8)]
    assert [(step.kind, step.last) for step in taken] == [("day", 4), ("day", 8), ("day", 8), ("segment", 9)]


def test_a_generation_says_what_it_is(lane: LaneRig, hq: Hq) -> None:
    lane.sync.once()
    note, digests = audited(lane.newest(PEOPLE))
    assert (note.partition, note.generation, note.serial) == (PEOPLE, 1, 1) and note.rows == 300
    assert len(digests) == bundle.BUCKETS * bundle.DIGEST_BYTES
