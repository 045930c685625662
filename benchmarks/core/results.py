"""How a result is kept: JSON, CSV and a picture of one name, all made of the same figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import render
from wheels.files import write_json, write_text
from wheels.output.page import Picture


def write_result(folder: Path, name: str, found: Mapping[str, Any], csv: str, draw: Callable[..., Figure]) -> Picture:
    """Write `NAME.json`, `NAME.csv`, `NAME.png` and `NAME-dark.png`, and return the picture."""
    picture = render(draw, found)
    write_text(folder / f"{name}.csv", csv)
    picture.write(folder, name)
    write_json(folder / f"{name}.json", found)
    return picture


def result_files(folder: Path, name: str) -> tuple[Path, ...]:
    """Return the files that `write_result` writes."""
    return tuple(folder / f"{name}{ending}" for ending in (".json", ".csv", ".png", "-dark.png"))


def plain_values(value: Any) -> Any:
    """Return `value` as JSON can hold it."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if math.isfinite(value) else None
    return value
