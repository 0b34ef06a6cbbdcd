"""What must hold of a lane after every event, whatever happened: checked from its inputs and outputs alone."""

from dataclasses import fields, is_dataclass
from datetime import timedelta
from typing import Any

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode, Command, Light
from gated.lane.core import DWELL, TURN_S_MIN, State
from gated.lane.events import Device, Door, Event, Now, Traveller
from gated.lane.evidence import Decision
from gated.lane.machine import Lane
from gated.lane.settings import BOTH, WAYS, Topology

HELD = frozenset({State.ENCLOSING, State.MATCHING, State.FINGERING, State.CONFIRMING, State.RECORDING, State.REFERRED})
"""Somebody may stand between two shut doors. Named here, not taken from the lane that is watched."""
RESTS = frozenset({State.STARTING, State.IDLE, State.CLOSED, State.AFTER_FIRE, State.SERVICE})
"""States that may last for ever; every other one ends."""


class Broken(AssertionError):
    """An invariant does not hold."""


class Invariants:
    """Follows one lane. `saw` is called after each event with what the lane answered."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.requested: set[Door] = set()
        self.pending: dict[tuple[int, int], cmd.Record] = {}
        self.durable: dict[int, cmd.Record] = {}
        self.opened: set[int] = set()
        self.settled: dict[int, cmd.Settle] = {}
        self.forgotten: set[int] = set()
        self.flags_read: dict[int, float] = {}
        self.shut_mono: dict[Door, float] = {}
        self.granted: set[int] = set()
        self.leaves: dict[Door, bool | None] = dict.fromkeys(lane.gate.leaves)
        """As last observed; None: not since the sensors were lost."""
        self.burning = False
        self.inside_since: float | None = None
        self.started = False
        self.ordered_way: str | None = None
        self.asked_way: dict[str, str] = {}
        self.sides: dict[int, Door] = {}
        """Where the passenger of each ticket presented the document."""
        self.green: set[Door] = set()
        self.looked: Now | None = None
        """When the lane last had a reason to look at its wall clock."""

    def saw(self, event: Event, now: Now, commands: tuple[Command, ...]) -> None:
        self._input(event, now)
        for command in commands:
            self._command(command, now)
        self._after(event, now)

    def _input(self, event: Event, now: Now) -> None:
        match event:
            case ev.Started(direction=way) if not self.started:
                self.started = True
                self.ordered_way = way if self.lane.ways.direction == BOTH and way in WAYS else None
            case ev.SetDirection(order, _, way):
                self.asked_way[order] = way
            case ev.Recorded(ticket, ask) if (ticket, ask) in self.pending:
                self.durable[ticket] = self.pending.pop((ticket, ask))
            case ev.FlagsRead(ticket):
                self.flags_read[ticket] = now.mono
            case ev.DoorOpened(door) if door in self.leaves:
                self.leaves[door] = True
            case ev.DoorClosed(door) if door in self.leaves:
                self.leaves[door] = False
                self.shut_mono[door] = now.mono
            case ev.DeviceLost(Device.DOOR):
                self.leaves = dict.fromkeys(self.leaves)
            case ev.PresenceChanged(persons):
                if not persons:
                    self.inside_since = None
                elif self.inside_since is None:
                    self.inside_since = now.mono
            case ev.FireStarted() | ev.FireEnded():
                self.burning = isinstance(event, ev.FireStarted)
            case _:
                pass

    def _command(self, command: Command, now: Now) -> None:
        match command:
            case cmd.Record(ticket, ask):
                if self.lane.ways.direction == BOTH and command.evidence.direction != _way(command.came_from):
                    raise Broken("a verdict is told in the wrong direction")
                self.opened.add(ticket)
                self.pending[ticket, ask] = command
            case cmd.LookUp(ticket):
                self.opened.add(ticket)
            case cmd.Watch(ticket, side):
                self._begins(ticket, side, now)
            case cmd.Indicate(side, light):
                (self.green.add if light is Light.GREEN else self.green.discard)(side)
            case cmd.Answer(order, accepted) if order in self.asked_way:
                way = self.asked_way.pop(order)
                if accepted:
                    self.ordered_way = None if way == "schedule" else way
            case cmd.RequestOpen(door):
                self._open(door, now)
            case cmd.CompareFace(since_mono=since):
                self._compare(since)
            case cmd.CompareFinger():
                self._finger(command)
            case cmd.Alarm(AlarmCode.STAYED_TOO_LONG) if self._unrecorded():
                self.inside_since = (
                    now.mono
                )  # held, and called for again: to the exit side nobody goes without a record
            case cmd.WithdrawOpen(door):
                self.requested.discard(door)
            case cmd.Settle(ticket):
                if ticket in self.settled:
                    raise Broken(f"ticket {ticket} is settled twice")
                if command.came_from is not self.sides.get(ticket, command.came_from):
                    raise Broken(f"ticket {ticket} ends as if it had come from the other side")
                if self.lane.ways.direction == BOTH and command.direction != _way(command.came_from):
                    raise Broken("a crossing is told in the wrong direction")
                self.settled[ticket] = command
            case cmd.KeepPicture(ticket, what):
                self._keep(ticket, what)
            case cmd.Forget(ticket):
                self.forgotten.add(ticket)
            case _:
                pass

    def _keep(self, ticket: int, what: str) -> None:
        """Of a verdict that is durable, and before its passenger is forgotten; an entry face of who was let through."""
        durable = self.durable.get(ticket)
        if durable is None or ticket in self.forgotten:
            raise Broken(f"a picture of ticket {ticket} is kept, which has no durable verdict or has ended")
        if durable.verdict.decision is not {"case_picture": Decision.REFER, "entry_face": Decision.GRANT}[what]:
            raise Broken(f"a {what} of a {durable.verdict.decision.value}")
        passage = self.lane.passage
        if what == "entry_face" and not (passage is not None and passage.released):
            raise Broken("the face of somebody who was not let through is kept")

    def served(self, now: Now) -> set[Door]:
        """The sides on which a document may be presented, by orders, schedule and wall clock alone."""
        ways = self.lane.ways
        if ways.direction != BOTH:
            return {Door.A}
        way = self.ordered_way or ways.at(now.utc, self.lane.rules.zone)
        return {door for door, goes in ((Door.A, "exit"), (Door.B, "entry")) if way in (BOTH, goes)}

    def _begins(self, ticket: int, side: Door, now: Now) -> None:
        """A passenger is taken in: by a side that is served, and nobody else is."""
        if side not in self.served(now):
            raise Broken(f"a passenger is taken in by side {side.value}, which is not served")
        if set(self.sides) - set(self.settled):
            raise Broken("two passengers at once")
        self.sides[ticket] = side

    def _unrecorded(self) -> bool:
        """Whether the release of a stranger waits for a disk that does not answer."""
        waiting = {record.verdict.decision for record in self.pending.values()}
        return self.lane.passage is not None and waiting >= {Decision.RELEASE} and self.lane.state is State.RECORDING

    def _open(self, door: Door, now: Now) -> None:
        if self.requested - {door}:
            raise Broken("both leaves are requested together")
        if any(state is not False for leaf, state in self.leaves.items() if leaf is not door):
            raise Broken(f"{door} is requested while the other leaf is not seen shut")
        self.requested.add(door)
        passage = self.lane.passage
        if passage is None:
            raise Broken("a leaf is requested without a ticket")
        record = self.durable.get(passage.ticket)
        entry_side = door in self.lane.entries() and door is passage.near
        if entry_side:
            return
        if record is None:
            raise Broken(f"{door} is requested without a durable record of ticket {passage.ticket}")
        if record.verdict.decision is Decision.REFER:
            raise Broken("a leaf is requested on a referral")
        if record.verdict.decision is Decision.RELEASE and record.by is None and door is not record.came_from:
            raise Broken("a stranger is let out to the other side")
        if record.verdict.decision is Decision.GRANT:
            if door is record.came_from:
                raise Broken("a grant opens the far leaf")
            if record.by is None and record.ticket not in self.granted:
                self._grant(record, now)

    def _compare(self, since_mono: float) -> None:
        passage = self.lane.passage
        if passage is None:
            raise Broken("a face is compared without a ticket")
        if len(self.leaves) > 1 and since_mono < self.shut_mono.get(passage.near, float("inf")):
            raise Broken("frames from before the entry shut are asked for")

    def _grant(self, record: cmd.Record, now: Now) -> None:
        """A grant by the rules: controls seconds old, the face taken behind a shut entry."""
        self.granted.add(record.ticket)
        timing = self.lane.timing
        read = self.flags_read.get(record.ticket)
        if read is None or now.mono - read > timing.confirm_s + timing.record_s:
            raise Broken("the control flags were not read again just before the grant")
        face, traveller = record.evidence.face, record.evidence.traveller
        if traveller is None or record.evidence.flags or record.evidence.document_flags or traveller.flags:
            raise Broken("a grant against a control flag or without a record of the traveller")
        fingers = _matched(record)
        category = self.lane.rules.categories[traveller.category]
        if traveller.face:
            supported = category.weak_face and fingers and face is not None and face.weak_threshold is not None
            least = face.weak_threshold if supported and face else face.threshold if face else 1.0
            if face is None or face.score < (least or 1.0) or face.persons != 1:
                raise Broken("a grant without a matching face of one person")
            if self.lane.enclosed and face.captured_mono < self.shut_mono.get(record.came_from, float("inf")):
                raise Broken("a grant on a face from before the entry shut")
        if len(fingers) < max(int(category.finger), 0 if traveller.face else self.lane.rules.fingers_alone):
            raise Broken("a grant without the fingers that it needs")

    def _finger(self, asked: cmd.CompareFinger) -> None:
        """Of those enrolled, behind shut leaves, and not more often than somebody who guesses would like."""
        passage = self.lane.passage
        traveller = passage.evidence.traveller if passage else None
        if passage is None or traveller is None or asked.finger not in traveller.fingers:
            raise Broken("a finger is asked for that nobody here has enrolled")
        if len(self.leaves) > 1 and passage.near not in self.shut_mono:
            raise Broken("a finger is asked for before the entry shut")
        before = [f.finger for f in passage.evidence.fingers if f.score > 0]
        if len(before) >= self.lane.timing.finger_tries or before.count(asked.finger) > 1:
            raise Broken("fingers are compared too often")

    def _after(self, event: Event, now: Now) -> None:
        self._requests()
        self._lamps(event, now)
        self._times(event, now)
        self._tickets()

    def _requests(self) -> None:
        lane = self.lane
        if lane.topology is not Topology.SINGLE and len(self.requested) > 1:
            raise Broken("both leaves are requested together")
        if Device.DOOR in lane.gate.lost and self.requested:
            raise Broken("a leaf is requested while the gate cannot be seen")
        if lane.state is State.EMERGENCY and self.requested:
            raise Broken("a leaf is requested in an emergency")
        if self.burning and self.requested:
            raise Broken("a leaf is requested while it burns")
        if self.burning and lane.state is State.IDLE:
            raise Broken("passengers are taken while it burns")
        if self.requested and lane.passage is None:
            raise Broken("a leaf stays requested without a ticket")

    def _lamps(self, event: Event, now: Now) -> None:
        """Green is who would be taken in now; where the wall clock jumps, from the moment on that the lane is told."""
        if self.green and self.lane.state is not State.IDLE:
            raise Broken("green, and nobody is taken in")
        last, told = self.looked, isinstance(event, ev.DocumentPresented | ev.SetDirection | ev.ClockStepped)
        if told or last is None:
            self.looked = now
        elif abs((now.utc - last.utc) / timedelta(seconds=1) - (now.mono - last.mono)) > 0.1:
            return
        late = Now(now.mono, now.utc - timedelta(seconds=0 if told else TURN_S_MIN + 0.1))
        if self.lane.state is State.IDLE and self.green not in (self.served(now), self.served(late)):
            raise Broken(f"green at {self.green}, and {self.served(now)} are served")

    def _times(self, event: Event, now: Now) -> None:
        lane = self.lane
        if lane.state not in RESTS:
            longest = max(getattr(lane.timing, name) for name in DWELL.values() if name)
            if lane.deadline is None or lane.deadline > now.mono + longest:
                raise Broken(f"{lane.state} waits without end")
        if type(event) is ev.Deadline and lane.deadline is not None and lane.deadline <= now.mono:
            raise Broken(f"{lane.state} wakes itself without end")
        since = self.inside_since
        overdue = since is not None and now.mono > since + lane.timing.stay_s_max
        overdue = overdue and (lane.deadline is None or lane.deadline > now.mono)
        shut_in = lane.state is State.AFTER_FIRE and lane.gate.shut() and Device.DOOR not in lane.gate.lost
        if lane.topology is not Topology.SINGLE and (lane.state in HELD or shut_in) and overdue:
            raise Broken("somebody is held inside beyond the longest stay")

    def _tickets(self) -> None:
        lane = self.lane
        current = lane.passage.ticket if lane.passage else None
        open_tickets = self.opened - set(self.settled) - {current}
        if open_tickets:
            raise Broken(f"tickets {sorted(open_tickets)} ended without a settled record")
        if current is not None and current in self.settled:
            raise Broken(f"ticket {current} goes on after it was settled")
        if set(self.settled) != self.forgotten:
            raise Broken("settled and forgotten differ")
        if current is None:
            found = reach({**vars(lane), "waiting": None}, (Document, Traveller))
            if found:
                raise Broken(f"something of a passenger can be reached after Forget: {found}")


def reach(root: Any, kinds: tuple[type, ...]) -> list[str]:
    """Type names of every instance of `kinds` that can be reached from `root` through attributes and containers."""
    seen: set[int] = set()
    found: list[str] = []
    todo = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, (str, bytes, int, float, type, type(None))):
            continue
        seen.add(id(each))
        if isinstance(each, kinds):
            found.append(type(each).__name__)
        elif isinstance(each, dict):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple, set, frozenset)):
            todo += each
        elif is_dataclass(each):
            todo += [getattr(each, f.name) for f in fields(each)]
        elif hasattr(each, "__dict__"):
            todo += vars(each).values()
    return found


def _way(came_from: Door) -> str:
    return "exit" if came_from is Door.A else "entry"


def _matched(record: cmd.Record) -> set[str]:
    return {f.finger for f in record.evidence.fingers if f.result is Check.SUCCESSFUL and f.score >= f.threshold}
