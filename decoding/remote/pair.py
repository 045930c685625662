"""A student here, its teacher behind an address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from wheels.config.fields import check_elsewhere
from wheels.data.prompts import Prompt
from wheels.decoding.across.spelling import Spelling
from wheels.decoding.remote.prices import Bill, bill_of
from wheels.decoding.remote.protocol import Student
from wheels.decoding.remote.span import MOST, SpanRule
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sequences import Sequence
from wheels.endpoints.scoring import ScoringTeacher
from wheels.errors import WheelsError, check_kind
from wheels.models.artefact import LoadPair
from wheels.models.devices import Devices
from wheels.models.generation_settings import Constraints
from wheels.models.limits import context_limit
from wheels.models.loading import AUTO, Tokenizer, load_tokenizer
from wheels.models.pair import Pair, name_of
from wheels.models.pair_loading import Loading
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
        first = Constraints.of(student).forced_first
        self.probe = remote.connect(Student(tokenizer, self.vocab_size, self.is_seq2seq, self.eos_ids[0], first))
        self.spelling = Spelling(tokenizer, after_prompt=not self.is_seq2seq)

    @property
    def by_text(self) -> bool:
        """Whether the teacher is asked in words (`wheels.decoding.remote.text`)."""
        return self.remote.by_text

    def read_by(self, prompt: Prompt | str) -> None:
        """Read sources by another prompt from now on.

        Raises:
            WheelsError: as `Pair.read_by`, and where the teacher cannot be asked so.
        """
        super().read_by(prompt)
        self.remote.read_by(self.prompt)

    @property
    def teacher_told(self) -> str:
        """What the teacher tells, for errors."""
        told = "takes and gives text" if self.by_text else "tells the tokens that it writes, and no logits"
        return f"the teacher {self.remote.place} {told}"

    @property
    def other_teacher(self) -> str:
        """What to give in its place, for errors."""
        return "the folder of a teacher"

    @property
    def most_per_call(self) -> int | None:
        """Tokens that a call buys at most; None: as many as its text takes."""
        return None if self.by_text else self.remote.span.most

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
        dtype: str = AUTO,
        student_dtype: str | None = None,
        teacher_dtype: str | None = None,
        device: str = "cpu",
        teacher_device: Devices | None = None,
        teacher_quantization: str | None = None,
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
            teacher_dtype: None, as all else of a teacher that is loaded here: the server has its own.
            device: Of the student.
            teacher_device: None.
            teacher_quantization: None.
            student_weights: As in `Pair`.
            teacher_weights: `float32`.

        Raises:
            WheelsError: where the student is missing or damaged, or has another teacher.
        """
        check_kind("remote", remote, RemoteTeacher, "a RemoteTeacher")
        assert remote is not None
        dtypes, devices = (dtype, student_dtype, teacher_dtype), (device, teacher_device)
        loading = Loading(*dtypes, *devices, teacher_quantization, student_weights, teacher_weights)
        check_elsewhere(asdict(loading))
        tokenizer = load_tokenizer(student, role="student")
        return cls(loading.student(student), remote, tokenizer, prompt=prompt, student_weights=student_weights)

    @property
    def signature(self) -> str:
        """What outputs depend on beside the student: the teacher's name, and how much a call buys."""
        return repr((self.remote.model, self.remote.span, *([self.remote.prompt] if self.by_text else [])))

    @cached_property
    def scoring(self) -> ScoringTeacher:
        """What scores texts by the teacher.

        Raises:
            WheelsError: where the server did not answer, or cannot score texts of this student; and for a student whose
                own settings forbid or force tokens, as its teacher's do: what is scored is told before them.
        """
        if self.probe is None:
            raise WheelsError(f"the teacher {self.remote.place} did not answer; try again")
        if Constraints.of(self.student) != Constraints():
            raise WheelsError(
                f"student {name_of(self.student)!r} has tokens that it must or must not write, and the scores of "
                f"{self.remote.place} are those before such rules; give the folder of a teacher"
            )
        client, model = self.remote.client, self.remote.model
        return ScoringTeacher(client, model, self.probe, vocab_size=self.vocab_size, is_seq2seq=self.is_seq2seq)

    @contextmanager
    def whole_texts(self) -> Iterator[None]:
        """Let a call buy all that is left of a text: for texts that the teacher writes alone."""
        before, self.remote.span = self.remote.span, SpanRule(MOST)
        try:
            yield
        finally:
            self.remote.span = before

    def close(self) -> None:
        """Close the teacher's connections, and give up its ledger."""
        self.remote.close()

    def bill(self, sequence: Sequence) -> Bill:
        """Return what an output cost."""
        return bill_of(self.remote.ledger.prices, sequence.usage, len(sequence.source), len(sequence.tokens))

    @property
    def source_limit(self) -> int | None:
        """The most tokens of source; a causal model shares them with its output. None: no limit is known."""
        limits = [context_limit(self.student, self.tokenizer)]
        limits += [self.probe.limit] if self.probe is not None and not self.by_text else []
        return min((limit for limit in limits if limit is not None), default=None)


def teacher_at(teacher: str, model: str, key: str, span: str = "tokens:1", prompt: str | None = None) -> LoadPair:
    """Return what reads a student whose teacher is at an address, for work that cannot do without an answer.

    Args:
        teacher: The address.
        model: What the server knows the teacher by.
        key: The environment variable that holds the server's key.
        span: How much a call buys.
        prompt: What the teacher reads of a source, where it is asked in words.
    """
    settings: dict[str, Any] = {"timeout": 60.0, "attempts": 8, "on_error": "stop", "span": span, "prompt": prompt}
    return partial(RemotePair.load, remote=RemoteTeacher(teacher, model, key_variable=key, **settings))


def writing_whole_texts(pair: Pair) -> AbstractContextManager[None]:
    """Return the time in which the teacher writes texts alone: one at an address writes each at once."""
    return pair.whole_texts() if isinstance(pair, RemotePair) else nullcontext()


def scoring_elsewhere(pair: Pair) -> ScoringTeacher | None:
    """Return what scores texts by a teacher at an address; None for a teacher in memory."""
    return pair.scoring if isinstance(pair, RemotePair) else None
