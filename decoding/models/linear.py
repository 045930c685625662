"""Linear maps: weights laid out once, in the number format and the order that the kernels here like best.

A decode step multiplies a few rows with large weight matrices; at one row its time is the time to read them. In float32
torch's own product and oneDNN's with prepacked weights compete, and neither is faster everywhere: at one row prepacked
weights take half of the time on an EPYC with AVX-512, and twice as long on a Xeon. So both are timed for a matrix's
shape (`wheels.decoding.models.kernel_times`). Small matrices are left to torch.

In int8 the weights are whole numbers with a scale for each output, and each row of states is rounded with a scale of
its own: what a row becomes does not depend on its batch. In bfloat16 weights and states are rounded, and products are
summed in float32. Output heads are in int8 where the rest is, and in float32 beside bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch

from wheels.decoding.models.fixed_shape import in_company, is_rounded
from wheels.decoding.models.kernel_times import best_times
from wheels.errors import WheelsError

SMALLEST = {torch.float32: 65_536, torch.bfloat16: 1}
"""Weights that a matrix must have, by dtype, for prepacking to pay at any number of rows: a call has its cost."""
FEW, MANY = 1, 8
"""Rows of states that the ways to multiply in float32 are timed at: one, and for all numbers above."""
MARGIN = 0.9
"""Torch's own product is taken where it takes less than this part of the time: a matrix that is timed is in the cache,
and prepacked weights gain more where it is not."""
LEVELS = 127
"""Whole numbers on each side of 0 that a weight or a state in int8 can be."""
LEVELS_WITHOUT_VNNI = 64
"""Of weights where the processor adds products of two pairs in 16 bits, which overflow beyond."""
TINIEST = 1e-30
"""The scale of a row of zeros is this, and not 0."""

_kind: ContextVar[str] = ContextVar("weights", default="float32")


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
        own_NX = in_company(values_NX) if is_rounded(values_NX) else values_NX
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(own_NX, self.weight, self.bias_Y, "none", [], "")
        return product[: len(values_NX)]

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`."""
        if states_NY.dtype == torch.bfloat16:
            return states_NY + self(values_NX)
        binary = torch.ops.mkldnn._linear_pointwise.binary
        total: torch.Tensor = binary(values_NX, states_NY, self.weight, self.bias_Y, "add")
        return total


@dataclass(frozen=True)
class ByRowsLinear:
    """A linear map in float32 by the way that is faster for the number of rows; both have the same weights."""

    few: TorchLinear | PrepackedLinear
    many: TorchLinear | PrepackedLinear
    """For more than `FEW` rows."""

    def __call__(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`, `[N, Y]`."""
        return (self.few if len(values_NX) <= FEW else self.many)(values_NX)

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`."""
        return (self.few if len(values_NX) <= FEW else self.many).added(states_NY, values_NX)


@dataclass(frozen=True)
class Int8Linear:
    """A linear map of states in float32 with weights in int8: `x W^T` is about `(qx qW^T) * sx * sW`, in whole numbers.

    Symmetric, one scale for each output and for each row of states: `s = max |.| / 127`, `q = round(. / s)`. So for one
    output `|error| <= |x|_1 sW / 2 + |W|_1 sx / 2 + X sx sW / 4`. Dettmers et al. 2022 (LLM.int8), vector-wise
    quantization, without its columns of outliers.
    """

    weight_XY: torch.Tensor
    """int8, transposed."""
    scale_Y: torch.Tensor
    bias_Y: torch.Tensor | None = None

    @classmethod
    def of(cls, weight_YX: torch.Tensor, bias_Y: torch.Tensor | None = None) -> Int8Linear:
        """Round weights in float32."""
        scale_Y1 = weight_YX.abs().amax(-1, keepdim=True).clamp_(min=TINIEST) / int8_levels()
        return cls((weight_YX / scale_Y1).round_().to(torch.int8).t(), scale_Y1[:, 0], bias_Y)

    def __call__(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`, `[N, Y]`."""
        sums_NY = self._sums(values_NX)
        if self.bias_Y is None:
            return sums_NY.mul_(self.scale_Y)
        return torch.addcmul(self.bias_Y, sums_NY, self.scale_Y)

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`."""
        total_NY = torch.addcmul(states_NY, self._sums(values_NX), self.scale_Y)
        return total_NY if self.bias_Y is None else total_NY.add_(self.bias_Y)

    def _sums(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `(qx qW^T) * sx`, `[N, Y]`."""
        scale_N1 = values_NX.abs().amax(-1, keepdim=True).mul_(1 / LEVELS).clamp_(min=TINIEST)
        whole_NX = (values_NX / scale_N1).round_().to(torch.int8)
        return torch._int_mm(whole_NX, self.weight_XY).float().mul_(scale_N1)


@dataclass(frozen=True)
class BFloat16Linear:
    """A linear map of states in float32 with weights in bfloat16, prepacked by oneDNN; the sums are in float32."""

    weight: torch.Tensor
    bias_Y: torch.Tensor | None = None

    @classmethod
    def of(cls, weight_YX: torch.Tensor, bias_Y: torch.Tensor | None = None) -> BFloat16Linear:
        """Round weights in float32."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight_YX.bfloat16().contiguous()), bias_Y)

    def __call__(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`, `[N, Y]`."""
        product_NY = self._product(values_NX).float()
        return product_NY if self.bias_Y is None else product_NY.add_(self.bias_Y)

    def added(self, states_NY: torch.Tensor, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `states + x W^T + b`."""
        total_NY = states_NY + self._product(values_NX)
        return total_NY if self.bias_Y is None else total_NY.add_(self.bias_Y)

    def _product(self, values_NX: torch.Tensor) -> torch.Tensor:
        """Return `x W^T`, rounded to bfloat16, `[N, Y]`."""
        linear = torch.ops.mkldnn._linear_pointwise
        product: torch.Tensor = linear(in_company(values_NX.bfloat16()), self.weight, None, "none", [], "")
        return product[: len(values_NX)]


Linear = TorchLinear | PrepackedLinear | ByRowsLinear | Int8Linear | BFloat16Linear
"""`y = x W^T + b`; not all have a bias."""


@contextmanager
def weights_as(kind: str) -> Iterator[None]:
    """Let `make_linear` lay out a model's float32 weights as `kind`: `float32`, `int8` or `bfloat16`."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def make_linear(weight_YX: torch.Tensor, bias_Y: torch.Tensor | None = None) -> Linear:
    """Return the linear map with these weights, in the format that `weights_as` says."""
    kind = _kind.get()
    if kind == "int8":
        return Int8Linear.of(weight_YX, bias_Y)
    if kind == "bfloat16":
        return BFloat16Linear.of(weight_YX, bias_Y)
    plain = TorchLinear(weight_YX.t(), bias_Y)
    if not can_prepack(weight_YX):
        return plain
    packed = PrepackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight_YX.contiguous()), bias_Y)
    if weight_YX.dtype != torch.float32:
        return packed
    few, many = (plain if torch_is_faster(plain, packed, rows) else packed for rows in (FEW, MANY))
    return few if few is many else ByRowsLinear(few, many)


def output_head(weight_VD: torch.Tensor, bias_V: torch.Tensor | None = None) -> Linear:
    """Return the map to the logits. Beside bfloat16 it stays in float32: products rounded to 8 bits would tie."""
    if _kind.get() == "int8":
        return make_linear(weight_VD, bias_V)
    with weights_as("float32"):
        return make_linear(weight_VD, bias_V)


def torch_is_faster(plain: TorchLinear, packed: PrepackedLinear, rows: int) -> bool:
    """Tell whether torch's own product in float32 is the faster one for this many rows of states."""
    width, outputs = plain.weight_XY.shape
    values_NX = torch.zeros(rows, width)
    times = best_times(
        f"float32 {rows}x{width}x{outputs}",
        {"torch": lambda: plain(values_NX), "prepacked": lambda: packed(values_NX)},
    )
    return times["torch"] < MARGIN * times["prepacked"]


@cache
def int8_levels() -> int:
    """Return the largest weight in int8 whose products are exact here; processors without VNNI add them in 16 bits."""
    for levels in (LEVELS, LEVELS_WITHOUT_VNNI):
        most_NX, weight_YX = torch.full((8, 64), LEVELS), torch.full((16, 64), levels)
        expected_NY = most_NX @ weight_YX.t()
        if all(
            torch.equal(
                torch._int_mm((sign * most_NX).to(torch.int8), weight_YX.to(torch.int8).t()), sign * expected_NY
            )
            for sign in (1, -1)
        ):
            return levels
    raise WheelsError("products in int8 are wrong on this processor; use weights float32")


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
