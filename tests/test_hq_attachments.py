"""Pictures at HQ: put together, opened by who holds the key and is written down, deleted when their time is over."""

import json
import os
import pwd
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from gated.hq import attachments as module
from gated.hq.archive import Archive, ArchiveError, Fate
from gated.hq.attachments import AttachmentFault, Attachments, keep_purging
from gated.hq.cli import gated_hq
from gated.wire.facts import PART_BYTES_MAX, AttachmentPart
from gated.wire.record import Head, Record
from gated.wire.seal import public_of
from tests.canaries import Canary, found
from tests.postgres import where

__all__ = ["where"]
PRIVATE = bytes(range(32))
PUBLIC = public_of(PRIVATE)
SITE, LANE, GENERATION = "tpe", "lane-07", "a1b2c3d4"
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def jpeg(size: int, seed: int = 1) -> bytes:
    """As much of one as HQ looks at."""
    return b"\xff\xd8" + random.Random(seed).randbytes(size - 4) + b"\xff\xd9"


def parts(
    picture: bytes,
    ticket: int = 41,
    what: str = "case_picture",
    *,
    keep_days: int = 7,
    each: int = PART_BYTES_MAX,
    **changed: Any,
) -> list[AttachmentPart]:
    pieces = [picture[at : at + each] for at in range(0, len(picture), each)]
    return [
        AttachmentPart(
            **{
                "ticket": ticket,
                "name": f"{ticket}-{what}",
                "what": what,
                "media": "image/jpeg",
                "part": number,
                "parts": len(pieces),
                "size": len(picture),
                "keep_days": keep_days,
                "data": data,
                **changed,
            }
        )
        for number, data in enumerate(pieces, 1)
    ]


class Desk:
    """HQ's records, and a lane that sends some."""

    def __init__(self, folder: Path, db: str) -> None:
        self.folder, self.db = folder, db
        self.archive = Archive(self.db)
        self.pictures = Attachments(self.archive)
        self.heads: dict[tuple[str, str], Head] = {}
        self.sent: list[Record] = []
        self.key = folder / "hq.key"
        self.key.write_bytes(PRIVATE)
        self.key.chmod(0o600)

    def send(
        self, *facts: AttachmentPart, made: datetime = NOW, lane: str = LANE, stream: str = f"{GENERATION}-attachment"
    ) -> None:
        with self.archive.batch() as intake:
            for fact in facts:
                head = self.heads.get((lane, stream), Head.start(lane, stream))
                record = head.next(fact, made, "boot-1", PUBLIC)
                taken = intake.take(SITE, lane, record.encode(), (stream, record.seq), PRIVATE)
                assert taken.fate is Fate.STORED, taken
                self.heads[lane, stream] = head.after(record)
                self.sent.append(record)

    def run(self, *arguments: object, code: int = 0) -> str:
        """`gated-hq attachments ...`; what it said."""
        result = CliRunner().invoke(gated_hq, ["attachments", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output

    def with_key(self, command: str, *arguments: object, code: int = 0) -> str:
        return self.run(command, "--db", self.db, "--key", self.key, *arguments, code=code)


@pytest.fixture
def desk(tmp_path: Path, where: str) -> Iterator[Desk]:
    made = Desk(tmp_path, where)
    yield made
    made.archive.close()


# -- put together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, PART_BYTES_MAX, PART_BYTES_MAX + 1, 100_000])
def test_a_picture_is_what_its_parts_are_in_whatever_order_they_came(desk: Desk, size: int) -> None:
    picture = jpeg(size)
    shuffled = parts(picture)
    random.Random(size).shuffle(shuffled)
    desk.send(*shuffled)
    (one,) = desk.pictures.newest()
    assert (one.state, one.missing, one.size, one.parts) == ("whole", [], size, -(-size // PART_BYTES_MAX))
    assert (one.site, one.lane, one.generation, one.ticket) == (SITE, LANE, GENERATION, 41)
    assert (one.made, one.due) == (NOW, NOW + 7 * DAY)
    assert desk.pictures.picture(one, PRIVATE, "show") == picture


def test_parts_in_two_chapters_are_one_picture(desk: Desk) -> None:
    """One that was being encoded when its ticket ended, and a new chapter began."""
    picture = parts(jpeg(30_000))
    desk.send(*picture[:1])
    desk.heads[LANE, f"{GENERATION}.2-attachment"] = Head.start(LANE, f"{GENERATION}.2-attachment")
    desk.send(*picture[1:], stream=f"{GENERATION}.2-attachment")
    assert [each.state for each in desk.pictures.newest()] == ["whole"]


def test_a_part_that_is_not_there_is_said_by_its_number(desk: Desk) -> None:
    whole = parts(jpeg(60_000))
    desk.send(whole[0], whole[2], whole[4])
    one = desk.pictures.one(LANE, "41-case_picture")
    assert (one.state, one.missing) == ("incomplete", [2, 4])
    with pytest.raises(AttachmentFault, match=r"2 of 5 parts are not here \(2, 4\)"):
        desk.pictures.picture(one, PRIVATE, "show")
    desk.send(whole[1], whole[3])
    assert desk.pictures.one(LANE, "41-case_picture").state == "whole"


@pytest.mark.parametrize(
    ("lies", "state", "says"),
    [
        ({"size": 59_999}, "whole", "60000 bytes, and its records say 59999"),
        ({"size": 60_001}, "whole", "60000 bytes, and its records say 60001"),
        ({"parts": 1_000_000}, "contradictory", "say different things"),
        ({"part": 1}, "contradictory", "say different things"),
    ],
)
def test_a_lane_that_lies_about_the_whole_is_found(desk: Desk, lies: dict[str, Any], state: str, says: str) -> None:
    desk.send(*parts(jpeg(60_000), **lies))
    one = desk.pictures.one(LANE, "41-case_picture")
    assert one.state == state
    with pytest.raises(AttachmentFault, match=says):
        desk.pictures.picture(one, PRIVATE, "show")


def test_parts_that_disagree_are_no_picture(desk: Desk) -> None:
    one, other = parts(jpeg(20_000)), parts(jpeg(20_000), keep_days=300)
    desk.send(one[0], other[1])
    found_one = desk.pictures.one(LANE, "41-case_picture")
    assert (found_one.state, found_one.due) == ("contradictory", NOW + 7 * DAY), "kept for the shorter time"


def test_what_is_no_jpeg_is_not_given_out_as_one(desk: Desk) -> None:
    desk.send(*parts(b"<html>" + bytes(20_000)))
    with pytest.raises(AttachmentFault, match="does not begin and end as a JPEG"):
        desk.pictures.picture(desk.pictures.one(LANE, "41-case_picture"), PRIVATE, "show")


def test_another_key_opens_nothing(desk: Desk) -> None:
    desk.send(*parts(jpeg(100)))
    with pytest.raises(AttachmentFault, match="is this HQ's key"):
        desk.pictures.picture(desk.pictures.one(LANE, "41-case_picture"), bytes(32), "show")


def test_two_lanes_two_generations_two_kinds_are_told_apart(desk: Desk) -> None:
    pictures = {what: jpeg(200, seed) for seed, what in enumerate(("case_picture", "entry_face"))}
    for what, picture in pictures.items():
        desk.send(*parts(picture, what=what))
    desk.send(*parts(jpeg(300, 7)), lane="lane-08")
    desk.send(*parts(jpeg(300, 8)), stream="ffffffff-attachment", made=NOW + timedelta(seconds=1))
    assert len(desk.pictures.newest()) == 4
    assert len(desk.pictures.newest(lane=LANE)) == 3 and len(desk.pictures.newest(ticket=42)) == 0
    assert [each.generation for each in desk.pictures.newest(limit=1)] == ["ffffffff"]
    face = desk.pictures.one(LANE, "41-entry_face")
    assert desk.pictures.picture(face, PRIVATE, "show") == pictures["entry_face"]
    with pytest.raises(AttachmentFault, match=r"say --generation"):
        desk.pictures.one(LANE, "41-case_picture")
    first = desk.pictures.one(LANE, "41-case_picture", GENERATION)
    assert desk.pictures.picture(first, PRIVATE, "show") == pictures["case_picture"]
    for name in ("42-case_picture", "", "x", "-1", "9" * 30, "41"):
        with pytest.raises(AttachmentFault, match="HQ has no picture"):
            desk.pictures.one(LANE, name)


# -- kept, and no longer -----------------------------------------------------------------------------------------------


def sealed(desk: Desk) -> list[bool]:
    return [record.sealed is not None for record in reversed([r for _, r in desk.archive.find({}, 1000)])]


def test_a_picture_goes_on_its_day_and_its_records_stay_provable(desk: Desk) -> None:
    desk.send(*parts(jpeg(30_000), 1, keep_days=7))
    desk.send(*parts(jpeg(30_000), 2, keep_days=8))
    assert desk.pictures.purge(NOW + 7 * DAY - timedelta(seconds=1)) == 0
    assert desk.pictures.purge(NOW + 7 * DAY) == 3
    assert {each.ticket: each.state for each in desk.pictures.newest()} == {1: "deleted", 2: "whole"}
    assert desk.pictures.purge(NOW + 7 * DAY) == 0, "once"
    gone = desk.pictures.one(LANE, "1-case_picture")
    assert (gone.size, gone.parts) == (30_000, 3), "what was, is still said"
    with pytest.raises(AttachmentFault, match="deleted: its time was over"):
        desk.pictures.picture(gone, PRIVATE, "export")
    assert desk.archive.broken() == []
    assert desk.pictures.purge(NOW + 8 * DAY) == 3
    assert sealed(desk) == [False] * 6 and desk.archive.broken() == []


def test_a_deleted_part_that_comes_again_is_known_and_stays_deleted(desk: Desk) -> None:
    """A lane that did not hear the receipt sends it again."""
    desk.send(*parts(jpeg(100)))
    assert desk.pictures.purge(NOW + 7 * DAY) == 1
    (record,) = desk.sent
    with desk.archive.batch() as intake:
        taken = intake.take(SITE, LANE, record.encode(), (record.stream_id, record.seq), PRIVATE)
    assert taken.fate is Fate.DUPLICATE
    assert sealed(desk) == [False]


def test_a_clock_that_is_ahead_keeps_nothing_for_longer(desk: Desk) -> None:
    desk.send(*parts(jpeg(100)), made=NOW + 1000 * DAY)
    assert desk.pictures.purge(NOW + 6 * DAY) == 0
    assert desk.pictures.purge(NOW + 8 * DAY) == 1


def test_what_waited_in_the_lane_is_not_kept_for_that_time_too(desk: Desk) -> None:
    desk.send(*parts(jpeg(100)), made=NOW - 30 * DAY)
    assert desk.pictures.purge(datetime.now(UTC)) == 1


def test_no_lane_can_have_a_picture_kept_for_ever(desk: Desk) -> None:
    desk.send(*parts(jpeg(100), keep_days=1_000_000_000))
    assert desk.pictures.purge(NOW + 365 * DAY) == 0
    assert desk.pictures.purge(NOW + 367 * DAY) == 1


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
def test_what_is_deleted_is_in_no_file_of_the_database(desk: Desk) -> None:
    """Not given up in a free page or the log: overwritten."""
    desk.send(*parts(jpeg(60_000)))
    secret = desk.sent[2].sealed
    assert secret is not None
    canary = Canary("sealed part", secret[len(secret) // 2 :][:64])
    assert found([canary], desk.folder), "the search finds it before"
    assert desk.pictures.purge(NOW + 7 * DAY) == 5
    assert [hit for hit in found([canary], desk.folder) if hit.path.name.startswith("hq.db")] == []


def test_it_goes_on_deleting_whatever_happens_to_the_database(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, calls = threading.Event(), list[datetime]()
    answers: Iterator[Any] = iter([ArchiveError("the disk is full"), 3, 0])

    def purge(now: datetime) -> int:
        calls.append(now)
        if len(calls) == 3:
            stop.set()
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    monkeypatch.setattr(desk.pictures, "purge", purge)
    monkeypatch.setattr(module, "POLL_S", 0.001)
    with capture_logs() as logs:
        keep_purging(desk.pictures, 0.001, stop)
    assert len(calls) == 3
    assert [(line["log_level"], line.get("why"), line.get("parts")) for line in logs] == [
        ("error", "the disk is full", None),
        ("info", None, 3),
    ]


# -- the command -----------------------------------------------------------------------------------------------------


def test_list_needs_no_key_and_says_what_there_is(desk: Desk) -> None:
    whole = parts(jpeg(60_000))
    desk.send(*whole[:4])
    told = desk.run("list", "--db", desk.db)
    assert "41-case_picture" in told and "incomplete" in told and "4/5" in told
    (row,) = json.loads(desk.run("list", "--db", desk.db, "--json", "--lane", LANE, "--ticket", 41))
    assert row["missing"] == [5] and row["state"] == "incomplete" and row["keep_days"] == 7
    assert json.loads(desk.run("list", "--db", desk.db, "--json", "--ticket", 42)) == []


def test_export_writes_the_picture_for_its_user_alone_and_never_over_anything(desk: Desk) -> None:
    picture = jpeg(60_000)
    desk.send(*parts(picture))
    target = desk.folder / "case.jpg"
    before = os.umask(0)
    try:
        desk.with_key("export", LANE, "41-case_picture", target)
    finally:
        os.umask(before)
    assert target.read_bytes() == picture and target.stat().st_mode & 0o777 == 0o600
    assert "never overwritten" in desk.with_key("export", LANE, "41-case_picture", target, code=1)
    link = desk.folder / "link.jpg"
    link.symlink_to(desk.folder / "elsewhere.jpg")
    desk.with_key("export", LANE, "41-case_picture", link, code=1)
    assert not (desk.folder / "elsewhere.jpg").exists()
    away = desk.folder / "no" / "where.jpg"
    assert "no such file" in desk.with_key("export", LANE, "41-case_picture", away, code=1)


def test_half_a_picture_leaves_no_file(desk: Desk) -> None:
    desk.send(*parts(jpeg(60_000))[:2])
    target = desk.folder / "case.jpg"
    assert "3 of 5 parts are not here (3, 4, 5)" in desk.with_key("export", LANE, "41-case_picture", target, code=1)
    assert not target.exists()


def test_show_proves_the_picture_and_shows_nothing_of_it(desk: Desk) -> None:
    picture = jpeg(60_000)
    desk.send(*parts(picture))
    told = desk.with_key("show", LANE, "41-case_picture")
    assert json.loads(told)["state"] == "whole" and len(json.loads(told)["sha256"]) == 64
    assert "HQ has no picture" in desk.with_key("show", LANE, "7-case_picture", code=1)
    desk.key.chmod(0o644)
    assert "may be used by others" in desk.with_key("show", LANE, "41-case_picture", code=1)


def test_who_opened_what_is_written_down_and_nothing_of_what_it_showed(desk: Desk) -> None:
    desk.send(*parts(jpeg(60_000)), *parts(jpeg(60_000), 42)[:1])
    assert json.loads(desk.run("accesses", "--db", desk.db, "--json")) == []
    desk.run("list", "--db", desk.db)
    desk.with_key("show", LANE, "41-case_picture")
    desk.with_key("export", LANE, "41-case_picture", desk.folder / "case.jpg")
    desk.with_key("show", LANE, "42-case_picture", code=1)
    rows = json.loads(desk.run("accesses", "--db", desk.db, "--json"))
    me = pwd.getpwuid(os.getuid()).pw_name
    assert [(row["what"], row["lane"], row["name"]) for row in rows] == [
        ("show", LANE, "42-case_picture"),
        ("export", LANE, "41-case_picture"),
        ("show", LANE, "41-case_picture"),
    ], "also who asked for what is not there"
    assert all(
        row["who"].startswith(me) and set(row) == {"at", "who", "what", "lane", "generation", "name"} for row in rows
    )


def test_the_user_is_the_systems_and_not_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    for name in ("USER", "LOGNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    monkeypatch.setattr(module, "LOGIN", tmp_path / "loginuid")
    assert module.asker() == me
    (tmp_path / "loginuid").write_text("4294967295")
    assert module.asker() == me
    (tmp_path / "loginuid").write_text("64321")
    assert module.asker() == f"{me}, logged in as uid 64321"


def test_what_cannot_be_written_down_is_not_opened(desk: Desk) -> None:
    desk.send(*parts(jpeg(100)))
    one = desk.pictures.one(LANE, "41-case_picture")
    reading = Archive(desk.db, read_only=True)
    with pytest.raises(ArchiveError, match="nothing is opened that cannot be written down"):
        Attachments(reading).picture(one, PRIVATE, "show")
    reading.close()


def test_purge_says_how_many(desk: Desk) -> None:
    desk.send(*parts(jpeg(60_000)), made=NOW - 7 * DAY)
    assert "5 parts of pictures are deleted" in desk.run("purge", "--db", desk.db)
    assert "0 parts" in desk.run("purge", "--db", desk.db)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    result = CliRunner().invoke(gated_hq, ["attachments", "purge", "--db", str(tmp_path / "hq.db")])
    assert result.exit_code == 1 and "there is no such file" in result.output
    assert list(tmp_path.iterdir()) == []
