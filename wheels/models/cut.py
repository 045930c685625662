"""A smaller model from a larger one: some of its layers, as a student to start from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from wheels.errors import WheelsError

COUNTS = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
"""What configurations call the number of the decoder's layers; the first that a configuration has."""


def keep_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """Return a copy of a model with `count` of its decoder's layers: the first, the last, and evenly spread ones.

    An encoder stays whole: it reads once, the decoder once a token (shrink and fine-tune, Shleifer and Rush 2020,
    arXiv:2010.13002). Everything else, embeddings and last norm, is the model's own.

    Raises:
        WheelsError: for more layers than it has, or a family whose layers are not found.
    """
    place, layers = _layers_of(model)
    if not 1 <= count <= len(layers):
        raise WheelsError(f"keep_layers must be from 1 to {len(layers)}, the layers of this model, got {count}")
    kept = spread(count, len(layers))
    config = copy.deepcopy(model.config)
    setattr(config, next(name for name in COUNTS if hasattr(config, name)), count)
    kinds: Any = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kinds[old] for old in kept]
    made: Any = type(model)
    small: PreTrainedModel = made(config).to(device=model.device, dtype=model.dtype)
    small.load_state_dict(_renumbered(model.state_dict(), place, kept))
    small.generation_config = model.generation_config
    return small.eval()


def spread(count: int, total: int) -> list[int]:
    """Return `count` of `total` indices, evenly spread from the first to the last."""
    return [round(step * (total - 1) / max(count - 1, 1)) for step in range(count)]


def _layers_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the place and the list of the decoder's layers."""
    decoder = model.get_decoder()
    found = [module for module in decoder.children() if isinstance(module, nn.ModuleList)]
    if len(found) != 1:
        raise WheelsError(f"keep_layers does not find the layers of a {model.config.model_type} model; leave it out")
    return next(name for name, module in model.named_modules() if module is found[0]), found[0]


def _renumbered(weights: dict[str, torch.Tensor], place: str, kept: list[int]) -> dict[str, torch.Tensor]:
    """Return the weights without the other layers, the kept ones counted anew."""
    new = {str(old): str(index) for index, old in enumerate(kept)}
    found = {}
    for name, tensor in weights.items():
        if name.startswith(f"{place}."):
            old, _, rest = name.removeprefix(f"{place}.").partition(".")
            if old not in new:
                continue
            name = f"{place}.{new[old]}.{rest}"
        found[name] = tensor
    return found
