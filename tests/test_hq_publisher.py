"""HQ's publisher: what lanes reach by every way is what the register has, and what was signed never changes again."""

import hashlib
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gated.hq import epochs, publisher
from gated.hq.keys import KeyFault
from gated.hq.partition import Partition
from gated.hq.published import PublisherState, State, StateFault
from gated.hq.publishing import keep_publishing
from gated.hq.registers import EnrolledFinger, Paper, PaperStatus, Permit
from gated.hq.sealing import links, person_row
from gated.store import cachefile
from gated.store.cache import Cache, Enrolments
from gated.wire.bundle import (
    BUCKETS,
    DIGEST_BYTES,
    Announcement,
    Tip,
    audit_path,
    bucket_digest,
    bucket_of,
    chain_start,
    day_path,
    key_path,
    load,
    segment_path,
    tip_message,
)
from gated.wire.codec import dump, dumps
from gated.wire.rows import (
    CONTROL,
    PEOPLE,
    DocumentRow,
    PersonRow,
    of_document,
    of_flags,
    of_personal_number,
    of_status,
    of_subject,
    unwrapped,
)
from gated.wire.seal import SealError, public_of
from gated.wire.segment import Unpacked
from tests.canaries import Canary
from tests.canaries import found as canaries_in
from tests.hq_rig import NOW, ONLINE, Hq, Reader, change, opened, person, public

ROOT = Path(__file__).resolve().parents[1]
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LANE, LANE_PRIVATE = "tpe-t1/lane-07", bytes(range(2, 34))


@pytest.fixture
def hq(tmp_path: Path) -> Iterator[Hq]:
    made = Hq(tmp_path)
    yield made
    made.state.close()
    made.register.close()


def flags(hq: Hq, subject: int) -> list[frozenset[str]]:
    """The slots of a person, as a lane finds them."""
    key, rows = hq.key(CONTROL), Reader(hq.repo, CONTROL).rows()
    found: list[frozenset[str]] = []
    while (place := key.place(*of_flags(subject, len(found)))) in rows:
        found.append(key.opened(place, rows[place]).flags)
    return found


# -- what lanes find ---------------------------------------------------------------------------------------------


def test_a_lane_finds_who_was_enrolled_and_nobodys_name(hq: Hq, tmp_path: Path) -> None:
    permit = Permit("multiple_entry", NOW.date(), NOW.date() + 30 * DAY, 2)
    finger = EnrolledFinger("right_index", "iso19794-2", b"TEMPLATECANARY", 80)
    first = hq.register.enrol(person(permits=(permit,), fingers=(finger,), flags=frozenset({"exit_ban"})))
    hq.register.set_status(PaperStatus(Paper("UTO", "LOSTCANARY"), frozenset({"stolen"})))
    hq.publisher().round(NOW)
    found = hq.row(PEOPLE, *of_subject(1))
    assert isinstance(found, PersonRow)
    assert (found.face, found.face_model, found.birth) == (first.face, "m", first.birth)
    assert found.permits[0].entries_left == 2 and found.fingers[0].template == b"TEMPLATECANARY"
    assert hq.row(PEOPLE, *of_document("TWN", "300000001")) == DocumentRow(1)
    assert hq.row(PEOPLE, *of_personal_number("A000000001")) == DocumentRow(1)
    assert flags(hq, 1) == [{"exit_ban"}]
    assert hq.row(CONTROL, *of_status("UTO", "LOSTCANARY", 0)).flags == {"stolen"}
    canaries = [Canary("name", "CHENCANARY"), Canary("finger", finger.template), Canary("number", "A000000001")]
    canaries += [Canary("document", "300000001"), Canary("lost", "LOSTCANARY"), Canary("flag", "exit_ban")]
    assert canaries_in(canaries, tmp_path) == []
    (tmp_path / "plain").write_bytes(dumps([dump(each) for each in (first, *hq.register.statuses())]))
    assert {hit.canary for hit in canaries_in(canaries, tmp_path)} == {canary.name for canary in canaries}
    assert stat.S_IMODE((tmp_path / "publish.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys" / "epoch-people-1.key").stat().st_mode) == 0o600


def test_the_lanes_own_code_opens_what_was_published(hq: Hq, tmp_path: Path) -> None:
    """Rows, proof and wrapped key in a cache file, as the lane's sync writes it."""
    hq.register.enrol(person(flags=frozenset({"wanted"})))
    epochs.add_lane(hq.state, hq.keys, hq.repo, LANE, public_of(LANE_PRIVATE))
    hq.publisher().round(NOW)
    caches = []
    for partition in (PEOPLE, CONTROL):
        reader = Reader(hq.repo, partition)
        wrapped = (hq.repo / key_path(partition, 1, LANE)).read_bytes()
        note = cachefile.CacheNote(partition, 1, 1, reader.base.serial, reader.base.chain, NOW, 0)
        path = cachefile.path_of(tmp_path, partition, 1)
        cachefile.build(path, note, reader.base.proof, wrapped, sorted(reader.snapshot().items()), checked=NOW)
        caches.append(Cache(path, LANE_PRIVATE, LANE))
    lane = Enrolments(*caches)
    found = lane.by_document("TWN", "300000001")
    assert found is not None and found == lane.by_person("A000000001") and lane.flags(1) == {"wanted"}
    lane.close()


def test_a_renewed_passport_leads_to_the_same_person_and_a_removed_one_to_nobody(hq: Hq) -> None:
    hq.register.enrol(person())
    publishing = hq.publisher()
    publishing.round(NOW)
    sealed_before = Reader(hq.repo, PEOPLE).rows()[hq.key(PEOPLE).place(*of_subject(1))]
    renewed = hq.register.enrol(person(papers=(Paper("TWN", "399999999"),), face=None, face_model=""))
    done = publishing.round(NOW + MINUTE)
    assert [segment.rows for each in done.done for segment in each.made] == [1]  # the new link, and nothing else
    assert hq.row(PEOPLE, *of_document("TWN", "399999999")) == hq.row(PEOPLE, *of_document("TWN", "300000001"))
    assert Reader(hq.repo, PEOPLE).rows()[hq.key(PEOPLE).place(*of_subject(1))] == sealed_before
    hq.register.set_papers(1, renewed.papers[1:])
    publishing.round(NOW + 2 * MINUTE)
    assert hq.row(PEOPLE, *of_document("TWN", "300000001")) is None
    assert hq.row(PEOPLE, *of_document("TWN", "399999999")) == DocumentRow(1)


def test_a_number_that_two_people_have_leads_to_neither_until_one_has_it_alone(hq: Hq) -> None:
    first = hq.register.enrol(person())
    second = hq.register.enrol(person(2))
    publishing = hq.publisher()
    publishing.round(NOW)
    with hq.register.db.conn:
        hq.register._keep(replace(second, personal_number=first.personal_number), False)  # as no counter would
    publishing.round(NOW + MINUTE)
    assert hq.row(PEOPLE, *of_personal_number("A000000001")) is None
    assert hq.row(PEOPLE, *of_document("TWN", "300000001")) == DocumentRow(1)
    with hq.register.db.conn:
        hq.register._keep(replace(first, personal_number=None), False)
    publishing.round(NOW + 2 * MINUTE)
    assert hq.row(PEOPLE, *of_personal_number("A000000001")) == DocumentRow(2)


def test_nothing_new_is_no_segment_and_says_that_hq_has_looked(hq: Hq) -> None:
    hq.register.enrol(person())
    publishing = hq.publisher()
    publishing.round(NOW)
    hq.register.enrol(person())  # the same again
    for minute in (1, 2):
        done = publishing.round(NOW + minute * MINUTE)
        assert [each.made for each in done.done] == [(), ()]
        for partition in (PEOPLE, CONTROL):
            head = Reader(hq.repo, partition).head
            assert head.serial == 0 and head.built == NOW + minute * MINUTE
    assert not list(hq.repo.glob("data/*/1/segments/**/*.seg"))


def test_every_way_leads_to_the_same_rows(hq: Hq) -> None:
    """Random changes over days: by segments from the very start, by days, from the newest snapshot; and what the
    publisher itself holds."""
    dice = random.Random(7)
    publishing = hq.publisher()
    publishing.round(NOW)  # begins empty
    now = NOW
    for step in range(24):
        for _ in range(dice.randrange(1, 5)):
            change(hq.register, dice)
        now += timedelta(hours=4)  # a new day at every sixth
        publishing.round(now, snapshot=step in (9, 17))
    for partition in (PEOPLE, CONTROL):
        reader = Reader(hq.repo, partition)
        rows = reader.rows()
        assert rows and reader.base.serial > 0 and len(reader.head.days) >= 3
        assert reader.from_empty() == rows
        assert reader.by_days({}, 0, chain_start(partition, 1)) == rows
        assert reader.by_days(reader.snapshot(), reader.base.serial, reader.base.chain) == rows
        assert dict(Partition(hq.state, partition, 1).rows()) == rows
        list(opened(rows, hq.key(partition)))
    wanted = {p.subject: p.flags for p in hq.register.people()}
    assert {n: frozenset[str]().union(*flags(hq, n)) for n in wanted} == wanted


def test_the_audit_table_is_that_of_the_rows(hq: Hq) -> None:
    publishing = hq.publisher()
    for n in range(1, 40):
        hq.register.enrol(person(n))
    publishing.round(NOW)
    for n in range(12):
        hq.register.enrol(person(3, papers=(Paper("TWN", f"5{n}"),)))
        publishing.round(NOW + (n + 1) * MINUTE)
    reader = Reader(hq.repo, PEOPLE)
    audit = reader.head.audit
    assert audit is not None and audit.serial == reader.head.serial == 12
    table = (hq.repo / audit_path(PEOPLE, 1, audit.serial)).read_bytes()
    assert len(table) == BUCKETS * DIGEST_BYTES
    rows = sorted(reader.rows().items())
    for bucket in range(BUCKETS):
        inside = [each for each in rows if bucket_of(each[0]) == bucket]
        assert table[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES] == bucket_digest(inside)
    assert len(list(hq.repo.glob("data/people/1/audit/*.tbl"))) == 10


def test_the_index_goes_over_pages(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing = hq.publisher(ONLINE)
    hq.publisher().round(NOW)
    monkeypatch.setattr(publisher, "BATCH", 1)
    for n in range(1, 521):
        hq.register.enrol(person(n, personal_number=None))
    publishing.round(NOW + MINUTE)
    reader = Reader(hq.repo, PEOPLE)
    assert reader.head.serial == 520 and len(reader.rows()) == 1040
    hq.register.enrol(person(521))
    hq.publisher(ONLINE).round(NOW + 2 * MINUTE)  # a process that has written no page yet
    assert len(reader.rows()) == 1043


# -- bans and lifting ---------------------------------------------------------------------------------------------


def test_with_the_online_key_bans_go_out_and_nothing_is_lifted(hq: Hq) -> None:
    for n in (1, 2):
        hq.register.enrol(person(n, flags=frozenset({"wanted"})))
    hq.publisher().round(NOW)
    hq.register.add_flags(1, {"exit_ban"})
    hq.register.lift_flags(1, {"wanted"})
    hq.register.lift_flags(2)
    hq.register.set_status(PaperStatus(Paper("UTO", "X"), frozenset({"lost"})))
    online = hq.publisher(ONLINE)
    for minute in (1, 2):
        control = online.round(NOW + minute * MINUTE).done[0]
        assert control.partition == CONTROL and dict(control.waiting) == {"lift": 2} and control.needs_lift_key
    assert flags(hq, 1) == [{"wanted"}, {"exit_ban"}] and flags(hq, 2) == [{"wanted"}]
    assert hq.row(CONTROL, *of_status("UTO", "X", 0)).flags == {"lost"}
    assert Reader(hq.repo, CONTROL).base.lifts == ()
    control = hq.publisher().round(NOW + 3 * MINUTE).done[0]
    assert [segment.lifts for segment in control.made] == [True] and not control.waiting
    assert flags(hq, 1) == [{"exit_ban"}] and flags(hq, 2) == []
    assert len(Reader(hq.repo, CONTROL).base.lifts) == 1
    assert Partition(hq.state, CONTROL, 1).note.rows == 2


def test_a_flag_that_is_set_again_before_it_was_lifted_waits_for_nothing(hq: Hq) -> None:
    hq.register.enrol(person(flags=frozenset({"wanted"})))
    hq.publisher().round(NOW)
    online = hq.publisher(ONLINE)
    hq.register.lift_flags(1)
    assert dict(online.round(NOW + MINUTE).done[0].waiting) == {"lift": 1}
    hq.register.add_flags(1, {"wanted"})
    done = online.round(NOW + 2 * MINUTE).done[0]
    assert not done.waiting and not done.made and flags(hq, 1) == [{"wanted"}]


def test_slots_without_end_are_written_anew_with_the_second_key(hq: Hq) -> None:
    hq.register.enrol(person())
    online = hq.publisher(ONLINE)
    hq.publisher().round(NOW)
    for n in range(64):
        hq.register.add_flags(1, {f"f{n}"})
        online.round(NOW + MINUTE)
    hq.register.lift_flags(1, {"f0", "f1"})
    hq.register.add_flags(1, {"wanted"})
    assert dict(online.round(NOW + 2 * MINUTE).done[0].waiting) == {"slots_full": 1}
    assert len(flags(hq, 1)) == 64
    hq.publisher().round(NOW + 3 * MINUTE)
    assert flags(hq, 1) == [{"wanted", *(f"f{n}" for n in range(2, 64))}]


def test_a_day_that_lifts_is_offered_when_the_second_key_has_pinned_it(hq: Hq) -> None:
    hq.register.enrol(person(flags=frozenset({"wanted"})))
    both, online = hq.publisher(), hq.publisher(ONLINE)
    both.round(NOW)
    hq.register.add_flags(1, {"watch"})
    hq.register.lift_flags(1, {"wanted"})
    both.round(NOW + MINUTE)
    hq.register.add_flags(1, {"exit_ban"})
    online.round(NOW + 2 * MINUTE, consolidate=True)
    reader = Reader(hq.repo, CONTROL)
    assert not reader.head.days and len(reader.base.lifts) == 1
    both.round(NOW + 3 * MINUTE)
    assert [(each.first, each.last) for each in reader.head.days] == [(1, 3)] and len(reader.base.lifts) == 2
    start = (reader.snapshot(), reader.base.serial, reader.base.chain)
    assert reader.by_days(*start) == reader.by_segments(*start)


def test_a_day_holds_what_changed_since_the_one_before(hq: Hq) -> None:
    publishing = hq.publisher()
    publishing.round(NOW)
    for n in range(1, 5):
        hq.register.enrol(person(n))
        publishing.round(NOW + n * MINUTE, consolidate=n in (2, 4))
    assert [(each.first, each.last) for each in Reader(hq.repo, PEOPLE).head.days] == [(1, 2), (3, 4)]
    for path, rows in ((day_path(PEOPLE, 1, 1, 2), 6), (day_path(PEOPLE, 1, 3, 4), 6)):
        with (hq.repo / path).open("rb") as file:
            assert len(list(Unpacked(file))) == rows


def test_without_the_lift_key_a_first_control_list_waits_and_people_do_not(hq: Hq) -> None:
    hq.register.enrol(person(flags=frozenset({"wanted"})))
    control, people = hq.publisher(ONLINE).round(NOW).done
    assert control.epoch == 0 and control.needs_lift_key and people.epoch == 1 and people.rows == 3
    control, _ = hq.publisher().round(NOW + MINUTE).done
    assert control.epoch == 1 and not control.needs_lift_key and flags(hq, 1) == [{"wanted"}]


@pytest.mark.parametrize("pinned", [False, True], ids=["before the base is signed", "after"])
def test_a_lift_that_was_cut_short_is_the_same_segment_or_none(hq: Hq, pinned: bool) -> None:
    """Killed between the segment's file and the chain; then only the online key is there."""
    hq.register.enrol(person(flags=frozenset({"wanted"})))
    both = hq.publisher()
    both.round(NOW)
    hq.register.lift_flags(1)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated.hq.bundles.read_segment" if pinned else "gated.hq.bundles.written", die)
        with pytest.raises(Killed):
            both.round(NOW + MINUTE)
    path = hq.repo / segment_path(CONTROL, 1, 1)
    before = path.read_bytes()
    hq.register.add_flags(1, {"exit_ban"})
    online = hq.publisher(ONLINE)
    online.round(NOW + 2 * MINUTE)
    reader = Reader(hq.repo, CONTROL)
    assert len(reader.base.lifts) == int(pinned)
    assert (path.read_bytes() == before) is pinned
    assert flags(hq, 1) == ([{"exit_ban"}] if pinned else [{"wanted"}, {"exit_ban"}])
    hq.publisher().round(NOW + 3 * MINUTE)
    assert flags(hq, 1) == [{"exit_ban"}]


# -- urgent ---------------------------------------------------------------------------------------------


def test_what_is_urgent_overtakes_what_is_not(hq: Hq) -> None:
    for n in (1, 2):
        hq.register.enrol(person(n))
    publishing = hq.publisher(ONLINE)
    hq.publisher().round(NOW)
    assert not publishing.is_urgent
    hq.register.enrol(person(3))
    hq.register.add_flags(1, {"watch"})
    assert not publishing.is_urgent
    hq.register.add_flags(2, {"wanted"}, urgent=True)
    hq.register.enrol(person(2, papers=(Paper("TWN", "7"),)))  # later, and not urgent: the ban stays urgent
    assert publishing.is_urgent
    publishing.urgent(NOW + MINUTE)
    assert not publishing.is_urgent
    assert flags(hq, 2) == [{"wanted"}] and flags(hq, 1) == [] and hq.row(PEOPLE, *of_subject(3)) is None
    done = publishing.round(NOW + 2 * MINUTE)
    assert flags(hq, 1) == [{"watch"}] and flags(hq, 2) == [{"wanted"}] and hq.row(PEOPLE, *of_subject(3))
    assert sum(segment.rows for each in done.done for segment in each.made) == 1 + 3


def test_nothing_urgent_is_left_behind_one_that_changed_again(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        hq.register.enrol(person(n))
    publishing = hq.publisher()
    publishing.round(NOW)
    monkeypatch.setattr(publisher, "BATCH", 1)
    for n in (1, 2):
        hq.register.add_flags(n, {"wanted"}, urgent=True)
    hq.register.add_flags(1, {"watch"})
    publishing.urgent(NOW + MINUTE)
    assert flags(hq, 2) == [{"wanted"}] and not publishing.is_urgent


def test_much_at_once_lets_what_is_urgent_in_between(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    hq.register.enrol(person())
    hq.publisher().round(NOW)
    monkeypatch.setattr(publisher, "SLICE", 2)
    for n in range(2, 8):
        hq.register.enrol(person(n))
    service = hq.publisher(ONLINE, background=True)
    service.round(NOW + MINUTE)
    assert service.behind and hq.row(PEOPLE, *of_subject(3)) and hq.row(PEOPLE, *of_subject(4)) is None
    hq.register.add_flags(1, {"wanted"}, urgent=True)
    service.urgent(NOW + MINUTE)
    assert flags(hq, 1) == [{"wanted"}] and hq.row(PEOPLE, *of_subject(4)) is None
    rounds = 0
    while service.behind:
        service.round(NOW + 2 * MINUTE)
        rounds += 1
    assert rounds == 3 and hq.row(PEOPLE, *of_subject(7))
    service.close()


def test_the_service_publishes_what_is_urgent_between_its_rounds(hq: Hq) -> None:
    hq.register.enrol(person())
    hq.publisher().round(NOW)
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(hq.folder, stop), daemon=True)
    before = Reader(hq.repo, CONTROL).head.built
    thread.start()
    reader = Reader(hq.repo, CONTROL)
    until(lambda: reader.head.built != before)  # its first round; the next ordinary one is in an hour
    hq.register.enrol(person(2))
    hq.register.add_flags(1, {"wanted"}, urgent=True)
    until(lambda: reader.head.serial == 1)
    assert flags(hq, 1) == [{"wanted"}] and Reader(hq.repo, PEOPLE).head.serial == 0
    hq.register.enrol(person(3), urgent=True)
    until(lambda: Reader(hq.repo, PEOPLE).head.serial == 1)
    assert hq.row(PEOPLE, *of_subject(3)) and hq.row(PEOPLE, *of_subject(2)) is None
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def serve(folder: Path, stop: threading.Event) -> None:
    """A publisher with connections of its own."""
    own = Hq(folder)
    publishing = own.publisher(ONLINE, background=True)
    keep_publishing(publishing, None, 3600, stop)
    publishing.close()


def until(reached: Any, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def test_the_announcement_carries_small_segments_each_signed(hq: Hq) -> None:
    hq.register.enrol(person())
    both = hq.publisher()
    first = load(Announcement, both.announcement(both.round(NOW)))
    assert first.tips == () and first.metadata_version > 0
    hq.register.add_flags(1, {"wanted"})
    both.round(NOW + MINUTE)
    hq.register.lift_flags(1)
    done = both.round(NOW + 2 * MINUTE)
    data = both.announcement(done)
    assert data == both.announcement(done)
    told = load(Announcement, data)
    assert told.metadata_version == done.version
    add, lift = told.tips
    assert add.segment == (hq.repo / segment_path(CONTROL, 1, 1)).read_bytes() and lift.segment is None
    chain = chain_start(CONTROL, 1)
    for serial, signed in enumerate(told.tips, 1):
        Ed25519PublicKey.from_public_bytes(public("online")).verify(signed.signature, tip_message(signed.tip))
        tip = load(Tip, signed.tip)
        assert (tip.partition, tip.serial, tip.previous) == (CONTROL, serial, chain)
        chain = Reader(hq.repo, CONTROL).index(0, chain_start(CONTROL, 1))[serial - 1].chain
    later = load(Announcement, both.announcement(both.round(NOW + timedelta(hours=1))))
    assert later.tips == ()


# -- epochs and lanes ---------------------------------------------------------------------------------------------


def test_a_new_epoch_has_another_key_and_an_erased_one_is_gone(hq: Hq) -> None:
    for n in (1, 2):
        hq.register.enrol(person(n, flags=frozenset({"wanted"})))
    epochs.add_lane(hq.state, hq.keys, hq.repo, LANE, public_of(LANE_PRIVATE))
    hq.publisher().round(NOW)
    old = Reader(hq.repo, PEOPLE).rows()
    hq.register.add_flags(1, {"watch"})
    hq.register.lift_flags(2)
    for partition in (PEOPLE, CONTROL):
        assert epochs.begin(hq.state, hq.keys, partition, NOW + MINUTE) == 2
        with pytest.raises(StateFault, match="has begun"):
            epochs.begin(hq.state, hq.keys, partition, NOW + MINUTE)
    control, people = hq.publisher(ONLINE).round(NOW + 2 * MINUTE).done
    assert people.epoch == 2 and control.epoch == 1 and control.needs_lift_key
    assert flags(hq, 1) == [{"wanted"}, {"watch"}]  # the old epoch goes on
    hq.publisher().round(NOW + 3 * MINUTE)
    reader = Reader(hq.repo, PEOPLE)
    assert (reader.head.epoch, reader.head.serial, reader.base.epoch) == (2, 0, 2)
    rows = reader.rows()
    assert len(rows) == len(old) and not rows.keys() & old.keys()
    assert isinstance(hq.row(PEOPLE, *of_subject(2), epoch=2), PersonRow)
    with pytest.raises(SealError):
        list(opened(rows, hq.key(PEOPLE, 1)))
    key = unwrapped((hq.repo / key_path(PEOPLE, 2, LANE)).read_bytes(), LANE_PRIVATE, PEOPLE, 2, LANE)
    assert key == (hq.keys / "epoch-people-2.key").read_bytes() and hq.key(PEOPLE, 2).proves(reader.base.proof)
    with pytest.raises(StateFault, match="is what lanes of people use"):
        epochs.erase(hq.state, hq.keys, hq.repo, PEOPLE, 2)
    epochs.erase(hq.state, hq.keys, hq.repo, PEOPLE, 1)
    assert not (hq.keys / "epoch-people-1.key").exists() and not (hq.repo / "data" / "people" / "1").exists()
    hq.register.enrol(person(3))
    hq.publisher().round(NOW + 4 * MINUTE)
    assert len(reader.rows()) == len(old) + 3


def test_a_lane_is_given_the_keys_for_itself_alone(hq: Hq) -> None:
    publishing = hq.publisher()
    publishing.round(NOW)
    assert epochs.add_lane(hq.state, hq.keys, hq.repo, LANE, public_of(LANE_PRIVATE)) == ["people/1", "control/1"]
    path = hq.repo / key_path(PEOPLE, 1, LANE)
    wrapped = path.read_bytes()
    secret = (hq.keys / "epoch-people-1.key").read_bytes()
    assert unwrapped(wrapped, LANE_PRIVATE, PEOPLE, 1, LANE) == secret and secret not in wrapped
    for private, partition, lane in (
        (bytes(32), PEOPLE, LANE),
        (LANE_PRIVATE, CONTROL, LANE),
        (LANE_PRIVATE, PEOPLE, "a/b"),
    ):
        with pytest.raises(SealError):
            unwrapped(wrapped, private, partition, 1, lane)
    with pytest.raises(ValueError, match="site and lane"):
        epochs.add_lane(hq.state, hq.keys, hq.repo, "../lane", public_of(LANE_PRIVATE))
    epochs.remove_lane(hq.state, hq.repo, LANE)
    assert not path.exists()
    with pytest.raises(StateFault, match="there is no lane"):
        epochs.remove_lane(hq.state, hq.repo, LANE)
    epochs.begin(hq.state, hq.keys, PEOPLE, NOW)
    publishing.round(NOW + MINUTE)
    assert not (hq.repo / key_path(PEOPLE, 2, LANE)).exists()


# -- bad days ---------------------------------------------------------------------------------------------


def test_an_older_copy_of_the_database_signs_nothing_and_a_new_epoch_cures_it(hq: Hq, tmp_path: Path) -> None:
    hq.register.enrol(person())
    hq.publisher().round(NOW)
    hq.state.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "publish.db", tmp_path / "copy.db")
    hq.register.enrol(person(2))
    hq.publisher().round(NOW + MINUTE)
    head = Reader(hq.repo, PEOPLE).head
    hq.state.close()
    for file in tmp_path.glob("publish.db*"):
        file.unlink()
    shutil.copy(tmp_path / "copy.db", tmp_path / "publish.db")
    hq.state = PublisherState(tmp_path / "publish.db")
    control, people = hq.publisher().round(NOW + 2 * MINUTE).done
    assert people.fault is not None and "older copy" in people.fault and control.fault is None
    assert Reader(hq.repo, PEOPLE).head == head
    epochs.begin(hq.state, hq.keys, PEOPLE, NOW, head.epoch)
    assert hq.publisher().round(NOW + 3 * MINUTE).done[1].fault is None
    assert Reader(hq.repo, PEOPLE).head.epoch == 2 and hq.row(PEOPLE, *of_subject(2), epoch=2)


def test_a_lost_database_begins_a_new_epoch(hq: Hq, tmp_path: Path) -> None:
    hq.register.enrol(person())
    hq.publisher().round(NOW)
    hq.state.close()
    (tmp_path / "publish.db").unlink()
    hq.state = PublisherState(tmp_path / "publish.db")
    hq.publisher().round(NOW + MINUTE)
    assert Reader(hq.repo, PEOPLE).head.epoch == 2 and hq.row(PEOPLE, *of_subject(1), epoch=2)


def test_who_cannot_be_sealed_waits_and_nobody_else_does(hq: Hq) -> None:
    publishing = hq.publisher()
    hq.register.enrol(person())
    publishing.round(NOW)
    big = tuple(EnrolledFinger("right_index", "zfm", bytes(random.Random(n).randbytes(8192)), None) for n in range(10))
    hq.register.enrol(person(1, fingers=big))
    hq.register.enrol(person(2))
    people = publishing.round(NOW + MINUTE).done[1]
    assert dict(people.waiting) == {"too_long": 1} and hq.row(PEOPLE, *of_subject(1)).fingers == ()
    assert hq.row(PEOPLE, *of_subject(2))
    hq.register.enrol(person(1, fingers=big[:2]))
    people = publishing.round(NOW + 2 * MINUTE).done[1]
    assert not people.waiting and len(hq.row(PEOPLE, *of_subject(1)).fingers) == 2


def test_a_damaged_row_of_the_register_keeps_nobody_else_from_being_published(hq: Hq) -> None:
    publishing = hq.publisher()
    for n in (1, 2, 3):
        hq.register.enrol(person(n))
    whole = hq.register.db.conn.execute("SELECT sealed FROM persons WHERE subject = 2").fetchone()[0]
    hq.register.db.conn.execute("UPDATE persons SET sealed = zeroblob(300) WHERE subject = 2")
    control, people = publishing.round(NOW).done
    assert dict(people.waiting) == dict(control.waiting) == {"unreadable": 1} and people.rows == 6
    hq.register.db.conn.execute("UPDATE persons SET sealed = ? WHERE subject = 2", (whole,))
    control, people = publishing.round(NOW + MINUTE).done
    assert not people.waiting and not control.waiting and people.rows == 9


def test_a_wrong_or_missing_key_of_one_partition_leaves_the_other(hq: Hq) -> None:
    hq.register.enrol(person())
    hq.publisher().round(NOW)
    key = hq.keys / "epoch-people-1.key"
    secret = key.read_bytes()
    hq.register.enrol(person(2, flags=frozenset({"wanted"})))
    for content, says in ((bytes(32), "is not the key of epoch 1"), (None, "no such file")):
        key.unlink()
        if content is not None:
            key.write_bytes(content)
            key.chmod(0o600)
        control, people = hq.publisher(ONLINE).round(NOW + MINUTE).done
        assert control.fault is None and people.fault is not None and says in people.fault
        key.touch()
    assert flags(hq, 2) == [{"wanted"}]
    key.write_bytes(secret)
    key.chmod(0o600)
    assert hq.publisher(ONLINE).round(NOW + 2 * MINUTE).done[1].rows == 6


def test_one_publisher_at_a_time_and_another_one_may_do_a_round_in_between(hq: Hq, tmp_path: Path) -> None:
    other = PublisherState(tmp_path / "publish.db")
    with hq.state.only_publisher(), pytest.raises(StateFault, match="at work"), other.only_publisher(0.1):
        raise AssertionError("two at once")
    with other.only_publisher(0.1):
        other.close()


def test_a_state_of_a_newer_program_is_left_alone(hq: Hq, tmp_path: Path) -> None:
    hq.state.db.execute("PRAGMA user_version = 2")
    with pytest.raises(StateFault, match="edition 2, this program knows 1"):
        PublisherState(tmp_path / "publish.db")


def test_a_snapshot_that_was_cut_short_goes_on_where_it_ended(hq: Hq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gated.hq.bundles.CHUNK_BYTES", 4096)
    for n in range(1, 31):
        hq.register.enrol(person(n))
    seen: list[int] = []

    class Killed(BaseException):
        pass

    def die(what: str, done: int, total: int) -> None:
        if what == "snapshot of people":
            seen.append(done)
            if len(seen) == 4:
                raise Killed

    with pytest.raises(Killed):
        hq.publisher(progress=die).round(NOW)
    chunks = sorted(hq.repo.glob("data/people/1/snapshots/0/*.chunk"))
    assert len(chunks) == 4 and hq.state.epochs(PEOPLE)[0].state is State.FILLED
    inodes = {chunk: chunk.stat().st_ino for chunk in chunks}
    chunks[1].write_bytes(chunks[1].read_bytes()[:-5])
    hq.register.enrol(person(31))  # must not get into what is being taken
    hq.publisher().round(NOW + MINUTE)
    assert len(Reader(hq.repo, PEOPLE).snapshot()) == 90 and len(Reader(hq.repo, PEOPLE).rows()) == 93
    kept = {chunk: chunk.stat().st_ino for chunk in chunks}
    assert [kept[chunk] == inodes[chunk] for chunk in chunks] == [True, False, True, True]


def test_old_snapshots_go_away_when_no_head_names_them(hq: Hq) -> None:
    publishing = hq.publisher()
    for n in range(1, 5):
        hq.register.enrol(person(n))
        publishing.round(NOW + n * 8 * DAY)  # one a week, by itself
    found = sorted(int(path.name) for path in hq.repo.glob("data/people/1/snapshots/*"))
    assert found == [2, 3] and Reader(hq.repo, PEOPLE).base.serial == 3


def test_a_key_that_others_may_read_is_refused(hq: Hq) -> None:
    hq.publisher().round(NOW)
    (hq.keys / "epoch-people-1.key").chmod(0o644)
    with pytest.raises(KeyFault, match="chmod 600"):
        epochs.add_lane(hq.state, hq.keys, hq.repo, LANE, public_of(LANE_PRIVATE))


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_publisher_that_is_killed_anywhere_never_changes_what_it_signed_or_announced(hq: Hq, kills: int) -> None:
    """A child changes the register, publishes and announces as fast as it can, with and without the second key, with
    days, snapshots and new epochs in between, and is killed at random."""
    dice = random.Random(kills)
    known: dict[tuple[str, int, int], bytes] = {}
    hq.publisher().round(NOW)
    for run in range(kills):
        command = [sys.executable, "-m", "tests.hq_child", str(hq.folder), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout is not None
            told = [child.stdout.readline()]  # it is at work
            time.sleep(dice.random() * 0.4)
            child.kill()
            told += child.stdout.readlines()
        assert told[0], "the child ended by itself"
        for line in told:
            if line.endswith(b"\n"):
                for signed in load(Announcement, bytes.fromhex(line.decode())).tips:
                    tip = load(Tip, signed.tip)
                    assert known.setdefault((tip.partition, tip.epoch, tip.serial), tip.sha256) == tip.sha256
        for partition in (PEOPLE, CONTROL):
            reader = Reader(hq.repo, partition)
            epoch = reader.head.epoch
            for entry in reader.index(0, chain_start(partition, epoch)):
                assert known.setdefault((partition, epoch, entry.serial), entry.sha256) == entry.sha256
            for (of, at, serial), sha256 in known.items():
                if (of, at) == (partition, epoch):
                    data = (hq.repo / segment_path(of, at, serial)).read_bytes()
                    assert hashlib.sha256(data).digest() == sha256 and serial <= reader.head.serial
            start = (reader.snapshot(), reader.base.serial, reader.base.chain)
            assert reader.by_segments(*start) == reader.by_days(*start)
    assert len(known) > kills
    hq.publisher().round(NOW + 30 * DAY)
    as_registered(hq)


def as_registered(hq: Hq) -> None:
    """What lanes reach is the register, no more and no less."""
    people, control = Reader(hq.repo, PEOPLE), Reader(hq.repo, CONTROL)
    key = hq.key(PEOPLE, people.head.epoch)
    rows = people.rows()
    wanted: dict[bytes, Any] = {}
    for each in hq.register.people():
        wanted[key.place(*of_subject(each.subject))] = person_row(each)
        wanted.update((key.place(*parts), DocumentRow(each.subject)) for parts in links(each))
    assert {place: key.opened(place, blob) for place, blob in rows.items()} == wanted
    key = hq.key(CONTROL, control.head.epoch)
    left = control.rows()
    for flags, slot in [
        *((each.flags, partial(of_flags, each.subject)) for each in hq.register.people()),
        *((each.flags, partial(of_status, each.paper.issuer, each.paper.number)) for each in hq.register.statuses()),
    ]:
        found: frozenset[str] = frozenset()
        number = 0
        while (place := key.place(*slot(number))) in left:
            found |= key.opened(place, left.pop(place)).flags
            number += 1
        assert found == flags
    assert not left
