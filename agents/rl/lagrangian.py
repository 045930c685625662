"""Prices for budgets: the Lagrange multiplier of `max J subject to E[sum cost] <= budget E[tokens]`, from measured use.

A price is in nats per unit of cost (a teacher token). At a fixed price the problem is path consistency unchanged; the
price follows the MEASURED teacher use, never a learned critic. Everything here is a pure function of numbers but
`PriceTable`, which holds one controller for each budget of a grid.

`J` charges `price cost` to each call and nothing to a token, so the constraint is exact where the number of tokens does
not depend on the policy, and near it otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from wheels.errors import WheelsError, check_budget


@dataclass(frozen=True)
class Gains:
    """The gains of the PID controller of a price."""

    integral: float = 0.5
    """K_i: nats for each unit of use over budget, added at every update. The only term that ends at the budget."""
    proportional: float = 0.5
    """K_p: nats for each unit of smoothed use over budget; damps."""
    derivative: float = 0.0
    """K_d: nats for each unit by which smoothed use rose within `delay` updates; acts on rises only."""
    smoothing: float = 0.9
    """a_p in [0, 1): memory of the proportional term."""
    use_smoothing: float = 0.9
    """a_d in [0, 1): memory of the use that the derivative compares."""
    delay: int = 1
    """k >= 1: updates over which a rise is measured."""
    price_max: float = 20.0
    """Greatest price, nats; the integral stops there too, so that an unreachable budget does not wind it up."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            WheelsError: naming the field, what was given and what is allowed.
        """
        for name in ("integral", "proportional", "derivative"):
            if not 0 <= getattr(self, name) < math.inf:
                raise WheelsError(f"{name} gain must be a number >= 0, got {getattr(self, name)}")
        for name in ("smoothing", "use_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise WheelsError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.delay < 1:
            raise WheelsError(f"delay must be at least 1 update, got {self.delay}")
        if not 0 < self.price_max < math.inf:
            raise WheelsError(f"price_max must be a number above 0, got {self.price_max}")


@dataclass(frozen=True)
class PIDState:
    """The state of a controller between two updates."""

    price: float = 0.0
    """lambda, nats per unit of cost, in [0, price_max]."""
    integral: float = 0.0
    """I, nats, in [0, price_max]."""
    proportional: float = 0.0
    """P, the smoothed use over budget."""
    use_history: tuple[float, ...] = ()
    """ema(use) after each of the last `delay` updates, oldest first; empty before the first one."""


def pid_start(price: float) -> PIDState:
    """Return the state that keeps `price` while use equals the budget: for a price that is already known."""
    return PIDState(price=price, integral=price)


def pid_update(state: PIDState, use: float, budget: float, gains: Gains) -> PIDState:
    """Return the state after a measurement of teacher use.

    Stooke et al. 2020, https://arxiv.org/abs/2007.03964, with their proportional and derivative smoothing:

        delta = use - budget
        I = min(price_max, max(0, I + K_i delta))
        P = a_p P + (1 - a_p) delta
        D = max(0, ema(use) - ema(use) k updates ago)
        price = min(price_max, max(0, K_p P + I + K_d D))

    P starts at 0; ema(use) starts at the first measurement, so that D is 0 there instead of a jump from nothing; with
    fewer than k updates so far, D compares with the oldest. Their rescaling of the objective by the price is left out.

    Args:
        state: before the measurement.
        use: measured share of cost, usually teacher tokens / tokens, >= 0.
        budget: the share that is allowed.
        gains: of the controller.

    Raises:
        ValueError: for a use that is negative or not a number.
    """
    if not 0 <= use < math.inf:
        raise ValueError(f"use must be a measured share >= 0, got {use}; skip the update where nothing was measured")
    delta = use - budget
    integral = min(gains.price_max, max(0.0, state.integral + gains.integral * delta))
    proportional = gains.smoothing * state.proportional + (1 - gains.smoothing) * delta
    before = state.use_history[-1] if state.use_history else use
    smoothed = gains.use_smoothing * before + (1 - gains.use_smoothing) * use
    rise = max(0.0, smoothed - (state.use_history[0] if state.use_history else smoothed))
    price = max(0.0, gains.proportional * proportional + integral + gains.derivative * rise)
    history = (*state.use_history, smoothed)[-gains.delay :]
    return PIDState(min(gains.price_max, price), integral, proportional, history)


def non_increasing(values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Return the non-increasing sequence nearest to `values` in weighted squares: pool adjacent violators.

    Args:
        values: of any length, usually prices by rising budget.
        weights: > 0, usually the number of tokens of each value; None: equal.

    Raises:
        ValueError: for weights that are not one positive number per value.
    """
    weights = [1.0] * len(values) if weights is None else list(weights)
    if len(weights) != len(values) or not all(weight > 0 for weight in weights):
        raise ValueError(f"weights must be one positive number for each of {len(values)} values, got {weights}")
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] < block[0]:
            mean, mass, count = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, count + block[2])
        blocks.append(block)
    return [mean for mean, _, count in blocks for _ in range(count)]


class PriceTable:
    """A price for each budget of a grid, learned from measured use, never rising with the budget.

    Between the grid's budgets the price is interpolated; outside, it is that of the nearest one.
    """

    def __init__(
        self, budgets: Sequence[float], gains: Gains | None = None, prices: Sequence[float] | None = None
    ) -> None:
        """Start at `prices` (default: 0 everywhere).

        Raises:
            WheelsError: for an empty grid, budgets outside [0, 1] or not rising, or prices that do not fit them.
        """
        self.budgets = tuple(check_budget(budget, "budget of the grid") for budget in budgets)
        self.gains = gains or Gains()
        if not self.budgets or any(b <= a for a, b in zip(self.budgets, self.budgets[1:], strict=False)):
            raise WheelsError(f"the grid needs one or more budgets in rising order, got {list(budgets)}")
        prices = [0.0] * len(self.budgets) if prices is None else list(prices)
        if len(prices) != len(self.budgets) or not all(0 <= price <= self.gains.price_max for price in prices):
            raise WheelsError(
                f"the grid needs a price in [0, {self.gains.price_max:g}] for each of its {len(self.budgets)} budgets, "
                f"got {prices}"
            )
        self.states = tuple(pid_start(price) for price in prices)
        self._project(None)

    @property
    def prices(self) -> tuple[float, ...]:
        """The price of each budget of the grid, nats."""
        return tuple(state.price for state in self.states)

    def price(self, budget: float) -> float:
        """Return the price of one budget, nats."""
        return float(self.prices_at(torch.tensor([check_budget(budget)], dtype=torch.float64))[0])

    def prices_at(self, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the price of each budget, nats, in the shape, dtype and place of `budget_B` (any shape, in [0, 1])."""
        grid = torch.tensor(self.budgets, dtype=budget_B.dtype, device=budget_B.device)
        price = torch.tensor(self.prices, dtype=budget_B.dtype, device=budget_B.device)
        if len(self.budgets) == 1:
            return price[0].expand(budget_B.shape)
        right = torch.searchsorted(grid, budget_B).clamp(1, len(self.budgets) - 1)
        share = ((budget_B - grid[right - 1]) / (grid[right] - grid[right - 1])).clamp(0, 1)
        return price[right - 1] + share * (price[right] - price[right - 1])

    def update(self, use: Mapping[float, float], weights: Mapping[float, float] | None = None) -> None:
        """Move the prices by the measured use of some of the grid's budgets, then make them monotone again.

        Args:
            use: budget of the grid -> measured use; budgets that were not measured are left out.
            weights: budget of the grid -> what its price counts for in the projection, usually tokens seen; the
                default, also for those left out, is 1.

        Raises:
            WheelsError: for a budget that is not of the grid.
        """
        for budget in (*use, *(weights or {})):
            if budget not in self.budgets:
                raise WheelsError(f"budget {budget} is not of the grid {list(self.budgets)}; measure the grid's own")
        self.states = tuple(
            pid_update(state, use[budget], budget, self.gains) if budget in use else state
            for budget, state in zip(self.budgets, self.states, strict=True)
        )
        self._project(None if weights is None else [weights.get(budget, 1.0) for budget in self.budgets])

    def state_dict(self) -> dict[str, Any]:
        """Return everything `load_state_dict` needs, as plain numbers that JSON keeps exactly."""
        return {
            "budgets": list(self.budgets),
            "gains": asdict(self.gains),
            "states": [{**asdict(state), "use_history": list(state.use_history)} for state in self.states],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken, gains included.

        Raises:
            WheelsError: where the state is of another grid.
        """
        if tuple(state["budgets"]) != self.budgets:
            raise WheelsError(f"the state is of the grid {list(state['budgets'])}, this table of {list(self.budgets)}")
        self.gains = Gains(**state["gains"])
        self.states = tuple(PIDState(**{**s, "use_history": tuple(s["use_history"])}) for s in state["states"])

    def _project(self, weights: Sequence[float] | None) -> None:
        """Make the prices monotone; a price that moves takes its integral along: the next update starts from there."""
        monotone = non_increasing(self.prices, weights)
        self.states = tuple(
            replace(state, price=price, integral=self._bounded(state.integral + price - state.price))
            for state, price in zip(self.states, monotone, strict=True)
        )

    def _bounded(self, price: float) -> float:
        """Return the nearest price in [0, price_max]."""
        return min(self.gains.price_max, max(0.0, price))
