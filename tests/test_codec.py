"""The codec: one value, one form; anything else is refused, and the refusal tells no content."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.lane import commands, events, evidence
from gated.wire import codec
from gated.wire.codec import WireError, decode, encode, family, join, kinds, personal, split


class Colour(Enum):
    RED = "red"
    BLUE = 2


@dataclass(frozen=True, slots=True)
class Inner:
    name: str = personal("")
    size: int = 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """All personal but one."""

    secret: str = personal("")
    open: bool = False


@dataclass(frozen=True, slots=True)
class Every:
    """Each type that can go on the wire."""

    i: int = 0
    f: float = 0.0
    s: str = ""
    b: bool = False
    n: None = None
    y: bytes = b""
    d: date = date(2000, 1, 1)
    t: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    e: Colour = Colour.RED
    items: tuple[int, ...] = ()
    pair: tuple[str, float] = ("", 0.0)
    names: frozenset[str] = frozenset()
    colours: frozenset[Colour] = frozenset()
    days: frozenset[date] = frozenset()
    maybe: int | None = None
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    maybe_inner: Sealed | None = None
    hidden: str = personal("")
    hidden_inner: Inner | None = personal(None)


KINDS = kinds(Every, Inner, Sealed)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
days = st.dates()
instants = st.datetimes(timezones=st.just(UTC))
inners = st.builds(Inner, texts, st.integers(-(2**63) + 1, 2**63 - 1))
floats = st.floats(allow_nan=False)
everything = st.builds(
    Every,
    st.integers(-(2**63) + 1, 2**63 - 1),
    floats,
    texts,
    st.booleans(),
    st.none(),
    st.binary(max_size=50),
    days,
    instants,
    st.sampled_from(Colour),
    st.lists(st.integers(-99, 99), max_size=5).map(tuple),
    st.tuples(texts, floats),
    st.frozensets(texts, max_size=5),
    st.frozensets(st.sampled_from(Colour)),
    st.frozensets(days, max_size=4),
    st.none() | st.integers(0, 9),
    inners,
    st.lists(inners, max_size=3).map(tuple),
    st.none() | st.builds(Sealed, texts, st.booleans()),
    texts,
    st.none() | inners,
)


@settings(deadline=None)
@given(everything)
def test_what_is_written_is_read(value: Every) -> None:
    data = encode(value)
    assert decode(KINDS, data) == value
    assert encode(decode(KINDS, data)) == data
    assert json.loads(data).keys() == {"Every"}


@settings(deadline=None)
@given(everything)
def test_the_two_halves_make_the_whole(value: Every) -> None:
    clear, hidden = split(value)
    assert join(Every, clear, hidden) == value
    assert set(hidden) - {"inner", "maybe_inner"} == {"hidden", "hidden_inner", "inners"}
    assert clear["inner"].keys() == {"size"}
    assert hidden["inner"].keys() == {"name"}
    if value.maybe_inner is None:
        assert clear["maybe_inner"] is None
        assert "maybe_inner" not in hidden
    else:
        assert (clear["maybe_inner"].keys(), hidden["maybe_inner"].keys()) == ({"open"}, {"secret"})


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=3, max_size=8))
def test_nothing_personal_is_in_the_clear_half(name: str) -> None:
    value = Every(
        hidden=name, hidden_inner=Inner(name), inner=Inner(name), inners=(Inner(name),), maybe_inner=Sealed(name)
    )
    clear, hidden = split(value)
    assert name not in codec.dumps(clear).decode()
    assert codec.dumps(hidden).decode().count(name) == 5
    assert name not in repr(value)


def test_the_form_is_the_documented_one() -> None:
    value = Every(
        f=1e-5,
        s='陳 "é',
        y=b"\x00\xff",
        t=datetime(2025, 1, 2, 11, 4, 5, 6, timezone(timedelta(hours=8))),
        e=Colour.BLUE,
        names=frozenset({"b", "a"}),
    )
    assert encode(value).decode() == (
        '{"Every":{"b":false,"colours":[],"d":"2000-01-01","days":[],"e":2,"f":1e-05,"hidden":"","hidden_inner":null,'
        '"i":0,"inner":{"name":"","size":0},"inners":[],"items":[],"maybe":null,"maybe_inner":null,"n":null,'
        '"names":["a","b"],"pair":["",0.0],"s":"陳 \\"é","t":"2025-01-02T03:04:05.000006Z","y":"AP8="}}'
    )


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308])
def test_odd_floats_come_back(number: float) -> None:
    back = decode(KINDS, encode(Every(f=number))).f
    assert repr(back) == repr(number)


def test_an_int_in_a_float_is_written_as_a_float() -> None:
    assert b'"f":3.0' in encode(Every(f=3))


SECRET = "S3CRET"


def altered(**fields: Any) -> bytes:
    tree = json.loads(encode(Every()))
    for name, value in fields.items():
        if value is ...:
            del tree["Every"][name]
        else:
            tree["Every"][name] = value
    return codec.dumps(tree)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (altered(i=1.0), "Every.i"),
        (altered(i=True), "Every.i"),
        (altered(i=2**63), "Every.i"),
        (altered(i=SECRET), "Every.i"),
        (altered(f=1), "Every.f"),
        (altered(f="nan"), "Every.f"),
        (altered(s=None), "Every.s"),
        (altered(s="x" * 5000), "Every.s"),
        (altered(b=0), "Every.b"),
        (altered(n=SECRET), "Every.n"),
        (altered(y="AP9="), "Every.y"),
        (altered(y="AP8"), "Every.y"),
        (altered(y="A P8="), "Every.y"),
        (altered(y=[SECRET]), "Every.y"),
        (altered(d="2025-1-2"), "Every.d"),
        (altered(d="20250102"), "Every.d"),
        (altered(d="2025-02-30"), "Every.d"),
        (altered(t="2025-01-02T03:04:05Z"), "Every.t"),
        (altered(t="2025-01-02T03:04:05.000006+00:00"), "Every.t"),
        (altered(t="2025-01-02 03:04:05.000006Z"), "Every.t"),
        (altered(e="RED"), "Every.e"),
        (altered(e=[]), "Every.e"),
        (altered(e=True), "Every.e"),
        (altered(items=[1, SECRET]), "Every.items[1]"),
        (altered(items={"0": 1}), "Every.items"),
        (altered(items=[0] * 2000), "Every.items"),
        (altered(pair=["a"]), "Every.pair"),
        (altered(names=["b", "a"]), "Every.names"),
        (altered(names=["a", "a"]), "Every.names"),
        (altered(inner={"name": SECRET, "size": SECRET}), "Every.inner.size"),
        (altered(inner={"name": SECRET}), "Every.inner.size"),
        (altered(inner={"name": "", "size": 0, SECRET: 1}), "Every.inner"),
        (altered(inners=[{"name": 1, "size": 0}]), "Every.inners[0].name"),
        (altered(maybe_inner={"secret": SECRET, "open": SECRET}), "Every.maybe_inner.open"),
        (altered(i=...), "Every.i"),
        (altered(**{SECRET: 1}), "Every"),
        (b'{"Nothing":{}}', ""),
        (b'{"Every":{},"Inner":{}}', ""),
        (b"{}", ""),
        (b"[]", ""),
        (b'"Every"', ""),
        (b"", ""),
        (b"\xff\xfe", ""),
        (b'{"Inner": {"name":"","size":0}}', ""),
        (b'{"Inner":{"size":0,"name":""}}', ""),
        (b'{"Inner":{"name":"","name":"","size":0}}', ""),
        (b'{"Inner":{"name":"","size":0}}\n', ""),
        (b'{"Inner":{"name":"\\u0041","size":0}}', ""),
        (b'{"Inner":{"name":"\\ud800","size":0}}', ""),
        (b'{"Inner":{"name":"","size":NaN}}', ""),
        (b'{"Inner":{"name":"","size":' + b"9" * 5000 + b"}}", ""),
        (b"[" * 200_000, ""),
        (b'{"Inner":{"name":"' + b"x" * (1 << 20) + b'","size":0}}', ""),
    ],
)
def test_anything_else_is_refused_and_the_refusal_tells_no_content(data: bytes, path: str) -> None:
    with pytest.raises(WireError) as refused:
        decode(KINDS, data)
    assert refused.value.path == path
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["Inner", "Every", "i", "x"]), inner, max_size=3)
        ),
    ).map(lambda tree: json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
)
def test_garbage_is_refused_in_our_words(data: bytes) -> None:
    try:
        value = decode(KINDS, data)
    except WireError:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "value",
    [
        Every(i="1"),  # type: ignore[arg-type]
        Every(i=True),
        Every(i=2**63),
        Every(f="1"),  # type: ignore[arg-type]
        Every(f=True),
        Every(f=10**400),
        Every(s=b"x"),  # type: ignore[arg-type]
        Every(s="\ud800"),
        Every(s="x" * 5000),
        Every(y=bytearray(b"x")),  # type: ignore[arg-type]
        Every(y=b"x" * 70_000),
        Every(d=datetime(2000, 1, 1)),
        Every(t=datetime(2000, 1, 1)),
        Every(e="red"),  # type: ignore[arg-type]
        Every(items=[1]),  # type: ignore[arg-type]
        Every(inner=Sealed()),  # type: ignore[arg-type]
        Every(items=(0,) * 2000),
    ],
)
def test_a_value_against_its_own_type_is_not_written(value: Every) -> None:
    with pytest.raises(WireError):
        encode(value)


def test_a_class_that_refuses_its_values_is_heard() -> None:
    all_events = family(vars(events), events.Event)
    data = b'{"PresenceChanged":{"persons":7,"thing":false}}'
    with pytest.raises(WireError, match="PresenceChanged: refused") as refused:
        decode(all_events, data)
    assert "7" not in str(refused.value)


def test_halves_that_do_not_fit_are_refused() -> None:
    clear, hidden = split(Every(hidden="x", maybe_inner=Sealed("y")))
    for bad_clear, bad_hidden in (
        (clear | {"hidden": "x"}, {k: v for k, v in hidden.items() if k != "hidden"}),
        (clear, hidden | {"i": 1}),
        (clear | {"maybe_inner": None}, hidden),
        (clear, {k: v for k, v in hidden.items() if k != "hidden"}),
        (clear, hidden | {"inner": 3}),
        (clear, {}),
    ):
        with pytest.raises(WireError):
            join(Every, bad_clear, bad_hidden)


@dataclass(frozen=True)
class Loose:
    anything: object = None


@dataclass(frozen=True)
class Computed:
    value: int = field(init=False, default=0)


@dataclass(frozen=True)
class Either:
    value: int | str = 0


@pytest.mark.parametrize("cls", [Loose, Computed, Either, int])
def test_what_cannot_go_on_the_wire_is_our_mistake(cls: type[Any]) -> None:
    with pytest.raises(TypeError):
        kinds(cls)


def test_every_event_and_command_of_the_lane_can_be_written() -> None:
    """Also those that will be added: the journal keeps them all."""
    all_events = family(vars(events), events.Event)
    all_commands = family(vars(commands), commands.Command)
    assert {"DocumentPresented", "Recorded", "Deadline", "Started"} <= all_events.keys()
    assert {"Record", "Settle", "RequestOpen"} <= all_commands.keys()


def test_what_is_personal_in_the_lane_is_sealed_in_the_journal() -> None:
    notes = {n.name: n.personal for n in codec.describe(events.DocumentPresented)}
    assert notes == {"document": True, "side": False}
    assert {n.name for n in codec.describe(commands.Record) if n.personal} == {"evidence"}
    assert codec.has_personal(events.RecordFound)
    assert not codec.has_personal(events.DoorOpened)
    verdict = evidence.Verdict(evidence.Decision.REFER, "face", "p1")
    assert decode(kinds(evidence.Verdict), encode(verdict)) == verdict


@settings(max_examples=30, deadline=None)
@given(everything)
def test_describe_tells_every_field(value: Every) -> None:
    clear, _ = split(value)
    for note in codec.describe(Every):
        assert (note.name in clear) == (not note.personal)
