"""The example of an outside algorithm: MaskablePPO learns in the environment, and its policy is a rule of the curve."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.tiny import save_artefact
from tests.docs.blocks import ROOT
from tests.envs.tiny import ROWS, make_pair, teacher_rows
from wheels.agents import DeferralHead, HeadConfig, PriceTable
from wheels.agents.rl.lagrangian import Gains
from wheels.cli.main import main
from wheels.decoding.methods.rules import RULE_NAMES, RULES, find_rule
from wheels.envs import DeferralVectorEnv
from wheels.policy.features import feature_width

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The `render_mode` attribute:UserWarning")]
FOLDER = ROOT / "examples" / "ppo"
BUDGETS, UNIT = (0.2, 0.6), 0.5
OPTIONS = argparse.Namespace(learning_rate=3e-3, steps=32, rows=4, epochs=4, seed=0)


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    pytest.importorskip("sb3_contrib")
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("train", FOLDER / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    del sys.modules["rule"]


@pytest.fixture(autouse=True)
def known_rules() -> Iterator[None]:
    """Forget the rules of a file after each test."""
    yield
    for name in set(RULES) - set(RULE_NAMES):
        del RULES[name]


@pytest.fixture
def envs() -> DeferralVectorEnv:
    settings: dict[str, Any] = {"reward": "terminal", "terminal_scale": 0.1, "max_new_tokens": 6}
    pair = make_pair("t5")
    return DeferralVectorEnv(OPTIONS.rows, pair, teacher_rows(pair, 6), budget=BUDGETS, **settings)


@pytest.fixture
def head(envs: DeferralVectorEnv) -> DeferralHead:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        width = feature_width(envs.pair.student.config.hidden_size)
        return DeferralHead(HeadConfig.of(width, envs.pair.vocab_size, 8)).requires_grad_(False)


def table_of(*prices: float, **gains: float) -> PriceTable:
    return PriceTable(BUDGETS, Gains(**gains) if gains else None, prices)


@pytest.fixture
def texts(train: ModuleType, envs: DeferralVectorEnv) -> Any:
    made = train.Texts(envs, table_of(2.0, 1.0), UNIT / train.SCALE)
    made.seed(5)
    return made


def twin_of(envs: DeferralVectorEnv) -> DeferralVectorEnv:
    """The same environment, as it is."""
    twin = DeferralVectorEnv(envs.num_envs, envs.pair, envs.rows, **vars(envs.settings))
    twin.reset(seed=5)
    return twin


def test_it_is_the_environment_with_a_price(texts: Any, envs: DeferralVectorEnv) -> None:
    seen, twin, draws, begun = texts.reset(), twin_of(envs), np.random.default_rng(0), 0
    told = {0.2: 2.0, 0.6: 1.0}
    for _ in range(20):
        action_B = draws.integers(2, size=OPTIONS.rows) * texts.action_masks()[:, 1]
        budget_B = [round(float(budget), 4) for budget in seen["budget"][:, 0]]
        assert seen["price"][:, 0].tolist() == pytest.approx([told[budget] for budget in budget_B])
        began_B = ~twin.active_B.numpy()
        assert texts.action_masks()[:, 1].tolist() == (~began_B).tolist(), "a text that has ended has nothing to choose"
        seen, reward_B, ended_B, _ = texts.step(action_B)
        _, plain_B, terminated_B, truncated_B, info = twin.step(action_B)
        assert ended_B.tolist() == (terminated_B | truncated_B).tolist()
        for row, budget in enumerate(budget_B):
            paid = 0.0 if began_B[row] else UNIT * told[budget] * (float(info["cost"][row]) - budget)
            assert reward_B[row] == pytest.approx(plain_B[row] - paid, abs=1e-5)
        begun += int(began_B.sum())
    assert begun > 4
    assert sum(texts.tokens.values()) == texts.read["tokens"] == 20 * OPTIONS.rows - begun
    assert sum(texts.calls.values()) == texts.read["teacher's tokens"] > 0


def test_the_prices_follow_the_use(texts: Any) -> None:
    texts.reset()
    for _ in range(12):
        texts.step(texts.action_masks()[:, 1].astype(int))
    assert texts.move_prices() == {0.2: 1.0, 0.6: 1.0}, "all was called"
    assert texts.table.prices[0] > 2.0 and texts.table.prices[1] > 1.0 and sum(texts.tokens.values()) == 0


def logits_of(model: Any, texts: Any) -> torch.Tensor:
    """What the policy of sb3 says in the present states, `log pi(call) - log pi(write)`."""
    observation, _ = model.policy.obs_to_tensor(texts.observation)
    logits_B2 = model.policy.get_distribution(observation).distribution.logits.detach()
    return logits_B2[:, 1] - logits_B2[:, 0]


def test_its_policy_is_a_rule(train: ModuleType, texts: Any, head: DeferralHead, tmp_path: Path) -> None:
    model = train.learner(texts, head, 1.0, OPTIONS)
    seen = texts.reset()
    with torch.no_grad():
        gain_B = head.gain(torch.as_tensor(seen["features"]), torch.as_tensor(seen["budget"][:, 0]))
    start_B = logits_of(model, texts)
    assert torch.allclose(start_B, (gain_B - torch.as_tensor(seen["price"][:, 0])) / train.ALPHA, atol=1e-5)
    model.learn(4 * 32 * OPTIONS.rows, callback=train.Prices(texts))
    train.save(model, texts.table, tmp_path)
    rule = find_rule(f"{tmp_path / 'rule.py'}:ppo")
    texts.step(np.zeros(OPTIONS.rows, dtype=int))  # The prices have moved since the last step.
    learned_B = logits_of(model, texts)
    assert torch.allclose(rule.scored(texts.envs.state), learned_B, atol=1e-4)
    assert not torch.allclose(start_B, learned_B, atol=0.1)
    train.save(train.learner(texts, head, 1.0, OPTIONS), texts.table, tmp_path)
    assert find_rule(f"{tmp_path / 'rule.py'}:ppo").code != rule.code, "a calibration of another policy is refused"


@pytest.mark.parametrize(("price", "pays"), [(0.0, True), (20.0, False)])
def test_it_learns_to_call_where_calls_pay(
    train: ModuleType, envs: DeferralVectorEnv, head: DeferralHead, price: float, pays: bool
) -> None:
    texts = train.Texts(envs, table_of(price, price, integral=0.0, proportional=0.0), UNIT / train.SCALE)
    model = train.learner(texts, head, 1.0, OPTIONS)
    with torch.no_grad():  # From a gate that is undecided whatever the price.
        model.policy.action_net.weight.zero_()
    model.learn(10 * 32 * OPTIONS.rows)
    texts.move_prices()
    model.learn(2 * 32 * OPTIONS.rows, reset_num_timesteps=False)
    use = texts.move_prices()
    assert min(use.values()) > 0.9 if pays else max(use.values()) < 0.1


def test_from_a_trained_model_to_a_text(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rule = save_artefact(tmp_path / "model"), f"{tmp_path / 'ppo' / 'rule.py'}:ppo"
    for split in ("train", "validation"):
        rows = [json.dumps({"source": row.source, "target": row.target}) for row in ROWS]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    given = ["--model", str(model), "--data", str(tmp_path)]
    sizes = ["--texts", "20", "--pseudo-references", "2", "--rows", "4", "--steps", "16", "--max-new-tokens", "8"]
    told = [sys.executable, str(FOLDER / "train.py"), *given, *sizes, "--output", str(tmp_path / "ppo")]
    done = subprocess.run(told, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert re.search(r"learned from \d+ texts, \d+ tokens, \d+ teacher's tokens\nwritten to ", done.stdout)
    assert main(["calibrate", *given, "--rules", rule, "--budgets", "0.5", "--max-new-tokens", "8"]) == 0
    capsys.readouterr()
    assert main(["generate", "--model", str(model), "--rule", rule, "--teacher-budget", "0.5", "a b c"]) == 0
    assert "(asked 0.5, average)" in capsys.readouterr().err
