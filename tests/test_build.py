"""What is built: the wheel holds the product's data and no simulator, and make's machinery is runnable."""

import configparser
import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("gated", "drivers", "models")


def setup() -> configparser.ConfigParser:
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    return read


def packages() -> set[str]:
    """As setuptools finds them: folders with __init__.py whose every parent has one, by the patterns of setup.cfg."""
    patterns = setup()["options.packages.find"]["include"].split()
    tops = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").exists()]
    found = set()
    for file in (file for top in tops for file in top.rglob("__init__.py")):
        parts = file.parent.relative_to(ROOT).parts
        whole = all((ROOT.joinpath(*parts[: n + 1]) / "__init__.py").exists() for n in range(len(parts)))
        if whole and any(fnmatch(".".join(parts), pattern) for pattern in patterns):
            found.add(".".join(parts))
    return found


def test_the_wheel_holds_no_simulator() -> None:
    found = packages()
    assert {name.split(".")[0] for name in found} == set(PRODUCT)
    assert "gated.lane" in found and "drivers.passport" in found


def test_every_folder_of_code_is_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel without a word."""
    found = packages()
    for top in PRODUCT:
        for file in (ROOT / top).rglob("*.py"):
            assert ".".join(file.parent.relative_to(ROOT).parts) in found, file


def test_the_wheel_holds_the_data_that_the_code_reads() -> None:
    data = setup()["options.package_data"]
    for top in PRODUCT:
        patterns = [pattern.strip() for pattern in data.get(top, "").split(",")]
        for file in (ROOT / top).rglob("*"):
            inside = file.relative_to(ROOT / top)
            generated = {"cache", "__pycache__"} & set(inside.parts)
            if file.is_file() and file.suffix != ".py" and not generated:
                assert any(fnmatch(str(inside), pattern) for pattern in patterns), f"setup.cfg leaves out {file}"


def test_scripts_can_be_run() -> None:
    for script in (".ci/run", ".ci/system"):
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    """.ci/system does nothing, not even ask apt, where the command is there, and lists what it cannot install."""
    env = {"PATH": str(tmp_path)}
    for tool in ("bash", "env"):
        (tmp_path / tool).symlink_to(
            Path("/usr/bin") / tool if (Path("/usr/bin") / tool).exists() else Path("/bin") / tool
        )
    there = subprocess.run([ROOT / ".ci/system", "bash=bash"], env=env, capture_output=True, text=True, check=False)
    assert (there.returncode, there.stdout, there.stderr) == (0, "", "")
    lacks = [str(ROOT / ".ci/system"), "no-such-command=some-package", "bash=bash"]
    absent = subprocess.run(lacks, env=env, capture_output=True, text=True, check=False)
    assert absent.returncode == 1
    assert "missing on this system: some-package" in absent.stderr and "no apt here" in absent.stderr
