"""A pair whose teacher tells what it writes, and no logits over the student's tokens: elsewhere, or in other tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from transformers import PreTrainedModel

from wheels.data.prompts import Prompt
from wheels.errors import WheelsError, check_kind
from wheels.models.loading import Tokenizer
from wheels.models.pair import Pair, end_tokens, logits_size, name_of


class StudentPair(Pair):
    """A student and its tokenizer; whatever needs the teacher's logits is refused: `teacher` is an error.

    Args:
        student: A sequence-to-sequence or causal model.
        tokenizer: The student's.
        prompt: What the models read of a source.
        student_weights: As in `Pair`.
        teacher_weights: As in `Pair`.

    Raises:
        WheelsError: where the tokenizer has ids that the student gives no logits for.
    """

    shows_logits: ClassVar[bool] = False

    def __init__(
        self,
        student: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        prompt: Prompt | str = "{source}",
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> None:
        check_kind("student", student, PreTrainedModel, f"a model in memory ({type(self).__name__}.load takes folders)")
        check_kind("tokenizer", tokenizer, Tokenizer, "a tokenizer")
        self.student, self.tokenizer, self.prompt = student.eval(), tokenizer, Prompt.of(prompt)
        self.student_weights, self.teacher_weights = student_weights, teacher_weights
        self.__post_init__()
        self.read_by(self.prompt)
        highest = max(tokenizer.get_vocab().values())
        if highest >= self.vocab_size:
            raise WheelsError(
                f"the tokenizer has ids up to {highest}, but student {name_of(student)!r} has only {self.vocab_size} "
                "logits"
            )

    verifies_text: ClassVar[bool] = False
    """Whether the teacher verifies drafts by their text."""

    @property
    @abstractmethod
    def teacher_told(self) -> str:
        """Which teacher it is, and what it tells: a clause, for errors."""

    @property
    @abstractmethod
    def other_teacher(self) -> str:
        """What to give in its place, for errors."""

    @property
    @abstractmethod
    def most_per_call(self) -> int | None:
        """The student's tokens that a call buys at most; None: it depends on the text."""

    def __getattr__(self, name: str) -> Any:
        """Refuse the teacher by name."""
        if name == "teacher":
            raise WheelsError(f"{self.teacher_told}, and this needs its weights or logits; give {self.other_teacher}")
        raise AttributeError(f"{type(self).__name__} has no {name}")

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The models that are here."""
        return (self.student,)

    @property
    def vocab_size(self) -> int:
        """V, the range of token ids: the student's."""
        return logits_size(self.student)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The student's end tokens; where the teacher ends a text with one of its own, the student's first stands."""
        return end_tokens(self.student, self.tokenizer)
