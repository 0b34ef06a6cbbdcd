"""Fingers at HQ's counter: which are taken (E3, E4), what is kept of them, and that the lane gets what was enrolled."""

import json
import math
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError, OnnxFingerEngine, PrintLook
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.prints import read_print
from gated.biometrics.template import FingerTemplate, Format, View, decode, encode
from gated.hq.cli import gated_hq
from gated.hq.enrolment import Application, NotEnrolled, application_of, applications, person_of
from gated.hq.fingers import FingerFile, FingersRefused, Offered, choose, enrolled
from gated.hq.registers import EnrolledFinger, Paper, Person, Register, RegisterFault
from gated.hq.sealing import person_row
from gated.icao.fingers import ORDER, Finger
from gated.wire.codec import dump, dumps
from gated.wire.codec import encode as encode_row
from gated.wire.rows import PEOPLE, of_subject
from gated.wire.seal import NONCE_BYTES, SealKey, derived, padded
from tests.canaries import Canary
from tests.canaries import found as canaries_in
from tests.data import shared_data
from tests.hq_rig import Hq
from tests.networks import networks
from tests.test_hq_registers import DATA_KEY, NOW, SPECIMEN, TAIWANESE, TODAY, FixedEngine, person

SHORT = {"".join(word[0] for word in finger.value.split("_")): finger for finger in ORDER}
"""ri: right index, lt: left thumb, rr: right ring, rl: right little ..."""
ALL_OF = {hand: [finger for finger in ORDER if finger.value.startswith(hand)] for hand in ("right", "left")}


def minutiae_of(number: int) -> Minutiae:
    """The same for the same number, without anything in common for others."""
    random = np.random.default_rng(number)
    return Minutiae(
        x=random.integers(0, 200, 40).astype(np.float32),
        y=random.integers(0, 200, 40).astype(np.float32),
        angle=(random.integers(0, 128, 40) * (2 * math.pi / 128)).astype(np.float32),
        kind=np.ones(40, np.uint8),
        quality=np.full(40, 60, np.uint8),
        width=200,
        height=200,
    )


class FixedFingers:
    """An engine without a network: the first two pixels of a picture are whose finger it is, and its quality."""

    model = "fixed-fingers"
    threshold = Threshold("t", 0.5, 1e-3)

    def look(self, image: Any, ppi: float) -> PrintLook:
        return PrintLook(int(image[0, 1]), True)

    def extract(self, image: Any, ppi: float) -> Minutiae:
        if image[0, 0] == 255:
            raise FingerError("no ridges are found in the picture")
        return minutiae_of(int(image[0, 0]))

    def score(self, minutiae: Minutiae, template: bytes) -> float:
        view = decode(template).views[0].minutiae
        return float(len(view) == len(minutiae) and np.array_equal(view.x, minutiae.x))


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[int, int], Path]:
    """A picture of finger `number` in `quality`, as a file."""

    def made(number: int, quality: int) -> Path:
        image = np.full((64, 64), 128, np.uint8)
        image[0, :2] = number, quality
        path = tmp_path / f"finger-{number}-{quality}.png"
        assert cv2.imwrite(str(path), image)
        return path

    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    assert cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


def image(path: Path) -> Offered:
    return Offered((FingerFile(path),))


def taken(fingers: dict[Finger, Offered], with_face: bool = True) -> list[str]:
    return [finger.position for finger in enrolled(fingers, FixedFingers(), with_face)]


# -- which fingers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "missing", "chosen"),
    [
        # both index fingers, whatever else is there
        ("ri30 li30", "", "ri li"),
        ("li99 ri31", "", "ri li"),
        ("ri60 li60 rt99 lt99", "", "ri li"),
        ("ri60 li60 rt99", "rm rr", "ri li"),
        # hands may differ
        ("rt50 li50", "ri", "rt li"),
        ("ri50 lt50", "li", "ri lt"),
        ("rm50 lt50", "ri rt li", "rm lt"),
        ("rl10 lr10", "ri rt rm rr li lt lm", "rl lr"),
        # the order of a hand: index, thumb, middle, ring, little
        ("rt40 rm40 li40", "ri", "rt li"),
        ("rm40 rr40 li40", "ri rt", "rm li"),
        ("rr40 rl40 li40", "ri rt rm", "rr li"),
        ("rl40 li40", "ri rt rm rr", "rl li"),
        # the floors: 30 thumb and index, 20 middle, 10 ring and little
        ("ri29 rt30 li30", "", "rt li"),
        ("ri29 rt29 rm20 li30", "", "rm li"),
        ("ri29 rt29 rm19 rr10 li30", "", "rr li"),
        ("ri29 rt29 rm19 rr9 rl10 li30", "", "rl li"),
        ("ri29 rt29 rm19 rr9 rl9 li30", "", "li"),
        ("ri29 li29 rt30 lt30", "", "rt lt"),
        # unclear and missing mix
        ("ri10 rm25 li40", "rt", "rm li"),
        ("li0 lm20 ri40", "lt", "ri lm"),
        # a finger is not passed over without a word
        ("rt90 li40", "", "li"),
        ("ri10 rm90 li40", "", "li"),
        ("ri40", "", "ri"),
        ("", "", ""),
        # a hand without fingers; a missing finger is not taken even if something was presented as it
        ("li40", "ri rt rm rr rl", "li"),
        ("ri90 rt40 li40", "ri", "rt li"),
        # a quality that is not told is taken as clear
        ("ri? li?", "", "ri li"),
        ("ri10 rt? li?", "", "rt li"),
    ],
)
def test_the_order_of_e4(offered: str, missing: str, chosen: str) -> None:
    qualities = {SHORT[word[:2]]: None if word[2:] == "?" else int(word[2:]) for word in offered.split()}
    absent = {SHORT[word] for word in missing.split()}
    assert choose(qualities, absent) == tuple(SHORT[word] for word in chosen.split())


def test_at_most_one_finger_a_hand_and_none_below_its_floor() -> None:
    """Every assignment of clear, unclear, missing and not presented to the ten fingers that differs in one hand."""
    floors = {"thumb": 30, "index": 30, "middle": 20, "ring": 10, "little": 10}
    right = ALL_OF["right"]
    for number in range(4**5):
        states = [number // 4**place % 4 for place in range(5)]
        told = {f: floors[f.value.split("_")[1]] - (s == 1) for f, s in zip(right, states, strict=True) if s < 2}
        gone = {f for f, s in zip(right, states, strict=True) if s == 2}
        stop = next((place for place, state in enumerate(states) if state in (0, 3)), None)
        wanted = () if stop is None or states[stop] == 3 else (right[stop],)
        assert choose(told, gone) == wanted, states


@pytest.mark.parametrize(
    ("offered", "missing", "with_face", "says"),
    [
        (
            "ri29 li50",
            "",
            True,
            "right_index: quality 29, at least 30 is needed: take it again, or present right_thumb",
        ),
        ("ri50 lm9", "li lt", True, "left_middle: quality 9, at least 20 is needed: take it again, or present left_r"),
        ("ri50", "", True, "left_index: present it, or mark it as amputated or bandaged or unreadable"),
        ("ri50 lt50", "", True, "left_index: present it"),
        ("li50", "ri", True, "right_thumb: present it"),
        ("ri9 rt9 rm9 rr9 rl9 li50", "", True, "right_little: quality 9, at least 10 is needed: .* mark as unreadable"),
        (
            "li50",
            "ri rt rm rr rl",
            False,
            "without a face a finger of each hand is needed, and the right hand has none",
        ),
        ("", "ri rt rm rr rl li lt lm lr ll", True, "every finger is marked as missing: enrol the face alone"),
        ("", "ri rt rm rr rl li lt lm lr ll", False, "without a face"),
    ],
)
def test_who_chooses_fingers_needs_them_in_quality(
    offered: str, missing: str, with_face: bool, says: str, picture: Callable[[int, int], Path]
) -> None:
    """E3, E4: the counter is told which finger and what to do."""
    offers = {SHORT[w[:2]]: image(picture(n, int(w[2:]))) for n, w in enumerate(offered.split())}
    offers |= {SHORT[word]: Offered(missing="bandaged") for word in missing.split()}
    with pytest.raises(FingersRefused, match=says):
        enrolled(offers, FixedFingers(), with_face)


def test_with_a_facial_injury_both_index_fingers_alone(picture: Callable[[int, int], Path]) -> None:
    """E4: no photograph; and a hand without fingers is enough beside a face, and only there."""
    both = {SHORT["ri"]: image(picture(1, 80)), SHORT["li"]: image(picture(2, 80))}
    made = person_of(Application(SPECIMEN, None, fingers=both), FixedEngine(), TODAY, FixedFingers())
    assert made.face is None and [f.position for f in made.fingers] == ["right_index", "left_index"]
    one = {SHORT["ri"]: image(picture(1, 80))} | {f: Offered(missing="amputated") for f in ALL_OF["left"]}
    assert taken(one, with_face=True) == ["right_index"]
    with pytest.raises(NotEnrolled, match="the left hand has none"):
        person_of(Application(SPECIMEN, None, fingers=one), FixedEngine(), TODAY, FixedFingers())


def test_an_unclear_picture_is_passed_over_whatever_it_shows(picture: Callable[[int, int], Path]) -> None:
    """Number 255 has no ridges at all; the left hand comes first in the file and second in the register."""
    offers = {
        SHORT["li"]: image(picture(2, 80)),
        SHORT["ri"]: image(picture(255, 10)),
        SHORT["rt"]: image(picture(1, 80)),
    }
    assert taken(offers) == ["left_index", "right_thumb"]
    assert taken({SHORT["li"]: image(picture(2, 80)), SHORT["ri"]: image(picture(1, 80))}) == [
        "right_index",
        "left_index",
    ]


def test_a_bad_photograph_and_good_fingers_are_no_enrolment(photo: Path, picture: Callable[[int, int], Path]) -> None:
    fingers = {SHORT["ri"]: image(picture(1, 80)), SHORT["li"]: image(picture(2, 80))}
    with pytest.raises(NotEnrolled, match="uncover_face"):
        person_of(Application(SPECIMEN, photo, fingers=fingers), FixedEngine("uncover_face"), TODAY, FixedFingers())


@pytest.mark.parametrize(("one", "other"), [("ri", "li"), ("ri", "rt"), ("lt", "rl")])
def test_one_finger_in_two_positions_is_refused(one: str, other: str, picture: Callable[[int, int], Path]) -> None:
    """Also where only one of the two would be enrolled: then one of the labels is wrong."""
    offers = {finger: image(picture(number, 80)) for number, finger in enumerate(ORDER)}
    offers[SHORT[other]] = offers[SHORT[one]]
    with pytest.raises(FingersRefused, match="are the same finger: present both again") as refused:
        enrolled(offers, FixedFingers(), True)
    assert SHORT[one].value in str(refused.value) and SHORT[other].value in str(refused.value)


# -- templates that come without a picture -----------------------------------------------------------------------------


def record(number: int, finger: Finger | None, quality: int = 80, format: Format = Format.ISO) -> FingerTemplate:
    return FingerTemplate.of(minutiae_of(number), finger, quality, format)


def with_view(template: FingerTemplate, **changed: Any) -> FingerTemplate:
    views: tuple[View, ...] = tuple(replace(view, **changed) for view in template.views)
    return FingerTemplate(template.header, views)


def standard(path: Path, template: FingerTemplate | bytes) -> Offered:
    path.write_bytes(template if isinstance(template, bytes) else encode(template))
    return Offered((FingerFile(path, "iso19794-2"),))


def test_iso_and_ansi_templates_become_one_form(tmp_path: Path) -> None:
    """ANSI 378 is converted; what a writer added is left out, and which finger it is, put in."""
    block = b"\x00\x01\x00\x08VENDO"[:8]
    offers = {
        SHORT["ri"]: standard(tmp_path / "a.fmr", record(1, SHORT["ri"], 80, Format.ANSI)),
        SHORT["li"]: standard(tmp_path / "b.fmr", with_view(record(2, None, 70), extended=block)),
    }
    right, left = enrolled(offers, FixedFingers(), True)
    assert (right.format, right.quality, left.quality) == ("iso19794-2", 80, 70)
    for row, finger, number in ((right, SHORT["ri"], 1), (left, SHORT["li"], 2)):
        (view,) = decode(row.template).views
        assert view.header.format is Format.ISO and view.finger is finger and view.extended == b""
        assert np.array_equal(view.minutiae.x, minutiae_of(number).x)


def test_of_several_impressions_the_best_of_the_finger(tmp_path: Path) -> None:
    views = [record(n, finger, quality).views[0] for n, finger, quality in (
        (1, SHORT["ri"], 40), (2, SHORT["ri"], 90), (3, SHORT["li"], 99),
    )]  # fmt: skip
    many = FingerTemplate(views[0].header, tuple(views))
    offers = {SHORT["ri"]: standard(tmp_path / "a.fmr", many), SHORT["li"]: standard(tmp_path / "b.fmr", many)}
    right, left = enrolled(offers, FixedFingers(), True)
    assert (right.quality, left.quality) == (90, 99)
    assert np.array_equal(decode(right.template).views[0].minutiae.x, minutiae_of(2).x)


def test_a_template_s_quality_counts_where_it_is_told(tmp_path: Path) -> None:
    left = standard(tmp_path / "l.fmr", record(2, SHORT["li"]))
    poor = standard(tmp_path / "p.fmr", record(1, SHORT["ri"], 12))
    with pytest.raises(FingersRefused, match="right_index: quality 12"):
        enrolled({SHORT["ri"]: poor, SHORT["li"]: left}, FixedFingers(), True)
    untold = standard(tmp_path / "u.fmr", with_view(record(1, SHORT["ri"]), quality=254))
    assert enrolled({SHORT["ri"]: untold, SHORT["li"]: left}, FixedFingers(), True)[0].quality is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "a template has 1 to 8192 bytes"),
        (bytes(8193), "a template has 1 to 8192 bytes"),
        (b"no template", "record at byte"),
        (encode(record(1, SHORT["li"])), "it is of another finger"),
        (encode(record(1, SHORT["ri"]))[:-1], "record length at byte 8"),
    ],
)
def test_a_template_that_cannot_be_right(tmp_path: Path, content: bytes, says: str) -> None:
    offers = {SHORT["ri"]: standard(tmp_path / "r.fmr", content)}
    with pytest.raises(FingersRefused, match=says) as refused:
        enrolled(offers, FixedFingers(), True)
    assert "right_index: " in str(refused.value) and "r.fmr" in str(refused.value)


def test_a_template_of_a_few_minutiae_recognises_nobody(tmp_path: Path) -> None:
    whole = record(1, SHORT["ri"])
    few = with_view(whole, points=whole.views[0].points[:11])
    with pytest.raises(FingersRefused, match="11 minutiae, at least 12"):
        enrolled({SHORT["ri"]: standard(tmp_path / "r.fmr", few)}, FixedFingers(), True)


def test_a_sensor_s_own_template_is_kept_as_it_is(tmp_path: Path, picture: Callable[[int, int], Path]) -> None:
    """Beside a picture, or alone: then no engine is needed."""
    raw = {"ri": os.urandom(1536), "li": os.urandom(512)}
    for name, content in raw.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    own = {SHORT[name]: FingerFile(tmp_path / f"{name}.bin", "zfm") for name in raw}
    alone = enrolled({finger: Offered((file,)) for finger, file in own.items()}, None, False)
    assert [(f.position, f.format, f.template, f.quality) for f in alone] == [
        ("right_index", "zfm", raw["ri"], None),
        ("left_index", "zfm", raw["li"], None),
    ]
    offers = {
        SHORT["ri"]: Offered((FingerFile(picture(1, 77)), own[SHORT["ri"]])),
        SHORT["li"]: Offered((own[SHORT["li"]], FingerFile(picture(2, 66)))),
    }
    both = enrolled(offers, FixedFingers(), True)
    assert [(f.position, f.format, f.quality) for f in both] == [
        ("right_index", "iso19794-2", 77),
        ("right_index", "zfm", None),
        ("left_index", "zfm", None),
        ("left_index", "iso19794-2", 66),
    ]
    twice = {SHORT["ri"]: Offered((own[SHORT["ri"]],)), SHORT["li"]: Offered((own[SHORT["ri"]],))}
    with pytest.raises(FingersRefused, match="are the same finger"):
        enrolled(twice, None, True)


def test_two_files_for_one_template(picture: Callable[[int, int], Path]) -> None:
    offers = {SHORT["ri"]: Offered((FingerFile(picture(1, 80)), FingerFile(picture(2, 80))))}
    with pytest.raises(FingersRefused, match="right_index: two files that become one iso19794-2 template"):
        enrolled(offers, FixedFingers(), True)


def test_more_templates_than_a_lane_holds(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"right")
    (tmp_path / "l").write_bytes(b"left")
    offers = {
        SHORT[f"{hand}i"]: Offered(tuple(FingerFile(tmp_path / hand, f"sensor-{n}") for n in range(6))) for hand in "rl"
    }
    with pytest.raises(FingersRefused, match="12 templates of one person: at most 10"):
        enrolled(offers, None, True)


# -- files of applications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingers", "says"),
    [
        ([], "fingers is an object of positions"),
        ({"index": {"image": "x"}}, "there is no such finger; there are right_index, left_index"),
        ({"right_index": {}}, "right_index: an image"),
        ({"right_index": "x.png"}, "right_index: an image"),
        ({"right_index": []}, "right_index: no file is named"),
        ({"right_index": {"image": 5}}, "right_index: an image"),
        ({"right_index": {"image": "x", "template": "y"}}, "right_index: an image"),
        ({"right_index": {"image": "x", "colour": 1}}, "right_index: an image"),
        ({"right_index": {"image": "x\0y"}}, "right_index: an image"),
        ({"right_index": {"image": "x", "ppi": "500"}}, "right_index: ppi is a number"),
        ({"right_index": {"image": "x", "ppi": True}}, "right_index: ppi is a number"),
        ({"right_index": {"template": "x", "format": "../ZFM"}}, "right_index: format is iso19794-2 or the name"),
        ({"right_index": {"template": "x", "ppi": 500}}, "right_index: an image"),
        ({"right_index": {"missing": "lost"}}, "right_index: missing is one of amputated, bandaged, unreadable"),
        ({"right_index": {"missing": ["bandaged"]}}, "right_index: missing is one of"),
        ({"right_index": {"missing": "bandaged", "image": "x"}}, "right_index: either missing or a file"),
    ],
)
def test_what_a_line_says_wrongly_of_fingers(fingers: Any, says: str) -> None:
    with pytest.raises(NotEnrolled, match=says):
        application_of({"mrz": SPECIMEN, "fingers": fingers}, Path())


def test_bad_files_are_told_by_line(tmp_path: Path, picture: Callable[[int, int], Path]) -> None:
    """The others are enrolled; and a picture without ridges, a file that is none and one that is not there say so."""
    good, left = {"image": picture(1, 80).name}, {"image": picture(2, 80).name}
    (tmp_path / "text.png").write_text("no picture")
    rights: list[Any] = [good, {"image": "none.png"}, {"image": "text.png"}, 7, {"image": picture(255, 80).name}]
    lines = [{"mrz": SPECIMEN, "fingers": {"right_index": right, "left_index": left}} for right in rights]
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    told: dict[int, str] = {}
    for number, application in applications(tmp_path / "people.jsonl"):
        try:
            if isinstance(application, NotEnrolled):
                raise application
            person_of(application, FixedEngine(), TODAY, FixedFingers())
            told[number] = "enrolled"
        except NotEnrolled as bad:
            told[number] = str(bad)
            assert "ERIKSSON" not in str(bad)
    assert told[1] == "enrolled"
    assert "none.png: the file cannot be read" in told[2] and told[2].startswith("right_index: ")
    assert "text.png: no picture that is read" in told[3]
    assert "right_index: an image" in told[4]
    assert "no ridges are found" in told[5]


def test_the_resolution_that_is_told_is_the_one_that_counts(picture: Callable[[int, int], Path]) -> None:
    seen = []

    class Measuring(FixedFingers):
        def look(self, image: Any, ppi: float) -> PrintLook:
            seen.append(ppi)
            return super().look(image, ppi)

    offers = {
        SHORT["ri"]: Offered((FingerFile(picture(1, 80), ppi=1000),)),
        SHORT["li"]: image(picture(2, 80)),
    }
    enrolled(offers, Measuring(), True)
    assert seen == [1000.0, 500.0]
    with pytest.raises(FingersRefused, match="250 to 1200 pixels an inch"):
        enrolled({SHORT["ri"]: Offered((FingerFile(picture(1, 80), ppi=72),))}, FixedFingers(), True)


# -- the register and what a lane gets ---------------------------------------------------------------------------------

FINGERS = (
    EnrolledFinger("right_index", "iso19794-2", b"TEMPLATECANARY-RIGHT", 80),
    EnrolledFinger("left_thumb", "iso19794-2", b"TEMPLATECANARY-LEFT!", 60),
    EnrolledFinger("left_thumb", "zfm", b"TEMPLATECANARY-ZFM", None),
)


def test_people_keep_their_fingers_and_new_ones_replace_all(tmp_path: Path) -> None:
    register = Register(tmp_path / "registers.db", DATA_KEY)
    register.enrol(person(fingers=FINGERS))
    renewed = register.enrol(person(papers=(Paper("TWN", "399999999"),), face=None, face_model=""))
    assert renewed.fingers == FINGERS and register.person(1).fingers == FINGERS
    assert register.enrol(person(fingers=FINGERS[:1])).fingers == FINGERS[:1]


def test_no_file_shows_a_finger(tmp_path: Path) -> None:
    """Sealed like the rest; a plain copy of them is found, or finding nothing would prove nothing."""
    (tmp_path / "hq").mkdir()
    register = Register(tmp_path / "hq" / "registers.db", DATA_KEY)
    register.enrol(person(fingers=FINGERS))
    Hq(tmp_path / "hq").publisher().round(NOW)
    register.close()
    canaries = [Canary(f"template {n}", finger.template) for n, finger in enumerate(FINGERS)]
    canaries += [Canary("position", "right_index"), Canary("name", "CHENCANARY"), Canary("format", "iso19794-2")]
    assert canaries_in(canaries, tmp_path) == []
    (tmp_path / "control").write_bytes(dumps(dump(person(fingers=FINGERS))))
    assert {hit.canary for hit in canaries_in(canaries, tmp_path)} == {canary.name for canary in canaries}
    assert "CANARY" not in repr(person(fingers=FINGERS)) and "index" not in repr(person(fingers=FINGERS))


def test_the_lane_gets_position_format_and_template(tmp_path: Path) -> None:
    hq = Hq(tmp_path)
    hq.register.enrol(person(fingers=FINGERS))
    hq.publisher().round(NOW)
    found = hq.row(PEOPLE, *of_subject(1))
    assert [(f.position, f.format, f.template) for f in found.fingers] == [
        (f.position, f.format, f.template) for f in FINGERS
    ]


def as_it_was(register: Register, people: list[Person]) -> None:
    """A register of edition 0: the same rows without fingers."""
    key = SealKey(derived(DATA_KEY, "register rows"))
    with register.db.conn as connection:
        for one in people:
            tree = dump(one)
            del tree["Person"]["fingers"]
            place = str(one.subject).encode()
            blob = key.seal(padded(dumps(tree)), place, os.urandom(NONCE_BYTES))
            connection.execute("UPDATE persons SET sealed = ? WHERE subject = ?", (blob, one.subject))
        connection.execute("PRAGMA user_version = 0")
    register.close()


def test_an_old_register_opens_and_takes_fingers(tmp_path: Path) -> None:
    path = tmp_path / "registers.db"
    register = Register(path, DATA_KEY)
    people = [
        register.enrol(person()),
        register.enrol(person(personal_number=None, papers=(Paper("UTO", "1"),), surname="BERG")),
    ]
    as_it_was(register, people)
    again = Register(path, DATA_KEY)
    assert list(again.people()) == people
    assert again.enrol(person(fingers=FINGERS)).fingers == FINGERS
    again.close()
    assert Register(path, DATA_KEY).person(1).fingers == FINGERS


def test_an_old_register_is_upgraded_whole_or_not_at_all(tmp_path: Path) -> None:
    """Its second row does not open: the first is as it was, and the next attempt sees an old register."""
    path = tmp_path / "registers.db"
    register = Register(path, DATA_KEY)
    people = [register.enrol(person()), register.enrol(person(personal_number=None, papers=(Paper("UTO", "1"),)))]
    as_it_was(register, people)
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE persons SET sealed = ? WHERE subject = 2", (bytes(300),))
        before = db.execute("SELECT sealed FROM persons ORDER BY subject").fetchall()
    for _ in range(2):
        with pytest.raises(RegisterFault, match="cannot be read"):
            Register(path, DATA_KEY)
        assert db.execute("SELECT sealed FROM persons ORDER BY subject").fetchall() == before
        assert db.execute("PRAGMA user_version").fetchone() == (0,)
    db.close()


def test_a_register_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    register = Register(tmp_path / "registers.db", DATA_KEY)
    register.db.conn.execute("PRAGMA user_version = 4")
    register.close()
    with pytest.raises(RegisterFault, match="edition 4, this program knows 3"):
        Register(tmp_path / "registers.db", DATA_KEY)


# -- the whole path ----------------------------------------------------------------------------------------------------


def test_from_two_real_fingers_to_a_match_in_the_lane(tmp_path: Path) -> None:
    """By command, with the real network: the enrolled finger matches its other impressions, nobody else's does; and of
    the pictures nothing is kept."""
    prints = shared_data() / "fingers"
    networks()
    engine = OnnxFingerEngine()
    run = CliRunner()
    assert run.invoke(gated_hq, ["keys", str(tmp_path / "keys")]).exit_code == 0
    (tmp_path / "mrz").write_text(TAIWANESE)
    where = ["--registers", str(tmp_path / "registers.db"), "--key", str(tmp_path / "keys" / "data.key")]
    enrol = ["enrol", *where, "--mrz", str(tmp_path / "mrz"), "--json"]
    swapped = ["--finger", f"right_index={prints / '10_1.png'}", "--finger", f"left_index={prints / '10_2.png'}"]
    done = run.invoke(gated_hq, [*enrol, *swapped])
    assert done.exit_code == 1 and "right_index and left_index are the same finger" in done.output
    hands = ["--finger", f"right_index={prints / '10_1.png'}", "--finger", f"left_index={prints / '11_1.png'}"]
    done = run.invoke(gated_hq, [*enrol, *hands])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)[0]["fingers"] == ["right_index", "left_index"]
    data_key = (tmp_path / "keys" / "data.key").read_bytes()
    assert len(encode_row(Register(tmp_path / "registers.db", data_key).person(1))) < 4096  # templates, no picture
    found = person_row(Register(tmp_path / "registers.db", data_key).person(1))
    assert [f.position for f in found.fingers] == ["right_index", "left_index"]
    right, left = (finger.template for finger in found.fingers)
    assert decode(right).views[0].finger is Finger.RIGHT_INDEX and len(right) < 2048
    for name, templates in (("10_4", (right, left)), ("11_4", (left, right)), ("12_1", (None, right))):
        seen = engine.extract(*read_print(prints / f"{name}.png"))
        own, other = templates
        assert own is None or engine.score(seen, own) >= engine.threshold.score, name
        assert engine.score(seen, other) < engine.threshold.score, name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--finger", "right=x.png"], "there is no such finger"),
        (["--finger", "right_index=a.png", "--missing", "right_index=bandaged"], "right_index is given twice"),
        (["--missing", "right_index=gone"], "missing is one of amputated, bandaged, unreadable"),
    ],
)
def test_options_of_fingers_that_cannot_be_meant(tmp_path: Path, options: list[str], says: str) -> None:
    (tmp_path / "mrz").write_text(SPECIMEN)
    where = ["--registers", str(tmp_path / "r.db"), "--key", str(tmp_path / "k"), "--mrz", str(tmp_path / "mrz")]
    done = CliRunner().invoke(gated_hq, ["enrol", *where, *options])
    assert done.exit_code == 2 and says in " ".join(done.output.split())
    assert not (tmp_path / "r.db").exists()


def test_fingers_of_many_people_stand_in_their_file(tmp_path: Path) -> None:
    where = ["--registers", str(tmp_path / "r.db"), "--key", str(tmp_path / "k"), "--file", str(tmp_path / "p")]
    done = CliRunner().invoke(gated_hq, ["enrol", *where, "--missing", "right_index=bandaged"])
    assert done.exit_code == 2 and "they stand in the file" in done.output
