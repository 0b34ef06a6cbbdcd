"""The finger desk: wakes the reader for one passenger's finger, and answers `CompareFinger`.

The reader is dark until somebody is asked for a finger. Prints never become events and are kept by nothing here."""

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from drivers.base import DeviceFault, Emit, FingerReader, Print
from gated.biometrics.finger import FingerEngine, FingerError, PrintLook
from gated.control import Code, Refused
from gated.control_views import FingerLine
from gated.daemon.fingertest import FingerTest
from gated.daemon.workers import Workers
from gated.icao.check import Check
from gated.lane.commands import CompareFinger
from gated.lane.events import FingerAdvice, FingerCompared, Touch
from gated.logs import told

log = structlog.get_logger()

OUR_FORMAT = "iso19794-2"
"""What templates are compared in here; a sensor that compares by itself names its own."""
LIFT_S = 0.7
"""Whoever has not lifted the finger after so long is told to."""
AGAIN_S = 0.5
"""From one piece of advice to the next scan, at least. Nobody is quicker; a reader that rattles must not fill the
lane's queue."""


def format_of(reader: FingerReader | None) -> str:
    """The format of template that this lane can compare; "" where it has no reader."""
    return (reader.compares or OUR_FORMAT) if reader is not None else ""


class Fingers:
    """One passenger at a time. `template_of`: the template behind (subject, finger); raises `KeyError`."""

    def __init__(
        self, reader: FingerReader | None, workers: Workers, emit: Emit, template_of: Callable[[int, str], bytes]
    ) -> None:
        self._reader, self._workers, self._emit, self._template_of = reader, workers, emit, template_of
        self._ticket: int | None = None
        self._lies_on = False
        """Whether a finger of this ticket may still lie on the reader: a placement is compared once."""
        self._advised = False
        """Whether the passenger was told something since they were last asked for the finger."""
        self._again_mono = 0.0
        """No scan before then."""
        self._task: asyncio.Task[None] | None = None
        self._test: FingerTest | None = None

    def compare(self, command: CompareFinger) -> None:
        """Answer with one `FingerCompared` within the command's time, whatever the reader does.

        Only a request that is followed by another one, or whose ticket ends, is not answered: nobody waits for it."""
        self.end_test("passenger")
        self._drop()
        try:
            template = self._template_of(command.subject, command.finger)
        except KeyError:
            template = None
        if self._reader is None or template is None:
            self._emit(FingerCompared(command.ticket, command.ask, Check.NOT_SUPPORTED, finger=command.finger))
            return
        if command.ticket != self._ticket:
            self._ticket, self._lies_on = command.ticket, False
        self._advised = False
        self._task = asyncio.ensure_future(self._answer(self._reader, command, template))

    def rest(self, ticket: int) -> None:
        """Nobody waits for a finger any more: the reader goes dark."""
        if self._ticket == ticket:
            self._drop()

    def forget(self, ticket: int) -> None:
        """Stop, and let the reader go dark."""
        if self._ticket == ticket:
            self._drop()
            self._ticket = None

    def close(self) -> None:
        """As `forget`, whoever it is; a test too."""
        self.end_test("stopping")
        self._drop()

    async def test(self, seconds: float) -> AsyncIterator[FingerLine]:
        """Let a technician try the reader. Raises `Refused` without one, and while anybody else uses it."""
        if self._reader is None:
            raise Refused(Code.REFUSED, "this lane has no fingerprint reader: see [fingerprint] in lane.toml")
        if self._test is not None or (self._task is not None and not self._task.done()):
            raise Refused(Code.BUSY, "the fingerprint reader is in use: another test, or a passenger's finger")
        test = self._test = FingerTest(self._reader, self._workers)
        lines = test.lines(seconds)
        try:
            async for line in lines:
                yield line
        finally:
            await lines.aclose()
            self._test = None

    def end_test(self, why: str) -> None:
        """As `FingerTest.end`, where one is under way."""
        if self._test is not None:
            self._test.end(why)

    def _drop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _answer(self, reader: FingerReader, command: CompareFinger, template: bytes) -> None:
        result = Check.ABORTED
        try:
            async with asyncio.timeout(command.within_s):
                self._emit(await self._compared(reader, command, template))
                return
        except TimeoutError:
            result = Check.UNDETERMINED
        except DeviceFault as fault:
            log.warning("finger reader failed", why=fault.why, what=str(fault))
        except FingerError as error:
            # Of the enrolment, not of the passenger: somebody must enrol anew.
            log.error("finger template cannot be used", what=told(error))
            result = Check.NOT_SUPPORTED
        except Exception as error:  # noqa: BLE001  # the lane waits for an answer, whatever it was
            log.error("finger could not be compared", what=told(error))
        self._emit(FingerCompared(command.ticket, command.ask, result, finger=command.finger))

    async def _compared(self, reader: FingerReader, command: CompareFinger, template: bytes) -> FingerCompared:
        loop = asyncio.get_running_loop()
        while True:
            await self._bare(reader, command)
            await asyncio.sleep(self._again_mono - loop.time())
            asked_mono = loop.time()
            print_ = await reader.scan(template if reader.compares else None)
            self._lies_on = True
            advice = print_.advice
            if not print_.mono >= asked_mono:
                # Out of some buffer: it may be of the passenger before.
                log.warning("finger reader told an old print", age_s=round(asked_mono - print_.mono, 3))
                advice = None
            elif reader.compares and print_.score is not None:
                return _told(command, print_.score, reader.threshold, reader.fmr, reader.compares)
            elif print_.image is not None and not reader.compares:
                score, advice = await self._score(print_, template)
                if score is not None:
                    threshold = self._engine.threshold
                    return _told(command, score, threshold.score, threshold.fmr)
            self._again_mono = loop.time() + AGAIN_S
            self._advise(command, Touch(advice) if advice else Touch.LIFT_FINGER)

    async def _bare(self, reader: FingerReader, command: CompareFinger) -> None:
        """Return once what was compared before is off the reader."""
        if not self._lies_on:
            return
        try:
            async with asyncio.timeout(LIFT_S):
                await reader.lifted()
        except TimeoutError:
            self._advise(command, Touch.LIFT_FINGER)
            await reader.lifted()
        self._lies_on = False
        if self._advised:
            self._advise(command, Touch.PLACE_AGAIN)

    async def _score(self, print_: Print, template: bytes) -> tuple[float | None, str | None]:
        """(similarity, None), or (None, advice) for a print that is not worth comparing."""
        engine = self._engine
        look = await self._workers.run("finger", _looked, engine, print_)
        if not look.usable:
            return None, look.advice
        return await self._workers.run("finger", _scored, engine, print_, template), None

    @property
    def _engine(self) -> FingerEngine:
        engine = self._workers.fingers
        assert engine is not None, "a lane with a fingerprint reader has an engine"
        return engine

    def _advise(self, command: CompareFinger, advice: Touch) -> None:
        self._advised = advice is not Touch.PLACE_AGAIN
        self._emit(FingerAdvice(command.ticket, command.ask, advice))


def _looked(engine: FingerEngine, print_: Print) -> PrintLook:
    try:
        return engine.look(print_.image, print_.ppi)
    except FingerError as bad:
        raise DeviceFault("not_a_picture", str(bad)) from None


def _scored(engine: FingerEngine, print_: Print, template: bytes) -> float:
    try:
        minutiae = engine.extract(print_.image, print_.ppi)
    except FingerError as bad:
        raise DeviceFault("not_a_picture", str(bad)) from None
    return engine.score(minutiae, template)


def _told(command: CompareFinger, score: float, threshold: float, fmr: float, sensor: str = "") -> FingerCompared:
    result = Check.SUCCESSFUL if score >= threshold else Check.FAILED
    return FingerCompared(command.ticket, command.ask, result, score, threshold, fmr, command.finger, sensor=sensor)
