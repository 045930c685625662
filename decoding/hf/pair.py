"""The pair of one `generate` call: two models, token ids, and the call's own special tokens; no tokenizer."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from wheels.errors import WheelsError
from wheels.models.limits import NO_LIMIT
from wheels.models.loading import DTYPES, TOKENIZER_FILES, Tokenizer, load_model, load_tokenizer
from wheels.models.pair import (
    Pair,
    check_same_kind,
    check_same_start,
    kind_of,
    name_of,
    warn_of_sizes,
)
from wheels.models.places import Place, cached_file
from wheels.models.tokenizers import check_same_tokenizer


class _NoTokenizer:
    """Stands for the tokenizer where there are token ids alone."""

    pad_token_id = eos_token_id = None
    model_max_length = NO_LIMIT


class GeneratePair(Pair):
    """Two models with the special tokens of one `generate` call.

    Args:
        student: The model that `generate` was called on.
        teacher: The other one.
        eos_ids: The tokens that end an output.
        pad_id: The token that fills up short rows.
        start_ids: What the decoder of a sequence-to-sequence model reads first; empty for a causal model.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        start_ids: tuple[int, ...],
    ) -> None:
        # Neither is put into evaluation mode or frozen: both belong to the caller.
        super().__init__(student, teacher, cast(Tokenizer, _NoTokenizer()))
        self._eos_ids, self._pad_id, self._start_ids = eos_ids, pad_id, start_ids

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end an output, as the call has them."""
        return self._eos_ids

    @property
    def pad_id(self) -> int:
        """The token that fills up short rows, as the call has it."""
        return self._pad_id

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the decoder reads first, as the call has it."""
        return self._start_ids


def teacher_of(teacher: object, student: PreTrainedModel) -> PreTrainedModel:
    """Return the teacher, if it goes with the student.

    Raises:
        WheelsError: where it does not, cannot be loaded, or was not given.
    """
    if isinstance(teacher, str | Path):
        formats = {value: name for name, value in DTYPES.items()}
        teacher = _loaded(str(teacher), formats.get(student.dtype, "float32"), str(student.device))
    if not isinstance(teacher, PreTrainedModel):
        raise WheelsError(
            f"teacher must be a model, its folder or a hub id, got {type(teacher).__name__}; give teacher="
        )
    check_same_kind(kind_of(student.config), kind_of(teacher.config), name_of(student), name_of(teacher))
    check_same_start(student, teacher)
    warn_of_sizes(student, teacher)
    if teacher.device != student.device:
        raise WheelsError(f"the student is on {student.device} and the teacher on {teacher.device}; put both on one")
    folders = [folder_of(student), folder_of(teacher)]
    if all(folder is not None and any(any(folder.glob(file)) for file in TOKENIZER_FILES) for folder in folders):
        _compare_tokenizers(*map(str, folders))
    return teacher


@lru_cache(maxsize=2)
def _loaded(name: str, dtype: str, device: str) -> PreTrainedModel:
    """Return a teacher, loaded once."""
    return load_model(name, dtype=dtype, device=device, role="teacher").requires_grad_(False)


@lru_cache(maxsize=16)
def _compare_tokenizers(student: str, teacher: str) -> None:
    """Raise a `WheelsError` where two folders have different tokenizers: read once."""
    tokenizers = load_tokenizer(student, role="student"), load_tokenizer(teacher, role="teacher")
    check_same_tokenizer(*tokenizers, student, teacher)


def folder_of(model: PreTrainedModel) -> Path | None:
    """Return the folder that a model was loaded from; None for a hub id, or one made in memory."""
    name = str(model.config.name_or_path or "")
    return Path(name) if name and Path(name).is_dir() else None


def trained_folder(model: PreTrainedModel) -> Path | None:
    """Return the folder that a trained student was loaded from, also the Hub's; None for any other model."""
    folder, name = folder_of(model), str(model.config.name_or_path or "")
    if folder is None and name:
        commit = getattr(model.config, "_commit_hash", None)
        found = cached_file(Place(name, commit), "deferral/config.json")
        folder = None if found is None else Path(found).parents[1]
    return folder if folder is not None and (folder / "deferral" / "config.json").is_file() else None
