"""What lanes tell of themselves, inside a batch: births, deaths, telemetry, reports; and what HQ finds wrong in it.

Several workers hear one lane, so what it says comes out of order: a death before its birth, a birth after a later one.
The row of a lane is locked while somebody keeps what it said."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Table, and_, bindparam, select, update

from gated.hq import tables
from gated.hq.database import Key, claim, insert_new
from gated.wire import link
from gated.wire.record import Head, generation_of, parted, stream_id

GONE: Final = "acknowledged once, missing here, and no longer held by the lane"
TAKEN_OUT: Final = "taken out of the lane's database"
LOST: Final = frozenset({GONE, TAKEN_OUT})
"""Why HQ goes without numbers whose link nobody can prove."""
SHUFFLE_S: Final = 60.0
"""Messages overtake each other by less. Where one is older by more than this, the lane's clock went back."""
MARGIN_S: Final = 2.0
"""A birth does not know of the records of the last moments before it."""
LONG_AGO_S: Final = 600.0
DEAD_MAX: Final = 32
GENERATIONS_MAX: Final = 256
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STREAM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Told:
    """What telemetry led to. `known`: HQ has the birth of its session. `heads`: of the streams of its birth. `anchor`:
    the newest head of the lane's journal, of the same generation, that an earlier session told."""

    known: bool
    heads: tuple[Head, ...] = ()
    anchor: link.JournalHead | None = None


_JSON: Final = ("spans", "gaps", "parts", "dead", "generations", "telemetry", "reported")
"""Columns of a lane that hold JSON."""


class Sessions:
    """Of the lanes that one batch is about."""

    def __init__(
        self,
        sql: Connection,
        look: Callable[[Iterable[Key]], None],
        head: Callable[[str, str], Head],
        finding: Callable[[str, str, str, str], bool],
    ) -> None:
        """`look`: reads the heads of these streams at once, so that `head` need not."""
        self._sql, self._look, self._head, self._finding = sql, look, head, finding
        self._rows: dict[Key, dict[str, Any]] = {}
        self._changed: set[Key] = set()
        self._anchors: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._anchors_changed: set[tuple[str, str, str]] = set()

    def lock(self, keys: Iterable[Key]) -> None:
        """Lock the rows of these lanes (site, lane), and read what is needed for them."""
        new = set(keys) - self._rows.keys()
        if not new:
            return
        for key, row in claim(self._sql, tables.lanes, new, lambda key: {"site": key[0], "lane": key[1]}).items():
            self._rows[key] = {
                **row,
                **{name: json.loads(row[name]) for name in _JSON},
            }
        c = tables.anchors.c
        for found in self._sql.execute(select(tables.anchors).where(c.lane.in_({lane for _, lane in new}))).mappings():
            if (found["site"], found["lane"]) in new:
                self._anchors[found["site"], found["lane"], found["generation"]] = dict(found)

    def streams(self) -> set[Key]:
        """(lane, stream id) of what the births of the locked lanes told of."""
        return {(lane, span["stream_id"]) for (_, lane), row in self._rows.items() for span in row["spans"]}

    def missing(self, site: str, head: Head, begin: int) -> str:
        """Why the numbers from the head up to `begin` are missing, where the lane says that it no longer holds them: HQ
        went back to an older copy of its database, or somebody took them out of the lane's. The stream goes on behind
        them. Empty where it does not say so, or none are missing."""
        if begin <= head.seq + 1:
            return ""
        row = self._rows.get((site, head.lane)) or self._peek(site, head.lane)
        if any(begin <= span["first"] for span in row["spans"] if span["stream_id"] == head.stream_id):
            return GONE
        if self.let_go(site, head.lane, head.stream_id):
            return GONE
        there = head.seq
        for low, high in sorted(
            (gap["first"], gap["last"]) for gap in row["gaps"] if gap["stream_id"] == head.stream_id
        ):
            if low <= there + 1:
                there = max(there, high)
        return TAKEN_OUT if there >= begin - 1 else ""

    def may_hold(self, site: str, lane: str, stream_id: str) -> bool:
        """May the lane still have records of this stream, by its last birth? Not of another generation's, nor of a
        chapter that it let go."""
        row = self._rows.get((site, lane)) or self._peek(site, lane)
        generations = {generation_of(span["stream_id"]) for span in row["spans"]}
        return not generations or (generation_of(stream_id) in generations and not self.let_go(site, lane, stream_id))

    def let_go(self, site: str, lane: str, stream_id: str) -> bool:
        """Does the lane's last birth tell of a later chapter of this class, and of this one no more?"""
        row = self._rows.get((site, lane)) or self._peek(site, lane)
        told = {parted(span["stream_id"]) for span in row["spans"]}
        generation, each, chapter = parted(stream_id)
        later = any(span[:2] == (generation, each) and span[2] > chapter for span in told)
        return later and (generation, each, chapter) not in told

    def next_let_go(self, site: str, lane: str, name: str) -> str:
        """The chapter after this former one, where the lane, by its last birth, has its first record no more, which
        says where this one ended; else empty."""
        row = self._rows.get((site, lane)) or self._peek(site, lane)
        generation, each, chapter = parted(name)
        after = stream_id(generation, each, chapter + 1)
        return after if all(span["first"] > 1 for span in row["spans"] if span["stream_id"] == after) else ""

    def _peek(self, site: str, lane: str) -> dict[str, Any]:
        c = tables.lanes.c
        row = self._sql.execute(select(c.spans, c.gaps).where((c.site == site) & (c.lane == lane))).first()
        return {"spans": json.loads(row.spans), "gaps": json.loads(row.gaps)} if row else {"spans": [], "gaps": []}

    def _row(self, site: str, lane: str) -> dict[str, Any]:
        self.lock([(site, lane)])
        return self._rows[site, lane]

    # -- what is told

    def born(self, site: str, lane: str, birth: link.Birth, retained: bool) -> None:
        """A lane's uplink came up, or tells anew what it holds. `retained`: it said so some time ago."""
        row, now = self._row(site, lane), datetime.now(UTC)
        birth = replace(
            birth,
            spans=tuple(span for span in birth.spans if _STREAM_ID.fullmatch(span.stream_id)),
            gaps=tuple(gap for gap in birth.gaps if _STREAM_ID.fullmatch(gap.stream_id)),
        )
        self._look_at(site, lane, birth, now)
        before = row["born"]
        if before is not None and before - timedelta(seconds=SHUFFLE_S) < birth.utc < before:
            return  # a later one was here first
        self._generation(site, lane, row, birth)
        why = next((why for session, why in row["dead"] if session == birth.session), None)
        row.update(
            session=birth.session,
            up=int(why is None),
            ended=why,
            boot=birth.boot,
            version=birth.version,
            born=birth.utc,
            seen=birth.utc if retained else now,
            spans=[{"stream_id": s.stream_id, "first": s.first, "last": s.last, "acked": s.acked} for s in birth.spans],
            gaps=[{"stream_id": g.stream_id, "first": g.first, "last": g.last} for g in birth.gaps],
            parts={part.name: part.version for part in birth.parts},
        )
        self._changed.add((site, lane))

    def died(self, site: str, lane: str, death: link.Death) -> bool:
        """A session ended. False where it is not the lane's present one, or known already: an old will says nothing.
        A birth of the same session that comes later makes nobody alive."""
        row = self._row(site, lane)
        if any(session == death.session for session, _ in row["dead"]):
            return False
        row["dead"] = [*row["dead"], [death.session, death.why]][-DEAD_MAX:]
        self._changed.add((site, lane))
        if row["session"] != death.session or not row["up"]:
            return False
        row.update(up=0, ended=death.why)
        return True

    def told(self, site: str, lane: str, telemetry: link.Telemetry) -> Told:
        """How a lane is. Writes down what its uplink finds, and a journal that went back."""
        row = self._row(site, lane)
        for found in telemetry.findings:
            code = found.code if _CODE.fullmatch(found.code) else "unreadable"
            self._finding(site, lane, code, found.detail)
        journal = telemetry.journal
        anchor = None
        if journal is not None and journal.generation in row["generations"]:
            anchor = self._journal(site, lane, telemetry, journal)
        if any(session == telemetry.session for session, _ in row["dead"]):
            return Told(True)  # overtaken by its end
        known = row["session"] == telemetry.session
        names = ("store", "lane_up", "pending", "oldest_s", "refused", "resent")
        row.update(seen=datetime.now(UTC), telemetry={name: getattr(telemetry, name) for name in names})
        if known:
            row["boot"] = telemetry.boot
        elif row["session"] is None:
            row.update(up=1, boot=telemetry.boot)
        self._changed.add((site, lane))
        if not known:
            return Told(False)
        return Told(True, tuple(self._head(lane, span["stream_id"]) for span in row["spans"]), anchor)

    def reported(self, site: str, lane: str, reported: link.Reported) -> None:
        """Which versions a lane has, and what of the desired ones it has not."""
        row, utc = self._row(site, lane), reported.utc.astimezone(UTC).isoformat(timespec="microseconds")
        kept = row["reported"]
        if kept and (reported.revision, utc) < (kept["revision"], kept["utc"]):
            return  # a later one was here first; revisions never go back
        parts = {part.name: part.version for part in reported.parts}
        row["reported"] = {
            "revision": reported.revision, "utc": utc, "parts": parts, "behind": list(reported.behind)
        }  # fmt: skip
        self._changed.add((site, lane))

    # -- what is wrong in it

    def _look_at(self, site: str, lane: str, birth: link.Birth, now: datetime) -> None:
        self._look((lane, stream_id) for stream_id in {each.stream_id for each in birth.spans + birth.gaps})
        for gap in birth.gaps:
            first = max(gap.first, self._head(lane, gap.stream_id).seq + 1)
            if first <= gap.last:  # else the lane forgot what was acknowledged, not HQ
                self._finding(site, lane, "gap", f"{gap.stream_id} {first} to {gap.last}: taken out at the lane")
        for span in birth.spans:
            head = self._head(lane, span.stream_id)
            if head.seq > span.last and self._forgotten(lane, span, birth.utc, now):
                self._finding(site, lane, "truncated", f"{span.stream_id}: ends at {span.last}, HQ has {head.seq}")

    def _forgotten(self, lane: str, span: link.Span, utc: datetime, now: datetime) -> bool:
        """Does HQ have a record behind this span that was made before the birth told of it? One that was made later
        only overtook the birth."""
        c = tables.records.c
        where = (c.lane == lane) & (c.stream_id == span.stream_id) & (c.seq > span.last)
        row = self._sql.execute(select(c.utc, c.received).where(where).order_by(c.seq).limit(1)).first()
        if row is None:
            return False
        long_ago = row.received < now - timedelta(seconds=LONG_AGO_S) and utc > row.received
        return bool(row.utc < utc - timedelta(seconds=MARGIN_S) or long_ago)

    def _generation(self, site: str, lane: str, row: dict[str, Any], birth: link.Birth) -> None:
        for new in dict.fromkeys(generation_of(span.stream_id) for span in birth.spans):
            known: list[str] = row["generations"]
            if known and known[-1] != new:
                self._finding(site, lane, "replaced", f"database {new} after {known[-1]}")
            row["generations"] = [*(each for each in known if each != new), new][-GENERATIONS_MAX:]

    def _journal(
        self, site: str, lane: str, telemetry: link.Telemetry, head: link.JournalHead
    ) -> link.JournalHead | None:
        """Compare the journal's head with the newest that HQ was told, and keep it."""
        key = (site, lane, head.generation)
        kept = self._anchors.get(key)
        told = {"session": telemetry.session, "utc": telemetry.utc, "first": head.first}
        told |= {"last": head.last, "link": head.link}
        if kept is None:
            empty = {"old_first": None, "old_last": None, "old_link": None}
            self._anchors[key] = {"site": site, "lane": lane, "generation": head.generation, **told, **empty}
            self._anchors_changed.add(key)
            return None
        late = kept["utc"] - timedelta(seconds=SHUFFLE_S) < telemetry.utc < kept["utc"]
        where = f"{head.generation}: row {head.last}"
        if head.last == kept["last"] and head.link != kept["link"]:
            self._finding(site, lane, "journal_altered", f"{where} is another one than HQ was told")
        elif head.last < kept["last"] and not late:
            self._finding(site, lane, "journal_back", f"{where} is the last, HQ was told of {kept['last']}")
        if not late:
            if kept["session"] != telemetry.session:
                kept.update(old_first=kept["first"], old_last=kept["last"], old_link=kept["link"])
            kept.update(told)
            self._anchors_changed.add(key)
        if kept["old_last"] is None:
            return None
        return link.JournalHead(head.generation, kept["old_first"], kept["old_last"], kept["old_link"])

    # -- at the end of the batch

    def flush(self) -> None:
        """Write down what changed."""
        if self._changed:
            rows = []
            for key in sorted(self._changed):
                row = self._rows[key] | {name: json.dumps(self._rows[key][name]) for name in _JSON}
                rows.append(row)
            _write(self._sql, tables.lanes, rows)
        if self._anchors_changed:
            rows = [self._anchors[key] for key in sorted(self._anchors_changed)]
            self._sql.execute(insert_new(self._sql, tables.anchors), rows)
            _write(self._sql, tables.anchors, rows)


def _write(sql: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Every column of rows that are there."""
    keys = [column.name for column in table.primary_key.columns]
    where = and_(*(table.c[name] == bindparam(f"key_{name}") for name in keys))
    values = [{f"key_{name}" if name in keys else name: value for name, value in row.items()} for row in rows]
    sql.execute(update(table).where(where), values)
