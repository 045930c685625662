"""The pair: a student, a teacher, and everything they share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from wheels.config.fields import WEIGHTS
from wheels.data.prompts import SOURCE_ALONE, Prompt
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError, check_choice, check_kind
from wheels.models.devices import Devices
from wheels.models.encoding import check_chat, decode_text, encode_sources, encode_targets
from wheels.models.families import check_family
from wheels.models.generation_settings import Constraints
from wheels.models.limits import context_limit, room
from wheels.models.loading import AUTO, Tokenizer, load_config, load_tokenizer, save_model
from wheels.models.pair_loading import Loading
from wheels.models.tokenizers import shared_tokenizer
from wheels.output.notices import warn_once

if TYPE_CHECKING:
    from wheels.data.tasks import Task
    from wheels.models.build import ModelSize

log = logging.getLogger("wheels")


@dataclass
class Pair:
    """A student q and a teacher p that share a tokenizer.

    Make one with `Pair.load`, `Pair.of` or `Pair.build`: these check that the two belong together.
    """

    student: PreTrainedModel
    """The small model q, in eval mode."""
    teacher: PreTrainedModel
    """The large model p, in eval mode, frozen."""
    tokenizer: Tokenizer
    """The tokenizer of both."""
    prompt: Prompt = SOURCE_ALONE
    """What a model reads of a source."""
    student_weights: str = "float32"
    """What decoding makes of the student's weights: `float32`, `int8`, `bfloat16` or `auto`, the fastest here."""
    teacher_weights: str = "float32"
    """The same of the teacher's."""
    shows_logits: ClassVar[bool] = True
    """Whether the teacher shows logits over the student's tokens (`wheels.models.student_pair`: it does not)."""

    def __post_init__(self) -> None:
        """Take a prompt that is given as its text, and check the weights."""
        self.prompt = Prompt.of(self.prompt)
        check_choice("student_weights", self.student_weights, WEIGHTS)
        check_choice("teacher_weights", self.teacher_weights, WEIGHTS)

    @classmethod
    def load(
        cls,
        student: str | Path,
        teacher: str | Path,
        *,
        prompt: Prompt | str = "{source}",
        dtype: str = AUTO,
        student_dtype: str | None = None,
        teacher_dtype: str | None = None,
        device: str = "cpu",
        teacher_device: Devices | None = None,
        teacher_quantization: str | None = None,
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> Pair:
        """Load both models from folders, adapters, GGUF files or the Hub (`owner/name@revision`).

        Args:
            student: what `load_model` takes.
            teacher: the same.
            prompt: what the models read of a source.
            dtype: number format of both; `auto`: what each is stored in.
            student_dtype: of the student alone; None: `dtype`.
            teacher_dtype: of the teacher alone.
            device: where both are put.
            teacher_device: where the teacher is put; None: `device`. `auto` spreads it over all devices, main memory
                and disk; a mapping says the device of each part.
            teacher_quantization: `int8` (torchao) or `int4` (bitsandbytes) to round its weights; None: as it is stored.
            student_weights: what decoding makes of a float32 student's weights; for others, `auto` is float32.
            teacher_weights: of the teacher's.

        Raises:
            WheelsError: a model is missing or damaged, or the two do not belong together: names both and what differs.
        """
        check_name("student", student)
        check_name("teacher", teacher)
        configs = load_config(student, role="student"), load_config(teacher, role="teacher")
        for config in configs:
            check_family(config)
        tokenizers = load_tokenizer(student, role="student"), load_tokenizer(teacher, role="teacher")
        tokenizer = shared_tokenizer(*tokenizers, f"{student}", f"{teacher}")
        check_same_kind(kind_of(configs[0]), kind_of(configs[1]), f"{student}", f"{teacher}")
        dtypes, devices = (dtype, student_dtype, teacher_dtype), (device, teacher_device)
        loading = Loading(*dtypes, *devices, teacher_quantization, student_weights, teacher_weights)
        q, p = loading.student(student), loading.teacher(teacher)
        return cls.of(q, p, tokenizer, prompt=prompt, **loading.weights)

    @classmethod
    def of(
        cls,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        prompt: Prompt | str = "{source}",
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> Pair:
        """Pair two models in memory, with the same checks as `load`; freezes the teacher."""
        for role, model in (("student", student), ("teacher", teacher)):
            check_kind(role, model, PreTrainedModel, "a model in memory (Pair.load takes folders)")
        check_kind("tokenizer", tokenizer, Tokenizer, "a tokenizer")
        check_same_kind(kind_of(student.config), kind_of(teacher.config), name_of(student), name_of(teacher))
        check_same_start(student, teacher)
        warn_of_sizes(student, teacher)
        return cls._checked(student, teacher, tokenizer, prompt, student_weights, teacher_weights)

    @classmethod
    def alone(cls, model: PreTrainedModel, tokenizer: Tokenizer, *, prompt: Prompt | str = "{source}") -> Pair:
        """Use one model as both student and teacher, to generate alone or take gradients. It is frozen."""
        return cls._checked(model, model, tokenizer, prompt)

    @classmethod
    def _checked(
        cls,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        tokenizer: Tokenizer,
        prompt: Prompt | str,
        *weights: str,
    ) -> Pair:
        pair = cls(student.eval(), teacher.eval().requires_grad_(False), tokenizer, Prompt.of(prompt), *weights)
        check_vocabulary(pair)
        pair.read_by(pair.prompt)
        return pair

    @classmethod
    def build(
        cls,
        task: Task,
        *,
        family: str = "t5",
        student: ModelSize | None = None,
        teacher: ModelSize | None = None,
        vocab_size: int = 4000,
        seed: int = 0,
    ) -> Pair:
        """Build an untrained pair for a task: a tokenizer from its training text, two models from configurations.

        See `wheels.models.build.build_pair`.
        """
        from wheels.models.build import build_pair

        parts = build_pair(task, family=family, student=student, teacher=teacher, vocab_size=vocab_size, seed=seed)
        return cls.of(parts.student, parts.teacher, parts.tokenizer, prompt=parts.prompt)

    @property
    def by_text(self) -> bool:
        """Whether the teacher reads and writes text, so that a call buys as much as its text takes."""
        return False

    def read_by(self, prompt: Prompt | str) -> None:
        """Read sources by another prompt from now on.

        Raises:
            WheelsError: where it asks for a chat template that the tokenizer has not, or that does not read all of it.
        """
        prompt = Prompt.of(prompt)
        check_chat(self.tokenizer, prompt, is_seq2seq=self.is_seq2seq)
        self.prompt = prompt

    @property
    def is_seq2seq(self) -> bool:
        """Whether the models are encoder-decoders."""
        return bool(self.student.config.is_encoder_decoder)

    @property
    def vocab_size(self) -> int:
        """V, the range of token ids that both models give logits for."""
        return min(logits_size(self.student), logits_size(self.teacher))

    @property
    def pad_id(self) -> int:
        """The padding token."""
        known = (self.tokenizer.pad_token_id, setting(self.student, "pad_token_id"), *self.eos_ids)
        return next(int(token) for token in known if token is not None)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end an output: those of the student, then any more of the teacher."""
        found: list[int] = []
        for model in (self.student, self.teacher):
            found += [token for token in end_tokens(model, self.tokenizer) if token not in found]
        return tuple(found)

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the decoder of a sequence-to-sequence model reads first; empty for a causal model."""
        return start_tokens(self.student)

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The models that are here: student and teacher."""
        return self.student, self.teacher

    @property
    def signature(self) -> str:
        """What outputs depend on beside models and tokenizer."""
        return ""

    @property
    def device(self) -> torch.device:
        """The student's device."""
        return self.student.device

    @property
    def dtype(self) -> torch.dtype:
        """The student's dtype."""
        return self.student.dtype

    @property
    def source_limit(self) -> int | None:
        """The most tokens of source; a causal model shares them with its output. None: no limit is known."""
        limits = [context_limit(model, self.tokenizer) for model in (self.student, self.teacher)]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def target_limit(self) -> int | None:
        """The most tokens of output (source included, for a causal model). None: no limit is known."""
        return self.source_limit

    def fits(self, source: Sequence[int], target: Sequence[int]) -> bool:
        """Whether both models can read a source with its target, as tokens."""
        limit = self.source_limit
        longest = max(len(source), len(target)) if self.is_seq2seq else len(source) + len(target)
        return limit is None or longest <= limit

    def encode(self, sources: Sequence[str]) -> list[list[int]]:
        """Return the tokens each source begins with: see `encode_sources`."""
        return encode_sources(self.tokenizer, sources, is_seq2seq=self.is_seq2seq, prompt=self.prompt)

    def encode_for_teacher(self, source: str) -> list[int]:
        """Return what the teacher reads of a source, where it reads other tokens than the student; else nothing."""
        return []

    def encode_targets(self, targets: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each target as the student's own `generate` writes them: see `encode_targets`."""
        first = Constraints.of(self.student).forced_first
        return encode_targets(self.tokenizer, targets, self.eos_ids, prompt=self.prompt, first=first)

    def room(self, source: Sequence[int], max_new_tokens: int) -> int:
        """Return how many tokens of output, at most `max_new_tokens`, both models can write after a source."""
        return room(len(source), max_new_tokens, self.source_limit, is_seq2seq=self.is_seq2seq)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an output, without special tokens and outer spaces."""
        return decode_text(self.tokenizer, tokens)

    def spell(self, tokens: list[int]) -> str:
        """Return the text of a part of an output, without special tokens; its outer spaces stay."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def close(self) -> None:
        """Give up what a pair holds beside its models: here nothing; a remote teacher's connections."""

    def save_student(self, folder: str | Path) -> Path:
        """Save the student and the tokenizer as a plain `save_pretrained` folder."""
        return save_model(self.student, self.tokenizer, folder)

    def save_teacher(self, folder: str | Path) -> Path:
        """Save the teacher and the tokenizer as a plain `save_pretrained` folder."""
        return save_model(self.teacher, self.tokenizer, folder)


def check_name(role: str, name: object) -> None:
    """Raise a `WheelsError` for what names no model whose weights can be read."""
    check_kind(role, name, (str, Path), "a folder or a hub id")
    if is_address(str(name)):
        raise WheelsError(
            f"{role} {str(name)!r} is an address, and this needs a model's weights; give its folder or hub id "
            "(`wheels generate` takes a teacher at an address)"
        )


def check_same_kind(student_kind: str, teacher_kind: str, student_name: str, teacher_name: str) -> None:
    """Raise a `WheelsError` for a sequence-to-sequence model paired with a causal one."""
    if student_kind != teacher_kind:
        raise WheelsError(
            f"student {student_name!r} is a {student_kind} model and teacher {teacher_name!r} a {teacher_kind} one; "
            "a pair needs two models of one kind"
        )


def check_same_start(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raise a `WheelsError` where the two decoders start with different tokens."""
    starts = start_tokens(student), start_tokens(teacher)
    if starts[0] != starts[1]:
        raise WheelsError(
            f"the decoders of student {name_of(student)!r} and teacher {name_of(teacher)!r} start with different "
            f"tokens, {starts[0]} and {starts[1]}; a pair needs one decoder_start_token_id"
        )


def warn_of_sizes(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Warn where the teacher is no larger than its student: calling it cannot save anything."""
    q_size, p_size = student.num_parameters(), teacher.num_parameters()
    if q_size >= p_size:
        sizes = f"student {name_of(student)} has {q_size:,} weights and teacher {name_of(teacher)} {p_size:,}"
        warn_once(f"{sizes}: the teacher should be the larger one; were the two exchanged?")


def check_vocabulary(pair: Pair) -> None:
    """Log that padded vocabularies are cut to the common range.

    Raises:
        WheelsError: where the tokenizer has ids that one of the models gives no logits for.
    """
    q_size, p_size = logits_size(pair.student), logits_size(pair.teacher)
    highest = max(pair.tokenizer.get_vocab().values())
    if highest >= pair.vocab_size:
        role, model = ("student", pair.student) if q_size <= p_size else ("teacher", pair.teacher)
        raise WheelsError(
            f"the tokenizer has ids up to {highest}, but {role} {name_of(model)!r} has only {pair.vocab_size} logits"
        )
    if q_size != p_size:
        log.info(
            "student has %d logits, teacher %d, tokenizer %d pieces: both cut to the common %d (the rest is padding)",
            q_size,
            p_size,
            highest + 1,
            pair.vocab_size,
        )


def kind_of(config: PreTrainedConfig) -> str:
    """`sequence-to-sequence` or `causal`."""
    return "sequence-to-sequence" if config.is_encoder_decoder else "causal"


def name_of(model: PreTrainedModel) -> str:
    """The folder or hub id a model came from, or its type."""
    return str(model.config.name_or_path or model.config.model_type)


def logits_size(model: PreTrainedModel) -> int:
    """How many logits a model gives per position."""
    head = model.get_output_embeddings()
    if head is None:
        return int(model.config.get_text_config().vocab_size)
    return int(getattr(head, "out_features", head.weight.shape[0]))  # rounded weights may have another shape


def setting(model: PreTrainedModel, name: str) -> Any:
    """Return a generation setting: from the generation configuration, else from the model's."""
    value = getattr(model.generation_config, name, None) if model.generation_config is not None else None
    return value if value is not None else getattr(model.config, name, None)


def start_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """What a model's decoder reads first."""
    if not model.config.is_encoder_decoder:
        return ()
    start = setting(model, "decoder_start_token_id")
    start = start if start is not None else setting(model, "bos_token_id")
    if start is None:
        raise WheelsError(f"model {name_of(model)!r} has no decoder_start_token_id in its configuration")
    return (int(start),)


def end_tokens(model: PreTrainedModel, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens at which a model's own `generate` stops."""
    ends = setting(model, "eos_token_id")
    ends = ends if ends is not None else tokenizer.eos_token_id
    if ends is None:
        raise WheelsError(f"model {name_of(model)!r} has no eos_token_id, so its outputs would never end")
    return tuple(int(end) for end in ends) if isinstance(ends, (list, tuple)) else (int(ends),)
