"""The states of the warm start: random calls at rates that take turns, whole texts, until there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import write
from wheels.agents.regression import states as module
from wheels.agents.regression.states import MIXED_BUDGETS, RandomBudgetRule, collect
from wheels.data.tasks import Row
from wheels.decoding.streaming import decode
from wheels.decoding.teacher_forcing import teacher_force
from wheels.decoding.trace import Trace, teacher_use
from wheels.models.pair import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


def test_a_row_calls_as_often_as_its_budget_says(pair: Pair) -> None:
    rows = sources(40) * 2
    for budget in (0.0, 0.2, 1.0):
        use = teacher_use(write(pair, rows, RandomBudgetRule(), budget=budget, max_new_tokens=LIMIT, seed=3))
        assert use == pytest.approx(budget, abs=0.04 if 0 < budget < 1 else 0.0)


@pytest.mark.parametrize(("asked", "chunks"), [(1, 1), (100, 2), (10**6, 3)])
def test_whole_chunks_are_read_until_there_are_enough_states(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, chunks: int
) -> None:
    """Each state is one of a text that random calls have written; the budgets take turns."""
    written: list[Trace] = []
    texts: list[str] = []

    def noted(pair: Pair, chosen: list[str], *more: Any, **named: Any) -> list[Trace]:
        found = decode(pair, chosen, *more, **named)
        written.extend(found)
        texts.extend(chosen)
        return found

    monkeypatch.setattr(module, "CHUNK", 10)
    monkeypatch.setattr(module, "decode", noted)
    rows = [Row(source, "a") for source in sources(30)]
    features_NF, regret_N = collect(seed_run(pair, rows, tmp_path, states=asked))
    tokens = [trace.tokens for trace in written]
    assert len(written) == 10 * chunks
    assert len(features_NF) == len(regret_N) == sum(tokens)
    assert asked > sum(tokens[:-10])
    assert [trace.budget for trace in written] == [*MIXED_BUDGETS] * (2 * chunks)
    rest = [*sources(30)]
    for chosen in texts:
        rest.remove(chosen)  # no row is written twice
    scored = teacher_force(pair, pair.encode(texts), [trace.token_ids for trace in written])
    torch.testing.assert_close(regret_N, torch.cat([each.regret_T for each in scored]), atol=1e-4, rtol=1e-4)


def test_few_states_decode_few_sources(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model does not write the whole of a data set for them."""
    asked: list[int] = []
    monkeypatch.setattr(module, "FEWEST", 4)
    monkeypatch.setattr(module, "A_SOURCE", 4)
    monkeypatch.setattr(
        module,
        "decode",
        lambda pair, some, *more, **named: asked.append(len(some)) or decode(pair, some, *more, **named),
    )
    rows = [Row(source, "a") for source in sources(30)]
    _, regret_N = collect(seed_run(pair, rows, tmp_path, states=40))
    assert set(asked) == {10} and sum(asked) < 30 and len(regret_N) >= 40
