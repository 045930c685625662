"""Models alone: their own outputs, and the scores of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheels.config.fields import check_fields, option
from wheels.data.tasks import Row
from wheels.distillation.run_folder import run_facts
from wheels.metrics.names import Reference, several

if TYPE_CHECKING:
    from wheels.models.pair import Pair

PLAIN = ("rouge1", "rouge2", "rougeL")
"""ROUGE that is also given on whitespace tokens."""


class WhitespaceTokenizer:
    """A tokenizer for rouge-score that splits at white space."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words."""
        return text.split()


def plain_rouge(metric: str, texts: Sequence[str], references: Sequence[Reference]) -> float:
    """Return the mean F1 of ROUGE-1, 2 or L, 0 to 100, on whitespace tokens, without stemming or change of case.

    Lin 2004 (https://aclanthology.org/W04-1013), by rouge-score. Published figures on texts that are tokenised already
    are often of this kind; `wheels.metrics` stems, takes letters and digits alone, and ignores case. Of several
    references the best counts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([metric], use_stemmer=False, tokenizer=WhitespaceTokenizer())
    pairs = zip(texts, map(several, references), strict=True)
    values = [scorer.score_multi(known, text)[metric].fmeasure for text, known in pairs]
    return 100.0 * sum(values) / len(values)


def quality(texts: Sequence[str], references: Sequence[Reference], metrics: Sequence[str]) -> dict[str, float]:
    """Return each metric, and ROUGE of whitespace tokens as `rougeL_plain`, rounded to 2 digits."""
    from wheels.metrics import score

    found = {metric: score(metric, texts, references).value for metric in metrics}
    found |= {f"{name}_plain": plain_rouge(name, texts, references) for name in metrics if name in PLAIN}
    return {name: round(value, 2) for name, value in found.items()}


@dataclass(frozen=True)
class ScoresConfig:
    """How models alone are scored: greedy decoding of the validation and test rows."""

    metrics: tuple[str, ...] = option((), "metrics (default: the task's own)")
    limit: int | None = option(None, "score only the first rows of each split", minimum=1)
    max_new_tokens: int = option(128, "longest output, in tokens", minimum=1)
    batch_size: int = option(64, "rows decoded at once", minimum=1)
    lead: int = option(14, "words of the lead baseline, where the metrics are ROUGE", minimum=1)
    device: str = option("cpu", "device of the models, such as cpu or cuda")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Alone:
    """A model that writes by itself."""

    pair: Pair
    """The model, in both places."""
    facts: dict[str, Any]
    """`finished`: what its training noted; `parameters`: the number of its weights."""

    @classmethod
    def load(cls, folder: Path, prompt: str = "{source}", device: str = "cpu") -> Alone:
        """Load a model; `prompt` is the default for one without the notes of a training run."""
        from wheels.models.loading import load_model, load_tokenizer
        from wheels.models.pair import Pair

        finished, model = run_facts(folder), load_model(folder, device=device)
        pair = Pair.alone(model, load_tokenizer(folder), prompt=finished.get("prompt", prompt))
        return cls(pair, {"parameters": sum(weights.numel() for weights in model.parameters()), "finished": finished})

    def write(self, rows: Sequence[Row], max_new_tokens: int = 128, batch_size: int = 64) -> list[str]:
        """Return the greedy output for each row, by the engine's student-only method."""
        from wheels.decoding.methods.method import student_only
        from wheels.decoding.params import DecodeParams
        from wheels.decoding.streaming import decode

        params = DecodeParams(max_new_tokens=max_new_tokens)
        traces = decode(self.pair, [row.source for row in rows], student_only(), params, batch_size=batch_size)
        return [trace.text for trace in traces]
