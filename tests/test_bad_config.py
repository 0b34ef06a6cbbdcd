"""What a lane cannot start with: `gated run` names file, line and option, what is allowed, and leaves with a code."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hw_sim.site import POLICY
from tests.lane_rig import ROOT, Rig, toml_of
from tests.networks import networks

NURSERY = """
import os, signal, sys, json
import gated.daemon.app, gated.biometrics.face, gated.cli.run, gated.cli, gpiozero.pins.native
for folder in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        said = os.open(folder + "/said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        if os.path.exists(folder + "/environment"):
            os.environ.update(json.load(open(folder + "/environment")))
        sys.argv = ["gated", "--config", folder + "/lane.toml", "run"]
        code = 70
        try:
            gated.cli.main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""`gated run` in a process of its own for each folder, forked so that its libraries are imported once; one that does
not end by itself is ended."""

Options = dict[str, dict[str, Any]]
Change = Callable[[Options, Path], None]
"""(options, folder of this case)."""


def options(section: str, **values: object) -> Change:
    """Set options of a section, or take them out where the value is None."""

    def change(all_options: Options, _: Path) -> None:
        table = all_options.setdefault(section, {})
        for name, value in values.items():
            if value is None:
                del table[name]
            else:
                table[name] = value

    return change


def policy(old: str, new: str) -> Change:
    """A policy of one's own in which `old` reads `new`."""

    def change(all_options: Options, folder: Path) -> None:
        text = POLICY.read_text(encoding="utf-8")
        assert old in text
        path = folder / "policy.toml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        all_options["policy"]["file"] = str(path)

    return change


def key(name: str, data: bytes | None) -> Change:
    """Another key file, or none."""

    def change(all_options: Options, folder: Path) -> None:
        if data is not None:
            (folder / name).write_bytes(data)
        all_options["keys"][name] = str(folder / name)

    return change


def network(name: str, spoil: Callable[[bytes], bytes | None]) -> Change:
    """A folder of networks in which one is spoilt, or missing."""

    def change(all_options: Options, folder: Path) -> None:
        for file in networks().glob("*.onnx"):
            if file.stem != name:
                (folder / file.name).symlink_to(file)
            elif (spoilt := spoil(file.read_bytes())) is not None:
                (folder / file.name).write_bytes(spoilt)
        all_options["models"]["dir"] = str(folder)

    return change


def no_section(name: str) -> Change:
    """A section is not there."""

    def change(all_options: Options, _: Path) -> None:
        del all_options[name]

    return change


def together(*changes: Change) -> Change:
    """Several changes."""

    def change(all_options: Options, folder: Path) -> None:
        for each in changes:
            each(all_options, folder)

    return change


def reader(driver: str = "zfm", **values: object) -> Change:
    """The lane has a fingerprint reader."""
    port = {"port": "/dev/ttyS0"} if driver == "zfm" else {}
    return options("fingerprint", driver=driver, **port, **values)


def environment(**variables: str) -> Change:
    """Variables of this process alone."""

    def change(_: Options, folder: Path) -> None:
        (folder / "environment").write_text(json.dumps(variables), encoding="utf-8")

    return change


def no_folder_for_the_socket(all_options: Options, folder: Path) -> None:
    all_options["control"]["socket"] = str(folder / "run" / "control.sock")


@dataclass(frozen=True)
class Case:
    """A change, and what is said of it. `line`: what the line that is named begins with; "" where none is."""

    change: Change
    says: tuple[str, ...]
    line: str = ""
    file: str = "lane.toml"
    code: int = 78


MAYBE = "maybe, without quotes"

CASES = {
    "unknown option": Case(
        options("camera", freze_s_max=3.0), ("[camera] freze_s_max", "did you mean 'freeze_s_max'"), "freze_s_max"
    ),
    "unknown option of a shared section": Case(
        options("store", journal_dayz=3), ("[store] journal_dayz", "did you mean 'journal_days'"), "journal_dayz"
    ),
    "unknown section": Case(options("camra", driver="opencv"), ("[camra]", "did you mean 'camera'"), "[camra]"),
    "wrong type": Case(
        options("timing", admit_s="soon"), ("[timing] admit_s", 'is "soon", must be a number'), "admit_s"
    ),
    "wrong type in a pin": Case(
        options("door", b_request={"pin": True}), ("[door] b_request", "must be", "a whole number"), "b_request"
    ),
    "out of range": Case(options("models", threads=0), ("[models] threads", "1 to 64"), "threads"),
    "out of range for faces": Case(options("face", quality_min=1.5), ("[face] quality_min", "0 to 1"), "quality_min"),
    "missing option": Case(options("passport", port=None), ("[passport] port", "is missing: text"), "[passport]"),
    "missing section": Case(no_section("camera"), ("[camera]", "cannot do without it")),
    "no such driver": Case(
        options("passport", driver="elyctiss"),
        ("[passport] driver", "no driver 'elyctiss'", "elyctis, lines, rte"),
        'driver = "elyctiss"',
    ),
    "a driver that is a path": Case(
        options("passport", driver="../lines"), ("[passport] driver", "name of a file"), 'driver = "../lines"'
    ),
    "simulated pins": Case(
        options("door", factory="hw_sim"), ("[door] factory", "not one that moves real pins"), "factory"
    ),
    "a film for a camera": Case(
        options("camera", source="/tmp/film.mp4"), ("[camera] source", "a gate needs a camera"), "source"
    ),
    "no such threshold": Case(
        options("face", threshold="fmr_1e-9"), ("[face] threshold", "fmr_1e-9", "fmr_1e-4"), "threshold"
    ),
    "no such fingerprint driver": Case(
        reader("zmf"),
        ("[fingerprint] driver", "no driver 'zmf'", "libfprint, usb_image, zfm"),
        'driver = "zmf"',
    ),
    "unknown option of a fingerprint reader": Case(
        reader(baud_rates=9600), ("[fingerprint] baud_rates", "did you mean 'baud_rate'"), "baud_rates"
    ),
    "option of another fingerprint reader": Case(
        reader("usb_image", scan_type="any"), ("[fingerprint] scan_type", "not a known option"), "scan_type"
    ),
    "wrong type of a fingerprint reader": Case(
        reader(tries="many"), ("[fingerprint] tries", 'is "many", must be a whole number'), "tries"
    ),
    "impossible mode of a fingerprint reader": Case(
        reader(mode="pictures"), ("[fingerprint]", 'mode "pictures" is image or sensor'), "mode"
    ),
    "USB reader that asks for authentication": Case(
        reader("usb_image", vendor_id=0x045E, product_id=0x00CA), ("[fingerprint]", "05ba:000a"), "vendor_id"
    ),
    "a picture for a finger": Case(
        together(reader("libfprint"), environment(FP_VIRTUAL_IMAGE="/tmp/finger")),
        ("[fingerprint]", "FP_VIRTUAL_IMAGE"),
        "[fingerprint]",
    ),
    "no such threshold of fingers": Case(
        together(reader(), options("finger", threshold="fmr_1e-9")),
        ("[finger] threshold", "fmr_1e-9", "fmr_1e-3"),
        'threshold = "fmr_1e-9"',
    ),
    "fingers without a reader": Case(
        options("finger", threshold="fmr_1e-3"), ("[finger]", "no [fingerprint] reader"), "[finger]"
    ),
    "a weak face that is not weaker": Case(
        options("face", weak="fmr_1e-5"), ("[face] weak", '"fmr_1e-5" is no weaker than threshold "fmr_1e-4"'), "weak"
    ),
    "no such threshold of weak faces": Case(
        options("face", weak="fmr_1"), ("[face] weak", '"fmr_1"', '"fmr_1e-2"'), "weak"
    ),
    "placements longer than all of them together": Case(
        options("timing", finger_s=30.0, fingers_s=30.0), ("[timing] fingers_s", "above finger_s"), "fingers_s"
    ),
    "no policy file": Case(
        options("policy", file="/nowhere/tw.toml"), ("[policy] file", "/nowhere/tw.toml", "No such file"), "file"
    ),
    "policy with an unknown option": Case(
        policy("finger = true", "fingers = true"),
        ("[categories] national_abroad.fingers", "did you mean 'finger'"),
        "fingers",
        "policy.toml",
    ),
    "policy with what cannot be missing": Case(
        policy('may_miss = ["chip", "face_pad", "finger_pad", "height"]', 'may_miss = ["chop"]'),
        ("may_miss", "chop", "chip"),
        'may_miss = ["chop"]',
        "policy.toml",
    ),
    "policy with a wrong type": Case(
        policy("age_years_min = 14", 'age_years_min = "ten"'),
        ("age_years_min", "a whole number"),
        "    { since",
        "policy.toml",
    ),
    "policy in which no finger replaces a face": Case(
        policy("fingers_alone = 2", "fingers_alone = 0"),
        ("[fingers_alone]: is 1 to 10, not 0",),
        "fingers_alone",
        "policy.toml",
    ),
    "policy with a negative age": Case(
        policy("age_years_min = 14", "age_years_min = -1"),
        ("age_years_min is 0 to 120, not -1",),
        "    { since",
        "policy.toml",
    ),
    "no journal key": Case(key("journal", None), ("[keys] journal", "cannot be read: No such file"), "journal"),
    "half a cache key": Case(key("cache", b"x" * 16), ("[keys] cache", "32 bytes, found 16"), "cache"),
    "no public key of HQ": Case(key("hq_public", bytes(32)), ("[keys] hq_public", "is no public key"), "hq_public"),
    "not TOML": Case(options("log", level=MAYBE), ("is not valid TOML",), "level"),
    "missing network": Case(
        network("sface", lambda _: None), ("cannot read the network sface", "No such file", "models.obtain"), code=69
    ),
    "missing network of fingers": Case(
        together(reader(), network("leader", lambda _: None)),
        ("cannot read the network leader", "No such file", "models.obtain"),
        code=69,
    ),
    "wrong network of fingers": Case(
        together(reader(), network("leader", lambda good: good[:-1] + b"!")),
        ("is not the network leader", "expected sha256"),
        code=69,
    ),
    "wrong network": Case(
        network("yunet", lambda good: good[:-1] + b"!"),
        ("is not the network yunet", "expected sha256", "it is not loaded"),
        code=69,
    ),
    "half a network": Case(
        network("sface", lambda good: good[: 1 << 20]),
        ("is not the network sface", "expected sha256"),
        code=69,
    ),
    "no folder for the socket": Case(
        no_folder_for_the_socket, ("control.sock", "no such file", "[control] socket"), code=69
    ),
    "no folder for the store": Case(
        options("store", dir="/nowhere/at/all"), ("lane.db", "there is no folder /nowhere/at/all"), code=69
    ),
}


@dataclass(frozen=True)
class Ran:
    """One run: its exit code, what it said, and where its files are."""

    code: int
    said: str
    folder: Path


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Ran]]:
    """Every case, one after the other."""
    networks()
    rig = Rig()
    try:
        folders = {name: rig.folder / f"case-{number}" for number, name in enumerate(CASES)}
        for name, folder in folders.items():
            folder.mkdir()
            changed = copy.deepcopy(rig.options)
            CASES[name].change(changed, folder)
            text = toml_of(changed).replace(f'"{MAYBE}"', "maybe")
            (folder / "lane.toml").write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", NURSERY],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "GPIOZERO_PIN_FACTORY"},
            input=json.dumps([str(folder) for folder in folders.values()]),
            stdout=subprocess.PIPE,
            text=True,
            timeout=100,
            check=True,
        )
        codes = map(int, done.stdout.split())
        yield {
            name: Ran(code, (folder / "said").read_text(encoding="utf-8"), folder)
            for (name, folder), code in zip(folders.items(), codes, strict=True)
        }
    finally:
        rig.close()


@pytest.mark.parametrize("name", CASES)
def test_a_lane_that_cannot_start_says_what_to_change(runs: dict[str, Ran], name: str) -> None:
    case, ran = CASES[name], runs[name]
    said = ran.said.replace('\\"', '"')
    assert ran.code == case.code, said
    assert "Traceback" not in said
    for part in case.says:
        assert part in said
    if case.line:
        path = ran.folder / case.file
        found = re.search(re.escape(f"{path}:") + r"(\d+): ", said)
        assert found, said
        assert path.read_text(encoding="utf-8").splitlines()[int(found[1]) - 1].startswith(case.line)
