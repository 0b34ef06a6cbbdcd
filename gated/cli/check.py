"""`gated check`: is everything here that the lane needs, and what to do where not."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gated.cli import checks
from gated.cli.checks import Finding
from gated.cli.here import EX_CONFIG, Here, command_here

if TYPE_CHECKING:
    from gated.config import Config
    from gated.lane.machine import Lane

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command(
    epilog="""\b
    Examples:
      sudo gated check
      gated --config config/examples/mantrap.toml check
      gated check --json | jq '.[] | select(.result == "fail")'
    """
)
@command_here
def check(here: Here) -> None:
    """Is everything here that the lane needs? A table of what was looked at, and what to do where something lacks.

    Changes nothing, and works while the lane runs: then the daemon is asked for its devices, which are not taken
    away from it. Run it as root: it looks at files and devices with the lane's own rights then.
    Exit code: 0 no fault (perhaps warnings), 1 a fault, 78 the configuration is wrong.
    """
    from gated.config import ConfigError

    findings: list[Finding] = []
    code = 0
    try:
        findings += look(here)
    except ConfigError as wrong:
        findings.append(Finding("config", "fail", str(wrong), "correct it; config/lane.toml explains every option"))
        code = EX_CONFIG
    if here.as_json:
        here.say([asdict(finding) for finding in findings], "")
    else:
        _show(here, findings)
    raise SystemExit(code or int(any(finding.result == "fail" for finding in findings)))


def look(here: Here) -> Iterator[Finding]:
    """Everything, in the order in which one would repair it. Raises `ConfigError`."""
    from gated.control import Refused, Status, Unavailable
    from gated.daemon.links import real

    config = here.config
    lane, settings = read_all(config)
    yield Finding("config", "ok", f"{config.path}: lane {config.identity.id}, {', '.join(settings)}")
    devices: dict[str, str] | None = None
    absent = False
    try:
        devices = here.client.ask(Status())["devices"]
        yield Finding("daemon", "ok", "runs and answers")
    except (Unavailable, Refused) as away:
        absent = getattr(away, "absent", False)
        yield Finding("daemon", "ok" if absent else "warn", str(away), "so its devices are not looked at")
    with checks.as_owner(config.store.dir) as name:
        if name:
            yield Finding("user", "ok", f"devices, networks and databases are looked at as {name}")
        if devices is not None:
            yield from checks.running_devices(devices)
        elif absent:
            yield from checks.open_devices(settings, real)
        yield from checks.time_for_fingers(settings.get("fingerprint"), lane.timing.finger_s)
        yield from checks.networks(config)
        yield from checks.databases(config)
        yield from checks.policy(config)
    yield from checks.keys(config)
    yield from checks.disk(config)
    yield from checks.clock()
    yield from checks.group(config)
    yield from checks.broker(config)


def read_all(config: "Config") -> tuple["Lane", dict[str, Any]]:
    """Fill every section as the daemon does and leave no option unread. The machine; section of a device -> its
    driver's Settings.

    Raises `ConfigError`."""
    from gated.daemon.plan import SECTIONS, driver_of, face_of, finger_of, machine_of

    lane = machine_of(config)
    face_of(config)
    finger_of(config)
    settings = {}
    for name in SECTIONS:
        if name in config:
            _, settings[name] = driver_of(config.section(name), lane)
    config.finish()
    return lane, settings


def _show(here: Here, findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        todo = f"\n→ {escape(finding.todo)}" if finding.todo and finding.result != "ok" else ""
        table.add_row(f"[{_COLOUR[finding.result]}]{finding.result}[/]", finding.name, f"{escape(finding.found)}{todo}")
    here.console.print(table)
    counts = {result: sum(finding.result == result for finding in findings) for result in ("fail", "warn")}
    here.console.print(f"\n{counts['fail']} faults, {counts['warn']} warnings")
