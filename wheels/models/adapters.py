"""Adapters of `peft`: merged into their model when it is loaded, so that everything else sees a plain model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from transformers import PreTrainedModel

from wheels.errors import WheelsError, is_of_machine
from wheels.models.places import Place

WEIGHTS = "adapter_model.safetensors"


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
    if importlib.util.find_spec("peft") is None:
        raise WheelsError(f"{what} is an adapter, which needs peft; run pip install 'training-wheels[peft]'")
    from peft import PeftModel

    try:
        whole: PreTrainedModel = PeftModel.from_pretrained(model, adapter.name).merge_and_unload()
    except Exception as error:
        if is_of_machine(error):
            raise
        raise WheelsError(f"cannot merge {what} into {adapter.base!r}: {str(error).splitlines()[0]}") from error
    whole.config.name_or_path = adapter.name
    return whole
