"""Forked texts of a pair of two tokenizers, beside the engine's: a call writes as many tokens as its text takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.agents.rl.test_paths import margin_logit
from tests.decoding.across.two import SOURCES, text_pair
from tests.decoding.tiny import write
from tests.marks import slow
from wheels.agents.rl import paths
from wheels.agents.rl.paths import Forks, play
from wheels.data.tasks import Row
from wheels.decoding.across.pair import TextPair
from wheels.decoding.step import Step
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.metrics import sentence_scores

ROWS = [Row(source, "ba du la badu", ("la la du",)) for source in SOURCES]
PRICE, LIMIT = 0.7, 16


@pytest.fixture(scope="module", params=["llama t5 tokens:2", *slow("t5 llama tokens:3")])
def pair(request: pytest.FixtureRequest) -> TextPair:
    return text_pair(*request.param.split())


class Forced:
    """The greedy gate of one text, but with given decisions first; it is asked once for each."""

    name, needs_teacher = "forced", False

    def __init__(self, decisions: list[bool]) -> None:
        self.decisions, self.asked = decisions, 0

    def __call__(self, step: Step) -> torch.Tensor:
        self.asked += 1
        if self.asked <= len(self.decisions):
            return torch.tensor([self.decisions[self.asked - 1]])
        return margin_logit(step, torch.full(step.position_B.shape, PRICE)) > 0


def environment(pair: TextPair, size: int = 3, **settings: object) -> DeferralVectorEnv:
    settings = {"reward": "terminal", "terminal_scale": 1.0, "max_new_tokens": LIMIT, **settings}
    return DeferralVectorEnv(size, pair, ROWS, **settings)  # type: ignore[arg-type]


def starts() -> list[Start]:
    return [Start(index, 5, 0.3, PRICE) for index in range(len(ROWS))]


def test_every_fork_is_the_difference_of_two_texts_of_the_engine(
    pair: TextPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[paths.Fork] = []
    once = Forks.of
    monkeypatch.setattr(Forks, "of", classmethod(lambda cls, forks: made.extend(forks) or once(forks)))
    _, forks = play(environment(pair), starts(), margin_logit, states=4, greedy=True)
    assert forks is not None and len(forks) == len(made) > 10
    assert all(fork.other is not None for fork in made), "nothing is known before"
    for number, fork in enumerate(made):
        row, decisions = ROWS[fork.stem.start.index], fork.stem.call_T[: fork.position]
        both = [
            write(pair, [row.source], Forced([*decisions, call]), max_new_tokens=LIMIT)[0] for call in (False, True)
        ]
        scores = [sum(sentence_scores("chrf", [text.text] * 2, [row.target, *row.references])) / 2 for text in both]
        assert float(forks.reward_N[number]) == pytest.approx(scores[1] - scores[0], abs=1e-3)
        assert float(forks.calls_N[number]) == both[1].teacher_tokens - both[0].teacher_tokens
        assert float(forks.tokens_N[number]) == both[1].tokens - both[0].tokens
        assert float(forks.length_N[number]) == both[fork.called].tokens == fork.stem.tokens
    assert float(forks.calls_N.max()) > 1, "calls buy several tokens"


def test_rows_of_the_environment_do_not_matter(pair: TextPair) -> None:
    found = [play(environment(pair, size), starts(), margin_logit, states=2) for size in (1, 3)]
    (one, forks), (other, others) = found
    assert [stem.token_T for stem in one] == [stem.token_T for stem in other]
    assert [stem.teacher_tokens for stem in one] == [stem.teacher_tokens for stem in other]
    assert forks is not None and others is not None
    for name, value in vars(forks).items():
        torch.testing.assert_close(value, getattr(others, name), atol=1e-4, rtol=1e-4)


def test_what_the_teacher_wrote_is_counted_in_every_text(pair: TextPair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[paths.Fork] = []
    once = Forks.of
    monkeypatch.setattr(Forks, "of", classmethod(lambda cls, forks: made.extend(forks) or once(forks)))
    alone, _ = play(environment(pair), starts(), margin_logit)
    assert sum(stem.teacher_tokens for stem in alone) == sum(stem.calls for stem in alone) > 0
    stems, _ = play(environment(pair), starts(), margin_logit, states=2)
    before = {id(fork): sum(fork.stem.call_T[: fork.position]) for fork in made}
    later = sum(fork.other.calls for fork in made if fork.other is not None and not before[id(fork)])
    rest = sum(stem.teacher_tokens for stem in stems) - sum(stem.calls for stem in stems)
    assert rest >= later > 0


def test_a_call_costs_as_many_tokens_as_it_writes(pair: TextPair) -> None:
    env = environment(pair, 2, charge_price=True, reward="terminal")
    env.feed([Start(0, 1, 0.5, 0.25), Start(3, 1, 0.5, 2.0)])
    env.reset(seed=0)
    costs, rewards, ended = np.zeros(2), np.zeros(2), np.zeros(2, dtype=bool)
    scores = np.zeros(2)
    for number in range(LIMIT):
        _, reward, terminated, truncated, info = env.step(np.full(2, number % 2))
        live = ~ended
        costs += live * info["cost"]
        rewards += live * reward
        now = (terminated | truncated) & live
        if now.any():
            scores[now], totals = info["score"][now], info["teacher_tokens"]
            assert (costs[now] == totals[now]).all()
        ended |= now
        if ended.all():
            break
    assert ended.all() and costs.max() > number // 2
    np.testing.assert_allclose(rewards, scores - costs * np.array([0.25, 2.0]), rtol=1e-5)


def test_a_text_goes_on_from_a_copy_as_it_would_have(pair: TextPair) -> None:
    """The teacher's own tokens and its cache are in it."""
    env = environment(pair, 2)
    env.feed([Start(0, 1, 0.5, 0.0), Start(2, 1, 0.5, 0.0)])
    env.reset(seed=0)
    for action in (1, 0):
        env.step(np.full(2, action))
    kept, written = env.snapshot([0, 1]), outputs(env)
    ends = []
    for _ in range(2):
        for action in (1, 0, 1, 1):
            env.step(np.full(2, action))
        ends.append(outputs(env))
        env.fork([1, 0], kept)
        assert outputs(env) == written[::-1]
    assert ends[0] == ends[1][::-1] and all(len(end) > len(start) for end, start in zip(ends[0], written, strict=True))


def outputs(env: DeferralVectorEnv) -> list[list[int]]:
    return [list(env.episodes.output(row)) for row in range(env.num_envs)]
