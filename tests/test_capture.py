"""The best frames: for any moment, the best usable frame since."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.biometrics.capture import LOOKS_MAX, Best
from gated.biometrics.face import Look

USABLE = st.tuples(st.floats(0, 1), st.booleans())


def _look(quality: float = 0.5, usable: bool = True, advice: str | None = None, persons: int = 1) -> Look:
    return Look(persons, quality, usable, advice)


def test_nothing_offered_is_nothing_kept() -> None:
    best = Best()
    assert best.best(0.0) is None
    assert best.advice(0.0) is None
    assert best.persons(0.0) == 0


def test_a_frame_from_before_the_door_shut_does_not_hide_one_from_after() -> None:
    best = Best(n=2)
    for mono, quality in enumerate((0.9, 0.95, 0.99)):
        best.offer(float(mono), f"frame {mono}", _look(quality))
    best.offer(3.0, "inside", _look(0.2))
    kept = best.best(2.5)
    assert kept is not None
    assert (kept.mono, kept.image) == (3.0, "inside")
    before = best.best(0.0)
    assert before is not None
    assert before.image == "frame 2"


def test_an_unusable_frame_is_never_the_best() -> None:
    best = Best()
    best.offer(1.0, "two people", _look(1.0, usable=False, advice="one_person_only", persons=2))
    assert best.best(0.0) is None


@given(st.lists(USABLE, max_size=60), st.integers(0, 60))
def test_with_room_enough_it_is_exactly_the_best_since(frames: list[tuple[float, bool]], since: int) -> None:
    best = Best(n=100)
    for mono, (quality, usable) in enumerate(frames):
        best.offer(float(mono), mono, _look(quality, usable))
    usable_since = [(quality, mono) for mono, (quality, usable) in enumerate(frames) if usable and mono >= since]
    found = best.best(float(since))
    if not usable_since:
        assert found is None
    else:
        assert found is not None
        assert (found.look.quality, found.image) == max(usable_since)


@given(st.lists(USABLE, min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 60))
def test_with_little_room_there_is_still_an_answer_for_every_moment(
    frames: list[tuple[float, bool]], room: int, since: int
) -> None:
    best = Best(room)
    for mono, (quality, usable) in enumerate(frames):
        best.offer(float(mono), mono, _look(quality, usable))
    usable_since = [mono for mono, (_, usable) in enumerate(frames) if usable and mono >= since]
    found = best.best(float(since))
    assert (found is None) == (not usable_since)
    if found is not None:
        assert found.mono >= since
    assert len(best._kept) <= room
    assert all(earlier.look.quality > later.look.quality for earlier, later in pairwise(best._kept))


def test_the_frame_that_is_dropped_is_the_one_least_missed() -> None:
    best = Best(n=3)
    for mono, quality in enumerate((0.9, 0.6, 0.59, 0.1)):
        best.offer(float(mono), mono, _look(quality))
    assert [candidate.image for candidate in best._kept] == [0, 2, 3]


def test_advice_is_what_most_recent_frames_say() -> None:
    best = Best()
    for mono, advice in enumerate(("nobody", "come_closer", "come_closer", "hold_still", "come_closer")):
        best.offer(float(mono), None, _look(0.0, False, advice))
    assert best.advice(0.0) == "come_closer"
    assert best.advice(4.5) is None


def test_there_is_no_advice_while_frames_are_usable() -> None:
    best = Best()
    best.offer(0.0, None, _look(0.0, False, "come_closer"))
    best.offer(1.0, None, _look(0.8))
    assert best.advice(0.0) is None


def test_advice_does_not_look_back_before_the_moment_asked() -> None:
    best = Best()
    best.offer(0.0, None, _look(0.0, False, "come_closer"))
    best.offer(1.0, None, _look(0.0, False, "come_closer"))
    best.offer(2.0, None, _look(0.0, False, "hold_still"))
    assert best.advice(2.0) == "hold_still"


def test_a_second_person_is_remembered_beside_the_best_frame() -> None:
    best = Best()
    best.offer(0.0, None, _look(0.0, False, "one_person_only", persons=2))
    best.offer(1.0, None, _look(0.9))
    assert best.persons(0.0) == 2
    assert best.persons(0.5) == 1


def test_clear_forgets_everything() -> None:
    best = Best()
    best.offer(5.0, "frame", _look(0.9))
    best.clear()
    assert best.best(0.0) is None
    assert best.persons(0.0) == 0
    best.offer(1.0, "another passenger", _look(0.5))
    kept = best.best(0.0)
    assert kept is not None
    assert kept.image == "another passenger"


def test_memory_is_bounded() -> None:
    best = Best(n=4)
    for mono in range(3 * LOOKS_MAX):
        best.offer(float(mono), mono, _look(1.0 - mono / (4 * LOOKS_MAX)))
    assert len(best._kept) == 4
    assert len(best._looks) == LOOKS_MAX


def test_frames_out_of_order_and_too_little_room_are_our_own_mistakes() -> None:
    best = Best()
    best.offer(2.0, None, _look())
    with pytest.raises(ValueError, match="order"):
        best.offer(1.0, None, _look())
    with pytest.raises(ValueError, match="at least two"):
        Best(1)


def test_a_candidate_does_not_print_its_picture() -> None:
    best = Best()
    best.offer(1.0, "a face", _look())
    assert "a face" not in repr(best.best(0.0))
