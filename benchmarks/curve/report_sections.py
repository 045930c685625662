"""The sections of a curve's page that look diagnostics, each with its picture and the sentences that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wheels.benchmarks.core.bootstrap import Comparison
from wheels.benchmarks.curve.adherence_plot import draw_adherence
from wheels.benchmarks.curve.at_budget import BASELINE
from wheels.benchmarks.curve.calls_plot import draw_calls
from wheels.benchmarks.curve.diagnostics import Calls, Diagnostics, Predicted
from wheels.benchmarks.curve.plot import metric_name
from wheels.benchmarks.curve.price_plot import draw_prices
from wheels.benchmarks.curve.reliability_plot import draw_reliability
from wheels.benchmarks.curve.report import image, row_look, table
from wheels.benchmarks.curve.summary import Curve
from wheels.benchmarks.curve.table import row_at
from wheels.tables import number
from wheels.visible import html


def sections(curve: Curve, diagnostics: Diagnostics) -> list[str]:
    """Return the sections in the order of the page; those between the ends only where something was decoded there."""
    parts = [_at_budget(curve), _adherence(curve)] if curve.interior else []
    if diagnostics.calls is not None:
        parts.append(_calls(diagnostics.calls, diagnostics.why))
    if curve.interior:
        parts += [_reliability(diagnostics.predicted, diagnostics.why), _prices(diagnostics)]
    return parts


def _at_budget(curve: Curve) -> str:
    """Return every rule at the budget nearest to 0.2."""
    rows = []
    for line in curve.at_budget:
        equal = row_at(curve, line["rule"], curve.quality, line["budget"])
        cells = [line["rule"], str(len(curve.seeds[line["rule"]])), number(line["use"], 3)]
        cells += [_with_interval(line["metrics"][curve.quality]), _with_interval(line["pgr"], 100.0, 0)]
        cells += [number(line["metrics"][metric]["value"]) for metric in curve.metrics[1:2]]
        cells += [number(line["passes_per_token"], 3), number(line["positions_per_token"], 2)]
        share = equal.get("oracle_share", math.nan)
        area = next((test for test in curve.apgr_paired if test["rule"] == line["rule"]), None)
        cells += [f"{number(100 * share, 0)}%" if math.isfinite(share) else "-", _area(area)]
        rows.append((row_look(line["rule"]), cells))
    head = ["rule", "seeds", "use", metric_name(curve.quality), "% of gap", *map(metric_name, curve.metrics[1:2])]
    head += ["passes/token", "positions/token", "oracle share", f"area - {BASELINE}"]
    words = (
        "The decodes at this budget, each at the use that it came to, mean over seeds; 95% intervals by a bootstrap "
        "over rows and seeds. Passes and positions are the teacher's, per generated token. The oracle share is (rule - "
        f"random) / (oracle - random) at use {curve.at_budget[0]['budget']:g} exactly. The last column is the area "
        f"under the share of the gap up to use 0.3, minus that of {BASELINE}: a paired bootstrap."
    )
    return f"<h2>At budget {curve.at_budget[0]['budget']:g}</h2>{table(head, rows)}<p class='pale'>{html(words)}</p>"


def _with_interval(value: Mapping[str, float], scale: float = 1.0, digits: int = 1) -> str:
    """Return a value with its interval in brackets."""
    shown, low, high = (number(scale * value[name], digits) for name in ("value", "low", "high"))
    return f"{shown} [{low}, {high}]"


def _area(test: Mapping[str, Any] | None) -> str:
    """Return a difference of areas with its interval; a dash for the baseline itself, or where there is none."""
    if test is None or not math.isfinite(test["low"]):
        return "-"
    return f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]"


def _adherence(curve: Curve) -> str:
    """Return asked against measured use."""
    first, rule = curve.adherence[curve.rules[0]], curve.rules[0]
    worst = max(kept["worst_abs_error"] for kept in curve.adherence.values())
    promise = {
        "average": "A threshold keeps a budget over many outputs, not in each: single outputs may use more or less",
        "online": "A threshold that moves keeps a budget over all outputs, not in each: single outputs may use more or "
        "less",
        "strict": "Every prefix of every output keeps its budget, so a single output cannot use more than was asked",
    }[curve.mode]
    spread = ", ".join(
        f"{number(100 * found[0], 0)} to {number(100 * found[-1], 0)}% at {budget}"
        for budget, found in first["use_quantiles"].items()
    )
    return (
        "<h2>Asked against measured use</h2>"
        f"<p>Over all outputs together, the measured use is within {100 * worst:.1f} percentage points of the budget "
        f"asked for, whatever the rule, the seed and the budget. {promise}. Nine in "
        f"ten outputs of {html(rule)} use {html(spread)}.</p>"
        + image("measured teacher use over the budget asked for, and its spread over outputs", draw_adherence(curve))
    )


def _calls(calls: Calls, why: Mapping[str, str]) -> str:
    """Return where the calls go."""
    missing = f"<p>{html(why['frequency'])}</p>" if "frequency" in why else ""
    defined = (
        "Counted is every generated token, the end-of-sequence token too, over all seeds; it is a call where the "
        "teacher wrote it. The place is the tenth of its output in which the token begins."
    )
    if calls.frequency:
        defined += (
            f" Frequencies are of {calls.counted}: its tokens, ranked by count, are cut into four quarters of about "
            "equally much running text, the most common tokens first; the last bar is of tokens that never stand "
            "there. The token is the one that was written, by whichever model. Lines on the bars are 95% intervals by "
            "a bootstrap over rows; n counts tokens."
        )
    return (
        "<h2>Where the calls go</h2>"
        f"<p>Calls of {html(calls.rule)} at budget {calls.budget:g} ({calls.overall:.1%} of the tokens). A rule that "
        "called at random would have every bar on the dashed line; what stands above it is where this rule spends its "
        f"budget. {html(defined)}</p>{missing}"
        + image(
            "call rate by place and by frequency of the token",
            draw_calls(calls.rule, calls.overall, calls.position, calls.frequency),
        )
    )


def _reliability(predicted: Predicted | None, why: Mapping[str, str]) -> str:
    """Return predicted gain against true regret."""
    title = "<h2>Is a call worth what was predicted?</h2>"
    if predicted is None:
        return f"{title}<p>{html(why.get('reliability', ''))}</p>"
    found, whole, capped, plain = predicted.found, predicted.whole, "", ""
    if math.isfinite(predicted.clip):
        capped = f", counted for at most {predicted.clip:g} nats, as training counted it"
        plain = f"; against regrets that are not cut there, {_found(whole.explained)} and {_found(whole.slope)}"
    return (
        f"{title}<p>At each of {found.states} states of what {html(predicted.rule)} wrote for "
        f"{found.sentences} rows at budget {predicted.budget:g}, all seeds, both models read the text again. The "
        "prediction is the gain of a call by the head that decides; the truth is the regret: by how many nats the "
        "teacher finds its own best token more "
        f"probable than the student's{capped}. States are put in order of the prediction and cut into tenths.</p>"
        f"<p>R<sup>2</sup>, the share of the regret's variance that the prediction explains, is "
        f"{_found(found.explained)}; the calibration slope, regret on prediction by least squares, is "
        f"{_found(found.slope)} (1: a predicted nat is a true nat){plain}. The rule compares the prediction with a "
        "calibrated threshold, so its order matters more than its scale.</p>"
        + image("true regret over predicted gain", draw_reliability(predicted), narrow=True)
    )


def _found(value: Comparison) -> str:
    """Return a number with its interval."""
    return f"{number(value.difference, 2)} [{number(value.low, 2)}, {number(value.high, 2)}]"


def _prices(diagnostics: Diagnostics) -> str:
    """Return the prices of the training."""
    title = "<h2>The price of a call in training</h2>"
    if not diagnostics.prices:
        return f"{title}<p>{html(diagnostics.why.get('prices', ''))}</p>"
    return (
        f"{title}<p>In training each teacher budget has a price in nats per teacher token, the multiplier of its "
        "constraint: it rises while the calls are more than the budget allows and falls while they are fewer. Lines "
        "that have become level say that the budgets were kept; a smaller budget has a higher price.</p>"
        + image("price of each budget by round of training", draw_prices(diagnostics.prices), narrow=True)
    )
