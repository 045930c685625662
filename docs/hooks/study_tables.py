"""Tables of distillation, annotation and rationales."""

from __future__ import annotations

import csv
from collections.abc import Callable
from statistics import mean
from typing import Any

from table_text import RESULTS, interval, load, number, table

NAMES = {
    "random": "random",
    "random+filter": "random + filter",
    "consistency": "self-consistency (I)",
    "assistant": "(I) + assistant on the student",
    "full": "full",
}
SETS = {"m2": "captions", "few": "captions", "sv": "SVAMP", "cq": "CommonsenseQA"}
ASSISTANTS = {
    "teacher": "2.3M",
    "student": "0.25M, the student itself",
    "sv_big": "0.59M",
    "sv_small": "0.09M",
    "cq_big": "0.35M",
}
OBJECTIVES = {
    "teacher": "teacher",
    "ce": "where all begin",
    "ce-more": "references alone",
    "kl": "forward KL on references",
    "gkd": "GKD: Jensen-Shannon, half of the batches sampled",
    "pcl-law": "path consistency over both distributions, sampled as GKD",
    "pcl-off": "path consistency of the written token, on references",
    "pcl-on": "path consistency of the written token, sampled as GKD",
}
SHORT = OBJECTIVES | {"gkd": "GKD", "pcl-law": "path consistency over both", "kl": "forward KL"}
SHORT |= {"pcl-off": "written token, references", "pcl-on": "written token, sampled"}


def labels(folder: str) -> str:
    """Return students by labels, weight and temperature: score with interval, and minus hard labels."""
    found = load(folder, "distillation")
    metric = found["metrics"][0]
    sizes = list(dict.fromkeys(line["size"] for line in found["lines"]))
    kinds = list(dict.fromkeys((line["label"], line["w"], line["temperature"]) for line in found["lines"]))
    kinds.sort(key=lambda kind: (kind[2] or 0, kind[1]))
    by_kind = {(line["size"], line["label"], line["w"], line["temperature"]): line for line in found["lines"]}
    head, rows = [f"{metric}", "T"], []
    for size in sizes:
        count = next(line["parameters"] for line in found["lines"] if line["size"] == size)
        head += [f"{count:,} parameters", "minus hard"]
    for label, weight, temperature in kinds:
        cells = [f"both, w {weight:g}" if label == "both" else label, "" if temperature is None else f"{temperature:g}"]
        for size in sizes:
            cells += _student(by_kind.get((size, label, weight, temperature)), metric)
        rows.append(cells)
    return table(head, rows)


def _student(line: dict[str, Any] | None, metric: str) -> list[str]:
    if line is None:
        return ["", ""]
    star = " \\*" if line["chosen"] and line["label"] != "hard" else ""
    score = line["scores"][metric]
    text = f"{number(score['mean'])}{star} [{number(score['low'])}, {number(score['high'])}]"
    return [text, interval(line["minus_hard"][metric]) if metric in line["minus_hard"] else ""]


def floor(folder: str) -> str:
    """Return the first metric of the teacher, the best student and the trivial answers."""
    found = load(folder, "distillation")
    metric = found["metrics"][0]
    best = max(line["scores"][metric]["mean"] for line in found["lines"])
    rows = [["teacher", number(found["teacher"][metric]["mean"], 1)], ["best student", number(best, 1)]]
    rows += [[name, number(value, 1)] for name, value in found["baselines"].items()]
    return table([f"{found['sentences']:,} test passages", f"{metric}, %"], rows)


def cache_error(folder: str) -> str:
    """Return what a cache of K tokens sees of the loss, and the error of the gradient, by temperature."""
    found = load(folder, "cache")
    temperatures = found["config"]["temperatures"]
    rows = []
    for weight in found["weights"]:
        mine = {row["temperature"]: row for row in found["errors"] if row["k"] == weight["k"]}
        cells = [f"{mine[t]['share']:.3f}, {mine[t]['gradient']:.3f}" for t in temperatures]
        rows.append([f"{weight['k']:,}", f"{weight['bytes_per_token']:,.0f}", *cells])
    return table(["K", "bytes a token", *(f"T = {t:g}: loss, gradient" for t in temperatures)], rows)


def cache_steps(folder: str) -> str:
    """Return the milliseconds of a training step, and how much faster than with a live teacher."""
    found = load(folder, "cache")
    names = {
        "live": "live teacher",
        "cache": f"cache, K = {found['config']['k']}",
        "cache-all": "cache, the whole distribution",
        "hard": "hard labels, no teacher",
    }
    rows = []
    for key, name in names.items():
        wall = sorted(found["steps"][key]["wall_ms"])
        faster = found["speedup"].get(key, {})
        ratios = [_ratio(faster[clock]) if faster else "" for clock in ("wall_ms", "cpu_ms")]
        rows.append([name, f"{wall[len(wall) // 2]:.0f}", *ratios])
    return table(["a training step (16 rows)", "ms", "live / this: wall clock", "processor"], rows)


def _ratio(found: dict[str, float]) -> str:
    return f"{number(found['median'])} ({number(found['low'])} to {number(found['high'])})"


def cache_quality(folder: str) -> str:
    """Return the quality of students trained with a live teacher and from the cache."""
    rows = []
    for metric, found in load(folder, "cache")["quality"].items():
        scores = [interval(found[who], "mean", sign=False) for who in ("live", "cache")]
        rows.append([metric, *scores, interval(found["cache_minus_live"])])
    return table(["", "live", "cache", "cache - live"], rows)


def objectives(folder: str) -> str:
    """Return the test scores of students by objective: mean over seeds, least to most."""
    with (RESULTS / folder / "students.csv").open(encoding="utf-8", newline="") as file:
        students = list(csv.DictReader(file))
    groups: dict[str, list[dict[str, str]]] = {}
    for student in students:
        name, _, seed = student["name"].rpartition("-")
        groups.setdefault(name if seed.isdigit() else student["name"], []).append(student)
    rows = []
    for name, members in groups.items():
        cells = [OBJECTIVES[name]]
        for metric in ("test_bleu", "test_chrf"):
            values = [float(member[metric]) for member in members]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread}")
        rows.append(cells)
    return table(["student", "BLEU", "chrF"], rows)


def objective_differences(folder: str) -> str:
    """Return the paired differences between objectives, with 95% intervals."""
    with (RESULTS / folder / "differences.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in found))
    cells = {(row["a"], row["b"], row["metric"]): f"{row['difference']} [{row['low']}, {row['high']}]" for row in found}
    rows = [
        [f"{SHORT[a]} minus {SHORT[b]}", cells.get((a, b, "bleu"), ""), cells.get((a, b, "chrf"), "")] for a, b in pairs
    ]
    return table(["", "BLEU", "chrF"], rows)


def rationales(*folders: str) -> str:
    """Return the accuracy of students with and without rationales."""
    rows = []
    for folder in folders:
        found = load(folder, "rationales")
        for student in found["students"]:
            seeds = ", ".join(f"{value:.1f}" for value in student["by_seed"])
            cells = [
                found["task"],
                student["name"],
                str(student["k"] or ""),
                interval(student, "accuracy", 1, sign=False),
            ]
            cells += [seeds] + [
                interval(student[key], digits=1) if key in student else "" for key in ("minus_none", "minus_random")
            ]
            rows.append(cells)
    head = ["set", "students learn", "k", "right, %", "by seed", "minus no rationale", "minus random words"]
    return table(head, rows)


def overlap(folder: str) -> str:
    """Return how many of the chosen words belong to the answer."""
    found = load(folder, "rationales")["overlap"]
    rows = [
        [name, *(f"{100 * row[key]:.1f}%" for key in ("words", "words_expected", "rows", "rows_expected"))]
        for name, row in found["methods"].items()
    ]
    k = found["k"]
    return table([f"words chosen by, k = {k}", "of the words", "expected at random", "of the rows", "expected"], rows)


def filters(*folders: str) -> str:
    """Return what the assistant's filter does to a pool with wrong labels."""
    rows = []
    for folder in folders:
        found = load(folder, "annotation")
        for row in found["filters"]:
            keys = ("right_before", "right_after", "lift", "recall", "wrong_caught")
            cells = [interval(row[key], digits=3, sign=key == "lift") for key in keys]
            rows.append([SETS[found["task"]], ASSISTANTS[row["assistant"]], *cells])
    head = ["set", "assistant", "right before", "right after (precision)", "lift"]
    return table([*head, "right ones let through (recall)", "wrong ones stopped"], rows)


def annotation(*folders: str) -> str:
    """Return the student's scores by strategy and budget, and the difference from random rows at equal spend."""
    found = [load(folder, "annotation") for folder in folders]
    metrics = found[0]["metrics"]
    rows: list[list[str]] = []
    for study in found:
        paired = {(_key(row), row["metric"]): row for row in study["paired"] if row["minus"] == "random"}
        for point in study["points"]:
            good = number(mean(point["right_trained_on"]))
            if "score_trained_on" in point and not any(point["right_trained_on"]):
                good = number(mean(point["score_trained_on"]), 1)
            cells = [str(point["budget"]), _strategy(point), f"{mean(point['accepted']):.0f}, {good}"]
            for metric in metrics:
                row = paired.get((_key(point), metric))
                cells += [number(mean(point[metric])), interval(row) if row else ""]
            rows += [cells] if cells not in rows else []
    head = ["annotations", "strategy", "labels trained on, right (or their score)"]
    return table(head + [name for metric in metrics for name in (metric, "minus random")], rows)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("strategy", "budget", "warm_up", "teacher", "assistant"))


def _strategy(point: dict[str, Any]) -> str:
    name = NAMES[point["strategy"]]
    if point["strategy"] == "full":
        name += f", warm-up {100 * point['warm_up']:.0f}%"
    asked = point["strategy"] not in ("random", "consistency")
    return name + (f" ({ASSISTANTS[point['assistant']]})" if asked else "")


TABLES: dict[str, Callable[..., str]] = {
    "labels": labels,
    "floor": floor,
    "cache-error": cache_error,
    "cache-steps": cache_steps,
    "cache-quality": cache_quality,
    "objectives": objectives,
    "objective-differences": objective_differences,
    "rationales": rationales,
    "overlap": overlap,
    "filters": filters,
    "annotation": annotation,
}
