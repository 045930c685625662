"""Sampled texts of a method that drafts have the teacher's joint law."""

from collections import Counter

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.decoding.test_engine import p_value
from tests.decoding.test_speculative import accepts_all, kin
from tests.decoding.tiny import write
from tests.envs.tiny import EOS
from wheels.decoding.methods.method import (
    speculative,
)
from wheels.decoding.methods.verify import Check, Speculative, Verdict
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.trace import Trace
from wheels.models.pair import Pair

SOFT = Sampling(1.3, top_k=8, top_p=0.95)


DRAWS = 3000


def soft(family: str) -> Pair:
    """A pair whose laws are wide and different."""
    pair = kin(family)
    for model in (pair.student, pair.teacher):
        head = model.get_output_embeddings().weight
        head.data *= 2.0 / head.std() / (2 * head.shape[1]) ** 0.5
    pair.student.get_output_embeddings().weight.data += 0.15 * torch.randn_like(head)
    return pair


@torch.no_grad()
def laws_after(pair: Pair, model_name: str, source: str, texts: list[list[int]]) -> torch.Tensor:
    """Return the law of the next token after each text as transformers' own processors make it, `[N, V]`."""
    model, prompt = getattr(pair, model_name), pair.encode([source])[0]
    prefix = list(pair.start_ids) if pair.is_seq2seq else prompt
    ids = torch.tensor([[*prefix, *text] for text in texts])
    inputs = {"input_ids": torch.tensor([prompt] * len(texts)), "decoder_input_ids": ids}
    scores = model(**(inputs if pair.is_seq2seq else {"input_ids": ids})).logits[:, -1].float()
    chain = [TemperatureLogitsWarper(SOFT.temperature), TopKLogitsWarper(SOFT.top_k), TopPLogitsWarper(SOFT.top_p)]
    return LogitsProcessorList(chain)(ids, scores).double().softmax(-1)


def joint_law(pair: Pair, model_name: str, source: str) -> torch.Tensor:
    """Return the law of the first two tokens, `[V * V]`; a text that has ended is followed by its end again."""
    first_V = laws_after(pair, model_name, source, [[]])[0]
    second_VV = laws_after(pair, model_name, source, [[token] for token in range(len(first_V))])
    second_VV[EOS] = torch.eye(len(first_V), dtype=torch.float64)[EOS]
    return (first_V[:, None] * second_VV).flatten()


def joint_counts(traces: list[Trace], size: int) -> torch.Tensor:
    pairs = Counter((trace.token_ids[:2] * 2)[:2] for trace in traces)
    return torch.tensor([[float(pairs[first, second]) for second in range(size)] for first in range(size)]).flatten()


def redraws_from_p(self: Speculative, check: Check) -> Verdict:
    """A wrong rule: what is refused is drawn from the whole of p again."""
    num_accepted_R = check.num_accepted(check.accept_RK * check.q_draft_RK < check.p_draft_RK)
    return Verdict(num_accepted_R, check.own_token(num_accepted_R))


def turned_round(self: Speculative, check: Check) -> Verdict:
    """A wrong rule: accepts with `min(1, q / p)`."""
    num_accepted_R = check.num_accepted(check.accept_RK * check.p_draft_RK < check.q_draft_RK)
    return Verdict(num_accepted_R, check.own_token(num_accepted_R))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_two_sampled_tokens_have_the_teachers_joint_law(family, monkeypatch):
    """Chi-square over both tokens of a draft, its refusals and redraws; three wrong rules are refused."""
    pair = soft(family)
    law, other = (joint_law(pair, name, "a b c") for name in ("teacher", "student"))

    def p_and_forbidden(draws: int) -> tuple[float, float]:
        traces = write(
            pair, ["a b c"] * draws, speculative(2), batch_size=64, schedule=Schedule("lockstep"), sampling=SOFT,
            seed=5, budget=None, max_new_tokens=3,
        )  # fmt: skip
        drafted, accepted = (sum(getattr(trace, name) for trace in traces) for name in ("drafted", "accepted"))
        assert accepted > 0.2 * drafted, "hardly a draft stands: nothing is tested"
        counts = joint_counts(traces, pair.vocab_size)
        return p_value(counts, law), float(counts[law == 0].sum())

    assert 0.5 * float((law - other).abs().sum()) > 0.1
    right, forbidden = p_and_forbidden(DRAWS if family == "t5" else DRAWS // 2)
    assert right > 0.01 and forbidden == 0 < (law == 0).sum(), "what the teacher's law cuts off is never written"
    for wrong in (accepts_all, redraws_from_p, turned_round)[:: 1 if family == "t5" else 2]:
        monkeypatch.setattr(Speculative, "__call__", wrong)
        assert p_and_forbidden(DRAWS // 4)[0] < 1e-6, wrong.__name__
