"""REINFORCE against the enumeration of all decisions of a short text, and as a whole: it learns, and continues."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.envs.tiny import make_pair, teacher_rows
from tests.marks import slow
from wheels.agents.gate import gate_log_probs
from wheels.agents.rl import reinforce as algorithm
from wheels.agents.rl.lagrangian import Gains, PriceTable
from wheels.agents.rl.reinforce import (
    BLOCK,
    ReinforceSettings,
    Samples,
    draw_starts,
    leave_one_out,
    policy_loss,
    reinforce,
    returns,
    sample,
)
from wheels.envs.deferral import DeferralEnv
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.errors import WheelsError
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig

STEPS, BUDGET, PRICE, ALPHA = 3, 0.3, torch.tensor(0.7), 0.5
PATHS = list(itertools.product((False, True), repeat=STEPS))
STARTS = [Start(1, 0, 0.1 + place / 100, 0.0) for place in range(len(PATHS))]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("t5")


def env_of(pair: Pair, **settings: Any) -> DeferralVectorEnv:
    return DeferralVectorEnv(
        len(PATHS), pair, teacher_rows(pair, STEPS), reward="terminal", max_new_tokens=STEPS, **settings
    )


def head_of(pair: Pair) -> DeferralHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = DeferralHead(HeadConfig.of(feature_width(pair.student.config.hidden_size), pair.vocab_size, 8))
        torch.nn.init.normal_(head.shift[-1].weight)
    return head


class Dictated:
    """A gate that leads each text along its path; texts are known by their budgets."""

    def __init__(self) -> None:
        self.position = -1

    def __call__(self, features_RF: torch.Tensor, budget_R: torch.Tensor) -> torch.Tensor:
        self.position += 1
        path_of = {start.budget: path for start, path in zip(STARTS, PATHS, strict=True)}
        return torch.tensor([1e3 if path_of[budget][self.position] else -1e3 for budget in budget_R.tolist()])


@pytest.fixture(scope="module")
def texts(pair: Pair) -> Samples:
    found = sample(env_of(pair), Dictated(), STARTS)
    return replace(found, budget_B=torch.full_like(found.budget_B, BUDGET))


def test_texts_are_those_of_the_environment(pair: Pair, texts: Samples) -> None:
    env = DeferralEnv(pair, teacher_rows(pair, STEPS), reward="terminal", max_new_tokens=STEPS)
    rewards = set()
    for number, path in enumerate(PATHS):
        observation, _ = env.reset(options={"index": 1, "budget": STARTS[number].budget})
        features, reward, ended = [], 0.0, False
        while not ended:
            features.append(torch.tensor(observation["features"]))
            observation, gained, terminated, truncated, _ = env.step(int(path[len(features) - 1]))
            reward, ended = reward + gained, terminated or truncated
        own_N = texts.text_N == number
        assert texts.call_N[own_N].tolist() == list(path[: len(features)])
        assert torch.allclose(texts.features_NF[own_N], torch.stack(features), atol=1e-5)
        assert float(texts.reward_B[number]) == pytest.approx(reward)
        rewards.add(round(reward, 6))
    assert len(rewards) > 2


def pick(texts: Samples, numbers: tuple[int, ...]) -> Samples:
    """Some of the texts, in this order."""
    own = [(texts.text_N == number).nonzero().squeeze(-1) for number in numbers]
    state_N, chosen = torch.cat(own), list(numbers)
    place_N = torch.cat([torch.full_like(each, place) for place, each in enumerate(own)])
    features_NF, call_N = texts.features_NF[state_N], texts.call_N[state_N]
    return Samples(features_NF, call_N, place_N, texts.budget_B[chosen], texts.reward_B[chosen])


def logits(head: DeferralHead, texts: Samples) -> torch.Tensor:
    budget_N = torch.full((len(texts.call_N),), BUDGET, dtype=torch.float64)
    return (head.gain(texts.features_NF.double(), budget_N) - PRICE) / ALPHA


def probabilities(head: DeferralHead, texts: Samples) -> torch.Tensor:
    """Of all paths; where a text ends early its share is split among those that only differ behind its end."""
    log_write_N, log_call_N = gate_log_probs(logits(head, texts))
    spare_B = STEPS - texts.sum_B(torch.ones_like(texts.text_N))
    return texts.sum_B(torch.where(texts.call_N, log_call_N, log_write_N)).exp() * 0.5**spare_B


def gradient(value: torch.Tensor, head: DeferralHead) -> torch.Tensor:
    parameters = [*head.regressed(), *head.shift.parameters()]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


def with_own(return_B: torch.Tensor) -> torch.Tensor:
    """The wrong baseline: the mean over all samples, each text's own return included."""
    return return_B - return_B.mean()


@pytest.mark.slow
def test_the_expected_gradient_is_that_of_the_expected_return(pair: Pair, texts: Samples) -> None:
    head, return_B = head_of(pair).double(), returns(texts, PRICE)
    probability_B = probabilities(head, texts)
    assert float(probability_B.detach().sum()) == pytest.approx(1.0)
    wanted = gradient((probability_B * return_B).sum(), head)
    assert float(wanted.norm()) > 1e-3

    def expected(advantage: Any, samples: int) -> torch.Tensor:
        """Minus the gradient of the loss, over all tuples of `samples` texts."""
        total = torch.zeros((), dtype=torch.float64)
        for numbers in itertools.product(range(len(PATHS)), repeat=samples):
            some = pick(texts, numbers)
            weight = probability_B[list(numbers)].prod().detach()
            total = total + weight * policy_loss(some, logits(head, some), advantage(returns(some, PRICE)))
        return -gradient(total, head)

    for samples in (2, 3):
        found = expected(lambda return_B, samples=samples: leave_one_out(return_B, samples), samples)
        assert torch.allclose(found, wanted, atol=1e-9)
    assert torch.allclose(expected(with_own, 2), wanted / 2, atol=1e-9), "which is too small"
    assert torch.allclose(expected(lambda return_B: return_B, 1), wanted, atol=1e-9), "without a baseline: unbiased too"

    direction = torch.randn(len(wanted), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters, ends = [*head.regressed(), *head.shift.parameters()], []
    for sign in (1.0, -1.0):
        moved = head_of(pair).double()
        with torch.no_grad():
            for own, part in zip(
                [*moved.regressed(), *moved.shift.parameters()],
                direction.split([p.numel() for p in parameters]),
                strict=True,
            ):
                own += sign * 1e-5 * part.view_as(own)
            ends.append(float((probabilities(moved, texts) * return_B).sum()))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(wanted @ direction), rel=1e-5)


def test_the_baseline_lowers_the_variance(pair: Pair, texts: Samples) -> None:
    head, spread = head_of(pair).double(), []
    weight_B = probabilities(head, texts).detach()
    for advantage in (lambda return_B: leave_one_out(return_B, 2), lambda return_B: return_B):
        seconds = torch.zeros((), dtype=torch.float64)
        for numbers in itertools.product(range(len(PATHS)), repeat=2):
            some = pick(texts, numbers)
            found = gradient(policy_loss(some, logits(head, some), advantage(returns(some, PRICE))), head)
            seconds += weight_B[list(numbers)].prod() * found.square().sum()
        spread.append(float(seconds))
    assert spread[0] < spread[1]


def test_a_return_by_hand() -> None:
    """Three tokens, two of them called, under budget 0.3: 1.5 - 0.7 (2 - 0.9); then one that was written."""
    call_N, text_N = torch.tensor([True, False, False, True]), torch.tensor([0, 1, 0, 0])
    texts = Samples(torch.zeros(4, 1), call_N, text_N, torch.tensor([0.3, 0.5]), torch.tensor([1.5, 2.0]))
    assert returns(texts, torch.tensor([0.7, 4.0])).tolist() == pytest.approx([0.73, 4.0])


def test_leave_one_out_by_hand() -> None:
    assert leave_one_out(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]


def test_each_prompt_is_drawn_once_and_written_several_times_under_one_budget() -> None:
    settings = ReinforceSettings(rounds=1, prompts=5, samples=3)
    starts = draw_starts(settings, 4, 9, (0.1, 0.4))
    assert starts == draw_starts(settings, 4, 9, (0.1, 0.4)) != draw_starts(settings, 5, 9, (0.1, 0.4))
    groups = [starts[place : place + 3] for place in range(0, 15, 3)]
    assert len({group[0].index for group in groups}) == 5
    for place, group in enumerate(groups):
        assert {(start.index, start.budget) for start in group} == {(group[0].index, (0.1, 0.4)[place % 2])}
    assert len({start.seed for start in starts}) == 15


def run(
    pair: Pair, folder: Path, prices: tuple[float, ...] = (0.5, 0.2), **change: Any
) -> tuple[DeferralHead, PriceTable, list[dict[str, Any]]]:
    settings = {"prompts": 4, "samples": 2, "rounds": 4, "learning_rate": 1e-2} | change
    scale, gains = settings.pop("scale", 0.1), settings.pop("gains", Gains())
    head, table, noted = head_of(pair), PriceTable((0.2, 0.6), gains, prices), []
    reinforce(env_of(pair, terminal_scale=scale), head, table, ReinforceSettings(**settings), folder, noted.append)
    return head, table, noted


def uses(noted: list[dict[str, Any]]) -> list[float]:
    """The last use of both budgets."""
    return [noted[-1]["use_0.2"], noted[-1]["use_0.6"]]


@pytest.mark.parametrize(("price", "pays"), [(0.0, True), *slow((20.0, False))])
def test_it_calls_where_calls_pay(pair: Pair, tmp_path: Path, price: float, pays: bool) -> None:
    """The teacher's own texts are the references: at price 0 calls pay; at a price above all gains none does."""
    change = {"prices": (price, price), "gains": Gains(0.0, 0.0, 0.0), "alpha": 10.0}
    _, _, noted = run(pair, tmp_path / "still", rounds=1, learning_rate=0.0, **change)
    assert all(0.05 < use < 0.95 for use in uses(noted))
    _, table, noted = run(pair, tmp_path, rounds=2 * BLOCK, learning_rate=0.1, **change)
    assert len(noted) == 2 and table.prices == (price, price)
    assert min(uses(noted)) > 0.95 if pays else max(uses(noted)) < 0.05


def test_a_price_follows_the_use(pair: Pair, tmp_path: Path) -> None:
    _, table, noted = run(pair, tmp_path, rounds=1, learning_rate=0.0, gains=Gains(1.0, 0.0, 0.0), prices=(3.0, 1.0))
    low, high = uses(noted)
    assert table.prices == pytest.approx((3.0 + low - 0.2, 1.0 + high - 0.6))


def test_a_price_above_every_gain_lets_nothing_be_called(pair: Pair, tmp_path: Path) -> None:
    _, _, noted = run(pair, tmp_path, rounds=1, prices=(20.0, 0.0), alpha=0.1)
    assert uses(noted)[0] < 0.1 < uses(noted)[1]


@pytest.mark.slow
def test_a_killed_run_ends_at_the_same_bits(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithm, "BLOCK", 2)
    whole, prices, _ = run(pair, tmp_path / "whole")
    run(pair, tmp_path / "cut", rounds=2)
    again, resumed, noted = run(pair, tmp_path / "cut")
    assert [each["rounds"] for each in noted] == [4], "the first block is there"
    assert resumed.prices == prices.prices != (0.5, 0.2)
    for name, value in whole.state_dict().items():
        assert value.equal(again.state_dict()[name]), name
    assert not whole.shift[0].weight.equal(head_of(pair).shift[0].weight)
    assert not any(parameter.requires_grad for parameter in whole.parameters())


def test_what_is_no_number_stops_it(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*more: Any) -> Samples:
        texts = sample(*more)
        return replace(texts, reward_B=texts.reward_B + torch.inf)

    monkeypatch.setattr(algorithm, "sample", endless)
    with pytest.raises(WheelsError, match="reinforce: the return is inf"):
        run(pair, tmp_path)
