"""Ray Data: each actor holds the models and writes an output for each row of the batches that it is given.

Ray starts the actors, gives them their GPUs, keeps the order and tries again what failed
(https://docs.ray.io/en/latest/data/transforming-data.html). Nothing of it is imported here: a `Decoder` is called with
columns and returns columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from wheels.config.parsing import build
from wheels.decoding.commands.generate import load_artefact, method_of
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.models.backends import use_backend
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.threads import set_threads

RAYS = ("text", "input", "input_format", "output", "format", "color", "shard", "ledger", "engine", "actors")
"""Settings of `wheels generate` that say from where to where: a dataset says so itself."""
COSTS = ("tokens", "teacher_tokens", "teacher_passes")
"""What is told of each output besides."""

Columns = dict[str, Any]
"""The columns of a batch: arrays of as many values as it has rows."""


class Decoder:
    """Writes an output for each row of a batch: what `ray.data.Dataset.map_batches` makes an actor of.

    `rows.map_batches(Decoder, fn_constructor_kwargs={"teacher_budget": 0.2}, batch_size=1024, compute=...)`

    A batch comes back with the column `output`, and `output_tokens`, `output_teacher_tokens`, `output_teacher_passes`.

    Args:
        output: the name of the outputs' column.
        number: the column of the rows' numbers, from 0, on which draws depend; needed where something is drawn.
        settings: those of `wheels generate`, by their names there, such as `model`, `teacher_budget` and `source`.

    Raises:
        WheelsError: for a setting that is unknown, or that has no meaning for rows in any order.
    """

    def __init__(self, *, output: str = "output", number: str | None = None, **settings: Any) -> None:
        self.config, self.output, self.number = config_of(settings, number), output, number
        config = self.config
        use_backend(config.backend)
        self.pair = (artefact := load_artefact(config)).pair
        self.method = method_of(config, artefact)
        set_threads(config.threads, self.pair)

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Return the columns of a batch, with those of the outputs."""
        for name in filter(None, (self.config.source, self.number)):
            if name not in batch:
                raise WheelsError(f"no column {name!r}; the columns are: {', '.join(batch)}")
        texts = [*map(str, batch[self.config.source])]
        traces = [trace for part in self._runs(batch, texts) for trace in self._decoded(*part)]
        told = {self.output: [trace.text for trace in traces]}
        told |= {f"{self.output}_{name}": [getattr(trace, name) for trace in traces] for name in COSTS}
        return {**batch, **{name: np.array(values) for name, values in told.items()}}

    def _runs(self, batch: Mapping[str, Any], texts: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the texts of rows that follow each other, with the number of the first."""
        if self.number is None:
            yield 0, texts
            return
        numbers = [int(number) for number in batch[self.number]]
        for _, run in groupby(range(len(texts)), key=lambda place: numbers[place] - place):
            places = [*run]
            yield numbers[places[0]], [texts[place] for place in places]

    def _decoded(self, first: int, texts: list[str]) -> list[Trace]:
        config = self.config
        sampling = Sampling(config.temperature, config.top_k, config.top_p)
        params = DecodeParams(max_new_tokens=config.max_new_tokens, sampling=sampling, seed=config.seed, first=first)
        size = config.batch_size
        return decode(self.pair, texts, self.method, params, batch_size=size, on_error=config.on_error)


def config_of(settings: Mapping[str, Any], number: str | None) -> GenerateConfig:
    """Return the configuration of a decoder.

    Raises:
        WheelsError: for a setting that is unknown, or that has no meaning for rows in any order.
    """
    for name in RAYS:
        if name in settings:
            raise WheelsError(f"{name} is for the command line: a dataset says itself where rows come from, and go to")
    config = build(GenerateConfig, settings)
    config.check_any_order()
    if number is None and (config.temperature > 0 or (config.budget is not None and config.rule == "random")):
        raise WheelsError("draws depend on a row's number: give number=, the column that holds it, from 0")
    return config
