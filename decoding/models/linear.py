"""Linear maps with prepacked weights: laid out once in the order in which the CPU's kernels read them.

A decode step multiplies a few rows with large weight matrices, and torch lays a matrix out anew for every product on a
CPU. oneDNN prepacks it once: on an EPYC with AVX-512 and two threads, 640 numbers to 3,456, 8 rows take 0.28 of the
time in float32 and 0.44 in bfloat16, 1 row 0.49 and 0.44 (`wheels bench speed` times whole passes of both kinds).
Without oneDNN, and for small matrices, torch's own product remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SMALLEST = {torch.float32: 65_536, torch.bfloat16: 1}
"""Weights that a matrix must have, by dtype, for prepacking to pay at one row: below, the call costs more."""


@dataclass(frozen=True)
class TorchLinear:
    """A linear map by torch's own matrix product."""

    weight_XY: torch.Tensor
    """Transposed: a row of states is multiplied from the left."""
    bias_Y: torch.Tensor | None = None

    def __call__(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`, `[N, Y]`."""
        if self.bias_Y is None:
            return values_NX @ self.weight_XY
        return torch.addmm(self.bias_Y, values_NX, self.weight_XY)

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`; bfloat16 is rounded before the sum, as the library does."""
        if states_NY.dtype == torch.bfloat16 or self.bias_Y is not None:
            return states_NY + self(values_NX)
        return torch.addmm(states_NY, values_NX, self.weight_XY)


@dataclass(frozen=True)
class PrepackedLinear:
    """A linear map by oneDNN, with weights that it prepacked."""

    weight: torch.Tensor
    bias_Y: torch.Tensor | None = None

    def __call__(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`, `[N, Y]`."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values_NX, self.weight, self.bias_Y, "none", [], "")
        return product

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`."""
        if states_NY.dtype == torch.bfloat16:
            return states_NY + self(values_NX)
        binary = torch.ops.mkldnn._linear_pointwise.binary
        total: torch.Tensor = binary(values_NX, states_NY, self.weight, self.bias_Y, "add")
        return total


Linear = TorchLinear | PrepackedLinear
"""`y = x W^T + b`; not all have a bias."""


def make_linear(weight_YX: torch.Tensor, bias_Y: torch.Tensor | None = None) -> Linear:
    """Return the linear map with these weights."""
    if can_prepack(weight_YX):
        return PrepackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight_YX.contiguous()), bias_Y)
    return TorchLinear(weight_YX.t(), bias_Y)


def can_prepack(weight_YX: torch.Tensor) -> bool:
    """Tell whether oneDNN can prepack a matrix here, and whether that pays."""
    least = SMALLEST.get(weight_YX.dtype)
    if weight_YX.device.type != "cpu" or least is None or weight_YX.numel() < least:
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return weight_YX.dtype != torch.bfloat16 or multiplies_bfloat16()


def multiplies_bfloat16() -> bool:
    """Tell whether oneDNN multiplies bfloat16 here; without AVX-512 it converts every number first."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
