"""Tables and summaries come out as they did: each is computed again and held against a file, byte for byte.

The inputs are drawn from seeds, or are the committed results. `python -m tests.benchmarks.test_golden` writes the files
anew: look at what changed before it is committed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import golden_inputs as inputs
from tests.benchmarks.curve.synthetic import statistics
from wheels.annotation import summary as annotate_summary
from wheels.benchmarks.annotation import summary as annotation_summary
from wheels.benchmarks.annotation import table as annotation_table
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve import summary as curve_summary
from wheels.benchmarks.curve import table as curve_table
from wheels.benchmarks.distillation import cache_summary, config
from wheels.benchmarks.distillation import summary as sweep_summary
from wheels.benchmarks.distillation import table as sweep_table
from wheels.benchmarks.passes import summary as passes_summary
from wheels.benchmarks.passes import table as passes_table
from wheels.benchmarks.rationales import summary as rationales_summary
from wheels.benchmarks.rationales.config import GridConfig
from wheels.benchmarks.speed import table as speed_table
from wheels.benchmarks.study import table as study_table
from wheels.decoding.commands.calibrate import as_table
from wheels.environment import as_text as environment_text
from wheels.policy.calibration import Point

GOLDEN = Path(__file__).parent / "golden"
OF_THE_MACHINE = ("versions", "metric_signatures")
"""What another installation changes."""


def plain(value: Any) -> Any:
    """Return a value of JSON whose numbers have 9 digits: the last ones differ between libraries of linear algebra."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items() if name not in OF_THE_MACHINE}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def as_json(value: Any) -> str:
    lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in plain(value).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def curves() -> dict[str, str]:
    curve = curve_summary.summarise(inputs.curve_outputs(), statistics)
    strict = curve_summary.summarise(inputs.strict_outputs(), statistics)
    found = {"curve.txt": curve_table.as_text(curve), "curve.csv": curve_table.as_csv(curve)}
    found |= {"curve.json": as_json(plain_values(curve)), "curve_strict.txt": curve_table.as_text(strict)}
    for folder in ("multi30k_policy_on_tatoeba_average", "multi30k_de_en_strict"):
        found[f"{folder}.txt"] = curve_table.as_text(inputs.committed_curve(folder))
    return found


def passes() -> dict[str, str]:
    settings, outputs, sample = inputs.passes_outputs()
    metrics = ["bleu", "chrf"]
    points = passes_summary.points_of(settings, outputs, sample, metrics, ("words", "small", "large"))
    lines = passes_summary.PassCurves(settings, sample)
    summary = {
        "notes": ["a note"],
        "points": points,
        "bands": lines.bands(metrics),
        "at_passes": passes_summary.at_equal_passes(lines, metrics),
        "versus": passes_summary.against_envelope(lines, metrics),
        "speculation": passes_summary.beyond_speculation(passes_summary.means(points), "bleu"),
    }
    text = passes_table.shown(summary | {"metrics": metrics})
    found = {"passes.txt": text, "passes.json": as_json(summary)}
    found["passes.csv"] = passes_table.as_csv(points, metrics)
    content = inputs.committed_passes("sentence_compression_passes")
    found["sentence_compression_passes.txt"] = passes_table.shown(content)
    return found


def speed() -> dict[str, str]:
    return {"speed.txt": speed_table.as_text(inputs.committed_speed("speed_multi30k_de_en"))}


def distillation() -> dict[str, str]:
    summary = sweep_summary.summarise(inputs.sweep_outputs())
    found = {"distillation.txt": sweep_table.as_text(summary), "distillation.csv": sweep_table.as_csv(summary)}
    found["distillation.json"] = as_json(summary)
    found["lambada.txt"] = sweep_table.as_text(inputs.committed("distillation_lambada", "distillation"))
    content = inputs.committed("distillation_cache_multi30k_de_en", "cache")
    settings = config.CacheConfig(**content["config"] | {"seeds": 3, "resamples": 100})
    wanted, trained = inputs.cache_texts()
    quality = cache_summary.quality(settings, wanted, ["bleu", "chrf"], trained)
    return found | {"cache.txt": cache_summary.as_text(content), "cache_quality.json": as_json(quality)}


def annotation() -> dict[str, str]:
    bench, results, start = inputs.grid_results()
    labels = [facts["labels"] for facts in results.values()]
    figures = annotation_summary.filter_figures(labels, 100) | annotation_summary.score_figures(labels, 100)
    line = {"assistant": "a", "teacher": "references:0.3", "seeds": len(labels)}
    line |= {name: asdict(figure) for name, figure in figures.items()}
    summary = annotation_summary.summarise(bench, results, start) | {"filters": [line]}
    return {"annotation.txt": annotation_table.as_text(summary), "annotation.csv": annotation_table.as_csv(summary),
            "annotation.json": as_json(summary)}  # fmt: skip


def rationales() -> dict[str, str]:
    common = {"task": "words", "n": 30, "metric": "exact", "student_parameters": 99, "teacher": {"parameters": 999}}
    lines = rationales_summary.students(GridConfig(seeds=2, resamples=100), inputs.right_answers(), common)
    found = {"rationales.csv": rationales_summary.as_csv(lines), "rationales.json": as_json({"students": lines})}
    for folder in ("rationales_svamp", "rationales_commonsenseqa"):
        found[f"{folder}.txt"] = rationales_summary.as_text(inputs.committed(folder, "rationales")) + "\n"
    return found


def study() -> dict[str, str]:
    lines = inputs.study_lines()
    return {"study.txt": study_table.as_text(lines) + "\n", "study.csv": study_table.as_csv(lines)}


def commands() -> dict[str, str]:
    """The tables of `wheels annotate`, `wheels calibrate` and `wheels env`."""
    stages = {name: {"selected": 9, "annotated": 8, "accepted": 100 + place, "rejected": 2}
              for place, name in enumerate(("warm-up", "main"))}  # fmt: skip
    grades = {"confident": 5, "not graded": 11}
    summary = {"pool": 60, "budget": 18, "spent": 17, "failed_requests": 1, "unusable": {"empty": 1},
               "thinking_taken_out": 0, "grades_refused": 2, "stages": stages, "grades_of_annotations": grades,
               "grades_of_student_answers": grades}  # fmt: skip
    points = [Point("maxprob", 0, 0.1, -0.8125, 0.0996), Point("learned", 2, 0.05, 123456.789, 0.0)]
    facts = {"wheels": "0.1.0", "processor": {"name": "CPU", "features": ["avx2", "fpu"]}, "threads": {"torch": 1}}
    return {"annotate.txt": annotate_summary.as_text(summary) + "\n", "calibrate.txt": as_table(points) + "\n",
            "env.txt": environment_text(facts) + "\n"}  # fmt: skip


TABLES: tuple[Callable[[], dict[str, str]], ...] = (
    curves, passes, speed, distillation, annotation, rationales, study, commands,
)  # fmt: skip


@cache
def computed(tables: Callable[[], dict[str, str]]) -> dict[str, str]:
    return tables()


@pytest.mark.parametrize("tables", TABLES, ids=lambda tables: tables.__name__)
def test_tables_and_summaries_are_what_they_were(tables: Callable[[], dict[str, str]]) -> None:
    for name, text in computed(tables).items():
        assert text == (GOLDEN / name).read_text(encoding="utf-8"), name


def test_every_golden_file_is_computed() -> None:
    assert {name for tables in TABLES for name in computed(tables)} == {path.name for path in GOLDEN.iterdir()}


def csv_of(path: Path) -> str:
    """Return the table of a committed result."""
    name, folder = path.stem, path.parent.name
    content = inputs.committed(folder, name)
    if name == "annotation":
        return annotation_table.as_csv(content)
    if name == "rationales":
        return rationales_summary.as_csv(content["students"])
    if name == "cache":
        return cache_summary.as_csv(content)
    if name == "distillation":
        return sweep_table.as_csv(content)
    assert name == "speed"
    return speed_table.as_csv(inputs.committed_speed(folder))


EXACT = [path for kind in ("annotation", "rationales", "cache", "distillation", "speed")
         for path in sorted(inputs.RESULTS.glob(f"*/{kind}.json"))
         if kind != "annotation" or "score_bought" in path.read_text()]  # fmt: skip
"""The results whose JSON has every digit of their CSV, and all of its columns."""


@pytest.mark.parametrize("path", EXACT, ids=lambda path: path.parent.name)
def test_committed_tables_follow_from_their_committed_figures(path: Path) -> None:
    assert csv_of(path) == path.with_suffix(".csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["annotation_svamp", "annotation_svamp_rehearsed"])
def test_the_committed_texts_of_annotation_follow_from_their_figures(folder: str) -> None:
    text = (inputs.RESULTS / folder / "annotation.txt").read_text(encoding="utf-8")
    assert annotation_table.as_text(inputs.committed(folder, "annotation")) == text


@pytest.mark.parametrize("folder", ["speed_multi30k_de_en", "speed_random_35m_fp32"])
def test_the_committed_figures_of_speed_are_read_and_written(folder: str) -> None:
    content = inputs.committed_speed(folder).to_json()
    assert json.dumps(content, sort_keys=True) == json.dumps(inputs.committed(folder, "speed"), sort_keys=True)


if __name__ == "__main__":
    for name, text in (item for tables in TABLES for item in tables().items()):
        (GOLDEN / name).write_text(text, encoding="utf-8")
