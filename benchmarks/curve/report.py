"""A curve as one HTML page that stands alone: what was measured, what was found, and what is not claimed."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wheels.benchmarks.core.bootstrap import APART
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.curve.measured import Measured
from wheels.benchmarks.curve.plot import metric_name
from wheels.benchmarks.curve.summary import Curve
from wheels.benchmarks.curve.table import WHERE_MEASURED, area_or_use, if_measured, in_words, row_at, shown_uses
from wheels.decoding.methods.rules import RULES
from wheels.decoding.trace import STUDENT
from wheels.tables import number
from wheels.visible import html

EXAMPLES = 10
CSS = """
:root{color-scheme:light}
body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff;max-width:66rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .5rem}
p,ul{max-width:48rem}.lead{font-size:1.08rem}.pale{color:#666}img{width:100%;height:auto;margin:.6rem 0}
img.narrow{max-width:40rem;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}
th,td{padding:.28rem .8rem;text-align:right;border-bottom:1px solid #e6e6e6;white-space:nowrap}
th{font-weight:600;border-bottom:2px solid #bbb}th:first-child,td:first-child{text-align:left;padding-left:0}
tr.ours td{font-weight:600}tr.end td{color:#666}
.example{border-left:3px solid #ddd;padding:.1rem 0 .1rem 1rem;margin:1.1rem 0;max-width:52rem}
.example dl{display:grid;grid-template-columns:7.5rem 1fr;gap:.1rem .6rem;margin:0}.example dt{color:#777}
.example dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
mark{background:#ffe1cf;color:#7a2e00;border-radius:3px;box-shadow:inset 0 -2px #d55e00}
code{font-size:.86em;overflow-wrap:anywhere}
"""


@dataclass(frozen=True)
class Example:
    """One row with what the models made of it."""

    source: str
    reference: str
    student: str
    """The student's own output."""
    teacher: str
    """The teacher's own output."""
    record: Record
    """The output that both wrote."""


def pick_examples(measured: Measured, count: int = EXAMPLES) -> tuple[PointKey | None, list[Example]]:
    """Return a decode near use 0.2, and `count` of its rows spread evenly over the data; nothing is hand-picked."""
    if measured.shown is None:
        return None, []
    key = PointKey(measured.rules[0], 0, measured.shown)
    records = measured.outputs[key]
    rows = sorted({round(i * (len(records) - 1) / max(1, count - 1)) for i in range(count)})
    students, teachers = measured.outputs[STUDENT_END], measured.outputs[TEACHER_END]
    return key, [
        Example(measured.sources[i], measured.references[i], students[i].text, teachers[i].text, records[i])
        for i in rows
    ]


def render(curve: Curve, picture: bytes, measured: Measured, sections: Sequence[str] = (), command: str = "") -> str:
    """Return the page.

    Args:
        curve: what was found.
        picture: of it, PNG.
        measured: the outputs, for the examples.
        sections: what else is to be shown (`wheels.benchmarks.curve.report_sections`), as HTML.
        command: what made the curve.
    """
    title = f"{curve.task}: quality against teacher use"
    alt = f"{metric_name(curve.quality)} of each rule over its measured teacher use"
    body = [
        f"<h1>{html(title)}</h1>",
        _introduction(curve),
        image(alt, picture),
        *([_use_tables(curve), _areas(curve), _tests(curve)] if curve.interior else []),
        *sections,
        _points(curve),
        _examples(*pick_examples(measured)),
        _limits(curve),
        _provenance(curve, command),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html(title)}</title><style>{CSS}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def image(alt: str, png: bytes, *, narrow: bool = False) -> str:
    """Return a picture that is part of the page."""
    look = ' class="narrow"' if narrow else ""
    return f'<img{look} alt="{html(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table; each row comes with its class, "" for none."""
    cells = "".join(f"<th>{html(name)}</th>" for name in head)
    lines = "".join(
        f'<tr class="{look}">' + "".join(f"<td>{html(cell)}</td>" for cell in row) + "</tr>" for look, row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def row_look(rule: str) -> str:
    """Return the class of a rule's row."""
    return "ours" if rule == "learned" else ""


def _introduction(curve: Curve) -> str:
    """Say what was measured, for a reader who has never heard of it."""
    ends = "; ".join(
        f"{metric_name(metric)} {curve.student['metrics'][metric]:.1f} for the student alone, "
        f"{curve.teacher['metrics'][metric]:.1f} for the teacher alone"
        for metric in curve.metrics
    )
    rules = "".join(
        f"<li><b>{html(rule)}</b> {html(RULES[rule].label or 'a rule of your own')}.</li>" for rule in curve.rules
    )
    kept = {
        "average": "A budget is kept on average over the data: each rule's threshold was set on other data.",
        "online": "A budget is kept on average over the data: each rule's threshold was set on other data, and then "
        "moved with what was written.",
        "strict": "A budget is kept by every output at every prefix.",
    }[curve.mode]
    notes = "".join(f"<p><b>Note:</b> {html(note)}.</p>" for note in curve.notes)
    return (
        '<p class="lead">A small model, the student, writes; at some tokens a rule has a large model, the teacher, '
        "write instead. <b>Teacher use</b> is the share of tokens that the teacher wrote. The curve shows what quality "
        "each rule buys for it.</p>"
        f"<p>{curve.sentences} rows of <b>{html(curve.task)}</b>; student {html(curve.student['name'])}, teacher "
        f"{html(curve.teacher['name'])}. {html(ends)}. The <b>share of the gap</b> (PGR) is 0% at the student's "
        f"quality and 100% at the teacher's. {kept}</p><ul>{rules}</ul>{notes}"
    )


def _use_tables(curve: Curve) -> str:
    """Return each metric at equal use, with intervals."""
    parts = ["<h2>Quality at equal teacher use</h2>"]
    uses = shown_uses(curve)
    for metric in curve.metrics:
        rows = []
        for rule in curve.rules:
            cells = [row_at(curve, rule, metric, use) for use in uses]
            shown = [
                [
                    if_measured(c["value"], f"{number(c['value'])} [{number(c['low'])}, {number(c['high'])}]"),
                    number(100 * c["pgr"], 0),
                ]
                for c in cells
            ]
            rows.append((row_look(rule), [rule, str(len(curve.seeds[rule])), *itertools.chain(*shown)]))
        head = ["rule", "seeds", *itertools.chain(*((f"{metric_name(metric)} at {use:g}", "% of gap") for use in uses))]
        parts.append(table(head, rows))
    parts.append(
        '<p class="pale">Interpolated to exactly this use, mean over seeds; in brackets 95% intervals by a bootstrap '
        f"over rows and seeds. {WHERE_MEASURED[0].upper()}{WHERE_MEASURED[1:]}.</p>"
    )
    return "".join(parts)


def _areas(curve: Curve) -> str:
    """Return areas, thresholds, and how the budgets were kept."""
    head = ["rule", "area 0 to 1", "area 0 to 0.3", "use for 50%", "use for 80%", "use for 95%", "error of use"]
    head += [f"p95 at {budget:g}" for budget in curve.interior] + (["violations"] if curve.mode == "strict" else [])
    rows = []
    for rule in curve.rules:
        kept = curve.adherence[rule]
        cells = [rule, *(area_or_use(curve, area, 3) for area in curve.apgr[rule].values())]
        cells += [area_or_use(curve, use, 2) for use in curve.cpt[rule].values()]
        cells += [number(kept["mean_abs_error"], 3), *(number(share, 2) for share in kept["use_p95"].values())]
        rows.append((row_look(rule), cells + ([str(kept["violations"])] if curve.mode == "strict" else [])))
    words = (
        "The area under the share of the gap over teacher use (APGR; a straight line has 0.5 and 0.045); the least use "
        "that recovers 50, 80 and 95% of the gap (CPT); the mean distance of measured use from the budget; and, budget "
        "by budget, the use that 95% of the outputs stay within."
    )
    return f"<h2>Areas, thresholds, and how budgets were kept</h2>{table(head, rows)}<p class='pale'>{words}</p>"


def _tests(curve: Curve) -> str:
    """Return the paired comparisons in words."""
    if not curve.paired:
        return ""
    lines = "".join(f"<li>{html(in_words(test))}</li>" for test in curve.paired if test["budget"] in shown_uses(curve))
    return (
        f"<h2>Comparisons</h2><ul>{lines}</ul><p class='pale'>Paired bootstrap over rows and seeds at exactly equal "
        "use. The best trivial rule is chosen on these very rows, which favours it. p is two-sided; by Holm it is "
        "corrected for the number of comparisons of that rule in that metric listed here. Every budget stands in "
        "curve.json, and its comparisons beyond these are exploratory. What the resamples of seeds draw are trained "
        "heads: heads of one training share its states, its pairs and the rows of the thresholds.</p>"
    )


def _points(curve: Curve) -> str:
    """Return every decode at the budgets asked for."""
    head = ["rule", "seed", "budget", "use", "p95", *map(metric_name, curve.metrics), "% of gap", "passes/token"]
    head += ["positions/token", "seconds"]
    rows = [
        (
            "end" if point.budget in (0.0, 1.0) else row_look(point.rule),
            [point.rule, str(point.seed), f"{point.budget:g}", number(point.use, 3), number(point.use_p95, 2)]
            + [number(point.metrics[metric], 2) for metric in curve.metrics]
            + [number(100 * point.pgr, 0), number(point.passes_per_token, 3), number(point.positions_per_token, 2)]
            + [number(point.seconds)],
        )
        for point in curve.points
    ]
    words = "Budgets 0 and 1 are the student's and the teacher's own outputs, decoded once for all rules."
    return (
        f"<h2>Every point</h2><details><summary>{len(rows)} points</summary>{table(head, rows)}</details>"
        f"<p class='pale'>{words}</p>"
    )


def _coloured(record: Record) -> str:
    """Return an output with the teacher's tokens marked."""
    parts = []
    for author, group in itertools.groupby(zip(record.authors, record.pieces, strict=True), key=lambda pair: pair[0]):
        # A special token, such as the end of the sequence, adds no text.
        text = html("".join(piece for _, piece in group))
        parts.append(text if author == STUDENT or not text else f"<mark>{text}</mark>")
    return "".join(parts)


def _examples(key: PointKey | None, examples: Sequence[Example]) -> str:
    """Return real outputs, the teacher's tokens in colour."""
    if key is None:
        return ""
    parts = [
        "<h2>Outputs</h2>"
        f"<p>Rule {html(key.rule)}, budget {key.budget:g}, rows spread evenly over the data. "
        "<mark>The teacher's tokens</mark> stand out.</p>"
    ]
    for example in examples:
        record = example.record
        lines = {
            "source": html(example.source),
            "together": _coloured(record),
            "student alone": html(example.student),
            "teacher alone": html(example.teacher),
            "reference": html(example.reference),
            "teacher use": f"{record.use:.2f} ({record.teacher_tokens} of {record.tokens} tokens)",
        }
        items = "".join(f'<dt>{name}</dt><dd dir="auto">{text}</dd>' for name, text in lines.items())
        parts.append(f'<div class="example"><dl>{items}</dl></div>')
    return "".join(parts)


def _limits(curve: Curve) -> str:
    """Say what is not claimed."""
    claims = [
        "One task, one pair of models: nothing is said of others.",
        "Teacher use counts tokens, not time. What a call costs depends on the hardware and on how far the teacher "
        "must catch up; passes and positions per token are listed for that.",
        "Metrics compare with one reference each; nobody has judged the outputs.",
        f"Between points at most {APART:g} apart in measured use the curve is assumed to be straight.",
    ]
    if "oracle" in curve.rules:
        claims.append(
            "The oracle knows the teacher's next token beforehand, and none after it: no method, and no ceiling."
        )
    return "<h2>What is not claimed</h2><ul>" + "".join(f"<li>{html(claim)}</li>" for claim in claims) + "</ul>"


def _provenance(curve: Curve, command: str) -> str:
    """Return the command, the signatures and the versions that reproduce the numbers."""
    lines = [f"{metric_name(metric)}: {signature}" for metric, signature in curve.metric_signatures.items()]
    lines += [f"{name} {version}" for name, version in curve.versions.items()]
    items = "".join(f"<li><code>{html(line)}</code></li>" for line in (curve.signature, *lines))
    made = f"<p>Made by <code>{html(command)}</code></p>" if command else ""
    words = "All settings of the run, defaults included, stand in resolved.json beside this page."
    return f"<h2>Signature</h2>{made}<ul>{items}</ul><p class='pale'>{words}</p>"
