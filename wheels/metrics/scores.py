"""Scores of texts against references, with the statistics that a bootstrap needs.

BLEU and chrF are sacrebleu's, ROUGE is rouge-score's; `exact` compares texts, `answer` the answers of worked solutions,
`equation` the values of arithmetic. Each score carries the signature that reproduces it. BLEU's words are cut as the
references' script asks (`wheels.data.writing_systems.bleu_tokenizer`). ROUGE's words are those of rouge-score on ASCII
text, and any letters of Unicode elsewhere, where rouge-score would drop them.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wheels.data.equations import TOLERANCE, same_value
from wheels.data.writing_systems import bleu_tokenizer, spaced
from wheels.errors import WheelsError
from wheels.metrics.answers import SIGNATURE, same_answer
from wheels.metrics.names import Reference, several
from wheels.metrics.own import OWN, find_metric

_BLEU_ORDER = 4
_CHRF_ORDER = 6
_CHRF_BETA = 2
# The floor of a logarithm of zero in sacrebleu.
_LOG_OF_ZERO = -9999999999.0


@dataclasses.dataclass(frozen=True)
class Score:
    """One number for a corpus.

    Attributes:
        name: of the metric.
        value: 0 to 100, more is better.
        signature: what reproduces the number: settings and version.
        count: how many sentences it was taken over.
    """

    name: str
    value: float
    signature: str
    count: int


@dataclasses.dataclass(frozen=True)
class SufficientStatistics:
    """A metric's statistics of each sentence; the corpus score is a function of their sum.

    Attributes:
        metric: its name.
        values_NK: one line a sentence. BLEU: lengths of hypothesis and reference, matched n-grams (1 to 4), n-grams of
            the hypothesis; chrF: (hypothesis, reference, matched) character n-grams for each order 1 to 6; otherwise
            the sentence's own score, 0 to 100.
    """

    metric: str
    values_NK: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.values_NK)

    def corpus(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> float:
        """Return the score, 0 to 100, of the sentences at `indices` (repeated ones count again), or of all.

        The same number as `score` of those sentences.

        Raises:
            WheelsError: for no sentence at all.
        """
        chosen_NK = self.values_NK if indices is None else self.values_NK[np.asarray(indices, dtype=np.int64)]
        if len(chosen_NK) == 0:
            raise WheelsError(f"{self.metric} needs at least one sentence, got none")
        total_K = chosen_NK.sum(axis=0)
        if self.metric in ("bleu", "chrf"):
            return float(_sacrebleu(self.metric)._compute_score_from_stats([int(value) for value in total_K]).score)
        return float(total_K[0] / len(chosen_NK))

    def resampled(self, weights_ZN: NDArray[Any]) -> NDArray[np.float64]:
        """Return the corpus score, 0 to 100, of each of Z resamples: `corpus` of all of them at once.

        Args:
            weights_ZN: how often resample z holds sentence n: counts, not probabilities.
        """
        weights_ZN = np.asarray(weights_ZN, dtype=np.float64)
        totals_ZK = weights_ZN @ self.values_NK
        if self.metric == "bleu":
            return bleu_from_totals(totals_ZK)
        if self.metric == "chrf":
            return chrf_from_totals(totals_ZK)
        return np.asarray(totals_ZK[:, 0] / weights_ZN.sum(axis=1), dtype=np.float64)


def bleu_from_totals(totals_ZK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return BLEU, 0 to 100, of summed statistics: sacrebleu's `compute_bleu` with its default smoothing, in one go.

    BLEU = BP exp(mean_n log p_n), BP = exp(1 - r/c) where c < r, and p_n = 100 / (2^k c_n) for the k-th order without
    a match (Papineni et al. 2002, https://aclanthology.org/P02-1040; smoothing "exp" of mteval-v13a).

    Args:
        totals_ZK: hypothesis length, reference length, matches of order 1 to 4, n-grams of order 1 to 4.
    """
    length_Z, reference_Z = totals_ZK[:, 0], totals_ZK[:, 1]
    correct_ZO, total_ZO = totals_ZK[:, 2 : 2 + _BLEU_ORDER], totals_ZK[:, 2 + _BLEU_ORDER :]
    there_ZO = total_ZO > 0
    missed_ZO = there_ZO & (correct_ZO == 0)
    smooth_ZO = 2.0 ** np.cumsum(missed_ZO, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision_ZO = 100.0 * np.where(missed_ZO, 1.0 / smooth_ZO, correct_ZO) / total_ZO
        log_ZO = np.where(there_ZO, np.log(precision_ZO), _LOG_OF_ZERO)
        shortness_Z = np.where(length_Z < reference_Z, np.exp(1 - reference_Z / length_Z), 1.0)
    score_Z = shortness_Z * np.exp(log_ZO.mean(axis=1))
    return np.where(correct_ZO.any(axis=1), score_Z, 0.0)


def chrf_from_totals(totals_ZK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return chrF2, 0 to 100, of summed statistics: sacrebleu's own, in one go.

    chrF = (1 + b^2) P R / (b^2 P + R), P and R averaged over the orders that both sides have (Popovic 2015,
    https://aclanthology.org/W15-3049), b = 2.

    Args:
        totals_ZK: for each order 1 to 6 the n-grams of the hypothesis, of the reference, and in both.
    """
    hypothesis_ZO, reference_ZO, match_ZO = (totals_ZK[:, start::3] for start in range(3))
    both_ZO = (hypothesis_ZO > 0) & (reference_ZO > 0)
    orders_Z = np.maximum(both_ZO.sum(axis=1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision_Z = np.where(both_ZO, match_ZO / hypothesis_ZO, 0.0).sum(axis=1) / orders_Z
        recall_Z = np.where(both_ZO, match_ZO / reference_ZO, 0.0).sum(axis=1) / orders_Z
        factor = _CHRF_BETA**2
        score_Z = 100 * (1 + factor) * precision_Z * recall_Z / (factor * precision_Z + recall_Z)
    return np.where(precision_Z + recall_Z > 0, score_Z, 0.0)


def score(
    metric: str, hypotheses: Sequence[str], references: Sequence[Reference], sources: Sequence[str] | None = None
) -> Score:
    """Return the score of a corpus.

    BLEU and chrF take several references of a sentence as sacrebleu does. Any other metric takes the best of them, as
    rouge-score's `score_multi` does.

    Args:
        metric: a name of `METRICS`, or `FILE.py:NAME` or `package.module:NAME` of the user's own (`find_metric`).
        hypotheses: the texts.
        references: what they are compared with: one each, or several.
        sources: what they were written from; only metrics of the user's own read them.

    Raises:
        WheelsError: for an unknown metric, no sentences, or lists of different lengths.
    """
    statistics = sentence_statistics(metric, hypotheses, references, sources)
    return Score(statistics.metric, statistics.corpus(), signature(metric, references), len(statistics))


def sentence_statistics(
    metric: str, hypotheses: Sequence[str], references: Sequence[Reference], sources: Sequence[str] | None = None
) -> SufficientStatistics:
    """Return the sufficient statistics of `metric` for any selection of the sentences; the arguments are `score`'s.

    Raises:
        WheelsError: for an unknown metric, no sentences, or lists of different lengths.
    """
    metric = find_metric(metric)
    _check_texts(metric, hypotheses, references)
    if not hypotheses:
        raise WheelsError(f"{metric} needs at least one sentence, got none")
    if metric in ("bleu", "chrf"):
        scorer = _sacrebleu(metric, references)
        rows = scorer._extract_corpus_statistics(list(hypotheses), streams(references))
    else:
        rows = [[value] for value in sentence_scores(metric, hypotheses, references, sources)]
    return SufficientStatistics(metric, np.array(rows, dtype=np.float64))


def sentence_scores(
    metric: str, hypotheses: Sequence[str], references: Sequence[Reference], sources: Sequence[str] | None = None
) -> list[float]:
    """Return the score, 0 to 100, of each sentence alone; BLEU with the effective order, as sacrebleu advises.

    Raises:
        WheelsError: for an unknown metric, or lists of different lengths.
    """
    metric = find_metric(metric)
    _check_texts(metric, hypotheses, references)
    if metric in ("bleu", "chrf"):
        scorer, pairs = _sacrebleu(metric, references, sentence=True), zip(hypotheses, references, strict=True)
        return [float(scorer.sentence_score(hypothesis, several(known)).score) for hypothesis, known in pairs]
    counts = [len(several(known)) for known in references]
    values = iter(_against_each(metric, *_flat(counts, hypotheses, references, sources)))
    return [max(islice(values, count)) for count in counts]


def _flat(
    counts: Sequence[int], hypotheses: Sequence[str], references: Sequence[Reference], sources: Sequence[str] | None
) -> tuple[list[str], list[str], list[str] | None]:
    """Return texts, references and sources with a line for each reference."""

    def repeated(texts: Sequence[str]) -> list[str]:
        return [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]

    flat = [one for known in references for one in several(known)]
    return repeated(hypotheses), flat, None if sources is None else repeated(sources)


def _against_each(
    metric: str, hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str] | None
) -> list[float]:
    """Return the score, 0 to 100, of each text against one reference."""
    if metric in OWN:
        return OWN[metric].scores(hypotheses, references, sources)
    pairs = list(zip(hypotheses, references, strict=True))
    if metric == "exact":
        return [100.0 * (hypothesis.strip() == reference.strip()) for hypothesis, reference in pairs]
    if metric == "answer":
        return [100.0 * same_answer(hypothesis, reference) for hypothesis, reference in pairs]
    if metric == "equation":
        return [100.0 * same_value(hypothesis, reference) for hypothesis, reference in pairs]
    rouge = _rouge(metric)
    return [100.0 * float(rouge.score(reference, hypothesis)[metric].fmeasure) for hypothesis, reference in pairs]


def streams(references: Sequence[Reference]) -> list[list[str | None]]:
    """Return references as sacrebleu takes them: the first of every sentence, the second or None, and so on."""
    return [list(stream) for stream in zip_longest(*map(several, references))] if references else [[]]


def _check_texts(metric: str, hypotheses: Sequence[str], references: Sequence[Reference]) -> None:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise WheelsError("hypotheses and references must be lists of texts, got one text")
    if len(hypotheses) != len(references):
        raise WheelsError(
            f"{metric} needs one reference for each text, got {len(hypotheses)} texts and {len(references)} references"
        )
    for number, known in enumerate(references, 1):
        if not isinstance(known, str) and not known:
            raise WheelsError(f"{metric} needs a reference for each text, got none for text {number}")


def signature(metric: str, references: Sequence[Reference]) -> str:
    """Return the signature of a score of `metric` against `references`, whose script decides BLEU's tokenizer.

    sacrebleu's own signature, and one in its manner for the others.
    """
    metric, counts = find_metric(metric), {len(several(known)) for known in references} or {1}
    if metric in ("bleu", "chrf"):
        scorer = _sacrebleu(metric, references)
        scorer.num_refs = counts.pop() if len(counts) == 1 else -1  # "var"
        return str(scorer.get_signature())
    return _own_signature(metric) + ("|refs:best" if counts != {1} else "")


def _own_signature(metric: str) -> str:
    if metric in OWN:
        return OWN[metric].signature
    if metric == "exact":
        return "strip:yes"
    if metric == "answer":
        return SIGNATURE
    if metric == "equation":
        return f"arithmetic|tolerance:{TOLERANCE:g}"
    from importlib.metadata import version

    lines = "|sentences:lines" if metric == "rougeLsum" else ""
    return f"f:1|stem:porter|tok:unicode{lines}|version:rouge-score-{version('rouge-score')}"


def _sacrebleu(metric: str, references: Sequence[Reference] = (), sentence: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    if metric == "chrf":
        return CHRF(char_order=_CHRF_ORDER, word_order=0, beta=_CHRF_BETA)
    # `force`: what a model writes is never tokenised, whatever it looks like.
    tokenizer = bleu_tokenizer([text for known in references for text in several(known)])
    return BLEU(force=True, tokenize=tokenizer, max_ngram_order=_BLEU_ORDER, effective_order=sentence)


@lru_cache
def _rouge(metric: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([metric], tokenizer=RougeTokenizer())


class RougeTokenizer:
    """Words for ROUGE: lower case, runs of letters, digits and their marks; each sign of a script without spaces alone.

    Words of ASCII letters go through the Porter stemmer as rouge-score does it, so that ASCII text has rouge-score's
    own words; others stay as they are.
    """

    def __init__(self) -> None:
        """Make the stemmer, with a cache of words."""
        from nltk.stem.porter import PorterStemmer

        self._stem = lru_cache(maxsize=100_000)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the words of `text`."""
        text = unicodedata.normalize("NFC", text.lower())
        words = "".join(map(_spaced, spaced(text))).split()
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


@lru_cache(maxsize=10_000)
def _spaced(character: str) -> str:
    if "\u3040" <= character <= "\u30ff" or unicodedata.name(character, "").startswith("CJK "):
        return f" {character} " if character.isalnum() else " "
    return character if character.isalnum() or unicodedata.category(character)[0] == "M" else " "
