"""The card of a shared model: what it is, what it was measured to do, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wheels.files import read_object

CARD = """# {name}

A student that calls a teacher for a token where that is worth its price, trained with
[wheels](https://pypi.org/project/training-wheels). The student's weights lie here; its teacher is {teacher}.

```python
import wheels

model = wheels.Model.load("{to}")
for trace in model.generate(["..."], teacher_budget=0.2):
    print(trace.text, trace.teacher_use)
```

On the command line: `wheels generate --model {to} --teacher-budget 0.2 "..."`. With transformers and wheels:
`student.generate(**inputs, custom_generate="{to}", trust_remote_code=True, teacher_budget=0.2)`.

{measured}
Rules with thresholds: {rules}; for the budgets {budgets}{data}.
"""


def card(folder: Path, to: str, teacher: str | None, license: str | None, results: Path | None) -> str:
    """Return the card of a trained model's folder, with what the Hub reads of it as a head of YAML.

    Args:
        folder: of the model.
        to: its repository.
        teacher: that of its teacher; None: the teacher travels along.
        license: of the weights.
        results: folder of `wheels bench curve`.
    """
    found = folder / "deferral" / "calibration.json"
    calibration: Mapping[str, Any] = read_object(found) if found.is_file() else {}
    points = calibration.get("points", [])
    budgets = [f"{budget:g}" for budget in sorted({point["budget"] for point in points})] or ["none"]
    rules = [f"`{rule}`" for rule in dict.fromkeys(point["rule"] for point in points)] or ["none"]
    curve = None if results is None else read_object(results / "curve.json", "points", "student", "teacher")
    head: dict[str, Any] = {"library_name": "wheels", "tags": ["adaptive-inference", "deferral"]}
    if teacher is not None:
        head["base_model"] = teacher.partition("@")[0]
    if license is not None:
        head["license"] = license
    if curve is not None:
        head["model-index"] = [{"name": to.rpartition("/")[2], "results": index_of(curve)}]
    data = f", on {calibration['data']}" if calibration.get("data") else ""
    text = CARD.format(
        name=to.rpartition("/")[2],
        to=to,
        teacher="in `teacher/`" if teacher is None else f"`{teacher}`",
        measured="" if curve is None else measured(curve),
        rules=", ".join(rules),
        budgets=", ".join(budgets),
        data=data,
    )
    # JSON is YAML; one key a line.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---", "", text])


def rows_of(curve: Mapping[str, Any]) -> list[tuple[str, float, Mapping[str, float]]]:
    """Return what was measured with `learned`, or the first rule: its name, the teacher's use, and the metrics."""
    rule = "learned" if "learned" in curve["rules"] else curve["rules"][0]
    seed = min(point["seed"] for point in curve["points"] if point["rule"] == rule)
    between = [p for p in curve["points"] if (p["rule"], p["seed"]) == (rule, seed) and 0 < p["budget"] < 1]
    return [
        ("student alone", 0.0, curve["student"]["metrics"]),
        *((f"`{rule}`, budget {point['budget']:g}", point["use"], point["metrics"]) for point in between),
        ("teacher alone", 1.0, curve["teacher"]["metrics"]),
    ]


def measured(curve: Mapping[str, Any]) -> str:
    """Return the table of a curve."""
    metrics = curve["metrics"]
    lines = [
        f"Measured on {curve['sentences']:,} texts of {curve['task']}:",
        "",
        f"| | teacher use | {' | '.join(metrics)} |",
        f"|{'---|' * (len(metrics) + 2)}",
    ]
    for name, use, values in rows_of(curve):
        lines.append(f"| {name} | {use:.2f} | {' | '.join(f'{values[metric]:.1f}' for metric in metrics)} |")
    return "\n".join(lines) + "\n"


def index_of(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the `model-index` of a curve: every way of writing is a result of its own."""
    found = []
    for name, use, values in rows_of(curve):
        figures = [
            {"type": metric, "value": round(values[metric], 2), "name": f"{metric}, {name.replace('`', '')}"}
            for metric in curve["metrics"]
        ]
        figures.append({"type": "teacher_use", "value": round(use, 4), "name": "share of tokens by the teacher"})
        dataset = {"name": curve["task"], "type": curve["task"]}
        found.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": figures})
    return found
