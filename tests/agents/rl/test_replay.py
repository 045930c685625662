"""Episodes, their batches, and a replay that stays within its room and continues exactly."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wheels.agents.rl.episode import Episode, collate, pack, unpack
from wheels.agents.rl.replay import Replay
from wheels.errors import WheelsError

WIDTH = 2


def episode(number: int, steps: int = 3, *, on_policy: bool = True) -> Episode:
    """An episode whose budget tells which one it is."""
    generator = torch.Generator().manual_seed(number)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    return Episode(
        features_TF=draw(steps, WIDTH),
        final_features_F=draw(WIDTH),
        call_T=draw(steps) < 0.5,
        regret_T=draw(steps),
        log_p_token_T=-draw(steps),
        log_q_token_T=-draw(steps),
        call_logit_T=draw(steps),
        cost_T=torch.ones(steps),
        budget=number / 1024,
        price=number / 3,
        terminated=number % 2 == 0,
        terminal_reward=number / 5,
        on_policy=on_policy,
    )


def numbers(episodes: list[Episode]) -> list[int]:
    return [round(each.budget * 1024) for each in episodes]


def same(left: Episode, right: Episode) -> bool:
    pairs = [(getattr(left, field.name), getattr(right, field.name)) for field in fields(Episode)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


# --- episodes and batches ---------------------------------------------------------------------------------------------


def test_an_episode_knows_its_length_and_use() -> None:
    called = replace(episode(1, 4), call_T=torch.tensor([True, False, False, False]))
    assert len(called) == 4 and called.use == 0.25
    assert replace(called, call_T=torch.ones(4, dtype=torch.bool)).use == 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features_TF", torch.zeros(0, WIDTH), r"features_TF must be \[T, F\] with T >= 1, got \(0, 2\)"),
        ("features_TF", torch.zeros(3), r"features_TF must be \[T, F\]"),
        ("features_TF", torch.zeros(3, WIDTH).double(), "features_TF must be torch.float32"),
        ("call_T", torch.zeros(3), "call_T must be torch.bool of shape .3,., got torch.float32"),
        ("regret_T", torch.zeros(2), r"regret_T must be torch.float32 of shape \(3,\), got torch.float32 of \(2,\)"),
        ("regret_T", torch.tensor([0.0, -0.5, 0.0]), "regret_T must be >= 0 at every state, got -0.5"),
        ("regret_T", torch.tensor([0.0, torch.nan, 0.0]), "regret_T must be >= 0 at every state, got nan"),
        ("cost_T", torch.tensor([-1.0, 0.0, 0.0]), "cost_T must be >= 0"),
        ("final_features_F", torch.zeros(3), r"final_features_F must be torch.float32 of shape \(2,\)"),
    ],
)
def test_an_episode_is_checked(field: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(episode(1), **{field: value})


def test_a_batch_is_its_episodes_padded() -> None:
    episodes = [episode(1, 3), episode(2, 1, on_policy=False), episode(3, 2)]
    made = collate(episodes)
    assert len(made) == 3
    assert made.mask_BT.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert made.on_policy_B.tolist() == [True, False, True] and made.terminated_B.tolist() == [False, True, False]
    for row, each in enumerate(episodes):
        for name in ("features_TF", "call_T", "regret_T", "log_p_token_T", "log_q_token_T", "call_logit_T", "cost_T"):
            padded = getattr(made, name.replace("_T", "_BT"))[row]
            assert torch.equal(padded[: len(each)], getattr(each, name)) and not padded[len(each) :].any()
            assert padded.dtype == getattr(each, name).dtype
        assert torch.equal(made.final_features_BF[row], each.final_features_F)
        for name in ("budget", "price", "terminal_reward"):
            assert getattr(made, f"{name}_B")[row].item() == pytest.approx(getattr(each, name))
    assert made.to("cpu").mask_BT.equal(made.mask_BT)


def test_a_batch_needs_episodes_of_one_width() -> None:
    with pytest.raises(ValueError, match="at least one episode, got none"):
        collate([])
    wide = replace(episode(1), features_TF=torch.zeros(3, 5), final_features_F=torch.zeros(5))
    with pytest.raises(ValueError, match=r"equally wide features, got widths \[2, 5\]"):
        collate([episode(1), wide])


@given(st.lists(st.integers(1, 5), max_size=6))
def test_packing_loses_nothing(lengths: list[int]) -> None:
    episodes = [episode(number, steps, on_policy=number % 3 > 0) for number, steps in enumerate(lengths)]
    unpacked = unpack(pack(episodes))
    assert len(unpacked) == len(episodes)
    assert all(same(a, b) for a, b in zip(episodes, unpacked, strict=True))


# --- replay -----------------------------------------------------------------------------------------------------------

ADDED = st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=30)


def made(added: list[tuple[int, bool]], seed: int = 0, share: float = 0.5, capacity: int = 20) -> Replay:
    replay = Replay(capacity, on_policy_share=share, seed=seed)
    replay.add(episode(number, steps, on_policy=own) for number, (steps, own) in enumerate(added))
    return replay


@given(ADDED, st.floats(0, 1))
def test_room_is_counted_in_states_and_never_exceeded(added: list[tuple[int, bool]], share: float) -> None:
    replay = made([], share=share)
    for number, (steps, own) in enumerate(added):
        newest = episode(number, steps, on_policy=own)
        replay.add([newest])
        held = [*replay._kept[True], *replay._kept[False]]
        assert replay.states == sum(len(each) for each in held) <= 20
        assert newest is replay._kept[own][-1] and len(held) == len(replay)
        assert replay.count(on_policy=own) == len(replay._kept[own])
        assert len(held) == number + 1 or replay.states > 20 - 8  # nothing is dropped without need


def test_the_oldest_go_first_and_each_kind_keeps_its_room() -> None:
    replay = made([(4, False)] * 2 + [(4, True)] * 10)
    assert numbers(list(replay._kept[False])) == [0, 1]  # 8 of its 10 states: not crowded out
    assert numbers(list(replay._kept[True])) == [9, 10, 11]
    alone = made([(4, True)] * 10)
    assert numbers(list(alone._kept[True])) == [5, 6, 7, 8, 9]  # all the room while the other kind is absent


@given(ADDED.filter(bool), st.integers(0, 5), st.integers(1, 9))
def test_a_resumed_replay_draws_what_the_whole_one_does(added: list[tuple[int, bool]], draws: int, count: int) -> None:
    whole = made(added, seed=3)
    for _ in range(draws):
        whole.sample(count)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = Replay(20, seed=99)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.states == whole.states and len(resumed) == len(whole)
    for _ in range(3):
        pairs = zip(whole.sample(count), resumed.sample(count), strict=True)
        assert all(same(a, b) for a, b in pairs)
    for replay in (whole, resumed):
        replay.add([episode(500, 8), episode(501, 8, on_policy=False)])
    assert numbers(whole.sample(20)) == numbers(resumed.sample(20))


def test_sampling_depends_on_its_own_seed_alone() -> None:
    def drawn(replay_seed: int, global_seed: int) -> list[int]:
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        return numbers(made([(1, True)] * 10 + [(1, False)] * 10, replay_seed).sample(30))

    assert drawn(1, 0) == drawn(1, 7) != drawn(2, 0)
    before = torch.get_rng_state()
    made([(1, True)] * 4).sample(30)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_kinds_are_mixed_in_their_ratio(share: float) -> None:
    replay = made([(1, True)] * 5 + [(1, False)] * 5, share=share)
    own = [sum(each.on_policy for each in replay.sample(3)) for _ in range(1000)]
    assert set(own) <= {int(3 * share), int(3 * share) + 1}
    assert sum(own) / 3000 == pytest.approx(share, abs=0.02)


def test_an_absent_kind_is_made_up_for() -> None:
    assert all(each.on_policy for each in made([(1, True)] * 3, share=0.0).sample(9))
    assert not any(each.on_policy for each in made([(1, False)] * 3, share=1.0).sample(9))
    assert made([(1, True)]).sample(0) == []


def test_every_episode_is_drawn_equally_often() -> None:
    replay = made([(1, True), (5, True), (2, True), (1, True)], share=1.0)
    counts = np.bincount(numbers(replay.sample(8000)))
    assert (abs(counts - 2000) < 150).all()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Replay(0), "replay capacity must be at least 1 state, got 0"),
        (lambda: Replay(9, on_policy_share=1.5), r"on_policy_share must be in \[0, 1\], got 1.5"),
        (lambda: Replay(9).sample(1), "the replay is empty"),
        (lambda: Replay(2).add([episode(1, 3)]), "an episode of 3 states does not fit a replay of 2"),
        (lambda: Replay(2).load_state_dict(made([(3, True)]).state_dict()), "holds 3 states, this one takes 2"),
    ],
)
def test_replay_refuses(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(WheelsError, match=message):
        act()
