"""A fork goes on where it was taken: the same actions write the same text, and other actions disturb nobody."""

from typing import Any

import numpy as np
import pytest

from tests.envs.tiny import LIMIT, ROWS, make_pair
from wheels.data.tasks import Row
from wheels.decoding.models.runner import Pass
from wheels.decoding.sampling import Sampling
from wheels.envs.deferral import DeferralEnv
from wheels.envs.vector import DeferralVectorEnv
from wheels.errors import WheelsError
from wheels.models.pair import Pair

# float32 observations of float64 models: rounding alone, of values up to 20.
ROUNDING = 1e-5
SETTINGS: tuple[dict[str, Any], ...] = (
    {"budget": 1.0, "reward": "regret+terminal"},
    {"budget": 0.6, "mode": "episode", "sampling": Sampling(temperature=20.0), "reward": "terminal"},
    {"actions": "flat", "mode": "strict", "budget": 0.7, "sampling": Sampling(temperature=3.0), "reward": "logprob"},
)


def make(pair: Pair, rows: int = 4, **settings: Any) -> DeferralVectorEnv:
    envs = DeferralVectorEnv(rows, pair, ROWS, max_new_tokens=LIMIT, **settings)
    envs.reset(seed=5, options={"index": [0, 1, 3, 4][:rows]})
    return envs


def actions_of(envs: DeferralVectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(envs.single_action_space.n, size=(steps, envs.num_envs))


def play(envs: DeferralVectorEnv, actions: np.ndarray) -> list[tuple[Any, ...]]:
    """Step until every row has ended; what came after a row's end is taken out."""
    steps: list[tuple[Any, ...]] = []
    for action_B in actions:
        if not envs.active_B.any():
            break
        active_B = envs.active_B.numpy().copy()
        steps.append((active_B, *envs.step(action_B)))
    return steps


def assert_same(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]], tolerance: float = 0.0) -> None:
    """Compare what active rows were shown, step by step."""
    assert left
    for one, two in zip(left, right, strict=True):
        active_B = one[0]
        assert two[0].tolist() == active_B.tolist()
        for name, values in one[1].items():
            np.testing.assert_allclose(two[1][name][active_B], values[active_B], rtol=0, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(two[2][active_B], one[2][active_B], rtol=0, atol=tolerance)
        for number in (3, 4):
            assert two[number][active_B].tolist() == one[number][active_B].tolist()
        for name, values in one[5].items():
            assert two[5][name][active_B].tolist() == values[active_B].tolist(), name


@pytest.fixture(params=SETTINGS, ids=["greedy", "sampled", "flat"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_the_same_actions_write_the_same_text(pair: Pair, settings: dict[str, Any]) -> None:
    envs = make(pair, **settings)
    actions = actions_of(envs, LIMIT)
    envs.feed([])  # a row that has ended stays idle
    for action_B in actions[:3]:
        envs.step(np.where(action_B == 1, 5, action_B) if envs.single_action_space.n > 2 else action_B)
    rows = [row for row in range(4) if envs.active_B[row]]
    before = envs.state
    assert len(rows) >= 2
    states = envs.snapshot(rows)
    original = play(envs, actions[3:])
    observation, info = envs.fork(rows, states)
    for name in ("logits_BV", "hidden_BD", "calls_B", "position_B", "budget_B"):
        assert getattr(envs.state, name)[rows].equal(getattr(before, name)[rows])
    assert envs.state.noise_B[rows].equal(before.noise_B[rows])
    assert info["token"].tolist() == [-1] * 4
    assert envs.observation_space.contains(observation)
    assert_same(original, play(envs, actions[3:]))


@pytest.mark.slow
def test_in_another_row_and_environment_too(pair: Pair, settings: dict[str, Any]) -> None:
    envs, single = make(pair, **settings), DeferralEnv(pair, ROWS, max_new_tokens=LIMIT, **settings)
    other = DeferralVectorEnv(2, pair, ROWS, max_new_tokens=LIMIT, **settings)
    other.reset(seed=9)
    (state,) = envs.snapshot([2])
    envs.step(np.array([0, 0, 5 % envs.single_action_space.n, 0]))
    (later,) = envs.snapshot([2])
    actions = actions_of(envs, LIMIT)[:, 2]
    texts = []
    for own in (state, later):
        single.reset(seed=1, options={"fork": own})
        other.fork([1], [own])
        envs.fork([0], [own])
        for action in actions:
            one = single.step(action)
            many, rest = other.step(np.array([0, action])), envs.step(np.array([action, 0, 0, 0]))
            for row, wide in ((1, many), (0, rest)):
                assert wide[4]["token"][row] == one[4]["token"]
                assert wide[1][row] == pytest.approx(one[1], abs=ROUNDING)
                for name, values in one[0].items():
                    np.testing.assert_allclose(wide[0][name][row], values, atol=ROUNDING, err_msg=name)
            if one[2] or one[3]:
                assert many[4]["text"][1] == rest[4]["text"][0] == one[4]["text"]
                texts.append(one[4]["text"])
                break
    assert len(texts) == 2


def test_forks_of_one_state_are_independent(pair: Pair) -> None:
    """Several rows go on from one state, each as it would alone; so does the original."""
    envs = make(pair, budget=1.0)
    envs.step(np.ones(4, dtype=np.int64))
    (state,) = envs.snapshot([1])
    paths = np.array([[0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
    alone = []
    envs.feed([])
    for path in paths:
        envs.fork([3], [state])
        alone.append(
            [int(step[5]["token"][3]) for step in play(envs, np.stack([path * 0] * 3 + [path], 1)) if step[0][3]]
        )
    envs.fork([0, 2, 3], [state] * 3)
    tokens: dict[int, list[int]] = {0: [], 2: [], 3: []}
    for step in play(envs, np.stack([paths[0], paths[0], paths[1], paths[2]], 1)):
        for row, own in tokens.items():
            own += [int(step[5]["token"][row])] if step[0][row] else []
    assert list(tokens.values()) == alone
    assert len({tuple(own) for own in alone}) > 1
    assert state.tokens == [int(state.tokens[0])] and state.by_teacher == [True]


def test_a_state_outlives_its_episode_and_its_row(t5_pair: Pair) -> None:
    envs = make(t5_pair, budget=1.0)
    envs.step(np.ones(4, dtype=np.int64))
    states = envs.snapshot(range(4))
    first = play(envs, actions_of(envs, LIMIT))
    envs.reset(seed=8)
    for _ in range(2 * LIMIT):
        envs.step(np.ones(4, dtype=np.int64))
    envs.feed([])
    envs.fork(range(4), states)
    again = play(envs, actions_of(envs, LIMIT))
    shared = min(len(first), len(again), 2)
    assert_same(first[:shared], again[:shared])


def test_another_budget_price_or_seed_of_the_same_state(t5_pair: Pair) -> None:
    envs = make(t5_pair, budget=1.0, charge_price=True, reward="terminal", sampling=Sampling(temperature=100.0))
    (state,) = envs.snapshot([1])
    poor = state.under(budget=0.0, price=2.0)
    observation, info = envs.fork([0, 1, 2], [state, poor, state.under(price=2.0)])
    assert observation["budget"][:3, 0].tolist() == [1.0, 0.0, 1.0]
    assert info["action_mask"][:3].tolist() == [[1, 1], [1, 0], [1, 1]]
    assert envs.step(np.ones(4, dtype=np.int64))[1][:3].tolist() == [0.0, 0.0, -2.0]
    assert [start.price for start in envs.starts if start is not None][:3] == [0.0, 2.0, 2.0]
    single = DeferralEnv(
        t5_pair, ROWS, max_new_tokens=LIMIT, budget=1.0, charge_price=True, reward="terminal",
        sampling=Sampling(temperature=100.0),
    )  # fmt: skip
    tokens = set()
    for seed in range(20):
        single.reset(options={"fork": state, "seed": seed})
        tokens.add(single.step(0)[-1]["token"])
    assert len(tokens) > 3
    assert float(single.reset(options={"fork": state, "budget": 0.25})[0]["budget"][0]) == 0.25
    assert state.start.budget == 1.0


def test_nothing_is_read_again(pair: Pair) -> None:
    envs = make(pair, budget=1.0, reward="terminal")
    for action in (1, 0):
        envs.step(np.full(4, action))
    first, second, *_ = envs.active_B.nonzero()[:, 0].tolist()
    states, shown = envs.snapshot([first, second]), envs.state
    kept = shown.logits_BV.clone()
    journal: dict[str, list[Pass]] = {}
    envs.episodes.passes.keep_journal(journal)
    envs.fork([2, 1, 0], [*states, states[0]])
    assert journal == {"student": [], "teacher": []}
    assert envs.state.logits_BV[:3].equal(kept[[first, second, first]])
    assert shown.logits_BV.equal(kept)  # who keeps a state keeps it
    envs.step(np.array([1, 1, 1, 0]))
    # The student reads what was written last, the teacher also what the student wrote before.
    reads = {name: [(each.kind, each.rows, each.width, each.context) for each in own] for name, own in journal.items()}
    prefix = int(envs.episodes.texts.prefix_Q[:3].max())
    assert [(kind, width, context) for kind, _, width, context in reads["student"][:1]] == [("decode", 1, prefix + 2)]
    assert [(rows, width, context) for _, rows, width, context in reads["teacher"]] == [(3, 2, prefix)]


def test_a_fork_leaves_the_next_draws_alone(t5_pair: Pair) -> None:
    env = DeferralEnv(t5_pair, ROWS, max_new_tokens=LIMIT)
    env.reset(seed=3)
    plain = [env.reset()[1]["index"] for _ in range(4)]
    env.reset(seed=3)
    state = env.snapshot()
    forked = [env.reset(options={"fork": state} if draw == 1 else None)[1]["index"] for draw in range(4)]
    assert forked == [plain[0], state.start.index, *plain[2:]]


def test_states_that_cannot_go_on(t5_pair: Pair) -> None:
    envs, env = make(t5_pair), DeferralEnv(t5_pair, ROWS, max_new_tokens=LIMIT)
    with pytest.raises(WheelsError, match=r"snapshot\(\) after the end .* or before the first"):
        env.snapshot()
    (state,) = envs.snapshot([0])
    env.reset(options={"fork": state})
    for other, what in (
        (DeferralEnv(t5_pair, ROWS, max_new_tokens=LIMIT - 1), "settings"),
        (DeferralEnv(t5_pair, [*ROWS, Row("a", "b")], max_new_tokens=LIMIT), "rows"),
        (DeferralEnv(make_pair("t5"), ROWS, max_new_tokens=LIMIT), "pair"),
        (DeferralEnv(make_pair("t5"), ROWS, max_new_tokens=LIMIT - 1), "pair and settings"),
    ):
        with pytest.raises(WheelsError, match=f"of an environment with other {what}; fork it where it was taken"):
            other.reset(options={"fork": state})
    with pytest.raises(WheelsError, match=r"state must be what snapshot\(\) returned, got 3"):
        envs.fork([0], [3])  # type: ignore[list-item]
    with pytest.raises(WheelsError, match=r"option fork must be what snapshot\(\) returned, got 3"):
        env.reset(options={"fork": 3})
    with pytest.raises(WheelsError, match="options fork and index exclude each other"):
        env.reset(options={"fork": state, "index": 1})
    with pytest.raises(WheelsError, match=r"budget must be in \[0, 1\], got 7"):
        state.under(budget=7)
    with pytest.raises(WheelsError, match="fork needs a state for each of 2 rows, got 1"):
        envs.fork([0, 1], [state])
    with pytest.raises(WheelsError, match=r"rows must be different, got \[1, 1\]"):
        envs.fork([1, 1], [state, state])
    with pytest.raises(WheelsError, match="row must be at most 3, got 4"):
        envs.snapshot([4])
    with pytest.raises(WheelsError, match=r"fork\(\) before the first episode: call reset"):
        DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT).fork([0], [state])
    short = DeferralVectorEnv(3, t5_pair, ROWS, max_new_tokens=1)
    short.reset(seed=0)
    short.step(np.zeros(3, dtype=np.int64))
    with pytest.raises(WheelsError, match="row 2 has no state to go on from: its text has ended"):
        short.snapshot([2, 0, 1])
