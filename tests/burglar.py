"""Whoever has a lane's disk, the programs' source and a document's number, and none of the keys: what they try."""

import base64
import hashlib
import hmac
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gated.store.cachefile import read_note
from gated.wire import rows
from gated.wire.rows import EpochKey
from gated.wire.seal import KEY_BYTES, LOOKUP_BYTES, SealError, SealKey, derived, lookup_key

PURPOSES: Final = ("cache lookup", "cache rows", "crossings", "register look-up", "register rows", "publisher digest")
HASHES: Final = ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s")
_WORD: Final = re.compile(rb"[ -~]{4,64}")


@dataclass(frozen=True)
class Known:
    """What they know of somebody."""

    issuer: str
    number: str
    personal_number: str = ""
    subjects: range = range(1, 20)
    """How HQ may have counted them."""

    def parts(self) -> Iterator[tuple[str, ...]]:
        """Whatever a place could stand for."""
        yield rows.of_document(self.issuer, self.number)
        if self.personal_number:
            yield rows.of_personal_number(self.personal_number)
        yield from (rows.of_status(self.issuer, self.number, slot) for slot in range(4))
        for subject in self.subjects:
            yield rows.of_subject(subject)
            yield from (rows.of_flags(subject, slot) for slot in range(2))

    def texts(self) -> Iterator[bytes]:
        """And in other words."""
        for number in filter(None, (self.number, self.personal_number)):
            for text in (
                number,
                f"{self.issuer}{number}",
                f"{self.issuer}/{number}",
                f"{self.issuer}<{number}",
                f"{number}<",
            ):
                yield text.encode()
                yield text.encode("utf-16-le")
            yield json.dumps(["document", self.issuer, number]).encode()
            yield json.dumps(["document", self.issuer, number], separators=(",", ":")).encode()


@dataclass
class Disk:
    """A copy of a lane's disk."""

    paths: Iterable[Path]
    files: dict[Path, bytes] = field(init=False)
    rows: dict[bytes, bytes] = field(init=False, default_factory=dict)
    about: list[Mapping[str, bytes]] = field(init=False, default_factory=list)
    names: list[bytes] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        every = {f for path in self.paths for f in (path.rglob("*") if path.is_dir() else (path,)) if f.is_file()}
        self.files = {path: path.read_bytes() for path in sorted(every)}
        for path in self.files:
            if re.fullmatch(r"cache-\w+-\d+\.db", path.name):
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
                    self.rows.update(sql.execute("SELECT key, value FROM rows"))
                    self.about.append(dict(sql.execute("SELECT name, value FROM about")))
                    self.names.append(read_note(path, sql).chain)

    def keys(self) -> set[bytes]:
        """Everything of 32 bytes on the disk that could be a key, or lead to one."""
        seeds = {bytes(KEY_BYTES), b"\xff" * KEY_BYTES, *self.names}
        for about in self.about:
            for value in about.values():
                seeds.update(value[at : at + KEY_BYTES] for at in range(max(1, len(value) - KEY_BYTES + 1)))
        for path, data in self.files.items():
            if path.suffix in (".toml", ".json", ".log", ".base", ".head"):
                words = set(_WORD.findall(data)) | set(re.findall(rb"[\w/.+=-]{4,}", data))
                seeds.update(words)
                seeds.update(bytes.fromhex(w.decode()) for w in words if re.fullmatch(rb"(?:[0-9a-f]{2}){16,64}", w))
        hashed = {hashlib.sha256(seed).digest() for seed in seeds}
        return {seed for seed in seeds if len(seed) == KEY_BYTES} | hashed

    # -- attacks

    def digests(self, known: Known, keys: Iterable[bytes]) -> set[bytes]:
        """Whatever could stand for somebody: hashes, and keyed hashes under every key."""
        found = {hashlib.new(name, text).digest() for text in known.texts() for name in HASHES}
        parts, texts = list(known.parts()), list(known.texts())
        for key in keys:
            for one in (key, *(derived(key, purpose) for purpose in PURPOSES)):
                found.update(lookup_key(one, *each) for each in parts)
            found.update(hmac.digest(key, text, "sha256") for text in texts)
        return {digest[:LOOKUP_BYTES] for digest in found}

    def betrays(self, known: Known, keys: Iterable[bytes]) -> set[str]:
        """The files in which something stands for them, as bytes, hex or base64."""
        wanted = self.digests(known, keys)
        hits = {"a place of the cache"} if wanted & self.rows.keys() else set()
        coded = wanted | {digest.hex().encode()[:16] for digest in wanted}
        coded |= {base64.b64encode(bytes(k) + digest)[4:20] for digest in wanted for k in range(3)}
        for path, data in self.files.items():
            if any(data[at : at + LOOKUP_BYTES] in coded for at in range(len(data) - LOOKUP_BYTES + 1)):
                hits.add(path.name)
        return hits

    def opens(self, keys: Iterable[bytes]) -> int:
        """How many of these keys open anything: a proof, or a row."""
        sample = list(self.rows.items())[:3]
        return sum(self._opens(key, sample) for key in keys)

    def _opens(self, key: bytes, sample: list[tuple[bytes, bytes]]) -> bool:
        epoch = EpochKey.of(key)
        if any(epoch.proves(about["proof"]) for about in self.about):
            return True
        for place, blob in sample:
            for one in (epoch.rows, SealKey(key)):
                try:
                    one.open(blob, place)
                except SealError:
                    continue  # that is what it is for
                return True
        return False
