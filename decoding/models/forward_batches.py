"""How rows that have different amounts to read are put into forward passes: plain arithmetic, no tensors.

A pass costs about as much as `overhead + tokens + padding / 16`: nearly all of a model reads the rows' tokens in one
line (`wheels.decoding.models.packing`), attention alone pads every row to the one that reads most, unless it takes the
rows one by one (`wheels.decoding.models.attention`). So rows go together, unless one has so long a prompt to read that
it is better read alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = 32
"""What a pass costs beside its tokens, in tokens, unless it was measured (`wheels.decoding.models.costs`)."""
PADDING = 16
"""A padded token costs this many times less than one that is read: it goes through attention alone."""
CHUNK = 512
"""Tokens that one pass reads at most."""


@dataclass(frozen=True)
class ForwardBatch:
    """One forward pass: the rows that take part, by their place in the request, and how much each reads."""

    rows: list[int]
    counts: list[int]
    final: bool
    """Whether it reads the last token of its rows, after which scores are wanted."""


def plan_forward_batches(
    counts: Sequence[int], *, overhead: int = OVERHEAD, chunk: int = CHUNK, wanted: Sequence[int] | None = None
) -> Iterator[ForwardBatch]:
    """Yield the passes in which rows with `counts` tokens to read are read at the least cost.

    Args:
        counts: Tokens that each row has to read, at least 1.
        overhead: The cost of a pass beside its tokens, in tokens.
        chunk: Tokens of one pass at most; where rows have more, the long ones are read in several.
        wanted: Positions at the end of each row whose scores are wanted: they stay in one pass (default 1).
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
    """Part rows into groups that are read together: the least `sum over groups of overhead + padding / 16`.

    Rows sorted by count, the best groups are neighbours; dynamic programming over where the last group begins.
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
