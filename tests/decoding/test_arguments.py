"""Calls of the library with what it does not take: one line that says what was given and what is allowed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.tiny import make_pair
from tests.envs.tiny import SOURCES
from wheels.decoding.engine import decode, stream
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    priced_deferral,
    prompt_lookup,
    speculative,
    verified_deferral,
)
from wheels.decoding.methods.rules import SIMPLE, ThresholdRule
from wheels.decoding.params import Request
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.errors import WheelsError
from wheels.models.pair import Pair

RULE = SIMPLE["maxprob"].at(0.5)
PAIR = make_pair("llama")
SHORT = {"max_new_tokens": 3}


def write(sources: Any = SOURCES, method: Any = RULE, pair: Any = PAIR, **settings: Any) -> Any:
    return decode(pair, sources, method, **{"budget": 0.5, **SHORT, **settings})


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
    "a rule by name": (
        lambda: write(method="maxprob"),
        r"method must be a Method or a rule, got 'maxprob'; .*SIMPLE\['ma",
    ),
    "no method": (lambda: write(method=None), "method must be a Method or a rule, got None"),
    "a score": (lambda: write(method=RULE.score), "method must be a Method or a rule, got <function"),
    "a setting": (lambda: write(max_tokens=3), "unknown setting 'max_tokens'; did you mean 'max_new_tokens'"),
    "no budget": (lambda: decode(PAIR, SOURCES, RULE), r"budget is missing; give a share in \[0, 1\], or None"),
    "a percentage": (lambda: write(budget=20), r"teacher_budget must be in \[0, 1\], got 20; did you mean 0.2"),
    "a budget of nan": (lambda: write(budget=math.nan), r"teacher_budget must be in \[0, 1\], got nan"),
    "a word": (lambda: write(budget="much"), r"teacher_budget must be a number in \[0, 1\], got 'much'"),
    "true": (lambda: write(budget=True), r"teacher_budget must be a number in \[0, 1\], got True"),
    "budgets by name": (lambda: write(budget={"a": 0.1}), r"teacher_budget must be a number in \[0, 1\], got \{'a'"),
    "few budgets": (lambda: write(budget=[0.1, 0.2]), "one number or one for each of the 6 inputs, got 2"),
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
    "no mode": (lambda: write(mode=None), "budget_mode must be one of average, online, strict, got None"),
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
    "a rule in words": (lambda: verified_deferral("random", 1.0), "rule must be a rule, got 'random'"),
    "a rule of none": (lambda: deferral(None), "rule must be a rule, got None"),
    "a price without a threshold": (lambda: priced_deferral(lambda step: step), "rule must be a rule with a threshold"),
    "scale": (lambda: priced_deferral(RULE, math.nan), "scale must be a number, got nan"),
    "offset": (lambda: priced_deferral(RULE, offset=math.inf), "offset must be at most .*, got inf"),
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


UNSET = SIMPLE["random"]


@pytest.mark.parametrize("budget", [0.2, [0.0, 0.2, 1.0, 0.0, 0.0, 0.0], None])
@pytest.mark.parametrize("rule", ["random", "every-k", "entropy"])
@pytest.mark.parametrize("mode", ["average", "strict", "online"])
def test_a_rule_without_a_threshold_is_refused(rule, budget, mode):
    if mode == "online" and (rule == "random" or budget is None):
        pytest.skip("online mode moves along the levels of `random`, and keeps no budget of None")
    with pytest.raises(
        WheelsError, match=rf"rule '{rule}' (has no threshold, so it never calls; calibrate it|does not)"
    ):
        write(method=SIMPLE[rule], budget=budget, mode=mode)


def test_what_asks_no_rule_needs_no_threshold():
    for budget in (0.0, 1.0, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]):
        write(method=UNSET, budget=budget)
    assert {
        author for trace in write(method=UNSET, budget=0.5, mode="online", max_new_tokens=8) for author in trace.authors
    }
    drafts = write(method=verified_deferral(UNSET, 1.0, draft=2), budget=0.5)
    assert any(trace.teacher_passes for trace in drafts), "a full draft calls"


def test_a_calibrated_rule_runs_under_its_own_budget_alone():
    rule = SIMPLE["maxprob"].at(0.5, budget=0.2)
    write(method=rule, budget=0.2)
    write(method=rule, budget=[0.0, 0.2, 1.0, 0.2, 0.2, 0.2])
    for budget in (0.4, None, [0.2, 0.2, 0.2, 0.2, 0.2, 0.3]):
        with pytest.raises(
            WheelsError, match=r"rule 'maxprob' is calibrated for budget 0.2 and would not keep (0.4|None|0.3)"
        ):
            write(method=rule, budget=budget)
    assert SIMPLE["maxprob"].at(math.inf, budget=0.2)(_nothing_above()).tolist() == [False]
    write(method=SIMPLE["maxprob"].at(math.inf, budget=0.2), budget=0.2)  # calibration found that it must not call


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
        write(method=Rule())


def broken(which: str, family: str) -> Pair:
    """A pair of which one model has a head that gives no number for one token."""
    pair = make_pair(family)
    with torch.no_grad():
        getattr(pair, which).get_output_embeddings().weight[5, 0] = torch.nan
    return pair


METHODS = {
    "deferral": (SIMPLE["random"].at(0.5), 0.5),
    "speculative": (speculative(2), None),
    "lookup": (prompt_lookup(2), None),
    "cascade": (cascade("opt", 0.1, 2), None),
    "take-back": (verified_deferral(SIMPLE["random"].at(0.5), 1.0, draft=2), 0.5),
}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_model_that_gives_no_numbers_stops_the_run(which, name, family, sampling):
    method, budget = METHODS[name]
    if which == "student" and name == "lookup":
        pytest.skip("the student never runs")
    with pytest.raises(WheelsError, match=rf"the {which}'s scores are no numbers \(nan\): .* or use float32"):
        decode(broken(which, family), SOURCES, method, budget=budget, sampling=sampling, max_new_tokens=8)


@pytest.mark.parametrize("mode", ["average", "online"])
def test_a_score_that_is_no_number_stops_the_run(mode):
    rule = ThresholdRule("odd", lambda step: step.noise_B / 0.0 * 0.0, 0.5, levels=((0.0, 1.0), (1.0, 0.0)))
    with pytest.raises(WheelsError, match="rule 'odd' scores a state with nan; check what it reads"):
        write(method=rule, mode=mode)


def test_infinite_scores_are_in_order():
    rule = ThresholdRule("all or nothing", lambda step: torch.where(step.position_B == 0, math.inf, -math.inf), 0.5)
    assert {trace.authors[0] for trace in write(method=rule)} == {"teacher"}


def test_a_request_is_a_request():
    assert Request(budget="0.5").budget == 0.5
    assert Request(budget=[0, 1]).budgets == (0.0, 1.0)
    assert isinstance(deferral(RULE), Method)
    assert list(stream(PAIR, [], RULE, budget=0.5)) == []
