"""The graph of ragged passes: one call reads any number of tokens in each of any rows.

New keys and values are scattered into the engine's KV cache, in place. Then the pages of the rows that take part are
gathered, up to the longest of them, and attended to under a mask. So the sums are those of torch's pass.
"""

from __future__ import annotations

import torch

from wheels.decoding.models.blocks import SelfAttention
from wheels.decoding.models.cache import PAGE
from wheels.decoding.models.compiled.graph import TYPES, Graph, Shape
from wheels.decoding.models.compiled.layers import DecoderWriter
from wheels.decoding.models.compiled.score import MakeHead
from wheels.decoding.models.fast import FastDecoder


class RaggedWriter(DecoderWriter):
    """Adds `write_X2`, the page and the place in it of each new key; `page_X` and `source_page_X`, what is gathered.

    `visible` and `source_visible` are multiples of a page. The tokens of a row that reads fewer than K repeat its last.
    """

    def __init__(self, decoder: FastDecoder, head: MakeHead | None = None) -> None:
        super().__init__(decoder, head)
        self.shape = self.source_shape = self.position_N1 = ""

    def positions(self) -> None:
        """Add what tells tokens their positions."""
        graph, own = self.graph, self.decoder.blocks[0].self_attention
        graph.input("write_X2", torch.int64, ["X", 2])
        graph.input("page_X", torch.int64, ["P"])
        super().positions()
        self.shape = _by_row(graph, "visible", own.kv_heads, own.head_dim)
        if self.rotation is not None:
            self.position_N1 = graph.op("Unsqueeze", "position_N", graph.constant([1]))
        if not self.bias:
            self.bias = self._causal(own.heads // own.kv_heads)
        if self.decoder.encoder is not None:
            graph.input("source_page_X", torch.int64, ["Q"])
            graph.input("source_visible", torch.int32, [1])

    def _causal(self, share: int) -> str:
        """Return 0 for the positions up to a token's own and minus infinity for later ones, `[R, 1, share x K, L]`."""
        graph = self.graph
        later_RKL = graph.op("Greater", self.key_L(), self.position_RK1())
        none, all_of_it = (graph.weight(torch.tensor(number)) for number in (0.0, -torch.inf))
        mask_RKL = graph.op("Where", later_RKL, all_of_it, none)
        if share > 1:
            mask_RKL = graph.op("Concat", *[mask_RKL] * share, axis=1)
        return graph.op("Unsqueeze", mask_RKL, graph.constant([1]))

    def self_attention(self, part: SelfAttention, number: int, states_ND: str) -> str:
        """Append the tokens' keys and values to the stores, and attend to all that each row sees there."""
        graph, size = self.graph, part.head_dim
        query_NX, key_NX, value_NX = self.head_norms(part, self.linear(states_ND, part.qkv))
        query_NX, key_NX = (self._rotated(each_NX) for each_NX in (query_NX, key_NX))
        new = {"keys": key_NX, "values": value_NX}
        seen = [self._appended(f"{side}_{number}", each_NX, size) for side, each_NX in new.items()]
        share = part.heads // part.kv_heads
        query_RKX = self._shared(graph.op("Gather", query_NX, "place_RK"), part, share)
        attended_RKX = graph.op(
            "MultiHeadAttention",
            query_RKX,
            *seen,
            "",
            "",
            self.bias,
            own=True,
            num_heads=part.kv_heads,
            scale=part.scale,
        )
        attended_RKX = self._apart(attended_RKX, part, share)
        return self.linear(self.picked(attended_RKX, part.heads * size), part.out)

    def _rotated(self, states_NX: str) -> str:
        """Rotate queries or keys by their positions."""
        if self.rotation is None:
            return states_NX
        states_N1X = self.graph.op("Unsqueeze", states_NX, self.graph.constant([1]))
        turned_N1X = self.graph.op("RotaryEmbedding", states_N1X, self.position_N1, *self.rotation, own=True)
        return self.graph.op("Squeeze", turned_N1X, self.graph.constant([1]))

    def _appended(self, name: str, new_NX: str, size: int) -> str:
        """Write new keys or values to a store; return what the rows see of it, `[R, G, L, E]`."""
        graph, pages = self.graph, self._pages(name, size)
        new_XE = graph.op("Reshape", new_NX, graph.constant([-1, size]))
        written = graph.op(
            "ScatterND", pages, "write_X2", new_XE, name=graph.output(f"{name}_written", _pages_of(size))
        )
        return graph.op("Reshape", graph.op("Gather", written, "page_X"), self.shape)

    def source(self, name: str, heads: int, size: int) -> str:
        """Return keys or values of the rows' sources, gathered."""
        graph = self.graph
        if not self.source_shape:
            self.source_shape = _by_row(graph, "source_visible", heads, size)
        return graph.op("Reshape", graph.op("Gather", self._pages(name, size), "source_page_X"), self.source_shape)

    def _pages(self, name: str, size: int) -> str:
        return self.graph.input(name, torch.float32, _pages_of(size))

    def _shared(self, query_RKX: str, part: SelfAttention, share: int) -> str:
        """Move the query heads that share a key to the axis of the tokens, `[R, share x K, G x E]`."""
        if share == 1:
            return query_RKX
        graph, shape = self.graph, [0, 0, part.kv_heads, share, part.head_dim]
        moved = graph.op("Transpose", graph.op("Reshape", query_RKX, graph.constant(shape)), perm=[0, 3, 1, 2, 4])
        return graph.op("Reshape", moved, graph.constant([0, -1, part.kv_heads * part.head_dim]))

    def _apart(self, attended_RKX: str, part: SelfAttention, share: int) -> str:
        """Move them back, `[R, K, G, share, E]`."""
        if share == 1:
            return attended_RKX
        graph, shape = self.graph, [0, share, -1, part.kv_heads, part.head_dim]
        return graph.op("Transpose", graph.op("Reshape", attended_RKX, graph.constant(shape)), perm=[0, 2, 3, 1, 4])


def _pages_of(size: int) -> Shape:
    """Return the shape of a store as pages."""
    return ["pages", PAGE, size]


def _by_row(graph: Graph, visible: str, heads: int, size: int) -> str:
    """Return the shape of gathered pages, `[R, heads, L, size]`."""
    length = graph.op("Cast", visible, to=TYPES[torch.int64])
    return graph.op("Concat", graph.constant([-1, heads]), length, graph.constant([size]), axis=0)
