"""Silent alarms (L8): a control changes nothing that the passenger can see, hear or time.

The whole lane in virtual time, three times with each seed: *free* (nothing against them), *sought* (the same with a
flag on holder or document), and *other* (no flag, but what the sought one was recognised by is enrolled of somebody
else). Until free's verdict sought is as free; from begin to end sought is as other; and where free is referred anyway,
as free. As means: the same prompts, lights, doors and commands to the fingerprint reader, at the same microsecond.

What is not the same, and what virtual time cannot show: a flag's row that is there takes about 0.01 ms longer to be
read and opened than one that is not, at the look-up and after each answer of matcher or finger desk; and the record of
a referral that is not shown yet is written while the next proof is waited for, and takes its time of processor and disk
then. An officer who is called at once may also come at once, and is then seen to.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from gated.biometrics.face import Threshold
from gated.daemon.lookup import LookUp
from gated.daemon.outlets import Outlets
from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import machine, proving
from gated.lane.commands import Command, Light, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Door, Event, Now
from gated.lane.evidence import Decision
from gated.lane.settings import Timing
from gated.wire import facts
from gated.wire.rows import FingerRow
from tests.hw_sim import prints, virtual
from tests.hw_sim.cast import INDEX_FINGERS, Manner
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.happenings import Topology
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.simlane import sim_folder
from tests.hw_sim.uru_reader import UruReader
from tests.hw_sim.zfm_sensor import ZfmSensor
from tests.play import TRAVELLER, Play
from tests.test_fingers_whole import ALL_ARE_WEAK, Picturing, Story, Visit, visit

SEEDS = 200
SHAPES = ("face", "weak", "both", "fingers")
"""How the passenger is recognised: the face alone, a weak one and a finger, both as demanded, two fingers alone."""
FLAGS = ({"wanted"}, {"cannot_operate"}, {"of no policy"}, {"wanted", "exit_ban"})
DOCUMENT_FLAGS = ({"lost"}, {"stolen"}, {"of no policy"})
ACTIONS = (None, ev.OfficerOpens, ev.OfficerRefuses, ev.OfficerRetries)
SEEN = (cmd.Prompt, cmd.Indicate, cmd.RequestOpen, cmd.WithdrawOpen)
FACE = "face"
SOMEBODY = 500
"""From the number of a person to that of somebody else."""
TIMING = "officer_s = 9.0\nofficer_offline_s = 5.0"
"""The wait for an officer is shorter than in a lane, so that it is played through sooner."""

Sight = tuple[float, str]
"""Something that the passenger sees or hears, and when, to the microsecond."""


@dataclass(frozen=True)
class Plan:
    """One seed's passenger and day."""

    seed: int
    kind: type["Watched"]
    topology: Topology
    shape: str
    who: Visit
    faces: Threshold | None
    flags: frozenset[str]
    document_flags: frozenset[str]
    act: type[ev.TicketOrder] | None
    offline: bool

    @property
    def sought(self) -> Visit:
        """The same passenger, with the flags."""
        enrolment = replace(self.who.enrolment, flags=self.flags, document_flags=self.document_flags)
        return replace(self.who, enrolment=enrolment)


def plan(seed: int, **fixed: Any) -> Plan:
    """`fixed`: fields of `Plan`, and `manner`, that are not to be drawn."""
    rng = Random(f"silence {seed}")
    kind = (Watched, WatchedPicturing)[seed % 2]
    topology = fixed.get("topology", list(Topology)[seed % 3])
    shape = fixed.get("shape", SHAPES[seed // 6 % 4])
    fingers = () if shape == "face" and rng.random() < 0.5 else INDEX_FINGERS
    bandaged = tuple(each for each in fingers if rng.random() < 0.12)
    category = "resident" if shape == "both" else "national"
    who = visit(seed, category, face=shape != "fingers", fingers=fingers, bandaged=bandaged)
    who.passenger.way = rng.choice(("ab", "ba")) if topology is Topology.BIDIRECTIONAL else "ab"
    who.passenger.manner = fixed.pop("manner", rng.choice((Manner.PLAIN, Manner.HESITATES, Manner.LOOKS_AWAY)))
    who.passenger.quality = rng.uniform(0.5, 1.0)
    on_document = rng.random() < 0.4
    drawn: dict[str, Any] = {
        "kind": kind,
        "topology": topology,
        "shape": shape,
        "who": who,
        "faces": ALL_ARE_WEAK if shape == "weak" else None,
        "flags": frozenset() if on_document and rng.random() < 0.7 else frozenset(rng.choice(FLAGS)),
        "document_flags": frozenset(rng.choice(DOCUMENT_FLAGS)) if on_document else frozenset(),
        "act": rng.choice(ACTIONS),
        "offline": rng.random() < 0.25,
    }
    return Plan(seed, **(drawn | fixed))


# -- what is watched -----------------------------------------------------------------------------------------------


@dataclass
class Watched(Story):
    """A lane of which everything is noted that its passenger could notice. `others`: what is enrolled of somebody
    else in place of the passenger, the face or fingers by name. `act`: what an officer does, some time after the
    passenger was told to see one."""

    others: frozenset[str] = frozenset()
    act: type[ev.TicketOrder] | None = None
    offline: bool = False
    at_once: bool = False
    """The officer acts some time after being called, whatever the passenger was told."""
    sights: list[Sight] = field(default_factory=list)
    recorded: list[tuple[float, cmd.Record]] = field(default_factory=list)
    ordered_mono: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.timing = self.timing or TIMING
        self.watchers.append(self._watch)
        self.upsets = lambda _: [self._officer()]
        if FACE in self.others:
            self.workers.faces = Swapped(self.seed, self.faces)

    def _watch(self, event: Event, now: Now, commands: tuple[Command, ...]) -> None:
        self.sights += [(round(now.mono, 6), str(each)) for each in commands if isinstance(each, SEEN)]
        self.recorded += [(now.mono, each) for each in commands if isinstance(each, cmd.Record)]

    def _told(self, what: str) -> None:
        self.sights.append((round(asyncio.get_running_loop().time(), 6), f"reader {what}"))

    def _sensor(self) -> Any:
        return Lit(self.cables["fingerprint"][1], self.rng, self._told)

    def _finger(self, person: int, finger: str) -> FingerRow:
        return super()._finger(person + SOMEBODY * (finger in self.others), finger)

    async def _officer(self) -> None:
        self.officer.away = True
        if self.offline:
            self.app.emit(ev.UplinkLost())
        delay_s = Random(f"acts {self.seed}").uniform(1.0, 6.0)
        while self.world.scripts or not self.world.came:
            await asyncio.sleep(0.1)
            passage = self.app.lane.passage
            called = passage is not None and passage.verdict is not None and passage.verdict.decision is Decision.REFER
            due = called if self.at_once else self.app.lane.state is State.REFERRED
            if due and self.act is not None and self.ordered_mono is None:
                await asyncio.sleep(delay_s)
                if (passage := self.app.lane.passage) is not None:
                    self.ordered_mono = asyncio.get_running_loop().time()
                    self.app.emit(self.act("order", "wu", passage.ticket))


class WatchedPicturing(Watched, Picturing):
    """The same with a reader that sends pictures over USB."""

    def _sensor(self) -> Any:
        sensor = LitPicturing(self.rng, 96, 128, scrambled=False)
        sensor.told = self._told
        sensor.shape = (128, 96)  # type: ignore[attr-defined]
        sensor.plug()
        return sensor


class Swapped(RecordedFaces):
    """What the counter stored was somebody else's face."""

    def template(self, person: int) -> bytes:
        return super().template(person + SOMEBODY)


class Lit(ZfmSensor):
    """A module that tells of each command: one of them lights it, the others keep it busy."""

    def __init__(self, link: MemoryByteLink, random: Random, told: Callable[[str], None]) -> None:
        super().__init__(link, random, features=prints.features, compare=prints.compare)
        self._told_of = told

    async def _obey(self, command: int, rest: bytes) -> None:
        self._told_of(f"{command:#04x}")
        await super()._obey(command, rest)


class LitPicturing(UruReader):
    """A reader that tells of each mode it is put into: some of them light it."""

    told: Callable[[str], None] = staticmethod(lambda what: None)

    def _write(self, number: int, data: bytes) -> None:
        if number == 0x4E:
            self.told(data.hex())
        super()._write(number, data)


def played(a_plan: Plan, who: Visit, others: frozenset[str] = frozenset(), *, at_once: bool = False) -> Watched:
    """The passenger's visit, to its end."""
    with sim_folder() as folder, capture_logs():
        lane = a_plan.kind(
            a_plan.seed,
            a_plan.topology,
            folder,
            visits=(who,),
            faces=a_plan.faces,
            others=others,
            act=a_plan.act,
            offline=a_plan.offline,
            at_once=at_once,
            gap_s=(1.0, 1.0),
        )
        virtual.run(lane.run())
    assert lane.sights and lane.recorded
    return lane


def mistaken(record: cmd.Record) -> frozenset[str]:
    """What would have had to be somebody else's for the passenger to have seen what they saw until this record."""
    found = record.evidence
    if not found.fingers:
        return frozenset({FACE})
    matched = {each.finger for each in found.fingers[:-1] if each.result is Check.SUCCESSFUL}
    assert found.traveller is not None
    return frozenset(found.traveller.fingers) - matched


def difference(a_plan: Plan) -> str:
    """The first thing by which a passenger of this plan could learn of the flag; "" for none."""
    free = played(a_plan, a_plan.who)
    sought = played(a_plan, a_plan.sought)
    at, verdict = free.recorded[0][0], free.recorded[0][1].verdict
    if verdict.decision is Decision.REFER:
        return _apart(free.sights, sought.sights)
    assert sought.recorded[0][1].verdict.reason.endswith("is_not_flagged")
    other = played(a_plan, a_plan.who, mistaken(sought.recorded[0][1]))
    assert other.recorded[0][1].verdict.decision is Decision.REFER
    before = [[each for each in lane.sights if each[0] < round(at, 6)] for lane in (free, sought)]
    return _apart(*before) or _apart(other.sights, sought.sights)


def _apart(one: list[Sight], two: list[Sight]) -> str:
    pairs = zip([*one, (0.0, "nothing")], [*two, (0.0, "nothing")], strict=False)
    return next((f"{b[0]} {b[1]} in place of {a[0]} {a[1]}" for a, b in pairs if a != b), "")


PART = 72
"""Every topology with every reader and shape, three times; the others are slow (make conformance)."""
BATCH = 8


@pytest.mark.parametrize(
    "begin", [pytest.param(k, marks=[pytest.mark.slow] * (k >= PART)) for k in range(0, SEEDS, BATCH)]
)
def test_nobody_can_tell_a_control_from_an_ordinary_referral(begin: int) -> None:
    for seed in range(begin, begin + BATCH):
        assert not (found := difference(plan(seed))), f"seed {seed}: {found}"


def test_the_seeds_come_to_everything_that_could_differ() -> None:
    plans = [plan(seed) for seed in range(PART)]
    for shape in SHAPES:
        each = [a_plan for a_plan in plans if a_plan.shape == shape]
        assert {(a.topology, a.kind) for a in each} == {(t, k) for t in Topology for k in (Watched, WatchedPicturing)}
        assert {a.act for a in each} == set(ACTIONS)
        assert {a.offline for a in each} == {True, False}
        assert {bool(a.document_flags) for a in each} == {bool(a.flags) for a in each} == {True, False}
    assert {a.who.passenger.way for a in plans if a.topology is Topology.BIDIRECTIONAL} == {"ab", "ba"}
    assert sum(bool(a.who.passenger.bandaged) for a in plans) > 5


@pytest.mark.parametrize("shape", SHAPES)
def test_sought_passengers_are_recognised_and_wait_like_others(shape: str) -> None:
    """The comparison has something to compare: they were found, the officer was told at once, the passenger late."""
    a_plan = plan(6 * SHAPES.index(shape), shape=shape, act=None, offline=False, manner=Manner.PLAIN)
    a_plan.who.passenger.bandaged = frozenset()
    lane = played(a_plan, a_plan.sought)
    ((at, record),) = lane.recorded
    assert record.verdict.reason.endswith("is_not_flagged")
    assert {"reader 0x01"} <= {what for _, what in lane.sights} or shape == "face"
    told = next(when for when, what in lane.sights if PromptCode.SEE_OFFICER.name in what)
    assert told - at > 2.0
    verdicts = [fact for _, _, fact in lane.told if isinstance(fact, facts.VerdictReached)]
    assert [each.reason for each in verdicts] == [record.verdict.reason], "one record of it, and nothing after"


def test_an_officer_who_comes_at_once_is_the_first_thing_to_be_seen() -> None:
    come = 0
    for seed in range(0, 24, 2):
        a_plan = plan(seed, act=ACTIONS[1 + seed // 2 % 3], offline=False, manner=Manner.PLAIN)
        sought = played(a_plan, a_plan.sought, at_once=True)
        if sought.recorded[0][1].verdict.reason.endswith("is_not_flagged") and sought.ordered_mono is not None:
            other = played(replace(a_plan, act=None), a_plan.who, mistaken(sought.recorded[0][1]))
            until = round(sought.ordered_mono, 6)
            seen = [[each for each in lane.sights if each[0] < until] for lane in (other, sought)]
            assert not (found := _apart(*seen)), f"seed {seed}: {found}"
            come += sought.ordered_mono < next(at for at, what in other.sights if "SEE_OFFICER" in what)
    assert come >= 3


# -- leaks that are planted ----------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def _prompt(sooner_s: float) -> Plant:
    """The passenger is sent to the officer sooner (or later) than somebody whose face does not match."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def compare(lane: Core, within_s: float) -> None:
            asked(lane, within_s - sooner_s * (lane.guest.pretended is not None))

        asked = proving._compare_face
        patch.setattr(proving, "_compare_face", compare)

    return plant


def _officer_wait(sooner_s: float) -> Plant:
    """A sought passenger waits for an officer, and until the door of return opens, for less (or more) time."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def goto(lane: Core, state: State, now: Now) -> None:
            went(lane, state, now)
            if state is State.REFERRED and lane._due is not None and _is_control(lane):
                lane._due -= sooner_s

        went = Core.goto
        patch.setattr(Core, "goto", goto)

    return plant


def _is_control(lane: Core) -> bool:
    return lane.guest.verdict is not None and lane.guest.verdict.reason.endswith("is_not_flagged")


def _no_advice(patch: pytest.MonkeyPatch) -> None:
    """Whose document is reported lost is not told how to look at the camera."""

    def advise(lane: Core, event: ev.FaceAdvice, now: Now) -> None:
        if not lane.guest.evidence.document_flags:
            advised(lane, event, now)

    advised = proving.match_advice
    patch.setitem(machine.TABLE[State.MATCHING], ev.FaceAdvice, advise)


def _dark(patch: pytest.MonkeyPatch) -> None:
    """While a sought passenger is asked for a finger once more, the reader stays dark."""

    def dispatch(outlets: Outlets, command: Command, now: Now) -> None:
        dispatched(outlets, command, now)
        if isinstance(command, cmd.Record) and command.verdict.decision is Decision.REFER:
            sought.add(command.ticket)
        if isinstance(command, cmd.CompareFinger) and command.ticket in sought:
            outlets._fingers.rest(command.ticket)

    sought: set[int] = set()
    dispatched = Outlets.dispatch
    patch.setattr(Outlets, "dispatch", dispatch)


def _lamp(patch: pytest.MonkeyPatch) -> None:
    """The lamp changes as the officer is called."""

    def refer(lane: Core, verdict: Any, now: Now) -> None:
        if verdict.reason.endswith("is_not_flagged"):
            lane.say(cmd.Indicate(lane.guest.near, Light.OFF))
        referred(lane, verdict, now)

    referred = proving._refer_unseen
    patch.setattr(proving, "_refer_unseen", refer)


def _door(patch: pytest.MonkeyPatch) -> None:
    """The door of return opens to a sought passenger 200 ms before they are told to go back."""

    def overdue(lane: Core, event: ev.Deadline, now: Now) -> None:
        if _is_control(lane) and not lane.gate.leaves[lane.guest.near].requested:
            lane.request(lane.guest.near)
            lane.wait(0.2, now)
        else:
            was(lane, event, now)

    was = machine.TABLE[State.REFERRED][ev.Deadline]
    patch.setitem(machine.TABLE[State.REFERRED], ev.Deadline, overdue)
    _officer_wait(0.2)(patch)


def _slow_flags(patch: pytest.MonkeyPatch) -> None:
    """Reading a flag that is there takes 200 ms longer."""

    async def flags(look_up: LookUp, command: cmd.ReadFlags) -> Event:
        found = await read(look_up, command)
        if isinstance(found, ev.FlagsRead) and found.flags | found.document_flags:
            await asyncio.sleep(0.2)
        return found

    read = LookUp._flags
    patch.setattr(LookUp, "_flags", flags)


@pytest.mark.parametrize(
    ("plant", "shape", "what"),
    [
        (_prompt(0.2), "face", "SEE_OFFICER"),
        (_prompt(-0.2), "face", "SEE_OFFICER"),
        (_no_advice, "face", "LOOK_AT_CAMERA"),
        (_dark, "both", "reader"),
        (_lamp, "both", "Indicate"),
        (_door, "both", "RequestOpen"),
        (_officer_wait(0.2), "face", "GO_BACK"),
        (_officer_wait(-0.2), "fingers", "GO_BACK"),
        (_slow_flags, "weak", "PLACE_RIGHT_INDEX"),
        (_slow_flags, "face", "SEE_OFFICER"),
    ],
)
def test_a_leak_that_is_planted_is_seen(plant: Plant, shape: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is what is seen first."""
    fixed: dict[str, Any] = {
        "shape": shape,
        "topology": Topology.MANTRAP,
        "kind": Watched,
        "act": None,
        "offline": False,
        "document_flags": frozenset({"lost"}),
        "manner": Manner.LOOKS_AWAY if plant is _no_advice else Manner.PLAIN,
    }
    a_plan = plan(5, **fixed)
    a_plan.who.passenger.bandaged = frozenset()
    assert not (found := difference(a_plan)), found
    plant(monkeypatch)
    found = difference(a_plan)
    missing = plant in (_dark, _no_advice)
    assert what in found.partition(" in place of ")[2 if missing else 0], found


# -- what happens while the lane only seems to go on ----------------------------------------------------------------


def sought(**play: Any) -> Play:
    """A passenger inside, found by their face, of whom the officer knows and who is not told yet."""
    lane = Play(**play)
    lane.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset({"wanted"}))
    lane.inside()
    assert lane.at(State.MATCHING) and [each.verdict.reason for each in lane.all(cmd.Record)] == [CONTROL]
    return lane


CONTROL = "holder_is_not_flagged"
UNTIL_TOLD_S = Timing().face_s * Timing().face_tries + 0.1


def prompts(lane: Play) -> list[PromptCode]:
    return [each.code for each in lane.all(cmd.Prompt)]


def reasons(lane: Play) -> list[str]:
    return [each.verdict.reason for each in lane.all(cmd.Record)]


@pytest.mark.parametrize(
    "trouble",
    [
        ev.HelpPressed(),
        ev.PresenceChanged(2),
        ev.PresenceChanged(0),
        ev.DeviceLost(ev.Device.CAMERA, "gone"),
        ev.DeviceLost(ev.Device.CACHE, "gone"),
        ev.DeviceLost(ev.Device.DOOR, "gone"),
        ev.DoorOpened(Door.B),
        ev.PersonPassed(Door.B, True),
        ev.PersonPassed(Door.A, False),
        ev.EventsLost(3),
        ev.MainsLost(),
        ev.UplinkLost(),
        ev.ClockStepped(4000.0),
    ],
    ids=lambda event: f"{event}",
)
def test_whatever_ends_it_the_controls_record_stays_the_last_one(trouble: Event) -> None:
    """And the passenger sees what they would have seen without a control, at the same moment."""
    seen = []
    for lane in (sought(), ordinary()):
        lane.wait(3.0)
        mark = len(lane.log)
        lane.do(trouble)
        found = [(0.0, each) for each in lane.log[mark:] if isinstance(each, SEEN)]
        for step in range(240):
            found += [(step / 2, each) for each in lane.wait(0.5) if isinstance(each, SEEN)]
        seen.append((found, lane))
    (sights, lane), (others, _) = seen
    assert sights == others
    assert set(reasons(lane)) == {CONTROL}
    assert [each.verdict.reason for each in lane.all(cmd.Settle) if each.verdict] in ([CONTROL], [])


def ordinary(**play: Any) -> Play:
    """A passenger inside whose face does not match: the matcher takes all of its time."""
    lane = Play(**play)
    lane.answers[cmd.CompareFace] = lambda c: lane._answered_face(replace(c, whole=True))
    lane.inside(0.1)
    assert lane.at(State.MATCHING) and lane.all(cmd.Record) == []
    return lane


def test_help_after_they_were_told_leaves_the_controls_record_the_last_one() -> None:
    lane = sought()
    lane.wait(UNTIL_TOLD_S)
    assert lane.at(State.REFERRED)
    lane.do(ev.HelpPressed())
    assert lane.at(State.RETURNING) and reasons(lane) == [CONTROL]
    assert [each.reason for each in lane.all(cmd.CallOfficer)] == [CONTROL, "help"]


def test_an_order_that_cannot_be_carried_out_does_not_end_the_pretence() -> None:
    """It would be referred anew, with more prompts and a longer wait."""
    lane = sought()
    lane.lane.gate.leaves[Door.A].open = True
    lane.do(ev.OfficerOpens("o", "wu", 1), ev.OfficerRetries("r", "wu", 1))
    lane.lane.gate.leaves[Door.A].open = False
    assert [each.accepted for each in lane.all(cmd.Answer)] == [False, False]
    lane.wait(UNTIL_TOLD_S)
    assert lane.at(State.REFERRED) and reasons(lane) == [CONTROL]
    assert len(lane.all(cmd.CallOfficer)) == 1


@pytest.mark.parametrize(
    ("order", "ends", "found"),
    [
        (ev.OfficerOpens, State.RELEASING, [CONTROL, "officer"]),
        (ev.OfficerRefuses, State.RETURNING, [CONTROL]),
        (ev.OfficerRetries, State.MATCHING, [CONTROL, CONTROL]),
    ],
)
def test_an_officer_may_act_before_they_are_told(order: Any, ends: State, found: list[str]) -> None:
    lane = sought()
    lane.wait(1.0)
    lane.do(order("o", "wu", 2))
    assert lane.all(cmd.Answer)[-1].why == "other_ticket" and lane.at(State.MATCHING)
    lane.do(order("p", "wu", 1))
    assert lane.accepted("p") and lane.at(ends) and reasons(lane) == found
    assert PromptCode.SEE_OFFICER not in prompts(lane)


@pytest.mark.parametrize("order", ACTIONS[1:])
def test_an_officer_who_was_not_called_cannot_act(order: Any) -> None:
    lane = ordinary()
    lane.do(order("o", "wu", 1))
    assert not lane.accepted("o") and lane.at(State.MATCHING)


def test_what_ends_a_wait_for_a_finger_makes_the_reader_dark() -> None:
    """The record was made before, so it is not the record that does."""
    lane = Play(traveller=replace(TRAVELLER, category="spouse", fingers=("right_index", "left_index")))
    lane.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset({"wanted"}))
    lane.answers[cmd.CompareFinger] = None
    lane.inside()
    (first,) = lane.all(cmd.CompareFinger)
    lane.do(ev.FingerCompared(1, first.ask, Check.SUCCESSFUL, 1.0, 0.5, 1e-3, "right_index"))
    assert len(lane.all(cmd.CompareFinger)) == 2 and lane.at(State.FINGERING) and reasons(lane) == [CONTROL]
    assert lane.all(cmd.EndFinger) == []
    lane.do(ev.PresenceChanged(2))
    assert lane.all(cmd.EndFinger) == [cmd.EndFinger(1)] and lane.at(State.REFERRED)


def test_a_disk_that_does_not_take_the_record_changes_nothing() -> None:
    lane = Play()
    lane.answers[cmd.Record] = lambda c: ev.NotRecorded(c.ticket, c.ask, "disk_full")
    lane.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset({"wanted"}))
    lane.inside()
    assert lane.at(State.MATCHING)
    lane.wait(UNTIL_TOLD_S)
    assert lane.at(State.REFERRED) and reasons(lane) == [CONTROL]


def test_the_longest_stay_ends_it_too() -> None:
    timing = Timing(stay_s_max=6.0)
    lane = sought(timing=timing)
    lane.wait(7.0)
    assert lane.at(State.RETURNING) and reasons(lane) == [CONTROL]


def test_flags_that_cannot_be_read_meanwhile_change_nothing() -> None:
    lane = sought()
    lane.answers[cmd.ReadFlags] = lambda c: ev.LookUpFailed(c.ticket, c.ask, "io_error")
    lane.wait(UNTIL_TOLD_S - 1.0)
    assert lane.at(State.MATCHING)
    lane.wait(1.0)
    assert lane.at(State.REFERRED) and reasons(lane) == [CONTROL]


def test_a_process_killed_meanwhile_leaves_the_controls_record_the_only_one() -> None:
    a_plan = plan(0, shape="face", act=None, offline=False, manner=Manner.PLAIN)

    async def kill(lane: Any) -> None:
        await lane.until(lambda: bool(lane.recorded))
        await asyncio.sleep(2.0)
        assert lane.app.lane.state is State.MATCHING
        lane.world.monitor.disturb("process killed", 60.0)
        await lane.crash()
        await asyncio.sleep(2.0)
        lane.revive()

    with sim_folder() as folder, capture_logs():
        lane = Watched(3, Topology.MANTRAP, folder, visits=(a_plan.sought,))
        lane.upsets = lambda _: [kill(lane)]
        virtual.run(lane.run())
    verdicts = [fact for _, _, fact in lane.told if isinstance(fact, facts.VerdictReached) and fact.holder is not None]
    assert [each.reason for each in verdicts] == [lane.recorded[0][1].verdict.reason]
    assert verdicts[0].reason.endswith("is_not_flagged")
    ends = [fact.outcome for _, _, fact in lane.told if isinstance(fact, facts.TicketSettled)]
    assert ends[0] == "unresolved"
