"""What every stage of one seed's training is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from wheels.agents.config import TrainConfig
from wheels.agents.regression.warm_start import WarmStart
from wheels.agents.runlog import Metrics, shared_chunks
from wheels.data.tasks import Row
from wheels.envs.vector import DeferralVectorEnv
from wheels.models.pair import Pair

TURN_DRAWS = 10_007
"""More than the numbers of one turn's jobs."""


@dataclass(frozen=True)
class SeedRun:
    """One seed of a run of `wheels train`."""

    config: TrainConfig
    pair: Pair
    rows: Sequence[Row]
    """The training rows, with further references where the reward reads them."""
    metric: str
    """The sentence metric of rewards."""
    seed: int
    """Of all that is drawn."""
    accelerator: Accelerator
    metrics: Metrics
    """Where figures are noted."""
    turn: int = 0
    """Of the student, from 1 on; 0: the head's own training, after the last."""

    @property
    def folder(self) -> Path:
        """Where the stages keep what they have made."""
        place = Path(self.config.output) / ".training" / f"seed-{self.seed}"
        return place / f"turn-{self.turn}" if self.turn else place

    def parts(
        self, name: str, count: int, make: Callable[[int], Mapping[str, Any]], title: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the parts of a long job, each of which is kept (`wheels.agents.runlog.shared_chunks`)."""
        return shared_chunks(self.folder, name, range(count), make, self.accelerator, title)

    def count_of(self, name: str) -> int:
        """Return a number of texts, such as `texts`, for these rows."""
        return self.config.count_of(name, len(self.rows))

    def draws(self, number: int) -> int:
        """Return a seed of its own for each numbered job of each turn."""
        return self.seed * 1_000_003 + self.turn * TURN_DRAWS + number

    def note(self, figures: Mapping[str, Any]) -> None:
        """Write figures to `metrics.jsonl`, with the turn that they are of."""
        self.metrics.write({**({"turn": self.turn} if self.turn else {}), **figures})

    def regression(self, batch: int = WarmStart.batch) -> WarmStart:
        """Return how a head is regressed."""
        config = self.config
        return WarmStart(
            epochs=config.warm_epochs,
            batch=batch,
            learning_rate=config.warm_learning_rate,
            seed=self.seed,
            width=config.width,
            vocab_size=self.pair.vocab_size,
        )


def environment_of(
    config: TrainConfig, pair: Pair, rows: Sequence[Row], metric: str, scale: float = 1.0
) -> DeferralVectorEnv:
    """Return the environment of a run: its reward is the metric of the finished text, in points, times `scale`."""
    return DeferralVectorEnv(
        config.batch_size,
        pair,
        rows,
        reward="terminal",
        metric=metric,
        terminal_scale=scale,
        max_new_tokens=config.max_new_tokens,
        budget=config.budgets,
        observed=(),
    )
