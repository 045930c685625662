"""What one forward pass reads: which rows, which positions, how far each sees, and which logits are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add

import torch

from wheels.decoding.models.cache import CacheWrite
from wheels.decoding.models.head_inputs import HeadInputs
from wheels.decoding.models.packing import Packing

Results = tuple[torch.Tensor, ...]
"""What a pass computes: logits `[R, W, V]`, hidden states `[R, W, D]`, and the gain `[R, W, 1]` of a head within it."""


@dataclass(slots=True)
class AttentionInputs:
    """The rows of one forward pass, R of them; each reads up to K new tokens, N all together."""

    write: CacheWrite
    positions_RK: torch.Tensor
    """Of the new tokens; where a row reads fewer than K, its last one is repeated."""
    rows: Sequence[int]
    """Each row's index in the cache."""
    counts: Sequence[int]
    """New tokens of each row."""
    lengths: Sequence[int]
    """Tokens of each row once these are read."""
    source_lengths: Sequence[int]
    """Tokens of each row's source; empty in a causal model."""
    count_R: torch.Tensor | None = None
    """The counts as a tensor; None where each row reads one token."""
    packing: Packing | None = None
    """The ragged batch without padding; None where all counts are equal."""
    cursor_B: torch.Tensor | None = None
    """The cursors of all rows of the cache, before this pass."""
    told: HeadInputs | None = None
    """What a head within the pass is told."""

    @classmethod
    def of(
        cls,
        rows: Sequence[int],
        rows_R: torch.Tensor | None,
        firsts: Sequence[int],
        first_R: torch.Tensor,
        counts: list[int],
        source_lengths: Sequence[int],
    ) -> AttentionInputs:
        """Lay out a pass in which each row reads `counts` tokens from its position `firsts` on.

        `rows_R` and `first_R` are `rows` and `firsts` as tensors; `rows_R` is None for all rows, in order.
        """
        width, device = max(counts), first_R.device
        positions_RK, packing, count_R = first_R[:, None], None, None
        if width > 1:
            positions_RK = positions_RK + torch.arange(width, device=device)
            count_R = torch.tensor(counts, device=device)
            if min(counts) < width:
                packing = Packing.of(counts, device)
                # The padding of a short row is never read, but its position must exist in the model's table.
                positions_RK = positions_RK.minimum((first_R + count_R - 1)[:, None])
        lengths = list(map(add, firsts, counts))
        if packing is None:
            start = firsts[0] if min(firsts) == max(firsts) else None
            write = CacheWrite(rows_R, positions_RK, max(lengths), start)
        else:
            owner_N = packing.row_N if rows_R is None else rows_R[packing.row_N]
            write = CacheWrite(rows_R, packing.pack(positions_RK), max(lengths), owner_N=owner_N)
        return cls(write, positions_RK, rows, counts, lengths, source_lengths, count_R, packing)

    @property
    def visible(self) -> int:
        """Positions that attention looks at, from 0: the length of the longest row."""
        return self.write.visible

    @property
    def source_visible(self) -> int:
        """The length of the longest source; 0 in a causal model."""
        return max(self.source_lengths, default=0)

    @property
    def aligned(self) -> bool:
        """Whether each row reads one token, all at one position: then no mask is needed."""
        return self.positions_RK.shape[1] == 1 and self.write.start is not None

    def tokens(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Return the new tokens of these rows, `[R, K]`, or `[1, N]` where they are packed."""
        rows_R = self.write.rows_R
        if rows_R is None:
            tokens_RK = tokens_BT.gather(1, self.positions_RK)
        else:
            tokens_RK = tokens_BT[rows_R[:, None], self.positions_RK]
        return tokens_RK if self.packing is None else self.packing.pack(tokens_RK)

    def lookup(self, table_TX: torch.Tensor) -> torch.Tensor:
        """Return the table's rows at the new positions, `[N, X]`; a single row where all tokens share its position."""
        if self.aligned:
            return table_TX[self.visible - 1 : self.visible]
        return table_TX[self.write.positions_RK.reshape(-1)]

    def source_seen(self) -> torch.Tensor | None:
        """Tell which positions belong to each row's source, `[R, S]`; None where all do."""
        longest = self.source_visible
        if min(self.source_lengths, default=0) == longest:
            return None
        length_R = torch.tensor(self.source_lengths, device=self.positions_RK.device)
        return torch.arange(longest, device=length_R.device) < length_R[:, None]


@dataclass(slots=True)
class LogitsToKeep:
    """The positions whose logits are computed: each row's last one, or its last `keep_R`."""

    inputs: AttentionInputs
    keep_R: torch.Tensor | None = None
    hidden: bool = True
    """Whether anybody looks at the hidden states; if not, a backend may leave them out."""

    def select(self, hidden_RKD: torch.Tensor) -> torch.Tensor:
        """Return the hidden states there, `[R, W, D]`; a row that keeps fewer than W repeats its last."""
        count_R, packing, device = self.inputs.count_R, self.inputs.packing, hidden_RKD.device
        if count_R is None:
            return hidden_RKD
        if self.keep_R is None:
            column_RW = (count_R - 1)[:, None]
        else:
            step_W = torch.arange(int(self.keep_R.max()), device=device)
            column_RW = ((count_R - self.keep_R)[:, None] + step_W).minimum((count_R - 1)[:, None])
        if packing is not None:
            return hidden_RKD[0, packing.start_R[:, None] + column_RW]
        return hidden_RKD[torch.arange(len(hidden_RKD), device=device)[:, None], column_RW]


def padded(
    tokens_1N: torch.Tensor, inputs: AttentionInputs, keep: LogitsToKeep
) -> tuple[torch.Tensor, AttentionInputs, LogitsToKeep]:
    """Lay a packed pass out in rows again, `[R, K]`, for models whose attention cannot be replaced.

    A row that reads fewer than K tokens repeats its last one, at the same position.
    """
    assert inputs.packing is not None and inputs.count_R is not None
    column_RK = torch.arange(inputs.packing.width, device=tokens_1N.device).minimum(inputs.count_R[:, None] - 1)
    tokens_RK = tokens_1N[0, inputs.packing.start_R[:, None] + column_RK]
    write = CacheWrite(inputs.write.rows_R, inputs.positions_RK, inputs.visible)
    inputs = replace(inputs, write=write, packing=None)
    return tokens_RK, inputs, replace(keep, inputs=inputs)
