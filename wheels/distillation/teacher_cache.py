"""The teacher's probabilities at the target positions of the training rows, cached on disk.

What is kept, version 1. A folder, named by 16 hexadecimal digits of all that its content depends on (version, teacher
and its precision, k, temperatures, V, start tokens, every token of every row), holds

    cache.json          the settings in words; nothing reads it
    00000.safetensors   the first `ROWS` rows, target position after target position; 00001, ... the next ones

and each file, one chunk (see `wheels.runs`), holds tensors

    ids       [N, k]   uint16 (int32 where V > 65,536)   the k likeliest tokens, the likeliest first
    relative  [N, k]   float16   their log-probabilities less the likeliest's, at T = 1: l_v - max l, of logits l
    rest      [N, t]   float32   for each of t temperatures: logsumexp of l / T over all other tokens, less max l / T

which is `(2 + 2) k + 4 t` bytes a token (ids of 4 bytes: `6 k + 4 t`): 144 for k = 32 and four temperatures, where the
logits of 4,000 tokens are 16,000. At k = V there is no rest and nothing to choose: `relative` alone, in the order of
the vocabulary, `2 V` bytes a token.

For each T that was asked for, `relative / T` and `rest` are logits of the k + 1 outcomes at T, up to a constant:
p_T(v) of the k tokens follows at any T from what is kept at T = 1, but the mass of the rest does not, for it is a sum
of powers of numbers that are gone. Hence a `rest` for each temperature, and no answer for any other. How much of the
probability the rest hides grows with T (mass of all but 64 of 4,000 tokens: .05 at T = 1, .55 at 2, .97 at 10, for a
teacher of captions): a small k is for T = 1, and high temperatures want k = V. A softmax over
the k + 1 logits sums to 1 whatever was rounded; a float16 is off by 2^-11 of itself at most, so that log p_T(v) is off
by about `2^-11 * log(p_T(first) / p_T(v))`: the less, the more a token counts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from wheels.distillation.collate import Example
from wheels.distillation.losses import precise
from wheels.distillation.topk_losses import TopKDistribution, topk_with_rest
from wheels.errors import WheelsError
from wheels.files import write_json
from wheels.runs import Form, chunks, is_whole

VERSION = 1
ROWS = 512
"""Rows per file: what a run that is cut short may lose."""
SHORT_IDS = 1 << 16
"""The largest V whose ids fit into two bytes."""

Shard = dict[str, torch.Tensor]
Scorer = Callable[[Sequence[Example]], list[Shard]]
"""What asks a teacher: returns the tensors of each of some rows (`wheels.distillation.scorers`)."""
SHARD: Form[Shard] = Form(".safetensors", save, load_file)


@dataclass(frozen=True)
class CacheSettings:
    """What a cache depends on, besides the rows."""

    teacher: str
    """Names the teacher's weights, such as `loading.model_digest` of its folder."""
    dtype: str
    """The teacher's precision."""
    k: int
    """The tokens that are kept."""
    temperatures: tuple[float, ...]
    """T of each distribution that can be asked for."""
    vocab_size: int
    """V, the range of ids that student and teacher have."""
    start_ids: tuple[int, ...]
    """What the decoder of a sequence-to-sequence model reads first."""

    def __post_init__(self) -> None:
        """Check that k tokens are there.

        Raises:
            WheelsError: where k is above V.
        """
        if not 1 <= self.k <= self.vocab_size:
            raise WheelsError(f"cached_logits must be between 1 and the {self.vocab_size} logits, got {self.k}")

    def column(self, temperature: float) -> int:
        """Return the index of a temperature.

        Raises:
            WheelsError: where the cache has no such temperature.
        """
        if temperature not in self.temperatures:
            known = ", ".join(f"{one:g}" for one in self.temperatures)
            raise WheelsError(
                f"the cache is of the temperatures {known}, got {temperature:g}; make one with --cache-temperatures"
            )
        return self.temperatures.index(temperature)


def shard_of(logits_NV: torch.Tensor, k: int, temperatures: Sequence[float]) -> Shard:
    """Return the cached tensors of a teacher's logits; see the top of this file."""
    logits_NV = precise(logits_NV)
    if k == logits_NV.shape[1]:
        return {"relative": (logits_NV - logits_NV.amax(dim=-1, keepdim=True)).to(torch.float16)}
    top_NK, ids_NK = logits_NV.topk(k, dim=-1)
    best_N1 = top_NK[:, :1]
    rests = [
        topk_with_rest(logits_NV, ids_NK, temperature)[:, -1:] - best_N1 / temperature for temperature in temperatures
    ]
    return {
        "ids": ids_NK.to(torch.uint16 if logits_NV.shape[1] <= SHORT_IDS else torch.int32),
        "relative": (top_NK - best_N1).to(torch.float16),
        "rest": torch.cat(rests, dim=-1).to(torch.float32),
    }


def distribution_of(shard: Shard, temperature: float, column: int) -> TopKDistribution:
    """Return the distribution at a temperature, that of a column of `rest`."""
    outcomes_NK = shard["relative"].float() / temperature
    if "rest" not in shard:
        return TopKDistribution(None, outcomes_NK)
    outcomes_NJ = torch.cat([outcomes_NK, shard["rest"][:, column : column + 1]], dim=-1)
    return TopKDistribution(long_ids(shard["ids"]), outcomes_NJ)


def long_ids(ids: torch.Tensor) -> torch.Tensor:
    """Return ids as int64; torch supports few operations on uint16."""
    return ids.view(torch.int16).long() & 0xFFFF if ids.dtype == torch.uint16 else ids.long()


@dataclass
class TeacherCache:
    """The cached distributions of one teacher for the rows of one training run."""

    root: Path
    """The folder of caches."""
    settings: CacheSettings
    """What it depends on."""
    examples: Sequence[Example]
    """The rows; an example's `row` is its place among them."""
    folder: Path = field(init=False)
    """The folder of this one."""
    _ends: list[int] = field(init=False)
    _shards: dict[int, Shard] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find the folder, and the position of each row in it."""
        rows = [[example["source"], example["target"]] for example in self.examples]
        key = json.dumps([VERSION, ROWS, asdict(self.settings), rows])
        self.folder = self.root / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._ends = list(itertools.accumulate(len(example["target"]) for example in self.examples))

    @property
    def tokens(self) -> int:
        """The target positions of all rows."""
        return self._ends[-1] if self._ends else 0

    @property
    def files(self) -> list[Path]:
        """Every file of the whole cache."""
        return [self.folder / f"{number:05d}.safetensors" for number in range(-(-len(self.examples) // ROWS))]

    def missing(self) -> list[int]:
        """Return the numbers of the files that are not there, or damaged."""
        origin = self.folder.name
        return [number for number, file in enumerate(self.files) if not is_whole(file, [origin, number])]

    def write(self, scorer: Scorer) -> None:
        """Write what is missing, with a bar on standard error.

        Args:
            scorer: asks the teacher of `settings`.

        Raises:
            WheelsError: where the place cannot be written, or the teacher fails.
        """
        numbers = self.missing()
        told = asdict(self.settings) | {"version": VERSION, "rows": len(self.examples), "tokens": self.tokens}
        write_json(self.folder / "cache.json", told)
        total = sum(len(self._rows(number)) for number in numbers)
        with tqdm(total=total, desc="teacher's probabilities", unit="row", leave=False) as bar:
            made = chunks(self.folder, self.folder.name, numbers, partial(self._score, scorer), SHARD)
            for number, _ in zip(numbers, made, strict=True):
                bar.update(len(self._rows(number)))

    def distribution(self, rows_B: torch.Tensor, temperature: float) -> TopKDistribution:
        """Return the teacher's distribution at the target positions of some rows, one row after the other.

        Args:
            rows_B: the places of the rows among the examples.
            temperature: T, one of the cache's.

        Raises:
            WheelsError: for another temperature, or a file that is missing or damaged.
        """
        column = self.settings.column(temperature)
        parts = [self._row(row) for row in rows_B.tolist()]
        shard = {name: torch.cat([part[name] for part in parts]).to(rows_B.device) for name in parts[0]}
        return distribution_of(shard, temperature, column)

    def _score(self, scorer: Scorer, number: int) -> Shard:
        """Return the tensors of the rows of one file, in their order."""
        parts = scorer(self._rows(number))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _rows(self, number: int) -> Sequence[Example]:
        """Return the rows of one file."""
        return self.examples[number * ROWS : (number + 1) * ROWS]

    def _row(self, row: int) -> Shard:
        """Return the cached tensors of one row."""
        number = row // ROWS
        before = self._ends[number * ROWS - 1] if number else 0
        end = self._ends[row] - before
        start = end - len(self.examples[row]["target"])
        return {name: tensor[start:end] for name, tensor in self._shard(number).items()}

    def _shard(self, number: int) -> Shard:
        """Return one file's tensors, memory-mapped."""
        if number not in self._shards:
            self._shards[number] = load_file(self.files[number])
        return self._shards[number]
