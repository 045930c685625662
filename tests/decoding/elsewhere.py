"""A second device that every machine has: tensors that say they are elsewhere, with their numbers on the CPU.

An operation on tensors of both devices fails, as it does on a GPU. As there, one elsewhere takes indices of the CPU
and any takes single numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import PreTrainedModel

AWAY = torch.device("meta")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor on the second device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=AWAY,
        )  # fmt: skip
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """Return its numbers, as a tensor of a GPU does."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Within it, what is made on the device `AWAY` is made there."""

    def __enter__(self) -> SecondDevice:
        self.making = Making()
        self.making.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.making.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Making(TorchFunctionMode):
    """Tensors that are made of numbers are made here and brought there: the device `meta` would forget these."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.tensor and given.get("device") == AWAY:
            return func(*args, **{**given, "device": "cpu"}).to(AWAY)
        return func(*args, **given)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the device that the tensors are on."""
    of_device = args
    if func._schema.name in INDEXING and isinstance(args[0], Elsewhere):
        of_device = (args[0], *args[2:])
    flat = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    compared = [each for each in tree_flatten((of_device, kwargs))[0] if isinstance(each, torch.Tensor)]
    away = [each for each in flat if isinstance(each, Elsewhere)]
    if away and func not in COPIES and any(each.dim() and not isinstance(each, Elsewhere) for each in compared):
        raise RuntimeError(f"{func}: expected all tensors to be on one device")
    device = kwargs.get("device")
    goes_away = bool(away) if device is None else torch.device(device) == AWAY
    if func is torch.ops.aten.copy_.default:
        goes_away = isinstance(args[0], Elsewhere)
    inner_args, inner_kwargs = tree_map(
        lambda each: each.inner if isinstance(each, Elsewhere) else each, (args, kwargs)
    )
    if device is not None:
        inner_kwargs["device"] = torch.device("cpu")
    found = func(*inner_args, **inner_kwargs)
    known = {id(each.inner): each for each in away}

    def wrapped(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not goes_away:
            return each
        return known[id(each)] if id(each) in known else Elsewhere(each)

    return tree_map(wrapped, found)


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model on the second device."""
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            setattr(module, name, torch.nn.Parameter(Elsewhere(weight.detach()), requires_grad=False))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, Elsewhere(buffer.detach()))
    return model
