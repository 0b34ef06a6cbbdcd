"""The codec of serial fingerprint modules: golden bytes from the manuals, and whatever else may come down a line."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.fingerprint import zfm
from drivers.fingerprint.zfm import ACK, COMMAND, DATA, END, Codec, Packet, encode

GOLDEN = tomllib.loads((Path(__file__).parent / "golden/fingerprint_zfm.toml").read_text())
LONGEST = 9 + 256 + 2

packets = st.builds(Packet, st.sampled_from([COMMAND, DATA, ACK, END]), st.binary(min_size=1, max_size=256))
pieces = st.lists(
    st.one_of(
        st.binary(max_size=300),
        packets.map(encode),
        packets.map(lambda packet: encode(packet)[: len(packet.content)]),
        st.sampled_from([b"\xef", b"\xef\x01", b"\xef\x01\xff\xff\xff\xff\x07\x01\x02", b"\x55"]),
    ),
    max_size=12,
)


def golden(table: str) -> list[Any]:
    return [pytest.param(vector, id=vector["cite"][:40]) for vector in GOLDEN[table]]


@pytest.mark.parametrize("vector", golden("package"))
def test_packages(vector: dict[str, Any]) -> None:
    packet = Packet(vector["kind"], bytes.fromhex(vector["content"]))
    raw = bytes.fromhex(vector["bytes"])
    assert encode(packet) == raw
    assert Codec().feed(raw) == [packet]


@pytest.mark.parametrize("vector", golden("picture"))
def test_pictures(vector: dict[str, Any]) -> None:
    picture = zfm.unpack(bytes.fromhex(vector["bytes"]), vector["height"], vector["width"])
    assert picture.tolist() == vector["pixels"]


@pytest.mark.parametrize("vector", golden("parameters"))
def test_parameters(vector: dict[str, Any]) -> None:
    told = zfm.parameters(bytes.fromhex(vector["bytes"]))
    assert told == (vector["security_level"], vector["packet_max"])


@given(st.lists(packets, max_size=5), st.integers(1, 600))
def test_how_bytes_are_cut_makes_no_difference(sent: list[Packet], step: int) -> None:
    raw, codec = b"".join(map(encode, sent)), Codec()
    found = [packet for at in range(0, len(raw), step) for packet in codec.feed(raw[at : at + step])]
    assert found == sent and codec.held == codec.skipped == 0


@settings(max_examples=300)
@given(pieces)
def test_anything_at_all_is_bounded_and_accounted_for(fed: list[bytes]) -> None:
    codec, used = Codec(), 0
    for piece in fed:
        for packet in codec.feed(piece):
            used += len(encode(packet))
        assert codec.held <= LONGEST
    assert used + codec.skipped + codec.held == sum(map(len, fed))
    codec.silence()
    assert codec.held == 0


@given(st.binary(max_size=200).filter(lambda noise: b"\xef" not in noise), packets)
def test_garbage_before_a_package_is_skipped(noise: bytes, packet: Packet) -> None:
    codec = Codec()
    assert codec.feed(noise + encode(packet)) == [packet]
    assert codec.skipped == len(noise)


@given(packets, packets, st.data())
def test_a_flipped_bit_loses_that_package_alone(first: Packet, second: Packet, data: st.DataObject) -> None:
    raw = bytearray(encode(first))
    at = data.draw(st.integers(0, len(raw) - 1).filter(lambda at: at not in (7, 8)), "at")
    raw[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    assert Codec().feed(bytes(raw) + encode(second)) == [second]


def test_a_length_that_lies_costs_no_more_than_silence() -> None:
    raw = bytearray(encode(Packet(ACK, b"\x00")))
    raw[8] = 200
    codec = Codec()
    assert codec.feed(bytes(raw)) == [] and codec.held == len(raw)
    codec.silence()
    assert codec.feed(encode(Packet(ACK, b"\x02"))) == [Packet(ACK, b"\x02")]


def test_a_lost_byte_costs_two_packages_at_most() -> None:
    sent = [Packet(DATA, bytes((number,)) * 128) for number in range(1, 6)]
    raw = b"".join(map(encode, sent))
    for lost in range(0, 200, 7):
        found = Codec().feed(raw[:lost] + raw[lost + 1 :])
        assert found[-3:] == sent[-3:] and all(packet in sent for packet in found)


def test_another_address_is_another_module() -> None:
    raw = encode(Packet(ACK, b"\x00"), 0x00000001)
    assert Codec().feed(raw) == []
    assert Codec(0x00000001).feed(raw) == [Packet(ACK, b"\x00")]


def test_nothing_shows_a_template_or_a_password() -> None:
    assert "secret" not in repr(Packet(DATA, b"secret"))
    assert "4711" not in repr(zfm.Settings("/dev/null", password=4711))


@pytest.mark.parametrize(
    "options",
    [
        {"model": "r600"},
        {"mode": "both"},
        {"firmware_min": "1.2"},
        {"model": "r503", "firmware_min": "new"},
        {"product": "R503"},
        {"address": -1},
        {"password": 1 << 32},
        {"baud_rate": 0},
        {"tries": 0},
        {"poll_s": 0.0},
        {"width": 255},
        {"height": -1},
        {"security_level": 6},
        {"sensor_score_min": 0.0},
        {"sensor_fmr": 0.0},
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]{4}"):
        zfm.Settings("/dev/null", **options)
