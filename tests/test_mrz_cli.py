"""`gated mrz`: its JSON, its errors, its exit codes."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gated.cli.mrz import mrz
from gated.icao.layout import SIZES
from gated.icao.mrz import render

TD3 = """P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<
L898902C36UTO7408122F1204159ZE184226B<<<<<10
"""


def test_a_file_becomes_one_json_object(tmp_path: Path) -> None:
    path = tmp_path / "mrz.txt"
    path.write_text(TD3)
    result = CliRunner().invoke(mrz, [str(path), "--at", "2011-05-01"])
    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "format": "TD3",
        "code": "P",
        "issuer": "UTO",
        "number": "L898902C3",
        "nationality": "UTO",
        "birth": "740812",
        "sex": "F",
        "expiry": "120415",
        "surname": "ERIKSSON",
        "given_names": "ANNA MARIA",
        "names_truncated": False,
        "optional": "ZE184226B",
        "lines": TD3.split(),
        "issuer_alpha3": "UTO",
        "nationality_alpha3": "UTO",
        "passport_kind": None,
        "personal_number": None,
        "at": "2011-05-01",
        "expires_on": "2012-04-15",
        "expired": False,
        "born_on": "1974-08-12",
    }


def test_standard_input_and_the_day_of_use() -> None:
    lines = render(
        "TD3",
        code="PP",
        issuer="TWN",
        number="300000000",
        nationality="TWN",
        birth="76<<<<",
        sex="F",
        expiry="360401",
        surname="LIN",
        given_names="MEI-HUA",
        optional="A234567893",
    )
    result = CliRunner().invoke(mrz, ["-", "--at", "2036-04-02"], input="\ufeff" + "".join(lines) + "\r\n")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert (shown["passport_kind"], shown["personal_number"]) == ("ordinary", "A234567893")
    assert (shown["expires_on"], shown["expired"], shown["born_on"]) == ("2036-04-01", True, "1976-XX-XX")


def test_today_is_the_default() -> None:
    result = CliRunner().invoke(mrz, ["-"], input=TD3)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["expired"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TD3.replace("C36", "C37"), "number check digit, line 2 column 10: expected 6, found 7"),
        (TD3[:50], f"format, line 2 column 6: expected {SIZES}, found 2 lines of 44, 5"),
        ("", f"format, line 1 column 1: expected {SIZES}, found nothing"),
    ],
)
def test_a_bad_zone_ends_with_one(text: str, message: str) -> None:
    result = CliRunner().invoke(mrz, ["-"], input=text)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"gated mrz: {message}\n")


def test_a_bad_zone_as_json() -> None:
    result = CliRunner().invoke(mrz, ["-", "--json"], input=TD3.replace("C36", "C37"))
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": {
            "field": "number check digit",
            "line": 2,
            "column": 10,
            "expected": "6",
            "found": "7",
            "message": "number check digit, line 2 column 10: expected 6, found 7",
        }
    }


def test_bytes_that_are_no_text() -> None:
    result = CliRunner().invoke(mrz, ["-"], input=b"\xff\xfe" + TD3.encode()[2:])
    assert (result.exit_code, result.stderr) == (
        1,
        "gated mrz: alphabet, line 1 column 1: expected A-Z, 0-9 or <, found U+FFFD\n",
    )


def test_an_endless_file_is_not_read_to_its_end() -> None:
    result = CliRunner().invoke(mrz, ["/dev/zero"])
    assert result.exit_code == 1


@pytest.mark.parametrize("arguments", [[], ["/no/such/file"], ["-", "--at", "yesterday"], ["-", "--wrong"]])
def test_wrong_usage_ends_with_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(mrz, arguments, input=TD3)
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_examples_of_the_documentation_are_true() -> None:
    """Every zone in docs/documents.md is followed by what comes of it: format, code and issuer, or the error."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "documents.md").read_text()
    examples = re.findall(r"```mrz\n(.*?)\n```\n```text\n(.*?)\n```", page, re.DOTALL)
    assert len(examples) == page.count("```mrz") >= 10
    for zone, outcome in examples:
        result = CliRunner().invoke(mrz, ["-"], input=zone)
        if result.exit_code == 0:
            shown = json.loads(result.stdout)
            assert f"{shown['format']} {shown['code']} {shown['issuer']}" == outcome
        else:
            assert result.stderr == f"gated mrz: {outcome}\n"
