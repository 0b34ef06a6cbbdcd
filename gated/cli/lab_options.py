"""What the commands of `gated lab` share: options, a progress bar, and the end for what cannot be used."""

from pathlib import Path
from typing import Any

import click

from models.loader import CACHE

MODELS = click.option(
    "--models",
    "models_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=CACHE,
    help="Folder of the networks (`python -m models.obtain` makes it).",
)
THRESHOLD = click.option("--threshold", default="fmr_1e-3", show_default=True, help="A threshold of the manifest.")
THREADS = click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class Unusable(click.ClickException):
    """A file, folder or network that the command was given cannot be used."""

    exit_code = 2


def json_wanted(ctx: click.Context, as_json: bool) -> bool:
    """Asked for here, or before the subcommand."""
    return as_json or bool(getattr(ctx.obj, "as_json", False))


def progress_bar(quiet: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)
