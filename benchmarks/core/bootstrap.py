"""Share of the student-teacher gap that a rule recovers, with bootstrap intervals. Pure functions.

Teacher use is the share of generated tokens that the teacher wrote. All formulas: docs/algorithms.md, "Measures"
(PGR, APGR and CPT after RouteLLM, Ong et al. 2024, arXiv 2406.18665). The bootstrap is the paired one of
Koehn 2004 (https://aclanthology.org/W04-3250), over sentences and over training seeds.

Axes: N sentences, Z resamples (row 0 is always the sample itself), P points of a curve, I seeds.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wheels.errors import WheelsError

Floats = NDArray[np.float64]

LEAST_GAP = 1.0
"""Points between student and teacher below which a share of the gap is noise."""
APART = 0.1
"""Neighbours in measured use (or passes per token) between which a curve is taken as straight. The error of a straight
line at u between a and b is at most `(u - a) (b - u) / 2` times the curvature: a figure is given where that is no more
than in the middle of neighbours this far apart, and is not measured elsewhere."""


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the middle and the ends of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def ratio_by_round(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return the ratio slow / fast of each round: median, lowest, highest."""
    return asdict(Spread.of([a / b for a, b in zip(slow, fast, strict=True)]))


class Statistics(Protocol):
    """Per-sentence sufficient statistics of one corpus metric (`wheels.metrics.sentence_statistics`)."""

    def __len__(self) -> int:
        """Return the number of sentences, N."""
        ...

    def resampled(self, weights_ZN: Floats, /) -> Floats:
        """Return the metric of each reweighted corpus, [Z]."""
        ...


@dataclass(frozen=True)
class Comparison:
    """A difference with its bootstrap interval."""

    difference: float
    """On the sample itself, in points of the metric."""
    low: float
    """2.5th percentile over resamples."""
    high: float
    """97.5th percentile over resamples."""
    p: float
    """Two-sided: twice the share of resamples on the other side of 0, counted with one more, at most 1."""


def share_of_gap(quality: ArrayLike, student: ArrayLike, teacher: ArrayLike) -> Floats:
    """Return the performance gap recovered (PGR), `(Q - Q_student) / (Q_teacher - Q_student)`. Broadcasts.

    0 is the student, 1 the teacher; values below 0 and above 1 are kept. nan where the gap is under `LEAST_GAP`.
    """
    quality, student, teacher = (np.asarray(x, dtype=np.float64) for x in (quality, student, teacher))
    gap = teacher - student
    wide = gap >= LEAST_GAP
    return np.where(wide, (quality - student) / np.where(wide, gap, 1.0), np.nan)


def share(part: Floats, whole: Floats) -> Floats:
    """Return `part / whole`; nan where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def warn_of_gap(student: float, teacher: float) -> None:
    """Warn where the gap is too small for a share of it."""
    if not teacher - student >= LEAST_GAP:
        warnings.warn(
            f"teacher {teacher:.2f} is less than {LEAST_GAP:g} point above student {student:.2f}: "
            "no share of the gap can be given",
            stacklevel=2,
        )


def _with_ends(uses: ArrayLike, values: ArrayLike, first: float, last: float) -> tuple[Floats, Floats]:
    """Sort a curve by use, average equal uses, and add the ends 0 and 1 where they are missing."""
    use_P, value_P = np.asarray(uses, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if use_P.shape != value_P.shape or use_P.ndim != 1:
        raise WheelsError(f"uses and values must be two lists of one length, got {use_P.shape} and {value_P.shape}")
    if use_P.size and not (use_P.min() >= 0.0 and use_P.max() <= 1.0):
        raise WheelsError(f"teacher use must be in [0, 1], got {use_P.tolist()}")
    distinct, where = np.unique(use_P, return_inverse=True)
    mean = np.bincount(where, weights=value_P) / np.bincount(where) if use_P.size else value_P
    if not distinct.size or distinct[0] > 0.0:
        distinct, mean = np.append(0.0, distinct), np.append(first, mean)
    if distinct[-1] < 1.0:
        distinct, mean = np.append(distinct, 1.0), np.append(mean, last)
    return distinct, mean


def is_measured(points_P: Floats, at: float, apart: float = APART) -> bool:
    """Return whether the points (in rising order) determine the curve's value at `at`.

    It does where `(at - a) (b - at) <= (apart / 2)^2` for the neighbours a and b. Those at most `apart` from each other
    always do; wider ones only as near to one of them as makes a straight line no less sure. Outside of all points there
    is no line and nothing to doubt.
    """
    after = int(np.searchsorted(points_P, at))
    if after in (0, len(points_P)):
        return True
    return bool((at - points_P[after - 1]) * (points_P[after] - at) <= (apart / 2) ** 2 + 1e-12)


def apgr(uses: ArrayLike, pgrs: ArrayLike, low: float = 0.0, high: float = 1.0, apart: float = APART) -> float:
    """Return the area under PGR over measured use from `low` to `high`, by trapezoids.

    The student (use 0, PGR 0) and the teacher (use 1, PGR 1) are measured points of every curve; they are
    added where `uses` lacks them. At `low` and `high` the curve is interpolated linearly. The area is not
    divided by the width: over [0, 0.3] a rule that equals the teacher everywhere has 0.3, random about 0.045.
    nan where any PGR is nan, and where neighbours are too far apart: their mean squared distance, weighted by how much
    of it lies inside, exceeds that of `apart` (the error of a trapezoid grows with the cube of its width).
    """
    if not 0.0 <= low < high <= 1.0:
        raise WheelsError(f"the interval must satisfy 0 <= low < high <= 1, got [{low:g}, {high:g}]")
    use_P, pgr_P = _with_ends(uses, pgrs, 0.0, 1.0)
    if np.isnan(pgr_P).any():
        return math.nan
    inside = (use_P > low) & (use_P < high)
    x = np.concatenate(([low], use_P[inside], [high]))
    left, right = use_P[:-1], use_P[1:]
    within = np.maximum(np.minimum(right, high) - np.maximum(left, low), 0.0)
    if np.sum(within * (right - left) ** 2) > (high - low) * apart**2 + 1e-12:
        return math.nan
    y = np.interp(x, use_P, pgr_P)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def cpt(uses: ArrayLike, pgrs: ArrayLike, level: float, apart: float = APART) -> float:
    """Return the least use at which the running maximum of PGR first reaches `level` (call-performance threshold).

    Linear between points; the ends are added as in `apgr`. Where a curve rises, falls and rises again this is
    its first crossing. nan where `level` is never reached, where any PGR is nan, and where it is crossed between
    neighbours too far apart to say where (`is_measured`).
    """
    use_P, pgr_P = _with_ends(uses, pgrs, 0.0, 1.0)
    if np.isnan(pgr_P).any() or pgr_P.max() < level:
        return math.nan
    after = int(np.argmax(pgr_P >= level))
    if after == 0:
        return float(use_P[0])
    before = after - 1
    part = (level - pgr_P[before]) / (pgr_P[after] - pgr_P[before])
    use = float(use_P[before] + part * (use_P[after] - use_P[before]))
    return use if is_measured(use_P, use, apart) else math.nan


def foresight_share(value: float, random: float, foresight: float) -> float:
    """Return `(value - random) / (foresight - random)`, the share of foresight's lift; nan without a lift."""
    return (value - random) / (foresight - random) if foresight > random else math.nan


def resample_sentences(count: int, resamples: int, seed: int) -> Floats:
    """Return how often each sentence is drawn, [1 + resamples, count]; row 0 is the sample itself (all ones)."""
    if count < 1:
        raise WheelsError("a bootstrap needs at least one sentence, got none")
    drawn_ZN = np.random.default_rng([seed, 0]).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return np.concatenate((np.ones((1, count)), drawn_ZN.astype(np.float64)))


def mean_over_seeds(values_IZ: ArrayLike, seed: int) -> Floats:
    """Return the mean over seeds, [Z]; row 0 over all of them, each other row over as many drawn with replacement.

    The draw depends only on `seed` and on the shape, so two rules with equally many seeds draw the same ones.
    """
    values = np.asarray(values_IZ, dtype=np.float64)
    seeds, rows = values.shape
    chosen_IZ = np.random.default_rng([seed, 1, seeds]).integers(seeds, size=(seeds, rows))
    chosen_IZ[:, 0] = np.arange(seeds)
    return np.take_along_axis(values, chosen_IZ, axis=0).mean(axis=0)


def compare(difference_Z: Floats, least: float = 1.0) -> Comparison:
    """Return the difference of row 0 with the 95% interval and two-sided p of the other rows; nan in, nan out.

    Args:
        difference_Z: nan in a row that has no value.
        least: share of the other rows that must have a value; with fewer, the difference has no interval.
    """
    here, drawn = float(difference_Z[0]), difference_Z[1:][~np.isnan(difference_Z[1:])]
    if math.isnan(here) or len(drawn) < max(1, least * (len(difference_Z) - 1)):
        return Comparison(here, math.nan, math.nan, math.nan)
    low, high = np.percentile(drawn, (2.5, 97.5))
    tail = min(np.count_nonzero(drawn <= 0.0), np.count_nonzero(drawn >= 0.0))
    return Comparison(here, float(low), float(high), min(1.0, 2.0 * (1 + int(tail)) / (1 + drawn.size)))


def interval(values_Z: Floats, *names: str, least: float = 1.0) -> dict[str, float]:
    """Return the value of row 0 and its 95% interval under three names (value, low, high), as `compare` finds them."""
    found = compare(values_Z, least)
    return dict(zip(names or ("value", "low", "high"), (found.difference, found.low, found.high), strict=True))


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm-corrected p values: the i-th smallest of m times `m - i + 1`, made monotone.

    Holm 1979, https://www.jstor.org/stable/4615733. At most 1. A nan does not count, and stays nan.
    """
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    corrected, least = list(ps), 0.0
    for before, (p, place) in enumerate(order):
        least = corrected[place] = max(least, min(1.0, p * (len(order) - before)))
    return corrected


def paired_bootstrap(
    a: Sequence[Statistics], b: Sequence[Statistics], resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Return `a - b` of a corpus metric, with its interval, by a paired bootstrap over sentences and seeds.

    Both sides are scored on the same drawn sentences. Each side is a mean over its seeds, drawn with
    replacement; sides with equally many seeds draw the same ones (paired), others independently.

    Args:
        a: one system's statistics of the same sentences, one entry per seed.
        b: the other's.
        resamples: draws; the smallest possible p is 2 / (resamples + 1).
        seed: of the draws.
    """
    if not a or not b:
        raise WheelsError(f"a paired bootstrap needs at least one seed on each side, got {len(a)} and {len(b)}")
    counts = sorted({len(one) for one in (*a, *b)})
    if len(counts) != 1:
        raise WheelsError(f"a paired bootstrap needs the same sentences on both sides, got {counts} sentences")
    weights_ZN = resample_sentences(counts[0], resamples, seed)
    side_a, side_b = (mean_over_seeds([one.resampled(weights_ZN) for one in side], seed) for side in (a, b))
    return compare(side_a - side_b)


def measured_use(teacher_tokens_N: ArrayLike, tokens_N: ArrayLike, weights_ZN: Floats) -> Floats:
    """Return teacher-written over generated tokens of each reweighted corpus, [Z]; 0 where nothing was generated."""
    written_Z = weights_ZN @ np.asarray(teacher_tokens_N, dtype=np.float64)
    tokens_Z = weights_ZN @ np.asarray(tokens_N, dtype=np.float64)
    return written_Z / np.maximum(tokens_Z, 1.0)


def at_use(uses_ZP: Floats, values_ZP: Floats, use: float, apart: float = APART) -> Floats:
    """Return each row's value at exactly `use`, [Z], by linear interpolation between the bracketing points.

    Rules whose measured uses differ at one budget are compared at one use this way. Points are put in order of
    use, row by row; outside the measured range the nearest point's value stands. nan in every row where the first,
    which is the sample itself, has no point near enough (`is_measured`).
    """
    order_ZP = np.argsort(uses_ZP, axis=1, kind="stable")
    x_ZP, y_ZP = np.take_along_axis(uses_ZP, order_ZP, 1), np.take_along_axis(values_ZP, order_ZP, 1)
    if not is_measured(x_ZP[0], use, apart):
        return np.full(len(x_ZP), np.nan)
    return np.array([np.interp(use, x, y) for x, y in zip(x_ZP, y_ZP, strict=True)])


def over_allowance(by_teacher: Sequence[bool], budget: float, burst: int = 0) -> bool:
    """Return whether some prefix holds more teacher tokens than `floor(budget * tokens) + burst`."""
    written = np.cumsum(np.asarray(by_teacher, dtype=np.int64))
    # 0.29 * 100 is 28.999999999999996: without the margin a sequence that kept its budget would be accused.
    allowed = np.floor(budget * np.arange(1, len(written) + 1) + 1e-9) + burst
    return bool((written > allowed).any())
