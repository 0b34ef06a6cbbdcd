"""From HQ's register to the lane's look-up: the real publisher, repository, sync, cache files and reader in one run."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gated.hq import epochs
from gated.hq.publisher import Publisher
from gated.hq.registers import Paper, PaperStatus
from gated.hq.repository import Repository
from gated.store.cache import Cache, Enrolments
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.seal import public_of
from tests.hq_rig import BOTH, NOW, ONLINE, Hq, Reader, change, person
from tests.hw_sim.website import Website
from tests.sync_rig import NAME, Clock, LaneRig

PRIVATE = bytes(range(3, 35))


class Both:
    """HQ and one lane, with one clock."""

    def __init__(self, folder: Path) -> None:
        (folder / "hq").mkdir()
        self.clock = Clock(NOW)
        self.hq = Hq(folder / "hq")
        epochs.add_lane(self.hq.state, self.hq.keys, self.hq.repo, NAME, public_of(PRIVATE))
        self.online, self.both = self.hq.publisher(ONLINE), self.hq.publisher(BOTH)
        self.both.round(self.clock())
        self.site = Website(self.hq.repo)

    def lane(self, folder: Path) -> LaneRig:
        return LaneRig(folder, self.site.url, Repository(self.hq.repo).root, self.clock)

    def publish(self, publisher: Publisher | None = None, **asked: Any) -> bytes:
        """A round a minute later. What is announced."""
        self.clock.on(minutes=1)
        publishing = publisher or self.online
        return publishing.announcement(publishing.round(self.clock(), **asked))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path)
    with made.site:
        yield made


def same(rig: Both, lane: LaneRig) -> bool:
    return all(lane.rows(name) == Reader(rig.hq.repo, name).rows() for name in (PEOPLE, CONTROL))


def found(lane: LaneRig, ask: Callable[[Enrolments], Any]) -> Any:
    """What the lane process sees in the files."""
    enrolments = Enrolments(*(Cache(lane.newest(name), PRIVATE, NAME) for name in (PEOPLE, CONTROL)))
    try:
        return ask(enrolments)
    finally:
        enrolments.close()


def test_who_is_enrolled_banned_and_renewed_is_found_at_the_lane(rig: Both, tmp_path: Path) -> None:
    lane = rig.lane(tmp_path / "lane")
    rig.hq.register.enrol(person(1))
    rig.publish()
    lane.sync.once()
    assert lane.sync.trouble == {} and same(rig, lane)
    who = found(lane, lambda cache: cache.by_document("TWN", "300000001"))
    assert who is not None and who.subject == 1

    rig.hq.register.add_flags(1, {"wanted"}, urgent=True)
    rig.hq.register.enrol(person(1, papers=(Paper("TWN", "399999999"),)))
    rig.hq.register.set_status(PaperStatus(Paper("TWN", "300000001"), frozenset({"lost"})))
    assert not lane.sync.announced(rig.publish()) or lane.sync.once()  # the segments rode in it
    assert found(lane, lambda cache: cache.flags(1)) == {"wanted"}
    assert found(lane, lambda cache: cache.by_document("TWN", "399999999")) == who
    assert found(lane, lambda cache: cache.document_flags("TWN", "300000001")) == {"lost"}

    rig.hq.register.lift_flags(1)
    rig.publish()
    lane.sync.once()
    assert found(lane, lambda cache: cache.flags(1)) == {"wanted"}  # only the online key was there
    told = rig.publish(rig.both)
    assert lane.sync.announced(told)  # to be asked for: a lift does not ride
    lane.sync.once()
    lane.sync.again(told)
    assert found(lane, lambda cache: cache.flags(1)) == frozenset() and lane.sync.trouble == {} and same(rig, lane)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_changes_a_lane_that_looks_now_and_then_has_it(rig: Both, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    lane = rig.lane(tmp_path / "lane")
    for step in range(24):
        for _ in range(dice.randrange(4)):
            change(rig.hq.register, dice)
        if step in (12, 22):
            epochs.begin(rig.hq.state, rig.hq.keys, dice.choice((PEOPLE, CONTROL)), rig.clock())
        rig.clock.on(hours=dice.randrange(3))
        told = rig.publish(dice.choice((rig.online, rig.both)), snapshot=dice.random() < 0.1)
        kind = dice.randrange(3)
        if kind == 0 or (kind == 1 and step and lane.sync.announced(told)):
            lane.sync.once()
            assert lane.sync.trouble == {} and same(rig, lane), step
    rig.publish(rig.both)
    lane.sync.once()
    assert lane.sync.trouble == {} and same(rig, lane)
    for name in (PEOPLE, CONTROL):
        audited = lane.sync.audit(name, repair=False)
        assert audited.compared and not audited.differing
        Cache(lane.newest(name), PRIVATE, NAME).check()


def test_a_lane_that_was_away_for_thirty_days_catches_up_by_days(rig: Both, tmp_path: Path) -> None:
    lane = rig.lane(tmp_path / "lane")
    lane.sync.once()
    dice = random.Random(1)
    for _ in range(30 * 3):
        change(rig.hq.register, dice)
        rig.clock.now += timedelta(hours=8)
        rig.publish(rig.both if dice.random() < 0.3 else rig.online)
    lane.sync.once()
    rig.publish(rig.both)
    lane.sync.once()
    assert lane.sync.trouble == {} and same(rig, lane)
    new = rig.lane(tmp_path / "new")
    new.sync.once()
    assert new.sync.trouble == {} and same(rig, new)
