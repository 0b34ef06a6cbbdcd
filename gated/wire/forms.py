"""How each type goes on the wire and comes back, worked out once per class. No I/O, no clock.

`gated.wire.codec` holds the verbs; this is the table of types behind them. A type that is not here is a `TypeError`
when its class is first used: our mistake, not theirs.
"""

import base64
import binascii
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final

from gated.wire.canonical import Json, WireError, dumps

TEXT_MAX: Final = 4096
"""Characters of one string, unless the field says otherwise (`limited`)."""
BYTES_MAX: Final = 1 << 16
"""Bytes of one bytes field, unless the field says otherwise."""
ITEMS_MAX: Final = 1024
"""Items of one tuple or frozenset, unless the field says otherwise."""
INT_MAX: Final = (1 << 63) - 1


def personal(default: Any = dataclasses.MISSING, *, limit: int | None = None) -> Any:
    """A dataclass field with personal data: not in repr, and the second half of `split`."""
    return limited(limit, default, {"personal": True})


def limited(limit: int | None, default: Any = dataclasses.MISSING, also: Mapping[str, Any] | None = None) -> Any:
    """A dataclass field with its own limit: characters of a str, bytes of a bytes, items of a tuple or frozenset.

    Type checkers take the result for a default: a field without one is `field(metadata={"limit": ...})`."""
    metadata = {**(also or {}), **({} if limit is None else {"limit": limit})}
    return dataclasses.field(default=default, repr=not metadata.get("personal"), metadata=metadata)


def added(default: Any, *, limit: int | None = None, is_personal: bool = False) -> Any:
    """A field that came after its class was first used: it is left out where it has its default, and only there, so
    what was written before it reads as it did, and one value still has one form."""
    return limited(limit, default, {"added": True, **({"personal": True} if is_personal else {})})


# -- forms: how each type is written and read, worked out once per class ----------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How values of one type become JSON and back, and, for dataclasses, which fields are personal."""

    dump: Callable[[Any], Json]
    load: Callable[[Any], Any]
    name: str
    """The type as `describe` writes it."""
    mixed: bool = False
    """A dataclass with personal fields, or such a class or None."""
    personal: tuple[str, ...] = ()
    nested: Mapping[str, "Form"] = dataclasses.field(default_factory=dict)
    """Clear fields whose own type is mixed."""
    hides: bool = False
    """Holds a mixed class somewhere where it cannot be parted: then the whole is personal."""


def expected(what: str) -> WireError:
    return WireError(f"expected {what}")


def _dump_int(value: Any) -> Json:
    if type(value) is not int or not -INT_MAX <= value <= INT_MAX:
        raise expected("an integer of 64 bits")
    return value


_ODD_FLOATS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def _dump_float(value: Any) -> Json:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise expected("a float")
    try:
        number = float(value)
    except OverflowError:
        raise expected("a float") from None
    if number != number:
        return "NaN"
    if number in (_ODD_FLOATS["Infinity"], _ODD_FLOATS["-Infinity"]):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _load_float(tree: Json) -> float:
    if type(tree) is float:
        return tree
    if type(tree) is str and tree in _ODD_FLOATS:
        return _ODD_FLOATS[tree]
    raise expected("a float")


def _bool(value: Any) -> Any:
    if type(value) is not bool:
        raise expected("true or false")
    return value


def _none(value: Any) -> None:
    if value is not None:
        raise expected("null")


def _text_form(limit: int) -> Form:
    def check(value: Any) -> Any:
        if type(value) is not str:
            raise expected("a string")
        if len(value) > limit:
            raise WireError(f"longer than {limit} characters")
        return value

    return Form(check, check, "str")


def _bytes_form(limit: int) -> Form:
    def dump(value: Any) -> Json:
        if type(value) is not bytes:
            raise expected("bytes")
        if len(value) > limit:
            raise WireError(f"longer than {limit} bytes")
        return base64.b64encode(value).decode()

    def load(tree: Json) -> bytes:
        if type(tree) is not str:
            raise expected("base64")
        if len(tree) > (limit + 2) // 3 * 4:
            raise WireError(f"longer than {limit} bytes")
        try:
            value = base64.b64decode(tree, validate=True)
        except (binascii.Error, ValueError):
            raise expected("base64") from None
        if len(value) > limit or base64.b64encode(value).decode() != tree:
            raise expected("base64")
        return value

    return Form(dump, load, "bytes")


def _dump_date(value: Any) -> Json:
    if type(value) is not date:
        raise expected("a day")
    return value.isoformat()


def _load_date(tree: Json) -> date:
    try:
        if type(tree) is str and len(tree) == 10 and (day := date.fromisoformat(tree)).isoformat() == tree:
            return day
    except ValueError:
        pass  # the same refusal as for a wrong length, below
    raise expected("a day as YYYY-MM-DD")


def _dump_instant(value: Any) -> Json:
    if type(value) is not datetime or value.tzinfo is None:
        raise expected("an instant with its time zone")
    try:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        raise expected("an instant of the years 1 to 9999") from None


def _load_instant(tree: Json) -> datetime:
    try:
        if type(tree) is str and len(tree) == 27 and tree[-1] == "Z":
            instant = datetime.fromisoformat(tree)
            if _dump_instant(instant) == tree:
                return instant
    except ValueError:
        pass  # the same refusal as for a wrong length, below
    raise expected("an instant as YYYY-MM-DDThh:mm:ss.ffffffZ")


def _enum_form(cls: type[Enum]) -> Form:
    to_json = {member: member.value for member in cls}
    of_json = {(type(v), v): member for member, v in to_json.items()}
    if not all(type(v) in (str, int) for v in to_json.values()):
        raise TypeError(f"{cls.__name__}: the values of an enum on the wire are str or int")

    def dump(value: Any) -> Json:
        if type(value) is not cls:
            raise expected(f"a {cls.__name__}")
        return to_json[value]

    def load(tree: Json) -> Enum:
        member = of_json.get((type(tree), tree)) if type(tree) in (str, int) else None
        if member is None:
            raise expected(f"a {cls.__name__}")
        return member

    return Form(dump, load, f"{cls.__name__}({'|'.join(str(v) for v in to_json.values())})")


def _each(form: Form, verb: str, values: Any) -> list[Any]:
    work = form.dump if verb == "dump" else form.load
    done: list[Any] = []
    for value in values:
        try:
            done.append(work(value))
        except WireError as error:
            raise error.inside(f"[{len(done)}]") from None
    return done


def _array_form(item: Form, limit: int, kind: type[Any]) -> Form:
    """tuple[T, ...] and frozenset[T]; a frozenset is written in the order of its items' canonical bytes."""
    is_set = kind is frozenset

    def dump(value: Any) -> Json:
        if type(value) is not kind:
            raise expected(f"a {kind.__name__}")
        if len(value) > limit:
            raise WireError(f"more than {limit} items")
        done = _each(item, "dump", value)
        return sorted(done, key=dumps) if is_set else done

    def load(tree: Json) -> Any:
        if type(tree) is not list:
            raise expected("an array")
        if len(tree) > limit:
            raise WireError(f"more than {limit} items")
        if is_set:
            order = [dumps(t) for t in tree]
            if any(a >= b for a, b in pairwise(order)):
                raise WireError("a set out of order or with an item twice")
        return kind(_each(item, "load", tree))

    name = f"frozenset[{item.name}]" if is_set else f"tuple[{item.name}, ...]"
    return Form(dump, load, name, hides=item.mixed or item.hides)


def _fixed_form(items: tuple[Form, ...]) -> Form:
    """tuple[A, B]."""

    def both(verb: str, kind: type[Any]) -> Callable[[Any], Any]:
        def work(value: Any) -> list[Any]:
            if type(value) is not kind or len(value) != len(items):
                raise expected(f"{len(items)} items")
            return [_each(f, verb, (v,))[0] for f, v in zip(items, value, strict=True)]

        return work

    load = both("load", list)
    name = f"tuple[{', '.join(f.name for f in items)}]"
    return Form(both("dump", tuple), lambda tree: tuple(load(tree)), name, hides=any(f.mixed or f.hides for f in items))


def _object(value: Any) -> Any:
    if type(value) is not dict:
        raise expected("an object")
    return value


def _optional_form(form: Form) -> Form:
    return dataclasses.replace(
        form,
        dump=lambda value: None if value is None else form.dump(value),
        load=lambda tree: None if tree is None else form.load(tree),
        name=f"{form.name} | None",
    )


def form_of_hint(hint: Any, limit: int | None, where: str) -> Form:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        rest = [a for a in arguments if a is not type(None)]
        if len(rest) == 1 and len(arguments) == 2:
            return _optional_form(form_of_hint(rest[0], limit, where))
    elif origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _array_form(form_of_hint(arguments[0], None, where), limit or ITEMS_MAX, tuple)
    elif origin is frozenset and len(arguments) == 1:
        return _array_form(form_of_hint(arguments[0], None, where), limit or ITEMS_MAX, frozenset)
    elif origin is tuple and arguments:
        return _fixed_form(tuple(form_of_hint(a, None, where) for a in arguments))
    elif hint is str:
        return _text_form(limit or TEXT_MAX)
    elif hint is bytes:
        return _bytes_form(limit or BYTES_MAX)
    elif hint in _SIMPLE:
        return _SIMPLE[hint]
    elif isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_form(hint)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return form_of(hint)
    raise TypeError(f"{where}: {hint!r} cannot go on the wire")


_SIMPLE: Final[Mapping[Any, Form]] = {
    Mapping[str, Any]: Form(_object, _object, "object"),
    int: Form(_dump_int, _dump_int, "int"),
    float: Form(_dump_float, _load_float, "float"),
    bool: Form(_bool, _bool, "bool"),
    type(None): Form(_none, _none, "None"),
    date: Form(_dump_date, _load_date, "date"),
    datetime: Form(_dump_instant, _load_instant, "datetime"),
}


def fields_of(cls: type[Any]) -> tuple[tuple[dataclasses.Field[Any], Form], ...]:
    """The fields of a dataclass in the order of their names, each with its form."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"{cls!r} is no dataclass")
    hints = typing.get_type_hints(cls)
    found = []
    for field in sorted(dataclasses.fields(cls), key=lambda f: f.name):
        where = f"{cls.__name__}.{field.name}"
        if not field.init:
            raise TypeError(f"{where}: a field that the constructor does not take cannot go on the wire")
        found.append((field, form_of_hint(hints[field.name], field.metadata.get("limit"), where)))
    return tuple(found)


_FORMS: Final[dict[type[Any], Form]] = {}


def form_of(cls: type[Any]) -> Form:
    """The form of a dataclass."""
    form = _FORMS.get(cls)
    if form is None:
        form = _FORMS[cls] = _dataclass_form(cls)
    return form


def _dataclass_form(cls: type[Any]) -> Form:
    fields = fields_of(cls)
    names = frozenset(f.name for f, _ in fields)
    dumpers = tuple((f.name, attrgetter(f.name), form.dump) for f, form in fields)
    loaders = tuple((f.name, form.load) for f, form in fields)
    later = {f.name: f.default for f, _ in fields if f.metadata.get("added")}
    needed = names - later.keys()

    def dump(value: Any) -> Json:
        if type(value) is not cls:
            raise expected(f"a {cls.__name__}")
        out = {}
        for name, get, work in dumpers:
            plain = get(value)
            if name in later and plain == later[name]:
                continue
            try:
                out[name] = work(plain)
            except WireError as error:
                raise error.inside(name) from None
        return out

    def load(tree: Json) -> Any:
        if type(tree) is not dict:
            raise expected("an object")
        if not needed <= tree.keys() <= names:
            missing = needed - tree.keys()
            raise WireError("a field is missing", min(missing)) if missing else WireError("an unknown field")
        out = {}
        for name, work in loaders:
            if name not in tree:
                continue
            try:
                out[name] = work(tree[name])
            except WireError as error:
                raise error.inside(name) from None
            if name in later and out[name] == later[name]:
                raise WireError("a field with its default is left out", name)
        try:
            return cls(**out)
        except ValueError:
            raise WireError("refused by the class's own checks") from None

    hidden = tuple(f.name for f, form in fields if f.metadata.get("personal") or form.hides)
    nested = {f.name: form for f, form in fields if form.mixed and f.name not in hidden}
    return Form(dump, load, cls.__name__, bool(hidden or nested), hidden, nested)
