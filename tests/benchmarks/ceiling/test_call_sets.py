"""Texts under sets of calls, by the engine on tiny models, beside every set there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.decoding.tiny import FAMILIES, make_pair, with_ends, write
from tests.envs.tiny import EOS, SOURCES, TARGETS
from tests.marks import slow
from wheels.benchmarks.ceiling.call_sets import Calls, CallSetRule, Writer
from wheels.benchmarks.ceiling.search import RowSearch, search
from wheels.decoding.params import DecodeParams
from wheels.decoding.trace import TEACHER
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair

LIMIT = 6
SETS: list[Calls] = [
    calls for count in range(LIMIT + 1) for calls in itertools.combinations(range(LIMIT), count)
]  # fmt: skip


@pytest.fixture(params=["llama", *slow(*(family for family in FAMILIES if family != "llama"))])
def pair(request: pytest.FixtureRequest) -> Pair:
    return with_ends(make_pair(request.param), [EOS, 4, 7])


def writer_of(pair: Pair) -> Writer:
    def score(rows: list[int], texts: list[str]) -> list[float]:
        return sentence_scores("chrf", texts, [TARGETS[row] for row in rows])

    return Writer(pair, SOURCES, score, DecodeParams(max_new_tokens=LIMIT), 8)


def test_the_teacher_writes_at_the_given_positions_alone(pair: Pair) -> None:
    sets: list[Calls] = [(), (0,), (1, 3), (5,), (0, 1, 2, 3, 4, 5), (2, 40)]
    traces = write(pair, SOURCES, CallSetRule.of(sets), max_new_tokens=LIMIT)
    for trace, calls in zip(traces, sets, strict=True):
        assert [author == TEACHER for author in trace.authors] == [place in calls for place in range(trace.tokens)]


def test_a_rule_without_any_call_is_the_student(pair: Pair) -> None:
    (alone,) = write(pair, SOURCES[:1], CallSetRule(torch.zeros(1, 1, dtype=torch.bool)), max_new_tokens=LIMIT)
    assert alone.teacher_tokens == 0


@pytest.mark.slow
def test_the_search_finds_what_every_set_of_calls_makes(pair: Pair) -> None:
    searches = {row: RowSearch([], 10_000) for row in range(len(SOURCES))}
    search(searches, writer_of(pair).write, lambda count: None)
    for row, source in enumerate(SOURCES):
        traces = write(pair, [source] * len(SETS), CallSetRule.of(SETS), max_new_tokens=LIMIT)
        fewest: dict[tuple[int, ...], int] = {}
        for calls, trace in zip(SETS, traces, strict=True):
            fewest.setdefault(trace.token_ids, len(calls))
        found = searches[row]
        assert found.closed and sorted(len(text.calls) for text in found.texts) == sorted(fewest.values())
        best = max(sentence_scores("chrf", [trace.text for trace in traces], [TARGETS[row]] * len(traces)))
        assert max(text.score for text in found.texts) == best


@pytest.mark.slow
def test_a_short_search_is_no_better_and_reaches_the_best_with_the_right_start(pair: Pair) -> None:
    writer, reached = writer_of(pair), 0
    for row in range(len(SOURCES)):
        whole = RowSearch([], 10_000)
        search({row: whole}, writer.write, lambda count: None)
        best = max(whole.texts, key=lambda text: text.score)
        short, started = RowSearch([], len(best.calls) + 1), RowSearch([best.calls], len(best.calls) + 1)
        search({row: short}, writer.write, lambda count: None)
        search({row: started}, writer.write, lambda count: None)
        assert max(text.score for text in short.texts) <= best.score
        assert max(text.score for text in started.texts) == best.score
        reached += max(text.score for text in short.texts) == best.score
    assert reached < len(SOURCES), "a start must matter somewhere"


def test_the_calls_behind_a_text_are_those_that_changed_it(pair: Pair) -> None:
    writer = writer_of(pair)
    traces = write(pair, SOURCES, CallSetRule.of([tuple(range(LIMIT))] * len(SOURCES)), max_new_tokens=LIMIT)
    sets = writer.effective(range(len(SOURCES)), [trace.token_ids for trace in traces])
    again = write(pair, SOURCES, CallSetRule.of(sets), max_new_tokens=LIMIT)
    assert [one.token_ids for one in again] == [one.token_ids for one in traces]
    assert sum(map(len, sets)) <= sum(trace.tokens for trace in traces)
    for row, calls in enumerate(sets):
        for call in calls:
            (less,) = write(
                pair, [SOURCES[row]], CallSetRule.of([tuple(one for one in calls if one != call)]), max_new_tokens=LIMIT
            )
            assert less.token_ids != traces[row].token_ids


def test_a_call_where_both_models_agree_is_none() -> None:
    pair = make_pair("t5")
    traces = write(pair, SOURCES, CallSetRule.of([tuple(range(LIMIT))] * len(SOURCES)), max_new_tokens=LIMIT)
    sets = writer_of(pair).effective(range(len(SOURCES)), [trace.token_ids for trace in traces])
    assert 0 < sum(map(len, sets)) < sum(trace.tokens for trace in traces)
