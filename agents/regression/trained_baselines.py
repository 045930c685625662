"""The trained rules that the agent is compared with: the supervised gate, and the router of whole texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from wheels.agents.config import TrainConfig
from wheels.agents.regression.states import stacked
from wheels.agents.regression.warm_start import WarmStart, explained, fit_gate, fit_router
from wheels.agents.rl.episode import Episode
from wheels.agents.runlog import Metrics, shared_chunks
from wheels.data.tasks import Row
from wheels.decoding.engine import decode
from wheels.decoding.methods.method import student_only, teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.teacher_forcing import teacher_force
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead

CHUNK = 512
"""Rows that are decoded between two writes to disk."""
ROUTER_BATCH = 64
"""Texts in a gradient step of the router: it has one state a text, and so few of them."""

Fitted = tuple[DeferralHead, dict[str, Any]]
"""A head, and what was measured on the tenth of its states that it did not see."""


class TrainedBaselines:
    """Fits a gate and a router for each seed; finished ones are kept in `folder` for a resumed run."""

    def __init__(
        self,
        config: TrainConfig,
        episodes: Sequence[Episode],
        gains: tuple[torch.Tensor, torch.Tensor] | None,
        vocab_size: int,
        folder: Path,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.episodes, self.gains, self.vocab_size = config, episodes, gains, vocab_size
        self.folder, self.accelerator = folder, accelerator

    def fit(self, seed: int, metrics: Metrics) -> dict[str, DeferralHead]:
        """Return one seed's heads by rule; every process has the same."""
        fits = {"gate": self._gate} | ({"router": self._router} if self.gains is not None else {})
        heads = {}
        for rule, fit in fits.items():
            make = partial(self._state, rule, fit, seed, metrics)
            parts = shared_chunks(self.folder, f"{rule}-{seed}", range(1), make, self.accelerator, rule)
            heads[rule] = DeferralHead(self._settings(seed).head(self.episodes[0].features_TF.shape[1])).eval()
            heads[rule].load_state_dict(parts[0])
        return heads

    @staticmethod
    def _state(
        rule: str, fit: Callable[[int], Fitted], seed: int, metrics: Metrics, _: int
    ) -> Mapping[str, torch.Tensor]:
        """Fit a head, note how well, and return its weights."""
        head, figures = fit(seed)
        metrics.write({rule: figures})
        return head.state_dict()

    def _gate(self, seed: int) -> Fitted:
        """Fit the gate on the states of the warm start."""
        features_NF, regret_N = stacked(self.episodes)
        held = len(regret_N) // 10
        fitted = len(regret_N) - held
        head = fit_gate(features_NF[:fitted], regret_N[:fitted], self._settings(seed))
        with torch.no_grad():
            says_N = head.gain(features_NF[fitted:], torch.zeros(held)) > 0
        right = float((says_N == (regret_N[fitted:] > 0)).float().mean()) if held else None
        return head, {"states": fitted, "held_out_accuracy": right}

    def _router(self, seed: int) -> Fitted:
        """Fit the router on the gains of whole texts."""
        assert self.gains is not None
        features_NF, gain_N = self.gains
        held = len(gain_N) // 10
        fitted = len(gain_N) - held
        head = fit_router(features_NF[:fitted], gain_N[:fitted], self._settings(seed, ROUTER_BATCH))
        share = explained(head, features_NF[fitted:], gain_N[fitted:]) if held else None
        return head, {"texts": fitted, "held_out_r2": share}

    def _settings(self, seed: int, batch: int = WarmStart.batch) -> WarmStart:
        """Return the settings of the warm start, with other batches."""
        config = self.config
        return WarmStart(
            epochs=config.warm_epochs,
            batch=batch,
            learning_rate=config.warm_learning_rate,
            seed=seed,
            width=config.width,
            vocab_size=self.vocab_size,
        )


def collect_gains(
    pair: Pair, rows: Sequence[Row], metric: str, config: TrainConfig, folder: Path, accelerator: Accelerator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the first states `[N, F]` of the first rows, and what the teacher's text gains there, points `[N]`.

    Each chunk is written when it is done, so a killed run decodes none of them twice. Under several processes each
    takes every n-th chunk, and all read all.

    Args:
        pair: Both models.
        rows: The training rows, of which `config.router_rows` are read; None is returned for none.
        metric: The sentence metric that both texts are scored with.
        config: Of the run.
        folder: Where the chunks are kept.
        accelerator: The processes.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, min(len(rows), config.router_rows), CHUNK)]
    chunks = [chunk[: config.router_rows - CHUNK * number] for number, chunk in enumerate(chunks)]
    if not chunks:
        return None

    def make(number: int) -> dict[str, torch.Tensor]:
        features_NF, gain_N = text_gains(pair, chunks[number], metric, config.max_new_tokens, config.batch_size)
        return {"features": features_NF, "gain": gain_N}

    parts = shared_chunks(folder, "gains", range(len(chunks)), make, accelerator, "whole texts")
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
    student, teacher = (
        decode(pair, sources, method, params, batch_size=batch_size) for method in (student_only(), teacher_only())
    )
    student_N, teacher_N = (
        torch.tensor(sentence_scores(metric, [trace.text for trace in traces], targets))
        for traces in (student, teacher)
    )
    first = teacher_force(pair, pair.encode(sources), [trace.token_ids[:1] for trace in student], batch_size)
    return torch.stack([known.features_TF[0] for known in first]), teacher_N - student_N
