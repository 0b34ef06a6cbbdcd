"""HQ's keys, the register of people, the counter and what a lane gets of it."""

import json
import sqlite3
import stat
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gated.biometrics.face import Embedding, Look, Threshold
from gated.hq import keys
from gated.hq.cli import gated_hq
from gated.hq.enrolment import Application, NotEnrolled, application_of, applications, person_of
from gated.hq.registers import Paper, PaperStatus, Person, Register, RegisterFault
from gated.icao import mrz
from tests.data import shared_data

DATA_KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
TODAY = date(2026, 11, 20)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TAIWANESE = "\n".join(
    mrz.render(
        "TD3",
        issuer="TWN",
        number="300123456",
        nationality="TWN",
        birth="900101",
        sex="F",
        expiry="310501",
        surname="CHEN",
        given_names="MEI LIN",
        optional="A234567893",
    )
)
SPECIMEN = "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<\nL898902C36UTO7408122F1204159ZE184226B<<<<<10"


class FixedEngine:
    """A face engine without networks: what it sees is given."""

    model = "fixed-1"
    threshold = Threshold("t", 0.5, 1e-3)
    weak: Threshold | None = None

    def __init__(self, advice: str | None = None) -> None:
        self.advice = advice

    def look(self, image: Any) -> Look:
        return Look(1, 0.9, self.advice is None, self.advice)

    def embed(self, image: Any, look: Look) -> Embedding:
        return np.full(128, 128**-0.5, np.float32)

    def score(self, embedding: Embedding, template: bytes) -> float:
        return float(embedding @ np.frombuffer(template, "<f4"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    import cv2

    path = tmp_path / "photo.png"
    assert cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path / "registers.db", DATA_KEY)


def person(**changed: Any) -> Person:
    given: dict[str, Any] = {
        "subject": 0,
        "category": "national",
        "birth": date(1990, 1, 1),
        "sex": "F",
        "surname": "CHENCANARY",
        "personal_number": "A234567893",
        "papers": (Paper("TWN", "300123456"),),
        "face": bytes(512),
        "face_model": "m",
    }
    return Person(**{**given, **changed})


# -- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_made_once_and_kept_secret(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    keys.make(folder)
    for file in keys.FILES:
        mode = stat.S_IMODE((folder / file.name).stat().st_mode)
        assert mode == (0o600 if file.secret else 0o644) and (folder / file.name).stat().st_size == 32
    before = {file.name: (folder / file.name).read_bytes() for file in keys.FILES}
    assert len(set(before.values())) == len(before)
    with pytest.raises(keys.KeyFault, match="never overwritten"):
        keys.make(folder)
    (folder / "hq.key").unlink()
    with pytest.raises(keys.KeyFault, match=r"hq\.pub"):
        keys.make(folder)
    assert not (folder / "hq.key").exists()


def test_a_credential_of_systemd_is_taken_whatever_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where credentials lie in a tmpfs (systemd 254 on), an access list gives them to the service: mode 0440."""
    (tmp_path / "gated-hq-ingest.service").mkdir()
    key = tmp_path / "gated-hq-ingest.service" / "hq.key"
    key.write_bytes(bytes(32))
    key.chmod(0o440)
    with pytest.raises(keys.KeyFault):
        keys.secret(key)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key.parent))
    assert keys.secret(key) == bytes(32)
    (tmp_path / "other.key").write_bytes(bytes(32))
    (tmp_path / "other.key").chmod(0o440)
    with pytest.raises(keys.KeyFault):
        keys.secret(tmp_path / "other.key")


def test_a_secret_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.make(tmp_path / "k")
    key = tmp_path / "k" / "data.key"
    assert len(keys.secret(key)) == 32
    key.chmod(0o640)
    with pytest.raises(keys.KeyFault, match="chmod 600"):
        keys.secret(key)
    with pytest.raises(keys.KeyFault, match="no such file"):
        keys.secret(tmp_path / "nothing")
    key.write_bytes(b"short")
    with pytest.raises(keys.KeyFault, match="5 bytes"):
        keys.public(key)


# -- the register ----------------------------------------------------------------------------------------------------


def test_a_renewed_passport_is_the_same_person(register: Register) -> None:
    first = register.enrol(person())
    again = register.enrol(person(papers=(Paper("TWN", "399999999"),), face=None, face_model=""))
    assert again.subject == first.subject == 1
    assert again.papers == (Paper("TWN", "300123456"), Paper("TWN", "399999999"))
    assert again.face == first.face and again.face_model == "m"
    other = register.enrol(person(personal_number=None, papers=(Paper("UTO", "1"),)))
    assert other.subject == 2
    assert [p.subject for p in register.people()] == [1, 2]


def test_a_document_of_one_and_a_number_of_another_is_for_a_person_to_look_at(register: Register) -> None:
    register.enrol(person())
    register.enrol(person(personal_number="B123456780", papers=(Paper("UTO", "1"),)))
    with pytest.raises(RegisterFault, match="2 people"):
        register.enrol(person(papers=(Paper("UTO", "1"),)))
    assert len(list(register.people())) == 2


def test_the_file_tells_nothing_and_another_key_opens_nothing(tmp_path: Path, register: Register) -> None:
    register.enrol(person())
    register.set_status(PaperStatus(Paper("UTO", "LOSTCANARY"), frozenset({"lost"})))
    register.close()
    found = b"".join(file.read_bytes() for file in tmp_path.glob("registers.db*"))
    assert b"CANARY" not in found and b"A234567893" not in found and b"national" not in found
    with pytest.raises(RegisterFault, match="another data key"):
        Register(tmp_path / "registers.db", OTHER_KEY)


def test_a_row_that_was_moved_does_not_open(tmp_path: Path, register: Register) -> None:
    register.enrol(person())
    register.enrol(person(personal_number=None, papers=(Paper("UTO", "1"),)))
    db = sqlite3.connect(tmp_path / "registers.db")
    with db:
        db.execute("UPDATE persons SET sealed = (SELECT sealed FROM persons WHERE subject = 1) WHERE subject = 2")
    db.close()
    with pytest.raises(RegisterFault, match="cannot be read"):
        register.person(2)


# -- the counter -----------------------------------------------------------------------------------------------------


def test_a_passport_and_a_photograph_become_a_person(photo: Path) -> None:
    made = person_of(Application(TAIWANESE, photo), FixedEngine(), TODAY)
    assert made.papers == (Paper("TWN", "300123456"),) and made.personal_number == "A234567893"
    assert (made.surname, made.birth, made.sex) == ("CHEN", date(1990, 1, 1), "F")
    assert made.face is not None and len(made.face) == 512 and made.face_model == "fixed-1"


def test_what_cannot_be_enrolled_says_why_without_anybodys_data(photo: Path, tmp_path: Path) -> None:
    cases = [
        (Application(SPECIMEN[:-1] + "4", photo), FixedEngine(), "machine readable zone"),
        (Application(SPECIMEN, photo), FixedEngine("uncover_face"), "uncover_face"),
        (Application(SPECIMEN, tmp_path / "none.jpg"), FixedEngine(), "no such file"),
        (Application(SPECIMEN, Path(__file__)), FixedEngine(), "is no picture"),
    ]
    for application, engine, why in cases:
        with pytest.raises(NotEnrolled, match=why) as refused:
            person_of(application, engine, TODAY)
        assert "ERIKSSON" not in str(refused.value) and "L898902C" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [{}, {"mrz": 5}, {"mrz": "x", "colour": 1}, {"mrz": "x", "birth": "soon"}, {"mrz": "x", "permits": [{}]}]
    + [{"mrz": "x", "photo": photo} for photo in ("a\0b", "\ud800", 5)],
)
def test_wrong_fields_of_an_application(fields: dict[str, Any]) -> None:
    with pytest.raises(NotEnrolled):
        application_of(fields, Path())


@pytest.mark.parametrize("line", ["{", "[]", "7", "1" * 5000, "[" * 100_000])
def test_a_line_that_is_no_application_is_told_by_its_number(tmp_path: Path, line: str) -> None:
    good = json.dumps({"mrz": SPECIMEN})
    (tmp_path / "people.jsonl").write_text(f"{good}\n\n{line}\n{good}\n")
    found = applications(tmp_path / "people.jsonl")
    assert [(number, type(application)) for number, application in found] == [
        (1, Application),
        (3, NotEnrolled),
        (4, Application),
    ]


# -- what is changed, and the log of it -------------------------------------------------------------------------------


def log_of(register: Register, after: int = 0, **urgent: bool) -> list[int | bytes]:
    return [change.what for change in register.changes(after, 100, **urgent)]


def test_flags_are_set_and_lifted(register: Register) -> None:
    register.enrol(person())
    assert register.add_flags(1, {"wanted", "watch"}) == {"wanted", "watch"}
    assert register.lift_flags(1, {"watch", "exit_ban"}) == {"wanted"}
    assert register.person(1).flags == {"wanted"} and register.lift_flags(1) == frozenset()
    paper = Paper("UTO", "X1")
    assert register.add_status(paper, {"lost"}) == {"lost"}
    assert register.add_status(paper, {"stolen"}) == {"lost", "stolen"}
    assert [status.flags for status in register.statuses()] == [{"lost", "stolen"}]
    assert register.lift_status(paper, {"lost"}) == {"stolen"} and register.lift_status(paper) == frozenset()
    assert list(register.statuses()) == []
    with pytest.raises(RegisterFault, match="no subject 9"):
        register.add_flags(9, {"wanted"})


def test_the_log_has_of_everybody_the_newest_change_alone(register: Register) -> None:
    for n in (1, 2, 3):
        register.enrol(person(personal_number=f"A{n}", papers=(Paper("UTO", f"{n}"),)))
    assert log_of(register) == [1, 2, 3]
    newest = register.newest()
    register.add_flags(1, {"wanted"})
    register.set_status(PaperStatus(Paper("UTO", "X1"), frozenset({"lost"})))
    found = log_of(register)
    assert found[:3] == [2, 3, 1] and log_of(register, newest) == found[2:] and register.newest() == newest + 2
    place = found[3]
    assert isinstance(place, bytes) and register.status(place).flags == {"lost"}
    register.lift_status(Paper("UTO", "X1"))
    assert log_of(register, register.newest() - 1) == [place] and register.status(place).flags == frozenset()
    before = register.newest()
    register.add_flags(1, {"wanted"})  # it has it already
    register.lift_status(Paper("UTO", "X1"))
    assert register.newest() == before


def test_what_was_urgent_stays_urgent_whatever_comes_after_it(register: Register) -> None:
    for n in (1, 2):
        register.enrol(person(personal_number=f"A{n}", papers=(Paper("UTO", f"{n}"),)))
    assert register.newest(urgent=True) == 0 and log_of(register, urgent=True) == []
    register.add_flags(1, {"wanted"}, urgent=True)
    urgent = register.newest(urgent=True)
    register.add_flags(2, {"watch"})
    register.add_flags(1, {"watch"})
    assert log_of(register, urgent - 1, urgent=True) == [1] and log_of(register, urgent, urgent=True) == []


def test_what_fails_leaves_no_trace_in_the_log(register: Register) -> None:
    register.enrol(person())
    register.enrol(person(personal_number="B1", papers=(Paper("UTO", "1"),)))
    before = register.newest()
    with pytest.raises(RegisterFault, match="2 people"):
        register.enrol(person(papers=(Paper("UTO", "1"),)), urgent=True)
    with pytest.raises(RegisterFault, match="somebody else"):
        register.set_papers(1, (Paper("UTO", "1"),))
    assert register.newest() == before and register.person(1).papers == (Paper("TWN", "300123456"),)


def test_a_document_that_was_taken_away_finds_nobody(register: Register) -> None:
    register.enrol(person(papers=(Paper("TWN", "300123456"), Paper("TWN", "2"))))
    assert register.set_papers(1, (Paper("TWN", "2"),)).papers == (Paper("TWN", "2"),)
    assert register.enrol(person(personal_number=None)).subject == 2
    assert register.enrol(person(personal_number=None, papers=(Paper("TWN", "2"),))).subject == 1


def test_two_writers_wait_for_each_other(tmp_path: Path, register: Register) -> None:
    """The desk that bans and the counter that enrols are two processes."""
    register.enrol(person())
    names = "abcdefghijklmnopqrstuvwxyz"
    thread = threading.Thread(target=ban, args=(tmp_path, names.upper()))
    thread.start()
    ban(tmp_path, names)
    thread.join()
    assert register.person(1).flags == {*names, *names.upper()} and register.newest() == 53


def ban(folder: Path, names: str) -> None:
    desk = Register(folder / "registers.db", DATA_KEY)
    for name in names:
        desk.add_flags(1, {name})
    desk.close()


def test_a_register_without_a_log_gets_everybody_into_one(tmp_path: Path, register: Register) -> None:
    for n in (1, 2):
        register.enrol(person(personal_number=f"A{n}", papers=(Paper("UTO", f"{n}"),)))
    register.set_status(PaperStatus(Paper("UTO", "X1"), frozenset({"lost"})))
    whats = log_of(register)
    with register.db.conn as connection:
        connection.execute("DROP TABLE changes")
        connection.execute("PRAGMA user_version = 1")
    register.close()
    again = Register(tmp_path / "registers.db", DATA_KEY)
    assert log_of(again) == whats and again.newest() == 3 and again.newest(urgent=True) == 0
    again.add_flags(1, {"wanted"}, urgent=True)
    assert log_of(again, 3) == [1]
    again.close()
    assert log_of(Register(tmp_path / "registers.db", DATA_KEY), 3) == [1]


# -- the command -------------------------------------------------------------------------------------------------------


def test_from_photograph_to_register_by_command(tmp_path: Path) -> None:
    """Real pictures, the real networks."""
    images = sorted((shared_data() / "faces" / "images").rglob("*.jpg"))
    run = CliRunner()
    assert run.invoke(gated_hq, ["keys", str(tmp_path / "keys")]).exit_code == 0
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no picture")
    lines = [{"mrz": TAIWANESE.split("\n"), "photo": str(image)} for image in images[:1]]
    lines += [{"mrz": SPECIMEN, "photo": "broken.jpg"}]
    (folder / "people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    where = ["--registers", str(tmp_path / "registers.db"), "--key", str(tmp_path / "keys" / "data.key")]
    done = run.invoke(gated_hq, ["enrol", *where, "--file", str(folder / "people.jsonl"), "--json"])
    assert done.exit_code == 1, done.output
    rows = json.loads(done.output[: done.output.rindex("]") + 1])
    assert rows[0]["subject"] == 1 and "is no picture" in rows[1]["why"]
    register = Register(tmp_path / "registers.db", (tmp_path / "keys" / "data.key").read_bytes())
    found = register.person(1)
    assert found.personal_number == "A234567893" and found.face is not None and len(found.face) == 512
