"""The lane without its decisions: states, times, and the verbs that handlers are made of. No I/O, no clock."""

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import policy
from gated.lane.commands import AlarmCode, Command, Light, Outcome, PromptCode
from gated.lane.entitlement import oddities
from gated.lane.events import Device, Door, Now
from gated.lane.evidence import Decision, Evidence, Verdict, with_found
from gated.lane.gate import Gate, Leaf
from gated.lane.passage import Kind, Passage
from gated.lane.rules import Rules, Urgency
from gated.lane.settings import BOTH, Timing, Topology, Ways


class State(Enum):
    """Where the lane is with its one passenger."""

    STARTING = "starting"
    IDLE = "idle"
    CHECKING = "checking"
    REFUSED = "refused"
    ADMITTING = "admitting"
    ENCLOSING = "enclosing"
    MATCHING = "matching"
    FINGERING = "fingering"
    CONFIRMING = "confirming"
    RECORDING = "recording"
    RELEASING = "releasing"
    CLEARING = "clearing"
    REFERRED = "referred"
    RETURNING = "returning"
    CLOSED = "closed"
    STOPPED = "stopped"
    EMERGENCY = "emergency"
    AFTER_FIRE = "after_fire"
    SERVICE = "service"


DWELL: dict[State, str | None] = {
    State.STARTING: None,
    State.IDLE: None,
    State.CHECKING: "check_s",
    State.REFUSED: "refused_s",
    State.ADMITTING: "admit_s",
    State.ENCLOSING: "enclose_s",
    State.MATCHING: "match_s",
    State.FINGERING: "fingers_s",
    State.CONFIRMING: "confirm_s",
    State.RECORDING: "record_s",
    State.RELEASING: "release_s",
    State.CLEARING: "clear_s",
    State.REFERRED: "officer_s",
    State.RETURNING: "return_s",
    State.CLOSED: None,
    State.STOPPED: "stopped_s",
    State.EMERGENCY: "evacuate_s",
    State.AFTER_FIRE: "stopped_s",
    State.SERVICE: None,
}
"""The name in `Timing` of the longest a state lasts; None: the lane rests there until something happens."""


SIGNS: dict[State, PromptCode] = {
    State.IDLE: PromptCode.PLACE_DOCUMENT,
    State.CHECKING: PromptCode.LEAVE_DOCUMENT,
    State.REFUSED: PromptCode.SEE_OFFICER,
    State.ADMITTING: PromptCode.WALK_IN,
    State.ENCLOSING: PromptCode.PLEASE_WAIT,
    State.MATCHING: PromptCode.LOOK_AT_CAMERA,
    State.RELEASING: PromptCode.WALK_THROUGH,
    State.REFERRED: PromptCode.SEE_OFFICER,
    State.RETURNING: PromptCode.GO_BACK,
    State.CLOSED: PromptCode.LANE_CLOSED,
    State.STOPPED: PromptCode.PLEASE_WAIT,
    State.EMERGENCY: PromptCode.EVACUATE,
    State.AFTER_FIRE: PromptCode.LANE_CLOSED,
    State.SERVICE: PromptCode.SERVICE,
}


TURN_S_MIN = 1.0
"""A schedule is not looked at more often, however the wall clock runs."""


OUTSIDE = frozenset({State.IDLE, State.CHECKING, State.REFUSED, State.ADMITTING, State.CLOSED, State.AFTER_FIRE})
"""The passenger who is spoken to stands in front of the lane."""


UNSERVED = frozenset({State.CLOSED, State.STOPPED, State.EMERGENCY, State.AFTER_FIRE, State.SERVICE})
"""Nobody is served next: a document that was laid down meanwhile is forgotten."""


STAYS = frozenset({State.ENCLOSING, State.MATCHING, State.FINGERING, State.CONFIRMING, State.RECORDING, State.REFERRED})
"""Somebody may be held between two shut doors: the longest stay counts."""


PROVING = frozenset({State.MATCHING, State.FINGERING, State.CONFIRMING})
"""The passenger is asked for proofs, in earnest or not (L8)."""


UNDECIDED = frozenset({State.ENCLOSING, State.MATCHING, State.FINGERING, State.CONFIRMING, State.RECORDING})
"""Inside, and no grant is durable yet."""


class Core:
    """What a lane knows and can do; what it decides is in the rows, and `machine.Lane` joins the two."""

    def __init__(
        self,
        topology: Topology,
        timing: Timing,
        rules: Rules,
        devices: frozenset[Device],
        *,
        place: str,
        ways: Ways,
    ) -> None:
        """`place`: where the lane stands, as the policy names it."""
        doors = (Door.B,) if topology is Topology.SINGLE else (Door.A, Door.B)
        self.topology = topology
        self.devices = devices
        self.timing = timing
        self.rules = rules
        self.place = place
        self.ways = ways
        self.ordered_way: str | None = None
        """Which way a person set the lane to go; None: as `ways` says."""
        self.state = State.STARTING
        self.gate = Gate({door: Leaf() for door in doors}, set(devices), timing.forced_grace_s)
        self.passage: Passage | None = None
        self.closed_by: str | None = None
        self.service_by: str | None = None
        self.reset_needed = False
        self.waiting: tuple[ev.DocumentPresented, float] | None = None
        """The next passenger's document, laid down while this one was served, and when."""
        self._offered: dict[str, Rules] = {}
        self._next_rules: Rules | None = None
        self.way = ways.direction
        """entry, exit or both: who is served now."""
        self.turns: tuple[datetime, str] | None = None
        """When (UTC) the schedule changes the way, and to which; None: it does not, or a person set it."""
        self._turn_mono: float | None = None
        self._next_ticket = 1
        self._asked = 0
        self._due: float | None = None
        self._out: list[Command] = []
        self._lights: dict[Door, Light] = {}
        self.serving: tuple[Door, ...] = self.entries()
        """The sides on which a document may be presented now."""

    @property
    def enclosed(self) -> bool:
        """Whether this lane can hold somebody between two doors."""
        return self.topology is not Topology.SINGLE

    @property
    def deadline(self) -> float | None:
        """Monotonic second at which the lane wants `Deadline`, or None."""
        return min((due for due in (self._state_due(), self._turn_mono) if due is not None), default=None)

    def _state_due(self) -> float | None:
        return min((due for due in (self._due, self._stay_due()) if due is not None), default=None)

    def _stay_due(self) -> float | None:
        since = self.gate.inside_since
        return since + self.timing.stay_s_max if self.enclosed and since is not None and self.state in STAYS else None

    def is_overdue(self, now: Now) -> bool:
        """Whether the present state has lasted for as long as it may."""
        due = self._state_due()
        return due is not None and now.mono >= due

    def turns_now(self, now: Now) -> bool:
        """Whether the schedule's next change may have come."""
        return self._turn_mono is not None and now.mono >= self._turn_mono

    def stayed_too_long(self, now: Now) -> bool:
        """Whether somebody has been inside for longer than anybody may be."""
        due = self._stay_due()
        return due is not None and now.mono >= due

    # -- the verbs that handlers are made of ----------------------------------------------------------------

    @property
    def guest(self) -> Passage:
        """The passage of a state that has one."""
        assert self.passage is not None, f"{self.state} has a passage"
        return self.passage

    def say(self, *commands: Command) -> None:
        self._out.extend(commands)

    def ask(self, request: Callable[..., cmd.Request], *args: Any, **kwargs: Any) -> None:
        """Send a request about the present passenger; answers to an earlier one of its kind become stale."""
        self._asked += 1
        command = request(self.guest.ticket, self._asked, *args, **kwargs)
        self.guest.asks[type(command)] = self._asked
        self.say(command)

    def goto(self, state: State, now: Now) -> None:
        """Enter a state: deadline, sign and lights."""
        if state in UNSERVED:
            self.waiting = None
        if state is State.IDLE:
            self.turn(now)
        if state not in PROVING:
            self._end_proof()
        if state is not self.state or DWELL[state] is not None:
            self.state = state
            self.sign()
            self.light()
        dwell = DWELL[state]
        self._due = None if dwell is None else now.mono + getattr(self.timing, dwell)

    def _end_proof(self) -> None:
        """Whatever ends it: nobody is led to believe anything any more, and no finger is waited for."""
        if self.passage is not None:
            self.passage.pretended = None
            if self.passage.asks.pop(cmd.CompareFinger, None) is not None:
                self.say(cmd.EndFinger(self.passage.ticket))

    def sign(self) -> None:
        """Tell the passenger what the present state has to say."""
        if self.state is State.FINGERING:
            self.say(cmd.Prompt(PromptCode(f"place_{self.guest.finger}")))
        elif self.state in SIGNS and self.state in OUTSIDE and self.passage is None:
            for door in self.entries():
                self.say(cmd.Prompt(SIGNS[self.state if door in self.serving else State.CLOSED], door))
        elif self.state in SIGNS:
            self.say(cmd.Prompt(SIGNS[self.state], self._side()))

    def light(self) -> None:
        """Green where a document may be presented now."""
        for door in Door:
            self._light(door, Light.GREEN if self.state is State.IDLE and door in self.serving else Light.RED)

    def turn(self, now: Now) -> None:
        """Serve the sides that schedule and orders say, and tell those for whom that is new (L7).

        Whoever is in the lane goes on their way."""
        if self.passage is None:
            self._take_rules()  # the country's time is the policy's
        zone, before = self.rules.zone, self.serving
        self.way = self.ordered_way or self.ways.at(now.utc, zone)
        self.turns = None if self.ordered_way else self.ways.next(now.utc, zone)
        self._turn_mono = None
        if self.turns is not None:
            self._turn_mono = now.mono + max(TURN_S_MIN, (self.turns[0] - now.utc) / timedelta(seconds=1))
        self.serving = tuple(door for door in self.entries() if self.way in (BOTH, self.ways.of(door)))
        if self.serving == before:
            return
        if self.state is State.IDLE:
            self.sign()
            self.light()
        elif self.passage is not None:
            for door in before:
                if door not in self.serving and door is not self._side():
                    self.say(cmd.Prompt(PromptCode.LANE_CLOSED, door))

    def resume(self, state: State, due: float | None) -> None:
        """Back to a state that the passenger believes the lane never left: no sign, no light, its old deadline (L8)."""
        self.state, self._due = state, due

    @property
    def due(self) -> float | None:
        """The present state's own deadline."""
        return self._due

    def wait(self, seconds: float, now: Now) -> None:
        """Put the present state's deadline `seconds` from now."""
        self._due = now.mono + seconds

    def entries(self) -> tuple[Door, ...]:
        """The sides that have a document reader."""
        return (Door.A, Door.B) if self.topology is Topology.BIDIRECTIONAL else (Door.A,)

    # -- the policy ------------------------------------------------------------------------------------------

    def offer(self, rules: Rules) -> None:
        """The shell has a policy that `PolicyReady` will name."""
        self._offered[rules.version] = rules

    def adopt(self, version: str) -> None:
        """The offered policy holds from the next passenger on, and at once where there is none."""
        self._next_rules = self._offered.pop(version, self._next_rules)
        if self.passage is None:
            self._take_rules()

    def _take_rules(self) -> None:
        if self._next_rules is not None:
            self.rules, self._next_rules = self._next_rules, None

    def _side(self) -> Door | None:
        """Where the passenger who is spoken to stands in front of the lane; None: inside."""
        return self.passage.near if self.passage is not None and self.state in OUTSIDE else None

    def _light(self, side: Door, light: Light) -> None:
        if self._lights.get(side) is not light:
            self._lights[side] = light
            self.say(cmd.Indicate(side, light))

    def request(self, door: Door) -> None:
        """Ask for a leaf. The other one is shut and not asked for: the caller made sure, and it is checked here."""
        assert all(not leaf.requested for leaf in self.gate.leaves.values()), "one leaf at a time"
        assert door is not self.passage_far() or self.guest.released, "the exit opens only after its record"
        self.gate.leaves[door].requested = True
        self.say(cmd.RequestOpen(door))

    def passage_far(self) -> Door | None:
        return self.passage.far if self.passage else None

    def withdraw(self, now: Now, *doors: Door) -> None:
        """Stop asking for these leaves (all of them where none is named)."""
        for door in doors or tuple(self.gate.leaves):
            leaf = self.gate.leaves.get(door)
            if leaf is not None and leaf.requested:
                leaf.requested, leaf.withdrawn_mono = False, now.mono
                self.say(cmd.WithdrawOpen(door))

    def shut(self, door: Door) -> bool:
        """Whether this leaf is observed closed; a leaf that the lane does not have is."""
        leaf = self.gate.leaves.get(door)
        return leaf is None or (leaf.open is False and not leaf.requested)

    def open_ticket(self, kind: Kind, near: Door, now: Now, document: Any = None) -> Passage:
        self._take_rules()
        way = self.ways.of(near)
        evidence = Evidence(now.utc, self.rules.day(now.utc), way, self.place, document=document)
        self.passage = Passage(self._next_ticket, kind, near, now, evidence)
        self._next_ticket += 1
        return self.passage

    def note(self, **found: Any) -> None:
        """Add to what is known of the passenger."""
        self.guest.evidence = with_found(self.guest.evidence, **found)

    def record(self, verdict: Verdict, by: str | None = None) -> None:
        guest = self.guest
        guest.verdict, guest.granted = verdict, False
        self.ask(cmd.Record, verdict, guest.near, guest.evidence, by)

    def verdict(self, decision: Decision, reason: str) -> Verdict:
        """One that no rule made."""
        if decision is Decision.REFER:
            return policy.referred(self.guest.evidence, self.rules, reason)
        return Verdict(decision, reason, self.rules.version, "", oddities(self.guest.evidence))

    def call_officer(self, reason: str) -> None:
        if self.passage is None:
            how = self.rules.reasons.get(reason, Urgency.ATTENTION)
            self.say(cmd.CallOfficer(None, reason, how.value))
        else:
            how = policy.urgency(self.passage.evidence, self.rules, reason)
            self.say(cmd.CallOfficer(self.passage.ticket, reason, how.value))

    def alarm(self, code: AlarmCode, detail: str = "") -> None:
        self.say(cmd.Alarm(code, detail))

    def answer(self, order: str | None, accepted: bool, why: str = "") -> None:
        if order is not None:
            self.say(cmd.Answer(order, accepted, why))

    def settle(self, outcome: Outcome | None = None) -> None:
        """End the ticket: its one settled record, and nothing of the passenger remains."""
        guest = self.guest
        self.answer(guest.order, False, "ticket_ended")
        ended = outcome or _outcome(guest)
        if ended is not Outcome.NOT_CROSSED and guest.verdict is None:
            # The verdict's record alone says who it was: without it somebody crossed and nobody knows who.
            self.record(self.verdict(Decision.REFER, "no_verdict"))
        self.say(
            cmd.Settle(guest.ticket, ended, guest.verdict, guest.passed, guest.near, self.ways.of(guest.near)),
            cmd.Forget(guest.ticket),
        )
        self.passage = None


Handler = Callable[[Core, Any, Now], None]


def _outcome(guest: Passage) -> Outcome:
    if guest.passed and guest.kind is not Kind.STRANGER and not guest.doubted:
        return Outcome.CROSSED
    if guest.passed:
        return Outcome.UNRESOLVED
    return Outcome.UNRESOLVED if guest.blind else Outcome.NOT_CROSSED
