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
    """Run the events of JOURNAL through this version's machine and compare every command.

    Exit code 0: the same commands again. 1: the first difference is shown. The key opens personal data: it is
    used, never shown.
    """
    from gated.daemon.replay import replay as run_again

    result = run_again(journal, here.config, key)
    answer = {"events": result.events, "same": result.difference is None, "difference": result.difference}
    same = f"{result.events} events, the same commands again"
    here.say(answer, same if result.difference is None else f"after {result.events} events: {result.difference}")
    if result.difference is not None:
        raise SystemExit(1)
