"""What every command is given: the configuration, the daemon's client, and how to speak to person or program."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from gated.config import Config
    from gated.control import Client, Request

EX_UNAVAILABLE = 69
EX_NOPERM = 77
EX_CONFIG = 78
"""As in sysexits.h."""

P = ParamSpec("P")
R = TypeVar("R")


class Here:
    """Where a command runs: with which configuration, and whether a program reads its answers."""

    def __init__(self, config_path: Path, as_json: bool) -> None:
        self.config_path, self.as_json = config_path, as_json

    @functools.cached_property
    def config(self) -> "Config":
        """Raises `ConfigError`."""
        from gated.config import load

        return load(self.config_path)

    @property
    def client(self) -> "Client":
        """Asks the lane daemon. Raises `ConfigError`."""
        from gated.control import Client

        return Client(self.config.control.socket)

    def ask(self, kind: "type[Request]", **values: Any) -> dict[str, Any]:
        """Send one request. Raises `Refused`, `Unavailable`, `ConfigError`; `UsageError` for a bad value."""
        try:
            request = kind(**values)
        except ValueError as wrong:
            raise click.UsageError(str(wrong).replace("by must", "NAME must")) from None
        return self.client.ask(request)

    def order(self, kind: "type[Request]", done: str, **values: Any) -> None:
        """Send an order of somebody at the lane and say what became of it. Raises `Refused` where the lane says no."""
        from gated.control import Code, Refused

        answer = self.ask(kind, **values)
        if self.as_json:
            self.say(answer, "")
        if not answer["accepted"]:
            raise Refused(Code.REFUSED, f"the lane refuses: {answer['why'].replace('_', ' ')}")
        if not self.as_json:
            click.echo(done)

    @functools.cached_property
    def console(self) -> "Console":
        """Standard output for people: colours only on a terminal (and not with NO_COLOR)."""
        from rich.console import Console

        return Console(highlight=False, width=None if sys.stdout.isatty() else 120)

    def say(self, answer: Any, text: str) -> None:
        """One answer: `answer` in JSON for a program, `text` for a person."""
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2) if self.as_json else text)


def command_here(function: Callable[Concatenate[Here, P], R]) -> Callable[P, R]:
    """Gives the command its `Here`, and a `--json` of its own beside the one of `gated`."""

    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        here = click.get_current_context().find_object(Here)
        assert here is not None
        here.as_json = bool(kwargs.pop("as_json")) or here.as_json
        return function(here, *args, **kwargs)

    return command
