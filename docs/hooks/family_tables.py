"""The table of families: what `wheels models --check all` found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import load, table


def families(folder: str) -> str:
    """Return which families are exact, by what they are run, and which are refused."""
    found = load(folder, "families")
    rows = [_row(each) for each in found["families"] if each["refused"] is None]
    return table(["family", "kind", "run by", "window", "batch 1", "batch 8", "drafts accepted"], rows)


def refused(folder: str) -> str:
    """Return which families are refused, and why."""
    found = load(folder, "families")
    rows = [[f"`{each['name']}`", each["refused"]] for each in found["families"] if each["refused"] is not None]
    return table(["family", "why"], rows)


def _row(each: dict[str, Any]) -> list[str]:
    window = "" if each["window"] is None else str(each["window"])
    equal = ["exact" if count == each["texts"] else f"{count} of {each['texts']}" for count in each["equal"].values()]
    return [f"`{each['name']}`", each["kind"], each["path"] + " path", window, *equal, f"{each['accepted']:.0%}"]


TABLES: dict[str, Callable[..., str]] = {"families": families, "refused": refused}
