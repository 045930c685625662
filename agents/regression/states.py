"""Episodes from mixed paths, collected once for all seeds and kept on disk during training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.agents.rl.episode import Episode, pack, unpack
from wheels.agents.rl.rollout import random_behaviour, roll_out
from wheels.agents.runlog import shared_chunks
from wheels.data.tasks import Row
from wheels.models.pair import Pair

CHUNK = 2048
"""Sources that are decoded between two writes to disk."""

MIXED_BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Rates of random calls, in turn: paths near the student's own and near the teacher's."""


def collect(
    pair: Pair, rows: Sequence[Row], config: TrainConfig, folder: Path, accelerator: Accelerator
) -> list[Episode]:
    """Return episodes with random calls until there are `config.states` states, or no more rows.

    Each chunk of sources is kept, so a killed run decodes none of them twice. Under several processes each makes every
    n-th chunk, and all read all.
    """
    parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    episodes: list[Episode] = []
    states, shown = 0, accelerator.is_main_process
    with tqdm(total=len(rows), desc="states", unit="source", file=sys.stderr, disable=not shown or None) as bar:

        def make(number: int) -> dict[str, Any]:
            return pack(_roll_out(pair, parts[number], config, number, bar))

        for first in range(0, len(parts), accelerator.num_processes):
            these = range(first, min(first + accelerator.num_processes, len(parts)))
            for part in shared_chunks(folder, "states", these, make, accelerator):
                episodes += unpack(part)
            bar.update(sum(map(len, parts[: these.stop])) - bar.n)
            states = sum(map(len, episodes))
            if states >= config.states:
                break
        bar.set_postfix_str(f"{states} states")
    return episodes


def _roll_out(pair: Pair, rows: Sequence[Row], config: TrainConfig, number: int, bar: tqdm) -> list[Episode]:
    """Decode one chunk and return its episodes."""
    budgets = [MIXED_BUDGETS[place % len(MIXED_BUDGETS)] for place in range(len(rows))]
    episodes, _ = roll_out(
        pair,
        [row.source for row in rows],
        budgets,
        random_behaviour(),
        seed=config.seed * 1_000_003 + number,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        keep_texts=config.train == "student",
        progress=bar.update,
    )  # fmt: skip
    return episodes


def stacked(episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features `[N, F]` and regrets `[N]` of all states."""
    return (
        torch.cat([episode.features_TF for episode in episodes]),
        torch.cat([episode.regret_T for episode in episodes]),
    )
