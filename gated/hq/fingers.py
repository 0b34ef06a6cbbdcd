"""Fingers at the counter: files become templates, and which fingers are taken (E3, E4, E5)."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from gated.biometrics.finger import FingerEngine, FingerError
from gated.biometrics.fingerquality import enrolment_floor
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.prints import read_print
from gated.biometrics.template import FingerTemplate, TemplateError, decode, encode
from gated.hq.registers import EnrolledFinger
from gated.icao.fingers import ORDER, Finger

ISO: Final = "iso19794-2"
TEMPLATE_BYTES_MAX: Final = 8192
"""What a lane's cache holds of one finger."""
ROWS_MAX: Final = 10
"""Templates of one person in a lane's cache."""
MINUTIAE_MIN: Final = 12
"""With fewer of them nobody is recognised again, however clear the ridges are."""
QUALITY_MAX: Final = 100
"""A template's quality above it is not told."""
WHY_MISSING: Final = ("amputated", "bandaged", "unreadable")
HANDS: Final[Mapping[str, tuple[Finger, ...]]] = {
    hand: tuple(finger for finger in ORDER if finger.value.startswith(hand)) for hand in ("right", "left")
}
"""Each hand's fingers in the order of E4."""
_FORMAT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class FingersRefused(Exception):
    """These fingers cannot be enrolled. The text says which one and what to do, without anybody's data."""


@dataclass(frozen=True, slots=True)
class FingerFile:
    """One file of one finger. `format` None: a picture; `iso19794-2`: such a template or one of ANSI/INCITS 378; any
    other: a template that only the sensor of that name understands. `ppi`: of a picture, whatever it says itself."""

    path: Path
    format: str | None = None
    ppi: float | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """What the counter has of one finger: its files, or why there are none (`amputated`, `bandaged`, `unreadable`)."""

    files: tuple[FingerFile, ...] = ()
    missing: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A finger that was read. `minutiae` None where a sensor's own template is all there is."""

    rows: tuple[EnrolledFinger, ...] = field(repr=False)
    quality: int | None
    minutiae: Minutiae | None


def choose(offered: Mapping[Finger, int | None], missing: Collection[Finger]) -> tuple[Finger, ...]:
    """The fingers that are taken, at most one a hand, the right one first. `offered`: quality, 0 to 100, of each finger
    that was presented; None: not told, and taken as clear.

    Of each hand it is the first in the order of E4 that reaches its floor. A finger is passed over only where it is
    missing or was presented and is unclear: a thumb without a word about the index finger is not taken."""
    found = (_first(hand, offered, missing) for hand in HANDS)
    return tuple(finger for finger in found if finger is not None and _clear(finger, offered))


def _first(hand: str, offered: Mapping[Finger, int | None], missing: Collection[Finger]) -> Finger | None:
    """The finger at which the search in a hand ends: one that is taken, or the next that has to be presented."""
    for finger in HANDS[hand]:
        if finger not in missing and (finger not in offered or _clear(finger, offered)):
            return finger
    return None


def _clear(finger: Finger, offered: Mapping[Finger, int | None]) -> bool:
    if finger not in offered:
        return False
    quality = offered[finger]
    return quality is None or quality >= enrolment_floor(finger)


def _demand(offered: Mapping[Finger, int | None], missing: Collection[Finger], with_face: bool) -> None:
    """Raises `FingersRefused` where a hand gives no finger and could, or gives none and there is no face (E3, E4)."""
    bare = []
    for hand in HANDS:
        first = _first(hand, offered, missing)
        if first is not None and _clear(first, offered):
            continue
        unclear = [f for f in HANDS[hand] if f in offered and f not in missing and not _clear(f, offered)]
        if unclear:
            told = ", ".join(
                f"{f.value}: quality {offered[f]}, at least {enrolment_floor(f)} is needed" for f in unclear
            )
            other = f", or present {first.value}" if first else ", or mark as unreadable what never will be clear"
            raise FingersRefused(f"{told}: take it again{other}")
        if first is not None:
            raise FingersRefused(f"{first.value}: present it, or mark it as {' or '.join(WHY_MISSING)}")
        bare.append(hand)
    if bare and not with_face:
        raise FingersRefused(f"without a face a finger of each hand is needed, and the {bare[0]} hand has none")
    if len(bare) == len(HANDS):
        raise FingersRefused("every finger is marked as missing: enrol the face alone, without fingers")


def enrolled(
    fingers: Mapping[Finger, Offered], engine: FingerEngine | None, with_face: bool
) -> tuple[EnrolledFinger, ...]:
    """The templates that the register keeps, in the order of E4; of no picture anything else is kept. `engine`: needed
    for all but sensors' own templates. Raises `FingersRefused`."""
    missing = frozenset(finger for finger, offer in fingers.items() if offer.missing is not None)
    taken = {finger: _read(finger, offer.files, engine) for finger, offer in fingers.items() if offer.files}
    offered = {finger: each.quality for finger, each in taken.items()}
    _demand(offered, missing, with_face)
    _distinct({finger: each for finger, each in taken.items() if _clear(finger, offered)}, engine)
    chosen = choose(offered, missing)
    rows = tuple(row for finger in ORDER if finger in chosen for row in taken[finger].rows)
    if len(rows) > ROWS_MAX:
        raise FingersRefused(f"{len(rows)} templates of one person: at most {ROWS_MAX}")
    return rows


def _read(finger: Finger, files: tuple[FingerFile, ...], engine: FingerEngine | None) -> _Taken:
    quality: int | None = None
    minutiae: Minutiae | None = None
    rows: dict[str, EnrolledFinger] = {}
    for file in files:
        name = file.format or ISO
        if name in rows:
            raise FingersRefused(f"{finger.value}: two files that become one {name} template: give one of them")
        try:
            if name != ISO:
                template = _content(file.path)
            elif file.format is None:
                quality, minutiae, template = _picture(finger, file, engine)
            else:
                quality, minutiae, template = _standard(finger, file.path)
        except (FingerError, TemplateError) as bad:
            raise FingersRefused(f"{finger.value}: {file.path}: {bad}") from None
        rows[name] = EnrolledFinger(finger.value, name, template, quality if name == ISO else None)
    return _Taken(tuple(rows.values()), quality, minutiae)


def _picture(finger: Finger, file: FingerFile, engine: FingerEngine | None) -> tuple[int, Minutiae | None, bytes]:
    """Quality, minutiae and template; neither of these of a picture below the floor: it is not enrolled."""
    if engine is None:
        raise ValueError("pictures need an engine")
    image, ppi = read_print(file.path, file.ppi)
    quality = engine.look(image, ppi).quality
    if quality < enrolment_floor(finger):
        return quality, None, b""
    minutiae = engine.extract(image, ppi)
    return quality, minutiae, encode(_enough(FingerTemplate.of(minutiae, finger, quality)))


def _standard(finger: Finger, path: Path) -> tuple[int | None, Minutiae, bytes]:
    """Quality, minutiae and template: this finger's best impression in the record, at 500 pixels an inch in
    ISO/IEC 19794-2:2005, without anything that the writer added."""
    views = decode(_content(path)).views
    own = [view for view in views if view.finger is finger]
    if not own and len(views) == 1 and views[0].position == 0:
        own = list(views)
    if not own:
        raise FingerError("the template says that it is of another finger: look at which finger it was taken of")
    view = max(own, key=lambda each: each.quality if each.quality <= QUALITY_MAX else -1)
    quality = view.quality if view.quality <= QUALITY_MAX else None
    minutiae = view.minutiae
    return quality, minutiae, encode(_enough(FingerTemplate.of(minutiae, finger, quality or 0)))


def _enough(template: FingerTemplate) -> FingerTemplate:
    found = len(template.views[0].points)
    if found < MINUTIAE_MIN:
        raise FingerError(f"{found} minutiae, at least {MINUTIAE_MIN} are needed: take it again or mark it unreadable")
    return template


def _content(path: Path) -> bytes:
    """A template's file, whole. Raises `FingerError`."""
    try:
        with path.open("rb") as file:
            content = file.read(TEMPLATE_BYTES_MAX + 1)
    except OSError as bad:
        raise FingerError((bad.strerror or "cannot be read").lower()) from None
    if not 0 < len(content) <= TEMPLATE_BYTES_MAX:
        raise FingerError(f"a template has 1 to {TEMPLATE_BYTES_MAX} bytes")
    return content


def _distinct(taken: Mapping[Finger, _Taken], engine: FingerEngine | None) -> None:
    """Raises `FingersRefused` where two positions show one finger."""
    for (one, first), (other, second) in combinations(taken.items(), 2):
        if _same(first, second, engine):
            raise FingersRefused(f"{one.value} and {other.value} are the same finger: present both again")


def _same(one: _Taken, other: _Taken, engine: FingerEngine | None) -> bool:
    templates = {row.format: row.template for row in one.rows}
    if any(templates.get(row.format) == row.template for row in other.rows):
        return True
    if one.minutiae is None or other.minutiae is None:
        return False
    if engine is None:
        raise ValueError("standard templates need an engine")
    standard = next(row.template for row in other.rows if row.format == ISO)
    return engine.score(one.minutiae, standard) >= engine.threshold.score


def offers_of(fields: Any, folder: Path) -> dict[Finger, Offered]:
    """`fingers` of one line of an enrolment file: by position an object, or a list of objects for several formats:
    {"image": FILE, "ppi": 500}, {"template": FILE, "format": "zfm"} or {"missing": "bandaged"}. Raises
    `FingersRefused`."""
    if not isinstance(fields, dict):
        raise FingersRefused("fingers is an object of positions")
    offers = {}
    for position, value in fields.items():
        finger = finger_named(position)
        if isinstance(value, dict) and "missing" in value:
            offers[finger] = _absent(finger, value)
        else:
            each = value if isinstance(value, list) else [value]
            offers[finger] = Offered(tuple(_file(finger, part, folder) for part in each))
            if not each:
                raise FingersRefused(f"{finger.value}: no file is named")
    return offers


def finger_named(position: str) -> Finger:
    """Raises `FingersRefused` for what is no position."""
    try:
        return Finger(position)
    except ValueError:
        raise FingersRefused(f"there is no such finger; there are {', '.join(f.value for f in ORDER)}") from None


def absent(finger: Finger, why: str) -> Offered:
    """A finger that is not there. Raises `FingersRefused` for a reason that is not known."""
    if why not in WHY_MISSING:
        raise FingersRefused(f"{finger.value}: missing is one of {', '.join(WHY_MISSING)}")
    return Offered(missing=why)


def _absent(finger: Finger, fields: Mapping[str, Any]) -> Offered:
    if set(fields) != {"missing"}:
        raise FingersRefused(f"{finger.value}: either missing or a file")
    return absent(finger, fields["missing"])


def _file(finger: Finger, fields: Any, folder: Path) -> FingerFile:
    wanted = f"{finger.value}: an image (and its ppi) or a template (and its format) is wanted"
    texts = [fields.get(key, "") for key in ("image", "template", "format")] if isinstance(fields, dict) else [None]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise FingersRefused(wanted)
    if fields.keys() <= {"image", "ppi"} and fields.get("image"):
        ppi = fields.get("ppi")
        if ppi is not None and (isinstance(ppi, bool) or not isinstance(ppi, int | float)):
            raise FingersRefused(f"{finger.value}: ppi is a number")
        return FingerFile(folder / fields["image"], ppi=ppi)
    if fields.keys() <= {"template", "format"} and fields.get("template"):
        name = fields.get("format", ISO)
        if not _FORMAT.fullmatch(name):
            raise FingersRefused(f"{finger.value}: format is {ISO} or the name of a sensor's own, such as zfm")
        return FingerFile(folder / fields["template"], name)
    raise FingersRefused(wanted)
