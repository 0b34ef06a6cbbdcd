"""Everything that is sealed, unsealed: the control run of a search that finds nothing. For tests alone.

A process whose environment names the folder that `made_in` wrote seals nothing from its first moment on: the very
same programs, files and messages, in clear."""

from pathlib import Path
from typing import Any

from gated.wire import seal

HOOK = "import sys; sys.path.insert(0, {root!r}); from tests.unsealed import undo; undo(); sys.path.pop(0)\n"


def made_in(folder: Path) -> Path:
    """What PYTHONPATH is to begin with: Python runs what lies there before anything else."""
    folder.mkdir()
    root = str(Path(__file__).resolve().parents[1])
    (folder / "sitecustomize.py").write_text(HOOK.format(root=root), encoding="utf-8")
    return folder


def undo() -> dict[str, Any]:
    """From now on nothing is sealed in this process; what was there, for `put_back`."""
    was = {name: getattr(seal, name) for name in ("seal_to", "open_sealed", "lookup_key")}
    was |= {name: getattr(seal.SealKey, name) for name in ("seal", "open")}
    put_back(
        {"seal": _seal, "open": _open, "seal_to": _seal_to, "open_sealed": _open_sealed, "lookup_key": _lookup_key}
    )
    return was


def put_back(was: dict[str, Any]) -> None:
    """As it was before `undo`."""
    for name, value in was.items():
        setattr(seal.SealKey if name in ("seal", "open") else seal, name, value)


def _seal(_: seal.SealKey, plaintext: bytes, aad: bytes, nonce: bytes) -> bytes:
    return b"\x01" + nonce + plaintext + bytes(seal.TAG_BYTES)


def _open(_: seal.SealKey, blob: bytes, aad: bytes) -> bytes:
    return blob[1 + seal.NONCE_BYTES : -seal.TAG_BYTES]


def _seal_to(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    return b"\x01" + bytes(32) + plaintext + bytes(seal.TAG_BYTES)


def _open_sealed(private: bytes, blob: bytes, aad: bytes) -> bytes:
    return blob[33 : -seal.TAG_BYTES]


def _lookup_key(key: bytes, *parts: str) -> bytes:
    """`dTWN.351234567`: as long as a place, and in clear."""
    text = parts[0][0] + ".".join(parts[1:])
    assert len(text) <= seal.LOOKUP_BYTES, "a number that fits into a place"
    return text.encode().ljust(seal.LOOKUP_BYTES, b"-")
