"""The matcher: one answer to each comparison, within its time whatever fails, and nothing of a face after `Forget`."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from drivers.base import DeviceFault, Emit, Frame
from gated.biometrics.face import Look, TemplateUnusable, Threshold
from gated.daemon.matcher import ADVISE_EVERY_S, Matcher
from gated.icao.check import Check
from gated.lane.commands import CompareFace
from gated.lane.events import Advice, Device, DeviceLost, DeviceReady, Event, FaceAdvice, FaceCompared
from tests.hw_sim import virtual
from tests.hw_sim.simlane import Inline

FPS = 10.0
TEMPLATE = bytes(range(1, 65))
UNUSABLE = bytes(64)


@dataclass
class Picture:
    """What a frame shows: how well, how many, how like the enrolled one."""

    score: float = 0.7
    quality: float = 0.5
    persons: int = 1
    usable: bool = True
    advice: str | None = None
    embedded: int = 0


NOBODY = Picture(persons=0, usable=False, advice="nobody")


class Engine:
    """A face engine that believes what a `Picture` says of itself."""

    model = "scripted"
    threshold = Threshold("test", 0.4, 1e-3)
    weak: Threshold | None = Threshold("weak", 0.3, 1e-2)

    def look(self, image: Any) -> Look:
        return Look(image.persons, image.quality, image.usable, image.advice)

    def embed(self, image: Any, look: Look) -> Any:
        image.embedded += 1
        return np.full(1, image.score, np.float32)

    def score(self, embedding: Any, template: bytes) -> float:
        if template == UNUSABLE:
            raise TemplateUnusable("K99887766")
        assert template == TEMPLATE
        return float(embedding[0])


class Lens:
    """A camera that shows whatever `shows` is at that moment."""

    def __init__(self) -> None:
        self.shows: Callable[[float], Picture | Exception] = lambda at: NOBODY
        self.pulled = 0

    async def run(self, emit: Emit) -> None:
        raise NotImplementedError

    async def next(self, after_mono: float) -> Frame:
        loop = asyncio.get_running_loop()
        due = max(after_mono + 1 / FPS, loop.time())
        await asyncio.sleep(due - loop.time())
        self.pulled += 1
        shown = self.shows(loop.time())
        if isinstance(shown, Exception):
            raise shown
        return Frame(shown, loop.time())


@dataclass
class Slow(Inline):
    """Inference that takes its time."""

    cost_s: float = 0.0

    async def run(self, kind: str, work: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(self.cost_s)
        return await super().run(kind, work, *args)


@dataclass
class Rig:
    """A matcher with its camera and networks. `events` with the time at which each came."""

    camera: Lens = field(default_factory=Lens)
    workers: Slow = field(default_factory=lambda: Slow(Engine()))
    templates: dict[int, bytes] = field(default_factory=lambda: {7: TEMPLATE})
    events: list[tuple[float, Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matcher = Matcher(self.camera, self.workers, self.emit, lambda subject: self.templates[subject])

    def emit(self, event: Event) -> None:
        self.events.append((asyncio.get_running_loop().time(), event))

    def ask(self, ticket: int = 1, ask: int = 1, *, within_s: float = 5.0, since: float | None = None) -> float:
        """Ask for a comparison; returns when."""
        now = asyncio.get_running_loop().time()
        self.matcher.compare(CompareFace(ticket, ask, 7, now if since is None else since, within_s))
        return now

    def compared(self) -> list[tuple[float, FaceCompared]]:
        return [(at, event) for at, event in self.events if isinstance(event, FaceCompared)]

    def device(self) -> list[str]:
        mine = [e for _, e in self.events if isinstance(e, DeviceReady | DeviceLost)]
        assert all(e.device is Device.MATCHER for e in mine)
        return ["ready" if isinstance(e, DeviceReady) else e.why for e in mine]

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            running = asyncio.create_task(self.matcher.run())
            await asyncio.sleep(1.0)
            await scenario()
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        with capture_logs() as self.logs:
            virtual.run(main())


def shows(picture: Picture) -> Callable[[float], Picture]:
    return lambda at: picture


def test_nothing_is_pulled_while_nobody_is_there() -> None:
    rig = Rig()

    async def scenario() -> None:
        await asyncio.sleep(60.0)
        assert rig.camera.pulled == 0
        rig.matcher.watch(1)
        await asyncio.sleep(2.0)
        assert rig.camera.pulled > 10
        rig.matcher.forget(1)
        await asyncio.sleep(1.0)
        before = rig.camera.pulled
        await asyncio.sleep(60.0)
        assert rig.camera.pulled == before

    rig.play(scenario)
    assert rig.device() == ["ready"]


@pytest.mark.parametrize(("score", "result"), [(0.7, Check.SUCCESSFUL), (0.4, Check.SUCCESSFUL), (0.39, Check.FAILED)])
def test_a_face_is_compared_and_answered_once(score: float, result: Check) -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture(score))

    async def scenario() -> None:
        rig.matcher.watch(1)
        await asyncio.sleep(1.0)
        asked = rig.ask()
        await asyncio.sleep(20.0)
        ((at, answer),) = rig.compared()
        assert (answer.ticket, answer.ask, answer.result, answer.persons) == (1, 1, result, 1)
        assert answer.score == pytest.approx(score)
        assert (answer.threshold, answer.fmr) == (0.4, 1e-3)
        assert (answer.weak_threshold, answer.weak_fmr) == (0.3, 1e-2)
        assert answer.captured_mono >= asked, "a frame of before the entry shut does not count"
        assert at - asked <= (1.0 if result is Check.SUCCESSFUL else 5.0)

    rig.play(scenario)


def test_the_frame_of_the_answer_is_held_for_whoever_keeps_a_picture_until_its_ticket_is_forgotten() -> None:
    """Not a better one of later, which nobody compared; before anything was compared the best; of no other ticket."""
    rig = Rig()
    walking, compared, better = Picture(quality=0.9), Picture(quality=0.4), Picture(quality=0.8)
    rig.camera.shows = shows(walking)

    async def scenario() -> None:
        rig.matcher.watch(1)
        await asyncio.sleep(1.0)
        found = rig.matcher.best(1, 0.0)
        assert found is not None and found.image is walking
        assert rig.matcher.best(2, 0.0) is None
        rig.camera.shows = shows(compared)
        shut = asyncio.get_running_loop().time() + 0.1
        assert rig.matcher.best(1, shut) is None
        await asyncio.sleep(0.1)
        rig.ask(since=shut)
        await asyncio.sleep(3.0)
        ((_, answer),) = rig.compared()
        rig.camera.shows = shows(better)
        await asyncio.sleep(1.0)
        found = rig.matcher.best(1, shut)
        assert found is not None and found.image is compared and found.mono == answer.captured_mono
        later = rig.matcher.best(1, shut + 3.5)
        assert later is not None and later.image is better, "what was compared is of before that"
        rig.matcher.forget(1)
        assert rig.matcher.best(1, 0.0) is None

    rig.play(scenario)


def test_of_faces_that_do_not_match_the_least_unlike_is_held() -> None:
    rig, scores = Rig(), iter([0.1, 0.3, 0.2])
    pictures: list[Picture] = []

    def shown(at: float) -> Picture:
        if len(pictures) < 3 and at > 2.0 + len(pictures):
            pictures.append(Picture(next(scores), quality=0.3 + len(pictures) / 10))
        return pictures[-1] if pictures else NOBODY

    rig.camera.shows = shown

    async def scenario() -> None:
        rig.matcher.watch(1)
        rig.ask(since=0.0, within_s=8.0)
        await asyncio.sleep(10.0)
        ((_, answer),) = rig.compared()
        found = rig.matcher.best(1, 0.0)
        assert answer.score == pytest.approx(0.3) and found is not None and found.image is pictures[1]

    rig.play(scenario)


def test_one_that_takes_all_of_its_time_goes_on_where_the_last_one_was() -> None:
    """L8: a face that matched is looked at and compared as often as one that did not."""
    compared = []
    for score in (0.7, 0.1):
        rig, pictures = Rig(), list[Picture]()

        def better(at: float, score: float = score, pictures: list[Picture] = pictures) -> Picture:
            pictures.append(Picture(score, quality=0.3 + at / 1000))
            return pictures[-1]

        rig.camera.shows = better

        async def scenario(rig: Rig = rig, score: float = score) -> None:
            rig.matcher.watch(1)
            asked = rig.ask()
            if score > 0.4:
                while not rig.compared():
                    await asyncio.sleep(0.001)
                rest_s = asked + 5.0 - asyncio.get_running_loop().time()
                rig.matcher.compare(CompareFace(1, 2, 7, asked, rest_s, True))
            await asyncio.sleep(20.0)
            assert rig.compared()[-1][0] == pytest.approx(asked + 5.0)
            assert rig.compared()[-1][1].result is (Check.SUCCESSFUL if score > 0.4 else Check.FAILED)

        rig.play(scenario)
        compared.append([k for k, picture in enumerate(pictures) if picture.embedded])
    assert compared[0] == compared[1] and len(compared[0]) > 3


def test_advice_keeps_its_pace_over_a_second_comparison_of_the_same_passenger() -> None:
    rig = Rig()
    rig.camera.shows = shows(NOBODY)

    async def scenario() -> None:
        rig.matcher.watch(1)
        asked = rig.ask(within_s=1.0)
        await asyncio.sleep(1.0)
        rig.ask(ask=2, since=asked)
        await asyncio.sleep(2.0)
        told = [at - asked for at, event in rig.events if isinstance(event, FaceAdvice)]
        assert told and told[0] == pytest.approx(ADVISE_EVERY_S, abs=0.2)

    rig.play(scenario)


def test_without_a_usable_picture_the_answer_is_undetermined_and_comes_in_time() -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture(persons=1, usable=False, advice="come_closer"))

    async def scenario() -> None:
        rig.matcher.watch(1)
        asked = rig.ask()
        await asyncio.sleep(20.0)
        ((at, answer),) = rig.compared()
        assert answer.result is Check.UNDETERMINED
        assert at - asked == pytest.approx(5.0)
        told = [(when, e) for when, e in rig.events if isinstance(e, FaceAdvice)]
        assert 2 <= len(told) <= 5.0 / ADVISE_EVERY_S
        assert {e.advice for _, e in told} == {Advice.COME_CLOSER}
        assert all((e.ticket, e.ask) == (1, 1) for _, e in told)

    rig.play(scenario)


def test_a_second_person_in_any_frame_is_counted() -> None:
    rig = Rig()
    rig.camera.shows = lambda at: Picture(persons=2, usable=False) if at < 2.5 else Picture()

    async def scenario() -> None:
        rig.matcher.watch(1)
        rig.ask()
        await asyncio.sleep(10.0)
        ((_, answer),) = rig.compared()
        assert answer.persons == 2

    rig.play(scenario)


def test_a_subject_whose_template_is_not_held_is_answered_at_once() -> None:
    rig = Rig(templates={})

    async def scenario() -> None:
        rig.matcher.watch(1)
        asked = rig.ask()
        assert rig.compared() == [(asked, FaceCompared(1, 1, Check.UNDETERMINED))]
        await asyncio.sleep(20.0)
        assert len(rig.compared()) == 1

    rig.play(scenario)


def test_a_template_that_cannot_be_used_is_that_persons_trouble_alone() -> None:
    rig = Rig(templates={7: UNUSABLE})
    rig.camera.shows = shows(Picture())

    async def scenario() -> None:
        rig.matcher.watch(1)
        asked = rig.ask()
        await asyncio.sleep(20.0)
        ((at, answer),) = rig.compared()
        assert answer.result is Check.UNDETERMINED and at - asked < 1.0
        rig.matcher.forget(1)
        rig.templates[7] = TEMPLATE
        rig.matcher.watch(2)
        rig.ask(ticket=2)
        await asyncio.sleep(5.0)
        assert rig.compared()[-1][1].result is Check.SUCCESSFUL

    rig.play(scenario)
    assert rig.device() == ["ready"], "nothing is wrong with the matcher"
    (said,) = rig.logs
    assert said["event"] == "face template cannot be used" and "K99887766" not in str(said)


def broken_camera(rig: Rig) -> None:
    rig.camera.shows = lambda at: DeviceFault("gone")


def crashing_camera(rig: Rig) -> None:
    rig.camera.shows = lambda at: KeyError("K99887766")


def frozen_camera(rig: Rig) -> None:
    async def never(after_mono: float) -> Frame:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    rig.camera.next = never  # type: ignore[method-assign]


def broken_networks(rig: Rig) -> None:
    rig.workers.broken = True


def slow_networks(rig: Rig) -> None:
    rig.workers.cost_s = 3.0


def hanging_networks(rig: Rig) -> None:
    rig.workers.cost_s = 3600.0


@pytest.mark.parametrize(
    "breaks", [broken_camera, crashing_camera, frozen_camera, broken_networks, slow_networks, hanging_networks]
)
@pytest.mark.parametrize("when", ["before", "while"])
def test_every_comparison_is_answered_once_and_in_time_whatever_fails(breaks: Callable[[Rig], None], when: str) -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture(0.1))

    async def scenario() -> None:
        rig.matcher.watch(1)
        if when == "before":
            breaks(rig)
        await asyncio.sleep(1.0)
        asked = [rig.ask(ask=1)]
        await asyncio.sleep(1.0)
        if when == "while":
            breaks(rig)
        await asyncio.sleep(9.0)
        asked.append(rig.ask(ask=2))
        await asyncio.sleep(20.0)
        assert [answer.ask for _, answer in rig.compared()] == [1, 2]
        for began, (at, answer) in zip(asked, rig.compared(), strict=True):
            assert at - began <= 5.0 + 1e-6
            assert answer.result is not Check.SUCCESSFUL

    rig.play(scenario)
    assert "K99887766" not in str(rig.logs)


@pytest.mark.parametrize("breaks", [broken_networks, crashing_camera])
def test_a_matcher_that_fails_is_lost_until_it_works_again_whether_somebody_is_there_or_not(
    breaks: Callable[[Rig], None],
) -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture())

    async def scenario() -> None:
        breaks(rig)
        rig.matcher.watch(1)
        await asyncio.sleep(5.0)
        rig.matcher.forget(1)
        await asyncio.sleep(60.0)
        assert rig.device() == ["ready", "failed"], "told once"
        rig.workers.broken = False
        rig.camera.shows = shows(Picture())
        await asyncio.sleep(5.0)
        assert rig.device() == ["ready", "failed", "ready"]
        rig.matcher.watch(2)
        rig.ask(ticket=2)
        await asyncio.sleep(5.0)
        assert rig.compared()[-1][1].result is Check.SUCCESSFUL

    rig.play(scenario)
    (said,) = [entry for entry in rig.logs if entry["event"] == "matcher failed"]
    assert said["what"][0].split(" at ")[0] in ("RuntimeError", "KeyError")


def test_the_camera_that_comes_back_in_time_still_counts() -> None:
    rig = Rig()
    rig.camera.shows = lambda at: DeviceFault("gone") if at < 5.0 else Picture()

    async def scenario() -> None:
        rig.matcher.watch(1)
        asked = rig.ask()
        await asyncio.sleep(10.0)
        ((at, answer),) = rig.compared()
        assert answer.result is Check.SUCCESSFUL
        assert 4.0 < at - asked < 5.0

    rig.play(scenario)
    assert rig.device() == ["ready"], "the camera's own supervisor tells of it, not the matcher"


def test_a_comparison_that_another_follows_or_whose_ticket_ended_is_not_answered() -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture(0.1))

    async def scenario() -> None:
        rig.matcher.watch(1)
        rig.ask(ask=1)
        await asyncio.sleep(1.0)
        rig.ask(ask=2)
        await asyncio.sleep(10.0)
        assert [answer.ask for _, answer in rig.compared()] == [2]
        rig.ask(ask=3)
        await asyncio.sleep(1.0)
        rig.matcher.forget(1)
        rig.matcher.watch(2)
        await asyncio.sleep(20.0)
        assert [answer.ask for _, answer in rig.compared()] == [2]

    rig.play(scenario)


def test_an_answer_of_inference_that_comes_too_late_is_dropped() -> None:
    rig = Rig()
    rig.camera.shows = shows(Picture())
    rig.workers.cost_s = 2.0

    async def scenario() -> None:
        rig.matcher.watch(1)
        rig.ask(within_s=3.0)
        await asyncio.sleep(30.0)
        assert [answer.result for _, answer in rig.compared()] == [Check.UNDETERMINED]

    rig.play(scenario)


@pytest.mark.parametrize("breaks", [None, broken_networks])
def test_nothing_of_a_passenger_is_left_after_forget(breaks: Callable[[Rig], None] | None) -> None:
    """Also where inference failed: the exception would hold its arguments."""
    rig = Rig()
    frames: list[weakref.ref[Picture]] = []
    template = bytes(TEMPLATE[:32] + TEMPLATE[32:])
    rig.templates[7] = template

    def remembered(at: float) -> Picture:
        picture = Picture(0.1, quality=0.3 + at / 1000)
        frames.append(weakref.ref(picture))
        return picture

    async def scenario() -> None:
        rig.camera.shows = remembered
        if breaks is not None:
            breaks(rig)
        rig.matcher.watch(1)
        rig.ask()
        await asyncio.sleep(3.0)
        if breaks is None:
            assert [ref for ref in frames if ref() is not None], "while the passenger is there, frames are held"
        assert leads_to(rig.matcher, template)
        rig.camera.shows = shows(NOBODY)
        rig.matcher.forget(1)
        assert not leads_to(rig.matcher, template)
        await asyncio.sleep(2.0)
        gc.collect()
        assert len(frames) >= 3
        assert [ref for ref in frames if ref() is not None] == []
        assert rig.compared() == []

    rig.play(scenario)


def leads_to(root: Any, wanted: object) -> bool:
    """Whether `root` holds `wanted`, through whatever but modules, classes, and the rig around it."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        here = todo.pop()
        if here is wanted:
            return True
        if id(here) not in seen and not isinstance(here, type | ModuleType | Rig | Lens):
            seen.add(id(here))
            todo += (here.__closure__ or ()) if isinstance(here, FunctionType) else gc.get_referents(here)
    return False
