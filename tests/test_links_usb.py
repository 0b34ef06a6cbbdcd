"""The USB link over real pyusb: with the simulator's back end below, and with libusb there or missing."""

import asyncio
import errno
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import usb.backend.libusb1
import usb.core

from drivers.links import LinkLost
from drivers.links import usb as usb_link
from drivers.links.usb import UsbDevice
from tests.hw_sim.touch import Picture
from tests.hw_sim.uru_reader import DEATH, UruReader
from tests.hw_sim.usb_backend import SocketBackend, UsbPort

ROOT = Path(__file__).resolve().parents[1]


class Bus:
    """A folder of sockets, and a link that has not been opened."""

    def __init__(self, folder: Path, serial: str = "", control_s_max: float = 0.3) -> None:
        self.backend = SocketBackend(folder)
        self.link = UsbDevice(0x05BA, 0x000A, serial, control_s_max=control_s_max, backend=self.backend)
        self.readers: list[UruReader] = []
        self.ports: list[UsbPort] = []
        self._folder = folder
        self._runs: list[asyncio.Task[None]] = []

    def plug(self, serial: str = "one") -> UruReader:
        """One more reader appears."""
        reader = UruReader(Random(1), 80, 96)
        reader.serial = serial
        self.ports.append(UsbPort(reader, self._folder / str(len(self.ports))))
        self.ports[-1].plug()
        self._runs.append(asyncio.ensure_future(reader.run()))
        self.readers.append(reader)
        return reader

    async def close(self) -> None:
        await self.link.close()
        for port in self.ports:
            port.unplug()
        await asyncio.gather(*self._runs)


@asynccontextmanager
async def bus(folder: Path, plugged: bool = True, serial: str = "") -> AsyncIterator[Bus]:
    """A bus with one reader on it."""
    made = Bus(folder, serial)
    if plugged:
        made.plug()
    try:
        yield made
    finally:
        await made.close()
        assert made.backend.open_handles == [], "every handle was closed"
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("usb") and _lasts(thread)]


def _lasts(thread: threading.Thread) -> bool:
    thread.join(2.0)
    return thread.is_alive()


def play(walk: Coroutine[Any, Any, None]) -> None:
    asyncio.run(walk)


async def lost(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(LinkLost) as caught:
        await work
    return caught.value.why


def test_requests_and_transfers(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            reader = on.readers[0]
            await on.link.open()
            assert await on.link.control_in(4, 0x07, 1) == b"\x01"
            assert await on.link.control_in(4, 0xF0, 16) == bytes.fromhex("50255025003400000013005967191800")
            assert await on.link.control_in(4, 0xF0, 4) == bytes.fromhex("50255025"), "as many as were asked for"
            await on.link.control_out(4, 0x33, b"\x01\x02\x03\x04\x05")
            assert reader.written == [(0x33, b"\x01\x02\x03\x04\x05")]
            reader.say(DEATH)
            message = await on.link.read(0x81, 64, 1.0)
            assert message is not None and len(message) == 64 and message[:2] == b"\x08\x00"
            assert await on.link.read(0x81, 64, 0.01) is None, "a time-out is no loss"

    play(walk())


def test_a_picture_in_pieces(tmp_path: Path) -> None:
    """A packet of no length, then transfers that are full or end the picture."""

    async def walk() -> None:
        async with bus(tmp_path) as on:
            await on.readers[0].touch(_picture())
            await on.link.open()
            await on.link.control_out(4, 0x4E, b"\x20")
            assert await on.link.read(0x82, 1024, 1.0) == b""
            pieces = []
            while data := await on.link.read(0x82, 1024, 0.5):
                pieces.append(len(data))
            assert sum(pieces) == 64 + 95 * 80 and pieces[:-1] == [1024] * 7

    play(walk())


def _picture() -> Picture:
    return np.full((96, 80), 128, np.uint8)


def test_what_a_cancelled_read_would_have_brought_is_not_lost(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            await on.link.open()
            for _ in range(20):
                reading = asyncio.ensure_future(on.link.read(0x81, 64, 0.5))
                await asyncio.sleep(0.01)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                on.readers[0].say(0x0101)
                assert await on.link.control_in(4, 0x07, 1) == b"\x01", "a pending read stands in nobody's way"
                message = await on.link.read(0x81, 64, 0.5)
                assert message is not None and message[:2] == b"\x01\x01"

    play(walk())


def test_close_waits_for_a_pending_read_and_open_works_again(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            for _ in range(3):
                await on.link.open()
                reading = asyncio.ensure_future(on.link.read(0x81, 64, 0.2))
                await asyncio.sleep(0.02)
                reading.cancel()
                await on.link.close()
                await on.link.close()
                assert on.backend.open_handles == []
            assert await lost(on.link.read(0x81, 64, 0.1)) == "not_open"
            assert await lost(on.link.control_in(4, 0x07, 1)) == "not_open"

    play(walk())


def test_cancelled_while_it_opens(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            for pause_s in (0.0, 0.001, 0.003, 0.01):
                opening = asyncio.ensure_future(on.link.open())
                await asyncio.sleep(pause_s)
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
                await on.link.close()
                assert on.backend.open_handles == []
            await on.link.open()
            assert await on.link.control_in(4, 0x07, 1) == b"\x01"

    play(walk())


def test_unplugged_and_back(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            for _ in range(2):
                await on.link.open()
                reading = asyncio.ensure_future(on.link.read(0x81, 64, 5.0))
                await asyncio.sleep(0.05)
                on.ports[0].unplug()
                with pytest.raises(LinkLost, match="gone"):
                    await reading
                assert await lost(on.link.control_in(4, 0x07, 1)) == "gone"
                await on.link.close()
                assert await lost(on.link.open()) == "no_such_device"
                on.ports[0].plug()

    play(walk())


def test_a_hung_device_is_no_answer_and_its_late_answer_is_nobodys(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            await on.link.open()
            on.readers[0].stall()
            assert await lost(on.link.control_in(4, 0xF0, 16)) == "no_answer"
            assert await on.link.read(0x81, 64, 0.05) is None
            on.readers[0].resume()
            assert await on.link.control_in(4, 0x07, 1) == b"\x01"

    play(walk())


def test_a_stalled_endpoint_is_told_and_cleared(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            await on.link.open()
            assert await lost(on.link.control_in(4, 0x2010, 16)) == "stalled"
            on.readers[0].refuses = True
            await on.link.control_out(4, 0x4E, b"\x20")
            assert await on.link.read(0x82, 1024, 1.0) == b""
            assert await lost(on.link.read(0x82, 1024, 1.0)) == "stalled"
            assert on.backend.halts == [0x82]

    play(walk())


def test_several_equal_readers_need_a_serial_number(tmp_path: Path) -> None:
    async def walk(serial: str, why: str) -> None:
        async with bus(tmp_path, serial=serial) as on:
            on.plug("two")
            if why:
                assert await lost(on.link.open()) == why
            else:
                await on.link.open()
                await on.link.control_out(4, 0x33, bytes(5))
                assert [len(reader.written) for reader in on.readers] == [0, 1]

    for serial, why in (("", "several_devices"), ("three", "no_such_device"), ("two", "")):
        play(walk(serial, why))


@pytest.mark.parametrize("serial", ["", "one"])
def test_a_device_that_may_not_be_opened(tmp_path: Path, serial: str) -> None:
    async def walk() -> None:
        async with bus(tmp_path, serial=serial) as on:
            on.backend.forbidden = True
            with pytest.raises(LinkLost, match=r"no_permission.*udev") as caught:
                await on.link.open()
            assert isinstance(caught.value.__cause__, usb.core.USBError)
            assert caught.value.__cause__.errno == errno.EACCES

    play(walk())


def test_the_kernels_driver_goes_and_the_interface_is_claimed_alone(tmp_path: Path) -> None:
    async def walk() -> None:
        async with bus(tmp_path) as on:
            on.backend.kernel_driver, on.backend.configured = True, False
            await on.link.open()
            assert not on.backend.kernel_driver and on.backend.configured
            other = UsbDevice(0x05BA, 0x000A, backend=on.backend)
            assert await lost(other.open()) == "busy"
            await other.close()
            await on.link.close()
            await other.open()
            await other.close()

    play(walk())


def test_the_loop_never_waits_for_usb(tmp_path: Path) -> None:
    """While a transfer hangs for its whole time-out the loop turns."""

    async def walk() -> None:
        async with bus(tmp_path) as on:
            await on.link.open()
            on.readers[0].stall()
            reading = asyncio.ensure_future(on.link.read(0x82, 64, 0.3))
            turns = 0
            while not reading.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert turns > 5

    play(walk())


@pytest.mark.parametrize("moment", ["open", "control", "read"])
def test_a_thread_that_libusb_keeps_is_told_in_time(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that never ends a transfer: the reader is lost, and found again once it does."""
    monkeypatch.setattr(usb_link, "_LATE_S_MAX", 0.05)
    monkeypatch.setattr(usb_link, "_CLAIM_S_MAX", 0.2)
    gate = threading.Event()

    def hang(*_: Any) -> Any:
        gate.wait(10.0)
        raise LinkLost("gone")

    async def walk() -> None:
        async with bus(tmp_path) as on:
            if moment != "open":
                await on.link.open()
            with monkeypatch.context() as hanging:
                hanging.setattr(on.backend, "open_device" if moment == "open" else "ctrl_transfer", hang)
                hanging.setattr(on.backend, "bulk_read", hang)
                hanging.setattr(on.backend, "intr_read", hang)
                work: Any = {
                    "open": on.link.open,
                    "control": lambda: on.link.control_in(4, 7, 1),
                    "read": lambda: on.link.read(0x81, 64, 0.1),
                }[moment]
                assert await asyncio.wait_for(lost(work()), 5.0) == "stuck"
                await on.link.close()
                assert await lost(on.link.open()) == "stuck"
                gate.set()
            await on.link.close()
            await on.link.open()
            assert await on.link.control_in(4, 0x07, 1) == b"\x01"

    play(walk())


def test_settings_of_the_link() -> None:
    for wrong in ((0, 1), (0x10000, 1), (1, -1)):
        with pytest.raises(ValueError, match="16 bits"):
            UsbDevice(*wrong)
    with pytest.raises(ValueError, match="above 0"):
        UsbDevice(1, 1, control_s_max=0.0)


# -- libusb itself

_OPEN = """
import asyncio, ctypes.util
if {missing}:
    ctypes.util.find_library = lambda name: None
from drivers.links import LinkLost
from drivers.links import usb as usb_link
from drivers.links.usb import UsbDevice
try:
    asyncio.run(UsbDevice(0x05BA, 0xFFFE).open())
except LinkLost as lost:
    print(lost)
"""


def opened(missing: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN.format(missing=missing)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_machine_without_libusb_is_told_what_to_install() -> None:
    told = opened(missing=True)
    assert told.startswith("no_libusb: install libusb-1.0") and "usb-reader.conf" in told


def test_the_units_drop_in_lets_libusb_start_and_gives_no_ip() -> None:
    text = (ROOT / "systemd" / "gated-lane.service.d" / "usb-reader.conf").read_text()
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    assert said == {"PrivateNetwork": "no", "RestrictAddressFamilies": "AF_UNIX AF_NETLINK"}


def test_a_machine_with_libusb_finds_no_such_device() -> None:
    if usb.backend.libusb1.get_backend() is None:
        pytest.skip("no libusb-1.0 on this machine: apt install libusb-1.0-0")
    assert opened(missing=False) == "no_such_device: 05ba:fffe"
