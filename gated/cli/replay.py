"""`gated replay JOURNAL`: the same events through the machine again, and whether it decides the same."""

from pathlib import Path

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Examples:
      gated replay /var/lib/gated/lane.db
      gated replay bad-day.db --key journal.key
    """
)
@click.argument("journal", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="The journal's key; left out: the one in [keys] journal.")
@command_here
def replay(here: Here, journal: Path, key: Path | None) -> None:
    """Run the events of JOURNAL (a lane.db) through this version's machine and compare every command.

    Exit code 0: the same commands again. 1: the first difference is shown. The key opens personal data: it is
    used, never shown. Timing is that of the configuration; the policies are those that were in force then, of which the
    lane keeps copies beside its lane.db.
    """
    from gated.daemon.replay import replay as run_again
    from gated.store.sql import StoreError

    try:
        result = run_again(journal, here.config, key)
    except StoreError as bad:
        raise click.ClickException(str(bad)) from None
    count = f"{result.events} events of {result.boots} starts"
    same = result.difference is None
    answer = {"events": result.events, "boots": result.boots, "same": same, "difference": result.difference}
    here.say(
        answer, f"{count}: the same commands again" if same else f"{count}, then a difference: {result.difference}"
    )
    if not same:
        raise SystemExit(1)
