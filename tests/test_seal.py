"""Sealing: opened by the right key in the right place alone; and the scan that finds what was not sealed."""

import base64
import json
import random
import struct
import urllib.parse
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire.seal import (
    SealError,
    SealKey,
    derived,
    lookup_key,
    open_sealed,
    padded,
    public_of,
    seal_to,
    unpadded,
)
from tests.canaries import Canary, found

PRIVATE = sha256(b"hq").digest()
PUBLIC = public_of(PRIVATE)
NONCE = bytes(range(12))


@settings(deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=50))
def test_what_is_sealed_is_opened(plain: bytes, aad: bytes) -> None:
    blob = seal_to(PUBLIC, plain, aad)
    assert open_sealed(PRIVATE, blob, aad) == plain
    assert len(blob) == len(plain) + 49
    assert blob != seal_to(PUBLIC, plain, aad)
    key = SealKey(PRIVATE)
    assert key.open(key.seal(plain, aad, NONCE), aad) == plain


@settings(deadline=None)
@given(st.data())
def test_an_altered_blob_does_not_open(data: st.DataObject) -> None:
    plain = b"some words"
    key = SealKey(PRIVATE)
    for blob, opened in (
        (seal_to(PUBLIC, plain, b"here"), lambda b, a: open_sealed(PRIVATE, b, a)),
        (key.seal(plain, b"here", NONCE), key.open),
    ):
        place = data.draw(st.integers(0, len(blob) - 1))
        bad = bytearray(blob)
        bad[place] ^= data.draw(st.integers(1, 255))
        # X25519 ignores the highest bit of the encapsulated key (RFC 7748, 5); HPKE binds the bytes as sent
        with pytest.raises(SealError):
            opened(bytes(bad), b"here")
        with pytest.raises(SealError):
            opened(blob, b"there")
        with pytest.raises(SealError):
            opened(blob[: data.draw(st.integers(0, len(blob) - 1))], b"here")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(SealError):
        open_sealed(bytes(range(32)), seal_to(PUBLIC, b"x", b""), b"")
    with pytest.raises(SealError):
        SealKey(bytes(32)).open(SealKey(PRIVATE).seal(b"x", b"", NONCE), b"")


def test_keys_and_nonces_of_another_length_are_refused() -> None:
    for wrong in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(ValueError):
            SealKey(wrong)
        with pytest.raises(ValueError):
            derived(wrong, "x")
        with pytest.raises(ValueError):
            lookup_key(wrong, "x")
        with pytest.raises(ValueError):
            seal_to(wrong, b"x", b"")
    with pytest.raises(ValueError):
        SealKey(PRIVATE).seal(b"x", b"", b"short")


def test_a_key_is_in_no_repr() -> None:
    assert repr(SealKey(PRIVATE)) == "SealKey()"


# -- HPKE by the book: RFC 9180, 4 and 5.1, written anew from HMAC, X25519 and AES-GCM ------------------------------

KEM_SUITE = b"KEM" + (0x0020).to_bytes(2, "big")
HPKE_SUITE = b"HPKE" + (0x0020).to_bytes(2, "big") + (0x0001).to_bytes(2, "big") + (0x0002).to_bytes(2, "big")


def _hmac(key: bytes, data: bytes) -> bytes:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(data)
    return mac.finalize()


def _extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
    return _hmac(salt or bytes(32), b"HPKE-v1" + suite + label + ikm)


def _expand(prk: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block, count = b"", b"", 1
    while len(out) < length:
        block = _hmac(prk, block + labeled + bytes([count]))
        out, count = out + block, count + 1
    return out[:length]


def _open_by_the_book(private: bytes, enc: bytes, ciphertext: bytes, info: bytes, aad: bytes) -> bytes:
    dh = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(enc))
    eae = _extract(b"", KEM_SUITE, b"eae_prk", dh)
    shared = _expand(eae, KEM_SUITE, b"shared_secret", enc + public_of(private), 32)
    psk_id_hash = _extract(b"", HPKE_SUITE, b"psk_id_hash", b"")
    info_hash = _extract(b"", HPKE_SUITE, b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = _extract(shared, HPKE_SUITE, b"secret", b"")
    key = _expand(secret, HPKE_SUITE, b"key", context, 32)
    nonce = _expand(secret, HPKE_SUITE, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


@settings(deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_it_is_hpke_as_the_rfc_says(plain: bytes, aad: bytes) -> None:
    blob = seal_to(PUBLIC, plain, aad)
    assert blob[0] == 1
    info = b"gated sealed to hq v1\n" + aad
    assert _open_by_the_book(PRIVATE, blob[1:33], blob[33:], info, b"") == plain


# -- look-ups and padding ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_parts_are_not_run_together(one: list[str], other: list[str]) -> None:
    assert (lookup_key(PRIVATE, *one) == lookup_key(PRIVATE, *other)) == (one == other)
    assert lookup_key(PRIVATE, *one) != lookup_key(PUBLIC, *one)
    assert len(lookup_key(PRIVATE, *one)) == 16


def test_purposes_have_keys_of_their_own() -> None:
    made = {derived(PRIVATE, purpose) for purpose in ("a", "b", "cache rows", "cache lookup")}
    assert len(made | {PRIVATE}) == 5


@settings(deadline=None)
@given(st.text(max_size=600).map(lambda t: json.dumps(t).encode()))
def test_padding_hides_the_length_and_goes_again(text: bytes) -> None:
    assert unpadded(padded(text)) == text
    assert len(padded(text)) % 256 == 0
    assert len(padded(text)) < len(text) + 256


# -- the scan itself -------------------------------------------------------------------------------------------

NAME = "Šimková Ana"
NUMBER = "X1234567Q"
FLOATS = tuple(random.Random(7).gauss(0, 0.1) for _ in range(128))
TEMPLATE = struct.pack("<128f", *FLOATS)
CANARIES = [Canary("name", NAME), Canary("number", NUMBER), Canary("floats", FLOATS), Canary("template", TEMPLATE)]

PLANTS: dict[str, tuple[str, bytes]] = {
    "utf-8": ("name", NAME.encode()),
    "upper": ("name", NAME.upper().encode()),
    "lower": ("number", NUMBER.lower().encode()),
    "utf-16": ("name", NAME.encode("utf-16")),
    "utf-16-be": ("name", NAME.encode("utf-16-be")),
    "reversed": ("number", NUMBER[::-1].encode()),
    "json": ("name", json.dumps({"n": NAME}).encode()),
    "url": ("name", urllib.parse.quote(NAME).encode()),
    "hex": ("number", NUMBER.encode().hex().encode()),
    "HEX": ("number", NUMBER.encode().hex().upper().encode()),
    "base64 at 0": ("number", base64.b64encode(b"abc" + NUMBER.encode() + b"and more")),
    "base64 at 1": ("number", base64.b64encode(b"a" + NUMBER.encode() + b"and more")),
    "base64 at 2": ("number", base64.b64encode(b"ab" + NUMBER.encode() + b"?")),
    "base64url": ("name", base64.urlsafe_b64encode(b"ab" + NAME.encode())),
    "float32 le": ("floats", TEMPLATE),
    "float32 be": ("floats", struct.pack(">128f", *FLOATS)),
    "float64 le": ("floats", struct.pack("<128d", *FLOATS)),
    "float64 be": ("floats", struct.pack(">128d", *FLOATS)),
    "float16": ("floats", struct.pack("<128e", *FLOATS)),
    "json floats": ("floats", json.dumps(FLOATS).encode()),
    "float32 base64": ("floats", base64.b64encode(b"x" + TEMPLATE)),
    "template": ("template", TEMPLATE),
    "template's end": ("template", TEMPLATE[300:]),
    "template hex": ("template", TEMPLATE.hex().encode()),
    "template base64": ("template", base64.b64encode(TEMPLATE)),
    "template as float64": ("template", struct.pack("<128d", *struct.unpack("<128f", TEMPLATE))),
}


@pytest.mark.parametrize("encoding", PLANTS)
def test_the_scan_finds_what_is_not_sealed(encoding: str, tmp_path: Path) -> None:
    canary, planted = PLANTS[encoding]
    (tmp_path / "deep").mkdir()
    noise = random.Random(1).randbytes(1001)
    (tmp_path / "deep" / "file").write_bytes(noise + planted + noise)
    hits = found(CANARIES, tmp_path)
    assert canary in {hit.canary for hit in hits}
    assert all(hit.path.name == "file" for hit in hits)
    assert all(NUMBER not in repr(hit) and NAME not in repr(hit) for hit in hits)


def test_the_scan_finds_what_lies_across_two_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.canaries.CHUNK", 64)
    for before in (0, 60, 120, 500):
        (tmp_path / "file").write_bytes(b"." * before + NUMBER.encode() + b"." * 100)
        (hit,) = found([Canary("number", NUMBER)], tmp_path)
        assert hit.offset == before


def test_the_scan_finds_nothing_in_what_is_sealed(tmp_path: Path) -> None:
    key = SealKey(PRIVATE)
    plain = json.dumps({"name": NAME, "number": NUMBER, "face": FLOATS}, ensure_ascii=False).encode() + TEMPLATE
    (tmp_path / "hq").write_bytes(seal_to(PUBLIC, plain, b"") + base64.b64encode(seal_to(PUBLIC, plain, b"")))
    (tmp_path / "key").write_bytes(key.seal(plain, b"", NONCE))
    (tmp_path / "lookup").write_bytes(lookup_key(PRIVATE, NUMBER))
    assert found(CANARIES, tmp_path) == []
    (tmp_path / "unsealed").write_bytes(plain)
    assert {hit.canary for hit in found(CANARIES, tmp_path)} == {c.name for c in CANARIES}


def test_a_scan_for_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        found([], tmp_path)
    with pytest.raises(ValueError):
        found([Canary("short", "ab")], tmp_path)
