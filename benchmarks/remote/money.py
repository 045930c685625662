"""`python -m wheels.benchmarks.remote.money`: what quality costs in dollars, and how a ceiling is kept.

The same texts are written under ceilings that are shares of what the teacher alone costs, its prompt cache counted: by
calls that buy one token, several, the rest of the text, or what pays best, paced by `--budget-dollars`; and by whole
texts of the teacher, chosen by the head or as they come. Whole texts are chosen with all of them known: the dearest
choice is made for free. The server is on the loopback (`wheels.benchmarks.remote.loopback`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wheels.benchmarks.core.bootstrap import interval, resample_sentences
from wheels.benchmarks.remote.loopback import NAME, about, server_of
from wheels.config.fields import check_fields, option
from wheels.config.parsing import parse, to_dict
from wheels.data.tasks import Row, load_task
from wheels.decoding.methods.calibrated import rule_of
from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.method import Method, deferral, student_only, teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import PICO, Prices, check_prices
from wheels.decoding.remote.span import AUTO, check_span
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode
from wheels.decoding.trace import Trace, teacher_use
from wheels.files import write_json
from wheels.metrics import sentence_statistics
from wheels.models.artefact import Artefact

LONGEST = 64
"""Tokens of an output at most: so many buy the rest of any text."""
WAYS = {AUTO: "calls of what pays best"}


@dataclass(frozen=True)
class MoneyConfig:
    """What is measured."""

    output: str = option("runs/money", "folder of the result", metavar="DIR")
    model: str | None = option(None, "folder of a trained model (default: the embedded pair)", metavar="DIR")
    data: str = option("embedded-translation", "task whose test texts are written")
    texts: int = option(200, "texts that are written", minimum=1)
    prices: tuple[str, ...] = option(
        ("prompt=0.40", "cached=0.10", "completion=1.60"), "dollars for a million tokens", check=check_prices
    )
    ceilings: tuple[float, ...] = option((0.25, 0.5, 1.0), "shares of what the teacher alone costs", share=True)
    spans: tuple[str, ...] = option(
        (AUTO, "tokens:1", "tokens:4", "tokens:8", f"tokens:{LONGEST}"), "what a call buys", check=check_span
    )
    batch_size: int = option(16, "texts in flight", minimum=1)
    resamples: int = option(1000, "resamples of the bootstrap", minimum=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Written:
    """What one way wrote."""

    texts: list[str]
    costs: list[int]
    """Picodollars of each."""
    spent: int
    """Of all, the probe among them."""
    use: float


class Bench:
    """The models, the texts and the server."""

    def __init__(self, config: MoneyConfig, port: int) -> None:
        self.config, self.url = config, f"http://127.0.0.1:{port}/0/v1"
        self.artefact = Artefact.load(config.model)
        self.task = load_task(config.data)
        self.rows: list[Row] = self.task.rows("test")[: config.texts]
        self.prices = Prices.of(config.prices)
        self.params = DecodeParams(max_new_tokens=LONGEST)

    def write(self, method: Method | None, span: str, dollars: float | None = None) -> tuple[Written, list[Trace]]:
        """Write all texts with the teacher far away; without a method, under a ceiling by the trained rule."""
        settings: dict[str, Any] = {"span": span, "prices": self.prices, "budget_dollars": dollars}
        remote, here = RemoteTeacher(self.url, NAME, on_error="stop", **settings), self.artefact.pair
        pair = RemotePair(here.student, remote, here.tokenizer, prompt=here.prompt)
        sources = [row.source for row in self.rows]
        if method is None:
            method = deferral(rule_of(replace(self.artefact, pair=pair), "learned"), None, PACED)
        traces = decode(pair, sources, method, self.params, batch_size=self.config.batch_size)
        costs = [0 if trace.bill is None else self.prices.pico(trace.bill.usage) for trace in traces]
        spent = remote.ledger.spent
        pair.close()
        return Written([trace.text for trace in traces], costs, spent, teacher_use(traces)), traces

    def gains(self) -> list[float]:
        """Return what the head expects of calls at all states of the student's own texts, summed up for each."""
        rule, found = rule_of(self.artefact, "learned"), [0.0] * len(self.rows)
        score = rule.score
        assert score is not None

        def noted(step: Step) -> torch.Tensor:
            gain_B = score(replace(step, budget_B=torch.full_like(step.budget_B, 0.2)))
            for index, gain in zip(step.index_B.tolist(), gain_B.tolist(), strict=True):
                found[index] += gain
            return gain_B

        silent = replace(rule, score=noted).at(1e9)
        decode(self.artefact.pair, [row.source for row in self.rows], deferral(silent), self.params)
        return found


def routed(student: Written, teacher: Written, order: Sequence[int], ceiling: int) -> Written:
    """Return the texts of both where the teacher wrote those that come first in `order`, as far as the money goes."""
    spent, texts, costs, whole = 0, list(student.texts), [0] * len(student.texts), 0
    for index in order:
        if spent + teacher.costs[index] <= ceiling:
            texts[index], costs[index] = teacher.texts[index], teacher.costs[index]
            spent, whole = spent + teacher.costs[index], whole + 1
    return Written(texts, costs, spent, whole / len(texts))


class Table:
    """Rows of a result, each scored against the student alone."""

    def __init__(self, bench: Bench, student: Written) -> None:
        self.references = [row.target for row in bench.rows]
        self.metrics, self.rows = bench.task.metrics, list[dict[str, Any]]()
        self.weights_ZN = resample_sentences(len(bench.rows), bench.config.resamples, 0)
        self.student = {metric: self._values(metric, student) for metric in self.metrics}
        self.auto = dict[tuple[float | None, str], Any]()
        """What calls that choose what they buy score under each ceiling, by metric."""

    def _values(self, metric: str, written: Written) -> Any:
        return sentence_statistics(metric, written.texts, self.references).resampled(self.weights_ZN)

    def add(self, way: str, written: Written, share: float | None = None, ceiling: int | None = None) -> None:
        """Add what one way wrote under a ceiling, a share of what the teacher alone costs."""
        row: dict[str, Any] = {"way": way, "share": share, "use": written.use, "dollars": written.spent / PICO}
        row["ceiling"] = None if ceiling is None else ceiling / PICO
        row["kept"] = written.spent / ceiling if ceiling else None
        for metric in self.metrics:
            values_Z = self._values(metric, written)
            row[metric] = {
                "value": float(values_Z[0]),
                **interval(values_Z - self.student[metric], "more", "low", "high"),
            }
            if way == WAYS[AUTO]:
                self.auto[share, metric] = values_Z
            elif (share, metric) in self.auto:
                row[metric]["auto"] = interval(self.auto[share, metric] - values_Z, "more", "low", "high")
        self.rows.append(row)
        print(row, flush=True)


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of the result."""
    student, _ = bench.write(student_only(), "tokens:1")
    teacher, _ = bench.write(teacher_only(), f"tokens:{LONGEST}")
    table, count = Table(bench, student), len(bench.rows)
    table.add("student", replace(student, spent=0))
    gains = bench.gains()
    best = sorted(range(count), key=lambda index: -gains[index] / max(1, teacher.costs[index]))
    for share in bench.config.ceilings:
        ceiling = round(share * sum(teacher.costs))
        for span in bench.config.spans:
            way = WAYS.get(span, f"calls of {span.removeprefix('tokens:')}")
            table.add(way, bench.write(None, span, ceiling / PICO)[0], share, ceiling)
        table.add("whole texts, by gain", routed(student, teacher, best, ceiling), share, ceiling)
        table.add("whole texts, as they come", routed(student, teacher, range(count), ceiling), share, ceiling)
    table.add("teacher", replace(teacher, spent=sum(teacher.costs)))
    return table.rows


def main(argv: Sequence[str]) -> None:
    """Measure, and write `money.json`."""
    config = parse(MoneyConfig, argv, prog="python -m wheels.benchmarks.remote.money")
    with server_of(config.model) as port:
        bench = Bench(config, port)
        result = {
            "config": to_dict(config) | {"output": None, "model": None, "data": bench.task.name},
            **about(bench.artefact),
            "texts": len(bench.rows),
            "rows": measure(bench),
        }
    print(f"written to {write_json(Path(config.output) / 'money.json', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
