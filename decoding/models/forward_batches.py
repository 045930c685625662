"""Which rows share a forward pass when they have different amounts to read: plain arithmetic, no tensors.

A pass costs about `overhead + tokens + padding / 16`: the rows' tokens are packed without padding, except for
attention. So rows share a pass, unless one has so long a prompt that it is better read apart; and a long prefill is
read in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = 32
"""The fixed cost of a pass, in tokens, unless it was measured (`wheels.decoding.models.costs`)."""
PADDING = 16
"""A padded token costs this many times less than a real one: only attention computes it."""
CHUNK = 512
"""Tokens that one pass reads at most."""


@dataclass(frozen=True)
class ForwardBatch:
    """One forward pass: the rows that take part, by their index in the request, and how many tokens each reads."""

    rows: list[int]
    counts: list[int]
    final: bool
    """Whether it reads the last token of its rows, after which logits are needed."""


def plan_forward_batches(
    counts: Sequence[int], *, overhead: int = OVERHEAD, chunk: int = CHUNK, wanted: Sequence[int] | None = None
) -> Iterator[ForwardBatch]:
    """Yield the cheapest passes that read `counts` tokens of each row.

    Args:
        counts: Tokens that each row has to read, at least 1.
        overhead: The fixed cost of a pass, in tokens.
        chunk: Tokens of one pass at most; longer rows are read in several.
        wanted: Positions at the end of each row whose logits are needed: they stay in one pass (default 1).
    """
    left = list(counts)
    wanted = wanted if wanted is not None else [1] * len(left)
    for group in group_rows(left, overhead):
        while sum(left[row] for row in group) > chunk:
            width = max(1, chunk // len(group))
            rows = [row for row in group if left[row] > max(width, wanted[row])]
            if not rows:
                break
            step = [min(width, left[row] - wanted[row]) for row in rows]
            yield ForwardBatch(rows, step, final=False)
            for row, count in zip(rows, step, strict=True):
                left[row] -= count
        yield ForwardBatch(group, [left[row] for row in group], final=True)


def group_rows(counts: Sequence[int], overhead: int) -> list[list[int]]:
    """Partition rows into groups that share a pass, minimizing the sum over groups of `overhead + padding / 16`.

    With rows sorted by count, the best groups are contiguous: dynamic programming over where the last one begins.
    """
    overhead *= PADDING
    if len(counts) * max(counts) - sum(counts) <= overhead:
        return [list(range(len(counts)))]
    order = sorted(range(len(counts)), key=lambda row: -counts[row])
    cost, begin = [0], [0]
    for end in range(1, len(order) + 1):
        best, where = min((cost[first] + (end - first) * counts[order[first]], first) for first in range(end))
        cost.append(best + overhead)
        begin.append(where)
    groups, end = [], len(order)
    while end:
        groups.append(sorted(order[begin[end] : end]))
        end = begin[end]
    return groups
