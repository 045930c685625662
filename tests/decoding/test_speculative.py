"""Methods that verify, in the engine: against `generate`, in any company, in law, and against counts by hand."""

import functools
import math
from dataclasses import dataclass, replace

import pytest
import torch

from tests.decoding.test_engine import LIMIT, TEXTS, Every, outcome, own_generate
from tests.decoding.tiny import FAMILIES, SEEDS, SEQ2SEQ, make_model, make_pair, with_ends, write
from tests.envs.tiny import EOS, tokenizer_of
from tests.marks import slow, spread
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    prompt_lookup,
    speculative,
    verified,
)
from wheels.decoding.methods.rules import RULES
from wheels.decoding.methods.verify import Check, Speculative, Verdict
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import prepare_sequences
from wheels.decoding.step import Step
from wheels.errors import WheelsError
from wheels.models.pair import Pair

ROUNDED = {"student_weights": "int8", "teacher_weights": "int8"}
NONE = {"budget": None, "max_new_tokens": LIMIT}
NOISE = 0.08
"""Of a student's weights, in standard deviations of each: it then writes about half of the teacher's tokens."""


def kin(family: str) -> Pair:
    """A pair that agrees often: the student is the teacher with noise."""
    teacher, student = (make_model(family, 24, SEEDS[family] + 100) for _ in range(2))
    generator = torch.Generator().manual_seed(7)
    for parameter in student.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += NOISE * noise * (parameter.std() if parameter.numel() > 1 else 0.0)
    return Pair.of(student, teacher, tokenizer_of(ends_source=family in SEQ2SEQ))


def twins(family: str) -> Pair:
    """A student that is the teacher."""
    model = make_model(family, 24, SEEDS[family] + 100)
    return Pair.of(model, make_model(family, 24, SEEDS[family] + 100), tokenizer_of(ends_source=family in SEQ2SEQ))


COMPANY = [
    (size, schedule)
    for size in (1, 3, 8)
    for schedule in (Schedule(), Schedule("lockstep"), Schedule(group=2), Schedule(patience=1))
]
THE_TEACHER: dict[str, Method] = {
    "speculative 1": speculative(1),
    "speculative 3": speculative(3),
    "speculative 20": speculative(20),
    "adaptive": speculative(4, adaptive=True),
    "lookup": prompt_lookup(5),
    "adaptive lookup": prompt_lookup(2, adaptive=True),
    "cascade": cascade("opt", -math.inf, 3),
    "verified": verified(Every(3), tolerance=0.0, complete=True),
    "bild": bild(0.3, 0.69),  # what has more than half of p is the best
}
THE_STUDENT: dict[str, Method] = {
    "token-v3": cascade("token-v3", 1.0, 4),
    "chow": cascade("chow", 1.0, 20),
    "diff": cascade("diff", 1.0, 1),
}


def some(family: str, method: int) -> list[tuple[int, Schedule]]:
    """Return every sixth company: every family and every method meets all of them."""
    return COMPANY[(list(FAMILIES).index(family) + method) % 6 :: 6]


@functools.cache
def shared(family: str) -> Pair:
    """Return a pair of kin, where 7 ends a text too, that no test changes."""
    return with_ends(kin(family), [EOS, 7])


@functools.cache
def expected_texts(family: str, model_name: str) -> list[tuple[int, ...]]:
    """Return what a model of the shared pair writes by its own `generate`."""
    return own_generate(shared(family), model_name, TEXTS)


WAYS = [(family, name) for name in (*THE_TEACHER, *THE_STUDENT) for family in FAMILIES]
"""Each method is met by T5 or Llama in the fast tests, and by every family in the slow ones."""
FAST_WAYS = [*zip(("t5", "llama") * 6, (*THE_TEACHER, *THE_STUDENT), strict=True)]


@pytest.mark.parametrize(("family", "name"), [*FAST_WAYS, *slow(*(way for way in WAYS if way not in FAST_WAYS))])
def test_the_text_is_the_models_own_generate(family, name):
    number, method = [*THE_TEACHER, *THE_STUDENT].index(name), {**THE_TEACHER, **THE_STUDENT}[name]
    pair = shared(family)
    expected, accepted, drafted = expected_texts(family, "teacher" if name in THE_TEACHER else "student"), 0, 0
    for size, schedule in some(family, number):
        texts = TEXTS[: {1: 2, 3: 5, 8: 11}[size]]
        traces = write(pair, texts, method, batch_size=size, schedule=schedule, **NONE)
        assert [trace.token_ids for trace in traces] == expected[: len(texts)], (size, schedule)
        assert [trace.finished for trace in traces] == [row[-1] in pair.eos_ids for row in expected[: len(texts)]]
        accepted, drafted = (
            before + sum(getattr(trace, count) for trace in traces)
            for before, count in ((accepted, "accepted"), (drafted, "drafted"))
        )
    assert name in THE_STUDENT or 0 < accepted < drafted, "nothing or all was accepted: half of it is not tested"


@pytest.mark.parametrize("family", FAMILIES)
def test_in_fast_passes_too(family):
    """The pairs here are of float64, which the engine leaves to the library's forward; these are not."""
    pair = kin(family)
    for model in (pair.student.float(), pair.teacher.float()):
        assert fast_decoder_for(model) is not None
    written = [trace.token_ids for trace in write(pair, TEXTS, speculative(3), batch_size=3, **NONE)]
    assert written == own_generate(pair, "teacher", TEXTS)
    assert len(set(written)) > len(TEXTS) // 2, "the texts differ"


def test_every_company_is_met():
    names = range(len(THE_TEACHER) + len(THE_STUDENT))
    for family in FAMILIES:
        assert {case for name in names for case in some(family, name)} == set(COMPANY)
    for name in names:
        assert {case for family in FAMILIES for case in some(family, name)} == set(COMPANY)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_that_hardly_agrees_still_writes_as_the_teacher(family):
    pair = make_pair(family)
    expected = own_generate(pair, "teacher", TEXTS)
    for method in (speculative(4), verified(Every(2), tolerance=0.0, complete=True, draft=3)):
        assert [trace.token_ids for trace in write(pair, TEXTS, method, **NONE)] == expected


def test_a_rule_that_accepts_all_would_be_seen(monkeypatch):
    """The negative control of the identities above."""
    monkeypatch.setattr(Speculative, "__call__", accepts_all)
    pair = kin("llama")
    traces = write(pair, TEXTS, speculative(3), **NONE)
    assert [trace.token_ids for trace in traces] != own_generate(pair, "teacher", TEXTS)


def accepts_all(self: Speculative, check: Check) -> Verdict:
    """A wrong rule: no draft token is ever refused."""
    return Verdict(check.num_draft_R, check.own_token(check.num_draft_R))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_infinite_threshold_is_plain_deferral(family):
    request = {"max_new_tokens": LIMIT, "batch_size": 7, "schedule": Schedule(group=2)}
    cases = (Every(3), None, Sampling()), (RULES["random"].at(0.6), 0.4, SAMPLING)
    for rule, budget, sampling in cases:
        plain, checked = (
            write(shared(family), TEXTS[:8], method, budget=budget, sampling=sampling, seed=2, **request)
            for method in (deferral(rule), verified(rule, tolerance=math.inf))
        )
        assert outcome(plain) == outcome(checked)
        assert all(trace.drafted == trace.accepted == trace.checked for trace in checked)
        assert sum(trace.teacher_passes for trace in plain) > 8 and any(trace.drafted for trace in checked)


@dataclass(frozen=True)
class After:
    """Calls after every `count` tokens."""

    count: int
    name: str = "after"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        return step.position_B % (self.count + 1) == self.count


@pytest.mark.parametrize("family", FAMILIES)
def test_bild_that_neither_falls_back_nor_rolls_back_keeps_the_drafts(family):
    """The student writes, and after each third token the teacher writes one: deferral by position."""
    pair = shared(family)
    for sampling in (Sampling(), SAMPLING):
        kept = write(pair, TEXTS, bild(0.0, math.inf, draft=3), batch_size=7, sampling=sampling, **NONE)
        plain = write(pair, TEXTS, After(3), batch_size=7, sampling=sampling, **NONE)
        assert [(trace.token_ids, trace.authors) for trace in kept] == [(t.token_ids, t.authors) for t in plain]
        assert all(trace.accepted == trace.drafted == trace.tokens - trace.teacher_tokens for trace in kept)


def test_bild_falls_back_and_rolls_back_by_its_defaults():
    """Below a probability of 0.6; beyond 3 nats of the teacher's surprise; after 10 tokens at the latest."""
    method = bild()
    assert method.rule.threshold == pytest.approx(0.4)
    assert (method.verifier.threshold, method.verifier.measure, method.draft) == (3.0, "surprise", 10)


@pytest.mark.slow
def test_bild_rolls_back_and_falls_back():
    pair = kin("t5")
    often, seldom = (write(pair, TEXTS, bild(fallback, 2.0, draft=9), **NONE) for fallback in (0.95, 0.0))
    assert sum(t.teacher_passes for t in often) > sum(t.teacher_passes for t in seldom)
    strict, loose = (write(pair, TEXTS, bild(0.6, rollback), **NONE) for rollback in (0.1, 50.0))
    assert sum(t.wasted for t in strict) > sum(t.wasted for t in loose)


SAMPLING = Sampling(5.0, top_k=9, top_p=0.95)
SAMPLED: dict[str, Method] = {
    "speculative": speculative(3),
    "lossy": speculative(3, lenience=0.3),
    "lookup": prompt_lookup(4),
    "cascade": cascade("token-v2", 0.2, 3),
    "bild": bild(0.6, 2.0, draft=4),
    "verified": verified(RULES["random"].at(0.6), tolerance=1.0, complete=True, draft=5),
}


@pytest.mark.parametrize(("family", "name"), spread(["t5", "llama"], SAMPLED))
def test_company_changes_nothing(family, name):
    pair, texts, method = shared(family), TEXTS[:5], SAMPLED[name]

    def run(size: int, schedule: Schedule, seed: int = 3) -> list[tuple]:
        traces = write(
            pair, texts, method, batch_size=size, schedule=schedule, sampling=SAMPLING, seed=seed, budget=None,
            max_new_tokens=6,
        )  # fmt: skip
        counts = [(t.student_passes, t.drafted, t.accepted, t.checked) for t in traces]
        return list(zip(outcome(traces), counts, strict=True))

    grouped = run(8, Schedule())
    assert grouped == run(3, Schedule(group=2)) == run(4, Schedule("lockstep")) == run(1, Schedule())
    assert grouped != run(8, Schedule(patience=1), seed=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_seed_one_output(family):
    pair = shared(family)
    first, again, other = (
        outcome(write(pair, TEXTS[:6], speculative(2), sampling=SAMPLING, seed=seed, **NONE)) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("name", ["bild", "verified"])
def test_budget_1_is_the_teacher_alone(name):
    pair = kin("t5")
    traces = write(pair, TEXTS, SAMPLED[name], budget=1.0, max_new_tokens=LIMIT)
    assert [trace.token_ids for trace in traces] == own_generate(pair, "teacher", TEXTS)
    assert all(trace.student_passes == 0 and trace.teacher_use == 1 for trace in traces)


@pytest.mark.parametrize("method", [cascade("opt", 0.0, draft=0), speculative(0)], ids=lambda method: method.name)
def test_a_method_that_drafts_nothing_is_the_teacher_alone(method):
    pair = kin("t5")
    traces = write(pair, TEXTS, method, budget=None, max_new_tokens=LIMIT)
    assert [trace.token_ids for trace in traces] == own_generate(pair, "teacher", TEXTS)


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        (
            speculative(3),
            {"budget": 0.5},
            "speculative calls when a draft is full and keeps no budget; give budget=None",
        ),
        (prompt_lookup(3), {"budget": 0.0}, "lookup calls when a draft is full and keeps no budget"),
        (bild(), {"budget": 0.0}, "bild verifies every token and cannot keep budget 0"),
        (bild(), {"budget": [0.5, 0.0]}, "bild verifies every token and cannot keep budget 0"),
        (
            verified(Every(2), tolerance=1.0),
            {"budget": 0.5, "mode": "strict"},
            "strict mode cannot take tokens back; use budget_mode average",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(method, request_, message):
    with pytest.raises(WheelsError, match=message):
        write(kin("t5"), ["a", "b"], method, **request_)


def test_verified_deferral_keeps_its_ends():
    pair, method = kin("t5"), verified(Every(2), tolerance=0.0)
    for budget, model in ((0.0, "student"), (1.0, "teacher")):
        traces = write(pair, TEXTS, method, budget=budget, max_new_tokens=LIMIT)
        assert [trace.token_ids for trace in traces] == own_generate(pair, model, TEXTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: speculative(-1), "draft length must be at least 0, got -1"),
        (lambda: Method("x", None, Speculative()), "x calls the teacher when a draft is full: give it a draft length"),
        (lambda: Method("x", Every(2), None, 3, adaptive=True), "x has drafts that nobody verifies"),
        (lambda: Method("x", Every(2), Speculative(), 3, lookup=True), "copies its drafts, and rule 'every' needs"),
        (lambda: verified(RULES["foresight"], tolerance=1.0), "rule 'foresight' reads the teacher before every token"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(WheelsError, match=message):
        make()


def test_texts_in_flight_are_the_batch_and_those_that_wait():
    pair = kin("t5")
    rows = prepare_sequences(pair, TEXTS, LIMIT)
    for size, schedule, count in ((4, Schedule(group=3), 6), (4, Schedule("lockstep"), 4), (8, Schedule(group=8), 12)):
        made = Engine(
            pair, rows, speculative(3), DecodeParams(max_new_tokens=LIMIT), batch_size=size, schedule=schedule
        )
        assert len(made.texts.sequences) == count


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_with_an_int8_teacher_a_verified_text_is_that_teachers_own(family):
    """In any company: the teacher reads several tokens at once, and rows of other texts beside them."""
    exact = kin(family)
    exact.student.float(), exact.teacher.float()
    rounded = replace(exact, **ROUNDED)
    every = {"budget": 1.0, "max_new_tokens": LIMIT}
    alone = [each.token_ids for each in write(rounded, TEXTS, Every(1), **every)]
    assert alone != [each.token_ids for each in write(exact, TEXTS, Every(1), **every)], "int8 changes some texts"
    for batch_size in (1, 3, 64):
        found = write(rounded, TEXTS, speculative(4), batch_size=batch_size, **NONE)
        assert [each.token_ids for each in found] == alone
