"""Replay of a journal that a lane in virtual time wrote: the same commands, or the first that differs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from gated.cli import gated
from gated.config import ConfigError, load
from gated.daemon.policykept import FOLDER
from gated.daemon.replay import replay
from gated.lane import events as ev
from gated.lane import machine
from gated.lane.core import Core, State
from gated.lane.moves import refer
from gated.store.cachefile import path_of
from gated.store.db import LaneDb
from gated.store.sql import StoreError
from tests.canaries import Canary, needles
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import sim_folder
from tests.hw_sim.upsets import Planned, Upset, befall
from tests.test_daemon_app import Watched


@pytest.fixture(scope="module")
def lived() -> Iterator[tuple[Watched, Path]]:
    """A lane that served passengers, was killed once, and whose disk refused for a while."""
    with sim_folder() as folder, capture_logs():
        lane = Watched(5, Topology.MANTRAP, folder, passengers=6)
        upsets = (Planned(20.0, Upset.CRASH, 5.0), Planned(60.0, Upset.DISK_FULL, 8.0))
        lane.upsets = lambda _: [befall(each, lane) for each in upsets]
        virtual.run(lane.run())
        yield lane, folder


@pytest.fixture
def copy(lived: tuple[Watched, Path], tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    shutil.copytree(lived[1], tmp_path / "lane")
    return tmp_path / "lane"


def test_every_step_gives_the_same_commands_again(lived: tuple[Watched, Path]) -> None:
    lane, folder = lived
    result = replay(folder / "lane.db", load(folder / "lane.toml"))
    assert result.difference is None
    assert result.boots == 2
    # What the killed process had not yet written is not there; everything else is.
    assert len(lane.log) - 50 < result.events <= len(lane.log)


@pytest.mark.parametrize("topology", [Topology.SINGLE, Topology.BIDIRECTIONAL])
def test_so_it_does_for_every_topology(topology: Topology) -> None:
    with sim_folder() as folder, capture_logs():
        lane = Watched(2, topology, folder, passengers=6)
        virtual.run(lane.run())
        result = replay(folder / "lane.db", load(folder / "lane.toml"))
        assert (result.difference, result.boots, result.events) == (None, 1, len(lane.log))


def test_a_machine_that_decides_otherwise_is_shown_without_anybodys_data(
    lived: tuple[Watched, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, folder = lived

    def suspect(core: Core, event: ev.FaceCompared, now: ev.Now) -> None:
        refer(core, "looks_suspicious", now)

    monkeypatch.setitem(machine.TABLE[State.MATCHING], ev.FaceCompared, suspect)
    result = replay(folder / "lane.db", load(folder / "lane.toml"))
    assert result.difference is not None
    events = [event for event, _, _ in lane.log]
    at = next(k for k, event in enumerate(events) if isinstance(event, ev.FaceCompared))
    starts = [k for k, event in enumerate(events[:at]) if isinstance(event, ev.Started)]
    then, now = result.difference.split("; now ")
    entry = at - starts[-1] + 2  # the policy's own event comes before `Started`
    assert then.startswith(f"boot boot{len(starts):04}, entry {entry}, FaceCompared(ticket=")
    assert ": then ReadFlags(" in then
    assert "CallOfficer(" in now
    for enrolment in lane.world.cast.enrolments:
        paper = enrolment.paper
        for text in (paper.number, paper.surname, paper.birth.isoformat()):
            if len(text) >= 6:
                assert not [n for n in needles(Canary("x", text)) if n in result.difference.encode()]
    assert "looks_suspicious" not in result.difference, "why somebody was refused is nobody's business"


def test_a_machine_that_fails_is_a_difference_too(lived: tuple[Watched, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(core: Core, event: ev.RecordFound, now: ev.Now) -> None:
        raise KeyError(event.traveller.birth)

    monkeypatch.setitem(machine.TABLE[State.CHECKING], ev.RecordFound, broken)
    result = replay(lived[1] / "lane.db", load(lived[1] / "lane.toml"))
    assert result.difference is not None
    assert "now the machine fails: KeyError at " in result.difference
    assert "tests/test_replay.py" in result.difference
    assert "datetime.date(" not in result.difference, "the birth is nobody's business"


def other_policy(folder: Path) -> None:
    """The copy that the lane kept says something else."""
    (policy,) = (folder / FOLDER).iterdir()
    policy.write_text(otherwise(policy.read_text()))


def otherwise(policy: str) -> str:
    """A policy by which nobody passes, and no examples that say otherwise."""
    return policy.replace("age_years_min = 10", "age_years_min = 99").split("[[examples]]")[0]


def test_a_changed_policy_is_found(copy: Path) -> None:
    other_policy(copy)
    result = replay(copy / "lane.db", load(copy / "lane.toml"))
    assert result.difference is not None
    assert "RequestOpen" in result.difference


def test_what_was_installed_meanwhile_changes_nothing(copy: Path) -> None:
    policy = copy / "policy.toml"
    policy.write_text(otherwise(policy.read_text()).replace("edition = 4", "edition = 5"))
    assert replay(copy / "lane.db", load(copy / "lane.toml")).difference is None


def test_a_policy_that_is_nowhere_says_so(copy: Path) -> None:
    (kept,) = (copy / FOLDER).iterdir()
    kept.unlink()
    assert replay(copy / "lane.db", load(copy / "lane.toml")).difference is None, "the installed one is the same"
    policy = copy / "policy.toml"
    policy.write_text(policy.read_text().replace('version = "', 'version = "x'))
    with pytest.raises(StoreError, match=r"no_policy: the journal names policy tw-2026.4, edition 4: .* is not there"):
        replay(copy / "lane.db", load(copy / "lane.toml"))


def test_another_topology_is_found(copy: Path) -> None:
    path = copy / "lane.toml"
    path.write_text(path.read_text().replace('topology = "mantrap"', 'topology = "single"'))
    assert replay(copy / "lane.db", load(path)).difference is not None


def test_the_wrong_key_opens_nothing(copy: Path) -> None:
    wrong = copy / "wrong.key"
    wrong.write_bytes(bytes(32))
    with pytest.raises(StoreError, match=r"wrong_key|journal_altered"):
        replay(copy / "lane.db", load(copy / "lane.toml"), wrong)
    wrong.write_bytes(bytes(31))
    with pytest.raises(ConfigError, match="must be 32 bytes, found 31"):
        replay(copy / "lane.db", load(copy / "lane.toml"), wrong)


def edit(folder: Path, statement: str, *values: Any) -> None:
    db = LaneDb(folder / "lane.db")
    with db.transaction():
        db.sql.execute(statement, values)
    db.close()


def test_a_boot_whose_beginning_was_trimmed_is_passed_over(copy: Path, lived: tuple[Watched, Path]) -> None:
    whole = replay(lived[1] / "lane.db", load(lived[1] / "lane.toml"))
    edit(copy, "DELETE FROM journal WHERE boot = 'boot0001' AND n <= 3")
    result = replay(copy / "lane.db", load(copy / "lane.toml"))
    assert (result.difference, result.boots) == (None, 1)
    assert result.events < whole.events
    edit(copy, "DELETE FROM journal WHERE n <= 3")
    assert replay(copy / "lane.db", load(copy / "lane.toml")).boots == 0


def test_a_journal_that_was_altered_or_has_a_gap_says_so(copy: Path, lived: tuple[Watched, Path]) -> None:
    edit(copy, "DELETE FROM journal WHERE boot = 'boot0001' AND n = 5")
    with pytest.raises(StoreError, match="journal_gap"):
        replay(copy / "lane.db", load(copy / "lane.toml"))
    shutil.copy(lived[1] / "lane.db", copy / "lane.db")
    edit(copy, "UPDATE journal SET mono = mono + 1 WHERE boot = 'boot0001' AND n = 5")
    with pytest.raises(StoreError, match=r"journal_altered|wrong_key"):
        replay(copy / "lane.db", load(copy / "lane.toml"))


def test_what_is_no_journal_is_refused(copy: Path) -> None:
    (copy / "text.db").write_text("no database")
    with pytest.raises(StoreError):
        replay(copy / "text.db", load(copy / "lane.toml"))
    with pytest.raises(StoreError, match="not_ours"):
        replay(path_of(copy, "people", 1), load(copy / "lane.toml"))


def test_the_command_says_the_same_and_ends_with_one_for_a_difference(copy: Path) -> None:
    arguments = ["--config", str(copy / "lane.toml"), "replay", str(copy / "lane.db")]
    same = CliRunner().invoke(gated, arguments)
    assert same.exit_code == 0
    assert "of 2 starts: the same commands again" in same.output
    other_policy(copy)
    other = CliRunner().invoke(gated, arguments)
    assert other.exit_code == 1
    assert "then a difference" in other.output
