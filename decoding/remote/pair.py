"""A student here, its teacher behind an address."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from wheels.data.prompts import Prompt
from wheels.decoding.remote.prices import Bill, bill_of
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sequences import Sequence
from wheels.errors import WheelsError, check_kind
from wheels.models.limits import context_limit
from wheels.models.loading import Tokenizer, load_model, load_tokenizer
from wheels.models.student_pair import StudentPair


class RemotePair(StudentPair):
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

    def __init__(
        self,
        student: PreTrainedModel,
        remote: RemoteTeacher,
        tokenizer: Tokenizer,
        *,
        prompt: Prompt | str = "{source}",
        student_weights: str = "float32",
    ) -> None:
        check_kind("remote", remote, RemoteTeacher, "a RemoteTeacher")
        self.remote = remote
        super().__init__(student, tokenizer, prompt=prompt, student_weights=student_weights)
        self.probe = remote.connect(tokenizer, self.vocab_size, is_seq2seq=self.is_seq2seq)

    @property
    def teacher_told(self) -> str:
        """What the teacher tells, for errors."""
        return f"the teacher {self.remote.place} tells the tokens that it writes, and no logits"

    @property
    def other_teacher(self) -> str:
        """What to give in its place, for errors."""
        return "the folder of a teacher"

    @property
    def most_per_call(self) -> int:
        """Tokens that a call buys at most."""
        return self.remote.span.most

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
    def source_limit(self) -> int | None:
        """The most tokens of source; a causal model shares them with its output. None: no limit is known."""
        limits = [context_limit(self.student, self.tokenizer), self.probe.limit if self.probe is not None else None]
        return min((limit for limit in limits if limit is not None), default=None)
