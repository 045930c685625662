"""The learning rate of T5's queries, whose attention has no scale of its own."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

UNSCALED = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
"""Families that leave `1 / sqrt(d_kv)` out of their attention; the queries' initial weights have it instead."""


def set_query_rate(optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
    """Put the queries of a family of `UNSCALED` into groups of their own, at `d_kv ** -0.5` of the learning rate.

    Adam's step is as long as the learning rate, whatever the size of a weight. T5's queries begin `sqrt(d_kv)` times
    smaller than others do. At a common rate of 2e-3 they are others within ten steps: the attention falls on single
    tokens (entropy .05 nats), and the student never learns to align. With their own rate they move as they would in an
    attention that is scaled. T5 was trained with Adafactor, whose steps are relative to the weights (Raffel et al.
    2020, https://arxiv.org/abs/1910.10683).

    Args:
        optimizer: of Adam's kind, without state.
        model: that it trains.
    """
    if model.config.model_type not in UNSCALED:
        return
    queries = {id(weight) for name, weight in model.named_parameters() if name.endswith(".q.weight")}
    for group in list(optimizer.param_groups):
        apart = [weight for weight in group["params"] if id(weight) in queries]
        if apart:
            group["params"] = [weight for weight in group["params"] if id(weight) not in queries]
            optimizer.add_param_group({**group, "params": apart, "lr": group["lr"] * model.config.d_kv**-0.5})
