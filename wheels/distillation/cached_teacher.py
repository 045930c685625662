"""The cached teacher of a run: its probabilities are computed once and then read from disk."""

from __future__ import annotations

import logging
from pathlib import Path

from wheels.distillation.collate import Collator, Example
from wheels.distillation.config import PretrainConfig
from wheels.distillation.teacher_cache import CacheSettings, TeacherCache
from wheels.distillation.training_data import TrainingData
from wheels.errors import WheelsError
from wheels.models.loading import load_config, load_model, model_digest
from wheels.models.pair import Pair, check_same_kind, kind_of, logits_size, name_of

log = logging.getLogger("wheels")

CACHES = "teacher_cache"
"""The folder for caches in that of a run that was given no other."""


def numbered(examples: list[Example]) -> list[Example]:
    """Return the examples, each with its index, which is its key in a cache."""
    return [{**example, "row": row} for row, example in enumerate(examples)]


def open_cache(
    config: PretrainConfig, data: TrainingData, examples: list[Example], folder: Path, collator: Collator
) -> TeacherCache:
    """Return the complete cache of a run; the teacher is loaded only if part of it is missing.

    Args:
        config: with `cached_logits` above 0, and a teacher.
        data: the student and its tokenizer.
        examples: the training rows.
        folder: of the run.
        collator: makes batches of them, as in training.

    Raises:
        WheelsError: for a teacher that does not fit the student, or a place that cannot be written.
    """
    assert config.teacher is not None, "a cache is of a teacher"
    pair, theirs = data.pair, load_config(config.teacher, role="teacher")
    check_same_kind(kind_of(pair.student.config), kind_of(theirs), name_of(pair.student), config.teacher)
    settings = CacheSettings(
        teacher=model_digest(config.teacher),
        dtype=config.dtype,
        k=config.cached_logits,
        temperatures=config.cache_temperatures,
        vocab_size=min(logits_size(pair.student), int(theirs.get_text_config().vocab_size)),
        start_ids=pair.start_ids,
    )
    cache = TeacherCache(Path(config.cache) if config.cache else folder / CACHES, settings, examples)
    missing = cache.missing()
    if missing:
        log.info("scoring %d of %d parts of the rows with %s", len(missing), len(cache.files), config.teacher)
        teacher = load_model(config.teacher, dtype=config.dtype, device=config.device, role="teacher")
        Pair.of(pair.student, teacher, pair.tokenizer, prompt=pair.prompt)
        if logits_size(teacher) < settings.vocab_size:
            raise WheelsError(
                f"teacher {config.teacher!r} has {logits_size(teacher)} logits, its configuration says "
                f"{settings.vocab_size}; mend its config.json"
            )
        cache.write(teacher, collator, config.batch_size)
    return cache
