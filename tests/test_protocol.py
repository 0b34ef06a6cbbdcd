"""The protocol between lane and HQ in simulation: seeds hold, are the same twice, and planted mistakes are found."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from gated.hq.sessions import GONE
from tests.hw_sim.planted_protocol import MISTAKES, Mistake, planted
from tests.hw_sim.protocol_run import FAMILIES, Run, run_seed

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_all_is_well_again_after_the_chaos(seed: int) -> None:
    outcomes = [run_seed(each, 120) for each in (seed, seed + 10, seed + 20)]
    assert [(each.seed, each.broken) for each in outcomes if each.broken] == []
    assert all(each.counts["records"] for each in outcomes)


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (4, "uplink.db lost: what was acknowledged once is no gap"),
        (6, "a record that HQ's code fails on, before those before it came, is not set aside yet"),
        (16, "where the lane's oldest record stands for dropped ones, none before it are missing"),
        (18, "behind a hole a record that stands for dropped ones breaks no chain"),
        (21, "a held record, and then the one that took its place, are no edit"),
        (48, "HQ went back and the lane's birth was lost: it is asked for"),
        (54, "HQ had a record that the lane dropped since: no error"),
        (72, "HQ holds a record of a chapter that the lane let go: it is taken in"),
        (158, "a birth was lost: HQ speaks of the new chapter nevertheless, and its going back is noticed"),
        (128, "HQ went back, and the lane had let go a chapter: a hole says so"),
        (225, "an older lane.db: the lane learns how far it agrees with HQ"),
        (252, "HQ went back: one birth, not one for each stream"),
        (291, "a birth after a pause of the uplink tells what is there now"),
    ],
)
def test_a_seed_that_once_failed_holds(seed: int, what: str) -> None:
    assert run_seed(seed).broken == [], what


def test_a_seed_is_the_same_in_every_process() -> None:
    script = "from tests.hw_sim.protocol_run import run_seed; print(run_seed(9, 120).trace)"
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashes}, check=True, capture_output=True, text=True,
        ).stdout
        for hashes in ("1", "2")
    }  # fmt: skip
    assert said == {run_seed(9, 120).trace + "\n"}


class Unheard(Run):
    """HQ goes back, the lane notices, and no birth that says what it still holds arrives for a minute."""

    def _chaos(self) -> None:
        self._all_works()
        self._written()
        self.hq.copied()
        self._written()
        self.lane.trim(stale=False)
        self.lane.write_each()
        self.hq.put_back()
        dealt = self.sky.deal
        with mock.patch.object(self.sky, "deal", lambda each: None if each.topic.endswith("/birth") else dealt(each)):
            self._calm(60.0, lambda: False)

    def _written(self) -> None:
        self.lane.write_each()
        self._calm(20.0, lambda: False)


def test_a_birth_that_was_lost_after_hq_went_back_is_asked_for(tmp_path: Path) -> None:
    run = Unheard(2, tmp_path, 0)
    run.run()
    assert run.outcome.broken == []
    assert {hole["why"] for hole in run.hq.archive.holes()} == {GONE}


def caught(mistake: Mistake) -> bool:
    """Does one of its seeds fail with the mistake?"""
    with planted(mistake):
        return any(run_seed(seed).broken for seed in mistake.seeds)


@pytest.mark.parametrize("name", ["held_never_drained", "acknowledged_before_it_is_durable", "marker_without_its_hash"])
def test_a_planted_mistake_is_found(name: str) -> None:
    assert caught(MISTAKES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_every_planted_mistake_is_found(name: str) -> None:
    assert caught(MISTAKES[name]), MISTAKES[name].danger
