"""Two-digit years of a machine readable zone, and dates that are only partly known. No I/O, no clock."""

import re
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import date

EXPIRY_WINDOW_YEARS = 15
"""A document that expires later than this from today is taken to have expired a century before (TR-03135-1, 5.7.1)."""


_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class PartialDate:
    """A date of birth of which parts may be unknown (None), as Doc 9303-3 4.8 allows."""

    year: int | None = field(repr=False)
    month: int | None = field(repr=False)
    day: int | None = field(repr=False)

    def iso(self) -> str:
        """YYYY-MM-DD with X for what is unknown. Personal data."""
        year = "XXXX" if self.year is None else f"{self.year:04}"
        month = "XX" if self.month is None else f"{self.month:02}"
        day = "XX" if self.day is None else f"{self.day:02}"
        return f"{year}-{month}-{day}"

    def latest(self) -> date | None:
        """The last day that it can have been, for rules on a least age; None when not even the year is known."""
        if self.year is None:
            return None
        month = self.month or 12
        days = monthrange(self.year, month)[1]
        return date(self.year, month, min(self.day or days, days))

    def earliest(self) -> date | None:
        """The first day that it can have been; None when not even the year is known."""
        if self.year is None:
            return None
        return date(self.year, self.month or 1, self.day or 1)


def _part(text: str) -> int | None:
    return None if text == "<<" else int(text)


def strange_birth(text: str) -> tuple[int, str] | None:
    """Offset and expectation of the first character of YYMMDD that is neither a digit nor half of an unknown `<<`."""
    for at in (0, 2, 4):
        pair = text[at : at + 2]
        if pair == "<<" or _DIGITS.fullmatch(pair):
            continue
        wrong = next((i for i in (0, 1) if not _DIGITS.fullmatch(pair[i]) and pair[i] != "<"), pair.find("<"))
        return at + wrong, "two digits, or << where unknown"
    return None


def strange_expiry(text: str) -> tuple[int, str] | None:
    """Offset and expectation of the first character of YYMMDD that is no digit: an expiry is always known."""
    if _DIGITS.fullmatch(text):
        return None
    return next((at, "a digit") for at, character in enumerate(text) if not _DIGITS.fullmatch(character))


def no_such_date(text: str) -> tuple[int, str] | None:
    """Offset and expectation of the part of YYMMDD that no calendar has; None when there is such a date."""
    year, month, day = _part(text[:2]), _part(text[2:4]), _part(text[4:])
    if month is not None and not 1 <= month <= 12:
        return 2, "a month, 01 to 12"
    # 2000 stands for every leap year: 00 is one in this century, and an unknown year may be one
    longest = 31 if month is None else monthrange(2000 if year is None else 2000 + year, month)[1]
    if day is not None and not 1 <= day <= longest:
        return 4, "a day of that month"
    return None


def expiry_on(text: str, today: date) -> date:
    """The date that YYMMDD means on `today`: the latest one not after today + 15 years (TR-03135-1, 5.7.1)."""
    limit = (today.year + EXPIRY_WINDOW_YEARS, today.month, today.day)
    month, day = int(text[2:4]), int(text[4:])
    century = limit[0] // 100 * 100
    for year in range(century + int(text[:2]), 0, -100):
        # 29 February of 1900 or 2100 never was: the same digits then mean another century
        if (year, month, day) <= limit and day <= monthrange(year, month)[1]:
            return date(year, month, day)
    raise AssertionError("a sound YYMMDD exists in some century")


def birth_on(text: str, today: date) -> PartialDate:
    """The date of birth that YYMMDD means on `today`: the latest one that is not after it."""
    month, day = _part(text[2:4]), _part(text[4:])
    if text[:2] == "<<":
        return PartialDate(None, month, day)
    for year in range(today.year // 100 * 100 + int(text[:2]), 0, -100):
        if month is not None and day is not None and day > monthrange(year, month)[1]:
            continue
        if (year, month or 1, day or 1) <= (today.year, today.month, today.day):
            return PartialDate(year, month, day)
    raise AssertionError("a sound YYMMDD exists in some century")
