"""One seed of the protocol between a lane and HQ: chaos, then quiet, and what must be true all along and in the end."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from gated.hq.intake import Intake
from gated.wire.record import Record
from tests.hw_sim.protocol_ends import LANE, Hq, Key, Killed, Lane, removed
from tests.hw_sim.protocol_judge import judge
from tests.hw_sim.protocol_sky import Clock, Sky, simulated

RECEIPTS = bytes(range(32, 64))
SETTLE_S, QUIET_S = 400.0, 60.0
NOTICED_S = 40.0
"""After so long a lane has noticed that HQ went back: two heartbeats, and a new connection before."""
FAMILIES: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            (),
            ("room",),
            ("hq_back",),
            ("failing",),
            ("room", "acks_lost"),
            ("lane_back",),
            ("failing", "room"),
            ("tamper",),
            ("hq_back", "room"),
            ("hq_back", "failing", "lane_back", "tamper", "room", "acks_lost"),
        ),
    )
)
"""What befalls a seed beside the usual: lost, doubled, late and overtaking messages, dead workers, restarts, a disk of
HQ's that fails. `room`: the outbox is small; `acks_lost`: uplink.db is deleted; `failing`: HQ's code fails on some
records; `hq_back`, `lane_back`: an older copy of HQ's or the lane's database is put in place, or the lane's is deleted;
`tamper`: records are taken out of lane.db, or changed in it."""
GOES_BACK = frozenset({"hq_back", "lane_back", "tamper"})


@dataclass
class Outcome:
    """Of one seed. `broken`: what was not true."""

    seed: int
    faults: frozenset[str]
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    trace: str = ""


class Run:
    """One seed. `steps`: of the chaos."""

    def __init__(self, seed: int, folder: Path, steps: int) -> None:
        self.dice = Random(seed)
        self.faults = FAMILIES[seed % len(FAMILIES)]
        self.outcome = Outcome(seed, self.faults)
        self.clock, self._steps = Clock(), steps
        self.sky = Sky(self.dice, self.clock)
        self._folder = folder
        self.cursed: set[bytes] = set()
        """Hashes of records that HQ's code fails on."""
        self.spoilt: set[Key] = set()
        self.taken_out: set[Key] = set()
        self.acked: dict[str, int] = {}
        """The most that the lane ever took for acknowledged."""
        self.settled = False
        """So long all was well that the lane knows whether HQ went back."""

    def run(self) -> None:
        public = Ed25519PrivateKey.from_private_bytes(RECEIPTS).public_key().public_bytes_raw()
        with simulated(self.sky), self._curses(), capture_logs() as logs:
            room = self.dice.choice((9_000, 15_000, 30_000)) if "room" in self.faults else 10_000_000
            window = self.dice.choice((4, 16, 64))
            self.lane = Lane(self._folder, self.dice, self.clock, room, window, public)
            self.hq = Hq(self._folder / "hq.db", self.sky, self.dice, self.dice.randint(1, 4), RECEIPTS)
            try:
                self._chaos()
                self._settle()
                judge(self, logs)
            finally:
                self.lane.close(self.sky)
                self.hq.close()
        self.outcome.trace = self.sky.trace.hexdigest()[:16]

    @contextmanager
    def _curses(self) -> Iterator[None]:
        judged = Intake._open

        def opened(intake: Intake, record: Record, private: bytes) -> None:
            if record.hash() in self.cursed:
                raise RuntimeError("a mistake of HQ's, as the simulation wants it")
            judged(intake, record, private)

        with mock.patch.object(Intake, "_open", opened):
            yield

    def broken(self, what: str) -> None:
        if len(self.outcome.broken) < 20:
            self.outcome.broken.append(f"{self.clock.mono - 1000:.1f} s: {what}")

    # -- chaos

    def _chaos(self) -> None:
        self.sky.loss, self.sky.double = self.dice.choice((0.0, 0.02, 0.15)), self.dice.choice((0.0, 0.05))
        usual: dict[Callable[[], None], float] = {
            self._write: 10,
            self._uplink: 30,
            self._worker: 25,
            self._deliver: 25,
            self._trim: 2,
            self._time: 6,
            self._cut: 0.7,
            self._net: 0.4,
            self._worker_dies: 0.7,
            self._lane_restarts: 0.5,
            self._lane_killed: 0.5,
            self._uplink_restarts: 0.4,
            self._disk: 0.3,
            self._broker_forgets: 0.3,
        }
        rare: dict[str, dict[Callable[[], None], float]] = {
            "acks_lost": {self._acks_lost: 0.5, self._good_moment: 0.5},
            "failing": {self._curse: 2},
            "hq_back": {self._hq_copied: 1, self._hq_back: 0.5, self._good_moment: 0.5},
            "lane_back": {self._lane_copied: 1, self._lane_back: 0.4, self._lane_new: 0.2},
            "tamper": {self._take_out: 0.4, self._spoil: 0.4},
        }
        for fault in sorted(self.faults):
            usual |= rare.get(fault, {})
        steps, weights = list(usual), list(usual.values())
        for _ in range(self._steps):
            self.clock.mono += self.dice.random() * 0.1
            self.dice.choices(steps, weights)[0]()
        if self.dice.random() < 0.5:
            self._broker_forgets()
        if "hq_back" in self.faults and self.dice.random() < 0.7:
            self._hq_copied()
            self._write()
            self._good_moment()
            if self.dice.random() < 0.5:
                self._trim()
            self._hq_back()

    def _write(self) -> None:
        self.lane.write(self.dice.choice((1, 1, 1, 3, 12)))

    def _uplink(self) -> None:
        self.clock.mono += 0.11
        self.lane.uplink.turn(0.0)
        self._acknowledged()

    def _acknowledged(self) -> None:
        """The lane may take for acknowledged only what HQ had, or set aside."""
        for stream_id in self.lane.flights.spans:
            seq = self.lane.flights.acked(stream_id)
            if seq > self.hq.heads.get(stream_id, 0):
                self.broken(f"{stream_id}: {seq} counts as acknowledged, HQ never came so far")
            self.acked[stream_id] = max(seq, self.acked.get(stream_id, 0))

    def _worker(self) -> None:
        self.hq.turn(self.dice.choice(self.hq.workers), self.dice.choice((1, 3, 20)))

    def _deliver(self) -> None:
        wires = [wire for worker in self.hq.workers if (wire := self.hq.wire(worker)) and wire.out]
        if wires:
            wire = self.dice.choice(wires)
            for _ in range(min(len(wire.out), self.dice.choice((1, 2, 8)))):
                self.sky.deliver(wire)

    def _trim(self) -> None:
        self._check_trimmed(self.lane.trim(stale=self.dice.random() < 0.3), now=False)

    def _check_trimmed(self, gone: set[Key], now: bool) -> None:
        """HQ had what went, or `now` still has it."""
        refused = {(each["stream_id"], each["seq"]) for each in self.hq.archive.refused()}
        stored = self.hq.stored() if now else set()
        for key in gone - refused - stored - self.lane.dropped:
            had = self.lane.made[key][-1] in self.hq.had.get(key, set())
            if (now or not had) and not self.faults & {"lane_back", "tamper"}:
                self.broken(f"{key[0]} {key[1]}: trimmed, and HQ {'has it no more' if had else 'never had it'}")

    def _time(self) -> None:
        self.clock.mono += self.dice.choice((0.5, 2.0, 6.0, 25.0))

    def _cut(self) -> None:
        if self.sky.lane is not None:
            self.sky.gone(self.sky.lane, will=self.dice.random() < 0.8)

    def _net(self) -> None:
        self.sky.up = not self.sky.up
        if not self.sky.up:
            for wire in [*self.sky.workers, *([self.sky.lane] if self.sky.lane else [])]:
                if self.dice.random() < 0.6:
                    self.sky.gone(wire, will=True)

    def _worker_dies(self) -> None:
        worker = self.dice.choice(self.hq.workers)
        wire = self.hq.wire(worker)
        if wire is not None and self.dice.random() < 0.7:  # behind its commit, before its receipts
            before = len(wire.out)
            self.hq.turn(worker, 20)
            while len(wire.out) > before:
                wire.out.pop()
        self.hq.killed(worker)

    def _lane_restarts(self) -> None:
        self.lane.stop()
        self.lane.start()

    def _lane_killed(self) -> None:
        try:
            self.lane.write(3, self.dice.randint(1, 3000))
        except Killed:
            self.lane.start()

    def _uplink_restarts(self) -> None:
        self.lane.stop_uplink(self.sky, gently=self.dice.random() < 0.5)
        self.lane.start_uplink()

    def _disk(self) -> None:
        archive = self.hq.archive
        archive.away, archive.fails = self.dice.choice(((False, 0.0), (True, 0.0), (False, 0.2), (False, 0.0)))

    def _broker_forgets(self) -> None:
        """As mosquitto does what it has acknowledged, when it is killed or its queue is full."""
        for wire in self.sky.workers:
            wire.waiting.clear()

    def _acks_lost(self) -> None:
        self.lane.stop_uplink(self.sky, gently=False)
        removed(self.lane.path.with_name("uplink.db"))
        self.lane.forget_heads()
        self.lane.start_uplink()

    def _curse(self) -> None:
        waits = [key for key in self.lane.rows() if key[1] > self.lane.flights.acked(key[0])]
        if waits and len(self.cursed) < 6:
            self.cursed.add(self.lane.made[self.dice.choice(waits)][-1])

    def _good_moment(self) -> None:
        """For some seconds everything works."""
        loss = self.sky.loss
        self._all_works()
        self._calm(self.dice.choice((8.0, 20.0)), lambda: False)
        self.sky.loss = loss

    def _hq_copied(self) -> None:
        self.hq.copied()

    def _hq_back(self) -> None:
        if self.hq.copy is not None:
            self.hq.put_back()

    def _lane_copied(self) -> None:
        self.lane.copied()

    def _lane_back(self) -> None:
        if self.lane.copy is not None:
            self.lane.put_back()

    def _lane_new(self) -> None:
        self.lane.stop()
        removed(self.lane.path)
        self.lane.start()

    def _take_out(self) -> None:
        rows = sorted(self.lane.rows())
        if not rows:
            return
        stream_id, first = self.dice.choice(rows)
        gone = [key for key in rows if key[0] == stream_id and first <= key[1] < first + self.dice.randint(1, 4)]
        self.taken_out |= set(gone)
        self.lane.tamper("DELETE FROM outbox WHERE stream = ? AND seq = ?", gone)

    def _spoil(self) -> None:
        rows = self.lane.rows()
        if not rows:
            return
        stream_id, seq = self.dice.choice(sorted(rows))
        payload = rows[stream_id, seq]
        other = self.dice.choice((payload[:-1], payload.replace(b'"utc":"2026', b'"utc":"2025'), b"\xff" * 40))
        self.spoilt |= {(stream_id, seq), (stream_id, seq + 1)}
        self.lane.tamper("UPDATE outbox SET payload = ? WHERE stream = ? AND seq = ?", [(stream_id, seq)], other)
        self.lane.see()

    # -- quiet

    def _all_works(self) -> None:
        self.sky.up, self.sky.loss = True, 0.0
        self.hq.archive.away, self.hq.archive.fails = False, 0.0

    def _calm(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Everybody does his work, nothing gets lost. False: not done in time."""
        until, turns = self.clock.mono + seconds, 0
        while self.clock.mono < until:
            self.clock.mono += 0.25
            for worker in self.hq.workers:
                self.hq.turn(worker, 500)
            for wire in list(self.sky.workers):
                while wire.out:
                    self.sky.deliver(wire)
            self.lane.uplink.turn(0.0)
            self._acknowledged()
            if (turns := turns + 1) % 8 == 0 and self.settled:
                self._check_trimmed(self.lane.trim(stale=False), now=True)
            if done():
                return True
        return done()

    def _done(self) -> bool:
        spans = self.lane.flights.spans
        return bool(spans) and all(
            max(self.lane.flights.acked(i), span.first - 1) >= span.last for i, span in spans.items()
        )

    def _settle(self) -> None:
        self._all_works()
        self.sky.double = 0.0
        flights, sent = self.lane.flights, self.sky.sent
        self._calm(NOTICED_S, lambda: False)
        self.settled = True
        for last in (False, True):
            before = Counter(sent)
            waits = sum(1 for key in self.lane.rows() if key[1] > flights.acked(key[0]))
            if not self._calm(SETTLE_S, self._done):
                self._stuck("at the end" if last else "after the chaos")
                return
            used = sent - before
            self.outcome.counts["births in the end"] = max(self.outcome.counts["births in the end"], used["birth"])
            self.outcome.counts["events in the end"] += used["event"]
            self.outcome.counts["waited in the end"] += waits
            if used["birth"] > 12:
                self.broken(f"{used['birth']} births until all was well")
            if used["event"] > 12 * waits + 40:
                self.broken(f"{used['event']} events for {waits} records until all was well")
            if not last:
                self._check_trimmed(self.lane.trim(stale=False), now=True)
                self.lane.write_each()
        self._calm(15.0, lambda: False)  # what HQ has is trimmed, and with the last of it a former chapter
        before = Counter(sent)
        self._calm(QUIET_S, lambda: False)
        used = sent - before
        births = 8 if self.faults & {"lane_back", "tamper"} else 0  # HQ asks for what it holds and the lane lost
        if used["birth"] > births or used["event"] or used["telemetry"] > 1.5 * QUIET_S / 15 + 2:
            self.broken(f"messages while nothing happens: {dict(used)}")

    def _stuck(self, when: str) -> None:
        for stream_id, span in self.lane.flights.spans.items():
            acked = self.lane.flights.acked(stream_id)
            if max(acked, span.first - 1) < span.last:
                hq = self.hq.archive.head(LANE, stream_id).seq
                self.broken(f"stuck {when}: {stream_id} holds {span.first} to {span.last}, {acked} acked, HQ has {hq}")


def run_seed(seed: int, steps: int = 250) -> Outcome:
    """One seed in a folder of its own, in memory where there is a disk of memory."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="protocol-", dir=memory if memory.is_dir() else None) as folder:
        run = Run(seed, Path(folder), steps)
        run.run()
    return run.outcome
