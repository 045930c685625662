"""Adapters of `peft`: merged into their model when it is loaded or was trained, so that all else sees a plain model."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from wheels.errors import WheelsError, is_of_machine
from wheels.models.places import Place

WEIGHTS = "adapter_model.safetensors"
SCALE = 2.0
"""Of what an adapter adds, in every adapter that is trained here: `alpha / rank`."""

log = logging.getLogger("wheels")


def merged(model: PreTrainedModel, adapter: Place, what: str) -> PreTrainedModel:
    """Return a model with an adapter merged into its weights: `W + scale * B A` for LoRA.

    Args:
        model: that the adapter was trained on.
        adapter: the folder of the adapter.
        what: the words for it in an error.

    Raises:
        WheelsError: without `peft`, for weights that are no safetensors, and for an adapter that does not fit.
    """
    if not (Path(adapter.name) / WEIGHTS).is_file():
        raise WheelsError(f"{what} is an adapter without {WEIGHTS}; save it with save_pretrained of peft")
    check_peft(f"{what} is an adapter, which")
    from peft import PeftModel

    try:
        whole: PreTrainedModel = PeftModel.from_pretrained(model, adapter.name).merge_and_unload()
    except Exception as error:
        if is_of_machine(error):
            raise
        raise WheelsError(f"cannot merge {what} into {adapter.base!r}: {str(error).splitlines()[0]}") from error
    whole.config.name_or_path = adapter.name
    return whole


def check_peft(what: str) -> None:
    """Raise a `WheelsError` where `peft` is missing; `what` needs it."""
    if importlib.util.find_spec("peft") is None:
        raise WheelsError(f"{what} needs peft; run pip install 'training-wheels[peft]'")


def with_lora(model: PreTrainedModel, rank: int, seed: int) -> Callable[[], object]:
    """Put adapters of low rank into a model, in place, and let these alone train; return what merges them.

    Each linear layer but the output head computes `W x + 2 B A x`, with A `[rank, in]` drawn and B `[out, rank]` zero
    (LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685), so the model begins as it was. Merged, it is a plain model
    again, with the weights `W + 2 B A`.

    Args:
        model: that is to be trained.
        rank: of the adapters.
        seed: of A.

    Raises:
        WheelsError: without `peft`, or for a model without such layers.
    """
    check_peft(f"lora_rank {rank}")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=round(SCALE * rank), target_modules="all-linear")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise WheelsError(f"cannot put adapters into {model.config.model_type}: {error}") from error
    trained, whole = adapted.get_nb_trainable_parameters()
    log.info(
        "LoRA of rank %d: %s of %s weights are trained, and merged into the student at the end",
        rank,
        f"{trained:,}",
        f"{whole:,}",
    )
    merge: Callable[[], object] = adapted.merge_and_unload
    return merge
