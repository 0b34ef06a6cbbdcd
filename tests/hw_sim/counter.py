"""HQ's counter in a demonstration: photographs and synthetic fingers become enrolments, by HQ's own code."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from gated.biometrics.face import OnnxFaceEngine
from gated.biometrics.finger import OnnxFingerEngine
from gated.hq.enrolment import Application, NotEnrolled, person_of, template
from gated.hq.fingers import FingerFile, Offered
from gated.hq.registers import Paper, PaperStatus, Permit, Register
from gated.icao.fingers import Finger
from tests.hw_sim.cast import Enrolment
from tests.hw_sim.fingers import FingerBook
from tests.hw_sim.gallery import Person
from tests.hw_sim.glasses import READERS, module

if TYPE_CHECKING:
    from tests.hw_sim.site import Plan

TRIES = 4
"""So often a finger is taken again where it was not good enough."""


class Counter:
    """Enrols people into a register. What it writes beside, in `folder`, is the caller's to delete."""

    def __init__(self, plan: "Plan", everybody: Sequence[Person], register: Register, folder: Path, face: str) -> None:
        """`face`: the threshold of faces."""
        self._plan, self._everybody, self._register, self._folder = plan, everybody, register, folder
        self._faces = OnnxFaceEngine(Path(plan.models), face, 2)
        self._model = READERS[plan.reader]
        self._fingers = OnnxFingerEngine(Path(plan.models), "fmr_1e-3", 2) if self._model else None
        self._book = FingerBook(plan.seed)

    def see(self, person: int) -> None:
        """Whether somebody's photograph will do. Raises `NotEnrolled`."""
        photograph = self._everybody[person].enrolled
        assert photograph is not None, "nobody is enrolled without a photograph"
        template(photograph, self._faces)

    def likest(self, person: int) -> tuple[int, float]:
        """Which of the photographs that are shown of somebody is most like the enrolled one, and how much it is above
        the threshold. Raises `NotEnrolled`."""
        photograph = self._everybody[person].enrolled
        assert photograph is not None, "nobody is enrolled without a photograph"
        enrolled = template(photograph, self._faces)
        scores = [self._likeness(path, enrolled) for path in self._everybody[person].shown]
        best = max(range(len(scores)), key=scores.__getitem__)
        return best, scores[best] - self._faces.threshold.score

    def _likeness(self, path: Path, enrolled: bytes) -> float:
        """-1 for a photograph that will not do."""
        try:
            return self._faces.score(np.frombuffer(template(path, self._faces), "<f4"), enrolled)
        except NotEnrolled:
            return -1.0

    def enrol(self, enrolment: Enrolment) -> None:
        """Put them into the register. Raises `NotEnrolled`."""
        photograph = self._everybody[enrolment.person].enrolled if enrolment.face else None
        for attempt in range(TRIES):
            application = Application(
                "\n".join(enrolment.paper.lines),
                photograph,
                enrolment.category,
                tuple(Permit(p.kind, p.start, p.end, p.entries_left) for p in enrolment.permits_held),
                enrolment.flags,
                fingers={Finger(name): self._offered(enrolment.person, name, attempt) for name in enrolment.fingers},
            )
            try:
                person = person_of(application, self._faces, self._plan.day, self._fingers)
                self._register.enrol(
                    replace(
                        person,
                        origin=enrolment.origin,
                        enrolled_on=enrolment.enrolled_on or person.enrolled_on,
                        received_on=enrolment.received_on,
                        height_cm=enrolment.height_cm,
                        crossings=enrolment.crossings,
                    )
                )
                if enrolment.document_flags:
                    paper = enrolment.paper
                    self._register.set_status(PaperStatus(Paper(paper.issuer, paper.number), enrolment.document_flags))
            except NotEnrolled:
                if not enrolment.fingers or attempt == TRIES - 1:
                    raise
            else:
                return

    def _offered(self, person: int, name: str, attempt: int) -> Offered:
        assert self._model is not None
        picture = self._book.impression(person, Finger(name), attempt, self._model.size)
        path = self._folder / f"{person}-{name}"
        if self._plan.reader != "zfm-sensor":
            path = path.with_suffix(".png")
            cv2.imwrite(str(path), picture)
            return Offered((FingerFile(path),))
        # A module that compares by itself: its kind enrols too.
        taker = module(self._plan.reader, None, random.Random(0), self._engine)
        path.write_bytes(taker.template(picture))
        return Offered((FingerFile(path, "zfm"),))

    def _engine(self) -> OnnxFingerEngine:
        assert self._fingers is not None
        return self._fingers
