"""Size of a cache of k tokens, and the error of its loss and gradient against the full logits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from wheels.distillation.cached_teacher import numbered
from wheels.distillation.collate import Batch, Collator, Example, target_logits_and_labels
from wheels.distillation.losses import divergence, select
from wheels.distillation.teacher_cache import CacheSettings, TeacherCache
from wheels.distillation.topk_losses import topk_divergence
from wheels.models.pair import Pair

ERROR_ROWS = 256
"""Rows that errors are taken over."""
BATCH = 16
"""Rows of one gradient."""


@dataclass(frozen=True)
class CacheSize:
    """What one cache takes."""

    k: int
    bytes_per_token: float
    bytes: int
    """On the disk, for all rows that were scored."""
    tokens: int
    seconds: float
    """To write it, the teacher's passes included."""


def weigh(pair: Pair, examples: Sequence[Example], settings: CacheSettings, folder: Path) -> CacheSize:
    """Write a cache anew, and return what it takes."""
    cache = TeacherCache(folder, settings, examples)
    shutil.rmtree(cache.folder, ignore_errors=True)
    start = time.perf_counter()
    cache.write(pair.teacher, Collator.of(pair))
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in cache.files)
    return CacheSize(settings.k, size / cache.tokens, size, cache.tokens, seconds)


def errors(
    pair: Pair, examples: Sequence[Example], settings: CacheSettings, sizes: Sequence[int], folder: Path, objective: str
) -> list[dict[str, Any]]:
    """Return, for each k and T, how far the loss and the student's gradient are from those of the full logits.

    The caches must be written. A loss is the divergence of a token in nats, without T^2; `share` is the mean loss over
    the full one's, `worst` the largest difference of a token, `gradient` the mean over batches of
    `|g_k - g| / |g|`, g over all weights of the student; `rest` the mean mass of the rest.
    """
    caches = {k: TeacherCache(folder, replace(settings, k=k), examples) for k in sizes}
    sums: dict[tuple[int, float], dict[str, list[float]]] = {}
    rows = numbered(list(examples[:ERROR_ROWS]))
    collator = Collator.of(pair)
    pair.student.eval()
    for start in tqdm(range(0, len(rows), BATCH), desc="error of the cache", unit="batch", leave=False):
        batch = collator(rows[start : start + BATCH])
        for (k, temperature), found in _batch_errors(pair, batch, caches, settings, objective).items():
            kept = sums.setdefault((k, temperature), {name: [] for name in found})
            for name, values in found.items():
                kept[name] += values
    return [_summed(k, temperature, kept) for (k, temperature), kept in sorted(sums.items())]


def _batch_errors(
    pair: Pair, batch: Batch, caches: dict[int, TeacherCache], settings: CacheSettings, objective: str
) -> dict[tuple[int, float], dict[str, list[float]]]:
    """Return for each k and T the losses of one batch's tokens, and the error of its gradient."""
    reads = {name: tensor for name, tensor in batch.items() if name not in ("labels", "rows")}
    student_logits_NV = _targets(pair, pair.student(**reads).logits, batch["labels"], settings)
    with torch.no_grad():
        teacher_logits_NV = _targets(pair, pair.teacher(**reads).logits, batch["labels"], settings)
    weights = [weight for weight in pair.student.parameters() if weight.requires_grad]

    def gradient(loss_N: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(loss_N.sum(), weights, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    found = {}
    for temperature in settings.temperatures:
        full_N = divergence(objective, student_logits_NV, teacher_logits_NV, temperature)
        true = gradient(full_N)
        for k, cache in caches.items():
            law = cache.distribution(batch["rows"], temperature)
            merged_N = topk_divergence(student_logits_NV, law, objective, temperature)
            rest_N = torch.zeros_like(merged_N) if law.ids_NK is None else law.outcomes_NJ.softmax(-1)[:, -1]
            found[k, temperature] = {
                "full": full_N.tolist(),
                "merged": merged_N.tolist(),
                "gradient": [float((gradient(merged_N) - true).norm() / true.norm())],
                "rest": rest_N.tolist(),
            }
    return found


def _targets(pair: Pair, logits_BTV: torch.Tensor, labels_BT: torch.Tensor, settings: CacheSettings) -> torch.Tensor:
    logits, labels = target_logits_and_labels(logits_BTV, labels_BT, is_seq2seq=pair.is_seq2seq)
    return select(logits, labels, settings.vocab_size)


def _summed(k: int, temperature: float, kept: dict[str, list[float]]) -> dict[str, Any]:
    """Return the line of one k and T."""
    full, merged = torch.tensor(kept["full"]), torch.tensor(kept["merged"])
    return {
        "k": k,
        "temperature": temperature,
        "full": float(full.mean()),
        "merged": float(merged.mean()),
        "share": float(merged.mean() / full.mean()),
        "worst": float((full - merged).abs().max()),
        "above": float((merged - full).max()),
        "gradient": sum(kept["gradient"]) / len(kept["gradient"]),
        "rest": sum(kept["rest"]) / len(kept["rest"]),
    }
