"""The names of the metrics that the package brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Reference: TypeAlias = "str | Sequence[str]"
"""What one text is compared with: a text, or several that are as good as each other."""

METRICS = {
    "bleu": "BLEU of the corpus, by sacrebleu; single texts are scored with chrF",
    "chrf": "chrF: F-score of character n-grams, by sacrebleu",
    "rouge1": "ROUGE-1: F-score of words",
    "rouge2": "ROUGE-2: F-score of pairs of words",
    "rougeL": "ROUGE-L: F-score of the longest common subsequence",
    "rougeLsum": "ROUGE-L, sentence by sentence",
    "exact": "share of texts that equal the reference",
    "answer": "share of solutions with the reference's answer: after ####, in \\boxed{}, or the last number",
    "equation": "share of equations that come to the reference's value",
}
"""The metrics, each with a line on what it measures. All run from 0 to 100; more is better."""
_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact": "exact match",
    "answer": "right final answers",
    "equation": "right answers",
}


def metric_name(metric: str) -> str:
    """Return a metric's name as it is written in print."""
    return _NAMES.get(metric, metric.replace("rouge", "ROUGE-"))


def several(reference: Reference) -> list[str]:
    """Return the texts of a reference, which may be one."""
    return [reference] if isinstance(reference, str) else list(reference)
