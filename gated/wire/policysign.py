"""The policy office's signature on a policy file: one line at its end. No I/O, no clock.

TUF's roles say that HQ published a file, and the process that proves them has the network; *the lane process* believes
this line alone. It stands in the file itself, so that file and signature can never be of two editions, not even for the
moment between two renames; for TOML it is a comment. Everything before the line is signed, byte by byte: Ed25519
(RFC 8032) over `DOMAIN || body`, so that a signature made for something else is never a policy's.
"""

import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DOMAIN: Final = b"gated policy v1\n"
_LINE: Final = re.compile(rb"# signature, gated policy v1: ([0-9a-f]{128})\n\Z")
_MARK: Final = b"# signature, gated policy v1: "


def signed(private: Ed25519PrivateKey, data: bytes) -> bytes:
    """The file with its signature; one that it had before is taken away."""
    body = body_of(data)
    if not body.endswith(b"\n"):
        body += b"\n"
    return body + _MARK + private.sign(DOMAIN + body).hex().encode("ascii") + b"\n"


def body_of(data: bytes) -> bytes:
    """What the signature is about: the file without it. Of a file that has none, the file."""
    line = _LINE.search(data)
    return data[: line.start()] if line else data


def is_signed(data: bytes) -> bool:
    """Whether the file ends with a signature, whosesoever."""
    return _LINE.search(data) is not None


def verify(public_key: bytes, data: bytes) -> bool:
    """Whether the file is whole and signed by this key (32 raw bytes)."""
    line = _LINE.search(data)
    if line is None:
        return False
    signature = bytes.fromhex(line[1].decode("ascii"))
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, DOMAIN + data[: line.start()])
    except (InvalidSignature, ValueError):  # ValueError: a key that is none
        return False
    return True
