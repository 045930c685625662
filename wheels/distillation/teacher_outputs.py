"""The teacher's own outputs for sequence-level distillation, cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from wheels.distillation.generation import write
from wheels.errors import WheelsError
from wheels.files import read_json, write_json

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
    chunk: int = CHUNK,
) -> list[list[int]]:
    """Return the teacher's greedy output for each source (Kim & Rush 2016, 1606.07947, with a beam of one).

    Outputs are kept in files of `chunk` rows, in a folder named by everything they depend on; a run resumes after them.

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
        chunk: rows per file.

    Raises:
        WheelsError: where the place cannot be written, or a kept file holds something else.
    """
    place = _place(folder, [name, list(eos_ids), max_new_tokens, vocab_size, context, chunk, sources])
    outputs: list[list[int]] = []
    with tqdm(total=len(sources), desc="teacher outputs", unit="row", leave=False) as bar:
        for number, start in enumerate(range(0, len(sources), chunk)):
            file, rows = place / f"{number:05d}.json", list(sources[start : start + chunk])
            if file.is_file():
                bar.update(len(rows))
            else:
                written = write(
                    teacher, rows, pad_id=pad_id, eos_ids=eos_ids, max_new_tokens=max_new_tokens,
                    vocab_size=vocab_size, context=context, batch_size=batch_size, advance=bar.update,
                )  # fmt: skip
                write_json(file, written)
            outputs += _kept(file, len(rows))
    write_json(Path(folder) / "tokens.json", sum(map(len, outputs)))
    return outputs


def _place(folder: Path | str, settings: list[Any]) -> Path:
    """Return the folder in `folder` that is named for the settings."""
    return Path(folder) / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def tokens_written(folder: Path) -> int:
    """Return the number of tokens in the last result of `teacher_outputs`; 0 before the first."""
    file = folder / "tokens.json"
    written = read_json(file) if file.is_file() else 0
    if type(written) is not int:
        raise WheelsError(f"{file} does not hold a number of tokens; delete it to have them counted again")
    return written


def _kept(file: Path, count: int) -> list[list[int]]:
    """Return the `count` outputs that a file keeps."""
    written = read_json(file)
    ids = isinstance(written, list) and all(
        isinstance(one, list) and all(isinstance(token, int) for token in one) for one in written
    )
    if not ids or len(written) != count:
        raise WheelsError(f"{file} does not hold {count} outputs; delete it to have them written again")
    return written
