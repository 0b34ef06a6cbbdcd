"""HQ's keys as files: made once, never overwritten, secret ones readable by their owner alone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.wire.seal import KEY_BYTES, public_of


class KeyFault(Exception):
    """A key file cannot be made or used. The text names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One file that `make` writes: raw bytes, 32 of them."""

    name: str
    about: str
    secret: bool


FILES = (
    KeyFile("hq.key", "opens what lanes seal to HQ: for ingest and for whoever may read records", True),
    KeyFile("hq.pub", "goes to every lane: [keys] hq_public", False),
    KeyFile("orders.key", "signs officers' orders: for the order desk alone", True),
    KeyFile("orders.pub", "goes to every lane: [keys] orders_public", False),
    KeyFile("receipts.key", "signs what HQ acknowledges: for ingest alone", True),
    KeyFile("receipts.pub", "goes to every lane: [keys] receipts_public", False),
    KeyFile("data.key", "seals the personal data in HQ's own registers", True),
)


def make(folder: Path) -> tuple[KeyFile, ...]:
    """Make every key in `folder` (made with mode 0700 where it is not there). Raises `KeyFault`, changing nothing,
    where one of the files exists."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in FILES:
        if (folder / file.name).exists():
            raise KeyFault(f"{folder / file.name} exists; a key is never overwritten: name another folder")
    hq, orders, receipts = (os.urandom(KEY_BYTES) for _ in range(3))
    contents = {
        "hq.key": hq,
        "hq.pub": public_of(hq),
        "orders.key": orders,
        "orders.pub": _verifies(orders),
        "receipts.key": receipts,
        "receipts.pub": _verifies(receipts),
        "data.key": os.urandom(KEY_BYTES),
    }
    for file in FILES:
        write_new(folder / file.name, contents[file.name], 0o600 if file.secret else 0o644)
    return FILES


def make_signing(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Signing keys (Ed25519) by name: NAME.key, secret, and NAME.pub beside it. Raises `KeyFault`, changing nothing,
    where one of the files exists."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = tuple(folder / f"{name}.{kind}" for name in names for kind in ("key", "pub"))
    for file in files:
        if file.exists():
            raise KeyFault(f"{file} exists; a key is never overwritten: name another folder")
    for secret_file, public_file in zip(files[::2], files[1::2], strict=True):
        private = os.urandom(KEY_BYTES)
        write_new(secret_file, private, 0o600)
        write_new(public_file, _verifies(private), 0o644)
    return files


def _verifies(private: bytes) -> bytes:
    """The public half of a signing key."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def write_new(path: Path, data: bytes, mode: int) -> None:
    """A durable file that was not there. Raises `FileExistsError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def secret(path: Path) -> bytes:
    """A secret key of 32 raw bytes. Raises `KeyFault`, also where others than the owner may read the file.

    Not so a credential of systemd: it is given by an access list, whose mask stands where a group's rights do, and lies
    in a folder that the service alone enters."""
    data = public(path)
    mode = path.stat().st_mode & 0o077
    if mode and os.environ.get("CREDENTIALS_DIRECTORY") != str(path.parent):
        raise KeyFault(f"{path} may be used by others than its owner: chmod 600 {path}")
    return data


def public(path: Path) -> bytes:
    """A key of 32 raw bytes. Raises `KeyFault`."""
    try:
        data = path.read_bytes()
    except OSError as bad:
        raise KeyFault(f"{path}: {(bad.strerror or 'cannot be read').lower()}") from None
    if len(data) != KEY_BYTES:
        raise KeyFault(f"{path} holds {len(data)} bytes; a key has {KEY_BYTES}")
    return data
