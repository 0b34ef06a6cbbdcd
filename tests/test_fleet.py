"""The fleet simulator: its MQTT client against a real broker, its passengers, its verdict, and small fleets."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gated.hq.archive import Archive
from gated.mqtt import Broker
from gated.wire import link
from gated.wire.facts import AlarmRaised, LaneChanged, TicketSettled, VerdictReached
from gated.wire.record import Head, stream_id
from gated.wire.seal import public_of
from tests.broker import Pki, ProductionBroker, RunningBroker, mosquitto_path
from tests.hw_sim import fleet, fleet_hq
from tests.hw_sim.fleet_plan import RECORDS, SITE, Passengers, Plan, Status, name_of
from tests.hw_sim.mqtt5 import Broken, Connection, Message, connect
from tests.postgres import programs

ROOT = Path(__file__).resolve().parents[1]
TOPIC = "a/b"


# -- the MQTT 5 client --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    extra = ("max_inflight_messages 3", "max_packet_size 300000", "max_keepalive 20")
    with RunningBroker(tmp_path_factory.mktemp("mosquitto"), extra=extra) as running:
        yield running


class Heard:
    """Messages as they come, to be waited for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def __call__(self, message: Message) -> None:
        self._queue.put_nowait(message)

    async def next(self) -> Message:
        return await asyncio.wait_for(self._queue.get(), 10)


def ran(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


async def call(broker: RunningBroker, name: str, *topics: str, **how: Any) -> tuple[Connection, Heard]:
    heard = Heard()
    return await connect((broker.host, broker.port), None, name, heard, subscribe=topics, **how), heard


def test_messages_arrive_as_they_were_sent(broker: RunningBroker) -> None:
    sent = [
        Message(TOPIC, b""),
        Message(TOPIC, b"x" * 200_000, properties={"stream-id": "g-alarm", "seq": "1", "Ä": "Ö" * 200}),
        Message(TOPIC, bytes(range(256)), content_type="application/json", expiry_s=60, properties={"a": ""}),
    ]

    async def work() -> None:
        line, heard = await call(broker, "one", TOPIC)
        for message in sent:
            line.publish(message)
            came = await heard.next()
            assert (came.topic, came.payload, came.properties) == (TOPIC, message.payload, message.properties)
        line.close()

    ran(work)


def test_more_than_the_broker_takes_at_once_waits_for_its_turn() -> None:
    """A broker whose CONNACK says: at most three that I have not acknowledged, and a keep alive of 20 s."""

    async def work() -> None:
        done = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def packet() -> bytes:
                first, size = await reader.readexactly(2)
                return bytes((first,)) + await reader.readexactly(size)

            await packet()
            writer.write(b"\x20\x09\x00\x00\x06\x21\x00\x03\x13\x00\x14")
            mids = [(await packet())[6:8] for _ in range(3)]  # behind first byte and topic
            for k in range(7):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.readexactly(1), 0.03)
                writer.write(b"\x40\x02" + mids[k])
                mids.append((await packet())[6:8])
            done.set_result(mids)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        line = await connect(server.sockets[0].getsockname()[:2], None, "x", lambda _: None)
        for _ in range(10):
            line.publish(Message("a/b", b"x"))
        assert len(set(await asyncio.wait_for(done, 10))) == 10 and line.waiting == 3
        line.close()
        server.close()

    ran(work)


def test_a_will_is_published_and_a_goodbye_has_none(broker: RunningBroker) -> None:
    async def work() -> None:
        _, heard = await call(broker, "watcher", "will/+")
        for name in ("clean", "dead"):
            line, _ = await call(broker, name, will=Message(f"will/{name}", b"lost"))
            line.close() if name == "clean" else line.abort("test")
            assert await line.gone
        assert (await heard.next()).topic == "will/dead"

    ran(work)


def test_pings_keep_an_idle_line_open_and_a_dead_one_is_noticed(broker: RunningBroker) -> None:
    async def work() -> None:
        line, _ = await call(broker, "idle", keep_alive_s=1)
        await asyncio.sleep(2)  # mosquitto gives up after 1.5 keep alives
        assert not line.gone.done()
        line.close()
        silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        where = silent.sockets[0].getsockname()[:2]
        with pytest.raises(TimeoutError):
            await connect(where, None, "nobody", lambda _: None, connect_s_max=0.2)
        silent.close()

    ran(work)


@pytest.mark.parametrize(
    "answer", [b"\x20\xff\xff\xff\xff\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x03\x00\x87\x00", b""]
)
def test_whoever_does_not_speak_mqtt_is_refused(answer: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with pytest.raises(Broken):
            await connect(server.sockets[0].getsockname()[:2], None, "x", lambda _: None)
        server.close()

    ran(work)


def test_a_lane_by_its_certificate_and_what_it_may_not_say(tmp_path: Path) -> None:
    with ProductionBroker(tmp_path / "broker", Pki(tmp_path / "pki")) as broker:
        assert isinstance(broker, ProductionBroker)
        mine: Broker = broker.as_(f"{SITE}/{name_of(1)}")

        async def work() -> None:
            line = await connect((mine.host, mine.port), mine.context(), "x", lambda _: None)
            line.publish(Message(link.topic(SITE, name_of(2), "event"), b"another's"))
            line.publish(Message(link.topic(SITE, name_of(1), "event"), b"mine"))
            while line.waiting:
                await asyncio.sleep(0.01)
            assert line.refused == [0x87], "not authorised; and once only"
            line.close()

        ran(work)


# -- who passes when ----------------------------------------------------------------------------------------------


def plan(lanes: int, rate: float, seed: int = 1) -> Plan:
    return Plan(Path("nowhere"), {}, range(lanes), rate, seed)


def test_passengers_come_at_the_rate_and_each_lane_has_one_at_a_time() -> None:
    passengers = Passengers(plan(50, 200))
    passengers.begin(100.0)
    found = list(passengers.until(200.0))
    passengers.end()
    found += passengers.until(10_000.0)
    assert passengers.inside == 0 and passengers.next_mono == float("inf")
    records = sum(len(facts) for _, facts in found)
    assert abs(records / RECORDS - 5000) < 5 * 5000**0.5, "100 s of a Poisson process, within five of its deviations"
    assert len({lane for lane, _ in found}) == 50
    for lane in range(50):
        told = [fact for at, facts in found if at == lane for fact in facts]
        kinds = [type(fact) for fact in told]
        assert kinds == [LaneChanged, VerdictReached, TicketSettled, AlarmRaised] * (len(told) // RECORDS)
        tickets = [fact.ticket for fact in told if isinstance(fact, VerdictReached)]
        assert tickets == list(range(1, len(tickets) + 1))


def test_the_same_seed_brings_the_same_passengers() -> None:
    def first(seed: int) -> list[int]:
        passengers = Passengers(plan(50, 200, seed))
        passengers.begin(0.0)
        return [lane for lane, _ in passengers.until(5.0)]

    assert first(1) == first(1) != first(2)


def test_nobody_comes_at_no_rate() -> None:
    passengers = Passengers(plan(5, 0))
    passengers.begin(0.0)
    assert passengers.next_mono == float("inf") and list(passengers.until(1e9)) == []


def test_a_fleet_is_through_when_every_process_is() -> None:
    done, inside = Status(3, 10, 10, None), Status(2, 4, 4, None, inside=2)
    assert Status.together([done, done]) == Status(6, 20, 20, None) and Status.together([done, done]).through
    assert Status.together([done, inside]) == Status(5, 14, 14, None, 2) and not Status.together([done, inside]).through
    waiting = [Status(0, 2, 1, 7.0), Status(0, 2, 1, 5.0), done]
    assert Status.together(waiting).oldest_mono == 5.0 and not Status.together(waiting).through


# -- the verdict ----------------------------------------------------------------------------------------------------


class Truth:
    """Records that a lane made, and HQ's database."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder / "hq.db")
        Archive(self.where).close()
        self.private = os.urandom(32)
        self._head = Head.start(name_of(0), stream_id("g1", "state"))
        self.made: dict[tuple[str, str], tuple[int, bytes]] = {}

    def take(self, count: int, *, heard: bool = True) -> None:
        """The lane makes so many records, and HQ takes them in if it hears of them."""
        archive = Archive(self.where)
        for _ in range(count):
            record = self._head.next(LaneChanged("idle"), datetime.now(UTC), "b", public_of(self.private))
            self._head = self._head.after(record)
            self.made[record.lane, record.stream_id] = self._head.seq, self._head.hash
            if heard:
                with archive.batch() as intake:
                    intake.take(SITE, record.lane, record.encode(), ("", 0), self.private)
        archive.close()

    def spoil(self, statement: str) -> None:
        """Change HQ's database behind its back."""
        with sqlite3.connect(self.where) as sql:
            sql.executescript(statement)

    def verdict(self, acked: int | None = None) -> tuple[bool, dict[str, Any]]:
        """Whether the fleet calls that good, and what it found."""
        found = fleet_hq.compared(self.where, self.made)
        made = sum(seq for seq, _ in self.made.values())
        return fleet.good({**found, "made": made, "acked": made if acked is None else acked}), found


def test_all_that_was_made_is_there(tmp_path: Path) -> None:
    truth = Truth(tmp_path)
    assert not truth.verdict()[0], "nothing made is no proof"
    truth.take(5)
    good, found = truth.verdict()
    assert good and (found["at_hq"], found["lost"], found["doubled"], found["wrong"]) == (5, 0, 0, [])
    assert not truth.verdict(acked=4)[0], "at HQ, and the lane does not know it"


@pytest.mark.parametrize(
    ("spoil", "lost", "doubled"),
    [
        ("DELETE FROM records WHERE seq = 3", 1, 0),
        ("DELETE FROM records WHERE seq = 5", 1, 0),
        ("DELETE FROM records", 5, 0),
        ('UPDATE records SET clear = \'{"state":"open"}\' WHERE seq = 2', 0, 0),
        ("UPDATE streams SET hash = zeroblob(32)", 0, 0),
        ("DROP INDEX records_identity; INSERT INTO records SELECT * FROM records WHERE seq = 4", 0, 1),
        ("UPDATE records SET lane = 'lane-00009'; UPDATE streams SET lane = 'lane-00009'", 5, 0),
    ],
)
def test_whatever_differs_is_seen(tmp_path: Path, spoil: str, lost: int, doubled: int) -> None:
    truth = Truth(tmp_path)
    truth.take(5)
    truth.spoil(spoil)
    good, found = truth.verdict()
    assert not good and (found["lost"], found["doubled"]) == (lost, doubled)


def test_what_hq_never_heard_of_is_lost(tmp_path: Path) -> None:
    truth = Truth(tmp_path)
    truth.take(3)
    truth.take(2, heard=False)
    good, found = truth.verdict()
    assert not good and found["lost"] == 2


# -- whole fleets -------------------------------------------------------------------------------------------------


def run(*arguments: str, within_s: float = 100) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hw_sim", "fleet", "--json", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], lanes: int) -> None:
    """What every fleet must show, whatever its size."""
    assert found["ready"] == lanes and found["made"] == found["acked"] == found["at_hq"] > 0
    assert (found["lost"], found["doubled"], found["wrong"]) == (0, 0, [])
    assert {"lanes", "broker", "ingest"} <= found["parts"].keys()
    assert all(part["rss_mb"] > 0 for part in (found["parts"][name] for name in ("lanes", "broker", "ingest")))


@pytest.mark.parametrize("kind", ["wire", "full"])
def test_a_small_fleet_through_a_restart_of_the_broker(kind: str) -> None:
    mosquitto_path()
    found = run(
        "--lanes", "20", "--rate", "60", "--seconds", "2", "--restart-broker", *(["--full"] if kind == "full" else [])
    )  # fmt: skip
    check(found, 20)
    assert found["again_ready_s"] > 0 and found["failures"]
    if kind == "wire":
        assert found["connects"] >= 40 and found["to_receipt_s"]["p50"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("db", ["sqlite", "postgresql"])
def test_a_thousand_lanes(db: str) -> None:
    mosquitto_path()
    if db == "postgresql":
        programs()
    arguments = ("--lanes", "1000", "--rate", "150", "--seconds", "20", "--restart-broker", "--workers", "2")
    check(run(*arguments, "--db", db, "--ingest", "1" if db == "sqlite" else "2", within_s=550), 1000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_full_lanes() -> None:
    mosquitto_path()
    check(run("--lanes", "200", "--full", "--rate", "60", "--seconds", "20", "--workers", "4", within_s=550), 200)
