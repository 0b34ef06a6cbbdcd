"""What `gated lab` draws: DET curves, histograms, the sheet of worst misses. Needs matplotlib (extra `lab`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from gated.biometrics.evaluate import ERRORS_MIN, Comparisons, det
from gated.biometrics.laboratory import Subject, read_picture, worst

TILE_PX = 150
PAIRS_A_ROW = 3


def det_curves(sets: Mapping[str, Comparisons], target: Path) -> None:
    """Detection error trade-off on log axes; dashed where fewer than 30 false matches or misses stand behind it."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 6))
    missed = False
    for name, compared in sets.items():
        genuine = int(np.count_nonzero(compared.same))
        if not 0 < genuine < len(compared.same):
            continue
        fmr, fnmr = det(compared)
        missed = missed or bool((fnmr > 0).any())
        impostor = len(compared.same) - genuine
        firm = (fmr * impostor >= ERRORS_MIN) & (fnmr * genuine >= ERRORS_MIN)
        (line,) = axes.plot(fmr, fnmr, linestyle=":", linewidth=1)
        label = f"{name.replace('_', ' ')} ({genuine:,} genuine, {impostor:,} impostor)"
        if not fnmr.any():
            label += ": none missed"
        axes.plot(np.where(firm, fmr, np.nan), fnmr, color=line.get_color(), linewidth=2, label=label)
    axes.set(xscale="log", xlabel="false match rate", ylabel="false non-match rate")
    if missed:
        axes.set_yscale("log")
    axes.set_title(f"DET; dotted: fewer than {ERRORS_MIN} errors, insufficient evidence")
    axes.grid(True, which="both", alpha=0.3)
    if axes.has_data():
        axes.legend()
    figure.savefig(target, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def score_picture(
    name: str,
    halves: Mapping[str, Comparisons],
    qualities: Mapping[str, npt.NDArray[np.float64]],
    thresholds: Mapping[str, float],
    target: Path,
) -> None:
    """Left: how often each score came, by half, genuine and impostor, with the thresholds. Right: the score against
    the quality of the worse picture (`qualities`, by half)."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), width_ratios=(2, 1))
    top = max([float(one.score.max(initial=0)) for one in halves.values()] + list(thresholds.values()))
    edges = np.linspace(0, max(top, 1e-6), 61)
    for half, compared in halves.items():
        style = "stepfilled" if half == "test" else "step"
        for kind, which, colour in (("genuine", compared.same, "tab:green"), ("impostor", ~compared.same, "tab:red")):
            scores = compared.score[which]
            label = f"{half}, {kind} ({len(scores):,})"
            left.hist(scores, edges, histtype=style, color=colour, alpha=0.5 if half == "test" else 1.0, label=label)
            right.plot(qualities[half][which], scores, ".", color=colour, markersize=3, alpha=0.4)
    for number, (threshold, value) in enumerate(thresholds.items()):
        left.axvline(value, color="black", linewidth=1, linestyle=("-", "--", ":", "-.")[number % 4], label=threshold)
    left.set(yscale="log", xlabel="score", ylabel="pairs", title=f"{name}: scores")
    left.legend(fontsize=8)
    right.set(xlabel="quality of the worse picture", ylabel="score", title="quality and score")
    figure.savefig(target, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def miss_sheet(compared: Comparisons, subjects: Sequence[Subject], count: int, target: Path) -> None:
    """The genuine pairs with the lowest scores and the impostor pairs with the highest, as one picture."""
    low, high = worst(compared, count)
    parts = [
        _section("one person, lowest scores", low, compared, subjects),
        _section("two persons, highest scores", high, compared, subjects),
    ]
    if not cv2.imwrite(str(target), np.concatenate(parts)):
        raise OSError(f"cannot write the picture {target}")


def _section(title: str, rows: Sequence[int], compared: Comparisons, subjects: Sequence[Subject]) -> Any:
    width = PAIRS_A_ROW * 2 * TILE_PX
    head = np.full((32, width, 3), 255, np.uint8)
    cv2.putText(head, title, (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    lines = [head]
    for start in range(0, len(rows), PAIRS_A_ROW):
        line = np.full((TILE_PX, width, 3), 255, np.uint8)
        for place, row in enumerate(rows[start : start + PAIRS_A_ROW]):
            left = place * 2 * TILE_PX
            for side, number in enumerate((int(compared.a[row]), int(compared.b[row]))):
                tile = cv2.resize(read_picture(subjects[number].path), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
                line[:, left + side * TILE_PX : left + (side + 1) * TILE_PX] = tile
            text, spot = f"{compared.score[row]:.3f}", (left + 6, TILE_PX - 8)
            for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(line, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
        lines.append(line)
    return np.concatenate(lines)
