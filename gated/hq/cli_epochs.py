"""`gated-hq epoch` and `gated-hq lane`: the keys of what is published, and who may have them."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from gated.hq.cli import fail
from gated.hq.cli_publish import FILE, KEYS, REPO, STATE, faults

_PARTITION = click.argument("partition", type=click.Choice(["people", "control"]))
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


@click.group()
def epoch() -> None:
    """Keys of what is published. One key seals a partition for one epoch; a stolen lane knows it until the next."""


@epoch.command(
    "new", epilog="\b\nExample:\n  gated-hq epoch new people --state publish.db --keys epochs --repo /srv/gate"
)
@_PARTITION
@STATE
@KEYS
@REPO
def new(partition: str, state_path: Path, keys: Path, repo: Path) -> None:
    """Begin a new epoch of PARTITION: gated-hq publish seals everything anew, and then lanes take it as a snapshot.

    Until then the present epoch goes on. That of `control` opens only with the lift key."""
    from gated.hq import epochs
    from gated.hq.heads import Heads
    from gated.hq.published import PublisherState
    from gated.hq.repository import Repository, Signers

    with faults():
        state = PublisherState(state_path)
        above = Heads(Repository(repo), Signers()).epoch(partition)
        number = epochs.begin(state, keys, partition, datetime.now(UTC), above)
        state.close()
    click.echo(f"{partition}: epoch {number} begins; key {epochs.key_file(keys, partition, number)}; now publish")


@epoch.command(
    "erase", epilog="\b\nExample:\n  gated-hq epoch erase people 1 --state publish.db --keys epochs --repo /srv/gate"
)
@_PARTITION
@click.argument("number", metavar="EPOCH", type=click.IntRange(min=1))
@STATE
@KEYS
@REPO
@click.confirmation_option(prompt="What was sealed in this epoch can never be opened again. Go on?")
def erase(partition: str, number: int, state_path: Path, keys: Path, repo: Path) -> None:
    """Destroy the key of an EPOCH that is over, and what is left of it here."""
    from gated.hq import epochs
    from gated.hq.published import PublisherState

    with faults():
        state = PublisherState(state_path)
        with state.only_publisher():
            epochs.erase(state, keys, repo, partition, number)
        state.close()
    click.echo(f"{partition}: epoch {number} is erased")


@epoch.command("list")
@STATE
@_JSON
def list_epochs(state_path: Path, as_json: bool) -> None:
    """Every epoch that there is, and how far it has come."""
    from gated.hq.published import PublisherState

    if not state_path.exists():
        fail(f"{state_path}: there is no such file; gated-hq publish makes it")
    with faults():
        state = PublisherState(state_path)
        found = [each for partition in ("people", "control") for each in state.epochs(partition)]
        state.close()
    if as_json:
        rows = (
            {
                "partition": each.partition,
                "epoch": each.epoch,
                "state": each.state,
                "began": each.began.isoformat(),
                "serial": each.serial,
                "rows": each.rows,
            }
            for each in found
        )
        click.echo(json.dumps(list(rows)))
        return
    for each in found:
        began = each.began.date().isoformat()
        click.echo(
            f"{each.partition:8} {each.epoch:4}  {each.state:8} since {began}  segment {each.serial}, {each.rows} rows"
        )


@click.group()
def lane() -> None:
    """Which lanes may open what is published. Each is given the keys of the epochs, wrapped for it alone."""


@lane.command(
    "add",
    epilog="\b\nExample:\n  gated-hq lane add tpe-t1/lane-07 --key lane-07.pub --state publish.db --keys epochs"
    " --repo /srv/gate",
)
@click.argument("name", metavar="SITE/LANE")
@click.option("--key", "public_key", required=True, type=FILE, help="What gated cache key shows of it, in a file.")
@STATE
@KEYS
@REPO
def add(name: str, public_key: Path, state_path: Path, keys: Path, repo: Path) -> None:
    """A lane may open what is published; or it has another key than before."""
    from gated.hq import epochs
    from gated.hq.keys import public
    from gated.hq.published import PublisherState

    with faults():
        state = PublisherState(state_path)
        try:
            given = epochs.add_lane(state, keys, repo, name, public(public_key))
        except ValueError as bad:
            raise click.UsageError(f"SITE/LANE: {bad}") from None
        finally:
            state.close()
    click.echo(f"{name}: has the key of {', '.join(given) or 'no epoch yet: the first publish gives it'}")


@lane.command("remove")
@click.argument("name", metavar="SITE/LANE")
@STATE
@REPO
def remove(name: str, state_path: Path, repo: Path) -> None:
    """A lane is given no key any more. What it knows it can open until a new epoch begins: gated-hq epoch new."""
    from gated.hq import epochs
    from gated.hq.published import PublisherState

    with faults():
        state = PublisherState(state_path)
        epochs.remove_lane(state, repo, name)
        state.close()
    click.echo(f"{name}: is given no key from now on; to shut it out: gated-hq epoch new people, and control")


@lane.command("list")
@STATE
@_JSON
def list_lanes(state_path: Path, as_json: bool) -> None:
    """Every lane that may open what is published, with its public key."""
    from gated.hq.published import PublisherState

    if not state_path.exists():
        fail(f"{state_path}: there is no such file; gated-hq publish makes it")
    with faults():
        state = PublisherState(state_path)
        found = state.lanes()
        state.close()
    if as_json:
        click.echo(json.dumps({name: key.hex() for name, key in found.items()}))
    else:
        for name, key in found.items():
            click.echo(f"{name}  {key.hex()}")
