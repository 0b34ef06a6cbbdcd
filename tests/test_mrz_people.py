"""What a document says of its holder: dates on a day of use, cut names, Taiwan's personal number, codes of states."""

from datetime import date

import pytest

from gated.icao import states
from gated.icao.dates import PartialDate
from gated.icao.mrz import PASSPORT_KINDS, Document, MrzError, check_digit, is_taiwanese_number, parse, render

TODAY = date(2026, 8, 1)


def lines_of(
    format: str = "TD3",
    *,
    code: str = "",
    issuer: str = "UTO",
    number: str = "L898902C3",
    nationality: str = "UTO",
    birth: date | str = "740812",
    sex: str = "F",
    expiry: date | str = "310415",
    surname: str = "ERIKSSON",
    given_names: str = "ANNA MARIA",
    optional: str = "",
    empty_check: str = "<",
) -> tuple[str, ...]:
    return render(
        format,
        code=code,
        issuer=issuer,
        number=number,
        nationality=nationality,
        birth=birth,
        sex=sex,
        expiry=expiry,
        surname=surname,
        given_names=given_names,
        optional=optional,
        empty_check=empty_check,
    )


def named(surname: str, given_names: str = "", format: str = "TD3") -> Document:
    return parse(lines_of(format, surname=surname, given_names=given_names))


def printed(name_field: str) -> Document:
    """A TD3, TD2 or TD1 with this name field (39, 31 or 30 characters)."""
    format = {39: "TD3", 31: "TD2", 30: "TD1"}[len(name_field)]
    lines = list(lines_of(format))
    at = 2 if format == "TD1" else 0
    lines[at] = lines[at][: len(lines[at]) - len(name_field)] + name_field
    return parse(lines)


# -- dates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expiry", "today", "means"),
    [
        ("310415", TODAY, date(2031, 4, 15)),
        ("260801", TODAY, date(2026, 8, 1)),
        ("260731", TODAY, date(2026, 7, 31)),
        ("410801", TODAY, date(2041, 8, 1)),  # the last day of the window
        ("410802", TODAY, date(1941, 8, 2)),  # the first behind it
        ("991231", TODAY, date(1999, 12, 31)),
        ("120415", TODAY, date(2012, 4, 15)),
        ("000229", TODAY, date(2000, 2, 29)),
        ("000229", date(2086, 1, 1), date(2000, 2, 29)),  # 2100 is no leap year
        ("040229", date(2090, 1, 1), date(2104, 2, 29)),
        ("390228", date(2024, 2, 29), date(2039, 2, 28)),
        ("990101", date(1990, 1, 1), date(1999, 1, 1)),
        ("050101", date(1990, 1, 1), date(2005, 1, 1)),
        ("050102", date(1990, 1, 1), date(1905, 1, 2)),
    ],
)
def test_expiry_lies_within_fifteen_years_or_in_the_past(expiry: str, today: date, means: date) -> None:
    assert parse(lines_of(expiry=expiry)).expires_on(today) == means


@pytest.mark.parametrize(
    ("birth", "iso", "earliest", "latest"),
    [
        ("740812", "1974-08-12", date(1974, 8, 12), date(1974, 8, 12)),
        ("260801", "2026-08-01", date(2026, 8, 1), date(2026, 8, 1)),
        ("260802", "1926-08-02", date(1926, 8, 2), date(1926, 8, 2)),
        ("000229", "2000-02-29", date(2000, 2, 29), date(2000, 2, 29)),
        ("7408<<", "1974-08-XX", date(1974, 8, 1), date(1974, 8, 31)),
        ("74<<<<", "1974-XX-XX", date(1974, 1, 1), date(1974, 12, 31)),
        ("74<<12", "1974-XX-12", date(1974, 1, 12), date(1974, 12, 12)),
        ("7602<<", "1976-02-XX", date(1976, 2, 1), date(1976, 2, 29)),
        ("26<<<<", "2026-XX-XX", date(2026, 1, 1), date(2026, 12, 31)),
        ("2608<<", "2026-08-XX", date(2026, 8, 1), date(2026, 8, 31)),
        ("2609<<", "1926-09-XX", date(1926, 9, 1), date(1926, 9, 30)),
        ("<<0812", "XXXX-08-12", None, None),
        ("<<0229", "XXXX-02-29", None, None),
        ("<<<<<<", "XXXX-XX-XX", None, None),
    ],
)
def test_birth_is_never_after_today(birth: str, iso: str, earliest: date | None, latest: date | None) -> None:
    born = parse(lines_of(birth=birth)).born_on(TODAY)
    assert (born.iso(), born.earliest(), born.latest()) == (iso, earliest, latest)


def test_birth_on_a_leap_day_whose_century_had_none() -> None:
    assert parse(lines_of(birth="000229")).born_on(date(2105, 1, 1)) == PartialDate(2000, 2, 29)


@pytest.mark.parametrize("birth", ["740230", "741301", "740001", "74<<32", "74<<00", "<<0230", "7402<1", "7<0812"])
def test_no_such_birth(birth: str) -> None:
    with pytest.raises(MrzError, match=r"^birth, line 2 column 1[4-9]: "):
        parse(lines_of(birth=birth))


@pytest.mark.parametrize("expiry", ["310230", "311301", "31<<<<", "<<<<<<", "310431", "310400"])
def test_no_such_expiry(expiry: str) -> None:
    with pytest.raises(MrzError, match=r"^expiry, line 2 column 2[2-7]: "):
        parse(lines_of(expiry=expiry))


def test_repr_of_a_date_of_birth_is_not_personal() -> None:
    assert repr(parse(lines_of()).born_on(TODAY)) == "PartialDate()"


# -- codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", PASSPORT_KINDS)
def test_two_letter_passport_codes_of_2026(code: str) -> None:
    document = parse(lines_of(code=code))
    assert (document.code, document.passport_kind) == (code, PASSPORT_KINDS[code])


@pytest.mark.parametrize("code", ["P", "PB", "PN"])
def test_older_passport_codes_stay_valid(code: str) -> None:
    document = parse(lines_of(code=code))
    assert (document.code, document.passport_kind) == (code, None)


@pytest.mark.parametrize(
    ("format", "code"), [("TD1", "AC"), ("TD1", "IP"), ("TD2", "C"), ("TD1", "RP"), ("TD1", "PP"), ("TD2", "I1")]
)
def test_codes_of_cards_are_their_issuers_own(format: str, code: str) -> None:
    document = parse(lines_of(format, code=code))
    assert (document.format, document.code, document.passport_kind) == (format, code, None)


@pytest.mark.parametrize("code", ["V", "VB"])
@pytest.mark.parametrize("format", ["MRV-A", "MRV-B"])
def test_a_v_makes_a_visa(format: str, code: str) -> None:
    document = parse(lines_of(format, code=code))
    assert (document.format, document.code) == (format, code)


@pytest.mark.parametrize("code", sorted(states.ISSUERS))
def test_known_issuers(code: str) -> None:
    document = parse(lines_of(issuer=code, nationality=code))
    assert (document.issuer, document.nationality) == (code, code)


def test_the_table_of_codes_is_complete() -> None:
    """249 of ISO 3166-1, 22 of Doc 9303-3 parts A to D, 2 withdrawn, the specimen, and Northern Cyprus."""
    assert len(states.ISSUERS) == 249 + 22 + 2 + 1 + 1
    assert all(code.isalpha() and code.isupper() and len(code) == 3 for code in states.NATIONALITIES - {"D"})
    assert {"TWN", "HKG", "MAC", "CHN", "DEU", "D", "RKS", "EUE", "UNO", "UNA", "UNK", "XOM"} <= states.ISSUERS


@pytest.mark.parametrize("code", ["XXA", "XXB", "XXC", "XXX"])
def test_nationality_of_people_without_one(code: str) -> None:
    assert parse(lines_of(nationality=code)).nationality == code
    with pytest.raises(MrzError, match=r"^issuer, line 1 column 3"):
        parse(lines_of(issuer=code))


@pytest.mark.parametrize("code", ["GER", "ZZZ", "IAO", "DE", "GB"])
def test_unknown_codes_are_refused(code: str) -> None:
    with pytest.raises(MrzError, match=r"^issuer, line 1 column 3: expected a code of Doc 9303-3 section 5"):
        parse(lines_of(issuer=code))
    with pytest.raises(MrzError, match=r"^nationality, line 2 column 11: expected a code of Doc 9303-3 section 5"):
        parse(lines_of(nationality=code))


def test_germany_has_two_spellings() -> None:
    as_printed = {code: parse(lines_of(issuer=code, nationality=code)).issuer for code in ("D", "DEU")}
    assert as_printed == {"D": "D", "DEU": "DEU"}
    assert {states.alpha3(code) for code in as_printed} == {"DEU"}
    assert states.alpha3("TWN") == "TWN"


@pytest.mark.parametrize(("on_paper", "means"), [("M", "M"), ("F", "F"), ("<", "X"), ("X", "X")])
def test_sex(on_paper: str, means: str) -> None:
    lines = list(lines_of())
    lines[1] = lines[1][:20] + on_paper + lines[1][21:]
    assert parse(lines).sex == means


@pytest.mark.parametrize("digit", ["<", "0"])
def test_check_digit_over_empty_optional_data_may_be_a_filler(digit: str) -> None:
    lines = lines_of(empty_check=digit)
    assert lines[1][42] == digit
    assert parse(lines).optional == ""


def test_check_digit_over_optional_data_that_sum_to_nothing_may_not_be_a_filler() -> None:
    lines = list(lines_of(optional="0"))
    assert lines[1][42] == "0"
    second = lines[1][:42] + "<"
    with pytest.raises(MrzError, match=r"^optional data check digit, line 2 column 43: expected 0, found <"):
        parse([lines[0], second + check_digit(second[:10] + second[13:20] + second[21:43])])


# -- Taiwan ------------------------------------------------------------------------------------------------


def test_personal_number_of_a_taiwanese_passport() -> None:
    lines = lines_of(issuer="TWN", nationality="TWN", optional="A234567893", code="P")
    document = parse(lines)
    assert document.personal_number == "A234567893"
    assert "A234567893" not in repr(document)


@pytest.mark.parametrize(
    ("format", "issuer", "optional"),
    [
        ("TD3", "TWN", ""),  # a national without household registration has none
        ("TD3", "TWN", "A234567892"),
        ("TD3", "TWN", "1234567893"),
        ("TD3", "TWN", "A2345678933"),
        ("TD3", "JPN", "A234567893"),
        ("MRV-A", "TWN", "A234567893"),
        ("TD1", "TWN", "A234567893"),
    ],
)
def test_anything_else_is_no_personal_number(format: str, issuer: str, optional: str) -> None:
    assert parse(lines_of(format, issuer=issuer, optional=optional)).personal_number is None


def test_every_letter_of_taiwanese_numbers_has_its_place() -> None:
    """For each county's letter exactly one last digit is right, and the letters' values are the published ones."""
    published = {
        "A": 10, "B": 11, "C": 12, "D": 13, "E": 14, "F": 15, "G": 16, "H": 17, "I": 34, "J": 18, "K": 19, "L": 20,
        "M": 21, "N": 22, "O": 35, "P": 23, "Q": 24, "R": 25, "S": 26, "T": 27, "U": 28, "V": 29, "W": 32, "X": 30,
        "Y": 31, "Z": 33,
    }  # fmt: skip
    for letter, value in published.items():
        right = [d for d in "0123456789" if is_taiwanese_number(f"{letter}10000000{d}")]
        assert right == [str((-(value // 10 + value % 10 * 9 + 8)) % 10)], letter


# -- names -------------------------------------------------------------------------------------------------

BENNELONG = ("BENNELONG WOOLOOMOOLOO WARRANDYTE WARNAMBOOL", "DINGO POTOROO")


@pytest.mark.parametrize(
    ("surname", "given_names", "field"),
    [
        ("ERIKSSON", "ANNA MARIA", "ERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<"),
        ("SMITH-JONES", "SUSIE MARGARET", "SMITH<JONES<<SUSIE<MARGARET<<<<<<<<<<<<"),
        ("O'CONNOR", "ENYA SIOBHAN", "OCONNOR<<ENYA<SIOBHAN<<<<<<<<<<<<<<<<<<"),
        ("VAN DER MUELLEN", "MARTIN", "VAN<DER<MUELLEN<<MARTIN<<<<<<<<<<<<<<<<"),
        ("ARKFREITH", "", "ARKFREITH<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<"),
        ("SATRIYA SUDARPA", "", "SATRIYA<SUDARPA<<<<<<<<<<<<<<<<<<<<<<<<"),
        ("NILAVADHANANANDA", "ARNPOL PETCH CHARONGUANG", "NILAVADHANANANDA<<ARNPOL<PETCH<CHARONGU"),
        ("PAPANDROPOULOUS", "JONATHON WARREN TREVOR", "PAPANDROPOULOUS<<JONATHON<WARREN<TREVOR"),
    ],
)
def test_published_names_are_rendered(surname: str, given_names: str, field: str) -> None:
    """Doc 9303-4, 4.2.3 (amendment 2)."""
    assert lines_of(surname=surname, given_names=given_names)[0] == "P<UTO" + field


def test_names_keep_their_components() -> None:
    document = named("VAN DER MUELLEN", "MARTIN")
    assert (document.surname, document.given_names, document.names_truncated) == ("VAN DER MUELLEN", "MARTIN", False)
    alone = named("ARKFREITH")
    assert (alone.surname, alone.given_names) == ("ARKFREITH", "")


@pytest.mark.parametrize(
    "cut",
    [
        "BENNELONG<WOOLOOMOOLOO<WARRANDYTE<W<<DI",
        "BENNELONG<WOOLOOM<WARRAND<WARNAM<<DINGO",
        "BENNEL<WOOLOO<WARRAN<WARNAM<<DINGO<POTO",
        "BENNELONG<WOOLOOMOOLOO<W<W<<D<P",
        "BENNELONG<WOOLOOM<WAR<WARN<<D<P",
        "BENNEL<WOOLO<WARRA<WARNA<<DIN<P",
        "BENNELONG<WOOLOOMOOLOO<W<W<<DI",
        "BENNE<WOOLO<WARRA<WARNA<<DIN<P",
    ],
)
def test_every_published_way_to_cut_a_name_is_recognised(cut: str) -> None:
    """Doc 9303-4, -5 and -6, 4.2.3: the same person's name cut in eight ways."""
    document = printed(cut)
    assert document.names_truncated
    others = ["BENNELONG<WOOLOOMOOLOO<WARRANDYTE<W<<DI", "BENNEL<WOOLO<WARRA<WARNA<<DIN<P", cut]
    for other in others:
        assert document.same_name(printed(other))
        assert printed(other).same_name(document)
    for stranger in (
        "BENNELONG<WOOLOOMOOLOO<WARRANDYTE<W<<PI",
        "BENTELONG<WOOLOOMOOLOO<WARRANDYTE<W<<DI",
        "WOOLOOMOOLOO<BENNELONG<<DINGO".ljust(39, "<"),
        "BENNELONG<WOOLOOMOOLOO<WARRANDYTE<<DING",  # a surname that is followed by given names has lost no part
    ):
        assert not document.same_name(printed(stranger))
        assert not printed(stranger).same_name(document)


def test_a_surname_that_fills_the_field_may_have_lost_everything_behind_it() -> None:
    cut = printed("BENNELONG<WOOLOOMOOLOO<WARRAND")
    for other in ("BENNELONG<WOOLOOMOOLOO<WARRANDYTE<W<<DI", "BENNELONG<WOOLOOMOOLOO<WARRANDYTE<<DING"):
        assert cut.same_name(printed(other))
        assert printed(other).same_name(cut)
    assert not cut.same_name(printed("BENNELONG<<DINGO".ljust(39, "<")))
    assert not cut.same_name(printed("BENTELONG<WOOLOOMOOLOO<WARRANDYTE<W<<DI"))


def test_a_full_name_against_a_cut_one() -> None:
    full = printed("NILAVADHANANANDA<<ARNPOL<PETCH<CHAR".ljust(39, "<"))
    for cut in ("NILAVADHANANANDA<<ARNPOL<PETC<C", "NILAVADHANANANDA<<ARNPOL<P<CHAR"):
        assert printed(cut).same_name(full)
        assert full.same_name(printed(cut))
    # the full name's own components are not initials of anything longer
    assert not printed("NILAVADHANANANDA<<ARNPOL<PETC<CHARONGUA"[:31]).same_name(
        printed("NILAVADHANANANDA<<ARNPOL<P<CHAR".ljust(39, "<"))
    )


def test_names_that_are_not_cut_must_be_equal() -> None:
    assert named("ERIKSSON", "ANNA MARIA").same_name(named("ERIKSSON", "ANNA MARIA", "TD1"))
    assert not named("ERIKSSON", "ANNA MARIA").same_name(named("ERIKSSON", "ANNA"))
    assert not named("ERIKSSON", "ANNA MARIA").same_name(named("ERIKSSON ANNA", "MARIA"))
    assert not named("ERIKSSON", "A").same_name(named("ERIKSSON", "ANNA"))


def test_a_name_that_just_fits_must_be_taken_as_cut() -> None:
    """Doc 9303-4, 4.2.3.4: JONATHON WARREN TREVOR fills the field and may have lost something."""
    document = named("PAPANDROPOULOUS", "JONATHON WARREN TREVOR")
    assert document.names_truncated
    assert document.same_name(named("PAPANDROPOULOUS", "JONATHON WARREN TREVOR"))


@pytest.mark.parametrize("given_names", ["ANNA MARIA", "A B C", "B" * 40])
@pytest.mark.parametrize("length", range(20, 60))
@pytest.mark.parametrize("format", ["TD3", "TD1"])
def test_rendered_cuts_end_in_a_letter(format: str, length: int, given_names: str) -> None:
    surname = ("ABCDEFG " * 10)[:length].strip()
    document = named(surname, given_names, format)
    whole = len(f"{surname}<<{given_names}")
    assert document.names_truncated == (whole >= (39 if format == "TD3" else 30))
    assert document.same_name(named(surname, given_names))


# -- what cannot be printed --------------------------------------------------------------------------------


def test_render_refuses_what_cannot_be_printed_without_repeating_it() -> None:
    for changes in (
        {"surname": "ΣΩ"},
        {"number": "secret"},
        {"number": "1234567890"},
        {"optional": "A" * 15},
        {"optional": "A B"},
        {"birth": "1974-08-12"},
        {"issuer": "UTOP"},
        {"sex": "FF"},
    ):
        with pytest.raises(ValueError) as caught:
            lines_of(**changes)
        assert not any(value in str(caught.value) for value in changes.values())
    with pytest.raises(ValueError, match="TD1, TD2, TD3, MRV-A, MRV-B"):
        lines_of("TD4")
    with pytest.raises(ValueError, match="at most 9"):
        lines_of("MRV-B", number="1234567890")
