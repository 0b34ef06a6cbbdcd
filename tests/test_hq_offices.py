"""Enrolment at offices: who may, the passport that is waited for, and what lapses (E2, E6, E7)."""

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gated.hq.cli import gated_hq
from gated.hq.enrolment import Application, Identity, NotEnrolled, application_of, applications, person_of
from gated.hq.people import KINDS, merged
from gated.hq.registers import Lapsed, Paper, Permit, Register, RegisterFault
from gated.icao import mrz
from gated.lane.rules import Origin, Rules
from gated.policyfile import load_rules
from gated.wire.codec import encode, load, loads
from tests.data import shared_data
from tests.test_hq_registers import DATA_KEY, TAIWANESE, TODAY, FixedEngine, person, photo, register

__all__ = ["photo", "register"]

POLICY = Path(__file__).resolve().parents[1] / "config" / "policy" / "tw.toml"
WHO = Identity("A234567893", date(2014, 11, 20), "F", "CHENCANARY", "MEI LIN")
DAY = timedelta(days=1)
PASSPORT = Paper("TWN", "300123456")
FIELDS = {"personal_number": "A234567893", "birth": "1990-01-01", "sex": "F", "height_cm": 160}


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules(POLICY)


def office(photo: Path, /, **changed: Any) -> Application:
    made: dict[str, Any] = {"lines": None, "photo": photo, "origin": "office", "identity": WHO, "height_cm": 140}
    return Application(**{**made, **changed})


# -- who may (E2) --------------------------------------------------------------------------------------------------


def test_the_first_passports_applicant_is_enrolled_without_one(photo: Path, rules: Rules) -> None:
    """On the twelfth birthday, at 140 cm as stated."""
    made = person_of(office(photo), FixedEngine(), TODAY, rules=rules)
    assert (made.papers, made.personal_number, made.birth) == ((), "A234567893", WHO.birth)
    assert (made.origin, made.enrolled_on, made.received_on, made.height_cm) == ("office", TODAY, None, 140)
    assert made.face is not None and made.awaits_passport


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"identity": replace(WHO, birth=WHO.birth + DAY)}, "not yet 12 years"),
        ({"height_cm": 139}, "not 140 cm tall"),
        ({"height_cm": None}, "height must be stated"),
        ({"category": "resident"}, "'resident' is no category .* at the office; there are national"),
        ({"lines": TAIWANESE}, "holds no passport"),
        ({"lines": TAIWANESE, "identity": None}, "holds no passport"),
        ({"identity": None}, "holds no passport"),
        ({"identity": replace(WHO, personal_number=None)}, "holds no passport"),
        ({"photo": None}, "neither"),
        ({"flags": frozenset({"watned"})}, "'watned' is no control flag"),
        ({"permits": (Permit("stya", TODAY, TODAY),)}, "'stya' is no kind of permit"),
    ],
)
def test_whom_an_office_does_not_enrol(photo: Path, rules: Rules, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(NotEnrolled, match=says) as refused:
        person_of(office(photo, **changed), FixedEngine(), TODAY, rules=rules)
    assert "CANARY" not in str(refused.value) and "A234567893" not in str(refused.value)


def test_without_a_policy_no_office_enrols_and_a_counter_does(photo: Path, rules: Rules) -> None:
    with pytest.raises(NotEnrolled, match="give --policy"):
        person_of(office(photo), FixedEngine(), TODAY)
    with pytest.raises(NotEnrolled, match="machine readable zone"):
        person_of(office(photo, origin="counter"), FixedEngine(), TODAY, rules=rules)
    with pytest.raises(NotEnrolled, match="no enrolment at a place called moon"):
        person_of(Application(TAIWANESE, photo, origin="moon"), FixedEngine(), TODAY, rules=rules)
    made = person_of(Application(TAIWANESE, photo, "made_up"), FixedEngine(), TODAY)
    assert made.category == "made_up" and made.origin == "counter"
    with pytest.raises(NotEnrolled, match="'made_up' is no category"):
        person_of(Application(TAIWANESE, photo, "made_up"), FixedEngine(), TODAY, rules=rules)


@pytest.mark.parametrize(
    "changed",
    [{"age_years_min": 121}, {"age_years_min": -1}, {"height_cm_min": 251}, {"height_cm_min": -1}],
)
def test_what_an_origin_cannot_ask(changed: dict[str, int]) -> None:
    [(name, _)] = changed.items()
    with pytest.raises(ValueError, match=f"{name} is 0 to"):
        Origin(frozenset({"national"}), **changed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sex": "W"}, "sex is"),
        ({"personal_number": "a2"}, "capital letters"),
        ({"personal_number": ""}, "capital letters"),
        ({"personal_number": 7}, "TypeError"),
        ({"birth": "1990"}, "ValueError"),
        ({"height_cm": "160"}, "ValueError"),
        ({"height_cm": 16}, "ValueError"),
        ({"height_cm": True}, "ValueError"),
        ({"mrz": TAIWANESE}, "'mrz' is not known here"),
    ],
)
def test_wrong_fields_of_an_office_s_line(changed: dict[str, Any], says: str) -> None:
    assert application_of(FIELDS, Path(), "office").identity == Identity("A234567893", date(1990, 1, 1), "F")
    with pytest.raises(NotEnrolled, match=says):
        application_of({**FIELDS, **changed}, Path(), "office")
    with pytest.raises(NotEnrolled, match="'personal_number' is not known here"):
        application_of({"mrz": TAIWANESE, "personal_number": "A1"}, Path())


def test_a_file_of_an_office(tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text(json.dumps(FIELDS) + "\n" + json.dumps({"mrz": TAIWANESE}) + "\n")
    [(_, good), (_, bad)] = applications(tmp_path / "people.jsonl", "office")
    assert isinstance(good, Application) and good.origin == "office" and good.height_cm == 160
    assert isinstance(bad, NotEnrolled)


# -- the passport that is waited for (E6, E7) ----------------------------------------------------------------------


def waiting(register: Register, **changed: Any) -> int:
    given: dict[str, Any] = {"papers": (), "origin": "office", "enrolled_on": TODAY}
    return register.enrol(person(**{**given, **changed})).subject


def awaited(register: Register) -> list[int]:
    return [row[0] for row in register.db.conn.execute("SELECT subject FROM awaited")]


@pytest.mark.parametrize("days", [0, 1, 30])
def test_a_passport_in_time_binds_the_enrolment(register: Register, days: int) -> None:
    subject = waiting(register)
    assert awaited(register) == [subject]
    bound = register.received(subject, PASSPORT, TODAY + days * DAY, 30)
    assert bound == register.person(subject) and (bound.received_on, bound.papers) == (TODAY + days * DAY, (PASSPORT,))
    assert awaited(register) == []
    newest = register.newest()
    assert register.received(subject, PASSPORT, TODAY + days * DAY, 30) == bound and register.newest() == newest
    assert register.lapse(TODAY + 100 * DAY, 30) == Lapsed(0, 0, 0)
    assert register.enrol(person(personal_number=None)).subject == subject  # by the passport alone


def test_what_cannot_be_received(register: Register) -> None:
    subject = waiting(register)
    register.enrol(person(personal_number="B1", papers=(Paper("TWN", "2"),)))
    for paper, on, says in (
        (PASSPORT, TODAY + 31 * DAY, "more than 30 days"),
        (PASSPORT, TODAY - DAY, "enrolled after that day"),
        (Paper("TWN", "2"), TODAY, "leads to somebody else"),
    ):
        with pytest.raises(RegisterFault, match=says):
            register.received(subject, paper, on, 30)
        assert register.person(subject).papers == () and awaited(register) == [subject]
    with pytest.raises(RegisterFault, match="not enrolled at an office"):
        register.received(2, PASSPORT, TODAY, 30)
    register.received(subject, PASSPORT, TODAY + 31 * DAY, None)  # a policy that sets no end
    with pytest.raises(RegisterFault, match="received already"):
        register.received(subject, Paper("TWN", "3"), TODAY + 31 * DAY, 30)


def test_what_nobody_came_for_is_deleted(register: Register) -> None:
    """On the 31st day, not on the 30th; nothing is left but the number, and what a control is on."""
    first = waiting(register)
    wanted = waiting(register, personal_number="B1", flags=frozenset({"exit_ban"}))
    bound = waiting(register, personal_number="C1")
    register.received(bound, PASSPORT, TODAY + DAY, 30)
    later = waiting(register, personal_number="D1", enrolled_on=TODAY + DAY)
    counter = register.enrol(person(personal_number="E1", papers=(Paper("TWN", "5"),))).subject
    assert register.lapse(TODAY + 30 * DAY, 30) == Lapsed(0, 0, 0)
    assert register.lapse(TODAY + 31 * DAY, 30) == Lapsed(1, 1, 0)
    assert register.lapse(TODAY + 31 * DAY, 30) == Lapsed(0, 0, 0)
    assert [each.subject for each in register.people()] == [wanted, bound, later, counter]
    assert register.find(first) is None and register.by_personal_number("A234567893") is None
    left = register.person(wanted)
    assert left.flags == {"exit_ban"} and not left.has_biometrics and awaited(register) == [later]
    assert waiting(register) == counter + 1
    with pytest.raises(RegisterFault, match="not enrolled at an office"):
        register.received(wanted, Paper("TWN", "9"), TODAY, 30)


def test_a_damaged_row_keeps_no_other_enrolment_from_lapsing(register: Register) -> None:
    for number in ("A1", "B1"):
        waiting(register, personal_number=number)
    register.db.execute("UPDATE persons SET sealed = x'00' WHERE subject = 1")
    assert register.lapse(TODAY + 31 * DAY, 30) == Lapsed(1, 0, 1) and register.find(2) is None


def test_nothing_of_who_was_deleted_lies_in_the_file(tmp_path: Path, register: Register) -> None:
    waiting(register)
    sealed = register.db.conn.execute("SELECT sealed FROM persons").fetchone()[0]
    places = [row[0] for row in register.db.conn.execute("SELECT place FROM finding")]
    register.lapse(TODAY + 31 * DAY, 30)
    register.close()  # the last connection writes the log of the database back
    file = (tmp_path / "registers.db").read_bytes()
    assert not any(part in file for part in (sealed, *places)) and not list(tmp_path.glob("registers.db-*"))


# -- one person, enrolled at several places (E9) -------------------------------------------------------------------


def test_who_holds_a_passport_is_not_enrolled_at_an_office(register: Register) -> None:
    register.enrol(person())
    with pytest.raises(RegisterFault, match=r"holds a passport.*\(E2\)"):
        waiting(register)
    assert register.person(1).origin == "counter"


def test_a_counter_makes_an_office_s_enrolment_usable_at_once(register: Register) -> None:
    waiting(register)
    register.enrol(person(enrolled_on=TODAY + DAY))
    found = register.person(1)
    assert (found.origin, found.enrolled_on, found.papers) == ("counter", TODAY + DAY, (PASSPORT,))
    assert awaited(register) == []
    bound = waiting(register, personal_number="B1")
    register.received(bound, Paper("TWN", "2"), TODAY, 30)
    again = register.enrol(person(personal_number="B1", papers=(Paper("TWN", "2"),)))
    assert (again.origin, again.received_on) == ("counter", None)


def test_a_number_that_was_corrected_finds_nobody_any_more(register: Register) -> None:
    """And somebody else's enrolment under it is nobody's but theirs, also when the first one is deleted."""
    register.enrol(person(personal_number="WRONG1"))
    register.enrol(person(personal_number="A1"))
    assert register.by_personal_number("WRONG1") is None
    assert register.enrol(person(personal_number="WRONG1", papers=(Paper("TWN", "2"),))).subject == 2
    register.forget(1)
    found = register.by_personal_number("WRONG1")
    assert found is not None and found.subject == 2


def test_a_passport_that_is_merely_added_makes_no_counters_enrolment(register: Register) -> None:
    """Nobody was looked at: an office's enrolment that was not bound in time is not bound by it either."""
    waiting(register, usable_from=TODAY + 9 * DAY)
    register.enrol(person(face=None, face_model="", enrolled_on=TODAY + DAY))
    found = register.person(1)
    assert (found.origin, found.enrolled_on, found.received_on, found.papers) == ("office", TODAY, None, (PASSPORT,))
    assert found.usable_from == TODAY + 9 * DAY and awaited(register) == [1]
    assert register.lapse(TODAY + 31 * DAY, 30).deleted == 1


def test_who_comes_to_the_office_again_waits_anew(register: Register) -> None:
    waiting(register, height_cm=150)
    waiting(register, enrolled_on=TODAY + 20 * DAY)
    assert (register.person(1).enrolled_on, register.person(1).height_cm) == (TODAY + 20 * DAY, 150)
    assert register.lapse(TODAY + 31 * DAY, 30) == Lapsed(0, 0, 0)
    register.received(1, PASSPORT, TODAY + 50 * DAY, 30)
    renewed = register.enrol(person(papers=(Paper("TWN", "9"),), face=None, face_model=""))
    assert (renewed.received_on, renewed.origin) == (TODAY + 50 * DAY, "office")  # E9: nothing is to be done anew


def test_a_gate_s_enrolment_takes_no_counter_s_place() -> None:
    known = replace(person(), subject=1, enrolled_on=TODAY)
    assert merged(known, person(origin="gate", enrolled_on=TODAY + DAY)).origin == "counter"
    gate = merged(replace(known, origin="gate"), person(enrolled_on=TODAY + DAY))
    assert (gate.origin, gate.enrolled_on) == ("counter", TODAY + DAY)


def test_people_are_enrolled_at_places_that_there_are(register: Register) -> None:
    with pytest.raises(RegisterFault, match="not at moon"):
        register.enrol(person(origin="moon"))


def test_a_register_of_the_edition_before_opens_as_it_is(tmp_path: Path, register: Register) -> None:
    """Its rows have no such fields, and are not written anew for them."""
    first = register.enrol(person())
    assert b"origin" not in encode(first) and load(KINDS, loads(encode(first))) == first
    before = register.db.conn.execute("SELECT * FROM persons").fetchall()
    for table in ("awaited", "expected", "history"):
        register.db.conn.execute(f"DROP TABLE {table}")
    register.db.conn.execute("PRAGMA user_version = 2")
    register.close()
    again = Register(tmp_path / "registers.db", DATA_KEY)
    assert again.person(1) == first and again.db.conn.execute("SELECT * FROM persons").fetchall() == before
    assert again.newest() == 1 and waiting(again, personal_number="B1") == 2 and awaited(again) == [2]
    again.close()
    with sqlite3.connect(tmp_path / "registers.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
    db.close()


# -- by command ----------------------------------------------------------------------------------------------------


def passport(**changed: str) -> str:
    given = {"number": "300123456", "birth": "900101", "optional": "A234567893"}
    rest = {
        "issuer": "TWN",
        "nationality": "TWN",
        "sex": "F",
        "expiry": "310501",
        "surname": "CHEN",
        "given_names": "M",
    }
    return "\n".join(mrz.render("TD3", **{**rest, **given, **changed}))


@pytest.mark.parametrize(
    ("lines", "words", "days", "exit_code", "says"),
    [
        (passport(), [], 6, 2, "has not come"),
        (passport(birth="900102"), [], 5, 1, "another birth date or personal number"),
        (passport(optional="B123456780"), ["--subject", "1"], 5, 1, "another birth date or personal number"),
        (passport(optional="B123456780"), [], 5, 1, "nobody in the register"),
        (passport(optional=""), [], 5, 2, "name the person"),
        (passport(optional=""), ["--subject", "9"], 5, 1, "no subject 9"),
        (passport()[:-1] + "X", [], 5, 1, "machine readable zone"),
        (passport(), [], -1, 1, "subject 1: was enrolled after that day"),
        (passport(optional=""), ["--subject", "1"], 0, 0, "received on"),
        (passport(), [], 5, 0, "subject 1: bound"),
    ],
)
def test_whose_passport_was_received(
    tmp_path: Path, register: Register, rules: Rules, lines: str, words: list[str], days: int, exit_code: int, says: str
) -> None:
    """Enrolled five days ago, and received so many days later."""
    enrolled = rules.day(datetime.now(UTC)) - 5 * DAY
    waiting(register, enrolled_on=enrolled)
    (tmp_path / "data.key").write_bytes(DATA_KEY)
    (tmp_path / "data.key").chmod(0o600)
    where = ["--registers", str(tmp_path / "registers.db"), "--key", str(tmp_path / "data.key")]
    asked = ["received", "--mrz", "-", "--on", str(enrolled + days * DAY), *words, *where, "--policy", str(POLICY)]
    done = CliRunner().invoke(gated_hq, asked, input=lines)
    assert done.exit_code == exit_code and says in " ".join(done.output.split()), done.output
    assert "A234567893" not in done.output and "300123456" not in done.output
    assert register.person(1).papers == ((PASSPORT,) if exit_code == 0 else ())


def test_from_the_office_to_the_passport_by_command(tmp_path: Path) -> None:
    """Real pictures, the real networks, the shipped policy."""
    image = next((shared_data() / "faces" / "images").rglob("*.jpg"))
    assert CliRunner().invoke(gated_hq, ["keys", str(tmp_path / "keys")]).exit_code == 0
    where = ["--registers", str(tmp_path / "registers.db"), "--key", str(tmp_path / "keys" / "data.key")]
    where += ["--policy", str(POLICY)]

    def run(*words: str, **also: Any) -> Result:
        return CliRunner().invoke(gated_hq, [*words, *where], **also)

    identity = {"personal_number": "A234567893", "birth": "1990-01-01", "sex": "F", "surname": "CHENCANARY"}
    asked = ["enrol", "--office", "--photo", str(image), "--identity", "-"]
    done = run(*asked, "--height", "139", input=json.dumps(identity))
    assert done.exit_code == 1 and "not 140 cm tall" in done.output
    for wrong in ("[]", "{", json.dumps({**identity, "sex": "W"})):
        done = run(*asked, "--height", "139", input=wrong)
        assert done.exit_code == 2 and "--identity: " in done.output and "CANARY" not in done.output
    done = run(*asked, "--height", "152", "--json", input=json.dumps(identity))
    assert done.exit_code == 0 and json.loads(done.output)[0]["subject"] == 1, done.output

    other = mrz.render("TD3", issuer="TWN", number="300123456", nationality="TWN", birth="900102", sex="F",
                       expiry="310501", surname="CHEN", given_names="MEI", optional="A234567893")  # fmt: skip
    done = run("received", "--mrz", "-", input="\n".join(other))
    assert done.exit_code == 1 and "another birth date" in done.output
    future = (datetime.now(UTC) + timedelta(days=3)).date().isoformat()
    done = run("received", "--mrz", "-", "--on", future, input=TAIWANESE)
    assert done.exit_code == 2 and "has not come" in done.output
    done = run("received", "--mrz", "-", "--on", "2020-01-01", input=TAIWANESE)
    assert done.exit_code == 1 and "subject 1: was enrolled after that day" in done.output
    done = run("received", "--mrz", "-", "--json", input=TAIWANESE)
    assert done.exit_code == 0 and json.loads(done.output)["subject"] == 1, done.output
    assert run("lapse").output == "0 enrolments lapsed and were deleted\n"
    register = Register(tmp_path / "registers.db", (tmp_path / "keys" / "data.key").read_bytes())
    assert register.person(1).papers == (PASSPORT,)
    register.enrol(person(personal_number="B1", papers=(), origin="office", enrolled_on=TODAY - 31 * DAY))
    done = run("lapse", "--json")
    assert json.loads(done.output) == {"deleted": 1, "flagged": 0, "unreadable": 0}
    nobody = mrz.render("TD3", issuer="TWN", number="4", nationality="TWN", birth="900101", sex="F", expiry="310501",
                        surname="CHEN", given_names="MEI")  # fmt: skip
    assert "name the person" in run("received", "--mrz", "-", input="\n".join(nobody)).output
    assert "no subject 9" in run("received", "--mrz", "-", "--subject", "9", input="\n".join(nobody)).output
    done = run("enrol", "--office", "--photo", str(image), "--mrz", "-", input=TAIWANESE)
    assert done.exit_code == 2 and "give either --identity" in done.output
