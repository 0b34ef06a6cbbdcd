"""Both directions (L7): who is served by schedule and by order, what the others are told, who is let through."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Command, Light, PromptCode
from gated.lane.core import OUTSIDE, TURN_S_MIN, State
from gated.lane.events import Device, Door
from gated.lane.evidence import Decision
from gated.lane.settings import BOTH, WAYS, Shift, Topology, Ways
from tests.play import DEVICES, OTHER, RULES, START, Play

TAIPEI, BERLIN = ZoneInfo("Asia/Taipei"), ZoneInfo("Europe/Berlin")
ZONES = ["Asia/Taipei", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia"]
"""Without summer time; with it at 2 and at 3; at midnight; by half an hour; at the end of a day; once without a day."""


def ways(*shifts: str) -> Ways:
    """Of a lane of both directions, for instance "06:00 exit"."""
    pairs = [each.split() for each in shifts]
    return Ways(BOTH, tuple(Shift(time.fromisoformat(start), way) for start, way in pairs))


def local(text: str, zone: tzinfo, fold: int = 0) -> datetime:
    """A local time in UTC; `fold` 1: the second of two."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


DAY = ways("06:00 exit", "14:00 both", "22:30 entry")


# -- the schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "way", "until", "then"),
    [
        ("2026-11-20T00:00:00", "entry", "2026-11-20T06:00:00", "exit"),
        ("2026-11-20T05:59:59.999999", "entry", "2026-11-20T06:00:00", "exit"),
        ("2026-11-20T06:00:00", "exit", "2026-11-20T14:00:00", "both"),
        ("2026-11-20T13:59:59.999999", "exit", "2026-11-20T14:00:00", "both"),
        ("2026-11-20T14:00:00", "both", "2026-11-20T22:30:00", "entry"),
        ("2026-11-20T22:30:00", "entry", "2026-11-21T06:00:00", "exit"),
        ("2026-11-20T23:59:59.999999", "entry", "2026-11-21T06:00:00", "exit"),
        ("2026-12-31T23:00:00", "entry", "2027-01-01T06:00:00", "exit"),
    ],
)
def test_a_shift_holds_from_its_second_to_the_next_ones_over_midnight_too(
    at: str, way: str, until: str, then: str
) -> None:
    moment = local(at, TAIPEI)
    assert DAY.at(moment, TAIPEI) == way
    assert DAY.next(moment, TAIPEI) == (local(until, TAIPEI), then)


def test_a_shift_may_start_at_midnight_and_the_country_says_when_that_is() -> None:
    night = ways("00:00 entry", "12:00 exit")
    assert night.at(local("2026-11-20T00:00:00", TAIPEI), TAIPEI) == "entry"
    assert night.at(local("2026-11-19T23:59:59", TAIPEI), TAIPEI) == "exit"
    assert night.at(datetime(2026, 11, 19, 16, 0, tzinfo=UTC), TAIPEI) == "entry"
    assert night.at(datetime(2026, 11, 19, 16, 0, tzinfo=UTC), UTC) == "exit"


def test_what_changes_nothing_is_no_change() -> None:
    assert Ways(BOTH).next(START, UTC) is None and Ways(BOTH).at(START, UTC) == BOTH
    assert Ways("entry").next(START, UTC) is None and Ways("entry").at(START, UTC) == "entry"
    assert ways("06:00 exit").next(START, UTC) is None and ways("06:00 exit").at(START, UTC) == "exit"
    same = ways("06:00 exit", "09:00 exit", "18:00 entry")
    assert same.next(START, UTC) == (START.replace(hour=18), "entry")


@pytest.mark.parametrize(
    ("at", "way", "until"),
    [
        # 29 March 2026 has no hour from 02:00 to 03:00: the shift of 02:30 starts an hour later.
        ("2026-03-29T00:30:00+00:00", "exit", "2026-03-29T01:30:00+00:00"),
        ("2026-03-29T01:00:00+00:00", "exit", "2026-03-29T01:30:00+00:00"),
        ("2026-03-29T01:30:00+00:00", "entry", "2026-03-29T04:00:00+00:00"),
        # 25 October 2026 has it twice: the shift starts the first time, and does not end before the second.
        ("2026-10-25T00:29:59+00:00", "exit", "2026-10-25T00:30:00+00:00"),
        ("2026-10-25T00:30:00+00:00", "entry", "2026-10-25T05:00:00+00:00"),
        ("2026-10-25T01:10:00+00:00", "entry", "2026-10-25T05:00:00+00:00"),
    ],
)
def test_an_hour_that_does_not_exist_or_exists_twice(at: str, way: str, until: str) -> None:
    night = ways("02:30 entry", "06:00 exit")
    moment = datetime.fromisoformat(at)
    assert night.at(moment, BERLIN) == way
    found = night.next(moment, BERLIN)
    assert found is not None and found[0] == datetime.fromisoformat(until)


def test_a_shift_that_the_next_one_overtakes_does_not_happen_that_day() -> None:
    night = ways("01:00 both", "02:30 entry", "03:15 exit")
    assert night.at(local("2026-03-29T03:20:00", BERLIN), BERLIN) == "exit"
    assert night.next(local("2026-03-29T01:30:00", BERLIN), BERLIN) == (local("2026-03-29T03:15:00", BERLIN), "exit")
    assert night.at(local("2026-03-29T03:45:00", BERLIN), BERLIN) == "exit", "not again by the one of 02:30"


def test_a_day_that_a_country_left_out() -> None:
    """Samoa went from 29 to 31 December 2011."""
    apia = ZoneInfo("Pacific/Apia")
    for hour in range(72):
        moment = datetime(2011, 12, 29, 0, 0, tzinfo=UTC) + timedelta(hours=hour)
        found = DAY.next(moment, apia)
        assert found is not None and timedelta(0) < found[0] - moment <= timedelta(hours=10)


@settings(max_examples=300, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    moment=st.datetimes(datetime(2011, 12, 1), datetime(2027, 1, 1)),
    starts=st.lists(st.integers(0, 86_399), min_size=1, max_size=6, unique=True),
    dice=st.randoms(use_true_random=False),
)
def test_the_next_change_is_a_change_and_none_is_before_it(
    zone: str, moment: datetime, starts: list[int], dice: random.Random
) -> None:
    country, utc = ZoneInfo(zone), moment.replace(tzinfo=UTC)
    midnight = datetime(2026, 1, 1)
    shifts = tuple(Shift((midnight + timedelta(seconds=s)).time(), dice.choice(WAYS)) for s in sorted(starts))
    lane = Ways(BOTH, shifts)
    for _ in range(12):
        way, found = lane.at(utc, country), lane.next(utc, country)
        if found is None:
            assert len({shift.way for shift in shifts}) == 1 and way == shifts[0].way
            return
        at, then = found
        assert utc < at <= utc + timedelta(days=3) and then != way == lane.at(at - timedelta(microseconds=1), country)
        assert lane.at(at, country) == then
        assert all(lane.at(utc + (at - utc) * dice.random() * 0.999, country) == way for _ in range(3))
        utc = at


def test_without_summer_time_the_clock_on_the_wall_decides() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        moment = START + timedelta(seconds=dice.uniform(-1e8, 1e8))
        clock = moment.astimezone(TAIPEI).time()
        said = "entry" if clock < time(6) or clock >= time(22, 30) else "exit" if clock < time(14) else "both"
        assert DAY.at(moment, TAIPEI) == said


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Shift(time(6), "out"), "a shift goes entry, exit, both, not out"),
        (lambda: Shift(time(6, tzinfo=UTC), "exit"), "whole second"),
        (lambda: Shift(time(6, 0, 0, 1), "exit"), "whole second"),
        (lambda: Ways("sideways"), "direction is entry, exit, both, not sideways"),
        (lambda: Ways("exit", (Shift(time(6), "exit"),)), "shifts are for a lane whose direction is both"),
        (lambda: ways("06:00 exit", "06:00 entry"), "shifts are in the order"),
        (lambda: ways("14:00 exit", "06:00 entry"), "shifts are in the order"),
    ],
)
def test_a_schedule_that_says_nothing_sensible(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# -- the lane ----------------------------------------------------------------------------------------------------


def lane(*shifts: str, at: datetime = START, zone: tzinfo = UTC, direction: str | None = None) -> Play:
    """A lane of both directions that has just started, at this moment."""
    play = Play(Topology.BIDIRECTIONAL, rules=replace(RULES, zone=zone), ways=ways(*shifts), start=False)
    play.utc = at
    play.do(*(ev.DoorClosed(door) for door in Door), ev.Started(1, direction=direction))
    play.do(*(ev.DeviceReady(device) for device in sorted(DEVICES, key=lambda d: d.value)))
    return play


def green(play: Play) -> set[Door]:
    """The sides whose lamp is green now."""
    last = {command.side: command.light for command in play.all(cmd.Indicate)}
    return {side for side, light in last.items() if light is Light.GREEN}


def told(commands: list[Command]) -> list[tuple[PromptCode, Door | None]]:
    return [(command.code, command.side) for command in commands if isinstance(command, cmd.Prompt)]


def order(play: Play, way: str, name: str = "o") -> list[Command]:
    return play.do(ev.SetDirection(name, "wu", way))


PLACE, SHUT = PromptCode.PLACE_DOCUMENT, PromptCode.LANE_CLOSED


def test_only_the_side_that_is_served_is_green_and_the_other_is_told() -> None:
    play = lane("06:00 exit", "09:00 entry", "10:00 both")
    assert green(play) == {Door.A} and play.lane.way == "exit"
    assert told(play.log)[-2:] == [(PLACE, Door.A), (SHUT, Door.B)]
    log = play.wait(3599.0)
    assert log == [] and green(play) == {Door.A}
    assert told(play.wait(1.0)) == [(SHUT, Door.A), (PLACE, Door.B)] and green(play) == {Door.B}
    assert told(play.wait(3600.0)) == [(PLACE, Door.A), (PLACE, Door.B)] and green(play) == {Door.A, Door.B}


@pytest.mark.parametrize("side", Door)
def test_a_document_at_a_side_that_is_not_served_changes_nothing(side: Door) -> None:
    play = lane("06:00 exit" if side is Door.B else "06:00 entry")
    mark = len(play.log)
    assert told(play.present(side=side)) == [(SHUT, side)]
    assert told(play.do(ev.DocumentUnreadable("check_digit", side))) == [(SHUT, side)]
    assert play.at(State.IDLE) and not any(isinstance(c, cmd.LookUp | cmd.RequestOpen) for c in play.log[mark:])


def test_both_ways_one_after_the_other() -> None:
    play = lane()
    for near in (Door.A, Door.B, Door.B, Door.A):
        play.present(side=near)
        play.enter(near)
        play.leave(near.other)
    ends = play.all(cmd.Settle)
    assert [end.direction for end in ends] == ["exit", "entry", "entry", "exit"]
    assert [end.outcome.value for end in ends] == ["crossed"] * 4


def test_a_shift_starts_while_a_passenger_is_inside() -> None:
    """They go on their way; the side that they came from is told, and the next one comes by the other."""
    play = lane("06:00 exit", "08:00:10 entry")
    play.present()
    play.answers[cmd.CompareFace] = None
    play.enter()
    passing = play.lane.guest
    assert told(play.wait(9.0)) == [(SHUT, Door.A)]
    assert play.at(State.MATCHING) and play.lane.passage is passing, "a shift is no deadline of theirs"
    assert told(play.present(OTHER, Door.A)) == [(SHUT, Door.A)], "not one at a time: nobody else comes by here"
    assert play.lane.waiting is None


def test_who_is_checked_in_front_of_the_lane_is_not_told_that_it_is_closed() -> None:
    play = lane()
    play.answers[cmd.ReadChip] = None
    play.present()
    assert told(order(play, "entry")) == [], "their document is being read"
    assert told(play.present()) == [], "the same one, read twice"
    play.do(ev.ChipRead(1, play.lane.guest.asks[cmd.ReadChip], *[Check.NOT_SUPPORTED] * 3))
    play.enter()
    play.leave()
    end = play.all(cmd.Settle)[0]
    assert (end.direction, end.outcome.value) == ("exit", "crossed")
    assert play.at(State.IDLE) and green(play) == {Door.B}


def test_a_document_that_waited_at_a_side_that_is_served_no_longer_is_not_taken_up() -> None:
    play = lane()
    play.present()
    play.enter()
    play.present(OTHER, Door.A)
    assert play.lane.waiting is not None
    order(play, "entry")
    play.leave()
    assert play.at(State.IDLE) and len(play.settled()) == 1 and len(play.all(cmd.LookUp)) == 1
    assert told(play.log)[-1] == (SHUT, Door.A) and green(play) == {Door.B}


def test_a_document_that_waited_at_the_other_side_is_taken_up() -> None:
    play = lane()
    play.present()
    play.enter()
    play.present(OTHER, Door.B)
    order(play, "entry")
    play.leave()
    assert play.lane.guest.near is Door.B and play.lane.guest.document == OTHER
    assert play.lane.guest.evidence.direction == "entry"


def test_an_unserved_side_cannot_push_a_waiting_passenger_aside() -> None:
    play = lane("06:00 exit")
    play.present()
    play.enter()
    play.present(OTHER, Door.A)
    play.present(replace(OTHER, number="300000003"), Door.B)
    play.leave()
    assert play.lane.guest.document == OTHER


def test_orders_come_before_the_schedule_until_one_gives_it_back() -> None:
    play = lane("06:00 exit", "09:00 entry")
    for way, sides in (("entry", {Door.B}), ("both", {Door.A, Door.B}), ("exit", {Door.A}), ("entry", {Door.B})):
        order(play, way, way)
        assert green(play) == sides and play.lane.way == way and play.lane.turns is None
    assert told(order(play, "entry", "again")) == [], "nothing new"
    order(play, "exit")
    play.wait(7200.0)
    assert green(play) == {Door.A}, "the shift of 09:00 is not looked at"
    order(play, "schedule")
    assert green(play) == {Door.B} and play.lane.turns == (START.replace(hour=6) + timedelta(days=1), "exit")
    assert all(answer.accepted for answer in play.all(cmd.Answer))


@pytest.mark.parametrize("topology", [Topology.MANTRAP, Topology.SINGLE])
def test_a_one_way_lane_takes_no_order_of_direction(topology: Topology) -> None:
    play = Play(topology)
    for way in ("entry", "exit", "both", "schedule"):
        [answer] = play.do(ev.SetDirection(way, "wu", way))
        assert answer == cmd.Answer(way, False, "one_way")
    assert play.lane.ordered_way is None and green(play) == {Door.A}


def test_an_order_survives_a_restart() -> None:
    play = lane("06:00 exit", "09:00 both", direction="entry")
    assert green(play) == {Door.B} and play.lane.way == "entry"
    play.wait(3600.0)
    assert green(play) == {Door.B}


@pytest.mark.parametrize("kept", ["entry", "both", "sideways"])
def test_what_was_kept_of_another_configuration_closes_no_lane(kept: str) -> None:
    """It was a lane of both directions, and is one of one; or another release wrote what this one does not know."""
    play = Play(start=False)
    play.do(*(ev.DoorClosed(door) for door in Door), ev.Started(1, direction=kept))
    play.do(*(ev.DeviceReady(device) for device in sorted(DEVICES, key=lambda d: d.value)))
    play.inside()
    assert play.at(State.RELEASING)
    assert green(lane(direction="sideways")) == {Door.A, Door.B}


def test_a_closed_lane_turns_too_and_tells_both_sides() -> None:
    play = lane("06:00 exit", "09:00 entry")
    assert told(play.do(ev.CloseLane("c", "hq"))) == [(SHUT, Door.A), (SHUT, Door.B)]
    assert told(play.present()) == [(SHUT, Door.A)]
    play.wait(3600.0)
    assert play.lane.way == "entry" and green(play) == set()
    assert told(play.do(ev.OpenLane("o", "hq"))) == [(SHUT, Door.A), (PLACE, Door.B)] and green(play) == {Door.B}


@pytest.mark.parametrize("step_s", [7200.0, -3 * 3600.0, 86_400.0 * 400, -86_400.0 * 400 - 3 * 3600.0])
def test_the_wall_clock_steps_while_nobody_is_there(step_s: float) -> None:
    play = lane("06:00 exit", "09:00 entry")
    play.utc += timedelta(seconds=step_s)
    play.wait(1.0)
    play.do(ev.ClockStepped(step_s))
    night = play.utc.time() < time(6) or play.utc.time() >= time(9)
    assert green(play) == ({Door.B} if night else {Door.A})
    assert play.lane.deadline is not None and play.lane.deadline - play.mono <= 86_400.0
    play.wait(86_400.0)
    assert len([c for c in play.all(cmd.Indicate) if c.light is Light.GREEN]) <= 5


def test_a_document_asks_the_clock_too() -> None:
    """The wall clock ran ahead, and nobody told the lane yet."""
    play = lane("06:00 exit", "09:00 entry")
    play.utc += timedelta(hours=2)
    assert (SHUT, Door.A) in told(play.present()) and play.at(State.IDLE) and green(play) == {Door.B}
    play.present(side=Door.B)
    assert play.lane.guest.near is Door.B


def test_a_wall_clock_that_stands_still_does_not_keep_the_lane_awake() -> None:
    play = lane("06:00 exit", "09:00 entry", at=START.replace(minute=59, second=59, microsecond=999_999))
    for _ in range(50):
        due = play.lane.deadline
        assert due is not None and due >= play.mono + TURN_S_MIN
        play.mono = due
        assert play.do(ev.Deadline()) == []
    play.utc += timedelta(seconds=1)
    play.mono += TURN_S_MIN
    assert told(play.do(ev.Deadline())) == [(SHUT, Door.A), (PLACE, Door.B)]


def test_a_wall_clock_that_is_steered_slowly_is_met_within_a_second() -> None:
    """It loses 500 ppm: at the end of the night it is 22 s behind what the lane reckoned."""
    play = lane("06:00 exit", "20:00 entry")
    looks = 0
    while play.lane.way == "exit":
        due = play.lane.deadline
        assert due is not None
        play.utc += timedelta(seconds=(due - play.mono) * (1 - 500e-6))
        play.mono = due
        play.do(ev.Deadline())
        looks += 1
    assert looks < 6 and START.replace(hour=20) <= play.utc < START.replace(hour=20, second=1)


@pytest.mark.parametrize("day", [date(2026, 3, 28), date(2026, 10, 24), date(2026, 6, 1)])
def test_two_days_around_a_change_of_clocks(day: date) -> None:
    """Woken as often as the way changes, and at no other time."""
    night = ("02:30 entry", "06:00 exit", "22:00 both")
    play = lane(*night, at=datetime.combine(day, time(12), BERLIN).astimezone(UTC), zone=BERLIN)
    wakes, end = [], play.mono + 2 * 86_400.0
    while play.lane.deadline is not None and play.lane.deadline <= end:
        play.wait(play.lane.deadline - play.mono)
        wakes.append(play.lane.way)
    assert wakes == ["both", "entry", "exit"] * 2


def test_another_policy_brings_another_country() -> None:
    play = lane("06:00 exit", "09:00 entry")
    assert green(play) == {Door.A}
    play.lane.offer(replace(RULES, version="abroad", zone=TAIPEI))
    play.do(ev.PolicyReady("abroad", 2))
    assert green(play) == {Door.B}, "16:00 there"


def test_another_policy_that_comes_with_a_passenger_inside_holds_once_they_are_out() -> None:
    play = lane("06:00 exit", "09:00 entry")
    play.present()
    play.enter()
    play.lane.offer(replace(RULES, version="abroad", zone=TAIPEI))
    play.do(ev.PolicyReady("abroad", 2))
    assert play.lane.way == "exit" and play.lane.rules.version == "test-1"
    play.leave()
    assert green(play) == {Door.B} and play.lane.rules.version == "abroad"


def test_whoever_came_by_the_border_side_is_never_let_out_across_it_without_a_grant() -> None:
    for score, far in ((0.7, True), (0.1, False)):
        play = lane()
        play.score = score
        play.present(side=Door.B)
        play.enter(Door.B)
        order(play, "exit")
        play.wait(200.0)
        opened = [command.door for command in play.all(cmd.RequestOpen)]
        grants = [r for r in play.all(cmd.Record) if r.verdict.decision is Decision.GRANT]
        assert (Door.A in opened) is far is bool(grants)


def test_a_stranger_whom_the_barriers_tell_too_late_is_told_in_their_own_direction() -> None:
    """Presence first, and then by which leaf: their record names the side and the direction of the same."""
    play = lane()
    play.answers[cmd.Record] = None
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"), ev.DoorClosed(Door.A), ev.PresenceChanged(1))
    play.do(ev.DeviceReady(Device.DOOR), ev.PersonPassed(Door.B, True))
    records = [(r.came_from, r.evidence.direction) for r in play.all(cmd.Record)]
    assert records == [(Door.A, "exit"), (Door.B, "entry")]


# -- any day -----------------------------------------------------------------------------------------------------


def _day(seed: int) -> Play:
    """Passengers on both sides, schedule, orders, closings, policies and a wall clock that steps, in any order."""
    dice = random.Random(seed)
    starts = sorted(dice.sample(range(3600), dice.choice((0, 1, 4, 20))))
    play = lane(*(f"{(START + timedelta(seconds=s)).time()} {dice.choice(WAYS)}" for s in starts))
    acts: list[tuple[int, Callable[[], object]]] = [
        (30, lambda: play.present(dice.choice((OTHER, replace(OTHER, number="300000009"))), dice.choice((*Door,)))),
        (30, lambda: _walk(play)),
        (10, lambda: order(play, dice.choice((*WAYS, "schedule")))),
        (15, lambda: play.wait(dice.choice((1.0, 10.0, 40.0, 300.0)))),
        (3, lambda: setattr(play, "score", dice.choice((0.1, 0.7, 0.7)))),
        (2, lambda: _step(play, dice)),
        (2, lambda: play.do(ev.PersonPassed(dice.choice((*Door,)), True), ev.PresenceChanged(1))),
        (2, lambda: play.do(ev.HelpPressed())),
        (1, lambda: play.do(ev.CloseLane("c", "hq"))),
        (3, lambda: play.do(ev.OpenLane("c", "hq"), ev.Reset("r", "wu"))),
        (1, lambda: play.do(ev.DeviceLost(Device.CAMERA, "x"), ev.DeviceReady(Device.CAMERA))),
        (1, lambda: play.do(ev.PolicyReady("test-2", 2))),
    ]
    for _ in range(250):
        dice.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()
        if play.lane.passage is not None and play.state not in OUTSIDE:
            assert green(play) == set()
    return play


def _walk(play: Play) -> None:
    for door in play.requested():
        (play.enter if play.at(State.ADMITTING) else play.leave)(door)


def _step(play: Play, dice: random.Random) -> None:
    step_s = dice.uniform(-4000, 4000)
    play.utc += timedelta(seconds=step_s)
    play.wait(dice.uniform(0.0, 1.0))
    play.do(ev.ClockStepped(step_s))


def test_any_day() -> None:
    """`tests.invariants` watches each step: who is served, what is green, which leaf opens, what the records say."""
    sides = {Door.A: 0, Door.B: 0}
    crossed = refused = 0
    for seed in range(30):
        play = _day(seed)
        crossed += sum(end.outcome.value == "crossed" for end in play.all(cmd.Settle))
        refused += sum(code is SHUT for code, _ in told(play.log))
        for watch in play.all(cmd.Watch):
            sides[watch.side] += 1
    assert min(sides.values()) > 100 and crossed > 100 and refused > 100, (sides, crossed, refused)
