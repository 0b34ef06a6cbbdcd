"""The dictionary: every fact travels whole, its personal half closed to all but HQ, bound to its own envelope."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire import codec, facts, schema
from gated.wire.codec import WireError
from gated.wire.record import RECORD_MAX, ChainBroken, Head, Record, follow, stream_id
from gated.wire.seal import SealError, public_of

PRIVATE = b"\x07" * 32
PUBLIC = public_of(PRIVATE)
DAY = datetime(2025, 3, 1, 8, 0, 0, 5, tzinfo=UTC)
START = Head.start("lane-1", stream_id("gen1", "crossing"))

letters = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ<0123456789", max_size=8)
codes = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20)
scores = st.none() | st.floats(allow_nan=False)
holders = st.builds(
    facts.Holder,
    document_type=letters,
    number=letters,
    birth_on=st.none() | st.dates(),
    surname=letters,
    personal_number=st.none() | letters,
    subject=st.none() | st.integers(0, 2**40),
    flags=st.frozensets(codes, max_size=5),
    permits=st.lists(codes, max_size=3).map(tuple),
)
instants = st.datetimes(timezones=st.just(UTC))
any_fact = st.one_of(
    st.builds(
        facts.VerdictReached,
        st.integers(1, 2**40),
        codes,
        codes,
        codes,
        codes,
        codes,
        opened=st.none() | instants,
        by=st.none() | codes,
        face=st.none() | codes,
        face_score=scores,
        finger_fmr=scores,
        holder=st.none() | holders,
    ),
    st.builds(facts.TicketSettled, st.integers(1, 2**40), codes, st.integers(0, 9), st.none() | codes),
    st.builds(facts.AlarmRaised, codes, codes, st.none() | st.integers(1, 9)),
    st.builds(facts.OfficerCalled, st.none() | st.integers(1, 9), codes),
    st.builds(facts.OrderAnswered, codes, st.booleans(), codes),
    st.builds(facts.LaneChanged, codes),
    st.builds(facts.DeviceChanged, codes, codes, codes),
    st.builds(
        facts.LaneBooted,
        codes,
        codes,
        st.integers(1, 9),
        st.lists(st.integers(1, 9)).map(tuple),
        st.booleans(),
        st.lists(st.builds(facts.Part, codes, codes), max_size=5).map(tuple),
    ),
)


def record_of(fact: facts.Fact) -> Record:
    return Head.start("lane-1", stream_id("gen1", fact.stream)).next(fact, DAY, "boot-1", PUBLIC)


@settings(max_examples=150, deadline=None)
@given(any_fact)
def test_every_fact_travels_whole(fact: facts.Fact) -> None:
    record = record_of(fact)
    data = record.encode()
    again = Record.decode(data)
    assert again == record
    assert again.encode() == data
    assert again.fact(PRIVATE) == fact
    assert len(data) < 8 * 1024 or isinstance(fact, facts.LaneBooted)
    assert (record.sealed is not None) == codec.has_personal(type(fact))


@settings(max_examples=40, deadline=None)
@given(st.lists(any_fact, min_size=1, max_size=6))
def test_a_chain_of_facts_can_be_followed(sequence: Sequence[facts.Fact]) -> None:
    head = checked = START
    for fact in sequence:
        record = head.next(replace_stream(fact), DAY, "boot-1", PUBLIC)
        head = head.after(record)
        checked = follow(checked, Record.decode(record.encode()))
    assert checked == head
    assert head.seq == len(sequence)


def replace_stream(fact: facts.Fact) -> facts.Fact:
    return fact if fact.stream == facts.CROSSING else facts.TicketSettled(1, "crossed")


SECRETS = ("WANGXIAOMING", "X87654321", "A234567890", "exit_ban_flag", "residence_kind")
VERDICT = facts.VerdictReached(
    5,
    "refer",
    "control_flag",
    "policy-3",
    "exit",
    "A",
    opened=DAY,
    face="successful",
    face_score=0.625,
    holder=facts.Holder(
        "TD3",
        "P",
        "TWN",
        SECRETS[1],
        "TWN",
        "900101",
        date(1990, 1, 1),
        "M",
        "300101",
        SECRETS[0],
        "",
        SECRETS[2],
        17,
        frozenset({SECRETS[3]}),
        frozenset(),
        (SECRETS[4],),
    ),
)


def test_the_carrier_reads_no_person() -> None:
    record = record_of(VERDICT)
    text = record.encode().decode()
    assert not any(secret in text for secret in SECRETS)
    assert not any(secret in repr(record) or secret in repr(VERDICT) for secret in SECRETS)
    assert "control_flag" not in text, "that a control met somebody is nobody's business on the way (L8)"
    assert "holder" not in record.clear
    with pytest.raises(SealError):
        record.fact(None)
    with pytest.raises(SealError):
        record.fact(bytes(32))


def test_the_length_does_not_tell_a_name_or_a_flag() -> None:
    assert VERDICT.holder is not None
    other = replace(VERDICT, holder=replace(VERDICT.holder, surname="LI", given_names="A", flags=frozenset()))
    sizes = {len(record_of(v).sealed or b"") for v in (VERDICT, other)}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"lane": "lane-2"},
        {"seq": 2},
        {"prev": bytes(32)},
        {"utc": datetime(2025, 3, 2, tzinfo=UTC)},
        {"boot": "boot-2"},
        {"stream_id": "gen2-crossing"},
        {"schema": 9},
        {"clear": {**record_of(VERDICT).clear, "decision": "grant"}},
        {"clear": {**record_of(VERDICT).clear, "ticket": 6}},
    ],
)
def test_the_sealed_half_opens_in_its_own_envelope_alone(change: dict[str, Any]) -> None:
    record = record_of(VERDICT)
    assert record.fact(PRIVATE) == VERDICT
    with pytest.raises(SealError):
        replace(record, **change).fact(PRIVATE)


def test_a_missing_or_surplus_sealed_half_is_refused() -> None:
    verdict, state = record_of(VERDICT), record_of(facts.LaneChanged("idle"))
    with pytest.raises(WireError):
        replace(verdict, sealed=None).fact(PRIVATE)
    with pytest.raises(WireError):
        replace(state, sealed=verdict.sealed).fact(PRIVATE)


def test_an_unknown_kind_can_be_kept_but_not_read() -> None:
    record = replace(record_of(facts.LaneChanged("idle")), kind="FromTheFuture", clear={"new": [1, {"x": None}]})
    again = Record.decode(record.encode())
    assert again == record
    with pytest.raises(WireError, match="unknown kind"):
        again.fact(PRIVATE)


@pytest.mark.parametrize(
    "change",
    [
        {"lane": ""},
        {"lane": "a/b"},
        {"lane": "+"},
        {"boot": "b\n"},
        {"kind": "x" * 65},
        {"seq": 0},
        {"prev": b"short"},
        {"stream": "alarm"},
    ],
)
def test_an_envelope_that_fits_nowhere_is_refused(change: dict[str, Any]) -> None:
    record = record_of(VERDICT)
    with pytest.raises(ValueError):
        replace(record, **change)
    tree = json.loads(record.encode())
    tree.update({k: v if not isinstance(v, bytes) else "AAAA" for k, v in change.items()})
    with pytest.raises(WireError):
        Record.decode(codec.dumps(tree))


def test_a_record_has_a_largest_size() -> None:
    record = replace(record_of(facts.LaneChanged("idle")), clear={"state": "x" * RECORD_MAX})
    with pytest.raises(WireError):
        record.encode()
    with pytest.raises(WireError):
        Record.decode(b" " * (RECORD_MAX + 1))


def test_a_marker_that_lies_about_its_place_is_found() -> None:
    records = [START.next(facts.TicketSettled(1, "crossed"), DAY, "b", PUBLIC)]
    clear, _ = codec.split(facts.RecordsDropped(1, 7, bytes(32)))
    marker = replace(records[0], kind="RecordsDropped", clear=clear, seq=8, sealed=None)
    with pytest.raises(ChainBroken):
        follow(START, marker)
    assert follow(START, replace(marker, seq=7)).seq == 7


def test_a_fact_checks_itself() -> None:
    with pytest.raises(ValueError):
        facts.TicketSettled(0, "crossed")
    with pytest.raises(ValueError):
        facts.RecordsDropped(3, 2, bytes(32))
    with pytest.raises(WireError):
        codec.encode(facts.AlarmRaised("x" * 65))


def test_the_listing_names_every_fact_and_field() -> None:
    listed = {note.kind: note for note in schema.describe()}
    assert set(listed) == {*facts.FACTS, "Holder", "Part"}
    for kind, cls in facts.FACTS.items():
        assert [n.name for n in listed[kind].fields] == [f.name for f in fields(cls)]
        assert listed[kind].about
        assert kind in ("RecordsDropped", "StreamContinued") or listed[kind].stream in facts.STREAMS
    sealed = {(note.kind, n.name) for note in listed.values() for n in note.fields if n.personal}
    assert {k for k, _ in sealed} == {"VerdictReached", "TicketSettled", "OfficerCalled", "AttachmentPart", "Holder"}
    assert all(n.personal for n in listed["Holder"].fields)


def test_every_limit_of_text_is_stated() -> None:
    """A string of a fact without a limit of its own would let a record grow past what is sent."""
    for cls in (*facts.FACTS.values(), facts.Part, facts.Holder):
        for f in fields(cls):
            if "str" in str(f.type) or "bytes" in str(f.type):
                assert "limit" in f.metadata, (cls.__name__, f.name)


def test_the_page_says_what_the_code_says() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "facts_table.py"
    done = subprocess.run([sys.executable, str(page), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
