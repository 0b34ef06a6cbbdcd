"""The mix of the demonstration: everybody of whom the policy speaks, both ways; and its counts can differ from HQ's."""

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from gated.icao import mrz
from gated.policyfile import load_rules
from tests.hw_sim import mix
from tests.hw_sim.cast import Truth
from tests.hw_sim.gallery import candidates, people
from tests.hw_sim.site import POLICY
from tests.test_hw_sim_demo import folder_of

TODAY = date(2026, 11, 20)
RULES = load_rules(POLICY)


@pytest.mark.parametrize("seed", range(10))
def test_everybody_comes_both_ways(tmp_path: Path, seed: int) -> None:
    everybody = people(folder_of(tmp_path, anna=3, ben=2, carl=1, dora=5))
    known = candidates(everybody, seed)
    made = mix.show(everybody, known, seed, TODAY)
    again = mix.show(everybody, known, seed, TODAY)
    assert [vars(p) for p in made.cast.passengers] == [vars(p) for p in again.cast.passengers]
    assert len(made.cast.passengers) == mix.COUNT == len({p.paper.number for p in made.cast.passengers})
    enrolled = {each.paper.number: each for each in made.cast.enrolments}
    came = Counter((enrolled[p.paper.number].category, p.way) for p in made.cast.passengers)
    assert {category for category, _ in came} == set(RULES.categories)
    assert all(came[category, way] for category in RULES.categories for way in (mix.OUT, mix.IN))
    assert sum(p.truth is Truth.IMPOSTOR for p in made.cast.passengers) == mix.IMPOSTORS
    shown = {everybody[p.person].shown.index(made.photos[p.take]) for p in made.cast.passengers}
    assert shown, "each shows a photograph of the person who comes"
    for passenger in made.cast.passengers:
        document = mrz.parse(passenger.paper.lines)
        kind = RULES.kind_of(document)
        category = enrolled[passenger.paper.number].category
        assert kind is not None and (RULES.matrix[category][kind].entry or RULES.matrix[category][kind].exit)


def test_reasons_are_the_policys() -> None:
    assert {sort.reason for sort in mix.SORTS if sort.reason} <= set(RULES.reasons)
    assert all((sort.truth is Truth.GENUINE) == (not sort.reason) for sort in mix.SORTS)


def test_counts_that_differ_are_seen() -> None:
    world = [{"category": "national", "direction": "exit", "came": 2, "crossed": 1}]
    hq = {"category": "national", "direction": "exit", "tickets": 2, "granted": 1, "referred": 1, "crossed": 1}
    assert [row["same"] for row in mix.beside(world, [hq])] == [True]
    for change in ({"tickets": 3}, {"crossed": 2}, {"direction": "entry"}, {"category": "unknown"}):
        assert not all(row["same"] for row in mix.beside(world, [hq | change]))
    assert not all(row["same"] for row in mix.beside(world, []))
