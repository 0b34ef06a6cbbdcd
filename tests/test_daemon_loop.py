"""The lane's queue and loop: bounded, in order, deadlines on time, losses in their place, nothing starved."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from gated.daemon.clock import watch_steps
from gated.daemon.loop import AGAIN_S, EVENTS_MAX, Queue, drive
from gated.lane import events as ev
from gated.lane.commands import Alarm, Command
from gated.lane.events import ClockStepped, Deadline, Door, Event, EventsLost, Now
from gated.lane.machine import Lane
from gated.lane.settings import Timing, Topology, Ways
from tests.hw_sim import virtual
from tests.hw_sim.simlane import SimClock
from tests.play import DEVICES, RULES, Play


def help_() -> Event:
    return ev.HelpPressed()


def test_events_come_in_the_order_in_which_they_were_emitted() -> None:
    async def main() -> None:
        queue = Queue()
        for door in (Door.A, Door.B, Door.A):
            queue.emit(ev.DoorOpened(door))
        assert [await queue.next(None) for _ in range(3)] == [ev.DoorOpened(d) for d in (Door.A, Door.B, Door.A)]

    virtual.run(main())


def test_a_waiting_reader_is_woken_by_an_event() -> None:
    async def main() -> None:
        queue = Queue()
        asyncio.get_running_loop().call_later(3.0, queue.emit, help_())
        assert await queue.next(None) == help_()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    virtual.run(main())


def test_the_deadline_comes_on_time_and_before_whatever_waits() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = Queue()
        assert await queue.next(loop.time() + 5.0) == Deadline()
        assert loop.time() == pytest.approx(5.0)
        queue.emit(help_())
        assert await queue.next(loop.time() + 1.0) == help_(), "an event that is there does not wait for a deadline"
        queue.emit(help_())
        assert await queue.next(loop.time()) == Deadline(), "a deadline that has passed does not wait for an event"
        assert await queue.next(None) == help_()

    virtual.run(main())


def test_what_does_not_fit_is_counted_in_its_place() -> None:
    async def main() -> None:
        queue = Queue(size=4)
        for _ in range(9):
            queue.emit(help_())
        assert [await queue.next(None) for _ in range(3)] == [help_()] * 3
        queue.emit(ev.FireStarted())
        queue.emit(ev.FireEnded())
        got = [await queue.next(None) for _ in range(4)]
        assert got == [help_(), EventsLost(5), ev.FireStarted(), ev.FireEnded()], "what came later comes after the loss"

    virtual.run(main())


def test_the_queue_never_holds_more_than_its_size_and_one_mark() -> None:
    async def main() -> None:
        queue = Queue()
        kept = lost = 0
        for k in range(5 * EVENTS_MAX):
            queue.emit(help_())
            if k % 3 == 0:
                event = await queue.next(None)
                kept, lost = kept + isinstance(event, ev.HelpPressed), lost + getattr(event, "count", 0)
            assert len(queue._events) <= EVENTS_MAX + 1
        while queue._events:
            event = await queue.next(None)
            kept, lost = kept + isinstance(event, ev.HelpPressed), lost + getattr(event, "count", 0)
        assert kept + lost == 5 * EVENTS_MAX, "each event came or was counted"
        assert lost > 0

    virtual.run(main())


class Log:
    """Journal and outlets of a lane that is driven alone."""

    def __init__(self) -> None:
        self.steps: list[tuple[Now, Event, tuple[Command, ...]]] = []
        self.done: list[Command] = []

    def step(self, now: Now, event: Event, commands: tuple[Command, ...]) -> None:
        assert not self.done or len(self.steps) > 0
        self.steps.append((now, event, commands))

    def dispatch(self, command: Command, now: Now) -> None:
        assert any(command is each for each in self.steps[-1][2]), "a command is journalled before it is carried out"
        self.done.append(command)


class Stubborn(Lane):
    """A lane whose deadline stands, whatever it is told: a fault of ours that must not take the process along."""

    @property
    def deadline(self) -> float | None:
        return 5.0


def test_a_deadline_that_does_not_move_starves_nobody() -> None:
    lane = Stubborn(Topology.MANTRAP, Timing(), RULES, DEVICES, place="here", ways=Ways())

    async def main() -> None:
        log, queue = Log(), Queue()
        driving = asyncio.create_task(drive(lane, queue, SimClock(), log, log.dispatch))
        await asyncio.sleep(6.5)
        assert [type(event) for _, event, _ in log.steps] == [Deadline, Deadline]
        queue.emit(ev.HelpPressed())
        await asyncio.sleep(0.01)
        assert isinstance(log.steps[-1][1], ev.HelpPressed), "the lane hears the rest too"
        await asyncio.sleep(30.0)
        told = [now.mono for now, event, _ in log.steps if isinstance(event, Deadline)]
        gaps = [after - before for before, after in pairwise(told)]
        assert gaps == [pytest.approx(AGAIN_S)] * len(gaps), "and it is told again at a measured pace"
        assert len(gaps) >= 29
        driving.cancel()

    virtual.run(main())


def test_a_fault_of_the_machine_ends_the_drive() -> None:
    play = Play()

    def broken(event: Event, now: Now) -> tuple[Command, ...]:
        raise AssertionError("one leaf at a time")

    play.lane.handle = broken  # type: ignore[method-assign]

    async def main() -> None:
        log, queue = Log(), Queue()
        queue.emit(help_())
        with pytest.raises(AssertionError, match="one leaf"):
            await drive(play.lane, queue, SimClock(), log, log.dispatch)
        assert log.done == []

    virtual.run(main())


def test_every_command_is_dispatched_in_order() -> None:
    play = Play()

    async def main() -> None:
        log, queue = Log(), Queue()
        queue.emit(help_())
        driving = asyncio.create_task(drive(play.lane, queue, SimClock(), log, log.dispatch))
        await asyncio.sleep(1.0)
        driving.cancel()
        assert log.done == [command for _, _, commands in log.steps for command in commands]
        assert any(isinstance(command, Alarm) for command in log.done)

    virtual.run(main())


@pytest.mark.parametrize(("step_s", "told"), [(3600.0, 1), (-3600.0, 1), (1.5, 0), (-1.5, 0)])
def test_a_step_of_the_wall_clock_is_told_once_and_slewing_is_not(step_s: float, told: int) -> None:
    async def main() -> None:
        clock, events = SimClock(), list[Event]()
        watching = asyncio.create_task(watch_steps(clock, events.append))
        await asyncio.sleep(5.5)
        clock.step(step_s)
        await asyncio.sleep(10.0)
        watching.cancel()
        assert len(events) == told
        assert all(isinstance(e, ClockStepped) and e.step_s == pytest.approx(step_s) for e in events)

    virtual.run(main())


def test_a_slowly_drifting_clock_is_no_step() -> None:
    class Drifting(SimClock):
        def now(self) -> Now:
            mono = asyncio.get_running_loop().time()
            return Now(mono, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=mono * 1.01))

    async def main() -> None:
        events = list[Event]()
        watching = asyncio.create_task(watch_steps(Drifting(), events.append))
        await asyncio.sleep(3600.0)
        watching.cancel()
        assert events == []

    virtual.run(main())
