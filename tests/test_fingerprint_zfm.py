"""Serial fingerprint modules keep the contract of their kind, in image mode and in sensor mode."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import MappingProxyType as frozen
from typing import Any

import numpy as np
import pytest

from drivers.base import DeviceFault, Print
from drivers.fingerprint import Wishes, zfm
from drivers.links import ByteLink, LinkLost
from drivers.links.serial import SerialLink
from gated.lane.events import Touch
from tests.contract.fingerprint import LONG_S, BytesContract, Rig, ridges
from tests.hw_sim import virtual
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.pty import Pty
from tests.hw_sim.touch import Fault, Picture
from tests.hw_sim.zfm_sensor import ZfmSensor


def features(picture: Picture) -> bytes:
    """Every eighth pixel of every eighth line: enough to tell the fingers of this file apart."""
    return (picture[::16, ::16] >> 4).astype(np.uint8).tobytes()


def compare(one: bytes, other: bytes) -> int:
    """Correlation in percent."""
    a, b = (np.frombuffer(each, np.uint8).astype(float) for each in (one, other))
    return max(0, round(100 * float(np.corrcoef(a, b)[0, 1]))) if len(a) == len(b) else 0


class ZfmContract(BytesContract):
    """What R30x and R503 share. The mirror in memory sends as fast as a line of 57600 baud."""

    model: str
    mode = "image"
    levels = 16
    spoils: tuple[Fault, ...] = (Fault.HALF, Fault.GARBLE)
    options: Any = frozen({})
    algorithm: Any = frozen({})

    def mirror(self, link: ByteLink, baud_rate: int = 57600, **dialect: Any) -> ZfmSensor:
        return ZfmSensor(link, Random(7), self.model, baud_rate, **{**self.algorithm, **dialect})

    def driver(self, link: ByteLink, port: str = "/dev/null", **options: Any) -> zfm.Device:
        return zfm.Device(zfm.Settings(port, model=self.model, mode=self.mode, **{**self.options, **options}), link)

    def over(self, wrap: Callable[[ByteLink], ByteLink]) -> Rig:
        host, far = MemoryByteLink.pair()
        return Rig(self.driver(wrap(host)), self.mirror(far), host)

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.port = tmp_path / "port"

    def real(self) -> Rig:
        pty = Pty(self.port)
        pty.unplug()
        sensor = self.mirror(pty, baud_rate=0)
        sensor.capture_s = sensor.features_s = 0.01
        return Rig(self.driver(SerialLink(pty.path, 57600), poll_s=0.05, answer_s_max=0.5), sensor, pty)


class TestR30x(ZfmContract):
    model, shape, ppi, scan_s = "r30x", (288, 256), 500.0, 7.4


class TestR503(ZfmContract):
    model, shape, ppi, scan_s = "r503", (192, 192), 508.0, 3.7
    options = frozen({"product": "R503", "firmware_min": "1.3"})
    lasting = frozen(
        {
            Fault.STALE_FIRMWARE: "stale_firmware",
            Fault.WRONG_MODEL: "wrong_model",
            Fault.WRONG_SIZE: "wrong_size",
        }
    )


class TestSensorMode(ZfmContract):
    """The module compares: a print has a score and no picture."""

    model, shape, ppi, scan_s, mode = "r30x", (288, 256), 500.0, 0.8, "sensor"
    algorithm = frozen({"features": features, "compare": compare})
    spoils = (Fault.GARBLE,)

    async def scan(self, rig: Rig, picture: Picture) -> Print:
        assert isinstance(rig.sensor, ZfmSensor)
        return await rig.device.scan(rig.sensor.template(picture))

    def right(self, told: Print, picture: Picture) -> None:
        assert told.image is None and told.advice is None
        assert told.score is not None and told.score >= 50
        assert told.ppi == self.ppi

    def test_another_finger_is_no_match_by_the_modules_word(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                assert isinstance(rig.sensor, ZfmSensor)
                rig.sensor.match_score_min = 101  # it tells a score with "not matching" too
                await rig.sensor.touch(self.picture(1))
                told = await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                assert (told.score, told.image, told.advice) == (0.0, None, None)
                assert rig.device.compares == "zfm" and rig.device.threshold > 0.0 and rig.device.fmr == 1e-5

        virtual.run(walk())

    def test_a_template_that_is_lost_does_not_leave_the_last_passengers_in_place(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                sensor = rig.sensor
                assert isinstance(sensor, ZfmSensor)
                await self.place(rig, 1)
                sensor.lose_next_template = True
                await sensor.touch(self.picture(1))  # the same finger again, and another person's passport
                told = await asyncio.wait_for(self.scan(rig, self.picture(2)), LONG_S)
                assert told.score == 0.0
                assert sensor.commands.count(zfm.DOWN_CHAR) == 3, "one for the first finger, two for the second"

        virtual.run(walk())

    def test_the_security_level_is_written_where_it_differs(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                assert isinstance(rig.sensor, ZfmSensor)
                rig.sensor.security_level = 1
                await rig.ready()
                assert rig.sensor.security_level == 3
                rig.cable.unplug()
                await rig.fault()
                await rig.plug()
                await rig.again()
                assert rig.sensor.commands.count(zfm.SET_SYS_PARA) == 1, "flash wears out"

        virtual.run(walk())

    @pytest.mark.parametrize(("code", "touch"), zfm.FEATURE_ADVICE.items())
    def test_what_the_module_finds_wrong_is_a_hint(self, code: int, touch: Touch) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                assert isinstance(rig.sensor, ZfmSensor)
                rig.sensor.next_features_code = code
                await rig.sensor.touch(self.picture(1))
                told = await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                assert (told.advice, told.score, told.image) == (touch.value, None, None)

        virtual.run(walk())

    def test_without_a_template_it_brings_a_picture(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                told = await asyncio.wait_for(rig.device.scan(), LONG_S)
                assert told.score is None and told.image.shape == self.shape

        virtual.run(walk())


def started(sensor_model: str, **options: Any) -> tuple[Rig, ZfmSensor]:
    """A driver with these options before a module of that kind; its line is as fast as can be."""
    host, far = MemoryByteLink.pair()
    sensor = ZfmSensor(far, Random(7), sensor_model, password=options.pop("module_password", 0))
    return Rig(zfm.Device(zfm.Settings("/dev/null", **options), host), sensor, host), sensor


@pytest.mark.parametrize(
    ("why", "module", "options"),
    [
        ("wrong_model", "r30x", {"model": "r503"}),
        ("wrong_size", "r503", {"model": "r503", "width": 160, "height": 160}),
        ("wrong_password", "r30x", {"module_password": 4711}),
        ("no_answer", "r30x", {"address": 1}),
    ],
)
def test_another_module_than_the_settings_say(why: str, module: str, options: dict[str, Any]) -> None:
    async def walk() -> None:
        rig, _ = started(module, **options)
        async with rig:
            assert await rig.fault() == why
            assert rig.ears.events == []

    virtual.run(walk())


def test_a_picture_of_another_size_is_found_when_it_comes() -> None:
    async def walk() -> None:
        rig, sensor = started("r30x")
        async with rig:
            await rig.ready()
            sensor.suffer(Fault.WRONG_SIZE)
            await sensor.touch(ridges(1, sensor.shape))
            scan = rig.task(rig.device.scan())
            assert await rig.fault() == "wrong_size"
            with pytest.raises(DeviceFault):
                await scan

    virtual.run(walk())


def test_a_module_that_forgot_its_password_is_verified_by_the_next_run() -> None:
    async def walk() -> None:
        rig, sensor = started("r30x", password=4711, module_password=4711)
        async with rig:
            await rig.ready()
            sensor.lose_power()
            await sensor.touch(ridges(1, sensor.shape))
            scan = rig.task(rig.device.scan())
            assert await rig.fault() == "refused"
            with pytest.raises(DeviceFault):
                await scan
            await rig.again()
            assert (await rig.device.scan()).advice is None

    virtual.run(walk())


@pytest.mark.parametrize("fault", [Fault.HALF, Fault.GARBLE])
def test_a_spoilt_picture_is_sent_again(fault: Fault) -> None:
    async def walk() -> None:
        rig, sensor = started("r30x")
        async with rig:
            await rig.ready()
            sensor.suffer(fault)
            picture = ridges(1, sensor.shape)
            await sensor.touch(picture)
            told = await rig.device.scan()
            assert np.array_equal(told.image // 17, picture >> 4)
            assert sensor.commands.count(zfm.UP_IMAGE) == 2 and sensor.captures == 1

    virtual.run(walk())


@pytest.mark.parametrize(
    "stray",
    [
        b"\x55",  # "after the module is powered on, 0x55 will be automatically sent"
        zfm.encode(zfm.Packet(zfm.DATA, b"late")) + zfm.encode(zfm.Packet(zfm.ACK, b"\0")),
        b"\xef\x01\xff\xff\xff\xff\x07\x01\x02",
    ],
)
def test_what_comes_unasked_is_no_answer(stray: bytes) -> None:
    async def walk() -> None:
        rig, sensor = started("r30x")
        async with rig:
            await rig.ready()
            scan = rig.task(rig.device.scan())
            await asyncio.sleep(0.5)
            await sensor.babble(stray)
            await asyncio.sleep(5.0)
            assert not scan.done()
            await sensor.touch(ridges(1, sensor.shape))
            assert (await asyncio.wait_for(scan, LONG_S)).advice is None

    virtual.run(walk())


def test_a_scan_that_is_given_up_looks_no_more_and_brings_nothing() -> None:
    async def walk() -> None:
        rig, sensor = started("r30x", poll_s=10.0)
        async with rig:
            await rig.ready()
            waiting = rig.task(rig.device.scan())
            await asyncio.sleep(1.0)
            waiting.cancel()
            await asyncio.sleep(20.0)
            assert sensor.captures == 1
            await sensor.touch(ridges(1, sensor.shape))
            looking = rig.task(rig.device.scan())
            await asyncio.sleep(sensor.capture_s / 2)
            looking.cancel()
            await asyncio.sleep(20.0)
            assert sensor.captures == 2 and zfm.UP_IMAGE not in sensor.commands

    virtual.run(walk())


def test_the_port_is_let_go_however_run_ends() -> None:
    async def walk() -> None:
        host, far = MemoryByteLink.pair()
        rig = Rig(zfm.Device(zfm.Settings("/dev/null"), host), ZfmSensor(far, Random(7)), host)
        async with rig:
            await rig.ready()
            assert rig.ears.run is not None
            rig.ears.run.cancel()
            await asyncio.gather(rig.ears.run, return_exceptions=True)
            with pytest.raises(LinkLost, match="not_open"):
                await host.read()

    virtual.run(walk())


def test_a_wish_that_is_over_is_not_held() -> None:
    async def walk() -> None:
        wishes = Wishes()
        wishes.open()
        for end in ("cancelled", "granted"):
            scan = asyncio.ensure_future(wishes.scan(b"template"))
            wish = await wishes.next()
            assert wish is not None and "template" not in repr(wish)
            if end == "granted":
                wish.grant(Print(None, 500.0, 0.0))
            else:
                scan.cancel()
            await asyncio.gather(scan, return_exceptions=True)
            wish.grant(Print(None, 500.0, 0.0))  # nobody waits any more
            assert await wishes.next(0.0) is None
            held = weakref.ref(wish)
            del wish, scan
            gc.collect()
            assert held() is None

    virtual.run(walk())


def test_upside_down_is_turned() -> None:
    async def walk() -> None:
        rig, sensor = started("r30x", upside_down=True)
        async with rig:
            await rig.ready()
            picture = ridges(1, sensor.shape)
            await sensor.touch(picture)
            told = await rig.device.scan()
            assert np.array_equal(told.image // 17, picture[::-1, ::-1] >> 4)

    virtual.run(walk())


def test_image_mode_compares_nothing() -> None:
    async def walk() -> None:
        rig, _ = started("r30x")
        async with rig:
            await rig.ready()
            assert (rig.device.compares, rig.device.fmr) == ("", 1.0)
            with pytest.raises(AssertionError):
                await rig.device.scan(b"template")

    virtual.run(walk())


def test_noise_without_end_ends_the_run() -> None:
    async def walk() -> None:
        rig, sensor = started("r30x")
        async with rig:
            await rig.ready()
            sensor.stall()

            async def babble() -> None:
                while True:
                    await sensor.babble(b"\xef\x01\x55")
                    await asyncio.sleep(0.05)

            rig.task(babble())
            assert await rig.fault() == "garbled"

    virtual.run(walk())
