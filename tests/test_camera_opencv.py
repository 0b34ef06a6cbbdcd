"""The camera: its contract over memory and over HTTP MJPEG, files, passwords in addresses, threads, and latency."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivers.base import Camera, Frame
from drivers.camera.opencv import Device, Settings, sample
from drivers.links import LinkLost, video
from drivers.links.sources import Kind, kind_of
from drivers.links.video import OpenCvLink
from gated.daemon.links import real
from tests.contract.camera import BLACK_S_MAX, FREEZE_S_MAX, HEIGHT, TIMEOUT_S, WIDTH, CameraContract, Scenario
from tests.contract.ears import running
from tests.hw_sim import virtual
from tests.hw_sim.video import Fault, MemoryVideo, MjpegServer, noisy

SETTINGS = Settings(
    source="http://127.0.0.1/",
    width=WIDTH,
    height=HEIGHT,
    open_timeout_s=TIMEOUT_S,
    read_timeout_s=TIMEOUT_S,
    latency_s=0.0,
    freeze_s_max=FREEZE_S_MAX,
    black_s_max=BLACK_S_MAX,
)
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class MemoryCamera:
    def __init__(self) -> None:
        pictures = itertools.cycle([noisy(GREY, seed) for seed in range(2)])
        self.link = MemoryVideo(lambda: next(pictures), read_timeout_s=TIMEOUT_S, size=(WIDTH, HEIGHT))

    async def fault(self, fault: Fault | None) -> None:
        self.link.fault = fault


class TestOverMemory(CameraContract):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            rig = MemoryCamera()
            await scenario(rig, Device(SETTINGS, rig.link))

        virtual.run(main())


class TestOverHttp(CameraContract):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            async with MjpegServer(fps=25, size=(WIDTH, HEIGHT)) as server:
                settings = replace(SETTINGS, source=server.url)
                camera: Camera = Device(settings, real("camera", settings))
                await scenario(server, camera)

        asyncio.run(main())


def test_tokens_of_the_simulated_world_are_handed_through_unjudged() -> None:
    async def main() -> None:
        token = object()
        camera = Device(replace(SETTINGS, latency_s=0.25), MemoryVideo(lambda: token))
        async with running(camera) as ears:
            await asyncio.sleep(10 * FREEZE_S_MAX)
            now = asyncio.get_running_loop().time()
            frame = await camera.next(now)
            assert frame.image is token and ears.run is not None and not ears.run.done()
            assert asyncio.get_running_loop().time() - frame.mono == pytest.approx(0.25)

    virtual.run(main())


def test_a_broken_picture_in_between_does_no_harm() -> None:
    async def main() -> None:
        async with MjpegServer(fps=25, size=(WIDTH, HEIGHT)) as server:
            await server.fault(Fault.GARBAGE)
            settings = replace(SETTINGS, source=server.url)
            camera = Device(settings, real("camera", settings))
            async with running(camera) as ears:
                mono = float("-inf")
                for _ in range(6):
                    mono = (await camera.next(mono)).mono
                assert ears.run is not None and not ears.run.done()

    asyncio.run(main())


def test_what_is_shown_arrives_and_how_late(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[float]:
        late: list[float] = []
        async with MjpegServer(fps=30, size=(640, 480)) as server:
            link = OpenCvLink(server.url, 1.0, 1.0)
            await link.open()
            for bright in (220, 40, 220, 40, 220, 40):
                server.show(np.full((480, 640, 3), bright, np.uint8))
                asked = time.monotonic()
                async with asyncio.timeout(2):
                    while abs((await link.read()).image.mean() - bright) > 20:
                        pass
                late.append(time.monotonic() - asked)
                await asyncio.sleep(0.01)
            await link.close()
        return late

    late = asyncio.run(main())
    ms = ", ".join(f"{s * 1000:.0f}" for s in late)
    with capsys.disabled():
        print(f"\nMJPEG 640x480 at 30/s, `show` to `read` with the wait for the next picture: {ms} ms")


# -- what a source is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", Kind.V4L2),
        ("/dev/video2", Kind.V4L2),
        ("http://10.0.0.5/mjpg", Kind.NETWORK),
        ("rtsp://10.0.0.5/1", Kind.NETWORK),
        ("walk.mp4", Kind.FILE),
        ("file:///walk.mp4", Kind.FILE),
    ],
)
def test_kind_of_source(source: str, kind: Kind) -> None:
    assert kind_of(source) is kind


@pytest.mark.parametrize("source", ["no_such.mp4", "77", "/dev/video77", "http://127.0.0.1:1/", "rtsp://127.0.0.1:1/"])
def test_what_is_not_there_is_lost_at_once(source: str) -> None:
    async def main() -> None:
        link = OpenCvLink(source, 2.0, 2.0)
        began = time.monotonic()
        with pytest.raises(LinkLost, match="cannot_open"):
            await link.open()
        assert time.monotonic() - began < 1.5
        await link.close()
        with pytest.raises(LinkLost, match="not_open"):
            await link.read()

    asyncio.run(main())


def test_a_password_in_the_address_is_never_said(capfd: pytest.CaptureFixture[str]) -> None:
    settings = replace(SETTINGS, source="http://lane:hunter2@127.0.0.1:1/mjpg?key=hunter3")

    async def main() -> None:
        async with running(Device(settings, real("camera", settings)), ready=False) as ears:
            lost = await ears.fault()
            assert "127.0.0.1:1/mjpg" in str(lost)
            assert "hunter" not in str(lost) + repr(lost) + repr(settings)

    asyncio.run(main())
    out, err = capfd.readouterr()
    assert "hunter" not in out + err


# -- files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Ten pictures at 20 a second, each brighter than the one before."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), 20 + 20 * number, np.uint8))
    writer.release()
    return path


async def _read(link: OpenCvLink, count: int) -> list[Frame]:
    await link.open()
    try:
        return [await link.read() for _ in range(count)]
    finally:
        await link.close()


def test_a_file_runs_at_its_own_pace_and_ends(film: Path) -> None:
    async def main() -> None:
        link = OpenCvLink(str(film), repeat=False)
        await link.open()
        frames: list[Frame] = []
        with pytest.raises(LinkLost, match="end_of_file"):
            while True:
                frames.append(await link.read())
        await link.close()
        numbers = [round((float(frame.image.mean()) - 20) / 20) for frame in frames]
        assert numbers == sorted(set(numbers)) and numbers[0] <= 2 and numbers[-1] == 9
        took_s = frames[-1].mono - frames[0].mono
        assert took_s == pytest.approx((9 - numbers[0]) / 20, abs=0.15)

    asyncio.run(main())


def test_a_file_in_a_laboratory_starts_again(film: Path) -> None:
    async def main() -> None:
        settings = Settings(source=str(film), allow_file=True, fps=100.0)
        link = real("camera", settings)
        assert isinstance(link, OpenCvLink)
        frames = await _read(link, 25)
        means = [float(frame.image.mean()) for frame in frames]
        assert sum(later < earlier for earlier, later in itertools.pairwise(means)) >= 2

    asyncio.run(main())


def test_a_gate_takes_no_file(film: Path) -> None:
    with pytest.raises(ValueError, match="allow_file"):
        Settings(source=str(film))


def test_a_network_stream_is_thinned_to_the_rate_asked_for() -> None:
    async def main() -> None:
        async with MjpegServer(fps=50, size=(64, 48)) as server:
            frames = await _read(OpenCvLink(server.url, fps=10.0), 5)
            assert frames[-1].mono - frames[0].mono >= 4 / 10 * 0.8

    asyncio.run(main())


# -- the thread -----------------------------------------------------------------------------------------------


def test_a_capture_that_hangs_is_left_alone_and_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "END_S_MAX", 0.05)
    monkeypatch.setattr(video, "OPEN_GUARD_S", 0.05)
    go_on = threading.Event()

    class Hanging(OpenCvLink):
        def _open(self) -> video._Source:
            go_on.wait(5)
            raise LinkLost("cannot_open")

    async def main() -> None:
        link = Hanging("0", 0.2, 0.05)
        before = threading.active_count()
        with pytest.raises(LinkLost, match="open_timeout"):
            await link.open()
        for _ in range(3):
            with pytest.raises(LinkLost, match="capture_stuck"):
                await link.open()
        assert threading.active_count() == before + 1
        go_on.set()
        await asyncio.sleep(0.05)
        with pytest.raises(LinkLost, match="cannot_open"):
            await link.open()
        await link.close()

    asyncio.run(main())


def test_a_read_that_hangs_is_told_by_the_loops_own_guard() -> None:
    """V4L2 knows no time-outs."""
    go_on = threading.Event()

    class Video:
        def grab(self) -> bool:
            return go_on.wait(5) and False

        def release(self) -> None:
            pass

    class Silent(OpenCvLink):
        def _open(self) -> video._Source:
            return video._Source(Video(), 10.0)

    async def main() -> None:
        link = Silent("0", 1.0, 0.1)
        await link.open()
        began = time.monotonic()
        with pytest.raises(LinkLost, match="read_timeout"):
            await link.read()
        assert time.monotonic() - began < 1.0
        go_on.set()
        await link.close()

    asyncio.run(main())


def test_closing_is_idempotent_and_a_closed_link_opens_again() -> None:
    async def main() -> None:
        async with MjpegServer(fps=25, size=(64, 48)) as server:
            link = OpenCvLink(server.url, 1.0, 1.0)
            await link.close()
            for _ in range(3):
                assert len(await _read(link, 2)) == 2
                await link.close()

    asyncio.run(main())


# -- judging --------------------------------------------------------------------------------------------------


def test_sample_of_a_picture() -> None:
    one, same, other = sample(GREY), sample(GREY.copy()), sample(noisy(GREY))
    assert one is not None and one == same and one.mean == 128 and one.std == 0
    assert other is not None and other.digest != one.digest
    assert sample("token") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"read_timeout_s": 0.0}, "read_timeout_s"),
        ({"freeze_s_max": -1.0}, "freeze_s_max"),
        ({"width": -1}, "width"),
        ({"latency_s": -0.1}, "latency_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SETTINGS, **change)  # type: ignore[arg-type]
