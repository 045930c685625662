"""Metrics: sacrebleu's and rouge-score's numbers to the last digit, and a bootstrap that needs no rescoring."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF

from wheels import metrics
from wheels.errors import WheelsError
from wheels.metrics import METRICS, RougeTokenizer, score, sentence_scores, sentence_statistics, signature

# Sums of whole numbers are exact; the logarithms of numpy and of the C library may differ in the last bit.
CLOSE = 1e-9
HYPOTHESES = [
    "The train to Vienna leaves Rome at 3:05 PM on March 7, 2019.",
    "the doctor moved",
    "",
    "completely different words here",
    "Die Ärztin zieht nach Köln, weil sie dort Zuhörer trifft.",
    "a",
    "In Moscow, the teacher bought 12 kilograms of tea and paid 3 for it.",
    "x y z x y z x y z",
]
EQUATIONS = ["( 3 + 4 )", "8 - 1", "14 / 0", "x", "9"]
REFERENCES = [
    "The train to Vienna leaves Rome at 4:05 PM on March 17, 2019.",
    "The doctor moved from Spain to Peru.",
    "not empty",
    "no word shared",
    "Die Ärztin zog nach Köln, weil sie dort viele Zuhörer traf.",
    "a",
    "In Moscow, the teacher bought 12 kilograms of coffee and paid 13 for it.",
    "x y z",
]


@pytest.mark.parametrize(("metric", "theirs"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_bleu_and_chrf_are_sacrebleus(metric: str, theirs: BLEU | CHRF) -> None:
    expected = theirs.corpus_score(HYPOTHESES, [REFERENCES])
    got = score(metric, HYPOTHESES, REFERENCES)
    assert got.value == expected.score
    assert got.signature == str(theirs.get_signature())
    assert (got.name, got.count) == (metric, len(HYPOTHESES))
    assert 0 < got.value < 100


@pytest.mark.parametrize("metric", METRICS)
def test_all_indices_are_the_corpus(metric: str) -> None:
    statistics = sentence_statistics(metric, HYPOTHESES, REFERENCES)
    assert len(statistics) == len(HYPOTHESES)
    assert statistics.corpus() == score(metric, HYPOTHESES, REFERENCES).value
    assert statistics.corpus(range(len(HYPOTHESES))) == statistics.corpus()


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_is_scored_as_if_its_sentences_were_the_corpus(metric: str) -> None:
    hypotheses, references = HYPOTHESES, REFERENCES
    if metric == "equation":
        hypotheses, references = EQUATIONS, ["7"] * len(EQUATIONS)
    statistics = sentence_statistics(metric, hypotheses, references)
    random = np.random.default_rng(0)
    indices_ZN = random.integers(len(hypotheses), size=(40, len(hypotheses)))
    weights_ZN = np.array([np.bincount(row, minlength=len(hypotheses)) for row in indices_ZN])
    resampled_Z = statistics.resampled(weights_ZN)
    for row, value in zip(indices_ZN, resampled_Z, strict=True):
        texts = [hypotheses[i] for i in row], [references[i] for i in row]
        expected = score(metric, *texts).value
        assert statistics.corpus(row) == pytest.approx(expected, rel=0, abs=0 if metric in ("bleu", "chrf") else CLOSE)
        assert value == pytest.approx(expected, rel=0, abs=CLOSE)
        if metric in ("bleu", "chrf"):
            theirs = BLEU() if metric == "bleu" else CHRF()
            assert value == pytest.approx(theirs.corpus_score(texts[0], [texts[1]]).score, rel=0, abs=CLOSE)
    assert resampled_Z.std() > 0
    if metric in ("bleu", "chrf"):
        # Negative control: the mean of sentence scores is another number, by far more than the tolerance.
        assert abs(np.mean(sentence_scores(metric, hypotheses, references)) - statistics.corpus()) > 0.1


def _random_bleu_totals(random: np.random.Generator) -> list[int]:
    length = int(random.integers(0, 9))
    totals = [max(0, length - order) * int(random.integers(1, 3)) for order in range(4)]
    correct = [int(random.integers(0, total + 1)) if random.random() < 0.7 else 0 for total in totals]
    return [length, int(random.integers(0, 12)), *correct, *totals]


def test_bleu_of_degenerate_totals_is_sacrebleus() -> None:
    random = np.random.default_rng(1)
    rows = [_random_bleu_totals(random) for _ in range(3000)]
    expected = [BLEU()._compute_score_from_stats(list(row)).score for row in rows]
    np.testing.assert_allclose(metrics.bleu_from_totals(np.array(rows, dtype=float)), expected, rtol=0, atol=CLOSE)
    assert sum(value == 0 for value in expected) > 100 < sum(value > 0 for value in expected)


def test_chrf_of_degenerate_totals_is_sacrebleus() -> None:
    random = np.random.default_rng(2)
    rows = []
    for _ in range(3000):
        row: list[int] = []
        for _ in range(6):
            sides = random.integers(0, 4, size=2) * random.integers(0, 2, size=2)
            row += [*map(int, sides), int(random.integers(0, sides.min() + 1))]
        rows.append(row)
    expected = [CHRF()._compute_score_from_stats(row).score for row in rows]
    np.testing.assert_allclose(metrics.chrf_from_totals(np.array(rows, dtype=float)), expected, rtol=0, atol=CLOSE)
    assert sum(value == 0 for value in expected) > 100 < sum(value > 0 for value in expected)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "bleu", "chrf", "rouge1", "exact"),
    [
        ("", "a b c d", 0, 0, 0, 0),
        ("a b c d", "", 0, 0, 0, 0),
        ("", "", 0, 0, 0, 100),
        ("one two three four", "one two three four", 100, 100, 100, 100),
        (" one two three four\n", "one two three four", 100, 100, 100, 100),
        ("one two", "one two", 0, 100, 100, 100),  # no 3-grams: corpus BLEU is 0
        ("one two three five", "one two three four", 59.460355, None, 75, 0),  # (3/4 2/3 1/2 1/(2*1))^(1/4)
    ],
)
def test_values_by_hand(
    hypothesis: str, reference: str, bleu: float, chrf: float | None, rouge1: float, exact: float
) -> None:
    for metric, expected in {"bleu": bleu, "chrf": chrf, "rouge1": rouge1, "exact": exact}.items():
        if expected is not None:
            assert score(metric, [hypothesis], [reference]).value == pytest.approx(expected, abs=1e-5), metric


@pytest.mark.slow
def test_rouge_is_rouge_scores_on_ascii_text() -> None:
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    texts = [text.encode("ascii", "ignore").decode() for text in HYPOTHESES + REFERENCES]
    texts += [
        "The cats sat.\nThey were running quickly_home",
        "A cat sits.\nIt runs; quickly home - don't!",
        "tabs\tand  2,5%",
    ]
    pairs = [(a, b) for a in texts for b in texts]
    for name in names:
        expected = [100 * scorer.score(b, a)[name].fmeasure for a, b in pairs]
        assert sentence_scores(name, *map(list, zip(*pairs, strict=True))) == pytest.approx(expected, abs=CLOSE)
        mean = score(name, [a for a, _ in pairs], [b for _, b in pairs]).value
        assert mean == pytest.approx(np.mean(expected), abs=CLOSE)
    for text in texts:
        assert RougeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_rouge_keeps_words_that_are_not_ascii() -> None:
    tokens = RougeTokenizer().tokenize
    assert tokens("Größe, Ärzte & naïve 東京です हिन्दी!") == [
        "größe",
        "ärzte",
        "naïve",
        "東",
        "京",
        "で",
        "す",
        "हिन्दी",
    ]
    assert tokens("a\u0308rzte") == ["ärzte"]
    assert tokens("") == tokens("—…!") == []
    assert score("rouge1", ["Žižek čte"], ["Žižek čte"]).value == 100
    # Negative control: rouge-score's own words lose the text, and the score with it.
    assert RougeScorer(["rouge1"], use_stemmer=True).score("Привет мир", "Привет мир")["rouge1"].fmeasure == 0
    assert score("rouge1", ["Привет мир"], ["Привет мир"]).value == 100
    assert "tok:unicode" in signature("rouge1", [])


def test_rouge_lsum_takes_each_line_as_a_sentence() -> None:
    one, two = "the cat sat\nthe dog ran", "the dog ran\nthe cat sat"
    assert score("rougeLsum", [one], [two]).value == 100
    assert score("rougeL", [one], [two]).value == 50
    assert "sentences:lines" in signature("rougeLsum", []) and "sentences" not in signature("rougeL", [])


def test_sentence_scores_are_sacrebleus() -> None:
    bleu, chrf = BLEU(effective_order=True), CHRF()
    pairs = list(zip(HYPOTHESES, REFERENCES, strict=True))
    assert sentence_scores("bleu", HYPOTHESES, REFERENCES) == [bleu.sentence_score(a, [b]).score for a, b in pairs]
    assert sentence_scores("chrf", HYPOTHESES, REFERENCES) == [chrf.sentence_score(a, [b]).score for a, b in pairs]
    assert sentence_scores("exact", ["a ", "b"], ["a", "c"]) == [100, 0]
    assert sentence_scores("chrf", [], []) == []


@pytest.mark.parametrize("metric", METRICS)
def test_bad_corpora_are_refused(metric: str) -> None:
    with pytest.raises(WheelsError, match=f"{metric} needs at least one sentence, got none"):
        score(metric, [], [])
    with pytest.raises(WheelsError, match=f"{metric} needs at least one sentence, got none"):
        sentence_statistics(metric, [], [])
    with pytest.raises(WheelsError, match=f"{metric} needs one reference for each text, got 2 texts and 1 references"):
        score(metric, ["a", "b"], ["a"])
    with pytest.raises(WheelsError, match="one reference for each text, got 1 texts and 0"):
        sentence_scores(metric, ["a"], [])
    with pytest.raises(WheelsError, match="must be lists of texts, got one text"):
        score(metric, "a", "b")
    with pytest.raises(WheelsError, match="needs at least one sentence"):
        sentence_statistics(metric, ["a"], ["a"]).corpus([])


def test_an_unknown_metric_is_refused_with_a_suggestion() -> None:
    for call in (score, sentence_scores, sentence_statistics):
        with pytest.raises(WheelsError, match=r"metric must be one of bleu.*got 'rouge-1'; did you mean 'rouge1'"):
            call("rouge-1", ["a"], ["a"])
    with pytest.raises(WheelsError, match="metric must be one of"):
        signature("BLUE", [])


@pytest.mark.slow
def test_a_thousand_resamples_of_a_thousand_sentences_take_no_time() -> None:
    statistics = sentence_statistics("bleu", HYPOTHESES * 125, REFERENCES * 125)
    weights_ZN = np.random.default_rng(0).multinomial(1000, [1 / 1000] * 1000, size=1000)
    start = time.process_time()
    assert statistics.resampled(weights_ZN).shape == (1000,)
    assert time.process_time() - start < 2


def test_importing_metrics_loads_no_scorer() -> None:
    heavy = ("sacrebleu", "rouge_score", "nltk", "torch")
    code = f"import sys, wheels.metrics; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
