"""Mutants of a policy's data: what `tests.hw_sim.mutants_policy` plants in `gated.lane.rules.Rules`.

Operators, each applied at every value that decides, one value a mutant:

* number: 1 more, 1 less, 0
* date: a day later, a day earlier; one where none was given (category's first and last day)
* cell: each place of the matrix, for each category, kind of document and direction: out if it was in, in if it was out
* truth value: flipped
* set: each member left out; each other name that the policy knows put in
* choice: each other value of an enumeration or of the names that may stand there; what was left out is given
* order: two neighbouring sizes exchanged
* entry: a line of a table left out (a size, a control, a document's flag, a reason, an origin, a partition, a category)
* zone: an hour east and an hour west

Not touched: the policy's version (a name) and `_kinds` (what `kind_of` remembers)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from functools import partial
from typing import Any, Final

from gated.lane.calendar import Calendar
from gated.lane.rules import DIRECTIONS, EVIDENCE_THAT_MAY_BE_MISSING, PICTURED, Rules, Where

ONE_DAY: Final = timedelta(days=1)
SOME_DAY: Final = date(2026, 11, 20)
CODES: Final = frozenset({"V", "AC", "ID", "IK", "IP", "I", "C", "P"})
ISSUERS: Final = frozenset({"USA", "CHN", "UTO"})
Made = tuple[str, str, Callable[[], Any]]
"""Operator, what changed, and what makes the changed value. Raises `ValueError` where it refuses itself."""


def data_mutants(rules: Rules) -> Iterator[Made]:
    """Every mutant of the data; `ValueError` at the call of the last: the policy's own checks refuse it."""
    yield from _of_fields(rules, rules, "", ("version", "zone", "matrix", "_kinds"))
    yield from _of_matrix(rules)
    now = rules.zone.utcoffset(datetime.combine(SOME_DAY, time(12)))
    assert now is not None, "a zone knows its time"
    for hours in (1, -1):
        zone = timezone(now + timedelta(hours=hours))
        yield "zone", f"zone: {hours:+} hour", partial(lambda zone: replace(rules, zone=zone), zone=zone)


def _of_matrix(rules: Rules) -> Iterator[Made]:
    for category, row in rules.matrix.items():
        for kind, cell in row.items():
            for direction in DIRECTIONS:
                for place in sorted(rules.places):
                    told = f"matrix.{category}.{kind}.{direction}: {place}"
                    told += " out" if place in cell.at(direction) else " in"
                    flipped = replace(cell, **{direction: cell.at(direction) ^ {place}})
                    yield (
                        "cell",
                        told,
                        partial(lambda c, k, f: _with_cell(rules, c, k, f), c=category, k=kind, f=flipped),
                    )
        less = {name: each for name, each in rules.matrix.items() if name != category}
        yield "entry", f"matrix: without {category}", partial(lambda less: replace(rules, matrix=less), less=less)


def _with_cell(rules: Rules, category: str, kind: str, cell: Where) -> Rules:
    row = {**rules.matrix[category], kind: cell}
    return replace(rules, matrix={**rules.matrix, category: row})


def _of_fields(rules: Rules, value: Any, path: str, untouched: tuple[str, ...] = ()) -> Iterator[Made]:
    for each in fields(value):
        if each.init and each.name not in untouched:
            inner = getattr(value, each.name)
            where = f"{path}.{each.name}" if path else each.name
            for operator, told, made in _of(rules, inner, where):
                yield operator, told, partial(lambda n, m: replace(value, **{n: m()}), n=each.name, m=made)


def _of(rules: Rules, value: Any, path: str) -> Iterator[Made]:
    if is_dataclass(value):
        yield from _of_fields(rules, value, path)
    elif isinstance(value, Mapping):
        yield from _of_mapping(rules, value, path)
    elif isinstance(value, tuple):
        yield from _of_tuple(rules, value, path)
    elif isinstance(value, frozenset):
        yield from _of_set(rules, value, path)
    else:
        yield from (
            (operator, f"{path}: {_told(made)}", partial(lambda made: made, made=made))
            for operator, made in _of_one(rules, value, path.rsplit(".", 1)[-1])
        )


def _told(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else repr(value) if isinstance(value, str) else str(value)


def _of_one(rules: Rules, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool):
        yield "truth value", not value
    elif isinstance(value, int | float):
        yield from (("number", made) for made in dict.fromkeys((value + 1, value - 1, 0)) if made != value)
    elif isinstance(value, date):
        if value in (date.min, date.max):
            yield "date", SOME_DAY
        else:
            yield from (("date", value + ONE_DAY), ("date", value - ONE_DAY))
    elif isinstance(value, Enum):
        yield from (("choice", each) for each in type(value) if each is not value)
    elif isinstance(value, str):
        assert name in ("stay", "unless_permit"), f"no operator for {name}"
        yield from (("choice", each) for each in ("", *sorted(rules.permits)) if each != value)
    else:
        assert value is None, f"no operator for {name}"
        yield "choice", 1


def _of_mapping(rules: Rules, value: Mapping[str, Any], path: str) -> Iterator[Made]:
    for key, inner in value.items():
        for operator, told, made in _of(rules, inner, f"{path}.{key}"):
            yield operator, told, partial(lambda k, m: {**value, k: m()}, k=key, m=made)
        less = {name: each for name, each in value.items() if name != key}
        yield "entry", f"{path}: without {key}", partial(lambda less: less, less=less)


def _of_tuple(rules: Rules, value: tuple[Any, ...], path: str) -> Iterator[Made]:
    for place, inner in enumerate(value):
        for operator, told, made in _of(rules, inner, f"{path}.{place}"):
            yield operator, told, partial(lambda p, m: (*value[:p], m(), *value[p + 1 :]), p=place, m=made)
        yield "entry", f"{path}: without {place}", partial(lambda p: (*value[:p], *value[p + 1 :]), p=place)
        if place:
            yield "order", f"{path}: {place} before {place - 1}", partial(lambda p: _swapped(value, p), p=place)


def _swapped(value: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    return (*value[: place - 1], value[place], value[place - 1], *value[place + 1 :])


def _of_set(rules: Rules, value: frozenset[Any], path: str) -> Iterator[Made]:
    name = path.rsplit(".", 1)[-1]
    for each in sorted(value):
        yield "set", f"{path}: without {each}", partial(lambda e: value - {e}, e=each)
    if name == "days_off" or name == "workdays":
        for day in sorted(value):
            for other in (day + ONE_DAY, day - ONE_DAY):
                yield "date", f"{path}: {other} for {day}", partial(lambda d, o: value - {d} | {o}, d=day, o=other)
    for each in sorted(_known(rules, name, path) - value):
        yield "set", f"{path}: with {each}", partial(lambda e: value | {e}, e=each)


def _known(rules: Rules, name: str, path: str) -> frozenset[Any]:
    """What else might stand in a set."""
    if path == "places":
        return frozenset({"hualien"})
    if path == "permits":
        return frozenset({"visa"})
    if name in ("days_off", "workdays"):
        return _days(rules.calendar, weekend=name == "workdays")
    known: dict[str, frozenset[Any]] = {
        "codes": CODES,
        "issuers": ISSUERS,
        "other_than": ISSUERS,
        "may_miss": EVIDENCE_THAT_MAY_BE_MISSING,
        "entry_permits": rules.permits,
        "exit_permits": rules.permits,
        "directions": frozenset(DIRECTIONS),
        "places": rules.places,
        "categories": frozenset(rules.categories),
        "on": PICTURED,
    }
    return known[name]


def _days(calendar: Calendar, *, weekend: bool) -> frozenset[date]:
    """Every day of the calendar's last two years: Mondays to Fridays, or the others."""
    last = calendar.through.toordinal()
    days = (date.fromordinal(each) for each in range(last - 729, last + 1))
    return frozenset(day for day in days if (day.weekday() >= 5) is weekend)
