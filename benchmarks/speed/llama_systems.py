"""llama.cpp, timed: what laptop users run one model alone with.

A model is converted once, into a GGUF file beside the run: as it is, or with matrices of 8 bits (Q8_0). Its own batches
read one token in each text that goes on. Texts of like length are written together.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from wheels.benchmarks.speed.hf_systems import Outcome, Tokens, Workload
from wheels.decoding.models.forward_batches import CHUNK
from wheels.decoding.sequences import Sequence, sequences_of
from wheels.files import new_folder
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair

if TYPE_CHECKING:
    from wheels.decoding.models.llama_cpp import LlamaCppDecoder, Reading

FILE = "model.gguf"
FAMILIES = ("llama", "qwen3")
"""Model types whose converted texts were held against transformers' own."""


def why_not(pair: Pair) -> str | None:
    """Return why llama.cpp cannot run the models of a pair; None: it can."""
    models = pair.student, pair.teacher
    kinds = {str(model.config.model_type) for model in models}
    if any(find_spec(name) is None for name in ("llama_cpp", "gguf")):
        return 'llama.cpp is not installed; pip install "training-wheels[llama]"'
    if not kinds <= {*FAMILIES}:
        return f"models of type {', '.join(sorted(kinds - {*FAMILIES}))} are not converted, only {', '.join(FAMILIES)}"
    if any(model.config.rope_parameters.get("rope_type", "default") != "default" for model in models):
        return "rotary positions that are scaled are not converted"
    return None if pair.device.type == "cpu" else f"it is timed on the CPU alone, not on {pair.device}"


def alone(model: str, weights: str) -> Callable[[Workload, int], Outcome]:
    """Return a function that runs one model greedily, its weights in `float32` or in `int8`."""

    def run(workload: Workload, batch_size: int) -> Outcome:
        prompts, pair = workload.prompts, workload.prompts.pair
        assert workload.converted is not None, "a folder for the converted models"
        written_by = getattr(pair, model)
        decoder = _loaded(converted(written_by, workload.converted / f"{model}-{weights}-gguf", weights))
        outputs: list[Tokens] = [()] * len(prompts.texts)
        start = time.perf_counter()
        rows = sequences_of(pair, pair.encode(prompts.texts), prompts.max_new_tokens)
        rows.sort(key=lambda row: -len(row.source))
        room = max(len(row.source) + row.limit for row in rows)
        writer = _Writer(decoder, batch_size, room, pair.eos_ids, Constraints.of(written_by))
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            for row, tokens in zip(batch, writer.write(batch), strict=True):
                outputs[row.index] = tokens
                pair.decode(tokens)
        seconds = time.perf_counter() - start
        return Outcome(outputs, seconds, Counter(), sum(map(len, outputs)) if model == "teacher" else 0)

    return run


class _Writer:
    """Greedy decoding of some texts at a time."""

    def __init__(
        self, decoder: LlamaCppDecoder, rows: int, room: int, ends: tuple[int, ...], limits: Constraints
    ) -> None:
        from wheels.decoding.models.llama_cpp import Context

        self.context, self.ends, self.limits = Context(decoder, rows, room, None), ends, limits

    def write(self, batch: list[Sequence]) -> list[Tokens]:
        """Write from some prompts on."""
        from wheels.decoding.models.llama_cpp import Reading

        length_B, limit_B = np.array([(len(row.source), row.limit) for row in batch]).T
        alive = np.arange(len(batch))
        self.context.take_back(alive, np.zeros_like(length_B), length_B)
        logits_RV = torch.cat([self.context.read(part)[0] for part in _prompts(batch)])
        written: list[list[int]] = [[] for _ in batch]
        for position in itertools.count():
            place_R, limit_R = torch.full((len(alive),), position), torch.from_numpy(limit_B[alive])
            best_R = self.limits.apply(logits_RV, place_R, limit_R).numpy().argmax(-1)
            for number, token in zip(alive.tolist(), best_R.tolist(), strict=True):
                written[number].append(token)
            goes_on_R = ~np.isin(best_R, self.ends) & (position + 1 < limit_B[alive])
            alive, best_R = alive[goes_on_R], best_R[goes_on_R]
            if not len(alive):
                break
            reading = Reading(best_R, length_B[alive] + position, alive, np.ones_like(alive, bool))
            logits_RV, _ = self.context.read(reading)
        return list(map(tuple, written))


def _prompts(batch: list[Sequence]) -> Iterator[Reading]:
    """Yield the prompts in passes; logits are wanted behind the last token of each."""
    from wheels.decoding.models.llama_cpp import Reading

    tokens: list[tuple[int, int, int, bool]] = []
    for number, row in enumerate(batch):
        own = [(token, place, number, place + 1 == len(row.source)) for place, token in enumerate(row.source)]
        if tokens and len(tokens) + len(own) > CHUNK:
            yield Reading(*np.array(tokens).T)
            tokens = []
        tokens += own
    yield Reading(*np.array(tokens).T)


@lru_cache(maxsize=4)
def _loaded(file: Path) -> LlamaCppDecoder:
    """Return a converted model in memory."""
    from wheels.decoding.models.llama_cpp import LlamaCppDecoder

    return LlamaCppDecoder(file)


def converted(model: PreTrainedModel, folder: Path, weights: str) -> Path:
    """Return a model's GGUF file, with matrices in `float32` or `int8` (Q8_0); it is written where it is not there.

    Llama's queries and keys are put in the order of pairs that its rotary positions turn there, as llama.cpp's own
    converter does (`convert_hf_to_gguf.py`, https://github.com/ggml-org/llama.cpp).
    """
    if folder.is_dir():
        return folder / FILE
    from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
    from gguf.quants import quantize

    config: Any = model.config
    arch = next(number for number, name in MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    with new_folder(folder) as made:
        writer = GGUFWriter(made / FILE, config.model_type)
        _describe(writer, config)
        for name, weight in model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            table = weight.float().numpy()
            if config.model_type == "llama" and (heads := _heads(name, config)):
                table = table.reshape(heads, 2, -1, *table.shape[1:]).swapaxes(1, 2).reshape(table.shape)
            rounded = GGMLQuantizationType.Q8_0 if weights == "int8" and table.ndim == 2 else GGMLQuantizationType.F32
            packed = quantize(np.ascontiguousarray(table), rounded)
            writer.add_tensor(str(names.get_name(name, (".weight", ".bias"))), packed, raw_dtype=rounded)
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write()
        writer.close()
    return folder / FILE


def _heads(name: str, config: Any) -> int:
    """Return how many heads a weight projects to, if rotary positions turn what it computes; else 0."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return next((int(count) for part, count in heads.items() if part in name), 0)


def _describe(writer: Any, config: Any) -> None:
    """Write what llama.cpp reads of a configuration; there is no vocabulary, for tokens go in and out."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
