"""What a broker learns of people: its store, its memory, its log, whoever reads along, and the line itself. Nothing.

A day of canary_rig's: everything between HQ's register and a lane's door runs, with announcements, births, telemetry,
findings, records, pictures, orders, desired and reported versions. In every place that is searched something that is
not sealed was planted, which must be found there. And the same day with nothing sealed, where everybody is found."""

import json
import re
import sqlite3
import subprocess
import sys
from asyncio import StreamWriter
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import patch

import pytest

from gated.hq.archive import Archive
from gated.mqtt import Broker, Connected, Happening, Received
from gated.store.acks import AckedHeadsReader
from gated.store.outbox import OutboxReader
from gated.wire import link
from tests.broker import Peer, Pki, ProductionBroker, RunningBroker
from tests.canaries import Canary, found
from tests.canary_rig import PUBLISHER, SENT, WAIT_S, Pipeline, played_by
from tests.hw_sim import papers
from tests.hw_sim.proxy import FaultProxy
from tests.lane_rig import LANE, ROOT, SITE, eventually
from tests.test_attachments_whole import LAW
from tests.test_attachments_whole import canaries as of_pictures

HERE, THERE, LISTENS = f"{SITE}/{LANE}", f"{SITE}/lane-9", f"{SITE}/lane-8"
USERS = ("hq-ingest", "hq-publisher", "hq-orders", "hq-desk", "hq-fence")
CONTROL = Canary("control", "ZZUNSEALEDCONTROL")
OFFICER = "zzofficerwoylie"
SURNAMES, GIVEN_NAMES = "QUOKKAWEDGE BILBYSWORTH", "POTOROOLA QUENDAMIRA"
"""Of everybody who shows a document: long enough to be told from chance."""
NAMES = [Canary(f"name {name}", name) for name in f"{SURNAMES} {GIVEN_NAMES}".split()]
IN_CLEAR = {"category"}
"""docs/records.md: the clear half of a passage's record names the category of traveller, and no person."""

pytestmark = pytest.mark.slow  # a whole day of a lane and HQ, watched in every place: minutes


class Ear:
    """Reads all that it is given, and writes it into `file` when it ends."""

    def __init__(self, broker: Broker, name: str, file: Path) -> None:
        self.file, self.messages = file, list[Received]()
        self._peer = Peer(broker, "#", "$SYS/#", client_id=f"ear-{name}")
        assert isinstance(self._peer.begun, Connected), self._peer.begun

    def hear(self) -> None:
        """What came so far."""
        inbox: SimpleQueue[Happening] = self._peer.inbox
        while not inbox.empty():
            happened = inbox.get()
            assert isinstance(happened, Received), happened
            self.messages.append(happened)

    def leaves(self) -> set[str]:
        """The kinds of messages that it heard."""
        return {each.topic.rpartition("/")[2] for each in self.messages if each.topic.startswith("gate/")}

    def end(self) -> None:
        self.hear()
        self._peer.session.stop()
        with self.file.open("wb") as file:
            for each in self.messages:
                about = (each.topic, *each.properties, *each.properties.values())
                file.write("\n".join(about).encode() + b"\n" + (each.correlation or b"") + b"\n" + each.payload + b"\n")


class Tap(FaultProxy):
    """A line that writes down what passes: each direction of each connection a file."""

    def __init__(self, target: int, folder: Path) -> None:
        super().__init__(target)
        self._folder, self._files = folder, dict[StreamWriter, Path]()

    async def _put(self, sink: StreamWriter, data: bytes) -> None:
        path = self._files.setdefault(sink, self._folder / f"{len(self._files)}")
        with path.open("ab") as file:
            file.write(data)
        await super()._put(sink, data)


class Watched(Pipeline):
    """`heard`: whoever listens, by name. `tls`: the broker as in production, but with a store."""

    def __init__(self, *, sealed: bool = True, tls: bool = True) -> None:
        with patch.multiple(papers, _SURNAMES=SURNAMES, _GIVEN=GIVEN_NAMES):
            super().__init__(sealed=sealed)
        self.tls, self.heard = tls, dict[str, Ear]()
        self.pictures: list[Canary] = []

    def python(self) -> str:
        return sys.executable

    def prepare(self) -> None:
        super().prepare()
        for name in ("ears", "line", "memory"):
            (self.folder / name).mkdir()
        (self.folder / "policy.toml").write_text(LAW, encoding="utf-8")
        self.rig.options["policy"]["file"] = str(self.folder / "policy.toml")
        self.rig.options["lane"]["direction"] = "entry"
        self.tap: Tap | None = None
        uplink, at = self.rig.options["uplink"], self.folder / "broker"
        if self.tls:
            stored = ("persistence true", f"persistence_location {at}/", "autosave_interval 1")
            self.production = ProductionBroker(at, Pki(self.folder / "pki"), extra=stored)
            self.broker, lane = self.production, self.production.as_(HERE)
            uplink |= {"port": lane.port, "tls": True, "ca": str(lane.ca)}
            uplink |= {"certificate": str(lane.certificate), "key": str(lane.key)}
        else:
            loud = ("log_type notice", "connection_messages true")
            self.broker = RunningBroker(at, persistence=True, extra=loud)

    def as_(self, name: str) -> Broker:
        """How somebody reaches the broker."""
        return self.production.as_(name) if self.tls else Broker("127.0.0.1", self.broker.port, tls=False)

    def at(self, user: str) -> list[str]:
        """The same for HQ's programs."""
        broker = self.as_(user)
        if not self.tls:
            assert self.tap is not None
            return ["--host", broker.host, "--port", str(self.tap.port), "--plain"]
        files = {"--ca": broker.ca, "--certificate": broker.certificate, "--certificate-key": broker.key}
        return ["--host", broker.host, "--port", str(broker.port), *(str(w) for pair in files.items() for w in pair)]

    def broker_options(self) -> list[str]:
        return []

    def child(self, name: str, *arguments: str) -> None:
        if not self.heard:  # the broker runs, and nothing else yet
            self.listen()
        users = {PUBLISHER: "hq-publisher", "ingest": "hq-ingest"}
        super().child(name, *arguments, *(self.at(users[name]) if name in users else ()))

    def listen(self) -> None:
        if not self.tls:
            self.tap = Tap(self.broker.port, self.folder / "line")
            self.tap.__enter__()
            self.rig.options["uplink"]["port"] = self.tap.port
        for name in (*USERS, LISTENS) if self.tls else ("anybody",):
            file = self.folder / "ears" / name.replace("/", "-")
            self.heard[name] = Ear(self.as_(name), name.replace("/", "-"), file)

    # -- the rest of the day

    def processes(self) -> None:
        super().processes()
        self.remember("day")
        self.ask("desire", HERE, "policy=2099.1", "--wait", "2")
        key = str(self.folder / "keys" / "orders.key")
        self.ask("order", HERE, "close_lane", "--officer", OFFICER, "--key", key)
        with closing(sqlite3.connect(self.rig.store / "lane.db", timeout=20.0)) as root, root:
            root.execute("UPDATE journal SET mono = 9 WHERE id = (SELECT max(id) FROM journal)")
        eventually(self.found_out, WAIT_S, self.logs)
        eventually(self.drained, WAIT_S, self.logs)
        self.of_desk()
        self.remember("evening")
        self.control()
        self.remember("night")

    def ask(self, *words: str) -> str:
        """One of HQ's commands, whatever it answers."""
        user = {"desire": "hq-desk", "order": "hq-orders"}.get(words[0])
        asked = [sys.executable, "-m", "gated.hq.cli", *words, *(self.at(user) if user else ())]
        ran = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode in (0, 1), ran.stderr
        return ran.stdout

    def archive(self) -> Archive:
        return Archive(str(self.folder / "hq.db"), read_only=True)

    def found_out(self) -> bool:
        with closing(self.archive()) as archive:
            return any(finding["code"] == "journal_altered" for finding in archive.findings())

    def drained(self) -> bool:
        """Has HQ everything?"""
        reader, outbox = AckedHeadsReader(self.rig.store / "uplink.db"), OutboxReader(self.rig.store / "lane.db")
        with closing(reader), closing(outbox):
            return not outbox.pending(reader.heads(), 1)

    def of_desk(self) -> None:
        """Pictures as HQ's desk puts them together: where nothing is sealed, in a process that unseals nothing."""
        db, key = ("--db", str(self.folder / "hq.db")), ("--key", str(self.folder / "keys" / "hq.key"))
        shown = []
        for each in json.loads(self.ask("attachments", "list", *db, "--json")):
            file = Path(f"{self.folder}.traces") / each["name"]
            self.ask("attachments", "export", *db, *key, LANE, each["name"], str(file))
            shown.append(file.read_bytes())
        self.pictures = of_pictures(shown)

    def control(self) -> None:
        """In every place something that is not sealed."""
        plain = str(CONTROL.plain).encode()
        said = {THERE: ("birth", "event", "telemetry", "answer", "reported"), "hq-desk": ("desired",)}
        for user, leaves in said.items():
            with Peer(self.as_(user), client_id=f"{plain.decode()}-{user.replace('/', '-')}") as peer:
                for leaf in leaves:
                    peer.say(
                        link.topic(SITE, "lane-9", leaf), plain * 9, retain=leaf in ("birth", "reported", "desired")
                    )
                with Peer(self.as_("hq-publisher"), client_id="plain") as publisher:
                    publisher.say(link.announce_topic(), plain * 9)
                eventually(self.all_told, WAIT_S, self.logs)
        if self.tap is not None:
            with Peer(Broker("127.0.0.1", self.tap.port, tls=False)) as peer:
                peer.say("elsewhere", plain)
                eventually(lambda: bool(found([CONTROL], self.folder / "line")), WAIT_S, self.logs)

    def all_told(self) -> bool:
        for ear in self.heard.values():
            ear.hear()
        plain = str(CONTROL.plain).encode()
        return all(any(plain in m.payload for m in ear.messages) for ear in self.heard.values())

    def remember(self, when: str) -> None:
        """What the broker's process has in its memory, where we may read it."""
        maps = Path(f"/proc/{self.broker.pid}/maps").read_text(encoding="utf-8")
        with suppress(PermissionError), Path(f"/proc/{self.broker.pid}/mem").open("rb", buffering=0) as memory:
            for start, end, about in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw(.*)$", maps, re.M):
                memory.seek(int(start, 16))
                path = self.folder / "memory" / f"{when}-{start}{'-heap' * ('[heap]' in about)}"
                path.write_bytes(memory.read(int(end, 16) - int(start, 16)))

    def end(self) -> None:
        for ear in self.heard.values():
            ear.end()
        super().end()
        if self.tap is not None:
            self.tap.__exit__()

    # -- what is searched

    @property
    def watched(self) -> dict[str, list[Path]]:
        """Places that a broker's keeper, or who reads along, has."""
        at = self.folder / "broker"
        places = {"store": [at / "mosquitto.db"], "log": [at / "mosquitto.log"], "memory": [self.folder / "memory"]}
        places |= {f"ear of {name}": [ear.file] for name, ear in self.heard.items()}
        if not any((self.folder / "memory").iterdir()):
            del places["memory"]
        return places | ({} if self.tls else {"line": [self.folder / "line"]})

    @property
    def everybody(self) -> list[Canary]:
        return [*(each for each in self.canaries if each.name not in IN_CLEAR), *NAMES, *self.pictures]


@pytest.fixture(scope="module")
def day() -> Iterator[Watched]:
    with played_by(Watched, sealed=True) as made:
        yield made


def where(day: Watched, canaries: list[Canary]) -> dict[str, set[str]]:
    """Place -> canaries that were found there."""
    return {place: {hit.canary for hit in found(canaries, *paths)} for place, paths in day.watched.items()}


def test_everything_was_said_and_heard(day: Watched) -> None:
    """Or it were no wonder that nothing was found."""
    heard = {name: ear.leaves() for name, ear in day.heard.items()}
    assert heard == {
        "hq-ingest": {"announce", "birth", "telemetry", "event", "reported"},
        "hq-fence": {"announce", "birth", "telemetry", "event", "reported", "answer"},
        "hq-orders": {"announce", "birth", "answer"},
        "hq-desk": {"announce", "desired", "reported"},
        "hq-publisher": {"announce"},
        LISTENS: {"announce"},
    }
    events = [m for m in day.heard["hq-ingest"].messages if m.topic == link.topic(SITE, LANE, "event")]
    kinds = {re.findall(rb'"kind":"(\w+)"', m.payload)[-1].decode() for m in events}
    assert {"VerdictReached", "TicketSettled", "OfficerCalled", "OrderAnswered"} <= kinds
    findings = [m for m in day.heard["hq-ingest"].messages if b"journal_altered" in m.payload]
    assert findings and findings[0].topic.endswith("/telemetry")
    if day.head is not None:
        assert "AttachmentPart" in kinds and len(day.pictures) == 2


def test_nobody_is_in_any_place_of_the_broker(day: Watched) -> None:
    assert len(day.everybody) > 30
    assert where(day, day.everybody) == {place: set() for place in day.watched}


def test_the_brokers_memory_was_among_them(day: Watched) -> None:
    if "memory" not in day.watched:
        pytest.skip("the memory of another process may not be read here: run it as root, or with ptrace_scope 0")
    assert sum(path.stat().st_size for path in (day.folder / "memory").iterdir()) > 1 << 20


def test_what_is_not_sealed_is_found_in_each(day: Watched) -> None:
    assert where(day, [CONTROL]) == {place: {CONTROL.name} for place in day.watched}


def test_hqs_database_without_its_key_names_nobody(day: Watched, tmp_path: Path) -> None:
    records = day.places["records"]
    assert found(day.everybody, *records) == []
    with closing(sqlite3.connect(tmp_path / "control.db")) as sql, sql:
        sql.execute("CREATE TABLE people (plain)")
        sql.executemany("INSERT INTO people VALUES (?)", [(canary.plain,) for canary in day.everybody])
    assert {hit.canary for hit in found(day.everybody, tmp_path)} == {canary.name for canary in day.everybody}


# -- without TLS, and the line itself ----------------------------------------------------------------------------------


def test_on_a_plain_line_there_is_nobody_either() -> None:
    with played_by(partial(Watched, tls=False), sealed=True) as day:
        assert where(day, day.everybody) == {place: set() for place in day.watched}
        assert where(day, [CONTROL]) == {place: {CONTROL.name} for place in day.watched}
        officer = where(day, [Canary("officer", OFFICER)])
        assert officer["line"] == {"officer"}, "officers are named in orders: docs/uplink.md says so"


def test_with_nothing_sealed_everybody_is_in_every_place() -> None:
    """The control: the same programs and messages. What lanes are told rides in announcements, what a lane saw in its
    records."""
    with played_by(partial(Watched, tls=False), sealed=False) as day:
        told = {each.canary.name for each in day.somebody.planted if each.places >= SENT} - IN_CLEAR
        passed = {"number of passenger", "personal number of passenger", "number of lost document"}
        names = {f"name {passing}" for passing in day.somebody.passing.given_names.split()}
        names |= {f"name {day.somebody.passing.surname}"}
        pictures = {each.name for each in day.pictures}
        assert len(told) > 15 and len(pictures) == (2 if day.head is not None else 0)
        seen = where(day, day.everybody)
        for place in ("ear of anybody", "line"):
            assert seen[place] >= told | passed | names | pictures, place
        assert seen["store"] >= told, "the last announcement"
        assert len(seen.get("memory", told)) > 10
