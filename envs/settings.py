"""The settings of an environment, and how each of its episodes begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import numpy as np

from wheels.decoding.params import LARGEST_SEED, LONGEST_OUTPUT
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.envs.allowance import MODES
from wheels.envs.rewards import PARTS
from wheels.errors import (
    MOST_WHOLE,
    WheelsError,
    check_budget,
    check_choice,
    check_kind,
    check_number,
    check_whole,
    did_you_mean,
)

ACTIONS = ("factorised", "flat")
"""`factorised`: 0 writes the student's own choice, 1 calls. `flat`: a token of the vocabulary, or V to call."""

OBSERVATIONS = ("features", "budget", "budget_left", "price", "tokens", "length")
"""What can be observed (`wheels.envs.views`)."""

REWARD_MODES = ("step", "episode")
"""`step`: at every state, so that each reward is whole. `episode`: once the text has ended, in one pass over it. Until
then a step earns what costs nothing (price, terminal part); the rest stands in the record (`wheels.envs.views`)."""

OPTIONS = ("index", "seed", "budget", "price")
"""What `reset(options=...)` can fix of an episode; the rest is drawn, or as in the settings."""


@dataclass(frozen=True)
class Settings:
    """How the environment behaves. Every field is a keyword of `gymnasium.make("wheels/Deferral-v0", ...)`."""

    actions: str = "factorised"
    """One of `ACTIONS`."""
    budget: float | tuple[float, ...] = 0.2
    """The teacher budget, a share in [0, 1]; of several, each episode draws one."""
    mode: str = "average"
    """How it is kept: `average`, `strict` or `episode` (`wheels.envs.allowance`)."""
    burst: int = 0
    """Teacher tokens that strict mode may spend ahead."""
    price: float = 0.0
    """Nats per teacher token, shown in the observation; it leaves the reward alone unless `charge_price`."""
    charge_price: bool = False
    """Whether the reward is `reward - price * cost`, for algorithms that know nothing of costs."""
    reward: str = "regret"
    """`logprob`, `regret`, `terminal`, or a sum such as `regret+terminal` (`wheels.envs.rewards`)."""
    reward_mode: str = "step"
    """When the teacher judges tokens: one of `REWARD_MODES`."""
    metric: str = "chrf"
    """The metric of the terminal reward, a name of `wheels.metrics`, or FILE.py:NAME of your own."""
    terminal_scale: float = 0.1
    """Nats that a point of the metric (0 to 100) is worth."""
    max_new_tokens: int = 128
    """The most tokens of an output; fewer where the models' context is short."""
    sampling: Sampling = GREEDY
    """How student and teacher draw their tokens."""
    observed: tuple[str, ...] = OBSERVATIONS
    """The parts of an observation, of `OBSERVATIONS`; fewer cost less. Who reads `env.state` needs none: `()`."""

    def __post_init__(self) -> None:
        """Check the words and the ranges."""
        check_choice("actions", self.actions, ACTIONS)
        check_choice("mode", self.mode, MODES)
        check_choice("reward_mode", self.reward_mode, REWARD_MODES)
        self._check_reward()
        if not self.budgets:
            raise WheelsError("budget must be a share in [0, 1] or several, got none")
        for budget in self.budgets:
            check_budget(budget, "budget")
        check_number("price", self.price, 0)
        check_number("terminal_scale", self.terminal_scale)
        check_whole("burst", self.burst)
        check_whole("max_new_tokens", self.max_new_tokens, 1, LONGEST_OUTPUT)
        check_kind("charge_price", self.charge_price, bool, "True or False")
        check_kind("observed", self.observed, tuple, f"a tuple of names, of {', '.join(OBSERVATIONS)}")
        for name in self.observed:
            check_choice("observed", name, OBSERVATIONS)
        check_kind("sampling", self.sampling, Sampling, "a Sampling, such as Sampling(temperature=0.7)")

    def _check_reward(self) -> None:
        """Check the parts of the reward, and the metric where one of them needs it."""
        check_kind("reward", self.reward, str, f"one of {', '.join(PARTS)}, or a sum of them")
        for part in self.parts:
            check_choice("reward", part, PARTS)
        if len(set(self.parts)) < len(self.parts):
            raise WheelsError(f"reward must name each part once, got {self.reward!r}")
        if "terminal" in self.parts:
            from wheels.metrics import find_metric

            find_metric(self.metric)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Make settings of keywords.

        Raises:
            WheelsError: for a keyword that is no field, with the one that was probably meant.
        """
        check_keys("setting", given, [field.name for field in fields(cls)])
        return cls(**given)

    @property
    def parts(self) -> tuple[str, ...]:
        """The summands of the reward."""
        return tuple(part.strip() for part in self.reward.split("+"))

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets that an episode may have."""
        return tuple(self.budget) if isinstance(self.budget, tuple | list) else (self.budget,)


class SettingsKeywords(TypedDict, total=False):
    """The fields of `Settings`, as keywords of the environments."""

    actions: str
    budget: float | tuple[float, ...]
    mode: str
    burst: int
    price: float
    charge_price: bool
    reward: str
    reward_mode: str
    metric: str
    terminal_scale: float
    max_new_tokens: int
    sampling: Sampling
    observed: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """How one episode begins."""

    index: int
    """The row of the data."""
    seed: int
    """The seed of its draws; with `index` it fixes them as `wheels.decoding.decode(seed=...)` would."""
    budget: float
    """Its teacher budget, a share."""
    price: float
    """Its price, nats per teacher token."""


def draw_start(generator: np.random.Generator, rows: int, settings: Settings, options: Mapping[str, Any]) -> Start:
    """Draw the beginning of an episode; what `options` fixes is drawn all the same, so the next draws stay as they are.

    Raises:
        WheelsError: for an unknown option, or one out of its range.
    """
    check_keys("option", options, OPTIONS)
    drawn = {
        "index": int(generator.integers(rows)),
        "seed": int(generator.integers(2**31)),
        "budget": settings.budgets[int(generator.integers(len(settings.budgets)))],
        "price": settings.price,
    }
    return check_start(Start(**{**drawn, **options}), rows, "option ")


def check_start(start: Start, rows: int, kind: str = "") -> Start:
    """Return a start in plain numbers.

    Raises:
        WheelsError: for a value out of its range; `kind` goes before its name.
    """
    check_kind("start", start, Start, "a wheels.envs.Start(index, seed, budget, price)")
    index = check_whole(f"{kind}index", start.index, -MOST_WHOLE)
    if not 0 <= index < rows:
        raise WheelsError(f"{kind}index must be in [0, {rows - 1}], got {index}")
    seed = check_whole(f"{kind}seed", start.seed, 0, LARGEST_SEED)
    return Start(index, seed, check_budget(start.budget, f"{kind}budget"), check_number(f"{kind}price", start.price, 0))


def check_keys(kind: str, given: Mapping[str, Any], allowed: list[str] | tuple[str, ...]) -> None:
    """Raise a `WheelsError` for the first key that is not allowed."""
    check_kind(f"{kind}s", given, Mapping, "a dict")
    for key in given:
        if key not in allowed:
            raise WheelsError(f"unknown {kind} {key!r}; known: {', '.join(allowed)}{did_you_mean(key, allowed)}")
