"""What the lane has beside what HQ wants it to have. HQ's word names versions and brings none: what the lane then
fetches is signed, and it fetches it without being told (docs/sync.md). So this is how HQ sees who is behind."""

from collections.abc import Iterable
from datetime import UTC, datetime

from gated.wire import link
from gated.wire.facts import Part


class Versions:
    """Follows both and makes the `Reported` that is due."""

    def __init__(self) -> None:
        self._wanted = link.Desired(0, datetime.min.replace(tzinfo=UTC))
        self._told: tuple[int, tuple[Part, ...]] | None = None

    def desired(self, wanted: link.Desired) -> bool:
        """HQ's word. False, and nothing is changed, where it is older than what was heard."""
        if wanted.revision < self._wanted.revision:
            return False
        self._wanted = wanted
        return True

    def afresh(self) -> None:
        """A new connection: what was told may be gone."""
        self._told = None

    def due(self, parts: Iterable[Part], utc: datetime) -> link.Reported | None:
        """What to tell HQ, where that is news."""
        has = tuple(parts)
        if self._told == (self._wanted.revision, has):
            return None
        self._told = self._wanted.revision, has
        behind = tuple(part.name for part in self._wanted.parts if part not in has)
        return link.Reported(self._wanted.revision, utc, has, behind)
