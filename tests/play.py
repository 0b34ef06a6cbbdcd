"""Plays a lane by hand: a scripted gate, devices that answer at once, and the invariants watched after every event."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.calendar import Calendar
from gated.lane.commands import AlarmCode, Command
from gated.lane.core import State
from gated.lane.events import Device, Door, Event, Now, Traveller
from gated.lane.freshness import Ages, Freshness
from gated.lane.machine import Lane
from gated.lane.policy import REASONS
from gated.lane.rules import Category, DocumentKind, Origin, Picture, Rules, Size, Urgency, Where
from gated.lane.settings import BOTH, Timing, Topology, Ways
from tests.invariants import Invariants

DEVICES = frozenset(Device) - {Device.CHIP, Device.SPEAKER, Device.DISPLAY}
MAY_MISS = frozenset({"chip", "face_pad", "finger_pad", "height"})
PASSPORTS = {"passport": DocumentKind(frozenset({"P"}))}
ANYWHERE = Where(frozenset({"here"}), frozenset({"here"}))


def rules(categories: Mapping[str, Category], **change: Any) -> Rules:
    """A small policy: passports, one place, whoever is ten. `change`: fields of it."""
    return Rules(
        **{
            "version": "test-1",
            "edition": 1,
            "zone": UTC,
            "places": frozenset({"here"}),
            "sizes": (Size(date(2000, 1, 1), 10, 120),),
            "documents": PASSPORTS,
            "categories": categories,
            "matrix": {name: dict.fromkeys(PASSPORTS, ANYWHERE) for name in categories},
            "permits": frozenset({"residence", "entry_permit", "stay", "leave"}),
            "controls": {},
            "document_controls": {},
            "origins": {"counter": Origin(frozenset(categories))},
            "calendar": Calendar(date(2027, 12, 31)),
            "reasons": dict.fromkeys(REASONS, Urgency.ROUTINE),
            "freshness": {"people": Ages(600, 3600, 86400), "control": Ages(300, 1800, 86400)},
            **change,
        }
    )


RULES = rules(
    {
        "national": Category(may_miss=MAY_MISS, fingers_alone=True),
        "supported": Category(weak_face=True, may_miss=MAY_MISS),
        "spouse": Category(finger=True, may_miss=MAY_MISS),
        "strict": Category(may_miss=frozenset({"height"})),
        "current": Category(cache_until=Freshness.LATE, may_miss=frozenset({"height"})),
        "strict_spouse": Category(finger=True, may_miss=MAY_MISS - {"finger_pad"}),
    },
    attachments={
        "case_picture": Picture(frozenset({"refer"}), 3),
        "entry_face": Picture(frozenset({"grant"}), 5, frozenset({"entry"})),
    },
)
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
THRESHOLD = 0.412
WEAK = 0.3

DOCUMENT = Document(
    format="TD3",
    code="P",
    issuer="TWN",
    number="300000001",
    nationality="TWN",
    birth="900101",
    sex="F",
    expiry="300101",
    surname="LIN",
    given_names="MEI LING",
    names_truncated=False,
    optional="A234567893",
    lines=(),
)
OTHER = replace(DOCUMENT, number="300000002", surname="WANG")
TRAVELLER = Traveller(
    subject=7, category="national", birth=date(1990, 1, 1), flags=frozenset(), permits=(), face=True, fingers=()
)

UNSEEN_S = Timing().face_s * Timing().face_tries
"""So long after the entry shut nobody learns that they are referred (L8)."""
Answerer = Callable[[Any], Event | None]


class Play:
    """One lane whose world is the test. `now` moves only by `wait`."""

    def __init__(
        self,
        topology: Topology = Topology.MANTRAP,
        *,
        timing: Timing | None = None,
        rules: Rules = RULES,
        traveller: Traveller | None = TRAVELLER,
        score: float = 0.7,
        start: bool = True,
        devices: frozenset[Device] = DEVICES,
        ways: Ways | None = None,
    ) -> None:
        ways = ways or Ways(BOTH if topology is Topology.BIDIRECTIONAL else "exit")
        self.lane = Lane(topology, timing or Timing(), rules, devices, place="here", ways=ways)
        self.lane.offer(replace(rules, version="test-2", edition=2))
        self.invariants = Invariants(self.lane)
        self.mono = 100.0
        self.utc = START
        self.log: list[Command] = []
        self.traveller = traveller
        self.score = score
        self.whole: tuple[cmd.CompareFace, float] | None = None
        """A comparison that takes all of its time, and when that is over."""
        self.answers: dict[type[Command], Answerer | None] = {
            cmd.ReadChip: lambda c: ev.ChipRead(
                c.ticket, c.ask, Check.NOT_SUPPORTED, Check.NOT_SUPPORTED, Check.NOT_SUPPORTED
            ),
            cmd.LookUp: self._look_up,
            cmd.ReadFlags: lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset()),
            cmd.CompareFace: self._answered_face,
            cmd.CompareFinger: lambda c: ev.FingerCompared(c.ticket, c.ask, Check.NOT_SUPPORTED, finger=c.finger),
            cmd.Record: lambda c: ev.Recorded(c.ticket, c.ask),
        }
        if start:
            self.do(*(ev.DoorClosed(door) for door in self.lane.gate.leaves), ev.Started(1))
            self.do(*(ev.DeviceReady(device) for device in sorted(devices, key=lambda d: d.value)))

    def _look_up(self, command: cmd.LookUp) -> Event:
        if self.traveller is None:
            return ev.NoRecord(command.ticket, command.ask, frozenset())
        return ev.RecordFound(command.ticket, command.ask, self.traveller)

    def _answered_face(self, command: cmd.CompareFace) -> Event | None:
        """At once, but for one that takes all of its time: `wait` gives that."""
        if not command.whole:
            return self._face(command)
        self.whole = command, self.mono + command.within_s
        return None

    def _face(self, command: cmd.CompareFace) -> Event:
        result = Check.SUCCESSFUL if self.score >= THRESHOLD else Check.FAILED
        return ev.FaceCompared(
            command.ticket,
            command.ask,
            result,
            self.score,
            THRESHOLD,
            1e-4,
            self.mono,
            1,
            weak_threshold=WEAK,
            weak_fmr=1e-2,
        )

    @property
    def now(self) -> Now:
        return Now(self.mono, self.utc)

    @property
    def state(self) -> State:
        return self.lane.state

    def at(self, state: State) -> bool:
        """Whether the lane is in this state."""
        return self.lane.state is state

    def do(self, *events: Event) -> list[Command]:
        """Hand events to the lane, with every answer that its commands call for; returns the commands."""
        mark = len(self.log)
        todo = list(events)
        while todo:
            event = todo.pop(0)
            now = self.now
            commands = self.lane.handle(event, now)
            self.invariants.saw(event, now, commands)
            self.log += commands
            for command in commands:
                answer = self.answers.get(type(command))
                reply = answer(command) if answer else None
                if reply is not None:
                    todo.append(reply)
        return self.log[mark:]

    def wait(self, seconds: float) -> list[Command]:
        """Let time pass; every deadline on the way is delivered at its moment."""
        mark = len(self.log)
        end = self.mono + seconds
        while self.whole is not None and self.whole[1] <= end:
            (command, due), self.whole = self.whole, None
            self.wait(max(0.0, due - self.mono))
            self.do(self._face(command))
        while self.lane.deadline is not None and self.lane.deadline <= end:
            step = max(0.0, self.lane.deadline - self.mono)
            self.mono += step
            self.utc += timedelta(seconds=step)
            self.do(ev.Deadline())
        self.utc += timedelta(seconds=end - self.mono)
        self.mono = end
        return self.log[mark:]

    # -- gestures ------------------------------------------------------------------------------------------

    def present(self, document: Document = DOCUMENT, side: Door = Door.A) -> list[Command]:
        return self.do(ev.DocumentPresented(document, side))

    def enter(self, door: Door = Door.A) -> None:
        """The leaf opens, one person walks in, the leaf shuts."""
        self.do(ev.DoorOpened(door))
        self.wait(1.0)
        self.do(ev.DoorwayBlocked(door), ev.PresenceChanged(1), ev.PersonPassed(door, True), ev.DoorwayCleared(door))
        self.wait(1.0)
        self.do(ev.DoorClosed(door))

    def leave(self, door: Door = Door.B) -> None:
        """The leaf opens, the person walks out, the leaf shuts."""
        self.do(ev.DoorOpened(door))
        self.wait(1.0)
        self.do(ev.DoorwayBlocked(door), ev.PersonPassed(door, False))
        if self.lane.enclosed:
            self.do(ev.PresenceChanged(0))
        self.do(ev.DoorwayCleared(door))
        self.wait(1.0)
        self.do(ev.DoorClosed(door))

    def inside(self, score: float = 0.7) -> None:
        """A passenger as far as the verdict and what follows at once from it."""
        self.score = score
        self.present()
        if self.lane.enclosed:
            self.enter()

    # -- what happened ---------------------------------------------------------------------------------------

    def all(self, kind: type[Command]) -> list[Any]:
        return [command for command in self.log if type(command) is kind]

    def alarms(self) -> list[AlarmCode]:
        return [command.code for command in self.all(cmd.Alarm)]

    def settled(self) -> list[tuple[int, str]]:
        return [(command.ticket, command.outcome.value) for command in self.all(cmd.Settle)]

    def accepted(self, order: str) -> bool:
        return [a.accepted for a in self.all(cmd.Answer) if a.order == order] == [True]

    def requested(self) -> set[Door]:
        return set(self.invariants.requested)
