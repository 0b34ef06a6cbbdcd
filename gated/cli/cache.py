"""`gated cache show`: what the lane holds of HQ's data, in ages and counts, nobody's data."""

import click

from gated.cli.here import Here, command_here


@click.group()
def cache() -> None:
    """What the lane holds of HQ's data."""


@cache.command(
    epilog="""\b
    Example:
      gated cache show
    """
)
@command_here
def show(here: Here) -> None:
    """Generation, age and counts of the cache. Shows nobody's data: there is no command for that."""
    from gated.control import ShowCache

    answer = here.ask(ShowCache)
    width = max(map(len, answer), default=0)
    here.say(answer, "\n".join(f"{name:{width}}  {value}" for name, value in answer.items()) or "the cache is empty")
