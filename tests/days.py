"""A month of HQ in seconds, and a lane in virtual time that follows it by the real sync over a real server.

HQ's rounds, python-tuf, the sync and the lane's wall clock all read times that are handed in: nothing waits for a day.
"""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gated import control
from gated.control_peer import Peer
from gated.hq.epochs import add_lane
from gated.hq.partition import Partition
from gated.hq.publisher import Round
from gated.hq.registers import EnrolledFinger, Paper, Permit, Person
from gated.hq.repository import Repository, Signers
from gated.lane import commands as cmd
from gated.store.cachefile import audited, generations, read_note
from gated.sync.fetch import Fetcher, Progress, Server
from gated.sync.refused import Why
from gated.sync.rounds import Sync
from gated.sync.trust import Trust
from gated.wire.bundle import Head, load, target_path
from gated.wire.rows import PARTITIONS, PEOPLE, DocumentRow, of_document
from gated.wire.seal import public_of
from tests.hq_rig import BOTH, SECRETS, Hq, public
from tests.hw_sim import prints
from tests.hw_sim.cachefiles import newest
from tests.hw_sim.cast import Cast, Enrolment, Manner, Passenger, Truth, cast
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.hands import Touching
from tests.hw_sim.happenings import Topology
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.people import Script
from tests.hw_sim.simlane import LANE, NOON
from tests.hw_sim.world import World
from tests.hw_sim.zfm_sensor import ZfmSensor
from tests.test_daemon_app import Watched

SEED = 11
LANE_KEY = bytes(range(100, 132))
SYNC = Peer(901, 901, 44, "gated-sync", frozenset())
PLAIN = [Manner.PLAIN]
LOOK_S = 6.0
"""The lane looks at its cache every five seconds."""


# -- who comes -----------------------------------------------------------------------------------------------------


def entitled(count: int) -> Cast:
    """So many passengers of each category of the policy who pass where the cache is good."""
    drawn = cast(SEED, count * 16, Topology.MANTRAP, NOON.date(), only=PLAIN, truths={Truth.GENUINE: 1}, fingers=True)
    enrolled = {enrolment.person: enrolment for enrolment in drawn.enrolments}
    able = [p for p in drawn.passengers if p.sure and not p.bandaged and enrolled[p.person].face]
    cards = [p for p in able if enrolled[p.person].category == "resident"]
    passports = [p for p in able if enrolled[p.person].category == "national"]
    found = Cast([], [], drawn.persons, drawn.today)
    for k in range(count):
        for category, of in zip(CATEGORIES, (passports, cards, cards, cards), strict=True):
            passenger = of.pop()
            paper = passenger.paper
            if category == "mainland_spouse":
                paper = replace(paper, lines=("C<" + paper.lines[0][2:], *paper.lines[1:]))
            found.passengers.append(replace(passenger, name=f"{category} {k}", paper=paper, quality=1.0))
            found.enrolments.append(replace(enrolled[passenger.person], category=category, paper=paper))
    return found


CATEGORIES = ("national", "national_abroad", "resident", "mainland_spouse")


def _registered(enrolment: Enrolment, faces: RecordedFaces, sensor: ZfmSensor) -> Person:
    """What HQ's register has of somebody of the cast."""
    paper = enrolment.paper
    touches = (Touching(enrolment.person, finger, 0) for finger in enrolment.fingers)
    fingers = tuple(
        EnrolledFinger(touch.finger, "zfm", sensor.template(prints.picture(touch, sensor.shape))) for touch in touches
    )
    return Person(
        subject=0,
        category=enrolment.category,
        birth=paper.birth,
        sex=paper.sex,
        surname=paper.surname,
        given_names=paper.given_names,
        personal_number=paper.personal_number or None,
        papers=(Paper("TWN", paper.number),),
        face=faces.template(enrolment.person),
        face_model=faces.model,
        fingers=fingers,
        permits=tuple(Permit(p.kind, p.start, p.end, p.entries_left) for p in enrolment.permits_held),
    )


# -- HQ ------------------------------------------------------------------------------------------------------------


class Month:
    """HQ in `folder`, published `every` so often from NOON on. `served`: what its server shows."""

    def __init__(self, folder: Path, cast: Cast | None = None, every: timedelta = timedelta(hours=2)) -> None:
        self.every, self.now = every, NOON
        self._dice = random.Random(SEED)
        folder.mkdir(parents=True, exist_ok=True)
        Repository.create(
            folder / "repo",
            Signers(SECRETS.values()),
            root=[public("root")],
            root_threshold=1,
            targets=[public("targets")],
            online=public("online"),
            lift=public("lift"),
            now=NOON,
        )
        self.hq = Hq(folder)
        self.served = self.hq.repo
        self.root = Repository(self.served).root
        add_lane(self.hq.state, self.hq.keys, self.served, LANE, public_of(LANE_KEY))
        self.publisher = self.hq.publisher(BOTH)
        self._strangers = 0
        self.strangers(200)
        faces, sensor = RecordedFaces(SEED), ZfmSensor(MemoryByteLink.pair()[1], self._dice, features=prints.features)
        self.subjects: dict[int, int] = {}
        """Person of the cast -> subject of the register."""
        for enrolment in cast.enrolments if cast else ():
            person = self.hq.register.enrol(_registered(enrolment, faces, sensor))
            self.subjects[enrolment.person] = person.subject

    def strangers(self, count: int) -> list[Person]:
        """So many people more."""
        made = []
        for _ in range(count):
            self._strangers += 1
            n = self._strangers
            papers = (Paper("TWN", f"5{n:08}"),)
            made.append(
                self.hq.register.enrol(
                    Person(
                        0, "national", NOON.date().replace(year=1980), "X", f"S{n}", papers=papers, face=self._face()
                    )
                )
            )
        return made

    def _face(self) -> bytes:
        return self._dice.randbytes(512)

    def publish(self, signers: Signers = BOTH) -> Round:
        """A round at `now`."""
        publisher = self.publisher if signers is BOTH else self.hq.publisher(signers)
        self.last = publisher.round(self.now)
        assert not any(each.fault for each in self.last.done)
        return self.last

    def goes_on(self, until: timedelta, happenings: "dict[timedelta, Callable[[], Any]] | None" = None) -> None:
        """Rounds until so long after NOON, two new people in each; what happens at a time happens before its round."""
        waiting = dict(happenings or {})
        while self.now - NOON + self.every <= until:
            self.now += self.every
            for at in [at for at in waiting if at <= self.now - NOON]:
                waiting.pop(at)()
            self.strangers(2)
            self.publish()
        assert not waiting, "everything happened"

    def copy(self, to: Path) -> Path:
        """What the server shows now."""
        shutil.copytree(self.served, to)
        return to

    # -- what there is

    def part(self, partition: str) -> Partition:
        return next(each for each in self.publisher.open_partitions() if each.name == partition)

    def rows(self, partition: str) -> dict[bytes, bytes]:
        return dict(self.part(partition).rows())

    def head(self, partition: str) -> Head:
        data = Repository(self.served).target(target_path(partition, "head"))
        assert data is not None
        found: Head = load(Head, data)
        return found

    def close(self) -> None:
        self.publisher.close()
        self.hq.register.close()
        self.hq.state.close()


# -- the lane's side of the sync -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """A file that was taken from HQ's server, and where the partition's newest generation stood then."""

    path: str
    serial: int


class WatchedFetcher(Fetcher):
    """The fetcher, and a look over its shoulder. `look`: called before each file."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(Server(url, connect_s_max=5.0, read_s_max=5.0))
        self.folder = folder
        self.fetched: list[Fetched] = []
        self.look: Callable[[str], None] = lambda path: None

    def file(self, path: str, to: Path, size: int, sha256: bytes, progress: Progress | None = None) -> None:
        partition = path.split("/")[1]
        found = generations(self.folder, partition)
        serial = note_of(max(found.items())[1]).serial if found else 0
        self.look(path)
        super().file(path, to, size, sha256, progress)
        self.fetched.append(Fetched(path, serial))

    def took(self, partition: str) -> list[str]:
        """The kinds of files that were fetched of a partition, each once, in order."""
        kinds = [f.path.split("/")[3] for f in self.fetched if f.path.startswith(f"data/{partition}/")]
        return list(dict.fromkeys(kinds))


class LaneSync:
    """The real sync of a lane whose store is `folder`."""

    def __init__(self, folder: Path, url: str, root: bytes, clock: Callable[[], datetime], lane: str = LANE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.clock = folder, clock
        self.told: list[tuple[str, str]] = []
        self.tell: Callable[[str, str], bool] = lambda partition, why: True
        self.fetcher = WatchedFetcher(url, folder)
        trust = Trust(folder / "sync" / "trust", root, self.fetcher, clock)
        self.sync = Sync(folder, lane, trust, self.fetcher, clock, self._tell)

    def _tell(self, partition: str, why: str) -> bool:
        heard = self.tell(partition, why)
        if heard:
            self.told.append((partition, why))
        return heard

    def once(self) -> bool:
        return self.sync.once()

    def why(self, name: str = "") -> Why | None:
        trouble = self.sync.trouble.get(name)
        return trouble.why if trouble else None

    def newest(self, partition: str) -> Path:
        return max(generations(self.folder, partition).items())[1]

    def is_as(self, month: Month) -> bool:
        """Every row, the chain and every digest of both partitions."""
        for name in PARTITIONS:
            part = month.part(name)
            note, digests = audited(self.newest(name))
            if (note.epoch, note.serial, note.chain) != (part.epoch, part.note.serial, part.note.chain):
                return False
            if rows_of(self.newest(name)) != month.rows(name) or digests != part.digests():
                return False
        return True

    def close(self) -> None:
        self.sync.close()


def note_of(path: Path) -> Any:
    """What a generation says of itself."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
        return read_note(path, sql)


def rows_of(path: Path) -> dict[bytes, bytes]:
    """Every row of a generation, as it lies there."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
        return dict(sql.execute("SELECT key, value FROM rows").fetchall())


@contextmanager
def synced(folder: Path, url: str, root: bytes, clock: Callable[[], datetime]) -> Iterator[LaneSync]:
    lane = LaneSync(folder, url, root, clock)
    try:
        yield lane
    finally:
        lane.close()


# -- the whole lane --------------------------------------------------------------------------------------------------


class FollowingLane(Watched):
    """A virtual lane whose cache is what the real sync made of what HQ published. Passengers come when they are told
    to."""

    url: str
    root: bytes
    following: LaneSync
    said: list[asyncio.Future[Any]]

    def _files(self) -> Path:
        path = super()._files()
        (self.folder / "cache.key").write_bytes(LANE_KEY)
        return path

    def _cache(self, world: World) -> None:
        self.said = []
        self.following = LaneSync(self.folder, self.url, self.root, lambda: self.clock.now().utc)
        assert self.following.once(), self.following.sync.trouble
        self.following.told.clear()
        self.following.tell = self._hear

    def _hear(self, partition: str, why: str) -> bool:
        said = asyncio.ensure_future(self.app.requests.handle(control.SyncTold(partition, why), SYNC))
        self.said.append(said)
        return True

    # -- time

    @property
    def age(self) -> timedelta:
        """The time since NOON by the lane's wall clock."""
        return self.clock.now().utc - NOON

    async def comes_to(self, age: timedelta) -> None:
        """The wall clock says NOON and so much, and the lane has looked at its cache since."""
        more_s = (age - self.age).total_seconds()
        assert more_s >= 0, f"it is later already: {self.age}"
        if more_s:
            self.clock.step(more_s)
        await asyncio.sleep(LOOK_S)

    # -- people

    async def visit(self, passenger: Passenger) -> list[tuple[str, str]]:
        """Somebody comes and goes; (decision, rule) of what the lane recorded of them."""
        mark = len(self.log)
        await self.world.visit(Script(passenger, self.world.stage))
        await self.until_idle(60.0)
        commands = [each for _, _, done in self.log[mark:] for each in done]
        return [(c.verdict.decision.value, c.verdict.reason) for c in commands if isinstance(c, cmd.Record)]

    async def _end(self) -> None:
        await asyncio.gather(*self.said)
        await super()._end()
        self.following.close()


def person_of(lane: LaneSync, number: str) -> Any:
    """Whom a document leads to, as a lane finds it in its newest files."""
    cache = newest(lane.folder, PEOPLE, LANE_KEY, LANE)
    try:
        return cache.row(DocumentRow, *of_document("TWN", number))
    finally:
        cache.close()
