from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import pytest

from tests.benchmarks.curve.synthetic import measured, statistics
from tests.test_visible import ODD
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.curve.measured import Measured
from wheels.benchmarks.curve.report import pick_examples, render
from wheels.benchmarks.curve.summary import Curve, summarise
from wheels.benchmarks.curve.table import as_csv, as_text, in_words, shown_uses

VOID = {"meta", "img", "br"}
PNG = b"\x89PNG picture"


class Checker(HTMLParser):
    """Holds every tag to be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def world() -> Measured:
    return measured(count=50)


@pytest.fixture(scope="module")
def curve(world: Measured) -> Curve:
    found = summarise(world, statistics)
    found.versions["wheels"] = "0.1.0"
    found.metric_signatures["bleu"] = "nrefs:1|case:mixed"
    return found


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_stands_alone_and_is_well_formed(curve: Curve, world: Measured) -> None:
    page = render(curve, PNG, world)
    checker = read(page)
    assert 'src="data:image/png;base64,iVBORyBwaWN0dXJl"' in page
    assert not re.search(r"https?://|<link|<script", page)
    for words in ("What is not claimed", "synthetic_de_en", "nrefs:1|case:mixed", "wheels 0.1.0", "Note:"):
        assert words in checker.text
    assert checker.seen.count("dl") == 10
    assert "nan" not in checker.text.split()


def test_markup_in_texts_is_shown_not_obeyed(curve: Curve, world: Measured) -> None:
    page = render(curve, PNG, world)
    checker = read(page)
    assert {"i", "u", "w0", "w3"}.isdisjoint(checker.seen)
    assert "Quelle <i>0</i>" in checker.text
    assert "<u>text</u> &" in checker.text


def test_a_page_obeys_no_control_in_a_text_or_a_name(curve: Curve, world: Measured) -> None:
    odd = "".join(ODD.values()) + "x"
    references = [odd] * len(world.references)
    shown = dataclasses.replace(curve, task=odd, notes=[odd])
    page = render(shown, PNG, dataclasses.replace(world, references=references), command=odd)
    assert page.replace("\n", "").replace("�", "").isprintable() and page.count("�") > 10 * len(ODD)


def test_the_teachers_tokens_are_marked(curve: Curve, world: Measured) -> None:
    key, examples = pick_examples(world)
    assert key == PointKey("learned", 0, 0.2)
    assert len(examples) == 10
    assert examples[0].source == "Quelle <i>0</i>" and examples[-1].source == "Quelle <i>49</i>"
    page = render(curve, PNG, world)
    for example in examples:
        calls = example.record.teacher_tokens
        marked = "".join(f" &lt;w{i}&gt;" for i in range(calls))
        rest = "".join(f" &lt;w{i}&gt;" for i in range(calls, 20))
        assert (f"<mark>{marked}</mark>{rest}" if calls else f'<dd dir="auto">{rest}') in page


def test_a_special_token_of_the_teacher_leaves_no_empty_mark() -> None:
    world = measured(count=2, rules=("oracle",))
    mixed = Record("a b 20", 3, 1, 1, 2, 0.1, ("a", "", " b"), ("student", "teacher", "student"))
    world = dataclasses.replace(world, outputs={**world.outputs, PointKey("oracle", 0, 0.2): [mixed, mixed]})
    page = render(summarise(world, statistics), PNG, world)
    assert "<mark></mark>" not in page
    assert '<dd dir="auto">a b</dd>' in page


def test_a_curve_of_only_the_ends_has_a_page() -> None:
    world = measured(count=5, budgets=(0.0, 1.0))
    found = summarise(world, statistics)
    assert read(render(found, PNG, world)).seen.count("dl") == 0
    assert "student alone -> teacher alone" in as_text(found)


def test_strict_mode_shows_violations(world: Measured) -> None:
    strict = measured(count=20, mode="strict", rules=("learned", "random"))
    found = summarise(strict, statistics)
    assert "violations" in as_text(found) and "violations" in render(found, PNG, strict)
    assert "by every output at every prefix" in render(found, PNG, strict)


def test_the_terminal_shows_a_line_a_rule_at_three_uses(curve: Curve) -> None:
    text = as_text(curve)
    assert re.search(r"^rule +seeds +use 0.1 +use 0.2 +use 0.3$", text, re.M)
    rows = re.findall(r"^([\w-]+) +(\d) +(\d+\.\d) \((\d\.\d\d)\)", text, re.M)
    assert [row[0] for row in rows] == curve.rules * 2
    first = next(row for row in curve.at_use if (row["rule"], row["use"], row["metric"]) == ("learned", 0.1, "bleu"))
    assert rows[0][1:] == ("3", f"{first['value']:.1f}", f"{first['pgr']:.2f}")
    assert "note: learned was trained with 2 seeds" in text
    assert re.search(r"^learned - (maxprob|entropy|margin) \(best trivial\) +0.2 ", text, re.M)
    assert max(map(len, text.splitlines())) < 120


def test_what_was_not_measured_is_said_in_words() -> None:
    few = measured(count=20, budgets=(0.0, 0.15, 1.0), rules=("learned", "random"))
    found = summarise(few, statistics)
    assert re.search(r"^learned( +not measured){5} ", as_text(found), re.M)  # areas, and uses for a share
    page = read(render(found, PNG, few)).text
    assert "not measured" in page and "nan" not in page.split()


def test_uses_that_are_shown() -> None:
    assert shown_uses(summarise(measured(count=5), statistics)) == [0.1, 0.2, 0.3]
    assert shown_uses(summarise(measured(count=5, budgets=(0.0, 0.4, 1.0)), statistics)) == [0.4]


TEST = {
    "rule": "learned", "baseline": "margin", "against": "best trivial", "budget": 0.2, "metric": "bleu",
    "difference": 1.234, "low": 0.5, "high": 2.0, "p": 0.004, "pgr_difference": 0.118, "pgr_low": 0.1, "pgr_high": 0.2,
    "p_holm": math.nan,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            "At teacher use 0.2, learned is 1.23 BLEU above margin, the best trivial rule there (+12% of the gap); "
            "95% interval +0.50 to +2.00, p = 0.004.",
        ),
        (
            {"difference": -0.3, "low": -0.9, "high": 0.3, "p": 0.2, "against": "margin", "pgr_difference": -0.03},
            "At teacher use 0.2, learned is 0.30 BLEU below margin (-3% of the gap); "
            "95% interval -0.90 to +0.30, p = 0.200: chance alone could explain it.",
        ),
        (
            {"p_holm": 0.036},
            "At teacher use 0.2, learned is 1.23 BLEU above margin, the best trivial rule there (+12% of the gap); "
            "95% interval +0.50 to +2.00, p = 0.004, by Holm 0.036.",
        ),
        (
            {"difference": math.nan, "p": math.nan, "against": "margin"},
            "At teacher use 0.2, learned and margin were not both measured, so BLEU is not compared.",
        ),
        (
            {"p": math.nan},
            "At teacher use 0.2, learned and margin, the best trivial rule there cannot be compared in BLEU.",
        ),
    ],
)
def test_a_comparison_in_words(change: dict[str, object], words: str) -> None:
    assert in_words(TEST | change) == words


def test_csv_has_a_line_a_point(curve: Curve) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(curve))))
    assert len(rows) == len(curve.points)
    for row, point in zip(rows, curve.points, strict=True):
        assert row["rule"] == point.rule
        assert float(row["use"]) == pytest.approx(point.use, rel=1e-4)
        assert float(row["chrf"]) == pytest.approx(point.metrics["chrf"], rel=1e-4)
        assert row["signature"] == point.signature
