"""How old a cache may be: names by age, and what the lane remembers so that an old file does not pass for a new one."""

from datetime import UTC, datetime, timedelta

import pytest

from gated.daemon.cachememory import UNKNOWN, Memory
from gated.lane.events import CacheStand
from gated.lane.freshness import Ages, Freshness, freshness, of_stand
from gated.store.cachefile import CacheNote

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
AGES = Ages(60, 600, 6000)


@pytest.mark.parametrize(
    ("age_s", "called"),
    [
        (-301, Freshness.EXPIRED),
        (-300, Freshness.FRESH),
        (0, Freshness.FRESH),
        (59.999, Freshness.FRESH),
        (60, Freshness.LATE),
        (599.999, Freshness.LATE),
        (600, Freshness.STALE),
        (5999.999, Freshness.STALE),
        (6000, Freshness.EXPIRED),
        (1e9, Freshness.EXPIRED),
    ],
)
def test_an_age_has_a_name(age_s: float, called: Freshness) -> None:
    assert freshness(AGES, NOW - timedelta(seconds=age_s), NOW) is called


def test_no_known_age_is_expired_and_nobody_asks_where_the_policy_does_not() -> None:
    assert freshness(AGES, None, NOW) is Freshness.EXPIRED
    assert freshness(None, None, NOW) is Freshness.FRESH
    assert of_stand({}, None, NOW) is Freshness.FRESH
    assert of_stand({"control": AGES}, None, NOW) is Freshness.EXPIRED


def test_the_worse_partition_counts() -> None:
    def called(people_s: float, control_s: float) -> Freshness:
        ago = CacheStand(1, NOW - timedelta(seconds=people_s), 1, NOW - timedelta(seconds=control_s))
        return of_stand({"people": AGES, "control": AGES}, ago, NOW)

    assert called(0, 0) is Freshness.FRESH
    assert called(0, 61) is called(61, 0) is called(61, 59) is Freshness.LATE
    assert called(700, 61) is called(0, 601) is Freshness.STALE


@pytest.mark.parametrize("ages", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (-1, 1, 2)])
def test_ages_are_in_order(ages: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="in this order"):
        Ages(*ages)


def note(generation: int, epoch: int, serial: int) -> CacheNote:
    return CacheNote("control", generation, epoch, serial, bytes(32), NOW, 10)


def again(memory: Memory) -> Memory:
    """After a restart."""
    return Memory(memory.text)


def test_what_goes_on_is_believed() -> None:
    memory = Memory()
    for serial in range(5, 9):
        assert memory.believed(note(1, 1, serial), NOW) == NOW
        memory = again(memory)
    assert memory.believed(note(1, 1, 8), NOW + timedelta(hours=1)) == NOW + timedelta(hours=1)
    assert memory.believed(note(2, 2, 1), NOW) == NOW, "a new epoch begins its serials anew"
    assert again(memory).believed(note(3, 2, 40), NOW) == NOW


def test_an_old_file_that_says_it_is_new_is_not_believed() -> None:
    memory = Memory()
    memory.believed(note(3, 2, 100), NOW)
    assert again(memory).believed(note(3, 2, 99), NOW) == UNKNOWN
    assert again(memory).believed(note(3, 1, 500), NOW) == UNKNOWN
    assert again(memory).believed(note(4, 2, 99), NOW) == UNKNOWN, "nor under a new name"
    assert again(memory).believed(note(4, 2, 100), NOW) == NOW


def test_the_generation_before_is_as_old_as_it_was() -> None:
    """The newest is damaged: the one before serves, at the age it had when it was last confirmed."""
    memory = Memory()
    memory.believed(note(1, 1, 50), NOW)
    memory.believed(note(2, 1, 60), NOW + timedelta(hours=2))
    memory = again(memory)
    assert memory.believed(note(1, 1, 50), NOW + timedelta(hours=2)) == NOW
    assert memory.believed(note(1, 1, 49), NOW) == UNKNOWN
    assert memory.believed(note(2, 1, 60), NOW + timedelta(hours=3)) == NOW + timedelta(hours=3)


def test_memory_does_not_grow_and_nonsense_is_forgotten() -> None:
    memory = Memory()
    for generation in range(1, 50):
        memory.believed(note(generation, 1, generation), NOW)
    assert len(memory.text) < 120
    for text in ("x", "1|2|3", "a|b|c|d", "1|1|1|yesterday", "||| |||"):
        assert Memory(text).believed(note(1, 1, 1), NOW) == NOW
