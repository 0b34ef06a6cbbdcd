"""Everything between HQ's register and a lane's door, as processes of their own, with people in it who must not be
found anywhere; and what those processes left behind, and what they wrote and took away again.

`Pipeline.run` plays one short day. What it left is looked at when all has ended, so that nothing is in flight."""

import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from gated.control import Client
from gated.hq import registers
from gated.hq.epochs import add_lane
from gated.hq.published import PublisherState
from gated.hq.registers import EnrolledFinger, PaperStatus, Permit, Person
from gated.hq.repository import Repository, Signers
from gated.sync.control import SyncStatus
from gated.wire import seal
from gated.wire.rows import PARTITIONS
from gated.wire.seal import public_of
from models.manifest import model
from tests import traces, unsealed
from tests.broker import RunningBroker
from tests.canaries import Canary
from tests.hq_rig import SECRETS, public
from tests.hw_sim.papers import Paper
from tests.hw_sim.website import Website
from tests.lane_bench import face
from tests.lane_rig import LANE, ROOT, SITE, Rig, eventually
from tests.traces import Written

PUBLISHER = "publisher"
MODEL = f"sface-{model('sface').published_sha256[:12]}"
WAIT_S = 30.0


# -- who must not be found -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A canary, and where it must be found at least if nothing is sealed: names of `Pipeline.places`."""

    canary: Canary
    places: frozenset[str]


HQ_ALONE = frozenset({"register"})
"""Names stay at HQ."""
GIVEN = HQ_ALONE | {"publisher", "server", "cache"}
"""What lanes are given."""
SENT = GIVEN | {"broker"}
"""What rides in an announcement too."""
SEEN = frozenset({"lane"})
"""What a lane alone sees: of the document that is shown."""


class Somebody:
    """People of whom every field is a canary."""

    def __init__(self, rig: Rig) -> None:
        dice = Random(20261121)
        self.everything, self.passing, self.lost = rig.passport(), rig.passport(), rig.passport()
        self.template = tuple(dice.uniform(-0.2, 0.2) for _ in range(128))
        self.finger, self.other_finger = dice.randbytes(420), dice.randbytes(380)
        self.planted: list[Planted] = []

    def plant(self, name: str, plain: str | bytes, places: frozenset[str] = SENT) -> Any:
        self.planted.append(Planted(Canary(name, plain), places))
        return plain

    def of_paper(self, paper: Paper, whose: str, places: frozenset[str]) -> registers.Paper:
        """What of a travel document is known at a counter or a lane."""
        self.plant(f"zone of {whose}", paper.lines[1], SEEN)
        self.plant(f"name in the zone of {whose}", paper.lines[0][5:].rstrip("<"), SEEN)
        return registers.Paper("TWN", self.plant(f"number of {whose}", paper.number, places | SEEN))

    def person(self) -> Person:
        """Canaries in every field. The category is none of the policy's: whoever it is, is shown to an officer."""
        of = self.plant
        return Person(
            subject=0,
            category=of("category", "zzcategorybilby"),
            birth=date.fromisoformat(of("birth", "1961-12-29")),
            sex="X",
            surname=of("surname", "QUOKKAQUILL", HQ_ALONE),
            given_names=of("given names", "ZEPHYRINE XANTHE", HQ_ALONE),
            personal_number=of("personal number", "Z987650123"),
            papers=(
                self.of_paper(self.everything, "everything", SENT),
                registers.Paper("TWN", of("second number", "QX7301946")),
            ),
            permits=(
                Permit(
                    of("kind of permit", "zzpermitnumbat"),
                    date.fromisoformat(of("start of permit", "2019-02-23")),
                    date.fromisoformat(of("end of permit", "2047-09-26")),
                    int(of("entries", "735190462")),
                ),
            ),
            flags=frozenset({of("flag", "zzflagwombat")}),
            face=of("face", struct.pack("<128f", *self.template)),
            face_model=MODEL,
            fingers=(
                EnrolledFinger(
                    of("position", "zzpositiondibbler"), of("format", "zzformatpotoroo"), of("finger", self.finger), 77
                ),
                EnrolledFinger("left_index", "iso19794-2", of("other finger", self.other_finger), None),
            ),
            usable_from=date.fromisoformat(of("usable from", "2018-10-17")),
            enrolled_on=date.fromisoformat(of("enrolled on", "2017-08-19")),
        )

    def passenger(self, template: bytes) -> Person:
        """Somebody who passes."""
        paper = self.passing
        self.plant("personal number of passenger", paper.personal_number, GIVEN)
        self.plant("face of passenger", template, GIVEN)
        return Person(
            subject=0,
            category="national",
            birth=paper.birth,
            sex=paper.sex,
            surname=self.plant("surname of passenger", "WALLAROO", HQ_ALONE),
            given_names=paper.given_names,
            personal_number=paper.personal_number,
            papers=(self.of_paper(paper, "passenger", GIVEN),),
            face=template,
            face_model=MODEL,
            enrolled_on=date.today(),
        )

    def elsewhere(self) -> Person:
        """Somebody whom no lane meets: that a template is of another network a lane says aloud."""
        model = self.plant("face model", "zzmodelkowari")
        return Person(0, "national", date(1990, 1, 1), "F", face=bytes(512), face_model=model)

    def document(self) -> PaperStatus:
        """A document of nobody who is enrolled."""
        paper = self.of_paper(self.lost, "lost document", SENT)
        return PaperStatus(paper, frozenset({self.plant("status of document", "zzstatusbandicoot")}))

    def ban(self) -> str:
        return str(self.plant("flag at once", "zzurgentpademelon"))


# -- the pipeline ----------------------------------------------------------------------------------------------------


class Pipeline:
    """HQ and one lane. `sealed` False: nothing anywhere is sealed. What was left lies in `folder`."""

    def __init__(self, *, sealed: bool = True) -> None:
        self.sealed = sealed
        try:
            found = face()
        except pytest.skip.Exception:  # without the test data nobody can be recognised; everything else goes on
            found = None
        self.template = found[0] if found else Random(1).randbytes(512)
        self.head = found[1] if found else None
        self.rig = Rig()
        self.folder = self.rig.folder
        self.somebody = Somebody(self.rig)
        self.temporary = self.folder / "tmp"
        self.traces = Path(f"{self.folder}.traces")
        self.swapped_kib: dict[str, int] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.traced = False

    @property
    def canaries(self) -> list[Canary]:
        return [each.canary for each in self.somebody.planted]

    # -- starting

    def prepare(self) -> None:
        """Keys, the signed repository, lane.toml."""
        self.temporary.mkdir()
        self.traces.mkdir()
        ceremony = self.folder / "ceremony"
        ceremony.mkdir(mode=0o700)
        for name in ("online", "lift"):
            (ceremony / f"{name}.key").write_bytes(SECRETS[name])
            (ceremony / f"{name}.key").chmod(0o600)
        self.repo = self.folder / "repo"
        repository = Repository.create(
            self.repo,
            Signers(SECRETS.values()),
            root=[public("root")],
            root_threshold=1,
            targets=[public("targets")],
            online=public("online"),
            lift=public("lift"),
            now=datetime.now(UTC),
        )
        (self.folder / "root.json").write_bytes(repository.root)
        state = PublisherState(self.folder / "publish.db")
        lane_key = (self.folder / "keys" / "cache.key").read_bytes()
        add_lane(state, self.folder / "epochs", self.repo, f"{SITE}/{LANE}", public_of(lane_key))
        state.close()
        self.broker = RunningBroker(self.folder / "broker", persistence=True)
        self.site = Website(self.repo)
        self.rig.options["uplink"] |= {"port": self.broker.port}
        self.rig.options["sync"] = {
            "url": self.site.url,
            "root": str(self.folder / "root.json"),
            "interval_s": 1.0,
            "socket": str(self.folder / "sync.sock"),
        }

    def environment(self) -> Iterator[tuple[str, str]]:
        """Where every process puts temporary files; and, unsealed, what it runs first."""
        yield from ((name, str(self.temporary)) for name in ("TMPDIR", "SQLITE_TMPDIR", "TEMP", "TMP"))
        if not self.sealed:
            yield "PYTHONPATH", str(unsealed.made_in(self.folder / "hook"))

    def python(self) -> str:
        """Python; where it is sealed and there is strace, one of which every byte that it writes is written down."""
        if not self.sealed or not traces.can_trace():
            return sys.executable
        self.traced = True
        return str(traces.wrapper(self.folder / "python", self.traces))

    def child(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def broker_options(self) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.broker.port), "--plain"]

    def start(self) -> None:
        """Everything but the lane."""
        folder = self.folder
        self.broker.start()
        self.site.__enter__()
        signing = [word for name in ("online", "lift") for word in ("--sign", str(folder / "ceremony" / f"{name}.key"))]
        where = ["--registers", str(folder / "registers.db"), "--key", str(folder / "keys" / "data.key")]
        where += ["--state", str(folder / "publish.db"), "--keys", str(folder / "epochs"), "--repo", str(self.repo)]
        hq = "gated.hq.cli"
        self.child(PUBLISHER, hq, "publish", *where, *signing, "--every", "1", *self.broker_options())
        files = ["--db", str(folder / "hq.db"), "--key", str(folder / "keys" / "hq.key")]
        files += ["--receipts-key", str(folder / "keys" / "receipts.key")]
        self.child("ingest", hq, "ingest", *files, *self.broker_options())
        eventually(lambda: "segment" in self.log(PUBLISHER) or "epoch opened" in self.log(PUBLISHER), WAIT_S, self.logs)
        self.rig.launch()
        self.child("sync", "gated.sync", "--config", str(self.rig.toml))
        self.child("uplink", "gated.uplink", "--config", str(self.rig.toml))
        self.rig.wait("idle", within_s=60.0)

    # -- the day

    def run(self) -> None:
        """One short day."""
        register, somebody, rig = self.rig.register, self.somebody, self.rig
        passenger = register.enrol(somebody.passenger(self.template))
        self.start()
        eventually(lambda: self.serial("people") >= 0, WAIT_S, self.logs)
        register.enrol(somebody.person(), urgent=True)
        register.enrol(somebody.elsewhere(), urgent=True)
        register.set_status(somebody.document(), urgent=True)
        self.reached()
        rig.reads(somebody.everything)
        rig.reads(somebody.lost)
        if self.head is not None:
            rig.bench.look(self.head)
            assert rig.leaves(rig.enters(somebody.passing)) == "b", "they pass"
            register.add_flags(passenger.subject, {somebody.ban()}, urgent=True)
            self.reached()
            assert rig.leaves(rig.enters(somebody.passing)) == "a", "and do not after the ban"
        else:
            rig.serves(somebody.passing)
            register.add_flags(passenger.subject, {somebody.ban()}, urgent=True)
            self.reached()
        rig.wait("idle")
        self.processes()
        register.db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def serial(self, partition: str) -> int:
        """How far the lane's copy has come; -1: there is none."""
        answer: Any = Client(self.folder / "sync.sock", 5.0).ask(SyncStatus())
        found = answer["partitions"][partition]
        return found["serial"] if found["generation"] else -1

    def reached(self) -> None:
        """Until what the register has is at the lane."""
        newest = self.rig.register.newest()

        def there() -> bool:
            state = PublisherState(self.folder / "publish.db")
            try:
                epochs = {name: state.epochs(name)[-1] for name in PARTITIONS}
            finally:
                state.close()
            return all(e.taken >= newest and self.serial(name) == e.serial for name, e in epochs.items())

        eventually(there, WAIT_S, self.logs)

    def processes(self) -> None:
        """How much of each process is in swap."""
        assert self.rig.process is not None
        for name, child in {**self._children, "lane": self.rig.process}.items():
            status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
            self.swapped_kib[name] = int(re.findall(r"VmSwap:\s+(\d+) kB", status)[0])

    # -- ending

    def end(self) -> None:
        """Everything ends in order, the broker last: what it holds is on its disk."""
        for name in (PUBLISHER, "sync", "uplink", "ingest"):
            if (child := self._children.pop(name, None)) is not None:
                child.send_signal(signal.SIGTERM)
                child.wait(20)
        if self.rig.process is not None:
            self.rig.end()
        if hasattr(self, "broker"):
            self.broker.stop()
        if hasattr(self, "site"):
            self.site.__exit__()

    def close(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()
        self.rig.close()
        shutil.rmtree(self.traces, ignore_errors=True)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def logs(self) -> str:
        return "\n".join(f"-- {name}\n{self.log(name)[-1500:]}" for name in (*self._children, "lane"))

    # -- what was written

    def written(self) -> Written:
        """Every byte that the processes wrote anywhere, by file. Only where `traced`."""
        return Written.of(self.traces, self.traces / "written")

    @property
    def places(self) -> dict[str, list[Path]]:
        """What was left, by whose it is. The lane's disk is what somebody has who steals the lane."""
        folder, store = self.folder, self.folder / "store"
        cache = sorted(store.glob("cache-*"))
        return {
            "register": sorted(folder.glob("registers.db*")),
            "publisher": sorted(folder.glob("publish.db*")),
            "server": [self.repo],
            "records": sorted(folder.glob("hq.db*")),
            "broker": [folder / "broker"],
            "cache": cache,
            "lane": sorted(store.glob("lane.db*")),
            "lane's disk": [store, self.rig.toml, folder / "root.json", self.temporary, *self.own_logs],
        }

    @property
    def own_logs(self) -> list[Path]:
        return [self.folder / f"{name}.log" for name in ("lane", "sync", "uplink")]


P = TypeVar("P", bound=Pipeline)


@contextmanager
def played_by(kind: Callable[..., P], *, sealed: bool) -> Iterator[P]:
    """A day that was played and has ended."""
    patch = pytest.MonkeyPatch()
    was: dict[str, Any] = {}
    if not sealed:
        was = unsealed.undo()
        patch.setattr(registers, "lookup_key", seal.lookup_key)
    try:
        pipeline = kind(sealed=sealed)
        try:
            pipeline.prepare()
            for name, value in pipeline.environment():
                patch.setenv(name, value)
            patch.setattr(sys, "executable", pipeline.python())
            try:
                pipeline.run()
            finally:
                pipeline.end()
            yield pipeline
        finally:
            pipeline.close()
    finally:
        patch.undo()
        unsealed.put_back(was)


def played(*, sealed: bool) -> AbstractContextManager[Pipeline]:
    """The same with nothing beside it."""
    return played_by(Pipeline, sealed=sealed)
