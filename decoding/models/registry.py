"""Which models are read by a fast forward pass, and how long one that was made serves.

Its weights are copies: a runner whose model is trained meanwhile must be made without (`lean=False`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BartForConditionalGeneration,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MarianMTModel,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    T5ForConditionalGeneration,
)

from wheels.decoding.models.families.bart import FastBart
from wheels.decoding.models.families.decoders import FastDecoder, FastLlama, FastT5
from wheels.decoding.models.families.gpt2 import FastGPT2

MAKERS: dict[type, Callable[[Any], FastDecoder]] = {
    LlamaForCausalLM: FastLlama,
    Qwen2ForCausalLM: FastLlama,
    Qwen3ForCausalLM: FastLlama,
    GPT2LMHeadModel: FastGPT2,
    T5ForConditionalGeneration: FastT5,
    BartForConditionalGeneration: FastBart,
    MarianMTModel: FastBart,
}
LARGEST = 250_000_000
"""Weights of a model's layers at most, for they are copied: a gigabyte in float32."""
SAMPLE = 16
"""Numbers of each weight that are looked at to see whether it was changed."""
DTYPES = (torch.float32, torch.bfloat16)
KNOWN = ("torch.nn.modules", "transformers.models", "transformers.activations", "transformers.pytorch_utils")
"""Where the classes of modules stand that do what their class says."""
ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles do not depend on the length of the text."""

_made: weakref.WeakKeyDictionary[PreTrainedModel, tuple[object, FastDecoder]] = weakref.WeakKeyDictionary()


def fast_decoder_for(model: PreTrainedModel) -> FastDecoder | None:
    """Return the fast decoder of `model` with the weights that it has now; None where only the library can run it.

    That is so for families that are not known here, for large models, for what is unlike the plain model in any way
    (adapters, quantised or hooked modules, number formats), and while it trains. One that was made before is
    returned as long as the weights are those of then (`_stamp`).
    """
    maker = MAKERS.get(type(model))
    if maker is None or model.training or model.config._attn_implementation not in ("sdpa", "eager"):
        return None
    decoder: Any = model.get_decoder()
    readers = [model.get_encoder(), decoder] if model.config.is_encoder_decoder else [decoder]
    parts = [model, *(module for each in readers for module in each.modules()), model.get_output_embeddings()]
    weights = [weight for each in readers for name, weight in each.named_parameters() if not _is_table(name)]
    alike = {(weight.dtype, weight.device) for weight in [*weights, *model.get_output_embeddings().parameters()]}
    rotary = getattr(getattr(decoder, "rotary_emb", None), "rope_type", "default")
    plain = all(map(_is_plain, parts)) and len(alike) == 1 and model.dtype in DTYPES and rotary in ROTARY
    plain = plain and not getattr(model.config, "reorder_and_upcast_attn", False)
    if not plain or sum(weight.numel() for weight in weights) > LARGEST:
        return None
    stamp, (made_of, made) = _stamp(model), _made.get(model, (None, None))
    if made is None or made_of != stamp:
        made = maker(model)
        _made[model] = (stamp, made)
    return made


def _is_table(name: str) -> bool:
    """Tell whether a weight is a table of tokens or positions, which is looked up in and not copied."""
    return any(table in name for table in ("embed_tokens", "embed_positions", "wte", "wpe"))


def _stamp(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what changes with the weights: where each lies, its count of changes in place, and a few of its numbers.

    The count misses what is written through `.data`, and the numbers tell of nearly every such change.
    """
    weights = [weight.detach() for weight in (*model.parameters(), *model.buffers())]
    device = weights[0].device
    sample_N = torch.cat([weight.flatten()[:: 1 + weight.numel() // SAMPLE].float().to(device) for weight in weights])
    # Weights made in inference mode cannot be changed in place outside of it, and are not counted.
    counts = [0 if weight.is_inference() else weight._version for weight in weights]
    return *zip((weight.data_ptr() for weight in weights), counts, strict=True), sample_N.cpu().numpy().tobytes()


def _is_plain(module: torch.nn.Module) -> bool:
    """Tell whether a module does what its class says: nothing hooked, replaced, adapted or quantised."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if isinstance(module, torch.nn.Linear):
        return not hooked and type(module) is torch.nn.Linear
    return type(module).__module__.startswith(KNOWN) and not hooked
