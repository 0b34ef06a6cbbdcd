"""HQ's archive by itself, and what `gated-hq` shows of it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from gated.hq import keys
from gated.hq.archive import Archive, Fate
from gated.hq.cli import gated_hq
from gated.wire import link
from gated.wire.facts import AlarmRaised, Fact
from gated.wire.record import Head, Record
from tests.uplink_rig import CANARY, LANE, SITE, verdict

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NAMED = ("", 0)


class Hq:
    """An archive, a key, and a lane's stream to fill it from."""

    def __init__(self, folder: Path) -> None:
        keys.make(folder / "keys")
        self.key = folder / "keys" / "hq.key"
        self.private, self.public = self.key.read_bytes(), (folder / "keys" / "hq.pub").read_bytes()
        self.path = folder / "hq.db"
        self.archive = Archive(self.path)

    def chain(self, stream: str, *facts: Fact) -> list[Record]:
        head, made = Head.start(LANE, f"gen1-{stream}"), []
        for fact in facts:
            made.append(head.next(fact, NOON, "boot-1", self.public))
            head = head.after(made[-1])
        return made

    def take(self, record: Record | bytes, named: tuple[str, int] = NAMED) -> Fate:
        with self.archive.batch():
            payload = record if isinstance(record, bytes) else record.encode()
            return self.archive.take(SITE, LANE, payload, named, self.private).fate

    def command(self, *arguments: str, exit_code: int = 0) -> str:
        done = CliRunner().invoke(gated_hq, [*arguments[:2], "--db", str(self.path), *arguments[2:]])
        assert done.exit_code == exit_code, done.output
        return done.output


@pytest.fixture
def hq(tmp_path: Path) -> Iterator[Hq]:
    made = Hq(tmp_path)
    yield made
    made.archive.close()


def test_a_record_comes_back_exactly_as_it_came(hq: Hq) -> None:
    [record] = hq.chain("crossing", verdict(1))
    assert hq.take(record) is Fate.STORED
    again = hq.archive.record(LANE, record.stream_id, 1)
    assert again == record and again is not None and again.encode() == record.encode()


def test_what_was_not_committed_was_not_taken(hq: Hq) -> None:
    [record] = hq.chain("alarm", AlarmRaised("help"))
    with pytest.raises(KeyError), hq.archive.batch():
        assert hq.archive.take(SITE, LANE, record.encode(), NAMED, hq.private).fate is Fate.STORED
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
    hq.archive.db.execute("UPDATE records SET clear = replace(clear, 'fire', 'help') WHERE seq = 2")
    assert f"{LANE} gen1-alarm 3: does not go on" in hq.command("records", "verify", exit_code=1)
    hq.archive.db.execute("DELETE FROM records WHERE seq = 2")
    assert "records before it are missing" in hq.command("records", "verify", exit_code=1)


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
    with hq.archive.batch():
        hq.archive.born(SITE, LANE, link.Birth("s1", "boot-1", NOON, "0.1", ()), False)
        hq.archive.told(SITE, LANE, link.Telemetry("s1", "boot-1", NOON, "p", True, "ok", 7, 3.0, 0, 0))
    [lane] = json.loads(CliRunner().invoke(gated_hq, ["lanes", "--db", str(hq.path), "--json"]).output)
    assert (lane["up"], lane["telemetry"]["pending"]) == (True, 7)
    with hq.archive.batch():
        assert not hq.archive.died(SITE, LANE, link.Death("s0", "lost"))
        assert hq.archive.died(SITE, LANE, link.Death("s1", "lost"))
    shown = CliRunner().invoke(gated_hq, ["lanes", "--db", str(hq.path)]).output
    assert f"{SITE}/{LANE}" in shown and "down (lost)" in shown


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(gated_hq, ["lanes", "--db", str(tmp_path / "none.db")])
    assert done.exit_code == 1 and "no such file" in done.output and not (tmp_path / "none.db").exists()
