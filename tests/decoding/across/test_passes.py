"""Two tokenizers: each end is its own model's text, and what lies between depends on no batch and no cache."""

import json

import pytest
import torch

from tests.decoding.across.two import SOURCES, text_pair
from tests.decoding.tiny import write
from wheels.decoding.across import passes
from wheels.decoding.across.spelling import Spelling
from wheels.decoding.methods.method import cascade, speculative, student_only, teacher_only
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.render import as_json, summary
from wheels.decoding.sampling import Sampling
from wheels.decoding.trace import TEACHER
from wheels.errors import WheelsError
from wheels.models.pair import Pair

KINDS = [("t5", "t5"), ("llama", "llama"), ("t5", "llama"), ("llama", "t5")]
LONG = {"max_new_tokens": 24}
THIRD = Rule("third", score=lambda step: (step.position_B % 3 == 1).double()).at(0.5)


def own_texts(pair: Pair, role: str) -> list[str]:
    """Return what a model's own `generate` writes."""
    model, tokenizer = (pair.student, pair.tokenizer) if role == "student" else (pair.writer, pair.teacher_tokenizer)
    texts = []
    for source in SOURCES:
        tokens = pair.encode([source])[0] if role == "student" else pair.encode_for_teacher(source)
        start = 0 if model.config.is_encoder_decoder else len(tokens)
        ids = model.generate(torch.tensor([tokens]), max_new_tokens=40, do_sample=False)[0, start:]
        texts.append(str(tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "span", "seed"),
    [*((*kinds, "tokens:1", 0) for kinds in KINDS), ("llama", "llama", "tokens:1", 1), ("t5", "t5", "tokens:5", 0)],
)
def test_the_teacher_alone_writes_its_own_text_in_its_students_own_spelling(student, teacher, span, seed, monkeypatch):
    if not seed:  # a boundary that the next token leaves as it is the one after it may still move
        monkeypatch.setattr(Spelling, "authors", None)  # nothing is spelled anew
    pair = text_pair(student, teacher, span, seed)  # the fifth does not spell its own text as its tokenizer does
    traces = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    for source, trace, own in zip(SOURCES, traces, own_texts(pair, "teacher"), strict=True):
        assert own.startswith(trace.text) and (not trace.finished or own == trace.text)
        assert set(trace.authors) == {TEACHER} and not trace.degraded
        prompt, tokens = pair.encode([source])[0], list(trace.token_ids)[: -1 if trace.finished else None]
        assert tokens == pair.spelling.tokens(prompt, pair.spelling.text(prompt, tokens))
    assert all(trace.finished or trace.tokens == 24 for trace in traces)


@pytest.mark.parametrize(("student", "teacher"), KINDS)
def test_the_student_alone_writes_its_own_text(student, teacher):
    pair = text_pair(student, teacher)
    for trace, own in zip(
        write(pair, SOURCES, student_only(), budget=0.0, **LONG), own_texts(pair, "student"), strict=True
    ):
        assert own.startswith(trace.text) and trace.own_tokens == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "span", "seed"),
    [("llama", "llama", "tokens:1", 1), ("t5", "t5", "tokens:3", 0), ("llama", "t5", "tokens:1", 0)],
)
def test_texts_depend_on_no_batch_and_no_cache(student, teacher, span, seed, monkeypatch):
    pair, authors, anew = text_pair(student, teacher, span, seed), Spelling.authors, []
    monkeypatch.setattr(Spelling, "authors", lambda self, *given: anew.append(given) or authors(self, *given))
    together = write(pair, SOURCES, THIRD, budget=0.5, batch_size=8, **LONG)
    alone = write(pair, SOURCES, THIRD, budget=0.5, batch_size=1, **LONG)
    first = torch.zeros(1, dtype=torch.long)
    monkeypatch.setattr(
        passes.TextPasses, "forget", lambda self, slot, same: self.student.rollback(torch.tensor([slot]), first)
    )
    monkeypatch.setattr(passes, "shared_prefix", lambda first, second: 0)
    uncached = write(pair, SOURCES, THIRD, budget=0.5, batch_size=1, **LONG)
    found = [[(trace.token_ids, trace.authors) for trace in traces] for traces in (together, alone, uncached)]
    assert found[0] == found[1] == found[2]
    assert all(0 < trace.teacher_tokens < trace.tokens for trace in together if trace.tokens > 3)
    assert anew or not seed, "one of them spells a word anew, which its student has read already"


def test_draws_follow_from_the_seed():
    pair, warm = text_pair("llama", "llama"), Sampling(temperature=1.0)
    texts = [
        [trace.text for trace in write(pair, SOURCES, THIRD, budget=0.5, sampling=warm, seed=seed, batch_size=size)]
        for seed, size in ((1, 8), (1, 2), (2, 8))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_use_is_counted_in_characters_and_in_both_tokens():
    pair = text_pair("t5", "t5", "tokens:2")
    (trace,) = write(pair, SOURCES[3:4], THIRD, budget=0.5, **LONG)
    told = json.loads(as_json([trace]))
    assert told["characters"] == len("".join(trace.pieces)) > told["teacher_characters"] > 0
    read, written = told["teacher_own_tokens"]["read"], told["teacher_own_tokens"]["written"]
    assert written == trace.teacher_passes and read >= trace.teacher_positions
    assert f"{told['teacher_characters']} of {told['characters']} characters, for which it read {read} and wrote" in (
        summary([trace])
    )
    assert "characters" not in summary(write(pair, SOURCES[:1], student_only(), budget=0.0, **LONG))


def test_a_teacher_without_room_lets_the_student_go_on():
    pair = text_pair("llama", "llama")
    pair.teacher_tokenizer.model_max_length = 12
    traces = write(pair, SOURCES[:3], teacher_only(), budget=1.0, **LONG)
    assert all(trace.degraded and trace.tokens == 24 for trace in traces if not trace.finished)
    assert any(trace.degraded for trace in traces)


def test_a_source_that_the_teacher_cannot_read_is_refused():
    pair = text_pair("llama", "llama")
    pair.teacher_tokenizer.model_max_length = 4
    with pytest.raises(WheelsError, match=r"input 1: \d+ tokens of the teacher's, which reads at most 4"):
        write(pair, SOURCES[:1], teacher_only(), budget=1.0, **LONG)


@pytest.mark.parametrize(
    ("how", "settings", "message"),
    [
        (
            cascade("opt", 0.1),
            {},
            "method 'cascade-opt' compares two distributions over one vocabulary, and .* has anothe",
        ),
        (
            speculative(3, adaptive=True),
            {},
            "a length that adapts follow from measured passes, and .*; give a fixed length",
        ),
        (RULES["foresight"].at(0.5), {"budget": 0.5}, "rule 'foresight' reads the teacher's logits before every token"),
        (RULES["random"], {"budget": 0.5}, "a call buys as many tokens as its text takes, and average mode counts on"),
        (THIRD, {"budget": 0.5, "mode": "strict"}, "and strict mode counts on one: use budget_mode online"),
        (RULES["every-k"], {"budget": 0.5, "mode": "online"}, "and rule 'every-k' counts on one; use another rule"),
        (
            teacher_only(),
            {"budget": 1.0, "logits_processor": lambda *given: given[0]},
            "logits_processor changes the logits of both",
        ),
    ],
)
def test_what_needs_the_teachers_logits_is_refused(how, settings, message):
    with pytest.raises(WheelsError, match=message):
        write(text_pair("t5", "t5"), SOURCES[:1], how, **settings)


def test_the_teacher_is_none_of_its_students_tokens():
    with pytest.raises(WheelsError, match="another tokenizer, and writes text for its student, and this needs its wei"):
        _ = text_pair("t5", "t5").teacher
