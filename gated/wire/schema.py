"""JSON Schemas (draft 2020-12) of what goes over the wire, made from the dataclasses that the codec reads. No I/O, no
clock.

They say what `gated.wire.forms` and the classes' own checks say, neither more nor less, as far as a schema can; what it
cannot is in `UNSAID`. Descriptions of fields are not known at run time: who wants them hands in `said`.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any, Final

from gated.wire import bundle, codec, facts, forms, orders, record
from gated.wire.canonical import Json
from gated.wire.forms import form_of
from gated.wire.rows import PARTITIONS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

UNSAID: Final = (
    "that bytes are canonical: keys sorted, no blanks, the shortest form of a float, no key twice",
    "that a float is written with a point or an exponent (`1.0`), and an integer without one",
    "that the items of a set are sorted",
    "how long a whole message may be",
    "what two fields say of each other: `first` is at most `last`, `part` at most `parts`, `stream_id` ends in"
    " `-` and `stream`, an order expires within its validity",
    "hashes, signatures and seals",
    "the end of a text, in a validator whose `$` also stands before a last line feed (Python's `re`)",
)
"""What the codec refuses and a schema cannot."""

Said = Callable[[type[Any], str], str]
"""What the source says of a field of a class; empty where it says nothing."""


def _silent(_cls: type[Any], _name: str) -> str:
    return ""


# -- texts in a form of their own; no look-ahead, which not every validator's expressions know

_SIX: Final = "[A-Za-z0-9+/]"
_LEFT_4, _LEFT_2 = "[AQgw]", "[AEIMQUYcgkosw048]"
"""The last digit before the padding: its unused bits are 0."""
_BASE64: Final = f"^(?:{_SIX}{{4}})*(?:{_SIX}{_LEFT_4}==|{_SIX}{{2}}{_LEFT_2}=)?$"
_SHA256: Final = {"pattern": f"^{_SIX}{{42}}{_LEFT_2}=$"}
_YEAR: Final = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURTH: Final = "(?:0[48]|[2468][048]|[13579][26])"
_DAY: Final = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
)
_CLOCK: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"

SIMPLE: Final[Mapping[Any, Json]] = {
    int: {"type": "integer", "minimum": -forms.INT_MAX, "maximum": forms.INT_MAX},
    float: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    date: {"type": "string", "format": "date", "maxLength": 10, "pattern": f"^{_DAY}$"},
    datetime: {
        "type": "string", "format": "date-time", "maxLength": 27, "pattern": f"^{_DAY}T{_CLOCK}\\.[0-9]{{6}}Z$",
    },
    Mapping[str, Any]: {"type": "object"},
}  # fmt: skip

_ID: Final = {"minimum": 1}
_SERIAL: Final = {"minimum": 0, "maximum": bundle.SERIAL_MAX}
CHECKS: Final[Mapping[tuple[type[Any], str], Json]] = {
    (facts.Ticketed, "ticket"): _ID,
    (facts.RecordsDropped, "first"): _ID,
    (facts.RecordsDropped, "last"): _ID,
    (facts.RecordsDropped, "head"): _SHA256,
    (facts.AttachmentPart, "part"): _ID,
    (facts.AttachmentPart, "parts"): _ID,
    (facts.AttachmentPart, "size"): {"minimum": 1, "maximum": facts.ATTACHMENT_BYTES_MAX},
    (facts.AttachmentPart, "keep_days"): _ID,
    **{
        (record.Record, name): {"pattern": f"^{record._NAME.pattern}$"}
        for name in ("lane", "stream_id", "stream", "boot", "kind")
    },
    (record.Record, "seq"): _ID,
    (record.Record, "prev"): _SHA256,
    (bundle.Tip, "partition"): {"enum": list(PARTITIONS)},
    (bundle.Tip, "epoch"): {"minimum": 1, "maximum": bundle.SERIAL_MAX},
    (bundle.Tip, "serial"): _SERIAL,
}
"""What classes check themselves (`__post_init__`), field by field."""


def message(cls: type[Any], said: Said = _silent) -> Json:
    """`{"Kind": {...}}`: a message of `gated.wire.link`, an announcement."""
    maker = _Maker(said)
    return _page(cls.__name__, _about(cls), {**_object({cls.__name__: maker.ref(cls)}), "$defs": maker.defs})


def envelope(said: Said = _silent) -> Json:
    """A record as it travels: the clear half by its kind. HQ keeps what a later edition says as it came."""
    maker = _Maker(said)
    kinds = []
    for kind, cls in facts.FACTS.items():
        hidden = {"type": "string" if codec.has_personal(cls) else "null"}
        then = {"properties": {"clear": maker.ref(cls, "clear"), "sealed": hidden}}
        kinds.append({"if": {"properties": {"kind": {"const": kind}}}, "then": then})
    known = {"properties": {"kind": {"enum": list(facts.FACTS)}}, "allOf": kinds}
    whole = maker.object_of(record.Record)
    whole |= {"if": {"properties": {"schema": {"maximum": facts.SCHEMA}}}, "then": known, "$defs": maker.defs}
    return _page("Record", _about(record.Record), whole)


def sealed(cls: type[Any], said: Said = _silent) -> Json:
    """The personal half of a fact, as HQ's private key opens it."""
    maker = _Maker(said)
    whole = {**maker.object_of(cls, "sealed"), "$defs": maker.defs}
    return _page(f"{cls.__name__}.sealed", f"The personal half of {cls.__name__}: travels sealed.", whole)


def order() -> Json:
    """The body of an order, which follows 64 bytes of signature."""
    name = {"type": "string", "pattern": f"^{orders._NAME.pattern}$"}
    moment = {"type": "string", "format": "date-time", "maxLength": 20, "pattern": f"^{_DAY}T{_CLOCK}Z$"}
    fields: dict[str, Json] = {
        **dict.fromkeys(("order", "officer", "lane", "boot"), name),
        "v": {"const": 1},
        "action": {"enum": [action.value for action in orders.Action]},
        "ticket": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        "nonce": {"type": "string", "pattern": f"^{orders._NONCE.pattern}$"},
        "issued": moment,
        "expires": moment,
        "args": {"type": "object"},
    }
    cases = []
    for action in orders.Action:
        args = {name: {"enum": sorted(values)} for name, values in orders.ARGUMENTS[action].items()}
        ticket = {"type": "integer" if action in orders.TICKETED else "null"}
        then = {"properties": {"ticket": ticket, "args": _object(args)}}
        cases.append({"if": {"properties": {"action": {"const": action.value}}}, "then": then})
    about = "One order to one lane: signed, for one run of it, once, for a short time."
    return _page("Order", about, {**_object(dict(sorted(fields.items()))), "allOf": cases})


@dataclasses.dataclass(frozen=True, slots=True)
class FactNote:
    """One fact as documents show it. `stream` is None for a fact that can stand in each of them."""

    kind: str
    stream: str | None
    about: str
    fields: tuple[codec.FieldNote, ...]


def describe() -> tuple[FactNote, ...]:
    """The dictionary, readable by machine: facts, and the classes that stand in their fields."""
    classes = (*facts.FACTS.values(), facts.Holder, facts.Part)
    return tuple(
        FactNote(cls.__name__, getattr(cls, "stream", None), (cls.__doc__ or "").split("\n")[0], codec.describe(cls))
        for cls in classes
    )


class _Maker:
    """One schema and the classes that stand in its fields. `half`: None, `clear` or `sealed` (see `codec.split`)."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self._classes: dict[str, type[Any]] = {}
        self.defs: dict[str, Json] = {}

    def ref(self, cls: type[Any], half: str | None = None) -> Json:
        """A reference to a class's definition. Raises `TypeError` where two are called alike."""
        name = f"{cls.__name__}.{half}" if half and form_of(cls).mixed else cls.__name__
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"two classes are called {name}")
        if name not in self.defs:
            self.defs[name] = {}  # keeps its place: a class stands behind those that refer to it
            self.defs[name] = {"description": _about(cls), **self.object_of(cls, half)}
        return {"$ref": f"#/$defs/{name}"}

    def object_of(self, cls: type[Any], half: str | None = None) -> dict[str, Json]:
        """The fields of a class, or of one half of it, in the order of its definition."""
        form, hints = form_of(cls), typing.get_type_hints(cls)
        fields: dict[str, Json] = {}
        optional = set()
        for field in dataclasses.fields(cls):
            parted = half and field.name in form.nested
            if half and not parted and (field.name in form.personal) != (half == "sealed"):
                continue
            schema = self._field(cls, field, hints[field.name], half if parted else None)
            if parted and half == "sealed" and "anyOf" in schema:
                schema = self._without_null(schema)
                optional.add(field.name)  # not there where the clear half says null
            if field.metadata.get("added"):
                schema = self._not_default(schema, field.default)
                optional.add(field.name)
            if field.name in form.personal:
                schema = {**schema, "x-personal": True}
            about = self._said(cls, field.name)
            fields[field.name] = {"description": about, **schema} if about else schema
        return _object(fields, optional)

    def _field(self, cls: type[Any], field: "dataclasses.Field[Any]", hint: Any, half: str | None) -> dict[str, Json]:
        schema = self._of(hint, field.metadata.get("limit"), half)
        for base in cls.__mro__:
            schema = {**schema, **CHECKS.get((base, field.name), {})}
        return schema

    def _not_default(self, schema: dict[str, Json], default: Any) -> dict[str, Json]:
        """A field that came later is left out where it has its default."""
        if default is None:
            return self._without_null(schema)
        plain = [] if default in ((), frozenset()) else default
        return {**schema, "not": {"const": plain}}

    @staticmethod
    def _without_null(schema: dict[str, Json]) -> dict[str, Json]:
        rest = [each for each in schema.get("anyOf", []) if each != SIMPLE[type(None)]]
        return rest[0] if len(rest) == 1 and len(schema) == 1 else schema

    def _of(self, hint: Any, limit: int | None, half: str | None = None) -> dict[str, Json]:
        """As `forms.form_of_hint` reads and writes it; what it refuses comes out of `form_of` as a `TypeError`."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            (rest,) = (a for a in arguments if a is not type(None))
            return {"anyOf": [self._of(rest, limit, half), dict(SIMPLE[type(None)])]}
        if origin is frozenset or (origin is tuple and arguments[1:] == (Ellipsis,)):
            items = {"type": "array", "items": self._of(arguments[0], None), "maxItems": limit or forms.ITEMS_MAX}
            return {**items, "uniqueItems": True} if origin is frozenset else items
        if origin is tuple:
            fixed = [self._of(a, None) for a in arguments]
            return {"type": "array", "prefixItems": fixed, "minItems": len(fixed), "items": False}
        if hint is str:
            return {"type": "string", "maxLength": limit or forms.TEXT_MAX}
        if hint is bytes:
            return _bytes(limit or forms.BYTES_MAX)
        if hint in SIMPLE:
            return dict(SIMPLE[hint])
        if issubclass(hint, Enum):
            return {"enum": [member.value for member in hint]}
        return dict(self.ref(hint, half))


def _bytes(limit: int) -> dict[str, Json]:
    schema = {"type": "string", "contentEncoding": "base64", "maxLength": (limit + 2) // 3 * 4, "pattern": _BASE64}
    if limit % 3:  # as long as that only with the padding that makes it no more bytes than allowed
        schema["anyOf"] = [{"maxLength": limit // 3 * 4}, {"pattern": "=" * (3 - limit % 3) + "$"}]
    return schema


def _object(fields: Mapping[str, Json], optional: typing.Collection[str] = ()) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": dict(fields),
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _page(title: str, about: str, schema: Json) -> Json:
    defs = schema.pop("$defs", {})
    head = {"$schema": DIALECT, "$id": f"urn:gated:gate-v1:{title}", "title": title, "description": about}
    return {**head, **schema, **({"$defs": defs} if defs else {})}


def _about(cls: type[Any]) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((cls.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".") + "."
