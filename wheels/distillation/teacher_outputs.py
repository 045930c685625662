"""The teacher's own outputs for sequence-level distillation, cached on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from wheels.distillation.generation import write
from wheels.errors import WheelsError
from wheels.files import read_json, write_json
from wheels.json_text import json_digest
from wheels.models.pair import Pair
from wheels.runs import chunks

# Rows per file: what a run that is cut short may lose.
CHUNK = 512
TEACHER_OUTPUTS = "teacher_outputs"
"""The folder for them in that of a run."""


def teacher_outputs(
    pair: Pair, sources: Sequence[list[int]], folder: Path, *, name: str, max_new_tokens: int, batch_size: int = 64
) -> list[list[int]]:
    """Return the teacher's greedy output for each source (Kim & Rush 2016, 1606.07947, with a beam of one).

    Chunks of `CHUNK` rows are kept in a folder named for all that they depend on: a run goes on after them.

    Args:
        pair: with the teacher that writes.
        sources: encoder inputs or prompts, as tokens.
        folder: where the outputs are kept.
        name: names the teacher's weights, such as `loading.model_digest` of its folder.
        max_new_tokens: the longest output.
        batch_size: rows at a time.

    Raises:
        WheelsError: where the place cannot be written.
    """
    made_from = [name, list(pair.eos_ids), max_new_tokens, pair.vocab_size, pair.source_limit, CHUNK, sources]
    origin = json_digest(made_from)
    outputs: list[list[int]] = []
    with tqdm(total=len(sources), desc="teacher outputs", unit="row", leave=False) as bar:

        def make(number: int) -> list[list[int]]:
            part = sources[number * CHUNK : (number + 1) * CHUNK]
            return write(
                pair.teacher,
                part,
                pad_id=pair.pad_id,
                eos_ids=pair.eos_ids,
                max_new_tokens=max_new_tokens,
                vocab_size=pair.vocab_size,
                context=pair.source_limit,
                batch_size=batch_size,
                advance=bar.update,
            )

        for part in chunks(folder / origin, origin, range(-(-len(sources) // CHUNK)), make):
            outputs += part
            bar.update(len(outputs) - bar.n)
    write_json(folder / "tokens.json", sum(map(len, outputs)))
    return outputs


def tokens_written(folder: Path) -> int:
    """Return the number of tokens in the last result of `teacher_outputs`; 0 before the first."""
    file = folder / "tokens.json"
    written = read_json(file) if file.is_file() else 0
    if type(written) is not int:
        raise WheelsError(f"{file} does not hold a number of tokens; delete it to have them counted again")
    return written
