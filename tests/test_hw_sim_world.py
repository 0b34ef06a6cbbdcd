"""The simulated world against toy lanes: a good one passes the monitor, and each planted crime is flagged."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

import pytest

from tests.hw_sim import virtual
from tests.hw_sim.cast import Manner, Truth, cast
from tests.hw_sim.happenings import Topology
from tests.hw_sim.mishaps import Mishap, Trouble, plan
from tests.hw_sim.pins import PinBoard
from tests.hw_sim.report import Report, Settled, compare
from tests.hw_sim.world import World

TODAY = date(2026, 3, 2)


class Desk:
    """A reader that tells its lane the document number at once."""

    def __init__(self) -> None:
        self.shown: asyncio.Queue[str] = asyncio.Queue()

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None:
        self.shown.put_nowait(lines[1][:9])

    async def remove(self) -> None:
        return


@dataclass
class Toy:
    """The least lane that can work a mantrap: it believes documents and counts nobody. `crime`: what it does wrong."""

    board: PinBoard
    desk: Desk
    good: frozenset[str]
    crime: str = ""
    records: list[Settled] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self.board.listen(lambda name, active: self._news.set())

    async def until(self, true: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def ask(self, door: str, on: bool) -> None:
        self.board.drive(f"{door}_request", on)

    async def live(self) -> None:
        while True:
            self.board.drive("alive", not self.board.output("alive"))
            await asyncio.sleep(0.2)

    async def run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            number = await self.desk.shown.get()
            opened = now()
            crossed = await self.passage(number)
            while not self.desk.shown.empty():
                self.desk.shown.get_nowait()
            if self.crime == "no record":
                continue
            verdict = "grant" if number in self.good or self.crime == "grants anybody" else "refer"
            record = Settled(
                ticket=len(self.records) + 1,
                opened=opened,
                settled=now(),
                outcome="crossed" if crossed else "not_crossed",
                persons=int(crossed),
                decision=verdict,
                recorded=now() if self.crime == "records afterwards" else self.recorded,
                number=number,
            )
            self.records += [record] * (2 if self.crime == "settles twice" else 1)

    async def passage(self, number: str) -> bool:
        def inside() -> bool:
            return self.board.input("presence_one")

        self.ask("a", True)
        entered = await self.until(inside, 10.0)
        if entered and self.crime not in ("both leaves", "leaf onto people"):
            await self.until(lambda: not self.board.input("a_inner"))
        if self.crime != "both leaves":
            self.ask("a", False)
            await self.until(lambda: self.board.input("a_closed"))
        if not inside():
            self.ask("a", False)
            await self.until(lambda: self.board.input("a_closed"))
            return False
        await asyncio.sleep(2.0)
        self.recorded = asyncio.get_running_loop().time()
        if self.crime == "keeps people":
            await asyncio.sleep(150.0)
        way = "b" if number in self.good or self.crime == "grants anybody" else "a"
        self.ask(way, True)
        await self.until(lambda: not inside())
        await asyncio.sleep(1.0)
        self.ask("a", False)
        self.ask("b", False)
        await self.until(lambda: self.board.input("b_closed") and self.board.input("a_closed"))
        return way == "b"


def run(
    crime: str = "",
    *,
    passengers: int = 6,
    manners: Sequence[Manner] = (Manner.PLAIN,),
    truths: dict[Truth, int] | None = None,
    faults: Sequence[Mishap] = (),
) -> tuple[World, Report]:
    async def main() -> tuple[World, Report]:
        board, desk = PinBoard(), Desk()
        made = cast(3, passengers, Topology.MANTRAP, TODAY, only=manners, truths=truths or {Truth.GENUINE: 1})
        world = World(3, Topology.MANTRAP, board, {"a": desk}, passengers=made, faults=faults)
        if crime == "leaf onto people":
            world.gate.leaves["a"].chain_works = False
        good = frozenset(e.paper.number for e in made.enrolments if not e.flags)
        toy = Toy(board, desk, good, crime)
        work = [asyncio.create_task(toy.run()), asyncio.create_task(toy.live())]
        await world.run()
        await asyncio.sleep(10.0)
        for task in work:
            task.cancel()
        return world, compare(world.monitor, toy.records)

    return virtual.run(main())


def test_a_good_lane_passes_everybody_and_the_monitor_finds_nothing() -> None:
    world, report = run()
    assert report.clean and not report.explanations
    assert report.passengers == report.genuine == report.granted == report.passages == 6
    assert report.wrong_referrals == 0 and world.gate.bodies == []
    assert report.passage_s_median is not None and 5 < report.passage_s_median < 15


def test_people_who_may_not_pass_are_counted_and_let_out() -> None:
    _, report = run(truths={Truth.GENUINE: 1, Truth.NOT_ENROLLED: 1, Truth.BANNED: 1}, passengers=9)
    assert report.clean
    assert 0 < report.granted == report.genuine < 9 and report.others == 9 - report.genuine


@pytest.mark.parametrize(
    ("crime", "finding"),
    [
        ("no record", "lost:"),
        ("records afterwards", "exit_without_record"),
        ("both leaves", "both_leaves"),
        ("keeps people", "kept_inside"),
        ("settles twice", "twice:"),
        ("grants anybody", "wrong grant"),
    ],
)
def test_each_crime_is_flagged(crime: str, finding: str) -> None:
    _, report = run(crime, passengers=4, truths={Truth.GENUINE: 1, Truth.NOT_ENROLLED: 1})
    assert not report.clean
    assert any(line.startswith(finding) for line in report.explanations), report.explanations


def test_a_leaf_that_runs_into_people_is_flagged() -> None:
    _, report = run("leaf onto people", manners=(Manner.STANDS_IN_DOORWAY,), passengers=6)
    assert report.doors_unsafe and any(line.startswith("leaf_on_person") for line in report.explanations)


@pytest.mark.parametrize("manner", list(Manner))
def test_every_manner_ends_with_everybody_gone(manner: Manner) -> None:
    world, _ = run(manners=(manner,), passengers=3)
    assert world.gate.bodies == [] and world.came == 3


def test_mishaps_are_planned_from_the_seed_and_excuse_referrals() -> None:
    assert plan(5, 8, Topology.MANTRAP) == plan(5, 8, Topology.MANTRAP) != plan(6, 8, Topology.MANTRAP)
    world, report = run(faults=[Mishap(0.0, Trouble.FIRE, for_s=60.0)], passengers=3)
    assert world.monitor.disturbed and report.wrong_referrals == 0
    _, stuck = run(faults=[Mishap(0.0, Trouble.LEAF_STUCK, "a", for_s=500.0)], passengers=2)
    assert stuck.excused_referrals == 2 and stuck.wrong_referrals == 0 and stuck.passages == 0


def test_the_camera_sees_whoever_walks_towards_it() -> None:
    async def main() -> tuple[list[int], float]:
        board, desk = PinBoard(), Desk()
        made = cast(4, 1, Topology.MANTRAP, TODAY, only=(Manner.PLAIN,), truths={Truth.GENUINE: 1})
        world = World(4, Topology.MANTRAP, board, {"a": desk}, passengers=made)
        toy = Toy(board, desk, frozenset(e.paper.number for e in made.enrolments))
        work = [asyncio.create_task(c) for c in (toy.run(), toy.live(), world.run())]
        seen, nearest = list[int](), 9.0
        while not work[2].done():
            for face in world.view().faces:
                seen.append(face.person)
                nearest = min(nearest, face.distance_m)
            await asyncio.sleep(0.25)
        for task in work:
            task.cancel()
        return seen, nearest

    seen, nearest = virtual.run(main())
    assert set(seen) == {0} and len(seen) > 10 and nearest < 1.5
