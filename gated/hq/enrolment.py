"""At the counter: document, photograph and fingers become a `Person`, or a named reason why not (E1, E3, E4, E5).

An office of household registration enrols who holds no passport yet: there the personal number takes its place (E2)."""

import json
import re
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
from gated.hq.people import COUNTER, OFFICE, Paper, Person
from gated.icao import mrz
from gated.icao.fingers import Finger
from gated.lane.entitlement import age_years
from gated.lane.events import Permit
from gated.lane.rules import Rules

_NUMBER = re.compile(r"[A-Z0-9]{1,64}")


class NotEnrolled(Exception):
    """This person cannot be enrolled so. The text says what to do, without anybody's data."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, by a document or by the household register."""

    personal_number: str | None = field(repr=False)
    """As a machine readable zone has it."""
    birth: date = field(repr=False)
    sex: str = field(repr=False)
    surname: str = field(default="", repr=False)
    given_names: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Application:
    """What is laid on the counter. `lines`: the machine readable zone; None: there is no passport, and `identity` says
    who it is. `photo`: a picture file, if there is one. `fingers`: what was presented or is missing, by finger; none:
    the face alone was chosen (E3). `origin`: counter or office."""

    lines: str | None = field(repr=False)
    photo: Path | None
    category: str = "national"
    permits: tuple[Permit, ...] = ()
    flags: frozenset[str] = field(default=frozenset(), repr=False)
    usable_from: date | None = None
    birth: date | None = field(default=None, repr=False)
    """For documents whose birth date has unknown parts."""
    fingers: Mapping[Finger, Offered] = field(default_factory=dict, repr=False)
    identity: Identity | None = field(default=None, repr=False)
    height_cm: int | None = field(default=None, repr=False)
    """As stated (E2)."""
    origin: str = COUNTER


def person_of(
    application: Application,
    engine: FaceEngine,
    today: date,
    finger_engine: FingerEngine | None = None,
    rules: Rules | None = None,
) -> Person:
    """The enrolment of an application, not yet in a register (`subject` 0): all that was laid down in quality, or none
    of it. `finger_engine`: for fingers. `rules`: names are the policy's own; None: they are not checked, and no office
    can enrol. Raises `NotEnrolled`."""
    identity, papers = _holder(application, today)
    check(application, identity.birth, today, rules)
    face = template(application.photo, engine) if application.photo else None
    try:
        fingers = enrolled(application.fingers, finger_engine, face is not None) if application.fingers else ()
    except FingersRefused as bad:
        raise NotEnrolled(str(bad)) from None
    if application.origin == OFFICE and face is None and not fingers:
        raise NotEnrolled("an office enrols a face, or a face and fingers (E3): there is neither")
    return Person(
        subject=0,
        category=application.category,
        birth=identity.birth,
        sex=identity.sex,
        surname=identity.surname,
        given_names=identity.given_names,
        personal_number=identity.personal_number,
        papers=papers,
        permits=application.permits,
        flags=application.flags,
        face=face,
        face_model=engine.model if application.photo else "",
        fingers=fingers,
        usable_from=application.usable_from,
        enrolled_on=today,
        origin=application.origin,
        height_cm=application.height_cm,
    )


def _holder(application: Application, today: date) -> tuple[Identity, tuple[Paper, ...]]:
    """Who it is, and the documents that lead there."""
    lines, identity = application.lines, application.identity
    if application.origin == OFFICE:
        if lines is not None or identity is None or identity.personal_number is None:
            raise NotEnrolled(
                "an office enrols who holds no passport (E2), by personal_number, birth and sex; counters the others"
            )
        return identity, ()
    if lines is None or identity is not None:
        raise NotEnrolled("a counter enrols by the machine readable zone of a document (E1), and by nothing else")
    try:
        document = mrz.parse(lines)
    except mrz.MrzError as bad:
        raise NotEnrolled(f"the machine readable zone cannot be right: look at the {bad.field}") from None
    birth = application.birth or whole(document.born_on(today))
    if birth is None:
        raise NotEnrolled("the document does not say the whole birth date: give --birth from the register")
    names = document.surname, document.given_names
    return Identity(document.personal_number, birth, document.sex, *names), (Paper(document.issuer, document.number),)


def check(application: Application, birth: date, today: date, rules: Rules | None) -> None:
    """What the policy says of who is enrolled where, and of the names of things. Raises `NotEnrolled`."""
    if rules is None:
        if application.origin == OFFICE:
            raise NotEnrolled("whom an office may enrol (E2) the policy says: give --policy")
        return
    origin = rules.origins.get(application.origin)
    if origin is None:
        raise NotEnrolled(f"the policy knows no enrolment at a place called {application.origin}")
    asked = (
        ("category", {application.category}, origin.categories),
        ("kind of permit", {permit.kind for permit in application.permits}, rules.permits),
        ("control flag", application.flags, rules.controls.keys()),
    )
    for noun, names, known in asked:
        if unknown := sorted(names - known):
            there = f"; there are {', '.join(sorted(known)) or 'none'}"
            raise NotEnrolled(f"{unknown[0]!r} is no {noun} of those enrolled at the {application.origin}{there}")
    if origin.age_years_min is not None and age_years(birth, today) < origin.age_years_min:
        raise NotEnrolled(f"is not yet {origin.age_years_min} years old (E2)")
    if origin.height_cm_min is not None:
        if application.height_cm is None:
            raise NotEnrolled("the height must be stated (E2): give height_cm")
        if application.height_cm < origin.height_cm_min:
            raise NotEnrolled(f"is not {origin.height_cm_min} cm tall (E2)")


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


def whole(born: mrz.PartialDate) -> date | None:
    """The day, where all of it is printed."""
    if born.year is None or born.month is None or born.day is None:
        return None
    return date(born.year, born.month, born.day)


def application_of(fields: Mapping[str, Any], folder: Path, origin: str = COUNTER) -> Application:
    """One line of an enrolment file: `mrz` (list of lines or one text), `photo` (beside the file), `category`,
    `permits` ({kind, start, end, entries_left}), `flags`, `usable_from`, `birth`, `fingers` (see
    `gated.hq.fingers.offers_of`), `height_cm`. `origin` office: the fields of `Identity` instead of `mrz`. Raises
    `NotEnrolled`."""
    known = {"mrz", "photo", "category", "permits", "flags", "usable_from", "birth", "fingers", "height_cm"}
    if origin == OFFICE:
        known = known - {"mrz"} | {"personal_number", "sex", "surname", "given_names"}
    if unknown := set(fields) - known:
        raise NotEnrolled(f"{min(unknown)!r} is not known here; there are {', '.join(sorted(known))}")
    try:
        lines, photo = None if origin == OFFICE else fields["mrz"], fields.get("photo") or ""
        if not photo.isprintable():
            raise ValueError("no name of a file")
        return Application(
            lines=lines if isinstance(lines, str | None) else "\n".join(lines),
            photo=folder / photo if photo else None,
            category=str(fields.get("category", "national")),
            permits=tuple(_permit(permit) for permit in fields.get("permits", ())),
            flags=frozenset(map(str, fields.get("flags", ()))),
            usable_from=_day(fields.get("usable_from")),
            birth=_day(fields.get("birth")),
            fingers=offers_of(fields.get("fingers", {}), folder),
            identity=identity_of(fields) if origin == OFFICE else None,
            height_cm=_height(fields.get("height_cm")),
            origin=origin,
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


def identity_of(fields: Mapping[str, Any]) -> Identity:
    """`personal_number`, `birth`, `sex`, and `surname` and `given_names` where they are given. Raises `NotEnrolled`,
    and what wrong types raise."""
    number, birth, sex = (fields[name] for name in ("personal_number", "birth", "sex"))
    if not _NUMBER.fullmatch(number):
        raise NotEnrolled("the personal number is of capital letters and digits")
    if sex not in ("M", "F", "X"):
        raise NotEnrolled("sex is M, F or X")
    surname, given = (str(fields.get(name) or "")[:64] for name in ("surname", "given_names"))
    return Identity(number, date.fromisoformat(birth), sex, surname, given)


def _height(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 30 <= value <= 250):
        raise ValueError("no height in centimetres")
    return value


def applications(path: Path, origin: str = COUNTER) -> Sequence[tuple[int, Application | NotEnrolled]]:
    """(line number, application or why there is none) of a file with one JSON object a line. Raises `OSError`."""
    found: list[tuple[int, Application | NotEnrolled]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise NotEnrolled("is no JSON object")
            found.append((number, application_of(fields, path.parent, origin)))
        except (ValueError, RecursionError):  # also a number of thousands of digits, and brackets in brackets
            found.append((number, NotEnrolled("is no JSON object")))
        except NotEnrolled as bad:
            found.append((number, bad))
    return found
