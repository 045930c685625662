"""Sampling against transformers' own chain, and the draws that belong to a row and a position."""

import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from wheels.decoding.sampling import GREEDY, Sampling, argmax, uniforms
from wheels.errors import WheelsError

SCORES = torch.tensor([2.0, 0.5, -1.0, 1.0, 0.0, -3.0, 1.5, -0.5])
DRAWS = 20000
SETTINGS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 4, 1.0), (1.0, 0, 0.8), (2.0, 5, 0.7)]


def law(temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Return the law of a token as transformers' processors make it."""
    chain = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    return chain(torch.empty(1, 0), SCORES[None]).double().softmax(-1)[0]


def counts(sampling: Sampling) -> torch.Tensor:
    uniform_B = uniforms(7, torch.arange(DRAWS), torch.zeros(DRAWS, dtype=torch.long), 0)
    return torch.bincount(sampling.choose(SCORES.expand(DRAWS, -1), uniform_B), minlength=len(SCORES)).double()


def p_value(count_V: torch.Tensor, law_V: torch.Tensor) -> float:
    possible = law_V > 0
    return float(chisquare(count_V[possible].numpy(), (law_V[possible] * count_V[possible].sum()).numpy()).pvalue)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_tokens_follow_the_law_of_transformers_processors(temperature, top_k, top_p):
    count_V, law_V = counts(Sampling(temperature, top_k, top_p)), law(temperature, top_k, top_p)
    assert count_V[law_V == 0].sum() == 0, "what is cut off is never drawn"
    assert p_value(count_V, law_V) > 0.01
    assert p_value(count_V, law(temperature * 1.3, top_k, top_p)) < 1e-4, "another temperature would be seen"


def test_a_draw_is_the_inverse_of_the_distribution_function():
    logits_BV = torch.tensor([0.5, 0.25, 0.25]).log().expand(5, -1)
    uniform_B = torch.tensor([0.0, 0.4999, 0.5001, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert Sampling(1.0).choose(logits_BV, uniform_B).tolist() == [0, 0, 1, 2, 2]


def test_the_highest_draw_never_gives_what_is_forbidden():
    logits_BV = torch.randn(200, 9)
    logits_BV[:, 6:] = -torch.inf
    uniform_B = torch.full((200,), 1 - 2**-53, dtype=torch.float64)
    assert Sampling(1.0).choose(logits_BV, uniform_B).max() <= 5


def test_the_lowest_draw_never_gives_what_is_forbidden():
    logits_BV = torch.tensor([[-torch.inf, 0.0, 1.0]])
    assert Sampling(1.0).choose(logits_BV, torch.zeros(1, dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (5, 300), (2, 3, 40), (0, 4)])
def test_the_place_of_the_highest_is_torchs(dtype, shape):
    """With equals, which a few whole numbers have, minus infinity, nan, and a gradient that is wanted."""
    values = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    values[..., 0] = -torch.inf
    if shape == (2, 3, 40):
        values[1, 1, 17] = torch.nan
    values.requires_grad_()
    found = argmax(values)
    assert found.dtype == torch.int64 and torch.equal(found, values.argmax(-1))


def test_greedy_takes_the_best_and_leaves_the_scores_alone():
    logits_BV = torch.randn(6, 9)
    kept_BV = logits_BV.clone()
    assert GREEDY.choose(logits_BV, torch.rand(6)).equal(logits_BV.argmax(-1))
    Sampling(2.0, top_k=2, top_p=0.5).choose(logits_BV, torch.rand(6))
    assert logits_BV.equal(kept_BV)


def test_a_whole_number_is_a_temperature():
    assert counts(Sampling(1)).equal(counts(Sampling(1.0)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be a number, got nan"),
        ({"temperature": float("inf")}, r"temperature must be at most 1000000000.0, got inf"),
        ({"temperature": "0.5"}, "temperature must be a number, got '0.5'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_k": 2.0}, r"top_k must be a whole number, got 2\.0"),
        ({"top_k": 2**63}, "top_k must be at most 2147483647, got 9223372036854775808"),
        ({"top_p": float("nan")}, "top_p must be a number, got nan"),
        ({"top_p": -0.0}, r"top_p must be in \(0, 1\], got -0.0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_a_wrong_setting_is_refused(values, message):
    with pytest.raises(WheelsError, match=message):
        Sampling(**values)


ROW_N, POSITION_N = (axis.flatten() for axis in torch.meshgrid(torch.arange(200), torch.arange(100), indexing="ij"))


def test_draws_are_uniform_along_rows_positions_and_seeds():
    uniform_N = uniforms(0, ROW_N, POSITION_N, 0)
    assert uniform_N.dtype == torch.float64 and (uniform_N >= 0).all() and (uniform_N < 1).all()
    table = uniform_N.view(200, 100)
    of_seeds = torch.cat([uniforms(seed, torch.tensor([3]), torch.tensor([5]), 1) for seed in range(2000)])
    for sample in (uniform_N, table[:, 0], table[0], of_seeds):
        assert kstest(sample.numpy(), "uniform").pvalue > 0.01
    assert kstest((uniform_N**1.1).numpy(), "uniform").pvalue < 1e-4, "the test would see another law"


def test_draws_of_neighbours_are_independent():
    table = uniforms(0, ROW_N, POSITION_N, 0).view(200, 100)
    others = [table.roll(1, 0), table.roll(1, 1)]
    others += [uniforms(0, ROW_N, POSITION_N, 1).view(200, 100), uniforms(1, ROW_N, POSITION_N, 0).view(200, 100)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([table.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 4 / len(ROW_N) ** 0.5


def test_a_draw_does_not_depend_on_its_company():
    uniform_N = uniforms(9, ROW_N, POSITION_N, 2)
    some = torch.tensor([5, 4021, 17])
    assert uniforms(9, ROW_N[some], POSITION_N[some], 2).equal(uniform_N[some])
    assert uniform_N.unique().numel() == len(uniform_N)


def test_draws_stay_the_same_from_version_to_version():
    """Results are written with their seed: these are SplitMix64 of the seed, then the row, then the position."""

    def mixed(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    expected = (mixed((mixed((mixed(5 * 4 + 1) + 3) % 2**64) + 7) % 2**64) >> 11) / 2**53
    assert uniforms(5, torch.tensor([3]), torch.tensor([7]), 1).item() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-20, 1e-38, 1e-40, 5e-324])
def test_towards_0_the_law_tends_to_the_best_token(temperature, dtype):
    logits_BV = torch.tensor([[24.0, 96.0, 40.0, -torch.inf, 95.0]], dtype=dtype)
    assert Sampling(temperature).probs(logits_BV).tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]
    assert Sampling(temperature, 2, 0.9).probs(logits_BV).tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]
    assert Sampling(temperature).choose(logits_BV, torch.full((1,), 1 - 2**-53, dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize(
    ("values", "law_V"),
    [
        ({"temperature": 1e9}, [1 / 3, 1 / 3, 1 / 3, 0.0]),
        ({"top_p": 5e-324}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_p": 1 - 2**-53}, [0.09003, 0.66524, 0.24473, 0.0]),
        ({"top_k": 2**31 - 1}, [0.09003, 0.66524, 0.24473, 0.0]),
    ],
)
def test_the_ends_of_every_range_have_a_law(values, law_V):
    logits_BV = torch.tensor([[1.0, 3.0, 2.0, -torch.inf]])
    assert Sampling(**{"temperature": 1.0, **values}).probs(logits_BV)[0].tolist() == pytest.approx(law_V, abs=1e-5)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0), Sampling(0.7, 3, 0.9)])
def test_scores_that_are_no_numbers_stop_and_are_named(sampling):
    logits_BV = torch.zeros(3, 5)
    assert sampling.choose(logits_BV, torch.zeros(3, dtype=torch.float64), "student").shape == (3,)
    logits_BV[1, 3] = torch.nan
    with pytest.raises(WheelsError, match=r"the student's logits are no numbers \(nan\): .* or use float32"):
        sampling.choose(logits_BV, torch.zeros(3, dtype=torch.float64), "student")


def test_the_greedy_law_is_the_softmax_of_each_place():
    logits_RWV = torch.randn(2, 3, 4)
    probs_RWV = GREEDY.probs(logits_RWV)
    assert probs_RWV.dtype == torch.float64
    torch.testing.assert_close(probs_RWV, logits_RWV.double().exp() / logits_RWV.double().exp().sum(-1, keepdim=True))
