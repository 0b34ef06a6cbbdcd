"""What the lane's process measures of itself, for Prometheus. No reason of a verdict is in it (L8), and no person.

`Measures` hears every command as `Status` does; the rest is looked up when the text file is written."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client.core import Metric

from gated.control_views import Snapshot
from gated.daemon.writer import Writer
from gated.lane import commands as cmd
from gated.lane.commands import AlarmCode, Command, Outcome
from gated.lane.core import State
from gated.lane.events import Device, Now
from gated.lane.evidence import Decision
from gated.lane.freshness import Freshness
from gated.metrics import Label, Meter, Tally, common
from gated.wire.facts import STREAMS
from gated.wire.rows import PARTITIONS

PASSAGE_S: Final = (5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0)
_PARTITION: Final = Label("partition", tuple(PARTITIONS))
_CLASS: Final = Label("class", STREAMS)

STATE: Final = Meter(
    "gated_lane_state", "gauge", "1 for the state that the lane is in", (Label("state", tuple(s.value for s in State)),)
)
VERDICTS: Final = Meter(
    "gated_lane_verdicts_total",
    "counter",
    "Verdicts, by what was decided and never by why",
    (Label("decision", tuple(d.value for d in Decision)),),
)
TICKETS: Final = Meter(
    "gated_lane_tickets_total",
    "counter",
    "Passengers, by how they ended",
    (Label("outcome", tuple(o.value for o in Outcome)),),
)
PASSAGE: Final = Meter(
    "gated_lane_passage_seconds", "histogram", "From the document to the far side, of who crossed", buckets=PASSAGE_S
)
DEVICE: Final = Meter(
    "gated_lane_device_up",
    "gauge",
    "Whether a configured device, or part of the program, works",
    (Label("device", tuple(d.value for d in Device)),),
    whole=False,
)
ALARMS: Final = Meter(
    "gated_lane_alarms_total", "counter", "Alarms", (Label("code", tuple(code.value for code in AlarmCode)),)
)
OUTBOX: Final = Meter("gated_lane_outbox_records", "gauge", "Records in the outbox, not yet trimmed", (_CLASS,))
FACTS_LOST: Final = Meter(
    "gated_lane_facts_lost_total", "counter", "Alarms and states lost because the disk refused for too long"
)
JOURNAL_LOST: Final = Meter(
    "gated_lane_journal_lost_total", "counter", "Steps missing in the journal because the disk refused for too long"
)
CONFIRMED: Final = Meter(
    "gated_lane_cache_confirmed_timestamp_seconds",
    "gauge",
    "When HQ last said that this is all, Unix time; 0: not known",
    (_PARTITION,),
    whole=False,
)
FRESHNESS: Final = Meter(
    "gated_lane_cache_freshness",
    "gauge",
    "1 for what the policy calls the cache's age",
    (_PARTITION, Label("freshness", tuple(f.value for f in Freshness))),
    whole=False,
)
POLICY: Final = Meter(
    "gated_lane_policy_info",
    "gauge",
    "1; the label names the version in force",
    (Label("version", bound="one series at a time"),),
)
EDITION: Final = Meter("gated_lane_policy_edition", "gauge", "The edition of the policy in force")
POLICY_REFUSED: Final = Meter("gated_lane_policy_refused", "gauge", "1: the policy that came last is not taken")
POLICY_LACKS: Final = Meter("gated_lane_policy_lacks", "gauge", "1: closed, since no policy may be used")
UPLINK: Final = Meter("gated_lane_uplink_up", "gauge", "Whether HQ answers, as the lane was told")

METERS: Final = (
    *common("lane"),
    *(STATE, VERDICTS, TICKETS, PASSAGE, DEVICE, ALARMS, OUTBOX, FACTS_LOST, JOURNAL_LOST, CONFIRMED, FRESHNESS),
    *(POLICY, EDITION, POLICY_REFUSED, POLICY_LACKS, UPLINK),
)


class Measures:
    """`snapshot`: as `status` shows; `confirmed`: when HQ last confirmed each partition."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        confirmed: Callable[[], Mapping[str, datetime]],
        writer: Writer,
    ) -> None:
        self._snapshot, self._confirmed, self._writer = snapshot, confirmed, writer
        self._verdicts: Counter[str] = Counter()
        self._tickets: Counter[str] = Counter()
        self._alarms: Counter[str] = Counter()
        self._passages = Tally(PASSAGE_S)
        self._began: tuple[int, float] = (0, math.nan)
        """The present ticket, and when it was opened."""

    def heard(self, command: Command, now: Now) -> None:
        """Count a command."""
        match command:
            case cmd.Alarm(code):
                self._alarms[code.value] += 1
            case cmd.Record():
                self._verdicts[command.verdict.decision.value] += 1
            case cmd.Watch(ticket):
                self._began = (ticket, now.mono)
            case cmd.Settle(ticket, outcome):
                self._tickets[outcome.value] += 1
                if outcome is Outcome.CROSSED and ticket == self._began[0]:
                    self._passages.add(now.mono - self._began[1])
            case _:
                pass

    def collect(self) -> Iterator[Metric]:
        """Every family, as things are now."""
        now = self._snapshot()
        policy = now["policy"]
        yield STATE.family({(now["state"],): 1})
        yield VERDICTS.family(_by_one(self._verdicts))
        yield TICKETS.family(_by_one(self._tickets))
        yield PASSAGE.histogram({(): self._passages})
        yield DEVICE.family({(name,): state == "ready" for name, state in now["devices"].items()})
        yield ALARMS.family(_by_one(self._alarms))
        yield OUTBOX.family(_by_one(now["outbox"]))
        yield FACTS_LOST.family(self._writer.dropped)
        yield JOURNAL_LOST.family(self._writer.journal.lost)
        yield CONFIRMED.family({(name,): at.timestamp() for name, at in self._confirmed().items()})
        yield FRESHNESS.family(
            {(name, each.value): each.value == is_now for name, is_now in now["cache"].items() for each in Freshness}
        )
        yield POLICY.family({(policy["version"],): 1})
        yield EDITION.family(policy["edition"])
        yield POLICY_REFUSED.family(bool(policy["refused"]))
        yield POLICY_LACKS.family(policy["lacks"])
        yield UPLINK.family(now["uplink"] == "up")


def _by_one(counted: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): value for name, value in counted.items()}
