"""The compiled encoder: sources in, and what the decoder's layers attend to out, in one call."""

from __future__ import annotations

from functools import partial

import torch

from wheels.decoding.models.blocks import Block, SelfAttention
from wheels.decoding.models.compiled.graph import Graph, make_session
from wheels.decoding.models.compiled.sublayers import Stream, Sublayers
from wheels.decoding.models.fast import FastEncoder
from wheels.decoding.models.sources import CrossKeyValues


class CompiledEncoder:
    """An encoder that runs as one call, with the interface of `FastEncoder`.

    Args:
        encoder: The same encoder in torch.

    Raises:
        Unsupported: for an encoder with parts that have no operator.
    """

    def __init__(self, encoder: FastEncoder) -> None:
        self.torch = encoder
        self.session = make_session(_Writer(encoder).write())

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right; return keys and values of each decoder layer, `[R, H, S, E]`."""
        rows, length = ids_RS.shape
        inputs = {
            "token_N": ids_RS.flatten(),
            "shape": torch.tensor([rows, length, -1]),
            "length_R": seen_RS.sum(1, dtype=torch.int32),
        }
        if self.torch.embedding.position_TD is not None:
            inputs["position_N"] = torch.arange(length).repeat(rows)
        if self.torch.bias is not None:
            inputs["bias_1HSS"] = self.torch.bias(length).contiguous()
        all_NX = self.session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        return self.torch.project.split(torch.from_numpy(all_NX), rows)


class _Writer(Sublayers):
    """Writes the graph of one encoder."""

    def __init__(self, encoder: FastEncoder) -> None:
        super().__init__()
        self.encoder, self.bias = encoder, ""

    def write(self) -> Graph:
        graph, encoder = self.graph, self.encoder
        graph.input("token_N", torch.int64, ["N"])
        if encoder.embedding.position_TD is not None:
            graph.input("position_N", torch.int64, ["N"])
        graph.input("shape", torch.int64, [3])  # R, S, -1
        graph.input("length_R", torch.int32, ["R"])
        if encoder.bias is not None:
            self.bias = graph.input("bias_1HSS", torch.float32, [1, encoder.blocks[0].self_attention.heads, "S", "S"])
        stream: Stream = (self.embedded(encoder.embedding), None)
        for block in encoder.blocks:
            stream = self._block(stream, block)
        all_NX = self.linear(self.normed(stream, encoder.norm)[0], encoder.project.linear)
        graph.op("Identity", all_NX, name=graph.output("all_NX", ["N", "X"]))
        return graph

    def _block(self, stream: Stream, block: Block) -> Stream:
        own, feed = block.self_attention, block.feed_forward
        stream = self.sublayer(stream, own, partial(self._attention, own))
        return self.sublayer(stream, feed, partial(self.feed_forward, feed))

    def _attention(self, part: SelfAttention, states_ND: str) -> str:
        """Attend in both directions, to all of a row's source."""
        graph, width = self.graph, part.heads * part.head_dim
        all_RSX = graph.op("Reshape", self.linear(states_ND, part.qkv), "shape")
        names = [graph.fresh(side) for side in ("query", "key", "value")]
        parts = graph.op_many("Split", (all_RSX,), names, axis=-1, num_outputs=3)
        attended_RSX = graph.op(
            "MultiHeadAttention",
            *parts,
            "",
            "length_R",
            self.bias,
            own=True,
            num_heads=part.heads,
            scale=part.scale,
        )
        return self.linear(graph.op("Reshape", attended_RSX, graph.constant([-1, width])), part.out)
