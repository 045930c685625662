"""Which models have a fast path, and the fast decoders that were made.

A fast decoder copies weights: where a model is trained meanwhile its runner makes a new one (`Runner.refresh`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.families.bart import read_bart
from wheels.decoding.models.families.gpt2 import read_gpt2
from wheels.decoding.models.families.llama import read_llama
from wheels.decoding.models.families.t5 import read_t5
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.linear import weights_as
from wheels.models.families import layer_windows

READERS: dict[str, Callable[[Any], FastDecoder]] = {
    "LlamaForCausalLM": read_llama,
    "MistralForCausalLM": read_llama,
    "Qwen2ForCausalLM": read_llama,
    "Qwen3ForCausalLM": read_llama,
    "GPT2LMHeadModel": read_gpt2,
    "T5ForConditionalGeneration": read_t5,
    "MT5ForConditionalGeneration": read_t5,
    "BartForConditionalGeneration": read_bart,
    "MarianMTModel": read_bart,
}
"""By the name of transformers' class: the classes of all families would be imported for the one that is there."""
LARGEST = 1_000_000_000
"""Bytes of a model's layers at most, as they are laid out, for they are copied: 250 million weights in float32."""
BYTES = {"int8": 1, "bfloat16": 2}
"""Of a weight in a kind of its own; in `float32` it is what the model has."""
SAMPLE = 16
"""Numbers of each weight that are compared to see whether it changed."""
DTYPES = (torch.float32, torch.bfloat16)
KNOWN = ("torch.nn.modules", "transformers.models", "transformers.activations", "transformers.pytorch_utils")
"""Packages whose modules compute what their class says."""
ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles do not depend on the length of the text."""

_made: weakref.WeakKeyDictionary[PreTrainedModel, dict[str, tuple[object, FastDecoder]]] = weakref.WeakKeyDictionary()


def fast_decoder_for(model: PreTrainedModel, kind: str = "float32") -> FastDecoder | None:
    """Return the fast decoder of `model` with its present weights; None where only the library can run it.

    That holds for families without a reader, for large models, for anything unlike the plain model (adapters, quantised
    or hooked modules, other dtypes), and in training mode. A decoder is made once, and again when the weights change.

    Args:
        model: Of the library.
        kind: What its weights become: `float32`, that is as they are, `int8` or `bfloat16`.
    """
    if not has_fast_path(model, kind):
        return None
    kinds = _made.setdefault(model, {})
    stamp, (made_of, made) = _stamp(model), kinds.get(kind, (None, None))
    if made is None or made_of != stamp:
        with weights_as(kind):
            made = READERS[type(model).__name__](model)
        kinds[kind] = (stamp, made)
    return made


def forget_fast_decoder(model: PreTrainedModel, kind: str) -> None:
    """Free the fast decoder of a model with this kind of weights."""
    _made.get(model, {}).pop(kind, None)


def has_fast_path(model: PreTrainedModel, kind: str = "float32") -> bool:
    """Tell whether `fast_decoder_for` makes a decoder of this model."""
    known = type(model).__name__ in READERS and type(model).__module__.startswith("transformers.models.")
    if not known or model.training or model.config._attn_implementation not in ("sdpa", "eager"):
        return False
    decoder: Any = model.get_decoder()
    stacks = [model.get_encoder(), decoder] if model.config.is_encoder_decoder else [decoder]
    parts = [model, *(module for each in stacks for module in each.modules()), model.get_output_embeddings()]
    weights = [weight for each in stacks for name, weight in each.named_parameters() if not _is_table(name)]
    alike = {(weight.dtype, weight.device) for weight in [*weights, *model.get_output_embeddings().parameters()]}
    rotary = getattr(getattr(decoder, "rotary_emb", None), "rope_type", "default")
    plain = all(map(_is_plain, parts)) and len(alike) == 1 and model.dtype in DTYPES and rotary in ROTARY
    plain = plain and not getattr(model.config, "reorder_and_upcast_attn", False)
    plain = plain and not any(layer_windows(model.config)) and all(type(each) is torch.nn.Parameter for each in weights)
    plain = plain and (kind == "float32" or (model.dtype == torch.float32 and model.device.type == "cpu"))
    size = sum(weight.numel() * BYTES.get(kind, weight.itemsize) for weight in weights)
    return plain and size <= LARGEST


def _is_table(name: str) -> bool:
    """Tell whether a weight is an embedding of tokens or positions, which is not copied."""
    return any(table in name for table in ("embed_tokens", "embed_positions", "wte", "wpe"))


def _stamp(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what changes with the weights: addresses, counts of in-place changes, and a few numbers of each.

    The counts miss writes through `.data`; the numbers catch nearly all of these.
    """
    weights = [weight.detach() for weight in (*model.parameters(), *model.buffers())]
    device = weights[0].device
    sample_N = torch.cat([weight.flatten()[:: 1 + weight.numel() // SAMPLE].float().to(device) for weight in weights])
    # Weights made in inference mode have no count; outside of it they cannot be changed in place.
    counts = [0 if weight.is_inference() else weight._version for weight in weights]
    return *zip((weight.data_ptr() for weight in weights), counts, strict=True), sample_N.cpu().numpy().tobytes()


def _is_plain(module: torch.nn.Module) -> bool:
    """Tell whether a module computes what its class says: nothing hooked, replaced, adapted or quantised."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if isinstance(module, torch.nn.Linear):
        return not hooked and type(module) is torch.nn.Linear
    return type(module).__module__.startswith(KNOWN) and not hooked
