"""config/policy/*.toml -> Rules. Every error names file, line and option; a policy is used whole or not at all.

A policy carries examples of its own: who passes, and who does not, and why. Where one of them does not come out as it
says, the policy is not what its author meant, and no lane takes it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gated.config import ConfigError, TomlFile
from gated.lane.calendar import Calendar
from gated.lane.freshness import Ages
from gated.lane.policy import REASONS, judge
from gated.lane.rules import (
    DIRECTIONS,
    Category,
    ControlRule,
    DocumentKind,
    Origin,
    Picture,
    Rules,
    Size,
    Urgency,
    Where,
)
from gated.lane.specimen import Specimen, evidence_of

EVERYWHERE, NOWHERE = "everywhere", "nowhere"
POLICY_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class _Example(Specimen):
    """[[examples]]: a specimen, what it is for, and what is expected: pass, or the rule that refers."""

    expect: str = "pass"
    cites: tuple[str, ...] = ()
    """The requirements that it stands for."""
    says: str = ""
    """What it shows, in a few words."""


@dataclass(frozen=True, slots=True)
class _Policy:
    """The file, but for the matrix."""

    version: str
    edition: int
    timezone: str
    places: tuple[str, ...]
    sizes: tuple[Size, ...]
    permits: tuple[str, ...]
    documents: dict[str, DocumentKind]
    categories: dict[str, Category]
    controls: dict[str, ControlRule]
    document_controls: dict[str, Urgency]
    origins: dict[str, Origin]
    calendar: Calendar
    reasons: dict[str, Urgency]
    freshness: dict[str, Ages] = field(default_factory=dict)
    fingers_alone: int = 2
    attachments: dict[str, Picture] = field(default_factory=dict)
    examples: tuple[_Example, ...] = ()
    matrix: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file: the rules, and the examples that they were proven by."""

    rules: Rules
    examples: tuple[_Example, ...]


def load_rules(path: Path) -> Rules:
    """The rules of a policy file. Raises `ConfigError`."""
    return load_policy(path).rules


def load_policy(path: Path) -> Policy:
    """Read a policy and prove it by its examples. Raises `ConfigError`."""
    try:
        if path.stat().st_size > POLICY_BYTES_MAX:
            raise ConfigError(path, f"is longer than {POLICY_BYTES_MAX} bytes")
    except OSError:
        pass  # reading it says why
    return _policy(TomlFile.read(path))


def parse_policy(text: str, path: Path) -> Policy:
    """As `load_policy`, of the text of a file. `path` stands in errors."""
    return _policy(TomlFile(text, path))


def _policy(file: TomlFile) -> Policy:
    cells = file.tree.pop("matrix", None)
    if not isinstance(cells, dict):
        raise file.error(("matrix",), "is missing: it says which document counts where")
    found = file.fill(_Policy, file.tree, ())
    for name, category in file.tree["categories"].items():
        if "cache_until" not in category:  # forgotten, a list of bans of any age would do
            problem = 'must say cache_until, the oldest cache by which they pass; "expired": by any'
            raise file.error(("categories", name), problem)
    places = frozenset(found.places)
    matrix = {name: _row(file, name, row, places) for name, row in cells.items()}
    try:
        zone = ZoneInfo(found.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones
        problem = f"is {found.timezone!r}, which this machine does not know (package tzdata); it looks like Asia/Taipei"
        raise file.error(("timezone",), problem) from None
    _check_reasons(file, found.reasons)
    try:
        rules = Rules(
            version=found.version,
            edition=found.edition,
            zone=zone,
            places=places,
            sizes=found.sizes,
            documents=found.documents,
            categories=found.categories,
            matrix=matrix,
            permits=frozenset(found.permits),
            controls=found.controls,
            document_controls=found.document_controls,
            origins=found.origins,
            calendar=found.calendar,
            reasons=found.reasons,
            fingers_alone=found.fingers_alone,
            freshness=found.freshness,
            attachments=found.attachments,
        )
    except ValueError as wrong:
        option, problem = str(wrong).split(maxsplit=1)
        raise file.error(tuple(option.rstrip(":").split(".")), problem) from None
    for number, example in enumerate(found.examples, 1):
        _check_example(file, rules, number, example)
    return Policy(rules, found.examples)


def _row(file: TomlFile, category: str, row: Any, places: frozenset[str]) -> dict[str, Where]:
    if not isinstance(row, dict):
        raise file.error(("matrix", category), "must be a table: kind of document = where")
    return {kind: _cell(file, ("matrix", category, kind), cell, places) for kind, cell in row.items()}


def _cell(file: TomlFile, place: tuple[str, ...], cell: Any, places: frozenset[str]) -> Where:
    if not isinstance(cell, dict):
        both = _where(file, place, cell, places)
        return Where(both, both)
    if sorted(cell) != sorted(DIRECTIONS):
        raise file.error(place, "must say entry and exit, both of them")
    return Where(*(_where(file, (*place, way), cell[way], places) for way in DIRECTIONS))


def _where(file: TomlFile, place: tuple[str, ...], value: Any, places: frozenset[str]) -> frozenset[str]:
    if value == EVERYWHERE:
        return places
    if value == NOWHERE:
        return frozenset()
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        if unknown := sorted(set(value) - places):
            raise file.unknown((*place, unknown[0]), sorted(places), "place")
        return frozenset(value)
    raise file.error(place, f'must be "{EVERYWHERE}", "{NOWHERE}" or a list of places')


def _check_reasons(file: TomlFile, reasons: Mapping[str, Urgency]) -> None:
    if unknown := sorted(reasons.keys() - REASONS):
        raise file.unknown(("reasons", unknown[0]), sorted(REASONS), "reason")
    if missing := sorted(REASONS - reasons.keys()):
        raise file.error(("reasons",), f"has a gap: how much {missing[0]} matters is not said")


def _check_example(file: TomlFile, rules: Rules, number: int, example: _Example) -> None:
    name = f"example {number}, {example.says!r}" if example.says else f"example {number}"
    for problem in misnamed(rules, example):
        raise file.error(("examples",), f"{name}: {problem}")
    try:
        verdict = judge(evidence_of(example, rules), rules)
    except ValueError as wrong:
        raise file.error(("examples",), f"{name}: {wrong}") from None
    came = "pass" if verdict.decision.value == "grant" else verdict.reason
    if came != example.expect:
        raise file.error(("examples",), f"{name} expects {example.expect}, and this policy says {came}")


def misnamed(rules: Rules, somebody: Specimen) -> Iterator[str]:
    """What a specimen names that is not the policy's: a misspelt category would be refused for the wrong reason."""
    asked: tuple[tuple[str, Iterable[str], Collection[str]], ...] = (
        ("place", [somebody.place], rules.places),
        ("category", [somebody.category], rules.categories),
        ("direction", [somebody.direction], DIRECTIONS),
        ("origin", [somebody.origin], rules.origins),
        ("kind of permit", [permit.kind for permit in somebody.permits], rules.permits),
        ("control", somebody.controls, rules.controls),
        ("control of documents", somebody.document_controls, rules.document_controls),
    )
    for noun, names, known in asked:
        for name in sorted(set(names) - set(known)):
            yield f"{name} is no {noun} of this policy; it knows {', '.join(sorted(known)) or 'none'}"
