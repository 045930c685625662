"""The present state of an episode, both models' caches included: other episodes can begin there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wheels.data.tasks import Row
from wheels.decoding.models.output import Output
from wheels.decoding.passes import SlotState
from wheels.envs.settings import Settings, Start, check_start
from wheels.errors import WheelsError
from wheels.models.pair import Pair


@dataclass(frozen=True, eq=False)
class Origin:
    """What environments have in common that can go on from each other's states."""

    pair: Pair
    rows: Sequence[Row]
    settings: Settings

    def check(self, other: Origin) -> None:
        """Raise a `WheelsError` where a state of `other` cannot go on here."""
        if self is other:
            return
        same = {
            "pair": self.pair is other.pair,
            "rows": self.rows is other.rows or list(self.rows) == list(other.rows),
            "settings": self.settings == other.settings,
        }
        if different := [name for name, alike in same.items() if not alike]:
            raise WheelsError(
                f"this state is of an environment with other {' and '.join(different)}; fork it where it was taken, or "
                "in an environment with the same pair, rows and settings"
            )


@dataclass(frozen=True, eq=False)
class EpisodeState:
    """An episode that waits for its next action. It belongs to no row, and outlives its own episode.

    Its caches are copies: a few hundred bytes a token, layer and model, so keep as many as are still to be played.
    """

    start: Start
    """How the episode began."""
    text: SlotState
    """Its text, and what both models have read."""
    output: Output
    """What the student computed there, `[V]` and `[D]`: it reads nothing again."""
    teacher_V: torch.Tensor | None
    """The teacher's logits there, where the reward asked for them."""
    origin: Origin

    @property
    def tokens(self) -> list[int]:
        """The tokens written so far."""
        return list(self.text.sequence.tokens)

    @property
    def by_teacher(self) -> list[bool]:
        """Who wrote each of them."""
        return list(self.text.sequence.by_teacher)

    def under(
        self, *, budget: float | None = None, price: float | None = None, seed: int | None = None
    ) -> EpisodeState:
        """Return the same state with another budget, price or seed for what follows; caches are shared, not copied.

        Raises:
            WheelsError: for a value out of its range.
        """
        given: dict[str, Any] = {"budget": budget, "price": price, "seed": seed}
        changed = replace(self.start, **{name: value for name, value in given.items() if value is not None})
        start = check_start(changed, len(self.origin.rows))
        sequence = replace(self.text.sequence, budget=start.budget, seed=start.seed)
        return replace(self, start=start, text=replace(self.text, sequence=sequence))
