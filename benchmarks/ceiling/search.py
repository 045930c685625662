"""The search over sets of calls, row by row, with the metric known.

Both models are greedy, so a text is decided by where the teacher writes. A call where both models agree changes
nothing. The others make a tree: its root is the student's own text; a text's children have one more call each, after
its last, where the teacher would write another token. Every text that any set of calls can make stands in this tree
once, under the smallest of its sets. A row is closed when its whole tree has been written: then nothing was missed. Of
a larger tree, the texts of best metric are grown first, for each number of calls apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import add

from wheels.benchmarks.ceiling.call_sets import Calls, Text

AT_ONCE = 32
"""Sets that a row proposes for one round: few, so that the next ones grow from the best."""

Write = Callable[[Sequence[tuple[int, Calls]]], Sequence[Text]]


class RowSearch:
    """The search of one row.

    Args:
        starts: sets of calls to begin with, such as those of a rule; each is tried with its first calls alone too.
        most: texts that are tried at most.
    """

    def __init__(self, starts: Iterable[Calls], most: int) -> None:
        self.most = most
        self.texts: list[Text] = []
        self._waiting: list[Calls] = []
        self._seen: set[Calls] = set()
        self._open: list[Text] = []
        for calls in ((), *starts):
            self._want(accumulate(((position,) for position in calls), add, initial=()))

    @property
    def closed(self) -> bool:
        """Whether every text of the tree has been written."""
        return not (self._open or self._waiting)

    def propose(self) -> list[Calls]:
        """Return the sets that are to be written next; none when the search is over."""
        if len(self._waiting) < AT_ONCE:
            self._grow()
        count = min(AT_ONCE, self.most - len(self.texts))
        proposed, self._waiting = self._waiting[:count], self._waiting[count:]
        return proposed

    def add(self, text: Text) -> None:
        """Take a text that was written."""
        self.texts.append(text)
        if text.others:
            self._open.append(text)

    def _grow(self) -> None:
        """Let the best texts of each number of calls have children, until there are enough for a round."""
        ranks: Counter[int] = Counter()
        ranked = []
        for text in sorted(self._open, key=lambda text: -text.score):
            ranked.append((ranks[len(text.calls)], len(text.calls), text))
            ranks[len(text.calls)] += 1
        ranked.sort(key=lambda one: one[:2])
        while ranked and len(self._waiting) < AT_ONCE:
            text = ranked.pop(0)[2]
            self._want((*text.calls, position) for position in text.others)
        self._open = [text for _, _, text in ranked]

    def _want(self, sets: Iterable[Calls]) -> None:
        """Queue the sets that were not tried before."""
        for calls in sets:
            if calls not in self._seen:
                self._seen.add(calls)
                self._waiting.append(calls)


def search(searches: Mapping[int, RowSearch], write: Write, progress: Callable[[int], object]) -> int:
    """Search all rows until each is closed or has tried its most; return how many rounds it took.

    Args:
        searches: of each row.
        write: returns the texts of rows under sets of calls.
        progress: called with the number of rows that have just ended.
    """
    running, rounds = dict(searches), 0
    while running:
        proposed = {row: one.propose() for row, one in running.items()}
        progress(sum(not sets for sets in proposed.values()))
        running = {row: one for row, one in running.items() if proposed[row]}
        wanted = [(row, calls) for row in running for calls in proposed[row]]
        for (row, _), text in zip(wanted, write(wanted) if wanted else (), strict=True):
            running[row].add(text)
        rounds += bool(wanted)
    return rounds
