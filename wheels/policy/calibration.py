"""Calibrated thresholds: which threshold gives which teacher use on validation rows, in `calibration.json`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError, check_budget, check_number, check_whole
from wheels.files import read_object, write_json
from wheels.json_text import record_of

FORMAT = 1
MEASURED_WITH = ("max_new_tokens", "dtype", "student_weights", "teacher_weights")
"""Settings that decide which use a threshold gives."""


class NotCalibrated(WheelsError):
    """There is no calibrated threshold for the request."""


@dataclass(frozen=True)
class Point:
    """One threshold and its measured teacher use."""

    rule: str
    seed: int
    """The trained head, or the draws, that it holds for; 0 where nothing differs from seed to seed."""
    budget: float
    """The teacher budget asked for, a share."""
    threshold: float
    """The rule calls where its score exceeds this."""
    use: float
    """The measured share of the tokens that the teacher wrote."""

    def __post_init__(self) -> None:
        """Check the numbers; an infinite threshold calls never or always, an infinite use is not measured yet."""
        check_whole("seed", self.seed)
        check_number("budget", self.budget, 0, 1)
        check_number("threshold", self.threshold, -math.inf, math.inf)
        check_number("use", self.use, 0, math.inf)

    @property
    def key(self) -> tuple[str, int, float]:
        """Its key: rule, seed and budget."""
        return self.rule, self.seed, self.budget


@dataclass
class Calibration:
    """The thresholds of the rules of one model."""

    points: list[Point] = field(default_factory=list)
    data: str = ""
    """The task and split that it was made on."""
    data_digest: str | None = None
    """The digest of the rows, so that they are never scored."""
    rows: int = 0
    """How many rows."""
    date: str = ""
    """When, ISO 8601."""
    model_digest: str = ""
    """Of both models."""
    config: dict[str, Any] = field(default_factory=dict)
    """The settings of `wheels calibrate` that measured it last."""

    @classmethod
    def load(cls, path: Path | str) -> Calibration:
        """Read `calibration.json`; a missing file is an empty calibration.

        Raises:
            WheelsError: where the file is damaged, or of another format.
        """
        if not Path(path).is_file():
            return cls()
        content = read_object(path, finite=False)  # a rule that may never call has an infinite threshold
        if content.get("format") != FORMAT:
            raise WheelsError(f"{path}: not a calibration of format {FORMAT}; remove it, and calibrate the model again")
        try:
            points = [record_of(Point, point, f"{path}") for point in content["points"]]
            facts = {name: content[name] for name in ("data", "data_digest", "rows", "date")}
            later = {name: content[name] for name in ("model_digest", "config") if name in content}
            return cls(points, **facts, **later)
        except (KeyError, TypeError) as error:
            raise WheelsError(f"{path}: damaged ({error}); remove it, and calibrate the model again") from error

    def save(self, path: Path | str) -> Path:
        """Write `calibration.json`, atomically."""
        return write_json(path, {"format": FORMAT, **asdict(self)})

    def threshold(self, rule: str, budget: float, seed: int = 0) -> float:
        """Return the threshold for a budget: linear between the calibrated points by measured use.

        Budget 0 is plus infinity (never), budget 1 minus infinity (always).

        Raises:
            NotCalibrated: where the rule and seed were not calibrated, or the budget lies outside what was.
        """
        check_budget(budget)
        if budget in (0.0, 1.0):
            return float("inf") if budget == 0 else float("-inf")
        known = sorted((p.use, -p.threshold) for p in self.points if p.rule == rule and p.seed == seed)
        exact = [p.threshold for p in self.points if (p.rule, p.seed, p.budget) == (rule, seed, budget)]
        if exact:
            return exact[0]
        if not known or not known[0][0] <= budget <= known[-1][0]:
            have = f"calibrated from {known[0][0]:.3f} to {known[-1][0]:.3f} only" if known else "not calibrated"
            raise NotCalibrated(
                f"rule {rule!r} (seed {seed}) is {have}, so no threshold is known for budget {budget:g}"
            )
        return -_interpolated(known, budget)

    def nearest(self, rule: str, budget: float, seed: int = 0) -> float:
        """Return the threshold for a budget, or for the nearest calibrated use: the start of online mode.

        Raises:
            NotCalibrated: where the rule and seed were not calibrated.
        """
        check_budget(budget)
        finite, known = [p for p in self.points if math.isfinite(p.threshold)], self._finite(rule, seed)
        try:
            return Calibration(finite).threshold(rule, budget, seed)
        except NotCalibrated:
            if not known:
                raise
            return min(known, key=lambda point: abs(point[0] - budget))[1]

    def levels(self, rule: str, seed: int = 0) -> tuple[tuple[float, float], ...]:
        """Return the measured uses in rising order with their thresholds: the path of online mode.

        A point counts whose threshold is lower than those of smaller uses: the others are noise, or never call.

        Raises:
            NotCalibrated: where fewer than two are left.
        """
        found: list[tuple[float, float]] = []
        for use, threshold in self._finite(rule, seed):
            if not found or (use > found[-1][0] and threshold < found[-1][1]):
                found.append((use, threshold))
        if len(found) < 2:
            raise NotCalibrated(
                f"rule {rule!r} (seed {seed}) is calibrated at fewer than two uses with thresholds of their own, so "
                "online mode does not know how far to move"
            )
        return tuple(found)

    def _finite(self, rule: str, seed: int) -> list[tuple[float, float]]:
        """Return the measured uses in rising order with their thresholds, without those that never call."""
        points = [point for point in self.points if (point.rule, point.seed) == (rule, seed)]
        return sorted((p.use, p.threshold) for p in points if math.isfinite(p.threshold))

    def others(self, keys: Iterable[tuple[str, int, float]]) -> list[Point]:
        """Return the points that are of none of these rules, seeds and budgets."""
        fresh = set(keys)
        return [point for point in self.points if point.key not in fresh]

    def check_alike(self, new: Calibration) -> None:
        """Check that another calibration was measured on the same thing: only then can their points be merged.

        What a file of an older version does not say is taken to be alike.

        Raises:
            WheelsError: naming the first thing in which they differ.
        """
        before, now = self._conditions(), new._conditions()
        for name, old in before.items():
            if old and old != now[name]:
                raise WheelsError(f"holds thresholds that were measured with {name} {old!r}, not {now[name]!r}")

    def _conditions(self) -> dict[str, Any]:
        """Return everything that a threshold's use depends on."""
        facts = {"data_digest": self.data_digest, "rows": self.rows, "model_digest": self.model_digest}
        return facts | {name: self.config.get(name) for name in MEASURED_WITH}


def _interpolated(known: list[tuple[float, float]], at: float) -> float:
    """Return the linear interpolation at `at` between (x, y) points in rising order."""
    for (left, low), (right, high) in itertools.pairwise(known):
        if left <= at <= right:
            return low if right == left else low + (high - low) * (at - left) / (right - left)
    return known[-1][1]
