"""Machine readable zones under random input: what is rendered is read back, anything else is an `MrzError` in time."""

import time
from contextlib import suppress
from datetime import date, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gated.icao import states
from gated.icao.layout import LAYOUTS
from gated.icao.mrz import Document, MrzError, parse, render

NUMBER_LENGTHS = {"TD1": 22, "TD2": 14, "TD3": 9, "MRV-A": 9, "MRV-B": 9}
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ<"
COMPONENT = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=14)
NAMES = st.lists(COMPONENT, min_size=1, max_size=4).map(" ".join)
PARTIAL_BIRTH = st.sampled_from(["7408<<", "74<<<<", "<<<<<<", "<<0812", "74<<12"])


@st.composite
def rendered(draw: st.DrawFn) -> tuple[dict[str, str], tuple[str, ...]]:
    """The fields as a document shows them, and the lines that were made of them."""
    format = draw(st.sampled_from(sorted(LAYOUTS)))
    layout = LAYOUTS[format]
    number = draw(st.text(ALPHABET[:-1], min_size=1, max_size=NUMBER_LENGTHS[format]))
    room = [span.width for span in layout.optional]
    if len(number) > 9:
        room[0] -= len(number) - 9 + 2
    optional = [draw(st.text(ALPHABET[:-1], max_size=max(width, 0))) for width in room]
    days = st.dates(date(1900, 1, 1), date(2099, 12, 31)).map(lambda day: day.strftime("%y%m%d"))
    fields = {
        "issuer": draw(st.sampled_from(sorted(states.ISSUERS))),
        "number": number,
        "nationality": draw(st.sampled_from(sorted(states.NATIONALITIES))),
        "birth": draw(days | PARTIAL_BIRTH),
        "sex": draw(st.sampled_from("MFX")),
        "expiry": draw(days),
        "surname": draw(NAMES),
        "given_names": draw(NAMES | st.just("")),
        "optional": " ".join(optional).rstrip(),
    }
    return {"format": format, **fields}, render(format, empty_check=draw(st.sampled_from("<0")), **fields)


@given(rendered())
def test_what_is_rendered_is_read_back(case: tuple[dict[str, str], tuple[str, ...]]) -> None:
    fields, lines = case
    document = parse("\r\n".join(lines))
    names = {"surname", "given_names"}
    assert {key: getattr(document, key) for key in fields.keys() - names} == {
        key: value for key, value in fields.items() if key not in names
    }
    if not document.names_truncated:
        assert {key: getattr(document, key) for key in names} == {key: fields[key] for key in names}
    layout = LAYOUTS[document.format]
    assert [len(line) for line in lines] == [layout.width] * layout.lines
    assert parse("".join(lines)) == document
    assert again(document) == document


def again(document: Document) -> Document:
    """A document rendered from its own fields."""
    check = document.lines[1][42] if document.format == "TD3" and not document.optional else "<"
    return parse(
        render(
            document.format,
            code=document.code,
            issuer=document.issuer,
            number=document.number,
            nationality=document.nationality,
            birth=document.birth,
            sex=document.sex,
            expiry=document.expiry,
            surname=document.surname,
            given_names=document.given_names,
            optional=document.optional,
            empty_check=check,
        )
    )


@given(rendered(), st.dates(date(1980, 1, 1), date(2120, 12, 31)))
def test_resolved_dates_keep_their_digits_and_their_side_of_today(
    case: tuple[dict[str, str], tuple[str, ...]], today: date
) -> None:
    fields, lines = case
    document = parse(lines)
    expiry = document.expires_on(today)
    assert expiry.strftime("%y%m%d") == fields["expiry"]
    assert expiry.year <= today.year + 15
    assert today - expiry <= timedelta(days=366 * 100) * 2
    born = document.born_on(today)
    earliest = born.earliest()
    if earliest is not None:
        assert earliest <= today
        assert f"{earliest.year % 100:02}" == fields["birth"][:2]


@given(rendered(), st.data())
@settings(max_examples=200)
def test_one_changed_character_never_changes_a_date(
    case: tuple[dict[str, str], tuple[str, ...]], data: st.DataObject
) -> None:
    """Digits never differ by ten and `<` stands for unknown in pairs alone: an error, or the same dates."""
    _, lines = case
    line = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[0]) - 1))
    broken = list(lines)
    broken[line] = broken[line][:column] + data.draw(st.sampled_from(ALPHABET)) + broken[line][column + 1 :]
    before = parse(lines)
    with suppress(MrzError):
        after = parse(broken)
        assert (after.birth, after.expiry) == (before.birth, before.expiry)


@given(st.text() | st.text(ALPHABET + "\r\n "))
@example("\u2028" * 44 + "\n" + "<" * 44)
def test_arbitrary_text_is_refused_and_nothing_else(text: str) -> None:
    with suppress(MrzError):
        parse(text)


@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_arbitrary_characters_in_the_right_shape(format: str, data: st.DataObject) -> None:
    """Beyond the first test of length, every later one must be total as well."""
    layout = LAYOUTS[format]
    line = st.text(ALPHABET, min_size=layout.width, max_size=layout.width)
    with suppress(MrzError):
        parse([data.draw(line) for _ in range(layout.lines)])


@given(rendered(), st.data())
def test_a_few_wrong_characters(case: tuple[dict[str, str], tuple[str, ...]], data: st.DataObject) -> None:
    text = list("".join(case[1]))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(ALPHABET) | st.characters())
    with suppress(MrzError):
        parse("".join(text))


def test_huge_texts_are_refused_at_once() -> None:
    started = time.perf_counter()
    for text in ("<" * 10_000_000, "\n" * 10_000_000, "P<UTO\r" * 1_000_000):
        with suppress(MrzError):
            parse(text)
            raise AssertionError("a huge text was read")
    assert time.perf_counter() - started < 1
