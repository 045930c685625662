"""The shape contract of a pure function: its first statement, and an error that names both sides."""

from __future__ import annotations

import torch


def check_shapes(axes: str | None, **tensors: torch.Tensor | None) -> None:
    """Check that the tensors have one shape, an axis for each letter of `axes` (None: any number); None is skipped.

    Raises:
        ValueError: naming both tensors and both shapes.
    """
    first: tuple[str, torch.Size] | None = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if axes is not None and tensor.ndim != len(axes):
            raise ValueError(f"{name} must have axes [{', '.join(axes)}], got shape {tuple(tensor.shape)}")
        if first is None:
            first = (name, tensor.shape)
        elif tensor.shape != first[1]:
            raise ValueError(f"{name} must have the shape of {first[0]}, {tuple(first[1])}, got {tuple(tensor.shape)}")
