"""How many machine readable zones a second: `gated.icao.mrz` beside the `mrz` package, on the same documents.

The `mrz` package is under the GPL: it is never a dependency, never imported here, and runs in a process of its own
with an interpreter of its own, from a virtual environment that is made for this run and thrown away. Without a
network (or with `--no-peer`) the comparison is left out, and said to be.

    python benchmarks/bench_mrz.py [--count N] [--rounds N] [--peer PYTHON | --no-peer] [--json]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import venv
from datetime import date, timedelta
from pathlib import Path

try:
    from gated.icao.mrz import parse, render
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from gated.icao.mrz import parse, render

PEER = "mrz==0.6.2"
INSTALL_S_MAX = 120
FORMATS = ("TD1", "TD2", "TD3", "MRV-A", "MRV-B")

# Runs in the peer's own process. One document counts as parsed when it was checked and its fields were taken.
PEER_PROGRAM = """
import json, sys, time
from mrz.checker.td1 import TD1CodeChecker
from mrz.checker.td2 import TD2CodeChecker
from mrz.checker.td3 import TD3CodeChecker
from mrz.checker.mrva import MRVACodeChecker
from mrz.checker.mrvb import MRVBCodeChecker
checkers = {"TD1": TD1CodeChecker, "TD2": TD2CodeChecker, "TD3": TD3CodeChecker,
            "MRV-A": MRVACodeChecker, "MRV-B": MRVBCodeChecker}
job = json.load(sys.stdin)
results = {}
for name, texts in job["documents"].items():
    best, accepted = float("inf"), 0
    for _ in range(job["rounds"]):
        accepted, started = 0, time.perf_counter()
        for text in texts:
            checker = checkers[name](text, check_expiry=False)
            accepted += bool(checker)
            checker.fields()
        best = min(best, time.perf_counter() - started)
    results[name] = {"per_s": len(texts) / best, "accepted": accepted}
json.dump(results, sys.stdout)
"""

Results = dict[str, dict[str, float]]


class NoPeer(Exception):
    """The package to compare with could not be had; the message says why."""


def documents(count: int, seed: int = 9303) -> dict[str, list[str]]:
    """`count` valid documents of every format: invented people, the same for every run."""
    chance = random.Random(seed)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def word(shortest: int, longest: int, alphabet: str = letters) -> str:
        return "".join(chance.choices(alphabet, k=chance.randint(shortest, longest)))

    def one(format: str) -> str:
        return "\n".join(
            render(
                format,
                issuer=chance.choice(("TWN", "JPN", "KOR", "USA", "FRA", "D", "VNM", "UTO")),
                number=word(9, 9, letters + "0123456789"),
                nationality=chance.choice(("TWN", "JPN", "KOR", "USA", "FRA", "D", "VNM", "UTO")),
                birth=date(1940, 1, 1) + timedelta(days=chance.randrange(27000)),
                sex=chance.choice("MF"),
                expiry=date(2026, 1, 1) + timedelta(days=chance.randrange(3650)),
                surname=word(3, 10),
                given_names=f"{word(3, 8)} {word(3, 6)}",
                optional=word(0, 7, letters + "0123456789"),
            )
        )

    return {format: [one(format) for _ in range(count)] for format in FORMATS}


def measure_ours(texts: dict[str, list[str]], rounds: int) -> Results:
    """The best of `rounds` runs over all documents of each format."""
    results: Results = {}
    for format, each in texts.items():
        best, accepted = float("inf"), 0
        for _ in range(rounds):
            accepted, started = 0, time.perf_counter()
            for text in each:
                accepted += parse(text).format == format
            best = min(best, time.perf_counter() - started)
        results[format] = {"per_s": len(each) / best, "accepted": accepted}
    return results


def measure_peer(python: str | None, texts: dict[str, list[str]], rounds: int) -> Results:
    """The same by the `mrz` package under `python`, or in a virtual environment of its own. Raises `NoPeer`."""
    if python is not None:
        return _ask(python, texts, rounds)
    with tempfile.TemporaryDirectory(prefix="gated-bench-") as folder:
        venv.create(folder, with_pip=True)
        own = str(Path(folder) / "bin" / "python")
        command = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S_MAX)
        except subprocess.TimeoutExpired:
            raise NoPeer(f"{PEER} was not installed within {INSTALL_S_MAX} s") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise NoPeer(f"{PEER} could not be installed: {reason}") from None
        return _ask(own, texts, rounds)


def _ask(python: str, texts: dict[str, list[str]], rounds: int) -> Results:
    job = json.dumps({"documents": texts, "rounds": rounds})
    try:
        answer = subprocess.run([python, "-c", PEER_PROGRAM], input=job, capture_output=True, text=True, check=True)
    except OSError as error:
        raise NoPeer(f"{python}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise NoPeer(f"the mrz package did not run: {reason}") from None
    results: Results = json.loads(answer.stdout)
    return results


def table(count: int, ours: Results, peer: Results | None) -> str:
    """One line a format: parses a second of each, the ratio, and how many of the valid documents each accepts."""
    lines = [f"{'format':8}{'gated /s':>12}{'accepted':>10}{'mrz /s':>12}{'accepted':>10}{'ratio':>8}"]
    for format in FORMATS:
        mine = ours[format]
        line = f"{format:8}{mine['per_s']:>12,.0f}{mine['accepted']:>6.0f}/{count:<3}"
        if peer is not None:
            theirs = peer[format]
            line += f"{theirs['per_s']:>12,.0f}{theirs['accepted']:>6.0f}/{count:<3}"
            line += f"{mine['per_s'] / theirs['per_s']:>8.1f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500, help="documents of each format (500)")
    parser.add_argument("--rounds", type=int, default=5, help="runs over them, the best of which counts (5)")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has the mrz package already")
    parser.add_argument("--no-peer", action="store_true", help="measure gated alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    texts = documents(options.count)
    ours = measure_ours(texts, options.rounds)
    peer, left_out = None, "--no-peer"
    if not options.no_peer:
        try:
            peer, left_out = measure_peer(options.peer, texts, options.rounds), ""
        except NoPeer as error:
            left_out = str(error)
    if options.json:
        result = {"documents": options.count, "gated": ours, "mrz": peer, "mrz_left_out": left_out or None}
        print(json.dumps(result, indent=2))
        return
    print(table(options.count, ours, peer))
    if peer is None:
        print(f"The mrz package is left out: {left_out}.")


if __name__ == "__main__":
    main()
