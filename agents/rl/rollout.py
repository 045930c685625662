"""Rollouts: texts decoded with a random gate, then scored by both models at each state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from wheels.agents.rl.episode import Episode
from wheels.decoding.engine import decode
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.methods.rules import random_score
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.step import Step
from wheels.decoding.teacher_forcing import ScoredText, teacher_force
from wheels.decoding.trace import TEACHER, Trace
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead

Price = Callable[[torch.Tensor], torch.Tensor]
"""Budgets to prices, nats per teacher token."""


@dataclass(frozen=True)
class GateRule:
    """Calls with probability `g = sigmoid((gain(s, b) - price(b)) / alpha)`: the policy as it is trained."""

    head: DeferralHead
    price: Price
    alpha: float
    name: str = "policy"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        """Draw whether each row calls."""
        with torch.no_grad():
            output = self.head(step.features_BF, step.budget_B)
            logit_B = output.call_logit(self.price(step.budget_B), self.alpha)
        return step.noise_B < torch.sigmoid(logit_B)


@dataclass(frozen=True)
class Behaviour:
    """How a batch of texts was decoded."""

    rule: AnyRule
    on_policy: bool
    sampling: Sampling = GREEDY


def random_behaviour() -> Behaviour:
    """Random calls at each row's budget: states from mixed paths, for the warm start."""
    return Behaviour(RandomBudgetRule(), on_policy=False)


@dataclass(frozen=True)
class RandomBudgetRule:
    """Calls with a probability that is the row's budget."""

    name: str = "random"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        """Draw whether each row calls."""
        return random_score(step) < step.budget_B


def roll_out(
    pair: Pair,
    sources: Sequence[str],
    budgets: Sequence[float],
    behaviour: Behaviour,
    *,
    seed: int,
    batch_size: int,
    max_new_tokens: int,
    terminal: Callable[[list[Trace]], list[float]] | None = None,
    keep_texts: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Episode], list[Trace]]:
    """Decode each source under its budget, score the text with both models, and return the episodes.

    Args:
        pair: Both models.
        sources: The texts to write from.
        budgets: The budget given to each row, a share.
        behaviour: The rule that calls.
        seed: Of the rule's draws.
        batch_size: Rows decoded, and read again, at once.
        max_new_tokens: Longest output.
        terminal: Gives each text's reward in nats; none without it.
        keep_texts: Keep the tokens in the episodes: training the student needs them.
        progress: Called with the number of texts that have just become ready.
    """
    method = deferral(behaviour.rule, budgets)
    params = DecodeParams(max_new_tokens=max_new_tokens, sampling=behaviour.sampling, seed=seed)
    traces = decode(pair, sources, method, params, batch_size=batch_size, progress=progress)
    rewards = terminal(traces) if terminal is not None else [0.0] * len(traces)
    source_ids = pair.encode(sources)
    scored = teacher_force(pair, source_ids, [trace.token_ids for trace in traces], batch_size)
    episodes = [
        _episode(trace, budget, known, behaviour, reward)
        for trace, budget, known, reward in zip(traces, budgets, scored, rewards, strict=True)
    ]
    if keep_texts:
        episodes = [
            replace(episode, source_ids=tuple(source), token_ids=trace.token_ids)
            for episode, source, trace in zip(episodes, source_ids, traces, strict=True)
        ]
    return episodes, traces


def _episode(trace: Trace, budget: float, known: ScoredText, behaviour: Behaviour, reward: float) -> Episode:
    """Build the episode of one text from its trace and scores."""
    call_T = torch.tensor([author == TEACHER for author in trace.authors])
    price, logit_T = 0.0, torch.zeros(len(call_T))
    if isinstance(behaviour.rule, GateRule):
        budget_T = torch.full((len(call_T),), budget)
        price_T = behaviour.rule.price(budget_T)
        price = float(price_T[0])
        device = behaviour.rule.head.mean_F.device
        with torch.no_grad():
            output = behaviour.rule.head(known.features_TF.to(device), budget_T.to(device))
            logit_T = output.call_logit(price, behaviour.rule.alpha).cpu()
    return Episode(
        features_TF=known.features_TF,
        final_features_F=torch.zeros_like(known.final_features_F) if trace.finished else known.final_features_F,
        call_T=call_T,
        regret_T=known.regret_T,
        log_p_token_T=known.log_p_token_T,
        log_q_token_T=known.log_q_token_T,
        call_logit_T=logit_T,
        cost_T=torch.ones(len(call_T)),
        budget=budget,
        price=price,
        terminated=trace.finished,
        terminal_reward=reward,
        on_policy=behaviour.on_policy,
    )
