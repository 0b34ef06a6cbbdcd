"""HQ's archive as any number of workers use it, on SQLite and on PostgreSQL: what comes out of order, what cannot be
true, what lanes tell, and a database that goes away."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gated.hq import intake as intake_module
from gated.hq import keeping
from gated.hq.archive import Archive, ArchiveError, Fate, Intake, Taken
from gated.hq.database import partitions
from gated.wire import link
from gated.wire.facts import AlarmRaised, AttachmentPart, Fact, Part, RecordsDropped, StreamContinued
from gated.wire.record import Head, Record
from tests.postgres import emptied, shared, where
from tests.test_hq_records import NAMED, NOON, Hq, hq
from tests.uplink_rig import LANE, SITE, verdict

__all__ = ["hq", "where"]

NOW = datetime.now(UTC)
GEN = "gen1"
ALARMS = f"{GEN}-alarm"


def alarms(hq: Hq, count: int) -> list[Record]:
    return hq.chain("alarm", *(AlarmRaised(f"code_{n}") for n in range(count)))


def take(archive: Archive, private: bytes, records: Sequence[Record]) -> list[Taken]:
    """All in one batch, as a worker does it."""
    with archive.batch() as intake:
        intake.lock({(record.lane, record.stream_id) for record in records})
        return [intake.take(SITE, record.lane, record.encode(), NAMED, private) for record in records]


def at_hq(hq: Hq) -> list[Record]:
    return hq.archive.after(LANE, ALARMS, 0, 10_000)


def codes(hq: Hq) -> list[str]:
    return [found["code"] for found in hq.archive.findings()]


# -- out of order --------------------------------------------------------------------------------------------------


def test_records_are_taken_in_in_order_in_whatever_order_they_come(hq: Hq) -> None:
    made = alarms(hq, 4)
    for n, order in enumerate(itertools.permutations(made)):
        lane = f"lane-{n}"
        head, mine = Head.start(lane, ALARMS), {}
        for record in made:
            mine[record.seq] = head.next(AlarmRaised("help"), NOON, "boot-1", hq.public)
            head = head.after(mine[record.seq])
        fates = [take(hq.archive, hq.private, [mine[record.seq]])[0].fate for record in order]
        assert set(fates) <= {Fate.STORED, Fate.HELD} and hq.archive.head(lane, ALARMS) == head
        assert hq.archive.after(lane, ALARMS, 0, 9) == [mine[seq] for seq in (1, 2, 3, 4)]
    assert hq.archive.held() == [] and hq.archive.broken() == [] and hq.archive.findings() == []
    assert hq.archive.counters()["stored"] == 24 * 4


def test_what_waits_is_durable_bounded_and_kept_once(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "HELD_MAX", 2)
    made = alarms(hq, 5)
    assert [hq.take(record) for record in made[1:4]] == [Fate.HELD, Fate.HELD, Fate.MISSING]
    assert hq.take(made[1]) is Fate.DUPLICATE
    assert [row["seq"] for row in hq.archive.held()] == [2, 3]
    assert hq.archive.streams() == [] and hq.archive.head(LANE, ALARMS).seq == 0
    with hq.archive.batch() as intake:
        assert intake.stalled(60.0) == []
        [(site, lane, head)] = intake.stalled(0.0)
        assert (site, lane, head) == (SITE, LANE, Head.start(LANE, ALARMS))
    assert hq.take(made[0]) is Fate.STORED and hq.archive.head(LANE, ALARMS).seq == 3
    with hq.archive.batch() as intake:
        assert intake.stalled(0.0) == []


def test_what_waits_for_too_long_is_forgotten_and_comes_again(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    made = alarms(hq, 3)
    assert [hq.take(record) for record in made[1:]] == [Fate.HELD, Fate.HELD]
    monkeypatch.setattr(keeping, "HELD_DAYS_MAX", -1)
    with hq.archive.batch() as intake:
        intake.stalled(1.0)
    assert hq.archive.held() == []
    assert [hq.take(record) for record in made] == [Fate.STORED] * 3 and hq.archive.broken() == []


def test_a_held_record_that_does_not_fit_keeps_out_nobody(hq: Hq) -> None:
    one, two, three = alarms(hq, 3)
    forged = replace(two, clear={**two.clear, "code": "forged"}, prev=bytes(32))
    assert [hq.take(record) for record in (forged, three, two)] == [Fate.HELD] * 3
    assert hq.take(one) is Fate.STORED
    assert at_hq(hq) == [one, two, three] and hq.archive.held() == []
    assert codes(hq) == ["edited"] and hq.archive.counters()["refusals"] == 1
    assert hq.take(replace(three, sealed=b"x")) is Fate.REFUSED


def test_a_held_record_whose_seal_does_not_open_is_refused_at_once(hq: Hq) -> None:
    _, second = hq.chain("crossing", verdict(1), verdict(2))
    assert second.sealed is not None
    assert hq.take(replace(second, sealed=bytes(len(second.sealed)))) is Fate.REFUSED and hq.archive.held() == []
    assert codes(hq) == ["edited"]


def dropped(first: Record, last: Record) -> Record:
    """What an outbox puts in the place of `first` to `last`."""
    clear = {"first": first.seq, "last": last.seq, "head": link_of(last)}
    return replace(last, kind=RecordsDropped.__name__, prev=first.prev, clear=clear)


def link_of(record: Record) -> str:
    from gated.wire.codec import split

    return str(split(RecordsDropped(record.seq, record.seq, record.hash()))[0]["head"])


def test_a_row_of_dropped_records_waits_too(hq: Hq) -> None:
    made = alarms(hq, 6)
    marker = dropped(made[2], made[4])
    fates = [hq.take(record) for record in (made[5], marker, made[3], made[1])]
    assert fates == [Fate.HELD] * 4
    assert hq.take(made[0]) is Fate.STORED
    assert [record.seq for record in at_hq(hq)] == [1, 2, 5, 6] and hq.archive.held() == []
    [hole] = hq.archive.holes()
    assert (hole["first"], hole["last"]) == (3, 4) and hq.archive.broken() == [] and codes(hq) == []
    assert hq.take(made[3]) is Fate.DUPLICATE, "HQ goes without it"


class Worker(threading.Thread):
    """A process like `gated-hq ingest`, in a thread with an archive of its own."""

    def __init__(self, where: str, private: bytes, batches: Sequence[Sequence[Record]]) -> None:
        super().__init__(daemon=True)
        self.where, self.private, self.batches = where, private, batches
        self.failed: list[Exception] = []

    def run(self) -> None:
        try:
            archive = Archive(self.where)
            for batch in self.batches:
                take(archive, self.private, batch)
            archive.close()
        except Exception as bad:  # noqa: BLE001 whatever it is
            self.failed.append(bad)


@pytest.mark.parametrize("seed", range(3))
def test_workers_share_streams_and_none_waits_for_another_for_ever(hq: Hq, seed: int) -> None:
    """Three workers, four streams, everything in any order and a third of it twice: at the end all is there, once."""
    dice = random.Random(seed)
    made: list[Record] = []
    for lane in ("lane-a", "lane-b"):
        for stream in ("alarm", "state"):
            head = Head.start(lane, f"{GEN}-{stream}")
            for n in range(30):
                made.append(head.next(AlarmRaised(f"code_{n}"), NOON, "boot-1", hq.public))
                head = head.after(made[-1])
    come = made + dice.sample(made, len(made) // 3)
    dice.shuffle(come)
    batches = [come[k : k + 8] for k in range(0, len(come), 8)]
    workers = [Worker(hq.path, hq.private, batches[k::3]) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive() and worker.failed == []
    for lane in ("lane-a", "lane-b"):
        for stream in ("alarm", "state"):
            mine = [record for record in made if (record.lane, record.stream) == (lane, stream)]
            assert hq.archive.after(lane, f"{GEN}-{stream}", 0, 99) == mine
    assert hq.archive.held() == [] and hq.archive.broken() == [] and hq.archive.findings() == []
    assert hq.archive.counters()["stored"] == len(made)
    assert hq.archive.counters()["duplicates"] == len(come) - len(made)


def test_lanes_are_told_of_in_opposite_orders_without_a_deadlock(hq: Hq) -> None:
    names = [f"lane-{n}" for n in range(6)]
    failed: list[Exception] = []

    def tell(order: list[str]) -> None:
        try:
            archive = Archive(hq.path)
            for round_ in range(8):
                with archive.batch() as intake:
                    intake.lock((), [(SITE, lane) for lane in order])
                    for lane in order:
                        intake.born(SITE, lane, birth(f"s{round_}"), False)
                        intake.told(SITE, lane, telemetry(f"s{round_}"))
            archive.close()
        except Exception as bad:  # noqa: BLE001 whatever it is
            failed.append(bad)

    threads = [threading.Thread(target=tell, args=(order,)) for order in (names, names[::-1], names[3:] + names[:3])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == [] and len(hq.archive.lanes()) == 6


def test_a_stream_that_the_properties_did_not_name_makes_nobody_wait(tmp_path: Path) -> None:
    """An attacker's lane names another stream than its record's: the worker does not wait for who has that one."""
    hq = Hq(tmp_path, emptied())
    one, two = alarms(hq, 2)
    hq.take(one)
    other = Archive(hq.path)
    with other.batch() as theirs:
        theirs.lock([(LANE, ALARMS)])
        assert hq.take(two) is Fate.MISSING
    assert hq.take(two) is Fate.STORED
    other.close()
    hq.archive.close()


# -- what harms one harms no other -----------------------------------------------------------------------------------


def test_a_mistake_of_ours_sets_its_record_aside_and_nobody_elses(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    made = alarms(hq, 3)
    true = Record.fact

    def wrong(record: Record, private: bytes | None) -> Any:
        if record.seq == 2:
            raise ZeroDivisionError("CANARY")
        return true(record, private)

    monkeypatch.setattr(Record, "fact", wrong)
    [other] = hq.chain("state", AlarmRaised("help"))
    for _ in range(3):
        fates = [taken.fate for taken in take(hq.archive, hq.private, [*made, other])]
    assert fates == [Fate.DUPLICATE, Fate.SET_ASIDE, Fate.DUPLICATE, Fate.DUPLICATE]
    assert at_hq(hq) == [made[0], made[2]], "the third had waited for the second"
    [aside] = hq.archive.refused()
    assert (aside["seq"], aside["why"]) == (2, "failed: ZeroDivisionError")
    assert hq.archive.broken() == []


def test_what_the_database_does_not_take_is_refused_the_next_time(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    made = alarms(hq, 2)
    [other] = hq.chain("state", AlarmRaised("help"))
    true = keeping.Keeping.store

    def wrong(self: keeping.Keeping, *arguments: Any) -> None:
        true(self, *arguments)
        if (record := arguments[2]) == made[0]:
            self._rows[record.lane, record.stream_id, record.seq]["ticket"] = 1 << 70

    monkeypatch.setattr(keeping.Keeping, "store", wrong)
    with pytest.raises(ArchiveError, match="refused from now on") as bad:
        take(hq.archive, hq.private, [made[0], other])
    assert "code_0" not in str(bad.value) and hq.archive.counters() == {}
    for _ in range(3):
        fates = [taken.fate for taken in take(hq.archive, hq.private, [made[0], other])]
    assert fates == [Fate.SET_ASIDE, Fate.DUPLICATE]
    assert hq.archive.refused()[0]["why"].startswith("failed: ") and hq.take(made[1]) is Fate.STORED


def test_refusals_are_counted_by_all_workers_together(hq: Hq) -> None:
    [record] = alarms(hq, 1)
    wrong = replace(record, prev=bytes(32))
    others = [Archive(hq.path) for _ in range(2)]
    fates = [take(archive, hq.private, [wrong])[0].fate for archive in (hq.archive, *others)]
    assert fates == [Fate.REFUSED, Fate.REFUSED, Fate.SET_ASIDE]
    assert take(hq.archive, hq.private, [wrong])[0].fate is Fate.SET_ASIDE and len(hq.archive.refused()) == 1
    for archive in others:
        archive.close()


def test_no_text_of_a_lane_is_too_strange(hq: Hq) -> None:
    odd = "a\0b\ud800" + "x" * 5000
    with hq.archive.batch() as intake:
        intake.born(SITE, LANE, replace(birth(odd), boot=odd, version=odd, parts=(Part("p", odd),)), False)
        told = intake.told(SITE, LANE, replace(telemetry(odd), store=odd, findings=(link.Finding(odd, odd),)))
        assert told.known and intake.died(SITE, LANE, link.Death(odd, odd))
        fate = intake.take(SITE, LANE, b"noise", (odd, 1 << 200), hq.private).fate
        assert fate is Fate.REFUSED
        intake.lock([(LANE, odd)])
    [lane] = hq.archive.lanes()
    assert not lane["up"] and [found["code"] for found in hq.archive.findings()] == ["unreadable"]


def test_a_lane_cannot_fill_the_database_with_findings(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FINDINGS_MAX", 5)
    with hq.archive.batch() as intake:
        new = [intake.finding(SITE, LANE, "outbox_gap", str(n)) for n in range(9)]
        assert intake.finding(SITE, "lane-08", "outbox_gap", "0") and len(intake.found) == 6
    assert new == [True] * 5 + [False] * 4 and codes(hq)[4] == "too_many"


# -- tampering ------------------------------------------------------------------------------------------------------


def birth(session: str, *spans: tuple[int, int], utc: datetime | None = None, **also: Any) -> link.Birth:
    """`spans`: first and last of `gen1-alarm`."""
    held = tuple(link.Span(ALARMS, "alarm", first, last, 0) for first, last in spans)
    return link.Birth(session, "boot-1", utc or datetime.now(UTC), "0.1", also.pop("whole", held), **also)


def telemetry(session: str, utc: datetime | None = None, **also: Any) -> link.Telemetry:
    return link.Telemetry(session, "boot-1", utc or datetime.now(UTC), "ping", True, "ok", 0, 0.0, 0, 0, **also)


def say(hq: Hq, what: Callable[[Intake], Any]) -> Any:
    with hq.archive.batch() as intake:
        return what(intake)


def test_edits_are_found(hq: Hq) -> None:
    one, two = alarms(hq, 2)
    [sealed] = hq.chain("crossing", verdict(1))
    hq.take(one)
    hq.take(replace(one, clear={**one.clear, "code": "other"}))
    hq.take(replace(two, prev=bytes(32)))
    hq.take(replace(sealed, clear={**sealed.clear, "decision": "refer"}))
    hq.take(b"noise", (ALARMS, 2))
    found = {row["detail"] for row in hq.archive.findings() if row["code"] == "edited"}
    assert found == {f"{ALARMS} 1: conflict", f"{ALARMS} 2: chain_broken", f"{GEN}-crossing 1: altered"}
    assert len(hq.archive.findings()) == 3


def test_numbers_that_a_lane_lost_are_a_hole_and_a_finding(hq: Hq) -> None:
    """At the beginning of what it holds, and in its middle where its birth says so."""
    made = alarms(hq, 9)
    hq.take(made[0])
    gap = link.Gap(ALARMS, 6, 7)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (4, 9), gaps=(gap,)), False))
    assert hq.take(made[8]) is Fate.HELD, "8 is not of the gap"
    assert hq.take(made[3]) is Fate.STORED and hq.take(made[4]) is Fate.STORED
    assert hq.take(made[7]) is Fate.STORED
    assert hq.archive.head(LANE, ALARMS).seq == 9 and hq.archive.held() == []
    assert [(hole["first"], hole["last"]) for hole in hq.archive.holes()] == [(2, 3), (6, 7)]
    assert codes(hq) == ["gap"] * 3 and hq.archive.broken() == []


def test_a_hole_is_not_believed_to_whom_did_not_say_so(hq: Hq) -> None:
    made = alarms(hq, 5)
    hq.take(made[0])
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (2, 5), gaps=(link.Gap(ALARMS, 3, 3),)), False))
    assert hq.take(made[4]) is Fate.HELD and hq.take(made[3]) is Fate.HELD
    assert hq.archive.holes() == []
    assert hq.take(replace(made[3], prev=bytes(32))) is Fate.HELD, "2 is missing, so it cannot be proved yet"
    assert hq.take(made[1]) is Fate.STORED
    assert hq.archive.head(LANE, ALARMS).seq == 2
    assert hq.take(made[3]) is Fate.STORED
    assert hq.archive.head(LANE, ALARMS).seq == 5 and [hole["first"] for hole in hq.archive.holes()] == [3]


def test_a_shorter_stream_is_a_truncation_and_one_that_was_overtaken_is_none(hq: Hq) -> None:
    for record in alarms(hq, 5):  # made at NOON
        hq.take(record)
    before, after = NOON - timedelta(seconds=5), NOON + timedelta(seconds=5)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (1, 5), utc=after), False))
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (1, 3), utc=before), False))
    assert hq.archive.findings() == [], "records 4 and 5 were made after that birth"
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s2", (1, 3), utc=after), False))
    [found] = hq.archive.findings()
    assert (found["code"], found["detail"]) == ("truncated", f"{ALARMS}: ends at 3, HQ has 5")


def test_another_database_is_a_new_stream_and_a_finding(hq: Hq) -> None:
    for record in alarms(hq, 2):
        hq.take(record)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (1, 2)), False))
    other = Head.start(LANE, "gen2-alarm").next(AlarmRaised("help"), NOON, "boot-2", hq.public)
    assert hq.take(other) is Fate.STORED and hq.archive.counters()["stored"] == 3
    replaced = birth("s2", whole=(link.Span("gen2-alarm", "alarm", 1, 1, 0),))
    say(hq, lambda intake: intake.born(SITE, LANE, replaced, False))
    say(hq, lambda intake: intake.born(SITE, LANE, replaced, False))
    say(hq, lambda intake: intake.born(SITE, "lane-08", replaced, False))
    [found] = hq.archive.findings()
    assert (found["lane"], found["code"], found["detail"]) == (LANE, "replaced", "database gen2 after gen1")


def chapter(hq: Hq, number: int, before: Head, *facts: Fact) -> list[Record]:
    """A further chapter of `gen1-alarm`."""
    head, made = Head.start(LANE, f"{GEN}.{number}-alarm"), []
    for fact in (StreamContinued(before.stream_id, before.seq, before.hash), *facts):
        made.append(head.next(fact, NOON, "boot-1", hq.public))
        head = head.after(made[-1])
    return made


def head_of(record: Record) -> Head:
    return Head(record.lane, record.stream_id, record.seq, record.hash())


def test_chapters_come_in_any_order(hq: Hq) -> None:
    made = alarms(hq, 4)
    second = chapter(hq, 2, head_of(made[3]), AlarmRaised("live"))
    third = chapter(hq, 3, head_of(second[1]), AlarmRaised("live"))
    fates = [hq.take(record) for record in (*third, made[0], *second, *made[1:])]
    assert set(fates) == {Fate.STORED} and hq.archive.findings() == [] and hq.archive.broken() == []
    assert [row["seq"] for row in hq.archive.streams()] == [4, 2, 2]
    assert hq.take(second[0]) is Fate.DUPLICATE


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_chapter_that_was_cut_or_goes_on_is_found(hq: Hq, when: str) -> None:
    made = alarms(hq, 4)
    cut = chapter(hq, 2, head_of(made[2]))  # says that the first ends at 3
    for record in (*cut, *made) if when == "before" else (*made, *cut):
        assert hq.take(record) is Fate.STORED, "nothing is thrown away"
    assert set(codes(hq)) == {"chapter_cut"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_chapter_that_goes_on_from_another_record_is_found(hq: Hq, when: str) -> None:
    made = alarms(hq, 3)
    other = chapter(hq, 2, replace(head_of(made[2]), hash=bytes(32)))
    for record in (*other, *made) if when == "before" else (*made, *other):
        hq.take(record)
    [found] = hq.archive.findings()
    assert found["code"] == "chapter_cut" and "with another record" in found["detail"]
    assert hq.take(chapter(hq, 3, head_of(made[2]))[0]) is Fate.STORED
    assert any("two chapters" in row["detail"] for row in hq.archive.findings())


def test_what_the_uplink_finds_is_written_down(hq: Hq) -> None:
    found = (link.Finding("journal_altered", "row 7"), link.Finding("Not A Code", "x"))
    for _ in range(2):
        say(hq, lambda intake: intake.told(SITE, LANE, telemetry("s1", findings=found)))
    assert [(row["code"], row["detail"]) for row in hq.archive.findings()] == [
        ("journal_altered", "row 7"),
        ("unreadable", "x"),
    ]


def journal(hq: Hq, session: str, last: int, link_: int, after_s: float, generation: str = GEN) -> Any:
    head = link.JournalHead(generation, 1, last, bytes([link_]) * 32)
    utc = NOW + timedelta(seconds=after_s)
    return say(hq, lambda intake: intake.told(SITE, LANE, telemetry(session, utc, journal=head))).anchor


def test_a_journal_goes_on_and_earlier_sessions_are_its_anchor(hq: Hq) -> None:
    def born(session: str) -> None:
        say(hq, lambda intake: intake.born(SITE, LANE, birth(session, (1, 0)), False))

    born("s1")
    assert [journal(hq, "s1", last, last, last) for last in (5, 6, 7)] == [None, None, None]
    born("s2")
    assert journal(hq, "s2", 9, 9, 10).last == 7
    assert journal(hq, "s1", 6, 6, 9) is None and hq.archive.findings() == [], "it was overtaken: no session of now"
    assert journal(hq, "s2", 12, 12, 12).last == 7
    born("s3")
    assert journal(hq, "s3", 12, 12, 20).last == 12 and hq.archive.findings() == []
    assert journal(hq, "s3", 12, 99, 21).last == 12
    assert journal(hq, "s3", 4, 4, 22).last == 12
    assert codes(hq) == ["journal_altered", "journal_back"]
    assert journal(hq, "s3", 5, 5, 23).last == 12 and len(codes(hq)) == 2, "told once"
    assert journal(hq, "s3", 1, 1, 24, "unheard-of") is None
    assert [head.last for head in hq.archive.anchors().values()] == [5]


# -- lanes ----------------------------------------------------------------------------------------------------------


def lane_of(hq: Hq) -> dict[str, Any]:
    [lane] = hq.archive.lanes()
    return lane


def test_a_death_wins_whenever_it_comes(hq: Hq) -> None:
    say(hq, lambda intake: intake.died(SITE, LANE, link.Death("s1", "lost")))
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1"), False))
    assert (lane_of(hq)["up"], lane_of(hq)["ended"]) == (False, "lost")
    assert say(hq, lambda intake: intake.told(SITE, LANE, telemetry("s1"))).known and not lane_of(hq)["up"]
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s2"), False))
    assert (lane_of(hq)["up"], lane_of(hq)["ended"], lane_of(hq)["session"]) == (True, None, "s2")
    assert not say(hq, lambda intake: intake.died(SITE, LANE, link.Death("s1", "lost"))) and lane_of(hq)["up"]


def test_a_birth_that_was_overtaken_says_nothing(hq: Hq) -> None:
    now = datetime.now(UTC)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s2", (1, 7), utc=now), False))
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", (1, 3), utc=now - timedelta(seconds=9)), False))
    assert (lane_of(hq)["session"], lane_of(hq)["spans"][0]["last"]) == ("s2", 7)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s3", utc=now - timedelta(hours=2)), False))
    assert lane_of(hq)["session"] == "s3", "a clock that was put back keeps nobody silent"


def test_telemetry_tells_the_heads_of_its_birth_or_asks_for_it(hq: Hq) -> None:
    first, second = alarms(hq, 2)
    hq.take(first)
    spans = (link.Span(ALARMS, "alarm", 1, 2, 0), link.Span(f"{GEN}-state", "state", 1, 0, 0))
    assert not say(hq, lambda intake: intake.told(SITE, LANE, telemetry("s1"))).known
    assert not say(hq, lambda intake: intake.told(SITE, LANE, telemetry("s0"))).known
    parts = (Part("policy", "tw-1"),)
    say(hq, lambda intake: intake.born(SITE, LANE, birth("s1", whole=spans, parts=parts), False))
    with hq.archive.batch() as intake:
        intake.lock([(LANE, ALARMS)], [(SITE, LANE)])
        intake.take(SITE, LANE, second.encode(), NAMED, hq.private)
        told = intake.told(SITE, LANE, telemetry("s1"))
    assert told.known and told.heads == (head_of(second), Head.start(LANE, f"{GEN}-state"))
    assert lane_of(hq)["parts"] == {"policy": "tw-1"} and len(hq.archive.streams()) == 1


def test_a_report_goes_never_back(hq: Hq) -> None:
    now = datetime.now(UTC)
    for revision, utc, policy in ((4, now, "tw-2"), (3, now, "tw-1"), (4, now - timedelta(seconds=1), "tw-0")):
        told = link.Reported(revision, utc, (Part("policy", policy),), ())
        say(hq, lambda intake: intake.reported(SITE, LANE, told))  # noqa: B023
    assert (lane_of(hq)["reported"]["revision"], lane_of(hq)["reported"]["parts"]) == (4, {"policy": "tw-2"})


# -- keeping for so long ----------------------------------------------------------------------------------------------


def test_a_sealed_half_is_deleted_and_the_chain_still_proved(hq: Hq) -> None:
    parts = [AttachmentPart(1, "1-face", "entry_face", "image/jpeg", n, 3, 30, 7, b"x" * 10) for n in (1, 2, 3)]
    made = hq.chain("attachment", *parts)
    for record in made:
        hq.take(record)
    stream_id = made[0].stream_id
    with hq.archive.batch() as intake:
        keys = [(LANE, stream_id, 1), (LANE, stream_id, 2), (LANE, stream_id, 99)]
        assert intake.purge(keys) == 2 and intake.purge(keys) == 0 and intake.purge([]) == 0
    blank = hq.archive.record(LANE, stream_id, 2)
    assert blank is not None and blank.sealed is None and blank.clear == made[1].clear
    assert hq.archive.record(LANE, stream_id, 3) == made[2] and hq.archive.broken() == []
    assert hq.take(made[1]) is Fate.DUPLICATE, "it is known by its hash, and stays deleted"
    assert "was deleted" in hq.command("records", "show", "--key", str(hq.key), LANE, stream_id, "2", exit_code=1)
    hq.execute("DELETE FROM records WHERE seq = 2")
    assert hq.archive.broken() != []


# -- the database itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def server_hq(tmp_path: Path) -> Iterator[Hq]:
    made = Hq(tmp_path, emptied())
    yield made
    made.archive.close()


def test_postgresql_is_killed_and_comes_back(server_hq: Hq) -> None:
    hq, server = server_hq, shared()
    one, two, three = alarms(hq, 3)
    assert hq.take(one) is Fate.STORED
    with pytest.raises(ArchiveError, match="is lost"), hq.archive.batch() as intake:
        intake.take(SITE, LANE, two.encode(), NAMED, hq.private)
        server.kill()
    with pytest.raises(ArchiveError, match="see that it runs"):
        hq.take(two)
    with pytest.raises(ArchiveError):
        hq.archive.lanes()
    server.start()
    assert hq.archive.head(LANE, ALARMS).seq == 1
    assert [hq.take(record) for record in (three, two)] == [Fate.HELD, Fate.STORED] and hq.archive.broken() == []


def test_records_lie_in_the_partition_of_their_month(server_hq: Hq) -> None:
    hq = server_hq
    hq.take(alarms(hq, 1)[0])
    with hq.archive.engine.connect() as sql:
        place = sql.exec_driver_sql("SELECT tableoid::regclass::text FROM records").scalar_one()
    assert place == f"records_{datetime.now(UTC):%Y_%m}"
    partitions(hq.archive.engine, datetime(2031, 12, 31, 23, 59, tzinfo=UTC))
    with hq.archive.engine.connect() as sql:
        found = sql.exec_driver_sql("SELECT relname FROM pg_class WHERE relname ~ '^records_203[12]_[0-9]{2}$'")
        assert {row[0] for row in found} == {"records_2031_12", "records_2032_01", "records_2032_02"}


def test_a_clock_that_is_wrong_loses_nothing(server_hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is in another year writes into the default partition; that month then stays there."""
    hq, year = server_hq, datetime(2051, 3, 4, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2051, 3, 4, tzinfo=tz)

    monkeypatch.setattr(keeping, "datetime", Clock)
    one, two = alarms(hq, 2)
    hq.take(one)
    monkeypatch.undo()
    partitions(hq.archive.engine, year)
    hq.take(two)
    assert at_hq(hq) == [one, two] and hq.archive.broken() == []


def made_by_several(where: str) -> list[Exception]:
    """What goes wrong where four make the same tables at the same moment."""
    failed: list[Exception] = []
    together = threading.Barrier(4)

    def make() -> None:
        together.wait(60)
        try:
            Archive(where).close()
        except Exception as bad:  # noqa: BLE001 whatever it is
            failed.append(bad)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failed


def test_tables_are_made_by_several_at_once(where: str) -> None:
    assert made_by_several(where) == []


def test_a_file_is_begun_by_several_at_once(tmp_path: Path) -> None:
    """Forty files: in one of ten SQLite has somebody not wait, and that one must try again."""
    assert [each for n in range(40) for each in made_by_several(str(tmp_path / f"{n}.db"))] == []


def test_a_full_disk_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    hq = Hq(tmp_path)
    made = hq.chain("alarm", *(AlarmRaised("help", "x" * 200) for _ in range(400)))
    with hq.archive.engine.connect() as sql:
        used = sql.exec_driver_sql("PRAGMA page_count").scalar_one()
    with pytest.raises(ArchiveError, match="the disk is full: make room"), hq.archive.batch() as intake:
        intake._sql.exec_driver_sql(f"PRAGMA max_page_count = {used + 3}")
        for record in made:
            intake.take(SITE, LANE, record.encode(), NAMED, hq.private)
    hq.archive.close()
    hq.archive = Archive(hq.path)
    assert hq.archive.counters() == {} and hq.archive.head(LANE, ALARMS).seq == 0
    assert {taken.fate for taken in take(hq.archive, hq.private, made)} == {Fate.STORED}
    hq.archive.close()


def test_who_only_reads_cannot_write(hq: Hq) -> None:
    hq.take(alarms(hq, 1)[0])
    reader = Archive(hq.path, read_only=True)
    assert reader.head(LANE, ALARMS).seq == 1
    with pytest.raises(ArchiveError), reader.batch() as intake:
        intake.count("stored", 1)
    reader.close()


def test_a_database_of_an_older_edition_is_told_from_a_new_one(tmp_path: Path) -> None:
    hq = Hq(tmp_path)
    hq.execute("ALTER TABLE records DROP COLUMN hash")
    with pytest.raises(ArchiveError, match="another edition"):
        Archive(hq.path)
    hq.archive.close()
