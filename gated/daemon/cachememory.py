"""What the lane remembers of its cache in its own database, so that an old file put back is not taken for a new one.

The files are sync's, and the word on their age in them is in clear: whoever can write to the disk can put an old one
back and say that it was confirmed just now. What it holds is still HQ's; how old that is, the lane then says it does
not know, and the policy decides as for a cache that has expired."""

from dataclasses import dataclass
from datetime import UTC, datetime

from gated.store.cachefile import CacheNote

UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
"""When a file was confirmed whose own word on that is not believed."""
GENERATIONS_KEPT = 2


@dataclass(frozen=True, slots=True)
class _Seen:
    epoch: int
    serial: int
    as_of: datetime


class Memory:
    """Of one partition: how far each of the last generations had come when the lane last looked.

    `text`: as `text` gave it, or ""; what cannot be read is forgotten."""

    def __init__(self, text: str = "") -> None:
        self._seen: dict[int, _Seen] = {}
        try:
            for line in filter(None, text.split(" ")):
                generation, epoch, serial, as_of = line.split("|")
                self._seen[int(generation)] = _Seen(int(epoch), int(serial), datetime.fromisoformat(as_of))
        except ValueError:
            self._seen = {}

    def believed(self, note: CacheNote, as_of: datetime) -> datetime:
        """When this generation was confirmed, as far as its file can be believed; and remembers it."""
        here = (note.epoch, note.serial)
        seen = self._seen.get(note.generation)
        newest = note.generation >= max(self._seen, default=0)
        least = (
            (seen.epoch, seen.serial) if seen else max(((s.epoch, s.serial) for s in self._seen.values()), default=here)
        )
        if here < least:
            return UNKNOWN
        if not newest:  # nobody confirms it any more
            return min(as_of, seen.as_of) if seen else UNKNOWN
        self._seen[note.generation] = _Seen(*here, as_of)
        for old in sorted(self._seen)[:-GENERATIONS_KEPT]:
            del self._seen[old]
        return as_of

    @property
    def as_of(self) -> datetime | None:
        """When the newest generation was last confirmed; None: no file was ever seen."""
        return self._seen[max(self._seen)].as_of if self._seen else None

    @property
    def text(self) -> str:
        """To be given to the next `Memory`."""
        return " ".join(f"{g}|{s.epoch}|{s.serial}|{s.as_of.isoformat()}" for g, s in sorted(self._seen.items()))
