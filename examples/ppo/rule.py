"""Rule `ppo`: calls where the policy calls that `train.py` has put beside this file.

The pattern for any policy of other people's: a function of the `Step` that decoding is at, as large as a call is worth.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

import wheels
from wheels.agents import DeferralHead, HeadConfig, PriceTable
from wheels.decoding import Step


def policy_input(
    head: DeferralHead, features_BF: torch.Tensor, budget_B: torch.Tensor, price_B: torch.Tensor
) -> torch.Tensor:
    """Return what the policy's last layer reads: the gain of a call, its price, the budget, and the state's numbers."""
    numbers_BF = (features_BF[:, : head.config.features] - head.mean_F) / head.scale_F
    told_B3 = torch.stack([head.gain(features_BF, budget_B), price_B, budget_B], -1)
    return torch.cat([told_B3, numbers_BF], -1)


@cache
def trained() -> tuple[DeferralHead, torch.nn.Linear, PriceTable]:
    """Read the policy: its features, its last layer, and the price of each budget."""
    saved: dict[str, Any] = torch.load(Path(__file__).with_name("policy.pt"), weights_only=True)
    head = DeferralHead(HeadConfig(**saved["config"]))
    head.load_state_dict(saved["head"])
    layer = torch.nn.Linear(saved["layer"]["weight"].shape[1], 2)
    layer.load_state_dict(saved["layer"])
    return head, layer, PriceTable(saved["budgets"], prices=saved["prices"])


def call_logit(step: Step) -> torch.Tensor:
    """Return the logit of a call, `log pi(call|s) - log pi(write|s)`, `[B]`."""
    head, layer, table = trained()
    budget_B = step.budget_B.float()
    with torch.no_grad():
        logits_B2 = layer(policy_input(head, step.features_BF, budget_B, table.prices_at(budget_B)))
    return logits_B2[:, 1] - logits_B2[:, 0]


ppo = wheels.Rule(name="ppo", score=call_logit, label="where MaskablePPO calls", color="#117733", mark="8")
