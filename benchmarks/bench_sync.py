"""The enrolment cache at 1, 2 and 5 million people: snapshots, a day of changes, and looking people up meanwhile.

Each person has a face template of 128 float32, a document and a personal number: three sealed rows. A day is 200,000
people who change (three in five get a new template, a quarter are new, the others go). People are looked up by another
process, without a pause, as the lane does it. Beside it stand the same people in plain columns in SQLite, the same in
SQLCipher, and what disk and cipher can do at best.

    python -m benchmarks.bench_sync [--rows N ...] [--beside N] [--changes N] [--folder DIR]
                                    [--json] [--write] [--quick]

`--rows`: people in each run; one, two and five million unless told. The largest needs some 3.5 kB of disk for each.
"""

import argparse
import json
import math
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.lookups import AT, KINDS, Asker, PlainStore, Times, built, change_plain, load_plain, sealed_store
from benchmarks.register import (
    ISSUER,
    ROWS_EACH,
    SECRET,
    Changes,
    Spool,
    changes_of,
    document,
    publish_chunks,
    publish_segments,
    seal_rows_per_s,
    sealed_changes,
    spooled,
    subject,
    unpacked_chunks,
)
from gated.store.cachefile import CacheFile, path_of
from gated.store.cachetable import PAGE_BYTES
from gated.wire.rows import CONTROL, PEOPLE, EpochKey, of_document, of_subject
from gated.wire.segment import Unpacked

SIZES = [1_000_000, 2_000_000, 5_000_000]
MINUTES = 1440
DAY_S_GOAL, P50_US_GOAL, P99_US_GOAL = 15.0, 50.0, 2000.0
ASKED = {"cold": "cold", "idle": "idle", "day": "during a day's segment", "minutes": "during 1,440 segments"}
TO_COME = 20_000_000
BYTES_EACH = 3500
"""Of disk, at the worst moment, for each person of the largest run."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "sync-bench.md"


class _Progress:
    """On stderr: twice a second on a terminal, else every half minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._alive = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._last >= (0.5 if self._alive else 30):
            self._last = time.monotonic()
            print(f"\r{text:70}" if self._alive else text, end="" if self._alive else "\n", file=sys.stderr, flush=True)


say = _Progress()


def clocked(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def quantiles(times: Times) -> dict[str, dict[str, float]]:
    return {
        kind: {
            "count": len(each),
            "p50_us": float(np.percentile(each, 50)),
            "p99_us": float(np.percentile(each, 99)),
            "worst_us": max(each),
        }
        for kind, each in times.items()
    }


# -- the physical limits -------------------------------------------------------------------------------------------


def limits(folder: Path, write_bytes: int) -> dict[str, float]:
    """What this machine's disk and cipher do with nothing around them."""
    block, path = os.urandom(8 << 20), folder / "limit"

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(write_bytes // len(block)):
                file.write(block)
            os.fsync(file.fileno())

    written_s = clocked(write)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        places = np.random.default_rng(1).integers(0, write_bytes // 8192, 500) * 8192
        read_s = clocked(lambda: [os.pread(file.fileno(), 8192, int(at)) for at in places])
    path.unlink()
    cipher, row = AESGCM(SECRET), os.urandom(1024)
    bulk_s = clocked(lambda: [cipher.encrypt(bytes(12), block, None) for _ in range(8)])
    row_s = clocked(lambda: [cipher.encrypt(bytes(12), row, b"place") for _ in range(20_000)])
    return {
        "disk_write_mb_s": write_bytes / written_s / 1e6,
        "disk_random_read_us": 1e6 * read_s / len(places),
        "aes_gcm_mb_s": 8 * len(block) / bulk_s / 1e6,
        "aes_gcm_rows_per_s": 20_000 / row_s,
    }


def bare_selects(path: Path, count: int, rounds: int = 5000) -> dict[str, float]:
    """Microseconds of the two SELECTs of a look-up alone: nothing is hashed, opened or decoded."""
    key = EpochKey.of(SECRET)
    some = [int(n) for n in np.random.default_rng(2).integers(0, count, rounds)]
    places = [(key.place(*of_document(ISSUER, document(n))), key.place(*of_subject(subject(n)))) for n in some]
    sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    times = []
    for pair in places:
        started = time.perf_counter_ns()
        for place in pair:
            sql.execute("SELECT value FROM rows WHERE key = ?", (place,)).fetchone()
        times.append((time.perf_counter_ns() - started) / 1000)
    sql.close()
    return {"p50_us": float(np.percentile(times, 50)), "p99_us": float(np.percentile(times, 99))}


# -- the cache -----------------------------------------------------------------------------------------------------


def forget(path: Path) -> None:
    """Out of the system's memory, as after a start of the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def recall(path: Path) -> None:
    """Into the system's memory, as far as there is room."""
    with path.open("rb", buffering=0) as file:
        while file.read(16 << 20):
            pass


def day(folder: Path, file: CacheFile, changes: Changes, segments: int) -> dict[str, Any]:
    """A day of changes, in so many segments: from their bytes to what is durable."""
    say("sealing the changes of a day")
    where = folder / "segments"
    paths = publish_segments(where, sealed_changes(changes), segments)
    rows, taken = 0, []
    for number, path in enumerate(paths, 1):
        started = time.perf_counter()
        with path.open("rb") as source:
            found = Unpacked(source)
            rows += file.apply(found, file.note.serial + 1, bytes(32), AT, may_lift=True)
        taken.append(time.perf_counter() - started)
        say(f"applying segment {number} of {len(paths)}")
    size = sum(path.stat().st_size for path in paths)
    shutil.rmtree(where)
    return {
        "people": changes.people,
        "rows": rows,
        "segments": segments,
        "bytes_on_wire": size,
        "apply_s": sum(taken),
        "slowest_segment_s": max(taken),
    }


def snapshot(folder: Path, spool: Spool, count: int) -> dict[str, float]:
    """Of the first `count` people: as HQ publishes it, and as a lane builds it."""
    chunks, rows = folder / "chunks", ROWS_EACH * count
    started = time.perf_counter()
    size = publish_chunks(chunks, spool.rows(count), say)
    publish_s = time.perf_counter() - started
    if count == spool.count:
        spool.remove()
    started = time.perf_counter()
    built(folder, PEOPLE, unpacked_chunks(chunks), lambda n: say(f"building, {n:,} of {rows:,} rows"))
    build_s = time.perf_counter() - started
    shutil.rmtree(chunks)
    built(folder, CONTROL, (), lambda _: None)
    file_bytes = path_of(folder, PEOPLE, 1).stat().st_size
    return {
        "publish_rows_per_s": rows / publish_s,
        "bytes_on_wire": size,
        "build_s": build_s,
        "build_rows_per_s": rows / build_s,
        "file_bytes": file_bytes,
        "bytes_a_row": file_bytes / rows,
        "bytes_a_person": file_bytes / count,
    }


def cache(folder: Path, spool: Spool, count: int, changed: int, least: int) -> dict[str, Any]:
    """One size of the register."""
    told: dict[str, Any] = {"people": count, "rows": ROWS_EACH * count, "snapshot": snapshot(folder, spool, count)}
    path = path_of(folder, PEOPLE, 1)
    days = [changes_of(number, count, changed) for number in range(3)]
    asker = Asker(sealed_store, (folder,), days[-1].gone.start)
    looked: dict[str, Times] = {name: {} for name in ASKED}
    say("looking people up")
    forget(path)
    with asker.meanwhile(looked["cold"], 4000):
        pass
    recall(path)
    with asker.meanwhile(looked["idle"], least):
        pass
    told["selects"] = bare_selects(path, asker.count)
    with CacheFile(path) as file:
        told["day_alone"] = day(folder, file, days[0], 1)
        with asker.meanwhile(looked["day"]):
            told["day"] = day(folder, file, days[1], 1)
        with asker.meanwhile(looked["minutes"]):
            told["minutes"] = day(folder, file, days[2], MINUTES)
        say("auditing")
        started = time.perf_counter()
        file.digests()
        told["audit_s"] = time.perf_counter() - started
    told["file_bytes_after"] = path.stat().st_size
    told["lookups"] = {name: quantiles(times) for name, times in looked.items()}
    for left in folder.glob("cache-*"):
        left.unlink()
    return told


def plain(folder: Path, cipher: bool, count: int, changed: int, least: int) -> dict[str, Any]:
    """The same people in plain columns: loaded, looked up, changed."""
    path = folder / "plain.db"
    name = "SQLCipher" if cipher else "SQLite"
    say(f"loading {count:,} people into {name}")
    told: dict[str, Any] = {"people": count, "load_s": load_plain(path, cipher, count)}
    told["file_bytes"] = path.stat().st_size
    days = [changes_of(number, count, changed) for number in range(2)]
    asker = Asker(PlainStore, (path, cipher), days[-1].gone.start)
    looked: dict[str, Times] = {"idle": {}, "day": {}}
    recall(path)
    with asker.meanwhile(looked["idle"], least):
        pass
    told["day_alone_s"] = change_plain(path, cipher, days[0])
    with asker.meanwhile(looked["day"]):
        told["day_s"] = change_plain(path, cipher, days[1])
    told["lookups"] = {name: quantiles(times) for name, times in looked.items()}
    for left in folder.glob("plain.db*"):
        left.unlink()
    return told


# -- all of it -----------------------------------------------------------------------------------------------------


def measure(folder: Path, sizes: list[int], beside: int, changed: int, least: int) -> dict[str, Any]:
    machine = {
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_before": os.getloadavg()[0],
    }
    told: dict[str, Any] = {"machine": machine, "limits": limits(folder, 1 << 30 if sizes[-1] > 100_000 else 1 << 27)}
    one_core = seal_rows_per_s()
    started = time.perf_counter()
    spool = spooled(folder / "spool", sizes[-1], say)
    rows = ROWS_EACH * sizes[-1]
    told["seal"] = {"one_core_rows_per_s": one_core, "rows_per_s": rows / (time.perf_counter() - started)}
    told["cache"] = [cache(folder, spool, count, changed, least) for count in sizes]
    if beside:
        told["beside"] = {
            name: plain(folder, cipher, beside, min(changed, beside * 2 // 5), least)
            for name, cipher in (("SQLite", False), ("SQLCipher", True))
        }
    told["growth"] = growth(told["cache"]) if len(sizes) > 1 else None
    told["goals"] = goals(told["cache"][-1])
    machine["load_after"] = os.getloadavg()[0]
    return told


def growth(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What was measured, carried to `TO_COME` people: what one pays a row for by a straight line through zero, what
    one pays a level of the tree for by a + b log2(people). Least squares. As long as the file fits into memory."""
    people = np.array([run["people"] for run in runs], float)
    found = {}
    for name, take, straight in GROWING:
        values = np.array([take(run) for run in runs])
        if straight:
            then = float(people @ values / (people @ people)) * TO_COME
        else:
            slope, start = np.polyfit(np.log2(people), values, 1)
            then = float(start + slope * math.log2(TO_COME))
        found[name] = {**{f"{int(n):,}": float(v) for n, v in zip(people, values, strict=True)}, f"{TO_COME:,}": then}
    return found


GROWING: tuple[tuple[str, Callable[[dict[str, Any]], float], bool], ...] = (
    ("file, GB", lambda run: run["snapshot"]["file_bytes"] / 1e9, True),
    ("building a snapshot, s", lambda run: run["snapshot"]["build_s"], True),
    ("the audit, s", lambda run: run["audit_s"], True),
    ("a day's segment, s", lambda run: run["day"]["apply_s"], False),
    ("the same in 1,440 segments, s", lambda run: run["minutes"]["apply_s"], False),
    ("look-up by document, idle, p50 us", lambda run: run["lookups"]["idle"][KINDS[0]]["p50_us"], False),
    ("the same during a day's segment, p50 us", lambda run: run["lookups"]["day"][KINDS[0]]["p50_us"], False),
    ("the same, p99 us", lambda run: run["lookups"]["day"][KINDS[0]]["p99_us"], False),
)


def goals(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The goals of the largest run, and whether they are met."""
    asked = [run["lookups"][name][kind] for name in ("day", "minutes") for kind in KINDS]
    found = {
        f"{run['day']['people']:,} people change, in one segment, s": (run["day"]["apply_s"], DAY_S_GOAL),
        "the same in 1,440 segments, all together, s": (run["minutes"]["apply_s"], DAY_S_GOAL),
        "look-ups meanwhile, p50 us": (max(each["p50_us"] for each in asked), P50_US_GOAL),
        "look-ups meanwhile, p99 us": (max(each["p99_us"] for each in asked), P99_US_GOAL),
    }
    return {name: {"found": value, "goal": goal, "met": value <= goal} for name, (value, goal) in found.items()}


# -- in words ------------------------------------------------------------------------------------------------------


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that is one in Markdown too."""
    wide = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    rule = [("-" if n == 0 else "") + "-" * (wide[n] - 1) + ("" if n == 0 else ":") for n in range(len(head))]
    return [
        "| " + " | ".join(t.ljust(wide[n]) if n == 0 else t.rjust(wide[n]) for n, t in enumerate(row)) + " |"
        for row in (head, rule, *rows)
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def _of_cache(runs: list[dict[str, Any]]) -> list[str]:
    def row(name: str, take: Callable[[dict[str, Any]], float]) -> list[str]:
        return [name, *(_number(take(run)) for run in runs)]

    return _lines(
        ["people", *(f"{run['people']:,}" for run in runs)],
        [
            row("sealed rows", lambda r: r["rows"]),
            row("snapshot on the wire, MB", lambda r: r["snapshot"]["bytes_on_wire"] / 1e6),
            row("published (sorted, packed), rows/s", lambda r: r["snapshot"]["publish_rows_per_s"]),
            row("built on the lane, s", lambda r: r["snapshot"]["build_s"]),
            row("built on the lane, rows/s", lambda r: r["snapshot"]["build_rows_per_s"]),
            row("file, MB", lambda r: r["snapshot"]["file_bytes"] / 1e6),
            row("bytes a row", lambda r: r["snapshot"]["bytes_a_row"]),
            row("bytes a person (three rows)", lambda r: r["snapshot"]["bytes_a_person"]),
            row("a day: people who change", lambda r: r["day"]["people"]),
            row("a day: rows that change", lambda r: r["day"]["rows"]),
            row("one segment: MB on the wire", lambda r: r["day"]["bytes_on_wire"] / 1e6),
            row("one segment, nobody asks: s", lambda r: r["day_alone"]["apply_s"]),
            row("one segment, look-ups meanwhile: s", lambda r: r["day"]["apply_s"]),
            row("1,440 segments: MB on the wire", lambda r: r["minutes"]["bytes_on_wire"] / 1e6),
            row("1,440 segments, look-ups meanwhile: s", lambda r: r["minutes"]["apply_s"]),
            row("the slowest of them: s", lambda r: r["minutes"]["slowest_segment_s"]),
            row("audit of every row: s", lambda r: r["audit_s"]),
        ],
    )


def _of_lookups(run: dict[str, Any]) -> list[str]:
    rows = []
    for name, words in ASKED.items():
        for kind in KINDS:
            each = run["lookups"][name][kind]
            numbers = (each["p50_us"], each["p99_us"], each["worst_us"], each["count"])
            rows.append([f"{words}: {kind}", *map(_number, numbers)])
    bare = run["selects"]
    rows.append(["idle: the two SELECTs alone (limit)", _number(bare["p50_us"]), _number(bare["p99_us"]), "", ""])
    return _lines([f"{run['people']:,} people", "p50 us", "p99 us", "worst us", "look-ups"], rows)


def _of_beside(told: dict[str, Any]) -> list[str]:
    ours = next((run for run in told["cache"] if run["people"] == told["beside"]["SQLite"]["people"]), None)
    rows = []
    if ours is not None:
        load_s, file_mb = ours["snapshot"]["build_s"], ours["snapshot"]["file_bytes"] / 1e6
        days = ours["day_alone"]["apply_s"], ours["day"]["apply_s"]
        rows.append(_beside_row("the cache (sealed rows)", load_s, file_mb, days, ours["lookups"]))
    for name, run in told["beside"].items():
        days = run["day_alone_s"], run["day_s"]
        rows.append(_beside_row(f"{name}, plain columns", run["load_s"], run["file_bytes"] / 1e6, days, run["lookups"]))
    people = f"{told['beside']['SQLite']['people']:,} people"
    head = [people, "load s", "MB", "day s", "day s, asked", "idle p50 us", "p99", "asked p50 us", "p99", "miss p50 us"]
    return _lines(head, rows)


def _beside_row(name: str, load_s: float, mb: float, days: tuple[float, float], lookups: dict[str, Any]) -> list[str]:
    idle, asked, miss = lookups["idle"][KINDS[0]], lookups["day"][KINDS[0]], lookups["idle"][KINDS[1]]
    times = (idle["p50_us"], idle["p99_us"], asked["p50_us"], asked["p99_us"], miss["p50_us"])
    return [name, *map(_number, (load_s, mb, *days, *times))]


def table(told: dict[str, Any]) -> str:
    """The figures in words; it is Markdown too."""
    machine, limit, seal = told["machine"], told["limits"], told["seal"]
    lines = [
        f"{machine['cpus']} cores ({machine['architecture']}), {machine['memory_bytes'] / 1e9:.0f} GB of memory, "
        f"Python {machine['python']}, SQLite {machine['sqlite']}; load {machine['load_before']:.1f} before, "
        f"{machine['load_after']:.1f} after.",
        "",
        f"Sealing at HQ: {seal['one_core_rows_per_s']:,.0f} rows/s on one core, {seal['rows_per_s']:,.0f} on all, "
        "written to files. At best this machine's disk writes "
        f"{limit['disk_write_mb_s']:,.0f} MB/s and reads a page elsewhere in {limit['disk_random_read_us']:,.0f} us; "
        f"AES-256-GCM does {limit['aes_gcm_mb_s']:,.0f} MB/s, or {limit['aes_gcm_rows_per_s']:,.0f} rows/s of 1 KiB "
        "(one core).",
        "",
        *_of_cache(told["cache"]),
        "",
        *_of_lookups(told["cache"][-1]),
    ]
    if "beside" in told:
        lines += ["", *_of_beside(told)]
    if told["growth"]:
        columns = next(iter(told["growth"].values()))
        head = ["growth", *columns]
        rows = [[name, *(_number(value) for value in row.values())] for name, row in told["growth"].items()]
        lines += ["", *_lines([*head[:-1], f"{head[-1]} (carried on)"], rows)]
    rows = [
        [name, _number(each["found"]), _number(each["goal"]), "yes" if each["met"] else "NO"]
        for name, each in told["goals"].items()
    ]
    return "\n".join(
        [*lines, "", *_lines([f"goals, {told['cache'][-1]['people']:,} people", "found", "goal", "met"], rows)]
    )


def page(told: dict[str, Any], command: str) -> str:
    """docs/sync-bench.md."""
    return f"""\
# The enrolment cache, measured

Made by `{command}`: do not edit. What is measured is said at the top of `benchmarks/bench_sync.py`.

{table(told)}

How to read it. Look-ups are made one after another without a pause by another process, through the very code of the
lane (`gated.store.cache.Enrolments`): a hit finds the link, then the person, opens both and decodes them. "Cold": the
file is not in the system's memory. "Idle": nothing is written meanwhile. A segment's time is from its packed bytes to
what is durable. Plain columns are loaded and changed in order of key too, with the same cache and durability and pages
of {PAGE_BYTES[0]} bytes; a look-up there gives a tuple that nobody checks.

Growth: what is paid a row for goes by a straight line through zero, what is paid a level of the tree for by
a + b log2(people), both by least squares. It says nothing of a file that does not fit into memory: there a look-up that
hits costs up to two reads of the disk, as in "cold", and a day's changes cost a read for nearly each row.
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="people in each run")
    parser.add_argument("--beside", type=int, help="people in the plain tables: the least of --rows; 0: none")
    parser.add_argument("--changes", type=int, default=200_000, help="people who change in a day: two fifths at most")
    parser.add_argument("--folder", type=Path, help="where the files are made, and deleted; default: the system's")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    parser.add_argument("--quick", action="store_true", help="20,000 people in one run: does it still work?")
    options = parser.parse_args(argv)
    sizes = [20_000] if options.quick else sorted(set(options.rows))
    if sizes[0] < 1000:
        parser.error("--rows: at least 1,000")
    changed = min(options.changes, sizes[0] * 2 // 5)
    beside = sizes[0] if options.beside is None else options.beside
    with tempfile.TemporaryDirectory(prefix="gated-bench-", dir=options.folder) as scratch:
        free, needed = shutil.disk_usage(scratch).free, BYTES_EACH * sizes[-1] + (1 << 30)
        if free < needed:
            parser.error(
                f"{scratch}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed: --folder, or fewer --rows"
            )
        told = measure(Path(scratch), sizes, beside, changed, 2000 if options.quick else 40_000)
    print(json.dumps(told, indent=2) if options.json else table(told))
    if options.write:
        given = " ".join(arg for arg in (argv if argv is not None else sys.argv[1:]) if arg != "--write")
        PAGE.write_text(page(told, f"python -m benchmarks.bench_sync {given} --write".replace("  ", " ")))


if __name__ == "__main__":
    main()
