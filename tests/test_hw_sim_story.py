"""The story of the demonstration: what HQ changes, the lane knows in time (slow); and that the story judges rightly."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from gated.icao import mrz
from gated.wire.rows import PersonRow
from tests.data import shared_data
from tests.hw_sim.cachefiles import CacheFiles
from tests.hw_sim.cast import Truth
from tests.hw_sim.crew import ROOT, Crew, CrewError
from tests.hw_sim.gallery import Person
from tests.hw_sim.story import Lookout, Scene, judged
from tests.hw_sim.visits import VISITS, Player, Role, papers, passengers, photos
from tests.networks import networks

TODAY = date(2026, 3, 2)
NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
PRIVATE = bytes(range(32))
PLAYERS = tuple(Player(role, k % 2, k % 2) for k, role in enumerate(Role))


def test_a_renewed_passport_is_the_same_persons() -> None:
    for role in Role:
        first, *later = papers(role, 3, 7, TODAY)
        for paper in later:
            document = mrz.parse(paper.lines)
            assert (document.number, document.personal_number) == (paper.number, first.personal_number)
            assert (paper.surname, paper.birth, paper.sex) == (first.surname, first.birth, first.sex)
        assert len({first.number, *(paper.number for paper in later)}) == 3
    assert len({papers(role, 3, 7, TODAY)[0].personal_number for role in Role}) == len(Role), "one may play several"


def test_everybody_of_the_story_comes_with_their_own_photograph_and_paper() -> None:
    everybody = [Person("anna", Path("a0"), (Path("a1"), Path("a2"))), Person("ben", Path("b0"), (Path("b1"),) * 2)]
    made, shown = passengers(PLAYERS, 7, TODAY, 40), photos(PLAYERS, everybody, 40)
    assert list(made) == list(VISITS) and {each.take for each in made.values()} == set(shown) == set(range(40, 51))
    assert not set(shown.values()) & {person.enrolled for person in everybody}
    for name, passenger in made.items():
        assert shown[passenger.take] in everybody[passenger.person].shown
        assert passenger.expected is (VISITS[name].truth is Truth.GENUINE) is (not VISITS[name].reason)
    assert made["renewed"].paper.personal_number == made["unlisted"].paper.personal_number
    assert made["banned"].paper == made["lifted"].paper
    again = passengers(PLAYERS, 7, TODAY, 40)
    assert [vars(each) for each in again.values()] == [vars(each) for each in made.values()]


def ticket(name: str, decision: str, reason: str, by: str | None = None) -> dict[str, Any]:
    return {"name": name, "decision": decision, "reason": reason, "by": by}


GRANTED = ticket("enrolled", "grant", "all_rules_kept")
KNOWN = Scene(1, "", "enrolled", 1.0, 9.9, 10.0)
BANNED = Scene(3, "", "banned", 1.0, 2.0, 5.0)


@pytest.mark.parametrize(
    ("scene", "tickets", "right"),
    [
        (KNOWN, [GRANTED], True),
        (KNOWN, [ticket("ordinary", "grant", "all_rules_kept")], False),
        (KNOWN, [ticket("enrolled", "refer", "face_matches")], False),
        (KNOWN, [ticket("enrolled", "grant", "face_matches", by="officer-sim")], False),
        (Scene(1, "", "enrolled", 1.0, 10.1, 10.0), [GRANTED], False),
        (Scene(1, "", "enrolled", 1.0, None, 10.0), [GRANTED], False),
        (Scene(1, "", "enrolled", well=False), [GRANTED], False),
        (BANNED, [ticket("banned", "refer", "holder_is_not_flagged")], True),
        (BANNED, [ticket("banned", "refer", "face_matches")], False),
        (BANNED, [ticket("banned", "grant", "all_rules_kept")], False),
        (BANNED, [ticket("banned", "grant", "all_rules_kept"), ticket("banned", "refer", "two_persons")], False),
    ],
)
def test_a_scene_is_right_only_in_time_and_with_the_right_verdict(
    scene: Scene, tickets: list[dict[str, Any]], right: bool
) -> None:
    assert judged(scene, tickets)["right"] is right


def test_the_lookout_sees_what_is_applied_and_what_comes_in_a_new_generation(tmp_path: Path) -> None:
    person = PersonRow(subject=1, category="national", birth=date(1990, 1, 1), sex="F")
    with Lookout(tmp_path, PRIVATE, "demo/lane-1") as lookout:
        enrolled = lookout.expect(lambda cache: cache.by_document("TWN", "300000001") is not None)
        banned = lookout.expect(lambda cache: bool(cache.flags(1)))
        renewed = lookout.expect(lambda cache: cache.by_document("TWN", "300000002") is not None)
        with CacheFiles(tmp_path, PRIVATE, "demo/lane-1", built=NOW) as cache:
            cache.put_person(person)
            cache.put_document("TWN", "300000001", 1)
        assert enrolled.there.wait(10.0) and enrolled.mono <= time.monotonic()
        assert not banned.there.is_set()
        with CacheFiles.changing(tmp_path, PRIVATE, "demo/lane-1") as cache:
            cache.put_flags(1, frozenset({"exit_ban"}))
        assert banned.there.wait(10.0) and not renewed.there.is_set()
        with CacheFiles(tmp_path, PRIVATE, "demo/lane-1", built=NOW, generation=2) as cache:
            cache.put_person(person)
            cache.put_document("TWN", "300000002", 1)
        assert renewed.there.wait(10.0)


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        assert crew.done("fine", [sys.executable, "-c", "print(7)"]) == "7\n"
        with pytest.raises(CrewError, match="bad ended with code 3: no such lane"):
            crew.done("bad", [sys.executable, "-c", "import sys; print('no such lane', file=sys.stderr); sys.exit(3)"])
        with pytest.raises(CrewError, match=r"slow did not end within 0\.2 s"):
            crew.done("slow", ["sleep", "60"], within_s=0.2)


# -- the whole of it ----------------------------------------------------------------------------------------------


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the demonstration puts what is to be gone afterwards: a short name, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield Path(folder)


def start(scratch: Path, *options: str) -> "subprocess.Popen[str]":
    images = shared_data() / "faces" / "images"
    networks()
    command = [sys.executable, "-m", "tests.hw_sim", "demo", "--story", "--people", str(images), *options]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def left_behind(scratch: Path) -> list[str]:
    """The processes of a demonstration that live, and the files of it."""
    mark = f"TMPDIR={scratch}\0".encode()
    found = [str(path.relative_to(scratch)) for path in scratch.rglob("*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_hq_changes_reaches_the_next_passenger_in_time(scratch: Path, tmp_path: Path) -> None:
    """Must show 1 of issue 4, by HQ's own commands, broker, web server, sync and lane."""
    out = tmp_path / "out"
    ran = start(scratch, "--passengers", "1", "--seed", "7", "--speed", "3", "--json", "--out", str(out))
    said, complaints = ran.communicate(timeout=580)
    assert ran.returncode == 0, complaints or said
    result = json.loads(said)
    assert {scene["visit"] for scene in result["story"]} == set(VISITS)
    assert {scene["number"] for scene in result["story"]} == set(range(1, 8))
    assert all(scene["right"] for scene in result["story"]), result["story"]
    assert result["clean"] and result["wrong_grants"] == result["records_lost"] == result["doors_unsafe"] == 0
    assert result["passengers"] == 1 + len(VISITS) and result["cache_control_segments"] >= 4
    assert left_behind(scratch) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_story_that_is_interrupted_leaves_nothing_behind(scratch: Path) -> None:
    ran = start(scratch, "--passengers", "1", "--speed", "3")
    assert ran.stdout is not None
    for line in ran.stdout:
        if "HQ enrols urgent" in line:
            break
    ran.send_signal(signal.SIGTERM)
    said, complaints = ran.communicate(timeout=60)
    assert ran.returncode == 130, complaints or said
    assert left_behind(scratch) == []
