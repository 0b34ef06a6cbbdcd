"""What must be true once all is well again: every record of the lane at HQ, once, in order, or a word why not."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from gated.hq.intake import DROPPED
from gated.hq.sessions import GONE, TAKEN_OUT
from gated.wire import link
from gated.wire.record import generation_of, parted
from tests.hw_sim.protocol_ends import LANE, SITE, Key

if TYPE_CHECKING:
    from tests.hw_sim.protocol_run import Run

HARMLESS = {
    "message not stored, not acknowledged",
    "record set aside",
    "record refused by hq",
    "a record cannot be judged",
    "the database is away: nothing stored, nothing acknowledged",
    "uplink database damaged: starting a new one",
}
"""Errors in the log that a seed's faults bring about."""


def judge(run: "Run", logs: list[Any]) -> None:
    """Writes into `run.outcome.broken` what is not as it must be."""
    honest = not run.faults & {"hq_back", "lane_back", "tamper"}
    _records(run)
    _proofs(run)
    _telemetry(run)
    findings = [(each["code"], each["detail"]) for each in run.hq.archive.findings()]
    aside = {f"{each['stream_id']} {each['seq']}: conflict" for each in run.hq.archive.refused()}
    findings = [each for each in findings if each[0] != "edited" or each[1] not in aside]
    if findings and honest:
        run.broken(f"findings where nobody did anything: {findings[:4]}")
    errors = [each for each in logs if each["log_level"] == "error" and each["event"] not in HARMLESS]
    errors = [each for each in errors if each["event"] != "finding" or each["detail"] not in aside]
    if errors and honest:
        run.broken(f"errors in the log: {errors[:3]}")
    run.outcome.counts["findings"] += len(findings)
    run.outcome.counts["records"] += len(run.lane.made)
    run.outcome.counts["dropped"] += len(run.lane.dropped)
    run.outcome.counts["chapters"] += sum("." in stream_id for stream_id in run.lane.ends)


def _records(run: "Run") -> None:
    archive, lane = run.hq.archive, run.lane
    assert lane.db is not None
    with archive.engine.connect() as sql:
        rows = sql.execute(text("SELECT stream_id, seq, hash FROM records ORDER BY rowid")).all()
    stored = {(stream_id, seq): mark for stream_id, seq, mark in rows}
    order: dict[str, int] = defaultdict(int)
    for stream_id, seq, mark in rows:
        if seq <= order[stream_id]:
            run.broken(f"{stream_id}: {seq} stored behind {order[stream_id]}")
        order[stream_id] = seq
        if mark not in lane.made.get((stream_id, seq), ()):
            run.broken(f"{stream_id} {seq}: HQ has a record that the lane never made")
    holes = {
        (each["stream_id"], seq): each["why"]
        for each in archive.holes()
        for seq in range(each["first"], each["last"] + 1)
    }
    aside = {(each["stream_id"], each["seq"]): each["why"] for each in archive.refused()}
    for key, why in aside.items():
        cursed = bool(run.cursed & set(lane.made.get(key, ())))
        if not cursed and key not in run.spoilt and "lane_back" not in run.faults:
            run.broken(f"{key[0]} {key[1]}: set aside ({why}) though nothing is wrong with it")
    for key, why in holes.items():
        fair = {
            DROPPED: key in lane.dropped,
            GONE: bool(run.faults & {"hq_back", "tamper"}),
            TAKEN_OUT: key in run.taken_out or {"tamper", "hq_back"} <= run.faults,
        }
        if not fair.get(why, False):
            run.broken(f"{key[0]} {key[1]}: HQ goes without it: {why}")
    known = {*stored, *holes, *aside}
    for stream_id, last in lane.ends.items():
        ours = generation_of(stream_id) == lane.db.generation
        reach = last if ours else min(last, run.acked.get(stream_id, 0))
        if not ours and run.faults & {"hq_back", "lane_back", "tamper"}:
            continue
        missing = [seq for seq in range(1, reach + 1) if (stream_id, seq) not in known]
        if missing and _told(run, stream_id, missing, {*stored, *aside}, set(holes)):
            missing = []
        if missing:
            run.broken(
                f"{stream_id}: HQ lacks {missing[0]} to {missing[-1]} ({len(missing)}) of {last}, without a word"
            )
        other = [
            key
            for key in ((stream_id, seq) for seq in range(1, reach + 1))
            if key in stored and stored[key] != lane.made[key][-1] and key not in aside and key not in lane.dropped
        ]
        told = {each["detail"].partition(":")[0] for each in archive.findings() if each["code"] == "edited"}
        other = [key for key in other if f"{key[0]} {key[1]}" not in told]
        if other and "tamper" not in run.faults:
            run.broken(f"{stream_id}: HQ has others than the lane under {[seq for _, seq in other[:5]]}")


def _told(run: "Run", stream_id: str, missing: list[int], there: set[Key], holes: set[Key]) -> bool:
    """Does a finding or a hole elsewhere say that these are missing? The hole of the last records of a stream comes
    with its next one; and of a chapter that HQ never heard of speak those before and behind it."""
    words = {each["detail"].split()[0] for each in run.hq.archive.findings() if each["code"] == "gap"}
    if missing[0] > max((seq for name, seq in there if name == stream_id), default=0) and stream_id in words:
        return True
    generation, each, chapter = parted(stream_id)
    beside = [(*parted(name), name) for name in run.lane.ends]
    near = [(number, name) for of, cls, number, name in beside if (of, cls) == (generation, each)]
    unheard = not any(name == stream_id for name, _ in there)
    return unheard and any(
        (number < chapter and name in words) or (number > chapter and (name, 1) in holes) for number, name in near
    )


def _proofs(run: "Run") -> None:
    proofs = run.hq.archive.broken()
    if proofs and not run.faults & {"lane_back", "tamper"}:
        run.broken(f"chains that do not hold: {proofs[:3]}")
    held = run.hq.archive.held()
    if held and not run.faults & {"lane_back", "tamper"}:
        run.broken(f"{len(held)} records are held for ever: {held[0]['stream_id']} {held[0]['seq']}")


def _telemetry(run: "Run") -> None:
    told = [link.decode(each.payload) for each in run.sky.heard if each.topic == link.topic(SITE, LANE, "telemetry")]
    last = told[-1] if told else None
    assert isinstance(last, link.Telemetry), "the lane told how it is"
    if (last.pending, last.oldest_s, last.store) != (0, 0.0, "ok"):
        run.broken(f"telemetry in the end: {last.pending} pending, {last.oldest_s} s old, {last.store}")
