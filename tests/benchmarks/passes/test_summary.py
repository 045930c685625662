"""Curves over passes: interpolation, envelope, bands, what speculation lacks; by hand, and where there is none."""

import math

import numpy as np
import pytest

from tests.benchmarks.curve.synthetic import statistics
from tests.pictures import drawn
from wheels.benchmarks.core.cell import Record
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.passes.plot import draw
from wheels.benchmarks.passes.settings import Setting, ends
from wheels.benchmarks.passes.summary import (
    PassCurves,
    against_envelope,
    at_cost,
    at_equal_passes,
    beyond_speculation,
    means,
    points_of,
)
from wheels.benchmarks.passes.table import as_csv, as_text, equal_text, shown, speculation_text, versus_text
from wheels.decoding.methods.method import deferral, speculative
from wheels.decoding.methods.rules import RULES


def test_a_value_between_two_points_is_on_their_line_and_below_them_there_is_none():
    costs, values = np.array([[0.3, 0.2], [0.2, 0.3], [0.1, 0.22]]), np.array([[30.0, 20.0], [10.0, 20.0], [5.0, 8.0]])
    found = at_cost(costs, values, 0.25)
    assert found.tolist() == pytest.approx([25.0, 15.0, 8.0])
    assert at_cost(costs, values, 0.2)[:2].tolist() == pytest.approx([20.0, 10.0])
    assert np.isnan(at_cost(costs, values, 0.05)).all()
    assert at_cost(costs, values, 0.5).tolist() == [30.0, 20.0, 8.0], "nobody must spend all that he may"
    alone = at_cost(np.array([[0.2], [0.3]]), np.array([[7.0], [9.0]]), 0.2)
    assert alone[0] == 7.0 and math.isnan(alone[1])


def row(quality: float, passes: int) -> Record:
    return Record(f"text {quality}", 20, passes, passes, 2 * passes, 0.1)


def of(family: str, label: str, line: str, seed: int | None = None, budget: float | None = None) -> Setting:
    method = speculative(5) if budget is None else deferral(RULES["random"], budget)
    return Setting(family, label, method, line, seed)


def world() -> tuple[list[Setting], dict, Resampled]:
    """Every row alike: intervals have no width, so that numbers can be worked out by hand. Gap: 20 to 40."""
    place = {
        of("deferral", "budget 0.1", "deferral", 0, 0.1): (24.0, 1),
        of("deferral", "budget 0.3", "deferral", 0, 0.3): (32.0, 3),
        of("deferral", "budget 0.1", "deferral", 1, 0.1): (26.0, 1),
        of("deferral", "budget 0.3", "deferral", 1, 0.3): (34.0, 3),
        of("verified", "budget 0.1, 2 nats", "verified, 2 nats", 0, 0.1): (30.0, 2),
        of("verified", "budget 0.1, 2 nats", "verified, 2 nats", 1, 0.1): (32.0, 2),
        of("take-back", "1 nats", "take-back"): (28.0, 2),
        of("take-back", "2 nats", "take-back"): (38.0, 4),
        of("speculative", "drafts of 2", "speculative"): (40.0, 6),
        of("speculative", "drafts of 5", "speculative"): (40.0, 4),
    }
    settings = [*ends(), *place]
    results = dict(zip(settings, [(20.0, 0), (40.0, 20), *place.values()], strict=True))
    outputs = {setting.key: [row(*results[setting])] * 4 for setting in settings}
    return settings, outputs, Resampled(outputs, ["x"] * 4, ["bleu"], statistics, 100, 0)


def test_equal_passes_by_hand():
    settings, _, sample = world()
    rows = at_equal_passes(PassCurves(settings, sample), ["bleu"], (0.05, 0.1, 0.15, 0.2))
    found = {(each["line"], each["passes"]): (each["value"], each["gap"]) for each in rows}
    # Means over both seeds: 25, 29, 33 along deferral. Beyond its last point a line stays as good as there.
    assert found == {
        ("deferral", 0.05): pytest.approx((25.0, 0.25)),
        ("deferral", 0.1): pytest.approx((29.0, 0.45)),
        ("deferral", 0.15): pytest.approx((33.0, 0.65)),
        ("deferral", 0.2): pytest.approx((33.0, 0.65)),
        ("verified, 2 nats", 0.1): pytest.approx((31.0, 0.55)),
        ("verified, 2 nats", 0.15): pytest.approx((31.0, 0.55)),
        ("verified, 2 nats", 0.2): pytest.approx((31.0, 0.55)),
        ("take-back", 0.1): pytest.approx((28.0, 0.4)),
        ("take-back", 0.15): pytest.approx((33.0, 0.65)),
        ("take-back", 0.2): pytest.approx((38.0, 0.9)),
        ("speculative", 0.2): pytest.approx((40.0, 1.0)),
    }


def test_the_baseline_is_the_best_there_lossless_speculation_where_it_can_be_had():
    settings, _, sample = world()
    lines = PassCurves(settings, sample)
    baselines = [lines.envelope("bleu", cost) for cost in (0.02, 0.05, 0.1, 0.175, 0.2)]
    assert baselines == [None, "deferral", "deferral", "take-back", "speculative"]
    only, _ = against_envelope(lines, ["bleu"], (0.02, 0.05, 0.1, 0.2))
    assert (only["line"], only["baseline"], only["passes"]) == ("verified, 2 nats", "deferral", 0.1)
    assert (only["difference"], only["gap_difference"]) == pytest.approx((2.0, 0.1))
    # Paired seeds: both sides draw the same ones, and the difference is 2 whatever is drawn.
    assert (only["low"], only["high"]) == pytest.approx((2.0, 2.0))


def test_bands_are_of_the_rule_driven_families_with_their_seeds():
    settings, _, sample = world()
    bands = PassCurves(settings, sample).bands(["bleu"])
    assert [(band["line"], band["passes"]) for band in bands] == [
        ("deferral", 0.05), ("deferral", 0.15), ("verified, 2 nats", 0.1)
    ]  # fmt: skip
    assert (bands[0]["value"], bands[0]["low"], bands[0]["high"]) == pytest.approx((25.0, 24.0, 26.0))


def test_what_speculation_does_not_offer():
    settings, outputs, sample = world()
    points = means(points_of(settings, outputs, sample, ["bleu"]))
    found = beyond_speculation(points, "bleu")
    assert (found["label"], found["passes"]) == ("drafts of 5", 0.2)
    # take-back at 0.2 passes needs as many; at 0.1 it recovers less than half.
    assert [(each["family"], each["passes"]) for each in found["below"]] == [("verified", 0.1), ("deferral", 0.15)]
    assert "at least 0.200 passes per token (drafts of 5); with fewer, 2 settings" in speculation_text(found)
    assert beyond_speculation([point for point in points if point["family"] != "speculative"], "bleu") is None
    assert "with fewer, 0 settings" in speculation_text({**found, "below": []})


def test_costs_are_per_token_and_shares_of_the_gap_by_hand():
    settings = [*ends(), Setting("speculative", "drafts of 5", speculative(5), "speculative")]
    records = [
        [Record("x 0", 4, 0, 0, 0, 1.0)] * 2,
        [Record("x 80", 2, 2, 2, 2, 1.0)] * 2,
        [Record("x 80", 3, 1, 1, 6, 1.0), Record("x 0", 5, 1, 2, 4, 1.0)],
    ]
    outputs = dict(zip((setting.key for setting in settings), records, strict=True))
    sample = Resampled(outputs, ["a", "b"], ["bleu"], statistics, 100, 0)
    *_, point = points_of(settings, outputs, sample, ["bleu"], ("task", "small", "large"))
    assert (point["passes"], point["positions"], point["use"]) == (3 / 8, 10 / 8, 2 / 8)
    assert (point["metrics"], point["gap"]) == ({"bleu": 40.0}, {"bleu": 0.5})
    assert point["signature"].startswith("task|2|small|large|speculative, drafts of 5|0|wheels:")
    assert "0.375" in as_text([point], ["bleu"])
    assert ',0.3750,1.2500,0.2500,40.0000,0.5000,"task|' in as_csv([point], ["bleu"])


def test_tables_say_where_a_curve_does_not_reach():
    settings, outputs, sample = world()
    lines, points = PassCurves(settings, sample), points_of(settings, outputs, sample, ["bleu"])
    costs = (0.05, 0.1, 0.15, 0.2)
    rows, tests = at_equal_passes(lines, ["bleu"], costs), against_envelope(lines, ["bleu"], costs)
    line = next(line for line in equal_text(rows, "bleu").splitlines() if line.startswith("verified"))
    assert line.split() == ["verified,", "2", "nats", "-", *["31.0", "[30.0,", "32.0]", "0.55"] * 3]
    compared = [" ".join(each.split()) for each in versus_text(tests, "bleu").splitlines()]
    assert any(each.startswith("verified, 2 nats - deferral 0.1 2.00 [2.00, 2.00] 0.10") for each in compared)
    found = {
        "metrics": {"bleu": ""},
        "points": points,
        "notes": ["few seeds"],
        "at_passes": rows,
        "versus": tests,
        "speculation": None,
    }
    text = shown(found)
    assert "note: few seeds" in text and "lossless speculation was not measured" in text


def lines_of(place: dict[Setting, tuple[float, int]]) -> PassCurves:
    settings = [*ends(), *place]
    results = dict(zip(settings, [(20.0, 0), (40.0, 20), *place.values()], strict=True))
    outputs = {setting.key: [row(*results[setting])] * 4 for setting in settings}
    return PassCurves(settings, Resampled(outputs, ["x"] * 4, ["bleu"], statistics, 100, 0))


def test_a_cost_in_a_wide_gap_of_a_curve_is_not_measured():
    wide = {
        of("deferral", "budget 0.1", "deferral", 0, 0.1): (24.0, 2),
        of("deferral", "budget 0.3", "deferral", 0, 0.3): (32.0, 6),
        of("verified", "budget 0.1, 2 nats", "verified, 2 nats", 0, 0.1): (30.0, 4),
        of("take-back", "1 nats", "take-back"): (28.0, 4),
    }
    lines = lines_of(wide)
    rows = at_equal_passes(lines, ["bleu"], (0.1, 0.2, 0.3))
    assert [row["value"] for row in rows if row["line"] == "deferral"] == pytest.approx([24, math.nan, 32], nan_ok=True)
    assert "not measured" in equal_text(rows, "bleu")
    # The best of those that were measured there is the baseline; a line in its own gap is compared with nobody.
    assert lines.envelope("bleu", 0.2) == "take-back"
    near = at_equal_passes(lines, ["bleu"], (0.11,))
    assert next(row["value"] for row in near if row["line"] == "deferral") == pytest.approx(24.4), "near a point"


def test_a_tuned_line_in_its_gap_is_compared_with_nobody():
    wide = {
        of("take-back", "1 nats", "take-back"): (28.0, 4),
        of("verified", "budget 0.1, 2 nats", "verified, 2 nats", 0, 0.1): (24.0, 2),
        of("verified", "budget 0.3, 2 nats", "verified, 2 nats", 0, 0.3): (32.0, 6),
    }
    lines = lines_of(wide)
    (test,) = against_envelope(lines, ["bleu"], (0.2,))
    assert test["baseline"] == "take-back" and math.isnan(test["difference"]) and math.isnan(test["p"])
    assert "not measured" in versus_text([test], "bleu")


@pytest.mark.parametrize(
    "families", [("student", "teacher"), ("deferral",), ("verified", "deferral"), ("speculative",)]
)
def test_the_picture_of_any_families(families):
    settings, outputs, sample = world()
    settings = [each for each in settings if each.family in ("student", "teacher", *families)]
    points, bands = points_of(settings, outputs, sample, ["bleu"]), PassCurves(settings, sample).bands(["bleu"])
    found = {"task": "t", "rows": 3, "metrics": {"bleu": ""}, "points": points, "bands": bands}
    panels = drawn(draw, found).axes
    assert len(panels) == (2 if "verified" in families else 1)
    assert {text.get_text() for text in panels[-1].texts} == {
        "teacher alone, 1 pass per token: 40.0",
        "student alone: 20.0",
    }


def test_a_gap_too_small_has_no_share():
    point = {"family": "take-back", "label": "2 nats", "line": "take-back", "seed": None, "passes": 0.2}
    point |= {"positions": 1.0, "use": 0.1, "metrics": {"bleu": 20.0}, "gap": {"bleu": math.nan}, "signature": ""}
    fast = point | {"family": "speculative", "label": "drafts of 5", "line": "speculative", "passes": 0.4}
    assert beyond_speculation([point, fast], "bleu")["below"] == []
    assert ",20.0000,," in as_csv([point], ["bleu"])
