"""`gated lab finger`: measures comparators of fingers. Never touches a lane, its store or its devices."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from gated.biometrics.evaluate import Comparisons
from gated.biometrics.finger import FingerEngine, FingerError
from gated.biometrics.fingerlab import (
    HALVES,
    Comparator,
    Impression,
    Ours,
    acquire,
    extraction_ms,
    judged,
    laboratory_engine,
    listed,
    pair_quality,
    pairs,
    picture,
    quality_told,
    scored,
    side_by_side_ms,
    timed,
)
from gated.biometrics.fingermatch import compare as compare_minutiae
from gated.biometrics.laboratory import BadInput
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.nbis import Nbis, NbisMissing
from gated.biometrics.template import BYTES_CAP, TemplateError, decode
from gated.cli.lab_options import JSON, MODELS, THREADS, THRESHOLD, Unusable, json_wanted, progress_bar
from models.manifest import ModelError, model

OURS = "gated"
_MAGIC = b"FMR\0"

Halves = dict[str, tuple[Comparisons, int]]
Milliseconds = dict[str, list[float]]


@click.group()
def finger() -> None:
    """Fingers: compare two prints, evaluate many."""


@finger.command()
@click.argument("a", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("b", type=click.Path(path_type=Path, dir_okay=False))
@MODELS
@THRESHOLD
@THREADS
@JSON
@click.pass_context
def compare(
    ctx: click.Context, a: Path, b: Path, models_dir: Path, threshold: str, threads: int, as_json: bool
) -> None:
    """Are A and B of one finger? Each is a picture, or a template (ISO/IEC 19794-2 or ANSI INCITS 378).

    Exit status 0 for a match, 1 for none, 2 for wrong usage or files.
    """
    try:
        engine = laboratory_engine(models_dir, threshold, threads)
        (one, quality_a), (other, quality_b) = (_minutiae(engine, path) for path in (a, b))
    except (BadInput, ModelError) as error:
        raise Unusable(str(error)) from error
    score = compare_minutiae(one, other)
    point = engine.threshold
    match = score >= point.score
    if json_wanted(ctx, as_json):
        told = {"match": match, "score": score, "threshold": point.score, "threshold_name": point.name}
        told |= {"fmr": point.fmr, "model": engine.model, "quality": [quality_a, quality_b]}
        click.echo(json.dumps(told | {"minutiae": [len(one), len(other)]}))
    else:
        verdict = "match" if match else "no match"
        click.echo(f"{verdict}: score {score:.3f}, threshold {point.score:.3f} ({point.name})")
    ctx.exit(0 if match else 1)


def _minutiae(engine: FingerEngine, path: Path) -> tuple[Minutiae, int | None]:
    """Of a picture or of a template's first view, and the quality where it is told. Raises `BadInput`."""
    try:
        with path.open("rb") as stream:
            head = stream.read(BYTES_CAP + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    try:
        if head.startswith(_MAGIC):
            view = decode(head, bytes_max=BYTES_CAP).views[0]
            return view.minutiae, view.quality if view.quality <= 100 else None
        image, ppi = picture(path)
        return engine.extract(image, ppi), engine.look(image, ppi).quality
    except (TemplateError, FingerError) as error:
        raise BadInput(f"{path}: {error}") from error


@finger.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which fingers calibrate.")
@click.option("--resamples", type=click.IntRange(0, 100_000), default=500, show_default=True)
@MODELS
@THREADS
@JSON
@click.pass_context
def evaluate(
    ctx: click.Context,
    folder: Path,
    out: Path,
    seed: int,
    resamples: int,
    models_dir: Path,
    threads: int,
    as_json: bool,
) -> None:
    """Measure error rates on the pictures FINGER_IMPRESSION.png of FOLDER.

    Half of the fingers, drawn by --seed, fix thresholds; the other half tests them and those of the manifest.
    mindtct and bozorth3 are measured beside ours where nbis-py is installed. Writes report.json, det.png and
    scores-COMPARATOR.png to --out.
    """
    try:
        from gated.cli.lab_pictures import det_curves, score_picture
    except ImportError as error:
        raise Unusable(f"drawing needs {error.name}: install the extra, gated[lab]") from error
    quiet = json_wanted(ctx, as_json)
    try:
        engine = laboratory_engine(models_dir, "fmr_1e-3", threads)
        fingers = listed(folder)
        comparators, missing = _comparators(engine)
        with progress_bar(quiet) as progress:
            task = progress.add_task("pictures", total=sum(map(len, fingers.values())))
            impressions, extracting = acquire(engine, comparators, fingers, seed, lambda: progress.advance(task))
            sets, comparing = _compared(comparators, impressions, progress)
            times = _times(models_dir, comparators, impressions, extracting, comparing, threads)
        made = _report(engine, impressions, sets, times, seed, resamples, missing)
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        det_curves({name: halves["test"][0] for name, halves in sets.items()}, out / "det.png")
        for name, halves in sets.items():
            compared = {half: entry[0] for half, entry in halves.items()}
            qualities = {half: pair_quality(entry, impressions) for half, entry in compared.items()}
            thresholds = {key: row["threshold"] for key, row in made["comparators"][name]["thresholds"].items()}
            score_picture(name, compared, qualities, thresholds, out / f"scores-{name}.png")
    except (BadInput, ModelError, OSError) as error:
        raise Unusable(str(error)) from error
    if quiet:
        click.echo(json.dumps(made))
    else:
        _print(made, out)


def _comparators(engine: FingerEngine) -> tuple[dict[str, Comparator], str | None]:
    """By short name, and why NBIS is not among them."""
    made: dict[str, Comparator] = {OURS: Ours(engine)}
    try:
        made["nbis"] = Nbis()
    except NbisMissing as error:
        return made, str(error)
    return made, None


def _compared(
    comparators: Mapping[str, Comparator], impressions: list[Impression], progress: Any
) -> tuple[dict[str, Halves], dict[str, list[Milliseconds]]]:
    """The comparisons of each comparator in each half, and how long they took."""
    sets: dict[str, Halves] = {}
    taken: dict[str, list[Milliseconds]] = {}
    total = sum(1 for half in HALVES for _ in pairs(impressions, half))
    for name, comparator in comparators.items():
        task = progress.add_task(f"pairs, {name}", total=total)
        done = partial(progress.advance, task)
        made = {half: scored(name, comparator, impressions, half, done) for half in HALVES}
        sets[name] = {half: (compared, lost) for half, (compared, lost, _) in made.items()}
        taken[name] = [times for _, _, times in made.values()]
    return sets, taken


def _times(
    models_dir: Path,
    comparators: Mapping[str, Comparator],
    impressions: list[Impression],
    extracting: Milliseconds,
    comparing: Mapping[str, list[Milliseconds]],
    threads: int,
) -> dict[str, Any]:
    """Milliseconds a picture and a pair. Ours is extracted with one thread and with two, whatever --threads says."""
    told: dict[str, Any] = {}
    paths = [one.path for one in impressions]
    for name, comparator in comparators.items():
        extraction = {1: extracting[name]}
        if name == OURS:
            extraction = {threads: extracting[name]}
            for count in {1, 2} - {threads}:
                other = Ours(laboratory_engine(models_dir, "fmr_1e-3", count))
                extraction[count] = extraction_ms(other, paths)
        parts = {kind: [one for half in comparing[name] for one in half[kind]] for kind in ("genuine", "impostor")}
        told[name] = {
            "extraction_ms": {str(count): timed(extraction[count]) for count in sorted(extraction)},
            "comparison_ms": {kind: timed(taken) for kind, taken in parts.items()},
            "comparison_ms_two_at_once": side_by_side_ms(comparator, name, impressions),
        }
    return told


def _report(
    engine: FingerEngine,
    impressions: list[Impression],
    sets: Mapping[str, Halves],
    times: Mapping[str, Any],
    seed: int,
    resamples: int,
    missing: str | None,
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON: no names of fingers, no paths."""
    shipped = {name: point.score for name, point in model("leader").thresholds.items()}
    made: dict[str, Any] = {
        "pictures": len(impressions),
        "fingers": len({one.finger for one in impressions}),
        "seed": seed,
        "comparators": {},
        "left_out": {} if missing is None else {"nbis": missing},
    }
    for name, halves in sets.items():
        lost = sum(name not in one.made for one in impressions)
        made["comparators"][name] = {
            "model": engine.model if name == OURS else Nbis.model,
            "failure_to_acquire": {"value": lost / len(impressions), "errors": lost},
            **judged(halves, shipped if name == OURS else {}, resamples, seed),
            "quality": quality_told([compared for compared, _ in halves.values()], impressions),
            "times": times[name],
        }
    return made


def _print(made: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{made['pictures']} pictures of {made['fingers']} fingers; thresholds fixed on other fingers than tested"
    )
    for name, told in made["comparators"].items():
        test = told["sets"]["test"]
        title = (
            f"{name} ({told['model']}): test on {test['fingers']} fingers, {test['genuine']:,} genuine and "
            f"{test['impostor']:,} impostor pairs, {told['failure_to_acquire']['errors']} pictures not acquired"
        )
        table = Table(title=title, title_justify="left", show_lines=True)
        for column in ("threshold", "FMR (errors)", "FNMR (errors)", "insufficient\nevidence"):
            table.add_column(column, no_wrap=True)
        for threshold, entry in told["thresholds"].items():
            table.add_row(*_row(threshold, entry))
        console.print(table)
        console.print(_speeds(told["times"]))
    for name, why in made["left_out"].items():
        console.print(f"{name} was left out: {why}")
    console.print(
        "below each rate: what these errors do not rule out (95 %), as if comparisons were independent, and as if "
        "those of the same two fingers were one; then the 95 % interval by drawing fingers. Docs: docs/fingers.md"
    )
    pictures = ", ".join(f"scores-{name}.png" for name in made["comparators"])
    console.print(f"written to {out}: report.json, det.png, {pictures}")


def _row(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    rates = {key.upper(): entry["test"][key] for key in ("fmr", "fnmr")}
    weak = [key for key, rate in rates.items() if rate["evidence"] != "sufficient"]
    return f"{name}\nat {entry['threshold']:.4g}", *map(_rate_told, rates.values()), ", ".join(weak)


def _rate_told(rate: dict[str, Any]) -> str:
    told = f"{rate['value']:.2%} ({rate['errors']})\n<= {rate['upper_independent']:.2%}, {rate['upper_groups']:.0%}"
    drawn = rate["resampled"]
    return told if drawn is None or drawn[0] is None else f"{told}\n{drawn[0]:.2%} to {drawn[1]:.2%}"


def _speeds(times: dict[str, Any]) -> str:
    parts = [
        f"extraction, {threads} thread(s): {taken['median']:.1f} ms a finger (95 %: {taken['p95']:.1f})"
        for threads, taken in times["extraction_ms"].items()
        if taken
    ]
    parts += [
        f"{kind} pair: {taken['median']:.2f} ms (95 %: {taken['p95']:.2f})"
        for kind, taken in times["comparison_ms"].items()
        if taken
    ]
    if times["comparison_ms_two_at_once"] is not None:
        parts.append(f"two pairs at once: {times['comparison_ms_two_at_once']:.2f} ms a pair")
    return "; ".join(parts)
