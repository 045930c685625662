"""The teacher's own outputs for sequence-level distillation, cached on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from wheels.distillation.generation import write
from wheels.errors import WheelsError
from wheels.files import read_json, write_json
from wheels.json_text import json_digest
from wheels.runs import chunks

# Rows per file: what a run that is cut short may lose.
CHUNK = 512
TEACHER_OUTPUTS = "teacher_outputs"
"""The folder for them in that of a run."""


def teacher_outputs(
    teacher: PreTrainedModel,
    sources: Sequence[list[int]],
    folder: Path | str,
    *,
    name: str,
    pad_id: int,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    vocab_size: int,
    context: int | None = None,
    batch_size: int = 64,
) -> list[list[int]]:
    """Return the teacher's greedy output for each source (Kim & Rush 2016, 1606.07947, with a beam of one).

    Chunks of `CHUNK` rows are kept in a folder named for all that they depend on: a run goes on after them.

    Args:
        teacher: the model that writes.
        sources: encoder inputs or prompts, as tokens.
        folder: where the outputs are kept.
        name: names the teacher's weights, such as `loading.model_digest` of its folder.
        pad_id: padding.
        eos_ids: the tokens that end an output.
        max_new_tokens: the longest output.
        vocab_size: V, the range of ids it may write.
        context: the longest sequence that is read; None: no limit is known.
        batch_size: rows at a time.

    Raises:
        WheelsError: where the place cannot be written.
    """
    origin = json_digest([name, list(eos_ids), max_new_tokens, vocab_size, context, CHUNK, sources])
    outputs: list[list[int]] = []
    with tqdm(total=len(sources), desc="teacher outputs", unit="row", leave=False) as bar:

        def make(number: int) -> list[list[int]]:
            return write(
                teacher, sources[number * CHUNK : (number + 1) * CHUNK], pad_id=pad_id, eos_ids=eos_ids,
                max_new_tokens=max_new_tokens, vocab_size=vocab_size, context=context, batch_size=batch_size,
                advance=bar.update,
            )  # fmt: skip

        for part in chunks(Path(folder) / origin, origin, -(-len(sources) // CHUNK), make):
            outputs += part
            bar.update(len(outputs) - bar.n)
    write_json(Path(folder) / "tokens.json", sum(map(len, outputs)))
    return outputs


def tokens_written(folder: Path) -> int:
    """Return the number of tokens in the last result of `teacher_outputs`; 0 before the first."""
    file = folder / "tokens.json"
    written = read_json(file) if file.is_file() else 0
    if type(written) is not int:
        raise WheelsError(f"{file} does not hold a number of tokens; delete it to have them counted again")
    return written
