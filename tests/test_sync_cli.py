"""`gated cache` and `gated sync`: what they say to people and to programs, with a sync that runs and without one."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gated.cli import gated
from gated.cli.cacheviews import age, share, since, size
from gated.store.cachefile import generations
from gated.wire import bundle
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.seal import public_of
from tests.sync_rig import altered, place, row
from tests.test_sync_apply import spoil_row
from tests.test_sync_service import Process
from tests.uplink_rig import ROOT, eventually


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    made.options["interval_s"] = 3600.0
    made.configure()
    yield made
    made.close()


def run(process: Process, *arguments: str) -> Result:
    return CliRunner().invoke(gated, ["--config", str(process.toml), *arguments])


def started(process: Process) -> Process:
    process.start()
    eventually(process.current, 20)
    return process


def test_status_is_a_table_of_both_partitions(process: Process) -> None:
    started(process)
    said = run(process, "cache", "status")
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0].split() == ["partition", "state", "as", "of", "age", "rows", "generation", "epoch", "segment"]
    people = next(line for line in lines if line.startswith("people"))
    assert people.split()[-4:] == ["300", "1", "1", "1"]
    assert any(line.startswith("HQ asked") for line in lines)
    found = json.loads(run(process, "cache", "status", "--json").output)
    assert found["sync_runs"] and found["partitions"][CONTROL]["rows"] == 20 and found["refused"] == {}


def test_status_names_what_was_refused_and_what_to_do(process: Process) -> None:
    started(process)
    process.hq.add(PEOPLE, 1, edition=2)
    process.hq.sign()
    altered(process.hq.folder / bundle.segment_path(PEOPLE, 1, 2))
    asked = run(process, "cache", "sync")
    assert asked.exit_code == 1 and "people: altered" in asked.output
    said = run(process, "cache", "status")
    assert said.exit_code == 1
    assert "people: altered for " in said.output and "refused since the sync began: altered 1" in said.output


def test_without_a_sync_the_files_still_tell(process: Process) -> None:
    nothing = run(process, "cache", "status")
    assert nothing.exit_code == 69 and "systemctl start gated-sync" in " ".join(nothing.output.split())
    started(process).end()
    said = run(process, "cache", "status", "--json")
    assert said.exit_code == 69
    found = json.loads(said.output)
    assert not found["sync_runs"] and found["partitions"][PEOPLE]["rows"] == 300
    assert run(process, "cache", "show").exit_code == 0
    for command in (("sync",), ("verify",)):
        away = run(process, "cache", *command)
        assert away.exit_code == 69 and "systemctl start gated-sync" in away.output


def test_show_lists_files_generations_and_signed_targets(process: Process) -> None:
    process.hq.sign(also={"policy/tw.toml": b"rules = 1\n"})
    started(process)
    eventually((process.store / "signed/policy/tw.toml").exists)
    (process.store / "cache-people-9.db.bad").write_bytes(b"?" * 2048)
    said = run(process, "cache", "show")
    assert said.exit_code == 1 and "set aside" in said.output
    files = {each["file"]: each for each in json.loads(run(process, "cache", "show", "--json").output)["files"]}
    assert files["cache-people-1.db"]["what"] == "in use" and files["cache-people-1.db"]["rows"] == 300
    assert files["signed/policy/tw.toml"]["bytes"] == 10


def test_sync_asks_now_and_stays_until_it_is_current(process: Process) -> None:
    started(process)
    for number in range(5):
        process.hq.add(PEOPLE, number, edition=3)
    process.hq.sign()
    said = run(process, "cache", "sync")
    assert said.exit_code == 0 and said.output.splitlines()[-1] == "current: people at segment 6, control at segment 1"
    assert process.current()


def test_verify_finds_and_repairs(process: Process) -> None:
    process.hq.table(PEOPLE)
    process.hq.table(CONTROL)
    process.hq.sign()
    started(process)
    good = run(process, "cache", "verify")
    assert good.exit_code == 0 and "people: all 4096 buckets that could be compared are HQ's" in good.output
    spoil_row(generations(process.store, PEOPLE)[1], 9, row(9, 9))
    bad = run(process, "cache", "verify")
    assert bad.exit_code == 1 and "people: 1 of 4096 buckets differ; nothing was changed" in bad.output
    mended = run(process, "cache", "verify", "--repair", "--json")
    assert mended.exit_code == 1
    assert json.loads(mended.output)[0]["differing"] == [bundle.bucket_of(place(9))]
    assert run(process, "cache", "verify").exit_code == 0 and process.current()


def test_a_key_is_made_once_and_for_its_owner_alone(process: Process, tmp_path: Path) -> None:
    out = tmp_path / "lane-07.key"
    said = run(process, "cache", "key", "--out", str(out))
    assert said.exit_code == 0, said.output
    secret = out.read_bytes()
    assert len(secret) == 32 and stat.S_IMODE(out.stat().st_mode) == 0o600
    assert (tmp_path / "lane-07.pub").read_bytes() == public_of(secret)
    assert public_of(secret).hex() in said.output and secret.hex() not in said.output
    assert "gated-hq lane add tpe-t1/lane-07 --key lane-07.pub" in said.output
    again = run(process, "cache", "key", "--out", str(out))
    assert again.exit_code == 1 and "never overwritten" in again.output and out.read_bytes() == secret
    out.unlink()
    assert run(process, "cache", "key", "--out", str(out)).exit_code == 1 and not out.exists()
    assert run(process, "cache", "key", "--out", str(tmp_path / "none/x.key")).exit_code == 1


def test_a_lane_without_sync_in_its_configuration_is_told_so(process: Process) -> None:
    process.toml.write_text(process.toml.read_text().partition("[sync]")[0])
    for command in (["cache", "status"], ["cache", "sync"], ["cache", "verify"], ["sync"]):
        said = run(process, *command)
        assert said.exit_code == 78 and "no section [sync]" in said.output


def test_gated_sync_runs_the_process(process: Process) -> None:
    command = [sys.executable, "-c", "from gated.cli import main; main()", "--config", str(process.toml), "sync"]
    process.child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    eventually(process.current, 20)
    assert process.end() == 0


def test_ages_and_sizes_in_words() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert [age(each) for each in (5, 119, 125, 7300, 86400 * 3)] == ["5 s", "119 s", "2 min", "2 h", "3 days"]
    assert since((now - timedelta(minutes=5)).isoformat(), now) == "5 min"
    assert since("1970-01-01T00:00:00+00:00", now) == since(None, now) == "never"
    assert [size(each) for each in (999, 1500, 12_345_678, 5_000_000_000)] == ["999 B", "1.5 kB", "12.3 MB", "5.0 GB"]
    assert share(1, 4) == "25 %" and share(1200, 0) == "1,200"
