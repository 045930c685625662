"""A fast encoder: T5's in plain tensor operations, to the keys and values that its decoder attends to.

As `wheels.decoding.models.families.decoders`, which has the decoders; the projections of all decoder layers are one
product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from wheels.decoding.models.families.parts import joined, mask_of, normed, t5_attention, t5_biases, t5_feed_forward
from wheels.decoding.models.sources import CrossKeyValues, cross_projections


def among(all_RS3HE: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend from each token of a source to all of it, given queries, keys and values; return `[R x S, H x E]`."""
    query, keys, values = all_RS3HE.permute(2, 0, 3, 1, 4)
    seen_RHSE = F.scaled_dot_product_attention(query, keys, values, mask, scale=scale)
    return seen_RHSE.transpose(1, 2).reshape(all_RS3HE.shape[0] * all_RS3HE.shape[1], -1)


def padding_mask(seen_RS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a source goes on and minus infinity at its padding, `[R, 1, 1, S]`."""
    return mask_of(seen_RS[:, None, None].bool(), dtype)


class AllLayers:
    """The projections of an encoder's states in every layer of the decoder, as one linear map."""

    def __init__(self, model: Any) -> None:
        layers: list[Any] = cross_projections(model)
        self.layers, self.head_dim = len(layers), layers[0].head_dim
        self.linear = joined(*(part for each in layers for part in (each.key, each.value)))

    def __call__(self, states_ND: torch.Tensor, rows: int) -> CrossKeyValues:
        """Return keys and values of each layer, `[R, H, S, E]`; the states are those of R sources of one length."""
        all_NX = self.linear(states_ND)
        shape = (rows, len(states_ND) // rows, 2 * self.layers, -1, self.head_dim)
        parts = all_NX.view(shape).permute(2, 0, 3, 1, 4).unbind()
        return list(zip(parts[::2], parts[1::2], strict=True))


class FastT5Encoder:
    """The encoder of T5, and the projections of its states in every layer of the decoder."""

    def __init__(self, model: Any) -> None:
        encoder = model.encoder
        first = encoder.block[0].layer[0].SelfAttention
        self.eps, self.head_dim = float(encoder.final_layer_norm.variance_epsilon), int(first.key_value_proj_dim)
        self.heads, self.scale = int(first.n_heads), float(first.scaling)
        self.embedding_VD = encoder.embed_tokens.weight.detach()
        self.final_norm_D = encoder.final_layer_norm.weight.detach()
        self.layers = [(t5_attention(block.layer[0]), t5_feed_forward(block.layer[1])) for block in encoder.block]
        self.project = AllLayers(model)
        limit = int(first.relative_attention_max_distance)
        relative_T = torch.arange(-limit, limit + 1, device=self.embedding_VD.device)
        self.bias_HT = t5_biases(first, relative_T, bidirectional=True)
        self.bias_1HSS = self._bias(1)

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right; return keys and values of each decoder layer, `[R, H, S, E]`."""
        rows, length = ids_RS.shape
        states_ND = F.embedding(ids_RS.flatten(), self.embedding_VD)
        if length > self.bias_1HSS.shape[-1]:
            self.bias_1HSS = self._bias(2 * length)
        mask = self.bias_1HSS[..., :length, :length] + padding_mask(seen_RS, states_ND.dtype)
        for attention, feed_forward in self.layers:
            all_NX = attention.into(normed(states_ND, attention.norm_D, self.eps))
            seen_NX = among(all_NX.view(rows, length, 3, self.heads, self.head_dim), mask, self.scale)
            states_ND = attention.out.added(states_ND, seen_NX)
            states_ND = feed_forward.add_to(states_ND, self.eps)
        return self.project(normed(states_ND, self.final_norm_D, self.eps), rows)

    def _bias(self, length: int) -> torch.Tensor:
        """Return what is added to the scores of attention by the distance of key and query, `[1, H, S, S]`."""
        place_S, limit = torch.arange(length, device=self.bias_HT.device), self.bias_HT.shape[1] // 2
        return self.bias_HT[:, (place_S - place_S[:, None]).clamp(-limit, limit) + limit][None]
