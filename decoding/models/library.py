"""The library's own forward pass over a ragged batch: for families without a fast path, and in training mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from wheels.decoding.models.cache import RaggedCache, cache_argument
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep, padded
from wheels.decoding.models.masks import Windows, routers_of, unlimited
from wheels.decoding.models.packing import Packing, configs_of, has_attention_interface, packed_attention
from wheels.decoding.models.positions import positions_for
from wheels.decoding.models.sources import Encoder, LibraryEncoder
from wheels.models.devices import device_of


class LibraryForward:
    """Calls `model` with 4-D masks and each row's own positions.

    Args:
        model: A sequence-to-sequence or causal language model.

    Raises:
        WheelsError: where the model's family cannot be decoded at ragged lengths.
    """

    name = "transformers"
    kind = "decode"
    encoder_kind = "encode"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.positions = positions_for(model)
        plain = getattr(model, "_hf_hook", None) is None  # accelerate carries arguments, and no packing
        self.packs = plain and model.config._attn_implementation == "sdpa" and has_attention_interface(model)
        self.configs = configs_of(model)
        self.windows = Windows(model)
        self.routers = routers_of(model)
        self.encoder: Encoder | None = LibraryEncoder(model) if model.config.is_encoder_decoder else None
        self._cache_name = cache_argument(type(model))
        width = model.config.get_text_config().hidden_size
        self._no_states = torch.zeros(1, 1, width, dtype=model.dtype, device=device_of(model))

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the new tokens; return logits and hidden states where they are kept, `[R, W, V]` and `[R, W, D]`."""
        if inputs.packing is not None and not self.packs:
            tokens_RK, inputs, keep = padded(tokens_RK, inputs, keep)
        positions_RK, packing = inputs.positions_RK, inputs.packing
        key_L = torch.arange(inputs.visible, device=positions_RK.device)
        arguments: dict[str, object] = {
            self._cache_name: cache.prepare(inputs.write, source_visible=inputs.source_visible)
        }
        seen_RKL = key_L <= positions_RK[:, :, None]
        mask = self._mask(seen_RKL, packing)
        if self.encoder is None:
            arguments |= {"input_ids": tokens_RK, "attention_mask": mask}
        else:
            arguments |= {"decoder_input_ids": tokens_RK, "decoder_attention_mask": mask, **self._sources(inputs)}
        with ExitStack() as context:
            if packing is not None:
                context.enter_context(packed_attention(self.configs, packing))
            context.enter_context(
                self.windows(lambda size: self._mask(seen_RKL & (key_L > positions_RK[:, :, None] - size), packing))
            )
            context.enter_context(unlimited(self.routers))
            extra = context.enter_context(self.positions(inputs))
            read = context.enter_context(_head_reads(self.model, keep))
            logits_RWV = self.model(**arguments, **extra, use_cache=True).logits
        return logits_RWV.to(tokens_RK.device), read[0]

    def _sources(self, inputs: AttentionInputs) -> dict[str, object]:
        """Return the arguments by which the decoder sees the sources."""
        rows, visible = len(inputs.rows), inputs.source_visible
        seen_RS = inputs.source_seen()
        if seen_RS is None:
            seen_RS = torch.ones(rows, visible, dtype=torch.bool, device=self._no_states.device)
        # Some families take no mask that is the same for all of a row's tokens.
        seen_RKS = seen_RS[:, None] if inputs.packing else seen_RS[:, None].expand(-1, inputs.positions_RK.shape[1], -1)
        return {
            # Only its shape is read: the layers attend to what is in the cache. This class has every family's names.
            "encoder_outputs": MoeModelOutputWithPast(self._no_states.expand(rows, visible, -1)),
            "attention_mask": self._mask(seen_RKS, inputs.packing),
        }

    def _mask(self, allowed_RKL: torch.Tensor, packing: Packing | None) -> torch.Tensor:
        """Return the 4-D mask as the model's attention reads it: True = attend, or 0 = attend."""
        allowed = allowed_RKL[:, None]
        if packing is not None or self.model.config._attn_implementation == "sdpa":
            return allowed
        dtype = self.model.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )


@contextmanager
def _head_reads(model: PreTrainedModel, keep: LogitsToKeep) -> Iterator[list[torch.Tensor]]:
    """Let the output head read only the positions that are kept; yield a list to which these states are added."""
    read: list[torch.Tensor] = []

    def select(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        read.append(keep.select(inputs[0].to(keep.inputs.positions_RK.device)))
        return (read[-1],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield read
    finally:
        handle.remove()
