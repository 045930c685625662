"""Path consistency: residuals and losses by hand, and the fast residuals beside the obvious ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from wheels.policy import path_consistency as paths
from wheels.shapes import check_shapes


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def mask(*lengths: int, steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


def residuals(
    value_t: torch.Tensor, u_t: torch.Tensor, bootstrap_B: torch.Tensor, gamma: float, mask_BT: torch.Tensor
) -> torch.Tensor:
    """Return `C(i, j)` of every pair of states of every row: `[B, T+1, T+1]`, at `i < j <= n`, 0 elsewhere.

    The obvious path beside the two fast ones; memory grows with T^3.
    """
    check_shapes("BT", value_t=value_t, u_t=u_t, mask_BT=mask_BT)
    check_shapes("B", bootstrap_B=bootstrap_B)
    steps = u_t.shape[1]
    length_B1 = mask_BT.long().sum(1, keepdim=True)
    state_S = torch.arange(steps + 1)
    value_BS = torch.where(state_S == length_B1, bootstrap_B[:, None], F.pad(value_t, (0, 1)))
    i, j, t = state_S[:, None, None], state_S[None, :, None], state_S[None, None, :-1]
    inside_IJT = (i <= t) & (t < j)
    weight_IJT = torch.where(inside_IJT, u_t.new_tensor(gamma) ** (t - i).clamp(min=0), 0.0)
    discount_IJ = u_t.new_tensor(gamma) ** (state_S - state_S[:, None]).clamp(min=0)
    sum_BIJ = torch.einsum("ijt,bt->bij", weight_IJT, u_t)
    residual_BIJ = -value_BS[:, :, None] + sum_BIJ + discount_IJ * value_BS[:, None, :]
    valid_BIJ = (state_S > state_S[:, None]) & (state_S <= length_B1[:, :, None])
    return torch.where(valid_BIJ, residual_BIJ, 0.0)


VALUE = tensor([1.0, 2.0, 4.0], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0])
REWARD = tensor([0.5, -1.0, 3.0], [-2.0, 9.0, 9.0], [9.0, 9.0, 9.0])
LENGTHS = mask(3, 1, 0, steps=3)
BOOTSTRAP = torch.tensor([8.0, 4.0, 9.0], dtype=torch.float64)


def test_time_of_rows_of_length_three_one_and_none() -> None:
    assert paths.last_step(LENGTHS).tolist() == [[False, False, True], [True, False, False], [False] * 3]
    assert paths.steps_to_end(LENGTHS).tolist() == [[3, 2, 1], [1, 0, 0], [0, 0, 0]]
    assert paths.next_values(VALUE, BOOTSTRAP, LENGTHS)[0].tolist() == [2.0, 4.0, 8.0]
    assert paths.next_values(VALUE, BOOTSTRAP, LENGTHS)[1, 0] == 4.0


@pytest.mark.parametrize(
    ("gamma", "single", "suffix"),
    [
        (1.0, [[1.5, 1.0, 7.0], [1.0, 0, 0], [0, 0, 0]], [[9.5, 8.0, 7.0], [1.0, 0, 0], [0, 0, 0]]),
        (0.5, [[0.5, -1.0, 3.0], [-1.0, 0, 0], [0, 0, 0]], [[0.75, 0.5, 3.0], [-1.0, 0, 0], [0, 0, 0]]),
        (0.0, [[-0.5, -3.0, -1.0], [-3.0, 0, 0], [0, 0, 0]], [[-0.5, -3.0, -1.0], [-3.0, 0, 0], [0, 0, 0]]),
    ],
)
def test_residuals_by_hand(gamma: float, single: list[list[float]], suffix: list[list[float]]) -> None:
    following = paths.next_values(VALUE, BOOTSTRAP, LENGTHS)
    assert paths.single_step_residuals(VALUE, following, REWARD, gamma, LENGTHS).tolist() == single
    assert paths.suffix_residuals(VALUE, REWARD, BOOTSTRAP, gamma, LENGTHS).tolist() == suffix


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [(4, 2, 1, 0), (4, 4, 4, 4), (0, 0, 0, 0)])
def test_the_fast_residuals_are_entries_of_all_pairs(gamma: float, lengths: tuple[int, ...]) -> None:
    value, reward = torch.randn(2, 4, 4, dtype=torch.float64)
    boot, real = torch.randn(4, dtype=torch.float64), mask(*lengths, steps=4)
    pairs = residuals(value, reward, boot, gamma, real)
    single = paths.single_step_residuals(value, paths.next_values(value, boot, real), reward, gamma, real)
    suffix = paths.suffix_residuals(value, reward, boot, gamma, real)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(single[row], pairs[row].diagonal(1))
        torch.testing.assert_close(suffix[row, :length], pairs[row, :length, length])
        assert not suffix[row, length:].any()
        assert int((pairs[row] != 0).sum()) == length * (length + 1) // 2


def test_no_steps_and_no_rows() -> None:
    for rows, steps in [(2, 0), (0, 3), (0, 0)]:
        empty, boot, real = torch.zeros(rows, steps), torch.zeros(rows), torch.zeros(rows, steps, dtype=torch.bool)
        single = paths.single_step_residuals(empty, paths.next_values(empty, boot, real), empty, 1.0, real)
        suffix = paths.suffix_residuals(empty, empty, boot, 1.0, real)
        assert single.shape == suffix.shape == paths.path_terms(single, suffix, real).shape == (rows, steps)


def test_padding_is_never_read() -> None:
    value, reward = VALUE.clone(), REWARD.clone()
    value[~LENGTHS], reward[~LENGTHS] = math.nan, math.inf
    suffix = paths.suffix_residuals(value, reward, BOOTSTRAP, 1.0, LENGTHS)
    single = paths.single_step_residuals(value, paths.next_values(value, BOOTSTRAP, LENGTHS), reward, 1.0, LENGTHS)
    for residual in (suffix, single):
        assert residual[~LENGTHS].tolist() == [0.0] * 5 and torch.isfinite(residual).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[(9 + 36) / 4, (1 + 16) / 4], [4 / 4, 0]]),
        ({"by_length": True}, [[(9 + 9) / 4, (1 + 16) / 4], [4 / 4, 0]]),
        ({"clip": 2.0}, [[(2 * (3 - 1) + 2 * (6 - 1)) / 2, (0.5 + 2 * (4 - 1)) / 2], [2 / 2, 0]]),
    ],
)
def test_the_loss_of_each_step_by_hand(options: dict[str, float], expected: list[list[float]]) -> None:
    single, suffix = tensor([3.0, -1.0], [2.0, 50.0]), tensor([6.0, 4.0], [0.0, 50.0])
    assert paths.path_terms(single, suffix, mask(2, 1, steps=2), **options).tolist() == expected


def test_clip_bounds_the_gradient_and_nothing_else() -> None:
    residual = torch.tensor([-7.0, -1.0, 0.0, 1.5, 40.0], requires_grad=True)
    paths.half_square(residual, clip=2.0).sum().backward()
    assert residual.grad.tolist() == [-2.0, -1.0, 0.0, 1.5, 2.0]


def test_the_future_of_a_suffix_gets_no_gradient() -> None:
    def first_suffix(fast: bool) -> tuple[float, list[float], list[float]]:
        value, reward = VALUE[:1].clone().requires_grad_(), REWARD[:1].clone().requires_grad_()
        of = paths.suffix_residuals if fast else residuals
        first = of(value, reward, BOOTSTRAP[:1], 0.5, LENGTHS[:1])[0, 0]
        first = first if fast else first[3]
        first.backward()
        return first.item(), value.grad[0].tolist(), reward.grad[0].tolist()

    assert first_suffix(fast=True) == (0.75, [-1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    assert first_suffix(fast=False) == (0.75, [-1.0, 0.0, 0.0], [1.0, 0.5, 0.25])


def test_shapes_are_a_contract() -> None:
    with pytest.raises(ValueError, match=r"u_t must have the shape of value_t, \(3, 3\), got \(3, 2\)"):
        paths.suffix_residuals(VALUE, REWARD[:, :2], BOOTSTRAP, 1.0, LENGTHS)
    with pytest.raises(ValueError, match=r"value_t must have axes \[B, T\], got shape \(3,\)"):
        paths.single_step_residuals(VALUE[0], VALUE, REWARD, 1.0, LENGTHS)
    with pytest.raises(ValueError, match=r"mask_BT must have the shape of value_t, \(3, 3\), got \(3, 1\)"):
        paths.next_values(VALUE, BOOTSTRAP, LENGTHS[:, :1])
    with pytest.raises(ValueError, match=r"bootstrap_B must have axes \[B\]"):
        paths.suffix_residuals(VALUE, REWARD, BOOTSTRAP[:, None], 1.0, LENGTHS)
