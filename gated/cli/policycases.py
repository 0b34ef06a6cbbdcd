"""Cases: what the rules of a policy read of somebody whom a lane judged, and nothing else: no name, number or score.

`gated policy cases` takes them from a lane's journal, `gated policy diff` asks two policies of them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Final

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.entitlement import age_years, is_inside, valid_permit
from gated.lane.events import CacheStand, ChipRead, Crossed, FaceCompared, FingerCompared, Permit, Traveller
from gated.lane.evidence import Decision, Evidence
from gated.lane.policy import BEFORE_ENTRY, BEFORE_EXIT, judge, refusal
from gated.lane.proof import face_stands, proven_fingers
from gated.lane.rules import Rules
from gated.store.journal import Entry, JournalReader
from gated.store.sql import StoreError
from gated.wire.codec import WireError, decode, encode, family, kinds

LINE_BYTES_MAX: Final = 1 << 16
PASS: Final = "pass"
LET_IN: Final = "let_in"
"""They were refused before the entry, and this policy lets them in: what would have come then nobody knows."""
QUARTER_S: Final = 900
"""In every time zone days begin on a quarter of an hour."""
_MOMENT: Final = datetime(2000, 1, 1, 12, tzinfo=UTC)
_RULES: Final = frozenset(rule.__name__ for rule in BEFORE_EXIT)
_AT_ENTRY: Final = frozenset(rule.__name__ for rule in BEFORE_ENTRY)


class Match(Enum):
    """What the face was, by the lane's thresholds."""

    STANDS = "stands"
    WEAK = "weak"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Seen:
    """The face that was compared."""

    match: Match
    alone: bool
    fresh: bool
    pad: Check


@dataclass(frozen=True, slots=True)
class Matched:
    """A finger that is the enrolled one."""

    finger: str
    pad: Check


@dataclass(frozen=True, slots=True)
class Holder:
    """What the rules read of somebody who is enrolled."""

    category: str
    age_years: int
    height_cm: int | None
    origin: str
    enrolled_on: date | None
    received_on: date | None
    usable_from: date | None
    face: bool
    fingers: int
    permits: frozenset[str]
    """Kinds that held on the day."""
    entries_left: frozenset[str]
    """Those of them with entries left."""
    inside: bool | None
    """By the last crossing; None: none is known."""
    left: datetime | None
    """The last exit of somebody who is outside, to the quarter of an hour."""
    other_document: bool
    """The last entry of somebody who is inside was with another document."""


@dataclass(frozen=True, slots=True)
class Case:
    """One verdict that was asked for. Control flags are among it: keep it as the lane's journal is kept."""

    day: date
    direction: str
    place: str
    clock_trusted: bool
    document_code: str
    document_issuer: str
    document_expired: bool
    document_flags: frozenset[str]
    flags: frozenset[str] = field(repr=False)
    holder: Holder | None = field(repr=False)
    cache_ages_s: tuple[int, int] | None
    """Of people and control, in whole seconds."""
    chip: tuple[Check, Check, Check] | None
    """Access, authentic, not cloned."""
    finger_reader: bool
    face: Seen | None
    fingers: tuple[Matched, ...]
    proven: bool
    """The verdict was asked for before the exit; else before the entry, and nothing was compared."""


_KINDS: Final = kinds(Case)


# -- out of a journal ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Journal:
    """The cases of a journal, and what was passed over."""

    path: Path
    key: bytes = field(repr=False)
    verdicts: int = 0
    not_by_rule: int = 0
    """Referred or let out for what happened in the lane, or by somebody's order."""
    other_edition: int = 0
    """Written by an edition of the lane that this one cannot read."""

    def cases(self) -> Iterator[Case]:
        """Every verdict on a passenger that a rule made, in order. Raises `StoreError`."""
        reader = JournalReader(self.path, family(vars(ev), ev.Event), family(vars(cmd), cmd.Command), self.key)
        try:
            for boot in reader.boots():
                for entry in reader.read(boot.boot, boot.first):
                    if any("Record" in command for command in entry.clear[1]):
                        yield from self._of(entry)
        finally:
            reader.close()

    def _of(self, entry: Entry) -> Iterator[Case]:
        try:
            _, commands = entry.replayed()
        except StoreError as bad:
            if bad.why != "other_edition":
                raise
            self.other_edition += 1
            return
        for record in commands:
            if not isinstance(record, cmd.Record):
                continue
            if record.by is not None or not _by_rule(record):
                self.not_by_rule += 1
                continue
            self.verdicts += 1
            yield case_of(record.evidence, record.verdict.reason)


def _by_rule(record: cmd.Record) -> bool:
    verdict = record.verdict
    by_rule = verdict.decision is Decision.GRANT or (verdict.decision is Decision.REFER and verdict.reason in _RULES)
    return by_rule and record.evidence.document is not None


def case_of(e: Evidence, reason: str) -> Case:
    """What the rules read of it. `reason`: of the verdict that it led to. Raises `ValueError` without a document."""
    if e.document is None:
        raise ValueError("nobody is judged without a document")
    ages = None
    if e.cache is not None:
        ages = _seconds(e.opened - e.cache.people_as_of), _seconds(e.opened - e.cache.control_as_of)
    proven = proven_fingers(e)
    return Case(
        day=e.day,
        direction=e.direction,
        place=e.place,
        clock_trusted=e.clock_trusted,
        document_code=e.document.code,
        document_issuer=e.document.issuer,
        document_expired=e.document.expires_on(e.day) < e.day,
        document_flags=e.document_flags,
        flags=e.flags | (e.traveller.flags if e.traveller is not None else frozenset()),
        holder=_holder(e, e.traveller) if e.traveller is not None else None,
        cache_ages_s=ages,
        chip=(e.chip.access, e.chip.authentic, e.chip.not_cloned) if e.chip is not None else None,
        finger_reader=e.finger_reader,
        face=Seen(_match(e), e.face.persons == 1, e.face.captured_mono >= e.since_mono, e.face.pad) if e.face else None,
        fingers=tuple(
            Matched(f.finger, f.pad) for f in e.fingers if f.finger in proven and f.result is Check.SUCCESSFUL
        ),
        proven=reason not in _AT_ENTRY or e.face is not None or bool(e.fingers),
    )


def _seconds(age: timedelta) -> int:
    """Whole ones: policies tell ages by no less."""
    return age // timedelta(seconds=1)


def _holder(e: Evidence, who: Traveller) -> Holder:
    held = frozenset(permit.kind for permit in who.permits)
    inside = is_inside(e)
    left = who.left.utc.astimezone(UTC) if who.left is not None and not inside else None
    return Holder(
        category=who.category,
        age_years=age_years(who.birth, e.day),
        height_cm=who.height_cm,
        origin=who.origin,
        enrolled_on=who.enrolled_on,
        received_on=who.received_on,
        usable_from=who.usable_from,
        face=who.face,
        fingers=len(who.fingers),
        permits=frozenset(kind for kind in held if valid_permit(e, kind) is not None),
        entries_left=frozenset(kind for kind in held if valid_permit(e, kind, entries=True) is not None),
        inside=inside,
        left=left and datetime.fromtimestamp(left.timestamp() // QUARTER_S * QUARTER_S, UTC),
        other_document=bool(inside and who.entered is not None and not who.entered.this_document),
    )


def _match(e: Evidence) -> Match:
    face = e.face
    if face is None or face_stands(e):
        return Match.STANDS
    weak = face.weak_threshold is not None and face.result is Check.FAILED and face.score >= face.weak_threshold
    return Match.WEAK if weak else Match.OTHER


# -- and asked again -----------------------------------------------------------------------------------------------


def evidence_of(case: Case) -> Evidence:
    """Evidence of which every rule says what it said then. Raises `ValueError`, `OverflowError` for what cannot be."""
    expires = case.day - timedelta(days=1) if case.document_expired else case.day
    stand = None
    if case.cache_ages_s is not None:
        people, control = (_MOMENT - timedelta(seconds=age) for age in case.cache_ages_s)
        stand = CacheStand(1, people, 1, control)
    return Evidence(
        opened=_MOMENT,
        day=case.day,
        direction=case.direction,
        place=case.place,
        clock_trusted=case.clock_trusted,
        document=Document(
            format="",
            code=case.document_code,
            issuer=case.document_issuer,
            number="",
            nationality="",
            birth="",
            sex="",
            expiry=expires.strftime("%y%m%d"),
            surname="",
            given_names="",
            names_truncated=False,
            optional="",
            lines=(),
        ),
        traveller=_traveller(case, case.holder) if case.holder is not None else None,
        document_flags=case.document_flags,
        flags=case.flags,
        cache=stand,
        chip=ChipRead(1, 1, *case.chip) if case.chip is not None else None,
        face=_face(case.face) if case.face is not None else None,
        finger_reader=case.finger_reader,
        fingers=tuple(FingerCompared(1, 1, Check.SUCCESSFUL, 1.0, 0.5, 1.0, f.finger, f.pad) for f in case.fingers),
    )


def _traveller(case: Case, who: Holder) -> Traveller:
    day = case.day
    born_on = 28 if (day.month, day.day) == (2, 29) else day.day
    return Traveller(
        subject=1,
        category=who.category,
        birth=date(day.year - who.age_years, day.month, born_on),
        flags=frozenset(),
        permits=tuple(Permit(kind, day, day, None if kind in who.entries_left else 0) for kind in sorted(who.permits)),
        face=who.face,
        fingers=tuple(str(number) for number in range(who.fingers)),
        usable_from=who.usable_from,
        origin=who.origin,
        enrolled_on=who.enrolled_on,
        received_on=who.received_on,
        height_cm=who.height_cm,
        entered=Crossed(_MOMENT, not who.other_document) if who.inside else None,
        left=Crossed(who.left) if who.left is not None else None,
    )


def _face(seen: Seen) -> FaceCompared:
    result = Check.SUCCESSFUL if seen.match is Match.STANDS else Check.FAILED
    score = {Match.STANDS: 0.5, Match.WEAK: 0.25, Match.OTHER: 0.0}[seen.match]
    captured_mono = 0.0 if seen.fresh else -1.0
    return FaceCompared(1, 1, result, score, 0.5, 1.0, captured_mono, 1 if seen.alone else 2, seen.pad, 0.25)


def outcome(evidence: Evidence, proven: bool, rules: Rules) -> str:
    """pass, the rule that refers, or let_in."""
    refused = refusal(evidence, rules)
    if refused is not None:
        return refused
    if not proven:
        return LET_IN
    verdict = judge(evidence, rules)
    return PASS if verdict.decision is Decision.GRANT else verdict.reason


@dataclass(frozen=True, slots=True)
class Change:
    """People whom two policies treat differently in the same way."""

    was: str
    becomes: str
    category: str
    """Empty: of people whom the cache does not know."""


@dataclass(slots=True)
class Difference:
    """What two policies say of the same cases."""

    cases: int = 0
    changes: dict[Change, list[int]] = field(default_factory=dict)
    """The numbers of the cases, by line, from 1 on."""
    outcomes: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))


def compare(a: Rules, b: Rules, path: Path) -> Difference:
    """Ask both of every case of a file. Raises `CasesError`, `OSError`."""
    found = Difference()
    for number, (evidence, proven) in enumerate(read(path), 1):
        was, becomes = (outcome(evidence, proven, rules) for rules in (a, b))
        found.cases += 1
        for counter, each in zip(found.outcomes, (was, becomes), strict=True):
            counter[each] += 1
        if was != becomes:
            category = evidence.traveller.category if evidence.traveller is not None else ""
            found.changes.setdefault(Change(was, becomes, category), []).append(number)
    return found


class CasesError(Exception):
    """A line of a file of cases is none."""


def read(path: Path) -> Iterator[tuple[Evidence, bool]]:
    """(evidence, proven) of every line. Raises `CasesError`, which names the line and never the content; `OSError`."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            try:
                case = decode(_KINDS, line.rstrip(b"\n"))
                evidence = evidence_of(case)
            except WireError as wrong:
                raise CasesError(f"{path}:{number}: {wrong}") from None
            except (ValueError, OverflowError):
                raise CasesError(f"{path}:{number}: a day, a number of years or an age that cannot be") from None
            yield evidence, case.proven


def line_of(case: Case) -> bytes:
    """One line of a file of cases."""
    return encode(case) + b"\n"
