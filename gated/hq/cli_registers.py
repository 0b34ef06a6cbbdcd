"""`gated-hq enrol`: people into HQ's register."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from gated.hq.cli import fail
from gated.hq.cli_rules import POLICY, needed_rules, rules_at, say_unchecked, today

if TYPE_CHECKING:
    from gated.hq.enrolment import Application, Identity, NotEnrolled
    from gated.hq.fingers import Offered
    from gated.hq.registers import Register
    from gated.icao.fingers import Finger
    from gated.lane.rules import Rules

_FILE = click.Path(path_type=Path, dir_okay=False)
REGISTERS = click.option("--registers", required=True, type=_FILE, help="HQ's register (made new by enrol).")
KEY = click.option("--key", required=True, type=_FILE, help="HQ's data key: data.key.")
JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


def open_register(path: Path, key: Path, *, made: bool = False) -> "Register":
    """`made`: it must be there. Ends the command where it cannot be used."""
    from gated.hq.keys import KeyFault, secret
    from gated.hq.registers import Register, RegisterFault

    if made and not path.exists():
        fail(f"{path}: there is no such file; gated-hq enrol makes it")
    try:
        return Register(path, secret(key))
    except (KeyFault, RegisterFault, OSError) as bad:
        fail(str(bad))
    except sqlite3.Error as bad:
        fail(f"{path}: {bad}")


@click.command(
    epilog="\b\nExamples:\n  gated-hq enrol --registers registers.db --key data.key --photo mei.jpg --mrz mei.txt\n"
    "  gated-hq enrol --registers registers.db --key data.key --photo mei.jpg --mrz mei.txt \\\n"
    "      --finger right_index=ri.png --missing left_index=bandaged --finger left_thumb=lt.png\n"
    "  gated-hq enrol --registers registers.db --key data.key --file people.jsonl\n"
    "  gated-hq enrol --office --registers registers.db --key data.key --photo an.jpg --identity an.json --height 152"
)
@REGISTERS
@KEY
@click.option("--office", is_flag=True, help="At an office of household registration: who holds no passport yet (E2).")
@click.option("--photo", type=_FILE, help="A picture of the face.")
@click.option("--mrz", type=click.File(encoding="utf-8"), help="A file (-: input) with the document's MRZ lines.")
@click.option(
    "--identity",
    type=click.File(encoding="utf-8"),
    help="With --office: a file (-: input) with a JSON object: personal_number, birth, sex, surname, given_names.",
)
@click.option("--height", "height_cm", type=click.IntRange(30, 250), metavar="CM", help="As stated.")
@click.option(
    "--finger",
    "prints",
    multiple=True,
    metavar="POSITION=FILE",
    help="A picture of a finger, or its template (.fmr); POSITION such as right_index. May be repeated.",
)
@click.option(
    "--missing",
    multiple=True,
    metavar="POSITION=WHY",
    help="A finger that cannot be taken: amputated, bandaged or unreadable. May be repeated.",
)
@click.option("--ppi", type=float, help="Pixels an inch of the fingers' pictures, whatever the files say.")
@click.option("--file", "many", type=_FILE, help="Many people: one JSON object a line (docs/enrolment.md).")
@click.option(
    "--category", default="national", show_default=True, help="Category of traveller, as the policy names it."
)
@click.option("--birth", type=click.DateTime(["%Y-%m-%d"]), help="Where the document does not say all of it.")
@click.option("--models", type=click.Path(path_type=Path, file_okay=False), help="Where the networks lie.")
@click.option("--urgent", is_flag=True, help="Lanes are to know within seconds, not at the next interval.")
@POLICY
@JSON
def enrol(
    registers: Path,
    key: Path,
    office: bool,
    photo: Path | None,
    mrz: TextIO | None,
    identity: TextIO | None,
    height_cm: int | None,
    prints: tuple[str, ...],
    missing: tuple[str, ...],
    ppi: float | None,
    many: Path | None,
    category: str,
    birth: datetime | None,
    models: Path | None,
    urgent: bool,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Enrol one person (--photo, --mrz, --finger) or many (--file). The same personal number or document is the same
    person. Fingers: both index fingers, or of a hand the next in order: docs/enrolment.md.

    At an office (--office) there is no document: --identity says who it is, and the enrolment waits for the passport
    (gated-hq received).

    Exit code 1 where somebody could not be enrolled; the others are.
    """
    from gated.hq.enrolment import Application, applications
    from gated.hq.people import COUNTER, OFFICE
    from models.manifest import ModelError

    shown, wanted = (identity, "--identity") if office else (mrz, "--mrz")
    if (many is None) == (shown is None) or (identity if not office else mrz) is not None:
        raise click.UsageError(f"give either {wanted} (with --photo and --finger) or --file")
    if many is not None and (prints or missing):
        raise click.UsageError("--finger and --missing are one person's: with --file they stand in the file")
    rules = needed_rules(policy, "nobody knows whom an office may enrol") if office else rules_at(policy)
    origin = OFFICE if office else COUNTER
    found: list[tuple[int, Application | NotEnrolled]]
    try:
        if many is not None:
            found = list(applications(many, origin))
        else:
            day = birth.date() if birth else None
            fingers = _fingers(prints, missing, ppi)
            lines, who = (mrz.read() if mrz else None), (_identity(identity) if identity else None)
            one = Application(lines, photo, category, (), birth=day, fingers=fingers, identity=who)
            found = [(1, replace(one, height_cm=height_cm, origin=origin))]
        done = _enrol_all(registers, key, found, models, urgent, rules)
    except (OSError, ModelError, UnicodeDecodeError) as bad:
        fail(str(bad))
    failed = sum(row["subject"] is None for row in done)
    if any(not isinstance(application, Exception) and application.flags for _, application in found):
        say_unchecked(rules)
    if as_json:
        click.echo(json.dumps(done, ensure_ascii=False, indent=2))
    else:
        for row in done:
            click.echo(f"line {row['line']}: {_told(row) if row['subject'] else row['why']}")
    if failed:
        fail(f"{failed} of {len(done)} could not be enrolled")


def _enrol_all(
    registers: Path,
    key: Path,
    found: "list[tuple[int, Application | NotEnrolled]]",
    models: Path | None,
    urgent: bool,
    rules: "Rules | None",
) -> list[dict[str, Any]]:
    """What became of each line. Raises `ModelError`."""
    from gated.biometrics.face import OnnxFaceEngine
    from gated.biometrics.finger import OnnxFingerEngine
    from gated.hq.enrolment import NotEnrolled, person_of
    from gated.hq.registers import RegisterFault

    where = (models,) if models else ()
    engine = OnnxFaceEngine(*where)
    with_fingers = any(not isinstance(application, NotEnrolled) and application.fingers for _, application in found)
    finger_engine = OnnxFingerEngine(*where) if with_fingers else None
    register = open_register(registers, key)
    done: list[dict[str, Any]] = []
    for number, application in found:
        try:
            if isinstance(application, NotEnrolled):
                raise application
            person = person_of(application, engine, today(rules), finger_engine, rules)
            person = register.enrol(person, urgent=urgent)
            fingers = list(dict.fromkeys(finger.position for finger in person.fingers))
            done.append(
                {"line": number, "subject": person.subject, "documents": len(person.papers), "fingers": fingers}
            )
        except (NotEnrolled, RegisterFault) as bad:
            done.append({"line": number, "subject": None, "why": str(bad)})
    register.close()
    return done


def _identity(file: TextIO) -> "Identity":
    """Raises `click.UsageError`."""
    from gated.hq.enrolment import NotEnrolled, identity_of

    try:
        return identity_of(json.load(file))
    except NotEnrolled as bad:
        raise click.UsageError(f"--identity: {bad}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise click.UsageError("--identity: is no JSON object with personal_number, birth (YYYY-MM-DD), sex") from None


def _told(row: dict[str, Any]) -> str:
    return f"subject {row['subject']}" + (f", {' and '.join(row['fingers'])}" if row["fingers"] else "")


def _fingers(prints: tuple[str, ...], missing: tuple[str, ...], ppi: float | None) -> "dict[Finger, Offered]":
    """What --finger and --missing say. Raises `click.UsageError`."""
    from gated.hq.fingers import ISO, FingerFile, FingersRefused, Offered, absent, finger_named

    offers: dict[Finger, Offered] = {}
    for option, texts in (("--finger", prints), ("--missing", missing)):
        for text in texts:
            position, _, value = text.partition("=")
            try:
                finger = finger_named(position)
                if finger in offers:
                    raise FingersRefused(f"{position} is given twice")
                if option == "--missing":
                    offers[finger] = absent(finger, value)
                elif value.endswith(".fmr"):
                    offers[finger] = Offered((FingerFile(Path(value), ISO),))
                else:
                    offers[finger] = Offered((FingerFile(Path(value), ppi=ppi),))
            except FingersRefused as bad:
                raise click.UsageError(f"{option} {text}: {bad}") from None
    return offers


@contextmanager
def the_register(registers: Path, key: Path) -> "Iterator[Register]":
    """The register, which there is; what goes wrong with it ends the command."""
    from gated.hq.people import RegisterFault

    register = open_register(registers, key, made=True)
    try:
        yield register
    except RegisterFault as bad:
        fail(str(bad))
    except sqlite3.Error as bad:
        fail(f"{registers}: {bad}")
    finally:
        register.close()
