"""Any event in any state, and any order of events: the invariants hold and nothing raises."""

import random
from collections.abc import Callable
from datetime import timedelta

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import EVENTS, Device, Door, Event
from gated.lane.machine import TABLE
from gated.lane.settings import BOTH, WAYS, Shift, Topology, Ways
from tests.any_events import any_events
from tests.play import START, Play
from tests.reach import STEPS, reach


@pytest.mark.parametrize("topology", Topology)
@pytest.mark.parametrize("state", STEPS)
def test_every_event_in_every_state(state: State, topology: Topology) -> None:
    """Each cell of the table, twice in a row, with the invariants watched."""
    try:
        first = reach(state, topology)
    except AssertionError:
        assert topology is Topology.SINGLE, "only a lane of one leaf lacks states"
        return
    assert {type(event) for event in any_events(first.lane, first.mono)} == EVENTS
    for k in range(len(any_events(first.lane, first.mono))):
        play = reach(state, topology)
        event = any_events(play.lane, play.mono)[k]
        play.do(event)
        play.wait(0.5)
        play.do(event)
        play.wait(60.0)


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(State)
    assert all(set(row) == EVENTS for row in TABLE.values())


def _storm(seed: int, topology: Topology, steps: int) -> Play:
    """A random walk over plausible events; answers come, do not come, or come late."""
    rng = random.Random(seed)
    play = Play(topology, ways=_ways(topology, rng))
    kinds: list[Callable[[], object]] = [
        lambda: play.wait(rng.choice((0.1, 1.0, 5.0, 20.0))),
        lambda: _step_clock(play, rng),
    ]
    silent = dict(play.answers)
    for _ in range(steps):
        if rng.random() < 0.3:
            rng.choice(kinds)()
        elif rng.random() < 0.1:
            play.answers = {k: (None if rng.random() < 0.3 else v) for k, v in silent.items()}
        elif rng.random() < 0.4 and play.requested():
            (play.enter if rng.random() < 0.5 else play.leave)(next(iter(play.requested())))
        else:
            play.do(rng.choice(any_events(play.lane, play.mono)))
    return play


def _step_clock(play: Play, rng: random.Random) -> None:
    step_s = rng.uniform(-1e6, 1e6)
    play.utc += timedelta(seconds=step_s)
    if rng.random() < 0.7:  # the shell tells it a second later
        play.wait(1.0)
        play.do(ev.ClockStepped(step_s))


def _ways(topology: Topology, rng: random.Random) -> Ways | None:
    """Of a lane of both directions: another way every few minutes of the first half hour."""
    if topology is not Topology.BIDIRECTIONAL:
        return None
    starts = sorted(rng.sample(range(1800), rng.choice((0, 1, 5, 15))))
    return Ways(BOTH, tuple(Shift((START + timedelta(seconds=s)).time(), rng.choice(WAYS)) for s in starts))


@pytest.mark.parametrize("topology", Topology)
def test_storm(topology: Topology) -> None:
    states = set()
    for seed in range(25):
        play = _storm(seed, topology, 250)
        states.add(play.state)
    assert len(states) > 3


class AnyOrder(RuleBasedStateMachine):
    """Hypothesis looks for the shortest order of events that breaks an invariant."""

    @initialize(topology=st.sampled_from(Topology), seed=st.integers(0, 20))
    def begin(self, topology: Topology, seed: int) -> None:
        self.play = Play(topology, ways=_ways(topology, random.Random(seed)))

    @rule(k=st.integers(0, 10_000))
    def event(self, k: int) -> None:
        events = any_events(self.play.lane, self.play.mono)
        self.play.do(events[k % len(events)])

    @rule(seconds=st.sampled_from((0.2, 2.0, 15.0, 100.0)))
    def wait(self, seconds: float) -> None:
        self.play.wait(seconds)

    @rule()
    def walk_in(self) -> None:
        if self.play.requested():
            self.play.enter(next(iter(self.play.requested())))

    @rule()
    def walk_out(self) -> None:
        if self.play.requested():
            self.play.leave(next(iter(self.play.requested())))

    @rule(silent=st.sampled_from((cmd.ReadChip, cmd.LookUp, cmd.CompareFace, cmd.Record, cmd.ReadFlags)))
    def go_silent(self, silent: type[cmd.Command]) -> None:
        self.play.answers[silent] = None

    def teardown(self) -> None:
        """However it went: devices back, nobody inside, a person resets, and the lane is idle again."""
        play = self.play
        play.answers = Play().answers
        for _ in range(20):
            events: list[Event] = [*(ev.DoorClosed(door) for door in play.lane.gate.leaves), ev.PresenceChanged(0)]
            events += [ev.DoorwayCleared(door) for door in Door]
            events += [ev.FireEnded(), ev.MainsBack(), *(ev.DeviceReady(device) for device in Device)]
            events += [ev.ServiceOff("e1", "lin"), ev.OpenLane("e2", "hq"), ev.Reset("e3", "wu")]
            play.do(*events)
            if play.at(State.IDLE):
                return
            for door in play.requested():
                play.do(ev.DoorOpened(door))
            play.wait(30.0)
        raise AssertionError(f"the lane never comes back: {play.state}")


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
