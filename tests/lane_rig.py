"""One lane process in a temporary folder, over pseudo terminals, HTTP, pin socket, SQLite and real networks.

At the far ends of its wires is a `tests.lane_bench.Bench` in this process. Every wait has a bound, and what was started
has ended when the rig is closed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from gated.control import Client, Status, Unavailable
from gated.control_views import Snapshot
from gated.hq import keys
from gated.hq.registers import EnrolledFinger, Person, Register
from gated.hq.registers import Paper as RegisteredPaper
from gated.store.cachefile import path_of
from gated.store.outbox import OutboxReader
from gated.wire.facts import Fact, TicketSettled, VerdictReached
from gated.wire.record import Head, Record, follow
from gated.wire.rows import PARTITIONS
from models.manifest import model
from tests.hw_sim.cachefiles import of_register
from tests.hw_sim.happenings import Body, Topology
from tests.hw_sim.papers import Paper, passport
from tests.hw_sim.site import INPUTS, LAMPS, POLICY, REQUESTS
from tests.lane_bench import Bench
from tests.networks import networks

ROOT = Path(__file__).resolve().parents[1]
LANE, SITE = "lane-1", "rig"
SPOT_M, OUT_M, QUEUE_M, READER_M = 1.35, 4.6, -3.0, -0.9
NOBODYS = b"\x00\x00\x80\x3f" + bytes(508)
"""A face template, one unit long, that is like no face."""
SPEED = 4.0


def eventually(truth: Callable[[], bool], within_s: float, what: Callable[[], object]) -> None:
    """Wait for something to become true; `what` says what is instead."""
    until = time.monotonic() + within_s
    while not truth():
        assert time.monotonic() < until, f"not within {within_s:g} s; instead: {what()}"
        time.sleep(0.05)


class Rig:
    """A lane's folder, its process, and its bench. `options`: section -> option -> value, changed before `start`."""

    def __init__(
        self, *, readers: Mapping[str, str] | None = None, topology: Topology = Topology.MANTRAP, uid: int = 0
    ) -> None:
        models = networks()
        self.folder = Path(tempfile.mkdtemp(prefix="gated-rig-"))
        self.uid = uid
        self.bench = Bench(self.folder, readers or {"a": "elyctis"}, topology)
        self._readers = dict(readers or {"a": "elyctis"})
        keys.make(self.folder / "keys")
        for name in ("journal.key", "cache.key"):
            own = self.folder / "keys" / name
            own.write_bytes(os.urandom(32))
            own.chmod(0o600)
        self.hq_private = (self.folder / "keys" / "hq.key").read_bytes()
        self.register = Register(self.folder / "registers.db", keys.secret(self.folder / "keys" / "data.key"))
        self.store = self.folder / "store"
        self.store.mkdir()
        self.options = _options(self, topology, models)
        self.process: subprocess.Popen[bytes] | None = None
        self.dice = random.Random(3)
        self._persons = 0
        self.generation = 0

    @property
    def toml(self) -> Path:
        return self.folder / "lane.toml"

    @property
    def control(self) -> Path:
        return self.folder / "control.sock"

    # -- HQ's side before the lane starts

    def passport(self) -> Paper:
        """A valid document that nobody knows yet."""
        self._persons += 1
        return passport(self.dice, self._persons, date.today())

    def enrol(self, paper: Paper, template: bytes | None = None, fingers: tuple[EnrolledFinger, ...] = ()) -> Paper:
        """Put the holder into HQ's register; a template of nobody where none is given, and no face where there are
        `fingers`. `publish` comes after."""
        network = f"sface-{model('sface').published_sha256[:12]}"
        self.register.enrol(
            Person(
                subject=0,
                category="national",
                birth=paper.birth,
                sex=paper.sex,
                surname=paper.surname,
                given_names=paper.given_names,
                personal_number=paper.personal_number,
                papers=(RegisteredPaper("TWN", paper.number),),
                face=None if fingers else template or NOBODYS,
                face_model="" if fingers else network,
                fingers=fingers,
                enrolled_on=date.today(),
            )
        )
        return paper

    def publish(self) -> dict[str, Path]:
        """A new generation of the cache: what sync would have made of what HQ publishes. The file of each partition."""
        self.generation += 1
        private = keys.secret(self.folder / "keys" / "cache.key")
        name, now = f"{SITE}/{LANE}", datetime.now(UTC)
        of_register(self.register, self.store, private, name, built=now, generation=self.generation)
        return {each: path_of(self.store, each, self.generation) for each in PARTITIONS}

    # -- the process

    def configure(self) -> str:
        """Write lane.toml. Returns its text."""
        text = toml_of(self.options)
        self.toml.write_text(text, encoding="utf-8")
        return text

    def start(self, *states: str, within_s: float = 30.0) -> None:
        """Start the lane, and wait until it is in one of `states` (nothing named: idle)."""
        self.launch()
        self.wait(*states, within_s=within_s)

    def launch(self) -> None:
        """Start the process alone."""
        self.configure()
        arguments = [str(self.toml), str(self.folder / "pins.sock"), str(os.getpid())]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OPENCV_LOG_LEVEL": "OFF"}
        with (self.folder / "lane.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.lane_child", *arguments, *([str(self.uid)] if self.uid else [])],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ended(self, within_s: float = 20.0) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(within_s)

    def end(self, number: int = signal.SIGTERM, within_s: float = 20.0) -> int:
        """End it, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """End the process and the bench, and remove the folder."""
        try:
            if self.process is not None:
                self.end(signal.SIGKILL)
        finally:
            self.register.close()
            self.bench.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- looking

    def ask(self) -> Snapshot:
        """The lane's status."""
        answer: Any = Client(self.control, 5.0).ask(Status())
        return answer  # type: ignore[no-any-return]

    def wait(self, *states: str, within_s: float = 15.0) -> Snapshot:
        """Until the lane is in one of `states`."""
        return self.until(lambda seen: seen["state"] in (states or ("idle",)), within_s)

    def until(self, truth: Callable[[Snapshot], bool], within_s: float = 15.0) -> Snapshot:
        """Until `truth` of the lane's status; returns it. Fails with status and log."""
        until = time.monotonic() + within_s
        seen: Snapshot | str = "no answer"
        while True:
            try:
                seen = self.ask()
                if truth(seen):
                    return seen
            except Unavailable as away:
                seen = str(away)
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > until:
                raise AssertionError(f"{seen}\n{self.log()[-3000:]}")
            time.sleep(0.04)

    def log(self) -> str:
        """What the process said."""
        path = self.folder / "lane.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log lines with this event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def alarmed(self, code: str, detail: str, within_s: float = 10.0) -> Snapshot:
        """Until this alarm is among the last ones."""
        return self.until(
            lambda seen: any((a["code"], a["detail"]) == (code, detail) for a in seen["last_alarms"]), within_s
        )

    def records(self) -> list[Record]:
        """Everything in the outbox, by stream, each chain checked to hold."""
        reader = OutboxReader(self.store / "lane.db")
        try:
            found = [Record.decode(queued.payload) for queued in reader.pending({}, 1_000_000)]
        finally:
            reader.close()
        heads: dict[str, Head] = {}
        for record in found:
            before = heads.get(record.stream_id, Head.start(LANE, record.stream_id))
            heads[record.stream_id] = follow(before, record)
        return found

    def facts(self) -> list[Fact]:
        """What the outbox says, opened with HQ's key."""
        return [record.fact(self.hq_private) for record in self.records()]

    def tickets(self) -> dict[int, tuple[list[VerdictReached], list[TicketSettled]]]:
        """Verdicts and ends by ticket."""
        found: dict[int, tuple[list[VerdictReached], list[TicketSettled]]] = {}
        for fact in self.facts():
            if isinstance(fact, VerdictReached):
                found.setdefault(fact.ticket, ([], []))[0].append(fact)
            elif isinstance(fact, TicketSettled):
                found.setdefault(fact.ticket, ([], []))[1].append(fact)
        return found

    def assert_nothing_lost(self) -> None:
        """Every ticket has ended once, every chain holds, and what the running lane counted is on its disk."""
        counted: int | None = None
        boot = ""
        if self.process is not None:
            seen = self.ask()
            boot = seen["boot"]
            counted = sum(seen["counters"].get(outcome, 0) for outcome in ("crossed", "not_crossed", "unresolved"))

        def whole() -> bool:
            ends = sum(r.kind == TicketSettled.__name__ for r in self.records() if r.boot == boot)
            return counted in (None, ends) and all(len(ended) == 1 for _, ended in self.tickets().values())

        eventually(whole, 5.0, lambda: (counted, self.tickets()))

    # -- passengers

    def serves(self, paper: Paper, side: str = "a") -> None:
        """A good document opens the entry. Its holder thinks better of it, and the lane is free again."""
        self.wait("idle")
        leaf = self.bench.gate.leaves[side]
        self.bench.insert(paper.lines, side)
        try:
            opened = self.bench.do(self.bench.gate.until(lambda: leaf.passable, 10.0))
            assert opened, f"the entry stays shut: {self.ask()}"
        finally:
            self.bench.remove(side)
        self.wait("idle")

    def reads(self, paper: Paper, side: str = "a") -> None:
        """The document of somebody whom HQ does not know is read, and its holder shown the way to an officer."""
        before = self.wait("idle")["counters"].get("refers", 0)
        self.bench.insert(paper.lines, side)
        self.until(lambda seen: seen["counters"].get("refers", 0) > before, 10.0)
        self.bench.remove(side)
        self.wait("idle")

    def enters(self, paper: Paper) -> Body:
        """Somebody shows a document, goes in, and stands where one is recognised."""
        self.wait("idle")
        bench, gate = self.bench, self.bench.gate
        body = Body("somebody", x=QUEUE_M)

        async def come() -> bool:
            gate.add(body)
            await gate.walk(body, READER_M, SPEED)
            await bench.readers["a"].insert(paper.lines)
            opened = await gate.until(lambda: gate.leaves["a"].passable, 10.0)
            await bench.readers["a"].remove()
            return opened and await gate.walk(body, SPOT_M, SPEED, 2.0)

        if not bench.do(come()):
            bench.now(gate.remove, body)
            raise AssertionError(f"the entry stays shut: {self.ask()}")
        return body

    def leaves(self, body: Body, within_s: float = 20.0) -> str:
        """Out through whichever leaf opens: "a", "b", or "" where none does. The body is gone afterwards."""
        gate = self.bench.gate

        async def go() -> str:
            try:
                await gate.until(lambda: gate.leaves["a"].closed, 5.0)
                await gate.until(lambda: any(leaf.passable for leaf in gate.leaves.values()), within_s)
                for side, metres in (("b", OUT_M), ("a", QUEUE_M)):
                    if gate.leaves[side].passable and await gate.walk(body, metres, SPEED, 2.0):
                        return side
                return ""
            finally:
                gate.remove(body)

        return self.bench.do(go(), within_s + 10.0)


def _options(rig: Rig, topology: Topology, models: Path) -> dict[str, dict[str, Any]]:
    """A configuration that is in a hurry."""
    sides = {"a": "passport", "b": "passport_b"}
    folder = rig.folder
    pins = {name: {"pin": pin.pin} for table in (REQUESTS, INPUTS) for name, pin in table.items()}
    both = topology is Topology.BIDIRECTIONAL
    found: dict[str, dict[str, Any]] = {
        "lane": {
            "id": LANE,
            "site": SITE,
            "place": "rig",
            "topology": topology.value,
            "direction": "both" if both else "exit",
        },
        "timing": {"admit_s": 1.2, "refused_s": 0.3, "face_s": 1.5, "match_s": 4.0, "officer_s": 1.5, "clear_s": 5.0},
        "policy": {"file": str(POLICY), "place": "taoyuan_t1"},
        "camera": {
            "driver": "opencv",
            "source": rig.bench.camera.url,
            "width": 640,
            "height": 480,
            "open_timeout_s": 1.5,
            "read_timeout_s": 1.0,
            "black_s_max": 0.5,
            "freeze_s_max": 0.7,
        },
        "door": {"driver": "gpio", "factory": "native", "pull": "down", **pins},
        "indicator": {
            "driver": "gpio",
            "factory": "native",
            **{name: {"pin": pin.pin} for name, pin in LAMPS.items()},
        },
        "models": {"dir": str(models), "threads": 1},
        "face": {"threshold": "fmr_1e-4"},
        "store": {"dir": str(rig.store)},
        "keys": {
            "cache": str(folder / "keys" / "cache.key"),
            "cache_on_disk": True,
            "journal": str(folder / "keys" / "journal.key"),
            "hq_public": str(folder / "keys" / "hq.pub"),
            "orders_public": str(folder / "keys" / "orders.pub"),
            "receipts_public": str(folder / "keys" / "receipts.pub"),
        },
        "uplink": {"host": "127.0.0.1", "port": 9, "tls": False, "retry_s_min": 0.1, "retry_s_max": 0.5},
        "control": {"socket": str(rig.control)},
    }
    for side, driver in rig._readers.items():
        found[sides[side]] = {"driver": driver, "port": str(folder / f"passport-{side}")}
    return found


def toml_of(options: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration as text: an option a line."""
    lines = []
    for section, values in options.items():
        lines += [f"[{section}]", *(f"{name} = {_toml(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A TOML value: text, numbers, truth and tables of them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)
