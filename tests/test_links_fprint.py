"""The libfprint helper as a process: started clean, heard, never outliving its lane, never leaving a zombie."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from drivers.links import LinkLost, fprint
from drivers.links.fprint import FprintProcess
from drivers.links.fprint_helper import Codec, Frame, encode
from tests.fprint import PYTHON, needs_libfprint

VIRTUAL = {"FP_DRIVERS_WHITELIST": "virtual_image"}


async def lost(doing: Coroutine[Any, Any, Any]) -> LinkLost:
    with pytest.raises(LinkLost) as caught:
        await asyncio.wait_for(doing, 20.0)
    return caught.value


async def read_all(link: FprintProcess) -> None:
    while True:
        await link.read()


async def hear(link: FprintProcess, say: str) -> Frame:
    codec = Codec()
    async with asyncio.timeout(20.0):
        while True:
            for frame in codec.feed(await link.read()):
                if frame.header["say"] == say:
                    return frame


async def gone(pid: int) -> None:
    """Until there is no such process, not even as a zombie of ours."""
    async with asyncio.timeout(10.0):
        while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.02)


def program(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> FprintProcess:
    """A link to a helper of the test's own."""
    made = folder / "helper.py"
    made.write_text(source)
    monkeypatch.setattr(fprint, "HELPER", made)
    return FprintProcess(sys.executable)


# -- what is refused


@pytest.mark.parametrize(
    "variable", ["FP_VIRTUAL_IMAGE", "FP_VIRTUAL_DEVICE", "FP_DRIVERS_WHITELIST", "FP_DEVICE_EMULATION", "FP_ANYTHING"]
)
def test_an_environment_that_speaks_of_readers_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "")
    with pytest.raises(ValueError, match=f"{variable} is set .* remove it from the environment"):
        FprintProcess()


def test_python_is_named_by_its_whole_path() -> None:
    with pytest.raises(ValueError, match="whole path"):
        FprintProcess("python3")


@pytest.mark.skipif(find_spec("gi") is not None, reason="this Python has gi")
def test_without_libfprint_it_says_what_to_install() -> None:
    async def walk() -> None:
        missing = await lost(FprintProcess("/usr/bin/no-python").open())
        link = FprintProcess(sys.executable)
        await link.open()
        bare = await lost(read_all(link))
        await link.close()
        for error in (missing, bare):
            assert error.why == "no_libfprint" and "gir1.2-fprint-2.0" in str(error)

    asyncio.run(walk())


# -- the real helper


def test_it_gets_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_libfprint()
    monkeypatch.setenv("G_MESSAGES_DEBUG", "all")
    monkeypatch.setenv("GI_TYPELIB_PATH", "/tmp")

    async def walk() -> None:
        link = FprintProcess(extra_env=VIRTUAL)
        monkeypatch.setenv("FP_VIRTUAL_IMAGE", "/tmp/set-afterwards")
        await link.open()
        hello = await hear(link, "hello")
        found = Path(f"/proc/{link.pid}/environ").read_bytes().split(b"\0")
        assert set(found) == {b"PATH=/usr/bin:/bin", b"LC_ALL=C.UTF-8", b"FP_DRIVERS_WHITELIST=virtual_image", b""}
        assert hello.header["readers"] == [] and hello.header["libfprint"]
        await link.close()

    asyncio.run(walk())


def test_requests_come_in_any_pieces_and_rubbish_ends_it() -> None:
    needs_libfprint()

    async def walk() -> None:
        link = FprintProcess(extra_env=VIRTUAL)
        await link.open()
        await hear(link, "hello")
        for byte in encode(Frame({"do": "ping", "id": 1})):
            await link.write(bytes((byte,)))
        assert (await hear(link, "pong")).header["id"] == 1
        await link.write(encode(Frame({"do": "ping", "id": 2})) + encode(Frame({"do": "ping", "id": 3}))[:9])
        assert (await hear(link, "pong")).header["id"] == 2
        await link.write(encode(Frame({"do": "ping", "id": 3}))[9:])
        assert (await hear(link, "pong")).header["id"] == 3
        await link.write(b"rubbish")
        error = await lost(read_all(link))
        assert error.why == "gone" and "did not understand" in str(error)
        await link.close()
        for odd in ({"do": "scan", "id": 4}, {"do": "open", "id": 4, "reader": 7}, {"do": "dance", "id": 4}, {}):
            await link.open()
            await link.write(encode(Frame(odd)))
            assert "did not understand" in str(await lost(read_all(link)))

    asyncio.run(walk())


def test_its_death_is_told_to_reader_and_writer() -> None:
    needs_libfprint()

    async def walk() -> None:
        link = FprintProcess(extra_env=VIRTUAL)
        for number, said in ((signal.SIGKILL, "signal 9"), (signal.SIGTERM, "ended (0)")):
            await link.open()
            await link.write(encode(Frame({"do": "ping", "id": 1})))
            await hear(link, "pong")
            reading = asyncio.ensure_future(lost(link.read()))
            await asyncio.sleep(0)
            assert link.pid is not None
            os.kill(link.pid, number)
            error = await reading
            assert error.why == "gone" and said in str(error)

            async def on_and_on() -> None:
                while True:
                    await link.write(b"x")

            assert (await lost(on_and_on())).why == "gone"
        await link.close()
        assert (await lost(link.read())).why == (await lost(link.write(b"x"))).why == "not_open"

    asyncio.run(walk())


@pytest.mark.parametrize("stopped", [False, True])
def test_closing_leaves_no_process(stopped: bool) -> None:
    needs_libfprint()

    async def walk() -> None:
        link = FprintProcess(extra_env=VIRTUAL)
        await link.open()
        await hear(link, "hello")
        pid = link.pid
        assert pid is not None
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        await link.close()
        await link.close()
        assert link.pid is None and not Path(f"/proc/{pid}").exists(), "dead and buried"

    asyncio.run(walk())


def test_it_does_not_outlive_a_lane_that_is_killed() -> None:
    needs_libfprint()
    lane = """
import asyncio
from drivers.links.fprint import FprintProcess

async def walk():
    link = FprintProcess()
    await link.open()
    await link.read()
    print(link.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(walk())
"""
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", lane], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
    asyncio.run(gone(pid))


# -- helpers that misbehave


def test_one_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fprint, "_END_S_MAX", 0.2)
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\nwhile True: time.sleep(9)\n"
    link = program(monkeypatch, tmp_path, deaf)

    async def walk() -> None:
        for cancelled in (False, True):
            await link.open()
            await link.read()
            pid = link.pid
            assert pid is not None
            closing = asyncio.ensure_future(link.close())
            if cancelled:
                await asyncio.sleep(0.05)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)
            else:
                await closing
            assert not Path(f"/proc/{pid}").exists()

    asyncio.run(walk())


def test_one_that_takes_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fprint, "_WRITE_S_MAX", 0.2)
    link = program(monkeypatch, tmp_path, "import time\ntime.sleep(60)\n")

    async def walk() -> None:
        await link.open()
        assert (await lost(link.write(bytes(8 << 20)))).why == "write_timeout"
        await link.close()

    asyncio.run(walk())


def test_complaints_are_counted_and_never_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noisy = """
import os, time
os.write(2, b"\\n(process:7): libfprint-uru4000-WARNING **: 12:00:00: ANNA MARIA\\n")
time.sleep(0.2)
for _ in range(300):
    os.write(2, b"ERIKSSON " * 1000 + b"\\n")
os.write(1, b"done")
time.sleep(60)
"""
    link = program(monkeypatch, tmp_path, noisy)

    async def walk() -> list[Any]:
        with capture_logs() as logs:
            await link.open()
            assert await link.read() == b"done", "a full pipe would have stopped it"
            await link.close()
        return list(logs)

    told = asyncio.run(walk())
    assert told[0]["kinds"] == ["libfprint-uru4000-WARNING"] and 1 < len(told) <= fprint._SAID_MAX
    assert "ANNA" not in repr(told) and "ERIKSSON" not in repr(told)


def test_the_helper_needs_nothing_of_ours() -> None:
    """Its Python knows neither this project nor its packages."""
    done = subprocess.run(
        [PYTHON if Path(PYTHON).exists() else sys.executable, "-I", "-S", str(fprint.HELPER)],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 3 and "libfprint is not to be had here" in done.stderr
