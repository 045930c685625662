"""The place that a text has come to in its source, as far as it copies from it.

A text that copies walks through its source: the token `y_t` moves the place `e_t` on to the next occurrence of itself,

    e_0 = -1,    e_t = min {j > e_{t-1} : x_j = y_t}, or e_{t-1} where there is none.

A student that copies badly is told by it from one that copies well, and by nothing that its own probabilities say:
the token behind the place is what a copy would go on with.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

NUMBERS = (
    "place",
    "copied",
    "goes_on",
    "goes_on_2",
    "ahead",
    "ahead_2",
    "jump",
    "jump_2",
)
"""What `Place.numbers` gives, in order: `(e + 1) / source`; `log(1 + tokens copied in a row)`; then of the student's
best and second-best token whether it is the one behind the place, whether it stands anywhere ahead, and `log(1 +
distance)` to where it does (0 where it does not)."""
START = (-1, 0)
"""Place and tokens copied in a row, before anything is written."""


class Place:
    """The place of one text.

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

    def follow(self, tokens: Sequence[int]) -> None:
        """Go to the end of the text as it is now, whatever of it was taken back since the last time."""
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

    def numbers(self, best: Sequence[int]) -> list[float]:
        """Return `NUMBERS`.

        Args:
            best: The student's best tokens for what comes next, the best first, at least two.
        """
        place, row = self._states[-1]
        distances = [self._distance(token, place) for token in best[:2]]
        return [
            (place + 1) / self._length,
            math.log1p(row),
            *(float(distance == 1) for distance in distances),
            *(float(distance > 0) for distance in distances),
            *(math.log1p(distance) for distance in distances),
        ]

    def _distance(self, token: int, place: int) -> int:
        """Return how far behind a place a token stands next; 0 where it does not."""
        places = self._places.get(token)
        if places is None:
            return 0
        behind = bisect_right(places, place)
        return places[behind] - place if behind < len(places) else 0


def numbers_of(source: Sequence[int], tokens: Sequence[int], best_TK: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return `NUMBERS` at each state of a text: state t is the one before token t.

    Args:
        source: Tokens of the source or prompt.
        tokens: Tokens of the text; one fewer than states will do.
        best_TK: The student's best tokens at each state, the best first, at least two.
    """
    place, found = Place(source), []
    for state, best in enumerate(best_TK):
        place.follow(tokens[:state])
        found.append(place.numbers(best))
    return found
