"""How many tokens a call buys, where that is chosen (`--span auto`): by what they are expected to gain for their cost.

The rule decides whether to call, as for one token: its threshold is the price of such a call, in nats. A call of n
tokens gains `more_n` nats beside the one of one token, and costs `cost_n` times as much:

    n = argmax_n more_n - price * cost_n.

With prices `cost_n` is what the server takes for reading the text and writing n tokens. A text that was sent before is
taken to be in its prompt cache. Without prices a request is taken to cost as much as `ROUND_TRIP` written tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from wheels.decoding.methods.rule import AnyRule, Rule
from wheels.decoding.methods.rules import HeadScore
from wheels.decoding.remote.prices import Prices
from wheels.decoding.sequences import Sequence as Text
from wheels.decoding.step import Step
from wheels.policy.span_head import SpanHead

ROUND_TRIP = 4.0
"""Written tokens that a request counts for, beside those that it buys, where no prices are given: an assumption."""
HIGHEST = 1e6
"""A price above any gain."""


class SpanScore(HeadScore):
    """The expected gain of a call that buys one token, and how many it should buy.

    Args:
        score: The gain of a call that buys one token, nats.
        spans: What more tokens gain.
        prices: What tokens cost.
    """

    def __init__(self, score: HeadScore, spans: SpanHead, prices: Prices | None) -> None:
        super().__init__(score.head)
        self.spans, self.prices = spans, prices

    def sizes(self, step: Step, price_B: torch.Tensor) -> list[int]:
        """Return how many tokens a call of each row should buy, at a price of a call that buys one, nats, `[B]`."""
        more_BK, written_BK = self.spans.expected(step.features_BF, step.budget_B)
        reads_B1, writes = self._reading(step)[:, None], 1.0 if self.prices is None else self.prices.completion
        cost_BK = (reads_B1 + writes * written_BK) / (reads_B1 + writes).clamp(min=1e-9)
        net_BK = more_BK - price_B.clamp(0.0, HIGHEST)[:, None] * (cost_BK - 1.0)
        best = torch.cat([torch.zeros_like(net_BK[:, :1]), net_BK], -1).argmax(-1)
        return [(1, *self.spans.spans_K.tolist())[place] for place in best.tolist()]

    def _reading(self, step: Step) -> torch.Tensor:
        """Return what a request costs beside what it writes, `[B]`."""
        read_B = (step.source_B + step.position_B).float()
        if self.prices is None:
            return torch.full_like(read_B, ROUND_TRIP)
        cached = self.prices.prompt if self.prices.cached is None else self.prices.cached
        return read_B * torch.where(step.calls_B > 0, cached, self.prices.prompt)


def choose_spans(rule: AnyRule, step: Step, texts: Iterable[Text], price_of: Callable[[Text], float]) -> None:
    """Note how many tokens the next call of each text should buy, where a rule chooses that.

    Args:
        rule: Decides about calls.
        step: The states of the texts.
        texts: The texts; looked at only where lengths are chosen.
        price_of: What a call of a text has to gain, in what the rule scores.
    """
    score = rule.score if isinstance(rule, Rule) else None
    if isinstance(score, SpanScore):
        chosen = list(texts)
        prices = torch.tensor([price_of(text) for text in chosen], device=step.position_B.device)
        for text, size in zip(chosen, score.sizes(step, prices), strict=True):
            text.span = size
