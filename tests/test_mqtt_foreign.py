"""Must show 8: every message at the broker is what docs/schemas say, as a client sees it that is not ours.

mosquitto_sub writes down what it sees; jsonschema reads the schemas from their files. Nothing of `gated.wire` is used
to read a message, but HQ's key to look into sealed halves.
"""

import base64
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jsonschema import Draft202012Validator, FormatChecker

from gated.hq import orders as desk
from gated.hq.announcer import Announcer
from gated.mqtt import Broker
from gated.wire import bundle, codec, facts, link
from gated.wire.orders import Action
from gated.wire.record import Record
from gated.wire.seal import open_sealed, unpadded
from tests.broker import mosquitto_path
from tests.data import shared_data
from tests.hw_sim.crew import ROOT, Crew
from tests.networks import networks
from tests.uplink_rig import CANARY, LANE, SITE, Rig, eventually

SCHEMAS = ROOT / "docs" / "schemas"
NOW = datetime(2026, 3, 2, 8, 15, tzinfo=UTC)


def needs_a_foreign_client() -> None:
    mosquitto_path()
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed: apt install mosquitto-clients")


# -- a foreign client: what it saw, and what the files say of it -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One message as mosquitto_sub printed it (`tests.hw_sim.crew.TAP`)."""

    topic: str
    qos: int
    retain: bool
    expiry_s: int | None
    content_type: str
    correlation: str
    properties: dict[str, str]
    payload: bytes

    @property
    def leaf(self) -> str:
        return self.topic.rpartition("/")[2]


def read(log: Path) -> list[Seen]:
    """Every message of a tap. What mosquitto_sub says besides is no line of eight parts."""
    seen = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.count("\t") == 7:
            topic, qos, retain, expiry, content_type, correlation, properties, payload = line.split("\t")
            named = dict(each.split(":", 1) for each in properties.split())
            seen.append(
                Seen(
                    topic, int(qos), retain == "1", int(expiry) if expiry else None, content_type, correlation, named,
                    bytes.fromhex(payload),
                )
            )  # fmt: skip
    return seen


class Files:
    """docs/schemas, as anybody reads them."""

    def __init__(self, folder: Path = SCHEMAS) -> None:
        self._folder = folder
        self.topics: dict[str, dict[str, Any]] = json.loads((folder / "topics.json").read_text())["leaves"]
        self._known: dict[str, Draft202012Validator] = {}

    def validator(self, name: str) -> Draft202012Validator:
        if name not in self._known:
            page = json.loads((self._folder / name).read_text())
            Draft202012Validator.check_schema(page)
            self._known[name] = Draft202012Validator(page, format_checker=FormatChecker())
        return self._known[name]

    def wrongs(self, seen: Seen) -> Iterator[str]:
        """What is not as the files say. Nothing of the content but its path."""
        rule = self.topics.get(seen.leaf)
        levels = seen.topic.split("/")
        if rule is None or not all(r in ("+", t) for r, t in zip(rule["topic"].split("/"), levels, strict=True)):
            yield f"{seen.topic}: no such topic"
            return
        told = (seen.retain, seen.content_type or None, bool(seen.correlation), set(seen.properties))
        rules = (rule["retain"], rule["content_type"], rule["correlation"], set(rule["properties"]))
        if told != rules or seen.qos != rule["qos"]:
            yield f"{seen.leaf}: sent as {(seen.qos, *told)}, not as {(rule['qos'], *rules)}"
        if (rule["expiry_s"] is None) != (seen.expiry_s is None) or (seen.expiry_s or 0) > (rule["expiry_s"] or 0):
            yield f"{seen.leaf}: expires after {seen.expiry_s} s, not {rule['expiry_s']}"
        try:
            tree = json.loads(seen.payload[rule["skip"] :])
        except ValueError:
            yield f"{seen.leaf}: no JSON"
            return
        for bad in self.validator(rule["schema"]).iter_errors(tree):
            yield f"{seen.leaf}: {list(bad.absolute_path)}: {bad.validator} {bad.validator_value!r}"[:300]
        if seen.leaf == "event":
            yield from self._envelope(seen, tree)

    def _envelope(self, seen: Seen, tree: dict[str, Any]) -> Iterator[str]:
        if seen.properties != {"stream-id": tree["stream_id"], "seq": str(tree["seq"])}:
            yield "event: user properties name another record"
        for name in self.personal(tree["kind"]) & keys(tree["clear"]):
            yield f"event: {tree['kind']}.{name} is personal and travels open"

    def personal(self, kind: str) -> set[str]:
        """The names of a kind's fields that the schema marks personal."""
        path = self._folder / f"{kind}.sealed.json"
        if not path.exists():
            return set()
        fields: dict[str, Any] = json.loads(path.read_text())["properties"]
        return {name for name, field in fields.items() if field.get("x-personal")}

    def sealed(self, payload: bytes, private: bytes) -> Iterator[str]:
        """What is wrong with the sealed half of a record, once it is opened."""
        record = Record.decode(payload)
        if record.sealed is not None:
            hidden = json.loads(unpadded(open_sealed(private, record.sealed, record._place())))
            for bad in self.validator(f"{record.kind}.sealed.json").iter_errors(hidden):
                yield f"{record.kind} sealed: {list(bad.absolute_path)}: {bad.validator}"


def keys(tree: Any) -> set[str]:
    """The names in a tree, at every depth."""
    if isinstance(tree, dict):
        return set(tree).union(*(keys(each) for each in tree.values()))
    return set().union(*(keys(each) for each in tree)) if isinstance(tree, list) else set()


def signed(seen: Seen, public: bytes) -> bool:
    """Is this receipt HQ's? As docs/mqtt.md says it."""
    said = b"gated receipt v1\n" + seen.topic.encode() + b"\n" + seen.payload
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(seen.properties["signature"]), said)
    except InvalidSignature:
        return False
    return True


def judge(seen: list[Seen], keys_folder: Path, leaves: set[str]) -> Counter[str]:
    """Every message is as the files say, and `leaves` are among them. How many of each."""
    files = Files()
    wrong = [why for each in seen for why in files.wrongs(each)]
    assert not wrong, f"{len(wrong)} of {len(seen)} messages:\n" + "\n".join(wrong[:10])
    private, public = (keys_folder / "hq.key").read_bytes(), (keys_folder / "receipts.pub").read_bytes()
    events = [each for each in seen if each.leaf == "event"]
    wrong = [why for each in events for why in files.sealed(each.payload, private)]
    assert not wrong, wrong[:10]
    assert all(signed(each, public) for each in seen if each.leaf == "ack")
    counted = Counter(each.leaf for each in seen)
    assert leaves <= counted.keys(), f"never seen: {leaves - counted.keys()}"
    assert any(b'"sealed":null' not in each.payload for each in events), "no record with a sealed half was seen"
    return counted


def numbers(seen: list[Seen]) -> set[tuple[str, int]]:
    """(stream id, number) of every record that was seen."""
    return {(each.properties["stream-id"], int(each.properties["seq"])) for each in seen if each.leaf == "event"}


# -- the line between a lane's outbox and HQ: quick ------------------------------------------------------------------


def test_every_message_of_the_line_is_as_the_schemas_say(tmp_path: Path) -> None:
    needs_a_foreign_client()
    rig = Rig(tmp_path / "rig")
    with rig.broker, Crew(tmp_path / "logs") as crew:
        crew.tap(rig.broker.port)
        log = tmp_path / "logs" / "tap.log"
        rig.ingest()
        rig.uplink()
        announcer = Announcer(rig.hq_broker)
        try:
            rig.lane.passengers(5)
            rig.lane.say(facts.OfficerCalled(5, "no_match", "urgent"), facts.LaneBooted("boot-1", "mantrap"))
            eventually(rig.all_acked, 20.0)
            tip = codec.encode(bundle.Tip(1, "control", 1, 2, bytes(32), bytes(32), 9, NOW))
            said = bundle.Announcement(1, (bundle.SignedTip(tip, "5a" * 32, bytes(64), b"segment"),))
            assert announcer.send(codec.encode(said), 5.0)
            asked = desk.Asked(SITE, LANE, Action.OPEN, "officer-12", 5)
            assert desk.carry(rig.hq_broker, (rig.folder / "keys" / "orders.key").read_bytes(), asked, 10.0).taken
        finally:
            announcer.close()
            rig.end("uplink")
        eventually(lambda: any(each.leaf == "death" for each in read(log)), 5.0, "the lane's goodbye")
        rig.end("ingest")
        seen = read(log)
    written = rig.lane.written
    rig.close()
    judge(seen, rig.folder / "keys", {"birth", "telemetry", "event", "ack", "announce", "cmd", "answer", "death"})
    assert numbers(seen) == {(record.stream_id, record.seq) for record in written}
    assert CANARY.encode() not in b"".join(each.payload for each in seen)


# -- the judge itself is no fool -------------------------------------------------------------------------------------


def event(**change: Any) -> Seen:
    tree = json.loads(
        Record(LANE, "g-state", "state", 1, bytes(32), NOW, "b", "LaneChanged", {"state": "idle"}, None).encode()
    )
    payload = json.dumps({**tree, **change.pop("tree", {})}).encode()
    whole: dict[str, Any] = {
        "topic": link.topic(SITE, LANE, "event"), "qos": 1, "retain": False, "expiry_s": None,
        "content_type": "application/json", "correlation": "", "properties": {"stream-id": "g-state", "seq": "1"},
        "payload": payload,
    }  # fmt: skip
    return Seen(**{**whole, **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"topic": "gate/v1/hq/all/events"}, "no such topic"),
        ({"topic": "gate/v2/tpe-t1/lane-07/event"}, "no such topic"),
        ({"qos": 0}, "sent as"),
        ({"retain": True}, "sent as"),
        ({"expiry_s": 60}, "expires after"),
        ({"properties": {"seq": "1"}}, "sent as"),
        ({"properties": {"stream-id": "g-state", "seq": "2"}}, "another record"),
        ({"payload": b"\xff\x00"}, "no JSON"),
        ({"tree": {"seq": 0}}, "minimum"),
        ({"tree": {"surplus": 0}}, "additionalProperties"),
        ({"tree": {"clear": {"state": "idle", "holder": None}}}, "additionalProperties"),
        ({"tree": {"kind": "Unheard"}}, "enum"),
        ({"tree": {"kind": "OfficerCalled", "sealed": "AAAA", "clear": {"ticket": 1, "reason": "x"}}}, "travels open"),
    ],
)
def test_a_message_that_is_wrong_is_found(change: dict[str, Any], says: str) -> None:
    found = list(Files().wrongs(event(**change)))
    assert any(says in each for each in found) if says else not found, found


def test_a_tap_reads_what_is_not_text(tmp_path: Path) -> None:
    """An order is signed bytes; as JSON mosquitto_sub would cut it at its first zero."""
    needs_a_foreign_client()
    rig = Rig(tmp_path / "rig")
    blob = bytes(range(256)) + b'\t{"v":1.0}\n'
    with rig.broker, Crew(tmp_path / "logs") as crew:
        crew.tap(rig.broker.port)
        announcer = Announcer(Broker("127.0.0.1", rig.broker.port, tls=False))
        assert announcer.send(blob, 5.0)
        announcer.close()
        eventually(lambda: bool(read(tmp_path / "logs" / "tap.log")), 5.0)
        (seen,) = read(tmp_path / "logs" / "tap.log")
    rig.close()
    assert (seen.payload, seen.leaf, seen.retain, seen.qos) == (blob, "announce", True, 1)


# -- the whole demonstration -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_message_of_the_demonstration_is_as_the_schemas_say(tmp_path: Path) -> None:
    needs_a_foreign_client()
    networks()
    out = tmp_path / "out"
    options = ("--passengers", "3", "--seed", "7", "--speed", "3", "--impostors", "0.6", "--json", "--tap")
    where = ("--people", str(shared_data() / "faces" / "images"), "--out", str(out))
    command = [sys.executable, "-m", "tests.hw_sim", "demo", *options, *where]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=380)
    assert ran.returncode == 0, ran.stderr
    seen = read(out / "logs" / "tap.log")
    counted = judge(seen, out / "keys", {"birth", "telemetry", "event", "ack", "announce", "cmd", "answer", "death"})
    assert counted["event"] >= 3 * json.loads(ran.stdout)["passengers"]
    last = dict(sorted(numbers(seen)))  # of several numbers the highest
    assert numbers(seen) == {(stream_id, seq) for stream_id in last for seq in range(1, last[stream_id] + 1)}
    receipts = [json.loads(each.payload)["Receipt"] for each in seen if each.leaf == "ack"]
    heads = {(head["stream_id"], head["seq"]) for each in receipts for head in each["heads"]}
    assert set(last.items()) <= heads, "HQ acknowledged what the tap did not see, or the other way round"
