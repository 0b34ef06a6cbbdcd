"""`gated lab`: measures comparators on photographs and prints. Never touches a lane, its store or its devices."""

import json
from pathlib import Path
from typing import Any

import click

from gated.biometrics.laboratory import (
    BadInput,
    acquire,
    every_pair,
    laboratory_engine,
    listed,
    read_pairs,
    read_picture,
    report,
    subject,
)
from gated.cli.lab_finger import finger
from gated.cli.lab_options import JSON, MODELS, THREADS, THRESHOLD, Unusable, json_wanted, progress_bar
from models.manifest import ModelError


@click.group()
def lab() -> None:
    """Measure faces, fingers and thresholds in the laboratory."""


lab.add_command(finger)


@lab.group()
def face() -> None:
    """Faces: compare two photographs, evaluate many."""


@face.command()
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
    """Do the photographs A and B show one person? Exit status 0 for a match, 1 for none, 2 for wrong usage or files."""
    try:
        engine = laboratory_engine(models_dir, threshold, threads)
        embeddings, qualities = [], []
        for path in (a, b):
            image = read_picture(path)
            look, _ = subject(engine, image)
            if look is None:
                raise BadInput(f"{path}: no face was found")
            qualities.append(look.quality)
            embeddings.append(engine.embed(image, look))
    except (BadInput, ModelError) as error:
        raise Unusable(str(error)) from error
    score = float(embeddings[0] @ embeddings[1])
    match = score >= engine.threshold.score
    if json_wanted(ctx, as_json):
        point = engine.threshold
        told = {"match": match, "score": score, "threshold": point.score, "threshold_name": point.name}
        click.echo(json.dumps(told | {"fmr": point.fmr, "model": engine.model, "quality": qualities}))
    else:
        verdict = "match" if match else "no match"
        click.echo(f"{verdict}: score {score:.3f}, threshold {engine.threshold.score:.3f} ({engine.threshold.name})")
    ctx.exit(0 if match else 1)


@face.command()
@click.argument("pairs", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option("--resamples", type=click.IntRange(0, 100_000), default=500, show_default=True)
@click.option("--misses", type=click.IntRange(0, 100), default=18, show_default=True, help="Worst pairs on the sheet.")
@MODELS
@THREADS
@JSON
@click.pass_context
def evaluate(
    ctx: click.Context,
    pairs: Path,
    out: Path,
    resamples: int,
    misses: int,
    models_dir: Path,
    threads: int,
    as_json: bool,
) -> None:
    """Measure error rates on PAIRS, a CSV file with the columns a, b, same (paths relative to it).

    The listed pairs are compared, and all listed pictures against each other, where a picture's folder names the
    person. Writes report.json, det.png and misses.png (photographs of people: keep it where they may be) to --out.
    """
    try:
        from gated.cli.lab_pictures import det_curves, miss_sheet
    except ImportError as error:
        raise Unusable(f"drawing needs {error.name}: install the extra, gated[lab]") from error
    quiet = json_wanted(ctx, as_json)
    try:
        engine = laboratory_engine(models_dir, "fmr_1e-3", threads)
        wanted = read_pairs(pairs)
        paths = sorted({path for pair in wanted for path in (pair.a, pair.b)})
        with progress_bar(quiet) as progress:
            task = progress.add_task("pictures", total=len(paths))
            subjects = acquire(engine, paths, lambda: progress.advance(task))
        if sum(one.embedding is not None for one in subjects) < 2:
            raise BadInput(f"{pairs}: a face was found in fewer than two pictures: nothing can be compared")
        sets = {"listed": listed(wanted, subjects), "all_against_all": every_pair(subjects)}
        made = report(engine, subjects, sets, resamples)
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        det_curves({name: compared for name, (compared, _) in sets.items()}, out / "det.png")
        miss_sheet(sets["all_against_all"][0], subjects, misses, out / "misses.png")
    except (BadInput, ModelError, OSError) as error:
        raise Unusable(str(error)) from error
    if quiet:
        click.echo(json.dumps(made))
    else:
        _print(made, out)


def _print(made: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    lost = made["failure_to_acquire"]
    console.print(
        f"{made['pictures']} pictures of {made['persons']} persons, {lost['errors']} not acquired; "
        f"a lane would have taken {made['lane']['usable']:.1%}"
    )
    for name, entry in made["sets"].items():
        title = f"{name}: {entry['genuine']:,} genuine, {entry['impostor']:,} impostor"
        if entry["equal_error_rate"] is not None:
            title += f", equal error rate {entry['equal_error_rate']:.2%}"
        table = Table(title=title, title_justify="left")
        for column in ("FMR", "threshold", "matches", "FNMR", "95 %", "misses", "insufficient\nevidence"):
            table.add_column(column, justify="right", no_wrap=True)
        for point in entry["points"]:
            table.add_row(*_row(point))
        console.print(table)
    console.print(f"written to {out}: report.json, det.png, misses.png")


def _row(point: dict[str, Any]) -> tuple[str, ...]:
    fmr, fnmr = point["fmr"], point["fnmr"]
    interval = "" if fnmr["low"] is None else f"{fnmr['low']:.2%}-{fnmr['high']:.2%}"
    weak = [name for name, rate in (("FMR", fmr), ("FNMR", fnmr)) if rate["evidence"] != "sufficient"]
    return (
        f"{point['fmr_target']:g}",
        f"{point['threshold']:.4f}",
        str(fmr["errors"]),
        f"{fnmr['value']:.2%}",
        interval,
        str(fnmr["errors"]),
        ", ".join(weak),
    )
