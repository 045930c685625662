"""The data of a distillation run: the models, and the rows as tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from wheels.config.fields import loading_of
from wheels.data.prompts import Prompt, chosen_prompt
from wheels.data.tasks import Row, Task
from wheels.distillation.alignment import SharedTokens, bytes_of_tokens, common_places, shared_tokens
from wheels.distillation.collate import Example
from wheels.distillation.config import CACHED, JUDGED, PretrainConfig
from wheels.distillation.multitask import Rationales, prefixed
from wheels.distillation.teacher_outputs import teacher_outputs
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.models.build import ModelSize, build_model, causal_prompt, train_tokenizer
from wheels.models.cut import keep_layers
from wheels.models.encoding import check_chat, encode_sources
from wheels.models.loading import Tokenizer, load_config, load_model, load_tokenizer, model_digest
from wheels.models.pair import Pair, check_same_kind, check_vocabulary, kind_of
from wheels.models.pair_loading import Loading
from wheels.models.tokenizers import DifferentTokenizers, shared_tokenizer

log = logging.getLogger("wheels")


@dataclass(frozen=True)
class TrainingData:
    """The models of a run."""

    pair: Pair
    """Student, teacher and tokenizer; without a teacher, the student takes its place."""
    teacher: PreTrainedModel | None
    """The teacher, if the run has a live one."""
    other: Pair | None = None
    """The teacher with its tokenizer, where that is not the student's."""

    @cached_property
    def spelled(self) -> tuple[list[bytes], list[bytes]]:
        """What each token of the student, and of a teacher with a tokenizer of its own, stands for."""
        assert self.other is not None, "it has one"
        return bytes_of_tokens(self.pair.tokenizer), bytes_of_tokens(self.other.tokenizer)

    @property
    def student(self) -> PreTrainedModel:
        """The model that trains."""
        return self.pair.student


def load_training_data(config: PretrainConfig, task: Task, rationales: Rationales | None = None) -> TrainingData:
    """Load or build the student, load the teacher, and check that they belong together.

    Raises:
        WheelsError: for a model that cannot be loaded, or a pair that does not fit.
    """
    prompt = plain_prompt(config, task)
    if rationales is not None:
        prompt = prefixed(config.label_prefix, prompt)
    tokenizer, theirs = _tokenizers(config, task, prompt, rationales)
    if config.student and config.teacher and theirs is None and not is_address(config.teacher):
        check_same_kind(_kind(config.student), _kind(config.teacher), config.student, config.teacher)
    student = _student(config, tokenizer)
    check_chat(tokenizer, prompt, is_seq2seq=student.config.is_encoder_decoder)
    if config.teacher is None or config.cached_logits or theirs is not None:
        pair = Pair(student, student, tokenizer, prompt)
        check_vocabulary(pair)
        if config.teacher is None or config.cached_logits:
            return TrainingData(pair, None)
    teacher = Loading(**loading_of(config)).teacher(config.teacher)
    if theirs is not None:
        return TrainingData(pair, teacher, Pair.alone(teacher, theirs, prompt=prompt))
    return TrainingData(Pair.of(student, teacher, tokenizer, prompt=prompt), teacher)


def teacher_digest(config: PretrainConfig) -> str:
    """Return what names the weights that the teacher in a folder has once it is loaded."""
    assert config.teacher is not None, "there is one"
    return model_digest(config.teacher) + (f" in {config.teacher_quantization}" if config.teacher_quantization else "")


def _kind(name: str) -> str:
    """`sequence-to-sequence` or `causal`."""
    return kind_of(load_config(name))


def plain_prompt(config: PretrainConfig, task: Task) -> Prompt:
    """Return the given prompt; a causal model built here, that was given none, needs a mark at the source's end."""
    prompt = chosen_prompt(config, Prompt.of(task.prompt), conversations=task.holds_conversations)
    marks = config.prompt is None and config.student is None and config.family == "llama"
    return causal_prompt(prompt) if marks else prompt


def _tokenizers(
    config: PretrainConfig, task: Task, prompt: Prompt, rationales: Rationales | None
) -> tuple[Tokenizer, Tokenizer | None]:
    """Return the student's own tokenizer; for a new student the shared one, else a newly trained one.

    And the teacher's, where it is another one.
    """
    teacher = None if is_address(config.teacher) else config.teacher  # what it reads is compared when it is asked
    own, role = config.student or config.tokenizer or teacher, "student" if config.student else "tokenizer"
    if own is not None:
        tokenizer = load_tokenizer(own, role=role if own != teacher else "teacher")
        if teacher is not None and own != teacher:
            theirs = load_tokenizer(teacher, role="teacher")
            try:
                return shared_tokenizer(tokenizer, theirs, own, teacher), None
            except DifferentTokenizers as found:
                _check_across(config, found)
                log.info("%s; both are compared where their spellings of a target meet", found.difference)
                return tokenizer, theirs
        return tokenizer, None
    texts = [text for row in task.train for text in (prompt.filled(row.source), row.target) if text]
    if rationales is not None:
        texts += [text for text in rationales.texts if text]
    return train_tokenizer(texts, vocab_size=config.vocab_size, ends_source=config.family == "t5"), None


def _check_across(config: PretrainConfig, found: DifferentTokenizers) -> None:
    """Raise a `WheelsError` for what needs a teacher with the student's tokenizer."""
    if config.objective not in (*CACHED, "seqkd"):
        raise WheelsError(f"{found.difference}; objective {config.objective!r} needs one: use kl, rkl, jsd or seqkd")
    for name in ("lmbda", "cached_logits"):
        if getattr(config, name):
            raise WheelsError(f"{found.difference}; {name} {getattr(config, name):g} needs one: leave it out")
    if config.trainer == "trl":
        raise WheelsError(f"{found.difference}; trainer trl needs one: leave it out")
    if config.objective != "seqkd" and config.w == 1.0:
        raise WheelsError(
            f"{found.difference}; at w 1 nothing teaches the tokens that the teacher lacks: give --w below 1, "
            "such as 0.5"
        )


def _student(config: PretrainConfig, tokenizer: Tokenizer) -> PreTrainedModel:
    """Load or build the student; its weights stay in float32, whatever precision it computes in."""
    if config.student is not None:
        model = load_model(config.student, device=config.device, role="student")
        return model if config.keep_layers is None else keep_layers(model, config.keep_layers)
    if tokenizer.eos_token_id is None:
        raise WheelsError("the shared tokenizer has no end token, so a student built on it could never end an output")
    size = ModelSize(config.width, config.layers, config.heads, config.ff, config.decoder_layers, config.dropout)
    return build_model(
        size,
        family=config.family,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        seed=config.seed,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        eos_id=tokenizer.eos_token_id,
    )


def targets_of(config: PretrainConfig) -> str:
    """Return the source of the targets: `references`, `teacher` (its own outputs) or `both`."""
    return {"seqkd": "teacher", "pcl": config.paths}.get(config.objective, "references")


def training_examples(
    config: PretrainConfig,
    data: TrainingData,
    rows: Sequence[Row],
    folder: Path,
    rationales: Rationales | None = None,
) -> list[Example]:
    """Return the rows to train on, as tokens; for `seqkd` with the teacher's outputs as targets.

    `pcl` takes references, the teacher's outputs, or both, one after the other.

    Rows longer than the limits of `config` (or of the models) are left out, and their number is logged; so are
    rationales, whose rows then have a target only.

    Raises:
        WheelsError: where no row is left.
    """
    pair = data.pair
    sources = pair.encode([row.source for row in rows])
    kind = targets_of(config)
    targets: list[list[int]] = []
    if kind != "teacher":
        targets += pair.encode_targets([row.target for row in rows])
    if kind != "references":
        theirs = sources if data.other is None else data.other.encode([row.source for row in rows])
        targets += _teacher_targets(config, data, theirs, folder)
    sources = sources * (len(targets) // len(sources)) if sources else []
    whole: list[Example] = [
        {"source": source, "target": target} for source, target in zip(sources, targets, strict=True)
    ]
    if rationales is not None:
        whole = _with_rationales(config, pair, whole, [row.source for row in rows], rationales)
    if data.other is not None and config.objective in JUDGED:
        whole = _with_teachers_spelling(whole, rows, data.other, data.spelled)
    examples = [example for example in whole if _example_fits(config, data, example)]
    if not examples:
        limits = f"max_source_length {config.max_source_length}, max_target_length {config.max_target_length}"
        raise WheelsError(f"no training row is within {limits}; raise them, or look at the data")
    if len(examples) < len(whole):
        left = len(whole) - len(examples)
        log.warning("%d of %d training rows are longer than the limits and left out", left, len(whole))
    return examples


def _with_rationales(
    config: PretrainConfig, pair: Pair, examples: list[Example], texts: Sequence[str], rationales: Rationales
) -> list[Example]:
    """Return the second-task rows of these sources that are within the limits."""
    seconds = encode_sources(pair.tokenizer, texts, is_seq2seq=pair.is_seq2seq, prompt=rationales.prompt)
    found, long = [], 0
    for example, second, text, why in zip(
        examples, seconds, rationales.texts, pair.encode_targets(rationales.texts), strict=True
    ):
        if text and _fits(config, pair, second, why):
            example = example | {"rationale": {"source": second, "target": why}}
        elif text and _fits(config, pair, example["source"], example["target"]):
            long += 1
        found.append(example)
    if long:
        log.warning("%d rationales are longer than the limits and left out", long)
    return found


def _fits(config: PretrainConfig, pair: Pair, source: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a row is within the limits of the configuration and of the models."""
    within = len(source) <= config.max_source_length and len(target) <= config.max_target_length
    return within and pair.fits(source, target)


def _example_fits(config: PretrainConfig, data: TrainingData, example: Example) -> bool:
    """Whether a row is within the limits, in both spellings where it has two."""
    within = _fits(config, data.pair, example["source"], example["target"])
    if data.other is None or "teacher" not in example:
        return within
    return within and data.other.fits(example["teacher"]["source"], example["teacher"]["target"])


def _with_teachers_spelling(
    examples: Sequence[Example], rows: Sequence[Row], other: Pair, spelled: tuple[list[bytes], list[bytes]]
) -> list[Example]:
    """Return rows with what a teacher with a tokenizer of its own reads, and where both spellings meet."""
    sources, targets = other.encode([row.source for row in rows]), other.encode_targets([row.target for row in rows])
    return [
        {
            **example,
            "teacher": {"source": source, "target": target},
            "places": common_places(example["target"], target, spelled),
        }
        for example, source, target in zip(examples, sources, targets, strict=True)
    ]


def shared_with(data: TrainingData, example: Example) -> SharedTokens:
    """Return what the vocabularies of the student and of a teacher with a tokenizer of its own have in common.

    Args:
        data: The models.
        example: A row, which ends in the end token of either.
    """
    shared = shared_tokens(*data.spelled, ends=(example["target"][-1], example["teacher"]["target"][-1]))
    log.info("%d of the student's %d tokens are the teacher's too", len(shared.student_M), data.pair.vocab_size)
    return shared


def _teacher_targets(
    config: PretrainConfig, data: TrainingData, sources: Sequence[list[int]], folder: Path
) -> list[list[int]]:
    """Return the teacher's outputs, in the student's tokens; a source beyond the limits gets an empty one.

    The sources are in the teacher's tokens.
    """
    assert data.teacher is not None and config.teacher is not None, "objectives with outputs of a teacher have one"
    writer = data.other or data.pair
    kept = [row for row, source in enumerate(sources) if _fits(config, writer, source, ())]
    written = teacher_outputs(
        writer,
        [sources[row] for row in kept],
        folder,
        name=teacher_digest(config),
        max_new_tokens=config.max_target_length,
        batch_size=config.batch_size,
    )
    if data.other is not None:
        written = _respelled(written, data.pair, data.other)
    targets: list[list[int]] = [[0] * (config.max_target_length + 1) for _ in sources]
    for row, output in zip(kept, written, strict=True):
        targets[row] = output
    return targets


def _respelled(written: Sequence[list[int]], pair: Pair, other: Pair) -> list[list[int]]:
    """Return a teacher's outputs in the student's tokens; one that was cut has no end token here either."""
    targets = pair.encode_targets([other.decode(output) for output in written])
    return [
        target if {*output} & {*other.eos_ids} else target[:-1] for target, output in zip(targets, written, strict=True)
    ]
