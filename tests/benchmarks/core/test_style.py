from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tests.pictures import drawn, pixels
from wheels.benchmarks.core.style import (
    DARK,
    HEAVY,
    LEAST_CONTRAST,
    LIGHT,
    MARKERS,
    PLAIN,
    SERIES,
    Theme,
    Weight,
    contrast,
    line,
    new_figure,
    nth,
    render,
    runs,
)
from wheels.benchmarks.curve import plot
from wheels.benchmarks.curve.plot import look
from wheels.files import read_object

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def draw(weight: Weight, theme: Theme) -> Figure:
    figure = new_figure("title")
    line(figure.subplots(), theme, nth(0, "one"), [0, 1, 5], [1, 2, 3], weight, low=[0, 1, 2], high=[2, 3, 4], apart=1)
    return figure


def test_contrast_by_hand() -> None:
    # https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio; 4.54 is that of the palest grey text on white that passes AA.
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_colour_stands_out_and_stays_apart_from_the_others(theme: Theme) -> None:
    shades = [theme.shade(colour) for colour in (*SERIES, "#000000", "#ffffff")]
    assert min(contrast(shade, theme.paper) for shade in shades) >= LEAST_CONTRAST
    assert len(set(shades[: len(SERIES)])) == len(SERIES) == len(set(MARKERS))
    assert DARK.shade("#E69F00") == "#e69f00", "a colour that stands out stays as it is"


@pytest.mark.slow
def test_both_versions_are_small_and_the_same_again() -> None:
    picture = render(draw, HEAVY)
    assert picture == render(draw, HEAVY)
    light, dark = (pixels(png)[..., :3] for png in (picture.light, picture.dark))
    assert light[0, 0] == pytest.approx([1.0, 1.0, 1.0]) and dark[0, 0] == pytest.approx(np.array([23, 24, 26]) / 255)
    assert max(map(len, (picture.light, picture.dark))) < 40_000


@pytest.mark.slow
def test_the_colours_of_thin_lines_are_kept() -> None:
    found = read_object(RESULTS / "multi30k_de_en" / "curve.json")
    shown = 255 * pixels(render(plot.draw, found).dark)[..., :3].reshape(-1, 3)
    for rule in found["rules"]:
        wanted = 255 * np.array(to_rgb(DARK.shade(look(rule).colour)))
        assert np.abs(shown - wanted).max(1).min() < 10, rule


def test_a_heavy_line_has_a_band_and_others_have_bars() -> None:
    heavy, plain = (drawn(draw, weight).axes[0] for weight in (HEAVY, PLAIN))
    assert [len(one.get_xdata()) for one in heavy.lines] == [len(one.get_xdata()) for one in plain.lines] == [2, 1]
    kinds = [[isinstance(shape, PolyCollection) for shape in axes.collections] for axes in (heavy, plain)]
    assert kinds == [[True, False], [False, False]]
    assert len(heavy.get_legend_handles_labels()[1]) == 1


@pytest.mark.parametrize(
    ("points", "lengths"),
    [([], [0]), ([0.3], [1]), ([0, 0.1, 0.24, 0.3], [4]), ([0, 0.16, 0.2, 1], [1, 2, 1]), ([0, 1], [1, 1])],
)
def test_no_line_is_drawn_through_a_gap(points: list[float], lengths: list[int]) -> None:
    found = runs(points, 0.1)
    assert [len(points[run]) for run in found] == lengths
    assert [point for run in found for point in points[run]] == points


@pytest.mark.slow
def test_a_picture_is_two_files(tmp_path: Path) -> None:
    picture = render(draw, PLAIN)
    picture.write(tmp_path, "curve")
    assert (tmp_path / "curve.png").read_bytes() == picture.light
    assert (tmp_path / "curve-dark.png").read_bytes() == picture.dark
