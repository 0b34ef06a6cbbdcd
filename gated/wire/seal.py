"""Who can read what: sealing to HQ's public key, sealing under a shared key, keyed look-ups. No I/O, no clock.

Three primitives, all of the `cryptography` package, none of our own making:

* `seal_to` / `open_sealed`: HPKE base mode, one shot (RFC 9180), suite DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
  AES-256-GCM. Whoever holds the lane's disk or the broker holds no key that opens what was sealed;
* `SealKey`: AES-256-GCM (NIST SP 800-38D) under a key of 32 bytes;
* `lookup_key`: HMAC-SHA256 (RFC 2104), so that a table can be searched without saying what it holds.

Randomness. This module draws none itself. `SealKey.seal` is given its nonce: 12 bytes of the system's generator
(`os.urandom`), never a counter that a restored disk or a repeated boot could repeat; at 2^32 messages a key must be
changed (SP 800-38D, 8.3). The ephemeral key of HPKE is drawn inside `cryptography`, from the system's generator too:
RFC 9180 forbids to choose it from outside. Keys are made elsewhere too (`gated-hq keys`).
"""

import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES: Final = 32
"""X25519 keys (RFC 7748, raw), AES-256 keys and look-up keys alike."""
NONCE_BYTES: Final = 12
LOOKUP_BYTES: Final = 16
"""A keyed hash cut to 128 bits: among 20 million rows two collide with a chance of 6e-25."""
TAG_BYTES: Final = 16
PAD_BYTES: Final = 256
"""Sealed texts of different length would tell a name's length, or that there are control flags at all."""

_HPKE_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_HPKE_V1: Final = b"\x01"
_HPKE_INFO: Final = b"gated sealed to hq v1\n"
_SEALED_V1: Final = b"\x01"


class SealError(Exception):
    """A blob cannot be opened: wrong key, wrong place (`aad`), or altered. There is no more to know."""


def public_of(private: bytes) -> bytes:
    """The X25519 public key (32 bytes, raw) of a private one (32 bytes, raw)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal_to(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """`plaintext` so that only the holder of the private key opens it, and only with the same `aad`.

    `public`: 32 bytes, X25519 raw; `ValueError` otherwise. The result is 49 bytes longer: version (1), encapsulated
    key (32), AES-GCM tag (16). `aad` goes into HPKE's `info` after a fixed prefix, which binds it to the key itself."""
    key = X25519PublicKey.from_public_bytes(public)
    return _HPKE_V1 + _HPKE_SUITE.encrypt(plaintext, key, info=_HPKE_INFO + aad)


def open_sealed(private: bytes, blob: bytes, aad: bytes) -> bytes:
    """The plaintext of `seal_to`. `private`: 32 bytes, X25519 raw. Raises `SealError`."""
    key = X25519PrivateKey.from_private_bytes(private)
    if blob[:1] != _HPKE_V1:
        raise SealError("sealed in a form that this version does not know")
    try:
        return _HPKE_SUITE.decrypt(blob[1:], key, info=_HPKE_INFO + aad)
    except (InvalidTag, ValueError):
        raise SealError("cannot be opened: wrong key, wrong place, or altered") from None


@dataclass(frozen=True, slots=True)
class SealKey:
    """An AES-256-GCM key. `aad` ties a blob to its place (table, row, boot): moved elsewhere it does not open."""

    key: bytes = field(repr=False)
    _cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"a sealing key has {KEY_BYTES} bytes, not {len(self.key)}")
        object.__setattr__(self, "_cipher", AESGCM(self.key))

    def seal(self, plaintext: bytes, aad: bytes, nonce: bytes) -> bytes:
        """Version (1), nonce (12), ciphertext, tag (16). `nonce`: 12 random bytes, never used before with this key."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        return _SEALED_V1 + nonce + self._cipher.encrypt(nonce, plaintext, aad)

    def open(self, blob: bytes, aad: bytes) -> bytes:
        """The plaintext of `seal`. Raises `SealError`."""
        if blob[:1] != _SEALED_V1 or len(blob) < 1 + NONCE_BYTES + TAG_BYTES:
            raise SealError("sealed in a form that this version does not know")
        try:
            return self._cipher.decrypt(blob[1 : 1 + NONCE_BYTES], blob[1 + NONCE_BYTES :], aad)
        except InvalidTag:
            raise SealError("cannot be opened: wrong key, wrong place, or altered") from None


def derived(key: bytes, purpose: str) -> bytes:
    """A key for one purpose from a uniformly random key of 32 bytes: HKDF-Expand with SHA-256 (RFC 5869, 2.3)."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return HKDFExpand(hashes.SHA256(), KEY_BYTES, b"gated " + purpose.encode()).derive(key)


def lookup_key(key: bytes, *parts: str) -> bytes:
    """16 bytes that stand for `parts` (a document's issuer and number, say) to whoever holds `key`.

    HMAC-SHA256 over the parts, each preceded by its length in bytes, so that ("AB", "C") is not ("A", "BC")."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a look-up key has {KEY_BYTES} bytes, not {len(key)}")
    coded = [p.encode() for p in parts]
    message = b"".join(len(c).to_bytes(4, "big") + c for c in coded)
    return hmac.digest(key, message, "sha256")[:LOOKUP_BYTES]


def padded(text: bytes, block: int = PAD_BYTES) -> bytes:
    """`text` (JSON, so it ends in no blank) with blanks up to a multiple of `block` bytes."""
    return text + b" " * (-len(text) % block)


def unpadded(text: bytes) -> bytes:
    """`text` as it was before `padded`."""
    return text.rstrip(b" ")
