"""The finger desk: one answer to each request, within its time whatever fails; a reader that is dark otherwise."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from drivers.base import DeviceFault, Emit, Print
from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError, PrintLook
from gated.daemon.fingers import AGAIN_S, LIFT_S, OUR_FORMAT, Fingers, format_of
from gated.daemon.records import Facts
from gated.daemon.workers import Threads
from gated.icao.check import Check
from gated.lane.commands import CompareFinger, Record
from gated.lane.events import Door, Event, FingerAdvice, FingerCompared, Touch
from gated.lane.evidence import Decision, Evidence, Verdict
from gated.wire.facts import VerdictReached
from tests.hw_sim import virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.simlane import Inline
from tests.play import RULES

TEMPLATES = {(7, "right_index"): b"right", (7, "left_index"): b"left", (7, "left_thumb"): b"spoilt"}
WITHIN_S = 8.0


@dataclass
class Placed:
    """A finger on the reader. `of`: whose template it matches."""

    of: bytes = b"right"
    usable: bool = True
    advice: str | None = None


class Engine:
    """A finger engine that believes what a `Placed` says of itself."""

    model = "scripted"
    threshold = Threshold("test", 0.3, 1e-3)

    def __init__(self) -> None:
        self.extracted = 0

    def look(self, image: Any, ppi: float) -> PrintLook:
        assert ppi == 500
        if image.of == b"no picture":
            raise FingerError("a side of a finger's picture has 96 to 1500 pixels")
        return PrintLook(50, image.usable, image.advice)

    def extract(self, image: Any, ppi: float) -> Any:
        self.extracted += 1
        return image

    def score(self, minutiae: Any, template: bytes) -> float:
        if template == b"spoilt":
            raise FingerError("no template")
        return 0.9 if minutiae.of == template else 0.1


@dataclass
class Reader:
    """A reader whose passenger is the test: `lay` a finger on, `lift` it. `dark` while nobody waits for one."""

    compares: str = ""
    threshold: float = 100.0
    fmr: float = 1e-5
    on: Placed | None = None
    scans: int = 0
    dark: bool = True
    lost: bool = False
    old_s: float = 0.0
    """Its prints are so much older than it was asked."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def lay(self, finger: Placed | None) -> None:
        self.on = finger
        self.changed.set()

    def unplug(self) -> None:
        self.lost = True
        self.changed.set()

    async def run(self, emit: Emit) -> None:
        raise NotImplementedError

    async def _until(self, true: Callable[[], bool]) -> None:
        self.dark = False
        try:
            while not true():
                if self.lost:
                    raise DeviceFault("gone")
                self.changed.clear()
                await self.changed.wait()
        finally:
            self.dark = True

    async def scan(self, template: bytes | None = None) -> Print:
        await self._until(lambda: self.on is not None)
        self.scans += 1
        finger = self.on
        assert finger is not None
        mono = asyncio.get_running_loop().time() - self.old_s
        if not self.compares:
            return Print(finger, 500, mono)
        assert template is not None
        if not finger.usable:
            return Print(None, 500, mono, advice=finger.advice)
        return Print(None, 500, mono, score=200.0 if finger.of == template else 3.0)

    async def lifted(self) -> None:
        await self._until(lambda: self.on is None)


class Rig:
    """A desk, its reader, and what it said."""

    def __init__(self, reader: Reader | None = None) -> None:
        self.reader = reader or Reader()
        self.engine = Engine()
        self.workers = Inline(RecordedFaces(1), self.engine)
        self.told: list[Event] = []
        self.desk = Fingers(self.reader, self.workers, self.told.append, lambda who, which: TEMPLATES[who, which])

    def ask(self, ask: int = 1, finger: str = "right_index", ticket: int = 1) -> None:
        self.desk.compare(CompareFinger(ticket, ask, 7, finger, WITHIN_S))

    @property
    def answers(self) -> list[FingerCompared]:
        return [each for each in self.told if isinstance(each, FingerCompared)]

    @property
    def advice(self) -> list[Touch]:
        return [each.advice for each in self.told if isinstance(each, FingerAdvice)]


def play(walk: Callable[[Rig], Coroutine[Any, Any, None]], reader: Callable[[], Reader] = Reader) -> Rig:
    """A test in virtual time; nothing is left running."""
    rigs = []

    async def main() -> None:
        rig = Rig(reader())
        rigs.append(rig)
        await walk(rig)
        rig.desk.close()
        await asyncio.sleep(0)
        assert rig.reader.dark

    virtual.run(main())
    return rigs[0]


def test_the_enrolled_finger_matches() -> None:
    async def walk(rig: Rig) -> None:
        assert rig.reader.dark
        rig.ask()
        await asyncio.sleep(1.0)
        assert not rig.reader.dark
        assert not rig.told
        rig.reader.lay(Placed())
        await asyncio.sleep(1.0)
        assert rig.answers == [FingerCompared(1, 1, Check.SUCCESSFUL, 0.9, 0.3, 1e-3, "right_index")]
        assert rig.reader.dark

    play(walk)


def test_another_finger_does_not() -> None:
    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed(b"left"))
        rig.ask()
        await asyncio.sleep(1.0)
        assert rig.answers == [FingerCompared(1, 1, Check.FAILED, 0.1, 0.3, 1e-3, "right_index")]

    play(walk)


def test_one_placement_is_compared_once() -> None:
    """The second try is a second placement: a finger that stays on is told to be lifted."""

    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed(b"left"))
        rig.ask(1)
        await asyncio.sleep(1.0)
        rig.ask(2)
        await asyncio.sleep(LIFT_S + 0.5)
        assert rig.advice == [Touch.LIFT_FINGER]
        assert rig.engine.extracted == 1
        rig.reader.lay(None)
        await asyncio.sleep(0.5)
        assert rig.advice == [Touch.LIFT_FINGER, Touch.PLACE_AGAIN]
        rig.reader.lay(Placed())
        await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.FAILED, Check.SUCCESSFUL]
        assert rig.engine.extracted == 2

    play(walk)


def test_a_quick_hand_is_not_told_to_lift() -> None:
    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed(b"left"))
        rig.ask(1)
        await asyncio.sleep(1.0)
        rig.reader.lay(None)
        rig.ask(2, "left_index")
        rig.reader.lay(None)
        await asyncio.sleep(0.1)
        rig.reader.lay(Placed(b"left"))
        await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.FAILED, Check.SUCCESSFUL]
        assert rig.advice == []

    play(walk)


def test_the_next_passenger_may_have_the_finger_on_already() -> None:
    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed())
        rig.ask(1, ticket=1)
        await asyncio.sleep(0.5)
        rig.desk.forget(1)
        rig.ask(2, ticket=2)
        await asyncio.sleep(0.3)
        assert [each.result for each in rig.answers] == [Check.SUCCESSFUL, Check.SUCCESSFUL]
        assert rig.advice == []

    play(walk)


def test_a_print_that_is_no_good_is_advised_about_and_not_compared() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask()
        rig.reader.lay(Placed(usable=False, advice="press_harder"))
        await asyncio.sleep(0.5)
        assert (rig.advice, rig.answers, rig.engine.extracted) == ([Touch.PRESS_HARDER], [], 0)
        rig.reader.lay(None)
        await asyncio.sleep(0.5)
        rig.reader.lay(Placed(usable=False))
        await asyncio.sleep(0.5)
        assert rig.advice[1:] == [Touch.PLACE_AGAIN, Touch.LIFT_FINGER], "nothing better to say"
        rig.reader.lay(None)
        await asyncio.sleep(0.5)
        rig.reader.lay(Placed())
        await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.SUCCESSFUL]

    play(walk)


def test_nobody_places_a_finger() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask()
        await asyncio.sleep(WITHIN_S - 0.1)
        assert not rig.told
        await asyncio.sleep(0.2)
        assert rig.told == [FingerCompared(1, 1, Check.UNDETERMINED, finger="right_index")]
        assert rig.reader.dark

    play(walk)


@pytest.mark.parametrize("sensor", [False, True])
def test_a_reader_that_is_lost_aborts(sensor: bool) -> None:
    async def walk(rig: Rig) -> None:
        rig.ask()
        await asyncio.sleep(1.0)
        with capture_logs() as logs:
            rig.reader.unplug()
            await asyncio.sleep(0.1)
        assert rig.told == [FingerCompared(1, 1, Check.ABORTED, finger="right_index")]
        assert [each["why"] for each in logs] == ["gone"]

    play(walk, lambda: Reader("zfm" if sensor else ""))


def test_a_sensor_that_compares_by_itself() -> None:
    """Its own score, its maker's threshold and rate; our engine sees nothing."""

    async def walk(rig: Rig) -> None:
        rig.ask(1)
        rig.reader.lay(Placed())
        await asyncio.sleep(0.5)
        rig.ask(2, "left_index")
        rig.reader.lay(None)
        await asyncio.sleep(0.2)
        rig.reader.lay(Placed(usable=False, advice="clean_finger"))
        await asyncio.sleep(0.5)
        rig.reader.lay(None)
        await asyncio.sleep(0.5)
        rig.reader.lay(Placed())
        await asyncio.sleep(0.5)
        assert rig.answers == [
            FingerCompared(1, 1, Check.SUCCESSFUL, 200.0, 100.0, 1e-5, "right_index", sensor="zfm"),
            FingerCompared(1, 2, Check.FAILED, 3.0, 100.0, 1e-5, "left_index", sensor="zfm"),
        ]
        assert rig.advice == [Touch.CLEAN_FINGER, Touch.PLACE_AGAIN]
        assert rig.engine.extracted == 0

    play(walk, lambda: Reader("zfm"))


def test_without_a_reader_or_a_template_it_is_not_supported() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask(1, "right_thumb")
        assert rig.told == [FingerCompared(1, 1, Check.NOT_SUPPORTED, finger="right_thumb")]
        told: list[Event] = []
        none = Fingers(None, rig.workers, told.append, lambda who, which: b"")
        none.compare(CompareFinger(1, 2, 7, "right_index", WITHIN_S))
        assert told == [FingerCompared(1, 2, Check.NOT_SUPPORTED, finger="right_index")]

    play(walk)


def test_a_spoilt_template_is_the_enrolments_fault() -> None:
    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed())
        rig.ask(1, "left_thumb")
        with capture_logs() as logs:
            await asyncio.sleep(0.5)
        assert rig.answers == [FingerCompared(1, 1, Check.NOT_SUPPORTED, finger="left_thumb")]
        assert [each["log_level"] for each in logs] == ["error"]
        assert "spoilt" not in str(logs)

    play(walk)


@pytest.mark.parametrize("sensor", [False, True])
def test_a_print_of_before_the_question_is_nobodys(sensor: bool) -> None:
    """A buffer may still hold the passenger before: what they left there is not compared."""

    async def walk(rig: Rig) -> None:
        rig.reader.old_s = 0.001
        rig.reader.lay(Placed())
        with capture_logs() as logs:
            rig.ask()
            await asyncio.sleep(LIFT_S + 0.5)
        assert [each["event"] for each in logs] == ["finger reader told an old print"]
        assert (rig.answers, rig.engine.extracted, rig.advice) == ([], 0, [Touch.LIFT_FINGER, Touch.LIFT_FINGER])
        rig.reader.old_s = 0.0
        rig.reader.lay(None)
        await asyncio.sleep(AGAIN_S)
        rig.reader.lay(Placed())
        await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.SUCCESSFUL]

    play(walk, lambda: Reader("zfm" if sensor else ""))


def test_a_picture_that_is_none_is_the_readers_fault() -> None:
    """Not the enrolment's: nobody is sent to enrol anew because the reader's pictures are too small."""

    async def walk(rig: Rig) -> None:
        rig.reader.lay(Placed(b"no picture"))
        with capture_logs() as logs:
            rig.ask()
            await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.ABORTED]
        assert [(each["log_level"], each["why"]) for each in logs] == [("warning", "not_a_picture")]

    play(walk)


@pytest.mark.parametrize("sensor", [False, True])
def test_a_reader_that_rattles_does_not_fill_the_queue(sensor: bool) -> None:
    """On and off fifty times a second, never usable: the passenger is told a few things a second, no more."""

    async def walk(rig: Rig) -> None:
        rig.ask()
        for beat in range(round(WITHIN_S * 100)):
            rig.reader.lay(None if beat % 2 else Placed(usable=False, advice="clean_finger"))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert [each.result for each in rig.answers] == [Check.UNDETERMINED]
        assert 2 < len(rig.advice) <= 2 * WITHIN_S / AGAIN_S + 2

    play(walk, lambda: Reader("zfm" if sensor else ""))


def test_inference_that_fails_aborts() -> None:
    async def walk(rig: Rig) -> None:
        rig.workers.broken = True
        rig.reader.lay(Placed())
        rig.ask()
        with capture_logs() as logs:
            await asyncio.sleep(0.5)
        assert [each.result for each in rig.answers] == [Check.ABORTED]
        assert [each["log_level"] for each in logs] == ["error"]

    play(walk)


def test_a_later_request_takes_the_place_of_an_earlier_one() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask(1)
        await asyncio.sleep(1.0)
        rig.ask(2, "left_index")
        await asyncio.sleep(0.5)
        rig.reader.lay(Placed(b"left"))
        await asyncio.sleep(0.5)
        assert [(each.ask, each.result) for each in rig.answers] == [(2, Check.SUCCESSFUL)]

    play(walk)


def test_who_has_gone_is_not_scanned() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask()
        await asyncio.sleep(1.0)
        rig.desk.forget(2)
        await asyncio.sleep(0.1)
        assert not rig.reader.dark, "somebody else's ticket"
        rig.desk.forget(1)
        await asyncio.sleep(0.1)
        assert rig.reader.dark
        rig.reader.lay(Placed())
        await asyncio.sleep(WITHIN_S)
        assert (rig.told, rig.reader.scans) == ([], 0)

    play(walk)


def test_at_the_verdict_the_reader_goes_dark_and_an_officer_may_have_it_tried_again() -> None:
    async def walk(rig: Rig) -> None:
        rig.ask()
        await asyncio.sleep(1.0)
        rig.desk.rest(2)
        await asyncio.sleep(0.1)
        assert not rig.reader.dark, "somebody else's verdict"
        rig.desk.rest(1)
        await asyncio.sleep(0.1)
        assert rig.reader.dark
        rig.ask(2)
        rig.reader.lay(Placed())
        await asyncio.sleep(1.0)
        assert [(each.ask, each.result) for each in rig.answers] == [(2, Check.SUCCESSFUL)]

    play(walk)


def test_which_templates_a_lane_can_compare() -> None:
    assert format_of(None) == ""
    assert format_of(Reader()) == OUR_FORMAT
    assert format_of(Reader("zfm")) == "zfm"


@pytest.mark.parametrize("sensor", ["", "zfm"])
def test_the_record_says_whose_word_it_is(sensor: str) -> None:
    """A module that compares by itself may be exchanged for one that always matches: HQ sees what hangs on it."""
    told = FingerCompared(1, 1, Check.SUCCESSFUL, 200.0, 1.0, 1e-5, "right_index", sensor=sensor)
    evidence = Evidence(datetime(2026, 3, 2, tzinfo=UTC), direction="exit", fingers=(told,))
    record = Record(1, 2, Verdict(Decision.GRANT, "all_rules_kept", "v"), Door.A, evidence, None)
    fact = Facts(lambda: RULES).of(record, 1)
    assert isinstance(fact, VerdictReached)
    assert (fact.finger, fact.finger_sensor) == ("successful", sensor or None)


class Still:
    """Bytes that one can look for."""

    __slots__ = ("__weakref__", "of")

    def __init__(self, of: bytes) -> None:
        self.of = of


@pytest.mark.parametrize("end", ["matched", "waiting", "computing", "broken"])
def test_nothing_of_a_finger_outlives_its_ticket(end: str) -> None:
    """Over real threads: no picture is held by desk, worker or loop once it was forgotten."""
    held: list[weakref.ref[Any]] = []
    computing, gate = threading.Event(), threading.Event()

    class Holding(Reader):
        async def scan(self, template: bytes | None = None) -> Print:
            print_ = await super().scan(template)
            picture = Still(print_.image.of)
            held.append(weakref.ref(picture))
            return Print(picture, 500, print_.mono)

    class Looking(Engine):
        def look(self, image: Any, ppi: float) -> PrintLook:
            if end == "broken":
                raise RuntimeError("the network runtime fails")
            return PrintLook(50, True)

        def extract(self, image: Any, ppi: float) -> Any:
            computing.set()
            gate.wait(5.0 if end == "computing" else 0.0)
            return image

    async def main() -> None:
        reader, told = Holding(), list[Event]()
        desk = Fingers(reader, workers, told.append, lambda who, which: TEMPLATES[who, which])
        if end != "waiting":
            reader.lay(Placed())
        desk.compare(CompareFinger(1, 1, 7, "right_index", WITHIN_S))
        async with asyncio.timeout(5.0):
            while not (told or computing.is_set() or end == "waiting"):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        desk.forget(1)
        gate.set()
        await asyncio.sleep(0.1)
        gc.collect()
        assert len(held) == (end != "waiting")
        assert [each for each in held if each() is not None] == []
        assert [type(each).__name__ for each in gc.get_objects() if type(each) is Print] == []

    workers = Threads(RecordedFaces(1), Looking())
    try:
        with capture_logs():
            asyncio.run(main())
    finally:
        gate.set()
        workers.close()
