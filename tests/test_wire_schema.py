"""The JSON Schemas of gate/v1: no looser and no tighter than the codec, and docs/mqtt.md keeps up with both."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gated.wire import bundle, codec, facts, forms, link, orders, record, schema, seal
from gated.wire.codec import WireError, added, personal
from gated.wire.forms import form_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEY = bytes(32)
NOW = datetime(2026, 3, 2, 8, 15, tzinfo=UTC)


def validator(page: Any) -> Draft202012Validator:
    Draft202012Validator.check_schema(page)
    return Draft202012Validator(page)


# -- values of every class -------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    TWO = 2


@dataclass(frozen=True, slots=True)
class Inner:
    """Part of it is personal."""

    size: int = 0
    name: str = personal("", limit=5)


@dataclass(frozen=True, slots=True)
class Every:
    """Each form that can go on the wire, more than the messages use."""

    f: float = 0.0
    b: bool = False
    n: None = None
    y: bytes = forms.limited(4, b"")
    y5: bytes = forms.limited(5, b"")
    y6: bytes = forms.limited(6, b"")
    d: date = date(2000, 1, 1)
    t: datetime = NOW
    e: Colour = Colour.RED
    pair: tuple[str, int] = ("", 0)
    names: frozenset[str] = forms.limited(3, frozenset())
    days: tuple[date, ...] = forms.limited(3, ())
    inner: Inner = Inner()
    maybe: Inner | None = None
    later: int = added(7)
    later_text: str | None = added(None, limit=4)
    later_names: tuple[str, ...] = added((), limit=2)
    secret: tuple[Inner, ...] = personal((), limit=2)


CODES = st.sampled_from(["a", "lane-07", "crossed", "0f", ""])
NAMES = ("a", "lane-07", "b.2_x", "A" * 64)
IDS = (1, 9, forms.INT_MAX)
HASHES = (bytes(32), bytes(range(32)))
GIVEN: dict[tuple[str, str], tuple[Any, ...]] = {
    **{("Record", name): NAMES for name in ("lane", "boot")},
    ("Record", "kind"): ("LaneChanged",),
    ("Record", "schema"): (facts.SCHEMA,),
    ("Record", "stream"): ("alarm",),
    ("Record", "stream_id"): ("g-alarm", "g.2-alarm"),
    ("Record", "seq"): IDS,
    ("Record", "prev"): HASHES,
    ("RecordsDropped", "first"): (1, 9),
    ("RecordsDropped", "last"): (9, forms.INT_MAX),
    ("RecordsDropped", "head"): HASHES,
    ("AttachmentPart", "part"): (1, 3),
    ("AttachmentPart", "parts"): (3, forms.INT_MAX),
    ("AttachmentPart", "size"): (1, facts.ATTACHMENT_BYTES_MAX),
    ("AttachmentPart", "keep_days"): IDS,
    ("Tip", "partition"): ("people", "control"),
    ("Tip", "epoch"): (1, bundle.SERIAL_MAX),
    ("Tip", "serial"): (0, bundle.SERIAL_MAX),
    **{(cls, "ticket"): IDS for cls in ("VerdictReached", "TicketSettled", "AttachmentPart")},
}
"""Values for fields that a class checks itself."""


def values(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Random values of a class, out to its limits."""
    hints = typing.get_type_hints(cls)
    each = {f.name: of(hints[f.name], f.metadata.get("limit")) for f in fields(cls)}
    each |= {name: st.sampled_from(given) for (owner, name), given in GIVEN.items() if owner == cls.__name__}
    return st.builds(cls, **each)


def of(hint: Any, limit: int | None) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if type(None) in arguments:
        return st.none() | of(arguments[0], limit)
    if origin is frozenset:
        return st.frozensets(of(arguments[0], None), max_size=min(3, limit or 3))
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(of(arguments[0], None), max_size=min(2, limit or 2)).map(tuple)
    if origin is tuple:
        return st.tuples(*(of(a, None) for a in arguments))
    if hint is str:
        most = min(limit or 9, 99)
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=min(most, 6))
        return CODES.map(lambda code: code[:most]) | text | st.sampled_from(["\U0001f6c2" * most, "\n"[:most]])
    if hint is bytes:
        return st.binary(max_size=limit or 40) if (limit or 40) <= 40 else st.binary(max_size=8)
    if hint is datetime:
        return st.datetimes(timezones=st.just(UTC))
    if hint is int:
        return st.integers(-forms.INT_MAX, forms.INT_MAX)
    if hint is type(None):
        return st.none()
    if hint in (float, bool, date):
        return {float: st.floats(), bool: st.booleans(), date: st.dates()}[hint]
    if hint == Mapping[str, Any]:
        return st.just({})
    return st.sampled_from(hint) if issubclass(hint, Enum) else values(hint)


PLAIN: dict[Any, Any] = {
    str: "a", bytes: b"1", int: 3, float: 0.5, bool: True, date: date(2024, 2, 29), datetime: NOW, type(None): None,
    Mapping[str, Any]: {},
}  # fmt: skip


def full(hint: Any) -> Any:
    """A value with something in every field, at every depth."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if type(None) in arguments:
        return full(arguments[0])
    if origin is frozenset:
        return frozenset({full(arguments[0])})
    if origin is tuple:
        return tuple(full(a) for a in arguments if a is not Ellipsis)
    if hint in PLAIN:
        return PLAIN[hint]
    if issubclass(hint, Enum):
        return next(iter(hint))
    hints = typing.get_type_hints(hint)
    given = {name: some[0] for (owner, name), some in GIVEN.items() if owner == hint.__name__}
    return hint(**{f.name: given[f.name] if f.name in given else full(hints[f.name]) for f in fields(hint)})


# -- mistakes of every sort: what is put in the place of something ---------------------------------------------------

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, forms.INT_MAX, forms.INT_MAX + 1, -forms.INT_MAX - 1, 0.5, 1e300,
    "NaN", "-Infinity", "nan", "", "x", "A" * 64, "A" * 65, "A" * 4096, "A" * 4097,
    "AA==", "AB==", "AAA=", "AAB=", "AAAA", "AAA", "AA=A", "AAAAAA==", "AAAAAAA=", "AAAAAAAA",
    "A" * 42 + "A=", "A" * 43 + "=", "A" * 41 + "A==", "A" * 42 + "B=",
    "2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "0000-02-29", "0000-01-01", "2023-04-31",
    "2023-1-1", "20230101", "+023-01-01", "2023-02-29T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z",
    "2024-02-29T24:00:00.000000Z", "2024-02-29T23:59:60.000000Z", "2024-02-29T23:59:59.99999Z",
    "2024-02-29T23:59:59.999999+00:00", "red", "blue", 2, "2",
    [], ["a"], ["a", "b"], ["a", 1], ["a", "a"], ["a", "b", "c", "d"], {}, {"a": 1}, [None], [[]],
]  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a tree."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def mistakes(tree: Any, depth_max: int = 9) -> Iterator[Any]:
    """The tree with one thing of it changed, left out, doubled or added: all of them."""
    for path in [path for path in places(tree) if path and len(path) <= depth_max]:
        for what in (*JUNK, "drop", "twice", "surplus"):
            wrong = copy.deepcopy(tree)
            parent = wrong
            for key in path[:-1]:
                parent = parent[key]
            if what == "drop":
                del parent[path[-1]]
            elif what == "twice":
                parent[path[-1]] = [parent[path[-1]]] * 2
            elif what == "surplus" and isinstance(parent, dict):
                parent["surplus"] = 0
            else:
                parent[path[-1]] = what
            yield wrong


UNSAYABLE = {"expected a float", "a set out of order or with an item twice"}
"""Of these refusals a schema cannot know: 1 is 1.0 to it, and a set an array."""


def crossed(tree: Any) -> bool:
    """Whether two fields contradict each other: in a clear half, or in a record around it."""
    one = tree.get("clear", tree)
    for low, high in (("first", "last"), ("part", "parts")):
        if isinstance(one, dict) and low in one and type(one.get(high)) is int and one[low] > one[high]:
            return True
    return "stream_id" in tree and not str(tree["stream_id"]).endswith(f"-{tree.get('stream')}")


def agree(check: Draft202012Validator, tree: Any, read: Callable[[Any], Any]) -> None:
    """The codec refuses what the schema refuses, and nothing else but what no schema can say."""
    try:
        read(tree)
        refused = ""
    except WireError as bad:
        refused = bad.why
    if not check.is_valid(tree):
        assert refused, (tree, next(check.iter_errors(tree)).message)
    elif refused not in UNSAYABLE and not ("own checks" in refused and crossed(tree)):
        assert not refused, (refused, tree)


MESSAGES = (*link.MESSAGES.values(), bundle.Announcement, bundle.Tip, Every)
CLASSES = (*MESSAGES, *facts.FACTS.values())
CHECK: dict[str, Draft202012Validator] = {}


def clear_of(cls: type[Any]) -> Draft202012Validator:
    """Of the clear half of a fact: what the schema of a record says of it."""
    name = f"{cls.__name__}.clear" if codec.has_personal(cls) else cls.__name__
    if name not in CHECK:
        CHECK[name] = validator({"$ref": f"#/$defs/{name}", "$defs": schema.envelope()["$defs"]})
    return CHECK[name]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_whatever_the_codec_writes_is_valid(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(values(cls))
    if cls in MESSAGES:
        CHECK.setdefault(cls.__name__, validator(schema.message(cls))).validate(codec.dump(value))
    else:
        clear_of(cls).validate(codec.split(value)[0])
    if codec.has_personal(cls):
        CHECK.setdefault(f"{cls.__name__}.sealed", validator(schema.sealed(cls))).validate(codec.split(value)[1])


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_message_s_mistakes(cls: type[Any]) -> None:
    check = validator(schema.message(cls))
    for wrong in mistakes(codec.dump(full(cls))):
        agree(check, wrong, lambda wrong: codec.load({cls.__name__: cls}, wrong))


@pytest.mark.parametrize("cls", facts.FACTS.values(), ids=lambda cls: cls.__name__)
def test_a_fact_s_mistakes(cls: type[Any]) -> None:
    clear, hidden = codec.split(full(cls))
    for wrong in mistakes(clear):
        agree(clear_of(cls), wrong, lambda wrong: codec.join(cls, wrong, hidden))
    check = validator(schema.sealed(cls))
    for wrong in mistakes(hidden):
        agree(check, wrong, lambda wrong: codec.join(cls, clear, wrong))


def test_the_mistakes_of_what_is_partly_personal() -> None:
    """No fact has such a field yet: a class that is clear and holds personal fields."""
    clear, hidden = codec.split(full(Every))
    check = validator(schema.sealed(Every))
    for wrong in mistakes(hidden):
        if "maybe" in wrong:  # whether it is there is known from the clear half alone
            agree(check, wrong, lambda wrong: codec.join(Every, clear, wrong))
    clear, hidden = codec.split(replace(full(Every), maybe=None))
    assert "maybe" not in hidden
    check.validate(hidden)


@pytest.mark.parametrize("kind", ["LaneChanged", "OfficerCalled"])
def test_a_record_s_mistakes(kind: str) -> None:
    cls = facts.FACTS[kind]
    clear, hidden = codec.split(full(cls))
    envelope = replace(full(record.Record), kind=kind, clear=clear, sealed=b"1" if hidden else None)
    check = validator(schema.envelope())
    check.validate(form_of(record.Record).dump(envelope))
    for wrong in mistakes(form_of(record.Record).dump(envelope)):
        agree(check, wrong, lambda wrong: read_record(wrong, hidden))


def read_record(tree: Any, hidden: Any) -> None:
    """As HQ reads it, but for the seal: what a later edition says is kept as it came."""
    read = form_of(record.Record).load(tree)
    if read.schema > facts.SCHEMA:
        return
    if read.kind not in facts.FACTS:
        raise WireError("unknown kind")
    if codec.has_personal(facts.FACTS[read.kind]) != (read.sealed is not None):
        raise WireError("a sealed half where there is none, or none where there is one")
    codec.join(facts.FACTS[read.kind], read.clear, hidden)


@pytest.mark.parametrize("action", orders.Action, ids=lambda action: action.value)
def test_an_order_s_mistakes(action: orders.Action) -> None:
    check = validator(schema.order())
    args = {name: min(each) for name, each in orders.ARGUMENTS[action].items()}
    ticket = 4 if action in orders.TICKETED else None
    times = (NOW, NOW + timedelta(seconds=orders.VALIDITY_S_MAX))
    asked = orders.Order("o-1", action, "a.b@c", "lane-07", "b1", ticket, "0f" * 16, *times, args)
    tree = json.loads(orders.canonical(asked))
    check.validate(tree)
    for wrong in mistakes(tree):
        body = json.dumps(wrong, sort_keys=True, separators=(",", ":")).encode()
        try:
            orders.read(bytes(64) + body)
        except orders.Malformed as bad:
            unsaid = "valid for" in str(bad) or "bytes are no order" in str(bad)
            unsaid |= wrong.get("ticket") == 1e300  # a whole number to a schema, and without an upper limit
            assert unsaid or not check.is_valid(wrong), (bad, wrong)
        else:
            check.validate(wrong)


def birth(**change: Any) -> Any:
    return {"Birth": {**codec.dump(link.Birth("s", "b", NOW, "1", ()))["Birth"], **change}}


def test_what_a_schema_cannot_say() -> None:
    """Each of these is refused by the codec alone; `schema.UNSAID` tells whoever relies on schemas."""
    every = validator(schema.message(Every))
    tree = codec.dump(Every(f=1.0, names=frozenset({"a", "b"})))
    for wrong in ({"f": 1}, {"names": ["b", "a"]}, {"inner": {"size": 1.0, "name": ""}}):
        bad = {"Every": {**tree["Every"], **wrong}}
        every.validate(bad)
        with pytest.raises(WireError):
            codec.load({"Every": Every}, bad)
    for name, value in (("f", "nan"), ("f", "1"), ("f", True), ("f", None), ("names", ["a", "a"])):
        assert not every.is_valid({"Every": {**tree["Every"], name: value}}), name  # this much it can say
    check = validator(schema.envelope())
    for fact, wrong in (
        (facts.RecordsDropped(1, 2, bytes(32)), {"first": 3}),
        (facts.AttachmentPart(1, "1-a", "entry_face", "image/jpeg", 1, 2, 9, 1), {"part": 3}),
    ):
        clear, hidden = codec.split(fact)
        with pytest.raises(WireError):
            codec.join(type(fact), {**clear, **wrong}, hidden)
        made = record.Head.start("lane-07", "g-state").next(fact, NOW, "b", seal.public_of(KEY))
        check.validate({**form_of(record.Record).dump(made), "clear": {**clear, **wrong}})
    spaced = json.dumps(birth()).encode()
    validator(schema.message(link.Birth)).validate(json.loads(spaced))
    with pytest.raises(WireError):
        link.decode(spaced)


@pytest.mark.parametrize(
    ("page", "tree", "says"),
    [
        ("Birth", birth(surplus=1), "Additional properties"),
        ("Birth", {"Birth": {"session": "s"}}, "'boot' is a required property"),
        ("Birth", birth(utc="2026-03-02T08:15:00Z"), "does not match"),
        ("Birth", birth(spans=[0] * 257), "is not of type 'object'"),
        ("Birth", birth(parts=[]), "should not be valid"),
        ("Birth", birth(session="x" * 4097), "is too long"),
        ("Receipt", {"Receipt": {"hq": "", "heads": [], "refusals": [], "pong": "", "rebirth": 0}}, "not of type"),
        ("Desired", {"Reported": {}}, "Additional properties"),
        ("Order", {"action": "open_all"}, "is not one of"),
    ],
)
def test_what_a_foreign_client_hears_of_its_mistake(page: str, tree: Any, says: str) -> None:
    check = validator(json.loads((DOCS / f"schemas/{page}.json").read_text()))
    assert any(says in error.message for error in check.iter_errors(tree))


# -- the documents ---------------------------------------------------------------------------------------------------


def made(docs: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(docs / "mqtt_doc.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_page_and_schemas_say_what_the_code_says() -> None:
    done = made(DOCS, "--check")
    assert done.returncode == 0, done.stderr


def test_a_stale_page_or_schema_is_found_and_made_anew(tmp_path: Path) -> None:
    for name in ("mqtt_doc.py", "mqtt.md"):
        shutil.copy(DOCS / name, tmp_path)
    folder = Path(shutil.copytree(DOCS / "schemas", tmp_path / "schemas"))
    page, whole = tmp_path / "mqtt.md", (tmp_path / "mqtt.md").read_text()
    page.write_text(whole.replace("| `birth` | lane | 1 | yes |", "| `birth` | lane | 0 | no |"))
    (folder / "Birth.json").unlink()
    (folder / "Gone.json").write_text("{}")
    (folder / "Death.json").write_text((folder / "Death.json").read_text().replace("session", "passion"))
    stale = made(tmp_path, "--check")
    assert stale.returncode == 1
    assert all(name in stale.stderr for name in ("mqtt.md", "Birth.json", "Gone.json", "Death.json"))
    assert made(tmp_path).returncode == 0 and page.read_text() == whole
    assert {file.name for file in folder.iterdir()} == {file.name for file in (DOCS / "schemas").iterdir()}


def test_every_leaf_has_a_schema_and_every_example_is_valid() -> None:
    """Read as a foreign client does: from the files alone."""
    topics = json.loads((DOCS / "schemas/topics.json").read_text())["leaves"]
    assert topics.keys() == link.LEAVES
    block = (DOCS / "mqtt.md").read_text().partition("<!-- examples:")[2].partition("<!-- end -->")[0]
    shown = re.findall(r"^`gate/v1/\S+/(\w+)`.*?```\w+\n(.*?)```", block, re.M | re.S)
    assert {leaf for leaf, _ in shown} == link.LEAVES
    for leaf, text in shown:
        page = json.loads((DOCS / "schemas" / topics[leaf]["schema"]).read_text())
        validator(page).validate(json.loads(text.splitlines()[-1]))


def test_the_worked_examples_work(tmp_path: Path) -> None:
    """Hashes and signatures of the page, by other programs than ours."""
    if shutil.which("openssl") is None or shutil.which("sha256sum") is None:
        pytest.skip("openssl or sha256sum is not installed")
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "mqtt.md").read_text(), re.S)
    assert len(blocks) == 3
    said = ""
    for block in blocks:
        ran = subprocess.run(["bash", "-euc", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said += ran.stdout
        changed = block.replace("lane-07", "lane-08").replace("blob='", "blob='AAAA")
        wrong = subprocess.run(["bash", "-uc", changed], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Verified Successfully" not in wrong.stdout
    assert said.count("Signature Verified Successfully") == 2
    hashes = re.findall(r"sha256sum  # ([0-9a-f]{64})", "".join(blocks))
    assert len(hashes) == 2 and all(each in said for each in hashes)


def test_personal_fields_are_in_no_clear_half() -> None:
    """What the foreign client's test leans on: names of sealed fields cannot stand in what travels open."""
    page = json.loads((DOCS / "schemas/Record.json").read_text())
    for kind, cls in facts.FACTS.items():
        hidden = schema.sealed(cls)["properties"].keys() if codec.has_personal(cls) else set()
        name = f"{kind}.clear" if hidden else kind
        assert not hidden & page["$defs"][name]["properties"].keys(), kind
        assert page["$defs"][name]["additionalProperties"] is False
    assert "x-personal" not in json.dumps(page)
    assert "holder" in schema.sealed(facts.VerdictReached)["properties"]
