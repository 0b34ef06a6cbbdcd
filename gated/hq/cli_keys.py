"""`gated-hq keys`: makes HQ's keys, once."""

from pathlib import Path

import click

from gated.hq.cli import fail


@click.command(epilog="\b\nExample:\n  gated-hq keys ~/hq-keys")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def keys(folder: Path) -> None:
    """Make HQ's keys in FOLDER: secret ones mode 0600. Nothing is ever overwritten.

    Keep the secret ones apart: each process needs one of them and none needs all.
    """
    from gated.hq.keys import KeyFault, make

    try:
        made = make(folder)
    except (KeyFault, OSError) as bad:
        fail(str(bad))
    for file in made:
        click.echo(f"{folder / file.name}  {'SECRET' if file.secret else 'public'}  {file.about}")
