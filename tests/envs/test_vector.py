"""Many texts at once are the single environments side by side, with one pass of each model a step."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.envs.tiny import LIMIT, ROWS, make_pair
from wheels.decoding.models.runner import Pass
from wheels.decoding.params import RULE_STREAM
from wheels.decoding.sampling import Sampling
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.models.pair import Pair

# float32 observations of float64 models: rounding alone, of values up to 20.
ROUNDING = 1e-5
STEPS = 30
SETTINGS: tuple[dict[str, Any], ...] = (
    {"budget": 1.0},
    {"actions": "flat", "mode": "strict", "budget": (0.5, 0.8), "reward": "logprob+terminal"},
    {"mode": "episode", "budget": 0.3, "reward": "terminal", "sampling": Sampling(temperature=20.0)},
)


def assert_same(left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    for name, values in left[0].items():
        assert values.dtype == right[0][name].dtype
        np.testing.assert_allclose(values, right[0][name], atol=ROUNDING, err_msg=name)
    assert left[-1].keys() == right[-1].keys()
    for name, values in left[-1].items():
        assert values.dtype == right[-1][name].dtype
        assert values.tolist() == right[-1][name].tolist(), name
    if len(left) > 2:
        np.testing.assert_allclose(left[1], right[1], atol=ROUNDING)
        assert left[2].tolist() == right[2].tolist()
        assert left[3].tolist() == right[3].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_each_row_is_a_single_environment_through_ends_and_new_texts(pair: Pair, settings: dict[str, Any]) -> None:
    native, apart = (
        gymnasium.make_vec(
            "wheels/Deferral-v0", 4, vectorization_mode=mode, pair=pair, rows=ROWS, max_new_tokens=LIMIT, **settings
        )
        for mode in (None, "sync")
    )
    assert_same(native.reset(seed=5), apart.reset(seed=5))
    generator = np.random.default_rng(0)
    ends = 0
    for _ in range(STEPS):
        actions = generator.integers(native.single_action_space.n, size=4)
        left, right = native.step(actions), apart.step(actions)
        assert_same(left, right)
        ends += int((left[2] | left[3]).sum())
    assert ends > 6


def test_a_row_at_the_end_of_the_context_beside_a_new_text() -> None:
    # 8 tokens of prompt and 10 of output fill the context; a new prompt beside them is read in the same pass.
    envs = DeferralVectorEnv(4, make_pair("gpt2", positions=18), ROWS, max_new_tokens=LIMIT, actions="flat")
    envs.reset(seed=0, options={"index": [3, 3, 0, 1]})
    lengths = []
    for step in range(LIMIT):
        # Row 3 ends at its ninth token, and begins a new text where rows 0 and 1 have one place left.
        observation, *_ = envs.step(np.array([5, 5, 5, 1 if step == LIMIT - 2 else 5]))
        lengths.append(observation["length"][:, 0].tolist())
    assert lengths[-2:] == [[9, 9, 9, 9], [10, 10, 10, 0]]


def test_one_pass_of_each_model_a_step(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(4, t5_pair, ROWS, max_new_tokens=3)
    passes = {"student": 0, "teacher": 0}

    def count(name: str) -> Any:
        return lambda module, inputs: passes.update({name: passes[name] + 1})

    hooks = [getattr(t5_pair, name).get_output_embeddings().register_forward_pre_hook(count(name)) for name in passes]
    envs.reset(seed=0)
    for step in range(9):
        envs.step(np.full(4, step % 2))
    for hook in hooks:
        hook.remove()
    # The teacher has no state to judge where every text has ended, which happens here at most every fourth step.
    assert passes["student"] == 10
    assert 7 <= passes["teacher"] <= 10


def test_the_teacher_encodes_the_sources_of_all_rows_at_the_first_call(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(4, t5_pair, ROWS, max_new_tokens=LIMIT, budget=1.0, reward="terminal")
    journal: dict[str, list[Pass]] = {}
    envs.episodes.passes.keep_journal(journal)
    envs.reset(seed=0, options={"index": [0, 1, 3, 4]})
    for calls in ([0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]):
        envs.step(np.array(calls))
    assert [each.rows for each in journal["teacher"] if each.kind == "encode"] == [4]
    assert len([each for each in journal["teacher"] if each.kind == "decode"]) == 2


def test_the_step_after_an_end_ignores_its_action(t5_pair: Pair) -> None:
    outcomes = []
    for ignored in (0, 1):
        envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=1, budget=1.0)
        envs.reset(seed=1)
        _, _, terminated, truncated, _ = envs.step(np.zeros(2, dtype=np.int64))
        assert (terminated | truncated).all()
        observation, reward, terminated, truncated, info = envs.step(np.full(2, ignored))
        assert reward.tolist() == [0.0, 0.0]
        assert not (terminated | truncated).any()
        assert info["author"].tolist() == ["", ""]
        assert observation["length"].tolist() == [[0], [0]]
        outcomes.append(observation["features"])
    np.testing.assert_array_equal(outcomes[0], outcomes[1])


def test_options_for_all_rows_or_each(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(3, t5_pair, ROWS, max_new_tokens=LIMIT)
    observation, info = envs.reset(seed=0, options={"index": [4, 0, 2], "budget": [0.0, 0.5, 1.0], "price": 0.3})
    assert info["index"].tolist() == [4, 0, 2]
    assert observation["budget"][:, 0].tolist() == [0.0, 0.5, 1.0]
    assert observation["price"][:, 0].tolist() == pytest.approx([0.3] * 3)
    assert envs.action_masks().tolist() == [[True, False], [True, True], [True, True]]
    assert [start.index for start in envs.starts if start is not None] == [4, 0, 2]


def test_each_row_is_charged_its_own_price_for_its_own_calls(t5_pair: Pair) -> None:
    """A row that writes, and one whose call is refused, pay nothing."""
    options = {"index": [1] * 4, "budget": [1.0, 1.0, 1.0, 0.0], "price": [0.0, 0.7, 0.7, 0.7]}
    envs = DeferralVectorEnv(4, t5_pair, ROWS, max_new_tokens=LIMIT, charge_price=True, reward="terminal")
    envs.reset(seed=0, options=options)
    _, reward_B, *_ = envs.step(np.array([1, 1, 0, 1]))
    assert reward_B.tolist() == [0.0, -float(np.float32(0.7)), 0.0, 0.0]


def test_seeds_for_each_row(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(3, t5_pair, ROWS, max_new_tokens=LIMIT)
    one = envs.reset(seed=7)[1]["index"].tolist()
    assert envs.reset(seed=[7, 8, 9])[1]["index"].tolist() == one
    later = [envs.reset()[1]["index"].tolist() for _ in range(3)]
    envs.reset(seed=7)
    assert [envs.reset()[1]["index"].tolist() for _ in range(3)] == later != [one] * 3


def test_a_student_that_is_trained_between_two_steps() -> None:
    """Each step reads with the weights of now, on the fast path as by the library."""
    base = make_pair("t5")
    pair = Pair.of(base.student.float(), base.teacher.float(), base.tokenizer)
    fast, plain = (DeferralVectorEnv(2, pair, ROWS, max_new_tokens=LIMIT) for _ in range(2))
    plain.episodes.passes.student.fast = False
    assert pair.student.dtype == torch.float32
    for envs in (fast, plain):
        envs.reset(seed=0, options={"index": [1, 3]})
    for _ in range(3):
        before = fast.episodes.passes.student.backend
        with torch.no_grad():
            for weight in pair.student.parameters():
                weight.mul_(0.9)
        for envs in (fast, plain):
            envs.step(np.ones(2, dtype=np.int64))
        now = fast.episodes.passes.student
        assert now.backend is not before and now.backend is not now.library
        torch.testing.assert_close(fast.state.logits_BV, plain.state.logits_BV, atol=1e-4, rtol=0)
        assert plain.episodes.passes.student.backend is plain.episodes.passes.student.library


def test_a_state_that_is_kept_says_later_what_it_would_have_said(t5_pair: Pair) -> None:
    envs, fresh = (DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT, observed=()) for _ in range(2))
    kept, expected = [], []
    for each in (envs, fresh):
        each.reset(seed=0, options={"index": [1, 3]})
        for step in range(2 * LIMIT):
            kept.append(each.state)
            if each is fresh:
                expected.append((each.state.features_BF.clone(), each.state.noise_B.clone()))
            each.step(np.full(2, step % 2))
    for state, (features_BF, noise_B) in zip(kept[: 2 * LIMIT], expected, strict=True):
        assert state.features_BF.equal(features_BF)
        assert state.noise_B.equal(noise_B)


def test_what_was_shown_is_not_written_over(t5_pair: Pair) -> None:
    envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT)
    first, info = envs.reset(seed=0)
    kept = {name: values.copy() for name, values in first.items()}
    mask = info["action_mask"].copy()
    envs.step(np.zeros(2, dtype=np.int64))
    state, place_B = envs.state, torch.tensor([3, 5])
    seen = {name: getattr(state, name).clone() for name in ("position_B", "source_B", "index_B", "calls_B", "budget_B")}
    assert state.position_B.tolist() == [1, 1]
    drawn_B = state.noise(place_B)
    envs.episodes.begin([0, 1], [Start(4, 7, 0.5, 0.0), Start(2, 9, 0.5, 0.0)])
    assert all(getattr(state, name).equal(values_B) for name, values_B in seen.items())
    assert state.noise(place_B).equal(drawn_B) and not envs.episodes.texts.noise(envs.episodes.slots_B, RULE_STREAM)(
        place_B
    ).equal(drawn_B)
    for _ in range(4):
        envs.step(np.zeros(2, dtype=np.int64))
    for name, values in kept.items():
        np.testing.assert_array_equal(first[name], values)
    np.testing.assert_array_equal(info["action_mask"], mask)
