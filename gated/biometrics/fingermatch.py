"""Are two sets of minutiae of one finger? Numpy alone, one thread, no state; about a millisecond for two prints.

1. Each minutia is described by its surroundings: where its neighbours lie and point, seen from it. The idea is the
   Minutia Cylinder-Code's (Cappelli, Ferrara, Maltoni, IEEE TPAMI 32(12), 2010), with a grid of Gaussians and the
   first harmonics of the directions, so that building and comparing are matrix products.
2. The most alike pairs are candidates; what they say of the relative place and direction of any two of them must
   agree. The principal eigenvector of that agreement (Leordeanu and Hebert, ICCV 2005) ranks them.
3. The best few, each with those that agree with it, give rigid motions. The one under which most minutiae meet is
   refined: skin is elastic, so the residuals of pairs move their neighbours along.
4. Minutiae that are nearest to each other are pairs. Their number is weighed against the minutiae that should have
   had a partner, and against all there are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gated.biometrics.minutiae import Minutiae

Floats = npt.NDArray[np.float32]
Complexes = npt.NDArray[np.complex64]
Indices = npt.NDArray[np.intp]

MINUTIAE_MAX = 255
"""As many as a template holds. Of more, those of the best quality count: noise is not compared for seconds."""
PAIRS_MIN = 6
ROTATION_MAX = np.float32(np.deg2rad(50))
"""Between two impressions; readers have an up and a down."""

# Pixels at 500 an inch, and radians. All were chosen on half of the evaluation's fingers (docs/fingers.md).

# Surroundings: a grid of _STEPS by _STEPS points to _SIDE on each side, each seeing _BLUR far, of the nearest
# neighbours, which fade out over _FADE; weights of their directions' harmonics; below _NORM_FLOOR little is known.
_SIDE, _STEPS, _BLUR, _FADE, _NEIGHBOURS = 85.0, 9, 12.0, 25.0, 12
_HARMONICS = (0.7, 1.0, 0.7)
_NORM_FLOOR = 2.0
_GRID = np.linspace(-_SIDE, _SIDE, _STEPS, dtype=np.float32)

# Multiplications of a product that OpenBLAS leaves to one thread (its interface/gemm.c, SMP_THRESHOLD_MIN, four times).
_ALONE = 1 << 18

# Candidates: how many at least and at most. Two of them agree if one says of the other's place what it is, give or take
# _SLACK_PX and a part of their distance, and if their turns differ little. _TURNS of the power iteration.
_CANDIDATES = (40, 110)
_SLACK_PX, _SLACK_PART, _SLACK_TURN = 6.0, 0.09, np.float32(np.deg2rad(22))
_TURNS = 4

# Motions: so many are tried; candidates that agree with a chosen one more than _AGREE do not stand for another. The
# directions of minutiae count as much as places at an arm of 20 pixels.
_MOTIONS, _AGREE = 5, 0.15
_ARM_PX2 = 400.0

# Pairs: how far minutiae may be from each other, and how much wider before the skin's stretching is known. A pair pulls
# what lies within _ELASTIC_PX along, the less the stiffer.
_MEET_PX, _MEET_TURN, _WIDE = 11.0, np.float32(np.deg2rad(26)), 1.8
_ELASTIC_PX, _STIFF = 30.0, 0.3
_REFINEMENTS = 3

# Score: the common part is where both prints reach in 16 directions, and _RIM_PX beyond. Its minutiae have
# 2 * _OVERLAP_PART of the weight, all of them the rest; _FEW pairs are worth half of what many are.
_RIM_PX = 6.0
_FAN = np.exp(-2j * np.pi * np.arange(16) / 16).astype(np.complex64)
_OVERLAP_PART, _FEW = 0.33, 6.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Described:
    """Minutiae ready to be compared; to be made once of a template that is compared often. Biometric data.

    `place`: complex64 (n), y up. `angle`: float32 (n). `surroundings`: float32 (n, 405). `norm`: float32 (n)."""

    place: Complexes
    angle: Floats
    surroundings: Floats
    norm: Floats

    def __len__(self) -> int:
        return len(self.place)

    def __repr__(self) -> str:
        return f"Described({len(self)})"


def describe(minutiae: Minutiae) -> Described:
    """Step 1 for all minutiae of a print: a third of the time of a comparison."""
    x, y, angle = (column.astype(np.float32) for column in (minutiae.x, minutiae.y, minutiae.angle))
    if len(x) > MINUTIAE_MAX:
        kept = np.sort(np.argsort(-minutiae.quality.astype(np.int32), kind="stable")[:MINUTIAE_MAX])
        x, y, angle = x[kept], y[kept], angle[kept]
    place = (x - 1j * y).astype(np.complex64)
    surroundings = _surroundings(place, angle)
    return Described(place, angle, surroundings, np.einsum("ij,ij->i", surroundings, surroundings))


def compare(probe: Minutiae, reference: Minutiae) -> float:
    """Similarity, 0 to 1, the same whichever comes first; about 0.8 for a print of 30 minutiae and itself."""
    return compare_described(describe(probe), describe(reference))


def compare_described(a: Described, b: Described) -> float:
    """As `compare`."""
    if min(len(a), len(b)) < PAIRS_MIN:
        return 0.0
    if _order(b) < _order(a):
        a, b = b, a
    turn = _wrapped(a.angle[:, None] - b.angle)
    alike = 2 * _products(a.surroundings, b.surroundings) / (a.norm[:, None] + b.norm + _NORM_FLOOR)
    alike[np.abs(turn) > ROTATION_MAX] = -1
    supports = _candidates(a, b, turn, alike)
    if supports is None:
        return 0.0
    pairs = _best_motion(a, b, turn, alike, *supports)
    moved = b.place
    for _ in range(_REFINEMENTS):
        if len(pairs[0]) < PAIRS_MIN:
            return 0.0
        moved, pairs = _refined(a, b, turn, alike, *pairs)
    return _score(a.place, moved, pairs[2])


def _order(print_: Described) -> tuple[int, bytes, bytes]:
    """Which of two comes first does not depend on how they were given."""
    return len(print_), print_.place.tobytes(), print_.angle.tobytes()


def _products(a: Floats, b: Floats) -> Floats:
    """`a @ b.T`, in steps that numpy's BLAS does not share out among threads: on a busy machine they wait for each
    other twenty times as long as they work. For the same reason matrices meet vectors in `einsum` below."""
    made = np.empty((len(a), len(b)), np.float32)
    rows = max(_ALONE // b.size, 1)
    for start in range(0, len(a), rows):
        np.matmul(a[start : start + rows], b.T, out=made[start : start + rows])
    return made


def _surroundings(place: Complexes, angle: Floats) -> Floats:
    """(n, 9 * 9 * 5): each minutia's neighbours on a grid that is laid along its direction.

    A neighbour is a Gaussian in both coordinates, times the first harmonics of its relative direction."""
    count = len(place)
    apart = place - place[:, None]
    distance = np.abs(apart)
    near = np.broadcast_to(np.arange(count), (count, count))
    if count > _NEIGHBOURS + 1:
        near = np.argpartition(distance, _NEIGHBOURS, axis=1)[:, : _NEIGHBOURS + 1]
        apart, distance = np.take_along_axis(apart, near, 1), np.take_along_axis(distance, near, 1)
    seen = apart * np.exp(-1j * angle).astype(np.complex64)[:, None]
    weight = np.clip((_SIDE + 15 - distance) / _FADE, 0, 1) * (distance > 0.5)
    along = np.exp((seen.real[:, :, None] - _GRID) ** 2 * (-0.5 / _BLUR**2))
    across = np.exp((seen.imag[:, :, None] - _GRID) ** 2 * (-0.5 / _BLUR**2)) * weight[:, :, None]
    turn = np.exp(1j * (angle[near] - angle[:, None])).astype(np.complex64)
    twice = turn * turn
    level, once, double = _HARMONICS
    waves = np.stack(
        (np.full_like(distance, level), once * turn.real, once * turn.imag, double * twice.real, double * twice.imag), 2
    )
    spread = (across[:, :, :, None] * waves[:, :, None, :]).reshape(count, near.shape[1], _STEPS * waves.shape[2])
    made: Floats = np.matmul(along.transpose(0, 2, 1), spread).reshape(count, _STEPS * spread.shape[2])
    return made


def _candidates(a: Described, b: Described, turn: Floats, alike: Floats) -> tuple[Indices, Indices, Floats] | None:
    """Step 2. Candidates as rows of `a` and of `b`, and the best few's supporters: (motions, candidates) weights."""
    count = min(_CANDIDATES[1], max(_CANDIDATES[0], 3 * len(a)), alike.size)
    best = np.argpartition(alike, alike.size - count, axis=None)[alike.size - count :]
    value = alike.ravel()[best]
    best, value = best[value > 0], value[value > 0]
    i, j = np.divmod(best, len(b))
    between = turn[i, j]
    half = np.exp(0.5j * between).astype(np.complex64)
    there, here = a.place[i], b.place[j]
    there, here = there[:, None] - there, here[:, None] - here
    off = np.abs(there - here * (half[:, None] * half))
    slack = 2 * (_SLACK_PX + _SLACK_PART * np.abs(there))
    agree = np.maximum(0, 1 - (off / slack) ** 2)
    agree *= np.maximum(0, 1 - ((between[:, None] - between) / (2 * _SLACK_TURN)) ** 2)
    agree *= np.sqrt(value[:, None] * value)
    agree[(i[:, None] == i) | (j[:, None] == j)] = 0
    rank = value
    for _ in range(_TURNS):
        rank = np.einsum("ij,j->i", agree, rank)
        length = np.sqrt(np.sum(rank * rank))
        if length < 1e-9:
            return None
        rank = rank / length
    left = rank.copy()
    chosen: list[int] = []
    agree[np.arange(len(i)), np.arange(len(i))] = value
    while len(chosen) < _MOTIONS and left.max() > 0:
        first = int(left.argmax())
        chosen.append(first)
        left[agree[first] > _AGREE] = 0
        left[first] = 0
    return i, j, agree[chosen] * (rank + 1e-6)


def _best_motion(
    a: Described, b: Described, turn: Floats, alike: Floats, i: Indices, j: Indices, weight: Floats
) -> tuple[Indices, Indices, Floats]:
    """Step 3, rigid: of the motions that the weighted candidates stand for, the pairs of the best."""
    weight = weight / weight.sum(1, keepdims=True)
    there, here = a.place[i], b.place[j]
    middle_a, middle_b = weight @ there, weight @ here
    spin = weight @ (there * here.conj()) - middle_a * middle_b.conj()
    spin = _unit(spin + _ARM_PX2 * (weight @ np.exp(1j * turn[i, j]).astype(np.complex64)))
    moved = (b.place - middle_b[:, None]) * spin[:, None] + middle_a[:, None]
    cost = _cost(a.place[:, None] - moved[:, None, :], turn - np.angle(spin)[:, None, None], _WIDE)
    gain = np.maximum(0, 1 - cost) * np.maximum(alike, 0.05)
    best = int(np.minimum(gain.max(2).sum(1), gain.max(1).sum(1)).argmax())
    return _nearest(cost[best])


def _refined(
    a: Described, b: Described, turn: Floats, alike: Floats, i: Indices, j: Indices, cost: Floats
) -> tuple[Complexes, tuple[Indices, Indices, Floats]]:
    """Step 3, elastic: `b` moved so that its pairs meet, neighbours moving along, and the pairs then."""
    weight = (1 - cost) * np.maximum(alike[i, j], 0.05) + 0.01
    total = weight.sum()
    there, here = a.place[i], b.place[j]
    middle_a, middle_b = (weight @ there) / total, (weight @ here) / total
    spin = (weight * (there - middle_a)) @ (here - middle_b).conj()
    spin = _unit(spin + _ARM_PX2 * (weight @ np.exp(1j * turn[i, j]).astype(np.complex64)))
    moved = (b.place - middle_b) * spin + middle_a
    pull = np.exp(np.abs(moved[:, None] - moved[j]) ** 2 * (-0.5 / _ELASTIC_PX**2)) * weight
    moved = moved + np.einsum("ij,j->i", pull, there - moved[j]) / (pull.sum(1) + _STIFF * total / len(i))
    return moved, _nearest(_cost(a.place[:, None] - moved, turn - np.angle(spin), 1.0))


def _cost(apart: Complexes, turn: Floats, wide: float) -> Floats:
    """0 for minutiae that coincide, 1 at the limit of what is still a pair."""
    made: Floats = np.abs(apart * (1 / (wide * _MEET_PX))) ** 2
    made += (_wrapped(turn) * (1 / (wide * _MEET_TURN))) ** 2
    return made


def _nearest(cost: Floats) -> tuple[Indices, Indices, Floats]:
    """Pairs, each the other's nearest, and their costs: below 1."""
    j = cost.argmin(1)
    i = np.arange(len(j))
    mutual = (cost.argmin(0)[j] == i) & (cost[i, j] < 1)
    i, j = i[mutual], j[mutual]
    return i, j, cost[i, j]


def _score(a: Complexes, moved: Complexes, cost: Floats) -> float:
    """Step 4."""
    if len(cost) < PAIRS_MIN:
        return 0.0
    reach_a, reach_b = (a[:, None] * _FAN).real, (moved[:, None] * _FAN).real
    common_a = int((reach_a <= reach_b.max(0) + _RIM_PX).all(1).sum())
    common_b = int((reach_b <= reach_a.max(0) + _RIM_PX).all(1).sum())
    met = float(np.sum(1 - cost))
    common, every = max(common_a * common_b, 1), len(a) * len(moved)
    part = met / (common**_OVERLAP_PART * every ** (0.5 - _OVERLAP_PART))
    return float(min(part * met / (met + _FEW), 1.0))


def _unit(spin: Complexes) -> Complexes:
    made: Complexes = spin / (np.abs(spin) + np.float32(1e-9))
    return made


def _wrapped(turn: Floats) -> Floats:
    """Into -pi..pi."""
    full = np.float32(2 * np.pi)
    made: Floats = turn - full * np.round(turn / full)  # type: ignore[assignment]
    return made
