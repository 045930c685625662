"""The deferral head by hand."""

import dataclasses
import math

import pytest
import torch

from wheels.policy.head import DeferralHead, HeadConfig, HeadOutput

CRITIC = [field.name for field in dataclasses.fields(HeadOutput) if field.name != "gain_B"]
"""What layers of their own say: they do not share the gate's."""


def gelu(x: float) -> float:
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def head(features: int = 2, width: int = 4) -> DeferralHead:
    return DeferralHead(HeadConfig(features, width))


def constant(made: DeferralHead, weight: float) -> DeferralHead:
    """Set every weight to one value and every bias to 0."""
    for name, parameter in made.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else weight)
    return made


def test_gain_value_and_cost_by_hand():
    made = constant(head(features=2, width=4), 0.5)
    made.mean_F.copy_(torch.tensor([1.0, 0.0]))
    made.scale_F.copy_(torch.tensor([2.0, 1.0]))
    said = made(torch.tensor([[3.0, 0.5]]), torch.tensor([0.2]))
    scaled = [(3.0 - 1.0) / 2.0, 0.5]
    trunk = gelu(0.5 * 4 * gelu(0.5 * sum(scaled)))
    base, shift = 0.5 * 4 * trunk, 0.5 * gelu(0.5 * (4 * trunk + 0.2))
    assert said.gain_B.item() == pytest.approx(base + shift, abs=1e-6)
    critic = 0.5 * 4 * gelu(0.5 * (sum(scaled) + 0.2))
    for name in CRITIC:
        assert getattr(said, name).item() == pytest.approx(critic, abs=1e-6)


def test_the_gate_reads_the_tokens_that_follow_the_numbers():
    config = HeadConfig(features=2, width=4, candidates=2, vocab_size=5, embedding=1)
    made = constant(DeferralHead(config), 0.5)
    made.token.weight.data = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    features_BF = torch.tensor([[3.0, 0.5, 1.0, 3.0], [3.0, 0.5, 1.0, 4.0]])
    said = made(features_BF, torch.zeros(2))
    for row, tokens in enumerate((1.0 + 4.0, 1.0 + 8.0)):
        trunk = gelu(0.5 * 4 * gelu(0.5 * (3.0 + 0.5 + tokens)))
        expected = 0.5 * 4 * trunk + 0.5 * gelu(0.5 * 4 * trunk)
        assert said.gain_B[row].item() == pytest.approx(expected, rel=1e-6)
    assert said.value_B[0] == said.value_B[1]
    made.standardise(torch.cat([torch.randn(50, 2) * 3 + 1, torch.randint(5, (50, 2))], -1))
    assert made.mean_F.shape == made.scale_F.shape == (2,) and (made.scale_F > 2).all()
    fitted = {id(parameter) for parameter in made.regressed()}
    assert id(made.token.weight) in fitted and id(made.critic[0].weight) not in fitted


def test_a_head_that_knows_no_tokens_reads_the_numbers_it_was_made_for():
    made, features_NF = head(features=3), torch.randn(6, 5)
    assert made(features_NF, torch.zeros(6)).gain_B.equal(made(features_NF[:, :3], torch.zeros(6)).gain_B)


@pytest.mark.parametrize("reads", ["trunk", "numbers"])
def test_the_gain_alone_is_the_gain_beside_the_critic(reads):
    config = HeadConfig(features=3, width=4, candidates=2, vocab_size=5, embedding=2, shift_reads=reads)
    made, features_NF = DeferralHead(config), torch.cat([torch.randn(6, 3), torch.randint(5, (6, 2))], -1)
    made.shift[-1].weight.data += 0.1
    budget_N = torch.linspace(0, 1, 6, dtype=torch.float64)
    gain_N = made.gain(features_NF, budget_N)
    assert gain_N.equal(made(features_NF, budget_N).gain_B) and len(gain_N.unique()) == 6


def test_before_it_learns_the_gain_does_not_know_the_budget():
    made, features_NF = head(), torch.randn(6, 2)
    low, high = (made(features_NF, torch.full((6,), budget)) for budget in (0.1, 0.9))
    assert low.gain_B.equal(high.gain_B) and not low.value_B.equal(high.value_B)
    made.shift[-1].weight.data += 0.1
    low, high = (made(features_NF, torch.full((6,), budget)) for budget in (0.1, 0.9))
    assert not low.gain_B.equal(high.gain_B)


def test_fitting_the_value_does_not_move_the_gate():
    made = head()
    said = made(torch.randn(3, 2), torch.rand(3))
    sum(getattr(said, name).sum() for name in CRITIC).backward()
    moved = {name.split(".")[0] for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert moved == {"critic"}


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_any_leading_shape(shape):
    said = head()(torch.randn(*shape, 2), torch.rand(shape, dtype=torch.float64))
    assert {tuple(value.shape) for value in vars(said).values()} == {shape}
    assert said.gain_B.dtype == torch.float32


def test_the_call_logit_by_hand():
    said = HeadOutput(torch.tensor([1.0, 0.25]), **dict.fromkeys(CRITIC, torch.zeros(2)))
    assert said.call_logit(0.5, 0.5).tolist() == [1.0, -0.5]
    assert said.call_logit(torch.tensor([0.0, 0.25]), 2.0).tolist() == [0.5, 0.0]


def test_features_are_standardised_and_those_that_never_vary_only_centred():
    made = head(features=3)
    features_NF = torch.tensor([[1.0, 7.0, 0.0], [3.0, 7.0, 100.0], [5.0, 7.0, 50.0]])
    made.standardise(features_NF)
    assert made.mean_F.tolist() == [3.0, 7.0, 50.0] and made.scale_F.tolist() == [2.0, 1.0, 50.0]
    with pytest.warns(UserWarning, match="degrees of freedom"):
        made.standardise(features_NF[:1])
    assert made.scale_F.tolist() == [1.0, 1.0, 1.0], "one state has no deviation"
    assert {"mean_F", "scale_F"} <= set(made.state_dict())


def test_a_twin_is_a_frozen_copy():
    made = head()
    twin = made.frozen_copy()
    state = torch.randn(4, 2), torch.rand(4)
    assert twin(*state).gain_B.equal(made(*state).gain_B)
    assert not any(parameter.requires_grad for parameter in twin.parameters()) and not twin.training
    made.base.bias.data += 1.0
    assert not twin(*state).gain_B.equal(made(*state).gain_B)
    assert all(parameter.requires_grad for parameter in made.parameters())
