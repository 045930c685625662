"""Words from tokens: by hand, over three kinds of sub-words, and the few that matter most."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wheels.data.prompts import Prompt
from wheels.errors import WheelsError
from wheels.models.build import train_tokenizer
from wheels.models.pair import encode_sources
from wheels.rationales.words import rationale, token_spans, top_words, word_scores, words_of

TEXT = "How many of the 1,234.5 friends' cafés (a) don't laugh -- \"ever\"?"
WORDS = ["How", "many", "of", "the", "1,234.5", "friends", "cafés", "a", "don't", "laugh", "ever"]
CORPUS = [TEXT, "many friends laugh", "the cafés laugh ever 1 2 3 4 5"]


def metaspace() -> PreTrainedTokenizerFast:
    raw = RawTokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    raw = RawTokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]"], show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")


TOKENIZERS = {
    "byte level": lambda: train_tokenizer(CORPUS, vocab_size=280),
    "metaspace": metaspace,
    "pieces": wordpiece,
}


def test_words_are_runs_without_their_outer_punctuation():
    assert [word.text for word in words_of(TEXT)] == WORDS
    assert all(TEXT[word.start : word.end] == word.text for word in words_of(TEXT))
    assert words_of(" -- !? ") == []
    assert words_of("") == []
    assert [word.text for word in words_of("a a  b\u00a0a\n$5 हिन्दी 東京です。")] == [
        "a",
        "a",
        "b",
        "a",
        "$5",
        "हिन्दी",
        "東京です",
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", ["{source}", "{{1}} Q: {source} =>"])
@pytest.mark.parametrize("text", [TEXT, "  " + TEXT + " "])
def test_each_word_has_its_own_tokens(name, prompt, text):
    """The tokens of a word, put together, are the word: nothing is lost, and nothing of the prompt comes in."""
    tokenizer = TOKENIZERS[name]()
    spans = token_spans(tokenizer, Prompt(prompt), text)
    (ids,) = encode_sources(tokenizer, [text], is_seq2seq=True, prompt=Prompt(prompt))
    assert len(spans) == len(ids)
    for word in words_of(text):
        mine = [span for span in spans if span and span[0] < word.end and span[1] > word.start]
        covered = sorted({place for span in mine for place in range(*span)} & set(range(word.start, word.end)))
        assert covered == list(range(word.start, word.end)), word
    assert max(span[1] for span in spans if span) <= len(text)
    assert any(len([s for s in spans if s and s[0] < w.end and s[1] > w.start]) > 1 for w in words_of(text)), (
        "sub-words"
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_one_loud_token_is_heard_in_its_word_alone(name):
    tokenizer = TOKENIZERS[name]()
    words, spans = words_of(TEXT), token_spans(tokenizer, Prompt("Q: {source}"), TEXT)
    place = TEXT.index("laugh") + 2
    scores = [-1.0 if span and span[0] <= place < span[1] else 0.0 for span in spans]
    assert sum(scores) == -1.0
    merged = dict(zip([word.text for word in words], word_scores(words, spans, scores), strict=True))
    assert merged == {word: (-1.0 if word == "laugh" else 0.0) for word in WORDS}


def test_merging_by_hand():
    words = words_of("ab? cd")
    spans = [None, (0, 1), (1, 2), (1, 5), (2, 3), (4, 6), None]
    scores = [9.0, 1.0, -2.0, 0.5, 9.0, 0.25, 9.0]
    assert word_scores(words, spans, scores) == [-2.0, 0.5]
    assert word_scores(words, spans, scores, merge="sum") == [-0.5, 0.75]
    assert word_scores(words, [None], [1.0]) == [0.0, 0.0]
    assert word_scores([], [], []) == []


def test_the_top_words_stand_in_the_order_of_the_text():
    assert top_words([0.1, -0.9, 0.5, 0.5, 0.5], 3) == [1, 2, 3]
    assert top_words([0.1, 0.2], 5) == [0, 1]
    assert top_words([], 5) == []
    assert rationale(["b", "a", "b"], [3.0, 1.0, 2.0], 2) == "b b"
    assert rationale([], [], 2) == ""


def test_a_tokenizer_without_places_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(WheelsError, match=r"Slow does not give the offsets of its tokens.* use a fast tokenizer"):
        token_spans(Slow(), Prompt(), "a")
