"""Runs the comparator over photographs on disk, outside any lane. Reads pictures; keeps embeddings, never pictures."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gated.biometrics.evaluate import Comparisons, all_against_all, as_json, equal_error_rate, operating_points
from gated.biometrics.face import NEAR_EYE_PX_MIN, Embedding, Image, Look, OnnxFaceEngine
from gated.biometrics.quality import eye_px

COLUMNS = ("a", "b", "same")


class BadInput(Exception):
    """A file that was given is not what it should be; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a pairs file: two pictures, and whether they show one person."""

    a: Path
    b: Path
    same: bool


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The person of one photograph. `embedding` None: no face was found (failure to acquire).

    `lane_usable`: whether a lane would have taken this picture, by its own settings and with nobody else near."""

    path: Path
    embedding: Embedding | None
    quality: float
    near: int
    lane_usable: bool


def read_picture(path: Path) -> Image:
    """A photograph as BGR uint8 (height, width, 3), turned upright by its EXIF tag. Raises `BadInput`."""
    if not path.is_file():
        raise BadInput(f"{path}: is not there")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise BadInput(f"{path}: cannot be read as a picture")
    return image  # type: ignore[return-value]


def laboratory_engine(models_dir: Path, threshold_name: str, threads: int) -> OnnxFaceEngine:
    """The lane's engine, but for which any distance is near: a photograph has one subject, however small."""
    return OnnxFaceEngine(models_dir, threshold_name, threads, near_eye_px_min=1.0)


def subject(engine: OnnxFaceEngine, image: Image) -> tuple[Look | None, int]:
    """A look at the face nearest to the picture's middle, and how many faces a lane would call near.

    A photographer puts the subject in the middle; a larger face at the edge is somebody else's."""
    found = engine.faces(image)
    if not found:
        return None, 0
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    chosen = min(found, key=lambda face: float(np.linalg.norm(face.box[:2] + face.box[2:] / 2 - middle)))
    look = engine.judge(image, [chosen])
    return look if look.face is not None else None, sum(eye_px(face) >= NEAR_EYE_PX_MIN for face in found)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a CSV file with the columns a, b and same (0 or 1), paths relative to it. Raises `BadInput`."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise BadInput(f"{path}:1: no column {', '.join(missing)}; a pairs file has the columns a, b, same")
            pairs = [_pair(path, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV: {error}") from error
    if not pairs:
        raise BadInput(f"{path}: no pairs")
    return pairs


def _pair(path: Path, line: int, row: dict[str, str]) -> Pair:
    if row["same"] not in ("0", "1"):
        raise BadInput(f"{path}:{line}: same is 0 or 1, not {row['same']!r}")
    pictures: list[Path] = []
    for column in ("a", "b"):
        if not row[column]:
            raise BadInput(f"{path}:{line}: column {column} is empty")
        picture = path.parent / row[column]
        if not picture.is_file():
            raise BadInput(f"{path}:{line}: there is no picture {row[column]}")
        pictures.append(picture)
    return Pair(pictures[0], pictures[1], row["same"] == "1")


def acquire(engine: OnnxFaceEngine, paths: Sequence[Path], done: Callable[[], None] = lambda: None) -> list[Subject]:
    """The subjects of photographs, in the same order; `done` is called after each. Raises `BadInput`."""
    subjects: list[Subject] = []
    for path in paths:
        image = read_picture(path)
        look, near = subject(engine, image)
        if look is None:
            subjects.append(Subject(path, None, 0.0, near, False))
        else:
            embedding = engine.embed(image, look)
            subjects.append(Subject(path, embedding, look.quality, near, look.usable and near == 1))
        done()
    return subjects


def listed(pairs: Sequence[Pair], subjects: Sequence[Subject]) -> tuple[Comparisons, int]:
    """The comparisons of a pairs file, and how many of its genuine pairs a failure to acquire has cost."""
    index = {one.path: number for number, one in enumerate(subjects)}
    people = _people(subjects)
    kept, lost = [], 0
    for pair in pairs:
        a, b = index[pair.a], index[pair.b]
        if subjects[a].embedding is None or subjects[b].embedding is None:
            lost += pair.same
        else:
            kept.append((float(np.dot(_embedding(subjects[a]), _embedding(subjects[b]))), pair.same, a, b))
    score, same, a_all, b_all = (np.array([row[column] for row in kept]) for column in range(4))
    whose = np.array(people)
    made = Comparisons(
        score.astype(np.float32),
        same.astype(bool),
        a_all.astype(np.int32),
        b_all.astype(np.int32),
        whose[a_all.astype(int)],
        whose[b_all.astype(int)],
    )
    return made, lost


def every_pair(subjects: Sequence[Subject]) -> tuple[Comparisons, int]:
    """All against all; the identity of a picture is its folder's name. Also: genuine pairs lost."""
    there = [number for number, one in enumerate(subjects) if one.embedding is not None]
    names = [subjects[number].path.parent.name for number in there]
    made = all_against_all(np.array([_embedding(subjects[number]) for number in there]), names)
    numbers = np.array(there, np.int32)
    made = Comparisons(made.score, made.same, numbers[made.a], numbers[made.b], made.person_a, made.person_b)
    _, counts = np.unique([one.path.parent.name for one in subjects], return_counts=True)
    return made, sum(math.comb(int(count), 2) for count in counts) - int(np.count_nonzero(made.same))


def report(
    engine: OnnxFaceEngine, subjects: Sequence[Subject], sets: dict[str, tuple[Comparisons, int]], resamples: int
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON: no names of persons, no paths."""
    acquired = sum(one.embedding is not None for one in subjects)
    made: dict[str, Any] = {
        "model": engine.model,
        "pictures": len(subjects),
        "persons": len({one.path.parent.name for one in subjects}),
        "failure_to_acquire": {"value": 1 - acquired / len(subjects), "errors": len(subjects) - acquired},
        "lane": {
            "usable": sum(one.lane_usable for one in subjects) / len(subjects),
            "two_or_more_near": sum(one.near > 1 for one in subjects) / len(subjects),
            "nobody_near": sum(one.near == 0 for one in subjects) / len(subjects),
        },
        "interval": "95 %, persons resampled with replacement",
        "sets": {},
    }
    for name, (compared, lost) in sets.items():
        genuine = int(np.count_nonzero(compared.same))
        entry: dict[str, Any] = {
            "genuine": genuine,
            "impostor": len(compared.same) - genuine,
            "genuine_lost": lost,
            "equal_error_rate": None,
            "points": [],
        }
        if 0 < genuine < len(compared.same):
            entry["equal_error_rate"] = equal_error_rate(compared)
            points = operating_points(compared, lost_genuine=lost, resamples=resamples)
            entry["points"] = [as_json(point) for point in points]
        made["sets"][name] = entry
    return made


def worst(compared: Comparisons, count: int) -> tuple[list[int], list[int]]:
    """The rows of the `count` genuine pairs with the lowest and the impostor pairs with the highest scores."""
    genuine, impostor = np.flatnonzero(compared.same), np.flatnonzero(~compared.same)
    low = genuine[np.argsort(compared.score[genuine], kind="stable")[:count]]
    high = impostor[np.argsort(-compared.score[impostor], kind="stable")[:count]]
    return low.tolist(), high.tolist()


def _people(subjects: Sequence[Subject]) -> list[int]:
    """A small number for each subject's person, which is the name of the picture's folder."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(one.path.parent.name, len(numbers)) for one in subjects]


def _embedding(one: Subject) -> Embedding:
    if one.embedding is None:
        raise ValueError("a subject that was not acquired has no embedding")
    return one.embedding
