"""The deferral head by hand."""

import math

import pytest
import torch

from wheels.policy.head import DeferralHead, HeadConfig


def gelu(x: float) -> float:
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def head(features: int = 2, width: int = 4) -> DeferralHead:
    return DeferralHead(HeadConfig(features, width))


def constant(made: DeferralHead, weight: float) -> DeferralHead:
    """Set every weight to one value and every bias to 0."""
    for name, parameter in made.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else weight)
    return made


def test_the_gain_by_hand():
    made = constant(head(features=2, width=4), 0.5)
    made.mean_F.copy_(torch.tensor([1.0, 0.0]))
    made.scale_F.copy_(torch.tensor([2.0, 1.0]))
    gain_B = made.gain(torch.tensor([[3.0, 0.5]]), torch.tensor([0.2]))
    scaled = [(3.0 - 1.0) / 2.0, 0.5]
    trunk = gelu(0.5 * 4 * gelu(0.5 * sum(scaled)))
    base, shift = 0.5 * 4 * trunk, 0.5 * gelu(0.5 * (4 * trunk + 0.2))
    assert gain_B.item() == pytest.approx(base + shift, abs=1e-6)


def test_the_gate_reads_the_tokens_that_follow_the_numbers():
    config = HeadConfig(features=2, width=4, candidates=2, vocab_size=5, embedding=1)
    made = constant(DeferralHead(config), 0.5)
    made.token.weight.data = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    features_BF = torch.tensor([[3.0, 0.5, 1.0, 3.0], [3.0, 0.5, 1.0, 4.0]])
    gain_B = made.gain(features_BF, torch.zeros(2))
    for row, tokens in enumerate((1.0 + 4.0, 1.0 + 8.0)):
        trunk = gelu(0.5 * 4 * gelu(0.5 * (3.0 + 0.5 + tokens)))
        expected = 0.5 * 4 * trunk + 0.5 * gelu(0.5 * 4 * trunk)
        assert gain_B[row].item() == pytest.approx(expected, rel=1e-6)
    made.standardise(torch.cat([torch.randn(50, 2) * 3 + 1, torch.randint(5, (50, 2))], -1))
    assert made.mean_F.shape == made.scale_F.shape == (2,) and (made.scale_F > 2).all()
    fitted = {id(parameter) for parameter in made.regressed()}
    assert id(made.token.weight) in fitted and id(made.shift[0].weight) not in fitted


def test_a_head_that_knows_no_tokens_reads_the_numbers_it_was_made_for():
    made, features_NF = head(features=3), torch.randn(6, 5)
    assert made.gain(features_NF, torch.zeros(6)).equal(made.gain(features_NF[:, :3], torch.zeros(6)))


@pytest.mark.parametrize("reads", ["trunk", "numbers"])
def test_before_it_learns_the_gain_does_not_know_the_budget(reads):
    config = HeadConfig(features=3, width=4, candidates=2, vocab_size=5, embedding=2, shift_reads=reads)
    made, features_NF = DeferralHead(config), torch.cat([torch.randn(6, 3), torch.randint(5, (6, 2))], -1)

    def gains():
        return [made.gain(features_NF, torch.full((6,), budget, dtype=torch.float64)) for budget in (0.1, 0.9)]

    low, high = gains()
    assert low.equal(high) and len(low.unique()) == 6
    made.shift[-1].weight.data += 0.1
    low, high = gains()
    assert not low.equal(high)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_any_leading_shape(shape):
    gain = head().gain(torch.randn(*shape, 2), torch.rand(shape, dtype=torch.float64))
    assert gain.shape == shape and gain.dtype == torch.float32


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
    assert twin.gain(*state).equal(made.gain(*state))
    assert not any(parameter.requires_grad for parameter in twin.parameters()) and not twin.training
    made.base.bias.data += 1.0
    assert not twin.gain(*state).equal(made.gain(*state))
    assert all(parameter.requires_grad for parameter in made.parameters())
