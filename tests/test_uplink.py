"""Lane to HQ over a real broker: nothing lost, nothing twice, whoever dies; and nothing believed that should not be."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from gated.hq import keys
from gated.hq.receipts import Signer
from gated.mqtt import Broker, Connected, Happening, Publication, Received, Session
from gated.wire import link
from gated.wire.facts import AlarmRaised, LaneChanged
from gated.wire.record import Head, Record
from tests.uplink_rig import CANARY, LANE, SITE, Lane, Rig, eventually, verdict


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


class Spy:
    """Somebody else at the broker: listens and can say anything."""

    def __init__(self, broker: Broker, *topics: str) -> None:
        self.inbox: SimpleQueue[Happening] = SimpleQueue()
        self.session = Session(broker, "spy", self.inbox, subscribe=[(t, 1) for t in topics])
        self.session.start()
        assert isinstance(self.inbox.get(timeout=5), Connected)

    def say(self, leaf: str, payload: bytes, **properties: str) -> None:
        self.session.publish(Publication(link.topic(SITE, LANE, leaf), payload, properties=properties))

    def until_hq_listens(self) -> None:
        """Ping until HQ answers, which takes it a moment: it does not know the session. The spy must listen to the
        receipts."""
        telemetry = link.Telemetry("spy", "", datetime.now(UTC), "now", True, "ok", 0, 0.0, 0, 0)
        for _ in range(20):
            self.say("telemetry", link.encode(telemetry))
            with contextlib.suppress(Empty):
                self.heard(0.8)
                break
        with contextlib.suppress(Empty):
            while True:
                self.heard(0.8)

    def heard(self, within_s: float = 5.0) -> Received:
        happened = self.inbox.get(timeout=within_s)
        assert isinstance(happened, Received)
        return happened

    def __enter__(self) -> "Spy":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.stop()


def test_everything_arrives_once_in_order_and_readable(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(60)
    eventually(rig.all_acked, what="everything acknowledged")
    rig.assert_exactly_once()
    [first] = [r for r in rig.at_hq() if r.kind == "VerdictReached" and r.clear["ticket"] == 1]
    assert first.fact(rig.hq_private) == verdict(1)
    assert rig.archive().counters().get("duplicates", 0) == 0


def test_neither_hq_nor_broker_holds_a_name_in_clear(tmp_path: Path) -> None:
    rig = Rig(tmp_path, persistence=True)
    try:
        rig.broker.start()
        rig.uplink()
        rig.ingest()
        rig.lane.passengers(5)
        eventually(rig.all_acked)
    finally:
        rig.close()
    found = [file for file in tmp_path.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]
    assert found == []
    (tmp_path / "control").write_text(CANARY)
    assert any(CANARY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_what_is_sent_again_is_counted_and_dropped(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.lane.passengers(5)
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        spy.until_hq_listens()
        for _ in range(3):
            for record in rig.lane.written:
                spy.say("event", record.encode())
        eventually(lambda: rig.archive().counters().get("duplicates", 0) == 2 * len(rig.lane.written))
    rig.uplink()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_lane_database_comes_later(rig: Rig) -> None:
    rig.lane.close()
    for file in rig.folder.glob("lane.db*"):
        file.unlink()
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    eventually(lambda: bool(rig.archive().lanes()), what="the lane is known")
    eventually(lambda: rig.archive().lanes()[0]["telemetry"].get("store") == "cannot_open")
    rig.lane = Lane(rig.folder, rig.hq_public)
    rig.lane.passengers(3)
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_broker_down_at_the_start(rig: Rig) -> None:
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(5)
    time.sleep(0.5)
    assert rig.acked() == {}
    rig.broker.start()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_broker_without_a_memory_is_killed(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    for _ in range(4):
        rig.lane.passengers(15)
        rig.broker.restart()
    rig.lane.passengers(1)
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_hq_down_acknowledges_nothing_and_misses_nothing(rig: Rig) -> None:
    rig.options["ack_s_max"] = 60.0  # what was under way to a dead HQ is sent again without waiting for this
    rig.configure()
    rig.broker.start()
    rig.uplink()
    rig.lane.passengers(30)
    time.sleep(1.0)
    assert rig.acked() == {}, "a broker's word is not HQ's"
    rig.ingest()
    eventually(rig.all_acked)
    rig.end("ingest")
    before = rig.acked()
    rig.lane.passengers(30)
    time.sleep(0.8)
    assert rig.acked() == before
    rig.ingest()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_hq_cannot_write_acknowledges_nothing(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    db = sqlite3.connect(rig.hq_db, isolation_level=None)
    fails = "WHEN NEW.stream = 'state' BEGIN SELECT RAISE(FAIL, 'disk full'); END"
    db.execute(f"CREATE TRIGGER full BEFORE INSERT ON records {fails}")
    rig.lane.passengers(5)
    rig.uplink()
    time.sleep(1.5)
    archive = rig.archive()
    assert not any(stream_id.endswith("-state") for stream_id in rig.acked())
    assert all(archive.head(LANE, stream_id).seq >= seq for stream_id, seq in rig.acked().items())
    archive.close()
    db.execute("DROP TRIGGER full")
    db.close()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_uplink_killed(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    for _ in range(2):
        rig.uplink_process()
        stored = rig.stored()
        rig.lane.passengers(40)
        eventually(lambda: rig.stored() > stored, what="records begin to arrive")  # noqa: B023
        rig.kill("uplink")
    eventually(lambda: not rig.archive().lanes()[0]["up"], what="the broker tells of its death")
    assert rig.archive().lanes()[0]["ended"] == "lost"
    rig.uplink()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_new_database_generation_starts_new_streams(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(4)
    eventually(rig.all_acked)
    first = rig.lane.written
    rig.lane.close()
    for file in rig.folder.glob("lane.db*"):
        file.rename(rig.folder / f"old-{file.name}")
    rig.lane = Lane(rig.folder, rig.hq_public)
    rig.lane.passengers(4)
    eventually(rig.all_acked)
    rig.lane.written = first + rig.lane.written
    rig.assert_exactly_once()
    assert len({record.stream_id for record in rig.at_hq()}) == 6


def test_a_full_outbox_drops_and_hq_knows(rig: Rig) -> None:
    rig.lane.close()
    rig.lane = Lane(rig.folder, rig.hq_public, bytes_max=60_000)
    for k in range(400):
        rig.lane.say(LaneChanged(f"state-{k}"))
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    eventually(rig.all_acked)
    kinds = [record.kind for record in rig.at_hq()]
    assert kinds.count("RecordsDropped") == 1 and 1 < kinds.count("LaneChanged") < 400
    archive = rig.archive()
    assert archive.broken() == [] and len(archive.holes()) == 1


# -- what is not believed ----------------------------------------------------------------------------------------


def test_receipts_that_nobody_earned_change_nothing(rig: Rig) -> None:
    """No HQ runs: whoever speaks on the topic of receipts is somebody else, or has stolen its key."""
    rig.broker.start()
    rig.lane.passengers(3)
    rig.uplink()
    stream_id, last = rig.lane.written[0].stream_id, max(r.seq for r in rig.lane.written if r.stream == "state")
    true = next(r for r in rig.lane.written if r.stream == "state" and r.seq == 1)
    earned = link.Receipt("w", heads=(link.Head(stream_id, 1, true.hash()),))
    signer = Signer(rig.receipts_key)
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "telemetry")) as spy:
        spy.heard()
        other = signer.publication(SITE, "lane-08", earned)
        genuine = signer.publication(SITE, LANE, earned)
        spy.say("ack", link.encode(earned))
        spy.say("ack", link.encode(earned), **Signer(bytes(31) + b"x").publication(SITE, LANE, earned).properties)
        spy.say("ack", other.payload, **other.properties)
        spy.say("ack", genuine.payload + b" ", **genuine.properties)
        spy.say("ack", genuine.payload, **{link.SIGNATURE_PROPERTY: "no base64"})
        for receipt in (
            link.Receipt("w", heads=(link.Head(stream_id, last + 5, bytes(32)),)),
            link.Receipt("w", heads=(link.Head(stream_id, last, bytes(32)),)),
            link.Receipt("w", heads=(link.Head("another-state", 1, bytes(32)),)),
            link.Receipt("w", refusals=(link.Refusal(stream_id, 1, bytes(32), "malformed", True),)),
        ):
            spy.session.publish(signer.publication(SITE, LANE, receipt))
        time.sleep(0.6)
        assert rig.acked() == {}
        spy.session.publish(genuine)
        eventually(lambda: rig.acked() == {stream_id: 1}, what="a true receipt is believed")
        low = link.Receipt("w", heads=(link.Head(stream_id, 0, bytes(32)),))
        spy.session.publish(signer.publication(SITE, LANE, low))
        time.sleep(0.4)
        assert rig.acked() == {stream_id: 1}, "never back by a late word"


def test_while_hq_changes_its_key_the_old_one_and_the_new_are_believed(rig: Rig) -> None:
    """Lanes have both before ingest has the new one: HQ is never away. Afterwards the old one is taken from them."""
    public, keys_of = rig.folder / "keys" / "receipts.pub", rig.folder / "new"
    keys.make(keys_of)
    both = public.read_bytes() + (keys_of / "receipts.pub").read_bytes()
    rig.broker.start()
    public.write_bytes(both)
    rig.uplink()
    rig.ingest("old")
    rig.lane.passengers(2)
    eventually(rig.all_acked)
    began = rig.control.ups()
    rig.receipts_key = (keys_of / "receipts.key").read_bytes()
    rig.ingest("new")  # beside it: each takes everything
    rig.lane.passengers(2)
    eventually(rig.all_acked)
    rig.end("old")
    rig.lane.passengers(2)
    eventually(rig.all_acked)
    assert rig.control.ups() == began and began[-1], "nobody at the lane heard of it"
    rig.end("uplink")
    public.write_bytes(both[32:])
    rig.uplink()
    rig.lane.passengers(2)
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def test_a_record_changed_on_the_way_is_refused_by_name(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.lane.say(verdict(1))
    rig.lane.say(AlarmRaised("help"), AlarmRaised("fire"))
    sealed, first, second = rig.lane.written
    crossing, alarm = sealed.stream_id, first.stream_id
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        spy.until_hq_listens()
        changed = replace(sealed, clear={**sealed.clear, "decision": "refer"})
        spy.say("event", changed.encode())
        [refusal] = _receipt(spy).refusals
        assert (refusal.stream_id, refusal.seq, refusal.why, refusal.final) == (crossing, 1, "altered", False)
        spy.say("event", replace(second, seq=1).encode())
        assert _receipt(spy).refusals[0].why == "chain_broken"
        spy.say("event", replace(sealed, lane="lane-08").encode())
        assert _receipt(spy).refusals[0].why == "wrong_lane"
        spy.say("event", b"\0nonsense", **{link.ID_PROPERTY: alarm, link.SEQ_PROPERTY: "1"})
        assert _receipt(spy).refusals[0].why == "malformed"
        spy.say("event", second.encode())
        [head] = _receipt(spy).heads
        assert (head.seq, head.resend) == (0, True), "a gap is asked for, never acknowledged"
    assert rig.stored() == 0
    rig.uplink()
    eventually(rig.all_acked)
    rig.assert_exactly_once()


def _receipt(spy: Spy) -> link.Receipt:
    receipt = link.decode(spy.heard().payload)
    assert isinstance(receipt, link.Receipt)
    return receipt


@pytest.mark.parametrize("poison", [b"\0not a record", None], ids=["unreadable", "altered"])
def test_poison_is_set_aside_and_reported(rig: Rig, poison: bytes | None) -> None:
    for ticket in range(1, 6):
        rig.lane.say(verdict(ticket))
    third = rig.lane.written[2]
    assert third.sealed is not None
    bytes_ = poison or replace(third, sealed=bytes([third.sealed[0]]) + bytes(len(third.sealed) - 1)).encode()
    rig.lane.spoil(3, "crossing", bytes_)
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    # The fourth refers to the true third record, which HQ never saw: it is refused and set aside in its turn. The fifth
    # refers to the fourth as HQ saw it, and is stored.
    eventually(rig.all_acked, within_s=25, what="the stream is not blocked for ever")
    archive = rig.archive()
    aside = {(row["seq"], row["why"].partition(":")[0]) for row in archive.refused()}
    assert (3, "malformed" if poison else "altered") in aside
    assert {record.seq for record in rig.at_hq()} | {seq for seq, _ in aside} == {1, 2, 3, 4, 5}
    eventually(lambda: archive.lanes()[0]["telemetry"]["refused"] >= 1, what="telemetry tells of it")


def test_hq_goes_back_to_an_older_copy(rig: Rig) -> None:
    """It gets again what the lane still holds, and knows what it will never have."""
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(3)
    eventually(rig.all_acked)
    rig.end("ingest")
    copy = sqlite3.connect(rig.folder / "copy.db")
    with contextlib.closing(sqlite3.connect(rig.hq_db)) as db:
        db.backup(copy)
    copy.close()
    rig.ingest()
    rig.lane.passengers(5)
    eventually(rig.all_acked)
    with rig.lane.db.transaction():  # the daemon trims what was acknowledged: one stream, not the others
        rig.lane.outbox.trim({i: n for i, n in rig.acked().items() if i.endswith("-alarm")})
    rig.end("ingest")
    for tail in ("-wal", "-shm"):
        rig.hq_db.with_name(rig.hq_db.name + tail).unlink(missing_ok=True)
    (rig.folder / "copy.db").replace(rig.hq_db)
    rig.ingest()
    rig.lane.passengers(1)
    alarms = {r.seq for r in rig.lane.written if r.stream == "alarm"}
    others = [r for r in rig.lane.written if r.stream != "alarm"]
    eventually(lambda: {r.seq for r in rig.at_hq() if r.stream == "alarm"} == alarms - {4, 5, 6, 7, 8})
    eventually(lambda: len([r for r in rig.at_hq() if r.stream != "alarm"]) == len(others))
    [hole] = rig.archive().holes()
    assert (hole["first"], hole["last"]) == (4, 8) and rig.archive().broken() == []


# -- how things are ----------------------------------------------------------------------------------------------


def test_up_means_that_hq_answers(rig: Rig) -> None:
    rig.broker.start()
    rig.uplink()
    eventually(lambda: rig.control.ups() == [False])
    rig.ingest()
    eventually(lambda: rig.control.ups() == [False, True])
    rig.end("ingest")
    eventually(lambda: rig.control.ups() == [False, True, False], what="the broker alone is not HQ")
    rig.ingest()
    eventually(lambda: rig.control.ups() == [False, True, False, True])


def test_birth_telemetry_and_a_clean_end(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    eventually(lambda: bool(rig.archive().lanes()) and bool(rig.archive().lanes()[0]["telemetry"]))
    [lane] = rig.archive().lanes()
    assert (lane["site"], lane["lane"], lane["up"], lane["boot"]) == (SITE, LANE, True, "boot-1")
    rig.control.boot = "boot-2"
    eventually(lambda: rig.archive().lanes()[0]["boot"] == "boot-2", what="a new run of the lane is announced")
    rig.end("uplink")
    eventually(lambda: rig.archive().lanes()[0]["ended"] == "stopped")
    assert not rig.archive().lanes()[0]["up"]


def test_an_old_will_does_not_bury_a_living_lane(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    eventually(lambda: bool(rig.archive().lanes()) and rig.archive().lanes()[0]["up"])
    with Spy(rig.hq_broker) as spy:
        spy.say("death", link.encode(link.Death("older", "lost")))
        time.sleep(0.3)
        assert rig.archive().lanes()[0]["up"]


def test_nobody_listens_and_the_spy_hears_nothing(rig: Rig) -> None:
    """While HQ is silent no event is sent at all: a dead HQ costs no traffic."""
    rig.broker.start()
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "event")) as spy:
        rig.lane.passengers(3)
        rig.uplink()
        with pytest.raises(Empty):
            spy.heard(1.0)


def test_records_of_a_newer_lane_are_kept_as_they_came(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    stream_id = "abcd-state"
    start = Head.start(LANE, stream_id)
    newer = Record(LANE, stream_id, "state", 1, start.hash, datetime.now(UTC), "b", "NewFact", {"x": 1}, None, 99)
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "ack")) as spy:
        spy.until_hq_listens()
        spy.say("event", newer.encode())
        assert _receipt(spy).heads[0].seq == 1
        spy.say("event", replace(newer, seq=2, prev=newer.hash(), schema=1).encode())
        assert _receipt(spy).refusals[0].why == "malformed"
    assert rig.at_hq() == [newer]
