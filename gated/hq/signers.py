"""The private keys that are at hand when something is signed: Ed25519, and in no text that anybody prints."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from gated.hq.keys import KeyFault, secret
from gated.wire.seal import KEY_BYTES


class RepositoryFault(Exception):
    """The repository cannot do this. The text says why and what to do; never a key."""


def public_key(raw: bytes) -> SSlibKey:
    """A public key as the metadata name it; its `keyid` is 64 hex digits. `raw`: 32 bytes. Raises `RepositoryFault`."""
    if len(raw) != KEY_BYTES:
        raise RepositoryFault(f"a public key has {KEY_BYTES} bytes, not {len(raw)}")
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw))


class Signers:
    """The private keys at hand, by the key id of their public half."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        """`keys`: 32 raw bytes each."""
        made = (CryptoSigner(Ed25519PrivateKey.from_private_bytes(key)) for key in keys)
        self._signers = {signer.public_key.keyid: signer for signer in made}

    @classmethod
    def of(cls, files: Sequence[Path]) -> "Signers":
        """From files of 32 raw bytes that their owner alone may read. Raises `RepositoryFault`."""
        try:
            return cls(secret(file) for file in files)
        except KeyFault as bad:
            raise RepositoryFault(str(bad)) from None

    def __contains__(self, keyid: object) -> bool:
        return keyid in self._signers

    def __getitem__(self, keyid: str) -> CryptoSigner:
        return self._signers[keyid]

    def __repr__(self) -> str:
        return f"Signers({len(self._signers)} keys)"

    def publics(self) -> tuple[bytes, ...]:
        """The public halves, 32 raw bytes each, in the order in which they were given."""
        return tuple(bytes.fromhex(str(signer.public_key.keyval["public"])) for signer in self._signers.values())
