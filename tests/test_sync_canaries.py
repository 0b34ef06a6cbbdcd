"""Nobody's data on any disk between HQ's register and the lane's door: every field of a person is planted, everything
that processes left or wrote is searched in every encoding; and the same day unsealed, where all must be found.

The search reads files as they lie, and what is packed in them: rows in zstd in segments in zstd in base64 in an
announcement in the broker's store. What it cannot do is say that a cipher is good: a row that is sealed is noise to it.
"""

import base64
import json
import re
import sqlite3
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from tests import traces
from tests.burglar import Disk, Known
from tests.canaries import Canary, Hit, found
from tests.canary_rig import Pipeline, played

ROOT = Path(__file__).resolve().parents[1]
IN_CLEAR = {"category": {"lane", "records"}}
"""docs/records.md: the clear half of a passage's record names the category of traveller, and no person."""
SEARCHED = {
    *("registers.db", "publish.db", "hq.db", "broker/mosquitto.db", "store/lane.db", "store/uplink.db"),
    *("store/cache-people-1.db", "store/cache-control-1.db", "store/sync/trust/timestamp.json"),
    *("repo/metadata/1.root.json", "repo/data/people/1/segments/0/1.seg", "repo/data/people/1/snapshots/0/0.chunk"),
    *("lane.log", "sync.log", "uplink.log", "publisher.log", "ingest.log"),
}
"""At least."""


@pytest.fixture(scope="module")
def day() -> Iterator[Pipeline]:
    with played(sealed=True) as made:
        yield made


def places_of(pipeline: Pipeline, hits: list[Hit]) -> dict[str, set[str]]:
    """Canary -> where it was found."""
    where: dict[str, set[str]] = {canary.name: set() for canary in pipeline.canaries}
    for hit in hits:
        for place, paths in pipeline.places.items():
            if any(hit.path == path or path in hit.path.parents for path in paths):
                where[hit.canary].add(place)
    return where


# -- the search can find -----------------------------------------------------------------------------------------------


def test_unsealed_the_same_day_leaves_everybody_everywhere() -> None:
    """The control run: the same programs, files and messages, and nothing is sealed."""
    with played(sealed=False) as pipeline:
        where = places_of(pipeline, found(pipeline.canaries, pipeline.folder))
        missed = {
            each.canary.name: each.places - where[each.canary.name]
            for each in pipeline.somebody.planted
            if not each.places <= where[each.canary.name]
        }
        assert missed == {}
        planted = {place for each in pipeline.somebody.planted for place in each.places}
        assert planted == set(pipeline.places) - {"records", "lane's disk"}
        assert len(pipeline.somebody.planted) > 30


PLAIN = b"ZZPACKEDCANARY"
NOISE = bytes(range(256)) * 3


def _rows(data: bytes) -> bytes:
    return zstandard.compress(NOISE + data + NOISE)


PACKED = {
    "zstd": _rows(PLAIN),
    "zstd without its length": zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN * 3),
    "zstd that breaks off": zstandard.compress(NOISE * 400 + PLAIN + bytes(range(255)) * 2000)[:-9],
    "zstd in zstd": _rows(_rows(PLAIN)),
    "deflate": zlib.compress(NOISE + PLAIN),
    "gzip": zlib.compress(PLAIN + NOISE, wbits=31),
    "base64 of zstd": json.dumps({"s": base64.b64encode(_rows(PLAIN)).decode()}).encode(),
    "base64 of base64 of zstd": base64.b64encode(b'{"x":"' + base64.b64encode(_rows(_rows(PLAIN))) + b'"}'),
    "base64 that follows letters": b"abc" + base64.urlsafe_b64encode(_rows(PLAIN)),
    "hex of zstd": _rows(PLAIN).hex().upper().encode(),
    "backwards": PLAIN[::-1],
}


@pytest.mark.parametrize("how", list(PACKED))
@pytest.mark.parametrize("before", [0, 1, 8190])
def test_what_is_packed_is_found(how: str, before: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(before) + PACKED[how] + b"\0" * 50)
    assert {hit.canary for hit in found([Canary("packed", PLAIN)], tmp_path)} == {"packed"}


def test_what_a_database_keeps_in_pieces_is_found(tmp_path: Path) -> None:
    """A row longer than a page lies in pieces: its zstd frame can be unpacked from the value alone. So in the WAL."""
    path = tmp_path / "a.db"
    long = b"".join(zlib.crc32(str(n).encode()).to_bytes(4, "big") for n in range(8000)).hex().encode()
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("CREATE TABLE rows (a)")
        sql.execute("INSERT INTO rows VALUES (?)", (zstandard.compress(long + PLAIN),))
        sql.commit()
        assert PLAIN not in path.read_bytes() + path.with_name("a.db-wal").read_bytes()
        (hit,) = found([Canary("packed", PLAIN)], tmp_path)
        assert (hit.path, hit.layer) == (path, "a value of rows, zstd")


def test_what_begins_like_something_packed_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x28\xb5\x2f\xfd" * 50 + b"\x78\x9c\x1f\x8b\x08" * 50 + b"SQLite format 3\0")
    (tmp_path / "sql").write_bytes(b"SQLite format 3\0" + b"junk" * 5000)
    assert found([Canary("packed", PLAIN)], tmp_path) == []


def test_the_trace_has_what_was_written_and_taken_away_again(tmp_path: Path) -> None:
    if not traces.can_trace():
        pytest.skip("there is no strace that may trace: apt install strace")
    writes = (
        "import os, sqlite3, tempfile\n"
        "file = tempfile.TemporaryFile(); file.write(b'ZZPACKED' + b'CANARY'); file.flush()\n"
        "os.pwritev(os.memfd_create('gone'), [b'ZZPACKED', b'CANARX'], 0)\n"
        "child = os.fork()\n"
        "if not child: os.write(os.open('FOLDER/kept', os.O_RDWR | os.O_CREAT), b'ZZPACKEDCANARZ'); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    ).replace("FOLDER", str(tmp_path))
    python = traces.wrapper(tmp_path / "python", tmp_path / "traces")
    subprocess.run([python, "-c", writes], check=True, env={"TMPDIR": str(tmp_path)}, timeout=30)
    written = traces.Written.of(tmp_path / "traces", tmp_path / "written")
    canaries = [Canary(end, f"ZZPACKEDCANAR{end}") for end in "YXZ"]
    assert {hit.canary for hit in found(canaries, written.folder)} == {"Y", "X", "Z"}
    assert (
        found(canaries, *(path for path in tmp_path.iterdir() if path.name not in ("written", "traces", "kept"))) == []
    )
    assert str(tmp_path / "kept") in written.opened and "gone" in written.opened


# -- and finds nothing -------------------------------------------------------------------------------------------------


def test_sealed_it_leaves_nobody_anywhere(day: Pipeline) -> None:
    """Register, publisher's database, what the server serves, the broker's store, the lane's caches with their WAL, its
    journal and outbox, what the uplink knows, spool and trust, HQ's records, every log, every temporary file."""
    files = {str(path.relative_to(day.folder)) for path in day.folder.rglob("*") if path.is_file()}
    for name in SEARCHED:
        assert name in files, "what is searched is there"
    where = places_of(day, found(day.canaries, day.folder))
    assert {name: places for name, places in where.items() if places} == {
        name: places | {"lane's disk"} for name, places in IN_CLEAR.items()
    }


def test_sealed_no_process_wrote_anybody_into_any_file_or_line(day: Pipeline) -> None:
    """Files that were taken away again, sockets, pipes: every byte that the kernel was given by publisher, ingest,
    sync, uplink and lane. What is written to memory that is a file alone (SQLite's -shm) goes another way; it was
    searched as it lay in the end, and holds page numbers."""
    if not day.traced:
        pytest.skip("there is no strace that may trace: apt install strace")
    written = day.written()
    assert written.size > 1 << 20
    names = {Path(path).name for path in written.opened}
    for name in ("lane.db", "cache-people-1.db.part", "cache-people-1.db-wal", "publish.db-wal", "hq.db", "1.seg.part"):
        assert any(each.endswith(name) for each in names), f"{name} was written by somebody who was watched"
    hits = found([canary for canary in day.canaries if canary.name not in IN_CLEAR], written.folder)
    assert hits == []
    outside = {path for path in written.opened if not Path(path).is_relative_to(day.folder) and path != "/dev/null"}
    assert outside == set(), "and no file was written but those that were searched"


def test_no_temporary_file_is_left(day: Pipeline) -> None:
    assert list(day.temporary.iterdir()) == []
    assert [path for path in (day.rig.store / "sync").rglob("*") if path.is_file() and "trust" not in path.parts] == []


def test_no_process_was_in_swap_and_the_lane_may_never_be(day: Pipeline) -> None:
    """What can be shown here: at the end of the day nothing of any process was in swap, and where this machine has no
    swap nothing ever was. That a lane's never is, is the service manager's to see to (MemorySwapMax=0), on a kernel
    that counts memory by group; here only that the unit asks for it is shown."""
    assert set(day.swapped_kib) == {"publisher", "ingest", "sync", "uplink", "lane"}
    assert set(day.swapped_kib.values()) == {0}
    unit = (ROOT / "systemd" / "gated-lane.service").read_text(encoding="utf-8")
    assert re.search(r"^MemorySwapMax=0$", unit, re.M) and re.search(r"^LimitCORE=0$", unit, re.M)
    for name in ("gated-sync", "gated-uplink"):
        other = (ROOT / "systemd" / f"{name}.service").read_text(encoding="utf-8")
        assert re.search(r"^LimitCORE=0$", other, re.M), f"{name} holds nobody's data in clear, and dumps none"


def test_the_lanes_disk_has_none_of_the_keys(day: Pipeline) -> None:
    """Beside the wrapped key of the epoch; with cache_on_disk = false the lane's own key is not there either."""
    secrets = {path: path.read_bytes() for folder in ("keys", "epochs") for path in (day.folder / folder).iterdir()}
    canaries = [Canary(path.name, data) for path, data in secrets.items() if path.suffix == ".key"]
    assert {"cache.key", "journal.key", "hq.key", "data.key", "epoch-people-1.key"} <= {c.name for c in canaries}
    assert found(canaries, *day.places["lane's disk"]) == []
    assert {hit.canary for hit in found(canaries, day.folder / "keys", day.folder / "epochs")} == {
        canary.name for canary in canaries
    }


# -- whoever steals the disk ------------------------------------------------------------------------------------------


def test_with_the_lanes_disk_alone_nobody_can_test_whether_a_known_number_is_there(day: Pipeline) -> None:
    """The disk of a lane through which they passed: caches, journal, outbox, trust, logs, lane.toml, root.json. Every
    hash of their number, and every keyed hash of it under whatever of 32 bytes lies there, stands for nothing there.

    With the epoch's key all of it can be found at once, which shows that the search is right; and so what an epoch's
    key is worth."""
    disk = Disk(day.places["lane's disk"])
    passing, lost = day.somebody.passing, day.somebody.lost
    keys = disk.keys()
    assert len(disk.rows) > 8 and len(keys) > 1000
    for known in (Known("TWN", passing.number, passing.personal_number), Known("TWN", lost.number)):
        assert disk.betrays(known, keys) == set()
    assert disk.opens(keys) == 0
    truth = {name: (day.folder / "epochs" / f"epoch-{name}-1.key").read_bytes() for name in PARTITIONS}
    assert disk.opens(truth.values()) == 2
    there = disk.betrays(Known("TWN", passing.number, subjects=range(0)), [truth[PEOPLE]])
    assert {"a place of the cache", "cache-people-1.db-wal"} & there and "lane.db" not in there
    there = disk.betrays(Known("TWN", lost.number, subjects=range(0)), [truth[CONTROL]])
    assert "a place of the cache" in there
    assert disk.betrays(Known("TWN", "300000001", subjects=range(0)), truth.values()) == set(), "and a stranger is not"
