"""HQ's archive by itself, and what `gated-hq` shows of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from gated.hq import keys
from gated.hq.archive import Archive, Fate
from gated.hq.cli import gated_hq
from gated.wire import link
from gated.wire.facts import AlarmRaised, Fact, Part
from gated.wire.record import Head, Record
from tests.broker import free_port
from tests.postgres import where
from tests.uplink_rig import CANARY, LANE, SITE, verdict

__all__ = ["where"]

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NAMED = ("", 0)


class Hq:
    """An archive, a key, and a lane's stream to fill it from."""

    def __init__(self, folder: Path, where: str = "") -> None:
        keys.make(folder / "keys")
        self.key = folder / "keys" / "hq.key"
        self.private, self.public = self.key.read_bytes(), (folder / "keys" / "hq.pub").read_bytes()
        self.path = where or str(folder / "hq.db")
        self.archive = Archive(self.path)

    def chain(self, stream: str, *facts: Fact) -> list[Record]:
        head, made = Head.start(LANE, f"gen1-{stream}"), []
        for fact in facts:
            made.append(head.next(fact, NOON, "boot-1", self.public))
            head = head.after(made[-1])
        return made

    def take(self, record: Record | bytes, named: tuple[str, int] = NAMED) -> Fate:
        with self.archive.batch() as intake:
            payload = record if isinstance(record, bytes) else record.encode()
            return intake.take(SITE, LANE, payload, named, self.private).fate

    def execute(self, statement: str, **values: object) -> None:
        """Somebody writes into the database who should not."""
        with self.archive.engine.connect().execution_options(writes=True) as sql, sql.begin():
            sql.execute(text(statement), values)

    def command(self, *arguments: str, exit_code: int = 0) -> str:
        done = CliRunner().invoke(gated_hq, [*arguments[:2], "--db", self.path, *arguments[2:]])
        assert done.exit_code == exit_code, done.output
        return done.output


@pytest.fixture
def hq(tmp_path: Path, where: str) -> Iterator[Hq]:
    made = Hq(tmp_path, where)
    yield made
    made.archive.close()


def test_a_record_comes_back_exactly_as_it_came(hq: Hq) -> None:
    [record] = hq.chain("crossing", verdict(1))
    assert hq.take(record) is Fate.STORED
    again = hq.archive.record(LANE, record.stream_id, 1)
    assert again == record and again is not None and again.encode() == record.encode()


def test_what_was_not_committed_was_not_taken(hq: Hq) -> None:
    [record] = hq.chain("alarm", AlarmRaised("help"))
    with pytest.raises(KeyError), hq.archive.batch() as intake:
        assert intake.take(SITE, LANE, record.encode(), NAMED, hq.private).fate is Fate.STORED
        raise KeyError("something fails before the commit")
    assert hq.archive.head(LANE, record.stream_id).seq == 0 and hq.archive.counters() == {}
    assert hq.take(record) is Fate.STORED


def test_another_record_under_a_number_that_is_taken(hq: Hq) -> None:
    one, two = hq.chain("alarm", AlarmRaised("help"), AlarmRaised("fire"))
    assert [hq.take(one), hq.take(two)] == [Fate.STORED, Fate.STORED]
    other = replace(one, clear={**one.clear, "code": "mains_lost"})
    assert [hq.take(other) for _ in range(4)] == [Fate.REFUSED, Fate.REFUSED, Fate.SET_ASIDE, Fate.SET_ASIDE]
    assert len(hq.archive.refused()) == 1
    assert hq.archive.record(LANE, one.stream_id, 1) == one, "nothing is ever overwritten"
    assert hq.archive.refused()[0]["why"].startswith("conflict")
    assert hq.archive.broken() == []


def test_bytes_that_cannot_be_addressed_are_refused_for_ever_and_block_nobody(hq: Hq) -> None:
    assert [hq.take(b"noise") for _ in range(5)] == [Fate.REFUSED] * 5
    assert hq.archive.refused() == []


def test_a_chain_that_was_tampered_with_at_hq_is_found(hq: Hq) -> None:
    for record in hq.chain("alarm", AlarmRaised("help"), AlarmRaised("fire"), AlarmRaised("help")):
        hq.take(record)
    assert "gen1-alarm" in hq.command("records", "verify")
    hq.execute("UPDATE records SET clear = replace(clear, 'fire', 'help') WHERE seq = 2")
    said = hq.command("records", "verify", exit_code=1)
    assert f"{LANE} gen1-alarm 2: not the record that was taken in" in said
    assert f"{LANE} gen1-alarm 3: does not go on" in said
    hq.execute("DELETE FROM records WHERE seq = 2")
    assert "records before it are missing" in hq.command("records", "verify", exit_code=1)
    hq.execute("DELETE FROM records WHERE seq = 3")
    assert "gen1-alarm 1: not where the stream ended" in hq.command("records", "verify", exit_code=1)
    hq.execute("DELETE FROM records")
    assert "gen1-alarm: its records are gone" in hq.command("records", "verify", exit_code=1)


def test_names_are_shown_to_who_holds_the_key(hq: Hq) -> None:
    [record] = hq.chain("crossing", verdict(1))
    hq.take(record)
    listed = hq.command("records", "list", "--json")
    assert CANARY not in listed
    [row] = json.loads(listed)
    assert (row["kind"], row["clear"]["decision"], row["sealed"]) == ("VerdictReached", "grant", True)
    assert json.loads(hq.command("records", "list", "--json", "--kind", "TicketSettled")) == []
    assert "VerdictReached" in hq.command("records", "list")
    shown = hq.command("records", "show", LANE, record.stream_id, "1")
    assert CANARY not in shown
    opened = hq.command("records", "show", "--key", str(hq.key), LANE, record.stream_id, "1")
    assert json.loads(opened)["fact"]["VerdictReached"]["holder"]["surname"] == CANARY
    other = hq.key.with_name("data.key")
    assert "cannot be opened" in hq.command(
        "records", "show", "--key", str(other), LANE, record.stream_id, "1", exit_code=1
    )
    assert "no record 2" in hq.command("records", "show", LANE, record.stream_id, "2", exit_code=1)


def test_lanes_are_shown(hq: Hq) -> None:
    now = datetime.now(UTC)
    with hq.archive.batch() as intake:
        intake.born(SITE, LANE, link.Birth("s1", "boot-1", now, "0.1", ()), False)
        intake.told(SITE, LANE, link.Telemetry("s1", "boot-1", now, "p", True, "ok", 7, 3.0, 0, 0))
        parts = (Part("policy", "tw-2"), Part("daemon", "0.1"))
        intake.reported(SITE, LANE, link.Reported(4, now, parts, ("policy",)))
        intake.finding(SITE, LANE, "gap", "gen1-alarm 3 to 4")
    [lane] = json.loads(CliRunner().invoke(gated_hq, ["lanes", "--db", hq.path, "--json"]).output)
    assert (lane["up"], lane["telemetry"]["pending"], lane["findings"]) == (True, 7, 1)
    assert (lane["reported"]["revision"], lane["reported"]["behind"]) == (4, ["policy"])
    with hq.archive.batch() as intake:
        assert not intake.died(SITE, LANE, link.Death("s0", "lost"))
        assert intake.died(SITE, LANE, link.Death("s1", "lost"))
    shown = CliRunner().invoke(gated_hq, ["lanes", "--db", hq.path]).output
    assert f"{SITE}/{LANE}" in shown and "down (lost)" in shown and "policy" in shown


def test_a_lane_that_is_silent_is_not_called_up(hq: Hq) -> None:
    with hq.archive.batch() as intake:
        intake.born(SITE, LANE, link.Birth("s1", "boot-1", datetime.now(UTC), "0.1", ()), False)
    assert "silent" not in CliRunner().invoke(gated_hq, ["lanes", "--db", hq.path]).output
    with hq.archive.batch() as intake:  # the broker tells again what it kept
        intake.born(SITE, LANE, link.Birth("s2", "boot-1", datetime.now(UTC) - timedelta(seconds=61), "0.1", ()), True)
    assert "down (silent)" in CliRunner().invoke(gated_hq, ["lanes", "--db", hq.path]).output


def test_what_was_found_is_shown_and_fails(hq: Hq) -> None:
    assert hq.command("integrity", "--json").strip() == "[]"
    with hq.archive.batch() as intake:
        assert intake.finding(SITE, LANE, "truncated", "gen1-alarm: ends at 3, HQ has 5")
        assert not intake.finding(SITE, LANE, "truncated", "gen1-alarm: ends at 3, HQ has 5")
    [found] = json.loads(hq.command("integrity", "--json", exit_code=1))
    assert (found["site"], found["lane"], found["code"]) == (SITE, LANE, "truncated")
    assert "ends at 3" in CliRunner().invoke(gated_hq, ["integrity", "--db", hq.path]).output


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(gated_hq, ["lanes", "--db", str(tmp_path / "none.db")])
    assert done.exit_code == 1 and "no such file" in done.output and not (tmp_path / "none.db").exists()
    url = f"postgresql+psycopg://gated:SECRETCANARY@127.0.0.1:{free_port()}/gated"
    done = CliRunner().invoke(gated_hq, ["lanes", "--db", url])
    assert done.exit_code == 1 and "the database is away" in done.output and "SECRETCANARY" not in done.output
    for wrong in ("mysql://127.0.0.1/gated", "sqlite://", "://"):
        done = CliRunner().invoke(gated_hq, ["lanes", "--db", wrong])
        assert done.exit_code == 1 and done.output.startswith("gated-hq: "), done.output
    (tmp_path / "text.db").write_text("This is no database, and long enough to be taken for one." * 40)
    done = CliRunner().invoke(gated_hq, ["lanes", "--db", str(tmp_path / "text.db")])
    assert done.exit_code == 1 and "no database of SQLite" in done.output


def test_without_sqlalchemy_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sqlalchemy").mkdir()
    (tmp_path / "sqlalchemy" / "__init__.py").write_text("raise ModuleNotFoundError(name='sqlalchemy')\n")
    (tmp_path / "hq.db").touch()
    command = [sys.executable, "-m", "gated.hq.cli", "lanes", "--db", str(tmp_path / "hq.db")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "pip install 'gated[hq]'" in done.stderr, done.stderr
