"""The tables of the results pages are those of the committed results."""

import json
import re
from pathlib import Path

import pytest
from result_tables import PLACE, TABLES, fill, pages
from table_text import RESULTS, interval, number

PAGES = [page for page in pages() if PLACE.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_holds_what_the_results_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text, "run `make tables`"


def test_every_kind_of_table_is_shown_somewhere() -> None:
    shown = {place[1].split()[0] for page in PAGES for place in PLACE.finditer(page.read_text(encoding="utf-8"))}
    assert shown == set(TABLES)


def test_every_committed_result_is_shown_somewhere() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    named = set(re.findall(r"[\w-]+", " ".join(place[1] for place in PLACE.finditer(text)) + text))
    assert {folder.name for folder in RESULTS.iterdir()} <= named


def test_a_value_of_a_table_is_that_of_its_file() -> None:
    curve = json.loads((RESULTS / "multi30k_de_en" / "curve.json").read_text())
    (row,) = [r for r in curve["at_use"] if (r["rule"], r["use"], r["metric"]) == ("learned", 0.2, "bleu")]
    (line,) = [line for line in TABLES["shares"]("multi30k_de_en").splitlines() if "**learned**" in line]
    assert line.split("|")[3].strip().split(" / ")[0] == number(row["pgr"]) == "0.52"


def test_the_best_threshold_is_another_at_each_use() -> None:
    curve = json.loads((RESULTS / "multi30k_medium" / "curve.json").read_text())
    wanted = ("learned", "best trivial", "bleu")
    rows = [row for row in curve["paired"] if (row["rule"], row["against"], row["metric"]) == wanted]
    assert len({row["baseline"] for row in rows}) > 1
    (line,) = [line for line in TABLES["minus"]("multi30k_medium", "threshold").splitlines() if "| bleu |" in line]
    assert [cell.strip().split(", p")[0] for cell in line.split("|")[3:5]] == [
        interval(row) for row in rows if row["budget"] in (0.1, 0.2)
    ]


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [(0.125, 2, False, "0.12"), (-0.001, 2, True, "0.00"), (1.5, 1, True, "+1.5"), (None, 2, True, "not measured")],
)
def test_a_number(value: float | None, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign=sign) == text


def test_an_interval() -> None:
    assert interval({"difference": 1.234, "low": -0.5, "high": 2}) == "+1.23 [-0.50, 2.00]"
    assert interval({"difference": None, "low": None, "high": None}) == "not measured"


def test_a_stale_table_is_seen() -> None:
    page = PAGES[0].read_text(encoding="utf-8")
    stale = PLACE.sub(lambda place: f"<!-- table: {place[1]} -->\n\n| old |\n\n<!-- end -->", page, count=1)
    assert stale != page and fill(stale) == fill(page)
