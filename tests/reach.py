"""Brings a lane into any state by what a passenger, a device or a person does."""

from dataclasses import replace

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Device, Door
from gated.lane.settings import Topology
from tests.play import TRAVELLER, Play

STEPS = [
    State.STARTING,
    State.IDLE,
    State.CHECKING,
    State.REFUSED,
    State.ADMITTING,
    State.ENCLOSING,
    State.MATCHING,
    State.FINGERING,
    State.CONFIRMING,
    State.RECORDING,
    State.RELEASING,
    State.CLEARING,
    State.REFERRED,
    State.RETURNING,
    State.CLOSED,
    State.STOPPED,
    State.EMERGENCY,
    State.AFTER_FIRE,
    State.SERVICE,
]


def reach(state: State, topology: Topology = Topology.MANTRAP) -> Play:
    """A lane in this state, with a passenger where the state has one."""
    play = Play(topology, start=state is not State.STARTING)
    waits = {
        State.CHECKING: cmd.ReadChip,
        State.MATCHING: cmd.CompareFace,
        State.FINGERING: cmd.CompareFinger,
        State.CONFIRMING: cmd.ReadFlags,
        State.RECORDING: cmd.Record,
    }
    if state in waits:
        play.answers[waits[state]] = None
    if state is State.FINGERING:
        play.traveller = replace(TRAVELLER, category="spouse", fingers=("right_index",))
    if state is State.REFUSED:
        play.traveller = None
    match state:
        case State.STARTING | State.IDLE:
            pass
        case State.CHECKING | State.REFUSED | State.ADMITTING:
            play.present()
        case State.ENCLOSING:
            play.present()
            play.do(ev.DoorOpened(Door.A), ev.PresenceChanged(1), ev.PersonPassed(Door.A, True))
        case State.MATCHING | State.FINGERING | State.CONFIRMING | State.RECORDING | State.RELEASING:
            play.inside()
        case State.CLEARING:
            play.inside()
            play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, False))
        case State.REFERRED:
            play.inside(score=0.1)
        case State.RETURNING:
            play.inside(score=0.1)
            play.do(ev.OfficerRefuses("r", "wu", 1))
        case State.CLOSED:
            play.do(ev.CloseLane("c", "hq"))
        case State.STOPPED:
            play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
        case State.EMERGENCY:
            play.do(ev.FireStarted())
        case State.AFTER_FIRE:
            play.do(ev.FireStarted(), ev.FireEnded())
        case State.SERVICE:
            play.do(ev.ServiceOn("s", "lin"))
    assert play.at(state), play.state
    return play


def gate_again(play: Play, persons: int = 0) -> None:
    """The door's driver is back: it tells everything, then that it is ready."""
    doors = (ev.DoorClosed(door) for door in play.lane.gate.leaves)
    play.do(*doors, ev.PresenceChanged(persons), ev.DeviceReady(Device.DOOR))
