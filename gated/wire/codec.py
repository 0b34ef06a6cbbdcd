"""Canonical JSON of frozen dataclasses, strict in both directions. No I/O, no clock.

One value has one form: UTF-8, keys sorted, no blanks, floats as Python's shortest repr (`NaN`, `Infinity` and
`-Infinity` as strings), bytes as base64, days as `2025-01-02`, instants as `2025-01-02T03:04:05.000006Z`, enums as
their value, tuples and frozensets (sorted) as arrays. A value with its kind is an object of one key: `{"DoorOpened":
{"door":"A"}}`. Anything else is refused by a `WireError` that names the path and never the content.

A field with metadata `personal` (see `personal`) can be taken apart from the rest by `split`, so that it travels and
is kept sealed. The types that can go on the wire are in `gated.wire.forms`.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from gated.wire.canonical import Json, WireError, dumps, loads
from gated.wire.forms import Form, added, expected, fields_of, form_of, limited, personal

__all__ = [
    "FieldNote",
    "Json",
    "WireError",
    "added",
    "decode",
    "describe",
    "dump",
    "dumps",
    "encode",
    "family",
    "has_personal",
    "join",
    "kinds",
    "limited",
    "load",
    "loads",
    "personal",
    "split",
]


def encode(value: Any) -> bytes:
    """`{"Kind":{...}}` in canonical form. Raises `WireError` where a field does not hold what it is declared as."""
    return dumps(dump(value))


def decode(kinds: Mapping[str, type[Any]], data: bytes) -> Any:
    """The value that `data` is the canonical form of, if its kind is one of `kinds`. Raises `WireError`."""
    return load(kinds, loads(data))


def dump(value: Any) -> dict[str, Json]:
    """`{"Kind": {...}}` before it becomes bytes."""
    cls = type(value)
    try:
        return {cls.__name__: form_of(cls).dump(value)}
    except WireError as error:
        raise error.inside(cls.__name__) from None


def load(kinds: Mapping[str, type[Any]], tree: Json) -> Any:
    """The value of `{"Kind": {...}}`. Raises `WireError`."""
    if type(tree) is not dict or len(tree) != 1:
        raise WireError("expected an object of one key, the kind")
    ((kind, fields),) = tree.items()
    cls = kinds.get(kind)
    if cls is None:
        raise WireError("unknown kind")
    try:
        return form_of(cls).load(fields)
    except WireError as error:
        raise error.inside(kind) from None


def split(value: Any) -> tuple[dict[str, Json], dict[str, Json]]:
    """(clear, personal): the fields of a dataclass, parted. Neither names the kind.

    A clear field whose own type has personal fields is parted in its turn; a tuple of such values is personal as a
    whole. Which field goes where depends on the class alone, never on the value."""
    cls = type(value)
    form = form_of(cls)
    try:
        tree = form.dump(value)
    except WireError as error:
        raise error.inside(cls.__name__) from None
    return _part(form, tree) if form.mixed else (tree, {})


def join(cls: type[Any], clear: Mapping[str, Json], personal: Mapping[str, Json]) -> Any:
    """The value of class `cls` that was parted by `split`. Raises `WireError`."""
    form = form_of(cls)
    try:
        return form.load(_unite(form, clear, personal))
    except WireError as error:
        raise error.inside(cls.__name__) from None


def has_personal(cls: type[Any]) -> bool:
    """Whether `split` of this class can have a second half."""
    return form_of(cls).mixed


def kinds(*classes: type[Any]) -> Mapping[str, type[Any]]:
    """A registry of these dataclasses by their names. Raises `TypeError` on two of one name."""
    found: dict[str, type[Any]] = {}
    for cls in classes:
        if found.setdefault(cls.__name__, cls) is not cls:
            raise TypeError(f"two kinds are called {cls.__name__}")
        form_of(cls)
    return types.MappingProxyType(found)


def family(namespace: Mapping[str, object], base: type[Any]) -> Mapping[str, type[Any]]:
    """A registry of every class of a module (`vars(module)`) that descends from `base`, without `base` itself."""
    return kinds(*(c for c in namespace.values() if isinstance(c, type) and issubclass(c, base) and c is not base))


def _part(form: Form, tree: dict[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    clear: dict[str, Json] = {}
    hidden: dict[str, Json] = {}
    for name, value in tree.items():
        if name in form.personal:
            hidden[name] = value
        elif name in form.nested and value is not None:
            clear[name], hidden[name] = _part(form.nested[name], value)
        else:
            clear[name] = value
    return clear, hidden


def _unite(form: Form, clear: Json, hidden: Json) -> dict[str, Json]:
    if not isinstance(clear, Mapping) or not isinstance(hidden, Mapping):
        raise expected("an object")
    whole = dict(clear)
    for name, value in hidden.items():
        if name in form.personal and name not in clear:
            whole[name] = value
        elif name in form.nested and clear.get(name) is not None:
            try:
                whole[name] = _unite(form.nested[name], clear[name], value)
            except WireError as error:
                raise error.inside(name) from None
        else:
            raise WireError("a field in the wrong half")
    if any(name in clear for name in form.personal):
        raise WireError("a field in the wrong half")
    return whole


@dataclasses.dataclass(frozen=True, slots=True)
class FieldNote:
    """One field as documents show it."""

    name: str
    written: str
    personal: bool


def describe(cls: type[Any]) -> tuple[FieldNote, ...]:
    """The fields of a class in the order of its definition."""
    hidden = form_of(cls).personal
    forms = {field.name: form for field, form in fields_of(cls)}
    return tuple(FieldNote(f.name, forms[f.name].name, f.name in hidden) for f in dataclasses.fields(cls))
