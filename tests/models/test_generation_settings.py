"""What generation settings forbid and force, by hand and against transformers' own processors."""

import logging

import pytest
import torch

from tests.decoding.tiny import VOCABULARY, make_model
from wheels.models.generation_settings import Constraints
from wheels.output.notices import warn_once

NEVER = -torch.inf
SCORES = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])


def apply(constraint: Constraints, positions: list[int], limits: list[int]) -> list[list[float]]:
    return constraint.apply(SCORES, torch.tensor(positions), torch.tensor(limits)).tolist()


def test_nothing_set_changes_nothing():
    assert Constraints().apply(SCORES, torch.tensor([0, 4]), torch.tensor([5, 5])) is SCORES


@pytest.mark.parametrize(
    ("constraint", "positions", "expected"),
    [
        (Constraints(suppressed=(0, 3)), [0, 2], [[NEVER, 2, 3, NEVER], [NEVER, 3, 2, NEVER]]),
        (Constraints(forced_first=2), [0, 1], [[NEVER, NEVER, 0, NEVER], [4, 3, 2, 1]]),
        (Constraints(forced_last=(1,)), [3, 4], [[1, 2, 3, 4], [NEVER, 0, NEVER, NEVER]]),
        (Constraints(forced_last=(1, 2)), [4, 3], [[NEVER, 0, 0, NEVER], [4, 3, 2, 1]]),
        (Constraints(suppressed=(1,), forced_last=(1,)), [4, 0], [[NEVER, 0, NEVER, NEVER], [4, NEVER, 2, 1]]),
        (Constraints(suppressed=(1, 77)), [0, 0], [[1, NEVER, 3, 4], [4, NEVER, 2, 1]]),
    ],
    ids=["suppressed", "first", "last", "one of two last", "last though suppressed", "beyond the vocabulary"],
)
def test_by_hand(constraint, positions, expected):
    kept = SCORES.clone()
    assert apply(constraint, positions, [5, 5]) == expected
    assert SCORES.equal(kept), "the scores of the model are left alone"


def test_each_row_has_its_own_limit():
    assert apply(Constraints(forced_last=(1,)), [2, 2], [3, 5]) == [[NEVER, 0, NEVER, NEVER], [4, 3, 2, 1]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Constraints()),
        ({"forced_eos_token_id": 1}, Constraints(forced_last=(1,))),
        ({"forced_eos_token_id": [1, 7]}, Constraints(forced_last=(1, 7))),
        ({"forced_bos_token_id": 5}, Constraints(forced_first=5)),
        ({"bad_words_ids": [[0]], "suppress_tokens": [4, 6]}, Constraints(suppressed=(4, 6, 0))),
        ({"bad_words_ids": [[0], [1]]}, Constraints(suppressed=(0,))),
        ({"bad_words_ids": [[0], [1], [7]], "eos_token_id": [1, 7]}, Constraints(suppressed=(0,))),
    ],
)
def test_what_is_read_from_a_models_settings(settings, expected):
    model = make_model("t5", 16, seed=0)
    model.generation_config.update(**settings)
    assert Constraints.of(model) == expected


def test_a_causal_model_is_not_forced_at_its_first_token():
    model = make_model("llama", 16, seed=0)
    model.generation_config.forced_bos_token_id = 5
    assert Constraints.of(model) == Constraints()
    model.generation_config = None
    assert Constraints.of(model) == Constraints()


def test_they_are_transformers_own_rules():
    model, position = make_model("bart", 16, seed=0), 3
    model.generation_config.update(suppress_tokens=[4, 9], bad_words_ids=[[0], [6]], max_length=position + 2)
    scores_BV = torch.randn(2, VOCABULARY)
    for written, limit in ((0, 9), (position, 9), (position, position + 1)):
        model.generation_config.max_length = limit + 1
        ids = torch.zeros(2, written + 1, dtype=torch.long)
        settings, _ = model._prepare_generation_config(None)
        model._prepare_special_tokens(settings)
        theirs_BV = model._get_logits_processor(settings, input_ids_seq_length=1)(ids, scores_BV.clone())
        ours_BV = Constraints.of(model).apply(scores_BV, torch.full((2,), written), torch.full((2,), limit))
        assert ours_BV.equal(theirs_BV)


def test_what_is_not_applied_is_said_once(caplog):
    warn_once.cache_clear()
    model = make_model("t5", 16, seed=0)
    model.generation_config.update(no_repeat_ngram_size=3, repetition_penalty=1.0, bad_words_ids=[[3, 4]])
    with caplog.at_level(logging.WARNING, "wheels"):
        assert Constraints.of(model) == Constraints.of(model) == Constraints()
    said = "no_repeat_ngram_size, bad_words_ids of several tokens of the model is not applied"
    assert [record.getMessage() for record in caplog.records] == [said]
