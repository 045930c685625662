"""Points, tests with Holm's correction over the claims, and ways that are chosen on other rows; tables and picture."""

from __future__ import annotations

import csv
import math
from typing import Any

import pytest

from tests.benchmarks.frontier.test_front import CHECKED, FEW, LARGE, MANY, SMALL, world
from tests.pictures import drawn
from wheels.benchmarks.core.bootstrap import holm
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.frontier.front import PARAMETERS, TOKENS, Front
from wheels.benchmarks.frontier.plot import draw
from wheels.benchmarks.frontier.summary import beside, cheapest, points, versus
from wheels.benchmarks.frontier.table import as_csv, shown
from wheels.benchmarks.frontier.ways import Way


def found(front: Front) -> dict[str, Any]:
    front.seconds = {1: {way: [9.0] * 3 for way in front.ways} | front.seconds[1]}
    first = {"small": "margin"}
    return plain_values(
        {
            "task": "words", "rows": 6, "confidence": 0.9, "teacher": {"name": "big"}, "notes": ["a note"],
            "metrics": {"bleu": ""}, "points": points(front, ["bleu"], "words|6|big"),
            "versus": versus(front, ["bleu"], first, (0.1,)),
            "beside": beside(front, ["bleu"]), "cheapest": cheapest(front, front, "bleu", (0.65, 0.95), 0.9),
        }
    )  # fmt: skip


def test_a_point_has_its_costs_and_its_signature():
    point = points(world(), ["bleu"], "words|6|big")[3]
    assert (point["name"], point["line"], point["tokens_per_text"]) == (
        "small, margin, budget 0.1",
        "small, margin",
        20,
    )
    assert point["signature"].startswith("words|6|big|small, margin, budget 0.1|wheels:")
    assert point["metrics"]["bleu"] == {"value": 28.0, "low": 28.0, "high": 28.0}
    assert point["costs"][PARAMETERS]["value"] == pytest.approx(0.2)


def test_claims_are_deferral_by_the_first_rule_and_corrected_together():
    front = world(count=40, noise=2.0)
    rows = versus(front, ["bleu"], {"small": "margin"}, (0.1,))
    assert len(rows) == 3 * 3
    claimed = [row for row in rows if row["claimed"]]
    assert [(row["line"], row["budget"], row["cost"]) for row in claimed] == [
        ("small, margin", 0.1, PARAMETERS), ("small, margin", 0.1, TOKENS)
    ]  # fmt: skip
    assert [row["p_holm"] for row in claimed] == pytest.approx(holm([row["p"] for row in claimed]))
    assert all(math.isnan(row["p_holm"]) for row in rows if not row["claimed"])
    up, down = claimed
    assert up["low"] > 0 > down["high"] and up["spent"] == pytest.approx(0.2)
    assert not any(row["claimed"] for row in versus(front, ["bleu"], {"small": "learned"}, (0.1,)))


def test_students_of_one_size_stand_beside_each_other():
    front, other = world(), Way("large", "deferral", "margin", 0.1)
    assert beside(front, ["bleu"]) == [] and "of one size" not in shown(found(front))
    front.sizes = {"large": 0.1, "small": 0.1}
    front.ways.append(other)
    for measured in (front.sample.use, front.sample.passes, front._passes):
        measured[other.keys[0]] = 2 * measured[FEW.keys[0]]
    front.sample.quality["bleu", other.keys[0]] = front.sample.quality["bleu", FEW.keys[0]] - 3.0
    front.sample.outputs[other.keys[0]] = front.sample.outputs[FEW.keys[0]]
    alone, few = beside(front, ["bleu"])
    assert (alone["student"], alone["other"], alone["rule"], alone["difference"]) == ("small", "large", "", -10.0)
    assert (few["rule"], few["budget"], few["use"], few["other_use"]) == ("margin", 0.1, 0.1, 0.2)
    assert (few["difference"], few["low"], few["high"]) == pytest.approx((3.0, 3.0, 3.0))
    assert "small minus large  margin, deferral, 0.1  0.100 0.200" in shown(found(front))


def test_what_is_cheaper_than_every_model_alone_has_no_difference():
    front = world()
    front.seconds[1][FEW] = [0.5, 0.5, 0.5]
    row = next(row for row in versus(front, ["bleu"], {}, ()) if row["budget"] == 0.1 and row["cost"] == "seconds 1")
    assert row["spent"] == 0.5 and all(math.isnan(row[name]) for name in ("difference", "low", "high", "p"))
    assert [
        line.split()[-1] for line in shown(found(front)).splitlines() if line.startswith("small, margin, 0.1 ")
    ] == ["-"]


def test_a_way_is_chosen_on_other_rows_than_it_is_scored_on():
    choice, scored = world(), world()
    scored.sample.quality["bleu", FEW.keys[0]] = scored.sample.quality["bleu", FEW.keys[0]] - 20.0
    rows = {row["cost"]: row for row in cheapest(choice, scored, "bleu", (0.7,), 0.9)}
    assert rows[PARAMETERS]["way"] == "small, margin, budget 0.1" and rows[TOKENS]["way"] == "large alone"
    assert rows[PARAMETERS]["share"]["value"] == pytest.approx(8.0 / 40.0), "as it stands on the scored rows"
    assert rows[PARAMETERS]["line_spent"] == pytest.approx(0.1 + 0.4 * 0.8, abs=1e-3)
    assert rows["seconds 1"]["way"] == "large alone"
    assert {row["way"] for row in cheapest(choice, scored, "bleu", (1.0,), 0.9)} == {"teacher alone"}


def test_tables_show_every_way_and_mark_the_claims():
    content = found(world(count=40, noise=2.0))
    text = shown(content)
    assert "note: a note" in text and "p 0.0" in text and "small, margin, verified, 0.1" in text
    (line,) = [line.split() for line in text.splitlines() if line.startswith("65%") and "parameters" in line]
    assert line[1:7] == ["parameters", "small,", "margin,", "budget", "0.1", "0.20"]
    lines = list(csv.reader(as_csv(content).splitlines()))
    assert len(lines) == 1 + len((SMALL, LARGE, FEW, MANY, CHECKED)) + 1
    assert lines[0][:8] == ["student", "method", "rule", "budget", "tokens_per_text", "bleu", "bleu_low", "bleu_high"]


def test_the_picture_has_a_panel_for_each_cost_and_bars_that_meet_the_line_where_nothing_is_told_apart():
    content = found(world(count=40, noise=2.0))
    figure = drawn(draw, content)
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == [
        "parameters read a token, of the teacher's", "tokens that the teacher writes", "ms a token, batch 1"
    ]  # fmt: skip
    bars = next(line.get_segments() for line in panels[0].collections if len(line.get_segments()) == 2)
    row = next(r for r in content["versus"] if r["budget"] == 0.1 and r["cost"] == PARAMETERS)
    value = next(p for p in content["points"] if p["name"] == FEW.name)["metrics"]["bleu"]["value"]
    assert bars[0][0][1] == pytest.approx(value - row["difference"] + row["low"])
