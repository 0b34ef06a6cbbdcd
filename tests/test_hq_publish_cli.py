"""`gated-hq publish`, `control`, `epoch` and `lane` as a person uses them, and the announcement at a real broker."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gated.hq.cli import gated_hq
from gated.hq.keys import make_signing
from gated.mqtt import Broker, Happening, Received, Session
from gated.wire import link
from gated.wire.bundle import Announcement, Tip, key_path, load
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.seal import public_of
from tests.broker import RunningBroker
from tests.hq_rig import Hq, Reader, person

ROOT = Path(__file__).resolve().parents[1]


class Desk:
    """HQ's command in one folder, with the keys of `gated-hq repo keys`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_signing(folder / "ceremony", ["root-1", "targets", "online", "lift"])
        done = self.run(
            "repo", "init", str(folder / "repo"), "--keys", str(folder / "ceremony"), "--root-threshold", "1"
        )
        assert done.exit_code == 0, done.output
        self.hq = Hq(folder)
        (folder / "data.key").write_bytes(bytes(range(32)))
        (folder / "data.key").chmod(0o600)
        self.register = ["--registers", str(folder / "registers.db"), "--key", str(folder / "data.key")]
        self.state = ["--state", str(folder / "publish.db")]
        self.repo = ["--repo", str(folder / "repo")]
        self.keys = ["--keys", str(folder / "keys")]

    def run(self, *words: str, **also: Any) -> Result:
        return CliRunner().invoke(gated_hq, words, **also)

    def publishing(self, *words: str, lift: bool = False) -> list[str]:
        sign = ["--sign", str(self.folder / "ceremony" / "online.key")]
        sign += ["--sign", str(self.folder / "ceremony" / "lift.key")] if lift else []
        return ["publish", *self.register, *self.state, *self.keys, *self.repo, *sign, *words]

    def publish(self, *words: str, lift: bool = False) -> Result:
        return self.run(*self.publishing(*words, lift=lift))

    def published(self, *words: str, lift: bool = False) -> dict[str, Any]:
        done = self.publish("--json", *words, lift=lift)
        assert done.exit_code == 0, done.output
        return {each["partition"]: each for each in json.loads(done.output)["partitions"]}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_from_ban_to_lift_by_command(desk: Desk) -> None:
    desk.hq.register.enrol(person())
    first = desk.published(lift=True)
    assert (first["people"]["rows"], first["control"]["rows"]) == (3, 0)
    done = desk.run("control", "ban", "1", "wanted", "watch", *desk.register)
    assert done.exit_code == 0 and done.stdout == "flags: wanted, watch\n" and "names are not checked" in done.stderr
    done = desk.run("control", "ban", "--document", "uto", "l898902c3", "stolen", "--urgent", *desk.register, "--json")
    assert json.loads(done.stdout) == {"flags": ["stolen"]}
    told = desk.published()["control"]
    assert [(s["serial"], s["rows"], s["lifts"]) for s in told["segments"]] == [(1, 1, False), (2, 1, False)]
    done = desk.run("control", "list", *desk.register)
    assert done.output == "subject 1: wanted, watch\ndocument UTO L898902C3: stolen\n"
    done = desk.run("control", "lift", "1", "wanted", *desk.register)
    assert done.exit_code == 0 and "flags: watch" in done.output and "lift key" in done.output
    done = desk.publish()
    assert done.exit_code == 0 and "waiting (lift): 1; publish again with the lift key" in done.output, done.output
    told = desk.published(lift=True)["control"]
    assert [s["lifts"] for s in told["segments"]] == [True] and not told["waiting"] and not told["needs_lift_key"]
    assert "segment 3, 2 rows" in desk.publish().output
    done = desk.run("control", "lift", "--document", "UTO", "L898902C3", "--all", *desk.register)
    assert done.exit_code == 0 and "flags: none" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ban"], "name a SUBJECT"),
        (["ban", "1"], "at least one FLAG"),
        (["ban", "wanted"], "name a SUBJECT"),
        (["ban", "1", "Wanted"], "is no flag"),
        (["lift", "1"], "name the FLAGs, or say --all"),
        (["lift", "1", "wanted", "--all"], "name the FLAGs, or say --all"),
    ],
)
def test_orders_that_cannot_be_meant(desk: Desk, words: list[str], says: str) -> None:
    done = desk.run("control", *words, *desk.register)
    assert done.exit_code == 2 and says in " ".join(done.output.split())


def test_lanes_and_epochs_by_command(desk: Desk) -> None:
    public = desk.folder / "lane-07.pub"
    public.write_bytes(public_of(bytes(range(1, 33))))
    here = [*desk.state, *desk.keys, *desk.repo]
    done = desk.run("lane", "add", "tpe-t1/lane-07", "--key", str(public), *here)
    assert done.exit_code == 0 and "the first publish gives it" in done.output
    desk.hq.register.enrol(person())
    desk.published(lift=True)
    assert (desk.hq.repo / key_path(PEOPLE, 1, "tpe-t1/lane-07")).exists()
    done = desk.run("lane", "add", "tpe-t1/lane-08", "--key", str(public), *here)
    assert "has the key of people/1, control/1" in done.output
    assert set(json.loads(desk.run("lane", "list", *desk.state, "--json").output)) == {
        "tpe-t1/lane-07",
        "tpe-t1/lane-08",
    }
    done = desk.run("lane", "add", "lane-08", "--key", str(public), *here)
    assert done.exit_code == 2 and "SITE/LANE" in done.output
    assert desk.run("lane", "remove", "tpe-t1/lane-08", *desk.state, *desk.repo).exit_code == 0
    done = desk.run("lane", "remove", "tpe-t1/lane-08", *desk.state, *desk.repo)
    assert done.exit_code == 1 and "there is no lane" in done.output

    assert "epoch 2 begins" in desk.run("epoch", "new", "people", *here).output
    done = desk.run("epoch", "new", "people", *here)
    assert done.exit_code == 1 and "has begun" in done.output
    assert desk.published()["people"]["epoch"] == 2
    found = json.loads(desk.run("epoch", "list", *desk.state, "--json").output)
    assert [(each["partition"], each["epoch"], each["state"]) for each in found] == [
        ("people", 1, "closed"),
        ("people", 2, "open"),
        ("control", 1, "open"),
    ]
    done = desk.run("epoch", "erase", "people", "2", *here, "--yes")
    assert done.exit_code == 1 and "what lanes of people use" in done.output
    done = desk.run("epoch", "erase", "people", "1", *here, input="n\n")
    assert done.exit_code == 1 and (desk.folder / "keys" / "epoch-people-1.key").exists()
    done = desk.run("epoch", "erase", "people", "1", *here, "--yes")
    assert done.exit_code == 0 and not (desk.folder / "keys" / "epoch-people-1.key").exists()


def test_what_stands_in_the_way_is_told_in_one_line(desk: Desk) -> None:
    done = desk.publish()
    assert done.exit_code == 0 and "control: no epoch is open yet; publish again with the lift key" in done.output
    (desk.folder / "keys" / "epoch-people-1.key").unlink()
    desk.hq.register.enrol(person())
    done = desk.publish()
    assert done.exit_code == 1 and "people: NOT PUBLISHED" in done.output and "epoch-people-1.key" in done.output
    for option, value, says in (
        ("--registers", "none.db", "gated-hq enrol makes it"),
        ("--repo", "none", "no signed repository"),
        ("--sign", "none.key", "no such file"),
        ("--state", "no/such/folder.db", "no such file"),
    ):
        words = desk.publishing()
        words[words.index(option) + 1] = str(desk.folder / value)
        done = desk.run(*words)
        assert done.exit_code == 1 and says in done.output and "Traceback" not in done.output, (option, done.output)


# -- the announcement --------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    made = RunningBroker(tmp_path / "broker", persistence=False).start()
    yield made
    made.stop()


def next_told(broker: RunningBroker, wanted: Any = lambda told: True, within_s: float = 20.0) -> Announcement:
    """The announcement that a lane which comes now hears, or the first that is as wanted."""
    deadline = time.monotonic() + within_s
    while True:
        inbox: SimpleQueue[Happening] = SimpleQueue()
        at = Broker(broker.host, broker.port, tls=False)
        session = Session(at, "lane", inbox, subscribe=[(link.announce_topic(), 1)])
        session.start()
        try:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                happened = inbox.get(timeout=max(0.01, until - time.monotonic()))
                if isinstance(happened, Received):
                    told: Announcement = load(Announcement, happened.payload)
                    if wanted(told):
                        return told
        except Empty:
            assert time.monotonic() < deadline, "nobody says it"
        finally:
            session.stop()


def test_lanes_are_told_and_late_ones_too(desk: Desk, broker: RunningBroker) -> None:
    desk.hq.register.enrol(person())
    at = ["--host", broker.host, "--port", str(broker.port), "--plain"]
    desk.published(lift=True)
    desk.hq.register.add_flags(1, {"wanted"})
    desk.published(*at)
    told = next_told(broker)
    (signed,) = told.tips
    tip = load(Tip, signed.tip)
    assert (
        (tip.partition, tip.serial) == (CONTROL, 1) and signed.segment is not None and len(signed.segment) == tip.size
    )
    broker.stop()
    done = desk.publish(*at)
    assert done.exit_code == 69 and "no broker answers" in done.output


def test_the_service_goes_on_over_a_broker_that_dies_and_ends_when_told(desk: Desk, broker: RunningBroker) -> None:
    desk.hq.register.enrol(person())
    desk.published(lift=True)
    words = desk.publishing("--every", "3600", "--host", broker.host, "--port", str(broker.port), "--plain")
    log = desk.folder / "publish.log"
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "gated.hq.cli", *words], stderr=out, cwd=ROOT)
    try:
        next_told(broker)
        desk.hq.register.add_flags(1, {"wanted"}, urgent=True)
        next_told(broker, lambda told: len(told.tips) == 1)
        broker.restart()  # and has forgotten everything
        next_told(broker, lambda told: len(told.tips) == 1)
        desk.hq.register.lift_flags(1, urgent=True)
        desk.hq.register.enrol(person(2), urgent=True)
        next_told(broker, lambda told: len(told.tips) == 2)
        assert desk.published(lift=True)["control"]["segments"][0]["lifts"]  # somebody with the stick, beside it
        assert Reader(desk.hq.repo, CONTROL).rows() == {}
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0, log.read_text()
    finally:
        child.kill()
        child.wait()
    assert "CHENCANARY" not in log.read_text()
