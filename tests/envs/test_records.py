"""Rewards that are computed at an episode's end are those of each step; nothing is read for them on the way."""

from typing import Any

import numpy as np
import pytest

from tests.envs.tiny import LIMIT, ROWS
from wheels.decoding.models.runner import Pass
from wheels.decoding.sampling import Sampling
from wheels.envs import records
from wheels.envs.deferral import DeferralEnv
from wheels.envs.records import EpisodeRecord
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.models.pair import Pair

# Sums of float32 rewards of up to 20 nats.
ROUNDING = 1e-4
STARTS = [Start(number % len(ROWS), number, (0.3, 1.0)[number % 2], 0.5 + number) for number in range(9)]
SETTINGS: tuple[dict[str, Any], ...] = (
    {"reward": "regret+terminal", "charge_price": True},
    {"reward": "logprob", "sampling": Sampling(temperature=20.0), "mode": "strict"},
    {"reward": "regret+logprob+terminal", "actions": "flat", "mode": "episode"},
    {"reward": "terminal"},
)
Played = dict[int, list[tuple[float, int, bool]]]


def play(envs: DeferralVectorEnv) -> tuple[Played, dict[int, EpisodeRecord]]:
    """Play all that was fed, each text with actions of its own; return what each step said, and the records."""
    steps: Played = {}
    found = {}
    while envs.waiting or envs.active_B.any():
        active, numbers, position_B = envs.active_B.tolist(), envs.numbers.tolist(), envs.state.position_B.tolist()
        drawn = [np.random.default_rng(100 * max(0, n) + p) for n, p in zip(numbers, position_B, strict=True)]
        actions = np.array([int(each.integers(2, envs.single_action_space.n + 2)) - 2 for each in drawn])
        _, reward_B, _, _, info = envs.step(actions)
        for row in np.flatnonzero(active):
            own = steps.setdefault(numbers[row], [])
            own.append((float(reward_B[row]), int(info["token"][row]), info["author"][row] == "teacher"))
            if "record" in info and info["_record"][row]:
                found[numbers[row]] = info["record"][row]
                assert info["text"][row] == found[numbers[row]].text
    return steps, found


def make(pair: Pair, settings: dict[str, Any], reward_mode: str) -> DeferralVectorEnv:
    envs = DeferralVectorEnv(4, pair, ROWS, max_new_tokens=LIMIT, reward_mode=reward_mode, **settings)
    envs.feed(STARTS)
    envs.reset(seed=0)
    return envs


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=[each["reward"] for each in SETTINGS])
def test_a_record_holds_what_each_step_would_have_earned(pair: Pair, settings: dict[str, Any]) -> None:
    steps, none = play(make(pair, settings, "step"))
    late, found = play(make(pair, settings, "episode"))
    assert not none
    assert sorted(found) == sorted(steps) == list(range(len(STARTS)))
    for number, record in found.items():
        rewards, tokens, calls = zip(*steps[number], strict=True)
        assert record.token_T.tolist() == list(tokens) == [token for _, token, _ in late[number]]
        assert record.call_T.tolist() == list(calls)
        assert record.calls == sum(calls)
        assert record.begin == 0
        np.testing.assert_allclose(record.reward_T, rewards, atol=ROUNDING)
        assert float(record.reward_T.sum()) == pytest.approx(sum(rewards), abs=ROUNDING)
        price, terminal = STARTS[number].price if "charge_price" in settings else 0.0, record.score or 0.0
        free = [-price * called for called in calls]
        free[-1] += 0.1 * terminal
        assert [earned for earned, _, _ in late[number]] == pytest.approx(free, abs=ROUNDING)
        assert (record.score is None) is ("terminal" not in settings["reward"])
    assert any(record.calls for record in found.values())
    assert any(reward for own in steps.values() for reward, _, _ in own)


def test_the_teacher_reads_a_text_once_at_its_end(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(4, t5_pair, ROWS, max_new_tokens=LIMIT, reward_mode="episode")
    envs.feed([Start(1, 0, 0.2, 0.0)] * 4)
    journal: dict[str, list[Pass]] = {}
    envs.episodes.passes.keep_journal(journal)
    envs.reset(seed=0)
    while envs.active_B.any():
        assert journal["teacher"] == []
        *_, info = envs.step(np.zeros(4, dtype=np.int64))
    width = len(info["record"][0].token_T)
    assert [(each.rows, each.width, each.context) for each in journal["teacher"] if each.kind == "decode"] == [
        (4, width, 0)
    ]


def test_nothing_is_read_for_a_terminal_reward(t5_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT, reward="terminal", reward_mode="episode")
    monkeypatch.setattr(envs.episodes.passes.teacher, "read", lambda *inputs: pytest.fail("the teacher was asked"))
    envs.reset(seed=0)
    for _ in range(LIMIT):
        envs.step(np.zeros(2, dtype=np.int64))


def test_a_fork_has_the_steps_before_it_too(pair: Pair) -> None:
    settings: dict[str, Any] = {"budget": 1.0, "max_new_tokens": LIMIT}
    env, late = DeferralEnv(pair, ROWS, **settings), DeferralEnv(pair, ROWS, reward_mode="episode", **settings)
    rewards = []
    for each in (env, late):
        each.reset(options={"index": 3})
        for action in (1, 0, 0):
            rewards.append(each.step(action)[1])
    assert rewards[3:] == [0.0] * 3
    for each in (env, late):
        each.reset(options={"fork": each.snapshot()})
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = each.step(0)
            ended = terminated or truncated
            if each is env:
                rewards.insert(-3, reward)
    record = info["record"]
    assert record.begin == 3
    assert record.call_T.tolist() == [True] + [False] * (len(record.token_T) - 1)
    np.testing.assert_allclose(record.reward_T, rewards[:-3], atol=ROUNDING)


@pytest.mark.slow
def test_whole_texts_are_read_in_as_many_passes_as_memory_asks_for(
    t5_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = play(make(t5_pair, SETTINGS[0], "episode"))
    monkeypatch.setattr(records, "LOGITS_AT_A_TIME", 1)
    _, several = play(make(t5_pair, SETTINGS[0], "episode"))
    for number, record in one.items():
        np.testing.assert_allclose(several[number].reward_T, record.reward_T, atol=ROUNDING)
    assert list(records._batches([2, 3, 2], 14)) == [[0], [1], [2]]
    monkeypatch.setattr(records, "LOGITS_AT_A_TIME", 2 * 3 * 14)
    assert list(records._batches([2, 3, 2], 14)) == [[0, 1], [2]]
