"""A technician tries the fingerprint reader: what each placement was worth, in numbers. No template, no passenger.

Pictures and minutiae are looked at and let go; no line tells anything of them that could be compared."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import structlog

from drivers.base import DeviceFault, FingerReader, Print
from gated.biometrics.finger import FingerEngine, FingerError
from gated.control_views import FingerLine, PrintView
from gated.daemon.workers import Workers
from gated.logs import told

log = structlog.get_logger()

AGAIN_S = 0.2
"""From one placement to the next, at least: a reader that rattles must not pile up lines that nobody has taken yet."""


class FingerTest:
    """One test: `lines` once. The reader is dark before and after it."""

    def __init__(self, reader: FingerReader, workers: Workers) -> None:
        self._reader, self._workers = reader, workers
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._told: asyncio.Queue[FingerLine] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def lines(self, seconds: float) -> AsyncGenerator[FingerLine, None]:
        """Whatever happens, for so long; the last line says why it was the last. Closing the iterator ends the test."""
        # A task of its own, so that a listener who is slow to take the lines does not slow the reader down.
        task = self._task = asyncio.ensure_future(self._run(seconds))
        try:
            what = ""
            while what != "end":
                line = await self._told.get()
                what = line["what"]
                yield line
        finally:
            task.cancel()
            await asyncio.wait({task})

    def end(self, why: str) -> None:
        """The reader goes dark now, and whoever listens is told why."""
        if self._task is not None:
            self._task.cancel()
        self._tell("end", why=why)

    def _tell(self, what: str, **more: Any) -> None:
        at_s = round(self._loop.time() - self._began, 3)
        self._told.put_nowait(cast(FingerLine, {"what": what, "at_s": at_s, **more}))

    async def _run(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._tell("waiting")
                    self._tell("finger", print=await self._placed())
                    await self._reader.lifted()
                    self._tell("lifted")
                    await asyncio.sleep(AGAIN_S)
        except TimeoutError:
            why = "time"
        except DeviceFault as fault:
            self._tell("fault", why=fault.why)
            why = "reader_lost"
        except Exception as error:  # noqa: BLE001  # whoever listens is told that it is over, whatever it was
            log.error("finger test failed", what=told(error))
            why = "failed"
        self._tell("end", why=why)

    async def _placed(self) -> PrintView:
        print_ = await self._reader.scan()
        seen: PrintView = {
            "quality": None,
            "usable": None,
            "advice": print_.advice,
            "minutiae": None,
            "width": None,
            "height": None,
            "ppi": print_.ppi,
            "picture_ms": self._ms_since(print_.mono),
            "look_ms": None,
            "extract_ms": None,
        }
        if print_.image is None:
            seen["usable"] = False
            return seen
        seen["height"], seen["width"] = print_.image.shape
        if (engine := self._workers.fingers) is not None:
            try:
                await self._judge(engine, print_, seen)
            except FingerError:
                seen["usable"] = False
                self._tell("fault", why="not_a_picture")
        return seen

    async def _judge(self, engine: FingerEngine, print_: Print, seen: PrintView) -> None:
        began = self._loop.time()
        look = await self._workers.run("finger", engine.look, print_.image, print_.ppi)
        seen["look_ms"] = self._ms_since(began)
        seen["quality"], seen["usable"], seen["advice"] = look.quality, look.usable, look.advice
        if look.usable and not self._reader.compares:
            began = self._loop.time()
            seen["minutiae"] = await self._workers.run("finger", _count, engine, print_)
            seen["extract_ms"] = self._ms_since(began)

    def _ms_since(self, mono: float) -> int:
        return max(0, round(1000 * (self._loop.time() - mono)))


def _count(engine: FingerEngine, print_: Print) -> int:
    return len(engine.extract(print_.image, print_.ppi))
