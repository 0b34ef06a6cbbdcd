"""Working days (E7). No I/O, no clock."""

from dataclasses import dataclass
from datetime import date, timedelta

ONE_DAY = timedelta(days=1)


class CalendarEnded(Exception):
    """A day beyond the last one that the calendar knows: what is a working day then nobody has said yet."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """Monday to Friday, but for `days_off`; and `workdays`, weekend days that are worked. Known up to `through`."""

    through: date
    days_off: frozenset[date] = frozenset()
    workdays: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        if late := sorted(day for day in self.days_off | self.workdays if day > self.through):
            raise ValueError(f"through is {self.through}, and {late[0]} is after it")
        if idle := sorted(day for day in self.days_off if _is_weekend(day)):
            raise ValueError(f"days_off names {idle[0]}, which is off anyway: it is a weekend day")
        if busy := sorted(day for day in self.workdays if not _is_weekend(day)):
            raise ValueError(f"workdays names {busy[0]}, which is worked anyway: it is no weekend day")

    def is_workday(self, day: date) -> bool:
        """Raises `CalendarEnded`."""
        if day > self.through:
            raise CalendarEnded(f"the calendar ends on {self.through}")
        return day in self.workdays if _is_weekend(day) else day not in self.days_off

    def after(self, day: date, workdays: int) -> date:
        """The day that comes so many working days after `day`; `day` itself for 0. Raises `CalendarEnded`."""
        for _ in range(workdays):
            day += ONE_DAY
            while not self.is_workday(day):
                day += ONE_DAY
        return day


def _is_weekend(day: date) -> bool:
    return day.weekday() >= 5
