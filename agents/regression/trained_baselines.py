"""The trained rules that the agent is compared with: paired texts, the supervised gate, the router, REINFORCE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wheels.agents.regression.paired import Fit, collect_pairs, fit_pairs
from wheels.agents.regression.warm_start import explained, fit_gate, fit_router
from wheels.agents.rl.agent import starting_prices
from wheels.agents.rl.reinforce import ReinforceSettings, reinforce
from wheels.agents.seed_run import SeedRun, environment_of
from wheels.data.tasks import Row
from wheels.decoding.methods.method import student_only, teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import writing_whole_texts
from wheels.decoding.streaming import decode
from wheels.decoding.teacher_forcing import teacher_force
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead

CHUNK = 512
"""Rows that are decoded between two writes to disk."""
ROUTER_BATCH = 64
"""Texts in a gradient step of the router: it has one state a text, and so few of them."""

A_ROUND = ReinforceSettings.prompts * ReinforceSettings.samples
"""Texts of a round of REINFORCE."""

States = tuple[torch.Tensor, torch.Tensor]
"""Features `[N, F]` and regrets `[N]`, nats."""
Fitted = tuple[DeferralHead, dict[str, Any]]
"""A head, and what was measured on the tenth of its states that it did not see."""


def fit_baseline(rule: str, run: SeedRun, warm: DeferralHead, states: States, kappa: float) -> DeferralHead:
    """Return the head of a baseline; a resumed run reads it, and every process has the same.

    Args:
        rule: One of `wheels.agents.config.BASELINES`.
        run: The seed's run.
        warm: The warm start of the agent.
        states: What it was fitted to.
        kappa: Points of the metric for a nat.
    """

    def make(_: int) -> Mapping[str, torch.Tensor]:
        head, figures = FITS[rule](run, warm, states, kappa)
        run.metrics.write({rule: figures})
        return head.state_dict()

    head = warm.frozen_copy()
    head.load_state_dict(run.parts(rule, 1, make, rule)[0])
    return head


def _paired(run: SeedRun, warm: DeferralHead, states: States, _: float) -> Fitted:
    """Fit the shift of the warm start to pairs of texts, one decision apart."""
    head = warm.frozen_copy()
    return head, fit_pairs(head, collect_pairs(run, warm, states[0]), Fit(seed=run.seed))


def _gate(run: SeedRun, _: DeferralHead, states: States, __: float) -> Fitted:
    """Fit the gate on the states of the warm start."""
    features_NF, regret_N = states
    held = len(regret_N) // 10
    fitted = len(regret_N) - held
    head = fit_gate(features_NF[:fitted], regret_N[:fitted], run.regression())
    with torch.no_grad():
        says_N = head.gain(features_NF[fitted:], torch.zeros(held)) > 0
    right = float((says_N == (regret_N[fitted:] > 0)).float().mean()) if held else None
    return head, {"states": fitted, "held_out_accuracy": right}


def _router(run: SeedRun, *_: Any) -> Fitted:
    """Fit the router on the gains of whole texts."""
    features_NF, gain_N = collect_gains(run)
    held = len(gain_N) // 10
    fitted = len(gain_N) - held
    head = fit_router(features_NF[:fitted], gain_N[:fitted], run.regression(ROUTER_BATCH))
    share = explained(head, features_NF[fitted:], gain_N[fitted:]) if held else None
    return head, {"texts": fitted, "held_out_r2": share}


def _reinforce(run: SeedRun, warm: DeferralHead, states: States, kappa: float) -> Fitted:
    """Train the warm start by policy gradient, in the environment of the agent."""
    config, head = run.config, warm.frozen_copy()
    settings = ReinforceSettings(rounds=run.count_of("reinforce_texts") // A_ROUND, seed=run.seed)
    env = environment_of(config, run.pair, run.rows, run.metric, 1.0 / kappa)
    table = starting_prices(head, config.budgets, settings.alpha, states[0][:20_000])
    reinforce(env, head, table, settings, run.folder / "reinforce", lambda told: run.metrics.write({"rounds": told}))
    return head, {"texts": settings.rounds * A_ROUND, "prices": table.prices}


FITS: dict[str, Callable[[SeedRun, DeferralHead, States, float], Fitted]] = {
    "paired": _paired,
    "gate": _gate,
    "router": _router,
    "reinforce": _reinforce,
}


def collect_gains(run: SeedRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first states `[N, F]` of the first rows, and what the teacher's text gains there, points `[N]`.

    Each chunk is written when it is done, so a killed run decodes none of them twice.
    """
    config = run.config
    rows = run.rows[: config.router_rows]

    def make(number: int) -> dict[str, torch.Tensor]:
        some = rows[number * CHUNK : (number + 1) * CHUNK]
        features_NF, gain_N = text_gains(run.pair, some, run.metric, config.max_new_tokens, config.batch_size)
        return {"features": features_NF, "gain": gain_N}

    parts = run.parts("gains", -(-len(rows) // CHUNK), make, "whole texts")
    return torch.cat([part["features"] for part in parts]), torch.cat([part["gain"] for part in parts])


def text_gains(
    pair: Pair, rows: Sequence[Row], metric: str, max_new_tokens: int, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write each row with the student alone and with the teacher alone; return the difference in the metric.

    Returns:
        The student's state before anything is written, `[N, F]`; and the metric of the teacher's text against the
        target minus that of the student's, `[N]`, in points of 100.
    """
    sources, targets = [row.source for row in rows], [row.target for row in rows]
    params = DecodeParams(max_new_tokens=max_new_tokens)
    with writing_whole_texts(pair):
        student, teacher = (
            decode(pair, sources, method, params, batch_size=batch_size) for method in (student_only(), teacher_only())
        )
    student_N, teacher_N = (
        torch.tensor(sentence_scores(metric, [trace.text for trace in traces], targets, sources))
        for traces in (student, teacher)
    )
    first = teacher_force(pair, pair.encode(sources), [trace.token_ids[:1] for trace in student], batch_size)
    return torch.stack([known.features_TF[0] for known in first]), teacher_N - student_N
