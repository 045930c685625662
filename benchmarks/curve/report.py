"""A curve as one HTML page that stands alone: what was measured, what was found, and what is not claimed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wheels.benchmarks.core.bootstrap import APART
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.core.style import render
from wheels.benchmarks.curve.detail_plots import draw_adherence, draw_calls, draw_prices, draw_reliability
from wheels.benchmarks.curve.diagnostics import Diagnostics
from wheels.benchmarks.curve.report_tables import adherence, areas, at_budget, comparisons, equal_use
from wheels.benchmarks.curve.resampled import Measured
from wheels.benchmarks.curve.summary import interior
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.trace import STUDENT
from wheels.metrics import metric_name
from wheels.metrics.names import several
from wheels.output.page import Picture, bullets, facts, image, page
from wheels.output.tables import Table, number
from wheels.output.visible import html

EXAMPLES = 10


def pick_examples(measured: Measured, count: int = EXAMPLES) -> tuple[PointKey | None, list[int]]:
    """Return a decode near use 0.2, and `count` of its rows spread evenly over the data; nothing is hand-picked."""
    if measured.shown is None:
        return None, []
    last = len(measured.sources) - 1
    rows = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    return PointKey(measured.rules[0], 0, measured.shown), rows


def report(
    curve: Mapping[str, Any], picture: Picture, measured: Measured, sections: Sequence[str] = (), command: str = ""
) -> str:
    """Return the page."""
    alt = f"{metric_name(curve['metrics'][0])} of each rule over its measured teacher use"
    found = [equal_use(curve), areas(curve), comparisons(curve)] if interior(curve) else []
    body = [_introduction(curve), image(alt, picture), _rules(curve), *found, *sections, _points(curve)]
    body += [_examples(measured), _limits(curve), _provenance(curve, command)]
    return page(f"{curve['task']}: quality against teacher use", body)


def _introduction(curve: Mapping[str, Any]) -> str:
    """Say what was measured, for a reader who has never heard of it."""
    values = {"rows": f"{curve['sentences']} of {curve['task']}"}
    for name, end in (("student", curve["student"]), ("teacher", curve["teacher"])):
        scores = ", ".join(f"{metric_name(metric)} {end['metrics'][metric]:.1f}" for metric in curve["metrics"])
        values[name] = f"{end['name']}: {scores} alone"
    values["budget"] = {
        "average": "kept on average over the data, by thresholds that were set on other data",
        "online": "kept on average over the data: thresholds were set on other data and then moved with what was "
        "written",
        "strict": "kept by every output at every prefix",
    }[curve["mode"]]
    return (
        '<p class="lead">A small model, the student, writes. At some tokens a rule lets a large model, the teacher, '
        "write instead. <em>Teacher use</em> is the share of tokens that the teacher wrote. The curve shows what "
        "quality each rule buys with it.</p>"
        + facts({name: html(value) for name, value in values.items()})
        + "".join(f"<p><em>Note:</em> {html(note)}.</p>" for note in curve["notes"])
    )


def _rules(curve: Mapping[str, Any]) -> str:
    """Say where each rule calls."""
    words = {rule: html(f"{RULES[rule].label or 'a rule of your own'}{_kind(RULES[rule])}") for rule in curve["rules"]}
    return (
        f"<h2>Where each rule calls</h2>{facts(words)}<p>The <em>share of the gap</em> (PGR) is 0% at the student's "
        "quality and 100% at the teacher's.</p>"
    )


def _kind(rule: Rule) -> str:
    """Say what a rule needs beside the student."""
    if rule.head is not None:
        return ", by a small trained network on the student's state"
    return ": a reference, not a way to save" if rule.needs_teacher else ""


def _points(curve: Mapping[str, Any]) -> str:
    """Return every decode at the budgets asked for."""
    head = ["rule", "seed", "budget", "use", "p95", *map(metric_name, curve["metrics"]), "% of gap", "passes/token"]
    head += ["positions/token", "seconds"]
    rows = [
        [
            point["rule"],
            str(point["seed"]),
            f"{point['budget']:g}",
            number(point["use"], 3),
            number(point["use_p95"], 2),
        ]
        + [number(point["metrics"][metric], 2) for metric in curve["metrics"]]
        + [number(100 * point["pgr"], 0), number(point["passes_per_token"], 3)]
        + [number(point["positions_per_token"], 2), number(point["seconds"])]
        for point in curve["points"]
    ]
    words = "Budgets 0 and 1 are the student's and the teacher's own outputs, decoded once for all rules."
    return (
        f"<h2>Every point</h2><details><summary>{len(rows)} points</summary>{Table(head, rows).html()}</details>"
        f'<p class="pale">{words}</p>'
    )


def _coloured(record: Record) -> str:
    """Return an output with the teacher's tokens marked."""
    parts = []
    for author, group in itertools.groupby(zip(record.authors, record.pieces, strict=True), key=lambda pair: pair[0]):
        # A special token, such as the end of the sequence, adds no text.
        text = html("".join(piece for _, piece in group))
        parts.append(text if author == STUDENT or not text else f"<mark>{text}</mark>")
    return "".join(parts)


def _examples(measured: Measured) -> str:
    """Return real outputs, the teacher's tokens in colour."""
    key, rows = pick_examples(measured)
    if key is None:
        return ""
    parts = [
        "<h2>Outputs</h2>"
        f"<p>Rule {html(key.rule)}, budget {key.budget:g}, rows spread evenly over the data. "
        "<mark>The teacher's tokens</mark> stand out.</p>"
    ]
    for row in rows:
        record, alone = measured.outputs[key][row], (measured.outputs[end][row] for end in (STUDENT_END, TEACHER_END))
        student, teacher = (html(one.text) for one in alone)
        lines = {
            "source": html(measured.sources[row]),
            "together": _coloured(record),
            "student alone": student,
            "teacher alone": teacher,
            "reference": html(several(measured.references[row])[0]),
            "teacher use": f"{record.use:.2f} ({record.teacher_tokens} of {record.tokens} tokens)",
        }
        parts.append(f"<section>{facts(lines)}</section>")
    return "".join(parts)


def _limits(curve: Mapping[str, Any]) -> str:
    """Say what is not claimed."""
    claims = [
        "One task, one pair of models: nothing is said of others.",
        "Teacher use counts tokens, not time. What a call costs depends on the hardware and on how far the teacher "
        "must catch up; passes and positions per token are listed for that.",
        "Metrics compare with one reference each; nobody has judged the outputs.",
        f"Between points at most {APART:g} apart in measured use the curve is assumed to be straight.",
    ]
    if "foresight" in curve["rules"]:
        claims.append(
            "Foresight knows the teacher's next token beforehand, and none after it: no method, and no ceiling."
        )
    return f"<h2>What is not claimed</h2>{bullets([html(claim) for claim in claims])}"


def _provenance(curve: Mapping[str, Any], command: str) -> str:
    """Return the command, the signatures and the versions that reproduce the numbers."""
    lines = [f"{metric_name(metric)}: {signature}" for metric, signature in curve["metric_signatures"].items()]
    lines += [f"{name} {version}" for name, version in curve["versions"].items()]
    items = bullets([f"<code>{html(line)}</code>" for line in (curve["signature"], *lines)])
    made = f"<p>Made by <code>{html(command)}</code></p>" if command else ""
    words = "All settings of the run, defaults included, stand in resolved.json beside this page."
    return f'<h2>Signature</h2>{made}{items}<p class="pale">{words}</p>'


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
