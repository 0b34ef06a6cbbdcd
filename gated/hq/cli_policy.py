"""`gated-hq policy`: the policy office signs a policy, and it is published. Which lanes take it: docs/trust.md."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gated.hq.cli import fail
from gated.hq.cli_repo import faults

if TYPE_CHECKING:
    from gated.policyfile import Policy

TARGET = "policy/tw.toml"
_FILE = click.Path(path_type=Path, dir_okay=False)
_GIVEN = click.Path(path_type=Path, dir_okay=False, exists=True)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


@click.group()
def policy() -> None:
    """The policy: sign it on a machine without a network, then publish it.

    \b
    Examples:
      gated-hq policy key /media/stick/policy
      gated-hq policy sign tw.toml --key /media/stick/policy/policy.key
      gated-hq policy publish tw-4.toml /srv/gated --public policy.pub --sign targets.key --sign online.key
    """


@policy.command("key", epilog="\b\nExample:\n  gated-hq policy key /media/stick/policy")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def make_key(folder: Path) -> None:
    """Make the policy office's key in DIR: policy.key is secret (mode 0600), policy.pub goes to every lane.

    Do this on a machine without a network, and keep policy.key apart from targets.key: whoever has both, and the online
    key, decides who may pass.
    """
    from gated.hq.keys import make_signing

    with faults():
        make_signing(folder, ("policy",))
    click.echo(f"{folder / 'policy.key'}  SECRET  signs policies: the policy office, offline")
    click.echo(f"{folder / 'policy.pub'}  goes to every lane: [keys] policy_public")


@policy.command(
    epilog="\b\nExamples:\n  gated-hq policy sign tw.toml --key policy.key\n"
    "  gated-hq policy sign tw.toml --key policy.key --out /media/stick/tw.toml"
)
@click.argument("file", type=_GIVEN)
@click.option("--key", required=True, type=_FILE, help="The policy office's secret key.")
@click.option("--out", type=_FILE, help="Where the signed policy goes; else beside FILE, as NAME-EDITION.toml.")
@_JSON
def sign(file: Path, key: Path, out: Path | None, as_json: bool) -> None:
    """Prove a policy, its own examples among them, and sign it. The signature is the last line of a copy.

    What a lane would refuse is not signed. Nothing is ever overwritten: each edition is a file of its own.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from gated.hq.keys import secret
    from gated.wire import policysign

    with faults():
        data = policysign.body_of(file.read_bytes())
        read = _read(data, file)
        private = Ed25519PrivateKey.from_private_bytes(secret(key))
        rules = read.rules
        out = out or file.with_name(f"{file.stem}-{rules.edition}.toml")
        try:
            with out.open("xb") as made:
                made.write(policysign.signed(private, data))
        except FileExistsError:
            fail(
                f"{out} exists, and a signed policy is never overwritten: count edition up, or name another with --out"
            )
    answer = {"file": str(out), "version": rules.version, "edition": rules.edition, "examples": len(read.examples)}
    text = (
        f"{out}: {rules.version}, edition {rules.edition}, signed; {len(read.examples)} examples came out as they say"
    )
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else text)


@policy.command(
    epilog="\b\nExamples:\n  gated-hq policy publish tw-4.toml /srv/gated --public policy.pub --sign targets.key"
    " --sign online.key\n"
    "  gated-hq policy publish tw-4.toml copy-of-gated --public policy.pub --sign targets.key --to /media/stick/tw"
)
@click.argument("file", type=_GIVEN)
@click.argument("repo", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--public", "public_file", required=True, type=_FILE, help="policy.pub, as the lanes have it.")
@click.option("--as", "path", default=TARGET, show_default=True, metavar="TARGET", help="[policy] signed of the lanes.")
@click.option(
    "--sign", "signing", type=_FILE, multiple=True, required=True, metavar="KEYFILE", help="A secret key. Repeatable."
)
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Sign into this folder, without the online key."
)
@_JSON
def publish(
    file: Path, repo: Path, public_file: Path, path: str, signing: tuple[Path, ...], to: Path | None, as_json: bool
) -> None:
    """Put a signed policy into the repository at FOLDER; lanes take it between two passengers.

    Refused is what every lane would refuse: no signature of this key, a policy that fails its own checks, an edition
    that is not higher than the one that is published, or has its name.
    """
    from gated.hq.keys import public
    from gated.hq.repository import Repository, Signers
    from gated.wire import policysign

    with faults():
        data, office = file.read_bytes(), public(public_file)
        if not policysign.verify(office, data):
            fail(f"{file}: not signed by the key of {public_file}; gated-hq policy sign does")
        rules = _read(data, file).rules
        repository, now = Repository(repo), datetime.now(UTC)
        before = repository.target(path)
        # What somebody else put there counts for nothing, or a thief's highest edition would be the last one.
        version, edition = _names(before) if before is not None and policysign.verify(office, before) else ("", 0)
        if edition >= rules.edition:
            fail(f"{file} is edition {rules.edition}, and {edition} ({version}) is published: count edition up")
        if version == rules.version:
            fail(
                f"{file} is called {version}, as edition {edition} that is published: records could not tell them apart"
            )
        if to is not None:
            repository.propose({path: data}, Signers.of(signing), now, to)
            text = f"{path}: to be {rules.version}, signed in {to}: bring it in with gated-hq repo take"
            answer = {"target": path, "version": rules.version, "edition": rules.edition, "proposal": str(to)}
        else:
            timestamp = repository.put({path: data}, Signers.of(signing), now)
            text = f"{path}: {rules.version}, edition {rules.edition}, published; timestamp {timestamp}"
            answer = {"target": path, "version": rules.version, "edition": rules.edition, "timestamp": timestamp}
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else text)


def _names(data: bytes) -> tuple[str, int]:
    """Version and edition of a policy that was published, whether or not this program would still take it: a newer one
    must be able to follow it. Of what is none: nothing."""
    import tomllib

    try:
        tree = tomllib.loads(data.decode("utf-8"))
        return str(tree["version"]), int(tree["edition"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", 0


def _read(data: bytes, path: Path) -> "Policy":
    """The policy of a file's bytes. Ends the command where it is none."""
    from gated.config import ConfigError
    from gated.policyfile import POLICY_BYTES_MAX, parse_policy

    if len(data) > POLICY_BYTES_MAX:
        fail(f"{path} is longer than the {POLICY_BYTES_MAX} bytes that a lane takes")
    try:
        return parse_policy(data.decode("utf-8"), path)
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8 text")
    except ConfigError as wrong:
        fail(str(wrong))
