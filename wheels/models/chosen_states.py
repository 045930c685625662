"""Forward passes whose output layer reads chosen states alone.

Of a small model with a large vocabulary the output layer is a good part: of SmolLM2-135M a fifth, of ten of its thirty
layers nearly half. A prompt needs no logits, nor does padding, and theirs would be the largest tensors of a pass.

A training step of 8 rows of 224 tokens, a tenth of them targets, in processor seconds of one thread of an EPYC (mixed
precision, medians of four interleaved rounds): ten layers 3.5 for 5.3, all thirty 9.7 for 11.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from wheels.models.devices import device_of


class ReadAt(NamedTuple):
    """What a pass gives at N chosen states, row by row."""

    logits_NV: torch.Tensor
    states_ND: torch.Tensor
    """What the output layer read."""
    outputs: Any
    """All of the model's outputs; their logits are `[1, N, V]`."""


def read_at(
    model: PreTrainedModel,
    reads: Mapping[str, torch.Tensor],
    chosen_BT: torch.Tensor,
    *,
    through: torch.nn.Module | None = None,
    **asked: Any,
) -> ReadAt:
    """Run a model, and its output layer at the chosen states alone.

    Args:
        model: The model, on any device, or in parts on several.
        reads: Its input tensors, of B rows.
        chosen_BT: Which states, bool, on the device that the results are to be on.
        through: What wraps the model, and is called in its place.
        asked: What the outputs shall have besides.
    """
    home, read = chosen_BT.device, list[torch.Tensor]()

    def choose(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states_BTD, *others = inputs
        read.append(states_BTD[chosen_BT.to(states_BTD.device)])
        return (read[0][None], *others)

    there = {name: each.to(device_of(model)) for name, each in reads.items()}
    handle = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        outputs = (model if through is None else through)(**there, **asked)
    finally:
        handle.remove()
    return ReadAt(outputs.logits[0].to(home), read[0].to(home), outputs)
