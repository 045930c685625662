"""A described decoder as an ONNX graph, but for its attention: what every kind of pass has in common.

Linear maps see only the tokens that are read, one after another on one axis; attention places them by row, and picks
them again. How it finds keys and values differs: `step` has them where they lie, `ragged` gathers them.

Letters: N tokens, R rows, K tokens of each, C capacity, S capacity of the sources, L positions that attention sees,
M positions kept.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

import torch

from wheels.decoding.models.blocks import Block, CrossAttention, SelfAttention
from wheels.decoding.models.compiled.graph import TYPES, Graph, Shape, Unsupported, outputs
from wheels.decoding.models.compiled.score import MakeHead
from wheels.decoding.models.compiled.sublayers import Stream, Sublayers
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import DistanceBias

ROTARY_STEP = 16
"""What the size of a head is a multiple of, for the operator to rotate it."""


class DecoderWriter(Sublayers):
    """Writes the graph of one decoder, and of a deferral head that reads its outputs, if there is one.

    Inputs: `token_N`, `position_N`, `place_RK` (which token stands where among the rows), `pick_N` (back), `keep_M`
    (which tokens' logits are wanted), `visible` (the positions that attention sees), `source_R` (lengths of the
    sources), tables of positions, and the stores. Outputs: `hidden_MD`, `logits_MV`, and the stores.
    """

    def __init__(self, decoder: FastDecoder, head: MakeHead | None = None) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head
        self.rotation: tuple[str, str] | None = None
        self.bias = ""

    def write(self) -> Graph:
        """Return the graph.

        Raises:
            Unsupported: for a decoder with parts that have no operator.
        """
        graph, decoder = self.graph, self.decoder
        for name in ("token_N", "position_N", "pick_N", "keep_M"):
            graph.input(name, torch.int64, [name[-1]])
        graph.input("place_RK", torch.int64, ["R", "K"])
        graph.input("visible", torch.int32, [1])
        self.positions()
        stream: Stream = (self.embedded(decoder.embedding), None)
        for number, block in enumerate(decoder.blocks):
            stream = self._block(stream, block, number)
        kept_MD = graph.op("Gather", self.sum(stream), "keep_M")
        vocabulary, width = decoder.embedding.token_VD.shape
        hidden_MD = self.normed((kept_MD, None), decoder.norm)[0]
        graph.op("Identity", hidden_MD, name=graph.output("hidden_MD", ["M", width]))
        logits_MV = self.linear(hidden_MD, decoder.head)
        graph.op("Identity", logits_MV, name=graph.output("logits_MV", ["M", vocabulary]))
        if self.head is not None:
            self.head(graph).write(logits_MV, vocabulary, hidden_MD, width)
        return graph

    @abstractmethod
    def self_attention(self, part: SelfAttention, number: int, states_ND: str) -> str:
        """Append the tokens' keys and values to the stores, and attend to all that each row sees there."""

    @abstractmethod
    def source(self, name: str, heads: int, size: int) -> str:
        """Return keys or values of the rows' sources, `[R, H, S, E]`, from the store of this name."""

    def positions(self) -> None:
        """Add what tells tokens their positions."""
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
        index_RKL = graph.op("Sub", graph.op("Add", self.key_L(), "ramp_start"), self.position_RK1())
        return graph.op("Transpose", graph.op("Gather", "ramp_HT", index_RKL, axis=1), perm=[1, 0, 2, 3])

    def key_L(self) -> str:
        """Return the positions that attention sees."""
        graph = self.graph
        count = graph.op("Cast", graph.op("Squeeze", "visible"), to=TYPES[torch.int64])
        return graph.op("Range", graph.constant(0), count, graph.constant(1))

    def position_RK1(self) -> str:
        """Return each token's position, by row."""
        graph = self.graph
        return graph.op("Unsqueeze", graph.op("Gather", "position_N", "place_RK"), graph.constant([2]))

    def _block(self, stream: Stream, block: Block, number: int) -> Stream:
        """Add one layer."""
        own, cross, feed = block.self_attention, block.cross_attention, block.feed_forward
        stream = self.sublayer(stream, own, partial(self.self_attention, own, number))
        if cross is not None:
            stream = self.sublayer(stream, cross, partial(self._cross_attention, cross, number))
        return self.sublayer(stream, feed, partial(self.feed_forward, feed))

    def head_norms(self, part: SelfAttention, all_NX: str) -> tuple[str, str, str]:
        """Return queries, keys and values apart, those of each head normalized where the family does so (Qwen 3)."""
        graph, widths = self.graph, [part.heads * part.head_dim, *[part.kv_heads * part.head_dim] * 2]
        names = [graph.fresh(side) for side in ("query", "key", "value")]
        *both, value = graph.op_many("Split", (all_NX, graph.constant(widths)), names, axis=-1)
        if part.query_norm is not None and part.key_norm is not None:
            for index, norm in enumerate((part.query_norm, part.key_norm)):
                heads_NHE = graph.op("Reshape", both[index], graph.constant([0, -1, part.head_dim]))
                normed_NHE = self.normed((heads_NHE, None), norm)[0]
                both[index] = graph.op("Reshape", normed_NHE, graph.constant([0, -1]))
        return both[0], both[1], value

    def _cross_attention(self, part: CrossAttention, number: int, states_ND: str) -> str:
        """Attend to each row's source."""
        graph = self.graph
        query_RKX = graph.op("Gather", self.linear(states_ND, part.query), "place_RK")
        heads = outputs(part.query) // part.head_dim
        stores = [self.source(f"source_{side}_{number}", heads, part.head_dim) for side in ("keys", "values")]
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
        return self.linear(self.picked(attended_RKX, heads * part.head_dim), part.out)

    def picked(self, states_RKX: str, width: int) -> str:
        """Return the tokens that are read, `[N, X]`."""
        return self.graph.op("Gather", self.graph.op("Reshape", states_RKX, self.graph.constant([-1, width])), "pick_N")
