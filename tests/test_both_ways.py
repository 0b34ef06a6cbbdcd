"""A whole lane of both directions in virtual time (L7): shifts, signed orders, restarts, and what its records say."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from gated import control
from gated.config import ConfigError, load
from gated.daemon.plan import machine_of
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Light
from gated.lane.core import State
from gated.lane.events import Door
from gated.lane.settings import BOTH, Shift, Ways
from gated.store.db import LaneDb
from gated.wire import facts
from gated.wire.orders import Action
from tests.hw_sim import virtual
from tests.hw_sim.cast import Cast, Manner, Truth, cast
from tests.hw_sim.happenings import Topology
from tests.hw_sim.report import Report
from tests.hw_sim.simlane import VirtualLane, sim_folder
from tests.test_daemon_requests import Asked

TAIPEI = ZoneInfo("Asia/Taipei")
MORNING = datetime(2026, 3, 2, 5, 58, tzinfo=TAIPEI).astimezone(UTC)


@dataclass
class Port(Asked):
    """A lane of both directions whose passengers look at its lamps."""

    shifts: tuple[str, ...] = ()
    at: datetime = MORNING
    report: Report = field(default_factory=Report)

    def _files(self) -> Path:
        path = super()._files()
        shifts = ", ".join(f'"{each}"' for each in self.shifts)
        path.write_text(re.sub(r'^direction = "both"$', rf"\g<0>\nshifts = [{shifts}]", path.read_text(), flags=re.M))
        return path

    def green(self) -> set[Door]:
        return {door for door in Door if self.board.output(f"{door.value.lower()}_green")}

    def way(self, moment: datetime) -> str:
        """Whom the schedule serves at this moment."""
        pairs = [each.split() for each in self.shifts]
        return Ways(BOTH, tuple(Shift(time.fromisoformat(at), way) for at, way in pairs)).at(moment, TAIPEI)


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


def play(lane: Port, script: Callable[[Port], Coroutine[Any, Any, None]] | None = None) -> Port:
    """Run the day. Its passengers wait for a green lamp."""

    def begin(_: VirtualLane) -> list[Coroutine[Any, Any, None]]:
        lane.world.stage.green = lambda side: lane.board.output(f"{side}_green")
        return [script(lane)] if script is not None else []

    lane.upsets = begin
    with capture_logs():
        lane.report = virtual.run(lane.run())
    return lane


def told(lane: Port) -> list[tuple[str, str, str | None]]:
    return [(fact.direction, fact.cause, fact.by) for fact in lane.facts(facts.DirectionChanged)]


def people(seed: int, count: int) -> Cast:
    """Passengers who do nothing but pass, most of whom may."""
    kinds = {Truth.GENUINE: 8, Truth.IMPOSTOR: 1, Truth.NOT_ENROLLED: 1}
    return cast(seed, count, Topology.BIDIRECTIONAL, MORNING.date(), only=(Manner.PLAIN,), truths=kinds, fingers=True)


# -- a day -------------------------------------------------------------------------------------------------------


def test_a_morning_with_shifts_and_an_order(folder: Path) -> None:
    """Everybody who may pass does, each when their side is served, and is told in their direction."""

    async def script(lane: Port) -> None:
        await asyncio.sleep(1590.0)  # the shift of 06:24, which serves exits alone
        assert (await lane.relay(lane.order(Action.DIRECTION, args={"direction": "both"})))["accepted"]
        await asyncio.sleep(200.0)
        assert (await lane.ask(control.SetDirection("Mei Lin", "schedule")))["accepted"]

    shifts = tuple(f"06:{k * 4:02} {('exit', 'entry', 'both')[k % 3]}" for k in range(15))
    lane = play(Port(11, Topology.BIDIRECTIONAL, folder, people(11, 90), shifts=shifts), script)
    assert lane.report.clean and lane.report.granted > 50, lane.report
    verdicts = lane.facts(facts.VerdictReached)
    assert {(v.came_from, v.direction) for v in verdicts} == {("A", "exit"), ("B", "entry")}
    begun = [(now.utc, c.side) for _, now, cs in lane.log for c in cs if isinstance(c, cmd.Watch)]
    turns = [(now.utc, event.direction) for event, now, _ in lane.log if isinstance(event, ev.SetDirection)]
    assert [way for _, way in turns] == ["both", "schedule"]
    ordered = [side for utc, side in begun if turns[0][0] < utc < turns[1][0]]
    assert set(ordered) == {*Door} and {lane.way(utc) for utc, _ in turns} == {"exit"}
    free = [(utc, side) for utc, side in begun if not turns[0][0] < utc < turns[1][0]]
    assert all(lane.way(utc) in (BOTH, "exit" if side is Door.A else "entry") for utc, side in free)
    assert {lane.way(utc) for utc, _ in free} == {"exit", "entry", "both"}
    days = [(utc.astimezone(TAIPEI), fact) for utc, _, fact in lane.told if isinstance(fact, facts.DirectionChanged)]
    assert len(days) > 12 and all(one != other for (_, one), (_, other) in pairwise(days))
    for utc, fact in days[1:]:
        if fact.by is None:
            assert utc.minute % 4 == 0 and utc.second <= 1, "told as the shift starts"
            assert (fact.direction, fact.cause) == (lane.way(utc), "schedule")
    crossings = {fact.ticket: fact.direction for fact in lane.facts(facts.TicketSettled)}
    assert all(crossings[v.ticket] == v.direction for v in verdicts)


# -- orders ------------------------------------------------------------------------------------------------------


def test_who_ordered_it_is_on_record_and_seen(folder: Path) -> None:
    async def script(lane: Port) -> None:
        assert lane.green() == {Door.B}
        seen = (await lane.ask(control.Status()))["direction"]
        assert seen == {"way": "entry", "by": "schedule", "until": "2026-03-01T22:00:00+00:00", "then": "exit"}
        assert (await lane.ask(control.SetDirection("Mei Lin", "exit")))["accepted"]
        await asyncio.sleep(0.1)
        assert lane.green() == {Door.A}
        seen = await lane.ask(control.Status())
        assert seen["direction"] == {"way": "exit", "by": "order", "until": None, "then": None}
        assert seen["prompt"] == "place_document", "what the side that is served is told"
        answer = await lane.relay(lane.order(Action.DIRECTION, args={"direction": "both"}))
        assert answer == {"order": "o-1", "accepted": True, "why": ""}
        await asyncio.sleep(200.0)
        assert lane.green() == {*Door}, "06:00 came, and the order holds"
        assert (await lane.relay(lane.order(Action.DIRECTION, args={"direction": "schedule"})))["accepted"]
        await asyncio.sleep(0.1)
        assert lane.green() == {Door.A}

    lane = play(Port(5, Topology.BIDIRECTIONAL, folder, 0, shifts=("06:00 exit", "20:00 entry")), script)
    assert told(lane) == [
        ("entry", "schedule", None),
        ("exit", "order", "Mei Lin (mei)"),
        ("both", "order", "officer.chen"),
        ("exit", "schedule", "officer.chen"),
    ]
    assert [answer.accepted for answer in lane.answers()][:3] == [True] * 3


def test_an_order_holds_after_a_crash_and_a_restart(folder: Path) -> None:
    async def script(lane: Port) -> None:
        for way, sides in (("exit", {Door.A}), ("schedule", {Door.B})):
            await lane.relay(lane.order(Action.DIRECTION, args={"direction": way}))
            await asyncio.sleep(1.0)
            await lane.crash()
            lane.revive()
            await asyncio.sleep(10.0)
            assert lane.green() == sides and lane.state() is State.IDLE

    lane = play(Port(5, Topology.BIDIRECTIONAL, folder, 0, shifts=("05:00 entry", "20:00 exit")), script)
    by = "officer.chen"
    way = [("entry", "schedule", None), ("exit", "order", by), ("exit", "order", None), ("entry", "schedule", by)]
    assert told(lane) == [*way, ("entry", "schedule", None)]


def test_what_comes_before_the_start_overwrites_nothing_that_was_kept(folder: Path) -> None:
    """An order that finds the process still starting is refused; the one of yesterday still holds."""

    async def script(lane: Port) -> None:
        await lane.ask(control.SetDirection("Mei Lin", "exit"))
        await lane.ask(control.CloseLane("Mei Lin"))
        await asyncio.sleep(1.0)
        await lane.crash()
        lane.revive()
        lane.app.queue._events.appendleft(ev.SetDirection("early", "bo", "schedule"))
        lane.app.queue._events.appendleft(ev.OpenLane("early too", "bo"))
        await asyncio.sleep(10.0)
        assert lane.app.lane.ordered_way == "exit" and lane.state() is State.CLOSED
        kept = lane.app.writer.db
        assert (kept.note("direction"), kept.note("closed")) == ("exit", "1")

    lane = play(Port(5, Topology.BIDIRECTIONAL, folder, 0), script)
    early = [(a.accepted, a.why) for a in lane.answers() if a.order.startswith("early")]
    assert early == [(False, "not_while_starting")] * 2


def test_a_one_way_lane_refuses_and_says_so_by_a_record(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        refused = await lane.ask(control.SetDirection("Mei Lin", "entry"))
        assert (refused["accepted"], refused["why"]) == (False, "one_way")
        refused = await lane.relay(lane.order(Action.DIRECTION, args={"direction": "both"}))
        assert (refused["accepted"], refused["why"]) == (False, "one_way")
        seen = (await lane.ask(control.Status()))["direction"]
        assert seen == {"way": "exit", "by": "configuration", "until": None, "then": None}

    lane = Asked(5, Topology.MANTRAP, folder, passengers=0)
    lane.upsets = lambda _: [script(lane)]
    with capture_logs():
        virtual.run(lane.run())
    assert [(a.accepted, a.why) for a in lane.answers()][:2] == [(False, "one_way")] * 2
    assert lane.facts(facts.DirectionChanged) == []


def test_what_was_kept_of_another_configuration_is_no_order(folder: Path) -> None:
    """The lane was one of both directions, set to entry; now it is one of exits."""
    db = LaneDb(folder / "lane.db")
    with db.transaction():
        db.set_note("direction", "entry")
    db.close()

    async def script(lane: Asked) -> None:
        assert lane.board.output("a_green")
        assert (await lane.ask(control.Status()))["direction"]["way"] == "exit"

    lane = Asked(5, Topology.MANTRAP, folder, passengers=0)
    lane.upsets = lambda _: [script(lane)]
    with capture_logs():
        virtual.run(lane.run())


def test_a_wall_clock_that_steps_over_a_shift_while_nobody_is_there(folder: Path) -> None:
    async def script(lane: Port) -> None:
        assert lane.green() == {Door.B}
        for hours, sides in ((3, {Door.A}), (-3, {Door.B}), (24 * 400 + 12, {Door.A}), (6, {Door.B})):
            lane.clock.step(hours * 3600.0)
            await asyncio.sleep(3.0)
            assert lane.green() == sides

    lane = play(Port(5, Topology.BIDIRECTIONAL, folder, 0, shifts=("06:00 exit", "20:00 entry")), script)
    lamps = [c for c in lane.commands(cmd.Indicate) if c.light is Light.GREEN]
    assert len(lamps) < 10


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shifts", "says"),
    [
        ('["6 exit"]', r'shifts look like \["06:00 exit", "14:00 both"\]; \'6 exit\' does not'),
        ('["06:00 out"]', r"'06:00 out' does not"),
        ('["06:00"]', r"'06:00' does not"),
        ('["06:00 exit please"]', "'06:00 exit please' does not"),
        ('["24:00 exit"]', "'24:00 exit' does not"),
        ('["06:00+08:00 exit"]', r"'06:00\+08:00 exit' does not"),
        ('["14:00 exit", "06:00 entry"]', "shifts are in the order of their start"),
        ('["06:00 exit", "06:00:00 entry"]', "shifts are in the order of their start"),
        ('"06:00 exit"', "must be a list"),
        ("[600]", "is 600, must be text"),
    ],
)
def test_wrong_shifts_are_named_with_file_line_and_option(shifts: str, says: str, folder: Path) -> None:
    path = Port(5, Topology.BIDIRECTIONAL, folder)._files()
    text = path.read_text().replace("shifts = []", f"shifts = {shifts}")
    path.write_text(text)
    line = next(n for n, each in enumerate(text.splitlines(), 1) if each.startswith("shifts"))
    with pytest.raises(ConfigError, match=rf"lane\.toml:{line}: \[lane\] shifts: .*{says}"):
        machine_of(load(path))


def test_shifts_of_a_one_way_lane_are_refused(folder: Path) -> None:
    path = Port(5, Topology.MANTRAP, folder)._files()
    path.write_text(path.read_text().replace('direction = "exit"', 'direction = "exit"\nshifts = ["06:00 entry"]'))
    with pytest.raises(
        ConfigError, match=r"lane\.toml:6: \[lane\] shifts: shifts are for a lane whose direction is both"
    ):
        machine_of(load(path))
