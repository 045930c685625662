"""Throughput of our saliency and of Captum's, same rows and teacher."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from wheels.benchmarks.core.bootstrap import ratio_by_round
from wheels.data.tasks import load_task
from wheels.distillation.collate import Batch, Collator, Example
from wheels.distillation.losses import IGNORED
from wheels.distillation.run_folder import noted_prompt
from wheels.models.loading import load_model, load_tokenizer
from wheels.models.pair import Pair
from wheels.rationales.attribution import embed, embedder, mean_log_p, saliency

BATCH, BATCHES, ROUNDS = 32, 2, 7


def throughput(data: str, teacher: Path) -> dict[str, Any]:
    """Return rows a second of ours and of two roads of Captum, medians of interleaved rounds, and ratios by round.

    `saliency` is Captum's `Saliency` of the embeddings, `layer` its `LayerGradientXActivation` at the embedding.
    """
    from captum.attr import LayerGradientXActivation, Saliency

    model = load_model(teacher, role="teacher")
    pair = Pair(model, model, load_tokenizer(teacher), noted_prompt(teacher))
    batches = first_batches(pair, data)

    def theirs(batch: Batch) -> torch.Tensor:
        oracle = Saliency(lambda embeddings: mean_log_p(model, batch, embeddings))
        found: torch.Tensor = oracle.attribute(embed(model, batch).requires_grad_(), abs=False).norm(dim=-1)
        return found

    def at_the_layer(batch: Batch) -> torch.Tensor:
        oracle = LayerGradientXActivation(
            lambda ids: plain_mean_log_p(pair, {**batch, "input_ids": ids}), embedder(model)
        )
        found: torch.Tensor = oracle.attribute(batch["input_ids"])
        return found.sum(dim=-1)

    roads: dict[str, Callable[[Batch], torch.Tensor]] = {
        "ours": lambda batch: saliency(model, batch),
        "captum saliency": theirs,
        "captum layer": at_the_layer,
    }
    seconds = interleaved(roads, batches)
    rows = BATCH * BATCHES
    return {
        "rows_per_second": {name: round(rows / median(times), 1) for name, times in seconds.items()},
        "ratio": {
            name: {what: round(value, 3) for what, value in ratio_by_round(seconds[name], seconds["ours"]).items()}
            for name in list(roads)[1:]
        },
        "rounds": ROUNDS,
        "rows": rows,
        "batch_size": BATCH,
        "threads": torch.get_num_threads(),
    }


def plain_mean_log_p(pair: Pair, batch: Batch) -> torch.Tensor:
    """Return the mean log-probability of each row's targets, [B], by the model's own forward pass."""
    logits_BTV = pair.teacher(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    labels_BT = batch["labels"]
    if not pair.is_seq2seq:
        logits_BTV, labels_BT = logits_BTV[:, :-1], labels_BT[:, 1:]
    loss_BT = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none")
    return -loss_BT.sum(dim=1) / (labels_BT != IGNORED).sum(dim=1)


def first_batches(pair: Pair, data: str) -> list[Batch]:
    """Return the first training rows, as they stand."""
    rows = load_task(data).train[: BATCH * BATCHES]
    sources, targets = pair.encode([row.source for row in rows]), pair.encode_targets([row.target for row in rows])
    examples: list[Example] = [{"source": s, "target": t} for s, t in zip(sources, targets, strict=True)]
    collate = Collator.of(pair)
    return [collate(examples[start : start + BATCH]) for start in range(0, len(examples), BATCH)]


def interleaved(roads: dict[str, Callable[[Batch], torch.Tensor]], batches: list[Batch]) -> dict[str, list[float]]:
    """Return the seconds of each road in each round; the first of all, which warms up, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in roads}
    for _ in range(ROUNDS + 1):
        for name, road in roads.items():
            start = time.perf_counter()
            for batch in batches:
                road(batch)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}
