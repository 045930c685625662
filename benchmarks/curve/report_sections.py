"""The sections of a curve's page that look closer, each with its picture and the sentences that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wheels.benchmarks.core.style import render
from wheels.benchmarks.curve.adherence_plot import draw_adherence
from wheels.benchmarks.curve.calls_plot import draw_calls
from wheels.benchmarks.curve.diagnostics import Diagnostics
from wheels.benchmarks.curve.price_plot import draw_prices
from wheels.benchmarks.curve.reliability_plot import draw_reliability
from wheels.benchmarks.curve.report_tables import adherence, at_budget
from wheels.benchmarks.curve.summary import interior, plain_values
from wheels.output.page import image
from wheels.output.tables import number
from wheels.output.visible import html


def sections(curve: Mapping[str, Any], diagnostics: Diagnostics) -> list[str]:
    """Return the sections in the order of the page; those between the ends only where something was decoded there."""
    found = plain_values({**curve, "details": diagnostics.details})
    parts = [at_budget(curve), _adherence(curve, found)] if interior(curve) else []
    if diagnostics.calls is not None:
        parts.append(_calls(diagnostics.calls, found))
    if interior(curve):
        parts += [_reliability(diagnostics.reliability, diagnostics.why, found), _prices(diagnostics)]
    return parts


def _adherence(curve: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return asked against measured use."""
    worst = max(kept["worst_abs_error"] for kept in curve["adherence"].values())
    promise = {
        "average": "A threshold keeps a budget over many outputs, not in each: single outputs may use more or less",
        "online": "A threshold that moves keeps a budget over all outputs, not in each: single outputs may use more or "
        "less",
        "strict": "Every prefix of every output keeps its budget, so a single output cannot use more than was asked",
    }[curve["mode"]]
    return (
        "<h2>How budgets were kept</h2>"
        f"<p>Over all outputs together, the measured use is within {100 * worst:.1f} percentage points of the budget "
        f"asked for, whatever the rule, the seed and the budget. {promise}.</p>"
        + image("measured teacher use against the budget, and its spread over outputs", render(draw_adherence, found))
        + adherence(curve)
    )


def _calls(calls: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return where the calls go."""
    defined = (
        "Counted is every generated token, the end-of-sequence token too, over all seeds; it is a call where the "
        "teacher wrote it. The place is the tenth of its output in which the token begins. Frequencies are of "
        f"{calls['counted']}: its tokens, ranked by count, are cut into four quarters of about equally much running "
        "text, the most common tokens first; the last bar is of tokens that never stand there. The token is the one "
        "that was written, by whichever model. Lines on the bars are 95% intervals by a bootstrap over rows; n counts "
        "tokens."
    )
    return (
        "<h2>Where the calls go</h2>"
        f"<p>Calls of {html(calls['rule'])} at budget {calls['budget']:g} ({calls['overall']:.1%} of the tokens). "
        "A rule that called at random would have every bar on the dashed line; what stands above it is where this rule "
        f"spends its budget. {html(defined)}</p>"
        + image("call rate by place and by frequency of the token", render(draw_calls, found))
    )


def _reliability(predicted: Mapping[str, Any] | None, why: Mapping[str, str], found: Mapping[str, Any]) -> str:
    """Return predicted gain against true regret."""
    title = "<h2>Is a call worth what was predicted?</h2>"
    if predicted is None:
        return f"{title}<p>{html(why.get('reliability', ''))}</p>"
    clipped, whole, capped, plain = predicted["found"], predicted["whole"], "", ""
    if math.isfinite(predicted["clip"]):
        capped = f", counted for at most {predicted['clip']:g} nats, as training counted it"
        plain = f"; against regrets that are not cut there, {_found(whole['explained'])} and {_found(whole['slope'])}"
    return (
        f"{title}<p>At each of {clipped['states']} states of what {html(predicted['rule'])} wrote for "
        f"{clipped['sentences']} rows at budget {predicted['budget']:g}, all seeds, both models read the text again. "
        "The prediction is the gain of a call by the head that decides; the truth is the regret: by how many nats the "
        "teacher finds its own best token more "
        f"probable than the student's{capped}. States are put in order of the prediction and cut into tenths.</p>"
        f"<p>R<sup>2</sup>, the share of the regret's variance that the prediction explains, is "
        f"{_found(clipped['explained'])}; the calibration slope, regret on prediction by least squares, is "
        f"{_found(clipped['slope'])} (1: a predicted nat is a true nat){plain}. The rule compares the prediction with "
        "a calibrated threshold, so its order matters more than its scale.</p>"
        + image("true regret over predicted gain", render(draw_reliability, found))
    )


def _found(value: Mapping[str, float]) -> str:
    """Return a number with its interval."""
    return f"{number(value['difference'], 2)} [{number(value['low'], 2)}, {number(value['high'], 2)}]"


def _prices(diagnostics: Diagnostics) -> str:
    """Return the prices of the training."""
    title = "<h2>The price of a call in training</h2>"
    if not diagnostics.prices:
        return f"{title}<p>{html(diagnostics.why.get('prices', ''))}</p>"
    return (
        f"{title}<p>In training each teacher budget has a price in nats per teacher token, the multiplier of its "
        "constraint: it rises where the calls are more than the budget allows and falls where they are fewer. After "
        "the last round the prices are moved until the gate, without its noise, keeps each budget on training texts. "
        "A smaller budget has a higher price.</p>"
        + image("price of each budget by round of training", render(draw_prices, diagnostics.prices))
    )
