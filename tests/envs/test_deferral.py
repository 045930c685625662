"""One text an episode: it writes what decoding writes, and says of each step what it was."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.tiny import write
from tests.envs.tiny import EOS, LIMIT, ROWS, SOURCES
from wheels.decoding.methods.rules import RULES
from wheels.decoding.sampling import Sampling
from wheels.decoding.step import Step
from wheels.envs.deferral import DeferralEnv
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair

WRITE, CALL = 0, 1
# float32 features of float64 models: rounding alone, of values up to 20.
ROUNDING = 1e-5
# The students' scores lie tens of nats apart.
NEARLY_UNIFORM = Sampling(temperature=100.0)


def make(pair: Pair, **settings: Any) -> DeferralEnv:
    return DeferralEnv(pair, ROWS, **{"max_new_tokens": LIMIT, "budget": 1.0, **settings})


def play(env: DeferralEnv, index: int, actions: Any, **options: Any) -> list[tuple[Any, ...]]:
    """Play an episode to its end; `actions` is one action, or a function of the step's number."""
    steps: list[tuple[Any, ...]] = [env.reset(seed=0, options={"index": index, **options})]
    while len(steps) == 1 or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(actions(len(steps) - 1) if callable(actions) else actions))
    return steps


def written(steps: list[tuple[Any, ...]]) -> list[int]:
    return [step[-1]["token"] for step in steps[1:]]


def generated(pair: Pair, model: Any, source: str) -> list[int]:
    """What the model's own `generate` writes."""
    ids = torch.tensor(pair.encode([source]))
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT, do_sample=False)[0].tolist()
    return output[1:] if pair.is_seq2seq else output[ids.shape[1] :]


@pytest.mark.parametrize("index", range(len(SOURCES)))
def test_always_writing_is_the_student_and_always_calling_the_teacher(pair: Pair, index: int) -> None:
    env = make(pair)
    student, teacher = (generated(pair, model, SOURCES[index]) for model in (pair.student, pair.teacher))
    assert student != teacher
    assert written(play(env, index, WRITE)) == student
    assert written(play(env, index, CALL)) == teacher


def test_a_flat_agent_writes_what_it_chooses(pair: Pair) -> None:
    env = make(pair, actions="flat")
    steps = play(env, 1, lambda t: [5, pair.vocab_size, 6, EOS][t])
    tokens, authors = written(steps), [step[-1]["author"] for step in steps[1:]]
    assert (tokens[0], *tokens[2:]) == (5, 6, EOS)
    assert authors == ["student", "teacher", "student", "student"]
    assert steps[-1][0]["tokens"].tolist() == tokens + [pair.pad_id] * (LIMIT - 4)
    assert steps[-1][0]["length"].tolist() == [4]
    assert env.reset()[0]["tokens"].tolist() == [pair.pad_id] * LIMIT


class Recorder:
    """A rule that draws lots and keeps what it saw."""

    name, needs_teacher = "recorder", True

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.calls: list[int] = []

    def __call__(self, step: Step) -> torch.Tensor:
        assert step.features_BF.isfinite().all()  # read now: the texts move on
        self.steps.append(step)
        self.calls.append(int(step.noise_B[0] < 0.5))
        return step.noise_B < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=20.0, top_k=6)])
def test_states_and_tokens_are_the_engines_on_the_same_path(pair: Pair, sampling: Sampling) -> None:
    env = make(pair, budget=0.5, sampling=sampling)
    called = 0
    for source in SOURCES:
        rule = Recorder()
        (trace,) = write(pair, [source], rule, budget=0.5, max_new_tokens=LIMIT, sampling=sampling, seed=11)
        observation, _ = env.reset(options={"index": SOURCES.index(source), "seed": 11})
        # The engine numbers its inputs, and the draws with them, from 0 in each call.
        env.episodes.texts.index_Q[0] = 0
        for step, call, token in zip(rule.steps, rule.calls, trace.token_ids, strict=True):
            np.testing.assert_allclose(observation["features"], step.features_BF[0], atol=ROUNDING)
            torch.testing.assert_close(env.state.regret_B, step.regret_B, atol=ROUNDING, rtol=0)
            assert env.state.calls_B.tolist() == step.calls_B.tolist()
            assert env.state.position_B.tolist() == step.position_B.tolist()
            assert env.state.budget_B.tolist() == step.budget_B.tolist()
            observation, _, terminated, truncated, info = env.step(call)
            assert info["token"] == token
            called += call
        assert (terminated, truncated) == (trace.finished, not trace.finished)
        assert info["text"] == trace.text
        assert info["teacher_use"] == trace.teacher_use
    assert called > 5


def test_rewards_are_minus_the_regret_of_what_the_student_wrote(pair: Pair) -> None:
    env = make(pair)
    for index in range(len(ROWS)):
        env.reset(options={"index": index})
        for step in range(LIMIT):
            regret = float(env.state.regret_B)
            _, reward, terminated, _, info = env.step(step % 2)
            assert reward == pytest.approx(0.0 if step % 2 else -regret)
            assert info["cost"] == float(step % 2)
            if terminated:
                break


@pytest.mark.slow
def test_the_terminal_reward_is_the_scaled_metric_at_the_end(t5_pair: Pair) -> None:
    env = make(t5_pair, reward="terminal", terminal_scale=0.5)
    plain, both = make(t5_pair), make(t5_pair, reward="regret+terminal", terminal_scale=0.5)
    scores = []
    for index, row in enumerate(ROWS):
        steps = play(env, index, WRITE)
        (score,) = sentence_scores("chrf", [steps[-1][-1]["text"]], [row.target])
        assert [step[1] for step in steps[1:-1]] == [0.0] * (len(steps) - 2)
        assert steps[-1][1] == pytest.approx(0.5 * score)
        assert steps[-1][-1]["score"] == score
        one, two = play(plain, index, WRITE), play(both, index, WRITE)
        assert [step[1] for step in two[1:-1]] == [step[1] for step in one[1:-1]]
        assert two[-1][1] == pytest.approx(one[-1][1] + 0.5 * score)
        scores.append(score)
    assert max(scores) > 0


def test_the_teacher_reads_nothing_where_neither_reward_nor_call_needs_it(
    t5_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(t5_pair, reward="terminal")
    full = written(play(env, 1, lambda t: t % 2))
    monkeypatch.setattr(env.episodes.passes.teacher, "read", lambda *inputs: pytest.fail("the teacher was asked"))
    play(env, 1, WRITE)
    assert full == written(play(make(t5_pair), 1, lambda t: t % 2))


@pytest.mark.slow
def test_a_call_without_budget_is_answered_by_the_student_and_flagged(pair: Pair) -> None:
    for settings in ({"budget": 0.0}, {"budget": 0.05, "mode": "episode"}, {"budget": 0.05, "mode": "strict"}):
        env = make(pair, **settings)
        steps = play(env, 0, CALL)
        assert written(steps) == written(play(env, 0, WRITE))
        assert all(step[-1]["call_refused"] and step[-1]["author"] == "student" for step in steps[1:])
        assert all(step[-1]["cost"] == 0.0 and step[-1]["action_mask"].tolist() == [1, 0] for step in steps[1:])
        assert not any(step[-1]["call_refused"] for step in play(env, 0, WRITE))
    flat = make(pair, budget=0.0, actions="flat")
    assert written(play(flat, 0, pair.vocab_size)) == written(play(make(pair), 0, WRITE))
    assert flat.action_masks().tolist() == [True] * pair.vocab_size + [False]


def test_an_episode_spends_its_allowance_and_no_more(t5_pair: Pair) -> None:
    # Source 1 makes neither model end early, so the limit is what the allowance is of.
    for budget, allowed in ((0.3, 3), (0.39, 3), (1.0, 10)):
        steps = play(make(t5_pair, mode="episode", budget=budget), 1, CALL)
        if len(steps) == LIMIT + 1:
            assert [step[-1]["cost"] for step in steps[1:]] == [1.0] * allowed + [0.0] * (LIMIT - allowed)
        left = [float(step[0]["budget_left"][0]) for step in steps]
        assert left[:3] == pytest.approx([budget, budget - 0.1, budget - 0.2])


@pytest.mark.parametrize("budget", [0.0, 0.01, 1.0])
def test_what_an_average_budget_lets_be_spent_ahead_is_in_the_space(t5_pair: Pair, budget: float) -> None:
    """Where all is called `budget - calls / limit` ends near budget - 1: below 0, and never below -1."""
    env = make(t5_pair, budget=budget)
    steps = play(env, 1, CALL)
    assert all(env.observation_space.contains(step[0]) for step in steps)
    calls = len(steps) - 1 if budget else 0
    assert steps[-1][0]["budget_left"].tolist() == pytest.approx([budget - calls / LIMIT])


def test_strict_never_exceeds_a_prefix(t5_pair: Pair) -> None:
    env = make(t5_pair, mode="strict", budget=0.4)
    for index in range(len(ROWS)):
        steps = play(env, index, CALL)
        calls = np.cumsum([step[-1]["cost"] for step in steps[1:]])
        assert all(calls[n - 1] <= np.floor(0.4 * n + 1e-9) for n in range(1, len(calls) + 1))


def test_the_use_is_the_share_of_calls_so_far(t5_pair: Pair) -> None:
    """None of none is 0."""
    steps = play(make(t5_pair), 1, lambda t: t % 2)
    for written, step in enumerate(steps):
        assert step[-1]["teacher_tokens"] == written // 2
        assert step[-1]["teacher_use"] == (written // 2) / max(written, 1)


def test_the_price_is_shown_and_charged_only_if_asked(t5_pair: Pair) -> None:
    shown, charged = make(t5_pair, price=0.7), make(t5_pair, price=0.7, charge_price=True)
    free, dear = play(shown, 1, lambda t: t % 2), play(charged, 1, lambda t: t % 2)
    assert free[0][0]["price"].tolist() == pytest.approx([0.7])
    for one, two in zip(free[1:], dear[1:], strict=True):
        assert two[1] == pytest.approx(one[1] - 0.7 * two[-1]["cost"])
        assert two[1] == np.float32(two[1]), "a reward is float32, charged or not"
    assert sum(step[-1]["cost"] for step in free[1:]) >= 1


def test_the_end_of_sequence_terminates_and_the_limit_truncates(pair: Pair) -> None:
    env = make(pair, actions="flat")
    assert [step[2:4] for step in play(env, 0, lambda t: EOS if t == 3 else 5)[1:]] == [(False, False)] * 3 + [
        (True, False)
    ]
    assert play(env, 0, 5)[-1][2:4] == (False, True)
    # At the limit the end of sequence still ends the text by itself.
    assert play(env, 0, lambda t: EOS if t == LIMIT - 1 else 5)[-1][2:4] == (True, False)


def test_equal_seeds_give_equal_episodes_and_others_do_not(t5_pair: Pair) -> None:
    def episodes(seed: int) -> list[tuple[Any, ...]]:
        env = make(t5_pair, sampling=NEARLY_UNIFORM, budget=(0.2, 0.5))
        env.reset(seed=seed)
        starts = [(env.reset()[1]["index"], float(env.state.budget_B)) for _ in range(5)]
        return [*starts, *((env.step(t)[-1]["token"], float(env.state.noise_B)) for t in (0, 1))]

    assert episodes(3) == episodes(3)
    assert episodes(3) != episodes(4)


def test_tokens_are_drawn_anew_for_each_episode(t5_pair: Pair) -> None:
    env = make(t5_pair, sampling=NEARLY_UNIFORM)
    firsts = set()
    for _ in range(20):
        env.reset(options={"index": 1})
        firsts.add(env.step(WRITE)[-1]["token"])
    assert len(firsts) > 3


def test_masks_follow_what_the_students_settings_forbid(t5_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t5_pair.student.generation_config, "suppress_tokens", [4, 7])
    env = make(t5_pair, actions="flat")
    env.reset(seed=0)
    assert np.flatnonzero(~env.action_masks()).tolist() == [4, 7]


def test_render_brackets_the_teachers_tokens(t5_pair: Pair) -> None:
    env = make(t5_pair, actions="flat", render_mode="ansi")
    assert env.render() is None
    env.reset(options={"index": 0})
    assert env.render() == ""
    _, _, _, _, info = env.step(t5_pair.vocab_size)
    env.step(6)
    teacher = t5_pair.tokenizer.decode([info["token"]])
    assert env.render() == f"[{teacher}] d"


def test_random_rule_of_decoding_reads_the_same_noise(t5_pair: Pair) -> None:
    env = make(t5_pair)
    (trace,) = write(t5_pair, [SOURCES[0]], RULES["random"].at(0.5), budget=0.5, max_new_tokens=LIMIT, seed=4)
    env.reset(options={"index": 0, "seed": 4})
    for token, author in zip(trace.token_ids, trace.authors, strict=True):
        info = env.step(int(RULES["random"].at(0.5)(env.state)))[-1]
        assert (info["token"], info["author"]) == (token, author)
