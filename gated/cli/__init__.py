"""`gated`, the technician's command. Each subcommand is a file here and is imported when it is used, not before.

Exit codes: 0 ok; 1 a fault was found, or the request was refused; 2 wrong usage; 69 the lane daemon (or a service
that the command needs) cannot be reached; 70 a fault of our own ended the lane; 77 not for this user; 78 the
configuration is wrong.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from gated import __version__
from gated.cli.here import EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE, Here
from gated.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("gated.cli.run:run", "Run the lane (systemd does this)."),
    "uplink": ("gated.cli.uplink:uplink", "Run the lane's link to HQ (systemd does this)."),
    "sync": ("gated.cli.sync:sync", "Keep the lane's data as HQ signed them (systemd does this)."),
    "check": ("gated.cli.check:check", "Is everything here that the lane needs? What to do where not."),
    "status": ("gated.cli.status:status", "What the lane is doing now."),
    "watch": ("gated.cli.watch:watch", "The same, live."),
    "service": ("gated.cli.service:service", "Service mode: on, off."),
    "door": ("gated.cli.door:door", "Open or shut a leaf (service mode only)."),
    "lane": ("gated.cli.lane:lane", "Close, open or reset the lane."),
    "cache": ("gated.cli.cache:cache", "What the lane holds of HQ's data: status, show, verify, sync, key."),
    "policy": ("gated.cli.policy:policy", "Who may pass by a policy, and why: check, show, explain, cases, diff."),
    "replay": ("gated.cli.replay:replay", "Run a journal through the machine again and compare."),
    "record": ("gated.cli.record:record", "Record a device's traffic, sealed (service mode only)."),
    "device": ("gated.cli.device:device", "Try a device: the fingerprint reader (service mode only)."),
    "mrz": ("gated.cli.mrz:mrz", "Read a machine readable zone and print it as JSON."),
    "lab": ("gated.cli.lab:lab", "Measure faces, fingers and thresholds in the laboratory."),
}


class Commands(LazyGroup):
    """The technician's subcommands, and what their known troubles end in."""

    commands_by_name = COMMANDS

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what can go wrong for a known reason becomes one line and an exit code."""
        from gated.config import ConfigError
        from gated.control import Code, Refused, Unavailable

        try:
            return super().invoke(ctx)
        except ConfigError as bad:
            _end(str(bad), EX_CONFIG)
        except Unavailable as away:
            _end(str(away), EX_NOPERM if away.denied else EX_UNAVAILABLE)
        except Refused as no:
            _end(no.why, EX_NOPERM if no.code is Code.DENIED else 1)


def _end(text: str, exit_code: int) -> NoReturn:
    click.echo(f"gated: {text}", err=True)
    sys.exit(exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="GATED_CONFIG",
    default=Path("/etc/gated/lane.toml"),
    show_default=True,
    show_envvar=True,
    help="The lane's configuration.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@click.version_option(__version__, message="gated %(version)s")
@click.pass_context
def gated(ctx: click.Context, config: Path, as_json: bool) -> None:
    """The controller of an automated border gate.

    \b
    Examples:
      gated check                  is everything here that the lane needs?
      gated status                 what the lane is doing now
      gated watch                  the same, live
      gated service on --technician "Mei Lin"
    \b
    Exit codes:
      0 ok; 1 fault found or request refused; 2 wrong usage; 69 daemon not reachable;
      77 not for this user; 78 configuration wrong
    """
    ctx.obj = Here(config, as_json)


def main() -> NoReturn:
    """The entry point."""
    # onnxruntime reports to its makers unless it is told not to before it is imported.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        gated.main(prog_name="gated")
    except BrokenPipeError:  # `gated watch | head`: nobody reads any more, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
