"""Weights that another library rounded: as a checkpoint holds them, or when a model is loaded."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from wheels.config.fields import QUANTIZATIONS
from wheels.errors import WheelsError, check_choice

PACKAGES = {"int8": "torchao", "int4": "bitsandbytes"}
"""Which library rounds."""


def quantization_config(kind: str, dtype: torch.dtype, what: str) -> Any:
    """Return how transformers rounds the linear layers of a model as it reads them; embeddings and head stay.

    `int8` has a scale for each output of a layer (torchao), `int4` the 16 levels of NF4 and a scale for each 64 weights
    (bitsandbytes; Dettmers et al. 2023, https://arxiv.org/abs/2305.14314). States are not rounded, so a row of a batch
    does not change another.

    Args:
        kind: `int8` or `int4`.
        dtype: what the layers compute in.
        what: the words for the model in an error.

    Raises:
        WheelsError: for another kind, and without the library.
    """
    check_choice("teacher_quantization", kind, QUANTIZATIONS)
    if importlib.util.find_spec(PACKAGES[kind]) is None:
        raise WheelsError(
            f"{what} in {kind} needs {PACKAGES[kind]}; run pip install 'training-wheels[quantization]', or use "
            "teacher_weights int8, which needs nothing"
        )
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "int4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def check_blocks(model: torch.nn.Module, what: str) -> None:
    """Refuse layers that bitsandbytes cannot multiply on a CPU: it wants whole blocks of 4-bit weights in each row.

    Raises:
        WheelsError: naming the first of them.
    """
    for name, module in model.named_modules():
        state, width = getattr(getattr(module, "weight", None), "quant_state", None), getattr(module, "in_features", 0)
        if state is not None and width % state.blocksize:
            raise WheelsError(
                f"{what} in int4: {name} reads {width} numbers, and on a cpu bitsandbytes multiplies multiples of "
                f"{state.blocksize} only; use int8"
            )
