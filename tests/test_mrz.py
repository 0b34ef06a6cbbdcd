"""Machine readable zones: ICAO's own specimens, the formats a text comes in, and the precision of every error."""

import pickle
from dataclasses import replace
from itertools import product

import pytest

from gated.icao.layout import LAYOUTS, SIZES
from gated.icao.mrz import Document, MrzError, check_digit, parse, render

# Published by ICAO: Doc 9303-4, -5, -6, -7 (8th edition), appendices, and 9303-11 appendix D.2 for long numbers.
TD3 = """P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<
L898902C36UTO7408122F1204159ZE184226B<<<<<10"""
TD3_2026 = TD3.replace("P<UTO", "PPUTO")
TD3_OLDER = """P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<
L898902C<3UTO6908061F9406236ZE184226B<<<<<14"""
TD1 = """I<UTOD231458907<<<<<<<<<<<<<<<
7408122F1204159UTO<<<<<<<<<<<6
ERIKSSON<<ANNA<MARIA<<<<<<<<<<"""
TD1_LONG = """I<UTOD23145890<7349<<<<<<<<<<<
3407127M9507122UTO<<<<<<<<<<<2
STEVENSON<<PETER<JOHN<<<<<<<<<"""
TD2 = """I<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<
D231458907UTO7408122F1204159<<<<<<<6"""
TD2_LONG = """I<UTOSTEVENSON<<PETER<JOHN<<<<<<<<<<
D23145890<UTO3407127M95071227349<<<8"""
MRV_A = """V<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<
L8988901C4XXX4009078F96121096ZE184226B<<<<<<"""
MRV_B = """V<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<
L8988901C4XXX4009078F9612109<<<<<<<<"""
SPECIMENS = {
    "TD3": TD3,
    "TD3 of 2026": TD3_2026,
    "TD3 of the 6th edition": TD3_OLDER,
    "TD1": TD1,
    "TD1, long number": TD1_LONG,
    "TD2": TD2,
    "TD2, long number": TD2_LONG,
    "MRV-A": MRV_A,
    "MRV-B": MRV_B,
}

NO_CODE = "expected a code of Doc 9303-3 section 5, found no such code"
NO_NUMBER = "number, line 2 column 1: expected a letter or digit, found <"
NO_DAY = "expected a day of that month, found another number"
NO_MONTH = "expected a month, 01 to 12, found another number"


def fault(text: str | list[str]) -> MrzError:
    with pytest.raises(MrzError) as caught:
        parse(text)
    return caught.value


def changed(text: str, line: int, column: int, new: str) -> str:
    """`text` with `new` written at line and column, from 1."""
    lines = text.split("\n")
    old = lines[line - 1]
    lines[line - 1] = old[: column - 1] + new + old[column - 1 + len(new) :]
    return "\n".join(lines)


def test_td3_specimen() -> None:
    assert parse(TD3) == Document(
        format="TD3",
        code="P",
        issuer="UTO",
        number="L898902C3",
        nationality="UTO",
        birth="740812",
        sex="F",
        expiry="120415",
        surname="ERIKSSON",
        given_names="ANNA MARIA",
        names_truncated=False,
        optional="ZE184226B",
        lines=tuple(TD3.split("\n")),
    )


def test_specimens_of_the_other_formats_hold_the_same_person() -> None:
    passport = parse(TD3)
    card = replace(passport, code="I", number="D23145890", optional="")
    assert parse(TD1) == replace(card, format="TD1", lines=tuple(TD1.split("\n")))
    assert parse(TD2) == replace(card, format="TD2", lines=tuple(TD2.split("\n")))
    visa = replace(passport, code="V", number="L8988901C", nationality="XXX", birth="400907", expiry="961210")
    assert parse(MRV_A) == replace(visa, format="MRV-A", optional="6ZE184226B", lines=tuple(MRV_A.split("\n")))
    assert parse(MRV_B) == replace(visa, format="MRV-B", optional="", lines=tuple(MRV_B.split("\n")))


@pytest.mark.parametrize("text", [TD1_LONG, TD2_LONG])
def test_long_document_number_is_put_together(text: str) -> None:
    document = parse(text)
    assert (document.number, document.optional) == ("D23145890734", "")


def test_optional_data_behind_a_long_number() -> None:
    """Belgium's card numbers have twelve characters; what is behind the filler is ordinary optional data."""
    line1 = "I<UTO" + "D23145890<7349<PQ12<<<<<<"[:25]
    line2 = "3407127M9507122UTORS<<<<<<<<<"
    composite = check_digit(line1[5:30] + line2[0:7] + line2[8:15] + line2[18:29])
    document = parse([line1, line2 + composite, "STEVENSON<<PETER<JOHN<<<<<<<<<"])
    assert (document.number, document.optional) == ("D23145890734", "PQ12 RS")


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n", "", " \r\n\t"])
def test_lines_and_runs_are_the_same(name: str, newline: str) -> None:
    text = SPECIMENS[name]
    expected = parse(text)
    assert parse(text.replace("\n", newline)) == expected
    assert parse(newline + text.replace("\n", newline) + newline) == expected
    assert parse(text.split("\n")) == expected
    assert parse(tuple(line + newline for line in text.split("\n"))) == expected


@pytest.mark.parametrize(
    ("text", "position", "found"),
    [
        ("", (1, 1), "nothing"),
        ("\r\n \r\n", (1, 1), "nothing"),
        (TD3[:44], (1, 45), "1 line of 44"),
        (TD3[:-1], (2, 44), "2 lines of 44, 43"),
        (TD3 + "<", (2, 45), "2 lines of 44, 45"),
        (TD3[1:], (1, 44), "2 lines of 43, 44"),
        (TD3[:44] + "\n" + TD2[:36], (2, 37), "2 lines of 44, 36"),
        (TD1[:-1], (3, 30), "3 lines of 30, 30, 29"),
        (TD1 + "\n" + TD1, (4, 1), "6 lines"),
        ("<" * 1001, (1, 1), "more"),
        ("\n" * 1001, (1, 1), "more"),
    ],
)
def test_half_frames_say_what_came(text: str, position: tuple[int, int], found: str) -> None:
    error = fault(text)
    assert (error.field, error.position, error.found) == ("format", position, found)
    if found != "more":
        assert error.expected == SIZES


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize("strange", ["a", " ", "-", "«", "À", "\x00", "²", "\u0660", "\u2028", "\u212a"])
def test_characters_outside_the_alphabet(name: str, strange: str) -> None:
    lines = SPECIMENS[name].split("\n")
    for line in range(len(lines)):
        error = fault(changed(SPECIMENS[name], line + 1, 12, strange))
        shown = strange if strange in "a-" else f"U+{ord(strange):04X}"
        assert (error.field, error.position, error.found) == ("alphabet", (line + 1, 12), shown)


@pytest.mark.parametrize(
    ("text", "line", "column", "new", "message"),
    [
        (TD3, 1, 1, "<", "document code, line 1 column 1: expected a letter, found <"),
        (TD3, 1, 2, "7", "document code, line 1 column 2: expected a letter or <, found 7"),
        (TD3, 1, 3, "XYZ", "issuer, line 1 column 3: " + NO_CODE),
        (TD3, 1, 3, "XXA", "issuer, line 1 column 3: " + NO_CODE),
        (TD3, 1, 3, "<<<", "issuer, line 1 column 3: " + NO_CODE),
        (TD3, 1, 3, "D<D", "issuer, line 1 column 3: " + NO_CODE),
        (TD3, 1, 8, "1", "names, line 1 column 8: expected A-Z or <, found 1"),
        (TD3, 1, 6, "<" * 39, "names, line 1 column 6: expected a letter, found <"),
        (TD3, 1, 6, "<", "names, line 1 column 6: expected a letter, found <"),
        (TD3, 1, 6, "8", "names, line 1 column 6: expected a letter, found 8"),
        (TD3, 1, 14, "<<<ANNA", "names, line 1 column 17: expected < behind the names, found A"),
        (TD3, 1, 29, "K", "names, line 1 column 29: expected < behind the names, found K"),
        (TD3, 1, 44, "K", "names, line 1 column 44: expected < behind the names, found K"),
        (TD1, 3, 28, "S", "names, line 3 column 28: expected < behind the names, found S"),
        (TD3, 2, 10, "7", "number check digit, line 2 column 10: expected 6, found 7"),
        (TD3, 2, 10, "G", "number check digit, line 2 column 10: expected 6, found G"),
        (TD3, 2, 10, "<", "number check digit, line 2 column 10: expected 6, found <"),
        (TD3, 2, 1, "<<<<<<<<<0", "number, line 2 column 1: expected a letter or digit, found <"),
        (TD3, 2, 1, "<898902C3" + check_digit("<898902C3"), NO_NUMBER),
        (TD1_LONG, 1, 14, "<", "number check digit, line 1 column 15: expected 7, found <"),
        (TD3, 2, 11, "ZZZ", "nationality, line 2 column 11: " + NO_CODE),
        (TD3, 2, 16, "O", "birth, line 2 column 16: expected two digits, or << where unknown, found O"),
        (TD3, 2, 17, "<", "birth, line 2 column 17: expected two digits, or << where unknown, found <"),
        (TD3, 2, 14, "741312" + check_digit("741312"), "birth, line 2 column 16: " + NO_MONTH),
        (TD3, 2, 14, "740832" + check_digit("740832"), "birth, line 2 column 18: " + NO_DAY),
        (TD3, 2, 14, "740229" + check_digit("740229"), "birth, line 2 column 18: " + NO_DAY),
        (TD3, 2, 20, "1", "birth check digit, line 2 column 20: expected 2, found 1"),
        (TD3, 2, 21, "W", "sex, line 2 column 21: expected M, F or <, found W"),
        (TD3, 2, 22, "<", "expiry, line 2 column 22: expected a digit, found <"),
        (TD3, 2, 22, "120400" + check_digit("120400"), "expiry, line 2 column 26: " + NO_DAY),
        (TD3, 2, 28, "0", "expiry check digit, line 2 column 28: expected 9, found 0"),
        (TD3, 2, 43, "<", "optional data check digit, line 2 column 43: expected 1, found <"),
        (TD3, 2, 44, "5", "composite check digit, line 2 column 44: expected 0, found 5"),
        (TD1, 1, 15, "3", "number check digit, line 1 column 15: expected 7, found 3"),
        (TD1, 1, 15, "<", "number check digit, line 1 column 15: expected 7, found <"),
        (TD1, 1, 15, "<7", "number check digit, line 1 column 15: expected 7, found <"),
        (TD1_LONG, 1, 19, "8", "number check digit, line 1 column 19: expected 9, found 8"),
        (TD1_LONG, 1, 20, "<X", "composite check digit, line 2 column 30: expected 3, found 2"),
        (TD1_LONG, 1, 16, "123456789012345", "number, line 1 column 30: expected < behind a long number, found 5"),
        (TD1, 2, 7, "3", "birth check digit, line 2 column 7: expected 2, found 3"),
        (TD1, 2, 15, "3", "expiry check digit, line 2 column 15: expected 9, found 3"),
        (TD1, 2, 30, "3", "composite check digit, line 2 column 30: expected 6, found 3"),
        (TD1, 3, 30, "3", "names, line 3 column 30: expected A-Z or <, found 3"),
        (TD2_LONG, 2, 32, "8", "number check digit, line 2 column 32: expected 9, found 8"),
        (TD2, 2, 36, "<", "composite check digit, line 2 column 36: expected 6, found <"),
        (MRV_A, 2, 10, "<", "number check digit, line 2 column 10: expected 4, found <"),
        (MRV_B, 2, 28, "0", "expiry check digit, line 2 column 28: expected 9, found 0"),
    ],
)  # fmt: skip
def test_errors_name_field_place_expected_and_found(text: str, line: int, column: int, new: str, message: str) -> None:
    error = fault(changed(text, line, column, new))
    assert str(error) == message


def test_errors_survive_another_process_and_hold_no_content() -> None:
    error = fault(changed(TD3, 2, 10, "7"))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.position) == (str(error), error.field, error.position)


@pytest.mark.parametrize("name", SPECIMENS)
def test_no_error_repeats_the_document(name: str) -> None:
    """Any character wrong anywhere: neither str, repr nor arguments hold two neighbouring characters of a field."""
    document = parse(SPECIMENS[name])
    secrets = [document.number, document.surname, document.given_names, document.birth, document.expiry]
    lines = SPECIMENS[name].split("\n")
    for line, text in enumerate(lines):
        for column in range(len(text)):
            try:
                parse(changed(SPECIMENS[name], line + 1, column + 1, "7" if text[column] != "7" else "R"))
            except MrzError as error:
                shown = f"{error} {error!r} {error.args}"
                assert not [part for part in secrets if part in shown]
                assert len(error.found) == 1 or error.found in ("no such code", "another number")


def test_repr_of_a_document_is_not_personal() -> None:
    assert repr(parse(TD3)) == "Document(format='TD3', code='P', issuer='UTO')"


TD1_FULL = "\n".join(
    render(
        "TD1",
        issuer="UTO",
        number="D23145890",
        nationality="UTO",
        birth="740812",
        sex="F",
        expiry="120415",
        surname="ERIKSSON",
        optional="ABCDEFGHIJKLMNO PQRSTUVWXYZ",
    )
)
FULL = {**SPECIMENS, "TD1, all optional data": TD1_FULL}

# As Doc 9303 counts: line and columns under some check digit, and the check digits, which must stand in digits.
TWO_LINES = [(2, 1, 10), (2, 14, 20), (2, 22, 28)]
UNDER_CHECK_DIGITS = {
    "TD1": [(1, 6, 30), (2, 1, 7), (2, 9, 15), (2, 19, 30)],
    "TD2": [(2, 1, 10), (2, 14, 20), (2, 22, 36)],
    "TD3": [(2, 1, 10), (2, 14, 20), (2, 22, 44)],
    "MRV-A": TWO_LINES,
    "MRV-B": TWO_LINES,
}


@pytest.mark.parametrize("name", FULL)
def test_every_single_substitution_that_check_digits_can_catch_is_caught(name: str) -> None:
    """A check digit is blind to values that differ by ten (0 and A, K, U) and to nothing else."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ<"
    value = {c: 0 if c == "<" else alphabet.index(c) for c in alphabet}
    text = FULL[name]
    lines = text.split("\n")
    cells = [
        (line, column)
        for line, first, last in UNDER_CHECK_DIGITS[parse(text).format]
        for column in range(first, last + 1)
    ]
    tried = 0
    for (line, column), new in product(cells, alphabet):
        if (value[lines[line - 1][column - 1]] - value[new]) % 10:
            tried += 1
            fault(changed(text, line, column, new))
    assert tried > 700


@pytest.mark.parametrize("name", ["TD3", "TD1", "TD2", "MRV-A", "MRV-B"])
def test_swapped_neighbours_in_number_and_dates_are_caught(name: str) -> None:
    """Weights 7, 3, 1 see a swap unless the two values differ by a multiple of five."""
    text = SPECIMENS[name]
    lines = text.split("\n")
    layout = LAYOUTS[name]
    for span in (layout.number, layout.birth, layout.expiry):
        for column in range(span.start, span.end - 1):
            pair = lines[span.line][column : column + 2]
            if abs(int(pair[0], 36) - int(pair[1], 36)) % 5:
                fault(changed(text, span.line + 1, column + 1, pair[::-1]))


def test_bytes_are_not_text() -> None:
    with pytest.raises(TypeError):
        parse(TD3.encode())  # type: ignore[arg-type]
