"""Quality against dollars: what calls cost, and the picture over it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.benchmarks.curve.synthetic import measured, record, statistics
from tests.pictures import drawn
from wheels.benchmarks.core.cell import TEACHER_END, PointKey, Record
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve import plot
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.money import as_text, costs, dollars, money_of, usage_of_calls
from wheels.benchmarks.curve.run import run
from wheels.benchmarks.curve.summary import summarise
from wheels.decoding.remote.prices import Prices
from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError
from wheels.files import read_json

PRICES = Prices(1.0, 2.0, 0.1)
WORDS = {"s": "student", "t": "teacher"}


def written(authors: str) -> Record:
    return Record("", len(authors), authors.count("t"), 0, 0, 0.0, authors=tuple(WORDS[each] for each in authors))


@pytest.mark.parametrize(
    ("authors", "usage"),
    [
        ("", Usage()),
        ("sss", Usage()),
        ("t", Usage(1, 10, 0, 1)),
        ("sttst", Usage(3, 11 + 12 + 14, 0 + 11 + 12, 3)),
        ("tt", Usage(2, 21, 10, 2)),
    ],
)
def test_a_call_reads_all_that_stands_and_what_was_read_is_cached(authors, usage):
    assert usage_of_calls(written(authors), 10) == usage


def test_dollars_are_of_a_million_texts():
    two = [written("sttst"), written("sss")]
    assert dollars(two, [10, 99], PRICES) == pytest.approx((14 * 1.0 + 23 * 0.1 + 3 * 2.0) / 2)
    assert dollars(two, [10, 99], PRICES, alone=True) == pytest.approx((109 * 1.0 + 8 * 2.0) / 2)
    assert dollars([], [], PRICES) == 0.0
    assert record(1.0, 2, 3).authors == ("teacher", "teacher", "student")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    given = measured(count=40)
    curve = summarise(given, statistics)
    curve["details"] = {"money": money_of(given, [12] * 40, PRICES)}
    return plain_values(curve)


@pytest.fixture(scope="module")
def figure(found: dict[str, Any]) -> Figure:
    return drawn(plot.draw, found)


@pytest.mark.slow
def test_the_picture_is_over_dollars_with_the_teacher_by_itself(found, figure):
    axes, money = figure.axes[0], found["details"]["money"]
    assert axes.get_xlabel() == "what the calls cost: dollars for 1,000,000 texts"
    over = plot.abscissa_of(found)
    x_P, mean_P, _, _ = plot.mean_curve(found, "learned", over)
    known = costs(found)
    seeds = found["seeds"]["learned"]
    for budget, x in zip([each for each in found["budgets"] if 0 < each < 1], x_P[1:], strict=True):
        assert x == pytest.approx(sum(known["learned", seed, budget] for seed in seeds) / len(seeds))
    assert (x_P[0], mean_P[0]) == (0.0, found["student"]["quality"])
    assert x_P[-1] > money["teacher"], "half of the tokens, call by call, are dearer than the whole text at once"
    assert axes.get_xlim()[1] == pytest.approx(1.06 * max(known.values()))
    dots = [
        tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1
    ]
    assert (money["teacher"], found["teacher"]["quality"]) in dots
    assert "No line" not in figure.legends[0].get_title().get_text()


def test_the_table_says_what_each_budget_costs(found):
    text = as_text(found)
    lines = [line.split() for line in text.splitlines() if line.split()[:1] in (["learned"], ["teacher"])]
    assert text.startswith("dollars for 1,000,000 texts\n") and len(lines) == 1 + len(found["budgets"]) - 2
    assert lines[-1][1:4] == ["1.00", f"{found['details']['money']['teacher']:.2f}", "100%"]


def test_money_is_of_decodes_between_the_ends():
    given = measured(count=5)
    told = money_of(given, [12] * 5, PRICES)
    assert {(p["rule"], p["seed"], p["budget"]) for p in told["points"]} == {
        (key.rule, key.seed, key.budget) for key in given.outputs if 0 < key.budget < 1
    }
    assert told["teacher"] == dollars(given.outputs[TEACHER_END], [12] * 5, PRICES, alone=True)
    assert PointKey("learned", 0, 0.2) in given.outputs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": "dollars"}, "x dollars and prices go together"),
        ({"prices": ("prompt=1", "completion=1")}, "x dollars and prices go together"),
        ({"x": "dollars", "prices": ("prompt=1",)}, "must have prompt and completion"),
        ({"x": "dollars", "prices": ("prompt=1", "completion=1"), "span": "line"}, "calls of one token, got span line"),
        ({"x": "euro"}, "x must be"),
        ({"teacher": "http://h/v1"}, "give --teacher-model NAME"),
    ],
)
def test_refuses(options, words):
    with pytest.raises(WheelsError, match=words):
        CurveConfig(**options)


@pytest.fixture(scope="module")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
        pytest.skip("what `wheels serve` needs is not installed (the extras serve and test)")
    from tests.decoding.remote.test_own_server import serve
    from tests.decoding.tiny import make_pair
    from wheels.models.artefact import save_deferral
    from wheels.policy.features import feature_width
    from wheels.policy.head import DeferralHead, HeadConfig

    pair, folder = make_pair("t5"), tmp_path_factory.mktemp("model")
    pair.save_student(folder)
    pair.save_teacher(folder / "teacher")
    width = feature_width(int(pair.student.get_output_embeddings().weight.shape[1]))
    head = DeferralHead(HeadConfig(features=width, width=4, vocab_size=pair.vocab_size))
    save_deferral(folder, {"learned": [head]}, teacher="teacher", prompt=pair.prompt, trained={})
    rows = "".join(f'{{"source": "{text}", "target": "a b c"}}\n' for text in ("a b c", "k j i h", "d", "e a e a"))
    (folder / "rows").mkdir()
    (folder / "rows" / "test.jsonl").write_text(rows)
    with serve(pair, queue=256) as server:
        yield folder, f"{server.url}/v1"


@pytest.mark.slow
def test_a_curve_with_the_teacher_at_an_address_is_that_of_the_same_teacher_here(served_folder, tmp_path):
    folder, url = served_folder
    settings: dict[str, Any] = {
        "model": str(folder), "data": str(folder / "rows"), "rules": ("random",), "budgets": (0.0, 0.5, 1.0),
        "seeds": 1, "max_new_tokens": 8, "metrics": ("chrf",), "resamples": 100, "x": "dollars",
        "prices": ("prompt=0.40", "cached=0.10", "completion=1.60"),
    }  # fmt: skip
    run(CurveConfig(output=str(tmp_path / "here"), **settings))
    run(CurveConfig(output=str(tmp_path / "there"), teacher=url, teacher_model="big", **settings))
    here, there = (read_json(tmp_path / name / "curve.json") for name in ("here", "there"))
    assert there["teacher"]["name"] == "big"
    assert here["details"]["money"] == there["details"]["money"]
    for one, other in zip(here["points"], there["points"], strict=True):
        assert {n: v for n, v in one.items() if n not in ("seconds", "signature")} == {
            n: v for n, v in other.items() if n not in ("seconds", "signature")
        }
    assert here["details"]["money"]["points"][0]["dollars"] > 0
