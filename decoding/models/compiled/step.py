"""The graph of decode steps: one call reads a token in each of several rows, or several in one row.

The KV cache is the engine's own memory. `GroupQueryAttention` writes a row's new keys and values at the row's own
position, in place, and attends to just the positions before it. It does so for one token in each row, or for several in
a single row; `ragged` reads the rest. The rows are a range of the cache's: those between that do not take part write
at their cursor, where nothing is kept yet, and attend to no purpose.
"""

from __future__ import annotations

import torch

from wheels.decoding.models.blocks import SelfAttention
from wheels.decoding.models.compiled.graph import Shape
from wheels.decoding.models.compiled.layers import DecoderWriter


class StepWriter(DecoderWriter):
    """Adds `last_R`, the last position of each row; `visible` is the largest of them, plus 1."""

    def positions(self) -> None:
        """Add what tells tokens their positions."""
        self.graph.input("last_R", torch.int32, ["R"])
        super().positions()

    def self_attention(self, part: SelfAttention, number: int, states_ND: str) -> str:
        """Append the tokens' keys and values to the stores, and attend to all that each row sees there."""
        graph, size = self.graph, part.head_dim
        all_NX = self.linear(states_ND, part.qkv)
        parts = (all_NX,) if part.query_norm is None else self.head_norms(part, all_NX)
        placed = [graph.op("Gather", each_NX, "place_RK") for each_NX in parts]
        placed += [""] * (3 - len(placed))
        store: Shape = ["R", part.kv_heads, "C", size]
        stores = tuple(graph.input(f"{side}_{number}", torch.float32, store) for side in ("keys", "values"))
        written = [graph.output(f"{name}_written", store) for name in stores]
        rotation = ("", "") if self.rotation is None else self.rotation
        attended_RKX = graph.op_many(
            "GroupQueryAttention",
            (*placed, *stores, "last_R", "visible", *rotation, "", self.bias),
            [graph.fresh("attended"), *written],
            own=True,
            num_heads=part.heads,
            kv_num_heads=part.kv_heads,
            scale=part.scale,
            do_rotary=int(self.rotation is not None),
        )[0]
        return self.linear(self.picked(attended_RKX, part.heads * size), part.out)

    def source(self, name: str, heads: int, size: int) -> str:
        """Return keys or values of the sources, where they lie."""
        return self.graph.input(name, torch.float32, ["R", heads, "S", size])
