"""What every fingerprint driver owes the lane, in virtual time over memory and in real time over a real link.

A driver's test is a subclass of `FingerContract` that says how a rig is built (`rig`, `real`) and what the reader is
(`shape`, `ppi`, `levels` ...). `BytesContract` adds what a line of bytes can do to a picture.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import numpy as np
import pytest

from drivers.base import DeviceFault, FingerReader, Print
from drivers.links import ByteLink
from gated.lane.events import Device, DeviceReady, Touch
from tests.contract.ears import Ears
from tests.hw_sim import links, virtual
from tests.hw_sim.touch import Cable, Fault, Picture, Sensor

LONG_S = 120.0
"""Nothing that a driver does takes so long: what is not over by then hangs."""


def ridges(seed: int, shape: tuple[int, int]) -> Picture:
    """A picture with ridges and grain of its own: no two seeds share a line, so a torn picture equals none."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0.0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 9.0)
    grey: Picture = np.clip(128 + 80 * waves + random.normal(0, 20, shape), 0, 255).astype(np.uint8)
    return grey


class Rig:
    """A driver that runs, its mirror, the cable between them, and everything that the driver has emitted."""

    def __init__(self, device: FingerReader, sensor: Sensor, cable: Cable) -> None:
        self.device = device
        self.sensor = sensor
        self.cable = cable
        self.ears = Ears()
        self._mirror: asyncio.Task[None] | None = None
        self._tasks = AsyncExitStack()

    async def __aenter__(self) -> "Rig":
        await self.plug()
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._tasks.aclose()

    def start(self) -> None:
        """Run the driver (again), on the same object."""
        self.ears.run = self.task(self.device.run(self.ears))

    async def plug(self) -> None:
        """Put the cable (back) in; the mirror has power again."""
        self.cable.plug()
        if self._mirror is None or self._mirror.done():
            self._mirror = self.task(self.sensor.run())
        await asyncio.sleep(0)

    def task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task that ends with the rig at the latest."""
        task = asyncio.ensure_future(work)
        self._tasks.push_async_callback(asyncio.gather, task, return_exceptions=True)
        self._tasks.callback(task.cancel)
        return task

    async def ready(self) -> None:
        await self.ears.until(DeviceReady(Device.FINGERPRINT), LONG_S)

    async def fault(self) -> str:
        """How `run` ended."""
        return (await self.ears.fault(LONG_S)).why

    async def again(self) -> None:
        """The supervisor's part: run once more and wait until the reader answers."""
        self.start()
        await self.ready()


class FingerContract:
    """Subclass: `rig`, `real`, and what the reader is."""

    shape: tuple[int, int]
    """Height and width of its pictures."""
    ppi: float
    levels: int = 256
    """How many greys the line carries."""
    scan_s: float = 0.5
    """About how long a scan of the rig lasts, from laid on to told."""
    lasting: Mapping[Fault, str] = {}
    """Lasting faults that the driver finds when it starts, and the codes by which `run` ends."""
    spoils: tuple[Fault, ...] = ()
    """Faults of the next picture that the mirror knows and the driver must survive: HALF, GARBLE."""
    advises: bool = True
    """Whether the mirror knows MESSY."""
    notices_mute: bool = True
    """Whether the driver finds a hung reader while nobody scans."""

    def play(self, walk: Coroutine[Any, Any, None]) -> None:
        """How all but the tests of a real link are run: `asyncio.run` where virtual time cannot be."""
        virtual.run(walk)

    def rig(self) -> Rig:
        """In memory, for virtual time."""
        raise NotImplementedError

    def real(self) -> Rig:
        """Over a real link of this machine: a pseudo terminal, a socket, another process."""
        raise NotImplementedError

    # -- what a driver that compares in the sensor says differently

    def picture(self, seed: int) -> Picture:
        return ridges(seed, self.shape)

    async def scan(self, rig: Rig, picture: Picture) -> Print:
        """Ask for a print; `picture` is the finger that is expected."""
        return await rig.device.scan()

    def right(self, told: Print, picture: Picture) -> None:
        """A usable print is that finger's and nobody else's."""
        assert told.advice is None and told.score is None
        assert told.image.dtype == np.uint8 and told.image.shape == self.shape == picture.shape
        assert np.abs(told.image.astype(int) - picture).max() < 256 / self.levels, "another picture, or a torn one"
        assert told.ppi == self.ppi

    # -- what is asserted again and again

    def right_or_advice(self, told: Print, picture: Picture) -> None:
        """Never a torn picture: the right one, or a hint for the passenger."""
        if told.advice is None:
            self.right(told, picture)
        else:
            assert told.image is None and told.score is None
            assert told.advice in {touch.value for touch in Touch}

    async def place(self, rig: Rig, seed: int) -> Print:
        """The walk of one finger: asked for, laid on, told, taken off."""
        loop, picture = asyncio.get_running_loop(), self.picture(seed)
        asked = loop.time()
        scan = rig.task(self.scan(rig, picture))
        await asyncio.sleep(0.3)
        assert not scan.done(), "told without a finger"
        await rig.sensor.touch(picture)
        told: Print = await asyncio.wait_for(scan, LONG_S)
        self.right(told, picture)
        assert asked <= told.mono <= loop.time()
        await self.take_off(rig)
        return told

    async def take_off(self, rig: Rig) -> None:
        await rig.sensor.lift()
        await asyncio.wait_for(rig.device.lifted(), LONG_S)

    async def lost(self, task: "asyncio.Task[Any]") -> None:
        """What was pending when the reader went ends by its own, as a fault."""
        with pytest.raises(DeviceFault):
            await asyncio.wait_for(asyncio.shield(task), LONG_S)

    # -- the contract

    def test_ready_is_told_once_and_the_sensor_stays_dark(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                looks = rig.sensor.captures
                await rig.sensor.touch(self.picture(1))
                await asyncio.sleep(0.5)
                await rig.sensor.lift()
                await asyncio.sleep(0.5)
                assert rig.sensor.captures == looks, "the sensor looked without being asked"
                assert rig.ears.events == []

        self.play(walk())

    def test_each_finger_is_told_once_and_rightly(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                for seed in (1, 2, 1):
                    told = await self.place(rig, seed)
                    assert "array" not in repr(told)
                looks = rig.sensor.captures
                await asyncio.sleep(1.0)
                assert rig.sensor.captures == looks, "the sensor is dark again"

        self.play(walk())

    def test_a_finger_that_was_on_before(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                await asyncio.sleep(0.3)
                asked = asyncio.get_running_loop().time()
                told = await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                self.right(told, self.picture(1))
                assert told.mono >= asked

        self.play(walk())

    def test_lifted_waits_until_the_finger_is_off(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await asyncio.wait_for(rig.device.lifted(), LONG_S)
                await rig.sensor.touch(self.picture(1))
                await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                lifted = rig.task(rig.device.lifted())
                await asyncio.sleep(1.0)
                assert not lifted.done(), "the finger still lies on"
                await rig.sensor.lift()
                await asyncio.wait_for(lifted, LONG_S)

        self.play(walk())

    @pytest.mark.parametrize("given_up", [False, True])
    def test_nothing_of_a_finger_is_kept(self, given_up: bool) -> None:
        """Told or given up: no picture, template or wish of it is anywhere in the driver."""

        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                scan = asyncio.ensure_future(self.scan(rig, self.picture(1)))
                if given_up:
                    await asyncio.sleep(self.scan_s / 2)
                    scan.cancel()
                    await asyncio.gather(scan, return_exceptions=True)
                    await asyncio.sleep(self.scan_s)
                else:
                    await asyncio.wait_for(scan, LONG_S)
                del scan
                await asyncio.sleep(0.05)
                gc.collect()
                kinds = {"Print", "Wish", "Raw"}
                held = [type(each).__name__ for each in gc.get_objects() if type(each).__name__ in kinds]
                assert held == []

        self.play(walk())

    def test_cancelled_at_any_moment_nothing_is_kept_and_the_next_scan_works(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                for step in range(9):
                    await rig.sensor.touch(self.picture(1))
                    scan = rig.task(self.scan(rig, self.picture(1)))
                    await asyncio.sleep(self.scan_s * step / 8)
                    scan.cancel()
                    await asyncio.gather(scan, return_exceptions=True)
                    await rig.sensor.lift()
                    if step % 2:  # also at once, while the rest of the first picture is still on its way
                        await rig.sensor.touch(self.picture(2))
                        self.right(await asyncio.wait_for(self.scan(rig, self.picture(2)), LONG_S), self.picture(2))
                        await self.take_off(rig)
                    else:
                        await asyncio.wait_for(rig.device.lifted(), LONG_S)
                        await self.place(rig, 3)

        self.play(walk())

    def test_a_cancelled_wait_leaves_the_sensor_dark(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                await rig.sensor.touch(self.picture(1))
                for ask in (rig.device.lifted, rig.device.scan):
                    if ask == rig.device.scan:
                        await rig.sensor.lift()
                        await asyncio.sleep(0.3)
                    wait = rig.task(ask())
                    await asyncio.sleep(0.4)
                    wait.cancel()
                    await asyncio.gather(wait, return_exceptions=True)
                    await asyncio.sleep(0.4)
                    looks = rig.sensor.captures
                    await asyncio.sleep(1.0)
                    assert rig.sensor.captures == looks
                await self.place(rig, 2)

        self.play(walk())

    def test_a_finger_taken_away_too_soon_is_never_a_torn_picture(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                for step in range(9):
                    scan = rig.task(self.scan(rig, self.picture(1)))
                    await asyncio.sleep(0.1)
                    await rig.sensor.touch(self.picture(1))
                    await asyncio.sleep(self.scan_s * step / 8)
                    await rig.sensor.lift()
                    await asyncio.sleep(1.0)
                    if not scan.done():  # it goes on waiting: the finger comes back
                        await rig.sensor.touch(self.picture(1))
                    self.right_or_advice(await asyncio.wait_for(scan, LONG_S), self.picture(1))
                    await self.take_off(rig)
                await self.place(rig, 2)

        self.play(walk())

    def test_a_messy_picture_is_a_hint_and_the_next_one_is_not(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                rig.sensor.suffer(Fault.MESSY)
                await rig.sensor.touch(self.picture(1))
                told = await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                assert told.advice is not None
                self.right_or_advice(told, self.picture(1))
                await self.take_off(rig)
                await self.place(rig, 1)

        if not self.advises:
            pytest.skip("this reader never judges a picture itself")
        self.play(walk())

    def test_a_spoilt_picture_is_never_told(self) -> None:
        async def walk(fault: Fault) -> None:
            async with self.rig() as rig:
                await rig.ready()
                rig.sensor.suffer(fault)
                await rig.sensor.touch(self.picture(1))
                try:
                    told = await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                    self.right_or_advice(told, self.picture(1))
                except DeviceFault:
                    await rig.fault()
                    await rig.again()
                await self.take_off(rig)
                await self.place(rig, 2)

        for fault in self.spoils:
            self.play(walk(fault))

    def test_a_second_scan_while_one_is_pending_is_our_own_mistake(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                first = rig.task(self.scan(rig, self.picture(1)))
                await asyncio.sleep(0.3)
                with pytest.raises((AssertionError, TypeError)):
                    await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
                await rig.sensor.touch(self.picture(1))
                self.right(await asyncio.wait_for(first, LONG_S), self.picture(1))

        self.play(walk())

    def test_a_reader_that_does_not_run_cannot_be_asked(self) -> None:
        async def walk() -> None:
            rig = self.rig()
            for ask in (rig.device.scan, rig.device.lifted):
                with pytest.raises(DeviceFault):
                    await asyncio.wait_for(ask(), LONG_S)

        self.play(walk())

    @pytest.mark.parametrize("moment", ["idle", "waiting", "transferring", "lifted"])
    def test_a_pulled_cable_ends_run_and_scan_and_the_next_run_works(self, moment: str) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                pending = await self.pending(rig, moment)
                rig.cable.unplug()
                await rig.fault()
                if pending is not None:
                    await self.lost(pending)
                with pytest.raises(DeviceFault):
                    await asyncio.wait_for(rig.device.scan(), LONG_S)
                rig.start()
                await rig.fault()
                await rig.sensor.lift()
                await rig.plug()
                await rig.again()
                await self.place(rig, 2)

        self.play(walk())

    @pytest.mark.parametrize("moment", ["idle", "waiting", "transferring", "lifted"])
    def test_a_hung_reader_is_lost_in_bounded_time(self, moment: str) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                await rig.ready()
                pending = await self.pending(rig, moment)
                rig.sensor.stall()
                assert await rig.fault() == "no_answer"
                if pending is not None:
                    await self.lost(pending)
                rig.start()
                assert await rig.fault() == "no_answer"
                rig.sensor.resume()
                await rig.sensor.lift()
                await rig.again()
                await self.place(rig, 2)

        if moment == "idle" and not self.notices_mute:
            pytest.skip("this reader is not spoken to while nobody scans")
        self.play(walk())

    async def pending(self, rig: Rig, moment: str) -> "asyncio.Task[Any] | None":
        """Bring the driver into that moment; what is then awaited of it."""
        if moment == "idle":
            return None
        if moment != "waiting":
            await rig.sensor.touch(self.picture(1))
        if moment == "lifted":
            await asyncio.wait_for(self.scan(rig, self.picture(1)), LONG_S)
        pending = rig.task(rig.device.lifted() if moment == "lifted" else self.scan(rig, self.picture(1)))
        await asyncio.sleep(self.scan_s / 2 if moment == "transferring" else 0.3)
        assert not pending.done()
        return pending

    def test_cancelling_run_ends_what_is_pending(self) -> None:
        async def walk() -> None:
            async with self.rig() as rig:
                for moment in ("waiting", "lifted"):
                    await rig.ready()
                    pending = await self.pending(rig, moment)
                    assert pending is not None and rig.ears.run is not None
                    rig.ears.run.cancel()
                    await asyncio.gather(rig.ears.run, return_exceptions=True)
                    await self.lost(pending)
                    await rig.sensor.lift()
                    rig.start()
                await rig.ready()
                await self.place(rig, 2)

        self.play(walk())

    def test_what_is_not_the_reader_that_was_ordered_is_refused(self) -> None:
        async def walk(fault: Fault, why: str) -> None:
            async with self.rig() as rig:
                rig.sensor.suffer(fault)
                assert await rig.fault() == why
                assert rig.ears.events == []

        for fault, why in self.lasting.items():
            self.play(walk(fault, why))

    # -- a real link, in real time

    def test_a_real_link(self) -> None:
        async def walk() -> None:
            async with self.real() as rig:
                await rig.ready()
                await self.place(rig, 1)
                scan = rig.task(self.scan(rig, self.picture(1)))
                await asyncio.sleep(0.2)
                rig.cable.unplug()
                await rig.fault()
                await self.lost(scan)

        asyncio.run(walk())

    def test_cancelling_lets_go_of_the_real_link(self) -> None:
        async def walk() -> None:
            async with self.real() as rig:
                for _ in range(2):  # the port is exclusive: a second run proves that the first let go
                    await rig.ready()
                    assert rig.ears.run is not None
                    rig.ears.run.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await rig.ears.run
                    rig.start()
                await rig.ready()
                await self.place(rig, 1)
            rig.cable.unplug()

        asyncio.run(walk())


WRAPPERS: dict[str, Callable[[ByteLink, Random], ByteLink]] = {
    "bare": lambda link, random: link,
    "one_byte": lambda link, random: links.OneByte(link),
    "delayed": lambda link, random: links.Delayed(link, random, 0.03),
    "lossy": lambda link, random: links.Lossy(link, random, 1e-5),
    "noisy": lambda link, random: links.Noisy(link, random, 1e-5),
    "hopeless_loss": lambda link, random: links.Lossy(link, random, 1 / 100),
    "hopeless_noise": lambda link, random: links.Noisy(link, random, 1 / 100),
}
"""What a line may do. A picture is tens of kilobytes, so one byte in 100 000 spoils every third of them."""
WHOLE = ("bare", "one_byte", "delayed")
"""Wrappers that lose nothing: over them every finger must be told."""


class BytesContract(FingerContract):
    """Over a `ByteLink`. Subclass: `over`, which builds a rig whose driver's end of the line is wrapped."""

    def over(self, wrap: Callable[[ByteLink], ByteLink]) -> Rig:
        """A rig in memory; the driver's link is `wrap(link)`."""
        raise NotImplementedError

    def rig(self) -> Rig:
        return self.over(lambda link: link)

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_no_line_makes_another_picture_or_a_hang(self, wrapper: str) -> None:
        async def walk() -> None:
            random, ready = Random(5), False
            async with self.over(lambda link: WRAPPERS[wrapper](link, random)) as rig:
                for seed in range(1, 5):
                    try:
                        ready = ready or await self.comes_up(rig)
                        await self.lay_on(rig, wrapper, seed)
                    except DeviceFault:
                        assert wrapper not in WHOLE
                        assert await rig.fault()
                        rig.start()
                        ready = False

        self.play(walk())

    async def comes_up(self, rig: Rig) -> bool:
        """Ready, or the fault that came instead."""
        ready = rig.task(rig.ready())
        assert rig.ears.run is not None
        await asyncio.wait((ready, rig.ears.run), return_when=asyncio.FIRST_COMPLETED)
        if rig.ears.run.done():
            ready.cancel()
            raise DeviceFault(await rig.fault())
        await ready
        return True

    async def lay_on(self, rig: Rig, wrapper: str, seed: int) -> None:
        """Told rightly, or a hint, or a fault: in any case an end."""
        await rig.sensor.touch(self.picture(seed))
        told = await asyncio.wait_for(self.scan(rig, self.picture(seed)), LONG_S)
        if wrapper in WHOLE:
            self.right(told, self.picture(seed))
        self.right_or_advice(told, self.picture(seed))
        await self.take_off(rig)
