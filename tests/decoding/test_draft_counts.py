"""What a trace counts of its drafts: by hand, against the obvious loop, and against the models' forward passes."""

import math

import pytest
import torch

from tests.decoding.test_engine import LIMIT, TEXTS, Counted, own_generate
from tests.decoding.test_speculative import NONE, SAMPLED, SAMPLING, kin, twins
from tests.decoding.tiny import FAMILIES, make_pair, with_ends, write
from tests.envs.tiny import EOS
from wheels.decoding import engine
from wheels.decoding.methods.method import LONGEST_DRAFT, Method, bild, cascade, prompt_lookup, speculative
from wheels.decoding.models.costs import Costs
from wheels.decoding.passes import Passes
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.models.pair import Pair


@pytest.mark.parametrize("name", SAMPLED)
def test_counts_fit_together(name):
    for sampling in (Sampling(), SAMPLING):
        for trace in write(kin("t5"), TEXTS, SAMPLED[name], sampling=sampling, **NONE):
            assert 0 <= trace.accepted <= trace.checked <= trace.drafted
            assert trace.checked - trace.accepted <= trace.teacher_passes
            assert trace.wasted == trace.drafted - trace.accepted
            assert trace.acceptance == (trace.accepted / trace.checked if trace.checked else None)
            assert trace.tokens == trace.accepted + trace.teacher_tokens, "nothing stands that was not verified"
            assert trace.teacher_passes - 1 <= trace.teacher_tokens <= trace.teacher_passes or name == "cascade"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_the_teacher_is_never_refused(family):
    pair = with_ends(twins(family), [EOS, 7])
    for draft, sampling in ((1, Sampling()), (3, SAMPLING), (20, Sampling())):
        traces = write(pair, TEXTS, speculative(draft), sampling=sampling, batch_size=4, **NONE)
        for trace in traces:
            assert trace.drafted == trace.accepted == trace.checked and trace.wasted == 0
            assert trace.teacher_passes == math.ceil(trace.tokens / (draft + 1))
            assert trace.teacher_positions == trace.tokens + (trace.authors[-1] == "student"), "a drafted end is read"
        assert any(trace.finished for trace in traces)
    alone = write(pair, TEXTS, speculative(20), **NONE)
    assert all(trace.teacher_passes == 1 for trace in alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_by_hand_where_all_is_accepted(family):
    """Ten tokens in drafts of three: sss t, sss t, and one more before the last, since the teacher writes that."""
    pair = with_ends(twins(family), 99)
    (trace,) = write(pair, ["a b c"], speculative(3), budget=None, max_new_tokens=10)
    assert "".join(author[0] for author in trace.authors) == "ssst" * 2 + "st"
    assert (trace.teacher_passes, trace.teacher_positions, trace.student_passes) == (3, 4 + 4 + 2, 7)
    assert (trace.drafted, trace.accepted, trace.checked, trace.acceptance) == (7, 7, 7, 1.0)
    assert (trace.prompt_positions, trace.budget) == (len(pair.encode(["a b c"])[0]), None)
    (trace,) = write(pair, ["a b c"], cascade("diff", 1.0, 3), budget=None, max_new_tokens=10)
    assert set(trace.authors) == {"student"} and trace.teacher_passes == 4
    assert trace.teacher_positions == 4 + 4 + 4 + 2, "the last token of a draft that stands whole is read again"


@torch.no_grad()
def obvious(pair: Pair, source: str, draft: int, limit: int) -> tuple:
    """Speculative decoding as it is told: every score from scratch, one row, no cache."""
    prompt = pair.encode([source])[0]
    prefix = list(pair.start_ids) if pair.is_seq2seq else prompt

    def best(model, text: list[int]) -> int:
        ids = torch.tensor([[*prefix, *text]])
        inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": ids}
        return int(model(**(inputs if pair.is_seq2seq else {"input_ids": ids})).logits[0, -1].argmax())

    text: list[int] = []
    passes = drafted = accepted = checked = positions = 0
    while len(text) < limit and not (text and text[-1] in pair.eos_ids):
        guess: list[int] = []
        while len(guess) < min(draft, limit - len(text) - 1) and not (guess and guess[-1] in pair.eos_ids):
            guess.append(best(pair.student, text + guess))
        passes, drafted, positions = passes + 1, drafted + len(guess), positions + len(guess) + 1
        kept = 0
        while kept < len(guess) and best(pair.teacher, text + guess[:kept]) == guess[kept]:
            kept += 1
        accepted, checked = accepted + kept, checked + min(kept + 1, len(guess))
        text += guess[:kept]
        if not (kept and kept == len(guess) and text[-1] in pair.eos_ids):
            text.append(best(pair.teacher, text))
    return tuple(text), passes, positions, drafted, accepted, checked


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama", "gpt2", "qwen3"])
def test_the_engine_is_the_obvious_loop(family):
    pair = with_ends(kin(family), [EOS, 7, 9])
    for draft in (1, 4):
        traces = write(pair, TEXTS[:6], speculative(draft), batch_size=4, **NONE)
        for source, t in zip(TEXTS[:6], traces, strict=True):
            counts = (t.token_ids, t.teacher_passes, t.teacher_positions, t.drafted, t.accepted, t.checked)
            assert counts == obvious(pair, source, draft, LIMIT)
        assert draft == 1 or any(trace.finished and trace.authors[-1] == "student" for trace in traces)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_passes_are_the_teachers_forward_calls(name):
    for family in ("llama" if name == "lookup" else "bart",):
        pair = kin(family)
        counted = Counted(pair)
        traces = write(pair, TEXTS[:6], SAMPLED[name], batch_size=1, **NONE)
        assert counted.passes == counted.rows == sum(trace.teacher_passes for trace in traces) > 0
        alone = counted.passes
        write(pair, TEXTS[:6], SAMPLED[name], batch_size=6, schedule=Schedule(group=3), **NONE)
        assert counted.rows - alone == alone > counted.passes - alone


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draft_never_exceeds_the_limit(family, limit):
    pair = kin(family)
    for method in (speculative(20), prompt_lookup(20), cascade("opt", -math.inf, 20), bild(0.1, 0.0, draft=20)):
        traces = write(pair, TEXTS, method, batch_size=5, budget=None, max_new_tokens=limit)
        assert [trace.token_ids for trace in traces] == own_generate(pair, "teacher", TEXTS, limit), method.name
        room = limit - method.verifier.bonus
        assert all(trace.drafted <= room * trace.teacher_passes for trace in traces)
        assert limit > 1 or not method.verifier.bonus or all(trace.drafted == 0 for trace in traces)


def test_the_student_of_lookup_never_runs():
    pair = kin("llama")
    counted = Counted(Pair(pair.teacher, pair.student, pair.tokenizer))
    traces = write(pair, TEXTS, prompt_lookup(4), **NONE)
    assert counted.passes == 0 and all(trace.student_passes == 0 for trace in traces)
    assert any(trace.accepted for trace in traces)


def test_a_draft_that_is_stopped_counts_what_stands():
    pair = with_ends(twins("t5"), 99)
    stop = {"stopping": lambda index, tokens: len(tokens) == 2}
    (trace,) = write(pair, ["a b c"], speculative(5), **NONE, **stop)
    assert (trace.tokens, trace.finished, trace.drafted) == (2, True, 5)
    assert trace.accepted + trace.teacher_tokens == trace.tokens


def longest_drafts(pair: Pair, method: Method, monkeypatch) -> list[int]:
    """Return the length of every draft that was checked, in order, with one text of 40 tokens."""
    lengths: list[int] = []
    check = Passes._check
    monkeypatch.setattr(
        Passes,
        "_check",
        lambda self, slots, num_draft_R, logits: (
            lengths.append(int(num_draft_R)) or check(self, slots, num_draft_R, logits)
        ),
    )
    write(pair, ["a b c"], method, budget=None, max_new_tokens=40)
    return lengths


def test_adaptive_drafts_follow_acceptance_and_costs(monkeypatch):
    pair = with_ends(twins("llama"), 99)
    method = speculative(4, adaptive=True)
    grown = longest_drafts(pair, method, monkeypatch)
    assert grown[0] == 4 and 4 < max(grown) <= LONGEST_DRAFT and sum(grown) + len(grown) == 40
    dear = Costs({1: 9.0}, {(1, 1): 1.0, (1, 5): 1.1})
    monkeypatch.setattr(engine, "costs_of", lambda pair, batch_size: dear)
    assert longest_drafts(pair, method, monkeypatch)[:3] == [4, 1, 1], "a student step costs nine passes of the teacher"


def test_a_rejected_end_does_not_end_the_text():
    """The student would end at once, and the teacher never does."""
    pair = with_ends(make_pair("llama"), 7)
    pair.student.get_output_embeddings().weight.data[7] *= 0
    head = pair.teacher.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, scores: scores.index_fill(-1, torch.tensor([7]), -1e4))
    pair.student.get_output_embeddings().register_forward_hook(
        lambda module, inputs, scores: scores.index_fill(-1, torch.tensor([7]), 1e4)
    )
    for method in (speculative(3), bild(0.1, 3.0), cascade("opt", -math.inf)):
        for trace in write(pair, TEXTS[:4], method, **NONE):
            assert trace.tokens == LIMIT and not trace.finished and trace.accepted == 0 and trace.drafted > 0
