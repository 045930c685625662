"""Several references of one text: sacrebleu's and rouge-score's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from wheels.benchmarks.core.score import quality
from wheels.errors import WheelsError
from wheels.metrics import score, sentence_scores, sentence_statistics, signature

TEXTS = ["the doctor moved to Peru", "x y z x y", "a train leaves Rome at three"]
KNOWN = [
    ("the doctor went to Peru", "a doctor moved to Spain"),
    "x y z",
    ("no word", "trains leave", "a train left Rome"),
]
STREAMS = [
    ["the doctor went to Peru", "x y z", "no word"],
    ["a doctor moved to Spain", None, "trains leave"],
    [None, None, "a train left Rome"],
]


@pytest.mark.parametrize(("metric", "theirs"), [("bleu", BLEU(force=True)), ("chrf", CHRF())])
def test_bleu_and_chrf_are_sacrebleus(metric, theirs):
    got = score(metric, TEXTS, KNOWN)
    assert got.value == theirs.corpus_score(TEXTS, STREAMS).score > score(metric, TEXTS, STREAMS[0]).value
    assert "nrefs:var" in got.signature
    assert "nrefs:2" in signature(metric, KNOWN[:1])
    assert "nrefs:1" in signature(metric, KNOWN[1:2])
    statistics = sentence_statistics(metric, TEXTS, KNOWN)
    assert statistics.resampled(np.ones((1, 3)))[0] == pytest.approx(got.value, abs=1e-9)
    first, second, _ = sentence_scores(metric, TEXTS, KNOWN)
    single = {"bleu": BLEU(effective_order=True), "chrf": CHRF()}[metric]
    assert first == single.sentence_score(TEXTS[0], list(KNOWN[0])).score
    assert second == single.sentence_score(TEXTS[1], ["x y z"]).score


@pytest.mark.parametrize("metric", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_best_of_them(metric):
    theirs = RougeScorer([metric], use_stemmer=True)
    expected = [
        100 * theirs.score_multi([known] if isinstance(known, str) else list(known), text)[metric].fmeasure
        for text, known in zip(TEXTS, KNOWN, strict=True)
    ]
    assert sentence_scores(metric, TEXTS, KNOWN) == pytest.approx(expected)
    assert score(metric, TEXTS, KNOWN).value == pytest.approx(np.mean(expected))
    assert signature(metric, KNOWN).endswith("|refs:best") and "refs" not in signature(metric, STREAMS[0])
    assert quality(TEXTS, KNOWN, [metric])[f"{metric}_plain"] > quality(TEXTS, STREAMS[0], [metric])[f"{metric}_plain"]


def test_one_of_them_is_enough_for_the_others_and_for_a_metric_of_ones_own(tmp_path):
    assert sentence_scores("exact", ["a", "b"], [("c", "a"), "c"]) == [100.0, 0.0]
    assert sentence_scores("answer", ["it is 4"], [("#### 5", "#### 4")]) == [100.0]
    (tmp_path / "own.py").write_text(
        "def length(texts, references, sources):\n    return [len(r) for r in references]\n"
    )
    metric = f"{tmp_path / 'own.py'}:length"
    assert sentence_scores(metric, ["a", "b"], [("c", "cccc", "cc"), "c"], ["s", "t"]) == [4.0, 1.0]


def test_a_text_without_any_is_refused():
    with pytest.raises(WheelsError, match="rougeL needs a reference for each text, got none for text 2"):
        score("rougeL", ["a", "b"], ["a", ()])
