"""Spaces, observations and infos of the environments, as fresh numpy arrays of B rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from wheels.decoding.trace import STUDENT, TEACHER
from wheels.envs.episodes import EpisodeBatch, StepResult
from wheels.envs.settings import Settings
from wheels.models.pair import Pair
from wheels.policy.features import feature_width

Observation = dict[str, Any]


def observation_space(pair: Pair, settings: Settings) -> spaces.Dict:
    """Return the space of one episode's observations.

    `features` are `Step.features_BF`; `budget` and `budget_left` shares; `price` nats per teacher token; `tokens` the
    output so far, padded on the right, and `length` how many of them are real.
    """
    hidden = int(pair.student.get_output_embeddings().weight.shape[1])
    longest, highest = settings.max_new_tokens, max(pair.vocab_size - 1, pair.pad_id)
    parts: dict[str, spaces.Space[Any]] = {
        "features": spaces.Box(-np.inf, np.inf, (feature_width(hidden),), np.float32),
        "budget": spaces.Box(0.0, 1.0, (1,), np.float32),
        "budget_left": spaces.Box(-1.0, 1.0, (1,), np.float32),
        "price": spaces.Box(0.0, np.inf, (1,), np.float32),
        "tokens": spaces.Box(0, highest, (longest,), np.int64),
        "length": spaces.Box(0, longest, (1,), np.int64),
    }
    return spaces.Dict({name: parts[name] for name in settings.observed})


def action_space(pair: Pair, settings: Settings) -> spaces.Discrete:
    """Return `Discrete(V + 1)` (flat: a token, or V to call) or `Discrete(2)` (factorised: 0 writes, 1 calls)."""
    return spaces.Discrete(2 if settings.actions == "factorised" else pair.vocab_size + 1)


def observe(episodes: EpisodeBatch) -> Observation:
    """Return the observations of all rows: the parts that the settings name."""
    parts: dict[str, Callable[[], np.ndarray]] = {
        "features": lambda: array_of(episodes.state.features_BF, np.float32),
        "budget": lambda: array_of(episodes.texts.budget_Q[:, None], np.float32),
        "budget_left": lambda: array_of(episodes.budget_left_B()[:, None], np.float32),
        "price": lambda: array_of(episodes.price_B[:, None], np.float32),
        "tokens": lambda: array_of(episodes.outputs_BT(), np.int64),
        "length": lambda: array_of(episodes.position_B[:, None], np.int64),
    }
    return {name: parts[name]() for name in episodes.settings.observed}


def infos_of(episodes: EpisodeBatch, written: StepResult) -> dict[str, np.ndarray]:
    """Return the infos that every step has, of all rows.

    `index` of the data's row; the `token` that was written (-1 at an episode's beginning) and its `author` (""
    there); its `cost` (tokens of the teacher); `call_refused`; `teacher_tokens` and `teacher_use` so far;
    `budget_left`; and `action_mask` of the state that follows.
    """
    took_part_B = array_of(written.token_B >= 0, np.bool_)
    by_teacher_B = array_of(written.by_teacher_B, np.bool_)
    calls_B, position_B = array_of(episodes.texts.calls_Q, np.int64), array_of(episodes.position_B, np.int64)
    return {
        "index": array_of(episodes.texts.index_Q, np.int64),
        "token": array_of(written.token_B, np.int64),
        "author": np.where(took_part_B, np.where(by_teacher_B, TEACHER, STUDENT), "").astype(object),
        "cost": array_of(written.cost_B, np.float64),
        "call_refused": array_of(written.refused_B, np.bool_),
        "teacher_tokens": calls_B,
        "teacher_use": calls_B / np.maximum(position_B, 1),
        "budget_left": array_of(episodes.budget_left_B(), np.float64),
        "action_mask": array_of(episodes.mask_BA(), np.int8),
    }


def end_infos(written: StepResult, row: int) -> dict[str, Any]:
    """Return the infos that only the step that ends an episode has.

    Its `text`; its `score`, where the reward has a terminal part; its `record` (`wheels.envs.records.EpisodeRecord`),
    with `reward_mode="episode"`.
    """
    found: dict[str, dict[int, Any]] = {"text": written.texts, "score": written.scores, "record": written.records}
    return {name: values[row] for name, values in found.items() if row in values}


def array_of(tensor: torch.Tensor, dtype: type | None = None) -> np.ndarray:
    """Return a copy of `tensor` as an array of its own, in the same number format unless another is given."""
    return np.array(tensor.detach().cpu().numpy(), dtype=dtype)
