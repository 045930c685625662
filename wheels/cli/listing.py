"""`wheels bench --list`: every benchmark, recipe, rule and metric, with a line each."""

from __future__ import annotations

from collections.abc import Mapping

from wheels.benchmarks.core.recipe import about, shipped_recipes
from wheels.cli.commands import COMMANDS
from wheels.decoding.methods.rules import RULES
from wheels.metrics import METRICS


def listing() -> str:
    """Return the whole list, as text."""
    benchmarks = {name: command.help for name, command in COMMANDS.items() if name.startswith("bench ")}
    recipes = {name: " - ".join(about(file)) for name, file in shipped_recipes().items()}
    sections = {
        "benchmarks": benchmarks,
        "recipes (--recipe NAME, or a YAML file of your own)": recipes,
        "rules, by where they call the teacher (--rules NAME,...)": {rule.name: rule.label for rule in RULES.values()},
        "metrics (--metrics NAME,..., or FILE.py:NAME of your own)": METRICS,
    }
    return "\n".join(f"{title}:\n{_lines(entries)}" for title, entries in sections.items())


def _lines(entries: Mapping[str, str]) -> str:
    """Return one line for each name with its meaning."""
    width = max(map(len, entries)) + 2
    return "".join(f"  {name:<{width}}{meaning}\n" for name, meaning in entries.items())
