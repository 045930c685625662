"""Tables of the results pages, made from what is committed under `benchmarks/results`.

A page marks the place of a table:

    <!-- table: shares multi30k_de_en -->
    <!-- end -->

`python docs/hooks/result_tables.py` writes every table into its page; the site is built from fresh ones, and a test
fails where a page in the repository holds something else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import ceiling_tables
import curve_tables
import family_tables
import fault_tables
import frontier_tables
import remote_tables
import speed_tables
import study_tables

PAGES = Path(__file__).parents[1]
TABLES: dict[str, Callable[..., str]] = {
    **ceiling_tables.TABLES,
    **curve_tables.TABLES,
    **family_tables.TABLES,
    **fault_tables.TABLES,
    **frontier_tables.TABLES,
    **remote_tables.TABLES,
    **speed_tables.TABLES,
    **study_tables.TABLES,
}
PLACE = re.compile(r"<!-- table: (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def fill(text: str) -> str:
    """Return a page with all its tables written anew.

    Raises:
        KeyError: for a table that nobody makes.
    """

    def anew(place: re.Match[str]) -> str:
        name, *arguments = shlex.split(place[1])
        return f"<!-- table: {place[1]} -->\n\n{TABLES[name](*arguments)}\n\n<!-- end -->"

    return PLACE.sub(anew, text)


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return sorted(PAGES.rglob("*.md"))


if __name__ == "__main__":
    for page in pages():
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
