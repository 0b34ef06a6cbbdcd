"""Face and finger together: what the policy's rules let through and turn away, beside the rate that a grant states.

Nobody here has faces and fingers of the same people, so persons are chimeras: each face is given a seeded pair of
index fingers. The decision is the policy's own, with the shipped thresholds.

    python -m benchmarks.fusion PAIRS.csv [FINGERS] [--synthetic N] [--json]

PAIRS.csv as for `gated lab face evaluate`; FINGERS as for `gated lab finger evaluate`; N persons get simulated fingers.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gated.biometrics.evaluate import Comparisons, Rate, rates_over_persons, threshold_at, upper_bound
from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError
from gated.biometrics.fingerlab import Ours, laboratory_engine, listed, picture
from gated.biometrics.laboratory import BadInput, acquire, read_pairs
from gated.biometrics.laboratory import laboratory_engine as face_engine
from gated.daemon.plan import FaceSettings, FingerSettings
from gated.icao.check import Check
from gated.icao.fingers import Finger
from gated.icao.mrz import Document
from gated.lane import policy
from gated.lane.events import CacheStand, ChipRead, FaceCompared, FingerCompared, Permit, Traveller
from gated.lane.evidence import Decision, Evidence, with_found
from gated.lane.proof import TRIES_A_FINGER, next_finger, stated_fmr
from gated.lane.rules import Rules
from gated.lane.settings import Timing
from gated.policyfile import load_rules
from models.loader import CACHE
from models.manifest import ModelError, model
from models.obtain import obtain

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

POLICY = Path(__file__).parents[1] / "config/policy/tw.toml"
INDEX = (Finger.RIGHT_INDEX.value, Finger.LEFT_INDEX.value)
DAY = datetime(2026, 1, 1, tzinfo=UTC)
MODES = {
    "face alone": ("face_alone", True),
    "weak face supported": ("national", True),
    "both demanded": ("resident", True),
    "no face, two fingers": ("national", False),
}
"""The policy's category, and whether a face is enrolled."""
FINGER_TRIES = Timing().finger_tries
IMPRESSIONS, CARE = 1 + TRIES_A_FINGER, 0.8
LOOKALIKES = 20
"""Strangers whose fingers are tried with each genuine pair of faces."""
COARSE = (1e-2, 1e-1, 3e-2)
"""False match rates of face, weak face and finger at which false grants can be counted."""
COARSE_ATTEMPTS = 100_000


@dataclass(frozen=True, slots=True)
class Points:
    """The thresholds in force."""

    face: Threshold
    weak: Threshold
    finger: Threshold


@dataclass(frozen=True, slots=True, eq=False)
class Prints:
    """Prints of the index fingers of some hands. `score` (m, m): every two prints; `usable` (m,): whether the gate
    would compare it; `of` (hands, 2, impressions): their numbers."""

    score: Floats
    usable: Flags
    of: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Attempts:
    """n passages. `face` (n,): score, NaN where no face was found. `prints` (n, 2, TRIES_A_FINGER): scores of both
    index fingers, NaN for a print that is not compared. `faces`, `hands` (n, 2): whose is enrolled, whose is shown."""

    face: Floats
    prints: Floats
    faces: Indices
    hands: Indices


def shipped() -> tuple[Points, Rules]:
    """Thresholds and policy as a lane has them that changes nothing, and a category for which no face is weak."""
    face, sface, leader = FaceSettings(), model("sface").thresholds, model("leader").thresholds
    at = [(face.threshold, sface), (face.weak, sface), (FingerSettings().threshold, leader)]
    points = Points(*(Threshold(name, known[name].score, known[name].fmr) for name, known in at))
    rules = load_rules(POLICY)
    alone = replace(rules.categories["national"], weak_face=False)
    counter = rules.origins["counter"]
    return points, replace(
        rules,
        categories={**rules.categories, "face_alone": alone},
        matrix={**rules.matrix, "face_alone": rules.matrix["national"]},
        origins={**rules.origins, "counter": replace(counter, categories=counter.categories | {"face_alone"})},
    )


def claim(mode: str, rules: Rules) -> Evidence:
    """Everything but face and fingers, all in order."""
    category, face = MODES[mode]
    kind = rules.documents[next(kind for kind, cell in rules.matrix[category].items() if cell.exit)]
    document = Document("TD3", min(kind.codes), "TWN", "1", "TWN", "900101", "X", "300101", "A", "B", False, "", ())
    permits = tuple(Permit(each, date.min, date.max) for each in rules.permits)
    chip = ChipRead(1, 1, Check.SUCCESSFUL, Check.SUCCESSFUL, Check.SUCCESSFUL)
    holder = Traveller(1, category, DAY.date().replace(year=1990), frozenset(), permits, face, INDEX)
    return Evidence(
        DAY,
        DAY.date(),
        "exit",
        min(rules.places),
        document=document,
        traveller=holder,
        cache=CacheStand(1, DAY, 1, DAY),
        chip=chip,
        finger_reader=True,
    )


def passage(
    claimed: Evidence, face: float, prints: Sequence[Sequence[float]], rules: Rules, at: Points
) -> float | None:
    """The rate that the grant states, None without a grant. One look at the face; fingers as the lane asks for them.

    A finger whose print is not worth comparing (NaN) counts as one of which no print can be had."""
    evidence = claimed
    if claimed.traveller is not None and claimed.traveller.face:
        evidence = with_found(evidence, face=_face(face, at), faces=int(not np.isnan(face)))
    while (finger := next_finger(evidence, rules, FINGER_TRIES)) is not None:
        before = sum(one.finger == finger for one in evidence.fingers)
        found = _finger(finger, prints[INDEX.index(finger)][before], at.finger)
        evidence = with_found(evidence, fingers=(*evidence.fingers, found))
    if policy.judge(evidence, rules).decision is not Decision.GRANT:
        return None
    return stated_fmr(evidence, rules)


def _face(score: float, at: Points) -> FaceCompared:
    if np.isnan(score):
        return FaceCompared(1, 1, Check.UNDETERMINED)
    result = Check.SUCCESSFUL if score >= at.face.score else Check.FAILED
    return FaceCompared(
        1, 1, result, score, at.face.score, at.face.fmr, 0.0, 1, weak_threshold=at.weak.score, weak_fmr=at.weak.fmr
    )


def _finger(finger: str, score: float, at: Threshold) -> FingerCompared:
    if np.isnan(score):
        return FingerCompared(1, 1, Check.UNDETERMINED, finger=finger)
    result = Check.SUCCESSFUL if score >= at.score else Check.FAILED
    return FingerCompared(1, 1, result, score, at.score, at.fmr, finger)


def granted(attempts: Attempts, mode: str, rules: Rules, at: Points) -> Floats:
    """(n,): the rate that each grant states, NaN where there was none."""
    claimed = claim(mode, rules)
    rows = zip(attempts.face.tolist(), attempts.prints.tolist(), strict=True)
    stated = (passage(claimed, face, prints, rules, at) for face, prints in rows)
    return np.array([np.nan if rate is None else rate for rate in stated], np.float64)


# -- chimeras ---------------------------------------------------------------------------------------------------------


def shown(prints: Prints, enrolled: Indices, presented: Indices, random: np.random.Generator) -> Floats:
    """Scores (n, 2, TRIES_A_FINGER) of hands `presented` (n, 2: a hand for each finger) against hands `enrolled` (n,).

    Of each finger one usable print is enrolled and others are shown, never the one that was enrolled."""
    templates = prints.of[enrolled]
    key = random.random(templates.shape) + ~prints.usable[templates]
    taken = key.argmin(-1)[..., None]
    template = np.take_along_axis(templates, taken, -1)
    key = random.random(templates.shape)
    np.put_along_axis(key, taken, np.inf, -1)
    probe = np.take_along_axis(prints.of[presented, [0, 1]], key.argsort(-1)[..., :TRIES_A_FINGER], -1)
    return np.where(prints.usable[probe], prints.score[template, probe], np.nan)


def chimeras(
    score: Floats, persons: Indices, prints: Prints, impostors: int, random: np.random.Generator
) -> dict[str, Attempts]:
    """Attempts by kind. `score` (m, m): every two pictures of faces, NaN for one without a face; `persons` (m,): whose.

    Genuine: every two pictures of one person. Impostors: `impostors` pairs of two persons' pictures."""
    hands = len(prints.of)
    hand_of = random.integers(0, hands, int(persons.max()) + 1)
    a, b = np.triu_indices(len(persons), 1)
    same = persons[a] == persons[b]
    genuine, others = np.flatnonzero(same), np.flatnonzero(~same)
    others = random.permutation(others)[:impostors]
    twins = np.repeat(genuine, LOOKALIKES)
    kinds = {
        "genuine": (genuine, (True, True)),
        "zero-effort": (others, (False, False)),
        "lookalike": (twins, (False, False)),
        "stolen finger": (others, (True, False)),
    }
    made = {}
    for kind, (pairs, right) in kinds.items():
        own = hand_of[persons[a[pairs]]]
        stranger = own if all(right) else (own + random.integers(1, hands, len(own))) % hands
        presented = np.where(right, own[:, None], stranger[:, None])
        made[kind] = Attempts(
            score[a[pairs], b[pairs]],
            shown(prints, own, presented, random),
            np.stack([persons[a[pairs]], persons[b[pairs]]], 1),
            np.stack([own, stranger], 1),
        )
    return made


def coarse(zero_effort: Attempts) -> Points:
    """Thresholds at which these very attempts meet `COARSE`, so that whatever is stated wrongly is the rule's doing."""
    face = zero_effort.face[~np.isnan(zero_effort.face)]
    first = zero_effort.prints[..., 0]
    scores = (face, face, first[~np.isnan(first)])
    return Points(*(Threshold("coarse", threshold_at(one, fmr), fmr) for one, fmr in zip(scores, COARSE, strict=True)))


# -- rates ------------------------------------------------------------------------------------------------------------


def rate(failed: Flags, groupings: Sequence[Indices]) -> dict[str, Any]:
    """An error rate and its upper 95 % bounds. `groupings`: (n, 2), whose is enrolled and whose is shown.

    `upper_independent`: every attempt is a trial of its own. `upper_persons`: persons drawn with replacement; without
    an error that says nothing, and all attempts of the same two are one trial. Of several groupings the widest counts.
    """
    errors, trials = int(np.count_nonzero(failed)), len(failed)
    bounds = [
        _resampled(failed, whose) if errors else upper_bound(0, len(np.unique(np.sort(whose, 1), axis=0)))
        for whose in groupings
    ]
    return {
        "value": errors / trials,
        "errors": errors,
        "trials": trials,
        "evidence": Rate(errors / trials, errors, trials).evidence,
        "upper_independent": upper_bound(errors, trials),
        "upper_persons": max(bounds),
    }


def _resampled(failed: Flags, whose: Indices) -> float:
    one = bool((whose[:, 0] == whose[:, 1]).all())
    numbers = np.arange(len(failed))
    # To `rates_over_persons` a failure of one person is a miss, and one of two persons a match.
    score = (failed != one).astype(np.float64)
    compared = Comparisons(score, np.full(len(failed), one), numbers, numbers, whose[:, 0], whose[:, 1])
    told = rates_over_persons(compared, 0.5)[one]
    return told.value if told.high is None else told.high


def judged(made: dict[str, Attempts], rules: Rules, at: Points) -> dict[str, Any]:
    """Error rates by mode and kind, and what the genuine grants of the mode state, with how many do."""
    told: dict[str, Any] = {}
    for mode, (_, face) in MODES.items():
        told[mode] = {}
        for kind, attempts in made.items():
            if kind == "lookalike" and not face:
                continue
            stated = granted(attempts, mode, rules, at)
            groupings = [attempts.faces] * face + [attempts.hands] * (mode != "face alone")
            passed = ~np.isnan(stated)
            told[mode][kind] = rate(~passed if kind == "genuine" else passed, groupings)
            if kind == "genuine":
                told[mode]["stated"] = dict(sorted(Counter(stated[passed].round(12).tolist()).items()))
    return told


def arithmetic(zero_effort: Attempts, rules: Rules) -> dict[str, Any]:
    """Of strangers at coarse thresholds: how many are granted with at most each stated rate, which should bound it."""
    some = replace(zero_effort, face=zero_effort.face[:COARSE_ATTEMPTS], prints=zero_effort.prints[:COARSE_ATTEMPTS])
    at, told = coarse(some), {}
    for mode in MODES:
        stated = granted(some, mode, rules, at)
        rates = np.unique(stated[~np.isnan(stated)].round(12)).tolist()
        told[mode] = [{"stated": one, "errors": int(np.count_nonzero(stated <= one * 1.001))} for one in rates]
    return {"thresholds": COARSE, "trials": len(some.face), "modes": told}


# -- pictures ---------------------------------------------------------------------------------------------------------


def faces(pairs: Path) -> tuple[Floats, Indices]:
    """Scores of every two pictures of a pairs file, and whose they are."""
    paths = sorted({path for pair in read_pairs(pairs) for path in (pair.a, pair.b)})
    subjects = acquire(face_engine(CACHE, FaceSettings().threshold, 1), paths)
    nothing = np.full(128, np.nan, np.float32)
    found = np.array([nothing if one.embedding is None else one.embedding for one in subjects])
    _, persons = np.unique([path.parent.name for path in paths], return_inverse=True)
    return (found @ found.T).astype(np.float64), persons.astype(np.int64)


def prints_of(fingers: Sequence[Sequence[tuple[Any, float]]], seed: int) -> Prints:
    """Pictures with their resolution, by finger; two fingers, drawn by `seed`, make a hand."""
    engine = laboratory_engine(CACHE, FingerSettings().threshold, 1)
    ours, impressions = Ours(engine), min(len(one) for one in fingers)
    pictures = [each for one in fingers for each in one[:impressions]]
    if impressions < IMPRESSIONS:
        raise BadInput(f"a finger with {impressions} print(s): one is enrolled and {TRIES_A_FINGER} are shown")
    made: list[Any] = []
    usable = np.zeros(len(pictures), np.bool_)
    for number, (image, ppi) in enumerate(pictures):
        try:
            made.append(ours.extract(image, ppi))
            usable[number] = engine.look(image, ppi).usable
        except FingerError:
            made.append(None)
    score = np.zeros((len(pictures), len(pictures)))
    for a, b in combinations(np.flatnonzero(usable).tolist(), 2):
        score[a, b] = score[b, a] = ours.compare(made[a], made[b])
    order = np.random.default_rng(seed).permutation(len(fingers))[: len(fingers) // 2 * 2]
    return Prints(score, usable, np.arange(len(pictures)).reshape(len(fingers), -1)[order].reshape(-1, 2, impressions))


def simulated(hands: int, seed: int) -> list[list[tuple[Any, float]]]:
    """Prints of fingers that nobody has, placed carelessly."""
    from tests.hw_sim.fingers import FingerBook

    book = FingerBook(seed)
    both = [(hand, finger) for hand in range(hands) for finger in (Finger.RIGHT_INDEX, Finger.LEFT_INDEX)]
    return [[(book.impression(*one, take, care=CARE), 500.0) for take in range(IMPRESSIONS)] for one in both]


def measure(pairs: Path, fingers: Path | None, synthetic: int, impostors: int, seed: int) -> dict[str, Any]:
    obtain(CACHE)
    points, rules = shipped()
    score, persons = faces(pairs)
    acquired = int(np.count_nonzero(~np.isnan(np.diag(score))))
    told: dict[str, Any] = {
        "persons": int(persons.max()) + 1,
        "pictures": len(persons),
        "faces_not_acquired": len(persons) - acquired,
        "fingers": {},
    }
    sets: dict[str, list[list[tuple[Any, float]]]] = {}
    if fingers is not None:
        sets["real"] = [[picture(path) for path in paths] for paths in listed(fingers).values()]
    if synthetic:
        sets["synthetic"] = simulated(synthetic, seed)
    for name, pictures in sets.items():
        prints = prints_of(pictures, seed)
        made = chimeras(score, persons, prints, impostors, np.random.default_rng(seed))
        told["fingers"][name] = {
            "hands": len(prints.of),
            "prints": len(prints.usable),
            "prints_not_acquired": int(np.count_nonzero(~prints.usable)),
            "modes": judged(made, rules, points),
            "arithmetic": arithmetic(made["zero-effort"], rules),
        }
    return told


def table(told: dict[str, Any]) -> str:
    lines = [f"{told['pictures']} faces of {told['persons']} persons, {told['faces_not_acquired']} not acquired"]
    for name, made in told["fingers"].items():
        lost = made["prints_not_acquired"]
        lines.append(f"\n{name} fingers: {made['hands']} hands, {made['prints']} prints, {lost} not acquired")
        lines.append(f"{'':38}{'rate':>10}{'errors':>8}{'trials':>8}   upper: independent, persons")
        for mode, kinds in made["modes"].items():
            said = ", ".join(f"{rate:.1e} ({count})" for rate, count in kinds["stated"].items())
            lines.append(f"{mode}; genuine grants state {said}")
            for kind, one in kinds.items():
                if kind != "stated":
                    weak = "" if one["evidence"] == "sufficient" else f"  {one['evidence']}"
                    lines.append(
                        f"  {'rejected' if kind == 'genuine' else kind:36}{one['value']:10.2e}{one['errors']:8}"
                        f"{one['trials']:8}{one['upper_independent']:16.2e}{one['upper_persons']:11.2e}{weak}"
                    )
        sums = made["arithmetic"]
        lines.append("strangers at coarse thresholds: face {:g}, weak {:g}, finger {:g}".format(*sums["thresholds"]))
        for mode, rows in sums["modes"].items():
            for row in rows:
                count, share = row["errors"], row["errors"] / sums["trials"]
                lines.append(f"  {mode:24} stated {row['stated']:.1e}, granted with at most that {share:.2e} ({count})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("pairs", type=Path, help="CSV file with the columns a, b, same")
    parser.add_argument("fingers", type=Path, nargs="?", help="pictures FINGER_IMPRESSION.png")
    parser.add_argument("--synthetic", type=int, default=0, help="persons with simulated fingers, 2 at least")
    parser.add_argument("--impostors", type=int, default=400_000, help="pairs of two persons' faces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    if options.synthetic == 1 or not (options.fingers or options.synthetic):
        sys.exit("fusion: name a folder of fingers, or --synthetic 2 or more")
    try:
        told = measure(options.pairs, options.fingers, options.synthetic, options.impostors, options.seed)
    except (BadInput, ModelError) as error:
        sys.exit(f"fusion: {error}")
    print(json.dumps(told, indent=2) if options.json else table(told))


if __name__ == "__main__":
    main()
