"""`python -m tests.hw_sim mutants`: plants dangerous mistakes in the machine; the tests must catch each.

A mistake is planted in a copy of the package tree, never in the checkout. The fast tests of the lane run first; what
they let through meets a few seeds of the soak. The tree as it is must pass all, or "caught" would mean nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.hw_sim import planted, planted_fingers, planted_gate
from tests.hw_sim.planted import Mistake

ROOT = Path(__file__).resolve().parents[2]
TREE = ("gated", "drivers", "models", "tests", "config", "setup.cfg")
"""What the tests of the lane and the soak read of the checkout."""
MISTAKES = planted.MISTAKES + planted_fingers.MISTAKES + planted_gate.MISTAKES
RUN_S_MAX = 150.0
TEST_S_MAX = 30
"""A test that takes longer hangs: a lane that wakes itself without end is caught too."""
_PYTEST = (
    *("-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-o", "addopts=", "--import-mode=importlib"),
    *("-p", "no:cacheprovider", "--hypothesis-profile=ci", f"--timeout={TEST_S_MAX}"),
)
_SOAK = ("-m", "tests.hw_sim", "soak", "--seeds", "4", "--anything", "2", "--jobs", "1", "--json")
_FIRST = re.compile(r"^(?:FAILED|ERROR) (?:tests/)?(\S+?)(?:\.py)?(?:::(.+?))?(?: - .*)?$", re.MULTILINE)
FAST = sorted(
    f"tests/{each.name}" for each in (ROOT / "tests").glob("test_lane_*.py") if each.name != "test_lane_any.py"
)
TIERS: tuple[tuple[str, ...], ...] = (
    (*_PYTEST, *FAST),
    (*_PYTEST, "tests/test_lane_any.py"),
    _SOAK,
)
"""Arguments of `python`, in the order they are tried."""


class Unfit(Exception):
    """The run itself is at fault: a mistake that is out of date, or a tree that fails as it is."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one mistake. `by` None: nothing caught it."""

    mistake: Mistake | None
    """None: the tree as it is."""
    by: str | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        assert self.mistake is not None, "only mistakes are reported"
        name, file, danger = self.mistake.name, self.mistake.file, self.mistake.danger
        return {"name": name, "file": file, "danger": danger, "caught_by": self.by, "seconds": round(self.seconds, 2)}


def copy_tree(source: Path, target: Path) -> None:
    """The part of the checkout that the tests need; compiled files come along and stay valid."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TREE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("cache", ".hypothesis"))
        else:
            shutil.copy2(source / name, target / name)


def plant(mistake: Mistake, tree: Path) -> None:
    """Put the mistake in. Raises `Unfit` where its place is not found exactly once, or what comes out is no Python."""
    path = tree / "gated" / "lane" / f"{mistake.file}.py"
    text = path.read_text(encoding="utf-8")
    count = text.count(mistake.old)
    if count != 1:
        raise Unfit(
            f"{mistake.name} is out of date: its place is found {count} times in gated/lane/{mistake.file}.py; "
            "look what became of the rule, and plant the same mistake in the code as it is now"
        )
    changed = text.replace(mistake.old, mistake.new)
    try:
        compile(changed, path.name, "exec")
    except SyntaxError as error:
        raise Unfit(f"{mistake.name} is out of date: what it makes of {path.name} is no Python ({error})") from None
    for compiled in (path.parent / "__pycache__").glob(f"{mistake.file}.*.pyc"):
        compiled.unlink()  # a change of the same length in the same second would pass for compiled already
    path.write_text(changed, encoding="utf-8")


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}


def _python(tree: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Exit code (None: it hung) and what `python ...` says in this tree."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=RUN_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own workers too
            out, _ = process.communicate()
            return None, out
        return process.returncode, out


def caught_by(tree: Path) -> str | None:
    """The first test or soak seed that fails in this tree, None where all is well. Raises `Unfit` where none ran."""
    for arguments in TIERS:
        code, out = _python(tree, arguments)
        by = _soak_caught(code, out) if arguments is _SOAK else _pytest_caught(code, out)
        if by is not None:
            return by
    return None


def _pytest_caught(code: int | None, out: str) -> str | None:
    if code == 0:
        return None
    if code is None:
        return "pytest hangs"
    first = _FIRST.search(out)
    if code not in (1, 2) or first is None:
        raise Unfit(f"pytest could not run (code {code}):\n{out[-1500:]}")
    file, test = first.groups()
    return f"{Path(file).name}: {test}" if test else f"{Path(file).name}: cannot be imported"


def _soak_caught(code: int | None, out: str) -> str | None:
    if code is None:
        return "soak: hangs"
    start = out.find("{\n")
    if code not in (0, 1) or start < 0:
        raise Unfit(f"the soak could not run (code {code}):\n{out[-1500:]}")
    answer = json.loads(out[start:])
    if answer["broken"]:
        first = answer["broken"][0]
        return f"soak: {first['kind']} seed {first['seed']} ({first['topology']})"
    return f"soak: seed {answer['hashes_differ'][0]} is not the same twice" if answer["hashes_differ"] else None


def _judge(mistake: Mistake | None, pristine: Path, scratch: Path) -> Found:
    began = time.monotonic()
    tree = scratch / (mistake.name if mistake else "as-it-is")
    try:
        copy_tree(pristine, tree)
        if mistake is not None:
            plant(mistake, tree)
        return Found(mistake, caught_by(tree), time.monotonic() - began)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _own_tree(tree: Path) -> None:
    """Raises `Unfit` where a process in this tree would import the machine from anywhere else."""
    show = "import gated.lane.machine, tests.play; print(gated.lane.machine.__file__); print(tests.play.__file__)"
    code, out = _python(tree, ["-c", show])
    files = [Path(line).resolve() for line in out.splitlines()]
    if code != 0 or len(files) != 2 or not all(file.is_relative_to(tree.resolve()) for file in files):
        raise Unfit(f"the tests would not run on the copy:\n{out}")


def hunt(mistakes: Sequence[Mistake], jobs: int) -> tuple[list[Found], float]:
    """Every mistake's fate, in the order given, and real seconds. Raises `Unfit`."""
    began = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="gated-mutants-", dir=memory if memory.is_dir() else None) as folder:
        pristine, scratch = Path(folder) / "pristine", Path(folder) / "trees"
        copy_tree(ROOT, pristine)
        _own_tree(pristine)
        with ThreadPoolExecutor(jobs) as pool:
            running: dict[Future[Found], Mistake | None] = {
                pool.submit(_judge, each, pristine, scratch): each for each in (None, *mistakes)
            }
            fates: dict[str, Found] = {}
            try:
                for done in as_completed(running):
                    found = done.result()
                    if found.mistake is not None:
                        fates[found.mistake.name] = found
                    elif found.by is not None:
                        raise Unfit(f"the tree as it is fails already: {found.by}")
            except Unfit:
                pool.shutdown(cancel_futures=True)
                raise
    return [fates[each.name] for each in mistakes], time.monotonic() - began


def _chosen(names: Sequence[str]) -> list[Mistake]:
    by_name = {each.name: each for each in MISTAKES}
    assert len(by_name) == len(MISTAKES), "two mistakes have one name"
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(MISTAKES)


def _text(found: Sequence[Found], real_s: float) -> str:
    width = max(len(each.mistake.name) for each in found if each.mistake)
    lines = []
    for each in found:
        assert each.mistake is not None
        by = each.by or f"SURVIVED: {each.mistake.danger}"
        lines.append(f"{each.mistake.name:{width}}  {each.mistake.file:9}{each.seconds:6.1f} s  {by}")
    survived = sum(each.by is None for each in found)
    lines.append(f"{len(found)} mistakes planted, {len(found) - survived} caught, {survived} survived, {real_s:.0f} s")
    return "\n".join(lines)


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="This mistake alone; may be given again.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Mistakes at a time.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def mutants(only: tuple[str, ...], jobs: int, as_json: bool) -> int:
    """Plant dangerous mistakes in the machine, one at a time; exit code 1 where the tests let one through."""
    try:
        found, real_s = hunt(_chosen(only), jobs)
    except Unfit as why:
        raise click.ClickException(str(why)) from None
    survived = [each.mistake.name for each in found if each.mistake and each.by is None]
    if as_json:
        told = {"mistakes": [each.as_dict() for each in found], "survived": survived, "real_s": round(real_s, 1)}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(_text(found, real_s))
    return 1 if survived else 0


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    try:
        code = mutants.main(argv, prog_name="python -m tests.hw_sim mutants", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    return int(code or 0)
