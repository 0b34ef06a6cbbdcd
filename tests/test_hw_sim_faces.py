"""The recorded faces score as the networks measured did."""

import numpy as np
import pytest

from tests.hw_sim.faces import IMPOSTOR_MAX, RecordedFaces
from tests.hw_sim.scene import Seen, SeenFace


def seen(person: int, take: int, *, yaw_deg: float = 0.0, distance_m: float = 1.4, mono: float = 1.0) -> Seen:
    return Seen((SeenFace(person, distance_m, yaw_deg, 0.85, take),), mono)


def test_scores_are_spread_like_the_measured_ones() -> None:
    engine = RecordedFaces(7)
    genuine, impostor = [], []
    for person in range(200):
        token = seen(person, person)
        embedding = engine.embed(token, engine.look(token))
        assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
        genuine.append(engine.score(embedding, engine.template(person)))
        impostor += [engine.score(embedding, engine.template(other)) for other in range(person + 1, person + 20)]
    assert np.mean(genuine) == pytest.approx(0.62, abs=0.04)
    assert np.std(genuine) == pytest.approx(0.10, abs=0.03)
    assert np.mean(impostor) == pytest.approx(0.05, abs=0.03)
    assert np.std(impostor) == pytest.approx(0.08, abs=0.03)
    assert max(impostor) <= IMPOSTOR_MAX < engine.threshold.score


def test_a_seed_repeats_its_scores_and_two_frames_of_a_passage_are_alike() -> None:
    def score(mono: float, seed: int = 7) -> float:
        engine, token = RecordedFaces(seed), seen(3, 9, mono=mono)
        return engine.score(engine.embed(token, engine.look(token)), engine.template(3))

    assert score(1.0) == score(1.0) != score(1.04)
    assert abs(score(1.0) - score(1.04)) < 0.15
    assert score(1.0) != score(1.0, seed=8)


def test_looks_away_from_far_and_in_company_are_not_usable() -> None:
    engine = RecordedFaces(1)
    assert engine.look(seen(1, 1)).usable
    assert engine.look(seen(1, 1, yaw_deg=50)).advice == "look_at_camera"
    assert engine.look(seen(1, 1, distance_m=4)).advice == "come_closer"
    assert engine.look(Seen((), 0.0)).advice == "nobody"
    two = Seen((*seen(1, 1).faces, *seen(2, 1).faces), 0.0)
    assert engine.look(two).persons == 2 and engine.look(two).advice == "one_person_only"
    with pytest.raises(ValueError, match="Seen tokens"):
        engine.look(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="no face"):
        engine.embed(Seen((), 0.0), engine.look(Seen((), 0.0)))
