"""Every way in which what was fetched is refused, by name: in logs, in `gated cache status`, and told to HQ."""

from enum import StrEnum


class Why(StrEnum):
    """The names. Only those of `ATTACKS` can mean that somebody meddles; the others are days in the life of a lane."""

    ROLLED_BACK = "rolled_back"
    """Signed, and older than what is known here."""
    FROZEN = "frozen"
    """Signed, and expired: HQ, or somebody between, goes on showing the same."""
    MIXED = "mixed"
    """Each part signed, but not of one state."""
    ALTERED = "altered"
    """Not the bytes that were signed."""
    TRUNCATED = "truncated"
    """Fewer bytes than were signed."""
    ENDLESS = "endless"
    """More bytes, rows or versions than were signed or than there ever are."""
    SLOW = "slow"
    """Byte by byte, so as never to end."""
    WRONG_SIGNATURE = "wrong_signature"
    """Signed by nobody whom HQ's root names, or by too few of them."""
    REPLAYED = "replayed"
    """A segment that was applied before."""
    SKIPPED = "skipped"
    """A segment that does not follow what is here."""
    SWAPPED_PARTITION = "swapped_partition"
    """Of another partition, or epoch, than it is shown as."""
    FAST_FORWARD = "fast_forward"
    """Further ahead than HQ can have come: what follows could never be newer."""
    WRONG_CHAIN = "wrong_chain"
    """Does not lead from what is here to what was signed."""
    LIFT_NOT_SIGNED = "lift_not_signed"
    """Takes away or replaces a row of a guarded partition without the second key."""
    MALFORMED = "malformed"
    WRONG_SCHEMA = "wrong_schema"
    """Of another edition of the programs."""
    DIFFERS = "differs"
    """The audit found rows that are not HQ's."""
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    """HQ's server has not got what was signed."""
    NO_KEY = "no_key"
    """HQ has wrapped no key for this lane: it keeps no data."""
    DISK_FULL = "disk_full"
    STORE = "store"
    """The lane's own disk or database."""
    CLOCK = "clock"
    """The lane's clock cannot be right: before the metadata were made, or years behind."""


ATTACKS = frozenset(
    {
        Why.ROLLED_BACK, Why.FROZEN, Why.MIXED, Why.ALTERED, Why.TRUNCATED, Why.ENDLESS, Why.SLOW, Why.WRONG_SIGNATURE,
        Why.REPLAYED, Why.SKIPPED, Why.SWAPPED_PARTITION, Why.FAST_FORWARD, Why.WRONG_CHAIN, Why.LIFT_NOT_SIGNED,
        Why.DIFFERS,
    }
)  # fmt: skip


class SyncRefused(Exception):
    """Something was not taken; what is here stays and keeps serving. `what`: which file or target; `advice`: what a
    person can do. Never anybody's data."""

    def __init__(self, why: Why, what: str, advice: str = "") -> None:
        super().__init__(f"{what}: {why.value}" + (f": {advice}" if advice else ""))
        self.why, self.what, self.advice = why, what, advice
