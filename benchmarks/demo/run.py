"""`wheels demo`: the whole path on the embedded pair, in stages that are each done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import wheels
from wheels.agents.config import TrainConfig
from wheels.benchmarks.core.commands import command, distil, embedded_pair, folder_digest
from wheels.benchmarks.core.recipe import Recipe, shipped_recipe, with_digests
from wheels.benchmarks.core.stages import Stage, run_stages
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.demo.config import OUTPUT, DemoConfig, ExamplesConfig, SentencesConfig
from wheels.config.parsing import as_command, write_resolved
from wheels.data.tasks import SPLITS, load_task
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.distillation.config import PretrainConfig
from wheels.files import write_jsonl, write_text
from wheels.output.notices import in_words
from wheels.output.visible import one_line

SECTIONS = ("sentences", "distil", "train", "calibrate", "curve", "examples")


def run(config: DemoConfig) -> None:
    """Run the demo, or train the embedded pair; see `DemoConfig`."""
    if config.retrain:
        from wheels.benchmarks.demo.retrain import run as retrain

        retrain(config)
        return
    start = time.perf_counter()
    output = Path(config.output or OUTPUT)
    recipe = Recipe.read(config.recipe or shipped_recipe("demo"), SECTIONS)
    stages = demo_stages(config, output, recipe)
    inputs = {"command": "demo", "wheels": wheels.__version__, "pair": folder_digest(embedded_pair())}
    seconds = run_stages(output, config, stages, inputs)
    if not (output / "resolved.json").is_file():
        write_resolved(config, output, {"recipe": recipe.sections, "seconds": seconds})
    print(ending(output, seconds, time.perf_counter() - start))


def demo_stages(config: DemoConfig, output: Path, recipe: Recipe) -> list[Stage]:
    """Return the stages of the demo, their settings checked.

    Raises:
        WheelsError: naming the recipe and the section, for a setting that is not allowed.
    """
    slice_ = recipe.configure("sentences", SentencesConfig)
    pair, model = embedded_pair(), output / "model"
    # The folder's name is the task's name in every figure.
    sentences = output / "sentences" / _folder_name(slice_.task)
    data, teacher = str(sentences), str(pair / "teacher")
    student, threads = output / "student", {"threads": config.threads}
    both = {"data": data, "teacher": teacher, **threads}
    distil_config = recipe.configure("distil", PretrainConfig, output=str(student), student=str(pair), **both)
    train_config = recipe.configure(
        "train", TrainConfig, output=str(model), student=str(student), calibrate=False, **both
    )
    measured = {"model": str(model), "data": data, **threads}
    calibrate_config = recipe.configure("calibrate", CalibrateConfig, **measured)
    curve_config = recipe.configure("curve", CurveConfig, output=str(output / "curve"), **measured)
    examples, page = recipe.configure("examples", ExamplesConfig), output / "examples.html"
    settings = {**recipe.sections, "distil": with_digests(recipe.sections["distil"], distil_config)}
    stages: list[Stage] = []

    def add(name: str, title: str, results: Sequence[Path], run: Callable[[], object], shown: bool = False) -> None:
        stages.append(Stage(name, title, tuple(results), settings[name], run, shown))

    title = f"writing down {slice_.train:,} sentences of {slice_.task}"
    add("sentences", title, [sentences], partial(write_sentences, slice_, sentences))
    title = "distilling the teacher into the student"
    add("distil", title, [student], partial(distil, distil_config))
    title = "teaching the student when to call"
    add("train", title, [model, model / "deferral"], partial(command, train_config))
    title, place = "finding the thresholds of the budgets", model / "deferral" / "calibration.json"
    add("calibrate", title, [place], partial(command, calibrate_config))
    title, place = "measuring quality against teacher use", output / "curve"
    add("curve", title, [place], partial(command, curve_config), True)
    add("examples", "writing examples", [page], partial(write_examples, examples, model, sentences, page), True)
    return stages


def _folder_name(task: str) -> str:
    """Return the name of a folder for a task, whatever its path or its name is."""
    last = Path(task).resolve().name if Path(task).exists() else task.rsplit("/", 1)[-1]
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in last).lstrip(".") or "task"


def write_sentences(config: SentencesConfig, folder: Path) -> None:
    """Write the beginning of each split: the stages after this one need not make the corpus again."""
    task = load_task(config.task, limit=max(config.train, config.validation, config.test))
    for split in SPLITS:
        write_jsonl(folder / f"{split}.jsonl", map(asdict, task.rows(split)[: getattr(config, split)]))


def write_examples(config: ExamplesConfig, model: Path, sentences: Path, page: Path) -> None:
    """Write a page of outputs with the teacher's tokens marked, and print one of them."""
    from wheels.decoding.methods.calibrated import calibrated
    from wheels.decoding.methods.method import deferral
    from wheels.decoding.render import as_html, spans
    from wheels.decoding.streaming import decode
    from wheels.models.artefact import Artefact

    rows = load_task(sentences).test[: config.rows]
    artefact = Artefact.load(model)
    sources = [row.source for row in rows]

    def write(budget: float) -> list[Any]:
        return decode(artefact.pair, sources, deferral(calibrated(artefact, config.rule, budget), budget))

    alone, together, teacher = write(0.0), write(config.teacher_budget), write(1.0)
    names = {"student": artefact.student_name, "teacher": artefact.teacher_name}
    write_text(page, as_html(together, sources, **names))
    # The first in which the calls changed something: the others look like the student's own.
    shown = next((row for row in range(len(rows)) if alone[row].text != together[row].text), 0)
    print(f"one of them, at teacher budget {config.teacher_budget:g}, the teacher's tokens in [brackets]:")
    texts = {
        "source": rows[shown].source,
        "student": alone[shown].text,
        "together": marked(spans(together[shown])),
        "teacher": teacher[shown].text,
        "reference": rows[shown].target,
    }
    for name, text in texts.items():
        print(f"  {name:<10} {one_line(text)}")


def marked(spans: Sequence[tuple[str, str]]) -> str:
    """Return (author, text) spans as one text, each run of the teacher's in brackets, spaces outside of them."""
    parts: list[tuple[str, str]] = []
    for author, text in spans:
        if parts and parts[-1][0] == author:
            text = parts.pop()[1] + text
        parts.append((author, text))
    return "".join(_bracketed(text) if author == "teacher" else text for author, text in parts)


def _bracketed(text: str) -> str:
    """Put the text itself in brackets, not the space around it."""
    core = text.strip()
    start = text.index(core)
    return f"{text[:start]}[{core}]{text[start + len(core) :]}" if core else text


def ending(output: Path, seconds: dict[str, float], now: float) -> str:
    """Return the last words: where the files are, what to look at, how long it took."""
    command = as_command("wheels generate", GenerateConfig("...", model=str(output / "model"), teacher_budget=0.2))
    places = {
        "curve/report.html": "the report: open it in a browser",
        "curve/curve.png": "quality against measured teacher use (curve.csv, curve.json: the numbers)",
        "examples.html": "who wrote which token",
        "model": f"the trained model: {command}",
    }
    width = max(len(str(output / name)) for name in places)
    lines = [f"  {output / name!s:<{width}}  {meaning}" for name, meaning in places.items()]
    stages = ", ".join(f"{name} {in_words(time)}" for name, time in seconds.items())
    return "\n".join(
        [
            "files:",
            *lines,
            "",
            f"this run took {in_words(now)}; the stages in all {in_words(sum(seconds.values()))}: {stages}",
        ]
    )
