"""Episodes from mixed paths, collected once for all seeds and kept on disk during training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.agents.rl.episode import Episode, pack, unpack
from wheels.agents.rl.rollout import random_behaviour, roll_out
from wheels.agents.runlog import load_state, reading, save_state
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

    Each chunk of sources is written when it is done, so a killed run decodes none of them twice. Under several
    processes each takes every n-th chunk, and all read all.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    episodes: list[Episode] = []
    states = 0
    with tqdm(
        total=len(rows),
        desc="states",
        unit="source",
        file=sys.stderr,
        disable=not accelerator.is_main_process or None,
    ) as bar:
        for first in range(0, len(chunks), accelerator.num_processes):
            mine = first + accelerator.process_index
            if mine < len(chunks):
                _collect_chunk(pair, chunks[mine], config, folder / f"states-{mine}.pt", mine, bar)
            accelerator.wait_for_everyone()
            for number in range(first, min(first + accelerator.num_processes, len(chunks))):
                path = folder / f"states-{number}.pt"
                with reading(path):
                    episodes += unpack(load_state(path))
            states = sum(map(len, episodes))
            if states >= config.states:
                break
        bar.set_postfix_str(f"{states} states")
    return episodes


def _collect_chunk(pair: Pair, rows: Sequence[Row], config: TrainConfig, path: Path, number: int, bar: tqdm) -> None:
    """Decode one chunk and write its episodes, unless they exist."""
    if path.is_file():
        bar.update(len(rows))
        return
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
    )
    save_state(path, pack(episodes))


def stacked(episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features `[N, F]` and regrets `[N]` of all states."""
    return (
        torch.cat([episode.features_TF for episode in episodes]),
        torch.cat([episode.regret_T for episode in episodes]),
    )
