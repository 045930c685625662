"""Two tasks in one model, told apart by a prefix of the prompt: the target, and its rationale.

    L = (1 - w) L_label + w L_rationale

(Hsieh et al. 2023, distilling step-by-step, https://arxiv.org/abs/2305.02301, whose `alpha` is `1 - w`; Ballout et al.
2024, https://arxiv.org/abs/2409.12586). Each task's loss is the mean cross-entropy over its own target tokens in the
whole accumulated batch, on all processes: a rationale of twenty tokens weighs no more than a label of two, and the
number of passes that a batch is cut into changes nothing. A row without a rationale has a label only; in a batch that
has no rationale at all `L_rationale` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wheels.data.prompts import Prompt
from wheels.data.tasks import Task
from wheels.distillation.collate import Batch
from wheels.distillation.config import PretrainConfig
from wheels.distillation.losses import IGNORED
from wheels.errors import WheelsError


@dataclass(frozen=True)
class Rationales:
    """The second task of a run."""

    prompt: Prompt
    """What the model reads for it."""
    texts: Sequence[str]
    """The rationale of each training row; "" where it has none."""


def prefixed(prefix: str, prompt: Prompt) -> Prompt:
    """Return the prompt with a prefix; braces in the prefix are escaped."""
    return replace(prompt, text=prefix.replace("{", "{{").replace("}", "}}") + prompt.text)


def load_rationales(config: PretrainConfig, task: Task, prompt: Prompt) -> Rationales | None:
    """Return the second task that a configuration asks for, or None.

    Args:
        config: names the column.
        task: whose training rows hold them.
        prompt: of the model, before any prefix.

    Raises:
        WheelsError: where no training row has a rationale.
    """
    if config.rationale is None:
        return None
    texts = [row.rationale.strip() for row in task.train]
    if not any(texts):
        raise WheelsError(
            f"{config.data}: no training row has a rationale in column {config.rationale!r}; the command rationales "
            "writes some, or name the column that has them by --rationale"
        )
    return Rationales(prefixed(config.rationale_prefix, prompt), texts)


def count_tasks(batches: Sequence[Batch]) -> torch.Tensor:
    """Return the target tokens of labels and of rationales in all batches of one step, [2]."""
    tokens = [(batch["labels"] != IGNORED).sum(dim=1) for batch in batches]
    second = [int(tokens_B[is_rationale(batch)].sum()) for tokens_B, batch in zip(tokens, batches, strict=True)]
    return torch.tensor([sum(int(tokens_B.sum()) for tokens_B in tokens) - sum(second), sum(second)])


def token_weights(batch: Batch, counts: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the loss weight of each target token, [N], in the order of `labels[labels != IGNORED]`.

    Args:
        batch: rows of both tasks.
        counts: of `count_tasks`, over the accumulated batch and all processes.
        weight: w, of the rationales.
    """
    shares = torch.tensor([1.0 - weight, weight], device=counts.device) / counts.clamp(min=1)
    of_row_B = shares[is_rationale(batch).long()]
    return of_row_B.unsqueeze(1).expand(batch["labels"].shape)[batch["labels"] != IGNORED]


def is_rationale(batch: Batch) -> torch.Tensor:
    """Return which rows of a batch are rationales, [B]."""
    return batch.get("is_rationale", torch.zeros(len(batch["labels"]), dtype=torch.bool, device=batch["labels"].device))
