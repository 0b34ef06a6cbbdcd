"""The libfprint driver: its frames, which reader it takes, and the contract in memory and over the real helper."""

import asyncio
import json
import tomllib
import zlib
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from drivers.base import DeviceFault, FingerReader
from drivers.fingerprint.libfprint import Device, Settings
from drivers.links import ByteLink
from drivers.links.fprint_helper import BODY_MAX, HEADER_MAX, Codec, Frame, encode
from gated.lane.events import Touch
from tests.contract.fingerprint import BytesContract, FingerContract, Rig
from tests.fprint import needs_libfprint
from tests.hw_sim import virtual
from tests.hw_sim.fprint_memory import MemoryHelper
from tests.hw_sim.fprint_sensor import VirtualSensor
from tests.hw_sim.touch import Fault, Picture

GOLDEN = tomllib.loads((Path(__file__).parent / "golden/fingerprint_libfprint.toml").read_text())


# -- frames


@pytest.mark.parametrize("vector", GOLDEN["frame"], ids=lambda vector: vector["cite"][:30])
def test_golden_frames_both_ways(vector: dict[str, str]) -> None:
    body = bytes.fromhex(vector["body"])
    raw = bytes.fromhex(vector["before"]) + vector["header"].encode() + body
    frame = Frame(json.loads(vector["header"]), body)
    assert encode(frame) == raw
    for size in (1, 7, len(raw)):
        codec, found = Codec(), []
        for at in range(0, 2 * len(raw), size):
            found += codec.feed((raw + raw)[at : at + size])
        assert found == [frame, frame] and codec.skipped == codec.held == 0


@pytest.mark.parametrize("vector", GOLDEN["refused"], ids=lambda vector: vector["cite"])
def test_golden_bytes_that_are_no_frame(vector: dict[str, str]) -> None:
    codec, good = Codec(), Frame({"say": "pong", "id": 1})
    assert codec.feed(bytes.fromhex(vector["bytes"])) == [] and codec.skipped > 0
    found = codec.feed(encode(good))
    assert found == [good], "a good frame after it is found"


def test_the_codec_never_raises_and_never_keeps_more_than_a_frame() -> None:
    random = Random(11)
    good = encode(Frame({"say": "picture", "id": 1}, bytes(500)))
    for _ in range(400):
        codec = Codec()
        for _ in range(20):
            data = bytearray(good)
            for _ in range(random.randrange(4)):
                data[random.randrange(len(data))] = random.randrange(256)
            codec.feed(bytes(data[: random.randrange(len(data) + 1)]))
            assert codec.held <= 16 + HEADER_MAX + BODY_MAX
    deep = b"[" * HEADER_MAX
    codec = Codec()
    assert codec.feed(encode(Frame({}))[:4] + _lengths(deep) + deep) == [] and codec.skipped > 0


def _lengths(header: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + bytes(4) + zlib.crc32(header).to_bytes(4, "big")


# -- settings, and which reader is taken


@pytest.mark.parametrize(
    "wrong",
    [
        {"scan_type": "swipe"},
        {"libfprint_min": "new"},
        {"firmware_min": "1."},
        {"start_s_max": 0.0},
        {"answer_s_max": -1.0},
        {"ppi": -500.0},
        {"python": "python3"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


async def came_of(settings: Settings, helper: MemoryHelper) -> str:
    """ "ready", or the fault and its text."""
    rig = Rig(Device(settings, helper.link), helper, helper)
    async with rig:
        assert rig.ears.run is not None
        await asyncio.wait((rig.ears.run,), timeout=5.0)
        if rig.ears.run.done():
            with pytest.raises(DeviceFault) as caught:
                await rig.ears.run
            return str(caught.value)
        await rig.ready()
        return "ready"


TWO = [
    {"driver": "uru4000", "device": "0", "port": "usb:01:02", "firmware": "1.03", "scan": "press", "pictures": True},
    {"driver": "uru4000", "device": "0", "port": "usb:01:03", "firmware": "1.03", "scan": "press", "pictures": True},
]


@pytest.mark.parametrize(
    ("settings", "reader", "says"),
    [
        ({}, {}, "ready"),
        ({"reader": "uru4000", "device": "0"}, {}, "ready"),
        ({"device": "usb:01:00:02"}, {}, "ready"),
        ({"reader": "elan"}, {}, "wrong_model: no elan, but uru4000 usb:01:00:02"),
        (
            {},
            {"pictures": False},
            "wrong_model: uru4000 gives no pictures: it compares prints enrolled on its own",
        ),
        ({}, {"scan": "swipe"}, "wrong_model: uru4000 is a swipe sensor"),
        ({"scan_type": "any"}, {"scan": "swipe"}, "ready"),
        ({"firmware_min": "1.3"}, {}, "ready"),
        ({"firmware_min": "1.10"}, {}, "stale_firmware: uru4000: 1.03 < 1.10"),
        ({"firmware_min": "1.0"}, {"firmware": ""}, "stale_firmware: uru4000: none < 1.0"),
        ({"libfprint_min": "1.94.5"}, {}, "ready"),
        ({"libfprint_min": "1.94.10"}, {}, "stale_firmware: libfprint 1.94.5 is below 1.94.10"),
    ],
)
def test_the_reader_that_was_ordered_or_none(settings: dict[str, Any], reader: dict[str, Any], says: str) -> None:
    assert virtual.run(came_of(Settings(**settings), MemoryHelper(**reader))).startswith(says)


def test_two_readers_are_told_apart_or_nothing_starts() -> None:
    helper = MemoryHelper()
    helper.found = TWO
    told = virtual.run(came_of(Settings(), helper))
    assert told == "several_readers: uru4000 usb:01:02, uru4000 usb:01:03: say which with reader and device"
    helper = MemoryHelper()
    helper.found = TWO
    assert virtual.run(came_of(Settings(device="usb:01:03"), helper)) == "ready"
    helper = MemoryHelper()
    helper.found = []
    assert virtual.run(came_of(Settings(), helper)).startswith("no_reader")
    helper.usb = False
    assert virtual.run(came_of(Settings(), helper)).startswith("no_libusb")


# -- the contract

SHAPE = (160, 128)


@cache
def print_of(seed: int) -> Picture:
    """Waves in which ridges end: libfprint keeps a picture to itself when it finds no minutia in it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    angle = random.uniform(0.0, np.pi)
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 9.0
    for turn in (1, -1) * 6:
        phase += turn * np.arctan2(y - random.uniform(20, SHAPE[0] - 20), x - random.uniform(20, SHAPE[1] - 20))
    grey: Picture = np.clip(128 + 100 * np.sin(phase) + random.normal(0, 4, SHAPE), 0, 255).astype(np.uint8)
    return grey


class TestInMemory(BytesContract):
    shape = SHAPE
    ppi = 500.0
    scan_s = 0.2
    lasting = MappingProxyType({Fault.STALE_FIRMWARE: "stale_firmware", Fault.WRONG_MODEL: "wrong_model"})
    spoils = (Fault.HALF, Fault.GARBLE)

    def picture(self, seed: int) -> Picture:
        return print_of(seed)

    def over(self, wrap: Callable[[ByteLink], ByteLink]) -> Rig:
        helper = MemoryHelper()
        settings = Settings(libfprint_min="1.94", width=SHAPE[1], height=SHAPE[0])
        device: FingerReader = Device(settings, wrap(helper.link))
        return Rig(device, helper, helper)

    def real(self) -> Rig:
        needs_libfprint()
        sensor = VirtualSensor()
        settings = Settings(reader="virtual_image", scan_type="any", width=SHAPE[1], height=SHAPE[0], alive_every_s=0.3)
        return Rig(Device(settings, sensor.link), sensor, sensor)

    def test_a_picture_of_another_size_is_a_fault(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                rig.sensor.suffer(Fault.WRONG_SIZE)
                scan = rig.task(rig.device.scan())
                await rig.sensor.touch(self.picture(1))
                assert await rig.fault() == "wrong_size"
                await self.lost(scan)

        self.play(walk())

    @pytest.mark.parametrize(
        ("ppmm", "ppi", "told"), [(0.0, 0.0, 500.0), (19.685, 0.0, 500.0), (20.16, 0.0, 512.1), (0.0, 512.0, 512.0)]
    )
    def test_resolution(self, ppmm: float, ppi: float, told: float) -> None:
        async def walk() -> None:
            helper = MemoryHelper(ppmm=ppmm)
            async with Rig(Device(Settings(ppi=ppi), helper.link), helper, helper) as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                assert (await rig.device.scan()).ppi == told

        virtual.run(walk())

    def test_a_reader_mounted_upside_down(self) -> None:
        async def walk() -> None:
            helper = MemoryHelper()
            async with Rig(Device(Settings(upside_down=True), helper.link), helper, helper) as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1)[::-1, ::-1])
                assert np.array_equal((await rig.device.scan()).image, self.picture(1))

        virtual.run(walk())

    def test_a_hot_reader_rests(self) -> None:
        async def walk() -> None:
            loop, helper = asyncio.get_running_loop(), MemoryHelper()
            async with Rig(Device(Settings(cool_s=60.0), helper.link), helper, helper) as rig:
                await rig.ready()
                helper.fail = "too_hot"
                with pytest.raises(DeviceFault):
                    await rig.device.scan()
                assert await rig.fault() == "too_hot"
                hot = loop.time()
                await rig.again()
                assert 60.0 <= loop.time() - hot < 61.0

        virtual.run(walk())

    @pytest.mark.parametrize(
        "said",
        [
            {"say": "picture", "id": 2, "mono": 1.0, "width": 3, "height": 1, "ppmm": 0.0},
            {"say": "picture", "id": 2, "mono": 1.0, "width": "2", "height": 1, "ppmm": 0.0},
            {"say": "picture", "id": 2, "mono": 1.0, "width": 5000, "height": 1, "ppmm": 0.0},
            {"say": "picture", "id": 2, "mono": 1.0, "width": 2, "height": 1},
            {"say": "picture", "id": 2, "width": 2, "height": 1, "ppmm": 0.0},
            {"say": "retry", "id": 2, "mono": None},
            {"say": "lifted", "id": 2},
            {"say": "failed"},
            {"say": "failed", "why": None, "text": 7},
        ],
    )
    def test_what_a_helper_may_say_wrong_is_a_fault_of_the_device(self, said: dict[str, Any]) -> None:
        async def walk() -> None:
            helper = MemoryHelper()
            async with Rig(Device(Settings(), helper.link), helper, helper) as rig:
                await rig.ready()
                scan = rig.task(rig.device.scan())
                await asyncio.sleep(0.1)
                await helper._say(said, b"\0\0")
                assert await rig.fault()
                await self.lost(scan)

        virtual.run(walk())

    @pytest.mark.parametrize(
        "hello", [{"protocol": 2}, {"protocol": 1}, {"protocol": 1, "readers": [{}]}, {"protocol": 1, "readers": 3}]
    )
    def test_a_helper_of_another_kind(self, hello: dict[str, Any]) -> None:
        class Other(MemoryHelper):
            async def _say(self, header: dict[str, Any], body: bytes = b"") -> None:
                await super()._say({"say": "hello", **hello})

        assert virtual.run(came_of(Settings(), Other())).startswith("wrong_helper")


@pytest.mark.slow
class TestOverTheRealHelper(FingerContract):
    """All of it in real time: driver, link, helper under the system's Python, libfprint, virtual_image, mirror."""

    shape = SHAPE
    ppi = 500.0
    scan_s = 0.02

    def play(self, walk: Coroutine[Any, Any, None]) -> None:
        asyncio.run(walk)

    def picture(self, seed: int) -> Picture:
        return print_of(seed)

    def rig(self) -> Rig:
        needs_libfprint()
        sensor = VirtualSensor()
        settings = Settings(scan_type="any", alive_every_s=0.3, answer_s_max=1.0, start_s_max=5.0)
        return Rig(Device(settings, sensor.link), sensor, sensor)

    real = rig


# -- what only the real chain can show


def real_rig(**settings: Any) -> Rig:
    needs_libfprint()
    sensor = VirtualSensor()
    return Rig(Device(Settings(scan_type="any", **settings), sensor.link), sensor, sensor)


def test_the_real_chain_wants_a_press_sensor_unless_told_otherwise() -> None:
    """libfprint's virtual_image says of itself that it is a swipe sensor."""
    needs_libfprint()
    sensor = VirtualSensor()

    async def walk() -> None:
        async with Rig(Device(Settings(), sensor.link), sensor, sensor) as rig:
            assert await rig.fault() == "wrong_model"

    asyncio.run(walk())


def test_the_real_chain_advises_waits_for_the_finger_to_go_and_is_plugged_again() -> None:
    async def walk() -> None:
        async with real_rig(libfprint_min="1.90") as rig:
            await rig.ready()
            rig.sensor.suffer(Fault.MESSY)
            await rig.sensor.touch(print_of(1))
            told = await asyncio.wait_for(rig.device.scan(), 10.0)
            assert told.advice == Touch.CENTRE_FINGER.value and told.image is None
            lifted = rig.task(rig.device.lifted())
            await asyncio.sleep(0.8)
            assert not lifted.done(), "the finger still lies on"
            await rig.sensor.lift()
            await asyncio.wait_for(lifted, 10.0)
            await rig.sensor.touch(np.full(SHAPE, 255, np.uint8))
            told = await asyncio.wait_for(rig.device.scan(), 10.0)
            assert told.advice == Touch.LIFT_FINGER.value, "libfprint finds no ridges and keeps the picture"
            await rig.sensor.lift()
            rig.cable.unplug()
            assert await rig.fault() == "gone"
            rig.start()
            assert await rig.fault() == "no_reader"
            rig.cable.plug()
            await rig.again()
            await rig.sensor.touch(print_of(2))
            told = await asyncio.wait_for(rig.device.scan(), 10.0)
            assert np.array_equal(told.image, print_of(2)) and told.ppi == 500.0

    asyncio.run(walk())


def test_the_real_chain_cancels_and_takes_the_finger_that_lies_there() -> None:
    async def walk() -> None:
        async with real_rig() as rig:
            await rig.ready()
            for seed in (1, 2, 3):
                scan = rig.task(rig.device.scan())
                await asyncio.sleep(0.05 * seed)
                scan.cancel()
                await rig.sensor.touch(print_of(seed))
                told = await asyncio.wait_for(rig.device.scan(), 10.0)
                assert np.array_equal(told.image, print_of(seed))
                again = await asyncio.wait_for(rig.device.scan(), 10.0)
                assert np.array_equal(again.image, print_of(seed)) and again.mono > told.mono
                await rig.sensor.lift()
                await asyncio.wait_for(rig.device.lifted(), 10.0)

    asyncio.run(walk())
