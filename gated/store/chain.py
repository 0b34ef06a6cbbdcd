"""The open hash chain over the journal's rows as they are stored: whoever may read the file can follow it.

It proves to the uplink, which has no keys, that nobody took a row out, put one in or changed one before a head that
was told to HQ. Who can write the file can also compute it, so it proves nothing behind that head; the keyed chain
inside the rows (`gated.store.journal`) does, to who holds the journal's key.
"""

from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Final

LINK_BYTES: Final = 32
BASE_NOTE: Final = "journal_base"
"""The note that says which row was trimmed last (`Base`)."""
UNLINKED_NOTE: Final = "journal_unlinked"
"""The note that names the last row of edition 1, which had no links; not there where every row has one."""
ROW: Final = "id, boot, n, mono, utc, clear, sealed, chain, link"
"""The columns of a row, as `link_of` takes them behind `before`."""
NONE: Final = 0xFFFFFFFF

_LENGTHS: Final = Struct(">qdIIIII")


@dataclass(frozen=True, slots=True)
class Base:
    """The last row that was trimmed: number 0 before that. `utc` and `link` are its own; empty where it had none."""

    id: int
    utc: str = ""
    link: bytes = b""

    def text(self) -> str:
        """As it stands in the note."""
        return f"{self.id} {self.utc or '-'} {self.link.hex() or '-'}"

    @classmethod
    def of(cls, text: str | None) -> "Base":
        """The base that a note says. Raises `ValueError`."""
        if text is None:
            return cls(0)
        number, utc, link = text.split(" ")
        return cls(int(number), "" if utc == "-" else utc, b"" if link == "-" else bytes.fromhex(link))


def start_of(generation: str) -> bytes:
    """What the first row with a link refers to."""
    return sha256(b"gated journal v1\n" + generation.encode()).digest()


def link_of(
    before: bytes, boot: str, n: int, mono: float, utc: str, clear: bytes, sealed: bytes | None, chain: bytes
) -> bytes:
    """The link of a row behind the one with the link `before`. Raises what a value of another type raises."""
    named, stamped = boot.encode(), utc.encode()
    lengths = _LENGTHS.pack(
        n,
        mono + 0.0,  # SQLite keeps no negative zero
        len(named),
        len(stamped),
        len(clear),
        NONE if sealed is None else len(sealed),
        len(chain),
    )
    return sha256(b"".join((before, lengths, named, stamped, clear, sealed or b"", chain))).digest()
