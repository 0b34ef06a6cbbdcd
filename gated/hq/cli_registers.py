"""`gated-hq enrol` and `gated-hq publish`: HQ's register, and what lanes get of it."""

import json
import sqlite3
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.hq.registers import Register

_FILE = click.Path(path_type=Path, dir_okay=False)
_REGISTERS = click.option("--registers", required=True, type=_FILE, help="HQ's register (made new by enrol).")
_KEY = click.option("--key", required=True, type=_FILE, help="HQ's data key: data.key.")


def _register(path: Path, key: Path) -> "Register":
    from gated.hq.keys import KeyFault, secret
    from gated.hq.registers import Register, RegisterFault

    try:
        return Register(path, secret(key))
    except (KeyFault, RegisterFault, OSError) as bad:
        fail(str(bad))
    except sqlite3.Error as bad:
        fail(f"{path}: {bad}")


@click.command(
    epilog="\b\nExamples:\n  gated-hq enrol --registers registers.db --key data.key --photo mei.jpg --mrz mei.txt\n"
    "  gated-hq enrol --registers registers.db --key data.key --file people.jsonl"
)
@_REGISTERS
@_KEY
@click.option("--photo", type=_FILE, help="A picture of the face.")
@click.option("--mrz", type=click.File(encoding="utf-8"), help="A file (-: input) with the document's MRZ lines.")
@click.option("--file", "many", type=_FILE, help="Many people: one JSON object a line (mrz, photo, category ...).")
@click.option(
    "--category", default="national", show_default=True, help="Category of traveller, as the policy names it."
)
@click.option("--birth", type=click.DateTime(["%Y-%m-%d"]), help="Where the document does not say all of it.")
@click.option("--models", type=click.Path(path_type=Path, file_okay=False), help="Where the networks lie.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
def enrol(
    registers: Path,
    key: Path,
    photo: Path | None,
    mrz: click.File | None,
    many: Path | None,
    category: str,
    birth: datetime | None,
    models: Path | None,
    as_json: bool,
) -> None:
    """Enrol one person (--photo and --mrz) or many (--file). The same personal number or document is the same person.

    Exit code 1 where somebody could not be enrolled; the others are.
    """
    from gated.biometrics.face import OnnxFaceEngine
    from gated.hq.enrolment import Application, NotEnrolled, applications, person_of
    from gated.hq.registers import RegisterFault
    from models.manifest import ModelError

    if (many is None) == (mrz is None):
        raise click.UsageError("give either --mrz (with --photo) or --file")
    found: list[tuple[int, Application | NotEnrolled]]
    try:
        if many is not None:
            found = list(applications(many))
        else:
            text: str = mrz.read()  # type: ignore[union-attr]
            found = [(1, Application(text, photo, category, birth=birth.date() if birth else None))]
        engine = OnnxFaceEngine(models) if models else OnnxFaceEngine()
    except (OSError, ModelError, UnicodeDecodeError) as bad:
        fail(str(bad))
    register = _register(registers, key)
    done: list[dict[str, object]] = []
    for number, application in found:
        try:
            if isinstance(application, NotEnrolled):
                raise application
            person = register.enrol(person_of(application, engine, date.today()))
            done.append({"line": number, "subject": person.subject, "documents": len(person.papers)})
        except (NotEnrolled, RegisterFault) as bad:
            done.append({"line": number, "subject": None, "why": str(bad)})
    register.close()
    failed = sum(row["subject"] is None for row in done)
    if as_json:
        click.echo(json.dumps(done, ensure_ascii=False, indent=2))
    else:
        for row in done:
            click.echo(f"line {row['line']}: {'subject ' + str(row['subject']) if row['subject'] else row['why']}")
    if failed:
        fail(f"{failed} of {len(done)} could not be enrolled")


@click.command(
    epilog="\b\nExample:\n  gated-hq publish --registers registers.db --key data.key --cache-key cache.key"
    " --epoch 2026-11 /var/lib/gated"
)
@_REGISTERS
@_KEY
@click.option("--cache-key", required=True, type=_FILE, help="The partition's epoch key: cache.key.")
@click.option("--epoch", required=True, help="The name of that key; a new key gets a new name.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def publish(registers: Path, key: Path, cache_key: Path, epoch: str, folder: Path) -> None:
    """Publish the register as the next cache generation into a lane's FOLDER ([store] dir)."""
    from gated.hq.keys import KeyFault, secret
    from gated.hq.publisher import NotPublished
    from gated.hq.publisher import publish as build
    from gated.hq.registers import RegisterFault

    if not registers.exists():
        fail(f"{registers}: there is no such file; gated-hq enrol makes it")
    register = _register(registers, key)
    try:
        path, note = build(register, folder, secret(cache_key), epoch, datetime.now(UTC))
    except (KeyFault, RegisterFault, NotPublished) as bad:
        fail(str(bad))
    finally:
        register.close()
    click.echo(f"{path}: generation {note.generation}, {note.rows} rows, epoch {note.epoch}")
