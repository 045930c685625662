from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.benchmarks.curve.synthetic import measured, statistics
from tests.pictures import drawn, pixels
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.core.style import HEAVY, LIGHT, render
from wheels.benchmarks.curve import plot
from wheels.benchmarks.curve.detail_plots import draw_adherence
from wheels.benchmarks.curve.plot import look, main_rules, weight
from wheels.benchmarks.curve.summary import summarise
from wheels.metrics import metric_name


@pytest.fixture(scope="module")
def curve() -> dict[str, Any]:
    return summarise(measured(count=40), statistics)


@pytest.fixture(scope="module")
def found(curve: dict[str, Any]) -> dict[str, Any]:
    return plain_values(curve)


@pytest.fixture(scope="module")
def figure(found: dict[str, Any]) -> Figure:
    return drawn(plot.draw, found)


def test_the_mean_curve_runs_from_student_to_teacher(found: dict[str, Any]) -> None:
    use_P, mean_P, low_P, high_P = plot.mean_curve(found, "learned")
    assert (use_P[0], use_P[-1]) == (0.0, 1.0)
    assert (mean_P[0], mean_P[-1]) == (found["student"]["quality"], found["teacher"]["quality"])
    points = [point for point in found["points"] if point["rule"] == "learned" and point["budget"] == 0.2]
    assert use_P[3] == pytest.approx(np.mean([point["use"] for point in points]))
    assert (low_P[3], high_P[3]) == (min(p["quality"] for p in points), max(p["quality"] for p in points))
    assert (np.diff(use_P) > 0).all()
    assert (low_P <= mean_P).all() and (mean_P <= high_P).all()


def test_every_rule_has_its_line_in_its_own_colour(found: dict[str, Any], figure: Figure) -> None:
    assert len(found["rules"]) == len({look(rule).colour for rule in found["rules"]})
    for rule in found["rules"]:
        use_P, mean_P, _, _ = plot.mean_curve(found, rule)
        colour = LIGHT.shade(look(rule).colour)
        lines = [line for line in figure.axes[0].lines if line.get_color() == colour and len(line.get_xdata()) > 0]
        # Up to 0.3 the points are neighbours; 0.5 and the teacher's end stand alone.
        assert [len(line.get_xdata()) for line in lines] == [5, 1, 1]
        assert np.array_equal(np.concatenate([line.get_xydata() for line in lines]), np.stack([use_P, mean_P], 1))


def test_the_trained_rule_the_best_threshold_and_random_calls_stand_out(found: dict[str, Any], figure: Figure) -> None:
    assert main_rules(found) == ["learned", "margin", "random"]
    bold = {text.get_text() for text in figure.legends[0].get_texts() if text.get_fontweight() == "bold"}
    assert bold == {look(rule).label for rule in ("learned", "margin", "random")}
    # A band for each of them that has seeds, in one piece up to 0.3; bars and bands of no other rule.
    assert len([band for band in figure.axes[0].collections if band.get_alpha() == 0.16]) == 2


def test_rules_are_ranked_up_to_the_use_that_all_have_reached(found: dict[str, Any]) -> None:
    assert plot.reach(found) == 0.3
    near = [point for point in found["points"] if not 0.2 < point["budget"] < 1.0 or point["rule"] == "random"]
    cut = found | {"points": near, "budgets": [budget for budget in found["budgets"] if not 0.2 < budget < 1.0]}
    assert 0.15 < plot.reach(cut) < 0.25
    order = [text.get_text().split(":")[0] for text in drawn(plot.draw, cut).legends[0].get_texts()]
    assert order.index("learned") < order.index("margin") < order.index("random")
    assert main_rules(cut) == ["learned", "margin", "random"]


def test_a_rule_of_ones_own_stands_out_in_a_look_of_its_own(found: dict[str, Any]) -> None:
    renamed = {"entropy": "mine"}
    own = {**found, "rules": [renamed.get(rule, rule) for rule in found["rules"]]}
    for name in ("apgr", "seeds"):
        own[name] = {renamed.get(rule, rule): value for rule, value in found[name].items()}
    own["points"] = [point | {"rule": renamed.get(point["rule"], point["rule"])} for point in found["points"]]
    assert look("mine").label == "mine" and weight(own, "mine") is HEAVY
    assert "mine" in {text.get_text() for text in drawn(plot.draw, own).legends[0].get_texts()}


def test_both_ends_are_named(found: dict[str, Any], figure: Figure) -> None:
    student, teacher = found["student"]["quality"], found["teacher"]["quality"]
    named = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert named == {
        f"teacher alone: {teacher:.1f} BLEU": teacher,
        f"student alone: {student:.1f} BLEU": student,
    }
    assert figure._suptitle.get_text() == "synthetic_de_en: BLEU against teacher use, n = 40"


def test_adherence_shows_measured_minus_asked(found: dict[str, Any]) -> None:
    errors = drawn(draw_adherence, found).axes[0]
    (marks,) = [line for line in errors.lines if line.get_label() == look("entropy").label]
    points = [point for point in found["points"] if point["rule"] == "entropy" and 0 < point["budget"] < 1]
    assert marks.get_ydata() == pytest.approx([point["use"] - point["budget"] for point in points])


def test_no_text_lies_on_another_or_outside(figure: Figure) -> None:
    (axes,) = figure.axes
    share = axes.child_axes[0].yaxis
    texts = [figure._suptitle, *axes.texts, axes.xaxis.label, axes.yaxis.label, figure.legends[0], share.label]
    texts += [*axes.get_xticklabels(), axes._left_title]
    boxes = [text.get_window_extent() for text in texts if text.get_visible()]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        for other in boxes[i + 1 :]:
            assert not box.overlaps(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "budgets", [(0.0, 1.0), *(pytest.param(few, marks=pytest.mark.slow) for few in ((0.0, 0.2, 1.0), (0.3,)))]
)
def test_few_budgets_are_drawn_too(budgets: tuple[float, ...]) -> None:
    few = summarise(measured(count=10, budgets=budgets, rules=("foresight",)), statistics)
    assert pixels(render(plot.draw, plain_values(few)).light).std() > 0.02


def test_no_gap_is_drawn_without_shares(curve: dict[str, Any]) -> None:
    same = {**curve, "teacher": curve["teacher"] | {"quality": curve["student"]["quality"]}}
    assert not drawn(plot.draw, plain_values(same)).axes[0].child_axes


@pytest.mark.parametrize(
    ("metric", "name"), [("bleu", "BLEU"), ("chrf", "chrF"), ("rougeL", "ROUGE-L"), ("rougeLsum", "ROUGE-Lsum")]
)
def test_metric_names(metric: str, name: str) -> None:
    assert metric_name(metric) == name
