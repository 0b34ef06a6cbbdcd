"""The rows of the enrolment cache, and how HQ seals what the lane opens. No I/O, no clock, no randomness.

A row stands at a *place*, 16 bytes of keyed hash that say nothing to whoever holds no key, and is sealed so that it
opens there alone. HQ seals each row once per epoch of its partition; between HQ and the lane it is opaque bytes.

`people` holds, for whoever is enrolled: the person (the only large row); a document (issuer, number) -> its subject,
and a personal number -> its subject, so that a renewed passport finds the same enrolment (E9).
`control` holds control flags of a subject (W7) and the status of a document, enrolled or not (W8).

A place of `control` has slots: a further flag goes into the next free slot, as a row of its own. So whoever can only
add rows can only add bans; what takes a row away or replaces one lifts something, and needs a second key
(`gated.wire.bundle.Base.lifts`). The slots of a place are filled from 0 on without a gap.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

import zstandard

from gated.wire.canonical import parse
from gated.wire.codec import WireError, added, encode, kinds, load, personal
from gated.wire.seal import PAD_BYTES, SealError, SealKey, derived, lookup_key, open_sealed, padded, seal_to, unpadded

PEOPLE: Final = "people"
CONTROL: Final = "control"
PARTITIONS: Final = (PEOPLE, CONTROL)
CODE: Final = {"limit": 64}
SLOTS_MAX: Final = 64
PLAIN_BYTES_MAX: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PermitRow:
    """A permit (O1, O2, O3, O5, O9): valid while start <= day <= end and entries are left (None: any number)."""

    kind: str = field(metadata=CODE)
    start: date
    end: date
    entries_left: int | None = None


@dataclass(frozen=True, slots=True)
class FingerRow:
    """An enrolled finger: its position (`right_index`) and its template in `format` (`iso19794-2`)."""

    position: str = field(metadata=CODE)
    format: str = field(metadata=CODE)
    template: bytes = field(repr=False, metadata={"limit": 8192})


@dataclass(frozen=True, slots=True)
class CrossingRow:
    """One crossing that HQ had counted when it made the row; `utc` is the lane's, which knows it by that (O7, O8)."""

    direction: str = field(metadata=CODE)
    """entry or exit."""
    utc: datetime
    issuer: str = personal(limit=8)
    """Of the document that was used."""
    number: str = personal(limit=64)


CROSSINGS_MAX: Final = 6
"""A row has the last crossings, newest last: a lane can be so many behind."""


@dataclass(frozen=True, slots=True)
class PersonRow:
    """One enrolment, bound to the person and not to a document. No name: the lane needs none to decide."""

    subject: int
    category: str = field(metadata=CODE)
    """Category of traveller (W1, W3)."""
    birth: date = field(repr=False)
    sex: str = field(repr=False, metadata={"limit": 1})
    """M, F or X."""
    face: bytes | None = personal(None, limit=8192)
    """Template, little-endian float32; None: the face could not be enrolled (L3)."""
    face_model: str = field(default="", metadata=CODE)
    """The network that made it: templates of two networks cannot be compared."""
    fingers: tuple[FingerRow, ...] = personal((), limit=10)
    permits: tuple[PermitRow, ...] = personal((), limit=64)
    usable_from: date | None = None
    """First day of use (E7); None: at once."""
    enrolled_on: date | None = None
    origin: str = added("counter", limit=64)
    """Where they were enrolled: counter, office, gate, entry."""
    received_on: date | None = added(None, is_personal=True)
    """When the passport that an office's enrolment waits for was received (E6, E7)."""
    height_cm: int | None = added(None, is_personal=True)
    """As stated or measured (W2)."""
    crossings: tuple[CrossingRow, ...] = added((), limit=CROSSINGS_MAX, is_personal=True)


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """Whose document, or whose personal number, this is."""

    subject: int
    expected_on: date | None = added(None, is_personal=True)
    """Advance passenger information names this document for this day (W9)."""


@dataclass(frozen=True, slots=True)
class FlagsRow:
    """Control flags of a person, or the status of a document (`lost`, `stolen`, `invalid`): of one slot."""

    flags: frozenset[str] = personal(limit=64)


Row = PersonRow | DocumentRow | FlagsRow
KINDS: Final = kinds(PersonRow, DocumentRow, FlagsRow, PermitRow, FingerRow, CrossingRow)
LINK_PAD_BYTES: Final = 64
"""Of a link only the subject's digits could be counted: it is padded less, for there are tens of millions."""
_PROOF: Final = b"gated cache key"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_WRAP: Final = b"gated epoch key\n"


# -- places ----------------------------------------------------------------------------------------------------
# The parts that a place is the keyed hash of. One function a sort of row, for HQ and the lane alike.


def of_subject(subject: int) -> tuple[str, ...]:
    """Where a person stands; in `people`."""
    return ("subject", str(subject))


def of_document(issuer: str, number: str) -> tuple[str, ...]:
    """Where a document leads to its subject; in `people`. As the machine readable zone has issuer and number."""
    return ("document", issuer, number)


def of_personal_number(number: str) -> tuple[str, ...]:
    """Where a personal number leads to its subject; in `people`."""
    return ("personal", number)


def of_flags(subject: int, slot: int) -> tuple[str, ...]:
    """Where control flags of a person stand; in `control`."""
    return ("flags", str(subject), str(slot))


def of_status(issuer: str, number: str, slot: int) -> tuple[str, ...]:
    """Where the status of a document stands; in `control`."""
    return ("status", issuer, number, str(slot))


# -- keys ------------------------------------------------------------------------------------------------------


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=3)


@dataclass(frozen=True, slots=True)
class EpochKey:
    """What the key of one epoch of one partition (32 bytes) gives: the hash that rows are found by, and the key that
    they open with. One thread at a time: to make a zstd context anew for each row costs more than all the rest."""

    lookup: bytes = field(repr=False)
    rows: SealKey = field(repr=False)
    _deflate: zstandard.ZstdCompressor = field(init=False, repr=False, compare=False, default_factory=_compressor)
    _inflate: zstandard.ZstdDecompressor = field(
        init=False, repr=False, compare=False, default_factory=zstandard.ZstdDecompressor
    )

    @classmethod
    def of(cls, key: bytes) -> "EpochKey":
        return cls(derived(key, "cache lookup"), SealKey(derived(key, "cache rows")))

    def place(self, *parts: str) -> bytes:
        """Where the row of `parts` stands: 16 bytes."""
        return lookup_key(self.lookup, *parts)

    def sealed(self, place: bytes, row: Row, nonce: bytes) -> bytes:
        """A row as it is stored: it opens in its own place alone. `nonce`: 12 random bytes. Raises `WireError`.

        Sealed bytes do not compress, so a large row is compressed before; padding hides what that tells of it."""
        plain = encode(row)
        if len(plain) > PAD_BYTES:
            plain = self._deflate.compress(plain)
        block = LINK_PAD_BYTES if type(row) is DocumentRow else PAD_BYTES
        return self.rows.seal(padded(plain, block), place, nonce)

    def opened(self, place: bytes, blob: bytes) -> Any:
        """Raises `SealError` or `WireError`."""
        plain = self.rows.open(blob, place)
        if plain.startswith(_ZSTD_MAGIC):
            return load(KINDS, parse(_inflated(self._inflate, plain)))
        return load(KINDS, parse(unpadded(plain)))

    def proof(self, nonce: bytes) -> bytes:
        """Opens under this key alone: a wrong key is found when a file is opened, not at the first passenger."""
        return self.rows.seal(_PROOF, _PROOF, nonce)

    def proves(self, blob: bytes) -> bool:
        try:
            return self.rows.open(blob, _PROOF) == _PROOF
        except SealError:
            return False


def _inflated(inflate: zstandard.ZstdDecompressor, plain: bytes) -> bytes:
    try:
        if not 0 < zstandard.frame_content_size(plain) <= PLAIN_BYTES_MAX:
            raise WireError("a row does not say how long it is, or is too long")
        return inflate.decompress(plain, allow_extra_data=True)
    except zstandard.ZstdError:
        raise WireError("a row cannot be decompressed") from None


def wrapped(key: bytes, lane_public: bytes, partition: str, epoch: int, lane: str) -> bytes:
    """An epoch's key so that one lane alone can open it. `lane`: `site/lane`; `lane_public`: X25519, 32 bytes raw."""
    return seal_to(lane_public, key, _wrap_place(partition, epoch, lane))


def unwrapped(blob: bytes, lane_private: bytes, partition: str, epoch: int, lane: str) -> bytes:
    """The epoch's key. That it is HQ's is for the signed proof to show (`EpochKey.proves`). Raises `SealError`."""
    return open_sealed(lane_private, blob, _wrap_place(partition, epoch, lane))


def _wrap_place(partition: str, epoch: int, lane: str) -> bytes:
    return _WRAP + f"{partition}/{epoch}/{lane}".encode()
