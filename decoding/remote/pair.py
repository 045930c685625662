"""A student here, its teacher behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from wheels.data.prompts import Prompt
from wheels.decoding.remote.prices import Bill, bill_of
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sequences import Sequence
from wheels.errors import WheelsError, check_kind
from wheels.models.limits import context_limit
from wheels.models.loading import Tokenizer, load_model, load_tokenizer
from wheels.models.pair import Pair, end_tokens, logits_size, name_of


class RemotePair(Pair):
    """A student and a tokenizer in memory, and a teacher that is asked over HTTP.

    The teacher writes tokens and shows no logits, so whatever needs those is refused: `teacher` is an error.

    Args:
        student: A sequence-to-sequence or causal model.
        remote: Where its teacher is; it is asked now what it has (`RemoteTeacher.connect`).
        tokenizer: That of both.
        prompt: What the models read of a source.
        student_weights: As in `Pair`.

    Raises:
        WheelsError: for a server that cannot be a teacher of this student.
    """

    is_remote: ClassVar[bool] = True

    def __init__(
        self,
        student: PreTrainedModel,
        remote: RemoteTeacher,
        tokenizer: Tokenizer,
        *,
        prompt: Prompt | str = "{source}",
        student_weights: str = "float32",
    ) -> None:
        check_kind("student", student, PreTrainedModel, "a model in memory (RemotePair.load takes folders)")
        check_kind("remote", remote, RemoteTeacher, "a RemoteTeacher")
        check_kind("tokenizer", tokenizer, Tokenizer, "a tokenizer")
        self.student, self.remote, self.tokenizer, self.prompt = student.eval(), remote, tokenizer, Prompt.of(prompt)
        self.student_weights, self.teacher_weights = student_weights, "float32"
        self.__post_init__()
        self.read_by(self.prompt)
        highest = max(tokenizer.get_vocab().values())
        if highest >= self.vocab_size:
            raise WheelsError(
                f"the tokenizer has ids up to {highest}, but student {name_of(student)!r} has only {self.vocab_size} "
                "logits"
            )
        self.probe = remote.connect(tokenizer, self.vocab_size, is_seq2seq=self.is_seq2seq)

    def __getattr__(self, name: str) -> Any:
        """Refuse the teacher by name."""
        if name == "teacher":
            raise WheelsError(
                f"the teacher {self.remote.place} shows neither weights nor logits, and this needs them; give the "
                "folder of a teacher"
            )
        raise AttributeError(f"{type(self).__name__} has no {name}")

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"RemotePair({type(self.student).__name__}, {self.remote.place})"

    @classmethod
    def load(
        cls,
        student: str | Path,
        teacher: str | Path,
        *,
        remote: RemoteTeacher | None = None,
        prompt: Prompt | str = "{source}",
        dtype: str = "auto",
        student_dtype: str | None = None,
        teacher_dtype: str | None = None,
        device: str = "cpu",
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> RemotePair:
        """Load the student from a folder or the Hub; the arguments are those of `Pair.load`, but for one.

        Args:
            student: Folder or hub id.
            teacher: What the teacher is called; nothing is read there.
            remote: The teacher.
            prompt: What the models read of a source.
            dtype: Of the student.
            student_dtype: The same, before `dtype`.
            teacher_dtype: None: the server has its own.
            device: Of the student.
            student_weights: As in `Pair`.
            teacher_weights: `float32`: the server has its own.

        Raises:
            WheelsError: where the student is missing or damaged, or has another teacher.
        """
        check_kind("remote", remote, RemoteTeacher, "a RemoteTeacher")
        assert remote is not None
        if teacher_dtype is not None:
            raise WheelsError(f"teacher_dtype {teacher_dtype!r} is for a teacher in a folder; leave it out")
        if teacher_weights != "float32":
            raise WheelsError(f"teacher_weights {teacher_weights!r} is for a teacher in a folder; leave it out")
        tokenizer = load_tokenizer(student, role="student")
        model = load_model(student, dtype=student_dtype or dtype, device=device, role="student")
        return cls(model, remote, tokenizer, prompt=prompt, student_weights=student_weights)

    def close(self) -> None:
        """Close the teacher's connections, and give up its ledger."""
        self.remote.close()

    def bill(self, sequence: Sequence) -> Bill:
        """Return what an output cost."""
        return bill_of(self.remote.ledger.prices, sequence.usage, len(sequence.source), len(sequence.tokens))

    @property
    def vocab_size(self) -> int:
        """V, the range of token ids: the student's."""
        return logits_size(self.student)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The student's end tokens; where the teacher ends a text with one of its own, the student's first stands."""
        return end_tokens(self.student, self.tokenizer)

    @property
    def source_limit(self) -> int | None:
        """The most tokens of source; a causal model shares them with its output. None: no limit is known."""
        limits = [context_limit(self.student, self.tokenizer), self.probe.limit if self.probe is not None else None]
        return min((limit for limit in limits if limit is not None), default=None)
