"""The second proof through the whole lane, in virtual time: what each story ends with is read from the sealed record.

Real machine, policy, drivers, cache and store; people, gate, reader and module are simulated (must show 5)."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gated.biometrics.face import Threshold
from gated.daemon.fingers import OUR_FORMAT
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Device, Event, Now
from gated.wire import facts
from gated.wire.rows import FingerRow
from tests.hw_sim import prints, virtual
from tests.hw_sim.cast import INDEX_FINGERS, Cast, Enrolment, Manner, Passenger, Truth
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.hands import Touching
from tests.hw_sim.happenings import Topology
from tests.hw_sim.links import Noisy
from tests.hw_sim.papers import passport, residence_card
from tests.hw_sim.simlane import NOON, POLICY, VirtualLane, sim_folder
from tests.hw_sim.touch import Fault
from tests.hw_sim.uru_reader import UruReader
from tests.hw_sim.usb_links import MemoryUsb

SEED = 11
RIGHT, LEFT = INDEX_FINGERS
FACE_FMR, WEAK_FMR, MODULE_FMR, ENGINE_FMR = 1e-3, 1e-2, 1e-5, 1e-3
ALL_ARE_WEAK = Threshold("fmr_1e-4", 0.96, 1e-4)
"""Nobody's face reaches it; everybody's own reaches the weak one."""


@dataclass(frozen=True)
class Visit:
    """Somebody who comes, and what HQ knows of whoever's document they show."""

    passenger: Passenger
    enrolment: Enrolment


def visit(
    person: int,
    category: str = "resident",
    *,
    face: bool = True,
    fingers: tuple[str, ...] = INDEX_FINGERS,
    seen: int | None = None,
    hand: int | None = None,
    bandaged: tuple[str, ...] = (),
    sure: bool = True,
) -> Visit:
    """The holder `person` of an enrolled document. `face`, `fingers`: enrolled. `seen`, `hand`: whose face and whose
    fingers come with it, where they are not the holder's."""
    truth = Truth.GENUINE if seen is None and hand is None else Truth.LOOKALIKE if seen is None else Truth.IMPOSTOR
    paper = (residence_card if category == "resident" else passport)(Random(f"paper {person}"), person, NOON.date())
    comes = Passenger(
        name=f"p{person:03}",
        person=person if seen is None else seen,
        paper=paper,
        truth=truth,
        manner=Manner.PLAIN,
        seed=1000 + person,
        hand=person if hand is None else hand,
        bandaged=frozenset(bandaged),
        sure=sure,
        take=person,
    )
    return Visit(comes, Enrolment(person, paper, frozenset(), category, face, fingers))


@dataclass
class Story(VirtualLane):
    """A lane that is told who comes, and what each of them ended with. `faces`: the threshold of faces."""

    visits: tuple[Visit, ...] = ()
    faces: Threshold | None = None
    verdict_reasons: list[str] = field(default_factory=list)
    """Of the verdicts so far, before any of them is durable."""
    logs: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.workers.faces = RecordedFaces(self.seed, self.faces)
        self.passengers = Cast([v.passenger for v in self.visits], [v.enrolment for v in self.visits], 100, NOON.date())
        self.watchers.append(self._note)

    def _note(self, event: Event, now: Now, commands: tuple[cmd.Command, ...]) -> None:
        self.verdict_reasons += [each.verdict.reason for each in commands if isinstance(each, cmd.Record)]

    def verdicts(self, who: Visit) -> list[facts.VerdictReached]:
        """All that was recorded on this document, the earliest first."""
        found = [fact for _, _, fact in self.told if isinstance(fact, facts.VerdictReached)]
        return [each for each in found if each.holder is not None and each.holder.number == who.passenger.paper.number]

    async def until(self, true: Callable[[], bool], seconds: float = 300.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.05)

    def cable(self, plugged: bool) -> None:
        """Of the fingerprint reader."""
        for end in self.cables["fingerprint"]:
            end.plug() if plugged else end.unplug()
        if plugged:
            self.mirror("fingerprint")


class Picturing(Story):
    """The same with a reader that sends pictures over USB; our engine compares."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fingerprint = 'driver = "usb_image"\nwidth = 96\nheight = 128\nstraighten = false'
        self.workers.fingers = prints.RecordedFingers()

    def _sensor(self) -> Any:
        sensor = UruReader(self.rng, 96, 128, scrambled=False)
        sensor.shape = (128, 96)  # type: ignore[attr-defined]
        sensor.plug()
        return sensor

    def _links(self, section: str, settings: Any) -> Any:
        return MemoryUsb(self.sensor) if section == "fingerprint" else super()._links(section, settings)

    def _finger(self, person: int, finger: str) -> FingerRow:
        drawn = prints.picture(Touching(person, finger, 0), self.sensor.shape)
        return FingerRow(finger, OUR_FORMAT, prints.features(drawn))

    def cable(self, plugged: bool) -> None:
        if plugged:
            self.sensor.plug()
            self.mirror("fingerprint")
        else:
            self.sensor.unplug()


Script = Callable[[Any], Coroutine[Any, Any, None]]


def told(
    *visits: Visit,
    kind: type[Story] = Story,
    script: Script | None = None,
    seed: int = SEED,
    topology: Topology = Topology.MANTRAP,
    faces: Threshold | None = None,
    law: str = "",
) -> Story:
    """The story, told to its end; the monitor found nothing wrong with it."""
    with sim_folder() as folder, capture_logs() as logs:
        lane = kind(seed, topology, folder, visits=visits, faces=faces, law=law)
        if script is not None:
            lane.upsets = lambda _: [script(lane)]
        report = virtual.run(lane.run())
        assert report.clean and not report.wrong_referrals, report.explanations
        assert report.passengers == len(visits)
        lane.logs = logs
    structlog.reset_defaults()
    return lane


def first(lane: Story, who: Visit) -> dict[str, Any]:
    """What the record of the policy's verdict on them says of decision and proofs."""
    verdict = lane.verdicts(who)[0]
    assert verdict.by is None
    return {name: getattr(verdict, name) for name in SAID}


FINGER = ("finger", "finger_position", "finger_score", "finger_pad", "finger_threshold", "finger_fmr", "finger_tries")
SAID = ("decision", "reason", "category", "face", "face_fmr", "face_weak_threshold", *FINGER, "fingers_matched", "fmr")
FACE = {"face": "successful", "face_fmr": FACE_FMR, "face_weak_threshold": 0.3}
WRONG_FACE = FACE | {"face": "failed"}
WEAK_FACE = FACE | {"face": "failed", "face_fmr": ALL_ARE_WEAK.fmr}
NO_FACE = dict.fromkeys(FACE)
NO_FINGER = dict.fromkeys(FINGER) | {"finger_tries": 0, "fingers_matched": 0}
COMPARED = {"finger_pad": "not_supported", "finger_threshold": 1.0, "finger_fmr": MODULE_FMR}
RIGHT_MATCHED = COMPARED | {
    "finger": "successful",
    "finger_position": RIGHT,
    "finger_score": float(prints.SCORE),
    "finger_tries": 1,
    "fingers_matched": 1,
}
LEFT_MATCHED = RIGHT_MATCHED | {"finger_position": LEFT}
NONE_MATCHED = COMPARED | {
    "finger": "failed",
    "finger_position": LEFT,
    "finger_score": 0.0,
    "finger_tries": 4,
    "fingers_matched": 0,
}
"""Two fingers, each of them tried twice."""
NO_PRINT = NONE_MATCHED | {"finger": "undetermined", "finger_threshold": 0.0, "finger_fmr": 1.0, "finger_tries": 0}


def granted(category: str, *found: dict[str, Any], fmr: float) -> dict[str, Any]:
    """A record of a grant."""
    return _record("grant", "all_rules_kept", category, found, fmr)


def referred(reason: str, category: str, *found: dict[str, Any], fmr: float | None = None) -> dict[str, Any]:
    """A record of a referral."""
    return _record("refer", reason, category, found, fmr)


def _record(
    decision: str, reason: str, category: str, found: tuple[dict[str, Any], ...], fmr: float | None
) -> dict[str, Any]:
    rate = None if fmr is None else pytest.approx(fmr)
    record: dict[str, Any] = {"decision": decision, "reason": reason, "category": category, "fmr": rate}
    for each in found:
        record |= each
    assert record.keys() == set(SAID)
    return record


# -- a category that demands face and finger -----------------------------------------------------------------------


@pytest.mark.parametrize("topology", Topology)
def test_both_are_demanded_and_both_match(topology: Topology) -> None:
    who = visit(0)
    lane = told(who, topology=topology)
    assert first(lane, who) == granted("resident", FACE, RIGHT_MATCHED, fmr=FACE_FMR * MODULE_FMR)


def test_both_are_demanded_and_the_face_alone_matches() -> None:
    """A twin: the same face, other fingers."""
    who = visit(0, hand=50)
    lane = told(who)
    expected = referred("finger_matches_where_demanded", "resident", FACE, NONE_MATCHED, fmr=FACE_FMR)
    assert first(lane, who) == expected


def test_both_are_demanded_and_the_finger_alone_matches() -> None:
    """The own finger; somebody else's face before the camera."""
    who = visit(0, seen=60)
    lane = told(who)
    assert first(lane, who) == referred("face_matches", "resident", WRONG_FACE, RIGHT_MATCHED, fmr=MODULE_FMR)


def test_both_are_demanded_and_neither_matches() -> None:
    who = visit(0, seen=60, hand=60)
    lane = told(who)
    assert first(lane, who) == referred("face_matches", "resident", WRONG_FACE, NONE_MATCHED)


# -- a weak face -----------------------------------------------------------------------------------------------------


def test_a_weak_face_and_a_good_finger_where_the_policy_lets_it() -> None:
    who = visit(0, "national")
    lane = told(who, faces=ALL_ARE_WEAK)
    assert first(lane, who) == granted("national", WEAK_FACE, RIGHT_MATCHED, fmr=WEAK_FMR * MODULE_FMR)
    verdict = lane.verdicts(who)[0]
    assert verdict.face_weak_fmr == WEAK_FMR
    assert verdict.face_score is not None and 0.3 <= verdict.face_score < ALL_ARE_WEAK.score


def test_a_weak_face_and_a_good_finger_where_the_policy_does_not() -> None:
    who = visit(0, "resident", sure=False)
    lane = told(who, faces=ALL_ARE_WEAK)
    assert first(lane, who) == referred("face_matches", "resident", WEAK_FACE, RIGHT_MATCHED, fmr=MODULE_FMR)


def test_a_weak_face_and_a_wrong_finger() -> None:
    who = visit(0, "national", hand=50)
    lane = told(who, faces=ALL_ARE_WEAK)
    assert first(lane, who) == referred("face_matches", "national", WEAK_FACE, NONE_MATCHED)


def test_a_weak_face_of_somebody_who_has_no_finger_enrolled() -> None:
    who = visit(0, "national", fingers=(), sure=False)
    lane = told(who, faces=ALL_ARE_WEAK)
    assert first(lane, who) == referred("face_matches", "national", WEAK_FACE, NO_FINGER)


def test_a_wrong_face_is_not_made_good_by_a_finger() -> None:
    who = visit(0, "national", seen=60)
    lane = told(who)
    assert first(lane, who) == referred("face_matches", "national", WRONG_FACE, NO_FINGER)


def test_a_good_face_needs_no_finger_where_none_is_demanded() -> None:
    who = visit(0, "national")
    lane = told(who)
    assert first(lane, who) == granted("national", FACE, NO_FINGER, fmr=FACE_FMR)


# -- which finger ------------------------------------------------------------------------------------------------------


class Swapped(Story):
    """HQ's counter took down the middle fingers as index fingers: their own hand, but not these fingers."""

    def _finger(self, person: int, finger: str) -> FingerRow:
        return replace(super()._finger(person, finger.replace("index", "middle")), position=finger)


def test_a_good_face_and_a_wrong_finger_of_the_own_hand() -> None:
    who = visit(0, sure=False)
    lane = told(who, kind=Swapped)
    expected = referred("finger_matches_where_demanded", "resident", FACE, NONE_MATCHED, fmr=FACE_FMR)
    assert first(lane, who) == expected


def test_a_bandaged_finger_then_the_next_in_order() -> None:
    who = visit(0, bandaged=(RIGHT,))
    lane = told(who)
    assert first(lane, who) == granted("resident", FACE, LEFT_MATCHED, fmr=FACE_FMR * MODULE_FMR)


def test_four_comparisons_and_no_more() -> None:
    """Each of them is a chance for somebody who guesses; whoever has three fingers enrolled is not tried six times."""
    who = visit(0, fingers=(*INDEX_FINGERS, "right_thumb"), hand=50)
    lane = told(who)
    expected = referred("finger_matches_where_demanded", "resident", FACE, NONE_MATCHED, fmr=FACE_FMR)
    assert first(lane, who) == expected


class HalfSwapped(Story):
    """The right middle finger was taken down as the right index finger."""

    def _finger(self, person: int, finger: str) -> FingerRow:
        return replace(super()._finger(person, finger.replace("right_index", "right_middle")), position=finger)


def test_every_comparison_counts_in_what_a_grant_stands_for() -> None:
    who = visit(0)
    lane = told(who, kind=HalfSwapped)
    matched = LEFT_MATCHED | {"finger_tries": 3}
    assert first(lane, who) == granted("resident", FACE, matched, fmr=FACE_FMR * 3 * MODULE_FMR)


def test_a_finger_that_may_be_a_dummy_where_the_policy_does_not_let_it() -> None:
    law, pad = POLICY.read_text(), '["chip", "face_pad", "finger_pad", "height"]'
    place = law.index(pad, law.index("[categories.resident]"))
    strict = law[:place] + law[place:].replace(pad, '["chip", "face_pad", "height"]', 1)
    who = visit(0, sure=False)
    lane = told(who, law=strict.partition("[[examples]]")[0])
    assert first(lane, who) == referred("finger_is_live", "resident", FACE, RIGHT_MATCHED, fmr=FACE_FMR * MODULE_FMR)


def test_an_officer_has_it_tried_again_once_the_glass_is_clean() -> None:
    """What did not match before counts in what the grant stands for."""
    who = visit(0)

    async def clean(lane: Story) -> None:
        lane.officer.away = True
        lane.world.monitor.disturb("dirty glass", 60.0)
        compare, lane.sensor._compare = lane.sensor._compare, lambda one, other: 0
        await lane.until(lambda: lane.app.lane.state is State.REFERRED)
        lane.sensor._compare = compare
        lane.app.emit(ev.OfficerRetries("again", "wu", lane.app.lane.guest.ticket))

    lane = told(who, script=clean)
    expected = referred("finger_matches_where_demanded", "resident", FACE, NONE_MATCHED, fmr=FACE_FMR)
    assert first(lane, who) == expected
    (*_, last) = lane.verdicts(who)
    assert (last.decision, last.reason, last.by, last.finger) == ("grant", "all_rules_kept", None, "successful")
    assert (last.finger_position, last.fingers_matched) == (RIGHT, 1)
    assert last.fmr == pytest.approx(2 * FACE_FMR * 5 * MODULE_FMR)


def test_both_fingers_bandaged() -> None:
    who = visit(0, bandaged=INDEX_FINGERS, sure=False)
    lane = told(who)
    assert first(lane, who) == referred("finger_matches_where_demanded", "resident", FACE, NO_PRINT, fmr=FACE_FMR)


def test_two_fingers_replace_a_face_that_was_never_enrolled() -> None:
    who = visit(0, "national", face=False)
    lane = told(who)
    both = RIGHT_MATCHED | {"finger_tries": 2, "fingers_matched": 2}
    assert first(lane, who) == granted("national", NO_FACE, both, fmr=MODULE_FMR**2)


def test_one_finger_does_not_replace_a_face() -> None:
    bandaged = visit(0, "national", face=False, bandaged=(LEFT,), sure=False)
    lane = told(bandaged)
    assert first(lane, bandaged) == referred("face_matches", "national", NO_FACE, RIGHT_MATCHED, fmr=MODULE_FMR)


def test_whose_one_finger_is_enrolled_and_no_face_is_not_let_in() -> None:
    who = visit(0, "national", face=False, fingers=(RIGHT,), sure=False)
    lane = told(who)
    assert first(lane, who) == referred("fingers_can_be_taken", "national", NO_FACE, NO_FINGER)


# -- the reader -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Story, Picturing])
def test_a_reader_that_is_lost_midway_and_comes_back(kind: type[Story]) -> None:
    """Referred; who needs no finger passes; who needs one is not let in; once it is back they pass."""
    midway, without, too_early, later = visit(0), visit(1, "national"), visit(2), visit(3)

    async def pull(lane: Story) -> None:
        await lane.until(lambda: lane.app.lane.state is State.FINGERING)
        lane.world.monitor.disturb("fingerprint reader unplugged", 120.0)
        lane.cable(plugged=False)
        await lane.until(lambda: "fingers_can_be_taken" in lane.verdict_reasons)
        lane.cable(plugged=True)

    lane = told(midway, without, too_early, later, kind=kind, script=pull)
    aborted = NO_PRINT | {"finger": "aborted", "finger_position": RIGHT}
    assert first(lane, midway) == referred("finger_matches_where_demanded", "resident", FACE, aborted, fmr=FACE_FMR)
    assert first(lane, without) == granted("national", FACE, NO_FINGER, fmr=FACE_FMR)
    assert first(lane, too_early) == referred("fingers_can_be_taken", "resident", NO_FACE, NO_FINGER)
    assert [each.decision for each in lane.verdicts(too_early)][-1] == "grant", "they tried once more"
    assert first(lane, later)["decision"] == "grant"
    assert first(lane, later)["fingers_matched"] == 1
    told_hq = [fact for _, _, fact in lane.told if isinstance(fact, facts.DeviceChanged)]
    states = [each.state for each in told_hq if each.device == Device.FINGERPRINT.value]
    assert states == ["ready", "lost", "ready"]


def test_a_process_killed_while_a_finger_is_asked_for() -> None:
    """Nothing of that passenger is granted; they are let out, and the ticket is settled as unresolved."""
    who, after = visit(0), visit(1)

    async def kill(lane: Story) -> None:
        await lane.until(lambda: lane.app.lane.state is State.FINGERING)
        lane.world.monitor.disturb("process killed", 60.0)
        await lane.crash()
        await asyncio.sleep(2.0)
        lane.revive()

    lane = told(who, after, script=kill)
    assert not any(each.decision == "grant" and each.by is None for each in lane.verdicts(who)[:1])
    ends = [fact for _, _, fact in lane.told if isinstance(fact, facts.TicketSettled)]
    assert ends[0].outcome == "unresolved"
    assert first(lane, after) == granted("resident", FACE, RIGHT_MATCHED, fmr=FACE_FMR * MODULE_FMR)


def test_a_stop_while_a_finger_is_asked_for_waits_for_the_passage() -> None:
    who = visit(0)

    async def stop(lane: Story) -> None:
        await lane.until(lambda: lane.app.lane.state is State.FINGERING)
        lane.app.stop()
        await lane.lane_up
        lane.revive()

    lane = told(who, script=stop)
    assert first(lane, who) == granted("resident", FACE, RIGHT_MATCHED, fmr=FACE_FMR * MODULE_FMR)
    assert [fact.outcome for _, _, fact in lane.told if isinstance(fact, facts.TicketSettled)] == ["crossed"]


class Broken(prints.RecordedFingers):
    """The network fails."""

    def extract(self, image: Any, ppi: float) -> Any:
        raise RuntimeError("no such thing as " + str(image))


def test_inference_that_breaks_over_a_finger() -> None:
    who = visit(0)

    async def break_it(lane: Story) -> None:
        lane.world.monitor.disturb("inference fails", 60.0)
        lane.workers.fingers = lane.app.workers.fingers = Broken()

    lane = told(who, kind=Picturing, script=break_it)
    aborted = NO_PRINT | {"finger": "aborted", "finger_position": RIGHT}
    assert first(lane, who) == referred("finger_matches_where_demanded", "resident", FACE, aborted, fmr=FACE_FMR)
    (error,) = [each for each in lane.logs if each["log_level"] == "error"]
    assert error["event"] == "finger could not be compared" and "no such thing" not in str(error)


class Noise(Story):
    """A module that garbles and loses, at the end of a bad line."""

    def _links(self, section: str, settings: Any) -> Any:
        link = super()._links(section, settings)
        return Noisy(link, Random(f"noise {self.seed}"), 1e-4) if section == "fingerprint" else link


async def spoil(lane: Noise) -> None:
    """Whenever somebody is asked for a finger: templates do not arrive, what comes back is garbled or half."""
    lane.world.monitor.disturb("bad line", 1000.0)
    while lane.world.came < len(lane.visits) or lane.world.scripts:
        await asyncio.sleep(0.3)
        if lane.app.lane.state is State.FINGERING and lane.rng.random() < 0.07:
            lane.sensor.lose_next_template = True
            lane.sensor.suffer(lane.rng.choice((Fault.GARBLE, Fault.HALF, Fault.MESSY)))


def test_no_noise_makes_a_wrong_finger_a_right_one() -> None:
    """The hand is always that of whoever was compared before: a template that does not arrive must not leave theirs."""
    compared: Counter[str | None] = Counter()
    for seed in range(30):
        before, twin, faceless = visit(0), visit(1, hand=0), visit(2, "national", face=False, hand=0)
        lane = told(before, twin, faceless, kind=Noise, seed=seed, script=spoil)
        compared.update(each.finger for each in lane.verdicts(before))
        for each in lane.verdicts(twin) + lane.verdicts(faceless):
            assert (each.decision, each.fingers_matched) == ("refer", 0)
            compared[f"wrong {each.finger}"] += 1
    assert compared["successful"] > 5 and compared["wrong failed"] > 20, f"they were compared now and then: {compared}"


# -- templates that are none ------------------------------------------------------------------------------------------


class Spoilt(Story):
    """The cache holds something in place of each template."""

    def _finger(self, person: int, finger: str) -> FingerRow:
        return replace(super()._finger(person, finger), template=NO_TEMPLATE)


class SpoiltPicture(Spoilt, Picturing):
    """The same where our engine compares."""


NO_TEMPLATE = b"CANARY-IN-PLACE-OF-A-TEMPLATE" * 9


def test_a_module_that_is_sent_no_template_finds_no_match() -> None:
    who = visit(0, sure=False)
    lane = told(who, kind=Spoilt)
    expected = referred("finger_matches_where_demanded", "resident", FACE, NONE_MATCHED, fmr=FACE_FMR)
    assert first(lane, who) == expected
    assert "CANARY" not in str(lane.logs)


def test_an_engine_that_is_given_no_template_says_so_once() -> None:
    who, after = visit(0, sure=False), visit(1, "national")
    lane = told(who, after, kind=SpoiltPicture)
    unsupported = NO_PRINT | {"finger": "not_supported", "finger_position": RIGHT}
    assert first(lane, who) == referred("finger_matches_where_demanded", "resident", FACE, unsupported, fmr=FACE_FMR)
    assert first(lane, after)["decision"] == "grant"
    (error,) = [each for each in lane.logs if each["log_level"] == "error"]
    assert error["event"] == "finger template cannot be used"
    assert "CANARY" not in str(lane.logs)


# -- the same with pictures -------------------------------------------------------------------------------------------

PICTURE = {"finger_threshold": 0.3, "finger_fmr": ENGINE_FMR, "finger_score": prints.SCORE / 200}


def test_pictures_both_match() -> None:
    who = visit(0)
    lane = told(who, kind=Picturing)
    assert first(lane, who) == granted("resident", FACE, RIGHT_MATCHED | PICTURE, fmr=FACE_FMR * ENGINE_FMR)
    parts = {part.name for _, _, fact in lane.told if isinstance(fact, facts.LaneBooted) for part in fact.parts}
    assert "finger" in parts


def test_pictures_the_face_alone_matches() -> None:
    who = visit(0, hand=50)
    lane = told(who, kind=Picturing)
    wrong = NONE_MATCHED | PICTURE | {"finger_score": 0.0}
    expected = referred("finger_matches_where_demanded", "resident", FACE, wrong, fmr=FACE_FMR)
    assert first(lane, who) == expected


def test_pictures_a_bandaged_finger_then_the_next() -> None:
    who = visit(0, bandaged=(RIGHT,))
    lane = told(who, kind=Picturing)
    assert first(lane, who) == granted("resident", FACE, LEFT_MATCHED | PICTURE, fmr=FACE_FMR * ENGINE_FMR)


def test_pictures_two_fingers_replace_a_face() -> None:
    who = visit(0, "national", face=False)
    lane = told(who, kind=Picturing)
    both = RIGHT_MATCHED | PICTURE | {"finger_tries": 2, "fingers_matched": 2}
    assert first(lane, who) == granted("national", NO_FACE, both, fmr=ENGINE_FMR**2)


def test_pictures_that_are_half_are_taken_again() -> None:
    who = visit(0)

    async def halve(lane: Story) -> None:
        await lane.until(lambda: lane.app.lane.state is State.FINGERING)
        lane.sensor.suffer(Fault.HALF)

    lane = told(who, kind=Picturing, script=halve)
    assert first(lane, who) == granted("resident", FACE, RIGHT_MATCHED | PICTURE, fmr=FACE_FMR * ENGINE_FMR)
