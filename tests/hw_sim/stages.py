"""A real HQ at several moments of its life, as folders that a server can serve: what lanes find there at each, and
every state that a partition may rightly be in, worked out from HQ's files without the lane's code."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.hq import bundles, epochs
from gated.hq.announcer import Tips
from gated.hq.partition import Partition
from gated.hq.published import PublisherState
from gated.hq.publisher import Publisher
from gated.hq.registers import Paper, PaperStatus, Person, Register
from gated.hq.repository import Repository, Signers
from gated.wire.bundle import segment_path
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE, SLOTS_MAX, EpochKey, of_flags, of_subject
from gated.wire.seal import public_of
from gated.wire.segment import Unpacked
from tests.hq_rig import Reader

NAME = "tpe-t1/lane-07"
LANE_KEY = bytes(range(32))
MODEL = "network"
PROBES = range(1, 9)
"""Subjects who change in each segment, all together: in a mixed state they differ from each other."""
START = date(2026, 1, 1)
CHUNK_BYTES = 128 << 10
"""HQ's own are larger, and then a test's partition would be a single one."""
SECRETS = {name: bytes([n]) * 32 for n, name in enumerate(("root", "targets", "online", "lift"), 101)}
BOTH = Signers([SECRETS["online"], SECRETS["lift"]])
STAGES = ("first", "segments", "announced", "day", "epoch", "another epoch")

At = tuple[str, int, int]
"""(partition, epoch, serial)."""


@dataclass(frozen=True, slots=True)
class State:
    """A partition at one serial: sha256 over every row, and over what the probes' rows say."""

    rows: str
    probes: str


@dataclass(frozen=True, slots=True)
class Stage:
    """HQ at one moment. `path`: below the server. `heads`: partition -> (epoch, serial)."""

    name: str
    path: str
    heads: Mapping[str, tuple[int, int]]
    policy: bytes


@dataclass(frozen=True, slots=True)
class Stages:
    """All of them, in a folder, and every state that a partition was ever in."""

    folder: Path
    root: bytes
    stages: tuple[Stage, ...]
    states: Mapping[At, State]

    def named(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def rows_digest(rows: Mapping[bytes, bytes]) -> str:
    """Of every row, in order of place."""
    digest = hashlib.sha256()
    for place, blob in sorted(rows.items()):
        digest.update(len(blob).to_bytes(4, "big") + place + blob)
    return digest.hexdigest()


def probes_digest(said: list[bytes]) -> str:
    """Of what the rows of the probes say."""
    return hashlib.sha256(b"|".join(said)).hexdigest()


def number_of(subject: int) -> str:
    """Of a person's document."""
    return f"3{subject:08}"


def made(folder: Path, people: int) -> Stages:
    """HQ with so many people, and its whole life. Takes a second or two for each thousand."""
    hq = _Hq(folder, people)
    states: dict[At, State] = {}
    stages = []
    try:
        for name in STAGES:
            stages.append(hq.live(name))
            states |= hq.states()
        return Stages(folder, Repository(hq.repo).root, tuple(stages), states)
    finally:
        hq.close()


class _Hq:
    def __init__(self, folder: Path, people: int) -> None:
        self.folder, self.repo, self.keys = folder, folder / "hq" / "repo", folder / "hq" / "keys"
        self.repo.mkdir(parents=True)
        self.register = Register(folder / "hq" / "registers.db", bytes(32))
        self.register.db.conn.execute("PRAGMA synchronous = OFF")
        self.state = PublisherState(folder / "hq" / "publish.db")
        publics = {
            n: Ed25519PrivateKey.from_private_bytes(s).public_key().public_bytes_raw() for n, s in SECRETS.items()
        }
        Repository.create(
            self.repo,
            Signers(SECRETS.values()),
            root=[publics["root"]],
            root_threshold=1,
            targets=[publics["targets"]],
            online=publics["online"],
            lift=publics["lift"],
            now=_now(),
        )
        epochs.add_lane(self.state, self.keys, self.repo, NAME, public_of(LANE_KEY))
        self.people, self.edition = people, 0
        self.publisher = Publisher(self.register, self.state, self.keys, Repository(self.repo), BOTH)

    def close(self) -> None:
        self.publisher.close()
        self.state.close()
        self.register.close()

    # -- the stages

    def live(self, name: str) -> Stage:
        """What happens until a stage; then the folder as lanes find it there."""
        match name:
            case "first":
                for n in range(1, self.people + 1):
                    self._enrol(n)
                self.publisher.round(_now(), snapshot=True)
                self._days_work(2)
            case "segments":
                self._days_work(3)
            case "announced":
                for _ in range(2):
                    self._change(lift=False, urgent=True)
                    version = self.publisher.urgent(_now()).version
                parts = list(self.publisher.open_partitions())
                payload = Tips(Repository(self.repo), BOTH).announcement(parts, version, _now())
                (self.repo / "announcement").write_bytes(payload)
            case "day":
                self._days_work(3)
                self.publisher.round(_now(), consolidate=True)
                self._days_work(1)
            case _:
                for partition in PARTITIONS:
                    epochs.begin(self.state, self.keys, partition, _now())
                self.publisher.round(_now())
                self._days_work(2)
        policy = f"edition {self.edition}\n".encode() * 50
        targets = Signers([SECRETS["targets"], SECRETS["online"]])
        Repository(self.repo).put({"policy/tw.toml": policy}, targets, _now())
        path = f"stage-{STAGES.index(name)}"
        shutil.copytree(self.repo, self.folder / path, copy_function=os.link)  # HQ changes no file, it names new ones
        heads = {part.name: (part.epoch, part.note.serial) for part in self.publisher.open_partitions()}
        return Stage(name, path, heads, policy)

    def _days_work(self, rounds: int) -> None:
        for n in range(rounds):
            self._change(lift=True, urgent=n % 2 == 1)
            self.publisher.round(_now())

    def _enrol(self, n: int, urgent: bool = False) -> None:
        person = Person(
            subject=0,
            category="national",
            birth=date(1990, 1, 1),
            sex="F",
            personal_number=f"A{n:09}",
            papers=(Paper("TWN", number_of(n)),),
            face=os.urandom(512),
            face_model=MODEL,
            usable_from=START + timedelta(days=self.edition),
        )
        kept = self.register.enrol(person, urgent=urgent)
        assert kept.subject == n, "subjects are counted"

    def _change(self, *, lift: bool, urgent: bool) -> None:
        """The probes change, and some others with them; there are new bans, and `lift`: fewer of the old."""
        self.edition += 1
        subjects = [*PROBES, *range(20 + self.edition * 30, 20 + self.edition * 30 + 200)]
        for n in (n for n in subjects if n <= self.people):
            self._enrol(n, urgent)
        for n in PROBES:
            self.register.add_flags(n, {f"ban-{self.edition}"}, urgent=urgent)
            if lift:
                self.register.lift_flags(n, {f"ban-{k}" for k in range(self.edition)}, urgent=urgent)
        for n in range(self.edition * 100, self.edition * 100 + 60):
            self.register.set_status(PaperStatus(Paper("TWN", f"9{n:08}"), frozenset({"lost"})), urgent=urgent)

    # -- what is true of them

    def states(self) -> dict[At, State]:
        """Every state between the present base and the present head, from the files alone."""
        found = {}
        for part in self.publisher.open_partitions():
            reader = Reader(self.repo, part.name)
            key = EpochKey.of(epochs.key_file(self.keys, part.name, part.epoch).read_bytes())
            rows, base = reader.snapshot(), reader.base
            found[part.name, part.epoch, base.serial] = _state(rows, part.name, key)
            for entry in reader.index(base.serial, base.chain):
                for place, blob in _segment(self.repo, part, entry.serial):
                    if blob is None:
                        rows.pop(place, None)
                    else:
                        rows[place] = blob
                found[part.name, part.epoch, entry.serial] = _state(rows, part.name, key)
            assert rows == dict(part.rows()), "the files do not lead to what HQ has"
        return found


def _segment(repo: Path, part: Partition, serial: int) -> Iterator[tuple[bytes, bytes | None]]:
    unpacked = Unpacked(io.BytesIO((repo / segment_path(part.name, part.epoch, serial)).read_bytes()))
    unpacked.expect("segment", part.name, part.epoch, serial, serial)
    return iter(unpacked)


def _state(rows: Mapping[bytes, bytes], partition: str, key: EpochKey) -> State:
    said = []
    for n in PROBES:
        places = {
            PEOPLE: [key.place(*of_subject(n))],
            CONTROL: [key.place(*of_flags(n, slot)) for slot in range(SLOTS_MAX)],
        }[partition]
        said += [encode(key.opened(place, rows[place])) for place in places if place in rows]
    return State(rows_digest(rows), probes_digest(said))


def _now() -> datetime:
    return datetime.now(UTC)


def small_chunks() -> None:
    """Let HQ in this process cut its snapshots into small pieces."""
    setattr(bundles, "CHUNK_BYTES", CHUNK_BYTES)  # noqa: B010  # it is final, and imported by name
