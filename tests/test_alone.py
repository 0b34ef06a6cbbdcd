"""Everything is gone but the lane: broker, HQ, uplink, sync. The lane goes on as the policy says, and on the way back
every record arrives once, what happens now first, and no door moves because of it.

In virtual time for longer than any age that the policy names; in real time with the demonstration's processes."""

import asyncio
import json
import re
import signal
import subprocess
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from gated import control
from gated.control_peer import Peer
from gated.daemon.app import SILENT_BEATS_MAX
from gated.hq.archive import Archive, Fate
from gated.hq.orders import Asked, NoAnswer, carry
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.freshness import Freshness, freshness
from gated.policyfile import load_rules
from gated.store.acks import AckedHeads
from gated.store.flight import Flights
from gated.store.journal import JournalReader
from gated.store.outbox import OutboxReader
from gated.wire import link, orders
from gated.wire.codec import family
from gated.wire.facts import AlarmRaised, CacheMoved, OrderAnswered, TicketSettled, VerdictReached
from gated.wire.record import Record
from tests.data import shared_data
from tests.days import CATEGORIES, SEED, FollowingLane, entitled
from tests.hw_sim import demo, virtual
from tests.hw_sim.cast import Cast, Passenger, Truth
from tests.hw_sim.crew import Crew
from tests.hw_sim.happenings import Happening, Topology, What
from tests.hw_sim.records import settled
from tests.hw_sim.report import Report, compare
from tests.hw_sim.simlane import NOON, POLICY, VirtualLane, sim_folder
from tests.networks import networks
from tests.test_daemon_app import Watched
from tests.uplink_rig import LANE as RIG_LANE
from tests.uplink_rig import SITE as RIG_SITE
from tests.uplink_rig import Rig, eventually

UNTIL = {"national": "expired", "national_abroad": "stale", "resident": "late", "mainland_spouse": "fresh"}
"""The oldest cache by which each passes here: Taiwan's policy, but each category another one."""


def law() -> str:
    text = POLICY.read_text(encoding="utf-8")
    for category, until in UNTIL.items():
        text, changed = re.subn(
            rf"(\[categories\.{category}\].*?cache_until = )\"\w+\"", rf'\1"{until}"', text, count=1, flags=re.S
        )
        assert changed
    return text[: text.index("[[examples]]")]  # they are of Taiwan's own


RULES = load_rules(POLICY)
UPLINK = Peer(902, 902, 45, "gated-uplink", frozenset())
DESK = Ed25519PrivateKey.from_private_bytes(bytes(range(60, 92)))
HEARTBEAT_S = 15.0
QUIET_S = 900.0
"""So long nothing may come of the way back."""
REFERRED = 120
"""In front of the lane, one after the other: more than the backlog from which on a chapter begins."""
STAGES = {
    "before": timedelta(0),
    "cut off": timedelta(minutes=2),
    "late": timedelta(hours=1),
    "stale": timedelta(days=2),
    "control expired": timedelta(days=15),
    "both expired": timedelta(days=31),
    "back": timedelta(days=32),
}
"""The age of the cache when passengers of all categories come."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield
    structlog.reset_defaults()


# -- a month of virtual time -------------------------------------------------------------------------------------------


@dataclass
class Alone(FollowingLane):
    """A lane whose cache nobody renews. `moved`: (seconds, door) of every request that the gate got."""

    visits: dict[str, dict[str, list[tuple[str, str]]]] = field(default_factory=dict)
    moved: list[tuple[float, str]] = field(default_factory=list)
    crossed: Counter[str] = field(default_factory=Counter)
    """Bodies through a leaf, by stage."""
    stage: str = ""
    back_at: float = 0.0
    answers: list[tuple[bool, str]] = field(default_factory=list)
    arrived: list[Record] = field(default_factory=list)
    """At HQ, in this order."""
    waiting: int = 0

    def _files(self) -> Path:
        path = super()._files()
        (self.folder / "orders.pub").write_bytes(DESK.public_key().public_bytes_raw())
        return path

    _cache = VirtualLane._cache
    _end = Watched._end

    # -- HQ and the uplink, as far as the lane sees them

    async def says(self, up: bool) -> None:
        """The uplink says whether HQ can be reached."""
        await self.app.requests.handle(control.UplinkState(up), UPLINK)
        await asyncio.sleep(0.5)

    def order(self, action: orders.Action, ticket: int | None, ago_s: float) -> bytes:
        """An order that HQ signed so long ago."""
        issued = self.clock.now().utc.replace(microsecond=0) - timedelta(seconds=ago_s)
        number = len(self.answers)
        made = orders.Order(
            f"o-{number}", action, "chen.w", "sim", self.app.boot, ticket, f"{number:032}", issued,
            issued + timedelta(seconds=30),
        )  # fmt: skip
        return orders.sign(DESK, made)

    async def ordered(self, action: orders.Action, ticket: int | None, ago_s: float) -> None:
        """What the lane answers to it now."""
        answer = await self.app.requests.handle(
            control.RelayOrder(b64encode(self.order(action, ticket, ago_s)).decode()), UPLINK
        )
        assert isinstance(answer, dict)
        self.answers.append((answer["accepted"], answer["why"]))

    def deliver(self, archive: Archive) -> None:
        """What the uplink sends and HQ takes in, until HQ has everything; each record goes twice."""
        flights = Flights(OutboxReader(self.folder / "lane.db"), AckedHeads(self.folder / "uplink.db"), 16)
        flights.refresh()
        while sent := flights.next(0.0):
            with archive.batch() as intake:
                heads = {}
                for queued in (*sent, *sent):
                    named = (queued.stream_id, queued.seq)
                    taken = intake.take("sim", "sim", queued.payload, named, self.hq_private)
                    assert taken.fate in (Fate.STORED, Fate.DUPLICATE) and taken.head is not None, taken
                    heads[queued.stream_id] = taken.head
            self.arrived += [Record.decode(queued.payload) for queued in sent]
            for stream_id, head in heads.items():
                flights.answered(link.Head(stream_id, head.seq, head.hash), 0.0)
        flights.close()

    # -- the month

    def watch(self, happening: Happening) -> None:
        if happening.what is What.REQUEST_ON:
            self.moved.append((asyncio.get_running_loop().time(), happening.door))
        self.crossed[self.stage] += happening.what is What.CROSSED

    async def comes(self, stage: str, *people: Passenger) -> None:
        self.stage = stage
        seen = self.visits.setdefault(stage, {})
        for each in people:
            seen[each.name] = await self.visit(each)
        await self.until(lambda: self.app.lane.state is State.IDLE)


def stages(people: Cast) -> dict[str, list[Passenger]]:
    """One of each category, somebody with another's document, and somebody whom nobody knows."""
    found = {}
    for k, stage in enumerate(STAGES):
        own = [p for p in people.passengers if p.name.endswith(f" {k}")]
        thief = replace(own[0], name=f"thief {k}", person=own[1].person, truth=Truth.IMPOSTOR)
        found[stage] = [*own, thief]
    return found


def journey(folder: Path) -> tuple[Alone, Report, list[Record]]:
    """The month; the monitor's sentence by what HQ has; what HQ has."""
    people = entitled(len(STAGES))
    who = stages(people)
    archive = Archive(str(folder / "hq.db"))

    async def month(lane: Alone) -> None:
        lane.world.gate.observers.append(lane.watch)
        watch = asyncio.ensure_future(lane.app.requests.watch_uplink(SILENT_BEATS_MAX * HEARTBEAT_S))
        await lane.says(True)
        await lane.comes("before", *who["before"])
        await asyncio.sleep(SILENT_BEATS_MAX * HEARTBEAT_S + 1)  # everything but the lane is killed
        assert lane.app.status.snapshot()["uplink"] != "up"
        lane.officer.away = True
        for stage in [each for each in STAGES if each not in ("before", "back")]:
            await lane.comes_to(max(lane.age, STAGES[stage]))
            await lane.comes(stage, *who[stage])
        for _ in range(REFERRED):
            await lane.visit(who["both expired"][3])
        lane.world.gate.press_helper()
        await asyncio.sleep(5.0)

        await lane.comes_to(STAGES["back"])
        lane.stage, lane.back_at = "return", asyncio.get_running_loop().time()
        ticket = max(
            f.ticket for f in (r.fact(lane.hq_private) for r in _outbox(lane)) if isinstance(f, VerdictReached)
        )
        await lane.says(True)
        for action, of in ((orders.Action.OPEN, ticket), (orders.Action.CLOSE_LANE, None), (orders.Action.RESET, None)):
            await lane.ordered(action, of, ago_s=200.0)  # sent while it was alone
        await lane.ordered(orders.Action.OPEN, ticket, ago_s=5.0)  # still valid, of somebody who has left
        for _ in range(int(QUIET_S / HEARTBEAT_S)):
            await lane.says(True)
            await asyncio.sleep(HEARTBEAT_S)
        lane.waiting = len(_outbox(lane))
        await lane.comes("back", *who["back"])
        await asyncio.sleep(5.0)
        lane.deliver(archive)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    lane = Alone(SEED, Topology.MANTRAP, folder, passengers=Cast([], people.enrolments), law=law())
    lane.upsets = lambda _: [month(lane)]
    virtual.run(lane.run())
    with closing(archive):
        assert archive.broken() == [] and archive.holes() == [] and archive.refused() == []
        at_hq = [record for _, record in archive.find({}, 1_000_000)]
    told = [(record.utc, record.generation, record.fact(lane.hq_private)) for record in sorted(at_hq, key=_place)]
    return lane, compare(lane.world.monitor, settled(told, lane.clock.seconds)), at_hq


def _place(record: Record) -> tuple[str, int]:
    return record.stream_id, record.seq


def _outbox(lane: Alone) -> list[Record]:
    reader = OutboxReader(lane.folder / "lane.db")
    with closing(reader):
        return [Record.decode(queued.payload) for queued in reader.pending({}, 1_000_000)]


def may_pass(category: str, age: timedelta) -> bool:
    """By the policy, by a cache of this age."""
    worst = max((freshness(ages, NOON, NOON + age) for ages in RULES.freshness.values()), key=lambda f: f.rank)
    return worst.rank <= Freshness(UNTIL[category]).rank


@pytest.fixture(scope="module")
def month() -> Iterator[tuple[Alone, Report, list[Record]]]:
    with sim_folder() as folder, capture_logs():
        yield journey(folder)


def test_alone_it_lets_pass_whom_the_policy_says(month: tuple[Alone, Report, list[Record]]) -> None:
    lane, _, _ = month
    for stage, age in STAGES.items():
        for name, verdicts in lane.visits[stage].items():
            category, decision = name.rpartition(" ")[0], verdicts[0][0]
            passes = category != "thief" and may_pass(category, age)
            assert (decision == "grant") is passes, (stage, name, verdicts)
    by_age = [sum(may_pass(category, age) for category in CATEGORIES) for age in STAGES.values()]
    assert by_age == [4, 4, 3, 2, 1, 1, 1]


def test_hq_has_every_passage_once_and_none_that_was_not(month: tuple[Alone, Report, list[Record]]) -> None:
    """The physical simulator's account of leaves and persons, beside HQ's records."""
    lane, report, at_hq = month
    assert report.clean, report.explanations
    assert (report.records_lost, report.records_invented, report.records_twice, report.unresolved) == (0, 0, 0, 0)
    through = sum(
        category != "thief" and may_pass(category, STAGES[stage])
        for stage, people in lane.visits.items()
        for category in (name.rpartition(" ")[0] for name in people)
    )
    assert report.passages == through > 12
    places = Counter(map(_place, at_hq))
    assert set(places.values()) == {1}
    by_stream: dict[str, list[int]] = {}
    for record in lane.arrived:
        by_stream.setdefault(record.stream_id, []).append(record.seq)
    for stream_id, numbers in by_stream.items():
        assert numbers == list(range(1, len(numbers) + 1)), stream_id


def test_alone_it_alarms_and_hq_hears_of_it_in_the_end(month: tuple[Alone, Report, list[Record]]) -> None:
    lane, _, at_hq = month
    facts = [record.fact(lane.hq_private) for record in at_hq]
    alarms = {(fact.code, fact.detail) for fact in facts if isinstance(fact, AlarmRaised)}
    aged = {f"{name} {state.value}" for name in RULES.freshness for state in list(Freshness)[1:]}
    assert {detail for code, detail in alarms if code == "cache_aged"} == aged
    assert "help" in {code for code, _ in alarms}
    assert {fact.freshness for fact in facts if isinstance(fact, CacheMoved)} == {each.value for each in Freshness}


def test_what_happens_now_comes_before_what_waited(month: tuple[Alone, Report, list[Record]]) -> None:
    lane, _, at_hq = month
    assert lane.waiting > 500 and any(".2-crossing" in record.stream_id for record in at_hq)
    crossings = [record for record in lane.arrived if record.stream == "crossing"]
    since = lane.clock.seconds
    live = [k for k, record in enumerate(crossings) if since(record.utc) > lane.back_at]
    assert len(live) >= 10 and len(crossings) - len(live) > 200
    assert live[-1] < 3 * len(live), "every second place goes to what waited, and no more"


def test_no_door_moves_because_hq_is_back(month: tuple[Alone, Report, list[Record]]) -> None:
    lane, _, at_hq = month
    assert not [at for at, _ in lane.moved if lane.back_at <= at <= lane.back_at + QUIET_S]
    assert lane.crossed["return"] == 0 and lane.crossed["late"] > 0
    (back,) = [
        k for k, (event, now, _) in enumerate(lane.log) if type(event) is ev.UplinkReady and now.mono >= lane.back_at
    ]
    after = [(e, each) for e, now, done in lane.log[back:] for each in done if now.mono <= lane.back_at + QUIET_S]
    assert not {type(each) for _, each in after} & {cmd.RequestOpen, cmd.Record, cmd.Settle}
    records = {r.kind for r in at_hq if lane.back_at <= lane.clock.seconds(r.utc) <= lane.back_at + QUIET_S}
    assert records <= {"OrderAnswered", "StreamContinued", "CacheMoved", "AlarmRaised"}, records


def test_an_order_of_the_time_alone_comes_too_late(month: tuple[Alone, Report, list[Record]]) -> None:
    lane, _, at_hq = month
    assert lane.answers == [(False, "expired")] * 3 + [(False, "not_while_idle")]
    answered = [record.fact(None) for record in at_hq if record.kind == OrderAnswered.__name__]
    answered = [
        each for each in answered if each.order.startswith("o-")
    ]  # the others: of the officer at the lane, before
    assert len(answered) == 4 and not any(each.accepted for each in answered)


# -- an order on the way -----------------------------------------------------------------------------------------------


def test_an_order_that_found_nobody_never_arrives(tmp_path: Path) -> None:
    """The line is dead for less than the order is valid: no session, no store of a broker and no uplink keeps it."""
    rig = Rig(tmp_path, persistence=True)
    rig.broker.start()
    private = (tmp_path / "keys" / "orders.key").read_bytes()
    asked = Asked(RIG_SITE, RIG_LANE, orders.Action.CLOSE_LANE, "chen.w")

    def relayed() -> int:
        return sum(isinstance(each, control.RelayOrder) for each in rig.control.asked)

    try:
        rig.ingest()
        rig.uplink_process()
        eventually(lambda: rig.control.ups()[-1:] == [True], 30)
        assert carry(rig.hq_broker, private, asked, 10.0).taken and relayed() == 1
        rig.kill("uplink")
        with pytest.raises(NoAnswer):
            carry(rig.hq_broker, private, asked, 1.5)
        rig.broker.stop()  # what it has kept is on its disk
        rig.broker.start()
        asks = len(rig.control.asked)
        rig.uplink_process()
        eventually(lambda: control.UplinkState(True) in rig.control.asked[asks:], 30)
        rig.lane.passengers(2)
        eventually(rig.all_acked, 30)
        assert relayed() == 1
        assert carry(rig.hq_broker, private, asked, 10.0).taken and relayed() == 2, "a new one does"
    finally:
        rig.close()


# -- a minute of real time ---------------------------------------------------------------------------------------------


class Ends:
    """Everything but the lane is killed (-9) at once, and comes back after a minute. `gone`, `back`: UTC."""

    VICTIMS = ("broker", "website", "publisher", "ingest", "sync", "uplink")
    FIRST_S, ALONE_S, AFTER_S = 12.0, 60.0, 25.0

    def __init__(self) -> None:
        self.gone = self.back = datetime.max.replace(tzinfo=UTC)
        self._begin: float | None = None
        self._acts = [(self.FIRST_S, self._kill), (self.ALONE_S, self._again), (self.AFTER_S, self._enough)]

    def __call__(self, crew: Crew, simulator: "subprocess.Popen[str]") -> None:
        now = time.monotonic()
        self._begin = self._begin or now
        if self._acts and now - self._begin >= self._acts[0][0]:
            self._begin = now
            self._acts.pop(0)[1](crew, simulator)

    def _kill(self, crew: Crew, simulator: "subprocess.Popen[str]") -> None:
        for name in self.VICTIMS:
            crew.processes[name].kill()
        self.gone = datetime.now(UTC)
        for name in self.VICTIMS:
            crew.kill(name)
            demo.tell(simulator, f"killed {name}")

    def _again(self, crew: Crew, _: "subprocess.Popen[str]") -> None:
        self.back = datetime.now(UTC)
        for name in self.VICTIMS:
            crew.again(name)

    def _enough(self, _: Crew, simulator: "subprocess.Popen[str]") -> None:
        demo.tell(simulator, "enough")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_alone_in_real_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    networks()
    people, out = shared_data() / "faces" / "images", tmp_path / "out"
    given = ["--passengers", "500", "--speed", "3", "--seed", "5", "--json", "--people", str(people), "--out", str(out)]
    ends, handler = Ends(), signal.getsignal(signal.SIGTERM)
    try:
        code = demo.perform(demo.arguments(given), ends)
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr()
    assert code == 0, said
    result = json.loads(said.out)
    assert (result["records_lost"], result["records_invented"], result["records_twice"]) == (0, 0, 0)
    assert result["wrong_grants"] == result["doors_unsafe"] == result["chains_broken"] == 0

    with closing(Archive(str(out / "hq.db"), read_only=True)) as archive:
        stored = archive.find({}, 1_000_000)
        assert archive.findings() == [] and archive.holes() == [] and archive.refused() == []
    alone = [(received, record) for received, record in stored if ends.gone < record.utc < ends.back]
    assert all(datetime.fromisoformat(received) > ends.back for received, _ in alone), "nobody was there"
    settled_alone = [record for _, record in alone if record.kind == TicketSettled.__name__]
    assert sum(record.clear["outcome"] == "crossed" for record in settled_alone) >= 2, "people passed"
    assert not [record for _, record in alone if record.kind == OrderAnswered.__name__]

    key = (out / "keys" / "journal.key").read_bytes()
    reader = JournalReader(out / "store" / "lane.db", family(vars(ev), ev.Event), family(vars(cmd), cmd.Command), key)
    with closing(reader):
        (boot,) = reader.boots()
        steps = [(entry.utc, *entry.replayed()) for entry in reader.read(boot.boot)]
    line = [(utc, event, done) for utc, event, done in steps if isinstance(event, (ev.UplinkLost, ev.UplinkReady))]
    since = [(utc, type(event)) for utc, event, _ in line if utc > ends.gone]
    assert [kind for _, kind in since][:2] == [ev.UplinkLost, ev.UplinkReady]
    assert since[0][0] < ends.back < since[1][0], "it noticed while everything was away, and when it was back"
    for _, _, done in line:
        assert not {type(each) for each in done} & {cmd.RequestOpen, cmd.Record, cmd.Settle}
    opened = [event for utc, event, done in steps for each in done if isinstance(each, cmd.RequestOpen)]
    assert opened and not [event for event in opened if isinstance(event, (ev.UplinkLost, ev.UplinkReady))]
