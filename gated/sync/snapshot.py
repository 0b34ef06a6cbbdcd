"""A partition's snapshot: its manifest and chunks, fetched first and proven, then read as one run of rows."""

from collections.abc import Iterable, Iterator

from gated.sync.fetch import Fetcher
from gated.sync.follow import Say, in_words
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import Spool, on_disk
from gated.wire import bundle
from gated.wire.bundle import MANIFEST_BYTES_MAX, Base, Chunk, Manifest, Snapshot
from gated.wire.segment import CHUNK_BYTES_MAX, Unpacked

FILE_TIMES = 1.25
"""The database of a snapshot, beside the chunks it is made from."""


def manifest_of(base: Base, snapshot: Snapshot, spool: Spool, fetcher: Fetcher) -> Manifest:
    """Which chunks there are, proven by the base. Raises `SyncRefused`."""
    path = bundle.manifest_path(base.partition, base.epoch, snapshot.serial)
    if not 0 < snapshot.manifest_bytes <= MANIFEST_BYTES_MAX:
        raise SyncRefused(Why.ENDLESS, path, "longer than any manifest")
    place = spool.place(path)
    fetcher.file(path, place, snapshot.manifest_bytes, snapshot.manifest_sha256)
    with in_words(path), on_disk(place):
        manifest: Manifest = bundle.load(Manifest, place.read_bytes())
    if (manifest.partition, manifest.epoch) != (base.partition, base.epoch):
        raise SyncRefused(Why.SWAPPED_PARTITION, path, "it is of another partition or epoch")
    if (manifest.serial, manifest.rows) != (snapshot.serial, snapshot.rows):
        raise SyncRefused(Why.MIXED, path, "it is not the snapshot that its base names")
    if any(not 0 < chunk.size <= CHUNK_BYTES_MAX for chunk in manifest.chunks):
        raise SyncRefused(Why.ENDLESS, path, "a chunk is longer than any")
    return manifest


def paths(manifest: Manifest) -> list[str]:
    """Where the chunks lie at HQ."""
    m = manifest
    return [bundle.chunk_path(m.partition, m.epoch, m.serial, number) for number in range(len(m.chunks))]


def still_needed(manifest: Manifest, spool: Spool) -> int:
    """Bytes that fetching and building still take."""
    whole = sum(chunk.size for chunk in manifest.chunks)
    here = sum(c.size for c, path in zip(manifest.chunks, paths(manifest), strict=True) if spool.has(path))
    return whole - here + int(whole * FILE_TIMES)


def fetch(manifest: Manifest, numbers: Iterable[int], spool: Spool, fetcher: Fetcher, say: Say) -> None:
    """These chunks to the spool; what is there is not fetched again."""
    total, done = sum(chunk.size for chunk in manifest.chunks), 0
    for number in numbers:
        path, chunk = paths(manifest)[number], manifest.chunks[number]
        what = f"{manifest.partition}: snapshot {manifest.serial}, piece {number + 1} of {len(manifest.chunks)}"

        def told(n: int, _of: int, what: str = what, before: int = done) -> None:
            say(what, before + n, total)

        fetcher.file(path, spool.place(path), chunk.size, chunk.sha256, told)
        done += chunk.size


def rows(manifest: Manifest, spool: Spool) -> Iterator[tuple[bytes, bytes]]:
    """Every row, in order of place, from chunks that are in the spool. Raises `SyncRefused`."""
    count = 0
    for number in range(len(manifest.chunks)):
        for row in rows_of(manifest, number, spool):
            count += 1
            yield row
    if count != manifest.rows:
        raise SyncRefused(Why.TRUNCATED, paths(manifest)[0] if manifest.chunks else "snapshot", "rows are missing")


def rows_of(manifest: Manifest, number: int, spool: Spool) -> Iterator[tuple[bytes, bytes]]:
    """The rows of one chunk. Raises `SyncRefused`."""
    path, chunk = paths(manifest)[number], manifest.chunks[number]
    end = manifest.chunks[number + 1].first if number + 1 < len(manifest.chunks) else None
    with in_words(path), on_disk(spool.place(path)), spool.place(path).open("rb") as source:
        found = Unpacked(source)
        found.expect("chunk", manifest.partition, manifest.epoch, manifest.serial, manifest.serial)
        for place, blob in found:
            if blob is None or place < chunk.first or (end is not None and place >= end):
                raise SyncRefused(Why.MALFORMED, path, "its rows are not those that its manifest names")
            yield place, blob


def covering(manifest: Manifest, first: bytes, end: bytes) -> list[int]:
    """The chunks that may hold places from `first` to before `end`."""
    chunks: tuple[Chunk, ...] = manifest.chunks
    after = [chunk.first for chunk in chunks[1:]] + [b"\xff" * (bundle.PLACE_BYTES + 1)]
    return [n for n, chunk in enumerate(chunks) if chunk.first < end and first < after[n]]
