"""Deferral inside transformers' `generate`: `student.generate(..., custom_generate=wheels.hf_generate, teacher=p)`.

`generate` prepares the call (inputs, masks, processors, criteria, settings), then calls `hf_generate`, which runs the
engine and returns what `generate` would. `generate` passes the source of a sequence-to-sequence model as
`inputs_tensor`, because the signature names it. Each model encodes the source itself.

Processors, criteria, lengths, end tokens, sampling and `num_return_sequences` apply to both models: budget 0 is the
student's own `generate`, budget 1 the teacher's. Draws follow `torch.manual_seed`. Tokenizers of models in memory are
not compared: the caller vouches that both share one. Not honoured: a context longer than the models', which ends a row.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput, GenerationMode

from wheels.decoding.engine import Engine
from wheels.decoding.hf.batch import GenerateBatch
from wheels.decoding.hf.method import method_of
from wheels.decoding.hf.pair import GeneratePair, teacher_of
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.sequences import Sequence, sequences_of
from wheels.errors import WheelsError

PREPARED = frozenset(
    {"attention_mask", "decoder_attention_mask", "use_cache", "logits_to_keep", "output_attentions"}
    | {"output_hidden_states", "encoder_outputs"}
)
"""Inputs that the engine follows, or that change no token."""
CACHES = ("cache", "past_key_values")
"""A key-value cache, by its name from transformers 5.24 on and before."""
UNREAD = (*CACHES, "encoder_outputs", "cache_implementation", "cache_config", "prefill_chunk_size")
"""Inputs that would be lost: from inside, the caller's cannot be told from those that `generate` makes."""
KEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""What `generate` can return beside the tokens, and the engine does not keep."""


@dataclass
class DeferralDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """What `return_dict_in_generate=True` returns for a causal model."""

    by_teacher: torch.Tensor | None = None
    """Which of `sequences` the teacher wrote, bool `[B, T]`; False for the prompt and the padding."""
    teacher_passes: torch.Tensor | None = None
    """Forward passes of the teacher that served each row, int64 `[B]`."""
    student_passes: torch.Tensor | None = None
    """And of the student."""


@dataclass
class DeferralEncoderDecoderOutput(GenerateEncoderDecoderOutput):
    """What `return_dict_in_generate=True` returns for a sequence-to-sequence model."""

    by_teacher: torch.Tensor | None = None
    """Which of `sequences` the teacher wrote, bool `[B, T]`; False for the start token and the padding."""
    teacher_passes: torch.Tensor | None = None
    """Forward passes of the teacher that served each row, int64 `[B]`."""
    student_passes: torch.Tensor | None = None
    """And of the student."""


def hf_generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    teacher: PreTrainedModel | str | Path | None = None,
    teacher_budget: float | None = None,
    rule: str | AnyRule | None = None,
    threshold: float | None = None,
    method: Method | None = None,
    budget_mode: str = "average",
    inputs_tensor: torch.Tensor | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | DeferralDecoderOnlyOutput | DeferralEncoderDecoderOutput:
    """Write with two models inside `student.generate(..., custom_generate=wheels.hf_generate, teacher=..., ...)`.

    Args:
        model: The student; `generate` gives this argument, the next four, and `inputs_tensor`.
        input_ids: Padded prompts, or the first tokens of the decoder, `[B, L]`.
        logits_processor: Changes of both models' scores; each must depend on the text alone.
        stopping_criteria: When to end; each must judge a row by itself.
        generation_config: The settings of the call, for both models.
        teacher: The large model, or its folder or hub id: loaded once, to where the student is.
        teacher_budget: The share of tokens that the teacher may write, in [0, 1].
        rule: When to call: a name, `FILE.py:NAME`, or a `wheels.Rule`. None: `learned` where trained, else `maxprob`.
        threshold: The rule calls where its score exceeds it, in place of a budget (strict mode takes both). None: the
            one in the student's folder that was calibrated to the budget.
        method: A `wheels.Method` in place of a rule, such as `wheels.speculative(5)`.
        budget_mode: Who keeps the budget: `average`, `online` or `strict`; online starts afresh with each call.
        inputs_tensor: What the model reads: for a sequence-to-sequence model the ids of the source, `[B, S]`.
        **model_kwargs: Further inputs that `generate` prepared. Caches and encoder states are not read.

    Raises:
        WheelsError: for what the engine cannot do, and arguments that do not go together.
    """
    check_call(generation_config)
    check_inputs(model_kwargs, input_ids)
    sources, mask = _sources(model, input_ids, inputs_tensor), model_kwargs.get("attention_mask")
    check_caller(sys._getframe(1))
    prompts = input_ids.to(model.device)
    batch = GenerateBatch(prompts, sources, mask, logits_processor, stopping_criteria, generation_config)
    pair = batch.pair(model, teacher_of(teacher, model))
    how = method_of(pair, method, rule, threshold, teacher_budget, budget_mode)
    rows = _write(batch, pair, how)
    return _output(batch, rows, generation_config, input_ids.device, is_seq2seq=pair.is_seq2seq)


def _write(batch: GenerateBatch, pair: GeneratePair, method: Method) -> list[Sequence]:
    """Let the engine write all rows."""
    params = DecodeParams(
        max_new_tokens=batch.max_new_tokens,
        sampling=Sampling(1.0) if batch.samples else GREEDY,
        seed=int(torch.randint(2**60, ())),
        logits_processor=batch,
        stopping=batch.stops if batch.criteria else None,
    )
    rows = sequences_of(pair, batch.sources, batch.max_new_tokens)
    for _ in Engine(pair, rows, method, params, batch_size=len(rows)).run():
        pass
    return rows


def check_call(config: GenerationConfig) -> None:
    """Refuse what the engine cannot do.

    Raises:
        WheelsError: naming it.
    """
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        beams = config.num_beams or 1
        what = f"num_beams={beams}" if beams > 1 else str(mode.value)
        raise WheelsError(
            f"wheels.hf_generate writes one text at a time per row, got {what}; call generate with num_beams=1"
        )
    if config.return_dict_in_generate and (asked := [name for name in KEPT if getattr(config, name, None)]):
        raise WheelsError(f"wheels.hf_generate does not keep what {asked[0]} asks for; leave it, or use plain generate")


def check_inputs(inputs: Mapping[str, Any], prompts_BL: torch.Tensor) -> None:
    """Refuse inputs of the caller's own that the engine would lose.

    `generate` fills in a cache and positions itself. Its own are told from the caller's by what they hold: an empty
    cache, and the positions that the mask implies.

    Args:
        inputs: What `generate` hands over beside the prompts, its own inputs and the caller's.
        prompts_BL: What the outputs follow, `[B, L]`.

    Raises:
        WheelsError: naming the first such input.
    """
    positions_BL = _positions(inputs.get("attention_mask"), prompts_BL)
    for name, value in inputs.items():
        if value is None or name in PREPARED:
            continue
        empty = name in CACHES and value.get_seq_length() == 0
        if not empty and not (name == "position_ids" and _agree(value, positions_BL)):
            raise _unread(name)
    mask = inputs.get("decoder_attention_mask")
    if mask is not None and not bool(mask.all()):
        raise WheelsError("decoder_attention_mask hides tokens; decode rows whose decoders begin alike together")


def _unread(name: str) -> WheelsError:
    """Return the error for an input of the caller's own that would be lost."""
    return WheelsError(f"wheels.hf_generate does not read {name}; give input_ids and attention_mask alone")


def _positions(mask_BL: torch.Tensor | None, prompts_BL: torch.Tensor) -> torch.Tensor:
    """Return the positions that a mask implies, `[B, L]`: tokens are counted from 0; -1 where nothing is seen."""
    mask_BL = torch.ones_like(prompts_BL) if mask_BL is None else mask_BL
    return torch.where(mask_BL > 0, mask_BL.cumsum(-1) - 1, -1)


def _agree(given_BL: torch.Tensor, implied_BL: torch.Tensor) -> bool:
    """Tell whether positions that were given are those implied, wherever something is seen; B may be 1 in one."""
    if given_BL.dim() != 2 or given_BL.shape[-1] != implied_BL.shape[-1]:
        return False
    return bool(((given_BL == implied_BL) | (implied_BL < 0)).all())


def check_caller(caller: FrameType) -> None:
    """Refuse what `generate` was asked for and keeps to itself where `custom_generate` is a function.

    Without this look at its arguments the reader of a streamer would wait for ever.

    Raises:
        WheelsError: naming it.
    """
    if caller.f_code is not inspect.unwrap(GenerationMixin.generate).__code__:
        return
    advice = {
        "streamer": "rows end at their own pace, drafts are taken back; leave it",
        "assistant_model": "give the large model as teacher=..., and call generate on the small one",
    }
    for name, what in advice.items():
        if caller.f_locals.get(name) is not None:
            raise WheelsError(f"wheels.hf_generate takes no {name}: {what}")
    own = caller.f_locals["kwargs"]
    for name in UNREAD:
        if own.get(name) is not None:
            raise _unread(name)


def _sources(model: PreTrainedModel, input_ids: torch.Tensor, inputs: torch.Tensor | None) -> torch.Tensor:
    """Return the ids that the models read, a row for each output.

    Raises:
        WheelsError: where there are only embeddings or states.
    """
    if not model.config.is_encoder_decoder:
        return input_ids
    # generate fills in -100 where encoder_outputs were given without ids.
    if inputs is None or inputs.dim() != 2 or inputs.is_floating_point() or bool((inputs < 0).any()):
        raise WheelsError(
            "each model encodes the source itself, so wheels.hf_generate needs its ids; give input_ids=..."
        )
    return inputs.repeat_interleave(len(input_ids) // len(inputs), 0)


def _output(
    batch: GenerateBatch, rows: list[Sequence], config: GenerationConfig, device: torch.device, *, is_seq2seq: bool
) -> torch.Tensor | DeferralDecoderOnlyOutput | DeferralEncoderDecoderOutput:
    """Return what `generate` would."""
    sequences = batch.padded([row.tokens for row in rows]).to(device)
    if not config.return_dict_in_generate:
        return sequences
    by_teacher = torch.zeros_like(sequences, dtype=torch.bool)
    start = batch.prompts_BL.shape[1]
    for place, row in enumerate(rows):
        by_teacher[place, start : start + len(row.tokens)] = torch.tensor(row.by_teacher, device=device)
    kind = DeferralEncoderDecoderOutput if is_seq2seq else DeferralDecoderOnlyOutput
    return kind(
        sequences=sequences,  # type: ignore[arg-type]
        by_teacher=by_teacher,
        teacher_passes=torch.tensor([row.teacher_passes for row in rows], device=device),
        student_passes=torch.tensor([row.student_passes for row in rows], device=device),
    )
