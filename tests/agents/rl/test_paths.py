"""Forked texts beside the engine's: each difference is that of two texts decoded from the start."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import make_pair, write
from tests.marks import slow
from wheels.agents.rl import paths
from wheels.agents.rl.paths import Forks, play
from wheels.data.tasks import Row
from wheels.decoding.step import Step
from wheels.decoding.trace import TEACHER, Trace
from wheels.envs.episodes import EpisodeBatch
from wheels.envs.settings import Start
from wheels.envs.state import EpisodeState
from wheels.envs.vector import DeferralVectorEnv
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair

PRICE = 0.7
DEAR = 0.98
"""A price at which few states call: with many calls spans change little."""


@pytest.fixture(scope="module", params=["llama", *slow("t5")])
def pair(request: pytest.FixtureRequest) -> Pair:
    return soft_pair() if request.param == "llama" else make_pair("t5")


def margin_logit(step: Step, price_B: torch.Tensor) -> torch.Tensor:
    """A gate that calls where two tokens are close."""
    best_B2 = step.log_q_BV.topk(2, dim=-1).values.exp()
    return (1 + best_B2[:, 1] - best_B2[:, 0] - price_B) / 0.1


class Forced:
    """The greedy gate, but with given decisions at the first positions."""

    name, needs_teacher = "forced", False

    def __init__(self, decisions: list[bool], price: float = PRICE) -> None:
        self.decisions, self.price = decisions, price

    def __call__(self, step: Step) -> torch.Tensor:
        call_B = margin_logit(step, torch.full(step.position_B.shape, self.price)) > 0
        position = int(step.position_B[0])
        return torch.tensor([self.decisions[position]]) if position < len(self.decisions) else call_B


def rows_of(count: int) -> list[Row]:
    return [Row(source, "a b c d", ("d c b",)) for source in sources(count)]


def environment(pair: Pair, rows: list[Row], size: int = 4) -> DeferralVectorEnv:
    return DeferralVectorEnv(size, pair, rows, reward="terminal", terminal_scale=1.0, max_new_tokens=LIMIT)


def starts_of(rows: list[Row]) -> list[Start]:
    return [Start(index, 5, 0.3, PRICE) for index in range(len(rows))]


def test_no_more_caches_are_held_than_texts_and_forks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of B rows, each with its states; of as many texts that have ended; and of the forks that wait, twice as many."""
    rows, size, count = rows_of(12), 2, 3
    held, most, taken = weakref.WeakSet[EpisodeState](), [0], [0]
    once = EpisodeBatch.snapshot

    def counted(self: EpisodeBatch, row: int) -> EpisodeState:
        held.add(state := once(self, row))
        taken[0], most[0] = taken[0] + 1, max(most[0], len(held))
        return state

    monkeypatch.setattr(EpisodeBatch, "snapshot", counted)
    starts = [Start(place % len(rows), place, 0.3, PRICE) for place in range(60)]
    play(environment(soft_pair(), rows, size), starts, margin_logit, states=count, greedy=True)
    assert taken[0] >= 60 * count
    assert most[0] <= 4 * size * count + count


@pytest.mark.slow
def test_every_fork_is_the_difference_of_two_texts_of_the_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(3)
    made: list[paths.Fork] = []
    once = Forks.of
    monkeypatch.setattr(Forks, "of", classmethod(lambda cls, forks: made.extend(forks) or once(forks)))
    stems, forks = play(environment(pair, rows), starts_of(rows), margin_logit, states=99, greedy=True)
    assert forks is not None and len(forks) == len(made) == sum(len(stem.call_T) for stem in stems)
    known = [fork.other is None for fork in made]
    assert any(known) and not all(known), "some are known, others were written"
    for number, fork in enumerate(made):
        decisions = fork.stem.call_T[: fork.position]
        both = [
            write(pair, [rows[fork.stem.start.index].source], Forced([*decisions, call]), max_new_tokens=LIMIT)[0]
            for call in (False, True)
        ]
        row = rows[fork.stem.start.index]
        scores = [(sum(sentence_scores("chrf", [text.text] * 2, [row.target, *row.references])) / 2) for text in both]
        assert float(forks.reward_N[number]) == pytest.approx(scores[1] - scores[0], abs=1e-3)
        assert float(forks.calls_N[number]) == both[1].teacher_tokens - both[0].teacher_tokens
        assert float(forks.tokens_N[number]) == both[1].tokens - both[0].tokens
        assert float(forks.length_N[number]) == len(fork.stem.call_T)


@pytest.mark.slow
def test_every_span_is_the_difference_of_two_texts_of_the_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """That in which the teacher writes so many tokens at once, and that in which it writes one."""
    rows, spans = rows_of(4), (2, 3)
    made: list[paths.Fork] = []
    once = Forks.of
    monkeypatch.setattr(Forks, "of", classmethod(lambda cls, forks: made.extend(forks) or once(forks)))
    starts = [replace(start, price=DEAR) for start in starts_of(rows)]
    _, forks = play(environment(pair, rows), starts, margin_logit, states=4, greedy=True, spans=spans)
    assert forks is not None
    known = [path is None for fork in made for path in fork.spans.values()]
    assert any(known) and not all(known), "some are known, others were written"
    for number, fork in enumerate(made):
        row, before = rows[fork.stem.start.index], fork.position

        def text(size: int, fork: paths.Fork = fork, row: Row = row) -> Trace:
            decisions = [*fork.stem.call_T[: fork.position], *[True] * size]
            return write(pair, [row.source], Forced(decisions, DEAR), max_new_tokens=LIMIT)[0]

        def score(trace: Trace, row: Row = row) -> float:
            return sum(sentence_scores("chrf", [trace.text] * 2, [row.target, *row.references])) / 2

        one = text(1)
        for place, size in enumerate(spans):
            several = text(size)
            later = [trace.authors[before + long :].count(TEACHER) for trace, long in ((several, size), (one, 1))]
            assert float(forks.span_reward_NK[number, place]) == pytest.approx(score(several) - score(one), abs=1e-3)
            assert float(forks.span_calls_NK[number, place]) == later[0] - later[1]
            assert float(forks.span_tokens_NK[number, place]) == several.tokens - one.tokens
            assert float(forks.span_written_NK[number, place]) == min(size, several.tokens - before)


@pytest.mark.slow
def test_rows_of_the_environment_do_not_matter(pair: Pair) -> None:
    rows = rows_of(7)
    found = []
    for size in (1, 3):
        stems, forks = play(environment(pair, rows, size), starts_of(rows), margin_logit, states=3, spans=(2, 4))
        assert forks is not None
        found.append((stems, forks))
    for stems, forks in found[1:]:
        assert [stem.token_T for stem in stems] == [stem.token_T for stem in found[0][0]]
        for name, value in vars(forks).items():
            torch.testing.assert_close(value, getattr(found[0][1], name), atol=1e-4, rtol=1e-4)


def test_the_teacher_reads_finished_texts_many_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are rows, or all that are left; forks wait for them, and no text of another is lost."""
    rows, read = rows_of(14), []
    once = paths.teacher_choices

    def noted(pair: Pair, sources: list[list[int]], *more: object) -> object:
        read.append(len(sources))
        return once(pair, sources, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(paths, "teacher_choices", noted)
    play(environment(pair, rows, 4), starts_of(rows), margin_logit, states=1)
    assert sum(read) == 14
    assert len(read) <= 14 // 4 + 1


@pytest.mark.slow
def test_at_most_so_many_states_of_a_text_are_forked_and_others_by_another_seed(pair: Pair) -> None:
    rows = rows_of(8)
    chosen = []
    for seed in (5, 6):
        starts = [replace(start, seed=seed) for start in starts_of(rows)]
        # With nothing to decide both seeds write the same texts.
        stems, forks = play(environment(pair, rows), starts, margin_logit, states=2, greedy=True)
        assert forks is not None
        assert len(forks) == sum(min(2, len(stem.call_T)) for stem in stems)
        chosen.append(forks.features_NF)
    assert not torch.equal(*chosen)


@pytest.mark.slow
def test_random_decisions_follow_the_gate(pair: Pair) -> None:
    rows = rows_of(40)
    starts = [Start(index, seed, 0.3, 0.0) for index in range(40) for seed in range(10)]
    stems, none = play(environment(pair, rows, 32), starts, lambda step, price_B: torch.full_like(price_B, -1.0))
    assert none is None
    calls, tokens = sum(stem.calls for stem in stems), sum(len(stem.call_T) for stem in stems)
    assert calls / tokens == pytest.approx(float(torch.sigmoid(torch.tensor(-1.0))), abs=0.03)
    with_entropy, forks = play(
        environment(pair, rows, 8), starts[:20], lambda step, price_B: torch.full_like(price_B, -1.0), states=99
    )
    entropy = float(torch.distributions.Bernoulli(logits=torch.tensor(-1.0)).entropy())
    assert forks is not None and with_entropy
    # Each later decision has the same entropy: only their number differs.
    torch.testing.assert_close(forks.entropy_N, entropy * forks.tokens_N, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_what_the_teacher_is_asked_for_is_counted_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without forks its own tokens; with forks every state of the text, and the later calls of the other texts."""
    rows = rows_of(6)
    asked: list[int] = []
    forks: list[paths.Fork] = []
    answer, gather = EpisodeBatch._teacher_tokens, Forks.of

    def answered(self: EpisodeBatch, called_R: torch.Tensor) -> torch.Tensor:
        asked.append(len(called_R))
        return answer(self, called_R)

    def gathered(found: list[paths.Fork]) -> Forks:
        forks.extend(found)
        return gather(found)

    monkeypatch.setattr(EpisodeBatch, "_teacher_tokens", answered)
    stems, _ = play(environment(pair, rows), starts_of(rows), margin_logit)
    assert sum(stem.teacher_tokens for stem in stems) == sum(asked) > 0
    monkeypatch.setattr(Forks, "of", gathered)
    stems, _ = play(environment(pair, rows), starts_of(rows), margin_logit, states=3)
    others = [fork.other for fork in forks if fork.other is not None]
    later = sum(sum(other.call_T[1:]) for other in others)
    assert later > 0
    assert sum(stem.teacher_tokens for stem in stems) == sum(len(stem.call_T) for stem in stems) + later
    forks.clear()
    asked.clear()
    stems, _ = play(environment(pair, rows), starts_of(rows), margin_logit, states=3, spans=(2, 4))
    stem_calls = sum(stem.calls for stem in stems)
    first = sum(path.call_T[0] for fork in forks for path in (fork.other, *fork.spans.values()) if path is not None)
    read = sum(len(stem.call_T) for stem in stems)
    assert sum(stem.teacher_tokens for stem in stems) == read + sum(asked) - stem_calls - first
