"""The writer: what is asked for becomes durable in order, is answered once, and outlives a disk that refuses."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gated.daemon import writer as the_writer
from gated.daemon.writer import Job, Kept, Writer
from gated.lane import events as ev
from gated.lane.events import Device, DeviceLost, DeviceReady, Door, Event, NotRecorded, Now, Recorded
from gated.store.crossings import Crossing, Crossings
from gated.store.db import LaneDb
from gated.store.journal import Journal
from gated.store.outbox import BACKLOG_MIN, TRIM_ROWS, Outbox
from gated.store.sql import StoreError
from gated.wire.facts import AlarmRaised, AttachmentPart, Fact, LaneChanged, TicketSettled, VerdictReached
from gated.wire.record import Record
from gated.wire.rows import of_subject
from gated.wire.seal import public_of
from tests.hw_sim import virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.simlane import Inline, sim_folder

UTC_NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
HQ = bytes(range(32))
SUBJECT = of_subject(17)


def verdict(ticket: int, decision: str = "grant") -> VerdictReached:
    return VerdictReached(ticket, decision, "all_kept", "test-1", "exit", "A")


def settled(ticket: int) -> TicketSettled:
    return TicketSettled(ticket, "crossed", 1)


def alarm(k: int) -> AlarmRaised:
    return AlarmRaised("help", str(k))


@dataclass
class Rig:
    """A writer on a real database, with a disk that can refuse."""

    folder: Path
    bytes_max: int = 2_000_000
    acked: Callable[[], dict[str, int]] = dict
    events: list[Event] = field(default_factory=list)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.workers = Inline(RecordedFaces(1))
        self.open()

    def open(self) -> None:
        self.db = LaneDb(self.folder / "lane.db")
        self.outbox = Outbox(self.db, "lane-1", "boot", public_of(HQ), bytes_max=self.bytes_max)
        boots = self.db.sql.execute("SELECT count(DISTINCT boot) FROM journal").fetchone()[0]
        self.journal = Journal(self.db, bytes(32), f"boot{boots}")
        self.writer = Writer(
            self.db,
            self.outbox,
            self.journal,
            Crossings(self.db, bytes(32)),
            self.workers,
            self.events.append,
            Kept(30, 100_000),
            self.acked,
        )
        commit = self.writer._commit

        def counted(jobs: list[Job]) -> dict[int, StoreError]:
            self.rounds += 1
            return commit(jobs)

        self.writer._commit = counted  # type: ignore[method-assign]

    def add(self, fact: Fact | None, **how: Any) -> None:
        self.writer.add(Job(UTC_NOW, fact, **how))

    def facts(self) -> list[Fact]:
        """Everything in the outbox, oldest first."""
        rows = self.db.sql.execute("SELECT payload FROM outbox ORDER BY rowid").fetchall()
        return [Record.decode(payload).fact(HQ) for (payload,) in rows]

    def answers(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Recorded | NotRecorded)]

    def store(self) -> list[str]:
        """What became of the device STORE, in order."""
        mine = [e for e in self.events if isinstance(e, DeviceReady | DeviceLost) and e.device is Device.STORE]
        return ["ready" if isinstance(e, DeviceReady) else e.why for e in mine]

    def play(self, scenario: Callable[[], Any]) -> None:
        """`scenario` while the writer runs."""

        async def main() -> None:
            running = asyncio.create_task(self.writer.run())
            await asyncio.sleep(0.05)
            await scenario()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        with capture_logs() as self.logs:
            virtual.run(main())


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    made = Rig(folder)
    yield made
    made.writer.close()


def test_a_record_is_answered_only_once_it_is_durable(rig: Rig) -> None:
    async def scenario() -> None:
        rig.add(verdict(1), answer=(1, 7), keep=False)
        await asyncio.sleep(0.002)  # the disk takes 4 ms
        assert rig.answers() == []
        assert rig.facts() == []
        await asyncio.sleep(0.01)
        assert rig.answers() == [Recorded(1, 7)]
        assert rig.facts() == [verdict(1)]

    rig.play(scenario)
    assert rig.db.unsettled() == (1,)


def test_what_waits_together_is_one_commit_in_order(rig: Rig) -> None:
    async def scenario() -> None:
        rounds = rig.rounds
        facts: list[Fact] = [alarm(0), verdict(1), LaneChanged("releasing"), alarm(1), settled(1), LaneChanged("idle")]
        for fact in facts:
            rig.add(fact)
        await asyncio.sleep(0.02)
        assert rig.facts() == facts
        assert rig.rounds == rounds + 1

    rig.play(scenario)
    assert rig.writer.pending == {"alarm": 2, "crossing": 2, "state": 2, "attachment": 0}


def test_a_ticket_is_open_from_its_opening_to_its_end(rig: Rig) -> None:
    async def scenario() -> None:
        rig.add(None, ticket=4, note=("came_from", "B"))
        await asyncio.sleep(0.02)
        assert rig.db.unsettled() == (4,)
        assert rig.db.note("came_from") == "B"
        rig.add(settled(4), crossing=Crossing("exit", UTC_NOW, (SUBJECT,)))
        await asyncio.sleep(0.02)
        assert rig.db.unsettled() == ()
        assert rig.writer.crossings.of(SUBJECT) == (frozenset({Crossing("exit", UTC_NOW)}),)

    rig.play(scenario)


def test_the_journal_is_on_the_disk_within_its_time_even_when_nothing_else_is(rig: Rig) -> None:
    async def scenario() -> None:
        rig.writer.step(Now(1.0, UTC_NOW), ev.DoorOpened(Door.A), ())
        await asyncio.sleep(the_writer.JOURNAL_EVERY_S + 0.1)
        assert rig.db.sql.execute("SELECT count(*) FROM journal").fetchone()[0] == 1

    rig.play(scenario)


# -- a disk that refuses -------------------------------------------------------------------------------------------


def test_nothing_is_lost_but_a_grant_while_the_disk_refuses(rig: Rig) -> None:
    async def scenario() -> None:
        rig.workers.refuse = True
        rig.add(verdict(1), answer=(1, 1), keep=False)
        rig.add(alarm(0))
        await asyncio.sleep(0.5)
        rig.add(verdict(1, "refer"), answer=(1, 2))
        rig.add(LaneChanged("referred"))
        rig.writer.step(Now(1.0, UTC_NOW), ev.DoorOpened(Door.A), ())
        await asyncio.sleep(20.0)
        rig.add(settled(1))
        await asyncio.sleep(5.0)
        assert rig.facts() == []
        assert rig.answers() == [NotRecorded(1, 1, "disk_full"), NotRecorded(1, 2, "disk_full")]
        rig.workers.refuse = False
        await asyncio.sleep(2.0)

    rig.play(scenario)
    assert rig.facts() == [alarm(0), verdict(1, "refer"), LaneChanged("referred"), settled(1)]
    assert rig.answers() == [NotRecorded(1, 1, "disk_full"), NotRecorded(1, 2, "disk_full")], "each is answered once"
    assert rig.store() == ["ready", "disk_full", "ready"]
    assert rig.db.unsettled() == ()
    assert rig.db.sql.execute("SELECT count(*) FROM journal").fetchone()[0] == 1


def test_it_tries_again_at_a_measured_pace(rig: Rig) -> None:
    async def scenario() -> None:
        tries: list[float] = []
        run = rig.workers.run

        async def counted(kind: str, *args: Any) -> Any:
            tries.append(asyncio.get_running_loop().time())
            return await run(kind, *args)

        rig.workers.run = counted  # type: ignore[method-assign, assignment]
        rig.workers.refuse = True
        for k in range(100):
            rig.add(alarm(k))
            await asyncio.sleep(0.1)
        assert len(tries) <= 12
        rig.workers.refuse = False
        await asyncio.sleep(2.0)
        assert rig.facts() == [alarm(k) for k in range(100)]

    rig.play(scenario)


def test_what_waits_is_bounded_and_crossings_stay_longest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_writer, "WAITING_MAX", 50)

    async def scenario() -> None:
        rig.workers.refuse = True
        rig.add(None, ticket=1)
        rig.add(verdict(1, "refer"))
        rig.add(LaneChanged("emergency"), note=("reset_needed", "1"))
        rig.add(settled(1))
        for k in range(400):
            rig.add(alarm(k))
            assert len(rig.writer._waiting) <= 50
            if k % 10 == 0:
                await asyncio.sleep(0.3)  # rounds of the disk between them
                assert len(rig.writer._waiting) <= 50
        rig.workers.refuse = False
        await asyncio.sleep(3.0)

    rig.play(scenario)
    assert rig.facts()[:3] == [verdict(1, "refer"), LaneChanged("emergency"), settled(1)]
    assert rig.facts()[3:] == [alarm(k) for k in range(400 - 46, 400)], "of the alarms the newest are kept"
    assert rig.db.note("reset_needed") == "1"
    assert rig.writer.dropped == 400 - 46
    assert [entry for entry in rig.logs if "facts are lost" in entry["event"]], "and it is said"


def test_a_writer_that_is_ended_in_the_middle_of_a_write_loses_nothing(rig: Rig) -> None:
    async def main() -> None:
        running = asyncio.create_task(rig.writer.run())
        await asyncio.sleep(0.05)
        rig.add(verdict(1))
        await asyncio.sleep(0.001)  # the disk is at it
        assert rig.writer._round is not None
        rig.add(settled(1))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await rig.writer.flush()

    virtual.run(main())
    assert rig.facts() == [verdict(1), settled(1)]


def test_ended_in_the_middle_of_a_write_that_fails_it_loses_nothing_either(rig: Rig) -> None:
    async def main() -> None:
        running = asyncio.create_task(rig.writer.run())
        await asyncio.sleep(0.05)
        rig.workers.refuse = True
        rig.add(settled(1))
        await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0.01)
        rig.workers.refuse = False
        await rig.writer.flush()

    with capture_logs():
        virtual.run(main())
    assert rig.facts() == [settled(1)]


def test_a_look_at_the_outbox_that_fails_writes_nothing_twice(rig: Rig) -> None:
    """The count of what waits is read after the facts: when that failed, they were written again."""

    async def scenario() -> None:
        spans = rig.outbox.spans

        def failing() -> Any:
            raise StoreError("io_error", rig.db.path, "the disk fails")

        rig.outbox.spans = failing  # type: ignore[method-assign]
        rig.add(settled(1))
        await asyncio.sleep(0.1)
        rig.outbox.spans = spans  # type: ignore[method-assign]
        await asyncio.sleep(3.0)

    rig.play(scenario)
    assert rig.facts() == [settled(1)]


def test_a_fault_of_ours_ends_the_writer_and_keeps_what_waited(rig: Rig) -> None:
    async def main() -> None:
        running = asyncio.create_task(rig.writer.run())
        await asyncio.sleep(0.05)
        write = rig.writer._write

        def broken(job: Job) -> None:
            raise AssertionError("a bug")

        rig.writer._write = broken  # type: ignore[method-assign]
        rig.add(settled(1))
        (end,) = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(end, AssertionError)
        rig.writer._write = write  # type: ignore[method-assign]
        await rig.writer.flush()

    virtual.run(main())
    assert rig.facts() == [settled(1)]


def test_a_fact_that_breaks_its_own_form_takes_no_other_with_it(rig: Rig) -> None:
    async def scenario() -> None:
        rig.add(alarm(0))
        rig.add(verdict(1), answer=(1, 1), keep=False)
        rig.add(VerdictReached(2, "grant", "x" * 500, "test-1", "exit", "A"), answer=(2, 2), keep=False)
        rig.add(AlarmRaised("help", "y" * 500))
        rig.add(alarm(1))
        await asyncio.sleep(5.0)

    rig.play(scenario)
    assert rig.facts() == [alarm(0), verdict(1), alarm(1)]
    assert rig.answers() == [Recorded(1, 1), NotRecorded(2, 2, "unwritable")]
    assert rig.store() == ["ready", "unwritable", "ready"], "the lane closes until the disk answers well"
    said = [entry for entry in rig.logs if entry["event"] == "fact cannot be written"]
    assert [entry["fact"] for entry in said] == ["VerdictReached", "AlarmRaised"]
    assert "xxx" not in str(rig.logs)


# -- an outbox that is full ------------------------------------------------------------------------------------------


def fill(rig: Rig) -> int:
    """Tickets until a verdict finds no room; returns the ticket that did not."""
    for ticket in range(1, 10_000):
        try:
            with rig.db.transaction():
                rig.outbox.append(verdict(ticket), UTC_NOW)
                rig.outbox.append(settled(ticket), UTC_NOW)
        except StoreError:
            return ticket
    raise AssertionError("never full")


def test_a_full_outbox_lets_nobody_pass_until_hq_has_acknowledged(folder: Path) -> None:
    acked: dict[str, int] = {}
    rig = Rig(folder, bytes_max=100_000, acked=lambda: acked)
    ticket = fill(rig)

    async def scenario() -> None:
        rig.add(verdict(ticket), answer=(ticket, 1), keep=False)
        await asyncio.sleep(10.0)
        assert rig.answers() == [NotRecorded(ticket, 1, "outbox_full")]
        assert rig.store() == ["ready", "outbox_full"], "no grant waits, and there is still no room"
        acked.update({span.stream_id: span.last for span in rig.outbox.spans()})
        await asyncio.sleep(3.0)
        assert rig.store() == ["ready", "outbox_full", "ready"]
        rig.add(verdict(ticket + 1), answer=(ticket + 1, 2), keep=False)
        await asyncio.sleep(1.0)
        assert rig.answers()[-1] == Recorded(ticket + 1, 2)

    rig.play(scenario)
    rig.writer.close()


def test_a_referral_that_finds_no_room_never_comes_after_the_end_of_its_ticket(folder: Path) -> None:
    """The end of a ticket has room kept for it. Its verdict, written later, would open the ticket again for ever."""
    acked: dict[str, int] = {}
    rig = Rig(folder, bytes_max=100_000, acked=lambda: acked)
    ticket = fill(rig)

    async def scenario() -> None:
        rig.add(None, ticket=ticket)
        rig.add(verdict(ticket, "refer"), answer=(ticket, 1))
        rig.add(settled(ticket))
        await asyncio.sleep(5.0)
        assert rig.facts()[-1] == settled(ticket)
        acked.update({span.stream_id: span.last - 1 for span in rig.outbox.spans()})
        await asyncio.sleep(5.0)

    rig.play(scenario)
    assert rig.facts() == [settled(ticket)]
    assert rig.db.unsettled() == ()
    assert rig.store() == ["ready", "outbox_full", "ready"]
    rig.writer.close()


def picture(ticket: int, number: int = 1, of: int = 1) -> AttachmentPart:
    return AttachmentPart(
        ticket, f"{ticket}-case_picture", "case_picture", "image/jpeg", number, of, 9, 30, b"x" * 9000
    )


def test_a_picture_that_finds_no_room_closes_no_lane(folder: Path) -> None:
    rig = Rig(folder, bytes_max=100_000)
    fill(rig)

    async def scenario() -> None:
        rig.add(picture(1))
        await asyncio.sleep(3.0)

    rig.play(scenario)
    assert rig.store() == ["ready"] and rig.writer.dropped == 1
    assert not [fact for fact in rig.facts() if isinstance(fact, AttachmentPart)]
    assert [entry["event"] for entry in rig.logs].count("a picture finds no room in the outbox") == 1
    rig.writer.close()


# -- after an outage -------------------------------------------------------------------------------------------------


def test_after_an_outage_what_happens_now_is_in_a_new_chapter(rig: Rig) -> None:
    """Told again and again that HQ is there, it begins one; told while somebody is inside, it waits for the end."""

    async def scenario() -> None:
        rig.writer.hq_reachable(True)
        for k in range(BACKLOG_MIN + 1):
            rig.add(alarm(k))
        await asyncio.sleep(1.0)
        rig.add(alarm(0))
        await asyncio.sleep(1.0)
        assert chapters() == {1}, "HQ was there all the time"
        rig.writer.hq_reachable(False)
        rig.add(None, ticket=7)
        await asyncio.sleep(1.0)
        rig.writer.hq_reachable(True)
        rig.add(alarm(1))
        await asyncio.sleep(1.0)
        assert chapters() == {1}, "a ticket is open"
        rig.add(settled(7))
        await asyncio.sleep(1.0)
        for _ in range(3):
            rig.writer.hq_reachable(True)
            rig.add(alarm(2))
            await asyncio.sleep(1.0)
        assert chapters() == {1, 2}
        assert rig.writer.pending["alarm"] == BACKLOG_MIN + 1 + 1 + 1 + 3 + 1, "of both"

    def chapters() -> set[int]:
        return {each[0] for each in rig.db.sql.execute("SELECT chapter FROM streams").fetchall()}

    rig.play(scenario)
    assert [s.stream_id.partition("-")[2] for s in rig.outbox.spans() if "." in s.stream_id] == ["alarm"]
    said = [entry for entry in rig.logs if entry["event"].startswith("new chapters")]
    assert len(said) == 1


def test_a_backlog_that_hq_has_already_begins_nothing(folder: Path) -> None:
    acked: dict[str, int] = {}
    rig = Rig(folder, acked=lambda: acked)

    async def scenario() -> None:
        for k in range(BACKLOG_MIN + 50):
            rig.add(alarm(k))
        await asyncio.sleep(1.0)
        acked.update({span.stream_id: span.last for span in rig.outbox.spans()})
        rig.writer.hq_reachable(True)
        rig.add(alarm(0))
        await asyncio.sleep(1.0)

    rig.play(scenario)
    assert not [span for span in rig.outbox.spans() if "." in span.stream_id]
    rig.writer.close()


def test_a_backlog_that_hq_takes_in_does_not_wait_for_the_next_minute(folder: Path) -> None:
    acked: dict[str, int] = {}
    rig = Rig(folder, acked=lambda: acked)
    with rig.db.transaction():
        for k in range(3 * TRIM_ROWS + 10):
            rig.outbox.append(alarm(k), UTC_NOW)

    async def scenario() -> None:
        acked.update({span.stream_id: span.last for span in rig.outbox.spans()})
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 4.0)

    rig.play(scenario)
    assert rig.facts() == []
    rig.writer.close()


# -- keeping ---------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_or_too_old_is_deleted_in_time(folder: Path) -> None:
    acked: dict[str, int] = {}
    rig = Rig(folder, acked=lambda: acked)

    async def scenario() -> None:
        old, new = UTC_NOW - timedelta(days=40), UTC_NOW
        for utc in (old, new):
            rig.writer.step(Now(1.0, utc), ev.DoorOpened(Door.A), ())
            rig.writer.add(Job(utc, settled(1 if utc is old else 2), crossing=Crossing("exit", utc, (SUBJECT,))))
        await asyncio.sleep(1.0)
        acked.update({span.stream_id: 1 for span in rig.outbox.spans()})
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 2.0)

    rig.play(scenario)
    assert rig.facts() == [settled(2)]
    assert rig.db.sql.execute("SELECT count(*) FROM journal").fetchone()[0] == 1
    assert rig.writer.crossings.of(SUBJECT) == (frozenset({Crossing("exit", UTC_NOW)}),)
    rig.writer.close()


@pytest.mark.parametrize("offline_days", [0, 29, 90])
def test_own_crossings_are_kept_while_hq_is_not_heard_of(offline_days: int, folder: Path) -> None:
    """O1: or a permit's entries would come back to whoever waits for a month."""
    rig = Rig(folder)
    heard = UTC_NOW - timedelta(days=offline_days)
    ages = {31: heard - timedelta(days=31), 29: heard - timedelta(days=29), 0: UTC_NOW}

    async def scenario() -> None:
        rig.writer.step(Now(1.0, UTC_NOW), ev.DoorOpened(Door.A), ())
        memory = f"1|1|5|{(heard - timedelta(days=200)).isoformat()} 2|2|0|{heard.isoformat()}"
        rig.add(None, note=("cache_people", memory))
        for ticket, utc in enumerate(ages.values(), 1):
            rig.writer.add(Job(utc, settled(ticket), crossing=Crossing("entry", utc, (SUBJECT,))))
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 2.0)

    rig.play(scenario)
    [kept] = rig.writer.crossings.of(SUBJECT)
    assert {each.utc for each in kept} == {ages[29], ages[0]}
    rig.writer.close()


def test_a_clock_that_ran_ahead_takes_no_crossings_with_it(folder: Path) -> None:
    """What HQ said last is behind the clock, by whatever it stepped."""
    rig = Rig(folder)
    later = UTC_NOW + timedelta(days=400)

    async def scenario() -> None:
        rig.add(None, note=("cache_people", f"1|1|0|{UTC_NOW.isoformat()}"))
        rig.add(settled(1), crossing=Crossing("entry", UTC_NOW, (SUBJECT,)))
        rig.writer.step(Now(1.0, later), ev.DoorOpened(Door.A), ())
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 2.0)

    rig.play(scenario)
    assert rig.writer.crossings.of(SUBJECT) == (frozenset({Crossing("entry", UTC_NOW)}),)
    rig.writer.close()


def test_the_oldest_crossings_make_room(folder: Path) -> None:
    rig = Rig(folder)
    rig.writer._kept = Kept(30, 100_000, crossings_rows_max=2)

    async def scenario() -> None:
        rig.writer.step(Now(1.0, UTC_NOW), ev.DoorOpened(Door.A), ())
        for ticket in (1, 2, 3):
            rig.add(settled(ticket), crossing=Crossing("entry", UTC_NOW + timedelta(seconds=ticket), (SUBJECT,)))
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 2.0)

    rig.play(scenario)
    [kept] = rig.writer.crossings.of(SUBJECT)
    assert {(each.utc - UTC_NOW).seconds for each in kept} == {2, 3}
    rig.writer.close()


def test_a_crossing_is_known_while_the_disk_refuses(rig: Rig) -> None:
    crossing = Crossing("entry", UTC_NOW, (SUBJECT,))

    async def scenario() -> None:
        rig.workers.refuse = True
        rig.add(settled(1), crossing=crossing)
        await asyncio.sleep(5.0)
        assert rig.writer.crossings.of(SUBJECT) == (frozenset(),)
        assert rig.writer.crossings.awaiting(SUBJECT) == {crossing}
        rig.workers.refuse = False
        await asyncio.sleep(5.0)
        assert rig.writer.crossings.awaiting(SUBJECT) == frozenset()

    rig.play(scenario)
    assert rig.writer.crossings.of(SUBJECT) == (frozenset({crossing}),)


def test_acknowledgements_that_cannot_be_read_do_not_keep_the_journal_for_ever(folder: Path) -> None:
    def unreadable() -> dict[str, int]:
        raise StoreError("corrupt", folder / "uplink.db", "the file is damaged")

    rig = Rig(folder, acked=unreadable)

    async def scenario() -> None:
        for days in (40, 0):
            rig.writer.step(Now(1.0, UTC_NOW - timedelta(days=days)), ev.DoorOpened(Door.A), ())
        await asyncio.sleep(the_writer.TRIM_EVERY_S + 2.0)

    rig.play(scenario)
    assert rig.db.sql.execute("SELECT count(*) FROM journal").fetchone()[0] == 1
    assert rig.store() == ["ready"]
    rig.writer.close()


def test_a_database_that_fails_while_it_is_trimmed_ends_nothing(rig: Rig) -> None:
    async def scenario() -> None:
        table = "ALTER TABLE journal RENAME TO {}"
        await asyncio.sleep(the_writer.TRIM_EVERY_S - 0.3)
        rig.db.sql.execute(table.format("elsewhere"))
        await asyncio.sleep(3.0)
        rig.db.sql.execute("ALTER TABLE elsewhere RENAME TO journal")
        rig.add(settled(1))
        await asyncio.sleep(2.0)
        assert rig.facts() == [settled(1)]

    rig.play(scenario)
    assert [e for e in rig.logs if e["event"] == "store could not be trimmed"]


def test_what_was_written_is_there_after_a_restart(folder: Path) -> None:
    rig = Rig(folder)

    async def scenario() -> None:
        rig.add(None, ticket=9, note=("reset_needed", "1"))
        rig.add(verdict(9, "refer"))
        await asyncio.sleep(0.1)

    rig.play(scenario)
    rig.writer.close()
    rig.open()
    assert rig.db.unsettled() == (9,)
    assert rig.db.note("reset_needed") == "1"
    assert rig.db.next_ticket > 9
    assert rig.facts() == [verdict(9, "refer")]
    rig.writer.close()
