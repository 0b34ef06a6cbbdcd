"""The documents keep up with the code: paths exist, links lead somewhere, every command and option is explained."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest

from gated import config, sections
from gated.cli import COMMANDS, gated
from gated.daemon.plan import SECTIONS, FaceSettings, FingerSettings, PolicyFile, Shape
from gated.lane.settings import Timing

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
REFERENCE = (ROOT / "config/lane.toml").read_text()


def test_every_path_in_the_walk_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    paths = set(re.findall(r"`((?:gated|drivers|models|config|systemd|tests|docs)/[\w./-]+)", text))
    assert len(paths) > 20
    missing = [path for path in paths if not (ROOT / path.split(":")[0]).exists()]
    assert not missing, missing


def test_the_walk_is_in_order() -> None:
    """Eleven steps, from the reader to HQ."""
    text = (ROOT / "docs/architecture.md").read_text()
    steps = re.findall(r"^(\d+)\. `?(\S+?)`?[ :,]", text, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 12))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_shows_every_top_folder() -> None:
    text = (ROOT / "README.md").read_text()
    for folder in ("gated", "drivers", "models", "config", "systemd", "tests/hw_sim"):
        assert f"{folder}/" in text
    for file in sorted((ROOT / "gated").iterdir()):
        if file.is_dir() and (file / "__init__.py").exists():
            assert f"gated/{file.name}/" in text, f"README.md does not say what gated/{file.name}/ is"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text())) | set(
            re.findall(r"^ +make ([a-z-]+)", page.read_text(), re.MULTILINE)
        )
        assert named <= targets, f"{page.name}: make {named - targets}"


# -- commands ---------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """`status`, `service on`, `service off` ..."""
    for name in COMMANDS:
        command = gated.get_command(click.Context(gated), name)
        yield name
        if isinstance(command, click.Group) and name != "lab":
            yield from (f"{name} {sub}" for sub in command.commands)


def test_every_command_is_explained() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    for command in commands():
        name, _, sub = command.partition(" ")
        row = next((line for line in text.splitlines() if line.startswith(f"| `gated {name}")), "")
        assert row, f"docs/cli.md has no row for gated {name}"
        assert sub in row, f"docs/cli.md does not name gated {command}"


def test_commands_that_are_shown_exist() -> None:
    known = set(COMMANDS)
    for page in PAGES:
        text = page.read_text()
        shown = set(re.findall(r"^ {4}(?:sudo )?(?:/opt/gated/bin/)?gated ([a-z]+)", text, re.MULTILINE))
        shown |= set(re.findall(r"`gated ([a-z]+)\b(?![^`]* v[0-9]`)", text))
        assert shown <= known, f"{page.name}: gated {shown - known}"


# -- options ------------------------------------------------------------------------------------------------


def section_text(name: str) -> str:
    """What lane.toml says between [name] and the next section (also a commented one)."""
    found = re.search(rf"^\[{name}\]\n(.*?)(?=^(?:# )?\[|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"config/lane.toml has no [{name}]"
    return found[1]


def drivers(kind: str) -> Iterator[type[Any]]:
    for file in sorted((ROOT / "drivers" / kind).glob("[a-z]*.py")):
        yield importlib.import_module(f"drivers.{kind}.{file.stem}").Settings


OPTIONS: list[tuple[str, type[Any]]] = [
    ("lane", sections.Identity),
    ("lane", Shape),
    ("timing", Timing),
    ("policy", PolicyFile),
    ("face", FaceSettings),
    ("finger", FingerSettings),
    ("store", sections.Store),
    ("keys", sections.Keys),
    ("uplink", sections.Uplink),
    ("control", sections.Control),
    ("models", sections.Models),
    ("log", sections.Log),
    ("metrics", sections.Metrics),
    *((name, settings) for name in SECTIONS if name != "passport_b" for settings in drivers(name)),
]


@pytest.mark.parametrize(("section", "settings"), OPTIONS, ids=lambda part: getattr(part, "__module__", part))
def test_every_option_is_explained(section: str, settings: type[Any]) -> None:
    text = section_text(section)
    for option in fields(settings):
        at = re.search(rf"^(?:# )?{option.name} = ", text, re.MULTILINE)
        assert at, f"config/lane.toml does not explain [{section}] {option.name}"
        before = text[: at.start()].rstrip("\n").splitlines()
        assert before and any(line.startswith("# ") for line in before[-6:]), (
            f"[{section}] {option.name} has no comment"
        )


@pytest.mark.parametrize("driver", ["libfprint", "usb_image", "zfm"])
def test_each_fingerprint_reader_can_be_copied_from_the_reference(driver: str, tmp_path: Path) -> None:
    """Its block, uncommented in place of the others, is all its options at their defaults."""
    section = section_text("fingerprint")
    blocks = re.split(r'^(?=(?:# )?driver = ")', section, flags=re.MULTILINE)
    (block,) = [each for each in blocks if re.match(rf'(?:# )?driver = "{driver}"', each)]
    lines = re.findall(r"^(?:# )?(\w+ = .*)$", block, re.MULTILINE)
    (tmp_path / "lane.toml").write_text(REFERENCE.replace(section, "\n".join(lines) + "\n"))
    settings = importlib.import_module(f"drivers.fingerprint.{driver}").Settings
    read = config.load(tmp_path / "lane.toml").section("fingerprint")
    assert read.text("driver") == driver
    assert {line.split(" = ")[0] for line in lines[1:]} == {each.name for each in fields(settings)}
    needed = {"port": "/dev/gated/fingerprint"} if driver == "zfm" else {}
    assert read.into(settings) == settings(**needed)


def test_no_option_is_explained_that_nobody_reads() -> None:
    for section in {name for name, _ in OPTIONS}:
        known = {f.name for name, settings in OPTIONS if name == section for f in fields(settings)} | {"driver"}
        shown = set(re.findall(r"^(?:# )?(\w+) = ", section_text(section), re.MULTILINE))
        assert shown <= known, f"[{section}] {shown - known}"


@pytest.mark.parametrize(
    ("section", "settings"),
    [pair for pair in OPTIONS if pair[0] in ("timing", "store", "control", "models", "log", "face", "finger")],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_the_defaults_that_are_shown_are_the_defaults(section: str, settings: type[Any]) -> None:
    shown = config.load(ROOT / "config/lane.toml").section(section).into(settings)
    for option in fields(settings):
        assert option.default is MISSING or getattr(shown, option.name) == option.default, f"[{section}] {option.name}"


# -- pages that are drawn ------------------------------------------------------------------------------------


def test_drawn_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run make docs"
