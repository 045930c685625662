"""Linear maps by oneDNN and by torch, against a product in float64; what is packed, and what is not."""

import pytest
import torch

from wheels.decoding.models import linear
from wheels.decoding.models.linear import PrepackedLinear, TorchLinear, can_prepack, make_linear

ROWS = (1, 3, 40)
packs_float32 = pytest.mark.skipif(not can_prepack(torch.empty(256, 256)), reason="there is no oneDNN here")
packs_bfloat16 = pytest.mark.skipif(
    not can_prepack(torch.empty(8, 8, dtype=torch.bfloat16)), reason="oneDNN does not multiply bfloat16 here"
)


def maps(
    dtype: torch.dtype, bias_Y: torch.Tensor | None = None
) -> tuple[list[TorchLinear | PrepackedLinear], torch.Tensor]:
    """Return the same map in both forms, and its weights."""
    weight_YX = torch.randn(48, 48).to(dtype)
    packed = make_linear(weight_YX, bias_Y)
    assert isinstance(packed, PrepackedLinear)
    return [packed, TorchLinear(weight_YX.t(), bias_Y)], weight_YX


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [pytest.param(torch.float32, 1e-6, marks=packs_float32), pytest.param(torch.bfloat16, 8e-3, marks=packs_bfloat16)],
)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_both_multiply(
    dtype: torch.dtype, bound: float, rows: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "SMALLEST", dict.fromkeys((torch.float32, torch.bfloat16), 1))
    bias_Y = 10 * torch.randn(48).to(dtype) if biased else None
    both, weight_YX = maps(dtype, bias_Y)
    values_NX, states_NY = torch.randn(rows, 48).to(dtype), torch.randn(rows, 48).to(dtype)
    product = values_NX.double() @ weight_YX.double().t() + (0 if bias_Y is None else bias_Y.double())
    for each in both:
        output, added = each(values_NX), each.added(states_NY, values_NX)
        assert output.dtype == added.dtype == dtype
        assert (output.double() - product).abs().max() <= bound * product.abs().max()
        total = states_NY.double() + product
        assert (added.double() - total).abs().max() <= 2 * bound * total.abs().max()
        assert not torch.equal(output, added)


@packs_bfloat16
def test_bfloat16_is_rounded_before_it_is_added() -> None:
    """As the library does: the sum of a rounded product, not a rounded sum."""
    both, _ = maps(torch.bfloat16)
    values_NX, states_NY = torch.randn(40, 48).bfloat16(), torch.randn(40, 48).bfloat16()
    for each in both:
        assert torch.equal(each.added(states_NY, values_NX), states_NY + each(values_NX))
    fused = (states_NY.float() + both[1](values_NX.float().bfloat16()).float()).bfloat16()
    unrounded = (states_NY.double() + values_NX.double() @ both[1].weight_XY.double()).bfloat16()
    assert torch.equal(fused, both[1].added(states_NY, values_NX)) and not torch.equal(fused, unrounded)


@pytest.mark.parametrize("multiplies", [True, False])
@pytest.mark.parametrize(
    ("shape", "dtype", "packed"),
    [
        ((256, 256), torch.float32, "always"),
        ((255, 256), torch.float32, "never"),
        ((8, 8), torch.bfloat16, "where multiplied"),
        ((512, 512), torch.float64, "never"),
        ((512, 512), torch.float16, "never"),
    ],
)
def test_what_pays_is_packed(
    shape: tuple[int, int], dtype: torch.dtype, packed: str, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any processor: whether it multiplies bfloat16 is switched."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(linear, "multiplies_bfloat16", lambda: multiplies)
    expected = packed == "always" or (packed == "where multiplied" and multiplies)
    assert can_prepack(torch.randn(shape).to(dtype)) is expected


def test_the_choice_is_the_form() -> None:
    for shape in ((256, 256), (255, 256)):
        weight_YX = torch.randn(shape)
        assert isinstance(make_linear(weight_YX), PrepackedLinear if can_prepack(weight_YX) else TorchLinear)


def test_without_onednn_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight_YX = torch.randn(300, 300)
    made = make_linear(weight_YX)
    assert isinstance(made, TorchLinear)
    torch.testing.assert_close(made(torch.ones(2, 300)), weight_YX.sum(1).expand(2, -1), rtol=1e-4, atol=1e-4)


@packs_float32
def test_a_packed_map_does_not_see_later_changes() -> None:
    weight_YX = torch.randn(300, 300)
    made, values_NX = make_linear(weight_YX), torch.randn(2, 300)
    before = made(values_NX)
    weight_YX.zero_()
    assert torch.equal(made(values_NX), before)
