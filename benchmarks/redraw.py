"""`python -m wheels.benchmarks.redraw FOLDER...`: draw the pictures of results again, from their JSON files alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from wheels.benchmarks.annotation import plot as annotation
from wheels.benchmarks.ceiling import plot as ceiling
from wheels.benchmarks.core.style import render
from wheels.benchmarks.curve import plot as curve
from wheels.benchmarks.distillation import plot as distillation
from wheels.benchmarks.frontier import plot as frontier
from wheels.benchmarks.passes import plot as passes
from wheels.benchmarks.rationales import plot as rationales
from wheels.benchmarks.speed import growth_plot as growth
from wheels.benchmarks.speed import plot as speed
from wheels.errors import WheelsError
from wheels.files import read_object

DRAWN: dict[str, Callable[..., Figure]] = {
    "annotation": annotation.draw,
    "ceiling": ceiling.draw,
    "curve": curve.draw,
    "distillation": distillation.draw,
    "frontier": frontier.draw,
    "growth": growth.draw,
    "passes": passes.draw,
    "rationales": rationales.draw,
    "speed": speed.draw,
}
"""How the picture of each `NAME.json` is drawn."""


def redraw(folder: Path) -> list[Path]:
    """Write `NAME.png` and `NAME-dark.png` beside each result of a folder; return the results.

    Raises:
        WheelsError: for a folder without one.
    """
    found = [folder / f"{name}.json" for name in DRAWN if (folder / f"{name}.json").is_file()]
    if not found:
        raise WheelsError(f"{folder} holds no result that has a picture: none of {', '.join(DRAWN)}, each .json")
    for path in found:
        render(DRAWN[path.stem], read_object(path)).write(folder, path.stem)
    return found


def main(folders: Sequence[str]) -> int:
    """Draw the results of all folders."""
    try:
        for folder in folders:
            print(*redraw(Path(folder)), sep="\n")
    except WheelsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
