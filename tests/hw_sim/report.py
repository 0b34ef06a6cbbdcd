"""Truth against records: what the physics monitor saw held beside what the lane recorded (or HQ received)."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.hw_sim.leaf import Cause
from tests.hw_sim.monitor import UNSAFE, Attempt, Monitor, Passage

SLACK_S = 1.5
"""How far a record's times may be from the physical ones: debounce, the queue, two clocks."""
SETTLE_S = 30.0
"""A passage is settled at most this long after it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """One ticket's records in the monitor's clock. `recorded`: when its last verdict was durable; None: there was none.

    `decision` is the last one, `reason` the policy's, which may have referred before an officer granted.
    `decision` grant, refer or release; `outcome` crossed, not_crossed or unresolved; `by`: an officer."""

    ticket: int
    opened: float
    settled: float
    outcome: str
    persons: int
    decision: str | None = None
    reason: str = ""
    recorded: float | None = None
    number: str | None = None
    by: str | None = None
    score: float | None = None
    generation: str = ""


@dataclass
class Report:
    """The monitor's sentence on a run. Every count but the last ones is of physical truth."""

    passengers: int = 0
    genuine: int = 0
    impostors: int = 0
    """Who showed the document of somebody else."""
    others: int = 0
    """Everybody else who may not pass: unknown, banned, expired, under age, at last with the wrong document."""
    granted: int = 0
    """By the lane alone; what an officer opened is `by_officer`, and was referred before."""
    referred: int = 0
    wrong_grants: int = 0
    wrong_referrals: int = 0
    excused_referrals: int = 0
    records_lost: int = 0
    records_invented: int = 0
    records_twice: int = 0
    unresolved: int = 0
    doors_unsafe: int = 0
    wrong_way: int = 0
    tailgated: int = 0
    by_officer: int = 0
    passages: int = 0
    passages_in_fire: int = 0
    passage_s_median: float | None = None
    explanations: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (
            self.wrong_grants
            or self.records_lost
            or self.records_invented
            or self.records_twice
            or self.doors_unsafe
            or self.wrong_way
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def attempt_of(record: Settled, attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt that opened a ticket: the latest one before it, of the same document where that is known."""
    before = [each for each in attempts if each.at <= record.opened + SLACK_S]
    if record.number is not None:
        before = [each for each in before if each.number == record.number]
    return before[-1] if before else None


class _Comparison:
    def __init__(self, monitor: Monitor, records: Sequence[Settled]) -> None:
        self.monitor = monitor
        self.records = sorted(records, key=lambda record: record.opened)
        self.report = Report()
        self.passages: dict[int, list[Passage]] = {}
        """By index of the record that accounts for them."""
        self.attempts: dict[int, Attempt] = {}

    def say(self, line: str) -> None:
        self.report.explanations.append(line)

    def attempts_of_records(self) -> None:
        """The attempt that opened each ticket."""
        for index, record in enumerate(self.records):
            attempt = attempt_of(record, self.monitor.attempts)
            if attempt is not None:
                self.attempts[index] = attempt

    def passages_of_records(self) -> None:
        """Which record accounts for each passage; what none accounts for is lost."""
        for passage in self.monitor.passages:
            if passage.under is Cause.FIRE:
                self.report.passages_in_fire += 1
                continue
            index = self._account(passage)
            if index is not None:
                self.passages.setdefault(index, []).append(passage)
                self._durable(self.records[index], passage)
            elif passage.under is Cause.REQUEST and not self._expected_to_be_unseen(passage):
                self.report.records_lost += 1
                self.report.doors_unsafe += 1
                self.say(f"lost: {passage.body.name} passed at {passage.at:.1f} s and no record accounts for it")

    def _expected_to_be_unseen(self, passage: Passage) -> bool:
        """A wrong-way intruder is let out to where the lane can: an alarm, not a ticket of a passage."""
        return passage.way == "ba" and self.monitor.topology.value != "bidirectional"

    def _account(self, passage: Passage) -> int | None:
        open_then = [
            index
            for index, record in enumerate(self.records)
            if record.outcome != "not_crossed" and record.opened - SLACK_S <= passage.at <= record.settled + SLACK_S
        ]
        own = [i for i in open_then if i in self.attempts and self.attempts[i].name == passage.body.name]
        room = [
            index
            for index in open_then
            if self.records[index].outcome == "unresolved"
            or len(self.passages.get(index, [])) < self.records[index].persons
        ]
        for chosen in ([i for i in own if i in room], room):
            if chosen:
                return chosen[0]
        return None

    def _durable(self, record: Settled, passage: Passage) -> None:
        if passage.under is not Cause.REQUEST:
            return
        if record.decision is None or record.recorded is None or record.recorded > passage.at:
            self.report.doors_unsafe += 1
            self.say(f"exit_without_record: {passage.body.name} at {passage.at:.1f} s, ticket {record.ticket}")

    def judge_records(self) -> None:
        report = self.report
        for (_, ticket), times in Counter((record.generation, record.ticket) for record in self.records).items():
            if times > 1:
                report.records_twice += times - 1
                self.say(f"twice: ticket {ticket} was settled {times} times")
        for index, record in enumerate(self.records):
            passed, attempt = self.passages.get(index, []), self.attempts.get(index)
            report.unresolved += record.outcome == "unresolved"
            report.by_officer += record.by is not None and record.decision == "grant"
            if record.outcome == "crossed" and len(passed) < record.persons and not self._in_fire(record):
                report.records_invented += record.persons - len(passed)
                self.say(f"invented: ticket {record.ticket} says {record.persons} crossed, {len(passed)} did")
            if record.decision != "grant" or record.by is not None:
                continue
            if attempt is None or not attempt.entitled:
                report.wrong_grants += 1
                self.say(f"wrong grant: ticket {record.ticket}, {attempt.note if attempt else 'nobody showed it'}")
            elif passed and attempt.name not in [p.body.name for p in passed]:
                report.wrong_grants += 1
                self.say(f"wrong grant: {passed[0].body.name} passed on the grant of {attempt.name}")
            report.tailgated += max(0, len(passed) - 1)

    def _in_fire(self, record: Settled) -> bool:
        return any(
            p.under is not Cause.REQUEST and record.opened <= p.at <= record.settled + SLACK_S
            for p in self.monitor.passages
        )

    def judge_people(self) -> None:
        """Each person once, by their last attempt; a wrong referral gets a line that says what happened."""
        report, monitor = self.report, self.monitor
        last = {attempt.name: attempt for attempt in monitor.attempts}
        granted = {
            self.attempts[i].name
            for i, record in enumerate(self.records)
            if record.decision == "grant" and record.by is None and i in self.attempts
        }
        report.passengers = len(last)
        report.granted = len(granted)
        report.referred = report.passengers - report.granted
        durations = []
        for name, attempt in last.items():
            report.genuine += attempt.entitled
            report.impostors += attempt.impostor
            report.others += not attempt.entitled and not attempt.impostor
            if name in granted:
                durations += [p.at - attempt.at for p in monitor.passages if p.body.name == name]
            elif attempt.expected:
                self._wrong_referral(name, attempt)
        report.passage_s_median = round(statistics.median(durations), 2) if durations else None

    def _wrong_referral(self, name: str, attempt: Attempt) -> None:
        mine = [r for i, r in enumerate(self.records) if i in self.attempts and self.attempts[i].name == name]
        last = mine[-1] if mine else None
        until = (last.settled if last else attempt.at) + SETTLE_S
        faults = [
            what for start, end, what in self.monitor.disturbed if start <= until and end + SETTLE_S >= attempt.at
        ]
        why = f"{last.decision or 'no verdict'}: {last.reason or last.outcome}" if last else "no ticket was opened"
        score = f", score {last.score:.3f}" if last and last.score is not None else ""
        line = f"{name} ({attempt.note}) was not granted: {why}{score}"
        if faults:
            self.report.excused_referrals += 1
            self.say(f"excused referral: {line}; meanwhile {', '.join(sorted(set(faults)))}")
        else:
            self.report.wrong_referrals += 1
            self.say(f"wrong referral: {line}")


def compare(monitor: Monitor, records: Sequence[Settled]) -> Report:
    """Hold `records` (one `Settled` for each ticket) against what `monitor` saw; the world must have ended."""
    monitor.finish()
    comparison = _Comparison(monitor, records)
    comparison.attempts_of_records()
    comparison.passages_of_records()
    comparison.judge_records()
    comparison.judge_people()
    report = comparison.report
    report.passages = len(monitor.passages)
    for violation in monitor.violations:
        report.doors_unsafe += violation.kind in UNSAFE
        report.wrong_way += violation.kind == "wrong_way"
        report.explanations.append(f"{violation.kind}: {violation.detail} at {violation.at:.1f} s")
    return report
