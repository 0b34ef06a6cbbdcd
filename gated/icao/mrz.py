"""Machine readable zones after ICAO Doc 9303 parts 3-7. No I/O, no clock."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from gated.icao import states
from gated.icao.dates import PartialDate, birth_on, expiry_on, no_such_date, strange_birth, strange_expiry
from gated.icao.layout import TD3, Layout, MrzError, Span, check_digit, lay_out
from gated.icao.render import render

__all__ = ["PASSPORT_KINDS", "Document", "MrzError", "PartialDate", "check_digit", "parse", "render"]

PASSPORT_KINDS = {
    "PP": "ordinary",
    "PE": "emergency",
    "PD": "diplomatic",
    "PO": "official or service",
    "PR": "refugee",
    "PT": "alien",
    "PS": "stateless",
    "PL": "laissez-passer",
    "PM": "military",
    "PU": "emergency, single sheet",
}
"""Second letters that Doc 9303-4 4.4 harmonizes: allowed from 2026-01-01, demanded of new passports from 2028-01-01.
PU is 9303-8's. Every other second letter of a passport is its issuer's own."""

_LONGEST_TEXT = 1000
_NEWLINE = re.compile(r"\r\n|\r|\n")
_NAMES = re.compile(r"([A-Z]+(?:<[A-Z]+)*)(?:<<([A-Z]+(?:<[A-Z]+)*))?<*")
_TAIWANESE_NUMBER = re.compile(r"[A-Z][0-9]{9}")
_TAIWANESE_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
"""A stands for 10, B for 11 ... O for 35: the order in which Taiwan's counties got their letters."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a machine readable zone says. Two-digit years stay as printed until a day of use is given."""

    format: str
    """TD1, TD2, TD3, MRV-A or MRV-B."""
    code: str
    """Document code without fillers: P, PP, I, V ..."""
    issuer: str
    """Three-letter code as printed, without fillers (D for Germany)."""
    number: str = field(repr=False)
    """Without trailing fillers; a long number of TD1 or TD2 is put together."""
    nationality: str = field(repr=False)
    """Three-letter code as printed, without fillers."""
    birth: str = field(repr=False)
    """YYMMDD; unknown parts are '<'."""
    sex: str = field(repr=False)
    """M, F or X."""
    expiry: str = field(repr=False)
    """YYMMDD."""
    surname: str = field(repr=False)
    given_names: str = field(repr=False)
    names_truncated: bool = field(repr=False)
    """The name field ends in a letter, so it must be taken as cut (Doc 9303-4, 4.2.2)."""
    optional: str = field(repr=False)
    """Optional data without trailing fillers (TD1: both fields joined by a blank)."""
    lines: tuple[str, ...] = field(repr=False)

    def expires_on(self, today: date) -> date:
        """The day of expiry as understood on `today` (15-year rule of BSI TR-03135-1, 5.7.1)."""
        return expiry_on(self.expiry, today)

    def born_on(self, today: date) -> PartialDate:
        """The date of birth as understood on `today`: never after it, so at most 99 years back."""
        return birth_on(self.birth, today)

    @property
    def personal_number(self) -> str | None:
        """The national identification number in a Taiwanese passport's optional data, None where there is none.

        One letter and nine digits whose own check digit holds; anything else there is not a personal number."""
        if self.format != TD3.name or self.issuer != "TWN":
            return None
        return self.optional if is_taiwanese_number(self.optional) else None

    @property
    def passport_kind(self) -> str | None:
        """What a harmonized two-letter passport code stands for; None for every other code."""
        return PASSPORT_KINDS.get(self.code) if self.format == TD3.name else None

    def same_name(self, other: "Document") -> bool:
        """Whether both name the same person, as far as cut names can tell.

        Exact where neither name field is full. Where one is, each of its components may be cut short or be an
        initial, and components that came last may be missing (Doc 9303-4 4.2.3 leaves the way to the issuer)."""
        if not (self.names_truncated or other.names_truncated):
            return (self.surname, self.given_names) == (other.surname, other.given_names)
        return _same_components(
            self.surname.split(),
            other.surname.split(),
            # a surname that fills the whole field may have lost components, and all given names with them
            self.names_truncated and not self.given_names,
            other.names_truncated and not other.given_names,
            self.names_truncated,
            other.names_truncated,
        ) and _same_components(
            self.given_names.split(),
            other.given_names.split(),
            self.names_truncated,
            other.names_truncated,
            self.names_truncated,
            other.names_truncated,
        )


def _same_components(
    mine: list[str], theirs: list[str], mine_short: bool, theirs_short: bool, mine_cut: bool, theirs_cut: bool
) -> bool:
    """Component by component; `short`: later components may be missing, `cut`: a component may be a prefix."""
    if (len(mine) < len(theirs) and not mine_short) or (len(theirs) < len(mine) and not theirs_short):
        return False
    return all(
        a == b or (mine_cut and b.startswith(a)) or (theirs_cut and a.startswith(b))
        for a, b in zip(mine, theirs, strict=False)
    )


def is_taiwanese_number(text: str) -> bool:
    """Whether `text` is a national identification or resident number whose check digit is right."""
    if not _TAIWANESE_NUMBER.fullmatch(text):
        return False
    letter = _TAIWANESE_LETTERS.index(text[0]) + 10
    digits = [letter // 10, letter % 10, *map(int, text[1:])]
    # the letter's tens weigh 1, its units 9; the last digit is the check digit
    return sum(d * w for d, w in zip(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True)) % 10 == 0


def parse(text: str | Sequence[str]) -> Document:
    """Read a machine readable zone: lines, a text of lines (CR, LF or CRLF), or one run of 72, 88 or 90 characters.

    Blank lines and blanks around a line are dropped. Every check digit is tested, every field must be sound.
    Raises `MrzError` for anything else, whatever the text."""
    layout, lines = lay_out(_lines(text))
    code = _document_code(layout, lines)
    issuer = _state("issuer", layout.issuer, lines, states.ISSUERS)
    number, optional = _number(layout, lines)
    birth = _date("birth", layout.birth, lines, strange_birth)
    expiry = _date("expiry", layout.expiry, lines, strange_expiry)
    _check_optional(layout, lines)
    _check_composite(layout, lines)
    nationality = _state("nationality", layout.nationality, lines, states.NATIONALITIES)
    sex = layout.sex.of(lines)
    if sex not in "MFX<":
        raise MrzError("sex", layout.sex.position, "M, F or <", sex)
    surname, given_names, truncated = _names(layout.names, lines)
    return Document(
        format=layout.name,
        code=code,
        issuer=issuer,
        number=number,
        nationality=nationality,
        birth=birth,
        sex="X" if sex == "<" else sex,
        expiry=expiry,
        surname=surname,
        given_names=given_names,
        names_truncated=truncated,
        optional=optional,
        lines=lines,
    )


def _lines(text: str | Sequence[str]) -> tuple[str, ...]:
    parts = [text] if isinstance(text, str) else list(text)
    if sum(map(len, parts)) > _LONGEST_TEXT or len(parts) > _LONGEST_TEXT:
        raise MrzError("format", (1, 1), f"at most {_LONGEST_TEXT} characters", "more")
    split = [line.strip(" \t") for part in parts for line in _NEWLINE.split(part)]
    return tuple(line for line in split if line)


def _document_code(layout: Layout, lines: tuple[str, ...]) -> str:
    """The first letter says what the document is. The second character is its issuer's (a letter in a passport).

    Doc 9303 wants A, C or I of cards and P of passports; permits with other letters are in use, no check digit
    depends on them, and whether a lane takes such a document is its policy's question."""
    code = layout.code.of(lines)
    first, second = code[0], code[1]
    if not first.isalpha():
        raise MrzError("document code", (1, 1), "a letter", first)
    if layout is TD3 and second.isdigit():
        raise MrzError("document code", (1, 2), "a letter or <", second)
    return code.rstrip("<")


def _state(name: str, span: Span, lines: tuple[str, ...], known: frozenset[str]) -> str:
    printed = span.of(lines)
    code = printed.rstrip("<")
    if code not in known:
        raise MrzError(name, span.position, "a code of Doc 9303-3 section 5", "no such code")
    return code


def _check(name: str, covered: str, line: int, column: int, found: str) -> None:
    """`line` and `column` of the check digit, from 1."""
    expected = check_digit(covered)
    if found != expected:
        raise MrzError(f"{name} check digit", (line, column), expected, found)


def _number(layout: Layout, lines: tuple[str, ...]) -> tuple[str, str]:
    """The document number, and the optional data that are left after a long one (Doc 9303-5 and -6, note j)."""
    span = layout.number
    printed = span.of(lines)
    digit = lines[span.line][span.end]
    fields = [each.of(lines) for each in layout.optional]
    if layout.long_numbers and digit == "<" and printed[-1] != "<":
        rest = layout.optional[0]
        stop = fields[0].find("<")
        if stop < 0:
            raise MrzError("number", (rest.line + 1, rest.end), "< behind a long number", fields[0][-1])
        if stop < 2:
            raise MrzError("number check digit", (span.line + 1, span.end + 1), check_digit(printed), "<")
        printed += fields[0][: stop - 1]
        _check("number", printed, rest.line + 1, rest.start + stop, fields[0][stop - 1])
        fields[0] = fields[0][stop + 1 :]
    else:
        _check("number", printed, span.line + 1, span.end + 1, digit)
    number = printed.rstrip("<")
    if not number or number[0] == "<":
        raise MrzError("number", span.position, "a letter or digit", "<")
    return number, " ".join(each.rstrip("<") for each in fields).rstrip()


def _date(name: str, span: Span, lines: tuple[str, ...], strange: Callable[[str], tuple[int, str] | None]) -> str:
    """Characters before check digit before calendar, so that an O read for a 0 is called that."""
    text = span.of(lines)
    line, column = span.position
    wrong = strange(text)
    if wrong is not None:
        raise MrzError(name, (line, column + wrong[0]), wrong[1], text[wrong[0]])
    _check(name, text, line, span.end + 1, lines[span.line][span.end])
    wrong = no_such_date(text)
    if wrong is not None:
        raise MrzError(name, (line, column + wrong[0]), wrong[1], "another number")
    return text


def _check_optional(layout: Layout, lines: tuple[str, ...]) -> None:
    if layout.optional_check is None:
        return
    covered = layout.optional[0].of(lines)
    found = layout.optional_check.of(lines)
    if found == "<" and not covered.strip("<"):
        return
    line, column = layout.optional_check.position
    _check("optional data", covered, line, column, found)


def _check_composite(layout: Layout, lines: tuple[str, ...]) -> None:
    if layout.composite is None:
        return
    covered = "".join([span.of(lines) for span in layout.composite_of])
    line, column = layout.composite.position
    _check("composite", covered, line, column, layout.composite.of(lines))


def _names(span: Span, lines: tuple[str, ...]) -> tuple[str, str, bool]:
    """Surname and given names with blanks between components, and whether the field may have been cut.

    No check digit stands over names, so their form is held to the letter (Doc 9303-3, 4.6): a filler that is read
    as a letter behind the name, as often happens with K, S, C or E, is an error and not a further given name."""
    printed = span.of(lines)
    sound = _NAMES.match(printed)
    at = sound.end() if sound else 0
    if sound is None or at < span.width:
        expected = "a letter" if at == 0 else "< behind the names" if printed[at].isalpha() else "A-Z or <"
        raise MrzError("names", (span.line + 1, span.start + at + 1), expected, printed[at])
    primary, secondary = sound.groups("")
    return primary.replace("<", " "), secondary.replace("<", " "), printed[-1] != "<"
