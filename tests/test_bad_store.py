"""What disk, keys and broker can do to a running lane: it says so, keeps what it has, and goes on by itself."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.publish import single

from gated.hq.archive import Archive
from gated.hq.orders import Asked, carry
from gated.mqtt import Broker
from gated.store.cachefile import path_of
from gated.wire import link
from gated.wire.facts import LaneBooted, VerdictReached
from gated.wire.orders import Action
from tests.broker import RunningBroker
from tests.hw_sim.papers import Paper
from tests.lane_bench import face
from tests.lane_child import UNREACHABLE
from tests.lane_rig import LANE, ROOT, SITE, Rig, eventually

NOBODY = 65534


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
        assert "Traceback" not in made.log(), made.log()
    finally:
        made.close()


def known(rig: Rig, template: bytes | None = None) -> Paper:
    """Somebody in the register and in the published cache."""
    paper = rig.enrol(rig.passport(), template)
    rig.publish()
    return paper


# -- no room -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[Rig]:
    """The store's folder on a file system of 3 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(rig.store)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one is not permitted here: {done.stderr.strip()}")
    try:
        yield rig
    finally:
        subprocess.run(["umount", "-l", str(rig.store)], check=True)


def fill(folder: Path) -> Path:
    """Somebody else's file takes all the room there is."""
    ballast = folder / "messages.log"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def test_a_full_disk_refers_and_closes_and_opens_once_there_is_room(small_disk: Rig) -> None:
    rig = small_disk
    template, head = face()
    paper = known(rig, template)
    rig.start()
    rig.reads(rig.passport())
    before = rig.records()
    body = rig.enters(paper)
    rig.wait("matching")
    ballast = fill(rig.store)
    rig.bench.look(head)
    rig.wait("referred", "returning")
    assert rig.leaves(body) == "a", "nobody passes whose record is not on the disk"
    seen = rig.wait("closed")
    assert seen["faults"] == ["store"] and seen["devices"]["store"] == "lost"
    rig.alarmed("device_lost", "store:disk_full")
    (refused,) = rig.logged("store refuses")
    assert refused["why"] == "disk_full" and "free space" in refused["what"]
    kept = rig.records()
    assert kept[: len(before)] == before or {r.seq for r in before} <= {r.seq for r in kept}
    time.sleep(1.5)  # it tries again and again, and says so once
    assert len(rig.logged("store refuses")) == 1
    ballast.unlink()
    rig.wait("idle")
    assert rig.logged("store writes again")
    rig.assert_nothing_lost()
    verdicts, (end,) = rig.tickets()[2]
    assert {verdict.decision for verdict in verdicts} == {"refer"} and end.outcome == "not_crossed"
    body = rig.enters(paper)
    assert rig.leaves(body) == "b"
    rig.wait("idle")
    rig.assert_nothing_lost()
    (verdict,), (end,) = rig.tickets()[3]
    assert (verdict.decision, end.outcome) == ("grant", "crossed")
    assert replayed(rig).returncode == 0, "the journal has every step of it"


def test_a_lane_killed_on_a_full_disk_starts_once_there_is_room(small_disk: Rig) -> None:
    rig = small_disk
    paper = known(rig)
    rig.start()
    body = rig.enters(paper)
    ballast = fill(rig.store)
    rig.wait("referred", "returning")
    rig.end(9)
    rig.launch()
    assert rig.ended() == 69
    (refused,) = rig.logged("lane cannot start")
    assert "disk_full" in refused["what"] and "free space" in refused["what"]
    ballast.unlink()
    rig.launch()
    assert rig.leaves(body) == "a", "whoever was inside comes out"
    rig.wait("idle")
    rig.assert_nothing_lost()


# -- no permission -------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[Rig]:
    """A lane that runs as another user, who may read what it needs and write into its store."""
    if os.geteuid() != 0:
        pytest.skip("to become another user this test has to run as root")
    made = Rig(uid=NOBODY)
    try:
        made.folder.chmod(0o755)
        for path in (made.store, *(made.folder / "keys").rglob("*"), made.folder / "keys"):
            os.chown(path, NOBODY, NOBODY)
        made.options["control"]["socket"] = str(made.store / "control.sock")
        yield made
        assert "Traceback" not in made.log(), made.log()
    finally:
        made.close()


def test_a_database_that_may_not_be_written_is_refused_and_not_touched(as_nobody: Rig) -> None:
    rig = as_nobody
    path = rig.store / "lane.db"
    rig.launch()
    eventually(
        lambda: bool(rig.logged("device ready")) or rig.process is None or rig.process.poll() is not None, 20.0, rig.log
    )
    if rig.process is not None and rig.process.poll() == UNREACHABLE:
        pytest.skip("another user cannot read the networks of this checkout")
    assert rig.end() == 0
    booted = len(rig.records())
    assert booted > 0

    def refuses(change: Callable[[], None]) -> str:
        change()
        before = path.read_bytes()
        rig.launch()
        assert rig.ended() == 69
        assert path.read_bytes() == before
        return str(rig.logged("lane cannot start")[-1]["what"])

    def of_root(*files: Path) -> None:
        for file in files:
            os.chown(file, 0, 0)
            file.chmod(0o755 if file.is_dir() else 0o644)

    said = refuses(lambda: of_root(path))
    assert "lane.db: read_only: give this user write permission" in said
    said = refuses(lambda: of_root(rig.store, rig.store / "lane.db.lock"))
    assert "lane.db.lock: read_only: give this user write permission" in said
    for file in (rig.store, *rig.store.iterdir()):
        os.chown(file, NOBODY, NOBODY)
    rig.launch()
    eventually(lambda: len(rig.logged("lane built")) == 2, 20.0, rig.log)
    assert rig.end() == 0
    assert len(rig.records()) > booted
    rig.assert_nothing_lost()


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_corrupt_database_is_set_aside_and_the_lane_serves(rig: Rig) -> None:
    paper = known(rig)
    rig.start()
    for _ in range(2):
        rig.reads(rig.passport())
    assert rig.end() == 0
    old = rig.records()
    path = rig.store / "lane.db"
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = b"\xa5" * (len(data) - half)
    path.write_bytes(data)
    rig.start()
    (told,) = rig.logged("database was damaged, or went back to an older copy, and is set aside")
    aside = rig.store / told["file"]
    assert aside.read_bytes() == bytes(data), "it is kept as it is, for a person to look at"
    rig.serves(paper)
    rig.assert_nothing_lost()
    assert {record.generation for record in rig.records()}.isdisjoint({record.generation for record in old})
    (booted,) = [fact for fact in rig.facts() if isinstance(fact, LaneBooted)]
    assert booted.new_database
    assert min(rig.tickets()) > 2, "no ticket number is used again"
    assert rig.end() == 0
    path.write_bytes(b"no database at all, " * 1000)
    rig.start()
    assert len(rig.logged("database was damaged, or went back to an older copy, and is set aside")) == 2
    rig.reads(rig.passport())


def test_a_cache_that_is_damaged_or_of_another_key_closes_the_lane_until_it_is_replaced(rig: Rig) -> None:
    paper = known(rig)
    rig.start()
    path_of(rig.store, "people", 2).write_bytes(b"no cache at all, " * 1000)
    rig.serves(paper)  # by the one before
    assert not rig.logged("cache cannot be used")
    path_of(rig.store, "people", 1).unlink()
    # noticed when the next passenger is looked up, who is then shown the way to an officer
    rig.bench.insert(paper.lines)
    seen = rig.until(lambda now: now["devices"]["cache"] == "lost")
    rig.bench.remove()
    seen = rig.wait("closed")
    assert seen["faults"] == ["cache"]
    rig.alarmed("device_lost", "cache:corrupt")
    assert "cache-people-2.db" in rig.logged("cache cannot be used")[-1]["what"]
    rig.generation = 2  # that number is taken
    rig.publish()
    rig.serves(paper)
    rig.assert_nothing_lost()
    (verdict,), _ = rig.tickets()[2]
    assert verdict.decision == "refer" and verdict.reason in ("look_up_failed", "lane_fault")
    assert rig.end() == 0
    other = rig.folder / "keys" / "other.key"
    other.write_bytes(os.urandom(32))
    rig.options["keys"]["cache"] = str(other)
    rig.start("closed")
    rig.alarmed("device_lost", "cache:wrong_key")


# -- keys ------------------------------------------------------------------------------------------------------------


def replayed(rig: Rig, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`gated replay` of the lane's journal."""
    program = "from gated.cli import main; main()"
    command = [sys.executable, "-c", program, "--config", str(rig.toml), "replay", str(rig.store / "lane.db")]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_another_journal_key_opens_nothing_of_what_was_and_the_lane_serves(rig: Rig) -> None:
    known(rig)
    rig.start()
    rig.reads(rig.passport())
    assert rig.end() == 0
    assert replayed(rig).returncode == 0
    other = rig.folder / "keys" / "other.key"
    other.write_bytes(os.urandom(32))
    wrong = replayed(rig, "--key", str(other))
    assert wrong.returncode == 1 and ("another key" in wrong.stderr) and "Traceback" not in wrong.stderr
    missing = replayed(rig, "--key", str(rig.folder / "none.key"))
    assert missing.returncode == 78 and "none.key: cannot be read: No such file" in missing.stderr
    rig.options["keys"]["journal"] = str(other)
    rig.start()
    rig.reads(rig.passport())
    rig.assert_nothing_lost()


# -- the broker --------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_down_at_start_gets_everything_later(rig: Rig) -> None:
    paper = known(rig)
    broker = RunningBroker(rig.folder / "broker", persistence=False)
    rig.options["uplink"]["port"] = broker.port
    rig.start()
    uplink = Child(rig, "uplink", "-m", "gated.uplink", "--config", str(rig.toml))
    try:
        rig.until(lambda seen: seen["uplink"] == "down")
        rig.serves(paper)
        rig.reads(rig.passport())
        assert uplink.lives and "connection refused" in uplink.log().lower()
        archive = Archive(rig.folder / "hq.db")
        with broker:
            at = ("--host", "127.0.0.1", "--port", str(broker.port), "--plain")
            files = ["--db", str(rig.folder / "hq.db"), "--key", str(rig.folder / "keys" / "hq.key")]
            files += ["--receipts-key", str(rig.folder / "keys" / "receipts.key")]
            ingest = Child(rig, "ingest", "-m", "gated.hq.cli", "ingest", *files, *at)
            try:
                rig.until(lambda seen: seen["uplink"] == "up")
                written = rig.records()

                def stored() -> list[bytes]:
                    return [record.encode() for _, record in archive.find({}, 1_000_000)]

                eventually(
                    lambda: set(stored()) >= {record.encode() for record in written}, 15.0, lambda: len(stored())
                )
                assert len(stored()) == len(set(stored())) and archive.refused() == [] and archive.holes() == []
                verdict = next(r.fact(rig.hq_private) for _, r in archive.find({"kind": VerdictReached.__name__}, 9))
                assert verdict.decision == "refer"
                garbage_from_the_network(rig, broker, uplink)
            finally:
                ingest.end()
        archive.close()
        rig.until(lambda seen: seen["uplink"] == "down")
        rig.serves(paper)
    finally:
        uplink.end()


def garbage_from_the_network(rig: Rig, broker: RunningBroker, uplink: "Child") -> None:
    """Whatever comes as an order or a receipt and is none changes nothing; a real order still arrives."""
    dice = random.Random(9)
    for leaf in ("cmd", "ack"):
        where = link.topic(SITE, LANE, leaf)
        for payload in (b"", b"{", b'{"order": 1}', dice.randbytes(500), b"[" * 5000):
            single(where, payload, 1, hostname=broker.host, port=broker.port, protocol=MQTTProtocolVersion.MQTTv5)
    eventually(lambda: uplink.log().count('"taken": false') >= 5, 5.0, uplink.log)
    forged, real = (rig.folder / "keys" / "data.key").read_bytes(), (rig.folder / "keys" / "orders.key").read_bytes()
    hq = Broker(broker.host, broker.port, tls=False)
    asked = Asked(SITE, LANE, Action.CLOSE_LANE, "officer")
    answer = carry(hq, forged, asked, 10.0)
    assert (answer.taken, answer.why) == (False, "bad_signature")
    assert rig.ask()["state"] == "idle"
    assert carry(hq, real, asked, 10.0).taken
    rig.wait("closed")
    assert carry(hq, real, replace(asked, action=Action.OPEN_LANE), 10.0).taken
    rig.wait("idle")


class Child:
    """Another process of ours beside the lane."""

    def __init__(self, rig: Rig, name: str, *arguments: str) -> None:
        self._log = rig.folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=log, stderr=log)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
