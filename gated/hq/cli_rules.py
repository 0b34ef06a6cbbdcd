"""--policy of `gated-hq`: whose names count, which day it is in the country, and whom an office may enrol."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.lane.rules import Rules

DEFAULT: Final = Path("/etc/gated/policy/tw.toml")
POLICY = click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="GATED_HQ_POLICY",
    show_envvar=True,
    help=f"The policy that lanes have; else {DEFAULT}, where there is one.",
)


def rules_at(path: Path | None) -> "Rules | None":
    """The policy; None where none is named and none lies at `DEFAULT`. One that is named and is not there, or that
    cannot be used, ends the command."""
    from gated.config import ConfigError
    from gated.policyfile import load_rules

    if path is None and not DEFAULT.exists():
        return None
    try:
        return load_rules(path or DEFAULT)
    except ConfigError as bad:
        fail(str(bad))


def needed_rules(path: Path | None, why: str) -> "Rules":
    """The policy, without which the command ends."""
    rules = rules_at(path)
    if rules is None:
        fail(f"there is no policy at {DEFAULT}, and without one {why}: give --policy")
    return rules


def say_unchecked(rules: "Rules | None") -> None:
    """Where there is no policy names are taken as they are, and whoever gave them must know that."""
    if rules is None:
        click.echo(f"there is no policy at {DEFAULT}: names are not checked (--policy)", err=True)


def today(rules: "Rules | None") -> date:
    """In the country of the policy, else here."""
    return rules.day(datetime.now(UTC)) if rules is not None else date.today()
