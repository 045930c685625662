"""Path consistency: values by hand, zero at exact soft optima, non-zero for wrong variants, and a tabular learner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.agents.rl.mdp import (
    PathBatch,
    Solution,
    Tables,
    TextProcess,
    batch,
    every_path,
    random_process,
    rewards_of,
    solve,
    tables,
    values_of,
)
from tests.agents.rl.reference import residuals, unified
from wheels.agents import gate as rewards
from wheels.policy import path_consistency as paths

EXACT = 1e-6  # float64; what a right residual may be off, and a wrong one must exceed by far
LEARNED = 1e-3  # probabilities and nats; a tabular learner gets there in 900 steps
SEEN = 0.05  # a wrong variant's residual must be at least this large


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def mask(*lengths: int, steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


# --- by hand ----------------------------------------------------------------------------------------------------------

VALUE = tensor([1.0, 2.0, 4.0], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0])
REWARD = tensor([0.5, -1.0, 3.0], [-2.0, 9.0, 9.0], [9.0, 9.0, 9.0])
LENGTHS = mask(3, 1, 0, steps=3)
BOOTSTRAP = torch.tensor([8.0, 4.0, 9.0], dtype=torch.float64)


def test_time_of_rows_of_length_three_one_and_none() -> None:
    assert paths.last_step(LENGTHS).tolist() == [[False, False, True], [True, False, False], [False] * 3]
    assert paths.steps_to_end(LENGTHS).tolist() == [[3, 2, 1], [1, 0, 0], [0, 0, 0]]
    assert paths.next_values(VALUE, BOOTSTRAP, LENGTHS)[0].tolist() == [2.0, 4.0, 8.0]
    assert paths.next_values(VALUE, BOOTSTRAP, LENGTHS)[1, 0] == 4.0
    ended = torch.tensor([True, False, True])
    assert paths.bootstrap(BOOTSTRAP, ended).tolist() == [0.0, 4.0, 0.0]
    added = paths.add_terminal(torch.zeros(3, 3), torch.tensor([1.0, 2.0, 3.0]), LENGTHS)
    assert added.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]


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
        assert single.shape == suffix.shape == (rows, steps)
        assert residuals(empty, empty, boot, 1.0, real).shape == (rows, steps + 1, steps + 1)
        assert paths.pcl_loss(single, suffix, real).item() == 0.0


def test_padding_is_never_read() -> None:
    value, reward = VALUE.clone(), REWARD.clone()
    value[~LENGTHS], reward[~LENGTHS] = math.nan, math.inf
    suffix = paths.suffix_residuals(value, reward, BOOTSTRAP, 1.0, LENGTHS)
    single = paths.single_step_residuals(value, paths.next_values(value, BOOTSTRAP, LENGTHS), reward, 1.0, LENGTHS)
    assert suffix[~LENGTHS].tolist() == [0.0] * 5 and torch.isfinite(suffix).all()
    assert single[~LENGTHS].tolist() == [0.0] * 5 and torch.isfinite(single).all()
    assert torch.isfinite(paths.pcl_loss(single, suffix, LENGTHS))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"suffix_weight": 0.0}, (0.5 * 9 + 0.5 * 1 + 0.5 * 4) / 3),
        ({"suffix_weight": 1.0}, (0.5 * 36 + 0.5 * 16 + 0) / 3),
        ({"suffix_weight": 0.25}, (0.75 * 7 + 0.25 * 26) / 3),
        ({"suffix_weight": 1.0, "by_length": True}, (0.5 * 9 + 0.5 * 16 + 0) / 3),
        ({"suffix_weight": 0.0, "clip": 2.0}, (2 * (3 - 1) + 0.5 + 2) / 3),
    ],
)
def test_loss_by_hand(options: dict[str, float], expected: float) -> None:
    single, suffix = tensor([3.0, -1.0], [2.0, 50.0]), tensor([6.0, 4.0], [0.0, 50.0])
    assert paths.pcl_loss(single, suffix, mask(2, 1, steps=2), **options).item() == pytest.approx(expected)


def test_the_terms_of_each_step_are_0_at_padding() -> None:
    single, suffix = tensor([3.0, -1.0], [2.0, 50.0]), tensor([6.0, 4.0], [0.0, 50.0])
    terms = paths.path_terms(single, suffix, mask(2, 1, steps=2), suffix_weight=0.25)
    assert terms.tolist() == [[0.75 * 4.5 + 0.25 * 18, 0.75 * 0.5 + 0.25 * 8], [0.75 * 2, 0.0]]


def test_clip_bounds_the_gradient_and_nothing_else() -> None:
    residual = torch.tensor([-7.0, -1.0, 0.0, 1.5, 40.0], requires_grad=True)
    paths.half_square(residual, clip=2.0).sum().backward()
    assert residual.grad.tolist() == [-2.0, -1.0, 0.0, 1.5, 2.0]


def test_stopping_the_future_changes_gradients_only() -> None:
    def first_suffix(stop_future: bool) -> tuple[float, list[float], list[float]]:
        value, reward = VALUE[:1].clone().requires_grad_(), REWARD[:1].clone().requires_grad_()
        suffix = paths.suffix_residuals(value, reward, BOOTSTRAP[:1], 0.5, LENGTHS[:1], stop_future=stop_future)
        suffix[0, 0].backward()
        return suffix[0, 0].item(), value.grad[0].tolist(), reward.grad[0].tolist()

    assert first_suffix(True) == (0.75, [-1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    assert first_suffix(False) == (0.75, [-1.0, 0.0, 0.0], [1.0, 0.5, 0.25])


def test_shapes_are_a_contract() -> None:
    with pytest.raises(ValueError, match=r"u_t must have the shape of value_t, \(3, 3\), got \(3, 2\)"):
        paths.suffix_residuals(VALUE, REWARD[:, :2], BOOTSTRAP, 1.0, LENGTHS)
    with pytest.raises(ValueError, match=r"value_t must have axes \[B, T\], got shape \(3,\)"):
        paths.single_step_residuals(VALUE[0], VALUE, REWARD, 1.0, LENGTHS)
    with pytest.raises(ValueError, match=r"mask_BT must have the shape of value_t, \(3, 3\), got \(3, 1\)"):
        residuals(VALUE, REWARD, BOOTSTRAP, 1.0, LENGTHS[:, :1])
    with pytest.raises(ValueError, match=r"bootstrap_B must have axes \[B\]"):
        residuals(VALUE, REWARD, BOOTSTRAP[:, None], 1.0, LENGTHS)


# --- consistency at the exact optimum ---------------------------------------------------------------------------------

SETTINGS = pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.3), (0.5, 0.3), (0.0, 0.3)])
LAWS = {"gate only, greedy": {"greedy": True}, "full policy, greedy teacher": {"greedy": True, "free": True}}


def solved(seed: int, **options: float | bool) -> tuple[TextProcess, PathBatch, Tables]:
    process = random_process(seed, **options)
    seen = batch(process, every_path(process))
    return process, seen, tables(solve(process), seen.states)


def all_pairs(process: TextProcess, seen: PathBatch, table: Tables, u_BT: torch.Tensor, gamma: float) -> torch.Tensor:
    return residuals(table.value_S[seen.state_BT], u_BT, seen.bootstrap_B, gamma, seen.mask_BT)


@SETTINGS
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_path_is_consistent_at_the_soft_optimum(law: str, gamma: float, alpha: float, seed: int) -> None:
    process, seen, table = solved(seed, horizon=4, gamma=gamma, alpha=alpha, **LAWS[law])
    residual_BIJ = all_pairs(process, seen, table, rewards_of(process, seen, table), gamma)
    assert residual_BIJ.abs().max() < EXACT
    assert residual_BIJ.shape[1:] == (5, 5) and len(residual_BIJ) > 2


@SETTINGS
def test_paths_of_written_tokens_are_consistent_with_a_sampling_teacher(gamma: float, alpha: float) -> None:
    process, seen, table = solved(0, gamma=gamma, alpha=alpha, free=True)
    residual_BT = residuals(*parts(process, seen, table)).diagonal(1, 1, 2)
    written = seen.mask_BT & ~seen.call_BT
    assert residual_BT[written].abs().max() < EXACT
    if gamma:
        assert residual_BT[seen.call_BT & seen.mask_BT].abs().max() > SEEN
    assert conditional_means(process, seen, residual_BT, table, called=True).abs().max() < EXACT


def parts(
    process: TextProcess, seen: PathBatch, table: Tables
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor]:
    u_BT = rewards_of(process, seen, table)
    return table.value_S[seen.state_BT], u_BT, seen.bootstrap_B, process.gamma, seen.mask_BT


def conditional_means(
    process: TextProcess, seen: PathBatch, residual_BT: torch.Tensor, table: Tables, *, called: bool
) -> torch.Tensor:
    """Mean residual of a step over the law of its token, given its state and decision, [S]."""
    law = process.call_law if called else process.write_law
    law_SV = torch.stack([law(s) for s in seen.states])
    residual_SV = torch.zeros_like(law_SV)
    steps = seen.mask_BT & (seen.call_BT == called)
    residual_SV[seen.state_BT[steps], seen.token_BT[steps]] = residual_BT[steps]
    return (law_SV * residual_SV).sum(1)


@SETTINGS
@pytest.mark.parametrize("seed", [0, 1])
def test_a_gate_over_a_fixed_sampling_student_is_consistent_in_expectation_only(
    gamma: float, alpha: float, seed: int
) -> None:
    process, seen, table = solved(seed, gamma=gamma, alpha=alpha)
    single_BT = paths.single_step_residuals(*step_parts(process, seen, table))
    suffix_BT = paths.suffix_residuals(*parts(process, seen, table))
    for called in (False, True):
        assert conditional_means(process, seen, single_BT, table, called=called).abs().max() < EXACT
    assert (seen.probability_B @ suffix_BT[:, 0]).abs() < EXACT  # over all texts of a gate of 1/2
    assert single_BT.abs().max() > SEEN and suffix_BT.abs().max() > SEEN  # not of each path


def step_parts(
    process: TextProcess, seen: PathBatch, table: Tables
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, torch.Tensor]:
    return (*values_of(seen, table), rewards_of(process, seen, table), process.gamma, seen.mask_BT)


@SETTINGS
def test_residuals_of_both_actions_vanish_given_the_mean_next_values(gamma: float, alpha: float) -> None:
    for options in ({}, {"greedy": True}):
        process = random_process(3, gamma=gamma, alpha=alpha, **options)
        solution = solve(process)
        given = both_action_inputs(process, solution)
        residual = rewards.both_action_residuals(*given, gamma, alpha, torch.ones_like(given[0], dtype=torch.bool))
        assert torch.stack(residual).abs().max() < EXACT
        value_t, call_logit_t, *rest = given
        torch.testing.assert_close(rewards.gain(*rest, gamma) / alpha, call_logit_t)
        moved = rewards.both_action_residuals(
            value_t + 1, call_logit_t + 1, *rest, gamma, alpha, torch.ones_like(value_t, dtype=torch.bool)
        )
        torch.testing.assert_close(moved.call - moved.write, torch.full_like(value_t, -alpha))  # no value in it


def both_action_inputs(process: TextProcess, solution: Solution) -> list[torch.Tensor]:
    """One row: V, z, r_w, r_c, E V after episodes, E V after a call, of each state."""
    columns: list[list[float]] = []
    for s in solution.call_logit:
        next_V = torch.tensor([solution.value[(*s, v)] for v in range(3)], dtype=torch.float64)
        ratio = float(process.log_q[s].exp() @ (process.log_p[s] - process.log_q[s]))
        r_write = -process.regret(s) if process.by_regret else ratio
        after_write, after_call = float(process.write_law(s) @ next_V), float(process.call_law(s) @ next_V)
        columns.append([solution.value[s], solution.call_logit[s], r_write, -process.price, after_write, after_call])
    return [column[None] for column in torch.tensor(columns, dtype=torch.float64).T]


def test_without_a_horizon_the_gate_is_the_regret_regression() -> None:
    process = random_process(4, gamma=0.0, alpha=0.5, price=0.7, greedy=True)
    solution = solve(process)
    for s, logit in solution.call_logit.items():
        assert logit == pytest.approx((process.regret(s) - 0.7) / 0.5)


def test_the_flat_policy_over_tokens_and_the_call_is_the_gate_and_its_tokens() -> None:
    """With entropy weight 1 the two levels are one softmax over V + CALL ("Unified" PCL)."""
    process = random_process(5, greedy=True, free=True, gamma=0.5)
    solution = solve(process)
    for s, logit in solution.call_logit.items():
        next_V = torch.tensor([solution.value[(*s, v)] for v in range(3)], dtype=torch.float64)
        q_value = torch.cat([process.log_p[s] + 0.5 * next_V, torch.tensor([solution.call_value[s]])])
        value, log_pi = unified(q_value, 1.0)
        log_write, log_call = rewards.gate_log_probs(torch.tensor(logit, dtype=torch.float64))
        assert value.item() == pytest.approx(solution.value[s])
        torch.testing.assert_close(log_pi, torch.cat([log_write + solution.log_token[s], log_call[None]]))


# --- wrong variants ---------------------------------------------------------------------------------------------------


def without_entropy(process: TextProcess, seen: PathBatch, table: Tables) -> tuple[torch.Tensor, float]:
    return rewards_of(replace(process, alpha=0.0), seen, table), process.gamma


def sampled_credit(process: TextProcess, seen: PathBatch, table: Tables) -> tuple[torch.Tensor, float]:
    return rewards_of(process, seen, table, credit="sampled"), process.gamma


def undiscounted(process: TextProcess, seen: PathBatch, table: Tables) -> tuple[torch.Tensor, float]:
    return rewards_of(process, seen, table), 1.0


def another_price(process: TextProcess, seen: PathBatch, table: Tables) -> tuple[torch.Tensor, float]:
    return rewards_of(replace(process, price=process.price + 0.2), seen, table), process.gamma


@pytest.mark.parametrize("wrong", [without_entropy, sampled_credit, undiscounted, another_price])
@pytest.mark.parametrize("law", LAWS)
def test_wrong_variants_are_not_consistent(
    wrong: Callable[[TextProcess, PathBatch, Tables], tuple[torch.Tensor, float]], law: str
) -> None:
    process, seen, table = solved(0, gamma=0.5, alpha=0.7, **LAWS[law])
    assert all_pairs(process, seen, table, *wrong(process, seen, table)).abs().max() > SEEN


def test_a_cut_text_is_not_an_ended_one() -> None:
    process, seen, table = solved(0, greedy=True, free=True)
    cut_as_ended = replace(seen, terminated_B=torch.ones_like(seen.terminated_B))
    assert residuals(*parts(process, cut_as_ended, table))[~seen.terminated_B].abs().max() > SEEN
    assert residuals(*parts(process, cut_as_ended, table))[seen.terminated_B].abs().max() < EXACT


@pytest.mark.parametrize("stopped", [True, False])
def test_sampled_texts_need_stopped_gradients(stopped: bool) -> None:
    """The mean gradient of the loss is 0 at the optimum; with gradients into later states it is not."""
    process, seen, exact = solved(0)
    value_S, call_logit_S = exact.value_S.clone().requires_grad_(), exact.call_logit_S.clone().requires_grad_()
    table = Tables(value_S, call_logit_S, exact.log_token_SV)
    value_t, value_tp1, u_t, gamma, real = step_parts(process, seen, table)
    single = paths.single_step_residuals(value_t, value_tp1.detach() if stopped else value_tp1, u_t, gamma, real)
    suffix = paths.suffix_residuals(value_t, u_t, seen.bootstrap_B, gamma, real, stop_future=stopped)
    (seen.probability_B[:, None] * (paths.half_square(single) + paths.half_square(suffix))).sum().backward()
    bias = max(float(value_S.grad.abs().max()), float(call_logit_S.grad.abs().max()))
    assert bias < EXACT if stopped else bias > SEEN


# --- learning ---------------------------------------------------------------------------------------------------------


def learn(process: TextProcess, seen: PathBatch, steps: int = 900, credit: str = "consistent") -> Tables:
    """Tables fitted to paths by the loss alone, from zeros."""
    states, vocabulary = len(seen.states), 3
    value_S, call_logit_S = (torch.zeros(states, dtype=torch.float64, requires_grad=True) for _ in range(2))
    token_logit_SV = torch.zeros(states, vocabulary, dtype=torch.float64, requires_grad=process.free)
    parameters = [value_S, call_logit_S, *([token_logit_SV] if process.free else [])]
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        fixed_SV = torch.stack([process.log_q[s] for s in seen.states])
        table = Tables(value_S, call_logit_S, torch.log_softmax(token_logit_SV, 1) if process.free else fixed_SV)
        value_t, value_tp1 = values_of(seen, table)
        u_t = rewards_of(process, seen, table, credit)
        single = paths.single_step_residuals(value_t, value_tp1.detach(), u_t, process.gamma, seen.mask_BT)
        suffix = paths.suffix_residuals(value_t, u_t, seen.bootstrap_B, process.gamma, seen.mask_BT)
        optimiser.zero_grad()
        paths.pcl_loss(single, suffix, seen.mask_BT).backward()
        optimiser.step()
        schedule.step()
    return Tables(value_S.detach(), call_logit_S.detach(), table.log_token_SV.detach())


def drawn(process: TextProcess, count: int) -> PathBatch:
    """Paths of a uniformly random behaviour."""
    paths = every_path(process)
    weights = torch.tensor([path.probability for path in paths])
    return batch(process, [paths[i] for i in torch.multinomial(weights, count, replacement=True).tolist()])


def learned_error(process: TextProcess, credit: str = "consistent") -> float:
    seen = drawn(process, 2000)
    found, exact = learn(process, seen, credit=credit), tables(solve(process), seen.states)
    visited = torch.zeros(len(seen.states), dtype=torch.bool)
    visited[seen.state_BT[seen.mask_BT]] = True
    assert visited.sum() > 6
    gate = (found.call_logit_S.sigmoid() - exact.call_logit_S.sigmoid()).abs()[visited].max()
    tokens = (found.log_token_SV.exp() - exact.log_token_SV.exp()).abs()[visited].max()
    return float(max(gate, tokens, (found.value_S - exact.value_S).abs()[visited].max()))


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_the_full_policy_is_learned_from_random_paths(gamma: float) -> None:
    process = random_process(6, greedy=True, free=True, gamma=gamma)
    assert learned_error(process) < LEARNED


@pytest.mark.slow
def test_the_gate_alone_is_learned_from_random_paths() -> None:
    assert learned_error(random_process(7, horizon=4, greedy=True, ends=False, gamma=0.9, alpha=0.5)) < LEARNED


@pytest.mark.slow
def test_the_wrong_credit_learns_something_else() -> None:
    assert learned_error(random_process(6, greedy=True, free=True), credit="sampled") > 0.1
