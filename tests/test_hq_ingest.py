"""HQ's ingest workers: several on one subscription, killed, without a database, fed with what nobody should send."""

import base64
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gated.hq import workers
from gated.hq.archive import ArchiveError
from gated.hq.cli import gated_hq
from gated.hq.intake import Intake
from gated.hq.receipts import Answer, Signer
from gated.hq.workers import Work, Workers
from gated.mqtt import Broker, Connected, Happening, Publication, Received, Session
from gated.wire import link
from gated.wire.facts import AlarmRaised
from gated.wire.record import RECORD_MAX, Head, Record
from tests.broker import RunningBroker
from tests.postgres import new_database, shared
from tests.test_uplink import Spy
from tests.uplink_rig import LANE, SITE, Rig, eventually


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.broker.start()
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A rig with its broker, HQ on either database."""
    made = Rig(tmp_path, hq_url=new_database() if request.param == "postgresql" else "")
    made.broker.start()
    yield made
    made.close()


def children(pid: int) -> list[int]:
    """The ingest workers that process `pid` keeps."""
    found = [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- several workers ---------------------------------------------------------------------------------------------


def test_workers_share_a_lane_and_one_is_killed(served: Rig) -> None:
    rig, count = served, 4 if served.hq_where.startswith("postgresql") else 2
    rig.ingest_process(workers=count)
    log = rig.folder / "ingest.log"
    eventually(lambda: log.read_bytes().count(b'"connected"') == count, 20, "all are connected")
    rig.uplink()
    rig.lane.passengers(30)
    first = children(rig.pid("ingest"))
    assert len(first) == count
    os.kill(first[1], signal.SIGKILL)
    rig.lane.passengers(30)
    eventually(rig.all_acked, 30, "everything acknowledged")
    rig.assert_exactly_once()
    eventually(lambda: log.read_bytes().count(b'"connected"') == count + 1, 20, "the dead one is started again")
    assert b"worker ended" in log.read_bytes() and len(children(rig.pid("ingest"))) == count
    rig.lane.passengers(10)
    eventually(rig.all_acked, 30)
    rig.assert_exactly_once()
    assert rig.archive().counters().get("held", 0) > 0, "several took in one stream"
    before = children(rig.pid("ingest"))
    rig.end("ingest")
    assert not any(map(is_alive, before)), "SIGTERM ends all"


def test_workers_end_with_who_keeps_them(rig: Rig) -> None:
    rig.ingest_process(workers=2)
    eventually(lambda: (rig.folder / "ingest.log").read_bytes().count(b'"connected"') == 2, 20)
    orphans = children(rig.pid("ingest"))
    rig.kill("ingest")
    eventually(lambda: not any(map(is_alive, orphans)), what="nobody goes on unsupervised")


def test_a_worker_that_hangs_is_killed_and_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(rig.hq_where, rig.hq_private, rig.receipts_key, rig.hq_broker)
    crew, stop = Workers(1, work), threading.Event()
    thread = threading.Thread(target=crew.run, args=(stop,))
    thread.start()
    try:
        eventually(crew.connected, 20, "a worker is connected")
        rig.uplink()
        rig.lane.passengers(2)
        eventually(rig.all_acked)
        eventually(lambda: crew.counts()["stored"] == len(rig.lane.written), what="the worker tells its counts")
        [hung] = children(os.getpid())
        os.kill(hung, signal.SIGSTOP)
        with monkeypatch.context() as impatient:
            impatient.setattr(workers, "SILENT_S_MAX", 1.5)
            eventually(lambda: not is_alive(hung), 20, "the worker that hangs is killed")
        rig.lane.passengers(2)
        eventually(rig.all_acked, 20)
        stored = len(rig.lane.written)
        eventually(lambda: crew.counts()["stored"] >= stored, what="counts go on where the dead worker ended")
    finally:
        stop.set()
        thread.join(15)
    rig.assert_exactly_once()
    assert not thread.is_alive() and not children(os.getpid())


# -- receipts and pongs ------------------------------------------------------------------------------------------


def telemetry(session: str, ping: str) -> bytes:
    return link.encode(link.Telemetry(session, "", datetime.now(UTC), ping, True, "ok", 0, 0.0, 0, 0))


def receipt(spy: Spy, rig: Rig, wanted: Callable[[link.Receipt], object]) -> link.Receipt:
    """The next receipt that is wanted; each one heard must be signed."""
    public = Ed25519PublicKey.from_public_bytes((rig.folder / "keys" / "receipts.pub").read_bytes())
    for _ in range(50):
        heard = spy.heard()
        signature = base64.b64decode(heard.properties[link.SIGNATURE_PROPERTY])
        public.verify(signature, link.receipt_signed(heard.topic, heard.payload))
        told = link.decode(heard.payload)
        assert isinstance(told, link.Receipt)
        if wanted(told):
            return told
    raise AssertionError("no such receipt")


def test_a_session_that_hq_does_not_know_is_asked_for_its_birth(rig: Rig) -> None:
    """And once it was told, the pong has the heads of its streams."""
    rig.ingest("a")
    rig.ingest("b")
    eventually(lambda: all(worker.connected for worker in rig.ingests.values()))
    rig.lane.say(AlarmRaised("help"), AlarmRaised("fire"))
    first = rig.lane.written[0]
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        spy.say("telemetry", telemetry("s1", "p1"))
        told = receipt(spy, rig, lambda r: r.pong)
        assert (told.pong, told.rebirth) == ("p1", True)
        span = link.Span(first.stream_id, "alarm", 1, 2, 0)
        spy.say("birth", link.encode(link.Birth("s1", "boot", datetime.now(UTC), "1", (span,))))
        told = receipt(spy, rig, lambda r: r.heads)
        assert (told.heads[0].seq, told.rebirth) == (0, False)
        for record in rig.lane.written:
            spy.say(
                "event", record.encode(), **{link.ID_PROPERTY: record.stream_id, link.SEQ_PROPERTY: str(record.seq)}
            )
        receipt(spy, rig, lambda r: any(head.seq == 2 for head in r.heads))
        spy.say("telemetry", telemetry("s1", "p2"))
        told = receipt(spy, rig, lambda r: r.pong == "p2")
        assert not told.rebirth
        assert [(h.stream_id, h.seq, h.chain) for h in told.heads] == [(first.stream_id, 2, rig.lane.written[1].hash())]


def test_a_record_that_was_lost_on_the_way_is_asked_for(rig: Rig) -> None:
    rig.ingest("a")
    rig.ingest("b")
    eventually(lambda: all(worker.connected for worker in rig.ingests.values()))
    for _ in range(3):
        rig.lane.say(AlarmRaised("help"))
    first, *later = rig.lane.written
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        for record in later:
            spy.say(
                "event", record.encode(), **{link.ID_PROPERTY: record.stream_id, link.SEQ_PROPERTY: str(record.seq)}
            )
        told = receipt(spy, rig, lambda r: any(head.resend for head in r.heads))
        assert [(h.stream_id, h.seq) for h in told.heads if h.resend] == [(first.stream_id, 0)]
        assert rig.stored() == 0
        spy.say("event", first.encode(), **{link.ID_PROPERTY: first.stream_id, link.SEQ_PROPERTY: "1"})
        told = receipt(spy, rig, lambda r: any(head.seq == 3 for head in r.heads))
    rig.assert_exactly_once()


def test_an_answer_keeps_the_limits_of_a_receipt() -> None:
    """The pong has the heads that were entered first; nothing is left out."""
    answer = Answer(pong="p", rebirth=True)
    for k in range(600):
        answer.head(Head("lane", f"g{k}-alarm", 1, bytes(32)))
    answer.head(Head("lane", "g0-alarm", 0, bytes(32)))
    answer.refusals = [link.Refusal("g-alarm", k + 1, bytes(32), "malformed", False) for k in range(500)]
    signer = Signer(bytes(range(32)))
    told = list(answer.receipts("me"))
    assert all(len(signer.publication(SITE, LANE, each).payload) < 128 * 1024 for each in told)
    assert [each.pong for each in told] == ["p"] + [""] * (len(told) - 1)
    assert [each.rebirth for each in told] == [True] + [False] * (len(told) - 1)
    assert [head.stream_id for each in told for head in each.heads] == [f"g{k}-alarm" for k in range(600)]
    assert all(head.seq == 1 for each in told for head in each.heads), "in one transaction a head only grows"
    assert [r.seq for each in told for r in each.refusals] == list(range(1, 501))
    assert list(Answer().receipts("me")) == []


# -- what nobody should send -------------------------------------------------------------------------------------


def nested(levels: int) -> bytes:
    """A record of a kind that HQ does not know yet, so it keeps the clear half as it is: `levels` deep."""
    stream_id = f"deep{levels}-alarm"
    start = Head.start(LANE, stream_id)
    record = Record(LANE, stream_id, "alarm", 1, start.hash, datetime.now(UTC), "b", "NewFact", {"x": 0}, None, 99)
    return record.encode().replace(b'{"x":0}', b'{"x":' + b"[" * levels + b"0" + b"]" * levels + b"}")


def test_no_message_whatever_ends_a_worker(rig: Rig) -> None:
    rig.ingest()
    rig.lane.say(AlarmRaised("help"), AlarmRaised("fire"))
    one, two = rig.lane.written
    names = {link.ID_PROPERTY: one.stream_id, link.SEQ_PROPERTY: "1"}
    birth = link.encode(link.Birth("s", "b", datetime.now(UTC), "1", (link.Span("x\0y-alarm", "alarm", 1, 2, 0),)))
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        spy.until_hq_listens()
        [worker] = rig.ingests.values()
        for payload in (b"[" * 1_000_000, b"[" * 100_000, b"\xff\xfe", b"", b"{}", b"null", b'{"Birth":[]}', b"NaN"):
            for leaf in link.FROM_LANES:
                spy.say(leaf, payload, **names)
        for levels in (1000, 985, 980, 900, 500, 100):  # some of which one reader can take, and another cannot
            spy.say("event", nested(levels))
        spy.say("event", nested(40))
        spy.say("event", replace(one, clear={"kind": "\0", "detail": "\0"}).encode(), **names)
        spy.say("event", b"x" * (RECORD_MAX + 1), **{link.ID_PROPERTY: "y" * 60_000, link.SEQ_PROPERTY: "9" * 400})
        spy.say("event", b"x", **{link.ID_PROPERTY: "\N{SNOWMAN}' --", link.SEQ_PROPERTY: "-1"})
        spy.say("birth", birth)
        spy.say("death", link.encode(link.Reported(1, datetime.now(UTC))))
        spy.session.publish(Publication("gate/v1/TPE T1/Lane\u2028/event", one.encode()))
        for _ in range(2000):
            spy.session.publish(Publication(link.topic(SITE, LANE, "telemetry"), b"x" * 2000, qos=0))
        for record in (one, two):
            spy.say(
                "event", record.encode(), **{link.ID_PROPERTY: record.stream_id, link.SEQ_PROPERTY: str(record.seq)}
            )
        eventually(lambda: rig.stored() == 3, 20, "what is right is taken in")
    assert worker.counts["malformed"] > 20 and worker.counts["refused"] > 10, worker.counts
    rig.lane.written += [record for record in rig.at_hq() if record.stream_id == "deep40-alarm"]
    rig.assert_exactly_once()


def test_a_message_that_cannot_be_stored_holds_up_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an archive raises for one message, the batch goes on without it, and nobody is told that it is there."""
    true = Intake.take
    rig.lane.passengers(20)
    bad = rig.lane.written[10].encode()

    def take(self: Intake, site: str, lane: str, payload: bytes, *rest: object) -> object:
        if payload == bad and poisoned.is_set():
            tries.append(1)
            raise ArchiveError("planted") if len(tries) % 2 else RecursionError("PLANTED")
        return true(self, site, lane, payload, *rest)  # type: ignore[arg-type]  # handed on as they came

    poisoned, tries = threading.Event(), list[int]()
    poisoned.set()
    monkeypatch.setattr(Intake, "take", take)
    rig.ingest()
    rig.uplink()
    [stream_id] = {r.stream_id for r in rig.lane.written if r.encode() == bad}
    others = [r for r in rig.lane.written if r.stream_id != stream_id]
    eventually(lambda: rig.stored() >= len(others) and len(tries) > 2, 20, "the other streams go on")
    assert not rig.all_acked()
    poisoned.clear()
    eventually(rig.all_acked, 20)
    rig.assert_exactly_once()


# -- the database is away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
def test_a_database_that_is_away_and_comes_back(served: Rig) -> None:
    """To the lanes it is as if HQ were away: they do not send into nothing."""
    rig, postgres = served, shared()
    rig.ingest("a")
    rig.ingest("b")
    rig.uplink()
    rig.lane.passengers(3)
    eventually(rig.all_acked)
    postgres.kill()
    before = rig.acked()
    rig.lane.passengers(3)
    a, b = rig.ingests.values()
    eventually(lambda: {a.state, b.state} == {"the database is away"} and not (a.connected or b.connected))
    eventually(lambda: rig.control.ups()[-1:] == [False], what="the lane learns that HQ is away")
    assert rig.acked() == before
    postgres.start()
    eventually(rig.all_acked, 40)
    rig.lane.passengers(30)
    postgres.restart()
    eventually(rig.all_acked, 40)
    rig.assert_exactly_once()
    assert a.counts["commit_errors"] > 0


# -- what mosquitto does -----------------------------------------------------------------------------------------


def session(
    broker: RunningBroker, who: str, name: str, *topics: str, manual_ack: bool = True
) -> tuple[Session, "SimpleQueue[Happening]"]:
    inbox: SimpleQueue[Happening] = SimpleQueue()
    at = Broker("127.0.0.1", broker.port, tls=False, username=who, password="x")
    made = Session(at, name, inbox, subscribe=[(topic, 1) for topic in topics], manual_ack=manual_ack, receive_max=100)
    made.start()
    assert isinstance(inbox.get(timeout=5), Connected)
    return made, inbox


def payloads(inbox: "SimpleQueue[Happening]") -> list[bytes]:
    """What came, without waiting."""
    found = [inbox.get_nowait() for _ in range(inbox.qsize())]
    return [each.payload for each in found if isinstance(each, Received)]


def test_what_mosquitto_had_dealt_to_a_worker_that_dies_is_lost(tmp_path: Path) -> None:
    """Nobody else of the group gets it, whether it was under way or still waited: so lanes must send again."""
    with RunningBroker(tmp_path) as broker:
        topics = link.ingest_filters("group")
        one, ones = session(broker, "hq-ingest", "one", *topics)
        two, twos = session(broker, "hq-ingest", "two", *topics)
        _, alls = session(broker, "hq-ingest", "all", "gate/v1/+/+/event", manual_ack=False)
        lane, _ = session(broker, "s/l", "lane")
        for k in range(400):
            lane.publish(Publication("gate/v1/s/l/event", b"%d" % k))
        eventually(lambda: alls.qsize() == 400, what="all are at the broker")
        eventually(lambda: ones.qsize() == 100 and twos.qsize() == 100, what="as many as each takes unacknowledged")
        two.stop()  # nothing acknowledged
        seen: list[bytes] = []
        deadline = time.monotonic() + 3.0
        while len(seen) < 200 and time.monotonic() < deadline:
            for _ in range(ones.qsize()):
                got = ones.get_nowait()
                assert isinstance(got, Received)
                seen.append(got.payload)
                one.acknowledge(got)
            time.sleep(0.02)
        lane.publish(Publication("gate/v1/s/l/event", b"last"))
        eventually(lambda: ones.qsize() > 0)
        assert payloads(ones) == [b"last"] and len(seen) == 200
        one.stop()
        lane.stop()


def test_who_knows_the_name_of_the_group_takes_messages_away(tmp_path: Path) -> None:
    """mosquitto lets anybody subscribe to anything, and deals also to members who may not read: those are gone. So
    the name is a secret (`Signer.group`); test_broker_attacks.py has who does not know it."""
    acl = tmp_path / "acl"
    acl.write_text("pattern write gate/v1/%u/event\nuser hq-ingest\ntopic read gate/v1/+/+/event\n")
    with RunningBroker(tmp_path / "broker", extra=(f"acl_file {acl}",)) as broker:
        topics = link.ingest_filters("group")
        hq, heard = session(broker, "hq-ingest", "hq", *topics)
        thieves = [session(broker, "s/evil", f"evil{k}", *topics) for k in range(3)]
        lane, _ = session(broker, "s/l", "lane")
        for k in range(80):
            lane.publish(Publication("gate/v1/s/l/event", b"%d" % k))
        eventually(lambda: heard.qsize() == 20)
        assert all(inbox.qsize() == 0 for _, inbox in thieves), "nobody reads what he may not"
        for each in (hq, lane, *(thief for thief, _ in thieves)):
            each.stop()
    assert Signer(bytes(32)).group != Signer(bytes([1] * 32)).group


# -- the command -------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_said_at_once(tmp_path: Path, rig: Rig) -> None:
    keys_of = rig.folder / "keys"
    good = {"--db": rig.hq_where, "--key": str(keys_of / "hq.key"), "--receipts-key": str(keys_of / "receipts.key")}
    for option, value, says in (
        ("--receipts-key", str(keys_of / "receipts.pub"), "chmod 600"),
        ("--receipts-key", str(tmp_path / "none"), "no such file"),
        ("--db", str(tmp_path / "none" / "hq.db"), "hq.db"),
        ("--db", "postgresql://me:SECRET@127.0.0.1:1/none", "127.0.0.1"),
    ):
        words = [word for pair in {**good, option: value}.items() for word in pair]
        done = CliRunner().invoke(gated_hq, ["ingest", *words, "--host", "127.0.0.1", "--plain"])
        assert done.exit_code == 1 and says in done.output, (option, value, done.output)
        assert "SECRET" not in done.output
