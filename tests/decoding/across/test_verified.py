"""Drafts across two tokenizers: the text is the teacher's own, as in transformers' universal assisted generation."""

import logging
from collections import Counter

import pytest
import torch

from tests.decoding.across.two import SOURCES, taught, text_pair
from tests.decoding.tiny import write
from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.spelling import Spelling
from wheels.decoding.methods.method import (
    bild,
    prompt_lookup,
    speculative,
    student_only,
    take_back,
    teacher_only,
    verified,
)
from wheels.decoding.methods.rule import Rule
from wheels.decoding.params import TEACHER_STREAM
from wheels.decoding.sampling import Sampling, draw, uniforms
from wheels.decoding.trace import STUDENT

VERSE = ("ba du la. " * 3 + "u badu la. ") * 4
KINDS = [("t5", "t5"), ("llama", "llama"), ("t5", "llama"), ("llama", "t5")]
LONG = {"max_new_tokens": 24}


@pytest.fixture(scope="module")
def pair() -> TextPair:
    """Both models go on with the verse; their texts differ here and there."""
    return taught(text_pair("llama", "llama"), VERSE)


def universal(pair: TextPair, source: str) -> str:
    """What transformers' universal assisted generation writes."""
    tokens = torch.tensor([pair.encode_for_teacher(source)])
    logging.disable(logging.WARNING)  # it calls its own `generate` in a deprecated way
    try:
        ids = pair.writer.generate(
            tokens,
            assistant_model=pair.student,
            tokenizer=pair.teacher_tokenizer,
            assistant_tokenizer=pair.tokenizer,
            max_new_tokens=40,
            do_sample=False,
        )
    except RuntimeError as error:
        if "tensor of 0 elements" in str(error):
            pytest.skip("this version's own assisted generation reads an empty draft, and fails")
        raise
    finally:
        logging.disable(logging.NOTSET)
    return str(pair.teacher_tokenizer.decode(ids[0, tokens.shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "batch_size"), [(4, 8), (2, 1), (7, 2)])
def test_the_text_is_that_of_universal_assisted_generation(pair, draft, batch_size):
    traces = write(pair, SOURCES, speculative(draft), batch_size=batch_size, **LONG)
    for source, trace in zip(SOURCES, traces, strict=True):
        own = universal(pair, source)
        assert own.startswith(trace.text) and (own == trace.text if trace.finished else trace.tokens == 24)
        assert trace.teacher_passes < trace.tokens and trace.authors.count(STUDENT) <= trace.accepted
    assert sum(trace.accepted for trace in traces) > sum(trace.drafted for trace in traces) / 8
    assert any(trace.wasted > 0 for trace in traces)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [speculative(4), take_back(5, 0.0), bild(0.6, 0.0), prompt_lookup(4)], ids=lambda each: each.name
)
@pytest.mark.parametrize(("student", "teacher"), KINDS)
def test_random_models_of_any_kind_write_the_teachers_own_text(student, teacher, method):
    pair = text_pair(student, teacher)
    own = write(pair, SOURCES, teacher_only(), budget=1.0, max_new_tokens=40)
    for mine, trace in zip(own, write(pair, SOURCES, method, **LONG), strict=True):
        assert mine.text.startswith(trace.text) and (not trace.finished or mine.text == trace.text)
        assert trace.finished or trace.tokens == 24


def test_the_students_text_stands_where_all_is_tolerated(pair):
    alone = write(pair, SOURCES, student_only(), budget=0.0, **LONG)
    tolerant = write(pair, SOURCES, take_back(30, float("inf")), **LONG)
    for own, trace in zip(alone, tolerant, strict=True):
        assert trace.text.startswith(own.text[: len(trace.text) - 4]), "all but what the teacher adds at the end"


@pytest.mark.slow
def test_a_rule_calls_and_the_call_verifies(pair):
    method = verified(Rule("third", score=lambda step: (step.position_B % 3 == 1).double()).at(0.5), tolerance=0.5)
    found = [write(pair, SOURCES, method, batch_size=size, **LONG) for size in (1, 8)]
    assert [trace.text for trace in found[0]] == [trace.text for trace in found[1]]
    assert sum(trace.accepted for trace in found[0]) and sum(trace.teacher_tokens for trace in found[0]) > 0


def test_a_teacher_draws_by_the_number_of_its_own_token():
    pair, warm = text_pair("llama", "llama"), Sampling(temperature=1.0)
    traces = write(pair, SOURCES, teacher_only(), budget=1.0, sampling=warm, seed=3, **LONG)
    for index, (source, trace) in enumerate(zip(SOURCES, traces, strict=True)):
        prompt, written = pair.encode_for_teacher(source), list[int]()
        while len(written) < 40 and pair.teacher_tokenizer.eos_token_id not in written:
            logits_1V = pair.writer(torch.tensor([[*prompt, *written]])).logits[:, -1].clone()
            logits_1V[:, pair.writer.generation_config.suppress_tokens] = -float("inf")
            place = torch.tensor([len(written)])
            noise_1 = uniforms(3, torch.tensor([index]), place, TEACHER_STREAM)
            written.append(int(draw(warm.probs(logits_1V), noise_1)))
        own = str(pair.teacher_tokenizer.decode(written, skip_special_tokens=True)).strip()
        assert own.startswith(trace.text) and (not trace.finished or own == trace.text)


@pytest.mark.slow
def test_sampled_drafts_leave_the_teachers_distribution(pair):
    """Of the first two characters, which do not depend on how a text is spelled: a chi-square of two samples."""
    settings = {"sampling": Sampling(temperature=3.0), "max_new_tokens": 4, "batch_size": 300}
    sources = [SOURCES[0]] * 600
    drafted = write(pair, sources, speculative(2), seed=1, **settings)
    alone = write(pair, sources, teacher_only(), budget=1.0, seed=2, **settings)
    counts = [Counter(trace.text[:2] for trace in traces) for traces in (drafted, alone)]
    whole = {text: number for text, number in (counts[0] + counts[1]).items() if number >= 10}
    statistic = sum((counts[0][text] - counts[1][text]) ** 2 / number for text, number in whole.items())
    assert statistic < len(whole) + 4 * (2 * len(whole)) ** 0.5, "four deviations above its mean"
    assert len(whole) > 8 and sum(trace.accepted for trace in drafted) > 100


def test_a_teacher_without_room_leaves_the_draft(pair, monkeypatch):
    monkeypatch.setattr(pair.teacher_tokenizer, "model_max_length", 14)
    traces = write(pair, SOURCES[:3], speculative(3), **LONG)
    assert any(trace.degraded for trace in traces)
    assert all(trace.finished or trace.tokens == 24 for trace in traces)


@pytest.mark.parametrize(
    ("settled", "added", "stands"), [(0, "badula", 4), (0, "ba l", 1), (1, "du", 3), (1, "x", 1), (0, "", 0)]
)
def test_a_draft_stands_as_far_as_its_text_does(pair, settled, added, stands):
    tokenizer = pair.tokenizer
    tokens = list(tokenizer.convert_tokens_to_ids(["\N{LOWER ONE EIGHTH BLOCK}ba", "d", "u", "la"]))
    assert Spelling(tokenizer, after_prompt=False).standing([], tokens, settled, added) == stands
