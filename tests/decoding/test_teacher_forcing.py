"""What is read of a finished text is what was seen while it was written."""

from dataclasses import dataclass, field

import pytest
import torch

from tests.decoding.tiny import FAMILIES, make_pair, with_ends, write
from tests.envs.tiny import EOS, SOURCES
from wheels.decoding import teacher_forcing as module
from wheels.decoding.methods.rules import RULES
from wheels.decoding.step import Step
from wheels.decoding.teacher_forcing import ScoredText, greedy_tokens, teacher_force
from wheels.decoding.trace import Trace
from wheels.models.pair import Pair
from wheels.policy.features import LOG_FLOOR

TOLERANCE = 1e-4
"""Hidden states of order 100, handed over in float32 by passes of other widths."""


@dataclass
class Watching:
    """A rule for tests: calls at every third token, and keeps each state that it saw."""

    name: str = "watching"
    needs_teacher: bool = True
    steps: list[Step] = field(default_factory=list)

    def __call__(self, step: Step) -> torch.Tensor:
        assert step.features_BF.isfinite().all()  # read now: the texts move on
        self.steps.append(step)
        return step.position_B % 3 == 0


def watched(pair: Pair) -> tuple[list[Trace], list[list[Step]]]:
    """Write each source alone; return the traces, and the states that the rule saw in each."""
    traces, states = [], []
    for source in SOURCES:
        rule = Watching()
        traces += write(pair, [source], rule, budget=0.5, max_new_tokens=10)
        states.append(rule.steps)
    return traces, states


def scored(pair: Pair, traces: list[Trace]) -> list[ScoredText]:
    return teacher_force(pair, pair.encode(SOURCES), [trace.token_ids for trace in traces])


def difference(found: list[ScoredText], states: list[list[Step]]) -> float:
    """Return the largest difference of any feature."""
    seen = [torch.cat([step.features_BF for step in steps]) for steps in states]
    return max(float((one.features_TF - own_TF).abs().max()) for one, own_TF in zip(found, seen, strict=True))


@pytest.fixture(params=FAMILIES)
def pair(request) -> Pair:
    return with_ends(make_pair(request.param), [EOS, 4, 7, 9, 11])


def test_features_and_regrets_are_those_of_the_engines_steps(pair):
    traces, states = watched(pair)
    assert {trace.tokens for trace in traces} != {10}, "some text must end early, so that rows are padded"
    found = scored(pair, traces)
    assert difference(found, states) < TOLERANCE
    for one, trace, steps in zip(found, traces, states, strict=True):
        regret_T = torch.cat([step.regret_B for step in steps])
        torch.testing.assert_close(one.regret_T, regret_T, atol=TOLERANCE, rtol=0)
        for name in ("p", "q"):
            log_TV = torch.cat([getattr(step, f"log_{name}_BV") for step in steps])
            log_T = log_TV.gather(1, torch.tensor(trace.token_ids)[:, None]).squeeze(1).clamp(min=LOG_FLOOR)
            torch.testing.assert_close(getattr(one, f"log_{name}_token_T"), log_T, atol=TOLERANCE, rtol=0)


def test_a_text_read_one_place_off_would_be_seen(pair, monkeypatch):
    traces, states = watched(pair)
    real = module.features
    monkeypatch.setattr(module, "features", lambda *state: real(*state).roll(1, 0))
    assert difference(scored(pair, traces), states) > 1000 * TOLERANCE


def test_the_final_state_is_the_one_after_the_last_token(pair):
    (short,) = teacher_force(pair, pair.encode(["a b c"]), [[4, 5]])
    (long,) = teacher_force(pair, pair.encode(["a b c"]), [[4, 5, 6]])
    torch.testing.assert_close(short.final_features_F, long.features_TF[2], atol=TOLERANCE, rtol=0)
    assert short.features_TF.shape == (2, len(short.final_features_F))


def test_batches_change_nothing(monkeypatch):
    pair = make_pair("llama")
    traces, _ = watched(pair)
    together = scored(pair, traces)
    monkeypatch.setattr(module, "LOGITS_AT_A_TIME", 14 * 30)
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 24)
    texts = (pair.encode(SOURCES), [t.token_ids for t in traces])
    sizes = [len(batch) for batch in module.batches_of(*texts, 14, len(SOURCES))]
    assert len(sizes) > 1 and sum(sizes) == len(SOURCES)
    # Texts of 2 tokens have 3 states: 14 * 30 scores hold ten of them. Behind sources of 3 they are 6 tokens wide.
    for tokens, batches in ((24, [4, 4, 3]), (99, [10, 1]), (1, [1] * 11)):
        monkeypatch.setattr(module, "TOKENS_AT_A_TIME", tokens)
        assert [len(batch) for batch in module.batches_of([[1] * 3] * 11, [[1] * 2] * 11, 14, 99)] == batches
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 24)
    # A shorter source is padded to the longest of its pass: 2 x (9 + 4) tokens are too many.
    assert [len(batch) for batch in module.batches_of([[1] * 9, [1]], [[1] * 2, [1] * 3], 14, 99)] == [1, 1]
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 2**13)
    few = [len(batch) for batch in module.batches_of(*texts, 1, 2)]
    assert max(few) == 2 and sum(few) == len(SOURCES)
    for one, other in zip(together, scored(pair, traces), strict=True):
        torch.testing.assert_close(one.features_TF, other.features_TF, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(one.regret_T, other.regret_T, atol=TOLERANCE, rtol=0)


def test_nothing_to_read():
    assert teacher_force(make_pair("t5"), [], []) == []


def test_a_models_own_text_is_what_it_would_write(pair):
    for model, budget in ((pair.student, 0.0), (pair.teacher, 1.0)):
        traces = write(pair, SOURCES, RULES["random"], budget=budget, max_new_tokens=10)
        texts = [trace.token_ids for trace in traces]
        found = greedy_tokens(pair, model, pair.encode(SOURCES), texts, 10, 4)
        assert [tuple(tokens) for tokens in found] == texts
        other = pair.teacher if model is pair.student else pair.student
        assert greedy_tokens(pair, other, pair.encode(SOURCES), texts, 10) != found
