"""`gated-hq repo`: the signed repository by hand. Its keys are files on sticks; who keeps which: docs/trust.md."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.hq.repository import Repository, RoleState, Signers

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
_FILE = click.Path(path_type=Path, dir_okay=False)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
_SIGN = click.option(
    "--sign", "signing", type=_FILE, multiple=True, required=True, metavar="KEYFILE", help="A secret key. Repeatable."
)
_TO = click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Sign into this folder, without the online key."
)
_KEEPERS = {
    "root": "a person, in a safe of their own; used once a year and after a theft, on a machine without a network",
    "targets": "the policy office; used when policy, models or certificates change, then back into the safe",
    "online": "the publisher's machine: a systemd credential, best sealed by its TPM",
    "lift": "the desk that may lift a ban; never kept on the publisher's machine",
}


@contextmanager
def faults() -> Iterator[None]:
    """What the repository or a key has against it, in one line."""
    from gated.hq.keys import KeyFault
    from gated.hq.repository import RepositoryFault

    try:
        yield
    except (RepositoryFault, KeyFault) as bad:
        fail(str(bad))
    except OSError as bad:
        fail(f"{bad.filename}: {(bad.strerror or 'cannot be used').lower()}")


def _signers(files: Sequence[Path]) -> "Signers":
    from gated.hq.repository import Signers

    return Signers.of(files)


def _repository(folder: Path) -> "Repository":
    from gated.hq.repository import Repository

    return Repository(folder)


def _answer(as_json: bool, text: str, **values: Any) -> None:
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else text)


@click.group()
def repo() -> None:
    """The signed repository: what lanes trust. Any static web server may serve its folder.

    \b
    Examples:
      gated-hq repo keys ~/ceremony
      gated-hq repo init /srv/gated --keys ~/ceremony
      gated-hq repo status /srv/gated
      gated-hq repo add /srv/gated tw.toml --as policy/tw.toml --sign targets.key --sign online.key
    """


@repo.command(
    epilog="\b\nExamples:\n  gated-hq repo keys ~/ceremony\n  gated-hq repo keys ~/ceremony-2027 --only online"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--roots", type=click.IntRange(1, 20), default=3, show_default=True, help="How many people hold root.")
@click.option("--only", type=click.Choice(("root", "targets", "online", "lift")), help="One key, for a rotation.")
@_JSON
def keys(folder: Path, roots: int, only: str | None, as_json: bool) -> None:
    """Make signing keys in DIR: NAME.key is secret (mode 0600), NAME.pub is not. Nothing is ever overwritten.

    Do this on a machine without a network. Each secret file goes to its keeper, on a stick and a copy of it in
    another safe; then DIR is wiped.
    """
    from gated.hq.keys import make_signing

    names = [f"root-{n}" for n in range(1, roots + 1)] + ["targets", "online", "lift"] if only is None else [only]
    with faults():
        files = make_signing(folder, names)
    if as_json:
        click.echo(json.dumps([str(file) for file in files]))
        return
    for name in names:
        click.echo(f"{folder / name}.key  SECRET  {_KEEPERS[name.split('-')[0]]}")


@repo.command(epilog="\b\nExample:\n  gated-hq repo init /srv/gated --keys ~/ceremony --root-threshold 2")
@_FOLDER
@click.option("--keys", "key_folder", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--root-threshold", type=click.IntRange(1, 20), default=2, show_default=True)
@_JSON
def init(folder: Path, key_folder: Path, root_threshold: int, as_json: bool) -> None:
    """Make a new repository in FOLDER, signed by all keys of --keys (as `repo keys` made them)."""
    from gated.hq.keys import public
    from gated.hq.repository import Repository

    with faults():
        roots = sorted(key_folder.glob("root-*.pub"))
        if not roots:
            fail(f"{key_folder}: no root-*.pub there; gated-hq repo keys makes them")
        named = {name: public(key_folder / f"{name}.pub") for name in ("targets", "online", "lift")}
        made = Repository.create(
            folder,
            _signers([*(file.with_suffix(".key") for file in roots), *(key_folder / f"{name}.key" for name in named)]),
            root=[public(file) for file in roots],
            root_threshold=root_threshold,
            targets=[named["targets"]],
            online=named["online"],
            lift=named["lift"],
            now=datetime.now(UTC),
        )
    first = made.folder / "metadata" / "1.root.json"
    _answer(as_json, f"{folder}: made. Every lane is installed with {first} ([sync] root)", root=str(first))


# -- looking ---------------------------------------------------------------------------------------------------------


@repo.command(
    epilog="\b\nExamples:\n  gated-hq repo status /srv/gated\n  gated-hq repo status /srv/gated --keys ~/pubs"
    " --root root-of-the-lanes.json"
)
@_FOLDER
@click.option(
    "--keys",
    "key_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="*.pub, to name them.",
)
@click.option("--root", "trusted", type=_FILE, help="A lane's root.json: does the chain of roots lead from it?")
@_JSON
def status(folder: Path, key_folder: Path | None, trusted: Path | None, as_json: bool) -> None:
    """Every role: version, until when it holds, how many keys must sign, and which. All signatures are proven.

    Exit code 1 where something has expired or is altered, or the roots do not lead from --root.
    """
    now = datetime.now(UTC)
    with faults():
        repository = _repository(folder)
        roles = repository.roles()
        names = _key_names(key_folder)
        if trusted is not None and not repository.leads_from(trusted.read_bytes()):
            fail(f"{trusted} is none of the roots in {folder}: lanes that have it follow another repository")
    warnings = [told for role in roles if (told := _warning(role, repository, now))]
    if as_json:
        found = [
            {
                "role": role.role,
                "version": role.version,
                "expires": role.expires.isoformat(),
                "threshold": role.threshold,
                "keys": [names.get(key, key) for key in role.keys],
                "targets": role.targets,
            }
            for role in roles
        ]
        click.echo(json.dumps({"roles": found, "warnings": warnings}, ensure_ascii=False, indent=2))
    else:
        _table(roles, names, now)
        for told in warnings:
            click.echo(told)
    if any(role.expires <= now for role in roles):
        sys.exit(1)


def _table(roles: "Sequence[RoleState]", names: dict[str, str], now: datetime) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("role", "version", "holds", "must sign", "keys", "targets", box=None, header_style="bold")
    for role in roles:
        shown = [names.get(key, key[:8]) for key in role.keys]
        few = ", ".join(role.targets) if len(role.targets) <= 3 else f"{len(role.targets)} targets"
        asked = f"{role.threshold} of {len(role.keys)}"
        table.add_row(role.role, str(role.version), _words(role.expires - now), asked, ", ".join(shown), few)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _key_names(folder: Path | None) -> dict[str, str]:
    """Key id -> name, from the public keys in a folder."""
    from gated.hq.keys import public
    from gated.hq.signers import public_key

    files = sorted(folder.glob("*.pub")) if folder else []
    return {public_key(public(file)).keyid: file.stem for file in files}


def _words(left: timedelta) -> str:
    """`13 days`, `5 h`; `EXPIRED 2 days ago`."""
    seconds = abs(left.total_seconds())
    length = f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} h"
    return length if left.total_seconds() > 0 else f"EXPIRED {length} ago"


def _warning(role: "RoleState", repository: "Repository", now: datetime) -> str:
    left = role.expires - now
    if left <= timedelta():
        what = "lanes take nothing new until it is signed again"
    elif left < repository.lifetimes.of(role.role) / 4:
        what = "sign it again in time, or lanes take nothing new"
    else:
        return ""
    return f"{role.role}: holds {_words(left)}: {what} (gated-hq repo renew with {role.threshold} of its keys)"


# -- changing --------------------------------------------------------------------------------------------------------


@repo.command(
    epilog="\b\nExamples:\n  gated-hq repo add /srv/gated tw.toml --as policy/tw.toml"
    " --sign targets.key --sign online.key\n"
    "  gated-hq repo add copy-of-gated tw.toml --as policy/tw.toml --sign targets.key --to /media/stick/tw"
)
@_FOLDER
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--as", "path", required=True, metavar="TARGET", help="Such as policy/tw.toml, models/..., csca/...")
@_SIGN
@_TO
@_JSON
def add(folder: Path, file: Path, path: str, signing: tuple[Path, ...], to: Path | None, as_json: bool) -> None:
    """Put FILE as a signed target, new or in another's place. All lanes that want it fetch it."""
    with faults():
        _change(_repository(folder), path, file.read_bytes(), signing, to, as_json)


@repo.command(epilog="\b\nExample:\n  gated-hq repo remove /srv/gated crl/old.crl --sign targets.key --sign online.key")
@_FOLDER
@click.argument("path", metavar="TARGET")
@_SIGN
@_TO
@_JSON
def remove(folder: Path, path: str, signing: tuple[Path, ...], to: Path | None, as_json: bool) -> None:
    """Take a signed target away."""
    with faults():
        repository = _repository(folder)
        if not any(path in role.targets for role in repository.roles()):
            fail(f"{path} is not a target of {folder}; gated-hq repo status --json lists them")
        _change(repository, path, None, signing, to, as_json)


def _change(
    repository: "Repository", path: str, data: bytes | None, signing: Sequence[Path], to: Path | None, as_json: bool
) -> None:
    done, now = "taken away" if data is None else "put", datetime.now(UTC)
    if to is None:
        version = repository.put({path: data}, _signers(signing), now)
        _answer(as_json, f"{path}: {done}; timestamp {version}", target=path, timestamp=version)
    else:
        repository.propose({path: data}, _signers(signing), now, to)
        text = f"{path}: to be {done}, signed in {to}: bring it in with gated-hq repo take"
        _answer(as_json, text, target=path, proposal=str(to))


@repo.command(epilog="\b\nExample:\n  gated-hq repo take /srv/gated /media/stick/tw --sign online.key")
@_FOLDER
@click.argument("proposal", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_SIGN
@_JSON
def take(folder: Path, proposal: Path, signing: tuple[Path, ...], as_json: bool) -> None:
    """Bring in what was signed elsewhere with --to: so the policy office's key never comes near the online one."""
    with faults():
        version = _repository(folder).take(proposal, _signers(signing), datetime.now(UTC))
    _answer(as_json, f"{proposal}: taken in; timestamp {version}", timestamp=version)


@repo.command(
    epilog="\b\nExamples:\n  gated-hq repo renew /srv/gated --sign online.key\n"
    "  gated-hq repo renew /srv/gated --sign online.key --sign targets.key --past 40211"
)
@_FOLDER
@_SIGN
@click.option("--past", type=click.IntRange(1), default=None, metavar="VERSION", help="After an older copy came back.")
@_JSON
def renew(folder: Path, signing: tuple[Path, ...], past: int | None, as_json: bool) -> None:
    """Sign the timestamp anew, and whatever has lived two thirds of its life and whose keys are given.

    --past: HQ was set back to an older copy, and lanes refuse it (`rolled_back`) because they know versions up to
    VERSION. Everything whose keys are given is signed with greater ones.
    """
    with faults():
        version = _repository(folder).put({}, _signers(signing), datetime.now(UTC), past=past or 0)
    _answer(as_json, f"{folder}: renewed; timestamp {version}", timestamp=version)


@repo.command(
    epilog="\b\nExamples:\n  gated-hq repo rotate /srv/gated online --out old/online.pub --in new/online.key \\\n"
    "      --sign root-1.key --sign root-3.key --sign targets.key --sign lift.key --sign old/online.key\n"
    "  gated-hq repo rotate /srv/gated root --out root-2.pub --in new/root-4.key --sign root-1.key --sign root-3.key"
)
@_FOLDER
@click.argument("role")
@click.option("--out", "old", type=_FILE, multiple=True, metavar="FILE", help="A key to take away: .pub or .key.")
@click.option("--in", "new", type=_FILE, multiple=True, metavar="FILE", help="A key to add; a .key signs as well.")
@click.option("--threshold", type=click.IntRange(1, 20), help="How many must sign from now on; as before otherwise.")
@_SIGN
@_JSON
def rotate(
    folder: Path,
    role: str,
    old: tuple[Path, ...],
    new: tuple[Path, ...],
    threshold: int | None,
    signing: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Give ROLE other keys: root, targets, timestamp, snapshot, people, control, control-base; or online, which is
    every role that the online key signs for.

    Sign with root's keys (targets' for people, control and control-base), with the new ones and, where they are still
    there, the old ones: then no lane refuses anything in between.
    """
    from gated.hq.repository import ONLINE

    if not old and not new and threshold is None:
        raise click.UsageError("give --out, --in or --threshold")
    with faults():
        repository = _repository(folder)
        before = {state.role: state for state in repository.roles(cut_short=True)}
        named = before.get("timestamp" if role == ONLINE else role)
        if named is None:
            fail(f"{role}: no such role; there are {', '.join((*before, ONLINE))}")
        repository.rotate(
            role,
            [_public(file) for file in old],
            [_public(file) for file in new],
            threshold or named.threshold,
            _signers([*signing, *(file for file in new if file.suffix == ".key")]),
            datetime.now(UTC),
        )
        after = next(state for state in repository.roles() if state.role == named.role)
    root = next(state for state in repository.roles() if state.role == "root").version
    text = (
        f"{role}: {after.threshold} of {len(after.keys)} keys: {', '.join(key[:8] for key in after.keys)}; root {root}"
    )
    _answer(as_json, text, role=role, threshold=after.threshold, keys=after.keys, root=root)


def _public(file: Path) -> bytes:
    """The public half of a key file. A secret key is never taken for a public one, which all the world may read."""
    from gated.hq.keys import public

    if file.suffix == ".key":
        return _signers([file]).publics()[0]
    if file.suffix == ".pub":
        return public(file)
    raise click.UsageError(f"{file}: a public key ends in .pub, a secret one in .key")
