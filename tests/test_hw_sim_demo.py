"""The demonstration: its people, its pictures, its processes, and (slow) the whole of it."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gated.icao import mrz
from gated.wire.facts import Holder, TicketSettled, VerdictReached
from models.loader import CACHE
from tests.data import shared_data
from tests.fprint import needs_libfprint
from tests.hw_sim import scan
from tests.hw_sim.cast import Proof, Truth
from tests.hw_sim.crew import ROOT, Crew, CrewError
from tests.hw_sim.gallery import FINGERED_MAX, GalleryError, candidates, paper_of, people, proofs_of, show
from tests.hw_sim.glasses import READERS
from tests.hw_sim.papers import passport, smudged
from tests.hw_sim.records import settled
from tests.hw_sim.timeline import draw
from tests.networks import networks

TODAY = date(2026, 3, 2)


def folder_of(tmp_path: Path, **photographs: int) -> Path:
    for name, number in photographs.items():
        (tmp_path / name).mkdir()
        for k in range(number):
            (tmp_path / name / f"{k}.jpg").write_bytes(b"")
    return tmp_path


def test_papers_are_valid_documents_and_smudged_ones_are_not() -> None:
    import random

    for k in range(50):
        rng = random.Random(k)
        paper = passport(rng, 1, TODAY, age=30 if k % 2 else None, expired=k % 5 == 0)
        document = mrz.parse(paper.lines)
        assert (document.number, document.surname) == (paper.number, paper.surname)
        assert document.personal_number == paper.personal_number
        assert (document.expires_on(TODAY) < TODAY) is (k % 5 == 0)
        with pytest.raises(mrz.MrzError):
            mrz.parse(smudged(rng, paper.lines))


def test_the_enrolled_photograph_is_never_shown(tmp_path: Path) -> None:
    everybody = people(folder_of(tmp_path, anna=3, ben=2, carl=1, dora=5, empty=0))
    assert [person.enrolled is not None for person in everybody] == [True, True, False, True]
    known = candidates(everybody, 5)
    assert sorted(known) == [0, 1, 3]
    for seed in range(20):
        made = show(everybody, known, seed, 24, TODAY)
        enrolled = {person.enrolled for person in everybody}
        assert not enrolled & {*made.photos.values(), *made.strangers}
        truths = [passenger.truth for passenger in made.cast.passengers]
        assert truths.count(Truth.IMPOSTOR) >= 6 and truths.count(Truth.GENUINE) > 12
        for passenger in made.cast.passengers:
            own = made.photos[passenger.take].parent.name == everybody[passenger.paper.person].name
            assert own is (passenger.truth is not Truth.IMPOSTOR), "an impostor shows somebody else's document"
    again = show(everybody, known, 3, 24, TODAY)
    same = show(everybody, known, 3, 24, TODAY)
    assert [p.paper for p in again.cast.passengers] == [p.paper for p in same.cast.passengers]
    assert paper_of(1, 3, TODAY) == paper_of(1, 3, TODAY) != paper_of(1, 4, TODAY)


def test_people_come_with_their_fingers_where_the_lane_has_a_reader(tmp_path: Path) -> None:
    everybody = people(folder_of(tmp_path, **{f"p{k:02}": 3 for k in range(30)}))
    known = candidates(everybody, 5)
    lookalikes, hurt, seen = 0, 0, Counter[Proof]()
    for seed in range(12):
        made = show(everybody, known, seed, 40, TODAY, fingers=True)
        proofs = proofs_of(known, seed)
        again = show(everybody, known, seed, 40, TODAY, fingers=True)
        assert [vars(p) for p in made.cast.passengers] == [vars(p) for p in again.cast.passengers]
        assert made.cast.enrolments == again.cast.enrolments and made.photos == again.photos
        enrolled = {each.paper.number: each for each in made.cast.enrolments}
        assert sum(bool(each.fingers) for each in enrolled.values()) <= FINGERED_MAX
        for person in known:
            own = enrolled[paper_of(person, seed, TODAY, proofs[person]).number]
            seen[proofs[person]] += 1
            assert (own.category == "resident") is (proofs[person] is Proof.BOTH)
            assert own.face is (proofs[person] is not Proof.FINGERS)
            assert bool(own.fingers) is (proofs[person] is not Proof.FACE)
        hands = [p.hand for p in made.cast.passengers if p.hand is not None]
        assert len(set(hands)) == len(hands) and not set(hands) & set(range(len(everybody))), "nobody else's fingers"
        for passenger in made.cast.passengers:
            owner = enrolled.get(passenger.paper.number)
            assert (passenger.hand is not None) is (passenger.truth is Truth.LOOKALIKE)
            if passenger.truth is Truth.LOOKALIKE:
                assert owner is not None and owner.category == "resident" and passenger.person == owner.person
                lookalikes += 1
            if passenger.bandaged:
                assert owner is not None and owner.fingers and passenger.truth is Truth.GENUINE
                assert passenger.bandaged == {owner.fingers[0]}
                assert passenger.sure is owner.face, "one finger does not replace a face"
                hurt += 1
            else:
                assert passenger.sure
    assert lookalikes > 10 and hurt > 10 and set(seen) == set(Proof)
    without = show(everybody, known, 3, 40, TODAY)
    assert not any(each.fingers or each.category != "national" for each in without.cast.enrolments)
    assert not any(p.hand is not None or p.bandaged for p in without.cast.passengers)


def test_a_folder_that_cannot_serve_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="is not a folder"):
        people(tmp_path / "nowhere")
    with pytest.raises(GalleryError, match="one with two photographs"):
        people(folder_of(tmp_path, anna=1, ben=1))


def test_heads_grow_as_people_walk_up_and_no_picture_comes_twice(tmp_path: Path) -> None:
    from gated.biometrics.face import OnnxFaceEngine
    from gated.biometrics.quality import eye_px
    from tests.hw_sim.picture import Canvas, Cutter, NoFace

    if not (CACHE / "yunet.onnx").exists():
        pytest.skip("no networks: make models")
    photograph = shared_data() / "faces" / "images" / "Abdoulaye_Wade" / "Abdoulaye_Wade_0002.jpg"
    cut = Cutter(CACHE).cut(photograph)
    canvas, engine = Canvas(1), OnnxFaceEngine()
    apart = []
    for distance_m in (2.8, 2.0, 1.45):
        look = engine.look(canvas.compose([(cut, distance_m, 0.0)]))
        assert look.persons == 1 and look.face is not None
        apart.append(eye_px(look.face))
    assert apart == sorted(apart) and apart[-1] > 1.6 * apart[0]
    assert engine.look(canvas.compose([(cut, 3.7, 0.0)])).persons == 0, "at the reader nobody is near"
    assert engine.look(canvas.compose([(cut, 2.2, -0.4), (cut, 1.5, 0.3)])).persons == 2
    still = [canvas.compose([]) for _ in range(30)]
    assert all(np.any(a != b) for a, b in itertools.pairwise(still))
    with pytest.raises(NoFace):
        plain = tmp_path / "plain.png"
        cv2.imwrite(str(plain), np.full((64, 64, 3), 200, np.uint8))
        Cutter(CACHE).cut(plain)


def test_facts_become_one_settled_record_for_each_ticket() -> None:
    start = datetime(2026, 3, 2, 8, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    def verdict(ticket: int, decision: str, by: str | None = None) -> VerdictReached:
        return VerdictReached(
            ticket,
            decision,
            "face_differs" if decision == "refer" else "all_kept",
            "test",
            "exit",
            "A",
            opened=at(1),
            by=by,
            face="failed",
            face_score=0.31,
            holder=Holder(number="300000001"),
        )

    told = [
        (at(5), "g", verdict(1, "refer")),
        (at(9), "g", verdict(1, "grant", by="officer-sim")),
        (at(15), "g", TicketSettled(1, "crossed", 1, "grant", None, "exit", "A")),
        (at(20), "g", TicketSettled(2, "not_crossed")),
        (at(21), "h", TicketSettled(2, "not_crossed")),
    ]
    first, second, other = settled(told, lambda utc: (utc - start).total_seconds())
    assert (first.decision, first.reason, first.by, first.number) == (
        "grant",
        "face_differs",
        "officer-sim",
        "300000001",
    )
    assert (first.opened, first.recorded, first.settled, first.score) == (1, 9, 15, 0.31)
    assert second.decision is None and second.recorded is None
    assert (second.ticket, second.generation) == (2, "g") and other.generation == "h"


def test_the_timeline_is_a_picture(tmp_path: Path) -> None:
    trace: dict[str, Any] = {
        "came": {"p001": 0.0},
        "went": {"p001": 20.0},
        "crossed": [(5.0, "p001", "a", True), (12.0, "p001", "b", False)],
        "leaves": {"a": [(0.0, True), (4.0, False), (7.0, True)], "b": [(10.0, False), (14.0, True)]},
        "requests": {"a": [3.9], "b": [9.9]},
        "attempts": [{"at": 3.0, "name": "p001", "entitled": True, "note": "genuine, plain"}],
        "tickets": [{"name": "p001", "recorded": 9.0, "decision": "grant", "opened": 3.1}],
    }
    zero = dict.fromkeys(("wrong_grants", "wrong_referrals", "records_lost", "doors_unsafe", "referred"), 0)
    draw(trace, {"passengers": 1, "granted": 1, **zero}, tmp_path / "timeline.png")
    picture = cv2.imread(str(tmp_path / "timeline.png"))
    assert picture is not None and picture.shape[1] > 1000


def test_a_crew_leaves_nobody_behind_and_says_who_failed(tmp_path: Path) -> None:
    with Crew(tmp_path, end_s=0.3) as crew:
        stubborn = crew.start(
            "stubborn", [sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
        )
        polite = crew.start("polite", ["sleep", "60"])
        crew.start("broken", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
        with pytest.raises(CrewError, match="broken ended with code 1; its log:\nno such thing"):
            crew.wait("broken", lambda: False, 10.0)
        del crew.processes["broken"]
        assert stubborn.poll() is None and polite.poll() is None
    assert stubborn.poll() is not None and polite.poll() is not None


def test_processes_die_with_the_demonstration(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.hw_sim.crew import Crew\n"
        f"crew = Crew(Path({str(tmp_path)!r}))\n"
        "print(crew.start('child', ['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until = time.monotonic() + 5.0
    while time.monotonic() < until and Path(f"/proc/{child}/comm").read_text() != "sleep\n":
        time.sleep(0.01)  # it is still being tied to us
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 5.0
    while time.monotonic() < until and _lives(child):
        time.sleep(0.05)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--passengers", "0"], "--passengers must be 1 to 5000"),
        (["--speed", "99"], "--speed must be 0.5 to 10"),
        (["--finger-reader", "zmf"], "invalid choice: 'zmf'"),
        (["--people", "/nowhere/at/all"], "/nowhere/at/all is not a folder"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: list[str], says: str) -> None:
    ran = demo(*arguments, timeout_s=60)
    assert ran.returncode == 2 and says in ran.stderr and "Traceback" not in ran.stderr and not ran.stdout


def demo(*arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.hw_sim", "demo", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=timeout_s)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_demonstration_is_clean(tmp_path: Path) -> None:
    """Must show 2: real networks, broker and processes, over people of the test data."""
    images = shared_data() / "faces" / "images"
    out = tmp_path / "out"
    ran = demo(
        "--passengers",
        "8",
        "--seed",
        "7",
        "--speed",
        "3",
        "--json",
        "--people",
        str(images),
        "--out",
        str(out),
        timeout_s=380,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["passengers"] == 8 and 4 * result["impostors"] >= 8
    assert result["wrong_grants"] == result["records_lost"] == result["doors_unsafe"] == 0
    assert result["cache_people_rows"] > 0, "HQ published it, and sync fetched it"
    assert result["granted"] >= 0.7 * result["genuine"] and (out / "timeline.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("reader", [name for name, model in READERS.items() if model is not None])
def test_every_fingerprint_reader_clears_passengers(reader: str) -> None:
    """Must show 3: drivers over pty, socket back end and libfprint's own virtual_image."""
    if reader == "libfprint":
        needs_libfprint()
    networks()
    images = shared_data() / "faces" / "images"
    options = ("--passengers", "6", "--seed", "3", "--speed", "2", "--finger-reader", reader)
    ran = demo(*options, "--json", "--people", str(images), timeout_s=380)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["clean"], result["explanations"]
    assert result["passengers"] == 6
    assert result["granted_with_finger"] >= 1
    assert result["wrong_grants"] == result["records_lost"] == result["doors_unsafe"] == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_passenger_is_in_any_file_after_a_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    networks()
    assert scan.main(["--passengers", "4"]) == 0, capsys.readouterr().out
