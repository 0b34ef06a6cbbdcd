"""Hands and readers of the simulator: what people do when a finger is asked for, and what the demonstration's reader,
display and counter make of it."""

import asyncio
import importlib
import os
import tomllib
from collections.abc import Callable, Coroutine, Iterator
from datetime import date
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drivers.base import Print
from drivers.links import LinkLost
from gated.biometrics.finger import OnnxFingerEngine
from gated.biometrics.fingermatch import compare
from gated.control import Unavailable
from gated.hq.enrolment import NotEnrolled
from gated.hq.registers import Register
from gated.icao.fingers import Finger
from gated.lane.commands import PromptCode
from tests.data import shared_data
from tests.hw_sim import counter as counter_module
from tests.hw_sim import display as display_module
from tests.hw_sim import glasses, prints, virtual
from tests.hw_sim.cast import INDEX_FINGERS, Manner, Passenger, Proof, Truth
from tests.hw_sim.counter import TRIES, Counter
from tests.hw_sim.display import Display, Drawn
from tests.hw_sim.fingers import FingerBook
from tests.hw_sim.gallery import enrolment_of, people
from tests.hw_sim.glasses import READERS, Glassware, Remote, section
from tests.hw_sim.hands import ASKS, Glass, Touching, use
from tests.hw_sim.papers import passport
from tests.hw_sim.site import Plan
from tests.hw_sim.touch import Picture
from tests.networks import networks

TODAY = date(2026, 3, 2)
RIGHT, LEFT = INDEX_FINGERS


# -- recorded fingers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(288, 256), (192, 192), (128, 96), (355, 328)])
def test_a_recorded_picture_says_whose_finger_it_is(shape: tuple[int, int]) -> None:
    engine = prints.RecordedFingers()
    own, other = Touching(7, RIGHT, 305, 0.9), Touching(8, RIGHT, 305, 0.9)
    drawn = prints.picture(own, shape)
    assert drawn.shape == shape
    assert drawn.dtype == np.uint8
    spoilt = np.roll(drawn, 1, axis=0) // 16 * 16
    for each in (drawn, spoilt):
        assert prints.features(each) == prints.features(drawn), "a reader with few greys that loses a line"
    enrolled = [prints.features(prints.picture(Touching(7, finger, 0), shape)) for finger in (RIGHT, LEFT)]
    taken = engine.extract(drawn, 500)
    assert [engine.score(taken, each) for each in enrolled] == [prints.SCORE / 200, 0.0]
    assert engine.score(engine.extract(prints.picture(other, shape), 500), enrolled[0]) == 0.0
    careless = prints.picture(Touching(7, RIGHT, 305, 0.3), shape)
    assert (engine.look(drawn, 500).usable, engine.look(careless, 500).usable) == (True, False)
    assert engine.score(engine.extract(careless, 500), enrolled[0]) == prints.MISSED / 200
    assert engine.threshold.score > prints.MISSED / 200


# -- hands -------------------------------------------------------------------------------------------------------------


class Watched:
    """A glass that notes what lies on it and when."""

    def __init__(self) -> None:
        self.did: list[tuple[float, str | None]] = []
        self.on: Touching | None = None

    def lay(self, touching: Touching) -> None:
        self.on = touching
        self.did.append((asyncio.get_running_loop().time(), touching.finger))

    def lift(self) -> None:
        if self.on is not None:
            self.did.append((asyncio.get_running_loop().time(), None))
        self.on = None


class Stand:
    """Somebody with a hand before a display."""

    def __init__(self, bandaged: tuple[str, ...] = (), seed: int = 3) -> None:
        self.glass, self.says, self.there = Watched(), "", True
        self.bandaged, self.seed = frozenset(bandaged), seed

    @property
    def laid(self) -> list[str]:
        return [finger for _, finger in self.glass.did if finger is not None]

    def play(self, walk: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            glass: Any = self.glass
            hand = use(glass, lambda: self.says, 5, 2, self.bandaged, Random(self.seed), 1.0, lambda: self.there)
            task = asyncio.create_task(hand)
            await walk()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert self.glass.on is None, "who goes takes the hand along"

        virtual.run(main())


def test_the_finger_that_is_asked_for_is_laid_on_and_taken_off() -> None:
    stand = Stand()

    async def walk() -> None:
        await asyncio.sleep(2.0)
        assert not stand.laid
        stand.says = ASKS + RIGHT
        await asyncio.sleep(1.5)
        touching = stand.glass.on
        assert touching is not None
        assert (touching.hand, touching.finger, touching.take) == (5, RIGHT, 201)
        assert 0.0 < touching.care <= 1.0
        stand.says = ASKS + LEFT
        await asyncio.sleep(4.0)
        assert stand.laid[:2] == [RIGHT, LEFT]
        stand.says = "thank_you"
        await asyncio.sleep(0.5)
        assert stand.glass.on is None
        laid = len(stand.laid)
        await asyncio.sleep(5.0)
        assert len(stand.laid) == laid

    stand.play(walk)


def test_a_finger_stays_on_while_the_display_says_so_and_is_laid_on_anew_while_it_asks() -> None:
    stand = Stand()

    async def walk() -> None:
        stand.says = ASKS + RIGHT
        await asyncio.sleep(1.5)
        stand.says = "hold_finger"
        await asyncio.sleep(0.5)
        assert stand.glass.on is not None
        await asyncio.sleep(3.0)
        assert stand.glass.on is None, "for a while"
        stand.says = ASKS + RIGHT
        await asyncio.sleep(12.0)

    stand.play(walk)
    assert len(stand.laid) > 2
    times = [at for at, _ in stand.glass.did]
    assert [finger is None for _, finger in stand.glass.did] == [k % 2 == 1 for k in range(len(times))]


@pytest.mark.parametrize("says", ["", "place_document", "lift_finger", ASKS + LEFT])
def test_nothing_else_is_laid_on(says: str) -> None:
    """No document, no finger that is not named, none with a plaster."""
    stand = Stand(bandaged=(LEFT,))

    async def walk() -> None:
        stand.says = says
        await asyncio.sleep(10.0)
        assert not stand.laid
        stand.says, stand.there = ASKS + RIGHT, False
        await asyncio.sleep(10.0)
        assert not stand.laid, "the reader is out of reach"

    stand.play(walk)


def test_every_finger_that_the_lane_can_ask_for_is_understood() -> None:
    asked = [code.value.removeprefix(ASKS) for code in PromptCode if code.value.startswith(ASKS)]
    assert {finger for finger in asked if "_" in finger} == {finger.value for finger in Finger}


def test_hands_do_not_notice_that_the_cable_is_out() -> None:
    class Gone:
        captures = 0

        async def touch(self, picture: Picture) -> None:
            raise LinkLost("gone")

        async def lift(self) -> None:
            raise LinkLost("gone")

    async def main() -> None:
        sensor: Any = Gone()
        glass = Glass(sensor, lambda touching: prints.picture(touching, (64, 64)))
        glass.lay(Touching(1, RIGHT, 1))
        glass.lift()
        await asyncio.sleep(0.1)

    virtual.run(main())


# -- the demonstration's readers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", READERS)
def test_the_section_of_every_reader_suits_its_driver(reader: str, tmp_path: Path) -> None:
    model, said = READERS[reader], tomllib.loads(section(reader, tmp_path))
    if model is None:
        assert said == {}
        return
    assert said["finger"] == {"threshold": "fmr_1e-3"}
    options = said["fingerprint"]
    assert options.pop("driver") == model.driver
    settings = importlib.import_module(f"drivers.fingerprint.{model.driver}").Settings(**options)
    if model.driver == "zfm":
        assert Path(settings.port).parent == tmp_path
        assert settings.size == model.size[::-1]
        # A picture has to be there before a placement is over.
        picture_s = settings.size[0] * settings.size[1] / 2 * 1.1 * 10 / settings.baud_rate
        assert settings.mode == "sensor" or picture_s < model.finger_s / 2


class Chain:
    """Driver, link and mirror as the demonstration has them, in one process."""

    def __init__(self, reader: str, folder: Path) -> None:
        self.ware = Glassware(reader, folder, Random(1), lambda: OnnxFingerEngine(networks(), threads=1))
        options = tomllib.loads(section(reader, folder))["fingerprint"]
        driver = importlib.import_module(f"drivers.fingerprint.{options.pop('driver')}")
        settings = driver.Settings(**options)
        self.ware.start()
        self.driver = driver.Device(settings, self._link(settings, folder))
        self.ready = asyncio.Event()
        self.task = asyncio.ensure_future(self.driver.run(lambda event: self.ready.set()))

    @staticmethod
    def _link(settings: Any, folder: Path) -> Any:
        from drivers.links.serial import SerialLink

        return glasses.link(settings, folder) or SerialLink(settings.port, settings.baud_rate)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.ware.stop()
        await self.ware.stop()


def scanned(
    reader: str, folder: Path, picture: Picture, template: Callable[[Chain], bytes | None] = lambda chain: None
) -> Print:
    """What the driver brings of a finger that looks like `picture`."""

    async def main() -> Print:
        chain = Chain(reader, folder)
        try:
            async with asyncio.timeout(30.0):
                await chain.ready.wait()
                scan = asyncio.ensure_future(chain.driver.scan(template(chain)))
                await asyncio.sleep(0.05)
                await chain.ware.sensor.touch(picture)
                found: Print = await scan
                await chain.ware.sensor.lift()
                await chain.driver.lifted()
                return found
        finally:
            await chain.close()

    return asyncio.run(main())


def finger(reader: str, person: int, take: int) -> Picture:
    model = READERS[reader]
    assert model is not None
    return FingerBook(1).impression(person, Finger.RIGHT_INDEX, take, model.size)


def test_the_usb_reader_brings_the_finger_that_lies_on_it(tmp_path: Path) -> None:
    engine = OnnxFingerEngine(networks(), threads=1)
    own, again, other = (finger("usb_image", *whose) for whose in ((0, 1), (0, 2), (1, 1)))
    found = scanned("usb_image", tmp_path, own)
    assert found.image is not None and found.image.shape == own.shape and found.ppi == 500
    taken, same, another = (engine.extract(each, 500) for each in (found.image, again, other))
    assert compare(taken, same) >= engine.threshold.score > compare(taken, another)


def test_the_module_compares_by_itself(tmp_path: Path) -> None:
    own = finger("zfm-sensor", 0, 1)
    scores = []
    for k, enrolled in enumerate((finger("zfm-sensor", 0, 2), finger("zfm-sensor", 1, 1))):
        (folder := tmp_path / str(k)).mkdir()
        found = scanned("zfm-sensor", folder, own, lambda chain, e=enrolled: chain.ware.sensor.template(e))  # type: ignore[misc]
        assert found.image is None and found.score is not None
        scores.append(found.score)
    assert scores[0] >= 50 > scores[1]


def test_a_finger_reaches_the_mirror_beside_the_lane(tmp_path: Path) -> None:
    """libfprint's mirror lives in the lane's process: the world tells it through a socket."""
    felt: list[Picture | None] = []

    class Mirror:
        link: Any = "the link"

        async def run(self) -> None:
            return

        async def touch(self, picture: Picture) -> None:
            felt.append(picture)

        async def lift(self) -> None:
            felt.append(None)

    async def main() -> None:
        path = tmp_path / "hand.sock"
        remote = Remote(path)
        with pytest.raises(LinkLost):
            await remote.lift()
        mirror: Any = Mirror()
        beside = glasses._Beside(mirror, path)
        assert beside.link is Mirror.link
        while not path.exists():
            await asyncio.sleep(0.01)
        for act in (remote.touch(drawn), remote.lift()):
            before = len(felt)
            await act
            async with asyncio.timeout(5.0):
                while len(felt) == before:
                    await asyncio.sleep(0.01)

    drawn = prints.picture(Touching(1, RIGHT, 1), (288, 256))
    asyncio.run(main())
    assert felt[0] is not None and np.array_equal(felt[0], drawn) and felt[1] is None


# -- the display, and fingers for it -----------------------------------------------------------------------------------


def test_the_display_says_what_the_lane_prompts_and_waits_for_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    class Lane:
        def __init__(self, path: Path) -> None:
            calls.append(path)

        def watch(self) -> Iterator[dict[str, object]]:
            if len(calls) == 1:
                raise Unavailable("no lane yet")
            yield {"prompt": "place_document"}
            yield {"prompt": PromptCode.PLACE_LEFT_INDEX}
            display.stop()
            yield {"prompt": "after it was stopped"}
            raise AssertionError("nobody looks any more")

    monkeypatch.setattr(display_module, "Client", Lane)
    monkeypatch.setattr(display_module, "AGAIN_S", 0.0)
    display = Display(Path("control.sock"))
    assert display.says == ""
    display._watch()
    assert display.says == "after it was stopped"
    assert calls == [Path("control.sock")] * 2


def passenger(person: int, take: int, hand: int | None = None) -> Passenger:
    paper = passport(Random(person), person, TODAY)
    return Passenger(f"p{take}", person, paper, Truth.GENUINE, Manner.PLAIN, 1, take=take, hand=hand)


def test_every_placement_has_its_own_picture_whether_drawn_ahead_or_not() -> None:
    size = (96, 120)
    ahead, late, book = Drawn(4, size), Drawn(4, size), FingerBook(4)
    ahead._draw([(2, 1)])
    assert len(ahead._ahead) == len(INDEX_FINGERS) * display_module.TAKES
    for touching in (Touching(2, RIGHT, 101, 0.8), Touching(2, LEFT, 103, 0.8), Touching(2, "left_thumb", 101, 0.8)):
        assert ahead(touching).shape == size[::-1]
    assert np.array_equal(ahead(Touching(2, RIGHT, 101)), late(Touching(2, RIGHT, 101)))
    assert not np.array_equal(ahead(Touching(2, RIGHT, 101)), ahead(Touching(2, RIGHT, 102)))
    assert not np.array_equal(ahead(Touching(2, RIGHT, 101)), ahead(Touching(2, LEFT, 101)))
    careless = book.impression(2, Finger.RIGHT_INDEX, 101, size, care=0.3)
    assert np.array_equal(ahead(Touching(2, RIGHT, 101, 0.3)), careless), "who is careless is careless"


def test_fingers_are_drawn_of_whoever_s_hand_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[tuple[int, int]]] = []
    monkeypatch.setattr(Drawn, "_draw", lambda self, hands: drawn.append(hands))
    Drawn(4, (96, 120)).draw([passenger(2, 0), passenger(3, 1, hand=1_000_001)])
    assert drawn == [[(2, 0), (1_000_001, 1)]]


# -- the counter ----------------------------------------------------------------------------------------------------


def plan(reader: str) -> Plan:
    return Plan("", 5, 2, TODAY.isoformat(), 1.0, 0, 0, str(networks()), 0.3, (), "", reader)


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    made = Register(tmp_path / "registers.db", os.urandom(32))
    yield made
    made.close()


@pytest.mark.parametrize(("reader", "form"), [("usb_image", "iso19794-2"), ("zfm-sensor", "zfm")])
def test_the_counter_enrols_faces_and_fingers(reader: str, form: str, register: Register, tmp_path: Path) -> None:
    images = shared_data() / "faces" / "images"
    for name in ("Abdoulaye_Wade", "Adam_Sandler"):
        (tmp_path / "people" / name).mkdir(parents=True)
        for photograph in sorted((images / name).glob("*.jpg"))[:2]:
            (tmp_path / "people" / name / photograph.name).symlink_to(photograph)
    everybody = people(tmp_path / "people")
    (work := tmp_path / "work").mkdir()
    desk = Counter(plan(reader), everybody, register, work, "fmr_1e-4")
    for person, proof in ((0, Proof.BOTH), (1, Proof.FINGERS)):
        desk.see(person)
        desk.enrol(enrolment_of(person, 5, TODAY, proof))
    resident, faceless = sorted(register.people(), key=lambda each: each.subject)
    assert (resident.category, faceless.category) == ("resident", "national")
    assert resident.face is not None and faceless.face is None
    for each in (resident, faceless):
        assert tuple(row.position for row in each.fingers) == INDEX_FINGERS
        assert {row.format for row in each.fingers} == {form}
        assert each.fingers[0].template != each.fingers[1].template
    assert resident.fingers[0].template != faceless.fingers[0].template


def test_a_finger_that_is_not_good_enough_is_taken_again(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a person without fingers is refused at once."""
    tried: list[set[Path]] = []
    pictures: list[bytes] = []

    def refuse(application: Any, *_: Any) -> Any:
        tried.append({file.path for offered in application.fingers.values() for file in offered.files})
        pictures.extend(path.read_bytes() for path in tried[-1])
        raise NotEnrolled("not good enough")

    networks()
    monkeypatch.setattr(counter_module, "person_of", refuse)
    somebody: Any = SimpleNamespace(enrolled=tmp_path / "0.jpg")
    desk = Counter(plan("usb_image"), [somebody] * 2, register, tmp_path, "fmr_1e-4")
    with pytest.raises(NotEnrolled):
        desk.enrol(enrolment_of(0, 5, TODAY, Proof.BOTH))
    assert len(tried) == TRIES
    assert len(set(pictures)) == TRIES * len(INDEX_FINGERS), "another print each time"
    with pytest.raises(NotEnrolled):
        desk.enrol(enrolment_of(1, 5, TODAY, Proof.FACE))
    assert len(tried) == TRIES + 1
