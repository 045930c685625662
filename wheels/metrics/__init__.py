"""Scores of texts against references, with the statistics that a bootstrap needs."""

from wheels.metrics.answers import answer_of, same_answer
from wheels.metrics.names import METRICS, metric_name
from wheels.metrics.own import OwnMetric, code_of_metric, find_metric
from wheels.metrics.scores import (
    RougeTokenizer,
    Score,
    SufficientStatistics,
    bleu_from_totals,
    chrf_from_totals,
    score,
    sentence_scores,
    sentence_statistics,
    signature,
)

__all__ = [
    "METRICS", "OwnMetric", "RougeTokenizer", "Score", "SufficientStatistics", "answer_of", "bleu_from_totals",
    "chrf_from_totals", "code_of_metric", "find_metric", "metric_name", "same_answer", "score", "sentence_scores",
    "sentence_statistics", "signature",
]  # fmt: skip
