"""What a stolen lane's disk tells without its key, beside what was tried in vain (tests/test_sync_canaries.py): only
what can be counted. It cannot be avoided, or is not worth its price, and docs should say so:

* how many rows there are: how many people are enrolled, by how many documents and numbers, how many have a flag;
* which row changed when, within an epoch: a place stays, and segments have times. Who knows the minute in which
  somebody was enrolled, and that nobody else was, knows which row is theirs, and sees later changes of that row;
* how long a row is, in steps of 256 bytes: about how many fingers and permits somebody has; never who.

None of it is tied to a number, a name or a face. HQ is real, so is the sync; what is compared is what lies on disks."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gated.hq import epochs
from gated.hq.registers import EnrolledFinger, Paper, PaperStatus, Permit, Person
from gated.store.cachefile import CacheFile, generations
from gated.wire.rows import CONTROL, LINK_PAD_BYTES, PARTITIONS, PEOPLE, unwrapped
from gated.wire.seal import NONCE_BYTES, PAD_BYTES, TAG_BYTES, SealError, public_of
from tests.days import LANE_KEY, LaneSync, Month, rows_of, synced
from tests.hw_sim.simlane import LANE, NOON, sim_folder
from tests.hw_sim.website import Website

SEALED_MORE = 1 + NONCE_BYTES + TAG_BYTES
OTHER_KEY = bytes(range(50, 82))
ADA = Person(
    0,
    "national",
    date(1990, 5, 17),
    "F",
    "LIN",
    "MEI LING",
    "A234567893",
    (Paper("TWN", "351234567"),),
    face=Random(5).randbytes(512),
    face_model="sface-0123456789ab",
    enrolled_on=date(2024, 3, 1),
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


@contextmanager
def hq(folder: Path) -> Iterator[Month]:
    """HQ with two hundred strangers, always the same."""
    month = Month(folder)
    try:
        yield month
    finally:
        month.close()


@dataclass(frozen=True)
class Shape:
    """What can be counted of a partition: lengths of rows; rows and bytes of each segment. The bytes of the cache file
    are not among it: where its pages split is chance, for places are keyed hashes."""

    lengths: Counter[int]
    served: tuple[tuple[int, int], ...]


def shapes(folder: Path, *people: Person, status: PaperStatus | None = None) -> dict[str, Shape]:
    """Of a lane that was there before these people were enrolled, and after."""
    with hq(folder / "hq") as month, Website(month.served) as site:
        month.publish()
        with synced(folder / "lane", site.url, month.root, lambda: NOON) as lane:
            assert lane.once()
            for person in people:
                month.hq.register.enrol(person)
            if status is not None:
                month.hq.register.set_status(status)
            month.publish()
            assert lane.once() and lane.is_as(month)
            return {
                name: Shape(
                    Counter(len(blob) for blob in rows_of(lane.newest(name)).values()),
                    tuple((s.rows, s.size) for s in month.part(name).segments(1, 100)),
                )
                for name in PARTITIONS
            }


ALIKE: dict[str, Any] = {
    "another document": {"papers": (Paper("TWN", "399999999"),)},
    "a short document of a short issuer": {"papers": (Paper("D", "C1"),)},
    "another personal number": {"personal_number": "Z198765432"},
    "a long name": {"surname": "W" * 60, "given_names": "X" * 64},
    "no name": {"surname": "", "given_names": ""},
    "another face": {"face": Random(6).randbytes(512)},
    "another birth and sex": {"birth": date(2011, 12, 31), "sex": "X"},
    "another category": {"category": "national_abroad"},
    "not usable yet": {"usable_from": date(2026, 6, 1), "enrolled_on": None},
}


def test_who_it_is_cannot_be_told_by_any_length(folder: Path) -> None:
    """Two lanes whose disks differ by one person: by anything that can be counted they do not."""
    ada = shapes(folder / "ada", ADA)
    for name, changed in ALIKE.items():
        assert shapes(folder / name, replace(ADA, **changed)) == ada, name


FLAGS = {
    "one": frozenset({"exit_ban"}),
    "another": frozenset({"wanted"}),
    "many": frozenset({"exit_ban", "wanted", "warrant", "tax", "visa_overstayed", "watch", "child_custody"}),
}


def test_that_somebody_has_a_flag_shows_in_nothing_but_the_number_of_flagged(folder: Path) -> None:
    none = shapes(folder / "none", ADA)
    flagged = {name: shapes(folder / name, replace(ADA, flags=flags)) for name, flags in FLAGS.items()}
    a_document = shapes(folder / "lost", ADA, status=PaperStatus(Paper("TWN", "1"), frozenset({"lost", "stolen"})))
    assert all(shape == flagged["one"] for shape in flagged.values()), "which, and how many, nobody can tell"
    assert flagged["one"] == a_document, "nor whether it is a person or a document"
    assert flagged["one"][PEOPLE] == none[PEOPLE], "the rows of people say nothing of it"
    more = flagged["one"][CONTROL].lengths - none[CONTROL].lengths
    assert list(more.values()) == [1], "one row more: this can be counted"


def test_lengths_are_steps_and_tell_of_fingers_and_permits_alone(folder: Path) -> None:
    dice = Random(8)
    fingers = tuple(EnrolledFinger(f"finger_{n}", "iso19794-2", dice.randbytes(500), 50) for n in range(10))
    lengths = {}
    for count in (0, 2, 10):
        shape = shapes(folder / str(count), replace(ADA, fingers=fingers[:count]))[PEOPLE]
        assert {(n - SEALED_MORE) % LINK_PAD_BYTES for n in shape.lengths} == {0}
        large = [n for n in shape.lengths if n > SEALED_MORE + PAD_BYTES]
        assert {(n - SEALED_MORE) % PAD_BYTES for n in large} == {0}
        lengths[count] = max(large)
    assert lengths[0] < lengths[2] < lengths[10], "this can be told; whose row it is cannot"
    permits = tuple(Permit(f"permit_{n}", date(2026, 1, n), date(2026, 12, n), n) for n in range(1, 9))
    shape = shapes(folder / "permits", replace(ADA, permits=permits))[PEOPLE]
    assert lengths[0] < max(shape.lengths) <= lengths[0] + 2 * PAD_BYTES, "so can eight permits, and hardly one"
    with hq(folder / "hq") as month:
        month.publish()
        rows = Counter(len(blob) for blob in month.rows(PEOPLE).values())
    assert len(rows) == 2 and set(rows.values()) == {200}, "of two hundred faces none is longer than another"


# -- two disks, two epochs ---------------------------------------------------------------------------------------------


def windows(rows: dict[bytes, bytes], size: int = 8) -> set[bytes]:
    """Every run of bytes in places and rows, less the byte that says the edition."""
    runs = (each for place, blob in rows.items() for each in (place, blob[1:]))
    return {run[at : at + size] for run in runs for at in range(len(run) - size + 1)}


def key_of(lane: LaneSync, name: str) -> bytes:
    lane.close()
    with CacheFile(lane.newest(name)) as file:
        return file.wrapped


def test_two_lanes_of_an_epoch_tell_no_more_than_one_and_neither_opens_the_others_key(folder: Path) -> None:
    """The price of sealing once: the rows of an epoch are the same bytes at every lane, under one key."""
    with hq(folder / "hq") as month, Website(month.served) as site:
        epochs.add_lane(month.hq.state, month.hq.keys, month.served, "sim/other", public_of(OTHER_KEY))
        month.publish()
        with synced(folder / "one", site.url, month.root, lambda: NOON) as one:
            assert one.once()
            other = LaneSync(folder / "other", site.url, month.root, lambda: NOON, "sim/other")
            assert other.once()
            for name in PARTITIONS:
                assert rows_of(one.newest(name)) == rows_of(other.newest(name))
            keys = {name: (key_of(one, name), key_of(other, name)) for name in PARTITIONS}
    for name, (mine, theirs) in keys.items():
        assert windows({bytes(16): mine}) & windows({b"\xff" * 16: theirs}) == set()
        assert unwrapped(mine, LANE_KEY, name, 1, LANE) == unwrapped(theirs, OTHER_KEY, name, 1, "sim/other")
        wrong = ((theirs, LANE_KEY, LANE), (theirs, LANE_KEY, "sim/other"), (mine, LANE_KEY, "sim/other"))
        for blob, key, whose in wrong:
            with pytest.raises(SealError):
                unwrapped(blob, key, name, 1, whose)


def test_nothing_leads_from_one_epoch_to_the_next(folder: Path) -> None:
    """The same people sealed anew: no place and no eight bytes come again, though both generations lie side by side."""
    with hq(folder / "hq") as month, Website(month.served) as site:
        month.hq.register.enrol(replace(ADA, flags=frozenset({"exit_ban"})))
        month.publish()
        with synced(folder / "lane", site.url, month.root, lambda: NOON) as lane:
            assert lane.once()
            for name in PARTITIONS:
                epochs.begin(month.hq.state, month.hq.keys, name, NOON)
            month.publish()
            assert lane.once() and lane.is_as(month)
            for name in PARTITIONS:
                before, after = (rows_of(path) for path in generations(lane.folder, name).values())
                assert len(before) == len(after) > 0, "how many there are can be counted"
                assert before.keys() & after.keys() == set()
                assert windows(before) & windows(after) == set()


def test_a_row_that_is_sealed_again_is_other_bytes_at_the_same_place(folder: Path) -> None:
    """Within an epoch a place stays: that a row changed can be seen, and when; not what of it."""
    with hq(folder / "hq") as month:
        person = month.hq.register.enrol(ADA)
        month.publish()
        before = month.rows(PEOPLE)
        month.hq.register.enrol(replace(person, sex="M"))
        month.publish()
        after = month.rows(PEOPLE)
    changed = [place for place in after if before.get(place) != after[place]]
    assert before.keys() == after.keys() and len(changed) == 1
    (place,) = changed
    assert len(before[place]) == len(after[place])
    assert windows({bytes(16): before[place]}) & windows({b"\xff" * 16: after[place]}) == set()
