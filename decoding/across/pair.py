"""A student and a teacher that share no tokenizer, both here."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from wheels.data.prompts import Prompt
from wheels.decoding.across.spelling import Pieces, Spelling
from wheels.decoding.remote.span import FORMS, SpanRule
from wheels.errors import WheelsError, check_kind
from wheels.models.devices import Devices
from wheels.models.encoding import check_chat, encode_sources
from wheels.models.families import check_family
from wheels.models.generation_settings import Constraints
from wheels.models.limits import context_limit
from wheels.models.loading import AUTO, Tokenizer, load_config, load_tokenizer
from wheels.models.pair import Pair, end_tokens, logits_size, name_of, start_tokens
from wheels.models.pair_loading import Loading
from wheels.models.student_pair import StudentPair
from wheels.models.tokenizers import DifferentTokenizers

log = logging.getLogger("wheels")


class TextPair(StudentPair):
    """A student and a teacher with tokenizers of their own.

    A call lets the teacher read the text so far, in its tokens, and write on. What it writes is spelled in the
    student's tokens, and ends where these stay what they are when its next token follows.

    Args:
        student: A sequence-to-sequence or causal model.
        teacher: Another one, of either kind.
        tokenizer: The student's.
        teacher_tokenizer: The teacher's.
        prompt: What both read of a source, each in its own chat template where it has one.
        span: How much a call buys, in the teacher's tokens (`wheels.decoding.remote.span`).
        student_weights: As in `Pair`.
        teacher_weights: As in `Pair`.

    Raises:
        WheelsError: where a tokenizer does not fit its model, or lacks the chat template of the prompt.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        tokenizer: Tokenizer,
        teacher_tokenizer: Tokenizer,
        *,
        prompt: Prompt | str = "{source}",
        span: str = "tokens:1",
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> None:
        check_kind("teacher", teacher, PreTrainedModel, "a model in memory (TextPair.load takes folders)")
        check_kind("teacher_tokenizer", teacher_tokenizer, Tokenizer, "a tokenizer")
        self.writer, self.teacher_tokenizer = teacher.eval().requires_grad_(False), teacher_tokenizer
        self.span = SpanRule.of(span)
        if self.span.chosen:
            raise WheelsError(f"span {span!r} is for a teacher behind an address; give {FORMS}")
        weights = {"student_weights": student_weights, "teacher_weights": teacher_weights}
        super().__init__(student, tokenizer, prompt=prompt, **weights)
        self.spelling = Spelling(tokenizer, not self.is_seq2seq)
        self.teacher_spelling = Spelling(teacher_tokenizer, not teacher.config.is_encoder_decoder)
        self.first = Constraints.of(student).forced_first
        """The token that the student's outputs begin with, whatever they say."""

    @classmethod
    def load(
        cls,
        student: str | Path,
        teacher: str | Path,
        *,
        prompt: Prompt | str = "{source}",
        span: str = "tokens:1",
        dtype: str = AUTO,
        student_dtype: str | None = None,
        teacher_dtype: str | None = None,
        device: str = "cpu",
        teacher_device: Devices | None = None,
        teacher_quantization: str | None = None,
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> TextPair:
        """Load both models; the arguments are those of `Pair.load`, and `span` as in `TextPair`.

        Raises:
            WheelsError: a model is missing or damaged.
        """
        check_family(load_config(student, role="student"))
        check_family(load_config(teacher, role="teacher"))
        dtypes, devices = (dtype, student_dtype, teacher_dtype), (device, teacher_device)
        loading = Loading(*dtypes, *devices, teacher_quantization, student_weights, teacher_weights)
        q, p = loading.student(student), loading.teacher(teacher)
        tokenizers = load_tokenizer(student, role="student"), load_tokenizer(teacher, role="teacher")
        return cls(q, p, tokenizers[0], tokenizers[1], prompt=prompt, span=span, **loading.weights)

    def __repr__(self) -> str:
        return f"TextPair({type(self.student).__name__}, {type(self.writer).__name__})"

    verifies_text = True

    @property
    def by_text(self) -> bool:
        """Whether the teacher reads and writes text: always."""
        return True

    @property
    def teacher_told(self) -> str:
        """What the teacher tells, for errors."""
        return f"the teacher {name_of(self.writer)!r} has another tokenizer, and writes text for its student"

    @property
    def other_teacher(self) -> str:
        """What to give in its place, for errors."""
        return "a teacher with the student's tokenizer"

    @property
    def most_per_call(self) -> int | None:
        """Student's tokens that a call buys: it depends on the text."""
        return None

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """Both models."""
        return self.student, self.writer

    @property
    def source_limit(self) -> int | None:
        """The most tokens of source that the student reads; the teacher's own limit is checked for each source."""
        return context_limit(self.student, self.tokenizer)

    @property
    def teacher_limit(self) -> int | None:
        """The most tokens that the teacher reads, of its own."""
        return context_limit(self.writer, self.teacher_tokenizer)

    @property
    def teacher_start(self) -> list[int]:
        """What the teacher's decoder reads before an output: its start, and the first token that is forced."""
        first = Constraints.of(self.writer).forced_first
        return [*start_tokens(self.writer), *([] if first is None else [first])]

    @property
    def teacher_ends(self) -> frozenset[int]:
        """The teacher's end tokens."""
        return frozenset(end_tokens(self.writer, self.teacher_tokenizer))

    @property
    def teacher_end(self) -> int:
        """The token that the teacher is taken to end a text with: its tokenizer's, where that is one of its ends."""
        own = self.teacher_tokenizer.eos_token_id
        return int(own) if own in self.teacher_ends else end_tokens(self.writer, self.teacher_tokenizer)[0]

    @cached_property
    def teacher_pieces(self) -> Pieces:
        """What each of the teacher's tokens says: made once, it takes seconds for a large vocabulary."""
        return Pieces(self.teacher_tokenizer, min(len(self.teacher_tokenizer), logits_size(self.writer)))

    @property
    def signature(self) -> str:
        """What outputs depend on beside the models and the student's tokenizer."""
        return repr((self.span, sorted(self.teacher_tokenizer.get_vocab().items())))

    def read_by(self, prompt: Prompt | str) -> None:
        """Read sources by another prompt from now on, both models."""
        super().read_by(prompt)
        check_chat(self.teacher_tokenizer, self.prompt, is_seq2seq=bool(self.writer.config.is_encoder_decoder))

    def encode_for_teacher(self, source: str) -> list[int]:
        """Return the teacher's tokens of a source.

        Raises:
            WheelsError: where they are more than it reads.
        """
        is_seq2seq = bool(self.writer.config.is_encoder_decoder)
        (tokens,) = encode_sources(self.teacher_tokenizer, [source], is_seq2seq=is_seq2seq, prompt=self.prompt)
        if self.teacher_limit is not None and len(tokens) >= self.teacher_limit:
            raise WheelsError(f"{len(tokens)} tokens of the teacher's, which reads at most {self.teacher_limit}")
        return tokens


def load_pair(student: str | Path, teacher: str | Path, *, span: str = "tokens:1", **settings: Any) -> Pair:
    """Load a pair of one tokenizer (`Pair.load`), or of two: then it is said that calls go by text (`TextPair.load`).

    Raises:
        WheelsError: as both, and for a span of several tokens where there is one tokenizer.
    """
    try:
        pair = Pair.load(student, teacher, **settings)
    except DifferentTokenizers as difference:
        log.info("%s; calls go by text, and use is counted in the student's tokens", difference.difference)
        return TextPair.load(student, teacher, span=span, **settings)
    if SpanRule.of(span) != SpanRule():
        raise WheelsError(
            f"span {span!r} is for a teacher behind an address or with a tokenizer of its own, and {teacher} has its "
            "student's; leave it out"
        )
    return pair
