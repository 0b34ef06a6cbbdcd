"""Public-domain portraits for the demonstration: `python -m tests.hw_sim.portraits`. None of them lies in the project.

They travel in two registry packages and are taken out by sha256: works of the US government (official portraits) and
a NASA photograph. var/portraits/<person>/<n>.jpg: the first file of a folder is the enrolled one.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "var" / "portraits"
Say = Callable[[str], None]


class PortraitError(Exception):
    """A portrait cannot be had, or is not the one it should be."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """One picture: where it goes, and which member of which package it is."""

    person: str
    file: str
    package: str
    member: str
    sha256: str


RECOGNITION = "face_recognition==1.3.0"
"""Source distribution: tests/test_images."""
SKIMAGE = "scikit-image>=0.25"
"""Wheel: skimage/data. Any version will do, the member's sha256 decides."""

PORTRAITS = (
    Portrait(
        "obama",
        "1.jpg",
        RECOGNITION,
        "tests/test_images/obama.jpg",
        "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
    ),
    Portrait(
        "obama",
        "2.jpg",
        RECOGNITION,
        "tests/test_images/obama2.jpg",
        "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
    ),
    Portrait(
        "obama",
        "3.jpg",
        RECOGNITION,
        "tests/test_images/obama3.jpg",
        "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
    ),
    Portrait(
        "biden",
        "1.jpg",
        RECOGNITION,
        "tests/test_images/biden.jpg",
        "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
    ),
    Portrait(
        "collins",
        "1.png",
        SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
)


def obtain(folder: Path = FOLDER, say: Say = lambda line: None) -> dict[str, list[Path]]:
    """Make sure that the portraits are in `folder`; the files of each person, the enrolled one first.

    What is there and right is left alone. Raises `PortraitError` saying which portrait cannot be had and why."""
    missing = [one for one in PORTRAITS if not _is_right(folder / one.person / one.file, one.sha256)]
    with tempfile.TemporaryDirectory(prefix="gated-portraits-") as scratch:
        for package in sorted({one.package for one in missing}):
            say(f"portraits: downloading the package {package}")
            archive = _download(package, Path(scratch))
            for one in missing:
                if one.package == package:
                    _write(folder / one.person / one.file, _member(archive, one))
    people: dict[str, list[Path]] = {}
    for one in PORTRAITS:
        people.setdefault(one.person, []).append(folder / one.person / one.file)
    return {person: sorted(files) for person, files in people.items()}


def _download(package: str, scratch: Path) -> Path:
    """The package's archive, by the pip and the sources that the user has set up.

    pip asks a source distribution for its metadata before it hands it over, and that needs a setuptools that knows
    bdist_wheel: one is put into a folder of its own for as long as that takes."""
    folder = scratch / package.partition("=")[0].rstrip("><")
    if package != RECOGNITION:
        _pip(["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package], {})
    else:
        tools = scratch / "tools"
        _pip(["install", "--target", str(tools), "setuptools>=77"], {})
        arguments = ["download", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--dest", str(folder)]
        _pip([*arguments, package], {"PYTHONPATH": str(tools)})
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise PortraitError(f"pip brought {len(archives)} files for {package}, not one")
    return archives[0]


def _pip(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "rror" in line] or ["no reason given"]
        raise PortraitError(f"pip could not {arguments[0]} {arguments[-1]}: {errors[-1].strip()}")


def _member(archive: Path, one: Portrait) -> bytes:
    content: bytes | None = None
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            if one.member in wheel.namelist():
                content = wheel.read(one.member)
    else:
        with tarfile.open(archive) as source:
            for entry in source:
                if entry.isfile() and entry.name.partition("/")[2] == one.member:
                    stream = source.extractfile(entry)
                    content = stream.read() if stream is not None else None
    if content is None:
        raise PortraitError(f"{archive.name} has no {one.member}")
    found = hashlib.sha256(content).hexdigest()
    if found != one.sha256:
        raise PortraitError(f"{archive.name}, {one.member}: expected sha256 {one.sha256}, found {found}")
    return content


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(content)
    os.replace(part, target)


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def main() -> int:
    try:
        people = obtain(say=print)
    except PortraitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"portraits: {sum(map(len, people.values()))} of {len(people)} persons in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
