"""What a fleet's processes are told and tell: the plan, who passes when, and how far everything is."""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from gated.mqtt import Broker
from gated.wire.facts import AlarmRaised, Fact, Holder, LaneChanged, TicketSettled, VerdictReached

SITE: Final = "tpe-t1"
PASSAGE_S: Final = 3.0
"""From a passenger's verdict to the end of the ticket, on average; less where so many come that lanes would queue."""
BUSY_MAX: Final = 0.3
"""So much of its time a lane has somebody inside, at most."""
RECORDS: Final = 4
"""Of a passage: LaneChanged and VerdictReached at once, then TicketSettled and an AlarmRaised."""


def name_of(lane: int) -> str:
    """A lane's name at its site."""
    return f"lane-{lane:05}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process of lanes works with."""

    folder: Path
    """keys/ of HQ; full lanes have a folder each in it."""
    brokers: Mapping[int, Broker]
    """How each lane reaches the broker: as itself."""
    lanes: Sequence[int]
    rate: float
    """Records a second of all these lanes together, on average."""
    seed: int
    heartbeat_s: float = 15.0
    ack_s_max: float = 10.0
    retry_s: tuple[float, float] = (1.0, 60.0)
    inflight_max: int = 64

    def key(self, name: str) -> bytes:
        """One of HQ's key files."""
        return (self.folder / "keys" / name).read_bytes()


@dataclass(frozen=True, slots=True)
class Status:
    """How far a process of lanes is. `ready`: lanes that HQ itself has answered on their present connection."""

    ready: int
    made: int
    acked: int
    oldest_mono: float | None
    """When the first record was made that is not acknowledged; None: all are."""
    inside: int = 0
    """Records that will still be made: of passengers who came already."""

    @classmethod
    def together(cls, told: Sequence["Status"]) -> "Status":
        """Of several processes."""
        oldest = min((each.oldest_mono for each in told if each.oldest_mono is not None), default=None)
        ready, made = sum(each.ready for each in told), sum(each.made for each in told)
        return cls(ready, made, sum(each.acked for each in told), oldest, sum(each.inside for each in told))

    @property
    def through(self) -> bool:
        """Nobody is inside, and all is acknowledged."""
        return not self.inside and self.acked == self.made


@dataclass(slots=True)
class Report:
    """What became of a process's lanes."""

    heads: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    """(lane, stream id) -> number and hash of the last record made."""
    acked: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """From a record's making until a receipt that covers it was verified. Empty where lanes cannot tell."""
    resent: int = 0
    connects: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Why connections did not come about, or ended."""
    wrong: Counter[str] = field(default_factory=Counter)
    """What must never happen: a bad signature, a refusal, a receipt that does not fit."""

    def add(self, other: "Report") -> None:
        """Both in one."""
        self.heads |= other.heads
        self.latencies_s += other.latencies_s
        self.acked, self.resent, self.connects = (
            self.acked + other.acked, self.resent + other.resent, self.connects + other.connects,
        )  # fmt: skip
        self.failures += other.failures
        self.wrong += other.wrong


class Passengers:
    """Who passes where and when: arrivals are a Poisson process over all lanes, one passage after another in each."""

    def __init__(self, plan: Plan) -> None:
        self._random, self._plan = Random(plan.seed), plan
        self._tickets = dict.fromkeys(plan.lanes, 0)
        self._free_mono = dict.fromkeys(plan.lanes, 0.0)
        self._due: list[tuple[float, int, int, tuple[Fact, ...]]] = []
        """(when, a number that makes the order total, lane, facts)."""
        self._count = 0
        self._arrival_mono = float("inf")
        self._passage_s = min(PASSAGE_S, BUSY_MAX * RECORDS * len(plan.lanes) / max(plan.rate, 1e-9))

    def begin(self, mono: float) -> None:
        """From now on passengers come."""
        if self._plan.rate > 0:
            self._arrival_mono = mono + self._gap_s()

    def end(self) -> None:
        """Nobody comes any more; whoever is inside walks out."""
        self._arrival_mono = float("inf")

    @property
    def inside(self) -> int:
        """Records of passengers who came already and are not through."""
        return sum(len(facts) for *_, facts in self._due)

    @property
    def next_mono(self) -> float:
        """When something happens next; infinity: nothing will."""
        return min(self._arrival_mono, self._due[0][0] if self._due else float("inf"))

    def until(self, mono: float) -> Iterator[tuple[int, tuple[Fact, ...]]]:
        """(lane, facts that become durable together), in the order in which they happen."""
        while self.next_mono <= mono:
            if self._arrival_mono <= mono and (not self._due or self._arrival_mono <= self._due[0][0]):
                self._arrive(self._arrival_mono)
                self._arrival_mono += self._gap_s()
            else:
                _, _, lane, facts = heapq.heappop(self._due)
                yield lane, facts

    def _gap_s(self) -> float:
        return self._random.expovariate(self._plan.rate / RECORDS)

    def _arrive(self, mono: float) -> None:
        """A passenger goes to some lane, and waits there for the one before: a lane has one ticket at a time."""
        lane = self._random.choice(self._plan.lanes)
        mono = max(mono, self._free_mono[lane])
        out = self._free_mono[lane] = mono + self._passage_s * self._random.uniform(0.5, 1.5)
        self._tickets[lane] += 1
        ticket = self._tickets[lane]
        self._at(mono, lane, LaneChanged("checking"), verdict(ticket))
        self._at(out, lane, TicketSettled(ticket, "crossed", 1, "grant", "matched", "entry", "A"))
        self._at(out, lane, AlarmRaised("help", "", ticket))

    def _at(self, mono: float, lane: int, *facts: Fact) -> None:
        self._count += 1
        heapq.heappush(self._due, (mono, self._count, lane, facts))


def verdict(ticket: int) -> VerdictReached:
    """As much as a grant by face says, of nobody."""
    return VerdictReached(
        ticket, "grant", "matched", "tw-2026.3", "entry", "A",
        category="citizen", enrolled=True, chip_access="successful", chip_authentic="successful",
        face="successful", face_score=0.71, face_threshold=0.42, face_fmr=1e-5, face_persons=1,
        face_pad="not_supported",
        holder=Holder(
            document_type="TD3", document_code="P", issuer="UTO", number=f"X{ticket:08}", nationality="UTO",
            birth="740812", sex="F", expiry="341231", surname="ERIKSSON", given_names="ANNA MARIA",
        ),
        fmr=1e-5, people_serial=4711, control_serial=815, cache="fresh", place="tpe-t1", document_kind="passport",
    )  # fmt: skip
