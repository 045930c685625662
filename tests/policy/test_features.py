"""The features of a state by hand."""

import math

import pytest
import torch

from wheels.policy.copy_features import NAMES, CopyPointer
from wheels.policy.features import (
    CANDIDATES,
    LOG_FLOOR,
    SCALARS,
    TOP_K,
    entropy,
    feature_width,
    features,
    scalar,
    text_copy_features,
)

SOURCE = 6
WHERE = [float(number) / 8 for number in range(len(NAMES))]
TOKENS = [f"token_{rank}" for rank in range(1, CANDIDATES + 1)]


def places(token_BK: torch.Tensor) -> torch.Tensor:
    """Stands in for where the texts are in their sources."""
    assert token_BK.shape[1] == CANDIDATES and token_BK.dtype == torch.long
    return torch.tensor([WHERE] * len(token_BK))


def named(log_q_BV: torch.Tensor, position_B: torch.Tensor) -> list[dict[str, float]]:
    """Return the features after the hidden state by name, for sources of `SOURCE` tokens."""
    source_B = torch.full((len(log_q_BV),), SOURCE)
    rows = features(torch.zeros(len(log_q_BV), 2), log_q_BV, position_B, source_B, places)[:, 2:].tolist()
    return [dict(zip([*SCALARS, *TOKENS], row, strict=True)) for row in rows]


def test_a_state_by_hand():
    (found,) = named(torch.tensor([[0.125, 0.5, 0.0, 0.375]]).log(), torch.tensor([3]))
    best = [math.log(0.5), math.log(0.375), math.log(0.125), *[LOG_FLOOR] * (TOP_K - 3)]
    expected = {
        "entropy": -0.125 * math.log(0.125) - 0.5 * math.log(0.5) - 0.375 * math.log(0.375),
        "top_probability": 0.5,
        "margin": 0.125,
        "log_position": math.log(4.0),
        **{f"log_q_{rank}": value for rank, value in enumerate(best, 1)},
        "log_source_length": math.log(6.0),
        "progress": 0.5,
        **dict(zip(NAMES, WHERE, strict=True)),
        **dict(zip(TOKENS, [1, 3, 0, 2], strict=True)),
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_sure_student_and_one_that_knows_nothing():
    width = 20
    sure = torch.full((width,), -math.inf)
    sure[7] = 0.0
    found = named(torch.stack([sure, torch.full((width,), -math.log(width))]), torch.zeros(2))
    assert (found[0]["entropy"], found[0]["top_probability"], found[0]["log_q_1"], found[0]["log_q_2"]) == (
        0.0,
        1.0,
        0.0,
        LOG_FLOOR,
    )
    assert found[0]["margin"] == pytest.approx(1.0, abs=1e-6)
    assert found[1]["entropy"] == pytest.approx(math.log(width), abs=1e-5)
    assert found[1]["margin"] == 0.0 and found[1]["log_q_8"] == pytest.approx(-math.log(width))


def test_the_hidden_state_comes_first_and_all_is_finite_float32():
    hidden_BD = torch.randn(5, 3, dtype=torch.bfloat16)
    found_BF = features(
        hidden_BD, torch.randn(5, 9).double().log_softmax(-1), torch.arange(5), torch.arange(1, 6), places
    )
    assert found_BF.shape == (5, feature_width(3)) and found_BF.dtype == torch.float32
    assert found_BF[:, :3].equal(hidden_BD.float()) and found_BF.isfinite().all()


def test_a_vocabulary_of_one():
    found_BF = features(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1), torch.ones(1), places)
    assert found_BF.isfinite().all() and found_BF[0, -CANDIDATES:].eq(0).all()


def test_a_scalar_is_found_by_its_name():
    log_q_BV = torch.randn(5, 9).log_softmax(-1)
    found_BF = features(torch.randn(5, 3), log_q_BV, torch.arange(5), torch.full((5,), 10), places)
    assert scalar(found_BF, "entropy").equal(entropy(log_q_BV))
    assert scalar(found_BF, "progress").tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_entropy_takes_what_is_impossible_as_nothing():
    log_q_BV = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)], [0.0, -200.0]])
    assert entropy(log_q_BV).tolist() == pytest.approx([0.0, math.log(2), 0.0], abs=1e-6)


def test_the_places_of_a_whole_text_are_those_of_its_prefixes():
    source, text, token_TK = [5, 6, 7, 6], [6, 9, 7], torch.tensor([[6, 5], [7, 6], [7, 5], [6, 9]])
    found = text_copy_features(source, text)(token_TK).tolist()
    place = CopyPointer(source)
    for state, best in enumerate(token_TK.tolist()):
        place.follow(text[:state])
        assert found[state] == pytest.approx(place.features(best))
    assert found[0] != found[3]
