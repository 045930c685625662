"""Copy features: how far an output has copied its source, and whether the next token would go on copying.

A pointer walks through the source with the output: token `y_t` moves it to its own next occurrence,

    e_0 = -1,    e_t = min {j > e_{t-1} : x_j = y_t}, or e_{t-1} where there is none.

The source token after the pointer is what a copy would write next. These features tell a student that copies badly from
one that copies well; its own probabilities do not.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

NAMES = (
    "place",
    "copied",
    "goes_on",
    "goes_on_2",
    "ahead",
    "ahead_2",
    "jump",
    "jump_2",
)
"""What `CopyPointer.features` returns, in order: `(e + 1) / source`; `log(1 + tokens copied in a row)`; then for the
student's best and second-best token: whether it is the next source token, whether it occurs anywhere ahead, and
`log(1 + distance)` to that occurrence (0 without one)."""
START = (-1, 0)
"""Position in the source and tokens copied in a row, before anything is written."""


class CopyPointer:
    """The position in its source that one output has copied up to.

    Args:
        source: Tokens of the source (the prompt, of causal models), at least one.
    """

    def __init__(self, source: Sequence[int]) -> None:
        self._length = len(source)
        self._places: dict[int, list[int]] = {}
        for place, token in enumerate(source):
            self._places.setdefault(token, []).append(place)
        self._tokens: list[int] = []
        self._states = [START]

    def follow(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Advance to the end of the text; tokens that were rolled back since the last call are undone first.

        Returns:
            The position in the source, and the tokens copied in a row.
        """
        tokens = list(tokens)
        same = len(self._tokens)
        if tokens[:same] != self._tokens:
            pairs = zip(tokens, self._tokens, strict=False)
            same = next((at for at, (new, old) in enumerate(pairs) if new != old), min(same, len(tokens)))
            del self._states[same + 1 :]
        for token in tokens[same:]:
            place, row = self._states[-1]
            distance = self._distance(token, place)
            self._states.append((place + distance, row + 1 if distance == 1 else 0))
        self._tokens = tokens
        return self._states[-1]

    def features(self, best: Sequence[int], at: int = -1) -> list[float]:
        """Return `NAMES`.

        Args:
            best: The student's best tokens for what comes next, the best first, at least two.
            at: How many tokens of the text come before; -1: all that it has.
        """
        place, row = self._states[at]
        distances = [self._distance(token, place) for token in best[:2]]
        return [
            (place + 1) / self._length,
            math.log1p(row),
            *(float(distance == 1) for distance in distances),
            *(float(distance > 0) for distance in distances),
            *(math.log1p(distance) for distance in distances),
        ]

    def _distance(self, token: int, place: int) -> int:
        """Return the distance from a position to the next occurrence of a token; 0 without one."""
        places = self._places.get(token)
        if places is None:
            return 0
        behind = bisect_right(places, place)
        return places[behind] - place if behind < len(places) else 0


def copy_features(source: Sequence[int], tokens: Sequence[int], best_TK: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return `NAMES` at each state of a text: state t is the one before token t.

    Args:
        source: Tokens of the source or prompt.
        tokens: Tokens of the text; one fewer than states will do.
        best_TK: The student's best tokens at each state, the best first, at least two.
    """
    place, found = CopyPointer(source), []
    for state, best in enumerate(best_TK):
        place.follow(tokens[:state])
        found.append(place.features(best))
    return found
