"""Valid machine readable lines from fields: for tests, the simulator and the proof of readers. No I/O, no clock."""

import re
from datetime import date

from gated.icao.layout import LAYOUTS, TD3, Layout, Span, check_digit

_OMITTED = re.compile(r"['’.]")
_SEPARATOR = re.compile(r"[ ,\-]+")


def render(
    format: str,
    *,
    issuer: str,
    number: str,
    nationality: str,
    birth: date | str,
    sex: str,
    expiry: date | str,
    surname: str,
    given_names: str = "",
    code: str = "",
    optional: str = "",
    empty_check: str = "<",
) -> tuple[str, ...]:
    """The lines of a TD1, TD2, TD3, MRV-A or MRV-B with every check digit right.

    `birth` and `expiry` are dates or YYMMDD; `code` defaults to P, V or I; `optional` of a TD1 may hold both
    fields with a blank between; `empty_check` (`<` or `0`) is TD3's check digit over empty optional data. A number
    of more than nine characters goes on in the optional data of TD1 and TD2. Names that do not fit are cut so that
    the field ends in a letter. Raises `ValueError` (without any content) for what cannot be printed."""
    layout = LAYOUTS.get(format)
    if layout is None:
        raise ValueError(f"no such format: one of {', '.join(LAYOUTS)} is wanted")
    grid = [["<"] * layout.width for _ in range(layout.lines)]
    usual = "P" if layout is TD3 else "V" if format.startswith("MRV") else "I"
    _put(grid, layout.code, code or usual, "code")
    _put(grid, layout.issuer, issuer, "issuer")
    _put(grid, layout.nationality, nationality, "nationality")
    _put(grid, layout.sex, "<" if sex == "X" else sex, "sex")
    _put(grid, layout.names, _name_field(surname, given_names, layout.names.width), "names")
    for span, value, name in ((layout.birth, birth, "birth"), (layout.expiry, expiry, "expiry")):
        text = value if isinstance(value, str) else value.strftime("%y%m%d")
        _put(grid, span, text + check_digit(_plain(text, name)), name, beyond=1)
    _put_number(grid, layout, _SEPARATOR.sub("<", number), optional.split(" "))
    lines = tuple("".join(row) for row in grid)
    if layout.optional_check is not None:
        data = layout.optional[0].of(lines)
        _put(grid, layout.optional_check, check_digit(data) if data.strip("<") else empty_check, "empty_check")
    lines = tuple("".join(row) for row in grid)
    if layout.composite is not None:
        covered = "".join(span.of(lines) for span in layout.composite_of)
        _put(grid, layout.composite, check_digit(covered), "composite")
    return tuple("".join(row) for row in grid)


def _put_number(grid: list[list[str]], layout: Layout, number: str, optional: list[str]) -> None:
    """The number with its check digit, and the optional fields behind what a long number leaves of the first."""
    if len(optional) > len(layout.optional):
        raise ValueError(f"{layout.name} has {len(layout.optional)} optional field(s)")
    _plain(number, "number")
    if len(number) <= layout.number.width:
        digit = check_digit(number.ljust(layout.number.width, "<"))
        _put(grid, layout.number, number.ljust(layout.number.width, "<") + digit, "number", beyond=1)
    elif layout.long_numbers:
        width = layout.number.width
        _put(grid, layout.number, number[:width], "number")
        optional = [number[width:] + check_digit(number) + "<" + optional[0], *optional[1:]]
    else:
        raise ValueError(f"the number of a {layout.name} has at most {layout.number.width} characters")
    for span, value in zip(layout.optional, optional, strict=False):
        _put(grid, span, value, "optional")


def _plain(text: str, name: str) -> str:
    if re.fullmatch(r"[A-Z0-9<]*", text) is None:
        raise ValueError(f"{name}: only A-Z, 0-9 and < can be printed")
    return text


def _put(grid: list[list[str]], span: Span, text: str, name: str, beyond: int = 0) -> None:
    """Write `text` at `span`; `beyond`: so many more characters behind it (a check digit)."""
    if len(text) > span.width + beyond:
        raise ValueError(f"{name}: at most {span.width} characters")
    grid[span.line][span.start : span.start + len(text)] = _plain(text, name)


def _name_field(surname: str, given_names: str, width: int) -> str:
    """Doc 9303-3 4.6: apostrophes and full stops go, blanks, commas and hyphens become one filler."""
    primary, secondary = (
        _SEPARATOR.sub("<", _OMITTED.sub("", name).strip().upper()) for name in (surname, given_names)
    )
    field = f"{primary}<<{secondary}" if secondary else primary
    while len(field) > width and field[width - 1] == "<":
        # a cut name ends in a letter (9303-4 4.2.2): the longest component before the gap gives up its last one
        longest = max(re.finditer(r"[A-Z]+", field[:width]), key=lambda found: found.end() - found.start())
        field = field[: longest.end() - 1] + field[longest.end() :]
    return field[:width]
