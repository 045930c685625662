"""What gymnasium asks of an environment, and how this one is found and made."""

import subprocess
import sys
import types
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import wheels.envs
from tests.envs.tiny import LIMIT, ROWS
from wheels.data.tasks import Row
from wheels.envs.deferral import DeferralEnv
from wheels.envs.vector import DeferralVectorEnv
from wheels.errors import WheelsError
from wheels.models.pair import Pair


@pytest.mark.parametrize("actions", ["flat", "factorised"])
@pytest.mark.parametrize("mode", ["average", "strict", "episode"])
def test_check_env(pair: Pair, actions: str, mode: str) -> None:
    env = gymnasium.make(
        "wheels.envs:wheels/Deferral-v0",
        pair=pair, rows=ROWS, max_new_tokens=LIMIT, actions=actions, mode=mode, budget=0.3, reward="regret+terminal",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    # Features have no bounds; of anything else the checker has nothing to say.
    assert [str(warning.message) for warning in caught if "infinity" not in str(warning.message)] == []


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_only_what_is_asked_for_is_observed(t5_pair: Pair) -> None:
    names = ("budget", "features")
    env = DeferralEnv(t5_pair, ROWS, max_new_tokens=LIMIT, observed=names)
    envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT, observed=names)
    whole = DeferralEnv(t5_pair, ROWS, max_new_tokens=LIMIT)
    check_env(env)
    shown, expected = env.reset(options={"index": 1})[0], whole.reset(options={"index": 1})[0]
    assert list(shown) == list(envs.reset(seed=0)[0]) == list(names)
    assert sorted(env.observation_space) == sorted(envs.observation_space) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(shown[name], expected[name])
    nothing = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT, observed=())
    assert nothing.reset(seed=0)[0] == {}
    assert "features_BF" not in vars(nothing.state)
    assert nothing.observation_space.contains(nothing.step(np.zeros(2, dtype=np.int64))[0])


def test_action_spaces(t5_pair: Pair) -> None:
    sizes = [
        int(DeferralEnv(t5_pair, ROWS, actions=actions, max_new_tokens=LIMIT).action_space.n)
        for actions in ("flat", "factorised")
    ]
    assert sizes == [t5_pair.vocab_size + 1, 2]


def test_registering_twice_is_silent() -> None:
    spec = gymnasium.spec("wheels/Deferral-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wheels.envs.register()
    assert gymnasium.spec("wheels/Deferral-v0") is spec


def test_registering_loads_no_torch() -> None:
    code = "import sys, wheels.envs; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_make_vec_is_native(t5_pair: Pair) -> None:
    envs = gymnasium.make_vec("wheels/Deferral-v0", num_envs=3, pair=t5_pair, rows=ROWS, max_new_tokens=LIMIT)
    assert type(envs) is DeferralVectorEnv
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)


def test_without_a_pair_it_takes_the_embedded_one(t5_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Artefact:
        pair = t5_pair
        load = classmethod(lambda cls: cls)

    module: Any = types.ModuleType("wheels.models.artefact")
    module.Artefact = Artefact
    monkeypatch.setitem(sys.modules, "wheels.models.artefact", module)
    asked: list[str] = []
    task = types.SimpleNamespace(train=[Row("a b", "c")])
    monkeypatch.setattr("wheels.envs.defaults.load_task", lambda name: asked.append(name) or task)
    env: Any = gymnasium.make("wheels.envs:wheels/Deferral-v0").unwrapped
    assert env.pair is t5_pair
    assert asked == ["embedded-translation"]
    assert env.rows == task.train


def test_data_that_cannot_be_used(t5_pair: Pair) -> None:
    with pytest.raises(WheelsError, match="a pair of one's own needs rows"):
        DeferralEnv(t5_pair)
    with pytest.raises(WheelsError, match="rows must hold at least one source, got none"):
        DeferralEnv(t5_pair, [])
    with pytest.raises(WheelsError, match="row 2 of 2 has no target, and a terminal reward"):
        DeferralEnv(t5_pair, [Row("a", "b"), Row("a", "")], reward="terminal")
    with pytest.raises(WheelsError, match="row 1 of 1 has no target"):
        DeferralEnv(t5_pair, [Row("a", " ")], reward="terminal")
    with pytest.raises(WheelsError, match="input 1 is empty"):
        DeferralEnv(t5_pair, [Row(" ", "b")])
    with pytest.raises(WheelsError, match="num_envs must be at least 1, got 0"):
        DeferralVectorEnv(0, t5_pair, ROWS)


def test_misuse(t5_pair: Pair) -> None:
    env = DeferralEnv(t5_pair, ROWS, max_new_tokens=1)
    with pytest.raises(WheelsError, match=r"before the first: call reset\(\)"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(WheelsError, match=r"action must be in Discrete\(2\), got 2"):
        env.step(2)
    env.step(0)
    with pytest.raises(WheelsError, match=r"after the end of an episode .* call reset\(\)"):
        env.step(0)
    envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT)
    with pytest.raises(WheelsError, match="before the first episode: call reset"):
        envs.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(WheelsError, match="seed must be one integer or 2, got 3"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(WheelsError, match="option index must be one value or 2, got 3"):
        envs.reset(seed=0, options={"index": [1, 2, 3]})
    envs.reset(seed=0)
    with pytest.raises(WheelsError, match=r"actions must be in MultiDiscrete\(\[2 2\]\), got \[0, 2\]"):
        envs.step(np.array([0, 2]))
    with pytest.raises(WheelsError, match=r"actions must be in .*, got \[0.0, 1.0\]"):
        envs.step(np.array([0.0, 1.0]))


@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.bool_])
def test_actions_are_whole_numbers_of_any_size(t5_pair: Pair, kind: type) -> None:
    envs = DeferralVectorEnv(2, t5_pair, ROWS, max_new_tokens=LIMIT, budget=1.0)
    envs.reset(seed=0)
    assert envs.step(np.array([0, 1], dtype=kind))[-1]["author"].tolist() == ["student", "teacher"]
