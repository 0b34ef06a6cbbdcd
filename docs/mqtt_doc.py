"""Writes docs/schemas and the tables and examples of docs/mqtt.md from `gated.wire`; `--check` only compares.

Every payload that the page shows is made by the codec with the test keys below, and proven here before it is written.
"""

import ast
import functools
import inspect
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gated.hq.orders import VALIDITY_S  # noqa: E402
from gated.sections import Uplink  # noqa: E402
from gated.uplink.line import PING_AGAIN_S, TELEMETRY_EXPIRY_S  # noqa: E402
from gated.wire import bundle, canonical, codec, facts, forms, link, orders, record, schema, seal  # noqa: E402
from gated.wire.facts import Part  # noqa: E402

# -- who, when, which keys: of the examples alone

SITE, LANE = "tpe-t1", "lane-07"
GENERATION, BOOT, SESSION, HQ = "7f3a9c210b5e4d68", "5d1e60c94a7b3f02", "a1b2c3d4e5f6", "0f1e2d3c4b5a"
NOW = datetime(2026, 3, 2, 8, 15, 0, 250000, UTC)
HQ_KEY, RECEIPTS_KEY, ORDERS_KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
"""Keys that everybody knows: X25519, Ed25519, Ed25519."""
SEALED = b64decode(
    "ASq0hyTwhQXvXde6IJSlMVznceHKlpv69iKD87lWRet9wJuMsDF/M7Qng7gW036nbRwzEzeMHwHIMpLCxBYlV/ui2d68FKBNrvW4"
    "1SHXsZJTkqcUGM23ZqExdzydxF6h+tPwCn5/qs/+T+dFW82X3y4pMhWZREJ4Z5+44lj9c/qx7UrSv68zxDdaMIWybz1hROV1uUsT"
    "Ewge25kVazgiXpOdqDt3UF+ij7yjSq0ccsd+NhbTFuSTR/0TW/W0i10moYzZofcx1541Z2ymLy17mM5QVeuEaUpy0duzau6JIACB"
    "+5ONYuPilr8urmWnj88eyuHY5DGYMbcrbWG8s5sDyG17mW9rZ+JM8CvQVeA2KCV4aWCWgTYCYqixvDNwwoiTOXgkcT4zTngN7mFu"
    "XIKXAW4="
)
"""The personal half of `passage()`. Each sealing differs (its ephemeral key is random), so it is kept here."""


def first() -> record.Record:
    """The first record of a stream; it holds nothing personal."""
    head = record.Head.start(LANE, record.stream_id(GENERATION, facts.STATE))
    return head.next(facts.DeviceChanged("door_b", "lost", "no_answer"), NOW, BOOT, seal.public_of(HQ_KEY))


def passage() -> record.Record:
    """A record with a sealed half."""
    clear, hidden = codec.split(facts.TicketSettled(41, "crossed", 1, "grant", "all_kept", "entry", "A"))
    stream_id = record.stream_id(GENERATION, facts.CROSSING)
    start, fields = record.Head.start(LANE, stream_id), (NOW, BOOT, "TicketSettled", clear)
    made = record.Record(LANE, stream_id, facts.CROSSING, 1, start.hash, *fields, SEALED)
    try:
        made.fact(HQ_KEY)
    except seal.SealError:
        place = canonical.dumps(forms.form_of(record.Record).dump(made) | {"sealed": None})
        fresh = seal.seal_to(seal.public_of(HQ_KEY), seal.padded(canonical.dumps(hidden)), place)
        raise SystemExit(f"the example's envelope has changed: set SEALED to {b64encode(fresh).decode()}") from None
    return made


def receipt() -> bytes:
    """HQ's receipt for `first()`."""
    head = link.Head(first().stream_id, 1, first().hash())
    return link.encode(link.Receipt(HQ, (head,), (), "c0ffee01"))


def order() -> bytes:
    """A signed order."""
    issued = NOW.replace(microsecond=0)
    where = ("officer-12", LANE, BOOT, 41, "00112233445566778899aabbccddeeff")
    asked = orders.Order("3f6a1b2c4d5e6f70", orders.Action.OPEN, *where, issued, issued + timedelta(seconds=30))
    return orders.sign(Ed25519PrivateKey.from_private_bytes(ORDERS_KEY), asked)


def announcement() -> bundle.Announcement:
    """HQ has published; without the bytes of its segment."""
    tip = bundle.Tip(bundle.SCHEMA, "control", 1, 212, bytes(32), bytes(range(32)), 310, NOW)
    return bundle.Announcement(87, (bundle.SignedTip(codec.encode(tip), "5a" * 32, bytes(64)),))


# -- topics


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the tree. `payload`: `json`, or `signed`: `skip` bytes of signature, then JSON."""

    topic: str
    sender: str
    schema: str
    retain: bool = False
    expiry_s: int | None = None
    properties: tuple[str, ...] = ()
    content_type: str | None = None
    correlation: bool = False
    payload: str = "json"
    skip: int = 0
    qos: int = 1


def lane_topic(leaf: str) -> str:
    """A leaf of a lane, as a filter."""
    return f"{link.ROOT}/+/+/{leaf}"


LEAVES = {
    "birth": Leaf(lane_topic("birth"), "lane", "Birth", retain=True),
    "death": Leaf(lane_topic("death"), "lane; broker, as its will", "Death", retain=True),
    "telemetry": Leaf(lane_topic("telemetry"), "lane", "Telemetry", expiry_s=TELEMETRY_EXPIRY_S),
    "event": Leaf(
        lane_topic("event"), "lane", "Record",
        properties=(link.ID_PROPERTY, link.SEQ_PROPERTY), content_type="application/json",
    ),
    "ack": Leaf(lane_topic("ack"), "HQ", "Receipt", properties=(link.SIGNATURE_PROPERTY,)),
    "desired": Leaf(lane_topic("desired"), "HQ", "Desired", retain=True),
    "reported": Leaf(lane_topic("reported"), "lane", "Reported", retain=True),
    "cmd": Leaf(
        lane_topic("cmd"), "HQ", "Order",
        expiry_s=VALIDITY_S, correlation=True, payload="signed", skip=orders.SIGNATURE_BYTES,
    ),
    "answer": Leaf(lane_topic("answer"), "lane", "OrderAnswer", correlation=True),
    "announce": Leaf(link.announce_topic(), "HQ", "Announcement", retain=True),
}  # fmt: skip
"""In the order in which a connection comes to use them."""


def payloads() -> dict[str, bytes]:
    """An example of each leaf."""
    head = first()
    parts = (Part("daemon", "0.6.0"), Part("policy", "taiwan 12"))
    journal = link.JournalHead(GENERATION, 1, 9051, bytes(range(32)))
    told: dict[str, link.Message] = {
        "birth": link.Birth(SESSION, BOOT, NOW, "0.6.0", (link.Span(head.stream_id, head.stream, 1, 1, 0),), parts),
        "death": link.Death(SESSION, "lost"),
        "telemetry": link.Telemetry(SESSION, BOOT, NOW, "c0ffee01", True, "ok", 1, 0.4, 0, 0, journal),
        "desired": link.Desired(7, NOW, (Part("policy", "taiwan 13"),)),
        "reported": link.Reported(7, NOW, parts, ("policy",)),
        "answer": link.OrderAnswer("3f6a1b2c4d5e6f70", True, ""),
    }
    fixed = {"event": head.encode(), "ack": receipt(), "cmd": order(), "announce": codec.encode(announcement())}
    made = {**{leaf: link.encode(message) for leaf, message in told.items()}, **fixed}
    return {leaf: made[leaf] for leaf in LEAVES}


# -- schemas


@functools.cache
def _sentences(module: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the text that stands below the field in the source."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ClassDef):
            for field, below in zip(node.body, node.body[1:], strict=False):
                if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                    continue
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    found[node.name, field.target.id] = " ".join(str(below.value.value).split())
    return found


def said(cls: type[Any], name: str) -> str:
    """What the source says of a field, of the class that declares it."""
    for base in cls.__mro__:
        if name in vars(base).get("__annotations__", {}):
            return _sentences(base.__module__).get((base.__name__, name), "")
    return ""


def sealed_facts() -> dict[str, type[Any]]:
    """The facts that have a personal half."""
    return {kind: cls for kind, cls in facts.FACTS.items() if codec.has_personal(cls)}


def schemas() -> dict[str, Any]:
    """Every file of docs/schemas."""
    pages = [schema.message(cls, said) for cls in (*link.MESSAGES.values(), bundle.Announcement, bundle.Tip)]
    pages += [schema.envelope(said), schema.order(), *(schema.sealed(cls, said) for cls in sealed_facts().values())]
    found = {f"{page['title']}.json": page for page in pages}
    found["topics.json"] = {
        "convention": link.ROOT,
        "leaves": {leaf: {**asdict(each), "schema": f"{each.schema}.json"} for leaf, each in LEAVES.items()},
    }
    return found


# -- the blocks of the page


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _schema_link(name: str) -> str:
    return f"[{name}](schemas/{name}.json)"


def topics() -> Iterator[str]:
    """All leaves."""
    yield _row("leaf", "from", "QoS", "retained", "expires", "properties", "payload")
    yield _row(*["---"] * 7)
    for leaf, each in LEAVES.items():
        names = [f"user `{name}`" for name in each.properties]
        names += [f"content type `{each.content_type}`"] if each.content_type else []
        names += ["correlation data"] if each.correlation else []
        payload = _schema_link(each.schema) + (f" after {each.skip} bytes of signature" if each.skip else "")
        kept = "yes" if each.retain else "no"
        expires = f"{each.expiry_s} s" if each.expiry_s else "-"
        yield _row(f"`{leaf}`", each.sender, each.qos, kept, expires, ", ".join(names) or "-", payload)


def numbers() -> Iterator[str]:
    """What a lane does unless its lane.toml says otherwise."""
    options = {option: Uplink.__dataclass_fields__[option].default for option in vars_of(Uplink)}
    yield _row("`[uplink]` of lane.toml", "default", "")
    yield _row("---", "---", "---")
    for option, about in (
        ("keep_alive_s", "MQTT keep alive"),
        ("heartbeat_s", "telemetry, and with it a ping"),
        ("ack_s_max", "a record that was not acknowledged for so long is sent again"),
        ("inflight_max", "records unanswered at a time"),
        ("retry_s_min", "first pause before the next attempt to connect; doubles, with jitter over its upper half"),
        ("retry_s_max", "longest pause"),
    ):
        yield _row(f"`{option}`", options[option], about)
    yield _row("", PING_AGAIN_S, "an unanswered ping is followed by the next, where `heartbeat_s` is not less")


def vars_of(cls: type[Any]) -> tuple[str, ...]:
    """The names of a dataclass's fields."""
    return tuple(cls.__dataclass_fields__)


def limits() -> Iterator[str]:
    """Everything that is refused for its size."""
    yield _row("what", "at most")
    yield _row("---", "---")
    for what, most in (
        ("a message", f"{canonical.DATA_MAX:,} bytes"),
        ("a record (`event`)", f"{record.RECORD_MAX:,} bytes"),
        ("an order (`cmd`)", f"{orders.ORDER_BYTES_MAX:,} bytes"),
        ("a text, bytes, an array, where its schema says nothing else",
         f"{forms.TEXT_MAX:,} characters, {forms.BYTES_MAX:,} bytes, {forms.ITEMS_MAX:,} items"),
        ("streams in a birth, heads in a receipt", link.STREAMS_MAX),
        ("bytes of an attachment in one record, of a whole attachment",
         f"{facts.PART_BYTES_MAX:,}, {facts.ATTACHMENT_BYTES_MAX:,}"),
        ("a segment that rides in an announcement", f"{bundle.TIP_SEGMENT_BYTES_MAX:,} bytes"),
        ("an order's validity; how far two clocks may differ",
         f"{orders.VALIDITY_S_MAX} s; {orders.CLOCK_SKEW_S_MAX} s"),
    ):  # fmt: skip
        yield _row(what, most)


def examples() -> Iterator[str]:
    """A payload of each leaf."""
    for leaf, payload in payloads().items():
        topic = LEAVES[leaf].topic.replace("+/+", f"{SITE}/{LANE}")
        skip = LEAVES[leaf].skip
        yield f"`{topic}`" + (f" (base64; the JSON from byte {skip} on)" if skip else "")
        yield ""
        yield from ("```json", payload.decode(), "```") if not skip else (
            "```text", b64encode(payload).decode(), payload[skip:].decode(), "```",
        )  # fmt: skip
        yield ""


def worked_receipt() -> Iterator[str]:
    """The signature of the example's receipt, to be checked by other programs than ours."""
    key = Ed25519PrivateKey.from_private_bytes(RECEIPTS_KEY)
    topic = link.topic(SITE, LANE, "ack")
    signature = key.sign(link.receipt_signed(topic, receipt()))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()
    yield from (
        "```sh", "cat > receipts.pem <<'END'", pem, "END",
        f"topic='{topic}'", f"payload='{receipt().decode()}'", f"signature='{b64encode(signature).decode()}'",
        r"""printf 'gated receipt v1\n%s\n%s' "$topic" "$payload" > signed""",
        """printf %s "$signature" | base64 -d > signature""",
        "openssl pkeyutl -verify -pubin -inkey receipts.pem -rawin -in signed -sigfile signature", "```",
    )  # fmt: skip


def worked_chain() -> Iterator[str]:
    """The example's record: what it refers to, and what the next one will refer to."""
    made = first()
    yield from (
        "```sh", f"record='{made.encode().decode()}'",
        rf"""printf 'gated stream v1\n["%s","%s"]' '{LANE}' '{made.stream_id}' | sha256sum  # {made.prev.hex()}""",
        rf"""printf 'gated record v1\n%s' "$record" | sha256sum  # {made.hash().hex()}""", "```",
    )  # fmt: skip


def worked_seal() -> Iterator[str]:
    """A record with a sealed half, HQ's key, and what opens."""
    made = passage()
    opened = made.fact(HQ_KEY)
    assert codec.split(opened)[0] == made.clear
    hidden = canonical.dumps(codec.split(opened)[1]).decode()
    info = seal._HPKE_INFO.decode().strip()
    yield from (
        "| | |", "|---|---|",
        f"| HQ's private key (X25519, hexadecimal) | `{HQ_KEY.hex()}` |",
        f"| HPKE `info` | `{info}`, line feed, then the record with `sealed` null, canonical |",
        f"| opens to, blanks at the end left out | `{hidden}` |", "",
        "```json", made.encode().decode(), "```",
    )  # fmt: skip


def worked_order() -> Iterator[str]:
    """How the example's order is checked."""
    blob, at = order(), NOW + timedelta(seconds=1)
    public = Ed25519PrivateKey.from_private_bytes(ORDERS_KEY).public_key()
    assert orders.verify((public.public_bytes_raw(),), blob, LANE, BOOT, at, ()) == orders.read(blob)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()
    yield from (
        "```sh", "cat > orders.pem <<'END'", pem, "END", f"blob='{b64encode(blob).decode()}'",
        f"""printf %s "$blob" | base64 -d | head -c {orders.SIGNATURE_BYTES} > signature""",
        r"{ printf 'gated order v1\n'; printf %s "
        f'"$blob" | base64 -d | tail -c +{orders.SIGNATURE_BYTES + 1}; }} > signed',
        "openssl pkeyutl -verify -pubin -inkey orders.pem -rawin -in signed -sigfile signature", "```",
    )  # fmt: skip


def refusals() -> Iterator[str]:
    """Why a lane does not take an order."""
    yield _row("`why`", "")
    yield _row("---", "---")
    for refused in orders.OrderRefused.__subclasses__():
        yield _row(f"`{refused.why}`", " ".join((refused.__doc__ or "").split()))


def seen() -> Iterator[str]:
    """What travels sealed."""
    yield _row("kind", "sealed")
    yield _row("---", "---")
    for kind, cls in sealed_facts().items():
        names = ", ".join(f"`{name}`" for name in schema.sealed(cls)["properties"])
        yield _row(f"[`{kind}`](schemas/{kind}.sealed.json)", names)


def files() -> Iterator[str]:
    """docs/schemas."""
    yield _row("file", "")
    yield _row("---", "---")
    for name, page in sorted(schemas().items()):
        about = page.get("description", "Leaf -> topic, schema, QoS, retain, expiry, properties.")
        yield _row(f"[{name}](schemas/{name})", about)


def unsaid() -> Iterator[str]:
    """What schemas cannot say."""
    yield from (f"* {each};" for each in schema.UNSAID[:-1])
    yield f"* {schema.UNSAID[-1]}."


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        topics, numbers, limits, examples, worked_receipt, worked_chain, worked_seal, worked_order, refusals, seen,
        files, unsaid,
    )
}  # fmt: skip
END = "<!-- end -->"


def page(text: str) -> str:
    """The page with every block made anew. Raises `SystemExit` where one is missing."""
    for name, make in BLOCKS.items():
        begin = f"<!-- {name}: written by docs/mqtt_doc.py -->\n"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not found or not ended:
            raise SystemExit(f"docs/mqtt.md has no block {name}: {begin.strip()} ... {END}")
        text = before + begin + "\n".join(make()).rstrip("\n") + "\n" + END + after
    return text


def main() -> int:
    """0: everything is as the code; 1: something was not (and with `--check` still is not)."""
    document, folder = HERE / "mqtt.md", HERE / "schemas"
    wanted = {folder / name: json.dumps(each, indent=1, ensure_ascii=False) + "\n" for name, each in schemas().items()}
    wanted[document] = page(document.read_text(encoding="utf-8"))
    there = {path: path.read_text(encoding="utf-8") for path in (document, *folder.glob("*.json"))}
    stale = sorted(path for path in wanted.keys() | there.keys() if wanted.get(path) != there.get(path))
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(HERE.parent)} is not what gated/wire says: run make docs", file=sys.stderr)  # noqa: T201
        return int(bool(stale))
    folder.mkdir(exist_ok=True)
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
