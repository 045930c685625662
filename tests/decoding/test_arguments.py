"""Calls of the library with what it does not take: one line that says what was given and what is allowed."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.tiny import make_pair
from tests.decoding.tiny import write as write_with
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    priced,
    prompt_lookup,
    speculative,
    student_only,
    teacher_only,
    verified,
)
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.streaming import decode, stream
from wheels.errors import WheelsError
from wheels.models.pair import Pair

RULE = RULES["maxprob"].at(0.5)
PAIR = make_pair("llama")
SHORT = {"max_new_tokens": 3}
SPECULATIVE = speculative(2)


def write(sources: Any = SOURCES, method: Any = RULE, pair: Any = PAIR, **settings: Any) -> Any:
    return write_with(pair, sources, method, **{"budget": 0.5, **SHORT, **settings})


class Often:
    name, needs_teacher = "often", False

    def __call__(self, step: Any) -> torch.Tensor:
        return step.position_B % 2 == 0


CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "one text": (lambda: write("a b c"), r"sources must be a list of texts, got one text, 'a b c'; put it in brackets"),
    "bytes": (lambda: write(b"a b"), r"sources must be a list of texts, got b'a b'"),
    "a mapping": (lambda: write({"source": "a"}), r"sources must be a list of texts, got \{'source': 'a'\}"),
    "nothing": (lambda: write(None), "sources must be a list of texts, got None"),
    "a number among them": (lambda: write(["a", 3]), "sources must be texts, got 3 as number 2 of 2"),
    "half a character": (lambda: write(["a", "b\ud800"]), "sources are not UTF-8 at character 2 of number 2 of 2"),
    "no tokens to decode": (lambda: PAIR.decode("a"), "tokens must be token ids, got 'a'"),
    "a token that is none": (lambda: PAIR.decode([-1]), r"tokens must be token ids, got \[-1\]"),
    "tokens": (lambda: write([[4, 5]]), r"sources must be texts, got \[4, 5\] as number 1 of 1"),
    "a model": (lambda: write(pair=PAIR.student), r"pair must be a Pair \(Pair.load, Pair.of\), got LlamaForCausalLM"),
    "two models": (lambda: write(pair=(PAIR.student, PAIR.teacher)), r"pair must be a Pair .*, got tuple"),
    "a rule by name": (lambda: decode(PAIR, SOURCES, "maxprob"), "method must be a Method, such as .*, got 'maxprob'"),
    "a rule": (
        lambda: decode(PAIR, SOURCES, RULE),
        r"method must be a Method, .*; a rule becomes one by deferral\(rule",
    ),
    "no method": (lambda: decode(PAIR, SOURCES, None), "method must be a Method, such as deferral.*, got None"),
    "params": (lambda: decode(PAIR, SOURCES, SPECULATIVE, SHORT), r"params must be DecodeParams, or None, got \{"),
    "a percentage": (lambda: write(budget=20), r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2"),
    "a budget of nan": (lambda: write(budget=math.nan), r"teacher_budget must be in \[0, 1\], got nan"),
    "a word": (lambda: write(budget="much"), r"teacher_budget must be a number in \[0, 1\], got 'much'"),
    "true": (lambda: write(budget=True), r"teacher_budget must be a number in \[0, 1\], got True"),
    "budgets by name": (lambda: write(budget={"a": 0.1}), r"teacher_budget must be a number in \[0, 1\], got \{'a'"),
    "few budgets": (
        lambda: write(method=Often(), budget=[0.1, 0.2]),
        "one number or one for each of the 6 inputs, got 2",
    ),
    "no rows": (lambda: write(batch_size=0), "batch_size must be at least 1, got 0"),
    "half rows": (lambda: write(batch_size=2.0), r"batch_size must be a whole number, got 2\.0"),
    "no tokens": (lambda: write(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
    "all tokens": (lambda: write(max_new_tokens=2**31), "max_new_tokens must be at most 1048576, got 2147483648"),
    "endless": (lambda: write(max_new_tokens=math.inf), "max_new_tokens must be a whole number, got inf"),
    "a seed below 0": (lambda: write(seed=-1), "seed must be at least 0, got -1"),
    "a seed beyond 64 bits": (lambda: write(seed=2**63), "seed must be at most 1152921504606846976, got 92233720"),
    "half a seed": (lambda: write(seed=0.5), r"seed must be a whole number, got 0\.5"),
    "a burst": (lambda: write(mode="strict", burst=2**63), "burst must be at most 2147483647, got 92233720"),
    "a mode": (lambda: write(mode="strickt"), "budget_mode must be one of .*; did you mean 'strict'"),
    "no mode": (lambda: write(mode=None), "budget_mode must be one of average, online, strict, dollars, got None"),
    "a temperature": (lambda: write(sampling=0.7), r"sampling must be a Sampling, such as .*, got 0\.7"),
    "a journal": (lambda: write(journal=[]), r"journal must be a dict to be filled, or None, got \[\]"),
    "a schedule": (lambda: write(schedule="grouped"), "schedule must be a Schedule .*, got 'grouped'"),
    "on error": (lambda: write(on_error="go on"), "on_error must be one of stop, skip, got 'go on'"),
    "stopping": (lambda: write(stopping=["."]), r"stopping must be a function, or None, got \['\.'\]"),
    "progress": (lambda: write(progress=True), "progress must be a function, or None, got True"),
    "half a draft": (lambda: speculative(2.5), r"draft length must be a whole number, got 2\.5"),
    "a draft below 0": (lambda: speculative(-1), "draft length must be at least 0, got -1"),
    "a draft without end": (lambda: prompt_lookup(2**63), "draft length must be at most 2147483647, got 92233720"),
    "lenience in words": (lambda: speculative(3, lenience="0.1"), r"lenience must be a number, got '0\.1'"),
    "a fallback": (lambda: bild(math.nan), r"fallback must be in \[0, 1\], got nan"),
    "a percentage of fallback": (lambda: bild(60), r"fallback must be in \[0, 1\], got 60; did you mean 0\.6"),
    "a rollback": (lambda: bild(0.5, -1.0), r"threshold must be at least 0, got -1\.0"),
    "alpha": (lambda: cascade("opt", math.nan), "alpha must be a number, got nan"),
    "a rule in words": (lambda: verified("random", tolerance=1.0), "rule must be a rule, got 'random'"),
    "a rule of none": (lambda: deferral(None), "rule must be a rule, got None"),
    "a price without a threshold": (lambda: priced(lambda step: step), "rule must be a rule with a threshold"),
    "scale": (lambda: priced(RULE, scale=math.nan), "scale must be a number, got nan"),
    "offset": (lambda: priced(RULE, offset=math.inf), "offset must be at most .*, got inf"),
    "threshold": (lambda: RULE.at(math.nan), "threshold must be a number, got nan"),
    "a threshold in words": (lambda: RULE.at("0.5"), r"threshold must be a number, got '0\.5'"),
    "a group": (lambda: Schedule(group=0), "group must be at least 1, got 0"),
    "half a group": (lambda: Schedule(group=1.5), r"group must be a whole number, got 1\.5"),
    "two models of which": (
        lambda: Pair.of("q", PAIR.teacher, PAIR.tokenizer),
        "student must be a model in memory.*'q'",
    ),
    "a tokenizer": (lambda: Pair.of(PAIR.student, PAIR.teacher, "t"), "tokenizer must be a tokenizer, got 't'"),
    "a folder of which": (lambda: Pair.load(3, "x"), "student must be a folder or a hub id, got 3"),
    "encode one text": (lambda: PAIR.encode("a b"), "sources must be a list of texts, got one text"),
    "targets": (lambda: PAIR.encode_targets("a b"), "targets must be a list of texts, got one text"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_one_line(name):
    call, message = CALLS[name]
    with pytest.raises(WheelsError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_what_is_run_through_is_a_list_of_texts():
    expected = write()
    assert [trace.token_ids for trace in write(text for text in SOURCES)] == [trace.token_ids for trace in expected]
    assert [trace.token_ids for trace in write(np.array(SOURCES))] == [trace.token_ids for trace in expected]


@pytest.mark.parametrize("given", [[0.5] * 6, (0.5,) * 6, np.full(6, 0.5), torch.full((6,), 0.5), np.float32(0.5)])
def test_budgets_may_stand_in_any_list(given):
    assert [trace.token_ids for trace in write(budget=given)] == [trace.token_ids for trace in write(budget=0.5)]


@pytest.mark.parametrize(
    "settings", [{"seed": 2**60}, {"batch_size": 2**31 - 1}, {"burst": 2**31 - 1, "mode": "strict"}]
)
def test_the_ends_of_the_ranges_are_taken(settings):
    sampling = Sampling(1.0)
    for method in (RULE, cascade("opt", 0.1, 2**31 - 1)):
        budget = 0.5 if method is RULE else None
        wish = settings if method is RULE else {name: value for name, value in settings.items() if name == "seed"}
        assert len(write(method=method, sampling=sampling, **{"budget": budget, **wish})) == len(SOURCES)


@pytest.mark.parametrize("budget", [0.2, [0.0, 0.2, 1.0, 0.0, 0.0, 0.0], None])
@pytest.mark.parametrize("rule", ["entropy", "margin"])
@pytest.mark.parametrize("make", [deferral, verified])
@pytest.mark.parametrize("mode", ["average", "strict", "online"])
def test_a_rule_without_a_threshold_is_refused(mode, make, rule, budget):
    message = (
        rf"rule '{rule}' (has no threshold, so it never calls; (ask a calibrated|give a budget)|does not say which)"
    )
    if (make is verified and mode == "strict") or (budget is None and mode != "average"):
        message = "strict mode cannot take tokens back|keeps no budget, so (strict|online) mode has nothing to do"
    with pytest.raises(WheelsError, match=message):
        make(RULES[rule], budget, mode)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["random", "every-k"])
def test_a_rule_of_known_rate_needs_no_calibration(rule):
    for mode in ("average", "strict", "online"):
        method = deferral(RULES[rule], 0.2, mode)
        assert (rule == "random" and mode == "online") or method.rule.threshold == 0.8
    uses = [trace.teacher_use for trace in decode(PAIR, SOURCES * 40, deferral(RULES[rule], 0.2))]
    assert 0.15 < sum(uses) / len(uses) < 0.25
    with pytest.raises(WheelsError, match=r"has one threshold and cannot keep budgets 0\.2 and 0\.4 at once"):
        deferral(RULES[rule], [0.2, 0.4])


def test_what_asks_no_rule_needs_no_threshold():
    for budget in (0.0, 1.0, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]):
        decode(PAIR, SOURCES, deferral(RULES["entropy"], budget))


@pytest.mark.slow
def test_the_ends_of_the_budget_are_one_model_alone_whatever_the_rule():
    (never, always), texts = (RULES["entropy"].at(math.inf), RULES["entropy"].at(-math.inf)), SOURCES[:3]
    for budget, alone, author in ((0.0, student_only(), "student"), (1.0, teacher_only(), "teacher")):
        expected = decode(PAIR, texts, alone)
        assert {one for trace in expected for one in trace.authors} == {author} and expected[0].budget == budget
        for rule in (never, always):
            for mode in ("average", "strict", "online"):
                traces = decode(PAIR, texts, deferral(rule, budget, mode))
                assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in expected]
                assert {one for trace in traces for one in trace.authors} == {author}


def test_a_threshold_set_by_hand_goes_with_a_budget_in_strict_mode_only():
    rule = RULES["maxprob"].at(0.01)
    for mode in ("average", "online"):
        with pytest.raises(
            WheelsError, match=r"threshold 0.01 decides alone, and teacher_budget=0.2|does not say which"
        ):
            deferral(rule, 0.2, mode)
    free, kept = decode(PAIR, SOURCES, deferral(rule)), decode(PAIR, SOURCES, deferral(rule, 0.2, "strict"))
    assert free[0].budget is None and kept[0].budget == 0.2
    assert min(trace.teacher_use for trace in free) > 0.2 >= max(trace.teacher_use for trace in kept) > 0


def test_a_calibrated_rule_runs_under_its_own_budget_alone():
    rule = RULES["maxprob"].at(0.5, budget=0.2)
    assert deferral(rule).budget == deferral(rule, 0.2).budget == 0.2
    assert deferral(rule, [0.0, 0.2, 1.0]).rule == rule
    for make in (deferral, verified, priced):
        for budget in (0.4, [0.2, 0.3]):
            with pytest.raises(
                WheelsError, match=r"rule 'maxprob' is calibrated for budget 0.2 and would not keep 0.[43]"
            ):
                make(rule, budget)
    with pytest.raises(WheelsError, match=r"rule 'maxprob' is calibrated for budget 0.2 and would not keep 0.4"):
        replace(deferral(rule, 0.2), budget=0.4)
    assert RULES["maxprob"].at(math.inf, budget=0.2)(_nothing_above()).tolist() == [False]
    deferral(RULES["maxprob"].at(math.inf, budget=0.2), 0.2)  # calibration found that it must not call


def test_a_rule_that_knows_its_thresholds_takes_that_of_the_budget():
    known = {0.2: 0.7, 0.4: 0.5}
    rule = replace(RULES["maxprob"], calibrated=lambda budget, mode: RULES["maxprob"].at(known[budget], budget))
    for budget, threshold in known.items():
        assert deferral(rule, budget).rule.threshold == threshold
        assert priced(rule, budget).verifier.threshold == threshold
    with pytest.raises(WheelsError, match=r"cannot keep budgets 0\.2 and 0\.4 at once"):
        deferral(rule, [0.2, 0.4])


def _nothing_above() -> Any:
    """A state for rules that look at the student's law alone."""

    class State:
        log_q_BV = torch.tensor([[0.5, 0.5]]).log()

    return State()


@pytest.mark.parametrize("answer", [torch.ones(6), torch.ones(6, 1, dtype=torch.bool), True, [True] * 6])
def test_a_rule_answers_with_one_truth_value_for_each_row(answer):
    class Rule:
        name, needs_teacher = "odd", False

        def __call__(self, step: object) -> object:
            return answer

    with pytest.raises(WheelsError, match=r"rule 'odd' must answer with one torch.bool for each of 6 rows, got"):
        decode(PAIR, SOURCES, deferral(Rule(), 0.5))


def broken(which: str, family: str) -> Pair:
    """A pair of which one model has a head that gives no number for one token."""
    pair = make_pair(family)
    with torch.no_grad():
        getattr(pair, which).get_output_embeddings().weight[5, 0] = torch.nan
    return pair


METHODS = {
    "deferral": (RULES["random"].at(0.5), 0.5),
    "speculative": (speculative(2), None),
    "lookup": (prompt_lookup(2), None),
    "cascade": (cascade("opt", 0.1, 2), None),
    "take-back": (verified(RULES["random"].at(0.5), tolerance=1.0, draft=2), 0.5),
}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_model_that_gives_no_numbers_stops_the_run(which, name, family, sampling):
    method, budget = METHODS[name]
    if which == "student" and name == "lookup":
        pytest.skip("the student never runs")
    with pytest.raises(WheelsError, match=rf"the {which}'s logits are no numbers \(nan\): .* or use float32"):
        write_with(broken(which, family), SOURCES, method, budget=budget, sampling=sampling, max_new_tokens=8)


@pytest.mark.parametrize("mode", ["average", "online"])
def test_a_score_that_is_no_number_stops_the_run(mode):
    rule = Rule("odd", lambda step: step.noise_B / 0.0 * 0.0, 0.5, levels=((0.0, 1.0), (1.0, 0.0)))
    with pytest.raises(WheelsError, match="rule 'odd' scores a state with nan; check what it reads"):
        write(method=rule, mode=mode)


def test_infinite_scores_are_in_order():
    rule = Rule("all-or-nothing", lambda step: torch.where(step.position_B == 0, math.inf, -math.inf), 0.5)
    assert {trace.authors[0] for trace in write(method=rule)} == {"teacher"}


def test_a_method_holds_its_budget():
    assert deferral(Often(), "0.5").budget == 0.5
    assert deferral(Often(), [0, 1]).budgets == (0.0, 1.0)
    assert isinstance(deferral(RULE), Method) and deferral(RULE).budgets == ()
    assert list(stream(PAIR, [], deferral(Often(), 0.5))) == []
    assert DecodeParams().max_new_tokens == 128
