"""Weights with a learning rate of their own, such as T5's queries, whose attention has no scale of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.models.limits import T5_FAMILY


def taken_out(
    optimizer: torch.optim.Optimizer, weights: Iterable[torch.Tensor]
) -> list[tuple[dict[str, Any], list[torch.Tensor]]]:
    """Take weights out of their groups; return those of each group that had some, after the group's settings."""
    wanted, found = {id(weight) for weight in weights}, []
    for group in optimizer.param_groups:
        apart = [weight for weight in group["params"] if id(weight) in wanted]
        if apart:
            group["params"] = [weight for weight in group["params"] if id(weight) not in wanted]
            found.append(({name: setting for name, setting in group.items() if name != "params"}, apart))
    return found


def set_query_rate(optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
    """Put the queries of T5 and its relatives into groups of their own, at `d_kv ** -0.5` of the learning rate.

    Adam's step is as long as the learning rate, whatever the size of a weight. T5's queries begin `sqrt(d_kv)` times
    smaller than others do. At a common rate of 2e-3 they are others within ten steps: the attention falls on single
    tokens (entropy .05 nats), and the student never learns to align. With their own rate they move as they would in an
    attention that is scaled. T5 was trained with Adafactor, whose steps are relative to the weights (Raffel et al.
    2020, https://arxiv.org/abs/1910.10683).

    Args:
        optimizer: of Adam's kind, without state.
        model: that it trains.
    """
    if model.config.model_type not in T5_FAMILY:
        return
    queries = [weight for name, weight in model.named_parameters() if ".q." in name]
    for group, apart in taken_out(optimizer, queries):
        optimizer.add_param_group(group | {"params": apart, "lr": group["lr"] * model.config.d_kv**-0.5})
