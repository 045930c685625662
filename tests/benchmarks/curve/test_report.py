from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.benchmarks.curve.synthetic import measured, statistics
from tests.output.test_visible import ODD
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.curve.report import pick_examples, report
from wheels.benchmarks.curve.report_tables import adherence, areas, comparisons, equal_use
from wheels.benchmarks.curve.resampled import Measured
from wheels.benchmarks.curve.summary import interior, summarise, uses_shown
from wheels.benchmarks.curve.table import as_csv, as_text
from wheels.output.page import Picture

VOID = {"meta", "img", "source"}
PICTURE = Picture(b"\x89PNG picture", b"\x89PNG of the dark")


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
def curve(world: Measured) -> dict[str, Any]:
    found = summarise(world, statistics)
    found["versions"]["wheels"] = "0.1.0"
    found["metric_signatures"]["bleu"] = "nrefs:1|case:mixed"
    return found


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_stands_alone_and_is_well_formed(curve: dict[str, Any], world: Measured) -> None:
    page = report(curve, PICTURE, world)
    checker = read(page)
    assert 'src="data:image/png;base64,iVBORyBwaWN0dXJl"' in page
    dark = base64.b64encode(PICTURE.dark).decode()
    assert f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">' in page
    assert not re.search(r"https?://|<link|<script", page)
    for words in ("What is not claimed", "synthetic_de_en", "nrefs:1|case:mixed", "wheels 0.1.0", "Note:"):
        assert words in checker.text
    assert checker.seen.count("section") == 10
    assert "nan" not in checker.text.split()


def test_markup_in_texts_is_shown_not_obeyed(curve: dict[str, Any], world: Measured) -> None:
    page = report(curve, PICTURE, world)
    checker = read(page)
    assert {"i", "u", "w0", "w3"}.isdisjoint(checker.seen)
    assert "Quelle <i>0</i>" in checker.text
    assert "<u>text</u> &" in checker.text


def test_a_page_obeys_no_control_in_a_text_or_a_name(curve: dict[str, Any], world: Measured) -> None:
    odd = "".join(ODD.values()) + "x"
    references = [odd] * len(world.references)
    shown = {**curve, "task": odd, "notes": [odd]}
    page = report(shown, PICTURE, dataclasses.replace(world, references=references), command=odd)
    assert page.replace("\n", "").replace("�", "").isprintable() and page.count("�") > 10 * len(ODD)


def test_the_teachers_tokens_are_marked(curve: dict[str, Any], world: Measured) -> None:
    key, examples = pick_examples(world)
    assert key == PointKey("learned", 0, 0.2)
    assert len(examples) == 10
    assert examples[0] == 0 and examples[-1] == 49
    page = report(curve, PICTURE, world)
    for row in examples:
        calls = world.outputs[key][row].teacher_tokens
        marked = "".join(f" &lt;w{i}&gt;" for i in range(calls))
        rest = "".join(f" &lt;w{i}&gt;" for i in range(calls, 20))
        assert (f"<mark>{marked}</mark>{rest}" if calls else f'<dd dir="auto">{rest}') in page


def test_a_special_token_of_the_teacher_leaves_no_empty_mark() -> None:
    world = measured(count=2, rules=("foresight",))
    mixed = Record("a b 20", 3, 1, 1, 2, 0.1, ("a", "", " b"), ("student", "teacher", "student"))
    world = dataclasses.replace(world, outputs={**world.outputs, PointKey("foresight", 0, 0.2): [mixed, mixed]})
    page = report(summarise(world, statistics), PICTURE, world)
    assert "<mark></mark>" not in page
    assert '<dd dir="auto">a b</dd>' in page


def test_a_curve_of_only_the_ends_has_a_page() -> None:
    world = measured(count=5, budgets=(0.0, 1.0))
    found = summarise(world, statistics)
    assert read(report(found, PICTURE, world)).seen.count("section") == 0
    assert "student alone -> teacher alone" in as_text(found)


def test_strict_mode_shows_violations(world: Measured) -> None:
    strict = measured(count=20, mode="strict", rules=("learned", "random"))
    found = summarise(strict, statistics)
    assert "violations" in as_text(found) and "violations" in adherence(found)
    assert "by every output at every prefix" in report(found, PICTURE, strict)


def test_the_terminal_shows_a_line_a_rule_at_three_uses(curve: dict[str, Any]) -> None:
    text = as_text(curve)
    assert re.search(r"^rule +seeds +use 0.1 +use 0.2 +use 0.3$", text, re.M)
    rows = re.findall(r"^([\w-]+) +(\d) +(\d+\.\d) \((\d\.\d\d)\)", text, re.M)
    assert [row[0] for row in rows] == curve["rules"] * 2
    first = next(row for row in curve["at_use"] if (row["rule"], row["use"], row["metric"]) == ("learned", 0.1, "bleu"))
    assert rows[0][1:] == ("3", f"{first['value']:.1f}", f"{first['pgr']:.2f}")
    assert "note: learned was trained with 2 seeds" in text
    assert re.search(r"^learned - (maxprob|entropy|margin) \(best trivial\) +0.2 ", text, re.M)
    assert max(map(len, text.splitlines())) < 120


def test_what_was_not_measured_is_said_in_words() -> None:
    few = measured(count=20, budgets=(0.0, 0.15, 1.0), rules=("learned", "random"))
    found = summarise(few, statistics)
    assert re.search(r"^learned( +not measured){5} ", as_text(found), re.M)  # areas, and uses for a share
    page = read(report(found, PICTURE, few)).text
    assert "not measured" in page and "nan" not in page.split()


def test_uses_that_are_shown() -> None:
    assert uses_shown(interior(summarise(measured(count=5), statistics))) == [0.1, 0.2, 0.3]
    assert uses_shown(interior(summarise(measured(count=5, budgets=(0.0, 0.4, 1.0)), statistics))) == [0.4]


def test_only_the_best_of_a_column_is_bold_and_the_foresight_never(curve: dict[str, Any]) -> None:
    for place, text in enumerate(re.findall(r"<table>.*?</table>", equal_use(curve) + areas(curve), re.DOTALL)):
        rows = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in re.findall(r"<tr>(<td.*?)</tr>", text, re.DOTALL)]
        assert [re.sub("<small>.*?</small>|<.*?>", "", row[0], flags=re.DOTALL) for row in rows] == curve["rules"]
        methods = [row for rule, row in zip(curve["rules"], rows, strict=True) if rule != "foresight"]
        for index, column in enumerate(list(zip(*methods, strict=True))[1:]):
            shown = {float(found[1]): "<b>" in cell for cell in column if (found := re.search(r">([\d.]+)<", cell))}
            best = min if place == 2 and index > 1 else max  # the least use that recovers a share is the best
            assert [value for value, bold in shown.items() if bold] == ([best(shown)] if shown else [])
        assert "<b>" not in "".join(rows[curve["rules"].index("foresight")])


def test_a_comparison_is_a_cell(curve: dict[str, Any]) -> None:
    test = {"rule": "learned", "baseline": "margin", "against": "best trivial", "budget": 0.2, "metric": "bleu"}
    test |= {"difference": 1.234, "low": 0.5, "high": 2.0, "p": 0.004, "p_holm": 0.036}
    unclear = test | {"budget": 0.1, "low": -0.9, "p_holm": math.nan}
    missing = test | {"budget": 0.3, "difference": math.nan, "against": "margin"}
    shown = comparisons({**curve, **dict(paired=[unclear, test, missing], metrics=["bleu"])})
    assert re.findall(r"<td.*?</td>", shown, re.DOTALL) == [
        "<td>learned<small>minus the best threshold</small></td>",
        '<td class="pale">+1.23<small>over margin\n-0.90 to +2.00\np 0.004</small></td>',
        "<td>+1.23<small>over margin\n+0.50 to +2.00\np 0.036</small></td>",
        '<td class="pale">\N{EN DASH}</td>',
    ]


def test_csv_has_a_line_a_point(curve: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(curve))))
    assert len(rows) == len(curve["points"])
    for row, point in zip(rows, curve["points"], strict=True):
        assert row["rule"] == point["rule"]
        assert float(row["use"]) == pytest.approx(point["use"], rel=1e-4)
        assert float(row["chrf"]) == pytest.approx(point["metrics"]["chrf"], rel=1e-4)
        assert row["signature"] == point["signature"]
