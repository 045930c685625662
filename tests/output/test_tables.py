"""Tables: cells by columns, and the same cells for a terminal, as CSV and as HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from wheels.output.tables import Cell, Column, Table, band, columns, digits, estimate, exact, number


@dataclass
class Line:
    rule: str
    use: float | None


COLUMNS = [*columns("rule"), Column("share", "use", digits(2)), Column("twice", lambda line: line.use and 2 * line.use)]
TABLE = Table.of(COLUMNS, [Line("gap", 0.1234567), Line("a, <b>", None)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234567, "0.123457"),
        (2.0, "2"),
        (math.nan, ""),
        (math.inf, ""),
        (None, ""),
        (12345678, "12345678"),
        ("x", "x"),
    ],
)
def test_what_a_file_holds(value: object, text: str) -> None:
    assert exact(value) == text


def test_numbers_for_print() -> None:
    assert (number(1.26), number(-0.001, 2), number(-0.2), number(math.nan)) == ("1.3", "0.00", "-0.2", "-")
    assert (number(None), number(0.25, 1, "+"), digits(0)(7.0)) == ("-", "+0.2", "7")


def test_intervals() -> None:
    assert band({"low": -0.001, "high": 2}) == "[0.00, 2.00]"
    assert band({"low": math.nan, "high": math.nan}) == band({"low": None, "high": None}) == "-"
    assert estimate(1.0, {"low": 0.5, "high": 1.5}, 1, "+") == "+1.0 [+0.5, +1.5]"


def test_one_description_of_fields_and_of_keys() -> None:
    assert TABLE.rows == [["gap", "0.12", "0.246913"], ["a, <b>", "-", ""]]
    assert TABLE.head == ["rule", "share", "twice"]
    deep = [Column("BLEU", "metrics.bleu", digits(1)), *columns("rule")]
    assert Table.of(deep, [{"rule": "gap", "metrics": {"bleu": 31.26}}]).rows == [["31.3", "gap"]]


def test_text_aligns_the_first_column_to_the_left() -> None:
    assert (
        Table(["rule", "n"], [["a", 10], ["long one", 3]]).text("all")
        == "all:\nrule       n\na         10\nlong one   3"
    )
    assert Table((), [["a", 1.5]]).text() == "a  1.5", "without headings"
    assert TABLE.text().splitlines()[-1] == "a, <b>      -", "no blanks at the end"


def test_csv_quotes_what_it_must() -> None:
    assert TABLE.csv() == 'rule,share,twice\ngap,0.12,0.246913\n"a, <b>",-,\n'


def test_html_shows_markup_and_what_a_cell_says() -> None:
    page = TABLE.html()
    assert "<td>a, &lt;b&gt;</td>" in page and page.count("<th>") == 3
    page = Table(["x"], [[Cell("1 < 2", "a\n<i>", best=True)], [Cell("3", pale=True)], [None]]).html()
    assert "<tr><td><b>1 &lt; 2</b><small>a\n&lt;i&gt;</small></td></tr>" in page
    assert '<tr><td class="pale">3</td></tr><tr><td></td></tr>' in page
    assert Table(["x"], [[Cell("1", "note")]]).text() == "x\n1"
