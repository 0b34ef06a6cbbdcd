"""The look-up: every question answered once, newer generations noticed, failures told, templates gone at `Forget`."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from gated.daemon.cachememory import UNKNOWN
from gated.daemon.fingers import OUR_FORMAT
from gated.daemon.lookup import LookUp
from gated.daemon.workers import Threads, Workers
from gated.icao.fingers import Finger
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane.events import (
    CacheStand,
    Crossed,
    Device,
    DeviceLost,
    DeviceReady,
    Event,
    FlagsRead,
    LookUpFailed,
    NoRecord,
    RecordFound,
    Traveller,
)
from gated.lane.rules import Category
from gated.store.cache import Enrolments
from gated.store.cachefile import CacheFile, path_of
from gated.store.crossings import Crossing, Crossings
from gated.store.db import LaneDb
from gated.wire.rows import (
    CONTROL,
    CROSSINGS_MAX,
    PARTITIONS,
    PEOPLE,
    CrossingRow,
    FingerRow,
    PermitRow,
    PersonRow,
    of_document,
    of_subject,
)
from tests.hw_sim import virtual
from tests.hw_sim.cachefiles import CacheFiles
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.simlane import Inline, sim_folder
from tests.play import DOCUMENT, OTHER, RULES, rules
from tests.test_daemon_matcher import leads_to

KEY = bytes(range(32))
NAME = "tpe-t1/lane-1"
BUILT = datetime(2026, 3, 2, tzinfo=UTC)
STAND = CacheStand(0, BUILT, 0, BUILT)
FACE = bytes(range(256)) * 2
MODEL = RecordedFaces.model


def publish(folder: Path, generation: int, *, flags: frozenset[str] = frozenset(), model: str = MODEL) -> None:
    with CacheFiles(folder, KEY, NAME, built=BUILT, generation=generation) as cache:
        permit = PermitRow("exit_permission", date(2026, 1, 1), date(2026, 12, 31), 2)
        cache.put_person(PersonRow(7, "national", date(1990, 1, 1), "F", FACE, model, permits=(permit,)))
        cache.put_document("TWN", DOCUMENT.number, 7)
        cache.put_personal_number("A234567893", 7)
        cache.put_flags(7, flags)
        cache.put_document_flags("TWN", DOCUMENT.number, frozenset({"reported"}))


def moved(folder: Path, there: bool = False) -> None:
    """Both files away, or back."""
    for partition in PARTITIONS:
        file = path_of(folder, partition, 1)
        away = folder / f"away-{partition}"
        away.rename(file) if there else file.rename(away)


@dataclass
class Rig:
    """A look-up on a folder of real caches."""

    folder: Path
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = Inline(RecordedFaces(1))
        self.look_up = self.made()

    def made(self, key: bytes = KEY, workers: Workers | None = None, **how: Any) -> LookUp:
        return LookUp(
            self.folder, key, NAME, MODEL, workers or self.workers, self.events.append, rules=lambda: RULES, **how
        )

    def find(self, document: Document = DOCUMENT, ticket: int = 1, ask: int = 1, utc: datetime = BUILT) -> None:
        self.look_up.look_up(cmd.LookUp(ticket, ask, document), utc)

    def answers(self) -> list[Event]:
        return [event for event in self.events if not isinstance(event, DeviceReady | DeviceLost)]

    def device(self) -> list[str]:
        mine = [e for e in self.events if isinstance(e, DeviceReady | DeviceLost)]
        assert all(e.device is Device.CACHE for e in mine)
        return ["ready" if isinstance(e, DeviceReady) else e.why for e in mine]

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            running = asyncio.create_task(self.look_up.run())
            await asyncio.sleep(1.0)
            await scenario()
            assert not running.done()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            self.look_up.close()

        with capture_logs() as self.logs:
            virtual.run(main())


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


@pytest.fixture
def rig(folder: Path) -> Rig:
    publish(folder, 1, flags=frozenset({"wanted"}))
    return Rig(folder)


def test_who_is_enrolled_is_found_by_the_document_and_by_the_personal_number(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        rig.find(OTHER, 2, 2)
        await asyncio.sleep(0.1)

    rig.play(scenario)
    by_document, by_number = rig.answers()
    assert isinstance(by_document, RecordFound)
    assert (by_document.ticket, by_document.ask) == (1, 1)
    traveller = by_document.traveller
    assert (traveller.subject, traveller.category, traveller.birth, traveller.face) == (
        7,
        "national",
        date(1990, 1, 1),
        True,
    )
    assert [(permit.kind, permit.entries_left) for permit in traveller.permits] == [("exit_permission", 2)]
    assert traveller.flags == {"wanted"}, "for the officer who is called before they are read again"
    assert by_document.document_flags == {"reported"}
    assert by_number == RecordFound(2, 2, traveller, frozenset(), STAND)
    assert rig.device() == ["ready"]


def test_a_stranger_has_no_record_and_their_document_may_be_known(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find(replace(OTHER, optional=""))
        await asyncio.sleep(0.1)

    rig.play(scenario)
    assert rig.answers() == [NoRecord(1, 1, frozenset(), STAND)]


def test_flags_are_read_as_they_stand_now(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        with CacheFiles.changing(rig.folder, KEY, NAME) as writer:
            writer.put_flags(7, frozenset({"exit_ban"}))
        rig.look_up.read_flags(cmd.ReadFlags(1, 2))
        await asyncio.sleep(0.1)

    rig.play(scenario)
    stand = replace(STAND, control_serial=1)
    assert rig.answers()[1] == FlagsRead(1, 2, frozenset({"exit_ban"}), frozenset({"reported"}), stand)


def test_flags_of_somebody_who_was_not_found_cannot_be_read(rig: Rig) -> None:
    async def scenario() -> None:
        rig.look_up.read_flags(cmd.ReadFlags(3, 1))
        await asyncio.sleep(0.1)

    rig.play(scenario)
    assert rig.answers() == [LookUpFailed(3, 1, "not_held")]


def test_a_template_of_another_network_is_a_failure_and_not_a_stranger(folder: Path) -> None:
    publish(folder, 1, model="another-net")
    rig = Rig(folder)

    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        with pytest.raises(KeyError):
            rig.look_up.template_of(7)

    rig.play(scenario)
    assert rig.answers() == [LookUpFailed(1, 1, "other_face_model")]


def test_a_newer_generation_is_used_from_the_next_passenger_on(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        publish(rig.folder, 2)
        (rig.folder / "cache-people-9.db.part").write_bytes(b"being fetched")
        rig.find(ticket=2, ask=2)
        rig.look_up.read_flags(cmd.ReadFlags(1, 3))
        await asyncio.sleep(0.1)
        standing = await rig.look_up.standing()
        assert [standing[each].note.generation for each in PARTITIONS] == [2, 2]

    rig.play(scenario)
    assert rig.answers()[-1] == FlagsRead(1, 3, frozenset(), frozenset({"reported"}), STAND)


# -- failures -------------------------------------------------------------------------------------------------------


def test_no_cache_is_told_once_and_found_once_it_is_there(folder: Path) -> None:
    rig = Rig(folder)

    async def scenario() -> None:
        await asyncio.sleep(30.0)
        rig.find()
        await asyncio.sleep(1.0)
        assert rig.device() == ["no_cache"]
        publish(folder, 1)
        await asyncio.sleep(3.0)
        rig.find(ask=2)
        await asyncio.sleep(0.1)

    rig.play(scenario)
    assert rig.device() == ["no_cache", "ready"]
    failed, found = rig.answers()
    assert failed == LookUpFailed(1, 1, "no_cache")
    assert isinstance(found, RecordFound)


def test_a_cache_that_is_taken_away_fails_the_look_up_and_comes_back(rig: Rig) -> None:
    async def scenario() -> None:
        moved(rig.folder)
        rig.find()
        await asyncio.sleep(10.0)
        assert rig.answers() == [LookUpFailed(1, 1, "no_cache")]
        assert rig.device() == ["ready", "no_cache"]
        moved(rig.folder, there=True)
        await asyncio.sleep(3.0)
        assert rig.device() == ["ready", "no_cache", "ready"]

    rig.play(scenario)


def test_a_damaged_cache_fails_the_look_up(rig: Rig) -> None:
    async def scenario() -> None:
        path = path_of(rig.folder, PEOPLE, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        rig.look_up._close()
        rig.find()
        await asyncio.sleep(5.0)
        (answer,) = rig.answers()
        assert isinstance(answer, LookUpFailed)
        assert rig.device()[:2] == ["ready", answer.why]
        path.write_bytes(whole)
        await asyncio.sleep(3.0)
        assert rig.device()[-1] == "ready"

    rig.play(scenario)


def test_where_the_newest_is_damaged_the_one_before_serves(rig: Rig) -> None:
    """At the age that it had when it was last confirmed, whatever it says of itself."""
    later = BUILT + timedelta(days=2)

    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        CacheFiles(rig.folder, KEY, NAME, built=later, generation=2, epoch=2).finish()
        rig.find(ask=2)
        await asyncio.sleep(0.1)
        for partition in PARTITIONS:
            path_of(rig.folder, partition, 2).write_bytes(b"SQLite format 3\0 and then nothing")
            with CacheFile(path_of(rig.folder, partition, 1)) as old:
                old.confirm(later, old.floor)
        rig.look_up._close()
        rig.find(ask=3)
        await asyncio.sleep(0.1)

    rig.play(scenario)
    first, stranger, again = rig.answers()
    assert isinstance(first, RecordFound) and isinstance(again, RecordFound)
    assert stranger == NoRecord(1, 2, frozenset(), CacheStand(0, later, 0, later))
    assert again.traveller == first.traveller
    assert again.cache == STAND, "and its age is not what it says now"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_that_somebody_else_made_does_not_count(rig: Rig) -> None:
    """A taken uplink could copy sealed rows into a generation of its own, without those that ban somebody."""
    rig.look_up = rig.made(owners=(0,))

    async def scenario() -> None:
        publish(rig.folder, 2)  # without the flag
        os.chown(path_of(rig.folder, CONTROL, 2), 4242, -1)
        rig.find()
        rig.look_up.read_flags(cmd.ReadFlags(1, 2))
        await asyncio.sleep(0.1)
        rig.look_up.read_flags(cmd.ReadFlags(1, 3))
        await asyncio.sleep(0.1)

    rig.play(scenario)
    last = rig.answers()[-1]
    assert isinstance(last, FlagsRead) and last.flags == {"wanted"}
    assert [entry["why"] for entry in rig.logs if entry["event"] == "cache generation passed over"] == ["not_syncs"]


def test_an_old_file_that_was_put_back_is_of_no_known_age(rig: Rig) -> None:
    path = path_of(rig.folder, CONTROL, 1)
    kept = path.read_bytes()
    later = BUILT + timedelta(days=1)

    async def scenario() -> None:
        with CacheFiles.changing(rig.folder, KEY, NAME, built=later) as cache:
            cache.put_flags(7, frozenset({"exit_ban"}))
        rig.find()
        await asyncio.sleep(0.1)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        path.unlink()
        path.write_bytes(kept)
        with CacheFile(path) as old:  # whoever can write to the disk can also say that it was confirmed just now
            old.confirm(later, old.floor)
        rig.find(ask=2)
        await asyncio.sleep(0.1)

    rig.play(scenario)
    before, put_back = rig.answers()
    assert isinstance(before, RecordFound) and isinstance(put_back, RecordFound)
    assert before.cache == CacheStand(0, later, 1, later)
    assert put_back.cache == CacheStand(0, later, 0, UNKNOWN)


def test_a_wrong_key_is_told(folder: Path) -> None:
    publish(folder, 1)
    rig = Rig(folder)
    rig.look_up = rig.made(key=bytes([9] * 32))

    async def scenario() -> None:
        await asyncio.sleep(1.0)

    rig.play(scenario)
    assert rig.device() == ["wrong_key"]


def test_a_folder_that_cannot_be_read_is_a_lost_cache_and_no_end(rig: Rig) -> None:
    async def scenario() -> None:
        rig.look_up._folder = rig.folder / "gone"
        rig.find()
        await asyncio.sleep(5.0)
        assert rig.answers() == [LookUpFailed(1, 1, "cannot_open")]
        rig.look_up._folder = rig.folder
        await asyncio.sleep(3.0)

    rig.play(scenario)
    assert rig.device() == ["ready", "cannot_open", "ready"]


def test_a_fault_of_ours_is_answered_and_reported_by_its_place(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that dies silently would leave the passenger standing until the deadline, every time."""

    def broken(self: Enrolments, issuer: str, number: str) -> PersonRow:
        raise KeyError(number)

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Enrolments, "by_document", broken)
            rig.find()
            await asyncio.sleep(0.1)
        await asyncio.sleep(3.0)
        rig.find(ask=2)
        await asyncio.sleep(0.1)

    rig.play(scenario)
    failed, found = rig.answers()
    assert failed == LookUpFailed(1, 1, "crashed")
    assert isinstance(found, RecordFound)
    assert rig.device() == ["ready", "crashed", "ready"]
    (said,) = [entry for entry in rig.logs if entry.get("why") == "crashed"]
    assert said["what"].startswith("KeyError at ")
    assert DOCUMENT.number not in str(rig.logs)


def test_a_failure_while_it_is_opened_again_is_not_overseen(rig: Rig) -> None:
    async def scenario() -> None:
        for k in range(20):
            moved(rig.folder)
            rig.find(ask=k + 1)
            await asyncio.sleep(0.3)
            moved(rig.folder, there=True)
            await asyncio.sleep(0.35)
        await asyncio.sleep(5.0)
        assert rig.device()[-1] == "ready"
        assert len(rig.answers()) == 20, "each question is answered once"

    rig.play(scenario)


# -- history ---------------------------------------------------------------------------------------------------------

VISITOR = rules({"visitor": Category(entry_permits=frozenset({"entry_permit"}))}, zone=ZoneInfo("Asia/Taipei"))
PASSPORT, CARD = of_document("TWN", DOCUMENT.number), of_document("TWN", OTHER.number)


def at(hours: float) -> datetime:
    return BUILT + timedelta(hours=hours)


def own(direction: str, hours: float, *whose: tuple[str, ...]) -> Crossing:
    return Crossing(direction, at(hours), whose)


def counted(direction: str, hours: float, document: Document = DOCUMENT) -> CrossingRow:
    return CrossingRow(direction, at(hours), document.issuer, document.number)


@dataclass
class HistoryRig(Rig):
    """And the lane's own crossings, in a real lane.db."""

    row: PersonRow = field(
        default_factory=lambda: PersonRow(
            7,
            "visitor",
            date(1990, 1, 1),
            "F",
            FACE,
            MODEL,
            permits=(PermitRow("entry_permit", date(2026, 3, 1), date(2026, 5, 31), 2),),
        )
    )

    def __post_init__(self) -> None:
        with CacheFiles(self.folder, KEY, NAME, built=BUILT) as cache:
            cache.put_person(self.row)
            cache.put_document("TWN", DOCUMENT.number, 7)
            cache.put_document("TWN", OTHER.number, 7)
        self.db = LaneDb(self.folder / "lane.db")
        self.crossings = Crossings(self.db, KEY)
        super().__post_init__()

    def made(self, key: bytes = KEY, workers: Workers | None = None, **how: Any) -> LookUp:
        return LookUp(
            self.folder,
            key,
            NAME,
            MODEL,
            workers or self.workers,
            self.events.append,
            rules=lambda: VISITOR,
            crossings=self.crossings,
            **how,
        )

    def write(self, *crossings: Crossing) -> None:
        with self.db.transaction():
            for each in crossings:
                self.crossings.add(each)

    def publish(self, row: PersonRow) -> None:
        with CacheFiles.changing(self.folder, KEY, NAME) as cache:
            cache.put_person(row)

    async def found(self, document: Document = DOCUMENT, utc: datetime = BUILT) -> Traveller:
        self.events.clear()
        self.find(document, utc=utc)
        await asyncio.sleep(0.1)
        [answer] = self.answers()
        assert isinstance(answer, RecordFound), answer
        return answer.traveller

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().play(scenario)
        self.db.close()


def test_all_that_hqs_row_says_reaches_the_lane(folder: Path) -> None:
    """W2, E6, E7, O7: and nothing is taken off for what HQ has counted itself."""
    rig = HistoryRig(folder)
    crossings = (counted("entry", -9), counted("exit", -8, OTHER), counted("entry", -7, OTHER), counted("exit", -6))
    days: dict[str, Any] = {
        "enrolled_on": date(2026, 1, 5),
        "received_on": date(2026, 1, 9),
        "usable_from": date(2026, 1, 12),
    }
    rig.publish(replace(rig.row, origin="office", height_cm=133, crossings=crossings, **days))

    async def scenario() -> None:
        for document in (DOCUMENT, OTHER):
            this = document is DOCUMENT
            traveller = await rig.found(document)
            assert (traveller.origin, traveller.height_cm) == ("office", 133)
            assert {name: getattr(traveller, name) for name in days} == days
            assert traveller.entered == Crossed(at(-7), not this)
            assert traveller.left == Crossed(at(-6), this)
            assert [each.entries_left for each in traveller.permits] == [2]

    rig.play(scenario)


def test_a_document_that_is_announced_for_the_day_is_expected(folder: Path) -> None:
    """W9: the day begins in Taipei, where it is eight hours later."""
    rig = HistoryRig(folder)
    with CacheFiles.changing(folder, KEY, NAME) as cache:
        cache.put_document("TWN", DOCUMENT.number, 7, date(2026, 3, 3))

    async def scenario() -> None:
        assert not (await rig.found(utc=datetime(2026, 3, 2, 15, 59, tzinfo=UTC))).expected
        assert (await rig.found(utc=datetime(2026, 3, 2, 16, 0, tzinfo=UTC))).expected
        assert not (await rig.found(OTHER, datetime(2026, 3, 2, 16, 0, tzinfo=UTC))).expected

    rig.play(scenario)


def test_own_crossings_count_until_hq_has_counted_them_and_not_twice(folder: Path) -> None:
    rig = HistoryRig(folder)
    permit = rig.row.permits[0]

    async def scenario() -> None:
        nobody = await rig.found()
        assert (nobody.entered, nobody.left, nobody.permits[0].entries_left) == (None, None, 2)
        rig.write(own("entry", 1, of_subject(7), PASSPORT), own("exit", 2, of_subject(7), CARD))
        before = await rig.found()
        assert (before.entered, before.left) == (Crossed(at(1), True), Crossed(at(2), False))
        assert before.permits[0].entries_left == 1
        rows = (counted("entry", 1), counted("exit", 2, OTHER))
        rig.publish(replace(rig.row, permits=(replace(permit, entries_left=1),), crossings=rows))
        assert await rig.found() == before
        rig.write(own("entry", 3, of_subject(7), PASSPORT))
        after = await rig.found(OTHER)
        assert after.entered == Crossed(at(3), False)
        assert after.permits[0].entries_left == 0

    rig.play(scenario)


def test_what_is_older_than_all_that_a_full_row_holds_was_counted(folder: Path) -> None:
    """A row has room for six: the entry at this lane was before them."""
    rig = HistoryRig(folder)
    later = tuple(counted(("exit", "entry")[k % 2], 2 + k) for k in range(CROSSINGS_MAX))

    async def scenario() -> None:
        rig.write(own("entry", 1, of_subject(7), PASSPORT))
        for rows, left in ((later, 2), (later[1:], 1)):
            rig.publish(replace(rig.row, crossings=rows))
            traveller = await rig.found()
            assert traveller.permits[0].entries_left == left
            assert traveller.entered == Crossed(at(1 + CROSSINGS_MAX))

    rig.play(scenario)


def test_of_somebody_whom_the_cache_did_not_know_the_document_is_remembered(folder: Path) -> None:
    """An officer let them in; then HQ enrols them."""
    rig = HistoryRig(folder)

    async def scenario() -> None:
        rig.write(own("entry", 1, PASSPORT))
        by_passport, by_card = await rig.found(), await rig.found(OTHER)
        assert (by_passport.entered, by_passport.permits[0].entries_left) == (Crossed(at(1)), 1)
        assert (by_card.entered, by_card.permits[0].entries_left) == (None, 2)

    rig.play(scenario)


def test_what_is_not_on_the_disk_yet_counts_once(folder: Path) -> None:
    rig = HistoryRig(folder)
    crossing = own("entry", 1, of_subject(7), PASSPORT)

    async def scenario() -> None:
        rig.crossings.await_disk(crossing)
        waiting = await rig.found()
        assert (waiting.entered, waiting.permits[0].entries_left) == (Crossed(at(1)), 1)
        rig.write(crossing)
        assert await rig.found() == waiting
        rig.crossings.written(crossing)
        assert await rig.found() == waiting

    rig.play(scenario)


def test_crossings_that_cannot_be_read_are_no_guess(folder: Path) -> None:
    """It is not the cache that is lost, and nothing is held of whoever asked."""
    rig = HistoryRig(folder)

    async def scenario() -> None:
        rig.workers.refuse = True
        rig.find()
        await asyncio.sleep(0.1)
        assert rig.answers() == [LookUpFailed(1, 1, "history_unread")]
        assert rig.device() == ["ready"]
        with pytest.raises(KeyError):
            rig.look_up.template_of(7)
        rig.workers.refuse = False
        assert (await rig.found()).subject == 7

    rig.play(scenario)
    assert [each["why"] for each in rig.logs if each["log_level"] == "error"] == ["disk_full"]


# -- what is held -----------------------------------------------------------------------------------------------------


def test_the_template_is_there_for_the_ticket_alone(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        template = rig.look_up.template_of(7)
        assert template == FACE
        assert leads_to(rig.look_up, template)
        with pytest.raises(KeyError):
            rig.look_up.template_of(8)
        rig.look_up.forget(1)
        assert not leads_to(rig.look_up, template)
        with pytest.raises(KeyError):
            rig.look_up.template_of(7)

    rig.play(scenario)


ENROLLED = (
    FingerRow("left_index", "zfm", b"zfm of the left index finger"),
    FingerRow("right_thumb", OUR_FORMAT, b"iso of the right thumb"),
    FingerRow("left_index", OUR_FORMAT, b"iso of the left index finger"),
    FingerRow("right_index", OUR_FORMAT, b"iso of the right index finger"),
    FingerRow("right_index", "other", b"of a module that nobody has"),
)


@pytest.mark.parametrize(
    ("form", "fingers"),
    [
        (OUR_FORMAT, ("right_index", "left_index", "right_thumb")),
        ("zfm", ("left_index",)),
        ("unknown", ()),
        ("", ("right_index", "left_index", "right_thumb")),
    ],
)
@pytest.mark.parametrize("face", [FACE, None])
def test_the_lane_hears_of_the_fingers_that_it_can_compare(
    form: str, fingers: tuple[str, ...], face: bytes | None, folder: Path
) -> None:
    """In the order of E4; a lane without a reader hears of all. Without a face nothing is said of the network; what the
    reader here does not compare is not there."""
    publish(folder, 1)
    with CacheFiles.changing(folder, KEY, NAME) as writer:
        network = MODEL if face is not None else ""
        writer.put_person(PersonRow(7, "national", date(1990, 1, 1), "F", face, network, fingers=ENROLLED))
    rig = Rig(folder)
    rig.look_up = rig.made(finger_format=form)
    given = {row.position: row.template for row in ENROLLED if row.format == form and form}

    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        (found,) = rig.answers()
        assert isinstance(found, RecordFound)
        assert (found.traveller.fingers, found.traveller.face) == (fingers, face is not None)
        for finger in Finger:
            if finger.value in given:
                assert rig.look_up.finger_template_of(7, finger.value) == given[finger.value]
                continue
            with pytest.raises(KeyError):
                rig.look_up.finger_template_of(7, finger.value)
        with pytest.raises(KeyError):
            rig.look_up.finger_template_of(8, "right_index")
        if face is None:
            with pytest.raises(KeyError):
                rig.look_up.template_of(7)
        rig.look_up.forget(1)
        for each in given:
            with pytest.raises(KeyError):
                rig.look_up.finger_template_of(7, each)

    rig.play(scenario)
    assert not any(row.template.decode() in str([rig.logs, rig.events]) for row in ENROLLED)


def test_nothing_leads_to_a_finger_once_its_ticket_is_over(folder: Path) -> None:
    publish(folder, 1)
    with CacheFiles.changing(folder, KEY, NAME) as writer:
        writer.put_person(PersonRow(7, "national", date(1990, 1, 1), "F", FACE, MODEL, fingers=ENROLLED))
    rig = Rig(folder)
    rig.look_up = rig.made(finger_format=OUR_FORMAT)

    async def scenario() -> None:
        rig.find()
        await asyncio.sleep(0.1)
        template = rig.look_up.finger_template_of(7, "right_index")
        assert leads_to(rig.look_up, template)
        rig.look_up.forget(1)
        assert not leads_to(rig.look_up, template)

    rig.play(scenario)


def test_what_is_found_after_forget_is_not_held(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        rig.look_up.forget(1)
        await asyncio.sleep(0.1)
        assert len(rig.answers()) == 1
        with pytest.raises(KeyError):
            rig.look_up.template_of(7)
        assert rig.look_up._held == {}
        assert rig.look_up._tasks == set()

    rig.play(scenario)


def test_nothing_is_left_of_a_thousand_passengers(rig: Rig) -> None:
    async def scenario() -> None:
        for ticket in range(1, 1001):
            rig.find(ticket=ticket)
            rig.look_up.read_flags(cmd.ReadFlags(ticket, 2))
            await asyncio.sleep(0.01)
            rig.look_up.forget(ticket)
        await asyncio.sleep(1.0)
        assert rig.look_up._held == {}
        assert rig.look_up._tasks == set()

    rig.play(scenario)


def test_closing_gives_up_what_was_asked_and_closes_the_file(rig: Rig) -> None:
    async def scenario() -> None:
        rig.find()
        rig.look_up.close()
        await asyncio.sleep(1.0)
        assert rig.answers() == []
        assert rig.look_up._open == {}

    rig.play(scenario)


def test_threads_of_a_real_lane_may_fail_and_ask_at_the_same_time(folder: Path) -> None:
    """The cache was dropped by the loop while the worker looked at it."""
    publish(folder, 1)
    before = set(threading.enumerate())
    threads = Threads(RecordedFaces(1))
    events: list[Event] = []

    async def main() -> None:
        look_up = LookUp(folder, KEY, NAME, MODEL, threads, events.append, rules=lambda: RULES)
        running = asyncio.create_task(look_up.run())
        for k in range(150):
            look_up.look_up(cmd.LookUp(1, k + 1, DOCUMENT), BUILT)
            look_up.read_flags(cmd.ReadFlags(1, 1000 + k))
            if k % 10 == 3:
                moved(folder)
            elif k % 10 == 8:
                moved(folder, there=True)
            await asyncio.sleep(0)
        while look_up._tasks:
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        threads.close()
        look_up.close()

    with capture_logs() as logs:
        asyncio.run(main())
    assert len([e for e in events if not isinstance(e, DeviceReady | DeviceLost)]) == 300
    assert not [entry for entry in logs if entry.get("why") == "crashed"], logs
    assert set(threading.enumerate()) <= before
