"""Linear maps of every kind against a product in float64; what is packed, and what is not; the bounds of rounding."""

import pytest
import torch

from wheels.decoding.models import linear
from wheels.decoding.models.linear import (
    LEVELS,
    BFloat16Linear,
    ByRowsLinear,
    Int8Linear,
    PrepackedLinear,
    TorchLinear,
    can_prepack,
    make_linear,
    weights_as,
)
from wheels.errors import WheelsError

ROWS = (1, 3, 40)
packs_float32 = pytest.mark.skipif(not can_prepack(torch.empty(256, 256)), reason="there is no oneDNN here")
packs_bfloat16 = pytest.mark.skipif(
    not can_prepack(torch.empty(8, 8, dtype=torch.bfloat16)), reason="oneDNN does not multiply bfloat16 here"
)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Say which product is the faster one, by rows: `torch` or `prepacked`, which it is where nothing is said."""
    faster: dict[int, str] = {}
    monkeypatch.setattr(linear, "torch_is_faster", lambda plain, packed, rows: faster.get(rows) == "torch")
    return faster


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
    dtype: torch.dtype,
    bound: float,
    rows: int,
    biased: bool,
    times: dict[int, str],
    monkeypatch: pytest.MonkeyPatch,
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


@packs_float32
@pytest.mark.parametrize("one", ["torch", "prepacked"])
@pytest.mark.parametrize("many", ["torch", "prepacked"])
def test_each_number_of_rows_is_multiplied_by_what_was_faster(one: str, many: str, times: dict[int, str]) -> None:
    times |= {linear.FEW: one, linear.MANY: many}
    forms = {"torch": TorchLinear, "prepacked": PrepackedLinear}
    made = make_linear(torch.randn(256, 256))
    if one == many:
        assert isinstance(made, forms[one])
        return
    assert isinstance(made, ByRowsLinear) and isinstance(made.few, forms[one]) and isinstance(made.many, forms[many])
    for rows in (1, 2, 9):
        values_NX, states_NY = torch.randn(rows, 256), torch.randn(rows, 256)
        by = made.few if rows == 1 else made.many
        assert torch.equal(made(values_NX), by(values_NX))
        assert torch.equal(made.added(states_NY, values_NX), by.added(states_NY, values_NX))


@packs_float32
def test_prepacked_weights_are_the_rule_and_torchs_product_has_to_be_much_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seconds, expected in ((0.95, PrepackedLinear), (0.85, TorchLinear)):
        monkeypatch.setattr(linear, "best_times", lambda name, runs, s=seconds: {"torch": s, "prepacked": 1.0})
        assert isinstance(make_linear(torch.randn(256, 256)), expected)


@packs_float32
def test_what_is_too_small_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "best_times", lambda name, runs: dict.fromkeys(runs, 1.0) | {"torch": 2.0})
    assert isinstance(make_linear(torch.randn(256, 256)), PrepackedLinear)
    assert isinstance(make_linear(torch.randn(255, 256)), TorchLinear)


def test_without_onednn_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight_YX = torch.randn(300, 300)
    made = make_linear(weight_YX)
    assert isinstance(made, TorchLinear)
    torch.testing.assert_close(made(torch.ones(2, 300)), weight_YX.sum(1).expand(2, -1), rtol=1e-4, atol=1e-4)


@packs_float32
def test_a_packed_map_does_not_see_later_changes(times: dict[int, str]) -> None:
    weight_YX = torch.randn(300, 300)
    made, values_NX = make_linear(weight_YX), torch.randn(2, 300)
    before = made(values_NX)
    weight_YX.zero_()
    assert torch.equal(made(values_NX), before)


def int8_bound(weight_YX: torch.Tensor, values_NX: torch.Tensor, levels: int) -> torch.Tensor:
    """Return the largest error that rounding to int8 can make, `[N, Y]`; see `Int8Linear`."""
    scale_Y = weight_YX.double().abs().amax(1) / levels
    scale_N1 = values_NX.double().abs().amax(1, keepdim=True) / LEVELS
    by_weights_NY = values_NX.double().abs().sum(1, keepdim=True) * scale_Y / 2
    by_states_NY = scale_N1 * weight_YX.double().abs().sum(1) / 2
    return by_weights_NY + by_states_NY + weight_YX.shape[1] * scale_N1 * scale_Y / 4


@pytest.mark.parametrize("levels", [127, 64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_int8_is_off_by_rounding_alone(rows: int, biased: bool, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if levels > linear.int8_levels():
        pytest.skip("products of so many levels overflow on this processor")
    monkeypatch.setattr(linear, "int8_levels", lambda: levels)
    weight_YX = torch.randn(48, 80) * torch.logspace(-3, 0, 48)[:, None]
    values_NX, states_NY = torch.randn(rows, 80) * 3, torch.randn(rows, 48)
    values_NX[:, 7] *= 20  # an outlier, as trained models have them
    bias_Y = torch.randn(48) if biased else None
    with weights_as("int8"):
        made = make_linear(weight_YX, bias_Y)
    assert isinstance(made, Int8Linear) and made.weight_XY.dtype == torch.int8
    assert int(made.weight_XY.abs().max()) == levels
    product = values_NX.double() @ weight_YX.double().t() + (0 if bias_Y is None else bias_Y.double())
    bound_NY = int8_bound(weight_YX, values_NX, levels) + 1e-4
    output, added = made(values_NX), made.added(states_NY, values_NX)
    error_NY = (output - product).abs()
    assert (error_NY <= bound_NY).all() and ((added - states_NY - product).abs() <= bound_NY).all()
    assert error_NY.mean() > 1e-3 * product.abs().mean(), "it is rounded"
    # The negative control: one scale for the whole matrix is too coarse for outputs with small weights.
    coarse_YX = (weight_YX / weight_YX.abs().max() * levels).round() * weight_YX.abs().max() / levels
    assert ((values_NX @ coarse_YX.t() + (0 if bias_Y is None else bias_Y) - product).abs() > bound_NY).any()


def test_in_int8_a_row_does_not_depend_on_its_batch() -> None:
    """To the last bit: each row of states has its own scale, and the sums are of whole numbers."""
    weight_YX, bias_Y = torch.randn(96, 72), torch.randn(96)
    with weights_as("int8"):
        made = make_linear(weight_YX, bias_Y)
    values_NX, states_NY = torch.randn(40, 72), torch.randn(40, 96)
    values_NX[3] *= 100
    values_NX[5] = 0
    whole = made(values_NX), made.added(states_NY, values_NX)
    for row in range(40):
        one = slice(row, row + 1)
        assert torch.equal(made(values_NX[one]), whole[0][one])
        assert torch.equal(made.added(states_NY[one], values_NX[one]), whole[1][one])
    assert torch.equal(whole[0][5], bias_Y), "and zeros stay zeros"


def test_products_in_int8_are_exact_here() -> None:
    """Of the largest weights that are used, where the sums are largest."""
    levels = linear.int8_levels()
    assert levels in (linear.LEVELS, linear.LEVELS_WITHOUT_VNNI)
    weight_YX = torch.full((32, 512), float(levels))
    with weights_as("int8"):
        made = make_linear(weight_YX)
    for sign in (1.0, -1.0):
        output = made(torch.full((4, 512), sign))
        torch.testing.assert_close(output, torch.full((4, 32), sign * levels * 512), rtol=1e-6, atol=0.0)


def test_wrong_products_in_int8_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch._int_mm
    most = 127 * 64 * 64  # what 64 products of weights of at most 64 add up to
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: exact(left, right).clamp(max=most))
    linear.int8_levels.cache_clear()
    assert linear.int8_levels() == linear.LEVELS_WITHOUT_VNNI
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: exact(left, right).clamp(max=99))
    linear.int8_levels.cache_clear()
    with pytest.raises(WheelsError, match="use weights float32"):
        linear.int8_levels()
    linear.int8_levels.cache_clear()


@packs_bfloat16
@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_weights_are_off_by_their_rounding(biased: bool) -> None:
    weight_YX, bias_Y = torch.randn(48, 80), torch.randn(48) if biased else None
    values_NX, states_NY = torch.randn(9, 80), torch.randn(9, 48)
    with weights_as("bfloat16"):
        made = make_linear(weight_YX, bias_Y)
    assert isinstance(made, BFloat16Linear)
    product = values_NX.double() @ weight_YX.double().t() + (0 if bias_Y is None else bias_Y.double())
    bound_NY = 2.0**-8 * (2.01 * values_NX.double().abs() @ weight_YX.double().abs().t() + product.abs()) + 1e-4
    output, added = made(values_NX), made.added(states_NY, values_NX)
    assert output.dtype == added.dtype == torch.float32
    assert ((output - product).abs() <= bound_NY).all() and ((added - states_NY - product).abs() <= bound_NY).all()
    assert (output - product).abs().mean() > 1e-4 * product.abs().mean(), "it is rounded"
