"""The cached teacher of a run: its probabilities are computed once and then read from disk."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import PreTrainedModel

from wheels.config.fields import loading_of
from wheels.distillation.collate import Collator, Example
from wheels.distillation.config import PretrainConfig
from wheels.distillation.scorers import LocalScorer, RemoteScorer
from wheels.distillation.teacher_cache import CacheSettings, TeacherCache
from wheels.distillation.training_data import TrainingData, teacher_digest
from wheels.endpoints.address import is_address
from wheels.endpoints.scoring import ScoringTeacher
from wheels.errors import WheelsError
from wheels.models.loading import load_config
from wheels.models.pair import Pair, check_same_kind, kind_of, logits_size, name_of
from wheels.models.pair_loading import Loading

log = logging.getLogger("wheels")

CACHES = "teacher_cache"
"""The folder for caches in that of a run that was given no other."""


def numbered(examples: list[Example]) -> list[Example]:
    """Return the examples, each with its index, which is its key in a cache."""
    return [{**example, "row": row} for row, example in enumerate(examples)]


def open_cache(
    config: PretrainConfig, data: TrainingData, examples: list[Example], folder: Path, collator: Collator
) -> TeacherCache:
    """Return the complete cache of a run; the teacher is asked only if part of it is missing.

    Args:
        config: with `cached_logits` above 0, and a teacher.
        data: the student and its tokenizer.
        examples: the training rows.
        folder: of the run.
        collator: makes batches of them, as in training.

    Raises:
        WheelsError: for a teacher that does not fit the student, or a place that cannot be written.
    """
    settings = _settings(config, data)
    cache = TeacherCache(Path(config.cache) if config.cache else folder / CACHES, settings, examples)
    missing = cache.missing()
    if missing:
        log.info("scoring %d of %d parts of the rows with %s", len(missing), len(cache.files), config.teacher)
        if is_address(config.teacher):
            _ask(config, data, cache)
        else:
            cache.write(LocalScorer(_load(config, data, settings), settings, collator, config.batch_size))
    return cache


def _settings(config: PretrainConfig, data: TrainingData) -> CacheSettings:
    """Return what the cache of a run depends on."""
    assert config.teacher is not None, "a cache is of a teacher"
    size, k = logits_size(data.pair.student), config.cached_logits
    if is_address(config.teacher):
        told = f"{config.teacher_model} at an address"
        return CacheSettings(told, "its own", k, (1.0,), size, data.pair.start_ids)
    theirs = load_config(config.teacher, role="teacher")
    check_same_kind(kind_of(data.pair.student.config), kind_of(theirs), name_of(data.pair.student), config.teacher)
    size = min(size, int(theirs.get_text_config().vocab_size))
    return CacheSettings(teacher_digest(config), config.dtype, k, config.cache_temperatures, size, data.pair.start_ids)


def _load(config: PretrainConfig, data: TrainingData, settings: CacheSettings) -> PreTrainedModel:
    """Return the teacher of a folder."""
    assert config.teacher is not None
    pair, teacher = data.pair, Loading(**loading_of(config)).teacher(config.teacher)
    Pair.of(pair.student, teacher, pair.tokenizer, prompt=pair.prompt)
    if logits_size(teacher) < settings.vocab_size:
        raise WheelsError(
            f"teacher {config.teacher!r} has {logits_size(teacher)} logits, its configuration says "
            f"{settings.vocab_size}; mend its config.json"
        )
    return teacher


def _ask(config: PretrainConfig, data: TrainingData, cache: TeacherCache) -> None:
    """Let a teacher at an address fill the cache, and say what that used."""
    pair = data.pair
    with ScoringTeacher.at(
        str(config.teacher),
        str(config.teacher_model),
        pair.tokenizer,
        vocab_size=cache.settings.vocab_size,
        is_seq2seq=pair.is_seq2seq,
        key_variable=config.teacher_key,
    ) as teacher:
        cache.write(RemoteScorer(teacher, cache.settings))
    log.info("the teacher read %d tokens in %d requests", teacher.usage.prompt, teacher.usage.requests)
