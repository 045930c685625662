"""Training stops at numbers that are not finite; the error names what and at which step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from wheels.errors import WheelsError

if TYPE_CHECKING:
    import torch

ADVICE = "lower the learning rate, or look for rows and models that are out of the ordinary"


def check_finite(step: str, figures: Mapping[str, float], advice: str = ADVICE) -> None:
    """Check the numbers of a step.

    Args:
        step: names it, such as `step 12`.
        figures: numbers by name.
        advice: what to do.

    Raises:
        WheelsError: naming the step and the first of the figures that is nan or infinite.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise WheelsError(f"{step}: the {name} is {value}, no finite number; {advice}")


def check_weights(model: torch.nn.Module, step: str, advice: str = ADVICE) -> None:
    """Check every parameter of a model, as `check_finite` does."""
    if (name := not_finite(model)) is not None:
        weight = model.get_parameter(name)
        check_finite(step, {f"weight {name}": float(weight.detach().abs().max())}, advice)


def not_finite(model: torch.nn.Module) -> str | None:
    """Return the name of the first parameter of a model that holds inf or nan; None where all are numbers."""
    for name, weight in model.named_parameters():
        for part in plain_parts(weight.detach()):
            if part.is_meta or not part.is_floating_point():  # what is on disk is read in each pass
                continue
            # A sum is read at the speed of memory; it is finite wherever no weight is inf or nan, unless it overflows.
            if not bool(part.sum().isfinite()) and not bool(part.isfinite().all()):
                return name
    return None


def plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield what a tensor is made of: itself, or the numbers and scales of one that was rounded (torchao).

    One in shards stays whole: all processes must come to the same answer.
    """
    in_shards = type(tensor).__module__.startswith("torch.distributed")
    if in_shards or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from plain_parts(getattr(tensor, name))
