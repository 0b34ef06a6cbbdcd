"""A lane that HQ's data do not reach for thirty simulated days, and then do: what it is called, who passes, how it
catches up. HQ, python-tuf, the sync and the lane all read simulated clocks."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from gated.hq.registers import Paper
from gated.lane.core import State
from gated.lane.freshness import Freshness, freshness
from gated.policyfile import load_rules
from gated.store.cachefile import generations
from gated.sync.audit import Audited
from gated.sync.refused import Why
from gated.wire import facts
from gated.wire.bundle import BUCKETS, segment_path
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from tests.days import (
    CATEGORIES,
    SEED,
    FollowingLane,
    LaneSync,
    Month,
    entitled,
    note_of,
    person_of,
    rows_of,
    synced,
)
from tests.hq_rig import ONLINE
from tests.hw_sim import virtual
from tests.hw_sim.cast import Cast, Passenger
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import NOON, POLICY, sim_folder
from tests.hw_sim.website import Status, Website

RULES = load_rules(POLICY)
DAY = timedelta(days=1)
AWAY = 30 * DAY
STAGES = ("fresh", "late", "stale", "control expired", "both expired", "back", "changed")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


# -- thirty days -----------------------------------------------------------------------------------------------------


class Away:
    """What HQ showed when the lane was cut off, and thirty days later; made once, and only looked at."""

    def __init__(self, folder: Path) -> None:
        self.cast = entitled(len(STAGES))
        self.month = month = Month(folder / "hq", self.cast)
        month.publish()
        self.before = month.copy(folder / "before")
        self.banned, self.lost, self.pardoned, self.renewed = self.of("changed")
        self.newcomer: str = ""
        register = month.hq.register
        register_of = {p: month.subjects[p.person] for p in self.cast.passengers}
        subject = register_of[self.pardoned]
        month.goes_on(
            AWAY,
            {
                5 * DAY: lambda: register.add_flags(register_of[self.banned], {"exit_ban"}),
                9 * DAY: lambda: register.add_status(Paper("TWN", self.lost.paper.number), {"lost"}),
                12 * DAY: lambda: register.add_flags(subject, {"exit_ban"}),
                15 * DAY: lambda: register.enrol(
                    replace(register.person(register_of[self.renewed]), papers=(Paper("TWN", "RENEWED99"),))
                ),
                20 * DAY: lambda: register.lift_flags(subject),
            },
        )

    def of(self, stage: str) -> list[Passenger]:
        """The passengers of a stage, one a category."""
        found = [p for p in self.cast.passengers if p.name.endswith(f" {STAGES.index(stage)}")]
        assert [p.name.rpartition(" ")[0] for p in found] == list(CATEGORIES)
        return found


@pytest.fixture(scope="module")
def away() -> Iterator[Away]:
    with sim_folder() as made, capture_logs():
        found = Away(made)
        yield found
        found.month.close()


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(away: Away) -> Iterator[Website]:
    with Website(away.before) as running:
        yield running


@pytest.fixture
def lane(folder: Path, away: Away, site: Website, clock: Clock) -> Iterator[LaneSync]:
    """A lane's sync as it was when the line was cut: at HQ's head of day 0."""
    with synced(folder / "lane", site.url, away.month.root, clock) as made:
        assert made.once(), made.sync.trouble
        made.fetcher.fetched.clear()
        made.told.clear()
        yield made


# -- what a lane does meanwhile --------------------------------------------------------------------------------------


def moments() -> list[tuple[timedelta, str]]:
    """When somebody looks: just before and just after each age that the policy names, and twice a day."""
    limits = {s for ages in RULES.freshness.values() for s in (ages.late_s, ages.stale_s, ages.expired_s)}
    seconds = {s + more for s in limits for more in (-8, 8)} | {k * 43_200 for k in range(1, 60)}
    return [(timedelta(seconds=s), f"{s / 3600:.2f} h") for s in sorted(seconds)]


def expected(category: str, state: Freshness) -> bool:
    return state.rank <= RULES.categories[category].cache_until.rank


def test_a_lane_that_is_cut_off_ages_as_the_policy_says_and_is_fresh_again_when_it_is_back(
    folder: Path, away: Away
) -> None:
    visits: dict[str, dict[str, list[tuple[str, str]]]] = {}
    states: list[tuple[timedelta, dict[str, str]]] = []
    unreached: list[bool] = []
    serials: dict[str, int] = {}

    async def come(lane: FollowingLane, stage: str) -> None:
        visits[stage] = {p.name.rpartition(" ")[0]: await lane.visit(p) for p in away.of(stage)}

    def look(lane: FollowingLane) -> None:
        states.append((lane.age, lane.app.status.snapshot()["cache"]))
        assert lane.app.lane.state is State.IDLE, "nothing stops"
        assert set(lane.app.device_states().values()) == {"ready"}

    async def be_away(lane: FollowingLane) -> None:
        await come(lane, "fresh")
        assert lane.age.total_seconds() < min(ages.late_s for ages in RULES.freshness.values())
        look(lane)
        site.__exit__()
        due = {"late": 0.5 * DAY, "stale": 7 * DAY, "control expired": 20 * DAY}
        for age, _ in moments():
            await lane.comes_to(age)
            look(lane)
            unreached.append(not lane.following.once())
            assert lane.following.why() is Why.UNREACHABLE
            for stage in [stage for stage, at in due.items() if at <= age]:
                del due[stage]
                await come(lane, stage)
        assert lane.age > AWAY
        await come(lane, "both expired")
        assert lane.following.told == [], "whoever cannot be reached has said nothing"
        with Website(away.month.served, port=port):
            assert lane.following.once(), lane.following.sync.trouble
            await asyncio.sleep(1.0)
            look(lane)
            serials.update({name: note_of(lane.following.newest(name)).serial for name in PARTITIONS})
            assert lane.following.is_as(away.month)
            await come(lane, "back")
            await come(lane, "changed")

    with Website(away.before) as site:
        port = int(site.url.rpartition(":")[2])
        lane = FollowingLane(SEED, Topology.MANTRAP, folder, passengers=Cast([], away.cast.enrolments))
        lane.url, lane.root = site.url, away.month.root
        lane.upsets = lambda _: [be_away(lane)]
        report = virtual.run(lane.run())

    assert report.clean, report.explanations
    # every state has the name that the policy gives its age
    for age, named in states[:-1]:
        for partition, state in named.items():
            assert state == freshness(RULES.freshness[partition], NOON, NOON + age).value, (partition, age)
    assert set(states[-1][1].values()) == {"fresh"}
    assert {state for _, named in states for state in named.values()} == {"fresh", "late", "stale", "expired"}
    assert len(unreached) > 60 and all(unreached)
    # one alarm a step, when it was due; at the end HQ says nothing new, and its last word grows late once more
    back = max(utc for utc, _, f in lane.told if isinstance(f, facts.CacheMoved) and f.freshness == "fresh")
    aged = [
        (f.detail, (utc - NOON).total_seconds())
        for utc, _, f in lane.told
        if isinstance(f, facts.AlarmRaised) and f.code == "cache_aged" and utc < back
    ]
    due_s = {
        f"{partition} {state.value}": getattr(ages, f"{state.value}_s")
        for partition, ages in RULES.freshness.items()
        for state in (Freshness.LATE, Freshness.STALE, Freshness.EXPIRED)
    }
    assert sorted(detail for detail, _ in aged) == sorted(due_s), "each once"
    for detail, at_s in aged:
        assert 0 <= at_s - due_s[detail] <= 20, (detail, at_s)
    assert not [f for f in lane.facts(facts.AlarmRaised) if f.code == "sync_refused"]
    moved = {p: [f.freshness for f in lane.facts(facts.CacheMoved) if f.partition == p] for p in PARTITIONS}
    for told in moved.values():
        assert list(dict.fromkeys(told)) == ["fresh", "late", "stale", "expired"] and "fresh" in told[-2:], told
    # who passes
    named = {
        "fresh": "FRESH",
        "late": "LATE",
        "stale": "STALE",
        "control expired": "EXPIRED",
        "both expired": "EXPIRED",
    }
    for stage, state in (named | {"back": "FRESH"}).items():
        for category, verdicts in visits[stage].items():
            passes = expected(category, Freshness[state])
            decision, rule = verdicts[0]
            assert (decision == "grant") is passes, (stage, category, verdicts)
            assert passes or rule == "cache_is_recent_enough", (stage, category, verdicts)
    assert visits["stale"]["national"][0][0] == "grant" and visits["both expired"]["national"][0][0] == "refer"
    # and what HQ decided meanwhile counts at once
    changed = [visits["changed"][category][0] for category in CATEGORIES]
    assert changed[0] == ("refer", "holder_is_not_flagged")
    assert changed[1] == ("refer", "document_is_not_flagged")
    assert changed[2][0] == changed[3][0] == "grant"
    assert serials == {name: away.month.head(name).serial for name in PARTITIONS}


# -- the way back ----------------------------------------------------------------------------------------------------


def expiries(lane: LaneSync) -> dict[str, datetime]:
    """Until when each role's metadata hold that lie on the lane's disk."""
    found = {}
    for path in (lane.folder / "sync" / "trust").glob("*.json"):
        signed = json.loads(path.read_bytes())["signed"]
        found[path.name] = datetime.fromisoformat(signed["expires"].replace("Z", "+00:00"))
    return found


def come_back(away: Away, site: Website, clock: Clock) -> None:
    clock.now = NOON + AWAY + timedelta(minutes=3)
    site.folder = away.month.served


def test_it_catches_up_in_order_by_days_and_segments(away: Away, site: Website, lane: LaneSync, clock: Clock) -> None:
    come_back(away, site, clock)
    held = expiries(lane)
    for role in ("timestamp.json", "snapshot.json", "people.json", "control.json"):
        assert held[role] < clock.now, f"{role} on the disk has expired long ago"
    before = {name: note_of(lane.newest(name)) for name in PARTITIONS}
    head = away.month.head(PEOPLE)
    assert head.serial == 360 and len(head.days) == 30 and before[PEOPLE].serial == 0
    assert away.month.part(PEOPLE).snapshot[0].serial > 300, "HQ's base has moved on meanwhile"  # type: ignore[index]

    assert lane.once(), lane.sync.trouble

    assert lane.is_as(away.month)
    for name in PARTITIONS:
        steps = [f for f in lane.fetcher.fetched if f"/{name}/" in f.path]
        assert not set(lane.fetcher.took(name)) & {"snapshots"}, "what leads on is taken, and nothing else"
        serials = [f.serial for f in steps]
        assert serials == sorted(set(serials)) and serials[0] == before[name].serial, "each step, once, in its order"
        assert note_of(lane.newest(name)).generation == before[name].generation
        spans = [_span(f.path) for f in steps]
        for (first, last), serial, after in zip(spans, serials, [*serials[1:], _serial(lane, name)], strict=True):
            assert first == serial + 1 and last == after, "a step begins where the one before ended"
    assert lane.fetcher.took(PEOPLE) == ["days", "segments"]
    assert len([f for f in lane.fetcher.fetched if "/people/" in f.path]) == 30 + 2
    assert sorted(lane.told) == [(CONTROL, ""), (PEOPLE, "")]
    assert min(expiries(lane).values()) > clock.now
    for name in PARTITIONS:
        assert lane.sync.copies[name].follower.checked == away.month.now  # type: ignore[union-attr]
        assert lane.sync.audit(name, repair=False) == Audited(name, _serial(lane, name), BUCKETS), "HQ has the same"
    fetched = len(lane.fetcher.fetched)
    assert lane.once() and len(lane.told) == 2 and len(lane.fetcher.fetched) == fetched, "and then there is no more"


def _span(path: str) -> tuple[int, int]:
    name = path.rpartition("/")[2].partition(".")[0]
    first, _, last = name.partition("-")
    return int(first), int(last or first)


def _serial(lane: LaneSync, name: str) -> int:
    serial: int = note_of(lane.newest(name)).serial
    return serial


def test_it_may_be_stopped_anywhere_on_the_way_and_goes_on_from_there(
    away: Away, site: Website, lane: LaneSync, clock: Clock
) -> None:
    """The line breaks again after eleven days have come."""
    come_back(away, site, clock)
    days = away.month.head(PEOPLE).days

    def cut(path: str) -> None:
        if path.endswith(f"{days[11].first}-{days[11].last}.day"):
            site.fault("*", Status(502))

    lane.fetcher.look = cut
    assert not lane.once()
    assert _serial(lane, PEOPLE) == days[10].last
    assert lane.why(PEOPLE) is Why.UNREACHABLE
    lane.fetcher.look = lambda path: None
    site.well()
    fetched = len(lane.fetcher.fetched)
    assert lane.once(), lane.sync.trouble
    assert lane.is_as(away.month)
    assert _span(lane.fetcher.fetched[fetched].path) == (days[11].first, days[11].last)


def test_an_announcement_that_is_first_to_arrive_brings_nothing_by_itself_and_makes_it_ask(
    away: Away, site: Website, lane: LaneSync, clock: Clock
) -> None:
    """The broker is back before HQ's server: the last segments ride in its announcement, and follow nothing here."""
    come_back(away, site, clock)
    before = {name: _serial(lane, name) for name in PARTITIONS}
    payload = away.month.publisher.announcement(away.month.last)
    assert lane.sync.announced(payload), "HQ's server is to be asked"
    assert {name: _serial(lane, name) for name in PARTITIONS} == before
    assert lane.once(), lane.sync.trouble
    lane.sync.again(payload)
    assert lane.is_as(away.month)


# -- where HQ no longer has what lies between ------------------------------------------------------------------------


def trimmed(away: Away, folder: Path) -> Path:
    """What HQ's server shows where somebody has taken away all that lies before each partition's snapshot."""
    to = folder / "trimmed"
    shutil.copytree(away.month.served, to)
    for name in PARTITIONS:
        snapshot = away.month.part(name).snapshot
        if snapshot is None:
            continue
        for serial in range(1, snapshot[0].serial + 1):
            (to / segment_path(name, 1, serial)).unlink()
        for day, _ in away.month.part(name).days():
            if day.last <= snapshot[0].serial:
                (to / f"data/{name}/1/days/{day.first}-{day.last}.day").unlink()
    return to


def test_where_only_a_snapshot_leads_on_it_is_a_new_generation_and_the_old_one_serves_meanwhile(
    folder: Path, away: Away, site: Website, lane: LaneSync, clock: Clock
) -> None:
    clock.now = NOON + AWAY + timedelta(minutes=3)
    site.folder = trimmed(away, folder)
    known = away.cast.passengers[0].paper.number
    served: list[tuple[str, bool]] = []
    old = rows_of(lane.newest(PEOPLE))

    def serves(path: str) -> None:
        if "/people/" in path:
            served.append((path, person_of(lane, known) is not None and person_of(lane, "RENEWED99") is None))
            assert generations(lane.folder, PEOPLE).keys() == {1} and rows_of(lane.newest(PEOPLE)) == old

    lane.fetcher.look = serves
    assert lane.once(), lane.sync.trouble
    kinds = lane.fetcher.took(PEOPLE)
    assert "snapshots" in kinds and kinds[kinds.index("snapshots") :][1:] in (["segments"], ["days", "segments"])
    assert served and all(answered for _, answered in served), "all the time"
    assert lane.is_as(away.month)
    assert generations(lane.folder, PEOPLE).keys() == {1, 2}, "the one before is kept"
    assert rows_of(generations(lane.folder, PEOPLE)[1]) == old
    assert person_of(lane, "RENEWED99") is not None
    assert list((lane.folder / "sync" / "spool").iterdir()) == [], "nothing is left of what was fetched"
    assert lane.sync.refused.total() == 0, "and none of it is called an attack"


def test_a_lift_that_hq_has_forgotten_leads_to_a_snapshot_and_not_to_a_refusal(folder: Path, clock: Clock) -> None:
    """HQ lists for thirty days what was lifted: whoever was away for longer takes the snapshot."""
    month = Month(folder / "hq", every=4 * DAY)
    someone, another = month.strangers(2)
    register = month.hq.register
    register.add_flags(someone.subject, {"exit_ban"})
    register.add_flags(another.subject, {"exit_ban"})
    month.publish()
    try:
        with (
            Website(month.copy(folder / "before")) as site,
            synced(folder / "lane", site.url, month.root, clock) as lane,
        ):
            assert lane.once()
            month.goes_on(40 * DAY, {4 * DAY: lambda: register.lift_flags(someone.subject)})
            assert month.publisher._heads.base_signed(month.part(CONTROL)).lifts == ()  # type: ignore[union-attr]
            clock.now, site.folder = month.now, month.served
            assert lane.once(), lane.sync.trouble
            assert lane.is_as(month)
            assert "snapshots" in lane.fetcher.took(CONTROL) and lane.sync.refused.total() == 0
    finally:
        month.close()


def test_while_the_lift_key_is_away_bans_arrive_and_what_was_lifted_waits(folder: Path, clock: Clock) -> None:
    """A month in which HQ signs with the online key alone: the lane stays fresh, and nobody's ban is lifted."""
    month = Month(folder / "hq", every=2 * DAY)
    someone, another = month.strangers(2)
    register = month.hq.register
    register.add_flags(someone.subject, {"exit_ban"})
    month.publish()
    try:
        with Website(month.served) as site, synced(folder / "lane", site.url, month.root, clock) as lane:
            assert lane.once()
            register.lift_flags(someone.subject)
            for n in range(15):
                month.now += month.every
                month.strangers(1)
                if n == 7:
                    register.add_flags(another.subject, {"exit_ban"})
                month.publish(ONLINE)
                clock.now = month.now
                assert lane.once(), lane.sync.trouble
                assert lane.is_as(month)
            assert _serial(lane, CONTROL) == month.head(CONTROL).serial
            rows = len(rows_of(lane.newest(CONTROL)))
            month.publish()
            assert lane.once() and len(rows_of(lane.newest(CONTROL))) == rows - 1, "with the second key it is lifted"
    finally:
        month.close()


# -- a clock that is wrong -------------------------------------------------------------------------------------------


def test_a_lane_whose_clock_stood_still_is_told_so_keeps_what_it_has_and_heals(
    away: Away, site: Website, lane: LaneSync, clock: Clock
) -> None:
    come_back(away, site, clock)
    clock.now = NOON
    before = {name: (note_of(lane.newest(name)), rows_of(lane.newest(name))) for name in PARTITIONS}
    trust = expiries(lane)
    for _ in range(3):
        assert not lane.once()
        assert lane.why() is Why.CLOCK
        assert "NTP" in lane.sync.trouble[""].advice
    assert lane.sync.refused == {Why.CLOCK: 3}
    assert lane.told == [(name, "clock") for name in PARTITIONS], "the lane is told once, and tells people"
    assert {name: (note_of(lane.newest(name)), rows_of(lane.newest(name))) for name in PARTITIONS} == before
    assert expiries(lane) == trust, "nothing was taken of what cannot be judged"
    come_back(away, site, clock)
    assert lane.once(), lane.sync.trouble
    assert lane.is_as(away.month)
    assert lane.told[2:] == [(name, "") for name in PARTITIONS]


def test_a_lane_whose_clock_is_years_ahead_finds_everything_expired_and_heals(
    away: Away, site: Website, lane: LaneSync, clock: Clock
) -> None:
    come_back(away, site, clock)
    clock.now += 4 * 365 * DAY
    before = {name: note_of(lane.newest(name)) for name in PARTITIONS}
    assert not lane.once()
    assert lane.why() is Why.FROZEN and "this clock is ahead" in lane.sync.trouble[""].advice
    assert {name: note_of(lane.newest(name)) for name in PARTITIONS} == before
    come_back(away, site, clock)
    assert lane.once(), lane.sync.trouble
    assert lane.is_as(away.month)
