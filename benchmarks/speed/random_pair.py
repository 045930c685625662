"""A pair of random weights and texts of random words, from sizes in a YAML file: speed of any size without training.

Random weights repeat one token, so what depends on how well the student foretells the teacher cannot be timed on them;
deferral with random calls can. The end of a text is suppressed: every output has the same length.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from wheels.config.fields import check_known
from wheels.config.parsing import read_mapping
from wheels.errors import WheelsError, check_choice
from wheels.models.build import CONTEXT, EOS_ID, FAMILIES, SPECIAL_TOKENS, UNK_ID, ModelSize, build_model
from wheels.models.devices import check_device
from wheels.models.loading import DTYPES, Tokenizer
from wheels.models.pair import Pair

SIZE_KEYS = ("width", "layers", "heads", "ff")


@dataclass(frozen=True)
class RandomPair:
    """The sizes of a pair, and of its texts.

    Raises:
        WheelsError: for a size that cannot be.
    """

    family: str
    """`llama` or `t5`."""
    vocab_size: int
    """V, the special tokens included."""
    student: ModelSize
    teacher: ModelSize
    prompt_tokens: int
    """Tokens of each source."""
    new_tokens: int
    """Tokens of each output."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("family", self.family, FAMILIES)
        least = {"vocab_size": len(SPECIAL_TOKENS) + 1, "prompt_tokens": 2, "new_tokens": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise WheelsError(f"{name} must be at least {low}, got {getattr(self, name)}")
        total = self.prompt_tokens + self.new_tokens
        if self.family == "llama" and total > 2 * CONTEXT:
            raise WheelsError(f"prompt_tokens and new_tokens must be at most {2 * CONTEXT} together, got {total}")

    @classmethod
    def read(cls, path: str | Path) -> RandomPair:
        """Read the sizes from a YAML file.

        Raises:
            WheelsError: naming the file and the line, for a key that is unknown or missing, or a bad value.
        """
        names = [field.name for field in fields(cls)]
        values = {}
        mapping = read_mapping(path)
        for name, (value, line) in mapping.items():
            try:
                check_known([str(name)], names, "key")
                values[name] = _value(name, value)
            except WheelsError as error:
                raise WheelsError(f"{path}:{line}: {error}") from None
        missing = [name for name in names if name not in values]
        if missing:
            raise WheelsError(f"{path}: {missing[0]} is missing; a pair of random weights needs {', '.join(names)}")
        try:
            return cls(**values)
        except WheelsError as error:
            raise WheelsError(f"{path}: {error}") from None

    def build(self, *, dtype: str, device: str) -> Pair:
        """Return the pair: the weights are a function of the sizes and the kind of device alone."""
        made, place = [], check_device(device)
        for seed, size in enumerate((self.student, self.teacher)):
            with place:  # billions of weights are drawn in seconds there, and in minutes on a CPU
                model = build_model(size, family=self.family, vocab_size=self.vocab_size, seed=seed)
            assert model.generation_config is not None, "a model that was built can generate"
            model.generation_config.suppress_tokens = [EOS_ID]
            placed: Any = model
            made.append(placed.to(device=place, dtype=DTYPES[dtype]))
        return Pair.of(made[0], made[1], self._tokenizer())

    def sources(self, rows: int) -> list[str]:
        """Return texts of random words, each of `prompt_tokens` tokens; the same ones every time."""
        draw = random.Random(0)
        words = self._words()
        count = self.prompt_tokens - (self.family == "t5")  # whose tokenizer adds the end
        return [" ".join(draw.choices(words, k=count)) for _ in range(rows)]

    def _words(self) -> list[str]:
        """Return the vocabulary without the special tokens."""
        return [f"w{number}" for number in range(self.vocab_size - len(SPECIAL_TOKENS))]

    def _tokenizer(self) -> Tokenizer:
        """Return a tokenizer whose every word is one token."""
        vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *self._words()])}
        raw = RawTokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[UNK_ID]))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        pad, end, unknown = SPECIAL_TOKENS
        if self.family == "t5":
            raw.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, EOS_ID)])
        return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, eos_token=end, unk_token=unknown)


def _value(name: str, value: Any) -> Any:
    """Return one value of the file as its type."""
    if name == "family":
        return str(value)
    if name not in ("student", "teacher"):
        return _whole(name, value)
    if not isinstance(value, dict):
        raise WheelsError(f"{name} must hold {', '.join(SIZE_KEYS)}, got {value!r}")
    check_known([str(key) for key in value], SIZE_KEYS, f"key of {name}")
    missing = [key for key in SIZE_KEYS if key not in value]
    if missing:
        raise WheelsError(f"{name} lacks {missing[0]}; it needs {', '.join(SIZE_KEYS)}")
    return ModelSize(**{key: _whole(f"{name}: {key}", number) for key, number in value.items()})


def _whole(name: str, value: Any) -> int:
    """Return a whole number, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WheelsError(f"{name} must be a whole number, got {value!r}")
    return value
