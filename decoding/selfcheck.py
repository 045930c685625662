"""A model of a family that nobody has tried is tried when it is first used: ragged reads against plain ones."""

from __future__ import annotations

import weakref

import torch
from transformers import PreTrainedModel

from wheels.decoding.runner import Runner
from wheels.decoding.spans import OVERHEAD
from wheels.errors import WheelsError

TRIED = frozenset(
    {"t5", "mt5", "umt5", "marian", "bart", "mbart", "pegasus", "llama", "qwen2", "qwen3", "gpt2", "mistral"}
)
"""Model types whose ragged caches the tests hold to recomputation, and those that share their code."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""The largest error of a score, in standard deviations of the scores: rounding, with room; a wrong position or mask is
off by 0.06 and more in models that were trained, and by far more in random ones."""
LENGTH = 12

_checked: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def checked_runner(
    model: PreTrainedModel, rows: int, vocab_size: int, *, overhead: int = OVERHEAD, lean: bool = True
) -> Runner:
    """Return a runner of a model whose family is known to be read exactly, or was found to be just now.

    The arguments are the runner's.

    Raises:
        WheelsError: where a ragged read of it differs from a plain one.
    """
    if model.config.model_type not in TRIED and model not in _checked:
        error = ragged_error(model, vocab_size)
        bound = TOLERANCE.get(model.dtype, 1e-3)
        if not error <= bound:
            raise WheelsError(
                f"models of type {model.config.model_type!r} cannot be decoded: rows of different lengths change each "
                f"other's scores by {error:.2g} standard deviations (allowed: {bound:g}); T5, Marian, BART, Llama, "
                "Qwen and GPT-2 models can"
            )
        _checked.add(model)
    return Runner(model, rows, vocab_size, overhead=overhead, lean=lean)


@torch.no_grad()
def ragged_error(model: PreTrainedModel, vocab_size: int) -> float:
    """Measure how far scores are off when rows of different lengths are read, taken back and read again together.

    Returns:
        The largest error of any score against the model's own pass over each text alone, in standard deviations of
        the scores.
    """
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(vocab_size, (2, LENGTH), generator=generator).to(model.device)
    source = tokens_BT[0, :5].tolist()
    runner = Runner(model, 2, vocab_size)
    runner.admit([0, 1], [source, source[:3]])
    rows_B = torch.arange(2, device=model.device)
    runner.read(None, tokens_BT, torch.tensor([7, 3], device=model.device))
    runner.rewind(rows_B, torch.tensor([4, 3], device=model.device))
    worst = 0.0
    for lengths in ([9, 5], [10, LENGTH]):
        said = runner.read(None, tokens_BT, torch.tensor(lengths, device=model.device)).logits_RV
        for row, length in enumerate(lengths):
            plain_V = _plain(model, [source, source[:3]][row], tokens_BT[row : row + 1, :length])[:vocab_size]
            worst = max(worst, float((said[row] - plain_V).abs().max() / plain_V.std().clamp(min=1e-6)))
    return worst


def _plain(model: PreTrainedModel, source: list[int], text_1T: torch.Tensor) -> torch.Tensor:
    """Return the scores after one text, read at once, float32."""
    if model.config.is_encoder_decoder:
        ids = torch.tensor([source], device=model.device)
        return model(input_ids=ids, decoder_input_ids=text_1T, use_cache=False).logits[0, -1].float()
    return model(input_ids=text_1T, use_cache=False).logits[0, -1].float()
