"""Regrets across two tokenizers, beside a sum over all tokens of the teacher's vocabulary, one by one."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.decoding.across.two import SOURCES, STUDENTS, spelled, text_pair
from tests.decoding.tiny import write
from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.regrets import Spelled, text_regrets
from wheels.decoding.across.spelling import Pieces
from wheels.decoding.methods.method import student_only
from wheels.decoding.teacher_forcing import teacher_force
from wheels.models.pair import Pair

KINDS = [("t5", "t5"), ("llama", "llama"), ("t5", "llama"), ("llama", "t5")]


def own_texts(pair: Pair) -> list[list[int]]:
    return [list(trace.token_ids) for trace in write(pair, SOURCES, student_only(), budget=0.0, max_new_tokens=12)]


def next_log_p(pair: TextPair, source: str, tokens: list[int]) -> torch.Tensor:
    """Return the teacher's log-probabilities after some of its tokens, from one plain pass."""
    asked = torch.tensor([pair.encode_for_teacher(source)])
    with torch.no_grad():
        if pair.writer.config.is_encoder_decoder:
            read = torch.tensor([[*pair.teacher_start, *tokens]])
            logits = pair.writer(input_ids=asked, decoder_input_ids=read).logits
        else:
            logits = pair.writer(input_ids=torch.cat([asked, torch.tensor([tokens]).long()], 1)).logits
    own_V = logits[0, -1, : len(pair.teacher_tokenizer)].double()
    own_V[[0, 2]] = -torch.inf  # its settings suppress them
    return own_V.log_softmax(-1)


@pytest.mark.parametrize(("student", "teacher"), KINDS)
def test_a_regret_is_what_the_best_token_has_over_all_that_agree(student, teacher):
    pair = text_pair(student, teacher)
    texts = own_texts(pair)
    found = text_regrets(pair, SOURCES, texts, batch_size=2)
    pieces = Pieces(pair.teacher_tokenizer, len(pair.teacher_tokenizer)).texts
    seen, ends = 0, 0
    for source, text, (features_TF, regret_T) in zip(SOURCES, texts, found, strict=True):
        asked, others = pair.encode([source])[0], pair.encode_for_teacher(source)
        both = Spelled(pair, asked, others, text)
        met = list(both.met(text))  # the student is greedy: its tokens are the text's
        assert len(text) == len(features_TF) == len(regret_T) and len({state for state, *_ in met}) == len(met)
        others_T = torch.ones(len(text), dtype=torch.bool)
        others_T[[state for state, *_ in met]] = False
        assert not regret_T[others_T].any(), "elsewhere it counts as 0"
        for state, place, said, first in met:
            whole = pair.spelling.text(asked, text)
            assert (
                pair.spelling.text(asked, text[:state]).strip()
                == whole.lstrip()[
                    : len(pair.teacher_spelling.text(others, both.teacher_tokens[:place]).lstrip())
                ].strip()
            )
            log_p_V = next_log_p(pair, source, both.teacher_tokens[:place])
            if said is None:
                agrees, ends = float(log_p_V[sorted(pair.teacher_ends)].exp().sum()), ends + 1
            else:
                cut = [piece.lstrip() if first else piece for piece in pieces]
                agrees = sum(
                    float(log_p_V[token].exp())
                    for token, piece in enumerate(cut)
                    if piece and (piece.startswith(said) or said.startswith(piece))
                )
            floored = math.log(agrees) if agrees > math.exp(-20) else -20.0
            assert float(regret_T[state]) == pytest.approx(max(float(log_p_V.max()) - floored, 0.0), abs=1e-4)
            seen += 1
    assert seen > 10 and any(float(regret_T.max()) > 0.1 for _, regret_T in found)
    assert sum(map(len, texts)) > seen, "and not at every state"


def test_what_the_head_sees_is_what_it_sees_of_a_pair_of_one_tokenizer():
    pair = text_pair("llama", "llama")
    texts = own_texts(pair)
    alone = Pair.alone(pair.student, pair.tokenizer)
    scored = teacher_force(alone, alone.encode(SOURCES), texts)
    for one, (features_TF, _) in zip(scored, text_regrets(pair, SOURCES, texts), strict=True):
        assert_close(features_TF, one.features_TF)


def test_a_model_regrets_nothing_of_its_own():
    """Where it reads its text as it wrote it."""
    shared = spelled(STUDENTS, ends_source=False)
    pair = text_pair("llama", "llama")
    same, read = TextPair(pair.student, pair.student, shared, shared), 0
    texts = own_texts(same)
    for source, text, (_, regret_T) in zip(SOURCES, texts, text_regrets(same, SOURCES, texts), strict=True):
        spelling = Spelled(same, same.encode([source])[0], same.encode_for_teacher(source), text)
        places = [(state, spelling.teacher_tokens[:place]) for state, place, *_ in spelling.met(text)]
        alike = [state for state, tokens in places if text[:state] == tokens]
        assert float(regret_T[alike].abs().sum()) < 1e-4
        read += len(alike)
    assert read > 10
