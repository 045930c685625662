"""`wheels rationales`: the words of each source that a teacher's gradients point to, written next to the row."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from wheels.config.parsing import to_dict, write_resolved
from wheels.data.formats import read_records
from wheels.data.prompts import Prompt
from wheels.data.rows import Columns, Row, row_of
from wheels.data.splits import ONLY, open_splits
from wheels.distillation.collate import Collator, Example
from wheels.distillation.generation import outputs_of
from wheels.distillation.run_folder import noted_prompt
from wheels.errors import WheelsError
from wheels.files import check_writable, write_jsonl, write_text
from wheels.json_text import json_digest
from wheels.models.loading import load_model, load_tokenizer, model_digest
from wheels.models.pair import Pair
from wheels.models.places import check_place
from wheels.rationales.attribution import GRADIENTS, embedder, integrated_gradients
from wheels.rationales.config import RationalesConfig
from wheels.rationales.page import rationales_page
from wheels.rationales.words import rationale, token_spans, word_scores, words_of
from wheels.runs import NOTE, chunks, claim

log = logging.getLogger("wheels")

Record = dict[str, Any]
CHUNK = 256
"""Rows per file of what is kept while it runs: what a run that is cut short may lose."""
# What does not change a rationale: a run may go on with other values of these.
INCIDENTAL = ("output", "html", "html_rows", "device", "threads")
# Digits of a score: those that do not depend on which rows shared a batch.
DIGITS = 4


@dataclass(frozen=True)
class Attributor:
    """A teacher and the attribution method."""

    pair: Pair
    """The teacher, twice, with its tokenizer and prompt."""
    config: RationalesConfig
    """What was asked for."""

    def attribute(self, rows: Sequence[Row]) -> list[Record]:
        """Return `words` (each with its score) and `target` (what was attributed) of each row.

        A row that is longer than the teacher can read has no words.
        """
        pair = self.pair
        sources = pair.encode([row.source for row in rows])
        targets = self._targets(rows, sources)
        fits = [row for row in range(len(rows)) if pair.fits(sources[row], targets[row])]
        found: list[Record] = [{"words": [], "target": pair.decode(target)} for target in targets]
        if self.config.method == "random":
            for row in fits:
                drawn = [word.text for word in words_of(rows[row].source)]
                found[row]["words"] = _rounded(drawn, random_scores(rows[row].source, len(drawn), self.config.seed))
            return found
        # Rows of one length go together: less padding.
        order = sorted(fits, key=lambda row: (len(sources[row]), len(targets[row]), row))
        size = self.config.batch_size
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            examples: list[Example] = [{"source": sources[row], "target": targets[row]} for row in batch]
            for row, scores in zip(batch, self._scores(examples), strict=True):
                words = words_of(rows[row].source)
                spans = token_spans(pair.tokenizer, pair.prompt, rows[row].source)[: len(scores)]
                merged = word_scores(words, spans, scores, merge=self.config.merge)
                found[row]["words"] = _rounded([word.text for word in words], merged)
        return found

    def _targets(self, rows: Sequence[Row], sources: Sequence[list[int]]) -> list[list[int]]:
        """Return the tokens whose probability is attributed."""
        pair, config = self.pair, self.config
        if config.of == "reference" or config.method == "random":
            return pair.encode_targets([row.target for row in rows])
        longest, batch_size = config.max_new_tokens, config.batch_size
        return outputs_of(pair, pair.teacher, sources, max_new_tokens=longest, batch_size=batch_size)

    def _scores(self, examples: Sequence[Example]) -> list[list[float]]:
        """Return the scores of each example's source tokens."""
        pair, config = self.pair, self.config
        lengths = [len(example["source"]) for example in examples]
        collator = Collator.of(pair)
        batch = {name: tensor.to(pair.device) for name, tensor in collator(examples).items()}
        if config.method == "integrated-gradients":
            baseline_D = self._baseline()
            scores_BS = integrated_gradients(pair.teacher, batch, baseline_D=baseline_D, steps=config.steps)
        else:
            scores_BS = GRADIENTS[config.method](pair.teacher, batch)
        return [scores[:length] for scores, length in zip(scores_BS.tolist(), lengths, strict=True)]

    def _baseline(self) -> torch.Tensor:
        """Return the embedding that integrated gradients start from, [D]."""
        token = {"end": [self.pair.eos_ids[0]], "pad": [self.pair.pad_id], "mean": list(range(self.pair.vocab_size))}
        ids_N = torch.tensor(token[self.config.baseline], device=self.pair.device)
        baseline_D: torch.Tensor = embedder(self.pair.teacher)(ids_N).detach().mean(dim=0)
        return baseline_D


def _rounded(words: Sequence[str], scores: Sequence[float]) -> list[list[Any]]:
    """Return each word with its score, as it is written down."""
    return [[word, float(f"{score:.{DIGITS}g}")] for word, score in zip(words, scores, strict=True)]


def random_scores(text: str, count: int, seed: int) -> list[float]:
    """Return as many numbers in [0, 1), determined by the text and the seed.

    They are of words, not of tokens: the largest of many tokens' numbers would favour words of many pieces.
    """
    key = hashlib.sha256(f"{seed} {text}".encode()).digest()[:7]
    return torch.rand(count, generator=torch.Generator().manual_seed(int.from_bytes(key))).tolist()


def run(config: RationalesConfig) -> Path:
    """Write the rationales that `config` asks for, and return their file.

    An interrupted run resumes after its last complete part and ends with the same file; a finished one returns at once.

    Raises:
        WheelsError: for a teacher, rows or settings that do not fit, or a file that holds another run.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    check_place(config.teacher, "teacher")
    for path in (config.output, config.html):
        if path:
            check_writable(path)
    output, kept = Path(config.output), Path(f"{config.output}.run")
    records = _records(config)
    identity = _identity(config, [record for record, _ in records])
    if output.exists() and not (kept / NOTE).is_file():
        raise WheelsError(f"{output} is there already, and no run of this command wrote it; give another --output")
    advice = f"give another --output, or remove it and {output}"
    with claim(kept, "rationales", config, identity, advice=advice) as held:
        if held.finished:
            log.info("%s is done already", output)
        else:
            log.info("attributing %d rows by %s", len(records), config.method)
            tables = _complete(config, records, kept / "parts")
            write_jsonl(output, tables)
            write_resolved(config, kept, {"digest": identity["rows_digest"], "rows": len(tables)})
            held.finish(output)
            shutil.rmtree(kept / "parts", ignore_errors=True)
        if config.html:
            _write_page(config, output)
    return output


def _records(config: RationalesConfig) -> list[tuple[Record, Row]]:
    """Return the records of the file with their rows.

    Raises:
        WheelsError: for no such file, a bad row, or a column that the rationale would overwrite.
    """
    name, splits = open_splits(config.data, limit=config.limit, line=config.source)
    split = ONLY if ONLY in splits else config.split
    if split not in splits:
        raise WheelsError(f"{name}: there is no split {split}, only: {', '.join(splits)}; choose one by --split")
    records = []
    columns = Columns(config.source, config.target, require_target=config.of == "reference")
    for place, record in splits[split][1]:
        if config.column in record:
            raise WheelsError(f"{place}: there is a column {config.column!r} already; name another by --column")
        row = row_of(record, place, columns)
        _check_json(record, place)
        records.append((record, row))
    return records


def _check_json(record: Record, place: str) -> None:
    """Raise a `WheelsError` for a value that the written file cannot hold, such as a time of a Parquet file."""
    for column, value in record.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise WheelsError(f"{place}: {column!r} ({kind}) has no form in JSON; drop the column") from None


def _identity(config: RationalesConfig, records: Sequence[Record]) -> Record:
    """Return everything that the rationales depend on: the run's identity."""
    settings = to_dict(config, INCIDENTAL)
    settings["prompt"] = prompt_of(config).noted
    return settings | {"teacher_digest": model_digest(config.teacher), "rows_digest": json_digest(records)}


def _complete(config: RationalesConfig, records: Sequence[tuple[Record, Row]], folder: Path) -> list[Record]:
    """Return each record with its rationale; chunks of `CHUNK` rows are kept in `folder`."""
    attributor = cache(partial(load_attributor, config))  # a run whose parts are all there needs no teacher
    parts = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
    completed: list[Record] = []
    with tqdm(total=len(records), desc="rationales", unit="row") as bar:
        found = chunks(folder, None, range(len(parts)), lambda n: attributor().attribute([row for _, row in parts[n]]))
        for part, ones in zip(parts, found, strict=True):
            completed += [_with(config, record, one) for (record, _), one in zip(part, ones, strict=True)]
            bar.update(len(part))
    missing = sum(not one[f"{config.column}_words"] for one in completed)
    if missing:
        log.warning(
            "%d of %d rows are longer than the teacher reads, or have no words: no rationale", missing, len(records)
        )
    return completed


def _with(config: RationalesConfig, record: Record, found: Record) -> Record:
    """Return a record with its rationale, the scores of all words and, where it is the teacher's own, the target."""
    words, scores = [word for word, _ in found["words"]], [score for _, score in found["words"]]
    added = {config.column: rationale(words, scores, config.top_k) or None, f"{config.column}_words": found["words"]}
    return record | added | ({f"{config.column}_of": found["target"]} if config.of == "own" else {})


def load_attributor(config: RationalesConfig) -> Attributor:
    """Load the teacher of a configuration.

    Raises:
        WheelsError: for a model that cannot be loaded.
    """
    model = load_model(config.teacher, device=config.device, role="teacher")
    tokenizer = load_tokenizer(config.teacher, role="teacher")
    return Attributor(Pair.alone(model, tokenizer, prompt=prompt_of(config)), config)


def prompt_of(config: RationalesConfig) -> Prompt:
    """Return the prompt that was given, else the one that the teacher was trained with."""
    return noted_prompt(config.teacher) if config.prompt is None else Prompt.of(config.prompt)


def _write_page(config: RationalesConfig, output: Path) -> None:
    """Write the page of the first rows."""
    assert config.html is not None, "asked for"
    rows = list(_page_rows(config, output))
    of = "the teacher's own output" if config.of == "own" else "the reference"
    facts = {
        "teacher": config.teacher,
        "method": f"{config.method}, of {of}",
        "rationale": f"the {config.top_k} words of largest weight",
        "rows": f"the first {len(rows)} of {config.output}",
    }
    write_text(config.html, rationales_page(rows, facts))


def _page_rows(config: RationalesConfig, output: Path) -> Iterator[tuple[str, str, list[tuple[str, float]], int]]:
    """Yield source, target, words with their scores, and k, of the first rows."""
    for place, record in read_records(output, config.html_rows):
        row = row_of(record, place, Columns(config.source, config.target, require_target=False))
        target = record.get(f"{config.column}_of", row.target)
        yield row.source, target, [(word, score) for word, score in record[f"{config.column}_words"]], config.top_k
