"""Policies as files: how one is read once and judged, and the copies that a lane keeps of all that it took.

A copy survives a restart without sync, and a replay finds every policy that the journal names."""

import os
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from gated.config import ConfigError
from gated.lane.rules import Rules
from gated.logs import told
from gated.policyfile import POLICY_BYTES_MAX, parse_policy
from gated.store.sql import StoreError, in_words, sync_folder
from gated.wire import policysign

FOLDER: Final = "policy"
"""Below [store] dir; the lane's alone."""
KEPT_MAX: Final = 100
"""The oldest copies go beyond it: the journal is kept for days, and a policy holds for weeks."""


class PolicyRefused(Exception):
    """A policy that is not taken. `why`: a short code in lower case; the text says where, and what is wrong."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(detail)
        self.why = why


@dataclass(frozen=True, slots=True)
class Held:
    """A policy, and the bytes that it was read from."""

    rules: Rules = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """Of its content, whoever signed it: SHA-256, hexadecimal."""
        return sha256(policysign.body_of(self.data)).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The bytes of a plain file, read once. Raises `FileNotFoundError`, and `PolicyRefused`: not_a_file, too_long,
    unreadable. Never waits for a pipe, never follows a link."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise PolicyRefused("not_a_file", f"{path} is a link, folder, pipe or device, and must be a plain file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # exchanged between the two
                raise PolicyRefused("not_a_file", f"{path} must be a plain file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(POLICY_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as bad:
        raise PolicyRefused("unreadable", f"{path}: {os.strerror(bad.errno or 0).lower()}") from None
    if len(data) > POLICY_BYTES_MAX:
        raise PolicyRefused("too_long", f"{path} is longer than {POLICY_BYTES_MAX} bytes")
    return data


def held_of(data: bytes, path: Path) -> Held:
    """The policy of a file's bytes. `path` stands in errors. Raises `ConfigError`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise ConfigError(path, "is not UTF-8 text", data[: bad.start].count(b"\n") + 1) from None
    return Held(parse_policy(text, path).rules, data)


def judged(data: bytes, path: Path, place: str) -> Held:
    """The same for a lane at `place`; whatever is wrong with it, the lane goes on. Raises `PolicyRefused`: not_whole,
    unknown_place."""
    try:
        held = held_of(data, path)
    except ConfigError as wrong:
        raise PolicyRefused("not_whole", str(wrong)) from None
    except Exception as failed:  # noqa: BLE001  # a file must never end the lane, whatever is wrong with it
        raise PolicyRefused("not_whole", f"{path}: cannot be read: {'; '.join(told(failed))}") from None
    if place not in held.rules.places:
        known = ", ".join(sorted(held.rules.places))
        raise PolicyRefused("unknown_place", f"{path}: does not know {place}, where this lane stands; it knows {known}")
    return held


class Kept:
    """The folder of copies, one for each edition that was ever in force here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def own(self) -> None:
        """Make the folder where it is not there. Raises `StoreError` where others may write to it: whoever takes a
        copy away would take the lane back to an older policy."""
        with in_words(self.folder):
            if not os.path.lexists(self.folder):
                self.folder.mkdir(mode=0o700)
                sync_folder(self.folder)
            status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            advice = "must be a folder that the lane's user owns and nobody else may write to: chown it, chmod 700"
            raise StoreError("not_ours", self.folder, advice)

    def editions(self) -> list[int]:
        """The editions that are kept, the highest first. Raises `StoreError`."""
        with in_words(self.folder):
            names = [each.stem for each in self.folder.glob("*.toml")] if self.folder.is_dir() else []
        return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)

    def load(self, edition: int, place: str) -> Held:
        """A copy, checked again by the program that is installed now. Raises `PolicyRefused`."""
        path = self._path(edition)
        try:
            held = judged(read_bytes(path), path, place)
        except FileNotFoundError:
            raise PolicyRefused("gone", f"{path} is not there") from None
        if held.rules.edition != edition:
            raise PolicyRefused("altered", f"{path} holds edition {held.rules.edition}")
        return held

    def keep(self, held: Held) -> None:
        """Whole and durable, or not at all. Raises `StoreError`."""
        path = self._path(held.rules.edition)
        part = path.with_suffix(".part")
        with in_words(path):
            if path.exists() and path.read_bytes() == held.data:
                return
            part.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(part, flags, 0o600), "wb") as file:
                file.write(held.data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path)
            for old in self.editions()[KEPT_MAX:]:
                self._path(old).unlink(missing_ok=True)

    def _path(self, edition: int) -> Path:
        return self.folder / f"{edition}.toml"
