"""The machine: what every state does with every event. No I/O, no clock.

`TABLE` has no missing cell: it is `DEFAULT` overlaid with each state's own row, and checked at import. Rows are in
the order a passenger walks; the handlers lie in `entering`, `proving`, `leaving` and `referral`, and what may come
at any time in `trouble` and `charge`.
"""

from gated.lane import charge, entering, leaving, moves, proving, referral, trouble
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Command
from gated.lane.core import DWELL, Core, Handler, State
from gated.lane.events import EVENTS, Device, Event, Now
from gated.lane.referral import unless_stayed

DEFAULT: dict[type[Event], Handler] = {
    ev.Started: moves.nothing,
    ev.Deadline: moves.nothing,
    ev.EventsLost: trouble.events_lost,
    ev.ClockStepped: trouble.clock_stepped,
    ev.DeviceReady: moves.nothing,
    ev.DeviceLost: trouble.device_lost,
    ev.PolicyReady: charge.policy_ready,
    ev.UplinkLost: moves.nothing,
    ev.UplinkReady: moves.nothing,
    ev.DocumentPresented: entering.busy,
    ev.DocumentUnreadable: moves.nothing,
    ev.DocumentRemoved: entering.removed,
    ev.ChipRead: moves.nothing,
    ev.RecordFound: moves.nothing,
    ev.NoRecord: moves.nothing,
    ev.LookUpFailed: moves.nothing,
    ev.FlagsRead: moves.nothing,
    ev.FaceCompared: moves.nothing,
    ev.FaceAdvice: moves.nothing,
    ev.FingerCompared: moves.nothing,
    ev.FingerAdvice: moves.nothing,
    ev.Recorded: leaving.referral_recorded,
    ev.NotRecorded: moves.nothing,
    ev.DoorOpened: trouble.door_opened,
    ev.DoorClosed: moves.nothing,
    ev.PersonPassed: moves.against_the_way,
    ev.DoorwayBlocked: moves.nothing,
    ev.DoorwayCleared: moves.nothing,
    ev.ObstacleHit: trouble.obstacle,
    ev.PresenceChanged: moves.nothing,
    ev.HelpPressed: trouble.help_pressed,
    ev.FireStarted: trouble.fire,
    ev.FireEnded: moves.nothing,
    ev.MainsLost: trouble.mains_lost,
    ev.MainsBack: moves.nothing,
    ev.OfficerOpens: charge.not_now,
    ev.OfficerRefuses: charge.not_now,
    ev.OfficerRetries: charge.not_now,
    ev.CloseLane: charge.close_lane,
    ev.OpenLane: charge.open_lane,
    ev.SetDirection: charge.set_direction,
    ev.Reset: charge.not_now,
    ev.ServiceOn: charge.not_now,
    ev.ServiceOff: charge.not_now,
    ev.ServiceDoor: charge.not_now,
}
"""What every state does with an event unless its own row says otherwise: nobody gets in, nobody gets through."""

_RESTING: dict[type[Event], Handler] = {
    ev.DeviceReady: moves.look_again,
    ev.DoorClosed: moves.look_again,
    ev.PresenceChanged: moves.look_again,
    ev.MainsBack: moves.look_again,
    ev.ServiceOn: charge.service_on,
}
_CALLED: dict[type[Event], Handler] = {
    ev.OfficerOpens: referral.if_called(referral.officer_opens),
    ev.OfficerRefuses: referral.if_called(referral.officer_refuses),
    ev.OfficerRetries: referral.if_called(referral.officer_retries),
}
_HELD: dict[type[Event], Handler] = {
    ev.PersonPassed: proving.someone_passed_inside,
    ev.PresenceChanged: proving.inside_presence,
    ev.HelpPressed: trouble.help_inside,
}

ROWS: dict[State, dict[type[Event], Handler]] = {
    State.STARTING: {
        **dict.fromkeys(DEFAULT, moves.nothing),
        **{event: charge.not_now for event in DEFAULT if issubclass(event, ev.Order)},
        ev.Started: entering.start,
        ev.PolicyReady: charge.policy_ready,
    },
    State.IDLE: {
        **_RESTING,
        ev.DocumentPresented: moves.present,
        ev.DocumentUnreadable: entering.unreadable,
    },
    State.CHECKING: {
        ev.Deadline: entering.check_overdue,
        ev.DocumentRemoved: entering.check_removed,
        ev.ChipRead: entering.check_chip,
        ev.RecordFound: entering.check_found,
        ev.NoRecord: entering.check_no_record,
        ev.LookUpFailed: entering.check_failed,
    },
    State.REFUSED: {ev.Deadline: entering.refused_overdue},
    State.ADMITTING: {
        ev.Deadline: entering.admit_overdue,
        ev.PersonPassed: entering.admit_passed,
        ev.PresenceChanged: entering.admit_presence,
    },
    State.ENCLOSING: {
        **_HELD,
        ev.Deadline: unless_stayed(entering.enclose_overdue),
        ev.DoorClosed: entering.enclose_closed,
        ev.DoorwayBlocked: entering.enclose_blocked,
        ev.DoorwayCleared: entering.enclose_cleared,
        ev.ObstacleHit: entering.enclose_obstacle,
        ev.PersonPassed: entering.enclose_passed,
        ev.PresenceChanged: entering.enclose_presence,
    },
    State.MATCHING: {
        **_HELD,
        **_CALLED,
        ev.Deadline: unless_stayed(proving.proof_overdue),
        ev.FaceAdvice: proving.match_advice,
        ev.FaceCompared: proving.match_face,
    },
    State.FINGERING: {
        **_HELD,
        **_CALLED,
        ev.Deadline: unless_stayed(proving.proof_overdue),
        ev.FingerAdvice: proving.finger_advice,
        ev.FingerCompared: proving.match_finger,
    },
    State.CONFIRMING: {
        **_HELD,
        **_CALLED,
        ev.Deadline: unless_stayed(proving.proof_overdue),
        ev.FlagsRead: proving.confirm_flags,
        ev.LookUpFailed: proving.confirm_failed,
    },
    State.RECORDING: {
        **_HELD,
        ev.Deadline: unless_stayed(leaving.record_overdue),
        ev.Recorded: leaving.recorded,
        ev.NotRecorded: leaving.not_recorded,
    },
    State.RELEASING: {
        ev.Deadline: leaving.release_overdue,
        ev.DoorwayBlocked: leaving.release_doorway,
        ev.PersonPassed: leaving.release_passed,
        ev.PresenceChanged: leaving.release_presence,
    },
    State.CLEARING: {
        ev.Deadline: leaving.clear_overdue,
        ev.DoorClosed: leaving.clear_look_again,
        ev.DoorwayBlocked: leaving.clear_blocked,
        ev.PersonPassed: leaving.clear_passed,
        ev.PresenceChanged: leaving.clear_presence,
    },
    State.REFERRED: {
        ev.Deadline: unless_stayed(referral.officer_overdue),
        ev.UplinkLost: referral.officer_lost,
        ev.HelpPressed: trouble.help_inside,
        ev.PersonPassed: referral.referred_passed,
        ev.PresenceChanged: referral.referred_presence,
        ev.OfficerOpens: referral.officer_opens,
        ev.OfficerRefuses: referral.officer_refuses,
        ev.OfficerRetries: referral.officer_retries,
    },
    State.RETURNING: {
        ev.Deadline: referral.return_overdue,
        ev.DoorClosed: referral.return_door_closed,
        ev.DoorwayBlocked: referral.return_blocked,
        ev.DoorwayCleared: referral.return_cleared,
        ev.PersonPassed: referral.return_passed,
        ev.PresenceChanged: referral.return_presence,
    },
    State.CLOSED: {**_RESTING, ev.Reset: charge.reset},
    State.STOPPED: {
        ev.Deadline: trouble.stopped_overdue,
        ev.DeviceReady: trouble.stopped_look_again,
        ev.DoorClosed: trouble.stopped_look_again,
        ev.Reset: charge.reset,
        ev.ServiceOn: charge.service_on,
    },
    State.EMERGENCY: {
        ev.Deadline: trouble.fire_overdue,
        ev.DeviceLost: moves.nothing,
        ev.DoorOpened: moves.nothing,
        ev.EventsLost: moves.nothing,
        ev.FireStarted: moves.nothing,
        ev.FireEnded: trouble.fire_ended,
        ev.PersonPassed: moves.nothing,
    },
    State.AFTER_FIRE: {
        ev.Deadline: trouble.after_fire_overdue,
        ev.DeviceReady: moves.look_again,
        ev.DoorClosed: moves.look_again,
        ev.PresenceChanged: moves.look_again,
        ev.DeviceLost: moves.nothing,
        ev.DoorOpened: moves.nothing,
        ev.EventsLost: moves.nothing,
        ev.PersonPassed: moves.nothing,
        ev.Reset: charge.reset,
    },
    State.SERVICE: {
        ev.Deadline: charge.service_not_recorded,
        ev.DeviceLost: charge.service_device_lost,
        ev.DoorOpened: charge.service_opened,
        ev.NotRecorded: charge.service_not_recorded,
        ev.PersonPassed: charge.service_passed,
        ev.Recorded: charge.service_recorded,
        ev.ServiceDoor: charge.service_door,
        ev.ServiceOff: charge.service_off,
    },
}


TABLE: dict[State, dict[type[Event], Handler]] = {state: DEFAULT | ROWS[state] for state in State}

assert set(DEFAULT) == EVENTS, set(DEFAULT) ^ EVENTS
assert all(set(row) == EVENTS for row in TABLE.values()), "the table has no missing cell"
assert all(DWELL[s] is None or ev.Deadline in ROWS[s] for s in State), "a state with a dwell says what its end means"


ANSWERS: dict[type[Event], tuple[type[cmd.Request], ...]] = {
    ev.ChipRead: (cmd.ReadChip,),
    ev.RecordFound: (cmd.LookUp,),
    ev.NoRecord: (cmd.LookUp,),
    ev.LookUpFailed: (cmd.LookUp, cmd.ReadFlags),
    ev.FlagsRead: (cmd.ReadFlags,),
    ev.FaceCompared: (cmd.CompareFace,),
    ev.FaceAdvice: (cmd.CompareFace,),
    ev.FingerCompared: (cmd.CompareFinger,),
    ev.FingerAdvice: (cmd.CompareFinger,),
    ev.Recorded: (cmd.Record,),
    ev.NotRecorded: (cmd.Record,),
}
"""Which request an answer may be the answer to."""

assert set(ANSWERS) == {event for event in EVENTS if issubclass(event, ev.Ticketed)}


class Lane(Core):
    """One lane. `handle` is its only input, the returned commands its only output."""

    def handle(self, event: Event, now: Now) -> tuple[Command, ...]:
        """Take one event and return what is to be done. Never raises for anything that happens in the world."""
        if type(event) is ev.Deadline and (self.deadline is None or now.mono < self.deadline):
            return ()
        if not self._concerns(event):
            return ()
        if self.waiting is not None and now.mono - self.waiting[1] > self.timing.waiting_s_max:
            self.waiting = None
        unwritten = Device.STORE in self.gate.lost
        self.gate.observe(event, now)
        if isinstance(event, ev.Ticketed) and not self._awaited(event):
            if not unwritten or Device.STORE in self.gate.lost:
                return ()
            event = ev.DeviceReady(Device.STORE)  # an answer that nobody waits for any more, but the disk writes again
        if self.turns_now(now):
            self.turn(now)
        if type(event) is not ev.Deadline or self.is_overdue(now):
            TABLE[self.state][type(event)](self, event, now)
        out, self._out = tuple(self._out), []
        return out

    def _concerns(self, event: Event) -> bool:
        """Whether this lane has the leaf or the room that the event is about."""
        if isinstance(event, ev.PresenceChanged):
            return self.enclosed
        door = getattr(event, "door", None)
        return door is None or door in self.gate.leaves or isinstance(event, ev.ServiceDoor)

    def _awaited(self, event: ev.Ticketed) -> bool:
        """Whether this is the one answer to the last request of its kind for the present ticket; any other is stale."""
        passage = self.passage
        if passage is None or passage.ticket != event.ticket:
            return False
        for request in ANSWERS[type(event)]:
            if passage.asks.get(request) == event.ask:
                if not isinstance(event, (ev.FaceAdvice, ev.FingerAdvice)):
                    del passage.asks[request]
                return True
        return False
