"""The USB image reader: what a recorded reader said, the contract in memory and over pyusb, and what goes wrong."""

import asyncio
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import DeviceFault
from drivers.fingerprint import usb_image
from drivers.fingerprint.usb_image import Device, Settings, parse, straight, unscramble, whole
from drivers.links import LinkLost, UsbLink
from drivers.links.usb import UsbDevice
from gated.lane.events import Touch
from tests.contract.fingerprint import LONG_S, FingerContract, Rig
from tests.hw_sim import uru_reader, virtual
from tests.hw_sim.touch import Fault, Picture
from tests.hw_sim.uru_reader import UruReader
from tests.hw_sim.usb_backend import SocketBackend, UsbPort
from tests.hw_sim.usb_links import MemoryUsb, RoughUsb

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "fingerprint_usb_image.toml").read_text())
SHAPE = (96, 80)
"""Small pictures make quick tests."""
SMALL = Settings(width=80, height=96, straighten=False, firmware_min=0x0034, alive_every_s=0.5)


def small(random: Random) -> UruReader:
    return UruReader(random, 80, 96)


class RawContract(FingerContract):
    """Pictures as they are sent."""

    shape = SHAPE
    ppi = 512.0
    scan_s = 0.16
    lasting: Mapping[Fault, str] = {Fault.STALE_FIRMWARE: "stale_firmware", Fault.WRONG_MODEL: "wrong_model"}
    spoils = (Fault.HALF,)
    advises = False

    def link(self, reader: UruReader) -> UsbLink:
        return MemoryUsb(reader)

    def rig(self) -> Rig:
        reader = small(Random(4))
        return Rig(Device(SMALL, self.link(reader)), reader, reader)

    def real(self) -> Rig:
        folder = Path(tempfile.mkdtemp(prefix="usb"))
        self.folders.append(folder)
        reader = small(Random(4))
        link = UsbDevice(0x05BA, 0x000A, backend=SocketBackend(folder))
        return Rig(Device(SMALL, link), reader, UsbPort(reader, folder / "1"))

    @pytest.fixture(autouse=True)
    def _tidy(self) -> Any:
        self.folders: list[Path] = []
        yield
        for folder in self.folders:
            shutil.rmtree(folder)

    def picture(self, seed: int) -> Picture:
        """One that survives: the line that is left out is like its neighbour, and so is the grey that a block loses."""
        picture = super().picture(seed)
        picture[54] = picture[55]
        picture[:, 0] = picture[:, 1]
        return picture


class TestRaw(RawContract):
    """The contract."""

    @pytest.mark.parametrize("loss", [0.0, 0.05])
    def test_late_and_cut_transfers(self, loss: float) -> None:
        async def walk() -> None:
            random = Random(9)
            reader = small(random)
            async with Rig(Device(SMALL, RoughUsb(reader, random, loss)), reader, reader) as rig:
                await rig.ready()
                for seed in range(1, 9):
                    await rig.sensor.touch(self.picture(seed))
                    try:
                        told = await asyncio.wait_for(rig.device.scan(), LONG_S)
                        self.right_or_advice(told, self.picture(seed))
                        assert loss or told.advice is None
                        await self.take_off(rig)
                    except DeviceFault:
                        assert loss and await rig.fault() in ("half_image", "no_image", "wrong_size")
                        await rig.again()

        virtual.run(walk())

    def test_a_picture_of_another_size_ends_the_run(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                rig.sensor.suffer(Fault.WRONG_SIZE)
                await rig.sensor.touch(self.picture(1))
                await self.lost(rig.task(rig.device.scan()))
                assert await rig.fault() == "wrong_size"

        virtual.run(walk())

    def test_three_halves_in_a_row_are_a_fault(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                for _ in range(2):
                    rig.sensor.suffer(Fault.HALF)
                    told = await asyncio.wait_for(rig.device.scan(), SMALL.image_s_max / 2)
                    assert told.image is None and told.advice == Touch.HOLD_FINGER.value
                rig.sensor.suffer(Fault.HALF)
                await self.lost(rig.task(rig.device.scan()))
                assert await rig.fault() == "half_image"

        virtual.run(walk())

    def test_what_it_said_to_somebody_who_left_is_not_told_to_the_next(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                reader = rig.sensor
                assert isinstance(reader, UruReader)
                await rig.ready()
                await reader.touch(self.picture(1))
                first = rig.task(rig.device.lifted())
                await asyncio.sleep(0.3)
                first.cancel()
                await asyncio.sleep(0.01)
                reader.say(uru_reader.OFF)  # it was on its way
                second = rig.task(rig.device.lifted())
                await asyncio.sleep(1.0)
                assert not second.done(), "a finger lies on"
                await reader.lift()
                await asyncio.wait_for(second, LONG_S)

        virtual.run(walk())

    def test_a_picture_that_nobody_took_is_not_the_next_passengers(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                reader = rig.sensor
                assert isinstance(reader, UruReader)
                reader.repeats = True
                await rig.ready()
                for seed in (1, 2, 3):
                    await self.place(rig, seed)

        virtual.run(walk())

    @pytest.mark.parametrize("why", ["death", "stalled", "wrong_model", "lost_power"])
    def test_what_else_ends_the_run_and_the_next_run_works(self, why: str) -> None:
        async def walk() -> None:
            reader = small(Random(4))
            async with Rig(Device(SMALL, MemoryUsb(reader)), reader, reader) as rig:
                await rig.ready()
                reader.refuses, reader.encrypted = why == "stalled", why == "wrong_model"
                scan = rig.task(rig.device.scan())
                await asyncio.sleep(0.3)
                if why == "death":
                    reader.say(uru_reader.DEATH)
                elif why == "lost_power":
                    reader.unplug()
                    reader.plug()
                    await reader.control(0x40, 4, 0x07, b"\x80", 0)
                else:
                    await reader.touch(self.picture(1))
                await self.lost(scan)
                assert await rig.fault() == why
                reader.encrypted = False
                await reader.lift()
                await rig.plug()
                await rig.again()
                await self.place(rig, 2)

        virtual.run(walk())

    def test_a_confused_reader_is_brought_to_its_senses(self) -> None:
        async def walk() -> None:
            reader = small(Random(4))
            reader.confused = True
            async with Rig(Device(SMALL, MemoryUsb(reader)), reader, reader) as rig:
                await rig.ready()
                await self.place(rig, 1)

        virtual.run(walk())

    def test_an_open_picture_is_taken_as_it_is(self) -> None:
        async def walk() -> None:
            reader = UruReader(Random(4), 80, 96, scrambled=False)
            async with Rig(Device(SMALL, MemoryUsb(reader)), reader, reader) as rig:
                await rig.ready()
                await self.place(rig, 1)
                assert 0x33 not in [register for register, _ in reader.written]

        virtual.run(walk())

    def test_dark_when_nobody_asks(self) -> None:
        """The last mode that is written is always "off", also where `run` is cancelled."""

        async def walk() -> None:
            async with self.rig() as rig:
                reader = rig.sensor
                assert isinstance(reader, UruReader)
                await rig.ready()
                for ending in ("told", "given up", "cancelled"):
                    scan = rig.task(rig.device.scan())
                    await asyncio.sleep(0.3)
                    assert reader.written[-1] == (0x4E, b"\x10")
                    if ending == "told":
                        await self.touch_and_wait(rig, scan)
                    (rig.ears.run if ending == "cancelled" and rig.ears.run else scan).cancel()
                    await asyncio.sleep(0.3)
                    assert reader.written[-1] == (0x4E, b"\x70")

        virtual.run(walk())

    async def touch_and_wait(self, rig: Rig, scan: "asyncio.Task[Any]") -> None:
        await rig.sensor.touch(self.picture(1))
        await asyncio.wait_for(scan, LONG_S)
        await rig.sensor.lift()


# -- the glass seen from above


def finger(seed: int) -> Picture:
    """Ridges that turn round a core, in the field that the optics see."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:355, :328].astype(float)
    cx, cy = 164 + random.uniform(-20, 20), 180 + random.uniform(-20, 20)
    radius = np.hypot(x - cx, (y - cy) * 0.8)
    grey = 128 + 100 * np.sin(radius * 2 * np.pi / 9.0 + random.uniform(0, 6))
    grey[radius > 130] = 255
    return np.asarray(cv2.GaussianBlur(grey.astype(np.uint8), (3, 3), 0), np.uint8)


def alike(one: Picture, other: Picture) -> float:
    """Correlation of two pictures."""
    return float(np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1])


@pytest.mark.parametrize("turned", [False, True])
def test_a_finger_is_seen_from_above(turned: bool) -> None:
    """The mirror's camera and the driver's way back were derived apart."""

    async def walk() -> None:
        reader = UruReader(Random(2), aslant=True)
        async with Rig(Device(Settings(upside_down=turned), MemoryUsb(reader)), reader, reader) as rig:
            await rig.ready()
            picture = finger(3)
            await reader.touch(picture)
            told = await asyncio.wait_for(rig.device.scan(), LONG_S)
            assert told.image.shape == (355, 328) and told.ppi == 500.0
            image = told.image[::-1, ::-1] if turned else told.image
            assert alike(image[60:300, 60:270], picture[60:300, 60:270]) > 0.95
            assert alike(image[60:300, 60:270], finger(4)[60:300, 60:270]) < 0.5

    virtual.run(walk())


def test_a_whole_picture_over_pyusb(tmp_path: Path) -> None:
    """Driver, link, pyusb, back end, socket, mirror: 111 040 bytes, scrambled and aslant."""

    async def walk() -> None:
        reader = UruReader(Random(2), aslant=True)
        link = UsbDevice(0x05BA, 0x000A, reader.serial, backend=SocketBackend(tmp_path))
        async with Rig(Device(Settings(alive_every_s=0.2), link), reader, UsbPort(reader, tmp_path / "1")) as rig:
            await rig.ready()
            await reader.touch(finger(3))
            told = await asyncio.wait_for(rig.device.scan(), 10.0)
            assert alike(told.image[60:300, 60:270], finger(3)[60:300, 60:270]) > 0.95
            await reader.lift()
            await asyncio.wait_for(rig.device.lifted(), 10.0)
            rig.cable.unplug()
            assert await rig.fault() == "gone"

    asyncio.run(walk())


def test_the_glass_is_as_large_as_the_maker_says() -> None:
    """ "Image Capture Area: 14.6 mm (nominal width at center), 18.1 mm (nominal length)"."""
    lit = np.zeros((290, 384), np.uint8)
    lit[:, 11:378] = 255  # "11 black margin pixels + 367 significant image pixels + 6 black margin pixels"
    seen = straight(lit, (204, 137)) > 127
    rows = np.flatnonzero(seen.any(axis=1))
    middle = np.count_nonzero(seen[(rows[0] + rows[-1]) // 2])
    assert abs(len(rows) / 500 * 25.4 - 18.1) < 0.3 and abs(middle / 500 * 25.4 - 14.6) < 0.4


# -- what a recorded reader said


class Recorded:
    """A `UsbLink` that plays the recording, and fails where the driver says something else."""

    def __init__(self) -> None:
        self.steps = [dict(step) for step in GOLDEN["wake"]]
        self.setups: list[str] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def _next(self, setup: bytes) -> bytes:
        step = self.steps.pop(0)
        assert setup == bytes.fromhex(step["setup"]), step["cite"]
        return bytes.fromhex(step["data"])

    async def control_in(self, request: int, value: int, size: int) -> bytes:
        return self._next(bytes((0xC0, request)) + value.to_bytes(2, "little") + b"\0\0" + size.to_bytes(2, "little"))

    async def control_out(self, request: int, value: int, data: bytes) -> None:
        setup = bytes((0x40, request)) + value.to_bytes(2, "little") + b"\0\0" + len(data).to_bytes(2, "little")
        assert self._next(setup) == data

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        if endpoint == 0x81 and self.steps and "interrupt" in self.steps[0]:
            return bytes.fromhex(self.steps.pop(0)["interrupt"])
        await asyncio.sleep(within_s)
        return None


def test_it_is_woken_as_a_reader_was() -> None:
    async def walk() -> None:
        link = Recorded()
        run = asyncio.ensure_future(Device(Settings(alive_every_s=9.0), link).run(lambda event: None))
        await asyncio.wait((run,), timeout=1.0)
        assert not run.done() and link.steps == []
        link.steps = [{"cite": "dark", "setup": "40044e0000000100", "data": "70"}]
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    virtual.run(walk())


def recorded_picture() -> usb_image.Raw:
    first = bytes.fromhex(GOLDEN["picture"]["head"] + GOLDEN["picture"]["first_bytes"])
    raw = parse(first.ljust(GOLDEN["picture"]["bytes"], b"\0"), 384, 290)
    assert isinstance(raw, usb_image.Raw)
    return raw


def test_a_recorded_picture_is_laid_out_as_we_read_it() -> None:
    raw = recorded_picture()
    assert raw.grey.shape == (289, 384) and raw.keys == [0] and raw.mark == (177, 117)
    assert raw.blocks == tuple(map(tuple, GOLDEN["picture"]["blocks"]))
    assert len(whole(raw, raw.grey)) == 290


def test_a_recorded_picture_is_unscrambled() -> None:
    """Its first line is black. The bytes that hide it are those that the key says."""
    asked, answered = (int.from_bytes(bytes.fromhex(GOLDEN["key"][name]), "little") for name in ("mask", "answer"))
    grey = unscramble(recorded_picture(), [asked ^ answered])
    count = len(bytes.fromhex(GOLDEN["picture"]["first_bytes"])) - 1
    assert count > 300 and not grey[0, :count].any()


def test_mirror_and_driver_hide_alike() -> None:
    """Bit by bit as the mirror does it, and in long pieces."""
    for start in (1, 0x0128FA13, 0xFFFFFFFF, 0):
        hidden, after = uru_reader.stream(start, 3000)
        bits = usb_image.key_stream(start, 3032)
        ours = sum(bits[pick : pick + 3000].astype(int) << turn for turn, pick in enumerate(usb_image.PICKED))
        assert bytes(np.asarray(ours, np.uint8)) == hidden
        assert sum(int(bit) << at for at, bit in enumerate(bits[3000:])) == after


@given(st.binary(max_size=9000), st.integers(0, 63), st.binary(max_size=48))
@settings(max_examples=300, deadline=None)
def test_no_bytes_are_too_wild(body: bytes, at: int, spoilt: bytes) -> None:
    """A transfer is a whole picture or a code, whatever its header says."""
    reader = small(Random(1))
    reader.picture = np.zeros(SHAPE, np.uint8)
    good = FRAME[:64] + body
    held = (good[:at] + spoilt + good[at + len(spoilt) :])[: len(good)]
    raw = parse(held, 80, 96)
    if isinstance(raw, str):
        assert raw in ("empty", "half", "wrong_size")
    else:
        assert whole(raw, unscramble(raw, [7] * len(raw.keys))).shape == SHAPE


def _frame() -> bytes:
    reader = small(Random(1))
    reader.picture = np.zeros(SHAPE, np.uint8)
    return reader._frame()


FRAME = _frame()


def test_settings_say_what_is_allowed() -> None:
    for wrong in (
        {"product_id": 0x00CA, "vendor_id": 0x045E},
        {"product_id": 0x0007},
        {"width": 256},
        {"width": 4, "straighten": False},
        {"firmware_min": -1},
        {"image_s_max": 0.0},
    ):
        with pytest.raises(ValueError, match=r"authentication|straighten|width|above 0"):
            Settings(**wrong)
    Settings(product_id=0x0007, straighten=False)


def test_a_second_reader_is_no_business_of_ours() -> None:
    """A reader that is missing is a lost link by name."""

    async def walk() -> None:
        reader = small(Random(1))
        with pytest.raises(LinkLost, match="no_such_device"):
            await Device(SMALL, MemoryUsb(reader)).run(lambda event: None)

    virtual.run(walk())
