"""The uplink's parts one by one: which broker is next, how much may go, who is behind, what a lower head means."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gated.mqtt import Broker
from gated.store.acks import AckedHeads
from gated.store.flight import Flights, ReceiptIgnored
from gated.store.outbox import OutboxReader
from gated.uplink.brokers import SILENT_S_MAX, Brokers
from gated.uplink.cap import Cap
from gated.uplink.versions import Versions
from gated.wire import link
from gated.wire.facts import AlarmRaised, LaneChanged, Part
from tests.uplink_rig import Lane, verdict

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIRST, SECOND, THIRD = (Broker(f"site-{name}", 8883) for name in "abc")


# -- brokers ---------------------------------------------------------------------------------------------------------


def test_one_broker_is_tried_again_and_again_ever_more_slowly() -> None:
    one = Brokers([FIRST], 1.0, 60.0)
    pauses = [one.lost() for _ in range(10)]
    assert one.present is FIRST and not one.fruitless
    assert pauses[0] <= 1.0 and max(pauses) <= 60.0 and min(pauses[6:]) >= 30.0, pauses
    assert not one.due


def test_a_broker_that_cannot_be_reached_is_followed_by_the_next_without_a_long_pause() -> None:
    among = Brokers([FIRST, SECOND, THIRD], 1.0, 60.0)
    seen, pauses = [], []
    for _ in range(9):
        seen.append(among.present)
        pauses.append(among.lost())
    assert seen == [FIRST, SECOND, THIRD] * 3
    assert max(pauses[0:2]) <= 1.0 and max(pauses[3:5]) <= 1.0, "only a whole round makes the pause longer"


def test_after_a_broker_that_led_to_hq_the_first_site_is_tried_again() -> None:
    among = Brokers([FIRST, SECOND], 1.0, 60.0)
    among.lost()
    among.connected()
    among.useful()
    assert among.present is SECOND
    assert among.lost() <= 1.0
    assert among.present is FIRST


def test_a_broker_without_hq_is_left_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for among, leaves in (([FIRST], False), ([FIRST, SECOND], True)):
        one = Brokers(among, 1.0, 60.0)
        one.connected()
        assert not one.fruitless
        with monkeypatch.context() as later:
            now = time.monotonic()
            later.setattr(time, "monotonic", lambda: now + SILENT_S_MAX + 1)  # noqa: B023
            assert one.fruitless is leaves
            one.useful()
            assert not one.fruitless


# -- the cap ---------------------------------------------------------------------------------------------------------


def test_a_cap_holds_over_any_second_but_the_first() -> None:
    cap, sent, now = Cap(2000, 0.0), [], 0.0
    while now < 60:
        if cap.left(now) > 0:
            cap.spend(700)
            sent.append(now)
        now += 0.01
    assert cap.spent == 700 * len(sent)
    assert 2000 * 59 <= cap.spent <= 2000 * 61 + 700
    for second in range(1, 59):
        assert sum(700 for at in sent if second <= at < second + 1) <= 2000 + 700


def test_a_record_larger_than_a_second_goes_and_is_paid_back() -> None:
    cap = Cap(2000, 0.0)
    cap.spend(9000)
    assert cap.left(1.0) <= 0 and cap.left(3.4) <= 0
    assert cap.left(3.6) > 0


def test_without_a_cap_everything_goes() -> None:
    cap = Cap(0, 0.0)
    cap.spend(10**9)
    assert cap.left(0.0) == float("inf") and cap.spent == 10**9


# -- versions --------------------------------------------------------------------------------------------------------


def test_what_is_behind_is_told_once_and_again_when_it_changes() -> None:
    versions, old, new = Versions(), Part("policy", "tw-1"), Part("policy", "tw-2")
    assert versions.due([old], NOON) == link.Reported(0, NOON, (old,), ())
    assert versions.due([old], NOON) is None
    assert versions.desired(link.Desired(7, NOON, (new, Part("gated", "2"))))
    assert versions.due([old], NOON) == link.Reported(7, NOON, (old,), ("policy", "gated"))
    assert not versions.desired(link.Desired(6, NOON, ())), "an older word is nobody's wish any more"
    assert versions.due([new], NOON) == link.Reported(7, NOON, (new,), ("gated",))
    versions.afresh()
    assert versions.due([new], NOON) is not None


# -- what is under way -----------------------------------------------------------------------------------------------


class Sky:
    """A lane's outbox and what is under way of it."""

    def __init__(self, folder: Path) -> None:
        self.lane = Lane(folder, bytes(31) + b"\x09")
        self.acked = AckedHeads(folder / "uplink.db")
        self.flights = Flights(OutboxReader(folder / "lane.db"), self.acked, 64)

    def head(self, stream: str, seq: int) -> link.Head:
        [record] = [r for r in self.lane.written if r.stream == stream and r.seq == seq]
        return link.Head(record.stream_id, seq, record.hash())

    def id(self, stream: str) -> str:
        return next(r.stream_id for r in self.lane.written if r.stream == stream)


@pytest.fixture
def sky(tmp_path: Path) -> Iterator[Sky]:
    made = Sky(tmp_path)
    yield made
    made.flights.close()
    made.lane.close()


def test_over_the_cap_alarms_go_and_the_others_wait_in_order(sky: Sky) -> None:
    sky.lane.say(*(LaneChanged(f"s{k}") for k in range(5)), *(AlarmRaised("help") for _ in range(5)), verdict(1))
    sky.flights.refresh()
    first = sky.flights.next(0.0, 1.0)
    assert [q.seq for q in first if q.stream == "alarm"] == [1, 2, 3, 4, 5]
    assert sky.flights.next(0.1, 0.0) == ()
    rest = sky.flights.next(0.2, 1e9)
    others = [(q.stream, q.seq) for q in (*first, *rest) if q.stream != "alarm"]
    assert others == sorted(others) and len(others) == 6, "nothing was skipped"


def test_a_lower_head_is_an_old_word_unless_hq_looked_it_up_since(sky: Sky) -> None:
    sky.lane.passengers(5)
    sky.flights.refresh()
    sky.flights.next(0.0)
    state = sky.id("state")
    assert sky.flights.answered(sky.head("state", 4), 1.0)
    assert not sky.flights.answered(sky.head("state", 2), 1.0), "overtaken on the way"
    assert sky.flights.acked(state) == 4 and sky.acked.heads()[state] == 4
    with pytest.raises(ReceiptIgnored, match="hq_went_back"):
        sky.flights.answered(sky.head("state", 2), 2.0, known=4)
    assert sky.flights.acked(state) == 2 and sky.acked.heads()[state] == 2, "what HQ lost is not trimmed here"
    assert [q.seq for q in sky.flights.next(3.0) if q.stream == "state"] == [3, 4, 5]


def test_patience_doubles_while_hq_is_slow_and_is_restored_by_an_answer(sky: Sky) -> None:
    sky.lane.say(LaneChanged("a"), LaneChanged("b"))
    sky.flights.refresh()
    now, waits = 0.0, []
    for _ in range(6):
        sky.flights.rewind()
        sky.flights.next(now)
        began = now
        while not sky.flights.overdue(now, 1.0):
            now += 0.25
        waits.append(round(now - began))
    assert waits == [1, 2, 4, 8, 8, 8]
    sky.flights.answered(sky.head("state", 1), now)
    assert not sky.flights.overdue(now + 1.0, 1.0) and sky.flights.overdue(now + 1.5, 1.0)


def test_a_chapter_that_begins_between_two_looks_is_seen(sky: Sky) -> None:
    """An answer looks at the outbox too; what it sees must not hide the new stream from the next look."""
    sky.lane.passengers(5)
    sky.flights.refresh()
    sky.flights.next(0.0)
    with sky.lane.db.transaction():
        begun = sky.lane.outbox.begin_chapters(NOON, 3)
    assert begun
    assert sky.flights.answered(sky.head("state", 2), 1.0)
    assert sky.flights.refresh(), "other streams than before"
    assert set(begun) <= {queued.stream_id for queued in sky.flights.next(2.0)}
    assert sky.flights.resent == 0, "what is under way in other streams stays so"
