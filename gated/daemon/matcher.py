"""The matcher: pulls frames while a passenger walks up, keeps the best, and answers `CompareFace`.

Frames never become events and are wiped at `Forget`; only conclusions enter the queue."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from drivers.base import Camera, DeviceFault, Emit
from gated.biometrics.capture import Best, Candidate
from gated.biometrics.face import TemplateUnusable
from gated.daemon.workers import Workers
from gated.icao.check import Check
from gated.lane.commands import CompareFace
from gated.lane.events import Advice, Device, DeviceLost, DeviceReady, FaceAdvice, FaceCompared
from gated.logs import told

log = structlog.get_logger()

SETTLE_S = 0.25
"""After the first usable frame the matcher looks on for so long: a better one usually follows at once."""
ADVISE_EVERY_S = 1.5
PULL_S_MAX = 0.5
RETRY_S = 1.0
BREATH_S = 0.2
"""How long to wait before pulling again after the camera failed: its supervisor is at work."""


@dataclass(slots=True)
class _Looked:
    """What became of one face since `since_mono`, over all requests about it: whoever is compared again, or looked at
    for longer than it took, is advised and compared at the very moments at which they would have been (L8)."""

    subject: int
    since_mono: float
    template: bytes = field(repr=False)
    advised: float
    usable_since: float | None = None
    compared_mono: float = -1.0
    best: FaceCompared | None = None
    shown: Candidate | None = None
    """The frame of `best`."""


@dataclass(slots=True)
class _Asked:
    """A comparison under way."""

    command: CompareFace
    overdue: asyncio.TimerHandle | None = None


class Matcher:
    """One passenger at a time. `template_of`: the face template behind a `subject`; raises `KeyError`."""

    def __init__(self, camera: Camera, workers: Workers, emit: Emit, template_of: Callable[[int], bytes]) -> None:
        self._camera, self._workers, self._emit, self._template_of = camera, workers, emit, template_of
        self._best = Best()
        self._ticket: int | None = None
        self._looked: _Looked | None = None
        self._asked: _Asked | None = None
        self._wake = asyncio.Event()
        self._lost = False

    def watch(self, ticket: int) -> None:
        """Start collecting frames for this ticket."""
        self._drop()
        self._ticket = ticket
        self._wake.set()

    def compare(self, command: CompareFace) -> None:
        """Answer with one `FaceCompared` within the command's time, whatever camera and inference do.

        Only a request that is followed by another one, or whose ticket ends, is not answered: nobody waits for it."""
        loop = asyncio.get_running_loop()
        try:
            template = self._template_of(command.subject)
        except KeyError:
            self._emit(FaceCompared(command.ticket, command.ask, Check.UNDETERMINED))
            return
        self._ticket = command.ticket
        looked = self._looked
        if looked is None or (looked.subject, looked.since_mono) != (command.subject, command.since_mono):
            self._looked = _Looked(command.subject, command.since_mono, template, advised=loop.time())
        asked = _Asked(command)
        asked.overdue = loop.call_later(command.within_s, self._finish, asked)
        self._ask(asked)
        self._answer_soon()
        self._wake.set()

    def best(self, ticket: int, since_mono: float) -> Candidate | None:
        """Of the frames of this ticket since that moment the one that its face was recognised in, or was least unlike;
        where none was compared the best. None where there is none. Whoever has it drops it as soon as they can."""
        if ticket != self._ticket:
            return None
        shown = self._looked.shown if self._looked is not None else None
        return shown if shown is not None and shown.mono >= since_mono else self._best.best(since_mono)

    def forget(self, ticket: int) -> None:
        """Wipe every frame and the template."""
        if self._ticket == ticket:
            self._drop()

    def _drop(self) -> None:
        self._ask(None)
        self._ticket = self._looked = None
        self._best.clear()

    def _ask(self, asked: _Asked | None) -> None:
        if self._asked is not None and self._asked.overdue is not None:
            self._asked.overdue.cancel()
        self._asked = asked

    async def run(self) -> None:
        """Pull, look, compare, for ever."""
        after = 0.0
        self._emit(DeviceReady(Device.MATCHER))
        while True:
            if self._ticket is None and not self._lost:
                self._wake.clear()
                await self._wake.wait()
                after = asyncio.get_running_loop().time()
            after = await self._pull(after)

    async def _pull(self, after: float) -> float:
        """One frame; returns when it was taken."""
        try:
            async with asyncio.timeout(PULL_S_MAX):
                frame = await self._camera.next(after)
        except DeviceFault:
            await asyncio.sleep(BREATH_S)
            return after
        except TimeoutError:
            return after
        except Exception as error:  # noqa: BLE001  # as below
            await self._failed(error)
            return after
        ticket = self._ticket
        try:
            look = await self._workers.run("face", self._workers.faces.look, frame.image)
            if ticket == self._ticket and ticket is not None:
                self._best.offer(frame.mono, frame.image, look)
                await self._compare_best()
        except Exception as error:  # noqa: BLE001  # the networks' runtime raises what it likes
            await self._failed(error)
        else:
            if self._lost:
                self._lost = False
                self._emit(DeviceReady(Device.MATCHER))
        return frame.mono

    async def _failed(self, error: Exception) -> None:
        """Whatever it was: try again with the next frame, whether somebody is there or not."""
        if not self._lost:
            log.error("matcher failed", what=told(error))
            self._emit(DeviceLost(Device.MATCHER, "failed"))
        self._lost = True
        await asyncio.sleep(RETRY_S)

    async def _compare_best(self) -> None:
        """Compare the best frame, once it is worth it. What is found while nobody asks is kept for who asks next."""
        asked, looked = self._asked, self._looked
        if asked is None or looked is None:
            return
        now = asyncio.get_running_loop().time()
        found = self._best.best(looked.since_mono)
        if found is None:
            self._advise(asked, looked, now)
            return
        looked.usable_since = now if looked.usable_since is None else looked.usable_since
        if now - looked.usable_since < SETTLE_S or found.mono <= looked.compared_mono:
            return
        try:
            score = await self._workers.run("face", self._score, found, looked.template)
        except TemplateUnusable as error:  # of this one person: the matcher goes on with the next
            log.error("face template cannot be used", what=told(error))
            self._finish(asked)
            return
        if self._looked is not looked:
            return
        looked.compared_mono, looked.usable_since = found.mono, None
        answer = self._answer(asked.command, found, score)
        if looked.best is None or answer.score > looked.best.score:
            looked.best, looked.shown = answer, found
        self._answer_soon()

    def _answer_soon(self) -> None:
        """Answer before the time is over, where that is wanted and nothing better could come."""
        asked, looked = self._asked, self._looked
        if asked is None or looked is None or looked.best is None or asked.command.whole:
            return
        if looked.best.result is Check.SUCCESSFUL:
            self._finish(asked)

    def _score(self, found: Candidate, template: bytes) -> float:
        faces = self._workers.faces
        return faces.score(faces.embed(found.image, found.look), template)

    def _answer(self, command: CompareFace, found: Candidate, score: float) -> FaceCompared:
        threshold, weak = self._workers.faces.threshold, self._workers.faces.weak
        return FaceCompared(
            command.ticket,
            command.ask,
            Check.SUCCESSFUL if score >= threshold.score else Check.FAILED,
            score,
            threshold.score,
            threshold.fmr,
            found.mono,
            self._best.persons(command.since_mono),
            weak_threshold=weak.score if weak else None,
            weak_fmr=weak.fmr if weak else 1.0,
        )

    def _advise(self, asked: _Asked, looked: _Looked, now: float) -> None:
        advice = self._best.advice(looked.since_mono)
        if advice is not None and now - looked.advised >= ADVISE_EVERY_S:
            looked.advised = now
            self._emit(FaceAdvice(asked.command.ticket, asked.command.ask, Advice(advice)))

    def _finish(self, asked: _Asked) -> None:
        looked = self._looked
        if asked is not self._asked or looked is None:
            return
        self._ask(None)
        command, threshold = asked.command, self._workers.faces.threshold
        persons = self._best.persons(command.since_mono)
        if looked.best is not None:
            self._emit(replace(looked.best, ticket=command.ticket, ask=command.ask, persons=persons))
            return
        self._emit(
            FaceCompared(
                command.ticket, command.ask, Check.UNDETERMINED, 0.0, threshold.score, threshold.fmr, 0.0, persons
            )
        )
