"""Whoever is at a lane's databases while it runs is in HQ's findings within a minute; and what root can do unseen.

Real processes: the daemon's writer, the uplink, mosquitto, HQ's ingest. Root writes with connections of its own."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gated.hq.keys import secret
from gated.lane import commands, events
from gated.store.acks import AckedHeads
from gated.store.journal import JournalReader
from gated.store.sql import StoreError
from gated.wire import link
from gated.wire.codec import family
from gated.wire.facts import AlarmRaised, Fact, Holder, TicketSettled, VerdictReached
from gated.wire.record import Head, Record
from tests.broker import Peer
from tests.tamper_lane import JOURNAL_KEY as KEY
from tests.tamper_rig import CAP, Attack, Lane, Lanes
from tests.test_witness import Lane as Writing
from tests.test_witness import Watch, attack
from tests.uplink_rig import LANE, SITE, Rig, eventually

ONLINE_S = 60.0
"""The promise."""
HASTE = "heartbeat_s = 1.0\n"
ALTERED, CUT = frozenset({"journal_altered"}), frozenset({"journal_cut", "journal_back"})
OUTBOX = frozenset({"outbox_altered", "outbox_gap", "edited", "gap", "truncated"})
DATABASE = frozenset({"replaced", "truncated", "journal_back", "outbox_gap", "database_back"})
ACKED = frozenset({"acked_altered"})
OTHER_WORD = "UPDATE outbox SET payload = cast(replace(cast(payload AS TEXT), 'crossed', 'cressed') AS BLOB)"


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    with Lanes(tmp_path) as running:
        yield running


# -- the journal -------------------------------------------------------------------------------------------------------


def journal(*statements: str) -> Callable[[Lane], None]:
    """`{row}`: a row in the middle; `{last}`: the newest."""

    def do(lane: Lane) -> None:
        last = lane.journal_last
        lane.root(*(each.format(row=last // 2, last=last) for each in statements))

    return do


def forged_trimming(lane: Lane) -> None:
    """Cut the head, and a note that says it was old enough to be trimmed."""
    row = lane.journal_last // 2
    link = lane.ask("SELECT link FROM journal WHERE id = ?", row)
    old = (datetime.now(UTC) - timedelta(days=99)).isoformat(timespec="microseconds")
    lane.root(
        f"DELETE FROM journal WHERE id <= {row}",
        f"INSERT OR REPLACE INTO notes VALUES ('journal_base', '{row} {old} {link.hex()}')",
    )


def rechained(lane: Lane) -> None:
    """An edit after which the whole open chain fits again."""
    row = lane.journal_last // 2
    lane.rechain(row, f"UPDATE journal SET mono = 9 WHERE id = {row}")


def rechained_unwatched(lane: Lane) -> None:
    """The same while the uplink does not run, which then remembers nothing."""
    lane.end("uplink", kill=True)
    rechained(lane)
    lane.start("uplink")


SHIFTED = ("UPDATE journal SET id = -id - 1 WHERE id > {row}", "UPDATE journal SET id = -id WHERE id < 0")
EDIT = "UPDATE journal SET clear = cast('[]' AS BLOB) WHERE id = "
JOURNAL = [
    Attack("journal: edit", journal(EDIT + "{row}"), ALTERED),
    Attack("journal: edit, 100,000 rows", journal(EDIT + "{row}"), ALTERED, rows=100_000),
    Attack("journal: edit of the newest", journal(EDIT + "{last}"), ALTERED),
    Attack("journal: edit, chain made anew", rechained, ALTERED),
    Attack("journal: the same, uplink killed", rechained_unwatched, ALTERED),
    Attack("journal: deletion", journal("DELETE FROM journal WHERE id = {row}"), CUT),
    Attack("journal: truncation", journal("DELETE FROM journal WHERE id > {row}"), CUT),
    Attack("journal: all of it", journal("DELETE FROM journal"), CUT),
    Attack("journal: head cut", journal("DELETE FROM journal WHERE id < 5"), CUT),
    Attack("journal: head cut, forged note", forged_trimming, CUT),
    Attack(
        "journal: two rows swapped",
        journal(
            "UPDATE journal SET id = -1 WHERE id = {row}",
            "UPDATE journal SET id = {row} WHERE id = {row} + 1",
            "UPDATE journal SET id = {row} + 1 WHERE id = -1",
        ),
        ALTERED,
    ),
    Attack(
        "journal: row put in",
        journal(
            *SHIFTED,
            "INSERT INTO journal SELECT {row} + 1, 'x', 1, mono, utc, clear, sealed, chain, link FROM journal"
            " WHERE id = {row}",
        ),
        ALTERED,
    ),
    Attack(
        "journal: row put in at the end",
        journal(
            "INSERT INTO journal SELECT id + 1, 'x', 1, mono, utc, clear, sealed, chain, link FROM journal"
            " WHERE id = {last}",
        ),
        ALTERED,
    ),
]


# -- the outbox --------------------------------------------------------------------------------------------------------


def sent(*statements: str) -> Callable[[Lane], None]:
    """On what HQ has acknowledged and the lane has not trimmed yet. `{seq}`: a `TicketSettled` in the middle."""

    def do(lane: Lane) -> None:
        seq = (lane.first("crossing") + lane.acked("crossing")) // 4 * 2
        lane.root(*(each.format(seq=seq) for each in statements))

    return do


def waiting(*statements: str) -> Callable[[Lane], None]:
    """On what HQ has not had yet."""

    def do(lane: Lane) -> None:
        seq = (lane.acked("crossing") + lane.last("crossing")) // 4 * 2
        lane.root(*(each.format(seq=seq) for each in statements))

    return do


DEEDS = {
    "edit": (OTHER_WORD + " WHERE stream = 'crossing' AND seq = {seq}",),
    "deletion": ("DELETE FROM outbox WHERE stream = 'crossing' AND seq = {seq}",),
    "deletion, counted": (
        "DELETE FROM outbox WHERE stream = 'crossing' AND seq = {seq}",
        "UPDATE streams SET rows = rows - 1 WHERE stream = 'crossing'",
    ),
    "truncation": ("DELETE FROM outbox WHERE stream = 'crossing' AND seq > {seq}",),
    "truncation, counted": (
        "DELETE FROM outbox WHERE stream = 'crossing' AND seq > {seq}",
        "UPDATE streams SET seq = {seq}, rows = (SELECT count(*) FROM outbox WHERE stream = 'crossing')"
        " WHERE stream = 'crossing'",
    ),
    "two records swapped": (
        "UPDATE outbox SET seq = -1 WHERE stream = 'crossing' AND seq = {seq}",
        "UPDATE outbox SET seq = {seq} WHERE stream = 'crossing' AND seq = {seq} + 1",
        "UPDATE outbox SET seq = {seq} + 1 WHERE stream = 'crossing' AND seq = -1",
    ),
    "record put in": (
        "UPDATE outbox SET seq = -seq - 1 WHERE stream = 'crossing' AND seq > {seq}",
        "UPDATE outbox SET seq = -seq WHERE stream = 'crossing' AND seq < 0",
        "INSERT INTO outbox SELECT stream, seq + 1, payload FROM outbox WHERE stream = 'crossing' AND seq = {seq}",
        "UPDATE streams SET seq = seq + 1, rows = rows + 1 WHERE stream = 'crossing'",
    ),
}
SENT = [Attack(f"outbox, acknowledged: {name}", sent(*deed), OUTBOX) for name, deed in DEEDS.items()]
WAITING = [Attack(f"outbox, waiting: {name}", waiting(*deed), OUTBOX, CAP) for name, deed in DEEDS.items()]


# -- whole databases ---------------------------------------------------------------------------------------------------


def copy_and_go_on(lane: Lane) -> None:
    """An older copy: HQ acknowledges passengers that it does not have."""
    before = lane.acked("crossing")
    lane.copied(lane.lanes.folder / f"{lane.name}.copy")
    eventually(lambda: lane.acked("crossing") > before + 4, 30, "HQ acknowledges more")


def older_copy_running(lane: Lane) -> None:
    lane.put(lane.lanes.folder / f"{lane.name}.copy")


def older_copy(lane: Lane) -> None:
    lane.end("writer")
    older_copy_running(lane)
    lane.start("writer")


def older_copies(lane: Lane) -> None:
    """And nothing at the lane knows any more how far HQ has come."""
    lane.end()
    older_copy_running(lane)
    lane.put(None, "uplink.db")
    lane.start()


def another_lane_s(lane: Lane) -> None:
    other = next(each for each in lane.lanes.all if each is not lane)
    copy = other.copied(lane.lanes.folder / f"{lane.name}.other")
    lane.end("writer")
    lane.put(copy)
    lane.start("writer")


def gone(lane: Lane) -> None:
    lane.end("writer")
    lane.put(None)
    lane.start("writer")


def acknowledged(change: str) -> Callable[[Lane], None]:
    """More: the lane then trims what HQ never had. Fewer: it keeps what it need not."""

    def do(lane: Lane) -> None:
        with closing(sqlite3.connect(lane.uplink_db, timeout=20.0)) as sql, sql:
            assert sql.execute(f"UPDATE acked SET seq = {change} WHERE stream_id LIKE '%crossing'").rowcount

    return do


def nothing_acknowledged(lane: Lane) -> None:
    lane.put(None, "uplink.db")


DATABASES = [
    Attack("lane.db: older copy, lane running", older_copy_running, DATABASE, before=copy_and_go_on),
    Attack("lane.db: older copy, lane started", older_copy, DATABASE, before=copy_and_go_on),
    Attack("lane.db: older copy, no uplink.db", older_copies, DATABASE | OUTBOX, before=copy_and_go_on),
    Attack("lane.db: that of another lane", another_lane_s, DATABASE),
    Attack("lane.db: deleted", gone, DATABASE),
    Attack("uplink.db: more acknowledged", acknowledged("seq + 1000000"), ACKED, CAP),
    Attack("uplink.db: fewer acknowledged", acknowledged("1"), ACKED),
    Attack("uplink.db: deleted", nothing_acknowledged, ACKED),
]


# -- found -------------------------------------------------------------------------------------------------------------


def judged(lanes: Lanes, attacks: list[Attack], seen: dict[str, float], untouched: list[Lane]) -> None:
    """Every attack is in HQ's findings, as `gated-hq integrity` shows them, and of nobody else there is one."""
    print()
    for each in attacks:
        took = f"{seen[each.name]:5.1f} s" if each.name in seen else "    NOT"
        print(f"{took}  {each.name}")
    missed = [each.name for each in attacks if each.name not in seen]
    assert not missed, missed
    code, told = lanes.integrity()
    assert code == 1 and {found["lane"] for found in told} == {f"lane-{n:02}" for n in range(1, len(attacks) + 1)}
    for lane in untouched:
        assert lanes.findings(lane.name) == []


def test_a_few_attacks_at_once(lanes: Lanes) -> None:
    names = {"journal: truncation", "outbox, acknowledged: deletion", "lane.db: older copy, lane started"}
    attacks = [replace(each, options=HASTE) for each in (*JOURNAL, *SENT, *DATABASES) if each.name in names]
    assert len(attacks) == len(names)
    untouched = [lanes.add("untouched", HASTE)]
    judged(lanes, attacks, lanes.attack(attacks, untouched, ONLINE_S), untouched)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "attacks", [JOURNAL[:7], JOURNAL[7:], SENT, WAITING, DATABASES], ids=["a", "b", "sent", "waiting", "databases"]
)
def test_every_attack_is_reported_within_a_minute(attacks: list[Attack], lanes: Lanes) -> None:
    """With the product's own times. One lane is not touched; of another the processes are killed now and then."""
    untouched, restless = lanes.add("untouched"), lanes.add("restless")
    seen = lanes.attack(attacks, [untouched, restless], ONLINE_S)
    for name in ("uplink", "writer", "uplink"):
        restless.end(name, kill=True)
        restless.start(name)
        before = restless.acked("crossing")
        eventually(lambda: restless.acked("crossing") > before, 30, "it goes on")  # noqa: B023
    judged(lanes, attacks, seen, [untouched, restless])


def test_what_is_acknowledged_is_put_right_and_survives_it(tmp_path: Path) -> None:
    """Each way to be at uplink.db while its writer runs; what stands there afterwards is what HQ said."""
    path = tmp_path / "uplink.db"
    heads = AckedHeads(path)
    heads.advance("gen1-crossing", 7)
    heads.advance("gen1-crossing", 5)
    heads.advance("gen1-alarm", 3)
    heads.retreat("gen1-alarm", 2)
    assert not heads.mended()
    right = {"gen1-crossing": 7, "gen1-alarm": 2}
    deeds: list[Callable[[], object]] = [
        lambda: changed("UPDATE acked SET seq = 99 WHERE seq = 7"),
        lambda: changed("DELETE FROM acked"),
        lambda: changed("INSERT INTO acked VALUES ('gen1-state', 4)"),
        lambda: changed("DROP TABLE acked"),
        path.unlink,
        lambda: AckedHeads(tmp_path / "other.db").path.replace(path),
    ]

    def changed(statement: str) -> None:
        with closing(sqlite3.connect(path)) as sql, sql:
            sql.execute(statement)

    for deed in deeds:
        deed()
        assert heads.mended() and not heads.mended()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
            assert dict(sql.execute("SELECT * FROM acked").fetchall()) == dict(heads.heads()) == right
    changed("UPDATE acked SET seq = 1")
    assert heads.advance("gen1-crossing", 8) and heads.advance("gen1-alarm", 3), "what HQ says is written over it"
    assert heads.mended() and not heads.mended(), "and it is told none the less"
    assert dict(heads.heads()) == {"gen1-crossing": 8, "gen1-alarm": 3}
    heads.forget(frozenset({"gen1-crossing"}))
    assert not heads.mended()
    heads.close()


def test_what_hq_has_is_watched_until_the_lane_trims_it(tmp_path: Path) -> None:
    """It lies there for a minute at most, which a pass over a large journal takes too: it is read in every look."""
    lane = Writing(tmp_path / "lane.db")
    lane.live(400)
    watch = Watch(lane.path)
    watch.look()
    lane.acked = {span.stream_id: span.last for span in lane.outbox.spans()}
    with lane.db.transaction():
        lane.outbox.trim({stream_id: seq - 12 for stream_id, seq in lane.acked.items()})
    watch.look()
    attack(
        lane.path,
        OTHER_WORD + " WHERE stream = 'crossing' AND seq = (SELECT seq - 4 FROM streams WHERE class = 'crossing')",
    )
    watch.witness._pass_s = 3600.0
    watch.look()
    lane.live()
    watch.look()
    assert watch.codes() == {"outbox_altered"}
    watch.witness.close()
    lane.close()


# -- and what nobody finds ---------------------------------------------------------------------------------------------


def cut_off(lane: Lane) -> int:
    """The lane goes on alone for some passengers, and is stopped; the last row of its journal that HQ knows."""
    lane.end("uplink", kill=True)
    anchor = lane.lanes.anchored(lane)
    eventually(lambda: lane.journal_last > anchor + 60 and lane.last("crossing") > lane.acked("crossing") + 12, 60)
    lane.end("writer")
    return anchor


def invented(record: Record) -> Fact:
    """Somebody else with another ending, sealed to HQ as any lane can."""
    ticket = record.clear["ticket"]
    if record.kind == TicketSettled.__name__:
        return TicketSettled(ticket, "not_crossed", 0)
    return VerdictReached(ticket, "refer", "face_failed", "r1", "entry", "A", holder=Holder(surname="NOBODY"))


@pytest.mark.slow
def test_what_root_can_do_unseen_where_hq_was_told_nothing_yet(lanes: Lanes) -> None:
    """Behind the last head that HQ has root can write what they like; before it nothing, and no sealed half can be kept
    behind a change. docs/uplink.md, "Who could do what", says so."""
    lane, changed, earlier = (lanes.add(name, HASTE) for name in ("rewritten", "changed", "earlier"))
    eventually(lambda: all(map(lanes.ready, lanes.all)), 60, "every lane is well")

    anchor = cut_off(lane)
    lane.rechain(anchor + 10, EDIT + str(anchor + 10))
    assert lane.rewrite("crossing", invented) > 10
    quiet = lane.rewrite("state", lambda r: None if r.clear.get("device") == "camera" else r)
    assert quiet > 3
    lane.forge(AlarmRaised("help", "forged"))

    cut_off(changed)  # the same, but who passed is to stay who they were
    changed.rewrite("crossing", lambda r: replace(r, clear={**r.clear, "persons": 2}) if "persons" in r.clear else r)

    anchor = cut_off(earlier)  # the same, but of before
    earlier.rechain(anchor - 5, EDIT + str(anchor - 5))

    for each in lanes.all:
        each.start()
    eventually(lambda: {f["code"] for f in lanes.findings("changed")} >= {"edited"}, ONLINE_S, "a seal does not open")
    eventually(lambda: {f["code"] for f in lanes.findings("earlier")} == ALTERED, ONLINE_S, "the anchor does not fit")
    eventually(lambda: lane.acked("crossing") > 0 and lane.last("crossing") - lane.acked("crossing") < 4, 60)
    time.sleep(25.0)  # the witness has read all of it by now
    assert lanes.findings("rewritten") == []
    private = secret(lanes.folder / "keys" / "hq.key")
    names = {record.fact(private).holder.surname for record in lanes.records("rewritten", "VerdictReached")}
    assert "NOBODY" in names, "HQ believes it"
    assert "forged" in {record.clear["detail"] for record in lanes.records("rewritten", "AlarmRaised")}

    journal = JournalReader(lane.db, family(vars(events), events.Event), family(vars(commands), commands.Command), KEY)
    with pytest.raises(StoreError, match="not what was written"):  # who has the journal's key sees it
        for boot in journal.boots():
            list(journal.read(boot.boot))
    journal.close()


def test_a_record_that_the_broker_makes_up_is_found_by_the_lane_s_next(tmp_path: Path) -> None:
    """Lanes seal and do not sign: whoever holds the broker can go on from what they saw. HQ then has two of one number,
    believes the first, and says so; the lane's own is set aside, not lost."""
    rig = Rig(tmp_path)
    rig.broker.start()
    try:
        rig.ingest()
        rig.uplink()
        rig.lane.passengers(3)
        eventually(rig.all_acked, 20)
        newest = [record for record in rig.lane.written if record.stream == "alarm"][-1]
        head = Head(LANE, newest.stream_id, newest.seq, newest.hash())
        forged = head.next(AlarmRaised("help", "forged"), datetime.now(UTC), "boot-1", rig.hq_public)
        with Peer(rig.hq_broker) as broker:
            broker.say(link.topic(SITE, LANE, "event"), forged.encode())
            eventually(lambda: forged in rig.at_hq())
            rig.lane.passengers(1)

            def told() -> bool:
                with closing(rig.archive()) as archive:
                    found = {(f["code"], f["detail"]) for f in archive.findings()}
                    aside = [each["seq"] for each in archive.refused()]
                return ("edited", f"{newest.stream_id} {forged.seq}: conflict") in found and aside == [forged.seq]

            eventually(told, ONLINE_S)
    finally:
        rig.close()
