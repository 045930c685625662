"""A self-check on first use: models of untested families read a ragged batch, against plain forward passes.

Random tokens over sixteen positions reveal a wrong mask, a wrong position and a misread cache. What only shows at other
lengths is refused by name (`wheels.models.families`). Where rotary angles change
with the longest text of a pass, texts stay below that length (`wheels.models.limits.context_limit`).
"""

from __future__ import annotations

import weakref

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.auto import chosen
from wheels.decoding.models.forward_batches import OVERHEAD
from wheels.decoding.models.runner import Runner
from wheels.errors import WheelsError, is_of_machine
from wheels.models.devices import device_of
from wheels.models.families import FamilyRefused, check_family
from wheels.models.in_file import gguf_file_of
from wheels.models.loading import first_line
from wheels.policy.head import DeferralHead

TESTED = frozenset(
    {"t5", "mt5", "umt5", "marian", "bart", "mbart", "pegasus", "llama", "qwen2", "qwen3", "gpt2", "mistral"}
    # Its experts drop tokens of a text that is read at once, as `generate` never reads it.
    | {"switch_transformers"}
)
"""Model types whose ragged decoding the tests compare with `generate`, and those that share their code."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""The largest error of a logit, in standard deviations of the logits: rounding, with a margin. A wrong position or mask
is off by 0.06 and more in trained models, and by far more in random ones."""
LENGTH, SOURCE = 16, 12
"""Tokens of the longer of two texts, and of the longer of their sources. In bfloat16 on a CPU without
AVX-512, rounding alone is off by 0.06 over 24 tokens (Marian, 8 seeds), and by 0.026 over 16."""

_checked: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def checked_runner(
    model: PreTrainedModel,
    rows: int,
    vocab_size: int,
    *,
    overhead: int = OVERHEAD,
    weights: str = "float32",
    head: DeferralHead | None = None,
    hidden: bool = True,
) -> Runner:
    """Return a runner of a model whose family is tested, or passes the self-check now.

    The arguments are the runner's; `weights` may be `auto` too (`wheels.decoding.models.auto`).

    Raises:
        WheelsError: where ragged decoding differs from a plain forward pass, or fails.
    """
    if model not in _checked:
        check_family(model.config)
        if not _tested(model) and gguf_file_of(model) is None:  # whose family llama.cpp knows
            _try(model, vocab_size)
        _checked.add(model)
    choice = chosen(model, weights, rows, vocab_size)
    return Runner(model, rows, vocab_size, overhead=overhead, head=head, hidden=hidden, **choice._asdict())


def _try(model: PreTrainedModel, vocab_size: int) -> None:
    """Refuse a model whose ragged decoding differs from a plain forward pass, or fails."""
    try:
        error = ragged_error(model, vocab_size)
    except Exception as fault:
        if isinstance(fault, WheelsError) or is_of_machine(fault):
            raise
        reason = f"trying one ended with {type(fault).__name__}: {first_line(fault)}"
        raise FamilyRefused(model.config, reason) from fault
    bound = TOLERANCE.get(model.dtype, 1e-3)
    if not error <= bound:
        what = f"rows of different lengths change each other's logits by {error:.2g} standard deviations"
        raise FamilyRefused(model.config, f"{what} (allowed: {bound:g})")


def _tested(model: PreTrainedModel) -> bool:
    """Tell whether `model` is of a tested family, and of the library's own class."""
    return model.config.model_type in TESTED and type(model).__module__.startswith("transformers.models.")


@torch.no_grad()
def ragged_error(model: PreTrainedModel, vocab_size: int) -> float:
    """Measure how far logits are off when rows of different lengths are read, rolled back and read again.

    Returns:
        The largest error of any logit against the model's own forward pass over each text alone, in standard deviations
        of the logits; nan where one of them is nan.
    """
    generator = torch.Generator().manual_seed(0)
    config = model.config.get_text_config(decoder=True)
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    tokens_BT = torch.randint(vocab_size, (2, LENGTH), generator=generator).to(device_of(model))
    pad = getattr(config, "pad_token_id", None)
    if pad is not None:  # some models count no position of it, if they read it at once
        tokens_BT[tokens_BT == pad] = (pad + 1) % vocab_size
    sources = [tokens_BT[0, :SOURCE].tolist(), tokens_BT[0, :3].tolist()]
    runner = Runner(model, 2, vocab_size)
    runner.admit([0, 1], sources)
    rows_B = torch.arange(2, device=device_of(model))
    runner.read(None, tokens_BT, torch.tensor([7, 3], device=device_of(model)))
    runner.rollback(rows_B, torch.tensor([4, 3], device=device_of(model)))
    errors = []
    for lengths in ([9, 5], [10, length]):
        output = runner.read(None, tokens_BT, torch.tensor(lengths, device=device_of(model))).logits_RV
        for row, count in enumerate(lengths):
            plain_V = _plain(model, sources[row], tokens_BT[row : row + 1, :count])[:vocab_size]
            errors.append((output[row] - plain_V).abs().max() / plain_V.std().clamp(min=1e-6))
    return float(torch.stack(errors).max())


def _plain(model: PreTrainedModel, source: list[int], text_1T: torch.Tensor) -> torch.Tensor:
    """Return the logits after one text, read at once, float32."""
    if model.config.is_encoder_decoder:
        ids = torch.tensor([source], device=device_of(model))
        return model(input_ids=ids, decoder_input_ids=text_1T, use_cache=False).logits[0, -1].float()
    return model(input_ids=text_1T, use_cache=False).logits[0, -1].float()
