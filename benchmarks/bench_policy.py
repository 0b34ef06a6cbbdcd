"""How many passengers a second the policy judges on one core, and what its explanation costs where it is asked for.

Beside it in the same run, for the same people and with the same answers: a plain interpreter of conditions in a table,
which is what one would write instead; the package `rule-engine` (BSD), which is what one would install instead, in a
process of its own from a virtual environment that is made for this run (without a network, or with `--no-peer`, it is
left out, and said to be); and the least that any such policy costs in Python, a call of as many empty functions. The
two others are given their facts ready made: the age in years, whether a permit holds, whether a face matches.

    python -m benchmarks.bench_policy [--count N] [--rounds N] [--peer PYTHON | --no-peer] [--json]
"""

import argparse
import json
import operator
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gated.lane import entitlement, policy
from gated.lane.evidence import Evidence
from gated.lane.explain import explain
from gated.lane.freshness import of_stand
from gated.lane.rules import EXIT, Rules
from gated.lane.specimen import evidence_of
from tests.law_claims import LAW, LEAVES_ONLY, somebody
from tests.policy_table import DOCUMENT, TABLE

WANTED_PER_S = 50_000
PEER = "rule-engine==5.1.0"
INSTALL_S_MAX = 120
PEER_S_MAX = 600
REASONS = tuple(rule.__name__ for rule in policy.BEFORE_EXIT)


@dataclass(frozen=True)
class Case:
    """One passenger, again and again."""

    name: str
    evidence: Evidence
    answer: str
    """The rule that refers them; empty: none does."""


def cases() -> list[Case]:
    """Who passes, of every category both ways; and of every reason one whom it refers."""
    found = [
        _case(f"grant: {category}, {way}", evidence_of(somebody(category, way), LAW))
        for category in DOCUMENT
        for way in ("exit", "entry")
        if category not in LEAVES_ONLY or way == EXIT
    ]
    assert not any(each.answer for each in found), "everybody of them passes"
    for reason in REASONS:
        row = next((r for r in TABLE if r.expect == reason and r.is_known_kind and r.enrolled and not r.law), None)
        if row is not None and not row.weak_face and row.renewed != "alone":
            case = _case(f"refusal: {reason}", evidence_of(row, LAW))
            assert case.answer == reason, f"{row.name} is refused for {case.answer}"
            found.append(case)
    return found


def _case(name: str, evidence: Evidence) -> Case:
    verdict = policy.judge(evidence, LAW)
    return Case(name, evidence, "" if verdict.reason == "all_rules_kept" else verdict.reason)


# -- what one would write instead ----------------------------------------------------------------------------------

CONDITIONS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("clock_is_trusted", (("clock_trusted", "==", "yes"),)),
    ("document_in_force", (("expires", ">=", "day"),)),
    ("holder_is_enrolled", (("enrolled", "==", "yes"),)),
    ("category_is_known", (("category", "in", "categories"),)),
    ("category_is_in_force", (("since", "<=", "day"), ("day", "<=", "until"))),
    ("cache_is_recent_enough", (("cache_rank", "<=", "cache_rank_max"),)),
    ("document_is_known", (("kind", "in", "kinds"),)),
    ("document_fits_category", (("kind", "in", "kinds_of_category"),)),
    ("document_fits_direction", (("kind", "in", "kinds_this_way"),)),
    ("document_fits_place", (("place", "in", "places"),)),
    ("old_enough", (("age", ">=", "age_min"),)),
    ("tall_enough", (("height", ">=", "height_min"),)),
    ("enrolment_fits_category", (("category", "in", "categories_of_origin"),)),
    *((name, ((name, "==", "yes"),)) for name in REASONS[13:]),
)
"""Rule, and its conditions: fact, comparison, fact. All must hold."""
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    "in": lambda one, many: one in many,
}


def interpret(facts: dict[str, Any]) -> str:
    """The first rule that is broken, by the table; empty: none is."""
    for name, conditions in CONDITIONS:
        for left, compare, right in conditions:
            if not _COMPARE[compare](facts[left], facts[right]):
                return name
    return ""


def facts_of(e: Evidence, rules: Rules) -> dict[str, Any]:
    """What table and engine are told, ready made, in numbers and words alone."""
    assert e.traveller is not None and e.document is not None
    category, size = entitlement.category_of(e, rules), rules.size(e.day)
    row, origin = rules.matrix.get(e.traveller.category, {}), rules.origins.get(e.traveller.origin)
    kind = rules.kind_of(e.document) or ""
    facts: dict[str, Any] = {
        "yes": 1,
        "clock_trusted": int(e.clock_trusted),
        "enrolled": 1,
        "day": e.day.toordinal(),
        "expires": e.document.expires_on(e.day).toordinal(),
        "category": e.traveller.category,
        "categories": sorted(rules.categories),
        "since": category.since.toordinal(),
        "until": category.until.toordinal(),
        "cache_rank": of_stand(rules.freshness, e.cache, e.opened).rank,
        "cache_rank_max": category.cache_until.rank,
        "kind": kind,
        "kinds": sorted(rules.documents),
        "kinds_of_category": sorted(name for name, cell in row.items() if cell.entry or cell.exit),
        "kinds_this_way": sorted(name for name, cell in row.items() if cell.at(e.direction)),
        "place": e.place,
        "places": sorted(row[kind].at(e.direction)) if kind in row else [],
        "age": entitlement.age_years(e.traveller.birth, e.day),
        "age_min": size.age_years_min,
        "height": e.traveller.height_cm or (999 if "height" in category.may_miss else 0),
        "height_min": size.height_cm_min,
        "categories_of_origin": sorted(origin.categories) if origin else [],
    }
    return facts | {rule.__name__: int(rule(e, rules)) for rule in policy.BEFORE_EXIT[13:]}


# -- what one would install instead --------------------------------------------------------------------------------

ENGINE = """
import json, sys, time
import rule_engine

told = json.load(sys.stdin)
rules = [(name, rule_engine.Rule(text)) for name, text in told["rules"]]

def judged(facts):
    return next((name for name, rule in rules if not rule.matches(facts)), "")

rates = {}
for name, facts, answer in told["cases"]:
    if judged(facts) != answer:
        sys.exit(f"{name}: {judged(facts)!r}, not {answer!r}")
    best = float("inf")
    for _ in range(told["rounds"]):
        began = time.perf_counter()
        for _ in range(told["count"]):
            judged(facts)
        best = min(best, time.perf_counter() - began)
    rates[name] = told["count"] / best
print(json.dumps(rates))
"""


def engine(python: str, people: Sequence[Case], count: int, rounds: int) -> dict[str, float]:
    """Verdicts a second of `rule-engine`, by case. Raises `OSError`, `subprocess.SubprocessError`."""
    texts = [(name, " and ".join(" ".join(each) for each in conditions)) for name, conditions in CONDITIONS]
    told = {
        "rules": texts,
        "cases": [(each.name, facts_of(each.evidence, LAW), each.answer) for each in people],
        "count": count,
        "rounds": rounds,
    }
    done = subprocess.run(
        [python, "-c", ENGINE], input=json.dumps(told), capture_output=True, text=True, check=True, timeout=PEER_S_MAX
    )
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def installed(folder: Path) -> str:
    """An interpreter with the peer. Raises `OSError`, `subprocess.SubprocessError`."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER],
        check=True,
        capture_output=True,
        timeout=INSTALL_S_MAX,
    )
    return python


# -- measuring -----------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One thing to be done, and the least time that it took."""

    row: dict[str, Any]
    key: str
    run: Callable[[], object]
    count: int
    best_s: float = float("inf")

    def again(self) -> None:
        """Once more."""
        began = time.perf_counter()
        for _ in range(self.count):
            self.run()
        self.best_s = min(self.best_s, time.perf_counter() - began)
        self.row[self.key] = self.count / self.best_s


def _empty(_: Evidence, __: Rules) -> bool:
    return True


def chain(evidence: Evidence, rules: Rules, length: int) -> Callable[[], object]:
    """A call of so many empty functions, and nothing else."""
    functions = (_empty,) * length

    def run() -> None:
        for each in functions:
            each(evidence, rules)

    return run


def measure(count: int, rounds: int, peer: str | None) -> dict[str, Any]:
    """Every case, everybody side by side. `peer`: an interpreter that has `rule-engine`."""
    load_before = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    people = cases()
    engines = engine(peer, people, max(1, count // 50), max(1, rounds // 3)) if peer else {}
    everything: list[Measured] = []
    for case in people:
        e, facts = case.evidence, facts_of(case.evidence, LAW)
        assert interpret(facts) == case.answer, f"{case.name}: the table says {interpret(facts)!r}"
        asked = REASONS.index(case.answer) + 1 if case.answer else len(REASONS)
        row = {"case": case.name, "rules_asked": asked, "engine_per_s": engines.get(case.name)}
        rows.append(row)
        everything += [
            Measured(row, "judge_per_s", partial(policy.judge, e, LAW), count),
            Measured(row, "explain_per_s", partial(explain, e, LAW), max(1, count // 10)),
            Measured(row, "table_per_s", partial(interpret, facts), count),
            Measured(row, "empty_calls_per_s", chain(e, LAW, asked), count),
        ]
    for _ in range(rounds):  # all in turn: what disturbs a second of the run disturbs no figure
        for each in everything:
            each.again()
    return {
        "cases": rows,
        "slowest_judge_per_s": min(each["judge_per_s"] for each in rows),
        "wanted_per_s": WANTED_PER_S,
        "peer": PEER if engines else None,
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
    }


def table(told: dict[str, Any]) -> str:
    """The figures in words."""
    machine = told["machine"]
    width = max(len(each["case"]) for each in told["cases"])
    lines = [
        f"Python {machine['python']}, {machine['cpus']} CPUs ({machine['architecture']}), "
        f"load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after; verdicts a second on one core",
        f"{'':{width}}{'rules':>7}{'judge':>11}{'explain':>11}{'table':>11}{'engine':>11}{'empty calls':>13}",
    ]
    for each in told["cases"]:
        engined = f"{each['engine_per_s']:,.0f}" if each["engine_per_s"] else "-"
        lines.append(
            f"{each['case']:{width}}{each['rules_asked']:>7}{each['judge_per_s']:>11,.0f}{each['explain_per_s']:>11,.0f}"
            f"{each['table_per_s']:>11,.0f}{engined:>11}{each['empty_calls_per_s']:>13,.0f}"
        )
    lines.append(f"the slowest verdict: {told['slowest_judge_per_s']:,.0f} a second, wanted {told['wanted_per_s']:,}")
    lines.append(
        f"engine: {told['peer']}; its facts and the table's are ready made"
        if told["peer"]
        else f"engine: {PEER} is left out: it could not be installed, or nobody wanted it"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a verdict takes longer than is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=250, help="verdicts a run: few, since others use the core too")
    parser.add_argument("--rounds", type=int, default=60, help="runs, the best of which counts")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has rule-engine")
    parser.add_argument("--no-peer", action="store_true", help="leave rule-engine out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gated-bench-") as folder:
        python = options.peer
        if python is None and not options.no_peer:
            try:
                python = installed(Path(folder))
            except (OSError, subprocess.SubprocessError) as error:
                print(f"bench_policy: {PEER} could not be installed: {error}", file=sys.stderr)
        told = measure(options.count, options.rounds, python)
    print(json.dumps(told, indent=2) if options.json else table(told))
    return 0 if told["slowest_judge_per_s"] >= WANTED_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
