"""What the library's layers are told for the time of one pass: windows of attention, experts without a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.models.families import layer_windows

UNLIMITED = 2**62


class Windows:
    """The decoder layers of a model whose attention sees a window of a row's past.

    The library makes their mask from the length of its cache, one for all rows; given a mask of four axes it takes this
    for all layers. So their attention is given its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        sizes = layer_windows(model.config)
        self.layers: list[tuple[torch.nn.Module, int]] = []
        if any(sizes):
            decoder: Any = model.get_decoder()
            self.layers = [
                (layer.self_attn, size) for layer, size in zip(decoder.layers, sizes, strict=True) if size is not None
            ]

    @contextmanager
    def __call__(self, mask_of: Callable[[int], torch.Tensor]) -> Iterator[None]:
        """Give these layers the mask of their window for the time of one forward pass.

        Args:
            mask_of: Makes the mask of a size, in positions.
        """
        masks = {size: mask_of(size) for size in {size for _, size in self.layers}}
        handles = [
            layer.register_forward_pre_hook(partial(_replaced, masks[size]), with_kwargs=True)
            for layer, size in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _replaced(
    mask: torch.Tensor, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the mask of a window in place of the one that a layer was given."""
    if "attention_mask" not in kwargs:
        raise TypeError(f"{type(module).__name__} takes its mask under another name")
    return args, kwargs | {"attention_mask": mask.to(kwargs["attention_mask"].device)}


def routers_of(model: PreTrainedModel) -> list[Any]:
    """Return the routers of a decoder whose experts take so many tokens of a pass and drop the others (Switch)."""
    decoder: Any = model.get_decoder()
    return [module for module in decoder.modules() if hasattr(module, "expert_capacity")]


@contextmanager
def unlimited(routers: list[Any]) -> Iterator[None]:
    """Drop no token: `generate` reads the texts token by token, where no expert ever has too many."""
    before = [router.expert_capacity for router in routers]
    try:
        for router in routers:
            router.expert_capacity = UNLIMITED
        yield
    finally:
        for router, capacity in zip(routers, before, strict=True):
            router.expert_capacity = capacity
