"""Texts and states that are fed take the rows in order; a row that finds none is idle and costs nothing."""

from typing import Any

import numpy as np
import pytest

from tests.envs.tiny import LIMIT, ROWS
from wheels.envs.deferral import DeferralEnv
from wheels.envs.settings import Start
from wheels.envs.state import EpisodeState
from wheels.envs.vector import DeferralVectorEnv
from wheels.errors import WheelsError
from wheels.models.pair import Pair

STARTS = [Start(index, seed, budget, 0.5) for seed, (index, budget) in enumerate(((3, 1.0), (0, 0.3), (1, 0.6)) * 3)]


def make(pair: Pair, rows: int, **settings: Any) -> DeferralVectorEnv:
    return DeferralVectorEnv(rows, pair, ROWS, max_new_tokens=LIMIT, **settings)


def play(envs: DeferralVectorEnv) -> dict[int, list[int]]:
    """Play all that was fed, by calling where the position is odd; return the tokens of each number."""
    tokens: dict[int, list[int]] = {}
    while envs.waiting or envs.active_B.any():
        active_B, numbers = envs.active_B.numpy().copy(), envs.numbers.copy()
        _, _, _, _, info = envs.step(envs.state.position_B.numpy() % 2)
        for row in np.flatnonzero(active_B):
            tokens.setdefault(int(numbers[row]), []).append(int(info["token"][row]))
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_each_text_is_played_once_whatever_the_rows(pair: Pair, rows: int) -> None:
    envs = make(pair, rows, mode="strict")
    assert envs.feed(STARTS) == range(9)
    envs.reset(seed=0)
    tokens = play(envs)
    assert sorted(tokens) == list(range(9))
    env = DeferralEnv(pair, ROWS, max_new_tokens=LIMIT, mode="strict")
    for number, start in enumerate(STARTS):
        env.reset(options={"index": start.index, "seed": start.seed, "budget": start.budget, "price": start.price})
        own, ended = [], False
        while not ended:
            _, _, terminated, truncated, info = env.step(len(own) % 2)
            own.append(info["token"])
            ended = terminated or truncated
        assert tokens[number] == own


def test_a_row_without_a_text_is_idle_until_more_is_fed(t5_pair: Pair) -> None:
    envs = make(t5_pair, 4)
    envs.feed(STARTS[:2])
    observation, info = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)
    assert envs.numbers.tolist() == [0, 1, -1, -1]
    assert envs.starts == [*STARTS[:2], None, None]
    assert envs.active_B.tolist() == [True, True, False, False]
    read: list[int] = []
    runner = envs.episodes.passes.student
    plain = runner.read
    runner.read = lambda rows_R, *rest: (read.append(len(rows_R)), plain(rows_R, *rest))[1]  # type: ignore[method-assign]
    observation, reward_B, terminated_B, truncated_B, info = envs.step(np.ones(4, dtype=np.int64))
    assert read == [2]
    assert info["author"][2:].tolist() == ["", ""]
    assert reward_B[2:].tolist() == [0.0, 0.0]
    assert not (terminated_B | truncated_B)[2:].any()
    (state,) = envs.snapshot([0])
    assert envs.feed([state, STARTS[5]]) == range(2, 4)
    assert envs.waiting == 2
    _, _, _, _, info = envs.step(np.ones(4, dtype=np.int64))
    assert envs.waiting == 0
    assert envs.numbers[2:].tolist() == [2, 3]
    assert info["index"].tolist() == [3, 0, 3, STARTS[5].index]
    assert envs.state.position_B.tolist() == [2, 2, 1, 0]
    # Two rows that go on, and the new text; a state is read by nobody.
    assert read == [2, 3]
    play(envs)
    read.clear()
    observation, reward_B, *_ = envs.step(np.ones(4, dtype=np.int64))
    assert read == []
    assert envs.observation_space.contains(observation)
    assert envs.numbers.tolist() == [-1] * 4


def test_texts_are_drawn_again_once_nothing_is_fed(t5_pair: Pair) -> None:
    envs = make(t5_pair, 3)
    drawn = envs.reset(seed=4)[1]["index"].tolist()
    envs.feed(STARTS)
    assert envs.reset(seed=4)[1]["index"].tolist() == [start.index for start in STARTS[:3]]
    envs.feed(None)
    assert envs.reset(seed=4)[1]["index"].tolist() == drawn
    assert envs.numbers.tolist() == [-1] * 3
    assert envs.feed(STARTS[:1]) == range(9, 10)
    envs.reset()  # drops what the rows were doing
    assert envs.active_B.tolist() == [True, False, False]
    assert envs.numbers.tolist() == [9, -1, -1]


def test_what_cannot_be_fed(t5_pair: Pair) -> None:
    envs, other = make(t5_pair, 2), make(t5_pair, 2, mode="strict")
    other.reset(seed=0)
    (state,) = other.snapshot([0])
    assert isinstance(state, EpisodeState)
    for start, message in (
        (state, "of an environment with other settings"),
        (Start(9, 0, 0.1, 0.0), r"index must be in \[0, 5\], got 9"),
        (Start(0, 0, 1.5, 0.0), r"budget must be in \[0, 1\], got 1.5"),
        (3, "start must be a wheels.envs.Start"),
    ):
        with pytest.raises(WheelsError, match=message):
            envs.feed([STARTS[0], start])  # type: ignore[list-item]
    assert envs.waiting == 0
    envs.feed(STARTS)
    with pytest.raises(WheelsError, match="what was fed has its own index, seed, budget and price"):
        envs.reset(seed=0, options={"budget": 0.5})
