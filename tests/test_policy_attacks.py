"""Attacks on the policy, each by its name: clumsy and hostile authors, who is sought, whoever has sync's process, and
somebody who was to be forgotten."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gated.config import ConfigError
from gated.hq.registers import Paper, Register
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Command
from gated.lane.core import State
from gated.lane.entitlement import entries_are_left
from gated.lane.events import Crossed, Door, Permit
from gated.lane.evidence import Decision, Evidence, Verdict
from gated.lane.policy import judge, urgency
from gated.lane.rules import Category, ControlRule, Rules, Size, Urgency
from gated.policyfile import parse_policy
from tests.play import DOCUMENT, MAY_MISS, TRAVELLER, Play
from tests.play import rules as policy_of
from tests.test_hq_registers import DATA_KEY, person
from tests.test_policy_arrives import OFFICE, THIEF, hq, signed

ROOT = Path(__file__).resolve().parents[1]
TAIPEI = ZoneInfo("Asia/Taipei")
MIDNIGHT = datetime(2026, 11, 21, tzinfo=TAIPEI).astimezone(UTC)
TODAY = date(2026, 11, 20)

# -- a clumsy author of the policy -----------------------------------------------------------------------------------

LAW = (ROOT / "config" / "policy" / "tw.toml").read_text(encoding="utf-8").split("[[examples]]")[0]
"""Without its examples: what they would find is not what is tried here."""
LONG = "n" * 65


def between(start: str, end: str) -> str:
    return LAW[LAW.index(start) : LAW.index(end)]


SLIPS: dict[str, tuple[str, str, str]] = {
    # what is meant -> what stands in the law, what stands there now, what is said
    "a version that looks like another": ('"tw-2026.4"', '"tw-2026.4 "', "version"),
    "a version of two lines": ('"tw-2026.4"', '"tw-2026.4\\nedition=9"', "version"),
    "an edition after which none comes": ("edition = 4\n", f"edition = {'9' * 10}\n", "edition"),
    "a category that no record takes": ("mainland_spouse", LONG, "[categories]: has 'nnn"),
    "a place that no record takes": ("songshan", LONG, "[places]: has 'nnn"),
    "a kind of document that no record takes": ("kinmen_permit", LONG, "[documents]: has 'nnn"),
    "a flag that HQ cannot give": ("controls.wanted", "controls.Wanted", "[controls]: has 'Wanted'"),
    "bans of any age": (between("[freshness.control]", "[reasons]"), "", "control is of no age"),
    "people of any age": (between("[freshness.people]", "[freshness.control]"), "", "people is of no age"),
    "a category that any cache lets pass": ('cache_until = "late"\n', "", "must say cache_until"),
    "a place of enrolment for nobody": ('categories = ["foreign_visitor"]', "categories = []", "categories is empty"),
    "a category that is enrolled nowhere": ('["foreign_visitor"]', '["national"]', "enrolled nowhere"),
    "usable after a passport that nobody waits for": ("bound_within_days = 30\n", "", "nobody waits for"),
    "a control that never counts": ('directions = ["entry"]', "directions = []", "would never count"),
    "a control in no country": ('directions = ["entry"]', 'directions = ["in"]', "knows entry, exit"),
    "a holiday on a Sunday": ("2027-01-01", "2027-01-03", "weekend"),
    "a day of another year after the calendar": ("2027-12-24", "2029-12-24", "is after it"),
    "a day that is none": ("2022-07-22", "2022-07-32", "not valid TOML"),
    "a day with a time": ("since = 2025-01-01, age", "since = 2025-01-01T00:00:00, age", "must be a date"),
    "two days in the wrong order": ("2022-07-22, age", "2025-07-22, age", "order of their days"),
    "no country's time": ("Asia/Taipei", "Asia/Taipeh", "does not know"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_the_author_is_told_and_no_lane_takes_it(slip: str) -> None:
    was, becomes, says = SLIPS[slip]
    assert was in LAW, "the law has changed: choose another place"
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_policy(LAW.replace(was, becomes), Path("tw.toml"))


def test_an_empty_list_of_places_stops_more_and_not_fewer() -> None:
    """A control without places counts everywhere: whoever meant nowhere hears of it from the first passenger."""
    control = parse_policy(LAW.replace('places = ["kinmen_shuitou"]', "places = []"), Path("tw.toml")).rules.controls
    assert control["public_office"].places == frozenset()
    rules = policy_of(
        {"national": Category(may_miss=MAY_MISS)},
        controls={"ban": replace(control["public_office"], unless_permit="leave")},
    )
    play = Play(rules=rules, traveller=replace(TRAVELLER, flags=frozenset({"ban"})))
    play.inside()
    play.wait(60.0)
    assert verdict(play).reason == "holder_is_not_flagged"


def published(tmp_path: Path, first: bytes) -> Callable[..., str]:
    """A repository in which `first` lies as the policy; publishes another one: (data, exit code) -> what is said."""
    keys, repo = tmp_path / "keys", tmp_path / "repo"
    hq("repo", "keys", keys, "--roots", 1)
    hq("repo", "init", repo, "--keys", keys, "--root-threshold", 1)
    (tmp_path / "policy.pub").write_bytes(OFFICE.public_key().public_bytes_raw())
    both = ("--sign", keys / "targets.key", "--sign", keys / "online.key")
    (tmp_path / "first.toml").write_bytes(first)
    hq("repo", "add", repo, tmp_path / "first.toml", "--as", "policy/tw.toml", *both)

    def publish(data: bytes, code: int = 0) -> str:
        (tmp_path / "next.toml").write_bytes(data)
        return hq(
            "policy", "publish", tmp_path / "next.toml", repo, "--public", tmp_path / "policy.pub", *both, code=code
        )

    return publish


def test_hq_publishes_no_edition_under_the_name_of_the_one_before(tmp_path: Path) -> None:
    """Every lane would refuse it (`version_reused`), and HQ would believe that it holds."""
    publish = published(tmp_path, signed(4, "tw-4"))
    assert "tell them apart" in publish(signed(5, "tw-4"), 1)
    assert "edition 5" in publish(signed(5, "tw-5"))


def test_a_policy_of_an_older_program_can_be_followed(tmp_path: Path) -> None:
    """A release that knows one reason more reads the policy before it no longer, and just then a new one is needed."""
    older = signed(4, "", ('wrong_way = "attention"\n', ""))
    publish = published(tmp_path, older)
    assert "count edition up" in publish(signed(4, "tw-other"), 1)
    assert "edition 5" in publish(signed(5))


@pytest.mark.parametrize(
    "data", [signed(999_999_999, key=THIEF), b"version = 1\n", b"\xff"], ids=["thief", "none", "bytes"]
)
def test_what_a_thief_published_does_not_stop_the_next_one(tmp_path: Path, data: bytes) -> None:
    publish = published(tmp_path, data)
    assert "edition 5" in publish(signed(5))


# -- who is sought ---------------------------------------------------------------------------------------------------

SOUGHT = policy_of(
    {"national": Category(may_miss=MAY_MISS), "spouse": Category(finger=True, may_miss=MAY_MISS)},
    controls={"wanted": ControlRule(), "exit_ban": ControlRule(frozenset({"exit"}), urgency=Urgency.ATTENTION)},
    document_controls={"stolen": Urgency.URGENT, "lost": Urgency.ATTENTION},
)
WANTED = replace(TRAVELLER, flags=frozenset({"wanted"}))


def verdict(play: Play) -> Verdict:
    """Of the first record."""
    return play.all(cmd.Record)[0].verdict  # type: ignore[no-any-return]


def calls(play: Play) -> list[tuple[str, str]]:
    return [(call.reason, call.urgency) for call in play.all(cmd.CallOfficer)]


def seen(commands: list[Command]) -> list[Command]:
    """What is not for officers and records alone: everything that the passenger could notice, and when."""
    return [each for each in commands if not isinstance(each, cmd.Record | cmd.CallOfficer | cmd.Settle)]


OUTSIDE = {
    "old_enough": {"birth": date(2020, 1, 1)},
    "category_is_known": {"category": "crew"},
    "enrolment_is_usable": {"usable_from": date(2027, 1, 1)},
    "fingers_can_be_taken": {"category": "spouse", "fingers": ("right_index",)},
}


@pytest.mark.parametrize("reason", OUTSIDE)
def test_somebody_sought_who_is_refused_outside_is_urgent_and_sees_nothing_of_it(reason: str) -> None:
    """L8: they would walk away from a routine call; and what they see is what everybody sees who is refused so."""
    devices = frozenset(ev.Device) - {ev.Device.FINGERPRINT}
    plays = [
        Play(rules=SOUGHT, traveller=replace(who, **OUTSIDE[reason]), devices=devices)  # type: ignore[arg-type]
        for who in (TRAVELLER, WANTED)
    ]
    for play in plays:
        play.present()
        play.wait(30.0)
    free, sought = plays
    assert (calls(free), calls(sought)) == ([(reason, "routine")], [(reason, "urgent")])
    assert seen(free.log) == seen(sought.log)


def test_a_stolen_document_that_leads_to_nobody_is_urgent() -> None:
    """W8: RMAS knows it though no register does."""
    play = Play(rules=SOUGHT, traveller=None)
    play.answers[cmd.LookUp] = lambda c: ev.NoRecord(c.ticket, c.ask, frozenset({"stolen"}))
    play.present()
    assert calls(play) == [("holder_is_enrolled", "urgent")]


def test_somebody_elses_face_with_the_papers_of_who_is_sought_is_urgent() -> None:
    play = Play(rules=SOUGHT, traveller=WANTED)
    play.inside(score=0.0)
    play.wait(60.0)
    assert calls(play)[0] == ("face_matches", "urgent")


def test_a_ban_that_does_not_count_here_makes_nothing_urgent() -> None:
    """Urgency tells no more than the rule: somebody with an exit ban comes home like anybody."""
    evidence = Evidence(MIDNIGHT, TODAY, "entry", "here", traveller=replace(TRAVELLER, flags=frozenset({"exit_ban"})))
    assert urgency(evidence, SOUGHT, "old_enough") is Urgency.ROUTINE
    assert urgency(replace(evidence, direction="exit"), SOUGHT, "old_enough") is Urgency.ATTENTION


def test_a_ban_that_the_look_up_saw_counts_where_the_second_reading_says_nothing() -> None:
    """Whoever empties the control list while somebody is inside lets nobody out by it."""
    play = Play(rules=SOUGHT, traveller=WANTED)
    play.inside()
    play.wait(60.0)
    assert (verdict(play).decision, verdict(play).reason) == (Decision.REFER, "holder_is_not_flagged")


# -- midnight --------------------------------------------------------------------------------------------------------

LAST_DAY = Permit("residence", date(2026, 1, 1), TODAY)
DATED = policy_of(
    {"national": Category(may_miss=MAY_MISS, exit_permits=frozenset({"residence"}))},
    zone=TAIPEI,
    sizes=(Size(date(2000, 1, 1), 10, 120), Size(date(2026, 11, 21), 99, 120)),
)
"""A permit's last day is today; from tomorrow on nobody is old enough."""


def at_midnight(rules: Rules, before_s: float) -> Play:
    play = Play(rules=rules, traveller=replace(TRAVELLER, permits=(LAST_DAY,)))
    play.utc = MIDNIGHT - timedelta(seconds=before_s)
    return play


def test_a_passage_over_midnight_is_of_the_day_on_which_it_began() -> None:
    """By the country's clocks, eight hours before Greenwich's; the next passenger is of the new day, and its law."""
    play = at_midnight(DATED, 2.0)
    play.present()
    play.wait(5.0)
    assert play.utc > MIDNIGHT
    play.enter()
    assert verdict(play).decision is Decision.GRANT
    after = at_midnight(DATED, 0.0)
    after.present()
    assert after.at(State.REFUSED) and calls(after)[0][0] == "old_enough"
    eve = at_midnight(DATED, 0.001)
    eve.present()
    assert eve.at(State.ADMITTING)


def test_a_document_that_waits_over_midnight_is_of_the_new_day() -> None:
    """Laid down while another passenger is served, before midnight: it is taken up after it."""
    play = at_midnight(DATED, 4.0)
    play.present()
    play.enter()
    play.do(ev.DocumentPresented(DOCUMENT_OF_NEXT, Door.A))
    play.wait(4.5)
    play.leave()
    assert play.utc >= MIDNIGHT and play.at(State.REFUSED)
    assert calls(play)[-1][0] == "old_enough"


DOCUMENT_OF_NEXT = replace(DOCUMENT, number="300000009")


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(days=1), timedelta(days=-400)])
def test_a_clock_that_steps_around_midnight_lets_nobody_pass(step: timedelta) -> None:
    """Yesterday the permit held and tomorrow it does not: a day that jumps is none."""
    play = at_midnight(DATED, 20.0)
    play.present()
    play.utc += step
    play.do(ev.ClockStepped(step.total_seconds()))
    play.enter()
    play.wait(60.0)
    assert verdict(play).reason == "clock_is_trusted"


# -- a third entry ---------------------------------------------------------------------------------------------------

VISITOR = policy_of({"visitor": Category(may_miss=MAY_MISS, entry_permits=frozenset({"entry_permit"}))})


def test_two_permits_of_one_kind_have_their_entries_and_not_one_more() -> None:
    """No entries are left by the one that holds, and the other one, which has some, holds tomorrow."""
    used, later = Permit("entry_permit", TODAY, TODAY, 0), Permit("entry_permit", TODAY + timedelta(1), date.max, 2)
    who = replace(TRAVELLER, category="visitor", permits=(used, later), left=Crossed(MIDNIGHT))
    evidence = Evidence(MIDNIGHT, TODAY, "entry", "here", traveller=who)
    assert not entries_are_left(evidence, VISITOR)
    assert entries_are_left(replace(evidence, day=TODAY + timedelta(1)), VISITOR)


def test_a_permit_that_lifts_a_ban_lifts_no_other() -> None:
    control = {"conscript": ControlRule(unless_permit="leave"), "wanted": ControlRule()}
    rules = policy_of({"national": Category(may_miss=MAY_MISS)}, controls=control)
    leave = Permit("leave", TODAY, TODAY, 0)
    who = replace(TRAVELLER, permits=(leave,), flags=frozenset(control))
    evidence = Evidence(MIDNIGHT, TODAY, "exit", "here", document=DOCUMENT, traveller=who)
    assert urgency(evidence, rules, "tailgate") is Urgency.URGENT
    assert judge(evidence, rules).decision is Decision.REFER


# -- whoever has sync's process ------------------------------------------------------------------------------------


def modes() -> dict[str, int]:
    """Folder -> mode, as systemd/gated.tmpfiles makes them."""
    lines = (ROOT / "systemd" / "gated.tmpfiles").read_text().splitlines()
    return {line.split()[1]: int(line.split()[2], 8) for line in lines if line.startswith("d ")}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can go into; pytest's own are their owner's alone."""
    with tempfile.TemporaryDirectory(prefix="gated-users-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="other users are made by root alone")
def test_a_taken_sync_reaches_neither_the_kept_policies_nor_their_folder(open_folder: Path) -> None:
    """Real users and the folders' real modes: the lane, and sync, which shares the lane's group to put caches there."""
    lane, sync, group = 64_101, 64_102, 64_100
    store = open_folder / "gated"
    policy = store / "policy"
    for folder, mode in ((store, "/var/lib/gated"), (policy, "/var/lib/gated/policy")):
        folder.mkdir()
        os.chown(folder, lane, group)
        folder.chmod(modes()[mode])
    kept = policy / "4.toml"
    kept.write_bytes(signed(4))
    os.chown(kept, lane, group)
    kept.chmod(0o600)

    def attempt(what: Callable[[], object]) -> bool:
        """Whether sync's user can do it."""
        child = os.fork()
        if not child:
            try:
                os.setgroups([group])
                os.setgid(64_103)
                os.setuid(sync)
                what()
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    own = store / "cache-people-1.db"
    assert attempt(lambda: own.write_bytes(b"rows")), "sync can do what it is there for"
    assert not attempt(kept.read_bytes)
    assert not attempt(kept.unlink)
    assert not attempt(lambda: (policy / "3.toml").write_bytes(signed(3)))
    assert not attempt(lambda: policy.rename(store / "gone")), "or an older policy would hold after the next start"
    assert not attempt(policy.rmdir)
    assert not attempt(lambda: own.replace(policy))
    assert not attempt(lambda: policy.chmod(0o777))
    assert not attempt(lambda: os.listdir(policy))
    assert kept.read_bytes() == signed(4)


# -- who was to be forgotten ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"wanted"})], ids=["nobody any more", "but for a flag"])
def test_nothing_of_a_face_lies_in_the_registers_files_while_they_are_open(
    tmp_path: Path, flags: frozenset[str]
) -> None:
    """`history update --every` never closes the register: W6 and E6 are of now, and not of the next boot."""
    register = Register(tmp_path / "registers.db", DATA_KEY)
    other = Register(tmp_path / "registers.db", DATA_KEY)
    register.enrol(person(origin="entry", papers=(Paper("UTO", "1"),), flags=flags))
    sealed = register.db.conn.execute("SELECT sealed FROM persons").fetchone()[0]
    assert lying(tmp_path, sealed)
    other.forget(1)
    assert not lying(tmp_path, sealed)
    register.close()
    other.close()


def test_a_reader_delays_it_to_the_next_transaction_and_stops_nobody(tmp_path: Path) -> None:
    register = Register(tmp_path / "registers.db", DATA_KEY)
    reading = Register(tmp_path / "registers.db", DATA_KEY)
    register.enrol(person(origin="entry"))
    register.enrol(person(personal_number="B1", papers=(Paper("TWN", "2"),)))
    sealed = register.db.conn.execute("SELECT sealed FROM persons WHERE subject = 1").fetchone()[0]
    reading.db.conn.execute("BEGIN")
    reading.db.conn.execute("SELECT count(*) FROM persons").fetchone()
    assert register.forget(1)
    assert lying(tmp_path, sealed), "the reader still reads it"
    reading.db.conn.execute("COMMIT")
    register.add_flags(2, {"wanted"})
    assert not lying(tmp_path, sealed)
    register.close()
    reading.close()


def lying(folder: Path, part: bytes) -> bool:
    return any(part in each.read_bytes() for each in folder.glob("registers.db*"))
