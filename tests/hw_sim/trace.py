"""What physically happened, kept for the timeline and for the times that only the world can measure."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.hw_sim.happenings import Happening, Topology, What
from tests.hw_sim.monitor import Monitor
from tests.hw_sim.report import Settled, attempt_of


@dataclass
class Trace:
    """Listens to a gate. Times are of the wall clock, seconds."""

    monitor: Monitor
    crossed: list[tuple[float, str, str, bool]] = field(default_factory=list)
    """(time, body, door, inward)."""
    came: dict[str, float] = field(default_factory=dict)
    went: dict[str, float] = field(default_factory=dict)
    leaves: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    """By door: (time, shut) whenever that changed."""
    requests: dict[str, list[float]] = field(default_factory=dict)
    """By door: when the lane began to ask."""

    def observe(self, happening: Happening) -> None:
        now, body, door = time.time(), happening.body, happening.door
        match happening.what:
            case What.CROSSED if body is not None:
                self.crossed.append((now, body.name, door, happening.inward))
            case What.ADDED if body is not None:
                self.came[body.name] = now
            case What.REMOVED if body is not None:
                self.went[body.name] = now
            case What.REQUEST_ON:
                self.requests.setdefault(door, []).append(now)
            case What.LEAF:
                shut = self.monitor.gate.leaves[door].closed
                seen = self.leaves.setdefault(door, [])
                if not seen or seen[-1][1] is not shut:
                    seen.append((now, shut))
            case _:
                pass

    def measures(self) -> dict[str, float | None]:
        """`software_ms_*`: from the entry leaf shut behind a passenger to the request for the exit, which is all that

        the lane does by itself: best frames, comparison, flags, the durable record. `document_ms_*`: from a document
        put into the reader to the request for the entry, the reader's own work included. People and leaves not."""
        if self.monitor.topology is Topology.BIDIRECTIONAL:  # either leaf is an entry: these would be mixed up
            return {**_spread("software_ms", []), **_spread("document_ms", [])}
        shut = [at for at, is_shut in self.leaves.get("a", []) if is_shut]
        software = [_after(at, shut) for at in self.requests.get("b", [])]
        shown = [attempt.at for attempt in self.monitor.attempts]
        document = [_after(at, shown) for at in self.requests.get("a", [])]
        # A leaf that is asked for again (to let somebody back out) follows no document.
        return {
            **_spread("software_ms", [each for each in software if each is not None and each < 15.0]),
            **_spread("document_ms", [each for each in document if each is not None and each < 3.0]),
        }

    def as_dict(self, records: Sequence[Settled]) -> dict[str, Any]:
        """Everything for the timeline; no name and no number of a document."""
        attempts = [{"at": a.at, "name": a.name, "entitled": a.entitled, "note": a.note} for a in self.monitor.attempts]
        tickets = [
            {
                "ticket": record.ticket,
                "name": attempt.name if (attempt := attempt_of(record, self.monitor.attempts)) else None,
                "opened": record.opened,
                "settled": record.settled,
                "recorded": record.recorded,
                "decision": record.decision,
                "reason": record.reason,
                "outcome": record.outcome,
                "score": record.score,
                "by": record.by,
            }
            for record in records
        ]
        return {
            "came": self.came,
            "went": self.went,
            "crossed": self.crossed,
            "leaves": self.leaves,
            "requests": self.requests,
            "attempts": attempts,
            "tickets": tickets,
        }


def _after(at: float, earlier: Sequence[float]) -> float | None:
    """Seconds since the last of `earlier` before `at`."""
    before = [each for each in earlier if each <= at]
    return at - max(before) if before else None


def _spread(name: str, seconds: list[float]) -> dict[str, float | None]:
    if not seconds:
        return {f"{name}_median": None, f"{name}_p95": None}
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {f"{name}_median": round(1000 * statistics.median(ordered), 1), f"{name}_p95": round(1000 * p95, 1)}
