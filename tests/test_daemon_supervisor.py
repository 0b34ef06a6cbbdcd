"""Supervised drivers: any end is a loss, pauses grow to a bound, nothing outlives its end, no passenger is quoted."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from drivers.base import DeviceFault, Emit
from gated.daemon.supervisor import PAUSE_S_MAX, PAUSE_S_MIN, STEADY_S, Supervised
from gated.lane.events import Device, DeviceLost, DeviceReady, Event
from gated.logs import told
from tests.hw_sim import virtual

Life = Callable[[Emit], Awaitable[None]]


class Scripted:
    """A driver whose lives are given; when they are used up, it stays ready."""

    def __init__(self, *lives: Life) -> None:
        self._lives = list(lives)
        self.starts: list[float] = []
        self.closed = 0

    async def run(self, emit: Emit) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        try:
            await (self._lives.pop(0) if self._lives else forever)(emit)
        finally:
            self.closed += 1


def ready_then(seconds: float, error: BaseException | None) -> Life:
    async def life(emit: Emit) -> None:
        emit(DeviceReady(Device.CAMERA))
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    return life


async def forever(emit: Emit) -> None:
    emit(DeviceReady(Device.CAMERA))
    await asyncio.get_running_loop().create_future()


def fails(why: str) -> Life:
    async def life(emit: Emit) -> None:
        raise DeviceFault(why)

    return life


def watch(driver: Scripted, seconds: float, *, act: Callable[[Supervised], None] | None = None) -> list[Event]:
    events: list[Event] = []

    async def main() -> None:
        supervised = Supervised(Device.CAMERA, driver, events.append)
        running = asyncio.create_task(supervised.run())
        await asyncio.sleep(seconds)
        if act is not None:
            act(supervised)
            await asyncio.sleep(seconds)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with capture_logs():
        virtual.run(main())
    return events


@pytest.mark.parametrize(
    ("error", "why"), [(DeviceFault("unplugged"), "unplugged"), (None, "ended"), (RuntimeError("x"), "crashed")]
)
def test_any_end_is_a_loss_and_it_starts_again(error: BaseException | None, why: str) -> None:
    driver = Scripted(ready_then(1.0, error))
    assert watch(driver, 10.0) == [
        DeviceReady(Device.CAMERA),
        DeviceLost(Device.CAMERA, why),
        DeviceReady(Device.CAMERA),
    ]
    assert driver.closed == 2


def test_a_device_that_never_came_is_told_lost_once_for_each_reason() -> None:
    driver = Scripted(*[fails("no_such_port")] * 3, *[fails("wrong_device")] * 2, fails("no_such_port"))
    events = watch(driver, 120.0)
    assert events == [
        DeviceLost(Device.CAMERA, "no_such_port"),
        DeviceLost(Device.CAMERA, "wrong_device"),
        DeviceLost(Device.CAMERA, "no_such_port"),
        DeviceReady(Device.CAMERA),
    ]


def test_the_log_says_what_to_do() -> None:
    """A technician reads there which of two readers it was, and what libfprint itself said."""

    async def main() -> None:
        driver = Scripted(ready_then(1.0, DeviceFault("several_readers", "say which with reader and device")))
        running = asyncio.create_task(Supervised(Device.FINGERPRINT, driver, lambda event: None).run())
        await asyncio.sleep(1.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with capture_logs() as logs:
        virtual.run(main())
    (lost,) = [each for each in logs if each["event"] == "device lost"]
    assert (lost["why"], lost["what"]) == ("several_readers", "several_readers: say which with reader and device")


def test_pauses_grow_to_a_bound() -> None:
    driver = Scripted(*[fails("gone")] * 12)
    watch(driver, 200.0)
    pauses = [b - a for a, b in zip(driver.starts, driver.starts[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2 * PAUSE_S_MIN
    assert pauses[-1] == pytest.approx(PAUSE_S_MAX)


def test_a_device_that_was_steady_is_tried_again_at_once() -> None:
    driver = Scripted(*[fails("gone")] * 8, ready_then(STEADY_S + 1.0, DeviceFault("gone")))
    watch(driver, 400.0)
    assert driver.starts[-1] - driver.starts[-2] == pytest.approx(STEADY_S + 1.0 + PAUSE_S_MIN)


def test_a_device_that_flaps_is_not() -> None:
    driver = Scripted(*[ready_then(1.0, DeviceFault("gone"))] * 8)
    watch(driver, 200.0)
    assert driver.starts[-1] - driver.starts[-2] == pytest.approx(1.0 + PAUSE_S_MAX)


def test_asked_to_tell_again_it_starts_afresh_after_the_shortest_pause() -> None:
    driver = Scripted()
    events = watch(driver, 5.0, act=Supervised.again)
    assert events == [
        DeviceReady(Device.CAMERA),
        DeviceLost(Device.CAMERA, "again"),
        DeviceReady(Device.CAMERA),
    ]
    assert driver.starts == [0.0, pytest.approx(5.0 + PAUSE_S_MIN)]


def test_asked_to_tell_again_between_two_lives_it_just_lives_on() -> None:
    driver = Scripted(fails("gone"))
    events = watch(driver, 0.2, act=Supervised.again)
    assert events == [DeviceLost(Device.CAMERA, "gone")]
    driver = Scripted(fails("gone"))
    assert watch(driver, 3.0, act=lambda it: None)[-1] == DeviceReady(Device.CAMERA)


def test_a_driver_that_fails_while_it_is_ended_does_not_live_on() -> None:
    """A link that breaks as it is closed: the supervisor took that for an end like any other, and began anew."""

    async def stubborn(emit: Emit) -> None:
        emit(DeviceReady(Device.CAMERA))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise DeviceFault("cannot_close")

    driver = Scripted(stubborn)
    events = watch(driver, 5.0)  # which awaits the end, or hangs: virtual time would call that a deadlock
    assert events == [DeviceReady(Device.CAMERA)]
    assert driver.starts == [0.0]


def test_the_driver_has_closed_its_link_when_the_supervisor_ends() -> None:
    async def slow(emit: Emit) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1.0)

    driver = Scripted(slow)
    watch(driver, 5.0)
    assert driver.closed == 1


def test_a_crash_is_logged_by_its_place_and_not_by_its_words() -> None:
    driver = Scripted(ready_then(1.0, KeyError("K99887766")))
    with capture_logs() as logs:

        async def main() -> None:
            running = asyncio.create_task(Supervised(Device.PASSPORT, driver, lambda event: None).run())
            await asyncio.sleep(1.2)
            running.cancel()

        virtual.run(main())
    (crash,) = [entry for entry in logs if entry["event"] == "driver crashed"]
    assert "K99887766" not in str(logs)
    assert crash["device"] == "passport"
    assert "tests/test_daemon_supervisor.py" in crash["what"][0]
    assert crash["what"][0].startswith("KeyError at ")


def test_a_group_of_failures_is_told_one_by_one() -> None:
    def failing() -> None:
        raise ExceptionGroup("both", [ValueError("a secret"), ExceptionGroup("inner", [OSError(5, "a secret")])])

    try:
        failing()
    except ExceptionGroup as group:
        assert [line.split(" at ")[0] for line in told(group)] == ["ValueError", "OSError"]
        assert "secret" not in str(told(group))
