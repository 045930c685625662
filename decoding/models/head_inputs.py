"""What a deferral head is told of the texts beside what the student's pass computes: for heads within that pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

NUMBERS = ("log_position", "log_source_length", "progress", "place", "copied")
"""The features (`wheels.policy.features.SCALARS`) that do not depend on the pass."""
STEP = 32
"""Tokens by which there is room for longer sources."""
PADDING = -1
"""After a source: no token."""


class HeadInputs:
    """What a head is told of `rows` texts."""

    def __init__(self, rows: int) -> None:
        self.numbers_BX = torch.zeros(rows, len(NUMBERS) + 2)
        """`NUMBERS`, the budget, and the position in the source that the text has copied up to."""
        self.source_B1S = torch.full((rows, 1, 0), PADDING)
        self._numbers = self.numbers_BX.numpy()
        self._reserve(STEP)

    def _reserve(self, length: int) -> None:
        """Make room for sources of `length` tokens.

        A token at position j, where the text has copied up to e, has the code `S + 1 - (j - e)`: larger is nearer.
        """
        if (missing := length - self.source_B1S.shape[2]) <= 0:
            return
        self.source_B1S = torch.nn.functional.pad(self.source_B1S, (0, missing + -length % STEP), value=PADDING)
        size = self.source_B1S.shape[2]
        self.code_S = torch.arange(size + 1.0, 1.0, -1.0)
        self.behind_1 = torch.tensor([size + 1.0])
        """The code of the position itself: what is not ahead has no smaller one."""
        distance_L = size + 1 - torch.arange(size + 1.0)
        self.jump_L3 = torch.stack([distance_L == 1, distance_L > 0, distance_L.log1p()], -1).float()
        """Of each code whether the token is the next, whether it comes, and `log(1 + distance)`; 0 is of no token."""
        self.jump_L3[0] = 0.0

    def admit(self, row: int, source: Sequence[int]) -> None:
        """Take the source of a new text."""
        self._reserve(len(source))
        self.source_B1S[row] = PADDING
        self.source_B1S[row, 0, : len(source)] = torch.tensor(source)

    def tell(self, rows: list[int], states: list[tuple[int, int, float, tuple[int, int]]]) -> None:
        """Say where texts are: tokens written, tokens of the source, the budget, and the state of the copy pointer."""
        self._numbers[rows] = [
            (
                math.log1p(position),
                math.log(source),
                position / source,
                (place + 1) / source,
                math.log1p(run),
                budget,
                place,
            )
            for position, source, budget, (place, run) in states
        ]

    def of(self, rows_R: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return what is told of the rows of a pass, by the names of a graph's inputs."""
        numbers, source = self.numbers_BX, self.source_B1S
        if rows_R is not None:
            numbers, source = numbers.index_select(0, rows_R), source.index_select(0, rows_R)
        told = {"code_S": self.code_S, "behind_1": self.behind_1, "jump_L3": self.jump_L3}
        return {"numbers_MX": numbers, "source_M1S": source, **told}
