"""`python -m tests.hw_sim scan`: a demonstration, and then a search of every file it left for its passengers.

Canaries are everybody's names, numbers, zones and templates in every usual encoding (`tests/canaries.py`). A search
that finds nothing proves something only beside one that does: an unsealed database with the same people is searched,
and every canary must be found there.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gated.config import load
from gated.hq import keys
from gated.store.cache import Enrolments
from gated.wire.rows import CONTROL, PEOPLE
from tests.canaries import NEEDLE_MIN, Canary, found
from tests.hw_sim import demo, visits
from tests.hw_sim.cachefiles import newest
from tests.hw_sim.gallery import people
from tests.hw_sim.papers import Paper
from tests.hw_sim.site import Plan

PLACES = (
    *("store", "broker", "logs", "repo", "publish.db", "publish.db-wal"),
    *("hq.db", "hq.db-wal", "hq.db-shm", "registers.db", "registers.db-wal"),
)
"""What a lane, a broker and HQ keep, and what HQ publishes. The simulator's own plan is not among them: it has to know
who comes."""


def canaries_of(folder: Path) -> list[Canary]:
    """Everybody whom the demonstration in `folder` enrolled or showed, and the templates in its cache.

    Raises `ValueError` where its cache knows none of them: a search for somebody else would find nothing."""
    plan = Plan.read(folder)
    made = plan.show(people(Path(plan.people))).cast
    papers = [enrolment.paper for enrolment in made.enrolments] + [p.paper for p in made.passengers]
    papers += [p.other_paper for p in made.passengers if p.other_paper is not None]
    for player in plan.players:
        papers += visits.papers(player.role, player.person, plan.seed, plan.day)
    by_number = {paper.number: paper for paper in papers}
    config = load(folder / "lane.toml")
    lane_private, lane = keys.secret(config.keys.cache), f"{config.identity.site}/{config.identity.id}"
    cache = Enrolments(*(newest(config.store.dir, partition, lane_private, lane) for partition in (PEOPLE, CONTROL)))
    canaries = []
    known = 0
    try:
        for number, paper in by_number.items():
            canaries += _of_paper(paper)
            row = cache.by_document("TWN", number)
            if row is not None:
                known += 1
                canaries += [Canary(f"template of {number}", row.face)] if row.face is not None else []
                canaries += [Canary(f"{f.position} of {number}", f.template) for f in row.fingers]
    finally:
        cache.close()
    if not known:
        raise ValueError(f"{folder}: the lane's cache knows nobody whom this demonstration enrolled")
    return [canary for canary in canaries if len(canary.plain) >= NEEDLE_MIN]


def _of_paper(paper: Paper) -> list[Canary]:
    return [
        Canary(f"number {paper.number}", paper.number),
        Canary(f"personal number of {paper.number}", paper.personal_number),
        Canary(f"name of {paper.number}", f"{paper.surname} {paper.given_names}"),
        *(Canary(f"line {n} of {paper.number}", line.rstrip("<")) for n, line in enumerate(paper.lines, 1)),
    ]


def control(folder: Path, canaries: Sequence[Canary]) -> Path:
    """A database that seals nothing, with the same people in it."""
    path = folder / "unsealed.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE people (what TEXT, value)")
        connection.executemany("INSERT INTO people VALUES (?, ?)", [(c.name, c.plain) for c in canaries])
    return path


def search(folder: Path) -> dict[str, Any]:
    """Search what the demonstration in `folder` left, and the unsealed control."""
    canaries = canaries_of(folder)
    places = [folder / name for name in PLACES if (folder / name).exists()]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    hits = found(canaries, *places)
    with tempfile.TemporaryDirectory() as scratch:
        seen = {hit.canary for hit in found(canaries, control(Path(scratch), canaries))}
    return {
        "people": sum(canary.name.startswith("number ") for canary in canaries),
        "canaries": len(canaries),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "found": [f"{hit.canary} as {hit.encoding} in {hit.path.relative_to(folder)}" for hit in hits],
        "found_in_unsealed_control": len(seen),
        "clean": not hits and len(seen) == len(canaries),
    }


def main(given: Sequence[str]) -> int:
    """Exit code 0: nothing of anybody was found, and everything in the control; 1: it was, or was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.hw_sim scan", description=__doc__)
    parser.add_argument("--folder", type=Path, help="what demo --out left; otherwise a demonstration is run now")
    parser.add_argument("--passengers", type=int, default=6, help="of the demonstration that is run (default 6)")
    parser.add_argument("--people", type=Path, help="photographs of its people, as for demo")
    chosen = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="gated-scan-") as scratch:
        folder = chosen.folder
        if folder is None:
            folder = Path(scratch) / "demo"
            asked = ["--passengers", str(chosen.passengers), "--speed", "2", "--out", str(folder), "--json"]
            if chosen.people is not None:
                asked += ["--people", str(chosen.people)]
            code = demo.main(asked)
            if code == 2:
                return code
        answer = search(folder)
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0 if answer["clean"] else 1
