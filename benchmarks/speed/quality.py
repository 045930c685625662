"""What the systems wrote: how much of it is the teacher's own, and how good it is on the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from wheels.benchmarks.core.bootstrap import paired_bootstrap
from wheels.metrics import sentence_statistics
from wheels.metrics.names import Reference


@dataclass(frozen=True)
class Judge:
    """References of the texts, and the task's metrics."""

    references: Sequence[Reference]
    metrics: Sequence[str]

    def quality(self, texts: Sequence[str], teachers: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return each metric of `texts`, and its difference to that of the teacher's texts.

        Returns:
            By metric: `value` (0 to 100), `difference`, and `low` and `high` of its 95% interval, by a paired
            bootstrap over the texts.
        """
        found = {}
        for metric in self.metrics:
            own, theirs = (sentence_statistics(metric, each, self.references) for each in (texts, teachers))
            compared = asdict(paired_bootstrap([own], [theirs]))
            found[metric] = {"value": own.corpus()} | {name: compared[name] for name in ("difference", "low", "high")}
        return found


def same_texts(texts: Sequence[str], teachers: Sequence[str]) -> float:
    """Return the share of the texts that are the teacher's own."""
    return sum(own == theirs for own, theirs in zip(texts, teachers, strict=True)) / len(texts)


def judged(
    texts: Mapping[str, Sequence[str]], teacher: str, judge: Judge | None
) -> dict[str, dict[str, dict[str, float]] | None]:
    """Return the quality of every system by its name; None where the texts have no references.

    Systems that wrote the same are scored once.
    """
    if judge is None:
        return dict.fromkeys(texts)
    known = {key: judge.quality(key, texts[teacher]) for key in dict.fromkeys(map(tuple, texts.values()))}
    return {name: known[tuple(each)] for name, each in texts.items()}
