"""Must show 1: every row of `tests.policy_table` through the whole lane, in virtual time.

The daemon that `build` makes, with its drivers, machine, policy, store and cache files; the passenger walks up, shows
a document, stands before the camera, lays on fingers. What is compared: the record that the lane made, and doors."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import count, groupby
from random import Random
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
import structlog
from structlog.testing import capture_logs

from gated.biometrics.face import Threshold
from gated.lane.policy import judge
from gated.lane.rules import Rules
from gated.lane.specimen import NOON, evidence_of
from gated.policyfile import parse_policy
from gated.wire.facts import Fact, OfficerCalled, TicketSettled, VerdictReached
from gated.wire.rows import CrossingRow, PermitRow
from tests.hw_sim import papers, virtual
from tests.hw_sim.cast import Cast, Enrolment, Manner, Passenger, Truth
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.happenings import Happening, Topology, What
from tests.hw_sim.leaf import Cause
from tests.hw_sim.scene import Seen, SeenFace
from tests.hw_sim.simlane import POLICY, VirtualLane, sim_folder
from tests.policy_table import LAWS, TABLE, Row

AnyFact = TypeVar("AnyFact", bound=Fact)

CONCERNED = (
    *(f"W{n}" for n in range(1, 10)),
    *("E1", "E2", "E3", "E4", "E6", "E7", "E9", "E10"),
    *("L1", "L3", "L7", "L8", "L9", "L11"),
    *("O1", "O2", "O3", "O5", "O7", "O8", "O9"),
)
"""What the lane decides. Of L4 (one at a time) and the rest of L no policy does: tests/test_lane_attacks.py."""
ROWS_MIN = 150
TAIPEI = ZoneInfo("Asia/Taipei")
TOPOLOGY = {
    "songshan": Topology.SINGLE,
    "taichung": Topology.BIDIRECTIONAL,
    "kinmen_shuitou": Topology.BIDIRECTIONAL,
    "keelung_port": Topology.BIDIRECTIONAL,
    "kaohsiung_port": Topology.BIDIRECTIONAL,
}
"""Of the lane at a place; elsewhere two leaves, one way."""
SEED = 5
AT_MOST = 40
"""Passengers of one lane."""
GAP_S = (35.0, 40.0)
"""Nobody meets anybody: whoever walks up waits for whom the lane still has, which no policy decides either."""
FINGERS = ("right_index", "left_index", "right_thumb", "left_thumb")
ALL_ARE_WEAK = Threshold("fmr_1e-4", 0.96, 1e-4)
STRANGER = 10_000
"""Added to a passenger's number: somebody else, whom no register knows."""


def test_every_requirement_has_somebody_who_passes_and_somebody_who_does_not() -> None:
    cited = {passes: Counter(c for row in TABLE if row.passes is passes for c in row.cites) for passes in (True, False)}
    for passes, found in cited.items():
        assert not set(CONCERNED) - found.keys(), f"nobody who {'passes' if passes else 'does not'}"
        assert not found.keys() - set(CONCERNED), "no requirement that a policy decides"


def test_enough_rows_and_no_two_alike() -> None:
    assert len(TABLE) >= ROWS_MIN
    alike = defaultdict(list)
    for row in TABLE:
        alike[replace(row, name="", cites=())].append(row.name)
    assert not [names for names in alike.values() if len(names) > 1]
    assert len({row.name for row in TABLE}) == len(TABLE)


def law_text(law: str) -> str:
    """The policy under which a row stands."""
    text = POLICY.read_text()
    if not law:
        return text
    before, after = LAWS[law]
    assert before in text, f"{law} changes nothing"
    return text.split("[[examples]]")[0].replace(before, after)  # its examples are of the law as it is


@pytest.mark.parametrize("law", ["", *LAWS])
def test_the_rules_alone_say_the_same(law: str) -> None:
    """What `gated policy explain` would say of the same people, for whoever a specimen can describe."""
    rules = parse_policy(law_text(law), POLICY).rules
    rows = [row for row in TABLE if row.law == law and row.enrolled and row.is_known_kind and not row.weak_face]
    wrong = {
        row.name: said for row in rows if row.renewed != "alone" and (said := _judged(row, rules)) != _expected(row)
    }
    assert rows and not wrong


def _judged(row: Row, rules: Rules) -> tuple[object, ...]:
    verdict = judge(evidence_of(row, rules), rules)
    return verdict.decision.value, verdict.reason, verdict.urgency, verdict.notes


def _expected(row: Row) -> tuple[object, ...]:
    return ("grant" if row.passes else "refer", "all_rules_kept" if row.passes else row.expect, row.urgency, row.notes)


# -- the lane ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What rows must have in common to come to one lane on one day."""

    place: str
    direction: str
    """Of a one-way lane; both."""
    on: date
    law: str
    cache_age_s: int
    finger_reader: bool
    weak_face: bool
    at: time

    @classmethod
    def of(cls, row: Row) -> "Kind":
        both = TOPOLOGY.get(row.place) is Topology.BIDIRECTIONAL
        way = "both" if both else row.direction
        return cls(row.place, way, row.on, row.law, row.cache_age_s, row.finger_reader, row.weak_face, row.at)

    def __str__(self) -> str:
        said = [self.place, self.direction, str(self.on), self.law]
        said += [f"{self.cache_age_s // 3600}h-without-hq"] if self.cache_age_s else []
        said += ["no-fingers"] * (not self.finger_reader) + ["weak-faces"] * self.weak_face
        said += [f"{self.at:%H%M}"] if self.at != NOON else []
        return "-".join(filter(None, said))


def _lanes() -> Iterator[tuple[str, Kind, tuple[Row, ...]]]:
    rows = sorted(TABLE, key=lambda row: str(Kind.of(row)))
    for kind, found in groupby(rows, key=Kind.of):
        together = tuple(found)
        for start in range(0, len(together), AT_MOST):
            yield f"{kind}-{start}", kind, together[start : start + AT_MOST]


LANES = tuple(_lanes())


@dataclass
class Visit:
    """One row's passenger, and what HQ knows of them."""

    row: Row
    number: int
    faces: RecordedFaces
    paper: papers.Paper = field(init=False)
    enrolment: Enrolment | None = field(init=False)

    def __post_init__(self) -> None:
        row, rng = self.row, Random(f"paper {self.row.name}")
        expiry = row.document_expires or row.on + timedelta(days=365)
        kind = row.document
        earlier = papers.document(rng, kind, self.number, birth=row.born, expiry=expiry, code=row.code)
        self.paper = papers.renewed(rng, earlier, row.on) if row.renewed else earlier
        shown = earlier if row.renewed == "alone" else self.paper
        self.enrolment = self._enrolment(shown) if row.enrolled else None

    def _enrolment(self, paper: papers.Paper) -> Enrolment:
        row = self.row
        return Enrolment(
            self.number,
            paper,
            frozenset(row.controls),
            row.category,
            row.face_enrolled,
            FINGERS[: row.fingers_enrolled],
            tuple(PermitRow(p.kind, p.start, p.end, p.entries_left) for p in row.permits),
            row.height_cm,
            row.origin,
            row.enrolled_on,
            row.received_on,
            row.usable_from,
            tuple(self._crossings(paper)),
            frozenset(row.document_controls),
            row.on if row.expected else None,
            row.renewed == "linked",
        )

    def _crossings(self, paper: papers.Paper) -> Iterator[CrossingRow]:
        """The last ones, the oldest first. Whoever has any was away before, with a document they have no more."""
        row = self.row
        other = "OTHER" if row.other_document else paper.number
        found = [(row.entered, "entry", other), (row.left, "exit", paper.number)]
        known = [(day, way, number) for day, way, number in found if day is not None]
        if known:
            first = min(known)[0]
            known += [(first - timedelta(days=60), "entry", "FORMER"), (first - timedelta(days=50), "exit", "FORMER")]
        for day, way, number in sorted(known):
            yield CrossingRow(way, datetime.combine(day, NOON, TAIPEI).astimezone(UTC), paper.issuer, number)

    def passenger(self) -> Passenger:
        row = self.row
        person = self.number if row.face else self.number + STRANGER
        return Passenger(
            name=row.name,
            person=person,
            paper=self.paper,
            truth=Truth.GENUINE if row.passes else Truth.NOT_ENROLLED,
            manner=Manner.PLAIN,
            seed=1000 + self.number,
            way="ba" if row.direction == "entry" and TOPOLOGY.get(row.place) is Topology.BIDIRECTIONAL else "ab",
            hand=self.number if row.fingers else self.number + STRANGER,
            bandaged=frozenset(FINGERS[row.fingers : row.fingers_enrolled]) if row.fingers else frozenset(),
            take=self._take(person),
        )

    def _take(self, person: int) -> int:
        """A day on which they look like themselves: what is left to chance here is no policy's."""
        for take in count(self.number * 1000):
            seen = Seen((SeenFace(person, 1.0, 0.0, 1.0, take),), 0.0)
            if self.faces.score(self.faces.embed(seen, self.faces.look(seen)), self.faces.template(person)) > 0.55:
                return take
        raise AssertionError("count() has no end")


@dataclass
class PolicyLane(VirtualLane):
    """A lane to which these rows come, one after the other."""

    kind: Kind = field(kw_only=True)
    rows: Sequence[Row] = field(kw_only=True)
    inside: set[str] = field(default_factory=set)
    """Who was between the leaves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        faces = RecordedFaces(self.seed, ALL_ARE_WEAK if self.kind.weak_face else None)
        self.workers.faces = faces
        self.visits = [Visit(row, number, faces) for number, row in enumerate(self.rows)]
        enrolled = [visit.enrolment for visit in self.visits if visit.enrolment is not None]
        self.passengers = Cast([visit.passenger() for visit in self.visits], enrolled, 0, self.kind.on)
        self.upsets = lambda _: self._start()

    def _start(self) -> list[Any]:
        self.world.gate.observers.append(self._watch)
        return []

    def _boot(self) -> Any:
        if not self.kind.finger_reader:
            for end in self.cables["fingerprint"]:
                end.unplug()
        return super()._boot()

    def _watch(self, happening: Happening) -> None:
        if happening.what is What.CROSSED and happening.inward and happening.body is not None:
            self.inside.add(happening.body.name)

    def facts(self, sort: type[AnyFact]) -> list[AnyFact]:
        """Of the records for HQ, those of one sort."""
        return [fact for _, _, fact in self.told if isinstance(fact, sort)]

    def verdicts(self, number: str) -> list[VerdictReached]:
        """The policy's, of whoever showed this document."""
        found = [fact for fact in self.facts(VerdictReached) if fact.by is None and fact.holder is not None]
        return [each for each in found if each.holder is not None and each.holder.number == number]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield
    structlog.reset_defaults()


@pytest.mark.parametrize(("kind", "rows"), [lane[1:] for lane in LANES], ids=[lane[0] for lane in LANES])
def test_rows_through_the_whole_lane(kind: Kind, rows: tuple[Row, ...]) -> None:
    with sim_folder() as folder:
        lane = PolicyLane(
            SEED,
            TOPOLOGY.get(kind.place, Topology.MANTRAP),
            folder,
            law=law_text(kind.law),
            at=datetime.combine(kind.on, kind.at, TAIPEI).astimezone(UTC),
            place=kind.place,
            direction=kind.direction,
            cache_age=timedelta(seconds=kind.cache_age_s),
            gap_s=GAP_S,
            kind=kind,
            rows=rows,
        )
        report = virtual.run(lane.run())
    version = parse_policy(law_text(kind.law), POLICY).rules.version
    wrong = {v.row.name: w for v in lane.visits if (w := list(_recorded_wrongly(lane, v, version)))}
    wrong |= {v.row.name: w for v in lane.visits if (w := list(_walked_wrongly(lane, v)))}
    assert not wrong
    assert report.clean and not report.wrong_referrals, report.explanations


def _recorded_wrongly(lane: PolicyLane, visit: Visit, version: str) -> Iterator[str]:
    """What the record for HQ says otherwise than the row."""
    row = visit.row
    decision, reason, urgency, notes = _expected(row)
    is_found = row.enrolled and row.renewed != "alone"
    said = {
        "decision": decision,
        "reason": reason,
        "urgency": urgency,
        "notes": notes,
        "category": row.category if is_found else None,
        "document_kind": row.document if row.is_known_kind else None,
        "direction": row.direction,
        "place": row.place,
        "rules": version,
        "enrolled": is_found,
    }
    verdicts = lane.verdicts(visit.paper.number)
    if not verdicts:
        yield "no record"
    for verdict in verdicts:
        for name, right in said.items():
            if (found := getattr(verdict, name)) != right:
                yield f"{name} is {found}, not {right}"
        yield from _told_wrongly(lane, row, verdict.ticket)


def _told_wrongly(lane: PolicyLane, row: Row, ticket: int) -> Iterator[str]:
    """The officer is called for whoever is referred, with as much urgency; the ticket ends as they went."""
    calls = [(call.reason, call.urgency) for call in lane.facts(OfficerCalled) if call.ticket == ticket]
    right = [] if row.passes else [(row.expect, row.urgency)]
    if calls[:1] != right:
        yield f"the officer was called for {calls}, not {right}"
    ends = [end.outcome for end in lane.facts(TicketSettled) if end.ticket == ticket]
    outcome = "crossed" if row.passes else "not_crossed"
    if ends != [outcome]:
        yield f"the ticket ended {ends}, not {outcome}"


def _walked_wrongly(lane: PolicyLane, visit: Visit) -> Iterator[str]:
    """What the doors did otherwise: through and out, in and back out, or not in."""
    row = visit.row
    passages = [(p.way, p.under) for p in lane.world.monitor.passages if p.body.name == row.name]
    right = [(visit.passenger().way, Cause.REQUEST)] if row.passes else []
    if passages != right:
        yield f"passed {passages}, not {right}"
    is_single = lane.topology is Topology.SINGLE  # it has no door behind which to be
    if not is_single and (row.name in lane.inside) is not row.comes_in:
        yield f"{'came' if row.name in lane.inside else 'did not come'} in"
