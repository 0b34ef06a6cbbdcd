"""The simulated people's travel documents, written after ICAO 9303-4 independently of the code that reads them."""

import random
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
"""Order of the region letters of a Taiwanese personal number: A is 10, B is 11 ... O is 35."""
_SURNAMES = "LIN CHEN HUANG CHANG LEE WANG WU LIU TSAI YANG HSU CHENG HSIEH KUO HUNG CHIU TSENG LIAO LAI CHOU"
_GIVEN = "MEI LING CHIA HAO YI CHUN WEI TING HSIN JU PO HAN SHU FEN CHIH MING YA TZU KUAN YU"

_FOREIGN = "NGUYEN TRAN SANTOS REYES PUTRI WIBOWO TANAKA SATO SMITH JOHNSON SUKSAWAT"
_GIVEN_ABROAD = "ANH LINH MARIA JOSE DEWI BUDI YUKI KEN MARY JOHN SOMCHAI"
_ABROAD = ("VNM", "IDN", "PHL", "THA", "JPN", "USA")


@dataclass(frozen=True)
class Paper:
    """A travel document as its holder carries it. `person` is the number of the holder's face in this world."""

    person: int
    number: str = field(repr=False)
    personal_number: str = field(repr=False)
    surname: str = field(repr=False)
    given_names: str = field(repr=False)
    birth: date = field(repr=False)
    expiry: date = field(repr=False)
    sex: str = field(repr=False)
    lines: tuple[str, ...] = field(repr=False)
    issuer: str = "TWN"


def check_digit(text: str) -> str:
    """9303-3, 4.9: weights 7, 3, 1; letters from 10, the filler 0."""
    values = (0 if c == "<" else int(c, 36) for c in text)
    return str(sum(value * (7, 3, 1)[k % 3] for k, value in enumerate(values)) % 10)


def personal_number(rng: random.Random, female: bool) -> str:
    """A valid Taiwanese personal number: a letter, 1 or 2 for the sex, seven digits and a check digit."""
    letter = rng.choice(_LETTERS)
    digits = [2 if female else 1, *(rng.randrange(10) for _ in range(7))]
    region = _LETTERS.index(letter) + 10
    total = region // 10 + region % 10 * 9 + sum(d * w for d, w in zip(digits, range(8, 0, -1), strict=True))
    return letter + "".join(map(str, digits)) + str(-total % 10)


def passport(rng: random.Random, person: int, today: date, *, age: int | None = None, expired: bool = False) -> Paper:
    """A TD3 passport of Taiwan. `expired`: since some weeks; `age` in full years on `today`, else 20 to 75."""
    female = rng.random() < 0.5
    surname = rng.choice(_SURNAMES.split())
    given = " ".join(rng.sample(_GIVEN.split(), 2))
    birth = today - timedelta(days=int(365.25 * (rng.randint(20, 75) if age is None else age)) + rng.randint(2, 300))
    expiry = today - timedelta(days=rng.randint(10, 400)) if expired else today + timedelta(days=rng.randint(200, 3600))
    number = f"3{rng.randrange(10**8):08}"
    identity = personal_number(rng, female)
    sex = "F" if female else "M"
    return _with_zone(Paper(person, number, identity, surname, given, birth, expiry, sex, ()))


def renewed(rng: random.Random, paper: Paper, today: date) -> Paper:
    """The next passport of the same person: another number and day of expiry; the personal number stays."""
    number, expiry = f"3{rng.randrange(10**8):08}", today + timedelta(days=rng.randint(3300, 3600))
    return _with_zone(replace(paper, number=number, expiry=expiry))


def _with_zone(paper: Paper) -> Paper:
    """A passport of Taiwan with the two lines that its other fields make."""
    return replace(paper, lines=_td3(paper, "P", "TWN"))


def _names(paper: Paper) -> str:
    return f"{paper.surname}<<{paper.given_names.replace(' ', '<')}"


def _td3(paper: Paper, code: str, nationality: str) -> tuple[str, str]:
    """9303-4, 4.2.2."""
    optional = paper.personal_number.ljust(14, "<")
    parts = [paper.number.ljust(9, "<"), f"{paper.birth:%y%m%d}", f"{paper.expiry:%y%m%d}", optional]
    number, birth, expiry, optional = (part + check_digit(part) for part in parts)
    composite = check_digit(number + birth + expiry + optional)
    upper = f"{code:<<2}{paper.issuer:<<3}{_names(paper)}".ljust(44, "<")
    return upper, f"{number}{nationality:<<3}{birth}{paper.sex}{expiry}{optional}{composite}"


def _td1(paper: Paper, code: str, nationality: str) -> tuple[str, str, str]:
    """9303-5, 4.2.2."""
    number = paper.number.ljust(9, "<")
    upper = f"{code:<<2}{paper.issuer:<<3}{number}{check_digit(number)}".ljust(30, "<")
    dates = [part + check_digit(part) for part in (f"{paper.birth:%y%m%d}", f"{paper.expiry:%y%m%d}")]
    middle = f"{dates[0]}{paper.sex}{dates[1]}{nationality:<<3}".ljust(29, "<")
    composite = check_digit(upper[5:30] + dates[0] + dates[1] + middle[18:29])
    return upper, middle + composite, _names(paper).ljust(30, "<")


def residence_card(rng: random.Random, person: int, today: date, *, expired: bool = False) -> Paper:
    """A TD1 residence certificate of Taiwan, of a foreigner (W5)."""
    sex = rng.choice("FM")
    surname, given = rng.choice(_FOREIGN.split()), rng.choice(_GIVEN_ABROAD.split())
    birth = today - timedelta(days=int(365.25 * rng.randint(20, 60)) + rng.randint(2, 300))
    expiry = today - timedelta(days=rng.randint(10, 400)) if expired else today + timedelta(days=rng.randint(200, 1500))
    number = f"{rng.choice('ABCD')}{rng.choice('CD')}{rng.randrange(10**7):07}"
    nationality = rng.choice(_ABROAD)
    paper = Paper(person, number, "", surname, given, birth, expiry, sex, ())
    return replace(paper, lines=_td1(paper, "AR", nationality))


@dataclass(frozen=True)
class _Kind:
    """A kind of document of config/policy/tw.toml: what its zone says of kind, issuer and holder."""

    code: str
    issuer: str
    nationalities: tuple[str, ...]
    numbered: str
    """How its numbers begin."""


KINDS = {
    "passport_tw": _Kind("P", "TWN", ("TWN",), "3"),
    "passport_foreign": _Kind("P", "JPN", ("JPN",), "TK"),
    "kinmen_permit": _Kind("IK", "TWN", ("TWN",), "K"),
    "residence_certificate": _Kind("AR", "TWN", _ABROAD, "AC"),
    "diplomatic_card": _Kind("ID", "TWN", _ABROAD, "D"),
    "exit_entry_permit": _Kind("IP", "TWN", ("HKG", "MAC", "CHN"), "E"),
}
"""By the policy's name. Passports are TD3, every card is TD1."""


def document(rng: random.Random, kind: str, person: int, *, birth: date, expiry: date, code: str = "") -> Paper:
    """A document of the policy's kind `kind`. `code`: another one of its codes."""
    made = KINDS[kind]
    sex = rng.choice("FM")
    at_home = made.nationalities == ("TWN",)
    surnames, given_names = (_SURNAMES, _GIVEN) if at_home else (_FOREIGN, _GIVEN_ABROAD)
    digits = 9 - len(made.numbered)
    paper = Paper(
        person,
        f"{made.numbered}{rng.randrange(10**digits):0{digits}}",
        personal_number(rng, sex == "F") if kind == "passport_tw" else "",
        rng.choice(surnames.split()),
        rng.choice(given_names.split()),
        birth,
        expiry,
        sex,
        (),
        made.issuer,
    )
    zone = _td3 if made.code == "P" else _td1
    return replace(paper, lines=zone(paper, code or made.code, rng.choice(made.nationalities)))


def smudged(rng: random.Random, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same page as a dirty window reads it: one digit of the second line is wrong."""
    dated = lines[1][:28] if len(lines) == 2 else lines[1][:15]
    at = rng.choice([k for k, c in enumerate(dated) if c.isdigit()])
    wrong = str((int(lines[1][at]) + rng.randint(1, 8)) % 10)
    return lines[0], lines[1][:at] + wrong + lines[1][at + 1 :], *lines[2:]
