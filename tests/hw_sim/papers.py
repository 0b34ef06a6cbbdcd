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
    """A passport with the two lines that its other fields make."""
    names = f"{paper.surname}<<{paper.given_names.replace(' ', '<')}"
    upper = f"P<TWN{names}".ljust(44, "<")
    optional = paper.personal_number.ljust(14, "<")
    parts = [paper.number, f"{paper.birth:%y%m%d}", f"{paper.expiry:%y%m%d}", optional]
    number, birth, expiry, optional = (part + check_digit(part) for part in parts)
    composite = check_digit(number + birth + expiry + optional)
    return replace(paper, lines=(upper, f"{number}TWN{birth}{paper.sex}{expiry}{optional}{composite}"))


def residence_card(rng: random.Random, person: int, today: date, *, expired: bool = False) -> Paper:
    """A TD1 residence certificate of Taiwan, of a foreigner (W5)."""
    sex = rng.choice("FM")
    surname, given = rng.choice(_FOREIGN.split()), rng.choice(_GIVEN_ABROAD.split())
    birth = today - timedelta(days=int(365.25 * rng.randint(20, 60)) + rng.randint(2, 300))
    expiry = today - timedelta(days=rng.randint(10, 400)) if expired else today + timedelta(days=rng.randint(200, 1500))
    number = f"{rng.choice('ABCD')}{rng.choice('CD')}{rng.randrange(10**7):07}"
    nationality = rng.choice(("VNM", "IDN", "PHL", "THA", "JPN", "USA"))
    upper = f"ARTWN{number}{check_digit(number)}".ljust(30, "<")
    dates = [part + check_digit(part) for part in (f"{birth:%y%m%d}", f"{expiry:%y%m%d}")]
    middle = f"{dates[0]}{sex}{dates[1]}{nationality}".ljust(29, "<")
    composite = check_digit(upper[5:30] + dates[0] + dates[1] + middle[18:29])
    lower = f"{surname}<<{given}".ljust(30, "<")
    return Paper(person, number, "", surname, given, birth, expiry, sex, (upper, middle + composite, lower))


def smudged(rng: random.Random, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same page as a dirty window reads it: one digit of the second line is wrong."""
    dated = lines[1][:28] if len(lines) == 2 else lines[1][:15]
    at = rng.choice([k for k, c in enumerate(dated) if c.isdigit()])
    wrong = str((int(lines[1][at]) + rng.randint(1, 8)) % 10)
    return lines[0], lines[1][:at] + wrong + lines[1][at + 1 :], *lines[2:]
