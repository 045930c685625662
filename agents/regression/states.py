"""The states of the warm start: texts on mixed paths, made by calls at random, each state with its regret."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from wheels.agents.runlog import shared_chunks
from wheels.agents.seed_run import SeedRun
from wheels.data.tasks import Row
from wheels.decoding.across.regrets import seen_regrets
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rules import random_score
from wheels.decoding.params import DecodeParams
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode

CHUNK = 2048
"""Sources that are decoded between two writes to disk, at most."""
FEWEST = 64
"""The same at least."""
A_SOURCE = 32
"""States of a source, about: where few are wanted few sources are decoded."""
MIXED_BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Rates of random calls, in turn: paths near the student's own and near the teacher's."""


@dataclass(frozen=True)
class RandomBudgetRule:
    """Calls with a probability that is the row's budget."""

    name: str = "random"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        """Draw whether each row calls."""
        return random_score(step) < step.budget_B


def collect(run: SeedRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features `[N, F]` and regrets `[N]`, nats, of `config.states` states or more, or of all rows.

    Each chunk of sources is kept, so a killed run decodes none of them twice. Under several processes each makes every
    n-th chunk, and all read all.
    """
    order = torch.randperm(len(run.rows), generator=torch.Generator().manual_seed(run.seed)).tolist()
    size = min(CHUNK, max(FEWEST, run.config.states // A_SOURCE))
    parts = [[run.rows[place] for place in order[start : start + size]] for start in range(0, len(order), size)]
    found: list[dict[str, torch.Tensor]] = []
    shown, processes = run.accelerator.is_main_process, run.accelerator.num_processes
    with tqdm(total=len(order), desc="states", unit="source", file=sys.stderr, disable=not shown or None) as bar:

        def make(number: int) -> dict[str, torch.Tensor]:
            return _states(run, parts[number], number, bar)

        for first in range(0, len(parts), processes):
            these = range(first, min(first + processes, len(parts)))
            states = sum(len(part["regret"]) for part in found)
            if states >= run.config.states:
                break
            for part in shared_chunks(run.folder, "states", these, make, run.accelerator):
                if states < run.config.states:  # as many chunks as one process would make
                    found.append(part)
                states += len(part["regret"])
            bar.update(sum(map(len, parts[: these.stop])) - bar.n)
            bar.set_postfix_str(f"{states} states")
    return torch.cat([part["features"] for part in found]), torch.cat([part["regret"] for part in found])


def _states(run: SeedRun, rows: Sequence[Row], number: int, bar: tqdm) -> dict[str, torch.Tensor]:
    """Decode one chunk and return its states."""
    config, sources = run.config, [row.source for row in rows]
    budgets = [MIXED_BUDGETS[place % len(MIXED_BUDGETS)] for place in range(len(rows))]
    params = DecodeParams(max_new_tokens=config.max_new_tokens, seed=run.draws(number))
    method = deferral(RandomBudgetRule(), budgets)
    traces = decode(run.pair, sources, method, params, batch_size=config.batch_size, progress=bar.update)
    texts = [trace.token_ids for trace in traces]
    features, regret = zip(*seen_regrets(run.pair, sources, texts, config.batch_size), strict=True)
    return {"features": torch.cat(features), "regret": torch.cat(regret)}
