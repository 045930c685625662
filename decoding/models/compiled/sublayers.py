"""What every layer of a graph is made of: the residual stream, norms, linear maps, activations, feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F
from transformers.activations import GELUActivation

from wheels.decoding.models.blocks import (
    CrossAttention,
    Embedding,
    FeedForward,
    Function,
    Gated,
    LayerNorm,
    RMSNorm,
    Scaled,
    SelfAttention,
    identity,
)
from wheels.decoding.models.compiled.graph import Graph, Unsupported, dense
from wheels.decoding.models.compiled.int8 import int8_product
from wheels.decoding.models.linear import Int8Linear, Linear

Stream = tuple[str, str | None]
"""The residual stream: its value, and what is still to be added to it."""


class Sublayers:
    """Writes the parts of layers into a graph."""

    def __init__(self) -> None:
        self.graph = Graph()

    def embedded(self, embedding: Embedding) -> str:
        """Return what the first block reads, `[N, D]`, of the inputs `token_N` and `position_N`."""
        graph = self.graph
        states_ND = graph.op("Gather", graph.weight(embedding.token_VD), "token_N")
        if embedding.scale != 1.0:
            states_ND = graph.op("Mul", states_ND, graph.weight(torch.tensor(embedding.scale)))
        if embedding.position_TD is not None:
            at_ND = graph.op("Gather", graph.weight(embedding.position_TD), "position_N")
            states_ND = graph.op("Add", states_ND, at_ND)
        return self.normed((states_ND, None), embedding.norm)[0]

    def sublayer(
        self, stream: Stream, part: SelfAttention | CrossAttention | FeedForward, inner: Callable[[str], str]
    ) -> Stream:
        """Add a sublayer: norm before, what it computes, norm after; the sum waits for the next norm."""
        normed_ND, states_ND = self.normed(stream, part.pre_norm)
        added: Stream = (states_ND, inner(normed_ND))
        return added if part.post_norm is identity else (self.normed(added, part.post_norm)[0], None)

    def feed_forward(self, part: FeedForward, states_ND: str) -> str:
        """Return what a feed-forward computes."""
        inner_NF = self.linear(states_ND, part.into)
        if not isinstance(part.act, Gated):
            return self.linear(self.activated(inner_NF, part.act), part.out)
        names = [self.graph.fresh(side) for side in ("gate", "up")]
        gate_NF, up_NF = self.graph.op_many("Split", (inner_NF,), names, axis=-1, num_outputs=2)
        return self.linear(self.graph.op("Mul", self.activated(gate_NF, part.act.act), up_NF), part.out)

    def linear(self, values_NX: str, linear: Linear) -> str:
        """Return `x W^T + b`."""
        if isinstance(linear, Int8Linear):
            return int8_product(self.graph, values_NX, linear)
        weight_XY, bias_Y = dense(linear)
        if bias_Y is None:
            return self.graph.op("MatMul", values_NX, self.graph.weight(weight_XY))
        return self.graph.op("Gemm", values_NX, self.graph.weight(weight_XY), self.graph.weight(bias_Y))

    def activated(self, values: str, act: Function) -> str:
        """Return an activation's values.

        Raises:
            Unsupported: for an activation that has no operator.
        """
        if act is F.silu:
            return self.graph.op("QuickGelu", values, own=True, alpha=1.0)
        if isinstance(act, torch.nn.ReLU):
            return self.graph.op("Relu", values)
        if isinstance(act, GELUActivation) and act.act is F.gelu:
            return self.graph.op("Gelu", values, own=True)
        if isinstance(act, partial) and act.func is F.gelu and act.keywords == {"approximate": "tanh"}:
            return self.graph.op("FastGelu", values, own=True)
        raise Unsupported(f"no operator for the activation {act!r}")

    def normed(self, stream: Stream, norm: Function) -> tuple[str, str]:
        """Return the normalized stream, and the stream itself.

        Raises:
            Unsupported: for a norm that has no operator.
        """
        graph, (states, added) = self.graph, stream
        if norm is identity:
            total = self.sum(stream)
            return total, total
        factor = 1.0
        if isinstance(norm, Scaled):
            factor, norm = norm.factor, norm.norm
        if not isinstance(norm, (RMSNorm, LayerNorm)):
            raise Unsupported(f"no operator for the norm {norm!r}")
        simple, weights = isinstance(norm, RMSNorm), [graph.weight(norm.weight_D * factor)]
        if isinstance(norm, LayerNorm):
            weights.append(graph.weight(norm.bias_D * factor))
        if added is None:
            kind = "SimplifiedLayerNormalization" if simple else "LayerNormalization"
            return graph.op(kind, states, *weights, axis=-1, epsilon=norm.eps), states
        kind = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
        outputs = [graph.fresh("normed"), "", "", graph.fresh("sum")]
        graph.op_many(kind, (states, added, *weights), outputs, own=True, epsilon=norm.eps)
        return outputs[0], outputs[3]

    def sum(self, stream: Stream) -> str:
        """Return the stream's value with all that was to be added."""
        states_ND, added_ND = stream
        return states_ND if added_ND is None else self.graph.op("Add", states_ND, added_ND)
