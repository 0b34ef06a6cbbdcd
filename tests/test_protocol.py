"""The protocol between lane and HQ in simulation: seeds hold, are the same twice, and planted mistakes are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hw_sim.planted_protocol import MISTAKES, Mistake, planted
from tests.hw_sim.protocol_run import FAMILIES, run_seed

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


def caught(mistake: Mistake) -> bool:
    """Does one of its seeds fail with the mistake?"""
    with planted(mistake):
        return any(run_seed(seed).broken for seed in range(mistake.seeds))


@pytest.mark.parametrize("name", ["held_never_drained", "acknowledged_before_it_is_durable", "marker_without_its_hash"])
def test_a_planted_mistake_is_found(name: str) -> None:
    assert caught(MISTAKES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_every_planted_mistake_is_found(name: str) -> None:
    assert caught(MISTAKES[name]), MISTAKES[name].danger
