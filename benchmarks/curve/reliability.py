"""How well a trained head predicts what a call gains: predicted gain against true regret, state by state.

The states are those of a finished decode, read again by both models (`wheels.decoding.teacher_forcing`). The prediction
is the head's gain under the budget of the decode, in nats; the truth is the regret of the student's greedy token there,
in nats. Axes: N sentences, K groups, Z resamples (row 0 is the sample itself).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wheels.benchmarks.core.bootstrap import Floats, compare, interval, resample_sentences, share
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.decoding.across.regrets import seen_regrets
from wheels.models.artefact import Artefact
from wheels.runs import LINES, cached

GROUPS = 10
MOST_ROWS = 500
"""Rows that are read again at most, spread evenly over the data."""


Judged = dict[str, list[float]]
"""Of the states of one output, in nats: `gain`, what the head predicts of a call; `regret`, what the student's greedy
token costs, >= 0."""


def spread(count: int, most: int = MOST_ROWS) -> list[int]:
    """Return at most `most` of the rows 0 to `count - 1`, spread evenly."""
    return [i * count // min(count, most) for i in range(min(count, most))]


def judge(
    artefact: Artefact, key: PointKey, sources: Sequence[str], records: Sequence[Record], batch_size: int
) -> list[Judged]:
    """Read outputs again and return prediction and truth at each state; an empty output has none."""
    head = artefact.head(key.rule, key.seed)
    written = [index for index, record in enumerate(records) if record.token_ids]
    asked = [sources[index] for index in written], [records[index].token_ids for index in written]
    found: list[Judged] = [{"gain": [], "regret": []} for _ in records]
    for index, (features_NF, regret_N) in zip(written, seen_regrets(artefact.pair, *asked, batch_size), strict=True):
        budget_N = torch.full((len(features_NF),), key.budget, device=head.mean_F.device)
        with torch.no_grad():
            gain_N = head.gain(features_NF.to(head.mean_F.device), budget_N)
        judged = {"gain": gain_N, "regret": regret_N}
        found[index] = {name: [round(value, 5) for value in line.tolist()] for name, line in judged.items()}
    return found


def cached_judged(
    folder: Path,
    made_from: dict[str, Any],
    artefact: Artefact,
    key: PointKey,
    sources: Sequence[str],
    records: Sequence[Record],
    batch_size: int,
) -> list[Judged]:
    """Return what `judge` found before, or judge now and keep it in `folder`; see `wheels.runs.cached`."""
    made_from = made_from | {"read_again": len(records)}
    return cached(folder / key.file_name, made_from, lambda: judge(artefact, key, sources, records, batch_size), LINES)


def reliability(
    judged_IN: Sequence[Sequence[Judged]], resamples: int, seed: int, clip: float = math.inf
) -> dict[str, Any] | None:
    """Return how predictions and truth agree over all states; None without any.

    `explained`: `R^2 = 1 - sum (regret - gain)^2 / sum (regret - mean regret)^2`, the explained share of the variance;
    `slope`: least squares of regret on gain, 1 where a predicted nat is a true nat; each a `Comparison`'s fields.
    `groups`: the tenths of the states by the prediction, lowest first: count, mean prediction, mean truth with its
    interval. A resample draws sentences; a sentence brings its states of every seed. Regrets count for at most `clip`.
    """
    sentence_T = np.array([n for run in judged_IN for n, one in enumerate(run) for _ in one["gain"]], dtype=np.int64)
    gain_T = np.array([gain for run in judged_IN for one in run for gain in one["gain"]])
    regret_T = np.array([min(regret, clip) for run in judged_IN for one in run for regret in one["regret"]])
    if not len(gain_T):
        return None
    weights_ZN = resample_sentences(len(judged_IN[0]), resamples, seed)
    explained_Z, slope_Z = _fit(weights_ZN, sentence_T, gain_T, regret_T)
    return {
        "sentences": len(judged_IN[0]),
        "states": len(gain_T),
        "explained": asdict(compare(explained_Z)),
        "slope": asdict(compare(slope_Z)),
        "groups": _groups(weights_ZN, sentence_T, gain_T, regret_T),
    }


def _fit(weights_ZN: Floats, sentence_T: Any, gain_T: Floats, regret_T: Floats) -> tuple[Floats, Floats]:
    """Return R^2 and slope of each resample, from sums per sentence; nan where nothing varies."""
    # Centred first, so that the differences of sums below lose no digits; neither number depends on it.
    shift = float(regret_T.mean())
    gain_T, regret_T = gain_T - shift, regret_T - shift
    terms = (
        np.ones_like(gain_T),
        gain_T,
        regret_T,
        gain_T**2,
        regret_T**2,
        gain_T * regret_T,
        (regret_T - gain_T) ** 2,
    )
    sums_N7 = np.zeros((weights_ZN.shape[1], len(terms)))
    np.add.at(sums_N7, sentence_T, np.stack(terms, axis=1))
    n, g, r, gg, rr, gr, error = (weights_ZN @ sums_N7).T
    n = np.maximum(n, 1.0)
    spread_g, spread_r = gg - g * g / n, rr - r * r / n
    return 1.0 - share(error, np.where(spread_r > 1e-9, spread_r, 0.0)), share(
        gr - g * r / n, np.where(spread_g > 1e-9, spread_g, 0.0)
    )


def _groups(weights_ZN: Floats, sentence_T: Any, gain_T: Floats, regret_T: Floats) -> list[dict[str, Any]]:
    """Return the states in `GROUPS` groups of equal size, by the prediction."""
    found = []
    for states in np.array_split(np.argsort(gain_T, kind="stable"), min(GROUPS, len(gain_T))):
        sums_N2 = np.zeros((weights_ZN.shape[1], 2))
        np.add.at(sums_N2, sentence_T[states], np.stack([regret_T[states], np.ones(len(states))], axis=1))
        regret_Z, states_Z = (weights_ZN @ sums_N2).T
        mean_Z = share(regret_Z, states_Z)
        group = {"states": len(states), "gain": float(gain_T[states].mean())}
        found.append(group | interval(mean_Z, "regret", "low", "high", least=0.0))
    return found
