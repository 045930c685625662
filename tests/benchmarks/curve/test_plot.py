from __future__ import annotations

import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.benchmarks.curve.synthetic import measured, statistics
from wheels.benchmarks.curve import plot
from wheels.benchmarks.curve.summary import Curve, summarise
from wheels.decoding.methods.rules import RULES


@pytest.fixture(scope="module")
def curve() -> Curve:
    return summarise(measured(count=40), statistics)


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png))


def test_the_mean_curve_runs_from_student_to_teacher(curve: Curve) -> None:
    use_B, mean_B, low_B, high_B = plot.mean_curve(curve, "learned")
    assert (use_B[0], use_B[-1]) == (0.0, 1.0)
    assert (mean_B[0], mean_B[-1]) == (curve.student["quality"], curve.teacher["quality"])
    points = [point for point in curve.points if point.rule == "learned" and point.budget == 0.2]
    assert use_B[3] == pytest.approx(np.mean([point.use for point in points]))
    assert (low_B[3], high_B[3]) == (min(p.quality for p in points), max(p.quality for p in points))
    assert (np.diff(use_B) > 0).all()
    assert (low_B <= mean_B).all() and (mean_B <= high_B).all()


@pytest.fixture
def figure(curve: Curve, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []
    monkeypatch.setattr(plot, "Figure", lambda **settings: figures.append(Figure(**settings)) or figures[-1])
    plot.draw(curve)
    return figures[0]


def test_the_picture_is_a_wide_png(curve: Curve) -> None:
    image = pixels(plot.draw(curve))
    assert image.shape[1] > 1500 > image.shape[0] > 700
    assert image[..., :3].std() > 0.05


def test_every_rule_has_its_line_in_its_own_colour(curve: Curve, figure: Figure) -> None:
    assert len(curve.rules) == len({RULES[rule].color for rule in curve.rules})
    for rule in curve.rules:
        use_B, mean_B, _, _ = plot.mean_curve(curve, rule)
        colour = RULES[rule].color
        lines = [line for line in figure.axes[0].lines if line.get_color() == colour and len(line.get_xdata())]
        # Up to 0.3 the points are neighbours; 0.5 and the teacher's end stand alone.
        assert [len(line.get_xdata()) for line in lines] == [5, 1, 1]
        assert np.array_equal(np.concatenate([line.get_xydata() for line in lines]), np.stack([use_B, mean_B], 1))


@pytest.mark.parametrize(
    ("points", "lengths"),
    [([], [0]), ([0.3], [1]), ([0, 0.1, 0.24, 0.3], [4]), ([0, 0.16, 0.2, 1], [1, 2, 1]), ([0, 1], [1, 1])],
)
def test_no_line_is_drawn_through_a_gap(points: list[float], lengths: list[int]) -> None:
    found = plot.runs(points)
    assert [len(points[run]) for run in found] == lengths
    assert [point for run in found for point in points[run]] == points


def test_both_ends_are_marked_and_named(curve: Curve, figure: Figure) -> None:
    student, teacher = curve.student["quality"], curve.teacher["quality"]
    marks = [line for line in figure.axes[0].lines if line.get_color() == plot.INK]
    assert marks[0].get_xydata().tolist() == [[0.0, student], [1.0, teacher]]
    named = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert named == {
        f"teacher alone: {teacher:.1f} BLEU": teacher,
        f"student alone: {student:.1f} BLEU": student,
    }
    assert figure._suptitle.get_text() == "synthetic_de_en: BLEU against teacher use, n = 40"


def test_adherence_shows_measured_minus_asked(curve: Curve, figure: Figure) -> None:
    marks = [line for line in figure.axes[1].lines if line.get_color() == RULES["entropy"].color]
    wanted = [point.use - point.budget for point in curve.of("entropy", 0) if 0 < point.budget < 1]
    assert marks[0].get_ydata() == pytest.approx(wanted)


@pytest.mark.slow
def test_the_key_leaves_the_ends_lines_free(curve: Curve, figure: Figure) -> None:
    axes = figure.axes[0]
    bottom = axes.transData.inverted().transform(axes.get_legend().get_window_extent().p0)[1]
    assert curve.student["quality"] < bottom < curve.student["quality"] + 1.0


def test_no_text_lies_on_another_or_outside(figure: Figure) -> None:
    left, right = figure.axes
    share = left.child_axes[0].yaxis
    texts = [figure._suptitle, *left.texts, left.xaxis.label, left.yaxis.label, left.get_legend(), share.label]
    texts += [right.xaxis.label, *left.get_xticklabels(), *right.get_xticklabels(), left._left_title, right._left_title]
    boxes = [text.get_window_extent() for text in texts]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        for other in boxes[i + 1 :]:
            assert not box.overlaps(other)


@pytest.mark.parametrize("budgets", [(0.0, 1.0), (0.0, 0.2, 1.0), (0.3,)])
def test_few_budgets_are_drawn_too(budgets: tuple[float, ...]) -> None:
    few = summarise(measured(count=10, budgets=budgets, rules=("oracle",)), statistics)
    assert pixels(plot.draw(few)).std() > 0.02


def test_no_gap_is_drawn_without_shares(curve: Curve) -> None:
    same = dataclasses.replace(curve, teacher=curve.teacher | {"quality": curve.student["quality"]})
    assert pixels(plot.draw(same)).std() > 0.02


@pytest.mark.parametrize(
    ("metric", "name"), [("bleu", "BLEU"), ("chrf", "chrF"), ("rougeL", "ROUGE-L"), ("rougeLsum", "ROUGE-Lsum")]
)
def test_metric_names(metric: str, name: str) -> None:
    assert plot.metric_name(metric) == name
