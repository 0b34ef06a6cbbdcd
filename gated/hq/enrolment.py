"""At the counter: document, photograph and fingers become a `Person`, or a named reason why not (E1, E3, E4, E5)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gated.biometrics.face import FaceEngine, template_of
from gated.biometrics.finger import FingerEngine
from gated.hq.fingers import FingersRefused, Offered, enrolled, offers_of
from gated.hq.registers import Paper, Permit, Person
from gated.icao import mrz
from gated.icao.fingers import Finger


class NotEnrolled(Exception):
    """This person cannot be enrolled so. The text says what to do, without anybody's data."""


@dataclass(frozen=True, slots=True)
class Application:
    """What is laid on the counter. `lines`: the machine readable zone. `photo`: a picture file, if there is one.
    `fingers`: what was presented or is missing, by finger; none: the face alone was chosen (E3)."""

    lines: str = field(repr=False)
    photo: Path | None
    category: str = "national"
    permits: tuple[Permit, ...] = ()
    flags: frozenset[str] = field(default=frozenset(), repr=False)
    usable_from: date | None = None
    birth: date | None = field(default=None, repr=False)
    """For documents whose birth date has unknown parts."""
    fingers: Mapping[Finger, Offered] = field(default_factory=dict, repr=False)


def person_of(
    application: Application, engine: FaceEngine, today: date, finger_engine: FingerEngine | None = None
) -> Person:
    """The enrolment of an application, not yet in a register (`subject` 0): all that was laid down in quality, or none
    of it. `finger_engine`: for fingers. Raises `NotEnrolled`."""
    try:
        document = mrz.parse(application.lines)
    except mrz.MrzError as bad:
        raise NotEnrolled(f"the machine readable zone cannot be right: look at the {bad.field}") from None
    birth = application.birth or _whole(document.born_on(today))
    if birth is None:
        raise NotEnrolled("the document does not say the whole birth date: give --birth from the register")
    face = template(application.photo, engine) if application.photo else None
    try:
        fingers = enrolled(application.fingers, finger_engine, face is not None) if application.fingers else ()
    except FingersRefused as bad:
        raise NotEnrolled(str(bad)) from None
    return Person(
        subject=0,
        category=application.category,
        birth=birth,
        sex=document.sex,
        surname=document.surname,
        given_names=document.given_names,
        personal_number=document.personal_number,
        papers=(Paper(document.issuer, document.number),),
        permits=application.permits,
        flags=application.flags,
        face=face,
        face_model=engine.model if application.photo else "",
        fingers=fingers,
        usable_from=application.usable_from,
        enrolled_on=today,
    )


def template(photo: Path, engine: FaceEngine) -> bytes:
    """The template of the one face in a picture file. Raises `NotEnrolled` where it is not good enough (E5)."""
    try:
        data = np.frombuffer(photo.read_bytes(), np.uint8)
    except OSError as bad:
        raise NotEnrolled(f"{photo}: {(bad.strerror or 'cannot be read').lower()}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise NotEnrolled(f"{photo}: is no picture")
    look = engine.look(image)
    if not look.usable:
        raise NotEnrolled(f"{photo}: the picture is not good enough to enrol: {look.advice or 'no usable face'}")
    return template_of(engine.embed(image, look))


def _whole(born: mrz.PartialDate) -> date | None:
    if born.year is None or born.month is None or born.day is None:
        return None
    return date(born.year, born.month, born.day)


def application_of(fields: Mapping[str, Any], folder: Path) -> Application:
    """One line of an enrolment file: `mrz` (list of lines or one text), `photo` (beside the file), `category`,
    `permits` ({kind, start, end, entries_left}), `flags`, `usable_from`, `birth`, `fingers` (see
    `gated.hq.fingers.offers_of`). Raises `NotEnrolled`."""
    known = {"mrz", "photo", "category", "permits", "flags", "usable_from", "birth", "fingers"}
    if unknown := set(fields) - known:
        raise NotEnrolled(f"{min(unknown)!r} is not known here; there are {', '.join(sorted(known))}")
    try:
        lines, photo = fields["mrz"], fields.get("photo") or ""
        if not photo.isprintable():
            raise ValueError("no name of a file")
        return Application(
            lines=lines if isinstance(lines, str) else "\n".join(lines),
            photo=folder / photo if photo else None,
            category=str(fields.get("category", "national")),
            permits=tuple(_permit(permit) for permit in fields.get("permits", ())),
            flags=frozenset(map(str, fields.get("flags", ()))),
            usable_from=_day(fields.get("usable_from")),
            birth=_day(fields.get("birth")),
            fingers=offers_of(fields.get("fingers", {}), folder),
        )
    except FingersRefused as bad:
        raise NotEnrolled(str(bad)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise NotEnrolled(f"a field is missing or of a wrong form ({type(bad).__name__})") from None


def _permit(permit: Mapping[str, Any]) -> Permit:
    left = permit.get("entries_left")
    return Permit(
        str(permit["kind"]),
        date.fromisoformat(permit["start"]),
        date.fromisoformat(permit["end"]),
        None if left is None else int(left),
    )


def _day(text: Any) -> date | None:
    return None if text is None else date.fromisoformat(text)


def applications(path: Path) -> Sequence[tuple[int, Application | NotEnrolled]]:
    """(line number, application or why there is none) of a file with one JSON object a line. Raises `OSError`."""
    found: list[tuple[int, Application | NotEnrolled]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise NotEnrolled("is no JSON object")
            found.append((number, application_of(fields, path.parent)))
        except (ValueError, RecursionError):  # also a number of thousands of digits, and brackets in brackets
            found.append((number, NotEnrolled("is no JSON object")))
        except NotEnrolled as bad:
            found.append((number, bad))
    return found
