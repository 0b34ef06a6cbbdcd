"""Pictures of a verdict: which frame, how large, in which parts, and what is left of it in the lane: nothing."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from gated.biometrics.capture import Candidate
from gated.biometrics.face import Look
from gated.daemon.pictures import CASE, TRIES, WAITING_MAX, Pictures, TooLarge, face_of, jpeg
from gated.daemon.writer import Job
from gated.lane.commands import KeepPicture
from gated.lane.events import Now
from gated.wire.facts import ATTACHMENT_BYTES_MAX, PART_BYTES_MAX, AttachmentPart
from models.yunet import Face
from tests.hw_sim import virtual

NOW = Now(50.0, datetime(2026, 11, 20, 8, 0, tzinfo=UTC))
FACE = "entry_face"


def noise(rows: int, columns: int) -> Any:
    """A picture that cannot be made small: nothing in it is like its neighbour."""
    return np.random.default_rng(7).integers(0, 256, (rows, columns, 3), np.uint8)


def candidate(image: Any, box: tuple[float, float, float, float] | None = (40, 30, 20, 24)) -> Candidate:
    face = None if box is None else Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 0.9)
    return Candidate(40.0, image, Look(1, 0.8, True, None, face))


def decoded(picture: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)


# -- one picture ---------------------------------------------------------------------------------------------------


def test_a_case_is_the_whole_frame_as_it_was() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, :320] = (200, 40, 90)
    shown = decoded(jpeg(candidate(image), CASE))
    assert shown.shape == image.shape
    assert int(np.abs(shown.astype(int) - image.astype(int)).max()) < 40 and abs(int(shown[10, 10, 0]) - 200) < 4


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((40, 30, 20, 24), (48, 40)),
        ((0, 0, 20, 24), (36, 30)),
        ((90, 70, 20, 20), (20, 20)),
        ((-5, -5, 400, 400), (80, 100)),
    ],
)
def test_an_entry_face_is_the_face_with_a_margin_and_nothing_else(box: Any, shape: tuple[int, int]) -> None:
    image = noise(80, 100)
    assert face_of(image, candidate(image, box)).shape[:2] == shape
    assert decoded(jpeg(candidate(image, box), FACE)).shape[:2] == shape


def test_of_a_frame_without_a_face_there_is_no_entry_face() -> None:
    with pytest.raises(ValueError, match="no face near"):
        jpeg(candidate(noise(10, 10), None), FACE)


@pytest.mark.parametrize("shape", [(480, 640), (1200, 1600), (2160, 3840), (4000, 300), (1, 5000), (1, 1)])
def test_whatever_the_camera_gives_it_fits(shape: tuple[int, int]) -> None:
    picture = jpeg(candidate(noise(*shape)), CASE)
    assert 0 < len(picture) <= ATTACHMENT_BYTES_MAX
    shown = decoded(picture)
    assert shown is not None and max(shown.shape[:2]) <= TRIES[0][0]
    assert max(shown.shape[:2]) >= min(TRIES[-1][0], max(shape)), "no coarser than the coarsest try"


def test_the_first_try_that_fits_is_taken() -> None:
    """A picture that is easy keeps its size; one that is hard loses some, and no more than it must."""
    easy = np.zeros((1200, 1600, 3), np.uint8)
    assert decoded(jpeg(candidate(easy), CASE)).shape == easy.shape
    hard = decoded(jpeg(candidate(noise(1200, 1600)), CASE))
    sides = [side for side, _ in TRIES]
    at = sides.index(max(hard.shape[:2]))
    assert at > 0
    finer = cv2.resize(noise(1200, 1600), (sides[at - 1], sides[at - 1] * 3 // 4), interpolation=cv2.INTER_AREA)
    done, coded = cv2.imencode(".jpg", finer, (cv2.IMWRITE_JPEG_QUALITY, TRIES[at - 1][1]))
    assert done and coded.size > ATTACHMENT_BYTES_MAX


def test_a_limit_that_nothing_meets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gated.daemon.pictures.ATTACHMENT_BYTES_MAX", 100)
    with pytest.raises(TooLarge):
        jpeg(candidate(noise(480, 640)), CASE)


def test_it_says_nothing_but_what_it_shows() -> None:
    """No camera, no time, no comment: the frame's own markers alone."""
    picture, at, seen = jpeg(candidate(noise(48, 64)), CASE), 2, set[int]()
    assert picture[:2] == b"\xff\xd8" and picture[-2:] == b"\xff\xd9"
    while picture[at + 1] != 0xDA:
        assert picture[at] == 0xFF
        seen.add(picture[at + 1])
        at += 2 + int.from_bytes(picture[at + 2 : at + 4])
    assert not seen & {0xE1, 0xE2, 0xED, 0xFE}, f"{sorted(map(hex, seen))}"


def test_buffers_that_were_made_for_it_are_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    encode, resize = cv2.imencode, cv2.resize

    def encoded(*given: Any) -> Any:
        made.append((result := encode(*given))[1])
        return result

    def resized(*given: Any, **how: Any) -> Any:
        made.append(result := resize(*given, **how))
        return result

    monkeypatch.setattr(cv2, "imencode", encoded)
    monkeypatch.setattr(cv2, "resize", resized)
    image = noise(1200, 1600)
    before = image.copy()
    assert jpeg(candidate(image), CASE)
    assert len(made) > 3 and not any(each.any() for each in made)
    assert np.array_equal(image, before), "the frame is the matcher's, and may be compared again"
    made.clear()

    def cut(*given: Any) -> Any:
        made.append(face := face_of(*given))
        return face

    monkeypatch.setattr("gated.daemon.pictures.face_of", cut)
    assert jpeg(candidate(image), FACE)
    assert len(made) == 2 and not any(each.any() for each in made), "the face, and its code"
    assert np.array_equal(image, before)


# -- handed over ---------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """Does what it is given once it may; `broken`: raises."""

    faces: Any = None
    fingers: Any = None
    may: asyncio.Event | None = None
    broken: bool = False
    kinds: list[str] = field(default_factory=list)

    async def run(self, kind: str, work: Callable[..., Any], *args: Any) -> Any:
        self.kinds.append(kind)
        if self.may is not None:
            await self.may.wait()
        if self.broken:
            raise cv2.error("a name")
        return work(*args)

    def close(self) -> None:
        raise NotImplementedError


@dataclass
class Rig:
    """Pictures between a matcher and a writer of the test. `frames`: of each ticket, oldest first."""

    worker: Worker = field(default_factory=Worker)
    frames: dict[int, list[Candidate]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pictures = Pictures(self.best, self.worker, self.jobs.append)

    def best(self, ticket: int, since_mono: float) -> Candidate | None:
        return next((each for each in self.frames.get(ticket, []) if each.mono >= since_mono), None)

    def keep(self, ticket: int = 1, what: str = CASE, since_mono: float = 0.0) -> None:
        self.pictures.keep(KeepPicture(ticket, what, 7, since_mono), NOW)

    @property
    def parts(self) -> list[AttachmentPart]:
        assert all(type(job.fact) is AttachmentPart for job in self.jobs)
        return [job.fact for job in self.jobs if isinstance(job.fact, AttachmentPart)]

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with capture_logs() as self.logs:
            virtual.run(scenario())


def test_parts_are_the_picture_and_each_fits_into_a_record() -> None:
    rig = Rig(frames={1: [candidate(noise(480, 640))]})

    async def scenario() -> None:
        rig.keep()
        assert rig.jobs == [], "encoding does not wait in the loop"
        await rig.pictures.finish()

    rig.play(scenario)
    assert rig.worker.kinds == ["picture"], "no other work waits for it"
    parts = rig.parts
    whole = b"".join(part.data for part in parts)
    assert whole == jpeg(rig.frames[1][0], CASE) and len(parts) > 2
    assert [part.part for part in parts] == list(range(1, len(parts) + 1))
    assert {(p.ticket, p.name, p.what, p.media, p.parts, p.size, p.keep_days) for p in parts} == {
        (1, "1-case_picture", CASE, "image/jpeg", len(parts), len(whole), 7)
    }
    assert all(len(part.data) == PART_BYTES_MAX for part in parts[:-1]) and 0 < len(parts[-1].data) <= PART_BYTES_MAX
    assert {job.utc for job in rig.jobs} == {NOW.utc}
    assert rig.logs == []


def test_each_kind_is_made_once_for_a_ticket() -> None:
    rig = Rig(frames={1: [candidate(noise(60, 80))], 2: [candidate(noise(60, 80))]})

    async def scenario() -> None:
        for ticket, what in ((1, CASE), (1, CASE), (1, FACE), (2, CASE), (1, CASE)):
            rig.keep(ticket, what)
        await rig.pictures.finish()
        rig.pictures.forget(1)
        rig.keep(2)
        await rig.pictures.finish()

    rig.play(scenario)
    assert [part.name for part in rig.parts] == ["1-case_picture", "1-entry_face", "2-case_picture"]


def test_what_was_forgotten_meanwhile_is_still_handed_over_and_then_nothing_of_it_is_left() -> None:
    worker = Worker()
    rig = Rig(worker, {1: [candidate(noise(60, 80))]})
    frame = weakref.ref(rig.frames[1][0].image)

    async def scenario() -> None:
        worker.may = asyncio.Event()
        rig.keep()
        rig.frames.clear()  # the matcher wipes at `Forget`, which comes after the command
        rig.pictures.forget(1)
        await asyncio.sleep(1.0)
        assert rig.jobs == []
        worker.may.set()
        await rig.pictures.finish()

    rig.play(scenario)
    assert rig.parts
    gc.collect()
    assert frame() is None


def test_where_there_is_no_frame_a_line_says_so_and_nothing_of_whom() -> None:
    rig = Rig()

    async def scenario() -> None:
        rig.keep(41)
        rig.keep(41, FACE)
        await rig.pictures.finish()
        rig.frames[41] = [candidate(noise(60, 80))]
        rig.keep(41)
        await rig.pictures.finish()

    rig.play(scenario)
    assert [part.name for part in rig.parts] == ["41-case_picture"], "there was one the next time"
    told = [{k: v for k, v in line.items() if k != "log_level"} for line in rig.logs]
    assert told == [{"event": "no picture is kept", "what": what, "why": "no_frame"} for what in (CASE, FACE)]


def test_an_entry_face_is_of_after_the_entry_shut_and_a_case_may_be_older() -> None:
    walking_up = Candidate(10.0, noise(60, 80), candidate(None).look)
    rig = Rig(frames={1: [walking_up]})

    async def scenario() -> None:
        rig.keep(1, FACE, since_mono=20.0)
        rig.keep(1, CASE, since_mono=20.0)
        await rig.pictures.finish()

    rig.play(scenario)
    assert {part.what for part in rig.parts} == {CASE}


def test_an_encoder_that_fails_costs_the_picture_and_says_no_name() -> None:
    rig = Rig(Worker(broken=True), {1: [candidate(noise(60, 80))]})

    async def scenario() -> None:
        rig.keep()
        await rig.pictures.finish()

    rig.play(scenario)
    assert rig.jobs == []
    (line,) = rig.logs
    assert line["event"] == "no picture is kept" and "a name" not in str(line) and "error at" in str(line["why"])


def test_pictures_that_wait_are_bounded() -> None:
    worker = Worker()
    rig = Rig(worker, {ticket: [candidate(noise(60, 80))] for ticket in range(1, 20)})

    async def scenario() -> None:
        worker.may = asyncio.Event()
        for ticket in range(1, 20):
            rig.keep(ticket)
        worker.may.set()
        await rig.pictures.finish()
        rig.keep(19)
        await rig.pictures.finish()

    rig.play(scenario)
    assert [part.ticket for part in rig.parts] == [*range(1, WAITING_MAX + 1), 19]
    assert [line["why"] for line in rig.logs] == ["busy"] * (19 - WAITING_MAX)
