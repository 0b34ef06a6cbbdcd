"""The passport readers' codecs: golden bytes from the manuals, and whatever else may come down a line."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.passport import elyctis, lines, rte
from tests.contract.passport import documents

GOLDEN = Path(__file__).parent / "golden"

Codec = elyctis.Codec | rte.Codec | lines.Codec
CODECS: dict[str, tuple[type[Codec], int]] = {
    "elyctis": (elyctis.Codec, 163),
    "rte": (rte.Codec, 169),
    "lines": (lines.Codec, 3 * 91 + 91),
}
"""Each codec, and how many bytes it may keep: its longest frame (lines: three lines and a run)."""

pieces = st.lists(
    st.one_of(
        st.binary(max_size=80),
        st.sampled_from([b"I\x00\x5b", b"C\x00\x01\x01", b"\x01\x61\x00OU\x02 ", b"\r", b"\x03", b"\x06", b"A" * 44]),
    ),
    max_size=12,
)


def golden(name: str, table: str) -> list[Any]:
    vectors = tomllib.loads((GOLDEN / f"passport_{name}.toml").read_text())[table]
    return [pytest.param(vector, id=vector["cite"][:40]) for vector in vectors]


@pytest.mark.parametrize("vector", golden("elyctis", "host"))
def test_elyctis_commands(vector: dict[str, str]) -> None:
    frame = elyctis.Frame(ord(vector["command"]), bytes.fromhex(vector["payload"]))
    assert elyctis.encode(frame) == bytes.fromhex(vector["bytes"])


@pytest.mark.parametrize("vector", golden("elyctis", "reader"))
def test_elyctis_answers(vector: dict[str, str]) -> None:
    raw = bytes.fromhex(vector["bytes"]) + vector["text"].encode()
    assert elyctis.Codec().feed(raw) == [elyctis.Frame(ord(vector["command"]), raw[3:])]


@pytest.mark.parametrize("vector", golden("rte", "block"))
def test_rte_blocks(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["before"]) + vector["text"].encode() + bytes.fromhex(vector["after"])
    frame = rte.Frame(vector["flag"], tuple(vector["lines"]))
    assert rte.encode(frame) == raw
    assert rte.Codec().feed(raw) == [frame]
    if len(frame.lines) > 1:
        assert rte.mrz_lines(frame) == tuple(vector.get("mrz", vector["lines"]))


@pytest.mark.parametrize("vector", golden("lines", "opening"))
def test_lines_opening(vector: dict[str, str]) -> None:
    assert vector["bytes"].encode() in lines.PRESETS[vector["preset"]].opening


@pytest.mark.parametrize("vector", golden("lines", "trigger"))
def test_lines_trigger(vector: dict[str, str]) -> None:
    assert lines.PRESETS[vector["preset"]].trigger == vector["bytes"].encode()


@pytest.mark.parametrize("vector", golden("lines", "reply"))
def test_lines_reply(vector: dict[str, Any]) -> None:
    assert lines.Codec().feed(vector["bytes"].encode()) == [lines.Reply(vector["accepted"])]


@pytest.mark.parametrize("vector", golden("lines", "text"))
def test_lines_text(vector: dict[str, Any]) -> None:
    assert lines.Codec().feed(vector["bytes"].encode()) == [lines.Text(tuple(vector["lines"]))]


@pytest.mark.parametrize("at", range(7, 40))
@pytest.mark.parametrize("step", [1, 100])
def test_rte_flipped_bit_is_damage(at: int, step: int) -> None:
    raw = bytearray(rte.encode(rte.Frame(0x20, documents()[0])))
    raw[at] ^= 0x02
    codec = rte.Codec()
    found = [each for start in range(0, len(raw), step) for each in codec.feed(bytes(raw[start : start + step]))]
    assert found == [rte.Damaged("garbled" if raw[at] < 0x20 and raw[at] != 0x0D else "bad_check")]
    assert codec.silence() == []


def test_rte_wrong_length_is_damage_without_a_check_too() -> None:
    raw = bytearray(rte.encode(rte.Frame(0x20, documents()[0])))
    raw[1] ^= 0x08
    assert rte.Codec("none").feed(bytes(raw)) == [rte.Damaged("bad_length")]


def test_rte_lost_header_and_lost_check_byte() -> None:
    frame = rte.Frame(0x20, documents()[0])
    raw = rte.encode(frame)
    headless = rte.Codec()
    found = [each for byte in raw[1:] for each in headless.feed(bytes((byte,)))]
    assert [*found, *headless.silence()] == [rte.Damaged("garbled")]
    # the next block's SOH stands where the check byte is missing: that block must not be lost with it
    assert rte.Codec().feed(raw[:-1] + raw) == [rte.Damaged("bad_check"), frame]


def test_rte_endless_text_behind_a_header_is_not_kept() -> None:
    codec = rte.Codec()
    for piece in [b"\x01\x61\x00OU\x02 ", *[b"A" * 50] * 100]:
        codec.feed(piece)
        assert codec.held <= CODECS["rte"][1]


def test_rte_padding_becomes_fillers() -> None:
    short = rte.Frame(0x20, ("P<UTOERIKSSON<<ANNA_MARIA".ljust(44, "_"), documents()[0][1]))
    assert rte.mrz_lines(short) == ("P<UTOERIKSSON<<ANNA<MARIA".ljust(44, "<"), documents()[0][1])


def test_lines_of_a_wrong_length_are_no_document_and_not_kept() -> None:
    codec = lines.Codec()
    assert codec.feed(b"A" * 91 + b"\r" + b"B" * 43 + b"\r" + b"C" * 45 + b"\r") == []
    for _ in range(100):
        assert codec.feed(b"D" * 25 + b"\r") == []
        assert codec.held <= CODECS["lines"][1]
    assert codec.silence() == [lines.Damaged()]
    assert codec.feed(b"E" * 91 + b"\r") == []


def test_rte_check_can_be_left_out() -> None:
    frame = rte.Frame(0x20, documents()[0])
    raw = rte.encode(frame)[:-1] + b"\xff"
    assert [type(found) for found in rte.Codec("xor").feed(raw)] == [rte.Damaged]
    assert rte.Codec("none").feed(raw) == [frame]


@pytest.mark.parametrize("counts_from", [0, 1, 3])
def test_rte_length_may_count_from_several_bytes(counts_from: int) -> None:
    frame = rte.Frame(0x20, documents()[0])
    raw = bytearray(rte.encode(frame))
    change = raw[1] ^ (len(raw) - counts_from)
    raw[1] ^= change
    raw[-1] ^= change
    assert rte.Codec().feed(bytes(raw)) == [frame]


def test_a_half_frame_is_dropped_by_silence_and_the_next_is_read() -> None:
    mrz = documents()[0]
    block = rte.encode(rte.Frame(0x20, mrz))
    codec = rte.Codec()
    assert codec.feed(block[:50]) == []
    assert codec.silence() == [rte.Damaged("half_frame")]
    assert not codec.pending
    assert codec.feed(block) == [rte.Frame(0x20, mrz)]
    text = lines.Codec()
    assert text.feed(mrz[0].encode()) == []
    assert text.silence() == [lines.Damaged()]
    assert text.feed("\r".join(mrz).encode() + b"\r") == [lines.Text(mrz)]


def test_text_without_a_terminator_is_complete_when_the_line_falls_silent() -> None:
    mrz = documents()[0]
    codec = lines.Codec()
    assert codec.feed("".join(mrz).encode()) == []
    assert codec.silence() == [lines.Text(mrz)]


def settle(codec: Codec) -> None:
    codec.silence()
    assert codec.held == 0 and not codec.pending


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(data=pieces)
def test_any_bytes_do_no_harm_and_are_not_kept(name: str, data: list[bytes]) -> None:
    make, held_max = CODECS[name]
    codec = make()
    for piece in data:
        codec.feed(piece)
        assert codec.held <= held_max
    settle(codec)
    raw = frame_of(name)
    assert codec.feed(raw) == make().feed(raw) != []


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(data=pieces, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_how_bytes_are_cut_makes_no_difference(name: str, data: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(data) + frame_of(name)
    make, _ = CODECS[name]
    whole, cut = make(), make()
    found: list[object] = []
    edges = [0, *sorted(min(at, len(raw)) for at in cuts), len(raw)]
    for start, end in pairwise(edges):
        found += cut.feed(raw[start:end])
    assert [*found, *cut.silence()] == [*whole.feed(raw), *whole.silence()]


def frame_of(name: str) -> bytes:
    """A good message of each family."""
    mrz = documents()[0]
    if name == "rte":
        return rte.encode(rte.Frame(0x20, mrz))
    text = "\r".join(mrz).encode()
    return elyctis.encode(elyctis.Frame(elyctis.INQUIRE, text + b"\r\r")) if name == "elyctis" else text + b"\r"


@pytest.mark.parametrize("name", CODECS)
def test_an_endless_line_is_not_kept(name: str) -> None:
    make, held_max = CODECS[name]
    codec = make()
    for _ in range(1000):
        codec.feed(b"A" * 1000)
        assert codec.held <= held_max
    settle(codec)


@pytest.mark.parametrize(
    "make, options",
    [
        (elyctis.Settings, {"readings": 5, "tries": 4}),
        (elyctis.Settings, {"answer_s_max": 0.0}),
        (rte.Settings, {"check": "crc"}),
        (rte.Settings, {"baud_rate": -1}),
        (lines.Settings, {"preset": "desko"}),
        (lines.Settings, {"gone_after": 0}),
    ],
)
def test_impossible_settings_are_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make(port="/dev/ttyACM0", **options)
