"""`gated policy`: the explanation never disagrees with the verdict, and cases hold what the rules read and no more."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from gated.cli import gated
from gated.cli.policycases import LET_IN, PASS, Journal, case_of, compare, evidence_of, line_of, outcome, read
from gated.icao.check import Check
from gated.icao.mrz import render
from gated.lane import commands as cmd
from gated.lane.events import CacheStand, ChipRead, Crossed, FaceCompared, FingerCompared, HelpPressed, Now
from gated.lane.evidence import Decision, Evidence
from gated.lane.explain import Step, explain
from gated.lane.policy import BEFORE_ENTRY, BEFORE_EXIT, judge, refusal
from gated.lane.rules import DIRECTIONS, ENTRY, EXIT, Rules
from gated.lane.specimen import Pass, Specimen
from gated.lane.specimen import evidence_of as specimen_evidence
from gated.lane.why import WHY
from gated.policyfile import load_policy, parse_policy
from gated.store.db import LaneDb
from gated.store.journal import Journal as JournalWriter
from tests.canaries import Canary, needles
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import sim_folder
from tests.test_daemon_app import Watched

FILE = Path(__file__).resolve().parents[1] / "config" / "policy" / "tw.toml"
POLICY = load_policy(FILE)
RULES = POLICY.rules
TEXT = FILE.read_text()
DAY = date(2026, 11, 20)
RULE_NAMES = [rule.__name__ for rule in BEFORE_EXIT]

# -- people made up ----------------------------------------------------------------------------------------------------


def regular(category: str, rules: Rules, random: Random) -> Specimen:
    """Somebody of this category who passes, or nearly."""
    cells = [
        (kind, way, place)
        for kind, cell in rules.matrix[category].items()
        for way in DIRECTIONS
        for place in sorted(cell.at(way))
    ]
    kind, way, place = random.choice(cells)
    origin = next(name for name, each in rules.origins.items() if category in each.categories)
    permits = tuple(Pass(each) for each in sorted(rules.permits))
    entered, left = (date(2026, 10, 1), date(2026, 9, 1)) if way == EXIT else (date(2026, 9, 1), date(2026, 10, 1))
    return Specimen(
        category, kind, way, place, DAY, origin=origin, permits=permits, entered=entered, left=left,
        chip=Check.SUCCESSFUL,
    )  # fmt: skip


def other(somebody: Specimen, rules: Rules, random: Random) -> Specimen:
    """The same, but for one thing."""
    days = [DAY + timedelta(days=random.choice((-900, -400, -31, -30, -3, -1, 0, 1, 3, 40, 500))) for _ in range(3)]
    changes: list[dict[str, Any]] = [
        {"category": random.choice(list(rules.categories))},
        {"document": random.choice(list(rules.documents))},
        {"direction": random.choice(DIRECTIONS)},
        {"place": random.choice(sorted(rules.places))},
        {"on": random.choice((date(2012, 6, 1), date(2013, 1, 1), date(2022, 7, 22), date(2028, 2, 29), DAY))},
        {"born": date(random.randint(2008, 2018), random.randint(1, 12), random.randint(1, 28))},
        {"height_cm": random.choice((100, 119, 120, 139, 140, None))},
        {"origin": random.choice(list(rules.origins)), "enrolled_on": days[0], "received_on": days[1]},
        {"origin": "office", "enrolled_on": None, "received_on": days[1]},
        {"usable_from": days[0]},
        {"permits": tuple(p for p in somebody.permits if random.random() < 0.5)},
        {"permits": tuple(replace(p, entries_left=random.choice((0, 1, None))) for p in somebody.permits)},
        {"permits": tuple(replace(p, start=min(days[:2]), end=max(days[:2])) for p in somebody.permits)},
        {"controls": tuple(random.sample(sorted(rules.controls), random.randint(1, 2)))},
        {"controls": ("unheard_of",)},
        {"document_controls": (random.choice(sorted(rules.document_controls)),)},
        {"entered": random.choice((*days, None)), "left": random.choice((*days, None))},
        {"direction": ENTRY, "entered": None, "left": days[0]},
        {"other_document": True},
        {"document_expires": days[0]},
        {"face_enrolled": False, "fingers_enrolled": random.randint(0, 4), "fingers": random.randint(0, 4)},
        {"fingers_enrolled": 0, "fingers": 0},
        {"face": False},
        {"fingers": random.randint(0, 2)},
        {"chip": random.choice(list(Check))},
        {"finger_reader": False},
        {"cache_age_s": random.choice((299, 300, 900, 86_399, 86_400, 1_209_600, 99_999_999))},
    ]
    return replace(somebody, **random.choice(changes))


def bent(e: Evidence, random: Random) -> Evidence:
    """What no specimen can be: evidence that is missing or odd."""
    pad = random.choice(list(Check))
    face = e.face or FaceCompared(1, 3, Check.SUCCESSFUL, 1.0, 0.5, 1e-4, 0.0, 1)
    who = e.traveller
    choices: list[dict[str, Any]] = [
        {"clock_trusted": False},
        {"traveller": None},
        {"chip": None},
        {"chip": ChipRead(1, 1, *random.choices(list(Check), k=3))},
        {"face": None},
        {"face": replace(face, persons=random.choice((0, 2)))},
        {"face": replace(face, captured_mono=-0.5)},
        {"face": replace(face, pad=pad)},
        {"face": replace(face, result=Check.FAILED, score=0.4, weak_threshold=random.choice((None, 0.3, 0.4, 0.45)))},
        {"face": replace(face, result=Check.SUCCESSFUL, score=0.4)},
        {"fingers": tuple(replace(each, pad=pad) for each in e.fingers)},
        {"fingers": (*e.fingers, FingerCompared(1, 9, random.choice(list(Check)), 0.4, 0.5, 1e-3, "left_thumb", pad))},
        {"finger_reader": False},
        {"cache": None},
        {"cache": CacheStand(1, e.opened + timedelta(days=1), 1, e.opened)},
        {"flags": frozenset(random.sample(sorted(RULES.controls), 1))},
        {"place": ""},
        {"direction": ""},
        {"document": e.document and replace(e.document, code=random.choice(("PD", "X", "AR")), issuer="JPN")},
        {"traveller": who and replace(who, category="unheard_of")},
        {"traveller": who and replace(who, origin="unheard_of")},
        {"traveller": who and replace(who, fingers=(), entered=Crossed(e.opened), left=Crossed(e.opened))},
    ]
    return replace(e, **random.choice(choices))


def anybody(seed: int, rules: Rules = RULES) -> Evidence:
    """Somebody of a seed: mostly one thing away from passing."""
    random = Random(seed)
    somebody = regular(random.choice(list(rules.categories)), rules, random)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        somebody = other(somebody, rules, random)
    evidence = specimen_evidence(somebody, rules)
    for _ in range(random.choice((0, 0, 1, 2))):
        evidence = bent(evidence, random)
    return evidence


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_and_judge_never_disagree() -> None:
    decided: Counter[str] = Counter()
    for seed in range(3000):
        evidence = anybody(seed)
        steps, verdict = explain(evidence, RULES), judge(evidence, RULES)
        assert [step.rule for step in steps] == RULE_NAMES
        deciding = [step for step in steps if step.decides]
        if verdict.decision is Decision.GRANT:
            assert not deciding and all(step.kept and step.asked for step in steps)
        else:
            assert [step.rule for step in deciding] == [verdict.reason]
        assert refusal(evidence, RULES) == next((s.rule for s in deciding if s.before_entry), None)
        for step, rule in zip(steps, BEFORE_EXIT, strict=True):
            assert step.kept == rule(evidence, RULES)
            assert step.before_entry == (rule in BEFORE_ENTRY)
            assert step.requirements and step.why and "None" not in step.why, step
        asked = [step.asked for step in steps]
        assert asked == sorted(asked, reverse=True), "after the rule that decides none is asked"
        decided[verdict.reason] += 1
    assert set(decided) == {*RULE_NAMES, "all_rules_kept"}, "some rule never decided: the specimens are too tame"


def test_every_rule_has_words_and_nothing_else_has() -> None:
    assert list(WHY) == RULE_NAMES


def test_why_is_nobody_s_business_in_a_log() -> None:
    step = explain(specimen_evidence(KINMEN, RULES), RULES)[10]
    assert step.why and step.why not in repr(step)


def test_the_machine_does_not_know_of_the_explanation() -> None:
    """So it costs nothing where nobody asks."""
    loaded = "import sys, gated.lane.machine; print([m for m in sys.modules if m in %r])"
    modules = ("gated.lane.explain", "gated.lane.why")
    done = subprocess.run([sys.executable, "-c", loaded % (modules,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


KINMEN = Specimen("national", "kinmen_permit", EXIT, "taichung", DAY, born=date(2016, 12, 1))
OFFICE = Specimen("national", "passport_tw", EXIT, "songshan", DAY, origin="office", enrolled_on=date(2026, 11, 1))
RESIDENT = Specimen("resident", "residence_certificate", ENTRY, "taichung", DAY)
PERMITS = (Pass("residence", end=date(2026, 12, 31)), Pass("reentry", end=date(2026, 11, 19)))
VISITOR = Specimen("foreign_visitor", "passport_foreign", EXIT, "taoyuan_t1", DAY, origin="entry")


@pytest.mark.parametrize(
    ("somebody", "rule", "kept", "why"),
    [
        (KINMEN, "document_fits_place", False, "kinmen_permit of national counts at kinmen_shuitou, not at taichung"),
        (KINMEN, "old_enough", False, "9 years on 2026-11-20; 10 from 2025-01-01 on"),
        (KINMEN, "tall_enough", True, "no height on record; national may go without"),
        (replace(KINMEN, height_cm=119), "tall_enough", False, "119 cm; 120 from 2025-01-01 on"),
        (replace(OFFICE, received_on=DAY), "enrolment_is_usable", False,
         "usable from 2026-11-23: 1 working day after 2026-11-20"),
        (replace(OFFICE, received_on=DAY), "enrolment_is_bound", True,
         "enrolled on 2026-11-01, passport received on 2026-11-20, 19 days after; 0 to 30"),
        (OFFICE, "enrolment_is_bound", False, "a passport received is not on record; within 30 days"),
        (replace(OFFICE, received_on=date(2027, 12, 31)), "enrolment_is_usable", False,
         "received on 2027-12-31, and the calendar ends on 2027-12-31"),
        (replace(RESIDENT, permits=PERMITS),
         "permits_are_valid", False,
         "no reentry on 2026-11-20, but from 0001-01-01 to 2026-11-19; residence holds to 2026-12-31"),
        (replace(RESIDENT, permits=(Pass("residence"), Pass("reentry", entries_left=0))), "entries_are_left", False,
         "reentry: none left; residence: any number left"),
        (replace(VISITOR, permits=(Pass("stay", end=date(2026, 11, 19)),)), "stay_not_exceeded", False,
         "no stay on 2026-11-20, but from 0001-01-01 to 2026-11-19"),
        (replace(VISITOR, direction=ENTRY), "document_fits_direction", False,
         "passport_foreign of foreign_visitor counts for exit; this is entry"),
        (replace(VISITOR, entered=date(2026, 11, 1), other_document=True), "document_is_of_the_entry", False,
         "entered with another document; last entry 2026-11-01: inside; other document; of foreign_visitor one refers"),
        (replace(VISITOR, cache_age_s=86_400), "cache_is_recent_enough", False,
         "control 86400 s, stale; people 86400 s, stale; foreign_visitor passes by one that is late or better"),
        (VISITOR, "chip_is_genuine", False, "access not supported, authentic not supported, original not supported; "
         "foreign_visitor may not go without"),
        (replace(RESIDENT, fingers=0), "finger_matches_where_demanded", False,
         "0 fingers matched; resident demands one beside the face"),
        (replace(RESIDENT, finger_reader=False), "fingers_can_be_taken", False,
         "needs 1 finger; 2 enrolled; the lane has no reader"),
        (replace(RESIDENT, document_controls=("stolen",)), "document_is_not_flagged", False, "stolen"),
        (replace(KINMEN, controls=("entry_ban", "conscript", "public_office")), "holder_is_not_flagged", False,
         "conscript counts: no military_leave on 2026-11-20; entry_ban counts for entry alone; "
         "public_office counts at kinmen_shuitou alone"),
        (replace(KINMEN, controls=("conscript",), permits=(Pass("military_leave", end=DAY),)), "holder_is_not_flagged",
         True, "conscript is lifted: military_leave holds to 2026-11-20"),
        (Specimen("national", "passport_tw", ENTRY, "songshan", DAY, left=date(2024, 11, 19)), "not_abroad_too_long",
         False, "left on 2024-11-19, back on 2026-11-20; 2 years at most"),
    ],
)  # fmt: skip
def test_why(somebody: Specimen, rule: str, kept: bool, why: str) -> None:
    (step,) = (each for each in explain(specimen_evidence(somebody, RULES), RULES) if each.rule == rule)
    assert (step.kept, step.why.replace("  ", " ")) == (kept, why)


# -- cases -------------------------------------------------------------------------------------------------------------

VARIANTS = (
    ("", ""),
    ('abroad_years_max = 2', "abroad_years_max = 1"),
    ("bound_within_days = 30", "bound_within_days = 2"),
    ("usable_after_workdays = 1", "usable_after_workdays = 5"),
    ('timezone = "Asia/Taipei"', 'timezone = "Pacific/Honolulu"'),
    ("weak_face = true", "weak_face = false"),
    ('may_miss = ["chip", "face_pad", "finger_pad", "height"]', 'may_miss = ["chip"]'),
    ('unless_permit = "military_leave"', ""),
    ('passport_tw = "everywhere"', 'passport_tw = { entry = "everywhere", exit = ["songshan"] }'),
    ("{ since = 2025-01-01, age_years_min = 10", "{ since = 2025-01-01, age_years_min = 13"),
    ("late_s = 300", "late_s = 200"),
    ('history = "refer"', 'history = "note"'),
)  # fmt: skip


def variant(was: str, becomes: str) -> Rules:
    assert was in TEXT, was
    text = TEXT.replace(was, becomes) if was else TEXT
    return parse_policy(text[: text.index("[[examples]]")], Path("variant.toml")).rules


def test_of_a_case_every_rule_says_what_it_said_of_the_evidence() -> None:
    policies = [variant(*each) for each in VARIANTS]
    differed = 0
    for seed in range(800):
        evidence = anybody(seed)
        if evidence.document is None:
            continue
        again = evidence_of(case_of(evidence, judge(evidence, RULES).reason))
        for rules in policies:
            said = [rule.__name__ for rule in BEFORE_EXIT if not rule(evidence, rules)]
            assert [rule.__name__ for rule in BEFORE_EXIT if not rule(again, rules)] == said, (seed, rules.version)
            differed += outcome(evidence, True, rules) != outcome(evidence, True, RULES)
    assert differed > 150, "the variants differ in too little to show anything"


def test_a_case_is_read_as_it_was_written_and_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "cases"
    cases = [case_of(e, judge(e, RULES).reason) for e in map(anybody, range(200)) if e.document is not None]
    path.write_bytes(b"".join(map(line_of, cases)))
    assert [evidence for evidence, _ in read(path)] == [evidence_of(each) for each in cases]
    assert [proven for _, proven in read(path)] == [each.proven for each in cases]
    assert {len(set(map(str, json.loads(line)))) for line in path.read_text().splitlines()} == {1}
    text = path.read_text()
    for name in ("SPECIMEN", "X00000000", "1990", "score", "threshold", "birth", "surname", "number", "subject"):
        assert name not in text, name


def test_who_was_refused_before_the_entry_is_only_let_in() -> None:
    child = Specimen("national", "passport_tw", EXIT, "songshan", DAY, born=date(2015, 1, 1))
    strict = variant("{ since = 2025-01-01, age_years_min = 10", "{ since = 2025-01-01, age_years_min = 13")
    evidence = replace(specimen_evidence(child, strict), face=None, fingers=())
    reason = refusal(evidence, strict)
    assert reason == "old_enough"
    case = case_of(evidence, reason)
    assert outcome(evidence_of(case), case.proven, strict) == "old_enough"
    assert outcome(evidence_of(case), case.proven, RULES) == LET_IN
    judged = case_of(specimen_evidence(child, RULES), "all_rules_kept")
    assert outcome(evidence_of(judged), judged.proven, RULES) == PASS
    assert outcome(evidence_of(judged), judged.proven, strict) == "old_enough"


# -- the commands ------------------------------------------------------------------------------------------------------


def gated_policy(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(gated, ["policy", *map(str, arguments)], input=stdin)


def test_check_says_version_and_counts_and_ends_with_nought() -> None:
    done = gated_policy("check", FILE)
    assert done.exit_code == 0
    assert f"{RULES.version}, edition {RULES.edition}: whole" in done.stdout
    answer = json.loads(gated_policy("check", FILE, "--json").stdout)
    assert answer["edition"] == RULES.edition
    assert (answer["categories"], answer["examples"]) == (len(RULES.categories), len(POLICY.examples))


def test_check_ends_with_78_and_names_file_line_and_option(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(TEXT.replace("bound_within_days = 30", "bound_within_days = -1"))
    done = gated_policy("check", path)
    line = TEXT[: TEXT.index("[origins.office]")].count("\n") + 1
    assert done.exit_code == 78
    assert done.stdout == ""
    found = done.stderr.removeprefix(f"gated: {path}:").split(":")[0]
    assert line <= int(found) <= line + 5
    assert "[origins] office.bound_within_days" in done.stderr
    assert gated_policy("check", tmp_path / "gone.toml").exit_code == 78


@pytest.mark.parametrize(("days", "warned"), [(-1, True), (0, True), (89, True), (90, False), (400, False)])
def test_check_warns_of_a_calendar_that_ends(days: int, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    through = datetime.now(RULES.zone).date() + timedelta(days=days)
    head, tail = TEXT.split("through = ", 1)
    tail = tail[tail.index("\n") :]
    off = tail.index("days_off = [")
    text = f"{head}through = {through}{tail[:off]}days_off = []{tail[tail.index(']', off) + 1 :]}"
    path.write_text(text[: text.index("[[examples]]")])
    done = gated_policy("check", path)
    assert done.exit_code == 0
    assert ("warning: the calendar" in done.stderr) is warned
    assert bool(json.loads(gated_policy("check", path, "--json").stdout)["warnings"]) is warned


def test_show_names_every_cell_that_lets_somebody_pass() -> None:
    done = gated_policy("show", FILE)
    assert done.exit_code == 0
    for category, row in RULES.matrix.items():
        assert category in done.stdout
        for kind, cell in row.items():
            assert not (cell.entry or cell.exit) or kind in done.stdout
    for name in (*RULES.controls, *RULES.document_controls):
        assert name in done.stdout
    assert "\x1b[" not in done.stdout, "no colours in a pipe"
    tree = json.loads(gated_policy("show", FILE, "--json").stdout)
    assert tree["matrix"]["national"]["kinmen_permit"] == {"entry": ["kinmen_shuitou"], "exit": ["kinmen_shuitou"]}
    assert tree["categories"]["mainland_spouse"]["since"] == "2013-01-01"
    assert tree["categories"]["national"]["until"] is None
    assert tree["reasons"].keys() == RULES.reasons.keys()


def test_names_in_a_policy_are_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    text = TEXT[: TEXT.index("[[examples]]")]
    path.write_text(text.replace("[controls.wanted]", '[controls."[/red]"]\n[controls.wanted]'))
    done = gated_policy("show", path)
    assert done.exit_code == 78
    assert "controls" in done.output and "has '[/red]': a name is of lower-case letters" in done.output


WHO = ("--policy", FILE, "--direction", "exit", "--at", "2026-11-20")
NATIONAL = (*WHO, "--category", "national", "--document", "passport_tw", "--place", "songshan")


def test_explain_ends_with_nought_for_a_pass_and_one_for_a_referral() -> None:
    passes = gated_policy("explain", *NATIONAL)
    assert passes.exit_code == 0
    assert "pass" in map(str.strip, passes.stdout.splitlines())
    done = gated_policy(
        "explain", *WHO, "--category", "national", "--document", "kinmen_permit", "--place", "taichung",
        "--born", "2016-12-01",
    )  # fmt: skip
    assert done.exit_code == 1
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if len(line.split()) > 2}
    assert lines["document_fits_place"].startswith("broken ")
    assert lines["old_enough"].startswith("(broken) ")
    assert lines["document_is_known"].startswith("kept ")
    assert "refer: document_fits_place, before the entry; attention" in done.stdout


def test_explain_in_json_is_every_step() -> None:
    done = gated_policy("explain", *NATIONAL, "--control", "exit_ban", "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (answer["decision"], answer["reason"], answer["urgency"]) == ("refer", "holder_is_not_flagged", "urgent")
    assert [step["rule"] for step in answer["steps"]] == RULE_NAMES
    assert [step["rule"] for step in answer["steps"] if step["decides"]] == ["holder_is_not_flagged"]
    assert answer["steps"][-1]["why"] == "exit_ban counts"
    assert {step["asked_before"] for step in answer["steps"]} == {"entry", "exit"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), None),
        (("--height", "119"), "tall_enough"),
        (("--origin", "office"), "enrolment_is_bound"),
        (("--origin", "office", "--enrolled-on", "2026-11-01", "--received-on", "2026-11-20"), "enrolment_is_usable"),
        (("--origin", "office", "--enrolled-on", "2026-11-01", "--received-on", "2026-11-19"), None),
        (("--usable-from", "2026-11-21"), "enrolment_is_usable"),
        (("--control", "conscript"), "holder_is_not_flagged"),
        (("--control", "conscript", "--permit", "military_leave:2026-11-01:2026-11-20"), None),
        (("--control", "conscript", "--permit", "military_leave::2026-11-19"), "holder_is_not_flagged"),
        (("--document-control", "lost"), "document_is_not_flagged"),
        (("--document-expires", "2026-11-19"), "document_in_force"),
        (("--no-face-match",), "face_matches"),
        (("--no-face", "--fingers", "1"), "face_matches"),
        (("--no-face", "--no-finger-reader"), "fingers_can_be_taken"),
        (("--no-face", "--fingers-enrolled", "1"), "fingers_can_be_taken"),
        (("--chip", "failed"), "chip_is_genuine"),
        (("--cache-age", "1209600"), "cache_is_recent_enough"),
        (("--direction", "entry", "--left", "2024-11-19"), "not_abroad_too_long"),
        (("--place", "taichung", "--category", "resident"), "document_fits_category"),
    ],
)
def test_every_option_of_explain_tells(options: tuple[str, ...], reason: str | None) -> None:
    done = gated_policy("explain", *NATIONAL, *options, "--json")
    assert done.exit_code == (0 if reason is None else 1), done.output
    assert json.loads(done.stdout)["reason"] == (reason or "all_rules_kept")


def test_history_of_a_visitor(tmp_path: Path) -> None:
    visitor = (
        *WHO, "--category", "foreign_visitor", "--document", "passport_foreign", "--place", "songshan", "--origin",
        "entry", "--chip", "successful", "--permit", "stay::2026-11-20", "--json",
    )  # fmt: skip
    for options, reason in (
        (("--entered", "2026-11-01"), "all_rules_kept"),
        ((), "entered_before"),
        (("--entered", "2026-11-01", "--other-document"), "document_is_of_the_entry"),
        (("--entered", "2026-11-01", "--at", "2026-11-21"), "stay_not_exceeded"),
    ):
        assert json.loads(gated_policy("explain", *visitor, *options).stdout)["reason"] == reason


def test_a_document_may_be_a_machine_readable_zone(tmp_path: Path) -> None:
    lines = render(
        "TD3", code="P", issuer="TWN", number="300000000", nationality="TWN", birth="170304", sex="F",
        expiry="301231", surname="LIN", given_names="MEI", optional="",
    )  # fmt: skip
    zone = "\n".join(lines) + "\n"
    path = tmp_path / "mrz.txt"
    path.write_text(zone)
    common = (*WHO, "--category", "national", "--place", "songshan", "--json")
    for document, stdin in ((path, None), ("-", zone)):
        done = gated_policy("explain", *common, "--document", document, stdin=stdin)
        assert json.loads(done.stdout)["reason"] == "old_enough", "by the birth date that it says"
    older = json.loads(gated_policy("explain", *common, "--document", path, "--born", "1990-01-01").stdout)
    assert older["reason"] == "all_rules_kept"
    late = json.loads(gated_policy("explain", *common, "--document", path, "--at", "2031-01-01").stdout)
    assert late["reason"] == "document_in_force"
    assert "LIN" not in json.dumps(older) and "300000000" not in json.dumps(older)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--category", "natoinal"), "natoinal is no category of this policy; it knows diplomat"),
        (("--place", "matsu"), "matsu is no place"),
        (("--origin", "home"), "home is no origin"),
        (("--control", "wnated"), "wnated is no control"),
        (("--document-control", "burnt"), "burnt is no control of documents"),
        (("--permit", "leave"), "leave is no kind of permit"),
        (("--permit", "military_leave:yesterday"), "one looks like"),
        (("--permit", "military_leave:::many"), "one looks like"),
        (("--permit", ""), "one looks like"),
        (("--at", "20.11.2026"), "one looks like 2026-11-20"),
        (("--at", "9999-12-31"), "no day of 1900 to 2100"),
        (("--document", "passport"), "no kind of this policy (passport_tw"),
        (("--direction", "out"), "'entry', 'exit'"),
        (("--chip", "maybe"), "successful"),
    ],
)
def test_wrong_usage_of_explain_ends_with_two_and_says_what_is_known(options: tuple[str, ...], says: str) -> None:
    done = gated_policy("explain", *NATIONAL, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.split()), done.stderr


def test_a_file_that_is_no_zone_is_wrong_usage_and_shows_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "mrz.txt"
    path.write_text("SECRET<<TEXT\n")
    done = gated_policy("explain", *NATIONAL, "--document", path)
    assert done.exit_code == 2
    assert "SECRET" not in done.output


def test_without_a_file_the_lane_s_own_policy_is_asked(tmp_path: Path) -> None:
    nothing = CliRunner().invoke(gated, ["--config", str(tmp_path / "lane.toml"), "policy", "show"])
    assert nothing.exit_code == 78
    assert "name another with --config" in nothing.stderr


# -- a journal ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived() -> Iterator[tuple[Watched, Path]]:
    """A lane that served passengers."""
    with sim_folder() as folder, capture_logs():
        lane = Watched(5, Topology.MANTRAP, folder, passengers=8)
        virtual.run(lane.run())
        yield lane, folder


@pytest.fixture
def cases(lived: tuple[Watched, Path], tmp_path: Path) -> Path:
    out = tmp_path / "lane.cases"
    done = CliRunner().invoke(gated, ["--config", str(lived[1] / "lane.toml"), "policy", "cases", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_cases_are_the_verdicts_of_rules_in_order(lived: tuple[Watched, Path], cases: Path) -> None:
    lane, folder = lived
    records: list[cmd.Record] = lane.commands(cmd.Record)
    judged = [r for r in records if r.by is None and r.verdict.reason in {*RULE_NAMES, "all_rules_kept"}]
    assert len(judged) > 4
    rules = load_policy(folder / "policy.toml").rules
    assert [outcome(evidence, proven, rules) for evidence, proven in read(cases)] == [
        PASS if r.verdict.decision is Decision.GRANT else r.verdict.reason for r in judged
    ]


def test_cases_name_nobody_and_are_their_owner_s_alone(lived: tuple[Watched, Path], cases: Path) -> None:
    data = cases.read_bytes()
    assert cases.stat().st_mode & 0o777 == 0o600
    for enrolment in lived[0].world.cast.enrolments:
        paper = enrolment.paper
        for text in (paper.number, paper.surname, paper.given_names, paper.birth.isoformat()):
            if len(text) >= 6:
                assert not [n for n in needles(Canary("x", text)) if n in data]


def test_a_journal_and_its_key_need_no_configuration(lived: tuple[Watched, Path], cases: Path, tmp_path: Path) -> None:
    folder, out = lived[1], tmp_path / "again.cases"
    arguments = ["policy", "cases", "--journal", folder / "lane.db", "--key", folder / "journal.key", "--out", out]
    done = CliRunner().invoke(gated, ["--config", str(tmp_path / "none.toml"), *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == cases.read_bytes()
    assert json.loads(done.stdout)["cases"] == len(cases.read_text().splitlines())


def test_a_wrong_key_leaves_no_file_and_what_is_there_is_never_written_over(
    lived: tuple[Watched, Path], cases: Path, tmp_path: Path
) -> None:
    journal, wrong, out = lived[1] / "lane.db", tmp_path / "wrong.key", tmp_path / "new.cases"
    wrong.write_bytes(bytes(32))
    done = gated_policy("cases", "--journal", journal, "--key", wrong, "--out", out)
    assert done.exit_code == 1
    assert "wrong_key" in done.stderr or "journal_altered" in done.stderr
    assert not out.exists()
    wrong.write_bytes(b"short")
    assert gated_policy("cases", "--journal", journal, "--key", wrong, "--out", out).exit_code == 78
    before = cases.read_bytes()
    again = gated_policy("cases", "--journal", journal, "--key", lived[1] / "journal.key", "--out", cases)
    assert (again.exit_code, cases.read_bytes()) == (1, before)
    assert "exists: name another file" in again.stderr
    nowhere = gated_policy("cases", "--journal", journal, "--key", lived[1] / "journal.key", "--out", "/proc/nowhere/x")
    assert nowhere.exit_code == 1


def test_a_journal_whose_beginning_was_trimmed_still_has_cases(lived: tuple[Watched, Path], tmp_path: Path) -> None:
    for file in lived[1].glob("lane.db*"):
        shutil.copy(file, tmp_path / file.name)
    key = (lived[1] / "journal.key").read_bytes()
    whole = list(Journal(lived[1] / "lane.db", key).cases())
    db = LaneDb(tmp_path / "lane.db")
    rows = [n for n, clear in db.sql.execute("SELECT id, clear FROM journal ORDER BY id") if b'"Record"' in clear]
    with db.transaction():
        db.sql.execute("DELETE FROM journal WHERE id < ?", (rows[1],))
    db.close()
    assert list(Journal(tmp_path / "lane.db", key).cases()) == whole[1:]
    assert len(whole) > 1


@dataclass(frozen=True)
class Record:
    """The command of this name as another edition of the lane might have had it."""

    ticket: int
    why: str


def test_verdicts_of_another_edition_are_counted_and_left_out(tmp_path: Path) -> None:
    key, path, out = bytes(range(32)), tmp_path / "lane.db", tmp_path / "old.cases"
    (tmp_path / "key").write_bytes(key)
    db = LaneDb(path)
    journal = JournalWriter(db, key, "boot0001")
    journal.append(Now(1.0, datetime(2026, 11, 20, tzinfo=UTC)), HelpPressed(), (Record(1, "old"),))
    with db.transaction():
        journal.flush()
    db.close()
    done = gated_policy("cases", "--journal", path, "--key", tmp_path / "key", "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 that another edition of the lane wrote" in done.stdout
    assert out.read_bytes() == b""


def test_what_no_rule_decided_is_no_case(lived: tuple[Watched, Path], tmp_path: Path) -> None:
    """An officer's order, a stranger who is let out, help: no policy changes them."""
    key, path = bytes(range(32)), tmp_path / "lane.db"
    granted = next(r for r in lived[0].commands(cmd.Record) if r.verdict.decision is Decision.GRANT)
    others = (
        replace(granted, by="officer:1"),
        replace(granted, verdict=replace(granted.verdict, decision=Decision.REFER, reason="help")),
        replace(granted, verdict=replace(granted.verdict, decision=Decision.RELEASE, reason="stranger_inside")),
    )
    db = LaneDb(path)
    journal = JournalWriter(db, key, "boot0001")
    for each in (granted, *others):
        journal.append(Now(1.0, datetime(2026, 11, 20, tzinfo=UTC)), HelpPressed(), (each,))
    with db.transaction():
        journal.flush()
    db.close()
    found = Journal(path, key)
    assert list(found.cases()) == [case_of(granted.evidence, granted.verdict.reason)]
    assert (found.verdicts, found.not_by_rule) == (1, 3)


# -- diff --------------------------------------------------------------------------------------------------------------


def test_the_same_policy_treats_nobody_differently(cases: Path) -> None:
    done = gated_policy("diff", FILE, FILE, "--cases", cases)
    assert done.exit_code == 0
    assert "0 of " in done.stdout


def test_diff_counts_who_would_be_treated_differently(cases: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.toml"
    text = TEXT[: TEXT.index("[[examples]]")].replace(f'version = "{RULES.version}"', 'version = "strict"')
    strict.write_text(text.replace("since = 2025-01-01, age_years_min = 10", "since = 2025-01-01, age_years_min = 120"))
    done = gated_policy("diff", FILE, strict, "--cases", cases, "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    outcomes = [outcome(evidence, proven, RULES) for evidence, proven in read(cases)]
    passed = [number for number, each in enumerate(outcomes, 1) if each == PASS]
    assert passed
    named = sorted(n for change in answer["changes"] if change["a"] == PASS for n in change["cases"])
    assert named == passed
    assert {change["b"] for change in answer["changes"]} == {"old_enough"}
    assert answer["cases"] == len(outcomes)
    assert answer["different"] == sum(change["count"] for change in answer["changes"])
    assert answer["a"]["outcomes"] == Counter(outcomes)
    assert {change["category"] for change in answer["changes"]} <= {*RULES.categories, None}
    shown = gated_policy("diff", FILE, strict, "--cases", cases)
    assert shown.exit_code == 1
    assert f"{answer['different']} of {answer['cases']} cases come out otherwise under strict" in shown.stdout


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"null", b"\xff", b"[" * 5000, b'{"Case":{}}', b'{"Case":{"day":"2026-11-20"}}', b"x" * 70_000,
    ],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_a_line_that_is_no_case_is_named_by_number_and_never_shown(line: bytes, cases: Path) -> None:
    good = cases.read_bytes().splitlines(keepends=True)
    cases.write_bytes(b"".join([good[0], line + b"\n", *good[1:]]))
    done = gated_policy("diff", FILE, FILE, "--cases", cases)
    assert done.exit_code == 2, done.output
    assert f"{cases}:2: " in done.stderr.replace("\n", "")
    assert "xxxx" not in done.stderr


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('"age_years":', '"age_years":99999,"x":'),
        ('"cache_ages_s":[', '"cache_ages_s":[9000000000000000000,'),
        ('"day":"2026', '"day":"0001'),
        ('"day":"2026-03-02"', '"day":"2026-02-30"'),
    ],
)
def test_numbers_that_cannot_be_are_no_fault_of_ours(was: str, becomes: str, cases: Path) -> None:
    text = cases.read_text()
    assert was in text
    cases.write_text(text.replace(was, becomes))
    assert gated_policy("diff", FILE, FILE, "--cases", cases).exit_code == 2


def test_years_and_ages_that_cannot_be(tmp_path: Path) -> None:
    case = case_of(anybody(1), "all_rules_kept")
    assert case.holder is not None
    for odd in (
        replace(case, holder=replace(case.holder, age_years=5000)),
        replace(case, holder=replace(case.holder, age_years=-9000)),
        replace(case, cache_ages_s=(10**17, 0)),
        replace(case, day=date.min, document_expired=True),
    ):
        (tmp_path / "odd").write_bytes(line_of(odd))
        done = gated_policy("diff", FILE, FILE, "--cases", tmp_path / "odd")
        assert done.exit_code == 2
        assert ":1: " in done.stderr.replace("\n", "")


def test_a_case_counts_the_age_on_the_day_also_of_a_leap_day() -> None:
    child = Specimen("national", "passport_tw", EXIT, "songshan", date(2028, 2, 29), born=date(2018, 3, 1))
    evidence = specimen_evidence(child, RULES)
    assert judge(evidence, RULES).reason == "old_enough"
    assert judge(evidence_of(case_of(evidence, "old_enough")), RULES).reason == "old_enough"
    older = specimen_evidence(replace(child, born=date(2018, 2, 28)), RULES)
    assert judge(evidence_of(case_of(older, PASS)), RULES).decision is Decision.GRANT


def test_the_last_exit_is_a_day_in_every_zone() -> None:
    """It is kept to the quarter of an hour, and a day begins on one, also in Nepal."""
    nepal = variant('timezone = "Asia/Taipei"', 'timezone = "Asia/Kathmandu"')
    somebody = Specimen("national", "passport_tw", ENTRY, "songshan", DAY)
    base = specimen_evidence(somebody, RULES)
    assert base.traveller is not None
    midnight = datetime(2024, 11, 19, 18, 15, tzinfo=UTC)  # the 20th begins in Nepal
    for seconds, kept in ((-1, False), (0, True), (899, True)):
        left = Crossed(midnight + timedelta(seconds=seconds))
        evidence = replace(base, traveller=replace(base.traveller, left=left))
        for each in (evidence, evidence_of(case_of(evidence, PASS))):
            assert (judge(each, nepal).reason != "not_abroad_too_long") is kept


def test_compare_reads_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    found = compare(RULES, RULES, tmp_path / "none")
    assert (found.cases, found.changes) == (0, {})


def test_steps_of_an_empty_evidence() -> None:
    steps: tuple[Step, ...] = explain(Evidence(datetime(2026, 11, 20, tzinfo=UTC)), RULES)
    assert [step.rule for step in steps if step.decides] == ["document_in_force"]
