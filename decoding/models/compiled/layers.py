"""A described decoder as an ONNX graph: one call reads a token in each of several rows, or several in one row.

The KV cache is the engine's own memory. `GroupQueryAttention` writes a row's new keys and values at the row's own
position, in place, and attends to just the positions before it. It does so for one token in each row, or for several in
a single row; other passes are torch's. The rows are a range of the cache's: those between that do not take part write
at their cursor, where nothing is kept yet, and attend to no purpose. Linear maps see only the tokens that are read.

Letters: N tokens, R rows of the range, K tokens of each, C capacity, S capacity of the sources, M positions kept.
"""

from __future__ import annotations

from functools import partial

import torch

from wheels.decoding.models.blocks import Block, CrossAttention, SelfAttention
from wheels.decoding.models.compiled.graph import TYPES, Graph, Shape, Unsupported, outputs
from wheels.decoding.models.compiled.sublayers import Stream, Sublayers
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import DistanceBias

ROTARY_STEP = 16
"""What the size of a head is a multiple of, for the operator to rotate it."""


def decoder_graph(decoder: FastDecoder) -> Graph:
    """Return the graph of a decoder.

    Inputs: `token_N`, `position_N`, `place_RK` (which token stands where among the rows), `pick_N` (back),
    `keep_M` (which tokens' logits are wanted), `last_R` (the last position of each row), `visible` (the largest of
    them, plus 1), tables of positions, and the stores. Outputs: `hidden_MD`, `logits_MV`, and the stores.

    Raises:
        Unsupported: for a decoder with parts that have no operator.
    """
    return _Writer(decoder).write()


class _Writer(Sublayers):
    """Writes the graph of one decoder."""

    def __init__(self, decoder: FastDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.rotation: tuple[str, str] | None = None
        self.bias = ""

    def write(self) -> Graph:
        graph, decoder = self.graph, self.decoder
        for name in ("token_N", "position_N", "pick_N", "keep_M"):
            graph.input(name, torch.int64, [name[-1]])
        graph.input("place_RK", torch.int64, ["R", "K"])
        graph.input("last_R", torch.int32, ["R"])
        graph.input("visible", torch.int32, [1])
        self._positions()
        stream: Stream = (self.embedded(decoder.embedding), None)
        for number, block in enumerate(decoder.blocks):
            stream = self._block(stream, block, number)
        kept_MD = graph.op("Gather", self.sum(stream), "keep_M")
        vocabulary, width = decoder.embedding.token_VD.shape
        hidden_MD = self.normed((kept_MD, None), decoder.norm)[0]
        graph.op("Identity", hidden_MD, name=graph.output("hidden_MD", ["M", width]))
        logits_MV = self.linear(hidden_MD, decoder.head)
        graph.op("Identity", logits_MV, name=graph.output("logits_MV", ["M", vocabulary]))
        return graph

    def _positions(self) -> None:
        """Add the tables that tell tokens their positions."""
        graph, decoder, size = self.graph, self.decoder, self.decoder.blocks[0].self_attention.head_dim
        if decoder.rotary is not None:
            if size % ROTARY_STEP:
                raise Unsupported(f"rotary positions in heads of {size} numbers")
            table: Shape = ["T", size // 2]
            self.rotation = graph.input("cos_TE", torch.float32, table), graph.input("sin_TE", torch.float32, table)
        if isinstance(decoder.bias, DistanceBias):
            self.bias = self._distance_bias()
        if decoder.encoder is not None:
            graph.input("source_R", torch.int32, ["R"])

    def _distance_bias(self) -> str:
        """Return T5's bias, `[R, H, K, L]`: the ramp of each head from `T - 1 - position` on."""
        graph = self.graph
        graph.input("ramp_HT", torch.float32, [self.decoder.blocks[0].self_attention.heads, "2T"])
        graph.input("ramp_start", torch.int64, [1])  # T - 1
        count = graph.op("Cast", graph.op("Squeeze", "visible"), to=TYPES[torch.int64])
        key_L = graph.op("Range", graph.constant(0), count, graph.constant(1))
        position_RK1 = graph.op("Unsqueeze", graph.op("Gather", "position_N", "place_RK"), graph.constant([2]))
        index_RKL = graph.op("Sub", graph.op("Add", key_L, "ramp_start"), position_RK1)
        return graph.op("Transpose", graph.op("Gather", "ramp_HT", index_RKL, axis=1), perm=[1, 0, 2, 3])

    def _block(self, stream: Stream, block: Block, number: int) -> Stream:
        """Add one layer."""
        own, cross, feed = block.self_attention, block.cross_attention, block.feed_forward
        stream = self.sublayer(stream, own, partial(self._self_attention, own, number))
        if cross is not None:
            stream = self.sublayer(stream, cross, partial(self._cross_attention, cross, number))
        return self.sublayer(stream, feed, partial(self.feed_forward, feed))

    def _self_attention(self, part: SelfAttention, number: int, states_ND: str) -> str:
        """Append the tokens' keys and values to the stores, and attend to all that each row sees there."""
        graph, size = self.graph, part.head_dim
        all_RKX = graph.op("Gather", self.linear(states_ND, part.qkv), "place_RK")
        parts = (all_RKX, "", "") if part.query_norm is None else self._head_norms(part, all_RKX)
        store: Shape = ["R", part.kv_heads, "C", size]
        stores = tuple(graph.input(f"{side}_{number}", torch.float32, store) for side in ("keys", "values"))
        written = [graph.output(f"{name}_written", store) for name in stores]
        rotation = ("", "") if self.rotation is None else self.rotation
        attended_RKX = graph.op_many(
            "GroupQueryAttention",
            (*parts, *stores, "last_R", "visible", *rotation, "", self.bias),
            [graph.fresh("attended"), *written],
            own=True,
            num_heads=part.heads,
            kv_num_heads=part.kv_heads,
            scale=part.scale,
            do_rotary=int(self.rotation is not None),
        )[0]
        return self.linear(self._picked(attended_RKX, part.heads * size), part.out)

    def _head_norms(self, part: SelfAttention, all_RKX: str) -> tuple[str, str, str]:
        """Return queries, keys and values apart, those of each head normalized (Qwen 3)."""
        graph, widths = self.graph, [part.heads * part.head_dim, *[part.kv_heads * part.head_dim] * 2]
        names = [graph.fresh(side) for side in ("query", "key", "value")]
        *both, value = graph.op_many("Split", (all_RKX, graph.constant(widths)), names, axis=-1)
        for index, norm in enumerate((part.query_norm, part.key_norm)):
            assert norm is not None, "queries and keys are normalized together"
            heads_RKHE = graph.op("Reshape", both[index], graph.constant([0, 0, -1, part.head_dim]))
            normed_RKHE = self.normed((heads_RKHE, None), norm)[0]
            both[index] = graph.op("Reshape", normed_RKHE, graph.constant([0, 0, -1]))
        return both[0], both[1], value

    def _cross_attention(self, part: CrossAttention, number: int, states_ND: str) -> str:
        """Attend to each row's source."""
        graph = self.graph
        query_RKX = graph.op("Gather", self.linear(states_ND, part.query), "place_RK")
        heads = outputs(part.query) // part.head_dim
        store: Shape = ["R", heads, "S", part.head_dim]
        stores = [graph.input(f"source_{side}_{number}", torch.float32, store) for side in ("keys", "values")]
        attended_RKX = graph.op(
            "MultiHeadAttention",
            query_RKX,
            *stores,
            "",
            "source_R",
            own=True,
            num_heads=heads,
            scale=part.scale,
        )
        return self.linear(self._picked(attended_RKX, heads * part.head_dim), part.out)

    def _picked(self, states_RKX: str, width: int) -> str:
        """Return the tokens that are read, `[N, X]`."""
        return self.graph.op("Gather", self.graph.op("Reshape", states_RKX, self.graph.constant([-1, width])), "pick_N")
