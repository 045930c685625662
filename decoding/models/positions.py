"""How the library's models are told the positions of a ragged batch, for each way in which families encode them.

Causal models take `position_ids`. T5 adds a bias by distance in its first decoder layer; Marian, BART and relatives
look positions up in an embedding of the decoder. Both are patched for the time of one forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.inputs import AttentionInputs
from wheels.errors import WheelsError
from wheels.models.loading import ATTENTION

MECHANISMS = (
    "alibi",
    "attention_types",
    "attention_chunk_size",
    "attention_type",
    "attention_window",
    "encoder_attention_type",
    "local_attention",
    "expert_capacity",
    "moe_eval_capacity_token_fraction",
    "index_topk",
)
"""Configuration keys of attention windows, chunks and biases, and of experts with a capacity."""
PLAIN_KINDS = ("full_attention", "full", "original_full", "local")
"""Values of theirs that change nothing; the window of LongT5's encoder depends on the row alone."""


Positions = Callable[[AttentionInputs], AbstractContextManager[dict[str, torch.Tensor]]]
"""A context in which a model uses the positions of these inputs; it yields extra keyword arguments of its forward."""


@contextmanager
def position_ids(inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
    """Models that take `position_ids`: Llama, Qwen, GPT-2 and most causal models."""
    yield {"position_ids": inputs.write.positions_RK}


class RelativeBias:
    """T5: a learned bias for each distance between query and key, shared by the decoder's layers or one for each.

    Args:
        attentions: The self-attention of each layer; those without a bias of their own take the first one's.
    """

    def __init__(self, attentions: list[Any]) -> None:
        self.attentions = [each for each in attentions if each.has_relative_attention_bias]
        first = self.attentions[0]
        self.limit = int(first.relative_attention_max_distance)
        distance_D = torch.arange(self.limit + 1, device=first.relative_attention_bias.weight.device)
        self.bucket_D = buckets_of(first, -distance_D, bidirectional=False)

    @contextmanager
    def __call__(self, inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
        """Replace the layers' bias, which assumes one position for all rows.

        `bias[r, h, k, j] = table[min(position[r, k] - j, limit), h]`; negative distances are masked anyway.
        """
        key_L = torch.arange(inputs.visible, device=inputs.positions_RK.device)
        bucket_RKL = self.bucket_D[(inputs.positions_RK[:, :, None] - key_L).clamp_(0, self.limit)]
        try:
            for attention in self.attentions:
                bias = attention.relative_attention_bias(bucket_RKL).permute(0, 3, 1, 2)
                attention.compute_bias = lambda *args, bias=bias, **kwargs: bias
            yield {}
        finally:
            for attention in self.attentions:
                vars(attention).pop("compute_bias", None)


def buckets_of(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return T5's buckets of relative positions, key minus query; an encoder's are bidirectional."""
    settings: dict[str, Any] = {}
    # UMT5's attention has these settings itself.
    if "bidirectional" in inspect.signature(attention._relative_position_bucket).parameters:
        settings = {
            "bidirectional": bidirectional,
            "num_buckets": attention.relative_attention_num_buckets,
            "max_distance": attention.relative_attention_max_distance,
        }
    bucket_T: torch.Tensor = attention._relative_position_bucket(relative_T, **settings)
    return bucket_T


class EmbeddedPositions:
    """Marian, BART and relatives: a position embedding in the decoder that takes `position_ids`."""

    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding

    @contextmanager
    def __call__(self, inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
        """Look up each row's own positions instead of one position for all."""
        positions_RK = inputs.write.positions_RK
        own: Callable[..., torch.Tensor] = type(self.embedding).forward
        embedding, shape = self.embedding, (*positions_RK.shape, -1)
        embedding.forward = lambda first, *args, **kwargs: own(embedding, first, position_ids=positions_RK).reshape(
            shape
        )
        try:
            yield {}
        finally:
            del embedding.forward


def positions_for(model: PreTrainedModel) -> Positions:
    """Return how `model` is told the positions of its rows.

    Raises:
        WheelsError: where its family offers no known way.
    """
    if (setting := _batch_variant(model)) is not None:
        raise _unknown(model, f"{setting} makes a row depend on more than its own past")
    if not model.config.is_encoder_decoder:
        if "position_ids" in inspect.signature(model.forward).parameters:
            return position_ids
        raise _unknown(model, "it takes no position_ids")
    decoder: Any = model.get_decoder()
    if hasattr(decoder, "block") and hasattr(decoder.block[0].layer[0], "SelfAttention"):
        return RelativeBias([block.layer[0].SelfAttention for block in decoder.block])
    embedding = getattr(decoder, "embed_positions", None)
    if embedding is not None and "position_ids" in inspect.signature(embedding.forward).parameters:
        return EmbeddedPositions(embedding)
    raise _unknown(model, "its decoder has neither a relative bias nor an embedding of positions that can be told")


def _batch_variant(model: PreTrainedModel) -> str | None:
    """Name the setting of `model` by which rows of a ragged batch affect each other; None: there is none.

    Windows and chunks mask by the length of the cache, some biases count distances from the mask, and an expert with a
    capacity drops the tokens that come last.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and (other := next((kind for kind in kinds if kind != "full_attention"), None)) is not None:
        return f"a layer of {other}"
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        return f"sliding_window={config.sliding_window}"
    for name in MECHANISMS:
        value = getattr(config, name, None)
        if value and value not in PLAIN_KINDS:
            return f"{name}={value!r}"
    attention = model.config._attn_implementation
    return None if attention in ATTENTION else f"attention {attention!r}, which reads no mask of its own for each row,"


def _unknown(model: PreTrainedModel, reason: str) -> WheelsError:
    return WheelsError(
        f"models of type {model.config.model_type!r} ({model.config.name_or_path or 'in memory'}) cannot be decoded: "
        f"{reason}; T5, Marian, BART, Llama, Qwen and GPT-2 models can"
    )
