"""CTranslate2, timed: what a user who cares for speed on a CPU would pick to run one model alone.

A model is converted once, into a folder beside the run. Batches are the engine's own: texts of like length together,
one worker with the threads of torch, the next batch in its queue before the last one is done.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.benchmarks.speed.hf_systems import Outcome, Tokens, Workload, until_end
from wheels.decoding.sequences import Sequence, sequences_of
from wheels.errors import WheelsError
from wheels.files import new_folder, read_object, write_json
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair
from wheels.output.visible import one_line
from wheels.threads import WAITING

FAMILIES = ("t5", "bart", "marian", "llama", "qwen2", "qwen3", "gpt2")
"""Model types whose converted texts were held against transformers' own."""


def why_not(pair: Pair) -> str | None:
    """Return why CTranslate2 cannot run the models of a pair; None: it can."""
    kinds = {str(model.config.model_type) for model in (pair.student, pair.teacher)}
    if find_spec("ctranslate2") is None:
        return 'CTranslate2 is not installed; pip install "training-wheels[rivals]"'
    if not kinds <= {*FAMILIES}:
        return f"models of type {', '.join(sorted(kinds - {*FAMILIES}))} are not converted, only {', '.join(FAMILIES)}"
    return None if pair.device.type == "cpu" else f"it is timed on the CPU alone, not on {pair.device}"


def alone(model: str, weights: str) -> Callable[[Workload, int], Outcome]:
    """Return a function that runs one model greedily, its weights in `float32` or in `int8`."""

    def run(workload: Workload, batch_size: int) -> Outcome:
        prompts, pair = workload.prompts, workload.prompts.pair
        assert workload.converted is not None, "a folder for the converted models"
        folder = converted(pair, model, workload.converted / model)
        engine = _loaded(folder, weights, pair.is_seq2seq, torch.get_num_threads())
        writer = _Writer(pair, getattr(pair, model), engine)
        outputs: list[Tokens] = [()] * len(prompts.texts)
        start = time.perf_counter()
        rows = sequences_of(pair, pair.encode(prompts.texts), prompts.max_new_tokens)
        rows.sort(key=lambda row: -len(row.source))
        batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        for batch, running in [(batch, writer.begin(batch)) for batch in batches]:
            for row, tokens in zip(batch, writer.finish(batch, running), strict=True):
                outputs[row.index] = tokens
                pair.decode(tokens)
        seconds = time.perf_counter() - start
        written = sum(map(len, outputs)) if model == "teacher" else 0
        return Outcome(outputs, seconds, Counter(), written)

    return run


class _Writer:
    """A loaded model, asked for what the same model writes in transformers."""

    def __init__(self, pair: Pair, model: PreTrainedModel, engine: Any) -> None:
        self.pair, self.engine, self.limits = pair, engine, Constraints.of(model)
        # Marian's padding has no place in a converted vocabulary: it cannot be written, nor forbidden.
        gone = {pair.pad_id} if model.config.model_type == "marian" else set()
        self.settings: dict[str, Any] = {
            "beam_size": 1,
            "end_token": list(pair.eos_ids),
            "return_end_token": True,
            "suppress_sequences": [[piece] for piece in self._pieces([*{*self.limits.suppressed} - gone])] or None,
            "asynchronous": True,
        }

    def _pieces(self, tokens: list[int]) -> list[str]:
        pieces: Any = self.pair.tokenizer.convert_ids_to_tokens(tokens)
        return list(pieces)

    def begin(self, batch: list[Sequence]) -> list[Any]:
        """Put a batch in the queue, and return the results to wait for."""
        sources, longest = [self._pieces(row.source) for row in batch], max(row.limit for row in batch)
        if self.pair.is_seq2seq:
            first = self.limits.forced_first
            prefix = None if first is None else [self._pieces([first])] * len(batch)
            lengths = {"max_decoding_length": longest, "min_decoding_length": 0, "max_input_length": 0}
            running: list[Any] = self.engine.translate_batch(sources, prefix, **lengths, **self.settings)
            return running
        longest += max(self._before(batch))
        running = self.engine.generate_batch(
            sources, max_length=longest, include_prompt_in_result=False, **self.settings
        )
        return running

    def _before(self, batch: list[Sequence]) -> list[int]:
        """Return how many tokens of each prompt stand before its output, and count as written.

        Beside a prompt of one token, which leaves nothing to read at once, the engine returns the others' rest.
        """
        lengths = [len(row.source) for row in batch]
        whole = self.pair.is_seq2seq or min(lengths) > 1
        return [0 if whole else length - 1 for length in lengths]

    def finish(self, batch: list[Sequence], running: list[Any]) -> list[Tokens]:
        """Wait for a batch, and return its outputs, as `generate` ends them."""
        outputs = []
        for row, before, each in zip(batch, self._before(batch), running, strict=True):
            result = each.result()
            pieces = result.hypotheses[0] if self.pair.is_seq2seq else result.sequences[0]
            tokens: Any = self.pair.tokenizer.convert_tokens_to_ids(pieces[before : before + row.limit])
            if self.limits.forced_last and len(tokens) == row.limit:
                tokens[-1] = self.limits.forced_last[0]
            outputs.append(until_end(tokens, self.pair.eos_ids))
        return outputs


@lru_cache(maxsize=4)
def _loaded(folder: Path, weights: str, is_seq2seq: bool, threads: int) -> Any:
    """Return a converted model in memory; its weights become int8 here."""
    kind = _package().Translator if is_seq2seq else _package().Generator
    return kind(str(folder), compute_type=weights, inter_threads=1, intra_threads=threads)


@cache
def _package() -> Any:
    """Return the package, loaded as if it were alone.

    Its copy of OpenMP then reads how idle threads wait: the command line has them sleep, which slows this engine.
    """
    waiting = {name: os.environ.pop(name) for name in WAITING if name in os.environ}
    try:
        return import_module("ctranslate2")
    finally:
        os.environ.update(waiting)


def converted(pair: Pair, model: str, folder: Path) -> Path:
    """Return the folder of a model of the pair as CTranslate2 reads it; it is converted where it is not yet.

    Raises:
        WheelsError: where the converter refuses it.
    """
    if folder.is_dir():
        return folder
    with new_folder(folder) as made, tempfile.TemporaryDirectory() as saved:
        (pair.save_teacher if model == "teacher" else pair.save_student)(saved)
        # The converter asks BART for two settings that transformers no longer writes.
        asked = {"normalize_before": False, "normalize_embedding": True}
        write_json(Path(saved) / "config.json", asked | read_object(Path(saved) / "config.json"))
        try:
            _package().converters.TransformersConverter(saved).convert(str(made), quantization="float32", force=True)
        except Exception as error:  # whatever a model lacks that its loader reads
            raise WheelsError(
                f"CTranslate2 cannot convert the {model}: {one_line(str(error))}; leave ct2- out of --methods"
            ) from error
        # A tokenizer without a begin token is a null there, which the engine does not read.
        settings = read_object(made / "config.json")
        unset = [name for name, value in settings.items() if name.endswith("_token") and value is None]
        write_json(made / "config.json", settings | dict.fromkeys(unset, pair.tokenizer.eos_token))
    return folder
