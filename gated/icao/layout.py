"""Where everything stands in the five machine readable zones (ICAO Doc 9303 parts 3-7). No I/O, no clock."""

import re
from dataclasses import dataclass

_VALUES = bytes.maketrans(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ<",
    bytes([*range(10), *range(10, 36), 0]),
)
_STRANGE = re.compile(r"[^A-Z0-9<]")


class MrzError(ValueError):
    """A machine readable zone is not valid: which field, where, what was expected, what was found.

    `position` is (line, column), both from 1. `found` is never more than one character of the zone (a check
    digit, or a character that may not stand there) or words that describe the fault; everything longer could
    name a person, so this error can be logged and shown as it is."""

    def __init__(self, field: str, position: tuple[int, int], expected: str, found: str) -> None:
        super().__init__(field, position, expected, found)
        self.field = field
        self.position = position
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        line, column = self.position
        return f"{self.field}, line {line} column {column}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Span:
    """A run of characters: line and start from 0, `end` behind the last one."""

    line: int
    start: int
    end: int

    def of(self, lines: tuple[str, ...]) -> str:
        return lines[self.line][self.start : self.end]

    @property
    def position(self) -> tuple[int, int]:
        """(line, column) from 1, as the tables of Doc 9303 count."""
        return self.line + 1, self.start + 1

    @property
    def width(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Layout:
    """One format. The check digit of `number`, `birth` and `expiry` stands right behind the field."""

    name: str
    lines: int
    width: int
    number: Span
    nationality: Span
    birth: Span
    sex: Span
    expiry: Span
    names: Span
    optional: tuple[Span, ...]
    optional_check: Span | None
    """Where the optional data have a check digit of their own (TD3 alone); `<` or 0 when they are empty."""
    composite: Span | None
    composite_of: tuple[Span, ...]
    long_numbers: bool
    """Whether a number of more than nine characters goes on in the first optional field."""

    @property
    def code(self) -> Span:
        return Span(0, 0, 2)

    @property
    def issuer(self) -> Span:
        return Span(0, 2, 5)


def _two_lines(name: str, width: int, optional: Span, *, visa: bool = False) -> Layout:
    """TD2, TD3 and both visas differ in width and in what stands behind column 28 of the second line."""
    td3 = name == "TD3"
    composite_end = width - 1
    return Layout(
        name=name,
        lines=2,
        width=width,
        number=Span(1, 0, 9),
        nationality=Span(1, 10, 13),
        birth=Span(1, 13, 19),
        sex=Span(1, 20, 21),
        expiry=Span(1, 21, 27),
        names=Span(0, 5, width),
        optional=(optional,),
        optional_check=Span(1, 42, 43) if td3 else None,
        composite=None if visa else Span(1, composite_end, width),
        composite_of=() if visa else (Span(1, 0, 10), Span(1, 13, 20), Span(1, 21, composite_end)),
        long_numbers=name == "TD2",
    )


TD1 = Layout(
    name="TD1",
    lines=3,
    width=30,
    number=Span(0, 5, 14),
    nationality=Span(1, 15, 18),
    birth=Span(1, 0, 6),
    sex=Span(1, 7, 8),
    expiry=Span(1, 8, 14),
    names=Span(2, 0, 30),
    optional=(Span(0, 15, 30), Span(1, 18, 29)),
    optional_check=None,
    composite=Span(1, 29, 30),
    composite_of=(Span(0, 5, 30), Span(1, 0, 7), Span(1, 8, 15), Span(1, 18, 29)),
    long_numbers=True,
)
"""Doc 9303-5, 4.2.2 and 4.2.4."""
TD2 = _two_lines("TD2", 36, Span(1, 28, 35))
"""Doc 9303-6, 4.2.2 and 4.2.4."""
TD3 = _two_lines("TD3", 44, Span(1, 28, 42))
"""Doc 9303-4, 4.2.2 and 4.2.4."""
MRV_A = _two_lines("MRV-A", 44, Span(1, 28, 44), visa=True)
"""Doc 9303-7, 4.2.2: a visa has no composite check digit, and its long numbers are cut, not continued (note j)."""
MRV_B = _two_lines("MRV-B", 36, Span(1, 28, 36), visa=True)
"""Doc 9303-7, 5.2.2."""

LAYOUTS = {layout.name: layout for layout in (TD1, TD2, TD3, MRV_A, MRV_B)}
SIZES = "3 lines of 30, 2 of 36 or 2 of 44 characters"
_RUNS = {90: (3, 30), 72: (2, 36), 88: (2, 44)}


def check_digit(text: str) -> str:
    """Weights 7, 3, 1 modulo 10 over 0-9, A=10 ... Z=35, `<`=0 (Doc 9303-3, 4.9). `text` is of that alphabet."""
    values = text.encode("ascii").translate(_VALUES)
    return "0123456789"[(7 * sum(values[::3]) + 3 * sum(values[1::3]) + sum(values[2::3])) % 10]


def spell(character: str) -> str:
    """One character for an error: as it is where it can be printed, else its code point."""
    return character if "!" <= character <= "~" else f"U+{ord(character):04X}"


def lay_out(lines: tuple[str, ...]) -> tuple[Layout, tuple[str, ...]]:
    """Which format these lines are, and the lines: a single run of 72, 88 or 90 characters is cut into its lines.

    Raises `MrzError` when there is no such format or a character is outside the alphabet of 9303-3, 4.3."""
    if len(lines) == 1 and len(lines[0]) in _RUNS:
        count, width = _RUNS[len(lines[0])]
        lines = tuple(lines[0][i * width : (i + 1) * width] for i in range(count))
    layout = _layout(lines)
    for index, line in enumerate(lines):
        strange = _STRANGE.search(line)
        if strange:
            raise MrzError("alphabet", (index + 1, strange.start() + 1), "A-Z, 0-9 or <", spell(strange[0]))
    return layout, lines


def _layout(lines: tuple[str, ...]) -> Layout:
    if not lines:
        raise MrzError("format", (1, 1), SIZES, "nothing")
    sizes = [len(line) for line in lines]
    visa = lines[0].startswith("V")
    if sizes == [30, 30, 30]:
        return TD1
    if sizes == [36, 36]:
        return MRV_B if visa else TD2
    if sizes == [44, 44]:
        return MRV_A if visa else TD3
    if len(lines) > 3:
        raise MrzError("format", (4, 1), SIZES, f"{len(lines)} lines")
    number, wrong = _wrong_line(sizes)
    found = f"{len(lines)} line{'s' if len(lines) > 1 else ''} of {', '.join(map(str, sizes))}"
    raise MrzError("format", (number, wrong + 1), SIZES, found)


def _wrong_line(sizes: list[int]) -> tuple[int, int]:
    """The line most likely at fault, from 1, and where it ends or runs over: the last one that is not full."""
    full = {2: (36, 44), 3: (30,)}.get(len(sizes), ())
    for index, size in enumerate(sizes):
        if size not in full:
            return index + 1, min(size, max(full, default=size))
    return len(sizes), sizes[-1]
